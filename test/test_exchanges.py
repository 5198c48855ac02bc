"""One place sees every exchange: what listeners are told, and who changed what in the log."""

from __future__ import annotations

import logging
import unittest
from functools import partial
from time import perf_counter
from typing import Any
from unittest import mock

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock

from discosbackend import Argument, Backend, BackendError, command
from discosbackend.commands import COMMANDS, Command
from discosbackend.errors import ReplyTooLong
from discosbackend.exchanges import ConnectionEvent, Exchange, Reads, last_index
from discosbackend.handlers import AlwaysOkHandler, DBProtocolHandler, Handler, HandlerException
from discosbackend.protocol import DBFactory
from discosbackend.rate_limited_logger import RateLimitedLogger
from discosbackend.replies import Failures
from discosbackend.simulator import SimulatedBackend
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

from .in_memory import Connection, Later, Scripted, Wire, greeted, measured_by, odd, ok, quiet

LOGGER = "discosbackend.protocol"
PEER = "192.168.1.1:54321"


def setUpModule() -> None:
    quiet()


class Instrument(Backend):
    """Does what it is told, refuses some of it, and breaks down now and then."""

    def set_configuration(self, configuration: str) -> None:
        if configuration == "SK99":
            raise BackendError("invalid configuration")
        if configuration == "broken":
            raise ZeroDivisionError("a secret")

    def set_integration(self, integration: int) -> None:
        raise BackendError("not now")

    def set_section(self, *values: Any) -> None: ...

    def start(self, timestamp: Any = None) -> None: ...

    def stop(self, timestamp: Any = None) -> None:
        raise BackendError("not acquiring")

    def get_tpi(self) -> list[float]:
        return [1.5]

    def get_rms(self) -> list[float]:
        raise BackendError("too warm")

    def get_integration(self) -> int:
        return 40

    @command("warm-up")
    def warm_up(self) -> None: ...

    @command("merge", lane="files")
    def merge(self) -> None: ...

    @command("look", Argument("number", "integer"), lane="reads")
    def look(self, number: int) -> None: ...

    @command("measure", changes=False)
    def measure(self) -> None: ...

    @command("forget", lane="reads", changes=True)
    def forget(self) -> None: ...


class TableTests(unittest.TestCase):
    """Which commands change something is a column of the table."""

    def test_the_protocols_own(self) -> None:
        nothing = {"status", "version", "get-configuration", "get-integration", "time", "get-filename"}
        nothing |= {"get-tpi", "get-tp0", "get-rms", "get-ddcoffset"}
        self.assertEqual({row.name for row in COMMANDS.values() if not row.changes}, nothing)

    def test_what_an_own_command_may_say(self) -> None:
        for options, changes in (
            ({}, True),
            ({"lane": "files"}, True),
            ({"lane": "reads"}, False),
            ({"changes": False}, False),
            ({"lane": "reads", "changes": True}, True),
        ):
            with self.subTest(options):
                self.assertIs(Command("x", **options).changes, changes)

    def test_the_tasks_of_a_simulated_instrument(self) -> None:
        commands = DBProtocolHandler(SimulatedBackend("mistral")).commands
        for name in ("setup", "vna-sweep", "target-sweep", "reset"):
            self.assertTrue(commands[name].row.changes, name)  # type: ignore[attr-defined]


class ExchangeTests(unittest.TestCase):
    """What listeners are told."""

    def setUp(self) -> None:
        self.seen: list[Any] = []
        self.factory = DBFactory(DBProtocolHandler(Instrument()), reactor=Clock())
        self.factory.listeners.append(self.seen.append)

    def exchanges(self) -> list[Exchange]:
        return [each for each in self.seen if isinstance(each, Exchange)]

    def test_of_every_line(self) -> None:
        connection = greeted(self.factory)
        connection.ask(
            b"?set-configuration,SK00\r\n?set-configuration,SK99\r\n?get-tpi\r\n?x,a\r\n?stop,\r\n!x,ok\r\n\r\n"
            b"\xff\xf1?warm-up\r\n?set-configuration,broken\r\n?look,1\r\n?" + b"a" * 20000 + b"\r\n"
        )
        self.assertEqual(
            [(each.name, each.code, each.changes, each.request) for each in self.exchanges()],
            [
                ("set-configuration", "ok", True, b"?set-configuration,SK00"),
                ("set-configuration", "fail", True, b"?set-configuration,SK99"),
                ("get-tpi", "ok", False, b"?get-tpi"),
                ("x", "fail", True, b"?x,a"),
                ("stop", "invalid", False, b"?stop,"),
                ("", "", False, b"!x,ok"),
                ("", "invalid", False, b""),
                ("warm-up", "ok", True, b"?warm-up"),
                ("set-configuration", "fail", True, b"?set-configuration,broken"),
                ("look", "ok", False, b"?look,1"),
                ("", "invalid", False, b"?" + b"a" * 16383),
            ],
        )
        self.assertEqual(self.exchanges()[0].reply, b"!set-configuration,ok")
        self.assertEqual(self.exchanges()[5].reply, None)
        self.assertEqual({(each.connection, each.peer) for each in self.exchanges()}, {(1, PEER)})

    def test_when(self) -> None:
        later = Later()
        factory = DBFactory(odd(later), reactor=Clock())
        factory.listeners.append(self.seen.append)
        connection = greeted(factory)
        before = Ticks.now()
        with measured_by(connection.clock.seconds):
            connection.ask(b"?odd\r\n")
            connection.clock.advance(75)
            later.end()
        after = Ticks.now()
        (exchange,) = self.exchanges()
        self.assertEqual(exchange.seconds, 75)
        self.assertIsInstance(exchange.begin, Ticks)
        self.assertTrue(before - 75 * TICKS_PER_SECOND <= exchange.begin <= after - 75 * TICKS_PER_SECOND)

    def test_connections_are_events_of_the_same_stream(self) -> None:
        before = Ticks.now()
        first, second = greeted(self.factory), greeted(self.factory)
        first.ask(b"?get-integration\r\n")
        second.lose(ConnectionLost("reset"))
        first.ask(b"?get-integration\r\n")
        first.lose()
        told = [(each.connection, each.event if isinstance(each, ConnectionEvent) else each.name) for each in self.seen]
        wanted = [(1, "open"), (2, "open"), (1, "get-integration"), (2, "close"), (1, "get-integration"), (1, "close")]
        self.assertEqual(told, wanted)
        for each in self.seen:
            self.assertEqual(each.peer, PEER)
            instant = each.time if isinstance(each, ConnectionEvent) else each.begin
            self.assertTrue(before - TICKS_PER_SECOND <= instant <= Ticks.now())

    def test_numbers_are_never_used_again(self) -> None:
        for _ in range(5):
            greeted(self.factory).lose()
        self.assertEqual([each.connection for each in self.seen if each.event == "open"], [1, 2, 3, 4, 5])

    def test_nobody_listens(self) -> None:
        """Then no record is made of anything."""
        self.factory.listeners.clear()
        with (
            mock.patch("discosbackend.connection.exchange_of", side_effect=AssertionError),
            mock.patch("discosbackend.protocol.exchange_of", side_effect=AssertionError),
            mock.patch("discosbackend.connection.ConnectionEvent", side_effect=AssertionError),
        ):
            connection = greeted(self.factory)
            for line in (b"?get-integration", b"?set-configuration,SK00", b"?stop", b"?", b"!"):
                connection.ask(line + b"\r\n")
            connection.lose()

    def test_reads_do_not_even_come_by(self) -> None:
        self.factory.listeners.clear()
        connection = greeted(self.factory)
        with (
            mock.patch.object(type(connection.protocol), "_notify", side_effect=AssertionError),
            mock.patch.object(self.factory, "keep_read", side_effect=AssertionError),
        ):
            replies = connection.ask(b"?get-integration\r\n?get-tpi\r\n?get-rms\r\n?look,1\r\n?measure\r\n?version\r\n")
        self.assertEqual(replies.count(b"\r\n"), 6)

    def test_a_read_that_is_answered_later_is_kept_like_any_other(self) -> None:
        """Otherwise the monitors of an instrument whose reads wait for it would need much more time for each."""
        waiting: list[Deferred[int]] = []

        class Slow(Instrument):
            def get_integration(self) -> Any:
                waiting.append(Deferred())
                return waiting[-1]

        kept: list[Any] = []
        factory = DBFactory(DBProtocolHandler(Slow(), reactor=Clock()), reactor=Clock())
        factory.listeners.append(self.seen.append)
        factory.keep_read = kept.append
        connection = greeted(factory)
        connection.send(b"?get-integration\r\n?get-integration\r\n")
        waiting[0].callback(40)
        connection.clock.advance(0)
        waiting[1].errback(BackendError("not now"))
        self.assertEqual(
            [(number, peer, request, name, reply) for number, peer, _, request, name, reply, _ in kept],
            [(1, PEER, b"?get-integration", "get-integration", b"!get-integration,ok,40")],
        )
        self.assertEqual([(each.name, each.code) for each in self.exchanges()], [("get-integration", "fail")])

    def test_a_set_of_exchanges(self) -> None:
        """An exchange can be a key, also if its line was too long."""
        connection = greeted(self.factory)
        connection.ask(b"?look,1\r\n?" + b"a" * 20000 + b"\r\n")
        self.assertEqual(len(set(self.exchanges())), 2)
        self.assertEqual(len({each.request for each in self.exchanges()}), 2)

    def test_what_a_server_that_stops_gives_up(self) -> None:
        later = Later()
        factory = DBFactory(odd(later), reactor=Clock())
        factory.listeners.append(self.seen.append)
        connection = greeted(factory)
        connection.send(b"?odd\r\n")
        factory.finish(1)
        factory.reactor.advance(1)
        self.assertEqual([(each.name, each.code) for each in self.exchanges()], [("odd", "fail")])


class ReadsTests(unittest.TestCase):
    """Reads are a sequence of Exchanges."""

    def setUp(self) -> None:
        now = perf_counter()
        self.before = Ticks.now()
        values: list[Any] = []
        for each in range(5):
            values += (each, PEER, now - each, b"?get-tpi", "get-tpi", b"!get-tpi,ok,%d" % each, each / 8)
        self.reads = Reads.of(values)

    def test_of_each(self) -> None:
        for number, read in enumerate(self.reads):
            wanted = (number, PEER, read.begin, b"?get-tpi", "get-tpi", b"!get-tpi,ok,%d" % number, "ok", False)
            self.assertEqual(read, (*wanted, number / 8))
            self.assertIsInstance(read, Exchange)
            self.assertIsInstance(read.begin, Ticks)
            self.assertAlmostEqual(read.begin, self.before - number * TICKS_PER_SECOND, delta=TICKS_PER_SECOND // 10)

    def test_a_part(self) -> None:
        listed = list(self.reads)
        self.assertEqual((len(self.reads), len(listed)), (5, 5))
        for index in (0, 4, -1, -5):
            self.assertEqual(self.reads[index], listed[index])
        for part in (slice(2, 4), slice(-3, None), slice(None, 100), slice(3, 3), slice(9, None)):
            self.assertEqual(list(self.reads[part]), listed[part], part)
        with self.assertRaises(IndexError):
            self.reads[5]

    def test_the_last_one_of_each(self) -> None:
        self.assertEqual(self.reads.latest, {each: each for each in range(5)})
        for names, name, wanted in (
            ("aa", "a", 1),
            ("aa", "b", None),
            ("aba", "a", 2),
            ("aba", "b", 1),
            ("ab", "c", None),
        ):
            with self.subTest(names, name=name):
                values: list[Any] = []
                for index, each in enumerate(names):
                    values.extend((7, PEER, 0.0, b"", each, b"%d" % index, 0.0))
                reads = Reads.of(values)
                found = reads.last_of(name)
                self.assertEqual(None if found is None else found.reply, None if wanted is None else b"%d" % wanted)
                self.assertEqual(reads.latest, {7: len(names) - 1})
        numbers = ((1, 2, 1, 3), {1: 2, 2: 1, 3: 3})
        reads = Reads((numbers[0], *(("",) * 4 for _ in range(6))), 0)
        self.assertEqual(reads.latest, numbers[1])

    def test_the_last_one(self) -> None:
        self.assertEqual(last_index((1, 2, 1, 3), 1), 2)
        with self.assertRaises(ValueError):
            last_index((1, 2), 3)


class LogTests(unittest.TestCase):
    """At `info`, who changed what."""

    def setUp(self) -> None:
        self.handler: Handler = DBProtocolHandler(Instrument())

    def connect(self, handler: Handler | None = None, factory: DBFactory | None = None, host: str = "") -> Connection:
        """A connection whose floods are measured on its clock."""
        if factory is None:
            handler = handler or self.handler
            clock = Clock()
            factory = DBFactory(handler, reactor=clock)
            factory.rate_limited_logger = RateLimitedLogger(logging.getLogger(LOGGER), clock.callLater, clock.seconds)
            factory.failures = Failures(handler, factory.rate_limited_logger)
        transport = Wire()
        if host:
            address, _, port = host.partition(":")
            transport.peerAddr = IPv4Address("TCP", address, int(port))
        return greeted(factory, transport)

    def logged(self, connection: Connection, *lines: bytes, level: str = "INFO") -> list[str]:
        """What is logged of these lines."""
        with self.assertLogs("discosbackend", level) as logs:
            logging.getLogger("discosbackend").critical("lest there be nothing")
            with measured_by(lambda: 1.0):
                for line in lines:
                    connection.ask(line + b"\r\n")
        for record in logs.records:
            self.assertTrue(record.getMessage().isprintable())
        return [record.getMessage() for record in logs.records[1:]]

    def test_what_succeeded(self) -> None:
        connection = self.connect()
        for line, told in (
            (b"?set-configuration,SK00", f"set-configuration from {PEER}: 'SK00' -> ok in 0.000 s"),
            (b"?start", f"start from {PEER} -> ok in 0.000 s"),
            (b"?set-section,0,0,*,0,0,*,9", f"set-section from {PEER}: '0,0,*,0,0,*,9' -> ok in 0.000 s"),
            (b"?set-configuration,\x9b\xfc\\,", rf"set-configuration from {PEER}: '\x9bü\\,' -> ok in 0.000 s"),
            (b"?warm-up", f"warm-up from {PEER} -> ok in 0.000 s"),
            (b"?merge", f"merge from {PEER} -> ok in 0.000 s"),
            (b"?forget", f"forget from {PEER} -> ok in 0.000 s"),
        ):
            with self.subTest(line):
                self.assertEqual(self.logged(connection, line), [told])

    def test_what_changes_nothing(self) -> None:
        lines = (b"?get-tpi", b"?get-integration", b"?look,1", b"?measure", b"?version")
        self.assertEqual(self.logged(self.connect(), *lines), [])

    def test_long_arguments_are_cut(self) -> None:
        (line,) = self.logged(self.connect(), b"?set-configuration," + b"a" * 10000)
        self.assertLess(len(line), 250)
        self.assertIn("...", line)

    def test_how_long_it_took(self) -> None:
        later = Later()
        connection = self.connect(odd(later))
        with self.assertLogs(LOGGER, "INFO") as logs, measured_by(connection.clock.seconds):
            connection.send(b"?odd,1\r\n")
            connection.clock.advance(0.0123)
            later.end()
        self.assertEqual([record.getMessage() for record in logs.records], [f"odd from {PEER}: '1' -> ok in 0.012 s"])

    def test_success_is_always_logged(self) -> None:
        lines = self.logged(self.connect(), *[b"?set-configuration,SK00"] * 200)
        self.assertEqual(len(lines), 200)

    def test_refusals(self) -> None:
        connection = self.connect()
        for line, told in (
            (b"?set-configuration,SK99", f"set-configuration from {PEER}: 'SK99' -> fail 'invalid configuration' in"),
            (b"?stop", f"stop from {PEER} -> fail 'not acquiring' in"),
            (b"?set-integration,-1", f"set-integration from {PEER}: '-1' -> fail 'integration time must be"),
            (b"?get-rms", f"get-rms from {PEER} -> fail 'too warm' in"),
            (b"?nope,1", f"nope from {PEER}: '1' -> fail \"invalid command 'nope'\" in"),
        ):
            with self.subTest(line):
                (logged,) = self.logged(connection, line)
                self.assertTrue(logged.startswith(told), logged)
                self.assertTrue(logged.endswith(" s"), logged)

    def test_refusals_of_a_class_of_ones_own(self) -> None:
        """One that is raised at once is answered and logged like one that a Deferred fails with."""

        class MuchTooLong(ReplyTooLong):
            pass

        class Several(HandlerException, ExceptionGroup):
            pass

        several = Several("several", [BackendError("one"), BackendError("two")])
        for problem, level, told in (
            (MuchTooLong(9), "WARNING", f"odd from {PEER} -> fail 'reply too long: a reply has at most 9 bytes'"),
            (several, "INFO", f"odd from {PEER} -> fail 'one' in"),
        ):

            def answer(message: Any, problem: Exception = problem, later: bool = False) -> Any:
                if later:
                    return fail(problem)
                raise problem

            for later in (False, True):
                with self.subTest(told, later=later):
                    connection = self.connect(odd(partial(answer, later=later)))
                    with self.assertLogs(LOGGER, "INFO") as logs:
                        connection.ask(b"?odd\r\n")
                    (record,) = logs.records
                    self.assertEqual((record.levelname, record.getMessage()[: len(told)]), (level, told))

    def test_refusals_are_limited(self) -> None:
        """Five a minute a peer and command, then counted."""
        connection = self.connect()
        self.assertEqual(len(self.logged(connection, *[b"?stop"] * 100)), 5)
        self.assertEqual(len(self.logged(connection, *[b"?set-integration,1"] * 100)), 5, "another command")
        other = self.connect(factory=connection.factory, host="10.0.0.8:4711")
        self.assertEqual(len(self.logged(other, *[b"?stop"] * 100)), 5, "another peer")
        again = self.connect(factory=connection.factory, host="10.0.0.8:4712")
        self.assertEqual(self.logged(again, *[b"?stop"] * 100), [], "the same, on another connection")
        with self.assertLogs(LOGGER, "INFO") as logs:
            connection.clock.advance(60)
        self.assertEqual(
            sorted(record.getMessage() for record in logs.records),
            [
                "195 more lines of this kind left out: stop refused for 10.0.0.8",
                "95 more lines of this kind left out: set-integration refused for 192.168.1.1",
                "95 more lines of this kind left out: stop refused for 192.168.1.1",
            ],
        )
        self.assertEqual(len(self.logged(connection, *[b"?stop"] * 100)), 5)

    def test_refusals_are_limited_for_a_minute(self) -> None:
        connection = self.connect()
        with self.assertLogs(LOGGER, "INFO") as logs:
            for _ in range(60):
                connection.ask(b"?stop\r\n")
                connection.clock.advance(1)
                if connection.clock.seconds() < 60:
                    self.assertLessEqual(len(logs.records), 5)
        self.assertEqual(len(logs.records), 6)
        self.assertRegex(logs.records[5].getMessage(), "^55 more lines .*: stop refused for 192.168.1.1$")

    def test_a_success_between_refusals(self) -> None:
        lines = self.logged(self.connect(), *[b"?stop", b"?start"] * 50)
        self.assertEqual((len(lines), sum("start from" in line for line in lines)), (55, 50))

    def test_commands_that_a_peer_makes_up(self) -> None:
        connection = self.connect()
        self.assertEqual(len(self.logged(connection, *[b"?nope-%d" % number for number in range(1000)])), 5)

    def test_what_broke_down(self) -> None:
        """Once, with its traceback and with who asked."""
        connection = self.connect()
        with self.assertLogs("discosbackend", "INFO") as logs:
            connection.ask(b"?set-configuration,broken\r\n")
        (record,) = logs.records
        self.assertEqual(record.levelname, "ERROR")
        self.assertEqual(record.getMessage(), f"set-configuration from {PEER} failed: 'broken'")
        self.assertIn("a secret", logs.output[0])

    def test_a_handler_of_ones_own(self) -> None:
        self.assertEqual(
            self.logged(self.connect(AlwaysOkHandler()), b"?start", b"?status", b"?odd,1"),
            [f"start from {PEER} -> ok in 0.000 s", f"odd from {PEER}: '1' -> ok in 0.000 s"],
        )

        def refuse(_: Any) -> Any:
            raise HandlerException("no\n")

        (line,) = self.logged(self.connect(Scripted(refuse)), b"?start")
        self.assertTrue(line.startswith(rf"start from {PEER} -> fail 'no\n' in"), line)

        def fails(message: Any) -> Any:
            reply = ok(message, "because")
            reply.code = "fail"
            return reply

        (line,) = self.logged(self.connect(Scripted(fails)), b"?start")
        self.assertTrue(line.startswith(f"start from {PEER} -> fail 'because' in"), line)

    def test_added_by_a_user(self) -> None:
        handler = DBProtocolHandler(Instrument())
        handler.commands["load"] = lambda arguments: None
        handler.commands["get-filename"] = lambda arguments: "x"
        self.assertEqual(
            self.logged(self.connect(handler), b"?load,1", b"?get-filename"),
            [f"load from {PEER}: '1' -> ok in 0.000 s"],
        )

    def test_below_the_level(self) -> None:
        with self.assertNoLogs("discosbackend", "INFO"):
            logging.getLogger("discosbackend").setLevel(logging.WARNING)
            connection = self.connect()
            logging.getLogger(LOGGER).setLevel(logging.WARNING)
            self.addCleanup(logging.getLogger(LOGGER).setLevel, logging.NOTSET)
            connection.ask(b"?start\r\n?stop\r\n")
            self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_given_up_by_a_server_that_stops(self) -> None:
        later = Later()
        connection = self.connect(odd(later))
        connection.send(b"?odd,1\r\n?odd,2\r\n")
        with self.assertLogs(LOGGER, "INFO") as logs:
            connection.factory.finish(1)
            connection.clock.advance(1)
        messages = [record.getMessage() for record in logs.records]
        self.assertEqual(len(messages), 2)
        for number, message in enumerate(messages, 1):
            self.assertTrue(message.startswith(f"odd from {PEER}: '{number}' -> fail 'server is stopping' in"), message)


if __name__ == "__main__":
    unittest.main()
