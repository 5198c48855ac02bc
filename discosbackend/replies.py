"""Replies: the line that answers a request, for any result or exception of the handler.

Every reply is made here (protocol sections 5.2 and 5.3). It is always one valid line with the name of the request,
within the length limit. ReplyWriter makes the `ok` replies of a command, message_line() those of a handler that returns
Messages, and Failures everything else. connection.py sends them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any, Protocol, cast

from twisted.python.failure import Failure

from discosbackend._version import __protocol_version__
from discosbackend.cache import Cache
from discosbackend.commands import Command
from discosbackend.coroutines import asyncio_cure
from discosbackend.errors import GrammarException, HandlerException, ReplyTooLong, UnsendableError
from discosbackend.framing import Line
from discosbackend.grammar import (
    CODES,
    FAIL,
    INVALID,
    NO_NAME,
    OK,
    REPLY,
    Message,
    escape,
    harmless,
    parse_message,
    write_reply,
)
from discosbackend.log import shown_arguments
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger
from discosbackend.ticks import Ticks
from discosbackend.values import PlainTexts, texts

__all__ = [
    "GREETING",
    "REPLY_LIMIT",
    "UNEXPECTED",
    "Failures",
    "Peer",
    "ReplyWriter",
    "limit_of",
    "message_line",
    "reason_in",
    "refusal",
]

logger = logging.getLogger(__name__)

REPLY_LIMIT = 511
"""The length of the longest reply in bytes, with CR LF.

The deployed clients read a reply into a buffer of 512 bytes without a bounds check."""

GREETING = write_reply("version", OK, [__protocol_version__]).encode("latin-1")
"""The line that is sent on every new connection: the reply to `version`."""

UNEXPECTED = "Request could not be handled correctly"
"""The reason of a `fail` whose cause is only logged."""

# For how many commands a cure is logged. A peer can invent any number of names.
_MOST_CURES = 100

# More values, or longer replies, are left to values.texts(), which has bounds of its own.
_MANY = 1000
_LONG = 2**16

# The refusals of which more than the text matters.
_OTHER_REFUSALS = (ReplyTooLong, BaseExceptionGroup)

# Refusals with reasons up to this length are kept, and how many of them.
_SHORT_REASON = 200
_MOST_REFUSALS = 256

# The types of results that are one value, for which values.texts() need not be asked.
_SINGLE = frozenset((str, int, float, bool, Ticks))


class Peer(Protocol):
    """The connection that sent the request. Its str() is the address of the client."""

    host: str
    """The address without the port, because the port changes with every connection."""


class Limits(Protocol):
    """What a ReplyWriter uses of a handler."""

    reply_limit: int | None
    """The length of the longest reply in bytes, with CR LF. None: no limit."""


def _checked_text(text: str) -> str:
    """Return a text that is sent as it is. Raise ValueError for any other one."""
    # Every character is printable ASCII, so that nothing is forbidden, and nothing has to be escaped.
    if not text or not text.isascii() or not text.isprintable() or "," in text or "\\" in text:
        raise ValueError(text)
    return text


# A look-up takes a fifth of the time of the check.
_clean_text = Cache(_checked_text).__getitem__


class ReplyWriter:
    """Makes the `ok` replies of one command.

    Parameters
    ----------
    row
        The row of the table of commands.
    limits
        The handler. Its reply limit may be changed at any time.
    """

    __slots__ = ("_row", "_limits", "_head", "_writers", "_has_three", "_more", "_warned")

    def __init__(self, row: Command, limits: Limits) -> None:
        self._row = row
        self._limits = limits
        self._head = write_reply(row.name, OK, [])
        # For each field, the functions that make its text, by the exact type of the value. Their texts have no
        # character that must be escaped, because those of numbers and times never have one.
        self._writers: tuple[PlainTexts, ...] = tuple(
            {**field.plain, str: _clean_text} if str in field.plain else field.plain for field in row.reply
        )
        self._has_three = len(row.reply) == 3 and not row.reply[-1].repeated
        self._more = self._writers[-1:] if row.reply and row.reply[-1].repeated else ()
        self._warned = False

    def write(self, result: Any) -> bytes:
        """Return the reply, without CR LF.

        Parameters
        ----------
        result
            As for values.texts().

        Raises
        ------
        UnsendableError
            If the result cannot be sent.
        ReplyTooLong
            If the reply is longer than the limit.
        """
        line = self._head
        try:
            if self._has_three and type(result) is tuple:
                # Written out for `status`, the most frequent command: a loop takes twice the time.
                (first, second, third), (a, b, c) = self._writers, result
                line = f"{line},{first[type(a)](a)},{second[type(b)](b)},{third[type(c)](c)}"
            else:
                for writer, value in self._with_writers(result):
                    line += "," + writer[type(value)](value)
        except (KeyError, ValueError):
            return self._carefully(result)
        limit = self._limits.reply_limit
        if len(line) > (_LONG if limit is None else limit - 2):
            return self._carefully(result)
        return line.encode("ascii")

    def _with_writers(self, result: Any) -> Iterator[tuple[PlainTexts, Any]]:
        """Return each value with the functions of its field. Raise ValueError if values.texts() has to be asked."""
        kind = type(result)
        if kind is tuple or kind is list:
            values = result
        elif kind in _SINGLE:
            values = (result,)
        elif result is None:
            values = ()
        else:
            raise ValueError(result)
        writers = self._writers
        if len(values) != len(writers):
            if not self._more or not len(writers) < len(values) < _MANY:
                raise ValueError(result)
            writers += self._more * (len(values) - len(writers))
        return zip(writers, values)  # noqa: B905  # they have the same length

    def _carefully(self, result: Any) -> bytes:
        """Return the reply for a result that needs escapes, a conversion or an error."""
        limit = self._limits.reply_limit
        found = texts(result, self._row.reply, limit)
        if "," in "".join(found) and not self._warned:
            self._warned = True
            name = self._row.name
            logger.warning("a reply to %s contains a comma, sent as \\,: the deployed clients split there", name)
        return _ok_line(self._row.name, found, limit)


def limit_of(handler: object) -> int | None:
    """Return the reply limit of a handler: REPLY_LIMIT if it has none, as a handler for the original package."""
    return getattr(handler, "reply_limit", REPLY_LIMIT)


def message_line(name: str, reply: object, limit: int | None) -> bytes:
    """Return the line, without CR LF, for the Message that a handler has returned.

    Parameters
    ----------
    name
        The name in the request.
    reply
        The result of the handler.
    limit
        The length of the longest reply in bytes, with CR LF. None: no limit.

    Raises
    ------
    UnsendableError
        If the result is not a reply to this request, or not a valid one.
    ReplyTooLong
        If an `ok` reply is longer than the limit. The reason of a `fail` or `invalid` is shortened.
    """
    if not isinstance(reply, Message) or reply.message_type != REPLY or reply.name != name or reply.code not in CODES:
        raise UnsendableError(f"the handler's result is not a reply to this request: {reply!r}")
    if reply.code == OK:
        return _ok_line(name, reply.arguments, limit)
    # It may be a member of an Enum, whose text is another one.
    code = CODES[CODES.index(reply.code)]
    line = _line(name, code, reply.arguments)
    if limit is not None and len(line) + 2 > limit:
        return refusal(name, code, reply.arguments[0], limit)
    return line


def _ok_line(name: str, arguments: Sequence[str], limit: int | None) -> bytes:
    line = _line(name, OK, arguments)
    if limit is not None and len(line) + 2 > limit:
        raise ReplyTooLong(limit)
    return line


def _line(name: str, code: str, arguments: Sequence[str]) -> bytes:
    try:
        return write_reply(name, code, arguments).encode("latin-1")
    except GrammarException as problem:
        raise UnsendableError(f"{problem}: {arguments!r}") from problem


def refusal(name: str, code: str, reason: str, limit: int | None) -> bytes:
    """Return a reply with a reason. It is always one line, and the reason is shortened to the limit."""
    # Clients repeat the same few mistakes. The text of an exception may be a str with methods of its own.
    if type(reason) is str and len(reason) <= _SHORT_REASON:
        return _known_refusal(name, code, reason, limit)
    return _make_refusal(name, code, reason, limit)


def _make_refusal(name: str, code: str, reason: str, limit: int | None) -> bytes:
    head = f"{REPLY}{name},{code},"
    reason = harmless(reason) or UNEXPECTED
    escaped = escape(reason)
    if limit is not None and len(head) + len(escaped) + 2 > limit:
        # At least 2, even if the reply then exceeds the limit. A reason must not be empty, and an escape has two
        # characters.
        available = max(limit - 2 - len(head), 2)
        escaped = escape(reason := reason[:available])
        while (excess := len(escaped) - available) > 0:
            # Each character is sent as one or two, so that at least half of the excess has to go.
            escaped = escape(reason := reason[: -((excess + 1) // 2)])
    return f"{head}{escaped}".encode("latin-1")


_known_refusal = lru_cache(_MOST_REFUSALS)(_make_refusal)


class Failures:
    """Makes the replies to requests that are refused, fail or are invalid, and logs them.

    The arguments `peer`, `line` and `began` of the methods are for the log: the connection, the request, and the time
    of perf_counter() at which the request was received.

    Parameters
    ----------
    handler
        The handler. Its attribute `reply_limit` may be changed at any time; if it has none, the limit is REPLY_LIMIT.
    rate_limited_logger
        The logger.
    """

    def __init__(self, handler: object, rate_limited_logger: RateLimitedLogger) -> None:
        self._handler = handler
        self._limited = rate_limited_logger
        self._log = rate_limited_logger.log
        # The commands for whose failures a cure has been logged.
        self._cured: set[str] = set()

    def failed(self, name: str, outcome: BaseException | Failure, peer: Peer, line: bytes, began: float) -> bytes:
        """Return the `fail` for an exception of the handler. This method never raises an exception.

        Parameters
        ----------
        name
            The name of the command.
        outcome
            The exception, or the Failure of a Deferred.
        peer
            The connection.
        line
            The request.
        began
            When the request was received, in s of perf_counter().
        """
        try:
            if isinstance(outcome, HandlerException) and not isinstance(outcome, _OTHER_REFUSALS):
                # Nearly all failures are refusals.
                return self.refused(name, _reason(outcome), peer, line, began)
            if isinstance(outcome, Failure):
                # The traceback is taken from the Failure, because older versions of Twisted remove it elsewhere.
                problem, traceback = cast(BaseException, outcome.value), outcome.getTracebackObject()
                return self._failed(name, problem, peer, line, began, traceback)
            return self._failed(name, outcome, peer, line, began, outcome.__traceback__)
        except BaseException:  # noqa: BLE001  # a __str__ or __repr__ of the backend may raise anything
            self._log(logging.ERROR, "failure", "%s from %s failed, and the cause cannot be printed", name, peer)
            return self.refusal(name, UNEXPECTED)

    def _failed(
        self, name: str, problem: BaseException, peer: Peer, line: bytes, began: float, traceback: Any
    ) -> bytes:
        """Return the `fail` for an exception. An unexpected exception is logged with its traceback."""
        if isinstance(problem, BaseExceptionGroup) and (refusals := _refusals_in(problem)):
            # Of an asyncio.TaskGroup: two boards that do not answer are one refusal.
            problem = refusals[0]
        if isinstance(problem, ReplyTooLong):
            text = "%s from %s%s -> fail %r"
            self._log(logging.WARNING, "too long", text, name, peer, shown_arguments(line), str(problem))
            return self.refusal(name, str(problem))
        if isinstance(problem, HandlerException):
            return self.refused(name, _reason(problem), peer, line, began)
        if isinstance(problem, UnsendableError):
            self._log(logging.ERROR, "unsendable", "%s: the reply cannot be sent: %s", name, problem)
        else:
            trace = (type(problem), problem, traceback or problem.__traceback__)
            text = "%s from %s failed%s"
            self._log(logging.ERROR, "failure", text, name, peer, shown_arguments(line), exc_info=trace)
            if len(self._cured) < _MOST_CURES and name not in self._cured and (cure := asyncio_cure(problem)):
                self._cured.add(name)
                logger.error("%s failed, and has to be changed: %s", name, cure)
        return self.refusal(name, UNEXPECTED)

    def refused(self, name: str, reason: str, peer: Peer, line: bytes, began: float) -> bytes:
        """Return the `fail` for a refused request, and log it."""
        self.log_refusal(name, reason, peer, line, began)
        return self.refusal(name, reason)

    def log_refusal(self, name: str, reason: str, peer: Peer, line: bytes, began: float) -> None:
        """Log a refused request, at most five times a minute per host and command."""
        # All unknown names are one kind, because a peer can invent any number of them.
        what = "invalid commands" if reason.startswith("invalid command ") else name
        if self._limited.admit(logging.INFO, (what, "refused for", peer.host), MINUTE):
            seconds = perf_counter() - began
            text = "%s from %s%s -> fail %r in %.3f s"
            self._limited.logger.info(text, name, peer, shown_arguments(line), reason, seconds)

    def refusal(self, name: str, reason: str) -> bytes:
        """Return a `fail` with a reason, and do not log it."""
        return refusal(name, FAIL, reason, limit_of(self._handler))

    def invalid(self, line: bytes, read: Line, peer: Peer) -> bytes:
        """Return the `invalid` for a line that is not a message."""
        text = line[:80].decode("latin-1")
        self._log(logging.INFO, "invalid", "%s sent an invalid line: %s: %r", peer, read.problem, text)
        return refusal(read.name or NO_NAME, INVALID, f"syntax error: {read.problem}", limit_of(self._handler))


def reason_in(reply: bytes) -> str:
    """Return the first argument of a valid `fail` or `invalid` reply, "" if it has none."""
    arguments = parse_message(reply.decode("latin-1")).arguments
    return arguments[0] if arguments else ""


def _refusals_in(group: BaseExceptionGroup[Any]) -> list[HandlerException]:
    """Return the refusals in a group; none if the group has any other exception too."""
    found: list[HandlerException] = []
    for problem in group.exceptions:
        inner = _refusals_in(problem) if isinstance(problem, BaseExceptionGroup) else [problem]
        if not inner or not all(isinstance(each, HandlerException) for each in inner):
            return []
        found += inner
    return found


def _reason(problem: HandlerException) -> str:
    """Return the text of a refusal, "" if its __str__ raises."""
    try:
        return str(problem)
    except BaseException:  # noqa: BLE001  # a __str__ of the backend may raise anything
        return ""
