"""Judge: compares both sides of the connections through a tap with the protocol.

It gets the events of conversation.py, and collects findings. A finding is a violation if it breaks a rule. It is a note
if deployed clients do this too, or if the protocol permits it, but it is risky. The rules are in RULES.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from discosbackend.commands import COMMANDS, Command
from discosbackend.errors import GrammarException, HandlerException
from discosbackend.framing import Kind
from discosbackend.grammar import FAIL, OK, Message
from discosbackend.handlers import REPLY_LIMIT
from discosbackend.pairing import Greeting, Malformed, Misnamed, OutOfOrder, Surplus, TooLong
from discosbackend.tap.conversation import ClientLine, Closed, Opened, Request, ServerLine
from discosbackend.values import TYPES

__all__ = ["PATIENCE", "RULES", "Finding", "Judge", "Rule"]

logger = logging.getLogger(__name__)

PATIENCE = 100.0
"""How long the deployed clients wait for a reply, in s. A command with a longer time limit may take that long."""

# Commands of MISTRAL, which the protocol names but does not define (protocol section 4.1).
_OF_MISTRAL = frozenset(("setup", "vna-sweep", "target-sweep", "reset"))
# What a script of the telescopes sends after `convert-data` (protocol section 9.3).
_HABITS = (b"", b"quit")
# The form of a timestamp in a reply: Unix seconds, with decimals.
_UNIX_SECONDS = re.compile(r"[0-9]{1,11}\.[0-9]+")

# How many lines of a connection a finding quotes, and how many bytes of each.
_LAST_LINES = 12
_SHOWN_BYTES = 200
# How many findings of one rule are listed. Further ones are counted together.
_MOST_FINDINGS = 50
_OTHERS = "others"
# How many names of a backend's own commands are remembered.
_MOST_NAMES = 1000


class Rule(NamedTuple):
    """A rule that a finding refers to."""

    id: str
    """`server/...` or `client/...`: the side that it is about."""
    section: str
    """The section of the protocol."""
    requirement: str
    """A sentence of that section."""
    is_note: bool = False
    """Whether it is a note, not a violation."""
    is_habit: bool = False
    """Whether no document requires it, but the deployed clients depend on it."""


_ONE_REPLY = "Each request gets exactly one reply, and on one connection the replies come in the order of the requests."
_EXACT = "The forms of this section are exact: there are no blanks, no `_` between digits, and only ASCII digits."

RULES = {
    rule.id: rule
    for rule in (
        Rule("server/line-end", "1.3", "The server ends every line that it sends with CR LF."),
        Rule("server/only-replies", "1.8", "Apart from the greeting and the replies, the server sends nothing."),
        Rule("server/no-reply-too-many", "1.8", _ONE_REPLY),
        Rule("server/no-reply-missing", "1.8", _ONE_REPLY),
        Rule("server/order", "1.8", _ONE_REPLY),
        Rule("server/name-of-the-request", "1.8", _ONE_REPLY),
        Rule("server/reply-length", "5.8", "So a reply has at most 511 bytes, CR LF included.", is_habit=True),
        Rule("server/reply-fields", "3", _EXACT),
        Rule(
            "server/in-time",
            "9.2",
            "These components wait 100 s for a reply (one installation of SKARAB 900 s), and 300 s for a connection.",
            is_habit=True,
        ),
        Rule(
            "client/messages",
            "5.2",
            "A line that is not a message is answered with `invalid`, and the connection stays open.",
        ),
        Rule(
            "client/known-commands",
            "5.3",
            "An unknown command is answered with `!<name>,fail,invalid command '<name>'`.",
        ),
        Rule(
            "client/number-of-arguments",
            "4.2",
            "A request with the wrong number of arguments is answered with `fail`.",
        ),
        Rule("client/form-of-arguments", "3", _EXACT),
        Rule(
            "client/one-request-at-a-time",
            "1.8",
            "A client may send many requests without waiting for the replies.",
            is_note=True,
        ),
        Rule("client/waits-for-the-greeting", "9.2", "They never read the greeting after a reconnect.", is_note=True),
        Rule(
            "client/empty-line-and-quit",
            "9.3",
            "Later, a script sends `convert-data`: it pipes `?convert-data`, an empty line and `quit` through telnet "
            "and disconnects.",
            is_note=True,
        ),
    )
}
"""The rules by their ids, in the order of the report."""


@dataclass(slots=True)
class Finding:
    """What was found, how often, and where first."""

    rule: Rule
    text: str
    connection: int
    peer: str
    conversation: str
    """The last lines of the connection at that time."""
    count: int = 1

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times, first"
        return f"{self.text} ({times} on connection {self.connection} of {self.peer})"


@dataclass(slots=True)
class _Connection:
    number: int
    peer: str
    lines: deque[str] = field(default_factory=partial(deque, maxlen=_LAST_LINES))

    def note(self, what: str, line: bytes) -> None:
        cut = "" if len(line) <= _SHOWN_BYTES else f"... ({len(line)} bytes)"
        self.lines.append(f"{what:9} {line[:_SHOWN_BYTES]!r}{cut}")


class Judge:
    """Collects the findings about all connections. Give it to a TapFactory.

    Parameters
    ----------
    report
        Called with each Finding when it is new.

    Attributes
    ----------
    connections, client_lines, server_lines
        How many of them there were.
    """

    def __init__(self, report: Callable[[Finding], object] = lambda _: None) -> None:
        self._report = report
        self._found: dict[tuple[str, str], Finding] = {}
        self._open: dict[int, _Connection] = {}
        # Names of commands that the protocol does not have, and that the server has carried out.
        self._own: set[str] = set()
        self.connections = self.client_lines = self.server_lines = 0

    def __call__(self, event: Opened | ClientLine | ServerLine | Closed) -> None:
        """Judge an event."""
        if isinstance(event, ServerLine):
            self._server_line(self._open[event.connection], event)
        elif isinstance(event, ClientLine):
            self._client_line(self._open[event.connection], event)
        elif isinstance(event, Opened):
            self.connections += 1
            self._open[event.connection] = _Connection(event.connection, event.peer)
        else:
            self._closed(self._open.pop(event.connection), event)

    @property
    def findings(self) -> list[Finding]:
        """The findings, in the order of the rules."""
        order = list(RULES)
        return sorted(self._found.values(), key=lambda finding: order.index(finding.rule.id))

    @property
    def violations(self) -> int:
        """How many findings are violations."""
        return sum(not finding.rule.is_note for finding in self._found.values())

    def _add(self, connection: _Connection, rule: str, what: str, text: str) -> None:
        """Count a finding. Findings of the same rule with the same `what` are one."""
        found = self._found.get((rule, what))
        if found is None and sum(known == rule for known, _ in self._found) >= _MOST_FINDINGS:
            what, text = _OTHERS, f"{text}; and others"
            found = self._found.get((rule, what))
        if found is not None:
            found.count += 1
            return
        new = Finding(RULES[rule], text, connection.number, connection.peer, "\n".join(connection.lines))
        self._found[rule, what] = new
        self._report(new)

    # -- the client -----------------------------------------------------------------------------------

    def _client_line(self, connection: _Connection, event: ClientLine) -> None:
        self.client_lines += 1
        connection.note("sent", event.line)
        read = event.read
        shown = _shown(event.line)
        if read.kind is not Kind.REQUEST:
            if event.line in _HABITS:
                self._add(connection, "client/empty-line-and-quit", shown, f"{shown} was sent")
            else:
                problem = read.language or read.problem
                self._add(connection, "client/messages", problem, f"{shown}: {problem}")
            return
        if event.waiting:
            text = f"{shown} was sent before the reply to an earlier request"
            self._add(connection, "client/one-request-at-a-time", read.name, text)
        if not event.greeted:
            text = f"{shown} was sent before the greeting"
            self._add(connection, "client/waits-for-the-greeting", read.name, text)
        row = COMMANDS.get(read.name)
        if row is None:
            return
        try:
            row.parse(read.arguments)
        except HandlerException as problem:
            is_count = not _is_right_number(row, len(read.arguments))
            rule = "client/number-of-arguments" if is_count else "client/form-of-arguments"
            self._add(connection, rule, read.name, f"{shown}: {problem}")

    # -- the server -----------------------------------------------------------------------------------

    def _server_line(self, connection: _Connection, event: ServerLine) -> None:
        self.server_lines += 1
        line = event.event.line
        connection.note("received", line)
        for rule, what, text in self._about_server(event):
            self._add(connection, rule, what, text)

    def _about_server(self, line: ServerLine) -> Iterator[tuple[str, str, str]]:
        """Return the rules that a line of the server breaks, each with what and the text."""
        event, request, shown = line.event, line.request, _shown(line.event.line)
        name = "" if request is None else request.name
        if not event.crlf:
            yield "server/line-end", "", f"{shown} ends in LF alone"
        if isinstance(event, TooLong):
            yield "server/reply-length", name, f"{shown}... has more than {event.longest} bytes"
        elif len(event.line) + 2 > REPLY_LIMIT:
            yield "server/reply-length", name, f"{shown}... has {len(event.line) + 2} bytes"
        if isinstance(event, Malformed):
            yield "server/only-replies", event.problem, f"{shown}: {event.problem}"
        elif isinstance(event, Surplus):
            yield "server/no-reply-too-many", event.message.name, f"{shown} is a reply to no request"
        elif isinstance(event, OutOfOrder):
            yield "server/order", name, f"{shown} came before the reply to an earlier request"
        elif isinstance(event, Misnamed):
            asked = "" if request is None else _shown(request.line)
            yield "server/name-of-the-request", f"{name} {event.message.name}", f"{shown} came as the reply to {asked}"
        elif not isinstance(event, (Greeting, TooLong)) and request is not None:
            yield from self._about_reply(request, event.message, shown)
        if request is not None and line.seconds > _patience(request):
            yield "server/in-time", name, f"the reply to {_shown(request.line)} took {line.seconds:.1f} s"

    def _about_reply(self, request: Request, message: Message, shown: str) -> Iterator[tuple[str, str, str]]:
        row = COMMANDS.get(request.name)
        if row is not None:
            if message.code == OK and (problem := _wrong_values(row, message.arguments)):
                yield "server/reply-fields", request.name, f"{shown}: {problem}"
        elif request.read.kind is Kind.REQUEST:
            if message.code == OK and len(self._own) < _MOST_NAMES:
                self._own.add(request.name)
            if message.code == FAIL and request.name not in self._own | _OF_MISTRAL:
                text = f"{_shown(request.line)} is no command of the protocol, and was answered {shown}"
                yield "client/known-commands", request.name, text

    def _closed(self, connection: _Connection, event: Closed) -> None:
        if event.by_server and event.server_rest:
            text = f"the last line {_shown(event.server_rest)} has no end"
            self._add(connection, "server/line-end", "no end", text)
        if not event.unanswered:
            return
        oldest = event.unanswered[0]
        if event.by_server:
            text = f"the server closed the connection without a reply to {_shown(oldest.line)}"
            self._add(connection, "server/no-reply-missing", oldest.name, text)
        elif event.seconds > _patience(oldest):
            text = f"{_shown(oldest.line)} had no reply after {event.seconds:.1f} s, when the connection was closed"
            self._add(connection, "server/in-time", oldest.name, text)


def _shown(line: bytes) -> str:
    return repr(line[:80])


def _patience(request: Request) -> float:
    row = COMMANDS.get(request.name)
    return max(PATIENCE, (row.timeout if row is not None else None) or 0.0)


def _is_right_number(row: Command, count: int) -> bool:
    most = len(row.arguments)
    return count in (row.needed, most) if row.together else row.needed <= count <= most


def _wrong_values(row: Command, texts: list[str]) -> str:
    """Return what is wrong with the values of an `ok` reply, "" if nothing is. More values than fields are allowed."""
    fields = row.reply_fields(len(texts))
    if len(texts) < len(fields):
        return f"{len(texts)} values, where {row.name} has {len(fields)}"
    for each, text in zip(fields, texts, strict=False):
        parse: Callable[[str], Any] = TYPES[each.type][0]
        wanted = TYPES[each.type][1]
        try:
            parse(text)
        except (GrammarException, HandlerException, ValueError):
            return f"{each.name} {text[:40]!r} is not {wanted}"
        if each.type == "timestamp" and not _UNIX_SECONDS.fullmatch(text):
            return f"{each.name} {text[:40]!r} is not in Unix seconds with decimals"
    return ""
