"""Ticks: a time as an integer count of 100 ns since 1970-01-01T00:00:00 UTC, and its text forms.

The document of the protocol calls this unit a centinanosecond. Conversions from and to text use integers only, so
they are exact. The conversions from and to an astropy Time are in timediscos.py.
"""

from __future__ import annotations

import math
import re
import time
from typing import Any

__all__ = ["TICKS_PER_DAY", "TICKS_PER_SECOND", "UNIX_SECONDS_BELOW", "Ticks", "now_ticks"]

TICKS_PER_SECOND = 10**7
TICKS_PER_DAY = 86400 * TICKS_PER_SECOND

# Protocol section 3.5: a number below this one is Unix seconds, any other is a count of 100 ns. As seconds this
# number is in the year 33658, as a count it is in the second day of 1970, so no real time is misread.
UNIX_SECONDS_BELOW = 10**12

# Arithmetic on an astropy Time may make astropy download leap-second tables, which blocks a machine without a
# network. The server program sets this to False before timediscos is imported.
astropy_may_download = True

# The digits of a count of 100 ns before and after the decimal point of Unix seconds.
_WHOLE = slice(None, -7)
_FRACTION = slice(-7, None)

# <timestamp> ::= an integer count of 100 ns, or a number with a decimal point
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}", re.ASCII)
_POINTED = re.compile(r"(?P<sign>[-+]?)(?P<whole>[0-9]{1,19})\.(?P<fraction>[0-9]*)", re.ASCII)


class Ticks(int):
    """A time: the count of 100 ns since 1970-01-01T00:00:00 UTC, without leap seconds.

    It is a subclass of `int`: comparison, arithmetic and hash are those of `int`, and the result of arithmetic is a
    plain `int`.

    Parameters
    ----------
    value
        The count of 100 ns, as anything that `int` accepts. Default: 0. Use `Ticks.of`, `Ticks.from_unix` or
        `Ticks.parse` for other units.

    Examples
    --------
    >>> from discosbackend import Ticks
    >>> instant = Ticks(16286832071234567)
    >>> instant.unix_text()
    '1628683207.1234567'
    >>> Ticks.parse("1628683207.1234567") == Ticks.parse("16286832071234567") == instant
    True
    >>> Ticks.of(1628683208) - instant
    8765433
    >>> print(instant.time.isot)
    2021-08-11T12:00:07.123
    """

    __slots__ = ()

    @property
    def unix(self) -> float:
        """Unix seconds as a float. Today a float resolves 0.2 us; use the integer if you need exact times."""
        return self / TICKS_PER_SECOND

    @property
    def time(self) -> Any:
        """The same time as an astropy `Time`, format "discos", scale "utc", exact to 100 ns.

        The first use in a process imports astropy, which takes about 0.4 s.
        """
        from discosbackend import timediscos

        return timediscos.time_from_ticks(self)

    def unix_text(self) -> str:
        """Return Unix seconds with seven decimals, the form of timestamps in replies (protocol section 3.6)."""
        digits = str(self)
        if len(digits) > 8:
            # Twice as fast as a division.
            return f"{digits[_WHOLE]}.{digits[_FRACTION]}"
        whole, fraction = divmod(abs(self), TICKS_PER_SECOND)
        return f"{'-' if self < 0 else ''}{whole}.{fraction:07}"

    @classmethod
    def parse(cls, text: str) -> Ticks:
        """Read a timestamp of a request (protocol section 3.5). It is exact: no float is used.

        Parameters
        ----------
        text
            An integer is a count of 100 ns. A number with a decimal point is Unix seconds if it is below 10^12, and a
            count of 100 ns otherwise. Digits below 100 ns are dropped.

        Raises
        ------
        ValueError
            If the text has neither form.
        """
        if _INTEGER.fullmatch(text):
            return cls(text)
        match = _POINTED.fullmatch(text)
        if match is None:
            raise ValueError(f"not a timestamp: {text!r}")
        whole = int(match["whole"])
        if whole < UNIX_SECONDS_BELOW:
            whole = whole * TICKS_PER_SECOND + int(match["fraction"][:7].ljust(7, "0"))
        return cls(-whole if match["sign"] == "-" else whole)

    @classmethod
    def of(cls, value: Any) -> Ticks:
        """Convert a value to Ticks.

        Parameters
        ----------
        value
            Ticks, an astropy `Time`, or a number (int, float, numpy scalar). A number with a magnitude below 10^12
            is Unix seconds, any other number is a count of 100 ns.

        Raises
        ------
        TypeError
            If the value is of any other type, or a `Time` with several times.
        ValueError
            If the value is nan or an infinity, or a masked `Time`.
        """
        if isinstance(value, Ticks):
            return value
        if hasattr(value, "jd1"):
            from discosbackend import timediscos

            return timediscos.ticks_from_time(value)
        if hasattr(value, "__index__"):
            whole = value.__index__()
            return cls(whole * TICKS_PER_SECOND if abs(whole) < UNIX_SECONDS_BELOW else whole)
        if not hasattr(value, "__float__"):
            raise TypeError(f"not an instant: {value!r}; give Ticks, a Time or a number")
        number = float(value)
        if math.isfinite(number) and abs(number) >= UNIX_SECONDS_BELOW:
            return cls(number)
        return cls.from_unix(number)

    @classmethod
    def from_unix(cls, seconds: float) -> Ticks:
        """Convert Unix seconds, such as `time.time()`, to the nearest count.

        Raise ValueError for nan and infinities.
        """
        if not math.isfinite(seconds):
            raise ValueError(f"not a finite number of Unix seconds: {seconds!r}")
        # Split first: the float holds the seconds exactly, but its product with 10^7 would be rounded.
        fraction, whole = math.modf(seconds)
        return cls(int(whole) * TICKS_PER_SECOND + round(fraction * TICKS_PER_SECOND))

    @classmethod
    def now(cls) -> Ticks:
        """Return the time of the host's UTC clock."""
        return cls(time.time_ns() // 100)


def now_ticks() -> Ticks:
    """Return the time of the host's UTC clock. It can be an attribute of an object that is pickled."""
    return Ticks(time.time_ns() // 100)
