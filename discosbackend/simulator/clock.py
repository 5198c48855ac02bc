"""The simulated clock, and the begin and end of an acquisition on the steady clock.

The acquisition module decides at which instants an acquisition begins and ends. AcquisitionTiming converts these
instants to the steady clock, by which dumps are made.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

from discosbackend.ticks import TICKS_PER_SECOND, Ticks
from discosbackend.ticks import now_ticks as utc_ticks

__all__ = ["AcquisitionTiming", "SimulatedClock", "ticks_of_fake"]

_PER_MILLION = 1_000_000

# Seconds. A larger offset is a mistake of the caller.
_FARTHEST = 100 * 366 * 86400


class SimulatedClock:
    """The UTC clock of the instrument, and a steady clock that is never stepped.

    The offset and the drift of the UTC clock are sums of two parts: its own values, which set_offset(), jump() and
    set_drift() change, and an error, which set_error() sets.

    The times of both clocks are integers in 100 ns. The attribute `true` is the function that returns the true UTC;
    `steady` is the function that returns the steady clock.

    Parameters
    ----------
    now_ticks
        Returns the true UTC in 100 ns. Default: the UTC clock of the host, with its monotonic clock as the steady
        clock. If it is given, it is the steady clock too.
    """

    def __init__(self, now_ticks: Callable[[], int] | None = None) -> None:
        self.true: Callable[[], int] = utc_ticks if now_ticks is None else now_ticks
        self.steady: Callable[[], int] = _monotonic_ticks if now_ticks is None else now_ticks
        # Its own offset, which includes the accumulated drift, and its own drift.
        self._offset = 0
        self._drift = 0.0
        self._error = 0
        self._error_drift = 0.0
        self._drifts_since = 0

    def now(self) -> Ticks:
        """Return the UTC of the instrument: the true UTC plus the offset and the drift."""
        ahead = self._offset + self._error
        if self._drift or self._error_drift:
            ahead += self._drifted()
        return Ticks(self.true() + ahead)

    @property
    def offset(self) -> float:
        """The current difference to the true UTC in seconds; positive if this clock is ahead."""
        return (self._offset + self._error + self._drifted()) / TICKS_PER_SECOND

    @property
    def drift(self) -> float:
        """The drift in parts per million; positive if this clock runs fast."""
        return self._drift + self._error_drift

    def jump(self, seconds: float) -> None:
        """Step the clock.

        Parameters
        ----------
        seconds
            The step in seconds; negative: backwards.

        Raises
        ------
        ValueError
            If the number is not finite, or if the offset would exceed a century.
        """
        self._offset = self._checked_offset(self._offset + _checked(seconds))

    def set_offset(self, seconds: float) -> None:
        """Set the clock's own difference to the true UTC. The error is added to it.

        Parameters
        ----------
        seconds
            The new offset in seconds; positive: ahead of the true UTC. A drift continues from there.

        Raises
        ------
        ValueError
            If the number is not finite, or if the offset would exceed a century.
        """
        self._offset = self._checked_offset(_checked(seconds)) - self._drifted()

    def set_drift(self, ppm: float) -> None:
        """Set how fast the clock itself drifts from now on. The drift of the error is added to it.

        Parameters
        ----------
        ppm
            Parts per million, -500000 to 1e9; positive: the clock runs fast.

        Raises
        ------
        ValueError
            If the number, or its sum with the drift of the error, is out of this range.
        """
        _check_drift(ppm)
        _check_drift(ppm + self._error_drift)
        self._accumulate_drift()
        self._drift = float(ppm)

    def set_error(self, seconds: float, ppm: float) -> None:
        """Set the error that is added to the clock's own offset and drift. What has drifted so far stays.

        Parameters
        ----------
        seconds
            The error of the offset in seconds; positive: ahead.
        ppm
            The error of the drift in parts per million; positive: fast.

        Raises
        ------
        ValueError
            If the offset or the drift would be out of the range of jump() and set_drift().
        """
        error = _checked(seconds)
        _checked((self._offset + error) / TICKS_PER_SECOND)
        _check_drift(self._drift + ppm)
        self._accumulate_drift()
        self._error, self._error_drift = error, float(ppm)

    def _checked_offset(self, offset: int) -> int:
        """Return an own offset in ticks, if it is within a century both alone and with the error."""
        for total in (offset, offset + self._error):
            _checked(total / TICKS_PER_SECOND)
        return offset

    def _accumulate_drift(self) -> None:
        """Add what the clock has drifted to its offset, before its drift is changed."""
        self._offset += self._drifted()
        self._drifts_since = self.steady()

    def _drifted(self) -> int:
        drift = self.drift
        if not drift:
            return 0
        return round((self.steady() - self._drifts_since) * drift / _PER_MILLION)


def ticks_of_fake(clock: object) -> Callable[[], int] | None:
    """Return a function that reads Twisted's `task.Clock` in 100 ns; None if `clock` is anything else."""
    task = sys.modules.get("twisted.internet.task")
    if task is None or not isinstance(clock, task.Clock):
        return None
    return lambda: round(clock.seconds() * TICKS_PER_SECOND)


def _check_drift(ppm: float) -> None:
    if not -_PER_MILLION / 2 <= ppm <= 1000 * _PER_MILLION:
        raise ValueError(f"drift must be -500000 to 1e9 parts in a million, not {ppm!r}")


def _checked(seconds: float) -> int:
    if not (math.isfinite(seconds) and abs(seconds) <= _FARTHEST):
        raise ValueError(f"a clock can be off by a finite number of seconds within a century, not by {seconds!r}")
    return round(seconds * TICKS_PER_SECOND)


def _monotonic_ticks() -> int:
    return time.monotonic_ns() // 100


# Ticks. The server notices a step of the clock within a second (protocol section 7.5). If a begin or end is later than
# this, the clock was stepped over its instant.
_LATEST = 2 * TICKS_PER_SECOND

# Ticks. Two clocks cannot be read at the same instant. If the thread is preempted in between, both are read again.
_READ_APART = TICKS_PER_SECOND // 1000
_READINGS = 10


class AcquisitionTiming:
    """The begin and end of the latest acquisition, on the instrument's clock and on the steady clock, in ticks."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self._began_steady = 0
        self._began = Ticks(0)
        self._dump_length = 1

    def begin(self, instant: Ticks, dump_length: int) -> tuple[Ticks, int]:
        """Note that an acquisition begins.

        Parameters
        ----------
        instant
            When it begins: now or a moment ago, on the instrument's clock. If the clock was stepped over this
            instant, the acquisition begins now.
        dump_length
            The length of a dump in 100 ns.

        Returns
        -------
        tuple[Ticks, int]
            The begin on the instrument's clock and on the steady clock.
        """
        self._began = self._recent_or_now(instant)
        self._began_steady = self._steady_at(self._began)
        self._dump_length = dump_length
        return self._began, self._began_steady

    def end(self, instant: Ticks) -> int:
        """Note that the acquisition ends at this instant, now or a moment ago; return it on the steady clock."""
        instant = self._recent_or_now(instant)
        steady, elapsed = self._steady_at(instant), instant - self._began
        # If no clock was stepped, compute with the exact difference of the instants: a stop exactly at the end of a
        # dump must not lose that dump to the uncertainty of two readings.
        return self._began_steady + elapsed if abs(steady - self._began_steady - elapsed) < _READ_APART else steady

    @property
    def dump(self) -> int:
        """The number of the current dump, from 0."""
        return (self._clock.steady() - self._began_steady) // self._dump_length

    def _recent_or_now(self, instant: Ticks) -> Ticks:
        now = self._clock.now()
        return instant if now - instant < _LATEST else now

    def _steady_at(self, instant: Ticks) -> int:
        """Convert an instant of the instrument's clock to the steady clock."""
        for _ in range(_READINGS):
            before, now, after = self._clock.steady(), self._clock.now(), self._clock.steady()
            if after - before < _READ_APART // 2:
                break
        return after - (now - instant)
