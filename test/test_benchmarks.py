"""The benchmarks' own arithmetic and checks, their loads and processes. Nothing here is timed."""

from __future__ import annotations

import itertools
import re
import signal
import socket
import subprocess
import unittest
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from benchmarks import load as load_module
from benchmarks.load import STATUS, Load, Request, alone, batches, check, receive, together
from benchmarks.servers import Companion, NotMeasured, Server
from benchmarks.table import (
    Goal,
    Row,
    against,
    at_least,
    at_most,
    bytes_text,
    markdown,
    median,
    number_text,
    quantile,
    rate_text,
    ratio,
    text,
    time_text,
)

from .settings import PATIENCE

REPLY = b"!status,ok,1795466385.7947171,ok,0\r\n"
PING = Request(b"?ping", re.compile(rb"!ping,ok,[0-9]"))

# Takes 128 MiB, uses 64 of it, computes, says how much processor time that was, and gives the memory back.
GREEDY = """
import mmap, sys, time
print("127.0.0.1:8978", flush=True)
input()
began = time.process_time()
taken = mmap.mmap(-1, 2**27)
for _ in range(2**14):
    taken.write(bytes(4096))
while time.process_time() < began + 0.2:
    pass
print(time.process_time() - began, flush=True)
input()
taken.close()
print("given", flush=True)
sys.stdin.read()
"""


class FigureTests(unittest.TestCase):
    def test_median(self) -> None:
        for values, expected in (([3.0], 3.0), ([9.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 2.0, 3.0], 2.5)):
            with self.subTest(values=values):
                self.assertEqual(median(values), expected)

    def test_quantile(self) -> None:
        hundred = list(range(100, 0, -1))
        for values, share, expected in (
            (hundred, 0, 1),
            (hundred, 0.07, 7),
            (hundred, 0.5, 50),
            (hundred, 0.99, 99),
            (hundred, 1, 100),
            (list(range(1, 21)), 0.99, 20),
            ([5], 0.5, 5),
        ):
            with self.subTest(count=len(values), share=share):
                self.assertEqual(quantile(values, share), expected)

    def test_ratio_is_of_what_was_measured_side_by_side(self) -> None:
        # The machine was ten times slower in the second round, and nothing follows from it.
        self.assertEqual(ratio([80, 8, 84], [100, 10, 100]), 0.8)
        # Nor is it the ratio of the medians, 0.5.
        self.assertEqual(ratio([10, 90, 30], [10, 100, 60]), 0.9)
        with self.assertRaises(ValueError):
            ratio([1, 2], [1])

    def test_quantiles_of_a_load(self) -> None:
        load = Load(1.0, [number / 1000 for number in range(1, 1001)])
        self.assertEqual((load.p50, load.p99), (0.5, 0.99))

    def test_units(self) -> None:
        for show, value, expected in (
            (number_text, 1.2, "1.2"),
            (number_text, 0.123456, "0.123"),
            (rate_text, 12_345.6, "12,300/s"),
            (rate_text, 999.9, "1,000/s"),
            (time_text, 0, "0 ns"),
            (time_text, 37e-9, "37 ns"),
            (time_text, 999.6e-9, "1 µs"),
            (time_text, 20e-6, "20 µs"),
            (time_text, 1.234e-3, "1.23 ms"),
            (time_text, -3.27e-3, "-3.27 ms"),
            (time_text, 0.9996, "1 s"),
            (bytes_text, 793, "793 B"),
            (bytes_text, 1.3 * 1024, "1.3 KiB"),
            (bytes_text, 1023 * 1024, "0.999 MiB"),
            (bytes_text, 33.61 * 1024**2, "33.6 MiB"),
        ):
            with self.subTest(value=value, expected=expected):
                self.assertEqual(show(value), expected)


class VerdictTests(unittest.TestCase):
    def test_bounds_belong_to_the_goal(self) -> None:
        for goal, shown, met, missed in (
            (at_least(0.9), "≥ 0.9", (0.9, 1.0), (0.899,)),
            (at_most(1.2), "≤ 1.2", (1.2, 0.0), (1.201,)),
            (at_most(5e-3, time_text), "≤ 5 ms", (0.005,), (0.0051,)),
        ):
            with self.subTest(goal=shown):
                self.assertEqual(goal.text, shown)
                self.assertEqual({goal.holds(value) for value in met}, {True})
                self.assertEqual({goal.holds(value) for value in missed}, {False})

    def test_verdicts(self) -> None:
        none = Goal("none", lambda count: count == 0)
        row = Row("refused", "1")
        self.assertEqual(row.verdict, "")
        self.assertEqual(row.judged(0, none), Row("refused", "1", goal="none", met=True))
        self.assertEqual(row.judged(0, none).verdict, "met")
        self.assertEqual(row.judged(1, none).verdict, "missed")

    def test_a_goal_against_a_limit_is_for_the_ratio(self) -> None:
        ours, limit = [800.0, 900.0, 850.0], [1000.0, 1000.0, 1000.0]
        expected = Row("rate", "850/s", "1,000/s", "0.85 ×")
        self.assertEqual(against("rate", ours, limit, rate_text), expected)
        # The limit varies: the goal is held by the median of 1.0, 0.9 and 0.5, not by 30 of 60.
        kept_busy = Row("rate", "30/s", "60/s", "0.90 ×", "≥ 0.9 ×", True)
        self.assertEqual(against("rate", [10, 90, 30], [10, 100, 60], rate_text, at_least(0.9)), kept_busy)
        missed = Row("rate", "850/s", "1,000/s", "0.85 ×", "≥ 0.9 ×", False)
        self.assertEqual(against("rate", ours, limit, rate_text, at_least(0.9)), missed)


class RenderingTests(unittest.TestCase):
    TABLE = {
        "one client": [
            Row("rate", "9,000/s", "10,000/s", "0.90 ×", "≥ 0.9 ×", True),
            Row("p99", "140 µs", "100 µs", "1.40 ×", "≤ 1.2 ×", False),
        ],
        "never reads": [Row("growth", "384 KiB")],
    }

    def test_text(self) -> None:
        expected = """\
  figure  ours     limit     compared  goal     verdict

one client
  rate    9,000/s  10,000/s  0.90 ×    ≥ 0.9 ×  met
  p99     140 µs   100 µs    1.40 ×    ≤ 1.2 ×  missed

never reads
  growth  384 KiB
"""
        self.assertEqual(text(self.TABLE), expected)

    def test_markdown(self) -> None:
        expected = """\
| what | figure | ours | limit | compared | goal | verdict |
| --- | --- | --- | --- | --- | --- | --- |
| one client | rate | 9,000/s | 10,000/s | 0.90 × | ≥ 0.9 × | met |
|  | p99 | 140 µs | 100 µs | 1.40 × | ≤ 1.2 × | missed |
| never reads | growth | 384 KiB |  |  |  |  |
"""
        self.assertEqual(markdown(self.TABLE), expected)


class CheckTests(unittest.TestCase):
    def test_whole_replies_of_the_right_name_pass(self) -> None:
        check(b"", STATUS, 0)
        check(REPLY * 3, STATUS, 3)

    def test_what_is_wrong_is_said(self) -> None:
        for what, replies, problem in (
            ("lost", REPLY, "2 times b'?status' got 1 replies"),
            ("one too many", REPLY * 3, "2 times b'?status' got 3 replies"),
            ("swapped", REPLY + b"!time,ok,1.0000000\r\n", "was answered b'!time,ok,1.0000000'"),
            ("failed", REPLY + b"!status,fail,why\r\n", "was answered b'!status,fail,why'"),
            ("torn at its end", REPLY + REPLY[:-1], r"is torn: b'!status.*\\r'"),
            ("torn inside", REPLY + REPLY[:9] + b"\r\n" + REPLY[9:], "was answered b'!status,o'"),
            ("merged", REPLY[:-2] + REPLY, "was answered b'!status,ok,1795466385.7947171,ok,0!status"),
        ):
            with self.subTest(what=what), self.assertRaisesRegex(NotMeasured, problem.replace("?", r"\?")):
                check(replies, STATUS, 2)


class LoadTests(unittest.TestCase):
    """The load generators on a socket pair into which the replies have been written beforehand."""

    def setUp(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.addCleanup(self.ours.close)
        self.addCleanup(self.theirs.close)

    @staticmethod
    def clock(moments: Iterable[float]) -> AbstractContextManager[object]:
        return mock.patch.object(load_module, "perf_counter", iter(moments).__next__)

    def test_every_reply_is_waited_for(self) -> None:
        self.theirs.sendall(b"!ping,ok,1\r\n!ping,ok,2\r\n")
        self.assertEqual(receive(self.ours, 2), b"!ping,ok,1\r\n!ping,ok,2\r\n")

    def test_a_connection_that_is_closed_has_lost_replies(self) -> None:
        self.theirs.sendall(b"!ping,ok,1\r\n")
        self.theirs.shutdown(socket.SHUT_WR)
        with self.assertRaisesRegex(NotMeasured, "1 of 2 replies are lost: the connection was closed"):
            receive(self.ours, 2)

    def test_a_reply_that_does_not_come_is_lost(self) -> None:
        self.ours.settimeout(0.01)
        with self.assertRaisesRegex(NotMeasured, "1 of 1 replies are lost: timed out"):
            receive(self.ours, 1)

    def test_one_client_alone(self) -> None:
        for what, rounds, depth, moments, expected in (
            ("one at a time", 2, 1, [100, 101, 104], Load(2 / 4, [1, 3])),
            ("pipelining", 2, 3, [100, 101, 104], Load(6 / 4, [1, 3])),
            ("one batch", 1, 5, [7, 9], Load(5 / 2, [2])),
        ):
            with self.subTest(what), self.clock(moments):
                # All the replies lie there: nothing but the clock says how long they took.
                with mock.patch.object(load_module, "receive", lambda _, count: b"!ping,ok,1\r\n" * count):
                    self.assertEqual(alone(self.ours, PING, rounds, depth), expected)
                self.assertEqual(self.theirs.recv(100), b"?ping\r\n" * rounds * depth)

    def test_one_client_alone_looks_at_what_it_got(self) -> None:
        self.theirs.sendall(b"!pong,ok,1\r\n")
        with self.assertRaisesRegex(NotMeasured, "was answered b'!pong,ok,1'"):
            alone(self.ours, PING, 1)

    def test_many_clients_together(self) -> None:
        second, theirs = socket.socketpair()
        with second, theirs:
            for peer in (self.theirs, theirs):
                peer.sendall(b"!ping,ok,1\r\n!ping,ok,2\r\n")
            # It begins at 0, they send at 1 and 2, have their replies at 3 and 4, and it ends at 5.
            with self.clock(itertools.count()):
                load = together([self.ours, second], PING, 1, 2)
            self.assertEqual((self.theirs.recv(100), theirs.recv(100)), (b"?ping\r\n?ping\r\n",) * 2)
        self.assertEqual(load, Load(4 / 5, [2, 2]))

    def test_a_client_among_many_is_timed_from_its_own_batch(self) -> None:
        self.theirs.sendall(b"!ping,ok,1\r\n")
        with self.clock([0, 1, 4, 10, 17]):
            found = batches([self.ours], PING.times(1), 1, 2)
            self.assertEqual(next(found), (1, b"!ping,ok,1\r\n"))
            self.theirs.sendall(b"!ping,ok,2\r\n")
            self.assertEqual(next(found), (6, b"!ping,ok,2\r\n"))

    def test_many_clients_look_at_what_they_got(self) -> None:
        self.theirs.sendall(b"!ping,ok,1\r\n!pong,ok,2\r\n")
        with self.assertRaisesRegex(NotMeasured, "was answered b'!pong,ok,2'"):
            together([self.ours], PING, 1, 2)

    def test_a_batch_is_answered_when_its_last_reply_is_there(self) -> None:
        found = batches([self.ours], PING.times(2), 2, 2)
        self.theirs.sendall(b"!ping,ok,1\r\n!ping,ok,2\r\n")
        self.assertEqual(next(found)[1], b"!ping,ok,1\r\n!ping,ok,2\r\n")
        self.theirs.sendall(b"!ping,ok,3\r\n!ping,ok,4\r\n")
        self.assertEqual(next(found)[1], b"!ping,ok,3\r\n!ping,ok,4\r\n")
        self.assertEqual(list(found), [])
        self.assertEqual(self.theirs.recv(100), b"?ping\r\n" * 4)

    def test_a_batch_that_is_cut_off_has_lost_replies(self) -> None:
        self.theirs.sendall(b"!ping,ok,1\r\n")
        self.theirs.shutdown(socket.SHUT_WR)
        with self.assertRaisesRegex(NotMeasured, "closed, with 1 replies missing"):
            list(batches([self.ours], PING.times(2), 2, 1))


class ProcessTests(unittest.TestCase):
    def test_a_server_that_does_not_start(self) -> None:
        with self.assertRaisesRegex(NotMeasured, "said nothing: ZeroDivisionError: division by zero"):
            Server("-c", "1 / 0")
        with self.assertRaisesRegex(NotMeasured, "does not serve: it said 'hello"):
            Server("-c", "print('hello')")

    def test_a_server_says_where_it_is(self) -> None:
        with Server("-c", "import sys; print('127.0.0.1:8978', flush=True); sys.stdin.read()") as server:
            self.assertEqual(server.address, ("127.0.0.1", 8978))
            self.assertGreaterEqual(server.descriptors, 3)

    def test_what_a_server_uses(self) -> None:
        with Server("-c", GREEDY) as server:
            memory, used = server.memory, server.processor_time
            server.write_line("take")
            taken = float(server.read_line())
            # 64 MiB more, and what the interpreter needs besides; its processor time as it knows it itself.
            self.assertAlmostEqual((server.memory - memory) / 2**20, 64, delta=4)
            self.assertAlmostEqual(server.processor_time - used, taken, delta=taken / 4)
            server.write_line("give back")
            server.read_line()
            self.assertAlmostEqual((server.memory - memory) / 2**20, 0, delta=4)
            self.assertAlmostEqual((server.peak_memory - memory) / 2**20, 64, delta=4)

    def test_a_server_that_dies(self) -> None:
        with Server("-c", "print('127.0.0.1:8978', flush=True); input(); 1 / 0") as server:
            server.outlive(0)
            server.write_line("die")
            with self.assertRaisesRegex(NotMeasured, "is gone: ZeroDivisionError: division by zero"):
                server.outlive(PATIENCE)

    def test_the_control_is_never_early(self) -> None:
        with Companion("-m", "benchmarks.bare_wait") as control:
            control.write_line("1")
            self.assertGreater(int(control.read_line()), 0)

    def test_a_signal_while_a_process_is_made_leaves_none_behind(self) -> None:
        """The process is there, and nobody has it yet: what the signal raises comes when somebody has."""
        real = subprocess.Popen
        made: list[subprocess.Popen[bytes]] = []

        def make(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
            made.append(real(*arguments, **options))  # Companion's
            signal.raise_signal(signal.SIGINT)
            return made[0]

        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        with mock.patch.object(subprocess, "Popen", make), self.assertRaises(KeyboardInterrupt):
            Companion("-c", "input()")
        self.addCleanup(made[0].kill)
        self.assertIsNotNone(made[0].returncode)
        self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)

    def test_a_signal_while_a_process_is_ended_comes_when_it_is(self) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        companion = Companion("-c", "input()")
        process = companion._process  # whether it was waited for
        self.addCleanup(process.kill)

        def interrupted() -> None:
            signal.raise_signal(signal.SIGINT)

        with mock.patch.object(process, "poll", interrupted), self.assertRaises(KeyboardInterrupt):
            companion.stop()
        self.assertIsNotNone(process.returncode)
