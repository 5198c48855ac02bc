"""From a recording to its file: where that goes, that no reader sees half of it, that nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import resource
import signal
import socket
import stat
import struct
import sys
import tempfile
import unittest
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from astropy.io import fits

from discosbackend.simulator.errors import RecordingError
from discosbackend.simulator.fits import convert as module
from discosbackend.simulator.fits import layout
from discosbackend.simulator.fits.convert import Converted, convert, main
from discosbackend.simulator.fits.layout import mjd
from discosbackend.simulator.recording.dump_files import (
    RecordingWriter,
    give_name,
    in_use,
    name_of,
    recordings_in,
)
from discosbackend.simulator.recording.dump_reader import RecordingReader
from discosbackend.simulator.recording.output_paths import output_path
from discosbackend.simulator.signal.sky import Sky
from discosbackend.ticks import Ticks

from .metadata_files import write_metadata
from .recordings import BEGINS, in_child, in_children, opened, record, setup_with
from .serving import run_python
from .test_simulator_fits_layout import setUpModule  # noqa: F401  # astropy's settings at hand

ALL = list(range(5))


class ConvertTests(unittest.TestCase):
    """A folder for each test, with a data folder in it."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by enterContext
        self.folder = Path(self.enterContext(folder)).resolve()
        self.data = self.folder / "data"
        self.output = self.folder / "run.fits"
        # Warnings are in what convert() returns.
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)

    @property
    def no_metadata(self) -> str:
        """The warning for the recordings of made(), for which there is no metadata file."""
        path = self.folder / "tmp" / "run.fits"
        return f"the telescope's metadata file is not there: a self-contained file is written: {path}"

    def made(self, **others: Any) -> Path:
        """A recording that belongs at self.goal."""
        return record(self.data, name=self.folder / "tmp" / "run.fits", **others)

    def refused(self, folder: Path, **others: Any) -> str:
        """Why it is not converted; the recording is as it was."""
        with self.assertRaises(RecordingError) as caught:
            convert(folder, **others)
        self.assertEqual(opened(folder), ALL)
        return str(caught.exception)

    def rows(self, path: Path | None) -> int:
        """How many rows a file has, after astropy has looked for mistakes in it."""
        assert path is not None
        with fits.open(path) as hdus:
            hdus.verify("exception")
            return len(hdus["DATA TABLE"].data)

    def files(self, folder: Path | None = None) -> list[str]:
        """Everything in a folder but the other folders of these tests."""
        return sorted({each.name for each in (folder or self.folder).iterdir()} - {"data", "tmp"})


class OutputPathTests(ConvertTests):
    def test_where_a_file_goes(self) -> None:
        folder = self.data / "20261121-192550.123-SK00"
        there = self.folder / "there.fits"
        there.write_bytes(b"")
        (self.data / "tmp").mkdir(parents=True)
        (self.data / "tmp" / "here.fits").write_bytes(b"")
        root = self.folder / "root"
        for name, under, output in (
            (None, None, self.data / "20261121-192550.123-SK00.fits"),
            ("", None, self.data / "20261121-192550.123-SK00.fits"),
            (None, root, self.data / "20261121-192550.123-SK00.fits"),
            ("/archive/tmp/a_001.fits", None, Path("/archive/a_001.fits")),
            ("/archive/tmp/a_001.fits", root, root / "archive/a_001.fits"),
            ("/archive/tmp/../tmp/a.fits", root, root / "archive/a.fits"),
            ("/../../tmp/a.fits", root, root / "a.fits"),
            ("//archive/tmp/a.fits", root, root / "archive/a.fits"),
            ("/archive/nottmp/a.fits", None, Path("/archive/nottmp/a.fits")),
            ("/tmp/discos-nowhere/tmp/a.fits", None, Path("/tmp/discos-nowhere/a.fits")),
            ("/tmp/discos-not-there.fits", None, Path("/tmp/discos-not-there.fits")),
            ("/archive/tmp.fits", None, Path("/archive/tmp.fits")),
            (str(there), None, self.folder / "there_merged.fits"),
            ("tmp/here.fits", None, self.data / "here.fits"),
            ("tmp/here.fits", root, self.data / "here.fits"),
            ("a.fits", None, self.data / "a.fits"),
            ("../../a.fits", None, self.data / "a.fits"),
            ("b/../../../tmp/a.fits", root, self.data / "a.fits"),
            ("a", None, self.data / "a"),
        ):
            with self.subTest(name, root=under):
                self.assertEqual(output_path(name, folder, under), output)

    def test_paths_that_name_no_file(self) -> None:
        for name in ("/", "/archive/tmp/", "..", "/archive/..", ".", "/a\0b.fits"):
            with self.subTest(name), self.assertRaisesRegex(RecordingError, "path has no name of a file: "):
                output_path(name, self.data / "a")

    def test_a_relative_recording(self) -> None:
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        folder = record(self.data)
        os.chdir(self.data)
        done = convert(Path(folder.name))
        self.assertEqual(done.written, self.data / f"{folder.name}.fits")


class SuccessTests(ConvertTests):
    def test_the_file_is_there_and_the_recording_is_not(self) -> None:
        folder = self.made()
        self.assertEqual(convert(folder), Converted(folder, self.output, 5, (self.no_metadata,)))
        self.assertEqual(self.rows(self.output), 5)
        self.assertEqual((self.files(), list(self.data.iterdir())), (["run.fits"], []))

    def test_folders_are_made(self) -> None:
        folder = record(self.data, name="/one/two/tmp/run.fits")
        done = convert(folder, root=self.folder / "root")
        self.assertEqual(done.written, self.folder / "root/one/two/run.fits")

    def test_another_goal(self) -> None:
        done = convert(self.made(), self.folder / "mine.fits")
        self.assertEqual(done.written, self.folder / "mine.fits")

    def test_a_recording_can_be_kept(self) -> None:
        folder = self.made()
        convert(folder, keep=True)
        self.assertEqual((opened(folder), self.rows(self.output)), (ALL, 5))

    def test_metadata_are_merged_unless_they_are_not_wanted(self) -> None:
        write_metadata(self.folder / "tmp" / "run.fits", setup_with(), float(mjd(BEGINS)), 1.0)
        for wanted, source in ((True, "made up"), (False, "simulated sky")):
            with self.subTest(metadata=wanted):
                done = convert(self.made(), metadata=wanted)
                assert done.written is not None
                self.assertEqual(fits.getval(done.written, "SOURCE"), source)

    def test_nothing_is_overwritten(self) -> None:
        self.output.write_bytes(b"precious")
        (self.folder / "run_2.fits").symlink_to("nowhere")
        done = convert(self.made())
        self.assertEqual(done.written, self.folder / "run_3.fits")
        self.assertIn("exists already", done.warnings[0])
        self.assertEqual(self.output.read_bytes(), b"precious")
        self.assertEqual(self.files(), ["run.fits", "run_2.fits", "run_3.fits"])

    def test_a_goal_that_is_taken_while_it_is_written(self) -> None:
        place = module._place  # the last moment

        def late(part: Path, output: Path) -> bool:
            self.output.write_bytes(b"precious")
            return place(part, output)

        for link in (os.link, mock.Mock(side_effect=OSError(errno.EPERM, "no"))):
            with self.subTest(link), mock.patch.object(module, "_place", late), mock.patch.object(os, "link", link):
                done = convert(self.made())
                self.assertEqual(done.written, self.folder / "run_2.fits")
                self.assertEqual(self.output.read_bytes(), b"precious")
                self.assertEqual(self.files(), ["run.fits", "run_2.fits"])
            for each in self.files():
                (self.folder / each).unlink()

    def test_another_conversion_to_the_same_goal(self) -> None:
        part = os.open(self.folder / ".run.fits.discos-part", os.O_WRONLY | os.O_CREAT)
        self.addCleanup(os.close, part)
        fcntl.flock(part, fcntl.LOCK_EX)
        done = convert(self.made())
        self.assertEqual(done.written, self.folder / "run_2.fits")
        self.assertEqual(self.files(), [".run.fits.discos-part", "run_2.fits"])

    def test_a_part_whose_owner_has_just_finished(self) -> None:
        """Between our opening it and our having the lock, it goes: then it is no place to write to."""
        (self.folder / ".run.fits.discos-part").write_bytes(b"")
        lock, calls = fcntl.flock, iter(("gone", "replaced"))

        def flock(file: int, how: int) -> None:
            lock(file, how)
            if not self.part_of(file):
                return
            call = next(calls, None)
            if call is not None:
                (self.folder / ".run.fits.discos-part").unlink()
            if call == "replaced":
                (self.folder / ".run.fits.discos-part").write_bytes(b"")

        with mock.patch.object(fcntl, "flock", flock):
            done = convert(self.made())
        self.assertEqual((done.written, next(calls, None)), (self.output, None))
        self.assertEqual((self.files(), self.rows(self.output)), (["run.fits"], 5))

    def part_of(self, file: int) -> bool:
        return os.readlink(f"/proc/self/fd/{file}").endswith(".discos-part")

    def test_many_at_once_to_the_same_goal(self) -> None:
        folders = [self.made(begins=Ticks(BEGINS + 10**8 * number)) for number in range(6)]
        self.assertEqual(in_children([partial(convert, folder) for folder in folders]), [0] * 6)
        begins = {fits.getval(self.folder / each, "Acquisition Begin") for each in self.files()}
        self.assertEqual((len(begins), len(self.files())), (6, 6))

    def test_a_filesystem_without_links_or_room_to_keep(self) -> None:
        for wrong in (errno.EPERM, errno.ENOTSUP):
            with (
                self.subTest(errno.errorcode[wrong]),
                mock.patch.object(os, "link", side_effect=OSError(wrong, "no")),
                mock.patch.object(os, "posix_fallocate", side_effect=OSError(errno.ENOTSUP, "no")),
            ):
                done = convert(self.made())
                self.assertEqual(self.rows(done.written), 5)
        self.assertEqual(self.files(), ["run.fits", "run_2.fits"])

    def test_a_recording_that_cannot_be_removed(self) -> None:
        problem = PermissionError(13, "Permission denied", "/x")
        with mock.patch.object(RecordingReader, "remove", side_effect=problem):
            done = convert(self.made())
        self.assertEqual(done.warnings, (self.no_metadata, "recording cannot be removed: permission denied: /x"))
        self.assertEqual(self.rows(self.output), 5)


def _cut(count: int, whole: bytearray) -> None:
    """Leave out so many bytes at the end."""
    del whole[len(whole) - count :]


class DamageTests(ConvertTests):
    def damaged(self, change: Callable[[bytearray], None], **others: Any) -> Path:
        folder = self.made(**others)
        dumps = folder / "dumps"
        whole = bytearray(dumps.read_bytes())
        change(whole)
        dumps.write_bytes(whole)
        return folder

    def numbers(self, folder: Path) -> tuple[list[int], tuple[str, ...]]:
        """The first values of the dumps in the file, as numbers of dumps, and the warnings."""
        done = convert(folder)
        assert done.written is not None
        with fits.open(done.written) as hdus:
            return [int(value) + 0x40000000 for value in hdus["DATA TABLE"].data["Ch0"][:, 0]], done.warnings

    def test_a_last_dump_that_was_cut_off(self) -> None:
        size = 24 + 4 * 32
        for cut in (1, 10, size - 24, size - 1):
            with self.subTest(cut):
                found, _ = self.numbers(self.damaged(partial(_cut, cut)))
                self.assertEqual(found, [0, 1, 2, 3])

    def test_a_dump_in_the_middle_that_is_damaged(self) -> None:
        size = 24 + 4 * 32
        for place in (0, 5, 8, 17, 24, size - 1):
            with self.subTest(place):

                def spoil(whole: bytearray, place: int = 2 * size + place) -> None:
                    whole[place] ^= 0x10

                found, warnings = self.numbers(self.damaged(spoil))
                self.assertEqual(found, [0, 1, 3, 4])
                self.assertIn("1 dumps are missing of 5", warnings)

    def test_nothing_recorded_is_removed(self) -> None:
        folder = self.made(dumps=0)
        done = convert(folder)
        self.assertEqual((done.written, done.dumps), (None, 0))
        self.assertEqual((self.files(), folder.exists()), ([], False))
        self.assertIn("no whole dump", done.warnings[0])

    def test_part_of_a_dump_stays(self) -> None:
        # It may be that its header says something wrong of it.
        folder = self.damaged(partial(_cut, 30), dumps=1)
        with self.assertRaisesRegex(RecordingError, r"\Ano whole dump is left: "):
            convert(folder)
        self.assertTrue((folder / "dumps").exists())

    def test_dumps_that_are_all_damaged_stay(self) -> None:
        folder = self.damaged(lambda whole: whole.__setitem__(slice(None), bytes(len(whole))))
        with self.assertRaisesRegex(RecordingError, r"\Ano whole dump is left: "):
            convert(folder)
        self.assertTrue((folder / "dumps").exists())

    def test_a_name_that_cannot_be_read(self) -> None:
        folder = self.made()
        (folder / "name.json").write_text("{")
        self.assertIn("name.json cannot be read", self.refused(folder))
        self.assertEqual(convert(folder, self.output, metadata=False).written, self.output)


class RefusalTests(ConvertTests):
    def test_in_use(self) -> None:
        recording = RecordingWriter.begin(self.data, setup_with(), BEGINS, Sky())
        with self.assertRaisesRegex(RecordingError, "in use"):
            convert(recording.folder)
        recording.finish()
        folder = self.made()
        with RecordingReader(folder), self.assertRaisesRegex(RecordingError, "in use"):
            convert(folder)
        self.assertEqual(self.files(), [])

    def test_a_disk_that_is_full_from_the_beginning_or_later(self) -> None:
        for target in ("posix_fallocate", "write", "fsync"):
            folder, full = self.made(), OSError(errno.ENOSPC, "full")
            with self.subTest(target), mock.patch.object(os, target, side_effect=full):
                text = self.refused(folder)
                self.assertEqual(text, f"disk full: {str(self.output)!a}")
                self.assertEqual(self.files(), [])
        self.assertEqual([convert(each).dumps for each in sorted(self.data.iterdir())], [5, 5, 5])

    def test_a_name_that_is_too_long(self) -> None:
        name = self.folder / ("x" * 300)
        reason = f"metadata file cannot be read: file name too long: {str(name)!a}"
        self.assertEqual(self.refused(record(self.data, name=name)), reason)

    def test_a_name_that_does_not_reach_the_disk(self) -> None:
        fsync = os.fsync

        def failing(number: int) -> Callable[[int], None]:
            def of_a_folder(file: int) -> None:
                if os.path.isdir(f"/proc/self/fd/{file}"):
                    raise OSError(number, os.strerror(number))
                fsync(file)

            return of_a_folder

        folder = self.made()
        with mock.patch.object(os, "fsync", failing(errno.EIO)):
            self.assertEqual(self.refused(folder), f"file cannot be written: input/output error: {str(self.output)!a}")
        self.assertEqual(self.files(), [])
        # Some filesystems cannot do that at all.
        with mock.patch.object(os, "fsync", failing(errno.EINVAL)):
            self.assertEqual(convert(folder).written, self.output)

    def test_a_file_that_may_not_grow(self) -> None:
        folder = self.made()

        def work(*without: str) -> None:
            for name in without:
                setattr(module, name, lambda *_: None)
            resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
            try:
                convert(folder)
            except RecordingError as problem:
                wanted = f"file cannot be written: file too large: {str(self.output)!a}"
                sys.exit(0 if str(problem) == wanted else 3)

        for without in ((), ("_reserve_space",)):
            with self.subTest(without):
                self.assertEqual(in_child(lambda: (work(*without), sys.exit(4))), 0)
                self.assertEqual((self.files(), opened(folder)), ([], ALL))
        self.assertEqual(convert(folder).dumps, 5)

    def test_folders_that_cannot_be_written(self) -> None:
        (self.folder / "file").write_bytes(b"")
        for name, reason in (
            (self.folder / "file" / "run.fits", "not a directory"),
            (self.folder / "file" / "sub" / "tmp" / "run.fits", "not a directory"),
            (self.folder / "tmp" / ("x" * 300), "file name too long"),
            (self.folder / ("x" * 300), "file name too long"),
            ("/proc/discos/run.fits", "no such file or directory"),
        ):
            with self.subTest(name):
                text = self.refused(record(self.data, name=name))
                what = "file cannot be written|metadata file cannot be read"
                self.assertRegex(text, rf"\A({what}): {reason}: '/.*'\Z")

    def test_permission(self) -> None:
        folder = self.made()
        with mock.patch.object(os, "open", side_effect=_refusing(".discos-part", errno.EACCES)):
            text = self.refused(folder)
        part = str(self.folder / ".run.fits.discos-part")
        self.assertEqual(text, f"file cannot be written: permission denied: {part!a}")

    def test_a_temporary_file_is_never_the_file_of_another_recording(self) -> None:
        """Else the second conversion would overwrite and remove what the first has written."""
        for name in (".run.fits.discos-part", "sub/.run.fits.discos-part", "/x/.discos-part"):
            with self.subTest(name):
                reason = f"path has the name of a temporary file of a conversion: {name!a}"
                self.assertEqual(self.refused(record(self.data, name=name)), reason)
        output = self.folder / ".run.fits.discos-part"
        self.assertIn("temporary file of a conversion", self.refused(self.made(), output=output))
        # Those of other programs stay, too.
        (self.folder / ".run.fits.part").write_bytes(b"precious")
        self.assertEqual(convert(self.made()).written, self.output)
        self.assertEqual((self.folder / ".run.fits.part").read_bytes(), b"precious")

    def test_a_part_that_somebody_has_put_there(self) -> None:
        (self.folder / "victim").write_bytes(b"precious")
        (self.folder / ".run.fits.discos-part").symlink_to("victim")
        self.assertIn("file cannot be written", self.refused(self.made()))
        self.assertEqual((self.folder / "victim").read_bytes(), b"precious")


def _refusing(ending: str, wrong: int) -> Callable[..., int]:
    """os.open that refuses files of some names."""
    open_ = os.open

    def refuse(path: Any, *arguments: Any, **others: Any) -> int:
        if str(path).endswith(ending):
            raise OSError(wrong, os.strerror(wrong), str(path))
        return open_(path, *arguments, **others)

    return refuse


class NotRegularTests(ConvertTests):
    """What is no regular file, where one is opened: it is refused, and neither waited for nor removed."""

    def in_place_of(self, path: Path) -> Iterator[str]:
        """Put something else than a file there, one kind after the other."""
        path.unlink(missing_ok=True)
        for make in (os.mkfifo, Path.mkdir, partial(os.symlink, "/dev/full"), _bound):
            make(path)
            kind = stat.S_IFMT(path.lstat().st_mode)
            yield oct(kind)
            self.assertEqual(stat.S_IFMT(path.lstat().st_mode), kind)
            path.rmdir() if path.is_dir() else path.unlink()

    def test_where_the_temporary_file_goes(self) -> None:
        part = self.folder / ".run.fits.discos-part"
        folder = self.made()
        for kind in self.in_place_of(part):
            with self.subTest(kind):
                reason = f"file cannot be written: not a regular file: {str(part)!a}"
                self.assertEqual(self.refused(folder), reason)
        self.assertEqual(convert(folder).written, self.output)

    def test_a_fifo_that_somebody_reads(self) -> None:
        part = self.folder / ".run.fits.discos-part"
        os.mkfifo(part)
        reader = os.open(part, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.assertIn("not a regular file", self.refused(self.made()))
        self.assertTrue(part.exists())

    def test_one_that_comes_between_the_look_and_the_opening(self) -> None:
        part = self.folder / ".run.fits.discos-part"
        folder, look = self.made(), os.stat

        def slow(path: Any, **others: Any) -> os.stat_result:
            try:
                return look(path, **others)
            finally:
                if path == part:
                    os.mkfifo(part)

        with mock.patch.object(os, "stat", slow):
            reason = self.refused(folder)
        self.assertRegex(reason, r"\Afile cannot be written: (not a regular file|no such device or address): ")
        self.assertTrue(part.exists())

    def test_the_files_of_a_recording(self) -> None:
        for name in ("header.json", "dumps", "name.json"):
            folder = self.made()
            for kind in self.in_place_of(folder / name):
                with self.subTest(name, kind=kind), self.assertRaisesRegex(RecordingError, "Not a regular file"):
                    convert(folder)
                self.assertFalse(in_use(folder))

    def test_the_name_of_a_recording(self) -> None:
        folder = self.made()
        for kind in self.in_place_of(folder / ".name.json.part"):
            with self.subTest(kind), self.assertRaisesRegex(OSError, "Not a regular file"):
                give_name(folder, "/a.fits")


def _bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


class RecordingFolderTests(ConvertTests):
    """No file is written where it would go with a recording, or where it would look like one."""

    def test_in_the_folder_of_a_recording(self) -> None:
        own = self.made()
        other = record(self.folder / "elsewhere", begins=Ticks(BEGINS + 10**8))
        (self.folder / "link").symlink_to(other)
        (self.folder / "deep").symlink_to(other / "sub")
        for output in (
            own / "x.fits",
            own / "sub" / "deeper" / "x.fits",
            other / "x.fits",
            self.folder / "link" / "x.fits",
            self.folder / "deep" / "x.fits",
            own / ".." / own.name / "x.fits",
        ):
            with self.subTest(output):
                reason = f"path is in the folder of a recording: {str(output)!a}"
                self.assertEqual(self.refused(own, output=output), reason)
                give_name(own, str(output))
                self.assertEqual(self.refused(own), reason)
                give_name(own, str(output.parent / "tmp" / output.name))
                self.assertEqual(self.refused(own), reason)
        self.assertEqual(sorted(each.name for each in own.iterdir()), ["dumps", "header.json", "name.json"])
        self.assertEqual(sorted(each.name for each in other.iterdir()), ["dumps", "header.json"])

    def test_a_folder_with_the_name_of_a_header(self) -> None:
        """Else the folder above it would look like a recording, which is never converted."""
        name = "a/header.json/x.fits"
        self.assertEqual(
            self.refused(record(self.data, name=name)), f"path has the name of a file of a recording: {name!a}"
        )
        self.assertFalse((self.data / "a").exists())
        self.assertEqual(convert(record(self.data, name="dumps/x.fits")).written, self.data / "dumps" / "x.fits")

    def test_a_folder_that_is_deep(self) -> None:
        """As deep as the limit of a path permits, which is more than Python's functions for folders can take."""
        name = "x/" * ((4000 - len(str(self.data))) // 2) + "y.fits"
        written = convert(record(self.data, name=name)).written
        self.assertEqual(written, self.data / name)
        assert written is not None
        # Upwards, because the system looks each folder of a path up.
        with contextlib.chdir(written.parent):
            os.unlink("y.fits")
            for _ in range(name.count("/")):
                os.chdir("..")
                os.rmdir("x")
            self.assertEqual(Path.cwd(), self.data.resolve())

    def test_relative_to_the_data_folder(self) -> None:
        folder = self.made()
        give_name(folder, f"{folder.name}/x.fits")
        output = folder / "x.fits"
        self.assertEqual(self.refused(folder), f"path is in the folder of a recording: {str(output)!a}")

    def test_a_header_of_something_else(self) -> None:
        (self.folder / "header.json").write_text("{}")
        self.assertEqual(convert(self.made()).written, self.output)

    def test_the_name_of_a_file_of_a_recording(self) -> None:
        folder = self.made()
        for last in ("header.json", "dumps", "name.json"):
            for name in (f"foo/{last}", f"{self.folder}/foo/{last}", f"{self.folder}/tmp/{last}"):
                with self.subTest(name):
                    give_name(folder, name)
                    self.assertEqual(self.refused(folder), f"path has the name of a file of a recording: {name!a}")
            output = self.folder / "foo" / last
            reason = f"path has the name of a file of a recording: {str(output)!a}"
            self.assertEqual(self.refused(folder, output=output, metadata=False), reason)
        self.assertEqual(recordings_in(self.data), [folder])
        self.assertFalse((self.data / "foo").exists())

    def test_what_else_is_in_the_folder_is_kept(self) -> None:
        """Whoever has put it there, and whenever: only the files of the recording are removed."""
        folder = self.made()
        (folder / "precious.fits").write_bytes(b"precious")
        done = convert(folder)
        complaint = f"the recording is removed, but not its folder, which has other files: {folder}"
        self.assertEqual(done.warnings, (self.no_metadata, complaint))
        self.assertEqual([each.name for each in folder.iterdir()], ["precious.fits"])
        self.assertEqual(recordings_in(self.data), [])

    def test_what_a_kill_has_left_in_the_folder_goes(self) -> None:
        folder = self.made()
        for name in (".header.json.part", ".name.json.part"):
            (folder / name).write_bytes(b"")
        convert(folder)
        self.assertFalse(folder.exists())


class RootTests(ConvertTests):
    """A path cannot leave the root, or the data folder, by a symbolic link."""

    def test_a_link_that_is_replaced_while_it_is_followed(self) -> None:
        (self.root / "there").symlink_to(self.root)
        folder = record(self.data, name="/there/x.fits")
        problem = OSError(errno.EINVAL, "Invalid argument")
        with mock.patch.object(os.path, "realpath", side_effect=problem):
            reason = self.refused(folder, root=self.root)
        self.assertEqual(reason, f"path cannot be resolved: invalid argument: {str(self.root / 'there')!a}")

    def setUp(self) -> None:
        super().setUp()
        self.root = self.folder / "root"
        self.outside = self.folder / "outside"
        for folder in (self.root, self.outside, self.data):
            (folder / "tmp").mkdir(parents=True)

    def test_a_folder_that_is_a_link(self) -> None:
        for below, slash in ((self.root, "/"), (self.data, "")):
            (below / "out").symlink_to(self.outside)
            (below / "up").symlink_to("..")
            for name in ("out/x.fits", "out/tmp/x.fits", "out/not/there/x.fits", "up/x.fits"):
                with self.subTest(below.name, name=name):
                    reason = self.refused(record(self.data, name=slash + name), root=self.root)
                    self.assertRegex(reason, rf"\Apath leaves '{below}' by a symbolic link: '{below}/(out|up)")
        self.assertEqual(self.files(self.outside), [])

    def test_a_metadata_file_that_is_a_link(self) -> None:
        for below, slash in ((self.root, "/"), (self.data, "")):
            path = below / "tmp" / "x.fits"
            write_metadata(self.outside / f"{below.name}.fits", setup_with(), float(mjd(BEGINS)), 1.0)
            path.symlink_to(self.outside / f"{below.name}.fits")
            folder = record(self.data, name=f"{slash}tmp/x.fits")
            with self.subTest(below.name):
                reason = f"path leaves {str(below)!a} by a symbolic link: {str(path)!a}"
                self.assertEqual(self.refused(folder, root=self.root), reason)
                done = convert(folder, root=self.root, metadata=False)
                self.assertEqual(done.written, below / "x.fits")

    def test_links_that_stay_below(self) -> None:
        (self.root / "archive").symlink_to("store")
        (self.folder / "alias").symlink_to(self.root)
        for root in (self.root, self.folder / "alias"):
            with self.subTest(root):
                (self.root / "store").mkdir(exist_ok=True)
                done = convert(record(self.data, name="/archive/tmp/x.fits"), root=root)
                self.assertEqual(done.written, root / "archive" / "x.fits")
                (self.root / "store" / "x.fits").unlink()

    def test_without_a_root_links_are_followed(self) -> None:
        (self.folder / "link").symlink_to(self.outside)
        convert(record(self.data, name=self.folder / "link" / "x.fits"))
        self.assertEqual(self.files(self.outside), ["x.fits"])


class NoMetadataTests(ConvertTests):
    """DISCOS's metadata file is not where set-filename says."""

    def test_a_warning_below_tmp_only(self) -> None:
        for name, warned in (
            ("tmp/a.fits", True),
            ("a/tmp/a.fits", True),
            ("a.fits", False),
            ("tmp/a/a.fits", False),
            ("nottmp/a.fits", False),
        ):
            with self.subTest(name):
                path = self.data / name
                done = convert(record(self.data, name=name))
                text = f"the telescope's metadata file is not there: a self-contained file is written: {path}"
                self.assertEqual(text in done.warnings, warned)

    def test_none_where_it_is_not_wanted(self) -> None:
        self.assertEqual(convert(self.made(), metadata=False).warnings, ())

    def test_a_name_that_is_no_latin_1(self) -> None:
        """The telescope's file is found, and the file of a name that is no text at all is written."""
        for raw in (b"M\xc3\xbcller", b"\xff\xfe", "\u2126".encode()):
            with self.subTest(raw):
                metadata = Path(os.fsdecode(bytes(self.folder) + b"/tmp/" + raw + b".fits"))
                write_metadata(metadata, setup_with(), float(mjd(BEGINS)), 1.0)
                folder = record(self.data, name=metadata)
                self.assertEqual(name_of(folder), str(metadata))
                done = convert(folder)
                self.assertEqual(done.written, self.folder / metadata.name)
                self.assertEqual(self.rows(done.written), 5)
                self.assertEqual(fits.getval(done.written, "SOURCE"), "made up")

    def test_a_recording_whose_folder_is_no_text(self) -> None:
        """Its name is in the FITS header, which is ASCII."""
        folder = self.made()
        odd = folder.rename(folder.with_name("M\xfcller \udcff"))
        done = convert(odd)
        assert done.written is not None
        self.assertEqual(self.rows(done.written), 5)
        self.assertEqual(fits.getval(done.written, "Acquisition Recording", "DATA TABLE"), "M?ller ?")


class KillTests(ConvertTests):
    """SIGKILL before any step that changes what is on disk."""

    def killed_at(self, owner: Any, name: str, nth: int, folder: Path) -> None:
        """Convert it in a process that is killed when that is called for the nth time."""
        original, calls = getattr(owner, name), iter(range(nth))

        def kill(*arguments: Any, **others: Any) -> Any:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **others)

        def work() -> None:
            setattr(owner, name, kill)
            convert(folder)

        self.assertEqual(in_child(work), -signal.SIGKILL, name)

    def test_half_a_file_is_never_seen(self) -> None:
        for owner, name, nth, finished in (
            (os, "posix_fallocate", 0, False),
            (layout, "_write_all", 0, False),
            (layout, "_write_all", 1, False),
            (layout, "_write_all", 2, False),
            (layout, "_write_all", 4, False),
            (os, "fsync", 0, False),
            (os, "link", 0, False),
            (module, "_synchronise", 0, True),
            (os, "fsync", 1, True),
            (RecordingReader, "remove", 0, True),
        ):
            with self.subTest(f"{name} {nth}"):
                folder = self.made()
                self.killed_at(owner, name, nth, folder)
                self.assertEqual(opened(folder), ALL)
                seen = [each for each in self.files() if not each.startswith(".")]
                self.assertEqual(seen, ["run.fits"] if finished else [])
                self.assertTrue(set(self.files()) <= {"run.fits", ".run.fits.discos-part"})
                if finished:
                    self.assertEqual(self.rows(self.output), 5)
                done = convert(folder)
                self.assertEqual(done.written, self.folder / "run_2.fits" if finished else self.output)
                self.assertEqual(self.rows(done.written), 5)
                self.assertNotIn(".run.fits.discos-part" if not finished else "", self.files())
                for each in self.files():
                    (self.folder / each).unlink()

    def test_a_kill_between_the_two_names(self) -> None:
        """The part is then another name of the finished file, which the next one must not touch."""
        folder = self.made()
        self.killed_at(Path, "unlink", 0, folder)
        self.assertEqual(self.files(), [".run.fits.discos-part", "run.fits"])
        before = self.output.read_bytes()
        self.assertEqual(convert(folder).written, self.folder / "run_2.fits")
        self.output.rename(self.folder / "moved.fits")
        done = convert(self.made(dumps=3))
        self.assertEqual((done.written, self.rows(self.output)), (self.output, 3))
        self.assertEqual((self.folder / "moved.fits").read_bytes(), before)
        self.assertEqual(self.files(), ["moved.fits", "run.fits", "run_2.fits"])

    def test_a_kill_while_the_recording_goes(self) -> None:
        folder = self.made()
        # The first of these is the name of the temporary file.
        for name, nth in (("unlink", 2), ("rmdir", 0)):
            with self.subTest(name):
                self.killed_at(os, name, nth, folder)
                self.assertEqual(self.rows(self.output), 5)
                with self.assertRaisesRegex(RecordingError, "is no recording"):
                    convert(folder)
                self.output.unlink()
                folder = self.made()

    def test_a_larger_part_is_used_again(self) -> None:
        convert(self.made(), self.folder / "tmp" / "other.fits")
        (self.folder / ".run.fits.discos-part").write_bytes(b"x" * 10**6)
        convert(self.made())
        self.assertEqual((self.files(), self.rows(self.output)), (["run.fits"], 5))
        self.assertEqual(self.output.stat().st_size, (self.folder / "tmp" / "other.fits").stat().st_size)

    def test_a_reader_that_looks_all_the_time(self) -> None:
        """Whenever the file is there, it is whole."""
        folder, seen = self.made(), []
        write = layout._write_all  # each of its moments

        def look(*arguments: Any) -> None:
            write(*arguments)
            seen.append(self.output.exists())

        with mock.patch.object(layout, "_write_all", look):
            convert(folder)
        self.assertGreater(len(seen), 4)
        self.assertEqual(set(seen), {False})

    def test_who_is_asked_to_end_removes_the_part(self) -> None:
        folder = self.made()
        for number in (signal.SIGTERM, signal.SIGINT):

            def work(number: int = number) -> None:
                layout.write = lambda *_: os.kill(os.getpid(), number)
                main([str(folder)])

            with self.subTest(number):
                self.assertEqual(in_child(work), 128 + number)
                self.assertEqual((self.files(), opened(folder)), ([], ALL))


class ProgramTests(ConvertTests):
    def run_it(self, *arguments: Path | str) -> tuple[int, list[dict[str, Any]]]:
        out = StringIO()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        with redirect_stdout(out), self.assertRaises(SystemExit) as caught:
            main(list(map(str, arguments)))
        return int(caught.exception.code or 0), [json.loads(line) for line in out.getvalue().splitlines()]

    def test_a_line_for_each_recording(self) -> None:
        good, bad = record(self.data, name="/tmp/run.fits"), self.data / "nothing"
        status, told = self.run_it("--root", self.folder, bad, good)
        self.assertEqual(status, 1)
        self.assertEqual(told[0]["recording"], str(bad))
        self.assertIn("is no recording", told[0]["refused"])
        written = {"recording": str(good), "written": str(self.output), "dumps": 5, "warnings": [self.no_metadata]}
        self.assertEqual(told[1], written)

    def test_nothing_recorded(self) -> None:
        status, (told,) = self.run_it(self.made(dumps=0))
        self.assertEqual((status, told["written"], told["dumps"]), (0, None, 0))

    def test_what_nobody_has_thought_of(self) -> None:
        folder = self.made()
        logging.disable(logging.CRITICAL)
        with mock.patch.object(layout, "whole", side_effect=ZeroDivisionError):
            status, (told,) = self.run_it(folder)
        refused = f"conversion failed: the log gives the cause: {str(folder)!a}"
        self.assertEqual((status, told["refused"]), (1, refused))
        self.assertEqual(opened(folder), ALL)

    def test_the_real_thing(self) -> None:
        folder = self.made()
        done = run_python("-m", "discosbackend.simulator.fits.convert", str(folder))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["written"], str(self.output))
        self.assertEqual(done.stderr, f"{folder}: {self.no_metadata}\n")
        self.assertEqual(self.rows(self.output), 5)

    def test_importing_it_is_cheap(self) -> None:
        code = "import discosbackend.simulator.fits.convert, sys; print(*sys.modules)"
        done = run_python("-c", code, fresh=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(set(done.stdout.split()) & {"astropy", "numpy", "twisted.internet.reactor"}, set())


class RecordingTests(ConvertTests):
    """What recording does for this."""

    def test_nobody_takes_a_recording_that_has_just_begun(self) -> None:
        replace, tried = os.replace, []

        def look(*arguments: Any) -> None:
            replace(*arguments)
            with self.assertRaisesRegex(RecordingError, "in use"):
                convert(Path(arguments[1]).parent)
            tried.append(1)

        with mock.patch.object(os, "replace", look):
            recording = RecordingWriter.begin(self.data, setup_with(), BEGINS, Sky())
        recording.finish()
        self.assertEqual(tried, [1])

    def test_a_record_that_is_written_bit_by_bit(self) -> None:
        recording = RecordingWriter.begin(self.data, setup_with(), BEGINS, Sky())
        write = os.pwrite
        with (
            mock.patch.object(os, "pwritev", lambda file, parts, place: write(file, parts[0][:10], place)),
            mock.patch.object(os, "pwrite", lambda file, part, place: write(file, part[:13], place)),
        ):
            for number in ALL:
                recording.write(number, 0, memoryview(struct.pack("<32i", *range(32))))
        recording.finish()
        self.assertEqual(opened(recording.folder), ALL)

    def test_pages_that_were_let_go_are_read_again(self) -> None:
        with mock.patch("discosbackend.simulator.recording.dump_reader._RELEASE_EVERY", 4096):
            folder = self.made(dumps=400)
            self.assertEqual(opened(folder), list(range(400)))
            convert(folder)
        self.assertEqual(self.rows(self.output), 400)

    def test_another_name_replaces_the_first(self) -> None:
        folder = self.made()
        give_name(folder, str(self.folder / "other.fits"))
        self.assertEqual(convert(folder).written, self.folder / "other.fits")


if __name__ == "__main__":
    unittest.main()
