"""Wire: a connection that sees bytes, and judges every line that the server sends.

discosbackend.client reads replies as they are meant; here nothing is forgiven, because it is the bytes that
the deployed clients depend on. What a reply should say is the cases' business.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from discosbackend.errors import GrammarException
from discosbackend.grammar import LINEFEED, Message, parse_message
from discosbackend.log import address_text

__all__ = ["LINE_END", "PROMPT", "UNKNOWN_COMMAND", "FailedIn", "Reply", "Wire", "is_about_unknown", "used_in"]

__unittest = True
__tracebackhide__ = True

# Of a longer conversation only the end is shown, of a longer line only the beginning.
_SHOWN_BYTES = 300

PROMPT = 10.0
"""Seconds for what a server answers by itself, whatever its instrument is doing."""

# Bytes of what can be no reply any more.
_ENDLESS = 65536

# What every case uses, and a case of its own shows to work: see FailedIn.
LINE_END = "the line end"
UNKNOWN_COMMAND = "the reply to an unknown command"

_ABOUT_UNKNOWN = b",fail,invalid command "


class FailedIn(AssertionError):
    """A failure while something was used that has a case of its own: if that fails too, it is the cause.

    `used` are the names of these things, the innermost first: a command, or one of a few other names.
    """

    def __init__(self, problem: str, used: tuple[str, ...]) -> None:
        super().__init__(problem)
        self.used = used


def used_in(problem: BaseException) -> tuple[str, ...]:
    """What was in use when this went wrong, the innermost first."""
    return problem.used if isinstance(problem, FailedIn) else ()


class Reply(NamedTuple):
    """One whole line as it arrived, and what it says."""

    line: bytes
    message: Message


def is_about_unknown(data: bytes) -> bool:
    """Whether this is, or has in it, a reply to an unknown command (protocol section 5.3)."""
    return _ABOUT_UNKNOWN in data


class Wire:
    """A connection to a server under test. AssertionError for whatever a server must not do.

    `timeout` is in seconds, for the connection and for each reply; `reply_limit` is the length of the longest
    reply in bytes, None for any; `before_sending` is called with what is about to be sent.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        timeout: float,
        reply_limit: int | None,
        before_sending: Callable[[bytes], object] = lambda data: None,
    ) -> None:
        self.cut_off = False
        self.timed_out = False
        self.answered: set[str] = set()
        """Names of requests, made up for this connection, whose one reply has been read."""
        self._before_sending = before_sending
        self._timeout = timeout
        self._reply_limit = reply_limit
        self._received = self._last_line = b""
        self._said: list[str] = []
        try:
            self._socket = socket.create_connection(address, timeout)
        except OSError as problem:
            raise AssertionError(f"no server at {address_text(address)}: {problem}") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def reset(self) -> None:
        """Hang up as a client that crashes does: the server sees the connection break."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._before_sending(data)
        self._note("sent", data)
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except OSError as problem:
            self.cut_off = True
            raise AssertionError(f"the connection broke while sending: {problem}") from None

    def send_what_fits(self, data: bytes) -> None:
        """Send as much as the connection takes without waiting, and leave out the rest."""
        self._before_sending(data)
        self._socket.setblocking(False)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._socket.send(rest) :]
        except BlockingIOError:
            # No more fits.
            pass
        except OSError as problem:
            self.cut_off = True
            raise AssertionError(f"the connection broke while sending: {problem}") from None
        finally:
            self._note("sent", data[: len(data) - len(rest)])

    def send_end(self) -> None:
        """Close the sending half of the connection."""
        self._said.append("sent      the end of its half")
        self._socket.shutdown(socket.SHUT_WR)

    def read(self, within: float = PROMPT) -> Reply:
        """The next line. It must come in time, end in CR LF, keep within the limit and be a reply.

        In time is within so many seconds, or the timeout where that is less.
        """
        line = self._read_line(min(within, self._timeout))
        if not line.endswith(LINEFEED.encode()):
            raise FailedIn(f"a reply ends in CR LF, this one does not: {line!r}", (LINE_END,))
        if self._reply_limit is not None and len(line) > self._reply_limit:
            raise AssertionError(
                f"a reply has at most {self._reply_limit} bytes, this one has {len(line)}: {line[:80]!r}..."
            )
        text = line[: -len(LINEFEED)].decode("latin-1")
        try:
            message = parse_message(text)
        except GrammarException as problem:
            raise AssertionError(f"no message of the protocol: {problem}: {line!r}") from None
        if not message.is_reply():
            raise AssertionError(f"a server sends replies only, not {line!r}")
        if str(message) != text:
            raise AssertionError(f"not as the grammar writes it, which is {str(message)!r}: {line!r}")
        if message.name in self.answered:
            raise FailedIn(f"one reply too many: {line!r} comes a second time", (UNKNOWN_COMMAND,))
        return Reply(line, message)

    def has_lines(self, number: int, within: float) -> bool:
        """Whether so many lines can be read now or come within so many seconds, whatever is in them."""
        deadline = time.monotonic() + within
        while self._received.count(b"\n") < number and (left := deadline - time.monotonic()) > 0:
            try:
                self._socket.settimeout(left)
                data = self._socket.recv(65536)
            except OSError:
                # A TimeoutError is one too; of what else is wrong the next read will tell.
                return False
            if not data:
                return False
            self._received += data
        return self._received.count(b"\n") >= number

    def read_end(self) -> None:
        """The server must close the connection, and send nothing more before."""
        seconds = min(PROMPT, self._timeout)
        if data := self._receive(seconds, time.monotonic() + seconds):
            raise AssertionError(f"the server sent something that nobody asked for: {data!r}")

    def stay_silent(self, seconds: float) -> None:
        """Wait so long; the server must not send anything meanwhile."""
        try:
            self._socket.settimeout(seconds)
            data = self._received or self._socket.recv(65536)
        except TimeoutError:
            return
        except OSError as problem:
            self.cut_off = True
            raise AssertionError(f"the connection broke: {problem}") from None
        self.cut_off = not data
        if not data:
            raise AssertionError("the server closed the connection")
        again = any(b"!%b," % name.encode() in data for name in self.answered) or is_about_unknown(data)
        # Or a second time what was the reply to something else that failed.
        again |= b",fail," in self._last_line and data.startswith(self._last_line)
        raise FailedIn(
            f"the server sent something that nobody asked for: {data!r}", (UNKNOWN_COMMAND,) if again else ()
        )

    def conversation(self, lines: int) -> str:
        """What was sent and received, at most so many lines of it, for a reader who looks for the mistake."""
        said = without_repetitions(self._said)
        left_out = len(said) - lines
        beginning = [f"... {left_out} lines before ..."] if left_out > 0 else []
        return "\n".join(beginning + said[-lines:])

    def _note(self, what: str, data: bytes) -> None:
        cut = "" if len(data) <= _SHOWN_BYTES else f"... ({len(data)} bytes)"
        self._said.append(f"{what:9} {data[:_SHOWN_BYTES]!r}{cut}")

    def _read_line(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            if len(self._received) > _ENDLESS:
                raise AssertionError(f"{len(self._received)} bytes without a line end: {self._received[:80]!r}...")
            data = self._receive(seconds, deadline)
            if not data:
                incomplete, self._received = self._received, b""
                raise AssertionError(
                    "the server closed the connection where a reply is wanted"
                    + (f", after {incomplete!r}" if incomplete else "")
                )
            self._received += data
        line, end, self._received = self._received.partition(b"\n")
        self._last_line = line + end
        self._note("received", self._last_line)
        return self._last_line

    def _receive(self, seconds: float, deadline: float) -> bytes:
        """What arrives within so many seconds, which end at the deadline; b"" at the end of the connection."""
        try:
            # What is there already counts, however late this host looks.
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            data = self._socket.recv(65536)
        except TimeoutError:
            self.timed_out = True
            incomplete = f", only {self._received[:80]!r}" if self._received else ""
            raise AssertionError(f"nothing came within {seconds:g} s{incomplete}") from None
        except OSError as problem:
            self.cut_off = True
            raise AssertionError(f"the connection broke: {problem}") from None
        self.cut_off = not data
        return data


def without_repetitions(said: Sequence[str]) -> list[str]:
    """The lines of a conversation; where one request is repeated, only its first and last time."""
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
