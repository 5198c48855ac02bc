"""A rate-limited logger for lines that a peer can cause: a few of each kind a second, the rest is counted.

One log line costs more than a reply, so a client that repeats a mistake without end must not fill the log, nor
slow the others down.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

__all__ = ["RateLimitedLogger"]

_AT_MOST = 5
_WINDOW = 1.0


class RateLimitedLogger:
    """Logs at most five lines of a kind a second; says how many it left out once the second is over.

    `call_later` is a reactor's callLater; it is used only when something was left out.
    """

    def __init__(
        self,
        logger: logging.Logger,
        call_later: Callable[..., Any],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._call_later = call_later
        self._monotonic = monotonic
        self._began: dict[str, float] = {}
        self._count: dict[str, int] = {}

    def log(self, level: int, kind: str, text: str, *args: object, exc_info: Any = None) -> None:
        """Log `text` with lazy `args`, unless this kind has had its lines for this second."""
        if not self._logger.isEnabledFor(level):
            return
        count = self._count.get(kind, 0) + 1
        if 1 < count <= _AT_MOST + 1 and self._monotonic() >= self._began[kind] + _WINDOW:
            count = 1
        if count == 1:
            self._began[kind] = self._monotonic()
        self._count[kind] = count
        if count <= _AT_MOST:
            self._logger.log(level, text, *args, exc_info=exc_info)
        elif count == _AT_MOST + 1:
            self._call_later(_WINDOW, self._log_omitted, level, kind)

    def _log_omitted(self, level: int, kind: str) -> None:
        omitted = self._count.pop(kind) - _AT_MOST
        self._logger.log(level, "%d more lines of this kind left out: %s", omitted, kind)
