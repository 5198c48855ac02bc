"""Live: sends what changes to the open pages, as server-sent events.

It is a listener of exchanges. As such it only appends to lists of bounded length. A timer sends the events, and runs
only while a page is open. A page that is slower than the events loses some of them, so the memory is bounded.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from discosbackend.commands import COMMANDS
from discosbackend.coroutines import deferred_of
from discosbackend.errors import GrammarException
from discosbackend.exchanges import ConnectionEvent, Exchange, Reads
from discosbackend.grammar import OK, parse_message
from discosbackend.monitor.quick_look import QuickLook, encoded
from discosbackend.monitor.sensor_history import SensorHistory
from discosbackend.monitor.site import Page, send
from discosbackend.monitor.slices import SlicedText
from discosbackend.monitor.snapshot import Snapshot, shortened
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger
from discosbackend.ticks import Ticks
from discosbackend.values import TYPES

__all__ = ["MOST_READERS", "Events", "Live"]

logger = logging.getLogger(__name__)

MOST_READERS = 32
"""How many pages can be open at the same time."""

_EVENT_STREAM = b"text/event-stream"

# How often exchanges are sent, and the status, in s.
_TICK = 0.25
_PERIOD = 1.0

# How many exchanges of each kind are kept for a page that is opened, and how many are sent in a tick; a page cannot
# show more. The kinds are kept separately, so that neither polling nor refused requests displace the changes.
_MOST_CHANGES, _CHANGES_PER_TICK = 300, 75
_MOST_FAILURES, _FAILURES_PER_TICK = 100, 25
_MOST_READS, _READS_PER_TICK = 100, 10

# How long a slice of the work takes, in s.
_SLICE = 3e-4

# How many ticks wait for a slow page, and for how long, in s. Then its connection is closed.
_MOST_BATCHES = 20
_PATIENCE = 60.0


class _Batch(NamedTuple):
    """The exchanges of a tick: the events, their number, and how many more there were."""

    events: bytes
    number: int
    missed: int


class _Log:
    """The last exchanges of one kind, and how many of them have not been sent."""

    def __init__(self, most: int, per_tick: int) -> None:
        self._most = most
        # The last exchanges as they came, because Reads make an Exchange only when it is needed; and their number.
        self._pieces: deque[Sequence[Exchange]] = deque()
        self._length = 0
        self.per_tick = per_tick
        self.unsent = 0

    def extend(self, exchanges: Sequence[Exchange]) -> None:
        if not exchanges:
            return
        self.unsent += len(exchanges)
        piece = exchanges[-self._most :]
        self._pieces.append(piece)
        self._length += len(piece)
        while self._length - len(self._pieces[0]) >= self._most:
            self._length -= len(self._pieces.popleft())

    def last(self, count: int | None = None) -> list[Exchange]:
        """Return the last exchanges: so many if there are so many, or all that are kept."""
        wanted = self._most if count is None else min(count, self._most)
        found: list[Sequence[Exchange]] = []
        for piece in reversed(self._pieces):
            if wanted <= 0:
                break
            found.append(piece[-wanted:])
            wanted -= len(piece)
        return [exchange for piece in reversed(found) for exchange in piece]

    def take(self) -> tuple[list[Exchange], int]:
        """Return the newest unsent exchanges, and how many older ones are left out."""
        unsent, self.unsent = self.unsent, 0
        found = self.last(min(unsent, self.per_tick))
        return found, unsent - len(found)


class Live:
    """The open pages, and the events for them. Append it to the `listeners` of Batches.

    Parameters
    ----------
    snapshot
        The document that is sent once a second.
    reactor
        Timers, or the reactor.
    quick_look
        The method of the backend that returns a QuickLook. It is called at most once a second, and only while a page
        is open. None: there is no picture.

    Attributes
    ----------
    sensor_history
        The last hour of the sensors.
    """

    def __init__(self, snapshot: Snapshot, reactor: Any, quick_look: Callable[[], Any] | None = None) -> None:
        self._snapshot = snapshot
        self._reactor = reactor
        self._quick_look = quick_look
        self.sensor_history = SensorHistory(reactor, lambda: () if snapshot.state is None else snapshot.state.sensors)
        self._changes = _Log(_MOST_CHANGES, _CHANGES_PER_TICK)
        self._failures = _Log(_MOST_FAILURES, _FAILURES_PER_TICK)
        self._reads = _Log(_MOST_READS, _READS_PER_TICK)
        self._logs = (self._changes, self._failures, self._reads)
        self._readers: set[_Reader] = set()
        self._timer: Any = None
        # When the status is sent next, by the clock of `reactor`.
        self._next = 0.0
        self._acquisition: object = None
        # The names of the events that are being made.
        self._making: set[str] = set()
        self._limited = RateLimitedLogger(logger, reactor.callLater)

    def __call__(self, record: Exchange | ConnectionEvent) -> None:
        """Keep an exchange."""
        self.add_records((record,))

    def add_records(self, records: Sequence[Exchange | ConnectionEvent]) -> None:
        """Keep the last exchanges of each kind."""
        if isinstance(records, Reads):
            self._reads.extend(records)
            return
        changes: list[Exchange] = []
        failures: list[Exchange] = []
        reads: list[Exchange] = []
        for record in records:
            if isinstance(record, Exchange):
                kind = failures if record.code != OK else changes if record.changes else reads
                kind.append(record)
        self._changes.extend(changes)
        self._failures.extend(failures)
        self._reads.extend(reads)

    def start(self) -> None:
        """Begin to keep the values of the sensors."""
        self.sensor_history.start()

    def stop(self) -> None:
        """Close all pages."""
        self.sensor_history.stop()
        self._limited.sum_up()
        for reader in list(self._readers):
            reader.close()

    @property
    def open(self) -> int:
        """The number of open pages."""
        return len(self._readers)

    def last_exchanges(self, most: int = 50) -> list[dict[str, Any]]:
        """Return the last exchanges that changed something, and the last that failed, the newest first.

        Parameters
        ----------
        most
            How many of each kind.
        """
        found = [*self._changes.last(most), *self._failures.last(most)]
        return [_shown(exchange) for exchange in sorted(found, key=_when, reverse=True)]

    # -- readers --------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Send events to a page until it is closed."""
        self._next = 0.0
        if not self._readers:
            self._tick()
        # What is kept now is in its history, and not sent to it. What comes later is.
        self._send_exchanges()
        reader = _Reader(request, self._reactor)
        self._readers.add(reader)
        request.notifyFinish().addBoth(self._remove, reader)
        last = [exchange for log in self._logs for exchange in log.last()]
        history = SlicedText(self._reactor, lambda: self._history(last), 0.0).get()
        history.addCallbacks(reader.begin, self._log_failure)

    def _remove(self, _: object, reader: _Reader) -> None:
        self._readers.discard(reader)
        if not self._readers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _history(self, exchanges: list[Exchange]) -> Iterator[str]:
        yield 'event: history\ndata: {"exchanges": '
        opening = "["
        for exchange in exchanges:
            yield f"{opening}{json.dumps(_shown(exchange))}"
            opening = ", "
        yield '[], "sensors": ' if opening == "[" else '], "sensors": '
        yield from self.sensor_history.pieces()
        yield "}\n\n"

    # -- the timer ------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._reactor.callLater(_TICK, self._tick)
        for reader in list(self._readers):
            reader.close_if_stuck()
        self._send_exchanges()
        now = self._reactor.seconds()
        acquisition = None if self._snapshot.state is None else self._snapshot.state.acquisition
        if acquisition != self._acquisition:
            self._acquisition = acquisition
            self._next = 0.0
        # The timer may be a little early.
        if now >= self._next - _TICK / 2:
            self._next = now + _PERIOD
            self._send_status()
            self._send_look()

    def _send_exchanges(self) -> None:
        taken = [log.take() for log in self._logs]
        records = [exchange for exchanges, _ in taken for exchange in exchanges]
        if not self._readers or not records:
            return
        events = "".join(f"event: exchange\ndata: {json.dumps(_shown(each))}\n\n" for each in records)
        batch = _Batch(events.encode(), len(records), sum(more for _, more in taken))
        for reader in list(self._readers):
            reader.send_batch(batch)

    def _send_status(self) -> None:
        answered = self._snapshot.refresh_status()
        if answered is not None:
            answered.addCallback(lambda _: self._make("status", self._snapshot.pieces))
        self._make("status", self._snapshot.pieces)

    def _make(self, name: str, pieces: Callable[[], Iterator[str]]) -> None:
        """Make an event in slices, and send it to all pages; not if the previous one is not finished."""
        if name in self._making:
            return
        self._making.add(name)

        def made(text: bytes) -> None:
            self._send_to_all(name, b"event: %b\ndata: %b\n\n" % (name.encode(), text), list(self._readers))

        def failed(failure: Failure) -> None:
            self._making.discard(name)
            self._log_failure(failure)

        SlicedText(self._reactor, pieces, 0.0).get().addCallbacks(made, failed)

    def _send_to_all(self, name: str, event: bytes, readers: list[_Reader]) -> None:
        """Send an event to these pages, in slices, because copying a long one takes some time."""
        end = perf_counter() + _SLICE
        while readers:
            readers.pop().send(name, event)
            if perf_counter() >= end and readers:
                self._reactor.callLater(0, self._send_to_all, name, event, readers)
                return
        self._making.discard(name)

    def _log_failure(self, failure: Failure) -> None:
        text = "an event for the page cannot be made"
        self._limited.log(logging.ERROR, "page", text, exc_info=_exc_info(failure), window=MINUTE, at_most=1)

    # -- the quick look -------------------------------------------------------------------------------

    def _send_look(self) -> None:
        if self._quick_look is None or "asking" in self._making or "quick_look" in self._making:
            return
        try:
            found = self._quick_look()
        except BaseException:  # noqa: BLE001  # a backend may raise anything
            self._log_look(Failure())
            return
        if not inspect.isawaitable(found):
            self._show_look(found)
            return
        self._making.add("asking")
        answer: Deferred[Any] = deferred_of(found, "quick_look")
        answer.addBoth(self._asked).addCallbacks(self._show_look, self._log_look)

    def _asked(self, result: Any) -> Any:
        self._making.discard("asking")
        return result

    def _show_look(self, found: Any) -> None:
        if found is None:
            return
        if isinstance(found, QuickLook):
            self._make("quick_look", lambda: encoded(found))
        else:
            text = "quick_look() must return a QuickLook or None, not %.80r"
            self._limited.log(logging.ERROR, "quick_look", text, found, window=MINUTE, at_most=1)

    def _log_look(self, failure: Failure) -> None:
        text = "quick_look() failed"
        self._limited.log(logging.ERROR, "quick_look", text, exc_info=_exc_info(failure), window=MINUTE, at_most=1)


def _exc_info(failure: Failure) -> Any:
    return (failure.type, failure.value, failure.getTracebackObject())


def _when(exchange: Exchange) -> Ticks:
    return exchange.begin


def _time_in(exchange: Exchange) -> float | None:
    """Return the time that a request gives to a command such as `start`, in Unix seconds. None if there is none."""
    row = COMMANDS.get(exchange.name)
    if row is None or not row.changes:
        return None
    place = next((i for i, argument in enumerate(row.arguments) if argument.type == "timestamp"), None)
    if place is None:
        return None
    try:
        texts = parse_message(exchange.request.decode("latin-1")).arguments
        return cast("Ticks", TYPES["timestamp"][0](texts[place])).unix if place < len(texts) else None
    except (GrammarException, ValueError):
        # The request was refused for this reason.
        return None


def _shown(exchange: Exchange) -> dict[str, Any]:
    """Return an exchange as JSON values, with texts of at most 200 characters."""
    return {
        "t": exchange.begin.unix,
        "c": exchange.connection,
        "peer": exchange.peer,
        "q": shortened(exchange.request[:1000].decode("latin-1")),
        "a": None if exchange.reply is None else shortened(exchange.reply[:1000].decode("latin-1")),
        "s": round(exchange.seconds, 7),
        "name": shortened(exchange.name),
        "code": exchange.code,
        "changes": exchange.changes,
        "at": _time_in(exchange),
    }


@implementer(IPushProducer)
class _Reader:
    """One open page. While its connection is full, it keeps the newest event of a kind and a few batches."""

    def __init__(self, request: Request, reactor: Any) -> None:
        self._request = request
        self._reactor = reactor
        self._begun = False
        # Since when the connection is full, by the time of the reactor.
        self._full_since: float | None = None
        self._newest: dict[str, bytes] = {}
        self._batches: deque[_Batch] = deque()
        # The number of exchanges that this page has missed, and the number that it knows of.
        self._missed = self._reported = 0
        request.registerProducer(self, True)

    def begin(self, history: bytes) -> None:
        """Send the history, then what has happened since it was taken."""
        self._begun = True
        self._write(history)
        self._write_kept()

    def send(self, name: str, event: bytes) -> None:
        """Send an event, of which only the newest is of interest."""
        self._newest[name] = event
        self._write_kept()

    def send_batch(self, batch: _Batch) -> None:
        """Send exchanges."""
        self._batches.append(batch)
        if len(self._batches) > _MOST_BATCHES:
            lost = self._batches.popleft()
            self._missed += lost.number + lost.missed
        self._write_kept()

    def _write_kept(self) -> None:
        while self._batches and self._is_free:
            batch = self._batches.popleft()
            self._write(batch.events)
            self._missed += batch.missed
        if self._missed != self._reported and self._is_free:
            self._reported = self._missed
            self._write(b'event: missed\ndata: {"total": %d}\n\n' % self._missed)
        while self._newest and self._is_free:
            self._write(self._newest.pop(next(iter(self._newest))))

    @property
    def _is_free(self) -> bool:
        return self._begun and self._full_since is None

    def _write(self, data: bytes) -> None:
        # A request whose client has gone is finished, and removes this reader.
        if not self._request.finished and self._request.channel is not None:
            self._request.write(data)

    def close_if_stuck(self) -> None:
        """Close the connection if it has been full for too long."""
        if self._full_since is not None and self._reactor.seconds() > self._full_since + _PATIENCE:
            transport: Any = self._request.transport
            transport.abortConnection()

    def close(self) -> None:
        """End the response."""
        if not self._request.finished and self._request.channel is not None:
            self._request.unregisterProducer()
            self._request.finish()

    # -- the hooks of IPushProducer -------------------------------------------------------------------

    def pauseProducing(self) -> None:
        if self._full_since is None:
            self._full_since = self._reactor.seconds()

    def resumeProducing(self) -> None:
        self._full_since = None
        self._write_kept()

    def stopProducing(self) -> None:
        self._newest.clear()
        self._batches.clear()


class Events(Page):
    """The resource /events.

    Parameters
    ----------
    live
        The open pages.
    """

    def __init__(self, live: Live) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live = live

    def render_GET(self, request: Request) -> int:
        """Answer with events, without an end."""
        if self._live.open >= MOST_READERS:
            request.setHeader(b"Retry-After", b"10")
            return send(request, b"%d pages are open already\n" % MOST_READERS, code=503)
        if request.method == b"HEAD":
            return send(request, b"", _EVENT_STREAM)
        request.setHeader(b"Content-Type", _EVENT_STREAM)
        channel: Any = request.channel
        channel.without_deadline()
        # A browser tries again after so many ms.
        request.write(b"retry: 2000\n\n")
        self._live.add(request)
        return NOT_DONE_YET
