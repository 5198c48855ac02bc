"""Ticks: instants as an integer count of 100 ns since 1970-01-01T00:00:00 UTC, and their text forms.

What the protocol's document calls centinanoseconds. Everything here is exact integer arithmetic; the
astropy side of the same instants lives in timediscos.
"""

from __future__ import annotations

import math
import re
import time
from typing import Any

__all__ = ["TICKS_PER_SECOND", "UNIX_SECONDS_BELOW", "Ticks", "now_ticks"]

TICKS_PER_SECOND = 10**7

# Protocol section 3.5: a number below this one counts seconds, from here on it counts 100 ns. As seconds
# it is the year 33658, as ticks the second day of 1970, so neither reading is ever the wrong one.
UNIX_SECONDS_BELOW = 10**12

# Arithmetic on an astropy Time may make astropy fetch leap-second tables, which stalls a machine without a
# network. A program that is nothing but a server says no here, before timediscos is loaded.
astropy_may_download = True

# <timestamp> ::= an integer count of 100 ns, or a number with a decimal point
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}", re.ASCII)
_POINTED = re.compile(r"(?P<sign>[-+]?)(?P<whole>[0-9]{1,19})\.(?P<fraction>[0-9]*)", re.ASCII)


class Ticks(int):
    """An instant: the number of 100 ns since 1970-01-01T00:00:00 UTC, leap seconds not counted.

    It is an `int`, so it compares, subtracts and hashes as one; arithmetic gives a plain `int`.
    """

    __slots__ = ()

    @property
    def unix(self) -> float:
        """Unix seconds as a float, which is 2 ticks coarse today; for exact work use the integer."""
        return self / TICKS_PER_SECOND

    @property
    def time(self) -> Any:
        """The same instant as an astropy `Time`, format "discos", scale "utc", exact to 100 ns.

        Built on demand: the first use in a process imports astropy, which takes about 0.4 s.
        """
        from discosbackend import timediscos

        return timediscos.time_from_ticks(self)

    def unix_text(self) -> str:
        """Unix seconds with seven decimals, as timestamps stand in replies (protocol section 3.6)."""
        if self < 0:
            return f"-{Ticks(-self).unix_text()}"
        digits = "%08d" % self  # noqa: UP031  # half the time of a format
        return f"{digits[:-7]}.{digits[-7:]}"

    @classmethod
    def parse(cls, text: str) -> Ticks:
        """Read a timestamp as it stands in a request (protocol section 3.5), never through a float.

        An integer counts 100 ns. A number with a decimal point is Unix seconds below 10^12 and 100 ns
        from there on; digits beyond 100 ns are dropped. ValueError for anything else.
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
        """The instant that a backend's value means: Ticks, an astropy `Time`, or a number.

        A number (int, float, numpy scalar) below 10^12 is Unix seconds, from there on it counts 100 ns.
        TypeError for anything else, ValueError for nan and the infinities.
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
        """The count nearest to Unix seconds, such as `time.time()` gives. ValueError for nan and infinities."""
        if not math.isfinite(seconds):
            raise ValueError(f"not a finite number of Unix seconds: {seconds!r}")
        # Split first: the double holds the seconds exactly, its product with 10^7 would not.
        fraction, whole = math.modf(seconds)
        return cls(int(whole) * TICKS_PER_SECOND + round(fraction * TICKS_PER_SECOND))

    @classmethod
    def now(cls) -> Ticks:
        """The host's UTC clock."""
        return cls(time.time_ns() // 100)


def now_ticks() -> Ticks:
    """The host's UTC clock, as a function: unlike a class's method it can be pickled with what holds it."""
    return Ticks(time.time_ns() // 100)
