"""RoundRobin: a queue of the connections that have lines to handle.

A delayed call of the reactor, with a delay of 0, processes the queue for a time slice. Between two slices the reactor
serves its timers and sockets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

__all__ = ["RoundRobin", "Participant"]

# The length of a time slice, in s.
_SLICE = 0.0005


class Participant(Protocol):
    """A member of the queue: a connection."""

    queued: bool
    """Whether it is in the queue. RoundRobin sets it."""

    @property
    def has_work(self) -> bool:
        """Whether it has something to do now."""

    def work(self, deadline: float) -> None:
        """Process lines, and stop when perf_counter() reaches `deadline`."""


class RoundRobin:
    """Lets each connection in the queue work in turn. `call_later` is the method callLater of a reactor."""

    def __init__(self, call_later: Callable[..., Any]) -> None:
        self._call_later = call_later
        self._queue: deque[Participant] = deque()
        self._call: Any = None

    def enqueue(self, connection: Participant) -> None:
        """Add a connection to the queue. It works in its turn, and is added again while it has something to do."""
        if connection.queued or not connection.has_work:
            return
        connection.queued = True
        self._queue.append(connection)
        if self._call is None:
            self._call = self._call_later(0, self._run_slice)

    def _run_slice(self) -> None:
        """Process the queue for half a millisecond, then return to the reactor."""
        deadline = perf_counter() + _SLICE
        try:
            while self._queue:
                connection = self._queue.popleft()
                connection.queued = False
                connection.work(deadline)
                self.enqueue(connection)
                if perf_counter() >= deadline:
                    break
        finally:
            # Continue even if a transport or an overridden method raised, because other connections are in the queue.
            self._call = self._call_later(0, self._run_slice) if self._queue else None
