"""Tests of protocol: how a connection ends, and how a server does; and what is asked of a transport."""

from __future__ import annotations

import re
import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import INegotiated, ITCPTransport
from twisted.internet.task import Clock
from zope.interface import directlyProvides, implementer

from discosbackend.grammar import Message
from discosbackend.handlers import AlwaysOkHandler, Handler, HandlerException
from discosbackend.protocol import DBFactory, Exchange
from discosbackend.simulator.faults.protocol import FaultyFactory
from discosbackend.simulator.faults.script import Fault, Faults

from .in_memory import GREETING, Connection, Later, Narrow, Scripted, Wire, greeted, odd, ok, quiet

STOPPING = b"server is stopping"


def setUpModule() -> None:
    quiet()


class HalfCloseTests(unittest.TestCase):
    """`printf '?status\\r\\n' | nc host port` still gets every reply, then the server closes."""

    def test_answered_at_once(self) -> None:
        for data, reply in [
            (b"", b""),
            (b"?x,1\n", b"!x,ok,1\r\n"),
            (b"?x,1\n?x,2", b"!x,ok,1\r\n"),
            (b"?x,1\r\0", b"!x,ok,1\r\n"),
            (b"?x,1\r", b""),
            (b"?x,1\r\n" * 1000, b"!x,ok,1\r\n" * 1000),
            (b"!x\r\n" * 1000, b""),
            (b"?x,1\r\n" * 10 + b"!x\r\n" * 10, b"!x,ok,1\r\n" * 10),
        ]:
            with self.subTest(data[:15]):
                connection = greeted(AlwaysOkHandler())
                connection.send(data)
                connection.half_close()
                self.assertEqual(connection.ask(b""), reply)
                self.assertTrue(connection.transport.disconnecting)
                self.assertFalse(connection.transport.disconnected, "not cut: what was written is still sent")
                self.assertIsNone(connection.transport.producer, "a producer would keep the transport open")
                connection.lose()
                self.assertEqual(connection.factory.connections, set())

    def test_answered_later(self) -> None:
        later = Later()
        connection = greeted(odd(later))
        connection.send(b"?odd,1\r\n?x,2\r\n?odd,3\r\n?x,4")
        connection.half_close()
        self.assertEqual(connection.ask(b""), b"")
        self.assertFalse(connection.transport.disconnecting)
        later.end()
        self.assertEqual(connection.ask(b""), b"!odd,ok,1\r\n!x,ok,2\r\n")
        self.assertFalse(connection.transport.disconnecting)
        later.end()
        self.assertEqual(connection.received(), b"!odd,ok,3\r\n")
        self.assertTrue(connection.transport.disconnecting)

    def test_read_slowly(self) -> None:
        connection = greeted(AlwaysOkHandler(), Narrow())
        connection.send(b"?x,1\r\n" * 1000)
        connection.half_close()
        connection.clock.advance(0)
        self.assertFalse(connection.transport.disconnecting)
        self.assertEqual(connection.ask(b""), b"!x,ok,1\r\n" * 1000)
        self.assertTrue(connection.transport.disconnecting)

    def test_with_a_long_backlog(self) -> None:
        """A transport that is asked to read again would report a second time that the client has closed its half."""
        later = Later()
        wire = Narrow()
        connection = greeted(odd(later), wire)
        connection.send(b"?odd,1\r\n" + b"?x,1\r\n" * 4000)
        self.assertEqual(wire.told, ["pause"])
        connection.half_close()
        connection.clock.advance(0)
        later.end()
        self.assertEqual(connection.ask(b""), b"!odd,ok,1\r\n" + b"!x,ok,1\r\n" * 4000)
        self.assertEqual(wire.told, ["pause"])
        self.assertTrue(wire.disconnecting)


class GoneTests(unittest.TestCase):
    """When a client disconnects, its commands are not cancelled; what was received is carried out."""

    def test_while_a_command_runs(self) -> None:
        for reason in (None, ConnectionLost("reset by peer")):
            with self.subTest(reason):
                later = Later()
                connection = greeted(odd(later))
                connection.send(b"?odd\r\n")
                connection.lose(reason)
                self.assertFalse(later.waiting[0][1].called, "it is not cancelled")
                later.end()
                connection.clock.advance(0)
                self.assertEqual(connection.transport.value(), b"")
                self.assertEqual(connection.factory.connections, set())
                self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_one_that_fails_later(self) -> None:
        later = Later()
        connection = greeted(odd(later))
        connection.send(b"?odd\r\n?odd\r\n")
        connection.lose()
        with self.assertLogs("discosbackend", "ERROR") as logged:
            later.waiting.pop()[1].errback(ValueError("late"))
        self.assertEqual(len(logged.records), 1)
        connection.clock.advance(0)
        later.waiting.pop()[1].errback(HandlerException("no"))
        self.assertEqual(connection.factory.connections, set())

    def test_with_a_backlog(self) -> None:
        """As the script that pipes `?convert-data`, an empty line and `quit` through telnet and hangs up."""
        later = Later()
        handler = odd(later)
        connection = greeted(handler)
        connection.send(b"?odd,1\r\n\r\nquit\r\n?x,2\r\n?odd,3\r\n?x,4\r\n?x,5")
        connection.lose()
        connection.clock.advance(0)
        self.assertEqual(handler.requests, ["?odd,1"])
        later.end()
        connection.clock.advance(0)
        self.assertEqual(handler.requests, ["?odd,1", "?x,2", "?odd,3"])
        self.assertEqual(len(connection.factory.connections), 1)
        later.end()
        connection.clock.advance(0)
        self.assertEqual(handler.requests, ["?odd,1", "?x,2", "?odd,3", "?x,4"])
        self.assertEqual(connection.factory.connections, set())

    def test_without_having_read(self) -> None:
        handler = Scripted(ok)
        connection = greeted(handler, Narrow())
        connection.send(b"?x,1\r\n" * 1000)
        connection.clock.advance(0)
        self.assertTrue(connection.transport.full)
        self.assertLess(len(handler.requests), 1000)
        connection.lose()
        connection.clock.advance(0)
        self.assertEqual(len(handler.requests), 1000)
        self.assertEqual(connection.factory.connections, set())

    def test_reads_of_one_who_is_gone(self) -> None:
        """A client that floods the server, and never waits for replies, costs neither time nor memory afterwards."""
        handler = Scripted(ok)
        connection = greeted(handler, Narrow())
        connection.send(b"?status\r\n" * 900 + b"?start\r\n?get-tpi\r\n?version\r\n\r\n")
        connection.send(b"?nonesuch\r\n?status,1\r\n?stop\r\n")
        connection.clock.advance(0)
        begun = len(handler.requests)
        self.assertLess(begun, 900, "it is not read, so most of it waits")
        connection.lose()
        connection.clock.advance(0)
        self.assertEqual(handler.requests[begun:], ["?start", "?nonesuch", "?stop"])
        self.assertEqual(connection.factory.connections, set())

    def test_language_of_one_who_is_gone(self) -> None:
        """The line that says so is kept, so that nothing behind it is carried out."""
        later = Later()
        handler = odd(later)
        connection = greeted(handler)
        connection.send(b"?odd\r\nPOST / HTTP/1.1\r\n?status\r\n?start\r\n")
        connection.lose()
        later.end()
        connection.clock.advance(0)
        self.assertEqual(handler.requests, ["?odd"])

    def test_long_line_of_one_who_is_gone(self) -> None:
        """It is not a read, whatever its name, so it is kept: the listeners get it."""
        later = Later()
        connection = greeted(odd(later))
        seen: list[Exchange] = []
        connection.factory.listeners.append(seen.append)
        connection.send(b"?odd\r\n?status\r\n?status," + b"x" * 16384 + b"\r\n")
        connection.lose()
        later.end()
        connection.clock.advance(0)
        lines = [(each.name, each.code, len(each.request)) for each in seen if isinstance(each, Exchange)]
        self.assertEqual(lines, [("odd", "ok", 4), ("status", "invalid", 16384)])

    def test_finish_with_many_who_are_gone(self) -> None:
        """What they had asked does not hold up the end of the server."""
        later = Later()
        factory = DBFactory(odd(later), reactor=Clock())
        for _ in range(3):
            gone = greeted(factory)
            gone.send(b"?odd\r\n")
            gone.send(b"?status\r\n" * 900)
            gone.lose()
            self.assertRegex(gone.protocol.describe(), "reply to odd, lost$")

    def test_others_do_not_notice(self) -> None:
        later = Later()
        factory = DBFactory(odd(later), reactor=Clock())
        gone, other = greeted(factory), greeted(factory)
        gone.send(b"?odd\r\n" * 100)
        gone.lose()
        self.assertEqual(other.ask(b"?x\r\n?x\r\n"), b"!x,ok\r\n" * 2)
        for _ in range(100):
            later.end()
            factory.reactor.advance(0)
        self.assertEqual(other.ask(b"?x\r\n"), b"!x,ok\r\n")
        self.assertEqual(factory.connections, {other.protocol})


@implementer(ITCPTransport)
class TcpWire(Wire):  # type: ignore[misc]  # not all of the interface
    """A transport with TCP's settings."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.settings["keepalive"] = enabled

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.settings["nodelay"] = enabled


class TransportTests(unittest.TestCase):
    """What is asked of the transport."""

    def test_tcp(self) -> None:
        """A lost network is noticed, and a small reply is not kept back."""
        transport = TcpWire()
        self.assertEqual(Connection(AlwaysOkHandler(), transport).received(), GREETING)
        self.assertEqual(transport.settings, {"keepalive": True, "nodelay": True})

    def test_local_socket(self) -> None:
        """Twisted's claim to be TCP's, but know none of its settings."""
        transport = TcpWire()
        transport.peerAddr = UNIXAddress(b"/run/backend.sock")
        connection = Connection(AlwaysOkHandler(), transport)
        self.assertEqual(transport.settings, {})
        exchanges: list[Exchange] = []
        connection.factory.listeners.append(exchanges.append)
        self.assertEqual(connection.ask(b"?x\r\n"), GREETING + b"!x,ok\r\n")
        self.assertIn("/run/backend.sock", exchanges[0].peer)

    def test_peers_have_one_name(self) -> None:
        for address, name in (
            (IPv4Address("TCP", "10.0.0.7", 4711), "10.0.0.7:4711"),
            (IPv6Address("TCP", "::1", 5000), "[::1]:5000"),
            (IPv6Address("TCP", "::ffff:10.0.0.7", 4711), "10.0.0.7:4711"),
            (UNIXAddress(None), "a local socket"),
        ):
            with self.subTest(name):
                transport = Wire()
                transport.peerAddr = address
                exchanges: list[Exchange] = []
                with self.assertLogs("discosbackend.protocol", "DEBUG") as logs:
                    connection = Connection(AlwaysOkHandler(), transport)
                    connection.factory.listeners.append(exchanges.append)
                    connection.ask(b"?x\r\n?\r\n!x\r\n")
                    connection.lose(ConnectionLost("reset by peer"))
                self.assertEqual({exchange.peer for exchange in exchanges}, {name})
                self.assertEqual(str(connection.protocol), name)
                for record in logs.records:
                    self.assertRegex(record.getMessage(), rf"^(x from )?{re.escape(name)} ")
                self.assertEqual(len(logs.records), 5)

    def test_streaming_producer(self) -> None:
        connection = greeted(AlwaysOkHandler())
        self.assertIs(connection.transport.producer, connection.protocol.output)
        self.assertIs(connection.transport.streaming, True)

    def test_one_write_a_turn(self) -> None:
        """Each would be a packet of its own."""
        connection = greeted(AlwaysOkHandler())
        with mock.patch.object(connection.transport, "write", wraps=connection.transport.write) as write:
            self.assertEqual(connection.ask(b"?x\r\n" * 3), b"!x,ok\r\n" * 3)
        write.assert_called_once()


HTTP = b"POST / HTTP/1.1\r\nHost: 127.0.0.1:8978\r\nContent-Length: 8\r\n\r\n"
INVALID = b"!undefined,invalid,syntax error: line begins with 'P' where ? is needed\r\n"


class HttpTests(unittest.TestCase):
    """Protocol section 1.10: a web page can make a browser send anything, behind a line that is HTTP's."""

    def connect(self, handler: Handler | None = None, transport: Wire | None = None) -> Connection:
        return greeted(handler or self.handler, TcpWire() if transport is None else transport)

    def setUp(self) -> None:
        self.handler = Scripted(ok)

    def end(self, connection: Connection) -> None:
        """The client closes too; nothing is left behind."""
        connection.half_close()
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()
        self.assertEqual(connection.factory.connections, set())
        self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_nothing_behind_it_is_looked_at(self) -> None:
        for body in (b"?start\r\n", b"?start\r\n" * 5000, b"!x\r\n?start\n", b"?start\r\0"):
            for piece in (None, 1, 7) if len(body) < 100 else (None, 4096):
                with self.subTest(body[:10], piece=piece):
                    self.setUp()
                    connection = self.connect()
                    self.assertEqual(connection.ask(HTTP + body, piece), INVALID)
                    self.assertTrue(connection.transport.half_closed)
                    self.assertFalse(connection.transport.disconnecting, "what still comes has to be read")
                    self.assertEqual(connection.ask(b"?start\r\n"), b"")
                    self.assertEqual(self.handler.requests, [])
                    self.assertEqual(connection.transport.producerState, "producing")
                    self.end(connection)

    def test_what_came_before_it_is_answered(self) -> None:
        connection = self.connect()
        received = connection.ask(b"?x,1\r\n?x,2\r\n" + HTTP + b"?x,3\r\n")
        self.assertEqual(received, b"!x,ok,1\r\n!x,ok,2\r\n" + INVALID)
        self.end(connection)

    def test_what_is_still_running_is_answered_first(self) -> None:
        later = Later()
        connection = self.connect(odd(later))
        self.assertEqual(connection.ask(b"?odd\r\n" + HTTP + b"?odd\r\n"), b"")
        self.assertFalse(connection.transport.half_closed)
        later.end()
        self.assertEqual(connection.ask(b""), b"!odd,ok\r\n" + INVALID)
        self.assertTrue(connection.transport.half_closed)
        self.assertEqual(later.waiting, [])
        self.end(connection)

    def test_a_client_that_does_not_close(self) -> None:
        """After a second it is closed for good; a reset before that would destroy the reply."""
        connection = self.connect()
        connection.ask(HTTP)
        connection.protocol.writeConnectionLost()
        connection.clock.advance(0.9)
        connection.send(b"x" * 100000)
        self.assertFalse(connection.transport.disconnecting or connection.transport.disconnected)
        connection.clock.advance(0.1)
        self.assertTrue(connection.transport.disconnecting)
        self.assertFalse(connection.transport.disconnected)
        connection.lose()
        self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_closed_while_the_reply_is_sent(self) -> None:
        """What the transport reports afterwards does not open the connection again."""
        connection = self.connect()
        connection.ask(HTTP)
        connection.protocol.close()
        connection.protocol.writeConnectionLost()
        self.assertRegex(connection.protocol.describe(), ", closing$")
        connection.clock.advance(1)
        connection.lose()
        connection.protocol.writeConnectionLost()
        self.assertRegex(connection.protocol.describe(), ", lost$")
        self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_a_client_that_does_not_read(self) -> None:
        """The reply has not left within the second: it is cut off."""
        connection = self.connect()
        connection.ask(HTTP)
        connection.clock.advance(1)
        self.assertTrue(connection.transport.disconnected)
        connection.lose()
        self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_a_client_that_has_gone_already(self) -> None:
        connection = self.connect()
        connection.send(b"?x,1\r\n" * 10 + HTTP + b"?start\r\n" * 10)
        connection.lose()
        connection.clock.advance(0)
        self.assertEqual(set(self.handler.requests), {"?x,1"})
        self.assertEqual(connection.factory.connections, set())
        self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_a_client_that_has_closed_its_half(self) -> None:
        connection = self.connect()
        connection.send(b"?x,1\r\n" * 10 + HTTP + b"?start\r\n" * 10)
        connection.half_close()
        self.assertEqual(connection.ask(b""), b"!x,ok,1\r\n" * 10 + INVALID)
        self.assertTrue(connection.transport.disconnecting)

    def test_lines_of_any_length(self) -> None:
        for target in (b"/a", b"/" + b"a" * 16370, b"/" + b"a" * 16384, b"/" + b"a" * 100000):
            with self.subTest(len(target)):
                connection = self.connect()
                received = connection.ask(b"GET " + target + b" HTTP/1.1\r\n?start\r\n", 1000)
                self.assertEqual(received.count(b"\r\n"), 1)
                self.assertRegex(received, rb"^!undefined,invalid,syntax error: ")
                self.assertEqual(self.handler.requests, [])
                self.assertTrue(connection.transport.half_closed)

    def test_a_tls_client(self) -> None:
        """A web server can choose the session ticket that a browser sends in its ClientHello."""
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 32 + b"\x20%b"
        reply = b"!undefined,invalid,syntax error: line begins with byte 0x16 where ? is needed\r\n"
        split = hello.replace(b"\x02\x00", b"\x02\n", 1)
        for begin, ticket in ((hello, b"\n?start\n"), (split, b"\n?start\n"), (hello, b"a" * 20000 + b"\n?start\n")):
            for piece in (None, 1000):
                with self.subTest(begin[:5], length=len(ticket), piece=piece):
                    connection = self.connect()
                    with self.assertLogs("discosbackend.protocol", "WARNING") as logs:
                        received = connection.ask(begin % ticket, piece)
                    self.assertEqual(received.count(b"\r\n"), 1)
                    if len(ticket) < 100:
                        self.assertEqual(received, reply)
                    self.assertEqual(self.handler.requests, [])
                    self.assertTrue(connection.transport.half_closed)
                    self.assertRegex(logs.output[-1], r"192.168.1.1:54321 sent a TLS handshake, .* ignored: '\\x16")
                    self.end(connection)

    def test_before_the_greeting(self) -> None:
        connection = Connection(DBFactory(self.handler, greeting_delay=5, reactor=Clock()), TcpWire())
        self.assertEqual(connection.ask(HTTP), INVALID)
        self.end(connection)

    def test_behind_telnet_negotiation(self) -> None:
        connection = self.connect()
        self.assertEqual(connection.ask(b"\xff\xfb\x01" + HTTP + b"?start\r\n"), INVALID)
        self.assertEqual(self.handler.requests, [])

    def test_with_tls(self) -> None:
        """It knows no half-closed connection: it is closed as TLS does that."""

        class Tls(TcpWire):
            pass

        directlyProvides(transport := Tls(), INegotiated)
        connection = self.connect(transport=transport)
        self.assertEqual(connection.ask(HTTP + b"?start\r\n"), INVALID)
        self.assertEqual((connection.transport.half_closed, connection.transport.disconnecting), (False, True))
        connection.lose()
        self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_while_the_server_stops(self) -> None:
        connection = self.connect()
        connection.ask(HTTP)
        finished: list[None] = []
        connection.factory.finish(3).addCallback(finished.append)
        self.assertEqual(finished, [None])
        connection.factory.close()
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()
        self.assertEqual(connection.clock.getDelayedCalls(), [])

    def test_it_is_logged(self) -> None:
        connection = self.connect()
        with self.assertLogs("discosbackend.protocol", "WARNING") as logs:
            connection.ask(HTTP + b"?start\r\n")
        (record,) = logs.records
        self.assertRegex(record.getMessage(), r"^192.168.1.1:54321 .*HTTP.*POST / HTTP/1.1")
        with self.assertLogs("discosbackend.protocol", "WARNING") as logs:
            for _ in range(100):
                greeted(connection.factory, TcpWire()).ask(HTTP)
        self.assertLessEqual(len(logs.records), 5)

    def test_a_simulated_server_whose_reply_waits(self) -> None:
        fault = Fault(kind="late", seconds=3.0, rate=1)
        factory = FaultyFactory(self.handler, Faults(0, [fault]), reactor=Clock())
        connection = Connection(factory, TcpWire())
        factory.reactor.advance(3)
        connection.received()
        self.assertEqual(connection.ask(HTTP + b"?start\r\n"), b"")
        self.assertFalse(connection.transport.half_closed)
        factory.reactor.advance(3)
        self.assertEqual(connection.received(), INVALID)
        self.assertTrue(connection.transport.half_closed)


class Lived(AlwaysOkHandler):
    """A handler that remembers its life."""

    def __init__(self, stopped: Callable[[], Any] = lambda: None) -> None:
        self.life: list[str] = []
        self.stopped = stopped

    def start(self) -> None:
        self.life.append("start")

    def stop(self) -> Any:
        self.life.append("stop")
        return self.stopped()


class FactoryTests(unittest.TestCase):
    """The life of a server: handler.start, handler.stop, and the end of its connections."""

    def setUp(self) -> None:
        self.later = Later()
        self.handler = odd(self.later)
        self.clock = Clock()
        self.factory = DBFactory(self.handler, reactor=self.clock)
        self.finished: list[None] = []

    def finish(self, timeout: float = 3.0) -> None:
        self.factory.finish(timeout).addCallback(self.finished.append)

    def test_start_and_stop(self) -> None:
        handler = Lived()
        factory = DBFactory(handler, reactor=self.clock)
        self.assertEqual(handler.life, [])
        factory.doStart()
        factory.doStart()
        self.assertEqual(handler.life, ["start"], "once, on however many ports")
        factory.doStop()
        self.assertEqual(handler.life, ["start"])
        factory.doStop()
        self.assertEqual(handler.life, ["start", "stop"])
        self.assertTrue(factory.stopped.called)

    def test_stop_that_takes_its_time(self) -> None:
        gate: Deferred[None] = Deferred()
        factory = DBFactory(Lived(lambda: gate), reactor=self.clock)
        factory.doStart()
        factory.doStop()
        self.assertFalse(factory.stopped.called)
        gate.callback(None)
        self.assertTrue(factory.stopped.called)

    def test_stop_that_fails(self) -> None:
        factory = DBFactory(Lived(lambda: 1 / 0), reactor=self.clock)
        factory.doStart()
        factory.doStop()
        failures: list[Any] = []
        factory.stopped.addErrback(failures.append)
        self.assertTrue(failures[0].check(ZeroDivisionError))

    def test_started_again(self) -> None:
        self.finish()
        self.factory.doStart()
        self.assertEqual(greeted(self.factory).ask(b"?x\r\n"), b"!x,ok\r\n")

    def test_started_again_before_the_end(self) -> None:
        """What runs has its reply, the rest begins, and finish() keeps its promise."""
        connection = greeted(self.factory)
        connection.send(b"?odd\r\n?x\r\n")
        self.finish()
        self.factory.doStart()
        self.later.end()
        self.assertEqual(self.finished, [])
        self.assertEqual(connection.ask(b""), b"!odd,ok\r\n!x,ok\r\n")
        self.assertEqual(self.finished, [None])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_connections(self) -> None:
        first, second = greeted(self.factory), greeted(self.factory)
        self.assertEqual(self.factory.connections, {first.protocol, second.protocol})
        first.lose()
        self.assertEqual(self.factory.connections, {second.protocol})

    def test_finish_with_nothing_to_do(self) -> None:
        greeted(self.factory)
        self.finish()
        self.assertEqual(self.finished, [None])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_finish_lets_what_runs_end(self) -> None:
        first, second = greeted(self.factory), greeted(self.factory)
        first.send(b"?odd,1\r\n?odd,2\r\n?x,3\r\n?,\r\n")
        self.finish()
        self.assertEqual(self.finished, [])
        self.assertEqual(
            second.ask(b"?x\r\n?odd\r\n?\r\n!x\r\n"),
            b"!x,fail,%s\r\n!odd,fail,%s\r\n!undefined,invalid,syntax error: name missing after ?\r\n"
            % (STOPPING, STOPPING),
        )
        self.clock.advance(2.9)
        self.assertEqual((self.finished, first.received()), ([], b""))
        self.later.end()
        self.assertEqual(
            first.ask(b""),
            b"!odd,ok,1\r\n!odd,fail,%s\r\n!x,fail,%s\r\n" % (STOPPING, STOPPING)
            + b"!undefined,invalid,syntax error: name missing after ?\r\n",
        )
        self.assertEqual(self.handler.requests, ["?odd,1"], "what had not begun does not begin")
        self.assertEqual(self.finished, [None])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_finish_gives_up(self) -> None:
        connections = [greeted(self.factory) for _ in range(3)]
        for connection in connections:
            connection.send(b"?odd,1\r\n?odd,2\r\n" + b"?x,3\r\n" * 1000)
        self.clock.advance(0)
        running = [deferred for _, deferred in self.later.waiting]
        connections[1].protocol.pauseProducing()
        self.finish()
        self.clock.advance(2.9)
        self.assertEqual([deferred.called for deferred in running], [False] * 3)
        self.clock.advance(0.1)
        expected = (b"!odd,fail,%s\r\n" * 2 + b"!x,fail,%s\r\n" * 1000) % ((STOPPING,) * 1002)
        for connection in connections:
            self.assertEqual(connection.received(), expected)
        self.assertEqual([deferred.called for deferred in running], [True] * 3, "cancelled, they are not wanted now")
        self.assertEqual(self.finished, [None])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_finish_and_a_command_that_ends_too_late(self) -> None:
        """It ignored that it was cancelled; there is one reply to it, and that has been sent."""
        ignoring: Deferred[Any] = Deferred(lambda _: None)
        connection = greeted(DBFactory(odd(lambda _: ignoring), reactor=self.clock))
        connection.send(b"?odd\r\n")
        connection.factory.finish(1)
        self.clock.advance(1)
        self.assertEqual(connection.received(), b"!odd,fail,%s\r\n" % STOPPING)
        if not ignoring.called:
            ignoring.callback(None)
        self.assertEqual(connection.ask(b""), b"")

    def test_finish_and_a_canceller_that_raises(self) -> None:
        """It keeps neither the others from being cancelled nor the server from its end."""

        def cancel(_: Deferred[Any]) -> None:
            raise RuntimeError("no")

        running: list[Deferred[Any]] = []

        def answer(_: Message) -> Deferred[Any]:
            running.append(Deferred(cancel if len(running) != 1 else None))
            return running[-1]

        factory = DBFactory(Scripted(answer), reactor=self.clock)
        connections = [greeted(factory) for _ in range(3)]
        for connection in connections:
            connection.send(b"?x\r\n")
        factory.finish(1).addCallback(self.finished.append)
        self.clock.advance(1)
        self.assertEqual(self.finished, [None])
        self.assertEqual([one.received() for one in connections], [b"!x,fail,%s\r\n" % STOPPING] * 3)
        self.assertTrue(running[1].called)

    def test_finish_with_one_who_does_not_read(self) -> None:
        connection = greeted(self.factory, Narrow())
        connection.send(b"?x,1\r\n" * 1000)
        self.clock.advance(0)
        made = len(self.handler.requests)
        self.finish()
        self.clock.advance(1)
        self.assertEqual(self.finished, [])
        self.clock.advance(2)
        self.assertEqual(self.finished, [None])
        self.assertEqual(
            connection.received(), b"!x,ok,1\r\n" * made + b"!x,fail,server is stopping\r\n" * (1000 - made)
        )

    def test_finish_with_one_who_is_gone(self) -> None:
        connection = greeted(self.factory)
        connection.send(b"?odd\r\n?x\r\n")
        connection.lose()
        self.finish()
        self.assertEqual(self.finished, [])
        self.later.end()
        self.clock.advance(0)
        self.assertEqual(self.finished, [None])
        self.assertEqual(self.factory.connections, set())

    def test_finish_with_one_who_hung_up_half(self) -> None:
        connection = greeted(self.factory)
        connection.send(b"?odd\r\n")
        connection.half_close()
        self.finish()
        self.clock.advance(3)
        self.assertEqual(connection.received(), b"!odd,fail,%s\r\n" % STOPPING)
        self.assertTrue(connection.transport.disconnecting)

    def test_close(self) -> None:
        connections = [greeted(self.factory) for _ in range(3)]
        connections[0].half_close()
        self.factory.close()
        self.factory.close()
        for connection in connections:
            self.assertTrue(connection.transport.disconnecting)
            self.assertFalse(connection.transport.disconnected)
            self.assertIsNone(connection.transport.producer)

    def test_close_before_the_greeting(self) -> None:
        connection = Connection(DBFactory(self.handler, greeting_delay=5, reactor=self.clock))
        connection.factory.close()
        self.assertTrue(connection.transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(connection.received(), b"")

    def test_close_with_a_backlog(self) -> None:
        """Somebody closes without finish(): nothing breaks, what was received is carried out."""
        for turns in (0, 1):
            with self.subTest(turns):
                self.handler.requests.clear()
                connection = greeted(self.factory, Narrow())
                connection.send(b"?x,1\r\n" * 4000)
                for _ in range(turns):
                    self.clock.advance(0)
                self.factory.close()
                self.clock.advance(0)
                connection.lose()
                self.clock.advance(0)
                self.assertEqual(len(self.handler.requests), 4000)
                self.assertNotIn(connection.protocol, self.factory.connections)
                self.assertEqual(greeted(self.factory).ask(b"?x\r\n" * 100), b"!x,ok\r\n" * 100)

    def test_abort(self) -> None:
        connections = [greeted(self.factory) for _ in range(3)]
        connections[0].send(b"?odd\r\n")
        connections[0].lose()
        self.factory.abort()
        self.assertEqual([one.transport.disconnected for one in connections], [False, True, True])


if __name__ == "__main__":
    unittest.main()
