"""Caution: which lines may be sent, and when."""

from __future__ import annotations

import unittest

from discosbackend.commands import COMMANDS
from discosbackend.testing.caution import Caution, Reach, reach_of, reach_of_command


class _Clock:
    """Time passes while somebody sleeps, and one tick of a coarse clock less than was asked for."""

    def __init__(self, short: float = 0.0) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self._short = short

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += max(seconds - self._short, self._short)


class ReachTests(unittest.TestCase):
    def test_of_lines(self) -> None:
        for line, wanted in {
            b"?status\r\n": Reach.READS,
            b"?version": Reach.READS,
            b"?no-such-command,1\r\n": Reach.READS,
            b"\r\n": Reach.READS,
            b"": Reach.READS,
            b"!start,ok\r\n": Reach.READS,
            b" ?start\r\n": Reach.READS,
            b"?get-tpi,0,0\r\n": Reach.MEASURE,
            b"?get-rms\n": Reach.MEASURE,
            b"?start\r\n": Reach.FULL,
            b"?stop": Reach.FULL,
            b"?stop\r\0": Reach.FULL,
            b"?set-shift,x\r\n": Reach.FULL,
            # Some server may carry out what does not parse.
            b"?start,\\\r\n": Reach.FULL,
            b"?stop,,\r\n": Reach.FULL,
            b"?convert-data\r\n": Reach.FULL,
            b"?" + 999 * b"x": Reach.READS,
            b"?" + 1000 * b"x": Reach.FULL,
        }.items():
            with self.subTest(line):
                self.assertIs(reach_of(line), wanted)

    def test_of_commands(self) -> None:
        found = {reach: {row.name for row in COMMANDS.values() if reach_of_command(row) is reach} for reach in Reach}
        self.assertEqual(found[Reach.MEASURE], {"get-tpi", "get-tp0", "get-rms", "get-ddcoffset"})
        self.assertEqual(
            found[Reach.READS],
            {"status", "version", "time", "get-configuration", "get-integration", "get-filename"},
        )

    def test_what_may_not_be_sent(self) -> None:
        for reach, data in (
            (Reach.READS, b"?get-tpi\r\n"),
            (Reach.READS, b"?status\r\n?start\r\n"),
            (Reach.MEASURE, b"?get-tpi\n?set-shift,1\n"),
            (Reach.READS, 2000 * b"x"),
            # Where a line begins is what a server says that it is.
            (Reach.READS, b"?status\r\0?start\r\n"),
            (Reach.READS, b"\xff\xfb\x01?start\r\n"),
            (Reach.READS, b"?status\n?start"),
        ):
            with self.subTest(data), self.assertRaisesRegex(RuntimeError, "must not be sent"):
                Caution(reach).before(data)
        Caution(Reach.MEASURE).before(b"?status\r\n?get-tpi\r\n")
        Caution().before(b"?backend-park\r\n" + 2000 * b"x")


class RateTests(unittest.TestCase):
    def test_so_many_in_any_second(self) -> None:
        clock = _Clock()
        caution = Caution(rate=2, clock=clock, sleep=clock.sleep)
        for _ in range(2):
            caution.before(b"?status\r\n")
        self.assertEqual(clock.slept, [])
        clock.now += 0.25
        caution.before(b"?status\r\n")
        self.assertAlmostEqual(clock.slept[0], 0.85)
        # Those of one piece count each, and are sent together.
        caution.before(b"?status\r\n" * 2)
        self.assertAlmostEqual(sum(clock.slept), 0.85 + 1.1)
        caution.before(b"?version\r\0")
        self.assertAlmostEqual(sum(clock.slept), 0.85 + 2.2)
        with self.assertRaisesRegex(RuntimeError, "3 lines must not be sent at once where 2 a second"):
            caution.before(b"?status\r\n" * 3)

    def test_who_wakes_early_sleeps_on(self) -> None:
        clock = _Clock(short=0.1)
        caution = Caution(rate=1, clock=clock, sleep=clock.sleep)
        for _ in range(2):
            caution.before(b"\n")
        self.assertGreaterEqual(clock.now, 101.0)
        self.assertEqual(len(clock.slept), 2)

    def test_only_ends_of_lines_count(self) -> None:
        clock = _Clock()
        caution = Caution(rate=1, clock=clock, sleep=clock.sleep)
        for piece in (b"?sta", b"tus\r", b"\n"):
            caution.before(piece)
        self.assertEqual(clock.slept, [])

    def test_sparing(self) -> None:
        self.assertTrue(Caution(rate=10).sparing)
        self.assertFalse(Caution(Reach.READS).sparing)


if __name__ == "__main__":
    unittest.main()
