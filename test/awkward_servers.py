"""Servers that are right in their own way, for defective_servers."""

from __future__ import annotations

from random import Random
from typing import Any, cast

from twisted.internet import reactor

from discosbackend.acquisition import Acquisition
from discosbackend.errors import BackendError, HandlerException
from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import DBProtocol

from .backend_simulator import BackendSimulator
from .settings import LONG

_LATE = 0.3
# More than the lead of a time in the tests' profile.
_BUSY = 0.12

# How many bytes are passed on at once: a few, so that lines are split anywhere. With --long one byte after the other.
_PIECES = (1,) if LONG else (1, 1, 7, 61)


class KnowsFewCommands(DBProtocolHandler):
    """As a server of an older version does."""

    def __init__(self, backend):
        super().__init__(backend)
        for name in ("set-shift", "get-rms", "end-schedule"):
            del self.commands[name]


class CannotBeConfigured(BackendSimulator):
    """It has a single configuration."""

    set_configuration = get_configuration = set_integration = get_integration = cast(Any, None)


class HasWordsOfItsOwn(DBProtocolHandler):
    def handle(self, message):
        try:
            return super().handle(message)
        except HandlerException as problem:
            if str(problem).startswith("invalid command"):
                raise
            raise HandlerException(f"sorry: {problem}") from None


class RefusesToStart(BackendSimulator):
    def start(self, timestamp=None):
        raise BackendError("needs a setup")


class ForgivesStop(BackendSimulator):
    def __init__(self):
        super().__init__()
        self.acquisition = Acquisition(self.begin, self.end, stop_when_idle="ok")


class IsAcquiring(BackendSimulator):
    def server_started(self):
        self.start()


class WritesExponents(BackendSimulator):
    def measure(self, level):
        return [f"{value:.5e}" for value in super().measure(level)]


class _Behind:
    """A transport that passes on what is written in its own time, and closes after that."""

    def __init__(self, transport):
        self._transport = transport
        self._waiting = bytearray()
        self._closing = False
        transport.setTcpNoDelay(True)

    def __getattr__(self, name):
        return getattr(self._transport, name)

    def write(self, data):
        raise NotImplementedError

    def passed_on(self):
        if self._closing and not self._waiting:
            self._transport.loseConnection()

    def loseConnection(self):
        self._closing = True
        self.passed_on()

    def abortConnection(self):
        self._waiting.clear()
        self._transport.abortConnection()


class _InPieces(_Behind):
    def __init__(self, transport):
        super().__init__(transport)
        self._random = Random(4)

    def write(self, data):
        if not self._waiting:
            reactor.callLater(0, self.pass_on)
        self._waiting += data

    def pass_on(self):
        # What is written in one turn of the reactor is sent in one piece.
        length = self._random.choice(_PIECES)
        self._transport.write(bytes(self._waiting[:length]))
        del self._waiting[:length]
        if self._waiting and self._transport.connected:
            reactor.callLater(0, self.pass_on)
        self.passed_on()


class _Late(_Behind):
    def write(self, data):
        self._waiting += data
        reactor.callLater(_LATE, self.pass_on, len(data))

    def pass_on(self, length):
        self._transport.write(bytes(self._waiting[:length]))
        del self._waiting[:length]
        self.passed_on()


class PausesInTheMiddle(DBProtocol):
    """Executes what follows a line when the times that are shortly ahead have elapsed, as on a busy machine."""

    def dataReceived(self, data):
        line, end, rest = data.partition(b"\n")
        super().dataReceived(line + end)
        if rest:
            reactor.callLater(_BUSY, super().dataReceived, rest)


class RepliesInPieces(DBProtocol):
    def makeConnection(self, transport):
        super().makeConnection(_InPieces(transport))


class RepliesLate(DBProtocol):
    def makeConnection(self, transport):
        super().makeConnection(_Late(transport))
