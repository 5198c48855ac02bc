"""Pairing: finds the request to which each reply of a server belongs (protocol section 1.8).

It uses no sockets. The clients use it, and everything that watches a connection. The protocol has no message numbers,
so a reply belongs to the oldest request that has none. Pairing reports each line that contradicts this: a surplus
reply, a reply with a wrong name, an incomplete or overlong line. It cannot detect a repeated reply that begins after
the next request of the same name was sent: this is taken for the reply to that request.

Before replies are paired, ReplyLines splits the bytes into lines, and reply_in() reads a line. The conformance kit uses
only these two, because its cases have to see each wrong reply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from discosbackend.errors import GrammarException
from discosbackend.grammar import REPLY, REQUEST, Message, named_in, parse_message, reply_pattern

__all__ = [
    "GREETING_NAME",
    "LONGEST_REPLY",
    "Answer",
    "Ended",
    "Event",
    "Greeting",
    "Malformed",
    "Misnamed",
    "OutOfOrder",
    "Pairing",
    "Received",
    "ReplyLine",
    "ReplyLines",
    "Surplus",
    "TooLong",
    "reply_in",
]

RequestT = TypeVar("RequestT")

GREETING_NAME = "version"
"""The name of the greeting, which is the reply to this command (protocol section 1.2)."""

LONGEST_REPLY = 65536
"""The length of the longest accepted line, in bytes, with CR, without LF. By default, a server sends at most 511."""

_GREETING_BEGINS = f"{REPLY}{GREETING_NAME},".encode()
# How much of an overlong line is kept. It is enough for a name.
_BEGINNING = 128


class ReplyLine(NamedTuple):
    """A line that a server has sent, before it is read."""

    line: bytes
    """The line without its LF. Of an overlong line, the first bytes."""
    too_long: bool
    """Whether the line is longer than accepted."""


class ReplyLines:
    """Splits the bytes that a server sends into lines. At most one line of the longest length is stored.

    Parameters
    ----------
    longest
        The length of the longest accepted line, in bytes, with CR, without LF.
    """

    def __init__(self, longest: int = LONGEST_REPLY) -> None:
        self._longest = longest
        self._rest = bytearray()
        # Whether the rest of a line is skipped that was too long.
        self._skipping = False

    @property
    def rest(self) -> bytes:
        """The beginning of a line whose end has not been received."""
        return bytes(self._rest)

    @property
    def in_line(self) -> bool:
        """Whether a line has begun whose end has not been received."""
        return bool(self._rest) or self._skipping

    @property
    def skipping(self) -> bool:
        """Whether the line that has begun was reported as too long already."""
        return self._skipping

    def feed(self, data: bytes) -> Iterator[ReplyLine]:
        """Add a chunk of received bytes, and return the lines that end in it.

        The result must be iterated to its end. An overlong line is returned as soon as it is too long.
        """
        position = 0
        while position < len(data):
            end = data.find(b"\n", position)
            if self._skipping:
                if end < 0:
                    break
                self._skipping, position = False, end + 1
                continue
            stop = len(data) if end < 0 else end
            # A line is never stored beyond the longest length, even if the chunk is large.
            free = self._longest + 1 - len(self._rest)
            self._rest += data[position : min(stop, position + free)]
            position = stop
            if len(self._rest) > self._longest:
                line = bytes(self._rest[:_BEGINNING])
                self._rest.clear()
                self._skipping = True
                yield ReplyLine(line, True)
            elif end >= 0:
                line = bytes(self._rest)
                self._rest.clear()
                position += 1
                yield ReplyLine(line, False)


def reply_in(line: bytes) -> Message:
    """Return the reply that a line contains.

    Parameters
    ----------
    line
        The line without CR LF.

    Raises
    ------
    GrammarException
        If the line is not a reply.
    """
    message = parse_message(line.decode("latin-1"))
    if not message.is_reply():
        raise GrammarException("a server must send only replies")
    return message


@dataclass(frozen=True, slots=True)
class Received:
    """A line that the server has sent."""

    line: bytes
    """The line without its end. Of an overlong line, the first bytes."""
    crlf: bool
    """Whether the line ends in CR LF, as every line of a server must. False: in LF alone."""


@dataclass(frozen=True, slots=True)
class Greeting(Received):
    """The greeting. It may arrive late, also after the first requests."""

    message: Message


@dataclass(frozen=True, slots=True)
class Answer(Received, Generic[RequestT]):
    """The reply to a request: to the oldest request without one, and with its name."""

    message: Message
    request: RequestT


@dataclass(frozen=True, slots=True)
class Surplus(Received):
    """A reply too many: no request was waiting when it began, or it repeats the name of the previous reply."""

    message: Message


@dataclass(frozen=True, slots=True)
class OutOfOrder(Received, Generic[RequestT]):
    """A reply to a later request. The requests before it are still waiting."""

    message: Message
    request: RequestT


@dataclass(frozen=True, slots=True)
class Misnamed(Received, Generic[RequestT]):
    """A reply with a name that no waiting request has. It is counted as the reply to the oldest request."""

    message: Message
    request: RequestT


@dataclass(frozen=True, slots=True)
class Malformed(Received, Generic[RequestT]):
    """A line that is not a reply."""

    problem: str
    """Why it is not a reply."""
    request: RequestT | None
    """The request to which it is counted as the reply. None: no request was waiting when the line began."""


@dataclass(frozen=True, slots=True)
class TooLong(Received, Generic[RequestT]):
    """A line that is longer than accepted. It is reported before its end, and the rest of the line is skipped."""

    longest: int
    """The length of the longest accepted line, in bytes, with CR, without LF."""
    request: RequestT | None
    """The request to which it is counted as the reply. None: no request was waiting when the line began."""


@dataclass(frozen=True, slots=True)
class Ended(Generic[RequestT]):
    """The server has closed its half of the connection."""

    rest: bytes
    """The received part of an incomplete line."""
    unanswered: tuple[RequestT, ...]
    """The requests that got no reply."""


Event: TypeAlias = (
    Greeting
    | Answer[RequestT]
    | Surplus
    | OutOfOrder[RequestT]
    | Misnamed[RequestT]
    | Malformed[RequestT]
    | TooLong[RequestT]
)
"""A line of the server, as feed() reports it."""


class Pairing(Generic[RequestT]):
    """Finds the request of each reply on one connection.

    Call expect() before a request is sent, and feed() with the bytes that are received. The events do not depend on how
    the bytes are divided into chunks. At most one line of the longest length is stored.

    Parameters
    ----------
    longest
        The length of the longest accepted line, in bytes, with CR, without LF.
    """

    def __init__(self, longest: int = LONGEST_REPLY) -> None:
        self.greeting: Message | None = None
        """The greeting, or None if none has arrived."""
        self._longest = longest
        self._waiting: deque[tuple[str, RequestT]] = deque()
        self._previous = ""
        self._lines = ReplyLines(longest)
        # Whether no request was waiting when the current line began, so that it cannot be a reply.
        self._unasked = False

    @property
    def waiting(self) -> tuple[RequestT, ...]:
        """The requests that have no reply, the oldest first."""
        return tuple(request for _, request in self._waiting)

    @property
    def oldest(self) -> RequestT | None:
        """The oldest request that has no reply. None if no request is waiting."""
        return self._waiting[0][1] if self._waiting else None

    @property
    def count(self) -> int:
        """The number of requests that have no reply."""
        return len(self._waiting)

    @property
    def rest(self) -> bytes:
        """The received part of an incomplete line."""
        return self._lines.rest

    @property
    def unasked(self) -> bool:
        """Whether the server has begun a line that is not the greeting, while no request was waiting."""
        lines = self._lines
        if not self._unasked or not lines.in_line:
            return False
        begins = lines.rest[: len(_GREETING_BEGINS)]
        return self.greeting is not None or lines.skipping or not _GREETING_BEGINS.startswith(begins)

    def expect(self, name: str, request: RequestT) -> None:
        """Add a request that is about to be sent.

        Parameters
        ----------
        name
            The name that its reply has. For a line that is not a message, it is defined in protocol section 5.2.
        request
            Any object. The event of the reply contains it.
        """
        self._waiting.append((name, request))

    def forget_oldest(self) -> RequestT:
        """Remove the oldest request that has no reply, and return it. Raise IndexError if there is none."""
        return self._waiting.popleft()[1]

    def feed(self, data: bytes) -> list[Event[RequestT]]:
        """Add a chunk of received bytes, and return an event for each line that ends in it.

        Parameters
        ----------
        data
            The chunk.

        Returns
        -------
        events
            The events in order. TooLong is reported as soon as the line is too long.
        """
        lines = self._lines
        if not lines.in_line:
            self._unasked = not self._waiting
        events = []
        for line, too_long in lines.feed(data):
            events.append(self._event(line, too_long))
            if not lines.in_line:
                # For the next line.
                self._unasked = not self._waiting
        return events

    def feed_answers(self, data: bytes) -> tuple[list[tuple[RequestT, bytes, str]], bytes]:
        """Take the ordinary replies at the beginning of a chunk, in a third of the time of feed().

        Parameters
        ----------
        data
            The chunk.

        Returns
        -------
        answers
            For each reply that feed() would return as an Answer: its request, its line without CR LF, and its code.
        rest
            The other bytes, for feed(). They begin with the first line that is not such a reply.
        """
        answers: list[tuple[RequestT, bytes, str]] = []
        position = 0
        waiting, match = self._waiting, reply_pattern.match
        if not self._lines.in_line:
            for line in data.split(b"\r\n")[:-1]:
                found = match(line.decode("latin-1")) if waiting and len(line) < self._longest else None
                if found is None or found["name"] != waiting[0][0]:
                    break
                answers.append((waiting.popleft()[1], line, found["code"]))
                position += len(line) + 2
                self._previous = found["name"]
        return answers, data[position:] if position else data

    def end(self) -> Ended[RequestT]:
        """Return what is missing when the server has closed its half of the connection."""
        return Ended(self.rest, self.waiting)

    def _event(self, line: bytes, too_long: bool) -> Event[RequestT]:
        if too_long:
            return TooLong(line, True, self._longest, self._take(_name_in(line))[1])
        crlf = line.endswith(b"\r")
        if crlf:
            line = line[:-1]
        try:
            message = reply_in(line)
        except GrammarException as problem:
            return Malformed(line, crlf, str(problem), self._take(_name_in(line))[1])
        head = self._waiting[0][0] if self._waiting else ""
        if self.greeting is None and message.name == GREETING_NAME and (self._unasked or head != GREETING_NAME):
            self.greeting = message
            return Greeting(line, crlf, message)
        kind, request = self._take(message.name)
        # A request may be None, so the kind decides.
        return Surplus(line, crlf, message) if kind is None else kind(line, crlf, message, request)  # type: ignore[arg-type]

    def _take(
        self, name: str
    ) -> tuple[type[Answer[RequestT] | OutOfOrder[RequestT] | Misnamed[RequestT]] | None, RequestT | None]:
        """Remove the request to which a line with this name is the reply, and return it and what the line is."""
        waiting = self._waiting
        if self._unasked or not waiting:
            return None, None
        if waiting[0][0] == name:
            self._previous = name
            return Answer, waiting.popleft()[1]
        for number, (other, request) in enumerate(waiting):
            if other == name:
                del waiting[number]
                return OutOfOrder, request
        if name and name == self._previous:
            return None, None
        self._previous = ""
        return Misnamed, waiting.popleft()[1]


def _name_in(line: bytes) -> str:
    """Return the name in a line that is not a reply, "" if there is none."""
    text = line.decode("latin-1")
    return named_in(REQUEST + text[1:]) if text[:1] == REPLY else ""
