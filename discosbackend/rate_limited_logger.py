"""A rate-limited logger for lines that a peer can cause: a few of each kind a second, the rest is counted.

One log line costs more than a reply, so a client that repeats a mistake without end must not fill the log, nor
slow the others down.
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
"""What is counted together, in words."""

# Kinds that are told apart at a time. A peer that makes up names must not fill the memory.
_KINDS = 1000
_OTHERS = "more kinds than are told apart"


class _Kind:
    """What is known of one kind in its window, which began at `began` and takes `window` seconds."""

    __slots__ = ("began", "count", "level", "window", "at_most", "timer")

    def __init__(self, began: float, level: int, window: float, at_most: int) -> None:
        self.began = began
        self.count = 0
        self.level = level
        self.window = window
        self.at_most = at_most
        self.timer: Any = None

    def is_over(self, now: float) -> bool:
        """Whether its window is over, with nothing left to be counted."""
        return self.timer is None and now >= self.began + self.window


class RateLimitedLogger:
    """Logs at most five lines of a kind in a window; says how many it left out once the window is over.

    `call_later` is a reactor's callLater; it is used only when something was left out.
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
        """Log `text` with lazy `args`, unless this kind has had its lines for this `window`, in seconds."""
        if self.admit(level, kind, window, at_most):
            self.logger.log(level, text, *args, exc_info=exc_info)

    def admit(self, level: int, kind: Kind, window: float = SECOND, at_most: int = _AT_MOST) -> bool:
        """Whether a line of this kind is to be logged now; if not, it is counted. For lines that cost more to make."""
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
        """A new window of this kind; where there are too many kinds, that of all others."""
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
        """Say now what was left out, since nobody will be there when its window is over."""
        for kind, found in list(self._kinds.items()):
            if found.timer is not None:
                found.timer.cancel()
                self._log_omitted(kind)
