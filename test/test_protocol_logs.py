"""Tests of protocol: what the log and the listeners are told, and the places to override."""

from __future__ import annotations

import asyncio
import logging
import unittest
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock

from discosbackend.backend import Backend, BackendError
from discosbackend.grammar import Message
from discosbackend.handlers import (
    AlwaysFailHandler,
    AlwaysOkHandler,
    DBProtocolHandler,
    Handler,
    HandlerException,
)
from discosbackend.protocol import DBFactory, DBProtocol, Exchange
from discosbackend.rate_limited_logger import RateLimitedLogger
from discosbackend.replies import Failures

from .in_memory import GREETING, Connection, Later, Scripted, greeted, measured_by, odd, ok, quiet


def setUpModule() -> None:
    quiet()


def refuse(_: Message) -> Message:
    """An expected refusal, whose cause is nobody's business."""
    try:
        raise OSError("a cause")
    except OSError as cause:
        raise BackendError("not now") from cause


def break_down(_: Message) -> Message:
    """What nobody expects."""
    raise ZeroDivisionError("a secret\nof the instrument")


class Unwell(Backend):
    """A backend whose values no reply can carry."""

    def get_rms(self) -> list[Any]:
        return [1.0, None]

    def get_tpi(self) -> float:  # it cannot select a band
        return float("nan")

    def status(self) -> tuple[float, str]:
        return 1.0, "ok"


class LogTests(unittest.TestCase):
    """One line each, quoted, and a traceback only for what nobody expected."""

    @staticmethod
    def connect(handler: Handler) -> Connection:
        """A connection whose floods are measured on its clock."""
        clock = Clock()
        factory = DBFactory(handler, reactor=clock)
        protocols = logging.getLogger("discosbackend.protocol")
        factory.rate_limited_logger = RateLimitedLogger(protocols, clock.callLater, clock.seconds)
        factory.failures = Failures(handler, factory.rate_limited_logger)
        return greeted(factory)

    @contextmanager
    def logged(self, level: str = "INFO") -> Iterator[list[logging.LogRecord]]:
        """The records, each of which is one line that nobody can have forged."""
        with self.assertLogs("discosbackend", level) as watched:
            yield watched.records
        for record in watched.records:
            self.assertTrue(record.getMessage().isprintable(), record.getMessage())

    def test_expected(self) -> None:
        long = Scripted(lambda message: ok(message, "a" * 600))
        for handler, line, level, words in [
            (AlwaysOkHandler(), b"?x,", "INFO", ["192.168.1.1:54321", "'?x,'", "empty"]),
            (AlwaysOkHandler(), b"\x0b?x\x85", "INFO", ["192.168.1.1:54321", r"'\x0b?x\x85'"]),
            (AlwaysOkHandler(), b"?" + b"a" * 20000, "INFO", ["192.168.1.1:54321", "16384"]),
            (AlwaysOkHandler(), b"!x,\xe9\x1b", "INFO", ["192.168.1.1:54321", r"'!x,é\x1b'"]),
            (AlwaysOkHandler(), b"!" + b"a" * 20000, "INFO", ["192.168.1.1:54321", "'!aaa"]),
            (Scripted(refuse), b"?start,1", "INFO", ["start", "not now"]),
            (
                Scripted(lambda _: fail(HandlerException("two\nlines\x85"))),
                b"?x",
                "INFO",
                ["x", r"two\nlines\x85"],
            ),
            (DBProtocolHandler(Backend()), b"?start,0x", "INFO", ["start", "0x"]),
            (DBProtocolHandler(Backend()), b"?nope", "INFO", ["nope", "invalid command"]),
            (DBProtocolHandler(Backend()), b"?start", "INFO", ["start", "not supported"]),
            (long, b"?long", "WARNING", ["long", "511"]),
            (AlwaysFailHandler(), b"?odd,\x85", "ERROR", ["odd", r"\x85"]),
            (Scripted(lambda _: None), b"?odd", "ERROR", ["odd", "None"]),
            (Scripted(lambda message: ok(message, "a\nb")), b"?odd", "ERROR", ["odd", r"a\nb"]),
            (DBProtocolHandler(Unwell()), b"?get-rms", "ERROR", ["get-rms"]),
            (DBProtocolHandler(Unwell()), b"?get-tpi", "ERROR", ["get-tpi"]),
            (DBProtocolHandler(Unwell()), b"?status", "ERROR", ["status", "acquiring"]),
        ]:
            with self.subTest(line[:20]):
                connection = self.connect(handler)
                with self.logged() as records:
                    connection.ask(line + b"\r\n")
                (record,) = records
                self.assertEqual((record.levelname, record.exc_info), (level, None))
                self.assertLess(len(record.getMessage()), 1000)
                for word in words:
                    self.assertIn(word, record.getMessage())

    def test_unexpected(self) -> None:
        async def coroutine(message: Message) -> Message:
            return break_down(message)

        later = Later()
        for style, answer in {
            "raised": break_down,
            "coroutine": coroutine,
            "fired": lambda message: Deferred.fromCoroutine(coroutine(message)),
            "failed": lambda message: later(message).addCallback(break_down),
        }.items():
            with self.subTest(style):
                connection = self.connect(Scripted(answer))
                with self.logged() as records:
                    connection.ask(b"?set-configuration,SK77\r\n")
                    if later.waiting:
                        later.end()
                (record,) = records
                self.assertEqual(record.levelname, "ERROR")
                self.assertIn("set-configuration", record.getMessage())
                written = logging.Formatter().format(record)
                self.assertIn("in break_down", written)
                self.assertIn("ZeroDivisionError: a secret", written)

    def test_all_is_well(self) -> None:
        connection = self.connect(AlwaysOkHandler())
        with self.assertNoLogs("discosbackend", "INFO"):
            connection.ask(b"?status\r\n" * 10 + b"\xff\xf1\r\n")
            connection.half_close()
            connection.lose()

    def test_lost(self) -> None:
        with self.logged() as records:
            self.connect(AlwaysOkHandler()).lose(ConnectionLost("reset by peer"))
        self.assertEqual([record.levelname for record in records], ["INFO"])

    def test_texts_for_people(self) -> None:
        """No bytes as Python writes them, and no tuples of OpenSSL."""
        problem = ConnectionLost([("SSL routines", "", "wrong version number"), ("x", "", "second")])
        first = self.connect(AlwaysOkHandler())
        with self.logged() as records:
            first.send(b"!status,ok\xff\r\n")
            first.lose(problem)
        said = [record.getMessage() for record in records]
        self.assertTrue(said[0].endswith("sent a line with '!', which gets no reply: '!status,okÿ'"), said)
        self.assertTrue(said[1].endswith(" lost: TLS: wrong version number; second"), said)
        self.assertEqual(len(said), 2)

    def test_connect_and_reset(self) -> None:
        """Again and again, for minutes: five lines and a count a minute."""
        first = self.connect(AlwaysOkHandler())
        with self.logged() as records:
            for _ in range(500):
                greeted(first.factory).lose(ConnectionLost("reset by peer"))
                first.clock.advance(0.1)
            self.assertEqual(len(records), 5)
            first.clock.advance(60)
        self.assertEqual(len(records), 6)
        self.assertEqual(records[5].getMessage(), "495 more lines of this kind left out: connection lost")

    def test_lines_that_cannot_be_handled(self) -> None:
        """Each costs its connection, and a client may come back each time."""

        class Broken(DBProtocol):
            def lineReceived(self, line: bytes) -> None:
                raise KeyError(line)

        first = self.connect(AlwaysOkHandler())
        first.factory.protocol = Broken
        with self.logged("ERROR") as records:
            for _ in range(100):
                greeted(first.factory).ask(b"?x\r\n")
        self.assertEqual(len(records), 5)

    def test_the_count_is_there_when_the_server_stops(self) -> None:
        first = self.connect(AlwaysOkHandler())
        first.factory.doStart()
        with self.logged() as records:
            for _ in range(100):
                greeted(first.factory).lose(ConnectionLost("reset by peer"))
            first.factory.doStop()
        self.assertEqual(records[-1].getMessage(), "95 more lines of this kind left out: connection lost")
        self.assertEqual(first.clock.getDelayedCalls(), [])

    def test_floods(self) -> None:
        """A client that repeats a mistake without end must not fill the log."""
        for handler, line, seconds in [
            (AlwaysOkHandler(), b"?\n", 1),
            (AlwaysOkHandler(), b"!\n", 1),
            (Scripted(refuse), b"?x\n", 60),
            (Scripted(break_down), b"?x\n", 1),
            (AlwaysFailHandler(), b"?x\n", 1),
            (Scripted(lambda message: ok(message, "")), b"?x\n", 1),
            (Scripted(lambda message: ok(message, "a" * 600)), b"?x\n", 1),
            (DBProtocolHandler(Unwell()), b"?get-rms\n", 1),
        ]:
            with self.subTest(line, handler=handler):
                connection = self.connect(handler)
                with self.logged() as records:
                    connection.ask(line * 1000)
                    self.assertEqual(len(records), 5)
                    connection.clock.advance(seconds)
                    connection.ask(line)
                self.assertEqual(len(records), 7)
                self.assertTrue(records[5].getMessage().startswith("995 more lines"), records[5].getMessage())
                self.assertEqual(records[6].msg, records[4].msg)

    def test_causes_that_cannot_be_printed(self) -> None:
        class Mute(RuntimeError):
            def __str__(self) -> str:
                raise SystemExit(3)

        def fail_silently(_: Message) -> Message:
            raise Mute

        connection = self.connect(Scripted(fail_silently))
        with self.logged() as records:
            connection.ask(b"?x\n" * 1000)
        self.assertEqual(len(records), 5)
        self.assertEqual(records[1].getMessage(), "x from 192.168.1.1:54321 failed, and the cause cannot be printed")

    def test_a_listener_that_always_fails(self) -> None:
        connection = self.connect(AlwaysOkHandler())
        connection.factory.listeners.append(mock.Mock(side_effect=ValueError("x")))
        with self.logged("ERROR") as records:
            self.assertEqual(connection.ask(b"?status\n" * 100), b"!status,ok\r\n" * 100)
            self.assertEqual(len(records), 5)
            connection.clock.advance(1)
        self.assertEqual(records[5].getMessage(), "95 more lines of this kind left out: listener")

    def test_commands_that_cannot_be_cancelled_at_the_end(self) -> None:
        def canceller(_: Any) -> None:
            raise RuntimeError("no way back")

        first = self.connect(Scripted(lambda _: Deferred(canceller)))
        for _ in range(100):
            greeted(first.factory).ask(b"?x\r\n")
        first.factory.finish(1)
        with self.logged("ERROR") as records:
            first.clock.advance(1)
            self.assertEqual(len(records), 5)
            first.clock.advance(1)
        self.assertEqual(records[0].getMessage(), "cancelling a command failed")
        self.assertEqual(records[5].getMessage(), "95 more lines of this kind left out: cancelling")

    def test_floods_from_many_connections(self) -> None:
        first = self.connect(AlwaysOkHandler())
        with self.logged() as records:
            for _ in range(100):
                greeted(first.factory).ask(b"?\r\n")
        self.assertEqual(len(records), 5)

    def test_listeners_are_told_of_each(self) -> None:
        """What the log leaves out, a recording does not."""
        connection = self.connect(AlwaysOkHandler())
        seen: list[Exchange] = []
        connection.factory.listeners.append(seen.append)
        connection.ask(b"?\r\n!\r\n" * 500)
        self.assertEqual(len(seen), 1000)

    @given(st.lists(st.binary(max_size=20) | st.sampled_from([b"?odd,", b"!", b"\x85", b"\x1c", b"\x0b"]), max_size=6))
    @example([b"?odd,\x85\x0bERROR:forged"])
    @example([b"!\rERROR:forged"])
    def test_no_line_can_be_forged(self, parts: list[bytes]) -> None:
        line = b"".join(parts).replace(b"\n", b"") + b"\r\n"
        for handler in (
            AlwaysFailHandler(),
            DBProtocolHandler(Backend()),
            Scripted(lambda message: fail(HandlerException(" ".join(message.arguments)))),
        ):
            with self.assertLogs("discosbackend", "DEBUG") as logged:
                connection = greeted(handler)
                connection.ask(line)
            self.assertLessEqual(len(logged.records), 1 + len(line.split(b"\r\0")), "the first says who connected")
            for record in logged.records:
                self.assertTrue(record.getMessage().isprintable(), record.getMessage())


class BareReturnTests(unittest.TestCase):
    """A client that ends its lines in CR alone is never answered, and somebody has to be told."""

    def warned(self, connection: Connection, sends: Iterable[bytes | float]) -> list[str]:
        """What is logged while it sends these, or waits so long."""
        with self.assertLogs("discosbackend.protocol", "DEBUG") as logs:
            logging.getLogger("discosbackend.protocol").debug("lest there be nothing")
            for each in sends:
                if isinstance(each, bytes):
                    connection.send(each)
                else:
                    connection.clock.advance(each)
        return [record.getMessage() for record in logs.records if record.levelno >= logging.WARNING]

    def test_when(self) -> None:
        cases: list[tuple[list[bytes | float], int]] = [
            ([b"?status\r", 4.9], 0),
            ([b"?status\r", 5.0], 1),
            ([b"?status\r?"], 1),
            ([b"?status\r", 4.0, b"?"], 1),
            ([b"?status\r", 4.0, b"\n", 10.0], 0),
            ([b"?status\r", 4.0, b"\0", 10.0], 0),
            ([b"?status\r", 4.0, b"\n?time\r", 4.0], 0),
            ([b"?status\r", 4.0, b"\n?time\r", 5.0], 1),
            ([b"?status\r\n", 10.0, b"?status", 10.0], 0),
            # Once a connection.
            ([b"?status\r", 5.0, b"?status\r", 5.0, b"\n?time\r", 10.0], 1),
            ([b"?status\r" * 10000, 10.0], 1),
            ([*[b"?status\r"] * 100, 10.0], 1),
            # It has an end, so it has a reply.
            ([b"?x,a\rb\r\n", 10.0], 0),
        ]
        for sends, wanted in cases:
            with self.subTest(sends[:3]):
                connection = greeted(AlwaysOkHandler())
                warnings = self.warned(connection, sends)
                self.assertEqual(len(warnings), wanted, warnings)
                for warning in warnings:
                    self.assertTrue(warning.startswith("192.168.1.1:54321 "), warning)
                    self.assertIn("CR", warning)
                connection.lose()
                self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_one_that_leaves(self) -> None:
        """Nothing can follow any more, so nobody waits for five seconds."""
        for leave in (Connection.half_close, Connection.lose):
            connection = greeted(AlwaysOkHandler())
            connection.send(b"?status\r")
            with self.assertLogs("discosbackend.protocol", "WARNING") as logs:
                leave(connection)
            self.assertEqual(len(logs.records), 1)
            self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_the_line_itself_waits_for_its_end(self) -> None:
        connection = greeted(AlwaysOkHandler())
        self.assertEqual(self.warned(connection, [b"?status\r", 5.0])[0].count("LF"), 2)
        self.assertEqual(connection.ask(b"\n?x\r\n"), b"!status,ok\r\n!x,ok\r\n")

    def test_a_crowd_of_them(self) -> None:
        first = greeted(AlwaysOkHandler())
        with self.assertLogs("discosbackend.protocol", "WARNING") as logs:
            for _ in range(100):
                greeted(first.factory).send(b"?status\r?")
        self.assertEqual(len(logs.records), 5)


class OverridingTests(unittest.TestCase):
    """lineReceived and sendLine are the places to override, as in Twisted's LineReceiver."""

    @staticmethod
    def connect(protocol: type[DBProtocol]) -> Connection:
        factory = DBFactory(AlwaysOkHandler(), reactor=Clock())
        factory.protocol = protocol
        return Connection(factory)

    def test_line_received(self) -> None:
        class Logging(DBProtocol):
            """Answers a line of its own and sees every other."""

            seen: list[bytes] = []

            def lineReceived(self, line: bytes) -> None:
                self.seen.append(line)
                if line == b"ping":
                    self.sendLine(b"pong")
                else:
                    super().lineReceived(line)

        connection = self.connect(Logging)
        self.assertEqual(
            connection.ask(b"?x,1\r\n!no\r\n\xff\xf1\nping\r\n\xff\xf1?x,2\r\n"),
            GREETING + b"!x,ok,1\r\npong\r\n!x,ok,2\r\n",
        )
        self.assertEqual(Logging.seen, [b"?x,1", b"ping", b"?x,2"])
        self.assertEqual(connection.ask(b"ping\n" * 1000), b"pong\r\n" * 1000)

    def test_send_line(self) -> None:
        class Shouting(DBProtocol):
            """Sees every line that is sent."""

            def sendLine(self, line: bytes) -> None:
                super().sendLine(line.upper())

        connection = self.connect(Shouting)
        self.assertEqual(connection.ask(b"?x\r\n?\r\n?x\r\n")[:25], b"!VERSION,OK,1.4\r\n!X,OK\r\n!")

    def test_send_line_of_what_is_no_bytes(self) -> None:
        """The connection is cut, with what was made in the same turn: one reply too few shifts all others."""

        class Mistaken(DBProtocol):
            """Answers a certain line with a text."""

            def lineReceived(self, line: bytes) -> None:
                if line == b"?y":
                    self.sendLine("!y,ok")  # type: ignore[arg-type]  # the mistake
                else:
                    super().lineReceived(line)

        for more in (0, 10):
            connection = self.connect(Mistaken)
            # A clock that stands still: on a busy machine a turn may end after the first line.
            with self.subTest(more=more), self.assertLogs("discosbackend", "ERROR") as logged, measured_by(lambda: 0.0):
                received = connection.ask(b"?x\r\n?y\r\n" + b"?x\r\n" * more)
            self.assertEqual(received, GREETING)
            self.assertTrue(connection.transport.disconnected)
            self.assertEqual(len(logged.records), 1)

    def test_line_received_that_raises(self) -> None:
        """Whether that line got its reply nobody knows, so its connection is cut; only this one."""

        class Broken(DBProtocol):
            """Cannot take a certain line."""

            def lineReceived(self, line: bytes) -> None:
                if line == b"?y":
                    raise KeyError(line)
                super().lineReceived(line)

        connection = self.connect(Broken)
        other = Connection(connection.factory)
        with self.assertLogs("discosbackend", "ERROR") as logged:
            self.assertEqual(connection.ask(b"?x\r\n?y\r\n?x\r\n"), GREETING)
        self.assertEqual(len(logged.records), 1)
        self.assertTrue(connection.transport.disconnected)
        self.assertEqual(other.ask(b"?x\r\n" * 10), GREETING + b"!x,ok\r\n" * 10)


class ListenerTests(unittest.TestCase):
    """One place sees every exchange."""

    def setUp(self) -> None:
        self.later = Later()
        self.seen: list[Exchange] = []
        self.connection = greeted(odd(self.later))
        self.connection.factory.listeners.append(self.seen.append)

    def test_what_they_are_told(self) -> None:
        self.connection.ask(b"?x,1\r\n!x\r\n\xff\xf1?,\r\n?odd\r\n?x\n")
        self.later.end("9")
        self.connection.ask(b"")
        peer = "192.168.1.1:54321"
        self.assertEqual(
            [(exchange.peer, exchange.request, exchange.reply) for exchange in self.seen],
            [
                (peer, b"?x,1", b"!x,ok,1"),
                (peer, b"!x", None),
                (peer, b"?,", b"!undefined,invalid,syntax error: name missing after ?"),
                (peer, b"?odd", b"!odd,ok,9"),
                (peer, b"?x", b"!x,ok"),
            ],
        )

    def test_how_long(self) -> None:
        with measured_by(self.connection.clock.seconds):
            self.connection.ask(b"?x\r\n?odd\r\n")
            self.connection.clock.advance(75)
            self.later.end()
        self.assertEqual([exchange.seconds for exchange in self.seen], [0, 75])

    def test_one_that_raises_harms_nobody(self) -> None:
        for problem in (ValueError("x"), asyncio.CancelledError(), SystemExit(1)):
            with self.subTest(problem):
                connection = greeted(odd(self.later))
                seen: list[Exchange] = []
                connection.factory.listeners += [mock.Mock(side_effect=problem), seen.append]
                with self.assertLogs("discosbackend", "ERROR") as logged:
                    self.assertEqual(connection.ask(b"?x\r\n?odd\r\n?x\r\n"), b"!x,ok\r\n")
                    self.later.end()
                    self.assertEqual(connection.ask(b""), b"!odd,ok\r\n!x,ok\r\n")
                self.assertEqual(len(seen), 3)
                assert logged.records[0].exc_info
                self.assertIs(logged.records[0].exc_info[1], problem)
                self.assertFalse(connection.transport.disconnecting)

    def test_one_that_leaves(self) -> None:
        """A recording ends itself; those behind it miss nothing."""
        listeners = self.connection.factory.listeners

        def once(_: Exchange) -> None:
            listeners.remove(once)

        listeners.insert(0, once)
        self.connection.ask(b"?x\r\n?x\r\n")
        self.assertEqual(len(self.seen), 2)

    def test_given_up(self) -> None:
        self.connection.ask(b"?odd\r\n")
        self.connection.factory.finish(1)
        self.connection.clock.advance(1)
        self.assertEqual([exchange.reply for exchange in self.seen], [b"!odd,fail,server is stopping"])


if __name__ == "__main__":
    unittest.main()
