"""Tests of replies: the `ok` replies of a ReplyWriter are those that the grammar and values make, only quicker."""

from __future__ import annotations

import math
import unittest
from decimal import Decimal
from typing import Any
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st

from discosbackend.commands import COMMANDS, Command, Field
from discosbackend.errors import GrammarException, ReplyTooLong, UnsendableError
from discosbackend.grammar import OK, parse_message, write_reply
from discosbackend.handlers import Handler
from discosbackend.replies import ReplyWriter, reason_in, refusal
from discosbackend.ticks import Ticks
from discosbackend.values import TYPES, texts

from .in_memory import fewer

# Characters with a meaning in the grammar, beside ordinary ones and some that latin-1 does not have.
TEXTS = st.text(st.sampled_from("ab,\\\t\0\n\r\x1b\x7f\x80\xff€\ud800 !?"), max_size=4) | st.text(max_size=20)
PLAIN = st.one_of(
    TEXTS,
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.booleans(),
    st.integers(-(10**18), 10**18).map(Ticks),
)
ODD = st.one_of(PLAIN, st.none(), st.binary(max_size=4), st.just(Decimal("1.5")), st.just(1j), st.just([1]))
ROWS = st.builds(
    lambda kinds, repeated, unescaped: Command(
        "get-x",
        reply=tuple(
            Field(f"f{number}", kind, repeated=repeated and number == len(kinds) - 1, unescaped=unescaped)
            for number, kind in enumerate(kinds)
        ),
    ),
    st.lists(st.sampled_from(sorted(TYPES)), max_size=3),
    st.booleans(),
    st.booleans(),
)
RESULTS = st.one_of(
    ODD,
    st.lists(PLAIN, max_size=5),
    st.lists(PLAIN, max_size=5).map(tuple),
    st.lists(ODD, max_size=4),
    st.dictionaries(TEXTS, PLAIN, max_size=2),
)


def slowly(row: Command, result: Any, limit: int | None) -> bytes:
    """The reply by values and grammar alone."""
    try:
        line = write_reply(row.name, OK, texts(result, row.reply, limit)).encode("latin-1")
    except GrammarException as problem:
        raise UnsendableError(str(problem)) from problem
    if limit is not None and len(line) + 2 > limit:
        raise ReplyTooLong(limit)
    return line


def limited(reply_limit: int | None) -> Handler:
    """A handler with this limit."""
    handler = Handler()
    handler.reply_limit = reply_limit
    return handler


def outcome(function: Any, *arguments: Any) -> Any:
    """What a function returns, or the type of what it raises."""
    try:
        return function(*arguments)
    except (UnsendableError, ReplyTooLong) as problem:
        return type(problem)


class ReplyWriterTests(unittest.TestCase):
    @fewer(400)
    @given(ROWS, RESULTS, st.none() | st.integers(128, 200))
    @example(Command("get-x", reply=(Field("f", "text"),)), "", None)
    @example(Command("get-x", reply=(Field("f", "text", repeated=True),)), ["a", "", "b"], None)
    @example(Command("get-x", reply=(Field("f", "text"), Field("g", "text"))), ("a,b", "c"), None)
    @example(Command("get-x", reply=(Field("f", "text"),)), "\xe9t\xe9", None)
    @example(COMMANDS["status"], (Ticks(16286832071234567), "\xe9t\xe9", True), None)
    @example(Command("get-x", reply=(Field("f", "float"),)), math.nan, None)
    def test_as_the_grammar_has_it(self, row: Command, result: Any, limit: int | None) -> None:
        found = outcome(ReplyWriter(row, limited(limit)).write, result)
        self.assertEqual(found, outcome(slowly, row, result, limit))
        if isinstance(found, bytes):
            message = parse_message(found.decode("latin-1"))
            self.assertEqual((message.name, message.code), (row.name, OK))
            self.assertEqual(message.arguments, texts(result, row.reply, limit))

    def test_an_integer_that_python_does_not_print(self) -> None:
        """No example for Hypothesis, whose lowest version would print it."""
        row = Command("get-x", reply=(Field("f", "integer"),))
        self.assertRaises(UnsendableError, ReplyWriter(row, limited(None)).write, 10**5000)

    def test_the_edge_of_the_limit(self) -> None:
        row = Command("get-x", reply=(Field("f", "text"),))
        length = 128 - len("!get-x,ok,\r\n")
        write = ReplyWriter(row, limited(128)).write
        for text in ("x" * length, "x" * (length - 2) + "\\"):
            with self.subTest(text):
                self.assertEqual(len(write(text)), 126)
                self.assertRaises(ReplyTooLong, write, "x" + text)

    def test_another_limit_later(self) -> None:
        handler = limited(128)
        write = ReplyWriter(Command("get-x", reply=(Field("f", "text"),)), handler).write
        self.assertRaises(ReplyTooLong, write, "x" * 200)
        handler.reply_limit = 300
        self.assertEqual(len(write("x" * 200)), 210)

    def test_without_a_limit_there_is_still_one(self) -> None:
        write = ReplyWriter(Command("get-x", reply=(Field("f", "text", repeated=True),)), limited(None)).write
        self.assertEqual(len(write(["x" * 2**17])), 2**17 + 10)
        for result in ("x" * 2**21, ["x" * 10] * 2**18):
            self.assertRaises(ReplyTooLong, write, result)

    def test_no_text_is_converted_twice(self) -> None:
        """The usual replies need values.texts() as little as the grammar: a test that the short way is taken at all."""
        now = Ticks(16286832071234567)
        for name, result, wanted in (
            ("status", (now, "ok", False), b"!status,ok,1628683207.1234567,ok,0"),
            ("get-tpi", [412.5, 398.25], b"!get-tpi,ok,412.5,398.25"),
            ("get-integration", 40, b"!get-integration,ok,40"),
            ("set-integration", None, b"!set-integration,ok"),
        ):
            with self.subTest(name), mock.patch("discosbackend.replies.texts") as slow:
                self.assertEqual(ReplyWriter(COMMANDS[name], limited(511)).write(result), wanted)
                slow.assert_not_called()


class ReasonTests(unittest.TestCase):
    def test_a_reason_that_is_no_ordinary_text(self) -> None:
        """A __str__ may return a subclass of str. It is not looked up, because its methods may do anything."""

        class Odd(str):
            __slots__ = ()

            def __hash__(self) -> int:
                raise RuntimeError("no hash")

        self.assertEqual(refusal("get-x", "fail", Odd("no such mode"), 511), b"!get-x,fail,no such mode")

    @given(TEXTS, st.none() | st.integers(20, 200))
    def test_a_reason_comes_back_as_far_as_it_was_sent(self, reason: str, limit: int | None) -> None:
        line = refusal("get-x", "fail", reason, limit)
        found = reason_in(line)
        self.assertTrue(found)
        if limit is not None:
            self.assertLessEqual(len(line) + 2, limit)

    def test_none(self) -> None:
        self.assertEqual(reason_in(b"!get-x,fail"), "")


if __name__ == "__main__":
    unittest.main()
