"""ClientRun: one run of a client program in a situation, on a simulated instrument, and its observations.

The protocol has no message numbers, so it is not visible which line a client takes for a reply. Therefore replies are
delayed: a client that sends its next request before the reply is sent has taken another line for the reply.

A run takes place in one loop: what the client sends is always read before the next bytes are sent.
"""

from __future__ import annotations

import selectors
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from discosbackend.framing import Kind
from discosbackend.log import address_text
from discosbackend.tap.conversation import ClientLine, Conversation, ServerLine
from discosbackend.tap.judge import Finding, Judge
from discosbackend.testing.client_instrument import AcceptingBackend, ClientInstrument, InstrumentConnection
from discosbackend.testing.client_process import Launch, RunningClient
from discosbackend.testing.client_situations import VALID_REQUESTS, After, Moment, Situation, Step

__all__ = ["ClientRun", "Early", "Seen", "shown"]

_HOST = "127.0.0.1"
# How long the loop waits at most, in s. It is the time after which the end of the client is noticed.
_TURN = 0.02
# The part of the time of a situation that a delay takes, and the shortest delay, in s.
_PAUSE, _SHORTEST_PAUSE = 1 / 40, 0.15
# How many delays a slow reply takes.
_SLOW = 10
# A situation ends when so many requests have their replies after it has occurred. They include the delayed ones.
_ENOUGH = 4
# How many s the bytes of a client that has ended are read.
_LAST_BYTES = 0.1
_RECEIVED = 2**16
_KEPT_LINES = 400
_SHOWN_LINES = 12
# How many of them come after a mistake.
_SHOWN_AFTER = 3
_SHOWN_BYTES = 80
# close() resets the connection.
_RESET = struct.pack("ii", 1, 0)


# -- what is seen in a run ----------------------------------------------------------------------------


class Early(NamedTuple):
    """Something that the client did before a request had its reply."""

    connection: int
    did: str
    request: bytes
    """The oldest request without a reply."""
    taken: str
    """What was sent since then, which the client has taken for the reply. "" if nothing was."""
    seconds: float
    """How long after the request."""

    @property
    def text(self) -> str:
        after = f"{self.seconds:.2f} s after {shown(self.request)}, before its reply was sent, the client {self.did}"
        if not self.taken:
            return f"{after} on the same connection"
        return f"{after}: it has taken {self.taken} for the reply"


@dataclass
class Seen:
    """What happened in one run."""

    connections: int = 0
    requests: int = 0
    answered_since: int = 0
    """How many requests had their replies after the situation has occurred."""
    occurred: bool = False
    early: list[Early] = field(default_factory=list)
    after_end: list[bytes] = field(default_factory=list)
    """The requests on a connection after the instrument has ended it within a line."""
    after_close: list[bytes] = field(default_factory=list)
    """What was sent on a connection after the instrument has closed it while the client waited for a reply."""
    idle: bool = True
    """Whether the client has done nothing since the situation has occurred."""
    timed_out: bool = False
    """Whether the time limit ended the run: the client was still running, and the result was still open."""
    waits: bool = False
    """Whether the client still waits for a reply that it would get."""
    status: int | None = None
    """The exit status, None if the client was still running."""
    findings: list[Finding] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """What was sent and received, with times."""
    mark: int | None = None
    """The number of lines when the client made its first mistake. None: this is not known."""
    output: str = ""
    seconds: float = 0.0

    @property
    def ended(self) -> str:
        """How the client ended."""
        if self.status is None:
            return f"it was still running after {self.seconds:.1f} s"
        if self.status < 0:
            return f"it was killed by {signal.Signals(-self.status).name}"
        return f"it exited with status {self.status}"

    @property
    def conversation(self) -> str:
        """The lines about the first mistake, or the last lines."""
        end = len(self.lines) if self.mark is None else self.mark + _SHOWN_AFTER
        return "\n".join(self.lines[max(end - _SHOWN_LINES, 0) : end])

    @property
    def pipelines(self) -> bool:
        """Whether the client sends requests without waiting, as the protocol permits."""
        return any(not early.taken for early in self.early)


# -- one run ------------------------------------------------------------------------------------------


class _Connection:
    """One connection of the client."""

    def __init__(self, run: ClientRun, number: int, connected: socket.socket, peer: tuple[str, int]) -> None:
        self._run = run
        self._number = number
        self.socket: socket.socket | None = connected
        self._instrument: InstrumentConnection = run.instrument.connect(peer)
        self._conversation = Conversation(number, address_text(peer), lambda *_: None, judge=self._event)
        self._steps: deque[tuple[Step, str]] = deque()
        self._due = 0.0
        self._replies = 0
        # The requests without a reply, each with its time, and what was sent last.
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._last = ("", 0.0)
        # Whether the instrument has ended the connection, and whether it receives nothing more either.
        self._ended = self._closed = False
        self._client_ended = False
        self._play(0, self._instrument.greeting)

    @property
    def due(self) -> float | None:
        """When the next step is due. None if there is none."""
        return self._due if self._steps and self.socket is not None else None

    def _play(self, number: int, line: bytes) -> None:
        run = self._run
        moment = Moment(self._number, number, line, run.pause, run.slow)
        for step in run.situation.play(moment):
            if not self._steps:
                self._due = time.monotonic() + step.after
            if number == 0:
                what = "the greeting"
            elif step.data.endswith(b"\n") and len(step.data) > 2:
                what = "the reply to an earlier request"
            else:
                what = f"{shown(step.data)}, which is only a part of the line,"
            self._steps.append((step, what))

    def receive(self) -> None:
        """Read what the client has sent."""
        assert self.socket is not None
        try:
            data = self.socket.recv(_RECEIVED)
        except OSError:
            self._lose("client  reset")
            return
        if not data:
            self._client_ended = True
            self._run.selector.unregister(self.socket)
            self._run.note(self._number, "client  end")
            self.close_if_done()
            return
        if self._closed:
            if self._waiting:
                self._run.note(self._number, f"client  {shown(data)}")
                self._run.seen.after_close.append(data)
            # As the system does if the socket of the server is closed: the connection is reset.
            self.close()
            return
        self._conversation.from_client(data)
        for reply in self._instrument.receive(data):
            self._replies += 1
            if not self._ended:
                self._play(self._replies, reply)

    def _event(self, event: Any) -> None:
        run = self._run
        if isinstance(event, ClientLine):
            now = time.monotonic()
            run.note(self._number, f"client  {shown(event.line)}")
            if event.read.kind is not Kind.NOT_A_REQUEST:
                run.seen.requests += 1
                if self._ended:
                    run.seen.after_end.append(event.line)
                elif self._waiting:
                    run.seen.early.append(self._early(f"sent {shown(event.line)}", now))
                if (self._ended or self._waiting) and run.seen.mark is None:
                    run.seen.mark = len(run.seen.lines)
                self._waiting.append((event.line, now))
        elif isinstance(event, ServerLine) and event.request is not None and self._waiting:
            self._waiting.popleft()
            if run.seen.occurred:
                run.seen.answered_since += 1
        run.judge(event)

    def _early(self, did: str, now: float) -> Early:
        request, since = self._waiting[0]
        what, sent = self._last
        return Early(self._number, did, request, what if sent > since else "", now - since)

    def send_due(self, now: float) -> None:
        """Carry out the steps that are due."""
        while self._steps and self._due <= now and self.socket is not None:
            step, what = self._steps.popleft()
            self._do(step, what, now)
            if self._steps:
                self._due = now + self._steps[0][0].after
        if self._instrument.ended and not self._steps and self.socket is not None:
            self._run.note(self._number, "server  close", acts=False)
            self.close()
        self.close_if_done()

    def _do(self, step: Step, what: str, now: float) -> None:
        assert self.socket is not None
        run = self._run
        if step.data:
            run.note(self._number, f"server  {shown(step.data)}", acts=False)
            self._last = (what, now)
            self._conversation.from_server(step.data)
            try:
                # At most some kilobytes of replies wait for a client that does not read.
                self.socket.sendall(step.data)
            except OSError:
                self._lose("client  closed")
                return
        if step.decisive and not run.seen.occurred:
            run.seen.occurred, run.seen.idle = True, True
        if step.then is After.NOTHING:
            return
        run.note(self._number, f"server  {step.then.value}", acts=False)
        self._ended = True
        self._steps.clear()
        if step.then is After.RESET:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()
            return
        # The socket stays open until the client sends something, because it shows whether the client closes its side.
        self._closed = step.then is After.CLOSE
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def leaves(self, status: int) -> None:
        """The client has exited."""
        if status == 0 and self._client_ended and self._waiting and not self._ended:
            early = self._early("exited with status 0", time.monotonic())
            # A client that waits for no reply is not wrong: it may only want the request to be carried out.
            if early.taken:
                self._run.seen.early.append(early)

    @property
    def waits(self) -> bool:
        """Whether the client waits for a reply that has not been sent yet."""
        return self.socket is not None and bool(self._steps)

    def close_if_done(self) -> None:
        """Close the connection if the client has ended it and has all its replies."""
        if self._client_ended and not self._steps:
            self.close()

    def _lose(self, what: str) -> None:
        self._run.note(self._number, what)
        self._client_ended = True
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self.socket is None:
            return
        with suppress(KeyError):
            self._run.selector.unregister(self.socket)
        self.socket.close()
        self.socket = None
        self._steps.clear()
        self._instrument.close()


class ClientRun:
    """One run of the client in a situation. The parameters are those of grade()."""

    def __init__(
        self,
        situation: Situation,
        limit: float,
        delay: float | None = None,
        make_backend: Callable[[Any], object] = AcceptingBackend,
    ) -> None:
        self.situation = situation
        self.pause = max(limit * _PAUSE, _SHORTEST_PAUSE) if delay is None else delay
        self.slow = self.pause * _SLOW
        self._limit = limit
        self.instrument = ClientInstrument(make_backend)
        self.selector = selectors.DefaultSelector()
        self.judge = Judge()
        self.seen = Seen()
        self._began = time.monotonic()
        self._connections: list[_Connection] = []

    def note(self, connection: int, text: str, *, acts: bool = True) -> None:
        """Add a line to the transcript."""
        if acts:
            self.seen.idle = False
        if len(self.seen.lines) < _KEPT_LINES:
            self.seen.lines.append(f"{time.monotonic() - self._began:7.3f} s  connection {connection}  {text}")

    def run(self, launch: Launch) -> Seen:
        """Start the client, and return what was seen."""
        seen = self.seen
        with ExitStack() as stack:
            stack.enter_context(self.selector)
            listener = stack.enter_context(socket.create_server((_HOST, 0)))
            listener.setblocking(False)
            self.selector.register(listener, selectors.EVENT_READ)
            client = launch(f"{_HOST}:{listener.getsockname()[1]}")
            stack.callback(client.stop)
            stack.callback(self._close)
            self._serve(listener, client)
            seen.seconds = time.monotonic() - self._began
            seen.waits = any(connection.waits for connection in self._connections)
            seen.output = client.output()
        seen.findings = [finding for finding in self.judge.findings if finding.rule.id.startswith("client/")]
        seen.lines.append(f"the client: {seen.ended}")
        return seen

    def _serve(self, listener: socket.socket, client: RunningClient) -> None:
        seen = self.seen
        last = now = self._began
        end = now + self._limit
        while now < end:
            dues = [due for connection in self._connections if (due := connection.due) is not None]
            for key, _ in self.selector.select(max(min([now + _TURN, *dues]) - now, 0.0)):
                if key.fileobj is listener:
                    self._accept(listener)
                else:
                    key.data.receive()
            now = time.monotonic()
            self.instrument.advance(now - last)
            last = now
            if seen.status is None:
                for connection in self._connections:
                    connection.send_due(now)
                seen.status = client.poll()
                if seen.status is not None:
                    end = min(end, now + _LAST_BYTES)
            elif not any(connection.socket is not None for connection in self._connections):
                break
            if self.situation.case.id != VALID_REQUESTS and seen.occurred and seen.answered_since >= _ENOUGH:
                break
        else:
            seen.timed_out = seen.status is None
        if seen.status is not None:
            for connection in self._connections:
                connection.leaves(seen.status)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connected, peer = listener.accept()
        except OSError:
            # The client has given up the connection already.
            return
        self.seen.connections += 1
        number = self.seen.connections
        self.note(number, "client  connect")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(self, number, connected, peer)
        self._connections.append(connection)
        self.selector.register(connected, selectors.EVENT_READ, connection)

    def _close(self) -> None:
        for connection in self._connections:
            connection.close()


def shown(line: bytes) -> str:
    """Return a line for a report. Of a long line, the first bytes."""
    return repr(line) if len(line) <= _SHOWN_BYTES else f"{line[:_SHOWN_BYTES]!r}... ({len(line)} bytes)"
