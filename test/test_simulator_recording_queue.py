"""What convert-data converts, and what becomes of recordings that cannot be."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

from astropy.io import fits

from discosbackend.children import python_command
from discosbackend.errors import BackendError
from discosbackend.handlers import DBProtocolHandler
from discosbackend.log import LineFormatter, LogWriter
from discosbackend.simulator.fits import convert as program
from discosbackend.simulator.fits import layout
from discosbackend.simulator.recording.conversion import Converter
from discosbackend.simulator.recording.dump_files import RecordingWriter, give_name, name_of, recordings_in
from discosbackend.simulator.recording.dump_thread import DumpThread

from .recordings import ForkedConversion, opened, record
from .settings import LONG, PATIENCE, wait_until
from .test_simulator_acquisition import InstrumentMixin


class ChoiceTests(InstrumentMixin):
    """Which recordings a convert-data takes; the converter only notes them here, and removes them."""

    def setUp(self) -> None:
        super().setUp()
        self.converted: list[list[str | None]] = []
        self.refusals: dict[str | None, str] = {}
        patch = mock.patch.object(Converter, "run", lambda _, names: self.run_converter(names))
        patch.start()
        self.addCleanup(patch.stop)

    def run_converter(self, names: dict[Path, str | None]) -> dict[Path, str]:
        """In place of the converter: what a test wants refused is refused, by its name."""
        self.converted.append(list(names.values()))
        refused = {folder: self.refusals[name] for folder, name in names.items() if name in self.refusals}
        for folder in names:
            if folder not in refused:
                shutil.rmtree(folder, ignore_errors=True)
        return refused

    def scan(self, name: str = "") -> Path:
        """An acquisition, and its name if it gets one."""
        folder = self.acquire(0.05)
        if name:
            self.backend.set_filename(name)
        return folder

    def test_nothing(self) -> None:
        self.backend.convert_data()
        self.assertEqual(self.converted, [])

    def test_every_one_that_has_a_name(self) -> None:
        for name in ("/1.fits", "", "/2.fits"):
            self.scan(name)
        self.backend.convert_data()
        self.assertEqual(self.converted, [["/1.fits", "/2.fits"]])
        # Then those without.
        self.backend.convert_data()
        self.assertEqual(self.converted[1:], [[None]])
        self.backend.convert_data()
        self.assertEqual(len(self.converted), 2)

    def test_not_one_that_is_still_recorded(self) -> None:
        self.scan("/1.fits")
        self.backend.start()
        self.backend.set_filename("/2.fits")
        self.backend.convert_data()
        self.backend.convert_data()
        self.assertEqual(self.converted, [["/1.fits"]])
        self.backend.stop()
        self.backend.convert_data()
        self.assertEqual(self.converted[1:], [["/2.fits"]])

    def test_the_last_dumps_are_waited_for(self) -> None:
        self.backend.start()
        self.pass_time(0.2)
        self.backend.stop()
        self.backend.set_filename("/1.fits")
        self.backend.convert_data()
        self.assertEqual(self.backend.state()["files"]["newest"]["running"], False)
        self.assertEqual(self.backend.state()["files"]["newest"]["dumps"], 5)

    def test_a_name_that_comes_during_the_conversion_is_for_the_next(self) -> None:
        self.scan("/1.fits")
        inside, go_on = threading.Event(), threading.Event()

        def slowly(names: dict[Path, str | None]) -> dict[Path, str]:
            inside.set()
            self.assertTrue(go_on.wait(PATIENCE))
            return self.run_converter(names)

        with mock.patch.object(Converter, "run", lambda _, names: slowly(names)):
            thread = threading.Thread(target=self.backend.convert_data)
            thread.start()
            self.assertTrue(inside.wait(PATIENCE))
            self.backend.set_filename("/2.fits")
            go_on.set()
            thread.join(PATIENCE)
        self.assertEqual(self.converted, [["/1.fits"]])
        self.assertEqual(name_of(self.scan()), "/2.fits")

    def test_a_name_that_comes_while_recordings_are_chosen(self) -> None:
        # Then it is that of the one that is converted.
        self.scan("/1.fits")
        conversion = threading.Thread(target=self.backend.convert_data)

        def slowly(folder: Path, name: str) -> None:
            conversion.start()
            conversion.join(0.1)
            give_name(folder, name)

        with mock.patch("discosbackend.simulator.recording.queue.give_name", slowly):
            self.backend.set_filename("/2.fits")
        conversion.join(PATIENCE)
        self.assertEqual(self.converted, [["/2.fits"]])

    def test_one_that_ended_is_chosen_while_the_next_begins(self) -> None:
        self.scan("/1.fits")
        dumping = threading.Event()

        def begin(*_: Any, **__: Any) -> None:
            # Between the one and the other.
            self.backend.convert_data()
            dumping.set()
            raise ZeroDivisionError

        with (
            mock.patch("discosbackend.simulator.recording.queue.DumpThread", begin),
            self.assertRaises(ZeroDivisionError),
        ):
            self.backend.start()
        self.assertTrue(dumping.is_set())
        self.assertEqual(self.converted, [["/1.fits"]])

    def test_the_thread_of_one_is_let_go_while_it_is_waited_for(self) -> None:
        """The next start does so, in the reactor's thread."""
        self.scan("/1.fits")
        recordings = self.backend._recordings
        assert recordings is not None
        (entry,) = recordings._entries

        class Entry:
            """The same entry, whose thread is let go after it was looked at once."""

            looks = 0
            wait = type(entry).wait

            def __getattr__(self, name: str) -> Any:
                return getattr(entry, name)

            @property
            def dump_thread(self) -> Any:
                self.looks += 1
                return entry.dump_thread if self.looks == 1 else None

        for call in (self.backend.wait_for_dumps, self.backend.convert_data):
            recordings._entries = cast(Any, [Entry()])
            call()
        self.assertEqual(self.converted, [["/1.fits"]])

    def test_no_thread_can_be_started(self) -> None:
        """The start is refused, nothing is left of the recording, and the next start gets the name."""
        self.scan("/1.fits")
        self.backend.convert_data()
        self.backend.set_filename("/2.fits")
        open_before = len(os.listdir("/proc/self/fd"))
        with (
            mock.patch.object(DumpThread, "start", side_effect=RuntimeError("can't start new thread")),
            self.assertRaises(BackendError) as caught,
        ):
            self.backend.start()
        self.assertEqual(str(caught.exception), "recording cannot begin: can't start new thread")
        self.assertEqual(self.backend.status()[1:], (str(caught.exception), False))
        self.assertEqual(os.listdir(self.data), [])
        self.assertEqual(len(os.listdir("/proc/self/fd")), open_before)
        self.backend.convert_data()
        self.assertEqual(name_of(self.scan()), "/2.fits")
        self.assertEqual(self.backend.status()[1], "ok")

    def test_what_is_over_is_let_go(self) -> None:
        def threads() -> int:
            gc.collect()
            return sum(isinstance(each, DumpThread) for each in gc.get_objects())

        self.scan()
        self.scan()
        before = threads()
        for _ in range(4):
            self.scan()
        self.assertEqual(threads(), before)

    def test_what_somebody_else_has_taken_is_forgotten(self) -> None:
        # discos-backend-recover, say.
        shutil.rmtree(self.scan("/1.fits"))
        folder = self.scan("/2.fits")
        (folder / "header.json").unlink()
        with self.assertLogs("discosbackend.simulator.recording.queue", "WARNING") as logs:
            self.backend.convert_data()
        # Once, and of these only.
        self.backend.convert_data()
        self.assertEqual(len(logs.output), 2)
        for line in logs.output:
            self.assertIn("no longer finds it: it was removed, moved, or converted by discos-backend-recover", line)
        self.assertEqual(self.converted, [])
        self.backend.set_filename("/3.fits")
        self.assertEqual(name_of(self.scan()), "/3.fits")

    def test_a_name_for_one_that_was_taken_is_for_the_next(self) -> None:
        shutil.rmtree(self.scan())
        self.backend.set_filename("/1.fits")
        self.assertEqual(name_of(self.scan()), "/1.fits")

    def refused(self) -> str:
        """Why convert-data is refused."""
        with self.assertRaises(BackendError) as caught:
            self.backend.convert_data()
        return str(caught.exception)

    def test_what_was_refused_is_told_and_tried_again(self) -> None:
        self.scan("/1.fits")
        self.refusals = {"/1.fits": "disk full: /1.fits"}
        with self.assertLogs("discosbackend.simulator.recording.queue", "ERROR") as logs:
            self.assertEqual([self.refused(), self.refused()], ["disk full: /1.fits"] * 2)
        self.assertEqual(len(logs.output), 1, "one line for the same reason")
        self.assertEqual(self.backend.status()[1], "not converted: disk full: /1.fits")
        self.refusals = {}
        self.backend.convert_data()
        self.assertEqual(self.converted, [["/1.fits"]] * 3)
        self.assertEqual(self.backend.status()[1], "ok")

    def test_what_was_refused_is_no_obstacle_to_others(self) -> None:
        self.refusals = {"/1.fits": "no fits file"}
        self.scan("/1.fits")
        with self.assertLogs("discosbackend.simulator.recording.queue", "ERROR"):
            self.refused()
        self.scan("/2.fits")
        self.backend.convert_data()
        self.assertEqual(self.backend.status()[1], "ok")
        self.scan()
        self.backend.convert_data()
        self.assertEqual(self.converted[1:], [["/1.fits", "/2.fits"], ["/1.fits", None]])
        # It alone is told again.
        self.assertEqual(self.refused(), "no fits file")

    def test_another_name_makes_it_new(self) -> None:
        self.refusals = {"/1.fits": "no fits file"}
        self.scan("/1.fits")
        with self.assertLogs("discosbackend.simulator.recording.queue", "ERROR"):
            self.refused()
        self.backend.set_filename("/2.fits")
        self.backend.convert_data()
        self.assertEqual(self.converted, [["/1.fits"], ["/2.fits"]])

    def test_a_name_after_a_refused_start_is_not_for_the_recording_before(self) -> None:
        first = self.scan("/1.fits")
        refused = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(RecordingWriter, "begin", side_effect=refused):
            self.assertRaises(BackendError, self.backend.start)
        self.backend.set_filename("/2.fits")
        self.assertEqual(name_of(first), "/1.fits")
        self.backend.convert_data()
        self.assertEqual(self.converted, [["/1.fits"]])

    def test_a_name_that_the_disk_does_not_take_holds_all_the_same(self) -> None:
        folder = self.scan("/1.fits")
        refused = OSError(errno.ENOSPC, "No space left on device")
        with (
            mock.patch("discosbackend.simulator.recording.queue.give_name", side_effect=refused),
            self.assertLogs("discosbackend.simulator.recording.queue", "WARNING") as logs,
        ):
            self.backend.set_filename("/disk/2.fits")
        self.assertIn("its name cannot be written to disk: no space left on device: '/disk/2.fits'", logs.output[0])
        self.assertEqual(name_of(folder), "/1.fits")
        self.backend.convert_data()
        self.assertEqual(self.converted, [["/disk/2.fits"]])

    def test_paths_without_a_files_name_are_refused_at_once(self) -> None:
        self.scan("/1.fits")
        for path in (".", "..", "/", "/a/", "/a/..", "a/."):
            with self.subTest(path), self.assertRaises(BackendError) as caught:
                self.backend.set_filename(path)
            self.assertEqual(str(caught.exception), f"path has no name of a file: {path!r}")
            self.assertEqual(self.backend.get_filename(), "/1.fits")

    def test_paths_in_reasons_are_plain(self) -> None:
        """Protocol section 3.7: `?` for each character that is not printable ASCII; the log has them."""
        name = "/archive/M\xfc\u2126\udcff\U0001f600\x9b,!\t/a\\x9b.fits"
        plain = "'/archive/M????????/a\\x9b.fits'"
        self.scan(name)
        self.refusals = {name: f"disk full: {name!a}"}
        with self.assertLogs("discosbackend.simulator.recording.queue", "ERROR") as logs:
            self.assertEqual(self.refused(), f"disk full: {plain}")
        self.assertIn(ascii(name), logs.output[0])
        self.assertEqual(self.backend.status()[1], f"not converted: disk full: {plain}")
        with self.assertRaises(BackendError) as caught:
            self.backend.set_filename(f"{name}/")
        self.assertEqual(str(caught.exception), f"path has no name of a file: {plain[:-1]}/'")

    def test_the_names_of_a_recordings_files_are_refused_at_once(self) -> None:
        self.scan("/1.fits")
        recording, conversion = "file of a recording", "temporary file of a conversion"
        for path, what in (
            ("foo/header.json", recording),
            ("/archive/tmp/dumps", recording),
            ("name.json", recording),
            ("foo/header.json/1.fits", recording),
            ("/archive/.1.fits.discos-part", conversion),
        ):
            with self.subTest(path), self.assertRaises(BackendError) as caught:
                self.backend.set_filename(path)
            self.assertEqual(str(caught.exception), f"path has the name of a {what}: {path!r}")
        self.assertEqual(self.backend.get_filename(), "/1.fits")

    def test_a_name_that_is_no_text_is_logged(self) -> None:
        folder = self.scan()
        os.mkfifo(folder / ".name.json.part")
        with self.assertLogs("discosbackend.simulator.recording.queue", "WARNING") as logs:
            self.backend.set_filename("/M\xfc\udcff.fits")
        (record,) = logs.records
        with tempfile.TemporaryFile() as file:
            for encoding in ("utf-8", "latin-1", "ascii"):
                writer = LogWriter(file.fileno(), encoding=encoding)
                self.addCleanup(writer.close)
                writer.setFormatter(LineFormatter())
                writer.emit(record)
            file.seek(0)
            lines = file.read().splitlines()
        for line, shown in zip(lines, ("M\xfc".encode(), b"M\xfc", b"M\\xfc"), strict=True):
            self.assertIn(b"not a regular file: '/" + shown + b"\\udcff.fits'", line)

    def test_a_name_that_is_no_text_in_the_state(self) -> None:
        """The control channel, and simctl, carry it as JSON."""
        self.scan("/M\xfc\udcff.fits")
        state = json.loads(json.dumps(self.backend.state()).encode("ascii"))
        self.assertEqual(state["filename"], "/M\xfc\udcff.fits")
        self.assertEqual(state["files"]["waiting"][0]["name"], "/M\xfc\udcff.fits")

    def test_a_restart_and_a_shutdown_give_the_conversion_up(self) -> None:
        self.scan("/1.fits")
        for end in (self.backend.power_cycle, self.backend.server_stopping):
            with self.subTest(end), mock.patch.object(Converter, "give_up") as give_up:
                end()
            give_up.assert_called_once_with()


class ConverterTests(InstrumentMixin):
    """With the converter itself, a process of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.backend.set_configuration("SK00")
        self.site = self.data.parent / "site" / "tmp"

    def scan(self, name: str) -> None:
        self.acquire(0.2)
        self.backend.set_filename(f"{self.site}/{name}")

    def convert_in_forks(self) -> None:
        """From here on, but with --long: an interpreter of its own for each conversion takes its time."""
        if not LONG:
            self.enterContext(mock.patch("subprocess.Popen", ForkedConversion))

    def test_no_thread_can_be_started_for_what_is_only_faster(self) -> None:
        """Neither numpy imported early nor a process kept for the next conversion."""
        self.convert_in_forks()
        self.scan("1.fits")
        here, start = os.getpid(), threading.Thread.start

        def start_in_forks(thread: threading.Thread) -> None:
            if os.getpid() == here:
                raise RuntimeError("can't start new thread")
            start(thread)

        with mock.patch.object(threading.Thread, "start", start_in_forks):
            self.backend.convert_data()
            self.backend.set_configuration("SK03")
        self.assertTrue((self.site.parent / "1.fits").exists())
        self.assertIsNone(cast(Any, self.backend._recordings)._converter._worker)
        self.assertEqual(self.backend.get_configuration(), "SK03")

    def test_files_one_folder_up(self) -> None:
        self.scan("1.fits")
        self.scan("2.fits")
        with (
            mock.patch("subprocess.Popen", side_effect=subprocess.Popen) as started,
            self.assertLogs("discosbackend.simulator.recording.conversion", "INFO") as logs,
        ):
            self.backend.convert_data()
        [((command,), _)] = started.call_args_list
        self.assertNotIn(str(self.data), " ".join(command), "which could not carry thousands of folders")
        process = cast(Any, self.backend._recordings)._converter._worker._process
        priority = os.getpriority(os.PRIO_PROCESS, process.pid)
        self.assertEqual(priority, os.getpriority(os.PRIO_PROCESS, 0), "a nicer one starves on a busy machine")
        self.backend.server_stopping()
        self.assertIsNotNone(process.returncode, "it ends with the server")
        for name in ("1.fits", "2.fits"):
            with fits.open(self.site.parent / name) as file:
                self.assertEqual(len(file["DATA TABLE"].data), 5)
            self.assertTrue(any(line.endswith(f"{name}: 5 dumps written") for line in logs.output), logs.output)
        names = sorted(path.name for path in self.site.parent.iterdir() if path.is_file())
        self.assertEqual(names, ["1.fits", "2.fits"])
        self.assertEqual(recordings_in(self.data), [])
        self.assertEqual(self.backend.state()["files"]["waiting"], [])

    def test_a_name_forges_no_record_through_the_converters_output(self) -> None:
        """A warning about a file whose name has what some programs take for the end of a line is one record."""
        name = "a\x0bforged\x0c\x1cforged\x85forged\u2028forged\x9b.fits"
        self.site.parent.mkdir()
        (self.site.parent / name).write_text("is there already")
        self.scan(name)
        with self.assertLogs("discosbackend.simulator.recording.conversion", "WARNING") as logs:
            self.backend.convert_data()
        record, other = logs.records
        self.assertIn("exists already", record.getMessage())
        self.assertIn("metadata file is not there", other.getMessage())
        for each, count in ((record, 8), (other, 4)):
            (line,) = LineFormatter().format(each).splitlines()
            self.assertTrue(line.isprintable())
            self.assertEqual(line.count("forged"), count, "the file's name, twice or once")

    def test_a_name_in_utf_8(self) -> None:
        """From the wire to the disk, and back."""
        self.convert_in_forks()
        self.acquire(0.2)
        handler = DBProtocolHandler(self.backend)
        name = f"{self.site.parent}/M\xfcller\udcff.fits"
        sent = os.fsencode(name)
        with self.assertLogs("discosbackend.simulator.recording.conversion", "INFO"):
            self.assertEqual(handler.execute("set-filename", [sent.decode("latin-1")]), b"!set-filename,ok")
            self.assertEqual(handler.execute("get-filename", []), b"!get-filename,ok," + sent)
            self.backend.convert_data()
        self.assertEqual(os.listdir(os.fsencode(self.site.parent)), [b"M\xc3\xbcller\xff.fits"])

    def test_a_path_in_a_recording_is_refused(self) -> None:
        """The file would be removed with the recording."""
        self.convert_in_forks()
        folder = self.acquire(0.2)
        for name in (f"{folder}/x.fits", f"{folder.name}/x.fits"):
            self.backend.set_filename(name)
            with (
                self.subTest(name),
                self.assertLogs("discosbackend.simulator.recording.queue", "ERROR"),
                self.assertRaises(BackendError) as caught,
            ):
                self.backend.convert_data()
            self.assertEqual(str(caught.exception), f"path is in the folder of a recording: '{folder}/x.fits'")
            self.assertEqual(recordings_in(self.data), [folder])

    def test_below_a_root(self) -> None:
        root = self.data.parent / "root"
        self.backend = self.make(root=root)
        self.convert_in_forks()
        self.acquire(0.2)
        self.backend.set_filename("/roach2/tmp/a.fits")
        self.backend.convert_data()
        self.assertTrue((root / "roach2" / "a.fits").exists())

    def test_one_that_cannot_be_written_stays_and_the_others_are_written(self) -> None:
        self.convert_in_forks()
        self.scan("1.fits")
        wrong = self.data.parent / "file"
        wrong.write_text("not a folder")
        self.acquire(0.2)
        self.backend.set_filename(f"{wrong}/tmp/2.fits")
        with (
            self.assertLogs("discosbackend.simulator.recording.queue", "ERROR"),
            self.assertRaises(BackendError) as caught,
        ):
            self.backend.convert_data()
        self.assertIn("not a directory", str(caught.exception))
        self.assertNotIn(",", str(caught.exception))
        self.assertTrue((self.site.parent / "1.fits").exists())
        (left,) = recordings_in(self.data)
        wrong.unlink()
        self.backend.convert_data()
        self.assertTrue((wrong / "2.fits").exists())
        self.assertFalse(left.exists())

    def test_a_program_that_ends_at_once(self) -> None:
        self.scan("1.fits")
        with (
            mock.patch("sys.executable", "/bin/sh"),
            self.assertLogs("discosbackend.simulator", "WARNING"),
            self.assertRaises(BackendError) as caught,
        ):
            self.backend.convert_data()
        self.assertRegex(str(caught.exception), r"^conversion ended early with status \d+$")
        self.assertEqual(len(recordings_in(self.data)), 1)

    def test_a_conversion_that_is_given_up_before_its_process_is_there(self) -> None:
        self.scan("1.fits")
        with (
            mock.patch.object(Converter, "ready", Converter.give_up),
            mock.patch("subprocess.Popen") as started,
            self.assertRaises(BackendError) as caught,
        ):
            self.backend.convert_data()
        self.assertEqual(str(caught.exception), "conversion given up")
        started.assert_not_called()
        self.assertEqual(len(recordings_in(self.data)), 1)

    def test_a_converter_that_cannot_be_started(self) -> None:
        self.scan("1.fits")
        refused = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        with mock.patch("subprocess.Popen", side_effect=refused), self.assertRaises(BackendError) as caught:
            self.backend.convert_data()
        self.assertEqual(str(caught.exception), "conversion cannot be started: cannot allocate memory")
        self.assertEqual(len(recordings_in(self.data)), 1)


class WorkerTests(unittest.TestCase):
    """The process of a Converter, which is kept: here a fork that runs the same program."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.started: list[ForkedConversion] = []
        self.enterContext(mock.patch("subprocess.Popen", self.start))
        self.program: Callable[[], object] = lambda: None
        self.converter = Converter(None)
        self.addCleanup(self.converter.close)

    def start(self, command: list[str], **others: Any) -> ForkedConversion:
        self.started.append(ForkedConversion(command, with_program=self.program, **others))
        self.addCleanup(self.started[-1].close)
        return self.started[-1]

    def convert(self, name: str = "1.fits") -> str | None:
        """Convert a recording that is made for it; why it is refused."""
        folder = record(self.folder / "data", dumps=2)
        return self.converter.run({folder: str(self.folder / name)}).get(folder)

    def in_thread(self) -> tuple[threading.Thread, list[str | None]]:
        """The same in a thread, with a process that writes the file and does not come to its end."""
        self.program = self.write_forever
        refused: list[str | None] = []
        thread = threading.Thread(target=lambda: refused.append(self.convert()), daemon=True)
        thread.start()
        wait_until((self.folder / "writing").exists, "the file that is being written")
        (self.folder / "writing").rmdir()
        self.program = lambda: None
        return thread, refused

    def write_forever(self, terminate: signal.Handlers = signal.SIG_DFL) -> None:
        signal.signal(signal.SIGTERM, terminate)

        def write(*_: object) -> None:
            (self.folder / "writing").mkdir()
            # Not signal.pause(): the signal may come before it. In a process that was forked from another thread than
            # the main one, Python 3.13 may not notice a signal by itself. This function looks whether one has come.
            while True:
                signal.pthread_sigmask(signal.SIG_BLOCK, ())
                threading.Event().wait(0.01)

        mock.patch.object(layout, "write", write).start()

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_file())

    def test_it_is_kept_for_the_next_conversion(self) -> None:
        self.assertEqual([self.convert(f"{number}.fits") for number in range(3)], [None] * 3)
        self.assertEqual(self.files(), ["0.fits", "1.fits", "2.fits"])
        self.assertEqual(len(self.started), 1)

    def test_one_that_is_killed_in_a_conversion(self) -> None:
        for number, reason in (
            (signal.SIGKILL, "conversion was killed by SIGKILL (out of memory?)"),
            (signal.SIGABRT, "conversion was killed by SIGABRT"),
        ):
            with self.subTest(number):
                thread, refused = self.in_thread()
                os.kill(self.started[-1].pid, number)
                thread.join(PATIENCE)
                self.assertEqual(refused, [reason])
                (kept,) = recordings_in(self.folder / "data")
                # The next conversion has another one, which converts what the first has left.
                self.assertEqual(self.converter.run({kept: str(self.folder / "1.fits")}), {})
                self.assertEqual(self.files(), ["1.fits"])
                (self.folder / "1.fits").unlink()
                self.converter.close()

    def test_one_of_several_recordings(self) -> None:
        """What was converted before the process was killed is not reported as failed."""
        self.program = lambda: setattr(layout, "write", partial(self.write_once, layout.write))
        first, second = (record(self.folder / "data", dumps=2) for _ in range(2))
        refused = self.converter.run({first: str(self.folder / "1.fits"), second: str(self.folder / "2.fits")})
        self.assertEqual(refused, {second: "conversion was killed by SIGKILL (out of memory?)"})
        self.assertEqual(recordings_in(self.folder / "data"), [second])
        self.assertIn("1.fits", self.files())

    def write_once(self, write: Callable[..., None], *arguments: Any) -> None:
        layout.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        write(*arguments)

    def test_one_that_was_killed_meanwhile(self) -> None:
        self.convert()
        os.kill(self.started[0].pid, signal.SIGKILL)
        wait_until(lambda: self.started[0].poll() is not None)
        self.assertIsNone(self.convert("2.fits"))
        self.assertEqual(len(self.started), 2)

    def test_it_ends_when_there_is_nothing_to_do(self) -> None:
        with mock.patch("discosbackend.simulator.recording.conversion._IDLE", 0.01):
            self.convert()
            wait_until(lambda: self.started[0].poll() is not None, "the idle process to end")
        self.assertIsNone(self.convert("2.fits"))
        self.assertEqual(len(self.started), 2)

    def test_the_time_begins_anew_with_each_conversion(self) -> None:
        with mock.patch("threading.Timer") as timer:
            self.convert()
            self.convert("2.fits")
        self.assertEqual([call.args[0] for call in timer.call_args_list], [300.0] * 2)
        self.assertIs(timer.return_value.daemon, True)
        timer.return_value.cancel.assert_called_once_with()

    def test_an_idle_time_that_ends_during_a_conversion(self) -> None:
        thread, refused = self.in_thread()
        self.converter.close()
        self.assertIsNone(self.started[0].poll())
        self.converter.give_up()
        thread.join(PATIENCE)
        self.assertEqual(refused, ["conversion given up"])

    def test_another_one_after_many_conversions(self) -> None:
        with mock.patch("discosbackend.simulator.recording.conversion._MOST", 2):
            for number in range(5):
                self.assertIsNone(self.convert(f"{number}.fits"))
        self.assertEqual(len(self.started), 3)

    def test_given_up_in_a_conversion(self) -> None:
        thread, refused = self.in_thread()
        self.assertTrue(self.converter.give_up())
        thread.join(PATIENCE)
        self.assertEqual(refused, ["conversion given up"])
        self.assertEqual((self.files(), len(recordings_in(self.folder / "data"))), ([], 1), "no part of a file is left")
        self.assertEqual(self.started[0].returncode, 128 + signal.SIGTERM)

    def test_given_up_while_its_process_is_stopped(self) -> None:
        """It would otherwise outlive the server, and keep the lock on the recording."""
        thread, refused = self.in_thread()
        os.kill(self.started[0].pid, signal.SIGSTOP)
        state = Path(f"/proc/{self.started[0].pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "the process to stop")
        self.assertTrue(self.converter.give_up())
        # Less than PATIENCE, as nothing has to be computed. A failure leaves a process that the cleanup kills.
        thread.join(PATIENCE / 4)
        self.assertEqual(refused, ["conversion given up"])
        self.assertEqual((self.files(), len(recordings_in(self.folder / "data"))), ([], 1))

    def test_one_that_is_idle_is_no_conversion_to_give_up(self) -> None:
        self.convert()
        self.assertFalse(self.converter.give_up())
        self.converter.ready()
        self.assertIsNone(self.convert("2.fits"))
        self.assertEqual(len(self.started), 1)

    def test_it_ends_with_a_converter_that_is_dropped(self) -> None:
        converter = Converter(None)
        converter.run({record(self.folder / "data", dumps=2): str(self.folder / "1.fits")})
        self.assertIsNone(self.started[0].poll())
        del converter
        gc.collect()
        self.assertIsNotNone(self.started[0].returncode)

    def test_it_ends_when_the_server_is_killed(self) -> None:
        """Nothing of the server's is run then; the pipe is closed."""
        for terminate in (signal.SIG_DFL, signal.SIG_IGN):
            with self.subTest(terminate):
                self.program = partial(self.write_forever, terminate)
                folder = record(self.folder / "data", dumps=2)
                process = self.start(python_command("-m", "discosbackend.simulator.fits.convert"))
                process.stdin.write(json.dumps([[str(folder), str(self.folder / "1.fits")]]).encode() + b"\n")
                wait_until((self.folder / "writing").exists, "the file that is being written")
                (self.folder / "writing").rmdir()
                process.stdin.close()
                wait_until(lambda: process.poll() is not None, "the process to end")
                self.assertEqual(process.returncode, 128 + signal.SIGTERM)
                self.assertEqual((self.files(), opened(folder)), ([], [0, 1]))

    def test_what_it_writes_is_logged_each_time_and_before_the_end(self) -> None:
        done, log = program.convert, logging.getLogger("discosbackend.simulator.fits.convert")

        def convert(*arguments: Any, **others: Any) -> program.Converted:
            warnings.warn("the same warning", stacklevel=1)
            log.warning("a\nb\x9b")
            print("a library prints")
            os.write(2, b"\xff\n")
            try:
                return done(*arguments, **others)
            finally:
                # More than the pipe takes at once.
                log.warning("z" * 200000)

        self.program = lambda: setattr(program, "convert", convert)
        # When the report is read, some of it is still in the pipe, or not even there.
        for size in (64, 4096):
            with (
                mock.patch("discosbackend.simulator.recording.conversion._READ", size),
                self.assertLogs("discosbackend.simulator.recording.conversion", "WARNING") as logs,
            ):
                self.assertIsNone(self.convert(f"{size}.fits"))
            messages = [each.getMessage() for each in logs.records]
            self.assertIn("the same warning", messages[0])
            lines = ["a", "    b\\x9b", "a library prints", "\\xff", "z" * 200000]
            self.assertEqual(messages[-5:], [f"conversion: {line}" for line in lines])

    def test_more_recordings_than_a_pipe_carries(self) -> None:
        # And a process that writes more than that before it reads.
        self.program = lambda: os.write(2, b"x\n" * 100000)
        folders = [self.folder / f"{number:0200}" for number in range(1000)]
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)
        refused = self.converter.run(dict.fromkeys(folders))
        self.assertEqual(list(refused), folders)
        self.assertRegex(refused[folders[-1]], "is no recording")


if __name__ == "__main__":
    unittest.main()
