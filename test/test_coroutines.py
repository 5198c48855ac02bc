"""Coroutines as tasks of asyncio: awaited Deferreds, cancelling in both directions, and what may not be lost."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import unittest
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from discosbackend import Backend, BackendError, DBProtocolHandler, command
from discosbackend.coroutines import AnyTaskDeferred, GivenUp, deferred_of, future_of

from .in_memory import greeted


async def turns(count: int = 5) -> None:
    """Let the event loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


def outcome_of(deferred: Deferred[Any]) -> list[Any]:
    """The list that gets the outcome of a Deferred."""
    outcome: list[Any] = []
    deferred.addBoth(outcome.append)
    return outcome


class DeferredTests(unittest.IsolatedAsyncioTestCase):
    """Deferreds that are awaited in a task."""

    async def test_one_that_fires_keeps_its_result(self) -> None:
        deferred: Deferred[int] = Deferred()

        async def wait() -> tuple[int, int]:
            return await deferred, await deferred

        outcome = outcome_of(deferred_of(wait()))
        await turns()
        self.assertEqual(outcome, [])
        deferred.callback(7)
        await turns()
        self.assertEqual(outcome, [(7, 7)])

    async def test_one_that_has_fired(self) -> None:
        async def wait() -> int:
            return await succeed(7)

        self.assertEqual(await future_of(deferred_of(wait())), 7)

    async def test_one_that_fails(self) -> None:
        deferred: Deferred[int] = Deferred()

        async def wait() -> str:
            try:
                await deferred
            except ValueError as problem:
                return f"caught {problem}"
            return "nothing"

        outcome = outcome_of(deferred_of(wait()))
        await turns()
        deferred.errback(ValueError("broken"))
        await turns()
        self.assertEqual(outcome, ["caught broken"])

    async def test_failures_of_any_kind(self) -> None:
        for problem, expected in (
            (BackendError("no link"), BackendError),
            (StopIteration(3), RuntimeError),
            (asyncio.CancelledError(), asyncio.CancelledError),
            (CancelledError(), CancelledError),
            (SystemExit(3), SystemExit),
        ):
            deferred: Deferred[Any] = Deferred()

            async def wait(deferred: Deferred[Any] = deferred) -> None:
                await deferred

            with self.subTest(repr(problem)):
                outcome = outcome_of(deferred_of(wait()))
                await turns()
                deferred.errback(problem)
                await turns()
                self.assertIsInstance(outcome[0], Failure)
                self.assertIs(outcome[0].type, expected)

    async def test_the_traceback_shows_the_line_of_the_method(self) -> None:
        async def method() -> None:
            await turns()
            raise ValueError("broken")

        outcome = outcome_of(deferred_of(method()))
        await turns(9)
        self.assertIn("in method\n", outcome[0].getTraceback())

    async def test_cancelling_the_await_cancels_the_deferred_first(self) -> None:
        order: list[str] = []
        deferred: Deferred[Any] = Deferred(lambda _: order.append("deferred"))

        async def wait() -> None:
            try:
                await deferred
            except asyncio.CancelledError:
                order.append("method")
                raise

        outcome = outcome_of(deferred_of(wait(), "get-tp0"))
        await turns()
        (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "get-tp0")
        task.cancel()
        await turns()
        self.assertEqual(order, ["deferred", "method"])
        self.assertIs(outcome[0].type, GivenUp)
        self.assertEqual(str(outcome[0].value), "cancelled: get-tp0 was given up")

    async def test_a_canceller_that_raises(self) -> None:
        deferred: Deferred[Any] = Deferred(lambda _: 1 / 0)  # type: ignore[arg-type]

        async def wait() -> None:
            await deferred

        waiting = deferred_of(wait())
        await turns()
        outcome = outcome_of(waiting)
        with self.assertLogs("discosbackend.coroutines", "ERROR"):
            waiting.cancel()
            await turns()
        self.assertIs(outcome[0].type, GivenUp)

    async def test_a_timeout_of_asyncio(self) -> None:
        cancelled: list[Any] = []

        async def wait() -> str:
            try:
                async with asyncio.timeout(0):
                    await Deferred(cancelled.append)
            except TimeoutError:
                return "timed out"
            return "nothing"

        self.assertEqual(await future_of(deferred_of(wait())), "timed out")
        self.assertEqual(len(cancelled), 1)

    async def test_one_that_fires_when_it_is_cancelled_too(self) -> None:
        """The cancellation wins, as in asyncio; the result is not lost."""
        deferred: Deferred[int] = Deferred()

        async def wait() -> None:
            await deferred

        waiting = deferred_of(wait())
        await turns()
        waiting.cancel()
        deferred.callback(7)
        outcome = outcome_of(waiting)
        await turns()
        self.assertIs(outcome[0].type, GivenUp)
        self.assertEqual(deferred.result, 7)


class AnyTaskDeferredTests(unittest.IsolatedAsyncioTestCase):
    """What Link.ask() returns. Tasks that were started by asyncio itself can await it."""

    async def test_gather(self) -> None:
        first, second = AnyTaskDeferred[int](), AnyTaskDeferred[int]()

        async def wait() -> list[int]:
            return list(await asyncio.gather(first, second))

        outcome = outcome_of(deferred_of(wait()))
        await turns()
        second.callback(2)
        first.callback(1)
        await turns()
        self.assertEqual(outcome, [[1, 2]])

    async def test_a_failure_in_a_task_group(self) -> None:
        first, second = AnyTaskDeferred[int](), AnyTaskDeferred[int]()

        async def ask(deferred: Deferred[int]) -> int:
            return await deferred

        async def wait() -> str:
            reason = ""
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(ask(first))
                    group.create_task(ask(second))
            except* BackendError as problems:
                reason = str(problems.exceptions[0])
            return reason

        outcome = outcome_of(deferred_of(wait()))
        await turns()
        first.errback(BackendError("the link is down"))
        await turns(10)
        self.assertEqual(outcome, ["the link is down"])
        # Its task was cancelled by the group.
        self.assertTrue(second.called)

    async def test_in_the_method_itself_and_twice(self) -> None:
        deferred = AnyTaskDeferred[int]()

        async def wait() -> tuple[int, int]:
            return await deferred, await deferred

        outcome = outcome_of(deferred_of(wait()))
        await turns()
        deferred.callback(7)
        await turns()
        self.assertEqual(outcome, [(7, 7)])

    async def test_two_tasks_get_the_same_failure(self) -> None:
        deferred = AnyTaskDeferred[int]()

        async def wait() -> str:
            try:
                return f"no failure: {await deferred}"
            except BackendError as problem:
                return str(problem)

        waiting = asyncio.gather(wait(), wait())
        await turns()
        deferred.errback(BackendError("down"))
        self.assertEqual([*await waiting, await wait()], ["down"] * 3)

    async def test_a_coroutine_that_twisted_runs_beside_the_loop(self) -> None:
        deferred = AnyTaskDeferred[int]()

        async def wait() -> int:
            return await deferred

        outcome: list[Any] = []
        # As a callback of the loop, which is no task.
        asyncio.get_running_loop().call_soon(lambda: Deferred.fromCoroutine(wait()).addBoth(outcome.append))
        await turns()
        deferred.callback(7)
        await turns()
        self.assertEqual(outcome, [7])

    async def test_a_timeout_cancels_it(self) -> None:
        cancelled: list[Any] = []
        deferred = AnyTaskDeferred[int](cancelled.append)
        waiting = asyncio.ensure_future(asyncio.wait_for(deferred, 60.0))
        await turns()
        waiting.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await waiting
        self.assertEqual(cancelled, [deferred])


class AwaitedTwiceTests(unittest.TestCase):
    """The same, where Twisted runs the coroutines. Twisted's own Deferred has its result once."""

    def test_a_result(self) -> None:
        deferred = AnyTaskDeferred[int]()

        async def wait() -> tuple[int, int]:
            return await deferred, await deferred

        outcomes = [outcome_of(Deferred.fromCoroutine(wait())) for _ in range(2)]
        deferred.addCallback(lambda result: result + 1)
        self.assertEqual(outcomes, [[], []])
        deferred.callback(7)
        outcomes.append(outcome_of(Deferred.fromCoroutine(wait())))
        self.assertEqual(outcomes, [[(7, 7)]] * 3)
        self.assertEqual(deferred.result, 8)

    def test_a_failure(self) -> None:
        deferred = AnyTaskDeferred[int]()

        async def wait() -> str:
            try:
                return f"no failure: {await deferred}"
            except BackendError as problem:
                return str(problem)

        waiting = outcome_of(Deferred.fromCoroutine(wait()))
        deferred.errback(BackendError("down"))
        self.assertEqual([waiting, outcome_of(Deferred.fromCoroutine(wait()))], [["down"]] * 2)
        self.assertIsNone(deferred.result, "it is handled")

    def test_cancelling_one_cancels_all(self) -> None:
        cancelled: list[Any] = []
        deferred = AnyTaskDeferred[int](cancelled.append)

        async def wait() -> int:
            return await deferred

        first, second = Deferred.fromCoroutine(wait()), Deferred.fromCoroutine(wait())
        outcomes = [outcome_of(first), outcome_of(second)]
        second.cancel()
        self.assertEqual(cancelled, [deferred])
        for outcome in outcomes:
            self.assertIs(outcome[0].type, CancelledError)


class TaskTests(unittest.IsolatedAsyncioTestCase):
    """The task of a coroutine."""

    async def test_it_is_a_task(self) -> None:
        async def method() -> str:
            task = asyncio.current_task()
            assert task is not None
            return task.get_name()

        self.assertEqual(await future_of(deferred_of(method(), "get-tp0")), "get-tp0")

    async def test_any_awaitable(self) -> None:
        class Own:
            def __await__(self) -> Any:
                yield from asyncio.sleep(0).__await__()
                return 7

        future = asyncio.get_running_loop().create_future()
        future.set_result(7)
        for awaitable in (Own(), future, asyncio.create_task(asyncio.sleep(0, 7))):
            with self.subTest(type(awaitable).__name__):
                self.assertEqual(await future_of(deferred_of(awaitable)), 7)

    async def test_a_context_of_its_own(self) -> None:
        variable = contextvars.ContextVar("variable", default=0)

        async def method(value: int) -> int:
            variable.set(variable.get() + value)
            await asyncio.sleep(0)
            await succeed(None)
            return variable.get()

        waiting = [deferred_of(method(1)), deferred_of(method(2))]
        self.assertEqual([await future_of(each) for each in waiting], [1, 2])

    async def test_what_would_end_the_event_loop(self) -> None:
        for problem in (SystemExit(3), KeyboardInterrupt()):

            async def method(problem: BaseException = problem) -> None:
                await asyncio.sleep(0)
                raise problem

            outcome = outcome_of(deferred_of(method()))
            await turns()
            self.assertIs(outcome[0].value, problem)

    async def test_cancelled_before_its_first_step(self) -> None:
        begun: list[int] = []

        async def method() -> None:
            begun.append(1)

        waiting = deferred_of(method())
        waiting.cancel()
        outcome = outcome_of(waiting)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await turns()
            del waiting
            gc.collect()
        self.assertEqual([str(each.message) for each in caught], [], "it was never awaited")
        self.assertEqual(begun, [])
        self.assertIs(outcome[0].type, GivenUp)

    async def test_it_ignores_its_cancellation(self) -> None:
        async def method() -> int:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            return 7

        waiting = deferred_of(method())
        await turns()
        waiting.cancel()
        outcome = outcome_of(waiting)
        self.assertEqual(outcome, [], "its end is awaited")
        await turns()
        self.assertEqual(outcome, [7])

    async def test_its_own_cancelled_error(self) -> None:
        async def method() -> None:
            raise asyncio.CancelledError

        outcome = outcome_of(deferred_of(method()))
        await turns()
        self.assertIs(outcome[0].type, asyncio.CancelledError)

    async def test_nothing_is_kept_alive(self) -> None:
        """No reference cycle with an exception that a method has caught: it is freed without the garbage collector."""
        freed: list[int] = []

        async def method(deferred: Deferred[None]) -> None:
            kept = DeferredTests()
            weakref.finalize(kept, freed.append, 1)
            with contextlib.suppress(ValueError):
                await deferred
            await asyncio.sleep(0)

        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        deferred: Deferred[None] = Deferred()
        outcome = outcome_of(deferred_of(method(deferred)))
        await turns()
        deferred.errback(ValueError("broken"))
        await turns()
        self.assertEqual(outcome, [None])
        self.assertEqual(freed, [1])


class Waiting(Backend):
    """Commands that wait until the test lets them go."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.free = asyncio.Event()

    @command("slow", timeout=2.0)
    async def slow(self) -> int:
        self.events.append("slow begins")
        try:
            await self.free.wait()
        finally:
            self.events.append("slow ends")
        return 7

    @command("quick")
    def quick(self) -> None:
        self.events.append("quick")

    @command("next")
    async def next(self) -> None:
        self.events.append("next")


class LaneTests(unittest.IsolatedAsyncioTestCase):
    """Tasks and the scheduler, on a fake clock for the time limits."""

    async def asyncSetUp(self) -> None:
        self.clock = Clock()
        self.backend = Waiting()
        self.handler = DBProtocolHandler(self.backend, reactor=self.clock)

    async def after(self, step: Callable[[], Any] | None = None) -> list[str]:
        if step is not None:
            step()
        await turns()
        events, self.backend.events = self.backend.events, []
        return events

    async def test_the_next_task_begins_after_the_clean_up_of_the_one_before(self) -> None:
        first, second = greeted(self.handler), greeted(self.handler)
        first.send(b"?slow\r\n")
        second.send(b"?next\r\n")
        self.assertEqual(await self.after(), ["slow begins"])
        self.assertEqual(await self.after(lambda: self.clock.pump([1.0] * 3)), ["slow ends", "next"])
        self.assertEqual(first.received(), b"!slow,fail,timeout: slow took longer than 2 s\r\n")
        self.assertEqual(second.received(), b"!next,ok\r\n")

    async def test_the_lane_is_free_when_the_client_has_its_fail(self) -> None:
        first, second = greeted(self.handler), greeted(self.handler)
        first.send(b"?slow\r\n")
        second.send(b"?quick\r\n")
        await self.after()
        self.assertEqual(await self.after(lambda: self.clock.pump([1.0] * 3)), ["quick", "slow ends"])
        self.assertEqual(second.received(), b"!quick,ok\r\n")

    async def test_a_late_end_is_not_logged_as_a_failure(self) -> None:
        connection = greeted(self.handler)
        connection.send(b"?slow\r\n")
        await self.after()
        with self.assertNoLogs("discosbackend.scheduler"):
            await self.after(lambda: self.clock.pump([1.0] * 3))
        self.assertEqual(connection.received(), b"!slow,fail,timeout: slow took longer than 2 s\r\n")

    async def test_a_result_after_the_turn(self) -> None:
        connection = greeted(self.handler)
        connection.send(b"?slow\r\n")
        await self.after()
        self.assertEqual(connection.received(), b"")
        await self.after(self.backend.free.set)
        self.assertEqual(connection.received(), b"!slow,ok,7\r\n")


class WithoutLoopTests(unittest.TestCase):
    """Without an event loop, Twisted runs the coroutine, at once."""

    def test_it_begins_at_once(self) -> None:
        async def method() -> int:
            return await succeed(7)

        coroutine: Coroutine[Any, Any, int] = method()
        self.assertEqual(outcome_of(deferred_of(coroutine)), [7])


if __name__ == "__main__":
    unittest.main()
