"""Snapshot: the document of /status.json, and the reasons of /health.

It puts together what counters.py has counted, what state.py reads, and the health of the clock. docs/monitoring.md
describes the fields.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from discosbackend.errors import GrammarException
from discosbackend.exchanges import Exchange
from discosbackend.grammar import parse_message
from discosbackend.monitor.clock_health import ClockHealth
from discosbackend.monitor.counters import ClientCounts, CommandCounts, Counters
from discosbackend.monitor.state import About, ServerState, dropped_log_lines
from discosbackend.scheduler import LaneState

__all__ = ["VERSION", "Snapshot", "Status", "shortened"]

VERSION = 1
"""The version of the document. It changes if a field is removed, or changes its meaning."""

_LONGEST_TEXT = 200
# The remedy is at the end of what the watchdog has found.
_LONGEST_FINDING = 1000
_MOST_CLIENTS = 100
# So many entries of a list are made into one piece.
_A_PIECE = 10
# An answer to `status` that is older, in s, is asked for again.
_FRESH = 1.0
# A blocked reactor is a reason for this time after its end, in s, so that a check once a minute sees it.
_REMEMBERED = 60.0


class Status(NamedTuple):
    """An answer to `status`."""

    text: str
    """The text of the instrument: `ok`, or what is wrong."""
    acquiring: bool | None
    """None if the reply was not `ok`."""
    time: float
    """When it was given, in Unix seconds."""


def status_of(reply: bytes, when: float) -> Status:
    """Return what a reply to `status` says. If it is a `fail`, the text begins with "status failed"."""
    try:
        message = parse_message(reply.decode("latin-1"))
    except GrammarException:
        return Status("status failed: the reply is not valid", None, when)
    values = message.arguments
    if message.code == "ok" and len(values) == 3:
        return Status(values[1], values[2] == "1", when)
    return Status(f"status failed: {', '.join(values)}", None, when)


def shortened(text: str, most: int = _LONGEST_TEXT) -> str:
    """Return the text, shortened to at most `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


class Snapshot:
    """The state of everything that is watched.

    Parameters
    ----------
    counters
        The counters, a listener of what is watched.
    clock
        The clock of this host.
    about
        Returns what is watched.
    state
        The state of the server. None for a tap: its parts of the document are then null.
    now
        Returns Unix seconds.

    Attributes
    ----------
    telemetry, recorder, target
        Functions that return the parts of the document with these names. None: the parts are null.
    """

    def __init__(
        self,
        counters: Counters,
        clock: ClockHealth,
        about: Callable[[], About],
        state: ServerState | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.counters = counters
        self.clock = clock
        self.about = about
        self.state = state
        self.telemetry: Callable[[], Mapping[str, Any] | None] | None = None
        self.recorder: Callable[[], Mapping[str, Any] | None] | None = None
        self.target: Callable[[], Mapping[str, Any] | None] | None = None
        self._now = now
        # The exchange that _status was made of, if it was that of a client.
        self._exchange: Exchange | None = None
        self._status: Status | None = None
        # Whether the question of refresh_status() has no answer yet, and who waits for it.
        self._asking = False
        self._waiting: list[Deferred[None]] = []

    # -- the status of the instrument -----------------------------------------------------------------

    @property
    def status(self) -> Status | None:
        """The last answer to `status`. None before the first one."""
        exchange = self.counters.status
        if exchange is not self._exchange:
            self._exchange = exchange
            if exchange is not None and exchange.reply is not None:
                self._status = status_of(exchange.reply, exchange.begin.unix + exchange.seconds)
        return self._status

    def refresh_status(self) -> Deferred[None] | None:
        """Ask for `status` if the last answer is old. Call it before the document is read.

        Returns
        -------
        answered
            A Deferred that fires when the answer is there. It can be cancelled. None if there is nothing to wait for.
        """
        status = self.status
        age = None if status is None else self._now() - status.time
        # Negative: the clock was set back.
        if self.state is None or (age is not None and 0 <= age < _FRESH):
            return None
        if not self._asking:
            reply = self.state.ask_status()
            if reply is None:
                return None
            self._asking = True
            if isinstance(reply, Deferred):
                reply.addCallback(self._answered)
            else:
                self._answered(reply)
        if not self._asking:
            return None
        answered: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(answered)
        return answered

    def _answered(self, reply: bytes) -> None:
        self._asking = False
        self._status = status_of(reply, self._now())
        waiting, self._waiting = self._waiting, []
        for answered in waiting:
            answered.callback(None)

    # -- health ---------------------------------------------------------------------------------------

    def health(self, *, with_status: bool = False) -> list[str]:
        """Return what is wrong, as texts. An empty list: nothing.

        Parameters
        ----------
        with_status
            Whether a status text other than `ok` counts.
        """
        return list(self._reasons(with_status))

    def _reasons(self, with_status: bool) -> Iterator[str]:
        if self.state is not None:
            if self.state.paused:
                yield "paused by the control channel: no request is answered"
            for lane in self.state.lanes or ():
                if lane.overdue:
                    since = "" if lane.seconds is None else f" for {lane.seconds:.0f} s"
                    yield f"the thread of {lane.holder} has not returned{since}: commands of {lane.name} are refused"
            dog = self.state.watchdog
            if dog is not None and dog.last is not None and 0 <= (ago := self._now() - dog.last.time) < _REMEMBERED:
                blocked = f"the server was blocked for {dog.last.seconds:.1f} s, {ago:.0f} s ago: {dog.last.text}"
                yield shortened(blocked, _LONGEST_FINDING)
            recordings = self.state.recordings
            if recordings is not None and recordings.problem:
                yield shortened(recordings.problem)
        for part in (self.target, self.recorder):
            found = None if part is None else part()
            if found is not None and found["problem"]:
                yield shortened(found["problem"])
        if with_status:
            if self._asking:
                yield "status: no answer"
            elif (status := self.status) is not None and status.text != "ok":
                yield shortened(f"status: {status.text}")

    # -- the document ---------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """Return the whole document at once. With many clients and sensors this may take some ms; see pieces()."""
        return {name: list(part) if isinstance(part, Iterator) else part for name, part in self._parts()}

    def pieces(self) -> Iterator[str]:
        """Return the document as JSON in pieces. Each is made when it is asked for, in much less than 1 ms."""
        opening = "{"
        for name, part in self._parts():
            yield f"{opening}{json.dumps(name)}: "
            opening = ", "
            if not isinstance(part, Iterator):
                yield json.dumps(part)
                continue
            bracket = "["
            while piece := list(islice(part, _A_PIECE)):
                yield bracket + ", ".join(map(json.dumps, piece))
                bracket = ", "
            yield "[]" if bracket == "[" else "]"
        yield "}"

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """Return the fields of the document. A list that may be long is an iterator."""
        now = self._now()
        state, counters = self.state, self.counters
        yield "version", VERSION
        yield "time", now
        yield "server", _with_short_texts(self.about())
        reasons = self.health()
        state_word, summary = _summary(not reasons, self.status)
        yield "health", {"ok": not reasons, "reasons": reasons, "state": state_word, "summary": summary}
        yield "status", None if self.status is None else _with_short_texts(self.status)
        found = self.clock.synchronisation
        step = self.clock.last_step
        last_step = None if step is None else step._asdict()
        yield "clock", {**found._asdict(), "steps": self.clock.steps, "last_step": last_step}
        acquisition = None if state is None else state.acquisition
        yield "acquisition", None if acquisition is None else acquisition._asdict()
        lanes = None if state is None else state.lanes
        yield "lanes", None if lanes is None else [_lane(now, lane) for lane in lanes]
        yield "watchdog", self._watchdog()
        yield "connections", {"open": counters.open, "total": counters.total}
        yield "clients", (_client(number, each) for number, each in list(counters.clients(_MOST_CLIENTS)))
        second = counters.second
        yield "commands", (_command(second, name, counts) for name, counts in list(counters.commands.items()))
        yield "sensors", (_with_short_texts(sensor) for sensor in (() if state is None else state.sensors))
        recordings = None if state is None else state.recordings
        yield "recordings", None if recordings is None else _with_short_texts(recordings)
        yield "log", {"dropped": dropped_log_lines()}
        yield "telemetry", None if self.telemetry is None else self.telemetry()
        yield "recorder", None if self.recorder is None else self.recorder()
        yield "target", None if self.target is None else self.target()

    def _watchdog(self) -> dict[str, Any] | None:
        dog = None if self.state is None else self.state.watchdog
        if dog is None:
            return None
        last = None if dog.last is None else _with_short_texts(dog.last, _LONGEST_FINDING)
        return {"limit": dog.limit, "blocked": dog.blocked, "findings": dog.findings, "last": last}


def _summary(is_healthy: bool, status: Status | None) -> tuple[str, str]:
    """Return a word and a sentence about the server and its instrument together."""
    is_ok = status is not None and status.text == "ok"
    if is_healthy and is_ok:
        return "good", "The server is all right."
    if is_healthy and status is None:
        return "unknown", "The server answers; the status of the instrument is not known yet."
    if is_healthy:
        return "attention", "The server answers; the instrument does not report ok."
    if is_ok:
        return "bad", "The instrument reports ok, but the server has a problem:"
    return "bad", "The server has a problem:"


def _with_short_texts(record: Any, most: int = _LONGEST_TEXT) -> dict[str, Any]:
    """Return a NamedTuple as a dictionary, in which no text is longer than a page can show."""
    return {name: shortened(each, most) if isinstance(each, str) else each for name, each in record._asdict().items()}


def _lane(now: float, lane: LaneState) -> dict[str, Any]:
    return {
        "name": lane.name,
        "holder": lane.holder,
        "since": _ago(now, lane.seconds),
        "overdue": lane.overdue,
        "waiting": [{"command": name, "since": _ago(now, seconds)} for name, seconds in lane.waiting],
    }


def _ago(now: float, seconds: float | None) -> float | None:
    # In ms: what is subtracted here was measured by another clock.
    return None if seconds is None else round(now - seconds, 3)


def _client(number: int, client: ClientCounts) -> dict[str, Any]:
    last = None
    if client.last is not None:
        name, code, begin = client.last
        last = {"name": name, "code": code, "time": begin.unix}
    return {
        "connection": number,
        "peer": shortened(client.peer),
        "since": client.since,
        "requests": client.requests,
        "failures": client.failures,
        "bytes_in": client.bytes_in,
        "bytes_out": client.bytes_out,
        "last": last,
    }


def _command(second: int, name: str, counts: CommandCounts) -> dict[str, Any]:
    return {
        "name": name,
        "requests": counts.requests,
        "ok": counts.ok,
        "fail": counts.fail,
        "invalid": counts.invalid,
        "p50": counts.percentile(0.5),
        "p99": counts.percentile(0.99),
        "history": counts.history(second),
    }
