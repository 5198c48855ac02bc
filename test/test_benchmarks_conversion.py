"""What the measurement of conversions makes of what it sees: its rows, from made-up processes on a made-up clock."""

from __future__ import annotations

import unittest
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

from benchmarks import conversion, load
from benchmarks.presets import QUICK
from benchmarks.servers import NotMeasured
from benchmarks.table import Row

from .test_benchmarks_rows import FakeServer, FakesTests

PRESET = replace(QUICK, starts=2)


class ConversionTests(FakesTests):
    """Everything takes the time that a test says, and that times `slowed` while there are loops."""

    def setUp(self) -> None:
        self.now = 0.0
        self.loops = 0
        self.most_loops = 0
        self.bare, self.first, self.later = (0.5, 5.0), (0.7, 7.0), (0.1, 1.0)
        self.fresh = True
        self.unpinned: list[int] = []
        test = self

        class FakeCompanion(FakeServer):
            def __init__(self, *arguments: str) -> None:
                super().__init__()
                self.started, self.loop = test.now, "while True" in arguments[1]
                test.loops += self.loop
                test.most_loops = max(test.loops, test.most_loops)

            def read_line(self) -> None:
                test.now += 0.0 if self.loop else test.bare[test.loops > 0]

            def __exit__(self, *_: object) -> None:
                test.loops -= self.loop

        clock = mock.Mock(perf_counter=lambda: self.now, sleep=lambda _: None)
        self.put(load, ask=self.ask)
        self.put(
            conversion,
            Companion=FakeCompanion,
            Server=self.serve,
            connect=lambda _: nullcontext(mock.Mock()),
            time=clock,
            unpin=self.unpinned.append,
        )

    def serve(self, *_: str) -> FakeServer:
        self.fresh = True
        return FakeServer()

    def ask(self, _: object, line: str) -> str:
        if line == "?convert-data":
            self.now += (self.first if self.fresh else self.later)[self.loops > 0]
            self.fresh = False
        return f"!{line[1:].partition(',')[0]},ok"

    def rows(self) -> list[Row]:
        return conversion.conversion(PRESET)

    def test_rows(self) -> None:
        self.assertEqual(
            self.rows(),
            [
                Row("first conversion, against a bare import", "700 ms", "500 ms", "1.40 ×", "≤ 1.5 ×", True),
                Row("a further conversion", "100 ms", "", "", "≤ 300 ms", True),
                Row("first conversion, slowed by 8 busy loops", "10 ×", "10 ×", "1.00 ×", "≤ 1.5 ×", True),
                Row("a further conversion, slowed by 8 busy loops", "10 ×", "10 ×", "1.00 ×", "≤ 1.5 ×", True),
            ],
        )
        self.assertEqual((self.most_loops, self.loops), (8, 0))
        # Two in each of the four rounds, the one beside the loops included, and the loops.
        self.assertEqual(len(self.unpinned), 2 * 4 + 8)

    def test_what_is_missed(self) -> None:
        for names, times, missed in (
            ("first", (0.76, 7.6), [0]),
            ("later", (0.31, 3.1), [1]),
            ("first", (0.7, 11.0), [2]),
            ("later", (0.1, 1.6), [3]),
        ):
            with self.subTest(names, times=times), mock.patch.object(self, names, times):
                found = [row.met for row in self.rows()]
                self.assertEqual([number for number, met in enumerate(found) if not met], missed)

    def test_a_conversion_that_is_refused(self) -> None:
        def ask(*_: Any) -> str:
            return "!convert-data,fail,disk full"

        self.put(load, ask=ask)
        with self.assertRaisesRegex(NotMeasured, "was answered !convert-data,fail,disk full"):
            self.rows()


if __name__ == "__main__":
    unittest.main()
