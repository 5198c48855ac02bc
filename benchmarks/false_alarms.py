"""Looks for false alarms: runs all conformance cases many times on correct servers on a busy machine.

    python -m benchmarks.false_alarms

The servers are the simulated instruments, each with its profile, several at a time. The only allowed verdicts are pass,
unsupported (commands that the instrument lacks) and skipped (cases that its profile leaves out). The exit status is 0
if there is no other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import ask, connect
from benchmarks.presets import Preset
from benchmarks.servers import ROOT, Companion, NotMeasured, Server
from benchmarks.table import Row, at_most, columns, median, time_text
from discosbackend.cli.check_run import NO_PASS

__all__ = ["INSTRUMENTS", "Tally", "check_on", "conformance", "main", "server_of"]

INSTRUMENTS = ("discos", "sardara", "skarab", "skarab2", "mistral", "totalpower")

_AT_A_TIME = 3
_PATIENCE = 300.0
_RIGHT = {"pass", "unsupported", "skipped"}

# With a time scale of 0 its tasks finish at once.
_MISTRAL = """
from discosbackend import DBProtocolHandler, run_server
from discosbackend.simulator import SimulatedBackend
run_server(0, DBProtocolHandler(SimulatedBackend("mistral", time_scale=0)), "127.0.0.1")
"""
_BUSY = "while True: pass"


@dataclass
class Tally:
    """The results of the runs on one instrument."""

    verdicts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """The false alarms, one text each."""


def server_of(instrument: str) -> Server:
    """Start a server for the simulated instrument of that name, ready for `start`."""
    if instrument != "mistral":
        return Server("scripts/discos-backend-server", "--port", "0", "--simulate", instrument, "--no-data")
    server = Server("-c", _MISTRAL)
    with connect(server.address) as connection:
        # MISTRAL cannot start an acquisition before its setup.
        ask(connection, "?setup")
    return server


def check_on(instrument: str, server: Server, runs: int, options: Sequence[str] = ("--full",)) -> Tally:
    """Run the conformance cases several times in sequence on a server."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            "scripts/discos-backend-check",
            ":".join(map(str, server.address)),
            "--profile",
            instrument,
            *options,
        ]
        for run in range(1, runs + 1):
            done = subprocess.run(
                [sys.executable, *command, "--json", str(report)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
            if not report.exists():
                raise NotMeasured(f"{instrument}: {done.stderr.strip()[-500:]}")
            found = json.loads(report.read_text(encoding="utf-8"))
            report.unlink()
            tally.seconds.append(found["seconds"])
            tally.verdicts.update(case["verdict"] for case in found["results"])
            for case in found["results"]:
                if case["verdict"] not in _RIGHT:
                    tally.wrong.append(f"{instrument}, run {run}: {case['id']}: {case['reasons']}")
            # The profile of MISTRAL leaves set-configuration out, and then no full run is a pass.
            if done.returncode != (NO_PASS if found["missing"] else 0):
                tally.wrong.append(f"{instrument}, run {run}: exit status {done.returncode}")
    return tally


def conformance(preset: Preset) -> list[Row]:
    """Measure the conformance cases on a simulated instrument, on an idle machine: how long all of them take."""
    options = ("--full",) if preset.full_runs else ()
    with server_of("discos") as server:
        tally = check_on("discos", server, preset.full_runs or 1, options)
    if tally.wrong:
        raise NotMeasured(tally.wrong[0])
    slowest = max(tally.seconds)
    row = Row("slowest run of all cases" if options else "the default cases", time_text(slowest))
    return [row.judged(slowest, at_most(20, time_text)) if options else row]


def _rows(found: dict[str, Tally]) -> Iterator[tuple[str, ...]]:
    yield "instrument", "runs", "cases passed", "unsupported", "skipped", "wrong", "median s", "slowest s"
    for instrument, tally in found.items():
        counts = [tally.verdicts[verdict] for verdict in ("pass", "unsupported", "skipped")]
        times = [f"{median(tally.seconds):.1f}", f"{max(tally.seconds):.1f}"]
        yield (instrument, *map(str, (len(tally.seconds), *counts, len(tally.wrong))), *times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print the results; return the exit status, 0 if there was no false alarm."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.false_alarms", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=50, help="runs on each instrument (default: %(default)s)")
    parser.add_argument("--idle", action="store_true", help="do not keep the processors busy")
    parser.add_argument("--only", nargs="+", choices=INSTRUMENTS, default=INSTRUMENTS, help="only these instruments")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error(f"--runs {options.runs} is none")
    with ExitStack() as stack:
        for _ in range(0 if options.idle else os.cpu_count() or 1):
            stack.enter_context(Companion("-c", _BUSY))
        try:
            servers = {name: stack.enter_context(server_of(name)) for name in options.only}
            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                tallies = pool.map(lambda name: check_on(name, servers[name], options.runs), servers)
                found = dict(zip(servers, tallies, strict=True))
        except (NotMeasured, OSError, subprocess.TimeoutExpired) as problem:
            sys.exit(f"not measured: {problem}")
    rows = list(_rows(found))
    print(*columns(rows, "l" + "r" * (len(rows[0]) - 1)), sep="\n")
    wrong = [text for tally in found.values() for text in tally.wrong]
    print(*wrong[:20], f"{len(wrong)} wrong" if wrong else "nothing is wrong", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
