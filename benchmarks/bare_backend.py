"""The floor: bare Twisted that asks the backend under test, and writes what it says without a look at it.

No grammar, no arguments, no lanes, no proof that the reply is one: what a server costs that may not go wrong.
"""

from __future__ import annotations

from benchmarks.bare_twisted import Constant, serve
from benchmarks.instrument import Instrument

__all__ = ["Unchecked"]

_BACKEND = Instrument()
_METHODS = {b"?status": _BACKEND.status}


class Unchecked(Constant):
    """Answers `status`, the only line that it knows."""

    def lineReceived(self, line: bytes) -> None:
        """Answer."""
        timestamp, status, acquiring = _METHODS[line]()
        reply = f"!status,ok,{timestamp.unix_text()},{status},{acquiring:d}"
        self.sendLine(reply.encode("latin-1"))  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    serve(Unchecked)
