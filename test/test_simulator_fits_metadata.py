"""Merging with a DATA TABLE that is not as DISCOS writes it: formats, units, scales, keywords of columns."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from astropy.io import fits

from discosbackend.simulator.fits.layout import mjd
from discosbackend.simulator.signal.sky import Sky

from .metadata_files import ROW
from .recordings import BEGINS, setup_with
from .test_simulator_fits_layout import MergedFileTests, setUpModule  # noqa: F401  # astropy's settings at hand

SECONDS = (np.arange(75) + 0.5) * 0.04


def with_columns(
    *more: fits.Column, without: tuple[str, ...] = (), first: bool = False
) -> Callable[[fits.HDUList], None]:
    """Return a change to a metadata file: columns in place of others, before all others or after them."""

    def change(hdus: fits.HDUList) -> None:
        table = hdus["DATA TABLE"]
        kept = [column for column in table.columns if column.name not in without]
        columns = [*more, *kept] if first else [*kept, *more]
        hdus["DATA TABLE"] = fits.BinTableHDU.from_columns(columns, name="DATA TABLE")

    return change


def with_cards(**cards: Any) -> Callable[[fits.HDUList], None]:
    """Return a change to a metadata file: cards in the header of DATA TABLE."""
    return lambda hdus: hdus["DATA TABLE"].header.update(cards)


def telescope_seconds() -> Any:
    """Times of the telescope's rows in seconds after the begin, as merge() writes them."""
    return -0.11 + ROW * 86400 * (np.arange(int(3.2 / 86400 / ROW)) + 0.5)


class TimeTests(MergedFileTests):
    def time(self, form: str, values: Any, unit: str | None = "d", **others: Any) -> Callable[[fits.HDUList], None]:
        return with_columns(fits.Column("time", form, unit, array=values, **others), without=("time",), first=True)

    def check(self, tables: Mapping[str, Any]) -> None:
        header, rows = tables["DATA TABLE"]
        np.testing.assert_allclose(rows["time"], mjd(BEGINS) + SECONDS / 86400, atol=1e-11, rtol=0)
        np.testing.assert_allclose(rows["el"], 0.5 + 0.001 * SECONDS, atol=1e-6)
        self.assertEqual((header["TTYPE1"], header["TFORM1"], header["TUNIT1"]), ("time", "D", "d"))
        self.assertEqual([key for key in ("TSCAL1", "TZERO1", "TNULL1", "TDISP1", "TDIM1") if key in header], [])

    def test_times_in_any_precise_format_are_written_as_doubles(self) -> None:
        begin = float(mjd(BEGINS))
        days = telescope_seconds() / 86400
        for unit in ("MJD", "mjd", "d", "day", None):
            with self.subTest(unit):
                self.check(self.merge(change=self.time("D", begin + days, unit)))
        with self.subTest("float32 behind an offset"):
            self.check(self.merge(change=self.scaled("E", days.astype("f4"), TZERO1=begin)))
        with self.subTest("integers of 10 us"):
            ticks = np.round(days * 86400e5).astype("i4")
            self.check(
                self.merge(change=self.scaled("J", ticks, TSCAL1=1 / 86400e5, TZERO1=begin, TNULL1=-1, TDISP1="I9"))
            )

    def scaled(self, form: str, stored: Any, **cards: Any) -> Callable[[fits.HDUList], None]:
        """Return a change to a metadata file: such times as they are stored, and the cards that say what they mean."""

        def change(hdus: fits.HDUList) -> None:
            self.time(form, stored)(hdus)
            hdus["DATA TABLE"].header.update(cards)

        return change

    def test_times_that_cannot_be_meant(self) -> None:
        begin, days = float(mjd(BEGINS)), np.arange(25) * 0.04 / 86400
        count = 25
        for what, change, reason in (
            ("float32", self.time("E", begin + days), "has times in DATA TABLE in steps of 337.5 s"),
            ("days", self.time("J", np.full(count, int(begin))), "has times in DATA TABLE in steps of 86400 s"),
            ("s", self.time("D", days * 86400, "s"), "has times in DATA TABLE in s: they must be MJD in days"),
            (
                "unix",
                self.time("D", 1.8e9 + days, None),
                "has times in DATA TABLE that are no MJD: the first is 1.8e+09",
            ),
            (
                "JD",
                self.time("D", 2400000.5 + begin + days),
                "has times in DATA TABLE that are no MJD: the first is 2.46",
            ),
            ("text", self.time("8A", ["noon"] * count), "has no time in DATA TABLE"),
            ("vector", self.time("2D", np.ones((count, 2))), "has no time in DATA TABLE"),
            ("two", with_columns(fits.Column("TIME", "D", array=begin + days)), "has more than one time in DATA TABLE"),
            ("TAI", with_cards(TIMESYS="TAI"), "has times in DATA TABLE in TAI: they must be UTC"),
            ("reference", with_cards(MJDREF=51544.5), "has times in DATA TABLE since MJDREF: they must be MJD"),
            ("scale", with_cards(TSCAL1=0.0), "is damaged: TSCAL1 of DATA TABLE is 0"),
        ):
            with self.subTest(what):
                self.assertTrue(self.refusal(change).startswith(f"metadata file {reason}"), reason)

    def test_the_unit_of_the_whole_table(self) -> None:
        def change(hdus: fits.HDUList) -> None:
            self.time("D", float(mjd(BEGINS)) + np.arange(25) * ROW, None)(hdus)
            hdus["DATA TABLE"].header["TIMEUNIT"] = "s"

        self.assertEqual(self.refusal(change), "metadata file has times in DATA TABLE in s: they must be MJD in days")

    def test_rows_without_a_time_are_reported(self) -> None:
        def change(hdus: fits.HDUList) -> None:
            hdus["DATA TABLE"].data["time"][[3, 5, 7]] = np.nan, 0.0, 1e300

        self.check(self.merge(change=change))
        self.assertEqual(self.warnings, ("metadata file: 3 rows of DATA TABLE have no time and are left out",))


class FlagTests(MergedFileTests):
    def test_flags_in_any_format(self) -> None:
        for form, others, wanted in (
            *((letter, {}, letter) for letter in "BIJK"),
            *((letter, {}, "I") for letter in "ED"),
            ("I", {"bzero": 32768}, "I"),
            ("1X", {}, "I"),
        ):
            with self.subTest(form, **others):
                off = np.zeros((80, 1) if form == "1X" else 80, dtype=bool if form == "1X" else "i4")
                columns = [fits.Column(name, form, array=off, **others) for name in ("flag_cal", "flag_track")]
                _, rows = self.merge(
                    change=with_columns(*columns, without=("flag_cal", "flag_track")), sky=Sky(interleave=10)
                )["DATA TABLE"]
                self.assertEqual(
                    [bool(flag) for flag in rows["flag_cal"]], [number // 10 % 2 == 0 for number in range(75)]
                )
                self.assertFalse(rows["flag_track"].any())
                self.assertEqual(rows.columns["flag_cal"].format, wanted)

    def test_what_is_no_flag(self) -> None:
        for form, values in (("4A", ["T"] * 25), ("2I", np.ones((25, 2))), ("C", np.ones(25))):
            with self.subTest(form):
                change = with_columns(fits.Column("flag_cal", form, array=values), without=("flag_cal",))
                self.assertEqual(self.refusal(change), "metadata file has no flags in flag_cal of DATA TABLE")


class AngleTests(MergedFileTests):
    def test_angles_of_every_unit_cross_their_period(self) -> None:
        turns = 0.9 + 0.1 * telescope_seconds()
        units = {"rad": 2 * np.pi, "radians": 2 * np.pi, "deg": 360, "h": 24, "hourangle": 24, "arcmin": 21600}
        units["arcsec"] = 1296000
        columns = [fits.Column(f"a_{unit}", "D", unit, array=turns % 1 * period) for unit, period in units.items()]
        _, rows = self.merge(change=with_columns(*columns))["DATA TABLE"]
        for unit, period in units.items():
            with self.subTest(unit):
                np.testing.assert_allclose(rows[f"a_{unit}"] / period, (0.9 + 0.1 * SECONDS) % 1, atol=1e-7)

    def test_the_period_is_that_of_scaled_values(self) -> None:
        def change(hdus: fits.HDUList) -> None:
            turns = (0.9 + 0.1 * telescope_seconds()) % 1
            with_columns(fits.Column("scaled", "D", "deg", array=turns - 0.25))(hdus)
            hdus["DATA TABLE"].header.update(TSCAL13=360.0, TZERO13=90.0)

        _, rows = self.merge(change=change)["DATA TABLE"]
        np.testing.assert_allclose(rows["scaled"] / 360, (0.9 + 0.1 * SECONDS) % 1, atol=1e-7)

    def test_a_position_in_no_unit_of_angles(self) -> None:
        change = with_columns(fits.Column("az", "D", "K", array=np.zeros(25)), without=("az",))
        reason = "metadata file has az of DATA TABLE in K: this is no unit of angles"
        self.assertEqual(self.refusal(change), reason)


class KeywordTests(MergedFileTests):
    def test_keywords_follow_their_column(self) -> None:
        """The spectra of the telescope are left out, so that every column has another number."""
        more = {
            "TUCD{}": "pos.az",
            "TCOMM{}": "where it was",
            "TDISP{}": "F9.4",
            "TXYZ{}": 5,
            "TCTYP{}": "AZ",
            "4CRVL{}": 2.5,
        }
        more.update({"WCSN{}": "a name", "TPC{}_{}": 0.5, "TCNA{}A": "another"})

        def change(hdus: fits.HDUList) -> None:
            with_columns(fits.Column("Ch0", "3E", "V", array=np.ones((80, 3))), first=True)(hdus)
            header = hdus["DATA TABLE"].header
            header.update({key.format(1, 1): "dropped" for key in more if key != "TDISP{}"})
            header.update({key.format(5, 6): value for key, value in more.items()})
            header.update(TPC5_1=0.25, TEMP900="of no column", TSCAL14=2.0, TUCD2="time.epoch")
            header["TDMIN2"] = 0.0
            header["HIERARCH Tsys 5"] = "stays"

        header, rows = self.merge(change=change)["DATA TABLE"]
        self.assertEqual(rows.columns.names[3], "az")
        for key, value in more.items():
            with self.subTest(key):
                self.assertEqual(header[key.format(4, 5)], value)
        self.assertEqual((header["TUCD1"], header["TTYPE1"]), ("time.epoch", "time"))
        self.assertEqual((header["TEMP900"], header["Tsys 5"]), ("of no column", "stays"))
        self.assertNotIn("dropped", header.values())
        self.assertEqual([key for key in ("TPC5_6", "TPC4_1", "TPC4_0", "TDMIN1", "TSCAL14") if key in header], [])
        self.assertEqual(self.warnings, ("metadata file: TSCAL14 of DATA TABLE belongs to no column and is left out",))
        self.spectra(rows, setup_with(), list(range(75)))

    def test_long_texts_follow_with_their_continuation(self) -> None:
        text = "words " * 20 + "end"

        def change(hdus: fits.HDUList) -> None:
            with_columns(fits.Column("Ch0", "3E", array=np.ones((80, 3))), first=True)(hdus)
            hdus["DATA TABLE"].header["TCOMM5"] = text

        header, _ = self.merge(change=change)["DATA TABLE"]
        self.assertEqual(header["TCOMM4"], text)


class AstropyTests(MergedFileTests):
    def test_what_astropy_complains_of_is_a_warning(self) -> None:
        self.merge()
        whole = self.name.read_bytes()
        for old, new, words in (
            (b"the observer's own words", b"the observer\xff\x01 own words", "non-ASCII characters"),
            (b"VLSR    =                  0.0", b"VLSR=                  0.0    ", "Card "),
        ):
            with self.subTest(words):
                self.assertEqual(whole.count(old), 1)
                self.name.write_bytes(whole.replace(old, new))
                done = self.convert()
                self.assertIn(words, " ".join(done.warnings))
                self.assertTrue(
                    all(each.startswith("metadata file: ") and each.isprintable() for each in done.warnings)
                )

    def test_many_warnings_are_counted(self) -> None:
        def change(hdus: fits.HDUList) -> None:
            more = [fits.Column(f"more{number}", "D", array=np.zeros(80)) for number in range(9)]
            with_columns(*more)(hdus)
            # Each of these displays is worth a warning of astropy.
            hdus["DATA TABLE"].header.update({f"TDISP{number}": f"Q{number}" for number in range(13, 22)})

        self.merge(change=change)
        self.assertEqual(len(self.warnings), 6)
        self.assertEqual(self.warnings[5], "metadata file: 4 more warnings of astropy")


if __name__ == "__main__":
    unittest.main()
