"""The exceptions of the core and of the client, one sentence each.

The text of a HandlerException and its subclasses reaches the client: it becomes the reason of a `fail` reply.
The simulator and the conformance kit have their own modules of this name.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "ClientError",
    "GrammarException",
    "HandlerException",
    "Interrupted",
    "NoReply",
    "NotSupportedError",
    "ReplyMalformed",
    "ReplyTooLong",
    "RequestFailed",
    "RequestInvalid",
    "UnsendableError",
]


class GrammarException(Exception):
    """A text is not a message of the protocol (protocol section 2.1); the exception's text says why."""


class HandlerException(Exception):
    """A request could not be carried out; the exception's text becomes the reason of the `fail` reply."""


class BackendError(HandlerException):
    """The instrument refuses a request, raised by a backend: `raise BackendError("unknown mode")`."""


class NotSupportedError(BackendError):
    """This backend does not implement the command that was asked for."""

    def __init__(self) -> None:
        super().__init__("not supported by this backend")


class ReplyTooLong(HandlerException):
    """An `ok` reply would not fit into the buffer with which the deployed clients read it."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"reply too long: a reply has at most {limit} bytes")
        self.limit = limit


class UnsendableError(Exception):
    """A backend returned something that no reply can carry; the text, for the log, says what."""


class ClientError(Exception):
    """What a request through the client can come to; the text says what."""


class NoReply(ClientError):
    """The server cannot be reached, went away, did not answer in time, or sent something that is no reply."""


class ReplyMalformed(ClientError):
    """The server answered `ok`, but not with what the protocol's table has there; the text says what came."""


class RequestFailed(ClientError):
    """The server answered `fail`; the text is its reason."""


class RequestInvalid(ClientError):
    """The server answered `invalid`: it did not take the line for a message; the text is its reason."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends programs has come; the text says which."""
