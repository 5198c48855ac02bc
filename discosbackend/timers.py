"""Timers: delayed calls that cost a busy reactor nothing while they wait.

While a delayed call is pending, a reactor of Twisted computes in every iteration how long it may wait. If a client
sends one request at a time, this takes 7 % of the instructions of a request. The reactor does not know the calls of
Timers. It waits for a timer of the kernel (timerfd, Linux only), as it waits for sockets. Timers are for calls that are
nearly always pending, such as one each second.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from heapq import heapify, heappop, heappush
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["KernelTimer", "Timers", "timers_of"]

logger = logging.getLogger(__name__)

# TFD_NONBLOCK and TFD_CLOEXEC have the values of these flags.
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_NEVER = float("inf")

# The shortest time that is given to the kernel, in s: 0 would disarm its timer.
_SHORTEST = 1e-6
# The longest one, in s. A longer one may not fit into the kernel's structure.
_LONGEST = 1e7

# A call is made up to this time too early, in s, together with one that is due, because an expiry of the kernel's timer
# costs much more than a call.
_EARLY = 0.002

# More cancelled calls than this are removed before they are due, if most of the calls are cancelled.
_MANY_CANCELLED = 50


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


class KernelTimer:
    """A timer of the kernel. Its file descriptor `fd` is readable after it has expired.

    Raise OSError or AttributeError if this host has no such timers. The functions of the module os for them are new in
    Python 3.13.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = int(self._libc.timerfd_create(time.CLOCK_MONOTONIC, _FLAGS))
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    def expire_in(self, seconds: float) -> None:
        """Expire once, after this time in s, at the latest after 1e7 s. It replaces the time that was set before."""
        whole, fraction = divmod(round(min(max(seconds, _SHORTEST), _LONGEST) * 1e9), 10**9)
        new = _Itimerspec(value=_Timespec(whole, fraction))
        if self._libc.timerfd_settime(self.fd, 0, ctypes.byref(new), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def acknowledge(self) -> None:
        """Make the descriptor unreadable until the timer expires again."""
        # It is not readable if it was set again after it had expired.
        with suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)


@implementer(IReadDescriptor)
class Timers:
    """The methods callLater() and seconds() of a reactor. Use them in the reactor's thread. timers_of() makes Timers.

    A call may be made up to 2 ms too early, together with another one, so that both need one expiry of the timer of the
    kernel. When the reactor stops, the pending calls are discarded.

    Parameters
    ----------
    reactor
        The reactor.
    timer
        A timer of the kernel. It is closed when the reactor stops.
    monotonic
        Returns the time of the clock of this timer, in s.
    """

    def __init__(self, reactor: Any, timer: KernelTimer, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._reactor = reactor
        self._timer: KernelTimer | None = timer
        self.seconds = monotonic
        self._calls: list[DelayedCall] = []
        self._cancelled = 0
        # When the timer of the kernel expires.
        self._expires = _NEVER
        reactor.addReader(self)

    def callLater(self, delay: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function after `delay` s, and return an IDelayedCall, as callLater() of a reactor does."""
        # The reactor refuses a delay that is not a number. In the heap it would stop the other calls.
        if not delay > 0 or self._timer is None:
            return self._reactor.callLater(max(delay, 0), function, *args, **kwargs)
        call = DelayedCall(
            self.seconds() + delay, function, args, kwargs, self._on_cancel, self._on_reset, self.seconds
        )
        heappush(self._calls, call)
        if call.time < self._expires:
            self._set_timer()
        return call

    def _on_cancel(self, cancelled: DelayedCall) -> None:
        """Called before `cancelled` is marked as cancelled."""
        self._cancelled += 1
        if self._cancelled > max(_MANY_CANCELLED, len(self._calls) // 2):
            self._cancelled = 0
            self._calls = [call for call in self._calls if not call.cancelled and call is not cancelled]
            heapify(self._calls)

    def _on_reset(self, _: DelayedCall) -> None:
        """Called when a call was set to an earlier time."""
        heapify(self._calls)
        self._set_timer()

    def _set_timer(self) -> None:
        """Let the timer of the kernel expire when the first call is due."""
        if self._calls and self._timer is not None:
            self._expires = self._calls[0].time
            self._timer.expire_in(self._expires - self.seconds())
        else:
            self._expires = _NEVER

    def _take_due(self, due: float) -> DelayedCall | None:
        """Return the first call whose time is not later than `due`, or None."""
        while self._calls and self._calls[0].time <= due:
            call = heappop(self._calls)
            if call.cancelled:
                self._cancelled -= 1
            elif call.delayed_time > 0:
                call.activate_delay()
                heappush(self._calls, call)
            else:
                return call
        return None

    # -- IReadDescriptor ------------------------------------------------------------------------------

    def doRead(self) -> None:
        """Twisted's hook: the timer of the kernel has expired. Call what is due."""
        if self._timer is None:
            return
        self._timer.acknowledge()
        due = self.seconds() + _EARLY
        # Not more calls than were pending, because a call may set itself again for a time before `due`.
        for _ in range(len(self._calls)):
            if (call := self._take_due(due)) is None:
                break
            call.called = 1
            try:
                call.func(*call.args, **call.kw)
            except BaseException:  # the other calls are made as well, as a reactor does
                logger.exception("a delayed call failed")
        self._set_timer()

    def fileno(self) -> int:
        """Twisted's hook: the descriptor to wait for."""
        return -1 if self._timer is None else self._timer.fd

    def logPrefix(self) -> str:
        """Twisted's hook: a name for the log."""
        return "timers"

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's hook: the reactor stops."""
        if self._timer is None:
            return
        timer, self._timer = self._timer, None
        self._reactor.removeReader(self)
        timer.close()


def timers_of(reactor: Any) -> Any:
    """Return Timers that use this reactor. If there is no timer of the kernel, or the reactor is a fake, return it."""
    if sys.platform.startswith("linux") and IReactorFDSet.providedBy(reactor) and not isinstance(reactor, Clock):
        try:
            timer = KernelTimer()
        except (OSError, AttributeError):
            return reactor
        return Timers(reactor, timer)
    return reactor
