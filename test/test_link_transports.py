"""Link over TCP, a Unix socket and a serial line (a pair of pseudo terminals), on two kinds of reactors."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
import tty
import unittest
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import globalLogPublisher
from twisted.python import threadable

from discosbackend import Acquisition, Backend
from discosbackend.handlers import DBProtocolHandler
from discosbackend.link import Link, LinkDown, LinkTimeout
from discosbackend.testing import HangUp, LinkSimulator, Part, Wait

from .in_memory import quiet
from .settings import PATIENCE, needs_pyserial

KINDS: dict[str, Callable[[], Any]] = {
    "Twisted": SelectReactor,
    "asyncio": lambda: AsyncioSelectorReactor(asyncio.new_event_loop()),
}


def setUpModule() -> None:
    quiet()


class Gated(Backend):
    """A backend that may poll its device, and closes its gate at the end of an acquisition."""

    def __init__(self, link: Link, polls: bool) -> None:
        self.link = link
        self.polls = polls
        self.acquisition = Acquisition(lambda _: None, lambda _: self.spawn(self.ask(b"gate 0")) and None)

    async def ask(self, question: bytes) -> bytes:
        return await self.link.ask(question)

    async def server_started(self) -> None:
        if self.polls:
            self.spawn(self.poll())

    async def poll(self) -> None:
        while True:
            await self.link.ask(b"temp?")

    def stop(self, timestamp: Any = None) -> None:
        self.acquisition.stop(timestamp)


class TransportTests(unittest.TestCase):
    def setUp(self) -> None:
        self.addCleanup(setattr, threadable, "ioThread", threadable.ioThread)
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def on_both(self, session: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        for name, make in KINDS.items():
            with self.subTest(name):
                self.run_on(make(), session)

    def run_on(self, reactor: Any, session: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Run the reactor until the session ends."""
        problems: list[Any] = []
        logged: list[Any] = []
        observer: Any = logged.append
        globalLogPublisher.addObserver(observer)

        def begin() -> None:
            done = Deferred.fromCoroutine(session(reactor)).addTimeout(PATIENCE, reactor)
            done.addErrback(problems.append).addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(begin)
        reactor.run(installSignalHandlers=False)
        loop = getattr(reactor, "_asyncioEventloop", None)
        if loop is not None:
            loop.close()
        globalLogPublisher.removeObserver(observer)
        if problems:
            problems[0].raiseException()
        self.assertEqual([each for each in logged if each.get("log_failure") or each.get("isError")], [])

    async def converse(self, reactor: Any, link: Link, device: LinkSimulator) -> None:
        """What works over every transport."""
        self.assertEqual(await link.ask(b"ver?"), b"1.2")
        self.assertEqual(link.problem, "")
        with self.assertRaises(RuntimeError):
            link.ask_blocking(b"ver?")
        threads = reactor.getThreadPool()
        self.assertEqual(await deferToThreadPool(reactor, threads, link.ask_blocking, b"ver?"), b"1.2")
        with self.assertRaisesRegex(RuntimeError, "belongs to the reactor's thread"):
            await deferToThreadPool(reactor, threads, link.ask, b"ver?")
        # On a busy machine, any answer can take long. Only this one must be late.
        link._timeout = 0.3
        device.next([Wait(0.5), b"late"])
        with self.assertRaises(LinkTimeout):
            await link.ask(b"ver?")
        link._timeout = PATIENCE
        self.assertEqual(await self.patiently(link, b"ver?", reactor), b"1.2")

    async def patiently(self, link: Link, question: bytes, reactor: Any) -> bytes:
        """Ask until there is an answer: the link may be about to reconnect."""
        while True:
            try:
                return await link.ask(question)
            except (LinkDown, LinkTimeout):
                await deferLater(reactor, 0.01)

    def device(self, reactor: Any) -> LinkSimulator:
        return LinkSimulator({b"ver?": b"1.2"}, reactor=reactor)

    def test_tcp(self) -> None:
        async def session(reactor: Any) -> None:
            device = self.device(reactor)
            port = reactor.listenTCP(0, device, interface="127.0.0.1")
            number = port.getHost().port
            link = Link(f"tcp://127.0.0.1:{number}", timeout=PATIENCE, reactor=reactor)
            await self.converse(reactor, link, device)
            connection: Any = link._connection
            self.assertTrue(connection.transport.getTcpNoDelay() and connection.transport.getTcpKeepAlive())
            # By name, and a half answer.
            other = Link(f"tcp://localhost:{number}", timeout=PATIENCE, reactor=reactor)
            device.next([Part(b"1."), HangUp()])
            with self.assertRaisesRegex(LinkDown, rf"\Alink to localhost:{number} is down since \d+ s\Z"):
                await other.ask(b"ver?")
            self.assertEqual(await other.ask(b"ver?"), b"1.2")
            await other.close()
            await port.stopListening()
            device.hang_up()
            while not link.problem:
                await deferLater(reactor, 0.01)
            with self.assertRaisesRegex(LinkDown, r"is down since \d+ s"):
                while True:
                    await link.ask(b"ver?")
            port = reactor.listenTCP(number, device, interface="127.0.0.1")
            self.assertEqual(await self.patiently(link, b"ver?", reactor), b"1.2")
            await link.close()
            while device.connections:
                await deferLater(reactor, 0.01)
            await port.stopListening()

        self.on_both(session)

    def test_unix(self) -> None:
        async def session(reactor: Any) -> None:
            device = self.device(reactor)
            path = str(Path(self.folder, "a b.sock"))
            port = reactor.listenUNIX(path, device)
            link = Link(f"unix://{path.replace(' ', '%20')}", timeout=PATIENCE, reactor=reactor)
            self.assertEqual(link.name, path)
            await self.converse(reactor, link, device)
            await link.close()
            await port.stopListening()
            link.start()
            with self.assertRaises(LinkDown):
                await link.ask(b"ver?")
            await link.close()

        self.on_both(session)

    @needs_pyserial
    def test_serial(self) -> None:
        from twisted.internet.serialport import SerialPort

        async def session(reactor: Any) -> None:
            device = self.device(reactor)
            control, end = os.openpty()
            tty.setraw(end)
            path = os.ttyname(end)
            # The other end of the pair, read and written by the reactor.
            feeder = Feeder(reactor, control, device)
            link = Link(f"serial://{path}?baudrate=115200", timeout=PATIENCE, quiet=0.5, reactor=reactor)
            self.assertEqual(link.name, path)
            await self.converse(reactor, link, device)
            connection: Any = link._connection
            self.assertIsInstance(connection.transport, SerialPort)
            self.assertEqual(connection.transport._serial.baudrate, 115200)
            self.assertEqual(device.connections, 1)
            await link.close()
            self.assertIsNone(link._connection)
            # Again after close(), and after the port is gone.
            link.start()
            self.assertEqual(await link.ask(b"ver?"), b"1.2")
            feeder.stop()
            os.close(end)
            os.close(control)
            with self.assertRaises(LinkDown):
                while True:
                    await link.ask(b"ver?")
            self.assertRegex(link.problem, rf"\Alink to {path} is down since \d+ s\Z")
            await link.close()

        self.on_both(session)

    @needs_pyserial
    def test_a_serial_port_that_is_not_there(self) -> None:
        async def session(reactor: Any) -> None:
            link = Link(f"serial://{self.folder}/none", reactor=reactor)
            with self.assertLogs("discosbackend.link", "WARNING") as logged, self.assertRaises(LinkDown):
                await link.ask(b"ver?")
            self.assertIn("No such file or directory", logged.output[0])
            await link.close()

        self.on_both(session)

    def test_the_server_stops_while_an_order_waits(self) -> None:
        """`end` of an Acquisition starts a task. On asyncio it has not begun when the server would cancel its tasks."""

        async def stops(reactor: Any, polls: bool) -> None:
            device = LinkSimulator(lambda question: [Wait(0.05), b"ok"], reactor=reactor)
            backend = Gated(Link(device, reactor=reactor), polls)
            handler = DBProtocolHandler(backend, reactor=reactor)
            handler.start()
            while polls and b"temp?" not in device.questions:
                await deferLater(reactor, 0.01)
            backend.acquisition.start()
            await handler.stop()
            self.assertIn(b"gate 0", device.questions, f"polls: {polls}")
            self.assertEqual([task.state for task in backend.background_tasks], [])

        async def session(reactor: Any) -> None:
            await stops(reactor, polls=True)
            await stops(reactor, polls=False)

        self.on_both(session)

    def test_the_end_of_the_reactor_closes_the_link(self) -> None:
        outcomes: list[Any] = []
        links: list[Link] = []

        async def session(reactor: Any) -> None:
            # It accepts, and is silent.
            listening = self.enterContext(socket.create_server(("127.0.0.1", 0)))
            link = Link(f"tcp://127.0.0.1:{listening.getsockname()[1]}", timeout=PATIENCE, reactor=reactor)
            links.append(link)
            asked = threading.Thread(target=self.ask, args=(link, outcomes))
            asked.start()
            self.addCleanup(asked.join)
            while link._asked is None:
                await deferLater(reactor, 0.01)

        self.on_both(session)
        self.doCleanups()
        self.assertEqual([type(each) for each in outcomes], [LinkDown, LinkDown])
        for link in links:
            self.assertEqual(link.problem, f"link to {link.name} is closed")

    @staticmethod
    def ask(link: Link, outcomes: list[Any]) -> None:
        try:
            outcomes.append(link.ask_blocking(b"ver?"))
        except Exception as problem:  # noqa: BLE001  # it is looked at
            outcomes.append(problem)


class Feeder:
    """Connects a simulated device to a file descriptor."""

    def __init__(self, reactor: Any, descriptor: int, device: LinkSimulator) -> None:
        self.reactor = reactor
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)
        protocol: Any = device.buildProtocol(None)
        self.protocol = protocol
        protocol.makeConnection(self)
        reactor.addReader(self)

    def fileno(self) -> int:
        return self.descriptor

    def doRead(self) -> None:
        self.protocol.dataReceived(os.read(self.descriptor, 4096))

    def write(self, data: bytes) -> None:
        os.write(self.descriptor, data)

    def logPrefix(self) -> str:
        return "Feeder"

    def connectionLost(self, reason: Any) -> None:
        """Twisted's hook: reading has failed."""

    def stop(self) -> None:
        self.reactor.removeReader(self)


if __name__ == "__main__":
    unittest.main()
