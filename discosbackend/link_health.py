"""The state of a Link in words: the sentence for `status`, and the log lines about outages."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger

__all__ = ["LinkHealth", "reason_of_failure"]

# The messages are those of the link.
logger = logging.getLogger("discosbackend.link")


class LinkHealth:
    """Records since when a link is down, or gives no answer, and logs outages.

    Parameters
    ----------
    name
        The name of the device.
    call_later
        The method callLater of the reactor.
    now
        A function that returns the time of a monotonic clock, in s.
    """

    def __init__(self, name: str, call_later: Callable[..., Any], now: Callable[[], float]) -> None:
        self._name = name
        self._now = now
        self._limited = RateLimitedLogger(logger, call_later, now)
        self._is_new = True
        # Whether the last attempt to connect has failed.
        self._is_unreachable = False
        # Why the last connection was lost.
        self._reason = ""
        self._logged_down = False
        # NaN while the link works.
        self._down_since = 0.0
        self._silent_since: float | None = None

    @property
    def is_silent(self) -> bool:
        """Whether the device has not answered the latest questions."""
        return self._silent_since is not None

    def problem(self, connected: bool) -> str:
        """Return what is wrong with a link that is started, in one sentence, or "" if nothing is."""
        if self._silent_since is not None and not self._is_unreachable:
            return f"link to {self._name} gives no answer since {self._now() - self._silent_since:.0f} s"
        return "" if connected else self.down()

    def down(self) -> str:
        """Return since when the link is down, in one sentence."""
        return f"link to {self._name} is down since {self._outage():.0f} s"

    def closed(self) -> str:
        """Return the sentence for a closed link."""
        return f"link to {self._name} is closed"

    def _outage(self) -> float:
        return self._now() - self._down_since

    # -- events ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin: the link is started."""
        self._is_new = True
        self._is_unreachable = self._logged_down = False
        self._down_since, self._silent_since = self._now(), None

    def connected(self) -> None:
        """Note that a connection is made."""
        self._is_unreachable = False

    def works(self) -> None:
        """Note that the link is up: the device has answered, or the connection has lasted."""
        if self._logged_down:
            self._logged_down = False
            self.log(logging.INFO, "up", "link to %s is up again after %.0f s", self._name, self._outage())
        elif self._is_new:
            self.log(logging.INFO, "up", "link to %s is up", self._name)
        self._is_new = False
        self._down_since = math.nan

    def disconnected(self, reason: str) -> None:
        """Note that the connection is lost, or that the link has closed it."""
        self._reason = reason
        if math.isnan(self._down_since):
            self._down_since = self._now()

    def lost(self, failure: Failure) -> None:
        """Note and log that the connection is lost."""
        self.disconnected(reason_of_failure(failure))
        self.log(logging.INFO, "lost", "link to %s was lost: %s", self._name, self._reason)

    def unreachable(self, failure: Failure) -> None:
        """Note that an attempt to connect has failed."""
        self._is_unreachable = True
        self._reason = reason_of_failure(failure)

    def refuses(self) -> None:
        """Log, once per outage, that the link is down."""
        if not self._logged_down:
            self._logged_down = True
            text = "link to %s is down, and connects again when it can: %s"
            self.log(logging.WARNING, "down", text, self._name, self._reason)

    def no_answer(self, since: float, limit: float, question: object) -> None:
        """Note that a question has no answer `limit` s after the time `since`."""
        if self._silent_since is None:
            self._silent_since = since
            text = "link to %s gave no answer within %g s: %.80r"
            self.log(logging.WARNING, "no answer", text, self._name, limit, question)

    def answered(self, question: bytes, answer: bytes, seconds: float) -> None:
        """Note the answer to a question, and the time that it took, in s."""
        if self._silent_since is not None:
            silence, self._silent_since = self._now() - self._silent_since, None
            self.log(logging.INFO, "answers", "link to %s answers again after %.0f s", self._name, silence)
        logger.debug("link to %s: %.80r -> %.80r in %.3f s", self._name, question, answer, seconds)

    def log(self, level: int, kind: str, text: str, *args: object, exc_info: Any = None) -> None:
        """Log a message, unless five of its kind have been logged in the last minute."""
        self._limited.log(level, kind, text, *args, exc_info=exc_info, window=MINUTE)

    def end(self) -> None:
        """Log how many messages were omitted, because the link is closed."""
        self._limited.sum_up()


def reason_of_failure(failure: Failure) -> str:
    """Return the text of a failure, or its class if it has none."""
    return failure.getErrorMessage() or str(failure.type)
