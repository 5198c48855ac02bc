"""Conversation: one connection through a tap, without sockets: which bytes are passed on, and what they mean.

Bytes are passed on unchanged, and at once, with these exceptions:

- A request can be refused. It is not passed on, and its reply is put where the server would have put it: after the
  replies to the earlier requests. While a refusal waits for its place, the server's bytes are passed on line by line.
- The bytes of a client of which some requests may be refused are passed on line by line.
- Nothing is passed on from the first line of HTTP or TLS on (protocol section 1.10).

A client that asks `status` in a loop would wait for the tap to read each request and each reply. So a few of them are
kept after they have been passed on, and read together.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from discosbackend.exchanges import ConnectionEvent, Exchange
from discosbackend.framing import LONGEST_LINE, Kind, Line, LineSplitter, LongLine, read_line, without_telnet
from discosbackend.grammar import INVALID, NO_NAME, REQUEST
from discosbackend.pairing import Event, Greeting, OutOfOrder, Pairing
from discosbackend.ticks import Ticks

__all__ = ["MOST_BYTES", "MOST_WAITING", "ClientLine", "Closed", "Conversation", "Opened", "Request", "ServerLine"]

MOST_WAITING = 8192
"""If more requests than this have no reply, the client's next bytes are not read."""
MOST_BYTES = 2**20
"""The same for the number of bytes in these requests."""

# With more requests without a reply, those to which the server gives none are given up. To find the request of a reply
# that is out of order takes a time that is proportional to their number.
_MOST_SKIPPED = 256

# A line end of framing.py, and what precedes it. The second pattern is slower, and is for chunks with NUL: the chunk
# may begin with the NUL of CR NUL.
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
_LINES_WITH_NUL = re.compile(rb"\A\0|[^\n\r]*(?:\r(?!\0)[^\n\r]*)*(?:\n|\r\0)|.+", re.DOTALL)

# How many requests and replies are kept, and the length of the longest reply, in bytes. Reading some of them one after
# the other takes a third of the time, because the processor still has the code in its cache.
_MOST_KEPT = 8
_LONGEST_KEPT = 512

_NO_REPLY = Kind.NOT_A_REQUEST


class Request(NamedTuple):
    """A line of a client that gets a reply."""

    number: int
    """Its number on the connection."""
    name: str
    """The name of the command. "" if it has none."""
    line: bytes
    """The line, without its end and without telnet negotiation."""
    read: Line
    """The parsed line."""
    began: float
    """When it arrived, in s of a monotonic clock."""
    time: Ticks
    """When it arrived."""


class Opened(NamedTuple):
    """A connection was opened. For the judge."""

    connection: int
    peer: str


class ClientLine(NamedTuple):
    """A line of a client. For the judge."""

    connection: int
    line: bytes
    """As in Request."""
    read: Line
    waiting: int
    """How many earlier requests had no reply."""
    greeted: bool
    """Whether the server had sent a line."""
    refused: bool
    """Whether the tap has refused it."""


class ServerLine(NamedTuple):
    """A line of the server. For the judge."""

    connection: int
    event: Event[Request]
    request: Request | None
    """The request to which it belongs. None if it belongs to none."""
    seconds: float
    """The time since that request."""


class Closed(NamedTuple):
    """A connection was closed. For the judge."""

    connection: int
    server_rest: bytes
    """The received part of an incomplete line of the server."""
    unanswered: tuple[Request, ...]
    """The requests without a reply."""
    seconds: float
    """The time since the oldest of them."""
    by_server: bool
    """Whether the server has closed the connection, or its half of it, while the client waited."""


class _Refused(NamedTuple):
    request: Request
    reply: bytes


class Conversation:
    """One connection through a tap. Feed it what arrives, and send what it returns.

    Parameters
    ----------
    number, peer
        The number of the connection, and the name of the client, for the records.
    refuse
        Called with a line of the client. Returns None if the line is passed on, otherwise the reply that refuses it. It
        is called for the first line of HTTP or TLS and, with `by_line`, for every line that gets a reply.
    listeners
        The functions that get each Exchange and each ConnectionEvent. The list may change.
    notify
        Calls the listeners.
    reads
        The names of the commands that change nothing.
    judge
        A function that gets Opened, ClientLine, ServerLine and Closed. None: there is none.
    by_line
        Whether requests may be refused.
    monotonic
        A monotonic clock, in s.

    Attributes
    ----------
    foreign
        What the client speaks, such as "an HTTP request", if that is not this protocol: nothing more is passed on. ""
        if it is this protocol.
    """

    def __init__(
        self,
        number: int,
        peer: str,
        refuse: Callable[[Line, bytes], bytes | None],
        *,
        listeners: Sequence[Any] = (),
        notify: Callable[[Exchange | ConnectionEvent], object] = lambda _: None,
        reads: frozenset[str] = frozenset(),
        judge: Callable[[Any], object] | None = None,
        by_line: bool = False,
        monotonic: Callable[[], float] = perf_counter,
    ) -> None:
        self.number = number
        self.peer = peer
        self.foreign = ""
        self._refuse = refuse
        self._listeners = listeners
        self._notify = notify
        self._reads = reads
        self._judge = judge
        self._by_line = by_line
        self._monotonic = monotonic
        self._splitter = LineSplitter()
        self._pairing: Pairing[Request] = Pairing()
        self._count = 0
        # The bytes of the requests without a reply.
        self._bytes = 0
        # Of a client that is passed on by line: the bytes of the incomplete line, and whether the last line was passed.
        self._raw = b""
        self._passed = True
        self._refused: deque[_Refused] = deque()
        # Whether the server has sent a line, or is not waited for any more.
        self._greeted = False
        # A refusal was sent before the greeting, which is therefore left out when it comes (protocol section 1.2).
        self._drop_greeting = False
        # Requests and replies that were passed on and are not read yet. For each, its bytes, and its time of
        # arrival: in s of the monotonic clock, and for a request also as ticks.
        self._kept: list[tuple[bytes, float, Ticks | None]] = []
        # The requests that may be kept.
        self._bare_reads = frozenset(() if by_line else (f"{REQUEST}{name}\r\n".encode() for name in reads))
        # The server's incomplete line, if it is passed on by line; and whether its beginning was passed on already.
        self._held = b""
        self._mid_line = False
        self._ended = False
        if judge is not None:
            judge(Opened(number, peer))

    @property
    def waiting(self) -> int:
        """The number of requests that have no reply."""
        self.read_kept()
        return self._pairing.count + len(self._refused)

    @property
    def running(self) -> str:
        """The name of the oldest request without a reply, which the server is answering. "" if there is none."""
        self.read_kept()
        oldest = self._pairing.oldest
        return "" if oldest is None else oldest.name

    @property
    def full(self) -> bool:
        """Whether too much waits for replies, so that nothing more should be read from the client."""
        return self.waiting > MOST_WAITING or self._bytes > MOST_BYTES

    @property
    def refusing(self) -> bool:
        """Whether a refusal waits for its place."""
        return bool(self._refused)

    @property
    def awaits_greeting(self) -> bool:
        """Whether a refusal waits for the greeting. After some time, call greeting_is_overdue()."""
        return bool(self._refused) and not self._greeted

    # -- the client's bytes ---------------------------------------------------------------------------

    def is_plain_request(self, data: bytes) -> bool:
        """Return whether the bytes are one request that is passed on. They can then be sent before they are parsed."""
        return (
            data[:1] == b"?"
            and data.find(b"\n") == len(data) - 1
            and not (self._by_line or self.foreign or self._splitter.in_line)
        )

    @property
    def passes_replies(self) -> bool:
        """Whether all bytes of the server are passed on unchanged. They can then be sent before they are parsed."""
        return not (self._refused or self._drop_greeting or self._held)

    def from_client(self, data: bytes) -> tuple[bytes, bytes]:
        """Add bytes that the client has sent.

        Returns
        -------
        to_server, to_client
            What to send now.
        """
        if self.foreign:
            return b"", b""
        self.read_kept()
        return self._read_client(data, self._monotonic(), Ticks.now())

    def _read_client(self, data: bytes, now: float, time: Ticks) -> tuple[bytes, bytes]:
        passed: list[bytes] = []
        end = 0
        pieces: list[bytes] = (_LINES_WITH_NUL if b"\0" in data else _LINES).findall(data)
        for piece in pieces:
            lines = self._splitter.feed(piece)
            passing = True
            for line in lines:
                passing = self._client_line(line, now, time)
                if self.foreign:
                    # Of a line whose beginning was in an earlier chunk, that beginning was passed on already.
                    return b"".join(passed) if self._by_line else data[:end], self._due()
            end += len(piece)
            if self._by_line:
                self._pass_by_line(piece, bool(lines), passing, passed)
        return b"".join(passed) if self._by_line else data, self._due() if self._refused else b""

    def _pass_by_line(self, piece: bytes, is_end: bool, passing: bool, passed: list[bytes]) -> None:
        if is_end:
            if passing:
                passed.append(self._raw + piece)
            self._raw, self._passed = b"", passing
        elif piece == b"\n":
            # The LF after CR NUL belongs to the same line end.
            if self._passed:
                passed.append(piece)
        elif len(self._raw) <= LONGEST_LINE:
            # A longer line is refused, so its rest is not needed.
            self._raw += piece

    def _client_line(self, line: bytes, now: float, time: Ticks) -> bool:
        """Note a line of the client. Return whether it is passed on."""
        negotiation = line
        if line[:1] != b"?":
            line = without_telnet(line)
        if not line and negotiation and not isinstance(line, LongLine):
            return True
        read = read_line(line)
        if read.kind is _NO_REPLY:
            if self._listeners:
                self._notify(Exchange(self.number, self.peer, time, line, "", None, "", False, 0.0))
            if self._judge is not None:
                self._judge(ClientLine(self.number, line, read, self.waiting, self._greeted, self._by_line))
            return not self._by_line
        reply = self._refuse(read, line) if self._by_line or read.language else None
        if self._judge is not None:
            self._judge(ClientLine(self.number, line, read, self.waiting, self._greeted, reply is not None))
        request = Request(self._count, read.name, line, read, now, time)
        self._count += 1
        self._bytes += len(line)
        if reply is None:
            self._pairing.expect(read.name or NO_NAME, request)
            return True
        self._refused.append(_Refused(request, reply))
        self.foreign = read.language
        return False

    # -- the server's bytes ---------------------------------------------------------------------------

    def keep_request(self, data: bytes) -> bool:
        """Keep what a client has sent, if that is a read without arguments, and no request that was parsed waits.

        Returns
        -------
        bool
            Whether it is kept. Then it must be passed on unchanged. If not, call from_client().
        """
        if (
            data not in self._bare_reads
            or len(self._kept) >= _MOST_KEPT
            or self._splitter.in_line
            or self._pairing.count
            or self.foreign
        ):
            return False
        self._kept.append((data, self._monotonic(), Ticks.now()))
        return True

    def keep_reply(self, data: bytes) -> bool:
        """Keep what the server has sent, if that may be the reply to a request that was kept.

        Returns
        -------
        bool
            Whether it is kept. Then it must be passed on unchanged. If not, call from_server().
        """
        if not 0 < len(self._kept) < _MOST_KEPT or len(data) > _LONGEST_KEPT:
            return False
        self._kept.append((data, self._monotonic(), None))
        return True

    def read_kept(self) -> None:
        """Read what was kept. It must be called soon. All methods that depend on it call it first."""
        if not self._kept:
            return
        kept, self._kept = self._kept, []
        for data, now, time in kept:
            if time is None:
                self._read_server(data, now)
            else:
                self._read_client(data, now, time)

    def from_server(self, data: bytes) -> bytes:
        """Add bytes that the server has sent. Return what to send to the client now."""
        self.read_kept()
        now = self._monotonic()
        if self.passes_replies:
            self._read_server(data, now)
            return data
        passed: list[bytes] = []
        for piece in _LINES.findall(data):
            self._server_piece(piece, passed, now)
        if self._held and not self._refused and not self._drop_greeting:
            passed.append(self._held)
            self._held, self._mid_line = b"", True
        return b"".join(passed)

    def _read_server(self, data: bytes, now: float) -> None:
        rest = data if self._judge is not None else self._take_answers(data, now)
        for event in self._pairing.feed(rest):
            self._server_line(event, now)
        self._mid_line = data[-1:] != b"\n"

    def _take_answers(self, data: bytes, now: float) -> bytes:
        """Note the replies at the beginning of a chunk, for which nobody needs an event. Return the rest."""
        answers, rest = self._pairing.feed_answers(data)
        if answers:
            self._greeted = True
            for request, line, code in answers:
                self._bytes -= len(request.line)
                if self._listeners:
                    self._note(request, line, code, now - request.began)
        return rest

    def _server_piece(self, piece: bytes, passed: list[bytes], now: float) -> None:
        """Add bytes up to the end of a line at most."""
        events = self._pairing.feed(piece)
        is_end = piece[-1:] == b"\n"
        if self._mid_line:
            passed.append(piece)
        else:
            self._held += piece
        for event in events:
            request = self._server_line(event, now)
            if self._mid_line:
                continue
            if request is not None:
                passed += self._earlier_refusals(request.number)
            if self._drop_greeting and isinstance(event, Greeting):
                self._drop_greeting = False
            else:
                passed.append(self._held)
            self._held = b""
            # An overlong line is reported before its end.
            self._mid_line = True
        if is_end:
            self._mid_line = False
            passed.append(self._due())

    def _server_line(self, event: Event[Request], now: float) -> Request | None:
        """Note a line of the server. Return the request to which it is the reply; None if there is none."""
        self._greeted = True
        request: Request | None = getattr(event, "request", None)
        seconds = 0.0
        if request is not None:
            seconds = now - request.began
            self._bytes -= len(request.line)
            if self._listeners:
                message = getattr(event, "message", None)
                self._note(request, event.line, "" if message is None else message.code, seconds)
            if isinstance(event, OutOfOrder) and self._pairing.count > _MOST_SKIPPED:
                self._forget_before(request.number)
        if self._judge is not None:
            self._judge(ServerLine(self.number, event, request, seconds))
        return request

    def _forget_before(self, number: int) -> None:
        """Give up requests to which the server gives no replies: the client would not be read any more otherwise."""
        while (oldest := self._pairing.oldest) is not None and oldest.number < number:
            self._unanswered(self._pairing.forget_oldest())

    # -- refusals -------------------------------------------------------------------------------------

    def _due(self) -> bytes:
        """Return the refusals that are next."""
        if not self._greeted or self._mid_line or self._held:
            return b""
        oldest = self._pairing.oldest
        return b"".join(self._earlier_refusals(self._count if oldest is None else oldest.number))

    def _earlier_refusals(self, number: int) -> list[bytes]:
        """Return the refusals of the requests before this one."""
        replies = []
        while self._refused and self._refused[0].request.number < number:
            request, reply = self._refused.popleft()
            self._bytes -= len(request.line)
            if self._listeners:
                code = reply.split(b",", 2)[1].decode("latin-1")
                self._note(request, reply, code, self._monotonic() - request.began)
            replies.append(reply + b"\r\n")
        return replies

    def greeting_is_overdue(self) -> bytes:
        """Stop waiting for the greeting. Return what to send to the client now."""
        if not self.awaits_greeting or self._held or self._mid_line:
            return b""
        self._greeted = True
        # A server with a greeting delay sends its greeting later, if it has got no request.
        self._drop_greeting = self._pairing.count == 0
        return self._due()

    # -- the end --------------------------------------------------------------------------------------

    def server_ended(self) -> bytes:
        """Handle the end of the server's data. Return what to send to the client now."""
        held, self._held, self._greeted, self._mid_line = self._held, b"", True, False
        if not self._refused:
            return held
        return held + b"".join(self._earlier_refusals(self._count))

    def closed(self, *, by_server: bool) -> None:
        """Handle the end of the connection, and note the requests that have no reply.

        Parameters
        ----------
        by_server
            Whether the server has closed it while the client waited.
        """
        if self._ended:
            return
        self._ended = True
        self.read_kept()
        ended = self._pairing.end()
        if self._judge is not None:
            seconds = self._monotonic() - ended.unanswered[0].began if ended.unanswered else 0.0
            self._judge(Closed(self.number, ended.rest, ended.unanswered, seconds, by_server))
        for request in ended.unanswered:
            self._unanswered(request)

    # -- records --------------------------------------------------------------------------------------

    def _unanswered(self, request: Request) -> None:
        self._bytes -= len(request.line)
        if self._listeners:
            self._note(request, None, "", self._monotonic() - request.began)

    def _note(self, request: Request, reply: bytes | None, code: str, seconds: float) -> None:
        changes = request.name not in self._reads and code != INVALID
        heading = (self.number, self.peer, request.time, request.line, request.name)
        self._notify(Exchange(*heading, reply, code, changes, seconds))
