"""Soak test: clients of several profiles check every reply; the memory and descriptors of the server are monitored.

    python -m benchmarks.soak [--minutes 10] [--seed N] [--clients 30] [--markdown]

client_profiles defines the clients; tagged_requests and reply_check define correct replies.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import IO

from benchmarks.client_profiles import PROFILES, Client, Soak, clients
from benchmarks.load import ask, connect
from benchmarks.servers import NotMeasured, Server
from benchmarks.table import columns, markdown_columns, quantile
from discosbackend.signals import heard

__all__ = ["Health", "Report", "complaints", "main"]

# The server under test. It logs as the server program does.
_SERVER = """
import runpy
from twisted.logger import STDLibLogObserver, globalLogBeginner
from discosbackend.log import log_to_stderr
log_to_stderr("INFO", "%(levelname)s %(name)s: %(message)s")
globalLogBeginner.beginLoggingTo([STDLibLogObserver()], redirectStandardIO=False)
runpy.run_module("benchmarks.instrument", run_name="__main__", alter_sys=True)
"""
_HARMLESS = ("DEBUG ", "INFO ", "WARNING ")

_INTERVAL = 0.01
# Seconds within which the server must notice that its last clients have disconnected.
_LEAVING = 5.0
_LONGEST_WARM_UP = 30.0
# The number of memory blocks by which a server without clients may grow after warming up: the cache of short requests
# has up to 256 entries of up to 8 blocks, depending on the last requests by chance, and caches of the standard library
# fill.
_FEW_OBJECTS = 2500
# Seconds and bytes. The limits of resident memory are loose: it depends on the largest load that occurred by chance,
# and Python's allocator takes minutes to settle. With a constant number of objects it grew by 0.8 MiB in the first 90 s
# and by 0.5 MiB in the next five minutes.
_SETTLED = 300.0
_UNSETTLED_GROWTH = 4 * 1024 * 1024
_SETTLED_GROWTH = 1024 * 1024
_EXAMPLES = 10
_DEFECTS = ("lost", "misordered", "invented")
_COUNTS = ("connections", "requests", "replies", *_DEFECTS)


@dataclass(slots=True)
class Health:
    """Measurements of the server: descriptors before and after all clients, objects, memory and log."""

    before: int
    after: int = 0
    objects: list[int] = field(default_factory=list)
    """Memory blocks of its objects without clients: after warming up, and at the end."""
    memory: list[int] = field(default_factory=list)
    """Resident memory in bytes, at equal intervals."""
    lag: float = 0.0
    """The largest delay of the clients themselves in seconds, which is a part of the measured latencies."""
    log: list[str] = field(default_factory=list)
    """Lines of the server's log above WARNING, and of tracebacks."""

    def growth(self, seconds: float) -> int:
        """Return the growth of the memory in bytes from the second quarter to the last; 0 if within the limits."""
        quarter = len(self.memory) // 4
        before = median(self.memory[quarter : 2 * quarter] or self.memory)
        grown = int(median(self.memory[3 * quarter :]) - before)
        return 0 if grown <= (_UNSETTLED_GROWTH if seconds < _SETTLED else _SETTLED_GROWTH) else grown

    def kept(self) -> int:
        """Return the number of memory blocks that the server has kept; 0 if they are few."""
        kept = self.objects[-1] - self.objects[0] if self.objects else 0
        return 0 if kept <= _FEW_OBJECTS else kept


async def _soak(soak: Soak, server: Server, count: int, seed: int, seconds: float) -> Health:
    """Run clients for warming up, then others, until they end. Raise CancelledError on a second signal."""
    health = Health(server.descriptors)
    began = time.monotonic()
    for first, end in ((0, _warm_up(seconds)), (count, seconds)):
        soak.until = began + end
        await _watch(soak, server, health, clients(soak, count, seed, first))
        # The server may have crashed when they disconnected.
        health.memory.append(server.memory)
        if health.memory[-1] == 0:
            break
        health.objects.append(_objects(server))
    return health


def _warm_up(seconds: float) -> float:
    return min(0.1 * seconds, _LONGEST_WARM_UP)


def _objects(server: Server) -> int:
    """Return the number of memory blocks of the server's objects."""
    with connect(server.address) as connection:
        return int(ask(connection, "?allocated").rpartition(",")[2])


async def _watch(soak: Soak, server: Server, health: Health, asking: Sequence[Client]) -> None:
    """Run these clients until they have disconnected, and monitor the server meanwhile."""
    running = asyncio.gather(*[client.run() for client in asking])
    while not running.done():
        health.memory.append(server.memory)
        if health.memory[-1] == 0:
            # The process has exited.
            soak.until = 0
        if soak.interrupts > 1:
            running.cancel()
        slept = time.perf_counter()
        await asyncio.sleep(_INTERVAL)
        health.lag = max(health.lag, time.perf_counter() - slept - _INTERVAL)
    await running
    patience = time.monotonic() + _LEAVING
    # Only root may list the descriptors of an exited process, which has none.
    with contextlib.suppress(PermissionError):
        while (left := server.descriptors) > health.before and time.monotonic() < patience:  # noqa: ASYNC110
            await asyncio.sleep(_INTERVAL)
        health.after = left


@dataclass(slots=True)
class Report:
    """The results of a run, as tables and as a list of defects."""

    soak: Soak
    health: Health
    seconds: float

    def total(self, figure: str) -> int:
        """Return the sum of a count over all profiles."""
        return sum(getattr(tally, figure) for tally in self.soak.tallies.values())

    def wrong(self) -> list[str]:
        """Return the defects, most of them with their number."""
        found = {
            **{kind: self.total(kind) for kind in _DEFECTS},
            "timed starts early": self.soak.early,
            "descriptors left open": max(self.health.after - self.health.before, 0),
            "objects kept": self.health.kept(),
            "bytes of memory grown": self.health.growth(self.seconds),
            "log lines above WARNING": len(self.health.log),
            "server died": int(0 in self.health.memory),
        }
        wrong = [f"{number} {what}" for what, number in found.items() if number]
        return wrong if self.total("requests") else [*wrong, "nothing was measured"]

    def profiles(self) -> Iterator[tuple[str, ...]]:
        """Yield the table of the profiles, with its headings."""
        yield ("profile", *_COUNTS, "first reply, worst ms", "last reply, worst ms")
        for profile, tally in self.soak.tallies.items():
            counts = [f"{getattr(tally, figure):,}" for figure in _COUNTS]
            yield (profile, *counts, f"{tally.first * 1e3:.1f}", f"{tally.last * 1e3:.1f}")
        yield ("all", *[f"{self.total(figure):,}" for figure in _COUNTS], "", "")

    def figures(self) -> Iterator[tuple[str, str]]:
        """Yield the table of the other figures, with its headings."""
        health, starts = self.health, self.soak.lateness
        warm = int(len(health.memory) * _warm_up(self.seconds) / self.seconds)
        yield "figure", "value"
        yield "seconds", f"{self.seconds:.1f}"
        yield "requests a second", f"{self.total('requests') / self.seconds:,.0f}"
        yield "worst lag of the clients themselves", f"{health.lag * 1e3:.1f} ms"
        yield "timed starts", f"{len(starts):,}"
        yield "timed starts that came too late to be armed", f"{self.soak.elapsed:,}"
        yield "timed starts early", f"{self.soak.early}"
        if starts:
            late = [f"{quantile(starts, share) / 1e3:,.0f}" for share in (0.5, 0.99, 1)]
            yield "lateness p50 / p99 / worst", f"{' / '.join(late)} µs"
        yield "memory after warming up", _kib(health.memory[warm])
        yield "memory at the end", _kib(health.memory[-1])
        growth = health.growth(self.seconds)
        yield "growth of memory", _kib(growth) if growth else "none"
        yield "objects after warming up, at the end", ", ".join(f"{count:,}" for count in health.objects)
        yield "descriptors before, after", f"{health.before}, {health.after}"
        yield "server log lines above WARNING", f"{len(health.log)}"

    def examples(self) -> list[str]:
        """Return the first lost, misordered or invented replies, and the first lines of the log."""
        tallies = self.soak.tallies.items()
        found = [f"{profile}: {text}" for profile, tally in tallies for text in tally.examples]
        return found[:_EXAMPLES] + [f"log: {line}" for line in self.health.log[:_EXAMPLES]]


def _kib(size: int) -> str:
    return f"{size // 1024:,} KiB"


def complaints(log: IO[bytes]) -> list[str]:
    """Return the lines of a log above WARNING, and those that are no log lines, such as tracebacks."""
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    return [line for line in lines if line and not line.startswith(_HARMLESS)]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=description)
    parser.add_argument("--minutes", type=float, default=10.0, help="the duration; may be a fraction (default: 10)")
    parser.add_argument("--seed", type=int, help="repeat the requests of another run, though not their times")
    parser.add_argument("--clients", type=int, default=30, help="number of clients (default: 30)")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown, as for the docs")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes < 1e6:
        parser.error(f"--minutes {options.minutes:g} is no time to run for")
    if not len(PROFILES) <= options.clients <= 1000:
        parser.error(f"--clients {options.clients} must be from {len(PROFILES)}, one of each profile, to 1000")
    return options


def _server(log: IO[bytes]) -> Server:
    """Start the server under test. Raise NotMeasured, with the end of its log, if it does not start."""
    try:
        # In a new session Ctrl-C does not reach it, so that the clients can finish first.
        return Server("-c", _SERVER, stderr=log.fileno(), start_new_session=True)
    except NotMeasured:
        raise NotMeasured(": ".join(["the server does not start", *complaints(log)[-1:]])) from None


def _measure(soak: Soak, seconds: float, count: int, seed: int) -> Report:
    """Run a server and its clients, and return the results."""
    with tempfile.TemporaryFile() as log:
        with _server(log) as server:
            began = time.monotonic()
            soak.address = server.address
            health = asyncio.run(_soak(soak, server, count, seed, seconds))
            took = time.monotonic() - began
        health.log = complaints(log)
    return Report(soak, health, took)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the test, print the tables and the defects, and return the exit status, 0 if there are none.

    Ctrl-C, SIGTERM and SIGHUP end the run early. A second signal ends it without waiting for replies and without
    tables. In that case, and if nothing could be measured, SystemExit is raised with the reason.
    """
    options = _options(arguments)
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    soak = Soak(float("inf"))

    def end_early(*_: object) -> None:
        """Count the signal. An exception here could leave a server running that is being started or stopped."""
        soak.interrupts += 1

    for number in heard():
        signal.signal(number, end_early)
    print(f"{options.clients} clients for {options.minutes:g} minutes, --seed {seed}", flush=True)
    try:
        report = _measure(soak, 60 * options.minutes, options.clients, seed)
    except (NotMeasured, OSError) as problem:
        sys.exit(f"not measured: {problem}")
    except asyncio.CancelledError:
        sys.exit("interrupted")
    show = markdown_columns if options.markdown else columns
    for table in (list(report.profiles()), list(report.figures())):
        print(*show(table, "l" + "r" * (len(table[0]) - 1)), "", sep="\n")
    for example in report.examples():
        print(example)
    wrong = report.wrong()
    print(f"wrong: {', '.join(wrong)}" if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
