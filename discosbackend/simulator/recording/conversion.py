"""Converter: converts recordings in a process of its own, which needs neither our interpreter nor our memory.

Which recordings, and when, is decided in queue; what that process does is in fits.convert.
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from discosbackend.children import python_command, python_environment

__all__ = ["Converter"]

logger = logging.getLogger(__name__)


class Converter:
    """Runs one conversion after the other; `root` is where absolute paths begin."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._given_up = False

    def ready(self) -> None:
        """Before a conversion: what was given up until now does not concern this one."""
        self._given_up = False

    def give_up(self) -> bool:
        """End the conversion, whose recordings stay, also one that has yet to start; whether one was running."""
        with self._lock:
            self._given_up = True
            if self._process is None:
                return False
            self._process.terminate()
            return True

    def run(self, names: Mapping[Path, str | None]) -> dict[Path, str]:
        """Convert these recordings, each with the telescope's path or None; of those that were refused, why."""
        process = self._start()
        if isinstance(process, str):
            return dict.fromkeys(names, process)
        try:
            with process:
                output, complaints = process.communicate(json.dumps([[str(f), name] for f, name in names.items()]))
        finally:
            with self._lock:
                self._process = None
        # At LF only, or a name that a client has chosen could begin a line.
        for line in filter(None, complaints.split("\n")):
            logger.warning("conversion: %s", line)
        reports = {Path(report["recording"]): report for report in map(json.loads, output.splitlines())}
        ended = "conversion given up" if self._given_up else f"conversion ended early with status {process.returncode}"
        return {
            folder: reason
            for folder in names
            if (reason := _refusal(reports[folder]) if folder in reports else ended) is not None
        }

    def _start(self) -> subprocess.Popen[str] | str:
        """The process, or why there is none."""
        root = ["--root", str(self._root)] if self._root is not None else []
        with self._lock:
            if self._given_up:
                return "conversion given up"
            try:
                self._process = subprocess.Popen(  # run() does
                    python_command("-m", "discosbackend.simulator.fits.convert", "--gently", *root),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=python_environment(),
                )
            except OSError as problem:
                return f"conversion cannot be started: {(problem.strerror or str(problem)).lower()}"
            return self._process


def _refusal(report: dict[str, Any]) -> str | None:
    """Why a recording was not converted; None if it was, which is logged."""
    if "refused" in report:
        return str(report["refused"])
    if report["written"] is not None:
        logger.info("%s: %d dumps written", report["written"], report["dumps"])
    return None
