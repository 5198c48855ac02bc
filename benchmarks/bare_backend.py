"""A further reference server: bare Twisted, which calls the backend under test and writes its values unchecked.

It has no grammar, no arguments, no lanes, no check of replies and no limits. Its figures are the limit for our server.
Like the server under test it sends the replies to all lines of a received chunk in one write.
"""

from __future__ import annotations

from typing import Any

from benchmarks.bare_twisted import Constant, serve
from benchmarks.instrument import Instrument

__all__ = ["Unchecked"]

_BACKEND = Instrument()
_METHODS = {b"?status": _BACKEND.status}


class Unchecked(Constant):
    """Answers `status`, the only command that it supports."""

    def __init__(self) -> None:
        self._replies: list[str] = []

    def dataReceived(self, data: bytes) -> None:
        """Answer the lines of a chunk in one write."""
        super().dataReceived(data)  # type: ignore[no-untyped-call]
        transport: Any = self.transport
        transport.write("".join(self._replies).encode("latin-1"))
        self._replies.clear()

    def lineReceived(self, line: bytes) -> None:
        """Answer."""
        timestamp, status, acquiring = _METHODS[line]()
        self._replies.append(f"!status,ok,{timestamp.unix_text()},{status},{acquiring:d}\r\n")


if __name__ == "__main__":
    serve(Unchecked)
