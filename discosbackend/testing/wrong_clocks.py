"""Finds the likely cause of a wrong clock: another time scale, unit or epoch. One reported time is sufficient.

A time in a reply is in Unix seconds (protocol section 3.6). ServerSession checks whether it is correct.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["likely_cause"]

_HOUR, _DAY = 3600, 86400

# Time zones in half hours, from 12 h behind UTC to 14 h ahead of it.
_ZONES = range(-24, 29)

# The largest additional error of a clock, in seconds: with another time scale, and in another time zone.
_NEARLY, _ROUGHLY = 1.0, 10.0

# Fewer seconds than these three years may be the time since a machine was started.
_LONGEST_RUN = 1e8

_NUMBER = re.compile(r"[-+]?[0-9]{1,30}(\.[0-9]*)?")


class _Clock(NamedTuple):
    """A clock that reports `rate` x (Unix seconds + `ahead`), with an error of up to `within` seconds."""

    looks_like: str
    rate: float = 1.0
    ahead: float = 0.0
    within: float = _DAY


_SCALES = (
    _Clock("TAI, which is 37 s ahead of UTC", ahead=37, within=_NEARLY),
    _Clock("GPS time, which is 18 s ahead of UTC", ahead=18, within=_NEARLY),
    _Clock("TT, which is 69.2 s ahead of UTC", ahead=69.184, within=_NEARLY),
)
_UNITS = (
    _Clock("milliseconds instead of seconds", 1e3),
    _Clock("microseconds instead of seconds", 1e6),
    _Clock("a count of 100 ns instead of seconds", 1e7),
    _Clock("nanoseconds instead of seconds", 1e9),
    # A number from 10^12 on that a backend of this package returns is a count of 100 ns (protocol section 5.6).
    _Clock("milliseconds instead of seconds, which were taken for a count of 100 ns", 1e-4),
    _Clock("microseconds instead of seconds, which were taken for a count of 100 ns", 1e-1),
    _Clock("nanoseconds instead of seconds, which were taken for a count of 100 ns", 1e2),
    _Clock("a modified Julian date (MJD) instead of seconds", 1 / _DAY, 40587 * _DAY),
    _Clock("a Julian date instead of seconds", 1 / _DAY, 2440587.5 * _DAY),
    _Clock("days instead of seconds", 1 / _DAY),
)
_EPOCHS = (
    _Clock("seconds since 1858-11-17 (MJD 0) instead of 1970", ahead=40587 * _DAY),
    _Clock("seconds since 1900 (as NTP counts) instead of 1970", ahead=25567 * _DAY),
    _Clock("seconds since 1904 (as LabVIEW counts) instead of 1970", ahead=24107 * _DAY),
    _Clock("seconds since 1950 instead of 1970", ahead=7305 * _DAY),
    _Clock("seconds since 1958 instead of 1970", ahead=4383 * _DAY),
    _Clock("seconds since 1980-01-06 (as GPS counts) instead of 1970", ahead=-3657 * _DAY),
    _Clock("seconds since 2000 instead of 1970", ahead=-10957 * _DAY),
    _Clock("a count of 100 ns since 1582-10-15 (as ACS counts) instead of seconds since 1970", 1e7, 141427 * _DAY),
)


def likely_cause(timestamp: str, now: Ticks) -> str:
    """Return the likely cause of a wrong time in a reply.

    Parameters
    ----------
    timestamp
        The text of the time.
    now
        The time at which it was reported.

    Returns
    -------
    str
        The likely cause, "" if no known cause matches.

    Examples
    --------
    >>> from discosbackend import Ticks
    >>> from discosbackend.testing.wrong_clocks import likely_cause
    >>> likely_cause("1795473585.3000000", Ticks(17954663850000000))
    'local time, UTC+2, instead of UTC'
    """
    if _NUMBER.fullmatch(timestamp) is None:
        return ""
    value, seconds = float(timestamp), now / TICKS_PER_SECOND
    for clock in (*_SCALES, *_zones(), *_UNITS, *_EPOCHS):
        if abs(value / clock.rate - clock.ahead - seconds) <= clock.within:
            return clock.looks_like
    if 0 <= value <= _LONGEST_RUN:
        return "seconds since a program or machine was started instead of 1970"
    return ""


def _zones() -> list[_Clock]:
    found = []
    for half_hours in _ZONES:
        minutes = ":30" if half_hours % 2 else ""
        name = f"UTC{'-' if half_hours < 0 else '+'}{abs(half_hours) // 2}{minutes}"
        if half_hours:
            found.append(_Clock(f"local time, {name}, instead of UTC", ahead=half_hours * _HOUR / 2, within=_ROUGHLY))
    return found
