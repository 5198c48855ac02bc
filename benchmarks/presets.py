"""How much is measured, and in which order. The quick preset is the same code with fewer and smaller rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["FULL", "QUICK", "Preset"]

_Compared = TypeVar("_Compared")


@dataclass(frozen=True, slots=True)
class Preset:
    """Counts for every measurement."""

    rounds: int
    requests: int
    """One round's, for a quantile at 0.99."""
    batches: int
    """One round's, of 100 requests each."""
    failures: int
    """One round's, of a kind."""
    starts: int
    """Cold ones."""
    idle: int
    """Connections."""
    storms: int
    never_reading: int
    """Rounds, each with a server of its own."""
    floods: int
    """Rounds beside a flood."""
    timed_starts: int
    recording: float
    """Seconds of one acquisition."""

    def turns(self, compared: Sequence[_Compared]) -> Iterator[_Compared]:
        """All of them in every round, each round beginning with the next: none is always first or last."""
        for number in range(self.rounds):
            first = number % len(compared)
            yield from (*compared[first:], *compared[:first])


FULL = Preset(
    rounds=21,
    requests=4000,
    batches=500,
    failures=10000,
    starts=10,
    idle=4000,
    storms=9,
    never_reading=3,
    floods=5,
    timed_starts=200,
    recording=60.0,
)
QUICK = Preset(
    rounds=3,
    requests=600,
    batches=100,
    failures=2000,
    starts=3,
    idle=1000,
    storms=3,
    never_reading=1,
    floods=2,
    timed_starts=20,
    recording=3.0,
)
