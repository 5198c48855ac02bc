"""Servers for the conformance cases: DEFECTS have one mistake each and name the cases that must find it,
RIGHT ones have none, though some are awkward.

What is wrong is said in defective_protocols and defective_backends, what is awkward in awkward_servers.
As a program it serves all of them, tells the ports on standard output, and ends when a pipe is closed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from twisted.internet import reactor as installed

from discosbackend.commands import COMMANDS
from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import DBFactory, DBProtocol
from discosbackend.testing.runner import Verdict

from . import awkward_servers as awkward
from . import defective_backends as backends
from . import defective_protocols as protocols
from .backend_simulator import BackendSimulator

reactor = cast(Any, installed)

LATE_ONES = 60

# What the backend refuses whether or not there is an argument too many.
REFUSED_ANYWAY = ("set-configuration", "set-section", "start", "stop")


@dataclass
class Served:
    """A server, the ids of the cases that must find it wrong, their verdict, what they must say."""

    found_by: tuple[str, ...] = ()
    verdict: Verdict = Verdict.FAIL
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


DEFECTS = {
    # -- the line, arguments, values, times: what a first version of a server has wrong
    "greeting lost": Served(("greeting/is-the-version",), protocol=protocols.NoGreeting),
    "greeting without code": Served(
        ("greeting/is-the-version", "framing/replies-end-in-cr-lf"), protocol=protocols.GreetsWithoutCode
    ),
    "LF instead of CR LF": Served(
        ("framing/replies-end-in-cr-lf", "status/reply-is-well-formed"),
        says="a reply must end in CR LF",
        protocol=protocols.LineFeedOnly,
    ),
    "reply lost under pipelining": Served(("order/pipelining",), protocol=protocols.LosesRepliesInAHurry),
    "replies swapped under pipelining": Served(("order/pipelining",), protocol=protocols.SwapsRepliesInAHurry),
    "reply to a ! line": Served(
        ("grammar/replies-are-no-requests", "order/pipelining"), protocol=protocols.AnswersReplies
    ),
    "two replies to a failure": Served(
        ("errors/unknown-command", "stop/twice"), protocol=protocols.RepliesTwiceToErrors
    ),
    "two replies to the last request": Served(
        ("set-shift/accepts",), says="one reply too many", protocol=protocols.RepliesTwiceToAShift
    ),
    "reply to something else": Served(
        ("set-integration/sets",),
        says="is not a reply to b'?set-integration,100",
        protocol=protocols.NamesTheWrongCommand,
    ),
    "tab sent as it is": Served(
        ("set-filename/escapes",), says="the grammar writes this reply as", protocol=protocols.SendsRawTabs
    ),
    "connection closed after an error": Served(("grammar/syntax-errors",), protocol=protocols.ClosesAfterAnError),
    "a chunk taken for a line": Served(("framing/request-in-pieces",), protocol=protocols.TakesAChunkForALine),
    "LF alone not taken": Served(("framing/line-feed-alone",), protocol=protocols.NeedsCarriageReturn),
    "half-close taken for a hang-up": Served(("framing/half-close",), protocol=protocols.HangsUpOnHalfClose),
    "name of an invalid line forgotten": Served(("grammar/syntax-errors",), protocol=protocols.ForgetsTheName),
    "byte that is not UTF-8": Served(("grammar/every-byte-is-a-character",), protocol=protocols.IsUTF8),
    "second client starved": Served(("order/two-clients",), protocol=protocols.StarvesTheSecondClient),
    "extra argument swallowed": Served(
        tuple(f"{name}/wrong-number-of-arguments" for name in COMMANDS if name not in REFUSED_ANYWAY),
        handler=backends.SwallowsASurplus,
    ),
    "extra argument swallowed, the others refused": Served(
        tuple(f"{name}/wrong-number-of-arguments" for name in REFUSED_ANYWAY),
        verdict=Verdict.NON_STRICT,
        handler=backends.SwallowsASurplus,
    ),
    "escaped comma split": Served(
        ("grammar/escaped-comma",), verdict=Verdict.NON_STRICT, handler=backends.SplitsAtEscapedCommas
    ),
    "unknown command is invalid": Served(("errors/unknown-command",), handler=backends.UnknownIsInvalid),
    "wrong time taken for now": Served(("start/wrong-type-of-arguments",), handler=backends.TakesAWrongTimeForNow),
    "wrong time refused, and a start all the same": Served(
        ("grammar/escaped-comma",),
        says="a request that should be refused began an acquisition",
        handler=backends.RefusesAndStarts,
    ),
    "file name in lower case": Served(
        ("set-filename/sets", "set-filename/escapes"), backend=backends.LowersTheFilename
    ),
    "wildcards refused": Served(("set-section/wildcards",), handler=backends.RefusesStars),
    "exception text leaked": Served(("set-integration/wrong-type-of-arguments",), handler=backends.LeaksTheException),
    "backend's hooks within reach": Served(("errors/names-are-not-looked-up",), handler=backends.LooksUpNames),
    "reply too long": Served(
        ("get-rms/reply-is-well-formed",),
        says="a reply must have at most 511 bytes, but this one has 1113",
        backend=backends.MeasuresTooMuch,
        handler=backends.KnowsNoLimit,
    ),
    "status stuck": Served(("start/now-and-stop-now", "start/timed"), backend=backends.StatusStuck),
    "acquiring flag in words": Served(("status/reply-is-well-formed",), backend=backends.AcquiringInWords),
    "comma in the status text": Served(
        ("status/reply-is-well-formed",), says="without escapes", handler=backends.EscapesTheStatus
    ),
    "status not supported": Served(("status/reply-is-well-formed",), backend=backends.HasNoStatus),
    "status fields swapped": Served(("status/reply-is-well-formed",), backend=backends.StatusSwapped),
    "status fails": Served(("status/reply-is-well-formed",), backend=backends.StatusTooShort),
    "time in 100 ns": Served(
        ("time/reply-is-well-formed",),
        says="it looks like a count of 100 ns instead of seconds",
        backend=backends.TimeInTicks,
    ),
    "time in TAI": Served(
        ("time/reply-is-well-formed",),
        says="it looks like TAI, which is 37 s ahead of UTC",
        backend=backends.TimeOfAtoms,
    ),
    "stop not cancelling": Served(("stop/cancels-timed-start",), backend=backends.StopCancelsNothing),
    "newest start not replacing": Served(("start/newest-time-holds",), backend=backends.OldestStartHolds),
    "refused start drops the pending one": Served(
        ("start/refused-time-changes-nothing",), backend=backends.RefusedStartDropsPending
    ),
    "start now keeps the pending one": Served(("start/now-drops-timed-start",), backend=backends.StartNowKeepsPending),
    "start early by 50 ms": Served(("start/timed", "start/newest-time-holds"), backend=backends.StartsEarly),
    "timed start at once": Served(("start/timed",), backend=backends.StartsAtOnce),
    "timed stop at once": Served(("stop/timed",), backend=backends.StopsAtOnce),
    "timed stop never": Served(("stop/timed",), backend=backends.StopsNever),
    "any time accepted": Served(("start/elapsed-time", "start/far-time"), backend=backends.TakesAnyTime),
    "start while acquiring accepted": Served(("start/while-acquiring",), backend=backends.StartsAgain),
    "second stop accepted": Served(("stop/twice",), backend=backends.StopsAgain),
    "any configuration accepted": Served(("set-configuration/unknown",), backend=backends.TakesAnyConfiguration),
    "configuration forgotten": Served(("set-configuration/loads",), backend=backends.ForgetsTheConfiguration),
    "arguments where none belong": Served(("set-integration/sets",), backend=backends.SaysTooMuch),
    "integration forgotten": Served(("set-integration/sets",), backend=backends.ForgetsIntegration),
    "exponents": Served(
        ("get-tp0/reply-is-well-formed",), verdict=Verdict.NON_STRICT, backend=backends.WritesExponents
    ),
    "an input lost": Served(("get-rms/reply-is-well-formed", "get-rms/as-many-as-tpi"), backend=backends.LosesAnInput),
    "band not thought of": Served(("get-tpi/band",), backend=backends.CannotTakeTheBand),
    "backend fails": Served(("get-ddcoffset/reply-is-well-formed",), backend=backends.DividesByZero),
    "wildcards not thought of": Served(("set-section/wildcards",), backend=backends.TakesNoStars),
    # -- the line
    "value cut at 256 bytes": Served(("set-filename/long-path",), protocol=protocols.CutsLongReplies),
    "reason missing": Served(("errors/unknown-command", "set-configuration/unknown"), protocol=protocols.GivesNoReason),
    "syntax error in other words": Served(
        ("grammar/syntax-errors",),
        verdict=Verdict.NON_STRICT,
        says="should begin with 'syntax error: '",
        protocol=protocols.OtherWordsForASyntaxError,
    ),
    "long reason not shortened": Served(
        ("errors/long-reason",), says="at most 511 bytes", handler=backends.GivesLongReasons
    ),
    "telnet negotiation taken for a line": Served(("framing/telnet",), protocol=protocols.TakesTelnetForALine),
    "five fields broken by a comma": Served(
        ("clients/status-has-five-fields", "status/reply-is-well-formed"),
        protocol=protocols.StatusWithRawComma,
    ),
    "! inside the status text": Served(
        ("clients/status-has-five-fields",),
        says="breaks the client's parser",
        backend=backends.StatusInExcitement,
    ),
    "status too long": Served(("clients/greeting-and-status-are-short",), backend=backends.StatusAtLength),
    "greeting too long": Served(
        ("clients/greeting-and-status-are-short", "greeting/is-the-version"),
        protocol=protocols.GreetsAtLength,
    ),
    # -- hostile input
    "line of 4097 bytes refused": Served(("hostile/longest-line",), protocol=protocols.HasAShorterLimit),
    "long line kills the connection": Served(("hostile/line-too-long",), protocol=protocols.LongLineIsTheEnd),
    "long line answered twice": Served(
        ("hostile/line-too-long",), says="one reply too many", protocol=protocols.AnswersLongLinesTwice
    ),
    "long ! line answered": Served(("hostile/reply-too-long",), protocol=protocols.AnswersLongReplies),
    "random bytes crash the connection": Served(("hostile/random-bytes",), protocol=protocols.HighByteIsTheEnd),
    "many empty lines close the connection": Served(
        ("hostile/empty-lines",), protocol=protocols.ManyEmptyLinesAreTheEnd
    ),
    "reset kills the listener": Served(("hostile/half-a-line-and-gone",), protocol=protocols.ResetIsTheEndForAll),
    "ten connections at most": Served(("hostile/many-connections",), protocol=protocols.HasRoomForTen),
    "starved by one that does not read": Served(
        ("hostile/client-that-does-not-read",),
        says="nothing was received",
        protocol=protocols.OneThatDoesNotReadHoldsAllUp,
    ),
    # -- the end of a connection
    "timed start lost on disconnect": Served(
        ("disconnect/timed-start-comes",), protocol=protocols.DropsTimesWithItsClient
    ),
    "acquisition ended on disconnect": Served(
        ("disconnect/acquisition-goes-on",), protocol=protocols.StopsWithItsClient
    ),
    "configuration lost on disconnect": Served(
        ("disconnect/configuration-stays",), protocol=protocols.UnconfiguredWithItsClient
    ),
    "half a line taken for a request": Served(
        ("disconnect/half-a-line-is-no-request",), protocol=protocols.TakesHalfALineForOne
    ),
    # -- what nearly every case uses: test_testing_causes sees that it is reported once
    "status an hour off": Served(
        ("status/reply-is-well-formed",),
        says="it looks like local time, UTC+1, instead of UTC",
        backend=backends.StatusAnHourOff,
    ),
    "clock an hour off": Served(
        ("status/reply-is-well-formed", "time/reply-is-well-formed"),
        says="local time, UTC+1, instead of UTC",
        backend=backends.ClockAnHourOff,
    ),
    "status in milliseconds": Served(
        ("status/reply-is-well-formed",),
        says="it looks like milliseconds instead of seconds",
        backend=backends.StatusInMilliseconds,
    ),
    "status in whole seconds": Served(
        ("status/reply-is-well-formed",),
        verdict=Verdict.NON_STRICT,
        says="with seven decimals",
        backend=backends.StatusInWholeSeconds,
    ),
    "status a field short": Served(
        ("status/reply-is-well-formed", "clients/status-has-five-fields"), protocol=protocols.StatusAFieldShort
    ),
    "set-configuration fails": Served(("set-configuration/loads",), backend=backends.CannotConfigure),
    "start fails": Served(("start/now-and-stop-now", "start/timed"), backend=backends.CannotStart),
    "never acquires": Served(("start/now-and-stop-now", "start/timed"), backend=backends.NeverAcquires),
    "stop refused": Served(("start/now-and-stop-now",), backend=backends.CannotStop),
    "given times refused": Served(("start/timed", "stop/timed"), backend=backends.KnowsNoTimes),
    "get-tpi fails": Served(("get-tpi/reply-is-well-formed", "get-tpi/band"), backend=backends.MeasuresNothing),
    "another version": Served(
        ("greeting/is-the-version", "framing/line-feed-alone"), protocol=protocols.HasAnotherVersion
    ),
    "unknown command is undefined": Served(("errors/unknown-command",), protocol=protocols.UnknownIsUndefined),
    "unknown command is ignored": Served(("errors/unknown-command",), protocol=protocols.UnknownIsIgnored),
    # -- values
    "section arguments swapped": Served(
        ("set-section/accepts",), says="maximum bandwidth", backend=backends.SwapsSectionArguments
    ),
    "enabled feeds forgotten by one": Served(("set-enable/measured-alike",), backend=backends.MeasuresWhatIsNotEnabled),
    "time in whole seconds": Served(
        ("time/reply-is-well-formed",),
        verdict=Verdict.NON_STRICT,
        says="with seven decimals",
        backend=backends.TimeInWholeSeconds,
    ),
    "clock goes back": Served(("time/goes-on-with-status",), says="time goes back", backend=backends.TimeGoesBack),
    "status of another clock": Served(
        ("time/goes-on-with-status",), says="status reported", backend=backends.StatusOfAnotherClock
    ),
    # -- times
    "point of a time ignored": Served(("start/forms-of-a-time",), handler=backends.IgnoresThePoint),
    "more than seven decimals refused": Served(("start/forms-of-a-time",), handler=backends.WantsSevenDecimals),
    "times read as short floats": Served(
        ("start/timed", "start/forms-of-a-time"), backend=backends.ReadsTimesAsShortFloats
    ),
    "newest stop not replacing": Served(
        ("stop/newest-time-holds",), says="before its time", backend=backends.OldestStopHolds
    ),
    "latest start holds": Served(("start/newer-time-may-be-earlier",), backend=backends.LatestStartHolds),
    "refused stop drops the pending one": Served(
        ("stop/refused-time-changes-nothing",), backend=backends.RefusedStopDropsPending
    ),
    "timed start drops timed stop": Served(
        ("stop/before-start-both-timed",), backend=backends.TimedStartDropsTimedStop
    ),
    "timed stop drops timed start": Served(
        ("start/before-stop-both-timed",), backend=backends.TimedStopDropsTimedStart
    ),
    "stop keeps timed start": Served(("stop/now-clears-timed-start",), backend=backends.StopKeepsTimedStart),
    "stop keeps timed stop": Served(("stop/now-clears-timed-stop",), backend=backends.StopKeepsTimedStop),
    "futile stop drops timed stop": Served(
        ("stop/nothing-to-stop-leaves-timed-stop",), backend=backends.FutileStopDropsTimedStop
    ),
    "due start while acquiring ends it": Served(("start/due-while-acquiring",), backend=backends.DueStartEnds),
    "due start waits until idle": Served(("start/due-while-acquiring",), backend=backends.DueStartWaits),
    "due stop while idle drops timed start": Served(("stop/due-while-idle",), backend=backends.DueStopDropsTimedStart),
    "start first at equal times": Served(("start/with-stop-at-one-time",), backend=backends.StartComesFirst),
    "stop first at equal times while idle": Served(
        ("start/with-stop-at-one-time-while-idle",), backend=backends.StopAlwaysComesFirst
    ),
}

RIGHT = {
    "healthy": Served(),
    "greets late": Served(greeting_delay=0.05),
    "knows few commands": Served(handler=awkward.KnowsFewCommands),
    "cannot be configured": Served(backend=awkward.CannotBeConfigured),
    "has words of its own": Served(handler=awkward.HasWordsOfItsOwn),
    "refuses to start": Served(backend=awkward.RefusesToStart),
    "forgives stop": Served(backend=awkward.ForgivesStop),
    "forgives stop, pauses": Served(backend=awkward.ForgivesStop, protocol=awkward.PausesInTheMiddle),
    "is acquiring": Served(backend=awkward.IsAcquiring),
    "replies in pieces": Served(protocol=awkward.RepliesInPieces),
    "writes exponents": Served(backend=awkward.WritesExponents),
    # Several, so that they can be asked at the same time.
    **{f"replies late {number}": Served(protocol=awkward.RepliesLate) for number in range(LATE_ONES)},
}


def main() -> None:
    """Serve them all, until the other end is closed of the pipe whose descriptor the command line gives."""
    told, sys.stdout = sys.stdout, sys.stderr
    ports = {
        name: reactor.listenTCP(0, served.factory(), interface="127.0.0.1").getHost().port
        for name, served in {**RIGHT, **DEFECTS}.items()
    }
    threading.Thread(target=_stop_with, args=[int(sys.argv[1])], daemon=True).start()
    reactor.callWhenRunning(lambda: print(json.dumps(ports), file=told, flush=True))
    reactor.run()


def _stop_with(pipe: int) -> None:
    os.read(pipe, 1)
    reactor.callFromThread(reactor.stop)


if __name__ == "__main__":
    main()
