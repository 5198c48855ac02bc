"""Tests of timediscos: the astropy format "discos", and the way between Ticks and Time."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import time
import unittest
import warnings
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from astropy.time import Time, TimeDelta, TimeUnix
from astropy.utils import iers
from hypothesis import example, given
from hypothesis import strategies as st

import discosbackend
from discosbackend.ticks import Ticks
from discosbackend.timediscos import (
    CENTINANOSECONDS,
    TimeDiscos,
    forbid_downloads,
    get_acs_now,
    parse_unix_time,
    ticks_from_time,
    time_from_ticks,
    unix_to_acs_time,
)

DAY = 86400 * CENTINANOSECONDS
# Odd and above 2^53, so no double holds it.
TICKS = 17954194859619467

# Whether numpy's longdouble holds such a number depends on the processor.
LONG_IS_EXACT = np.finfo(np.longdouble).eps <= 2.0**-63

# Up to the year 2286, and those where the split at whole days could slip.
midnights = st.integers(0, 10**5).map(lambda day: day * DAY)
instants = st.integers(0, 10**17) | st.builds(int.__add__, midnights, st.integers(-3, 3))


def setUpModule() -> None:
    """No test waits for a network, and those that go to far years do so on purpose."""
    unittest.enterModuleContext(iers.conf.set_temp("auto_download", False))
    unittest.enterModuleContext(warnings.catch_warnings())
    warnings.filterwarnings("ignore", message=".*dubious year")


def whole(t: Time) -> int:
    """The count as the format itself writes it, not by way of ticks_from_time."""
    return int(t.to_value("discos", subfmt="str"))


class TimeDiscosTests(unittest.TestCase):
    """The format as users of astropy meet it."""

    def test_class_attributes_only(self) -> None:
        """Overriding __init__ or the like breaks copy and arithmetic."""
        own = {name for name in vars(TimeDiscos) if not name.startswith("_")}
        self.assertEqual(own, {"name", "unit", "subfmts"})
        self.assertNotIn("__init__", vars(TimeDiscos))
        self.assertTrue(issubclass(TimeDiscos, TimeUnix))

    def test_registered(self) -> None:
        self.assertIs(Time.FORMATS["discos"], TimeDiscos)
        self.assertEqual(CENTINANOSECONDS, 10**7)

    def test_scale_is_utc_by_default(self) -> None:
        self.assertEqual(Time(str(TICKS), format="discos").scale, "utc")

    def test_read_exactly(self) -> None:
        days, rest = divmod(TICKS, DAY)
        cases = {
            "str": (str(TICKS),),
            "signed str": (f"+{TICKS}",),
            "spaced str": (f" {TICKS}\n",),
            "exponent": (f"{TICKS}00e-2",),
            "fraction": (f"{TICKS}.25",),
            "bytes": (str(TICKS).encode(),),
            "numpy str": (np.str_(TICKS),),
            "Decimal": (Decimal(TICKS),),
            "pair": (float(days * DAY), float(rest)),
            "other pair": (float(TICKS + 1), -1.0),
        }
        if LONG_IS_EXACT:
            cases["long"] = (np.longdouble(str(TICKS)),)
            cases["long pair"] = (np.longdouble(str(TICKS - 1)), np.longdouble(1))
        expected = time_from_ticks(TICKS)
        for name, values in cases.items():
            with self.subTest(name):
                t = Time(*values, format="discos")
                self.assertEqual(t.to_value("discos", subfmt="str"), str(TICKS))
                if name != "fraction":
                    self.assertTrue(t == expected, "one count, one Time, whichever way it came")

    def test_written_exactly(self) -> None:
        t = Time(str(TICKS), format="discos")
        cases = [
            ("str", str, str(TICKS)),
            ("bytes", bytes, str(TICKS).encode()),
            ("decimal", Decimal, Decimal(TICKS)),
        ]
        if LONG_IS_EXACT:
            cases.append(("long", np.longdouble, np.longdouble(str(TICKS))))
        for subfmt, kind, expected in cases:
            with self.subTest(subfmt):
                value = t.to_value("discos", subfmt=subfmt)
                self.assertIsInstance(value, kind)
                self.assertEqual(value, expected)
                self.assertEqual(str(int(value)), str(TICKS))

    def test_writes_whole_counts(self) -> None:
        cases = [("0", "0"), ("0.4", "0"), ("5", "5"), ("-5", "-5"), ("-0.4", "0"), ("5.75", "6")]
        for text, expected in cases + [(f"{TICKS}.75", str(TICKS + 1))]:
            t = Time(text, format="discos")
            for subfmt in ("str", "bytes", "decimal", "long"):
                with self.subTest(text=text, subfmt=subfmt):
                    self.assertEqual(int(t.to_value("discos", subfmt=subfmt)), int(expected))
            self.assertEqual(t.to_value("discos", subfmt="str"), expected)

    def test_keeps_a_fraction(self) -> None:
        """Half a count is 50 ns, which two doubles hold."""
        half = Time(f"{TICKS}.5", format="discos")
        self.assertTrue(time_from_ticks(TICKS) < half < time_from_ticks(TICKS + 1))

    def test_float_is_two_counts_coarse(self) -> None:
        t = Time(str(TICKS), format="discos")
        self.assertIsInstance(t.discos, float)
        self.assertEqual(t.discos, t.value)
        self.assertLessEqual(abs(int(f"{t.discos:.0f}") - TICKS), 2)
        self.assertLessEqual(abs(whole(Time(TICKS, format="discos")) - TICKS), 2)

    def test_subformats_can_be_demanded(self) -> None:
        t = Time(str(TICKS), format="discos", in_subfmt="str", out_subfmt="str")
        self.assertEqual(t.value, str(TICKS))
        with self.assertRaises(ValueError):
            Time(str(TICKS), format="discos", in_subfmt="float")
        with self.assertRaises(ValueError):
            t.to_value("discos", subfmt="hex")

    def test_arrays(self) -> None:
        counts = [TICKS, TICKS + 1, 0, 7 * DAY - 1]
        cases = {
            "str": np.array([str(count) for count in counts]),
            "bytes": np.array([str(count).encode() for count in counts]),
            "Decimal": np.array([Decimal(count) for count in counts]),
            "list": [str(count) for count in counts],
        }
        for name, values in cases.items():
            with self.subTest(name):
                t = Time(values, format="discos")
                self.assertEqual(t.shape, (4,))
                self.assertEqual(t.to_value("discos", subfmt="str").tolist(), list(map(str, counts)))
                self.assertEqual(t.to_value("discos", subfmt="decimal").tolist(), counts)
                self.assertEqual(t.to_value("discos", subfmt="bytes")[1], str(TICKS + 1).encode())
                self.assertEqual([ticks_from_time(one) for one in t], counts)
                self.assertEqual([whole(one) for one in t[::-2]], counts[::-2])
                self.assertEqual(whole(t.reshape(2, 2)[1, 1]), 7 * DAY - 1)

    def test_pairs_of_arrays(self) -> None:
        t = Time(np.array([0.0, float(DAY), float(20000 * DAY)]), 1.0, format="discos")
        self.assertEqual(t.to_value("discos", subfmt="decimal").tolist(), [1, DAY + 1, 20000 * DAY + 1])

    def test_empty_arrays(self) -> None:
        t = Time(np.array([], dtype=str), format="discos")
        for subfmt in ("float", "long", "decimal", "str", "bytes"):
            with self.subTest(subfmt):
                self.assertEqual(t.to_value("discos", subfmt=subfmt).shape, (0,))

    def test_arrays_with_gaps(self) -> None:
        t = Time([str(TICKS), "0", "5"], format="discos")
        t[1] = np.ma.masked
        for subfmt in ("float", "long", "decimal", "str", "bytes"):
            with self.subTest(subfmt):
                value = t.to_value("discos", subfmt=subfmt)
                self.assertEqual(value.mask.tolist(), [False, True, False])
                self.assertEqual(round(float(value.unmasked[2])), 5)

    def test_items_can_be_set(self) -> None:
        t = Time(["1", "2"], format="discos")
        t[0] = str(TICKS)
        t[1] = time_from_ticks(TICKS + 1).tai
        self.assertEqual(t.to_value("discos", subfmt="decimal").tolist(), [TICKS, TICKS + 1])

    def test_not_a_number(self) -> None:
        cases = (
            "", "abc", "0x10", "1 2", "1.2.3", "nan", "sNaN", "inf", "-Infinity", "1e999999999", "9" * 80,
            b"", b"abc", b"\xff", Decimal("nan"), Decimal("inf"), float("nan"), float("inf"), None, object(),
            ["1", "abc"], ["1", None], datetime(2026, 1, 1),
        )  # fmt: skip
        for value in cases:
            with self.subTest(value=value), self.assertRaises((ValueError, TypeError)):
                Time(value, format="discos")
        with self.assertRaises((ValueError, TypeError)):
            Time("1", "2", format="discos")

    def test_caller_s_decimal_context_does_not_matter(self) -> None:
        with localcontext(Context(prec=3, traps=[])):
            t = Time(str(TICKS), format="discos")
            self.assertEqual(t.to_value("discos", subfmt="decimal"), Decimal(TICKS))
            self.assertEqual(whole(parse_unix_time("1795419485.9619467")), TICKS)
            for text in ("abc", "nan", "1e999999999"):
                with self.subTest(text):
                    self.assertRaises(ValueError, Time, text, format="discos")
                    self.assertRaises(ValueError, parse_unix_time, text)

    def test_other_formats_and_scales(self) -> None:
        t = Time("2026-11-23T07:38:05.9619467", format="isot", scale="utc")
        self.assertEqual(whole(t), TICKS)
        self.assertEqual(whole(t.tai), TICKS)
        self.assertEqual(Time(str(TICKS), format="discos", precision=7).isot, "2026-11-23T07:38:05.9619467")
        self.assertEqual(whole(Time(str(TICKS), format="discos", scale="tai").utc), TICKS)
        t.format = "discos"
        t.out_subfmt = "str"
        self.assertEqual(t.value, str(TICKS))

    def test_same_datetime_as_unix(self) -> None:
        """What a user of the original wrote: Time(seconds * 1e7, format="discos")."""
        now = time.time()
        ours = Time(now * 1e7, format="discos").datetime
        self.assertLessEqual(abs(ours - Time(now, format="unix").datetime), timedelta(microseconds=1))

    def test_a_leap_second_cannot_be_counted(self) -> None:
        """As in astropy's "unix", the counts of such a day are spread evenly over its 86401 s."""
        midnight = 17167 * DAY  # 2017-01-01, after the leap second
        cases = [
            ("2016-12-31T00:00:00", midnight - DAY),
            ("2016-12-31T12:00:00", midnight - DAY + round(Fraction(43200, 86401) * DAY)),
            ("2016-12-31T23:59:60.5", midnight - DAY + round(Fraction(172801, 2 * 86401) * DAY)),
            ("2017-01-01T00:00:00", midnight),
        ]
        for text, expected in cases:
            with self.subTest(text):
                t = Time(text)
                self.assertEqual(whole(t), expected)
                self.assertEqual(ticks_from_time(t), expected)
                self.assertAlmostEqual(t.unix, expected / 1e7, delta=1e-6)
        self.assertLess(whole(Time("2016-12-31T23:59:60.9999")), midnight)


class TimeDiscosRoundTripTests(unittest.TestCase):
    """Any count comes back as it went."""

    @given(instants)
    @example(TICKS)
    @example(2**53 + 1)
    def test_every_subformat(self, ticks: int) -> None:
        days, rest = divmod(ticks, DAY)
        text = str(ticks)
        made = [
            Time(text, format="discos"),
            Time(text.encode(), format="discos"),
            Time(Decimal(ticks), format="discos"),
            Time(float(days * DAY), float(rest), format="discos"),
            time_from_ticks(ticks),
        ]
        if LONG_IS_EXACT:
            made.append(Time(np.longdouble(text), format="discos"))
        for t in made:
            self.assertTrue(t == made[0])
            self.assertEqual(t.to_value("discos", subfmt="str"), text)
            self.assertEqual(t.to_value("discos", subfmt="bytes"), text.encode())
            self.assertEqual(t.to_value("discos", subfmt="decimal"), Decimal(ticks))
            self.assertEqual(ticks_from_time(t), ticks)
            if LONG_IS_EXACT:
                self.assertEqual(int(t.to_value("discos", subfmt="long")), ticks)
            self.assertLessEqual(abs(int(f"{t.discos:.0f}") - ticks), max(1, ticks // 2**53))

    @given(instants)
    def test_through_other_scales(self, ticks: int) -> None:
        t = Time(str(ticks), format="discos")
        for there_and_back in (t.tai.utc, t.tt.utc, t.tai.tt.tai):
            self.assertEqual(whole(there_and_back), ticks)
            self.assertEqual(ticks_from_time(there_and_back), ticks)

    @given(instants)
    def test_through_copies(self, ticks: int) -> None:
        t = Time(str(ticks), format="discos", out_subfmt="str")
        made = [t.copy(), copy.copy(t), copy.deepcopy(t), t.replicate(), Time(t), t.copy(format="jd")]
        made += [pickle.loads(pickle.dumps(t, protocol)) for protocol in (2, pickle.HIGHEST_PROTOCOL)]
        for other in made:
            self.assertTrue(other == t)
            self.assertEqual(whole(other), ticks)
            self.assertEqual(other.scale, "utc")
        self.assertEqual(made[2].value, str(ticks))
        self.assertEqual(made[-1].value, str(ticks))

    @given(instants, instants)
    def test_arithmetic(self, earlier: int, later: int) -> None:
        first, last = time_from_ticks(earlier), time_from_ticks(later)
        step = last - first
        self.assertIsInstance(step, TimeDelta)
        for result, expected in [
            (first + step, later),
            (last - step, earlier),
            (first + (-step) + step, earlier),
            (first.tai + step, later),
        ]:
            self.assertEqual(result.format, "discos")
            self.assertEqual(whole(result), expected)
            self.assertEqual(ticks_from_time(result), expected)

    # Within a day that has no leap second a difference of counts is a difference of time.
    @given(st.integers(0, DAY - 1), st.integers(0, DAY - 1))
    def test_differences(self, earlier: int, later: int) -> None:
        midnight = 20000 * DAY
        first, last = time_from_ticks(midnight + earlier), time_from_ticks(midnight + later)
        step = last - first
        self.assertEqual(round((Fraction(step.jd1) + Fraction(step.jd2)) * DAY), later - earlier)
        seconds = TimeDelta(Decimal(later - earlier) / 10**7, format="sec")
        self.assertEqual(whole(first + seconds), midnight + later)

    @given(instants, instants)
    def test_comparison(self, left: int, right: int) -> None:
        a, b = time_from_ticks(left), Time(str(right), format="discos")
        self.assertEqual(bool(a == b), left == right)
        self.assertEqual(bool(a < b), left < right)
        self.assertEqual(bool(a >= b), left >= right)

    @given(instants)
    def test_neighbours_differ(self, ticks: int) -> None:
        self.assertTrue(time_from_ticks(ticks) < time_from_ticks(ticks + 1))
        self.assertTrue(time_from_ticks(ticks).tai < time_from_ticks(ticks + 1).tai)

    @given(st.lists(instants, min_size=1, max_size=5))
    def test_arrays(self, counts: list[int]) -> None:
        t = Time(np.array([str(count) for count in counts]), format="discos")
        for other in (t, t.tai.utc, pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
            self.assertEqual(other.to_value("discos", subfmt="decimal").tolist(), counts)

    def test_pickle_loads_the_module(self) -> None:
        """Whoever unpickles a Time, a worker process for one, need not know of this module."""
        script = (
            "import pickle, sys\n"
            "t = pickle.load(sys.stdin.buffer)\n"
            "print(t.to_value('discos', subfmt='str'), 'astropy.utils.iers' in sys.modules)"
        )
        root = str(Path(discosbackend.__file__).resolve().parent.parent)
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=pickle.dumps(time_from_ticks(TICKS)),
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        self.assertEqual(done.stdout.decode().split()[0], str(TICKS))
        # The tables of leap seconds, and with them the network, were not touched either.
        self.assertEqual(done.stdout.decode().split()[1], "False")


class TicksAndTimeTests(unittest.TestCase):
    """time_from_ticks and ticks_from_time."""

    @given(st.integers(-(2**27) * DAY, 2**27 * DAY))
    @example(-1)
    @example(2**27 * DAY - 1)
    @example(-(2**27) * DAY + 1)
    def test_round_trip(self, ticks: int) -> None:
        t = time_from_ticks(ticks)
        self.assertEqual((t.format, t.scale), ("discos", "utc"))
        self.assertEqual(ticks_from_time(t), ticks)
        self.assertEqual(t.to_value("discos", subfmt="str"), str(ticks))

    def test_gives_ticks(self) -> None:
        ticks = ticks_from_time(time_from_ticks(TICKS))
        self.assertIs(type(ticks), Ticks)
        self.assertEqual(ticks, TICKS)

    def test_ticks_know_their_time(self) -> None:
        self.assertTrue(Ticks(TICKS).time == time_from_ticks(TICKS))
        self.assertEqual(Ticks.of(time_from_ticks(TICKS)), TICKS)

    def test_integers_of_any_kind(self) -> None:
        kinds: list[Any] = [TICKS, Ticks(TICKS), np.int64(TICKS), np.uint64(TICKS)]
        for ticks in kinds:
            with self.subTest(kind=type(ticks)):
                self.assertEqual(whole(time_from_ticks(ticks)), TICKS)

    def test_no_integer(self) -> None:
        kinds: list[Any] = [float(TICKS), str(TICKS), Decimal(TICKS), None, time_from_ticks(0)]
        for ticks in kinds:
            with self.subTest(ticks=ticks), self.assertRaises(TypeError):
                time_from_ticks(ticks)

    def test_any_format_and_scale(self) -> None:
        cases = [
            Time("2026-11-23T07:38:05.9619467"),
            Time("2026-11-23T07:38:42.9619467", scale="tai"),
            Time("2026-11-23T07:39:15.1459467", scale="tt"),
            Time("1795419485.9619467", format="unix"),
            Time("2026-11-23T07:38:05.9619467").tcb,
        ]
        for t in cases:
            with self.subTest(t=t):
                self.assertEqual(ticks_from_time(t), TICKS)

    def test_nearest_count(self) -> None:
        for tail, expected in [(".4", TICKS), (".6", TICKS + 1)]:
            with self.subTest(tail):
                self.assertEqual(ticks_from_time(Time(f"{TICKS}{tail}", format="discos")), expected)

    def test_no_scalar(self) -> None:
        for values in (["1"], ["1", "2"], np.array([["1"]])):
            with self.subTest(values=values), self.assertRaises(TypeError):
                ticks_from_time(Time(values, format="discos"))

    def test_no_time(self) -> None:
        for value in (None, TICKS, 1.0, str(TICKS), datetime(2026, 1, 1), TimeDelta(1, format="sec")):
            with self.subTest(value=value), self.assertRaises(TypeError):
                ticks_from_time(value)

    def test_no_instant(self) -> None:
        t = Time([str(TICKS), "1"], format="discos")
        t[1] = np.ma.masked
        self.assertEqual(ticks_from_time(t[0]), TICKS)
        with self.assertRaises(ValueError):
            ticks_from_time(t[1])
        with self.assertRaises(ValueError):
            ticks_from_time(Time("2026-01-01", scale="local"))


class ParseUnixTimeTests(unittest.TestCase):
    """parse_unix_time, a name of the original."""

    def test_reads(self) -> None:
        cases = [
            ("0", 0),
            ("0.0", 0),
            ("1795419485.9619467", TICKS),
            ("1795419485.96194671", TICKS),
            ("1795419485.96194679999999999999999", TICKS),
            ("1795419485.9619468", TICKS + 1),
            ("1795419485", 17954194850000000),
            ("1795419485.", 17954194850000000),
            ("1795419485.5", 17954194855000000),
            ("+1795419485.9619467", TICKS),
            (" 1795419485.9619467\n", TICKS),
            ("1.7954194859619467e9", TICKS),
            ("1.7954194859619467E+9", TICKS),
            ("1e5", 10**12),
            ("1e-7", 1),
            ("9e-8", 0),
            ("-1.5", -15000000),
            ("-0.00000019", -1),
            ("1e12", 10**19),
        ]
        for text, expected in cases:
            with self.subTest(text):
                t = parse_unix_time(text)
                self.assertEqual((t.format, t.scale), ("discos", "utc"))
                self.assertEqual(whole(t), expected)

    def test_as_the_original_was_called(self) -> None:
        now = time.time()
        t = parse_unix_time(Decimal(now).to_eng_string())
        self.assertLessEqual(abs(t.datetime - Time(now, format="unix").datetime), timedelta(microseconds=1))

    @given(instants)
    def test_round_trip(self, ticks: int) -> None:
        self.assertEqual(whole(parse_unix_time(Ticks(ticks).unix_text())), ticks)
        self.assertEqual(whole(parse_unix_time(Decimal(ticks).scaleb(-7).to_eng_string())), ticks)

    @given(st.text(max_size=12))
    def test_any_text(self, text: str) -> None:
        try:
            t = parse_unix_time(text)
        except ValueError:
            return
        self.assertEqual(t.format, "discos")

    def test_no_number(self) -> None:
        words = ("", " ", "abc", "0x10", "1.2.3", "1,5", "nan", "NaN123", "sNaN", "inf", "-Infinity")
        for text in (*words, "1e999999999", "9" * 60):
            with self.subTest(text), self.assertRaises(ValueError):
                parse_unix_time(text)


class UnixToAcsTimeTests(unittest.TestCase):
    """unix_to_acs_time and get_acs_now, names of the original."""

    def test_nearest_count(self) -> None:
        cases: list[tuple[Any, int]] = [
            (0, 0),
            (0.0, 0),
            (1.5, 15000000),
            (-1.5, -15000000),
            (1795419485.9619467, TICKS),
            (1e12, 10**19),
            (np.float64(0.1), 10**6),
            (np.int64(7), 7 * 10**7),
        ]
        for seconds, expected in cases:
            with self.subTest(seconds=seconds):
                t = unix_to_acs_time(seconds)
                self.assertEqual((t.format, t.scale), ("discos", "utc"))
                self.assertEqual(whole(t), expected)

    @given(st.floats(-(10**10), 10**10))
    def test_exact(self, seconds: float) -> None:
        ticks = whole(unix_to_acs_time(seconds))
        self.assertLessEqual(abs(ticks - Fraction(seconds) * 10**7), Fraction(1, 2))

    def test_same_datetime_as_unix(self) -> None:
        now = time.time()
        ours = unix_to_acs_time(now).datetime
        self.assertLessEqual(abs(ours - Time(now, format="unix").datetime), timedelta(microseconds=1))

    def test_no_number(self) -> None:
        for seconds in (float("nan"), float("inf"), float("-inf")):
            with self.subTest(seconds=seconds), self.assertRaises(ValueError):
                unix_to_acs_time(seconds)
        with self.assertRaises(TypeError):
            unix_to_acs_time("1795419485")  # type: ignore[arg-type]

    def test_now(self) -> None:
        before = Ticks.now()
        t = get_acs_now()
        after = Ticks.now()
        self.assertEqual((t.format, t.scale), ("discos", "utc"))
        self.assertLessEqual(before, ticks_from_time(t))
        self.assertLessEqual(ticks_from_time(t), after)

    def test_now_is_the_host_s_clock_in_utc(self) -> None:
        moment = datetime(2026, 11, 23, 7, 38, 5, 961946, tzinfo=UTC)
        with mock.patch.object(Ticks, "now", return_value=Ticks(TICKS)):
            self.assertEqual(whole(get_acs_now()), TICKS)
            self.assertLess(abs(get_acs_now().to_datetime(UTC) - moment), timedelta(microseconds=2))


class ForbidDownloadsTests(unittest.TestCase):
    """forbid_downloads."""

    def test_nothing_is_fetched(self) -> None:
        address = "https://tables.invalid/leap-seconds.list"
        fetching = mock.patch("astropy.utils.iers.iers.download_file")
        with iers.conf.set_temp("auto_download", True), fetching as fetch:
            forbid_downloads()
            self.assertFalse(iers.conf.auto_download)
            with self.assertRaises(ValueError):
                iers.LeapSeconds.auto_open([address])
            fetch.assert_not_called()


if __name__ == "__main__":
    unittest.main()
