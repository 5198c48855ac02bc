"""Background tasks: coroutines that a backend starts with spawn(), and that are cancelled when the server stops.

A failed task does not stop others. The failure is logged, and the task stays in the list of the backend's tasks.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from discosbackend.coroutines import GivenUp, asyncio_cure, deferred_of
from discosbackend.reactors import running_loop, runs_on_asyncio

__all__ = ["BackgroundTask", "BackgroundTasks"]

logger = logging.getLogger(__name__)

_KEPT_FAILURES = 20


class BackgroundTask:
    """A coroutine that runs in the background. Backend.spawn() returns it.

    Parameters
    ----------
    name
        The name, for the log.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = "running"
        """`"running"`, `"ended"`, `"failed"` or `"cancelled"`."""
        self.problem: BaseException | None = None
        """The exception of a task that has failed."""
        self._source: Deferred[Any] | None = None

    def __repr__(self) -> str:
        problem = "" if self.problem is None else f": {type(self.problem).__name__}: {self.problem}"
        return f"<background task {self.name}, {self.state}{problem}>"

    def cancel(self) -> None:
        """Cancel the coroutine: its pending `await` raises CancelledError."""
        if self._source is not None and self.state == "running":
            self._source.cancel()


class BackgroundTasks:
    """The background tasks of one backend."""

    def __init__(self) -> None:
        self._running: dict[BackgroundTask, Deferred[Any]] = {}
        self._failed: deque[BackgroundTask] = deque(maxlen=_KEPT_FAILURES)

    @property
    def shown(self) -> tuple[BackgroundTask, ...]:
        """The tasks that have failed, the last 20 at most, then those that run."""
        return (*self._failed, *self._running)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str = "") -> BackgroundTask:
        """Start a coroutine.

        Parameters
        ----------
        coroutine
            The coroutine.
        name
            The name of the task. Default: that of the coroutine function.

        Raises
        ------
        TypeError
            If `coroutine` is not a coroutine.
        RuntimeError
            If the asyncio reactor is installed, but does not run yet.
        """
        if not inspect.iscoroutine(coroutine):
            raise TypeError(f"spawn() needs a coroutine, such as self.spawn(self.poll()), not {coroutine!r}")
        if runs_on_asyncio() and running_loop() is None:
            coroutine.close()
            raise RuntimeError("spawn() needs a running server: call it in server_started() or later")
        task = BackgroundTask(name or coroutine.__qualname__)
        source = deferred_of(coroutine, task.name)
        task._source = source  # noqa: SLF001  # of this module
        # Fires when the task ends. Fails only if the Deferred of cancel_all() is cancelled.
        ended: Deferred[None] = Deferred()
        self._running[task] = ended
        source.addBoth(self._end, task, ended)
        return task

    def _end(self, outcome: Any, task: BackgroundTask, ended: Deferred[None]) -> None:
        del self._running[task]
        if not isinstance(outcome, Failure):
            task.state = "ended"
        elif outcome.check(CancelledError, GivenUp):
            task.state = "cancelled"
        else:
            task.state, task.problem = "failed", outcome.value
            self._failed.append(task)
            trace: Any = (outcome.type, outcome.value, outcome.getTracebackObject())
            logger.error("the background task %s failed, the server continues", task.name, exc_info=trace)
            if outcome.value is not None and (cure := asyncio_cure(outcome.value)):
                logger.error("%s has to be changed: %s", task.name, cure)
        ended.callback(None)

    def cancel_all(self) -> Deferred[Any]:
        """Cancel all tasks, in the order of their start. Return a Deferred that fires when they have ended."""
        ends = list(self._running.values())
        for task in list(self._running):
            task.cancel()
        # If the returned Deferred is cancelled, `ends` fail: ignore that.
        return DeferredList(ends, consumeErrors=True)
