"""The number and the size of rounds of each measurement, and their order. QUICK has fewer and smaller rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["FULL", "QUICK", "Preset"]

_Compared = TypeVar("_Compared")


@dataclass(frozen=True, slots=True)
class Preset:
    """The counts for all measurements."""

    rounds: int
    requests: int
    """Requests of a round, enough for a quantile of 0.99."""
    batches: int
    """Batches of 100 requests in a round."""
    failures: int
    """Failures of one kind in a round."""
    starts: int
    """Cold starts of a server."""
    idle: int
    """Idle connections."""
    storms: int
    never_reading: int
    """Rounds with a client that never reads, each with a server of its own."""
    floods: int
    """Rounds during a flood."""
    timed_starts: int
    recording: float
    """The length of an acquisition in seconds."""
    full_runs: int
    """Runs of all conformance cases; 0: one run of those that are the default."""

    def turns(self, compared: Sequence[_Compared]) -> Iterator[_Compared]:
        """Yield all items of `compared` in each round. The first item changes from round to round."""
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
    full_runs=3,
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
    full_runs=0,
)
