"""Servers for the conformance cases: DEFECTS have one mistake each and name the cases that must find it,
RIGHT ones have none, though some are awkward.

As a program it serves all of them, tells the ports on standard output, and ends with its standard input.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet import reactor
from twisted.internet.protocol import connectionDone

from discosbackend.acquisition import Acquisition
from discosbackend.backend import Backend
from discosbackend.commands import COMMANDS
from discosbackend.errors import BackendError, HandlerException
from discosbackend.grammar import INVALID, REPLY, Message
from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import GREETING, DBFactory, DBProtocol
from discosbackend.ticks import Ticks
from .backend_simulator import BackendSimulator

# A chunk of so many lines is pipelining.
_MANY = 10


@dataclass
class Served:
    """A server, the ids of the cases that must fail on it, and something that each failure must say."""

    found_by: tuple[str, ...] = ()
    says: str = ""
    backend: Callable[[], object] = BackendSimulator
    handler: Callable[[object], DBProtocolHandler] = DBProtocolHandler
    protocol: Callable[[], DBProtocol] = DBProtocol
    greeting_delay: float = 0.0

    def factory(self) -> DBFactory:
        """What serves it."""
        factory = DBFactory(self.handler(self.backend()), greeting_delay=self.greeting_delay)
        factory.protocol = self.protocol
        return factory


# -- the line -----------------------------------------------------------------------------------------


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
    def sendLine(self, line):
        if self._out is None:
            self.transport.write(line + b"\n")
        else:
            self._out.append(line + b"\n")


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
        elif self._at < len(self._lines):
            self.held = line
        else:
            super().sendLine(line)


class AnswersReplies(DBProtocol):
    def _take(self, line):
        if line[:1] == b"!":
            self.sendLine(b"!undefined,invalid,syntax error: no request")
        else:
            super()._take(line)


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
            self.transport.loseConnection()


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
            self.transport.loseConnection()
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


# -- the arguments ------------------------------------------------------------------------------------


class SwallowsASurplus(DBProtocolHandler):
    def handle(self, message):
        if message.name in COMMANDS:
            del message.arguments[len(COMMANDS[message.name].arguments) :]
        return super().handle(message)


class SplitsAtEscapedCommas(DBProtocolHandler):
    def handle(self, message):
        message.arguments = ",".join(message.arguments).split(",") if message.arguments else []
        return super().handle(message)


class TakesAWrongTimeForNow(DBProtocolHandler):
    def handle(self, message):
        if message.name == "start" and message.arguments == ["soon"]:
            message.arguments = []
        return super().handle(message)


class RefusesStars(DBProtocolHandler):
    def handle(self, message):
        if "*" in message.arguments:
            raise HandlerException("wrong parameter format")
        return super().handle(message)


class UnknownIsInvalid(DBProtocolHandler):
    def handle(self, message):
        if message.name not in self.commands:
            return Message(message_type=REPLY, name=message.name, code=INVALID, arguments=["unknown"])
        return super().handle(message)


class LeaksTheException(DBProtocolHandler):
    def handle(self, message):
        try:
            return super().handle(message)
        except HandlerException as problem:
            if str(problem).startswith("integration time"):
                raise HandlerException("ValueError: invalid literal for int() with base 10") from None
            raise


class LooksUpNames(DBProtocolHandler):
    def handle(self, message):
        if message.name not in COMMANDS and hasattr(self.backend, message.name.replace("-", "_")):
            return Message(message_type=REPLY, name=message.name, code="ok")
        return super().handle(message)


class EscapesTheStatus(DBProtocolHandler):
    def handle(self, message):
        reply = super().handle(message)
        if message.name == "status":
            reply.arguments[1] = "ok, all is well"
        return reply


class KnowsNoLimit(DBProtocolHandler):
    def __init__(self, backend):
        super().__init__(backend, reply_limit=None)


# -- the backend --------------------------------------------------------------------------------------


class StatusStuck(BackendSimulator):
    def status(self):
        return Ticks.now(), "ok", False


class AcquiringInWords(BackendSimulator):
    def status(self):
        return Ticks.now(), "ok", str(self.acquisition.acquiring)


class HasNoStatus(BackendSimulator):
    status = Backend.status


class StatusSwapped(BackendSimulator):
    def status(self):
        return Ticks.now(), self.acquisition.acquiring, "ok"


class StatusTooShort(BackendSimulator):
    def status(self):
        raise ValueError("no status")


class TimeInTicks(BackendSimulator):
    def time(self):
        return str(int(Ticks.now()))


class TimeOfAtoms(BackendSimulator):
    def time(self):
        return Ticks.now().unix + 37


class StopCancelsNothing(BackendSimulator):
    def stop(self, timestamp=None):
        if timestamp is None and not self.acquisition.acquiring and self.acquisition.pending_start:
            return
        super().stop(timestamp)


class OldestStartHolds(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is None or self.acquisition.pending_start is None:
            super().start(timestamp)


class RefusedStartDropsPending(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is not None and timestamp < Ticks.now() and self.acquisition.pending_start:
            self.acquisition.stop()
        super().start(timestamp)


class StartNowKeepsPending(BackendSimulator):
    def start(self, timestamp=None):
        pending = self.acquisition.pending_start
        super().start(timestamp)
        if timestamp is None and pending is not None:
            super().start(pending)


class StartsEarly(BackendSimulator):
    def start(self, timestamp=None):
        super().start(None if timestamp is None else Ticks(timestamp - 500_000))


class StartsAtOnce(BackendSimulator):
    def start(self, timestamp=None):
        super().start()


class StopsAtOnce(BackendSimulator):
    def stop(self, timestamp=None):
        super().stop()


class StopsNever(BackendSimulator):
    def stop(self, timestamp=None):
        if timestamp is None:
            super().stop()


class TakesAnyTime(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is None or abs(timestamp - Ticks.now()) < 5 * 10**7:
            super().start(timestamp)


class StartsAgain(BackendSimulator):
    def start(self, timestamp=None):
        if timestamp is not None or not self.acquisition.acquiring:
            super().start(timestamp)


class StopsAgain(BackendSimulator):
    def stop(self, timestamp=None):
        if timestamp is not None or self.acquisition.acquiring or self.acquisition.pending_start:
            super().stop(timestamp)


class TakesAnyConfiguration(BackendSimulator):
    def set_configuration(self, configuration):
        if configuration.startswith("no-such"):
            self.configuration = configuration
        else:
            super().set_configuration(configuration)


class ForgetsTheConfiguration(BackendSimulator):
    def set_configuration(self, configuration):
        super().set_configuration(configuration)
        self.configuration = "unconfigured"


class SaysTooMuch(BackendSimulator):
    def set_integration(self, integration):
        super().set_integration(integration)
        return "done"


class ForgetsIntegration(BackendSimulator):
    def set_integration(self, integration):
        pass


class WritesExponents(BackendSimulator):
    def get_tp0(self):
        return ["1.5e+06", "1.5e+06"]


class LosesAnInput(BackendSimulator):
    def get_rms(self):
        return super().get_rms()[:1]


class MeasuresTooMuch(BackendSimulator):
    def get_rms(self):
        return [123456.789] * 100


class CannotTakeTheBand(BackendSimulator):
    def get_tpi(self, frequency=0.0, bandwidth=0.0):
        if bandwidth:
            raise KeyError(bandwidth)
        return super().get_tpi()


class DividesByZero(BackendSimulator):
    def get_ddcoffset(self):
        return 1 / 0


class TakesNoStars(BackendSimulator):
    def set_section(self, *values):
        super().set_section(*(float(value) for value in values))


DEFECTS = {
    "greeting lost": Served(("greeting/is-the-version",), protocol=NoGreeting),
    "greeting without code": Served(
        ("greeting/is-the-version", "framing/replies-end-in-cr-lf"), protocol=GreetsWithoutCode
    ),
    "LF instead of CR LF": Served(
        ("framing/replies-end-in-cr-lf", "status/reply-is-well-formed"),
        says="a reply ends in CR LF",
        protocol=LineFeedOnly,
    ),
    "reply lost under pipelining": Served(("order/pipelining",), protocol=LosesRepliesInAHurry),
    "replies swapped under pipelining": Served(("order/pipelining",), protocol=SwapsRepliesInAHurry),
    "reply to a ! line": Served(
        ("grammar/replies-are-no-requests", "order/pipelining"), protocol=AnswersReplies
    ),
    "two replies to a failure": Served(
        ("errors/unknown-command", "stop/twice"), protocol=RepliesTwiceToErrors
    ),
    "two replies to the last request": Served(
        ("set-shift/accepts",), says="one reply too many", protocol=RepliesTwiceToAShift
    ),
    "reply to something else": Served(
        ("set-integration/sets",), says="is no reply to b'?set-integration,100", protocol=NamesTheWrongCommand
    ),
    "tab sent as it is": Served(
        ("set-filename/escapes",), says="not as the grammar writes it", protocol=SendsRawTabs
    ),
    "connection closed after an error": Served(("grammar/syntax-errors",), protocol=ClosesAfterAnError),
    "a chunk taken for a line": Served(("framing/request-in-pieces",), protocol=TakesAChunkForALine),
    "LF alone not taken": Served(("framing/line-feed-alone",), protocol=NeedsCarriageReturn),
    "half-close taken for a hang-up": Served(("framing/half-close",), protocol=HangsUpOnHalfClose),
    "name of an invalid line forgotten": Served(("grammar/syntax-errors",), protocol=ForgetsTheName),
    "byte that is not UTF-8": Served(("grammar/every-byte-is-a-character",), protocol=IsUTF8),
    "second client starved": Served(("order/two-clients",), protocol=StarvesTheSecondClient),
    "extra argument swallowed": Served(
        tuple(f"{name}/wrong-number-of-arguments" for name in COMMANDS), handler=SwallowsASurplus
    ),
    "escaped comma split": Served(("grammar/escaped-comma",), handler=SplitsAtEscapedCommas),
    "unknown command is invalid": Served(("errors/unknown-command",), handler=UnknownIsInvalid),
    "wrong time taken for now": Served(
        ("start/wrong-type-of-arguments",), handler=TakesAWrongTimeForNow
    ),
    "wildcards refused": Served(("set-section/accepts",), handler=RefusesStars),
    "exception text leaked": Served(("set-integration/wrong-type-of-arguments",), handler=LeaksTheException),
    "backend's hooks within reach": Served(("errors/unknown-command",), handler=LooksUpNames),
    "reply too long": Served(
        ("get-rms/reply-is-well-formed",),
        says="a reply has at most 511 bytes, this one has 1113",
        backend=MeasuresTooMuch,
        handler=KnowsNoLimit,
    ),
    "status stuck": Served(("start/now-and-stop-now", "start/timed"), backend=StatusStuck),
    "acquiring flag in words": Served(("status/reply-is-well-formed",), backend=AcquiringInWords),
    "comma in the status text": Served(
        ("status/reply-is-well-formed",), says="without escapes", handler=EscapesTheStatus
    ),
    "status not supported": Served(("status/reply-is-well-formed",), backend=HasNoStatus),
    "status fields swapped": Served(("status/reply-is-well-formed",), backend=StatusSwapped),
    "status fails": Served(("status/reply-is-well-formed",), backend=StatusTooShort),
    "time in 100 ns": Served(("time/reply-is-well-formed",), backend=TimeInTicks),
    "time in TAI": Served(
        ("time/reply-is-well-formed",), says="+37.0 s off this host's clock", backend=TimeOfAtoms
    ),
    "stop not cancelling": Served(("stop/cancels-timed-start",), backend=StopCancelsNothing),
    "newest start not replacing": Served(("start/newest-time-holds",), backend=OldestStartHolds),
    "refused start drops the pending one": Served(
        ("start/refused-time-changes-nothing",), backend=RefusedStartDropsPending
    ),
    "start now keeps the pending one": Served(("start/now-drops-timed-start",), backend=StartNowKeepsPending),
    "start early by 50 ms": Served(("start/timed", "start/newest-time-holds"), backend=StartsEarly),
    "timed start at once": Served(("start/timed",), backend=StartsAtOnce),
    "timed stop at once": Served(("stop/timed",), backend=StopsAtOnce),
    "timed stop never": Served(("stop/timed",), backend=StopsNever),
    "any time accepted": Served(("start/elapsed-time", "start/far-time"), backend=TakesAnyTime),
    "start while acquiring accepted": Served(("start/while-acquiring",), backend=StartsAgain),
    "second stop accepted": Served(("stop/twice",), backend=StopsAgain),
    "any configuration accepted": Served(("set-configuration/unknown",), backend=TakesAnyConfiguration),
    "configuration forgotten": Served(("set-configuration/loads",), backend=ForgetsTheConfiguration),
    "arguments where none belong": Served(("set-integration/sets",), backend=SaysTooMuch),
    "integration forgotten": Served(("set-integration/sets",), backend=ForgetsIntegration),
    "exponents": Served(("get-tp0/reply-is-well-formed",), backend=WritesExponents),
    "an input lost": Served(("get-rms/reply-is-well-formed", "get-rms/as-many-as-tpi"), backend=LosesAnInput),
    "band not thought of": Served(("get-tpi/band",), backend=CannotTakeTheBand),
    "backend fails": Served(("get-ddcoffset/reply-is-well-formed",), backend=DividesByZero),
    "wildcards not thought of": Served(("set-section/accepts",), backend=TakesNoStars),
}


# -- right ones ---------------------------------------------------------------------------------------


class KnowsFewCommands(DBProtocolHandler):
    """As a server of an older version does."""

    def __init__(self, backend):
        super().__init__(backend)
        for name in ("set-shift", "get-rms", "end-schedule"):
            del self.commands[name]


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


RIGHT = {
    "healthy": Served(),
    "greets late": Served(greeting_delay=0.05),
    "knows few commands": Served(handler=KnowsFewCommands),
    "has words of its own": Served(handler=HasWordsOfItsOwn),
    "refuses to start": Served(backend=RefusesToStart),
    "forgives stop": Served(backend=ForgivesStop),
    "is acquiring": Served(backend=IsAcquiring),
}


def main() -> None:
    """Serve them all."""
    told, sys.stdout = sys.stdout, sys.stderr
    ports = {
        name: reactor.listenTCP(0, served.factory(), interface="127.0.0.1").getHost().port
        for name, served in {**RIGHT, **DEFECTS}.items()
    }
    threading.Thread(target=_stop_with_input, daemon=True).start()
    reactor.callWhenRunning(lambda: print(json.dumps(ports), file=told, flush=True))
    reactor.run()


def _stop_with_input() -> None:
    sys.stdin.read()
    reactor.callFromThread(reactor.stop)


if __name__ == "__main__":
    main()
