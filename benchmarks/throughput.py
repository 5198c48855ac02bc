"""Measures throughput and latency of one and of fifty clients, also pipelining, compared with bare servers."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.load import STATUS, Load, alone, connected, together
from benchmarks.presets import Preset
from benchmarks.servers import (
    Server,
    asyncio_server,
    our_server,
    our_server_on_asyncio,
    twisted_server,
    unchecked_server,
)
from benchmarks.table import Row, against, at_least, at_most, rate_text, time_text

__all__ = ["fifty_clients", "fifty_pipelining", "on_asyncio", "one_client", "one_pipelining"]

_MANY = 50
_DEPTH = 100
_P99 = at_most(1.2)


def one_client(preset: Preset) -> list[Row]:
    """Measure one client with one request at a time."""
    return _with_latencies(_measure(preset, 1, preset.requests, 1), 0.9)


def fifty_clients(preset: Preset) -> list[Row]:
    """Measure fifty clients with one request each at a time."""
    return _with_latencies(_measure(preset, _MANY, 160, 1), 0.95)


def one_pipelining(preset: Preset) -> list[Row]:
    """Measure one client that sends a hundred requests at once."""
    return _rates(_measure(preset, 1, preset.batches, _DEPTH), 0.5)


def fifty_pipelining(preset: Preset) -> list[Row]:
    """Measure fifty clients that send a hundred requests each at once."""
    return _rates(_measure(preset, _MANY, 20, _DEPTH), 0.4)


def on_asyncio(preset: Preset) -> list[Row]:
    """Measure our server on the asyncio reactor beside the same server on the default reactor."""
    rows = []
    with our_server_on_asyncio() as asyncio, our_server() as default:
        for what, clients, each, depth in (
            ("one client, one request at a time", 1, preset.requests, 1),
            ("50 clients, one request each at a time", _MANY, 160, 1),
            ("one client pipelining 100", 1, preset.batches, _DEPTH),
        ):
            rates: tuple[list[float], list[float]] = ([], [])
            for server in (asyncio, default):
                _round(server, clients, each, depth)
            for server, found in preset.turns(list(zip((asyncio, default), rates, strict=True))):
                found.append(_round(server, clients, each, depth).rate)
            rows.append(against(f"rate: {what}", *rates, rate_text))
    return rows


# The rounds of our server, of bare Twisted, of bare asyncio, and of bare Twisted with our backend.
_Rounds = tuple[list[Load], list[Load], list[Load], list[Load]]


def _measure(preset: Preset, clients: int, each: int, depth: int) -> _Rounds:
    """Run all four servers, and load one at a time, in turn."""
    loads: _Rounds = ([], [], [], [])
    with ExitStack() as stack:
        makers = (our_server, twisted_server, asyncio_server, unchecked_server)
        servers = [stack.enter_context(maker()) for maker in makers]
        for server in servers:
            _round(server, clients, each, depth)
        for server, found in preset.turns(list(zip(servers, loads, strict=True))):
            found.append(_round(server, clients, each, depth))
    return loads


def _round(server: Server, clients: int, each: int, depth: int) -> Load:
    with connected(server.address, clients) as connections:
        if clients == 1:
            return alone(connections[0], STATUS, each, depth)
        return together(connections, STATUS, each, depth)


def _rates(loads: _Rounds, goal: float) -> list[Row]:
    ours, twisted, asyncio, unchecked = ([load.rate for load in found] for found in loads)
    return [
        against("rate against bare Twisted", ours, twisted, rate_text, at_least(goal)),
        against("rate against bare asyncio", ours, asyncio, rate_text),
        against("rate against the floor", ours, unchecked, rate_text),
        against("the floor against bare Twisted", unchecked, twisted, rate_text),
    ]


def _with_latencies(loads: _Rounds, goal: float) -> list[Row]:
    p50 = [[load.p50 for load in found] for found in loads]
    p99 = [[load.p99 for load in found] for found in loads]
    return [
        *_rates(loads, goal),
        against("p50 against bare Twisted", p50[0], p50[1], time_text),
        against("p99 against bare Twisted", p99[0], p99[1], time_text, _P99),
        against("p99 against bare asyncio", p99[0], p99[2], time_text),
    ]
