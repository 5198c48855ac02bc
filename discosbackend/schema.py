"""Schema: checks TOML and JSON values against the annotations of records, and reads tables into records.

A record is a class whose annotated attributes are the keys of a table, usually a dataclass. The annotation of a key is
its type; `Allowed` adds the unit and the range. An attribute without a default is a key that is needed. The docstring
of the record describes each key::

    Kelvin = Annotated[float, Allowed("K", above=0, most=1e6)]

    @dataclass(frozen=True, slots=True)
    class Comb:
        level: Kelvin
        spacing: Annotated[float, Allowed("MHz", above=0)] = 10.0

    read(Comb, {"level": -1}, "interference[0]", InstrumentError)

raises InstrumentError("interference[0].level must be a number of K above 0, at most 1000000, not -1").

These types can be used:

- bool, int, float, str, and object or Any for anything; each of them with `Allowed`;
- `X | None`: the key may be left out, or, in JSON, be null;
- tuple[X, ...], Sequence[X] or Container[X], a list; tuple[X, Y], a list of that length; Range[X], a pair;
- Mapping[str, X], a table with any keys;
- another record, a table; tuple[record, ...], a list of tables; Mapping[str, record], a table of tables.

A function in `Allowed` must be defined outside of the record: a lambda in the annotation itself finds no global names.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from discosbackend.toml import did_you_mean

__all__ = [
    "NEEDED",
    "NO_KEY",
    "Allowed",
    "OneLine",
    "Range",
    "check",
    "checked",
    "expected",
    "from_text",
    "help_of",
    "keys",
    "path_of",
    "read",
    "read_values",
    "shown",
    "wrong",
]

T = TypeVar("T")
RecordT = TypeVar("RecordT")

# A key that needs no quotes in TOML.
_BARE = re.compile(r"[A-Za-z0-9_-]+")

# The characters of a value that an error message shows.
_SHOWN = 60

NEEDED = "needed"
"""In the annotation of a key: a table needs it, although the record has a default for it."""

NO_KEY = "no key"
"""In the annotation of an attribute of a record: it is not a key of a table."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The allowed values of a key or of a parameter, in its annotation: `Annotated[float, Allowed("K", above=0)]`.

    Parameters
    ----------
    unit
        The unit of a number.
    above
        A number must be above this.
    least, most
        The smallest and the largest number.
    names
        Names that may be given instead of a value, with their values.
    valid
        A further condition: whether a value that has the right type is valid.
    expected
        What is allowed, for error messages and docs. Default: it is derived from the type and the range; with `valid`,
        describe the condition here. `{}` stands for the type of the items.
    """

    unit: str = ""
    above: float | None = None
    least: float = -math.inf
    most: float = math.inf
    names: Mapping[str, Any] | None = field(default=None, hash=False)
    valid: Callable[[Any], bool] | None = None
    expected: str = ""


Range = Annotated[
    tuple[T, T], Allowed(valid=lambda pair: bool(pair[0] <= pair[1]), expected="a pair [lowest, highest] of {}")
]
"""A pair [lowest, highest]; `Range[int]` is the type of a key."""

OneLine = Annotated[
    str, Allowed(valid=lambda text: text.strip() != "" and text.isprintable(), expected="one line of text")
]
"""A text for people."""


# -- reading tables -----------------------------------------------------------------------------------


def read(
    record: Callable[..., RecordT],
    table: Any,
    where: str,
    error: type[Exception],
    *,
    behind: tuple[str, Any] | None = None,
    ranges: bool = True,
) -> RecordT:
    """Read a table into a record.

    Parameters
    ----------
    record
        The class of the record.
    table
        The table, as tomllib or json return it.
    where
        The path of the table in its file, for error messages, such as "limits"; "" for the whole file.
    error
        The exception to raise.
    behind
        The path of another table and this table. It has the values of the keys that `table` does not have.
    ranges
        Whether the values must be as Allowed demands. Otherwise only their types are checked.

    Raises
    ------
    error
        If a key is unknown, missing or has an invalid value. The message has the path of the key and what is allowed.
    """
    with _raised_as(error):
        return _record(record, table, where, behind, ranges)


def read_values(record: type, table: Any, where: str, error: type[Exception]) -> dict[str, Any]:
    """Return the values of the keys that a table has; like read(), for a class that is no dataclass."""
    with _raised_as(error):
        return _values(record, table, where, None, True)


def checked(hint: Any, value: Any, where: str, error: type[Exception]) -> Any:
    """Return one value, converted to the type that an annotation demands. Raise `error` if it is invalid."""
    with _raised_as(error):
        return _value(hint, value, where, True)


def check(record: Any, error: type[Exception]) -> None:
    """Check and convert the values of a record that has been made by a call, in its `__post_init__`."""
    for key, hint in keys(type(record)).items():
        object.__setattr__(record, key, checked(hint, getattr(record, key), key, error))


@contextmanager
def _raised_as(error: type[Exception]) -> Iterator[None]:
    try:
        yield
    except ValueError as problem:
        raise error(str(problem)) from None


def _record(
    record: Callable[..., RecordT], table: Any, where: str, behind: tuple[str, Any] | None, ranges: bool
) -> RecordT:
    values = _values(record, table, where, behind, ranges)
    try:
        return record(**values)
    except ValueError as problem:
        raise ValueError(f"{where}: {problem}" if where else str(problem)) from None


def _values(record: Any, table: Any, where: str, behind: tuple[str, Any] | None, ranges: bool) -> dict[str, Any]:
    known = keys(record, ranges)
    places = [(where, table), *([] if behind is None else [behind])]
    for path, values in places:
        if not isinstance(values, Mapping):
            raise ValueError(wrong(path, f"a table with {', '.join(known)}", values))
        for key in values:
            if key not in known:
                near = did_you_mean(str(key), known, listed=True)
                raise ValueError(f"{path_of(path, key)} is not known{near}")
    found = {}
    for key, hint in known.items():
        path, values = next((place for place in places if key in place[1]), places[0])
        if key in values:
            found[key] = _value(hint, values[key], path_of(path, key), ranges)
        elif _is_needed(record, key, hint):
            also = f", there or in [{behind[0]}]" if behind else ""
            raise ValueError(f"{path_of(path, key)} is needed{also}: {expected(hint)}")
    return found


def _value(hint: Any, value: Any, where: str, ranges: bool) -> Any:
    """Convert a value, and, if it consists of tables, each of them with its own path."""
    kind, _, optional = _parts(hint)
    if value is None and optional:
        return None
    if is_dataclass(kind):
        return value if isinstance(value, kind) else _record(kind, value, where, None, ranges)  # type: ignore[arg-type]
    item: Any = next(filter(is_dataclass, get_args(kind)), None)
    named = get_origin(kind) is Mapping
    if item is not None and named and isinstance(value, Mapping):
        return {key: _value(item, each, path_of(where, key), ranges) for key, each in value.items()}
    if item is not None and not named and isinstance(value, (list, tuple)):
        return tuple(_value(item, each, f"{where}[{number}]", ranges) for number, each in enumerate(value))
    found = None if item is not None else _converted(hint, value)
    if found is None:
        right = expected(hint) if item is None or named else f"a list of tables: write [[{where}]] above each"
        raise ValueError(wrong(where, right, value))
    return found


# -- single values ------------------------------------------------------------------------------------


def _converted(hint: Any, value: Any) -> Any:
    """Return the value as its type, None if it is invalid."""
    kind, allowed, _ = _parts(hint)
    if allowed.names and isinstance(value, str):
        return allowed.names.get(value)
    found = _of_type(kind, value)
    if found is None or (allowed.valid is not None and not allowed.valid(found)):
        return None
    if kind in (int, float) and not allowed.least <= found <= allowed.most:
        return None
    return None if allowed.above is not None and found <= allowed.above else found


def _of_type(kind: Any, value: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is float:
        # Neither an infinity nor an integer that no float can hold.
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        return float(value) if is_number and abs(value) <= sys.float_info.max else None
    if kind is int:
        return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if origin is Mapping:
        if not isinstance(value, Mapping):
            return None
        table = {key: _converted(arguments[1], each) for key, each in value.items()}
        return None if None in table.values() else table
    if origin is not None:
        if not isinstance(value, (list, tuple)):
            return None
        kinds = arguments if origin is tuple and arguments[-1] is not Ellipsis else arguments[:1] * len(value)
        items = tuple(map(_converted, kinds, value))
        return None if len(kinds) != len(value) or None in items else items
    return value if isinstance(value, kind) else None


def from_text(hint: Any, text: str) -> Any:
    """Convert a word of a command line to a value that checked() accepts; return an invalid word unchanged."""
    kind, _, _ = _parts(hint)
    if get_origin(kind) is not None:
        return [from_text(get_args(kind)[0], each) for each in text.split(",")]
    if kind is bool:
        return {"on": True, "off": False, "true": True, "false": False}.get(text, text)
    for number in (int, float) if kind in (int, float) else ():
        with suppress(ValueError):
            return number(text)
    return text


# -- what the annotations and docstrings say ----------------------------------------------------------


def keys(record: Any, ranges: bool = True) -> Mapping[str, Any]:
    """Return the keys of a record with their annotations; without Allowed, if only the types are to be checked."""
    return _keys(record, ranges)


@cache
def _keys(record: Any, ranges: bool) -> Mapping[str, Any]:
    hints = get_type_hints(record, include_extras=True)
    made = {each.name for each in fields(record) if not each.init} if is_dataclass(record) else set()
    made |= {
        key for key, hint in hints.items() if get_origin(hint) is ClassVar or hint is KW_ONLY or _has(NO_KEY, hint)
    }
    return {key: hint for key, hint in get_type_hints(record, include_extras=ranges).items() if key not in made}


def _has(mark: str, hint: Any) -> bool:
    return get_origin(hint) is Annotated and mark in hint.__metadata__


def _is_needed(record: Any, key: str, hint: Any) -> bool:
    if not is_dataclass(record):
        return not hasattr(record, key)
    declared = record.__dataclass_fields__[key]
    return _has(NEEDED, hint) or (declared.default is MISSING and declared.default_factory is MISSING)


def _parts(hint: Any) -> tuple[Any, Allowed, bool]:
    """Return the type of an annotation, its outermost Allowed, and whether it may be None."""
    found: list[Allowed] = []
    optional = False
    while True:
        if get_origin(hint) is Annotated:
            found += [each for each in reversed(hint.__metadata__) if isinstance(each, Allowed)]
            hint = hint.__origin__
        elif get_origin(hint) in (Union, UnionType):
            optional = True
            (hint,) = (each for each in get_args(hint) if each is not NoneType)
        else:
            return object if hint is Any else hint, found[0] if found else Allowed(), optional


def expected(hint: Any, many: bool = False) -> str:
    """Describe the values that an annotation allows, such as "a number of K above 0"; with `many`, in the plural."""
    kind, allowed, _ = _parts(hint)
    origin, arguments = get_origin(kind), get_args(kind)
    items = expected(arguments[origin is Mapping], True) if origin is not None else ""
    if allowed.expected:
        return allowed.expected.replace("{}", items)
    if kind in (bool, str, object):
        return {bool: "true or false", str: "text", object: "any values" if many else "any value"}[kind]
    if is_dataclass(kind):
        noun, rest = "table", f" with {', '.join(keys(kind))}"
    elif origin is not None:
        count = f"{len(arguments)} " if origin is tuple and arguments[-1] is not Ellipsis else ""
        noun, rest = "table" if origin is Mapping else "list", f" of {count}{items}"
    else:
        noun, rest = "number" if kind is float else "whole number", _range_of(allowed)
    return f"{noun}s{rest}" if many else f"a {noun}{rest}"


def _range_of(allowed: Allowed) -> str:
    text = f" of {allowed.unit}" if allowed.unit else ""
    least, most = f"{allowed.least:.10g}", f"{allowed.most:.10g}"
    if allowed.above is None and "inf" not in (least[-3:], most):
        text += f" from {least} to {most}"
    else:
        text += f" above {allowed.above:.10g}" if allowed.above is not None else ""
        text += f", {least} or more" if least != "-inf" else ""
        text += f", at most {most}" if most != "inf" else ""
    return text + (f", or one of {', '.join(allowed.names)}" if allowed.names else "")


def help_of(documented: Any) -> dict[str, str]:
    """Return the descriptions of the keys or parameters in a docstring: those of its section Parameters, by name."""
    _, _, text = (inspect.getdoc(documented) or "").partition("Parameters\n----------\n")
    section = re.split(r"\n\w+\n---", text)[0]
    entries = re.findall(r"^(\w+(?:, \w+)*)\n((?: .*\n?|\n)+)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


# -- error messages -----------------------------------------------------------------------------------


def path_of(where: str, key: Any) -> str:
    """Return the full path of a key: `where` is the path of its table, "" for the whole file."""
    text = key if isinstance(key, str) and _BARE.fullmatch(key) else shown(key)
    return f"{where}.{text}" if where else text


def wrong(where: str, right: str, value: Any) -> str:
    """Return the message that a value must be `right`."""
    return f"{where} must be {right}, not {shown(value)}"


def shown(value: Any) -> str:
    """Format a value for an error message: one line of limited length, in the syntax of TOML."""
    if isinstance(value, Mapping):
        return "a table"
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except ValueError:
        # An integer of thousands of digits.
        return "that number"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
