"""Clients that exist only in memory and the reactor they share, for the tests of handlers and lanes."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from discosbackend.grammar import REQUEST, Message
from discosbackend.handlers import DBProtocolHandler, Handler
from discosbackend.protocol import DBFactory

from .in_memory import GREETING
from .settings import PATIENCE

TICKS = 17954194859619467
"""An instant that no double holds: odd, and above 2^53."""


class FakeReactor(Clock):
    """A clock on which time passes when a test says so, and calls from threads wait until one drains them."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: queue.Queue[Callable[[], Any]] = queue.Queue()

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        """What a thread calls."""
        self._calls.put(lambda: function(*args))

    def drain(self, count: int = 1) -> None:
        """Wait for so many calls from threads, and make them."""
        for _ in range(count):
            self._calls.get(timeout=PATIENCE)()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, from timer to timer, so that each is on time."""
        end = self.seconds() + seconds
        while self.calls and (due := self.calls[0].getTime()) <= end:
            self.advance(max(due - self.seconds(), 0.0))
        self.advance(max(end - self.seconds(), 0.0))


class Client:
    """A client's connection to a handler, in memory; its greeting has been read."""

    def __init__(self, handler: Handler, reactor: Clock | None = None) -> None:
        self._reactor = reactor or Clock()
        self._transport = StringTransport()
        self._protocol = DBFactory(handler, reactor=self._reactor).buildProtocol(None)
        self._protocol.makeConnection(self._transport)
        assert self.answer() == GREETING

    def ask(self, *lines: bytes) -> bytes:
        """Send lines, and return what has been answered by then."""
        for line in lines:
            self._protocol.dataReceived(line + b"\r\n")
        self._reactor.advance(0)
        return self.answer()

    def hang_up(self) -> None:
        """Be gone."""
        self._protocol.connectionLost(Failure(ConnectionDone()))

    def answer(self) -> bytes:
        """What has arrived since the last look."""
        arrived = self._transport.value()
        self._transport.clear()
        return arrived


def request(name: str, *arguments: str) -> Message:
    """A request as the line protocol hands it to a handler."""
    return Message(message_type=REQUEST, name=name, arguments=list(arguments))


def asked(backend: Any, line: bytes, **options: Any) -> bytes:
    """What one line is answered by a backend that answers at once."""
    reactor = FakeReactor()
    return Client(DBProtocolHandler(backend, reactor=reactor, **options), reactor).ask(line)
