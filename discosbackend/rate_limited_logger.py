"""RateLimitedLogger: logs a few messages of each kind per second, and counts the others.

Use it for messages that a client can cause. A log message takes more time than a reply. A client that repeats a mistake
must not fill the log or slow the server down.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["MINUTE", "SECOND", "RateLimitedLogger"]

SECOND = 1.0
MINUTE = 60.0

_AT_MOST = 5

Kind: TypeAlias = "str | tuple[str, ...]"
"""The kind of a message, in words. The messages of one kind are counted together."""

# The maximum number of kinds that are counted separately. A client that invents names must not fill the memory.
_KINDS = 1000
_OTHERS = "more kinds than are told apart"


class _Kind:
    """The messages of one kind in a time window, which begins at `began` and lasts `window` seconds."""

    __slots__ = ("began", "count", "level", "window", "at_most", "timer")

    def __init__(self, began: float, level: int, window: float, at_most: int) -> None:
        self.began = began
        self.count = 0
        self.level = level
        self.window = window
        self.at_most = at_most
        self.timer: Any = None

    def is_over(self, now: float) -> bool:
        """Return whether the window is over and no omitted messages remain to be reported."""
        return self.timer is None and now >= self.began + self.window


class RateLimitedLogger:
    """Logs at most a few messages of each kind in a time window. At its end, it logs how many were omitted.

    Parameters
    ----------
    logger
        The logger that writes the messages.
    call_later
        The method callLater of a reactor. It is called only if a message is omitted.
    monotonic
        A function that returns the time of a monotonic clock, in s.
    """

    def __init__(
        self,
        logger: logging.Logger,
        call_later: Callable[..., Any],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.logger = logger
        self._call_later = call_later
        self._monotonic = monotonic
        self._kinds: dict[Kind, _Kind] = {}

    def log(
        self,
        level: int,
        kind: Kind,
        text: str,
        *args: object,
        exc_info: Any = None,
        window: float = SECOND,
        at_most: int = _AT_MOST,
    ) -> None:
        """Log a message, unless the maximum number of its kind has been logged in the current time window.

        Parameters
        ----------
        level
            The level of the message, as in logging.
        kind
            The kind of the message.
        text
            The message, a format in the %-style of logging.
        *args
            The values for the format.
        exc_info
            The exception to log, as in logging.
        window
            The length of the time window, in s.
        at_most
            The maximum number of messages of this kind in the window.
        """
        if self.admit(level, kind, window, at_most):
            self.logger.log(level, text, *args, exc_info=exc_info)

    def admit(self, level: int, kind: Kind, window: float = SECOND, at_most: int = _AT_MOST) -> bool:
        """Return whether to log a message of this kind now. If not, count it as omitted.

        Use this instead of log() if the message itself takes time to make. The parameters are those of log().
        """
        if not self.logger.isEnabledFor(level):
            return False
        now = self._monotonic()
        found = self._kinds.get(kind)
        if found is None or found.is_over(now):
            kind, found = self._begin(kind, _Kind(now, level, window, at_most))
        found.count += 1
        if found.count <= found.at_most:
            return True
        if found.timer is None:
            found.timer = self._call_later(max(found.began + found.window - now, 0.0), self._log_omitted, kind)
        return False

    def _begin(self, kind: Kind, new: _Kind) -> tuple[Kind, _Kind]:
        """Begin a window for this kind. If there are too many kinds, return the common window of all others."""
        if kind not in self._kinds and len(self._kinds) >= _KINDS:
            self._kinds = {name: known for name, known in self._kinds.items() if not known.is_over(new.began)}
            if len(self._kinds) >= _KINDS:
                kind = _OTHERS
                if kind in self._kinds:
                    return kind, self._kinds[kind]
        self._kinds[kind] = new
        return kind, new

    def _log_omitted(self, kind: Kind) -> None:
        found = self._kinds.pop(kind)
        words = kind if isinstance(kind, str) else " ".join(kind)
        self.logger.log(found.level, "%d more lines of this kind left out: %s", found.count - found.at_most, words)

    def sum_up(self) -> None:
        """Log now how many messages were omitted. Call it at the shutdown, when no timer will run any more."""
        for kind, found in list(self._kinds.items()):
            if found.timer is not None:
                found.timer.cancel()
                self._log_omitted(kind)
