"""Tests of the soak's clients: what they ask, how they judge what comes, what they conclude from it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import struct
import time
import unittest
from collections.abc import Callable, Iterator
from typing import Any, Self
from unittest import mock

from benchmarks import checked_connection, client_profiles
from benchmarks.checked_connection import CheckedConnection, Wrong
from benchmarks.client_profiles import PROFILES, Client, Soak, clients
from benchmarks.reply_check import ELAPSED, GREETING, Tally
from benchmarks.tagged_requests import TaggedRequest, device, garbage, lengthy, reading
from discosbackend.framing import LineSplitter, LongLine, without_telnet

from .settings import PATIENCE

QUESTIONS = [TaggedRequest(b"?n-%d\r\n" % n, b"!n-%d,fail,no\r\n" % n) for n in range(6)]
REPLIES = [request.answer or b"" for request in QUESTIONS]


def tallied(tally: Tally) -> tuple[int, int, int]:
    return tally.lost, tally.misordered, tally.invented


class CheckedConnectionTests(unittest.IsolatedAsyncioTestCase):
    """Mistakes are counted as what they are, on a socket whose other end says what the test lets it say."""

    def setUp(self) -> None:
        self.enterContext(mock.patch.object(checked_connection, "_PATIENCE", PATIENCE))
        self.enterContext(mock.patch.object(checked_connection, "_SILENCE", 0.1))
        ours, self.server = socket.socketpair()
        ours.setblocking(False)
        self.server.setblocking(False)
        self.tally = Tally()
        self.conversation = CheckedConnection(ours, self.tally)
        self.addCleanup(ours.close)
        self.addCleanup(self.server.close)

    async def say(self, *pieces: bytes, close: bool = False) -> None:
        for piece in pieces:
            await asyncio.get_running_loop().sock_sendall(self.server, piece)
            await asyncio.sleep(0)
        if close:
            self.server.shutdown(socket.SHUT_WR)

    def give_up_soon(self) -> None:
        """For tests in which something that is due does not come; what does come has come by then."""
        self.enterContext(mock.patch.object(checked_connection, "_PATIENCE", 0.1))

    async def wrong(self) -> tuple[int, int, int]:
        """Ask; something is wrong with the answers, and this is what."""
        with self.assertRaises(Wrong):
            await self.conversation.ask(*QUESTIONS)
        return tallied(self.tally)

    async def test_right_answers_in_whatever_pieces(self) -> None:
        stream = b"".join(REPLIES)
        for size in (1, 2, 7, len(stream)):
            with self.subTest(size):
                talk = self.say(*[stream[start : start + size] for start in range(0, len(stream), size)])
                _, replies = await asyncio.gather(talk, self.conversation.ask(*QUESTIONS, pieces=3))
                self.assertEqual(replies, REPLIES)
                sent = await asyncio.get_running_loop().sock_recv(self.server, 65536)
                self.assertEqual(sent, b"".join(request.line for request in QUESTIONS))
        self.assertEqual(tallied(self.tally), (0, 0, 0))
        self.assertEqual((self.tally.requests, self.tally.replies), (24, 24))

    async def test_lost(self) -> None:
        self.give_up_soon()
        await self.say(*REPLIES[:2], *REPLIES[3:])
        self.assertEqual(await self.wrong(), (1, 0, 0))
        self.assertEqual(self.tally.examples, [f"lost: {REPLIES[2]!r} was due"])

    async def test_doubled(self) -> None:
        # As many lines as are due have come before the last one.
        await self.say(*REPLIES[:2], *REPLIES[1:])
        self.assertEqual(await self.wrong(), (0, 0, 1))

    async def test_swapped(self) -> None:
        await self.say(REPLIES[1], REPLIES[0], *REPLIES[2:])
        self.assertEqual(await self.wrong(), (0, 1, 0))

    async def test_without_carriage_return(self) -> None:
        await self.say(*REPLIES[:3], REPLIES[3].replace(b"\r", b""), *REPLIES[4:])
        self.assertEqual(await self.wrong(), (0, 1, 0))

    async def test_invented_before(self) -> None:
        await self.say(GREETING, *REPLIES)
        self.assertEqual(await self.wrong(), (0, 0, 1))

    async def test_invented_without_an_end(self) -> None:
        await self.say(*REPLIES, b"!")
        self.assertEqual(await self.wrong(), (0, 0, 1))

    async def test_closed_by_the_server(self) -> None:
        await self.say(*REPLIES[:4], REPLIES[4][:5], close=True)
        # The torn one came in the place of a whole one.
        self.assertEqual(await self.wrong(), (1, 1, 0))

    async def test_greeting(self) -> None:
        await self.say(GREETING)
        await self.conversation.greeted()
        self.assertEqual((self.tally.requests, self.tally.replies), (0, 0))
        await self.say(b"!version,ok,1.5\r\n")
        with self.assertRaises(Wrong):
            await self.conversation.greeted()

    async def test_what_gets_no_reply(self) -> None:
        reply = TaggedRequest(b"!a,ok\r\n", None)
        await self.say(*REPLIES)
        await self.conversation.ask(reply, *QUESTIONS, reply)
        self.assertEqual(self.tally.requests, 6)
        self.give_up_soon()
        await self.say(b"!a,invalid,syntax error: no\r\n")
        with self.assertRaises(Wrong):
            await self.conversation.finish(reply)
        self.assertEqual(tallied(self.tally), (1, 0, 1))

    async def test_half_close(self) -> None:
        await self.say(*REPLIES, close=True)
        await self.conversation.finish(*QUESTIONS, unfinished=b"?half")
        loop = asyncio.get_running_loop()
        received = await loop.sock_recv(self.server, 65536)
        self.assertEqual(received, b"".join(request.line for request in QUESTIONS) + b"?half")
        self.assertEqual(await loop.sock_recv(self.server, 1), b"")
        self.assertEqual(tallied(self.tally), (0, 0, 0))

    async def test_half_close_without_an_end(self) -> None:
        self.give_up_soon()
        await self.say(*REPLIES)
        with self.assertRaises(Wrong):
            await self.conversation.finish(*QUESTIONS)
        self.assertEqual(tallied(self.tally), (1, 0, 0))

    async def test_reading_slowly(self) -> None:
        self.conversation.bite, self.conversation.pause = 5, 0.0001
        await self.say(*REPLIES)
        self.assertEqual(await self.conversation.ask(*QUESTIONS), REPLIES)

    @contextlib.contextmanager
    def no_problems(self) -> Iterator[None]:
        """Nothing of what tasks raised is left for the event loop to complain of."""
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
        yield
        gc.collect()
        self.assertEqual(problems, [])

    async def test_a_connection_that_was_reset(self) -> None:
        for requests in (QUESTIONS, []):
            tally = Tally()
            with (
                self.subTest(len(requests)),
                self.no_problems(),
                socket.create_server(("127.0.0.1", 0)) as listening,
                await checked_connection.connect(listening.getsockname(), tally) as reset,
            ):
                gone, _ = listening.accept()
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                gone.close()
                with self.assertRaises(Wrong):
                    await reset.finish(*requests)
                # The end, too.
                self.assertEqual(tallied(tally), (len(requests) + 1, 0, 0))

    async def test_a_client_that_is_cut_off_in_sending(self) -> None:
        with self.no_problems():
            with self.conversation:
                asking = asyncio.create_task(self.conversation.ask(*QUESTIONS, pieces=6))
                await asyncio.get_running_loop().sock_recv(self.server, 1)
                asking.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await asking
            # The next piece.
            await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})

    async def test_hanging_up(self) -> None:
        for reset in (False, True):
            with self.subTest(reset=reset), socket.create_server(("127.0.0.1", 0)) as listening:
                leaving = await checked_connection.connect(listening.getsockname(), self.tally)
                peer, _ = listening.accept()
                with peer:
                    await leaving.hang_up(b"?half", reset)
                    self.assertEqual(peer.recv(10), b"?half")
                    if reset:
                        self.assertRaises(ConnectionResetError, peer.recv, 10)
                    else:
                        self.assertEqual(peer.recv(10), b"")


class LatencyTests(unittest.IsolatedAsyncioTestCase):
    """What is taken for a latency, by a clock: asked at 10 s, the first reply at 11 s, the last at 14 s."""

    async def timed(self, *, wrong: bool = False, **options: Any) -> tuple[float, float]:
        """The first and the last reply's latency of an exchange that is read in two goes."""
        ours, server = socket.socketpair()
        ours.setblocking(False)
        clock = mock.Mock(wraps=time, perf_counter=mock.Mock(side_effect=[10.0, 11.0, 14.0]))
        tally = Tally()
        with server, CheckedConnection(ours, tally) as talk, mock.patch.object(checked_connection, "time", clock):
            talk.bite = len(REPLIES[0])
            server.sendall(REPLIES[0] + (GREETING if wrong else REPLIES[1]))
            if wrong:
                # What else comes need not be waited for.
                server.shutdown(socket.SHUT_WR)
            with self.assertRaises(Wrong) if wrong else contextlib.nullcontext():
                await talk.ask(*QUESTIONS[:2], **options)
        return tally.first, tally.last

    async def test_the_first_and_the_last(self) -> None:
        self.assertEqual(await self.timed(), (1.0, 4.0))

    async def test_what_the_server_is_asked_to_take(self) -> None:
        self.assertEqual(await self.timed(takes=0.75), (0.25, 3.25))

    async def test_pieces_take_their_own_time(self) -> None:
        self.assertEqual(await self.timed(pieces=2), (0.0, 0.0))

    async def test_what_is_wrong_has_no_latency(self) -> None:
        self.assertEqual(await self.timed(wrong=True), (0.0, 0.0))


class Told:
    """A conversation whose replies a function tells; `asked` are the lines and how long they take."""

    def __init__(self, tell: Callable[[bytes], bytes]) -> None:
        self.asked: list[tuple[bytes, float]] = []
        self._tell = tell

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    async def greeted(self) -> None:
        """At once."""

    async def finish(self) -> None:
        """At once."""

    async def ask(self, request: TaggedRequest, takes: float = 0.0) -> list[bytes]:
        self.asked.append((request.line, takes))
        assert len(self.asked) < 100, "it asks for ever"
        await asyncio.sleep(0)
        return [self._tell(request.line)]


class ClientProfileTests(unittest.IsolatedAsyncioTestCase):
    """What a profile concludes from the replies it gets."""

    def setUp(self) -> None:
        self.soak = Soak(float("inf"))
        self.enterContext(mock.patch.object(Client, "pause", lambda *_: asyncio.sleep(0)))

    def told(self, tell: Callable[[bytes], bytes]) -> Told:
        """Every connection is this conversation."""
        told = Told(tell)
        self.enterContext(mock.patch.object(client_profiles, "connect", mock.AsyncMock(return_value=told)))
        return told

    async def start(self, reply: bytes = b"!start,ok\r\n", now: int = 0, seen: int = 0, late: int = 0) -> None:
        """A timed start, replied to `now` after its instant, and `late` by what the server says.

        A status told `seen` after it is the first that acquires. Those two are in counts of 100 ns, `late` is
        in ns.
        """
        instant = 0
        clock = mock.Mock(monotonic=lambda: 0, time_ns=lambda: 14_000_000_000_000_000 * 100)

        def tell(line: bytes) -> bytes:
            nonlocal instant
            if line.startswith(b"?start,"):
                instant = int(line[len(b"?start,") :])
                clock.time_ns = lambda: 100 * (instant + now)
                self.soak.until = 0
                return reply
            text, acquiring = b"%d" % (instant + seen), instant > 0 and now < 10**7
            replies = {
                b"?status\r\n": b"!status,ok,%b.%b,ok,%d\r\n" % (text[:-7], text[-7:], acquiring),
                b"?lateness\r\n": b"!lateness,ok,%d\r\n" % late,
                b"?stop\r\n": b"!stop,ok\r\n",
            }
            return replies[line]

        self.soak.until = 1
        self.told(tell)
        with mock.patch.object(client_profiles, "time", clock):
            await PROFILES["timed starts"](Client(self.soak, 0, "timed starts", 1))

    async def test_starts(self) -> None:
        for what, late, seen, early in (
            ("on time", 5000, 60, 0),
            ("at the instant", 0, 0, 0),
            ("told too soon", -1, 60, 1),
            ("acquiring too soon", 5000, -1, 1),
            ("both", -1, -1, 1),
        ):
            with self.subTest(what):
                self.soak = Soak(1)
                await self.start(late=late, seen=seen)
                self.assertEqual((self.soak.early, self.soak.elapsed, self.soak.lateness), (early, 0, [late]))
                self.assertEqual(tallied(self.soak.tally("timed starts")), (0, 0, 0))

    async def test_a_start_that_came_too_late_to_be_armed(self) -> None:
        for now, misordered in ((0, 0), (-1, 1)):
            with self.subTest(now):
                self.soak = Soak(1)
                await self.start(reply=ELAPSED, now=now)
                self.assertEqual((self.soak.early, self.soak.elapsed, self.soak.lateness), (0, 1, []))
                self.assertEqual(tallied(self.soak.tally("timed starts")), (0, misordered, 0))

    async def test_a_start_that_is_not_seen(self) -> None:
        with self.assertRaises(Wrong):
            await self.start(now=10**7 + 1)
        self.assertEqual(tallied(self.soak.tally("timed starts")), (1, 0, 0))
        self.assertEqual(self.soak.lateness, [])

    async def test_what_was_left_acquiring_is_stopped(self) -> None:
        def tell(line: bytes) -> bytes:
            self.soak.until = 0
            return b"!status,ok,1430922782.0000000,ok,1\r\n" if line == b"?status\r\n" else b"!stop,ok\r\n"

        told = self.told(tell)
        await PROFILES["timed starts"](Client(self.soak, 0, "timed starts", 1))
        self.assertEqual(told.asked, [(b"?status\r\n", 0.0), (b"?stop\r\n", 0.0)])

    async def test_the_length_of_a_nap_is_no_latency(self) -> None:
        def tell(line: bytes) -> bytes:
            self.soak.until = 0
            return line

        told = self.told(tell)
        await PROFILES["napping"](Client(self.soak, 0, "napping", 1))
        naps = [(line, takes) for line, takes in told.asked if line != b"?status\r\n"]
        self.assertEqual(len(naps), 1)
        for line, takes in naps:
            self.assertRegex(line, rb"^\?(nap|dawdle),%.4f\r\n$" % takes)
        self.assertIn((b"?status\r\n", 0.0), told.asked)

    async def test_a_connection_that_cannot_be_made(self) -> None:
        async def refused(*_: object, **__: object) -> None:
            raise ConnectionRefusedError("no")

        async def wait(_: float) -> None:
            self.soak.until = 0

        with mock.patch.object(client_profiles, "connect", refused), mock.patch.object(asyncio, "sleep", wait):
            await Client(self.soak, 0, "polite", 1).run()
        tally = self.soak.tally("polite")
        self.assertEqual(tallied(tally), (1, 0, 0))
        self.assertEqual(tally.examples, ["lost: a connection was due: ConnectionRefusedError('no')"])

    async def test_a_signal_ends_it(self) -> None:
        self.soak.interrupts = 1
        self.told(lambda _: self.fail("it asks on"))
        await Client(self.soak, 0, "polite", 1).run()


class TaggedRequestTests(unittest.TestCase):
    """The lines are what the soak takes them for: one each, with its own tag."""

    def test_one_line_each(self) -> None:
        rng = random.Random(1)
        for kind in (reading, lengthy, device, garbage):
            for number in range(1000):
                request = kind(rng, b"%d" % number)
                with self.subTest(request.line[:100]):
                    (line,) = LineSplitter().feed(request.line)
                    bare = without_telnet(line)
                    silent = bare[:1] == b"!" or (not bare and bare != line)
                    self.assertEqual(request.answer is None, silent)
                    if isinstance(line, LongLine) and not silent:
                        self.assertIn(b",invalid,", request.answer or b"")
                    if request.answer is not None and b"-%d" % number in request.answer:
                        self.assertIn(b"%d" % number, request.line)

    def test_every_manner_has_a_client(self) -> None:
        for count in (len(PROFILES), 30):
            with self.subTest(count):
                found = Soak(0)
                self.assertEqual(len(clients(found, count, 1)), count)
                self.assertEqual(set(found.tallies), set(PROFILES))

    def test_the_seed_decides(self) -> None:
        def asked(seed: int) -> list[TaggedRequest]:
            return [client.requests(1, 1, garbage)[0] for client in clients(Soak(0), 30, seed)]

        self.assertEqual(asked(1), asked(1))
        self.assertNotEqual(asked(1), asked(2))


if __name__ == "__main__":
    unittest.main()
