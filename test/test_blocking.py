"""Tests of methods that block: the handler's threads, what shares one, what shares a result, what is overdue.

The threads are real. What they wait for is an Event that a test sets, and what they report arrives when the
test drains the reactor: nothing sleeps, and nothing depends on who is faster.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
import unittest
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, maybeDeferred, succeed

from discosbackend import Argument, Backend, BackendError, blocking, command
from discosbackend.grammar import Message
from discosbackend.handlers import DBProtocolHandler, HandlerException
from discosbackend.scheduler import Worker

from .clients import TICKS, Client, FakeReactor, request
from .in_memory import GENERIC, quiet
from .settings import PATIENCE


def setUpModule() -> None:
    """What is logged here is expected; a test that cares looks with assertLogs."""
    quiet()


class Stop:
    """Where a thread stops until a test lets it go."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def here(self) -> None:
        """The thread's side."""
        self._reached.set()
        assert self._open.wait(PATIENCE), "nobody let the thread go"

    def reached(self) -> None:
        """Wait until the thread is here."""
        assert self._reached.wait(PATIENCE), "no thread came"

    def open(self) -> None:
        """Let it go."""
        self._open.set()


class Hardware(Backend):
    """Methods that block until a test lets them go; which thread did what is written down."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.threads: dict[str, threading.Thread] = {}
        self.stops: dict[str, Stop] = {}
        self.state = "old"
        self.gate: Deferred[None] = Deferred()

    def stop_at(self, *names: str) -> None:
        """Commands of these names are to stop."""
        self.stops.update((name, Stop()) for name in names)

    def note(self, name: str) -> None:
        """A method has been called."""
        self.begun.append(name)
        self.threads[name] = threading.current_thread()
        if name in self.stops:
            self.stops[name].here()

    # device

    @blocking
    def set_configuration(self, configuration: str) -> None:
        self.note(configuration)
        self.state = configuration

    @blocking
    def set_filename(self, path: str) -> None:
        self.note(path)

    def set_shift(self, shift: int) -> None:
        self.note(f"shift {shift}")
        self.state = f"shift {shift}"
        if shift < 0:
            raise BackendError("shift out of range")

    async def set_integration(self, integration: int) -> None:
        self.note(f"integration {integration}")
        await self.gate

    def set_enable(self, feed1: int, feed2: int) -> Any:
        self.note(f"enable {feed1} {feed2}")
        return self.gate

    @blocking
    def get_tp0(self) -> Iterator[float]:
        yield 0.5
        self.note("generator")
        yield 1.5

    # files

    @blocking
    def convert_data(self) -> None:
        self.note("conversion")

    # reads

    @blocking
    def status(self) -> Any:
        state = self.state
        self.note("status")
        return 1430922782.5, state, False

    @blocking
    def time(self) -> float:
        self.note("time")
        return 1430922782.5

    def get_configuration(self) -> str:
        return "plain"

    # its own

    @command("probe", Argument("input", "integer"), Argument("at", "timestamp", optional=True), lane="reads")
    @blocking
    def probe(self, number: int, at: Any = None) -> int:
        self.note(f"probe {number}" if at is None else f"probe {number} at {at}")
        return number

    @blocking
    @command("device", lane="reads")
    def device(self) -> str:
        self.note("device")
        return "not a lane"

    @command("files", lane="reads")
    @blocking
    def files(self) -> str:
        self.note("files")
        return "not a lane"


class BlockingTestCase(unittest.TestCase):
    """Hardware with three clients."""

    def setUp(self) -> None:
        self.serve(Hardware())

    def serve(self, backend: Any, **options: Any) -> None:
        """Serve this backend to three new clients."""
        self.reactor = FakeReactor()
        self.backend = backend
        self.handler = DBProtocolHandler(backend, reactor=self.reactor, **options)
        self.a, self.b, self.c = (Client(self.handler, self.reactor) for _ in range(3))
        self.addCleanup(self.let_go, self.handler, backend)

    @staticmethod
    def let_go(handler: DBProtocolHandler, backend: Hardware) -> None:
        """Whatever became of the test, no thread is left waiting."""
        for stop in getattr(backend, "stops", {}).values():
            stop.open()
        # Cancelled, because what the threads report is not looked at any more.
        handler.stop().cancel()

    def begin(self, client: Client, line: bytes, name: str) -> None:
        """Ask for something that stops in its thread, and wait until it is there."""
        self.backend.stop_at(name)
        self.assertEqual(client.ask(line), b"")
        self.backend.stops[name].reached()

    def end(self, name: str) -> None:
        """Let it go, and have what it reports."""
        self.backend.stops[name].open()
        self.reactor.drain()


class ThreadTests(BlockingTestCase):
    """Which thread does what."""

    def test_never_the_reactors_thread_always_a_daemon(self) -> None:
        for line, name in [
            (b"?set-configuration,SK77", "SK77"),
            (b"?convert-data", "conversion"),
            (b"?status", "status"),
            (b"?probe,1", "probe 1"),
            (b"?get-tp0", "generator"),
        ]:
            with self.subTest(line):
                self.assertEqual(self.a.ask(line), b"")
                self.reactor.drain()
                self.assertRegex(self.a.answer(), rb",ok")
                self.assertIsNot(self.backend.threads[name], threading.current_thread())
                self.assertTrue(self.backend.threads[name].daemon)

    def test_the_others_stay_in_the_reactors_thread(self) -> None:
        self.assertEqual(self.a.ask(b"?set-shift,1"), b"!set-shift,ok\r\n")
        self.a.ask(b"?set-integration,5")
        for name in ("shift 1", "integration 5"):
            self.assertIs(self.backend.threads[name], threading.current_thread())

    def test_device_commands_share_one_thread(self) -> None:
        for line in (b"?set-configuration,1", b"?set-filename,2"):
            self.a.ask(line)
            self.reactor.drain()
        self.assertIs(self.backend.threads["1"], self.backend.threads["2"])

    def test_reads_have_their_own_and_so_have_files(self) -> None:
        for line in (b"?set-configuration,1", b"?status", b"?time", b"?convert-data", b"?probe,1"):
            self.a.ask(line)
            self.reactor.drain()
        self.assertEqual(len(set(self.backend.threads.values())), 5)

    def test_a_read_named_as_a_lane_has_its_own_too(self) -> None:
        self.begin(self.a, b"?set-configuration,1", "1")
        self.begin(self.b, b"?convert-data", "conversion")
        for line in (b"device", b"files"):
            with self.subTest(line):
                self.begin(self.c, b"?" + line, line.decode())
                self.end(line.decode())
                self.assertEqual(self.c.answer(), b"!" + line + b",ok,not a lane\r\n")

    def test_a_handler_has_its_own(self) -> None:
        other = Hardware()
        self.begin(self.a, b"?set-configuration,1", "1")
        reactor = FakeReactor()
        handler = DBProtocolHandler(other, reactor=reactor)
        Client(handler, reactor).ask(b"?set-configuration,2")
        reactor.drain()
        self.assertIsNot(self.backend.threads["1"], other.threads["2"])
        handler.stop()

    def test_they_end_when_the_handler_stops(self) -> None:
        self.a.ask(b"?set-configuration,1")
        self.reactor.drain()
        thread = self.backend.threads["1"]
        self.assertTrue(thread.is_alive())
        self.handler.stop()
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive())
        # And begin anew should the server listen again.
        self.a.ask(b"?set-filename,2")
        self.reactor.drain()
        self.assertEqual(self.a.answer(), b"!set-filename,ok\r\n")

    def test_one_that_cannot_be_started(self) -> None:
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
            self.assertEqual(self.a.ask(b"?set-configuration,1"), b"!set-configuration,fail," + GENERIC + b"\r\n")
        self.assertEqual(self.b.ask(b"?set-shift,1"), b"!set-shift,ok\r\n")
        self.assertEqual(self.c.ask(b"?set-configuration,2"), b"")
        self.reactor.drain()
        self.assertEqual(self.c.answer(), b"!set-configuration,ok\r\n")

    def test_an_awaitable_out_of_a_thread(self) -> None:
        async def coroutine() -> float:
            return 1.5

        for result in (coroutine, lambda: succeed(1.5)):

            class Confused(Backend):
                @blocking
                def get_tp0(self, result: Any = result) -> Any:
                    return result()

            self.serve(Confused())
            with self.assertLogs("discosbackend", "ERROR") as logged:
                self.a.ask(b"?get-tp0")
                self.reactor.drain()
            self.assertEqual(self.a.answer(), b"!get-tp0,fail," + GENERIC + b"\r\n")
            self.assertRegex(logged.output[0], "@blocking method of get-tp0 returned .*, which is never awaited")
        gc.collect()

    def test_added_by_a_user(self) -> None:
        called: list[tuple[list[str], threading.Thread]] = []

        @blocking
        def method(arguments: list[str]) -> str:
            called.append((arguments, threading.current_thread()))
            return "state"

        self.handler.commands["warm-up"] = method
        # In the place of a read, so that its result can be shared.
        self.handler.commands["get-configuration"] = method
        self.handler.commands["get-filename"] = method
        for line, reply in [
            (b"?warm-up,a,b", b"!warm-up,ok,state\r\n"),
            (b"?get-configuration", b"!get-configuration,ok,state\r\n"),
            (b"?get-filename,x", b"!get-filename,ok,state\r\n"),
        ]:
            with self.subTest(line):
                self.assertEqual(self.a.ask(line), b"")
                self.reactor.drain()
                self.assertEqual(self.a.answer(), reply)
        self.assertEqual([arguments for arguments, _ in called], [["a", "b"], [], ["x"]])
        self.assertNotIn(threading.current_thread(), [thread for _, thread in called])

    def test_a_second_name_keeps_the_thread(self) -> None:
        self.handler.commands["load"] = self.handler.commands["set-configuration"]
        self.assertEqual(self.a.ask(b"?load,1"), b"")
        self.reactor.drain()
        self.assertEqual(self.a.answer(), b"!load,ok\r\n")
        self.assertIsNot(self.backend.threads["1"], threading.current_thread())


class WorkerTests(unittest.TestCase):
    """A thread by itself."""

    def test_results_and_exceptions(self) -> None:
        done: Any = FakeReactor()
        outcomes: list[Any] = []
        worker = Worker("test")

        def odd() -> None:
            raise SystemExit("odd")

        for call in (lambda: "result", odd, lambda: "and on"):
            worker.do(call, lambda outcome: done.callFromThread(outcomes.append, outcome))
            done.drain()
        worker.end()
        worker.end()
        self.assertEqual((outcomes[0], outcomes[2]), ("result", "and on"))
        self.assertIsInstance(outcomes[1].value, SystemExit)

    def test_a_result_that_cannot_be_given(self) -> None:
        """As to a reactor that is going away: the calls that follow are made all the same."""
        done: Any = FakeReactor()
        worker = Worker("test")
        self.addCleanup(worker.end)

        def refuse(outcome: Any) -> None:
            raise OSError(9, "Bad file descriptor")

        with self.assertLogs("discosbackend.scheduler", "ERROR") as logs:
            worker.do(lambda: "lost", refuse)
            outcomes: list[Any] = []
            worker.do(lambda: "result", lambda outcome: done.callFromThread(outcomes.append, outcome))
            done.drain()
        self.assertEqual(outcomes, ["result"])
        self.assertIn("could not give its result", logs.output[0])

    def test_after_a_fork(self) -> None:
        """The child has the object, but not the thread."""
        worker = Worker("test")
        self.addCleanup(worker.end)
        called = threading.Event()
        worker.do(called.set, lambda outcome: None)
        self.assertTrue(called.wait(PATIENCE))
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            # Python warns of a fork beside threads. It is what is tested.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                worker.do(lambda: b"result", lambda outcome: self.assertEqual(os.write(writing, outcome), 6))
                threading.Event().wait(PATIENCE)
            finally:
                os._exit(1)
        self.addCleanup(os.waitpid, child, 0)
        self.addCleanup(os.kill, child, signal.SIGKILL)
        self.addCleanup(os.close, reading)
        os.close(writing)
        self.assertEqual(select.select([reading], [], [], PATIENCE)[0], [reading])
        self.assertEqual(os.read(reading, 100), b"result")


class LaneTests(BlockingTestCase):
    """Threads in the lanes (protocol section 6.1)."""

    def test_one_device_command_at_a_time_in_any_mixture_of_styles(self) -> None:
        clients = [Client(self.handler, self.reactor) for _ in range(7)]
        self.backend.stop_at("1", "4")
        lines = [
            b"?set-configuration,1",
            b"?set-shift,2",
            b"?set-integration,3",
            b"?set-configuration,4",
            b"?set-filename,5",
            b"?set-enable,6,6",
            b"?set-shift,7",
        ]
        for client, line in zip(clients, lines, strict=True):
            self.assertEqual(client.ask(line), b"")
        self.backend.stops["1"].reached()
        self.assertEqual(self.backend.begun, ["1"])
        self.end("1")
        self.assertEqual(self.backend.begun, ["1", "shift 2", "integration 3"])
        gate, self.backend.gate = self.backend.gate, Deferred()
        gate.callback(None)
        self.backend.stops["4"].reached()
        self.assertEqual(self.backend.begun[3:], ["4"])
        self.end("4")
        self.reactor.drain()
        self.assertEqual(self.backend.begun[4:], ["5", "enable 6 6"])
        self.assertEqual(clients[6].answer(), b"")
        self.backend.gate.callback(None)
        self.assertEqual(self.backend.begun[6:], ["shift 7"])
        self.assertEqual(
            [client.answer() for client in clients[:6]] + [b"!set-shift,ok\r\n"],
            [b"!" + line[1:].partition(b",")[0] + b",ok\r\n" for line in lines],
        )

    def test_reads_go_on(self) -> None:
        self.begin(self.a, b"?set-configuration,1", "1")
        self.assertEqual(self.b.ask(b"?get-configuration"), b"!get-configuration,ok,plain\r\n")
        for line in (b"?status", b"?time"):
            self.b.ask(line)
            self.reactor.drain()
            self.assertRegex(self.b.answer(), rb",ok,")

    def test_one_read_does_not_wait_for_another(self) -> None:
        self.begin(self.a, b"?status", "status")
        self.b.ask(b"?time")
        self.reactor.drain()
        self.assertEqual(self.b.answer(), b"!time,ok,1430922782.5000000\r\n")

    def test_files_beside_the_device(self) -> None:
        self.begin(self.a, b"?convert-data", "conversion")
        self.b.ask(b"?set-configuration,1")
        self.reactor.drain()
        self.assertEqual(self.b.answer(), b"!set-configuration,ok\r\n")
        self.end("conversion")
        self.assertEqual(self.a.answer(), b"!convert-data,ok\r\n")


class SharingTests(BlockingTestCase):
    """While a blocking read is running, further calls share its result."""

    def test_while_it_is_running(self) -> None:
        self.begin(self.a, b"?status", "status")
        for client in (self.b, self.c):
            self.assertEqual(client.ask(b"?status"), b"")
        self.end("status")
        self.assertEqual(self.backend.begun, ["status"])
        for client in (self.a, self.b, self.c):
            self.assertEqual(client.answer(), b"!status,ok,1430922782.5000000,old,0\r\n")

    def test_not_afterwards(self) -> None:
        for _ in range(2):
            self.a.ask(b"?status")
            self.reactor.drain()
        self.assertEqual(self.backend.begun, ["status", "status"])

    def test_a_failure_is_shared_too(self) -> None:
        class Failing(Hardware):
            @blocking
            def status(self) -> Any:
                self.note("status")
                raise BackendError("no link")

        self.serve(Failing())
        self.begin(self.a, b"?status", "status")
        self.b.ask(b"?status")
        self.end("status")
        for client in (self.a, self.b):
            self.assertEqual(client.answer(), b"!status,fail,no link\r\n")

    def test_not_with_other_arguments(self) -> None:
        self.begin(self.a, b"?probe,1", "probe 1")
        self.b.ask(b"?probe,2")
        self.c.ask(b"?probe,1")
        self.end("probe 1")
        self.reactor.drain()
        self.assertEqual(
            (self.a.answer(), self.b.answer(), self.c.answer()),
            (b"!probe,ok,1\r\n", b"!probe,ok,2\r\n", b"!probe,ok,1\r\n"),
        )
        self.assertEqual(self.backend.begun, ["probe 1", "probe 2"])

    def test_arguments_that_cannot_be_a_key(self) -> None:
        class Plain:
            # A plain class gets an astropy Time, which need not be hashable.
            @command("at", Argument("at", "timestamp"), lane="reads")
            @blocking
            def at(self, time: Any) -> Any:
                return time.format

        self.serve(Plain())
        self.a.ask(b"?at,%d" % TICKS)
        self.reactor.drain()
        self.assertEqual(self.a.answer(), b"!at,ok,discos\r\n")

    def test_device_commands_share_nothing(self) -> None:
        self.begin(self.a, b"?set-configuration,1", "1")
        self.b.ask(b"?set-configuration,1")
        self.end("1")
        self.reactor.drain()
        self.assertEqual(self.backend.begun, ["1", "1"])

    def check_fresh_read(self, change: Callable[[], None]) -> None:
        """A read that is asked for after a change has ended does not tell what was before."""
        self.begin(self.a, b"?status", "status")
        old, self.backend.stops = self.backend.stops["status"], {}
        change()
        self.assertEqual(self.b.ask(b"?status"), b"")
        self.assertEqual(self.c.ask(b"?status"), b"")
        old.open()
        self.reactor.drain(2)
        self.assertEqual(self.a.answer(), b"!status,ok,1430922782.5000000,old,0\r\n")
        fresh = b"!status,ok,1430922782.5000000,%s,0\r\n" % self.backend.state.encode()
        self.assertEqual((self.b.answer(), self.c.answer()), (fresh, fresh))
        self.assertNotIn(b",old,", fresh)
        # The two that came after it shared one.
        self.assertEqual(self.backend.begun.count("status"), 2)

    def test_the_end_of_an_older_one_leaves_the_newer_one_shared(self) -> None:
        self.begin(self.a, b"?status", "status")
        old = self.backend.stops["status"]
        self.assertEqual(self.b.ask(b"?set-shift,1"), b"!set-shift,ok\r\n")
        self.backend.stop_at("status")
        self.assertEqual(self.b.ask(b"?status"), b"")
        old.open()
        self.reactor.drain()
        self.backend.stops["status"].reached()
        self.assertEqual(self.c.ask(b"?status"), b"")
        self.end("status")
        self.assertEqual(self.c.answer(), b"!status,ok,1430922782.5000000,shift 1,0\r\n")
        self.assertEqual(self.backend.begun.count("status"), 2)

    def test_not_with_an_older_one_after_a_change(self) -> None:
        def plain() -> None:
            self.assertEqual(self.b.ask(b"?set-shift,1"), b"!set-shift,ok\r\n")

        def failed() -> None:
            # What it did before it was refused is done.
            self.assertEqual(self.b.ask(b"?set-shift,-1"), b"!set-shift,fail,shift out of range\r\n")

        def in_a_thread() -> None:
            self.b.ask(b"?set-configuration,new")
            self.reactor.drain()
            self.assertEqual(self.b.answer(), b"!set-configuration,ok\r\n")

        def later() -> None:
            self.b.ask(b"?set-integration,5")
            self.backend.state = "new"
            self.backend.gate.callback(None)
            self.assertEqual(self.b.answer(), b"!set-integration,ok\r\n")

        def added() -> None:
            self.handler.commands["reset"] = lambda _: setattr(self.backend, "state", "reset")
            self.assertEqual(self.b.ask(b"?reset"), b"!reset,ok\r\n")

        for change in (plain, failed, in_a_thread, later, added):
            with self.subTest(change.__name__):
                self.serve(Hardware())
                self.check_fresh_read(change)

    def test_not_with_one_that_began_during_the_change(self) -> None:
        for line in (b"?set-integration,5", b"?set-enable,1,2"):
            with self.subTest(line):
                self.serve(Hardware())
                self.assertEqual(self.b.ask(line), b"")

                def ends() -> None:
                    self.backend.state = "new"
                    self.backend.gate.callback(None)
                    self.assertRegex(self.b.answer(), rb",ok\r\n$")

                self.check_fresh_read(ends)

    def test_not_with_one_that_began_during_a_change_in_a_thread(self) -> None:
        self.begin(self.b, b"?set-configuration,new", "new")
        changing = self.backend.stops["new"]

        def ends() -> None:
            changing.open()
            self.reactor.drain()
            self.assertEqual(self.b.answer(), b"!set-configuration,ok\r\n")

        self.check_fresh_read(ends)

    def test_not_with_an_older_one_after_a_change_that_ended_late(self) -> None:
        self.serve(Hardware(), timeouts={"set-configuration": 5.0})
        self.begin(self.b, b"?set-configuration,new", "new")
        self.reactor.pass_time(5)
        self.assertRegex(self.b.answer(), rb"^!set-configuration,fail,timeout")
        changing = self.backend.stops["new"]

        def ended_late() -> None:
            changing.open()
            self.reactor.drain()

        self.check_fresh_read(ended_late)

    def test_one_who_gives_up_leaves_the_others_theirs(self) -> None:
        outcomes: list[Any] = []
        replies = [self.handler.handle(request("status")) for _ in range(2)]
        for reply in replies:
            reply.addBoth(outcomes.append)  # type: ignore[union-attr]
        replies[0].cancel()  # type: ignore[union-attr]
        self.assertIsInstance(outcomes[0].value, HandlerException)
        # And those who come are none the worse.
        with self.assertNoLogs("discosbackend", "WARNING"):
            self.assertEqual(self.a.ask(b"?status"), b"")
            self.reactor.drain()
        self.assertRegex(self.a.answer(), rb"^!status,ok,")
        self.assertEqual(outcomes[1].code, "ok")

    def test_an_answer_that_makes_another_one_give_up(self) -> None:
        outcomes: list[list[Any]] = [[], [], []]
        replies: list[Any] = [self.handler.handle(request("status")) for _ in outcomes]
        replies[0].addCallback(lambda _: replies[1].cancel())
        for reply, outcome in zip(replies, outcomes, strict=True):
            reply.addBoth(outcome.append)
        with self.assertNoLogs("discosbackend", "WARNING"):
            self.reactor.drain()
        self.assertEqual([len(outcome) for outcome in outcomes], [1, 1, 1])
        self.assertEqual(outcomes[2][0].code, "ok")
        self.a.ask(b"?status")
        self.reactor.drain()
        self.assertRegex(self.a.answer(), rb"^!status,ok,")


class LockTests(BlockingTestCase):
    """@blocking(lock=...) serialises across lanes."""

    class Serial(Hardware):
        """Two methods and a read on one serial link, another read on another one."""

        @blocking(lock="link")
        def set_filename(self, path: str) -> None:
            self.note(path)

        @blocking(lock="link")
        def status(self) -> Any:
            self.note("status")
            return 1430922782.5, "ok", False

        @blocking(lock="link")
        def convert_data(self) -> None:
            self.note("conversion")

        @blocking(lock="other")
        def time(self) -> float:
            self.note("time")
            return 1430922782.5

    def setUp(self) -> None:
        self.serve(self.Serial())

    def test_a_read_waits_for_the_lock(self) -> None:
        self.begin(self.a, b"?set-filename,/f", "/f")
        self.b.ask(b"?status")
        self.c.ask(b"?convert-data")
        self.end("/f")
        self.reactor.drain(2)
        self.assertEqual(self.backend.begun, ["/f", "status", "conversion"])
        self.assertEqual(
            (self.a.answer(), self.b.answer(), self.c.answer()),
            (b"!set-filename,ok\r\n", b"!status,ok,1430922782.5000000,ok,0\r\n", b"!convert-data,ok\r\n"),
        )

    def test_the_device_waits_for_the_lock(self) -> None:
        self.begin(self.a, b"?convert-data", "conversion")
        self.b.ask(b"?set-filename,/f")
        self.assertEqual(self.backend.begun, ["conversion"])
        # It has the device already, so whoever comes later comes later.
        self.assertEqual(self.c.ask(b"?set-shift,1"), b"")
        self.end("conversion")
        self.reactor.drain()
        self.assertEqual(self.backend.begun, ["conversion", "/f", "shift 1"])
        self.assertEqual((self.b.answer(), self.c.answer()), (b"!set-filename,ok\r\n", b"!set-shift,ok\r\n"))

    def test_others_do_not(self) -> None:
        self.begin(self.a, b"?convert-data", "conversion")
        self.b.ask(b"?time")
        self.c.ask(b"?set-configuration,1")
        self.reactor.drain(2)
        self.assertEqual(self.b.answer(), b"!time,ok,1430922782.5000000\r\n")
        self.assertEqual(self.c.answer(), b"!set-configuration,ok\r\n")

    def test_one_who_waits_for_it_shares(self) -> None:
        self.begin(self.a, b"?set-filename,/f", "/f")
        self.b.ask(b"?status")
        self.c.ask(b"?status")
        self.end("/f")
        self.reactor.drain()
        self.assertEqual(self.backend.begun, ["/f", "status"])
        self.assertEqual(self.b.answer(), self.c.answer())

    def test_one_who_has_waited_too_long_lets_go_of_what_it_had(self) -> None:
        self.serve(self.Serial(), timeouts={"set-filename": 5.0})
        self.begin(self.a, b"?convert-data", "conversion")
        self.b.ask(b"?set-filename,/f")
        self.c.ask(b"?set-shift,1")
        self.reactor.pass_time(5)
        self.assertEqual(self.b.answer(), b"!set-filename,fail,timeout: waited 5 s for convert-data\r\n")
        self.assertEqual(self.c.answer(), b"!set-shift,ok\r\n")
        self.end("conversion")
        self.assertEqual(self.a.answer(), b"!convert-data,ok\r\n")
        self.assertEqual(self.backend.begun, ["conversion", "shift 1"])

    def test_what_is_overdue_keeps_its_lock(self) -> None:
        self.serve(self.Serial(), timeouts={"convert-data": 5.0})
        self.begin(self.a, b"?convert-data", "conversion")
        waiting = Client(self.handler, self.reactor)
        waiting.ask(b"?set-filename,/f")
        self.b.ask(b"?set-shift,1")
        self.reactor.pass_time(5)
        self.assertEqual(waiting.answer(), b"!set-filename,fail,busy with convert-data since 5 s\r\n")
        # The device itself is nobody's.
        self.assertEqual(self.b.answer(), b"!set-shift,ok\r\n")
        self.assertEqual(self.c.ask(b"?status"), b"!status,fail,busy with convert-data since 5 s\r\n")
        self.end("conversion")
        self.c.ask(b"?status")
        self.reactor.drain()
        self.assertRegex(self.c.answer(), rb"^!status,ok,")


class OverdueTests(BlockingTestCase):
    """A thread cannot be cancelled: until it returns, device commands get `fail` (protocol section 6.3)."""

    def setUp(self) -> None:
        super().setUp()
        self.begin(self.a, b"?set-configuration,slow", "slow")

    def test_busy_until_it_returns_then_free(self) -> None:
        self.reactor.pass_time(59.75)
        self.assertEqual(self.a.answer(), b"")
        self.reactor.pass_time(0.25)
        self.assertRegex(self.a.answer(), rb"^!set-configuration,fail,timeout[^,]*\r\n$")
        self.reactor.pass_time(15)
        busy = b",fail,busy with set-configuration since 75 s\r\n"
        for name, arguments in [
            (b"set-shift", b",1"),
            (b"set-configuration", b",2"),
            (b"set-integration", b",3"),
            (b"set-enable", b",4,4"),
            (b"start", b""),
        ]:
            with self.subTest(name):
                self.assertEqual(self.b.ask(b"?" + name + arguments), b"!" + name + busy)
        self.reactor.pass_time(45)
        self.assertEqual(self.b.ask(b"?set-shift,1"), b"!set-shift,fail,busy with set-configuration since 120 s\r\n")
        self.assertEqual(self.backend.begun, ["slow"])
        with self.assertLogs("discosbackend", "WARNING") as logs:
            self.end("slow")
        self.assertRegex(logs.output[0], "late.*set-configuration")
        self.assertEqual((self.a.answer(), self.b.answer()), (b"", b""))
        self.assertEqual(self.b.ask(b"?set-shift,1"), b"!set-shift,ok\r\n")
        self.b.ask(b"?set-configuration,2")
        self.reactor.drain()
        self.assertEqual(self.b.answer(), b"!set-configuration,ok\r\n")

    def test_a_late_failure(self) -> None:
        class Failing(Hardware):
            @blocking
            def set_configuration(self, configuration: str) -> None:
                self.note(configuration)
                raise RuntimeError("too late")

        self.serve(Failing())
        self.begin(self.a, b"?set-configuration,1", "1")
        self.reactor.pass_time(60)
        self.a.answer()
        with self.assertLogs("discosbackend", "WARNING") as logs:
            self.end("1")
        self.assertIn("too late", logs.output[0])
        self.assertEqual(self.a.answer(), b"")
        self.assertEqual(self.b.ask(b"?set-shift,1"), b"!set-shift,ok\r\n")

    def test_those_who_wait_are_told_too(self) -> None:
        self.reactor.pass_time(10)
        self.b.ask(b"?set-shift,1")
        self.c.ask(b"?set-configuration,2")
        self.reactor.pass_time(50)
        busy = b",fail,busy with set-configuration since 60 s\r\n"
        self.assertEqual(self.b.answer(), b"!set-shift" + busy)
        self.assertEqual(self.c.answer(), b"!set-configuration" + busy)
        self.end("slow")
        self.assertEqual(self.backend.begun, ["slow"])
        self.assertEqual((self.b.answer(), self.c.answer()), (b"", b""))

    def test_reads_and_files_go_on(self) -> None:
        self.reactor.pass_time(75)
        self.assertEqual(self.b.ask(b"?get-configuration"), b"!get-configuration,ok,plain\r\n")
        self.b.ask(b"?status")
        self.c.ask(b"?convert-data")
        self.reactor.drain(2)
        self.assertEqual(self.b.answer(), b"!status,ok,1430922782.5000000,old,0\r\n")
        self.assertEqual(self.c.answer(), b"!convert-data,ok\r\n")

    def test_arguments_are_judged_all_the_same(self) -> None:
        self.reactor.pass_time(75)
        self.assertEqual(self.b.ask(b"?set-enable,1"), b"!set-enable,fail,set-enable needs 2 arguments\r\n")
        self.assertEqual(self.b.ask(b"?nonsense"), b"!nonsense,fail,invalid command 'nonsense'\r\n")

    def test_a_read_that_is_overdue_blocks_only_itself(self) -> None:
        self.end("slow")
        self.assertEqual(self.a.answer(), b"!set-configuration,ok\r\n")
        self.begin(self.a, b"?status", "status")
        self.reactor.pass_time(60)
        self.assertRegex(self.a.answer(), rb"^!status,fail,timeout")
        self.assertEqual(self.b.ask(b"?status"), b"!status,fail,busy with status since 60 s\r\n")
        self.assertEqual(self.b.ask(b"?set-shift,1"), b"!set-shift,ok\r\n")
        self.b.ask(b"?time")
        self.reactor.drain()
        self.assertEqual(self.b.answer(), b"!time,ok,1430922782.5000000\r\n")
        self.end("status")
        self.b.ask(b"?status")
        self.reactor.drain()
        self.assertEqual(self.b.answer(), b"!status,ok,1430922782.5000000,shift 1,0\r\n")

    def test_those_who_share_have_their_own_limits(self) -> None:
        self.begin(self.b, b"?status", "status")
        self.reactor.pass_time(20)
        self.c.ask(b"?status")
        self.reactor.pass_time(40)
        self.assertRegex(self.b.answer(), rb"^!status,fail,timeout")
        self.assertEqual(self.c.answer(), b"")
        # Who comes now is told at once that it is stuck, and does not wait another minute for it.
        self.assertEqual(self.b.ask(b"?status"), b"!status,fail,busy with status since 60 s\r\n")
        self.end("status")
        self.assertRegex(self.c.answer(), rb"^!status,ok,")
        self.assertEqual(self.b.answer(), b"")

    def test_a_limit_that_was_spent_waiting(self) -> None:
        """It began after 59 s of waiting and so has 1 s left, but its thread has as long as any other."""
        self.backend.stop_at("/f")
        self.b.ask(b"?set-filename,/f")
        self.reactor.pass_time(59)
        self.end("slow")
        self.backend.stops["/f"].reached()
        waiting = Client(self.handler, self.reactor)
        waiting.ask(b"?set-shift,1")
        with self.assertNoLogs("discosbackend", "ERROR"):
            self.reactor.pass_time(1)
            self.assertEqual(
                self.b.answer(), b"!set-filename,fail,timeout: set-filename waited 59.0 s and ran 1.0 s\r\n"
            )
            self.assertEqual((self.c.ask(b"?set-shift,2"), waiting.answer()), (b"", b""), "nobody else is refused")
            self.end("/f")
        self.assertEqual((self.c.answer(), waiting.answer()), (b"!set-shift,ok\r\n", b"!set-shift,ok\r\n"))
        self.assertEqual(self.backend.begun, ["slow", "/f", "shift 1", "shift 2"])

    def test_overdue_once_it_has_itself_run_so_long(self) -> None:
        """Also when nobody waits for it any more; until then others wait for their own limits."""
        self.backend.stop_at("/f")
        self.b.ask(b"?set-filename,/f")
        self.reactor.pass_time(59)
        self.end("slow")
        self.backend.stops["/f"].reached()
        self.reactor.pass_time(31)
        self.assertRegex(self.b.answer(), rb"^!set-filename,fail,timeout")
        self.c.ask(b"?set-shift,1")
        with self.assertNoLogs("discosbackend", "ERROR"):
            self.reactor.pass_time(28.75)
        self.assertEqual(self.c.answer(), b"")
        with self.assertLogs("discosbackend", "ERROR") as logs:
            self.reactor.pass_time(0.25)
        self.assertRegex(logs.output[0], "set-filename is overdue.*60 s")
        self.assertEqual(self.c.answer(), b"!set-shift,fail,busy with set-filename since 60 s\r\n")
        self.assertEqual(self.b.ask(b"?set-shift,2"), b"!set-shift,fail,busy with set-filename since 60 s\r\n")
        self.end("/f")
        self.assertEqual(self.b.ask(b"?set-shift,2"), b"!set-shift,ok\r\n")

    def test_overdue_while_nobody_waits(self) -> None:
        self.backend.stop_at("/f")
        self.b.ask(b"?set-filename,/f")
        self.reactor.pass_time(59)
        self.end("slow")
        self.backend.stops["/f"].reached()
        self.reactor.pass_time(59.75)
        self.assertRegex(self.b.answer(), rb"^!set-filename,fail,timeout")
        with self.assertLogs("discosbackend", "ERROR") as logs:
            self.reactor.pass_time(0.25)
        self.assertRegex(logs.output[0], "set-filename is overdue.*60 s")
        self.end("/f")

    def test_who_merely_waited(self) -> None:
        self.serve(Hardware(), timeouts={"set-filename": 5.0})
        self.begin(self.a, b"?set-configuration,long", "long")
        self.b.ask(b"?set-filename,/f")
        self.c.ask(b"?set-shift,1")
        with self.assertNoLogs("discosbackend", "ERROR"):
            self.reactor.pass_time(5)
        self.assertEqual(self.b.answer(), b"!set-filename,fail,timeout: waited 5 s for set-configuration\r\n")
        self.assertEqual(self.c.answer(), b"")
        self.end("long")
        self.assertEqual(self.c.answer(), b"!set-shift,ok\r\n")

    def test_without_a_limit_it_is_never_overdue(self) -> None:
        self.serve(Hardware(), timeouts={"set-configuration": None})
        self.begin(self.a, b"?set-configuration,long", "long")
        with self.assertNoLogs("discosbackend", "ERROR"):
            self.reactor.pass_time(100)
            self.b.ask(b"?set-shift,1")
        self.end("long")
        self.assertEqual(self.b.answer(), b"!set-shift,ok\r\n")

    def test_five_thousand_are_told_without_an_overflow(self) -> None:
        outcomes: list[Any] = []
        for number in range(5000):
            name, argument = ("set-shift", str(number)) if number % 2 else ("set-configuration", "x")
            reply = self.handler.handle(request(name, argument))
            reply.addBoth(outcomes.append)  # type: ignore[union-attr]
        self.reactor.pass_time(60)
        self.assertEqual(len(outcomes), 5000)
        self.assertEqual({outcome.type for outcome in outcomes}, {HandlerException})
        self.assertEqual(self.backend.begun, ["slow"])

    def test_given_up_while_it_runs(self) -> None:
        outcomes: list[Any] = []
        self.end("slow")
        self.backend.stop_at("1")
        reply = self.handler.handle(request("set-configuration", "1"))
        reply.addBoth(outcomes.append)  # type: ignore[union-attr]
        self.backend.stops["1"].reached()
        reply.cancel()  # type: ignore[union-attr]
        self.assertIsInstance(outcomes[0].value, HandlerException)
        # Its thread runs on, so nobody else has the device: they wait, since it is not overdue.
        self.assertEqual(self.b.ask(b"?set-shift,1"), b"")
        self.end("1")
        self.assertEqual(len(outcomes), 1)
        self.assertEqual(self.b.answer(), b"!set-shift,ok\r\n")

    def test_the_server_stops_while_it_runs(self) -> None:
        """The acquisition is ended once the thread has returned, or not at all if it does not return in time."""
        for returns in (True, False):
            with self.subTest(returns=returns):
                self.serve(Hardware())
                told: list[str] = []
                self.backend.stop = lambda timestamp=None, told=told: told.append("stop")
                self.backend.server_stopping = lambda told=told: told.append("stopping")
                self.handler = DBProtocolHandler(self.backend, reactor=self.reactor)
                self.a = Client(self.handler, self.reactor)
                self.begin(self.a, b"?set-configuration,1", "1")
                done: list[Any] = []
                stopping = self.handler.stop()
                stopping.addBoth(done.append)
                self.reactor.pass_time(2)
                self.assertEqual((told, done), ([], []))
                if returns:
                    self.end("1")
                    self.assertEqual(told, ["stop", "stopping"])
                else:
                    stopping.cancel()
                    self.assertEqual(told, ["stopping"])
                    self.end("1")
                self.assertEqual(len(done), 1)

    def test_the_server_stops_all_the_same(self) -> None:
        told: list[str] = []
        self.backend.server_stopping = lambda: told.append("stopping")
        self.reactor.pass_time(60)
        done: list[Any] = []
        self.handler.stop().addBoth(done.append)
        self.assertEqual((told, len(done)), (["stopping"], 1))
        self.end("slow")
        self.backend.threads["slow"].join(PATIENCE)
        self.assertFalse(self.backend.threads["slow"].is_alive())


class ManyTests(BlockingTestCase):
    """A long queue overflows no stack, whatever it waits for."""

    def test_behind_a_lock_that_is_overdue(self) -> None:
        self.serve(LockTests.Serial(), timeouts={"convert-data": 5.0})
        self.begin(self.a, b"?convert-data", "conversion")
        outcomes: list[Any] = []
        for _ in range(5000):
            reply = maybeDeferred(self.handler.handle, request("set-filename", "/f"))
            reply.addBoth(outcomes.append)
        self.assertEqual(outcomes, [])
        self.reactor.pass_time(5)
        self.assertEqual(len(outcomes), 5000)
        self.assertEqual({str(outcome.value) for outcome in outcomes}, {"busy with convert-data since 5 s"})
        self.assertEqual(self.b.ask(b"?set-shift,1"), b"!set-shift,ok\r\n")

    def test_one_read_shared_by_many(self) -> None:
        outcomes: list[Any] = []
        self.backend.stop_at("status")
        for _ in range(5000):
            self.handler.handle(request("status")).addBoth(outcomes.append)  # type: ignore[union-attr]
        self.end("status")
        self.assertEqual(self.backend.begun, ["status"])
        self.assertEqual({type(outcome) for outcome in outcomes}, {Message})
        self.assertEqual(len(outcomes), 5000)


if __name__ == "__main__":
    unittest.main()
