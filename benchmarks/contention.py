"""Measures the latency of one client during a flood of requests, and during slow commands."""

from __future__ import annotations

from contextlib import nullcontext

from benchmarks.busy_server import kept_busy
from benchmarks.flood import flooded
from benchmarks.load import STATUS, Load, alone, connect
from benchmarks.presets import Preset
from benchmarks.servers import Server, our_server, twisted_server
from benchmarks.table import Row, against, at_most, median, time_text

__all__ = ["during_commands", "during_flood"]

_POLITE = at_most(5e-3, time_text)


def during_flood(preset: Preset) -> list[Row]:
    """Send one request at a time while 50 others pipeline 200; compare with bare Twisted under the same flood."""
    ours: list[Load] = []
    bare: list[Load] = []
    with our_server() as our, twisted_server() as twisted:
        for _ in range(preset.floods):
            for server, found in ((our, ours), (twisted, bare)):
                with flooded(server):
                    found.append(_polite(server, max(preset.requests // 4, 300)))
    p50 = median([load.p50 for load in ours]), median([load.p50 for load in bare])
    p99 = median([load.p99 for load in ours]), median([load.p99 for load in bare])
    return [
        Row("p50", time_text(p50[0]), f"{time_text(p50[1])} (bare Twisted)"),
        Row("p99", time_text(p99[0]), f"{time_text(p99[1])} (bare Twisted)").judged(p99[0], _POLITE),
    ]


def during_commands(preset: Preset) -> list[Row]:
    """Send `status` while the server runs a @blocking sleep, a slow coroutine, or neither."""
    without: list[Load] = []
    beside: dict[str, list[Load]] = {"nap": [], "dawdle": []}
    with our_server() as server:
        _polite(server, preset.requests)
        for command, found in preset.turns([("", without), *beside.items()]):
            with kept_busy(server, command) if command else nullcontext():
                found.append(_polite(server, preset.requests))
    rows = []
    for command, what in (("nap", "a @blocking sleep"), ("dawdle", "a slow coroutine")):
        loads = beside[command]
        p50 = [load.p50 for load in loads], [load.p50 for load in without]
        p99 = [load.p99 for load in loads], [load.p99 for load in without]
        rows.append(against(f"p50 beside {what}, against without", *p50, time_text))
        rows.append(against(f"p99 beside {what}, against without", *p99, time_text, at_most(1.2)))
    return rows


def _polite(server: Server, requests: int) -> Load:
    with connect(server.address) as connection:
        return alone(connection, STATUS, requests)
