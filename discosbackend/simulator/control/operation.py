"""Operation: an operation as its method declares it, and how its values are checked.

The signature of the method has the parameters, their types and their units; the docstring has the help texts.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from numbers import Integral, Real
from operator import or_
from types import MappingProxyType, NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from discosbackend.schema import shown as shown_value
from discosbackend.simulator.errors import ControlError, FaultScriptError
from discosbackend.simulator.faults.script import fault_from_texts
from discosbackend.simulator.signal.sky import REST_FREQUENCIES
from discosbackend.toml import did_you_mean

__all__ = ["TYPES", "Operation", "Parameter", "StatusText", "ValueType", "shown_value"]

_LONGEST_NAME = 64

# The reply to `status` must not exceed 511 bytes, with the timestamp, the flag and the line end.
_LONGEST_STATUS = 400

_MOST = 999_999_999

# The key of a request that has the name of the operation.
_NAME_KEY = "do"


# -- the types of values ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ValueType:
    """How the values of an annotation are checked.

    `expected` describes valid values for error messages. `convert` checks and converts a JSON value; it raises
    ValueError, TypeError or OverflowError for an invalid one. `read` converts a word of a command line to a JSON value;
    it raises ValueError or KeyError if it cannot. If `separator` is not empty, the last parameter of an operation takes
    all remaining words of the command line, joined by it.
    """

    expected: str
    convert: Callable[[Any], Any]
    read: Callable[[str], Any] = str
    separator: str = ""


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) <= _MOST:
        raise ValueError
    return int(value)


def _integers(value: Any) -> list[int]:
    found = [_integer(item) for item in ([value] if isinstance(value, Integral) else value)]
    if not found:
        raise ValueError
    return found


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _line(value: Any, longest: int = _LONGEST_NAME) -> str:
    if not isinstance(value, str) or not value.isprintable() or value != value.strip():
        raise ValueError
    if not 0 < len(value) <= longest:
        raise ValueError
    return str(value)


def _status(value: Any) -> str:
    # UnicodeEncodeError is a ValueError.
    return _line(value, _LONGEST_STATUS).encode("latin-1").decode("latin-1")


def _rest(value: Any) -> float | str:
    return str(value) if value in REST_FREQUENCIES else _number(value)


@dataclass(frozen=True, slots=True)
class _Encoding:
    """In an annotation: the encoding of a string. A plain str there would be the unit."""

    name: str


StatusText = Annotated[str, _Encoding("latin-1")]
"""The annotation of a text that `status` can report."""

TYPES: Mapping[Any, ValueType] = MappingProxyType(
    {
        float: ValueType("a finite number", _number, float),
        int: ValueType(f"a whole number from 0 to {_MOST}", _integer, int),
        int | Iterable[int]: ValueType(
            "whole numbers, 0 or more, such as 0,3", _integers, lambda text: list(map(int, text.split(","))), ","
        ),
        bool: ValueType("on or off (true or false)", _switch, lambda text: {"on": True, "off": False}[text]),
        str: ValueType(f"one line of at most {_LONGEST_NAME} characters", _line, separator=" "),
        StatusText: ValueType(f"one line of at most {_LONGEST_STATUS} latin-1 characters", _status, separator=" "),
        float | str: ValueType(f"a finite number or one of {', '.join(REST_FREQUENCIES)}", _rest, float),
    }
)
"""The annotations that a parameter may have, without `None` and without the unit."""


def _type_and_unit(annotation: Any) -> tuple[ValueType, str]:
    """Return the type and the unit of `float`, of `Annotated[float, "K"]`, or of `Annotated[float, "K"] | None`.

    LookupError for an annotation that is not one of TYPES.
    """
    if NoneType in get_args(annotation):
        annotation = reduce(or_, (part for part in get_args(annotation) if part is not NoneType))
    if annotation in TYPES:
        return TYPES[annotation], ""
    if get_origin(annotation) is not Annotated:
        raise LookupError(annotation)
    annotation, unit = get_args(annotation)
    return TYPES[annotation], unit


# -- parameters and operations ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an operation.

    `unit` and `help` are texts for the user. An `optional` parameter need not be given. The usage of a command line
    shows a `keyword` parameter as KEY=VALUE. If `separator` is not empty, the parameter takes all remaining words of a
    command line, joined by it.
    """

    name: str
    type: ValueType
    unit: str
    help: str
    optional: bool
    keyword: bool
    separator: str

    def checked(self, value: Any) -> Any:
        """Return the converted value. Raise ControlError, with what is accepted, for an invalid one."""
        try:
            return self.type.convert(value)
        except (ValueError, TypeError, OverflowError):
            raise ControlError(f"{self.name} must be {self.expected}, not {shown_value(value)}") from None

    def read(self, text: str) -> Any:
        """Convert a text of a command line. An invalid text stays a text, which checked() refuses."""
        try:
            return self.type.read(text)
        except (ValueError, KeyError):
            return text

    @property
    def expected(self) -> str:
        """What is accepted, in words."""
        expected = self.type.expected
        return expected.replace("number", f"number in {self.unit}", 1) if self.unit else expected

    @property
    def usage(self) -> str:
        """The parameter in the usage line of the operation."""
        text = "on|off" if self.type is TYPES[bool] else self.name.upper()
        if self.keyword:
            text = f"{self.name}={self.unit or text}"
        elif self.separator == ",":
            text = f"{text.removesuffix('S')} ..."
        return f"[{text}]" if self.optional else text


def _declared(method: Callable[..., Any], parameter: inspect.Parameter, annotation: Any) -> tuple[ValueType, str]:
    """Return the type and the unit of a parameter. Raise TypeError if an operation cannot have it."""
    name = parameter.name
    if name == _NAME_KEY:
        raise TypeError(f"{method.__name__}: no parameter may be called {name}, which is the key of the operation")
    if parameter.default not in (None, parameter.empty):
        raise TypeError(f"{method.__name__}: the default of {name} must be None, not {parameter.default!r}")
    try:
        return _type_and_unit(annotation)
    except (LookupError, ValueError):
        raise TypeError(f"{method.__name__}: the annotation of {name} must be one of TYPES, not {annotation}") from None


class Operation:
    """An operation, as its method declares it.

    Parameters
    ----------
    method
        The method. Each parameter has an annotation of TYPES: `Annotated[float, "K"]` is a number in K. A parameter
        whose default is None is optional. `**` accepts the keys of a fault. The docstring, in the style of numpy, has
        the help: the first line for the operation, and the section "Parameters" for its parameters.
    words
        The name on a command line.
    changes
        Whether the operation changes the simulator. The log names the client that requested such an operation.
    text_key
        For an operation without parameters, such as `fault clear`: the parameter that the error message suggests if
        further words are given. The error of `fault clear x` suggests `text="clear x"`.

    Raises
    ------
    TypeError
        If a parameter is not valid.
    """

    def __init__(self, method: Callable[..., Any], words: str, *, changes: bool, text_key: str = "") -> None:
        self.words = words
        self._text_key = text_key
        self.name = words.replace(" ", "-")
        """The name in the key `do` of a request."""
        self.method = method.__name__
        """The name of the method in Operations and in OperationExecutor."""
        self.changes = changes
        # Python's option -OO removes docstrings.
        text = inspect.getdoc(method) or ""
        self.help = text.partition("\n")[0]
        helps = dict(re.findall(r"^(\w+)\n((?: +.+\n?)+)", text, re.MULTILINE))
        hints = get_type_hints(method, include_extras=True)
        self.result = hints["return"] is not NoneType
        """Whether it has a result."""
        _, *declared = inspect.signature(method).parameters.values()
        self.takes_fault = any(parameter.kind is parameter.VAR_KEYWORD for parameter in declared)
        """Whether it accepts further keys: those of a fault."""
        self._known: dict[str, Parameter] = {}
        for parameter in declared[: -1 if self.takes_fault else None]:
            kind, unit = _declared(method, parameter, hints.get(parameter.name))
            optional = parameter.default is None
            separator = kind.separator if parameter is declared[-1] else ""
            # Written without their names: the first value, and what takes all remaining words.
            keyword = self.takes_fault or (not separator and (optional or parameter is not declared[0]))
            help_text = " ".join(helps.get(parameter.name, "").split())
            self._known[parameter.name] = Parameter(parameter.name, kind, unit, help_text, optional, keyword, separator)
        self.parameters = tuple(self._known.values())

    @property
    def usage(self) -> str:
        """The usage line for a command line."""
        further = ["[KEY=VALUE ...]"] if self.takes_fault else []
        return " ".join([self.words, *(parameter.usage for parameter in self.parameters), *further])

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the converted values of a request. Raise ControlError for an unknown, missing or invalid one."""
        for key in values:
            if key not in self._known and (not self.takes_fault or key == _NAME_KEY):
                raise self._unknown(key)
        for parameter in self.parameters:
            if parameter.name not in values and not parameter.optional:
                raise ControlError(f"{self.words} needs {parameter.name}: {parameter.expected}")
        return {key: self._known[key].checked(value) if key in self._known else value for key, value in values.items()}

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
        if self.takes_fault:
            try:
                return fault_from_texts(texts).table
            except FaultScriptError as problem:
                raise ControlError(str(problem)) from None
        return self.checked({key: self._known[key].read(text) for key, text in texts.items()})

    def _texts(self, words: Sequence[str]) -> dict[str, str]:
        """Return the text of each value on a command line, by key."""
        waiting = [parameter for parameter in self.parameters if not (parameter.optional and parameter.keyword)]
        texts: dict[str, str] = {}
        for place, word in enumerate(words):
            waiting = [parameter for parameter in waiting if parameter.name not in texts]
            separator = waiting[0].separator if waiting else ""
            key, equals, text = word.partition("=")
            if equals and (key in self._known or (self.takes_fault and key)):
                if key in texts:
                    raise ControlError(f"{key} is there twice")
                texts[key] = text
            elif equals and key.isidentifier() and separator != " ":
                raise self._unknown(key)
            elif separator:
                texts[waiting[0].name] = separator.join(words[place:])
                break
            elif waiting:
                texts[waiting[0].name] = word
            else:
                text = " ".join([self.words.rpartition(" ")[2], *words])
                hint = f': to set this text, write {self._text_key}="{text}"' if self._text_key else ""
                raise ControlError(f"{shown_value(word)} is one too many: {self.usage}{hint}")
        return texts

    def _unknown(self, key: Any) -> ControlError:
        takes = f": {self.words} takes {', '.join(self._known) or 'nothing'}"
        takes += " and the other keys of the fault" if self.takes_fault else ""
        return ControlError(f"{shown_value(key)} is not known{did_you_mean(str(key), self._known) or takes}")
