"""Plays a session file against a server, as the telescope's client would; see test/sessions/README.md.

`play` needs a Wire: MemoryWire drives a DBFactory on a fake clock, SocketWire a real server. As a program,
`python test/session_player.py HOST:PORT FILE` does the latter, for CI.
"""

from __future__ import annotations

import re
import select
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

SESSIONS = Path(__file__).parent / "sessions"
INSTRUMENTS = {
    "mistral": ("mistral",),
    "sardara": ("discos", "sardara"),
    "sardara-p-band": ("discos", "sardara"),
    "skarab": ("discos", "skarab"),
    "skarab2": ("skarab2",),
    "timed": ("discos",),
    "unconfigured": ("discos", "sardara", "skarab", "skarab2"),
}
"""The simulated instruments on which each session is played, by the name of its file."""

_NOW = re.compile(r"\{now([+-][0-9.]+)\}")


class SessionFailed(AssertionError):
    """A reply was not the one that the client needs."""


class Wire(Protocol):
    """What a session is played over."""

    def connect(self) -> None:
        """Connect; a connection that was there is closed already."""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""

    def read_line(self) -> bytes:
        """One line with its end, what there is of it when the connection ends."""

    def wait(self, seconds: float) -> None:
        """Let the session's own pause pass."""

    def now(self) -> float:
        """Unix time as the server sees it."""

    def close(self) -> None:
        """Hang up."""


def play(lines: Iterable[str], wire: Wire) -> int:
    """Play a session and return how many replies were checked. SessionFailed, with the line, if one is wrong."""
    checked = 0
    for number, text in enumerate(lines, 1):
        line = text.rstrip("\n")
        if not line or line.startswith("#"):
            continue
        try:
            checked += _step(line, wire)
        except SessionFailed as problem:
            raise SessionFailed(f"line {number}, {line!r}: {problem}") from None
    return checked


def _step(line: str, wire: Wire) -> int:
    directive, _, rest = line.partition(" ")
    if directive == "@connect":
        wire.connect()
        greeting = wire.read_line()
        if greeting != b"!version,ok,1.4\r\n":
            raise SessionFailed(f"the greeting is {greeting!r}")
    elif directive in ("@close", "@hangup"):
        wire.close()
    elif directive == "@wait":
        wire.wait(float(rest))
    elif directive == "@send":
        wire.send(_request(rest, wire))
    elif directive.startswith("@"):
        raise SessionFailed("unknown directive")
    else:
        request, _, wanted = line.partition(" -> ")
        data = _request(request, wire)
        wire.send(data)
        _check(data, wire.read_line(), wanted)
        return 1
    return 0


def _request(text: str, wire: Wire) -> bytes:
    def instant(found: re.Match[str]) -> str:
        return str(round((wire.now() + float(found[1])) * 10**7))

    return _NOW.sub(instant, text).encode("latin-1") + b"\r\n"


def _check(request: bytes, reply: bytes, wanted: str) -> None:
    code, _, pattern = (wanted or "ok").partition(" ")
    if not reply.endswith(b"\r\n"):
        raise SessionFailed(f"{reply!r} does not end in CR LF")
    if code == "any":
        return
    name = re.match(r"\?([^,]*)", request.decode("latin-1").rstrip("\r\n"))
    head, _, rest = reply.decode("latin-1")[:-2].partition(f"{code},")
    if code != "ok":
        rest = ""
    plain = f"!{name[1] if name else ''},"
    if head != plain and reply.decode("latin-1")[:-2] != plain + code:
        raise SessionFailed(f"{code} wanted, got {reply!r}")
    if pattern and re.fullmatch(pattern, rest) is None:
        raise SessionFailed(f"{pattern!r} wanted, got {rest!r}")


class SocketWire:
    """A real connection."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: Any = None
        self._file: Any = None
        self._owed = 0

    def connect(self) -> None:
        self._socket = socket.create_connection(self._address, 10)
        self._file = self._socket.makefile("rb")
        self._owed = 1

    def send(self, data: bytes) -> None:
        self._owed += 1
        self._socket.sendall(data)

    def read_line(self) -> bytes:
        self._owed -= 1
        return bytes(self._file.readline())

    def wait(self, seconds: float) -> None:
        # A server never sends anything unasked, so the pause is also a check, unless a reply was not waited for.
        quiet = [self._socket] if self._owed == 0 else []
        if select.select(quiet, [], [], seconds)[0]:
            raise SessionFailed(f"the server sent something unasked, or hung up: {self._socket.recv(4096)!r}")

    def now(self) -> float:
        return time.time()

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class MemoryWire:
    """A DBFactory on a task.Clock, which waiting moves on."""

    def __init__(self, factory: Any, clock: Any) -> None:
        self._factory = factory
        self._clock = clock
        self._protocol: Any = None
        self._transport: Any = None
        self._read = b""

    def connect(self) -> None:
        from twisted.internet.testing import StringTransport

        self._protocol, self._transport, self._read = self._factory.buildProtocol(None), StringTransport(), b""
        self._protocol.makeConnection(self._transport)

    def send(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def read_line(self) -> bytes:
        self._clock.advance(0)
        self._read += self._transport.value()
        self._transport.clear()
        line, end, self._read = self._read.partition(b"\n")
        return line + end

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 100)):
            self._clock.advance(0.01)

    def now(self) -> float:
        return float(self._clock.seconds())

    def close(self) -> None:
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        self._protocol.connectionLost(Failure(ConnectionDone()))


def main() -> None:
    """`session_player.py HOST:PORT FILE`."""
    where, file = sys.argv[1:]
    host, _, port = where.rpartition(":")
    with open(file, encoding="latin-1") as lines:
        checked = play(lines, SocketWire(host, int(port)))
    if not checked:
        sys.exit(f"{file}: no reply was checked")
    print(f"{file}: {checked} replies as the client needs them")


if __name__ == "__main__":
    main()
