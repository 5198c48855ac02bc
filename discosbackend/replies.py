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
    """Who asked: a connection, which is written as its peer's name."""

    host: str
    """Its address without the port, which is another one each time it connects."""


class Replies:
    """Makes replies, as bytes without CR LF.

    What is refused or went wrong is logged through `rate_limited_logger`, with the request, its peer, and how long
    it took since `began`, by perf_counter(); these are written only if it comes to that. `of_texts` says what the
    handler makes: the arguments of an `ok` reply, or else a Message.
    """

    def __init__(self, limit: int | None, rate_limited_logger: RateLimitedLogger, *, of_texts: bool = False) -> None:
        self._limit = limit
        self._limited = rate_limited_logger
        self._log = rate_limited_logger.log
        self._of_texts = of_texts

    def answer(self, name: str, outcome: object, peer: Peer, line: bytes, began: float) -> bytes:
        """The reply for what a handler returned, or for what it raised or failed with. It never raises itself."""
        try:
            if self._of_texts and isinstance(outcome, list):
                return self._written(name, outcome, peer, line)
            if isinstance(outcome, Failure):
                problem = cast(BaseException, outcome.value)
                return self._failed(name, problem, peer, line, began, outcome.getTracebackObject())
            if isinstance(outcome, BaseException):
                return self._failed(name, outcome, peer, line, began, outcome.__traceback__)
            return self._of_message(name, outcome, peer, line, began)
        except BaseException:  # noqa: BLE001  # a foreign object that cannot be printed
            self._log(logging.ERROR, "failure", "%s from %s failed, and so did telling why", name, peer)
            return self.refusal(name, FAIL, UNEXPECTED)

    def _of_message(self, name: str, reply: object, peer: Peer, line: bytes, began: float) -> bytes:
        """What a handler returned, if it is a reply of this name that the wire can carry."""
        if (
            not isinstance(reply, Message)
            or reply.message_type != REPLY
            or reply.name != name
            or reply.code not in CODES
        ):
            self._log(logging.ERROR, "wrong reply", "%s: the handler's result is no reply to it: %r", name, reply)
            return self.refusal(name, FAIL, UNEXPECTED)
        if reply.code == FAIL and reply.arguments:
            self._log_refusal(name, reply.arguments[0], peer, line, began)
        return self._written(name, reply.arguments, peer, line, reply.code)

    def _written(self, name: str, arguments: Sequence[str], peer: Peer, line: bytes, code: str = OK) -> bytes:
        """The gate: every reply of a handler is proven to parse, and to be short enough."""
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
        """The `fail` for what a handler raised. What nobody expected leaves its traceback in the log.

        `traceback` is passed explicitly: older Twisted takes it off the exception.
        """
        if isinstance(problem, HandlerException):
            return self.refused(name, _reason(problem), peer, line, began)
        if isinstance(problem, UnsendableError):
            self._log(logging.ERROR, "unsendable", "%s: what the backend returned: %s", name, problem)
        else:
            trace = (type(problem), problem, traceback or problem.__traceback__)
            text = "%s from %s failed%s"
            self._log(logging.ERROR, "failure", text, name, peer, shown_arguments(line), exc_info=trace)
        return self.refusal(name, FAIL, UNEXPECTED)

    def refused(self, name: str, reason: str, peer: Peer, line: bytes, began: float) -> bytes:
        """The `fail` of a request that was not carried out, which is logged: five a minute a peer and command."""
        self._log_refusal(name, reason, peer, line, began)
        return self.refusal(name, FAIL, reason)

    def _log_refusal(self, name: str, reason: str, peer: Peer, line: bytes, began: float) -> None:
        # Names that a peer makes up are one kind.
        what = "invalid commands" if reason.startswith("invalid command ") else name
        if self._limited.admit(logging.INFO, (what, "refused for", peer.host), MINUTE):
            seconds = perf_counter() - began
            text = "%s from %s%s -> fail %r in %.3f s"
            self._limited.logger.info(text, name, peer, shown_arguments(line), reason, seconds)

    def invalid(self, text: str, problem: str, peer: Peer) -> bytes:
        """The `invalid` for a line that is no message."""
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
