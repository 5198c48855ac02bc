"""Schema: checks TOML and JSON values against the annotations of records, and reads tables into records.

A record is a class whose annotated attributes are the keys of a table, usually a dataclass. The annotation of a key is
its type; `Allowed` adds the unit and the range. An attribute without a default is a key that is needed::

    Kelvin = Annotated[float, Allowed("K", above=0, most=1e6)]

    @dataclass(frozen=True, slots=True)
    class Comb:
        level: Kelvin
        spacing: Annotated[float, Allowed("MHz", above=0)] = 10.0

    read(Comb, {"level": -1}, "interference[0]", InstrumentError)

raises InstrumentError("interference[0].level must be a number of K above 0, at most 1000000, not -1").

These types can be used:

- bool, int, float, str, and object or Any for anything; each of them with `Allowed`;
- `X | None`: in JSON, the value may be null;
- tuple[X, ...], Sequence[X] or Container[X], a list; tuple[X, Y], a list of that length; Range[X], a pair;
- Mapping[str, X], a table with any keys;
- another dataclass D, a table; tuple[D, ...], a list of tables; Mapping[str, D], a table of tables.

A function in `Allowed` must be defined outside of the record: a lambda in the annotation itself finds no global names.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, MISSING, dataclass, field, is_dataclass
from functools import cache, partial, reduce
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from discosbackend.toml import did_you_mean

__all__ = [
    "DAY",
    "NEEDED",
    "NO_KEY",
    "YEAR",
    "Allowed",
    "OneLine",
    "Range",
    "check",
    "checked",
    "expected",
    "from_text",
    "keys",
    "one_line",
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

# The maximum number of characters of a value in an error message.
_SHOWN = 60

DAY, YEAR = 86400.0, 366 * 86400.0
"""Limits in "seconds", which messages show as "a day" and "a year"."""

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
    valid: Callable[[Any], object] | None = None
    expected: str = ""

    def includes(self, value: Any) -> bool:
        """Return whether a value that has the right type is in the range and meets the condition."""
        above = self.above is None or value > self.above
        inside = not isinstance(value, (int, float)) or (above and self.least <= value <= self.most)
        return inside and (self.valid is None or bool(self.valid(value)))

    def within(self, inner: Allowed) -> Allowed:
        """Return an Allowed that requires this one and `inner`: `Annotated[Kelvin, Allowed(most=5)]`.

        Raises
        ------
        TypeError
            If the units differ, or if only `inner` has a text `expected`, which does not describe the result.
        """
        if self.unit and inner.unit and self.unit != inner.unit:
            raise TypeError(f"a key cannot have the units {self.unit} and {inner.unit}")
        if inner.expected and not self.expected:
            raise TypeError(f"an Allowed around one that expects {inner.expected!r} needs `expected` too")
        bounds = [each.above for each in (self, inner) if each.above is not None]
        return Allowed(
            unit=self.unit or inner.unit,
            above=max(bounds, default=None),
            least=max(self.least, inner.least),
            most=min(self.most, inner.most),
            names={**(inner.names or {}), **(self.names or {})} or None,
            valid=lambda value: all(each.valid is None or each.valid(value) for each in (self, inner)),
            expected=self.expected,
        )


Range = Annotated[
    tuple[T, T], Allowed(valid=lambda pair: pair[0] <= pair[1], expected="a pair [lowest, highest] of {}")
]
"""A pair [lowest, highest]; `Range[int]` is the type of a key."""


def one_line(longest: int = sys.maxsize) -> Allowed:
    """Return the condition for a text of one line: `Annotated[str, one_line(64)]`."""
    return Allowed(
        valid=lambda text: text.strip() != "" and text.isprintable() and len(text) <= longest,
        expected="one line of text" + (f" of at most {longest} characters" if longest < sys.maxsize else ""),
    )


OneLine = Annotated[str, one_line()]
"""The type of a key whose value is a text of one line."""


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
        The path and the content of a second table, used for the keys that `table` does not have.
    ranges
        Whether the conditions in Allowed are checked too. Otherwise only the types are.

    Raises
    ------
    error
        If a key is unknown, missing or has an invalid value. The message has the path of the key and what is allowed.
    """
    values = read_values(record, table, where, error, behind, ranges)
    try:
        return record(**values)
    except ValueError as problem:
        raise error(f"{where}: {problem}" if where else str(problem)) from None


def read_values(
    record: Any, table: Any, where: str, error: type[Exception], behind: Any = None, ranges: bool = True
) -> dict[str, Any]:
    """Like read(), but return a dict of the keys that are in a table."""
    known = keys(record, ranges)
    places = [(where, table), *([] if behind is None else [behind])]
    for path, values in places:
        if not isinstance(values, Mapping):
            raise error(wrong(path, f"a table with {', '.join(known)}", values))
        for key in values:
            if key not in known:
                raise error(f"{path_of(path, key)} is not known{did_you_mean(str(key), known, listed=True)}")
    found = {}
    for key, hint in known.items():
        path, values = next((place for place in places if key in place[1]), places[0])
        if key in values:
            found[key] = checked(hint, values[key], path_of(path, key), error, ranges=ranges)
        elif _is_needed(record, key, hint):
            also = f", there or in [{behind[0]}]" if behind else ""
            raise error(f"{path_of(path, key)} is needed{also}: {expected(hint)}")
    return found


def check(record: Any, error: type[Exception]) -> None:
    """Check and convert the values of a record that was not read from a table. Call it in `__post_init__`."""
    for key, hint in keys(type(record)).items():
        object.__setattr__(record, key, checked(hint, getattr(record, key), key, error))


def checked(hint: Any, value: Any, where: str, error: type[Exception], *, ranges: bool = True) -> Any:
    """Check one value, and return it converted to the type of an annotation.

    The items of a list or of a table have paths of their own: `bins[0]`, `tsys.L`.
    """
    kind, allowed, optional = _parts(hint)
    each = partial(checked, error=error, ranges=ranges)
    if value is None and optional:
        return None
    if is_dataclass(kind):
        return value if isinstance(value, kind) else read(kind, value, where, error, ranges=ranges)  # type: ignore[arg-type]
    found: Any = None
    items, named = get_args(kind), get_origin(kind) is Mapping
    if named and isinstance(value, Mapping):
        found = {key: each(items[1], item, path_of(where, key)) for key, item in value.items()}
    elif items and not named and isinstance(value, (list, tuple)):
        hints = items if _is_fixed(kind) else items[:1] * len(value)
        if len(hints) == len(value):
            found = tuple(map(each, hints, value, (f"{where}[{number}]" for number in range(len(value)))))
    elif allowed.names and isinstance(value, str):
        found = allowed.names.get(value)
    elif not items:
        found = _scalar(kind, value)
    if found is None or not allowed.includes(found):
        in_toml = f": write [[{where}]] above each" if items and isinstance(value, Mapping) else ""
        raise error(wrong(where, expected(hint) + in_toml, value))
    return found


def _scalar(kind: Any, value: Any) -> Any:
    """Return the value as its type, None if it is of another type."""
    if isinstance(value, bool) and kind in (int, float):
        return None
    if kind is float and isinstance(value, (int, float)):
        # Neither an infinity nor an integer that no float can hold.
        return float(value) if abs(value) <= sys.float_info.max else None
    return value if isinstance(value, kind) else None


def from_text(hint: Any, text: str) -> Any:
    """Convert a word of a command line to a bool or a number, for such an annotation. Return other words unchanged."""
    kind, _, _ = _parts(hint)
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    for number in (int, float) if kind in (int, float) else ():
        with suppress(ValueError):
            return number(text)
    return text


# -- what the annotations say -------------------------------------------------------------------------


def keys(record: Any, ranges: bool = True) -> Mapping[str, Any]:
    """Return the keys of a record with their annotations. If `ranges` is false, these have no Allowed."""
    return _keys(record, ranges)


@cache
def _keys(record: Any, ranges: bool) -> Mapping[str, Any]:
    hints, types = get_type_hints(record, include_extras=True), get_type_hints(record)
    own = (key for key, hint in hints.items() if hint is not KW_ONLY and not _has(NO_KEY, hint))
    return {key: hints[key] if ranges else types[key] for key in own}


def _has(mark: str, hint: Any) -> bool:
    return get_origin(hint) is Annotated and mark in hint.__metadata__


def _is_needed(record: Any, key: str, hint: Any) -> bool:
    if not is_dataclass(record):
        return not hasattr(record, key)
    declared = record.__dataclass_fields__[key]
    return _has(NEEDED, hint) or (declared.default is MISSING and declared.default_factory is MISSING)


def _parts(hint: Any) -> tuple[Any, Allowed, bool]:
    """Return the type of an annotation, its Allowed, and whether it may be None. Several Allowed are combined."""
    found: list[Allowed] = []
    optional = False
    while get_origin(hint) in (Annotated, Union, UnionType):
        if get_origin(hint) is Annotated:
            found += [each for each in reversed(hint.__metadata__) if isinstance(each, Allowed)]
            hint = hint.__origin__
        else:
            optional = True
            (hint,) = (each for each in get_args(hint) if each is not NoneType)
    return object if hint is Any else hint, reduce(Allowed.within, found) if found else Allowed(), optional


def _is_fixed(kind: Any) -> bool:
    """Return whether a list has a fixed length: tuple[X, Y], but not tuple[X, ...]."""
    return get_origin(kind) is tuple and get_args(kind)[-1] is not Ellipsis


def expected(hint: Any, many: bool = False) -> str:
    """Describe the values that an annotation allows, such as "a number of K above 0"; with `many`, in the plural."""
    kind, allowed, _ = _parts(hint)
    items = get_args(kind)
    of = expected(items[get_origin(kind) is Mapping], many=True) if items else ""
    if allowed.expected:
        return allowed.expected.replace("{}", of)
    if kind in (bool, str, object):
        return {bool: "true or false", str: "text", object: "any values" if many else "any value"}[kind]
    if is_dataclass(kind):
        noun, rest = "table", f" with {', '.join(keys(kind))}"
    elif items:
        noun = "table" if get_origin(kind) is Mapping else "list"
        rest = f" of {len(items)} {of}" if _is_fixed(kind) else f" of {of}" if of != "any values" else ""
    else:
        noun, rest = "number" if kind is float else "whole number", _range_of(allowed)
    return f"{noun}s{rest}" if many else f"a {noun}{rest}"


def _range_of(allowed: Allowed) -> str:
    text = f" of {allowed.unit}" if allowed.unit else ""
    words = {DAY: "a day", YEAR: "a year"} if allowed.unit == "seconds" else {}
    least, most = (words.get(bound, f"{bound:.10g}") for bound in (allowed.least, allowed.most))
    if allowed.above is None and "inf" not in (least[-3:], most):
        text += f" from {least} to {most}"
    else:
        text += f" above {allowed.above:.10g}" if allowed.above is not None else ""
        text += f", {least} or more" if least != "-inf" else ""
        text += f", at most {most}" if most != "inf" else ""
    return text + (f", or one of {', '.join(allowed.names)}" if allowed.names else "")


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
