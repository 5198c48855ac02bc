"""Wire: a connection that checks the bytes of every line that the server sends.

discosbackend.client is tolerant when it reads replies. This module is strict, because the deployed clients depend on
the exact bytes. It splits the bytes into lines and reads them as the clients do, by pairing.py. It does not pair them
with requests: the cases do that, because they have to see each wrong reply. They check the contents of the replies.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from discosbackend.errors import GrammarException, reason_of
from discosbackend.grammar import LINEFEED, Message
from discosbackend.line_socket import LineSocket, connected
from discosbackend.pairing import LONGEST_REPLY, ReplyLine, ReplyLines, reply_in

__all__ = ["LINE_END", "PROMPT", "UNKNOWN_COMMAND", "FailedIn", "Reply", "Wire", "is_about_unknown", "used_in"]

__unittest = True
__tracebackhide__ = True

# How many bytes of a line a conversation contains.
_SHOWN_BYTES = 300

PROMPT = 10.0
"""How long to wait for a reply that does not depend on the instrument, in s."""

# Features that every case uses, and that a separate case tests: see FailedIn.
LINE_END = "the line end"
UNKNOWN_COMMAND = "the reply to an unknown command"

_ABOUT_UNKNOWN = b",fail,invalid command "


class FailedIn(AssertionError):
    """A failure while features were in use that other cases test. If such a case fails too, it is the cause.

    Parameters
    ----------
    problem
        The text of the failure.
    used
        The names of the features, the innermost first: commands, or constants such as LINE_END.
    """

    def __init__(self, problem: str, used: tuple[str, ...]) -> None:
        super().__init__(problem)
        self.used = used


def used_in(problem: BaseException) -> tuple[str, ...]:
    """Return the features that were in use when this exception was raised, the innermost first."""
    return problem.used if isinstance(problem, FailedIn) else ()


class Reply(NamedTuple):
    """A reply: the line as it was received, and the message that it contains."""

    line: bytes
    message: Message


def is_about_unknown(data: bytes) -> bool:
    """Return whether the data contain the reply to an unknown command (protocol section 5.3)."""
    return _ABOUT_UNKNOWN in data


class Wire:
    """A connection to a server under test. Its methods raise AssertionError if the server violates the protocol.

    Parameters
    ----------
    address
        Host and port of the server.
    timeout
        How long to wait for the connection and for each reply, in s.
    reply_limit
        The length of the longest reply in bytes, None for no limit.
    before_sending
        Called with the bytes before they are sent.

    Raises
    ------
    AssertionError
        If the connection cannot be made.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        timeout: float,
        reply_limit: int | None,
        before_sending: Callable[[bytes], object] = lambda data: None,
    ) -> None:
        self.timed_out = False
        self.answered: set[str] = set()
        """Invented command names that were sent on this connection, and whose replies have been read."""
        self._before_sending = before_sending
        self._timeout = timeout
        self._reply_limit = reply_limit
        self._last_line = b""
        self._said: list[str] = []
        self._broken = False
        self._socket = connected(address, timeout, AssertionError)
        self._lines = LineSocket(self._socket, "the server", AssertionError, longest=LONGEST_REPLY)
        self._framing = ReplyLines()
        self._unread: deque[ReplyLine] = deque()

    @property
    def cut_off(self) -> bool:
        """Whether the server has closed the connection, or the connection has broken."""
        return self._broken or self._lines.ended

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def reset(self) -> None:
        """Reset the connection, as the operating system does when a client crashes."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send the bytes."""
        self._before_sending(data)
        self._note("sent", data)
        with self._unbroken(" while sending"):
            self._lines.send(data, self._timeout)

    def send_what_fits(self, data: bytes) -> None:
        """Send as many of the bytes as possible without waiting, and drop the rest."""
        self._before_sending(data)
        self._socket.setblocking(False)
        rest = memoryview(data)
        try:
            # BlockingIOError: the buffers are full.
            with self._unbroken(" while sending"), suppress(BlockingIOError):
                while rest:
                    rest = rest[self._socket.send(rest) :]
        finally:
            self._note("sent", data[: len(data) - len(rest)])

    def send_end(self) -> None:
        """Close the sending half of the connection."""
        self._said.append("sent      end of stream")
        with self._unbroken(" while sending"):
            self._socket.shutdown(socket.SHUT_WR)

    def read(self, within: float = PROMPT) -> Reply:
        """Read the next line, which must be a valid reply.

        Parameters
        ----------
        within
            How long to wait, in s; at most the timeout of the connection.

        Raises
        ------
        AssertionError
            If no line is received in time, or if the line does not end in CR LF, is too long, or is not a reply in the
            form that the grammar requires.
        """
        line = self._read_line(min(within, self._timeout))
        if not line.endswith(LINEFEED.encode()):
            raise FailedIn(f"a reply must end in CR LF, but this one does not: {line!r}", (LINE_END,))
        if self._reply_limit is not None and len(line) > self._reply_limit:
            raise AssertionError(
                f"a reply must have at most {self._reply_limit} bytes, but this one has {len(line)}: {line[:80]!r}..."
            )
        text = line[: -len(LINEFEED)]
        try:
            message = reply_in(text)
        except GrammarException as problem:
            raise AssertionError(f"not a reply of the protocol: {problem}: {line!r}") from None
        if str(message) != text.decode("latin-1"):
            raise AssertionError(f"the grammar writes this reply as {str(message)!r}, not as {line!r}")
        if message.name in self.answered:
            raise FailedIn(f"one reply too many: {line!r} was received a second time", (UNKNOWN_COMMAND,))
        return Reply(line, message)

    def has_lines(self, number: int, within: float) -> bool:
        """Return whether this number of lines is received within `within` seconds. The lines are not checked."""
        deadline = time.monotonic() + within
        # The next read() reports a broken connection.
        with suppress(OSError, AssertionError):
            while len(self._unread) < number and time.monotonic() < deadline:
                self._receive(deadline)
        return len(self._unread) >= number

    def read_end(self) -> None:
        """Check that the server closes the connection and sends nothing before that."""
        try:
            with self._within(min(PROMPT, self._timeout)) as deadline:
                if not self._unread_bytes:
                    self._receive(deadline)
        except AssertionError:
            if not self._lines.ended:
                raise
        else:
            raise AssertionError(f"the server sent something without a request: {self._unread_bytes!r}")

    def stay_silent(self, seconds: float) -> None:
        """Wait for this number of seconds, and check that the server sends nothing."""
        with self._unbroken():
            try:
                if not self._unread_bytes:
                    self._receive(time.monotonic() + seconds)
            except TimeoutError:
                return
        data = self._unread_bytes
        again = any(b"!%b," % name.encode() in data for name in self.answered) or is_about_unknown(data)
        # Or it is the same `fail` reply as before.
        again |= b",fail," in self._last_line and data.startswith(self._last_line)
        raise FailedIn(f"the server sent something without a request: {data!r}", (UNKNOWN_COMMAND,) if again else ())

    def conversation(self, lines: int) -> str:
        """Return the last lines that were sent and received, one on each line of text, at most `lines` of them."""
        said = without_repetitions(self._said)
        left_out = len(said) - lines
        beginning = [f"... {left_out} earlier lines ..."] if left_out > 0 else []
        return "\n".join(beginning + said[-lines:])

    def _note(self, what: str, data: bytes) -> None:
        cut = "" if len(data) <= _SHOWN_BYTES else f"... ({len(data)} bytes)"
        self._said.append(f"{what:9} {data[:_SHOWN_BYTES]!r}{cut}")

    @property
    def _unread_bytes(self) -> bytes:
        """What has been received and not been read."""
        return b"".join(line + b"\n" for line, _ in self._unread) + self._framing.rest

    def _receive(self, deadline: float) -> None:
        """Wait for data until the deadline, and split them into lines. See LineSocket.receive()."""
        self._lines.receive(deadline)
        data = bytes(self._lines.received)
        self._lines.received.clear()
        self._unread += self._framing.feed(data)

    def _read_line(self, seconds: float) -> bytes:
        try:
            with self._within(seconds) as deadline:
                while not self._unread:
                    self._receive(deadline)
        except AssertionError as problem:
            if not self._lines.ended:
                raise
            after = f", after {self._framing.rest!r}" if self._framing.rest else ""
            raise AssertionError(f"{problem} where a reply was expected{after}") from None
        line, too_long = self._unread.popleft()
        if too_long:
            raise AssertionError(f"the server sent a line of more than {LONGEST_REPLY} bytes: {line[:40]!r}...")
        self._last_line = line + b"\n"
        self._note("received", self._last_line)
        return self._last_line

    @contextmanager
    def _within(self, seconds: float) -> Iterator[float]:
        """Yield the deadline for what is received in the context. Raise AssertionError if nothing arrives in time."""
        with self._unbroken():
            try:
                yield time.monotonic() + seconds
            except TimeoutError:
                self.timed_out = True
                received = self._framing.rest[:80]
                incomplete = f", except {received!r}" if received else ""
                raise AssertionError(f"nothing was received within {seconds:g} s{incomplete}") from None

    @contextmanager
    def _unbroken(self, doing: str = "") -> Iterator[None]:
        """Raise AssertionError if the connection breaks in the context."""
        try:
            yield
        except OSError as problem:
            self._broken = True
            raise AssertionError(f"the connection broke{doing}: {reason_of(problem)}") from None


def without_repetitions(said: Sequence[str]) -> list[str]:
    """Return the lines of a conversation, with only the first and the last exchange of a repeated request."""
    found: list[str] = []
    at = 0
    while at < len(said):
        end = at + 2
        while end + 1 < len(said) and said[end] == said[at] and _are_received(said[at + 1], said[end + 1]):
            end += 2
        if (left_out := (end - at) // 2 - 2) > 1:
            found += [*said[at : at + 2], f"... {left_out} times more ...", *said[end - 2 : end]]
            at = end
        else:
            found.append(said[at])
            at += 1
    return found


def _are_received(*lines: str) -> bool:
    return all(line.startswith("received") for line in lines)
