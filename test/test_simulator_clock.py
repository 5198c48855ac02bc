"""The simulated instrument's clock: off, drifting, jumping, and what never does any of it."""

from __future__ import annotations

import math
import time
import unittest

from hypothesis import given
from hypothesis import strategies as st

from discosbackend.simulator.clock import SimulatedClock
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

NOON = 17_000_000_000_000_000


class ClockTests(unittest.TestCase):
    def setUp(self) -> None:
        self.true = NOON
        self.clock = SimulatedClock(lambda: self.true)

    def later(self, seconds: float) -> None:
        self.true += round(seconds * TICKS_PER_SECOND)

    def ahead(self) -> int:
        """By how many ticks it is ahead of the true one."""
        return self.clock.now() - self.true

    def test_it_is_right_at_first(self) -> None:
        self.assertEqual(self.clock.now(), NOON)
        self.assertIsInstance(self.clock.now(), Ticks)
        self.assertEqual((self.clock.offset, self.clock.drift), (0.0, 0.0))

    def test_jumps_add_up(self) -> None:
        self.clock.jump(1.5)
        self.clock.jump(-4)
        self.assertEqual(self.ahead(), -25_000_000)
        self.assertEqual(self.clock.offset, -2.5)

    def test_jumps_do_not_add_up_to_more_than_a_century(self) -> None:
        century = 36_600 * 86_400
        for direction in (1, -1):
            self.clock.set_offset(0)
            self.clock.jump(direction * century)
            with self.assertRaises(ValueError):
                self.clock.jump(direction)
            self.assertEqual(self.clock.offset, direction * century)
            self.clock.jump(-direction)
            self.assertEqual(self.clock.offset, direction * (century - 1))

    def test_an_offset_replaces_what_there_was(self) -> None:
        self.clock.set_drift(100)
        self.later(10)
        self.clock.set_offset(3)
        self.assertEqual(self.ahead(), 30_000_000)
        self.later(10)
        self.assertEqual(self.ahead(), 30_000_000 + 10_000)

    def test_drift_counts_from_when_it_was_set(self) -> None:
        self.later(1000)
        self.clock.set_drift(50)
        self.assertEqual(self.ahead(), 0)
        self.later(100)
        self.assertEqual(self.ahead(), 50_000)
        self.clock.set_drift(-50)
        self.later(200)
        self.assertEqual(self.ahead(), -50_000)
        self.clock.set_drift(0)
        self.later(200)
        self.assertEqual(self.ahead(), -50_000)

    def test_an_error_is_added_to_its_own_offset_and_drift(self) -> None:
        self.clock.set_offset(3)
        self.clock.set_drift(50)
        self.clock.set_error(2, 100)
        self.assertEqual((self.clock.offset, self.clock.drift), (5, 150))
        self.later(100)
        self.assertEqual(self.ahead(), 50_000_000 + 150_000)
        self.clock.set_error(0, 0)
        self.assertEqual((self.ahead(), self.clock.drift), (30_000_000 + 150_000, 50))
        self.clock.set_error(2, 100)
        self.clock.set_offset(0)
        self.clock.set_drift(0)
        self.assertEqual((self.clock.offset, self.clock.drift), (2, 100))

    def test_the_drift_of_an_error_alone(self) -> None:
        self.clock.set_error(0, 100)
        self.later(1)
        self.assertEqual(self.ahead(), 1000)

    def test_an_error_that_is_too_large_changes_nothing(self) -> None:
        century = 36_600 * 86_400
        for offset, drift, error in ((century, 0, (1, 0)), (0, -400_000, (0, -200_000)), (0, 0, (0, math.nan))):
            with self.subTest(error):
                clock = SimulatedClock(lambda: NOON)
                clock.set_offset(offset)
                clock.set_drift(drift)
                with self.assertRaises(ValueError):
                    clock.set_error(*error)
                self.assertEqual((clock.offset, clock.drift), (offset, drift))

    def test_with_an_error_a_setting_can_be_too_large(self) -> None:
        self.clock.set_error(10, -400_000)
        for call, value in (
            (self.clock.set_offset, 36_600 * 86_400),
            (self.clock.jump, 36_600 * 86_400),
            (self.clock.set_drift, -200_000),
            (self.clock.set_drift, -500_001),
        ):
            with self.subTest(call.__name__), self.assertRaises(ValueError):
                call(value)
        self.assertEqual((self.clock.offset, self.clock.drift), (10, -400_000))

    def test_the_steady_clock_knows_nothing_of_it(self) -> None:
        self.clock.set_drift(1000)
        self.clock.jump(3600)
        self.later(5)
        self.assertEqual(self.clock.steady(), NOON + 5 * TICKS_PER_SECOND)

    def test_refusals_change_nothing(self) -> None:
        self.clock.jump(1)
        for wrong in (math.nan, math.inf, -math.inf, 1e300):
            for call in (self.clock.jump, self.clock.set_offset, self.clock.set_drift):
                with self.subTest(wrong, call=call.__name__), self.assertRaises(ValueError):
                    call(wrong)
        with self.assertRaises(ValueError):
            self.clock.set_drift(-1_000_000)
        self.assertEqual((self.ahead(), self.clock.drift), (TICKS_PER_SECOND, 0.0))

    @given(st.lists(st.tuples(st.sampled_from("jode"), st.integers(-1000, 1000), st.integers(0, 10**9))))
    def test_it_never_runs_backwards_by_itself(self, steps: list[tuple[str, int, int]]) -> None:
        clock = SimulatedClock(lambda: self.true)
        for what, amount, pause in steps:
            if what == "e":
                clock.set_error(0, amount)
            else:
                {"j": clock.jump, "o": clock.set_offset, "d": clock.set_drift}[what](amount)
            before = clock.now()
            self.true += pause
            self.assertGreaterEqual(clock.now(), before)

    def test_on_the_host(self) -> None:
        clock = SimulatedClock()
        for read, host in ((clock.now, time.time_ns), (clock.steady, time.monotonic_ns)):
            earliest, found, latest = host() // 100, read(), host() // 100
            self.assertTrue(earliest <= found <= latest, (host.__name__, earliest, found, latest))
        first = clock.steady()
        self.assertGreaterEqual(clock.steady(), first)


if __name__ == "__main__":
    unittest.main()
