"""Connection: sends one request at a time, and checks that the reply belongs to it.

It uses only sockets, so it is imported fast and needs no other package. blocking.py converts the values of a reply.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

from discosbackend.errors import GrammarException, NoReply, reason_of
from discosbackend.grammar import LINEFEED, Message, parse_message
from discosbackend.line_socket import LineSocket, checked_wait, connected

__all__ = ["REPLY_WAIT", "Connection"]

_GREETING = "version"

REPLY_WAIT = 100.0
"""How long to wait for a reply by default, in s. The deployed clients wait as long.

It is 40 s longer than a server's default time limit."""

# The longest time to wait for the connection, in s.
_CONNECT = 10.0
# The length of the longest accepted line, in bytes, with CR, without LF. By default, a server sends at most 511 bytes.
_LONGEST_REPLY = 65536
# How many characters of a line an error message shows.
_SHOWN = 80


class Connection:
    """A connection to a backend server. Use it as a context manager.

    A late greeting is distinguished from a reply by its name, `version`. Only the reply to `version` has the same name,
    and it also has the same content. The attribute `greeting` is the greeting as a Message, or None if none has
    arrived.

    Parameters
    ----------
    host
        The host of the server.
    port
        The TCP port of the server.
    timeout
        How long to wait for each reply, in s. Default: the result of reply_wait() for the command, which is longer than
        the default time limit of a server.
    greeting_wait
        How long to wait for the greeting, in s. A server may greet later, or never.
    longest_reply
        The length of the longest accepted line, in bytes, with CR, without LF.

    Raises
    ------
    NoReply
        If the server cannot be reached.
    ValueError
        If `timeout` is not above 0, if `greeting_wait` is negative, or if one of these is longer than a day.
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
        connection = connected((host, port), min(patience, _CONNECT), NoReply)
        self._lines = LineSocket(connection, "the server", NoReply, longest=longest_reply)
        # TimeoutError: the server sends no greeting, or sends it later, to clients that send nothing.
        with self._closed_by_failures(), suppress(TimeoutError):
            self.greeting = self._read_message(time.monotonic() + min(greeting_wait, patience))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The server still executes a request that it has received.

        It may be called in any thread. A request that waits for its reply in another thread raises NoReply there.
        """
        self._lines.close()

    def reply_wait(self, name: str) -> float:
        """Return how long to wait for the reply to a command, in s."""
        return REPLY_WAIT if self.timeout is None else self.timeout

    def exchange(self, request: Message) -> Message:
        """Send a request and return its reply.

        Parameters
        ----------
        request
            The request.

        Returns
        -------
        reply
            The reply, with any code.

        Raises
        ------
        NoReply
            If the reply does not arrive, or is not a reply to this request. The connection is closed then.
        ValueError
            If the request is not a valid message. Nothing is sent then.
        """
        if not request.check_synthax():
            raise ValueError(f"no message of the protocol: {request!r}")
        with self._lines.turn():
            return self._exchange(request)

    def _exchange(self, request: Message) -> Message:
        wait = self.reply_wait(request.name)
        goes_on = "the server continues to execute it"
        with self._closed_by_failures():
            try:
                self._check_nothing_came()
                self._lines.send(f"{request}{LINEFEED}".encode("latin-1"), wait)
                return self._read_reply(request, time.monotonic() + wait)
            except TimeoutError:
                raise NoReply(f"no reply to {request.name} within {wait:g} s: {goes_on}") from None
            except (OSError, NoReply):
                if not self._lines.closed:
                    raise
                what = f"the connection was closed before the reply to {request.name} arrived"
                raise NoReply(f"{what}: {goes_on}") from None

    @contextmanager
    def _closed_by_failures(self) -> Iterator[None]:
        """Close the connection if the context raises an exception. Raise NoReply for an error of the socket."""
        try:
            yield
        except BaseException as problem:
            # Also after an interrupt. Otherwise the late reply would be taken for the reply to the next request.
            self.close()
            if isinstance(problem, OSError):
                raise NoReply(f"connection lost: {reason_of(problem)}") from problem
            raise

    def _check_nothing_came(self) -> None:
        """Raise NoReply if a line has arrived without a request, except for a late greeting."""
        while self._lines.has_line():
            message = self._read_message(time.monotonic())
            if self.greeting is not None or message.name != _GREETING:
                raise NoReply(f"{_shown(str(message))} arrived without a request")
            self.greeting = message

    def _read_reply(self, request: Message, deadline: float) -> Message:
        reply = self._read_message(deadline)
        if self.greeting is None and reply.name == _GREETING and request.name != _GREETING:
            # The greeting was sent before the request arrived.
            self.greeting, reply = reply, self._read_message(deadline)
        if not reply.is_correct_reply(request):
            raise NoReply(f"{_shown(str(reply))} is not a reply to {request.name}")
        return reply

    def _read_message(self, deadline: float) -> Message:
        """Return the next line as a message. Raise TimeoutError at the deadline, NoReply if it is not a message."""
        text = self._lines.read_line(deadline).decode("latin-1").removesuffix("\r")
        try:
            return parse_message(text)
        except GrammarException as problem:
            raise NoReply(f"the server sent an invalid line: {problem}: {_shown(text)}") from problem


def _shown(text: str) -> str:
    """Return a line in quotes, shortened."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."
