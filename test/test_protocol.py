"""Tests of protocol: the greeting, lines in any pieces, and which reply each thing gets.

How exactly one reply comes about is in test_protocol_replies, what is bounded in test_protocol_limits, how a
connection ends in test_protocol_ends, what the log and the listeners are told in test_protocol_logs, and the
properties that hold it all together in test_protocol_properties.
"""

from __future__ import annotations

import unittest
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from discosbackend.backend import Backend, BackendError
from discosbackend.grammar import FAIL, INVALID, OK, REPLY, Message
from discosbackend.handlers import (
    AlwaysFailHandler,
    AlwaysOkHandler,
    AlwaysRaiseHandler,
    DBProtocolHandler,
    Handler,
    HandlerException,
)
from discosbackend.protocol import DBFactory

from .in_memory import GENERIC, GREETING, Connection, Later, Scripted, greeted, measured_by, ok, quiet
from .settings import LONG

LONGEST = 16384


def setUpModule() -> None:
    quiet()


class GreetingTests(unittest.TestCase):
    """Protocol section 1.2: the greeting, at once or after a delay, unless a line that gets a reply comes first."""

    @staticmethod
    def delayed(handler: Handler | None = None) -> Connection:
        return Connection(DBFactory(handler or AlwaysOkHandler(), greeting_delay=5, reactor=Clock()))

    def test_at_once(self) -> None:
        connection = Connection(AlwaysOkHandler())
        self.assertEqual(connection.received(), GREETING)
        connection.clock.advance(1000)
        self.assertEqual(connection.received(), b"")

    def test_each_connection(self) -> None:
        factory = DBFactory(AlwaysRaiseHandler(), reactor=Clock())
        self.assertEqual([Connection(factory).received() for _ in range(3)], [GREETING] * 3)

    def test_delayed(self) -> None:
        connection = self.delayed()
        connection.clock.advance(4.999)
        self.assertEqual(connection.received(), b"")
        connection.clock.advance(0.001)
        self.assertEqual(connection.received(), GREETING)
        self.assertEqual(connection.ask(b"?x\r\n"), b"!x,ok\r\n")
        connection.clock.advance(1000)
        self.assertEqual(connection.received(), b"")

    def test_suppressed_by_a_line_that_gets_a_reply(self) -> None:
        for line in (b"?x", b"?nope,", b"", b"x", b"\xff\xfb\x01?x", b"\xff\xff", b"?" + b"a" * LONGEST):
            with self.subTest(line[:8]):
                connection = self.delayed()
                connection.clock.advance(4.9)
                self.assertEqual(connection.ask(line + b"\n").count(b"\r\n"), 1)
                connection.clock.advance(1000)
                self.assertEqual(connection.received(), b"")
                self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_suppressed_while_the_reply_is_awaited(self) -> None:
        later = Later()
        connection = self.delayed(Scripted(later))
        connection.send(b"?x\r\n")
        connection.clock.advance(1000)
        self.assertEqual(connection.received(), b"")
        later.end()
        self.assertEqual(connection.received(), b"!x,ok\r\n")

    def test_suppressed_by_lines_that_wait_for_their_turn(self) -> None:
        """They arrived before the greeting was due, so a greeting would be read as the first one's reply."""
        connection = self.delayed(AlwaysOkHandler())
        other = greeted(DBFactory(connection.factory.handler, reactor=connection.clock))
        with measured_by(iter(range(10**6)).__next__):
            connection.clock.advance(4.9)
            other.send(b"?y\r\n" * 100)
            connection.send(b"!y\r\n" * 10 + b"?x\r\n" * 10)
            connection.clock.advance(0.2)
        self.assertEqual(connection.received(), b"!x,ok\r\n" * 10)

    def test_not_suppressed_by_lines_that_wait_for_their_turn(self) -> None:
        for half_close in (False, True):
            with self.subTest(half_close):
                connection = self.delayed()
                connection.transport_full()
                connection.send(b"!y\r\n" * 10)
                if half_close:
                    connection.half_close()
                connection.clock.advance(10)
                self.assertEqual(connection.received(), b"")
                connection.transport_empty()
                self.assertEqual(connection.ask(b""), GREETING)
                self.assertEqual(connection.transport.disconnecting, half_close)

    def test_not_suppressed(self) -> None:
        for data in (b"!x,ok\r\n" * 20, b"\xff\xfb\x01\r\n", b"\xff\xf1\n" * 20, b"?x", b"!" * 20000 + b"\n"):
            with self.subTest(data[:8]):
                connection = self.delayed()
                connection.clock.advance(4.9)
                self.assertEqual(connection.ask(data), b"")
                connection.clock.advance(0.1)
                self.assertEqual(connection.received(), GREETING)

    def test_half_close(self) -> None:
        for data, before, after in [
            (b"", b"", GREETING),
            (b"!x,ok\n", b"", GREETING),
            (b"?x\n", b"!x,ok\r\n", b""),
        ]:
            with self.subTest(data):
                connection = self.delayed()
                connection.send(data)
                connection.half_close()
                self.assertEqual(connection.received(), before)
                self.assertEqual(connection.transport.disconnecting, bool(before))
                connection.clock.advance(5)
                self.assertEqual(connection.received(), after)
                self.assertTrue(connection.transport.disconnecting)

    def test_not_to_one_who_is_gone(self) -> None:
        connection = self.delayed()
        connection.lose()
        self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_refused_delays(self) -> None:
        for delay in (-1, -0.001, float("nan")):
            with self.subTest(delay), self.assertRaises(ValueError):
                DBFactory(AlwaysOkHandler(), greeting_delay=delay)


class FramingTests(unittest.TestCase):
    """Protocol section 1.4: a line arrives in any number of pieces, or many in one."""

    SENT = (
        b"?x\r\n?x,1\n\r\n\xff\xfb\x01?x,2\r\0?x,3\r\0\n\xff\xfd\x03\xff\xf1\r\n!x,ok\r\n\n?x,a b\tc\r\r\n"
        b"?x,\\\\\\t\\,\xe9\r\n?x,\r\n?" + b"y" * 20000 + b"\r\n?x,end\r\nnot a line"
    )
    ANSWERED = (
        b"!x,ok\r\n!x,ok,1\r\n"
        b"!undefined,invalid,syntax error: empty line\r\n"
        b"!x,ok,2\r\n!x,ok,3\r\n"
        b"!undefined,invalid,syntax error: empty line\r\n"
        b"!x,invalid,syntax error: character 0x0D in argument 1 is not allowed\r\n"
        b"!x,ok,\\\\\\t\\,\xe9\r\n"
        b"!x,invalid,syntax error: argument 1 is empty\r\n"
        b"!undefined,invalid,syntax error: line longer than 16384 bytes\r\n"
        b"!x,ok,end\r\n"
    )

    def test_pieces(self) -> None:
        """With --long in pieces of each length up to 9."""
        for piece in (*(range(1, 10) if LONG else (1, 2, 3, 7)), None):
            with self.subTest(piece):
                self.assertEqual(greeted(AlwaysOkHandler()).ask(self.SENT, piece), self.ANSWERED)

    def test_line_ends(self) -> None:
        for end in (b"\r\n", b"\n", b"\r\0", b"\r\0\n"):
            for piece in (1, None):
                with self.subTest(end, piece=piece):
                    connection = greeted(AlwaysOkHandler())
                    self.assertEqual(connection.ask((b"?x,1" + end) * 3, piece), b"!x,ok,1\r\n" * 3)

    def test_many_in_one_chunk(self) -> None:
        handler = Scripted(ok)
        connection = greeted(handler)
        requests = [b"?x,%d" % number for number in range(5000)]
        replies = connection.ask(b"".join(request + b"\r\n" for request in requests))
        self.assertEqual(replies, b"".join(b"!x,ok,%d\r\n" % number for number in range(5000)))
        self.assertEqual(handler.requests, [request.decode() for request in requests])

    def test_longest_line(self) -> None:
        """The line's end is not counted, telnet's negotiation is."""
        handler = Scripted(lambda message: ok(message, str(len(message.arguments[0]))))
        too_long = b"!x,invalid,syntax error: line longer than 16384 bytes\r\n"
        for line, reply in [
            (b"?x," + b"a" * (LONGEST - 3), b"!x,ok,16381\r\n"),
            (b"?x," + b"a" * (LONGEST - 2), too_long),
            (b"\xff\xfb\x01?x," + b"a" * (LONGEST - 6), b"!x,ok,16378\r\n"),
            (b"\xff\xfb\x01?x," + b"a" * (LONGEST - 5), too_long),
            (b"!" + b"a" * 10 * LONGEST, b""),
            (b"\xff\xfb\x01!" + b"a" * LONGEST, b""),
            (b"?x," + b"\r" * LONGEST, too_long),
            (b"\xff\xf1" * LONGEST, too_long.replace(b"!x,", b"!undefined,")),
            (
                b"\n" + b"\0" * (LONGEST + 1),
                (
                    b"!undefined,invalid,syntax error: empty line\r\n"
                    b"!undefined,invalid,syntax error: line longer than 16384 bytes\r\n"
                ),
            ),
        ]:
            for end in (b"\r\n", b"\n", b"\r\0"):
                for piece in (None, 4099):
                    with self.subTest(line[:8], end=end, piece=piece):
                        connection = greeted(handler)
                        self.assertEqual(connection.ask(line + end, piece), reply)
                        self.assertTrue(connection.ask(b"\n?x,y\n").endswith(b"!x,ok,1\r\n"), "it lives on")

    def test_nothing_is_unasked(self) -> None:
        for data in (
            b"",
            b"?version",
            b"\xff\xfb\x01",
            b"\xff\xf1\n",
            b"!\n",
            b"!version,ok\r\n",
            b"!?x\r\0",
        ):
            with self.subTest(data):
                connection = greeted(AlwaysOkHandler())
                self.assertEqual(connection.ask(data), b"")
                connection.clock.advance(10**6)
                self.assertEqual(connection.received(), b"")
                self.assertFalse(connection.transport.disconnecting, "no idle timeout")


class Reluctant(Backend):
    """A backend that can do little and refuses half of that."""

    def time(self) -> float:
        return 1430922782.5

    def get_tpi(self) -> list[float]:  # it cannot select a band
        return [1.5, 2.0]

    def start(self, timestamp: Any = None) -> None:
        raise BackendError("already acquiring")

    def stop(self, timestamp: Any = None) -> None:
        raise ZeroDivisionError("a secret of the instrument")

    def set_shift(self, shift: int) -> None:
        raise SystemExit(shift)

    def get_filename(self) -> str:
        return "two\r\nlines"

    def get_rms(self) -> list[Any]:
        return [1.0, None]

    def end_schedule(self) -> Deferred[None]:
        return Deferred()

    def set_filename(self, path: str) -> None:
        raise HandlerException(f"{path}\xe9\r\n!time,ok,0\x00\x1b\u20ac")

    def set_configuration(self, configuration: str) -> None:
        raise BackendError("")


class ErrorTableTests(unittest.TestCase):
    """Protocol section 5: which reply each thing gets, as it stands on the wire."""

    def check(self, handler: Handler, table: Iterable[tuple[bytes, bytes]]) -> None:
        connection = greeted(handler)
        for line, reply in table:
            with self.subTest(line):
                self.assertEqual(connection.ask(line + b"\r\n"), reply)
        for line, reply in table:
            self.assertEqual(greeted(handler).ask(line + b"\r\n" + line + b"\r\n"), reply * 2)

    def test_syntax_error_of_a_named_command(self) -> None:
        name = b"n" * 64
        self.check(
            AlwaysOkHandler(),
            [
                (line, b"!" + line[1:].partition(b",")[0] + b",invalid,syntax error: " + reason + b"\r\n")
                for line, reason in [
                    (b"?status,", b"argument 1 is empty"),
                    (b"?status,,a", b"argument 1 is empty"),
                    (b"?nope,a,,b", b"argument 2 is empty"),
                    (b"?x,a\\", b"backslash at the end of argument 1"),
                    (b"?x,a,b\\x", b"escape '\\\\x' in argument 2 is unknown"),
                    (b"?x,a\\\xe9", b"escape of byte 0xE9 in argument 1 is unknown"),
                    (b"?x,a\\!", b"escape of byte 0x21 in argument 1 is unknown"),
                    (b"?x,a\0b", b"character 0x00 in argument 1 is not allowed"),
                    (b"?x,a\rb", b"character 0x0D in argument 1 is not allowed"),
                    (b"?x,a\x1bb", b"character 0x1B in argument 1 is not allowed"),
                    (b"?" + name + b",", b"argument 1 is empty"),
                ]
            ],
        )

    def test_syntax_error_of_no_command(self) -> None:
        begins = b"line begins with %s where ? is needed"
        letters = b"name %s is not a letter followed by letters digits and hyphens"
        self.check(
            AlwaysOkHandler(),
            [
                (line, b"!undefined,invalid,syntax error: " + reason + b"\r\n")
                for line, reason in [
                    (b"", b"empty line"),
                    (b"status", begins % b"'s'"),
                    (b" ?status", begins % b"' '"),
                    (b",", begins % b"byte 0x2C"),
                    (b"\xe9", begins % b"byte 0xE9"),
                    (b"\xff\xff", begins % b"byte 0xFF"),
                    (b"\xff\xfa\x18\x01\xff\xf0?status", begins % b"byte 0xFF"),
                    (b"\xff\xfb", begins % b"byte 0xFF"),
                    (b"\t?status", begins % b"byte 0x09"),
                    (b"\0?status", begins % b"byte 0x00"),
                    # Byte order marks, of UTF-8 and of UTF-16; half of the latter's other one is telnet negotiation.
                    (b"\xef\xbb\xbf?status", begins % b"byte 0xEF"),
                    (b"\xfe\xff\0?\0s", begins % b"byte 0xFE"),
                    (b"\xff\xfe?\0s\0t\0", begins % b"byte 0x00"),
                    (b"?", b"name missing after ?"),
                    (b"?,status", b"name missing after ?"),
                    (b"??status", letters % b"'?status'"),
                    (b"?1x,a", letters % b"'1x'"),
                    (b"?-x", letters % b"'-x'"),
                    (b"?sta tus,a", letters % b"'sta tus'"),
                    (b"?st\xe4tus", b"byte 0xE4 in the name is not allowed"),
                    (b"?a!b", b"byte 0x21 in the name is not allowed"),
                    (b"?status\0", b"byte 0x00 in the name is not allowed"),
                    (b"?status\rx", b"byte 0x0D in the name is not allowed"),
                    (b"?status\xff\xfb\x01", b"byte 0xFF in the name is not allowed"),
                    (b"?\xef\xbb\xbfstatus", b"byte 0xEF in the name is not allowed"),
                    (b"?" + b"n" * 65, b"name longer than 64 characters"),
                ]
            ],
        )

    def test_no_request(self) -> None:
        for handler in (AlwaysOkHandler(), AlwaysRaiseHandler(), DBProtocolHandler(Reluctant())):
            lines = (b"!", b"!time,ok,1", b"!?time", b"!\0", b"!a,", b"!!", b"\xff\xf1!", b"\xff\xf1")
            self.check(handler, [(line, b"") for line in lines])

    def test_handled_by_the_backend(self) -> None:
        self.check(
            DBProtocolHandler(Reluctant(), reactor=Clock()),
            [
                (b"?version", b"!version,ok,1.4\r\n"),
                (b"?time", b"!time,ok,1430922782.5000000\r\n"),
                # unknown
                (b"?nope", b"!nope,fail,invalid command 'nope'\r\n"),
                (b"?Time", b"!Time,fail,invalid command 'Time'\r\n"),
                (b"?get-tpi-,1", b"!get-tpi-,fail,invalid command 'get-tpi-'\r\n"),
                (b"?" + b"n" * 64, b"!" + b"n" * 64 + b",fail,invalid command '" + b"n" * 64 + b"'\r\n"),
                # arguments, looked at before whether the backend has the command
                (b"?status,1", b"!status,fail,status needs no arguments\r\n"),
                (b"?version,1", b"!version,fail,version needs no arguments\r\n"),
                (
                    b"?set-integration,x",
                    b"!set-integration,fail,integration time must be an integer number\r\n",
                ),
                (b"?set-integration", b"!set-integration,fail,missing argument: integration time\r\n"),
                (b"?set-section,1", b"!set-section,fail,set-section needs 7 arguments\r\n"),
                (b"?start,b\xe4d!\\,", b"!start,fail,wrong timestamp 'b?d??'\r\n"),
                (b"?get-tpi,1", b"!get-tpi,fail,get-tpi needs 0 or 2 arguments\r\n"),
                # refused
                (b"?start", b"!start,fail,already acquiring\r\n"),
                (b"?get-tpi,1,2", b"!get-tpi,fail,band selection is not supported\r\n"),
                (b"?get-tpi,0,0", b"!get-tpi,ok,1.5,2.0\r\n"),
                (
                    b"?set-filename,/a b\tc\xe9\\,",
                    b"!set-filename,fail,/a b\\tc?\\,\xe9??!time\\,ok\\,0???\r\n",
                ),
                (b"?set-configuration,SK77", b"!set-configuration,fail,%s\r\n" % GENERIC),
                # anything else, and what no reply can carry
                (b"?stop", b"!stop,fail,%s\r\n" % GENERIC),
                (b"?set-shift,3", b"!set-shift,fail,%s\r\n" % GENERIC),
                (b"?get-filename", b"!get-filename,fail,%s\r\n" % GENERIC),
                (b"?get-rms", b"!get-rms,fail,%s\r\n" % GENERIC),
                # not implemented
                (b"?status", b"!status,fail,not supported by this backend\r\n"),
                (b"?set-integration,5", b"!set-integration,fail,not supported by this backend\r\n"),
                (b"?backend-park", b"!backend-park,fail,not supported by this backend\r\n"),
            ],
        )

    def test_time_limit(self) -> None:
        clock = Clock()
        connection = greeted(DBFactory(DBProtocolHandler(Reluctant(), reactor=clock), reactor=clock))
        self.assertEqual(connection.ask(b"?end-schedule\r\n?time\r\n"), b"")
        clock.pump([1] * 59)
        self.assertEqual(connection.received(), b"")
        clock.advance(1)
        head, rest = b"!end-schedule,fail,timeout", b"!time,ok,1430922782.5000000"
        first, second, end = connection.received().split(b"\r\n")
        self.assertEqual((first[: len(head)], second, end), (head, rest, b""))

    def test_no_reply_of_the_name(self) -> None:
        generic = [(b"?x", b"!x,fail,%s\r\n" % GENERIC), (b"?x,a,b", b"!x,fail,%s\r\n" % GENERIC)]
        self.check(AlwaysFailHandler(), generic)
        self.check(AlwaysRaiseHandler(), generic)
        self.check(AlwaysOkHandler(), [(b"?x", b"!x,ok\r\n"), (b"?x,a,b", b"!x,ok,a,b\r\n")])

    def test_own_codes(self) -> None:
        """What a handler of the user's own answers with, it answers with."""
        for code in (OK, FAIL, INVALID):

            def answer(message: Message, code: str = code) -> Message:
                return Message(message_type=REPLY, name=message.name, code=code, arguments=["why, not"])

            self.check(Scripted(answer), [(b"?x", b"!x,%s,why\\, not\r\n" % code.encode())])


if __name__ == "__main__":
    unittest.main()
