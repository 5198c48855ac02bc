"""The exceptions of the server and of the client.

The text of a HandlerException or of a subclass is sent to the client, as the reason of a `fail` reply. The simulator
and the conformance kit have their own errors.py.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "NOT_ALLOWED",
    "STOPPING",
    "BackendError",
    "ClientError",
    "GrammarException",
    "HandlerException",
    "Interrupted",
    "LinkDown",
    "LinkTimeout",
    "NoReply",
    "NotSupportedError",
    "ReplyMalformed",
    "ReplyTooLong",
    "RequestFailed",
    "RequestInvalid",
    "UnsendableError",
    "WaitTimeout",
    "in_one_line",
    "loss_of",
    "reason_of",
]


STOPPING = "server is stopping"
"""The reason of the `fail` reply to a request that the server does not carry out because it shuts down."""

NOT_ALLOWED = "not allowed from this address"
"""The reason of the `fail` reply to a command that the address of the client does not permit."""


def reason_of(problem: OSError) -> str:
    """Return the reason of an OSError in words, without its number and its path."""
    return problem.strerror or str(problem) or type(problem).__name__


def loss_of(problem: BaseException) -> str:
    """Return in words why a connection was lost."""
    if len(problem.args) == 1 and isinstance(problem.args[0], list) and problem.args[0]:
        # OpenSSL.SSL.Error has a list of tuples. The last element of each is the reason.
        reasons = [str(each[-1]) if isinstance(each, tuple) and each else str(each) for each in problem.args[0]]
        return f"TLS: {'; '.join(reasons)}"
    return str(problem) or type(problem).__name__


def in_one_line(problem: BaseException) -> str:
    """Return the class and the text of an exception, without line breaks."""
    try:
        return " ".join(f"{type(problem).__name__}: {problem}".split())
    except BaseException:  # noqa: BLE001  # the __str__ of an exception of the backend may raise anything
        return type(problem).__name__


class GrammarException(Exception):
    """A line is not a message of the protocol (protocol section 2.1). The exception's text says why."""


class HandlerException(Exception):
    """A request is refused. The exception's text becomes the reason of the `fail` reply."""


class BackendError(HandlerException):
    """A backend refuses a request, for example with `raise BackendError("unknown mode")`."""


class NotSupportedError(BackendError):
    """The backend does not implement the command."""

    def __init__(self) -> None:
        super().__init__("not supported by this backend")


class LinkDown(BackendError):
    """A question was not answered, because the link to the device is down, was lost or was closed."""


class LinkTimeout(BackendError):
    """A device did not answer a question in time."""


class ReplyTooLong(HandlerException):
    """An `ok` reply is too long. The attribute `limit` is the length of the longest reply in bytes, with CR LF."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"reply too long: a reply has at most {limit} bytes")
        self.limit = limit


class UnsendableError(Exception):
    """A backend returned a value that cannot be sent. The text is logged, and the client gets a fixed reason."""


class ClientError(Exception):
    """The base class of the exceptions that the client raises for a request."""


class NoReply(ClientError):
    """The server cannot be reached, closed the connection, did not answer in time, or sent an unexpected line."""


class ReplyMalformed(ClientError):
    """The server answered `ok`, but its values are not those of the command. The text shows them."""


class RequestFailed(ClientError):
    """The server answered `fail`. The text is the server's reason."""


class RequestInvalid(ClientError):
    """The server answered `invalid`: the line was not a valid request. The text is the server's reason."""


class WaitTimeout(ClientError):
    """The backend did not reach the wanted status in time. The attribute `status` is its last status."""

    def __init__(self, seconds: float, status: Any) -> None:
        doing = "acquiring" if status.acquiring else "not acquiring"
        super().__init__(f"not within {seconds:g} s: the status is {status.text!r}, {doing}")
        self.status = status


class Interrupted(KeyboardInterrupt):
    """The program received a signal that ends it. The text names the signal."""
