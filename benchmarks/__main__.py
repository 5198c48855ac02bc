"""The command line: which measurements there are, in which order, and how they are printed."""

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

from benchmarks import beside, crowds, exchange, failures, punctuality, starting, table
from benchmarks.effort import FULL, QUICK, Effort
from benchmarks.servers import CLIENT, LOAD, SERVER, NotMeasured, pin

__all__ = ["MEASUREMENTS", "main"]

MEASUREMENTS: dict[str, Callable[[Effort], list[table.Row]]] = {
    "one client, one request at a time": exchange.one_client,
    "50 clients, one request each at a time": exchange.fifty_clients,
    "one client pipelining 100": exchange.one_pipelining,
    "50 clients pipelining 100": exchange.fifty_pipelining,
    "expected failures, processor time against a status": failures.failures,
    "cold start, simulator loaded": starting.starting,
    "idle connections": crowds.idle,
    "1000 clients connect at the same instant": crowds.storm,
    "a client that pipelines 1 GiB and never reads": crowds.never_reading,
    "a polite client beside 50 pipelining 200": beside.beside_flood,
    "status beside slow commands": beside.beside_commands,
    "timed start, idle": punctuality.idle,
    "timed start, under 50 pipelining 200": punctuality.under_load,
    "timed start, beside a @blocking sleep": punctuality.beside_nap,
    "timed start, beside a computing thread": punctuality.beside_compute,
}


_DESCRIPTION = """\
Start servers on loopback, measure them in interleaved rounds beside bare ones, and print a table of medians.
docs/performance.md says how each figure is measured.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Measure, and print the table. Exit status 0 whatever the figures, 1 when something has none."""
    parser = _parser()
    options = parser.parse_args(arguments)
    chosen = [name for name in MEASUREMENTS if any(word.lower() in name.lower() for word in options.only)]
    if not chosen:
        parser.error(f"no measurement has {' or '.join(options.only)} in its name, see --list")
    if options.list:
        print("\n".join(chosen))
        sys.exit(0)
    # Servers are ended on the way out, which SIGTERM does not take by itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    conditions = _conditions()
    try:
        found = _measured(chosen, QUICK if options.quick else FULL)
    except (NotMeasured, OSError) as problem:
        sys.exit(f"not measured: {problem}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    verdicts = [row.verdict for rows in found.values() for row in rows]
    print(f"{verdicts.count('met')} goals met, {verdicts.count('missed')} missed", file=sys.stderr)
    print(conditions, table.markdown(found) if options.markdown else table.text(found), sep="\n\n", end="")
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=_DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="less of everything: rough figures in a minute")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", default=[""], help="only those whose name has one of these words"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the measurements, no figures")
    parser.add_argument("--markdown", action="store_true", help="print the table as the docs have it")
    return parser


def _conditions() -> str:
    """What the figures depend on, as far as it has no name."""
    places = "not pinned"
    if SERVER is not None:
        load = "with them" if LOAD == CLIENT else "on a third"
        places = f"servers pinned to one, clients to another, loads from processes of their own {load}"
    return (
        f"Python {platform.python_version()}, Twisted {twisted.__version__}, "
        f"{os.cpu_count()} processors: {places}; load average at the start {os.getloadavg()[0]:.2f}."
    )


def _measured(names: Sequence[str], effort: Effort) -> dict[str, list[table.Row]]:
    # Thousands of connections, here and in the servers, which inherit this.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pin(0, CLIENT)
    found = {}
    for number, name in enumerate(names, 1):
        began = time.monotonic()
        print(f"{number}/{len(names)} {name} ...", end=" ", file=sys.stderr, flush=True)
        found[name] = MEASUREMENTS[name](effort)
        print(f"{time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
