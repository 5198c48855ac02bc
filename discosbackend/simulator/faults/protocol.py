"""Faults carried out on replies and connections: FaultyProtocol and FaultyFactory.

Which fault applies is decided in script; calls that go wrong are in calls, a port that can refuse connections is
in listener. Replies without a fault are sent unchanged.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from discosbackend.handlers import Handler
from discosbackend.protocol import DBFactory, DBProtocol
from discosbackend.simulator.faults.calls import FaultyCalls
from discosbackend.simulator.faults.kinds import KINDS
from discosbackend.simulator.faults.listener import PausableEndpoint, PausableListener
from discosbackend.simulator.faults.script import Fault, Faults

__all__ = ["AdjustableClock", "FaultyFactory", "FaultyProtocol", "FaultyReply", "faulty_reply"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class FaultyReply:
    """A reply that waits to leave: its bytes, from when on it may, and how.

    `swaps`: it waits for the next one and leaves behind it. `drops`: its connection is closed after it.
    """

    data: bytes
    due: float
    swaps: bool
    byte_by_byte: bool
    drops: bool


def faulty_reply(line: bytes, faults: Mapping[str, Fault], now: float) -> FaultyReply:
    """What the faults, by their kind, make of a line together. Of drops, the earliest counts."""
    if "long" in faults:
        # A comma, CR and LF are three; one byte at least, because no argument is empty.
        line += b"," + b"x" * max((faults["long"].bytes or 0) - len(line) - 3, 1)
    half = line[: len(line) // 2]
    data = half if "cut" in faults else line + (b"\n" if "lf" in faults else b"\r\n")
    if "duplicate" in faults:
        data *= 2
    if "drop-inside" in faults:
        data = half
    if "drop-before" in faults:
        data = b""
    seconds = (faults["late"].seconds or 0.0) if "late" in faults else 0.0
    drops = any(kind.startswith("drop-") for kind in faults)
    return FaultyReply(data, now + seconds, "swap" in faults and not drops, "bytes" in faults, drops)


# A reply that waits for the next one, to leave after it, waits so many seconds.
_SWAP_PATIENCE = 1.0

# Seconds between two bytes of a reply in single bytes: without them the system hands over several at once.
_BETWEEN_BYTES = 0.001

# Bytes of replies that wait to leave, from which on no more are made.
_OUTBOX_LIMIT = 65536


class AdjustableClock(Protocol):
    """What is asked of the clock of a simulated instrument; SimulatedClock has it."""

    def jump(self, seconds: float) -> None:
        """Step by so much. ValueError if it were off by too much then."""

    def set_drift(self, ppm: float) -> None:
        """Run too fast by so many millionths from now on. ValueError for too many."""


class FaultyProtocol(DBProtocol):
    """A connection whose replies may be struck.

    From a reply that has to wait on, all leave through an outbox, so that they keep their order behind it.
    """

    factory: FaultyFactory

    def __init__(self) -> None:
        super().__init__()
        self._outbox: deque[FaultyReply] = deque()
        self._weight = 0
        self._timer: Any = None
        # Whether replies must not just be written: some wait, all is paused, or the connection was dropped.
        self._diverted = False
        self._dropped = False
        self._unread = False

    @property
    def busy(self) -> bool:
        """Whether a request that was read has no reply yet, or its reply has not left."""
        return bool(self._outbox) or super().busy

    # -- from a reply to its bytes --------------------------------------------------------------------

    def sendLine(self, line: bytes) -> None:
        """Send one line, or what the faults that strike it make of it."""
        if self._diverted or self.factory.faults.on_replies:
            self._send_faulty(line)
        else:
            super().sendLine(line)

    def _send_faulty(self, line: bytes) -> None:
        if self._lost or self._dropped:
            return
        name = line[1:].partition(b",")[0].decode("latin-1")
        applied = self.factory.faults.on_reply(name) if self.factory.faults.on_replies else []
        for fault in applied:
            if KINDS[fault.kind].applies_to == "moment":
                self.factory.apply(fault)
                if fault.kind == "restart":
                    # The reply to the request at which the server goes down is not sent.
                    self._mute()
                    return
        if not applied and not self._diverted:
            super().sendLine(line)
            return
        held = faulty_reply(line, {fault.kind: fault for fault in applied}, self.factory.reactor.seconds())
        if self._outbox and self._outbox[-1].swaps:
            self._stop_waiting()
            self._outbox[-1].swaps = held.swaps = False
            self._outbox.insert(len(self._outbox) - 1, held)
        else:
            self._outbox.append(held)
        self._weight += len(held.data)
        self._pump()
        if self._weight > _OUTBOX_LIMIT and not self.factory.stopping:
            super().pauseProducing()

    def _pump(self) -> None:
        """Let leave what may leave now, in order; come back when the next one is due."""
        now = self.factory.reactor.seconds()
        while self._outbox and self._timer is None and not self.factory.paused:
            held = self._outbox[0]
            if held.swaps or held.due > now:
                due = held.due + (_SWAP_PATIENCE if held.swaps else 0.0)
                self._wait(max(due - now, 0.0), self._stop_delaying, held)
            elif held.byte_by_byte and held.data:
                self._wait(_BETWEEN_BYTES, self._next_byte, held)
            else:
                self._outbox.popleft()
                self._emit(held)
                if held.drops:
                    self._drop()
        self._diverted = self._dropped or self.factory.paused or self._timer is not None or bool(self._outbox)

    def _emit(self, held: FaultyReply) -> None:
        self._weight -= len(held.data)
        if self._out is not None:
            self._out.append(held.data)
        elif held.data:
            self._transport().write(held.data)

    def _stop_delaying(self, held: FaultyReply) -> None:
        """It has waited long enough."""
        held.swaps, held.due = False, 0.0
        self._continue()

    def _next_byte(self, held: FaultyReply) -> None:
        """One byte; what is behind the last one keeps its distance too."""
        if not self.factory.paused:
            self._transport().write(held.data[:1])
            held.data = held.data[1:]
            self._weight -= 1
            if not held.data:
                self._wait(_BETWEEN_BYTES, self._continue)
                return
        self._continue()

    def _continue(self) -> None:
        """What was waited for is over: so may be the reasons to read no more, or not to close."""
        self._timer = None
        self._pump()
        self._read_on()
        self._close_if_idle()

    def _wait(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        self._timer = self.factory.reactor.callLater(seconds, function, *args)

    def _stop_waiting(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _flush(self) -> None:
        """Write what waits, as it is: there is no more time to wait."""
        self._stop_waiting()
        while self._outbox and not self._dropped:
            held = self._outbox.popleft()
            self._emit(held)
            if held.drops:
                self._drop()
        self._diverted = self._dropped

    def _drop(self) -> None:
        """Close once what has left is sent."""
        self._mute()
        if self._out:
            self._transport().write(b"".join(self._out))
            self._out.clear()
        super().close()
        # No reply leaves any more, so none has to be read before the next request is carried out.
        self._unread = False
        self._read_on()

    def _mute(self) -> None:
        """What waits, and what will be answered, goes nowhere."""
        self._forget()
        self._dropped = self._diverted = True

    def _forget(self) -> None:
        self._stop_waiting()
        self._outbox.clear()
        self._weight = 0

    # -- reading --------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Greet, unless the server is paused: then it reads nothing either."""
        self._diverted = self.factory.paused
        super().connectionMade()
        if self.factory.paused:
            self.freeze()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone, and with it what waited to leave."""
        self._forget()
        self._unread = False
        super().connectionLost(reason)

    def pauseProducing(self) -> None:
        """The client does not read its replies."""
        self._unread = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The client has read on."""
        self._unread = False
        self._read_on()

    def _read_on(self) -> None:
        if not self._unread and not self.factory.paused and self._weight <= _OUTBOX_LIMIT:
            super().resumeProducing()

    @property
    def has_work(self) -> bool:
        """Whether there is a line that could be looked at now."""
        return not self.factory.paused and super().has_work

    def work(self, quantum: int, deadline: float = float("inf")) -> None:
        """Answer lines, unless the server is paused."""
        if not self.factory.paused:
            super().work(quantum, deadline)

    def freeze(self) -> None:
        """The server is paused: look at nothing, let nothing leave."""
        self._diverted = True
        super().pauseProducing()

    def thaw(self) -> None:
        """It goes on."""
        self._pump()
        self._read_on()
        self._update_read_pause()
        self._close_if_idle()

    @property
    def _wants_more(self) -> bool:
        """Whether requests are to be read: a server that is paused reads nothing."""
        return not self.factory.paused and super()._wants_more

    def _greet(self) -> None:
        if self.factory.paused:
            # Whether the client is silent is seen when it is listened to again.
            self._greeting = self.factory.reactor.callLater(self.factory.greeting_delay, self._greet)
        else:
            super()._greet()

    # -- the end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close once everything has been sent, also what was to leave later."""
        if not self._lost:
            self._flush()
        super().close()

    def abandon(self) -> Deferred[Any] | None:
        """Answer what has no reply yet; nothing waits any longer."""
        source = super().abandon()
        if not self._lost:
            self._flush()
        return source

    def cut_off(self) -> Deferred[Any] | None:
        """Close, and carry out nothing more of what was read; returns what was waited for."""
        pending, self._pending = self._pending, None
        self._lines, self._at, self._backlog = (), 0, 0
        if not self._lost:
            self._drop()
        self._close_if_idle()
        return None if pending is None else pending.source


class FaultyFactory(DBFactory):
    """Makes a FaultyProtocol for each connection, on one handler, whose calls it lets go wrong too.

    `clock` is the instrument's, which clock faults put off; `reset` makes the backend as when it was switched
    on, for restarts. Listen on `pausable_endpoint(endpoint)`, else connections cannot be refused. Faults may be
    armed and removed in `faults` at any time.
    """

    protocol = FaultyProtocol

    def __init__(
        self,
        handler: Handler,
        faults: Faults | None = None,
        *,
        clock: AdjustableClock | None = None,
        reset: Callable[[], object] | None = None,
        greeting_delay: float = 0.0,
        reactor: Any = None,
    ) -> None:
        super().__init__(handler, greeting_delay=greeting_delay, reactor=reactor)
        self.faults = Faults() if faults is None else faults
        self.pausable_listener: PausableListener | None = None
        self.paused = False
        self._clock = clock
        self._reset = reset
        self._calls = FaultyCalls(handler, self.faults, lambda: self.reactor)

    def pausable_endpoint(self, endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
        """The same endpoint, whose port can refuse connections for a while."""
        return PausableEndpoint(endpoint, self._set_listener, lambda: self.reactor)

    def _set_listener(self, pausable_listener: PausableListener) -> None:
        self.pausable_listener = pausable_listener

    def startFactory(self) -> None:
        """Twisted's hook: the first port listens, so moments count from now."""
        super().startFactory()
        self.faults.begin(self.reactor, self)

    def stopFactory(self) -> None:
        """Twisted's hook: the last port is closed."""
        self._end_faults()
        super().stopFactory()

    def finish(self, timeout: float) -> Deferred[None]:
        """Let the requests that are being carried out finish, what hangs fail, and late replies leave."""
        self._end_faults()
        return super().finish(timeout)

    def _end_faults(self) -> None:
        self.faults.end()
        self._calls.release()
        self.resume()

    # -- all connections at once ----------------------------------------------------------------------

    def pause(self) -> None:
        """Freeze: nothing that arrives is looked at and no reply leaves until resume(); nothing is lost.

        What is being carried out goes on. Each client can send as much as its connection holds.
        """
        if not self.paused:
            self.paused = True
            for connection in self._all():
                connection.freeze()

    def resume(self) -> None:
        """Go on: everything that came meanwhile is answered, in order."""
        if self.paused:
            self.paused = False
            for connection in self._all():
                connection.thaw()

    def restart(self, seconds: float) -> None:
        """Go down, and come up again after `seconds` where it was, the backend as when switched on.

        Every connection is dropped, what was asked for is given up without a reply, a pause is over.
        """
        if self.stopping:
            return
        logger.info("restarting on purpose: back in %g s", seconds)
        if self.pausable_listener is None:
            self._restart_now(seconds)
        else:
            # Who sees its connection end, and makes a new one at once, is to be refused.
            self.pausable_listener.pause(seconds).addCallback(lambda _: self._restart_now(seconds))

    def _restart_now(self, seconds: float) -> None:
        if self.stopping:
            return
        dropped = self._all()
        sources = [connection.cut_off() for connection in dropped]
        self.paused = False
        with self._calls.given_up():
            for source in sources:
                if source is not None:
                    maybeDeferred(source.cancel).addErrback(_log_problem, "cancelling a command failed")
        # One that reads nothing would keep its old connection for ever.
        self.reactor.callLater(seconds, _abort, dropped)
        if self._reset is not None:
            maybeDeferred(self._reset).addErrback(_log_problem, "the backend could not be reset")

    def _all(self) -> list[FaultyProtocol]:
        return [connection for connection in self.connections if isinstance(connection, FaultyProtocol)]

    # -- what strikes no single reply -----------------------------------------------------------------

    def apply(self, fault: Fault) -> None:
        """Carry out a fault of those that strike at a moment."""
        seconds = fault.seconds or 0.0
        if fault.kind == "restart":
            # In a turn of its own: a connection may be in the middle of its lines.
            self.reactor.callLater(0, self.restart, seconds)
        elif fault.kind == "refuse":
            if self.pausable_listener is None:
                logger.warning("connections cannot be refused: the server listens on no pausable endpoint")
            else:
                self.pausable_listener.pause(seconds)
        elif self._clock is None:
            logger.warning("%s does nothing: this server has no simulated clock", fault.kind)
        else:
            logger.info("the clock is put off on purpose: %s", fault.table)
            self._adjust(self._clock, fault, fault.seconds or 0.0)

    def _adjust(self, clock: AdjustableClock, fault: Fault, seconds: float) -> None:
        """Have the clock drift as all faults together make it, or step it."""
        drifts = [armed.fault.ppm or 0.0 for armed in self.faults.armed if armed.applied]
        try:
            if fault.kind == "clock-drift":
                clock.set_drift(sum(drifts))
            else:
                clock.jump(seconds)
        except ValueError as problem:
            # Each may be, but not all of them together. The reply that it struck leaves all the same.
            logger.warning("%s does nothing: %s", fault.kind, problem)

    def undo(self, fault: Fault) -> None:
        """One that lasts was removed: put the clock back, or stop its drift, which leaves it where it is."""
        if self._clock is not None:
            self._adjust(self._clock, fault, -(fault.seconds or 0.0))


def _abort(connections: list[FaultyProtocol]) -> None:
    for connection in connections:
        connection.abort()


def _log_problem(failure: Failure, what: str) -> None:
    logger.error("%s: %s", what, failure.getTraceback())
