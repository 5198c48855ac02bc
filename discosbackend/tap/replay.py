"""Replay: carries out the steps of recorded clients on a server, and compares the replies.

A step is carried out when it is due, and when every reply that preceded it in the recording has arrived. So a step that
depends on a reply comes after this reply, also on a slower server. The later steps are then delayed by the same time,
so that the pauses are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from discosbackend.errors import GrammarException
from discosbackend.grammar import NO_NAME, named_in, parse_message
from discosbackend.pairing import Answer, Event, Greeting, Malformed, Misnamed, OutOfOrder, Pairing, Surplus, TooLong
from discosbackend.tap.steps import Close, Open, Request, Step
from discosbackend.ticks import Ticks

__all__ = ["REPLY_WAIT", "Difference", "LostConnection", "Replay", "Totals", "Wire"]

REPLY_WAIT = 65.0
"""How long to wait for a reply by default, in s: longer than the time limit of a server for a command."""

_LINE_END = b"\r\n"
# How many s to wait for a greeting that is not required. A backend that is not ours may have none.
_GREETING_WAIT = 1.0


class LostConnection(Exception):
    """A connection cannot be made. The text is one sentence."""


class Wire(Protocol):
    """The connections to the server, and the time. Connections have numbers."""

    def clock(self) -> float:
        """Return the time of a monotonic clock, in s."""

    def now(self) -> Ticks:
        """Return the time of the host's clock."""

    def connect(self, connection: int) -> None:
        """Connect. Raise LostConnection if that is not possible."""

    def send(self, connection: int, data: bytes) -> None:
        """Send bytes. If the connection is lost, receive() says so."""

    def receive(self, seconds: float) -> list[tuple[int, bytes]]:
        """Wait until data arrive, for at most `seconds` s, and return them with the number of their connection.

        b"" means that the server has closed the connection, or that it is lost.
        """

    def close(self, connection: int) -> None:
        """Close a connection."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between what is expected and what the server did."""

    step: Step
    """The step to which it belongs."""
    request: str
    """The line that was sent, "" if the difference belongs to no request."""
    label: str
    """What the expected reply is called, "" if none is expected."""
    expected: str
    """The expected reply, without its end."""
    received: str | None
    """The line that was received, without its end. None: none was received."""
    reason: str
    """What differs, in words."""


@dataclass
class Totals:
    """What a replay has done."""

    compared: int = 0
    """The replies that were compared."""
    form_only: int = 0
    """Those of them that were compared by their form only."""
    differences: int = 0
    """The differences."""
    sent: int = 0
    """The lines that were sent."""
    unanswered: int = 0
    """The requests without a reply, sent or not. One of each lost connection is counted as a difference instead."""


@dataclass(slots=True)
class _Sent:
    """A line that was sent."""

    request: Request
    line: str
    patience: float
    """How long to wait for the reply, in s."""
    deadline: float


@dataclass(slots=True)
class _Connection:
    """A connection of the replay."""

    opened: Open
    pairing: Pairing[_Sent] = field(default_factory=Pairing)
    lost: str = ""
    """Why it cannot be used any more, "" if it can."""
    reported: bool = False
    """Whether this has been reported."""


class Replay:
    """Carries out steps on a server.

    Parameters
    ----------
    wire
        The connections to the server.
    timeout
        How long to wait for each reply, in s. None: REPLY_WAIT plus the longer of two times: that of the recorded
        reply, and the time limit of its command.
    speed
        How much faster than the recording. math.inf: without pauses.
    report
        Called with each difference.
    before_sending
        Called with the bytes before they are sent.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        timeout: float | None = None,
        speed: float = 1.0,
        report: Callable[[Difference], object] = lambda difference: None,
        before_sending: Callable[[bytes], object] = lambda data: None,
    ) -> None:
        self.totals = Totals()
        self._wire = wire
        self._timeout = timeout
        self._speed = speed
        self._report = report
        self._before_sending = before_sending
        self._connections: dict[int, _Connection] = {}
        # The requests whose replies the recorded client waited for.
        self._outstanding: list[_Sent] = []
        self._begin = 0.0
        # How much later than in the recording the next step is, in s.
        self._late = 0.0
        # Whether a connection was not greeted, so that other ones are not waited for either.
        self._greets = True

    def play(self, steps: Sequence[Step]) -> Totals:
        """Carry out the steps, and return what was done.

        Raises
        ------
        LostConnection
            If the first connection cannot be made.
        """
        self._begin = self._wire.clock()
        for step in steps:
            self._wait_for_replies(step)
            self._wait_until(self._due(step.at))
            if isinstance(step, Open):
                self._open(step)
            elif isinstance(step, Request):
                self._send(step)
            else:
                self._close(step)
        self._wait_for_replies(None)
        self._receive(0)
        for connection in [*self._connections]:
            self._wire.close(connection)
        self._connections.clear()
        return self.totals

    # -- waiting --------------------------------------------------------------------------------------

    def _due(self, at: float) -> float:
        return self._begin + at / self._speed + self._late

    def _delay(self, at: float) -> None:
        """Delay the later steps, because what is due at `at` has happened only now."""
        self._late += max(self._wire.clock() - self._due(at), 0.0)

    def _wait_until(self, due: float) -> None:
        self._receive(0)
        while (left := due - self._wire.clock()) > 0:
            self._receive(left)

    def _wait_for_replies(self, step: Step | None) -> None:
        """Wait for the replies that arrived before a step in the recording; for all replies if it is None."""
        while waiting := [sent for sent in self._outstanding if step is None or _precedes(sent.request, step)]:
            deadline = min(sent.deadline for sent in waiting)
            left = deadline - self._wire.clock()
            arrived = self._receive(max(left, 0.0))
            if left <= 0 and not arrived:
                self._give_up(next(sent for sent in waiting if sent.deadline == deadline))

    def _give_up(self, sent: _Sent) -> None:
        self._lose(sent.request.connection, f"no reply within {sent.patience:g} s")

    # -- steps ----------------------------------------------------------------------------------------

    def _open(self, step: Open) -> None:
        connection = self._connections[step.connection] = _Connection(step)
        try:
            self._wire.connect(step.connection)
        except LostConnection as problem:
            if not self.totals.sent and len(self._connections) == 1:
                raise
            self._lose(step.connection, str(problem))
            return
        pairing = connection.pairing
        if step.greeting is None and not self._greets:
            return
        patience = REPLY_WAIT if self._timeout is None else self._timeout
        deadline = self._wire.clock() + (min(_GREETING_WAIT, patience) if step.greeting is None else patience)
        while pairing.greeting is None and not connection.lost:
            left = deadline - self._wire.clock()
            if not self._receive(max(left, 0.0)) and left <= 0:
                break
        if pairing.greeting is None:
            self._greets = False
            if step.greeting is not None and not connection.lost:
                self._differs(step, "the greeting is missing", label="wanted", expected=step.greeting)
        self._delay(step.at)

    def _send(self, step: Request) -> None:
        connection = self._connections[step.connection]
        if connection.lost:
            self._not_sent(step, connection)
            return
        line = step.write(step.text, self._wire.now(), self._speed)
        data = line.encode("latin-1") + _LINE_END
        self._before_sending(data)
        patience = REPLY_WAIT + step.limit if self._timeout is None else self._timeout
        sent = _Sent(step, line, patience, self._wire.clock() + patience)
        if step.answered:
            connection.pairing.expect(_reply_name(step), sent)
        if step.expected is not None:
            self._outstanding.append(sent)
        self.totals.sent += 1
        self._wire.send(step.connection, data)

    def _not_sent(self, step: Request, connection: _Connection) -> None:
        if connection.reported:
            self.totals.unanswered += 1
            return
        connection.reported = True
        expected = step.expected
        self._differs(
            step,
            connection.lost,
            request=step.text,
            label="" if expected is None else expected.label,
            expected="" if expected is None else expected.text,
        )

    def _close(self, step: Step) -> None:
        connection = self._connections.pop(step.connection)
        if not connection.lost:
            self._wire.close(step.connection)
        elif not connection.reported and isinstance(step, Close) and step.by_client:
            self._differs(step, connection.lost)

    # -- what arrives ---------------------------------------------------------------------------------

    def _receive(self, seconds: float) -> bool:
        """Wait for data, for at most so many seconds. Return whether there were any."""
        received = self._wire.receive(seconds)
        for number, data in received:
            connection = self._connections.get(number)
            if connection is None or connection.lost:
                continue
            if not data:
                self._lose(number, "the server closed the connection")
                continue
            for event in connection.pairing.feed(data):
                self._arrived(connection, event)
        return bool(received)

    def _arrived(self, connection: _Connection, event: Event[_Sent]) -> None:
        line = event.line.decode("latin-1")
        if isinstance(event, Greeting):
            wanted = connection.opened.greeting
            if wanted is not None and (line != wanted or not event.crlf):
                reason = "the greeting is another one" if event.crlf else "the greeting does not end in CR LF"
                self._differs(connection.opened, reason, label="wanted", expected=wanted, received=line)
            return
        sent = None if isinstance(event, Surplus) else event.request
        if sent is None:
            self._differs(connection.opened, "the server sent a line without a request", received=line)
            return
        expected = sent.request.expected
        if expected is None:
            # The recorded client did not wait for it.
            return
        self._outstanding.remove(sent)
        self._delay(sent.request.end)
        form_only = sent.request.form_only
        self.totals.compared += 1
        self.totals.form_only += form_only
        problem = _other_event(event)
        if problem and line == expected.text:
            # The recorded server did the same.
            problem = ""
        elif not problem:
            problem = expected.difference(line, crlf=event.crlf, form_only=form_only)
        if problem:
            self._differs(
                sent.request,
                problem,
                request=sent.line,
                label=expected.label,
                expected=expected.text,
                received=line,
            )

    def _lose(self, number: int, reason: str) -> None:
        """Do not use a connection any more. Report it if a reply is missing."""
        connection = self._connections[number]
        connection.lost = reason
        self._wire.close(number)
        missing = [sent for sent in self._outstanding if sent.request.connection == number]
        self._outstanding = [sent for sent in self._outstanding if sent.request.connection != number]
        if not missing:
            return
        connection.reported = True
        self.totals.unanswered += len(missing) - 1
        sent = missing[0]
        expected = sent.request.expected
        rest = connection.pairing.rest.decode("latin-1")
        self._differs(
            sent.request,
            reason,
            request=sent.line,
            label=expected.label if expected else "",
            expected=expected.text if expected else "",
            received=rest or None,
        )

    def _differs(
        self,
        step: Step,
        reason: str,
        *,
        request: str = "",
        label: str = "",
        expected: str = "",
        received: str | None = None,
    ) -> None:
        self.totals.differences += 1
        self._report(Difference(step, request, label, expected, received, reason))


def _precedes(request: Request, step: Step) -> bool:
    """Return whether the reply to a request came before a step.

    On one connection it always did: a server handles one request at a time.
    """
    return request.end <= step.at or (request.connection == step.connection and isinstance(step, Request))


def _reply_name(request: Request) -> str:
    """Return the name that the reply to a request has."""
    if request.expected is not None:
        try:
            message = parse_message(request.expected.text)
        except GrammarException:
            # The recorded reply was no message, so it names nothing: the request does.
            pass
        else:
            if message.is_reply():
                return message.name
    return named_in(request.text) or NO_NAME


def _other_event(event: Event[_Sent]) -> str:
    """Return what is wrong with the line of an event, "" if it is a reply to its request."""
    if isinstance(event, Answer):
        return ""
    if isinstance(event, OutOfOrder):
        return "the reply to an earlier request is missing"
    if isinstance(event, Misnamed):
        return "the reply has another name"
    if isinstance(event, Malformed):
        return f"the reply is not valid: {event.problem}"
    return f"the reply is longer than {event.longest} bytes" if isinstance(event, TooLong) else ""
