"""Replies: the line that answers a request, for any result or exception of the handler.

Every reply is checked here before it is sent, and every error gets its reply here (protocol sections 5.2 and 5.3). The
result is always one valid line with the name of the request, within the length limit. protocol.py sends it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Protocol, cast

from twisted.python.failure import Failure

from discosbackend._version import __protocol_version__
from discosbackend.errors import GrammarException, HandlerException, ReplyTooLong, UnsendableError
from discosbackend.grammar import CODES, FAIL, INVALID, OK, REPLY, Message, escape, harmless, named_in, write_reply
from discosbackend.log import shown_arguments
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger

__all__ = ["GREETING", "UNEXPECTED", "Peer", "Replies"]

GREETING = write_reply("version", OK, [__protocol_version__]).encode("latin-1")
"""The line that is sent on every new connection: the reply to `version`."""

UNEXPECTED = "Request could not be handled correctly"
"""The reason of a `fail` whose cause is only logged."""

# The name in the reply to a line that has no name of a command.
_UNDEFINED = "undefined"


class Peer(Protocol):
    """The connection that sent the request. Its str() is the address of the client."""

    host: str
    """The address without the port, because the port changes with every connection."""


class Replies:
    """Makes replies, as bytes without CR LF, and logs refused and failed requests.

    The arguments `peer`, `line` and `began` of the methods are for the log: the connection, the request, and the time
    of perf_counter() at which the request was received.

    Parameters
    ----------
    limit
        The length of the longest reply in bytes, with CR LF. None: no limit.
    rate_limited_logger
        The logger.
    of_texts
        Whether the handler returns the arguments of an `ok` reply as a list. Otherwise it returns a Message.
    """

    def __init__(self, limit: int | None, rate_limited_logger: RateLimitedLogger, *, of_texts: bool = False) -> None:
        self._limit = limit
        self._limited = rate_limited_logger
        self._log = rate_limited_logger.log
        self._of_texts = of_texts

    def answer(self, name: str, outcome: object, peer: Peer, line: bytes, began: float) -> bytes:
        """Return the reply for the outcome of a request. It never raises an exception.

        Parameters
        ----------
        name
            The name of the command.
        outcome
            What the handler returned: arguments or a Message; or its exception or Failure.
        peer
            The connection.
        line
            The request.
        began
            When the request was received, in s of perf_counter().
        """
        try:
            if self._of_texts and isinstance(outcome, list):
                return self._written(name, outcome, peer, line)
            if isinstance(outcome, Failure):
                problem = cast(BaseException, outcome.value)
                return self._failed(name, problem, peer, line, began, outcome.getTracebackObject())
            if isinstance(outcome, BaseException):
                return self._failed(name, outcome, peer, line, began, outcome.__traceback__)
            return self._of_message(name, outcome, peer, line, began)
        except BaseException:  # noqa: BLE001  # a __str__ or __repr__ of the backend may raise anything
            self._log(logging.ERROR, "failure", "%s from %s failed, and the cause cannot be printed", name, peer)
            return self.refusal(name, FAIL, UNEXPECTED)

    def _of_message(self, name: str, reply: object, peer: Peer, line: bytes, began: float) -> bytes:
        """Return the reply for the result of a handler, which must be a Message that is a reply to this request."""
        if (
            not isinstance(reply, Message)
            or reply.message_type != REPLY
            or reply.name != name
            or reply.code not in CODES
        ):
            self._log(logging.ERROR, "wrong reply", "%s: the handler's result is not a reply to it: %r", name, reply)
            return self.refusal(name, FAIL, UNEXPECTED)
        if reply.code == FAIL and reply.arguments:
            self._log_refusal(name, reply.arguments[0], peer, line, began)
        return self._written(name, reply.arguments, peer, line, reply.code)

    def _written(self, name: str, arguments: Sequence[str], peer: Peer, line: bytes, code: str = OK) -> bytes:
        """Return a reply of the handler as bytes, or a `fail` if it is not valid or too long."""
        try:
            text = write_reply(name, code, arguments)
        except GrammarException as problem:
            self._log(logging.ERROR, "wrong reply", "%s: its reply cannot be sent: %s: %r", name, problem, arguments)
            return self.refusal(name, FAIL, UNEXPECTED)
        if self._limit is not None and len(text) + 2 > self._limit:
            if code == OK:
                reason = str(ReplyTooLong(self._limit))
                text = "%s from %s%s -> fail %r"
                self._log(logging.WARNING, "too long", text, name, peer, shown_arguments(line), reason)
                return self.refusal(name, FAIL, reason)
            return self.refusal(name, code, arguments[0])
        return text.encode("latin-1")

    def _failed(
        self, name: str, problem: BaseException, peer: Peer, line: bytes, began: float, traceback: Any
    ) -> bytes:
        """Return the `fail` for an exception of a handler. An unexpected exception is logged with its traceback.

        `traceback` is passed explicitly, because older versions of Twisted remove it from the exception.
        """
        if isinstance(problem, HandlerException):
            return self.refused(name, _reason(problem), peer, line, began)
        if isinstance(problem, UnsendableError):
            self._log(logging.ERROR, "unsendable", "%s: the backend returned a wrong value: %s", name, problem)
        else:
            trace = (type(problem), problem, traceback or problem.__traceback__)
            text = "%s from %s failed%s"
            self._log(logging.ERROR, "failure", text, name, peer, shown_arguments(line), exc_info=trace)
        return self.refusal(name, FAIL, UNEXPECTED)

    def refused(self, name: str, reason: str, peer: Peer, line: bytes, began: float) -> bytes:
        """Return the `fail` for a refused request, and log it, at most five times a minute per host and command."""
        self._log_refusal(name, reason, peer, line, began)
        return self.refusal(name, FAIL, reason)

    def _log_refusal(self, name: str, reason: str, peer: Peer, line: bytes, began: float) -> None:
        # All unknown names are one kind, because a peer can invent any number of them.
        what = "invalid commands" if reason.startswith("invalid command ") else name
        if self._limited.admit(logging.INFO, (what, "refused for", peer.host), MINUTE):
            seconds = perf_counter() - began
            text = "%s from %s%s -> fail %r in %.3f s"
            self._limited.logger.info(text, name, peer, shown_arguments(line), reason, seconds)

    def invalid(self, text: str, problem: str, peer: Peer) -> bytes:
        """Return the `invalid` for a line that is not a message."""
        self._log(logging.INFO, "invalid", "%s sent an invalid line: %s: %r", peer, problem, text[:80])
        return self.refusal(named_in(text) or _UNDEFINED, INVALID, f"syntax error: {problem}")

    def refusal(self, name: str, code: str, reason: str) -> bytes:
        """Return a reply with a reason. It is always one line, and the reason is shortened to the limit."""
        head = f"{REPLY}{name},{code},"
        reason = harmless(reason) or UNEXPECTED
        escaped = escape(reason)
        if self._limit is not None and len(head) + len(escaped) + 2 > self._limit:
            # At least 2, even if the reply then exceeds the limit. A reason must not be empty, and an escape has two
            # characters.
            available = max(self._limit - 2 - len(head), 2)
            while len(escaped) > available:
                reason = reason[: min(available, len(reason) - 1)]
                escaped = escape(reason)
        return f"{head}{escaped}".encode("latin-1")


def _reason(problem: HandlerException) -> str:
    """Return the text of a refusal, "" if its __str__ raises."""
    try:
        return str(problem)
    except BaseException:  # noqa: BLE001  # a __str__ of the backend may raise anything
        return ""
