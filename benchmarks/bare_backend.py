"""The floor: bare Twisted that asks the backend under test, and writes what it says without a look at it.

No grammar, no arguments, no lanes, no proof of the reply, no bounds. Like ours it writes in one piece
the replies to what was read at once.
"""

from __future__ import annotations

from typing import Any

from benchmarks.bare_twisted import Constant, serve
from benchmarks.instrument import Instrument

__all__ = ["Unchecked"]

_BACKEND = Instrument()
_METHODS = {b"?status": _BACKEND.status}


class Unchecked(Constant):
    """Answers `status`, the only line that it knows."""

    def __init__(self) -> None:
        self._replies: list[str] = []

    def dataReceived(self, data: bytes) -> None:
        """Answer all lines of a chunk in one write."""
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
