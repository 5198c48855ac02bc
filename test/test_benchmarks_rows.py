"""What the measurements make of what they see: their rows, from made-up loads, servers and clocks."""

from __future__ import annotations

import socket
import unittest
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import ModuleType
from typing import Any, Self
from unittest import mock

from benchmarks import contention, failures, punctuality, throughput
from benchmarks.load import STATUS, Load, Request
from benchmarks.presets import QUICK
from benchmarks.table import Row

PRESET = replace(QUICK, rounds=3, requests=600, batches=100, failures=2000, idle=1000, storms=2, floods=2)


class FakeServer:
    """Is where its name is, and uses what a test says."""

    def __init__(self, name: str = "ours") -> None:
        self.address = name
        self.command = name
        self.pid = 1
        self.memory = self.peak_memory = self.log_size = 0
        self.processor_time = 100.0

    def outlive(self, _: float) -> None:
        """It is not gone."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""


class FakesTests(unittest.TestCase):
    def put(self, module: ModuleType, **fakes: Any) -> None:
        """Have those in place of the module's own."""
        patch = mock.patch.multiple(module, **fakes)
        patch.start()
        self.addCleanup(patch.stop)


class TurnsTests(unittest.TestCase):
    def test_every_round_begins_with_the_next(self) -> None:
        for compared, expected in (("abcd", "abcdbcdacdabdabcabcd"), ("ab", "abbaabbaab"), ("a", "aaaaa")):
            with self.subTest(compared=compared):
                self.assertEqual("".join(replace(PRESET, rounds=5).turns(compared)), expected)


class ExchangeTests(FakesTests):
    LOADS = {
        "ours": Load(800, [130e-6, 230e-6]),
        "twisted": Load(1000, [100e-6, 200e-6]),
        "asyncio": Load(1600, [80e-6, 160e-6]),
        "floor": Load(900, [110e-6, 220e-6]),
    }
    RATES = [
        Row("rate against bare asyncio", "800/s", "1,600/s", "0.50 ×"),
        Row("rate against the floor", "800/s", "900/s", "0.89 ×"),
        Row("the floor against bare Twisted", "900/s", "1,000/s", "0.90 ×"),
    ]
    LATENCIES = [
        Row("p50 against bare Twisted", "130 µs", "100 µs", "1.30 ×"),
        Row("p99 against bare Twisted", "230 µs", "200 µs", "1.15 ×", "≤ 1.2 ×", True),
        Row("p99 against bare asyncio", "230 µs", "160 µs", "1.44 ×"),
    ]

    def setUp(self) -> None:
        self.seen: list[tuple[object, ...]] = []

        def connected(address: str, count: int) -> AbstractContextManager[list[str]]:
            return nullcontext([address] * count)

        def alone(connection: str, *how: object) -> Load:
            self.seen.append((connection, 1, *how))
            return self.LOADS[connection]

        def together(connections: Sequence[str], *how: object) -> Load:
            self.seen.append((connections[0], len(connections), *how))
            return self.LOADS[connections[0]]

        makers = {"our": "ours", "twisted": "twisted", "asyncio": "asyncio", "unchecked": "floor"}
        for maker, name in makers.items():
            self.put(throughput, **{f"{maker}_server": lambda name=name: FakeServer(name)})
        self.put(throughput, connected=connected, alone=alone, together=together)

    def test_rows(self) -> None:
        for measurement, clients, depth, goal, met, latencies in (
            (throughput.one_client, 1, 1, "≥ 0.9 ×", False, self.LATENCIES),
            (throughput.fifty_clients, 50, 1, "≥ 0.95 ×", False, self.LATENCIES),
            (throughput.one_pipelining, 1, 100, "≥ 0.5 ×", True, []),
            (throughput.fifty_pipelining, 50, 100, "≥ 0.4 ×", True, []),
        ):
            with self.subTest(measurement.__name__):
                self.seen.clear()
                rate = Row("rate against bare Twisted", "800/s", "1,000/s", "0.80 ×", goal, met)
                self.assertEqual(measurement(PRESET), [rate, *self.RATES, *latencies])
                everybody = {(count, request, deep) for _, count, request, _, deep in self.seen}
                self.assertEqual(everybody, {(clients, STATUS, depth)})

    def test_on_the_asyncio_reactor(self) -> None:
        self.LOADS = {**self.LOADS, "on asyncio": Load(400, [])}
        self.put(throughput, our_server_on_asyncio=lambda: FakeServer("on asyncio"))
        self.assertEqual(
            throughput.on_asyncio(PRESET),
            [
                Row("rate: one client, one request at a time", "400/s", "800/s", "0.50 ×"),
                Row("rate: 50 clients, one request each at a time", "400/s", "800/s", "0.50 ×"),
                Row("rate: one client pipelining 100", "400/s", "800/s", "0.50 ×"),
            ],
        )
        servers = [server for server, *_ in self.seen[:8]]
        self.assertEqual(servers, ["on asyncio", "ours"] * 2 + ["ours", "on asyncio"] + ["on asyncio", "ours"])

    def test_turns(self) -> None:
        throughput.fifty_clients(PRESET)
        warm, first = ["ours", "twisted", "asyncio", "floor"], ["ours", "twisted", "asyncio", "floor"]
        second, third = ["twisted", "asyncio", "floor", "ours"], ["asyncio", "floor", "ours", "twisted"]
        self.assertEqual([server for server, *_ in self.seen], [*warm, *first, *second, *third])

    def test_rounds_are_as_long_as_the_effort_says(self) -> None:
        for measurement, expected in ((throughput.one_client, 600), (throughput.one_pipelining, 100)):
            with self.subTest(measurement.__name__):
                self.seen.clear()
                measurement(PRESET)
                self.assertEqual({each for _, _, _, each, _ in self.seen}, {expected})

    def test_each_round_is_compared_with_the_one_beside_it(self) -> None:
        """Rates of three rounds, each server's for itself, after one that warms up."""
        rates = {
            "ours": iter([1, 10, 90, 30]),
            "twisted": iter([1, 10, 100, 60]),
            "asyncio": iter([1, 10, 10, 10]),
            "floor": iter([1, 10, 10, 10]),
        }
        self.put(throughput, alone=lambda connection, *_: Load(next(rates[connection]), []))
        expected = Row("rate against bare Twisted", "30/s", "60/s", "0.90 ×", "≥ 0.5 ×", True)
        self.assertEqual(throughput.one_pipelining(PRESET)[0], expected)


class ContentionTests(FakesTests):
    def setUp(self) -> None:
        self.busy = ""
        self.seen: list[tuple[str, str]] = []
        loads = {
            ("ours", ""): Load(1, [100e-6, 200e-6]),
            ("ours", "nap"): Load(1, [110e-6, 230e-6]),
            ("ours", "dawdle"): Load(1, [130e-6, 260e-6]),
            ("ours", "flood"): Load(1, [1e-3, 4e-3]),
            ("twisted", "flood"): Load(1, [6e-3, 8e-3]),
        }

        @contextmanager
        def kept_busy(_: FakeServer, command: str) -> Iterator[None]:
            self.busy = command
            yield
            self.busy = ""

        def alone(connection: socket.socket, *_: object) -> Load:
            with connection as server:
                self.seen.append((str(server), self.busy))
                return loads[self.seen[-1]]

        self.put(
            contention,
            our_server=FakeServer,
            twisted_server=lambda: FakeServer("twisted"),
            connect=lambda address: nullcontext(nullcontext(address)),
            kept_busy=kept_busy,
            flooded=lambda server: kept_busy(server, "flood"),
            alone=alone,
        )

    def test_slow_commands(self) -> None:
        sleep, coroutine = "a @blocking sleep, against without", "a slow coroutine, against without"
        expected = [
            Row(f"p50 beside {sleep}", "110 µs", "100 µs", "1.10 ×"),
            Row(f"p99 beside {sleep}", "230 µs", "200 µs", "1.15 ×", "≤ 1.2 ×", True),
            Row(f"p50 beside {coroutine}", "130 µs", "100 µs", "1.30 ×"),
            Row(f"p99 beside {coroutine}", "260 µs", "200 µs", "1.30 ×", "≤ 1.2 ×", False),
        ]
        self.assertEqual(contention.during_commands(PRESET), expected)
        rounds = [["", "nap", "dawdle"], ["nap", "dawdle", ""], ["dawdle", "", "nap"]]
        self.assertEqual([busy for _, busy in self.seen], ["", *rounds[0], *rounds[1], *rounds[2]])

    def test_a_flood(self) -> None:
        expected = [
            Row("p50", "1 ms", "6 ms (bare Twisted)"),
            Row("p99", "4 ms", "8 ms (bare Twisted)", goal="≤ 5 ms", met=True),
        ]
        self.assertEqual(contention.during_flood(PRESET), expected)
        self.assertEqual(self.seen, [("ours", "flood"), ("twisted", "flood")] * 2)


class FailuresTests(FakesTests):
    # Seconds of the server's processor for one of each.
    COSTS = {
        b"?status": 4e-6,
        b"?open-dome": 2e-6,
        b"?set-integration": 3e-6,
        b"?set-integration,soon": 4.8e-6,
        b"?set-configuration,X": 5.6e-6,
        b"status": 6.4e-6,
    }

    def test_rows(self) -> None:
        server = FakeServer()
        asked: list[bytes] = []

        def alone(_: object, request: Request, rounds: int, depth: int) -> None:
            asked.append(request.line)
            server.processor_time += self.COSTS[request.line] * rounds * depth
            if rounds * depth == 100_000:
                server.log_size += 700

        def sleep(_: float) -> None:
            # What the log says of the flood, when its second is over.
            server.log_size += 30

        self.put(
            failures,
            Server=lambda *_, **__: server,
            connect=nullcontext,
            alone=alone,
            time=mock.Mock(sleep=sleep),
        )
        expected = [
            Row("unknown command", "2 µs", "4 µs", "0.50 ×", "≤ 1.5 ×", True),
            Row("wrong number of arguments", "3 µs", "4 µs", "0.75 ×", "≤ 1.5 ×", True),
            Row("bad argument", "4.8 µs", "4 µs", "1.20 ×", "≤ 1.5 ×", True),
            Row("refused by the backend", "5.6 µs", "4 µs", "1.40 ×", "≤ 1.5 ×", True),
            Row("malformed line", "6.4 µs", "4 µs", "1.60 ×", "≤ 1.5 ×", False),
            Row("log written by 100,000 refusals", "730 B"),
        ]
        self.assertEqual(failures.failures(PRESET), expected)
        kinds = list(self.COSTS)
        rounds = [kinds[first:] + kinds[:first] for first in range(3)]
        self.assertEqual(asked, [*kinds, *sum(rounds, []), b"?set-configuration,X"])


def late(*microseconds: tuple[int, float]) -> list[float]:
    """So many times late by so much, in seconds."""
    return [by / 1e6 for count, by in microseconds for _ in range(count)]


class PunctualityTests(FakesTests):
    def rows(self, name: str, ours: list[float], bare: list[float]) -> list[Row]:
        """What one of the measurements makes of that lateness."""
        self.put(punctuality, _measure=lambda *_, **__: (ours, bare))
        rows: list[Row] = getattr(punctuality, name)(PRESET)
        return rows

    def test_rows(self) -> None:
        ours = late((1, 4), (97, 19), (1, 300), (1, 5000))
        bare = late((1, 0), (97, 0.03), (1, 50), (1, 400))
        for name, p50_goal, p99_goal, p99_met in (
            ("idle", "≤ 20 µs", "≤ 100 µs above", False),
            ("under_load", "≤ 20 µs", "≤ 1 ms above", True),
            ("during_nap", "≤ 20 µs", "≤ 1 ms above", True),
            ("idle_on_asyncio", "≤ 20 µs", "≤ 1 ms above", True),
            ("under_load_on_asyncio", "≤ 20 µs", "≤ 1 ms above", True),
            ("during_compute", "≤ 1 ms", "", None),
        ):
            with self.subTest(name):
                expected = [
                    Row("earliest", "4 µs", "0 ns (control)", goal="never early", met=True),
                    Row("p50", "19 µs", "30 ns (control)", goal=p50_goal, met=True),
                    Row("p99", "300 µs", "50 µs (control)", "+250 µs", p99_goal, p99_met),
                    Row("latest", "5 ms", "400 µs (control)"),
                ]
                self.assertEqual(self.rows(name, ours, bare), expected)

    def test_the_server_on_the_asyncio_reactor(self) -> None:
        begun: list[str] = []

        def maker() -> FakeServer:
            begun.append("on asyncio")
            return FakeServer("on asyncio")

        self.put(
            punctuality,
            our_server_on_asyncio=maker,
            Companion=mock.MagicMock(),
            unpin=mock.Mock(),
            connect=nullcontext,
            _rows=mock.Mock(),
            flooded=lambda server: nullcontext(begun.append(server.address)),
        )
        for measure in (punctuality.idle_on_asyncio, punctuality.under_load_on_asyncio):
            measure(replace(PRESET, timed_starts=0))
        self.assertEqual(begun, ["on asyncio"] * 3)

    def test_a_single_early_start(self) -> None:
        for earliest, shown, met in ((-0.1, "-100 ns", False), (0, "0 ns", True), (0.1, "100 ns", True)):
            with self.subTest(shown):
                found = self.rows("idle", late((9, 5), (1, earliest), (90, 5)), late((100, -7)))
                expected = Row("earliest", shown, "-7 µs (control)", goal="never early", met=met)
                self.assertEqual(found[0], expected)

    def test_p50_has_its_own_bound(self) -> None:
        for name, p50, met in (
            ("idle", 21, False),
            ("during_compute", 999, True),
            ("during_compute", 1001, False),
        ):
            with self.subTest(name, p50=p50):
                self.assertIs(self.rows(name, late((100, p50)), late((100, p50)))[1].met, met)

    def test_p99_is_judged_by_what_it_is_above_the_control(self) -> None:
        for name, ours, bare, compared, met in (
            ("idle", 90, 0, "+90 µs", True),
            ("idle", 110, 0, "+110 µs", False),
            ("idle", 700, 650, "+50 µs", True),
            ("idle", 10, 400, "-390 µs", True),
            ("under_load", 1100, 0, "+1.1 ms", False),
            ("under_load", 2000, 1100, "+900 µs", True),
            ("during_compute", 3000, 1000, "+2 ms", None),
        ):
            with self.subTest(name, ours=ours, bare=bare):
                p99 = self.rows(name, late((100, ours)), late((100, bare)))[2]
                self.assertEqual((p99.compared, p99.met), (compared, met))

    def test_starts_of_the_server_and_of_the_control_in_turn(self) -> None:
        now = 1_795_466_385_000_000_000
        said: list[str] = []
        lateness = iter(["!lateness,fail,not started yet", "!lateness,ok,5000", "!lateness,ok,7000"])

        def ask(_: object, line: str) -> str:
            said.append(line.partition(",")[0])
            return next(lateness) if line == "?lateness" else f"!{line.partition(',')[0][1:]},ok"

        control = mock.MagicMock(**{"read_line.side_effect": ["250\n", "350\n"]})
        control.__enter__.return_value = control
        control.write_line.side_effect = lambda _: said.append("control")
        clock = mock.Mock(**{"time_ns.return_value": now, "time.return_value": now / 1e9})
        clock.monotonic.return_value = 0.0
        self.put(
            punctuality,
            our_server=FakeServer,
            Companion=lambda *_: control,
            unpin=mock.Mock(),
            connect=nullcontext,
            ask=ask,
            time=clock,
        )
        found = punctuality.idle(replace(PRESET, timed_starts=2))
        expected = [("5 µs", "250 ns (control)")] * 2 + [("7 µs", "350 ns (control)")] * 2
        self.assertEqual([(row.ours, row.limit) for row in found], expected)
        start, again = ["?start", "?lateness"], ["?lateness"]
        self.assertEqual(said, [*start, *again, "?stop", "control", *start, "?stop", "control"])


if __name__ == "__main__":
    unittest.main()
