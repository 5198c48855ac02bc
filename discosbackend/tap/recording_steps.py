"""Reads recordings of a flight recorder (monitor/recording_lines.py): the steps of the recorded clients.

In a recording, a line is written when its reply is sent. The steps are sorted by the times at which the requests were
read. A file has a header for each run of the server, and the numbers of connections begin again with each run. The runs
are replayed one after another, without the time between them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from discosbackend.commands import Command
from discosbackend.errors import GrammarException
from discosbackend.grammar import INVALID, REQUEST, Message, parse_request
from discosbackend.monitor.recording_file import HEADER, VERSION
from discosbackend.tap.compare import Comparison
from discosbackend.tap.steps import NEVER, Close, Open, ReplayError, Request, Script, Step
from discosbackend.ticks import TICKS_PER_SECOND, UNIX_SECONDS_BELOW, Ticks

__all__ = ["recording_steps"]


def recording_steps(lines: Sequence[bytes], comparison: Comparison) -> Script:
    """Return the steps of a recording.

    Parameters
    ----------
    lines
        The lines of the file. If the last one has no line end, it may be incomplete; then it is ignored.
    comparison
        How the replies are compared with the recorded ones.

    Raises
    ------
    ReplayError
        If a line is not valid. The text names it.
    """
    script = Script([])
    steps: list[Step] = []
    numbers = count(1)
    begin = 0.0
    for run in _runs(lines, script.notes):
        found = run.steps(begin, numbers, comparison)
        steps += found
        begin = found[-1].at if found else begin
    script.steps = steps
    return script


@dataclass(slots=True)
class _Line:
    """An exchange."""

    number: int
    time: Ticks
    request: str
    reply: str | None
    seconds: float


@dataclass(slots=True)
class _Connection:
    """What a run contains about a connection."""

    opened: tuple[int, Ticks] | None = None
    """The number of the line, and the time."""
    closed: tuple[int, Ticks] | None = None
    exchanges: list[_Line] = field(default_factory=list)


@dataclass(slots=True)
class _Run:
    """One run of a server: what is below a header."""

    begin: str
    connections: dict[int, _Connection] = field(default_factory=dict)
    first: Ticks | None = None
    last: Ticks = field(default_factory=Ticks)

    def add(self, number: int, line: dict[str, Any]) -> None:
        """Add a line of the file. ValueError, with the reason, if it is not valid."""
        time = line.get("t")
        connection = line.get("c")
        if not isinstance(time, str) or "." not in time:
            raise ValueError("its t is not a time")
        if not isinstance(connection, int) or isinstance(connection, bool):
            raise ValueError("its c is not a number of a connection")
        ticks = Ticks.parse(time)
        known = self.connections.setdefault(connection, _Connection())
        event = line.get("event")
        seconds = 0.0
        if event == "open":
            known.opened = (number, ticks)
        elif event == "close":
            known.closed = (number, ticks)
        else:
            exchange = _exchange(number, ticks, line)
            known.exchanges.append(exchange)
            seconds = exchange.seconds
        self.first = ticks if self.first is None else min(self.first, ticks)
        self.last = max(self.last, Ticks(ticks + round(seconds * TICKS_PER_SECOND)))

    def steps(self, begin: float, numbers: Iterator[int], comparison: Comparison) -> list[Step]:
        """Return the steps of all connections, in the order of their times.

        Parameters
        ----------
        begin
            When the first step is, in s.
        numbers
            The numbers of the connections.
        comparison
            How replies are compared.
        """
        first = self.first or Ticks(0)
        found = [
            each
            for known in self.connections.values()
            for each in _Steps(known, next(numbers), first, self.last, begin, comparison).all()
        ]
        # The sort is stable, and the steps of a connection are in their order.
        return sorted(found, key=lambda step: step.at)


@dataclass
class _Steps:
    """Makes the steps of a connection."""

    known: _Connection
    number: int
    first: Ticks
    last: Ticks
    begin: float
    comparison: Comparison

    def all(self) -> Iterator[Step]:
        """Yield the steps in their order."""
        exchanges = sorted(self.known.exchanges, key=lambda each: (each.time, each.number))
        line, opened = self.known.opened or self._first(exchanges)
        yield Open(f"line {line}", self.number, self._at(opened))
        line, closed = self.known.closed or (0, self.last)
        for exchange in exchanges:
            yield self._request(exchange, max(opened, min(exchange.time, closed)), closed)
        yield Close(f"line {line}" if line else "the end", self.number, self._at(closed), by_client=False)

    def _first(self, exchanges: Sequence[_Line]) -> tuple[int, Ticks]:
        """Return where a connection begins that was opened before the file was begun."""
        if exchanges:
            return exchanges[0].number, exchanges[0].time
        return self.known.closed or (0, self.first)

    def _at(self, time: Ticks) -> float:
        return self.begin + (time - self.first) / TICKS_PER_SECOND

    def _request(self, exchange: _Line, time: Ticks, closed: Ticks) -> Request:
        """Return the step of an exchange.

        A server carries out requests that it has received even if the client has disconnected. Such a request is sent
        before the connection is closed, and its reply is not waited for.
        """
        ended = exchange.time + round(exchange.seconds * TICKS_PER_SECOND)
        waited = exchange.reply is not None and ended <= closed
        row = self.comparison.commands.get(exchange.request[1:].partition(",")[0])
        return Request(
            f"line {exchange.number}",
            self.number,
            self._at(time),
            exchange.request,
            self._at(Ticks(ended)) if waited else NEVER,
            _Recorded(exchange.reply, self.comparison) if waited and exchange.reply is not None else None,
            _Shift(row, exchange.time, self.first, self.last, _was_longer(exchange)),
            answered=exchange.reply is not None,
            limit=max(exchange.seconds, 0.0 if row is None else row.timeout or 0.0),
        )


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The reply that was recorded. The line end is not recorded, so that it is not compared."""

    text: str
    comparison: Comparison
    label: str = "recorded"

    def difference(self, line: str, *, crlf: bool, form_only: bool) -> str:
        return self.comparison.difference(self.text, line, form_only=form_only)


@dataclass(frozen=True, slots=True)
class _Shift:
    """Makes the line that is sent: the recorded line, with its times shifted to now.

    A time that was 5 s ahead is 5 s ahead again. If the recording is played faster, the time comes sooner, too: so it
    stays between the same two requests. This does not apply to times outside of the recording.
    """

    row: Command | None
    time: Ticks
    first: Ticks
    last: Ticks
    longer: bool

    def __call__(self, text: str, now: Ticks, speed: float) -> str:
        if self.longer:
            # Only the beginning of a line that is too long is recorded.
            return f"{text}{text[-1]}"
        if self.row is None or all(argument.type != "timestamp" for argument in self.row.arguments):
            return text
        try:
            name, arguments = parse_request(text)
        except GrammarException:
            return text
        shifted = [
            self._shifted(value, now, speed) if argument.type == "timestamp" else value
            for argument, value in zip(self.row.arguments, arguments, strict=False)
        ]
        if tuple(shifted) == arguments[: len(shifted)]:
            return text
        return str(Message(message_type=REQUEST, name=name, arguments=[*shifted, *arguments[len(shifted) :]]))

    def _shifted(self, text: str, now: Ticks, speed: float) -> str:
        try:
            ticks = Ticks.parse(text)
        except ValueError:
            return text
        ahead = ticks - self.time
        if math.isfinite(speed) and self.first <= ticks <= self.last:
            ahead = round(ahead / speed)
        shifted = Ticks(now + ahead)
        if ticks <= 0 or shifted <= 0:
            # Not valid, and so it stays.
            return text
        return shifted.unix_text() if "." in text and ticks < UNIX_SECONDS_BELOW * TICKS_PER_SECOND else str(shifted)


def _was_longer(exchange: _Line) -> bool:
    """Return whether the line was too long for the server, so that only its beginning is recorded."""
    return bool(exchange.request) and f",{INVALID},line longer than" in (exchange.reply or "")


# -- the lines of the file ----------------------------------------------------------------------------


def _runs(lines: Sequence[bytes], notes: list[str]) -> list[_Run]:
    """Return the runs of a file. Add what is ignored to `notes`."""
    runs: list[_Run] = []
    for number, data in enumerate(lines, 1):
        # After a loss of power, a file may have NUL at its end.
        text = data.strip(b"\0\r\n")
        if not text and number == len(lines):
            continue
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("it is no JSON object")
            if HEADER in line:
                _begin_run(runs, line)
            elif not runs:
                raise ReplayError("it is not a recording: its first line is not a header")
            else:
                runs[-1].add(number, line)
        except (ValueError, RecursionError) as problem:
            if number == 1:
                raise ReplayError("it is not a recording: its first line is not a header") from None
            if number == len(lines) and not data.endswith(b"\n"):
                notes.append(f"line {number}, the last one, is incomplete and was ignored")
                continue
            raise ReplayError(f"line {number} is damaged: {problem}") from None
    return runs


def _begin_run(runs: list[_Run], header: dict[str, Any]) -> None:
    if header[HEADER] != VERSION:
        raise ReplayError(
            f"it is a recording of version {header[HEADER]!r}, and only version {VERSION} can be replayed"
        )
    begin = header.get("begin")
    if not isinstance(begin, str):
        raise ValueError("its begin is not a time")
    # After a rotation, the header of the run is repeated.
    if not runs or runs[-1].begin != begin:
        runs.append(_Run(begin))


def _exchange(number: int, time: Ticks, line: dict[str, Any]) -> _Line:
    request, reply, seconds = line.get("q"), line.get("a"), line.get("s")
    if not isinstance(request, str) or not _is_line(request):
        raise ValueError("its q is not a line")
    if "a" not in line or not (reply is None or (isinstance(reply, str) and _is_line(reply))):
        raise ValueError("its a is neither a line nor null")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        raise ValueError("its s is not a number of seconds")
    return _Line(number, time, request, reply, float(seconds))


def _is_line(text: str) -> bool:
    """Return whether a text is one line of bytes. Otherwise it could have a second request in it."""
    return "\n" not in text and all(ord(character) < 256 for character in text)
