"""The table of the operations that control a simulated instrument, and the types of their values.

It has one row per operation. The server and the command (cli/simctl) derive from it; tests compare the client and the
page docs/control.md with it. executor executes the operations.
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
"""The longest line of the channel in bytes, without its line end."""

_LONGEST_NAME = 64

# The reply to `status` must not exceed 511 bytes, with the timestamp, the flag and the line end.
_LONGEST_STATUS = 400

_MOST = 999_999_999


@dataclass(frozen=True, slots=True)
class ValueType:
    """A type of value.

    `expected` describes it for error messages. `convert` checks and converts a JSON value; it raises ValueError,
    TypeError or OverflowError for an invalid one. `read` converts a word of a command line to a JSON value; it returns
    an invalid word unchanged, so that `convert` refuses it.
    """

    expected: str
    convert: Callable[[Any], Any]
    read: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an operation.

    `type` is a key of TYPES; `unit` and `help` are texts for the user. An `optional` parameter need not be given; then
    the setting is not changed. A `keyword` parameter is written KEY=VALUE on a command line.
    """

    name: str
    type: str
    unit: str = ""
    help: str = ""
    optional: bool = False
    keyword: bool = False

    def checked(self, value: Any) -> Any:
        """Return the converted value. Raise ControlError, with what is accepted, for an invalid one."""
        try:
            return TYPES[self.type].convert(value)
        except (ValueError, TypeError, OverflowError):
            raise ControlError(f"{self.name} must be {self.expected}, not {_shown(value)}") from None

    @property
    def expected(self) -> str:
        """What is accepted, in words."""
        expected = TYPES[self.type].expected
        return expected.replace("number", f"number in {self.unit}", 1) if self.unit else expected

    @property
    def usage(self) -> str:
        """The parameter in the usage line of the operation."""
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
    """One row of the table.

    `words` is the name on a command line, `help` a sentence about the operation. `result` describes its result, "" if
    it has none. An `open` operation accepts further keys: those of a fault. `changes` says whether it changes the
    simulator. The log names the client that requested such an operation.
    """

    words: str
    help: str
    parameters: tuple[Parameter, ...] = ()
    result: str = ""
    open: bool = False
    changes: bool = True

    @property
    def name(self) -> str:
        """The name in the key `do` of a request."""
        return self.words.replace(" ", "-")

    @property
    def method(self) -> str:
        """The name of its method in OperationExecutor and in SimulatorControl."""
        return self.name.replace("-", "_")

    @property
    def usage(self) -> str:
        """The usage line for a command line."""
        further = ["[KEY=VALUE ...]"] if self.open else []
        return " ".join([self.words, *(parameter.usage for parameter in self.parameters), *further])

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the converted values of a request. Raise ControlError for an unknown, missing or invalid one."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for key in values:
            if key not in known and not self.open:
                raise ControlError(f"{_shown(key)} is not known{did_you_mean(str(key), known) or self._takes()}")
        for parameter in self.parameters:
            if parameter.name not in values and not parameter.optional:
                raise ControlError(f"{self.words} needs {parameter.name}: {parameter.expected}")
        return {key: known[key].checked(value) if key in known else value for key, value in values.items()}

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Parse the words that follow the name of the operation on a command line.

        A word is KEY=VALUE, or the value of the next parameter. If the last parameter is a text or a list, it takes
        all remaining words.

        Raises
        ------
        ControlError
            If a key or a value is unknown, missing or invalid.
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
    """Return the operation that a command line names and the words after the name. Raise ControlError for others."""
    for count in (2, 1):
        found = _BY_WORDS.get(" ".join(words[:count]))
        if found is not None and len(words) >= count:
            return found, words[count:]
    first = words[0]
    group = [other.partition(" ")[2] for other in _BY_WORDS if other.startswith(f"{first} ")]
    if group:
        wrong = f", not {_shown(words[1])}" if len(words) > 1 else ""
        raise ControlError(f"{first} needs one of {', '.join(group)}{wrong}")
    # The name of a request is accepted too: clock-jump.
    if first in OPERATIONS:
        return OPERATIONS[first], words[1:]
    raise ControlError(f"no operation is called {_shown(first)}{_near_operation(first)}")


def requested(request: Mapping[str, Any]) -> tuple[Operation, dict[str, Any]]:
    """Return the operation of a request and its converted values. Raise ControlError for an invalid request."""
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


# -- the types of values ------------------------------------------------------------------------------


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
    """Make a function that returns an invalid word unchanged, so that the error message can show it."""

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
"""The types of values by name."""


# -- the table ----------------------------------------------------------------------------------------

_NAME = Parameter("name", "name", help="of your choice, such as W3")
_INPUTS = Parameter("inputs", "integers", help="2 * feed, + 1 for right circular (default: all)", optional=True)


def _optional(name: str, kind: str, unit: str, what: str) -> Parameter:
    return Parameter(name, kind, unit, what, optional=True, keyword=True)


_ROWS = (
    Operation("state", "Print the whole state in JSON.", result="the state", changes=False),
    Operation(
        "diode",
        "Switch the noise diode of the receiver on or off.",
        (Parameter("on", "switch"),),
    ),
    Operation(
        "tsys",
        "Set the system temperature of these inputs, or of all.",
        (Parameter("kelvin", "number", "K", "above 0"), _INPUTS),
    ),
    Operation(
        "mark",
        "Set the temperature of the noise diode at these inputs, or at all.",
        (Parameter("kelvin", "number", "K", "above 0"), _INPUTS),
    ),
    Operation(
        "source",
        "Add a source to the sky, or change the given values of an existing source.",
        (
            _NAME,
            _optional("level", "number", "K", "continuum as antenna temperature at the centre of the beam"),
            _optional("feeds", "integers", "", "the feeds that see it"),
            _optional("transit", "number", "s", "from the begin of an acquisition to the centre of the beam"),
            _optional("crossing", "number", "s", "time from half power to half power"),
            _optional("linear", "number", "0..1", "fraction of linear polarisation"),
            _optional("angle", "number", "degrees", "angle of the polarisation"),
        ),
    ),
    Operation(
        "line",
        "Add a spectral line to a source; the source is added if there is none.",
        (
            _NAME,
            Parameter("rest", "rest", "MHz", f"or one of {', '.join(REST_FREQUENCIES)}", keyword=True),
            Parameter("width", "number", "km/s", "full width at half maximum", keyword=True),
            Parameter("peak", "number", "K", "as antenna temperature at the centre of the beam", keyword=True),
            _optional("velocity", "number", "km/s", "positive: receding"),
        ),
    ),
    Operation("remove", "Remove a source and its lines from the sky.", (_NAME,)),
    Operation("clear-sky", "Remove all sources from the sky."),
    Operation(
        "clock jump",
        "Step the instrument's clock; negative: backwards.",
        (Parameter("seconds", "number", "s"),),
    ),
    Operation(
        "clock drift",
        "Set the drift of the clock; positive: it runs fast.",
        (Parameter("ppm", "number", "parts per million"),),
    ),
    Operation(
        "clock offset",
        "Set how far the clock is ahead of the true time; negative: it is behind.",
        (Parameter("seconds", "number", "s"),),
    ),
    Operation(
        "fault",
        "Make `status` report a fault.",
        (Parameter("text", "status", help="what it reports instead of ok"),),
    ),
    Operation("fault clear", "Make `status` report no fault."),
    Operation("pause", "Pause the server: it processes no request and sends no reply."),
    Operation("resume", "End the pause: the requests received meanwhile are answered in order."),
    Operation("reset", "Restore the initial state of the instrument and end a pause; armed faults remain."),
    Operation(
        "faults add",
        "Arm a fault of the protocol.",
        (Parameter("kind", "name", help=f"one of {', '.join(KINDS)}", keyword=True),),
        result="its number",
        open=True,
    ),
    Operation("faults list", "Print the armed faults in JSON.", result="a list of them", changes=False),
    Operation("faults remove", "Disarm a fault.", (Parameter("number", "integer"),)),
    Operation(
        "faults clear",
        "Disarm all faults.",
        (_optional("seed", "integer", "", "the seed of faults that are armed later"),),
    ),
)

_BY_WORDS = {row.words: row for row in _ROWS}

OPERATIONS: Mapping[str, Operation] = MappingProxyType({row.name: row for row in _ROWS})
"""All operations, by the name in the key `do` of a request."""
