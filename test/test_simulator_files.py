"""What convert-data converts, and what becomes of recordings that cannot be."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import unittest
from pathlib import Path
from unittest import mock

from astropy.io import fits

from discosbackend.errors import BackendError
from discosbackend.simulator.files import Files
from discosbackend.simulator.recording import name_of, recordings_in
from .serving import PATIENCE
from .test_simulator_acquisition import InstrumentMixin


class ChoiceTests(InstrumentMixin):
    """Which recordings a convert-data takes; the converter only notes them here, and removes them."""

    def setUp(self) -> None:
        super().setUp()
        self.converted: list[list[str | None]] = []
        self.refusals: list[str] = []
        patch = mock.patch.object(Files, "_run_converter", lambda _, folders: self.run_converter(folders))
        patch.start()
        self.addCleanup(patch.stop)

    def run_converter(self, folders: list[Path]) -> list[str]:
        """In place of the converter."""
        self.converted.append([name_of(folder) for folder in folders])
        if not self.refusals:
            for folder in folders:
                shutil.rmtree(folder)
        return self.refusals

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

        def slowly(folders: list[Path]) -> list[str]:
            inside.set()
            self.assertTrue(go_on.wait(PATIENCE))
            return self.run_converter(folders)

        with mock.patch.object(Files, "_run_converter", lambda _, folders: slowly(folders)):
            thread = threading.Thread(target=self.backend.convert_data)
            thread.start()
            self.assertTrue(inside.wait(PATIENCE))
            self.backend.set_filename("/2.fits")
            go_on.set()
            thread.join(PATIENCE)
        self.assertEqual(self.converted, [["/1.fits"]])
        self.assertEqual(name_of(self.scan()), "/2.fits")

    def test_what_was_refused_is_told_and_tried_again(self) -> None:
        self.scan("/1.fits")
        self.refusals = ["disk full: /1.fits", "another"]
        with self.assertRaises(BackendError) as caught:
            self.backend.convert_data()
        self.assertEqual(str(caught.exception), "disk full: /1.fits")
        self.assertEqual(self.backend.status()[1], "conversion failed: disk full: /1.fits")
        self.refusals = []
        self.backend.convert_data()
        self.assertEqual(self.converted, [["/1.fits"]] * 2)
        self.assertEqual(self.backend.status()[1], "ok")


class ConverterTests(InstrumentMixin):
    """With the converter itself, a process of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.backend.set_configuration("SK00")
        self.site = self.data.parent / "site" / "tmp"

    def scan(self, name: str) -> None:
        self.acquire(0.2)
        self.backend.set_filename(f"{self.site}/{name}")

    def test_files_one_folder_up(self) -> None:
        self.scan("1.fits")
        self.scan("2.fits")
        with self.assertLogs("discosbackend.simulator.files", "INFO") as logs:
            self.backend.convert_data()
        for name in ("1.fits", "2.fits"):
            with fits.open(self.site.parent / name) as file:
                self.assertEqual(len(file["DATA TABLE"].data), 5)
            self.assertTrue(any(line.endswith(f"{name}: 5 dumps written") for line in logs.output), logs.output)
        names = sorted(path.name for path in self.site.parent.iterdir() if path.is_file())
        self.assertEqual(names, ["1.fits", "2.fits"])
        self.assertEqual(recordings_in(self.data), [])
        self.assertEqual(self.backend.state()["files"]["waiting"], [])

    def test_below_a_root(self) -> None:
        root = self.data.parent / "root"
        self.backend = self.make(root=root)
        self.acquire(0.2)
        self.backend.set_filename("/roach2/tmp/a.fits")
        self.backend.convert_data()
        self.assertTrue((root / "roach2" / "a.fits").exists())

    def test_one_that_cannot_be_written_stays_and_the_others_are_written(self) -> None:
        self.scan("1.fits")
        wrong = self.data.parent / "file"
        wrong.write_text("not a folder")
        self.acquire(0.2)
        self.backend.set_filename(f"{wrong}/tmp/2.fits")
        with self.assertLogs("discosbackend.simulator.files", "ERROR"), self.assertRaises(BackendError) as caught:
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
            self.assertLogs("discosbackend.simulator.files", "WARNING"),
            self.assertRaises(BackendError) as caught,
        ):
            self.backend.convert_data()
        self.assertRegex(str(caught.exception), r"conversion ended early with status \d+")
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
