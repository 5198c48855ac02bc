"""What the measurement of a recording makes of what it sees: its rows, and why there may be none."""

from __future__ import annotations

import shutil
import unittest
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import load, recording
from benchmarks.presets import QUICK
from benchmarks.servers import NotMeasured
from benchmarks.table import Row

from .test_benchmarks_rows import FakeServer, FakesTests

PRESET = replace(QUICK, recording=1.0)
MIB = 2**20


class RecordingTests(FakesTests):
    """On a clock that passes 10 ms in every pause; a reply takes as long as a test says."""

    def setUp(self) -> None:
        self.now = 0.0
        self.newest: dict[str, Any] = {"dumps": 25, "lost": 0, "lag": 0.03, "running": False}
        self.latencies = iter([0.0] * 10_000)
        self.memory = iter([50 * MIB] * 10_000)
        self.said: list[str] = []
        server = FakeServer()
        memory = property(lambda _: next(self.memory), lambda *_: None)
        self.enterContext(mock.patch.object(FakeServer, "memory", memory, create=True))
        clock = mock.Mock(monotonic=lambda: self.now, perf_counter=lambda: self.now, sleep=self.sleep)
        control = mock.MagicMock()
        control.__enter__.return_value.state = lambda: {"files": {"newest": self.newest}}
        self.put(load, ask=self.ask)
        self.put(
            recording,
            _server=lambda _: server,
            connect=nullcontext,
            time=clock,
            SimulatorControl=lambda _: control,
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def ask(self, _: object, line: str) -> str:
        """A right reply, after its latency."""
        self.said.append(line)
        if line == "?status":
            self.now += next(self.latencies)
        return f"!{line[1:].partition(',')[0]},ok"

    def rows(self) -> dict[str, Row]:
        return {row.figure: row for row in recording.recording(PRESET)}

    def test_all_is_well(self) -> None:
        found = self.rows()
        self.assertEqual({row.verdict for row in found.values()}, {"", "met"})
        self.assertEqual(self.said[:2], ["?set-configuration,SKARAB_3", "?start"])
        self.assertEqual(self.said[-1], "?stop")
        self.assertEqual(self.said.count("?status"), 100)
        self.assertEqual((found["dumps recorded"].ours, found["dumps recorded"].limit), ("25", "25 (due)"))
        self.assertEqual(found["data"].ours, "87.5 MiB/s")

    def test_a_dump_that_is_missing(self) -> None:
        # One may have begun just before stop; none may be lost.
        for dumps, lost, verdict in ((24, 0, "met"), (23, 0, "missed"), (25, 1, "missed"), (26, 1, "missed")):
            with self.subTest(dumps, lost=lost):
                self.newest.update(dumps=dumps, lost=lost)
                self.assertEqual(self.rows()["dumps recorded"].verdict, verdict)
                self.now = 0.0

    def test_a_dump_that_is_late(self) -> None:
        self.newest["lag"] = 0.51
        row = self.rows()["latest dump on disk, after its end"]
        self.assertEqual((row.ours, row.verdict), ("510 ms", "missed"))

    def test_a_status_that_is_slow(self) -> None:
        self.latencies = iter([0.001] * 40 + [0.025] * 2 + [0.001] * 1000)
        found = self.rows()
        self.assertEqual(found["status meanwhile, p50"].ours, "1 ms")
        p99 = found["status meanwhile, p99"]
        self.assertEqual((p99.ours, p99.verdict), ("25 ms", "missed"))

    def test_memory_that_grows(self) -> None:
        self.memory = (50 * MIB + number * MIB // 10 for number in count())
        row = self.rows()["memory, second half against first"]
        self.assertEqual(row.verdict, "missed")

    def test_dumps_that_never_end(self) -> None:
        self.newest["running"] = True
        with self.assertRaisesRegex(NotMeasured, "the last dumps are not there 10 s after stop"):
            self.rows()

    def test_a_disk_that_is_too_small(self) -> None:
        with mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=100 * MIB)):
            with self.assertRaisesRegex(NotMeasured, r"175 MiB are needed in .+, and 100 MiB are free"):
                self.rows()

    def test_a_reply_that_is_wrong(self) -> None:
        self.put(load, ask=lambda _, line: "!start,fail,data folder unwritable" if line == "?start" else "!x,ok")
        with self.assertRaisesRegex(NotMeasured, r"\?set-configuration,SKARAB_3 was answered !x,ok"):
            self.rows()

    def test_nothing_is_left_behind(self) -> None:
        seen: list[Path] = []
        self.put(recording, _server=lambda folder: seen.append(folder) or FakeServer())
        self.rows()
        self.assertFalse(seen[0].exists())


if __name__ == "__main__":
    unittest.main()
