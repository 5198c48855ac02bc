"""What convert-data converts, and what becomes of recordings that cannot be."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any, cast
from unittest import mock

from astropy.io import fits

from discosbackend.errors import BackendError
from discosbackend.handlers import DBProtocolHandler
from discosbackend.log import LineFormatter, LogWriter
from discosbackend.simulator.recording.conversion import Converter
from discosbackend.simulator.recording.dump_files import RecordingWriter, give_name, name_of, recordings_in
from discosbackend.simulator.recording.dump_thread import DumpThread

from .recordings import ForkedConversion
from .settings import LONG, PATIENCE
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
        for path in ("foo/header.json", "/archive/tmp/dumps", "name.json"):
            with self.subTest(path), self.assertRaises(BackendError) as caught:
                self.backend.set_filename(path)
            self.assertEqual(str(caught.exception), f"path has the name of a file of a recording: {path!r}")
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

    def test_a_restart_gives_the_conversion_up(self) -> None:
        self.scan("/1.fits")
        with mock.patch.object(Converter, "give_up") as give_up:
            self.backend.power_cycle()
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
            self.assertEqual(handler.reply_arguments("set-filename", [sent.decode("latin-1")]), [])
            self.assertEqual(handler.reply_arguments("get-filename", []), [sent.decode("latin-1")])
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

    def test_a_converter_that_is_killed(self) -> None:
        self.scan("1.fits")
        with (
            mock.patch("sys.executable", "/bin/sh"),
            self.assertLogs("discosbackend.simulator", "WARNING"),
            self.assertRaises(BackendError) as caught,
        ):
            self.backend.convert_data()
        self.assertRegex(str(caught.exception), r"conversion ended early with status \d+")
        self.assertEqual(len(recordings_in(self.data)), 1)

    def test_when_the_server_goes_down_a_conversion_is_given_up(self) -> None:
        # Before the converter is there, and while it is waited for; one that does nothing until it is ended.
        popen, communicate = subprocess.Popen, subprocess.Popen.communicate
        self.scan("1.fits")
        self.backend.wait_for_dumps()
        for early in (True, False):

            def start(_: Any, **others: Any) -> Any:
                return popen([sys.executable, "-c", "import signal; signal.pause()"], **others)

            def ready(converter: Converter, early: bool = early) -> None:
                if early:
                    converter.give_up()

            def wait(converter: Any, told: str) -> Any:
                self.backend.server_stopping()
                try:
                    return communicate(converter, told, timeout=PATIENCE)
                finally:
                    converter.kill()

            with (
                self.subTest(early=early),
                mock.patch.object(Converter, "ready", ready),
                mock.patch("subprocess.Popen.communicate", wait),
                mock.patch("subprocess.Popen", start),
                self.assertRaises(BackendError) as caught,
            ):
                cast(Any, self.backend._recordings)._converter._given_up = False  # as ready() does
                self.backend.convert_data()
            self.assertEqual(str(caught.exception), "conversion given up")
            self.assertEqual(len(recordings_in(self.data)), 1)

    def test_a_converter_that_cannot_be_started(self) -> None:
        self.scan("1.fits")
        refused = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        with mock.patch("subprocess.Popen", side_effect=refused), self.assertRaises(BackendError) as caught:
            self.backend.convert_data()
        self.assertEqual(str(caught.exception), "conversion cannot be started: cannot allocate memory")
        self.assertEqual(len(recordings_in(self.data)), 1)


if __name__ == "__main__":
    unittest.main()
