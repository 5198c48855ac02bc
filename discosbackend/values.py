"""Values as they stand in messages, both ways (protocol sections 3 and 5.6).

`parse_*` read an argument's text and raise ValueError for a text that is none; `texts` turns whatever a
backend returned into the arguments of a reply, and raises UnsendableError for what no reply can carry.
Which command has which arguments and fields is said in commands.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
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
    "plain_texts",
    "texts",
]

_INTEGER = re.compile(r"[-+]?[0-9]{1,19}", re.ASCII)
# Digits can be divided in one way only: a line may bring 16 KiB of them.
_FLOAT = re.compile(r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?", re.ASCII)

# Reading a backend's iterable ends here when the reply limit is switched off.
_LONGEST_REPLY = 2**20


PlainTexts = Mapping[type, Callable[[Any], str]]
"""How values of exactly these types are written in a field."""


class FieldLike(Protocol):
    """What this module asks of a reply field; commands.Field is one."""

    @property
    def name(self) -> str:
        """What the value is."""

    @property
    def type(self) -> str:
        """One of TYPES."""

    @property
    def repeated(self) -> bool:
        """Whether one or more values of this kind follow; only the last field may."""

    @property
    def unescaped(self) -> bool:
        """Whether the readers of this text split at every comma and know no escapes."""

    @property
    def plain(self) -> PlainTexts:
        """What plain_texts says of the type and the escapes."""


def parse_integer(text: str) -> int:
    """An optional sign and 1 to 19 ASCII digits."""
    if _INTEGER.fullmatch(text) is None:
        raise ValueError(f"not an integer: {text!r}")
    return int(text)


def parse_float(text: str) -> float:
    """A finite decimal as C's strtod reads it, exponent allowed."""
    if _FLOAT.fullmatch(text) is None or not math.isfinite(number := float(text)):
        raise ValueError(f"not a finite decimal: {text!r}")
    return number


def parse_boolean(text: str) -> bool:
    """`1` or `0`."""
    if text not in ("0", "1"):
        raise ValueError(f"not a boolean: {text!r}")
    return text == "1"


def _parse_timestamp(text: str) -> Ticks:
    """A timestamp; zero and what lies before it is nothing a telescope means (protocol section 7.3)."""
    ticks = Ticks.parse(text)
    if ticks <= 0:
        raise ValueError(f"not after 1970: {text!r}")
    return ticks


TYPES: dict[str, tuple[Callable[[str], Any], str]] = {
    "integer": (parse_integer, "an integer"),
    "float": (parse_float, "a finite decimal number"),
    "boolean": (parse_boolean, "0 or 1"),
    "timestamp": (_parse_timestamp, "a count of 100 ns since 1970 or Unix seconds with a decimal point"),
    "text": (str, "text"),
}
"""Every type: how a text of it is read, and what such a text is, in words."""


def float_text(number: float) -> str:
    """Fixed point, no exponent, enough digits to read back the same double."""
    text = repr(float(number))
    if "e" in text:
        text = format(Decimal(text), "f")
    elif text in ("nan", "inf", "-inf"):
        raise UnsendableError(f"{text} is no number that a reply can carry")
    return text


def texts(result: Any, fields: Sequence[FieldLike], limit: int | None) -> list[str]:
    """The arguments of the reply for what a backend's method returned.

    None is no argument; a number, text, bytes, boolean or astropy Time is one; an iterable of these is one
    each. `fields` is what the command's reply consists of: surplus values are passed on, missing ones are
    an UnsendableError, as is anything nested, a mapping, None inside, nan or an infinity. ReplyTooLong as
    soon as the texts alone pass `limit` bytes, so that an endless iterable ends.
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
        found.append(text)
        left -= len(text) + 1
        if left < 0:
            raise ReplyTooLong(limit or _LONGEST_REPLY)
    if len(found) < len(fields):
        missing = " and ".join(repr(field.name) for field in fields[len(found) :])
        raise UnsendableError(f"{len(found)} of {len(fields)} reply fields: {missing} missing")
    return found


def _values_of(result: Any) -> Iterable[Any]:
    """The values that were returned, one after another."""
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
    """Whether a value is one argument, not several."""
    if isinstance(value, (str, bytes, bytearray, numbers.Number)):
        return True
    # numpy scalars and arrays of no dimension, and a scalar astropy Time: all have shape ().
    return getattr(value, "shape", None) == ()


def _text_of(value: Any, field: FieldLike | None) -> str:
    """One value as text, in the form that its field wants."""
    if isinstance(value, str):
        # What it is, not what its class prints: str() of an Enum that is a text gives "Mode.CP".
        return _string(str.__str__(value), field)
    if isinstance(value, (bytes, bytearray)):
        return _string(value.decode("latin-1"), field)
    if not _is_one(value):
        raise UnsendableError(f"{type(value).__name__} inside the returned values")
    try:
        if hasattr(value, "jd1") or isinstance(value, Ticks):
            return Ticks.of(value).unix_text()
        return _number(_plain_number(value), field)
    except (TypeError, ValueError, OverflowError) as problem:
        raise UnsendableError(str(problem)) from problem


def _string(text: str, field: FieldLike | None) -> str:
    return _without_escapes(text) if field is not None and field.unescaped else text


def _without_escapes(text: str) -> str:
    return text.replace(",", ";").replace("\\", "/")


def _number(number: bool | float, field: FieldLike | None) -> str:
    """A number as a field of this type has it."""
    kind = "" if field is None else field.type
    if kind == "timestamp":
        return Ticks.of(number).unix_text()
    if isinstance(number, float) and not (kind in ("integer", "boolean") and number.is_integer()):
        return float_text(number)
    return str(int(number))


@cache
def plain_texts(kind: str, unescaped: bool) -> PlainTexts:
    """What most backends return for a field of this kind, by its exact type, and how it is written there.

    Whatever else is one of these in kind, or is sent as one, goes the way of _text_of, which takes a
    microsecond a value: it was a third of the time of a `status`.
    """
    plain: dict[type, Callable[[Any], str]] = {
        Ticks: Ticks.unix_text,
        str: _without_escapes if unescaped else str,
        bool: _TRUTH.__getitem__,
        int: str,
        float: float_text,
    }
    if kind in ("timestamp", "integer", "boolean"):
        del plain[float]
    if kind == "timestamp":
        del plain[int], plain[bool]
    return plain


_TRUTH = {True: "1", False: "0"}


def _plain_number(value: Any) -> bool | int | float:
    """A Python number for any scalar that is one: numpy's, Decimal, Fraction, IntEnum."""
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
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, (numbers.Real, Decimal)):
        return float(value)
    raise UnsendableError(f"{value!r} is no number that a reply can carry")
