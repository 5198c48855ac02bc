"""Splits received bytes into lines, and decides whether a line is a request (protocol sections 1.3 to 1.10).

LineSplitter splits the bytes into lines, and the result does not depend on how the bytes are divided into chunks.
without_telnet() removes telnet negotiation. read_line() says what a line is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from discosbackend.cache import Cache
from discosbackend.errors import GrammarException
from discosbackend.grammar import OK, named_in, parse_request, write_reply

__all__ = [
    "LONGEST_LINE",
    "Kind",
    "Line",
    "LineSplitter",
    "LongLine",
    "is_http",
    "is_tls",
    "read_known",
    "read_line",
    "without_telnet",
]

LONGEST_LINE = 16384
"""The length of the longest accepted line, in bytes, with telnet negotiation, but without the line's end."""

# A line ends with LF, CR LF, or CR NUL, which telnet clients send for a carriage return. An LF directly after CR NUL is
# part of the same line end.
_END = re.compile(rb"\r?\n|\r\0\n?")

# IAC WILL/WONT/DO/DONT and an option, or IAC and a command without one (RFC 854).
_TELNET = re.compile(rb"(?:\xff[\xfb-\xfe][\x00-\xff]|\xff[\xf0-\xf9])+")


# <letters> <target> HTTP/<digit>..., where a web page can choose the target. For a method with other characters, a
# browser first asks for permission with the method OPTIONS.
_METHOD = rb"[A-Za-z]+ (?! )"
_VERSION = rb" HTTP/[0-9]"
_HTTP_METHOD = re.compile(_METHOD)
_HTTP_VERSION = re.compile(_VERSION)
_HTTP = re.compile(_METHOD + rb".+?" + _VERSION, re.DOTALL)
# A TLS record (RFC 8446): type 22 (handshake), version 3.0 to 3.4, length; then type 1 (ClientHello). One of the two
# bytes of the length may be the line end.
_TLS = re.compile(rb"\x16\x03[\0-\4](?:.?.?\Z|..\x01)", re.DOTALL)
_TAIL = 64


class LongLine(bytes):
    """The first bytes of a line that is longer than LONGEST_LINE. The rest is discarded, except `tail`."""

    tail: bytes = b""
    """The last bytes of the line, up to 64."""
    longest: int = LONGEST_LINE
    """The length of the longest accepted line."""

    @classmethod
    def of(cls, line: bytes, tail: bytes, longest: int = LONGEST_LINE) -> LongLine:
        """Make a LongLine from the first and the last bytes of a line. Up to 64 of the last bytes are kept."""
        new = cls(line)
        new.tail = tail[-_TAIL:]
        new.longest = longest
        return new


def without_telnet(line: bytes) -> bytes:
    """Return the line without the telnet negotiation at its start. For a LongLine the result is a LongLine."""
    match = _TELNET.match(line)
    if match is None:
        return line
    rest = line[match.end() :]
    return LongLine.of(rest, line.tail, line.longest) if isinstance(line, LongLine) else rest


class Kind(Enum):
    """The kinds of lines."""

    REQUEST = "request"
    """It is executed, and gets a reply."""
    INVALID = "invalid"
    """It is not a message, and gets the reply `invalid`."""
    NOT_A_REQUEST = "not a request"
    """It begins with `!`, and gets no reply."""


@dataclass(frozen=True, slots=True)
class Line:
    """The content of a received line."""

    kind: Kind
    name: str
    """The name of the command; "" if there is none."""
    arguments: tuple[str, ...]
    """The arguments of a request, without escapes."""
    problem: str = ""
    """Why an invalid line is invalid."""
    success: bytes = b""
    """The beginning of the `ok` reply to a request."""
    language: str = ""
    """The language of a client that speaks HTTP or TLS. The server ignores what it sends afterwards."""


def _read(line: bytes) -> Line:
    if line[:1] == b"!":
        return Line(Kind.NOT_A_REQUEST, "", (), "line is no request")
    text = line.decode("latin-1")
    language = "an HTTP request" if is_http(line) else "a TLS handshake" if is_tls(line) else ""
    if isinstance(line, LongLine):
        return Line(Kind.INVALID, named_in(text), (), f"line longer than {line.longest} bytes", language=language)
    try:
        name, arguments = parse_request(text)
        return Line(Kind.REQUEST, name, arguments, success=write_reply(name, OK, []).encode("ascii"))
    except GrammarException as problem:
        return Line(Kind.INVALID, named_in(text), (), str(problem), language=language)


_lines = Cache(_read)
read_known = _lines.__getitem__
"""Does the same as read_line() in half the time. The line must not be a LongLine, which may equal an ordinary line."""


def read_line(line: bytes) -> Line:
    """Return what a line is.

    Parameters
    ----------
    line
        The line without its end, and without telnet negotiation.
    """
    return read_known(line) if type(line) is bytes else _read(line)


def is_http(line: bytes) -> bool:
    """Return whether a line is the first line of an HTTP request (protocol section 1.10), even if it is a LongLine."""
    if isinstance(line, LongLine):
        return _HTTP_METHOD.match(line) is not None and _HTTP_VERSION.search(line.tail) is not None
    return _HTTP.match(line) is not None


def is_tls(line: bytes) -> bool:
    """Return whether a line begins as a TLS ClientHello does (protocol section 1.10)."""
    return _TLS.match(line) is not None


class LineSplitter:
    """Splits a stream of bytes into lines. It stores at most one line of the longest length between two chunks."""

    __slots__ = ("rest", "bare_cr", "_longest", "_long", "_after_nul")

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest = longest
        # The stored bytes of the incomplete line.
        self.rest = b""
        # Whether an incomplete line ever had a CR without LF or NUL after it: the client may use CR as a line end.
        self.bare_cr = False
        self._long: LongLine | None = None
        self._after_nul = False

    @property
    def in_line(self) -> bool:
        """Whether there is an incomplete line."""
        return bool(self.rest) or self._long is not None

    def feed(self, data: bytes) -> list[bytes]:
        """Add a chunk of received bytes.

        Parameters
        ----------
        data
            The chunk.

        Returns
        -------
        lines
            The lines that end in this chunk, without their line ends. A line that is too long is a LongLine.
        """
        if self._after_nul and data:
            self._after_nul = False
            if data[:1] == b"\n":
                data = data[1:]
        if self.rest:
            data = self.rest + data
            self.rest = b""
        lines = data.split(b"\r\n")
        if 0 in data:
            lines = _END.split(data)
            # The LF that may follow CR NUL may be in the next chunk.
            self._after_nul = data.endswith(b"\r\0")
        elif data.count(10) >= len(lines):
            # A client ends its lines with LF only. This case comes second, because it takes four times as long.
            lines = data.split(b"\n")
            lines[:-1] = [line[:-1] if line[-1:] == b"\r" else line for line in lines[:-1]]
        rest = lines.pop()
        if len(data) > self._longest or self._long is not None:
            lines = self._check_lengths(lines)
        if rest or self._long is not None:
            self._keep(rest)
        return lines

    def _check_lengths(self, lines: list[bytes]) -> list[bytes]:
        longest = self._longest
        if self._long is not None and lines:
            lines[0], self._long = LongLine.of(self._long, self._long.tail + lines[0], longest), None
        return [
            line if len(line) <= longest or isinstance(line, LongLine) else LongLine.of(line[:longest], line, longest)
            for line in lines
        ]

    def _keep(self, rest: bytes) -> None:
        """Store an incomplete line, or only the beginning if it is too long."""
        self.bare_cr = self.bare_cr or rest.find(b"\r", 0, -1) >= 0
        # A CR at the end may be the first byte of a line end.
        end = len(rest) - rest.endswith(b"\r")
        if self._long is not None:
            self._long.tail = (self._long.tail + rest[:end])[-_TAIL:]
        elif end > self._longest:
            self._long = LongLine.of(rest[: self._longest], rest[:end], self._longest)
        self.rest = rest if self._long is None else rest[end:]
