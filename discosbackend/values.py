"""Conversion of values from and to the texts in messages (protocol sections 3 and 5.6).

`parse_*` convert the text of an argument, and raise ValueError if it is not valid. `texts` converts the result of a
backend's method to the arguments of a reply, and raises UnsendableError if that is not possible. The arguments and
fields of each command are listed in commands.py.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from discosbackend.errors import ReplyTooLong, UnsendableError
from discosbackend.ticks import Ticks

__all__ = [
    "TYPES",
    "FieldLike",
    "PlainTexts",
    "float_text",
    "parse_boolean",
    "parse_float",
    "parse_integer",
    "parse_path",
    "path_text",
    "plain_number",
    "plain_texts",
    "texts",
    "without_escapes",
]

_INTEGER = re.compile(r"[-+]?[0-9]{1,19}", re.ASCII)
# Possessive, so that a line with 16 KiB of digits causes no backtracking.
_FLOAT = re.compile(r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?", re.ASCII)

# Without a reply limit, reading an iterable of the backend stops after this many bytes.
_LONGEST_REPLY = 2**20


PlainTexts = Mapping[type, Callable[[Any], str]]
"""For each type, a function that converts a value to the text of a field. Subclasses of a type are not included."""


class FieldLike(Protocol):
    """The attributes of a reply field that this module uses. commands.Field has them."""

    @property
    def name(self) -> str:
        """The name of the value."""

    @property
    def type(self) -> str:
        """One of TYPES."""

    @property
    def repeated(self) -> bool:
        """Whether the reply has one or more values of this field. Only the last field can be repeated."""

    @property
    def unescaped(self) -> bool:
        """Whether commas and backslashes are replaced. The clients that read such a field do not know escapes."""

    @property
    def plain(self) -> PlainTexts:
        """The result of plain_texts() for the type of this field."""


def parse_integer(text: str) -> int:
    """Convert an optional sign and 1 to 19 ASCII digits to an int. Raise ValueError for any other text."""
    if _INTEGER.fullmatch(text) is None:
        raise ValueError(f"not an integer: {text!r}")
    return int(text)


def parse_float(text: str) -> float:
    """Convert a finite decimal number, such as `1`, `-1.5e3`, `5.` or `.5`, to a float. Raise ValueError otherwise."""
    if _FLOAT.fullmatch(text) is None or not math.isfinite(number := float(text)):
        raise ValueError(f"not a finite decimal: {text!r}")
    return number


def parse_boolean(text: str) -> bool:
    """Convert `1` or `0` to a bool. Raise ValueError for any other text."""
    if text not in ("0", "1"):
        raise ValueError(f"not a boolean: {text!r}")
    return text == "1"


def _parse_timestamp(text: str) -> Ticks:
    """Convert a timestamp to Ticks. ValueError for other texts, and for times up to 1970 (protocol section 7.3)."""
    ticks = Ticks.parse(text)
    if ticks <= 0:
        raise ValueError(f"not after 1970: {text!r}")
    return ticks


def parse_path(text: str) -> str:
    """Convert the bytes of a path, as latin-1 characters, to the path as Python's file functions take it.

    Raise ValueError if the text has a character that is not latin-1.
    """
    return os.fsdecode(text.encode("latin-1"))


def path_text(path: str | os.PathLike[str]) -> str:
    """Convert a path to its bytes, as latin-1 characters: the inverse of parse_path().

    Raise ValueError if the file system cannot have such a path.
    """
    # The result of __str__ for a str: str() of a member of an Enum that is also a str gives "Mode.CP".
    return os.fsencode(str.__str__(path) if isinstance(path, str) else path).decode("latin-1")


TYPES: dict[str, tuple[Callable[[str], Any], str]] = {
    "integer": (parse_integer, "an integer"),
    "float": (parse_float, "a finite decimal number"),
    "boolean": (parse_boolean, "0 or 1"),
    "timestamp": (_parse_timestamp, "a count of 100 ns since 1970 or Unix seconds with a decimal point"),
    "text": (str, "text"),
    "path": (parse_path, "a path"),
}
"""For each type, the function that converts a text to a value, and a description of valid texts.

The reason of a `fail` reply contains the description."""


def float_text(number: float) -> str:
    """Return a float as text without an exponent. Parsing the text gives the same float.

    Raise UnsendableError for nan and infinities.
    """
    text = repr(float(number))
    if "e" in text:
        # Imported here, because its 0.3 MiB are rarely needed.
        from decimal import Decimal

        text = format(Decimal(text), "f")
    elif text in ("nan", "inf", "-inf"):
        raise UnsendableError(f"{text} is no number that a reply can carry")
    return text


def texts(result: Any, fields: Sequence[FieldLike], limit: int | None) -> list[str]:
    """Convert the result of a backend's method to the arguments of the `ok` reply.

    Parameters
    ----------
    result
        None gives no argument. A number, text, bytes, boolean, Ticks or astropy Time gives one argument. An iterable of
        these gives one argument per value. A field of type "path" can also be a `pathlib.Path`.
    fields
        The fields of the command's reply. Values beyond the last field are sent too.
    limit
        The maximum length of the texts, with one separator each, in bytes. None: 1 MiB.

    Raises
    ------
    UnsendableError
        If there are fewer values than fields; if the result contains None or another iterable; or if it is or contains
        a mapping, nan, an infinity, or an object of any other type.
    ReplyTooLong
        If the texts are longer than `limit`. The iterable is read only up to the limit, so it may be endless.
    """
    found: list[str] = []
    left = limit or _LONGEST_REPLY
    surplus = fields[-1] if fields and fields[-1].repeated else None
    for value in result if type(result) in (tuple, list) else _values_of(result):
        field = fields[len(found)] if len(found) < len(fields) else surplus
        write = None if field is None else field.plain.get(type(value))
        if write is None:
            text = _text_of(value, field)
        else:
            try:
                text = write(value)
            except ValueError as problem:
                raise UnsendableError(str(problem)) from problem
        if field is not None and field.unescaped:
            text = without_escapes(text)
        found.append(text)
        left -= len(text) + 1
        if left < 0:
            raise ReplyTooLong(limit or _LONGEST_REPLY)
    if len(found) < len(fields):
        missing = " and ".join(repr(field.name) for field in fields[len(found) :])
        raise UnsendableError(f"{len(found)} of {len(fields)} reply fields: {missing} missing")
    return found


def _values_of(result: Any) -> Iterable[Any]:
    """Return the single values of a result as an iterable."""
    if result is None:
        return ()
    if _is_one(result):
        return (result,)
    if isinstance(result, Mapping):
        raise UnsendableError(f"a mapping ({type(result).__name__}) has no order that a reply could keep")
    try:
        values: Iterator[Any] = iter(result)
    except TypeError:
        raise UnsendableError(f"a {type(result).__name__} is nothing that a reply can carry") from None
    return values


def _is_one(value: Any) -> bool:
    """Return whether a value is one argument, not several."""
    if isinstance(value, (int, float, str, bytes, bytearray, os.PathLike)):
        return True
    if isinstance(value, (list, tuple)):
        return False
    # The module needs 60 KiB of memory. Most backends return only the types above.
    from numbers import Number

    if isinstance(value, Number):
        return True
    # The shape of a numpy scalar, of an array without dimensions and of a scalar astropy Time is ().
    return getattr(value, "shape", None) == ()


def _text_of(value: Any, field: FieldLike | None) -> str:
    """Convert one value to the text of its field."""
    if isinstance(value, (bytes, bytearray)):
        return value.decode("latin-1")
    if isinstance(value, (str, os.PathLike)) and field is not None and field.type == "path":
        try:
            return path_text(value)
        except ValueError as problem:
            raise UnsendableError(str(problem)) from problem
    if isinstance(value, str):
        # str.__str__, because str() of a member of an Enum that is also a str gives "Mode.CP".
        return str.__str__(value)
    if isinstance(value, os.PathLike):
        raise UnsendableError(f"{value!r} is a path: return its text, or declare the field as a path")
    if not _is_one(value):
        raise UnsendableError(f"{type(value).__name__} inside the returned values")
    try:
        if hasattr(value, "jd1") or isinstance(value, Ticks):
            return Ticks.of(value).unix_text()
        return _number(plain_number(value), field)
    except (TypeError, ValueError, OverflowError) as problem:
        raise UnsendableError(str(problem)) from problem


def without_escapes(text: str) -> str:
    """Replace commas and backslashes, for clients that split at every comma and know no escapes."""
    return text.replace(",", ";").replace("\\", "/")


def _number(number: bool | float, field: FieldLike | None) -> str:
    """Convert a number to the text of a field of this type."""
    kind = "" if field is None else field.type
    if kind == "timestamp":
        return Ticks.of(number).unix_text()
    if isinstance(number, float) and not (kind in ("integer", "boolean") and number.is_integer()):
        return float_text(number)
    return str(int(number))


@cache
def plain_texts(kind: str) -> PlainTexts:
    """Return fast functions for the types that most backends return for a field of this kind.

    _text_of() converts all other values. It takes a microsecond per value. If it converted all values, it would take a
    third of the time of a `status` request.
    """
    plain: dict[type, Callable[[Any], str]] = {
        Ticks: Ticks.unix_text,
        str: str,
        bool: _TRUTH.__getitem__,
        int: str,
        float: float_text,
    }
    if kind in ("timestamp", "integer", "boolean"):
        del plain[float]
    if kind == "timestamp":
        del plain[int], plain[bool]
    if kind == "path":
        # Converted by _text_of().
        del plain[str]
    return plain


_TRUTH = {True: "1", False: "0"}


def plain_number(value: Any) -> bool | int | float:
    """Convert any scalar number to a Python number: a numpy scalar, Decimal, Fraction or IntEnum."""
    if getattr(value, "unit", None) is not None:
        raise UnsendableError(f"{value!r} has a unit: return its value in the unit of the protocol")
    if bool(getattr(value, "mask", False)):
        raise UnsendableError("a masked value is no value")
    if getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M"):
        raise UnsendableError(f"{value!r} is no number: return a Time, Ticks or Unix seconds")
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value)
    from numbers import Integral, Number

    if isinstance(value, Integral):
        return int(value)
    # Not by Real, which Decimal is none of. A complex number has no __float__.
    if isinstance(value, Number) and hasattr(value, "__float__"):
        return float(value)
    raise UnsendableError(f"{value!r} is no number that a reply can carry")
