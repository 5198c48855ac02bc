"""Course: when an acquisition begins and ends by the steady clock, whatever becomes of the instrument's own.

Which instants are asked for is acquisition's business; here it is seen what they mean for dumps.
"""

from __future__ import annotations

from discosbackend.simulator.clock import SimulatedClock
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["Course"]

# Ticks; a step of the clock is followed within a second (protocol section 7.5), so a transition that is later than
# this did not come due but was stepped over.
_LATEST = 2 * TICKS_PER_SECOND

# Ticks; two clocks are never read at the same instant, and who is suspended between them reads again.
_READ_APART = TICKS_PER_SECOND // 1000
_READINGS = 10


class Course:
    """The latest acquisition on both clocks, in ticks."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self._begun = 0
        self._begun_at = Ticks(0)
        self._dump_length = 1

    def begin(self, instant: Ticks, dump_length: int) -> tuple[Ticks, int]:
        """An acquisition begins at that instant, which is hardly over: the instant, and the steady clock's then.

        Where the clock was stepped over it the instant tells nothing of when it begins: that is now.
        """
        self._begun_at = self._not_long_ago(instant)
        self._begun = self._steady_at(self._begun_at)
        self._dump_length = dump_length
        return self._begun_at, self._begun

    def end(self, instant: Ticks) -> int:
        """It ends at that instant, which is hardly over: what the steady clock showed then."""
        instant = self._not_long_ago(instant)
        steady, elapsed = self._steady_at(instant), instant - self._begun_at
        # Where nothing was stepped meanwhile, a stop at the very end of a dump is not before it.
        return self._begun + elapsed if abs(steady - self._begun - elapsed) < _READ_APART else steady

    @property
    def dump(self) -> int:
        """The number of the dump that is being made now."""
        return (self._clock.steady() - self._begun) // self._dump_length

    def _not_long_ago(self, instant: Ticks) -> Ticks:
        now = self._clock.now()
        return instant if now - instant < _LATEST else now

    def _steady_at(self, instant: Ticks) -> int:
        """What the steady clock showed at an instant of the other."""
        for _ in range(_READINGS):
            before, now, after = self._clock.steady(), self._clock.now(), self._clock.steady()
            if after - before < _READ_APART // 2:
                break
        return after - (now - instant)
