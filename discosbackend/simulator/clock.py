"""The simulated clock, and when an acquisition begins and ends by the steady clock.

Which instants are requested is decided in acquisition; AcquisitionTiming says what they mean for dumps.
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

# A clock that is off by more is a mistake of whoever asks for it.
_FARTHEST = 100 * 366 * 86400


class SimulatedClock:
    """The instrument's UTC clock, an integer count of 100 ns, and a steady one beside it.

    `now_ticks` is the true UTC that it is derived from (default: the host's); the steady clock is the host's
    monotonic one, or, where `now_ticks` is given, that.
    """

    def __init__(self, now_ticks: Callable[[], int] | None = None) -> None:
        self.true: Callable[[], int] = utc_ticks if now_ticks is None else now_ticks
        self.steady: Callable[[], int] = _monotonic_ticks if now_ticks is None else now_ticks
        self._offset = 0
        self._drift = 0.0
        self._drifts_since = 0

    def now(self) -> Ticks:
        """What the instrument takes for UTC."""
        return Ticks(self.true() + self._offset + self._drifted())

    @property
    def offset(self) -> float:
        """By how many seconds it is ahead of the true one now."""
        return (self._offset + self._drifted()) / TICKS_PER_SECOND

    @property
    def drift(self) -> float:
        """By how many parts in a million it runs fast."""
        return self._drift

    def jump(self, seconds: float) -> None:
        """Step the clock, backwards with a negative number.

        ValueError for no finite number, or if the clock were off by more than a century then.
        """
        offset = self._offset + _checked(seconds)
        _checked(offset / TICKS_PER_SECOND)
        self._offset = offset

    def set_offset(self, seconds: float) -> None:
        """Have it ahead of the true one by so much from now on. ValueError as for jump()."""
        self._offset = _checked(seconds) - self._drifted()

    def set_drift(self, ppm: float) -> None:
        """Have it run fast by so many parts in a million. ValueError beyond a thousandfold or half the speed."""
        if not -_PER_MILLION / 2 <= ppm <= 1000 * _PER_MILLION:
            raise ValueError(f"drift must be -500000 to 1e9 parts in a million, not {ppm!r}")
        self._offset += self._drifted()
        self._drift = float(ppm)
        self._drifts_since = self.steady()

    def _drifted(self) -> int:
        if not self._drift:
            return 0
        return round((self.steady() - self._drifts_since) * self._drift / _PER_MILLION)


def ticks_of_fake(clock: object) -> Callable[[], int] | None:
    """The time of a task.Clock of Twisted's, which is its own measure; None for anything else, such as a reactor."""
    task = sys.modules.get("twisted.internet.task")
    if task is None or not isinstance(clock, task.Clock):
        return None
    return lambda: round(clock.seconds() * TICKS_PER_SECOND)


def _checked(seconds: float) -> int:
    if not (math.isfinite(seconds) and abs(seconds) <= _FARTHEST):
        raise ValueError(f"a clock can be off by a finite number of seconds within a century, not by {seconds!r}")
    return round(seconds * TICKS_PER_SECOND)


def _monotonic_ticks() -> int:
    return time.monotonic_ns() // 100


# Ticks; a step of the clock is followed within a second (protocol section 7.5), so a transition that is later than
# this did not come due but was stepped over.
_LATEST = 2 * TICKS_PER_SECOND

# Ticks; two clocks are never read at the same instant, and who is suspended between them reads again.
_READ_APART = TICKS_PER_SECOND // 1000
_READINGS = 10


class AcquisitionTiming:
    """The latest acquisition on both clocks, in ticks."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self._began_steady = 0
        self._began = Ticks(0)
        self._dump_length = 1

    def begin(self, instant: Ticks, dump_length: int) -> tuple[Ticks, int]:
        """An acquisition begins at that instant, which is hardly over: the instant, and the steady clock's then.

        Where the clock was stepped over it the instant tells nothing of when it begins: that is now.
        """
        self._began = self._recent_or_now(instant)
        self._began_steady = self._steady_at(self._began)
        self._dump_length = dump_length
        return self._began, self._began_steady

    def end(self, instant: Ticks) -> int:
        """It ends at that instant, which is hardly over: what the steady clock showed then."""
        instant = self._recent_or_now(instant)
        steady, elapsed = self._steady_at(instant), instant - self._began
        # Where nothing was stepped meanwhile, a stop at the very end of a dump is not before it.
        return self._began_steady + elapsed if abs(steady - self._began_steady - elapsed) < _READ_APART else steady

    @property
    def dump(self) -> int:
        """The number of the dump that is being made now."""
        return (self._clock.steady() - self._began_steady) // self._dump_length

    def _recent_or_now(self, instant: Ticks) -> Ticks:
        now = self._clock.now()
        return instant if now - instant < _LATEST else now

    def _steady_at(self, instant: Ticks) -> int:
        """What the steady clock showed at an instant of the other."""
        for _ in range(_READINGS):
            before, now, after = self._clock.steady(), self._clock.now(), self._clock.steady()
            if after - before < _READ_APART // 2:
                break
        return after - (now - instant)
