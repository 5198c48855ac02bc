r"""The grammar of messages (protocol section 2): constants, escapes, and the conversion between text and Message.

This module uses no bytes, no sockets and no commands. Each production of the grammar has one regular expression:
`<name>_re` is its text, and `<name>_pattern` is the compiled expression.

    <message>   ::= <type> <name> <arguments> <eol>
    <type>      ::= "?" | "!"
    <name>      ::= alpha (alpha | digit | "-")*            ASCII, at most 64 characters
    <arguments> ::= ("" | "," <argument>) [<arguments>]
    <argument>  ::= (<plain> | <escape>)+                   never empty
    <plain>     ::= any character except <special>          latin-1
    <special>   ::= backslash | null | newline | carriage-return | escape (0x1B) | tab | comma
    <escape>    ::= "\" ( "\" | "t" | "," )

A raw tab is accepted in a received line, as a note in the document of the protocol allows. A tab is always sent as
`\t`.
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
    "NO_NAME",
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
NO_NAME = "undefined"
"""The name in the reply to a line that has no name of a command (protocol section 5.2)."""

# <type> ::= "?" | "!"
type_re = r"(?P<type>[?!])"
type_pattern = re.compile(type_re)

# <name> ::= alpha (alpha | digit | "-")*
name_re = r"(?P<name>[A-Za-z][A-Za-z0-9-]{0,63})"
name_pattern = re.compile(name_re)

# <code> ::= "ok" | "fail" | "invalid"
code_re = r",(?P<code>ok|fail|invalid)"
code_pattern = re.compile(code_re)

# <argument> ::= (<plain> | <escape>)+      a raw tab (0x09) is accepted, see above
_PLAIN = r"[\x01-\x09\x0b\x0c\x0e-\x1a\x1c-\x2b\x2d-\x5b\x5d-\xff]"
_ESCAPE = r"\\[\\t,]"
_argument_re = rf"(?:{_PLAIN}++|{_ESCAPE})++"
_argument_pattern = re.compile(_argument_re)

# <arguments> ::= ("" | "," <argument>) [<arguments>]
# The repetition is greedy, not possessive: in Python 3.11.0 to 3.11.4 a possessive one could match a final comma.
arguments_re = rf"(?:,(?P<arguments>{_argument_re}(?:,{_argument_re})*))?"
arguments_pattern = re.compile(arguments_re)

# <eol> ::= carriage-return newline         optional here: the server removes it before it parses a line
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
    """A request or a reply.

    It is mutable, and its values are not checked. check_synthax() checks them.

    Parameters
    ----------
    message_type
        REQUEST or REPLY.
    name
        The name of the command.
    code
        OK, FAIL or INVALID for a reply, "" for a request.
    arguments
        The arguments as texts without escapes, for example "a,b" for an argument that is sent as `a\\,b`.

    Examples
    --------
    >>> from discosbackend.grammar import OK, REPLY, Message
    >>> print(Message(message_type=REPLY, name="get-filename", code=OK, arguments=["a,b"]))
    !get-filename,ok,a\\,b
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
        """Return whether this is a request."""
        return self.message_type == REQUEST

    def is_reply(self) -> bool:
        """Return whether this is a reply."""
        return self.message_type == REPLY

    def is_correct_reply(self, request: Message) -> bool:
        """Return whether this is a valid reply with the name of the request. Any code is accepted."""
        return self.is_reply() and self.name == request.name and self.check_synthax()

    def check_synthax(self) -> bool:
        """Return whether the message is valid: parsing its text gives the same message."""
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
        """Return the message as text, with escapes, without the CR LF. It never raises."""
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
    """Parse a request or a reply.

    Parameters
    ----------
    text
        One line. It may end with CR LF.

    Returns
    -------
    message
        The message, with its arguments without escapes.

    Raises
    ------
    GrammarException
        If the text is not a message. The exception's text says why.

    Examples
    --------
    >>> from discosbackend.grammar import parse_message
    >>> parse_message("!get-integration,ok,40").arguments
    ['40']
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
    """Parse a request without its line end. Return its name and its arguments, without escapes.

    The server uses this instead of parse_message(), because it receives only requests. Raise GrammarException, with
    the reason, if the text is not a request.
    """
    match = request_pattern.match(text)
    if match is None or match["linefeed"]:
        raise GrammarException(_why_not(text))
    return match["name"], tuple(_split(match["arguments"]))


def write_reply(name: str, code: str, arguments: Sequence[str]) -> str:
    """Return a reply as text, without the CR LF. All its characters are in latin-1.

    Raise GrammarException if the text would not parse to the same reply.
    """
    head = _head(name, code)
    try:
        if not arguments:
            return head
        if not isinstance(arguments, (list, tuple)):
            arguments = list(arguments)
        joined = SEPARATOR.join(arguments)
        # Escape only if necessary: it takes as long as everything else here, and few replies need it.
        if "\\" in joined or "\t" in joined or joined.count(SEPARATOR) >= len(arguments):
            joined = SEPARATOR.join(map(escape, arguments))
    except Exception as problem:  # an object of the caller may raise anything
        raise GrammarException("arguments that are no texts") from problem
    text = f"{head},{joined}"
    if arguments_pattern.fullmatch(text, len(head)) is None:
        raise GrammarException(_why_not(text))
    return text


@lru_cache(maxsize=256)
def _head(name: str, code: str) -> str:
    """Return the beginning of a reply: its type, name and code."""
    if not isinstance(name, str) or name_pattern.fullmatch(name) is None or code not in CODES:
        raise GrammarException("name or code that is read as something else")
    # join, not format(): a subclass of str may override __format__.
    return "".join((REPLY, name, SEPARATOR, code))


def escape(argument: str) -> str:
    r"""Return an argument as it is sent: `\\` for a backslash, `\t` for a tab, `\,` for a comma."""
    if _TO_ESCAPE.search(argument) is None:
        return argument
    return _TO_ESCAPE.sub(lambda found: _ESCAPE_OF[found[0]], argument)


def harmless(text: str) -> str:
    """Replace every character that is not allowed in a message by `?`."""
    return _UNCARRIABLE.sub("?", text)


def quoted(text: str) -> str:
    """Quote a text of a client for the reason of a reply. The text is shortened to 64 characters.

    The result is printable ASCII without `!` and comma. One deployed client splits a reply at every comma, and another
    one stops at a `!`.
    """
    if len(text) > _LONGEST_QUOTE:
        text = text[:_LONGEST_QUOTE] + "..."
    return _quoted(text)


@lru_cache(maxsize=256)
def _quoted(text: str) -> str:
    return f"'{plain(text)}'"


def plain(text: str) -> str:
    """Replace each `!`, each comma, and each character that is not printable ASCII by `?`."""
    return _UNQUOTABLE.sub("?", text)


def named_in(text: str) -> str:
    """Return the name of the command in a line that is not a message, "" if there is none.

    The name is the text between `?` and the first comma. If there is no comma, it is the whole text after `?`. A text
    that is not a valid name is ignored (protocol section 5.2).
    """
    name = text[1:].partition(SEPARATOR)[0]
    return name if text[:1] == REQUEST and name_pattern.fullmatch(name) else ""


def _split(arguments: str | None) -> list[str]:
    """Split an <arguments> that is known to be valid. Return the texts without escapes."""
    if arguments is None:
        return []
    if "\\" not in arguments:
        return arguments.split(SEPARATOR)
    return [
        _ESCAPED.sub(lambda found: _CHARACTER_OF[found[1]], argument)
        for argument in _argument_pattern.findall(arguments)
    ]


def _text(value: object) -> str:
    """Return any value as text. It never raises, because str() of a message must not raise."""
    try:
        # str.__str__ for a str: str() of a member of an Enum that is also a str gives "Mode.CP".
        return str.__str__(value) if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001  # a __str__ of the caller may raise anything
        return f"<{type(value).__name__}>"


def _texts(arguments: Iterable[object] | None) -> list[str]:
    """Return the arguments of a Message as texts, even if an object of another type was assigned to it."""
    try:
        return [_text(argument) for argument in arguments or ()]
    except Exception:  # noqa: BLE001  # it is not iterable, or raises something else
        return [_text(arguments)]


def _why_not(text: str) -> str:
    """Return the reason why a text is not a message."""
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
    """Return one character for a reason: in quotes, or as a hexadecimal byte if quoted() would replace it."""
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
    """Return the reason why the text after a name and its comma is not an <arguments>."""
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
