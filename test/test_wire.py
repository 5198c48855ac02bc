"""Wire: the text of a conversation, and how long a reply is waited for.

test_testing_defects tests the checks of each line.
"""

from __future__ import annotations

import socket
import struct
import threading
import unittest
from collections.abc import Callable

from discosbackend.testing.wire import Wire, without_repetitions

from .settings import PATIENCE

ASKED = "sent      b'?status'"


def polled(times: int) -> list[str]:
    return [line for number in range(times) for line in (ASKED, f"received  {number}")]


class RepetitionTests(unittest.TestCase):
    def test_none(self) -> None:
        for said in (
            [],
            [ASKED],
            [ASKED, ASKED, ASKED, ASKED],
            polled(3),
            [ASKED, "received  1", "received  2", ASKED, "received  3", "received  4"],
            ["sent      a", "received  b", "sent      c", "received  d"],
        ):
            with self.subTest(said):
                self.assertEqual(without_repetitions(said), said)

    def test_the_first_and_the_last_are_told(self) -> None:
        after = ["sent      b'?stop'"]
        for before, times in (
            (["sent      b'?start'", "received  ok"], 4),
            (["sent      b'?start'", "received  ok", "received  twice"], 5),
            ([], 100),
        ):
            with self.subTest(times):
                self.assertEqual(
                    without_repetitions([*before, *polled(times), *after]),
                    [
                        *before,
                        *(ASKED, "received  0", f"... {times - 2} times more ..."),
                        *(ASKED, f"received  {times - 1}"),
                        *after,
                    ],
                )

    def test_what_was_not_answered_is_told(self) -> None:
        said = [*polled(9), ASKED]
        self.assertEqual(without_repetitions(said)[-2:], ["received  8", ASKED])


class PatienceTests(unittest.TestCase):
    """A server that sends data without a line end, nothing, or too much."""

    def connect(self, timeout: float) -> tuple[Wire, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            wire = Wire(server.getsockname(), timeout=timeout, reply_limit=None)
            self.addCleanup(wire.close)
            peer, _ = server.accept()
            self.addCleanup(peer.close)
        return wire, peer

    def test_what_has_no_end(self) -> None:
        wire, peer = self.connect(60.0)
        sending = threading.Thread(target=peer.sendall, args=(80000 * b"x",))
        sending.start()
        with self.assertRaisesRegex(AssertionError, "the server sent a line of more than 65536 bytes: b'xxx"):
            wire.read()
        sending.join()
        self.assertFalse(wire.timed_out)

    def test_nothing(self) -> None:
        wire, peer = self.connect(60.0)
        peer.sendall(b"!ver")
        with self.assertRaisesRegex(AssertionError, "nothing was received within 0.01 s, except b'!ver'"):
            wire.read(within=0.01)
        self.assertTrue(wire.timed_out)

    def test_no_longer_than_the_timeout(self) -> None:
        wire, _ = self.connect(0.01)
        with self.assertRaisesRegex(AssertionError, "nothing was received within 0.01 s$"):
            wire.read(within=60.0)

    def test_a_reply_too_many_that_arrived_with_the_one_before(self) -> None:
        wire, peer = self.connect(60.0)
        peer.sendall(2 * b"!version,ok,1.4\r\n")
        peer.close()
        wire.read()
        with self.assertRaisesRegex(AssertionError, r"without a request: b'!version,ok,1\.4\\r\\n'$"):
            wire.read_end()


class LineTests(unittest.TestCase):
    """Wrong lines among right ones: each is reported when it is read, and the others are read."""

    def test_each_line_is_reported_when_it_is_read(self) -> None:
        right = b"!version,ok,1.4\r\n"
        lines = (
            (right, ""),
            (b"?version\r\n", r"not a reply of the protocol: a server must send only replies: b'\?version"),
            (right, ""),
            (b"!version\r\n", "not a reply of the protocol: "),
            (b"!version,ok,1.4\n", "a reply must end in CR LF"),
            (b"!version,ok," + 500 * b"x" + b"\r\n", "a reply must have at most 511 bytes, but this one has 514: "),
            (b"!x,ok," + 70000 * b"x" + b"\r\n", "the server sent a line of more than 65536 bytes: b'!x,ok,xx"),
            (b"!version,ok,\\,\\x\r\n", "not a reply of the protocol: "),
            (right, ""),
        )
        sent = b"".join(line for line, _ in lines)
        for size in (7, 1000, len(sent)):
            with self.subTest(size=size), socket.create_server(("127.0.0.1", 0)) as server:
                wire = Wire(server.getsockname(), timeout=PATIENCE, reply_limit=511)
                self.addCleanup(wire.close)
                peer, _ = server.accept()
                self.addCleanup(peer.close)
                # As the system would divide it into segments.
                wire._lines.receive = feeding(wire, sent, size)  # type: ignore[method-assign,assignment]
                for line, problem in lines:
                    if problem:
                        with self.assertRaisesRegex(AssertionError, problem):
                            wire.read()
                    else:
                        self.assertEqual(wire.read().line, line)
                with self.assertRaisesRegex(
                    AssertionError, "the server closed the connection where a reply was expect"
                ):
                    wire.read()

    def test_lines_that_are_waited_for(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            wire = Wire(server.getsockname(), timeout=PATIENCE, reply_limit=511)
            self.addCleanup(wire.close)
            peer, _ = server.accept()
        self.addCleanup(peer.close)
        peer.sendall(b"!version,ok,1.4\r\n!ver")
        self.assertTrue(wire.has_lines(1, PATIENCE))
        self.assertFalse(wire.has_lines(2, 0.01))
        peer.sendall(b"sion,ok,1.5\r\n!ver")
        self.assertTrue(wire.has_lines(2, PATIENCE))
        self.assertEqual([wire.read().message.arguments for _ in range(2)], [["1.4"], ["1.5"]])
        with self.assertRaisesRegex(AssertionError, "the server sent something without a request: b'!ver'"):
            wire.stay_silent(PATIENCE)


def feeding(wire: Wire, sent: bytes, size: int) -> Callable[[float], None]:
    """Stands for LineSocket.receive(): it receives these bytes in pieces, and then the end."""
    pieces = iter([sent[at : at + size] for at in range(0, len(sent), size)])

    def receive(deadline: float) -> None:
        piece = next(pieces, b"")
        wire._lines.ended = not piece
        if not piece:
            raise AssertionError("the server closed the connection")
        wire._lines.received += piece

    return receive


class BrokenTests(unittest.TestCase):
    def test_the_end_cannot_be_sent_on_a_connection_that_was_reset(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            wire = Wire(server.getsockname(), timeout=PATIENCE, reply_limit=None)
            self.addCleanup(wire.close)
            peer, _ = server.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        with self.assertRaisesRegex(AssertionError, "the connection broke"):
            wire.send_end()
        self.assertTrue(wire.cut_off)
