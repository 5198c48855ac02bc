"""Measures the cost of expected failures compared with a success, and the size of the log after a flood of failures."""

from __future__ import annotations

import re
import socket
import time

from benchmarks.load import STATUS, Request, alone, connect
from benchmarks.presets import Preset
from benchmarks.servers import SERVER, Server
from benchmarks.table import Row, against, at_most, bytes_text, time_text

__all__ = ["failures"]

_FAILURES = {
    "unknown command": Request(b"?open-dome", re.compile(rb"!open-dome,fail,[^!]+")),
    "wrong number of arguments": Request(b"?set-integration", re.compile(rb"!set-integration,fail,[^!]+")),
    "bad argument": Request(b"?set-integration,soon", re.compile(rb"!set-integration,fail,[^!]+")),
    "refused by the backend": Request(b"?set-configuration,X", re.compile(rb"!set-configuration,fail,[^!]+")),
    "malformed line": Request(b"status", re.compile(rb"![a-z-]+,invalid,[^!]+")),
}
_PROGRAM = ("scripts/discos-backend-server", "--backend", "benchmarks.instrument:Instrument", "--port", "0")
_DEPTH = 100
_FLOOD = 100_000
_LOG_WINDOW = 1.2


def failures(preset: Preset) -> list[Row]:
    """Compare the processor time of the server for each kind of failure with that for `status`, all pipelined.

    The server is the program discos-backend-server, so that it logs as in operation: at level info, to a file.
    """
    successes: list[float] = []
    costs: dict[str, list[float]] = {name: [] for name in _FAILURES}
    rounds = preset.failures // _DEPTH
    with Server(*_PROGRAM, cpu=SERVER) as server, connect(server.address) as connection:
        for request in (STATUS, *_FAILURES.values()):
            alone(connection, request, rounds, _DEPTH)
        kinds = [(request, costs[name]) for name, request in _FAILURES.items()]
        for request, found in preset.turns([(STATUS, successes), *kinds]):
            found.append(_cost(server, connection, request, rounds))
        written = _log_of_a_flood(server, connection)
    rows = [against(name, cost, successes, time_text, at_most(1.5)) for name, cost in costs.items()]
    return [*rows, Row(f"log written by {_FLOOD:,} refusals", bytes_text(written))]


def _log_of_a_flood(server: Server, connection: socket.socket) -> int:
    """Return how many bytes of log a flood of refusals produces."""
    # Once a second the log reports how many lines were suppressed: wait for those before the flood and of the flood.
    time.sleep(_LOG_WINDOW)
    before = server.log_size
    alone(connection, _FAILURES["refused by the backend"], _FLOOD // _DEPTH, _DEPTH)
    time.sleep(_LOG_WINDOW)
    return server.log_size - before


def _cost(server: Server, connection: socket.socket, request: Request, rounds: int) -> float:
    """Return the processor time of the server for one such request in seconds."""
    before = server.processor_time
    alone(connection, request, rounds, _DEPTH)
    return (server.processor_time - before) / (rounds * _DEPTH)
