"""Tests of rate_limited_logger: how much of the log a flood may fill."""

from __future__ import annotations

import logging
import re
import unittest
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from discosbackend.rate_limited_logger import RateLimitedLogger

logger = logging.getLogger("test.rate_limited_logger")
logger.propagate = False


class Lines(logging.Handler):
    """Keeps what is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def take(self) -> list[str]:
        """The messages since the last call."""
        messages = [record.getMessage() for record in self.records]
        self.records.clear()
        return messages


class RateLimitedLoggerTests(unittest.TestCase):
    """At most five lines of a kind a second, and a count of the rest."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.rate_limited_logger = RateLimitedLogger(logger, self.clock.callLater, self.clock.seconds)
        self.lines = Lines()
        self.enterContext(mock.patch.object(logger, "handlers", [self.lines]))
        logger.setLevel(logging.INFO)

    def complain(self, times: int, kind: str = "kind") -> None:
        for number in range(times):
            self.rate_limited_logger.log(logging.INFO, kind, "%s %d", kind, number)

    def test_a_few(self) -> None:
        self.complain(5)
        self.assertEqual(self.lines.take(), [f"kind {number}" for number in range(5)])
        self.assertEqual(self.clock.getDelayedCalls(), [], "no reactor is needed for it")
        self.clock.advance(10)
        self.assertEqual(self.lines.take(), [])

    def test_a_flood(self) -> None:
        self.complain(1000)
        self.assertEqual(self.lines.take(), [f"kind {number}" for number in range(5)])
        self.complain(5)
        self.clock.advance(1)
        (message,) = self.lines.take()
        self.assertTrue(message.startswith("1000 more lines"), message)
        self.assertIn("kind", message)
        self.clock.advance(100)
        self.assertEqual(self.lines.take(), [], "it is said once")

    def test_begins_anew_after_a_flood(self) -> None:
        self.complain(6)
        self.clock.advance(1)
        self.lines.take()
        self.complain(6)
        self.assertEqual(self.lines.take(), [f"kind {number}" for number in range(5)])
        self.clock.advance(1)
        self.assertEqual(len(self.lines.take()), 1)

    def test_no_more_than_five_is_no_flood(self) -> None:
        """However many came in an earlier second, the first of a new one is logged."""
        for times in range(1, 6):
            with self.subTest(times):
                self.clock.advance(100)
                self.complain(times)
                self.lines.take()
                self.clock.advance(100)
                self.complain(1)
                self.assertEqual(self.lines.take(), ["kind 0"])
                self.clock.advance(100)
                self.assertEqual(self.lines.take(), [])

    def test_steady_trickle(self) -> None:
        """Five a second, for ever: nothing is left out."""
        for _ in range(100):
            self.complain(1)
            self.clock.advance(0.25)
        self.assertEqual(self.lines.take(), ["kind 0"] * 100)

    def test_kinds_are_counted_apart(self) -> None:
        self.complain(10, "one")
        self.complain(7, "two")
        self.lines.take()
        self.complain(1, "three")
        self.assertEqual(self.lines.take(), ["three 0"])
        self.clock.advance(1)
        sums = self.lines.take()
        self.assertEqual([sums[0][:6], sums[1][:6]], ["5 more", "2 more"])
        self.assertIn("one", sums[0])
        self.assertIn("two", sums[1])

    def test_a_longer_window(self) -> None:
        """Five a minute, say; the next minute begins anew."""
        for _ in range(2):
            for number in range(60):
                self.rate_limited_logger.log(logging.INFO, "kind", "line %d", number, window=60.0)
                self.clock.advance(0.9)
            self.assertEqual(self.lines.take(), [f"line {number}" for number in range(5)])
            self.clock.advance(6.5)
            self.assertEqual(self.lines.take(), ["55 more lines of this kind left out: kind"])
            self.clock.advance(100)

    def test_a_longer_window_without_a_flood(self) -> None:
        for _ in range(10):
            for number in range(5):
                self.rate_limited_logger.log(logging.INFO, "kind", "line %d", number, window=60.0)
            self.assertEqual(len(self.lines.take()), 5)
            self.clock.advance(60)
        self.assertEqual(self.lines.take(), [])

    def test_kinds_without_end(self) -> None:
        """A peer that makes up a kind each time fills neither the log nor the memory."""
        for number in range(3000):
            kind = f"kind {number}"
            self.rate_limited_logger.log(logging.INFO, kind, "line %d", number, window=60.0)
        self.assertLess(len(self.rate_limited_logger._kinds), 1100)
        self.assertLess(len(self.lines.take()), 1100)
        self.clock.advance(60)
        (message,) = self.lines.take()
        self.assertRegex(message, r"^199\d more lines of this kind left out: ")
        self.rate_limited_logger.log(logging.INFO, "new", "and on", window=60.0)
        self.assertEqual(self.lines.take(), ["and on"])
        self.assertLess(len(self.rate_limited_logger._kinds), 10, "what is over is forgotten")

    def test_what_was_left_out_is_counted_at_the_end(self) -> None:
        self.complain(10, "one")
        self.complain(3, "two")
        for _ in range(7):
            self.rate_limited_logger.log(logging.WARNING, "three", "three", window=60.0)
        self.lines.take()
        self.rate_limited_logger.sum_up()
        self.assertEqual(
            self.lines.take(),
            ["5 more lines of this kind left out: one", "2 more lines of this kind left out: three"],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.rate_limited_logger.sum_up()
        self.assertEqual(self.lines.take(), [])

    def test_as_logging_would(self) -> None:
        try:
            raise ValueError("problem")
        except ValueError:
            self.rate_limited_logger.log(logging.ERROR, "kind", "%r of %s", "a\nb", "c", exc_info=True)
        self.assertEqual(len(self.lines.records), 1)
        record = self.lines.records[0]
        self.assertEqual((record.levelno, record.msg, record.args), (logging.ERROR, "%r of %s", ("a\nb", "c")))
        assert record.exc_info
        self.assertIsInstance(record.exc_info[1], ValueError)

    def test_what_nobody_reads(self) -> None:
        """Below the level it costs nothing: not a call of the reactor's, not a place in the second."""
        logger.setLevel(logging.WARNING)
        self.complain(1000)
        self.assertEqual((self.lines.take(), self.clock.getDelayedCalls()), ([], []))
        logger.setLevel(logging.INFO)
        self.complain(5)
        self.assertEqual(len(self.lines.take()), 5)

    @given(st.lists(st.sampled_from([0, 0, 0, 0, 0.125, 0.5, 1, 3]), max_size=80))
    def test_all_are_logged_or_counted(self, pauses: list[float]) -> None:
        clock = Clock()
        limited = RateLimitedLogger(logger, clock.callLater, clock.seconds)
        self.lines.take()
        for number, pause in enumerate(pauses):
            clock.advance(pause)
            limited.log(logging.INFO, "kind", "line %d", number)
        lasted = clock.seconds() - (pauses[0] if pauses else 0)
        clock.advance(10)
        self.assertEqual(clock.getDelayedCalls(), [])
        messages = self.lines.take()
        sums = [re.match(r"(\d+) more", message) for message in messages]
        logged = sums.count(None)
        self.assertEqual(logged + sum(int(found[1]) for found in sums if found), len(pauses))
        self.assertGreaterEqual(logged, min(5, len(pauses)))
        self.assertLessEqual(logged, 5 * (int(lasted) + 1))
        ordered = [int(message.split()[1]) for message in messages if message.startswith("line")]
        self.assertEqual(ordered, sorted(ordered))


if __name__ == "__main__":
    unittest.main()
