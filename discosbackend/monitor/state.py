"""ServerState: what a monitor reads of a server besides its exchanges.

These are the lanes, the acquisition, the watchdog, the sensors, and the recordings of a simulated instrument.

Everything is read on demand: the server does no work for it before. A tap watches the server of another process and
has no ServerState. The fields of the records are those of /status.json, except where snapshot.py says otherwise.
"""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from discosbackend._version import __protocol_version__, __version__
from discosbackend.acquisition import acquisition_of
from discosbackend.backend import Backend
from discosbackend.handlers import DBProtocolHandler
from discosbackend.log import LogWriter
from discosbackend.scheduler import LaneState
from discosbackend.server import Server, name_of
from discosbackend.ticks import Ticks
from discosbackend.watchdog import Watchdog

if TYPE_CHECKING:
    from discosbackend.simulator.recording.queue import RecordingQueue

__all__ = ["About", "AcquisitionState", "RecordingState", "SensorState", "ServerState", "dropped_log_lines"]

# The number of free bytes is asked again after this time, in s.
_DISK_PERIOD = 5.0


class About(NamedTuple):
    """What is watched."""

    name: str
    backend: str
    package: str
    protocol: str
    begin: float
    address: str
    reactor: str
    pid: int


class AcquisitionState(NamedTuple):
    """The state of an Acquisition. Times are Unix seconds; None: there is no such time."""

    acquiring: bool
    since: float | None
    pending_start: float | None
    pending_stop: float | None
    last_lateness: float | None


class SensorState(NamedTuple):
    """A sensor and its reading. The time is in Unix seconds, None before the first value."""

    name: str
    description: str
    unit: str
    value: float | bool | str | None
    state: str
    time: float | None


class RecordingState(NamedTuple):
    """The recordings of a simulated instrument."""

    folder: str
    free_bytes: int | None
    """The free space of its disk, in bytes. None until it is known for the first time."""
    recording: str | None
    """The name of the current recording. None if nothing is being recorded."""
    bytes: int
    """The size of the current recording, or of the last one."""
    lag: float
    """The largest delay of a dump in this recording, in s."""
    problem: str
    """The problem, in words. "" if there is none."""


class ServerState:
    """Reads the state of a server.

    Parameters
    ----------
    server
        The server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._factory = server.factory
        self._begin = time.time()
        self._disk = _DiskSpace()
        # The name is asked once: the __str__ of a backend may take long.
        self._name = name_of(self._factory.handler)

    @property
    def _handler(self) -> Any:
        return self._factory.handler

    @property
    def _backend(self) -> Any:
        return getattr(self._handler, "backend", None)

    @property
    def about(self) -> About:
        """What is served, and where."""
        backend = self._handler if self._backend is None else self._backend
        reactor = type(self._factory.reactor).__name__
        address = self._server.address
        kind = type(backend).__name__
        return About(self._name, kind, __version__, __protocol_version__, self._begin, address, reactor, os.getpid())

    @property
    def paused(self) -> bool:
        """Whether the control channel of a simulated instrument has paused the server."""
        # A factory that can be paused is of this module.
        module = sys.modules.get("discosbackend.simulator.faults.protocol")
        return module is not None and isinstance(self._factory, module.FaultyFactory) and self._factory.paused

    @property
    def lanes(self) -> list[LaneState] | None:
        """Who holds and who waits for each lane. None if the handler is no DBProtocolHandler."""
        return self._handler.lanes if isinstance(self._handler, DBProtocolHandler) else None

    @property
    def watchdog(self) -> Watchdog | None:
        """The watchdog. None if the reactor is not watched."""
        dog = self._server.watchdog
        return dog if dog is not None and dog.limit > 0 else None

    @property
    def acquisition(self) -> AcquisitionState | None:
        """The state of the backend's Acquisition. None if the backend has none as an attribute."""
        found = acquisition_of(self._backend)
        if found is None:
            return None
        return AcquisitionState(
            found.acquiring,
            _unix(found.since),
            _unix(found.pending_start),
            _unix(found.pending_stop),
            found.last_lateness,
        )

    @property
    def sensors(self) -> Iterator[SensorState]:
        """The sensors of the backend, as an iterator that reads each one when it gets to it."""
        # A backend with sensors has imported this module.
        module = sys.modules.get("discosbackend.sensors")
        if module is None or self._backend is None:
            return
        for sensor in list(module.sensors_of(self._backend).values()):
            reading = sensor.reading
            yield SensorState(
                sensor.name, sensor.description, sensor.unit, reading.value, reading.state, _unix(reading.time)
            )

    @property
    def quick_look(self) -> Callable[[], Any] | None:
        """The method of the backend that returns a QuickLook. None if its class has none."""
        # Not by getattr(), because a backend may ask its hardware for attributes that it does not have.
        method = inspect.getattr_static(type(self._backend), "quick_look", None)
        if method is None or method is vars(Backend)["quick_look"]:
            return None
        return cast("Callable[[], Any]", self._backend.quick_look)

    @property
    def queue(self) -> RecordingQueue | None:
        """The RecordingQueue of a simulated instrument. None for other backends, or if nothing is recorded."""
        module = sys.modules.get("discosbackend.simulator.backend")
        if module is None or not isinstance(self._backend, module.SimulatedBackend):
            return None
        return cast("RecordingQueue | None", self._backend.recordings)

    @property
    def recordings(self) -> RecordingState | None:
        """The recordings of a simulated instrument. None for other backends, or if nothing is recorded."""
        queue = self.queue
        if queue is None:
            return None
        latest = queue.latest
        name = None if latest is None or not latest.running else os.path.basename(latest.folder)
        size, lag = (0, 0.0) if latest is None else (latest.size, latest.lag)
        folder = str(queue.data)
        return RecordingState(folder, self._disk.free(folder), name, size, lag, queue.problem)

    def ask_status(self) -> bytes | Deferred[bytes] | None:
        """Ask the backend for its status, as a client would.

        Returns
        -------
        reply
            The reply line, or a Deferred that fires with it and does not fail. None if the server is stopping.
        """
        factory = self._factory
        if factory.stopping:
            return None
        began = time.perf_counter()

        def failed(problem: BaseException | Failure) -> bytes:
            return factory.failures.failed("status", problem, _MONITOR, b"?status", began)

        try:
            reply = factory.execute("status", ())
        except BaseException as problem:  # noqa: BLE001  # a backend may raise anything
            return failed(problem)
        return reply.addErrback(failed) if isinstance(reply, Deferred) else reply


class _Monitor:
    """Stands for the connection, in log lines about a status that the monitor has asked for."""

    host = "the monitor"

    def __str__(self) -> str:
        return self.host


_MONITOR = _Monitor()


class _DiskSpace:
    """Measures free space in a thread of its own, because a file system on the network may not answer for minutes."""

    def __init__(self) -> None:
        self._free: int | None = None
        self._measured = -_DISK_PERIOD
        self._thread: threading.Thread | None = None

    def free(self, folder: str) -> int | None:
        """Return the number of free bytes that was measured last, and measure it again if that was some time ago."""
        due = time.monotonic() - self._measured >= _DISK_PERIOD
        if due and (self._thread is None or not self._thread.is_alive()):
            self._measured = time.monotonic()
            thread = threading.Thread(target=self._measure, args=(folder,), name="discos-disk-space", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system has no thread left. It is tried again after the period.
                return self._free
            self._thread = thread
        return self._free

    def _measure(self, folder: str) -> None:
        # The folder is created at the first acquisition, so its parent may be the one that exists.
        for path in (folder, os.path.dirname(folder)):
            try:
                self._free = shutil.disk_usage(path).free
            except OSError:
                continue
            return
        self._free = None


def dropped_log_lines() -> int:
    """Return how many lines the log of this process has dropped, because its reader had stopped."""
    return sum(each.dropped for each in logging.getLogger().handlers if isinstance(each, LogWriter))


def _unix(time: Ticks | None) -> float | None:
    return None if time is None else time.unix
