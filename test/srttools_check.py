"""A program: makes a file of each kind with the simulator's own parts, and checks that srttools reads it.

    PYTHONPATH=. python -m test.srttools_check [FILE...]

Run it with a Python that has srttools 0.7.2, astropy before 7.1 and numpy before 2.3: later versions break the programs
of srttools. Twisted is not needed. With FILEs it reads those instead, and prints what is in them. Exit status 0 if the
values are those that were put in. unittest does not collect it, because srttools is not required.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.time import Time
from astropy.utils import iers

from discosbackend.simulator.fits.convert import convert
from discosbackend.simulator.instrument.channels import levels
from discosbackend.simulator.instrument.model import Channel, Setup
from discosbackend.simulator.instrument.profiles import instrument_of
from discosbackend.simulator.recording.dump_files import DIODE, RecordingWriter, give_name
from discosbackend.simulator.signal.sky import REST_FREQUENCIES, Line, Sky, Source
from discosbackend.simulator.signal.spectra import Spectra
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

from .metadata_files import azimuth_at, declination_at, write_metadata

# Some instant with a fraction of a second that no float has: 2026-11-21T19:25:50.1234567.
BEGINS = Ticks(17952891501234567)

# K of continuum, and a line that is nowhere near the middle of a bin.
LEVEL = 20.0
VELOCITY = -350.0
PEAK = 40.0


def setup_of(instrument: str, name: str, *, bins: int | None = None, seed: int = 7) -> Setup:
    """What an acquisition of a configuration is made with."""
    configuration = instrument_of(instrument).configurations[name]
    receiver, bins = configuration.receiver, bins or configuration.bins
    tsys, marks = levels(receiver, seed)
    hands: Sequence[tuple[str, ...]] = [("L", "R")] if configuration.stokes else [("L",), ("R",)]
    return Setup(
        instrument=instrument,
        configuration=name,
        seed=seed,
        acquisition=0,
        integration=configuration.integration,
        attenuation=configuration.attenuation,
        receiver=receiver,
        response=configuration.response,
        channels=tuple(
            Channel(feed, hand, configuration.start_frequency, configuration.bandwidth, bins)
            for feed in configuration.feeds
            for hand in hands
        ),
        tsys=tsys,
        marks=marks,
    )


def line_of(setup: Setup) -> Line:
    """Water, five bins wide but no narrower than 2 MHz."""
    channel = setup.channels[0]
    rest = REST_FREQUENCIES["water"]
    width = max(2.0, 5 * channel.bandwidth / channel.bins)
    return Line(rest, width=width / rest * 299792.458, peak=PEAK, velocity=VELOCITY)


def recorded(folder: Path, setup: Setup, sky: Sky, dumps: int) -> Path:
    """Record so many dumps of a sky; the recording."""
    recording = RecordingWriter.begin(folder, setup, BEGINS, sky)
    spectra = Spectra(setup)
    values = spectra.buffers()
    for number in range(dumps):
        spectra.fill(number, sky, values)
        recording.write(number, DIODE * sky.diode_at(number), values.data.cast("B"))
    recording.finish()
    return recording.folder


class Read:
    """A file as srttools reads it, and the checks that hold for every kind."""

    def __init__(self, path: Path, setup: Setup, dumps: int) -> None:
        from srttools.io import read_data  # of another Python

        self.path, self.setup = path, setup
        self.table = read_data(str(path))
        self.inputs = [
            (f"Feed{channel.feed}_{hand}CP", channel, number)
            for channel in setup.channels
            for hand, number in zip(channel.polarisations, channel.inputs, strict=True)
        ]
        self.on = np.asarray(self.table["flag_cal"]) == 1
        self._check_channels()
        self._check_times(dumps)

    def _check_channels(self) -> None:
        names = {name for name in self.table.colnames if name.startswith("Feed") and "-" not in name}
        wanted = {name for name, _, _ in self.inputs}
        stokes = {f"Feed{each.feed}_{part}" for each in self.setup.channels if each.stokes for part in "QU"}
        assert names == wanted | stokes, f"channels {sorted(names)} instead of {sorted(wanted | stokes)}"
        for name, channel, number in self.inputs:
            meta = self.table[name].meta
            sky = self.setup.receiver.local_oscillator + channel.start_frequency
            close(meta["frequency"].to_value("MHz"), sky, 1e-9, f"{name}: frequency")
            close(meta["bandwidth"].to_value("MHz"), channel.bandwidth, 1e-9, f"{name}: bandwidth")
            close(meta["cal_mark_temp"].to_value("K"), self.setup.marks[number], 1e-9, f"{name}: mark")
            close(meta["integration_time"].to_value("ms"), self.setup.integration, 1e-9, f"{name}: ms a dump")
            assert meta["feed"] == channel.feed, f"{name}: feed {meta['feed']}"

    def _check_times(self, dumps: int) -> None:
        assert len(self.table) == dumps, f"{len(self.table)} rows instead of {dumps}"
        whole, rest = divmod(int(BEGINS), TICKS_PER_SECOND)
        begin = Time(whole, rest / TICKS_PER_SECOND, format="unix", scale="utc")
        step = self.setup.integration / 1000
        middles = begin + (np.arange(dumps) + 0.5) * step / 86400
        off = (Time(np.asarray(self.table["time"]), format="mjd", scale="utc") - middles).to_value("us")
        assert np.abs(off).max() < 1, f"times are off by {np.abs(off).max()} us"

    def counts(self, name: str) -> Any:
        """The values of an input: a row a dump, a column a bin."""
        values = np.asarray(self.table[name], dtype=float)
        return values.reshape(len(values), -1)

    def kelvin(self, name: str, number: int) -> Any:
        """The spectrum in K, calibrated by the diode: what is seen while it is off."""
        counts = self.counts(name) - self.setup.response.zero
        off = counts[~self.on].mean(axis=0)
        return off * self.setup.marks[number] / (counts[self.on].mean(axis=0) - off)

    def check_levels(self) -> None:
        """Tsys and source come out of the diode, and Tsys stands in the file."""
        for name, _, number in self.inputs:
            kelvin = np.median(self.kelvin(name, number))
            close(kelvin, self.setup.tsys[number] + LEVEL, 0.01, f"{name}: Tsys + source by the diode, K")

    def check_temperatures(self) -> None:
        """The reader's temperatures are Tsys. With full Stokes it has them of as many inputs as sections."""
        for name, _, number in self.inputs[: len(self.setup.channels)]:
            kelvin = np.median(self.table[f"{name}-Temp"])
            close(kelvin, self.setup.tsys[number], 1e-9, f"{name}: temperature, K")

    def check_line(self) -> None:
        """The line is at its frequency, and as high and wide as it was put in."""
        line = line_of(self.setup)
        for name, channel, number in self.inputs:
            width = channel.bandwidth / channel.bins
            frequencies = self.table[name].meta["frequency"].to_value("MHz")
            frequencies = frequencies + width * (np.arange(channel.bins) + 0.5)
            near = np.abs(frequencies - line.frequency) < 2 * line.width_mhz
            kelvin = self.kelvin(name, number)
            excess = kelvin - np.median(kelvin)
            highest = np.argmax(np.where(self._sound(channel), excess, 0))
            assert near[highest], f"{name}: the highest is at {frequencies[highest]} MHz"
            centre = np.sum(frequencies[near] * excess[near]) / np.sum(excess[near])
            assert abs(centre - line.frequency) < width, f"{name}: line at {centre}, not {line.frequency} MHz"
            area = np.sum(excess[near]) * width
            wanted = line.peak * line.width_mhz * np.sqrt(np.pi / np.log(2)) / 2
            close(area, wanted, 0.05, f"{name}: area of the line, K MHz")

    @staticmethod
    def _sound(channel: Channel) -> Any:
        """The bins that are neither at the band's edges nor the DC bin."""
        place = np.arange(channel.bins) / channel.bins
        return (place > 0.05) & (place < 0.95)

    def check_offsets(self) -> None:
        """Each feed looks as far from the first as the receiver's offsets say."""
        for feed in {channel.feed for channel in self.setup.channels} - {0}:
            both = [np.asarray(self.table[axis])[:, [0, feed]] for axis in ("ra", "dec")]
            places = SkyCoord(*both, unit="rad")
            apart = np.median(places[:, 0].separation(places[:, 1]).arcmin)
            close(apart, np.hypot(*self.setup.receiver.offsets[feed]), 0.01, f"feed {feed}: offset, arcmin")

    def as_scan(self) -> Any:
        """The same file as a Scan, which sums the bins it likes."""
        from srttools.scan import Scan  # of another Python

        table = Scan(str(self.path), nosave=True, nosub=True, norefilt=False, plot=False)
        for name, _, _ in self.inputs:
            light = np.asarray(table[name], dtype=float)
            assert light.shape == (len(self.table),), f"{name}: Scan has {light.shape}"
            assert np.isfinite(light).all(), f"{name}: Scan has what is no number"
        return table

    def light(self, table: Any, name: str, base: Any, kelvin: float) -> Any:
        """The light curve of a Scan in K above its baseline, which a Scan of spectra has lost.

        `base` are the dumps that show `kelvin` in all, from which follows how many counts make one.
        """
        from srttools.scan import interpret_frequency_range  # as above

        light, counts = np.asarray(table[name], dtype=float), self.counts(name)
        first, end = 0, 1
        if (bins := counts.shape[1]) > 1:
            width = self.table[name].meta["bandwidth"].to_value("MHz")
            first, end = interpret_frequency_range(None, width, bins)[2:]
        in_all = counts[base, first:end].sum(axis=1).mean()
        return (light - np.median(light[base])) * kelvin / in_all

    def check_scan_of_diode(self) -> None:
        """In the Scan, too, the diode makes the step it should make."""
        table = self.as_scan()
        for name, _, number in self.inputs:
            kelvin = self.light(table, name, ~self.on, self.setup.tsys[number] + LEVEL)
            step = kelvin[self.on].mean()
            close(step, self.setup.marks[number], 0.02, f"{name}: step of the diode in Scan, K")


def close(found: float, wanted: float, relative: float, what: str) -> None:
    """That two numbers agree."""
    assert abs(found - wanted) <= relative * abs(wanted), f"{what}: {found} instead of {wanted}"


# -- the kinds ------------------------------------------------------------------------------------------


def calibrated(folder: Path, setup: Setup, dumps: int = 60, line: bool = True) -> Read:
    """A file of a source with a line and the noise diode on for every other dump."""
    source = Source(LEVEL, (line_of(setup),) if line else (), feeds=tuple(range(7)))
    sky = replace(Sky().with_source("water", source), interleave=1)
    done = convert(recorded(folder, setup, sky, dumps))
    assert done.written is not None and not done.warnings, done.warnings
    read = Read(done.written, setup, dumps)
    read.check_levels()
    if line:
        read.check_line()
    read.check_offsets()
    read.check_scan_of_diode()
    return read


def two_inputs(folder: Path) -> None:
    """2 inputs"""
    calibrated(folder, setup_of("sardara", "SK00")).check_temperatures()


def fourteen_inputs(folder: Path) -> None:
    """14 inputs"""
    calibrated(folder, setup_of("sardara", "SK77")).check_temperatures()


def full_stokes(folder: Path) -> None:
    """full Stokes"""
    setup = setup_of("sardara", "SK00S")
    read = calibrated(folder, setup)
    read.check_temperatures()
    root = np.sqrt(read.counts("Feed0_LCP") * read.counts("Feed0_RCP"))
    for part in "QU":
        share = np.abs(read.counts(f"Feed0_{part}") / root).mean()
        wanted = setup.response.cross
        assert 0.3 * wanted < share < 1.5 * wanted, f"{part}: {share} of the root of L R"


def full_stokes_of_all(folder: Path) -> None:
    """full Stokes, 7 feeds"""
    calibrated(folder, setup_of("sardara", "SK77S")).check_temperatures()


def many_bins(folder: Path) -> None:
    """16384 bins"""
    calibrated(folder, setup_of("sardara", "SK00", bins=16384)).check_temperatures()


def skarab(folder: Path) -> None:
    """SKARAB, a band that does not begin at 0"""
    calibrated(folder, setup_of("skarab", "SKARAB_11"), line=False).check_temperatures()


def total_power(folder: Path) -> None:
    """total power"""
    calibrated(folder, setup_of("totalpower", "TP77"), line=False).check_temperatures()
    calibrated(folder, setup_of("totalpower", "TP00"), line=False).check_temperatures()


def merged_file(folder: Path, setup: Setup, dumps: int) -> Path:
    """Make a file that is merged with a metadata file; its path."""
    name = folder / "tmp" / "20261121_001_001.fits"
    whole, rest = divmod(int(BEGINS), TICKS_PER_SECOND)
    begin = Time(whole, rest / TICKS_PER_SECOND, format="unix", scale="utc")
    write_metadata(name, setup, float(begin.mjd), 3.2, late=-0.11)
    sky = replace(Sky().with_source("water", Source(LEVEL, (line_of(setup),))), interleave=1)
    recording = recorded(folder / "data", setup, sky, dumps)
    give_name(recording, str(name))
    done = convert(recording)
    assert done.written == folder / name.name and not done.warnings, done
    return done.written


def merged(folder: Path) -> None:
    """merged with a metadata file"""
    setup, dumps = setup_of("sardara", "SK00"), 75
    read = Read(merged_file(folder, setup, dumps), setup, dumps)
    read.check_levels()
    read.check_line()
    read.check_scan_of_diode()
    seconds = (np.arange(dumps) + 0.5) * 0.04
    for column, wanted in (("az", azimuth_at(seconds)), ("dec", declination_at(seconds))):
        off = np.abs(np.asarray(read.table[column])[:, 0] - wanted).max()
        assert off < 1e-7, f"{column} is off by {off} rad"
    assert read.table.meta["SOURCE"] == "made up" and read.table.meta["SubScanID"] == 3


def scan(folder: Path) -> None:
    """a scan over a drifting source"""
    setup, dumps = setup_of("sardara", "SX00"), 300
    source = Source(LEVEL, transit=6.1, crossing=2.0)
    done = convert(recorded(folder, setup, Sky().with_source("3C 84", source), dumps))
    assert done.written is not None and not done.warnings, done.warnings
    read = Read(done.written, setup, dumps)
    assert read.table.meta["SOURCE"] == "3C 84"
    table = read.as_scan()
    along = np.asarray(read.table["ra"])[:, 0] - read.table.meta["RA"].to_value("rad")
    along = np.degrees(along * np.cos(np.asarray(read.table["dec"])[:, 0])) * 60
    for name, _, number in read.inputs:
        kelvin = read.light(table, name, np.abs(along) > 1.5 * setup.receiver.beam, setup.tsys[number])
        strong = kelvin > LEVEL / 2
        close(kelvin.max(), LEVEL, 0.06, f"{name}: height of the source, K")
        close(np.ptp(along[strong]), setup.receiver.beam, 0.08, f"{name}: width of the source, arcmin")
        centre = np.sum(along[strong] * kelvin[strong]) / np.sum(kelvin[strong])
        assert abs(centre) < 0.02 * setup.receiver.beam, f"{name}: source {centre} arcmin off"


# The files on which the programs are run: instrument, configuration and what the programs call the backend.
_OBSERVATIONS = (
    ("sardara", "SK00", "SARDARA"),
    ("sardara", "SC00", "SARDARA"),
    ("sardara", "SP00", "SARDARA"),
    ("sardara", "SK77", "SARDARA"),
    ("sardara", "SK00S", "SARDARA"),
    ("skarab", "SKARAB_11", "SKARAB"),
    ("skarab2", "SKARAB_1", "SKARAB2"),
    ("totalpower", "TP77", "TP"),
    ("totalpower", "TP00", "TP"),
)

# Settings of astropy for the programs, as main() makes them for this process.
_ASTROPY = """
[utils.iers.iers]
auto_download = False
auto_max_age = 1e9
iers_degraded_accuracy = ignore
"""


def programs(folder: Path) -> None:
    """SDTpreprocess and SDTinspect"""
    dumps, files, wanted = 60, [], {}
    for instrument, name, backend in _OBSERVATIONS:
        setup = setup_of(instrument, name)
        source = Source(LEVEL, transit=1.2, crossing=0.4)
        done = convert(recorded(folder / name, setup, Sky().with_source("3C 84", source), dumps))
        assert done.written is not None, done
        files.append((done.written, setup))
        wanted[str(done.written)] = ("3C 84", setup, backend)
    setup = setup_of("sardara", "SK00")
    whole = merged_file(folder / "merged", setup, dumps)
    files.append((whole, setup))
    wanted[str(whole)] = ("made up", setup, "SARDARA")

    ran = _run("SDTpreprocess", folder, *(str(path) for path, _ in files))
    assert ran.returncode == 0, f"SDTpreprocess ends with {ran.returncode}: {ran.stderr[-1000:]}"
    for path, setup in files:
        _check_preprocessed(path.with_suffix(".hdf5"), setup, dumps)

    # Its exit status says nothing: srttools 0.7.2 hands a list to sys.exit(), which is 1 for any list.
    ran = _run("SDTinspect", folder, *sorted({str(path.parent) for path, _ in files}))
    table = folder / "table.csv"
    assert table.exists() and "Errors while opening" not in ran.stderr, f"SDTinspect: {ran.stderr[-1000:]}"
    with table.open(newline="", encoding="ascii") as lines:
        rows = {row["Sample File"]: row for row in csv.DictReader(lines)}
    assert rows.keys() == wanted.keys(), f"SDTinspect found {sorted(rows)} instead of {sorted(wanted)}"
    for name, (source_name, setup, backend) in wanted.items():
        row, channel = rows[name], setup.channels[0]
        texts = (row["Source"], row["Receiver"], row["Backend"], row["is_skydip"])
        assert texts == (source_name, setup.receiver.code, backend, "False"), f"SDTinspect: {name}: {texts}"
        sky = setup.receiver.local_oscillator + channel.start_frequency
        close(float(row["Frequency"]), sky, 1e-5, f"SDTinspect: {name}: frequency")
        close(float(row["Bandwidth"]), channel.bandwidth, 1e-5, f"SDTinspect: {name}: bandwidth")


def _run(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of srttools in a folder."""
    settings = folder / "settings"
    (settings / "astropy").mkdir(parents=True, exist_ok=True)
    (settings / "astropy" / "astropy.cfg").write_text(_ASTROPY, encoding="ascii")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(settings), "MPLBACKEND": "Agg"}
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _check_preprocessed(path: Path, setup: Setup, dumps: int) -> None:
    """Check what SDTpreprocess saves beside a file: a finite light curve for each input."""
    # It says nothing of a file whose kind it does not know.
    assert path.exists(), f"SDTpreprocess saved no {path.name}"
    table = Table.read(path)
    for channel in setup.channels:
        for hand in channel.polarisations:
            light = np.asarray(table[f"Feed{channel.feed}_{hand}CP"], dtype=float)
            assert light.shape == (dumps,) and np.isfinite(light).all(), f"{path.name}: {light}"
            assert np.ptp(light) > 0, f"{path.name}: a light curve without a source"


KINDS: tuple[Callable[[Path], None], ...] = (
    two_inputs,
    fourteen_inputs,
    full_stokes,
    full_stokes_of_all,
    many_bins,
    skarab,
    total_power,
    merged,
    scan,
    programs,
)


def tell(path: str) -> None:
    """Read a file, and say what srttools finds in it."""
    from srttools.io import read_data  # of another Python

    table = read_data(path)
    meta = table.meta
    print(f"{path}: {meta['SOURCE']}, {len(table)} rows, {meta['backend']}, {meta['receiver']}")
    for name in table.colnames:
        if name.startswith("Feed") and "-" not in name:
            meta = table[name].meta
            bins = table[name].shape[1:] or 1
            print(f"    {name}: {meta['frequency']:.6g}, {meta['bandwidth']:.6g}, {bins} bins")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Check every kind, or tell of the files. Exit status 1 if one of them is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m test.srttools_check", description=__doc__)
    parser.add_argument("files", metavar="FILE", nargs="*")
    options = parser.parse_args(arguments)
    files = [Path(path).absolute() for path in options.files]
    # srttools leaves a sample of its configuration in the current folder.
    os.chdir(tempfile.gettempdir())
    # The reader asks for the Earth's rotation where feeds are off the axis; what astropy brings will do.
    iers.conf.auto_download, iers.conf.auto_max_age = False, None
    iers.conf.iers_degraded_accuracy = "ignore"
    warnings.simplefilter("ignore")
    for path in files:
        tell(str(path))
    failed = 0
    for kind in KINDS if not options.files else ():
        with tempfile.TemporaryDirectory() as folder:
            try:
                kind(Path(folder))
            except AssertionError as problem:
                failed += 1
                print(f"{kind.__doc__}: {problem}", flush=True)
            else:
                print(f"{kind.__doc__}: as it was put in", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
