"""Tests of grammar: one table of messages, written and read, and what is none (protocol section 2)."""

from __future__ import annotations

import enum
import re
import time
import unittest
from typing import Any, NamedTuple, cast

from hypothesis import example, given
from hypothesis import strategies as st

from discosbackend import errors, grammar
from discosbackend.grammar import (
    FAIL,
    INVALID,
    OK,
    REPLY,
    REQUEST,
    GrammarException,
    Message,
    escape,
    harmless,
    named_in,
    parse_message,
    parse_request,
    quoted,
    write_reply,
)

LONGEST_NAME = "n" * 64


class Case(NamedTuple):
    """A message and the text that stands for it."""

    text: str
    type: str
    name: str
    code: str = ""
    arguments: tuple[str, ...] = ()

    @property
    def message(self) -> Message:
        """The case's message, a new one each time."""
        return Message(message_type=self.type, name=self.name, code=self.code, arguments=self.arguments)


# Written and read: the left column is what the server sends, and what is read as the right ones.
CASES = (
    Case("?status", "?", "status"),
    Case("?a", "?", "a"),
    Case("?Z", "?", "Z"),
    Case("?a-", "?", "a-"),
    Case("?a--0", "?", "a--0"),
    Case("?" + LONGEST_NAME, "?", LONGEST_NAME),
    Case("?set-configuration,SK77", "?", "set-configuration", "", ("SK77",)),
    Case("?set-section,0,0,15,*,CP,30,16", "?", "set-section", "", ("0", "0", "15", "*", "CP", "30", "16")),
    Case("?x, ", "?", "x", "", (" ",)),
    Case("?x, a b ,c", "?", "x", "", (" a b ", "c")),
    Case("?x,?y,!z", "?", "x", "", ("?y", "!z")),
    Case("?x,ok", "?", "x", "", ("ok",)),
    Case("?x,\xe9\xff\x80\xa0", "?", "x", "", ("\xe9\xff\x80\xa0",)),
    Case("?x,\x01\x08\x0b\x0c\x0e\x1a\x1c\x7f", "?", "x", "", ("\x01\x08\x0b\x0c\x0e\x1a\x1c\x7f",)),
    Case("?x,\x85\u00ad", "?", "x", "", ("\x85\u00ad",)),
    Case(r"?x,\\", "?", "x", "", ("\\",)),
    Case(r"?x,\,", "?", "x", "", (",",)),
    Case(r"?x,\t", "?", "x", "", ("\t",)),
    Case(r"?x,a\,b,c", "?", "x", "", ("a,b", "c")),
    Case(r"?x,\\,\\\\", "?", "x", "", ("\\", "\\\\")),
    Case(r"?x,\\\,", "?", "x", "", ("\\,",)),
    Case(r"?x,\\t\t", "?", "x", "", ("\\t\t",)),
    Case(r"?x,\,,\,\,", "?", "x", "", (",", ",,")),
    Case(r"?x,C:\\new\\table", "?", "x", "", (r"C:\new\table",)),
    Case("!status,ok", "!", "status", "ok"),
    Case("!status,fail", "!", "status", "fail"),
    Case("!undefined,invalid,syntax error: a b", "!", "undefined", "invalid", ("syntax error: a b",)),
    Case("!version,ok,1.4", "!", "version", "ok", ("1.4",)),
    Case("!x,ok,ok,fail", "!", "x", "ok", ("ok", "fail")),
    Case("!status,ok,1430922782.9708830,ok,1", "!", "status", "ok", ("1430922782.9708830", "ok", "1")),
    Case(r"!x,fail,a\,b\\c\td", "!", "x", "fail", ("a,b\\c\td",)),
)

# Read, but never written like this: a raw tab.
READ_ONLY = (
    Case("?x,\t", "?", "x", "", ("\t",)),
    Case("?x,a\tb,\tc", "?", "x", "", ("a\tb", "\tc")),
    Case("!x,ok,a\tb", "!", "x", "ok", ("a\tb",)),
    Case("?x,\t\\t", "?", "x", "", ("\t\t",)),
)

# What is no message, whichever way it is read.
BAD = (
    "", "?", "!", "??", "?!", "status", "ok", " ?status", "\xff?status", "#status", "quit", "\t", "\0",
    "?1", "?-a", "?_a", "? a", "?a ", "?a b", "?a_b", "?a.b", "?a!", "?a?", "?\xe9", "?a\xb2", "?a\t", "?a\0",
    "?n\u0660", "?" + "n" * 65, "?" + "n" * 65 + ",x", "?,", "?,a", "?a\\t",
    "?a,", "?a,,", "?a,b,", "?a,,b", "?a,b,,c", "?a,\\,,",
    "?a,\\", "?a,b\\", "?a,\\\\\\", "?a,b,c\\", "?a,\\n", "?a,\\r", "?a,\\0", "?a,\\T", "?a,\\ ", "?a,\\x41",
    "?a,\\\t", "?a,b\\?", "?a,\\\xe9", "?a,b\0", "?a,\0", "?a,b\x1b[A", "?a,b\rc", "?a,b\nc", "?a,\r",
    "?a,\n",
    "?a\r", "?a\n", "?a\n\r", "?a\r\r\n", "?a\r\n\r\n", "?a,b\r\n\r\n", "?a,b\n", "?a,b\r\nx", "\r\n", "\n",
    "?a,\r\n", "?a,b\u0100", "?a,\u20ac", "?a,b\ud800", "?a,\U0001f52d",
    "!a", "!a,", "!a,,", "!a,OK", "!a,Ok", "!a,okay", "!a,ok ", "!a, ok", "!a,error", "!a,ok,", "!a,ok,,b",
    "!a,ok\n", "!a,ok\r", "!a,ok,b\n", "!a,ok,b\r\n\n", "!a,ok\r\n\r\n", "!a,1.0.1", "!1,ok", "!a b,ok",
    "!a,\\ok", "!,ok", "!a,fail,\\", "!a,o\\k", "!" + "n" * 65 + ",ok",
)  # fmt: skip

GROUPS = {
    "request": {"type", "name", "arguments", "linefeed"},
    "reply": {"type", "name", "code", "arguments", "linefeed"},
    "type": {"type"},
    "name": {"name"},
    "code": {"code"},
    "arguments": {"arguments"},
    "linefeed": {"linefeed"},
}

latin = st.characters(codec="latin-1", exclude_characters="\0\n\r\x1b")
specials = st.sampled_from("\\,\t?! *")
argument_texts = st.text(specials | latin, min_size=1)
lists_of_arguments = st.lists(argument_texts, max_size=6)
alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
names = st.builds(str.__add__, st.sampled_from(alphabet), st.text(alphabet + "0123456789-", max_size=63))
codes = st.sampled_from([OK, FAIL, INVALID])
messages = st.builds(
    lambda name, code, arguments: Message(
        message_type=REPLY if code else REQUEST, name=name, code=code, arguments=arguments
    ),
    names,
    codes | st.just(""),
    lists_of_arguments,
)
# Dense in what matters, so that messages, near misses and nonsense all come up.
lines = st.builds(
    str.__add__,
    st.sampled_from(["?", "?a", "?a,", "!a,ok", "!a,ok,", "!a,invalid,", "!", "!a", ""]),
    st.text(st.sampled_from("a-1,,,\\\\t\t !?\r\n\0\x1b\xff\u0100")),
)


def read_slowly(text: str) -> tuple[str, str, str, list[str]] | None:
    """The EBNF as a walk over the characters: type, name, code, arguments; None for what it rules out."""
    kind, code = text[:1], ""
    name, comma, rest = text[1:].partition(",")
    legal = kind in ("?", "!") and 1 <= len(name) <= 64 and name[0] in alphabet
    if not legal or any(character not in alphabet + "0123456789-" for character in name):
        return None
    if kind == "!":
        code, comma, rest = rest.partition(",")
        if code not in ("ok", "fail", "invalid"):
            return None
    arguments = arguments_slowly(rest) if comma else []
    return None if arguments is None else (kind, name, code, arguments)


def arguments_slowly(text: str) -> list[str] | None:
    """The arguments behind the first comma; None where there is one that the EBNF rules out."""
    arguments, at = [""], 0
    while at < len(text):
        character, at = text[at], at + 1
        if character == ",":
            arguments.append("")
        elif character == "\\":
            if text[at : at + 1] not in ("\\", "t", ","):
                return None
            arguments[-1] += "\t" if text[at] == "t" else text[at]
            at += 1
        elif character in "\0\n\r\x1b" or ord(character) > 255:
            return None
        else:
            arguments[-1] += character
    return arguments if all(arguments) else None


def parts(message: Message) -> tuple[str, str, str, list[str]]:
    """A message in the form of read_slowly."""
    return message.message_type, message.name, message.code, message.arguments


class Unwritable:
    """What somebody may put into a message by mistake."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        raise RuntimeError("no text")

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    def __iter__(self) -> None:
        raise RuntimeError("no items")


class ConstantsTests(unittest.TestCase):
    """The names that users of the original package import."""

    def test_values(self) -> None:
        self.assertEqual((grammar.REQUEST, grammar.REPLY, grammar.SEPARATOR), ("?", "!", ","))
        self.assertEqual((grammar.OK, grammar.FAIL, grammar.INVALID), ("ok", "fail", "invalid"))
        self.assertIs(grammar.GrammarException, errors.GrammarException)

    def test_regular_expressions(self) -> None:
        for name, groups in GROUPS.items():
            with self.subTest(name):
                text, pattern = getattr(grammar, f"{name}_re"), getattr(grammar, f"{name}_pattern")
                self.assertIsInstance(text, str)
                self.assertIsInstance(pattern, re.Pattern)
                self.assertEqual(pattern.pattern, text)
                self.assertEqual(set(pattern.groupindex), groups)
                self.assertIn(f"{name}_re", grammar.__all__)
                self.assertIn(f"{name}_pattern", grammar.__all__)

    def test_pieces_match_as_in_the_original(self) -> None:
        """Separators included: the original's own expressions were put together from these."""
        cases = (
            ("type", "?", "?"), ("type", "!", "!"), ("type", "#", None),
            ("name", "set-section", "set-section"),
            ("name", "1a", None), ("name", "", None), ("code", ",ok", "ok"), ("code", ",fail", "fail"),
            ("code", ",invalid", "invalid"), ("code", "ok", None), ("code", ",OK", None),
            ("arguments", ",a,b", "a,b"), ("arguments", r",a\,b", r"a\,b"), ("arguments", "", None),
            ("linefeed", "\r\n", "\r\n"), ("linefeed", "", None), ("linefeed", "\n", None),
        )  # fmt: skip
        for name, text, expected in cases:
            with self.subTest(name=name, text=text):
                match = getattr(grammar, f"{name}_pattern").match(text)
                self.assertEqual(match and match[name], expected)

    def test_whole_messages_match(self) -> None:
        for case in CASES + READ_ONLY:
            for end in ("", "\r\n"):
                with self.subTest(case.text, end=end):
                    request = grammar.request_pattern.match(case.text + end)
                    reply = grammar.reply_pattern.match(case.text + end)
                    self.assertEqual(request is not None, case.type == "?")
                    self.assertEqual(reply is not None, case.type == "!")
                    match = request or reply
                    assert match is not None
                    self.assertEqual((match["type"], match["name"]), (case.type, case.name))
                    self.assertEqual(match["linefeed"], end or None)
                    if reply is not None:
                        self.assertEqual(reply["code"], case.code)

    def test_nothing_else_matches(self) -> None:
        for text in BAD:
            with self.subTest(text):
                self.assertIsNone(grammar.request_pattern.match(text))
                self.assertIsNone(grammar.reply_pattern.match(text))


class ReadingTests(unittest.TestCase):
    """From text to message."""

    def test_parse_message(self) -> None:
        for case in CASES + READ_ONLY:
            for end in ("", "\r\n"):
                with self.subTest(case.text, end=end):
                    message = parse_message(case.text + end)
                    self.assertEqual(parts(message), (case.type, case.name, case.code, list(case.arguments)))
                    self.assertIs(message.is_request(), case.type == "?")
                    self.assertIs(message.is_reply(), case.type == "!")
                    self.assertTrue(message.check_synthax())

    def test_parse_request(self) -> None:
        """The server's way in: the line's end is gone already, and a reply is no request."""
        for case in CASES + READ_ONLY:
            with self.subTest(case.text):
                if case.type == "?":
                    self.assertEqual(parse_request(case.text), (case.name, case.arguments))
                    with self.assertRaises(GrammarException):
                        parse_request(case.text + "\r\n")
                else:
                    with self.assertRaises(GrammarException):
                        parse_request(case.text)

    def test_none_is_no_message(self) -> None:
        with self.assertRaises(GrammarException):
            parse_message(None)

    def test_bad_lines_are_refused_with_a_reason_that_clients_can_read(self) -> None:
        for text in BAD:
            for read in (parse_message, parse_request):
                with self.subTest(text, read=read.__name__):
                    with self.assertRaises(GrammarException) as caught:
                        read(text)
                    self.assert_readable(str(caught.exception))

    def assert_readable(self, reason: str) -> None:
        """Protocol section 5.5: lower case, printable ASCII, without a comma or `!`."""
        self.assertRegex(reason, r"\A[a-z][\x20-\x7e]{4,}\Z")
        self.assertNotIn(",", reason)
        self.assertNotIn("!", reason)

    def test_reasons_say_what_is_wrong(self) -> None:
        """With which value, as protocol section 5.1 asks: each of these words has to be in the reason."""
        cases = {
            "": ("empty",),
            "status": ("'s'", "?"),
            "\xe9a": ("0xE9", "?"),
            "\ufeff?a": ("0xFEFF", "?"),
            "?": ("name", "missing"),
            "?" + "n" * 65: ("name", "64"),
            "?1a": ("name", "'1a'"),
            "?a!b,c": ("name", "0x21"),
            "?a\xe9\xe8,c": ("name", "0xE9"),
            "?a,": ("argument 1", "empty"),
            "?a,b,,c": ("argument 2", "empty"),
            "?a,b,c,": ("argument 3", "empty"),
            "?a,\\n": ("escape", "argument 1", r"'\n'"),
            "?a,b,c\\!": ("escape", "argument 2", "0x21"),
            "?a,b,c\\": ("backslash", "argument 2"),
            "?a,\\,,b\0": ("0x00", "argument 2"),
            "?a,b\x1bc": ("0x1B", "argument 1"),
            "?a,b,\r": ("0x0D", "argument 2"),
            "?a,\u20ac": ("0x20AC", "argument 1"),
            "!a,OK": ("code", "'OK'"),
            "!a,ok,\\n": ("escape", "argument 1"),
        }
        for text, words in cases.items():
            with self.subTest(text), self.assertRaises(GrammarException) as caught:
                parse_message(text)
            for word in words:
                with self.subTest(text, word=word):
                    self.assertIn(word, str(caught.exception))

    def test_a_reason_stays_short(self) -> None:
        """A reply has 511 bytes, and what is wrong is told before that ends."""
        for text in ("?" + "$" * 16384, "?a," + "\\q" * 8000, "!a," + "x" * 16384, "x" * 16384):
            with self.subTest(text[:8]), self.assertRaises(GrammarException) as caught:
                parse_request(text)
            self.assertLess(len(str(caught.exception)), 200)

    def test_no_line_takes_long_to_refuse(self) -> None:
        """A line of 16 KiB that makes an expression try every way of dividing it stops every client."""
        for text in ("?a" + ",b" * 8190 + ",", "?a," + "b" * 16380 + "\0", "?a," + "\\," * 8190 + "\\",
                     "?a," + "b\\t" * 5460 + "\\", "!a,ok" + ",b" * 8180 + "\0", "?" + "a" * 16383,
                     "?a," + "\\\\" * 8190 + "\r"):  # fmt: skip
            began = time.process_time()
            for read in (parse_message, parse_request):
                with self.subTest(text[:8]), self.assertRaises(GrammarException):
                    read(text)
            named_in(text)
            self.assertLess(time.process_time() - began, 0.5)

    @given(lines)
    @example("?a,\\,")
    @example("!a,ok\\")
    def test_reads_what_the_ebnf_says(self, text: str) -> None:
        expected = read_slowly(text.removesuffix("\r\n"))
        try:
            found = parts(parse_message(text))
        except GrammarException as problem:
            self.assertIsNone(expected)
            self.assert_readable(str(problem))
        else:
            self.assertEqual(found, expected)
            self.assertEqual(str(parse_message(text)), text.removesuffix("\r\n").replace("\t", "\\t"))

    @given(lines | st.text(st.characters()))
    def test_a_request_is_what_parse_message_says(self, text: str) -> None:
        """parse_request is the same grammar: for the server, which knows that only a request may come."""
        expected = read_slowly(text)
        try:
            name, arguments = parse_request(text)
        except GrammarException as problem:
            self.assertTrue(expected is None or expected[0] == "!")
            self.assert_readable(str(problem))
        else:
            self.assertEqual(("?", name, "", list(arguments)), expected)


class WritingTests(unittest.TestCase):
    """From message to text."""

    def test_str(self) -> None:
        for case in CASES:
            with self.subTest(case.text):
                self.assertEqual(str(case.message), case.text)
                self.assertTrue(case.message.check_synthax())

    def test_raw_tab_is_never_written(self) -> None:
        for case in READ_ONLY:
            with self.subTest(case.text):
                self.assertEqual(str(case.message), case.text.replace("\t", "\\t"))

    def test_write_reply(self) -> None:
        for case in CASES:
            if case.type == "!":
                with self.subTest(case.text):
                    self.assertEqual(write_reply(case.name, case.code, case.arguments), case.text)

    def test_write_reply_refuses_what_the_grammar_cannot_carry(self) -> None:
        for argument in ("", "a\nb", "a\r\n", "\r\n", "\0", "\x1b", "\u0100", "\u20ac", "\ud800", "a\r\n!b"):
            for arguments in ([argument], ["a", argument], [argument, "a"]):
                with self.subTest(arguments), self.assertRaises(GrammarException) as caught:
                    write_reply("x", OK, arguments)
                self.assertTrue(str(caught.exception).isascii())

    def test_write_reply_refuses_another_reply(self) -> None:
        """A name or a code that would be read as something else."""
        for name, code in (
            ("a,ok", "ok"), ("a,ok", "fail"), ("a", "ok,b"), ("a", ""), ("a", "OK"), ("a", "ok\r\n"),
            ("", "ok"),
            ("1a", "ok"), ("a b", "ok"), ("n" * 65, "ok"), ("a\n!b", "ok"), ("a", "ok,"), ("a", "ok,\\"),
        ):  # fmt: skip
            for arguments in ([], ["b"]):
                with self.subTest(name=name, code=code), self.assertRaises(GrammarException):
                    write_reply(name, code, arguments)

    def test_a_code_that_prints_as_something_else(self) -> None:
        """What is remembered of one reply must not spoil the next."""

        class Code(str, enum.Enum):
            """Equal to a code, and written by format() as `Code.OK`."""

            OK = "ok"

        for code in (Code.OK, OK, Code.OK):
            self.assertEqual(write_reply("coded", code, ["x"]), "!coded,ok,x")
            self.assertEqual(write_reply("coded", code, iter(["x", "y"])), "!coded,ok,x,y")  # type: ignore[arg-type]

    def test_an_argument_that_prints_as_something_else(self) -> None:
        """It is sent, and shown, as the text that it is."""

        class Mode(str, enum.Enum):
            """Printed as `Mode.CP`."""

            CP = "C,P"

        message = Message(message_type=REPLY, name="x", code=OK, arguments=[Mode.CP])
        self.assertEqual((str(message), write_reply("x", OK, [Mode.CP])), (r"!x,ok,C\,P",) * 2)
        self.assertTrue(message.check_synthax())

    def test_write_reply_never_breaks_on_what_is_no_text(self) -> None:
        """A handler of one's own may put anything into a Message: it is refused or sent as str() has it.

        Anything else would cost the client its reply, and one too few shifts all that follow.
        """
        for arguments in ([5], [1.5, None], [b"x"], None, 5, [Unwritable()], Unwritable(), [["a"]]):
            message = Message(message_type=REPLY, name="x", code=OK)
            message.arguments = arguments  # type: ignore[assignment]
            with self.subTest(type(arguments).__name__):
                try:
                    text = write_reply("x", OK, arguments)  # type: ignore[arg-type]
                except GrammarException:
                    continue
                self.assertEqual(text, str(message))
                self.assertTrue(message.check_synthax())

    @given(names, codes, st.lists(st.text(st.characters()) | argument_texts, max_size=4))
    def test_write_reply_raises_or_parses_back(self, name: str, code: str, arguments: list[str]) -> None:
        can = all(a and not any(c in "\0\n\r\x1b" or ord(c) > 255 for c in a) for a in arguments)
        try:
            text = write_reply(name, code, arguments)
        except GrammarException:
            self.assertFalse(can)
        else:
            self.assertTrue(can)
            self.assertEqual(read_slowly(text), ("!", name, code, arguments))
            self.assertEqual(text.encode("latin-1").decode("latin-1"), text)
            for forbidden in "\r\n\0\x1b\t":
                self.assertNotIn(forbidden, text)

    @given(st.text(st.sampled_from("ab,ok\\\r\n1")), st.text(st.sampled_from("ok, \\\n")), lists_of_arguments)
    def test_write_reply_any_name_and_code(self, name: str, code: str, arguments: list[str]) -> None:
        try:
            text = write_reply(name, code, arguments)
        except GrammarException:
            return
        self.assertEqual(read_slowly(text), ("!", name, code, arguments))

    @given(messages)
    def test_message_to_text_and_back(self, message: Message) -> None:
        text = str(message)
        self.assertEqual(read_slowly(text), parts(message))
        self.assertEqual(parse_message(text), message)
        self.assertEqual(parse_message(text + "\r\n"), message)
        self.assertTrue(message.check_synthax())

    @given(names, lists_of_arguments)
    def test_text_to_message_and_back(self, name: str, arguments: list[str]) -> None:
        """With the escaping done by hand, and only where it must be."""
        wire = [a.replace("\\", "\\\\").replace(",", "\\,").replace("\t", "\\t") for a in arguments]
        text = ",".join(["?" + name, *wire])
        self.assertEqual(parts(parse_message(text)), ("?", name, "", arguments))
        self.assertEqual(str(parse_message(text)), text)
        self.assertEqual(list(map(escape, arguments)), wire)


class MessageTests(unittest.TestCase):
    """What architecture.md promises to users of the original's Message."""

    def setUp(self) -> None:
        self.request = Message(message_type=REQUEST, name="req")
        self.reply = Message(message_type=REPLY, name="req", code=OK)

    def test_defaults(self) -> None:
        self.assertEqual(parts(self.request), ("?", "req", "", []))
        self.assertIsInstance(self.request.arguments, list)

    def test_keyword_only(self) -> None:
        with self.assertRaises(TypeError):
            cast(Any, Message)(REQUEST, "req")
        with self.assertRaises(TypeError):
            Message(message_type=REQUEST)  # type: ignore[call-arg]
        with self.assertRaises(TypeError):
            Message(name="req")  # type: ignore[call-arg]

    def test_arguments_belong_to_one_message(self) -> None:
        self.request.arguments.append("a")
        self.assertEqual(Message(message_type=REQUEST, name="req").arguments, [])
        given_arguments = ["b"]
        message = Message(message_type=REQUEST, name="req", arguments=given_arguments)
        message.arguments.append("c")
        self.assertEqual(given_arguments, ["b"])

    def test_mutable(self) -> None:
        self.reply.message_type, self.reply.name, self.reply.code = REPLY, "other", FAIL
        self.reply.arguments = ["a,b"]
        self.reply.arguments.append("c")
        self.assertEqual(str(self.reply), r"!other,fail,a\,b,c")
        self.reply.message_type = REQUEST
        self.assertTrue(self.reply.is_request())
        self.assertEqual(str(self.reply), r"?other,a\,b,c")

    def test_types(self) -> None:
        self.assertTrue(self.request.is_request())
        self.assertFalse(self.request.is_reply())
        self.assertTrue(self.reply.is_reply())
        self.assertFalse(self.reply.is_request())
        self.reply.message_type = "^"
        self.assertFalse(self.reply.is_reply() or self.reply.is_request())

    def test_equality(self) -> None:
        for field, value in (("message_type", "!"), ("name", "other"), ("code", "ok"), ("arguments", ["a"])):
            with self.subTest(field):
                other = Message(message_type=REQUEST, name="req")
                self.assertEqual(other, self.request)
                setattr(other, field, value)
                self.assertNotEqual(other, self.request)
        self.assertNotEqual(self.request, "?req")
        with self.assertRaises(TypeError):
            hash(self.request)

    def test_repr_shows_every_field(self) -> None:
        self.reply.arguments = ["a\r\nb"]
        text = repr(self.reply)
        for piece in ("'!'", "'req'", "'ok'", r"'a\r\nb'"):
            self.assertIn(piece, text)
        self.assertNotIn("\n", text)

    def test_is_correct_reply(self) -> None:
        for code in (OK, FAIL, INVALID):
            for arguments in ([], ["a"], ["a,b\\\t"]):
                with self.subTest(code, arguments=arguments):
                    reply = Message(message_type=REPLY, name="req", code=code, arguments=arguments)
                    self.assertIs(reply.is_correct_reply(self.request), True)

    def test_is_no_correct_reply(self) -> None:
        for field, value in (
            ("message_type", "?"), ("message_type", "^"), ("name", "other"), ("name", "Req"),
            ("name", "req "),
            ("code", ""), ("code", "OK"), ("code", "badcode"), ("code", "ok,a"), ("arguments", [""]),
            ("arguments", ["a\r\n"]), ("arguments", ["a\n!b"]), ("arguments", ["\u20ac"]),
        ):  # fmt: skip
            with self.subTest(field, value=value):
                reply = Message(message_type=REPLY, name="req", code=OK)
                setattr(reply, field, value)
                self.assertIs(reply.is_correct_reply(self.request), False)
        self.assertIs(self.request.is_correct_reply(self.request), False)

    def test_no_correct_reply_to_a_name_that_is_none(self) -> None:
        self.request.name = self.reply.name = "what a bad name!!"
        self.assertIs(self.reply.is_correct_reply(self.request), False)

    def test_check_synthax(self) -> None:
        cases: tuple[tuple[str, str, str, list[str], bool], ...] = (
            ("?", "a", "", [], True), ("?", "a", "", ["b,c"], True), ("!", "a", "ok", ["b"], True),
            ("!", "a", "invalid", ["\t"], True), ("!", "a", "", [], False), ("!", "a", "bad", [], False),
            ("^", "a", "ok", [], False), ("", "?a", "", [], False), ("", "a", "", [], False),
            ("?", "", "", [], False), ("?", "1", "", [], False), ("?", "a,b", "", [], False),
            ("!", "a,ok", "ok", [], False), ("!", "a", "ok,b", [], False), ("?", "a\r\n", "", [], False),
            ("?", "a", "", [""], False), ("?", "a", "", ["b", ""], False), ("?", "a", "", ["b\r\n"], False),
            ("!", "a", "ok\r\n", [], False), ("?", "a", "", ["\0"], False), ("?", "a", "", ["\u0100"], False),
            ("?a", "b", "", [], False), ("?", "n" * 64, "", [], True), ("?", "n" * 65, "", [], False),
        )  # fmt: skip
        for kind, name, code, arguments, expected in cases:
            with self.subTest(kind=kind, name=name, code=code, arguments=arguments):
                message = Message(message_type=kind, name=name, code=code, arguments=arguments)
                self.assertIs(message.check_synthax(), expected)

    def test_str_never_raises(self) -> None:
        for field in ("message_type", "name", "code", "arguments"):
            for value in (None, 5, b"x", object(), Unwritable(), [Unwritable()], [None, "a"], ["\u20ac\n"]):
                for kind in (REQUEST, REPLY):
                    with self.subTest(field, value=type(value).__name__, kind=kind):
                        message = Message(message_type=kind, name="x", code=OK, arguments=["a"])
                        setattr(message, field, value)
                        self.assertIsInstance(str(message), str)

    def test_str_leaves_out_the_line_end(self) -> None:
        self.assertEqual(str(parse_message("?a,b\r\n")), "?a,b")


class TextsTests(unittest.TestCase):
    """harmless, quoted and named_in."""

    def test_carriable(self) -> None:
        for text, expected in (
            ("a", True), (" ", True), ("\t", True), (",", True), ("\\", True), ("\xff", True), ("\x01", True),
            ("", False), ("\0", False), ("a\r", False), ("a\n", False), ("\x1b[", False), ("\u0100", False),
        ):  # fmt: skip
            with self.subTest(text):
                self.assertIs(bool(text) and harmless(text) == text, expected)

    @given(st.text(st.characters() | st.sampled_from("\0\r\n\x1b\t,\\")))
    def test_harmless_texts_can_be_carried(self, text: str) -> None:
        made = harmless(text)
        self.assertEqual(len(made), len(text))
        for was, now in zip(text, made, strict=True):
            self.assertEqual(now, "?" if was in "\0\r\n\x1b" or ord(was) > 255 else was)
        if text:
            self.assertEqual(parse_message(write_reply("x", FAIL, [made])).arguments, [made])

    def test_quoted(self) -> None:
        for text, expected in (
            ("soon", "'soon'"), ("", "''"), ("a!b,c", "'a?b?c'"), ("\xe9\t\r\n\0\u20ac", "'??????'"),
            ("a b", "'a b'"), ("\\", "'\\'"), ("\x7f~", "'?~'"),
        ):  # fmt: skip
            with self.subTest(text):
                self.assertEqual(quoted(text), expected)

    @given(st.text(st.characters(), max_size=300))
    def test_quoted_is_ascii_without_comma_and_exclamation_mark(self, text: str) -> None:
        made = quoted(text)
        self.assertRegex(made, r"\A'[\x20-\x7e]*'\Z")
        self.assertNotIn(",", made)
        self.assertNotIn("!", made)
        self.assertLess(len(made), 100)

    def test_named_in(self) -> None:
        """Protocol section 5.2: all between `?` and the first comma, or the end, where that is a name."""
        for text, expected in (
            ("?status", "status"), ("?status,", "status"), ("?a,,b", "a"), ("?a,\\q", "a"),
            ("?A-1,\r", "A-1"),
            ("?" + LONGEST_NAME + ",\x1b", LONGEST_NAME), ("?" + "n" * 65 + ",", ""), ("?", ""), ("?,a", ""),
            ("?a b,c", ""), ("? a", ""), ("?1,a", ""), ("?a\r", ""), ("?a\n,", ""), ("?a\\,b", ""), ("", ""),
            ("a,b", ""), ("!a,ok,,", ""), ("status", ""), ("?\xe9", ""), (" ?a", ""), ("??a", ""),
            ("?a\u0660", ""),
        ):  # fmt: skip
            with self.subTest(text):
                self.assertEqual(named_in(text), expected)


if __name__ == "__main__":
    unittest.main()
