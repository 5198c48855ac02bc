"""Converter: runs conversions in a separate process, which does not slow down the server or use its memory.

queue decides which recordings are converted and when; fits.convert is the program of the process.
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
    """Runs conversions, one at a time. `root` is the folder that stands for `/` in the paths of set-filename."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._given_up = False

    def ready(self) -> None:
        """Prepare for a conversion: an earlier give_up() does not apply to it."""
        self._given_up = False

    def give_up(self) -> bool:
        """Terminate the conversion, also one that has not started yet; return whether one was running.

        Its recordings are kept.
        """
        with self._lock:
            self._given_up = True
            if self._process is None:
                return False
            self._process.terminate()
            return True

    def run(self, names: Mapping[Path, str | None]) -> dict[Path, str]:
        """Convert recordings and wait until that is done.

        Parameters
        ----------
        names
            The folder of each recording, with the path of set-filename or None.

        Returns
        -------
        dict
            The folder of each recording that was not converted, with the reason.
        """
        process = self._start()
        if isinstance(process, str):
            return dict.fromkeys(names, process)
        try:
            with process:
                output, complaints = process.communicate(json.dumps([[str(f), name] for f, name in names.items()]))
        finally:
            with self._lock:
                self._process = None
        # Split at LF only. A name that a client has chosen may contain other line separators.
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
        """Start the process; return it, or the reason why it cannot be started."""
        root = ["--root", str(self._root)] if self._root is not None else []
        with self._lock:
            if self._given_up:
                return "conversion given up"
            try:
                self._process = subprocess.Popen(  # run() closes it
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
    """Return why a recording was not converted; if it was, log that and return None."""
    if "refused" in report:
        return str(report["refused"])
    if report["written"] is not None:
        logger.info("%s: %d dumps written", report["written"], report["dumps"])
    return None
