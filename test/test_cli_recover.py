"""The program discos-backend-recover: what it lists, what it makes files of, its messages and exit status."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from astropy.io import fits

from discosbackend import __version__
from discosbackend.cli import recover
from discosbackend.simulator.fits.convert import convert
from discosbackend.simulator.fits.layout import mjd
from discosbackend.simulator.recording.dump_files import DIODE, RecordingWriter, in_use, recordings_in
from discosbackend.simulator.recording.dump_reader import RecordingReader
from discosbackend.simulator.signal.sky import Sky
from discosbackend.ticks import Ticks

from .metadata_files import write_metadata
from .programs import Outcome, run_program
from .recordings import BEGINS, opened, record, setup_with, values_of
from .serving import ROOT, bare_environment, run_python
from .settings import PATIENCE

SCRIPT = ROOT / "scripts" / "discos-backend-recover"


class RecoverTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by enterContext
        self.folder = Path(self.enterContext(folder)).resolve()
        self.data = self.folder / "discos-data"
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)

    def recover(self, *arguments: Path | str, cwd: Path | str | None = None) -> Outcome:
        """Run the program in this process."""
        return run_program(recover.main, *map(str, arguments), cwd=cwd)

    def rows(self, path: Path) -> int:
        with fits.open(path) as hdus:
            hdus.verify("exception")
            return len(hdus["DATA TABLE"].data)


class ListTests(RecoverTests):
    def test_what_is_told_of_a_recording(self) -> None:
        folder = record(self.data, name="/archive/tmp/run.fits", dumps=6, without=(2,))
        self.assertEqual(
            self.recover(self.data, "--list"),
            (
                0,
                (
                    f"{folder}\n    sardara SK00, began 2026-11-21 19:25:50.123 UTC\n"
                    "    set-filename /archive/tmp/run.fits\n    5 whole dumps of 40 ms, 0.2 s\n"
                ),
                "",
            ),
        )
        self.assertEqual(opened(folder), [0, 1, 3, 4, 5])

    def test_nothing_that_a_terminal_obeys(self) -> None:
        """A client chose the name: it may neither forge a line nor move the cursor."""
        name = "/archive/tmp/a\x0bb\x1b[2J\x85c\x9b2J\u2028.fits"
        folder = record(self.data, name=name)
        status, out, _ = self.recover(self.data, "--list")
        lines = out.splitlines()
        self.assertEqual((status, len(lines), lines[0]), (0, 4, str(folder)))
        self.assertEqual(lines[2], r"    set-filename /archive/tmp/a\x0bb\x1b[2J\x85c\x9b2J\u2028.fits")
        (folder / "header.json").write_text("{}", encoding="utf-8")
        odd = folder.rename(folder.with_name("20261128-105550.123-\x9b2J\n0"))
        for options in (["--list"], []):
            _, out, err = self.recover(odd, *options)
            for line in (out + err).split("\n"):
                self.assertTrue(line.isprintable(), line)

    def test_oldest_first_with_one_in_use_and_one_that_cannot_be_read(self) -> None:
        damaged = record(self.data, begins=Ticks(BEGINS + 10**8))
        (damaged / "header.json").write_text("{}", encoding="utf-8")
        old = record(self.data, begins=Ticks(BEGINS - 10**8))
        recording = RecordingWriter.begin(self.data, setup_with(), BEGINS, Sky())
        status, out, _ = self.recover(self.data, "--list")
        recording.finish()
        lines = [line for line in out.splitlines() if not line.startswith(" ")]
        self.assertEqual((status, lines), (0, [str(old), str(recording.folder), str(damaged)]))
        self.assertEqual(out.count("no set-filename"), 2)
        self.assertEqual(out.count("in use: being recorded or converted"), 1)
        self.assertIn("cannot be read: ", out)

    def test_nothing_there(self) -> None:
        self.data.mkdir()
        (self.data / "notes.txt").write_text("x", encoding="utf-8")
        for options in ((), ("--list",)):
            status, out, err = self.recover(self.data, *options)
            self.assertEqual((status, err), (0, ""))
            self.assertEqual(out, f"nothing to recover: no recording is in {self.data}\n")


class ConversionTests(RecoverTests):
    def test_all_of_a_data_folder(self) -> None:
        named = record(self.data, name=self.folder / "tmp" / "run.fits")
        unnamed = record(self.data, begins=Ticks(BEGINS + 10**8), dumps=3)
        goals = self.folder / "run.fits", self.data / f"{unnamed.name}.fits"
        status, out, err = self.recover(self.data)
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out, f"{named}: 5 dumps written to {goals[0]}\n{unnamed}: 3 dumps written to {goals[1]}\n")
        self.assertEqual([self.rows(each) for each in goals], [5, 3])
        self.assertEqual(recordings_in(self.data), [])

    def test_a_standard_output_that_takes_nothing(self) -> None:
        """All recordings are converted nevertheless. A list that nobody gets is no success."""
        record(self.data, name=self.folder / "tmp" / "run.fits")
        record(self.data, begins=Ticks(BEGINS + 10**8), dumps=3)
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(recover, "write_result", side_effect=full):
            self.assertEqual(self.recover(self.data, "--list").status, 1)
            self.assertEqual(self.recover(self.data).status, 0)
        self.assertEqual(recordings_in(self.data), [])

    def test_the_default_is_the_servers_default(self) -> None:
        self.assertEqual(self.recover(cwd=self.folder).status, 2)
        folder = record(self.data)
        self.assertEqual(self.recover(cwd=self.folder).status, 0)
        self.assertEqual(self.rows(self.data / f"{folder.name}.fits"), 5)

    def test_one_recording(self) -> None:
        one, other = record(self.data), record(self.data, begins=Ticks(BEGINS + 10**8))
        self.assertEqual(self.recover(".", "--output", self.folder / "mine.fits", cwd=one).status, 0)
        self.assertEqual(self.rows(self.folder / "mine.fits"), 5)
        self.assertEqual(recordings_in(self.data), [other])

    def test_what_is_in_use_is_left_alone(self) -> None:
        recording = RecordingWriter.begin(self.data, setup_with(), BEGINS, Sky())
        done = record(self.data, begins=Ticks(BEGINS + 10**8))
        self.assertTrue(in_use(recording.folder))
        self.assertFalse(in_use(done))
        status, out, err = self.recover(self.data)
        recording.write(0, DIODE, memoryview(values_of(setup_with(), 0)).cast("B"))
        recording.finish()
        self.assertEqual((status, err), (0, ""))
        self.assertIn(f"{recording.folder}: in use, skipped\n", out)
        self.assertEqual(opened(recording.folder), [0])
        self.assertFalse(done.exists())
        self.assertFalse(in_use(done))

    def test_one_that_cannot_be_does_not_keep_the_others(self) -> None:
        bad = record(self.data, name=self.data / "file" / "run.fits")
        (self.data / "file").write_bytes(b"")
        good = record(self.data, begins=Ticks(BEGINS + 10**8))
        status, out, err = self.recover(self.data)
        self.assertEqual(status, 1)
        self.assertIn(f"{good}: 5 dumps", out)
        self.assertRegex(err, rf"\A{bad}: not recovered: file cannot be written: not a directory: '.*'\n\Z")
        self.assertEqual(opened(bad), list(range(5)))

    def test_what_nobody_has_thought_of_does_not_keep_the_others(self) -> None:
        bad = record(self.data)
        good = record(self.data, begins=Ticks(BEGINS + 10**8))

        def fail(folder: Path, *arguments: Any, **others: Any) -> Any:
            return convert(folder, *arguments, **others) if folder == good else 1 / 0

        with mock.patch.object(recover, "convert", fail):
            status, out, err = self.recover(self.data)
        self.assertEqual((status, out), (1, f"{good}: 5 dumps written to {good}.fits\n"))
        self.assertRegex(err, rf"\A{bad}: not recovered: the conversion failed: the log above gives the cause\n\Z")
        self.assertEqual(opened(bad), list(range(5)))

    def test_a_list_keeps_no_conversion_away(self) -> None:
        folder = record(self.data)
        find = RecordingReader._find  # while it looks

        def look(recorded: RecordingReader) -> Any:
            self.assertFalse(in_use(folder))
            return find(recorded)

        with mock.patch.object(RecordingReader, "_find", look):
            status, out, _ = self.recover(self.data, "--list")
        self.assertEqual((status, "5 whole dumps" in out), (0, True), out)

    def test_options(self) -> None:
        name = self.folder / "root" / "archive" / "tmp" / "run.fits"
        write_metadata(name, setup_with(), float(mjd(BEGINS)), 1.0)
        folder = record(self.data, name="/archive/tmp/run.fits")
        root = ("--root", self.folder / "root")
        self.assertEqual(self.recover(folder, *root, "--keep")[0], 0)
        self.assertEqual(opened(folder), list(range(5)))
        self.assertEqual(self.recover(folder, *root, "--without-metadata")[0], 0)
        sources = [fits.getval(name.parent.parent / each, "SOURCE") for each in ("run.fits", "run_2.fits")]
        self.assertEqual(sources, ["made up", "simulated sky"])

    def test_an_empty_one(self) -> None:
        folder = record(self.data, dumps=0)
        self.assertEqual(self.recover(folder, "--keep"), (0, f"{folder}: kept, it is empty\n", ""))
        self.assertEqual(self.recover(folder), (0, f"{folder}: removed, it is empty\n", ""))
        self.assertFalse(folder.exists())

    def test_interrupted(self) -> None:
        folder = record(self.data)
        with mock.patch.object(recover, "convert", side_effect=KeyboardInterrupt):
            status, _, err = self.recover(self.data)
        self.assertEqual((status, err), (130, "discos-backend-recover: interrupted\n"))
        self.assertEqual(opened(folder), list(range(5)))

    def test_an_output_in_a_recording_is_refused(self) -> None:
        """`discos-backend-recover . --output hi.fits`, inside it: the file would be removed with the recording."""
        folder, other = record(self.data), record(self.data, begins=Ticks(BEGINS + 10**8))
        (self.folder / "link").symlink_to(other)
        for output in ("hi.fits", other / "hi.fits", self.folder / "link" / "hi.fits", "../foo/header.json"):
            with self.subTest(output):
                status, out, err = self.recover(".", "--output", output, cwd=folder)
                self.assertEqual((status, out), (1, ""))
                self.assertRegex(
                    err, rf"\A{folder}: not recovered: path (is in the folder|has the name of a file) of a "
                )
        self.assertEqual(recordings_in(self.data), [folder, other])
        self.assertEqual(len(list(self.data.rglob("*"))), 6)

    def test_what_is_no_regular_file_does_not_keep_the_others(self) -> None:
        """A FIFO would be waited for without end."""
        bad = [record(self.data, begins=Ticks(BEGINS + number * 10**8)) for number in range(2)]
        for folder, name in zip(bad, ("header.json", "dumps"), strict=True):
            (folder / name).unlink()
            os.mkfifo(folder / name)
        good = record(self.data, begins=Ticks(BEGINS + 10**9))
        status, out, _ = self.recover(self.data, "--list")
        self.assertEqual((status, out.count("Not a regular file")), (0, 2), out)
        status, out, err = self.recover(self.data)
        self.assertEqual((status, out), (1, f"{good}: 5 dumps written to {good}.fits\n"))
        self.assertEqual(err.count("Not a regular file"), 2, err)


class CommandLineTests(RecoverTests):
    def test_what_is_wrong_is_said_and_nothing_done(self) -> None:
        one, other = record(self.data), record(self.data, begins=Ticks(BEGINS + 10**8))
        (self.folder / "there.fits").write_bytes(b"precious")
        (self.folder / "link").symlink_to("nowhere")
        for arguments, text in (
            ((self.folder / "nowhere",), "there is no folder"),
            ((one / "dumps",), "there is no folder"),
            ((self.folder / ("x" * 300),), "cannot be read: file name too long"),
            ((self.data, "--output", self.folder / "a.fits"), "there are 2 recordings"),
            ((self.folder, "--output", self.folder / "a.fits"), "there are 0 recordings"),
            ((one, "--output", self.folder / "there.fits"), "exists already"),
            ((one, "--output", self.folder / "link"), "exists already"),
            ((one, "--nonsense"), "unrecognized arguments"),
        ):
            with self.subTest(text):
                status, out, err = self.recover(*arguments)
                self.assertEqual((status, out), (2, ""))
                self.assertIn(text, err)
        self.assertEqual(recordings_in(self.data), [one, other])
        self.assertEqual((self.folder / "there.fits").read_bytes(), b"precious")

    def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(self) -> None:
        one = record(self.data)
        denied = PermissionError(errno.EACCES, "Permission denied")
        with mock.patch.object(Path, "iterdir", side_effect=denied):
            self.assertEqual(
                self.recover(self.data),
                (2, "", f"discos-backend-recover: {self.data} cannot be read: permission denied\n"),
            )
            # The folder of the folder need not be listed.
            status, out, _ = self.recover(one, "--list")
        self.assertEqual((status, out.splitlines()[0]), (0, str(one)))

    def test_help_and_version(self) -> None:
        status, out, _ = self.recover("--help")
        self.assertEqual(status, 0)
        for text in ("examples:", "exit status:", "--without-metadata", "discos-backend-recover --list"):
            self.assertIn(text, out)
        self.assertIn(__version__, self.recover("--version")[1])

    def test_what_it_logs_is_printable_too(self) -> None:
        output = self.folder / "a\x0bforged\x9b.fits"
        output.write_text("is there already", encoding="utf-8")
        record(self.data, name=str(self.folder / "tmp" / output.name))
        logging.disable(logging.NOTSET)
        done = self.recover(self.data)
        self.assertEqual(done.status, 0)
        line, other = done.err.split("\n")[:-1]
        self.assertRegex(other, r"metadata file is not there: .*a\\x0bforged\\x9b.fits$")
        self.assertRegex(line, r"^discos-backend-recover: .*a\\x0bforged\\x9b.fits exists already")
        for line in done.out.split("\n"):
            self.assertTrue(line.isprintable(), line)

    def torn(self) -> Path:
        """A recording of four dumps, of which the last was cut off."""
        folder = record(self.data, dumps=4)
        dumps = folder / "dumps"
        dumps.write_bytes(dumps.read_bytes()[:-7])
        return folder

    def test_a_torn_dump_is_told_and_left_out(self) -> None:
        folder = self.torn()
        logging.disable(logging.NOTSET)
        done = self.recover(self.data)
        self.assertEqual((done.status, done.out), (0, f"{folder}: 3 dumps written to {folder}.fits\n"), done.err)
        last = "the last dump is incomplete, its 145 bytes are skipped"
        self.assertEqual(done.err, f"discos-backend-recover: {folder}: {last}\n")

    def test_the_script(self) -> None:
        folder = self.torn()
        done = run_python(SCRIPT, self.data, "--list", cwd=self.folder, env=bare_environment(), fresh=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.startswith(f"{folder}\n"), done.stdout)
        self.assertIn("\n    3 whole dumps of 40 ms, 0.12 s\n", done.stdout)
        self.assertIn("the last dump is incomplete", done.stderr)


def record_for_ever(data: Path, reading: int, told: int) -> None:
    """Record as fast as it goes; write the number of each dump into a pipe, of which these are both ends."""
    # So that it ends when nobody else reads.
    os.close(reading)
    setup = setup_with()
    recording = RecordingWriter.begin(data, setup, BEGINS, Sky())
    for number in range(10**6):
        recording.write(number, 0, memoryview(values_of(setup, number)).cast("B"))
        os.write(told, b"%d\n" % number)


class KilledServerTests(RecoverTests):
    def test_everything_but_a_last_torn_dump_is_recovered(self) -> None:
        """A process that records as fast as it can is killed at several moments."""
        for least in (1, 50, 333):
            with self.subTest(least):
                reading, writing = os.pipe()
                with open(reading, "rb") as pipe:
                    process = multiprocessing.get_context("fork").Process(
                        target=record_for_ever, args=(self.data, reading, writing), daemon=True
                    )
                    process.start()
                    self.addCleanup(process.kill)
                    os.close(writing)
                    watchdog = threading.Timer(PATIENCE, process.kill)
                    self.addCleanup(watchdog.cancel)
                    watchdog.start()
                    for number in range(least):
                        self.assertEqual(pipe.readline(), b"%d\n" % number)
                    self.assertIn("in use", self.recover(self.data).out)
                    process.kill()
                    process.join(PATIENCE)
                    told = pipe.read().split()
                self.assertEqual(process.exitcode, -signal.SIGKILL)
                last = int(told[-1]) if told else least - 1
                (folder,) = recordings_in(self.data)
                with RecordingReader(folder) as recorded:
                    numbers = [dump.number for dump in recorded.dumps]
                self.assertEqual(numbers[: last + 1], list(range(last + 1)))
                self.assertEqual(self.recover(self.data)[0], 0)
                path = self.data / f"{folder.name}.fits"
                self.assertIn(self.rows(path), (last + 1, last + 2))
                path.unlink()


if __name__ == "__main__":
    unittest.main()
