"""The thread that makes dumps: which ones, of which sky, and what becomes of them on a full disk. On a fake clock."""

from __future__ import annotations

import errno
import shutil
import tempfile
import threading
import unittest
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy

from discosbackend.simulator.instrument.model import Channel
from discosbackend.simulator.recording.dump_files import RecordingWriter
from discosbackend.simulator.recording.dump_reader import RecordingReader
from discosbackend.simulator.recording.dump_thread import DumpThread
from discosbackend.simulator.signal.sky import Sky
from discosbackend.ticks import TICKS_PER_SECOND

from .settings import PATIENCE, wait_until
from .test_simulator_recording_dump_files import BEGINS, SETUP

DUMP = 40 * TICKS_PER_SECOND // 1000
TINY = replace(SETUP, channels=(Channel(0, ("L",), 0.0, 1500.0, 2),))


class Levels:
    """In place of Spectra: a dump is its number, and the number of the input whose Tsys the sky has changed."""

    def __init__(self, _: Any) -> None:
        self.filled = 0

    def buffers(self) -> Any:
        """Two values."""
        return numpy.zeros(2, numpy.int32)

    def fill(self, dump: int, sky: Sky, out: Any) -> None:
        """As spectra's."""
        assert dump == self.filled
        self.filled += 1
        out[0], out[1] = dump, max(sky.tsys, default=-1)


class DumpThreadTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by enterContext
        self.folder = Path(self.enterContext(folder))
        patch = mock.patch("discosbackend.simulator.signal.spectra.Spectra", Levels)
        patch.start()
        self.addCleanup(patch.stop)
        self.steady = 1_000_000
        self.recording = RecordingWriter.begin(self.folder, TINY, BEGINS, Sky())

    def begin(self, sky: Sky = Sky()) -> DumpThread:
        """Dumps from now on; ended at the latest with the test."""
        dumping = DumpThread(TINY, self.recording, begins=self.steady, steady=lambda: self.steady, sky=sky)
        dumping.start()

        def end() -> None:
            dumping.end(self.steady)
            self.assertTrue(dumping.wait(PATIENCE))

        self.addCleanup(end)
        return dumping

    def read(self) -> list[tuple[int, int, list[int]]]:
        """Number, flags and values of every dump on disk."""
        found = []
        with RecordingReader(self.recording.folder) as recorded:
            for dump in recorded.dumps:
                with recorded.values(dump.place) as raw:
                    found.append((dump.number, dump.flags, array("i", bytes(raw)).tolist()))
        return found

    def finish(self, dumping: DumpThread, instant: int) -> list[tuple[int, int, list[int]]]:
        """End it at that instant, which may be over already."""
        self.steady = max(self.steady, instant)
        dumping.end(instant)
        self.assertTrue(dumping.wait(PATIENCE))
        return self.read()

    def test_whole_dumps_only(self) -> None:
        for ticks, count in ((0, 0), (1, 0), (DUMP - 1, 0), (DUMP, 1), (10 * DUMP - 1, 9), (10 * DUMP, 10)):
            with self.subTest(ticks):
                self.recording = RecordingWriter.begin(self.folder, TINY, BEGINS, Sky())
                dumping = self.begin()
                found = self.finish(dumping, self.steady + ticks)
                self.assertEqual(found, [(number, 0, [number, -1]) for number in range(count)])
                self.assertEqual((dumping.made, dumping.lost, dumping.problem), (count, 0, ""))
                self.assertFalse(dumping.running)

    def test_an_end_before_the_beginning_makes_none(self) -> None:
        self.assertEqual(self.finish(self.begin(), self.steady - 5 * DUMP), [])

    def test_each_dump_shows_the_sky_at_its_end(self) -> None:
        dumping = self.begin(Sky(diode=True))
        begins = self.steady
        for ticks, number in ((DUMP // 2, 0), (2 * DUMP, 1), (2 * DUMP + 1, 2), (4 * DUMP - 1, 3)):
            self.steady = begins + ticks
            dumping.change_sky(Sky().with_tsys(50, (number,)))
        found = self.finish(dumping, begins + 6 * DUMP)
        self.assertEqual([values[1] for *_, values in found], [0, 1, 2, 3, 3, 3])
        self.assertEqual([flags for _, flags, _ in found], [0] * 6)

    def test_an_integration_of_centuries(self) -> None:
        setup = replace(TINY, integration=9_999_999_999_999_999_999)
        dumping = DumpThread(setup, self.recording, begins=self.steady, steady=lambda: self.steady, sky=Sky())
        dumping.start()
        self.assertFalse(dumping.wait(0.05))
        dumping.end(self.steady)
        self.assertTrue(dumping.wait(PATIENCE))
        self.assertEqual((dumping.made, dumping.problem), (0, ""))

    def test_the_diode_is_flagged(self) -> None:
        found = self.finish(self.begin(Sky(interleave=2)), self.steady + 6 * DUMP)
        self.assertEqual([flags for _, flags, _ in found], [1, 1, 0, 0, 1, 1])

    def test_dumps_are_made_while_it_goes_on(self) -> None:
        # On the host's clock, as at a telescope: a thread that waits by itself.
        from discosbackend.simulator.clock import SimulatedClock

        steady = SimulatedClock().steady
        setup = replace(TINY, integration=5)
        begins = steady()
        dumping = DumpThread(setup, self.recording, begins=begins, steady=steady, sky=Sky())
        written, enough = RecordingWriter.write, threading.Event()

        def write(recording: RecordingWriter, number: int, flags: int, values: memoryview) -> None:
            self.assertGreaterEqual(steady(), begins + (number + 1) * 5 * TICKS_PER_SECOND // 1000)
            written(recording, number, flags, values)
            if number == 20:
                enough.set()

        with mock.patch.object(RecordingWriter, "write", write):
            dumping.start()
            self.assertTrue(enough.wait(PATIENCE))
            dumping.end(steady())
            self.assertTrue(dumping.wait(PATIENCE))
        self.assertEqual([number for number, *_ in self.read()], list(range(dumping.made)))
        self.assertGreater(dumping.made, 20)
        self.assertGreater(dumping.lag, 0)

    def test_a_full_disk_loses_what_does_not_fit(self) -> None:
        dumping = self.begin()
        written = RecordingWriter.write

        def write(recording: RecordingWriter, number: int, flags: int, values: memoryview) -> None:
            if number in (2, 3):
                raise OSError(errno.ENOSPC, "No space left on device")
            written(recording, number, flags, values)

        with (
            mock.patch.object(RecordingWriter, "write", write),
            self.assertLogs("discosbackend.simulator.recording.dump_thread", "ERROR") as logs,
        ):
            found = self.finish(dumping, self.steady + 5 * DUMP)
        self.assertEqual([number for number, *_ in found], [0, 1, 4])
        self.assertEqual(dumping.problem, "recording: no space left on device: 2 dumps lost")
        self.assertEqual((dumping.made, dumping.lost), (5, 2))
        self.assertEqual(len(logs.output), 1, "one line, not one a dump")

    def removed(self) -> None:
        """Remove the recording."""
        shutil.rmtree(self.recording.folder)

    def moved(self) -> None:
        """Move the data folder, and make another one in its place."""
        data = self.folder / "data"
        data.rename(self.folder / "moved")
        data.mkdir()

    def replaced(self) -> None:
        """Put another file in the place of that of the dumps."""
        dumps = self.recording.folder / "dumps"
        dumps.rename(dumps.with_name("moved"))
        dumps.write_bytes(b"")

    def no_recording(self) -> None:
        """Remove the header, without which a folder is no recording."""
        (self.recording.folder / "header.json").unlink()

    def test_one_that_is_removed_or_moved_is_told_while_it_is(self) -> None:
        for vanish in (self.removed, self.moved, self.replaced, self.no_recording):
            self.recording = RecordingWriter.begin(self.folder / "data", TINY, BEGINS, Sky())
            folder = self.recording.folder
            with (
                self.subTest(vanish.__name__),
                mock.patch("discosbackend.simulator.recording.dump_thread._LONGEST_WAIT", 0.01),
                self.assertLogs("discosbackend.simulator.recording.dump_thread", "ERROR") as logs,
            ):
                dumping = self.begin()
                self.assertEqual(dumping.problem, "")
                vanish()
                # Also before its first dump is over.
                wait_until(lambda dumping=dumping: dumping.problem)  # type: ignore[misc]
                self.assertEqual(dumping.problem, f"recording: removed or moved: {folder}")
                self.assertEqual((dumping.made, dumping.running), (0, True))
                self.steady += 3 * DUMP
                dumping.end(self.steady)
                self.assertTrue(dumping.wait(PATIENCE))
                self.assertEqual((dumping.made, dumping.lost), (3, 0))
                self.assertEqual(dumping.problem, f"recording: removed or moved: {folder}")
            self.assertEqual(len(logs.output), 1, logs.output)
            shutil.rmtree(folder, ignore_errors=True)

    def test_one_that_comes_back_is_whole(self) -> None:
        with (
            mock.patch("discosbackend.simulator.recording.dump_thread._LONGEST_WAIT", 0.01),
            self.assertLogs("discosbackend.simulator.recording.dump_thread", "WARNING") as logs,
        ):
            dumping = self.begin()
            folder = self.recording.folder
            folder.rename(self.folder / "away")
            self.steady += 2 * DUMP
            wait_until(lambda: dumping.problem and dumping.made == 2)
            (self.folder / "away").rename(folder)
            wait_until(lambda: not dumping.problem)
            found = self.finish(dumping, self.steady + DUMP)
        self.assertEqual([number for number, *_ in found], [0, 1, 2])
        self.assertEqual([line.rpartition(": ")[2] for line in logs.output], [
            "removed or moved while it is recorded",
            "it is in its place again",
        ])  # fmt: skip

    def test_whatever_goes_wrong_is_told(self) -> None:
        with (
            mock.patch.object(Levels, "fill", side_effect=ZeroDivisionError),
            self.assertLogs("discosbackend.simulator.recording.dump_thread", "ERROR") as logs,
        ):
            dumping = self.begin()
            self.assertEqual(self.finish(dumping, self.steady + 5 * DUMP), [])
        self.assertEqual(dumping.problem, "recording: the dump cannot be computed: 5 dumps lost")
        self.assertEqual(len(logs.output), 1)
        self.assertIn("ZeroDivisionError", logs.output[0])

    def test_a_dump_that_cannot_be_costs_no_other(self) -> None:
        fill = Levels.fill

        def sometimes(levels: Levels, dump: int, sky: Sky, out: Any) -> None:
            fill(levels, dump, sky, out)
            if dump == 2:
                raise ZeroDivisionError

        with (
            mock.patch.object(Levels, "fill", sometimes),
            self.assertLogs("discosbackend.simulator.recording.dump_thread", "ERROR"),
        ):
            found = self.finish(self.begin(), self.steady + 5 * DUMP)
        self.assertEqual([number for number, *_ in found], [0, 1, 3, 4])

    def test_spectra_that_cannot_be(self) -> None:
        with (
            mock.patch.object(Levels, "buffers", side_effect=MemoryError),
            self.assertLogs("discosbackend.simulator.recording.dump_thread", "ERROR") as logs,
        ):
            dumping = self.begin()
            self.assertTrue(dumping.wait(PATIENCE))
        self.assertEqual(dumping.problem, "recording failed after 0 dumps")
        self.assertIn("MemoryError", logs.output[0])

    def test_a_recording_that_cannot_be_finished(self) -> None:
        dumping = self.begin()
        with (
            mock.patch("os.fdatasync", side_effect=OSError(errno.EIO, "Input/output error")),
            self.assertLogs("discosbackend.simulator.recording.dump_thread", "ERROR"),
        ):
            found = self.finish(dumping, self.steady + DUMP)
        self.assertEqual(len(found), 1)
        self.assertEqual(dumping.problem, "recording: input/output error")

    def test_a_slow_host_is_told_of_once(self) -> None:
        dumping = self.begin()
        with self.assertLogs("discosbackend.simulator.recording.dump_thread", "WARNING") as logs:
            self.finish(dumping, self.steady + 100 * DUMP)
        self.assertEqual(len(logs.output), 1)
        self.assertIn("s late: the host is slow", logs.output[0])
        self.assertAlmostEqual(dumping.lag, 99 * 0.04)


if __name__ == "__main__":
    unittest.main()
