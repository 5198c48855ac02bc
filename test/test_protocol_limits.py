"""Tests of protocol: what is bounded, and whose turn it is. Reply lengths are in test_protocol_replies."""

from __future__ import annotations

import itertools
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from twisted.internet.task import Clock

from discosbackend.grammar import Message
from discosbackend.handlers import AlwaysOkHandler
from discosbackend.protocol import DBFactory

from .in_memory import Connection, Later, Narrow, Scripted, greeted, measured_by, odd, ok, quiet

# Bytes of requests: twice as many as the server may take from a client that does not read.
ENOUGH = 400_000


def setUpModule() -> None:
    quiet()


class BackpressureTests(unittest.TestCase):
    """Reading from a client pauses while its work or its unread replies pile up; memory stays bounded."""

    def setUp(self) -> None:
        self.transport = Narrow()

    def pipeline(self, connection: Connection, data: bytes) -> int:
        """Send `data` again and again while the server reads, up to ENOUGH; how many bytes it took."""
        taken = 0
        while self.transport.reading and taken < ENOUGH:
            connection.send(data)
            connection.clock.advance(0)
            taken += len(data)
        return taken

    def test_one_who_does_not_read(self) -> None:
        handler = Scripted(ok)
        connection = greeted(handler, self.transport)
        taken = self.pipeline(connection, b"?x,1\r\n" * 10000)
        self.assertLess(taken, 200000)
        made = len(handler.requests)
        self.assertEqual(self.transport.value(), b"!x,ok,1\r\n" * made)
        self.assertLess(self.transport.unread, 16384)
        for _ in range(10):
            connection.clock.advance(1)
        self.assertEqual(len(handler.requests), made, "no more replies are made for one who does not read")
        self.assertEqual(connection.ask(b""), b"!x,ok,1\r\n" * (taken // 6))
        self.assertEqual(len(handler.requests), taken // 6)
        self.assertTrue(self.transport.reading)
        self.assertEqual(connection.ask(b"?y\r\n"), b"!y,ok\r\n")

    def test_a_transport_that_has_to_read_before_it_can_write(self) -> None:
        """As TLS: before its handshake it takes a write, says that it is full, and needs what the client sends."""

        class Handshaking(Narrow):
            ready = False

            def write(self, data: bytes) -> None:
                super().write(data)
                if not self.ready and self.producer is not None:
                    self.producer.pauseProducing()

        for delay in (0.0, 5.0):
            with self.subTest(delay=delay):
                transport = Handshaking()
                handler = Scripted(ok)
                factory = DBFactory(handler, greeting_delay=delay, reactor=Clock())
                connection = Connection(factory, transport)
                factory.reactor.advance(delay)
                self.assertTrue(transport.reading)
                self.assertEqual(transport.told, [])
                transport.ready = True
                connection.transport_empty()
                self.assertEqual(connection.ask(b"?x\r\n"), b"!version,ok,1.4\r\n!x,ok\r\n")

    def test_one_line_at_a_time(self) -> None:
        """Nor does one who sends slowly get further."""
        handler = Scripted(ok)
        connection = greeted(handler, self.transport)
        self.assertLess(self.pipeline(connection, b"?x,1\r\n"), 16384 + 1000)
        self.assertLess(len(handler.requests), 100, "no more replies are made for one who does not read")
        self.assertEqual(len(connection.ask(b"")), len(handler.requests) * 9)

    def test_work_that_piles_up(self) -> None:
        for data in (
            b"?odd\r\n",
            b"?odd\r\n" * 5000,
            b"\n" * 20000,
            b"!\n" * 1000,
            b"?x," + b"a" * 500 + b"\r\n",
        ):
            with self.subTest(data[:6], size=len(data)):
                self.setUp()
                later = Later()
                connection = greeted(odd(later), self.transport)
                connection.send(b"?odd\r\n")
                self.assertTrue(self.transport.reading)
                taken = self.pipeline(connection, data)
                self.assertLess(taken, 200000)
                self.assertFalse(self.transport.reading)
                expected = 1 + taken // len(data) * data.replace(b"!\n", b"").count(b"\n")
                received = b""
                while later.waiting:
                    later.end()
                    received += connection.ask(b"")
                self.assertEqual(received.count(b"\r\n"), expected)
                self.assertTrue(self.transport.reading)

    def test_what_gets_no_reply_does_not_pile_up(self) -> None:
        for data in (b"!x,ok\r\n" * 10000, b"\xff\xf1\n" * 10000, b"a" * 50000):
            with self.subTest(data[:3]):
                self.setUp()
                self.assertGreaterEqual(self.pipeline(greeted(AlwaysOkHandler(), self.transport), data), ENOUGH)

    def test_a_polite_client_is_never_paused(self) -> None:
        connection = greeted(AlwaysOkHandler(), self.transport)
        for _ in range(100):
            self.assertEqual(connection.ask(b"?x,1\r\n?x,2\r\n"), b"!x,ok,1\r\n!x,ok,2\r\n")
        self.assertEqual(self.transport.told, [])

    def test_full_again_and_again(self) -> None:
        """It is told to pause with every write while its buffer is full, as Twisted's transports do."""
        later = Later()
        connection = greeted(odd(later), self.transport)
        connection.send(b"?odd,1\r\n?x,%s\r\n?odd,2\r\n?odd,3\r\n" % (b"a" * 300))
        later.end("b" * 300)
        connection.clock.advance(0)
        self.assertEqual(later.waiting, [], "not begun for one who does not read")
        self.assertEqual(connection.received(), b"!odd,ok," + b"b" * 300 + b"\r\n")
        connection.clock.advance(0)
        self.assertTrue(self.transport.full, "once more")
        self.assertEqual(connection.ask(b""), b"!x,ok," + b"a" * 300 + b"\r\n")
        connection.transport_full()
        connection.transport_full()
        self.transport.full = True
        later.end("b" * 300)
        connection.clock.advance(0)
        self.assertEqual(later.waiting, [])
        self.assertEqual(connection.ask(b""), b"!odd,ok," + b"b" * 300 + b"\r\n")
        later.end()
        self.assertEqual(connection.ask(b"?x\r\n"), b"!odd,ok,3\r\n!x,ok\r\n")
        self.assertTrue(self.transport.reading)

    def test_paused_before_its_turn(self) -> None:
        """TLS pauses when it pleases."""
        handler = Scripted(ok)
        connection = greeted(handler, self.transport)
        connection.send(b"?x\r\n" * 10)
        connection.transport_full()
        connection.clock.advance(0)
        self.assertEqual((handler.requests, self.transport.reading), ([], True))
        connection.send(b"?x\r\n" * 5000)
        connection.clock.advance(0)
        self.assertEqual((handler.requests, self.transport.reading), ([], False))
        connection.transport_empty()
        self.assertEqual(connection.ask(b""), b"!x,ok\r\n" * 5010)
        self.assertTrue(self.transport.reading)

    def test_after_a_half_close_there_is_nothing_to_read(self) -> None:
        """To read on there would find the end again and again."""
        connection = greeted(AlwaysOkHandler(), self.transport)
        connection.send(b"?x,1\r\n" * 100)
        self.transport.told.clear()
        connection.half_close()
        self.assertEqual(connection.ask(b""), b"!x,ok,1\r\n" * 100)
        self.assertEqual(self.transport.told, [])
        self.assertTrue(self.transport.disconnecting)


class Turns(Clock):
    """A clock on which a reactor's turns can be taken one by one."""

    def turn(self) -> None:
        """Call what is due now, not what that schedules."""
        for call in [call for call in self.calls if call.getTime() <= self.seconds()]:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


class FairnessTests(unittest.TestCase):
    """No client starves the others or the timers: a request takes 0.25 ms here, on a clock of its own."""

    def setUp(self) -> None:
        self.spent = 0.0
        self.enterContext(measured_by(lambda: self.spent))
        self.clock = Turns()
        self.handler = Scripted(self.answer)
        self.factory = DBFactory(self.handler, reactor=self.clock)

    def answer(self, message: Message) -> Message:
        self.spent += 0.00025
        return ok(message)

    @contextmanager
    def at_most_a_millisecond(self) -> Iterator[None]:
        """Whatever is done here takes no longer, give or take a line."""
        began = self.spent
        yield
        self.assertLessEqual(self.spent - began, 0.00126)

    def test_a_turn_is_bounded(self) -> None:
        connection = greeted(self.factory)
        with self.at_most_a_millisecond():
            connection.send(b"?x\r\n" * 1000)
        for _ in range(1000):
            before = len(self.handler.requests)
            if before == 1000:
                break
            with self.at_most_a_millisecond():
                self.clock.turn()
            self.assertGreater(len(self.handler.requests), before)
        self.assertEqual(connection.received(), b"!x,ok\r\n" * 1000)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many_chunks_are_bounded_too(self) -> None:
        connection = greeted(self.factory)
        for _ in range(100):
            with self.at_most_a_millisecond():
                connection.send(b"?x\r\n" * 5)
        self.assertEqual(connection.ask(b""), b"!x,ok\r\n" * 500)

    def test_many_chunks_take_no_more_turns(self) -> None:
        """A connection is in the queue once, however many chunks arrive while it is there."""
        many, one = greeted(self.factory), greeted(self.factory)
        for _ in range(100):
            many.send(b"?many\r\n" * 5)
        one.send(b"?one\r\n" * 5)
        for _ in range(10):
            self.clock.turn()
        self.assertEqual(one.received(), b"!one,ok\r\n" * 5)

    def test_quick_lines_are_bounded(self) -> None:
        """Also when a line takes only a microsecond, each connection has its share of a turn."""
        handler = Scripted(ok)
        factory = DBFactory(handler, reactor=self.clock)
        first, second = greeted(factory), greeted(factory)
        first.send(b"?first\r\n" * 1000)
        second.send(b"?second\r\n")
        second.send(b"?second\r\n" * 5)
        times = itertools.count()
        with measured_by(lambda: next(times) * 1e-6):
            self.clock.turn()
            self.clock.turn()
        self.assertEqual(handler.requests[0], "?second")
        self.assertLess(handler.requests.index("?second", 1), 500)

    def test_timers_are_served(self) -> None:
        connection = greeted(self.factory)
        connection.send(b"?x\r\n" * 1000)
        at: list[int] = []
        self.clock.callLater(0, lambda: at.append(len(self.handler.requests)))
        self.clock.turn()
        self.clock.turn()
        self.assertLess(at[0], 20)

    def test_a_polite_client_is_answered_at_once(self) -> None:
        crowd = [greeted(self.factory) for _ in range(50)]
        polite = greeted(self.factory)
        for connection in crowd:
            connection.send(b"?x\r\n" * 200)
        for _ in range(20):
            self.clock.turn()
            with self.at_most_a_millisecond():
                polite.send(b"?time\r\n")
            self.assertEqual(polite.received(), b"!time,ok\r\n")

    def test_turns_go_round(self) -> None:
        handled: dict[str, int] = {}

        def answer(message: Message) -> Message:
            handled[message.name] = handled.get(message.name, 0) + 1
            return self.answer(message)

        self.handler.answer = answer
        for name in (b"a", b"b", b"c"):
            greeted(self.factory).send((b"?" + name + b"\r\n") * 1000)
        for _ in range(30):
            self.clock.turn()
        before = dict(handled, late=0)
        late = greeted(self.factory)
        late.send(b"?late\r\n" * 30)
        for _ in range(1000):
            if handled.get("late") == 30:
                break
            self.clock.turn()
        self.assertEqual(late.received(), b"!late,ok\r\n" * 30)
        for command, count in before.items():
            with self.subTest(command):
                self.assertTrue(20 < handled[command] - count < 40)

    def test_one_that_waits_takes_no_turns(self) -> None:
        """Nor does one that does not read."""
        later = Later()
        self.handler.answer = lambda message: later(message) if message.name == "wait" else ok(message)
        waiting, unread = greeted(self.factory), greeted(self.factory, Narrow())
        waiting.send(b"?wait\r\n" * 10)
        unread.send(b"?x\r\n" * 1000)
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        while later.waiting:
            later.end()
            self.clock.advance(0)
        self.assertEqual(waiting.received(), b"!wait,ok\r\n" * 10)
        self.assertEqual(unread.ask(b""), b"!x,ok\r\n" * 1000)

    def test_one_whose_transport_breaks(self) -> None:
        connections = [greeted(self.factory) for _ in range(3)]
        for connection in connections:
            connection.send(b"?x\r\n" * 10)
        with mock.patch.object(connections[0].transport, "write", side_effect=OSError):
            with self.assertRaises(OSError):
                self.clock.advance(0)
            self.clock.advance(0)
        for connection in connections[1:]:
            self.assertEqual(connection.received(), b"!x,ok\r\n" * 10)


if __name__ == "__main__":
    unittest.main()
