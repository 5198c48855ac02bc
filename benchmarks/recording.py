"""Measures a simulated SKARAB that records its largest configuration: 14 inputs of 65536 bins every 40 ms."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.load import connect, demand
from benchmarks.presets import Preset
from benchmarks.servers import NotMeasured, Server, unpin
from benchmarks.table import Goal, Row, at_most, bytes_text, quantile, rate_text, time_text
from discosbackend.simulator.control.client import SimulatorControl

__all__ = ["recording"]

_CONFIGURATION, _BYTES, _DUMP = "SKARAB_3", 14 * 65536 * 4, 0.040
# Seconds between two requests. This is more often than in operation, where displays send five a second.
_PAUSE = 0.01
# Seconds within which a dump must be on disk, so that a kill loses at most half a second.
_LATE = 0.5
# Bytes by which the memory of the server may grow from the first half to the second.
_GROWTH = 2 * 2**20
# Seconds for the last dumps after stop.
_PATIENCE = 10.0


class _Run(NamedTuple):
    """The results of one acquisition: the state of its dumps, latencies of status, and samples of the memory."""

    seconds: float
    dumps: dict[str, Any]
    latencies: list[float]
    memory: list[int]


def recording(preset: Preset) -> list[Row]:
    """Record one long acquisition while `status` is requested a hundred times a second."""
    run = _record(preset.recording)
    half = len(run.memory) // 2
    due = round(run.seconds / _DUMP)
    made, lost, lag = (run.dumps[name] for name in ("dumps", "lost", "lag"))
    none_lost = Goal("all of them", lambda missing: missing <= 0)
    return [
        # The last dump may have been incomplete at the stop.
        Row("dumps recorded", f"{made - lost}", f"{due} (due)").judged(max(lost, due - 1 - made), none_lost),
        Row("data", f"{bytes_text((made - lost) * _BYTES / run.seconds)}/s", f"{bytes_text(_BYTES / _DUMP)}/s (due)"),
        Row("latest dump on disk, after its end", time_text(lag)).judged(lag, at_most(_LATE, time_text)),
        Row("status meanwhile, p50", time_text(quantile(run.latencies, 0.5))),
        _p99(run.latencies),
        Row("status meanwhile, latest", time_text(max(run.latencies))),
        _growth(max(run.memory[half:]) - max(run.memory[:half])),
    ]


def _p99(latencies: list[float]) -> Row:
    p99 = quantile(latencies, 0.99)
    return Row("status meanwhile, p99", time_text(p99), rate_text(1 / _PAUSE)).judged(p99, at_most(0.02, time_text))


def _growth(growth: int) -> Row:
    row = Row("memory, second half against first", bytes_text(growth))
    return row.judged(growth, at_most(_GROWTH, bytes_text))


def _record(seconds: float) -> _Run:
    latencies: list[float] = []
    memory: list[int] = []
    with _folder(seconds) as folder, _server(folder) as server, connect(server.address) as connection:
        demand(connection, f"?set-configuration,{_CONFIGURATION}")
        demand(connection, "?start")
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            asked = time.perf_counter()
            demand(connection, "?status")
            latencies.append(time.perf_counter() - asked)
            # Not in the first second, in which numpy and the buffers are allocated.
            if passed > min(1.0, seconds / 3):
                memory.append(server.memory)
            time.sleep(_PAUSE)
        demand(connection, "?stop")
        passed = time.monotonic() - began
        return _Run(passed, _finished(folder / "control"), latencies, memory)


@contextmanager
def _folder(seconds: float) -> Iterator[Path]:
    """Make a folder for the data on a disk with enough space for twice their size."""
    with tempfile.TemporaryDirectory() as name:
        needed = round(2 * seconds / _DUMP * _BYTES)
        free = shutil.disk_usage(name).free
        if free < needed:
            raise NotMeasured(f"{bytes_text(needed)} are needed in {name}, and {bytes_text(free)} are free")
        yield Path(name)


def _server(folder: Path) -> Server:
    data, control = str(folder / "data"), str(folder / "control")
    server = Server(
        "scripts/discos-backend-server",
        *("--port", "0", "--simulate", "skarab", "--log-level", "warning", "--data", data, "--control", control),
    )
    unpin(server.pid)
    return server


def _finished(control: Path) -> dict[str, Any]:
    """Wait until the last dump is recorded; return the state of the recording."""
    with SimulatorControl(str(control)) as simulator:
        until = time.monotonic() + _PATIENCE
        while (newest := simulator.state()["files"]["newest"])["running"]:
            if time.monotonic() > until:
                raise NotMeasured(f"the last dumps are not there {_PATIENCE:g} s after stop: {newest}")
            time.sleep(_PAUSE)
        return dict(newest)
