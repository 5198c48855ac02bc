"""SlicedText: makes a long text in slices, so that the reactor serves the protocol in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

__all__ = ["SlicedText", "encoded_text"]

# How long a slice of the work takes, in s. The last piece of a slice may take longer, so this is below 1 ms.
_SLICE = 3e-4


def encoded_text(text: str) -> bytes:
    """Return a text in UTF-8. What UTF-8 cannot have is replaced by escapes, as in the log.

    A path whose bytes are not UTF-8, or the text of a device, can contain lone surrogates.
    """
    return text.encode(errors="backslashreplace")


class SlicedText:
    """A text that is made of pieces. Calls of get() at about the same time share one text.

    Parameters
    ----------
    reactor
        Timers, or the reactor.
    pieces
        Returns an iterator of the pieces. Each piece must take much less than 1 ms.
    lasts
        How long the same text is used again, in s. Then a new one is made.
    """

    def __init__(self, reactor: Any, pieces: Callable[[], Iterator[str]], lasts: float = 0.2) -> None:
        self._reactor = reactor
        self._pieces = pieces
        self._lasts = lasts
        self._text: bytes | None = None
        self._made = 0.0
        # The pieces of the text that is being made, and who waits for it.
        self._source: Iterator[str] | None = None
        self._parts: list[str] = []
        self._waiting: list[Deferred[bytes]] = []

    def get(self) -> Deferred[bytes]:
        """Return a Deferred of the text. It can be cancelled. It fails with the exception of a piece."""
        if self._text is not None and 0 <= self._reactor.seconds() - self._made < self._lasts:
            return succeed(self._text)
        text: Deferred[bytes] = Deferred(self._waiting.remove)
        self._waiting.append(text)
        if self._source is None:
            self._source, self._parts = self._pieces(), []
            self._reactor.callLater(0, self._work)
        return text

    def forget(self) -> None:
        """Discard the text, because something has changed. The next get() makes a new one."""
        self._text = None

    def _work(self) -> None:
        assert self._source is not None
        end = perf_counter() + _SLICE
        try:
            for part in self._source:
                self._parts.append(part)
                if perf_counter() >= end:
                    self._reactor.callLater(0, self._work)
                    return
            text = encoded_text("".join(self._parts))
        except BaseException:  # noqa: BLE001  # goes to those who wait
            self._finish(Failure())
            return
        self._text = text
        self._made = self._reactor.seconds()
        self._finish(text)

    def _finish(self, outcome: bytes | Failure) -> None:
        self._source, self._parts = None, []
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(outcome)
