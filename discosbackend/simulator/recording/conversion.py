"""Converter: runs conversions in a separate process, which does not slow down the server or use its memory.

queue decides which recordings are converted and when; fits.convert is the program of the process. The process is
kept for the next conversion, because importing astropy takes longer than converting a short recording.
"""

from __future__ import annotations

import json
import logging
import os
import select
import selectors
import signal
import subprocess
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from discosbackend.children import python_command, python_environment
from discosbackend.simulator.errors import lower_reason

__all__ = ["Converter"]

logger = logging.getLogger(__name__)

# Seconds for which an idle process is kept. If each scan is converted, the next conversion comes within minutes.
_IDLE = 300.0
# A process is replaced after this many recordings, so that its memory does not grow without limit.
_MOST = 100
_READ = 65536
_SIGNALS = {each.value: each.name for each in signal.Signals}


class Converter:
    """Runs conversions, one at a time. `root` is the folder that stands for `/` in the paths of set-filename."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        # Protects all attributes below. It is held only for a short time.
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._running = False
        self._given_up = False
        self._idle: threading.Timer | None = None

    def ready(self) -> None:
        """Prepare for a conversion: an earlier give_up() does not apply to it."""
        self._given_up = False

    def give_up(self) -> bool:
        """Terminate the running conversion, or prevent one that has not started yet; return whether one was running.

        Its recordings are kept.
        """
        with self._lock:
            self._given_up = True
            if self._worker is None or not self._running:
                return False
            self._worker.terminate()
            return True

    def close(self) -> None:
        """End the process if it is idle. A later conversion starts another one."""
        with self._lock:
            if self._running:
                return
            worker, self._worker = self._worker, None
            self._cancel_timer()
        if worker is not None:
            worker.end()

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
        worker = self._acquire()
        if isinstance(worker, str):
            return dict.fromkeys(names, worker)
        reports: dict[Path, dict[str, Any]] = {}
        try:
            worker.convert(names, reports)
        finally:
            self._release(worker, complete=names.keys() <= reports.keys())
        reasons = {folder: _refusal(reports[folder]) for folder in names if folder in reports}
        for folder in names.keys() - reports.keys():
            reasons[folder] = "conversion given up" if self._given_up else worker.ended_text()
        return {folder: reason for folder, reason in reasons.items() if reason is not None}

    def _acquire(self) -> _Worker | str:
        """Return the process, a new one if there is none; or the reason why it cannot be started."""
        with self._lock:
            if self._given_up:
                return "conversion given up"
            self._cancel_timer()
            if self._worker is None or not self._worker.alive:
                try:
                    self._worker = _Worker(self._root)
                except OSError as problem:
                    self._worker = None
                    return f"conversion cannot be started: {lower_reason(problem)}"
            self._running = True
            return self._worker

    def _release(self, worker: _Worker, complete: bool) -> None:
        """Keep the process for the next conversion, or end it."""
        with self._lock:
            self._running = False
            if complete and not self._given_up and worker.converted < _MOST:
                idle = threading.Timer(_IDLE, _close, (weakref.ref(self),))
                # The program may end meanwhile.
                idle.daemon = True
                # If the system has no thread left, the process is not kept.
                with suppress(RuntimeError):
                    idle.start()
                    self._idle = idle
                    return
            self._worker = None
        worker.end()

    def _cancel_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


def _close(converter: weakref.ref[Converter]) -> None:
    """Close the converter, if it still exists. The timer has only a weak reference, which does not keep it alive."""
    if (there := converter()) is not None:
        there.close()


class _Worker:
    """The process. It reads a line of JSON for each request, and writes one for each recording.

    It ends when its standard input is closed. So it also ends with this process, for whatever reason this process ends.
    OSError is raised if it cannot be started.
    """

    def __init__(self, root: Path | None) -> None:
        arguments = ["--root", str(root)] if root is not None else []
        self._process = subprocess.Popen(  # _kill() waits for it
            python_command("-m", "discosbackend.simulator.fits.convert", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            # Its messages are read as UTF-8, whatever the locale is.
            env={**python_environment(), "PYTHONIOENCODING": "utf-8"},
        )
        # The incomplete last lines of its output.
        self._report = self._log = b""
        self.converted = 0
        # It is also called when this object is deleted, and when the program ends.
        self.end = weakref.finalize(self, _kill, self._process)

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def terminate(self) -> None:
        """Ask the process to end, in the middle of a conversion too; do not wait for it."""
        self._process.terminate()
        # A process that was stopped ends only once it is continued. Until then it keeps the lock on the recording.
        self._process.send_signal(signal.SIGCONT)

    def ended_text(self) -> str:
        """Return why the process has ended, as the reason of a conversion that was not finished."""
        status = self._process.returncode
        if status == -signal.SIGKILL:
            return "conversion was killed by SIGKILL (out of memory?)"
        if status is not None and status < 0:
            return f"conversion was killed by {_SIGNALS.get(-status, f'signal {-status}')}"
        return f"conversion ended early with status {status}"

    def convert(self, names: Mapping[Path, str | None], reports: dict[Path, dict[str, Any]]) -> None:
        """Have recordings converted; add the report of each to `reports`. Reports are missing if the process ends.

        What the process writes to standard error meanwhile is logged.
        """
        request = json.dumps([[str(folder), name] for folder, name in names.items()]).encode("ascii") + b"\n"
        stdin, stdout, stderr = self._streams
        self.converted += len(names)
        # If the program ends now, the process notices it, and removes the temporary file before it ends.
        self.end.atexit = False
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            while selector.get_map():
                complete = names.keys() <= reports.keys()
                # The process writes its log lines before its last report.
                ready = {key.fileobj for key, _ in selector.select(0 if complete else None)}
                if complete and not ready:
                    self.end.atexit = True
                    return
                if stdin in ready:
                    request = _write(stdin, request)
                    if not request:
                        selector.unregister(stdin)
                if stderr in ready and not self._log_from(stderr):
                    selector.unregister(stderr)
                if stdout in ready and not self._read_reports(stdout, reports):
                    selector.unregister(stdout)
        # The process has ended, and a report is missing.
        self._process.wait()

    @property
    def _streams(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        return process.stdin, process.stdout, process.stderr

    def _log_from(self, stderr: IO[bytes]) -> bool:
        """Log the lines that can be read; return False at the end."""
        data = os.read(stderr.fileno(), _READ)
        # Split at LF only: another line end in a name from a client must not begin a line. The last LF may be missing.
        *lines, self._log = (self._log + (data or b"\n")).split(b"\n")
        for line in filter(None, lines):
            logger.warning("conversion: %s", line.decode(errors="backslashreplace"))
        return bool(data)

    def _read_reports(self, stdout: IO[bytes], reports: dict[Path, dict[str, Any]]) -> bool:
        """Read the reports that are complete; return False at the end."""
        data = os.read(stdout.fileno(), _READ)
        *lines, self._report = (self._report + data).split(b"\n")
        for report in map(json.loads, lines):
            reports[Path(report["recording"])] = report
        return bool(data)


def _write(stream: IO[bytes], data: bytes) -> bytes:
    """Write as much as a pipe takes without blocking; return the rest. If the reader has closed it, return b""."""
    try:
        return data[os.write(stream.fileno(), data[: select.PIPE_BUF]) :]
    except BrokenPipeError:
        return b""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that is idle or has ended. This is faster than asking it to end."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _refusal(report: dict[str, Any]) -> str | None:
    """Return why a recording was not converted. If it was converted, log this and return None."""
    if "refused" in report:
        return str(report["refused"])
    if report["written"] is not None:
        logger.info("%s: %d dumps written", report["written"], report["dumps"])
    return None
