"""ClockHealth: whether the clock of this host is synchronised, and whether it was stepped.

Timed starts use this clock. The kernel knows whether a program such as chrony or ntpd synchronises it (adjtimex). A
step is noticed by comparing the clock with one that is never stepped, once a second.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger

__all__ = ["ClockHealth", "Step", "Synchronisation", "ask_kernel"]

logger = logging.getLogger(__name__)

# How often the clocks are compared, in s.
_PERIOD = 1.0
# A smaller difference, in s, is not a step: synchronisation by slewing changes both clocks equally.
_SMALLEST_STEP = 1e-3
# If reading the clocks took longer, in s, the process was interrupted meanwhile, and the comparison is not exact.
_LONGEST_READING = 2e-4

# From <linux/timex.h>: the status bit of a clock that is not synchronised, and the state that means the same.
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5


class _Timex(ctypes.Structure):
    """The structure of adjtimex() in the GNU C library and musl."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        # The rest, and reserve for additions.
        ("rest", ctypes.c_long * 64),
    )


class Synchronisation(NamedTuple):
    """Whether the clock is synchronised."""

    synchronised: bool | None
    """None if it is not known."""
    error: float | None
    """The estimated error in s. None if it is not known, or if the clock is not synchronised."""


class Step(NamedTuple):
    """A step of the clock."""

    time: float
    """The time after the step, in Unix seconds."""
    seconds: float
    """By how much the clock was set forward, in s. Negative: backward."""


def ask_kernel() -> Synchronisation:
    """Ask the kernel whether the clock of this host is synchronised. Only Linux can say it."""
    if not sys.platform.startswith("linux"):
        return Synchronisation(None, None)
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return Synchronisation(None, None)
    # With modes 0 it changes nothing, and needs no privilege.
    timex = _Timex()
    state = adjtimex(ctypes.byref(timex))
    if state < 0:
        logger.debug("adjtimex: %s", os.strerror(ctypes.get_errno()))
        return Synchronisation(None, None)
    return interpreted(state, timex.status, timex.esterror, timex.maxerror)


def interpreted(state: int, status: int, esterror: int, maxerror: int) -> Synchronisation:
    """Return what an answer of adjtimex() means.

    Parameters
    ----------
    state
        The result of the call, 0 or more.
    status, esterror, maxerror
        The fields of the structure; the errors are in us.
    """
    if state == _TIME_ERROR or status & _STA_UNSYNC:
        return Synchronisation(False, None)
    # Some programs, such as systemd-timesyncd, estimate no error. The kernel then has only its upper limit.
    return Synchronisation(True, (esterror or maxerror) / 1e6)


def _steady() -> float:
    # CLOCK_MONOTONIC stands still while the machine is suspended, which would look like a step.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockHealth:
    """Watches the clock of this host from begin() to end().

    Parameters
    ----------
    reactor
        Timers, or the reactor, for a call once a second.
    ask
        Returns whether the clock is synchronised.
    wall
        Returns the time of the clock, in Unix seconds.
    steady
        Returns the time of a clock that is never stepped, in s. Default: one that continues during a suspension.

    Attributes
    ----------
    steps
        How many steps were noticed.
    last_step
        The last one. None before the first one.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        ask: Callable[[], Synchronisation] = ask_kernel,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
    ) -> None:
        self._reactor = reactor
        self._ask = ask
        self._wall = wall
        self._steady = steady or (_steady if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic)
        self._limited = RateLimitedLogger(logger, reactor.callLater)
        self._offset: float | None = None
        self._timer: Any = None
        self.steps = 0
        self.last_step: Step | None = None

    def begin(self) -> None:
        """Log whether the clock is synchronised, and start to watch it."""
        found = self.synchronisation
        if found.synchronised is None:
            logger.info("clock: it is not known whether it is synchronised")
        elif found.synchronised:
            logger.info("clock: synchronised, estimated error %.6f s", found.error or 0.0)
        else:
            logger.warning("clock: not synchronised: timed starts are only as accurate as this clock")
        self._look()

    def end(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._limited.sum_up()

    @property
    def synchronisation(self) -> Synchronisation:
        """Whether the clock is synchronised now."""
        return self._ask()

    def _look(self) -> None:
        self._timer = self._reactor.callLater(_PERIOD, self._look)
        before = self._steady()
        wall = self._wall()
        after = self._steady()
        if after - before > _LONGEST_READING:
            return
        previous, self._offset = self._offset, wall - (before + after) / 2
        if previous is not None and abs(step := self._offset - previous) >= _SMALLEST_STEP:
            self.steps += 1
            self.last_step = Step(wall, step)
            text = "clock: the clock of this host was stepped by %+.6f s"
            self._limited.log(logging.WARNING, "steps of the clock", text, step, window=MINUTE)
