"""The test modules in parallel, for ./run_tests: unittest runs them, each module whole, in a few worker processes.

A module is the unit because unittest's module fixtures belong to one process. The longest goes first, by the durations
of the last run, which `.test-durations.json` keeps, else by a guess. A worker that dies or hangs costs its module only.
All processes that the tests started are gone in the end, and so are their temporary files, also after an interruption.
"""

from __future__ import annotations

import json
import os
import queue
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .settings import PATIENCE

__all__ = ["ROOT", "DURATIONS", "Outcomes", "Run", "modules_of", "processes_with", "starts_processes"]

ROOT = Path(__file__).resolve().parent.parent
MODULE_LIMIT = 10 * PATIENCE
"""Seconds after which a module is given up: with the stacks of its worker's threads in the output."""

DURATIONS = ROOT / ".test-durations.json"
"""How long each module took when it ran last; not in the repository."""
_MARK = "DISCOS_TEST_RUN"
"""Environment variable by which the processes of a run are found again."""


@dataclass
class Outcomes:
    """What the tests came to."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each test that was started, by its dotted name."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Name of a test, class or module, and what it says."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason."""
    cpu: float = 0.0
    """Seconds of processor time of the workers and their children."""

    @property
    def counts(self) -> str:
        """The numbers of passed, failed and skipped tests, as CI systems read them."""
        failed = {name for name, _ in self.failed}
        skipped = {name for name, _ in self.skipped} - failed
        passed = len(self.seconds.keys() - failed - skipped)
        return f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped"

    def add(self, outcome: dict[str, Any]) -> None:
        """Count in what a worker has answered."""
        self.seconds.update(outcome["seconds"])
        self.failed += map(tuple, outcome["failed"])
        self.skipped += map(tuple, outcome["skipped"])
        self.cpu += outcome["cpu"]

    def report(self) -> str:
        """The failures with their output, the skipped tests with their reasons, the ten slowest."""
        lines = []
        for name, text in self.failed:
            lines += ["=" * 70, f"FAILED {name}", "-" * 70, text.rstrip("\n")]
        if self.skipped:
            lines += ["", "Skipped:"]
            reasons: dict[str, list[str]] = {}
            for name, reason in self.skipped:
                reasons.setdefault(reason, []).append(name)
            for reason, names in sorted(reasons.items()):
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                lines.append(f"  {names[0]}{more}: {reason}")
        slowest = sorted(self.seconds.items(), key=lambda item: -item[1])[:10]
        lines += ["", "Slowest:", *(f"  {seconds:6.1f} s  {name}" for name, seconds in slowest)]
        return "\n".join(lines)


def modules_of(names: Sequence[str], durations: Path = DURATIONS) -> dict[str, list[str]]:
    """The names to run by module, the module that is expected to take longest first.

    Parameters
    ----------
    names
        Dotted names of modules, classes or tests, with or without `test.` in front; none means every module.
    durations
        File with the durations of the last run.

    Raises
    ------
    ValueError
        A name means no test.
    """
    chosen: dict[str, list[str]] = {}
    for name in names or sorted(path.stem for path in (ROOT / "test").glob("test_*.py")):
        dotted = name if name.startswith("test.") else f"test.{name}"
        module = ".".join(dotted.split(".")[:2])
        if not (ROOT / "test" / f"{module.removeprefix('test.')}.py").exists():
            raise ValueError(f"there is no test module for {name!r}")
        loader = unittest.TestLoader()
        if dotted != module and (not loader.loadTestsFromName(dotted).countTestCases() or loader.errors):
            raise ValueError(f"there is no test {name!r}")
        chosen.setdefault(module, []).append(dotted)
    known = _known_durations(durations)
    return dict(sorted(chosen.items(), key=lambda item: -known.get(item[0], _guess(item[0]))))


# Modules that take long, because they wait. A module that takes long and begins late is waited for in the end.
_LONG_ONES = (
    "test_testing_defects",
    "test_testing_causes",
    "test_docs",
    "test_forced_exit",
    "test_monitor_browser",
    "test_testing_page",
    "test_simulator_server",
    "test_log",
    "test_cli_tap",
    "test_server",
    "test_client_grading",
    "test_cli_check_client",
    "test_testing_reuse",
    "test_architecture",
    "test_simulator_recording_queue",
    "test_examples_pictures",
    "test_testing",
    "test_soak",
    "test_parallel",
)


def _guess(module: str) -> float:
    """Seconds that a module may take: by its size, more if it starts processes, and most if it is known to be long."""
    name = module.removeprefix("test.")
    if name in _LONG_ONES:
        return 1000.0 - _LONG_ONES.index(name)
    path = ROOT / "test" / f"{name}.py"
    return path.stat().st_size / 1e4 * (5 if starts_processes(path) else 1)


def starts_processes(path: Path) -> bool:
    """Whether a test module starts processes, by what it imports."""
    return (
        re.search(r"^(from|import) .*\b(subprocess|serving|multiprocessing)\b", path.read_text("utf-8"), re.MULTILINE)
        is not None
    )


def _known_durations(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, float)} if isinstance(found, dict) else {}


class Run:
    """One run of test modules in worker processes.

    Parameters
    ----------
    modules
        Names to run by module, from modules_of().
    workers
        How many processes at once.
    command
        What goes between the interpreter and `-m test.worker`, for measuring coverage.
    seed
        Shuffles modules, classes and tests; None leaves their order.
    environment
        Variables for the workers, over those of this process.
    durations
        File in which the durations are kept, DURATIONS or a test's own.
    limit
        Seconds after which a module is given up.
    grace
        Seconds in which processes that are left over may end by themselves.
    """

    def __init__(
        self,
        modules: dict[str, list[str]],
        workers: int,
        command: Sequence[str] = (),
        seed: int | None = None,
        environment: dict[str, str] | None = None,
        durations: Path = DURATIONS,
        limit: float = MODULE_LIMIT,
        grace: float = PATIENCE / 4,
    ) -> None:
        self.outcomes = Outcomes()
        order = list(modules.items())
        if seed is not None:
            random.Random(seed).shuffle(order)
        self._waiting: queue.SimpleQueue[tuple[str, list[str]]] = queue.SimpleQueue()
        for item in order:
            self._waiting.put(item)
        self._left = len(order)
        self._workers = min(workers, len(order))
        self._command = [sys.executable, *command, "-m", "test.worker"]
        self._seed = seed
        self._environment = environment or {}
        self._durations = durations
        self._limit = limit
        self._grace = grace
        self._mark = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._took: dict[str, float] = {}
        self._problems: list[BaseException] = []
        self._ending = threading.Event()

    def run(self) -> Outcomes:
        """Run all modules and say how it goes; nothing is left behind when this returns or raises."""
        folder = tempfile.mkdtemp(prefix="discos-test-")
        threads = [threading.Thread(target=self._work, args=(folder,), daemon=True) for _ in range(self._workers)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if self._problems:
                raise self._problems[0]
            self._look_for_leftovers(folder)
        finally:
            self._ending.set()
            # Its workers are gone, so each thread ends; one that was just starting a worker has another round.
            while processes := processes_with(_MARK, self._mark):
                for process in processes:
                    _kill(process)
                for thread in threads:
                    thread.join()
            _remove(folder)
        self._keep_durations()
        return self.outcomes

    def _work(self, folder: str) -> None:
        """One worker after another, until no module waits any more."""
        try:
            while not self._ending.is_set():
                with tempfile.TemporaryFile("w+", errors="replace") as output:
                    if not self._serve(folder, output):
                        return
        except BaseException as problem:  # noqa: BLE001  # run() raises it
            self._problems.append(problem)

    def _serve(self, folder: str, output: IO[str]) -> bool:
        """Start a worker and send it modules; whether it died, and modules may be waiting still."""
        reading, writing = os.pipe()
        with (
            os.fdopen(reading, "rb") as answers,
            subprocess.Popen(
                [*self._command, str(writing)],
                cwd=ROOT,
                env={**os.environ, **self._environment, _MARK: self._mark, "TMPDIR": folder},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                start_new_session=True,
                text=True,
            ) as worker,
        ):
            os.close(writing)
            assert worker.stdin is not None
            while True:
                try:
                    module, names = self._waiting.get_nowait()
                except queue.Empty:
                    worker.stdin.close()
                    return False
                begun, written = time.monotonic(), os.fstat(output.fileno()).st_size
                print(json.dumps({"names": names, "seed": self._seed}), file=worker.stdin, flush=True)
                line = self._answer(worker, answers)
                # A worker that has closed the pipe ends, but may still be writing why.
                status = None if line else worker.wait()
                output.seek(written)
                self._finish(module, time.monotonic() - begun, line, status, output.read())
                if not line:
                    return True

    def _answer(self, worker: subprocess.Popen[str], answers: IO[bytes]) -> bytes:
        """The line that a worker answers with; empty if it died, or was killed after the limit."""
        if not select.select([answers], [], [], self._limit)[0]:
            # faulthandler writes the stacks of all threads.
            worker.send_signal(signal.SIGABRT)
        return answers.readline()

    def _finish(self, module: str, seconds: float, line: bytes, status: int | None, output: str) -> None:
        """Count in a module, and say so."""
        if line:
            outcome = json.loads(line)
        else:
            ended = f"its process ended with status {status}, or took too long\n"
            outcome = {"seconds": {}, "failed": [(module, ended)], "skipped": [], "cpu": 0.0}
        failed = outcome["failed"]
        if failed and output.strip():
            failed[-1] = (failed[-1][0], f"{failed[-1][1]}\nOutput of the module's process and its children:\n{output}")
        with self._lock:
            if self._ending.is_set():
                return
            self.outcomes.add(outcome)
            self._took[module] = seconds
            self._left -= 1
            verdict = f"{len(failed)} FAILED" if failed else "ok"
            count = len(outcome["seconds"])
            print(f"{verdict:>9}  {module:36} {count:4} tests {seconds:6.1f} s   {self._left} modules left", flush=True)

    def _look_for_leftovers(self, folder: str) -> None:
        """Processes that outlive their worker, and files in the temporary folder, are failures."""
        end = time.monotonic() + self._grace
        # Some end by themselves when their parent is gone, as multiprocessing's resource tracker does.
        while (processes := processes_with(_MARK, self._mark)) and time.monotonic() < end:
            threading.Event().wait(0.05)
        for process in processes:
            command = Path("/proc", str(process), "cmdline").read_bytes().replace(b"\0", b" ")
            self.outcomes.failed.append(("process left behind", os.fsdecode(command)))
        for name in os.listdir(folder):
            self.outcomes.failed.append(("temporary file left behind", name))

    def _keep_durations(self) -> None:
        with_others = {**_known_durations(self._durations), **self._took}
        try:
            self._durations.write_text(json.dumps(with_others, indent=0, sort_keys=True), encoding="utf-8")
        except OSError as problem:
            print(f"the durations are not kept: {problem}", flush=True)


def processes_with(variable: str, value: str) -> list[int]:
    """The processes that were started with this variable in their environment, zombies left out."""
    wanted = os.fsencode(f"{variable}={value}")
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            # It has ended meanwhile, or is another user's.
            continue
    return found


def _remove(folder: str) -> None:
    """Remove a folder. A test that was interrupted may have left one that is too deep for shutil, or not writable."""
    subprocess.run(["chmod", "-R", "u+rwX", folder], stderr=subprocess.DEVNULL, check=False)
    subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL, check=False)


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return
