"""ClockHealth: whether the clock of the host is synchronised, and its steps."""

from __future__ import annotations

import ctypes
import sys
import unittest
from unittest import mock

from twisted.internet.task import Clock

from discosbackend.monitor import clock_health
from discosbackend.monitor.clock_health import ClockHealth, Step, Synchronisation, ask_kernel, interpreted

UNKNOWN = Synchronisation(None, None)


class KernelTests(unittest.TestCase):
    def test_what_an_answer_means(self) -> None:
        for answer, wanted in (
            ((0, 0x2001, 12, 500), Synchronisation(True, 12e-6)),
            # systemd-timesyncd estimates no error.
            ((0, 0x2001, 0, 500), Synchronisation(True, 500e-6)),
            ((0, 0x0040, 12, 500), Synchronisation(False, None)),
            ((5, 0x0000, 12, 500), Synchronisation(False, None)),
            # A leap second is to be inserted.
            ((1, 0x0011, 1, 2), Synchronisation(True, 1e-6)),
        ):
            with self.subTest(answer):
                self.assertEqual(interpreted(*answer), wanted)

    @unittest.skipUnless(sys.platform.startswith("linux"), "only Linux has adjtimex")
    def test_this_host_answers(self) -> None:
        found = ask_kernel()
        # A container may not allow the question.
        self.assertIn(found.synchronised, (True, False, None))
        self.assertEqual(found.error is None, not found.synchronised)

    def test_where_it_cannot_be_asked(self) -> None:
        with mock.patch.object(sys, "platform", "darwin"):
            self.assertEqual(ask_kernel(), UNKNOWN)
        with mock.patch.object(sys, "platform", "linux"):
            for failing in (OSError("no library"), AttributeError("adjtimex")):
                with mock.patch.object(ctypes, "CDLL", side_effect=failing):
                    self.assertEqual(ask_kernel(), UNKNOWN)
            with mock.patch.object(ctypes, "CDLL") as library:
                library.return_value.adjtimex.return_value = -1
                self.assertEqual(ask_kernel(), UNKNOWN)


class StepTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.steady = 100.0
        self.wall = 1.8e9
        # How long it takes to read the steady clock.
        self.reading = 0.0
        self.health = ClockHealth(self.clock, ask=lambda: UNKNOWN, wall=lambda: self.wall, steady=self.read_steady)
        self.health.begin()

    def read_steady(self) -> float:
        self.steady += self.reading
        return self.steady

    def pass_seconds(self, steady: float, wall: float | None = None) -> None:
        self.steady += steady
        self.wall += steady if wall is None else wall
        self.clock.advance(1)

    def test_no_step(self) -> None:
        for _ in range(100):
            self.pass_seconds(1.0)
        # Late, because the server was suspended.
        self.pass_seconds(1000.0)
        self.assertEqual((self.health.steps, self.health.last_step), (0, None))

    def test_a_step_in_either_direction(self) -> None:
        with self.assertLogs(clock_health.logger, "WARNING") as log:
            self.pass_seconds(1.0, 3.5)
            self.pass_seconds(1.0)
            self.pass_seconds(1.0, -59.0)
            self.pass_seconds(1.0)
        self.assertEqual(self.health.steps, 2)
        assert self.health.last_step is not None
        self.assertEqual(self.health.last_step, Step(self.wall - 1.0, -60.0))
        texts = [record.getMessage() for record in log.records]
        self.assertEqual(texts[0], "clock: the clock of this host was stepped by +2.500000 s")
        self.assertEqual(texts[1], "clock: the clock of this host was stepped by -60.000000 s")

    def test_a_slow_correction_is_no_step(self) -> None:
        # The difference grows by 0.5 ms a second, as with a clock that synchronisation does not slew.
        for _ in range(100):
            self.pass_seconds(1.0, 1.0005)
        self.assertEqual(self.health.steps, 0)

    def test_a_reading_that_was_interrupted_is_no_step(self) -> None:
        self.reading = 0.3
        self.pass_seconds(1.0)
        self.assertEqual(self.health.steps, 0)
        # A step meanwhile is noticed by the next reading that is exact.
        self.reading = 0.0
        with self.assertLogs(clock_health.logger, "WARNING"):
            self.pass_seconds(1.0, 8.0)
        self.assertEqual(self.health.steps, 1)

    def test_a_clock_that_is_stepped_every_second_does_not_fill_the_log(self) -> None:
        with self.assertLogs(clock_health.logger, "WARNING") as log:
            for _ in range(59):
                self.pass_seconds(1.0, 2.0)
        self.assertEqual(self.health.steps, 59)
        self.assertLess(len(log.records), 8)

    def test_the_end(self) -> None:
        self.health.end()
        self.health.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LogTests(unittest.TestCase):
    def test_the_line_at_the_start(self) -> None:
        for found, level, text in (
            (Synchronisation(True, 12e-6), "INFO", "clock: synchronised, estimated error 0.000012 s"),
            (Synchronisation(False, None), "WARNING", "clock: not synchronised: timed starts are only as accurate as"),
            (UNKNOWN, "INFO", "clock: it is not known whether it is synchronised"),
        ):
            with self.subTest(found), self.assertLogs(clock_health.logger, "INFO") as log:
                ClockHealth(Clock(), ask=lambda: found).begin()
                (record,) = log.records
                self.assertEqual(record.levelname, level)
                self.assertTrue(record.getMessage().startswith(text), record.getMessage())


if __name__ == "__main__":
    unittest.main()
