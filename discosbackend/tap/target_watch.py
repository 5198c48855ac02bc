"""TargetWatch: whether the target of a tap can be reached, for the monitors.

The connections of clients show it. While they do not, because nobody has connected yet or the target was lost, the tap
tries by itself: it connects, and closes the connection at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from discosbackend.errors import in_one_line

__all__ = ["TargetWatch"]

logger = logging.getLogger(__name__)

# Seconds from a failed attempt to the next one.
_RETRY = 5.0

# Seconds from a connection that the target has closed to the next attempt. If the target ends, this shows it before it
# can be back.
_AFTER_CLOSE = 0.2


class _ClosedAtOnce(Protocol):
    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.loseConnection()


class _AttemptFactory(Factory):
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _ClosedAtOnce()


class TargetWatch:
    """Whether the target can be reached. The tap reports its attempts to it; while none succeeds, it makes its own.

    Parameters
    ----------
    target
        The endpoint of the target.
    name
        The name of the target.
    reactor
        The reactor.
    now
        Returns Unix seconds.
    on_failure
        Called after each attempt that has failed.

    Attributes
    ----------
    reachable
        Whether the last attempt has succeeded. None: there was none since the start, or since the target has closed a
        connection.
    problem
        Why the target cannot be reached, in one sentence; "" if it can, or if this is not known.
    since
        Since when this is so, in Unix seconds. None before the first attempt.
    """

    def __init__(
        self,
        target: IStreamClientEndpoint,
        name: str,
        reactor: Any,
        *,
        now: Callable[[], float] = time.time,
        on_failure: Callable[[], object] = lambda: None,
    ) -> None:
        self.reachable: bool | None = None
        self.problem = ""
        self.since: float | None = None
        self._target = target
        self._name = name
        self._reactor = reactor
        self._now = now
        self.on_failure = on_failure
        self._timer: Any = None
        self._attempt: Deferred[Any] | None = None
        self._watching = False

    def to_dict(self) -> dict[str, Any]:
        """Return the part `target` of /status.json."""
        return {"name": self._name, "reachable": self.reachable, "problem": self.problem, "since": self.since}

    def begin(self) -> None:
        """Make the first attempt."""
        self._watching = True
        self._try()

    def end(self) -> None:
        """Make no more attempts."""
        self._watching = False
        self._cancel_timer()
        if self._attempt is not None:
            self._attempt.cancel()

    def reached(self) -> None:
        """The target was connected."""
        if self.problem:
            logger.info("the target %s can be reached again", self._name)
        self._set(True, "")
        self._cancel_timer()

    def not_reached(self, reason: BaseException) -> None:
        """An attempt to connect has failed."""
        self._set(False, f"the target {self._name} cannot be reached: {in_one_line(reason)}")
        self.on_failure()
        self._try_later(_RETRY)

    def closed(self) -> None:
        """The target has closed a connection, perhaps because it ends."""
        if not self.problem:
            self._set(None, "")
        self._try_later(_AFTER_CLOSE)

    def _set(self, reachable: bool | None, problem: str) -> None:
        if reachable is not self.reachable:
            self.since = self._now()
        self.reachable, self.problem = reachable, problem

    def _try_later(self, seconds: float) -> None:
        if self._watching and self._timer is None and self._attempt is None:
            self._timer = self._reactor.callLater(seconds, self._try)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _try(self) -> None:
        self._timer = None
        # Before the callbacks, because the attempt may have ended already.
        attempt = self._attempt = self._target.connect(cast(Any, _AttemptFactory()))
        attempt.addCallbacks(self._succeeded, self._failed)

    def _succeeded(self, _: object) -> None:
        self._attempt = None
        self.reached()

    def _failed(self, failure: Failure) -> None:
        self._attempt = None
        if not self._watching:
            # It was cancelled.
            return
        is_new = not self.problem
        assert failure.value is not None
        self.not_reached(failure.value)
        if is_new:
            logger.warning("%s", self.problem)
