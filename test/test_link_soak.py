"""The soak test of a Link, for a second, and what it complains about."""

from __future__ import annotations

import contextlib
import io
import unittest

from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.python import threadable

from benchmarks.link_soak import LinkSoak, main

from .in_memory import quiet


def setUpModule() -> None:
    quiet()


class LinkSoakTests(unittest.TestCase):
    def test_a_second(self) -> None:
        self.addCleanup(setattr, threadable, "ioThread", threadable.ioThread)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            status = main(["--minutes", "0.02", "--seed", "3"], SelectReactor())
        self.assertEqual(status, 0, printed.getvalue())
        for text in ("seed 3\n", "answers ", "outages ", "every answer was given to its own question\n"):
            self.assertIn(text, printed.getvalue())

    def test_complaints(self) -> None:
        for counts, durations, blocks, wanted in (
            ({"answers": 1}, [0.1], [0, 1000, 1000, 1000, 1100], []),
            ({}, [], [], ["no question was answered"]),
            (
                {"answers": 1, "answers to another question": 2},
                [],
                [],
                ["2 answers were given to another question"],
            ),
            ({"answers": 1}, [3.0, 0.1], [], ["a question took 3 s"]),
            ({"answers": 1}, [], [0, 0, 1000, 2000, 3001], ["2001 blocks of memory were kept"]),
        ):
            with self.subTest(wanted):
                soak = LinkSoak(Clock(), 1, 0)
                soak.counts.update(counts)
                soak.durations, soak.blocks = durations, blocks
                self.assertEqual(soak.complaints(), wanted)


if __name__ == "__main__":
    unittest.main()
