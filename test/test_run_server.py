"""Tests of run_server in processes, in threads and called twice: what it restores, and its errors."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import socket
import tempfile
import textwrap
import time
import unittest
from pathlib import Path
from typing import Any, cast
from unittest import mock

from discosbackend import Acquisition, Backend, DBProtocolHandler, Ticks, blocking, command, reactors, run_server
from discosbackend.errors import HandlerException
from discosbackend.grammar import parse_message
from discosbackend.handlers import AlwaysOkHandler
from discosbackend.simulator import INSTRUMENTS, SimulatedBackend

from .serving import ask, connected, read_line, refusing, run_python, served_by
from .settings import PATIENCE

METHODS = ("fork", "spawn", "forkserver")


class Mine(Backend):
    """A backend with everything that it may have before it is served, such as an Acquisition and own commands."""

    def __init__(self, folder: str = "") -> None:
        self.folder = folder
        self.acquisition = Acquisition(self.begin, self.end)

    def begin(self, instant: Ticks) -> None:
        self.told("begin")

    def end(self, instant: Ticks) -> None:
        self.told("end")

    def told(self, what: str) -> None:
        with open(Path(self.folder, "calls"), "a", encoding="utf-8") as file:
            file.write(f"{what}\n")

    def start(self, timestamp: Any = None) -> None:
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Any = None) -> None:
        self.acquisition.stop(timestamp)

    @blocking
    def get_rms(self) -> list[float]:
        return [1.5]

    async def get_tp0(self) -> list[float]:
        return [2.5]

    def get_tpi(self) -> list[float]:
        return [3.5]

    @command("own-command")
    def own(self) -> str:
        return "own"


class Plain:
    """A backend as written for the original package."""

    def get_configuration(self) -> str:
        return "TP"


def doubled(texts: list[str]) -> list[str]:
    return texts * 2


class Strict(DBProtocolHandler):
    """A handler of the user's own, with its own attributes."""

    def __init__(self, backend: Any, motto: str) -> None:
        super().__init__(backend, command_timeout=5.0)
        self.motto = motto

    def handle(self, message: Any) -> Any:
        if message.name == "get-filename":
            raise HandlerException(self.motto)
        return super().handle(message)


class PickleTests(unittest.TestCase):
    """Handlers and backends can be pickled, to be served by another process."""

    def sent(self, value: Any) -> Any:
        # This import, which every server does, changes how Twisted pickles methods.
        __import__("twisted.persisted.styles")
        return pickle.loads(pickle.dumps(value))

    def test_it_answers_as_before(self) -> None:
        for backend in (Mine(), Plain()):
            handler = DBProtocolHandler(backend, command_timeout=5.0, timeouts={"get-tpi": None}, reply_limit=300)
            for made in (self.sent(handler), copy.copy(handler), copy.deepcopy(handler)):
                with self.subTest(type(backend).__name__):
                    self.assertIsNot(made, handler)
                    self.assertIs(type(made.backend), type(backend))
                    self.assertEqual(made.reply_limit, 300)
                    self.assertEqual(set(made.commands), set(handler.commands))
                    for name in handler.commands:
                        before: Any = handler.commands[name]
                        after: Any = made.commands[name]
                        self.assertEqual((after.row, after.limit), (before.row, before.limit))

    def test_each_has_a_backend_and_locks_of_its_own(self) -> None:
        handler = DBProtocolHandler(Mine())
        made = self.sent(handler)
        self.assertIs(made.commands["get-tpi"].method.__self__, made.backend)
        original: Any = handler.commands["start"]
        self.assertIsNot(made.commands["start"].locks[0], original.locks[0])
        self.assertIs(made.commands["start"].locks[0], made.commands["stop"].locks[0])
        with tempfile.TemporaryDirectory() as folder:
            made.backend.folder = folder
            made.handle(parse_message("?start"))
            self.assertEqual((made.backend.acquisition.acquiring, handler.backend.acquisition.acquiring), (True, False))

    def test_commands_that_were_added_renamed_and_removed(self) -> None:
        handler = DBProtocolHandler(Mine())
        handler.commands["double"] = doubled
        handler.commands["get-power"] = handler.commands["get-tpi"]
        handler.commands["get-tpi"] = doubled
        del handler.commands["time"]
        made = self.sent(handler)
        for line, wanted in (
            ("?double,1,2", "!double,ok,1,2,1,2"),
            ("?get-power", "!get-power,ok,3.5"),
            ("?get-tpi,7", "!get-tpi,ok,7,7"),
            ("?own-command", "!own-command,ok,own"),
        ):
            self.assertEqual(str(made.handle(parse_message(line))), wanted)
        with self.assertRaisesRegex(HandlerException, "invalid command 'time'"):
            made.handle(parse_message("?time"))

    def test_a_handler_of_ones_own(self) -> None:
        made = self.sent(Strict(Mine(), "no names"))
        self.assertIsInstance(made, Strict)
        with self.assertRaisesRegex(HandlerException, "no names"):
            made.handle(parse_message("?get-filename"))
        self.assertIsInstance(self.sent(AlwaysOkHandler()), AlwaysOkHandler)

    def test_simulated_instruments(self) -> None:
        for name, instrument in INSTRUMENTS.items():
            for value in (SimulatedBackend(name, seed=7), DBProtocolHandler(SimulatedBackend(name, seed=7))):
                with self.subTest(name, kind=type(value).__name__):
                    made = self.sent(value)
                    backend = made if isinstance(made, SimulatedBackend) else made.backend
                    self.assertEqual((backend.instrument, backend._seed), (instrument, 7))

    def test_a_simulated_instrument_of_ones_own(self) -> None:
        made = self.sent(OfOnesOwn(colour="red", seed=7))
        self.assertIs(type(made), OfOnesOwn)
        self.assertEqual((made.colour, made._seed, made.instrument.name), ("red", 7, "totalpower"))


class OfOnesOwn(SimulatedBackend, instrument="totalpower"):
    def __init__(self, *, colour: str = "blue", **settings: Any) -> None:
        super().__init__(**settings)
        self.colour = colour


class MultiprocessingTests(unittest.TestCase):
    """Tests of `Process(target=run_server, args=(port, handler))` with every start method."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self, method: str, handler: Any) -> tuple[Any, int]:
        """Start a process with a server. Return the process and the port."""
        context: Any = multiprocessing.get_context(method)
        port = self.enterContext(refusing())
        process = context.Process(target=run_server, args=(port, handler, "127.0.0.1"))
        process.start()

        def end() -> None:
            process.kill()
            process.join(PATIENCE)

        self.addCleanup(end)
        return process, port

    def test_each_start_method(self) -> None:
        # As in a program whose backend needs the reactor.
        __import__("twisted.internet.reactor")
        for method in METHODS:
            with self.subTest(method):
                process, port = self.start(method, DBProtocolHandler(Mine(self.folder)))
                with connected(port, process) as connection:
                    self.assertEqual(
                        ask(connection, b"?start", b"?get-rms", b"?get-tp0", b"?own-command"),
                        [
                            b"!start,ok\r\n",
                            b"!get-rms,ok,1.5\r\n",
                            b"!get-tp0,ok,2.5\r\n",
                            b"!own-command,ok,own\r\n",
                        ],
                    )
                process.terminate()
                process.join(PATIENCE)
                self.assertEqual(process.exitcode, 0)
                told = Path(self.folder, "calls")
                self.assertEqual(told.read_text(encoding="utf-8"), "begin\nend\n")
                told.unlink()

    def test_several_that_were_forked_do_not_share_their_reactor(self) -> None:
        """With a shared reactor, a process would receive wake-ups of another, and thread results would be late."""
        __import__("twisted.internet.reactor")
        started = [self.start("fork", DBProtocolHandler(Mine(self.folder))) for _ in range(3)]
        connections = [connected(port, process) for process, port in started]
        for connection in connections:
            self.addCleanup(connection.close)
        took = []
        for _ in range(30):
            for connection in connections:
                began = time.monotonic()
                replies = ask(connection, b"?get-rms")
                if replies != [b"!get-rms,ok,1.5\r\n"]:
                    # Seen once in many runs, on Python 3.13: the stacks of its threads say where it hangs.
                    for process, _ in started:
                        os.kill(cast(int, process.pid), signal.SIGABRT)
                        process.join(PATIENCE)
                    self.fail(f"{replies!r}: see the stacks in the output")
                took.append(time.monotonic() - began)
        took.sort()
        # With a shared reactor, about every third wake-up goes to another process, and the reply is up to 1 s late.
        self.assertLess(sum(took[: len(took) * 9 // 10]), 5.0)
        for process, _ in started:
            process.terminate()
        for process, _ in started:
            process.join(PATIENCE)
            self.assertEqual(process.exitcode, 0)

    def test_what_waited_in_the_reactor_before_the_fork_goes_on_in_the_child(self) -> None:
        for kind in ("epoll", "poll", "select"):
            with self.subTest(kind):
                self.check_reactor(kind)

    def check_reactor(self, kind: str) -> None:
        code = f"""
            import multiprocessing, sys
            from twisted.internet import {kind}reactor
            {kind}reactor.install()
            from twisted.internet import reactor
            from twisted.internet.protocol import Factory, Protocol
            from discosbackend import Backend, DBProtocolHandler, run_server

            class Other(Protocol):
                def connectionMade(self):
                    self.transport.write(b"other\\n")

            class Mine(Backend):
                def __init__(self):
                    self.beats = 0
                    reactor.callLater(0, self.beat)
                    reactor.callWhenRunning(self.beat)
                    self.other = reactor.listenTCP(0, Factory.forProtocol(Other), interface="127.0.0.1")

                def get_rms(self):
                    return [self.other.getHost().port]

                def beat(self):
                    self.beats += 1

                def get_integration(self):
                    return self.beats

            if __name__ == "__main__":
                process = multiprocessing.get_context("fork").Process(
                    target=run_server, args=(0, DBProtocolHandler(Mine()), "127.0.0.1")
                )
                process.start()
                process.join()
                sys.exit(process.exitcode)
        """
        with served_by(textwrap.dedent(code)) as server:
            with server.connect() as connection:
                self.assertEqual(ask(connection, b"?get-integration"), [b"!get-integration,ok,2\r\n"])
                port = float(ask(connection, b"?get-rms")[0].split(b",")[2])
            with socket.create_connection(("127.0.0.1", int(port)), PATIENCE) as connection:
                self.assertEqual(read_line(connection), b"other\n")
            (child,) = children(server.process.pid)
            signal.pidfd_send_signal(child, signal.SIGTERM)
            self.assertEqual(server.process.wait(PATIENCE), 0, server.log())


class ReactorTests(unittest.TestCase):
    def test_one_that_cannot_be_parted_from_the_parents(self) -> None:
        """Such as the asyncio reactor, whose event loop has its own poller."""

        class Other:
            running = False

        with mock.patch.object(reactors, "_shares_reactor", {os.getpid()}):
            with self.assertLogs("discosbackend.reactors", "WARNING") as logs:
                reactors.own_after_fork(Other())
            reactors.own_after_fork(Other())
        (line,) = logs.output
        self.assertRegex(line, "Other was made before this process was forked.*'spawn'")


def children(pid: int) -> list[int]:
    """Return a process descriptor for each child process."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [os.pidfd_open(int(each)) for each in listed]


class AfterwardsTests(unittest.TestCase):
    """Tests of the state of a process after run_server, in processes in which nothing else has run."""

    def run_code(self, code: str) -> str:
        done = run_python("-c", textwrap.dedent(code))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    HEAD = """
        import os, signal, socket, threading
        from discosbackend import Backend, DBProtocolHandler, run_server
        from twisted.internet import reactor
        from twisted.internet.error import CannotListenError

        handler = DBProtocolHandler(Backend())
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
        ours, other = socket.socketpair()
        ours.setblocking(False)
        signal.set_wakeup_fd(ours.fileno())

        def own(number, frame):
            print("own", signal.Signals(number).name)
    """

    def test_handlers_of_signals_are_those_of_before(self) -> None:
        for before in ("own", "signal.SIG_DFL", "signal.SIG_IGN"):
            with self.subTest(before):
                found = self.run_code(
                    textwrap.dedent(self.HEAD)
                    + textwrap.dedent(
                        f"""
                        for number in numbers:
                            signal.signal(number, {before})
                        reactor.callWhenRunning(reactor.stop)
                        run_server(0, handler, "127.0.0.1")
                        print([signal.getsignal(number) == {before} for number in numbers])
                        print(signal.set_wakeup_fd(-1) == ours.fileno())
                        """
                    )
                )
                self.assertEqual(found.splitlines()[1:], ["[True, True, True, True, True]", "True"])

    def test_the_timers_use_a_clock_that_is_never_stepped(self) -> None:
        found = self.run_code(
            textwrap.dedent(self.HEAD)
            + textwrap.dedent(
                """
                import time
                reactor.callWhenRunning(lambda: print(reactor.seconds is time.monotonic))
                reactor.callLater(0.01, reactor.stop)
                run_server(0, handler, "127.0.0.1")
                """
            )
        )
        self.assertIn("True", found.splitlines())

    def test_also_when_it_cannot_listen(self) -> None:
        found = self.run_code(
            textwrap.dedent(self.HEAD)
            + textwrap.dedent(
                """
                for number in numbers:
                    signal.signal(number, own)
                taken = socket.create_server(("127.0.0.1", 0))
                try:
                    run_server(taken.getsockname()[1], handler, "127.0.0.1")
                except CannotListenError:
                    print([signal.getsignal(number) is own for number in numbers])
                    print(signal.set_wakeup_fd(-1) == ours.fileno())
                # The reactor has not run, so run_server may be called again.
                reactor.callWhenRunning(reactor.stop)
                run_server(0, handler, "127.0.0.1")
                print(threading.active_count())
                """
            )
        )
        self.assertEqual(found.splitlines()[:2], ["[True, True, True, True, True]", "True"])
        self.assertEqual(found.splitlines()[3], "1")

    def test_a_second_call_says_why_not_before_it_binds(self) -> None:
        found = self.run_code(
            textwrap.dedent(self.HEAD)
            + textwrap.dedent(
                """
                signal.signal(signal.SIGTERM, own)
                reactor.callWhenRunning(reactor.stop)
                run_server(0, handler, "127.0.0.1")
                bound = []
                reactor.listenTCP = lambda *arguments, **others: bound.append(arguments)
                try:
                    run_server(0, handler, "127.0.0.1")
                except RuntimeError as problem:
                    print(problem)
                print(bound, signal.getsignal(signal.SIGTERM) is own)
                """
            )
        )
        why, rest = found.splitlines()[1:]
        self.assertRegex(why, "has run in this process already, and it runs only once: .*multiprocessing.*listen")
        self.assertEqual(rest, "[] True")

    def test_a_call_while_it_runs(self) -> None:
        found = self.run_code(
            textwrap.dedent(self.HEAD)
            + textwrap.dedent(
                """
                def again():
                    try:
                        run_server(0, handler, "127.0.0.1")
                    except RuntimeError as problem:
                        print(problem)
                    reactor.stop()

                reactor.callWhenRunning(again)
                run_server(0, handler, "127.0.0.1")
                """
            )
        )
        self.assertIn("is running in this process already", found)

    def test_in_another_thread(self) -> None:
        found = self.run_code(
            textwrap.dedent(self.HEAD)
            + textwrap.dedent(
                """
                import logging, sys
                from twisted.logger import STDLibLogObserver, globalLogBeginner

                logging.basicConfig(level="WARNING", stream=sys.stderr)
                globalLogBeginner.beginLoggingTo([STDLibLogObserver()], redirectStandardIO=False)
                listening = threading.Event()
                reactor.callWhenRunning(reactor.callLater, 0.01, listening.set)
                before = [signal.getsignal(number) for number in numbers]
                thread = threading.Thread(target=run_server, args=(0, handler, "127.0.0.1"))
                thread.start()
                listening.wait()
                print([signal.getsignal(number) for number in numbers] == before)
                reactor.callFromThread(reactor.stop)
                thread.join()
                print("ended")
                """
            )
        )
        told = found.splitlines()
        self.assertEqual(len(told), 3, told)
        self.assertIn("True", told)
        self.assertEqual(told[-1], "ended")


if __name__ == "__main__":
    unittest.main()
