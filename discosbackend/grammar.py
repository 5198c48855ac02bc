r"""Text to Message and back: the protocol's EBNF, its escapes and its constants (protocol section 2).

Pure: no bytes, no sockets, no commands. One regular expression stands under each production, and each
is offered twice, `<name>_re` as text and `<name>_pattern` compiled.

    <message>   ::= <type> <name> <arguments> <eol>
    <type>      ::= "?" | "!"
    <name>      ::= alpha (alpha | digit | "-")*            ASCII, at most 64 characters
    <arguments> ::= ("" | "," <argument>) [<arguments>]
    <argument>  ::= (<plain> | <escape>)+                   never empty
    <plain>     ::= character / <special>                   latin-1
    <special>   ::= backslash | null | newline | carriage-return | escape (0x1B) | tab | comma
    <escape>    ::= "\" ( "\" | "t" | "," )

A raw tab is accepted in what is read, as the document's note allows, and always written as `\t`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from discosbackend.errors import GrammarException

__all__ = [
    "CODES",
    "FAIL",
    "INVALID",
    "LINEFEED",
    "OK",
    "REPLY",
    "REQUEST",
    "SEPARATOR",
    "GrammarException",
    "Message",
    "arguments_pattern",
    "arguments_re",
    "code_pattern",
    "code_re",
    "escape",
    "harmless",
    "linefeed_pattern",
    "linefeed_re",
    "name_pattern",
    "name_re",
    "named_in",
    "parse_message",
    "parse_request",
    "quoted",
    "reply_pattern",
    "reply_re",
    "request_pattern",
    "request_re",
    "type_pattern",
    "type_re",
    "write_reply",
]

REQUEST = "?"
REPLY = "!"
SEPARATOR = ","
OK = "ok"
FAIL = "fail"
INVALID = "invalid"
CODES = (OK, FAIL, INVALID)
LINEFEED = "\r\n"

# <type> ::= "?" | "!"
type_re = r"(?P<type>[?!])"
type_pattern = re.compile(type_re)

# <name> ::= alpha (alpha | digit | "-")*
name_re = r"(?P<name>[A-Za-z][A-Za-z0-9-]{0,63})"
name_pattern = re.compile(name_re)

# <code> ::= "ok" | "fail" | "invalid"
code_re = r",(?P<code>ok|fail|invalid)"
code_pattern = re.compile(code_re)

# <argument> ::= (<plain> | <escape>)+      a raw tab (0x09) is let through, see above
_PLAIN = r"[\x01-\x09\x0b\x0c\x0e-\x1a\x1c-\x2b\x2d-\x5b\x5d-\xff]"
_ESCAPE = r"\\[\\t,]"
_argument_re = rf"(?:{_PLAIN}++|{_ESCAPE})++"
_argument_pattern = re.compile(_argument_re)

# <arguments> ::= ("" | "," <argument>) [<arguments>]
# The repetition is greedy, not possessive: Python 3.11.0 to 3.11.4 would let a possessive one end in a bare comma.
arguments_re = rf"(?:,(?P<arguments>{_argument_re}(?:,{_argument_re})*))?"
arguments_pattern = re.compile(arguments_re)

# <eol> ::= carriage-return newline         absent once a line has been cut out of the stream
linefeed_re = r"(?P<linefeed>\r\n)?"
linefeed_pattern = re.compile(linefeed_re)

request_re = rf"(?P<type>\?){name_re}{arguments_re}{linefeed_re}\Z"
request_pattern = re.compile(request_re)

reply_re = rf"(?P<type>!){name_re}{code_re}{arguments_re}{linefeed_re}\Z"
reply_pattern = re.compile(reply_re)

_TO_ESCAPE = re.compile(r"[\\,\t]")
_ESCAPED = re.compile(r"\\(.)")
_ESCAPE_OF = {"\\": r"\\", "\t": r"\t", ",": r"\,"}
_CHARACTER_OF = {"\\": "\\", "t": "\t", ",": ","}
_UNCARRIABLE = re.compile(r"[^\x01-\x09\x0b\x0c\x0e-\x1a\x1c-\xff]")
_UNQUOTABLE = re.compile(r"[^\x20-\x7e]|[!,]")
_LONGEST_QUOTE = 64


class Message:
    """A request or a reply. Mutable; nothing is checked until check_synthax() or parse_message().

    `message_type` is REQUEST or REPLY, `code` one of OK, FAIL, INVALID (only a reply has one), and
    `arguments` a list of texts without escapes: the argument `a,b` is the text "a,b", whatever the wire needs.
    """

    __slots__ = ("message_type", "name", "code", "arguments")

    message_type: str
    name: str
    code: str
    arguments: list[str]

    def __init__(self, *, message_type: str, name: str, code: str = "", arguments: Iterable[str] | None = None) -> None:
        self.message_type = message_type
        self.name = name
        self.code = code
        self.arguments = [] if arguments is None else list(arguments)

    def is_request(self) -> bool:
        """Whether this message asks for something."""
        return self.message_type == REQUEST

    def is_reply(self) -> bool:
        """Whether this message answers a request."""
        return self.message_type == REPLY

    def is_correct_reply(self, request: Message) -> bool:
        """Whether this is a reply of the request's name that parses, whatever its code."""
        return self.is_reply() and self.name == request.name and self.check_synthax()

    def check_synthax(self) -> bool:
        """Whether the message, written and read again, is the same message."""
        try:
            again = parse_message(str(self))
        except GrammarException:
            return False
        return (again.name, again.code, again.arguments) == (
            self.name,
            self.code,
            _texts(self.arguments),
        )

    def __str__(self) -> str:
        """The message as text, escapes included, without the CR LF. It never raises."""
        kind = _text(self.message_type)
        head = [kind + _text(self.name)]
        if kind == REPLY:
            head.append(_text(self.code))
        return SEPARATOR.join(head + [escape(text) for text in _texts(self.arguments)])

    def __repr__(self) -> str:
        return (
            f"Message(message_type={self.message_type!r}, name={self.name!r}, "
            f"code={self.code!r}, arguments={self.arguments!r})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # mutable, so it cannot be a key


def parse_message(text: str | None) -> Message:
    """Read a request or a reply; one trailing CR LF is accepted.

    GrammarException, with the reason, when the text is neither.
    """
    if not text:
        raise GrammarException("empty line")
    match = (reply_pattern if text[0] == REPLY else request_pattern).match(text)
    if match is None:
        raise GrammarException(_why_not(text))
    return Message(
        message_type=text[0],
        name=match["name"],
        code=match["code"] if text[0] == REPLY else "",
        arguments=_split(match["arguments"]),
    )


def parse_request(text: str) -> tuple[str, tuple[str, ...]]:
    """Read a request, cut off its line end, as its name and its argument texts.

    What parse_message does, for the server, which knows that only a request may come.
    GrammarException, with the reason, when it is none.
    """
    # Clients ask the same few things again and again: 0.1 us instead of 0.4.
    return _remembered_request(text) if len(text) <= _SHORT else _read_request(text)


def _read_request(text: str) -> tuple[str, tuple[str, ...]]:
    match = request_pattern.match(text)
    if match is None or match["linefeed"]:
        raise GrammarException(_why_not(text))
    return match["name"], tuple(_split(match["arguments"]))


# Long lines are not remembered: a peer could fill the memory with them.
_SHORT = 64
_remembered_request = lru_cache(maxsize=128)(_read_request)


def write_reply(name: str, code: str, arguments: Sequence[str]) -> str:
    """A reply as text without the CR LF, proven to parse again to the same reply.

    GrammarException when it would not, and UnicodeEncodeError never: the text is latin-1.
    """
    head = _head(name, code)
    try:
        if not arguments:
            return head
        if not isinstance(arguments, (list, tuple)):
            arguments = list(arguments)
        joined = SEPARATOR.join(arguments)
        # Escaping costs as much as all the rest, and few replies need it.
        if "\\" in joined or "\t" in joined or joined.count(SEPARATOR) >= len(arguments):
            joined = SEPARATOR.join(map(escape, arguments))
    except Exception as problem:  # a foreign object's own
        raise GrammarException("arguments that are no texts") from problem
    text = f"{head},{joined}"
    if arguments_pattern.fullmatch(text, len(head)) is None:
        raise GrammarException(_why_not(text))
    return text


@lru_cache(maxsize=256)
def _head(name: str, code: str) -> str:
    """What a reply begins with."""
    if not isinstance(name, str) or name_pattern.fullmatch(name) is None or code not in CODES:
        raise GrammarException("name or code that is read as something else")
    # Not by format(), which a text with a class of its own may answer with something else.
    return "".join((REPLY, name, SEPARATOR, code))


def escape(argument: str) -> str:
    """An argument as it stands on the wire: a backslash before each backslash, tab and comma."""
    if _TO_ESCAPE.search(argument) is None:
        return argument
    return _TO_ESCAPE.sub(lambda found: _ESCAPE_OF[found[0]], argument)


def harmless(text: str) -> str:
    """The text with every character that the grammar cannot carry replaced by `?`; "" stays ""."""
    return _UNCARRIABLE.sub("?", text)


def quoted(text: str) -> str:
    """Peer text as it may stand inside a reason: in quotes, printable ASCII, no `!`, no comma.

    A deployed client splits a reply at every comma, and another stops at a `!`.
    """
    if len(text) > _LONGEST_QUOTE:
        text = text[:_LONGEST_QUOTE] + "..."
    return "'" + _UNQUOTABLE.sub("?", text) + "'"


def named_in(text: str) -> str:
    """The command that a line which does not parse was meant for, "" if it names none.

    Protocol section 5.2: all between `?` and the first comma, or the end, where that is a name.
    """
    name = text[1:].partition(SEPARATOR)[0]
    return name if text[:1] == REQUEST and name_pattern.fullmatch(name) else ""


def _split(arguments: str | None) -> list[str]:
    """The texts of an <arguments> that is known to be right, without their escapes."""
    if arguments is None:
        return []
    if "\\" not in arguments:
        return arguments.split(SEPARATOR)
    return [
        _ESCAPED.sub(lambda found: _CHARACTER_OF[found[1]], argument)
        for argument in _argument_pattern.findall(arguments)
    ]


def _text(value: object) -> str:
    """What somebody put into a Message, as text; str() of a message must not raise."""
    try:
        # A text is what it is, not what its class prints: str() of an Enum that is one gives "Mode.CP".
        return str.__str__(value) if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001  # whatever a foreign __str__ raises
        return f"<{type(value).__name__}>"


def _texts(arguments: Iterable[object] | None) -> list[str]:
    """What somebody put into a Message as its arguments, as texts."""
    try:
        return [_text(argument) for argument in arguments or ()]
    except Exception:  # noqa: BLE001  # no list, whatever it raises instead
        return [_text(arguments)]


def _why_not(text: str) -> str:
    """Why a text is no message, for a reader who sees little more than its first word."""
    if not text:
        return "empty line"
    if text[0] not in (REQUEST, REPLY):
        return f"line begins with {_shown(text[0])} where ? is needed"
    name, separator, rest = text[1:].partition(SEPARATOR)
    if not name_pattern.fullmatch(name):
        return _why_no_name(name)
    if text[0] == REPLY:
        code, separator, rest = rest.partition(SEPARATOR)
        if code not in CODES:
            return f"code {quoted(code)} is none of ok fail invalid"
    if not separator:
        return "line end inside the message"
    return _why_no_arguments(rest)


def _shown(character: str) -> str:
    """One character as a reason names it: in quotes, or in hex where a quote would show `?` in its place."""
    return quoted(character) if _UNQUOTABLE.match(character) is None else f"byte 0x{ord(character):02X}"


def _why_no_name(name: str) -> str:
    if not name:
        return "name missing after ?"
    if len(name) > 64:
        return "name longer than 64 characters"
    if (odd := _UNQUOTABLE.search(name)) is not None:
        return f"{_shown(odd[0])} in the name is not allowed"
    return f"name {quoted(name)} is not a letter followed by letters digits and hyphens"


def _why_no_arguments(text: str) -> str:
    """Why the text behind a name and its comma is no <arguments>."""
    number, position = 1, 0
    while True:
        match = _argument_pattern.match(text, position)
        if match is None:
            break
        position = match.end()
        if text[position : position + 1] != SEPARATOR:
            break
        number, position = number + 1, position + 1
    where = f"in argument {number}"
    found = text[position : position + 2]
    if found[:1] == "\\":
        if len(found) == 1:
            return f"backslash at the end of argument {number}"
        if _UNQUOTABLE.match(found[1]):
            return f"escape of {_shown(found[1])} {where} is unknown"
        return f"escape {quoted(found)} {where} is unknown"
    if not found or found[0] == SEPARATOR:
        return f"argument {number} is empty"
    return f"character 0x{ord(found[0]):02X} {where} is not allowed"
