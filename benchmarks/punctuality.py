"""Measures how late timed starts reach the backend, idle and under load, compared with a bare process (control)."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from benchmarks.busy_server import kept_busy
from benchmarks.flood import flooded
from benchmarks.load import ask, connect
from benchmarks.presets import Preset
from benchmarks.servers import Companion, NotMeasured, Server, our_server, our_server_on_asyncio, unpin
from benchmarks.table import Goal, Row, at_most, quantile, time_text

__all__ = [
    "AHEAD",
    "during_compute",
    "during_nap",
    "idle",
    "idle_on_asyncio",
    "timed_start",
    "under_load",
    "under_load_on_asyncio",
]

Background = Callable[[Server], AbstractContextManager[None]]

# The range of the time from a request to its start in seconds. It is random, because epoll rounds to milliseconds.
AHEAD = (0.012, 0.030)
# The same during a thread that computes: it holds the interpreter lock, which delays a request several times.
_FAR_AHEAD = (0.060, 0.080)
# Seconds from the instant to the question how late the start was; and how long to wait for the start.
_AFTERWARDS, _PATIENCE = 0.003, 5.0
_P50, _P50_COMPUTING = 20e-6, 1e-3
_ABOVE_IDLE, _ABOVE = 100e-6, 1e-3


def idle(preset: Preset) -> list[Row]:
    """Measure an idle server."""
    return _rows(*_measure(preset, lambda _: nullcontext()), above=_ABOVE_IDLE)


def under_load(preset: Preset) -> list[Row]:
    """Measure while 50 clients pipeline 200 requests."""
    return _rows(*_measure(preset, flooded))


def idle_on_asyncio(preset: Preset) -> list[Row]:
    """Measure an idle server on the asyncio reactor."""
    return _rows(*_measure(preset, lambda _: nullcontext(), maker=our_server_on_asyncio))


def under_load_on_asyncio(preset: Preset) -> list[Row]:
    """Measure a server on the asyncio reactor while 50 clients pipeline 200 requests."""
    return _rows(*_measure(preset, flooded, maker=our_server_on_asyncio))


def during_nap(preset: Preset) -> list[Row]:
    """Measure while a @blocking command sleeps."""
    return _rows(*_measure(preset, lambda server: kept_busy(server, "nap")))


def during_compute(preset: Preset) -> list[Row]:
    """Measure while a @blocking command computes in Python."""
    lateness = _measure(preset, lambda server: kept_busy(server, "compute"), _FAR_AHEAD)
    return _rows(*lateness, p50=_P50_COMPUTING, above=None)


def _measure(
    preset: Preset,
    background: Background,
    ahead: tuple[float, float] = AHEAD,
    maker: Callable[[], Server] | None = None,
) -> tuple[list[float], list[float]]:
    """Return the lateness of starts of the server and of the control in seconds, measured in turn."""
    draw = random.Random(3)
    ours, bare = [], []
    with (our_server if maker is None else maker)() as server, Companion("-m", "benchmarks.bare_wait") as control:
        # On one processor the control would wait for the server, and the server for its own thread.
        unpin(server.pid)
        unpin(control.pid)
        with connect(server.address) as connection, background(server):
            for _ in range(preset.timed_starts):
                ours.append(timed_start(connection, draw.uniform(*ahead)))
                control.write_line(str(_instant(draw.uniform(*ahead))))
                bare.append(int(control.read_line()) / 1e9)
    return ours, bare


def _rows(
    ours: Sequence[float], bare: Sequence[float], *, p50: float = _P50, above: float | None = _ABOVE
) -> list[Row]:
    """Return the rows. `p50` is the goal of the server's p50, `above` that of its p99 minus that of the control."""

    def row(figure: str, share: float) -> Row:
        limit = f"{time_text(quantile(bare, share))} (control)"
        return Row(figure, time_text(quantile(ours, share)), limit)

    never_early = Goal("never early", lambda lateness: lateness >= 0)
    excess = quantile(ours, 0.99) - quantile(bare, 0.99)
    p99 = replace(row("p99", 0.99), compared=f"{'+' * (excess > 0)}{time_text(excess)}")
    if above is not None:
        p99 = p99.judged(excess, at_most(above, time_text), " above")
    return [
        row("earliest", 0).judged(min(ours), never_early),
        row("p50", 0.5).judged(quantile(ours, 0.5), at_most(p50, time_text)),
        p99,
        row("latest", 1),
    ]


def _instant(ahead: float) -> int:
    """Return the instant `ahead` seconds from now in counts of 100 ns."""
    return time.time_ns() // 100 + round(ahead * 1e7)


def timed_start(connection: socket.socket, ahead: float) -> float:
    """Request a timed start and a stop; return how many seconds late the backend was called."""
    instant = _arm(connection, ahead)
    until = time.monotonic() + ahead + _PATIENCE
    time.sleep(max(instant / 1e7 - time.time() + _AFTERWARDS, 0))
    while (reply := ask(connection, "?lateness")).startswith("!lateness,fail,not started"):
        if time.monotonic() > until:
            raise NotMeasured(f"a timed start did not happen: {reply}")
        time.sleep(_AFTERWARDS)
    if (stopped := ask(connection, "?stop")) != "!stop,ok" or not reply.startswith("!lateness,ok,"):
        raise NotMeasured(f"after a timed start ?lateness was answered {reply}, ?stop {stopped}")
    return int(reply.rpartition(",")[2]) / 1e9


def _arm(connection: socket.socket, ahead: float) -> int:
    """Request a start `ahead` seconds ahead, or later if that time has passed when the server reads the request."""
    for _ in range(5):
        instant = _instant(ahead)
        reply = ask(connection, f"?start,{instant // 10**7}.{instant % 10**7:07d}")
        if "elapsed" not in reply:
            break
        ahead *= 2
    if reply != "!start,ok":
        raise NotMeasured(f"a start {ahead:.3f} s ahead was answered {reply}")
    return instant
