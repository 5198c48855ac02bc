"""The layout of FITS files: whole by themselves, and merged with a metadata file, column by column."""

from __future__ import annotations

import gzip
import logging
import math
import os
import shutil
import tempfile
import unittest
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from astropy.config import ConfigItem
from astropy.io import fits
from astropy_iers_data import IERS_A_FILE
from hypothesis import given, strategies

from discosbackend.simulator.errors import RecordingError
from discosbackend.simulator.fits import layout as fits_layout
from discosbackend.simulator.fits import metadata
from discosbackend.simulator.fits.convert import Converted, convert
from discosbackend.simulator.fits.layout import mjd
from discosbackend.simulator.fits.pointing import Pointing
from discosbackend.simulator.instrument.model import Channel, Receiver, Setup
from discosbackend.simulator.recording.dump_reader import RecordingReader
from discosbackend.simulator.signal.sky import Sky, Source
from discosbackend.ticks import Ticks

from .metadata_files import azimuth_at, declination_at, metadata_tables, parallactic_at, write_metadata
from .recordings import BEGINS, CHANNELS, STOKES, TOTAL_POWER, opened, record, setup_with, values_of
from .settings import LONG, long_only

DAY = 86400 * 10**7
ROW = 0.04

# When, and azimuth and elevation of the source in degrees, by astropy 8.0. In the middle is a leap second.
POSITIONS = (
    (datetime(2005, 7, 4, 6, tzinfo=UTC), 335.21281066, 28.07277561),
    (datetime(2016, 12, 31, 12, tzinfo=UTC), 344.13915255, 60.77056318),
    (datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC), 8.22356842, 17.17175989),
    (datetime(2017, 1, 1, 0, 0, 1, tzinfo=UTC), 8.22691062, 17.17268244),
    (datetime(2020, 2, 29, 21, 30, tzinfo=UTC), 16.15700360, 20.57380075),
)
MILLIARCSECOND = math.radians(1 / 3.6e6)


def setUpModule() -> None:
    """Have astropy's settings at hand: it would look them up, and check them, for every card of every header."""
    kind = type(fits.conf)
    for name, item in dict(vars(kind)).items():
        if isinstance(item, ConfigItem):
            unittest.enterModuleContext(mock.patch.object(kind, name, item()))


class _Tables(Mapping[str, Any]):
    """Header and rows of every table by its name. Rows are made when they are asked for, which takes its time."""

    def __init__(self, hdus: fits.HDUList) -> None:
        self._hdus = {hdu.name: hdu for hdu in hdus}

    def __getitem__(self, name: str) -> tuple[fits.Header, Any]:
        return self._hdus[name].header, self._hdus[name].data

    def __iter__(self) -> Iterator[str]:
        return iter(self._hdus)

    def __len__(self) -> int:
        return len(self._hdus)


class FileTests(unittest.TestCase):
    """A folder for each test, and files in it."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by enterContext
        self.folder = Path(self.enterContext(folder))
        self.data = self.folder / "data"
        self.names: list[str] = []
        self.warnings: tuple[str, ...] = ()
        # Warnings are in what convert() returns.
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)

    def read(self, path: Path | None) -> Mapping[str, Any]:
        """Header and rows of every table by its name, after astropy has looked for mistakes in it."""
        assert path is not None
        self.assertEqual(path.stat().st_size % 2880, 0)
        hdus = self.enterContext(fits.open(path, memmap=False, checksum=True))
        hdus.verify("exception")
        self.names = [hdu.name for hdu in hdus]
        return _Tables(hdus)

    def whole(self, setup: Setup | None = None, dumps: int = 5, **others: Any) -> Mapping[str, Any]:
        """A file without metadata."""
        done = convert(record(self.data, setup, dumps, **others))
        self.warnings = done.warnings
        return self.read(done.written)

    def spectra(self, rows: Any, setup: Setup, numbers: list[int]) -> None:
        """Check every value of every channel."""
        for row, number in zip(rows, numbers, strict=True):
            values, first = values_of(setup, number), 0
            for place, channel in enumerate(setup.channels):
                wanted = values[first : first + channel.values]
                np.testing.assert_array_equal(np.atleast_1d(row[f"Ch{place}"]), wanted, f"{number} {place}")
                first += channel.values


class WholeTests(FileTests):
    def test_tables_in_their_order(self) -> None:
        tables = self.whole()
        # All of them can be read.
        self.assertEqual([name for name, (_, rows) in tables.items() if rows is None], ["PRIMARY"])
        self.assertEqual(
            self.names,
            [
                "PRIMARY",
                "SECTION TABLE",
                "RF INPUTS",
                "FEED TABLE",
                "DATA TABLE",
                "ANTENNA TEMP TABLE",
                "SERVO TABLE",
            ],
        )

    def test_primary(self) -> None:
        header, _ = self.whole(sky=Sky().with_source("3C 84", Source(5.0)))["PRIMARY"]
        for key, value in {
            "SOURCE": "3C 84",
            "ANTENNA": "SRT",
            "Receiver Code": "KKG",
            "Backend Name": "SARDARA",
            "RightAscension": math.radians(270.0),
            "Declination": math.radians(66.56),
            "VLSR": 0.0,
            "SubScanID": 1,
            "SubScanType": "TRACKING",
            "ScheduleName": "simulated",
            "DATE-OBS": "2026-11-21T19:25:50.123",
            "Acquisition Begin": "2026-11-21T19:25:50.1234567",
            "Acquisition Integration": 40,
        }.items():
            with self.subTest(key):
                self.assertEqual(header[key], value)
        self.assertIn("simulated by discosbackend", str(header["HISTORY"]))
        self.assertIn("seed 7, acquisition 3", str(header["HISTORY"]))

    def test_a_scan_is_called_one(self) -> None:
        sky = Sky().with_source("a", Source(5.0, transit=1.0, crossing=1.0))
        self.assertEqual(self.whole(sky=sky)["PRIMARY"][0]["SubScanType"], "RA")

    def test_texts_that_no_header_can_carry(self) -> None:
        sky = Sky().with_source("Ω\n" + "x" * 200, Source(5.0))
        setup = setup_with(receiver=replace(setup_with().receiver, code="ñ" * 90), instrument="y" * 300)
        header, _ = self.whole(setup, sky=sky)["PRIMARY"]
        self.assertTrue(header["SOURCE"].startswith("??xxx"))
        self.assertEqual(header["Backend Name"], "Y" * 40)
        self.assertEqual(self.whole()["PRIMARY"][0]["SOURCE"], "simulated sky")

    def test_section_table(self) -> None:
        for channels, kind, bins in (
            (CHANNELS, "spectra", 16),
            (STOKES, "stokes", 8),
            (TOTAL_POWER, "simple", 1),
        ):
            with self.subTest(kind):
                header, rows = self.whole(setup_with(channels))["SECTION TABLE"]
                self.assertEqual(header["Integration"], 40)
                self.assertEqual(list(rows["id"]), list(range(len(channels))))
                self.assertEqual(set(rows["type"]), {kind})
                self.assertEqual(set(rows["bins"]), {bins})
                self.assertEqual(list(rows["frequency"]), [each.start_frequency for each in channels])
                self.assertEqual(list(rows["bandWidth"]), [each.bandwidth for each in channels])
                self.assertEqual(list(rows["sampleRate"]), [2 * each.bandwidth for each in channels])
                for column in ("sampleRate", "frequency", "bandWidth"):
                    self.assertEqual(rows.columns[column].unit, "MHz")

    def test_rf_inputs(self) -> None:
        _, rows = self.whole(setup_with(STOKES))["RF INPUTS"]
        self.assertEqual(list(rows["feed"]), [0, 0, 3, 3])
        self.assertEqual(list(rows["section"]), [0, 0, 1, 1])
        self.assertEqual(list(rows["ifChain"]), [0, 1, 0, 1])
        self.assertEqual(list(rows["polarization"]), ["LCP", "RCP", "LCP", "RCP"])
        self.assertEqual(list(rows["calibrationMark"]), [50.0, 51.0, 56.0, 57.0])
        _, rows = self.whole()["RF INPUTS"]
        self.assertEqual(list(rows["frequency"]), [21285.0, 21285.0])
        self.assertEqual(list(rows["localOscillator"]), [21235.0, 21235.0])
        self.assertEqual(list(rows["bandWidth"]), [1500.0, 1500.0])
        self.assertEqual(list(rows["attenuation"]), [7.0, 7.0])
        units_of = {column.name: column.unit for column in rows.columns}
        self.assertEqual(units_of["localOscillator"], "MHz")
        self.assertEqual((units_of["attenuation"], units_of["calibrationMark"]), ("db", "K"))

    def test_what_the_sky_has_changed(self) -> None:
        sky = Sky().with_tsys(200.0, [1]).with_mark(9.0, [0])
        tables = self.whole(sky=sky)
        self.assertEqual(list(tables["RF INPUTS"][1]["calibrationMark"]), [9.0, 51.0])
        temperatures = tables["ANTENNA TEMP TABLE"][1]
        self.assertEqual((set(temperatures["Ch0"]), set(temperatures["Ch1"])), ({100.0}, {200.0}))

    def test_feed_table(self) -> None:
        _, rows = self.whole(setup_with(STOKES))["FEED TABLE"]
        self.assertEqual(list(rows["id"]), [0, 1, 2, 3])
        np.testing.assert_allclose(rows["xOffset"], np.radians(np.array([0, 2.31, 1.155, -1.155]) / 60))
        np.testing.assert_allclose(rows["yOffset"], np.radians(np.array([0, 0, 2.0, 2.0]) / 60))
        self.assertEqual(list(rows["relativePower"]), [1.0] * 4)
        self.assertEqual(self.warnings, ())

    def test_feeds_that_readers_would_not_take(self) -> None:
        def warned(receiver: Receiver) -> str:
            self.whole(setup_with(STOKES, receiver=receiver))
            return " ".join(self.warnings)

        receiver = setup_with().receiver
        self.assertIn("1 offsets: 3 are made up", warned(replace(receiver, offsets=((0.0, 0.0),))))
        offsets = ((0.0, 0.0), (1.0, 0.1), (-1.0, 0.0), (0.0, 1.0))
        self.assertIn("exactly 0", warned(replace(receiver, offsets=offsets)))
        self.assertIn("CCB", warned(replace(receiver, code="CCB")))

    def test_data_table(self) -> None:
        for channels in (CHANNELS, STOKES, TOTAL_POWER):
            setup = setup_with(channels)
            with self.subTest(len(channels)):
                header, rows = self.whole(setup, 7, sky=Sky(interleave=2))["DATA TABLE"]
                self.assertEqual([column.name for column in rows.columns[:10]], COLUMNS)
                self.assertEqual(
                    [column.format for column in rows.columns[10:]],
                    [f"{each.values}J" if each.values > 1 else "J" for each in channels],
                )
                self.assertEqual({column.unit for column in rows.columns[10:]}, {"count"})
                self.spectra(rows, setup, list(range(7)))
                self.assertEqual(list(rows["flag_cal"]), [1, 1, 0, 0, 1, 1, 0])
                self.assertEqual(set(rows["flag_track"]), {1})
                self.assertEqual(rows["weather"].shape, (7, 3))
                self.assertEqual(header["Acquisition Begin"], "2026-11-21T19:25:50.1234567")

    def test_times_are_exact(self) -> None:
        _, rows = self.whole(dumps=9, without=(2, 3))["DATA TABLE"]
        self.assertEqual(len(rows), 7)
        for time, number in zip(rows["time"], (0, 1, 4, 5, 6, 7, 8), strict=True):
            wanted = 40587 + Fraction(BEGINS + number * 400_000 + 200_000, DAY)
            self.assertLess(abs(Fraction(float(time)) - wanted) * 86400 * 10**6, 1)
        self.assertIn("2 dumps are missing of 9", self.warnings)

    def test_long_recordings_in_several_blocks(self) -> None:
        setup = setup_with((Channel(0, ("L",), 0.0, 1.0, 1),), integration=1)
        with mock.patch.object(fits_layout, "_BUFFER", 100_000):
            _, rows = self.whole(setup, 9000)["DATA TABLE"]
        np.testing.assert_array_equal(rows["Ch0"], np.arange(9000) - 0x40000000)
        np.testing.assert_allclose(np.diff(rows["time"]) * 86400, 0.001, atol=2e-6, rtol=0)
        self.assertTrue((np.abs(np.diff(rows["az"])) < 1e-6).all())

    def test_sections_that_differ_in_their_bins(self) -> None:
        setup = setup_with((CHANNELS[0], replace(CHANNELS[1], bins=32)))
        tables = self.whole(setup)
        self.spectra(tables["DATA TABLE"][1], setup, list(range(5)))
        self.assertEqual(list(tables["SECTION TABLE"][1]["bins"]), [16, 32])
        self.assertIn("sections differ in their bins", self.warnings[0])

    def test_the_size_is_known_before(self) -> None:
        """Room is set aside for it: any more would stay behind the last table."""
        name = self.folder / "tmp" / "run.fits"
        write_metadata(name, setup_with(), float(mjd(BEGINS)), 1.0)
        for dumps in (1, 5, 44, 45, 46):
            folder = record(self.data, dumps=dumps)
            with RecordingReader(folder) as recorded:
                for layout in (fits_layout.whole(recorded), metadata.merged(recorded, name)):
                    assert layout is not None
                    with tempfile.TemporaryFile() as file:
                        fits_layout.write(layout, recorded, file.fileno())
                        self.assertEqual(file.tell(), layout.size)

    def test_temperatures(self) -> None:
        _, rows = self.whole()["ANTENNA TEMP TABLE"]
        self.assertEqual([list(row) for row in rows], [[100.0, 101.0]] * 2)
        _, rows = self.whole(setup_with(STOKES))["ANTENNA TEMP TABLE"]
        self.assertEqual(rows["Ch1"].tolist(), [[106.0, 107.0]] * 2)
        self.assertEqual(rows.columns["Ch0"].format, "2D")

    def test_total_power_is_known_by_its_name(self) -> None:
        header, _ = self.whole(setup_with(TOTAL_POWER, instrument="totalpower"))["PRIMARY"]
        self.assertEqual(header["Backend Name"], "TP")


COLUMNS = ["time", "raj2000", "decj2000", "az", "el", "par_angle", "derot_angle", "flag_cal", "flag_track", "weather"]


class TimeTests(unittest.TestCase):
    @given(strategies.integers(0, 4 * 10**16))
    def test_mjd_is_as_exact_as_a_double(self, ticks: int) -> None:
        # From 2^16 on it has a bit less behind the point.
        limit = Fraction(4, 10) if ticks < (2**16 - 40587) * DAY else Fraction(7, 10)
        for found in (mjd(ticks), mjd(np.array([ticks]))[0]):
            off = Fraction(float(found)) - 40587 - Fraction(ticks, DAY)
            self.assertLess(abs(off) * 86400 * 10**6, limit)


def apart(longitude: Any, latitude: Any, at: tuple[float, float]) -> Any:
    """The angle to that longitude and latitude, all in rad."""
    half = np.sin((latitude - at[1]) / 2) ** 2
    half += np.cos(latitude) * math.cos(at[1]) * np.sin((longitude - at[0]) / 2) ** 2
    return 2 * np.arcsin(np.sqrt(half))


def bearing(longitude: float, latitude: float, to: tuple[float, float]) -> float:
    """In which direction that is, from north over east, all in rad."""
    east = to[0] - longitude
    north = math.cos(latitude) * math.sin(to[1]) - math.sin(latitude) * math.cos(to[1]) * math.cos(east)
    return math.atan2(math.sin(east) * math.cos(to[1]), north)


class PointingTests(unittest.TestCase):
    source = (Pointing.right_ascension, Pointing.declination)

    def at(self, sky: Sky, seconds: Any, begins: int = BEGINS) -> dict[str, Any]:
        ticks = begins + np.round(np.asarray(seconds) * 1e7).astype(np.int64)
        return Pointing(setup_with().receiver, sky.to_dict()).at(ticks, begins)

    def test_the_source_is_never_near_the_sun_nor_below_the_horizon(self) -> None:
        # The Sun's longitude along the ecliptic in all of a year.
        longitude, tilt = np.radians(np.arange(360)), math.radians(23.44)
        ascension = np.arctan2(math.cos(tilt) * np.sin(longitude), np.cos(longitude))
        sun = apart(ascension, np.arcsin(math.sin(tilt) * np.sin(longitude)), self.source)
        self.assertGreater(np.degrees(sun.min()), 80)
        elevation = self.at(Sky(), np.arange(0, 86400, 600))["el"]
        self.assertGreater(np.degrees(elevation.min()), 15)

    def test_the_scan_agrees_with_the_beam(self) -> None:
        source = Source(5.0, transit=2.5, crossing=1.5)
        seconds = np.linspace(0, 5, 41)
        for before in (Sky(), Sky().with_source("b", Source())):
            sky = before.with_source("a", source)
            found = self.at(sky, seconds)
            off = np.degrees(apart(found["raj2000"], found["decj2000"], self.source)) * 60
            beam = np.exp(-4 * np.log(2) * (off / setup_with().receiver.beam) ** 2)
            np.testing.assert_allclose(beam, [source.beam(each) for each in seconds], atol=1e-4)

    def test_without_a_drift_the_telescope_stays(self) -> None:
        found = self.at(Sky().with_source("a", Source(5.0)), [0.0, 1.0, 100.0])
        self.assertEqual(set(found["raj2000"]), {Pointing.right_ascension})
        self.assertEqual(set(found["decj2000"]), {Pointing.declination})

    def test_the_source_rises_and_sets(self) -> None:
        # By the sidereal time at the telescope, 9.2454 degrees east and 39.493 north, without precession.
        seconds = np.arange(0, 86400, 3600)
        days = mjd(BEGINS) + seconds / 86400 - 51544.5
        hours = np.radians(280.46061837 + 360.98564736629 * days + 9.2454) - Pointing.right_ascension
        latitude, declination = math.radians(39.493), Pointing.declination
        sine = math.sin(latitude) * math.sin(declination)
        sine += math.cos(latitude) * math.cos(declination) * np.cos(hours)
        found = self.at(Sky(), seconds)
        np.testing.assert_allclose(found["el"], np.arcsin(sine), atol=math.radians(0.2))
        # East of the meridian before, west of it afterwards, and with it goes the parallactic angle's sign.
        clear = abs(np.sin(hours)) > 0.05
        self.assertTrue((np.sin(found["az"]) * np.sin(hours) < 0)[clear].all())
        self.assertTrue((found["par_angle"] * np.sin(hours) > 0)[clear].all())

    def test_positions_are_those_of_astropy(self) -> None:
        for instant, azimuth, elevation in POSITIONS:
            with self.subTest(str(instant)):
                found = self.at(Sky(), [0.0], round(instant.timestamp()) * 10**7)
                off = apart(found["az"], found["el"], (math.radians(azimuth), math.radians(elevation)))
                self.assertLess(off[0], MILLIARCSECOND)

    def test_the_table_of_the_earths_rotation_has_a_line_of_the_same_length_for_each_day(self) -> None:
        """The line of a day is found by its place."""
        lines = Path(IERS_A_FILE).read_bytes().splitlines(keepends=True)
        self.assertEqual({len(line) for line in lines}, {len(lines[0])})
        first = int(lines[0][7:12])
        self.assertEqual([int(line[7:12]) for line in lines], list(range(first, first + len(lines))))

    @long_only
    def test_positions_are_those_of_the_astropy_that_is_installed(self) -> None:
        # Its tables of the Earth's rotation take a second to read.
        from astropy import units
        from astropy.coordinates import ICRS, AltAz, EarthLocation
        from astropy.time import Time

        site = EarthLocation.from_geocentric(4865182.7660, 791922.6890, 4035137.1740, unit=units.m)
        hours = np.arange(0, 72.1, 0.7)
        for begins in (datetime(2016, 12, 30, tzinfo=UTC), datetime(2022, 1, 1, tzinfo=UTC)):
            start = Time(begins)
            instants = Time(start.jd1, start.jd2 + hours / 24, format="jd", scale="utc")
            source = ICRS(*(np.full(len(hours), each) * units.rad for each in self.source))
            wanted = source.transform_to(AltAz(obstime=instants, location=site))
            found = self.at(Sky(), hours * 3600, round(begins.timestamp()) * 10**7)
            for az, el, place in zip(found["az"], found["el"], wanted, strict=True):
                self.assertLess(apart(az, el, (place.az.rad, place.alt.rad)), MILLIARCSECOND)

    def test_positions_in_between_are_as_good(self) -> None:
        seconds = np.linspace(0, 20, 4001)
        many, few = self.at(Sky(), seconds), self.at(Sky(), seconds[::400])
        for name in ("az", "el", "par_angle"):
            np.testing.assert_allclose(many[name][::400], few[name], atol=2e-9)

    def test_the_parallactic_angle_is_that_of_the_pole(self) -> None:
        # Between the directions of the pole and of the zenith, as the source sees them.
        found = self.at(Sky(), [0.0, 20000.0, 40000.0, 60000.0])
        latitude = math.radians(39.49)
        zenith, pole = (0.0, math.pi / 2), (0.0, latitude)
        for az, el, angle in zip(found["az"], found["el"], found["par_angle"], strict=True):
            wanted = bearing(-az, el, pole) - bearing(-az, el, zenith)
            wanted = math.remainder(wanted, math.tau)
            self.assertAlmostEqual(abs(angle), abs(wanted), delta=2e-3)

    def test_a_clock_that_is_off_by_decades(self) -> None:
        for year in (1970, 2090):
            with self.subTest(year):
                begins = (year - 1970) * 365 * DAY
                self.assertTrue(np.isfinite(self.at(Sky(), [0.0, 1.0], begins)["az"]).all())


class MergedFileTests(FileTests):
    """Files that are merged with a metadata file."""

    def setUp(self) -> None:
        super().setUp()
        self.name = self.folder / "tmp" / "20261121_001_001.fits"

    def merge(
        self,
        dumps: int = 75,
        *,
        setup: Setup | None = None,
        sky: Sky = Sky(),
        change: Any = None,
        **others: Any,
    ) -> Mapping[str, Any]:
        setup = setup or setup_with()
        seconds = others.pop("seconds", 3.2)
        hdus = metadata_tables(setup, float(mjd(BEGINS)), seconds, **{"late": -0.11, **others})
        if change is not None:
            change(hdus)
        self.name.parent.mkdir(exist_ok=True)
        hdus.writeto(self.name, overwrite=True)
        done = convert(record(self.data, setup, dumps, sky=sky, name=self.name))
        self.warnings = done.warnings
        return self.read(done.written)

    def convert(self) -> Converted:
        """Merge a recording with the metadata file that is there, again."""
        (self.folder / self.name.name).unlink()
        return convert(record(self.data, dumps=75, name=self.name))

    def refusal(self, change: Any = None, setup: Setup | None = None, **others: Any) -> str:
        """Why a metadata file is refused; the recording stays as it is, and nothing is written."""
        made = metadata_tables(setup_with(), float(mjd(BEGINS)), 1.0, **others)
        if change is not None:
            change(made)
        self.name.parent.mkdir(exist_ok=True)
        made.writeto(self.name, overwrite=True)
        return self.refused(setup)

    def refused(self, setup: Setup | None = None) -> str:
        folder = record(self.data, setup, name=self.name)
        with self.assertRaises(RecordingError) as caught:
            convert(folder)
        self.assertEqual(opened(folder), list(range(5)))
        self.assertEqual(list(self.folder.glob("*.fits")) + list(self.folder.glob(".*")), [])
        text = str(caught.exception)
        self.assertTrue(text.endswith(f": {str(self.name)!a}"), text)
        reason = text.removesuffix(f": {str(self.name)!a}")
        self.assertRegex(reason, r"\Ametadata file [^,!]*\Z")
        return reason


class MergedTests(MergedFileTests):
    def test_everything_else_is_copied_byte_by_byte(self) -> None:
        self.merge()
        before = self.name.read_bytes()
        after = (self.folder / self.name.name).read_bytes()
        with fits.open(self.name) as old, fits.open(self.folder / self.name.name) as new:
            self.assertEqual([hdu.name for hdu in old], [hdu.name for hdu in new])
            for ours, theirs in zip(new, old, strict=True):
                if ours.name != "DATA TABLE":
                    parts = [
                        whole[info["hdrLoc"] : info["datLoc"] + info["datSpan"]]
                        for whole, info in ((after, ours.fileinfo()), (before, theirs.fileinfo()))
                    ]
                    self.assertEqual(parts[0], parts[1], ours.name)

    def test_the_rows_are_on_our_times(self) -> None:
        setup = setup_with()
        header, rows = self.merge()["DATA TABLE"]
        self.assertEqual(self.warnings, ())
        self.spectra(rows, setup, list(range(75)))
        seconds = (np.arange(75) + 0.5) * ROW
        np.testing.assert_allclose(rows["time"], mjd(BEGINS) + seconds / 86400, atol=1e-11, rtol=0)
        for column, wanted in {
            "raj2000": math.radians(270.0) + 0.002 * seconds,
            "decj2000": declination_at(seconds),
            "az": azimuth_at(seconds),
            "el": 0.5 + 0.001 * seconds,
            "par_angle": parallactic_at(seconds),
        }.items():
            with self.subTest(column):
                np.testing.assert_allclose(rows[column], wanted, atol=1e-7, rtol=0)
        np.testing.assert_allclose(rows["weather"][:, 1], 15 - seconds, atol=1e-4)
        # Ours begin 2.75 rows behind theirs.
        self.assertEqual(list(rows["pass"]), list(range(3, 78)))
        self.assertEqual(list(rows["label"][:2]), ["r03", "r04"])
        self.assertTrue(rows["flag_track"].all())
        self.assertEqual(header["Observed By"], "hand")
        # Our times, in our format and unit; the telescope's unit is MJD.
        self.assertEqual((header["TFORM1"], header["TUNIT1"]), ("D", "d"))
        self.assertIn("simulated by discosbackend", str(header["HISTORY"]))

    def test_the_diode_is_that_of_the_recording_or_of_the_telescope(self) -> None:
        def switched(hdus: fits.HDUList) -> None:
            hdus["DATA TABLE"].data["flag_cal"][:10] = 1

        _, rows = self.merge(sky=Sky(interleave=10))["DATA TABLE"]
        self.assertEqual(list(rows["flag_cal"]), [1 - number // 10 % 2 for number in range(75)])
        self.name.unlink()
        _, rows = self.merge(change=switched)["DATA TABLE"]
        self.assertIn(sum(rows["flag_cal"]), (7, 8))

    def test_logical_flags_are_letters(self) -> None:
        def logical(hdus: fits.HDUList) -> None:
            columns = hdus["DATA TABLE"].columns
            others = [column for column in columns if column.name != "flag_cal"]
            off = np.zeros(len(hdus["DATA TABLE"].data), dtype=bool)
            flags = fits.Column("flag_cal", "L", array=off)
            hdus["DATA TABLE"] = fits.BinTableHDU.from_columns([*others, flags], name="DATA TABLE")

        self.merge(change=logical, sky=Sky(interleave=10), seconds=1.0)
        with fits.open(self.folder / self.name.name) as hdus:
            raw = hdus["DATA TABLE"].data.view(np.ndarray)
            letters = {name: bytes(raw[name].view(np.uint8)) for name in ("flag_cal", "flag_track")}
        self.assertEqual(letters["flag_cal"][:30], b"T" * 10 + b"F" * 10 + b"T" * 10)
        self.assertRegex(letters["flag_track"], rb"\AT{22,24}F{51,53}\Z")

    def test_beyond_the_rows_the_telescope_does_not_track(self) -> None:
        def untimed(hdus: fits.HDUList) -> None:
            hdus["DATA TABLE"].data["time"][-1] = np.nan

        header, rows = self.merge(seconds=1.05, late=1.0, change=untimed)["DATA TABLE"]
        # Rows at 1.02 to 1.98 s, ours at 0.02 to 2.98 s; 40 ms more count as tracked.
        tracked = np.flatnonzero(rows["flag_track"])
        self.assertTrue({25, 26, 48, 49} <= set(tracked) <= set(range(24, 51)), tracked)
        self.assertEqual(rows["el"][0], rows["el"][20])
        self.assertEqual(rows["el"][74], rows["el"][60])
        self.assertEqual(header["NAXIS2"], 75)
        self.assertRegex(" ".join(self.warnings), r"\d\d of 75 dumps are outside of its times")

    def test_spectra_of_the_telescope_make_room(self) -> None:
        def more(hdus: fits.HDUList) -> None:
            table = hdus["DATA TABLE"]
            count = len(table.data)
            extra = fits.ColDefs([fits.Column("Ch0", "3E", "V", array=np.ones((count, 3)))])
            last = fits.ColDefs([fits.Column("last", "E", "s", array=np.arange(count))])
            hdus["DATA TABLE"] = fits.BinTableHDU.from_columns(
                extra + table.columns + last, header=table.header, name="DATA TABLE"
            )

        header, rows = self.merge(change=more)["DATA TABLE"]
        self.spectra(rows, setup_with(), list(range(75)))
        self.assertEqual(rows.columns.names.count("Ch0"), 1)
        self.assertEqual(rows.columns["last"].unit, "s")
        self.assertEqual(rows.columns["Ch0"].unit, "count")
        self.assertEqual(header["TFIELDS"], len(rows.columns))
        np.testing.assert_allclose(np.diff(rows["last"]), 1.0, atol=1e-3)

    def test_angles_keep_their_range(self) -> None:
        # From 0, around 0, and as an axis with its cables has them: over more than a turn.
        def turning(hdus: fits.HDUList) -> None:
            table = hdus["DATA TABLE"]
            seconds = (table.data["time"] - float(mjd(BEGINS))) * 86400
            more = [
                fits.Column("from_0", "D", "deg", array=(300.0 + 90.0 * seconds) % 360.0),
                fits.Column("around_0", "D", "deg", array=(300.0 + 90.0 * seconds) % 360.0 - 180.0),
                fits.Column("axis", "D", "deg", array=-200.0 - 30.0 * seconds),
            ]
            hdus["DATA TABLE"] = fits.BinTableHDU.from_columns(
                table.columns + fits.ColDefs(more), header=table.header, name="DATA TABLE"
            )

        _, rows = self.merge(change=turning)["DATA TABLE"]
        seconds = (np.arange(75) + 0.5) * ROW
        for name, wanted in (
            ("from_0", (300.0 + 90.0 * seconds) % 360.0),
            ("around_0", (300.0 + 90.0 * seconds) % 360.0 - 180.0),
            ("axis", -200.0 - 30.0 * seconds),
        ):
            with self.subTest(name):
                np.testing.assert_allclose(rows[name], wanted, atol=1e-4)

    def test_numbers_that_are_none_and_rows_in_disorder(self) -> None:
        def spoil(hdus: fits.HDUList) -> None:
            data = hdus["DATA TABLE"].data
            data["az"][10:12] = np.nan
            data["weather"][:, 2] = np.nan
            data["time"][[40, 79]] = np.nan
            data[20], data[30] = tuple(data[30]), tuple(data[20])

        _, rows = self.merge(change=spoil)["DATA TABLE"]
        seconds = (np.arange(75) + 0.5) * ROW
        np.testing.assert_allclose(rows["az"], azimuth_at(seconds), atol=1e-7)
        np.testing.assert_allclose(rows["el"], 0.5 + 0.001 * seconds, atol=1e-7)
        # Rows 20 and 30 have changed places, 40 and 79 have no time.
        self.assertEqual([int(number) for number in rows["pass"] if number != 40], sorted(rows["pass"]))
        self.assertTrue(set(rows["pass"]) >= {20, 30} and not set(rows["pass"]) & {40, 79}, rows["pass"])
        self.assertTrue(rows["flag_track"].all())
        self.assertTrue(np.isnan(rows["weather"][:, 2]).all())

    def test_checksums_and_scaled_columns(self) -> None:
        def scale(hdus: fits.HDUList) -> None:
            table = hdus["DATA TABLE"]
            count = len(table.data)
            odd = fits.ColDefs([fits.Column("odd", "J", bzero=2**31, array=np.full(count, 3 * 10**9))])
            hdus["DATA TABLE"] = fits.BinTableHDU.from_columns(
                table.columns + odd, header=table.header, name="DATA TABLE"
            )
            for hdu in hdus:
                hdu.add_checksum()

        header, rows = self.merge(change=scale)["DATA TABLE"]
        self.assertEqual(set(rows["odd"]), {3 * 10**9})
        self.assertNotIn("CHECKSUM", header)

    def test_stokes_and_total_power(self) -> None:
        for channels in (STOKES, TOTAL_POWER):
            setup = setup_with(channels)
            with self.subTest(len(channels)):
                _, rows = self.merge(setup=setup)["DATA TABLE"]
                self.spectra(rows, setup, list(range(75)))

    def test_a_single_row(self) -> None:
        _, rows = self.merge(seconds=0.05, late=0.5)["DATA TABLE"]
        self.assertEqual(set(rows["el"]), {rows["el"][0]})
        self.assertLessEqual(sum(rows["flag_track"]), 3)

    def test_sections_that_do_not_fit(self) -> None:
        one, *_ = CHANNELS
        both = replace(one, polarisations=("L", "R"))
        for channels, reason in (
            (CHANNELS[:1], "has 2 sections and the recording 1"),
            ((one, replace(one, bins=32)), "has 16 bins in section 1 and the recording 32 bins"),
            ((replace(both, bins=4),) * 2, "has 16 bins in section 0 and the recording 4 bins"),
            ((both, both), "has spectra in section 0 and the recording stokes"),
        ):
            with self.subTest(reason):
                self.assertIn(reason, self.refusal(setup=setup_with(channels)))

    def test_another_integration_is_said(self) -> None:
        def other(hdus: fits.HDUList) -> None:
            hdus["SECTION TABLE"].header["Integration"] = 20

        self.merge(change=other)
        self.assertEqual(self.warnings, ("metadata file: Integration is 20 ms, the recording's 40 ms",))

    def test_metadata_that_cannot_be_used(self) -> None:
        def without(name: str) -> Any:
            return lambda hdus: hdus.pop(name)

        def image(name: str) -> Any:
            def change(hdus: fits.HDUList) -> None:
                hdus[name] = fits.ImageHDU(np.zeros((3, 3)), name=name)

            return change

        def rows(count: int) -> Any:
            def change(hdus: fits.HDUList) -> None:
                hdus["DATA TABLE"].data = hdus["DATA TABLE"].data[:count]

            return change

        def without_times(hdus: fits.HDUList) -> None:
            hdus["DATA TABLE"].data["time"] = np.nan

        def untimed(hdus: fits.HDUList) -> None:
            hdus["DATA TABLE"].columns.change_name("time", "when")

        def ragged(hdus: fits.HDUList) -> None:
            table = hdus["DATA TABLE"]
            values = np.array([np.zeros(number % 3) for number in range(len(table.data))], dtype=object)
            more = fits.ColDefs([fits.Column(name="more", format="PD()", array=values)])
            hdus["DATA TABLE"] = fits.BinTableHDU.from_columns(table.columns + more, name="DATA TABLE")

        for change, reason in (
            (without("DATA TABLE"), "has no DATA TABLE"),
            (without("SECTION TABLE"), "has no SECTION TABLE"),
            (rows(0), "has no rows in DATA TABLE"),
            (without_times, "has no rows in DATA TABLE"),
            (untimed, "has no time in DATA TABLE"),
            (ragged, "has columns of variable length in DATA TABLE"),
            (image("DATA TABLE"), "has no DATA TABLE"),
            (image("SECTION TABLE"), "has no SECTION TABLE"),
        ):
            with self.subTest(reason):
                self.assertEqual(self.refusal(change), f"metadata file {reason}")

    def test_what_is_no_metadata_file(self) -> None:
        write_metadata(self.name, setup_with(), float(mjd(BEGINS)), 1.0)
        whole = self.name.read_bytes()
        nothing = b"nothing of the kind\n" * 1000
        for text in (b"", b"SIMPLE", nothing, whole[:-2880], whole[:9000], whole[: 5 * 2880]):
            with self.subTest(len(text)):
                self.name.write_bytes(text)
                self.assertRegex(self.refused(), "no FITS file|cannot be read|cut off|has no|damaged")
        for text in (b"", nothing, gzip.compress(whole), gzip.compress(whole)[:-100]):
            self.name.write_bytes(text)
            self.assertEqual(self.refused(), "metadata file is no FITS file or is compressed")

    def test_what_is_no_file_is_not_read(self) -> None:
        self.name.parent.mkdir()
        for make in (self.name.mkdir, lambda: os.mkfifo(self.name), lambda: self.name.symlink_to("/dev/zero")):
            make()
            self.assertEqual(self.refused(), "metadata file is not a regular file")
            shutil.rmtree(self.name.parent)
            self.name.parent.mkdir()

    def test_what_replaces_a_file_before_it_is_opened_is_not_read(self) -> None:
        self.name.parent.mkdir()
        os.mkfifo(self.name)
        with mock.patch.object(Path, "is_file", return_value=True):
            self.assertEqual(self.refused(), "metadata file cannot be read: not a regular file")

    def test_one_that_is_too_large_is_not_read(self) -> None:
        self.name.parent.mkdir()
        with self.name.open("wb") as file:
            file.truncate(2**40)
        self.assertEqual(self.refused(), "metadata file has 1048576 MB and may have 1024")

    def test_one_that_changes_while_it_is_read(self) -> None:
        read = Path.read_bytes

        def and_change(path: Path) -> bytes:
            found = read(path)
            write_metadata(Path(f"{path}.new"), setup_with(CHANNELS[:1]), 0.0, 9.0)
            os.replace(f"{path}.new", path)
            return found

        with mock.patch.object(Path, "read_bytes", and_change):
            _, rows = self.merge()["DATA TABLE"]
        np.testing.assert_allclose(rows["el"], 0.5 + 0.001 * (np.arange(75) + 0.5) * ROW, atol=1e-7, rtol=0)

    def test_any_damage_is_refused_or_harmless(self) -> None:
        """Bytes of the headers changed at random: never another exception, and never a file for nothing."""
        write_metadata(self.name, setup_with(), float(mjd(BEGINS)), 0.2)
        whole = self.name.read_bytes()
        random = np.random.default_rng(5)
        folder = record(self.data, name=self.name)
        for place in random.integers(2880, len(whole), 60 if LONG else 25):
            spoilt = bytearray(whole)
            spoilt[place] = random.integers(32, 127)
            self.name.write_bytes(spoilt)
            try:
                done = convert(folder, keep=True)
            except RecordingError:
                self.assertEqual(opened(folder), list(range(5)))
            else:
                assert done.written is not None
                done.written.unlink()


class OurOwnFileTests(FileTests):
    def test_a_file_of_ours_is_no_metadata(self) -> None:
        name = self.folder / "spectra.fits"
        self.assertEqual(convert(record(self.data, name=name)).written, name)
        before = name.read_bytes()
        done = convert(record(self.data, begins=Ticks(BEGINS + 10**8), name=name))
        self.assertEqual(done.written, self.folder / "spectra_2.fits")
        self.assertIn("exists already: spectra_2.fits was written instead", done.warnings[0])
        self.assertEqual(name.read_bytes(), before)
        self.assertEqual(self.read(done.written)["PRIMARY"][0]["SOURCE"], "simulated sky")

    def test_a_file_of_ours_in_the_folder_of_metadata(self) -> None:
        """As for any other, the result is not written there."""
        name = self.folder / "tmp" / "spectra.fits"
        convert(record(self.folder / "data"), name)
        done = convert(record(self.folder / "data", name=name))
        self.assertEqual((done.written, done.warnings), (self.folder / "spectra.fits", ()))


if __name__ == "__main__":
    unittest.main()
