"""Values and tables against the annotations of records."""

from __future__ import annotations

import math
import re
import unittest
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from hypothesis import given
from hypothesis import strategies as st

from discosbackend.commands import Command
from discosbackend.schema import (
    NEEDED,
    NO_KEY,
    YEAR,
    Allowed,
    OneLine,
    Range,
    check,
    checked,
    expected,
    from_text,
    keys,
    one_line,
    read,
    read_values,
    shown,
)
from discosbackend.simulator.faults.kinds import KINDS
from discosbackend.simulator.instrument.model import ConfigurationKeys, ProfileKeys
from discosbackend.simulator.signal.sky import Source
from discosbackend.testing.profile import Profile


class Wrong(Exception):
    """What the reader of these tests raises."""


Kelvin = Annotated[float, Allowed("K", above=0, most=1e6)]
Even = Annotated[int, Allowed(valid=lambda number: number % 2 == 0, expected="an even number")]


@dataclass(frozen=True, slots=True)
class Inner:
    level: Kelvin
    names: tuple[OneLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Everything:
    """A record with every kind of type."""

    flag: bool
    count: Annotated[int, Allowed("bins", least=1, most=10)] = 1
    real: Annotated[float, Allowed(least=0)] | None = None
    needed: Annotated[Kelvin, NEEDED] = 3.0
    even: Even = 0
    text: str = ""
    line: OneLine = "x"
    short: Annotated[str, one_line(3)] = "x"
    higher: Annotated[Kelvin, Allowed(above=5)] = 6.0
    lower: Annotated[Annotated[Kelvin, Allowed(most=9)], Allowed(most=20, valid=lambda number: number != 7)] = 6.0
    over: Annotated[Kelvin | None, Allowed(valid=lambda number: number > 3, expected="above three")] = None
    band: Range[Kelvin] = (1.0, 2.0)
    items: tuple[Even, ...] = ()
    pairs: tuple[tuple[float, int], ...] = ()
    more: Sequence[object] = ()
    table: Mapping[str, float] = field(default_factory=dict)
    rest: Annotated[float, Allowed("MHz", least=1, names={"HI": 1420.4})] = 1.0
    inner: Inner | None = None
    listed: tuple[Inner, ...] = ()
    named: Mapping[str, Inner] = field(default_factory=dict)
    made: Annotated[int, NO_KEY] = field(init=False, default=3)


LEAST: dict[str, Any] = {"flag": True, "needed": 2}


class ReadTests(unittest.TestCase):
    def complaint(self, table: Any, record: Any = Everything, where: str = "", **options: Any) -> str:
        with self.assertRaises(Wrong) as raised:
            read(record, table, where, Wrong, **options)
        return str(raised.exception)

    def test_the_defaults(self) -> None:
        self.assertEqual(read(Everything, LEAST, "", Wrong), Everything(flag=True, needed=2.0))

    def test_every_type(self) -> None:
        for key, value, wanted in (
            ("flag", False, False),
            ("count", 1, 1),
            ("count", 10, 10),
            ("short", "abc", "abc"),
            ("real", 2, 2.0),
            ("real", None, None),
            ("text", "a\n", "a\n"),
            ("band", [1, 1], (1.0, 1.0)),
            ("items", [2, 4], (2, 4)),
            ("items", [], ()),
            ("pairs", [[1, 2]], ((1.0, 2),)),
            ("more", [1, "x"], (1, "x")),
            ("table", {"a": 1}, {"a": 1.0}),
            ("rest", "HI", 1420.4),
            ("inner", {"level": 1}, Inner(1.0)),
            ("inner", Inner(1.0), Inner(1.0)),
            ("listed", [{"level": 1}, {"level": 2, "names": ["a"]}], (Inner(1.0), Inner(2.0, ("a",)))),
            ("named", {"a b": {"level": 1}}, {"a b": Inner(1.0)}),
        ):
            with self.subTest(key, value=value):
                found = getattr(read(Everything, {**LEAST, key: value}, "", Wrong), key)
                self.assertEqual((found, type(found)), (wanted, type(wanted)))

    def test_wrong_values(self) -> None:
        for key, value, wanted in (
            ("flag", 1, "flag must be true or false, not 1"),
            ("count", 0, "count must be a whole number of bins from 1 to 10, not 0"),
            ("count", 1.0, "not 1.0"),
            ("count", True, "not true"),
            ("count", None, "not None"),
            ("real", True, "not true"),
            ("real", -1, "real must be a number, 0 or more, not -1"),
            ("real", math.nan, "not nan"),
            ("real", math.inf, "not inf"),
            ("real", 10**400, "not 1000"),
            ("needed", 0, "needed must be a number of K above 0, at most 1000000, not 0"),
            ("even", 3, "even must be an even number, not 3"),
            ("text", 3, "text must be text, not 3"),
            ("line", " ", "line must be one line of text, not ' '"),
            ("short", "abcd", "short must be one line of text of at most 3 characters, not 'abcd'"),
            ("higher", 2, "higher must be a number of K above 5, at most 1000000, not 2"),
            ("higher", 2e6, "higher must be a number of K above 5, at most 1000000, not 2000000.0"),
            ("lower", 10, "lower must be a number of K above 0, at most 9, not 10"),
            ("lower", 0, "lower must be a number of K above 0, at most 9, not 0"),
            ("lower", 7, "lower must be a number of K above 0, at most 9, not 7"),
            ("line", "a\n", "line must be one line of text, not 'a\\n'"),
            ("over", 2, "over must be above three, not 2"),
            ("band", [2, 1], "band must be a pair [lowest, highest] of numbers of K above 0, at most 1000000, not"),
            ("band", [0, 1], "band[0] must be a number of K above 0, at most 1000000, not 0"),
            ("band", [1], "not [1]"),
            ("items", [3], "items[0] must be an even number, not 3"),
            ("items", 3, "items must be a list of an even number, not 3"),
            ("pairs", [[1]], "pairs[0] must be a list of 2 numbers, not [1]"),
            ("table", {"a": "x"}, "table.a must be a number, not 'x'"),
            ("table", [], "table must be a table of numbers, not []"),
            ("pairs", {}, "pairs must be a list of lists of 2 numbers: write [[pairs]] above each, not a table"),
            ("rest", "CO", "rest must be a number of MHz, 1 or more, or one of HI, not 'CO'"),
            ("inner", 3, "inner must be a table with level, names, not 3"),
            ("inner", {}, "inner.level is needed: a number of K above 0, at most 1000000"),
            (
                "listed",
                {},
                "listed must be a list of tables with level, names: write [[listed]] above each, not a table",
            ),
            ("listed", [{"level": 1}, 3], "listed[1] must be a table with level, names, not 3"),
            ("listed", [{"level": -1}], "listed[0].level must be a number of K above 0, at most 1000000, not -1"),
            ("named", 3, "named must be a table of tables with level, names, not 3"),
            ("named", {"a b": {"lvel": 1}}, "named.'a b'.lvel is not known: did you mean level?"),
            ("zzz", 3, "zzz is not known: known are flag, count, real"),
            ("made", 3, "made is not known"),
        ):
            with self.subTest(key, value=value):
                said = self.complaint({**LEAST, key: value})
                self.assertIn(wanted, said)
                self.assertTrue(said.startswith(key))

    def test_a_key_that_is_needed_although_the_record_has_a_default(self) -> None:
        self.assertEqual(self.complaint({"flag": True}), "needed is needed: a number of K above 0, at most 1000000")

    def test_paths(self) -> None:
        self.assertEqual(self.complaint({}, where="a.b"), "a.b.flag is needed: true or false")
        self.assertEqual(self.complaint(3, Inner, "a.b"), "a.b must be a table with level, names, not 3")
        self.assertIn("a.lvl is not known: did you mean level?", self.complaint({"lvl": 1}, Inner, "a"))

    def test_values_of_another_table(self) -> None:
        behind = ("defaults", {"level": 2})
        self.assertEqual(read(Inner, {}, "a", Wrong, behind=behind), Inner(2.0))
        self.assertEqual(read(Inner, {"level": 1}, "a", Wrong, behind=behind), Inner(1.0))
        for table, other, wanted in (
            ({}, {}, "a.level is needed, there or in [defaults]: a number of K"),
            ({}, {"level": -1}, "defaults.level must be "),
            ({"level": -2}, {"level": -1}, "a.level must be "),
            ({"level": 1}, {"lvel": 1}, "defaults.lvel is not known: did you mean level?"),
            ({"level": 1}, 3, "defaults must be a table with level, names, not 3"),
        ):
            with self.subTest(wanted):
                self.assertIn(wanted, self.complaint(table, Inner, "a", behind=("defaults", other)))

    def test_types_alone(self) -> None:
        table = {"flag": True, "count": 99, "even": 3, "band": [2, -1], "line": "", "inner": {"level": -1}}
        self.assertEqual(
            read(Everything, table, "", Wrong, ranges=False),
            Everything(True, 99, even=3, band=(2.0, -1.0), line="", inner=Inner(-1.0)),
        )
        self.assertIn("count must be a whole number, not '4'", self.complaint({**table, "count": "4"}, ranges=False))
        self.assertIn("band must be a list of 2 numbers", self.complaint({**table, "band": [1]}, ranges=False))

    def test_what_the_record_itself_refuses(self) -> None:
        @dataclass
        class Ordered:
            first: int
            last: int

            def __post_init__(self) -> None:
                if self.last < self.first:
                    raise ValueError("last is before first")

        self.assertEqual(self.complaint({"first": 2, "last": 1}, Ordered, "a"), "a: last is before first")
        self.assertEqual(self.complaint({"first": 2, "last": 1}, Ordered), "last is before first")

    def test_limits_in_limits(self) -> None:
        for hint, good, bad, wanted in (
            (Annotated[Even, Allowed(expected="2 or 4", valid=(2, 3, 4).__contains__)], 4, (3, 6), "2 or 4"),
            (
                Annotated[Annotated[float, Allowed(names={"HI": 1.0})], Allowed("MHz", names={"CO": 2.0})],
                "HI",
                ("OH",),
                "a number of MHz, or one of HI, CO",
            ),
            (Annotated[Annotated[float, Allowed(above=3)] | None, Allowed(above=1)], 4, (2,), "a number above 3"),
        ):
            with self.subTest(wanted):
                self.assertEqual(expected(hint), wanted)
                checked(hint, good, "x", Wrong)
                for value in bad:
                    with self.assertRaisesRegex(Wrong, f"^x must be {re.escape(wanted)}, not "):
                        checked(hint, value, "x", Wrong)

    def test_limits_that_cannot_be_combined(self) -> None:
        for hint, wanted in (
            (Annotated[Annotated[float, Allowed("s")], Allowed("ms")], "the units ms and s"),
            (Annotated[OneLine, Allowed(valid=str.islower)], "needs `expected`"),
        ):
            with self.subTest(wanted), self.assertRaisesRegex(TypeError, wanted):
                expected(hint)

    def test_a_class_that_is_no_dataclass(self) -> None:
        class Plain:
            first: int
            last: int = 3

        self.assertEqual(read_values(Plain, {"first": 1}, "", Wrong), {"first": 1})
        with self.assertRaisesRegex(Wrong, "first is needed: a whole number"):
            read_values(Plain, {"last": 1}, "", Wrong)

    def test_a_record_that_is_made_by_a_call(self) -> None:
        @dataclass(frozen=True, slots=True)
        class Checked:
            level: Kelvin
            rest: Annotated[float, Allowed(names={"HI": 1420.4})] = 1.0

            def __post_init__(self) -> None:
                check(self, Wrong)

        self.assertEqual(Checked(level=2, rest="HI"), Checked(2.0, 1420.4))  # type: ignore[arg-type]  # as a file says it
        with self.assertRaisesRegex(Wrong, "^level must be a number of K above 0"):
            Checked(level=-1)


# Whatever a TOML or JSON file may have, and the keys of some tables.
NAMES = ("level", "names", "feeds", "lines", "rest", "width", "peak", "first", "last", "bins", "command", "duration")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates()
NUMBERS = st.integers(-3, 12) | st.floats(-1, 3)
VALUES = st.recursive(
    SCALARS | NUMBERS | st.sampled_from(["HI", "ok", "fail", "a b", "status"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "x"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


# Every record that the package reads, with each of its keys.
RECORDS = (ProfileKeys, ConfigurationKeys, Source, *KINDS.values(), Profile, Command)
DECLARED = [(record, key) for record in RECORDS for key in keys(record)]


class AnyValueTests(unittest.TestCase):
    @given(st.sampled_from(sorted(keys(Everything))), VALUES)
    def test_a_record_or_an_error_that_names_the_key(self, key: str, value: Any) -> None:
        try:
            found = read(Everything, {**LEAST, key: value}, "", Wrong)
        except Wrong as problem:
            self.assertTrue(str(problem).startswith(key), problem)
            self.assertEqual(len(str(problem).splitlines()), 1)
            return
        # What was read is of the declared type: it is accepted again, and unchanged.
        again = checked(keys(Everything)[key], getattr(found, key), key, Wrong)
        self.assertEqual(again, getattr(found, key))

    @given(st.sampled_from(DECLARED), VALUES)
    def test_every_key_that_the_package_declares(self, declared: tuple[type, str], value: Any) -> None:
        record, key = declared
        try:
            checked(keys(record)[key], value, key, Wrong)
        except Wrong as problem:
            self.assertTrue(str(problem).startswith(key), problem)
            self.assertEqual(len(str(problem).splitlines()), 1)

    @given(VALUES)
    def test_any_table(self, table: Any) -> None:
        with self.assertRaises(Wrong):
            read(Everything, table, "there", Wrong)


class DescriptionTests(unittest.TestCase):
    def test_expected(self) -> None:
        for hint, one, many in (
            (float, "a number", "numbers"),
            (Kelvin, "a number of K above 0, at most 1000000", "numbers of K above 0, at most 1000000"),
            (Annotated[float, Allowed(above=0)], "a number above 0", "numbers above 0"),
            (Annotated[int, Allowed("s", least=0)], "a whole number of s, 0 or more", "whole numbers of s, 0 or more"),
            (
                Annotated[int, Allowed("seconds", above=0, most=YEAR)],
                "a whole number of seconds above 0, at most a year",
                "whole numbers of seconds above 0, at most a year",
            ),
            (Annotated[int, Allowed(most=3)], "a whole number, at most 3", "whole numbers, at most 3"),
            (tuple[Inner, ...], "a list of tables with level, names", "lists of tables with level, names"),
            (Mapping[str, object], "a table", "tables"),
        ):
            with self.subTest(one):
                self.assertEqual((expected(hint), expected(hint, many=True)), (one, many))

    def test_words_of_a_command_line(self) -> None:
        for hint, text, wanted in (
            (Kelvin, "2", 2),
            (Kelvin, "2.5", 2.5),
            (Kelvin, "soon", "soon"),
            (int, "1.5", 1.5),
            (str, "7", "7"),
            (bool, "true", True),
            (bool | None, "false", False),
            (bool, "1", "1"),
        ):
            with self.subTest(hint, text=text):
                self.assertEqual(from_text(hint, text), wanted)

    def test_shown(self) -> None:
        for value, wanted in (
            ({}, "a table"),
            (True, "true"),
            ("x" * 99, "'" + "x" * 59 + "..."),
            (10**5000, "that number"),
        ):
            self.assertEqual(shown(value), wanted)


if __name__ == "__main__":
    unittest.main()
