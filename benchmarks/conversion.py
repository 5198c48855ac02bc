"""Measures what a conversion costs beside its data, compared with a bare import of astropy.io.fits, idle and busy."""

from __future__ import annotations

import socket
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.load import connect, demand
from benchmarks.presets import Preset
from benchmarks.servers import Companion, Server, unpin
from benchmarks.table import Row, against, at_most, median, number_text, time_text

__all__ = ["conversion"]

_BARE = ("-c", "import astropy.io.fits; print()")
_LOOP = ("-c", "print(flush=True)\nwhile True: pass")
_LOOPS = 8
# A round beside the loops takes several times as long.
_FEWER = 4
# Seconds of an acquisition: a few dumps.
_ACQUISITION = 0.2
# Seconds after which a reply counts as lost.
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds in each round: of the bare import, the first conversion of a server, and the next one."""

    bare: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)


def conversion(preset: Preset) -> list[Row]:
    """Measure the first and the second conversion of a server, in turn with the import, then beside busy loops."""
    # Once before, because the first import of a module compiles it.
    _measure(1)
    idle = _measure(preset.starts)
    with ExitStack() as loops:
        for _ in range(_LOOPS):
            loop = loops.enter_context(Companion(*_LOOP))
            unpin(loop.pid)
            loop.read_line()
        busy = _measure(max(1, preset.starts // _FEWER))
    later = Row("a further conversion", time_text(median(idle.later)))
    return [
        against("first conversion, against a bare import", idle.first, idle.bare, time_text, at_most(1.5)),
        later.judged(median(idle.later), at_most(0.3, time_text)),
        _slowed("first conversion", idle.first, busy.first, idle.bare, busy.bare),
        _slowed("a further conversion", idle.later, busy.later, idle.bare, busy.bare),
    ]


def _slowed(what: str, idle: list[float], busy: list[float], bare_idle: list[float], bare_busy: list[float]) -> Row:
    """Return the row with the factors by which the loops slow a conversion and the import."""
    ours, bare = median(busy) / median(idle), median(bare_busy) / median(bare_idle)
    row = Row(f"{what}, slowed by {_LOOPS} busy loops", f"{number_text(ours)} ×", f"{number_text(bare)} ×")
    return Row(row.figure, row.ours, row.limit, f"{ours / bare:.2f} ×").judged(ours / bare, at_most(1.5), " ×")


def _measure(rounds: int) -> _Times:
    times = _Times()
    for _ in range(rounds):
        times.bare.append(_bare_import())
        with tempfile.TemporaryDirectory() as folder, _server(folder) as server, connect(server.address) as connection:
            # Beside the loops, and on a slow machine.
            connection.settimeout(_PATIENCE)
            demand(connection, "?set-configuration,SK00")
            times.first.append(_convert(connection))
            times.later.append(_convert(connection))
    return times


def _bare_import() -> float:
    """Return the seconds from before exec to the end of the import."""
    with Companion(*_BARE) as process:
        unpin(process.pid)
        process.read_line()
        return time.perf_counter() - process.started


def _server(folder: str) -> Server:
    server = Server(
        "scripts/discos-backend-server",
        *("--port", "0", "--simulate", "sardara", "--log-level", "warning", "--data", folder),
    )
    unpin(server.pid)
    return server


def _convert(connection: socket.socket) -> float:
    """Record a few dumps; return the seconds from the request to convert them to its reply."""
    demand(connection, "?start")
    time.sleep(_ACQUISITION)
    demand(connection, "?stop")
    asked = time.perf_counter()
    demand(connection, "?convert-data")
    return time.perf_counter() - asked
