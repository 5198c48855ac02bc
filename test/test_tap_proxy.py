"""The tap's connections in memory: what is passed on, back pressure, closing, refusals, and a target that is away."""

from __future__ import annotations

import tracemalloc
import unittest
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost

from discosbackend.access import AccessRules
from discosbackend.exchanges import ConnectionEvent, Exchange
from discosbackend.framing import LineSplitter, read_line, without_telnet
from discosbackend.tap.conversation import MOST_WAITING, Closed, Conversation
from discosbackend.ticks import Ticks

from .in_memory import fewer, quiet
from .settings import LONG
from .tapped import CLIENT, Line, Tapped, Target

GREETING = b"!version,ok,1.4\r\n"
STATUS = b"!status,ok,1430922782.9708830,ok,0\r\n"
TIME = b"!time,ok,1430922782.9708830\r\n"
NOT_ALLOWED = b"!%b,fail,not allowed from this address\r\n"
READ_ONLY = AccessRules(read_only=["10.0.0.7"])


def setUpModule() -> None:
    quiet()


def exchanges(tapped: Tapped) -> list[tuple[bytes, bytes | None, str, bool]]:
    """The exchanges that the listeners got: request, reply, code, and whether it changes something."""
    return [(each.request, each.reply, each.code, each.changes) for each in tapped.records if type(each) is Exchange]


class PassingTests(unittest.TestCase):
    def test_bytes_are_passed_on_as_they_arrive(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        server = tapped.server
        for piece in (b"?sta", b"tus", b"\r", b"\n", b"?ti"):
            client.send(piece)
            self.assertEqual(server.read(), piece)
        for piece in (GREETING[:3], GREETING[3:] + STATUS[:9], STATUS[9:-1], b"\n"):
            server.send(piece)
            self.assertEqual(client.read(), piece)
        self.assertEqual(exchanges(tapped), [(b"?status", STATUS[:-2], "ok", False)])

    def test_exchanges_and_connections_for_the_listeners(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        client.send(b"?status\r\n?start\nnonsense\r\n!status\r\n?nonesuch\r\n?stop\r\n")
        tapped.clock.advance(2)
        tapped.server.send(GREETING + STATUS + b"!start,ok\r\n!undefined,invalid,syntax error\r\n")
        tapped.server.send(b"!nonesuch,fail,invalid command\r\n")
        client.end()
        tapped.server.end()
        tapped.server.read()
        client.read()
        self.assertEqual(
            exchanges(tapped),
            [
                (b"!status", None, "", False),
                (b"?status", STATUS[:-2], "ok", False),
                (b"?start", b"!start,ok", "ok", True),
                (b"nonsense", b"!undefined,invalid,syntax error", "invalid", False),
                (b"?nonesuch", b"!nonesuch,fail,invalid command", "fail", True),
                (b"?stop", None, "", True),
            ],
        )
        opened, closed = (each for each in tapped.records if type(each) is ConnectionEvent)
        self.assertEqual((opened.connection, opened.peer, opened.event), (1, "10.0.0.7:4711", "open"))
        self.assertEqual((closed.connection, closed.peer, closed.event), (1, "10.0.0.7:4711", "close"))
        self.assertEqual(tapped.factory.connections, set())

    def test_a_judge_that_fails_disturbs_nothing(self) -> None:
        def fails(event: Any) -> None:
            raise ValueError(event)

        tapped = Tapped(judge=fails)
        with self.assertLogs("discosbackend.protocol", "ERROR") as logs:
            client = tapped.connect()
            client.send(b"?time\r\n")
            tapped.server.send(GREETING + TIME)
            self.assertEqual((tapped.server.read(), client.read()), (b"?time\r\n", GREETING + TIME))
            # A read and its reply are passed on at once, and noted 10 ms later.
            tapped.clock.advance(0.01)
        self.assertIn("the judge failed", logs.output[0])
        self.assertEqual(exchanges(tapped), [(b"?time", TIME[:-2], "ok", False)])

    def test_each_connection_has_its_own(self) -> None:
        tapped = Tapped()
        first = tapped.connect()
        to_first = tapped.server
        second = tapped.connect(IPv4Address("TCP", "10.0.0.8", 4712))
        second.send(b"?time\r\n")
        self.assertEqual((to_first.read(), tapped.server.read()), (b"", b"?time\r\n"))
        to_first.send(GREETING)
        self.assertEqual((first.read(), second.read()), (GREETING, b""))
        self.assertEqual([each.connection for each in tapped.records], [1, 2])


# Bytes with all that a stream can contain, but for the first lines of HTTP and TLS.
_PIECES = st.sampled_from(
    [b"?status\r\n", b"?start\n", b"\r\0", b"\n", b"\0", b"\r", b"!x,ok\r\n", b"?a,\\,", b"\xff\xfb\x01"]
)
_STREAM = st.lists(_PIECES | st.binary(max_size=40), max_size=12).map(b"".join)
_REPLIES = st.lists(st.sampled_from([GREETING, STATUS, TIME, b"!x", b"\n"]) | st.binary(max_size=40), max_size=12).map(
    b"".join
)
_ROOM = st.sampled_from([1, 30, 2**16])


def _steps(count: int, drawn: bytes) -> list[tuple[str, int]]:
    """Steps of a _Talk with their sizes, two bytes for each."""
    pairs = zip(drawn[: 2 * count : 2], drawn[1::2], strict=False)
    return [("ccccssssCSrRe"[step % 13], 1 + size % 60) for step, size in pairs]


# Hypothesis draws bytes in a fraction of the time that so many pairs take.
_STEPS = st.builds(_steps, st.integers(0, 30), st.binary(min_size=60, max_size=60))


def is_foreign(data: bytes) -> bool:
    """Whether a line of a client is HTTP or TLS."""
    return any(read_line(line).language for line in LineSplitter().feed(data))


class _Watched:
    """A conversation of which everything is kept that it reports. Its clocks are one number."""

    def __init__(self, keeps: bool) -> None:
        self.now = 0.0
        self.reported: list[Any] = []
        self._keeps = keeps
        self.conversation = Conversation(
            *(1, "10.0.0.7:4711", lambda read, line: b"!undefined,invalid,x" if read.language else None),
            listeners=[self.reported.append],
            notify=self.reported.append,
            reads=frozenset(["status", "time"]),
            judge=self.reported.append,
            monotonic=lambda: self.now,
        )

    def client_sends(self, data: bytes) -> None:
        if not (self._keeps and self.conversation.keep_request(data)):
            self.conversation.from_client(data)

    def server_sends(self, data: bytes) -> None:
        if not (self._keeps and self.conversation.keep_reply(data)):
            self.conversation.from_server(data)


class KeptTests(unittest.TestCase):
    """Reads without arguments and their replies are passed on at once, and read later."""

    @fewer(300)
    @given(
        st.lists(
            st.sampled_from([b"?status\r\n", b"?status\r\n", b"?time\r\n", b"?stop\r\n", b"?status", b"\r\n"])
            | st.sampled_from([GREETING, STATUS, STATUS, TIME, b"!stop,ok\r\n", STATUS[:5], STATUS[5:], STATUS * 20])
            | st.sampled_from(["read", "waiting", "running"]),
            max_size=40,
        ),
        st.booleans(),
    )
    def test_what_is_reported_is_the_same(self, steps: list[bytes | str], by_server: bool) -> None:
        both = kept, plain = _Watched(True), _Watched(False)
        with mock.patch.object(Ticks, "now", lambda: Ticks.from_unix(plain.now)):
            for step in steps:
                kept.now = plain.now = plain.now + 1
                if step == "read":
                    kept.conversation.read_kept()
                    self.assertEqual(kept.reported, plain.reported)
                elif isinstance(step, str):
                    self.assertEqual(getattr(kept.conversation, step), getattr(plain.conversation, step))
                else:
                    for watched in both:
                        (watched.client_sends if step[:1] in b"?\r" else watched.server_sends)(step)
            for watched in both:
                watched.conversation.closed(by_server=by_server)
        self.assertEqual(kept.reported, plain.reported)

    def test_read_after_ten_milliseconds(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        server = tapped.server
        server.send(GREETING)
        client.read()
        for _ in range(3):
            client.send(b"?status\r\n")
            self.assertEqual(server.read(), b"?status\r\n")
            server.send(STATUS)
            self.assertEqual(client.read(), STATUS)
        tapped.clock.advance(0.008)
        self.assertEqual(exchanges(tapped), [])
        tapped.clock.advance(0.004)
        self.assertEqual(exchanges(tapped), [(b"?status", STATUS[:-2], "ok", False)] * 3)
        self.assertEqual(tapped.clock.getDelayedCalls(), [])

    def test_a_change_is_read_at_once_and_what_came_before_it(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        client.send(b"?status\r\n")
        tapped.server.send(STATUS)
        client.send(b"?stop\r\n")
        self.assertEqual(exchanges(tapped), [(b"?status", STATUS[:-2], "ok", False)])
        tapped.server.send(b"!stop,ok\r\n")
        self.assertEqual(exchanges(tapped)[1:], [(b"?stop", b"!stop,ok", "ok", True)])

    def test_what_is_not_kept(self) -> None:
        for before in (b"?stop\r\n", b"?stop,", b"GET / HTTP/1.1\r\n"):
            conversation = _Watched(True).conversation
            conversation.from_client(before)
            self.assertFalse(conversation.keep_request(b"?status\r\n"), before)
        conversation = _Watched(True).conversation
        for data in (b"?stop\r\n", b"?status,1\r\n", b"?status\n", b"?status\r\n?status\r\n", b"?sta", b""):
            self.assertFalse(conversation.keep_request(data), data)
        self.assertFalse(conversation.keep_reply(STATUS), "no request was kept")
        self.assertTrue(conversation.keep_request(b"?status\r\n"))
        self.assertFalse(conversation.keep_reply(STATUS * 15), "long")
        self.assertTrue(conversation.keep_reply(STATUS))

    def test_so_many_at_most(self) -> None:
        conversation = _Watched(True).conversation
        self.assertEqual([conversation.keep_request(b"?status\r\n") for _ in range(9)], [True] * 8 + [False])
        conversation = _Watched(True).conversation
        kept = [conversation.keep_request(b"?status\r\n")] + [conversation.keep_reply(STATUS) for _ in range(8)]
        self.assertEqual(kept, [True] * 8 + [False])

    def test_whoever_looks_sees_what_was_passed_on(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        client.send(b"?status\r\n")
        self.assertEqual(tapped.factory.running(), ["status"])
        tapped.server.send(STATUS)
        self.assertEqual(tapped.factory.running(), [])
        client.send(b"?status\r\n")
        finished = tapped.factory.finish(5)
        self.assertFalse(finished.called)
        tapped.server.send(STATUS)
        self.assertTrue(finished.called)

    def test_a_connection_that_ends(self) -> None:
        for end in (Line.end, Line.abortConnection):
            tapped = Tapped()
            client = tapped.connect()
            client.send(b"?status\r\n")
            tapped.server.send(STATUS)
            client.send(b"?time\r\n")
            end(client)
            tapped.server.end()
            noted = [(b"?status", STATUS[:-2], "ok", False), (b"?time", None, "", False)]
            self.assertEqual(exchanges(tapped), noted, end.__name__)


class _Stream:
    """What one side sends, and how much of it has been sent."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.sent = b""
        self.ended = False

    def send(self, line: Line, size: int) -> None:
        if not self.ended:
            piece = self._data[len(self.sent) : len(self.sent) + size]
            self.sent += piece
            line.send(piece)

    def end(self, line: Line) -> None:
        if not self.ended:
            self.ended = True
            line.end()


class _Talk:
    """A client and a server, which send, read and end in steps."""

    def __init__(self, tapped: Tapped, requests: bytes, replies: bytes) -> None:
        self.target = tapped.target
        self.client = tapped.connect()
        self.requests, self.replies = _Stream(requests), _Stream(replies)
        self.at_server = self.at_client = b""

    def accept(self) -> None:
        if self.target.pending:
            self.target.accept(self.target.pending.pop())

    def step(self, step: str, size: int) -> None:
        """One of: send (c, s), read (r, R), accept (e), close the sending half (C, S)."""
        if step == "c":
            self.requests.send(self.client, size)
        elif step == "r":
            self.at_client += self.client.read(size)
        elif step == "C" and self.requests.sent:
            # A client that leaves before it has sent anything is not connected to the server.
            self.requests.end(self.client)
        elif step == "e":
            self.accept()
        elif self.target.lines:
            server = self.target.lines[-1]
            if step == "s":
                self.replies.send(server, size)
            elif step == "R":
                self.at_server += server.read(size)
            elif step == "S":
                self.replies.end(server)

    def finish(self) -> None:
        """Send and read the rest, and end."""
        self.accept()
        server = self.target.lines[-1]
        self.requests.send(self.client, 2**20)
        self.replies.send(server, 2**20)
        self.requests.end(self.client)
        self.replies.end(server)
        while self.client.written or server.written:
            self.at_client += self.client.read(50)
            self.at_server += server.read(50)
        self.client.read()
        server.read()


class TransparencyTests(unittest.TestCase):
    """Bytes out equal bytes in, both ways, whatever the chunks, the order, the stalls and the ends are."""

    @fewer(150)
    @given(_STREAM, _REPLIES, st.booleans(), _ROOM, _ROOM, _STEPS)
    def test_bytes_out_equal_bytes_in(
        self, requests: bytes, replies: bytes, slow: bool, target_room: int, room: int, steps: list[tuple[str, int]]
    ) -> None:
        if is_foreign(requests):
            return
        target = Target()
        target.slow = slow
        target.room = target_room
        tapped = Tapped(target=target, room=room)
        talk = _Talk(tapped, requests, replies)
        for step, size in steps:
            talk.step(step, size)
        talk.finish()
        self.assertEqual((talk.at_server, talk.at_client), (talk.requests.sent, talk.replies.sent))
        self.assertTrue(talk.client.closed and tapped.server.closed)
        self.assertEqual(tapped.factory.connections, set())
        self.assertEqual([call for call in tapped.clock.getDelayedCalls() if call.active()], [])

    @fewer(100)
    @given(_STREAM, st.integers(1, 40))
    def test_a_client_that_may_only_read_gets_a_reply_to_each_line(self, requests: bytes, size: int) -> None:
        if is_foreign(requests):
            return
        tapped = Tapped(access=READ_ONLY)
        client = tapped.connect()
        tapped.server.send(GREETING)
        passed = b""
        for at in range(0, len(requests), size):
            client.send(requests[at : at + size])
            passed += tapped.server.read()
        # Only what cannot change anything is passed on.
        for line in LineSplitter().feed(passed):
            self.assertTrue(not without_telnet(line) or read_line(without_telnet(line)).name in tapped.factory.reads)
        tapped.server.send(STATUS * passed.count(b"?status"))
        got = client.read()
        self.assertTrue(got.startswith(GREETING))
        wanted = sum(type(each) is Exchange and each.reply is not None for each in tapped.records)
        self.assertEqual(got.count(b"\r\n"), 1 + wanted)


class BackPressureTests(unittest.TestCase):
    def test_a_server_that_does_not_read_pauses_the_client(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        tapped.server.room = 1000
        client.send(b"?status\r\n" * 200)
        self.assertFalse(client.reading)
        client.send(b"?time\r\n")
        self.assertEqual(tapped.server.read(), b"?status\r\n" * 200)
        self.assertTrue(client.reading)
        self.assertEqual(tapped.server.read(), b"?time\r\n")

    def test_a_client_that_does_not_read_pauses_the_server(self) -> None:
        tapped = Tapped(room=1000)
        client = tapped.connect()
        tapped.server.send(STATUS * 50)
        self.assertFalse(tapped.server.reading)
        tapped.server.send(TIME)
        self.assertEqual(client.read(), STATUS * 50)
        self.assertEqual(client.read(), TIME)

    def test_too_many_requests_without_a_reply_pause_the_client(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        for _ in range(MOST_WAITING // 1024):
            client.send(b"?time\r\n" * 1024)
            tapped.server.read()
        self.assertTrue(client.reading)
        client.send(b"?time\r\n")
        self.assertFalse(client.reading)
        tapped.server.read()
        tapped.server.send(GREETING)
        self.assertFalse(client.reading)
        tapped.server.send(TIME)
        self.assertTrue(client.reading)

    def test_too_many_bytes_without_a_reply_pause_the_client(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        line = b"?set-filename," + b"x" * 16000 + b"\r\n"
        sent = 0
        while client.reading and sent < 100:
            client.send(line)
            tapped.server.read()
            sent += 1
        self.assertEqual(sent, 2**20 // (len(line) - 2) + 1)
        tapped.server.send(b"!set-filename,ok\r\n" * sent)
        self.assertTrue(client.reading)

    def test_a_server_that_skips_replies_does_not_stop_the_client_for_ever(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        tapped.server.send(GREETING)
        for _ in range(MOST_WAITING + 10):
            client.send(b"?skipped\r\n?time\r\n")
            self.assertEqual(tapped.server.read(), b"?skipped\r\n?time\r\n")
            tapped.server.send(TIME)
            client.read()

    def test_memory_is_bounded(self) -> None:
        def endless_line(tapped: Tapped, client: Any) -> None:
            client.send(b"x" * 65536)
            tapped.server.read()

        def endless_reply(tapped: Tapped, client: Any) -> None:
            tapped.server.send(b"x" * 65536)
            client.read()

        def requests_without_reading(_: Tapped, client: Any) -> None:
            if client.reading:
                client.send(b"?time\r\n" * 9362)

        def refused_without_reading(_: Tapped, client: Any) -> None:
            if client.reading:
                client.send(b"?stop\r\n" * 9362)

        def lines_without_reply(tapped: Tapped, client: Any) -> None:
            client.send(b"!\r\n" * 4000)
            tapped.server.read()

        for act, access in (
            (endless_line, None),
            (endless_line, READ_ONLY),
            (endless_reply, None),
            (endless_reply, READ_ONLY),
            (requests_without_reading, None),
            (requests_without_reading, READ_ONLY),
            (refused_without_reading, READ_ONLY),
            (lines_without_reply, None),
        ):
            with self.subTest(act.__name__, access=access):
                tapped = Tapped(access=access)
                tapped.factory.listeners.clear()
                client = tapped.connect()
                tapped.server.send(GREETING)
                act(tapped, client)
                tracemalloc.start()
                for _ in range(6):
                    act(tapped, client)
                grown = tracemalloc.get_traced_memory()[0]
                tracemalloc.stop()
                self.assertLess(grown, 200_000)


class EndTests(unittest.TestCase):
    def test_a_half_closed_client_gets_its_replies(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        client.send(b"?status\r\n")
        client.end()
        self.assertEqual(tapped.server.read(), b"?status\r\n")
        self.assertTrue(tapped.server.ended)
        tapped.server.send(GREETING + STATUS)
        tapped.server.end()
        self.assertEqual(client.read(), GREETING + STATUS)
        self.assertTrue(client.closed and tapped.server.closed)

    def test_a_half_closed_server_gets_further_requests(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        tapped.server.send(GREETING)
        tapped.server.end()
        self.assertEqual(client.read(), GREETING)
        self.assertTrue(client.ended)
        client.send(b"?time\r\n")
        self.assertEqual(tapped.server.read(), b"?time\r\n")
        client.end()
        self.assertTrue(client.closed and tapped.server.closed)

    def test_a_reset_of_one_side_resets_the_other(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        client.send(b"?start\r\n")
        client.lose(ConnectionLost())
        # What was received is passed on first.
        self.assertTrue(tapped.server.closing)
        self.assertEqual(tapped.server.read(), b"?start\r\n")
        self.assertTrue(tapped.server.closed)
        self.assertEqual(exchanges(tapped), [(b"?start", None, "", True)])
        client = tapped.connect()
        tapped.server.send(GREETING)
        tapped.server.lose(ConnectionLost())
        self.assertEqual(client.read(), GREETING)
        self.assertTrue(client.closed)
        self.assertEqual(tapped.factory.connections, set())

    def test_the_other_side_of_a_reset_that_does_not_read_is_aborted(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        client.send(b"?start\r\n")
        client.lose(ConnectionLost())
        tapped.clock.advance(9)
        self.assertFalse(tapped.server.closed)
        tapped.clock.advance(2)
        self.assertTrue(tapped.server.aborted)

    def test_a_paused_side_that_has_ended_is_not_read_again(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        client.end()
        tapped.server.room = 1
        tapped.server.send(GREETING)
        self.assertEqual(client.read(), GREETING)

    def test_the_shutdown_waits_for_the_replies(self) -> None:
        tapped = Tapped()
        client, idle = tapped.connect(), tapped.connect()
        client.send(b"?status\r\n")
        done: list[Any] = []
        tapped.factory.finish(3.0).addCallback(done.append)
        client.send(b"?start\r\n")
        self.assertEqual(done, [])
        server = tapped.target.lines[0]
        self.assertEqual(server.read(), b"?status\r\n")
        server.send(GREETING + STATUS)
        self.assertEqual(done, [None])
        tapped.factory.close()
        self.assertEqual(client.read(), GREETING + STATUS)
        self.assertTrue(client.closed and idle.closed and server.closed)
        self.assertEqual(server.read(), b"")

    def test_the_shutdown_does_not_wait_for_ever(self) -> None:
        tapped = Tapped()
        tapped.connect().send(b"?status\r\n")
        done: list[Any] = []
        tapped.factory.finish(3.0).addCallback(done.append)
        tapped.clock.advance(3)
        self.assertEqual(done, [None])


class TargetTests(unittest.TestCase):
    def test_a_target_that_is_away(self) -> None:
        tapped = Tapped()
        tapped.target.away = True
        with self.assertLogs("discosbackend.protocol", "ERROR") as logs:
            for _ in range(20):
                self.assertTrue(tapped.connect().closed)
        text = "10.0.0.7:4711 is disconnected, because the target cannot be reached: "
        self.assertEqual(len(logs.output), 5)
        self.assertIn(text, logs.output[0])
        self.assertEqual(tapped.factory.connections, set())

    def test_a_target_that_is_waited_for(self) -> None:
        tapped = Tapped(wait=10)
        tapped.target.away = True
        client = tapped.connect()
        client.send(b"?status\r\n?ti")
        for _ in range(4):
            tapped.clock.advance(1)
        self.assertFalse(client.closed)
        tapped.target.away = False
        tapped.clock.advance(1)
        self.assertEqual(tapped.server.read(), b"?status\r\n?ti")
        client.send(b"me\r\n")
        self.assertEqual(tapped.server.read(), b"me\r\n")

    def test_a_target_that_is_waited_for_in_vain(self) -> None:
        tapped = Tapped(wait=2)
        tapped.target.away = True
        client = tapped.connect()
        for _ in range(8):
            tapped.clock.advance(0.5)
        self.assertTrue(client.closed)
        self.assertEqual(tapped.clock.getDelayedCalls(), [])

    def test_clients_that_leave_while_they_wait(self) -> None:
        for has_asked in (False, True):
            with self.subTest(has_asked=has_asked):
                tapped = Tapped(wait=10)
                tapped.target.away = True
                client = tapped.connect()
                if has_asked:
                    client.send(b"?status\r\n")
                client.end()
                self.assertEqual(client.closed, not has_asked)
                tapped.target.away = False
                tapped.clock.advance(1)
                self.assertEqual(len(tapped.target.lines), has_asked)
                if has_asked:
                    self.assertEqual(tapped.server.read(), b"?status\r\n")
                    self.assertTrue(tapped.server.ended)

    def test_a_client_that_is_lost_while_the_tap_connects(self) -> None:
        tapped = Tapped()
        tapped.target.slow = True
        client = tapped.connect()
        client.lose(ConnectionLost())
        self.assertEqual(tapped.target.cancelled, 1)
        self.assertEqual(tapped.factory.connections, set())

    def test_what_is_kept_while_the_tap_connects_is_limited(self) -> None:
        tapped = Tapped()
        tapped.target.slow, tapped.target.room = True, 10**6
        client = tapped.connect()
        client.send(b"x" * 65536)
        self.assertTrue(client.reading)
        client.send(b"y")
        self.assertFalse(client.reading)
        tapped.target.accept(tapped.target.pending.pop())
        self.assertTrue(client.reading)
        self.assertEqual(tapped.server.read(), b"x" * 65536 + b"y")


class JudgedEndTests(unittest.TestCase):
    """What the judge gets at the end of a connection: whether the server has left a client that waited."""

    def test_who_has_ended_the_connection(self) -> None:
        def server_ends(tapped: Tapped, client: Line) -> None:
            tapped.server.end()
            client.end()

        def server_is_lost(tapped: Tapped, _: Line) -> None:
            tapped.server.lose(ConnectionLost())

        def client_ends(tapped: Tapped, client: Line) -> None:
            client.end()
            tapped.server.end()

        def client_is_lost(_: Tapped, client: Line) -> None:
            client.lose(ConnectionLost())

        def tap_stops(tapped: Tapped, _: Line) -> None:
            tapped.factory.close()

        def target_is_away(tapped: Tapped, _: Line) -> None:
            tapped.clock.advance(1)

        for ends, by_server in (
            (server_ends, True),
            (server_is_lost, True),
            (client_ends, False),
            (client_is_lost, False),
            (tap_stops, False),
            (target_is_away, False),
        ):
            with self.subTest(ends.__name__):
                events: list[Any] = []
                tapped = Tapped(judge=events.append, wait=0.5)
                tapped.target.away = ends is target_is_away
                client = tapped.connect()
                client.send(b"?start\r\n")
                ends(tapped, client)
                for line in (client, *tapped.target.lines):
                    line.read()
                closed = events[-1]
                self.assertIsInstance(closed, Closed)
                self.assertEqual([request.line for request in closed.unanswered], [b"?start"])
                self.assertEqual(closed.by_server, by_server)


class AccessTests(unittest.TestCase):
    def test_a_client_that_may_not_connect(self) -> None:
        tapped = Tapped(access=AccessRules(allow=["10.0.0.8"]))
        client = tapped.connect()
        self.assertTrue(client.aborted)
        self.assertEqual((tapped.target.attempts, tapped.records), (0, []))
        tapped.connect(IPv4Address("TCP", "10.0.0.8", 1))
        self.assertEqual(tapped.target.attempts, 1)

    def test_other_clients_may_do_everything(self) -> None:
        tapped = Tapped(access=AccessRules(read_only=["10.0.0.8"]))
        tapped.connect(CLIENT).send(b"?sta")
        self.assertEqual(tapped.server.read(), b"?sta")

    def test_the_order_of_refusals(self) -> None:
        """Steps: what the client sends, what the server sends, and after each what both have received."""
        start, stop = NOT_ALLOWED % b"start", NOT_ALLOWED % b"stop"
        nothing = b"", b""
        cases: dict[str, list[tuple[str, bytes, tuple[bytes, bytes]]]] = {
            "at once": [("s", GREETING, (b"", GREETING)), ("c", b"?start\r\n", (b"", start))],
            "after the earlier reply": [
                ("s", GREETING, (b"", GREETING)),
                ("c", b"?status\r\n?start\r\n?time\r\n", (b"?status\r\n?time\r\n", b"")),
                ("s", STATUS, (b"", STATUS + start)),
                ("s", TIME, (b"", TIME)),
            ],
            "between replies that arrive together": [
                ("s", GREETING, (b"", GREETING)),
                ("c", b"?status\r\n?start\r\n?time\r\n?stop\r\n", (b"?status\r\n?time\r\n", b"")),
                ("s", STATUS + TIME, (b"", STATUS + start + TIME + stop)),
            ],
            "between replies in pieces": [
                ("s", GREETING, (b"", GREETING)),
                ("c", b"?status\r\n?start\r\n?time\r\n", (b"?status\r\n?time\r\n", b"")),
                ("s", STATUS[:10], nothing),
                ("s", STATUS[10:] + TIME[:5], (b"", STATUS + start + TIME[:5])),
                ("s", TIME[5:], (b"", TIME[5:])),
            ],
            "within a reply that is being passed on": [
                ("s", GREETING, (b"", GREETING)),
                ("c", b"?status\r\n", (b"?status\r\n", b"")),
                ("s", STATUS[:10], (b"", STATUS[:10])),
                ("c", b"?start\r\n", nothing),
                ("s", STATUS[10:20], (b"", STATUS[10:20])),
                ("s", STATUS[20:], (b"", STATUS[20:] + start)),
            ],
            "before the greeting": [
                ("c", b"?start\r\n", nothing),
                ("s", GREETING[:5], nothing),
                ("s", GREETING[5:], (b"", GREETING + start)),
            ],
            "within the greeting": [
                ("s", GREETING[:5], (b"", GREETING[:5])),
                ("c", b"?start\r\n", nothing),
                ("s", GREETING[5:], (b"", GREETING[5:] + start)),
            ],
            "the server has a greeting delay": [
                ("c", b"?start\r\n", nothing),
                ("w", b"", (b"", start)),
                ("s", GREETING, nothing),
                ("c", b"?time\r\n", (b"?time\r\n", b"")),
                ("s", TIME, (b"", TIME)),
            ],
            "the server has a greeting delay, and gets a request": [
                ("c", b"?start\r\n?time\r\n", (b"?time\r\n", b"")),
                ("s", TIME, (b"", start + TIME)),
            ],
            "an earlier request gets no reply": [
                ("s", GREETING, (b"", GREETING)),
                ("c", b"?status\r\n?start\r\n?time\r\n", (b"?status\r\n?time\r\n", b"")),
                ("s", TIME, (b"", start + TIME)),
            ],
            "the server ends": [
                ("s", GREETING, (b"", GREETING)),
                ("c", b"?status\r\n?start\r\n", (b"?status\r\n", b"")),
                ("s", STATUS[:4], nothing),
                ("e", b"", (b"", STATUS[:4] + start)),
            ],
            "the client half-closes": [
                ("s", GREETING, (b"", GREETING)),
                ("c", b"?status\r\n?start\r\n", (b"?status\r\n", b"")),
                ("h", b"", nothing),
                ("s", STATUS, (b"", STATUS + start)),
            ],
            "a reply that is too long": [
                ("s", GREETING, (b"", GREETING)),
                ("c", b"?status\r\n?start\r\n", (b"?status\r\n", b"")),
                ("s", b"!status," + b"x" * 65536, (b"", b"!status," + b"x" * 65536)),
                ("s", b"y", (b"", b"y")),
                ("s", b"z\r\n", (b"", b"z\r\n" + start)),
            ],
        }
        for name, steps in cases.items():
            with self.subTest(name):
                tapped = Tapped(access=READ_ONLY)
                client = tapped.connect()
                for step, data, wanted in steps:
                    if step == "c":
                        client.send(data)
                    elif step == "s":
                        tapped.server.send(data)
                    elif step == "w":
                        tapped.clock.advance(1)
                    elif step == "e":
                        tapped.server.end()
                    else:
                        client.end()
                    self.assertEqual((tapped.server.read(), client.read()), wanted, (step, data))

    def test_what_a_client_that_may_only_read_can_send(self) -> None:
        line = b"not a message"
        for sent, passed, reply in (
            (b"?status\n", b"?status\n", b""),
            (b"?get-configuration\r\n", b"?get-configuration\r\n", b""),
            (b"?time\r\0", b"?time\r\0", b""),
            (b"?time\r\0\n", b"?time\r\0\n", b""),
            (b"?start\r\0\n", b"", NOT_ALLOWED % b"start"),
            (b"?setup\r\n", b"", NOT_ALLOWED % b"setup"),
            (b"?get-tpi\r\n", b"", NOT_ALLOWED % b"get-tpi"),
            # A server that ends lines there too would carry it out.
            (b"?time,\x0b?start\r\n", b"", b"!time,fail,time needs no arguments\r\n"),
            (line + b"\r\n", b"", b"!undefined,invalid,syntax error: line begins with 'n' where ? is needed\r\n"),
            (b"!start\r\n", b"", b""),
            (b"?" + b"x" * 16384 + b"\r\n", b"", b"!undefined,invalid,syntax error: line longer than 16384 bytes\r\n"),
            (b"\xff\xf1" * 9000 + b"\r\n", b"", b"!undefined,invalid,syntax error: line longer than 16384 bytes\r\n"),
        ):
            # By default only the end of the long line comes byte by byte.
            begin = 0 if LONG else max(len(sent) - 100, 0)
            for size in (1, 10**6):
                with self.subTest(sent[:30], size=size):
                    tapped = Tapped(access=READ_ONLY)
                    client = tapped.connect()
                    tapped.server.send(GREETING)
                    client.read()
                    client.send(sent[:begin])
                    for at in range(begin, len(sent), size):
                        client.send(sent[at : at + size])
                    self.assertEqual((tapped.server.read(), client.read()), (passed, reply))

    def test_the_listeners_get_refusals_in_their_place(self) -> None:
        tapped = Tapped(access=READ_ONLY)
        client = tapped.connect()
        tapped.server.send(GREETING)
        client.send(b"?time\r\n?start\r\n")
        tapped.server.send(TIME)
        self.assertEqual(
            exchanges(tapped),
            [
                (b"?time", TIME[:-2], "ok", False),
                (b"?start", (NOT_ALLOWED % b"start")[:-2], "fail", True),
            ],
        )


class ForeignTests(unittest.TestCase):
    """HTTP and TLS: both sides are closed, and nothing that follows is passed on."""

    INVALID = b"!undefined,invalid,syntax error: line begins with 'P' where ? is needed\r\n"

    def test_http_closes_both_sides(self) -> None:
        for access in (None, READ_ONLY):
            with self.subTest(access=access):
                tapped = Tapped(access=access)
                client = tapped.connect()
                tapped.server.send(GREETING)
                client.send(b"?time\r\nPOST / HTTP/1.1\r\nHost: x\r\n\r\n?start\r\n")
                self.assertEqual(tapped.server.read(), b"?time\r\n")
                self.assertEqual(client.read(), GREETING)
                client.send(b"?stop\r\n")
                self.assertTrue(tapped.server.ended)
                tapped.server.send(TIME)
                self.assertEqual(client.read(), TIME + self.INVALID)
                self.assertTrue(client.ended and tapped.server.closed)
                self.assertEqual(tapped.server.read(), b"")
                # The client has some time to read the reply.
                client.send(b"?stop\r\n")
                self.assertFalse(client.closed)
                tapped.clock.advance(1)
                self.assertTrue(client.closed)
                self.assertEqual(tapped.factory.connections, set())
                self.assertEqual(tapped.clock.getDelayedCalls(), [])

    def test_in_pieces(self) -> None:
        for size in (1, 7, 40):
            for access in (None, READ_ONLY):
                with self.subTest(size=size, access=access):
                    tapped = Tapped(access=access)
                    client = tapped.connect()
                    tapped.server.send(GREETING)
                    data = b"POST / HTTP/1.1\r\nx\r\n\r\n?start\r\n"
                    for at in range(0, len(data), size):
                        client.send(data[at : at + size])
                    passed = tapped.server.read()
                    self.assertTrue(b"POST / HTTP/1.1\r".startswith(passed), passed)
                    self.assertNotIn(b"\n", passed)
                    self.assertEqual(client.read(), GREETING + self.INVALID)
                    self.assertTrue(tapped.server.closed)

    def test_a_long_line(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        tapped.server.send(GREETING)
        client.send(b"GET /" + b"x" * 20000)
        client.send(b"? HTTP/1.1\r\n?start\r\n")
        self.assertEqual(tapped.server.read(), b"GET /" + b"x" * 20000)
        client.send(b"?start\r\n")
        self.assertEqual(tapped.server.read(), b"")
        line = b"!undefined,invalid,syntax error: line longer than 16384 bytes\r\n"
        self.assertEqual(client.read(), GREETING + line)

    def test_a_long_line_whose_end_looks_like_a_request(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        client.send(b"GET /" + b"x" * 20000)
        client.send(b"? HTTP/1.1\r\n")
        self.assertEqual(tapped.server.read(), b"GET /" + b"x" * 20000)

    def test_tls(self) -> None:
        tapped = Tapped()
        client = tapped.connect()
        tapped.server.send(GREETING)
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\n?start\r\n")
        self.assertEqual(tapped.server.read(), b"")
        self.assertEqual(
            client.read(),
            GREETING + b"!undefined,invalid,syntax error: line begins with byte 0x16 where ? is needed\r\n",
        )

    def test_before_the_target_is_connected(self) -> None:
        tapped = Tapped(wait=10)
        tapped.target.away = True
        client = tapped.connect()
        client.send(b"POST / HTTP/1.1\r\n\r\n?start\r\n")
        tapped.target.away = False
        tapped.clock.advance(1)
        tapped.clock.advance(1)
        self.assertEqual(tapped.server.read(), b"")
        self.assertEqual(client.read(), self.INVALID)
        tapped.clock.advance(1)
        self.assertTrue(client.closed and tapped.server.closed)


if __name__ == "__main__":
    unittest.main()
