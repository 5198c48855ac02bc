"""Measures the path of a request in one process, without sockets.

It is compared with a call of the backend's method alone, and with the least that a server could do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet import task
from twisted.internet.testing import StringTransport

from benchmarks.presets import Preset
from benchmarks.servers import NotMeasured
from benchmarks.table import Row, against, at_most, time_text
from discosbackend.backend import Backend
from discosbackend.commands import COMMANDS
from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import DBFactory
from discosbackend.replies import REPLY_LIMIT
from discosbackend.simulator import SimulatedBackend
from discosbackend.ticks import Ticks, now_ticks

__all__ = ["in_process"]

# How many requests arrive in one chunk.
_CHUNK = 4


class _Plain(Backend):
    """A backend whose `status` does as little as possible."""

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), "ok", False


class _Sink(StringTransport):
    """A transport that counts what is written, and forgets it."""

    replies = 0

    def write(self, data: bytes) -> None:
        self.replies += data.count(b"\n")


class _MinimalCode:
    """The least that a server can do for a `status` if it checks the reply: one function, for this request only.

    It has no log, limits, lanes, pauses or listeners, and cannot wait for a method, escape a text or find a command.
    """

    def __init__(self, backend: _Plain) -> None:
        self._writers = tuple(field.plain for field in COMMANDS["status"].reply)
        self._sink = _Sink()  # type: ignore[no-untyped-call]  # Twisted declares no types
        self._known = {b"?status": (backend.status, "!status,ok,")}
        self._rest = b""

    def receive(self, data: bytes) -> None:
        """Answer the lines in these bytes."""
        lines = (self._rest + data).split(b"\r\n")
        self._rest = lines.pop()
        output = []
        for line in lines:
            method, head = self._known[line]
            values = [writer[type(value)](value) for writer, value in zip(self._writers, method(), strict=True)]
            text = ",".join(values)
            if not text.isprintable() or "\\" in text or text.count(",") >= len(values) or "" in values:
                raise NotMeasured(f"a reply to escape: {values}")
            reply = (head + text).encode("ascii")
            if len(reply) > REPLY_LIMIT - 2:
                raise NotMeasured(f"a reply that is too long: {values}")
            output += [reply, b"\r\n"]
        self._sink.write(b"".join(output))

    def seconds(self, requests: int) -> float:
        """Return the time of one request."""
        chunk = b"?status\r\n" * _CHUNK
        return _timed(lambda: self.receive(chunk), requests // _CHUNK) / _CHUNK


class _Path:
    """The path of one request line, from dataReceived() to write()."""

    def __init__(self, backend: Any, line: bytes) -> None:
        factory = DBFactory(DBProtocolHandler(backend), reactor=task.Clock())
        self._protocol = factory.buildProtocol(None)
        self._sink = _Sink()  # type: ignore[no-untyped-call]  # Twisted declares no types
        self._protocol.makeConnection(self._sink)  # type: ignore[no-untyped-call]  # Twisted declares no types
        self._chunk = line * _CHUNK

    def seconds(self, requests: int) -> float:
        """Return the time of one request."""
        chunks = requests // _CHUNK
        before, receive, chunk = self._sink.replies, self._protocol.dataReceived, self._chunk
        took = _timed(lambda: receive(chunk), chunks) / _CHUNK
        if self._sink.replies - before != chunks * _CHUNK:
            raise NotMeasured(f"{chunk!r}: not every request was answered")
        return took


def _timed(call: Callable[[], object], times: int) -> float:
    """Return the time of one call in s."""
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) / times


def in_process(preset: Preset) -> list[Row]:
    """Compare requests with a call of the method `status`, and a simulated instrument with a plain backend."""
    backend = _Plain()
    status, unknown = (_Path(backend, line) for line in (b"?status\r\n", b"?open-dome\r\n"))
    simulated = _Path(SimulatedBackend(clock=task.Clock(), now_ticks=now_ticks), b"?status\r\n")
    found: dict[str, list[float]] = {"method": [], "status": [], "unknown": [], "simulated": [], "minimal": []}
    measured: dict[str, Callable[[int], float]] = {
        "method": lambda requests: _timed(backend.status, requests),
        "status": status.seconds,
        "unknown": unknown.seconds,
        "simulated": simulated.seconds,
        "minimal": _MinimalCode(backend).seconds,
    }
    for name in preset.turns(list(measured)):
        found[name].append(measured[name](preset.requests * 5))
    return [
        against("status, against its method", found["status"], found["method"], time_text, at_most(7)),
        against("the minimal code, against that method", found["minimal"], found["method"], time_text),
        against("status, against the minimal code", found["status"], found["minimal"], time_text),
        against("unknown command, against that method", found["unknown"], found["method"], time_text, at_most(7)),
        against("status of a simulated instrument", found["simulated"], found["status"], time_text, at_most(1.15)),
    ]
