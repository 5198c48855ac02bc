"""Counters: what they count, and that no client can make them grow."""

from __future__ import annotations

import unittest
from itertools import chain
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from discosbackend.exchanges import ConnectionEvent, Exchange, Reads, ReadValues
from discosbackend.monitor.counters import BOUNDS, HISTORY, UNKNOWN, CommandCounts, Counters
from discosbackend.ticks import Ticks

from .monitored import Monitored


def exchange(name: str = "status", code: str = "ok", seconds: float = 1e-3, **others: Any) -> Exchange:
    reply = f"!{name},{code}".encode()
    values = {"request": f"?{name}".encode(), "reply": reply, "connection": 1, **others}
    return Exchange(
        peer="10.0.0.7:4711", begin=Ticks(1), name=name, code=code, changes=False, seconds=seconds, **values
    )


def event(number: int, what: str) -> ConnectionEvent:
    return ConnectionEvent(number, "10.0.0.7:4711", Ticks.from_unix(5.0), what)


class CountersTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.counters = Counters(monotonic=self.clock.seconds)

    def test_each_code_is_counted(self) -> None:
        for code, times in (("ok", 3), ("fail", 2), ("invalid", 1)):
            for _ in range(times):
                self.counters(exchange("start", code))
        self.counters(exchange("start", "", reply=None))
        counts = self.counters.commands["start"]
        found = (counts.requests, counts.ok, counts.fail, counts.invalid, counts.other)
        self.assertEqual(found, (7, 3, 2, 1, 1))
        self.assertAlmostEqual(counts.seconds, 7e-3)

    def test_bytes_include_the_line_ends(self) -> None:
        self.counters(exchange(request=b"?status", reply=b"!status,ok"))
        self.counters(exchange("", "", request=b"!what", reply=None))
        self.assertEqual((self.counters.bytes_in, self.counters.bytes_out), (9 + 7, 12))
        # A line that is not a request has bytes only.
        self.assertEqual(list(self.counters.commands), ["status"])

    def test_a_client_that_invents_names(self) -> None:
        self.counters(event(1, "open"))
        for number in range(5000):
            self.counters(exchange(f"x{number}" * 1000, "fail"))
        self.counters(exchange("", "invalid"))
        self.assertEqual(list(self.counters.commands), [UNKNOWN])
        self.assertEqual(self.counters.commands[UNKNOWN].requests, 5001)
        self.counters(exchange("x" * 60000, "y" * 60000))
        ((_, client),) = self.counters.clients(10)
        assert client.last is not None
        self.assertLessEqual(len(client.last[0]) + len(client.last[1]), 80)

    def test_a_command_that_is_added_later_has_its_name(self) -> None:
        names = {"status": None}
        counters = Counters(names)
        counters(exchange("sweep"))
        names["sweep"] = None
        counters(exchange("sweep"))
        self.assertEqual(list(counters.commands), [UNKNOWN, "sweep"])

    def test_ten_thousand_connections(self) -> None:
        for number in range(1, 10_001):
            self.counters(event(number, "open"))
        self.assertEqual((self.counters.open, self.counters.total), (10_000, 10_000))
        self.counters(exchange(connection=17))
        self.assertEqual([number for number, _ in self.counters.clients(3)], [17, 10_000, 9_999])
        for number in range(1, 10_001):
            self.counters(event(number, "close"))
        self.assertEqual((self.counters.open, self.counters.total), (0, 10_000))
        self.assertEqual(list(self.counters.clients(10)), [])
        self.assertEqual((self.counters.bytes_in, self.counters.bytes_out), (9, 12))

    def test_a_client(self) -> None:
        self.counters(event(1, "open"))
        self.counters(exchange())
        self.counters(exchange("start", "fail"))
        ((number, client),) = self.counters.clients(10)
        self.assertEqual((number, client.peer, client.since), (1, "10.0.0.7:4711", 5.0))
        self.assertEqual((client.requests, client.failures), (2, 1))
        self.assertEqual((client.bytes_in, client.bytes_out), (9 + 8, 12 + 13))
        self.assertEqual(client.last, ("start", "fail", Ticks(1)))

    def test_a_connection_that_was_there_before(self) -> None:
        self.counters(exchange())
        self.counters(event(1, "close"))
        self.assertEqual((self.counters.open, self.counters.total), (0, 0))
        self.assertEqual(self.counters.commands["status"].requests, 1)

    def test_the_history(self) -> None:
        self.clock.advance(1000.5)
        for _ in range(3):
            self.counters(exchange())
        self.clock.advance(2)
        self.counters(exchange())
        counts = self.counters.commands["status"]
        # The current second is not over.
        self.assertEqual(counts.history(self.counters.second), [0] * (HISTORY - 2) + [3, 0])
        self.clock.advance(1)
        self.assertEqual(counts.history(self.counters.second), [0] * (HISTORY - 3) + [3, 0, 1])
        self.clock.advance(HISTORY - 3)
        self.assertEqual(counts.history(self.counters.second), [3, 0, 1] + [0] * (HISTORY - 3))
        self.clock.advance(1e6)
        self.assertEqual(counts.history(self.counters.second), [0] * HISTORY)

    def test_the_last_status_is_kept(self) -> None:
        last = exchange("status", "fail")
        for each in (exchange(), last, exchange("start")):
            self.counters(each)
        self.assertIs(self.counters.status, last)

    def test_as_a_listener_of_a_server(self) -> None:
        server = Monitored()
        self.assertRegex(server.ask(b"?status"), b"!status,ok,")
        server.ask(b"?nonesuch")
        server.ask(b"nothing")
        counted = {name: (each.ok, each.fail, each.invalid) for name, each in server.counters.commands.items()}
        self.assertEqual(counted, {"status": (1, 0, 0), UNKNOWN: (0, 1, 1)})
        self.assertEqual((server.counters.open, server.counters.total), (0, 3))


READS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.just("10.0.0.7:4711"),
        st.floats(0, 10),
        st.sampled_from((b"?status", b"?status,1", b"?get-tpi")),
        st.sampled_from(("status", "get-tpi", "own")),
        st.binary(max_size=20),
        st.sampled_from((*BOUNDS, 0.0, 101.0, 1e-9)) | st.floats(0, 120),
    ),
    min_size=1,
)


class ReadsTests(unittest.TestCase):
    """Reads that come together are counted as each of them would be."""

    @given(READS)
    def test_counts(self, values: list[ReadValues]) -> None:
        reads = Reads.of(list(chain.from_iterable(values)))
        together, singly = Counters(monotonic=lambda: 7.0), Counters(monotonic=lambda: 7.0)
        for number in (1, 2, 3):
            together(event(number, "open"))
            singly(event(number, "open"))
        together.add_records(reads)
        for read in reads:
            singly(read)
        self.assertEqual(set(together.commands), set(singly.commands))
        for name, counts in together.commands.items():
            wanted = singly.commands[name]
            self.assertAlmostEqual(counts.seconds, wanted.seconds)
            for attribute in ("ok", "fail", "invalid", "other", "slowest", "buckets", "second"):
                self.assertEqual(getattr(counts, attribute), getattr(wanted, attribute), (name, attribute))
        self.assertEqual((together.bytes_in, together.bytes_out), (singly.bytes_in, singly.bytes_out))
        self.assertEqual(together.status, singly.status)
        for (number, client), (other, wanted_client) in zip(together.clients(9), singly.clients(9), strict=True):
            self.assertEqual(number, other)
            for attribute in ("requests", "failures", "bytes_in", "bytes_out", "last"):
                self.assertEqual(getattr(client, attribute), getattr(wanted_client, attribute), attribute)


class PercentileTests(unittest.TestCase):
    def test_no_requests(self) -> None:
        self.assertIsNone(CommandCounts().percentile(0.5))

    def test_longer_than_the_last_bound(self) -> None:
        counters = Counters()
        counters(exchange(seconds=700.0))
        self.assertEqual(counters.commands["status"].percentile(0.5), 700.0)

    def test_a_few_slow_ones(self) -> None:
        # The bucket from 10 to 30 s has one request: more than 11 s were never seen.
        counters = Counters()
        for seconds in (0.001, 11.0):
            counters(exchange(seconds=seconds))
        self.assertEqual(counters.commands["status"].percentile(0.99), 11.0)

    @given(st.lists(st.floats(0, 200), min_size=1), st.sampled_from((0.5, 0.99)))
    def test_it_is_in_the_bucket_of_the_exact_one(self, latencies: list[float], share: float) -> None:
        counters = Counters()
        for each in latencies:
            counters(exchange(seconds=each))
        found = counters.commands["status"].percentile(share)
        assert found is not None
        exact = sorted(latencies)[min(len(latencies) - 1, max(0, -int(-share * len(latencies) // 1) - 1))]
        low = max((bound for bound in (0.0, *BOUNDS) if bound < exact), default=0.0)
        high = min((bound for bound in BOUNDS if bound >= exact), default=max(latencies))
        self.assertLessEqual(low, found)
        self.assertLessEqual(found, high)


if __name__ == "__main__":
    unittest.main()
