"""Tests of values: what a text means, and what a backend may return (protocol sections 3 and 5)."""

from __future__ import annotations

import enum
import itertools
import math
import os
import time
import unittest
from collections import OrderedDict, UserDict, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.time import Time, TimeDelta
from astropy.utils import iers
from hypothesis import example, given
from hypothesis import strategies as st

from discosbackend.commands import Field
from discosbackend.errors import BackendError, ReplyTooLong, UnsendableError
from discosbackend.ticks import Ticks
from discosbackend.values import TYPES, float_text, parse_boolean, parse_float, parse_integer, path_text, texts

LIMIT = 511
TICKS = 14309227829708831

INTEGERS = (
    ("0", 0), ("7", 7), ("-1", -1), ("+20", 20), ("-0", 0), ("007", 7), ("9" * 19, 10**19 - 1),
    ("-" + "9" * 19, 1 - 10**19), ("0" * 18 + "1", 1),
)  # fmt: skip
NO_INTEGERS = (
    "", " ", "+", "-", "1 ", " 1", "1\n", "\n1", "\t1", "1_0", "1.0", "1.", "1e3", "0x10", "0b1", "--1",
    "+-1",
    "1-", "1" * 20, "0" * 20, "nan", "ten", "*", "1,", "\u0661", "\uff11", "\xb2", "\u096b", "1\0", "\u22121",
)  # fmt: skip

# What C's strtod reads to its end, and is finite.
FLOATS = (
    ("10", 10.0), ("-1.5", -1.5), ("1.23457e+06", 1234570.0), ("22030.5", 22030.5), ("+3", 3.0), ("0", 0.0),
    ("-0", -0.0), ("007", 7.0), (".5", 0.5), ("5.", 5.0), ("-.5", -0.5), ("+5.e2", 500.0), ("1E3", 1000.0),
    ("1e3", 1000.0), ("1e-3", 0.001), ("1e+3", 1000.0), ("1e03", 1000.0), (".5e1", 5.0), ("1e-400", 0.0),
    ("0e999", 0.0), ("5e-324", 5e-324), ("1.7976931348623157e308", 1.7976931348623157e308),
    ("0.1", 0.1), ("1" * 300, float("1" * 300)), ("0." + "0" * 400 + "1e400", 0.1),
    ("2.2250738585072011e-308", 2.2250738585072011e-308),
)  # fmt: skip
NO_FLOATS = (
    "", " ", "+", "-", ".", "e5", ".e5", "1e", "1e+", "1 ", " 1", "1\n", "\t1", "1_000", "1_0.5", "1e1_0",
    "nan", "NaN", "-nan", "nan(1)", "inf", "-inf", "INF", "infinity", "Infinity", "0x10", "0x1p3", "1e400",
    "-1e400", "9" * 400, "1.2.3", "1..2", "--1", "+-1", "1-2", "1,5", "1e5.0", "1 e5", "1e 5", "1e+-5", "1d5",
    "1f", "1.5f", "*", "MHz", "22 MHz", "\u0661", "\uff11.5", "\xb2", "1.\xb2", "1e\u0665", "\xbd", "1\0",
    "\u22121",
)  # fmt: skip

DECIMAL = r"\A-?[0-9]+(\.[0-9]+)?\Z"

ONE = (Field("value", "float"),)
ANY = (Field("values", "float", repeated=True),)
CLOCK = (Field("timestamp", "timestamp"),)
STATUS = (*CLOCK, Field("status", "text", unescaped=True), Field("acquiring", "boolean"))


class Mode(str, enum.Enum):
    """A text with a name."""

    FULL = "FullStokes"


class Gain(enum.IntEnum):
    """A number with a name."""

    HIGH = 3


class Text(str):
    """A text whose str() is something else."""

    def __str__(self) -> str:
        return "<text>"


class Sequence:
    """Iterable by index only."""

    def __getitem__(self, index: int) -> int:
        return [4, 5, 6][index]


def setUpModule() -> None:
    """No test waits for a network."""
    unittest.enterModuleContext(iers.conf.set_temp("auto_download", False))


class ParseTests(unittest.TestCase):
    """What is accepted from a peer."""

    def test_types(self) -> None:
        self.assertEqual(list(TYPES), ["integer", "float", "boolean", "timestamp", "text", "path"])
        for name, (_, words) in TYPES.items():
            with self.subTest(name):
                self.assertTrue(words.isascii())
                self.assertNotRegex(words, "[,!]")

    def test_integers(self) -> None:
        for text, expected in INTEGERS:
            with self.subTest(text):
                self.assertIs(type(parse_integer(text)), int)
                self.assertEqual(parse_integer(text), expected)
                self.assertEqual(TYPES["integer"][0](text), expected)

    def test_no_integers(self) -> None:
        for text in NO_INTEGERS:
            with self.subTest(text), self.assertRaises(ValueError):
                TYPES["integer"][0](text)

    def test_floats(self) -> None:
        for text, expected in FLOATS:
            with self.subTest(text[:40]):
                self.assertIs(type(parse_float(text)), float)
                self.assertEqual(parse_float(text), expected)
                self.assertEqual(math.copysign(1, parse_float(text)), math.copysign(1, expected))
                self.assertEqual(TYPES["float"][0](text), expected)

    def test_no_floats(self) -> None:
        for text in NO_FLOATS:
            with self.subTest(text[:40]), self.assertRaises(ValueError):
                TYPES["float"][0](text)

    def test_booleans(self) -> None:
        self.assertIs(parse_boolean("1"), True)
        self.assertIs(parse_boolean("0"), False)
        for text in ("", "2", "01", "+1", "-0", "1 ", "1\n", "1.0", "true", "True", "\u0661", "\xb9", "*"):
            with self.subTest(text), self.assertRaises(ValueError):
                TYPES["boolean"][0](text)

    def test_timestamps(self) -> None:
        """In a request: never zero nor before (protocol section 7.3)."""
        cases = (("1", 1), (str(TICKS), TICKS), ("1430922782.9708831", TICKS), ("0.0000001", 1))
        for text, expected in cases:
            with self.subTest(text):
                self.assertIs(type(TYPES["timestamp"][0](text)), Ticks)
                self.assertEqual(TYPES["timestamp"][0](text), expected)
        for text in ("0", "-0", "0.0", "0.00000009", "-1", "-5.0", "soon", "", "1e17", "nan"):
            with self.subTest(text), self.assertRaises(ValueError):
                TYPES["timestamp"][0](text)

    def test_text_is_taken_as_it_is(self) -> None:
        for text in ("SK77", " ", "0", "a,b", "\t", "\xff", "*"):
            self.assertEqual(TYPES["text"][0](text), text)

    def test_a_path_is_its_bytes(self) -> None:
        for wire, path in (
            (b"/a,b", "/a,b"),
            (b"/M\xc3\xbcller", "/M\xfcller"),
            (b"\xff\xfc/\xe2\x84\xa6", "\udcff\udcfc/\u2126"),
        ):
            with self.subTest(path):
                self.assertEqual(TYPES["path"][0](wire.decode("latin-1")), path)
                self.assertEqual(os.fsencode(path), wire)
        with self.assertRaises(ValueError):
            TYPES["path"][0]("\u2126")

    @given(st.binary())
    def test_any_bytes_of_a_path_come_back(self, raw: bytes) -> None:
        text = raw.decode("latin-1")
        self.assertEqual(path_text(TYPES["path"][0](text)), text)

    def test_no_argument_takes_long_to_refuse(self) -> None:
        """A line has 16 KiB: an expression that divides the digits in every way stops every client."""
        digits = "1" * 16000
        for text in (digits + "x", digits + ".x", "." + digits + "x", digits + "e", "1e" + digits + "x",
                     digits + "." + digits + "x", "-" + digits + " "):  # fmt: skip
            for kind, (read, _) in TYPES.items():
                if kind not in ("text", "path"):
                    began = time.process_time()
                    with self.subTest(kind, text=text[:2] + text[-2:]), self.assertRaises(ValueError):
                        read(text)
                    self.assertLess(time.process_time() - began, 0.5)

    @given(st.text(st.sampled_from("0123456789+-.eE _xn\n\u0661")))
    @example("1.e1")
    def test_any_text_is_a_number_or_refused(self, text: str) -> None:
        """What is accepted is the same to Python, of which blanks and underscores are not."""
        for read in (parse_integer, parse_float):
            try:
                value = read(text)
            except ValueError:
                continue
            self.assertEqual(value, float(text) if isinstance(value, float) else int(text))
            self.assertRegex(text, r"\A[-+0-9.eE]+\Z")

    @given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["%r", "%g", "%e", "%f"]))
    def test_every_usual_spelling_is_read(self, number: float, form: str) -> None:
        text = form % number
        if math.isfinite(float(text)):
            self.assertEqual(parse_float(text), float(text))


class FloatTextTests(unittest.TestCase):
    """Protocol section 3.2: "fixed point without exponent, with enough digits to read back the same double"."""

    def test_cases(self) -> None:
        for number, expected in (
            (1.5, "1.5"), (0.1, "0.1"), (-2.25, "-2.25"), (1e-7, "0.0000001"), (1e22, "1" + "0" * 22),
            (1.23457e6, "1234570.0"), (1.5e-5, "0.000015"), (5e-324, "0." + "0" * 323 + "5"), (0.0, "0.0"),
            (1e16, "1" + "0" * 16), (123456789012345680.0, "123456789012345680"),
        ):  # fmt: skip
            with self.subTest(number):
                self.assertEqual(float(float_text(number)), number)
                self.assertEqual(float_text(number).removesuffix(".0"), expected.removesuffix(".0"))

    def test_numpy_doubles_are_floats(self) -> None:
        """np.float64 is a float, whose repr() is "np.float64(1.5)"."""
        self.assertEqual(float_text(np.float64(1.5)), "1.5")
        self.assertEqual(float_text(np.float64(1e-9)), "0.000000001")

    def test_not_finite(self) -> None:
        for number in (math.nan, -math.nan, math.inf, -math.inf, np.float64("nan")):
            with self.subTest(repr(number)), self.assertRaises(UnsendableError):
                float_text(number)

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_reads_back_the_same_double(self, number: float) -> None:
        text = float_text(number)
        self.assertEqual(texts(number, ONE, None), [text])
        self.assertRegex(text, DECIMAL)
        self.assertEqual(parse_float(text), number)
        self.assertEqual(math.copysign(1, parse_float(text)), math.copysign(1, number))

    @given(st.floats(width=32, allow_nan=False, allow_infinity=False))
    def test_single_precision(self, number: float) -> None:
        text = "".join(texts(np.float32(number), ONE, None))
        self.assertRegex(text, DECIMAL)
        self.assertEqual(np.float32(parse_float(text)), np.float32(number))


class WholeNumber(int):
    """A kind of int, for which no field has a short way."""


class Number(float):
    """A kind of float, likewise."""


class PlainTextsTests(unittest.TestCase):
    """Python's own types take a short way, which is no other way."""

    @given(
        st.integers(-(10**18), 10**18) | st.floats(-1e15, 1e15) | st.text(max_size=9) | st.booleans(),
        st.sampled_from(sorted(TYPES)),
        st.booleans(),
    )
    def test_written_as_the_kinds_of_them_are(self, value: Any, kind: str, unescaped: bool) -> None:
        field = Field("value", kind, unescaped=unescaped)
        kinds = {int: WholeNumber, float: Number, str: Text, bool: np.bool_}
        self.assertEqual(texts(value, (field,), None), texts(kinds[type(value)](value), (field,), None))

    @given(st.integers(-(10**18), 10**18), st.sampled_from(sorted(TYPES)))
    def test_ticks_are_written_as_instants_everywhere(self, ticks: int, kind: str) -> None:
        seconds, rest = divmod(abs(ticks), 10**7)
        expected = f"{'-' * (ticks < 0)}{seconds}.{rest:07d}"
        self.assertEqual(texts(Ticks(ticks), (Field("value", kind),), None), [expected])


class TextsTests(unittest.TestCase):
    """Protocol section 5.6, "What a backend may return"."""

    def assert_sent(self, result: Any, expected: list[str], fields: tuple[Field, ...] = ()) -> None:
        """The arguments of the reply, each a plain text."""
        found = texts(result, fields, LIMIT)
        self.assertEqual(found, expected)
        self.assertEqual({type(text) for text in found} - {str}, set())

    def test_nothing(self) -> None:
        self.assert_sent(None, [])
        nothing: tuple[Any, ...] = ((), [], iter(()), np.array([]), {}.values())
        for empty in nothing:
            self.assert_sent(empty, [])

    def test_one_value(self) -> None:
        for value, expected in (
            (5, "5"), (-5, "-5"), (0, "0"), (10**19, str(10**19)), (1.5, "1.5"), (1e-7, "0.0000001"),
            (True, "1"),
            (False, "0"), ("SK77", "SK77"), ("a,b\\c", "a,b\\c"), ("", ""), (b"SK77", "SK77"),
            (b"\xe9\xff", "\xe9\xff"), (bytearray(b"ab"), "ab"), ("\u20ac", "\u20ac"),
            (Decimal("1.5"), "1.5"), (Decimal("1E+3"), "1000"),
            (Fraction(3, 2), "1.5"), (Gain.HIGH, "3"), (Mode.FULL, "FullStokes"), (Text("abc"), "abc"),
        ):  # fmt: skip
            for result in (value, (value,), [value], iter([value]), deque([value])):
                with self.subTest(repr(value), result=type(result).__name__):
                    found = texts(result, (), LIMIT)
                    self.assertEqual([text.removesuffix(".0") for text in found], [expected])
                    self.assertIs(type(found[0]), str)

    def test_instants(self) -> None:
        """A Time is written with seven decimals wherever it stands, and so are Ticks."""
        for instant in (
            Ticks(TICKS),
            Ticks(TICKS).time,
            Time("2015-05-06T14:33:02.9708831", scale="utc"),
            Time("2015-05-06T14:33:02.9708831", scale="utc").tai,
        ):
            for fields in (CLOCK, (), ONE, ANY):
                with self.subTest(repr(instant), fields=fields):
                    self.assert_sent(instant, ["1430922782.9708831"], fields)
                    self.assert_sent((instant,), ["1430922782.9708831"], fields)
        self.assert_sent(Time([1.5, 2.5], format="unix"), ["1.5000000", "2.5000000"])

    def test_a_timestamp_field_takes_numbers(self) -> None:
        for value, expected in (
            (1430922782, "1430922782.0000000"), (1430922782.5, "1430922782.5000000"), (0, "0.0000000"),
            (TICKS, "1430922782.9708831"), (10**12, "100000.0000000"), (10**12 - 1, "999999999999.0000000"),
            (14309227829708830.0, "1430922782.9708830"), (1e12, "100000.0000000"), (0.1, "0.1000000"),
            (np.int64(TICKS), "1430922782.9708831"), (np.float64(1430922782.5), "1430922782.5000000"),
            (np.array(1430922782.5), "1430922782.5000000"), (np.array(TICKS), "1430922782.9708831"),
            (Ticks(5), "0.0000005"), (np.float32(0.5), "0.5000000"),
        ):  # fmt: skip
            with self.subTest(repr(value)):
                self.assert_sent(value, [expected], CLOCK)
                self.assert_sent((value, "ok", True), [expected, "ok", "1"], STATUS)

    def test_a_number_elsewhere_is_no_timestamp(self) -> None:
        self.assert_sent((TICKS,), [str(TICKS)], (Field("count", "integer"),))
        self.assert_sent((1, "ok", 1, TICKS), ["1.0000000", "ok", "1", str(TICKS)], STATUS)

    def test_integer_and_boolean_fields(self) -> None:
        """Protocol section 3: an integer is sent as `%d`, a boolean as `1` or `0`, whatever its Python type."""
        for kind, value, expected in (
            ("integer", 20, "20"), ("integer", 20.0, "20"), ("integer", np.float64(20.0), "20"),
            ("integer", np.int16(-3), "-3"), ("integer", Decimal(20), "20"), ("integer", True, "1"),
            ("boolean", True, "1"), ("boolean", False, "0"), ("boolean", np.bool_(True), "1"),
            ("boolean", 1, "1"),
            ("boolean", 0.0, "0"), ("boolean", np.int8(0), "0"),
        ):  # fmt: skip
            with self.subTest(kind, value=repr(value)):
                self.assert_sent((value,), [expected], (Field("value", kind),))

    def test_iterables(self) -> None:
        def generator() -> Iterator[Any]:
            yield 1
            yield "a"

        for result, expected in (
            ((1, "a", b"b", True, 2.5), ["1", "a", "b", "1", "2.5"]),
            ([3, 4], ["3", "4"]),
            (range(3), ["0", "1", "2"]),
            (generator(), ["1", "a"]),
            (map(str, (1, 2)), ["1", "2"]),
            ({"a": 1}.keys(), ["a"]),
            (OrderedDict(a=1, b=2).values(), ["1", "2"]),
            (Sequence(), ["4", "5", "6"]),
            (("", "a"), ["", "a"]),
            (np.array([1, 2]), ["1", "2"]),
            (np.array([True, False]), ["1", "0"]),
            (np.array(["a", "bc"]), ["a", "bc"]),
            (np.array([b"a", b"\xff"]), ["a", "\xff"]),
            (np.array([1, "a", 2.5], dtype=object), ["1", "a", "2.5"]),
            (np.arange(6).reshape(2, 3)[1], ["3", "4", "5"]),
            (np.ma.array([1, 2]), ["1", "2"]),
        ):
            with self.subTest(repr(result)):
                self.assert_sent(result, expected)

    def test_numpy_scalars(self) -> None:
        for value, expected in (
            (np.int8(-5), "-5"), (np.uint64(2**64 - 1), str(2**64 - 1)), (np.float64(1.5), "1.5"),
            (np.float64(1e-7), "0.0000001"), (np.float32(0.5), "0.5"), (np.float16(0.5), "0.5"),
            (np.longdouble(1.5), "1.5"), (np.bool_(True), "1"), (np.bool_(False), "0"),
            (np.str_("a,b"), "a,b"),
            (np.bytes_(b"ab"), "ab"), (np.array(1.5), "1.5"), (np.array(5), "5"), (np.array(True), "1"),
            (np.ma.array(2.5), "2.5"), (np.array([1.5]).mean(), "1.5"), (np.array([3, 4])[0], "3"),
        ):  # fmt: skip
            with self.subTest(repr(value)):
                self.assert_sent(value, [expected])
                self.assert_sent([value, value], [expected, expected])

    def test_what_no_reply_can_carry(self) -> None:
        class Odd:
            """Nothing in particular."""

        async def coroutine() -> None:
            """Never awaited."""

        waiting = coroutine()
        self.addCleanup(waiting.close)
        inside: tuple[Any, ...] = (
            None, math.nan, math.inf, -math.inf, np.float64("nan"), np.float32("-inf"), Decimal("nan"),
            Decimal("sNaN"), Decimal("-Infinity"), Decimal("1e400"), Fraction(10**400), 1j, np.complex128(1),
            (), (1,), [1], {}, {1: 2},
            {1}, range(2), np.array([1]), np.array([]), np.array([[1]]), Odd(), Odd, len, waiting, object(),
            Ellipsis,
            np.ma.masked, np.ma.array(1.5, mask=True), 3 * units.MHz, 3 * units.dimensionless_unscaled,
            1 * units.s,
            TimeDelta(1, format="sec"), Time([1.0], format="unix"), datetime.now(UTC),
            np.datetime64("2015-05-06T14:33:02"), np.datetime64("2015-05-06T14:33:02", "ns"),
            np.timedelta64(5, "ns"), np.timedelta64(5, "s"), np.datetime64("NaT"),
            np.array((1, 2), dtype="i4,i4")[()], np.array(None), np.array(math.nan), iter([1]),
            (x for x in (1,)),
        )  # fmt: skip
        for value in inside:
            with self.subTest("inside", value=repr(value)):
                for result in ((value,), [1, value], iter((value, 1))):
                    with self.assertRaises(UnsendableError) as caught:
                        texts(result, (), LIMIT)
                    self.assertTrue(str(caught.exception))
            with self.subTest("in a timestamp field", value=repr(value)), self.assertRaises(UnsendableError):
                texts((value, "ok", True), STATUS, LIMIT)
        alone: tuple[Any, ...] = (
            math.nan, -math.inf, np.float64("nan"), Decimal("sNaN"), Fraction(10**400), 1j, Odd(), Odd, len,
            waiting,
            object(), Ellipsis, {}, {"a": 1}, OrderedDict(a=1), UserDict(a=1), np.ma.masked,
            np.array(math.nan),
            np.ma.array([1, 2], mask=[False, True]), np.array([[1, 2], [3, 4]]), np.array([1.0, math.nan]),
            3 * units.MHz, [1, 2] * units.MHz, TimeDelta(1, format="sec"), datetime.now(UTC),
            {"a": 1}.items(),
            np.datetime64("2015-05-06", "ns"), np.timedelta64(5, "ns"), np.complex64(1j), enumerate("ab"),
            np.array(["2015-05-06"], dtype="M8[ns]"),
        )  # fmt: skip
        for value in alone:
            with self.subTest("alone", value=repr(value)), self.assertRaises(UnsendableError):
                texts(value, (), LIMIT)

    def test_the_log_names_the_unit(self) -> None:
        for value in (3 * units.MHz, [1, 2] * units.MHz):
            with self.subTest(repr(value)), self.assertRaises(UnsendableError) as caught:
                texts(value, ANY, LIMIT)
            self.assertIn("has a unit", str(caught.exception))

    def test_masked_time(self) -> None:
        masked = Time(["2015-05-06T14:33:02", "2015-05-06T14:33:03"], scale="utc")
        masked[1] = np.ma.masked
        for result in (masked, (masked[1],)):
            with self.assertRaises(UnsendableError):
                texts(result, (), LIMIT)

    def test_a_number_that_python_will_not_write(self) -> None:
        """str() of an int refuses more than 4300 digits."""
        for value in (10**5000, -(10**5000), Ticks(10**5000)):
            for fields in ((), CLOCK, ANY):
                with self.subTest(fields=fields), self.assertRaises((UnsendableError, ReplyTooLong)):
                    texts(value, fields, LIMIT)

    def test_missing_fields_are_named(self) -> None:
        cases: tuple[tuple[Any, tuple[Field, ...], tuple[str, ...]], ...] = (
            (None, CLOCK, ("timestamp",)),
            ((), ANY, ("values",)),
            (np.array([]), ANY, ("values",)),
            (None, STATUS, ("timestamp", "status", "acquiring")),
            (5, STATUS, ("status", "acquiring")),
            ((5, "ok"), STATUS, ("acquiring",)),
            ("abc", STATUS, ("status", "acquiring")),
            ((5,), (*CLOCK, *ANY), ("values",)),
        )
        for result, fields, missing in cases:
            with self.subTest(repr(result)), self.assertRaises(UnsendableError) as caught:
                texts(result, fields, LIMIT)
            for field in fields:
                self.assertEqual(field.name in missing, repr(field.name) in str(caught.exception))

    def test_surplus_values_are_passed_on(self) -> None:
        self.assert_sent((1, 2), ["1", "2"])
        self.assert_sent((1, 5, 1.5), ["1.0000000", "5", "1.5"], CLOCK)
        self.assert_sent((5, "ok", True, "a", 1.5), ["5.0000000", "ok", "1", "a", "1.5"], STATUS)
        self.assert_sent([1.5, 2, 3], ["1.5", "2", "3"], ANY)
        self.assert_sent(1.5, ["1.5"], ANY)

    def test_a_repeated_field_goes_on(self) -> None:
        fields = (Field("count", "integer"), Field("when", "timestamp", repeated=True))
        self.assert_sent((1, 2, 3), ["1", "2.0000000", "3.0000000"], fields)

    def test_status_text_has_no_comma_and_no_backslash(self) -> None:
        """Protocol section 5.7: an escaped comma in the status text would move the acquiring flag."""
        for text, expected in (
            ("a, b", "a; b"), ("C:\\x", "C:/x"), (",\\,", ";/;"), ("ok", "ok"), (b"a,b", "a;b"),
            (np.str_("a,b"), "a;b"), (np.bytes_(b"\\"), "/"), (Mode.FULL, "FullStokes"), ("a;b/c!", "a;b/c!"),
        ):  # fmt: skip
            with self.subTest(text):
                self.assert_sent((1, text, False), ["1.0000000", expected, "0"], STATUS)

    def test_other_texts_keep_them(self) -> None:
        self.assert_sent((1, "a", 0, "b,c\\"), ["1.0000000", "a", "0", "b,c\\"], STATUS)
        self.assert_sent(("a,b\\c",), ["a,b\\c"], (Field("path", "text"),))

    def test_paths(self) -> None:
        class Name(str, enum.Enum):
            """A member is a text, but str() of it is another one."""

            FILE = "/M\xfc"

        fields = (Field("file", "path"),)
        for value, wire in (
            ("/a,b\\c", "/a,b\\c"),
            ("/M\xfc\udcff\u2126", "/M\xc3\xbc\xff\xe2\x84\xa6"),
            (Path("/M\xfc"), "/M\xc3\xbc"),
            (Name.FILE, "/M\xc3\xbc"),
            (b"/\xfc", "/\xfc"),
        ):
            with self.subTest(value):
                self.assert_sent(value, [wire], fields)
                self.assert_sent([value, value], [wire, wire], (*fields, Field("files", "path", repeated=True)))
        refused: tuple[tuple[object, tuple[Field, ...], str], ...] = (
            ("\ud800", fields, "surrogates not allowed"),
            (Path("/a"), (Field("file", "text"),), "is a path: return its text, or declare the field as a path"),
            ([Path("/a")], (), "is a path: return its text"),
        )
        for wrong, of_fields, problem in refused:
            with self.subTest(wrong), self.assertRaisesRegex(UnsendableError, problem):
                texts(wrong, of_fields, None)

    def test_text_in_a_number_field_is_sent_as_it_is(self) -> None:
        """A backend may write its numbers by itself, as the original had to."""
        self.assert_sent(("1430922782.9708830", "ok", "1"), ["1430922782.9708830", "ok", "1"], STATUS)

    def test_an_endless_iterable_ends(self) -> None:
        def endless(value: Any) -> Iterator[Any]:
            for read in range(10**4):
                self.assertLessEqual(read, LIMIT + 1)
                yield value

        for value in (1, "", "abc", 1.5, b"", True):
            for fields in ((), ANY, STATUS):
                with self.subTest(repr(value), fields=len(fields)):
                    with self.assertRaises(ReplyTooLong) as caught:
                        texts(endless(value), fields, LIMIT)
                    self.assertEqual(caught.exception.limit, LIMIT)
                    self.assertIn("511", str(caught.exception))
        with self.assertRaises(ReplyTooLong):
            texts(itertools.count(), (), LIMIT)
        with self.assertRaises(ReplyTooLong):
            texts(itertools.repeat("x" * 1000), (), None)

    def test_what_fits_is_not_refused(self) -> None:
        """The gate in protocol counts the bytes of the line; here only what can never fit ends."""
        for values in (["x" * 490], ["x"] * 245, ["x" * 100] * 4, [""] * 400):
            self.assert_sent(values, values)
        many = [str(n) for n in range(5000)]
        self.assertEqual(texts(many, (), None), many)

    def test_what_a_generator_raises_passes_through(self) -> None:
        def refusing(problem: Exception) -> Iterator[int]:
            yield 1
            raise problem

        for problem in (BackendError("no"), RuntimeError("broken"), TypeError("wrong"), ValueError("odd")):
            with self.subTest(repr(problem)), self.assertRaises(type(problem)) as caught:
                texts(refusing(problem), (), LIMIT)
            self.assertIs(caught.exception, problem)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals(),
            lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
            # Nearly all with more of them are too long for a reply.
            max_leaves=20,
        ),
        st.sampled_from([(), ONE, ANY, STATUS, CLOCK]),
    )
    def test_any_value_becomes_texts_or_is_refused(self, result: Any, fields: tuple[Field, ...]) -> None:
        try:
            found = texts(result, fields, LIMIT)
        except (UnsendableError, ReplyTooLong):
            return
        self.assertEqual({type(text) for text in found} - {str}, set())
        self.assertGreaterEqual(len(found), len(fields))
        if isinstance(result, (list, tuple)):
            self.assertEqual(len(found), len(result))
            self.assertFalse(any(isinstance(value, (type(None), list, tuple, dict)) for value in result))
        else:
            self.assertEqual(len(found), 0 if result is None else 1)


if __name__ == "__main__":
    unittest.main()
