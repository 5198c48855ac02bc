"""Files: the recordings of a simulated instrument, the names that the telescope gives them, and their conversion.

How a recording lies on disk is said in recording, who makes its dumps in dumping, and what a file looks like in
recorder; converting is a process of its own, convert. Whoever calls `convert` waits for that, nobody else does.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from discosbackend.errors import BackendError
from discosbackend.simulator.dumping import Dumping
from discosbackend.simulator.instruments import Setup
from discosbackend.simulator.recording import Recording, give_name, name_of, recordings_in
from discosbackend.simulator.sky import Sky
from discosbackend.ticks import Ticks

__all__ = ["Files"]

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent.parent.parent

# Seconds for the last dumps to be made when the server goes down.
_LAST_DUMPS = 2.0


class Files:
    """What is recorded below the folder `data`, and merged into files. `root`: where absolute paths begin.

    `begin`, `end` and `name` belong to the reactor's thread and return at once; `convert` is for another one.
    """

    def __init__(self, data: Path, root: Path | None = None) -> None:
        self.data = data
        self.root = root
        self._lock = threading.Lock()
        # In the order in which they began; until they have been converted.
        self._folders: list[Path] = []
        self._in_conversion: list[Path] = []
        self._dumping: Dumping | None = None
        self._finishing: list[Dumping] = []
        self._next_name: str | None = None
        self._not_begun = ""
        self._not_converted = ""
        self._converter: subprocess.Popen[str] | None = None
        if left := recordings_in(data):
            logger.warning(
                "%d recordings of an earlier run are in %s: discos-backend-recover makes files of them",
                len(left), data,
            )  # fmt: skip

    @property
    def problem(self) -> str:
        """What is wrong with recording or converting, "" if nothing is: a text for status."""
        recorded = self._dumping.problem if self._dumping is not None else ""
        return self._not_begun or recorded or self._not_converted

    def begin(self, setup: Setup, instant: Ticks, steady: Callable[[], int], since: int, sky: Sky) -> None:
        """Record an acquisition that began at `instant`, which was at `since` on the steady clock.

        BackendError, with the reason, when the data folder does not take it.
        """
        try:
            recording = Recording.begin(self.data, setup, instant, sky, self._next_name)
        except OSError as problem:
            self._not_begun = f"data folder unwritable: {_reason(problem)}: {self.data}"
            raise BackendError(self._not_begun) from None
        self._not_begun, self._next_name = "", None
        self._finishing = [each for each in self._finishing if each.running]
        dumping = Dumping(setup, recording, begins=since, steady=steady, sky=sky)
        with self._lock:
            self._folders.append(recording.folder)
            self._dumping = dumping
        dumping.start()

    def change_sky(self, sky: Sky) -> None:
        """The acquisition that is being recorded, if any, sees another sky from now on."""
        if self._dumping is not None:
            self._dumping.change_sky(sky)

    def end(self, since: int) -> None:
        """The acquisition ended, at `since` on the steady clock."""
        if self._dumping is not None:
            self._dumping.end(since)
            self._finishing.append(self._dumping)

    def name(self, path: str) -> None:
        """Have the newest recording merged with the telescope's file at `path`; without one, the next.

        DISCOS sends this after stop (protocol section 9); another name replaces the one before. BackendError
        when it cannot be noted.
        """
        with self._lock:
            newest = self._folders[-1] if self._folders else None
            if newest is None or newest in self._in_conversion:
                self._next_name = path
                return
        try:
            give_name(newest, path)
        except OSError as problem:
            raise BackendError(f"name of the file not noted: {_reason(problem)}: {newest}") from None

    def convert(self) -> None:
        """Make files of all finished recordings that have a name; where none has, of those without.

        Blocks until that is done. BackendError, with the first reason, when one could not be made: its recording
        stays, and is tried again the next time.
        """
        with self._lock:
            chosen = self._choose()
            self._in_conversion = chosen
        refusals = []
        try:
            for dumping in list(self._finishing):
                if Path(dumping.folder) in chosen:
                    dumping.wait()
            if chosen:
                refusals = self._run_converter(chosen)
        finally:
            with self._lock:
                self._in_conversion = []
                self._folders = [folder for folder in self._folders if folder.exists()]
        self._not_converted = f"conversion failed: {refusals[0]}" if refusals else ""
        if refusals:
            raise BackendError(refusals[0])

    def _choose(self) -> list[Path]:
        running = self._dumping if self._dumping not in self._finishing else None
        finished = [each for each in self._folders if running is None or Path(running.folder) != each]
        return [each for each in finished if name_of(each) is not None] or finished

    def _run_converter(self, folders: list[Path]) -> list[str]:
        """Convert in a process of its own, which needs neither our interpreter nor our memory; the refusals."""
        root = ["--root", str(self.root)] if self.root is not None else []
        path = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH")]))
        try:
            converter = subprocess.Popen(
                [sys.executable, "-m", "discosbackend.simulator.convert", "--gently", *root, *map(str, folders)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
        except OSError as problem:
            return [f"conversion cannot be started: {_reason(problem)}"]
        with converter as self._converter:
            told, complaints = converter.communicate()
            status = converter.returncode
        self._converter = None
        for line in complaints.splitlines():
            logger.warning("conversion: %s", line)
        refusals, answered = [], 0
        for line in told.splitlines():
            report: dict[str, Any] = json.loads(line)
            answered += 1
            if "refused" in report:
                logger.error("%s is not converted: %s", report["recording"], report["refused"])
                refusals.append(str(report["refused"]))
            elif report["written"] is not None:
                logger.info("%s: %d dumps written", report["written"], report["dumps"])
        if answered < len(folders):
            refusals.append(f"conversion ended early with status {status}")
        return refusals

    def told(self) -> dict[str, Any]:
        """All of it in JSON's terms."""
        dumping = self._dumping
        return {
            "data": str(self.data),
            "problem": self.problem,
            "waiting": [{"folder": str(each), "name": name_of(each)} for each in list(self._folders)],
            "next_name": self._next_name,
            "newest": None
            if dumping is None
            else {
                "folder": dumping.folder,
                "dumps": dumping.made,
                "lost": dumping.lost,
                "lag": dumping.lag,
                "running": dumping.running,
            },
        }

    def close(self) -> None:
        """The server goes down: have the last dumps made, and end a conversion, whose recording stays."""
        for dumping in self._finishing:
            if not dumping.wait(_LAST_DUMPS):
                logger.warning("%s: dumps are still to be recorded, they are lost", dumping.folder)
        converter = self._converter
        if converter is not None:
            logger.warning("a conversion is given up: discos-backend-recover will do it")
            converter.terminate()
        if left := [each for each in self._folders if each.exists()]:
            logger.info("%d recordings are left in %s: see discos-backend-recover", len(left), self.data)


def _reason(problem: OSError) -> str:
    return (problem.strerror or str(problem)).lower()
