"""The reference for punctuality: a process that sleeps until shortly before an instant, then spins until it.

    python -m benchmarks.bare_wait

It reads one instant per line from standard input, in counts of 100 ns since 1970, waits for it, and prints how many ns
it was late.
"""

from __future__ import annotations

import sys
import time

__all__ = ["wait_for"]

_SPIN_NS = 300_000


def wait_for(instant: int) -> int:
    """Wait until an instant in counts of 100 ns; return how many ns this was late."""
    due = instant * 100
    left = due - time.time_ns()
    if left > _SPIN_NS:
        time.sleep((left - _SPIN_NS) / 1e9)
    while (now := time.time_ns()) < due:
        pass
    return now - due


if __name__ == "__main__":
    for line in sys.stdin:
        print(wait_for(int(line)), flush=True)
