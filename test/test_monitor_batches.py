"""Batches: records come in their order, none is lost, and a change does not wait."""

from __future__ import annotations

import unittest
from collections.abc import Sequence
from typing import Any
from unittest import mock

from twisted.internet.task import Clock

from discosbackend import Backend, BackendError
from discosbackend.exchanges import ConnectionEvent, Exchange
from discosbackend.handlers import DBProtocolHandler
from discosbackend.monitor import batches as batches_module
from discosbackend.monitor.batches import Batches, Record
from discosbackend.protocol import DBFactory
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

from .in_memory import greeted

PEER = "192.168.1.1:54321"


class Instrument(Backend):
    def status(self) -> tuple[float, str, bool]:
        return 0.0, "ok", False

    def get_integration(self) -> int:
        return 40

    def set_integration(self, integration: int) -> None:
        if integration > 100:
            raise BackendError("too long")


class Kept:
    """Keeps what it gets, and notes what the client had received by then."""

    def __init__(self) -> None:
        self.batches: list[list[Record]] = []
        self.received: Any = lambda: b""
        self.sent_before: list[bytes] = []

    def add_records(self, records: Sequence[Record]) -> None:
        self.batches.append(list(records))
        self.sent_before.append(self.received())

    @property
    def words(self) -> list[list[str]]:
        return [
            [each.request.decode() if isinstance(each, Exchange) else each.event for each in batch]
            for batch in self.batches
        ]


class BatchesTests(unittest.TestCase):
    """Of Batches that listen_to() a factory."""

    # The delays of the timer if more reads come than are given in a turn of the reactor.
    delays = [2 * batches_module._SHORTEST, 0, 0]
    # How many reads are given at once.
    most = batches_module._MOST_READS
    # How long records wait after very many have come.
    waits = [0.005, 0.003, 0.003]

    def setUp(self) -> None:
        self.clock = Clock()
        self.kept = Kept()
        self.batches = Batches(self.clock)
        self.batches.listeners.append(self.kept)
        self.factory = DBFactory(DBProtocolHandler(Instrument(), reactor=self.clock), reactor=self.clock)
        self.listen()

    def listen(self) -> None:
        self.batches.listen_to(self.factory)

    def test_reads_and_failures_wait_for_a_few_ms(self) -> None:
        connection = greeted(self.factory)
        for line in (b"?get-integration\r\n", b"?set-integration,101\r\n", b"?x\r\n", b"!no request\r\n"):
            connection.ask(line)
        self.clock.advance(0.001953125)
        self.assertEqual(self.kept.words, [])
        # In steps that a float holds exactly.
        self.clock.advance(0.001953125)
        wanted = ["open", "?get-integration", "?set-integration,101", "?x", "!no request"]
        self.assertEqual(self.kept.words, [wanted])
        self.clock.advance(1)
        self.assertEqual(self.kept.words, [wanted])
        connection.lose()
        self.clock.advance(0.02)
        self.assertEqual(self.kept.words[1:], [["close"]])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_change_waits_for_nothing(self) -> None:
        """It is given with what came before, also in the middle of a chunk, and before its reply is sent."""
        connection = greeted(self.factory)
        self.kept.received = connection.transport.value
        before = connection.transport.value()
        connection.send(b"?get-integration\r\n?set-integration,5\r\n?get-integration\r\n")
        self.assertEqual(self.kept.words, [["open", "?get-integration", "?set-integration,5"]])
        self.assertEqual(self.kept.sent_before, [before])
        self.assertTrue(connection.transport.value().endswith(b"!set-integration,ok\r\n!get-integration,ok,40\r\n"))
        self.clock.advance(0.02)
        self.assertEqual(self.kept.words[1:], [["?get-integration"]])

    def test_many_failures(self) -> None:
        connection = greeted(self.factory)
        for _ in range(3 * batches_module._MOST):
            connection.ask(b"?x\r\n")
        self.assertEqual([len(batch) for batch in self.kept.batches], [batches_module._MOST] * 3)
        self.batches.flush()
        self.assertEqual([len(batch) for batch in self.kept.batches[3:]], [1])

    def test_many_reads(self) -> None:
        """They are given in pieces."""
        connection = greeted(self.factory)
        for _ in range(2 * batches_module._MOST_READS + 1):
            connection.ask(b"?get-integration\r\n")
        self.batches.flush()
        self.assertEqual(
            [word for words in self.kept.words for word in words],
            ["open"] + ["?get-integration"] * (2 * batches_module._MOST_READS + 1),
        )
        self.assertLessEqual(max(map(len, self.kept.batches)), batches_module._MOST_READS)

    def test_the_reactor_goes_on_between_the_pieces(self) -> None:
        delays: list[float] = []
        call_later = self.clock.callLater

        def noted(delay: float, *arguments: Any) -> Any:
            delays.append(delay)
            return call_later(delay, *arguments)

        connection = greeted(self.factory)
        self.batches.flush()
        self.clock.advance(1)
        with mock.patch.object(self.clock, "callLater", noted):
            for _ in range(2 * self.most + 1):
                connection.ask(b"?get-integration\r\n")
            self.clock.advance(0.02)
            pieces = [self.most] * 2 + [1]
            self.assertEqual(list(map(len, self.kept.batches[1:])), pieces)
            self.assertEqual(delays, self.delays)
            # A read that comes later is not lost.
            connection.ask(b"?get-integration\r\n")
            self.clock.advance(0.05)
        self.assertEqual(list(map(len, self.kept.batches[1:])), [*pieces, 1])

    def test_reads_wait_longer_if_they_are_few(self) -> None:
        """Up to 50 ms. A pause does not let them wait longer than before."""
        connection = greeted(self.factory)
        self.batches.flush()
        self.clock.advance(1)
        delays: list[float] = []
        call_later = self.clock.callLater

        def noted(delay: float, *arguments: Any) -> Any:
            if delay:
                delays.append(delay)
            return call_later(delay, *arguments)

        with mock.patch.object(self.clock, "callLater", noted):
            for count in [1] * 5 + [10 * batches_module._WANTED] * 2 + [batches_module._WANTED - 1] * 2:
                for _ in range(count):
                    connection.ask(b"?get-integration\r\n")
                self.clock.advance(0.05)
                self.clock.advance(5)
        self.assertEqual([round(each, 3) for each in delays], [0.006, 0.012, 0.024, 0.048, 0.05, 0.05, *self.waits])

    def test_a_read_between_the_pieces(self) -> None:
        connection = greeted(self.factory)
        self.batches.flush()
        self.kept.received = lambda: len(self.kept.batches) == 2 and connection.ask(b"?status\r\n")
        for _ in range(2 * batches_module._MOST_READS + 1):
            connection.ask(b"?get-integration\r\n")
        self.clock.advance(0.02)
        self.clock.advance(0.1)
        words = [word for words in self.kept.words for word in words]
        self.assertEqual((len(words), words.count("?status")), (2 * batches_module._MOST_READS + 3, 1))

    def test_reads_between_other_records(self) -> None:
        """Many or few of them keep their place."""
        connection = greeted(self.factory)
        wanted = ["open"]
        for count in (1, batches_module._FEW, batches_module._FEW + 1, 2 * batches_module._MOST_READS):
            for line in (*[b"?get-integration"] * count, b"?x", b"?x"):
                wanted.append(line.decode())
                connection.ask(line + b"\r\n")
        connection.ask(b"?set-integration,5\r\n")
        self.assertEqual([word for words in self.kept.words for word in words], [*wanted, "?set-integration,5"])

    def test_what_is_known_of_a_read(self) -> None:
        connection = greeted(self.factory)
        before = Ticks.now()
        connection.ask(b"?get-integration\r\n")
        after = Ticks.now()
        self.batches.flush()
        (read,) = [each for batch in self.kept.batches for each in batch if isinstance(each, Exchange)]
        self.assertEqual(
            read._replace(begin=Ticks(0), seconds=0.0),
            (1, PEER, 0, b"?get-integration", "get-integration", b"!get-integration,ok,40", "ok", False, 0),
        )
        # The two clocks are read one after the other.
        error = TICKS_PER_SECOND // 10
        self.assertIsInstance(read.begin, Ticks)
        self.assertTrue(before - error <= read.begin <= after + error)
        self.assertTrue(0 < read.seconds < 1)

    def test_another_listener(self) -> None:
        """It gets each Exchange at once, and nobody misses one or gets it twice."""
        connection = greeted(self.factory)
        self.batches.flush()
        seen: list[Any] = []
        self.factory.listeners.append(seen.append)
        connection.ask(b"?get-integration\r\n?get-integration\r\n")
        self.assertEqual([each.name for each in seen], ["get-integration"] * 2)
        self.factory.listeners.remove(seen.append)
        connection.ask(b"?get-integration\r\n")
        self.batches.flush()
        self.assertEqual(len(seen), 2)
        self.assertEqual([word for words in self.kept.words for word in words], ["open"] + ["?get-integration"] * 3)

    def test_nobody_listens_any_more(self) -> None:
        connection = greeted(self.factory)
        self.batches.flush()
        seen: list[Any] = []
        self.factory.listeners[:] = [seen.append]
        connection.ask(b"?get-integration\r\n")
        self.batches.flush()
        self.assertEqual((len(seen), self.kept.words), (1, [["open"]]))

    def test_a_listener_that_fails(self) -> None:
        """It is logged, once a minute, and the others get the records."""

        class Defective:
            def add_records(self, records: Sequence[Record]) -> None:
                raise SystemExit("no")

        self.batches.listeners.insert(0, Defective())
        connection = greeted(self.factory)
        with self.assertLogs("discosbackend.monitor", "ERROR") as logs:
            for _ in range(20):
                connection.ask(b"?set-integration,5\r\n")
        self.assertLessEqual(len(logs.records), 5)
        self.assertIn("a listener failed: <test.test_monitor_batches.", logs.records[0].getMessage())
        self.assertEqual(len(self.kept.batches), 20)

    def test_the_end(self) -> None:
        connection = greeted(self.factory)
        connection.ask(b"?get-integration\r\n")
        self.batches.close()
        self.assertEqual(self.kept.words, [["open", "?get-integration"]])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.batches.close()
        self.assertEqual(len(self.kept.batches), 1)
        self.assertIsInstance(self.kept.batches[0][0], ConnectionEvent)


class AppendedTests(BatchesTests):
    """Of Batches that are only one of the listeners of a factory: they get each Exchange."""

    # Each piece is given as soon as it is complete.
    most = batches_module._MOST
    delays = [2 * batches_module._SHORTEST]
    waits = [0.05, 0.05, 0.05]

    def listen(self) -> None:
        self.factory.listeners.append(self.batches)


if __name__ == "__main__":
    unittest.main()
