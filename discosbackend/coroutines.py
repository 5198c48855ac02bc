"""Runs the coroutines of a backend: converts an awaitable to a Deferred.

On Twisted's default reactor, Twisted runs a coroutine, which can await Deferreds. Where an event loop of asyncio runs,
each coroutine is a task of asyncio, which can await Deferreds too. asyncio_cure() says what to change if that fails.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from discosbackend.errors import HandlerException
from discosbackend.reactors import running_loop, runs_on_asyncio

__all__ = ["NOT_RUNNING", "AnyTaskDeferred", "GivenUp", "asyncio_cure", "deferred_of", "future_of"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


# Error messages of asyncio, and of libraries based on it, if its loop does not run or does not run this coroutine.
_ASYNCIO = (
    "no running event loop",
    "no current event loop",
    "await wasn't used with future",
    "should be used inside a task",
    "cannot be called from a running event loop",
    "unknown async library",
    "Task got bad yield: <Deferred",
)

NOT_RUNNING = (
    'asyncio does not run in this server: start it with --reactor asyncio, or run_server(..., reactor="asyncio"), or '
    'write `reactor = "asyncio"` in the class of the backend'
)
"""What to write in the log if a method uses asyncio on the default reactor."""


class GivenUp(HandlerException):
    """The task of a coroutine was cancelled, by the server or by other code."""


class AnyTaskDeferred(Deferred[Result]):
    """A Deferred that every task of asyncio can await, also one that `gather`, a `TaskGroup` or a library started.

    It can be awaited more than once. Cancelling one of these awaits cancels the Deferred.
    """

    _outcome: tuple[Any] | None = None
    """The result or the Failure, if it was awaited and has fired."""
    _copies: list[Deferred[Any]] | None = None
    """The Deferreds of the awaits that wait for the outcome. None: it was not awaited yet."""

    def __await__(self) -> Generator[Any, None, Result]:
        loop = running_loop()
        if loop is not None and asyncio.current_task(loop) is not None:
            return future_of(self._copy(), loop).__await__()
        # Twisted runs the coroutine. It takes the result from the Deferred that it awaits.
        return self._copy().__await__()

    def _copy(self) -> Deferred[Result]:
        """Return a Deferred with the same outcome."""
        copy: Deferred[Result] = Deferred(lambda _: self.cancel())
        if self._copies is None:
            self._copies = []
            self.addBoth(self._keep)
        if self._outcome is None:
            self._copies.append(copy)
        else:
            _fire(copy, self._outcome[0])
        return copy

    def _keep(self, outcome: Any) -> Any:
        self._outcome = (outcome,)
        copies, self._copies = self._copies or [], []
        for copy in copies:
            _fire(copy, outcome)
        # The copies report a failure.
        return None if isinstance(outcome, Failure) else outcome


def _fire(deferred: Deferred[Any], outcome: Any) -> None:
    if isinstance(outcome, Failure):
        deferred.errback(outcome)
    else:
        deferred.callback(outcome)


def deferred_of(result: Any, name: str = "the command") -> Deferred[Any]:
    """Convert a Deferred or any other awaitable to a Deferred. Cancelling it cancels the awaitable.

    Parameters
    ----------
    result
        The awaitable.
    name
        The name for the asyncio task and for error texts, such as the name of a command.

    Returns
    -------
    deferred
        A Deferred of the result. If asyncio's task is cancelled, the Deferred fails with GivenUp after its end.
    """
    if isinstance(result, Deferred):
        return result
    coroutine = result if inspect.iscoroutine(result) else _wait_for(result)
    loop = running_loop()
    if loop is None:
        return Deferred.fromCoroutine(coroutine)
    task = loop.create_task(_run(coroutine, loop), name=name)
    # Python warns of a coroutine that was never started, such as that of a task that was cancelled at once.
    task.add_done_callback(lambda _: coroutine.close())
    deferred: Deferred[Any] = Deferred.fromFuture(task)
    return deferred.addErrback(_refuse_if_cancelled, task, name)


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _run(coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Any:
    """Run a coroutine in the current task. Returns a Failure for the exceptions that would end the event loop."""
    try:
        return await _steps(coroutine, loop)
    except (KeyboardInterrupt, SystemExit):
        # A task passes these two on to run_forever(). A Deferred that gets a Failure as its result fails with it.
        return Failure()


@types.coroutine
def _steps(coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Generator[Any, Any, Any]:
    """Run a coroutine step by step. Futures are passed on to the task; Deferreds are first converted to futures."""
    problem: BaseException | None = None
    try:
        while True:
            try:
                awaited = coroutine.send(None) if problem is None else coroutine.throw(problem)
            except StopIteration as end:
                return end.value
            problem = None
            try:
                if isinstance(awaited, Deferred):
                    yield from future_of(awaited, loop)
                else:
                    yield awaited
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as caught:  # noqa: BLE001  # the coroutine gets it
                problem = caught
    finally:
        # Avoid a reference cycle: the traceback of the exception refers to this frame.
        problem = None


def future_of(deferred: Deferred[Any], loop: asyncio.AbstractEventLoop | None = None) -> asyncio.Future[Any]:
    """Return a future with the result of a Deferred. If the future is cancelled, the Deferred is cancelled.

    Deferred.asFuture() is not used: it sets the Deferred's result to None, also for a later `await`.

    Parameters
    ----------
    deferred
        The Deferred. It keeps its result. A failure is passed to the future only.
    loop
        The event loop. Default: the running one.
    """
    future: asyncio.Future[Any] = (asyncio.get_running_loop() if loop is None else loop).create_future()

    def fired(result: Any) -> Any:
        if not isinstance(result, Failure):
            if not future.done():
                future.set_result(result)
            return result
        if future.done():
            # Cancelled. The failure is the Deferred's own report of it.
            logger.debug("a Deferred failed after its await was cancelled: %s", result.getErrorMessage())
            return None
        future.set_exception(_exception_of(result))
        return None

    def done(future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            try:
                deferred.cancel()
            except Exception:  # a canceller may raise anything
                logger.exception("cancelling a Deferred failed")

    deferred.addBoth(fired)
    future.add_done_callback(done)
    return future


def _exception_of(failure: Failure) -> BaseException:
    problem = failure.value
    assert isinstance(problem, BaseException)
    if isinstance(problem, StopIteration):
        # asyncio refuses this one, because it would end the generator of the task.
        problem = RuntimeError("a Deferred failed with StopIteration")
    trace = failure.getTracebackObject()
    # Older versions of Twisted may replace the traceback by an object that only has the texts.
    return problem.with_traceback(trace) if isinstance(trace, types.TracebackType) else problem


def _refuse_if_cancelled(failure: Failure, task: asyncio.Task[Any], name: str) -> Failure:
    """Convert the CancelledError of a task that was cancelled to a refusal.

    A CancelledError that the method raised by itself stays, because it is a mistake of the method.
    """
    if failure.check(asyncio.CancelledError) and task.cancelled() and task.cancelling():
        return Failure(GivenUp(f"cancelled: {name} was given up"))
    return failure


def asyncio_cure(problem: BaseException) -> str:
    """Return how to correct the asyncio mistake that raised an exception. "" for other exceptions."""
    if not isinstance(problem, RuntimeError) or not any(text in str(problem) for text in _ASYNCIO):
        return ""
    if not runs_on_asyncio():
        return NOT_RUNNING
    if "bad yield" in str(problem):
        return (
            "a Deferred is awaited in a task that the method started: await it in the method itself, or start the task "
            "with self.spawn(...)"
        )
    if "no running event loop" in str(problem) or "no current event loop" in str(problem):
        return "asyncio does not run in the thread of a @blocking method: leave out @blocking and write `async def`"
    if "from a running event loop" in str(problem):
        return "asyncio.run() cannot be called in the server's event loop: write `async def`, and await the coroutine"
    return "the coroutine is run by Twisted, not by asyncio: await the coroutine itself instead of a Deferred of it"
