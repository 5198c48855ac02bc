"""Tests of protocol: exactly one reply to each request, in order, whatever a handler does; and its length."""

from __future__ import annotations

import asyncio
import enum
import sys
import unittest
from collections.abc import Callable, Generator
from typing import Any, cast
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock

from discosbackend.backend import Backend, BackendError
from discosbackend.errors import GrammarException, UnsendableError
from discosbackend.grammar import FAIL, INVALID, REPLY, REQUEST, Message, parse_message
from discosbackend.handlers import AlwaysOkHandler, DBProtocolHandler, Handler, HandlerException
from discosbackend.protocol import DBFactory

from .in_memory import GENERIC, Later, Scripted, greeted, odd, ok, quiet


def setUpModule() -> None:
    quiet()


class Unprintable(HandlerException):
    """An exception that cannot be asked what happened."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Awaited:
    """An awaitable that is neither a coroutine nor a Deferred."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def __await__(self) -> Generator[Any, None, Any]:
        yield from succeed(None).__await__()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def raised(outcome: Any) -> Any:
    """`outcome`, or what it raises."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def fired(outcome: Any) -> Deferred[Any]:
    """A Deferred that has this outcome already."""
    return fail(outcome) if isinstance(outcome, BaseException) else succeed(outcome)


async def coroutine(outcome: Any) -> Any:
    """A coroutine that ends at once."""
    return raised(outcome)


class OneReplyTests(unittest.TestCase):
    """Each request gets exactly one reply, in the order of the requests, whatever a handler does."""

    # The ways in which a handler can come to the same outcome.
    STYLES: dict[str, Callable[[Any], Any]] = {
        "value": raised,
        "fired": fired,
        "chained": lambda outcome: succeed(None).addCallback(lambda _: fired(outcome)),
        "coroutine": coroutine,
        "awaitable": Awaited,
    }

    def check(self, outcome: Callable[[Message], Any], reply: bytes) -> None:
        """In every style, and with requests before and behind it."""
        for style, made in self.STYLES.items():
            with self.subTest(style, reply=reply):
                handler = odd(lambda message: made(outcome(message)))
                got = greeted(handler).ask(b"?a,1\r\n?odd,2\r\n?b,3\r\n")
                self.assertEqual(got, b"!a,ok,1\r\n" + reply + b"!b,ok,3\r\n")
                got = greeted(handler).ask(b"?a,1\r\n" + b"?odd,2\r\n" * 10 + b"?b,3\r\n")
                self.assertEqual(got, b"!a,ok,1\r\n" + reply * 10 + b"!b,ok,3\r\n")
        with self.subTest("unfired", reply=reply):
            later = Later()
            connection = greeted(odd(later))
            self.assertEqual(connection.ask(b"?a,1\r\n?odd,2\r\n?b,3\r\n"), b"!a,ok,1\r\n")
            message, deferred = later.waiting.pop()
            result = outcome(message)
            (deferred.errback if isinstance(result, BaseException) else deferred.callback)(result)
            self.assertEqual(connection.ask(b""), reply + b"!b,ok,3\r\n")

    def test_ok(self) -> None:
        self.check(ok, b"!odd,ok,2\r\n")

    def test_wrong_results(self) -> None:
        def changed(**fields: Any) -> Callable[[Message], Message]:
            def answer(message: Message) -> Message:
                reply = ok(message)
                for field, value in fields.items():
                    setattr(reply, field, value)
                return reply

            return answer

        def always(thing: object) -> Callable[[Message], Any]:
            return lambda _: thing

        things: tuple[object, ...] = (None, 0, 42, True, "", "!odd,ok", b"!odd,ok\r\n", [], {}, object)
        wrong: list[Callable[[Message], Any]] = [
            *(always(thing) for thing in things),
            lambda message: message,
            lambda message: [ok(message)],
            *(changed(message_type=kind) for kind in (REQUEST, "", "x", None)),
            *(changed(name=name) for name in ("a", "Odd", "", "odd ", None, 3)),
            *(changed(code=code) for code in ("", "OK", "other", "ok,x", None, 1)),
            *(
                changed(arguments=[text])
                for text in ("", "a\nb", "a\r\n!odd,ok", "\r", "\0", "\x1b", "\u20ac", "\ud800")
            ),
            *(changed(arguments=["a", thing]) for thing in (5, 1.5, None, b"x", ["a"], object())),
            changed(arguments=5),
        ]
        for answer in wrong:
            self.check(answer, b"!odd,fail,%s\r\n" % GENERIC)

    def test_refusals(self) -> None:
        for text, reason in [
            ("already acquiring", b"already acquiring"),
            ("a, b\\c\td", b"a\\, b\\\\c\\td"),
            ("caf\xe9", b"caf\xe9"),
            ("two\r\n!odd,ok,lines", b"two??!odd\\,ok\\,lines"),
            ("\0\x1b\u20ac\ud800", b"????"),
            ("\n", b"?"),
            ("", GENERIC),
        ]:
            for kind in (HandlerException, BackendError):
                self.check(lambda _: kind(text), b"!odd,fail,%s\r\n" % reason)
        self.check(lambda _: HandlerException(), b"!odd,fail,%s\r\n" % GENERIC)
        self.check(lambda _: Unprintable(), b"!odd,fail,%s\r\n" % GENERIC)

    def test_whatever_is_raised(self) -> None:
        class Own(BaseException):
            """Somebody's own."""

        for kind in (
            ValueError,
            StopIteration,
            RecursionError,
            MemoryError,
            CancelledError,
            GrammarException,
            UnsendableError,
            asyncio.CancelledError,
            SystemExit,
            KeyboardInterrupt,
            GeneratorExit,
            Own,
        ):
            with self.subTest(kind):
                self.check(lambda _: kind("secret"), b"!odd,fail,%s\r\n" % GENERIC)

    def test_replies_keep_the_order_of_requests(self) -> None:
        later = Later()
        connection = greeted(odd(later))
        self.assertEqual(connection.ask(b"?odd,1\r\n?x,2\r\n?odd,3\r\n?x,4\r\n?\r\n?odd,5\r\n?x,6\r\n"), b"")
        later.end()
        self.assertEqual(connection.ask(b"?x,7\r\n"), b"!odd,ok,1\r\n!x,ok,2\r\n")
        later.end()
        self.assertEqual(
            connection.ask(b"?x,8\r\n"),
            b"!odd,ok,3\r\n!x,ok,4\r\n!undefined,invalid,syntax error: name missing after ?\r\n",
        )
        later.end()
        self.assertEqual(connection.ask(b""), b"!odd,ok,5\r\n!x,ok,6\r\n!x,ok,7\r\n!x,ok,8\r\n")

    def test_handler_of_no_known_class(self) -> None:
        """As written for the original package; and what is no handler is refused before a server listens."""

        class Foreign:
            """Has what is called and nothing else."""

            def handle(self, message: Message) -> Message:
                return ok(message)

        connection = greeted(cast(Handler, Foreign()))
        self.assertEqual(connection.ask(b"?x,1\r\n"), b"!x,ok,1\r\n")
        self.assertEqual(connection.ask(b"?x," + b"a" * 504 + b"\r\n"), ReplyLimitTests.TOO_LONG)
        for thing in (None, object(), Backend(), "handler"):
            with self.subTest(thing), self.assertRaises(TypeError):
                DBFactory(cast(Handler, thing))

    def test_one_who_waits_keeps_nobody_waiting(self) -> None:
        later = Later()
        factory = DBFactory(odd(later), reactor=Clock())
        first, second = greeted(factory), greeted(factory)
        first.send(b"?odd\r\n")
        self.assertEqual(second.ask(b"?x\r\n?odd,2\r\n"), b"!x,ok\r\n")
        later.waiting.reverse()
        later.end()
        self.assertEqual((first.received(), second.received()), (b"", b"!odd,ok,2\r\n"))
        later.end()
        self.assertEqual((first.received(), second.received()), (b"!odd,ok\r\n", b""))

    def test_coroutine_that_waits(self) -> None:
        gate: Deferred[None] = Deferred()

        async def answer(message: Message) -> Message:
            await gate
            return ok(message)

        connection = greeted(odd(answer))
        self.assertEqual(connection.ask(b"?x\r\n?odd\r\n?x\r\n"), b"!x,ok\r\n")
        gate.callback(None)
        self.assertEqual(connection.ask(b""), b"!odd,ok\r\n!x,ok\r\n")

    def test_one_who_ends_what_another_waits_for(self) -> None:
        """As `stop` may end what another client waits for: that one is answered in the middle of a turn."""
        later = Later()

        def answer(message: Message) -> Any:
            if message.name == "wait":
                return later(message)
            if message.name == "end":
                later.end()
            return ok(message)

        factory = DBFactory(Scripted(answer), reactor=Clock())
        first, second = greeted(factory), greeted(factory)
        first.send(b"?wait,1\r\n?wait,2\r\n")
        for _ in range(2):
            self.assertEqual(second.ask(b"?x\r\n?end\r\n?x\r\n"), b"!x,ok\r\n!end,ok\r\n!x,ok\r\n")
        self.assertEqual(first.received(), b"!wait,ok,1\r\n!wait,ok,2\r\n")

    def test_thousands_at_once(self) -> None:
        """No recursion, in whatever style they are answered."""
        count = 3 * sys.getrecursionlimit()
        for style, made in self.STYLES.items():
            with self.subTest(style):
                connection = greeted(Scripted(lambda message: made(ok(message))))
                self.assertEqual(connection.ask(b"?x\r\n" * count), b"!x,ok\r\n" * count)


class ReplyLimitTests(unittest.TestCase):
    """No reply exceeds 511 bytes with its CR LF: deployed clients read into 512 without a bounds check."""

    TOO_LONG = b"!x,fail,reply too long: a reply has at most 511 bytes\r\n"

    @staticmethod
    def limited(limit: int | None, answer: Callable[[Message], Any] = ok) -> Handler:
        handler = Scripted(answer)
        handler.reply_limit = limit
        return handler

    def test_edge(self) -> None:
        for arguments, length in [
            (b",%s", 503),
            (b",a,%s", 501),
            (b",\\\\\\,\\t%s", 497),
            (b"," + b"\\," * 250 + b"%s", 3),
            (b"," + b"\xe9" * 500 + b"%s", 3),
            (b",a" * 250 + b",%s", 3),
        ]:
            with self.subTest(arguments[:9]):
                connection = greeted(AlwaysOkHandler())
                fits = arguments % (b"b" * length)
                reply = b"!x,ok" + fits + b"\r\n"
                self.assertEqual(len(reply), 511)
                self.assertEqual(connection.ask(b"?x" + fits + b"\r\n"), reply)
                self.assertEqual(connection.ask(b"?x" + fits + b"b\r\n"), self.TOO_LONG)
                self.assertEqual(connection.ask(b"?x,1\r\n"), b"!x,ok,1\r\n")

    def test_raw_tab_is_sent_escaped(self) -> None:
        """So a reply can be longer than the request that it echoes."""
        connection = greeted(AlwaysOkHandler())
        self.assertEqual(connection.ask(b"?x,a" + b"\t" * 251 + b"\r\n"), b"!x,ok,a" + b"\\t" * 251 + b"\r\n")
        self.assertEqual(connection.ask(b"?x,aa" + b"\t" * 251 + b"\r\n"), self.TOO_LONG)

    def test_whenever_it_is_answered(self) -> None:
        later = Later()
        connection = greeted(odd(later))
        connection.send(b"?odd\r\n")
        later.end("a" * 600)
        self.assertEqual(connection.received(), self.TOO_LONG.replace(b"!x", b"!odd"))

    def test_backend(self) -> None:
        class Many:
            """An instrument with more inputs than a reply has room for."""

            def get_tpi(self) -> list[float]:
                return [1.5] * 126

            def get_rms(self) -> list[float]:
                return [1.5] * 124

        connection = greeted(DBProtocolHandler(Many()))
        self.assertEqual(connection.ask(b"?get-tpi\r\n"), self.TOO_LONG.replace(b"!x", b"!get-tpi"))
        self.assertEqual(connection.ask(b"?get-rms\r\n"), b"!get-rms,ok" + b",1.5" * 124 + b"\r\n")

    def test_failure_texts_are_shortened(self) -> None:
        """To what just fits, and an escape is never cut in two."""

        def answered(code: str, text: str) -> Callable[[Message], Message]:
            return lambda message: Message(message_type=REPLY, name=message.name, code=code, arguments=[text, "b"])

        def refused(text: str) -> Callable[[Message], Any]:
            return lambda _: fail(HandlerException(text))

        for text in (
            "a" * 1000,
            "," * 1000,
            "a" + "," * 1000,
            "\\" * 1000,
            "aa\t" * 1000,
            "a" * 499 + ",\t",
            "\xe9" * 502,
        ):
            for limit in (511, 510, 128, 2000):
                for code, answer in [
                    (FAIL, refused(text)),
                    (FAIL, answered(FAIL, text)),
                    (INVALID, answered(INVALID, text)),
                ]:
                    with self.subTest(text[:4], limit=limit, code=code):
                        line = greeted(self.limited(limit, answer)).ask(b"?x\r\n")
                        self.assertLessEqual(len(line), limit)
                        reply = parse_message(line.decode("latin-1"))
                        self.assertEqual((reply.name, reply.code), ("x", code))
                        if len(line) < limit - 1:
                            self.assertEqual(reply.arguments[0], text, "it is shortened only when it has to be")
                        else:
                            self.assertTrue(text.startswith(reply.arguments[0]))

    def test_whole_shortened_lines(self) -> None:
        for text, reply in [
            ("a" * 502, b"!x,fail," + b"a" * 501 + b"\r\n"),
            ("a" * 501, b"!x,fail," + b"a" * 501 + b"\r\n"),
            ("a" * 500 + ",,", b"!x,fail," + b"a" * 500 + b"\r\n"),
            ("a" * 499 + ",,", b"!x,fail," + b"a" * 499 + b"\\,\r\n"),
            ("a" * 499 + "\u20ac\n\n", b"!x,fail," + b"a" * 499 + b"??\r\n"),
        ]:
            with self.subTest(text[498:]):
                self.assertEqual(greeted(Scripted(lambda _: fail(HandlerException(text)))).ask(b"?x\r\n"), reply)

    def test_no_limit(self) -> None:
        self.assertEqual(
            greeted(self.limited(None)).ask(b"?x," + b"a" * 10000 + b"\r\n"),
            b"!x,ok," + b"a" * 10000 + b"\r\n",
        )
        refusing = self.limited(None, lambda _: fail(HandlerException("a," * 5000)))
        self.assertEqual(greeted(refusing).ask(b"?x\r\n"), b"!x,fail," + b"a\\," * 5000 + b"\r\n")

    def test_another_limit(self) -> None:
        name = b"n" * 64
        connection = greeted(self.limited(128))
        self.assertEqual(connection.ask(b"?x," + b"a" * 120 + b"\r\n"), b"!x,ok," + b"a" * 120 + b"\r\n")
        self.assertEqual(connection.ask(b"?x," + b"a" * 121 + b"\r\n")[:16], b"!x,fail,reply to")
        reply = connection.ask(b"?" + name + b"," + b"a" * 121 + b"\r\n")
        self.assertTrue(reply.startswith(b"!" + name + b",fail,reply too long"))
        self.assertLessEqual(len(reply), 128)

    def test_a_limit_that_nothing_fits_into(self) -> None:
        """Exactly one whole line nevertheless: nothing may keep a server from its other clients."""
        for limit in (0, 5, 9, 10, 11, 20):
            for text in ("aaa", ",,,", ""):
                with self.subTest(limit, text=text):
                    handler = self.limited(limit, lambda _: fail(HandlerException(text)))
                    reply = greeted(handler).ask(b"?x\r\n")
                    self.assertEqual(parse_message(reply.decode()).code, FAIL)


class OwnHandleTests(unittest.TestCase):
    """The server asks a DBProtocolHandler without a Message on the way; not one whose `handle` was replaced."""

    class Meter(Backend):
        """Has one command."""

        def get_configuration(self) -> str:
            return "TP"

    REQUESTS = b"?get-configuration\r\n?get-configuration,1\r\n?nope\r\n"

    def test_a_subclass(self) -> None:
        asked: list[str] = []

        class Watched(DBProtocolHandler):
            """Remembers what it was asked, answers one command itself, and says more than the backend does."""

            def handle(self, message: Message) -> Any:
                asked.append(str(message))
                if message.name == "nope":
                    return ok(message, "yes")
                reply = super().handle(message)
                assert isinstance(reply, Message)
                reply.arguments.append("more")
                return reply

        self.assertEqual(
            greeted(Watched(self.Meter())).ask(self.REQUESTS),
            b"!get-configuration,ok,TP,more\r\n!get-configuration,fail,get-configuration needs no arguments\r\n"
            b"!nope,ok,yes\r\n",
        )
        self.assertEqual(asked, ["?get-configuration", "?get-configuration,1", "?nope"])

    def test_an_instance(self) -> None:
        handler = DBProtocolHandler(self.Meter())
        handler.handle = lambda message: ok(message, "mine")  # type: ignore[method-assign]
        self.assertEqual(greeted(handler).ask(b"?nope\r\n"), b"!nope,ok,mine\r\n")

    def test_one_that_stands_for_another(self) -> None:
        """It has what a server needs, `handle`, and that is the other's."""

        class Stand:
            """A handler of the original's kind, around another."""

            def __init__(self, inner: Handler) -> None:
                self.handle = inner.handle
                self.start = inner.start
                self.stop = inner.stop

        for inner in (DBProtocolHandler(self.Meter()), AlwaysOkHandler()):
            factory = DBFactory(Stand(inner), reactor=Clock())  # type: ignore[arg-type]
            code = b"ok" if isinstance(inner, AlwaysOkHandler) else b"fail,invalid command 'nope'"
            self.assertEqual(greeted(factory).ask(b"?nope\r\n"), b"!nope,%s\r\n" % code)

    def test_a_factory_keeps_its_handler(self) -> None:
        """What it asks is settled when it is made, so that another one must not seem to be taken."""
        factory = DBFactory(AlwaysOkHandler(), reactor=Clock())
        with self.assertRaises(AttributeError):
            factory.handler = AlwaysOkHandler()  # type: ignore[misc]

    def test_texts_instead_of_a_message_are_no_reply(self) -> None:
        class Short(DBProtocolHandler):
            """Returns the values only."""

            def handle(self, message: Message) -> Any:
                return ["TP"]

        self.assertEqual(
            greeted(Short(self.Meter())).ask(b"?get-configuration\r\n"),
            b"!get-configuration,fail,%s\r\n" % GENERIC,
        )

    def test_a_method_with_the_name_execute_is_not_called(self) -> None:
        """Only handle() is what a handler of the original package has to have."""

        class Original:
            """Not derived from Handler."""

            def handle(self, message: Message) -> Message:
                return ok(message, "mine")

            def execute(self) -> None:
                raise AssertionError

            def start(self) -> None:
                """Nothing."""

            stop = start

        class Derived(DBProtocolHandler):
            """Has a helper of this name."""

            def execute(self) -> None:  # type: ignore[override]
                raise AssertionError

        self.assertEqual(greeted(DBFactory(Original(), reactor=Clock())).ask(b"?x\r\n"), b"!x,ok,mine\r\n")  # type: ignore[arg-type]
        self.assertEqual(greeted(Derived(self.Meter())).ask(b"?get-configuration\r\n"), b"!get-configuration,ok,TP\r\n")

    def test_one_around_another_is_asked_itself(self) -> None:
        class Recording:
            """Passes on everything but handle()."""

            def __init__(self, inner: Handler) -> None:
                self.inner = inner
                self.asked: list[str] = []

            def __getattr__(self, name: str) -> Any:
                return getattr(self.inner, name)

            def handle(self, message: Message) -> Any:
                self.asked.append(message.name)
                return self.inner.handle(message)

        proxy: Any = Recording(DBProtocolHandler(self.Meter()))
        self.assertEqual(greeted(DBFactory(proxy, reactor=Clock())).ask(self.REQUESTS).count(b"\n"), 3)
        self.assertEqual(proxy.asked, ["get-configuration", "get-configuration", "nope"])

    def test_the_limit_is_that_of_the_outer_one(self) -> None:
        class Long(Backend):
            def get_configuration(self) -> str:
                return "x" * 400

        class Around:
            """Has a limit of its own."""

            reply_limit = 200

            def __init__(self, inner: Handler) -> None:
                self.handle = inner.handle
                self.start = inner.start
                self.stop = inner.stop

        factory = DBFactory(Around(DBProtocolHandler(Long())), reactor=Clock())  # type: ignore[arg-type]
        reply = greeted(factory).ask(b"?get-configuration\r\n")
        self.assertEqual(reply, b"!get-configuration,fail,reply too long: a reply has at most 200 bytes\r\n")

    def test_a_limit_that_is_changed_later(self) -> None:
        handler = DBProtocolHandler(self.Meter())
        connection = greeted(handler)
        handler.reply_limit = 128
        self.assertLessEqual(len(connection.ask(b"?" + b"x" * 60 + b"," + b"y" * 60 + b"\r\n")), 128)
        handler.backend.get_configuration = lambda: (_ for _ in ()).throw(BackendError("z" * 400))
        handler = DBProtocolHandler(handler.backend)
        connection = greeted(handler)
        handler.reply_limit = 128
        self.assertEqual(len(connection.ask(b"?get-configuration\r\n")), 128)

    def test_a_command_that_is_replaced_later(self) -> None:
        handler = DBProtocolHandler(self.Meter())
        connection = greeted(handler)
        for number in (1, 2):
            handler.commands["x"] = lambda texts, number=number: number  # type: ignore[misc]
            self.assertEqual(connection.ask(b"?x\r\n"), b"!x,ok,%d\r\n" % number)

    def test_a_class_that_is_changed_later(self) -> None:
        class Late(DBProtocolHandler):
            """Gets its handle() after the class statement."""

        with mock.patch.object(Late, "handle", lambda self, message: ok(message, "late")):
            self.assertEqual(greeted(Late(self.Meter())).ask(b"?x\r\n"), b"!x,ok,late\r\n")

    def test_a_code_of_an_enum(self) -> None:
        class Code(str, enum.Enum):
            """Text that formats as something else."""

            FAIL = "fail"

        for reason in ("why", "r" * 600):
            handler = Scripted(
                lambda message, reason=reason: Message(  # type: ignore[misc]
                    message_type=REPLY, name=message.name, code=Code.FAIL, arguments=[reason]
                )
            )
            reply = greeted(handler).ask(b"?a\r\n?b\r\n")
            pattern = rb"^!a,fail,%s\w*\r\n!b,fail,%s\w*\r\n$" % ((reason[:1].encode(),) * 2)
            self.assertRegex(reply, pattern)

    def test_what_is_no_reply_to_the_request_is_named_in_the_log(self) -> None:
        for result in (
            None,
            Message(message_type=REQUEST, name="x", code="", arguments=[]),
            Message(message_type=REPLY, name="y", code="ok", arguments=[]),
            Message(message_type=REPLY, name="x", code="maybe", arguments=[]),
            Message(message_type=REPLY, name="x", code="", arguments=["odd"]),
        ):
            with self.subTest(result), self.assertLogs("discosbackend.protocol", "ERROR") as logs:
                replies = greeted(Scripted(lambda message, result=result: result)).ask(b"?x\r\n")  # type: ignore[misc]
                self.assertEqual(replies, b"!x,fail,%s\r\n" % GENERIC)
            self.assertIn(
                "x: the reply cannot be sent: the handler's result is not a reply to this request", logs.output[0]
            )

    def test_both_ways_say_the_same(self) -> None:
        class ByMessage(DBProtocolHandler):
            """The same, the long way."""

            def handle(self, message: Message) -> Any:
                return super().handle(message)

        for kind in (DBProtocolHandler, ByMessage):
            with self.subTest(kind.__name__):
                self.assertEqual(
                    greeted(kind(self.Meter())).ask(self.REQUESTS),
                    b"!get-configuration,ok,TP\r\n"
                    b"!get-configuration,fail,get-configuration needs no arguments\r\n"
                    b"!nope,fail,invalid command 'nope'\r\n",
                )


if __name__ == "__main__":
    unittest.main()
