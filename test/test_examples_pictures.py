"""The pictures of docs/telescope-on-your-desk.md: their programs observe, read and compute what was put in.

Each observes for real, with a server of its own, but for shorter than when it makes a picture. Nothing is
plotted unless matplotlib is there, which is no requirement. The page's own programs are tried here as well.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import os
import re
import runpy
import subprocess
import sys
import tempfile
import types
import unittest
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from discosbackend.simulator.instrument.profiles import instrument_of
from discosbackend.simulator.recording.dump_reader import RecordingReader
from discosbackend.simulator.signal.sky import load_sky

from . import forking
from .in_memory import fewer, quiet
from .recordings import ForkedConversion, heard_in_child
from .serving import ROOT, environment, served
from .settings import LONG, long_only
from .test_docs import file_in_the_docs, run, temporary_folder
from .test_simulator_acquisition import InstrumentMixin

EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "telescope-on-your-desk.md"
PICTURES = ("spectrum", "scan", "noise")

# ms; a 5 ms file comes with it.
INTEGRATIONS = (5, 10, 20, 40)

programs: dict[str, types.ModuleType] = {}
observed: dict[str, Any] = {}


class ForkedServers:
    """In place of the module subprocess for the programs: their servers are forked processes (see forking.py).

    test_a_server_that_does_not_start starts a new interpreter.
    """

    PIPE = subprocess.PIPE

    @staticmethod
    def Popen(command: Sequence[str], *, stdout: int, text: bool) -> subprocess.Popen[str] | forking.Process:
        """Start a server. Its standard output is a pipe of text."""
        assert text and stdout == subprocess.PIPE
        if forking.can_start(command, environment()):
            return forking.start(command, ROOT, environment())
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def setUpModule() -> None:
    """Observe, all at the same time: it is the instruments that take long."""
    quiet()
    sys.path.insert(0, str(EXAMPLES))
    try:
        programs["telescope"] = importlib.import_module("telescope")
        programs.update({name: importlib.import_module(f"telescope_{name}") for name in PICTURES})
    finally:
        sys.path.remove(str(EXAMPLES))
    with mock.patch.object(programs["telescope"], "subprocess", ForkedServers), ThreadPoolExecutor() as pool:
        futures: dict[str, Future[Any]] = {
            "spectrum": pool.submit(programs["spectrum"].observe, 1.0),
            "scan": pool.submit(programs["scan"].observe, 4.0),
            "noise": pool.submit(programs["noise"].observe, INTEGRATIONS, 10, 1.28),
        }
    observed.update({name: future.result() for name, future in futures.items()})


def tearDownModule() -> None:
    observed.clear()


class EveryPictureTests(unittest.TestCase):
    def test_every_program_is_tested_and_on_the_page(self) -> None:
        names = {path.stem for path in EXAMPLES.glob("telescope*.py")}
        self.assertEqual(names, {"telescope", *(f"telescope_{name}" for name in PICTURES)})
        page = PAGE.read_text(encoding="utf-8")
        for name in PICTURES:
            with self.subTest(name):
                self.assertIn(f"]({name}.png)", page)
                self.assertIn(f"(../examples/telescope_{name}.py)", page)
                self.assertLess((ROOT / "docs" / f"{name}.png").stat().st_size, 120_000)

    @unittest.skipUnless(importlib.util.find_spec("matplotlib"), "matplotlib is not installed")
    def test_they_are_plotted(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder) / f"{name}.png") for name in PICTURES]
            spectrum, scan, noise = (programs[name] for name in PICTURES)
            on, off = observed["spectrum"]["on"], observed["spectrum"]["off"]
            spectrum.plot(on, spectrum.reduce(on, off), paths[0])
            scan.plot(observed["scan"], scan.reduce(observed["scan"]), paths[1])
            files = observed["noise"]
            noise.plot(noise.of_a_bin(list(files.values())), noise.of_the_sum(files["long"]), paths[2])
            for path in paths:
                self.assertGreater(Path(path).stat().st_size, 10_000)


class GaussianTests(unittest.TestCase):
    @given(
        height=st.floats(0.01, 1e4),
        centre=st.floats(-3, 3),
        width=st.floats(0.5, 3.0),
        way=st.sampled_from([1.0, -1.0]),
        zero=st.floats(-1e4, 1e4),
    )
    @fewer(40)
    def test_what_is_one_is_found(self, *, height: float, centre: float, width: float, way: float, zero: float) -> None:
        x = zero + way * np.linspace(-8, 8, 161)
        y = height * np.exp(-4 * np.log(2) * ((x - zero - centre) / width) ** 2)
        found = programs["telescope"].gaussian(x, y)
        np.testing.assert_allclose(found, (height, zero + centre, width), rtol=1e-6, atol=1e-6)


class TelescopeTests(unittest.TestCase):
    def test_what_is_read(self) -> None:
        off = observed["spectrum"]["off"]
        dumps = off.counts.shape[1]
        # A stop that is more than half a dump late adds dumps.
        self.assertGreaterEqual(dumps, 25)
        self.assertEqual(off.counts.shape, (2, dumps, 16384))
        self.assertEqual(off.integration, 0.04)
        np.testing.assert_allclose(off.seconds, 0.04 * np.arange(dumps), atol=1e-6)
        np.testing.assert_array_equal(off.diode, np.arange(dumps) % 2 == 0)
        np.testing.assert_allclose(off.frequencies[[0, -1]], [1000, 1500 - 500 / 16384])
        self.assertTrue(((off.tsys >= 22) & (off.tsys <= 30)).all(), off.tsys)
        self.assertTrue(((off.marks >= 2) & (off.marks <= 3)).all(), off.marks)
        self.assertFalse(observed["spectrum"]["on"].diode.any())

    @long_only
    def test_the_same_commands_give_the_same_data_from_another_server(self) -> None:
        again = programs["noise"].observe(INTEGRATIONS[:1], 10, 0.08)
        # A late stop adds dumps.
        np.testing.assert_array_equal(again["5"].counts[:, :10], observed["noise"]["5"].counts[:, :10])

    def test_a_server_that_does_not_start(self) -> None:
        # What it says is not for the output of the tests.
        unheard = functools.partial(subprocess.Popen, stderr=subprocess.DEVNULL)
        with (
            mock.patch.object(subprocess, "Popen", unheard),
            self.assertRaisesRegex(RuntimeError, "the server did not start"),
        ):
            programs["telescope"].Telescope("no-such-instrument")


class AgainTests(InstrumentMixin):
    def test_the_same_commands_give_the_same_data(self) -> None:
        # What came over sockets and through a file is what an instrument of the same seed records here.
        self.backend = self.make("sardara", seed=1)
        self.backend.set_configuration("SK00")
        self.backend.set_integration(INTEGRATIONS[0])
        with RecordingReader(self.acquire(0.05)) as recorded:
            again = [np.frombuffer(recorded.values(dump.place), "<i4").copy() for dump in recorded.dumps]
        found = np.reshape(again, (10, 2, 1024)).swapaxes(0, 1)
        np.testing.assert_array_equal(found, observed["noise"]["5"].counts[:, :10])


class SpectrumTests(unittest.TestCase):
    def setUp(self) -> None:
        self.program = programs["spectrum"]
        self.on, self.off = observed["spectrum"]["on"], observed["spectrum"]["off"]
        self.found = self.program.reduce(self.on, self.off)

    def test_tsys_is_what_the_file_says(self) -> None:
        np.testing.assert_allclose(self.found.tsys, self.off.tsys, rtol=0.01)

    def test_the_noise_is_that_of_the_radiometer_equation(self) -> None:
        samples = self.on.width * 1e6 * self.on.integration * len(self.on.seconds)
        # Of on and off, and of the mean of both inputs.
        expected = math.hypot(*self.off.tsys) / 2 * math.sqrt(2 / samples)
        # 220 bins tell it to 5 %.
        self.assertAlmostEqual(self.found.noise / expected, 1, delta=0.2)

    def test_the_line_is_where_it_was_put(self) -> None:
        # Five times of how far noise moves a fit (Landman, Roussel-Dupre and Tanigawa 1982, ApJ 261, 732).
        width, peak = self.program.WIDTH, self.program.PEAK
        step = 5 * self.found.noise * math.sqrt(6.4 / width)
        self.assertAlmostEqual(self.found.peak, peak, delta=1.2 * step)
        self.assertAlmostEqual(self.found.velocity, self.program.VELOCITY, delta=0.7 * width / peak * step)
        self.assertAlmostEqual(self.found.width, width, delta=1.6 * width / peak * step)

    def test_it_is_in_both_inputs(self) -> None:
        ratio = self.on.counts.mean(axis=1) / self.off.counts.mean(axis=1)
        at = int(np.searchsorted(-self.found.velocities, -self.program.VELOCITY))
        for number in range(2):
            excess = ratio[number, at - 8 : at + 8].mean() / np.median(ratio[number]) - 1
            self.assertAlmostEqual(excess * self.off.tsys[number], self.program.PEAK, delta=0.4)


class ScanTests(unittest.TestCase):
    def setUp(self) -> None:
        self.program = programs["scan"]
        self.found = self.program.reduce(observed["scan"])

    def test_the_telescope_goes_over_the_source(self) -> None:
        offsets = observed["scan"].offsets
        # A stop that is more than half a dump late, on a busy machine, adds dumps.
        self.assertGreaterEqual(len(offsets), 100)
        # Four beams to either side, but for half a dump.
        np.testing.assert_allclose(offsets[[0, 99]], np.array([-3.96, 3.96]) * self.program.BEAM, rtol=1e-3)
        np.testing.assert_allclose(np.diff(offsets), np.diff(offsets).mean(), rtol=1e-3)

    def test_height_place_and_width(self) -> None:
        beam = self.program.BEAM
        np.testing.assert_allclose(self.found.heights, self.program.LEVEL, rtol=0.015)
        np.testing.assert_allclose(self.found.widths, beam, rtol=0.015)
        # A dump is 0.08 beams long.
        np.testing.assert_allclose(self.found.centres, 0, atol=0.01 * beam)


class NoiseTests(unittest.TestCase):
    def test_a_bin_goes_with_the_root_of_the_time(self) -> None:
        files = observed["noise"]
        found = programs["noise"].of_a_bin([files[str(each)] for each in INTEGRATIONS])
        np.testing.assert_allclose(found.seconds, np.array(INTEGRATIONS) / 1000)
        self.assertAlmostEqual(found.bandwidth, 1500 / 1024)
        # 11000 independent values tell it to 0.7 %, and the slope to 0.004.
        np.testing.assert_allclose(found.measured, found.expected, rtol=0.035)
        self.assertAlmostEqual(found.slope, -0.5, delta=0.02)

    def test_the_sum_begins_on_its_line(self) -> None:
        found = programs["noise"].of_the_sum(observed["noise"]["long"])
        np.testing.assert_allclose(found.seconds, 0.005 * 2.0 ** np.arange(6))
        # 340 independent values, and half as many.
        np.testing.assert_allclose((found.measured / found.expected)[:2], 1, atol=0.25)
        # The slope of the band leaves this much of its 1500 MHz.
        self.assertTrue(600 < found.bandwidth < 1100, found.bandwidth)

    def test_drift_leaves_the_line(self) -> None:
        # Files made up here: noise of a part in a thousand, then the same with a gain that goes up.
        random = np.random.default_rng(1)
        long = observed["noise"]["long"]
        counts = 1e6 * (1 + 1e-3 * random.standard_normal((2, 4096, 16)))
        ramp = 1 + np.linspace(0, 0.1, 4096)[:, np.newaxis]
        for gain, limits in ((1.0, (0.5, 1.5)), (ramp, (3.0, math.inf))):
            arrays = {name: getattr(long, name) for name in long.__dataclass_fields__}
            found = programs["noise"].of_the_sum(type(long)(**{**arrays, "counts": counts * gain}))
            ratio = found.measured[-1] / found.measured[0] * math.sqrt(found.seconds[-1] / found.seconds[0])
            self.assertTrue(limits[0] < ratio < limits[1], ratio)


class PageTests(unittest.TestCase):
    """What a reader of the page does."""

    def run_program(self, folder: Path, *command: str) -> tuple[int, str, str]:
        """Exit status and output of a program in a folder; without --long in a fork, which has astropy already."""
        if LONG:
            done = run([sys.executable, *command], folder)
            return done.returncode, done.stdout, done.stderr

        def work() -> None:
            os.chdir(folder)
            sys.argv[:] = command
            subprocess.Popen = ForkedConversion  # type: ignore[misc, assignment]
            runpy.run_path(command[0], run_name="__main__")

        return heard_in_child(work)

    def test_from_nothing_to_a_file(self) -> None:
        folder = temporary_folder(self)
        for name in ("observe.py", "read.py"):
            code = file_in_the_docs(name)
            (folder / name).write_text(code.replace("sleep(2)", "sleep(0.3)"), encoding="utf-8")
        with served("--simulate", "sardara", "--data", "discos-data", cwd=folder) as server:
            done = self.run_program(folder, "observe.py", f"127.0.0.1:{server.address[1]}")
            self.assertEqual(done, (0, "", ""), server.log())
        status, said, complaints = self.run_program(folder, "read.py", "discos-data/first.fits")
        self.assertEqual((status, complaints), (0, ""))
        section = r": 1024 bins of spectra, 21235 to 22735 MHz\n    counts: \[.+\]\n"
        wanted = r"\d+ dumps, the first at MJD 6\d{4}\.\d+\nCh0" + section + "Ch1" + section
        self.assertRegex(said, rf"\A{wanted}\Z")

    def test_in_a_program_of_ones_own(self) -> None:
        folder = temporary_folder(self)
        (folder / "simulated.py").write_text(file_in_the_docs("simulated.py"), encoding="utf-8")
        self.assertEqual(self.run_program(folder, "simulated.py"), (0, "50 dumps\n", ""))
        self.assertTrue((folder / "recordings" / "w3.fits").exists())

    def test_the_sky(self) -> None:
        path = temporary_folder(self) / "sky.toml"
        path.write_text(file_in_the_docs("sky.toml"), encoding="utf-8")
        sky = load_sky(path)
        self.assertEqual(list(sky.sources), ["galaxy", "3C 147"])

    def test_the_rates(self) -> None:
        rows = re.findall(
            r"^\| `(\w+)` \| (\d+) × (\d+)[^|]*\| ([\d.]+) \| ([\d.]+) \|$",
            PAGE.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        self.assertGreater(len(rows), 5)
        known = {
            **instrument_of("discos").configurations,
            **instrument_of("totalpower").configurations,
        }
        for name, inputs, bins, told_mb, told_gb in rows:
            with self.subTest(name):
                configuration = known[name]
                self.assertEqual((configuration.inputs, configuration.bins), (int(inputs), int(bins)))
                values = int(inputs) * int(bins) * (2 if configuration.stokes else 1)
                rate = 4 * values / 0.04 / 1e6
                self.assertAlmostEqual(float(told_mb) / rate, 1, delta=0.03)
                self.assertAlmostEqual(float(told_gb) / (rate * 3.6), 1, delta=0.03)


if __name__ == "__main__":
    unittest.main()
