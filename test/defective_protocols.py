"""Connections with one mistake each, for defective_servers: the line, order, hostile input, the end."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import connectionDone

from discosbackend.framing import LongLine
from discosbackend.protocol import GREETING, DBProtocol

# A chunk of so many lines is pipelining.
_MANY = 10

# Lines from here on are long to one, values from here on to another.
_LONG_LINE, _LONG_VALUE = 4096, 256

_MOST_CLIENTS = 10
_MOST_EMPTY_LINES = 500


class NoGreeting(DBProtocol):
    muted = False

    def connectionMade(self):
        self.muted = True
        super().connectionMade()
        self.muted = False

    def sendLine(self, line):
        if not self.muted:
            super().sendLine(line)


class GreetsWithoutCode(DBProtocol):
    def sendLine(self, line):
        super().sendLine(b"!version,1.4" if line == GREETING else line)


class LineFeedOnly(DBProtocol):
    delimiter = b"\n"


class LosesRepliesInAHurry(DBProtocol):
    sent = 0

    def sendLine(self, line):
        self.sent += 1
        if len(self._lines) < _MANY or self.sent % 7:
            super().sendLine(line)


class SwapsRepliesInAHurry(DBProtocol):
    held = None

    def sendLine(self, line):
        if self.held is not None:
            held, self.held = self.held, None
            super().sendLine(line)
            super().sendLine(held)
        elif self._lines:
            self.held = line
        else:
            super().sendLine(line)


class AnswersReplies(DBProtocol):
    def _handle_irregular_line(self, line):
        if line[:1] == b"!":
            self.sendLine(b"!undefined,invalid,syntax error: no request")
        else:
            super()._handle_irregular_line(line)


class RepliesTwiceToErrors(DBProtocol):
    def sendLine(self, line):
        super().sendLine(line)
        if b",fail," in line:
            super().sendLine(line)


class RepliesTwiceToAShift(DBProtocol):
    def sendLine(self, line):
        super().sendLine(line)
        if line == b"!set-shift,ok":
            super().sendLine(line)


class NamesTheWrongCommand(DBProtocol):
    def sendLine(self, line):
        super().sendLine(b"!set-shift,ok" if line == b"!set-integration,ok" else line)


class SendsRawTabs(DBProtocol):
    def sendLine(self, line):
        super().sendLine(line.replace(b"\\tc", b"\tc"))


class ClosesAfterAnError(DBProtocol):
    def sendLine(self, line):
        super().sendLine(line)
        if b",invalid," in line:
            self._transport().loseConnection()


class TakesAChunkForALine(DBProtocol):
    def dataReceived(self, data):
        for line in data.splitlines():
            super().dataReceived(line + b"\r\n")


class NeedsCarriageReturn(DBProtocol):
    def dataReceived(self, data):
        super().dataReceived(data if data.endswith(b"\r\n") else data.replace(b"\n", b""))


class HangsUpOnHalfClose(DBProtocol):
    def readConnectionLost(self):
        self.abort()


class ForgetsTheName(DBProtocol):
    def sendLine(self, line):
        head, code, reason = line.partition(b",invalid,")
        super().sendLine(b"!undefined" + code + reason if code else head)


class IsUTF8(DBProtocol):
    def lineReceived(self, line):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            self._transport().loseConnection()
        else:
            super().lineReceived(line)


class StarvesTheSecondClient(DBProtocol):
    clients: list[DBProtocol] = []

    def connectionMade(self):
        self.clients.append(self)
        super().connectionMade()

    def connectionLost(self, reason=connectionDone):
        self.clients.remove(self)
        super().connectionLost(reason)

    def dataReceived(self, data):
        if self.clients[0] is self:
            super().dataReceived(data)


class CutsLongReplies(DBProtocol):
    def sendLine(self, line):
        super().sendLine(line[:_LONG_VALUE])


class GivesNoReason(DBProtocol):
    def sendLine(self, line):
        head, code, _ = line.partition(b",fail")
        super().sendLine(head + code)


class OtherWordsForASyntaxError(DBProtocol):
    def sendLine(self, line):
        super().sendLine(line.replace(b",invalid,syntax error: ", b",invalid,what? "))


class TakesTelnetForALine(DBProtocol):
    def _handle_irregular_line(self, line):
        if line[:1] == b"\xff":
            self.lineReceived(line)
        else:
            super()._handle_irregular_line(line)


class StatusWithRawComma(DBProtocol):
    def sendLine(self, line):
        head, found, rest = line.partition(b"!status,ok,")
        super().sendLine(found + rest.replace(b",ok,", b",ok, so far,") if found else head)


class StatusAFieldShort(DBProtocol):
    def sendLine(self, line):
        super().sendLine(line.rpartition(b",")[0] if line.startswith(b"!status,ok,") else line)


class HasAnotherVersion(DBProtocol):
    def sendLine(self, line):
        super().sendLine(b"!version,ok,1.3" if line == GREETING else line)


class UnknownIsUndefined(DBProtocol):
    def sendLine(self, line):
        super().sendLine(b"!undefined,invalid,what?" if b",fail,invalid command " in line else line)


class UnknownIsIgnored(DBProtocol):
    def sendLine(self, line):
        if b",fail,invalid command " not in line:
            super().sendLine(line)


class GreetsAtLength(DBProtocol):
    def sendLine(self, line):
        super().sendLine(line + b" " + 240 * b"x" if line == GREETING else line)


# -- hostile input ------------------------------------------------------------------------------------


class LongLineIsTheEnd(DBProtocol):
    def _handle_irregular_line(self, line):
        if isinstance(line, LongLine) and line[:1] == b"?":
            self._transport().loseConnection()
        else:
            super()._handle_irregular_line(line)


class AnswersLongLinesTwice(DBProtocol):
    def _handle_irregular_line(self, line):
        super()._handle_irregular_line(line)
        if isinstance(line, LongLine):
            super()._handle_irregular_line(line)


class AnswersLongReplies(DBProtocol):
    def _handle_irregular_line(self, line):
        super()._handle_irregular_line(type(line)(line.lstrip(b"!")) if isinstance(line, LongLine) else line)


class HasAShorterLimit(DBProtocol):
    def lineReceived(self, line):
        if len(line) > _LONG_LINE:
            self._handle_irregular_line(LongLine(line))
        else:
            super().lineReceived(line)


class HighByteIsTheEnd(DBProtocol):
    def lineReceived(self, line):
        if line[1:2] > b"\x7f":
            self.abort()
        else:
            super().lineReceived(line)


class ManyEmptyLinesAreTheEnd(DBProtocol):
    empty = 0

    def lineReceived(self, line):
        self.empty += not line
        if self.empty < _MOST_EMPTY_LINES:
            super().lineReceived(line)
        else:
            self._transport().loseConnection()


class ResetIsTheEndForAll(DBProtocol):
    factory: Any

    def connectionMade(self):
        if hasattr(self.factory, "broken"):
            self._transport().abortConnection()
        super().connectionMade()

    def connectionLost(self, reason=connectionDone):
        if not reason.check(ConnectionDone):
            self.factory.broken = True
        super().connectionLost(reason)


class HasRoomForTen(DBProtocol):
    def connectionMade(self):
        super().connectionMade()
        if len(self.factory.connections) > _MOST_CLIENTS:
            self._transport().abortConnection()


class OneThatDoesNotReadHoldsAllUp(DBProtocol):
    factory: Any
    full = False

    def connectionMade(self):
        # So that it comes to that soon.
        self._transport().socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        super().connectionMade()

    def dataReceived(self, data):
        for client in self.factory.connections:
            client.full = client.full or not client.output.ready
        if self.full or not any(client.full for client in self.factory.connections):
            super().dataReceived(data)


# -- the end of a connection --------------------------------------------------------------------------


class _ForgetsWithItsClient(DBProtocol):
    factory: Any

    def connectionLost(self, reason=connectionDone):
        self.forget(self.factory.handler.backend)
        super().connectionLost(reason)

    def forget(self, backend):
        raise NotImplementedError


class DropsTimesWithItsClient(_ForgetsWithItsClient):
    def forget(self, backend):
        backend.acquisition.cancel()


class StopsWithItsClient(_ForgetsWithItsClient):
    def forget(self, backend):
        if backend.acquisition.acquiring:
            backend.stop()


class UnconfiguredWithItsClient(_ForgetsWithItsClient):
    def forget(self, backend):
        backend.configuration = "unconfigured"


class TakesHalfALineForOne(DBProtocol):
    def connectionLost(self, reason=connectionDone):
        self.dataReceived(b"\r\n")
        super().connectionLost(reason)
