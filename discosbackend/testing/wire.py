"""Wire: a connection that checks the bytes of every line that the server sends.

discosbackend.client is tolerant when it reads replies. This module is strict, because the deployed clients depend on
the exact bytes. The contents of the replies are checked by the cases.
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

# How many bytes of a line a conversation contains.
_SHOWN_BYTES = 300

PROMPT = 10.0
"""How long to wait for a reply that does not depend on the instrument, in s."""

# So many bytes without a line end are not a reply.
_ENDLESS = 65536

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
        self.cut_off = False
        self.timed_out = False
        self.answered: set[str] = set()
        """Invented names of requests on this connection whose reply has been read."""
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
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except OSError as problem:
            self.cut_off = True
            raise AssertionError(f"the connection broke while sending: {problem}") from None

    def send_what_fits(self, data: bytes) -> None:
        """Send as many of the bytes as possible without waiting, and drop the rest."""
        self._before_sending(data)
        self._socket.setblocking(False)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._socket.send(rest) :]
        except BlockingIOError:
            # The buffers are full.
            pass
        except OSError as problem:
            self.cut_off = True
            raise AssertionError(f"the connection broke while sending: {problem}") from None
        finally:
            self._note("sent", data[: len(data) - len(rest)])

    def send_end(self) -> None:
        """Close the sending half of the connection."""
        self._said.append("sent      end of stream")
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as problem:
            self.cut_off = True
            raise AssertionError(f"the connection broke while sending: {problem}") from None

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
        text = line[: -len(LINEFEED)].decode("latin-1")
        try:
            message = parse_message(text)
        except GrammarException as problem:
            raise AssertionError(f"not a message of the protocol: {problem}: {line!r}") from None
        if not message.is_reply():
            raise AssertionError(f"a server must send only replies, not {line!r}")
        if str(message) != text:
            raise AssertionError(f"the grammar writes this reply as {str(message)!r}, not as {line!r}")
        if message.name in self.answered:
            raise FailedIn(f"one reply too many: {line!r} was received a second time", (UNKNOWN_COMMAND,))
        return Reply(line, message)

    def has_lines(self, number: int, within: float) -> bool:
        """Return whether this number of lines is received within `within` seconds. The lines are not checked."""
        deadline = time.monotonic() + within
        while self._received.count(b"\n") < number and (left := deadline - time.monotonic()) > 0:
            try:
                self._socket.settimeout(left)
                data = self._socket.recv(65536)
            except OSError:
                # A timeout, or a broken connection, which the next read() reports.
                return False
            if not data:
                return False
            self._received += data
        return self._received.count(b"\n") >= number

    def read_end(self) -> None:
        """Check that the server closes the connection and sends nothing before that."""
        seconds = min(PROMPT, self._timeout)
        if data := self._receive(seconds, time.monotonic() + seconds):
            raise AssertionError(f"the server sent something without a request: {data!r}")

    def stay_silent(self, seconds: float) -> None:
        """Wait for this number of seconds, and check that the server sends nothing."""
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

    def _read_line(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            if len(self._received) > _ENDLESS:
                raise AssertionError(f"{len(self._received)} bytes without a line end: {self._received[:80]!r}...")
            data = self._receive(seconds, deadline)
            if not data:
                incomplete, self._received = self._received, b""
                raise AssertionError(
                    "the server closed the connection where a reply was expected"
                    + (f", after {incomplete!r}" if incomplete else "")
                )
            self._received += data
        line, end, self._received = self._received.partition(b"\n")
        self._last_line = line + end
        self._note("received", self._last_line)
        return self._last_line

    def _receive(self, seconds: float, deadline: float) -> bytes:
        """Return what is received before the deadline, b"" at the end of the connection.

        `seconds` is the whole time that was allowed, for the text of the failure.
        """
        try:
            # Data that have already arrived count as received in time, even if this host was too busy to read them.
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            data = self._socket.recv(65536)
        except TimeoutError:
            self.timed_out = True
            incomplete = f", except {self._received[:80]!r}" if self._received else ""
            raise AssertionError(f"nothing was received within {seconds:g} s{incomplete}") from None
        except OSError as problem:
            self.cut_off = True
            raise AssertionError(f"the connection broke: {problem}") from None
        self.cut_off = not data
        return data


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
