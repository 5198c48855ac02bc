"""Tests of lanes: who may use the device now, who waits for it, and for how long (protocol section 6).

Seen from the wire where the wire shows it, with methods that answer at once, coroutines and Deferreds.
Methods that run in threads are test_blocking's subject; random sequences are test_scheduler_properties'.
"""

from __future__ import annotations

import gc
import unittest
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from discosbackend import Argument, Backend, BackendError, command
from discosbackend.commands import COMMANDS
from discosbackend.errors import UnsendableError
from discosbackend.handlers import DBProtocolHandler, HandlerException
from discosbackend.scheduler import Scheduler

from .clients import Client, FakeReactor, request
from .in_memory import quiet


def setUpModule() -> None:
    """What is logged here is expected; a test that cares looks with assertLogs."""
    quiet()


TIMEOUT = rb"^!%s,fail,timeout[^,]*\r\n$"


class Bench(Backend):
    """Commands in three styles, one of each lane, that end when a test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.gates: dict[str, Deferred[Any]] = {}

    def begin(self, name: str) -> Deferred[Any]:
        """Begin something that ends when its gate is opened."""
        self.begun.append(name)
        gate = self.gates[name] = Deferred()
        return gate

    def open(self, name: str, value: Any = None) -> None:
        """Let it end."""
        self.gates[name].callback(value)

    async def wait_for(self, name: str) -> None:
        """The same as a coroutine."""
        await self.begin(name)
        self.ended.append(name)

    # device

    def set_configuration(self, configuration: str) -> Any:
        return self.begin(configuration)

    async def set_filename(self, path: str) -> None:
        await self.wait_for(path)

    def set_shift(self, shift: int) -> None:
        self.begun.append(f"shift {shift}")

    def start(self, timestamp: Any = None) -> None:
        self.begun.append("start")

    def stop(self, timestamp: Any = None) -> None:
        self.begun.append("stop")

    # files

    async def convert_data(self) -> None:
        await self.wait_for("conversion")

    # reads

    def get_filename(self) -> str:
        self.begun.append("filename")
        return "/data/f"

    async def get_configuration(self) -> str:
        await self.wait_for("configuration")
        return "SK77"

    def get_integration(self) -> Any:
        return self.begin("integration")

    # its own

    @command("probe", Argument("name", "text"), lane="reads", timeout=5.0)
    async def probe(self, name: str) -> None:
        await self.wait_for(name)

    @command("sweep", Argument("name", "text"), timeout=20.0)
    async def sweep(self, name: str) -> None:
        await self.wait_for(name)

    @command("merge", Argument("name", "text"), lane="files", timeout=900.0)
    async def merge(self, name: str) -> None:
        await self.wait_for(name)


class SchedulerTestCase(unittest.TestCase):
    """A bench with three clients."""

    def setUp(self) -> None:
        self.serve(Bench())

    def serve(self, backend: Any, **options: Any) -> None:
        """Serve this backend to three new clients."""
        self.reactor = FakeReactor()
        self.bench = backend
        self.handler = DBProtocolHandler(backend, reactor=self.reactor, **options)
        self.a, self.b, self.c = (Client(self.handler, self.reactor) for _ in range(3))

    def assert_timeout(self, client: Client, name: bytes) -> None:
        """The client has been told, once, that its command took too long."""
        self.assertRegex(client.answer(), TIMEOUT % name)


class SchedulerTests(SchedulerTestCase):
    """What waits for what."""

    def test_the_lane_of_every_row(self) -> None:
        reads = {"status", "version", "get-configuration", "get-integration", "time", "get-filename"}
        for name, row in COMMANDS.items():
            with self.subTest(name):
                lane = "reads" if name in reads else "files" if name == "convert-data" else "device"
                self.assertEqual(row.lane, lane)

    def test_device_commands_run_one_at_a_time_in_order_of_arrival(self) -> None:
        clients = [Client(self.handler, self.reactor) for _ in range(6)]
        lines = [
            b"?set-configuration,1",
            b"?set-filename,2",
            b"?set-shift,3",
            b"?set-configuration,4",
            b"?sweep,5",
            b"?start",
        ]
        for client, line in zip(clients, lines, strict=True):
            self.assertEqual(client.ask(line), b"")
        self.assertEqual(self.bench.begun, ["1"])
        self.bench.open("1")
        self.assertEqual(self.bench.begun, ["1", "2"])
        self.assertEqual([client.answer() for client in clients], [b"!set-configuration,ok\r\n"] + [b""] * 5)
        self.bench.open("2")
        self.assertEqual(self.bench.begun, ["1", "2", "shift 3", "4"])
        self.bench.open("4")
        self.assertEqual(self.bench.begun[4:], ["5"])
        self.bench.open("5")
        self.assertEqual(self.bench.begun[5:], ["start"])
        self.assertEqual(
            [client.answer() for client in clients],
            [
                b"",
                b"!set-filename,ok\r\n",
                b"!set-shift,ok\r\n",
                b"!set-configuration,ok\r\n",
                b"!sweep,ok\r\n",
                b"!start,ok\r\n",
            ],
        )

    def test_reads_wait_for_nobody(self) -> None:
        self.a.ask(b"?set-configuration,1")
        self.b.ask(b"?set-configuration,2")
        self.c.ask(b"?convert-data")
        d = Client(self.handler, self.reactor)
        self.assertEqual(d.ask(b"?get-filename"), b"!get-filename,ok,/data/f\r\n")
        self.assertEqual(d.ask(b"?version"), b"!version,ok,1.4\r\n")
        d.ask(b"?get-configuration")
        e, f = Client(self.handler, self.reactor), Client(self.handler, self.reactor)
        e.ask(b"?get-integration")
        f.ask(b"?probe,p")
        self.assertEqual(self.bench.begun[-3:], ["configuration", "integration", "p"])
        self.bench.open("integration", 40)
        self.assertEqual(e.answer(), b"!get-integration,ok,40\r\n")
        self.bench.open("configuration")
        self.assertEqual(d.answer(), b"!get-configuration,ok,SK77\r\n")

    def test_device_commands_do_not_wait_for_reads(self) -> None:
        self.a.ask(b"?get-configuration")
        self.assertEqual(self.b.ask(b"?start"), b"!start,ok\r\n")

    def test_start_and_stop_do_not_wait_for_a_conversion(self) -> None:
        self.a.ask(b"?convert-data")
        for line in (b"start", b"stop", b"set-shift,1"):
            self.assertEqual(self.b.ask(b"?" + line), b"!" + line.partition(b",")[0] + b",ok\r\n")
        self.bench.open("conversion")
        self.assertEqual(self.a.answer(), b"!convert-data,ok\r\n")

    def test_a_conversion_does_not_wait_for_the_device(self) -> None:
        self.a.ask(b"?set-configuration,1")
        self.b.ask(b"?convert-data")
        self.assertEqual(self.bench.begun, ["1", "conversion"])

    def test_files_run_one_at_a_time(self) -> None:
        self.a.ask(b"?convert-data")
        self.b.ask(b"?merge,m")
        self.assertEqual(self.bench.begun, ["conversion"])
        self.bench.open("conversion")
        self.assertEqual(self.bench.begun, ["conversion", "m"])
        self.assertEqual((self.a.answer(), self.b.answer()), (b"!convert-data,ok\r\n", b""))

    def test_a_failure_frees_the_device(self) -> None:
        for problem in (BackendError("no"), RuntimeError("internal"), SystemExit(1), CancelledError()):
            with self.subTest(repr(problem)):
                self.serve(Bench())
                self.a.ask(b"?set-configuration,1")
                self.b.ask(b"?set-shift,2")
                self.bench.gates["1"].errback(problem)
                self.assertRegex(self.a.answer(), rb"^!set-configuration,fail,")
                self.assertEqual(self.b.answer(), b"!set-shift,ok\r\n")
                self.assertEqual(self.c.ask(b"?set-shift,3"), b"!set-shift,ok\r\n")

    def test_a_refusal_in_the_queue_lets_the_next_one_begin(self) -> None:
        class Refusing(Bench):
            def set_shift(self, shift: int) -> None:
                raise (BackendError("shift out of range") if shift > 9 else SystemExit(1))

        self.serve(Refusing())
        self.a.ask(b"?set-configuration,1")
        self.b.ask(b"?set-shift,10")
        self.c.ask(b"?set-shift,9")
        last = Client(self.handler, self.reactor)
        last.ask(b"?start")
        self.bench.open("1")
        self.assertEqual(self.b.answer(), b"!set-shift,fail,shift out of range\r\n")
        self.assertEqual(self.c.answer(), b"!set-shift,fail,Request could not be handled correctly\r\n")
        self.assertEqual(last.answer(), b"!start,ok\r\n")

    def test_a_disconnected_client_cancels_nothing(self) -> None:
        gone = Client(self.handler, self.reactor)
        self.a.ask(b"?set-configuration,1")
        gone.ask(b"?set-filename,2")
        gone.hang_up()
        self.b.ask(b"?set-shift,3")
        self.bench.open("1")
        self.assertEqual(self.bench.begun, ["1", "2"])
        self.bench.open("2")
        self.assertEqual(self.bench.ended, ["2"])
        self.assertEqual(self.b.answer(), b"!set-shift,ok\r\n")
        self.assertEqual(gone.answer(), b"")

    def test_order_holds_for_what_is_asked_out_of_an_answer(self) -> None:
        def asks(name: str, number: str, following: Callable[[], Any] = lambda: None) -> Any:
            reply = maybeDeferred(self.handler.handle, request(name, number))
            return reply.addCallback(lambda _: following())

        asks("set-configuration", "1", lambda: asks("set-shift", "3"))
        asks("set-shift", "2", lambda: asks("set-shift", "4"))
        self.bench.open("1")
        self.assertEqual(self.bench.begun, ["1", "shift 2", "shift 3", "shift 4"])


class NestedTests(unittest.TestCase):
    """A method of the device that asks for another command of the device while it is being called."""

    def setUp(self) -> None:
        self.log: list[str] = []
        self.gates: list[Deferred[Any]] = []
        self.outcomes: list[Any] = []

    def nested(self, outer: Callable[[], Any]) -> DBProtocolHandler:
        """Serve a backend whose set_shift() asks for set-filename, which takes until its gate is opened."""
        test = self

        class Nested(Backend):
            def set_shift(self, shift: int) -> Any:
                test.log.append("shift begins")
                test.ask("set-filename", "f")
                return outer()

            async def set_filename(self, path: str) -> None:
                test.log.append("filename begins")
                test.gates.append(Deferred())
                await test.gates[-1]
                test.log.append("filename ends")

        self.handler = DBProtocolHandler(Nested(), reactor=FakeReactor())
        return self.handler

    def ask(self, name: str, *arguments: str) -> None:
        maybeDeferred(self.handler.execute, name, arguments).addBoth(self.outcomes.append)

    def test_a_deferred(self) -> None:
        gate: Deferred[Any] = Deferred()
        self.nested(lambda: gate)
        self.ask("set-shift", "1")
        self.assertEqual((self.log, self.outcomes), (["shift begins"], []))
        self.ask("set-shift", "2")
        gate.callback(None)
        # In the order of arrival: the nested one came first.
        self.assertEqual(self.log, ["shift begins", "filename begins"])
        self.gates[0].callback(None)
        self.assertEqual(self.log[:4], ["shift begins", "filename begins", "filename ends", "shift begins"])
        self.assertEqual(self.outcomes[:2], [b"!set-shift,ok", b"!set-filename,ok"])

    def test_a_value(self) -> None:
        self.nested(lambda: None)
        self.ask("set-shift", "1")
        self.assertEqual((self.log, self.outcomes), (["shift begins", "filename begins"], [b"!set-shift,ok"]))
        self.gates[0].callback(None)
        self.assertEqual(self.outcomes[1:], [b"!set-filename,ok"])

    def test_an_exception(self) -> None:
        def refuse() -> None:
            raise BackendError("no")

        self.nested(refuse)
        self.ask("set-shift", "1")
        self.assertEqual(self.log, ["shift begins", "filename begins"])
        self.assertEqual(str(self.outcomes[0].value), "no")
        self.gates[0].callback(None)
        self.assertEqual(self.outcomes[1:], [b"!set-filename,ok"])

    def test_a_value_that_cannot_be_sent(self) -> None:
        self.nested(dict)
        self.ask("set-shift", "1")
        self.gates[0].callback(None)
        self.assertIsInstance(self.outcomes[0].value, UnsendableError)
        self.assertEqual(self.outcomes[1:], [b"!set-filename,ok"])


class ManyTests(SchedulerTestCase):
    """A long queue overflows no stack."""

    COUNT = 5000

    def crowd(self, *requests: tuple[str, ...]) -> list[Any]:
        """Have so many requests wait; the list of the outcomes to come."""
        outcomes: list[Any] = []
        for index in range(self.COUNT):
            name, *arguments = requests[index % len(requests)]
            reply = self.handler.handle(request(name, *(text.format(index) for text in arguments)))
            assert isinstance(reply, Deferred)
            reply.addBoth(lambda outcome, of: outcomes.append((of, outcome)), index)
        self.assertEqual(outcomes, [])
        return outcomes

    def test_they_end_one_after_another(self) -> None:
        class Quick(Bench):
            async def sweep_at_once(self) -> None:
                self.begun.append("coroutine")

            @command("at-once", Argument("number", "integer"))
            async def coroutine(self, number: int) -> None:
                self.begun.append(f"coroutine {number}")

            @command("soon", Argument("number", "integer"))
            def deferred(self, number: int) -> Any:
                self.begun.append(f"Deferred {number}")
                return succeed(None)

        self.serve(Quick())
        self.a.ask(b"?set-configuration,first")
        outcomes = self.crowd(("set-shift", "{}"), ("at-once", "{}"), ("soon", "{}"))
        self.bench.open("first")
        self.assertEqual([index for index, _ in outcomes], list(range(self.COUNT)))
        self.assertEqual({reply.code for _, reply in outcomes}, {"ok"})
        self.assertEqual([int(text.split()[1]) for text in self.bench.begun[1:]], list(range(self.COUNT)))

    def test_they_reach_their_limit_together(self) -> None:
        self.a.ask(b"?set-configuration,first")
        outcomes = self.crowd(("set-shift", "{}"), ("set-filename", "{}"))
        self.reactor.pass_time(60)
        self.assertEqual(len(outcomes), self.COUNT)
        self.assertEqual(self.bench.begun, ["first"])
        self.assertEqual(self.b.ask(b"?start"), b"!start,ok\r\n")


class TimeLimitTests(SchedulerTestCase):
    """How long a command may take."""

    def test_default(self) -> None:
        for client, line in [(self.a, b"?set-configuration,1"), (self.b, b"?get-configuration")]:
            client.ask(line)
        self.reactor.pass_time(59.75)
        self.assertEqual((self.a.answer(), self.b.answer()), (b"", b""))
        self.reactor.pass_time(0.25)
        self.assert_timeout(self.a, b"set-configuration")
        self.assert_timeout(self.b, b"get-configuration")

    def test_the_handlers_setting(self) -> None:
        self.serve(Bench(), command_timeout=2.0)
        self.a.ask(b"?set-configuration,1")
        self.reactor.pass_time(1.75)
        self.assertEqual(self.a.answer(), b"")
        self.reactor.pass_time(0.25)
        self.assert_timeout(self.a, b"set-configuration")

    def test_none_at_all(self) -> None:
        self.serve(Bench(), command_timeout=None, timeouts={"convert-data": None})
        self.a.ask(b"?set-configuration,1")
        self.b.ask(b"?convert-data")
        self.reactor.advance(10**6)
        self.bench.open("1")
        self.bench.open("conversion")
        self.assertEqual(self.a.answer(), b"!set-configuration,ok\r\n")
        self.assertEqual(self.b.answer(), b"!convert-data,ok\r\n")

    def test_a_conversion_has_its_own_long_one(self) -> None:
        self.a.ask(b"?convert-data")
        self.reactor.pass_time(900)
        self.assertEqual(self.a.answer(), b"")
        limit = COMMANDS["convert-data"].timeout
        assert limit is not None
        self.reactor.pass_time(limit - 900.25)
        self.assertEqual(self.a.answer(), b"")
        self.reactor.pass_time(0.25)
        self.assert_timeout(self.a, b"convert-data")

    def test_own_commands_declare_theirs(self) -> None:
        for line, limit in [(b"?probe,x", 5.0), (b"?sweep,x", 20.0), (b"?merge,x", 900.0)]:
            with self.subTest(line):
                self.serve(Bench())
                self.a.ask(line)
                self.reactor.pass_time(limit - 0.25)
                self.assertEqual(self.a.answer(), b"")
                self.reactor.pass_time(0.25)
                self.assert_timeout(self.a, line[1:].partition(b",")[0])

    def test_timeouts_override_rows_and_declarations(self) -> None:
        timeouts = {"convert-data": 3.0, "probe": 4.0, "set-configuration": 5.0, "sweep": None}
        self.serve(Bench(), timeouts=timeouts)
        self.a.ask(b"?convert-data")
        self.b.ask(b"?probe,x")
        self.c.ask(b"?set-configuration,1")
        for client, name in [(self.a, b"convert-data"), (self.b, b"probe"), (self.c, b"set-configuration")]:
            self.reactor.pass_time(0.25)
            self.assertEqual(client.answer(), b"")
            self.reactor.pass_time(2.75 if name == b"convert-data" else 0.75)
            self.assert_timeout(client, name)
        self.a.ask(b"?sweep,x")
        self.reactor.pass_time(100)
        self.assertEqual(self.a.answer(), b"")

    def test_waiting_for_another_client_is_included(self) -> None:
        self.a.ask(b"?set-configuration,1")
        self.reactor.pass_time(10)
        self.b.ask(b"?set-configuration,2")
        self.reactor.pass_time(50)
        self.assert_timeout(self.a, b"set-configuration")
        self.assertEqual(self.bench.begun, ["1", "2"])
        self.reactor.pass_time(9.75)
        self.assertEqual(self.b.answer(), b"")
        self.reactor.pass_time(0.25)
        self.assert_timeout(self.b, b"set-configuration")

    def test_one_that_gives_up_waiting_never_begins(self) -> None:
        self.a.ask(b"?set-configuration,1")
        self.b.ask(b"?sweep,2")
        self.c.ask(b"?set-shift,3")
        self.reactor.pass_time(20)
        self.assertEqual(self.b.answer(), b"!sweep,fail,timeout: waited 20 s for set-configuration\r\n")
        self.bench.open("1")
        self.assertEqual(self.bench.begun, ["1", "shift 3"])
        self.assertEqual(self.a.answer(), b"!set-configuration,ok\r\n")
        self.assertEqual(self.c.answer(), b"!set-shift,ok\r\n")

    def test_a_reason_says_what_it_was(self) -> None:
        self.a.ask(b"?set-configuration,1")
        self.b.ask(b"?set-filename,2")
        self.reactor.pass_time(60)
        self.assertEqual(
            self.a.answer(), b"!set-configuration,fail,timeout: set-configuration took longer than 60 s\r\n"
        )
        # It had no turn: to blame it would send somebody looking in the wrong place.
        self.assertNotIn(b"took longer", self.b.answer())
        self.assertEqual(self.bench.begun, ["1"])

    def test_counted_from_when_it_is_next_on_its_connection(self) -> None:
        self.a.ask(b"?set-configuration,1", b"?set-configuration,2")
        self.reactor.pass_time(60)
        self.assert_timeout(self.a, b"set-configuration")
        self.assertEqual(self.bench.begun, ["1", "2"])
        self.reactor.pass_time(59.75)
        self.assertEqual(self.a.answer(), b"")
        self.reactor.pass_time(0.25)
        self.assert_timeout(self.a, b"set-configuration")

    def test_each_has_its_own_deadline(self) -> None:
        self.a.ask(b"?get-configuration")
        self.reactor.pass_time(2)
        self.b.ask(b"?probe,p")
        self.reactor.pass_time(4.75)
        self.assertEqual(self.b.answer(), b"")
        self.reactor.pass_time(0.25)
        self.assert_timeout(self.b, b"probe")
        self.reactor.pass_time(52.75)
        self.assertEqual(self.a.answer(), b"")
        self.reactor.pass_time(0.25)
        self.assert_timeout(self.a, b"get-configuration")

    def test_what_has_ended_in_time_is_not_spoken_of_again(self) -> None:
        self.a.ask(b"?set-configuration,1")
        self.reactor.pass_time(59.75)
        self.bench.open("1")
        self.assertEqual(self.a.answer(), b"!set-configuration,ok\r\n")
        self.b.ask(b"?set-configuration,2")
        with self.assertNoLogs("discosbackend", "WARNING"):
            self.reactor.pass_time(59.75)
        self.assertEqual((self.a.answer(), self.b.answer()), (b"", b""))

    def test_a_monotonic_clock(self) -> None:
        # A reactor's timers follow the host's clock, which may be stepped.
        host, monotonic = FakeReactor(), [1000.0]
        lanes = Scheduler(lambda: host, lambda: monotonic[0])
        outcomes: list[Any] = []
        shift = probe(Deferred, locks=[lanes.lock("device")], limit=60.0)
        cast(Any, lanes.run(shift, ())).addBoth(outcomes.append)
        host.advance(3600)
        monotonic[0] += 59.5
        host.advance(1)
        self.assertEqual(outcomes, [])
        monotonic[0] += 0.5
        host.advance(1)
        self.assertEqual(len(outcomes), 1)


class CancellationTests(SchedulerTestCase):
    """At its limit a coroutine or Deferred is cancelled, and the device is free whether or not it reacts."""

    def limit_reached(self, behaviour: Callable[[], Any]) -> None:
        """A command that does this has reached its limit."""

        class Odd(Bench):
            def set_section(self, *_: Any) -> Any:
                self.begun.append("section")
                return behaviour()

        self.serve(Odd())
        self.a.ask(b"?set-section,1,2,3,4,CP,5,6")
        self.b.ask(b"?set-configuration,2")
        self.reactor.pass_time(59.75)
        self.assertEqual(self.bench.begun, ["section"])
        # Another one that has just come, so that the device must be seen to be free.
        self.c.ask(b"?set-shift,3")
        self.reactor.pass_time(0.25)
        self.assert_timeout(self.a, b"set-section")
        # The one that came with it has reached its limit too.
        self.assert_timeout(self.b, b"set-configuration")
        self.assertEqual(self.c.answer(), b"!set-shift,ok\r\n")
        self.assertEqual(self.bench.begun, ["section", "shift 3"])
        self.assertEqual(self.a.ask(b"?start"), b"!start,ok\r\n")

    def test_a_coroutine_is_cancelled(self) -> None:
        caught: list[str] = []

        async def coroutine() -> None:
            try:
                await Deferred()
            except CancelledError:
                caught.append("cancelled")
                raise
            finally:
                caught.append("cleaned up")

        self.limit_reached(coroutine)
        self.assertEqual(caught, ["cancelled", "cleaned up"])

    def test_it_cleans_up_before_the_next_one_begins(self) -> None:
        class Tidy(Bench):
            async def set_section(self, *_: Any) -> None:
                try:
                    await Deferred()
                finally:
                    self.begun.append("cleaned up")

        self.serve(Tidy())
        self.a.ask(b"?set-section,1,2,3,4,CP,5,6")
        self.reactor.pass_time(30)
        self.b.ask(b"?set-shift,1")
        self.reactor.pass_time(30)
        self.assertEqual(self.bench.begun, ["cleaned up", "shift 1"])

    def test_a_deferred_is_cancelled(self) -> None:
        cancelled: list[Any] = []
        self.limit_reached(lambda: Deferred(cancelled.append))
        self.assertEqual(len(cancelled), 1)

    def test_a_coroutine_that_goes_on_all_the_same(self) -> None:
        gate: Deferred[None] = Deferred()
        went_on: list[str] = []

        async def stubborn() -> str:
            try:
                await Deferred()
            except CancelledError:
                went_on.append("went on")
            await gate
            went_on.append("and ended")
            return "late answer"

        self.limit_reached(stubborn)
        self.assertEqual(went_on, ["went on"])
        self.c.ask(b"?set-configuration,4")
        with self.assertLogs("discosbackend", "WARNING") as logs:
            gate.callback(None)
        self.assertEqual(went_on, ["went on", "and ended"])
        self.assertIn("set-section", logs.output[0])
        self.assertEqual((self.a.answer(), self.c.answer()), (b"", b""))
        # The late end did not end what is running now.
        self.b.ask(b"?set-shift,5")
        self.assertEqual(self.bench.begun[-1], "4")
        self.bench.open("4")
        self.assertEqual(self.c.answer(), b"!set-configuration,ok\r\n")
        self.assertEqual(self.b.answer(), b"!set-shift,ok\r\n")

    def test_late_results_without_end(self) -> None:
        """A client can cause one with each request that reaches its limit."""
        for length, kind in ((400, "late result"), (10000, "late failure")):
            with self.subTest(kind):
                self.check_late_results("x" * length, kind)

    def check_late_results(self, result: str, kind: str) -> None:
        gate: Deferred[None] = Deferred()

        class Slow(Bench):
            @command("slow", lane="reads", timeout=1.0)
            async def slow(self) -> str:
                try:
                    await Deferred()
                except CancelledError:
                    waiting: Deferred[None] = Deferred()
                    gate.addCallback(waiting.callback)
                    await waiting
                return result

        self.serve(Slow())
        for _ in range(100):
            Client(self.handler, self.reactor).ask(b"?slow")
        self.reactor.pass_time(1)
        with self.assertLogs("discosbackend.scheduler", "WARNING") as logs:
            gate.callback(None)
            self.assertEqual(len(logs.records), 5)
            self.reactor.pass_time(1)
        self.assertTrue(logs.records[0].getMessage().startswith(kind))
        self.assertEqual(logs.records[5].getMessage(), f"95 more lines of this kind left out: {kind}")
        self.assertTrue(all(len(record.getMessage()) < 400 for record in logs.records))

    def test_cancellers_that_raise_without_end(self) -> None:
        class Stuck(Bench):
            @command("slow", lane="reads", timeout=1.0)
            def slow(self) -> Deferred[None]:
                return Deferred(mock.Mock(side_effect=RuntimeError("no way back")))

        self.serve(Stuck())
        for _ in range(100):
            Client(self.handler, self.reactor).ask(b"?slow")
        with self.assertLogs("discosbackend.scheduler", "ERROR") as logs:
            self.reactor.pass_time(1)
            self.assertEqual(len(logs.records), 5)
            self.reactor.pass_time(1)
        self.assertEqual(logs.records[0].getMessage(), "cancelling slow failed")
        self.assertEqual(logs.records[5].getMessage(), "95 more lines of this kind left out: cancelling")

    def test_a_coroutine_that_fails_late(self) -> None:
        gate: Deferred[None] = Deferred()

        async def stubborn() -> None:
            try:
                await Deferred()
            except CancelledError:
                await gate
                raise RuntimeError("too late") from None

        self.limit_reached(stubborn)
        unhandled = self.enterContext(unhandled_errors())
        with self.assertLogs("discosbackend", "WARNING") as logs:
            gate.callback(None)
        self.assertIn("set-section", logs.output[0])
        self.assertIn("too late", logs.output[0])
        self.assertEqual(self.a.answer(), b"")
        gc.collect()
        self.assertEqual(unhandled, [])

    def test_a_deferred_with_a_canceller_that_raises(self) -> None:
        def canceller(_: Any) -> None:
            raise RuntimeError("no way back")

        slow: Deferred[str] = Deferred(canceller)
        with self.assertLogs("discosbackend", "ERROR") as logs:
            self.limit_reached(lambda: slow)
        self.assertIn("no way back", logs.output[0])
        with self.assertLogs("discosbackend", "WARNING") as logs:
            slow.callback("late answer")
        self.assertIn("set-section", logs.output[0])
        self.assertEqual(self.a.answer(), b"")

    def test_a_deferred_whose_canceller_answers(self) -> None:
        self.limit_reached(lambda: Deferred(lambda deferred: deferred.callback("just in time")))
        self.assertEqual(self.a.answer(), b"")

    def test_a_deferred_whose_canceller_does_nothing(self) -> None:
        self.limit_reached(lambda: Deferred(lambda _: None))

    def test_a_coroutine_that_is_cancelled_while_it_waits_for_a_stubborn_deferred(self) -> None:
        inner: Deferred[None] = Deferred(mock.Mock(side_effect=RuntimeError("no")))

        async def coroutine() -> None:
            await inner

        self.limit_reached(coroutine)
        inner.callback(None)
        self.assertEqual(self.a.answer(), b"")

    def test_no_error_is_left_unhandled(self) -> None:
        unhandled = self.enterContext(unhandled_errors())
        self.limit_reached(Deferred)
        self.limit_reached(lambda: Deferred(lambda deferred: deferred.errback(RuntimeError("odd"))))
        gc.collect()
        self.assertEqual(unhandled, [])


@implementer(ILogObserver)
class unhandled_errors:  # a context manager is named as a function
    """Collects what Twisted says about failures that nobody looked at."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __enter__(self) -> list[str]:
        globalLogPublisher.addObserver(self)
        return self.found

    def __exit__(self, *_: object) -> None:
        globalLogPublisher.removeObserver(self)

    def __call__(self, event: Any) -> None:
        """Twisted's hook."""
        if event.get("log_level") is not None and event["log_level"].name in ("error", "critical"):
            self.found.append(str(event))


class GivenUpTests(SchedulerTestCase):
    """The Deferred of a reply can be cancelled by whoever waits for it."""

    def outcome_of(self, name: str, *arguments: str) -> tuple[Any, list[Any]]:
        """A request, and the list of its outcomes to come."""
        outcomes: list[Any] = []
        reply = self.handler.handle(request(name, *arguments))
        return reply.addBoth(outcomes.append), outcomes  # type: ignore[union-attr]

    def test_while_it_runs(self) -> None:
        reply, outcomes = self.outcome_of("set-filename", "1")
        self.a.ask(b"?set-shift,2")
        reply.cancel()
        self.assertEqual(len(outcomes), 1)
        self.assertIsInstance(outcomes[0].value, HandlerException)
        self.assertEqual(self.bench.ended, [])
        self.assertEqual(self.a.answer(), b"!set-shift,ok\r\n")

    def test_while_it_waits(self) -> None:
        self.a.ask(b"?set-configuration,1")
        reply, outcomes = self.outcome_of("set-filename", "2")
        self.b.ask(b"?set-shift,3")
        reply.cancel()
        self.assertIsInstance(outcomes[0].value, HandlerException)
        self.assertEqual(self.b.answer(), b"")
        self.bench.open("1")
        self.assertEqual(self.bench.begun, ["1", "shift 3"])
        self.assertEqual(len(outcomes), 1)

    def test_after_its_end(self) -> None:
        reply, outcomes = self.outcome_of("set-filename", "1")
        self.bench.open("1")
        reply.cancel()
        self.assertEqual([outcome.code for outcome in outcomes], ["ok"])
        self.assertEqual(self.a.ask(b"?set-shift,2"), b"!set-shift,ok\r\n")

    def test_out_of_another_ones_answer(self) -> None:
        first, _ = self.outcome_of("set-configuration", "1")
        second, outcomes = self.outcome_of("set-filename", "2")
        self.a.ask(b"?set-shift,3")
        first.addCallback(lambda _: second.cancel())
        self.bench.open("1")
        self.assertEqual(len(outcomes), 1)
        self.assertIsInstance(outcomes[0].value, HandlerException)
        self.assertEqual(self.bench.begun, ["1", "shift 3"])
        self.assertEqual(self.a.answer(), b"!set-shift,ok\r\n")


def probe(method: Callable[[], Any], **others: Any) -> Any:
    """Return a read, as the scheduler needs it. Its reply is the result of its method."""
    command = {"name": "probe", "affects_reads": False, "write": lambda result: result, "locks": [], "worker": None}
    return SimpleNamespace(**{**command, "limit": 5.0, "method": method, **others})


class HeldWorker:
    """A thread whose calls end when a test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[Any], None]] = []

    def do(self, call: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.calls.append(done)


class SharedTests(unittest.TestCase):
    """What Scheduler offers to those who ask for the same at the same time."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.lanes = Scheduler(lambda: self.reactor, self.reactor.seconds)
        self.worker = HeldWorker()
        self.probe = probe(mock.Mock(), worker=self.worker)

    def ask(self, outcomes: list[Any], *texts: str) -> Deferred[Any]:
        """Ask for the probe in the thread."""
        reply = cast(Deferred[Any], self.lanes.run(self.probe, (), texts))
        return reply.addBoth(outcomes.append)

    def end(self, number: int, outcome: Any) -> None:
        """Let a call end."""
        self.worker.calls[number](outcome)
        self.reactor.drain()

    def test_locks_and_workers_by_name(self) -> None:
        self.assertIs(self.lanes.lock("device"), self.lanes.lock("device"))
        self.assertIsNot(self.lanes.lock("device"), self.lanes.lock("files"))
        self.assertIs(self.lanes.worker("device"), self.lanes.worker("device"))
        self.assertIsNot(self.lanes.worker("device"), self.lanes.worker("files"))

    def test_what_is_over_is_forgotten(self) -> None:
        class Key(str):
            """Something that can be watched."""

        key: Any = Key("1")
        watched = weakref.ref(key)
        outcomes: list[Any] = []
        for _ in range(2):
            self.ask(outcomes, key)
        self.assertEqual(len(self.worker.calls), 1)
        self.end(0, "answer")
        self.assertEqual(outcomes, ["answer", "answer"])
        self.reactor.pass_time(60)
        self.worker.calls.clear()
        del key
        gc.collect()
        self.assertIsNone(watched())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_different_arguments_share_nothing(self) -> None:
        outcomes: list[Any] = []
        for text in ("1", "2"):
            self.ask(outcomes, text)
        self.end(1, "second")
        self.assertEqual(outcomes, ["second"])

    def test_a_change_that_is_cancelled_at_its_limit(self) -> None:
        """A read that began before this end may have found the state before the change."""
        change = probe(Deferred, affects_reads=True, limit=1.0)
        cast(Deferred[Any], self.lanes.run(change, ())).addErrback(lambda _: None)
        outcomes: list[Any] = []
        self.ask(outcomes)
        self.ask(outcomes)
        self.assertEqual(len(self.worker.calls), 1)
        self.reactor.pass_time(2)
        self.ask(outcomes)
        self.assertEqual(len(self.worker.calls), 2)

    def test_one_who_has_enough_does_not_spoil_it_for_the_others(self) -> None:
        outcomes: list[Any] = []
        first = self.ask(outcomes)
        self.ask(outcomes)
        first.cancel()
        self.end(0, "answer")
        self.assertEqual(outcomes[1:], ["answer"])
        self.assertIsInstance(outcomes[0].value, HandlerException)


if __name__ == "__main__":
    unittest.main()
