"""Measures what monitoring costs: ten open pages, /metrics every second, the recorder and telemetry, against none.

Both servers are started by the server program with the same backend. Without prometheus-client there are no /metrics,
and without pyzmq no telemetry: the name of the first row says so.
"""

from __future__ import annotations

import importlib.util
import random
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import STATUS, alone, connect, connected, together
from benchmarks.page_readers import watched
from benchmarks.presets import Preset
from benchmarks.punctuality import AHEAD, timed_start
from benchmarks.servers import SERVER, Server, unpin
from benchmarks.table import Row, against, at_least, at_most, median, quantile, rate_text, time_text

__all__ = ["monitored"]

_MANY, _DEPTH = 50, 100
_MORE = at_most(1e-3, time_text)
# What needs which module.
_NEEDS = {"/metrics": "prometheus_client", "telemetry": "zmq"}


def monitored(preset: Preset) -> list[Row]:
    """Measure a server that is watched beside the same server without any monitoring."""
    missing = [name for name, module in _NEEDS.items() if importlib.util.find_spec(module) is None]
    without = f" (without {' and '.join(missing)})" if missing else ""
    with _watched_server(missing) as on, _server() as off:
        rates = [
            _rates(preset, on, off, f"one client, one request at a time{without}", 1, preset.requests, 1, 0.95),
            _rates(preset, on, off, f"{_MANY} clients, one request each at a time", _MANY, 160, 1, 0.95),
            _rates(preset, on, off, "one client pipelining 100", 1, preset.batches, _DEPTH, 0.85),
        ]
        return [row for rows in rates for row in rows] + _lateness(preset, on, off)


def _rates(
    preset: Preset, on: Server, off: Server, what: str, clients: int, each: int, depth: int, goal: float
) -> list[Row]:
    """Return a row of rates, and of the p99 if there is one request at a time."""
    rates: dict[Server, list[float]] = {on: [], off: []}
    latest: dict[Server, list[float]] = {on: [], off: []}
    for server in preset.turns([on, off]):
        with connected(server.address, clients) as connections:
            if clients == 1:
                load = alone(connections[0], STATUS, each, depth)
            else:
                load = together(connections, STATUS, each, depth)
        rates[server].append(load.rate)
        latest[server].append(load.p99)
    rows = [against(f"rate: {what}", rates[on], rates[off], rate_text, at_least(goal))]
    if depth == 1:
        ours, plain = median(latest[on]), median(latest[off])
        row = Row(f"p99: {what}", time_text(ours), time_text(plain), time_text(ours - plain))
        rows.append(row.judged(ours - plain, _MORE, " more"))
    return rows


def _lateness(preset: Preset, on: Server, off: Server) -> list[Row]:
    """Return the rows of the lateness of timed starts, measured in turn."""
    draw = random.Random(4)
    found: dict[Server, list[float]] = {on: [], off: []}
    for server in found:
        # On one processor, the server would wait for its own threads.
        unpin(server.pid)
    with connect(on.address) as first, connect(off.address) as second:
        connections: dict[Server, socket.socket] = {on: first, off: second}
        for _ in range(preset.timed_starts):
            for server, connection in connections.items():
                found[server].append(timed_start(connection, draw.uniform(*AHEAD)))
    rows = []
    for figure, share, goal in (("p50", 0.5, None), ("p99", 0.99, at_most(1.2))):
        ours, plain = quantile(found[on], share), quantile(found[off], share)
        row = Row(f"lateness of timed starts, {figure}", time_text(ours), time_text(plain), f"{ours / plain:.2f} ×")
        rows.append(row if goal is None else row.judged(ours / plain, goal, " ×"))
    return rows


def _server(*options: str) -> Server:
    """Start the server program with the backend of the benchmarks, on the server's processor."""
    backend = ("--backend", "benchmarks.instrument:Instrument")
    return Server(
        "scripts/discos-backend-server", "--port", "0", "--log-level", "error", *backend, *options, cpu=SERVER
    )


@contextmanager
def _watched_server(missing: Sequence[str]) -> Iterator[Server]:
    web = ("127.0.0.1", _free_port())
    with tempfile.TemporaryDirectory() as folder:
        options = ["--http", f"{web[0]}:{web[1]}", "--record", str(Path(folder, "exchanges.jsonl"))]
        if "telemetry" not in missing:
            options += ["--telemetry-bind", f"127.0.0.1:{_free_port()}"]
        with _server(*options) as server, watched(web, metrics="/metrics" not in missing):
            yield server


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
