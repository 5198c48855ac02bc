"""Tests of acquisition: time-tagged start and stop, protocol section 7."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import threading
import time
import unittest
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python import threadable

from discosbackend.acquisition import Acquisition, precise_wait, single_delay_wait
from discosbackend.backend import Backend
from discosbackend.errors import BackendError
from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import DBFactory
from discosbackend.rate_limited_logger import RateLimitedLogger
from discosbackend.ticks import Ticks

from .settings import LONG, PATIENCE

SECOND = 10**7
MILLISECOND = 10**4
DAY = 86400 * SECOND
# Odd and above 2^53, so no double holds it; the fake UTC clock begins here.
NOW = 17954194859619467

ROOM = "discosbackend.acquisition"
VERBS = ("start", "stop")
ELAPSED = {"start": "starting time already elapsed", "stop": "stop time already elapsed"}
TOO_FAR = {"start": "cannot start at given time", "stop": "cannot stop at given time"}

# What a backend may raise; the last three are not an Exception.
FAILURES: tuple[BaseException, ...] = (
    BackendError("no lock on the reference"),
    RuntimeError("no route to the board"),
    ValueError(),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
)


class SteadyClock(Clock):
    """A fake clock that notices when it is asked for calls without end while its time stands still."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.rightNow = seconds
        self.asked: list[float] = []
        self._last = (seconds, 0)

    def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> Any:
        """Remember the delay; many calls at one instant are an endless loop."""
        self.asked.append(delay)
        at, count = self._last
        self._last = (self.rightNow, count + 1 if at == self.rightNow else 1)
        if self._last[1] > 50:
            raise AssertionError(f"50 calls were asked for while the clock stood at {self.rightNow!r}")
        return super().callLater(delay, callable, *args, **kw)

    def pass_until(self, seconds: float) -> None:
        """Let time pass as it does: each call at its own time, not all of them at the end."""
        while self.calls and self.calls[0].getTime() <= seconds:
            self.rightNow = max(self.rightNow, self.calls[0].getTime())
            self.on_call()
            self.advance(0)
        self.rightNow = seconds

    def on_call(self) -> None:
        """Something is about to be called; to be replaced."""


class Bench:
    """An acquisition on a fake clock, with a UTC clock that runs with it and can be stepped."""

    def __init__(self, **arguments: Any) -> None:
        self.clock = SteadyClock()
        self.offset = NOW
        self.told: list[tuple[str, int]] = []
        self.late: list[int] = []
        self.raises: dict[str, BaseException | None] = {"begin": None, "end": None}
        self.does: dict[str, Callable[[Ticks], object]] = {}
        arguments.setdefault("clock", self.clock)
        arguments.setdefault("now_ticks", self.now)
        self.acquisition = Acquisition(self.begin, self.end, **arguments)
        self.start = self.acquisition.start
        self.stop = self.acquisition.stop

    def now(self) -> int:
        """UTC in ticks."""
        return self.offset + round(self.clock.seconds() * SECOND)

    def begin(self, instant: Ticks) -> object:
        """The backend's begin."""
        return self._tell("begin", instant)

    def end(self, instant: Ticks) -> object:
        """The backend's end."""
        return self._tell("end", instant)

    def _tell(self, role: str, instant: Ticks) -> object:
        if not isinstance(instant, Ticks):
            raise AssertionError(f"{role} was told {instant!r}, which is no Ticks")
        error = self.raises[role]
        if error is not None:
            raise error.with_traceback(None)
        self.told.append((role, int(instant)))
        self.late.append(self.now() - instant)
        return self.does[role](instant) if role in self.does else None

    def step(self, ticks: int) -> None:
        """Step the UTC clock; the other one runs on."""
        self.offset += ticks

    def wait(self, ticks: int) -> None:
        """Let time pass."""
        self.clock.pass_until((round(self.clock.seconds() * SECOND) + ticks) / SECOND)

    def do(self, verb: str, timestamp: Any = None) -> None:
        """Start or stop."""
        getattr(self.acquisition, verb)(timestamp)

    @property
    def state(self) -> tuple[bool, int | None, int | None]:
        """Acquiring, and what is pending."""
        return self.acquisition.acquiring, self.acquisition.pending_start, self.acquisition.pending_stop


def acquiring_bench(**arguments: Any) -> Bench:
    """One that acquires already, and has forgotten how that came about."""
    bench = Bench(**arguments)
    bench.start()
    bench.told.clear()
    bench.late.clear()
    return bench


class AcquisitionTestCase(unittest.TestCase):
    """What the tests below share."""

    def assert_refused(self, reason: str, function: Callable[..., object], *arguments: object) -> None:
        """The whole reason, since clients are sent it."""
        with self.assertRaises(BackendError) as caught:
            function(*arguments)
        self.assertEqual(str(caught.exception), reason)


class StartNowTests(AcquisitionTestCase):
    """`start` without a time."""

    def test_idle_at_first(self) -> None:
        bench = Bench()
        self.assertEqual(bench.state, (False, None, None))
        self.assertIsNone(bench.acquisition.last_lateness)
        self.assertEqual((bench.told, bench.clock.asked), ([], []))

    def test_begins_now(self) -> None:
        bench = Bench()
        bench.wait(12345678)
        bench.start()
        self.assertEqual(bench.told, [("begin", NOW + 12345678)])
        self.assertEqual(bench.state, (True, None, None))

    def test_refused_while_acquiring(self) -> None:
        bench = acquiring_bench()
        bench.start(NOW + 5 * SECOND)
        bench.stop(NOW + 7 * SECOND)
        self.assert_refused("already acquiring", bench.start)
        self.assertEqual(bench.told, [])
        self.assertEqual(bench.state, (True, NOW + 5 * SECOND, NOW + 7 * SECOND))

    def test_drops_a_pending_start(self) -> None:
        bench = Bench()
        bench.start(NOW + 5 * SECOND)
        bench.wait(SECOND)
        bench.start()
        self.assertEqual(bench.state, (True, None, None))
        self.assertEqual(bench.clock.getDelayedCalls(), [])
        with self.assertNoLogs(ROOM, logging.WARNING):
            bench.wait(10 * SECOND)
        self.assertEqual(bench.told, [("begin", NOW + SECOND)])

    def test_keeps_a_pending_stop(self) -> None:
        for order in (VERBS, VERBS[::-1]):
            with self.subTest(order):
                bench = Bench()
                times = {"start": NOW + 3 * SECOND, "stop": NOW + 5 * SECOND}
                for verb in order:
                    bench.do(verb, times[verb])
                bench.start()
                self.assertEqual(bench.state, (True, None, NOW + 5 * SECOND))
                bench.wait(10 * SECOND)
                self.assertEqual(bench.told, [("begin", NOW), ("end", NOW + 5 * SECOND)])


class StopNowTests(AcquisitionTestCase):
    """`stop` without a time."""

    def test_ends_now(self) -> None:
        bench = acquiring_bench()
        bench.wait(3 * SECOND)
        bench.stop()
        self.assertEqual(bench.told, [("end", NOW + 3 * SECOND)])
        self.assertEqual(bench.state, (False, None, None))

    def test_clears_both_while_acquiring(self) -> None:
        bench = acquiring_bench()
        bench.start(NOW + 5 * SECOND)
        bench.stop(NOW + 7 * SECOND)
        bench.stop()
        self.assertEqual(bench.state, (False, None, None))
        self.assertEqual(bench.clock.getDelayedCalls(), [])
        bench.wait(10 * SECOND)
        self.assertEqual(bench.told, [("end", NOW)])

    def test_cancels_a_pending_start(self) -> None:
        """The original failed here, and started anyway."""
        for stop_at in (None, NOW + 2 * SECOND, NOW + 8 * SECOND):
            with self.subTest(stop_at=stop_at):
                bench = Bench()
                bench.start(NOW + 5 * SECOND)
                if stop_at is not None:
                    bench.stop(stop_at)
                bench.wait(SECOND)
                bench.stop()
                self.assertEqual(bench.state, (False, None, None))
                self.assertEqual(bench.clock.getDelayedCalls(), [])
                with self.assertNoLogs(ROOM, logging.WARNING):
                    bench.wait(10 * SECOND)
                self.assertEqual(bench.told, [], "nothing was acquired, so nothing ends")
                self.assert_refused("not acquiring", bench.stop)

    def test_refused_while_idle(self) -> None:
        bench = Bench()
        self.assert_refused("not acquiring", bench.stop)
        bench.stop(NOW + 5 * SECOND)
        self.assert_refused("not acquiring", bench.stop)
        self.assertEqual(bench.state, (False, None, NOW + 5 * SECOND))
        bench.start()
        bench.wait(5 * SECOND)
        self.assertEqual(bench.told, [("begin", NOW), ("end", NOW + 5 * SECOND)])

    def test_may_be_accepted_while_idle(self) -> None:
        bench = Bench(stop_when_idle="ok")
        bench.stop()
        self.assertEqual((bench.told, bench.state), ([], (False, None, None)))
        bench.stop(NOW + 5 * SECOND)
        bench.stop()
        self.assertEqual(bench.state, (False, None, NOW + 5 * SECOND), "a pending stop stays")
        bench.start(NOW + 7 * SECOND)
        bench.stop()
        self.assertEqual((bench.told, bench.state), ([], (False, None, None)))


class CancelTests(AcquisitionTestCase):
    """Dropping what is pending, which no request of the protocol does by itself."""

    def test_drops_both(self) -> None:
        for acquiring in (False, True):
            with self.subTest(acquiring=acquiring):
                bench = acquiring_bench() if acquiring else Bench()
                bench.start(NOW + 3 * SECOND)
                bench.stop(NOW + 5 * SECOND)
                bench.acquisition.cancel()
                self.assertEqual(bench.state, (acquiring, None, None))
                self.assertEqual(bench.clock.getDelayedCalls(), [])
                with self.assertNoLogs(ROOM, logging.WARNING):
                    bench.wait(6 * SECOND)
                self.assertEqual(bench.told, [])

    def test_nothing_pending(self) -> None:
        bench = Bench()
        bench.acquisition.cancel()
        self.assertEqual((bench.state, bench.clock.asked), ((False, None, None), []))


class ArmingTests(AcquisitionTestCase):
    """`start,T` and `stop,T` until they come due."""

    def test_start_takes_place_at_its_time(self) -> None:
        # Around the sleep of half a second, the 5 ms before it, and the smallest unit.
        for ahead in (0, 1, 2, 49_999, 50_000, 50_001, 50_002, 5_050_000, 5_050_001, 3 * SECOND + 7):
            with self.subTest(ahead=ahead):
                bench = Bench()
                bench.start(NOW + ahead)
                self.assertEqual(bench.state, (False, NOW + ahead, None))
                self.assertEqual(bench.told, [], "a request is answered before anything happens")
                if ahead:
                    bench.wait(ahead - 1)
                    self.assertEqual(bench.told, [])
                    self.assertFalse(bench.acquisition.acquiring)
                    bench.wait(1)
                # A delay that is too short for a double to hold may be lengthened to a microsecond.
                bench.wait(10)
                self.assertEqual(bench.told, [("begin", NOW + ahead)])
                self.assertEqual(bench.state, (True, None, None))
                self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_on_time(self) -> None:
        bench = Bench()
        bench.start(NOW + 2 * SECOND)
        bench.stop(NOW + 4 * SECOND)
        bench.wait(5 * SECOND)
        self.assertEqual(bench.told, [("begin", NOW + 2 * SECOND), ("end", NOW + 4 * SECOND)])
        self.assertEqual(bench.late, [0, 0])

    def test_both_may_be_pending(self) -> None:
        for order in (VERBS, VERBS[::-1]):
            with self.subTest(order):
                bench = Bench()
                times = {"start": NOW + 3 * SECOND, "stop": NOW + 5 * SECOND}
                for verb in order:
                    bench.do(verb, times[verb])
                self.assertEqual(bench.state, (False, NOW + 3 * SECOND, NOW + 5 * SECOND))
                bench.wait(4 * SECOND)
                self.assertEqual(bench.state, (True, None, NOW + 5 * SECOND))
                bench.wait(4 * SECOND)
                self.assertEqual(bench.state, (False, None, None))
                self.assertEqual(bench.told, [("begin", NOW + 3 * SECOND), ("end", NOW + 5 * SECOND)])

    def test_stop_before_start_while_acquiring(self) -> None:
        for order in (VERBS, VERBS[::-1]):
            with self.subTest(order):
                bench = acquiring_bench()
                times = {"start": NOW + 5 * SECOND, "stop": NOW + 3 * SECOND}
                for verb in order:
                    bench.do(verb, times[verb])
                bench.wait(4 * SECOND)
                self.assertEqual(bench.state, (False, NOW + 5 * SECOND, None))
                bench.wait(4 * SECOND)
                self.assertEqual(bench.told, [("end", NOW + 3 * SECOND), ("begin", NOW + 5 * SECOND)])
                self.assertEqual(bench.state, (True, None, None))

    def test_newer_start_replaces(self) -> None:
        for first, second in ((3, 6), (6, 3)):
            with self.subTest(first=first, second=second):
                bench = Bench()
                bench.start(NOW + first * SECOND)
                bench.stop(NOW + 8 * SECOND)
                bench.wait(SECOND)
                bench.start(NOW + second * SECOND)
                self.assertEqual(bench.state, (False, NOW + second * SECOND, NOW + 8 * SECOND))
                self.assertEqual(len(bench.clock.getDelayedCalls()), 1)
                with self.assertNoLogs(ROOM, logging.WARNING):
                    bench.wait(9 * SECOND)
                self.assertEqual(bench.told, [("begin", NOW + second * SECOND), ("end", NOW + 8 * SECOND)])

    def test_newer_stop_replaces(self) -> None:
        for first, second in ((3, 6), (6, 3)):
            with self.subTest(first=first, second=second):
                bench = acquiring_bench()
                bench.stop(NOW + first * SECOND)
                bench.start(NOW + 8 * SECOND)
                bench.wait(SECOND)
                bench.stop(NOW + second * SECOND)
                self.assertEqual(bench.state, (True, NOW + 8 * SECOND, NOW + second * SECOND))
                self.assertEqual(len(bench.clock.getDelayedCalls()), 1)
                with self.assertNoLogs(ROOM, logging.WARNING):
                    bench.wait(9 * SECOND)
                self.assertEqual(bench.told, [("end", NOW + second * SECOND), ("begin", NOW + 8 * SECOND)])

    def test_may_be_armed_in_any_state(self) -> None:
        """A start while acquiring is judged when it comes due, and so is a stop while idle."""
        bench = acquiring_bench()
        bench.start(NOW + SECOND)
        self.assertEqual(bench.state, (True, NOW + SECOND, None))
        bench = Bench()
        bench.stop(NOW + SECOND)
        self.assertEqual(bench.state, (False, None, NOW + SECOND))

    def test_many_scans_one_after_the_other(self) -> None:
        bench = Bench()
        expected = []
        for scan in range(20):
            start, stop = bench.now() + 1_234_567 + scan, bench.now() + 3_333_333
            bench.start(start)
            bench.stop(stop)
            bench.wait(4_000_001)
            expected += [("begin", start), ("end", stop)]
        self.assertEqual(bench.told, expected)
        self.assertEqual(bench.late, [0] * 40)


class RefusedTimeTests(AcquisitionTestCase):
    """Times that cannot be armed; what was pending before stays as it was."""

    def refused(self, verb: str) -> list[tuple[Any, str]]:
        """Times, and the whole reason."""
        return [
            (Ticks(NOW - 1), ELAPSED[verb]),
            (Ticks(1), ELAPSED[verb]),
            (NOW - DAY, ELAPSED[verb]),
            (Ticks(NOW + 7 * DAY + 1), TOO_FAR[verb]),
            (Ticks(10**19 - 1), TOO_FAR[verb]),
            (Ticks(0), "wrong timestamp '0'"),
            (0, "wrong timestamp '0'"),
            (Ticks(-1), "wrong timestamp '-1'"),
            (Ticks(-NOW), f"wrong timestamp '-{NOW}'"),
            (-1.5, "wrong timestamp '-1.5'"),
            (-(10**19) + 1, f"wrong timestamp '{-(10**19) + 1}'"),
            ("soon", "wrong timestamp 'soon'"),
            ("a,b!\n", "wrong timestamp 'a?b??'"),
            (float("nan"), "wrong timestamp 'nan'"),
            (float("inf"), "wrong timestamp 'inf'"),
            (np.array([1.5, 2.5]), "wrong timestamp '[1.5 2.5]'"),
        ]

    def test_what_was_pending_stays(self) -> None:
        for verb in VERBS:
            for timestamp, reason in self.refused(verb):
                for acquiring in (False, True):
                    with self.subTest(verb=verb, timestamp=timestamp, acquiring=acquiring):
                        bench = acquiring_bench() if acquiring else Bench()
                        start, stop = NOW + 3 * SECOND, NOW + 5 * SECOND
                        if acquiring:
                            start, stop = stop, start
                        bench.start(start)
                        bench.stop(stop)
                        self.assert_refused(reason, bench.do, verb, timestamp)
                        self.assertEqual(bench.state, (acquiring, start, stop))
                        self.assertEqual(len(bench.clock.getDelayedCalls()), 1)
                        bench.wait(6 * SECOND)
                        self.assertEqual(sorted(bench.told), [("begin", start), ("end", stop)])

    def test_nothing_becomes_pending(self) -> None:
        for verb in VERBS:
            for timestamp, reason in self.refused(verb):
                with self.subTest(verb=verb, timestamp=timestamp):
                    bench = Bench()
                    self.assert_refused(reason, bench.do, verb, timestamp)
                    self.assertEqual(bench.state, (False, None, None))
                    self.assertEqual(bench.clock.asked, [])

    def test_bounds_are_exact(self) -> None:
        """Now has not elapsed, and the horizon is not further ahead than itself."""
        for horizon in (None, 10, 0.5, 86400.25):
            limit = 7 * DAY if horizon is None else round(horizon * SECOND)
            bench = Bench() if horizon is None else Bench(horizon=horizon)
            bench.wait(3 * SECOND + 1)
            for verb in VERBS:
                with self.subTest(verb=verb, horizon=horizon):
                    self.assert_refused(ELAPSED[verb], bench.do, verb, bench.now() - 1)
                    self.assert_refused(TOO_FAR[verb], bench.do, verb, bench.now() + limit + 1)
                    for accepted in (bench.now(), bench.now() + 1, bench.now() + limit):
                        bench.do(verb, accepted)
                        self.assertIn(accepted, bench.state)

    def test_judged_against_the_clock_as_stepped(self) -> None:
        bench = Bench()
        bench.step(DAY)
        self.assert_refused(ELAPSED["start"], bench.start, NOW + DAY - 1)
        bench.start(NOW + 8 * DAY)
        bench.step(-2 * DAY)
        self.assert_refused(TOO_FAR["stop"], bench.stop, NOW + 6 * DAY + 1)
        bench.stop(NOW - DAY)
        self.assertEqual(bench.state, (False, NOW + 8 * DAY, NOW - DAY))

    def test_settings(self) -> None:
        cases: list[tuple[type[Exception], dict[str, Any]]] = [
            (ValueError, {"horizon": 0}),
            (ValueError, {"horizon": -1}),
            (ValueError, {"horizon": float("nan")}),
            (ValueError, {"stop_when_idle": "OK"}),
            (ValueError, {"stop_when_idle": True}),
        ]
        for error, arguments in cases:
            with self.subTest(arguments), self.assertRaises(error):
                Bench(**arguments)


class TimestampTests(AcquisitionTestCase):
    """A backend passes on whatever it was given, and what it was given depends on its kind."""

    def test_kinds(self) -> None:
        from discosbackend.timediscos import time_from_ticks

        second = 1795419487
        at = second * SECOND
        cases = {
            "Ticks": (Ticks(NOW + SECOND), NOW + SECOND),
            "int of ticks": (NOW + SECOND, NOW + SECOND),
            "numpy int of ticks": (np.int64(NOW + SECOND), NOW + SECOND),
            "Time": (time_from_ticks(NOW + SECOND), NOW + SECOND),
            "int of Unix seconds": (second, at),
            "numpy int of Unix seconds": (np.int32(second), at),
            "float of Unix seconds": (second + 0.25, at + SECOND // 4),
            "numpy float of Unix seconds": (np.float64(second + 0.25), at + SECOND // 4),
            "float of ticks": (float(at), at),
        }
        for name, (timestamp, expected) in cases.items():
            for verb, role in (("start", "begin"), ("stop", "end")):
                with self.subTest(name, verb=verb):
                    bench = acquiring_bench() if verb == "stop" else Bench()
                    bench.do(verb, timestamp)
                    self.assertIn(expected, bench.state)
                    bench.wait(20 * SECOND)
                    self.assertEqual(bench.told, [(role, expected)])

    def test_pending_times_are_ticks(self) -> None:
        bench = Bench()
        bench.start(1795419487)
        bench.stop(1795419488.5)
        for pending in (bench.acquisition.pending_start, bench.acquisition.pending_stop):
            self.assertIs(type(pending), Ticks)


class ComingDueTests(AcquisitionTestCase):
    """What finds the wrong state changes nothing and is logged."""

    def test_start_while_acquiring(self) -> None:
        bench = acquiring_bench()
        bench.start(NOW + 2 * SECOND)
        bench.stop(NOW + 5 * SECOND)
        with self.assertLogs(ROOM, logging.WARNING) as logs:
            bench.wait(3 * SECOND)
        self.assertEqual(len(logs.records), 1)
        self.assertIn("1795419487.9619467", logs.records[0].getMessage())
        self.assertEqual((bench.told, bench.state), ([], (True, None, NOW + 5 * SECOND)))
        self.assertIsNone(bench.acquisition.last_lateness, "nothing took place")

    def test_stop_while_idle(self) -> None:
        bench = Bench()
        bench.stop(NOW + 2 * SECOND)
        bench.start(NOW + 5 * SECOND)
        with self.assertLogs(ROOM, logging.WARNING) as logs:
            bench.wait(3 * SECOND)
        self.assertEqual(len(logs.records), 1)
        self.assertIn("1795419487.9619467", logs.records[0].getMessage())
        self.assertEqual((bench.told, bench.state), ([], (False, NOW + 5 * SECOND, None)))
        bench.wait(3 * SECOND)
        self.assertEqual(bench.told, [("begin", NOW + 5 * SECOND)])

    def test_a_flood_of_times_that_change_nothing(self) -> None:
        """A client can arm a stop every millisecond: five lines of a kind a second, and a count."""
        failed, refused = RuntimeError("no"), BackendError("no")
        for bench, verb, problem, words in (
            (Bench(), "stop", None, "not acquiring"),
            (acquiring_bench(), "start", None, "already acquiring"),
            (Bench(), "start", failed, "failed"),
            (acquiring_bench(), "stop", failed, "failed"),
            (Bench(), "start", refused, "refused"),
            (acquiring_bench(), "stop", refused, "refused"),
        ):
            with self.subTest(verb=verb, words=words):
                bench.raises.update(begin=problem, end=problem)
                with self.assertLogs(ROOM, logging.WARNING) as logs:
                    for _ in range(500):
                        bench.do(verb, bench.now() + MILLISECOND)
                        bench.wait(2 * MILLISECOND)
                    bench.wait(2 * SECOND)
                messages = [record.getMessage() for record in logs.records]
                self.assertEqual(len(messages), 6, messages)
                self.assertIn(words, messages[4])
                self.assertIn("495 more lines", messages[5])

    def test_equal_times_while_acquiring(self) -> None:
        for order in (VERBS, VERBS[::-1]):
            with self.subTest(order):
                bench = acquiring_bench()
                for verb in order:
                    bench.do(verb, NOW + SECOND)
                with self.assertNoLogs(ROOM, logging.WARNING):
                    bench.wait(2 * SECOND)
                self.assertEqual(bench.told, [("end", NOW + SECOND), ("begin", NOW + SECOND)])
                self.assertEqual(bench.state, (True, None, None))

    def test_equal_times_while_idle(self) -> None:
        for order in (VERBS, VERBS[::-1]):
            with self.subTest(order):
                bench = Bench()
                for verb in order:
                    bench.do(verb, NOW + SECOND)
                with self.assertLogs(ROOM, logging.WARNING) as logs:
                    bench.wait(2 * SECOND)
                self.assertEqual(len(logs.records), 2)
                self.assertEqual((bench.told, bench.state), ([], (False, None, None)))
                self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_equal_times_when_ending_fails(self) -> None:
        bench = acquiring_bench()
        bench.raises["end"] = BackendError("the fifo is stuck")
        bench.start(NOW + SECOND)
        bench.stop(NOW + SECOND)
        with self.assertLogs(ROOM, logging.WARNING) as logs:
            bench.wait(2 * SECOND)
        self.assertEqual(len(logs.records), 2)
        self.assertEqual((bench.told, bench.state), ([], (True, None, None)))

    def test_one_tick_apart_is_not_equal(self) -> None:
        bench = Bench()
        bench.stop(NOW + SECOND + 1)
        bench.start(NOW + SECOND)
        bench.wait(2 * SECOND)
        self.assertEqual(bench.told, [("begin", NOW + SECOND), ("end", NOW + SECOND + 1)])

    def test_late_ones_come_in_the_order_of_their_times(self) -> None:
        """A machine that slept: the backend is told the times themselves, not the moment it woke."""
        for order in (VERBS, VERBS[::-1]):
            with self.subTest(order=order):
                bench = acquiring_bench()
                times = {"stop": NOW + SECOND, "start": NOW + 2 * SECOND}
                for verb in order:
                    bench.do(verb, times[verb])
                with self.assertLogs(ROOM, logging.WARNING) as logs:
                    bench.clock.advance(60)
                self.assertEqual(bench.told, [("end", NOW + SECOND), ("begin", NOW + 2 * SECOND)])
                self.assertEqual(bench.state, (True, None, None))
                self.assertEqual([record.levelname for record in logs.records], ["WARNING", "WARNING"])
                wanted = (["timed stop", "59.0 s late"], ["timed start", "58.0 s late"])
                for record, words in zip(logs.records, wanted, strict=True):
                    for word in (*words, "1795419"):
                        self.assertIn(word, record.getMessage())

    def test_more_than_a_second_late_is_a_warning(self) -> None:
        for verb in VERBS:
            for late, warned in ((0, False), (900, False), (1000, False), (1100, True), (8000, True)):
                with self.subTest(verb=verb, late=late):
                    bench = acquiring_bench() if verb == "stop" else Bench()
                    bench.do(verb, NOW + SECOND)
                    with self.assertLogs(ROOM, logging.DEBUG) as logs:
                        bench.clock.advance(1 + late / 1000)
                    self.assertEqual([r.levelno > logging.INFO for r in logs.records], [True] if warned else [False])
                    self.assertEqual(len(bench.told), 1, "carried out all the same")

    def test_start_and_stop_that_have_both_passed(self) -> None:
        """Nothing is acquired: an end before its begin would be worse, and the log says which scan was lost."""
        for length in (1, MILLISECOND, SECOND, 50 * SECOND):
            for order in (VERBS, VERBS[::-1]):
                with self.subTest(length=length, order=order):
                    bench = Bench()
                    times = {"start": NOW + SECOND, "stop": NOW + SECOND + length}
                    for verb in order:
                        bench.do(verb, times[verb])
                    with self.assertLogs(ROOM, logging.WARNING) as logs:
                        bench.clock.advance(60)
                    self.assertEqual((bench.told, bench.state), ([], (False, None, None)))
                    self.assertEqual(bench.clock.getDelayedCalls(), [])
                    (record,) = logs.records
                    self.assertEqual(record.levelname, "ERROR")
                    for instant in times.values():
                        self.assertIn(Ticks(instant).unix_text(), record.getMessage())
                    self.assertIn("lost", record.getMessage())
                    self.assertIn("59.0 s", record.getMessage())
                    bench.start()
                    self.assertEqual(len(bench.told), 1, "and it goes on")

    def test_only_the_start_has_passed(self) -> None:
        bench = Bench()
        bench.start(NOW + SECOND)
        bench.stop(NOW + 60 * SECOND)
        with self.assertLogs(ROOM, logging.WARNING):
            bench.clock.advance(59)
        self.assertEqual(bench.told, [("begin", NOW + SECOND)])
        bench.wait(2 * SECOND)
        self.assertEqual(bench.told[1:], [("end", NOW + 60 * SECOND)])

    def test_what_had_come_due_precedes_a_request(self) -> None:
        """A process that was stopped reads its requests before its timers run."""
        slept = 9 * SECOND
        for armed, request, told, state in (
            # A stop that had passed must not end what begins afterwards.
            ({"stop": 2}, ("start", None), [("begin", slept)], (True, None, None)),
            ({"stop": 2, "start": 1}, ("start", None), [("begin", slept)], (True, None, None)),
            ({"start": 2}, ("start", 20), [("begin", 2 * SECOND)], (True, 20, None)),
            ({"start": 2}, ("stop", 20), [("begin", 2 * SECOND)], (True, None, 20)),
            ({"start": 2}, ("stop", None), [("begin", 2 * SECOND), ("end", slept)], (False, None, None)),
            ({"start": 2, "stop": 5}, ("stop", 20), [], (False, None, 20)),
        ):
            with self.subTest(armed, request=request):
                bench = Bench()
                for verb, second in armed.items():
                    bench.do(verb, NOW + second * SECOND)
                bench.clock.rightNow = slept / SECOND
                verb, at = request
                with self.assertLogs(ROOM, logging.WARNING):
                    bench.do(verb, None if at is None else NOW + at * SECOND)
                self.assertEqual(bench.told, [(role, NOW + ticks) for role, ticks in told])
                acquiring, *pending = state
                self.assertEqual(bench.state, (acquiring, *(at and NOW + at * SECOND for at in pending)))
                self.assertEqual(len(bench.clock.getDelayedCalls()), int(pending != [None, None]))

    def test_what_had_come_due_precedes_a_refusal(self) -> None:
        bench = Bench()
        bench.start(NOW + 2 * SECOND)
        bench.clock.rightNow = 9.0
        with self.assertLogs(ROOM, logging.WARNING):
            self.assert_refused("already acquiring", bench.start)
        self.assertEqual(bench.state, (True, None, None))
        self.assertEqual(bench.clock.getDelayedCalls(), [])
        bench.acquisition.cancel()
        self.assertEqual(bench.told, [("begin", NOW + 2 * SECOND)])

    def test_last_lateness(self) -> None:
        bench = Bench()
        bench.start(NOW + SECOND)
        bench.clock.advance(0.4)
        self.assertIsNone(bench.acquisition.last_lateness)
        bench.clock.advance(1.1)
        self.assertEqual(bench.acquisition.last_lateness, 0.5)
        bench.stop()
        self.assertEqual(bench.acquisition.last_lateness, 0.5, "an immediate one is never late")
        bench.start()
        bench.stop(bench.now() + SECOND)
        bench.clock.advance(1.25)
        self.assertEqual(bench.acquisition.last_lateness, 0.25)
        bench.start(bench.now() + SECOND)
        bench.wait(SECOND)
        self.assertEqual(bench.acquisition.last_lateness, 0.0)


class FailingBackendTests(AcquisitionTestCase):
    """begin and end that raise, or that are not done when they return."""

    def test_begin_now(self) -> None:
        for error in FAILURES:
            with self.subTest(error=error):
                bench = Bench()
                bench.start(NOW + 3 * SECOND)
                bench.stop(NOW + 5 * SECOND)
                bench.raises["begin"] = error
                with self.assertRaises(type(error)) as caught:
                    bench.start()
                self.assertIs(caught.exception, error)
                self.assertEqual(bench.state, (False, NOW + 3 * SECOND, NOW + 5 * SECOND))
                bench.raises["begin"] = None
                bench.wait(6 * SECOND)
                self.assertEqual(bench.told, [("begin", NOW + 3 * SECOND), ("end", NOW + 5 * SECOND)])

    def test_end_now(self) -> None:
        """It runs still, so that it can be stopped again."""
        for error in FAILURES:
            with self.subTest(error=error):
                bench = acquiring_bench()
                bench.start(NOW + 7 * SECOND)
                bench.stop(NOW + 5 * SECOND)
                bench.raises["end"] = error
                with self.assertRaises(type(error)) as caught:
                    bench.stop()
                self.assertIs(caught.exception, error)
                self.assertEqual(bench.state, (True, NOW + 7 * SECOND, NOW + 5 * SECOND))
                bench.raises["end"] = None
                bench.stop()
                self.assertEqual((bench.told, bench.state), ([("end", NOW)], (False, None, None)))

    def test_begin_at_its_time(self) -> None:
        for error in FAILURES:
            with self.subTest(error=error):
                bench = Bench()
                bench.start(NOW + SECOND)
                bench.stop(NOW + 3 * SECOND)
                bench.raises["begin"] = error
                with self.assertLogs(ROOM, logging.WARNING) as logs:
                    bench.wait(2 * SECOND)
                self.assertEqual(len(logs.records), 1)
                self.assertIn("1795419486.9619467", logs.records[0].getMessage())
                self.assertEqual(bench.state, (False, None, NOW + 3 * SECOND), "nothing is acquired")
                with self.assertLogs(ROOM, logging.WARNING):
                    bench.wait(2 * SECOND)
                self.assertEqual((bench.told, bench.state), ([], (False, None, None)))
                bench.raises["begin"] = None
                bench.start(bench.now() + SECOND)
                bench.wait(2 * SECOND)
                self.assertEqual(bench.told, [("begin", NOW + 5 * SECOND)])

    def test_end_at_its_time(self) -> None:
        for error in FAILURES:
            with self.subTest(error=error):
                bench = acquiring_bench()
                bench.stop(NOW + SECOND)
                bench.start(NOW + 9 * SECOND)
                bench.raises["end"] = error
                with self.assertLogs(ROOM, logging.WARNING) as logs:
                    bench.wait(2 * SECOND)
                self.assertEqual(len(logs.records), 1)
                self.assertEqual(bench.state, (True, NOW + 9 * SECOND, None))
                bench.raises["end"] = None
                bench.stop()
                self.assertEqual(bench.told, [("end", NOW + 2 * SECOND)])
                self.assertEqual(bench.state, (False, None, None))

    def test_refusals_are_logged_in_one_line(self) -> None:
        """An expected failure costs no traceback, and its text cannot forge a line of the log."""
        for error in FAILURES:
            for verb, role in (("start", "begin"), ("stop", "end")):
                with self.subTest(error=error, verb=verb):
                    bench = acquiring_bench() if verb == "stop" else Bench()
                    expected = isinstance(error, BackendError)
                    bench.raises[role] = BackendError("no lock\nERROR all is lost") if expected else error
                    bench.do(verb, NOW + SECOND)
                    with self.assertLogs(ROOM, logging.WARNING) as logs:
                        bench.wait(2 * SECOND)
                    (record,) = logs.records
                    self.assertEqual(bool(record.exc_info), not expected)
                    self.assertNotIn("\n", record.getMessage())
                    self.assertIn(verb, record.getMessage())
                    if expected:
                        self.assertIn("no lock", record.getMessage())

    def unfinished(self) -> dict[str, Callable[[Ticks], object]]:
        """Functions that are not done when they return; nobody would wait for them."""

        async def later() -> None:
            pass

        def coroutine(_: Ticks) -> object:
            return later()

        def deferred(_: Ticks) -> object:
            return Deferred()

        return {"coroutine": coroutine, "Deferred": deferred}

    def test_unfinished_now(self) -> None:
        for name, unfinished in self.unfinished().items():
            for verb, role in (("start", "begin"), ("stop", "end")):
                with self.subTest(name, verb=verb), warnings.catch_warnings():
                    warnings.simplefilter("error")
                    bench = acquiring_bench() if verb == "stop" else Bench()
                    before = bench.state
                    bench.does[role] = unfinished
                    with self.assertRaises(TypeError):
                        bench.do(verb)
                    self.assertEqual(bench.state, before)

    def test_unfinished_at_its_time(self) -> None:
        for name, unfinished in self.unfinished().items():
            for verb, role in (("start", "begin"), ("stop", "end")):
                with self.subTest(name, verb=verb):
                    bench = acquiring_bench() if verb == "stop" else Bench()
                    before = bench.state
                    bench.does[role] = unfinished
                    bench.do(verb, NOW + SECOND)
                    with self.assertLogs(ROOM, logging.ERROR) as logs:
                        bench.wait(2 * SECOND)
                    self.assertEqual(len(logs.records), 1)
                    self.assertEqual(bench.state, before)

    def test_a_coroutine_is_not_left_lying_about(self) -> None:
        """Python would complain that it was never awaited, at some time and place of its own."""
        bench = Bench()
        bench.does["begin"] = self.unfinished()["coroutine"]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with self.assertRaises(TypeError):
                bench.start()
            gc.collect()
        self.assertEqual([str(warning.message) for warning in caught], [])

    def test_unfit_functions(self) -> None:
        async def coroutine_function(_: Ticks) -> None:
            pass

        def fit(_: Ticks) -> None:
            pass

        for unfit in (coroutine_function, None, "begin"):
            with self.subTest(unfit=unfit):
                with self.assertRaises(TypeError):
                    Acquisition(unfit, fit)  # type: ignore[arg-type]
                with self.assertRaises(TypeError):
                    Acquisition(fit, unfit)  # type: ignore[arg-type]

    def test_what_they_return_does_not_matter(self) -> None:
        for value in (None, 0, False, (), "fail", mock.Mock()):
            with self.subTest(value=value):
                bench = Bench()
                bench.does = dict.fromkeys(("begin", "end"), mock.Mock(return_value=value))
                bench.start()
                bench.stop()
                self.assertEqual(bench.told, [("begin", NOW), ("end", NOW)])


class ClockStepTests(AcquisitionTestCase):
    """A step of the UTC clock is followed within a second, by the other clock."""

    def test_forward_over_the_time(self) -> None:
        for ahead in (30 * SECOND, 3 * DAY):
            for slept, stop_after, level in (
                (0, SECOND, "ERROR"),
                (100 * MILLISECOND, SECOND, "ERROR"),
                (7 * SECOND, SECOND, "ERROR"),
                (0, 20 * SECOND, "WARNING"),
                (7 * SECOND, 20 * SECOND, "WARNING"),
            ):
                with self.subTest(ahead=ahead, slept=slept, stop_after=stop_after):
                    bench = Bench()
                    bench.start(NOW + ahead)
                    bench.stop(NOW + ahead + stop_after)
                    bench.wait(slept)
                    bench.step(ahead + 5 * SECOND)
                    with self.assertLogs(ROOM, logging.WARNING) as logs:
                        bench.wait(SECOND)
                    if stop_after == SECOND:
                        self.assertEqual((bench.told, bench.state), ([], (False, None, None)), "both have passed")
                    else:
                        self.assertEqual(bench.told, [("begin", NOW + ahead)])
                        self.assertEqual(bench.state, (True, None, NOW + ahead + stop_after))
                    self.assertEqual([r.levelname for r in logs.records], [level])

    def test_forward_to_shortly_before_the_time(self) -> None:
        for before in (1_000 * MILLISECOND, 3 * SECOND, 60 * SECOND):
            with self.subTest(before=before):
                bench = Bench()
                bench.start(NOW + DAY)
                bench.wait(SECOND // 3)
                bench.step(NOW + DAY - before - bench.now())
                bench.wait(before - 1)
                self.assertEqual(bench.told, [])
                bench.wait(20)
                self.assertEqual(bench.told, [("begin", NOW + DAY)])
                self.assertEqual(bench.late, [0])

    def test_back(self) -> None:
        for back in (10 * MILLISECOND, SECOND, 3600 * SECOND):
            # The last ones are within what counts as the last stretch.
            for left in (9 * SECOND, 300 * MILLISECOND, 4 * MILLISECOND, 1):
                with self.subTest(back=back, left=left):
                    bench = Bench()
                    bench.start(NOW + 10 * SECOND)
                    bench.wait(10 * SECOND - left)
                    bench.step(-back)
                    bench.wait(left + back - 1)
                    self.assertEqual(bench.told, [], "never before its time")
                    bench.wait(20)
                    self.assertEqual(bench.told, [("begin", NOW + 10 * SECOND)])
                    self.assertLessEqual(bench.late[0], 10)

    def test_back_after_the_start(self) -> None:
        """What took place is not repeated."""
        bench = Bench()
        bench.start(NOW + SECOND)
        bench.stop(NOW + 5 * SECOND)
        bench.wait(2 * SECOND)
        bench.step(-10 * SECOND)
        bench.wait(12 * SECOND)
        self.assertEqual(bench.told, [("begin", NOW + SECOND)])
        bench.wait(2 * SECOND)
        self.assertEqual(bench.told, [("begin", NOW + SECOND), ("end", NOW + 5 * SECOND)])

    def test_there_and_back(self) -> None:
        bench = Bench()
        bench.start(NOW + 10 * SECOND)
        bench.step(8 * SECOND)
        bench.wait(SECOND)
        bench.step(-8 * SECOND)
        bench.wait(8 * SECOND)
        self.assertEqual(bench.told, [])
        bench.wait(SECOND)
        self.assertEqual(bench.told, [("begin", NOW + 10 * SECOND)])
        self.assertEqual(bench.late, [0])

    def test_lateness_counts_from_the_time_itself(self) -> None:
        bench = Bench()
        bench.start(NOW + 10 * SECOND)
        bench.step(3600 * SECOND)
        bench.wait(SECOND)
        lateness = bench.acquisition.last_lateness
        assert lateness is not None
        self.assertEqual(bench.late, [round(lateness * SECOND)])
        self.assertTrue(3590 <= lateness <= 3591)


class AlarmTests(AcquisitionTestCase):
    """What is asked of the clock: little, and nothing that is left behind."""

    def test_one_call_while_something_is_pending(self) -> None:
        bench = Bench()
        requests: list[Callable[[], None]] = [
            lambda: bench.start(bench.now() + 5 * SECOND),
            lambda: bench.start(bench.now() + 6 * SECOND),
            lambda: bench.stop(bench.now() + 3 * SECOND),
            lambda: bench.stop(bench.now() + 9 * SECOND),
            lambda: bench.wait(2 * SECOND),
            lambda: bench.start(bench.now() + 2 * MILLISECOND),
            lambda: bench.wait(1 * MILLISECOND),
            lambda: bench.start(bench.now() + 2 * MILLISECOND),
            lambda: bench.wait(4 * MILLISECOND),
            bench.stop,
            lambda: bench.start(bench.now() + 3 * MILLISECOND),
            lambda: bench.wait(MILLISECOND),
            bench.stop,
            lambda: bench.stop(bench.now()),
            bench.start,
            lambda: bench.wait(0),
            lambda: bench.start(bench.now() + SECOND),
            bench.acquisition.cancel,
            lambda: bench.stop(bench.now() + SECOND),
        ]
        with self.assertLogs(ROOM, logging.WARNING):  # a stop comes due while idle
            for number, request in enumerate(requests):
                with self.subTest(number):
                    request()
                    pending = bench.state[1:] != (None, None)
                    self.assertEqual(len(bench.clock.getDelayedCalls()), int(pending))
            bench.wait(2 * SECOND)
            self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_a_refusal_leaves_the_alarm_alone(self) -> None:
        bench = Bench()
        bench.start(NOW + 5 * SECOND)
        before = list(bench.clock.getDelayedCalls())
        self.assertEqual(len(before), 1)
        for arguments in (("start", 0), ("stop", NOW - 1), ("start", NOW + 8 * DAY)):
            with self.assertRaises(BackendError):
                bench.do(*arguments)
        self.assertEqual(bench.clock.getDelayedCalls(), before)

    def test_sleeps(self) -> None:
        """Often enough to follow a step within a second, and hardly more often."""
        bench = Bench()
        bench.start(NOW + 60 * SECOND)
        bench.wait(61 * SECOND)
        self.assertEqual(bench.late, [0])
        self.assertLessEqual(len(bench.clock.asked), 3 * 60)
        self.assertLessEqual(max(bench.clock.asked), 1.0)

    def test_nothing_is_asked_while_nothing_is_pending(self) -> None:
        bench = Bench()
        bench.start()
        bench.wait(5 * SECOND)
        bench.stop()
        self.assertEqual(bench.clock.asked, [])
        bench.start(bench.now() + SECOND)
        bench.wait(2 * SECOND)
        asked = len(bench.clock.asked)
        bench.wait(3600 * SECOND)
        self.assertEqual(len(bench.clock.asked), asked)

    def test_clock_that_stands_at_unix_seconds(self) -> None:
        """There a double moves in steps of 0.24 us, so a delay of 0.1 us never passes."""
        for seconds in (1.7e9, 3.9e9, 2.0**31):
            for number in range(60):
                clock = SteadyClock(seconds + number * 0.377)
                told: list[int] = []

                def now(clock: Clock = clock) -> int:
                    return int(clock.seconds() * SECOND)

                acquisition = Acquisition(told.append, told.append, clock=clock, now_ticks=now)
                at = now() + 2 * SECOND + number
                acquisition.start(at)
                clock.pass_until(at / SECOND + 1e-5)
                with self.subTest(clock=seconds, number=number):
                    self.assertEqual(told, [at])
                    lateness = acquisition.last_lateness
                    assert lateness is not None
                    self.assertTrue(0 <= lateness < 1e-5, lateness)
                    self.assertLess(len(clock.asked), 20)

    @given(st.integers(0, 12 * SECOND), st.floats(0, 1e10))
    @example(50_001, 1.7e9)
    @example(1, 1.7e9)
    def test_any_clock(self, ahead: int, seconds: float) -> None:
        clock = SteadyClock(seconds)
        told: list[int] = []
        acquisition = Acquisition(
            told.append, told.append, clock=clock, now_ticks=lambda: int(clock.seconds() * SECOND) + NOW
        )
        at = NOW + int(seconds * SECOND) + ahead
        acquisition.start(at)
        clock.pass_until(seconds + ahead / SECOND + 1e-4)
        self.assertEqual(told, [at])
        self.assertLess(len(clock.asked), 3 * ahead / SECOND + 10)


class LastStretchTests(AcquisitionTestCase):
    """The callable that has the last milliseconds before a timed transition."""

    def test_called_shortly_before(self) -> None:
        seen: list[tuple[int, int]] = []
        bench = Bench()

        def stretch(instant: Ticks, now: Callable[[], int]) -> float:
            seen.append((instant, instant - now()))
            return 0.001

        bench = Bench(final_wait=stretch)
        bench.start(NOW + 2 * SECOND)
        bench.stop(NOW + 4 * SECOND)
        bench.wait(2 * SECOND - 7 * MILLISECOND)
        self.assertEqual(seen, [])
        bench.wait(SECOND)
        self.assertGreaterEqual(len(seen), 4, "called again after each millisecond")
        for instant, left in seen:
            self.assertEqual(instant, NOW + 2 * SECOND)
            self.assertTrue(0 < left <= 5 * MILLISECOND + 10, left)
        self.assertEqual(bench.told, [("begin", NOW + 2 * SECOND)])
        bench.wait(2 * SECOND)
        self.assertEqual(bench.told[1:], [("end", NOW + 4 * SECOND)])
        self.assertEqual({instant for instant, _ in seen}, {NOW + 2 * SECOND, NOW + 4 * SECOND})
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_may_wait_in_place(self) -> None:
        """Then the transition follows in the same turn."""
        told: list[tuple[str, int, int]] = []
        utc = NOW

        def now() -> int:
            return utc

        def stretch(instant: Ticks, _: Callable[[], int]) -> float:
            nonlocal utc
            utc = instant + 3
            return 1000.0

        clock = SteadyClock()
        acquisition = Acquisition(
            lambda instant: told.append(("begin", instant, now())),
            lambda instant: told.append(("end", instant, now())),
            clock=clock,
            now_ticks=now,
            final_wait=stretch,
        )
        acquisition.start(NOW + 4 * MILLISECOND)
        acquisition.stop(NOW + 6 * MILLISECOND)
        clock.advance(0)
        self.assertEqual(
            told,
            [
                ("begin", NOW + 4 * MILLISECOND, NOW + 4 * MILLISECOND + 3),
                ("end", NOW + 6 * MILLISECOND, NOW + 6 * MILLISECOND + 3),
            ],
        )
        self.assertEqual(acquisition.last_lateness, 3e-7)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_not_called_for_what_is_due(self) -> None:
        stretch = mock.Mock(return_value=0.0)
        bench = Bench(final_wait=stretch)
        bench.start(NOW)
        bench.clock.advance(0)
        bench.stop(bench.now() + SECOND)
        bench.clock.advance(2)
        self.assertEqual(bench.told, [("begin", NOW), ("end", NOW + SECOND)])
        stretch.assert_not_called()

    def test_whole_stretch_at_once(self) -> None:
        for left, delay in ((50_000, 0.005), (12_345, 0.0012345)):
            self.assertEqual(single_delay_wait(Ticks(NOW + left), lambda: NOW), delay)
        for left in (0, -1, -SECOND):
            self.assertGreaterEqual(single_delay_wait(Ticks(NOW + left), lambda: NOW), 0.0)

    def test_defaults(self) -> None:
        """On the system's clock the punctual one, on one that is handed in a single delay."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({"now_ticks": None}, "precise_wait"),
            ({}, "single_delay_wait"),
        ]
        for arguments, name in cases:
            with (
                self.subTest(name),
                mock.patch(f"{ROOM}.{name}", return_value=1.0) as stretch,
                mock.patch(f"{ROOM}.utc_ticks", lambda: NOW),
            ):
                bench = Bench(**arguments)
                bench.start(NOW + MILLISECOND)
                bench.clock.advance(0)
                stretch.assert_called_once_with(NOW + MILLISECOND, mock.ANY)


class SlowTime:
    """A UTC clock that moves each time it is read, and a sleep that takes longer than it was told to."""

    def __init__(self, left: int, *, reading: int = 3, overshoot: int = 0, step: int = 0) -> None:
        self.instant = Ticks(NOW)
        self.utc = NOW - left
        self.slept: list[float] = []
        self.readings = 0
        self._reading = reading
        self._overshoot = overshoot
        self._step = step

    def now(self) -> int:
        """UTC in ticks."""
        self.readings += 1
        if self.readings > 100_000:
            raise AssertionError("spins without end")
        self.utc += self._reading
        return self.utc

    def sleep(self, seconds: float) -> None:
        """In place of time.sleep."""
        self.slept.append(seconds)
        self.utc += round(seconds * SECOND) + self._overshoot + self._step

    def run(self) -> float:
        """precise_wait, on this clock."""
        with mock.patch("time.sleep", self.sleep):
            return precise_wait(self.instant, self.now)


class PunctualStretchTests(unittest.TestCase):
    """A sleep until 2.5 ms is left, turns until 1 ms is, asleep until 0.3 ms before the instant, then spinning."""

    def test_a_sleep_of_the_reactor_while_there_is_time_for_its_rounding(self) -> None:
        for left in (50_000, 30_000, 25_100):
            with self.subTest(left=left):
                fake = SlowTime(left)
                delay = fake.run()
                self.assertAlmostEqual(delay, (left - 25_000) / SECOND, delta=1e-6)
                self.assertEqual(fake.slept, [])
                # Rounded up to the next millisecond it is still no longer than what may be waited for in place.
                self.assertGreater(left / SECOND - math.ceil(delay * 1000) / 1000, 0.001)

    def test_turns_while_more_than_a_millisecond_is_left(self) -> None:
        for left in (25_000, 20_000, 10_020):
            with self.subTest(left=left):
                fake = SlowTime(left)
                self.assertEqual(fake.run(), 0.0)
                self.assertEqual(fake.slept, [])
                self.assertLess(fake.readings, 5, "everyone is served meanwhile")

    def test_sleeps_then_spins(self) -> None:
        for left in (10_000, 9_000, 5_000, 3_100):
            with self.subTest(left=left):
                fake = SlowTime(left, reading=1)
                self.assertEqual(fake.run(), 0.0)
                self.assertEqual(len(fake.slept), 1)
                self.assertAlmostEqual(fake.slept[0], (left - 3_000) / SECOND, delta=2e-7)
                self.assertTrue(0 <= fake.utc - NOW <= 2, fake.utc - NOW)

    def test_only_spins_at_the_end(self) -> None:
        for left in (3_000, 100, 1):
            with self.subTest(left=left):
                fake = SlowTime(left, reading=1)
                self.assertEqual(fake.run(), 0.0)
                self.assertEqual(fake.slept, [])
                self.assertTrue(0 <= fake.utc - NOW <= 2, fake.utc - NOW)

    def test_returns_when_the_time_has_passed(self) -> None:
        for left in (0, -1, -SECOND):
            with self.subTest(left=left):
                fake = SlowTime(left)
                self.assertEqual(fake.run(), 0.0)
                self.assertEqual(fake.slept, [])
                self.assertLess(fake.readings, 5)

    def test_does_not_wait_out_a_step_of_the_clock(self) -> None:
        for step in (-3600 * SECOND, -2 * SECOND, -2 * MILLISECOND, 5, SECOND):
            with self.subTest(step=step):
                fake = SlowTime(8_000, step=step)
                self.assertEqual(fake.run(), 0.0)
                self.assertEqual(len(fake.slept), 1)
                self.assertLess(fake.readings, 1_500)

    def test_step_while_spinning(self) -> None:
        for step in (-3600 * SECOND, SECOND):
            with self.subTest(step=step):
                fake = SlowTime(2_000, reading=1)

                def now(fake: SlowTime = fake, step: int = step) -> int:
                    if fake.readings == 500:
                        fake.utc += step
                    return fake.now()

                with mock.patch("time.sleep", fake.sleep):
                    self.assertEqual(precise_wait(fake.instant, now), 0.0)
                self.assertLess(fake.readings, 510)

    @given(st.integers(1, 60_000), st.integers(1, 500), st.integers(0, 20_000))
    def test_never_early_and_never_long(self, left: int, reading: int, overshoot: int) -> None:
        fake = SlowTime(left, reading=reading, overshoot=overshoot)
        began = fake.utc
        delay = fake.run()
        self.assertEqual(delay > 0, left - reading > 25_000)
        self.assertTrue(fake.utc >= NOW or left - reading > 10_000)
        self.assertLessEqual(fake.utc - began, 10_000 + overshoot + 3 * reading)
        for slept in fake.slept:
            self.assertTrue(0 < slept <= 0.0007 + 1e-9)


def stop_after(bench: Bench, length: int, instant: Ticks) -> None:
    """A begin that arms its stop."""
    bench.stop(instant + length)


def meddle(bench: Bench, verb: str, _: Ticks) -> None:
    """A begin or end that starts or stops, now."""
    bench.do(verb)


class ReentryTests(AcquisitionTestCase):
    """begin and end that use the acquisition themselves."""

    def test_begin_arms_its_stop(self) -> None:
        """An acquisition of fixed length; the shorter ones end within the last stretch, and at once."""
        for length in (3 * SECOND, 3 * MILLISECOND, 1, 0):
            for timed in (False, True):
                with self.subTest(length=length, timed=timed):
                    bench = Bench()
                    bench.does["begin"] = partial(stop_after, bench, length)
                    at = NOW + SECOND if timed else NOW
                    bench.start(at if timed else None)
                    for _ in range(30):
                        bench.wait(SECOND // 7)
                        pending = bench.state[1:] != (None, None)
                        self.assertEqual(len(bench.clock.getDelayedCalls()), int(pending))
                    bench.wait(SECOND)
                    self.assertEqual(bench.told, [("begin", at), ("end", at + length)])
                    self.assertEqual(bench.state, (False, None, None))

    def test_no_alarm_is_lost(self) -> None:
        """Armed from begin within the last stretch: the clock holds one call, not one more each time."""
        bench = Bench()
        bench.does["begin"] = partial(stop_after, bench, 3 * MILLISECOND)
        bench.start(NOW + SECOND)
        bench.wait(SECOND + MILLISECOND)
        self.assertEqual(bench.state, (True, None, NOW + SECOND + 3 * MILLISECOND))
        self.assertEqual(len(bench.clock.getDelayedCalls()), 1)
        bench.stop()
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_no_alarm_is_left(self) -> None:
        """What begin armed came due in the same turn."""
        bench = Bench()
        bench.does["begin"] = lambda at: bench.stop(bench.now())
        bench.start(NOW + SECOND)
        bench.clock.advance(2)
        self.assertEqual(bench.told, [("begin", NOW + SECOND), ("end", NOW + 2 * SECOND)])
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_end_arms_the_next_start(self) -> None:
        bench = acquiring_bench()
        bench.does["end"] = lambda at: bench.start(at + 2 * SECOND)
        bench.stop(NOW + SECOND)
        bench.wait(2 * SECOND)
        self.assertEqual(bench.state, (False, NOW + 3 * SECOND, None))
        bench.wait(2 * SECOND)
        self.assertEqual(bench.told, [("end", NOW + SECOND), ("begin", NOW + 3 * SECOND)])

    def test_start_or_stop_from_within_now(self) -> None:
        """A mistake of the author's: it is neither obeyed by halves nor followed without end."""
        for outer, role in (("start", "begin"), ("stop", "end")):
            for inner in VERBS:
                for pending in (False, True):
                    with self.subTest(outer=outer, inner=inner, pending=pending):
                        bench = acquiring_bench() if outer == "stop" else Bench()
                        if pending:
                            bench.start(NOW + 3 * SECOND)
                            bench.stop(NOW + 5 * SECOND)
                        before = bench.state
                        bench.does[role] = partial(meddle, bench, inner)
                        with self.assertRaises(RuntimeError) as caught:
                            bench.do(outer)
                        self.assertNotIsInstance(caught.exception, RecursionError)
                        self.assertEqual(bench.state, before)
                        self.assertEqual(len(bench.told), 1)
                        bench.does.clear()
                        bench.do(outer)
                        self.assertEqual(bench.acquisition.acquiring, outer == "start")

    def test_start_or_stop_from_within_at_its_time(self) -> None:
        for outer, role in (("start", "begin"), ("stop", "end")):
            for inner in VERBS:
                with self.subTest(outer=outer, inner=inner):
                    bench = acquiring_bench() if outer == "stop" else Bench()
                    before = bench.state
                    bench.does[role] = partial(meddle, bench, inner)
                    bench.do(outer, NOW + SECOND)
                    with self.assertLogs(ROOM, logging.ERROR) as logs:
                        bench.wait(2 * SECOND)
                    self.assertEqual(len(logs.records), 1)
                    self.assertEqual(len(bench.told), 1)
                    self.assertEqual(bench.state, before)

    def test_a_caught_refusal_changes_nothing(self) -> None:
        """begin goes on as if it had not asked: the stop was not obeyed, so the pending start is dropped
        because of the start, and the pending stop is kept."""
        bench = Bench()

        def begin(_: Ticks) -> None:
            with self.assertRaises(RuntimeError):
                bench.stop()

        bench.does["begin"] = begin
        bench.start(NOW + 3 * SECOND)
        bench.stop(NOW + 5 * SECOND)
        bench.start()
        self.assertEqual(bench.state, (True, None, NOW + 5 * SECOND))


class ReactorTests(AcquisitionTestCase):
    """Without a clock, the reactor's is used, in the reactor's thread."""

    def setUp(self) -> None:
        self.reactor = SteadyClock()
        patch = mock.patch("twisted.internet.reactor", self.reactor, create=True)
        patch.start()
        self.addCleanup(patch.stop)

    def in_thread(self, function: Callable[[], None]) -> BaseException | None:
        """What a function raises in another thread."""
        raised: list[BaseException] = []

        def run() -> None:
            try:
                function()
            except BaseException as error:  # noqa: BLE001  # handed to the test
                raised.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive())
        return raised[0] if raised else None

    def test_the_reactor_is_the_clock(self) -> None:
        bench = Bench(clock=None, now_ticks=lambda: NOW + round(self.reactor.seconds() * SECOND))
        bench.start(NOW + SECOND)
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.reactor.pass_until(2)
        self.assertEqual(bench.told, [("begin", NOW + SECOND)])

    def test_the_reactor_is_not_asked_for_without_need(self) -> None:
        """A synchronous backend answers with no reactor installed."""
        bench = Bench(clock=None)
        with mock.patch("twisted.internet.reactor", object()):
            bench.start()
            bench.stop()
            with self.assertRaises(BackendError):
                bench.start(0)
        self.assertEqual([role for role, _ in bench.told], ["begin", "end"])

    def test_another_thread(self) -> None:
        bench = Bench(clock=None, now_ticks=lambda: NOW)
        calls: list[Callable[[], None]] = [
            bench.start,
            bench.stop,
            lambda: bench.start(NOW + SECOND),
            lambda: bench.stop(NOW + SECOND),
            bench.acquisition.cancel,
        ]
        with mock.patch.object(threadable, "ioThread", threading.get_ident()):
            bench.start(NOW + 2 * SECOND)
            for number, call in enumerate(calls):
                with self.subTest(number):
                    error = self.in_thread(call)
                    self.assertIsInstance(error, RuntimeError)
                    self.assertIn("blocking", str(error))
                    self.assertEqual((bench.told, bench.state), ([], (False, NOW + 2 * SECOND, None)))
            self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
            bench.start()
            bench.stop()
        self.assertEqual(bench.told, [("begin", NOW), ("end", NOW)])

    def test_any_thread_while_no_reactor_runs(self) -> None:
        bench = Bench(clock=None, now_ticks=lambda: NOW)
        with mock.patch.object(threadable, "ioThread", None):
            self.assertIsNone(self.in_thread(bench.start))
            self.assertIsNone(self.in_thread(lambda: bench.stop(NOW + SECOND)))
        self.assertEqual(bench.state, (True, None, NOW + SECOND))

    def test_the_state_may_be_read_anywhere(self) -> None:
        bench = Bench(clock=None, now_ticks=lambda: NOW)
        with mock.patch.object(threadable, "ioThread", threading.get_ident()):
            bench.start(NOW + SECOND)
            seen: list[object] = []
            self.assertIsNone(self.in_thread(lambda: seen.append(bench.state)))
        self.assertEqual(seen, [(False, NOW + SECOND, None)])


class Entry:
    """A call that TurnsOnly holds."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function: Callable[[], object] | None = function

    def cancel(self) -> None:
        """Do not call."""
        self.function = None


class TurnsOnly:
    """The least that an acquisition asks of a clock: calls that are made in turn, their delay ignored."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def callLater(self, delay: float, function: Callable[..., Any], *args: Any) -> Entry:
        """Call in the next turn, which is too early; that must not matter."""
        if delay < 0:
            raise AssertionError(f"negative delay {delay!r}")
        entry = Entry(partial(function, *args))
        self.entries.append(entry)
        return entry

    def run(self) -> None:
        """Turn until nothing is left."""
        end = time.monotonic() + PATIENCE
        while self.entries:
            function = self.entries.pop(0).function
            if function is not None:
                function()
            if time.monotonic() > end:
                raise AssertionError("it never took place")


class SystemClockTests(AcquisitionTestCase):
    """The one test on the host's clock, with everything as it is by default."""

    def test_never_before_its_time(self) -> None:
        told: list[tuple[str, int, int]] = []
        clock = TurnsOnly()
        acquisition = Acquisition(
            lambda instant: told.append(("begin", instant, time.time_ns())),
            lambda instant: told.append(("end", instant, time.time_ns())),
            clock=clock,
        )
        # On a busy machine a time may have passed before the request is judged, or both when the start is looked at.
        for lead in (20 * MILLISECOND, 200 * MILLISECOND, 2 * SECOND, 20 * SECOND):
            at = time.time_ns() // 100 + lead
            with contextlib.suppress(BackendError):
                acquisition.stop(at + lead // 4)
                acquisition.start(at)
                self.assertEqual((acquisition.pending_start, acquisition.pending_stop), (at, at + lead // 4))
                clock.run()
            if told:
                break
            acquisition.cancel()
        self.assertEqual([entry[:2] for entry in told], [("begin", at), ("end", at + lead // 4)])
        for _, instant, called in told:
            self.assertGreaterEqual(called, instant * 100)
        lateness = acquisition.last_lateness
        assert lateness is not None
        self.assertGreaterEqual(lateness, 0.0)

    def test_now_is_the_host_s(self) -> None:
        told: list[int] = []
        before = time.time_ns() // 100
        Acquisition(told.append, told.append).start()
        self.assertTrue(before <= told[0] <= time.time_ns() // 100)


class NewInstrument(Backend):
    """A backend in two lines; times arrive as Ticks."""

    def __init__(self, acquisition: Acquisition) -> None:
        self.acquisition = acquisition
        self.configured: Deferred[None] = Deferred()

    def status(self) -> tuple[float, str, bool]:
        """As the screens poll it."""
        return 1795419485.5, "ok", self.acquisition.acquiring

    def set_configuration(self, configuration: str) -> Deferred[None]:
        """Takes as long as the test wants."""
        return self.configured

    def start(self, timestamp: Ticks | None = None) -> None:
        """Start."""
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Ticks | None = None) -> None:
        """Stop."""
        self.acquisition.stop(timestamp)


class OldInstrument:
    """One as written for the original package; times arrive as astropy's Time."""

    def __init__(self, acquisition: Acquisition) -> None:
        self.acquisition = acquisition

    def start(self, timestamp: Any = None) -> None:
        """Start."""
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Any = None) -> None:
        """Stop."""
        self.acquisition.stop(timestamp)


class WireTests(unittest.TestCase):
    """Protocol section 7 as a client sees it."""

    def exchanges(self) -> list[tuple[bytes, bytes]]:
        """One session."""
        pointed = f"{(NOW + 2 * SECOND) // SECOND}.{(NOW + 2 * SECOND) % SECOND:07d}".encode()
        refused = [
            (b"?%s,0", b"!%s,fail,wrong timestamp '0'"),
            (b"?%s,-5", b"!%s,fail,wrong timestamp '-5'"),
            (b"?%s,0.0", b"!%s,fail,wrong timestamp '0.0'"),
            (b"?%s,-1.5", b"!%s,fail,wrong timestamp '-1.5'"),
            (b"?%s,0.00000001", b"!%s,fail,wrong timestamp '0.00000001'"),
            (b"?%s,soon", b"!%s,fail,wrong timestamp 'soon'"),
            (b"?%%s,%d" % (NOW + 7 * DAY + 1), b"!%s,fail,cannot %s at given time"),
        ]
        session = [
            (b"?stop", b"!stop,fail,not acquiring"),
            (b"?start,%d" % (NOW - 1), b"!start,fail,starting time already elapsed"),
            (b"?stop,%d" % (NOW - 1), b"!stop,fail,stop time already elapsed"),
        ]
        for verb in (b"start", b"stop"):
            for request, reply in refused:
                session.append((request % verb, reply % ((verb,) * reply.count(b"%s"))))
        return session + [
            (b"?start,%d" % (NOW + 7 * DAY), b"!start,ok"),
            (b"?start,%s" % pointed, b"!start,ok"),
            (b"?stop,%d" % (NOW + 7 * DAY), b"!stop,ok"),
            (b"?start,0", b"!start,fail,wrong timestamp '0'"),
            (b"?start,-1.5", b"!start,fail,wrong timestamp '-1.5'"),
        ]

    def connect(self, bench: Bench, backend: object) -> tuple[Any, StringTransport]:
        """A connection to a server of its own, greeted."""
        factory = DBFactory(DBProtocolHandler(backend, reactor=bench.clock), reactor=bench.clock)
        connection = factory.buildProtocol(None)
        transport = StringTransport()
        connection.makeConnection(transport)
        transport.clear()
        return connection, transport

    def test_answered_as_usual_while_pending(self) -> None:
        bench = Bench()
        connection, transport = self.connect(bench, NewInstrument(bench.acquisition))
        connection.dataReceived(b"?start,%d\r\n?stop,%d\r\n?status\r\n" % (NOW + SECOND, NOW + 3 * SECOND))
        bench.wait(2 * SECOND)
        connection.dataReceived(b"?status\r\n")
        bench.wait(2 * SECOND)
        connection.dataReceived(b"?status\r\n")
        status = b"!status,ok,1795419485.5000000,ok,%d\r\n"
        expected = b"!start,ok\r\n!stop,ok\r\n" + status % 0 + status % 1 + status % 0
        self.assertEqual(transport.value(), expected)

    def test_does_not_wait_for_a_device_command(self) -> None:
        bench = Bench()
        backend = NewInstrument(bench.acquisition)
        connection, transport = self.connect(bench, backend)
        connection.dataReceived(b"?start,%d\r\n?set-configuration,SK77\r\n?stop\r\n" % (NOW + SECOND))
        bench.wait(2 * SECOND)
        self.assertEqual(bench.told, [("begin", NOW + SECOND)])
        self.assertEqual(bench.late, [0])
        self.assertEqual(transport.value(), b"!start,ok\r\n")
        backend.configured.callback(None)
        bench.wait(SECOND)
        self.assertEqual(transport.value(), b"!start,ok\r\n!set-configuration,ok\r\n!stop,ok\r\n")

    def test_session(self) -> None:
        for kind in (NewInstrument, OldInstrument):
            bench = Bench()
            connection, transport = self.connect(bench, kind(bench.acquisition))
            for request, reply in self.exchanges():
                with self.subTest(request, kind=kind.__name__):
                    transport.clear()
                    connection.dataReceived(request + b"\r\n")
                    self.assertEqual(transport.value(), reply + b"\r\n")
            transport.clear()
            with self.subTest("due", kind=kind.__name__):
                self.assertEqual(bench.state, (False, NOW + 2 * SECOND, NOW + 7 * DAY))
                bench.wait(3 * SECOND)
                self.assertEqual(bench.told, [("begin", NOW + 2 * SECOND)])
                self.assertEqual(transport.value(), b"", "nothing is sent unasked")
                connection.dataReceived(b"?start\r\n?stop\r\n?stop\r\n")
                expected = b"!start,fail,already acquiring\r\n!stop,ok\r\n!stop,fail,not acquiring\r\n"
                self.assertEqual(transport.value(), expected)


class Model:
    """Protocol section 7 once more, as simple as can be: a list of what is pending, sorted when time passes."""

    def __init__(self) -> None:
        self.now = NOW
        self.acquiring = False
        self.pending: dict[str, int] = {}
        self.told: list[tuple[str, int]] = []
        self.logged = 0
        self.broken = {"begin": False, "end": False}

    def transition(self, verb: str, at: int) -> bool:
        """Whether the backend did it."""
        role = "begin" if verb == "start" else "end"
        if self.broken[role]:
            return False
        self.told.append((role, at))
        self.acquiring = verb == "start"
        return True

    def reach(self, now: int) -> None:
        """The UTC clock stands at `now`, and what is pending is looked at."""
        self.now = now
        due = sorted((at, verb) for verb, at in self.pending.items() if at <= now)
        for _, verb in due:
            del self.pending[verb]
        if len(due) == 2 and due[0][0] == due[1][0]:
            if not self.acquiring:
                self.logged += 2
                return
            due = [(due[0][0], "stop"), (due[0][0], "start")]
        if [verb for _, verb in due] == ["start", "stop"] and not self.acquiring:
            # Both have passed: that scan is lost.
            self.logged += 1
            return
        for at, verb in due:
            if self.acquiring == (verb == "start"):
                self.logged += 1
                continue
            self.logged += now - at > SECOND
            self.logged += not self.transition(verb, at)

    def arm(self, verb: str, at: int) -> str:
        """`start,T` or `stop,T`: the reason of a fail, "" for ok."""
        if at <= 0:
            return f"wrong timestamp '{at}'"
        if at < self.now:
            return ELAPSED[verb]
        if at > self.now + HORIZON * SECOND:
            return TOO_FAR[verb]
        self.pending[verb] = at
        return ""

    def start(self) -> str:
        """`start`: as above, "broken" for what the backend itself raised."""
        if self.acquiring:
            return "already acquiring"
        if not self.transition("start", self.now):
            return "broken"
        self.pending.pop("start", None)
        return ""

    def stop(self) -> str:
        """`stop`: as above."""
        if not self.acquiring and "start" not in self.pending:
            return "not acquiring"
        if self.acquiring and not self.transition("stop", self.now):
            return "broken"
        self.pending.clear()
        return ""


HORIZON = 20

# Whole seconds often meet each other, and the instants around them often nearly.
spans = st.integers(0, 12).map(lambda s: s * SECOND) | st.integers(0, 10 * SECOND) | st.integers(0, 60_000)
seconds_ahead = st.integers(-2, HORIZON + 2).map(lambda s: s * SECOND)
aheads = spans | st.builds(int.__add__, seconds_ahead, st.integers(-2, 2))
steps = st.integers(-30, 30).map(lambda s: s * SECOND) | st.integers(-SECOND, SECOND)


class Count(logging.Handler):
    """How many warnings and errors there were."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


class Everything(RateLimitedLogger):
    """Leaves nothing out."""

    def log(self, level: int, kind: Any, text: str, *args: object, exc_info: Any = None, **_: Any) -> None:
        self.logger.log(level, text, *args, exc_info=exc_info)


class AcquisitionMachine(RuleBasedStateMachine):
    """Any sequence of requests, failures of the backend, passing time and steps of the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(horizon=HORIZON)
        # Each line counts here, also those of a flood.
        self.bench.acquisition._limited = Everything(logging.getLogger(ROOM), self.bench.clock.callLater)
        self.model = Model()
        self.log = Count()
        self.logger = logging.getLogger(ROOM)
        self.propagated = self.logger.propagate

    @initialize()
    def listen(self) -> None:
        """To the log, which nobody else needs to see."""
        self.logger.addHandler(self.log)
        self.logger.propagate = False

    def teardown(self) -> None:
        """Leave the log as it was."""
        self.logger.removeHandler(self.log)
        self.logger.propagate = self.propagated

    def reason(self, verb: str, at: int | None = None) -> str:
        """Of the machine's refusal, as the model tells it."""
        try:
            self.bench.do(verb, None if at is None else Ticks(at))
        except BackendError as error:
            return str(error)
        except SystemExit:
            return "broken"
        return ""

    def arm(self, verb: str, at: int) -> None:
        """The same of both."""
        reason, expected = self.reason(verb, at), self.model.arm(verb, at)
        assert reason == expected, (reason, expected)

    @rule()
    def start(self) -> None:
        """Start now."""
        reason, expected = self.reason("start"), self.model.start()
        assert reason == expected, (reason, expected)

    @rule()
    def stop(self) -> None:
        """Stop now."""
        reason, expected = self.reason("stop"), self.model.stop()
        assert reason == expected, (reason, expected)

    @rule(verb=st.sampled_from(VERBS), ahead=aheads)
    def start_or_stop_at(self, verb: str, ahead: int) -> None:
        """Start or stop at a time."""
        self.arm(verb, self.model.now + ahead)

    @precondition(lambda self: self.model.pending)
    @rule(verb=st.sampled_from(VERBS), apart=st.sampled_from((0, 0, 0, 1, -1, 30_000)))
    def at_the_time_of_another(self, verb: str, apart: int) -> None:
        """Start or stop at the same time as what is pending, or nearly."""
        self.arm(verb, min(self.model.pending.values()) + apart)

    @rule(verb=st.sampled_from(VERBS), at=st.sampled_from((0, -1, -NOW, 1, 10**18)))
    def at_no_time(self, verb: str, at: int) -> None:
        """Start or stop at a time that never is."""
        self.arm(verb, at)

    def pass_time(self, ticks: int) -> None:
        """Let time pass; the model looks whenever the machine does."""
        before = self.bench.clock.seconds()
        end = self.model.now + ticks

        def called() -> None:
            self.model.reach(self.bench.now())

        with mock.patch.object(self.bench.clock, "on_call", called):
            self.bench.wait(ticks)
        assert self.bench.clock.seconds() > before
        self.model.now = end

    @rule(ticks=spans)
    def wait(self, ticks: int) -> None:
        """Time passes; what comes due last may take a microsecond, and the clock rounds."""
        self.pass_time(ticks + 11)
        assert all(at > self.model.now for at in self.model.pending.values()), "looked at in time"

    @rule()
    def cancel(self) -> None:
        """Drop what is pending."""
        self.bench.acquisition.cancel()
        self.model.pending.clear()

    @precondition(lambda self: self.model.pending)
    @rule()
    def wait_for_the_next(self) -> None:
        """Time passes until something is due."""
        left = min(self.model.pending.values()) - self.model.now
        self.wait(max(left, 0))

    @rule(ticks=steps)
    def step(self, ticks: int) -> None:
        """The clock is stepped, which is followed within a second."""
        self.bench.step(ticks)
        self.model.now += ticks
        self.pass_time(SECOND)
        assert all(at > self.model.now for at in self.model.pending.values()), "followed within a second"

    @rule(role=st.sampled_from(("begin", "end")), error=st.sampled_from((None, None, SystemExit(1))))
    def break_or_mend(self, role: str, error: BaseException | None) -> None:
        """The backend fails from now on, or works again."""
        self.bench.raises[role] = error
        self.model.broken[role] = error is not None

    @invariant()
    def agree(self) -> None:
        """The machine and the model."""
        model, bench = self.model, self.bench
        assert bench.now() == model.now
        assert bench.told == model.told, (bench.told, model.told)
        assert bench.state == (model.acquiring, model.pending.get("start"), model.pending.get("stop"))
        assert self.log.count == model.logged, (self.log.count, model.logged)
        assert len(bench.clock.getDelayedCalls()) == int(bool(model.pending))
        assert all(late >= 0 for late in bench.late), "never before its time"


AcquisitionMachineTests = AcquisitionMachine.TestCase
AcquisitionMachineTests.settings = settings(max_examples=150 if LONG else 45, stateful_step_count=40)


if __name__ == "__main__":
    unittest.main()
