"""The reference server: Twisted's LineOnlyReceiver, which answers every line with a constant. It prints its address."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as reactor_module
from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineOnlyReceiver

__all__ = ["Constant", "serve"]

# As long as a reply to status, so that only the processing of a line differs from our server.
_REPLY = b"!status,ok,1795466385.7947171,ok,0"
_GREETING = b"!version,ok,1.4"


class Constant(LineOnlyReceiver):
    """Greets, and answers every line with a constant."""

    def connectionMade(self) -> None:
        """Greet."""
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        self.sendLine(_GREETING)  # type: ignore[no-untyped-call]

    def lineReceived(self, line: bytes) -> None:
        """Answer."""
        self.sendLine(_REPLY)  # type: ignore[no-untyped-call]


def serve(protocol: type[LineOnlyReceiver]) -> None:
    """Serve on loopback until a signal."""
    reactor: Any = reactor_module
    factory = ServerFactory.forProtocol(protocol)
    port = reactor.listenTCP(0, factory, backlog=4096, interface="127.0.0.1")
    print(f"127.0.0.1:{port.getHost().port}", flush=True)
    reactor.run()


if __name__ == "__main__":
    serve(Constant)
