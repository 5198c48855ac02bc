"""FaultyProtocol and FaultyFactory: apply faults to replies and connections.

script decides which faults apply, calls applies faults to commands, listener has the port that can refuse connections.
Replies without a fault are sent unchanged.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from discosbackend.handlers import Handler
from discosbackend.output import Output
from discosbackend.protocol import DBFactory, DBProtocol
from discosbackend.simulator.faults.calls import FaultyCalls
from discosbackend.simulator.faults.kinds import KINDS
from discosbackend.simulator.faults.listener import PausableEndpoint, PausableListener
from discosbackend.simulator.faults.script import Fault, Faults

if TYPE_CHECKING:
    from discosbackend.access import AccessRules

__all__ = ["AdjustableClock", "FaultyFactory", "FaultyProtocol", "FaultyReply", "faulty_reply"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class FaultyReply:
    """A queued reply.

    `data` are its bytes; they are sent at the time `due` (seconds of the reactor) or later. If it `swaps`, it waits for
    the next reply and is sent after it. `byte_by_byte`: its bytes are sent one at a time. `drops`: the connection is
    closed after it.
    """

    data: bytes
    due: float
    swaps: bool
    byte_by_byte: bool
    drops: bool


def faulty_reply(line: bytes, faults: Mapping[str, Fault], now: float) -> FaultyReply:
    """Apply faults to a reply.

    Parameters
    ----------
    line
        The reply without its line end.
    faults
        The faults by kind. Of several kinds that drop the connection, the one that drops it earliest applies.
    now
        The time of the reactor in seconds.

    Returns
    -------
    FaultyReply
        The reply to send.
    """
    if "long" in faults:
        # 3: a comma, CR and LF. At least one byte, because the argument must not be empty.
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


# Seconds that a reply with the fault `swap` waits for the next reply.
_SWAP_PATIENCE = 1.0

# Seconds between single bytes of a reply; without a pause the system would combine several.
_BETWEEN_BYTES = 0.001

_CLOCK_KINDS = ("clock-off", "clock-drift", "clock-step")

# Bytes. If more are queued, no further requests are read.
_OUTBOX_LIMIT = 65536


class AdjustableClock(Protocol):
    """The interface of the simulated clock that the clock faults use; SimulatedClock implements it."""

    def jump(self, seconds: float) -> None:
        """Step the clock by this many seconds. Raise ValueError if its offset would be too large."""

    def set_error(self, seconds: float, ppm: float) -> None:
        """Set what is added to its own offset and to its own drift. Raise ValueError if a sum is too large."""


class FaultyOutput(Output):
    """Sends the replies of a connection, with faults.

    A reply that has to wait is queued, and all replies after it, so that their order is kept.
    """

    _connection: FaultyProtocol

    def __init__(self, connection: FaultyProtocol) -> None:
        super().__init__(connection)
        self._outbox: deque[FaultyReply] = deque()
        self._weight = 0
        self._timer: Any = None
        # Whether replies cannot be written directly: some are queued, the server is paused, or it drops the connection.
        self._diverted = False
        self._dropped = False
        # Whether the transport's buffer is full.
        self._unread = False

    @property
    def busy(self) -> bool:  # type: ignore[override]  # it is derived here
        """Whether a reply is queued."""
        return bool(self._outbox)

    def begin(self, transport: Any) -> None:
        """Send to this transport. While the server is paused, only queue the replies."""
        self._diverted = self._connection.factory.paused
        super().begin(transport)

    def lost(self) -> None:
        """Discard the queued replies, because the connection is lost."""
        self._forget()
        self._unread = False
        super().lost()

    # -- from a reply to its bytes --------------------------------------------------------------------

    def send(self, line: bytes) -> None:
        """Send a reply, with the faults that apply to it."""
        factory = self._connection.factory
        if not self._diverted and not factory.faults.on_replies:
            super().send(line)
            return
        if self._transport is None or self._dropped:
            return
        name = line[1:].partition(b",")[0].decode("latin-1")
        applied = factory.faults.on_reply(name) if factory.faults.on_replies else []
        for fault in applied:
            if KINDS[fault.kind].applies_to == "moment":
                factory.apply(fault)
                if fault.kind == "restart":
                    # The request that triggers a restart gets no reply.
                    self._mute()
                    return
        if not applied and not self._diverted:
            super().send(line)
            return
        held = faulty_reply(line, {fault.kind: fault for fault in applied}, factory.reactor.seconds())
        if self._outbox and self._outbox[-1].swaps:
            self._stop_waiting()
            self._outbox[-1].swaps = held.swaps = False
            self._outbox.insert(len(self._outbox) - 1, held)
        else:
            self._outbox.append(held)
        self._weight += len(held.data)
        self._pump()
        self._update()

    def _pump(self) -> None:
        """Send the queued replies that are due, in order, and set a timer for the next one."""
        now = self._connection.factory.reactor.seconds()
        while self._outbox and self._timer is None and not self._connection.factory.paused:
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
                    self.drop()
        self._diverted = (
            self._dropped or self._connection.factory.paused or self._timer is not None or bool(self._outbox)
        )

    def _emit(self, held: FaultyReply) -> None:
        self._weight -= len(held.data)
        if held.data:
            self.write(held.data)

    def _stop_delaying(self, held: FaultyReply) -> None:
        """Send a reply that has waited long enough."""
        held.swaps, held.due = False, 0.0
        self._continue()

    def _next_byte(self, held: FaultyReply) -> None:
        """Send one byte. The data after the last byte is delayed too."""
        if not self._connection.factory.paused:
            self.write(held.data[:1])
            held.data = held.data[1:]
            self._weight -= 1
            if not held.data:
                self._wait(_BETWEEN_BYTES, self._continue)
                return
        self._continue()

    def _continue(self) -> None:
        """Continue after a timer: send what is due."""
        self._timer = None
        self._pump()
        self._update()
        self._connection.output_changed()

    def _wait(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        self._timer = self._connection.factory.reactor.callLater(seconds, function, *args)

    def _stop_waiting(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def flush(self) -> None:
        """Write all queued replies now, without further delay, also for a client that does not read."""
        self._stop_waiting()
        self._unread = False
        while self._outbox and not self._dropped:
            held = self._outbox.popleft()
            self._emit(held)
            if held.drops:
                self.drop()
        self._diverted = self._dropped

    def drop(self) -> None:
        """Discard the queued replies, and close the connection once the written data is sent."""
        self._mute()
        # Closing flushes: a client that does not read does not stop the execution of its requests.
        self._connection.close()
        self._update()

    def _mute(self) -> None:
        """Discard the queued replies and all later ones."""
        self._forget()
        self._dropped = self._diverted = True

    def _forget(self) -> None:
        self._stop_waiting()
        self._outbox.clear()
        self._weight = 0

    # -- whether requests may be executed -------------------------------------------------------------

    def _update(self) -> None:
        factory = self._connection.factory
        ready = not self._unread and (self._weight <= _OUTBOX_LIMIT or factory.stopping)
        changed, self.ready = ready != self.ready, ready
        if changed and ready:
            self._connection.output_changed()

    def pauseProducing(self) -> None:
        """Twisted's hook: the transport's buffer is full, because the client does not read."""
        self._unread = True
        self._update()

    def resumeProducing(self) -> None:
        """Twisted's hook: the transport's buffer is empty again."""
        self._unread = False
        self._update()

    def hold(self) -> None:
        """Begin a pause: send no replies."""
        self._diverted = True

    def release(self) -> None:
        """End a pause: send the replies that are due."""
        self._pump()
        self._update()
        self._connection.output_changed()


class FaultyProtocol(DBProtocol):
    """A connection with faults."""

    factory: FaultyFactory
    output: FaultyOutput
    output_class = FaultyOutput

    def connectionMade(self) -> None:
        """Send the greeting; if the server is paused, send it later and do not read."""
        super().connectionMade()
        if self.factory.paused:
            self.freeze()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's hook: the connection is lost. While the server is paused, received requests are not executed."""
        super().connectionLost(reason)
        self.paused = self.factory.paused

    def freeze(self) -> None:
        """Begin a pause: execute no requests and send no replies."""
        self.output.hold()
        self.pauseProducing()

    def thaw(self) -> None:
        """End a pause."""
        self.output.release()
        self.resumeProducing()

    def cut_off(self) -> Deferred[Any] | None:
        """Close the connection and discard the received requests. Return the Deferred of a pending request, or None."""
        source = self.discard()
        self.paused = False
        self.output.drop()
        self.output_changed()
        return source


class FaultyFactory(DBFactory):
    """A DBFactory that applies faults to its connections and to the calls of its handler.

    Listen on the result of pausable_endpoint(). Otherwise connections cannot be refused. Faults may be armed and
    removed in the attribute `faults` at any time.

    Parameters
    ----------
    handler
        The handler of the requests.
    faults
        The armed faults. Default: none.
    clock
        The clock of the instrument, for the clock faults. Default: clock faults do nothing.
    reset
        Called at a restart, to reset the backend.
    greeting_delay
        As for DBFactory, in seconds.
    reactor
        Default: the global reactor.
    access
        As for DBFactory.
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
        access: AccessRules | None = None,
    ) -> None:
        super().__init__(handler, greeting_delay=greeting_delay, reactor=reactor, access=access)
        self.faults = Faults() if faults is None else faults
        self.pausable_listener: PausableListener | None = None
        self.paused = False
        self._clock = clock
        # The lasting faults that are in effect. A fault that did nothing is not one of them.
        self._clock_faults: list[Fault] = []
        self._reset = reset
        self._calls = FaultyCalls(handler, self.faults, lambda: self.reactor)

    def pausable_endpoint(self, endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
        """Wrap an endpoint, so that its port can refuse connections."""
        return PausableEndpoint(endpoint, self._set_listener, lambda: self.reactor)

    def _set_listener(self, pausable_listener: PausableListener) -> None:
        self.pausable_listener = pausable_listener

    def startFactory(self) -> None:
        """Begin the faults when the first port listens; called by Twisted."""
        super().startFactory()
        self.faults.begin(self.reactor, self)

    def stopFactory(self) -> None:
        """End the faults when the last port is closed; called by Twisted."""
        self._end_faults()
        super().stopFactory()

    def finish(self, timeout: float) -> Deferred[None]:
        """Shut down: running commands finish, hanging ones fail, and delayed replies are sent."""
        self._end_faults()
        return super().finish(timeout)

    def _end_faults(self) -> None:
        self.faults.end()
        self._calls.release()
        self.resume()

    # -- all connections at once ----------------------------------------------------------------------

    def pause(self) -> None:
        """Process no requests and send no replies until resume(). Nothing is lost.

        Running commands continue. The requests of a client stay in the buffers of its connection.
        """
        if not self.paused:
            self.paused = True
            for connection in self._all():
                connection.freeze()

    def resume(self) -> None:
        """End a pause: the requests received meanwhile are answered in order."""
        if self.paused:
            self.paused = False
            for connection in self._all():
                connection.thaw()

    def restart(self, seconds: float) -> None:
        """Simulate a restart of the server.

        All connections are closed, their requests are discarded without a reply, the backend is reset and a pause ends.
        Connections are refused until the restart is over.

        Parameters
        ----------
        seconds
            The duration in seconds.
        """
        if self.stopping:
            return
        logger.info("fault: restarting, back in %g s", seconds)
        if self.pausable_listener is None:
            self._restart_now(seconds)
        else:
            # Close the port first: a client that reconnects at once must be refused.
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
        # A client that does not read would keep its old connection for ever.
        self.reactor.callLater(seconds, _abort, dropped)
        if self._reset is not None:
            maybeDeferred(self._reset).addErrback(_log_problem, "the backend could not be reset")

    def _all(self) -> list[FaultyProtocol]:
        return [connection for connection in self.connections if isinstance(connection, FaultyProtocol)]

    # -- faults that apply at a moment ----------------------------------------------------------------

    def apply(self, fault: Fault) -> None:
        """Apply a fault that applies at a moment."""
        seconds = fault.seconds or 0.0
        if fault.kind == "restart":
            # In a later call of the reactor, because a connection may be processing its lines now.
            self.reactor.callLater(0, self.restart, seconds)
        elif fault.kind == "refuse":
            if self.pausable_listener is None:
                logger.warning("connections cannot be refused: the server does not listen on a pausable endpoint")
            else:
                self.pausable_listener.pause(seconds)
        elif fault.kind in _CLOCK_KINDS:
            self._change_clock(fault)
        else:
            raise NotImplementedError(f"faults of the kind {fault.kind} cannot be applied at a moment")

    def _change_clock(self, fault: Fault) -> None:
        if self._clock is None:
            logger.warning("%s does nothing: this server has no simulated clock", fault.kind)
            return
        logger.info("fault: changing the clock: %s", fault.table)
        try:
            if fault.kind == "clock-step":
                self._clock.jump(fault.seconds or 0.0)
            else:
                _set_error(self._clock, [*self._clock_faults, fault])
                self._clock_faults.append(fault)
        except ValueError as problem:
            # Each fault is valid, but not their sum. The reply that triggered it is sent all the same.
            logger.warning("%s does nothing: %s", fault.kind, problem)

    def undo(self, fault: Fault) -> None:
        """Undo a lasting fault: remove the error of a clock fault from the clock. The drift so far remains."""
        left = [each for each in self._clock_faults if each is not fault]
        if self._clock is None or len(left) == len(self._clock_faults):
            return
        self._clock_faults = left
        try:
            _set_error(self._clock, left)
        except ValueError as problem:
            # Two faults, or a fault and the clock's own drift, can compensate each other.
            logger.warning("%s is not undone yet: %s", fault.kind, problem)


def _set_error(clock: AdjustableClock, faults: Sequence[Fault]) -> None:
    """Make the sum of these faults the error of the clock."""
    clock.set_error(sum(fault.seconds or 0.0 for fault in faults), sum(fault.ppm or 0.0 for fault in faults))


def _abort(connections: list[FaultyProtocol]) -> None:
    for connection in connections:
        connection.abort()


def _log_problem(failure: Failure, what: str) -> None:
    logger.error("%s: %s", what, failure.getTraceback())
