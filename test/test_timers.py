"""Timers: the same calls in the same order as a reactor makes, without a pending call in the reactor."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import sys
import unittest
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import AlreadyCalled, AlreadyCancelled, ConnectionDone
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from discosbackend.timers import KernelTimer, Timers, timers_of

from .programs import InMemory
from .settings import PATIENCE, wait_until

NEVER = float("inf")


class FakeTimer:
    """A kernel timer by the clock of a test."""

    def __init__(self, clock: Clock) -> None:
        self.fd = 99
        self.clock = clock
        self.expires = NEVER
        self.settings = 0
        self.closed = False

    def expire_in(self, seconds: float) -> None:
        assert not self.closed
        self.settings += 1
        self.expires = self.clock.seconds() + seconds

    def acknowledge(self) -> None:
        self.expires = NEVER

    def close(self) -> None:
        self.closed = True


class Pair:
    """Timers on a reactor in memory, and the clock by which time passes for both."""

    def __init__(self) -> None:
        self.reactor = InMemory()
        self.kernel = FakeTimer(self.reactor)
        kernel: Any = self.kernel
        self.timers = Timers(self.reactor, kernel, self.reactor.seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass; the reactor reads the timer when it expires."""
        end = self.reactor.seconds() + seconds
        while (left := min(self.kernel.expires, end) - self.reactor.seconds()) > 0 or self.kernel.expires <= end:
            self.reactor.advance(max(left, 0.0))
            if self.kernel.expires <= self.reactor.seconds():
                self.timers.doRead()


class TimersTests(unittest.TestCase):
    """With a fake timer of the kernel."""

    def setUp(self) -> None:
        self.pair = Pair()
        self.timers = self.pair.timers
        self.called: list[Any] = []

    def test_the_reactor_knows_no_call(self) -> None:
        self.timers.callLater(1.0, self.called.append, "a")
        self.assertEqual(self.pair.reactor.getDelayedCalls(), [])
        self.assertIn(self.timers, self.pair.reactor.readers)
        self.pair.advance(0.999)
        self.assertEqual(self.called, [])
        self.pair.advance(0.001)
        self.assertEqual(self.called, ["a"])

    def test_arguments(self) -> None:
        self.timers.callLater(0.5, lambda *args, **kwargs: self.called.append((args, kwargs)), 1, two=2)
        self.pair.advance(1.0)
        self.assertEqual(self.called, [((1,), {"two": 2})])

    def test_no_delay(self) -> None:
        """Such a call is made in the next iteration of the reactor, after its sockets, as the reactor does."""
        for delay in (0, 0.0, -1.0):
            self.timers.callLater(delay, self.called.append, delay)
        self.assertEqual((self.called, self.pair.kernel.settings), ([], 0))
        self.pair.reactor.advance(0)
        self.assertEqual(self.called, [0, 0.0, -1.0])

    def test_no_number(self) -> None:
        """Such a delay is given to the reactor, which refuses it. In the heap it would stop the other calls."""
        call = self.timers.callLater(float("nan"), self.called.append, 0)
        self.timers.callLater(1.0, self.called.append, 1)
        self.assertEqual(self.pair.reactor.getDelayedCalls(), [call])
        call.cancel()
        self.pair.advance(1.0)
        self.assertEqual(self.called, [1])

    def test_a_call_that_sets_itself_again(self) -> None:
        def again() -> None:
            self.called.append(self.timers.seconds())
            self.timers.callLater(1.0, again)

        again()
        self.pair.advance(3.5)
        self.assertEqual(self.called, [0.0, 1.0, 2.0, 3.0])

    def test_calls_at_about_the_same_time(self) -> None:
        """They are made when the first one is due."""
        for delay in (1.0, 1.002, 1.0030, 0.5):
            self.timers.callLater(delay, lambda: self.called.append(self.timers.seconds()))
        self.pair.advance(2.0)
        self.assertEqual(self.called, [0.5, 1.0, 1.0, 1.003])

    def test_a_call_that_sets_itself_again_after_a_very_short_time(self) -> None:
        """The reactor serves its sockets in between."""

        def again() -> None:
            self.called.append(0)
            if len(self.called) < 5:
                self.timers.callLater(0.001, again)

        again()
        self.pair.advance(1.0)
        self.assertEqual(len(self.called), 5)

    def test_the_kernel_is_asked_only_for_the_next_one(self) -> None:
        self.timers.callLater(1.0, self.called.append, 1)
        for delay in (1.5, 2.0, 1.0):
            self.timers.callLater(delay, self.called.append, delay)
        self.assertEqual(self.pair.kernel.settings, 1)
        self.timers.callLater(0.5, self.called.append, 0.5)
        self.assertEqual(self.pair.kernel.settings, 2)

    def test_one_that_fails(self) -> None:
        for function in (self.fail, sys.exit):
            self.timers.callLater(1.0, function)
        self.timers.callLater(1.0, self.called.append, 1)
        self.timers.callLater(2.0, self.called.append, 2)
        with self.assertLogs("discosbackend.timers", "ERROR") as logs:
            self.pair.advance(2.0)
        self.assertEqual((self.called, len(logs.records)), ([1, 2], 2))

    def test_cancelled(self) -> None:
        call = self.timers.callLater(1.0, self.called.append, 1)
        call.cancel()
        with self.assertNoLogs("discosbackend", "ERROR"):
            self.pair.advance(2.0)
        self.assertFalse(call.active())
        self.assertRaises(AlreadyCancelled, call.cancel)
        done = self.timers.callLater(1.0, self.called.append, 2)
        self.pair.advance(2.0)
        self.assertRaises(AlreadyCalled, done.cancel)
        self.assertEqual(self.called, [2])

    def test_many_cancelled_calls_are_not_kept(self) -> None:
        for _ in range(10_000):
            self.timers.callLater(60.0, self.called.append, 0).cancel()
        self.assertLess(len(self.timers._calls), 200)
        self.assertEqual(self.timers._cancelled, len(self.timers._calls))

    def test_after_the_reactor_has_stopped(self) -> None:
        self.timers.callLater(1.0, self.called.append, "before")
        for _ in range(2):
            self.timers.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(self.pair.kernel.closed)
        self.assertNotIn(self.timers, self.pair.reactor.readers)
        self.timers.callLater(1.0, self.called.append, "after")
        self.timers.doRead()
        self.pair.reactor.advance(1.0)
        self.assertEqual(self.called, ["after"])

    # A step: set a call after a delay; cancel, postpone or advance one of those that were set; let time pass.
    STEPS = st.lists(
        st.tuples(st.sampled_from(["set", "cancel", "delay", "reset", "pass"]), st.integers(0, 9), st.integers(0, 9)),
        max_size=60,
    )

    @given(STEPS)
    def test_as_a_reactor(self, steps: list[tuple[str, int, int]]) -> None:
        """The times are exact in binary. Calls that are due at the same time may be made in any order."""
        pair, clock = Pair(), Clock()
        sides: list[tuple[Any, Any]] = [
            (pair.timers, pair.advance),
            (clock, lambda seconds: step_by_step(clock, seconds)),
        ]
        found: list[list[tuple[float, int]]] = []
        for side, advance in sides:
            calls: list[Any] = []
            log: list[tuple[float, int]] = []
            for number, (action, which, amount) in enumerate(steps):
                time = amount / 4 + number / 256
                call = calls[which % len(calls)] if calls else None
                if action == "set" or call is None:
                    calls.append(
                        side.callLater(
                            time + 1 / 4, lambda n, log, now: log.append((now(), n)), number, log, side.seconds
                        )
                    )
                elif action == "pass":
                    advance(amount / 4)
                elif call.active():
                    (call.cancel if action == "cancel" else partial(getattr(call, action), time))()
            advance(100.0)
            found.append(sorted(log))
        self.assertEqual(*found)


def step_by_step(clock: Clock, seconds: float) -> None:
    """Let time pass, so that each call is made at its time."""
    end = clock.seconds() + seconds
    while (calls := clock.getDelayedCalls()) and (due := min(call.getTime() for call in calls)) <= end:
        clock.advance(max(due - clock.seconds(), 0.0))
    clock.advance(end - clock.seconds())


class KernelTimerTests(unittest.TestCase):
    """The kernel's own timer; skipped where there is none."""

    def setUp(self) -> None:
        try:
            self.timer = KernelTimer()
        except (OSError, AttributeError) as problem:
            self.skipTest(f"no timerfd: {problem}")
        self.addCleanup(self.timer.close)

    def readable(self, patience: float) -> bool:
        return bool(select.select([self.timer.fd], [], [], patience)[0])

    def remaining(self) -> float:
        """The time until it expires, in s. 0: it is disarmed."""
        lines = Path(f"/proc/self/fdinfo/{self.timer.fd}").read_text("ascii").splitlines()
        value = next(line for line in lines if line.startswith("it_value:"))
        seconds, nanoseconds = value.removeprefix("it_value:").strip(" ()").split(", ")
        return int(seconds) + int(nanoseconds) / 1e9

    def test_it_expires_once(self) -> None:
        self.assertFalse(self.readable(0))
        for seconds in (-1.0, 0.0, 1e-9, 1e-3):
            with self.subTest(seconds):
                self.timer.expire_in(seconds)
                self.assertTrue(self.readable(PATIENCE))
                self.timer.acknowledge()
                self.assertFalse(self.readable(0))

    def test_very_long_times(self) -> None:
        """A reactor accepts them. The kernel's structure cannot hold them all."""
        for seconds in (1e10, 2.0**64, 1e300, NEVER):
            with self.subTest(seconds):
                self.timer.expire_in(seconds)
                self.assertGreater(self.remaining(), 1e6)

    def test_a_later_time_replaces_an_earlier_one(self) -> None:
        self.timer.expire_in(1e-6)
        self.assertTrue(self.readable(PATIENCE))
        self.timer.expire_in(1000.5)
        self.assertFalse(self.readable(0))
        self.timer.acknowledge()


class TimersOfTests(unittest.TestCase):
    def reactor(self, kind: Callable[[], Any]) -> Any:
        reactor = kind()

        def close() -> None:
            reactor.disconnectAll()
            for descriptor in reactor._internalReaders:
                reactor.removeReader(descriptor)
                descriptor.connectionLost(Failure(ConnectionDone()))
            poller: Any = getattr(reactor, "_poller", None)
            if hasattr(poller, "close"):
                poller.close()

        self.addCleanup(close)
        return reactor

    @unittest.skipUnless(sys.platform.startswith("linux"), "only Linux has timerfd")
    def test_real_reactors(self) -> None:
        """Each kind makes the calls while it waits for descriptors, also if one of them can never be made."""
        from twisted.internet.asyncioreactor import AsyncioSelectorReactor
        from twisted.internet.epollreactor import EPollReactor
        from twisted.internet.pollreactor import PollReactor

        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        # The reactor makes it the loop of this thread.
        self.addCleanup(asyncio.set_event_loop, None)
        for kind in (SelectReactor, PollReactor, EPollReactor, partial(AsyncioSelectorReactor, loop)):
            with self.subTest(kind):
                reactor = self.reactor(kind)
                called: list[object] = []
                timers = timers_of(reactor)
                self.assertIsInstance(timers, Timers)
                timers.callLater(NEVER, called.append, "never")
                for delay in (0.002, 0.001):
                    timers.callLater(delay, called.append, delay)
                wait_until(lambda: reactor.iterate(0.001) or len(called) == 2)
                # On a busy machine the second one may be set a millisecond later, so that it is due later.
                self.assertCountEqual(called, [0.001, 0.002])
                self.assertEqual(reactor.getDelayedCalls(), [])
                self.assertIn(timers, reactor.getReaders())
                descriptor = timers.fileno()
                reactor.disconnectAll()
                self.assertRaises(OSError, os.fstat, descriptor)
                self.assertNotIn(timers, reactor.getReaders())
                self.assertRaises(AssertionError, timers.callLater, float("nan"), called.append, 0)

    def test_no_descriptor_left(self) -> None:
        """The reactor itself makes the calls then, without a message."""
        reactor = self.reactor(SelectReactor)
        before = reactor.getReaders()
        failure = OSError(errno.EMFILE, "too many open files")
        with mock.patch("discosbackend.timers.KernelTimer", side_effect=failure):
            self.assertIs(timers_of(reactor), reactor)
        self.assertEqual(reactor.getReaders(), before)

    def test_a_fake_clock_is_used_itself(self) -> None:
        for reactor in (Clock(), InMemory(), object()):
            self.assertIs(timers_of(reactor), reactor)
