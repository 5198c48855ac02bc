"""Pairing: which reply belongs to which request, whatever the chunks are, and what is reported about other lines."""

from __future__ import annotations

import tracemalloc
import unittest
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from discosbackend.errors import GrammarException
from discosbackend.pairing import (
    LONGEST_REPLY,
    Answer,
    Ended,
    Greeting,
    Malformed,
    Misnamed,
    OutOfOrder,
    Pairing,
    ReplyLine,
    ReplyLines,
    Surplus,
    TooLong,
    reply_in,
)

from .settings import LONG

GREETING = b"!version,ok,1.4\r\n"
STATUS = b"!status,ok,1.0000000,ok,0\r\n"
TIME = b"!time,ok,1.0000000\r\n"

# A step is a request, by its name, or bytes that the server sends.
Step = str | bytes

# For each name of a case: the steps, and the events: what, and the number of the request.
CASES: dict[str, tuple[list[Step], list[tuple[type, int | None]]]] = {
    "nothing": ([], []),
    "greeting": ([GREETING], [(Greeting, None)]),
    "reply": ([GREETING, "status", STATUS], [(Greeting, None), (Answer, 0)]),
    "no greeting": (["status", STATUS, "time", TIME], [(Answer, 0), (Answer, 1)]),
    "late greeting": (["status", GREETING + STATUS], [(Greeting, None), (Answer, 0)]),
    "late greeting between": (
        ["status", "time", STATUS + GREETING + TIME],
        [(Answer, 0), (Greeting, None), (Answer, 1)],
    ),
    "late greeting, version asked": (["version", GREETING, GREETING], [(Answer, 0), (Greeting, None)]),
    "late greeting behind the version": (
        ["version", "status", GREETING + GREETING + STATUS],
        [(Answer, 0), (Greeting, None), (Answer, 1)],
    ),
    "greeting twice": ([GREETING + GREETING], [(Greeting, None), (Surplus, None)]),
    "version": ([GREETING, "version", GREETING], [(Greeting, None), (Answer, 0)]),
    "many at once": (
        [GREETING, "status", "time", "status", STATUS + TIME + STATUS],
        [(Greeting, None), (Answer, 0), (Answer, 1), (Answer, 2)],
    ),
    "twice": ([GREETING, "status", STATUS + STATUS], [(Greeting, None), (Answer, 0), (Surplus, None)]),
    "twice, and the next is waiting": (
        [GREETING, "status", "time", STATUS + STATUS + TIME],
        [(Greeting, None), (Answer, 0), (Surplus, None), (Answer, 1)],
    ),
    "begun before the request": (
        [GREETING, "status", STATUS + STATUS[:5], "status", STATUS[5:] + STATUS],
        [(Greeting, None), (Answer, 0), (Surplus, None), (Answer, 1)],
    ),
    "greeting begun before the request": (
        [GREETING[:1], "version", GREETING[1:] + GREETING],
        [(Greeting, None), (Answer, 0)],
    ),
    "garbage begun before the request": (
        [b"hel", "status", b"lo\r\n" + STATUS],
        [(Malformed, None), (Answer, 0)],
    ),
    "unasked": ([GREETING, STATUS], [(Greeting, None), (Surplus, None)]),
    "another name": (
        [GREETING, "status", "get-rms", TIME + b"!get-rms,ok,1.5\r\n"],
        [(Greeting, None), (Misnamed, 0), (Answer, 1)],
    ),
    "out of order": (
        [GREETING, "status", "time", TIME + STATUS],
        [(Greeting, None), (OutOfOrder, 1), (Answer, 0)],
    ),
    "no line": ([GREETING, "status", b"hello\r\n"], [(Greeting, None), (Malformed, 0)]),
    "empty": ([GREETING, "status", b"\r\n"], [(Greeting, None), (Malformed, 0)]),
    "wrong code": ([GREETING, "status", b"!status,OK\r\n"], [(Greeting, None), (Malformed, 0)]),
    "wrong code of a repetition": (
        [GREETING, "status", "time", STATUS + b"!status,OK\r\n" + TIME],
        [(Greeting, None), (Answer, 0), (Malformed, None), (Answer, 1)],
    ),
    "a request": ([GREETING, "status", b"?status\r\n"], [(Greeting, None), (Malformed, 0)]),
    "CR inside": ([GREETING, "status", b"!status,ok,a\rb\r\n"], [(Greeting, None), (Malformed, 0)]),
    "two CR": ([GREETING, "status", b"!status,ok\r\r\n"], [(Greeting, None), (Malformed, 0)]),
    "LF only": ([GREETING, "status", STATUS[:-2] + b"\n"], [(Greeting, None), (Answer, 0)]),
    "too long": (
        [GREETING, "status", b"!status,ok," + 70000 * b"x" + b"\r\n", "time", TIME],
        [(Greeting, None), (TooLong, 0), (Answer, 1)],
    ),
    "too long, unasked": ([GREETING, 70000 * b"x"], [(Greeting, None), (TooLong, None)]),
    "too long, and the next is waiting": (
        [GREETING, "status", "time", STATUS + b"!status,ok," + 70000 * b"x" + b"\r\n" + TIME],
        [(Greeting, None), (Answer, 0), (TooLong, None), (Answer, 1)],
    ),
}


def seen(steps: list[Step], longest: int = LONGEST_REPLY) -> list[Any]:
    """The events of these steps. Each request is its number."""
    pairing: Pairing[int] = Pairing(longest)
    found: list[Any] = []
    count = 0
    for step in steps:
        if isinstance(step, str):
            pairing.expect(step, count)
            count += 1
        else:
            found += pairing.feed(step)
    return [*found, pairing.end()]


def divided(steps: list[Step], size: int) -> list[Step]:
    """The same steps, with the bytes in chunks of this size.

    By default that of a long line which is far from its ends and from the limit is in chunks of 100 bytes at least.
    """
    parts: list[Step] = []
    for step in steps:
        if isinstance(step, str):
            parts.append(step)
            continue
        at = 0
        while at < len(step):
            near = any(abs(at - place) <= 200 for place in (0, LONGEST_REPLY, len(step)))
            end = at + (size if near or LONG else max(size, 100))
            parts.append(step[at:end])
            at = end
    return parts


class CaseTests(unittest.TestCase):
    def test_what_each_line_is(self) -> None:
        for name, (steps, wanted) in CASES.items():
            with self.subTest(name):
                *found, _ = seen(steps)
                self.assertEqual([(type(event), getattr(event, "request", None)) for event in found], wanted)

    def test_any_chunks_give_the_same(self) -> None:
        for name, (steps, _) in CASES.items():
            whole = seen(steps)
            for size in (1, 2, 3, 7, 4096, LONGEST_REPLY + 1):
                with self.subTest(name, size=size):
                    self.assertEqual(seen(divided(steps, size)), whole)

    def test_the_line_and_its_end(self) -> None:
        for sent, line, crlf in ((STATUS, STATUS[:-2], True), (STATUS[:-2] + b"\n", STATUS[:-2], False)):
            (answer, _) = seen(["status", sent])
            self.assertEqual((answer.line, answer.crlf, answer.message.arguments[1]), (line, crlf, "ok"))

    def test_why_a_line_is_malformed(self) -> None:
        for line, problem in (
            (b"", "empty line"),
            (b"!status,OK", "code 'OK' is none of ok fail invalid"),
            (b"?status", "a server must send only replies"),
        ):
            self.assertEqual(seen(["status", line + b"\r\n"])[0].problem, problem)

    def test_where_the_bound_is(self) -> None:
        for length, kind in ((100, Answer), (101, TooLong)):
            # The CR counts, the LF does not.
            (event, _) = seen(["x", (b"!x,ok," + length * b"y")[: length - 1] + b"\r\n"], 100)
            self.assertIs(type(event), kind, length)
        # It is reported before its end.
        (event, _) = seen(["x", b"!x,ok," + 100 * b"y"], 100)
        self.assertEqual((type(event), event.line[:8], event.longest), (TooLong, b"!x,ok,yy", 100))

    def test_the_end(self) -> None:
        self.assertEqual(seen(["status", "time", STATUS + b"!ti"])[-1], Ended(b"!ti", (1,)))
        self.assertEqual(seen([GREETING])[-1], Ended(b"", ()))

    def test_what_begins_before_a_request(self) -> None:
        for before, unasked in (
            (b"", False),
            (b"!ver", False),
            (b"!version,ok", False),
            (b"!status", True),
            (b"x", True),
        ):
            for greeting in (b"", GREETING):
                with self.subTest(before, greeting=greeting):
                    pairing: Pairing[int] = Pairing()
                    pairing.feed(greeting + before)
                    self.assertEqual(pairing.unasked, bool(unasked or (greeting and before)))
                    pairing.expect("status", 0)
                    pairing.feed(b"\r\n!sta" if before else b"!sta")
                    self.assertFalse(pairing.unasked, "a reply to the request has begun")
        overlong: Pairing[int] = Pairing(5)
        overlong.feed(b"!version,")
        self.assertTrue(overlong.unasked)

    def test_bounded_memory(self) -> None:
        pairing: Pairing[int] = Pairing()
        pairing.expect("status", 0)
        chunk = bytes(2**20)
        tracemalloc.start()
        try:
            events = [event for _ in range(300) for event in pairing.feed(chunk)]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertEqual([type(event) for event in events], [TooLong])
        self.assertLess(peak, 4 * LONGEST_REPLY)


LINES = (
    GREETING,
    STATUS,
    TIME,
    b"!start,ok\r\n",
    b"!start,fail,no\n",
    b"\r\n",
    b"\r",
    b"hello\r\n",
    b"!status",
    b"x" * 60,
)


# The sizes of chunks, from the first again when they are used up.
SIZES = st.lists(st.integers(1, 64), min_size=1, max_size=12)


def chunks(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    """The data in chunks of these sizes."""
    at = 0
    while at < len(data):
        size = next(sizes)
        yield data[at : at + size]
        at += size


class PropertyTests(unittest.TestCase):
    @given(
        st.lists(
            st.one_of(st.sampled_from(("status", "time", "start", "version")), st.sampled_from(LINES), st.binary())
        ),
        SIZES,
    )
    @example(["status", STATUS], [len(STATUS)])
    def test_any_chunks_any_bytes(self, steps: list[Step], sizes: list[int]) -> None:
        whole = seen(steps, 50)
        cut: list[Step] = []
        size = cycle(sizes)
        for step in steps:
            if isinstance(step, str):
                cut.append(step)
            else:
                cut += chunks(step, size)
        self.assertEqual(seen(cut, 50), whole)
        requests = [event.request for event in whole[:-1] if getattr(event, "request", None) is not None]
        self.assertEqual(len(requests), len(set(requests)), "a request has two replies")
        asked = sum(isinstance(step, str) for step in steps)
        self.assertEqual(sorted([*requests, *whole[-1].unanswered]), list(range(asked)))
        lines = b"".join(step for step in steps if isinstance(step, bytes)).count(b"\n")
        self.assertIn(len(whole) - 1 - lines, (0, 1), "one event for each line, and one for an overlong rest")


class ReplyLinesTests(unittest.TestCase):
    """The lines, and what they contain, without pairing."""

    @given(st.lists(st.binary(max_size=12) | st.sampled_from([b"\r\n", b"\n", b"x" * 9])), st.integers(1, 12), SIZES)
    def test_any_chunks(self, parts: list[bytes], longest: int, sizes: list[int]) -> None:
        sent = b"".join(parts)
        lines = ReplyLines(longest)
        found: list[ReplyLine] = []
        for chunk in chunks(sent, cycle(sizes)):
            found += lines.feed(chunk)
            self.assertLessEqual(len(lines.rest), longest)
        *whole, rest = sent.split(b"\n")
        wanted = [ReplyLine(line[: longest + 1], len(line) > longest) for line in whole]
        if len(rest) > longest:
            wanted.append(ReplyLine(rest[: longest + 1], True))
        self.assertEqual(found, wanted)
        self.assertEqual(lines.rest, b"" if len(rest) > longest else rest)
        self.assertEqual((lines.in_line, lines.skipping), (bool(rest), len(rest) > longest))

    def test_what_a_line_contains(self) -> None:
        self.assertEqual(str(reply_in(b"!get-tpi,fail,no power")), "!get-tpi,fail,no power")
        for line, problem in ((b"?status", "a server must send only replies"), (b"!a,what", "code 'what' is none of")):
            with self.assertRaisesRegex(GrammarException, problem):
                reply_in(line)

    def test_an_overlong_reply_is_not_unasked(self) -> None:
        """It has begun after the request, to which it belongs, and its rest is skipped while the next one is sent."""
        for waiting in (True, False):
            pairing: Pairing[int] = Pairing(40)
            pairing.feed(GREETING)
            if waiting:
                pairing.expect("status", 1)
            (event,) = pairing.feed(b"!status,ok," + b"x" * 50)
            assert isinstance(event, TooLong)
            self.assertEqual((event.request, pairing.unasked), (1, False) if waiting else (None, True))
            pairing.feed(b"x")
            self.assertEqual(pairing.unasked, not waiting)
            pairing.feed(b"\r\n")
            self.assertFalse(pairing.unasked)


class FeedAnswersTests(unittest.TestCase):
    """feed_answers() and then feed() give what feed() gives."""

    _LINES = st.sampled_from(
        [GREETING, STATUS, TIME, TIME[:-2] + b"\n", b"!time,fail,x\r\n", b"x\r\n", b"!time", b"\r\n", b"!status,ok,"]
    )

    _CHUNKS = st.lists(_LINES, min_size=1, max_size=5).map(b"".join)

    @given(st.lists(_CHUNKS | st.sampled_from(["status", "time", "version"]), max_size=12), st.integers(20, 40))
    @example(["time", TIME + TIME], 40)
    @example(["time", b"!status,ok,", TIME, "time", TIME], 40)
    def test_both_give_the_same(self, steps: list[bytes | str], longest: int) -> None:
        slow: Pairing[int] = Pairing(longest)
        fast: Pairing[int] = Pairing(longest)
        for number, step in enumerate(steps):
            if isinstance(step, str):
                slow.expect(step, number)
                fast.expect(step, number)
                continue
            answers, rest = fast.feed_answers(step)
            wanted = slow.feed(step)
            for event, (request, line, code) in zip(wanted, answers, strict=False):
                assert isinstance(event, Answer)
                self.assertEqual((event.request, event.line, event.message.code), (request, line, code))
            self.assertEqual(fast.feed(rest), wanted[len(answers) :])
            self.assertEqual((fast.waiting, fast.greeting, fast.rest), (slow.waiting, slow.greeting, slow.rest))
            self.assertEqual(fast._previous, slow._previous)


class WaitingTests(unittest.TestCase):
    def test_the_oldest_request_can_be_forgotten(self) -> None:
        pairing: Pairing[int] = Pairing()
        self.assertEqual((pairing.oldest, pairing.count), (None, 0))
        self.assertRaises(IndexError, pairing.forget_oldest)
        pairing.expect("status", 0)
        pairing.expect("time", 1)
        self.assertEqual((pairing.oldest, pairing.count, pairing.forget_oldest()), (0, 2, 0))
        self.assertEqual((pairing.oldest, pairing.count), (1, 1))
        (event,) = pairing.feed(TIME)
        self.assertIsInstance(event, Answer)


if __name__ == "__main__":
    unittest.main()
