"""Tests of handlers: what becomes of whatever a method returns or raises, in every style of method.

Protocol section 5, seen from the wire. Every row of every table is tried with an ordinary method, a
coroutine, a Deferred and a thread.
"""

from __future__ import annotations

import asyncio
import itertools
import unittest
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from discosbackend import Backend, BackendError, blocking
from discosbackend.grammar import REPLY, Message
from discosbackend.handlers import DBProtocolHandler, HandlerException
from discosbackend.ticks import Ticks

from .clients import TICKS, Client, FakeReactor, asked, request
from .in_memory import GENERIC, fewer, quiet


def setUpModule() -> None:
    """What is logged here is expected; a test that cares looks with assertLogs."""
    quiet()


STYLES = ("plain", "coroutine", "coroutine at once", "Deferred", "Deferred at once", "blocking")


class Behaving(Backend):
    """A backend whose methods do what a test says, in each style in which a method can be written."""

    def __init__(self, style: str, behaviour: Callable[[], Any]) -> None:
        self.style = style
        self.behaviour = behaviour
        self.gate: Deferred[None] = Deferred()

    def behave(self) -> Any:
        if self.style == "plain":
            return self.behaviour()
        if self.style.startswith("coroutine"):
            return self.coroutine()
        if self.style == "Deferred at once":
            return succeed(None).addCallback(lambda _: self.behaviour())
        return self.gate.addCallback(lambda _: self.behaviour())

    async def coroutine(self) -> Any:
        if self.style == "coroutine":
            await self.gate
        return self.behaviour()

    def status(self) -> Any:
        return self.behave()

    def time(self) -> Any:
        return self.behave()

    def get_configuration(self) -> Any:
        return self.behave()

    def get_tp0(self) -> Any:
        return self.behave()

    def set_shift(self, shift: int) -> Any:
        return self.behave()

    def park(self) -> str:
        return "free"


class BlockingBehaving(Behaving):
    """The same in threads."""

    @blocking
    def status(self) -> Any:
        return self.behaviour()

    @blocking
    def time(self) -> Any:
        return self.behaviour()

    @blocking
    def get_configuration(self) -> Any:
        return self.behaviour()

    @blocking
    def get_tp0(self) -> Any:
        return self.behaviour()

    @blocking
    def set_shift(self, shift: int) -> Any:
        return self.behaviour()


class StyleTestCase(unittest.TestCase):
    """Asks a backend that behaves as told, in each style. There is one for each: to look at its methods takes time."""

    def setUp(self) -> None:
        self.served: dict[str, tuple[Behaving, DBProtocolHandler, FakeReactor]] = {}

    def serve(self, style: str) -> tuple[Behaving, DBProtocolHandler, FakeReactor]:
        if style not in self.served:
            reactor, kind = FakeReactor(), BlockingBehaving if style == "blocking" else Behaving
            backend = kind(style, lambda: None)
            self.served[style] = backend, DBProtocolHandler(backend, reactor=reactor), reactor
            self.addCleanup(self.served[style][1].stop)
        return self.served[style]

    def replies(self, behaviour: Callable[[], Any], line: bytes) -> Iterator[tuple[str, bytes]]:
        """(style, reply) for each style; the device must be free afterwards."""
        for style in STYLES:
            backend, handler, reactor = self.serve(style)
            backend.behaviour, backend.gate = behaviour, Deferred()
            client = Client(handler, reactor)
            reply = client.ask(line)
            if style in ("coroutine", "Deferred"):
                self.assertEqual(reply, b"", style)
                backend.gate.callback(None)
                reply = client.answer()
            elif style == "blocking":
                self.assertEqual(reply, b"", style)
                reactor.drain()
                reply = client.answer()
            yield style, reply
            self.assertEqual(client.ask(b"?backend-park"), b"!backend-park,ok,free\r\n", style)


class OddReturnTests(StyleTestCase):
    """What a backend may return, and what not (protocol section 5.6), in every style."""

    def check(self, table: list[tuple[bytes, Callable[[], Any], bytes]]) -> None:
        for line, behaviour, wanted in table:
            for style, reply in self.replies(behaviour, line):
                with self.subTest(line, style=style, wanted=wanted):
                    self.assertEqual(reply, b"!" + line[1:].split(b",")[0] + b"," + wanted + b"\r\n")

    def test_values(self) -> None:
        def generator() -> Iterator[float]:
            yield 1.5
            yield 2.5

        self.check(
            [
                (b"?set-shift,1", lambda: None, b"ok"),
                (b"?set-shift,1", list, b"ok"),
                (b"?set-shift,1", lambda: "surplus", b"ok,surplus"),
                (b"?get-tp0", lambda: 1.5, b"ok,1.5"),
                (b"?get-tp0", lambda: 7, b"ok,7"),
                (b"?get-tp0", lambda: True, b"ok,1"),
                (b"?get-tp0", lambda: False, b"ok,0"),
                (b"?get-tp0", lambda: "text", b"ok,text"),
                (b"?get-tp0", lambda: b"\xe9", b"ok,\xe9"),
                (b"?get-tp0", lambda: [1.5, 2], b"ok,1.5,2"),
                (b"?get-tp0", lambda: (1.5, "two"), b"ok,1.5,two"),
                (b"?get-tp0", generator, b"ok,1.5,2.5"),
                (b"?get-tp0", lambda: map(float, (1, 2)), b"ok,1.0,2.0"),
                (b"?get-tp0", lambda: np.array([1.5, 2.5]), b"ok,1.5,2.5"),
                (b"?get-tp0", lambda: np.array([1, 2], dtype=np.uint8), b"ok,1,2"),
                (b"?get-tp0", lambda: np.float32(0.5), b"ok,0.5"),
                (b"?get-tp0", {1.5: "a", 2.5: "b"}.keys, b"ok,1.5,2.5"),
                (b"?get-tp0", lambda: 1e21, b"ok,1000000000000000000000"),
                (b"?get-tp0", lambda: 1e-7, b"ok,0.0000001"),
                (b"?get-tp0", lambda: "a\tb\\c", rb"ok,a\tb\\c"),
                (b"?get-configuration", lambda: "a,b", rb"ok,a\,b"),
                (b"?get-configuration", lambda: ["SK77", "and more"], b"ok,SK77,and more"),
                (b"?time", lambda: 1430922782.96875, b"ok,1430922782.9687500"),
                (b"?time", lambda: 1430922782, b"ok,1430922782.0000000"),
                (b"?time", lambda: TICKS, b"ok,1795419485.9619467"),
                (b"?time", lambda: Ticks(TICKS), b"ok,1795419485.9619467"),
                (b"?time", lambda: Ticks(TICKS).time, b"ok,1795419485.9619467"),
                (b"?status", lambda: (1430922782.5, "a, b\\c", True), b"ok,1430922782.5000000,a; b/c,1"),
            ]
        )

    def test_what_no_reply_can_carry(self) -> None:
        def holed() -> Iterator[Any]:
            yield 1.5
            yield None

        async def asynchronous() -> AsyncIterator[float]:
            # Called, it is an asynchronous generator, which nobody can await or iterate over here.
            yield 1.5

        generic = b"fail," + GENERIC
        self.check(
            [
                (b"?get-tp0", behaviour, generic)
                for behaviour in (
                    lambda: None,
                    lambda: (),
                    lambda: iter(()),
                    lambda: [[1.5]],
                    lambda: [(1.5,), 2.5],
                    lambda: np.array([[1.5]]),
                    lambda: {"input": 1.5},
                    lambda: [{"input": 1.5}],
                    lambda: [1.5, None],
                    lambda: float("nan"),
                    lambda: [1.5, float("inf")],
                    lambda: [float("-inf")],
                    lambda: np.float64("nan"),
                    lambda: Decimal("nan"),
                    lambda: "",
                    lambda: [1.5, ""],
                    lambda: "a\nb",
                    lambda: "a\rb",
                    lambda: "\0",
                    lambda: "\x1b",
                    lambda: "5 €",
                    lambda: b"",
                    object,
                    lambda: object,
                    lambda: [object()],
                    lambda: 1j,
                    lambda: print,
                    asynchronous,
                    lambda: [succeed(1.5)],
                    holed,
                )
            ]
            + [
                (b"?status", lambda: (1430922782.5, "ok"), generic),
                (b"?status", lambda: None, generic),
                (b"?time", lambda: None, generic),
            ]
        )

    def test_the_log_names_the_command_and_the_missing_field(self) -> None:
        for style in STYLES:
            with self.subTest(style), self.assertLogs("discosbackend", "ERROR") as logs:
                list(self.replies_in(style, lambda: (1430922782.5, "ok"), b"?status"))
            self.assertRegex(logs.output[0], "status.*'acquiring'")

    def replies_in(self, style: str, behaviour: Callable[[], Any], line: bytes) -> Iterator[bytes]:
        with mock.patch(f"{__name__}.STYLES", (style,)):
            for _, reply in self.replies(behaviour, line):
                yield reply

    def test_an_endless_iterable_ends(self) -> None:
        for endless in (itertools.count, lambda: itertools.repeat(1.5), lambda: iter(lambda: "x", "")):
            for style, reply in self.replies(endless, b"?get-tp0"):
                with self.subTest(style):
                    self.assertRegex(reply, rb"^!get-tp0,fail,reply too long[^,]*\r\n$")

    def test_the_longest_reply(self) -> None:
        # 511 bytes, CR LF included.
        room = 511 - len(b"!get-configuration,ok,\r\n")
        for style, reply in self.replies(lambda: "x" * room, b"?get-configuration"):
            with self.subTest(style):
                self.assertEqual((len(reply), reply[:23]), (511, b"!get-configuration,ok,x"))
        for style, reply in self.replies(lambda: "x" * (room + 1), b"?get-configuration"):
            with self.subTest(style):
                self.assertRegex(reply, rb"^!get-configuration,fail,reply too long[^,]*\r\n$")

    def test_no_reply_limit(self) -> None:
        class Wordy(Backend):
            def get_tp0(self) -> Any:
                return range(1000)

        wanted = b"!get-tp0,ok," + b",".join(b"%d" % number for number in range(1000)) + b"\r\n"
        self.assertEqual(asked(Wordy(), b"?get-tp0", reply_limit=None), wanted)

    def test_one_warning_for_commas(self) -> None:
        class Comma(Backend):
            def get_configuration(self) -> str:
                return "a,b"

            def get_filename(self) -> str:
                return "c,d"

        client = Client(DBProtocolHandler(Comma()))
        with self.assertLogs("discosbackend", "WARNING") as logs:
            for line in (b"?get-configuration", b"?get-filename") * 3:
                client.ask(line)
        self.assertEqual(len(logs.output), 2, logs.output)

    def test_a_coroutine_that_forgets_to_await(self) -> None:
        for paused in (False, True):
            for inner in (succeed(1.5), Deferred()):
                with self.subTest(repr(inner), paused=paused):
                    gate: Deferred[None] = Deferred()

                    class Forgetful(Backend):
                        async def get_tp0(self, state: Any = (paused, gate, inner)) -> Any:
                            paused, gate, inner = state
                            if paused:
                                await gate
                            return inner

                    reactor = FakeReactor()
                    client = Client(DBProtocolHandler(Forgetful(), reactor=reactor), reactor)
                    reply = client.ask(b"?get-tp0")
                    gate.callback(None)
                    reactor.pass_time(60)
                    # Whether somebody waits for it all the same is Twisted's choice; one reply is ours.
                    self.assertRegex(reply + client.answer(), rb"\A!get-tp0,(ok,1\.5|fail,[^,]+)\r\n\Z")

    @fewer(60)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
            lambda values: st.lists(values) | st.dictionaries(st.text(), values) | st.tuples(values, values),
            # Nearly all with more of them are too long for a reply.
            max_leaves=20,
        )
    )
    def test_whatever_is_returned_one_whole_line_is_sent(self, value: Any) -> None:
        backend, handler, reactor = self.serve("plain")
        backend.behaviour = lambda: value
        reply = Client(handler, reactor).ask(b"?get-tp0")
        self.assertRegex(reply, rb"\A!get-tp0,(ok|fail),[^\r\n\0\x1b]+\r\n\Z")
        self.assertLessEqual(len(reply), 511)


class SomethingElse(BaseException):
    """An exception of nobody's acquaintance."""


class Unprintable(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class UnprintableRefusal(BackendError):
    """A refusal whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def raising(problem: BaseException) -> Callable[[], Any]:
    """A behaviour that raises."""

    def behaviour() -> Any:
        raise problem

    return behaviour


def raising_midway(problem: BaseException) -> Callable[[], Any]:
    """A behaviour that returns a generator which raises after one value."""

    def behaviour() -> Iterator[float]:
        yield 1.5
        raise problem

    return behaviour


class ExceptionTests(StyleTestCase):
    """Every kind of exception in every style: one `fail`, and the device is free again."""

    def test_refusals(self) -> None:
        for problem, reason in [
            (BackendError("shift out of range"), b"shift out of range"),
            (HandlerException("shift out of range"), b"shift out of range"),
            (BackendError("two\r\n!lines,ok"), rb"two??!lines\,ok"),
            (BackendError("5 €"), b"5 ?"),
            (BackendError("ohne Maß"), b"ohne Ma\xdf"),
            (BackendError(""), GENERIC),
            (BackendError(), GENERIC),
            (BackendError("x" * 600), b"x" * (511 - len(b"!set-shift,fail,\r\n"))),
            (UnprintableRefusal("x"), GENERIC),
            # As an asyncio.TaskGroup raises them.
            (ExceptionGroup("", [BackendError("no answer")]), b"no answer"),
            (ExceptionGroup("", [ExceptionGroup("", [BackendError("first")]), BackendError("second")]), b"first"),
        ]:
            for midway in (raising, raising_midway):
                for style, reply in self.replies(midway(problem), b"?set-shift,1"):
                    with self.subTest(repr(problem), style=style, midway=midway.__name__):
                        self.assertEqual(reply, b"!set-shift,fail," + reason + b"\r\n")

    def test_unexpected_ones(self) -> None:
        for problem in (
            RuntimeError("internal"),
            TypeError("internal"),
            KeyError("internal"),
            OSError(5, "internal"),
            TimeoutError("internal"),
            MemoryError(),
            RecursionError("internal"),
            AssertionError("internal"),
            SystemExit(3),
            SystemExit("internal"),
            KeyboardInterrupt(),
            GeneratorExit("internal"),
            StopIteration("internal"),
            StopAsyncIteration("internal"),
            CancelledError("internal"),
            asyncio.CancelledError("internal"),
            SomethingElse("internal"),
            ExceptionGroup("", [BackendError("no answer"), ValueError("internal")]),
            BaseExceptionGroup("", [ExceptionGroup("", [BackendError("no answer")]), SystemExit(3)]),
            Unprintable(),
        ):
            for midway in (raising, raising_midway):
                for style, reply in self.replies(midway(problem), b"?set-shift,1"):
                    with self.subTest(repr(problem), style=style, midway=midway.__name__):
                        self.assertEqual(reply, b"!set-shift,fail," + GENERIC + b"\r\n")

    def test_reads_too(self) -> None:
        for problem in (RuntimeError("internal"), SystemExit(3), GeneratorExit(), StopIteration(1)):
            for style, reply in self.replies(raising(problem), b"?get-configuration"):
                with self.subTest(repr(problem), style=style):
                    self.assertEqual(reply, b"!get-configuration,fail," + GENERIC + b"\r\n")

    def test_the_traceback_goes_to_the_log_only_for_what_nobody_expected(self) -> None:
        def deep_down() -> None:
            raise ValueError("internal")

        for style in STYLES:
            with mock.patch(f"{__name__}.STYLES", (style,)), self.subTest(style):
                with self.assertLogs("discosbackend", "ERROR") as logs:
                    list(self.replies(deep_down, b"?set-shift,1"))
                [text] = logs.output
                self.assertIn("set-shift", text)
                self.assertIn("in deep_down", text)
                with self.assertLogs("discosbackend", "INFO") as logs:
                    list(self.replies(raising(BackendError("no way")), b"?set-shift,1"))
                self.assertNotIn("Traceback", "".join(logs.output))

    def test_a_deferred_that_has_failed_already(self) -> None:
        class Failing(Backend):
            def get_tp0(self) -> Any:
                return fail(BackendError("no input"))

            def get_rms(self) -> Any:
                return fail(RuntimeError("internal"))

        client = Client(DBProtocolHandler(Failing()))
        self.assertEqual(client.ask(b"?get-tp0"), b"!get-tp0,fail,no input\r\n")
        self.assertEqual(client.ask(b"?get-rms"), b"!get-rms,fail," + GENERIC + b"\r\n")


class HandleTests(unittest.TestCase):
    """What `handle` returns and raises (issue: public API)."""

    def test_a_message_where_the_backend_answers_at_once(self) -> None:
        handler = DBProtocolHandler(Behaving("plain", lambda: "unconfigured"))
        reply = handler.handle(request("get-configuration"))
        self.assertIs(type(reply), Message)
        self.assertEqual(
            reply,
            Message(message_type=REPLY, name="get-configuration", code="ok", arguments=["unconfigured"]),
        )

    def test_a_deferred_of_one_where_it_does_not(self) -> None:
        backend = Behaving("coroutine", lambda: 1.5)
        handler = DBProtocolHandler(backend, reactor=FakeReactor())
        got: list[Any] = []
        reply = handler.handle(request("get-tp0"))
        assert isinstance(reply, Deferred)
        reply.addBoth(got.append)
        self.assertEqual(got, [])
        backend.gate.callback(None)
        self.assertEqual(got, [Message(message_type=REPLY, name="get-tp0", code="ok", arguments=["1.5"])])

    def test_a_refusal_is_raised_or_fails_the_deferred(self) -> None:
        for style in ("plain", "coroutine"):
            with self.subTest(style):
                backend = Behaving(style, raising(BackendError("no way")))
                handler = DBProtocolHandler(backend, reactor=FakeReactor())
                problems: list[Any] = []
                if style == "plain":
                    with self.assertRaisesRegex(HandlerException, "^no way$"):
                        handler.handle(request("get-tp0"))
                else:
                    reply = handler.handle(request("get-tp0"))
                    assert isinstance(reply, Deferred)
                    backend.gate.callback(None)
                    reply.addErrback(problems.append)
                    self.assertIsInstance(problems[0].value, BackendError)

    def test_unknown_and_wrong_are_raised(self) -> None:
        handler = DBProtocolHandler(Behaving("plain", lambda: "unconfigured"))
        for message, reason in [
            (request("nonsense"), "invalid command 'nonsense'"),
            (request("status", "1"), "status needs no arguments"),
            (request("get-rms"), "not supported by this backend"),
        ]:
            with self.subTest(message.name), self.assertRaises(HandlerException) as caught:
                handler.handle(message)
            self.assertEqual(str(caught.exception), reason)


if __name__ == "__main__":
    unittest.main()
