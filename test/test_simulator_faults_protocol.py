"""Each kind of fault does what it says, as a client sees it that watches bytes; pauses, and the end."""

from __future__ import annotations

import unittest
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from discosbackend.backend import Backend
from discosbackend.handlers import AlwaysOkHandler, DBProtocolHandler, Handler
from discosbackend.protocol import DBFactory
from discosbackend.schema import keys
from discosbackend.simulator.clock import SimulatedClock
from discosbackend.simulator.faults.kinds import KINDS
from discosbackend.simulator.faults.protocol import FaultyFactory, FaultyProtocol, faulty_reply
from discosbackend.simulator.faults.script import Fault, Faults

from .in_memory import GREETING, Connection, Later, Narrow, Wire, greeted, measured_by, odd, ok, quiet

A, B, C = b"!a,ok,1\r\n", b"!b,ok,2\r\n", b"!c,ok,3\r\n"


def setUpModule() -> None:
    quiet()


class Watched(Wire):
    """A transport that remembers each write, with the moment."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.writes: list[tuple[float, bytes]] = []

    def write(self, data: bytes) -> None:
        super().write(data)
        self.writes.append((self.clock.seconds(), data))


def factory_of(*faults: Fault, handler: Handler | None = None, seed: int = 0, **settings: Any) -> FaultyFactory:
    """A factory whose server has begun to listen."""
    factory = FaultyFactory(handler or AlwaysOkHandler(), Faults(seed, faults), reactor=Clock(), **settings)
    factory.doStart()
    return factory


def connected(*faults: Fault, handler: Handler | None = None, seed: int = 0) -> Connection:
    """A connection to such a server, its greeting read; faults of `version` may have struck it."""
    return greeted(factory_of(*faults, handler=handler, seed=seed))


def protocol_of(connection: Connection) -> FaultyProtocol:
    assert isinstance(connection.protocol, FaultyProtocol)
    return connection.protocol


def all_of(connection: Connection, data: bytes = b"") -> bytes:
    """Send it, and let pass what time it takes until every reply has left; what was received."""
    received = connection.ask(data)
    clock = connection.clock
    while protocol_of(connection).busy:
        clock.advance(max(min(call.getTime() for call in clock.getDelayedCalls()) - clock.seconds(), 0.0))
        received += connection.received()
    return received


class ReplyTests(unittest.TestCase):
    def test_late_keeps_the_order(self) -> None:
        connection = connected(Fault(kind="late", seconds=2, command="b", nth=1))
        self.assertEqual(connection.ask(b"?a,1\n?b,2\n?c,3\n"), A)
        connection.clock.advance(1.9)
        self.assertEqual(connection.received(), b"")
        connection.clock.advance(0.2)
        self.assertEqual(connection.received(), B + C)
        self.assertEqual(connection.ask(b"?a,1\n"), A)

    def test_late_is_from_when_the_reply_was_due(self) -> None:
        connection = connected(Fault(kind="late", seconds=2, rate=1, command="a"))
        connection.ask(b"?a,1\n")
        connection.clock.advance(1)
        connection.ask(b"?a,1\n?b,2\n")
        connection.clock.advance(1)
        self.assertEqual(connection.received(), A)
        connection.clock.advance(1)
        self.assertEqual(connection.received(), A + B)

    def test_late_greeting(self) -> None:
        connection = Connection(factory_of(Fault(kind="late", seconds=3, command="version", nth=1)))
        self.assertEqual(connection.ask(b"?a,1\n"), b"")
        connection.clock.advance(3)
        self.assertEqual(connection.received(), GREETING + A)

    def test_bytes_each_by_itself(self) -> None:
        factory = factory_of(Fault(kind="bytes", command="b", nth=1))
        transport = Watched(factory.reactor)
        connection = greeted(factory, transport)
        transport.writes.clear()
        connection.send(b"?a,1\n?b,2\n?c,3\n")
        turns = []
        while protocol_of(connection).busy:
            turns.append(connection.received())
            connection.clock.advance(0.001)
        turns.append(connection.received())
        self.assertEqual(turns, [A, *(B[at : at + 1] for at in range(len(B))), C])
        self.assertEqual([data for _, data in transport.writes], turns)

    def test_what_a_reply_becomes(self) -> None:
        cases: list[tuple[list[dict[str, Any]], bytes]] = [
            ([{"kind": "cut"}], b"!b,"),
            ([{"kind": "duplicate"}], B + B),
            ([{"kind": "lf"}], b"!b,ok,2\n"),
            ([{"kind": "long"}], b"!b,ok,2," + b"x" * 590 + b"\r\n"),
            ([{"kind": "long", "bytes": 512}], b"!b,ok,2," + b"x" * 502 + b"\r\n"),
            ([{"kind": "lf"}, {"kind": "duplicate"}], b"!b,ok,2\n" * 2),
            ([{"kind": "long", "bytes": 512}, {"kind": "cut"}], b"!b,ok,2," + b"x" * 247),
        ]
        for faults, wanted in cases:
            with self.subTest(faults):
                connection = connected(*(Fault(command="b", nth=1, **fault) for fault in faults))
                self.assertEqual(connection.ask(b"?a,1\n?b,2\n?c,3\n"), A + wanted + C)
                self.assertEqual(connection.ask(b"?b,2\n"), B)
                self.assertFalse(connection.transport.disconnecting)

    def test_long_is_as_long_as_it_says(self) -> None:
        connection = connected(Fault(kind="long", rate=1))
        for request in (b"?a\n", b"?a," + b"y" * 500 + b"\n"):
            self.assertEqual(len(connection.ask(request)), 600)

    def test_long_is_longer_in_any_case(self) -> None:
        connection = connected(Fault(kind="long", bytes=512, rate=1))
        connection.received()
        received = connection.ask(b"?a," + b"y" * 503 + b"\n")
        self.assertEqual((len(received), received[-5:]), (513, b"y,x\r\n"))

    def test_swap_leaves_after_the_next_one(self) -> None:
        connection = connected(Fault(kind="swap", command="a", rate=1))
        self.assertEqual(connection.ask(b"?a,1\n?b,2\n?c,3\n"), B + A + C)
        self.assertEqual(connection.ask(b"?c,3\n?a,1\n"), C)
        connection.clock.advance(0.9)
        self.assertEqual(connection.received(), b"")
        self.assertEqual(connection.ask(b"?b,2\n"), B + A)
        connection.clock.advance(5)
        self.assertEqual(connection.ask(b"?c,3\n"), C)

    def test_swap_alone_leaves_after_a_second(self) -> None:
        connection = connected(Fault(kind="swap", command="a", rate=1))
        self.assertEqual(connection.ask(b"?a,1\n"), b"")
        connection.clock.advance(0.99)
        self.assertEqual(connection.received(), b"")
        connection.clock.advance(0.02)
        self.assertEqual(connection.received(), A)
        self.assertEqual(connection.ask(b"?b,2\n"), B)

    def test_swap_of_all_exchanges_pairs(self) -> None:
        connection = connected(Fault(kind="swap", rate=1))
        connection.clock.advance(1)
        connection.received()
        self.assertEqual(connection.ask(b"?a,1\n?b,2\n?c,3\n"), B + A)
        self.assertEqual(connection.ask(b"?a,1\n"), A + C)

    def test_swap_behind_a_late_one(self) -> None:
        connection = connected(
            Fault(kind="late", seconds=2, command="a", nth=1), Fault(kind="swap", command="b", nth=1)
        )
        self.assertEqual(connection.ask(b"?a,1\n?b,2\n?c,3\n"), b"")
        connection.clock.advance(2)
        self.assertEqual(connection.received(), A + C + B)

    def test_the_name_is_that_of_the_reply(self) -> None:
        connection = connected(Fault(kind="lf", command="undefined", rate=1))
        self.assertEqual(connection.ask(b"nonsense\n?a,1\n").count(b"\r\n"), 1)

    def test_a_reply_that_comes_later_by_itself(self) -> None:
        later = Later()
        connection = connected(Fault(kind="lf", command="odd", nth=1), handler=odd(later))
        self.assertEqual(connection.ask(b"?odd\n"), b"")
        later.end("7")
        self.assertEqual(connection.received(), b"!odd,ok,7\n")

    def test_faults_come_and_go_while_a_connection_lives(self) -> None:
        connection = connected()
        faults = protocol_of(connection).factory.faults
        self.assertEqual(connection.ask(b"?a,1\n"), A)
        number = faults.add(Fault(kind="lf", rate=1))
        self.assertEqual(connection.ask(b"?a,1\n"), b"!a,ok,1\n")
        faults.remove(number)
        self.assertEqual(connection.ask(b"?a,1\n"), A)

    def test_a_late_reply_holds_up_the_end_of_a_half_closed_connection(self) -> None:
        connection = connected(Fault(kind="late", seconds=2, rate=1))
        connection.clock.advance(2)
        connection.received()
        connection.send(b"?a,1\n")
        connection.half_close()
        self.assertFalse(connection.transport.disconnecting)
        connection.clock.advance(2)
        self.assertEqual(connection.received(), A)
        self.assertTrue(connection.transport.disconnecting)

    def test_a_client_that_leaves_takes_its_late_replies_along(self) -> None:
        connection = connected(Fault(kind="late", seconds=2, command="a", rate=1))
        connection.send(b"?a,1\n?a,1\n")
        connection.lose()
        self.assertEqual(connection.clock.getDelayedCalls(), [])
        self.assertEqual(connection.factory.connections, set())

    def test_a_flood_behind_a_late_reply_is_not_read_without_end(self) -> None:
        transport = Narrow()
        connection = greeted(factory_of(Fault(kind="late", seconds=9, command="a", nth=1)), transport)
        connection.send(b"?a,1\n")
        request = b"?b," + b"y" * 400 + b"\n"
        sent = 0
        while transport.reading and sent < 2000:
            connection.send(request)
            sent += 1
            connection.clock.advance(0)
        self.assertLess(sent, 400)
        self.assertEqual(connection.received(), b"")
        connection.clock.advance(9)
        received = connection.ask(b"")
        self.assertEqual(received.count(b"\r\n"), sent + 1)
        self.assertTrue(received.startswith(A))
        self.assertTrue(transport.reading)

    def test_reading_goes_on_only_when_enough_has_left(self) -> None:
        transport = Narrow()
        faults = [Fault(kind="late", seconds=nth**3, command="a", nth=nth) for nth in (1, 2)]
        handler = odd(ok)
        connection = greeted(factory_of(*faults, handler=handler), transport)
        with mock.patch("discosbackend.simulator.faults.protocol._OUTBOX_LIMIT", 100):
            connection.send(b"?a,1\n?a,1\n" + b"?b,2\n" * 5000)
            connection.clock.advance(0)
            self.assertFalse(transport.reading)
            self.assertLess(len(handler.requests), 20)
            connection.clock.advance(1)
            self.assertEqual(connection.received(), A)
            self.assertFalse(transport.reading)
            self.assertLess(len(handler.requests), 20)
            connection.clock.advance(7)
            self.assertEqual(connection.ask(b""), A + B * 5000)
            self.assertTrue(transport.reading)

    def test_single_bytes_that_have_left_weigh_nothing(self) -> None:
        transport = Narrow()
        connection = greeted(factory_of(Fault(kind="bytes", command="b", rate=1)), transport)
        with mock.patch("discosbackend.simulator.faults.protocol._OUTBOX_LIMIT", 50):
            for _ in range(20):
                self.assertEqual(all_of(connection, b"?b,2\n"), B)
                self.assertTrue(transport.reading)


class KindTests(unittest.TestCase):
    """A kind without a behaviour fails here."""

    def of(self, applies_to: str) -> list[Fault]:
        values: dict[str, Any] = {"seconds": 2.0, "ppm": 50.0}
        return [
            Fault(kind=name, nth=1, **{key: value for key, value in values.items() if key in keys(kind)})
            for name, kind in KINDS.items()
            if kind.applies_to == applies_to
        ]

    def test_every_kind_applies_to_something(self) -> None:
        self.assertEqual({kind.applies_to for kind in KINDS.values()}, {"reply", "call", "moment"})

    def test_every_kind_that_applies_to_a_reply_changes_it(self) -> None:
        plain = faulty_reply(b"!a,ok,1", {}, 0.0)
        for fault in self.of("reply"):
            with self.subTest(fault.kind):
                self.assertNotEqual(faulty_reply(b"!a,ok,1", {fault.kind: fault}, 0.0), plain)

    def test_every_kind_that_applies_to_a_call_changes_it(self) -> None:
        for fault in self.of("call"):
            with self.subTest(fault.kind):
                connection = connected(fault, handler=DBProtocolHandler(Backend()))
                self.assertNotEqual(connection.ask(b"?version\n"), GREETING)

    def test_every_kind_that_applies_at_a_moment_has_its_behaviour(self) -> None:
        for fault in self.of("moment"):
            with self.subTest(fault.kind):
                clock = SimulatedClock(lambda: 0)
                factory = factory_of(clock=clock)
                with mock.patch.object(factory, "pausable_listener") as listener:
                    factory.apply(fault)
                    factory.reactor.advance(0)
                self.assertEqual(bool(listener.pause.called), not fault.kind.startswith("clock-"))
                self.assertEqual((clock.offset, clock.drift) != (0, 0), fault.kind.startswith("clock-"))

    def test_a_kind_without_a_behaviour_is_refused(self) -> None:
        clock = SimulatedClock(lambda: 0)
        factory = factory_of(clock=clock)
        fault = Fault(kind="clock-step", seconds=1, at=0)
        object.__setattr__(fault, "kind", "new-kind")
        with self.assertRaisesRegex(NotImplementedError, "new-kind"):
            factory.apply(fault)
        self.assertEqual(clock.offset, 0)


class DropTests(unittest.TestCase):
    def test_before_inside_and_after(self) -> None:
        for kind, wanted in [("drop-before", b""), ("drop-inside", b"!b,"), ("drop-after", B)]:
            for piece in (None, 1):
                with self.subTest(kind, piece=piece):
                    connection = connected(Fault(kind=kind, command="b", nth=1))
                    connection.send(b"?a,1\n?b,2\n?c,3\n", piece)
                    self.assertEqual(connection.received(), A + wanted)
                    self.assertTrue(connection.transport.disconnecting)
                    connection.clock.advance(10)
                    self.assertEqual(connection.received(), b"")
                    connection.lose()
                    self.assertEqual(connection.factory.connections, set())

    def test_what_came_before_leaves_before_the_end(self) -> None:
        class Tls(Wire):
            """What is written after loseConnection goes nowhere."""

            def write(self, data: bytes) -> None:
                if not self.disconnecting:
                    super().write(data)

        connection = greeted(factory_of(Fault(kind="drop-inside", command="b", nth=1)), Tls())
        self.assertEqual(connection.ask(b"?a,1\n?b,2\n?c,3\n"), A + b"!b,")

    def test_the_earliest_drop_counts(self) -> None:
        kinds = ("drop-after", "drop-inside")
        connection = connected(*(Fault(kind=kind, rate=1, command="b") for kind in kinds))
        self.assertEqual(connection.ask(b"?b,2\n"), b"!b,")

    def test_a_drop_waits_for_no_other_reply(self) -> None:
        swap, drop = (Fault(kind=kind, command="b", nth=1) for kind in ("swap", "drop-inside"))
        connection = connected(swap, drop)
        self.assertEqual(connection.ask(b"?b,2\n"), b"!b,")
        self.assertTrue(connection.transport.disconnecting)

    def test_a_late_drop(self) -> None:
        connection = connected(
            Fault(kind="late", seconds=2, command="b", nth=1), Fault(kind="drop-inside", command="b", nth=1)
        )
        self.assertEqual(connection.ask(b"?a,1\n?b,2\n?c,3\n"), A)
        self.assertFalse(connection.transport.disconnecting)
        connection.clock.advance(2)
        self.assertEqual(connection.received(), b"!b,")
        self.assertTrue(connection.transport.disconnecting)

    def test_a_dropped_greeting(self) -> None:
        connection = Connection(factory_of(Fault(kind="drop-before", command="version", nth=1)))
        self.assertEqual(connection.received(), b"")
        self.assertTrue(connection.transport.disconnecting)

    def test_other_connections_live_on(self) -> None:
        factory = factory_of(Fault(kind="drop-before", command="b", nth=1))
        first, second = greeted(factory), greeted(factory)
        first.ask(b"?b,2\n")
        self.assertTrue(first.transport.disconnecting)
        self.assertEqual(second.ask(b"?b,2\n"), B)

    def test_what_was_read_is_carried_out(self) -> None:
        handler = odd(ok)
        connection = connected(Fault(kind="drop-before", command="b", nth=1), handler=handler)
        connection.send(b"?a,1\n?b,2\n" + b"?c,3\n" * 9)
        connection.clock.advance(0)
        connection.lose()
        connection.clock.advance(0)
        self.assertEqual(len(handler.requests), 11)
        self.assertEqual(connection.factory.connections, set())

    def test_also_for_a_client_that_does_not_read(self) -> None:
        handler = odd(ok)
        faults = [Fault(kind="late", seconds=1, command="a", nth=1), Fault(kind="drop-after", command="a", nth=1)]
        connection = greeted(factory_of(*faults, handler=handler), Narrow())
        connection.send(b"?b," + b"y" * 300 + b"\n")
        connection.transport.full = False
        protocol_of(connection).output.resumeProducing()
        connection.send(b"?a,1\n")
        protocol_of(connection).output.pauseProducing()
        connection.send(b"?b,2\n")
        connection.clock.pump([1.0, 0.0])
        self.assertEqual(len(handler.requests), 3)
        self.assertFalse(protocol_of(connection).busy)


class StopTests(unittest.TestCase):
    def test_a_client_that_does_not_read_a_late_reply_does_not_keep_the_server(self) -> None:
        transport = Narrow()
        connection = greeted(factory_of(Fault(kind="late", seconds=100, command="l", nth=1)), transport)
        connection.send(b"".join(b"?a,%s\r\n" % (b"y" * 100) for _ in range(3)) + b"?l\r\n")
        connection.clock.advance(0)
        connection.send(b"?b\r\n?c\r\n?d\r\n?e\r\n")
        finished: list[object] = []
        connection.factory.finish(5).addBoth(finished.append)
        connection.clock.pump([5.0, 0.0])
        self.assertEqual(finished, [None])
        self.assertEqual(connection.received().count(b"\n"), 8)

    def test_a_restart_ends_a_pause_of_each_connection(self) -> None:
        connection = greeted(factory_of())
        factory = protocol_of(connection).factory
        factory.pause()
        factory.restart(1.0)
        connection.clock.pump([0.0, 0.0])
        connection.send(b"?a\r\n")
        connection.lose()
        connection.clock.pump([0.0, 0.0])
        self.assertEqual(factory.connections, set())


class UnaffectedTests(unittest.TestCase):
    """Nothing armed: as without any of this."""

    @given(
        st.lists(st.sampled_from([b"?a,1\r\n", b"wrong\n", b"!reply\n", b"?b\\x\n", b"\n", b"?odd\n"]), max_size=40),
        st.integers(1, 60),
        st.booleans(),
    )
    def test_byte_for_byte(self, lines: Sequence[bytes], piece: int, armed: bool) -> None:
        sent = []
        for make in (DBFactory, FaultyFactory):
            factory = make(odd(lambda _: Deferred()), reactor=Clock())
            if armed and isinstance(factory, FaultyFactory):
                factory.faults.add(Fault(kind="drop-before", command="never", rate=1))
            transport = Watched(factory.reactor)
            connection = Connection(factory, transport)
            with measured_by(lambda: 0.0):
                received = connection.received() + connection.ask(b"".join(lines), piece)
            connection.half_close()
            sent.append((received, transport.writes, transport.disconnecting))
        self.assertEqual(sent[0], sent[1])


class SeedTests(unittest.TestCase):
    kinds = ("cut", "duplicate", "lf", "swap", "long", "bytes")

    def session(self, seed: int) -> bytes:
        faults = [Fault(kind=kind, rate=0.2) for kind in self.kinds]
        connection = connected(*faults, Fault(kind="late", seconds=1, rate=0.2), seed=seed)
        received = b""
        for number in range(60):
            received += all_of(connection, b"?a,%d\n" % number)
        return received

    def test_the_same_seed_and_requests_give_the_same_bytes(self) -> None:
        self.assertEqual(self.session(7), self.session(7))

    def test_another_seed_gives_others(self) -> None:
        self.assertEqual(len({self.session(seed) for seed in range(4)}), 4)

    @given(st.integers(), st.lists(st.sampled_from([0.0, 0.3, 1.1]), min_size=1, max_size=20))
    def test_whole_replies_stay_in_order(self, seed: int, pauses: Sequence[float]) -> None:
        connection = connected(Fault(kind="late", seconds=1, rate=0.4), Fault(kind="bytes", rate=0.3), seed=seed)
        received = b""
        for number, pause in enumerate(pauses):
            received += connection.ask(b"?a,%d\n" % number)
            connection.clock.advance(pause)
        received += all_of(connection)
        wanted = b"".join(b"!a,ok,%d\r\n" % number for number in range(len(pauses)))
        self.assertTrue((GREETING + wanted).endswith(received))
        self.assertTrue(received.endswith(wanted))


class PauseTests(unittest.TestCase):
    def test_nothing_is_looked_at_and_nothing_is_lost(self) -> None:
        handler = odd(ok)
        transport = Narrow()
        connection = greeted(factory_of(handler=handler), transport)
        factory = protocol_of(connection).factory
        factory.pause()
        self.assertFalse(transport.reading)
        self.assertEqual(connection.ask(b"?a,1\n?b,2\n", 3), b"")
        connection.clock.advance(60)
        self.assertEqual((connection.received(), handler.requests), (b"", []))
        factory.resume()
        self.assertTrue(transport.reading)
        self.assertEqual(connection.ask(b"?c,3\n"), A + B + C)

    def test_a_reply_that_comes_meanwhile_waits(self) -> None:
        later = Later()
        connection = connected(handler=odd(later))
        factory = protocol_of(connection).factory
        connection.ask(b"?odd\n?a,1\n")
        factory.pause()
        later.end("7")
        connection.clock.advance(5)
        self.assertEqual(connection.received(), b"")
        factory.resume()
        self.assertEqual(connection.ask(b""), b"!odd,ok,7\r\n" + A)

    def test_late_replies_and_single_bytes_wait_too(self) -> None:
        connection = connected(
            Fault(kind="late", seconds=1, command="a", nth=1), Fault(kind="bytes", command="b", nth=1)
        )
        factory = protocol_of(connection).factory
        self.assertEqual(connection.ask(b"?a,1\n?b,2\n?c,3\n"), b"")
        factory.pause()
        connection.clock.advance(5)
        self.assertEqual(connection.received(), b"")
        factory.resume()
        self.assertEqual(connection.ask(b""), A)
        connection.clock.advance(0.001)
        self.assertEqual(connection.received(), B[:1])
        factory.pause()
        connection.clock.pump([0.001] * 50)
        self.assertEqual(connection.received(), b"")
        factory.resume()
        self.assertEqual(all_of(connection), B[1:] + C)

    def test_who_connects_meanwhile_is_greeted_afterwards(self) -> None:
        factory = factory_of()
        factory.pause()
        transport = Narrow()
        connection = Connection(factory, transport)
        self.assertFalse(transport.reading)
        self.assertEqual(connection.ask(b"?a,1\n"), b"")
        factory.resume()
        self.assertEqual(connection.ask(b""), GREETING + A)

    def test_whether_a_client_is_silent_is_seen_afterwards(self) -> None:
        for asks, wanted in ((True, A), (False, GREETING)):
            with self.subTest(asks=asks):
                factory = factory_of(greeting_delay=5)
                factory.pause()
                connection = Connection(factory, Narrow())
                connection.clock.pump([1.0] * 12)
                factory.resume()
                received = connection.ask(b"?a,1\n" if asks else b"")
                connection.clock.advance(5)
                self.assertEqual(received + connection.received(), wanted)

    def test_what_a_client_that_leaves_has_asked_for_is_carried_out_afterwards(self) -> None:
        for before in (0, 9):
            with self.subTest(before=before):
                handler = odd(ok)
                connection = connected(handler=handler)
                factory = protocol_of(connection).factory
                connection.send(b"?a,1\n" * before)
                factory.pause()
                connection.send(b"?a,1\n")
                connection.lose()
                connection.clock.advance(1)
                self.assertEqual(handler.requests, [])
                factory.resume()
                connection.clock.advance(1)
                self.assertEqual(handler.requests, ["?a,1"] * (before + 1))
                self.assertEqual(factory.connections, set())

    def test_a_client_that_does_not_read_gets_no_further_after_the_pause(self) -> None:
        transport = Narrow()
        handler = odd(ok)
        connection = greeted(factory_of(handler=handler), transport)
        factory = protocol_of(connection).factory
        connection.send(b"?a," + b"y" * 300 + b"\n")
        self.assertTrue(transport.full)
        factory.pause()
        self.assertFalse(transport.reading)
        factory.resume()
        self.assertTrue(transport.reading, "what it sends may be what its transport needs in order to write")
        connection.send(b"?b,2\n" * 5000)
        connection.clock.advance(0)
        self.assertEqual((transport.reading, len(handler.requests)), (False, 1))
        factory.pause()
        connection.received()
        self.assertFalse(transport.reading)
        factory.resume()
        self.assertEqual(connection.ask(b""), B * 5000)
        self.assertTrue(transport.reading)

    def test_reads_nothing_while_it_is_paused(self) -> None:
        for transport in (Narrow(), Wire()):
            connection = greeted(factory_of(), transport)
            factory = protocol_of(connection).factory
            factory.pause()
            self.assertEqual(transport.producerState, "paused")
            connection.transport_empty()
            self.assertEqual(transport.producerState, "paused")
            factory.resume()
            self.assertEqual(transport.producerState, "producing")

    def test_a_client_that_did_not_read_and_leaves_is_forgotten_after_the_pause(self) -> None:
        handler = odd(ok)
        connection = greeted(factory_of(handler=handler), Narrow())
        factory = protocol_of(connection).factory
        for line in (b"?a," + b"y" * 300, b"?b,2"):
            connection.send(line + b"\n")
        self.assertEqual(len(handler.requests), 1)
        factory.pause()
        connection.lose()
        factory.resume()
        connection.clock.advance(0)
        self.assertEqual((len(handler.requests), factory.connections), (2, set()))

    def test_twice_is_once(self) -> None:
        connection = connected()
        factory = protocol_of(connection).factory
        for action in (factory.resume, factory.pause, factory.pause, factory.resume):
            action()
        self.assertEqual(connection.ask(b"?a,1\n"), A)

    @given(st.lists(st.sampled_from(["ask", "pause", "resume", "turn"]), max_size=30), st.integers())
    def test_however_often(self, steps: Sequence[str], seed: int) -> None:
        connection = connected(Fault(kind="bytes", rate=0.3, command="a"), seed=seed)
        factory = protocol_of(connection).factory
        for step in steps:
            {
                "ask": lambda: connection.send(b"?a,1\n?b,2\n"),
                "pause": factory.pause,
                "resume": factory.resume,
                "turn": lambda: connection.clock.advance(0.001),
            }[step]()
        factory.resume()
        self.assertEqual(all_of(connection), (A + B) * steps.count("ask"))


class EndTests(unittest.TestCase):
    """The server goes down in the midst of it."""

    def finished(self, factory: FaultyFactory, timeout: float = 3.0) -> list[float]:
        done: list[float] = []
        factory.finish(timeout).addCallback(lambda _: done.append(factory.reactor.seconds()))
        return done

    def test_late_replies_may_leave_until_time_is_up(self) -> None:
        for seconds, when in [(2.0, 2.0), (9.0, 3.0)]:
            with self.subTest(seconds=seconds):
                connection = connected(Fault(kind="late", seconds=seconds, command="a", rate=1))
                factory = protocol_of(connection).factory
                connection.send(b"?a,1\n?b,2\n")
                done = self.finished(factory)
                connection.clock.pump([1.0] * 10)
                self.assertEqual(connection.received(), A + B)
                self.assertEqual(done, [when])

    def test_more_than_may_wait_is_answered_all_the_same(self) -> None:
        connection = connected(Fault(kind="late", seconds=99, command="a", nth=1))
        connection.send(b"?a,1\n")
        connection.send(b"?b\n" * 4000)
        done = self.finished(protocol_of(connection).factory, 1.0)
        connection.clock.pump([0.0] * 100 + [1.0])
        self.assertEqual(connection.received().count(b"\r\n"), 4001)
        self.assertEqual(done, [1.0])

    def test_a_pause_is_over(self) -> None:
        connection = connected()
        factory = protocol_of(connection).factory
        factory.pause()
        connection.send(b"?a,1\n")
        done = self.finished(factory)
        connection.clock.advance(0)
        self.assertEqual(connection.received(), b"!a,fail,server is stopping\r\n")
        self.assertEqual(done, [0.0])

    def test_nothing_strikes_any_more(self) -> None:
        connection = connected(Fault(kind="drop-before", rate=1, command="a"))
        self.finished(protocol_of(connection).factory)
        self.assertEqual(connection.ask(b"?a,1\n"), b"!a,fail,server is stopping\r\n")

    def test_close_sends_what_waits(self) -> None:
        connection = connected(
            Fault(kind="late", seconds=9, command="a", rate=1), Fault(kind="drop-inside", command="b", rate=1)
        )
        connection.send(b"?a,1\n?c,3\n?b,2\n?c,3\n")
        connection.factory.close()
        self.assertEqual(connection.received(), A + C + b"!b,")
        self.assertTrue(connection.transport.disconnecting)
        self.assertEqual(connection.clock.getDelayedCalls(), [])


class ClockTests(unittest.TestCase):
    class Hands:
        """A clock that writes down what is done to it."""

        def __init__(self) -> None:
            self.to_dict: list[tuple[object, ...]] = []

        def jump(self, seconds: float) -> None:
            self.to_dict.append(("jump", seconds))

        def set_error(self, seconds: float, ppm: float) -> None:
            self.to_dict.append(("error", seconds, ppm))

    def test_off_step_and_drift(self) -> None:
        hands = self.Hands()
        factory = factory_of(
            Fault(kind="clock-off", seconds=-3, at=0),
            Fault(kind="clock-step", seconds=2, at=1),
            Fault(kind="clock-drift", ppm=10.1, at=2),
            Fault(kind="clock-drift", ppm=20.2, command="a", nth=1),
            clock=hands,
        )
        factory.reactor.pump([0.0, 1.0, 1.0])
        greeted(factory).ask(b"?a,1\n")
        both = 10.1 + 20.2
        self.assertEqual(hands.to_dict, [("error", -3, 0), ("jump", 2), ("error", -3, 10.1), ("error", -3, both)])
        hands.to_dict.clear()
        factory.faults.clear()
        self.assertEqual(hands.to_dict, [("error", 0, both), ("error", 0, 20.2), ("error", 0, 0)])

    def test_more_than_a_clock_can_do_is_logged(self) -> None:
        clock = SimulatedClock(lambda: 0)
        slow = [Fault(kind="clock-drift", ppm=-400_000, command="a", nth=nth) for nth in (1, 2)]
        factory = factory_of(*slow, Fault(kind="clock-step", seconds=3e7, command="b", rate=1), clock=clock)
        with self.assertLogs("discosbackend.simulator.faults.protocol", "WARNING") as logs:
            connection = greeted(factory)
            self.assertEqual(connection.ask(b"?a,1\n?a,1\n"), A + A)
            self.assertEqual(clock.drift, -400_000)
            self.assertEqual(all_of(connection, b"?b,2\n" * 200), B * 200)
        self.assertIn("clock-drift does nothing: drift must be", logs.output[0])
        self.assertIn("clock-step does nothing: ", logs.output[1])
        # The second did nothing, and does nothing later.
        factory.faults.remove(1)
        self.assertEqual(clock.drift, 0)

    def test_removing_a_clock_fault_takes_away_its_own_part(self) -> None:
        century, year = 36_600 * 86_400, 366 * 86_400
        off = {seconds: Fault(kind="clock-off", seconds=seconds, at=0) for seconds in (10, 20, year)}
        drift = {ppm: Fault(kind="clock-drift", ppm=ppm, at=0) for ppm in (10, -10, -400_000)}
        cases: list[tuple[list[Fault | int | tuple[str, float]], tuple[float, float], tuple[float, float]]] = [
            # A fault to add, the number of a fault to remove or a call of the clock; offset and drift then, and when
            # all faults are removed.
            ([off[10]], (10, 0), (0, 0)),
            ([("offset", century), off[year]], (century, 0), (century, 0)),
            ([("offset", century), off[year], ("offset", 0)], (0, 0), (0, 0)),
            ([("offset", 5), off[10]], (15, 0), (5, 0)),
            ([off[10], ("offset", 0)], (10, 0), (0, 0)),
            ([off[10], ("offset", 5)], (15, 0), (5, 0)),
            ([off[10], ("jump", 3)], (13, 0), (3, 0)),
            ([off[10], off[20], 1], (20, 0), (0, 0)),
            ([off[10], off[10], 1], (10, 0), (0, 0)),
            ([("offset", century - 15), off[10], off[10], 2], (century - 5, 0), (century - 15, 0)),
            ([("offset", century - 15), off[10], off[10], 1], (century - 15, 0), (century - 15, 0)),
            ([("drift", 5), drift[10]], (0, 15), (0, 5)),
            ([drift[10], ("drift", 5)], (0, 15), (0, 5)),
            ([drift[10], drift[-10]], (0, 0), (0, 0)),
            ([drift[10], drift[-10], 1], (0, -10), (0, 0)),
            ([drift[-400_000], drift[-400_000], 2], (0, -400_000), (0, 0)),
            ([drift[-400_000], ("drift", -400_000)], (0, -400_000), (0, 0)),
        ]
        for steps, during, afterwards in cases:
            with self.subTest(steps):
                clock = SimulatedClock(lambda: 0)
                factory = factory_of(clock=clock)
                calls = {"offset": clock.set_offset, "drift": clock.set_drift, "jump": clock.jump}
                for step in steps:
                    if isinstance(step, Fault):
                        factory.faults.add(step)
                        factory.reactor.advance(0)
                    elif isinstance(step, int):
                        factory.faults.remove(step)
                    else:
                        with suppress(ValueError):
                            calls[step[0]](step[1])
                self.assertEqual((clock.offset, clock.drift), during)
                factory.faults.clear()
                self.assertEqual((clock.offset, clock.drift), afterwards)

    def test_a_part_that_cannot_be_taken_away_alone(self) -> None:
        clock = SimulatedClock(lambda: 0)
        factory = factory_of(*(Fault(kind="clock-drift", ppm=ppm, at=0) for ppm in (400_000, -400_000)), clock=clock)
        factory.reactor.advance(0)
        clock.set_drift(-400_000)
        with self.assertLogs("discosbackend.simulator.faults.protocol", "WARNING") as logs:
            factory.faults.remove(1)
        self.assertIn("clock-drift is not undone yet: drift must be", logs.output[0])
        self.assertEqual(clock.drift, -400_000)
        factory.faults.clear()
        self.assertEqual(clock.drift, -400_000)

    def test_what_lasts_does_so_after_a_reset(self) -> None:
        clock = SimulatedClock(lambda: 0)
        lasting = [Fault(kind="clock-off", seconds=-3, at=0), Fault(kind="clock-drift", ppm=10, at=0)]
        factory = factory_of(*lasting, Fault(kind="clock-step", seconds=1, at=0), clock=clock)
        factory.reactor.advance(0)
        self.assertEqual((clock.offset, clock.drift), (-2, 10))
        clock.set_drift(0)
        clock.set_offset(0)
        self.assertEqual((clock.offset, clock.drift), (-3, 10))
        factory.faults.clear()
        self.assertEqual((clock.offset, clock.drift), (0, 0))

    def test_without_a_clock_it_is_logged(self) -> None:
        factory = factory_of(Fault(kind="clock-off", seconds=1, at=0))
        with self.assertLogs("discosbackend.simulator.faults.protocol", "WARNING") as logs:
            factory.reactor.advance(0)
        self.assertIn("clock-off does nothing", logs.output[0])
        factory.faults.clear()


if __name__ == "__main__":
    unittest.main()
