"""Time-tagged start and stop: protocol section 7 as a class that a backend uses in two lines.

    self.acquisition = Acquisition(self.begin, self.end)
    ...
    def start(self, timestamp=None): self.acquisition.start(timestamp)
    def stop(self, timestamp=None): self.acquisition.stop(timestamp)

It judges the times and fires the transitions; what beginning and ending mean is the backend's business,
and whether a text is a timestamp was settled by the handler. Everything happens in the reactor's thread.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from discosbackend.errors import BackendError
from discosbackend.grammar import quoted
from discosbackend.rate_limited_logger import RateLimitedLogger
from discosbackend.ticks import TICKS_PER_SECOND, Ticks
from discosbackend.ticks import now_ticks as utc_ticks

__all__ = ["Acquisition", "CallsLater", "FinalWait", "single_delay_wait"]

logger = logging.getLogger(__name__)

# All in seconds. A step of the UTC clock is followed within a second (protocol section 7.5).
_LONGEST_SLEEP = 0.5
# The last long sleep ends early by more than the longest turn of the reactor; a short one goes on from there, until
# what epoll may round it up by, and a turn, are left before what is waited for in place.
_LEAD = 5e-3
_IN_TURNS = 2.5e-3
_IN_PLACE = 1e-3
_SPIN = 3e-4
# Seconds by which a transition may be late without a warning (protocol section 7.4).
_LATE = 1.0
# A fake clock that stands at Unix seconds moves in steps of 0.24 us: a shorter delay would never pass.
_SHORTEST_DELAY = 1e-6


class CallsLater(Protocol):
    """The one thing that is asked of a clock; a reactor and twisted.internet.task.Clock have it."""

    def callLater(self, delay: float, function: Callable[..., Any], /, *args: Any) -> Any:
        """Call back after `delay` seconds; the result has cancel()."""


FinalWait = Callable[[Ticks, Callable[[], int]], float]
"""Called when an instant is less than 5 ms away, with the instant and the UTC clock.

It may wait for the instant itself; it returns after how many seconds to look again, if it did not."""


def single_delay_wait(instant: Ticks, now: Callable[[], int]) -> float:
    """The last stretch on a clock that is handed in: one delay, as long as the rest, and 1 us at least."""
    return max(_SHORTEST_DELAY, (instant - now()) / TICKS_PER_SECOND)


def precise_wait(instant: Ticks, now: Callable[[], int]) -> float:
    """The last stretch on the system's clock: turns of the reactor, then sleep, then spin.

    A reactor on epoll rounds a sleep up to a whole millisecond. So zero-delay turns keep everyone served from
    2.5 ms before the instant until 1 ms is left, and that is waited for in place: asleep until 300 us before the
    instant, then spinning. Nobody is held up for longer than that millisecond; and who is idle until the last
    moment is not the one whom a busy machine suspends then.
    """
    left = (instant - now()) / TICKS_PER_SECOND
    if left > _IN_TURNS:
        return left - _IN_TURNS
    if left > _IN_PLACE:
        return 0.0
    if left > _SPIN:
        time.sleep(left - _SPIN)
    # The upper bound ends the spinning when the UTC clock is stepped back meanwhile.
    while 0 < instant - now() <= _IN_PLACE * TICKS_PER_SECOND:
        pass
    return 0.0


class Acquisition:
    """At most one pending start, at most one pending stop, and whether an acquisition is running.

    `begin` and `end` are ordinary callables taking Ticks: the instant that was asked for, or now for an
    immediate start or stop. They are called in the reactor's thread, at that instant, and raise to refuse.
    They may arm a start or stop (say, the end of an acquisition of fixed length), not start or stop now.

    `clock` needs callLater only (default: the reactor). `now_ticks` gives UTC as an integer count of 100 ns
    (default: the host's clock). `horizon` is how many seconds ahead a time may lie. `stop_when_idle` is
    "fail" or "ok": the answer to a stop that finds nothing to stop. `final_wait` replaces what happens
    between the last sleep and the instant; on the host's clock the default is late by microseconds.
    """

    def __init__(
        self,
        begin: Callable[[Ticks], object],
        end: Callable[[Ticks], object],
        *,
        clock: CallsLater | None = None,
        now_ticks: Callable[[], int] | None = None,
        horizon: float = 7 * 86400,
        stop_when_idle: str = "fail",
        final_wait: FinalWait | None = None,
    ) -> None:
        for role, function in (("begin", begin), ("end", end)):
            if not callable(function) or inspect.iscoroutinefunction(function):
                raise TypeError(f"{role} must be an ordinary callable, which {function!r} is not")
        if stop_when_idle not in ("fail", "ok"):
            raise ValueError(f"stop_when_idle is 'fail' or 'ok', not {stop_when_idle!r}")
        if not horizon > 0:
            raise ValueError(f"horizon must be more than 0 s, not {horizon!r}")
        if final_wait is None:
            # A clock that is handed in may be a fake one, on which turns without end would never pass.
            final_wait = precise_wait if now_ticks is None else single_delay_wait
        self._begin = begin
        self._end = end
        self._clock = clock
        self._in_reactor_thread = clock is None
        self._now = utc_ticks if now_ticks is None else now_ticks
        self._horizon = horizon
        self._stop_when_idle = stop_when_idle
        self._final_wait = final_wait
        self._limited = RateLimitedLogger(logger, self._later, getattr(clock, "seconds", time.monotonic))
        self._alarm: Any = None
        self._in_transition = False
        self._acquiring = False
        self._pending_start: Ticks | None = None
        self._pending_stop: Ticks | None = None
        self._last_lateness: float | None = None

    @property
    def acquiring(self) -> bool:
        """Whether an acquisition is running."""
        return self._acquiring

    @property
    def pending_start(self) -> Ticks | None:
        """When the next start is due, None when none is armed."""
        return self._pending_start

    @property
    def pending_stop(self) -> Ticks | None:
        """When the next stop is due, None when none is armed."""
        return self._pending_stop

    @property
    def last_lateness(self) -> float | None:
        """By how many seconds the last timed transition was late; None before the first."""
        return self._last_lateness

    def start(self, timestamp: Any = None) -> None:
        """Begin now, or arm a start, which replaces one that is pending.

        `timestamp` is Ticks, an astropy Time, or a number as Ticks.of takes it. BackendError: already
        acquiring, or a time that has elapsed, lies beyond the horizon or is none. What was pending stays then.
        """
        self._check_thread()
        self._carry_out_elapsed()
        if timestamp is not None:
            self._pending_start = self._checked(timestamp, "starting time", "start")
            self._rearm()
            return
        self._check_no_transition()
        if self._acquiring:
            raise BackendError("already acquiring")
        self._call_transition(self._begin, Ticks(self._now()))
        self._acquiring = True
        self._pending_start = None
        self._rearm()

    def stop(self, timestamp: Any = None) -> None:
        """End now, or cancel a pending start; or arm a stop, which replaces one that is pending.

        BackendError: not acquiring (unless `stop_when_idle` is "ok"), or a bad time, as for start(). If
        ending fails, the acquisition counts as running still, so that it can be stopped again.
        """
        self._check_thread()
        self._carry_out_elapsed()
        if timestamp is not None:
            self._pending_stop = self._checked(timestamp, "stop time", "stop")
            self._rearm()
            return
        self._check_no_transition()
        if self._acquiring:
            self._call_transition(self._end, Ticks(self._now()))
            self._acquiring = False
        elif self._pending_start is None:
            if self._stop_when_idle == "fail":
                raise BackendError("not acquiring")
            return
        self._pending_start = self._pending_stop = None
        self._rearm()

    def cancel(self) -> None:
        """Drop a pending start and a pending stop; an acquisition that is running goes on."""
        self._check_thread()
        self._carry_out_elapsed()
        self._pending_start = self._pending_stop = None
        self._rearm()

    def _checked(self, timestamp: Any, what: str, verb: str) -> Ticks:
        """The instant, if it may be armed at all (protocol section 7.3)."""
        try:
            instant = Ticks.of(timestamp)
        except (TypeError, ValueError, OverflowError):
            raise BackendError(f"wrong timestamp {quoted(str(timestamp))}") from None
        if instant <= 0:
            raise BackendError(f"wrong timestamp {quoted(str(timestamp))}")
        now = self._now()
        if instant < now:
            raise BackendError(f"{what} already elapsed")
        if instant - now > self._horizon * TICKS_PER_SECOND:
            raise BackendError(f"cannot {verb} at given time")
        return instant

    def _check_thread(self) -> None:
        """A @blocking method runs in another thread, where the reactor's timers must not be touched."""
        if self._in_reactor_thread:
            from twisted.python import threadable

            if threadable.ioThread is not None and not threadable.isInIOThread():
                raise RuntimeError("an Acquisition belongs to the reactor's thread: do not mark this @blocking")

    def _check_no_transition(self) -> None:
        """Until begin or end has returned, it is open whether an acquisition is running."""
        if self._in_transition:
            raise RuntimeError("begin and end cannot start or stop now: they raise to refuse")

    def _call_transition(self, transition: Callable[[Ticks], object], instant: Ticks) -> None:
        self._in_transition = True
        try:
            result = transition(instant)
        finally:
            self._in_transition = False
        if inspect.isawaitable(result) or hasattr(type(result), "addCallback"):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"{transition!r} must be done when it returns; it returned {result!r}")

    def _carry_out_elapsed(self) -> None:
        """Carry out what came due before a request, if its timer has not been called yet.

        A process that was stopped reads its requests before its timers run. Without this, a stop whose time has
        passed would end the acquisition that begins after it, and a newer start would silently replace an older one.
        """
        if self._in_transition:
            return
        while (instant := self._next_instant()) is not None and instant < self._now():
            self._run_due(instant)
            self._rearm()

    def _next_instant(self) -> Ticks | None:
        pending = [instant for instant in (self._pending_start, self._pending_stop) if instant is not None]
        return min(pending, default=None)

    def _rearm(self) -> None:
        """Sleep until shortly before the next instant, or half a second, then look."""
        self._cancel_alarm()
        instant = self._next_instant()
        if instant is not None:
            left = (instant - self._now()) / TICKS_PER_SECOND
            self._call_later(min(max(left - _LEAD, 0.0), _LONGEST_SLEEP))

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _later(self, delay: float, function: Callable[..., Any], *args: Any) -> Any:
        if self._clock is None:
            from twisted.internet import reactor

            self._clock = cast(CallsLater, reactor)
        return self._clock.callLater(delay, function, *args)

    def _call_later(self, delay: float) -> None:
        self._alarm = self._later(delay, self._check_due)

    def _check_due(self) -> None:
        """Carry out what is due, in the order of its times; then sleep, or wait out the last stretch."""
        self._alarm = None
        while (instant := self._next_instant()) is not None:
            left = (instant - self._now()) / TICKS_PER_SECOND
            if left <= 0:
                self._run_due(instant)
                # This loop looks at what begin or end may have armed.
                self._cancel_alarm()
            elif left > _LEAD + _SHORTEST_DELAY:
                self._rearm()
                return
            else:
                delay = self._final_wait(instant, self._now)
                if self._now() < instant:
                    self._call_later(delay)
                    return

    def _run_due(self, instant: Ticks) -> None:
        """One transition. At equal times the stop comes first while acquiring; while idle both lapse.

        A start whose stop has passed too lapses with it: a backend would be told to begin and to end in one moment,
        and would record nothing.
        """
        starts, stops = self._pending_start == instant, self._pending_stop == instant
        if stops:
            self._pending_stop = None
            if self._acquiring:
                self._run_transition("stop", self._end, instant)
                return
            self._complain("timed stop at %s changes nothing: not acquiring", instant)
        if starts:
            self._pending_start = None
            if stops:
                self._complain("timed start at %s lapses: its stop is at the same time", instant)
            elif self._acquiring:
                self._complain("timed start at %s changes nothing: already acquiring", instant)
            elif self._pending_stop is not None and self._pending_stop <= self._now():
                self._lose_scan(instant, self._pending_stop)
            else:
                self._run_transition("start", self._begin, instant)

    def _complain(self, text: str, instant: Ticks) -> None:
        """Of a transition that changes nothing. A client can arm one every millisecond."""
        self._limited.log(logging.WARNING, text.partition(" at ")[0] + " without effect", text, instant.unix_text())

    def _lose_scan(self, start: Ticks, stop: Ticks) -> None:
        self._pending_stop = None
        late = (self._now() - start) / TICKS_PER_SECOND
        logger.error(
            "scan lost: nothing was acquired from %s to %s, both times had passed when the server looked, "
            "%.1f s after the start: the process was suspended or starved or the clock was stepped",
            start.unix_text(),
            stop.unix_text(),
            late,
        )

    def _run_transition(self, verb: str, transition: Callable[[Ticks], object], instant: Ticks) -> None:
        self._last_lateness = late = (self._now() - instant) / TICKS_PER_SECOND
        if late > _LATE:
            logger.warning(
                "timed %s at %s is %.1f s late: the process was suspended or starved or the clock was stepped",
                verb,
                instant.unix_text(),
                late,
            )
        try:
            self._call_transition(transition, instant)
        except BackendError as refusal:
            text = "timed %s at %s refused: %r"
            self._limited.log(logging.WARNING, f"timed {verb} refused", text, verb, instant.unix_text(), str(refusal))
            return
        except BaseException:  # noqa: BLE001  # whatever a backend raises
            text = "timed %s at %s failed"
            self._limited.log(logging.ERROR, f"timed {verb} failed", text, verb, instant.unix_text(), exc_info=True)
            return
        self._acquiring = verb == "start"
        if late <= _LATE:
            logger.debug("timed %s at %s, late by %.6f s", verb, instant.unix_text(), late)
