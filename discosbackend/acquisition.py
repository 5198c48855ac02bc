"""Time-tagged start and stop (protocol section 7): a class that a backend uses in its start() and stop().

Acquisition checks the times, and calls functions of the backend at these times. The handler has already converted the
texts of the request to Ticks. Everything runs in the reactor's thread.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from discosbackend.errors import BackendError
from discosbackend.grammar import quoted
from discosbackend.rate_limited_logger import RateLimitedLogger
from discosbackend.reactors import reactor_or_default
from discosbackend.ticks import TICKS_PER_SECOND, Ticks
from discosbackend.ticks import now_ticks as utc_ticks

__all__ = ["Acquisition", "CallsLater", "FinalWait", "acquisition_of", "single_delay_wait"]

logger = logging.getLogger(__name__)

# All times are in seconds. A sleep is at most half a second, so that a step of the UTC clock is noticed within a second
# (protocol section 7.5).
_LONGEST_SLEEP = 0.5
# The last long sleep ends _LEAD before the instant. This is longer than the longest iteration of the reactor.
# precise_wait then lets the reactor sleep until _IN_TURNS before the instant. epoll may round that sleep up by 1 ms. It
# must still end earlier than _IN_PLACE before the instant.
_LEAD = 5e-3
_IN_TURNS = 2.5e-3
_IN_PLACE = 1e-3
_SPIN = 3e-4
# Seconds by which a transition may be late without a warning (protocol section 7.4).
_LATE = 1.0
# A fake clock may count Unix seconds in a float, with a resolution of 0.24 us. A shorter delay would never elapse.
_SHORTEST_DELAY = 1e-6


class CallsLater(Protocol):
    """The method of a clock that Acquisition uses. A reactor and twisted.internet.task.Clock have it."""

    def callLater(self, delay: float, function: Callable[..., Any], /, *args: Any) -> Any:
        """Call `function` after `delay` seconds. The method cancel() of the result cancels the call."""


FinalWait = Callable[[Ticks, Callable[[], int]], float]
"""A function that does the final part of the wait for a timed start or stop.

It is called when the instant is less than 5 ms ahead. The arguments are the instant, as Ticks, and a function that
returns the UTC clock as a count of 100 ns. It may block until the instant. If it returns earlier, it is called again
after the returned number of seconds."""


def single_delay_wait(instant: Ticks, now: Callable[[], int]) -> float:
    """Return the time until the instant, in s, at least 1 us. The default FinalWait if `now_ticks` is given."""
    return max(_SHORTEST_DELAY, (instant - now()) / TICKS_PER_SECOND)


def precise_wait(instant: Ticks, now: Callable[[], int]) -> float:
    """Wait for an instant of the host's clock. It is the default FinalWait.

    A reactor on epoll rounds a delay up to a whole millisecond. From 2.5 ms before the instant, the delays are
    therefore 0; the reactor still serves all clients. In the last millisecond this function blocks, so clients wait
    for at most 1 ms. It sleeps until 300 us before the instant, then spins. The sleep lowers the risk that a busy
    machine preempts the process at the instant.
    """
    left = (instant - now()) / TICKS_PER_SECOND
    if left > _IN_TURNS:
        return left - _IN_TURNS
    if left > _IN_PLACE:
        return 0.0
    if left > _SPIN:
        time.sleep(left - _SPIN)
    # The upper bound ends the loop if the UTC clock is stepped back during it.
    while 0 < instant - now() <= _IN_PLACE * TICKS_PER_SECOND:
        pass
    return 0.0


class Acquisition:
    """The start and stop of an acquisition, immediate or at a given time (protocol section 7).

    There is at most one pending start and at most one pending stop. A newer one replaces it.

    Parameters
    ----------
    begin, end
        Functions that start and stop the acquisition. They are called in the reactor's thread with one argument,
        Ticks: the requested time, or the current time for an immediate start or stop. To refuse, they raise an
        exception, such as BackendError. They must be ordinary functions and finish their work before they return.
        They may call start() or stop() with a time, for example to end an acquisition of fixed length. They must not
        call these methods without a time.
    clock
        An object with `callLater`. Default: the reactor.
    now_ticks
        Returns UTC as an integer count of 100 ns. Default: the host's clock.
    horizon
        How far in the future a time may be, in s. Default: 7 days.
    stop_when_idle
        "fail" or "ok": the reply to a stop when there is nothing to stop.
    final_wait
        The function for the last 5 ms of the wait, see FinalWait. Default: precise_wait, with which a start or stop is
        late by microseconds. If `now_ticks` is given, the default is single_delay_wait.

    Raises
    ------
    TypeError
        If `begin` or `end` is not callable or is a coroutine function.
    ValueError
        If `stop_when_idle` is another text, or if `horizon` is not more than 0.

    Examples
    --------
    >>> from discosbackend import Acquisition, Backend, BackendError
    >>> class MyBackend(Backend):
    ...     def __init__(self):
    ...         self.acquisition = Acquisition(self.begin, self.end)
    ...
    ...     def begin(self, instant):
    ...         print("the hardware starts")
    ...
    ...     def end(self, instant):
    ...         print("the hardware stops")
    ...
    ...     def start(self, timestamp=None):
    ...         self.acquisition.start(timestamp)
    ...
    ...     def stop(self, timestamp=None):
    ...         self.acquisition.stop(timestamp)
    >>> backend = MyBackend()
    >>> backend.start()
    the hardware starts
    >>> backend.acquisition.acquiring
    True
    >>> backend.stop()
    the hardware stops

    A time that has already elapsed is refused:

    >>> backend.start(1628683207.0)
    Traceback (most recent call last):
    ...
    discosbackend.errors.BackendError: starting time already elapsed
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
            # A clock of the caller may be a fake clock, which does not advance while the reactor iterates.
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
        self._since: Ticks | None = None
        self._pending_start: Ticks | None = None
        self._pending_stop: Ticks | None = None
        self._last_lateness: float | None = None

    def __str__(self) -> str:
        """The state in words, such as `idle, start at 2026-11-28 10:55:50.1234567 UT`."""
        state = ["acquiring" if self._acquiring else "idle"]
        for verb, instant in (("start", self._pending_start), ("stop", self._pending_stop)):
            if instant is not None:
                seconds, fraction = divmod(instant, TICKS_PER_SECOND)
                state.append(f"{verb} at {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{fraction:07} UT")
        return ", ".join(state)

    @property
    def acquiring(self) -> bool:
        """Whether an acquisition is running."""
        return self._acquiring

    @property
    def since(self) -> Ticks | None:
        """The time that `begin` was called with. None while no acquisition is running."""
        return self._since if self._acquiring else None

    @property
    def pending_start(self) -> Ticks | None:
        """The time of the pending start, or None."""
        return self._pending_start

    @property
    def pending_stop(self) -> Ticks | None:
        """The time of the pending stop, or None."""
        return self._pending_stop

    @property
    def last_lateness(self) -> float | None:
        """How late the last timed start or stop was, in s. None before the first one."""
        return self._last_lateness

    def start(self, timestamp: Any = None) -> None:
        """Start the acquisition now or at a given time.

        A timed start replaces the pending start. An immediate start cancels it.

        Parameters
        ----------
        timestamp
            When to start, as Ticks, an astropy Time, or a number that Ticks.of accepts. Default: now.

        Raises
        ------
        BackendError
            If an acquisition is running and `timestamp` is None. Also if the time has elapsed, is beyond the horizon,
            or is not valid. Pending times are then unchanged. Exceptions of `begin` are passed on.
        RuntimeError
            If it is called in a thread of a `@blocking` method, or without a time from `begin` or `end`.
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
        """Stop the acquisition now or at a given time.

        A timed stop replaces the pending stop. An immediate stop also cancels the pending start and the pending stop.

        Parameters
        ----------
        timestamp
            When to stop, as Ticks, an astropy Time, or a number that Ticks.of accepts. Default: now.

        Raises
        ------
        BackendError
            If there is neither an acquisition nor a pending start and `stop_when_idle` is "fail". Also if the time is
            refused, as in start(). Exceptions of `end` are passed on. The acquisition then still counts as running, so
            that stop() can be repeated.
        RuntimeError
            As for start().
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
        """Cancel the pending start and the pending stop. A running acquisition continues.

        Raises
        ------
        RuntimeError
            If it is called in a thread of a `@blocking` method.
        """
        self._check_thread()
        self._carry_out_elapsed()
        self._pending_start = self._pending_stop = None
        self._rearm()

    def _checked(self, timestamp: Any, what: str, verb: str) -> Ticks:
        """Return the timestamp as Ticks. Raise BackendError if it is refused (protocol section 7.3)."""
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
        """Raise RuntimeError in a thread of a @blocking method, where the reactor's timers must not be used."""
        if self._in_reactor_thread:
            from twisted.python import threadable

            if threadable.ioThread is not None and not threadable.isInIOThread():
                raise RuntimeError("an Acquisition belongs to the reactor's thread: do not mark this @blocking")

    def _check_no_transition(self) -> None:
        """Raise RuntimeError while `begin` or `end` runs, because the new state is not known yet."""
        if self._in_transition:
            raise RuntimeError("begin and end cannot start or stop now: they raise to refuse")

    def _call_transition(self, transition: Callable[[Ticks], object], instant: Ticks) -> None:
        self._in_transition = True
        try:
            result = transition(instant)
        finally:
            self._in_transition = False
        if transition is self._begin:
            self._since = instant
        if inspect.isawaitable(result) or hasattr(type(result), "addCallback"):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"{transition!r} must be done when it returns; it returned {result!r}")

    def _carry_out_elapsed(self) -> None:
        """Carry out every start and stop whose time has elapsed, before a request is handled.

        A process that was suspended reads its requests before its timers run. Without this method, an elapsed stop
        would end an acquisition that was requested after it, and a new start would silently replace an elapsed one.
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
        """Schedule the next check: shortly before the next instant, and in half a second at the latest."""
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
        return reactor_or_default(self._clock).callLater(delay, function, *args)

    def _call_later(self, delay: float) -> None:
        self._alarm = self._later(delay, self._check_due)

    def _check_due(self) -> None:
        """Carry out each transition that is due, in order of time. Then sleep, or do the final wait."""
        self._alarm = None
        while (instant := self._next_instant()) is not None:
            left = (instant - self._now()) / TICKS_PER_SECOND
            if left <= 0:
                self._run_due(instant)
                # `begin` or `end` may have requested another transition, which this loop checks.
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
        """Carry out the transition at `instant`.

        If a start and a stop have the same time, the stop comes first if an acquisition is running. If none is running,
        both are dropped. A start and its stop are also dropped if both times have elapsed, because the backend would
        begin and end at once, and record nothing.
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
        """Log a transition that has no effect. The log is rate-limited, because a client can request many of them."""
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
        except BaseException:  # noqa: BLE001  # a backend may raise anything
            text = "timed %s at %s failed"
            self._limited.log(logging.ERROR, f"timed {verb} failed", text, verb, instant.unix_text(), exc_info=True)
            return
        self._acquiring = verb == "start"
        if late <= _LATE:
            logger.debug("timed %s at %s, late by %.6f s", verb, instant.unix_text(), late)


def acquisition_of(backend: object) -> Acquisition | None:
    """Return the Acquisition of a backend: its attribute `acquisition`, or else its first attribute of this class.

    None if it has none. Properties are not evaluated, because they may access the hardware.
    """
    attributes = getattr(backend, "__dict__", {})
    found = [value for value in attributes.values() if isinstance(value, Acquisition)]
    named = attributes.get("acquisition")
    return named if isinstance(named, Acquisition) else next(iter(found), None)
