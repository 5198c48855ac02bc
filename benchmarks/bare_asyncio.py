"""A second reference server: bare asyncio, which answers every line with a constant. It prints its address."""

from __future__ import annotations

import asyncio
from typing import cast

__all__ = ["Constant"]

_REPLY = b"!status,ok,1795466385.7947171,ok,0\r\n"
_GREETING = b"!version,ok,1.4\r\n"


class Constant(asyncio.Protocol):
    """Greets, and answers every line with a constant. asyncio sets TCP_NODELAY by default."""

    def __init__(self) -> None:
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        """Answer the lines of a chunk in one write, as Twisted's transport does."""
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        assert self._transport is not None
        self._transport.write(b"".join([self.line_received(line) for line in lines]))

    def line_received(self, line: bytes) -> bytes:  # a constant
        """Answer."""
        return _REPLY


async def main() -> None:
    """Serve on loopback until a signal."""
    server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", 0, backlog=4096)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
