"""A server for test_awaits: one command for each construct of asyncio and of Twisted that a method may await.

`?NAME,returns` answers 7, `?NAME,raises` raises an exception, `?NAME,waits` waits for ever. `?NAME-over` does the
same with a short time limit. `?cancel,NAME` cancels the call of NAME that waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twisted.internet.defer import (
    Deferred,
    DeferredList,
    DeferredLock,
    DeferredQueue,
    gatherResults,
    inlineCallbacks,
    succeed,
)
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from discosbackend import Argument, Backend, Ticks, command
from discosbackend.reactors import runs_on_asyncio

LIMIT = 0.05

ASYNCIO: dict[str, Callable[[Backend, str, str], Awaitable[Any]]] = {}
TWISTED: dict[str, Callable[[Backend, str, str], Awaitable[Any]]] = {}

Inner = Callable[[], Coroutine[Any, Any, Any]]
InnerDeferred = Callable[..., Deferred[Any]]

never: dict[str, Deferred[Any]] = {}
"""The Deferreds that never fire, by the name of the command that waits for them."""
tasks: list[asyncio.Task[Any]] = []
released = threading.Event()
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
executor = ThreadPoolExecutor(8)


def reactor() -> Any:
    """The reactor of this process."""
    from twisted.internet import reactor as installed

    return installed


def of_asyncio(function: Callable[[Inner, str], Awaitable[Any]]) -> Any:
    """Add a construct of asyncio, which awaits what its first argument returns; the second is the outcome."""

    async def call(backend: Backend, name: str, outcome: str) -> Any:
        async def inner() -> int:
            await asyncio.sleep(0.001)
            if outcome == "raises":
                raise ValueError("broken")
            if outcome == "waits":
                await asyncio.Event().wait()
            return 7

        return await function(inner, outcome)

    ASYNCIO[function.__name__.replace("_", "-")] = call
    return function


def of_twisted(function: Callable[[InnerDeferred, str], Awaitable[Any]]) -> Any:
    """Add a construct of Twisted, which awaits what its first argument returns; the second is the outcome."""

    async def call(backend: Backend, name: str, outcome: str) -> Any:
        def inner(deferred: Deferred[Any] | None = None) -> Deferred[Any]:
            if deferred is None:
                deferred = Deferred()
                if outcome == "returns":
                    reactor().callLater(0, deferred.callback, 7)
                elif outcome == "raises":
                    reactor().callLater(0, deferred.errback, ValueError("broken"))
            if outcome == "waits":
                never[name] = deferred
            return deferred

        return await function(inner, outcome)

    TWISTED[function.__name__.replace("_", "-")] = call
    return function


def in_thread(outcome: str) -> int:
    """What inner() does, in a thread."""
    if outcome == "raises":
        raise ValueError("broken")
    if outcome == "waits":
        released.wait()
    return 7


def kept(coroutine: Any) -> asyncio.Task[Any]:
    """A task that is not cancelled with the method. The end of the server cancels it."""
    task = asyncio.create_task(coroutine)
    tasks.append(task)
    return task


# -- asyncio ------------------------------------------------------------------------------------------


@of_asyncio
async def aio_sleep(inner: Inner, outcome: str) -> Any:
    await asyncio.sleep(0.001)
    return await inner()


@of_asyncio
async def aio_wait_for(inner: Inner, outcome: str) -> Any:
    return await asyncio.wait_for(inner(), 60)


@of_asyncio
async def aio_timeout(inner: Inner, outcome: str) -> Any:
    async with asyncio.timeout(60):
        return await inner()


@of_asyncio
async def aio_own_timeout(inner: Inner, outcome: str) -> Any:
    """A timeout of the method's own, which strikes; the method goes on."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()
    return await inner()


@of_asyncio
async def aio_task_group(inner: Inner, outcome: str) -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(inner()) for _ in range(2)]
    return tasks[1].result()


@of_asyncio
async def aio_gather(inner: Inner, outcome: str) -> Any:
    return (await asyncio.gather(inner(), inner()))[1]


@of_asyncio
async def aio_wait(inner: Inner, outcome: str) -> Any:
    done, _ = await asyncio.wait([kept(inner())])
    return done.pop().result()


@of_asyncio
async def aio_as_completed(inner: Inner, outcome: str) -> Any:
    (each,) = asyncio.as_completed([kept(inner())])
    return await each


@of_asyncio
async def aio_to_thread(inner: Inner, outcome: str) -> Any:
    return await asyncio.to_thread(in_thread, outcome)


@of_asyncio
async def aio_run_in_executor(inner: Inner, outcome: str) -> Any:
    return await asyncio.get_running_loop().run_in_executor(executor, in_thread, outcome)


@of_asyncio
async def aio_queue(inner: Inner, outcome: str) -> Any:
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def put() -> None:
        queue.put_nowait(await inner())

    task = kept(put())
    if outcome == "raises":
        await task
    return await queue.get()


@of_asyncio
async def aio_event(inner: Inner, outcome: str) -> Any:
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    await event.wait()
    return await inner()


@of_asyncio
async def aio_lock(inner: Inner, outcome: str) -> Any:
    lock = asyncio.Lock()
    async with lock:
        return await inner()


@of_asyncio
async def aio_semaphore(inner: Inner, outcome: str) -> Any:
    async with asyncio.Semaphore(1):
        return await inner()


@of_asyncio
async def aio_streams(inner: Inner, outcome: str) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if outcome == "waits":
            await reader.read()
        writer.write(b"7\n" if outcome == "returns" else b"")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            return int(await reader.readuntil(b"\n"))
        finally:
            writer.close()
    finally:
        server.close()


@of_asyncio
async def aio_subprocess(inner: Inner, outcome: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", {"returns": "echo 7", "raises": "exit", "waits": "exec sleep 600"}[outcome]),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        return int((await process.communicate())[0])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@of_asyncio
async def aio_create_task(inner: Inner, outcome: str) -> Any:
    return await asyncio.create_task(inner())


@of_asyncio
async def aio_shield(inner: Inner, outcome: str) -> Any:
    return await asyncio.shield(kept(inner()))


@of_asyncio
async def aio_future(inner: Inner, outcome: str) -> Any:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    if outcome == "raises":
        loop.call_soon(future.set_exception, ValueError("broken"))
    elif outcome == "returns":
        loop.call_soon(future.set_result, 7)
    return await future


@of_asyncio
async def aio_async_generator(inner: Inner, outcome: str) -> Any:
    async def values() -> AsyncGenerator[Any, None]:
        yield 1
        yield await inner()

    async with contextlib.aclosing(values()) as generator:
        return [value async for value in generator][-1]


@of_asyncio
async def aio_async_with(inner: Inner, outcome: str) -> Any:
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.sleep, 0.001)
        return await inner()


@of_asyncio
async def aio_contextvars(inner: Inner, outcome: str) -> Any:
    assert variable.get() == "", "the context of another call"
    variable.set(outcome)
    value = await inner()
    assert variable.get() == outcome
    return value


@of_asyncio
async def aio_cancelled_error(inner: Inner, outcome: str) -> Any:
    """CancelledError that the method raises by itself."""
    try:
        return await inner()
    except ValueError:
        raise asyncio.CancelledError from None


@of_asyncio
async def aio_nested_deferred(inner: Inner, outcome: str) -> Any:
    """A Deferred within a coroutine, within a timeout of asyncio."""

    async def nested() -> Any:
        await deferLater(reactor(), 0.001)
        value = await inner()
        await deferLater(reactor(), 0.001)
        return value

    async with asyncio.timeout(60):
        return await nested()


# -- Twisted ------------------------------------------------------------------------------------------


@of_twisted
async def tw_deferred(inner: InnerDeferred, outcome: str) -> Any:
    return await inner()


@of_twisted
async def tw_already_fired(inner: InnerDeferred, outcome: str) -> Any:
    await succeed(1)
    return await inner()


@of_twisted
async def tw_defer_later(inner: InnerDeferred, outcome: str) -> Any:
    return await deferLater(reactor(), 0.001, inner)


@of_twisted
async def tw_inline_callbacks(inner: InnerDeferred, outcome: str) -> Any:
    @inlineCallbacks
    def steps() -> Any:
        value = yield inner()
        return value

    return await steps()


@of_twisted
async def tw_ensure_deferred(inner: InnerDeferred, outcome: str) -> Any:
    async def nested() -> Any:
        return await inner()

    return await Deferred.fromCoroutine(nested())


@of_twisted
async def tw_deferred_list(inner: InnerDeferred, outcome: str) -> Any:
    return (await DeferredList([inner()], fireOnOneErrback=True, consumeErrors=True))[0][1]


@of_twisted
async def tw_gather_results(inner: InnerDeferred, outcome: str) -> Any:
    return (await gatherResults([succeed(1), inner()], consumeErrors=True))[1]


@of_twisted
async def tw_deferred_lock(inner: InnerDeferred, outcome: str) -> Any:
    return await DeferredLock().run(inner)


@of_twisted
async def tw_deferred_queue(inner: InnerDeferred, outcome: str) -> Any:
    queue: DeferredQueue[Any] = DeferredQueue()
    queue.put(await inner())
    return await queue.get()


@of_twisted
async def tw_defer_to_thread(inner: InnerDeferred, outcome: str) -> Any:
    return await inner(deferToThread(in_thread, outcome))


@of_twisted
async def tw_add_timeout(inner: InnerDeferred, outcome: str) -> Any:
    return await inner().addTimeout(60, reactor())


@of_twisted
async def tw_chained(inner: InnerDeferred, outcome: str) -> Any:
    return await succeed(1).addCallback(lambda _: inner())


# -- the backend --------------------------------------------------------------------------------------


class Awaiting(Backend):
    """A backend with two commands for each construct."""

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), "ok", False

    def own_commands(self) -> Iterator[Callable[..., Any]]:
        for name, call in (ASYNCIO | TWISTED).items():
            yield self._plain(name, call)
            yield self._over(f"{name}-over", call)

    def _plain(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @command(name, Argument("outcome", "text"), lane="reads")
        async def method(outcome: str) -> Any:
            return await call(self, name, outcome)

        return method

    def _over(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @command(name, lane="reads", timeout=LIMIT)
        async def method() -> Any:
            return await call(self, name, "waits")

        return method

    @command("cancel", Argument("name", "text"), lane="reads")
    def cancel(self, name: str) -> bool:
        """Cancel a call that waits: its task, or the Deferred that it awaits. Whether there was one."""
        if runs_on_asyncio():
            tasks = [task for task in asyncio.all_tasks() if task.get_name() == name]
            for task in tasks:
                task.cancel()
            return bool(tasks)
        deferred = never.pop(name, None)
        if deferred is not None:
            deferred.cancel()
        return deferred is not None

    def server_stopping(self) -> None:
        released.set()
