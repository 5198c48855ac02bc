"""The command line of the benchmarks: runs the measurements and prints the table."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import twisted

from benchmarks import (
    contention,
    conversion,
    failures,
    false_alarms,
    in_process,
    many_connections,
    monitoring,
    punctuality,
    recording,
    startup,
    table,
    throughput,
)
from benchmarks.presets import FULL, QUICK, Preset
from benchmarks.servers import CLIENT, LOAD, SERVER, NotMeasured, pin
from discosbackend.signals import ENDING, heard

__all__ = ["MEASUREMENTS", "main"]

_Measurement = Callable[[Preset], list[table.Row]]

MEASUREMENTS: dict[str, _Measurement] = {
    "a request in process, without sockets": in_process.in_process,
    "one client, one request at a time": throughput.one_client,
    "50 clients, one request each at a time": throughput.fifty_clients,
    "one client pipelining 100": throughput.one_pipelining,
    "50 clients pipelining 100": throughput.fifty_pipelining,
    "the asyncio reactor against the default one": throughput.on_asyncio,
    "expected failures, processor time against a status": failures.failures,
    "cold start, simulator loaded": startup.cold_start,
    "idle connections": many_connections.idle,
    "1000 clients connect at the same instant": many_connections.storm,
    "a client that pipelines 1 GiB and never reads": many_connections.never_reading,
    "a polite client beside 50 pipelining 200": contention.during_flood,
    "status beside slow commands": contention.during_commands,
    "timed start, idle": punctuality.idle,
    "timed start, under 50 pipelining 200": punctuality.under_load,
    "timed start, beside a @blocking sleep": punctuality.during_nap,
    "timed start, beside a computing thread": punctuality.during_compute,
    "timed start on the asyncio reactor, idle": punctuality.idle_on_asyncio,
    "timed start on the asyncio reactor, under 50 pipelining 200": punctuality.under_load_on_asyncio,
    "ten open pages, /metrics, the recorder and telemetry, against none": monitoring.monitored,
    "a simulated SKARAB recording 92 MB/s": recording.recording,
    "a conversion of a few dumps": conversion.conversion,
    "conformance cases on a simulated instrument": false_alarms.conformance,
}

# Open files for fifty clients, pipes, logs and libraries.
_FEW_FILES = 150

_DESCRIPTION = """\
Start servers on loopback, measure them in interleaved rounds beside bare ones, and print a table of medians.
docs/performance.md says how each figure is measured.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the measurements and print the table. Exit status: 0, also for missed goals; 1 if a measurement failed.

    A measurement that fails is not in the table; the reason is printed to standard error. After SIGINT, SIGTERM or
    SIGHUP the table has what was measured until then.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    chosen = [name for name in MEASUREMENTS if any(word.lower() in name.lower() for word in options.only)]
    if not chosen:
        parser.error(f"no measurement has {' or '.join(options.only)} in its name, see --list")
    if options.list:
        print("\n".join(chosen))
        sys.exit(0)
    preset = QUICK if options.quick else FULL
    _raise_open_files(chosen, preset)
    pin(0, CLIENT)
    conditions = _conditions()
    found, problems = _measured(chosen, preset)
    if found:
        verdicts = [row.verdict for rows in found.values() for row in rows]
        print(f"{verdicts.count('met')} goals met, {verdicts.count('missed')} missed", file=sys.stderr)
        show = table.markdown if options.markdown else table.text
        print(conditions, show(found), sep="\n\n", end="")
    sys.exit("\n".join(problems) or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=_DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds: rough figures in a minute")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORD",
        default=[""],
        help="only measurements whose name contains one of these words",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the measurements and exit")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown, as for the docs")
    return parser


def _conditions() -> str:
    """Return a sentence on the conditions of the measurement: versions, processors and load."""
    places = "not pinned"
    if SERVER is not None:
        load = "the clients' processor" if LOAD == CLIENT else "a third one"
        places = f"servers pinned to one, clients to another; processes that generate other load are pinned to {load}"
    return (
        f"Python {platform.python_version()}, Twisted {twisted.__version__}, "
        f"{os.cpu_count()} processors: {places}; load average at the start {os.getloadavg()[0]:.2f}."
    )


def _raise_open_files(names: Sequence[str], preset: Preset) -> None:
    """Raise the limit of open files, here and for the servers, which inherit it; exit if it is too low."""
    crowded: dict[_Measurement, int] = {
        many_connections.idle: preset.idle,
        many_connections.storm: many_connections.STORM,
    }
    needed = _FEW_FILES + max(crowded.get(MEASUREMENTS[name], 0) for name in names)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < needed:
        sys.exit(f"not measured: {needed} open files are needed, and the limit (ulimit -Hn) is {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _end(number: int, _: object) -> NoReturn:
    """End early: the servers must be stopped first, else they would continue to run.

    Further signals are ignored: they must not interrupt the stop of the servers and the printing.
    """
    _ignore_signals()
    raise KeyboardInterrupt(signal.Signals(number).name)


def _ignore_signals() -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def _measured(names: Sequence[str], preset: Preset) -> tuple[dict[str, list[table.Row]], list[str]]:
    """Return the rows of the successful measurements, and the reasons why others failed."""
    found: dict[str, list[table.Row]] = {}
    problems = []
    name = names[0]
    try:
        for each in heard():
            signal.signal(each, _end)
        for number, name in enumerate(names, 1):
            began = time.monotonic()
            print(f"{number}/{len(names)} {name} ...", end=" ", file=sys.stderr, flush=True)
            try:
                found[name] = MEASUREMENTS[name](preset)
            except (NotMeasured, OSError) as problem:
                problems.append(f"not measured: {name}: {problem}")
            took = f"{time.monotonic() - began:.1f} s" if name in found else "not measured"
            print(took, file=sys.stderr, flush=True)
        _ignore_signals()
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        problems.append(f"interrupted by {interrupt} at {name}")
    return found, problems


if __name__ == "__main__":
    main()
