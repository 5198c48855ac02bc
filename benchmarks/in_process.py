"""Measures the path of a request in one process, without sockets, compared with calling the backend's method alone."""

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
from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import DBFactory
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
    found: dict[str, list[float]] = {"method": [], "status": [], "unknown": [], "simulated": []}
    measured: dict[str, Callable[[int], float]] = {
        "method": lambda requests: _timed(backend.status, requests),
        "status": status.seconds,
        "unknown": unknown.seconds,
        "simulated": simulated.seconds,
    }
    for name in preset.turns(list(measured)):
        found[name].append(measured[name](preset.requests * 5))
    return [
        against("status, against its method", found["status"], found["method"], time_text, at_most(7)),
        against("unknown command, against that method", found["unknown"], found["method"], time_text, at_most(7)),
        against("status of a simulated instrument", found["simulated"], found["status"], time_text, at_most(1.15)),
    ]
