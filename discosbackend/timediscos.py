"""astropy's side of an instant: the time format "discos" and the way between Ticks and `Time`.

Importing this module registers the format. It is the only one that imports astropy at its top, so that a
server whose backend needs no `Time` never loads it. Text as it stands in requests is read by ticks.
"""

from __future__ import annotations

import decimal
import operator
from decimal import Decimal
from typing import Any

import numpy as np
from astropy.time import ScaleValueError, Time, TimeUnix

from discosbackend import ticks as ticks_module
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = [
    "CENTINANOSECONDS",
    "TimeDiscos",
    "forbid_downloads",
    "get_acs_now",
    "parse_unix_time",
    "ticks_from_time",
    "time_from_ticks",
    "unix_to_acs_time",
]

CENTINANOSECONDS = TICKS_PER_SECOND
"""Counts of the format "discos" per second: one is a centinanosecond, 100 ns."""

# A count of today needs 54 bits and a double has 53. A whole number of days does fit, up to 2^27 of them,
# since this factor has only 26 bits that are not trailing zeros; so does what is left of the last day.
_TICKS_PER_DAY = 86400 * TICKS_PER_SECOND

# 1970-01-01T00:00:00 as the two doubles in which astropy keeps it.
_EPOCH_JD1, _EPOCH_JD2 = 2440588.0, -0.5

# Of its own, so that neither the precision nor the traps of the caller's context matter. A number whose
# exponent would make it fill the memory as an int is an InvalidOperation here.
_CONTEXT = decimal.Context(prec=50, traps=[decimal.InvalidOperation])

_SECONDS_PER_TICK = Decimal("1e-7")


# A reader is handed the second value too, which with text and Decimal is None.


def _halves_of_number(value: str | Decimal, _: object = None) -> tuple[float, float]:
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError(f"not a finite number: {value!r}")
    days, rest = _CONTEXT.divmod(number, Decimal(_TICKS_PER_DAY))
    return float(days) * _TICKS_PER_DAY, float(rest)


def _halves_of_bytes(value: bytes, _: object = None) -> tuple[float, float]:
    return _halves_of_number(value.decode("ascii"))


def _halves_of_long(val1: Any, val2: Any) -> tuple[Any, Any]:
    whole = np.trunc(val1 / _TICKS_PER_DAY) * _TICKS_PER_DAY
    return whole.astype(np.float64), (val1 - whole + val2).astype(np.float64)


def _count(val1: float, val2: float) -> int:
    # Added as integers: the sum of the two doubles would be 2 counts coarse again.
    whole = int(val1)
    return whole + round(val1 - whole + val2)


def _long(val1: Any, val2: Any) -> Any:
    return np.rint(val1.astype(np.longdouble) + val2.astype(np.longdouble))


def _decimal(val1: float, val2: float) -> Decimal:
    return Decimal(_count(val1, val2))


# To the writers of text astropy hands how many digits it thinks sensible, which a whole number needs not.


def _text(val1: float, val2: float, **_: object) -> str:
    return str(_count(val1, val2))


def _bytes(val1: float, val2: float, **_: object) -> bytes:
    return str(_count(val1, val2)).encode("ascii")


_READ_NUMBERS = np.vectorize(_halves_of_number, otypes="dd")
_READ_BYTES = np.vectorize(_halves_of_bytes, otypes="dd")


class TimeDiscos(TimeUnix):  # type: ignore[misc]  # astropy ships no type information
    """The astropy time format "discos": the count of 100 ns since 1970-01-01T00:00:00 UTC.

    Scale utc unless another is given. Leap seconds are not counted, exactly as in astropy's "unix": a leap
    second has no count of its own, and the counts of the UTC day that ends in one are spread evenly over
    its 86401 s.

    Text, bytes, Decimal and a pair of floats (whole days, rest), both in counts, are read exactly, and
    `to_value("discos", subfmt=...)` gives a whole number for "str", "bytes", "decimal" and "long" ("long"
    holds it exactly where numpy's longdouble has 64 bits). A fraction of a count is kept as far as
    astropy's two doubles hold it, 10^-4 counts. A single number, int or float, becomes a double before the
    format sees it and is 2 counts coarse today, and so is `Time.discos`; use `time_from_ticks` or text.

    What is no finite number is a ValueError of `Time`.
    """

    # Class attributes only: astropy's copying and arithmetic call __init__ in its own ways.
    name = "discos"
    unit = 1.0 / _TICKS_PER_DAY
    # Name, numpy type, reader, writer; astropy takes the first whose type fits. Its own readers and
    # writers make one double of the whole part, which is what must not happen here.
    subfmts = (
        ("float", np.float64, None, np.add),
        ("long", np.longdouble, _halves_of_long, _long),
        ("decimal", np.object_, _READ_NUMBERS, np.vectorize(_decimal, otypes="O")),
        ("str", np.str_, _READ_NUMBERS, np.vectorize(_text, otypes="U")),
        ("bytes", np.bytes_, _READ_BYTES, np.vectorize(_bytes, otypes="S")),
    )


def time_from_ticks(ticks: int) -> Time:
    """The instant as a `Time`, format "discos", scale "utc"; `ticks` counts 100 ns since 1970.

    Exact up to 367,000 years before and after 1970. TypeError for what is not an integer.
    """
    days, rest = divmod(operator.index(ticks), _TICKS_PER_DAY)
    return Time(float(days * _TICKS_PER_DAY), float(rest), format="discos", scale="utc")


def ticks_from_time(time: Time) -> Ticks:
    """The count of 100 ns nearest to a scalar `Time` of any format and scale.

    The inverse of `time_from_ticks`. A `Time` that is not in UTC is converted by astropy, which may make
    it look for a newer table of leap seconds (see `forbid_downloads`).

    TypeError for an array and for what is no `Time`. ValueError for a masked one and for the scale "local".
    A `Time` in UT1 beyond astropy's tables of the Earth's rotation is its IERSRangeError.
    """
    if not isinstance(time, Time):
        raise TypeError(f"not a Time: {time!r}")
    if not time.isscalar:
        raise TypeError(f"one instant expected, not an array of the shape {time.shape}")
    if time.masked:
        if time.mask.any():
            raise ValueError("a masked Time is no instant")
        time = time.unmasked
    if time.scale != "utc":
        try:
            time = time.utc
        except ScaleValueError as error:
            raise ValueError(str(error)) from error
    days, rest = time.jd1 - _EPOCH_JD1, time.jd2 - _EPOCH_JD2
    return Ticks(_count(days * _TICKS_PER_DAY, rest * _TICKS_PER_DAY))


def parse_unix_time(text: str) -> Time:
    """Read Unix seconds, whatever text of a finite number `Decimal` reads, as a `Time`.

    Format "discos", scale "utc", exact to 100 ns; digits beyond are dropped. ValueError for anything else.

    A name of the original package. Requests are read by `Ticks.parse`, which knows the protocol's rules.
    """
    try:
        seconds = Decimal(text)
        if not seconds.is_finite():
            raise ValueError(f"not a finite number: {text!r}")
        ticks = _CONTEXT.divide_int(seconds, _SECONDS_PER_TICK)
    except decimal.InvalidOperation:
        raise ValueError(f"not a number of Unix seconds: {text!r}") from None
    return time_from_ticks(int(ticks))


def get_acs_now() -> Time:
    """The host's UTC clock as a `Time`, format "discos", scale "utc". A name of the original package."""
    return time_from_ticks(Ticks.now())


def unix_to_acs_time(seconds: float) -> Time:
    """Unix seconds, such as `time.time()` gives, as a `Time`, format "discos", scale "utc".

    Gives the count nearest to the float. ValueError for nan and the infinities. A name of the original
    package.
    """
    return time_from_ticks(Ticks.from_unix(seconds))


def forbid_downloads() -> None:
    """Keep astropy from fetching its tables over the network, for all that use astropy in this process.

    Arithmetic on a `Time`, or taking it to another scale, may otherwise make astropy fetch a newer table of
    leap seconds, or of the Earth's rotation, which stalls a machine without a network for as long as its
    time limits allow. The table that came with astropy is used instead, with a warning once it has expired.

    The server program calls this; a program that embeds the server decides for itself.
    """
    # Loads astropy's tables, which a process that never leaves UTC does without.
    from astropy.utils import iers

    iers.conf.auto_download = False


if not ticks_module.astropy_may_download:
    forbid_downloads()
