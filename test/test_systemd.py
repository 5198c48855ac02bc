"""Tests of the notifications for systemd, with a notify socket of the test's own."""

from __future__ import annotations

import errno
import faulthandler
import logging
import os
import select
import signal
import socket
import sys
import tempfile
import textwrap
import threading
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.task import Clock

from discosbackend import Acquisition, Backend, DBProtocolHandler, Ticks
from discosbackend import server as server_module
from discosbackend.handlers import AlwaysOkHandler
from discosbackend.protocol import DBFactory
from discosbackend.server import run_until_stopped, tcp_endpoint
from discosbackend.systemd import NotifySocket, SystemdNotifier, notifier_from, status_of

from .in_memory import greeted, quiet
from .programs import InMemory, Runs
from .serving import Server, ask, environment
from .settings import PATIENCE, wait_until


def setUpModule() -> None:
    quiet()


class ThreadedClock(Clock):
    """A fake clock whose callFromThread() is carried out by turn()."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[Any, tuple[Any, ...]]] = []

    def callFromThread(self, function: Any, *arguments: Any) -> None:
        self.called.append((function, arguments))

    def turn(self) -> None:
        called, self.called = self.called, []
        for function, arguments in called:
            function(*arguments)


class Pace(threading.Event):
    """The event of a notifier, with a clock that the test advances: each step() ends one wait."""

    def __init__(self) -> None:
        super().__init__()
        self.periods: list[float | None] = []
        self._steps = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.periods.append(timeout)
        self._steps.acquire()
        return self.is_set()

    def step(self) -> None:
        """Let the period end, and wait until the next one has begun."""
        count = len(self.periods)
        self._steps.release()
        wait_until(lambda: len(self.periods) > count)

    def set(self) -> None:
        super().set()
        self._steps.release()


class Listening(unittest.TestCase):
    """A test with a notify socket."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = str(self.folder / "notify")
        self.systemd = self.bound(self.path)

    def bound(self, address: str) -> socket.socket:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(bound.close)
        bound.bind(address)
        bound.settimeout(PATIENCE)
        return bound

    def received(self) -> list[bytes]:
        """All messages that have arrived."""
        found = []
        while select.select([self.systemd], [], [], 0)[0]:
            found.append(self.systemd.recv(10000))
        return found

    def notifier(self, status: str = "idle", **settings: Any) -> tuple[SystemdNotifier, ThreadedClock]:
        clock = ThreadedClock()
        self.status = status
        notifier = SystemdNotifier(NotifySocket(self.path), clock, lambda: self.status, **settings)
        self.addCleanup(notifier.close)
        return notifier, clock


class NotifySocketTests(Listening):
    def test_a_path_and_an_abstract_socket(self) -> None:
        name = f"discosbackend-test-{os.getpid()}"
        abstract = self.bound(f"\0{name}")
        for address, receiver in ((self.path, self.systemd), (f"@{name}", abstract)):
            with self.subTest(address):
                sender = NotifySocket(address)
                self.addCleanup(sender.close)
                self.assertTrue(sender.send("READY=1", "STATUS=é"))
                self.assertEqual(receiver.recv(100), "READY=1\nSTATUS=é".encode())

    def test_any_other_address(self) -> None:
        for address in ("", "/", "@", "vsock:2:1234", "notify"):
            with self.subTest(address), self.assertRaisesRegex(ValueError, "neither a path nor an abstract socket"):
                NotifySocket(address)

    def test_a_failure_is_logged_once(self) -> None:
        sender = NotifySocket(str(self.folder / "nobody"))
        self.addCleanup(sender.close)
        with self.assertLogs("discosbackend.systemd", logging.WARNING) as logged:
            self.assertFalse(sender.send("READY=1"))
            self.assertFalse(sender.send("WATCHDOG=1"))
        (line,) = logged.output
        self.assertIn("cannot be notified, which is not logged again: No such file or directory: ('READY=1',)", line)

    def test_a_full_socket_does_not_wait(self) -> None:
        sender = NotifySocket(self.path)
        self.addCleanup(sender.close)
        with self.assertLogs("discosbackend.systemd", logging.WARNING):
            while sender.send("WATCHDOG=1"):
                pass
        self.received()
        self.assertTrue(sender.send("WATCHDOG=1"))


class NotifierTests(Listening):
    def test_ready_status_and_the_end(self) -> None:
        notifier, clock = self.notifier("idle, no clients")
        notifier.begin()
        notifier.stop(9.5)
        self.status = "stopping"
        clock.advance(1)
        notifier.close()
        clock.advance(10)
        self.assertEqual(
            self.received(),
            [b"READY=1\nSTATUS=idle, no clients", b"STOPPING=1\nEXTEND_TIMEOUT_USEC=9500000", b"STATUS=stopping"],
        )
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_the_status_is_sent_once_a_second_and_if_it_has_changed(self) -> None:
        notifier, clock = self.notifier()
        notifier.begin()
        self.received()
        clock.advance(1)
        self.assertEqual(self.received(), [])
        for self.status in ("a", "b", "line one\nREADY=0"):
            clock.advance(0.3)
        self.assertEqual(self.received(), [])
        clock.advance(0.1)
        self.assertEqual(self.received(), [b"STATUS=line one READY=0"])
        clock.pump([1] * 5)
        self.assertEqual(self.received(), [])

    def test_a_status_that_cannot_be_made(self) -> None:
        notifier, _ = self.notifier()
        with mock.patch.object(notifier, "_status", side_effect=ZeroDivisionError("no\nnumber")):
            notifier.begin()
        self.assertEqual(self.received(), [b"READY=1\nSTATUS=unknown: ZeroDivisionError: no number"])

    def test_what_the_socket_did_not_accept_is_sent_later(self) -> None:
        notifier, clock = self.notifier()
        busy = OSError(errno.EAGAIN, "try again")
        with (
            mock.patch.object(notifier, "_socket", mock.Mock(**{"send.return_value": False})),
            mock.patch("socket.socket.sendto", side_effect=busy),
        ):
            notifier.begin()
            notifier.stop(1)
        self.assertEqual(self.received(), [])
        clock.advance(1)
        self.assertEqual(self.received(), [b"READY=1\nSTOPPING=1\nEXTEND_TIMEOUT_USEC=1000000\nSTATUS=idle"])

    def test_a_blocked_reactor_sends_no_ping(self) -> None:
        pace = Pace()
        notifier, clock = self.notifier(watchdog=30.0, over=pace)
        notifier.begin()
        self.received()
        wait_until(lambda: pace.periods)
        self.assertEqual(pace.periods, [15.0])
        for _ in range(3):
            pace.step()
            self.assertEqual(self.received(), [])
        # It answers again: one ping, however often it was asked.
        clock.turn()
        self.assertEqual(self.received(), [b"WATCHDOG=1"])
        pace.step()
        clock.turn()
        self.assertEqual(self.received(), [b"WATCHDOG=1"])
        self.assertEqual(set(pace.periods), {15.0})

    def test_no_ping_after_the_end(self) -> None:
        pace = Pace()
        notifier, clock = self.notifier(watchdog=2.0, over=pace)
        notifier.begin()
        wait_until(lambda: pace.periods)
        pace.step()
        notifier.close()
        self.received()
        clock.turn()
        self.assertEqual(self.received(), [])

    def test_the_stacks_are_written_when_the_watchdog_aborts_the_process(self) -> None:
        enabled: list[object] = []
        with (
            mock.patch.object(faulthandler, "is_enabled", lambda: bool(enabled)),
            mock.patch.object(faulthandler, "enable", enabled.append),
            mock.patch.object(faulthandler, "disable", enabled.clear),
        ):
            for watchdog, wanted in ((None, 0), (5.0, 1)):
                notifier, _ = self.notifier(watchdog=watchdog)
                notifier.begin()
                self.assertEqual(len(enabled), wanted)
                notifier.close()
                self.assertEqual(enabled, [])
            enabled.append("by the program")
            notifier, _ = self.notifier(watchdog=5.0)
            notifier.begin()
            notifier.close()
            self.assertEqual(enabled, ["by the program"])


class EnvironmentTests(Listening):
    def watchdog_of(self, **variables: str) -> float | None:
        environ = {"NOTIFY_SOCKET": self.path, "OTHER": "1", **variables}
        notifier = notifier_from(environ, Clock(), str)
        assert notifier is not None
        notifier.close()
        self.assertEqual(environ, {"OTHER": "1"})
        return notifier._watchdog

    def test_the_watchdog(self) -> None:
        here, other = str(os.getpid()), str(os.getpid() + 1)
        for wanted, variables in (
            (None, {}),
            (30.0, {"WATCHDOG_USEC": "30000000"}),
            (30.0, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": here}),
            (None, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": other}),
            (None, {"WATCHDOG_PID": here}),
        ):
            with self.subTest(variables), self.assertNoLogs("discosbackend"):
                self.assertEqual(self.watchdog_of(**variables), wanted)

    def test_a_limit_that_is_none(self) -> None:
        for text in ("0", "-1", "soon", "1e6", "٣", "9" * 40):
            with self.subTest(text), self.assertLogs("discosbackend.systemd", logging.WARNING) as logged:
                self.assertIsNone(self.watchdog_of(WATCHDOG_USEC=text))
            self.assertIn("is not a number of microseconds", logged.output[0])

    def test_no_socket(self) -> None:
        for address, logs in (("", False), ("vsock:2:1234", True)):
            environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "5"}
            with self.subTest(address):
                if logs:
                    with self.assertLogs("discosbackend.systemd", logging.WARNING):
                        self.assertIsNone(notifier_from(environ, Clock(), str))
                else:
                    self.assertIsNone(notifier_from(environ, Clock(), str))
                self.assertEqual(environ, {})


class Instrument(Backend):
    def __init__(self) -> None:
        self.other = None
        self.acquisition = Acquisition(lambda _: None, lambda _: None, clock=Clock(), now_ticks=lambda: Ticks.of(1e9))

    def start(self, timestamp: Any = None) -> None:
        self.acquisition.start(timestamp)


class StatusTests(unittest.TestCase):
    def test_acquiring_and_clients(self) -> None:
        clock = Clock()
        backend = Instrument()
        factory = DBFactory(DBProtocolHandler(backend, reactor=clock), reactor=clock)
        server = server_module.Server(mock.Mock(), factory)
        self.assertEqual(status_of(server), "idle, no clients")
        connection = greeted(factory)
        self.assertEqual(status_of(server), "idle, 1 client")
        backend.start(1e9 + 0.5)
        self.assertEqual(status_of(server), "idle, start at 2001-09-09 01:46:40.5000000 UT, 1 client")
        backend.start()
        other = greeted(factory)
        self.assertEqual(status_of(server), "acquiring, 2 clients")
        factory.stopping = True
        self.assertEqual(status_of(server), "stopping, acquiring, 2 clients")
        for each in (connection, other):
            each.lose()

    def test_a_server_without_acquisition(self) -> None:
        server = server_module.Server(mock.Mock(), DBFactory(AlwaysOkHandler(), reactor=Clock()))
        self.assertEqual(status_of(server), "no clients")


class RunUntilStoppedTests(Listening):
    """run_until_stopped(), on which run_server() and the program are based."""

    def run_in_memory(self, environ: Mapping[str, str]) -> InMemory:
        reactor = InMemory()
        factory = DBFactory(AlwaysOkHandler(), reactor=reactor)
        server = server_module.Server(tcp_endpoint(reactor, 8978, "127.0.0.1"), factory, stop_timeout=20)
        with mock.patch.dict(os.environ, environ), mock.patch("discosbackend.server.announce"):
            with self.assertRaises(Runs):
                run_until_stopped(server, reactor, watchdog=0)
            self.assertNotIn("NOTIFY_SOCKET", os.environ)
            self.assertNotIn("WATCHDOG_USEC", os.environ)
        return reactor

    def test_it_reports_when_it_listens(self) -> None:
        self.run_in_memory({"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "60000000"})
        self.assertEqual(self.received(), [b"READY=1\nSTATUS=no clients"])

    def test_a_socket_that_nobody_reads_harms_nothing(self) -> None:
        with self.assertLogs("discosbackend.systemd", logging.WARNING) as logged:
            self.run_in_memory({"NOTIFY_SOCKET": str(self.folder / "nobody")})
        self.assertEqual(len(logged.output), 1)

    def test_nothing_is_imported_without_systemd(self) -> None:
        with mock.patch.dict(sys.modules):
            del sys.modules["discosbackend.systemd"]
            self.run_in_memory({})
            self.assertNotIn("discosbackend.systemd", sys.modules)
            self.run_in_memory({"NOTIFY_SOCKET": self.path})
            self.assertIn("discosbackend.systemd", sys.modules)


BLOCKED = """
    import os, sys
    from discosbackend import Backend, DBProtocolHandler, run_server

    class Mine(Backend):
        def get_filename(self):
            return os.environ.get("NOTIFY_SOCKET", "none") + os.environ.get("WATCHDOG_USEC", "none")

        def get_tpi(self):
            # Blocks the reactor until the test opens the pipe too.
            open("pipe").read()
            return [1.0]

    run_server(0, DBProtocolHandler(Mine()), "127.0.0.1")
"""


class ProcessTests(Listening):
    """run_server() in a process of its own."""

    def until(self, wanted: bytes) -> bytes:
        """The first message that contains this line."""
        while True:
            message = self.systemd.recv(10000)
            if wanted in message.split(b"\n"):
                return message

    PERIOD = 0.1

    def serve(self) -> Server:
        os.mkfifo(self.folder / "pipe")
        variables = {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": f"{2e6 * self.PERIOD:.0f}"}
        command = [sys.executable, "-c", textwrap.dedent(BLOCKED)]
        server = Server(command, self.folder, {**environment(), **variables})
        self.addCleanup(server.end)
        return server

    def test_the_stacks_of_a_server_that_the_watchdog_aborts(self) -> None:
        server = self.serve()
        self.until(b"READY=1")
        with server.connect() as connection:
            connection.sendall(b"?get-tpi\r\n")
            with open(self.folder / "pipe", "wb"):
                self.assertEqual(server.stop(signal.SIGABRT), -signal.SIGABRT)
        self.assertIn("Fatal Python error: Aborted", server.log())
        self.assertRegex(server.log(), r"line \d+ in get_tpi\n")

    def test_a_server_that_is_blocked_and_stopped(self) -> None:
        server = self.serve()
        self.assertIn(b"STATUS=no clients", self.until(b"READY=1"))
        self.until(b"WATCHDOG=1")
        with server.connect() as connection:
            self.until(b"STATUS=1 client")
            self.assertEqual(ask(connection, b"?get-filename"), [b"!get-filename,ok,nonenone\r\n"])
            connection.sendall(b"?get-tpi\r\n")
            # Opening it succeeds as soon as the method reads it.
            writer = wait_until(self.writer)
            assert writer is not None
            self.received()
            self.systemd.settimeout(10 * self.PERIOD)
            with self.assertRaises(TimeoutError):
                # The method has opened the pipe, and waits for its end.
                self.systemd.recv(100)
            self.systemd.settimeout(PATIENCE)
            os.close(writer)
            self.until(b"WATCHDOG=1")
        server.process.send_signal(signal.SIGTERM)
        self.assertIn(b"EXTEND_TIMEOUT_USEC=12000000", self.until(b"STOPPING=1"))
        self.assertEqual(server.process.wait(PATIENCE), 0, server.log())

    def writer(self) -> int | None:
        try:
            return os.open(self.folder / "pipe", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as problem:
            self.assertEqual(problem.errno, errno.ENXIO)
            return None


if __name__ == "__main__":
    unittest.main()
