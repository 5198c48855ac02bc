"""Background tasks of a backend: spawn(), what is shown of a task that failed, and their end with the server."""

from __future__ import annotations

import asyncio
import pickle
import unittest
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from discosbackend import Backend, DBProtocolHandler, server
from discosbackend.coroutines import future_of

from .in_memory import greeted


class Polling(Backend):
    """A backend with one task that goes on, and one that fails."""

    def __init__(self) -> None:
        self.polls = 0
        self.ended: list[str] = []

    def status(self) -> tuple[float, str, bool]:
        return 1.0, "ok", False

    def server_started(self) -> None:
        self.spawn(self.poll(), "poll")
        self.spawn(self.fail())

    async def poll(self) -> None:
        try:
            while True:
                self.polls += 1
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            self.ended.append("poll")

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("no link")

    def server_stopping(self) -> None:
        self.ended.append("server_stopping")


class Plain(Backend):
    """A backend whose tasks await Deferreds."""

    async def wait(self, deferred: Deferred[Any]) -> None:
        await deferred


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class AsyncioTests(unittest.IsolatedAsyncioTestCase):
    """Tasks where an event loop of asyncio runs."""

    async def asyncSetUp(self) -> None:
        self.backend = Polling()
        self.handler = DBProtocolHandler(self.backend, reactor=Clock())

    async def test_one_that_fails_ends_nothing_else(self) -> None:
        with self.assertLogs("discosbackend.background", "ERROR") as logs:
            self.handler.start()
            await turns()
        (line,) = logs.output
        self.assertIn("the background task Polling.fail failed, the server continues\nTraceback", line)
        self.assertIn("ValueError: no link", line)
        failed, running = self.backend.background_tasks
        self.assertEqual(repr(failed), "<background task Polling.fail, failed: ValueError: no link>")
        self.assertEqual(repr(running), "<background task poll, running>")
        self.assertEqual((failed.state, str(failed.problem), running.problem), ("failed", "no link", None))
        polls = self.backend.polls
        self.assertEqual(greeted(self.handler).ask(b"?status\r\n"), b"!status,ok,1.0000000,ok,0\r\n")
        await turns()
        self.assertGreater(self.backend.polls, polls)
        await future_of(self.handler.stop())

    async def test_all_are_cancelled_at_the_end_and_waited_for(self) -> None:
        with self.assertLogs("discosbackend.background", "ERROR"):
            self.handler.start()
            await turns()
        tasks = self.backend.background_tasks
        await future_of(self.handler.stop())
        self.assertEqual(self.backend.ended, ["server_stopping", "poll"])
        self.assertEqual([task.state for task in tasks], ["failed", "cancelled"])
        self.assertEqual([task.state for task in self.backend.background_tasks], ["failed"])
        self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})

    async def test_one_that_ignores_its_cancellation_holds_the_stop_up_until_that_is_cancelled(self) -> None:
        free = asyncio.Event()

        async def stubborn() -> None:
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    continue

        self.backend.spawn(stubborn())
        await turns()
        stopped = self.handler.stop()
        await turns()
        self.assertFalse(stopped.called)
        stopped.cancel()
        self.assertTrue(stopped.called)
        free.set()
        await turns()

    async def test_a_server_started_that_never_ends(self) -> None:
        class Forever(Polling):
            async def server_started(self) -> None:  # type: ignore[override]
                await self.poll()

        backend = Forever()
        handler = DBProtocolHandler(backend, reactor=Clock())
        handler.start()
        await turns()
        with self.assertNoLogs("discosbackend", "WARNING"):
            await future_of(handler.stop())
        self.assertEqual(backend.ended, ["server_stopping", "poll"])

    async def test_a_stop_that_is_given_up_does_not_fail(self) -> None:
        class Slow(Polling):
            async def server_stopping(self) -> None:  # type: ignore[override]
                try:
                    await asyncio.sleep(60)
                finally:
                    self.ended.append("server_stopping")

        backend = Slow()
        handler = DBProtocolHandler(backend, reactor=Clock())
        backend.spawn(backend.poll())
        stopped = handler.stop()
        await turns()
        outcome: list[Any] = []
        stopped.addBoth(outcome.append)
        with self.assertLogs("discosbackend.handlers", "ERROR") as logs:
            stopped.cancel()
            self.assertEqual(outcome, [None])
            await turns(9)
        self.assertIn("server_stopping of the backend failed", logs.output[0])
        self.assertEqual(backend.ended, ["server_stopping", "poll"])

    async def test_one_that_is_cancelled(self) -> None:
        task = self.backend.spawn(asyncio.sleep(60), "nap")
        await turns()
        with self.assertNoLogs("discosbackend"):
            task.cancel()
            await turns()
            task.cancel()
        self.assertEqual((task.state, self.backend.background_tasks), ("cancelled", ()))

    async def test_one_that_ends(self) -> None:
        task = self.backend.spawn(asyncio.sleep(0))
        await turns()
        self.assertEqual((task.name, task.state, self.backend.background_tasks), ("sleep", "ended", ()))

    async def test_one_that_fails_while_it_is_cancelled(self) -> None:
        async def breaks() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                raise ValueError("no clean-up")

        task = self.backend.spawn(breaks(), "breaks")
        await turns()
        with self.assertLogs("discosbackend.background", "ERROR"):
            await future_of(self.handler.stop())
        self.assertEqual(str(task.problem), "no clean-up")

    async def test_only_the_last_failures_are_kept(self) -> None:
        async def fails(number: int) -> None:
            raise ValueError(number)

        with self.assertLogs("discosbackend.background", "ERROR") as logs:
            for number in range(25):
                self.backend.spawn(fails(number))
            await turns()
        self.assertEqual(len(logs.output), 25)
        shown = [str(task.problem) for task in self.backend.background_tasks]
        self.assertEqual(shown, [str(number) for number in range(5, 25)])

    async def test_a_task_that_awaits_deferreds(self) -> None:
        deferred: Deferred[None] = Deferred()
        task = Plain().spawn(Plain().wait(deferred))
        await turns()
        self.assertEqual(task.state, "running")
        deferred.callback(None)
        await turns()
        self.assertEqual(task.state, "ended")


class EndTests(unittest.TestCase):
    """What asyncio.create_task() has started, when the event loop of a server has ended."""

    def test_tasks_that_are_left(self) -> None:
        ended: list[str] = []

        async def ends() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                ended.append("ends")

        async def stubborn() -> None:
            while not ended[1:]:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    ended.append("stubborn")

        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        tasks = [loop.create_task(ends()), loop.create_task(stubborn(), name="stubborn")]
        loop.run_until_complete(asyncio.sleep(0))
        with mock.patch.object(server, "_LINGER", 0.01), self.assertLogs("discosbackend.server", "WARNING") as logs:
            server._end_tasks(loop)
        self.assertEqual(
            [record.getMessage() for record in logs.records],
            ["the task stubborn ignores its cancellation: the server ends without it"],
        )
        self.assertEqual(sorted(ended), ["ends", "stubborn"])
        with self.assertNoLogs("discosbackend"):
            server._end_tasks(loop)
            server._end_tasks(loop)
        self.assertTrue(all(task.done() for task in tasks))


class DefaultTests(unittest.TestCase):
    """Tasks that Twisted runs."""

    def test_a_server_started_that_never_ends(self) -> None:
        class Forever(Backend):
            async def server_started(self) -> None:
                await Deferred()

        handler = DBProtocolHandler(Forever(), reactor=Clock())
        handler.start()
        with self.assertNoLogs("discosbackend", "WARNING"):
            self.assertTrue(handler.stop().called)

    def test_a_task(self) -> None:
        backend = Plain()
        handler = DBProtocolHandler(backend, reactor=Clock())
        first, second = Deferred[None](), Deferred[None]()
        tasks = [backend.spawn(backend.wait(first)), backend.spawn(backend.wait(second))]
        self.assertEqual(backend.background_tasks, tuple(tasks))
        with self.assertLogs("discosbackend.background", "ERROR"):
            first.errback(ValueError("no link"))
        self.assertEqual([task.state for task in tasks], ["failed", "running"])
        self.assertTrue(handler.stop().called)
        self.assertEqual([task.state for task in tasks], ["failed", "cancelled"])

    def test_asyncio_on_the_default_reactor(self) -> None:
        with self.assertLogs("discosbackend.background", "ERROR") as logs:
            task = Plain().spawn(asyncio.sleep(1), "nap")
        self.assertEqual(task.state, "failed")
        self.assertIn("nap has to be changed: asyncio does not run in this server: start it with", logs.output[1])

    def test_a_canceller_that_raises(self) -> None:
        backend = Plain()
        bad: Deferred[None] = Deferred(lambda _: 1 / 0)  # type: ignore[arg-type]
        good: Deferred[None] = Deferred()
        backend.spawn(backend.wait(bad))
        task = backend.spawn(backend.wait(good))
        with self.assertLogs("discosbackend.background", "ERROR") as logs:
            self.assertTrue(DBProtocolHandler(backend, reactor=Clock()).stop().called)
        self.assertIn("the background task Plain.wait failed, the server continues", logs.output[0])
        self.assertIn("ZeroDivisionError", logs.output[0])
        self.assertEqual(task.state, "cancelled")

    def test_no_coroutine(self) -> None:
        wrong: Any = print
        with self.assertRaisesRegex(TypeError, r"spawn\(\) needs a coroutine, such as self.spawn\(self.poll\(\)\)"):
            Plain().spawn(wrong)

    def test_before_the_loop_of_the_asyncio_reactor_runs(self) -> None:
        with (
            mock.patch("discosbackend.background.runs_on_asyncio", lambda: True),
            self.assertRaisesRegex(RuntimeError, r"call it in server_started\(\) or later"),
        ):
            Plain().spawn(asyncio.sleep(0))

    def test_a_backend_without_tasks_can_be_pickled(self) -> None:
        backend = Plain()
        self.assertEqual(backend.background_tasks, ())
        self.assertEqual(pickle.loads(pickle.dumps(backend)).background_tasks, ())


if __name__ == "__main__":
    unittest.main()
