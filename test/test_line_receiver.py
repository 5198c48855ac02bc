"""DBProtocol as a LineReceiver: what Twisted's documentation promises of one, and the Output as a place for changes."""

from __future__ import annotations

import itertools
import unittest
from typing import Any

from twisted.internet.task import Clock
from twisted.protocols.basic import LineReceiver

from discosbackend.framing import LONGEST_LINE
from discosbackend.handlers import AlwaysOkHandler
from discosbackend.output import Output
from discosbackend.protocol import DBFactory, DBProtocol

from .in_memory import GREETING, Connection, Later, Narrow, greeted, measured_by, odd, quiet


def setUpModule() -> None:
    quiet()


class Remembers(DBProtocol):
    """Keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[bytes] = []
        self.too_long: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        self.lines.append(line)
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.too_long.append(line)
        super().lineLengthExceeded(line)


def served(protocol: type[DBProtocol], transport: Any = None) -> Connection:
    """A connection with this protocol, whose greeting has been received."""
    factory = DBFactory(AlwaysOkHandler(), reactor=Clock())
    factory.protocol = protocol
    return greeted(factory, transport)


class LineReceiverTests(unittest.TestCase):
    def setUp(self) -> None:
        self.connection = served(Remembers, Narrow())
        self.protocol: Any = self.connection.protocol

    def test_it_is_one(self) -> None:
        self.assertIsInstance(self.protocol, LineReceiver)
        self.assertEqual((self.protocol.delimiter, self.protocol.MAX_LENGTH), (b"\r\n", LONGEST_LINE))

    def test_paused(self) -> None:
        self.protocol.pauseProducing()
        self.assertFalse(self.connection.transport.reading)  # type: ignore[attr-defined]
        # What had been read already.
        self.assertEqual(self.connection.ask(b"?a\r\n?b\r\n"), b"")
        self.assertEqual(self.protocol.lines, [])
        self.protocol.resumeProducing()
        self.assertTrue(self.connection.transport.reading)  # type: ignore[attr-defined]
        self.assertEqual(self.connection.ask(b"?c\r\n"), b"!a,ok\r\n!b,ok\r\n!c,ok\r\n")

    def test_paused_in_a_line(self) -> None:
        class Stops(Remembers):
            def lineReceived(self, line: bytes) -> None:
                super().lineReceived(line)
                if line == b"?b":
                    self.pauseProducing()

        connection = served(Stops)
        self.assertEqual(connection.ask(b"?a\r\n?b\r\n?c\r\n"), b"!a,ok\r\n!b,ok\r\n")
        connection.protocol.resumeProducing()
        self.assertEqual(connection.ask(b""), b"!c,ok\r\n")

    def test_a_pause_is_not_ended_by_a_client_that_reads(self) -> None:
        self.protocol.pauseProducing()
        self.protocol.sendLine(b"x" * 1000)
        self.assertEqual(self.connection.ask(b"?a\r\n"), b"x" * 1000 + b"\r\n")
        self.assertEqual(self.protocol.lines, [])

    def test_stopped(self) -> None:
        self.protocol.stopProducing()
        self.assertTrue(self.connection.transport.disconnecting)
        self.assertEqual(self.connection.ask(b"?a\r\n"), b"")

    def test_no_raw_mode(self) -> None:
        with self.assertRaisesRegex(RuntimeError, "every byte .* is part of a line"):
            self.protocol.setRawMode()
        self.protocol.setLineMode()
        self.protocol.setLineMode(b"?a\r\n")
        self.assertEqual(self.connection.ask(b""), b"!a,ok\r\n")

    def test_the_incomplete_line_is_forgotten(self) -> None:
        self.connection.send(b"?a\r\n?b")
        self.assertEqual(self.protocol.clearLineBuffer(), b"?b")
        self.assertEqual(self.connection.ask(b"?c\r\n"), b"!a,ok\r\n!c,ok\r\n")

    def test_the_return_of_a_forgotten_line_is_not_logged(self) -> None:
        self.connection.send(b"?a\r")
        self.assertEqual(self.protocol.clearLineBuffer(), b"?a\r")
        with self.assertNoLogs("discosbackend", "WARNING"):
            self.connection.clock.advance(60)
        self.assertEqual(self.connection.clock.getDelayedCalls(), [])

    def test_another_longest_line(self) -> None:
        class Short(Remembers):
            MAX_LENGTH = 10

        connection = served(Short)
        protocol: Any = connection.protocol
        replies = connection.ask(b"?a,45678\r\n?b,456789012345\r\n?c\r\n").split(b"\r\n")
        self.assertEqual(replies[0], b"!a,ok,45678")
        self.assertRegex(replies[1], b"^!b,invalid,syntax error: line longer than 10 bytes$")
        self.assertEqual(replies[2:], [b"!c,ok", b""])
        self.assertEqual(protocol.too_long, [b"?b,4567890"])

    def test_another_delimiter_of_what_is_sent(self) -> None:
        class Newlines(DBProtocol):
            delimiter = b"\n"

        self.assertEqual(served(Newlines).ask(b"?a\r\n?b\n"), b"!a,ok\n!b,ok\n")

    def test_another_delimiter_from_now_on(self) -> None:
        class Follows(DBProtocol):
            """Ends its lines as the client has asked for."""

            def lineReceived(self, line: bytes) -> None:
                if line == b"?b":
                    self.delimiter = b"\n"
                super().lineReceived(line)

        self.assertEqual(served(Follows).ask(b"?a\r\n?b\r\n?c\r\n"), b"!a,ok\r\n!b,ok\n!c,ok\n")


class EndTests(unittest.TestCase):
    """Ends that come in the middle of something else."""

    def test_after_http_nothing_is_executed_on_any_transport(self) -> None:
        """A transport without half-closed connections, as TLS, is closed at once, but may still deliver bytes."""
        for half_close in (False, True):
            with self.subTest(half_close):
                connection = served(Remembers)
                protocol: Any = connection.protocol
                self.assertRegex(connection.ask(b"POST / HTTP/1.1\r\n"), rb"^!undefined,invalid,[^\r]*\r\n$")
                self.assertTrue(connection.transport.disconnecting)
                if half_close:
                    connection.half_close()
                connection.transport.disconnecting = False
                self.assertEqual(connection.ask(b"\r\n?start\r\n"), b"")
                self.assertEqual(protocol.lines, [b"POST / HTTP/1.1"])

    def test_nothing_is_closed_inside_a_write(self) -> None:
        """TLS would send again what it is about to send."""

        class Strict(Narrow):
            writing = False

            def write(self, data: bytes) -> None:
                self.writing = True
                super().write(data)
                self.writing = False

            def loseConnection(self) -> None:
                assert not self.writing
                super().loseConnection()

        connection = served(DBProtocol, Strict())
        requests = b"?a,%s\r\n" % (b"x" * 300)
        replies = connection.ask(requests + b"GET / HTTP/1.1\r\n")
        self.assertEqual(replies.count(b"\n"), 2)
        self.assertTrue(connection.transport.disconnecting)

    def test_lost_while_it_was_paused(self) -> None:
        for stop in (False, True):
            with self.subTest(stop=stop):
                connection = served(Remembers)
                protocol: Any = connection.protocol
                protocol.pauseProducing()
                connection.send(b"?a\r\n?b\r\n")
                if stop:
                    protocol.stopProducing()
                connection.lose()
                connection.clock.advance(0)
                self.assertEqual(protocol.lines, [] if stop else [b"?a", b"?b"])
                self.assertEqual(connection.factory.connections, set())

    def test_a_line_that_arrives_inside_another(self) -> None:
        """A backend's method that runs the reactor."""

        class Nested(Remembers):
            def lineReceived(self, line: bytes) -> None:
                if line == b"?a":
                    self.dataReceived(b"?d\r\n")
                super().lineReceived(line)

        replies = served(Nested).ask(b"?a\r\n?b\r\n?c\r\n")
        self.assertEqual(replies, b"!a,ok\r\n!b,ok\r\n!c,ok\r\n!d,ok\r\n")
        self.assertEqual(served(Nested).ask(b"?a\r\n"), b"!a,ok\r\n!d,ok\r\n")

    def test_lines_that_arrive_inside_others_delay_no_reply(self) -> None:
        """A client that never waits, and methods that run the reactor: each reply is sent before the next turn."""
        sent: list[bytes] = []

        class Nested(Remembers):
            def lineReceived(self, line: bytes) -> None:
                sent.append(connection.transport.value())
                if len(sent) < 9:
                    self.dataReceived(b"?b\r\n")
                super().lineReceived(line)

        connection = served(Nested)
        connection.send(b"?a\r\n")
        self.assertEqual(connection.transport.value(), b"!a,ok\r\n")
        # The other lines are handled in turns of the reactor, which end by their time.
        with measured_by(itertools.count().__next__):
            for _ in range(8):
                connection.clock.advance(0)
        self.assertEqual(sent[:3], [b"", b"!a,ok\r\n", b"!a,ok\r\n!b,ok\r\n"])
        self.assertEqual(connection.transport.value(), b"!a,ok\r\n" + b"!b,ok\r\n" * 8)

    def test_a_connection_that_is_closed_by_a_method(self) -> None:
        class Closes(Remembers):
            def lineReceived(self, line: bytes) -> None:
                super().lineReceived(line)
                if line == b"?b":
                    self.close()

        connection = served(Closes)
        self.assertEqual(connection.ask(b"?a\r\n?b\r\n?c\r\n"), b"!a,ok\r\n!b,ok\r\n!c,ok\r\n")

    def test_a_reply_that_cannot_be_sent_later(self) -> None:
        """An overridden sendLine() that raises: the later replies must not be taken for this one."""

        class Fails(DBProtocol):
            def sendLine(self, line: bytes) -> None:
                if line.startswith(b"!odd"):
                    raise RuntimeError("no")
                super().sendLine(line)

        later = Later()
        factory = DBFactory(odd(later), reactor=Clock())
        factory.protocol = Fails
        connection, stopping = greeted(factory), greeted(factory)
        for each in (connection, stopping):
            self.assertEqual(each.ask(b"?odd\r\n?b\r\n"), b"")
        later.end()
        self.assertTrue(connection.transport.disconnected)
        self.assertFalse(stopping.transport.disconnected)
        finished: list[object] = []
        factory.finish(1).addBoth(finished.append)
        factory.reactor.advance(1)
        self.assertTrue(stopping.transport.disconnected)
        for each in (connection, stopping):
            each.lose()
        factory.reactor.advance(0)
        self.assertEqual(finished, [None])

    def test_lost_inside_a_line(self) -> None:
        """The next request waits for the one in which the connection was lost, also if that one runs the reactor."""
        order: list[bytes] = []

        class Loses(DBProtocol):
            def lineReceived(self, line: bytes) -> None:
                order.append(line)
                if line == b"?a":
                    connection.lose()
                    connection.clock.advance(0)
                order.append(line)

        connection = served(Loses)
        connection.send(b"?a\r\n?b\r\n")
        connection.clock.advance(0)
        self.assertEqual(order, [b"?a", b"?a", b"?b", b"?b"])

    def test_bytes_after_stop_producing(self) -> None:
        connection = served(Remembers)
        protocol: Any = connection.protocol
        protocol.stopProducing()
        connection.send(b"?a\r\n")
        connection.lose()
        connection.clock.advance(0)
        self.assertEqual(protocol.lines, [])


class OutputTests(unittest.TestCase):
    """A subclass of Output may do with replies what it likes."""

    def test_changed(self) -> None:
        class Loud(Output):
            def send(self, line: bytes) -> None:
                super().send(line.upper())

        class Shouts(DBProtocol):
            output_class = Loud

        self.assertEqual(served(Shouts).ask(b"?a\r\n?b\r\n"), b"!A,OK\r\n!B,OK\r\n")

    def test_delayed(self) -> None:
        class Late(Output):
            """Sends a reply only when it is told to; until then no request is executed."""

            def __init__(self, connection: Any) -> None:
                super().__init__(connection)
                self.held: list[bytes] = []

            @property
            def busy(self) -> bool:  # type: ignore[override]
                return bool(self.held)

            def send(self, line: bytes) -> None:
                if line == GREETING.rstrip():
                    super().send(line)
                    return
                self.held.append(line)
                self.ready = False

            def release(self) -> None:
                """Send what is held."""
                while self.held:
                    super().send(self.held.pop(0))
                self.ready = True
                self._connection.output_changed()

        class Delays(DBProtocol):
            output_class = Late

        connection = served(Delays)
        output: Any = connection.protocol.output
        self.assertEqual(connection.ask(b"?a\r\n?b\r\n"), b"")
        self.assertEqual(output.held, [b"!a,ok"])
        connection.half_close()
        self.assertFalse(connection.transport.disconnecting)
        output.release()
        self.assertEqual(connection.ask(b""), b"!a,ok\r\n")
        self.assertFalse(connection.transport.disconnecting)
        output.release()
        self.assertEqual(connection.ask(b""), b"!b,ok\r\n")
        self.assertTrue(connection.transport.disconnecting)


if __name__ == "__main__":
    unittest.main()
