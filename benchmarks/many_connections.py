"""Measures thousands of idle connections, a thousand clients that connect at once, and a client that never reads."""

from __future__ import annotations

import errno
import select
import socket
import time

from benchmarks.load import STATUS, Load, alone, connect, connected
from benchmarks.presets import Preset
from benchmarks.servers import NotMeasured, Server, our_server, twisted_server
from benchmarks.table import Goal, Row, against, at_most, bytes_text, median, time_text

__all__ = ["STORM", "idle", "never_reading", "storm"]

STORM = 1000
"""The number of clients that connect at once."""

_GIB = 1024**3
_BELOW_MIB = Goal("< 1 MiB", lambda grown: grown < 1024**2)
# Seconds without progress after which the client stops sending to a server that does not read.
_INSISTENCE = 1.0
_PATIENCE = 15.0
# Seconds from the loss of its connections within which a crashing server exits.
_DYING = 0.5


def idle(preset: Preset) -> list[Row]:
    """Measure the memory of idle connections, and the latency of one busy client with and without them."""
    beside: list[Load] = []
    without: list[Load] = []
    with our_server() as crowded, our_server() as quiet, twisted_server() as bare:
        for server in (crowded, quiet, bare):
            _busy(server, preset)
        before = crowded.memory, bare.memory
        with connected(bare.address, preset.idle):
            bare_each = (bare.memory - before[1]) / preset.idle
        with connected(crowded.address, preset.idle):
            ours_each = (crowded.memory - before[0]) / preset.idle
            for _ in range(preset.rounds):
                beside.append(_busy(crowded, preset))
                without.append(_busy(quiet, preset))
    p50 = [load.p50 for load in beside], [load.p50 for load in without]
    p99 = [load.p99 for load in beside], [load.p99 for load in without]
    bare_text = f"{bytes_text(bare_each)} (bare Twisted)"
    memory = Row(f"memory each of {preset.idle}", bytes_text(ours_each), bare_text)
    return [
        memory.judged(ours_each, at_most(1.3 * 1024, bytes_text)),
        against("p50 of a busy client, against without", *p50, time_text, at_most(1.2)),
        against("p99 of a busy client, against without", *p99, time_text, at_most(1.2)),
    ]


def _busy(server: Server, preset: Preset) -> Load:
    with connect(server.address) as connection:
        return alone(connection, STATUS, preset.requests)


def storm(preset: Preset) -> list[Row]:
    """Connect a thousand clients at once; measure the slowest greeting of each round, and count refused clients."""
    ours: list[float] = []
    bare: list[float] = []
    refused = 0
    with our_server() as our, twisted_server() as twisted:
        for _ in range(preset.storms):
            took, refusals = _storm(our)
            if refusals:
                # If the server has crashed, its clients were not refused.
                our.outlive(_DYING)
            ours.append(took)
            refused += refusals
            took, refusals = _storm(twisted)
            bare.append(took)
            if refusals:
                raise NotMeasured(f"bare Twisted refuses {refusals} of {STORM} clients")
    bare_text = f"{time_text(median(bare))} (bare Twisted)"
    slowest = Row(f"slowest of {STORM} greetings", time_text(median(ours)), bare_text)
    none_refused = Goal("none", lambda count: count == 0)
    return [
        slowest.judged(median(ours), at_most(0.2, time_text)),
        Row(f"refused in {preset.storms} rounds", str(refused)).judged(refused, none_refused),
    ]


def _storm(server: Server) -> tuple[float, int]:
    """Return the time from connect to greeting of the slowest client in seconds, and how many got no greeting."""
    clients = [socket.socket() for _ in range(STORM)]
    poll = select.poll()
    began: dict[int, float] = {}
    by_number = {client.fileno(): client for client in clients}
    slowest, refused = 0.0, 0
    try:
        for client in clients:
            client.setblocking(False)
        for number, client in by_number.items():
            began[number] = time.perf_counter()
            problem = client.connect_ex(server.address)
            if problem not in (0, errno.EINPROGRESS):
                raise NotMeasured(f"a client cannot connect: {errno.errorcode[problem]}")
            poll.register(number, select.POLLIN)
        while began:
            ready = poll.poll(_PATIENCE * 1000)
            if not ready:
                raise NotMeasured(f"{len(began)} of {STORM} clients are not greeted")
            for number, _ in ready:
                try:
                    greeted = by_number[number].recv(100).endswith(b"\n")
                except OSError:
                    greeted = False
                took = time.perf_counter() - began.pop(number)
                poll.unregister(number)
                slowest = max(slowest, took)
                refused += not greeted
    finally:
        for client in clients:
            client.close()
    return slowest, refused


def never_reading(preset: Preset) -> list[Row]:
    """Send requests without reading replies, as long as the server accepts them, up to 1 GiB."""
    grown: list[float] = []
    taken: list[float] = []
    for _ in range(preset.never_reading):
        with our_server() as server:
            _busy(server, preset)
            with connect(server.address) as polite:
                alone(polite, STATUS, preset.batches, 100)
            before = server.memory
            with connect(server.address) as rude:
                taken.append(_insist(rude))
                # Other clients must be served meanwhile.
                _busy(server, preset)
                # The peak since the start of the server is an upper bound of the peak since `before`.
                grown.append(server.peak_memory - before)
    growth = Row("largest growth of resident memory", bytes_text(max(grown)))
    return [
        growth.judged(max(grown), _BELOW_MIB),
        Row("taken of 1 GiB", bytes_text(median(taken))),
    ]


def _insist(connection: socket.socket) -> int:
    """Send until no byte was accepted for a second, or 1 GiB; return the number of accepted bytes."""
    connection.setblocking(False)
    requests = STATUS.times(10_000)
    sent = 0
    last = time.monotonic()
    while sent < _GIB and time.monotonic() < last + _INSISTENCE:
        try:
            # Continue within the request at which the previous send() ended.
            sent += connection.send(requests[sent % len(STATUS.times(1)) :])
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.001)
    return sent
