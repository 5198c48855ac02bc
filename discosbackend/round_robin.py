"""RoundRobin: how connections with a backlog share the reactor with each other and with its timers.

One queue for all of them, driven by one zero-delay call. What a connection does in its slice is its own decision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

__all__ = ["RoundRobin", "Participant"]

# A turn: so many lines of one connection, then the next one's, for so many seconds, then it is the reactor's.
_QUANTUM = 128
_SLICE = 0.0005


class Participant(Protocol):
    """What takes turns: a connection."""

    queued: bool
    """Whether it waits for its turn; written by Turns."""

    @property
    def has_work(self) -> bool:
        """Whether there is something that it could do now."""

    def work(self, quantum: int, deadline: float) -> None:
        """Do so much, or until perf_counter() says that time is up."""


class RoundRobin:
    """The queue. `call_later` is a reactor's."""

    def __init__(self, call_later: Callable[..., Any]) -> None:
        self._call_later = call_later
        self._queue: deque[Participant] = deque()
        self._call: Any = None

    def enqueue(self, connection: Participant) -> None:
        """Let a connection work when it is its turn, and again until it has nothing left to do."""
        if connection.queued or not connection.has_work:
            return
        connection.queued = True
        self._queue.append(connection)
        if self._call is None:
            self._call = self._call_later(0, self._run_slice)

    def _run_slice(self) -> None:
        """Half a millisecond of everybody's lines; then the reactor serves timers and other clients."""
        deadline = perf_counter() + _SLICE
        try:
            while self._queue:
                connection = self._queue.popleft()
                connection.queued = False
                connection.work(_QUANTUM, deadline)
                self.enqueue(connection)
                if perf_counter() >= deadline:
                    break
        finally:
            # Also when a transport or an overridden method raised: the others are still waiting.
            self._call = self._call_later(0, self._run_slice) if self._queue else None
