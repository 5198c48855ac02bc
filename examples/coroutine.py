"""A backend in coroutines: the instrument is connected by TCP and has a protocol of its own.

    python examples/coroutine.py [port]
    cd examples && discos-backend-server --backend coroutine:CoroutineBackend

While a command waits for the instrument, the server answers other requests. Without an instrument, the simulated one at
the end of this file is started and used.
"""

# get_tpi takes no arguments here: a backend need not support the selection of a band.

from __future__ import annotations

import sys
from collections import deque
from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionClosed, ConnectionLost
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from discosbackend import Backend, BackendError, DBProtocolHandler, Ticks, run_server


class Instrument(LineReceiver):
    """The client side of the connection. The instrument answers each line with one line, in order."""

    def __init__(self) -> None:
        self.waiting: deque[Deferred[str]] = deque()
        self.connected_now = False

    def connectionMade(self) -> None:
        self.connected_now = True

    def ask(self, text: str) -> Deferred[str]:
        if not self.connected_now:
            return fail(ConnectionLost())
        # The server may cancel this Deferred at the time limit. It stays in the queue, so its late answer is dropped.
        answer: Deferred[str] = Deferred()
        self.waiting.append(answer)
        self.sendLine(text.encode("ascii"))
        return answer

    def lineReceived(self, line: bytes) -> None:
        self.waiting.popleft().callback(line.decode("ascii"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected_now = False
        while self.waiting:
            self.waiting.popleft().errback(reason)


class CoroutineBackend(Backend):
    """Sends commands to the instrument as lines, and returns its answers."""

    def __init__(self, endpoint: Any = None) -> None:
        self.endpoint = endpoint
        self.instrument = Instrument()
        self.acquiring = False

    async def server_started(self) -> None:
        endpoint = fake_instrument() if self.endpoint is None else self.endpoint
        self.instrument = cast(Instrument, await endpoint.connect(Factory.forProtocol(Instrument)))

    async def ask(self, text: str) -> str:
        try:
            answer = await self.instrument.ask(text)
        except ConnectionClosed:
            raise BackendError("instrument not connected") from None
        if answer.startswith("error "):
            raise BackendError(answer.removeprefix("error "))
        return answer

    def status(self) -> tuple[Ticks, str, bool]:
        text = "ok" if self.instrument.connected_now else "instrument not connected"
        return Ticks.now(), text, self.acquiring

    def time(self) -> Ticks:
        return Ticks.now()

    async def get_configuration(self) -> str:
        return await self.ask("mode?")

    async def set_configuration(self, configuration: str) -> None:
        await self.ask(f"mode {configuration}")

    async def get_tpi(self) -> list[float]:
        return [float(text) for text in (await self.ask("power?")).split()]

    async def start(self, timestamp: Ticks | None = None) -> None:
        # This instrument does the timed start itself. It gets the time, and answers with an error if it cannot.
        await self.ask("run" if timestamp is None else f"run {timestamp}")
        self.acquiring = True

    async def stop(self, timestamp: Ticks | None = None) -> None:
        if timestamp is not None:
            raise BackendError("cannot stop at given time")
        if not self.acquiring:
            raise BackendError("not acquiring")
        await self.ask("halt")
        self.acquiring = False


class FakeInstrument(LineReceiver):
    """A simulated instrument, for this example."""

    mode = "unconfigured"

    def lineReceived(self, line: bytes) -> None:
        word, _, rest = line.decode("ascii").partition(" ")
        answer = "done"
        if word == "mode?":
            answer = self.mode
        elif word == "power?":
            answer = "812.5 799.25"
        elif word == "mode" and rest in ("NARROW", "BROAD"):
            self.mode = rest
        elif word == "mode":
            answer = "error invalid configuration"
        elif word == "run" and rest:
            answer = "error cannot start at given time"
        self.sendLine(answer.encode("ascii"))


def fake_instrument() -> TCP4ClientEndpoint:
    """Start a simulated instrument in this process; return an endpoint that connects to it."""
    from twisted.internet import reactor as installed

    reactor = cast(Any, installed)
    listening = reactor.listenTCP(0, Factory.forProtocol(FakeInstrument), interface="127.0.0.1")
    return TCP4ClientEndpoint(reactor, "127.0.0.1", listening.getHost().port)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8978
    run_server(port, DBProtocolHandler(CoroutineBackend()), "127.0.0.1")
