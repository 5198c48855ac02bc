"""What the measurements with many clients make of what they see: storms, silent crowds, floods."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
import unittest
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

from benchmarks import flood, load, many_connections
from benchmarks.load import Load
from benchmarks.servers import NotMeasured, Server
from benchmarks.table import Row

from .test_benchmarks_rows import PRESET, FakeServer, FakesTests

# Greets two clients and hangs up on the third; then it stands, or falls.
RUDE = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", 0), backlog=9)
print("127.0.0.1:%d" % listening.getsockname()[1], flush=True)
while True:
    clients = [listening.accept()[0] for _ in range(3)]
    for client in clients[:2]:
        client.sendall(b"!version,ok,1.4" + bytes([13, 10]))
    if {dies}:
        os._exit(1)
    clients[2].close()
"""


def rude(*, dies: bool) -> Server:
    return Server("-c", RUDE.format(dies=dies))


class StormTests(FakesTests):
    def setUp(self) -> None:
        self.put(many_connections, STORM=3)

    def test_the_refused_are_counted(self) -> None:
        greetings = iter([(0.01, 1), (0.3, 0), (0.1, 2), (0.5, 0)])
        self.put(many_connections, our_server=FakeServer, twisted_server=FakeServer, _storm=lambda _: next(greetings))
        expected = [
            Row("slowest of 3 greetings", "55 ms", "400 ms (bare Twisted)", goal="≤ 200 ms", met=True),
            Row("refused in 2 rounds", "3", goal="none", met=False),
        ]
        self.assertEqual(many_connections.storm(PRESET), expected)

    def test_bare_twisted_refuses_nobody(self) -> None:
        greetings = iter([(0.01, 0), (0.3, 1)])
        self.put(many_connections, our_server=FakeServer, twisted_server=FakeServer, _storm=lambda _: next(greetings))
        with self.assertRaisesRegex(NotMeasured, "bare Twisted refuses 1 of 3 clients"):
            many_connections.storm(PRESET)

    def test_a_server_that_refuses(self) -> None:
        with rude(dies=False) as server:
            # a round by itself, on a server that storm() never starts
            self.assertEqual([many_connections._storm(server)[1] for _ in range(2)], [1, 1])

    def test_a_server_that_dies_is_not_one_that_refuses(self) -> None:
        self.put(many_connections, our_server=lambda: rude(dies=True), twisted_server=FakeServer)
        with self.assertRaisesRegex(NotMeasured, "is gone|cannot connect"):
            many_connections.storm(PRESET)


class ManyConnectionsTests(FakesTests):
    def test_growth_is_that_of_the_peak(self) -> None:
        """Memory that was taken and is given back before anybody looks counts."""
        mib = 2**20
        for peaks, shown, met in (
            ([31 * mib, 30 * mib], "1 MiB", False),
            ([30 * mib, 31 * mib - 1], "1 MiB", True),
            ([30 * mib + 4096, 30 * mib], "4 KiB", True),
        ):
            server = FakeServer()
            server.memory = 30 * mib
            left, taken = iter(peaks), iter([5 * mib, 7 * mib])

            def insist(_: object, server: FakeServer = server, left: Iterator[int] = left) -> int:
                server.peak_memory = next(left)
                return next(taken)  # used up before the next round

            loads = {"alone": lambda *_: Load(1, [1e-4]), "connect": nullcontext, "_insist": insist}
            self.put(many_connections, our_server=lambda server=server: server, **loads)
            with self.subTest(peaks=peaks):
                expected = [
                    Row("largest growth of resident memory", shown, goal="< 1 MiB", met=met),
                    Row("taken of 1 GiB", "6 MiB"),
                ]
                self.assertEqual(many_connections.never_reading(replace(PRESET, never_reading=2)), expected)

    def test_idle(self) -> None:
        """What each takes, of the server that has them; latencies beside them against those of the other."""
        crowded, quiet, bare = FakeServer("crowded"), FakeServer("quiet"), FakeServer("bare")
        crowded.memory, quiet.memory, bare.memory = 35_000_000, 34_000_000, 30_000_000
        ours = iter([crowded, quiet])
        each = {"crowded": 1400, "bare": 1100}
        beside, without = Load(1, [110e-6, 250e-6]), Load(1, [100e-6, 200e-6])
        loads = {"crowded": beside, "quiet": without, "bare": Load(1, [1, 1])}

        def connected(address: str, count: int) -> AbstractContextManager[None]:
            {"crowded": crowded, "bare": bare}[address].memory += each[address] * count
            return nullcontext()

        self.put(
            many_connections,
            our_server=lambda: next(ours),
            twisted_server=lambda: bare,
            connected=connected,
            connect=nullcontext,
            alone=lambda connection, *_: loads[connection],
        )
        expected = [
            Row("memory each of 1000", "1.37 KiB", "1.07 KiB (bare Twisted)", goal="≤ 1.3 KiB", met=False),
            Row("p50 of a busy client, against without", "110 µs", "100 µs", "1.10 ×", "≤ 1.2 ×", True),
            Row("p99 of a busy client, against without", "250 µs", "200 µs", "1.25 ×", "≤ 1.2 ×", False),
        ]
        self.assertEqual(many_connections.idle(PRESET), expected)


class FloodTests(FakesTests):
    REPLY = b"!status,ok,1795466385.7947171,ok,0\r\n"

    def setUp(self) -> None:
        self.put(flood, _CLIENTS=2, _DEPTH=1)

    def flood(self, *replies: bytes) -> str:
        """What the flood says, having had those replies on its connections. All of them end then."""
        pairs = [socket.socketpair() for _ in replies]
        for (_, peer), reply in zip(pairs, replies, strict=True):
            peer.sendall(reply)
            peer.shutdown(socket.SHUT_WR)
        with contextlib.ExitStack() as stack:
            for sockets in pairs:
                for each in sockets:
                    stack.enter_context(each)
            # Standard input that has ended: enough.
            reading, writing = os.pipe()
            os.close(writing)
            stdin = stack.enter_context(os.fdopen(reading))
            self.put(flood, connected=lambda *_: nullcontext([ours for ours, _ in pairs]))
            out = io.StringIO()
            with mock.patch("sys.stdin", stdin), contextlib.redirect_stdout(out):
                with contextlib.suppress(NotMeasured):
                    flood.main(("127.0.0.1", 1))
        return out.getvalue()

    def test_it_is_one_when_every_client_has_been_answered(self) -> None:
        self.assertEqual(self.flood(self.REPLY, self.REPLY), "flooding\n")
        self.assertEqual(self.flood(self.REPLY, b"!status,fail,why\r\n"), "")

    def test_it_is_none_when_one_client_has_all_the_answers(self) -> None:
        one, peer = socket.socketpair()
        other, silent = socket.socketpair()

        # The first answer lies there: it must not come too late on a busy machine.
        peer.sendall(self.REPLY)

        def answer() -> None:
            request = len(load.STATUS.times(1))
            peer.recv(request)
            while peer.recv(request):
                peer.sendall(self.REPLY)

        answering = threading.Thread(target=answer)
        out = io.StringIO()
        self.put(flood, connected=lambda *_: nullcontext([one, other]))
        with peer, other, silent, mock.patch.object(load, "_PATIENCE", 0.05), contextlib.redirect_stdout(out):
            answering.start()
            with one, mock.patch("sys.stdin", silent), self.assertRaisesRegex(NotMeasured, "1 of 2 batches"):
                flood.main(("127.0.0.1", 1))
            answering.join()
        self.assertEqual(out.getvalue(), "")

    def test_it_counts_what_was_answered_since(self) -> None:
        answers = iter([[(1.0, self.REPLY)] * 2, [(1.0, self.REPLY)] * 9])
        self.put(flood, batches=lambda *_: next(answers))
        self.assertEqual(self.flood(b"", b""), "flooding\n1\n")

    def test_a_flood_that_is_none(self) -> None:
        server: Any = mock.Mock(address=("127.0.0.1", 1))
        for said, problem in (
            (["who?\n"], "the flood does not start"),
            (["flooding\n", "0\n"], "the flood was none: 0 requests were answered while it lasted"),
            (["flooding\n", "1\n"], "the flood was none: 1 requests were answered while it lasted"),
        ):
            companion = mock.MagicMock(**{"read_line.side_effect": said})
            companion.__enter__.return_value = companion
            self.put(flood, Companion=mock.Mock(return_value=companion))
            with self.subTest(said=said), self.assertRaisesRegex(NotMeasured, problem):
                with flood.flooded(server):
                    pass

    def test_a_flood(self) -> None:
        companion = mock.MagicMock(**{"read_line.side_effect": ["flooding\n", "2\n"]})
        companion.__enter__.return_value = companion
        self.put(flood, Companion=mock.Mock(return_value=companion))
        server: Any = mock.Mock(address=("127.0.0.1", 8978))
        with flood.flooded(server):
            companion.write_line.assert_not_called()
        companion.write_line.assert_called_once_with("enough")


if __name__ == "__main__":
    unittest.main()
