"""Measures the cold start and the memory after it: the program with the simulator, compared with bare Twisted."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from benchmarks.load import Request, alone, connect
from benchmarks.presets import Preset
from benchmarks.servers import SERVER, Server
from benchmarks.table import Row, against, at_most, bytes_text, time_text

__all__ = ["cold_start"]

_PROGRAM = ("scripts/discos-backend-server", "--port", "0")
_BARE = ("benchmarks/bare_twisted.py",)
# Bare Twisted answers every request with its constant.
_VERSION = Request(b"?version", re.compile(rb"!version,ok,1\.4|!status,ok,.*"))


class _Start(NamedTuple):
    """The result of a start: seconds from before exec to the first reply, and the resident memory then in bytes."""

    took: float
    memory: int


def cold_start(preset: Preset) -> list[Row]:
    """Measure the time from before exec to the reply to `version`, and the memory at that time.

    The program and bare Twisted are started alternately.
    """
    for command in (_PROGRAM, _BARE):
        # Start each once without measuring, because the first import of a module compiles it.
        _start(command)
    pairs = [(_start(_PROGRAM), _start(_BARE)) for _ in range(preset.starts)]
    ours, bare = ([pair[place] for pair in pairs] for place in (0, 1))
    took = [start.took for start in ours], [start.took for start in bare]
    memory = [start.memory for start in ours], [start.memory for start in bare]
    return [
        against("exec to first reply, against bare Twisted", *took, time_text, at_most(1.3)),
        against("resident memory, against bare Twisted", *memory, bytes_text, at_most(1.1)),
    ]


def _start(command: tuple[str, ...]) -> _Start:
    with Server(*command, cpu=SERVER) as server, connect(server.address) as connection:
        alone(connection, _VERSION, 1)
        return _Start(time.perf_counter() - server.started, server.memory)
