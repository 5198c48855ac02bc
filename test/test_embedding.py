"""serve(): a backend in a running asyncio program, in a process of its own for all that can be tried in one."""

from __future__ import annotations

import asyncio
import json
import socket
import textwrap
import unittest
from typing import Any

from discosbackend import Backend, DBProtocolHandler, serve
from discosbackend.embedding import EmbeddedServer
from discosbackend.protocol import DBFactory
from discosbackend.testing.process import ServerProcess

from .serving import ask, forked_kit_servers, run_python
from .settings import PATIENCE

LOOP_RUNS = (
    "RuntimeError: an event loop of asyncio is running here, and run_server() would block it: write "
    "`async with discosbackend.serve(backend, port):` instead"
)
OTHER_LOOP = (
    "RuntimeError: Twisted's reactor belongs to another event loop, such as that of an earlier asyncio.run(), and a "
    "process has only one reactor: serve within one asyncio.run(), or start another process"
)

PROGRAM = """
    import ast, asyncio, inspect, json, threading, types
    from discosbackend import Backend, DBProtocolHandler, Ticks, run_server, serve
    from discosbackend.handlers import AlwaysOkHandler
    from twisted.internet.error import CannotListenError
    from twisted.internet.task import deferLater
    from twisted.internet.threads import deferToThread

    found = {}

    class Mine(Backend):
        events = ()

        def status(self):
            return Ticks.now(), "ok", False

        async def server_started(self):
            self.events += ("started",)
            self.spawn(asyncio.sleep(600), "nap")

        async def get_tpi(self):
            from twisted.internet import reactor

            async with asyncio.timeout(60):
                return await asyncio.sleep(0.001, 1.0), await deferLater(reactor, 0.001, lambda: 2.0)

        async def get_tp0(self):
            return await deferToThread(lambda: 3.0)

        async def get_rms(self):
            self.events += ("waits",)
            await asyncio.sleep(600)

        async def server_stopping(self):
            await asyncio.sleep(0)
            self.events += ("stopping",)

    async def ask(server, *requests):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"".join(request + b"\\r\\n" for request in requests))
        lines = [(await reader.readline()).decode() for _ in range(len(requests) + 1)]
        writer.close()
        await writer.wait_closed()
        return lines[1:]

    def refused(function):
        try:
            function()
        except BaseException as problem:
            return f"{type(problem).__name__}: {problem}"

    async def main():
        backend = Mine()
        async with serve(backend, 0, "127.0.0.1") as server:
            found["asked"] = await ask(server, b"?get-tpi", b"?get-tp0")
            found["address"] = server.address == f"127.0.0.1:{server.port}"
            found["listeners"] = server.factory.listeners
            # Another server beside it, on the same loop, with a handler.
            async with serve(AlwaysOkHandler(), 0, "127.0.0.1") as other:
                found["both"] = await ask(other, b"?anything,1") + await ask(server, b"?version")
            found["running"] = [task.name for task in backend.background_tasks]
            # Its port is taken.
            try:
                async with serve(Mine(), server.port, "127.0.0.1"):
                    pass
            except CannotListenError as problem:
                found["taken"] = type(problem).__name__
            found["run_server"] = refused(lambda: run_server(0, AlwaysOkHandler(), "127.0.0.1", reactor="asyncio"))
        found["stopped"] = backend.events, backend.background_tasks

        backend = Mine()
        try:
            async with serve(backend, 0, "127.0.0.1", stop_timeout=0.01) as server:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"?get-rms\\r\\n")
                await reader.readline()
                while "waits" not in backend.events:
                    await asyncio.sleep(0.001)
                raise ValueError("the program's own")
        except ValueError as problem:
            found["own"] = str(problem)
        found["given up"] = (await reader.read()).decode(), backend.events
        writer.close()

        # The task of the program is cancelled, as by Ctrl-C.
        backend = Mine()
        async def program():
            async with serve(backend, 0, "127.0.0.1"):
                await asyncio.sleep(600)
        task = asyncio.create_task(program())
        while not backend.events:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        found["cancelled"] = task.cancelled(), backend.events

        # As Jupyter runs its cells: with await at the top, one after another, in one loop.
        names = {"serve": serve, "Mine": Mine, "ask": ask}
        for cell in (
            "server = await serve(Mine(), 0, '127.0.0.1').start()",
            "asked = await ask(server, b'?get-tpi')",
            "await server.stop()",
            "async with serve(Mine(), 0, '127.0.0.1') as server:\\n    again = await ask(server, b'?get-tpi')",
        ):
            code = compile(cell, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            await types.FunctionType(code, names)()
        found["cells"] = names["asked"] + names["again"]
        found["left"] = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    asyncio.run(main())
    found["second"] = refused(lambda: asyncio.run(main()))
    print(json.dumps(found))
"""


def run(code: str) -> dict[str, Any]:
    """What a program prints as JSON. It has to end by itself."""
    done = run_python("-c", textwrap.dedent(code))
    if done.returncode or done.stderr:
        raise AssertionError(f"status {done.returncode}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class ServeTests(unittest.TestCase):
    """One program that serves in many ways."""

    found: dict[str, Any]

    @classmethod
    def setUpClass(cls) -> None:
        cls.found = run(PROGRAM)

    def test_each(self) -> None:
        for what, expected in (
            ("asked", ["!get-tpi,ok,1.0,2.0\r\n", "!get-tp0,ok,3.0\r\n"]),
            ("address", True),
            ("listeners", []),
            ("both", ["!anything,ok,1\r\n", "!version,ok,1.4\r\n"]),
            ("running", ["nap"]),
            ("taken", "CannotListenError"),
            ("stopped", [["started", "stopping"], []]),
            ("own", "the program's own"),
            ("given up", ["!get-rms,fail,server is stopping\r\n", ["started", "waits", "stopping"]]),
            ("cancelled", [True, ["started", "stopping"]]),
            ("cells", ["!get-tpi,ok,1.0,2.0\r\n"] * 2),
            ("left", []),
            ("run_server", LOOP_RUNS),
            ("second", OTHER_LOOP),
        ):
            with self.subTest(what):
                self.assertEqual(self.found[what], expected)


class AsyncioBackend(Backend):
    """What the kit serves in a process of its own."""

    reactor = "asyncio"

    async def get_tp0(self) -> float:
        return await asyncio.sleep(0.001, 7.0)


class AsyncioCase:
    """What the kit's process needs of a test case."""

    def __init__(self, method: str) -> None:
        assert method == "make_factory"

    def make_factory(self) -> DBFactory:
        return DBFactory(DBProtocolHandler(AsyncioBackend()))


class KitTests(unittest.TestCase):
    """The process in which the conformance kit serves a backend."""

    def test_the_reactor_of_the_class(self) -> None:
        with forked_kit_servers():
            process = ServerProcess(AsyncioCase, timeout=PATIENCE)
        self.addCleanup(process.stop)
        with socket.create_connection(process.address, PATIENCE) as connection:
            self.assertEqual(ask(connection, b"?get-tp0", b"?version")[1:], [b"!get-tp0,ok,7.0\r\n"])


class RefusalTests(unittest.IsolatedAsyncioTestCase):
    """What needs no server."""

    async def test_another_reactor_was_imported(self) -> None:
        code = """
            import asyncio, json, sys, types
            from twisted.internet import reactor
            from discosbackend import Backend, DBProtocolHandler, serve

            async def main():
                async with serve(Backend(), 0):
                    pass

            try:
                asyncio.run(main())
            except RuntimeError as problem:
                print(json.dumps({"refused": str(problem)}))
        """
        refused = run(code)["refused"]
        self.assertIn("the module __main__ has imported twisted.internet.reactor before, which installed", refused)

    async def test_it_does_not_run(self) -> None:
        server = serve(Backend(), 0)
        with self.assertRaisesRegex(RuntimeError, "the server does not run: write `async with serve"):
            _ = server.factory
        with self.assertRaisesRegex(RuntimeError, "the server does not run: write `async with serve"):
            await server.stop()

    async def test_a_class_instead_of_an_instance(self) -> None:
        with self.assertRaisesRegex(TypeError, r"a backend is an instance: Backend\(\) instead of Backend"):
            serve(Backend, 0)

    async def test_the_type(self) -> None:
        self.assertIsInstance(serve(Backend(), 0), EmbeddedServer)


if __name__ == "__main__":
    unittest.main()
