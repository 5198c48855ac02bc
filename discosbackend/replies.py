"""Replies: the line that answers a request, for any result or exception of the handler.

Every reply is checked here before it is sent, and every error gets its reply here (protocol sections 5.2 and 5.3). The
result is always one valid line with the name of the request, within the length limit. protocol.py sends it.
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
"""The line that is sent on every new connection: the reply to `version`."""

UNEXPECTED = "Request could not be handled correctly"
"""The reason of a `fail` whose cause is only logged."""

# The name in the reply to a line that has no name of a command.
_UNDEFINED = "undefined"


class Replies:
    """Makes replies, as bytes without CR LF.

    Parameters
    ----------
    limit
        The length of the longest reply in bytes, with CR LF. None: no limit.
    rate_limited_logger
        Logs refusals and errors, with the names of the command and of the peer. The peer is formatted only if the
        line is logged.
    of_texts
        Whether the handler returns a list with the arguments of an `ok` reply. Default: it returns a Message.
    """

    def __init__(self, limit: int | None, rate_limited_logger: RateLimitedLogger, *, of_texts: bool = False) -> None:
        self._limit = limit
        self._log = rate_limited_logger.log
        self._of_texts = of_texts

    def answer(self, name: str, outcome: object, peer: object) -> bytes:
        """Return the reply for the result, the exception or the Failure of a handler. It never raises."""
        try:
            if self._of_texts and isinstance(outcome, list):
                return self._written(name, OK, outcome)
            if isinstance(outcome, Failure):
                problem = cast(BaseException, outcome.value)
                return self.failed(name, problem, peer, outcome.getTracebackObject())
            if isinstance(outcome, BaseException):
                return self.failed(name, outcome, peer)
            return self._of_message(name, outcome)
        except BaseException:  # noqa: BLE001  # an object of the handler raises when it is formatted
            self._log(logging.ERROR, "failure", "%s failed, and so did telling why", name)
            return self.refusal(name, FAIL, UNEXPECTED)

    def _of_message(self, name: str, reply: object) -> bytes:
        """Return the Message of a handler as a reply, or a `fail` if it is not a valid reply with this name."""
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
        """Return the reply as bytes, or a `fail` if it does not parse or is too long."""
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
        """Return the `fail` for an exception of the handler. The traceback of an unexpected one is logged.

        Pass `traceback` if the exception comes from a Failure: older Twisted removes it from the exception.
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
        """Return the `invalid` reply for a line that is not a message."""
        self._log(logging.INFO, "invalid", "%s sent no message: %s: %r", peer, problem, text[:80])
        return self.refusal(named_in(text) or _UNDEFINED, INVALID, f"syntax error: {problem}")

    def refusal(self, name: str, code: str, reason: str) -> bytes:
        """Return a reply with a reason. It is always one line, and the reason is shortened to the limit."""
        head = f"{REPLY}{name},{code},"
        reason = harmless(reason) or UNEXPECTED
        escaped = escape(reason)
        if self._limit is not None and len(head) + len(escaped) + 2 > self._limit:
            # At least two, even if that exceeds the limit: the reason is never empty, and an escape has two characters.
            available = max(self._limit - 2 - len(head), 2)
            while len(escaped) > available:
                reason = reason[: min(available, len(reason) - 1)]
                escaped = escape(reason)
        return f"{head}{escaped}".encode("latin-1")


def _reason(problem: HandlerException) -> str:
    """Return the text of a refusal, "" if its __str__ raises."""
    try:
        return str(problem)
    except BaseException:  # noqa: BLE001  # whatever a __str__ of the backend raises
        return ""
