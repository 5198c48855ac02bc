"""Connections that exist only in memory, and handlers that do as they are told, for the tests of protocol."""

from __future__ import annotations

import logging
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from hypothesis import settings
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from discosbackend.grammar import OK, REPLY, Message
from discosbackend.handlers import Handler
from discosbackend.protocol import DBFactory

from .settings import LONG

GREETING = b"!version,ok,1.4\r\n"
GENERIC = b"Request could not be handled correctly"


def fewer(examples: int) -> settings:
    """So many examples, where they take their time; with --long as many as hypothesis tries."""
    return settings() if LONG else settings(max_examples=examples)


def quiet() -> None:
    """Print nothing of what goes wrong on purpose; for setUpModule."""
    package = logging.getLogger("discosbackend")
    unittest.enterModuleContext(mock.patch.object(package, "handlers", [logging.NullHandler()]))
    unittest.enterModuleContext(mock.patch.object(package, "propagate", False))
    unittest.addModuleCleanup(package.setLevel, package.level)
    package.setLevel(logging.WARNING)


@contextmanager
def measured_by(perf_counter: Callable[[], float]) -> Iterator[None]:
    """Have the length of turns and requests measured by this."""
    with (
        mock.patch("discosbackend.connection.perf_counter", perf_counter),
        mock.patch("discosbackend.round_robin.perf_counter", perf_counter),
    ):
        yield


class Wire(StringTransport):
    """A TCP transport in memory: more than `room` unread bytes pause who produces them, as Twisted's do."""

    room = 2**16

    def __init__(self) -> None:
        super().__init__()
        self.unread = 0
        self.full = False
        self.half_closed = False

    def loseWriteConnection(self) -> None:
        """As Twisted's, which first sends what was written."""
        assert self.producer is None, "a producer would keep it from being closed"
        self.half_closed = True

    def write(self, data: bytes) -> None:
        if self.disconnected:
            # Cut, as Twisted's: what is written now goes nowhere.
            return
        assert not self.half_closed, f"{data!r} after the end"
        super().write(data)
        self.unread += len(data)
        if self.unread > self.room and self.producer is not None:
            self.full = True
            self.producer.pauseProducing()

    def read(self) -> None:
        """The client reads all that was sent."""
        self.unread = 0
        if self.full:
            self.full = False
            if self.producer is not None:
                self.producer.resumeProducing()


class Narrow(Wire):
    """A transport whose buffer is full soon; it remembers who was told what."""

    room = 200

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self.told.append("pause")

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self.told.append("resume")

    @property
    def reading(self) -> bool:
        """Whether the server wants to read."""
        return self.producerState == "producing"


class Connection:
    """A client's end of a connection that exists only in memory; its server's reactor is a Clock."""

    def __init__(self, server: DBFactory | Handler, transport: Wire | None = None) -> None:
        self.factory = server if isinstance(server, DBFactory) else DBFactory(server, reactor=Clock())
        self.clock: Clock = self.factory.reactor
        self.transport = Wire() if transport is None else transport
        self.protocol = self.factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)

    def received(self) -> bytes:
        """What the server has sent since the last call; the client reads all of it."""
        data = self.transport.value()
        self.transport.clear()
        self.transport.read()
        return data

    def send(self, data: bytes, piece: int | None = None) -> None:
        """Let the server read `data`, in pieces of that size if one is given."""
        for at in range(0, len(data), piece or max(len(data), 1)):
            self.protocol.dataReceived(data[at : at + piece] if piece else data)

    def ask(self, data: bytes, piece: int | None = None) -> bytes:
        """Send, let the server's turns pass, and return all that it has sent since received()."""
        self.send(data, piece)
        received = b""
        while True:
            self.clock.advance(0)
            more = self.received()
            if not more:
                return received
            received += more

    def transport_full(self) -> None:
        """The transport says that its buffer is full."""
        assert self.transport.producer is not None
        self.transport.producer.pauseProducing()

    def transport_empty(self) -> None:
        """The transport says that its buffer is empty."""
        assert self.transport.producer is not None
        self.transport.producer.resumeProducing()

    def half_close(self) -> None:
        """The client closes its sending half."""
        self.protocol.readConnectionLost()

    def lose(self, reason: Exception | None = None) -> None:
        """The connection is gone."""
        if self.transport.producer is not None:
            self.transport.producer.stopProducing()
        self.protocol.connectionLost(Failure(reason or ConnectionDone()))


def greeted(server: DBFactory | Handler, transport: Wire | None = None) -> Connection:
    """A connection whose greeting has been received."""
    connection = Connection(server, transport)
    connection.received()
    return connection


class Scripted(Handler):
    """Answers with what a function makes of the request, and remembers the requests."""

    def __init__(self, answer: Callable[[Message], Any]) -> None:
        self.answer = answer
        self.requests: list[str] = []

    def handle(self, message: Message) -> Any:
        self.requests.append(str(message))
        return self.answer(message)


def ok(message: Message, *arguments: Any) -> Message:
    """The `ok` reply to a request; it echoes the arguments if none are given."""
    return Message(message_type=REPLY, name=message.name, code=OK, arguments=arguments or message.arguments)


def odd(answer: Callable[[Message], Any]) -> Scripted:
    """A handler for which only `odd` is an odd command."""
    return Scripted(lambda message: answer(message) if message.name == "odd" else ok(message))


class Later:
    """A handler's answer for commands that end when the test says so: a new Deferred for each request."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Message, Deferred[Any]]] = []

    def __call__(self, message: Message) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        self.waiting.append((message, deferred))
        return deferred

    def end(self, *arguments: str) -> None:
        """The command that has been running longest ends."""
        message, deferred = self.waiting.pop(0)
        deferred.callback(ok(message, *arguments))
