"""Replies: the one line that answers a request, whatever its handler did.

The gate that every reply passes on its way to the wire, and the table of which reply an error gets (protocol
sections 5.2 and 5.3). Always one line that parses, of the request's name, within the limit; when it is sent is
protocol's business.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

from twisted.python.failure import Failure

from discosbackend._version import __protocol_version__
from discosbackend.errors import GrammarException, HandlerException, ReplyTooLong, UnsendableError
from discosbackend.grammar import CODES, FAIL, INVALID, OK, REPLY, Message, escape, harmless, named_in, write_reply
from discosbackend.rate_limited_logger import RateLimitedLogger

__all__ = ["GREETING", "UNEXPECTED", "Replies"]

GREETING = write_reply("version", OK, [__protocol_version__]).encode("latin-1")
"""What every new connection is sent: the reply to `version`."""

UNEXPECTED = "Request could not be handled correctly"
"""The reason of a `fail` whose cause is nobody's business but the log's."""

# The name in the reply to a line that names no command.
_UNDEFINED = "undefined"


class Replies:
    """Makes replies of at most `limit` bytes, CR LF included (None: of any length), as bytes without their CR LF.

    What is refused or went wrong is logged through `rate_limited_logger`, with the command's name and that of the peer,
    which is written only if it comes to that. `of_texts` says what the handler makes: the arguments of an `ok`
    reply, or else a Message.
    """

    def __init__(self, limit: int | None, rate_limited_logger: RateLimitedLogger, *, of_texts: bool = False) -> None:
        self._limit = limit
        self._log = rate_limited_logger.log
        self._of_texts = of_texts

    def answer(self, name: str, outcome: object, peer: object) -> bytes:
        """The reply for what a handler returned, or for what it raised or failed with. It never raises itself."""
        try:
            if self._of_texts and isinstance(outcome, list):
                return self._written(name, OK, outcome)
            if isinstance(outcome, Failure):
                problem = cast(BaseException, outcome.value)
                return self.failed(name, problem, peer, outcome.getTracebackObject())
            if isinstance(outcome, BaseException):
                return self.failed(name, outcome, peer)
            return self._of_message(name, outcome)
        except BaseException:  # noqa: BLE001  # a foreign object that cannot be printed
            self._log(logging.ERROR, "failure", "%s failed, and so did telling why", name)
            return self.refusal(name, FAIL, UNEXPECTED)

    def _of_message(self, name: str, reply: object) -> bytes:
        """What a handler returned, if it is a reply of this name that the wire can carry."""
        if (
            not isinstance(reply, Message)
            or reply.message_type != REPLY
            or reply.name != name
            or reply.code not in CODES
        ):
            self._log(logging.ERROR, "wrong reply", "%s: the handler's result is no reply to it: %r", name, reply)
            return self.refusal(name, FAIL, UNEXPECTED)
        return self._written(name, reply.code, reply.arguments)

    def _written(self, name: str, code: str, arguments: Sequence[str]) -> bytes:
        """The gate: every reply of a handler is proven to parse, and to be short enough."""
        try:
            text = write_reply(name, code, arguments)
        except GrammarException as problem:
            self._log(logging.ERROR, "wrong reply", "%s: its reply cannot be sent: %s: %r", name, problem, arguments)
            return self.refusal(name, FAIL, UNEXPECTED)
        if self._limit is not None and len(text) + 2 > self._limit:
            if code == OK:
                return self.failed(name, ReplyTooLong(self._limit))
            return self.refusal(name, code, arguments[0])
        return text.encode("latin-1")

    def failed(self, name: str, problem: BaseException, peer: object = "", traceback: Any = None) -> bytes:
        """The `fail` for what a handler raised. What nobody expected leaves its traceback in the log.

        `traceback` is given where somebody else kept it: older Twisted takes it off the exception.
        """
        if isinstance(problem, HandlerException):
            level = logging.WARNING if isinstance(problem, ReplyTooLong) else logging.INFO
            reason = _reason(problem)
            self._log(level, "fail", "%s refused: %s: %r", peer or "request", name, reason)
            return self.refusal(name, FAIL, reason)
        if isinstance(problem, UnsendableError):
            self._log(logging.ERROR, "unsendable", "%s: what the backend returned: %s", name, problem)
        else:
            trace = (type(problem), problem, traceback or problem.__traceback__)
            self._log(logging.ERROR, "failure", "%s failed", name, exc_info=trace)
        return self.refusal(name, FAIL, UNEXPECTED)

    def invalid(self, text: str, problem: str, peer: object) -> bytes:
        """The `invalid` for a line that is no message."""
        self._log(logging.INFO, "invalid", "%s sent no message: %s: %r", peer, problem, text[:80])
        return self.refusal(named_in(text) or _UNDEFINED, INVALID, f"syntax error: {problem}")

    def refusal(self, name: str, code: str, reason: str) -> bytes:
        """A reply that says why not: always one line, shortened to the limit."""
        head = f"{REPLY}{name},{code},"
        reason = harmless(reason) or UNEXPECTED
        escaped = escape(reason)
        if self._limit is not None and len(head) + len(escaped) + 2 > self._limit:
            # Two for a limit that has no room for a reason: it is never empty, and may be one that is escaped.
            available = max(self._limit - 2 - len(head), 2)
            while len(escaped) > available:
                reason = reason[: min(available, len(reason) - 1)]
                escaped = escape(reason)
        return f"{head}{escaped}".encode("latin-1")


def _reason(problem: HandlerException) -> str:
    """The text of a refusal, "" where it has none that can be had."""
    try:
        return str(problem)
    except BaseException:  # noqa: BLE001  # whatever a foreign __str__ raises
        return ""
