"""The table of operations that control a simulated instrument, and what their values may be.

One row per operation. The server, the client, the command (cli/simctl) and the page docs/control.md derive from
it, or a test compares them with it. What an operation does is in executor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from discosbackend.simulator.errors import ControlError, FaultScriptError
from discosbackend.simulator.faults.kinds import KINDS, shown
from discosbackend.simulator.faults.script import fault_from_texts
from discosbackend.simulator.signal.sky import REST_FREQUENCIES
from discosbackend.toml import did_you_mean

__all__ = ["LONGEST_LINE", "OPERATIONS", "Operation", "Parameter", "find_operation", "requested"]

LONGEST_LINE = 65536
"""Bytes of the longest line of the channel, its end not counted."""

_LONGEST_NAME = 64

# With clock, flag and line end around it, the reply to `status` stays within 511 bytes.
_LONGEST_STATUS = 400

_MOST = 999_999_999


@dataclass(frozen=True, slots=True)
class ValueType:
    """What a type of value may be: `expected` in words, `convert` a JSON value, `read` from a word of a command line.

    `convert` raises for what is none. `read` gives `convert` something to refuse where a word is none.
    """

    expected: str
    convert: Callable[[Any], Any]
    read: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value that an operation takes; `type` is a key of TYPES, `unit` and `help` are for the reader.

    `optional`: may be left out, and what it is about stays as it is. `keyword`: is written KEY=VALUE on a
    command line.
    """

    name: str
    type: str
    unit: str = ""
    help: str = ""
    optional: bool = False
    keyword: bool = False

    def checked(self, value: Any) -> Any:
        """The value, as its type has it. ControlError, with what would be right, for anything else."""
        try:
            return TYPES[self.type].convert(value)
        except (ValueError, TypeError, OverflowError):
            raise ControlError(f"{self.name} must be {self.expected}, not {_shown(value)}") from None

    @property
    def expected(self) -> str:
        """What it may be, in words."""
        expected = TYPES[self.type].expected
        return expected.replace("number", f"number in {self.unit}", 1) if self.unit else expected

    @property
    def usage(self) -> str:
        """How it stands in a line that tells how an operation is used."""
        text = self.name.upper()
        if self.type == "switch":
            text = "on|off"
        elif self.type == "integers" and not self.keyword:
            text = f"{text.removesuffix('S')} ..."
        elif self.keyword:
            text = f"{self.name}={self.unit or text}"
        return f"[{text}]" if self.optional else text


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table: `words` as on the command line, `help` what it does.

    `result` is what it answers with, "" for nothing. `open`: it takes further keys, those of a fault. `changes`:
    whether it changes something, so that the log says who did it.
    """

    words: str
    help: str
    parameters: tuple[Parameter, ...] = ()
    result: str = ""
    open: bool = False
    changes: bool = True

    @property
    def name(self) -> str:
        """What a request's `do` calls it."""
        return self.words.replace(" ", "-")

    @property
    def method(self) -> str:
        """The method that is called so, of Controls and of SimulatorControl."""
        return self.name.replace("-", "_")

    @property
    def usage(self) -> str:
        """How it is written on a command line."""
        further = ["[KEY=VALUE ...]"] if self.open else []
        return " ".join([self.words, *(parameter.usage for parameter in self.parameters), *further])

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a request, as their types have them. ControlError, with what would be right."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for key in values:
            if key not in known and not self.open:
                raise ControlError(f"{_shown(key)} is not known{did_you_mean(str(key), known) or self._takes()}")
        for parameter in self.parameters:
            if parameter.name not in values and not parameter.optional:
                raise ControlError(f"{self.words} needs {parameter.name}: {parameter.expected}")
        return {key: known[key].checked(value) if key in known else value for key, value in values.items()}

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """The values that the words behind the operation's own mean. ControlError if they mean none.

        Each is KEY=VALUE, or the next one in order. A text or a list at the end takes all the words that are
        left.
        """
        texts = self._texts(words)
        if self.open:
            try:
                return fault_from_texts(texts).table
            except FaultScriptError as problem:
                raise ControlError(str(problem)) from None
        known = {parameter.name: parameter for parameter in self.parameters}
        return self.checked({key: TYPES[known[key].type].read(text) for key, text in texts.items()})

    def _texts(self, words: Sequence[str]) -> dict[str, str]:
        known = {parameter.name: parameter for parameter in self.parameters}
        positional = [p for p in self.parameters if not (p.optional and p.keyword)]
        texts: dict[str, str] = {}
        for place, word in enumerate(words):
            key, equals, text = word.partition("=")
            waiting = [parameter for parameter in positional if parameter.name not in texts]
            swallows = bool(waiting) and waiting[0] is self.parameters[-1] and not waiting[0].keyword
            free = swallows and waiting[0].type in ("name", "status")
            if equals and (key in known or (self.open and key)):
                if key in texts:
                    raise ControlError(f"{key} is there twice")
                texts[key] = text
            elif equals and key.isidentifier() and not free:
                raise ControlError(f"{_shown(key)} is not known{did_you_mean(str(key), known) or self._takes()}")
            elif free or (swallows and waiting[0].type == "integers"):
                texts[waiting[0].name] = (" " if free else ",").join(words[place:])
                break
            elif waiting:
                texts[waiting[0].name] = word
            else:
                raise ControlError(f"{_shown(word)} is one too many: {self.usage}")
        return texts

    def _takes(self) -> str:
        names = ", ".join(parameter.name for parameter in self.parameters)
        return f": {self.words} takes {names or 'nothing'}"


def find_operation(words: Sequence[str]) -> tuple[Operation, Sequence[str]]:
    """The operation that a command line names, and the words behind it. ControlError if it names none."""
    for count in (2, 1):
        found = _BY_WORDS.get(" ".join(words[:count]))
        if found is not None and len(words) >= count:
            return found, words[count:]
    first = words[0]
    group = [other.partition(" ")[2] for other in _BY_WORDS if other.startswith(f"{first} ")]
    if group:
        wrong = f", not {_shown(words[1])}" if len(words) > 1 else ""
        raise ControlError(f"{first} needs one of {', '.join(group)}{wrong}")
    # Also written as a request has it.
    if first in OPERATIONS:
        return OPERATIONS[first], words[1:]
    raise ControlError(f"no operation is called {_shown(first)}{_near_operation(first)}")


def requested(request: Mapping[str, Any]) -> tuple[Operation, dict[str, Any]]:
    """The operation that a request asks for, and its values. ControlError for one that cannot be meant."""
    values = dict(request)
    if "do" not in values:
        raise ControlError('do is missing: a request is such as {"do": "diode", "on": true}')
    name = values.pop("do")
    if not isinstance(name, str) or name not in OPERATIONS:
        raise ControlError(f"no operation is called {_shown(name)}{_near_operation(name)}")
    return OPERATIONS[name], OPERATIONS[name].checked(values)


def _near_operation(name: Any) -> str:
    return did_you_mean(str(name), OPERATIONS) or f": there are {', '.join(OPERATIONS)}"


def _shown(value: Any) -> str:
    try:
        return shown(value)
    except ValueError:
        # An integer of thousands of digits.
        return "that number"


# -- what each type of value may be -------------------------------------------------------------------


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError
    number = int(value)
    if not 0 <= number <= _MOST:
        raise ValueError
    return number


def _integers(value: Any) -> list[int]:
    found = [_integer(value)] if isinstance(value, Integral) else [_integer(item) for item in value]
    if not found:
        raise ValueError
    return found


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _line(value: Any, longest: int) -> str:
    if not isinstance(value, str):
        raise TypeError
    if not value.isprintable() or value != value.strip() or not 0 < len(value) <= longest:
        raise ValueError
    return str(value)


def _status(value: Any) -> str:
    # UnicodeEncodeError is a ValueError.
    return _line(value, _LONGEST_STATUS).encode("latin-1").decode("latin-1")


def _rest(value: Any) -> float | str:
    if isinstance(value, str):
        if value not in REST_FREQUENCIES:
            raise ValueError
        return value
    return _number(value)


def _or_text(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A word as what `read` makes of it, or else as it is: so a complaint can show it."""

    def reader(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            return text

    return reader


def _plain_integers(text: str) -> list[int]:
    return [int(item) for item in text.split(",")]


def _on_or_off(text: str) -> bool | str:
    return {"on": True, "off": False}.get(text, text)


TYPES: Mapping[str, ValueType] = MappingProxyType(
    {
        "number": ValueType("a finite number", _number, _or_text(float)),
        "integer": ValueType(f"a whole number from 0 to {_MOST}", _integer, _or_text(int)),
        "integers": ValueType("whole numbers, 0 or more, such as 0,3", _integers, _or_text(_plain_integers)),
        "switch": ValueType("on or off (true or false)", _switch, _on_or_off),
        "name": ValueType(
            f"one line of at most {_LONGEST_NAME} characters", lambda value: _line(value, _LONGEST_NAME), str
        ),
        "status": ValueType(f"one line of at most {_LONGEST_STATUS} latin-1 characters", _status, str),
        "rest": ValueType(f"a finite number or one of {', '.join(REST_FREQUENCIES)}", _rest, _or_text(float)),
    }
)
"""What the values of each type may be."""


# -- the table ----------------------------------------------------------------------------------------

_NAME = Parameter("name", "name", help="of your choice, such as W3")
_INPUTS = Parameter("inputs", "integers", help="2 * feed, + 1 for right circular; all without", optional=True)


def _optional(name: str, kind: str, unit: str, what: str) -> Parameter:
    return Parameter(name, kind, unit, what, optional=True, keyword=True)


_ROWS = (
    Operation("state", "Tell the whole state, in JSON.", result="the state", changes=False),
    Operation(
        "diode",
        "Switch the noise diode, as the receiver does.",
        (Parameter("on", "switch"),),
    ),
    Operation(
        "tsys",
        "Change the system temperature of these inputs, or of all.",
        (Parameter("kelvin", "number", "K", "above 0"), _INPUTS),
    ),
    Operation(
        "mark",
        "Change the noise diode's temperature at these inputs, or at all.",
        (Parameter("kelvin", "number", "K", "above 0"), _INPUTS),
    ),
    Operation(
        "source",
        "Put a source into the sky, or change what is given of one that is there.",
        (
            _NAME,
            _optional("level", "number", "K", "continuum in mid-beam, as antenna temperature"),
            _optional("feeds", "integers", "", "in whose beams it is"),
            _optional("transit", "number", "s", "when it is in mid-beam, after an acquisition began"),
            _optional("crossing", "number", "s", "from half power to half power"),
            _optional("linear", "number", "0..1", "the fraction that is linearly polarised"),
            _optional("angle", "number", "degrees", "of the polarisation"),
        ),
    ),
    Operation(
        "line",
        "Add a spectral line to a source, which is put in where it is missing.",
        (
            _NAME,
            Parameter("rest", "rest", "MHz", f"or one of {', '.join(REST_FREQUENCIES)}", keyword=True),
            Parameter("width", "number", "km/s", "full width at half maximum", keyword=True),
            Parameter("peak", "number", "K", "as antenna temperature in mid-beam", keyword=True),
            _optional("velocity", "number", "km/s", "positive is away from us"),
        ),
    ),
    Operation("remove", "Take a source, with its lines, out of the sky.", (_NAME,)),
    Operation("clear-sky", "Take every source out of the sky."),
    Operation(
        "clock jump",
        "Step the instrument's clock, backwards with a negative number.",
        (Parameter("seconds", "number", "s"),),
    ),
    Operation(
        "clock drift",
        "Have the clock run fast by so many parts in a million, slow by a negative number.",
        (Parameter("ppm", "number", "parts in a million"),),
    ),
    Operation(
        "clock offset",
        "Have the clock ahead of the true time by so much from now on.",
        (Parameter("seconds", "number", "s"),),
    ),
    Operation(
        "fault",
        "Have `status` report a fault.",
        (Parameter("text", "status", help="what it reports instead of ok"),),
    ),
    Operation("fault clear", "Have `status` report no fault."),
    Operation("pause", "Freeze the protocol: nothing is looked at, and no reply leaves."),
    Operation("resume", "End the pause: all that came meanwhile is answered, in order."),
    Operation("reset", "As when the instrument is switched on; a pause ends, armed faults stay."),
    Operation(
        "faults add",
        "Arm a fault of the protocol.",
        (Parameter("kind", "name", help=f"one of {', '.join(KINDS)}", keyword=True),),
        result="its number",
        open=True,
    ),
    Operation("faults list", "Tell which faults are armed, in JSON.", result="a list of them", changes=False),
    Operation("faults remove", "Disarm a fault.", (Parameter("number", "integer"),)),
    Operation(
        "faults clear",
        "Disarm every fault.",
        (_optional("seed", "integer", "", "for what is armed from now on"),),
    ),
)

_BY_WORDS = {row.words: row for row in _ROWS}

OPERATIONS: Mapping[str, Operation] = MappingProxyType({row.name: row for row in _ROWS})
"""Every operation, by the name that a request's `do` has."""
