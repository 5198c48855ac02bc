"""Tests of what SIGUSR1 logs: the state of the server, and the stacks of its threads."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tempfile
import textwrap
import threading
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from discosbackend import Acquisition, Backend, DBProtocolHandler, blocking
from discosbackend import server as server_module
from discosbackend.coroutines import deferred_of, future_of
from discosbackend.forced_exit import ForcedExit
from discosbackend.handlers import AlwaysOkHandler
from discosbackend.protocol import DBFactory
from discosbackend.server import _stop_signals
from discosbackend.signals import STATE, kept
from discosbackend.state_report import StateReport, stacks, state_of

from .in_memory import greeted, quiet
from .serving import Server, ask, environment
from .settings import PATIENCE, wait_until


def setUpModule() -> None:
    quiet()


class ThreadedClock(Clock):
    """A fake clock whose callFromThread() is carried out by turn()."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[Any] = []

    def callFromThread(self, function: Any, *arguments: Any) -> None:
        self.called.append((function, arguments))

    def turn(self) -> None:
        called, self.called = self.called, []
        for function, arguments in called:
            function(*arguments)


class Instrument(Backend):
    def __init__(self) -> None:
        self.acquisition = Acquisition(lambda _: None, lambda _: None, clock=Clock(), now_ticks=lambda: 10**16)
        self.configured: Deferred[None] = Deferred()
        self.go = threading.Event()

    def set_configuration(self, configuration: str) -> Deferred[None]:
        return self.configured

    def start(self, timestamp: Any = None) -> None:
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Any = None) -> None:
        self.acquisition.stop(timestamp)

    @blocking(lock="serial")
    def get_rms(self) -> list[float]:
        self.go.wait(PATIENCE)
        return [1.0]


class StateTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = ThreadedClock()
        self.backend = Instrument()
        self.factory = DBFactory(DBProtocolHandler(self.backend, reactor=self.clock), reactor=self.clock)
        self.server = server_module.Server(mock.Mock(), self.factory)

    def state(self) -> list[str]:
        return state_of(self.server, self.clock).splitlines()

    def test_an_idle_server(self) -> None:
        self.assertEqual(
            self.state(),
            [
                f"server: Instrument in process {os.getpid()}, running, ThreadedClock, 0 delayed calls",
                "acquisition: idle",
                "lanes, threads and locks: none",
                "connections: none",
                "background tasks: none",
                "tasks of asyncio: none",
            ],
        )

    def test_a_lane_with_its_holder_and_the_commands_that_wait(self) -> None:
        first, second = greeted(self.factory), greeted(self.factory)
        with mock.patch("discosbackend.connection.perf_counter", self.clock.seconds):
            first.send(b"?set-configuration,SK00\r\n?status\r\n?status\r\n")
            second.send(b"?start\r\n")
            self.clock.advance(12.34)
            state = self.state()
        lines = [line for line in state if line.startswith("lanes")]
        wanted = "device: held by set-configuration for 12.3 s; waiting: start"
        self.assertEqual(lines, [f"lanes, threads and locks: {wanted}"])
        at = state.index("connections: 2")
        peer = first.protocol.peer
        self.assertEqual(
            sorted(state[at + 1 : at + 3]),
            [
                f"  {peer}, connection 1, has waited 12.3 s for the reply to set-configuration, 2 more lines wait",
                f"  {peer}, connection 2, has waited 12.3 s for the reply to start",
            ],
        )
        self.backend.configured.callback(None)
        self.clock.advance(1)
        self.assertIn("lanes, threads and locks: none", self.state())
        self.assertIn("acquisition: acquiring", self.state())
        for each in (first, second):
            each.lose()

    def test_a_thread_that_is_overdue(self) -> None:
        connection = greeted(self.factory)
        connection.send(b"?get-rms\r\n")
        self.clock.advance(5)
        state = self.state()
        at = state.index("lanes, threads and locks: 2")
        runs = "held by get-rms for 5.0 s"
        names = ("device", "lock serial")
        self.assertEqual(state[at + 1 : at + 3], [f"  {name}: {runs}; waiting: none" for name in names])
        self.clock.pump([1.0] * 60)
        self.assertIn("for 65.0 s, overdue; waiting: none", self.state()[at + 1])
        self.backend.go.set()
        wait_until(lambda: self.clock.called)
        self.clock.turn()
        self.assertIn("lanes, threads and locks: none", self.state())
        connection.lose()

    def test_background_tasks(self) -> None:
        async def poll(deferred: Deferred[None]) -> None:
            await deferred

        failing: Deferred[None] = Deferred()
        self.backend.spawn(poll(Deferred()), "poll")
        self.backend.spawn(poll(failing), "failing")
        failing.errback(ZeroDivisionError("no number"))
        state = self.state()
        at = state.index("background tasks: 2")
        self.assertEqual(
            state[at + 1 : at + 3],
            [
                "  <background task failing, failed: ZeroDivisionError: no number>",
                "  <background task poll, running>",
            ],
        )

    def test_a_timed_start(self) -> None:
        self.backend.start(1e9 + 5)
        self.assertIn("acquisition: idle, start at 2001-09-09 01:46:45.0000000 UT", self.state())
        self.backend.acquisition._last_lateness = 0.000123
        self.assertRegex("\n".join(self.state()), "UT, the last timed start or stop was 0.000123 s late")

    def test_where_the_tasks_of_asyncio_wait(self) -> None:
        async def ask_the_device(event: asyncio.Event) -> None:
            await event.wait()

        async def poll(event: asyncio.Event) -> None:
            await ask_the_device(event)

        async def program() -> list[str]:
            event = asyncio.Event()
            done = deferred_of(poll(event), "poll")
            await asyncio.sleep(0)
            with mock.patch("discosbackend.state_report.loop_of", lambda _: asyncio.get_running_loop()):
                state = self.state()
            event.set()
            await future_of(done)
            return state

        state = asyncio.run(program())
        at = state.index("tasks of asyncio: 2")
        (line,) = [line for line in state[at + 1 :] if line.startswith("  poll, ")]
        self.assertRegex(line, r"^  poll, waits in Event\.wait\(\) at line \d+ of .*asyncio/locks\.py$")

    def test_a_part_that_fails_leaves_the_others(self) -> None:
        with mock.patch.object(DBFactory, "stopping", property(lambda _: 1 / 0), create=True):
            state = self.state()
        self.assertEqual(
            state[:2], ["server: cannot be shown: ZeroDivisionError: division by zero", "acquisition: idle"]
        )

    def test_long_lists_are_shortened(self) -> None:
        connections = [greeted(self.factory) for _ in range(105)]
        state = self.state()
        at = state.index("connections: 105")
        self.assertEqual(state[at + 101], "  and 5 more")
        self.assertEqual(state[at + 102], "background tasks: none")
        for connection in connections:
            connection.lose()

    def test_a_handler_without_a_backend(self) -> None:
        self.server = server_module.Server(mock.Mock(), DBFactory(AlwaysOkHandler(), reactor=self.clock))
        self.assertIn("AlwaysOkHandler in process", self.state()[0])
        self.assertEqual(self.state()[1], "acquisition: none")


class StackTests(unittest.TestCase):
    def test_each_thread_with_its_name(self) -> None:
        go = threading.Event()

        def wait_for_go() -> None:
            go.wait(PATIENCE)

        thread = threading.Thread(target=wait_for_go, name="waiting-one")
        thread.start()
        try:
            wait_until(lambda: "wait_for_go" in stacks())
            text = stacks()
        finally:
            go.set()
            thread.join()
        _, _, rest = text.partition("thread waiting-one:\n")
        places = rest.partition("thread ")[0].splitlines()
        # The innermost function first.
        self.assertIn("Condition.wait() at line", places[0])
        self.assertRegex(rest, rf"wait_for_go\(\) at line \d+ of {__file__}")
        self.assertTrue(text.startswith("thread MainThread:\n"), text)
        self.assertNotIn("_bootstrap", text)
        self.assertIn(f"{self.id().rpartition('.')[2]}() at line", text)
        self.assertNotIn("state_report.py", text.replace(__file__, ""))

    def test_a_deep_recursion_is_shortened(self) -> None:
        def deep(level: int) -> str:
            return deep(level - 1) if level else stacks()

        text = deep(300)
        self.assertEqual(text.count("deep() at line"), 100)
        self.assertRegex(text, r"\n  and \d+ more")


class RequestTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = ThreadedClock()
        server = server_module.Server(mock.Mock(), DBFactory(AlwaysOkHandler(), reactor=self.clock))
        self.report = StateReport(server, self.clock, patience=PATIENCE)
        self.logged: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.logged.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("discosbackend.state_report")
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)

    def request(self) -> None:
        self.report.request()
        wait_until(lambda: self.clock.called)

    def idle(self) -> bool:
        return not any(thread.name == "discos-state-report" for thread in threading.enumerate())

    def test_a_reactor_that_answers(self) -> None:
        for count in (2, 4):
            self.request()
            self.clock.turn()
            wait_until(self.idle)
            self.assertEqual(len(self.logged), count)
        self.assertRegex(self.logged[0], "^SIGUSR1: the state of the server:\nserver: AlwaysOkHandler in process")
        self.assertRegex(self.logged[1], "^SIGUSR1: the threads:\n")

    def test_a_reactor_that_is_blocked(self) -> None:
        self.report._patience = 0.01
        for count in (1, 2):
            self.request()
            wait_until(self.idle)
            self.assertEqual(len(self.logged), count)
            self.assertRegex(self.logged[-1], "^SIGUSR1: the reactor is blocked for 0.01 s, .*; the threads:\nthread ")
        # It was asked once, and answers when it can.
        self.assertEqual(len(self.clock.called), 1)
        self.clock.turn()
        self.assertEqual(len(self.logged), 4)
        self.assertIn("the state of the server", self.logged[2])

    def test_many_signals_at_the_same_time(self) -> None:
        self.request()
        for _ in range(100):
            self.report.request()
        self.clock.turn()
        wait_until(self.idle)
        self.assertEqual(len(self.logged), 2)


class SignalTests(unittest.TestCase):
    """Which signal requests the state."""

    def requests(self, handler: Any) -> tuple[int, Any]:
        """How often one signal requests the state, if the program has this handler; and the handler meanwhile."""
        server = server_module.Server(mock.Mock(), DBFactory(AlwaysOkHandler(), reactor=ThreadedClock()))
        with (
            kept(),
            mock.patch("discosbackend.server.ForcedExit") as forced,
            mock.patch("discosbackend.state_report.StateReport") as report,
        ):
            signal.signal(STATE, handler)
            with _stop_signals(server, mock.Mock()) as signals:
                # As when the reactor runs.
                signals.install()
                forced.call_args.kwargs["state_wanted"]()
                return report.return_value.request.call_count, signal.getsignal(STATE)

    def test_a_handler_of_the_programs_own_and_an_ignored_signal_stay(self) -> None:
        before = signal.getsignal(STATE)
        for handler in (lambda *_: None, signal.SIG_IGN):
            self.assertEqual(self.requests(handler), (0, handler))
        count, handler = self.requests(signal.SIG_DFL)
        self.assertEqual(count, 1)
        self.assertIsNone(handler(STATE, None))
        self.assertIs(signal.getsignal(STATE), before)

    def test_the_thread_of_the_signals_outlives_a_failure(self) -> None:
        forced = ForcedExit(1.0, state_wanted=mock.Mock(side_effect=RuntimeError("can't start new thread")))
        forced.hear()
        self.addCleanup(forced.close)
        with self.assertLogs("discosbackend.forced_exit", logging.ERROR) as logged:
            for _ in range(2):
                forced._written_to.send(bytes([STATE]))
            wait_until(lambda: len(logged.output) == 2)
        self.assertIn("SIGUSR1: the state cannot be logged", logged.output[0])


BACKEND = """
    import ctypes, signal, sys

    from discosbackend import Backend

    class Mine(Backend):
        def get_tpi(self):
            # Until the test has opened the pipe too, and closed it.
            open("pipe").read()
            return [1.0]

        def get_tp0(self):
            # No signal handler can run meanwhile, but other threads can.
            mutex = ctypes.create_string_buffer(64)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


class ProcessTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def serve(self, before: str = "", *command: str) -> Server:
        (self.folder / "mine.py").write_text(textwrap.dedent(BACKEND), encoding="utf-8")
        code = f"{before}\nfrom discosbackend import DBProtocolHandler, run_server\nfrom mine import Mine\n"
        code += "run_server(0, DBProtocolHandler(Mine()), '127.0.0.1')"
        server = Server([*command, sys.executable, "-c", code], self.folder, environment())
        self.addCleanup(server.end)
        return server

    LOG = "import logging; logging.basicConfig(level='INFO')"

    def wait_for_log(self, server: Server, text: str) -> None:
        wait_until(lambda: text in server.log(), text)

    def test_a_server_that_answers_and_one_that_is_blocked(self) -> None:
        os.mkfifo(self.folder / "pipe")
        server = self.serve(self.LOG)
        with server.connect() as connection, server.connect() as other:
            server.process.send_signal(signal.SIGUSR1)
            self.wait_for_log(server, "SIGUSR1: the threads:")
            self.assertRegex(server.log(), r"server: Mine in process \d+, running, \w+Reactor, \d+ delayed calls")
            self.assertIn("connections: 2\n", server.log())
            self.assertEqual(ask(connection, b"?version"), [b"!version,ok,1.4\r\n"])
            connection.sendall(b"?get-tpi\r\n")
            # Opening it waits for the method.
            with open(self.folder / "pipe", "wb"):
                server.process.send_signal(signal.SIGUSR1)
                self.wait_for_log(server, "SIGUSR1: the reactor is blocked for 1 s")
                self.wait_for_log(server, "Mine.get_tpi() at line")
                self.assertEqual(server.log().count("the state of the server"), 1)
            wait_until(lambda: server.log().count("the state of the server") == 2)
            connection.sendall(b"?get-tp0\r\n")
            self.assertEqual(server.process.poll(), None)
            wait_until(lambda: self.stacks_in(server, "Mine.get_tp0() at line"))
            other.close()
        self.assertNotIn("Traceback", server.log())

    def stacks_in(self, server: Server, text: str) -> bool:
        server.process.send_signal(signal.SIGUSR1)
        return text in server.log()

    def test_a_handler_of_the_programs_own_stays(self) -> None:
        own = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('own', flush=True))"
        server = self.serve(f"{self.LOG}\n{own}")
        with server.connect() as connection:
            server.process.send_signal(signal.SIGUSR1)
            self.assertEqual(server.next_line(), "own")
            self.assertEqual(ask(connection, b"?version"), [b"!version,ok,1.4\r\n"])
        self.assertEqual(server.stop(signal.SIGTERM), 0)
        self.assertNotIn("SIGUSR1", server.log())

    def test_one_that_was_ignored_stays_ignored(self) -> None:
        server = self.serve(self.LOG, "sh", "-c", "trap '' USR1; exec \"$@\"", "sh")
        with server.connect() as connection:
            server.process.send_signal(signal.SIGUSR1)
            self.assertEqual(ask(connection, b"?version"), [b"!version,ok,1.4\r\n"])
        self.assertEqual(server.stop(signal.SIGTERM), 0)
        self.assertNotIn("SIGUSR1", server.log())


if __name__ == "__main__":
    unittest.main()
