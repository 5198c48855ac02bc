"""Bytes to lines: where a line ends, what telnet adds, how long it may be (protocol sections 1.3 to 1.7).

Pure: bytes go in as they arrive, whole lines come out, whatever the chunks were. What a line says is the
grammar's business.
"""

from __future__ import annotations

import re

__all__ = ["LONGEST_LINE", "LineSplitter", "LongLine", "is_http", "without_telnet"]

LONGEST_LINE = 16384
"""Bytes of the longest line that is read, its end not counted, telnet negotiation counted."""

# A line ends at LF, before which one CR is removed, or at CR NUL, telnet's bare return. An LF directly
# after CR NUL belongs to it.
_END = re.compile(rb"\r?\n|\r\0\n?")

# IAC WILL/WONT/DO/DONT and an option, or IAC and a command without one (RFC 854).
_TELNET = re.compile(rb"(?:\xff[\xfb-\xfe][\x00-\xff]|\xff[\xf0-\xf9])+")


# <letters> <target> HTTP/<digit>..., in which a page chooses the target.
_HTTP_METHOD = re.compile(rb"[A-Za-z]+ (?! )")
_HTTP_VERSION = re.compile(rb" HTTP/[0-9]")
_HTTP = re.compile(rb"[A-Za-z]+ (?! ).+? HTTP/[0-9]", re.DOTALL)
_TAIL = 64


class LongLine(bytes):
    """The beginning of a line that was longer than LONGEST_LINE; the rest of it has been skipped, but for `tail`."""

    tail: bytes = b""
    """Its last bytes, up to 64."""

    @classmethod
    def of(cls, line: bytes, tail: bytes) -> LongLine:
        """A line of which `line` was kept, and that ended in `tail`, of which the end is kept."""
        new = cls(line)
        new.tail = tail[-_TAIL:]
        return new


def without_telnet(line: bytes) -> bytes:
    """The line without the telnet negotiation at its start; of a LongLine a LongLine."""
    match = _TELNET.match(line)
    if match is None:
        return line
    rest = line[match.end() :]
    return LongLine.of(rest, line.tail) if isinstance(line, LongLine) else rest


def is_http(line: bytes) -> bool:
    """Whether a line is the first one of an HTTP request (protocol section 1.10), however long its target."""
    if isinstance(line, LongLine):
        return _HTTP_METHOD.match(line) is not None and _HTTP_VERSION.search(line.tail) is not None
    return _HTTP.match(line) is not None


class LineSplitter:
    """Cuts a stream into lines. It never holds more than the longest line and the chunk at hand."""

    __slots__ = ("rest", "bare_cr", "_long", "_after_nul")

    def __init__(self) -> None:
        # What was kept of the line that has not ended.
        self.rest = b""
        # Whether such a line ever had a CR that neither LF nor NUL followed: its sender may take that for an end.
        self.bare_cr = False
        self._long: LongLine | None = None
        self._after_nul = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end in this chunk, without their ends; too long ones as LongLine."""
        if self._after_nul and data:
            self._after_nul = False
            if data[:1] == b"\n":
                data = data[1:]
        if self.rest:
            data = self.rest + data
            self.rest = b""
        lines = data.split(b"\r\n")
        if b"\0" in data:
            lines = _END.split(data)
            # What CR NUL ended may be followed by an LF that has not arrived yet.
            self._after_nul = data.endswith(b"\r\0")
        elif data.count(b"\n") >= len(lines):
            # Some client ends its lines with LF alone, which takes four times as long to split.
            lines = data.split(b"\n")
            lines[:-1] = [line[:-1] if line[-1:] == b"\r" else line for line in lines[:-1]]
        rest = lines.pop()
        if len(data) > LONGEST_LINE or self._long is not None:
            lines = self._check_lengths(lines)
        if rest or self._long is not None:
            self._keep(rest)
        return lines

    def _check_lengths(self, lines: list[bytes]) -> list[bytes]:
        if self._long is not None and lines:
            lines[0], self._long = LongLine.of(self._long, self._long.tail + lines[0]), None
        return [
            line if len(line) <= LONGEST_LINE or isinstance(line, LongLine) else LongLine.of(line[:LONGEST_LINE], line)
            for line in lines
        ]

    def _keep(self, rest: bytes) -> None:
        """Keep what has no end yet: all of it, or of a line that is too long its beginning."""
        # A CR at the end may be the first half of the line's end.
        self.bare_cr = self.bare_cr or rest.find(b"\r", 0, -1) >= 0
        if self._long is not None:
            self._long.tail = (self._long.tail + rest)[-_TAIL:]
        elif len(rest) - rest.endswith(b"\r") > LONGEST_LINE:
            self._long = LongLine.of(rest[:LONGEST_LINE], rest)
        self.rest = rest if self._long is None else rest[-1:] if rest.endswith(b"\r") else b""
