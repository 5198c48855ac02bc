"""Tests of commands: the table, held against protocol section 4 written out by hand, and argument checks."""

from __future__ import annotations

import dataclasses
import math
import unittest
from dataclasses import replace
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, NamedTuple, cast

from hypothesis import given
from hypothesis import strategies as st

from discosbackend import commands
from discosbackend.commands import COMMANDS, CONVERSION_TIMEOUT, LANES, WILDCARD, Argument, Command, Field
from discosbackend.errors import HandlerException
from discosbackend.ticks import Ticks

TICKS = 14309227829708830


class Row(NamedTuple):
    """A row of protocol section 4: what its columns say, and the method's name."""

    name: str
    arguments: tuple[str, ...]
    reply: tuple[str, ...]
    lane: str
    method: str
    since: str = ""


# An argument or a field is "name: type unit", then its marks: `?` optional, `*` may be `*`, `+` one or more,
# `;` a comma in it is sent as `;`. The unit is written only if it is ms or MHz.
TABLE = (
    Row("status", (), ("timestamp: timestamp", "status: text ;", "acquiring: boolean"), "reads", "status"),
    Row("version", (), ("version: text",), "reads", "version"),
    Row("get-configuration", (), ("configuration: text",), "reads", "get_configuration"),
    Row("set-configuration", ("configuration: text",), (), "device", "set_configuration"),
    Row("get-integration", (), ("integration: integer ms",), "reads", "get_integration"),
    Row("set-integration", ("integration: integer ms",), (), "device", "set_integration"),
    Row(
        "get-tpi",
        ("frequency: float MHz ?", "bandwidth: float MHz ?"),
        ("tpi: float +",),
        "device",
        "get_tpi",
    ),
    Row("get-tp0", (), ("tp0: float +",), "device", "get_tp0"),
    Row("time", (), ("timestamp: timestamp",), "reads", "time"),
    Row("start", ("timestamp: timestamp ?",), (), "device", "start"),
    Row("stop", ("timestamp: timestamp ?",), (), "device", "stop"),
    Row(
        "set-section",
        (
            "section: integer *",
            "start-frequency: float MHz *",
            "bandwidth: float MHz *",
            "feed: integer *",
            "mode: text *",
            "sample-rate: float MHz *",
            "bins: integer *",
        ),
        (),
        "device",
        "set_section",
    ),
    Row("cal-on", ("interleave: integer ?",), (), "device", "cal_on"),
    Row("set-filename", ("path: path",), (), "device", "set_filename"),
    Row("convert-data", (), (), "files", "convert_data", "1.2"),
    Row("set-enable", ("feed1: integer", "feed2: integer"), (), "device", "set_enable", "1.3"),
    Row("end-schedule", (), (), "device", "end_schedule", "1.4"),
    Row("backend-park", (), (), "device", "park", "1.4"),
    Row("set-shift", ("shift: integer",), (), "device", "set_shift", "1.4"),
    Row("get-rms", (), ("rms: float +",), "device", "get_rms", "SARDARA"),
    Row("get-ddcoffset", (), ("offset: float MHz",), "device", "get_ddcoffset", "DISCOS's client library"),
    Row("get-filename", (), ("path: path",), "reads", "get_filename", "MISTRAL"),
)

# What is left out is not passed, so "absent start and stop times are absent arguments".
GOOD: tuple[tuple[str, list[str], list[Any]], ...] = (
    ("status", [], []),
    ("set-configuration", ["SK77"], ["SK77"]),
    ("set-configuration", ["a,b *"], ["a,b *"]),
    ("set-configuration", ["*"], ["*"]),
    ("set-integration", ["20"], [20]),
    ("set-integration", ["0"], [0]),
    ("set-integration", ["+20"], [20]),
    ("set-integration", ["-0"], [0]),
    ("get-tpi", [], []),
    ("get-tpi", ["0", "0"], [0.0, 0.0]),
    ("get-tpi", ["22030.5", "1e2"], [22030.5, 100.0]),
    ("start", [], []),
    ("stop", [], []),
    ("start", [str(TICKS)], [TICKS]),
    ("stop", ["1430922782.97088300"], [TICKS]),
    ("start", ["14309227829708830.0000000"], [TICKS]),
    ("start", ["1430922782"], [1430922782]),
    ("start", ["0.0000001"], [1]),
    ("set-section", ["0", "0", "1500", "0", "0", "3000", "1024"], [0, 0.0, 1500.0, 0, "0", 3000.0, 1024]),
    (
        "set-section",
        ["13", "22030.5", "1.23457e+06", "6", "FullStokes", ".5", "16384"],
        [13, 22030.5, 1234570.0, 6, "FullStokes", 0.5, 16384],
    ),
    ("set-section", ["*"] * 7, ["*"] * 7),
    ("set-section", ["-1", "-1", "-1", "-1", "-1", "-1", "-1"], [-1, -1.0, -1.0, -1, "-1", -1.0, -1]),
    ("cal-on", [], [0]),
    ("cal-on", ["0"], [0]),
    ("cal-on", ["10"], [10]),
    ("set-filename", ["/data/a b.fits"], ["/data/a b.fits"]),
    ("convert-data", [], []),
    ("set-enable", ["0", "3"], [0, 3]),
    ("set-enable", ["7", "7"], [7, 7]),
    ("set-enable", ["-1", "+1"], [-1, 1]),
    ("end-schedule", [], []),
    ("backend-park", [], []),
    ("set-shift", ["21845"], [21845]),
    ("set-shift", ["-1"], [-1]),
)

# Protocol section 5.5, for every number of arguments that is wrong.
WITHOUT_ARGUMENTS = tuple(row.name for row in TABLE if not row.arguments)
COUNTS: tuple[tuple[str, list[str], str], ...] = (
    *((name, ["x"] * count, f"{name} needs no arguments") for name in WITHOUT_ARGUMENTS for count in (1, 2)),
    ("set-configuration", [], "missing argument: configuration"),
    ("set-configuration", ["a", "b"], "set-configuration needs at most 1 arguments"),
    ("set-integration", [], "missing argument: integration time"),
    ("set-integration", ["1", "2"], "set-integration needs at most 1 arguments"),
    ("get-tpi", ["0"], "get-tpi needs 0 or 2 arguments"),
    ("get-tpi", ["0", "0", "0"], "get-tpi needs 0 or 2 arguments"),
    ("start", ["1", "2"], "start needs at most 1 arguments"),
    ("stop", ["1", "2"], "stop needs at most 1 arguments"),
    *(("set-section", ["*"] * count, "set-section needs 7 arguments") for count in (0, 1, 6, 8, 20)),
    ("cal-on", ["1", "2"], "cal-on needs at most 1 arguments"),
    ("set-filename", [], "command needs <filename> as argument"),
    ("set-filename", ["a", "b"], "set-filename needs at most 1 arguments"),
    *(("set-enable", ["1"] * count, "set-enable needs 2 arguments") for count in (0, 1, 3)),
    *(("set-shift", ["1"] * count, "set-shift needs 1 argument") for count in (0, 2)),
    # The count is judged first.
    ("set-enable", ["x"], "set-enable needs 2 arguments"),
    ("start", ["soon", "later"], "start needs at most 1 arguments"),
)

TYPES: tuple[tuple[str, list[str], str], ...] = (
    *(
        ("set-integration", [text], "integration time must be an integer number")
        for text in ("-1", "1.5", "20.0", "ten", "1e3", " 1", "*", "nan", "1_0", "1" * 20, "\u0661")
    ),
    *(
        ("cal-on", [text], "interleave samples must be a positive int")
        for text in ("-1", "1.5", "ten", "*", "1e3", "+-1", "\xb2")
    ),
    *(
        (name, [text], f"wrong timestamp '{quoted}'")
        for name in ("start", "stop")
        for text, quoted in (
            ("soon", "soon"), ("*", "*"), ("0", "0"), ("-0", "-0"), ("0.0", "0.0"), ("-1", "-1"),
            ("-5.5", "-5.5"),
            ("0.00000009", "0.00000009"), ("nan", "nan"), ("inf", "inf"), ("1e17", "1e17"), ("now!", "now?"),
            ("1,5", "1?5"), ("\xe9\t", "??"), ("1_000", "1_000"), ("1.2.3", "1.2.3"), (" 1", " 1"),
            ("\u0661", "?"),
        )
    ),
    *(
        ("get-tpi", arguments, "wrong parameter format")
        for arguments in (["x", "0"], ["0", "x"], ["nan", "0"], ["0", "inf"], ["*", "*"], ["0x1", "0"])
    ),
    *(
        ("set-enable", arguments, "wrong parameter format")
        for arguments in (["x", "0"], ["0", "x"], ["1.0", "0"], ["0", "*"])
    ),
    *(("set-shift", [text], "wrong parameter format") for text in ("x", "1.5", "*", "")),
    *(
        ("set-section", ["0"] * position + [text] + ["0"] * (6 - position), "wrong parameter format")
        for position, texts in enumerate((
            ("x", "1.5", "**", "1e3"), ("x", "nan", "-inf", "0x10"), ("x", "1e400"), ("x", "2.0", "1e1"), (),
            ("x", "1_0"), ("x", "1024.0", " 1"),
        ))
        for text in texts
    ),
)  # fmt: skip

arguments_of = st.lists(
    st.sampled_from(["*", "0", "1", "-1", "1.5", "x", str(TICKS)]) | st.text(st.characters(codec="latin-1"))
)


def described(one: Argument | Field) -> str:
    """An argument or field in the form of TABLE; units other than ms and MHz are left out."""
    text = f"{one.name}: {one.type}"
    if one.unit in ("ms", "MHz"):
        text += f" {one.unit}"
    if isinstance(one, Argument):
        return text + " ?" * one.optional + " *" * one.wildcard
    return text + " +" * one.repeated + " ;" * one.unescaped


class TableTests(unittest.TestCase):
    """THE table."""

    def test_names_in_the_order_of_the_protocol(self) -> None:
        self.assertEqual(list(COMMANDS), [row.name for row in TABLE])
        self.assertEqual(len(COMMANDS), 22)

    def test_rows(self) -> None:
        for row in TABLE:
            with self.subTest(row.name):
                command = COMMANDS[row.name]
                self.assertEqual(command.name, row.name)
                self.assertEqual(tuple(map(described, command.arguments)), row.arguments)
                self.assertEqual(tuple(map(described, command.reply)), row.reply)
                self.assertEqual(command.lane, row.lane)
                self.assertEqual(command.method, row.method)
                self.assertTrue(command.since.startswith(row.since or "1.0"), command.since)

    def test_only_the_numbers_of_get_tpi_come_together(self) -> None:
        self.assertEqual([row.name for row in COMMANDS.values() if row.together], ["get-tpi"])

    def test_measured_values(self) -> None:
        measured = [row.name for row in COMMANDS.values() if any(field.measured for field in row.reply)]
        self.assertEqual(measured, ["get-tpi", "get-tp0", "get-rms"])

    def test_limits_and_defaults(self) -> None:
        """`set-integration` integer ms, >= 0; `cal-on` interleave >= 0, absent is 0."""
        found = {
            (row.name, argument.name): (argument.minimum, argument.default)
            for row in COMMANDS.values()
            for argument in row.arguments
            if argument.minimum is not None or argument.default is not None
        }
        self.assertEqual(found, {("set-integration", "integration"): (0, None), ("cal-on", "interleave"): (0, 0)})

    def test_time_limits(self) -> None:
        """The handler's for all but a conversion, which "takes minutes"."""
        for row in COMMANDS.values():
            with self.subTest(row.name):
                self.assertEqual(row.timeout, CONVERSION_TIMEOUT if row.name == "convert-data" else None)
        self.assertGreaterEqual(CONVERSION_TIMEOUT, 600)

    def test_lanes(self) -> None:
        self.assertEqual(set(LANES), {"reads", "device", "files"})
        self.assertEqual(WILDCARD, "*")

    def test_help(self) -> None:
        for row in COMMANDS.values():
            with self.subTest(row.name):
                self.assertRegex(row.help, r"\A[A-Z][^\n]+\.\Z")

    def test_rows_cannot_be_changed(self) -> None:
        with self.assertRaises(dataclasses.FrozenInstanceError):
            COMMANDS["status"].lane = "device"  # type: ignore[misc]
        with self.assertRaises(dataclasses.FrozenInstanceError):
            COMMANDS["start"].arguments[0].optional = False  # type: ignore[misc]
        with self.assertRaises(dataclasses.FrozenInstanceError):
            COMMANDS["status"].reply[1].unescaped = False  # type: ignore[misc]

    def test_public_names(self) -> None:
        self.assertLessEqual({"COMMANDS", "Argument", "Command", "Field", "LANES"}, set(commands.__all__))


class ParseTests(unittest.TestCase):
    """Has a request the right arguments?"""

    def assert_refused(self, name: str, arguments: list[str], reason: str) -> None:
        """With exactly this reason."""
        with self.assertRaises(HandlerException) as caught:
            COMMANDS[name].parse(arguments)
        self.assertEqual(str(caught.exception), reason)
        self.assertIs(type(caught.exception), HandlerException)

    def test_good_arguments(self) -> None:
        for name, arguments, expected in GOOD:
            with self.subTest(name, arguments=arguments):
                values = COMMANDS[name].parse(arguments)
                self.assertEqual(values, expected)
                for value, wanted in zip(values, expected, strict=True):
                    self.assertIs(type(value), Ticks if name in ("start", "stop") else type(wanted))

    def test_every_command_has_a_good_case(self) -> None:
        covered = {name for name, _, _ in GOOD} | set(WITHOUT_ARGUMENTS)
        self.assertEqual(covered, set(COMMANDS))
        for name in WITHOUT_ARGUMENTS:
            self.assertEqual(COMMANDS[name].parse([]), [])

    def test_wrong_number(self) -> None:
        for name, arguments, reason in COUNTS:
            with self.subTest(name, arguments=len(arguments)):
                self.assert_refused(name, arguments, reason)

    def test_wrong_type(self) -> None:
        for name, arguments, reason in TYPES:
            with self.subTest(name, arguments=arguments):
                self.assert_refused(name, arguments, reason)

    def test_each_value_of_set_section_may_be_left_as_it_is(self) -> None:
        """And then only that one: the others are still converted, in their places."""
        arguments = ["3", "100.5", "200", "2", "CP", "3000", "1024"]
        values: list[Any] = [3, 100.5, 200.0, 2, "CP", 3000.0, 1024]
        for position in range(7):
            with self.subTest(position):
                texts = [*arguments[:position], "*", *arguments[position + 1 :]]
                expected = [*values[:position], "*", *values[position + 1 :]]
                found = COMMANDS["set-section"].parse(texts)
                self.assertEqual(found, expected)
                self.assertEqual(list(map(type, found)), list(map(type, expected)))

    def test_a_tuple_will_do(self) -> None:
        self.assertEqual(COMMANDS["set-enable"].parse(("0", "3")), [0, 3])

    @given(st.sampled_from(list(COMMANDS)), arguments_of)
    def test_anything_is_values_or_a_readable_reason(self, name: str, arguments: list[str]) -> None:
        """Protocol section 5.5: lower case, printable ASCII, without a comma or `!`."""
        row = COMMANDS[name]
        try:
            values = row.parse(arguments)
        except HandlerException as problem:
            self.assertRegex(str(problem), r"\A[a-z][\x20-\x7e]+\Z")
            self.assertNotRegex(str(problem), "[,!]")
            self.assertLess(len(str(problem)), 200)
        else:
            self.assertLessEqual(len(arguments), len(row.arguments))
            self.assertGreaterEqual(len(values), len(arguments))
            for value, argument in zip(values, row.arguments, strict=False):
                kinds = {"integer": int, "float": float, "text": str, "path": str, "timestamp": Ticks}
                if not (argument.wildcard and value == "*"):
                    self.assertIs(type(value), kinds[argument.type])


class ArgumentTests(unittest.TestCase):
    """What the author of a command of one's own writes."""

    def test_signature_and_defaults(self) -> None:
        argument = Argument("power", "float")
        self.assertEqual((argument.unit, argument.optional, argument.wildcard), ("", False, False))
        self.assertEqual(Argument("power", "float", "dBm", True, True), Argument(
            name="power", type="float", unit="dBm", optional=True, wildcard=True
        ))  # fmt: skip

    def test_values(self) -> None:
        for kind, text, expected in (
            ("integer", "5", 5), ("float", "5", 5.0), ("boolean", "1", True), ("boolean", "0", False),
            ("timestamp", str(TICKS), Ticks(TICKS)), ("text", "a,b", "a,b"), ("text", "*", "*"),
            ("path", "/M\xc3\xbc\xff", "/M\xfc\udcff"), (Path, "/M\xc3\xbc", Path("/M\xfc")),
            (int, "5", 5), (float, "5", 5.0), (bool, "1", True), (str, "5", "5"),
        ):  # fmt: skip
            with self.subTest(kind):
                value = Argument("power", cast(str, kind)).parse(text)
                self.assertEqual(value, expected)
                self.assertIs(type(value), type(expected))

    def test_python_types_become_names(self) -> None:
        types = ((int, "integer"), (float, "float"), (bool, "boolean"), (str, "text"), (Path, "path"))
        for kind, name in types:
            self.assertEqual(Argument("a", kind).type, name)  # type: ignore[arg-type]
            self.assertEqual(Field("a", kind).type, name)  # type: ignore[arg-type]

    def test_as_path(self) -> None:
        argument = Argument("file", cast(str, Path), wildcard=True)
        self.assertEqual(argument, Argument("file", "path", wildcard=True, as_path=True))
        self.assertEqual(replace(argument, name="files").parse("/a"), Path("/a"))
        self.assertEqual(argument.parse("*"), "*")
        with self.assertRaisesRegex(ValueError, "'file' is as_path, so its type must be 'path', not 'text'"):
            Argument("file", "text", as_path=True)

    def test_a_path_that_no_line_can_carry(self) -> None:
        with self.assertRaises(HandlerException) as caught:
            Argument("file", "path").parse("\u2126")
        self.assertEqual(str(caught.exception), "wrong file '?': must be a path")

    def test_wildcard(self) -> None:
        for kind in ("integer", "float", "boolean", "timestamp", "text", "path"):
            with self.subTest(kind):
                self.assertEqual(Argument("a", kind, wildcard=True).parse("*"), "*")
                if kind not in ("text", "path"):
                    with self.assertRaises(HandlerException):
                        Argument("a", kind).parse("*")

    def test_a_wrong_one_is_named_with_its_value(self) -> None:
        for kind in ("integer", "float", "boolean"):
            with self.subTest(kind), self.assertRaises(HandlerException) as caught:
                Argument("power", kind).parse("lo,ud!")
            self.assertRegex(str(caught.exception), r"\A[a-z]")
            self.assertIn("power", str(caught.exception))
            self.assertIn("'lo?ud?'", str(caught.exception))
            self.assertNotRegex(str(caught.exception), "[,!]")
        with self.assertRaises(HandlerException) as caught:
            Argument("when", "timestamp").parse("soon")
        self.assertEqual(str(caught.exception), "wrong timestamp 'soon'")

    def test_minimum(self) -> None:
        argument = Argument("power", "integer", minimum=3)
        self.assertEqual(argument.parse("3"), 3)
        with self.assertRaises(HandlerException) as caught:
            argument.parse("2")
        for word in ("power", "'2'", "3"):
            self.assertIn(word, str(caught.exception))
        with self.assertRaises(HandlerException) as caught:
            Argument("power", "integer", minimum=3, complaint="power is too low").parse("2")
        self.assertEqual(str(caught.exception), "power is too low")

    def refusal(self, argument: Argument, text: str) -> str:
        with self.assertRaises(HandlerException) as caught:
            argument.parse(text)
        return str(caught.exception)

    def test_limits(self) -> None:
        argument = Argument("power", "float", "dBm", minimum=-80, maximum=0.5)
        self.assertEqual([argument.parse(text) for text in ("-80", "0.5", "-8e1")], [-80.0, 0.5, -80.0])
        within = "must be a finite decimal number not below -80 and not above 0.5"
        for text in ("-80.1", "0.6"):
            self.assertEqual(self.refusal(argument, text), f"wrong power '{text}': {within}")
        self.assertEqual(self.refusal(argument, "x"), "wrong power 'x': must be a finite decimal number")
        reasons = [
            self.refusal(Argument("gain", "float", minimum=low, maximum=high), "-1")
            for low, high in ((0, 31), (0.0, 31.0), (-0.0, 31))
        ]
        wanted = "wrong gain '-1': must be a finite decimal number not below 0 and not above 31"
        self.assertEqual(reasons, [wanted] * 3)
        largest = Argument("gain", "float", maximum=1e300)
        self.assertIn("not above 1e+300", self.refusal(largest, "2e300"))
        bits = Argument("bits", "integer", maximum=8)
        self.assertEqual(bits.parse("8"), 8)
        self.assertEqual(self.refusal(bits, "9"), "wrong bits '9': must be an integer not above 8")
        short = Argument("bits", "integer", maximum=8, complaint="too many bits", wildcard=True)
        self.assertEqual((self.refusal(short, "9"), short.parse("*")), ("too many bits", "*"))

    def test_choices(self) -> None:
        class Mode(Enum):
            """By text."""

            FAST = "fast"
            SLOW = "slow"

        class Bits(IntEnum):
            """By number."""

            FEW = 8
            MANY = 16

        for argument, text, value in (
            (Argument("mode", "text", choices=["fast", "slow"]), "slow", "slow"),
            (Argument("mode", "text", choices=Mode), "slow", Mode.SLOW),
            (Argument("bits", "integer", choices=(8, 16)), "+16", 16),
            (Argument("bits", "integer", choices=Bits), "16", Bits.MANY),
            (Argument("gain", "float", choices=(0.5, 2)), "5e-1", 0.5),
            (Argument("gain", "float", choices=(0.5, 2), wildcard=True), "*", "*"),
        ):
            with self.subTest(argument=argument):
                found = argument.parse(text)
                self.assertEqual((found, type(found)), (value, type(value)))
        for argument, text, reason in (
            (Argument("mode", "text", choices=Mode), "FAST", "wrong mode 'FAST': must be fast or slow"),
            (Argument("mode", "text", choices=["a,b", "c!"]), "d", "wrong mode 'd': must be a?b or c?"),
            (Argument("bits", "integer", choices=Bits), "9", "wrong bits '9': must be 8 or 16"),
            (Argument("bits", "integer", choices=(8, 16)), "x", "wrong bits 'x': must be 8 or 16"),
            (Argument("bits", "integer", choices=(8,), complaint="8 bits only"), "x", "8 bits only"),
            (
                Argument("bits", "integer", choices=range(300)),
                "300",
                "wrong bits '300': must be 0 or 1 or 2 or 3 or 4 or 5 or 6 or 7 or 8 or 9 or 290 others",
            ),
        ):
            self.assertEqual(self.refusal(argument, text), reason)

    def test_limits_and_choices_that_contradict(self) -> None:
        for problem, kind, options in (
            ("only an integer or a float has a minimum: argument 'a' is a text", "text", {"minimum": 1}),
            ("only an integer or a float has a maximum: argument 'a' is a timestamp", "timestamp", {"maximum": 1}),
            ("minimum 2 of argument 'a' is above its maximum 1", "float", {"minimum": 2, "maximum": 1}),
            ("minimum 0.5 of argument 'a' must be an integer", "integer", {"minimum": 0.5}),
            ("maximum nan of argument 'a' must be a finite number", "float", {"maximum": math.nan}),
            ("maximum '3' of argument 'a' must be a finite number", "float", {"maximum": "3"}),
            ("minimum True of argument 'a' must be an integer", "integer", {"minimum": True}),
            ("choices of argument 'a' leave nothing to a minimum", "integer", {"choices": (1, 2), "minimum": 1}),
            ("choices of argument 'a' are empty", "text", {"choices": []}),
            ("must be a list of values or an Enum, not 'fast'", "text", {"choices": "fast"}),
            ("must be a list of values or an Enum, not 3", "text", {"choices": 3}),
            ("only an integer, a float or a text has choices: argument 'a' is a boolean", "boolean", {"choices": [1]}),
            ("choice 1 of argument 'a' is no text that a request can carry", "text", {"choices": ["x", 1]}),
            ("choice '' of argument 'a' is no text", "text", {"choices": [""]}),
            (r"choice 'a\\nb' of argument 'a' is no text", "text", {"choices": ["a\nb"]}),
            ("choice 'Ω' of argument 'a' is no text", "text", {"choices": ["Ω"]}),
            ("choice True of argument 'a' is no integer", "integer", {"choices": [True]}),
            ("choice inf of argument 'a' is no float", "float", {"choices": [math.inf]}),
            ("choices of argument 'a': a value is there twice", "text", {"choices": ["b", "b"]}),
            ("default 5 of argument 'a' must be not below 6", "integer", {"minimum": 6, "default": 5}),
            ("default -1 of argument 'a' must be not below 0", "integer", {"minimum": 0, "default": -1}),
            ("only an integer or a float has a minimum: argument 'a' is a text", "text", {"minimum": 0}),
            ("default 'b' of argument 'a' is none of its choices", "text", {"choices": ["c"], "default": "b"}),
        ):
            with self.subTest(problem), self.assertRaisesRegex(ValueError, problem):
                Argument("a", kind, optional=True, **options)

    def test_only_inside_of_annotated_can_the_name_and_the_type_be_left_out(self) -> None:
        for argument in (Argument(minimum=1), Argument("a"), Argument(type="float")):
            with (
                self.subTest(argument),
                self.assertRaisesRegex(TypeError, "needs a name and a type, except inside of A"),
            ):
                Command("reset", (argument,))

    def test_unknown_types(self) -> None:
        for kind in ("int", "Integer", "", "double", list, None, 5, "time"):
            for make in (Argument, Field):
                with self.subTest(kind, make=make.__name__), self.assertRaises(ValueError) as caught:
                    make("power", kind)  # type: ignore[arg-type]
                self.assertIn("power", str(caught.exception))


class CommandTests(unittest.TestCase):
    """A row, and a row that no server could serve."""

    needed = Argument("a", "integer")
    optional = Argument("b", "integer", optional=True)

    def test_defaults(self) -> None:
        row = Command("vna-sweep")
        self.assertEqual((row.arguments, row.reply, row.lane, row.timeout), ((), (), "device", None))
        self.assertEqual(row.method, "vna_sweep")
        self.assertEqual(row.needed, 0)

    def test_method_name(self) -> None:
        for name, method in (("a", "a"), ("a-b-c", "a_b_c"), ("a-", "a_"), ("A1", "A1")):
            self.assertEqual(Command(name).method, method)
        self.assertEqual(Command("a-b", method="park").method, "park")

    def test_names(self) -> None:
        for name in ("a", "Z", "a-b", "a1", "n" * 64):
            self.assertEqual(Command(name).name, name)
        for name in ("", "1a", "-a", "a_b", "a b", "a,b", "a\n", "?a", "\xe9", "n" * 65, "a.b"):
            with self.subTest(name), self.assertRaises(ValueError):
                Command(name)

    def test_lanes(self) -> None:
        for lane in ("reads", "device", "files"):
            self.assertEqual(Command("a", lane=lane).lane, lane)
        for lane in ("", "read", "Device", "writes"):
            with self.subTest(lane), self.assertRaises(ValueError):
                Command("a", lane=lane)

    def test_time_limits(self) -> None:
        for timeout in (None, 0.1, 1, 1e6):
            self.assertEqual(Command("a", timeout=timeout).timeout, timeout)
        for timeout in (0, -1, 0.0, float("nan"), float("-inf")):
            with self.subTest(timeout), self.assertRaises(ValueError):
                Command("a", timeout=timeout)

    def test_order_of_arguments(self) -> None:
        Command("a", (self.needed, self.optional, self.optional))
        with self.assertRaises(ValueError):
            Command("a", (self.optional, self.needed))

    def test_only_the_last_field_repeats(self) -> None:
        many, one = Field("many", "float", repeated=True), Field("one", "float")
        Command("a", reply=(one, many))
        for reply in ((many, one), (many, many), (one, many, one)):
            with self.subTest(reply), self.assertRaises(ValueError):
                Command("a", reply=reply)

    def test_counts_of_own_commands(self) -> None:
        """The same footing as the built-in rows: an optional one that is left out is not passed."""
        for arguments, good, bad in (
            ((), (0,), (1, 2)),
            ((self.needed,), (1,), (0, 2)),
            ((self.needed, self.optional), (1, 2), (0, 3)),
            ((self.optional,), (0, 1), (2,)),
            ((self.needed, self.needed, self.optional, self.optional), (2, 3, 4), (0, 1, 5)),
        ):
            row = Command("own", arguments)
            for count in good:
                with self.subTest(len(arguments), count=count):
                    self.assertEqual(row.parse(["5"] * count), [5] * count)
            for count in bad:
                with self.subTest(len(arguments), count=count), self.assertRaises(HandlerException) as caught:
                    row.parse(["5"] * count)
                self.assertRegex(str(caught.exception), r"\Aown needs [a-z0-9 ]+\Z")

    def test_reasons_of_own_commands(self) -> None:
        for arguments, count, reason in (
            ((), 1, "own needs no arguments"),
            ((self.needed,), 0, "own needs 1 argument"),
            ((self.needed, self.needed), 3, "own needs 2 arguments"),
            ((self.needed, self.optional), 0, "own needs at least 1 argument"),
            ((self.needed, self.needed, self.optional), 1, "own needs at least 2 arguments"),
            ((self.needed, self.optional), 3, "own needs at most 2 arguments"),
            ((self.optional,), 2, "own needs at most 1 arguments"),
        ):
            with self.subTest(reason), self.assertRaises(HandlerException) as caught:
                Command("own", arguments).parse(["5"] * count)
            self.assertEqual(str(caught.exception), reason)

    def test_defaults_are_filled_in(self) -> None:
        last = Argument("c", "text", optional=True, default="x")
        self.assertEqual(Command("own", (self.needed, last)).parse(["5"]), [5, "x"])
        self.assertEqual(Command("own", (self.needed, last)).parse(["5", "y"]), [5, "y"])
        self.assertEqual(Command("own", (last, self.optional)).parse([]), ["x"], "what has no default ends the list")
        self.assertEqual(Command("own", (self.optional, last)).parse([]), [], "a later default would land in its place")

    def test_together(self) -> None:
        row = Command("own", (self.needed, self.optional, self.optional), together=True)
        self.assertEqual(row.parse(["1"]), [1])
        self.assertEqual(row.parse(["1", "2", "3"]), [1, 2, 3])
        for count in (0, 2, 4):
            with self.subTest(count), self.assertRaises(HandlerException) as caught:
                row.parse(["1"] * count)
            self.assertEqual(str(caught.exception), "own needs 1 or 3 arguments")

    def test_missing(self) -> None:
        row = Command("own", (self.needed,), missing="missing argument: a")
        with self.assertRaises(HandlerException) as caught:
            row.parse([])
        self.assertEqual(str(caught.exception), "missing argument: a")


if __name__ == "__main__":
    unittest.main()
