"""Recordings on disk: what is written is read back, and what a kill, a bad disk or another process leaves is seen."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import tempfile
import unittest
from array import array
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from discosbackend.simulator.errors import RecordingError
from discosbackend.simulator.instrument.model import Channel, Comb, Receiver, Response, Setup
from discosbackend.simulator.recording.dump_files import (
    RecordingWriter,
    give_name,
    is_gone,
    name_of,
    open_regular,
    recordings_in,
)
from discosbackend.simulator.recording.dump_reader import RecordingReader
from discosbackend.simulator.signal.sky import Line, Sky, Source
from discosbackend.ticks import Ticks

from .in_memory import fewer
from .recordings import in_child

BEGINS = Ticks(17_642_304_001_234_567)

SETUP = Setup(
    instrument="sardara",
    configuration="SK00",
    seed=3,
    acquisition=0,
    integration=40,
    attenuation=7.0,
    receiver=Receiver(interference=(Comb(1.0, 2.0, 0.5, 3.0),), offsets=((0.0, 0.0), (2.0, 0.0))),
    response=Response(),
    channels=(Channel(0, ("L",), 0.0, 1500.0, 4), Channel(0, ("L", "R"), 0.0, 1500.0, 2)),
    tsys=(90.0, 95.5),
    marks=(30.0, 31.0),
)
"""Twelve values a dump."""

RECORD = 24 + 4 * SETUP.values


def values(dump: int) -> memoryview:
    """Values that tell which dump they are of."""
    return memoryview(array("i", [1000 * dump + place for place in range(SETUP.values)])).cast("B")


class RecordingMixin(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by enterContext
        self.data = Path(self.enterContext(folder)) / "data"

    def record(self, dumps: int, setup: Setup = SETUP) -> Path:
        """A finished recording."""
        recording = RecordingWriter.begin(self.data, setup, BEGINS, Sky())
        for dump in range(dumps):
            recording.write(dump, dump % 2, values(dump))
        recording.finish()
        return recording.folder

    def assert_dumps(self, folder: Path, *wanted: int) -> None:
        """These dumps, with their flags and values, are what a reader finds."""
        with RecordingReader(folder) as recorded:
            found = [(dump.number, dump.flags) for dump in recorded.dumps]
            self.assertEqual(found, [(number, number % 2) for number in wanted])
            for dump in recorded.dumps:
                with recorded.values(dump.place) as raw:
                    self.assertEqual(bytes(raw), bytes(values(dump.number)))


class WholeTests(RecordingMixin):
    """What is written is what is read."""

    def test_everything_comes_back(self) -> None:
        sky = replace(Sky().with_source("a", Source(level=1, lines=(Line(1, 2, 3),))), diode=True)
        recording = RecordingWriter.begin(self.data, SETUP, BEGINS, sky)
        recording.finish()
        recorded = RecordingReader(recording.folder)
        self.assertEqual((recorded.setup, recorded.begins), (SETUP, BEGINS))
        self.assertEqual(recorded.sky, json.loads(json.dumps(sky.to_dict())))
        self.assertEqual(recorded.middle(0), BEGINS + 200_000)
        self.assertEqual(recorded.middle(25), BEGINS + 10_000_000 + 200_000)

    def test_dumps(self) -> None:
        for count in (0, 1, 2, 50):
            with self.subTest(count):
                self.assert_dumps(self.record(count), *range(count))

    def test_folders_are_named_by_their_instant_and_never_shared(self) -> None:
        names = [self.record(0).name for _ in range(3)]
        first = "20251127-080000.123-SK00"
        self.assertEqual(names, [first, f"{first}-1", f"{first}-2"])
        self.assertEqual([path.name for path in recordings_in(self.data)], sorted(names))
        self.assertEqual(recordings_in(self.data / "nowhere"), [])

    def test_names(self) -> None:
        folder = self.record(1)
        self.assertIsNone(name_of(folder))
        for name in ("/data/tmp/a.fits", "b c\t\xe9.fits"):
            give_name(folder, name)
            self.assertEqual((name_of(folder), RecordingReader(folder).name), (name, name))

    def test_removing(self) -> None:
        folder = self.record(1)
        self.assertFalse(is_gone(folder))
        with RecordingReader(folder) as recorded:
            recorded.remove()
        self.assertEqual(list(self.data.iterdir()), [])
        # Whatever else is left of it.
        self.assertTrue(is_gone(folder))
        folder.mkdir()
        self.assertTrue(is_gone(folder))
        folder.rmdir()
        folder.write_text("a file")
        self.assertTrue(is_gone(folder))


class DamageTests(RecordingMixin):
    """Whole dumps only, and a line in the log for what is none."""

    def test_every_length_that_a_kill_can_leave(self) -> None:
        folder = self.record(3)
        whole = (folder / "dumps").read_bytes()
        self.assertEqual(len(whole), 3 * RECORD)
        for length in range(len(whole) + 1):
            (folder / "dumps").write_bytes(whole[:length])
            if length % RECORD:
                with self.assertLogs("discosbackend.simulator.recording.dump_reader", "WARNING") as logs:
                    self.assert_dumps(folder, *range(length // RECORD))
                self.assertIn("the last dump is incomplete, its", logs.output[0])
            else:
                self.assert_dumps(folder, *range(length // RECORD))

    @fewer(30)
    @given(st.integers(0, 3 * RECORD - 1), st.integers(1, 255))
    def test_a_wrong_byte_costs_its_dump_only(self, place: int, change: int) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        folder = self.record(3)
        whole = bytearray((folder / "dumps").read_bytes())
        whole[place] ^= change
        (folder / "dumps").write_bytes(whole)
        with self.assertLogs("discosbackend.simulator.recording.dump_reader", "WARNING") as logs:
            self.assert_dumps(folder, *({0, 1, 2} - {place // RECORD}))
        self.assertIn(f"the dump at byte {place // RECORD * RECORD} is damaged", logs.output[0])

    def test_what_is_no_recording(self) -> None:
        folder = self.record(1)
        header = folder / "header.json"
        told = json.loads(header.read_text())
        for text, reason in (
            ("{", "cannot be read"),
            ("[" * 100000, "cannot be read"),
            ("[]", "is not of format 1"),
            (json.dumps({**told, "format": 2}), "is not of format 1"),
            (json.dumps({**told, "setup": {}}), "is damaged: setup.instrument is needed: text"),
            (json.dumps({**told, "setup": {**told["setup"], "more": 1}}), "is damaged: setup.more is not known"),
            (
                header.read_text().replace('"bins": 4', '"bins": "4"'),
                "is damaged: setup.channels[0].bins must be a whole number, not '4'",
            ),
        ):
            header.write_text(text)
            with self.subTest(text[:30]), self.assertRaises(RecordingError) as caught:
                RecordingReader(folder)
            self.assertIn(reason, str(caught.exception))
        header.unlink()
        with self.assertRaisesRegex(RecordingError, "is no recording: it has no header.json"):
            RecordingReader(folder)
        self.assertEqual(recordings_in(self.data), [])

    def test_what_no_header_has(self) -> None:
        """Each is refused in words, at once, and before anything is computed from it."""
        folder = self.record(1)
        header = folder / "header.json"
        whole = json.loads(header.read_text())
        for path, values in (
            (("begins",), (1e400, 10**40, -1, 1.5, "x", None)),
            (("sky",), ("x", [], None)),
            (("sky", "sources"), (3, [], None, {"a": 1}, {"a": {}}, {"a": {"level": "x"}})),
            (("sky", "tsys"), (3, [], None, {"0": "x"}, {"0": 1e400})),
            (("sky", "mark"), (True, "x", {"0": []})),
            (("setup",), ("x", [], 3, None)),
            (("setup", "instrument"), ([1], 3, {})),
            (("setup", "integration"), (0, -1, 1.5, 1e400, 10**30, True)),
            (("setup", "attenuation"), ("x", 1e400, [])),
            (("setup", "channels"), ([], [1], "x", {}, 3)),
            (("setup", "channels", 0), ([], {}, "x")),
            (("setup", "channels", 0, "feed"), (10**30, 500, -1, 1.5, "x")),
            (("setup", "channels", 0, "bins"), (16.5, 10**30, 0, "4")),
            (("setup", "channels", 0, "polarisations"), ([], ["Q"], "x", 3, ["L", "R", "L"], [[]])),
            (("setup", "receiver", "offsets"), ([[1]], [["x", 1]], [3], 3)),
            (("setup", "receiver", "interference"), ([1], [{}], 3)),
            (("setup", "receiver", "code"), ({}, 3)),
            (("setup", "response", "gain"), ("x", [], 1e400)),
            (("setup", "response"), ([], 3, {"x": 3})),
            (("setup", "tsys"), ([], [1], "x", ["x", "y"], 3)),
        ):
            value: Any
            for value in values:
                told = json.loads(json.dumps(whole))
                place = told
                for key in path[:-1]:
                    place = place[key]
                place[path[-1]] = value
                header.write_text(json.dumps(told))
                with self.subTest(path=path, value=value), self.assertRaises(RecordingError) as caught:
                    RecordingReader(folder)
                self.assertRegex(str(caught.exception), rf"\A{folder}: header.json is damaged: [^(]{{10,}}\Z")
                self.assertNotRegex(str(caught.exception), r"Error|Errno|Infinity|object has no")

    def test_what_is_no_json(self) -> None:
        folder = self.record(1)
        for name, read in (("header.json", RecordingReader), ("name.json", name_of)):
            for text in (b"{", b"", b"\xff", b"[" * 10**5, b"1" * 5000):
                (folder / name).write_bytes(text)
                with self.subTest(name, text=text[:9]), self.assertRaises(RecordingError) as caught:
                    read(folder)
                self.assertEqual(str(caught.exception), f"{folder}: {name} cannot be read: it is no JSON")
        for name_text in ("null", "[]", "3", r'"\ud800"'):
            (folder / "name.json").write_text(name_text)
            with (
                self.subTest(name_text),
                self.assertRaisesRegex(RecordingError, "name.json is damaged: it has no path"),
            ):
                name_of(folder)

    def test_without_its_dumps(self) -> None:
        folder = self.record(1)
        (folder / "dumps").unlink()
        with self.assertRaisesRegex(RecordingError, "dumps cannot be read: No such file"), RecordingReader(folder):
            self.fail("was entered")


class OpenTests(unittest.TestCase):
    """Files that may be anything else."""

    def test_one_that_is_replaced_between_the_look_and_the_opening(self) -> None:
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "file").write_bytes(b"")
        os.mkfifo(folder / "fifo")
        regular, before = os.stat(folder / "file"), set(os.listdir("/proc/self/fd"))
        for name, looked_at in (("fifo", regular), ("fifo", None)):
            look = mock.patch("os.stat", return_value=looked_at) if looked_at is not None else nullcontext()
            with self.subTest(looked_at is not None), look, self.assertRaisesRegex(OSError, "Not a regular file"):
                open_regular(folder / name, os.O_RDONLY)
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)


class LockTests(RecordingMixin):
    """One at a time holds a recording, and a kill lets go of it."""

    def test_while_it_is_written(self) -> None:
        recording = RecordingWriter.begin(self.data, SETUP, BEGINS, Sky())
        with self.assertRaisesRegex(RecordingError, "is in use"), RecordingReader(recording.folder):
            self.fail("was entered")
        recording.finish()
        self.assert_dumps(recording.folder)

    def test_while_it_is_read(self) -> None:
        folder = self.record(2)
        with RecordingReader(folder), self.assertRaisesRegex(RecordingError, "is in use"), RecordingReader(folder):
            self.fail("was entered")
        self.assert_dumps(folder, 0, 1)

    def test_who_only_looks_keeps_nobody_away(self) -> None:
        recording = RecordingWriter.begin(self.data, SETUP, BEGINS, Sky())
        recording.write(0, 0, values(0))
        with RecordingReader(recording.folder, hold=False) as recorded:
            self.assertEqual([dump.number for dump in recorded.dumps], [0])
        recording.finish()
        with RecordingReader(recording.folder, hold=False):
            self.assert_dumps(recording.folder, 0)

    def test_after_a_kill(self) -> None:
        def work() -> None:
            recording = RecordingWriter.begin(self.data, SETUP, BEGINS, Sky())
            for dump in range(3):
                recording.write(dump, dump % 2, values(dump))
            os.kill(os.getpid(), signal.SIGKILL)

        self.assertEqual(in_child(work), -signal.SIGKILL)
        (folder,) = recordings_in(self.data)
        self.assert_dumps(folder, 0, 1, 2)


class DiskTests(RecordingMixin):
    """Disks that do not take what is written."""

    def test_a_finished_recording_is_on_the_disk(self) -> None:
        synchronised = []

        def note(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            synchronised.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))

        with mock.patch.object(os, "fsync", note), mock.patch.object(os, "fdatasync", note):
            self.record(3)
        self.assertEqual(sorted(synchronised), ["dumps", "header.json"])

    def test_a_full_disk_costs_what_does_not_fit(self) -> None:
        recording = RecordingWriter.begin(self.data, SETUP, BEGINS, Sky())
        recording.write(0, 0, values(0))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, before)
        for room in (0, 1, 23, 24, 25, RECORD - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (RECORD + room, before[1]))
            with self.subTest(room), self.assertRaises(OSError) as caught:
                recording.write(1, 1, values(1))
            self.assertEqual(caught.exception.errno, errno.EFBIG)
            self.assertEqual((recording.folder / "dumps").stat().st_size, RECORD)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        recording.write(2, 0, values(2))
        recording.finish()
        self.assert_dumps(recording.folder, 0, 2)

    def test_a_disk_that_cannot_even_take_back_half_a_dump(self) -> None:
        recording = RecordingWriter.begin(self.data, SETUP, BEGINS, Sky())
        recording.write(0, 0, values(0))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, before)
        resource.setrlimit(resource.RLIMIT_FSIZE, (RECORD + 30, before[1]))
        with mock.patch("os.ftruncate", side_effect=OSError(errno.EIO, "Input/output error")):
            self.assertRaises(OSError, recording.write, 1, 1, values(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        for number in (2, 3):
            recording.write(number, number % 2, values(number))
        recording.finish()
        self.assert_dumps(recording.folder, 0, 2, 3)

    def test_writes_in_pieces(self) -> None:
        recording = RecordingWriter.begin(self.data, SETUP, BEGINS, Sky())
        whole_write = os.pwrite
        with (
            mock.patch("os.pwritev", lambda file, parts, at: whole_write(file, b"".join(parts)[:30], at)),
            mock.patch("os.pwrite", lambda file, part, at: whole_write(file, bytes(part)[:7], at)),
        ):
            recording.write(0, 0, values(0))
            recording.write(1, 1, values(1))
        recording.finish()
        self.assert_dumps(recording.folder, 0, 1)

    def test_a_folder_that_cannot_be(self) -> None:
        self.data.parent.joinpath("file").write_text("")
        for data in (self.data.parent / "file", self.data.parent / "file" / "data"):
            with self.subTest(data), self.assertRaises(OSError):
                RecordingWriter.begin(data, SETUP, BEGINS, Sky())

    def test_a_recording_that_cannot_be_begun_leaves_nothing(self) -> None:
        descriptors = len(os.listdir("/proc/self/fd"))
        with mock.patch("os.replace", side_effect=OSError(errno.ENOSPC, "No space left on device")):
            with self.assertRaises(OSError):
                RecordingWriter.begin(self.data, SETUP, BEGINS, Sky())
            with self.assertRaises(OSError):
                RecordingWriter.begin(self.data, SETUP, BEGINS, Sky(), "/a.fits")
        self.assertEqual(list(self.data.iterdir()), [])
        self.assertEqual(len(os.listdir("/proc/self/fd")), descriptors)


if __name__ == "__main__":
    unittest.main()
