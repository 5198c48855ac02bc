"""The astropy time format "discos", and the conversions between Ticks and astropy's `Time`.

Importing this module registers the format. It also imports astropy. Other modules of the server import this module only
when a `Time` is needed. ticks.py reads the timestamps of requests.
"""

from __future__ import annotations

import decimal
import operator
from decimal import Decimal
from typing import Any

import numpy as np
from astropy.time import ScaleValueError, Time, TimeUnix

from discosbackend import ticks as ticks_module
from discosbackend.ticks import TICKS_PER_DAY, TICKS_PER_SECOND, Ticks

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
"""The number of 100 ns, called centinanoseconds, in one second. The format "discos" counts in this unit."""

# 1970-01-01T00:00:00 as the two doubles that astropy uses for it.
_EPOCH_JD1, _EPOCH_JD2 = 2440588.0, -0.5

# A separate context, so that the precision and the traps of the caller's context have no effect. A number with an
# exponent so large that its int would fill the memory raises InvalidOperation.
_CONTEXT = decimal.Context(prec=50, traps=[decimal.InvalidOperation])

_SECONDS_PER_TICK = Decimal("1e-7")


# A count of today needs 54 bits and a double has 53. So a count is kept in two doubles: whole days, and the rest of
# the last day. Up to 2^27 days are exact, because TICKS_PER_DAY has only 26 bits before its trailing zeros.

# astropy also passes a second value to these readers, which is None for text and Decimal.


def _halves_of_number(value: str | Decimal, _: object = None) -> tuple[float, float]:
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError(f"not a finite number: {value!r}")
    days, rest = _CONTEXT.divmod(number, Decimal(TICKS_PER_DAY))
    return float(days) * TICKS_PER_DAY, float(rest)


def _halves_of_bytes(value: bytes, _: object = None) -> tuple[float, float]:
    return _halves_of_number(value.decode("ascii"))


def _halves_of_long(val1: Any, val2: Any) -> tuple[Any, Any]:
    whole = np.trunc(val1 / TICKS_PER_DAY) * TICKS_PER_DAY
    return whole.astype(np.float64), (val1 - whole + val2).astype(np.float64)


def _count(val1: float, val2: float) -> int:
    # Added as integers, because the sum of the two doubles would be rounded to 2 counts.
    whole = int(val1)
    return whole + round(val1 - whole + val2)


def _long(val1: Any, val2: Any) -> Any:
    return np.rint(val1.astype(np.longdouble) + val2.astype(np.longdouble))


def _decimal(val1: float, val2: float) -> Decimal:
    return Decimal(_count(val1, val2))


# astropy also passes a number of digits to these writers, which an integer does not need.


def _text(val1: float, val2: float, **_: object) -> str:
    return str(_count(val1, val2))


def _bytes(val1: float, val2: float, **_: object) -> bytes:
    return str(_count(val1, val2)).encode("ascii")


_READ_NUMBERS = np.vectorize(_halves_of_number, otypes="dd")
_READ_BYTES = np.vectorize(_halves_of_bytes, otypes="dd")


class TimeDiscos(TimeUnix):  # type: ignore[misc]  # astropy ships no type information
    """The astropy time format "discos": the count of 100 ns since 1970-01-01T00:00:00 UTC.

    The default scale is utc. Leap seconds are not counted, as in astropy's format "unix": the counts of a UTC day with
    a leap second are spread evenly over its 86401 s.

    Parameters
    ----------
    val, val2
        The first two arguments of `Time`. Text, bytes and Decimal are read exactly. So is a pair of floats: the counts
        of the whole days, and the remaining counts. A single int or float is rounded to 2 counts, because astropy
        converts it to a double first. Use `time_from_ticks` or text instead.

    Raises
    ------
    ValueError
        From `Time`, if the value is not a finite number.

    Notes
    -----
    `to_value("discos", subfmt=...)` gives a whole number for "str", "bytes", "decimal" and "long". "long" is exact if
    numpy's longdouble has a mantissa of 64 bits. `Time.discos` is a float, which today is rounded to 2 counts. A
    fraction of a count is kept with the resolution of astropy's two doubles, 10^-4 counts.

    Examples
    --------
    >>> from astropy.time import Time
    >>> from discosbackend import timediscos
    >>> time = Time("16286832071234567", format="discos")
    >>> time.to_value("discos", subfmt="str")
    '16286832071234567'
    >>> time.utc.isot
    '2021-08-11T12:00:07.123'
    """

    # Class attributes only: astropy calls __init__ in its own ways when it copies a time or calculates with it.
    name = "discos"
    unit = 1.0 / TICKS_PER_DAY
    # Name, numpy type, reader, writer. astropy uses the first one with a matching type. Its own readers and writers
    # put the whole count into one double, which would round it.
    subfmts = (
        ("float", np.float64, None, np.add),
        ("long", np.longdouble, _halves_of_long, _long),
        ("decimal", np.object_, _READ_NUMBERS, np.vectorize(_decimal, otypes="O")),
        ("str", np.str_, _READ_NUMBERS, np.vectorize(_text, otypes="U")),
        ("bytes", np.bytes_, _READ_BYTES, np.vectorize(_bytes, otypes="S")),
    )


def time_from_ticks(ticks: int) -> Time:
    """Convert a count of 100 ns to a `Time`.

    Parameters
    ----------
    ticks
        The count of 100 ns since 1970-01-01T00:00:00 UTC.

    Returns
    -------
    time
        The same time, format "discos", scale "utc". It is exact up to 367,000 years before and after 1970.

    Raises
    ------
    TypeError
        If `ticks` is not an integer.
    """
    days, rest = divmod(operator.index(ticks), TICKS_PER_DAY)
    return Time(float(days * TICKS_PER_DAY), float(rest), format="discos", scale="utc")


def ticks_from_time(time: Time) -> Ticks:
    """Convert a `Time` to the nearest count of 100 ns. This is the inverse of `time_from_ticks`.

    Parameters
    ----------
    time
        A scalar `Time` of any format and scale. If it is not in UTC, astropy converts it, and may download a newer
        table of leap seconds for that (see `forbid_downloads`).

    Raises
    ------
    TypeError
        If `time` is an array, or not a `Time`.
    ValueError
        If `time` is masked, or if its scale is "local".
    astropy.utils.iers.IERSRangeError
        If the scale of `time` is UT1 and the date is outside astropy's tables of the Earth's rotation.
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
    return Ticks(_count(days * TICKS_PER_DAY, rest * TICKS_PER_DAY))


def parse_unix_time(text: str) -> Time:
    """Convert a text with Unix seconds to a `Time`. This is a function of the original package.

    For the timestamps of requests, the server uses `Ticks.parse`, which follows the rules of the protocol.

    Parameters
    ----------
    text
        Unix seconds, in any form that `Decimal` reads.

    Returns
    -------
    time
        A `Time`, format "discos", scale "utc", exact to 100 ns. Smaller digits are dropped.

    Raises
    ------
    ValueError
        If the text is not a finite number.
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
    """Return the time of the host's UTC clock as a `Time`, format "discos", scale "utc".

    This is a function of the original package.
    """
    return time_from_ticks(Ticks.now())


def unix_to_acs_time(seconds: float) -> Time:
    """Convert Unix seconds to a `Time`. This is a function of the original package.

    Parameters
    ----------
    seconds
        Unix seconds, such as `time.time()`.

    Returns
    -------
    time
        A `Time`, format "discos", scale "utc", with the count of 100 ns that is nearest to the float.

    Raises
    ------
    ValueError
        If `seconds` is nan or an infinity.
    """
    return time_from_ticks(Ticks.from_unix(seconds))


def forbid_downloads() -> None:
    """Prevent astropy from downloading tables. This applies to the whole process.

    Arithmetic on a `Time`, or a conversion to another scale, may make astropy download a newer table of leap seconds
    or of the Earth's rotation. Without a network, this blocks the process until the download times out. After this
    call astropy uses the tables that it is shipped with, and warns when they have expired.

    The server program calls this function. A program that embeds the server can call it.
    """
    # Imported here, because it loads astropy's tables, which a process that uses only UTC does not need.
    from astropy.utils import iers

    iers.conf.auto_download = False


if not ticks_module.astropy_may_download:
    forbid_downloads()
