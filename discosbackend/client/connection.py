"""Connection: sends one request at a time, and checks that the reply belongs to it.

It uses only sockets, so it is imported fast and needs no other package. pairing.py finds the reply to the request.
blocking.py converts the values of a reply.
"""

from __future__ import annotations

import copy
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

from discosbackend.client.address import server_address
from discosbackend.client.methods import REPLY_WAIT
from discosbackend.errors import NoReply, reason_of
from discosbackend.grammar import LINEFEED, Message
from discosbackend.line_socket import LineSocket, checked_wait, connected
from discosbackend.pairing import LONGEST_REPLY, Answer, Event, Greeting, Malformed, Pairing, Surplus, TooLong

__all__ = ["CLOSED", "CONNECT_WAIT", "REPLY_WAIT", "Connection", "gone", "late", "unasked", "wrong_line"]

CONNECT_WAIT = 10.0
"""The longest time to wait for the connection, in s."""

CLOSED = "the connection is closed"

_GOES_ON = "the server continues to execute it"
# How many characters and bytes of a line an error message shows.
_SHOWN = 80
_SHOWN_BYTES = 40


class Connection:
    """A connection to a backend server. Use it as a context manager.

    A late greeting is distinguished from a reply by its name, `version`. Only the reply to `version` has the same name,
    and it also has the same content.

    Parameters
    ----------
    host
        The host of the server.
    port
        The TCP port of the server. If neither is given, the address is that in the environment variable DISCOS_BACKEND,
        `HOST:PORT` with an IPv6 address in brackets, or else 127.0.0.1:8978.
    timeout
        How long to wait for each reply, in s. Default: the result of reply_wait() for the command, which is longer than
        the default time limit of a server.
    greeting_wait
        How long to wait for the greeting, in s. A server may greet later, or never.
    longest_reply
        The length of the longest accepted line, in bytes, with CR, without LF.
    reconnect
        Whether the next request connects again after the connection was lost. A request is never sent twice, except
        for a command that changes nothing: it is sent once more if the connection was lost before its reply arrived.

    Raises
    ------
    NoReply
        If the server cannot be reached.
    ValueError
        If `timeout` is not above 0, if `greeting_wait` is negative, or if one of these is longer than a day. Also if
        DISCOS_BACKEND is used, and is not an address.
    """

    timeout: float | None

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        timeout: float | None = None,
        greeting_wait: float = 1.0,
        longest_reply: int = LONGEST_REPLY,
        reconnect: bool = False,
    ) -> None:
        self.host, self.port = server_address(host, port)
        self.timeout = None if timeout is None else checked_wait(timeout)
        self._greeting_wait = checked_wait(greeting_wait, "greeting_wait", least="0 or more")
        self._longest_reply = longest_reply
        self._reconnect = reconnect
        patience = REPLY_WAIT if timeout is None else timeout
        self._shared = _Shared(self._connected(patience))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def greeting(self) -> Message | None:
        """The greeting of the server as a Message, or None if none has arrived on this connection."""
        return self._shared.channel.pairing.greeting

    @property
    def _lines(self) -> LineSocket:
        return self._shared.channel.lines

    def close(self) -> None:
        """Close the connection. The server still executes a request that it has received.

        It may be called in any thread. A request that waits for its reply in another thread raises NoReply there.
        """
        self._shared.closed = True
        self._shared.channel.lines.close()

    def within(self, seconds: float) -> Self:
        """Return this client with another time limit: `client.within(2.0).status()`.

        Parameters
        ----------
        seconds
            How long to wait for each reply, in s.

        Returns
        -------
        client
            A client that uses the same connection.
        """
        other = copy.copy(self)
        other.timeout = checked_wait(seconds)
        return other

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
        with self._shared.turn:
            deadline = time.monotonic() + self.reply_wait(request.name)
            channel = self._ready(deadline)
            try:
                return self._exchange(channel, request, deadline)
            except NoReply:
                if not (self._reconnect and channel.lost and self._only_reads(request.name)) or self._shared.closed:
                    raise
            # The connection was lost, and the request changes nothing.
            return self._exchange(self._ready(deadline), request, deadline)

    def _only_reads(self, name: str) -> bool:
        """Return whether a command is known to change nothing, so that it may be sent twice."""
        return False

    def _exchange(self, channel: _Channel, request: Message, deadline: float) -> Message:
        with channel.lines.turn(), channel.closed_by_failures():
            try:
                channel.pairing.expect(request.name, None)
                channel.lines.send(f"{request}{LINEFEED}".encode("latin-1"), max(deadline - time.monotonic(), 0.001))
                return self._read_reply(request, deadline)
            except TimeoutError:
                raise NoReply(late(request.name, self.reply_wait(request.name))) from None
            except (OSError, NoReply):
                if not channel.lines.closed:
                    raise
                raise NoReply(gone(request.name)) from None

    def _ready(self, deadline: float) -> _Channel:
        """Return a connection on which nothing has arrived without a request. Connect again if that is allowed."""
        shared = self._shared
        if not shared.channel.lines.closed:
            try:
                with shared.channel.lines.turn(), shared.channel.closed_by_failures():
                    shared.channel.check_nothing_came()
                return shared.channel
            except NoReply:
                if not self._reconnect or shared.closed:
                    raise
        elif not self._reconnect or shared.closed:
            raise NoReply(CLOSED)
        shared.channel = self._connected(max(deadline - time.monotonic(), 0.001))
        if shared.closed:
            # By another thread, which has closed the previous connection only.
            shared.channel.lines.close()
            raise NoReply(CLOSED)
        return shared.channel

    def _connected(self, patience: float) -> _Channel:
        """Connect, and wait for the greeting."""
        connection = connected((self.host, self.port), min(patience, CONNECT_WAIT), NoReply)
        channel = _Channel(connection, self._longest_reply)
        # TimeoutError: the server sends no greeting, or sends it later, to clients that send nothing.
        with channel.closed_by_failures(), suppress(TimeoutError):
            channel.read_greeting(time.monotonic() + min(self._greeting_wait, patience))
        return channel

    def _read_reply(self, request: Message, deadline: float) -> Message:
        channel = self._shared.channel
        while True:
            event = channel.next_event(deadline)
            if isinstance(event, Answer):
                return event.message
            if not isinstance(event, Greeting):
                raise NoReply(wrong_line(event, request.name))


class _Shared:
    """What a client shares with the clients that within() returns."""

    def __init__(self, channel: _Channel) -> None:
        self.channel = channel
        self.closed = False
        # One request at a time, also while it connects again.
        self.turn = threading.Lock()


class _Channel:
    """One TCP connection, and the replies on it."""

    def __init__(self, connection: socket.socket, longest: int) -> None:
        self.lines = LineSocket(connection, "the server", NoReply, longest=longest)
        self.pairing: Pairing[None] = Pairing(longest)
        self.lost = False
        """Whether the connection was lost: not closed by this client, and not because of a wrong line."""
        self._events: deque[Event[None]] = deque()

    @contextmanager
    def closed_by_failures(self) -> Iterator[None]:
        """Close the connection if the context raises an exception. Raise NoReply for an error of the socket."""
        try:
            yield
        except BaseException as problem:
            self.lost = (isinstance(problem, OSError) or self.lines.ended) and not self.lines.closed
            # Also after an interrupt. Otherwise the late reply would be taken for the reply to the next request.
            self.lines.close()
            if isinstance(problem, OSError):
                raise NoReply(f"connection lost: {reason_of(problem)}") from problem
            raise

    def next_event(self, deadline: float) -> Event[None]:
        """Return what the next line is. Raise TimeoutError at the deadline, a time of time.monotonic()."""
        while not self._events:
            self._receive(deadline)
        return self._events.popleft()

    def read_greeting(self, deadline: float) -> None:
        """Wait for the greeting. Raise TimeoutError at the deadline, and NoReply if another line arrives first."""
        event = self.next_event(deadline)
        if not isinstance(event, Greeting):
            raise NoReply(wrong_line(event, ""))

    def check_nothing_came(self) -> None:
        """Raise NoReply if something has arrived without a request, except for a late greeting."""
        with suppress(TimeoutError):
            while True:
                event = self.next_event(time.monotonic())
                if not isinstance(event, Greeting):
                    raise NoReply(wrong_line(event, ""))
        if self.pairing.unasked:
            raise NoReply(unasked(self.pairing.rest))

    def _receive(self, deadline: float) -> None:
        self.lines.receive(deadline)
        data = bytes(self.lines.received)
        self.lines.received.clear()
        self._events += self.pairing.feed(data)


def wrong_line(event: Event[Any], name: str) -> str:
    """Return the text of the NoReply for a line that is not the expected reply.

    Parameters
    ----------
    event
        The event for the line.
    name
        The name of the request, "" if there is none.
    """
    if isinstance(event, TooLong):
        return f"the server sent a line of more than {event.longest} bytes: {event.line[:_SHOWN_BYTES]!r}..."
    if isinstance(event, Malformed):
        return f"the server sent an invalid line: {event.problem}: {_shown(event.line)}"
    if isinstance(event, Surplus) or not name:
        return unasked(event.line)
    return f"{_shown(event.line)} is not a reply to {name}"


def unasked(line: bytes) -> str:
    """Return the text of the NoReply for a line that no request has caused."""
    return f"{_shown(line)} arrived without a request"


def late(name: str, seconds: float) -> str:
    """Return the text of the NoReply for a reply that did not arrive in time."""
    return f"no reply to {name} within {seconds:g} s: {_GOES_ON}"


def gone(name: str) -> str:
    """Return the text of the NoReply for a request whose connection this client has closed."""
    return f"the connection was closed before the reply to {name} arrived: {_GOES_ON}"


def _shown(line: bytes) -> str:
    """Return a line in quotes, shortened."""
    text = line.decode("latin-1")
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."
