"""Connection: one request and its reply at a time, and never another's.

Sockets only, so that it starts fast and runs anywhere. What a reply means is decided in blocking.
"""

from __future__ import annotations

import socket
import time
from types import TracebackType
from typing import Self

from discosbackend.errors import GrammarException, NoReply
from discosbackend.grammar import LINEFEED, Message, parse_message
from discosbackend.line_socket import LineSocket, checked_wait
from discosbackend.log import address_text

__all__ = ["REPLY_WAIT", "Connection"]

_GREETING = "version"

REPLY_WAIT = 100.0
"""Seconds that a reply is waited for, as the deployed clients do: it outlasts the 60 s of a server by 40."""

# Seconds for a connection: where nobody answers, waiting longer does not help.
_CONNECT = 10.0
# Bytes of the longest line, without its end. A server of this package sends at most 511 unless told otherwise.
_LONGEST_REPLY = 65536
# How many characters of a line an error shows.
_SHOWN = 80


class Connection:
    """A connection to a backend server, as a context manager.

    `timeout` is how many seconds each reply is waited for; without one, `reply_wait` says how long. Like the
    deployed clients it outlasts a server's own time limit. A server may greet late, or never: for the greeting it
    waits no longer than `greeting_wait` seconds. One that comes later than that is told from a reply by its name;
    only `version` has the same, and says the same. A line of more than `longest_reply` bytes is none.
    NoReply when the server cannot be reached, ValueError for a time that cannot be waited for.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8978,
        *,
        timeout: float | None = None,
        greeting_wait: float = 1.0,
        longest_reply: int = _LONGEST_REPLY,
    ) -> None:
        self.host = host
        self.port = port
        self.timeout = None if timeout is None else checked_wait(timeout)
        checked_wait(greeting_wait, "greeting_wait", least="0 or more")
        self.greeting: Message | None = None
        patience = REPLY_WAIT if timeout is None else timeout
        try:
            connection = socket.create_connection((host, port), min(patience, _CONNECT))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, OverflowError, UnicodeError) as problem:
            # A port above 65535 and a name that no DNS could carry are no OSError.
            raise NoReply(f"no server at {address_text((host, port))}: {problem}") from problem
        self._lines = LineSocket(connection, "the server", NoReply, longest=longest_reply)
        try:
            self.greeting = self._read_message(time.monotonic() + min(greeting_wait, patience))
        except TimeoutError:
            # It has none to give, or gives it later, to those who ask nothing.
            self.greeting = None
        except OSError as problem:
            self.close()
            raise NoReply(f"connection lost: {problem}") from problem
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was asked for is carried out all the same.

        From any thread: a request that waits for its reply in another one ends in NoReply.
        """
        self._lines.close()

    def reply_wait(self, name: str) -> float:
        """How many seconds the reply to this command is waited for."""
        return REPLY_WAIT if self.timeout is None else self.timeout

    def exchange(self, request: Message) -> Message:
        """Send a request and return its reply, whatever its code.

        NoReply when none comes, and the connection is closed then. ValueError for what the grammar cannot carry;
        nothing is sent then.
        """
        if not request.check_synthax():
            raise ValueError(f"no message of the protocol: {request!r}")
        with self._lines.turn():
            return self._exchange(request)

    def _exchange(self, request: Message) -> Message:
        name, wait = request.name, self.reply_wait(request.name)
        try:
            self._check_nothing_came()
            self._lines.send(f"{request}{LINEFEED}".encode("latin-1"), wait)
            return self._read_reply(request, time.monotonic() + wait)
        except TimeoutError:
            self.close()
            raise NoReply(
                f"no reply to {name} within {wait:g} s: giving up stops nothing, the server goes on with it"
            ) from None
        except (OSError, NoReply) as problem:
            if self._lines.closed:
                raise NoReply(
                    f"the connection was closed before the reply to {name} came: the server goes on with it"
                ) from None
            self.close()
            if isinstance(problem, NoReply):
                raise
            raise NoReply(f"connection lost: {problem}") from problem
        except BaseException:
            # An interrupt too: the reply that was on its way would be the next request's.
            self.close()
            raise

    def _check_nothing_came(self) -> None:
        """Between two requests nothing comes but a late greeting; NoReply for a reply to nothing."""
        while self._lines.has_line():
            message = self._read_message(time.monotonic())
            if self.greeting is not None or message.name != _GREETING:
                raise NoReply(f"{_shown(str(message))} came though nothing was asked for")
            self.greeting = message

    def _read_reply(self, request: Message, deadline: float) -> Message:
        reply = self._read_message(deadline)
        if self.greeting is None and reply.name == _GREETING and request.name != _GREETING:
            # It was on its way when we asked.
            self.greeting, reply = reply, self._read_message(deadline)
        if not reply.is_correct_reply(request):
            raise NoReply(f"{_shown(str(reply))} is no reply to {request.name}")
        return reply

    def _read_message(self, deadline: float) -> Message:
        """One whole line, as a message. TimeoutError when the deadline passes, NoReply for anything else."""
        text = self._lines.read_line(deadline).decode("latin-1").removesuffix("\r")
        try:
            return parse_message(text)
        except GrammarException as problem:
            raise NoReply(f"the server sent no message: {problem}: {_shown(text)}") from problem


def _shown(text: str) -> str:
    """What came, in quotes, or the beginning of it."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."
