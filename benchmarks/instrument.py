"""The server under test: a backend like that of the README, with further commands that take time.

    python -m benchmarks.instrument [default|asyncio]

It prints its address and serves on loopback, on this reactor, until it gets a signal.
"""

from __future__ import annotations

import gc
import sys
import time

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from discosbackend import (
    Acquisition,
    Argument,
    Backend,
    BackendError,
    DBProtocolHandler,
    Ticks,
    blocking,
    command,
    run_server,
)

__all__ = ["Instrument"]


class Instrument(Backend):
    """A backend with commands that answer at once, fail, sleep in a thread, or wait in a coroutine."""

    def __init__(self) -> None:
        self._lateness: int | None = None
        self.acquisition = Acquisition(self._begin, self._end)

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), "ok", self.acquisition.acquiring

    def time(self) -> Ticks:
        return Ticks.now()

    def set_configuration(self, configuration: str) -> None:
        raise BackendError(f"no configuration {configuration}")

    def start(self, timestamp: Ticks | None = None) -> None:
        self._lateness = None
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.stop(timestamp)

    def _begin(self, instant: Ticks) -> None:
        self._lateness = time.time_ns() - instant * 100

    def _end(self, instant: Ticks) -> None:
        """Do nothing."""

    @command("lateness", lane="reads")
    def lateness(self) -> int:
        """Return how late the backend was called at the last start, in ns of the clock of timed starts."""
        if self._lateness is None:
            raise BackendError("not started yet")
        return self._lateness

    @command("allocated", lane="reads")
    def allocated(self) -> int:
        """Return the number of allocated memory blocks of Python, after a garbage collection."""
        gc.collect()
        return sys.getallocatedblocks()

    @blocking
    @command("nap", Argument("seconds", "float"), lane="files")
    def nap(self, seconds: float) -> None:
        """Sleep in a thread."""
        time.sleep(seconds)

    @blocking
    @command("compute", Argument("seconds", "float"), lane="files")
    def compute(self, seconds: float) -> None:
        """Compute in a thread, which keeps the interpreter lock busy."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    @command("dawdle", Argument("seconds", "float"))
    async def dawdle(self, seconds: float) -> None:
        """Wait in a coroutine."""
        from twisted.internet import reactor

        pause: Deferred[None] = deferLater(reactor, seconds)
        await pause


if __name__ == "__main__":
    run_server(0, DBProtocolHandler(Instrument()), "127.0.0.1", reactor="".join(sys.argv[1:]) or None)
