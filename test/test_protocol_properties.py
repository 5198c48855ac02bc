"""Tests of protocol: what holds for any bytes in any chunks, and for any order of events.

Only whole valid lines out, exactly one per request line, in the order of the requests; nothing gets stuck.
"""

from __future__ import annotations

import itertools
import re
import unittest
from collections.abc import Callable
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from discosbackend.backend import Backend, BackendError
from discosbackend.errors import GrammarException
from discosbackend.grammar import FAIL, INVALID, OK, Message, parse_message
from discosbackend.handlers import (
    AlwaysFailHandler,
    AlwaysOkHandler,
    AlwaysRaiseHandler,
    DBProtocolHandler,
    Handler,
    HandlerException,
)
from discosbackend.protocol import DBFactory

from .in_memory import GREETING, Connection, Later, Scripted, Wire, greeted, measured_by, ok, quiet

LONGEST = 16384


def setUpModule() -> None:
    quiet()


TELNET = re.compile(rb"(?:\xff[\xfb-\xfe][\x00-\xff]|\xff[\xf0-\xf9])+")
NAME = re.compile(rb"\?([A-Za-z][A-Za-z0-9-]{0,63})(?:,|\Z)")


def lines_in(stream: bytes) -> list[bytes]:
    """The lines of a stream as protocol section 1.3 has it, a byte at a time; telnet's negotiation is still there."""
    lines, line, at = [], b"", 0
    while at < len(stream):
        if stream[at : at + 1] == b"\n":
            lines.append(line.removesuffix(b"\r"))
            line = b""
        elif stream[at : at + 2] == b"\r\0":
            lines.append(line)
            line = b""
            at += 2 if stream[at + 2 : at + 3] == b"\n" else 1
        else:
            line += stream[at : at + 1]
        at += 1
    return lines


def owed(stream: bytes) -> list[bytes | None]:
    """For each line that gets a reply, in order: the request if it is one, None if it is invalid."""
    replies: list[bytes | None] = []
    for line in lines_in(stream):
        rest = TELNET.sub(b"", line, 1) if TELNET.match(line) else line
        if rest[:1] == b"!" or (line and not rest):
            continue
        try:
            if len(line) > LONGEST or rest.endswith(b"\r\n"):
                raise GrammarException("too long")
            parse_message(rest.decode("latin-1"))
            replies.append(rest)
        except GrammarException:
            replies.append(None)
    return replies


tokens = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r\0",
        b"\r\0\n",
        b"\r",
        b"\0",
        b"?",
        b"!",
        b",",
        b"\\",
        b"\\t",
        b"\\,",
        b"\t",
        b"\x1b",
    ]
    + [b"?version\r\n", b"?time\n", b"?status\r\0", b"?set-filename,", b"?start,1", b"!time,ok\r\n", b"\n!"]
    + [
        b"\xff\xfb\x01",
        b"\xff\xf1",
        b"\xff\xff",
        b"\xff",
        b"a" * 300,
        b"a" * LONGEST,
        b",b" * 250,
        b"\\\\" * 250,
    ]
)
streams = st.lists(st.one_of(tokens, tokens, tokens, st.binary(max_size=8)), max_size=30).map(b"".join)


class Talkative(Backend):
    """A backend that answers."""

    def time(self) -> float:
        return 1.0

    def status(self) -> tuple[float, str, bool]:
        return 1.0, "ok", False

    def set_filename(self, path: str) -> None:
        if len(path) % 2:
            raise BackendError(path)


class AnyBytesTests(unittest.TestCase):
    """Any bytes in any chunks: only whole valid lines out, exactly one per request line, in order."""

    HANDLERS: dict[str, Callable[[], Handler]] = {
        "ok": AlwaysOkHandler,
        "fail": AlwaysFailHandler,
        "raise": AlwaysRaiseHandler,
        "backend": lambda: DBProtocolHandler(Talkative(), reactor=Clock()),
    }

    @given(streams, st.lists(st.integers(1, 40), max_size=20), st.sampled_from(sorted(HANDLERS)), st.booleans())
    @example(b"\r\0\n\n\r\0", [2], "ok", False)
    @example(b"?time" + b"\r" * 3, [1] * 10, "backend", True)
    def test_only_whole_valid_lines(self, stream: bytes, cuts: list[int], kind: str, turns: bool) -> None:
        stream += b"\n?version\r\n"
        connection = Connection(self.HANDLERS[kind]())
        at = 0
        for size in [*cuts, len(stream)]:
            connection.send(stream[at : at + size])
            at += size
            if turns:
                connection.clock.advance(0)
        connection.clock.advance(0)
        sent = connection.received()
        self.assertTrue(sent.startswith(GREETING))
        self.assertTrue(sent.endswith(b"\r\n"))
        replies = sent[len(GREETING) :].split(b"\r\n")[:-1]
        expected = owed(stream)
        self.assertEqual(len(replies), len(expected))
        for reply, request in zip(replies, expected, strict=True):
            self.assertLessEqual(len(reply), 509)
            message = parse_message(reply.decode("latin-1"))
            if request is None:
                self.assertEqual(message.code, INVALID)
            else:
                asked = parse_message(request.decode("latin-1"))
                self.assertTrue(message.is_correct_reply(asked))
                self.assertIn(message.code, (OK, FAIL))
                if kind == "ok" and message.code == OK:
                    self.assertEqual(message.arguments, asked.arguments)
        self.assertIsNotNone(expected[-1])
        self.assertFalse(connection.transport.disconnecting)
        self.assertEqual(connection.clock.getDelayedCalls(), [])

    @given(st.binary(max_size=30), st.lists(st.integers(1, 4), max_size=30))
    def test_name_of_an_invalid_reply(self, line: bytes, cuts: list[int]) -> None:
        """The name that was sent if it is one, else `undefined`."""
        line = b"?" + line.replace(b"\n", b"").replace(b"\r\0", b"").rstrip(b"\r") + b","
        connection = greeted(AlwaysOkHandler())
        stream, at = line + b"\r\n", 0
        for size in [*cuts, len(stream)]:
            connection.send(stream[at : at + size])
            at += size
        found = NAME.match(line)
        self.assertTrue(connection.received().startswith(b"!" + (found[1] if found else b"undefined") + b",invalid,"))

    @given(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")))
    @example(b"?\xff!,")
    @example(b"?x,\\!")
    @example(b"?x,\\,")
    def test_reasons_are_for_every_client(self, line: bytes) -> None:
        """Some split at any comma, one stops at `!`, another decodes ASCII only."""
        for received in greeted(AlwaysOkHandler()).ask(b"?" + line + b"\r\n").split(b"\r\n"):
            if b",invalid," in received[:80]:
                self.assertRegex(received, rb"\A![A-Za-z0-9-]+,invalid,syntax error: [\x20\x22-\x2b\x2d-\x7e]+\Z")


class Bench:
    """One connection, a network that holds back what is not wanted, and every kind of answer."""

    def __init__(self, kinds: list[str], room: int) -> None:
        self.kinds = itertools.cycle(kinds)
        self.later = Later()
        self.handler = Scripted(self.answer)
        self.wire = Wire()
        self.wire.room = room
        self.connection = Connection(DBFactory(self.handler, reactor=Clock()), self.wire)
        self.network = b""
        self.expected = [GREETING]
        self.asked: list[str] = []
        self.delivered = 0
        self.received = b""

    def answer(self, message: Message) -> Any:
        if message.name == "later":
            return self.later(message)
        if message.name == "fired":
            return succeed(ok(message))
        if message.name == "coroutine":
            return self.coroutine(message)
        if message.name == "refuse":
            raise HandlerException("no")
        return ok(message)

    async def coroutine(self, message: Message) -> Message:
        if int(message.arguments[0]) % 2:
            return await self.later(message)
        return ok(message)

    REPLIES = {
        "refuse": b"!refuse,fail,no\r\n",
        "": b"!undefined,invalid,syntax error: name missing after ?\r\n",
    }

    def request(self, count: int) -> None:
        """The client writes so many requests; whether they are delivered is the network's business."""
        for _ in range(count):
            name, number = next(self.kinds), len(self.expected)
            self.network += b"?%s,%d\r\n" % (name.encode(), number)
            self.expected.append(self.REPLIES.get(name, b"!%s,ok,%d\r\n" % (name.encode(), number)))
            if name:
                self.asked.append(f"?{name},{number}")

    def deliver(self, size: int) -> None:
        """The server reads, if it wants to."""
        if self.wire.producerState == "producing":
            data, self.network = self.network[:size], self.network[size:]
            self.connection.send(data)

    def end(self, _: int = 0) -> None:
        """A command that has to be waited for ends."""
        if self.later.waiting:
            self.later.end()

    def read(self, _: int = 0) -> None:
        """The client reads."""
        self.received += self.connection.received()

    def turn(self, _: int = 0) -> None:
        """One call of the reactor's."""
        clock = self.connection.clock
        if clock.calls:
            call = clock.calls.pop(0)
            call.called = 1
            call.func(*call.args, **call.kw)

    def idle(self) -> bool:
        """Whether there is nothing left to do for anybody."""
        return not (self.network or self.later.waiting or self.connection.clock.calls or self.wire.value())

    def drain(self, done: Callable[[], bool] | None = None) -> None:
        """Everybody goes on until this is so, or until there is nothing left to do."""
        for _ in range(100 + 3 * len(self.expected)):
            if (done or self.idle)():
                return
            self.deliver(1000)
            self.end()
            self.turn()
            self.read()
        raise AssertionError("stuck")


events = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.sampled_from([1, 1, 3, 4, 5, 40, 400])),
        st.tuples(st.just("deliver"), st.sampled_from([1, 7, 30, 100, 1000, 10**5])),
        st.tuples(st.sampled_from(["end", "read", "turn", "turn"]), st.just(0)),
    ),
    max_size=60,
)
kind_lists = st.lists(
    st.sampled_from(["now", "now", "fired", "coroutine", "later", "refuse", ""]), min_size=1, max_size=6
)


class AnyOrderTests(unittest.TestCase):
    """Data, pauses, Deferreds that fire and a reactor's turns, in any order: all answered, in order, once."""

    def setUp(self) -> None:
        # A line takes 0.1 ms or 0.2, so that there are several turns.
        self.enterContext(measured_by(itertools.count(0, 0.0001).__next__))

    def play(self, bench: Bench, steps: list[tuple[str, int]]) -> None:
        """Let it happen; no request is begun for a client whose buffer is full."""
        for step, size in steps:
            begun = len(bench.handler.requests) if bench.wire.full and step != "read" else None
            getattr(bench, step)(size)
            if begun is not None:
                self.assertEqual(len(bench.handler.requests), begun)
            self.assertLess(bench.wire.unread, bench.wire.room + 128 * 40)

    @given(kind_lists, events, st.sampled_from([0, 50, 1000, 2**16]), st.booleans())
    def test_all_are_answered(
        self, names: list[str], steps: list[tuple[str, int]], room: int, half_close: bool
    ) -> None:
        bench = Bench(names, room)
        self.play(bench, [("read", 0), *steps])
        if half_close:
            bench.drain(lambda: not bench.network)
            bench.connection.half_close()
        bench.drain()
        self.assertEqual(bench.received, b"".join(bench.expected))
        self.assertEqual(bench.handler.requests, bench.asked)
        self.assertEqual(bench.wire.disconnecting, half_close)
        if not half_close:
            self.assertEqual(bench.wire.producerState, "producing")
            self.assertEqual(bench.connection.ask(b"?version,1\r\n"), b"!version,ok,1\r\n")

    @given(kind_lists, events, st.sampled_from([0, 50, 2**16]), events)
    def test_gone_at_any_time(
        self, names: list[str], steps: list[tuple[str, int]], room: int, then: list[tuple[str, int]]
    ) -> None:
        """What was delivered is carried out, each request once, and nothing is written."""
        bench = Bench(names, room)
        self.play(bench, [("read", 0), *steps])
        sent = "".join(f"{request}\r\n" for request in bench.asked)
        bench.read()
        bench.connection.lose()
        left = bench.network.count(b"\n")
        bench.network = b""
        self.play(bench, [step for step in then if step[0] in ("end", "turn")])
        bench.drain()
        self.assertEqual(b"".join(bench.expected)[: len(bench.received)], bench.received)
        self.assertTrue(sent.startswith("".join(f"{request}\r\n" for request in bench.handler.requests)))
        carried_out = len(bench.expected) - 1 - left
        requests = [reply for reply in bench.expected[1 : 1 + carried_out] if not reply.startswith(b"!undefined")]
        self.assertEqual(len(bench.handler.requests), len(requests))
        self.assertEqual(bench.connection.factory.connections, set())
        self.assertEqual(bench.connection.clock.calls, [])


if __name__ == "__main__":
    unittest.main()
