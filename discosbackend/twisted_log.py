"""Limits the lines that Twisted logs. A peer can cause some of them, such as an exception in a parser of Twisted."""

from __future__ import annotations

import logging
from collections.abc import Callable

from twisted.logger import ILogObserver, LogEvent, LogLevel
from twisted.python.threadable import isInIOThread
from zope.interface import implementer

from discosbackend.rate_limited_logger import RateLimitedLogger

__all__ = ["LimitedObserver"]

_LEVELS = {LogLevel.warn: logging.WARNING, LogLevel.error: logging.ERROR, LogLevel.critical: logging.CRITICAL}


@implementer(ILogObserver)
class LimitedObserver:
    """Passes on the events of Twisted's log. From level `warn` on, only a few of each kind per second are passed on.

    Events from other threads are always passed on, because a RateLimitedLogger is for one thread.

    Parameters
    ----------
    observer
        The observer that gets the events.
    limited
        Counts the other events, and logs their number.
    """

    def __init__(self, observer: Callable[[LogEvent], object], limited: RateLimitedLogger) -> None:
        self._observer = observer
        self._limited = limited

    def __call__(self, event: LogEvent) -> None:
        """Handle an event of Twisted's log. Called by Twisted."""
        level = _LEVELS.get(event.get("log_level"))
        if level is None or not isInIOThread() or self._limited.admit(level, _kind(event)):
            self._observer(event)


def _kind(event: LogEvent) -> str:
    # Twisted's older function log.err() names the failure differently, and its format is that of every message.
    failure = event.get("log_failure") or event.get("failure")
    if failure is None or failure.type is None:
        return str(event.get("log_format"))
    return f"{failure.type.__name__} logged by Twisted"
