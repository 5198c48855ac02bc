"""TelemetryPublisher: publishes the state of a backend once a second, and when it changes.

It is a listener of exchanges. It reads everything else from a TelemetrySource. telemetry.py makes the messages. Outlets
send them, for example over the sockets in telemetry_socket.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from discosbackend.commands import COMMANDS
from discosbackend.errors import GrammarException, HandlerException, NotSupportedError, in_one_line
from discosbackend.exchanges import ConnectionEvent, Exchange, Reads
from discosbackend.grammar import OK, Message, parse_message
from discosbackend.handlers import execute_of
from discosbackend.monitor.clock_health import Synchronisation, ask_kernel
from discosbackend.monitor.state import ServerState
from discosbackend.monitor.telemetry import BackendState, TelemetryChannel, encode, message
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger
from discosbackend.ticks import TICKS_PER_SECOND, Ticks
from discosbackend.values import TYPES

__all__ = ["BUSY_LANES", "Outlet", "ServerSource", "TelemetryPublisher", "TelemetrySource", "values_of"]

logger = logging.getLogger(__name__)

# Seconds between two messages if nothing changes.
_PERIOD = 1.0

# Seconds. Changes that follow each other faster are in one message.
_SHORTEST_PERIOD = 0.05

# Seconds after which a timed start or stop is noticed; and a start of which nothing was known before.
_LOOK, _RARE_LOOK = 0.05, 0.25

_STATUS = "status"
_INTEGRATION = "get-integration"

# The commands whose replies a message contains.
_ASKED = (_STATUS, _INTEGRATION)

BUSY_LANES = ("device", "files")
"""The lanes in which a running command makes the backend busy."""

# What the text of status is if the backend fails to answer.
_NO_STATUS = "no reply"


class TelemetrySource(Protocol):
    """What a TelemetryPublisher reads of a server, besides the exchanges."""

    @property
    def acquiring(self) -> bool | None:
        """Whether the backend is acquiring. None: use the reply to `status`."""

    @property
    def pending_start(self) -> float | None:
        """The time of the pending start, in Unix seconds. None if there is none, or if it is not known."""

    @property
    def device_busy(self) -> bool:
        """Whether a command of the lanes `device` or `files` runs."""

    @property
    def recording_problem(self) -> str:
        """Why data are not recorded; "" if there is no problem."""

    @property
    def clock_synchronised(self) -> bool | None:
        """Whether the clock of the host is synchronised. None: unknown."""

    def channels(self) -> Sequence[TelemetryChannel]:
        """Return the channels. It may raise any exception."""

    def ask(self, name: str) -> bytes | Deferred[bytes]:
        """Execute a command that only reads, and return its reply, as Handler.execute() does.

        A source that cannot execute commands returns the last reply that it has seen.
        """


class Outlet(Protocol):
    """Sends messages: a connection to a proxy, or a server for clients."""

    @property
    def state(self) -> str:
        """Its state, in a word."""

    @property
    def problem(self) -> str:
        """Why messages are not received; "" if there is no problem."""

    def send(self, payload: bytes) -> None:
        """Send a message, without waiting."""

    def close(self) -> None:
        """Send nothing more."""


class ServerSource:
    """The TelemetrySource of a server.

    Parameters
    ----------
    state
        The state of the server.
    handler
        Its handler.
    ask_clock
        Returns whether the clock of the host is synchronised.
    """

    def __init__(self, state: ServerState, handler: Any, ask_clock: Callable[[], Synchronisation] = ask_kernel) -> None:
        self._state = state
        self._backend = getattr(handler, "backend", None)
        self._execute = execute_of(handler)
        self._ask_clock = ask_clock

    @property
    def acquiring(self) -> bool | None:
        acquisition = self._state.acquisition
        return None if acquisition is None else acquisition.acquiring

    @property
    def pending_start(self) -> float | None:
        acquisition = self._state.acquisition
        return None if acquisition is None else acquisition.pending_start

    @property
    def device_busy(self) -> bool:
        return any(lane.holder is not None and lane.name in BUSY_LANES for lane in self._state.lanes or ())

    @property
    def recording_problem(self) -> str:
        queue = self._state.queue
        return "" if queue is None else queue.problem

    @property
    def clock_synchronised(self) -> bool | None:
        return self._ask_clock().synchronised

    def channels(self) -> Sequence[TelemetryChannel]:
        hook = getattr(self._backend, "telemetry_channels", None)
        return hook() if callable(hook) else ()

    def ask(self, name: str) -> bytes | Deferred[bytes]:
        return self._execute(name, ())


class TelemetryPublisher:
    """Publishes the state of a backend: once a second, and soon after each change.

    Append it to the `listeners` of Batches. Telemetry asks the backend for `status` and `get-integration`
    once a second, unless a client has just asked for it. If this fails, or if the channels cannot be read, the rest of
    the message is published.

    Parameters
    ----------
    name
        The name of the backend in the messages.
    source
        The source of the state, besides the exchanges.
    outlets
        The outlets that send the messages.
    reactor
        Timers, or the reactor.
    compression
        `none` or `zlib`.
    now_ticks
        Returns the UTC clock of the host.
    before_message
        Called before a message is made, such as Batches.flush.
    """

    def __init__(
        self,
        name: str,
        source: TelemetrySource,
        outlets: Sequence[Outlet],
        *,
        reactor: Any,
        compression: str = "none",
        now_ticks: Callable[[], Ticks] = Ticks.now,
        before_message: Callable[[], object] = lambda: None,
    ) -> None:
        self._name = name
        self._before_message = before_message
        self._source = source
        self._outlets = tuple(outlets)
        self._reactor = reactor
        self._compression = compression
        self._now = now_ticks
        self._limited = RateLimitedLogger(logger, reactor.callLater)
        self._channels_problem = ""
        # The latest replies by the names of their commands: lines that are read when a message is made.
        self._replies: dict[str, bytes] = {}
        # The commands that clients have asked since the last question, and those that have not answered ours yet.
        self._heard: set[str] = set()
        self._waiting: set[str] = set()
        # The commands whose last question failed: a failure is logged once.
        self._failed: set[str] = set()
        # What the commands reply, `status` without its timestamp: a change of this is published.
        self._contents: dict[str, bytes] = {}
        self._status_text: str | None = None
        self._acquiring = False
        self._integration: float | None = None
        # How far the clock of the backend is ahead of the clock of the host, in ticks.
        self._clock_offset = 0
        self._clock_reading = Ticks(0)
        self._seen: tuple[bool | None, float | None] = (None, None)
        self._last_sent = float("-inf")
        self._next: Any = None
        self._change: Any = None
        # While a message is made: a change that its replies show is in this message.
        self._publishing = False
        self._look: Any = None

    @property
    def state(self) -> str:
        """The states of the outlets, such as `connected`."""
        return ", ".join(outlet.state for outlet in self._outlets)

    @property
    def problem(self) -> str:
        """Why the messages do not arrive, or what is missing in them; "" if there is no problem."""
        problems = [*(outlet.problem for outlet in self._outlets), self._channels_problem]
        return "; ".join(filter(None, problems))

    def to_dict(self) -> dict[str, str]:
        """Return the state and the problem, for /status.json."""
        return {"state": self.state, "problem": self.problem}

    # -- the times of messages ------------------------------------------------------------------------

    def start(self) -> None:
        """Start publishing: the first message is sent at once."""
        self._seen = self._acquisition_state()
        self._look = self._reactor.callLater(_RARE_LOOK, self._look_at_acquisition)
        self._publish_periodically()

    def stop(self) -> None:
        """Stop publishing, and close the outlets."""
        for call in (self._next, self._change, self._look):
            if call is not None and call.active():
                call.cancel()
        self._next = self._change = self._look = None
        for outlet in self._outlets:
            outlet.close()
        self._limited.sum_up()

    def add_records(self, records: Sequence[Exchange | ConnectionEvent]) -> None:
        """Handle exchanges: publish soon after a change, and keep the latest replies."""
        latest: dict[str, Exchange] = {}
        if isinstance(records, Reads):
            latest = {name: found for name in _ASKED if (found := records.last_of(name)) is not None}
            records = ()
        for record in records:
            if not isinstance(record, Exchange):
                continue
            if record.changes:
                self._publish_soon()
            elif record.name in _ASKED and record.code == OK:
                latest[record.name] = record
        for name, exchange in latest.items():
            if exchange.reply is not None:
                self._heard.add(name)
                age = Ticks.now() - exchange.begin - round(exchange.seconds * TICKS_PER_SECOND)
                self._store(name, exchange.reply, age)

    def _publish_periodically(self) -> None:
        self._next = self._reactor.callLater(_PERIOD, self._publish_periodically)
        self._publish_now(with_all=False)

    def _publish_soon(self) -> None:
        if self._change is None and self._next is not None and not self._publishing:
            wait = self._last_sent + _SHORTEST_PERIOD - self._reactor.seconds()
            # The clock of the reactor may be stepped.
            self._change = self._reactor.callLater(min(max(wait, 0.0), _SHORTEST_PERIOD), self._publish_now)

    def _publish_now(self, *, with_all: bool = True) -> None:
        """Ask the backend, and publish with the replies that arrive at once.

        Parameters
        ----------
        with_all
            Whether all commands are asked. False: only those that no client has asked since the last message, because
            those replies are recent enough.
        """
        self._before_message()
        if self._change is not None and self._change.active():
            self._change.cancel()
        self._change = None
        questions = [name for name in _ASKED if with_all or name not in self._heard]
        self._heard.clear()
        self._publishing = True
        try:
            self._ask(questions)
        finally:
            self._publishing = False
        self._last_sent = self._reactor.seconds()
        try:
            payload = encode(message(self._name, self._backend_state()), self._compression)
            for outlet in self._outlets:
                outlet.send(payload)
        except BaseException:  # noqa: BLE001  # what the source reads belongs to the backend, which may raise anything
            self._limited.log(logging.ERROR, "telemetry", "a telemetry message is lost", exc_info=True, window=MINUTE)

    def _look_at_acquisition(self) -> None:
        """Notice a timed start or stop, which is no exchange."""
        # Each look wakes the server up.
        seconds = _LOOK if any(self._seen) else _RARE_LOOK
        self._look = self._reactor.callLater(seconds, self._look_at_acquisition)
        state = self._acquisition_state()
        if state != self._seen:
            self._seen = state
            self._publish_soon()

    def _acquisition_state(self) -> tuple[bool | None, float | None]:
        return self._source.acquiring, self._source.pending_start

    # -- what the backend replies ---------------------------------------------------------------------

    def _ask(self, names: Sequence[str]) -> None:
        """Ask the backend, unless it has not answered the previous question of this kind yet."""
        for name in names:
            if name in self._waiting:
                continue
            self._waiting.add(name)
            try:
                reply = self._source.ask(name)
            except BaseException as problem:  # noqa: BLE001  # a backend may raise anything
                self._on_failure(problem, name)
                continue
            if isinstance(reply, Deferred):
                reply.addCallback(self._on_reply, name)
                reply.addErrback(self._on_deferred_failure, name)
            else:
                self._on_reply(reply, name)

    def _on_reply(self, reply: bytes, name: str) -> None:
        if values_of(name, reply) is None:
            self._on_failure(HandlerException(f"invalid reply to {name}"), name)
            return
        self._waiting.discard(name)
        self._failed.discard(name)
        self._store(name, reply)

    def _on_deferred_failure(self, failure: Failure, name: str) -> None:
        assert failure.value is not None
        self._on_failure(failure.value, name)

    def _on_failure(self, problem: BaseException, name: str) -> None:
        self._waiting.discard(name)
        if not isinstance(problem, HandlerException) and name not in self._failed:
            self._failed.add(name)
            text = "telemetry: %s of the backend failed: %s"
            self._limited.log(logging.WARNING, ("telemetry", name), text, name, in_one_line(problem), window=MINUTE)
        self._replies.pop(name, None)
        self._notice(name, b"")
        if name == _INTEGRATION:
            self._integration = None
        elif not isinstance(problem, NotSupportedError):
            # The text of a refusal is not used: that it is not `ok` is published.
            self._status_text = _NO_STATUS

    def _store(self, name: str, reply: bytes, age: int = 0) -> None:
        """Store a reply, which is read when it is needed. It was given so many ticks ago."""
        self._replies[name] = reply
        if name == _STATUS:
            # !status,ok,TIMESTAMP,TEXT,ACQUIRING
            self._clock_reading = Ticks(self._now() - age)
            reply = reply.split(b",", 3)[-1]
        self._notice(name, reply)

    def _notice(self, name: str, content: bytes) -> None:
        if content != self._contents.get(name):
            self._contents[name] = content
            self._publish_soon()

    def _read_replies(self) -> None:
        if (reply := self._replies.pop(_STATUS, None)) is not None:
            values = values_of(_STATUS, reply)
            if values is not None:
                time, self._status_text, self._acquiring = values
                self._clock_offset = time - self._clock_reading
        if (reply := self._replies.pop(_INTEGRATION, None)) is not None:
            (self._integration,) = values_of(_INTEGRATION, reply) or (None,)

    # -- the message ----------------------------------------------------------------------------------

    def _backend_state(self) -> BackendState:
        self._read_replies()
        source, now = self._source, self._now()
        acquiring = source.acquiring
        return BackendState(
            time=now,
            backend_time=Ticks(now + self._clock_offset),
            acquiring=self._acquiring if acquiring is None else acquiring,
            start_pending=source.pending_start is not None,
            device_busy=source.device_busy,
            status_text=self._status_text,
            recording_problem=source.recording_problem,
            clock_synchronised=source.clock_synchronised,
            integration=self._integration,
            channels=self._channels(),
        )

    def _channels(self) -> Sequence[TelemetryChannel]:
        """Return the channels; none if the backend does not give them correctly, which is logged once."""
        try:
            channels = self._source.channels()
            # An iterator, or a Deferred, which can be iterated too, might never end.
            if not isinstance(channels, Sequence):
                raise TypeError(f"telemetry_channels() must return a list of TelemetryChannel, not {channels!r}")
            for channel in channels:
                if not isinstance(channel, TelemetryChannel):
                    raise TypeError(f"telemetry_channels() must return TelemetryChannels, not {channel!r}")
        except BaseException as problem:  # noqa: BLE001  # a backend may raise anything
            text = f"telemetry_channels() of the backend failed: {in_one_line(problem)}"
            if text != self._channels_problem:
                self._channels_problem = text
                log = "telemetry is published without channels"
                self._limited.log(logging.ERROR, "telemetry_channels", log, exc_info=True, window=MINUTE)
            return ()
        self._channels_problem = ""
        return channels


def values_of(name: str, reply: bytes) -> list[Any] | None:
    """Return the values of an `ok` reply; None if it is not valid. Injected faults can damage what a client got."""
    try:
        found: Message = parse_message(reply.decode("latin-1"))
        fields = COMMANDS[name].reply
        if found.name != name or found.code != OK or len(found.arguments) != len(fields):
            return None
        return [TYPES[field.type][0](text) for field, text in zip(fields, found.arguments, strict=True)]
    except (GrammarException, ValueError):
        return None
