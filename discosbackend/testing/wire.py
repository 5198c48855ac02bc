"""Wire: a connection that sees bytes, and judges every line that the server sends.

discosbackend.client reads replies as they are meant; here nothing is forgiven, because it is the bytes that
the deployed clients depend on. What a reply should say is the cases' business.
"""

from __future__ import annotations

import socket
import time
from typing import NamedTuple

from discosbackend.errors import GrammarException
from discosbackend.grammar import LINEFEED, Message, parse_message

__all__ = ["Reply", "Wire"]

__unittest = True
__tracebackhide__ = True

# Of a longer conversation only the end is shown, of a longer line only the beginning.
_SHOWN_LINES = 12
_SHOWN_BYTES = 300


class Reply(NamedTuple):
    """One whole line as it arrived, and what it says."""

    line: bytes
    message: Message


class Wire:
    """A connection to a server under test. AssertionError for whatever a server must not do.

    `timeout` is in seconds, for the connection and for each reply; `reply_limit` is the length of the longest
    reply in bytes, None for any.
    """

    def __init__(self, address: tuple[str, int], *, timeout: float, reply_limit: int | None) -> None:
        self.cut_off = False
        self._timeout = timeout
        self._reply_limit = reply_limit
        self._received = b""
        self._said: list[str] = []
        try:
            self._socket = socket.create_connection(address, timeout)
        except OSError as problem:
            raise AssertionError(f"no server at {address[0]}:{address[1]}: {problem}") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._note("sent", data)
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except OSError as problem:
            self.cut_off = True
            raise AssertionError(f"the connection broke while sending: {problem}") from None

    def send_end(self) -> None:
        """Close the sending half of the connection."""
        self._said.append("sent      the end of its half")
        self._socket.shutdown(socket.SHUT_WR)

    def read(self) -> Reply:
        """The next line. It must come in time, end in CR LF, keep within the limit and be a reply."""
        line = self._read_line()
        if not line.endswith(LINEFEED.encode()):
            raise AssertionError(f"a reply ends in CR LF, this one does not: {line!r}")
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
        return Reply(line, message)

    def read_end(self) -> None:
        """The server must close the connection, and send nothing more before."""
        if data := self._receive(time.monotonic() + self._timeout):
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
        raise AssertionError(
            f"the server sent something that nobody asked for: {data!r}"
            if data
            else "the server closed the connection"
        )

    def conversation(self) -> str:
        """What was sent and received, a line each, for a reader who looks for the mistake."""
        left_out = len(self._said) - _SHOWN_LINES
        beginning = [f"... {left_out} lines before ..."] if left_out > 0 else []
        return "\n".join(beginning + self._said[-_SHOWN_LINES:])

    def _note(self, what: str, data: bytes) -> None:
        cut = "" if len(data) <= _SHOWN_BYTES else f"... ({len(data)} bytes)"
        self._said.append(f"{what:9} {data[:_SHOWN_BYTES]!r}{cut}")

    def _read_line(self) -> bytes:
        deadline = time.monotonic() + self._timeout
        while b"\n" not in self._received:
            data = self._receive(deadline)
            if not data:
                incomplete, self._received = self._received, b""
                raise AssertionError(
                    "the server closed the connection where a reply is wanted"
                    + (f", after {incomplete!r}" if incomplete else "")
                )
            self._received += data
        line, end, self._received = self._received.partition(b"\n")
        self._note("received", line + end)
        return line + end

    def _receive(self, deadline: float) -> bytes:
        """What has arrived, b"" at the end of the connection."""
        try:
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            data = self._socket.recv(65536)
        except TimeoutError:
            incomplete = f", only {self._received!r}" if self._received else ""
            raise AssertionError(f"nothing came within {self._timeout:g} s{incomplete}") from None
        except OSError as problem:
            self.cut_off = True
            raise AssertionError(f"the connection broke: {problem}") from None
        self.cut_off = not data
        return data
