"""Tests of ticks: instants as integers, their text forms (protocol sections 3.5 and 3.6), and what a backend gives."""

from __future__ import annotations

import copy
import math
import pickle
import unittest
from decimal import Decimal
from fractions import Fraction
from unittest import mock

import numpy as np
from astropy.time import Time, TimeDelta
from astropy.utils import iers
from hypothesis import example, given
from hypothesis import strategies as st

from discosbackend.ticks import TICKS_PER_SECOND, UNIX_SECONDS_BELOW, Ticks, now_ticks
from discosbackend.timediscos import time_from_ticks

# The document's own example. It is above 2^53, where a double is 2 counts coarse.
TICKS = 14309227829708831

# Both ways, in either form: the count, Unix seconds.
SAME_INSTANT = (
    (TICKS, "1430922782.9708831"),
    (14309227829708830, "1430922782.9708830"),
    (0, "0.0000000"),
    (1, "0.0000001"),
    (9999999, "0.9999999"),
    (10000000, "1.0000000"),
    (10**12, "100000.0000000"),
    (17954194859619467, "1795419485.9619467"),
    (10**18 + 1, "100000000000.0000001"),
    (10**19 - 1, "999999999999.9999999"),
)

# What a peer may send, and the instant it means.
ACCEPTED = (
    # An integer counts 100 ns, whatever its size.
    ("14309227829708830", 14309227829708830),
    ("1430922782", 1430922782),
    ("0", 0),
    ("1", 1),
    ("+5", 5),
    ("-5", -5),
    ("-0", 0),
    ("0000000000000000007", 7),
    ("9" * 19, 10**19 - 1),
    ("999999999999", 10**12 - 1),
    # With a point and below 10^12 it is Unix seconds.
    ("1430922782.97088300", 14309227829708830),
    ("1430922782.9", 14309227829000000),
    ("+1430922782.9", 14309227829000000),
    ("1430922782.0", 14309227820000000),
    ("0.5", 5000000),
    ("-0.5", -5000000),
    ("-1.25", -12500000),
    ("0.0", 0),
    ("999999999999.9999999", 10**19 - 1),
    # Digits beyond 100 ns are dropped, never rounded.
    ("1430922782.97088319999999999999", TICKS),
    ("0.00000009", 0),
    ("0.99999999", 9999999),
    ("-0.00000019", -1),
    ("1.5" + "0" * 1000 + "1", 15000000),
    # From 10^12 on it is 100 ns, as a public test client prints it.
    ("14309227829708830.0000000", 14309227829708830),
    ("14309227829708831.0000000", TICKS),
    ("14309227829708831.9999999", TICKS),
    ("1000000000000.0", 10**12),
    ("1000000000000.9999999", 10**12),
    ("-1000000000000.5", -(10**12)),
    ("9" * 19 + ".0", 10**19 - 1),
)

REFUSED = (
    "", " ", "+", "-", ".", "-.", "soon", "now", "*", "1 ", " 1", "1\n", "1.5\n", "1.5 ", "1 .5", "\t1",
    "1\0",
    "1_000", "1.0_0", "1,5", "1.2.3", "1..2", "--1", "+-1", "1-", "0x10", "1e5", "1.5e3", "1E5", "nan", "inf",
    "-inf", "infinity", "1.5L", "1.5s", "1" * 20, "-" + "1" * 20, "1" * 20 + ".5", "\u0661\u0662", "\uff11",
    "1.\u0665", "\xb2", "1.\xb2", "2015-05-06T14:33:02", "\u22121",
)  # fmt: skip

counts = st.integers(0, 10**19 - 1)
fractions = st.text("0123456789", max_size=20)


def setUpModule() -> None:
    """No test waits for a network."""
    unittest.enterModuleContext(iers.conf.set_temp("auto_download", False))


class TicksTests(unittest.TestCase):
    """An int with a meaning."""

    def test_is_an_int(self) -> None:
        instant = Ticks(TICKS)
        self.assertIsInstance(instant, int)
        self.assertEqual(instant, TICKS)
        self.assertEqual(hash(instant), hash(TICKS))
        self.assertLess(instant, TICKS + 1)
        self.assertEqual(f"{instant:d}", str(TICKS))
        self.assertEqual(max(Ticks(1), Ticks(3), Ticks(2)), 3)

    def test_a_difference_is_no_instant(self) -> None:
        self.assertIs(type(Ticks(5) - Ticks(3)), int)
        self.assertIs(type(Ticks(5) + 1), int)

    def test_survives_copies(self) -> None:
        for again in (
            copy.copy(Ticks(TICKS)),
            copy.deepcopy(Ticks(TICKS)),
            pickle.loads(pickle.dumps(Ticks(TICKS))),
        ):
            self.assertIs(type(again), Ticks)
            self.assertEqual(again, TICKS)

    def test_unix(self) -> None:
        self.assertEqual(Ticks(0).unix, 0.0)
        self.assertEqual(Ticks(15000000).unix, 1.5)
        self.assertEqual(Ticks(14309227825000000).unix, 1430922782.5)
        self.assertIsInstance(Ticks(10000000).unix, float)

    def test_time(self) -> None:
        for count in (TICKS, 0, 1, 10**18 + 1):
            with self.subTest(count):
                time = Ticks(count).time
                self.assertIsInstance(time, Time)
                self.assertEqual((time.format, time.scale), ("discos", "utc"))
                self.assertEqual(time.to_value("discos", subfmt="str"), str(count))
        self.assertEqual(Ticks(TICKS).time.isot, "2015-05-06T14:33:02.971")

    def test_now(self) -> None:
        """The host's clock counts ns; a tick has begun or it has not."""
        for ns, expected in ((TICKS * 100, TICKS), (TICKS * 100 + 99, TICKS), (0, 0)):
            for clock in (Ticks.now, now_ticks):
                with self.subTest(ns), mock.patch("time.time_ns", return_value=ns):
                    self.assertIs(type(clock()), Ticks)
                    self.assertEqual(clock(), expected)


class TicksTextTests(unittest.TestCase):
    """Protocol sections 3.5 and 3.6."""

    def test_unix_text(self) -> None:
        for count, text in SAME_INSTANT:
            with self.subTest(count):
                self.assertEqual(Ticks(count).unix_text(), text)

    def test_before_1970(self) -> None:
        for count, text in ((-1, "-0.0000001"), (-15000000, "-1.5000000"), (-10000000, "-1.0000000")):
            with self.subTest(count):
                self.assertEqual(Ticks(count).unix_text(), text)
                self.assertEqual(Ticks.parse(text), count)

    def test_parse_both_forms(self) -> None:
        for count, text in SAME_INSTANT:
            with self.subTest(count):
                self.assertEqual(Ticks.parse(text), count)
                self.assertEqual(Ticks.parse(str(count)), count)

    def test_accepted(self) -> None:
        for text, count in ACCEPTED:
            with self.subTest(text[:40]):
                instant = Ticks.parse(text)
                self.assertIs(type(instant), Ticks)
                self.assertEqual(instant, count)

    def test_refused(self) -> None:
        for text in REFUSED:
            with self.subTest(text), self.assertRaises(ValueError):
                Ticks.parse(text)

    def test_the_point_tells_units_apart(self) -> None:
        """The same digits: 143 s after 1970 without a point, 2015 with one."""
        self.assertEqual(Ticks.parse("1430922782"), 1430922782)
        self.assertEqual(Ticks.parse("1430922782.0"), 1430922782 * 10**7)
        self.assertEqual(UNIX_SECONDS_BELOW, 10**12)
        self.assertEqual(TICKS_PER_SECOND, 10**7)

    @given(counts)
    def test_ticks_to_text_and_back(self, count: int) -> None:
        seconds, rest = divmod(count, 10**7)
        instant = Ticks(count)
        self.assertEqual(instant.unix_text(), f"{seconds}.{str(rest).zfill(7)}")
        self.assertEqual(Ticks.parse(instant.unix_text()), count)
        self.assertEqual(Ticks.parse(str(instant)), count)

    @given(st.integers(0, 10**12 - 1), fractions)
    @example(10**12 - 1, "9" * 20)
    def test_seconds_with_any_fraction(self, seconds: int, fraction: str) -> None:
        text = f"{seconds}.{fraction or '0'}"
        self.assertEqual(Ticks.parse(text), math.floor(Fraction(text) * 10**7))

    @given(st.integers(10**12, 10**19 - 1), fractions)
    @example(10**12, "")
    def test_counts_with_any_fraction(self, count: int, fraction: str) -> None:
        self.assertEqual(Ticks.parse(f"{count}.{fraction or '0'}"), count)

    @given(st.text(st.sampled_from("0123456789.-+e _\n\u0661")))
    def test_any_text_is_read_as_a_number_or_refused(self, text: str) -> None:
        try:
            instant = Ticks.parse(text)
        except ValueError:
            return
        number = Fraction(text)
        self.assertTrue(text.isascii())
        if "." in text and abs(int(number)) < 10**12:
            number *= 10**7
        self.assertEqual(instant, math.trunc(number))


class TicksOfTests(unittest.TestCase):
    """What a backend may give for an instant (protocol section 5.6)."""

    def test_ticks_are_ticks(self) -> None:
        """Whatever their size: a count below 10^12 is no number of seconds."""
        for count in (0, 5, TICKS, -5):
            self.assertEqual(Ticks.of(Ticks(count)), count)

    def test_numbers(self) -> None:
        cases = (
            (0, 0), (1, 10**7), (1430922782, 14309227820000000), (10**12 - 1, (10**12 - 1) * 10**7),
            (10**12, 10**12), (TICKS, TICKS), (10**18 + 1, 10**18 + 1), (-1, -(10**7)),
            (0.0, 0), (1.5, 15000000), (0.1, 10**6), (1430922782.5, 14309227825000000), (-0.25, -2500000),
            (1430922782.0, 14309227820000000), (1e12 - 1, (10**12 - 1) * 10**7), (1e12, 10**12),
            (14309227829708830.0, 14309227829708830), (0.3, 3 * 10**6), (1.1, 11 * 10**6),
            (-(10**12) + 1, (-(10**12) + 1) * 10**7), (-(10**12), -(10**12)), (-1e12, -(10**12)), (-TICKS, -TICKS),
        )  # fmt: skip
        for value, expected in cases:
            with self.subTest(value):
                self.assertIs(type(Ticks.of(value)), Ticks)
                self.assertEqual(Ticks.of(value), expected)

    def test_numpy_scalars(self) -> None:
        cases = (
            (np.int64(TICKS), TICKS), (np.int64(1430922782), 14309227820000000), (np.uint8(2), 2 * 10**7),
            (np.int32(5), 5 * 10**7), (np.uint64(10**12), 10**12), (np.float64(1.5), 15000000),
            (np.float32(0.5), 5000000), (np.float64(14309227829708830.0), 14309227829708830),
            (np.longdouble(1.5), 15000000), (np.array(5), 5 * 10**7),
        )  # fmt: skip
        for value, expected in cases:
            with self.subTest(repr(value)):
                self.assertIs(type(Ticks.of(value)), Ticks)
                self.assertEqual(Ticks.of(value), expected)

    def test_times(self) -> None:
        cases = (
            (Time(str(TICKS), format="discos"), TICKS),
            (time_from_ticks(TICKS), TICKS),
            (Time("2015-05-06T14:33:02.9708831", scale="utc"), TICKS),
            (Time("2015-05-06T14:33:02.9708831", scale="utc").tai, TICKS),
            (Time(1430922782.5, format="unix"), 14309227825000000),
            (Time("1970-01-01T00:00:01", scale="utc"), 10**7),
        )
        for value, expected in cases:
            with self.subTest(repr(value)):
                self.assertIs(type(Ticks.of(value)), Ticks)
                self.assertEqual(Ticks.of(value), expected)

    def test_no_instant(self) -> None:
        for value in (
            "1430922782.5", b"1", None, [1], (1, 2), {}, object(), 1j, np.array([1.5, 2.5]), np.array([1, 2]),
            np.datetime64("2015-05-06T14:33:02"), TimeDelta(1, format="sec"),
            Time([1.0, 2.0], format="unix"),
        ):  # fmt: skip
            with self.subTest(repr(value)), self.assertRaises(TypeError):
                Ticks.of(value)

    def test_not_finite(self) -> None:
        for value in (math.nan, math.inf, -math.inf, np.float64("nan"), np.float32("inf"), Decimal("nan")):
            with self.subTest(repr(value)), self.assertRaises(ValueError):
                Ticks.of(value)

    @given(st.integers(0, 4 * 10**16))
    def test_times_are_exact(self, count: int) -> None:
        self.assertEqual(Ticks.of(Ticks(count).time), count)

    @given(st.floats(0, 999999999999, exclude_max=True))
    @example(1430922782.970883)
    @example(0.49999999999999994)
    def test_seconds_as_float_are_rounded_once(self, seconds: float) -> None:
        """The double itself may be coarse; nothing is lost on top of that."""
        exact = Fraction(seconds) * 10**7
        self.assertLessEqual(abs(Ticks.of(seconds) - exact), Fraction(1, 2) + Fraction(1, 10**6))

    @given(st.integers(10**12, 2**53))
    def test_counts_as_float_are_exact(self, count: int) -> None:
        self.assertEqual(Ticks.of(float(count)), count)


if __name__ == "__main__":
    unittest.main()
