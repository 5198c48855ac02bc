"""Recorder: a flight recorder. It writes every exchange of a server to a file.

A Recorder is a listener of Batches, or of a DBFactory. It makes the lines, and appends them to a queue. A thread writes
them, because a write may take seconds on a slow or distant disk, and the server must not wait. The thread has no buffer
of its own: when a process is killed, the system keeps what was written. Reads and failures wait for 3 to 50 ms in
Batches. The thread writes at most every 40 ms, because it takes the interpreter lock from the reactor each time.

The server waits for a write in one case only, because the record of changes must survive a crash: the reply to a
command that has changed something is sent after its line was written. It waits for at most 1 ms. If a write takes
longer, the server does not wait again until the queue is empty. A crash loses what is in the queue: usually nothing, or
the reads and failures of the last 0.1 s. A loss of power can lose what the system has not written to the disk yet, by
default the last 30 s.

The queue is limited. If the disk is too slow for longer, further exchanges are not recorded, but counted (`lost`).
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any

from discosbackend.exchanges import ConnectionEvent, Exchange
from discosbackend.grammar import OK
from discosbackend.monitor.recording_file import NotWritten, RecordingError, RecordingFile
from discosbackend.monitor.recording_lines import lines_of

__all__ = ["SIZE", "Recorder", "RecordingError"]

logger = logging.getLogger(__name__)

SIZE = 100
"""The default size of a recording, in MB."""

# How many bytes the queue may have, and how many are written at once: fewer if the files are small.
_MOST_WAITING = 2**22
_AT_ONCE = 2**18
_AT_ONCE_IF_SMALL = 2**16
# The time from a write to the next one, in s, if the line of a change does not need it earlier.
_PERIOD = 0.04
# How many s the reply to a change waits until its line is written.
_CHANGE_PATIENCE = 0.001
# How many s close() waits until the queue is written.
_LAST_PATIENCE = 1.0


class Recorder:
    """Writes exchanges to a file. To use it, append it to the `listeners` of a DBFactory, and close() it at the end.

    If there are Batches, append it to their `listeners` instead, which takes less processor time.

    Parameters
    ----------
    path
        The file. If it exists, it must be a recording, and is continued.
    server
        The name of the server, for the header.
    limit
        The size, in bytes, at which a new file is begun. The old one replaces `<path>.1`.
    most
        The size of the queue, in bytes.

    Raises
    ------
    RecordingError
        If the file cannot be used. The text is one sentence.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        server: str = "",
        limit: int = SIZE * 10**6,
        most: int = _MOST_WAITING,
    ) -> None:
        self._file = RecordingFile(path, limit=limit, server=server)
        self._most = most
        self._at_once = max(min(_AT_ONCE, limit // 4), _AT_ONCE_IF_SMALL)
        # Lines, and after each change an Event that the thread sets when everything before it is written.
        self._waiting: deque[bytes | threading.Event] = deque()
        # Bytes that were put into the queue and taken out of it. Each number is written by one thread only.
        self._added = self._taken = 0
        # Lines that were lost because the queue was full, and because they could not be written. As above.
        self._overflowed = self._failed = 0
        self._dropping = False
        self._before = 0
        self._failure = ""
        self._failed_before = 0
        self._rotation_problem = ""
        # Whether the disk is fast enough to wait for it.
        self._prompt = True
        self._wake = threading.Event()
        # Set if what is in the queue must be written at once.
        self._urgent = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False
        if self._file.removed:
            logger.warning(
                "%s ended with an incomplete line of %d bytes, which was removed", self.path, self._file.removed
            )
        self._write(b"")

    @property
    def path(self) -> str:
        """The path of the file."""
        return self._file.path

    @property
    def lost(self) -> int:
        """How many exchanges and connection events were not recorded."""
        return self._overflowed + self._failed

    @property
    def problem(self) -> str:
        """What is wrong at the moment, in one sentence; "" if nothing is."""
        if self._failure:
            return self._failure
        if self._dropping and self._added - self._taken >= self._most // 2:
            return f"{self.path} is written too slowly: lines are lost"
        return self._file.problem

    def to_dict(self) -> dict[str, Any]:
        """Return the part `recorder` of /status.json. The file is an absolute path."""
        return {"file": self.path, "problem": self.problem, "lost": self.lost}

    # -- the reactor's side ---------------------------------------------------------------------------

    def __call__(self, event: Exchange | ConnectionEvent) -> None:
        """Record an exchange or a connection event. Called by DBFactory."""
        self.add_records((event,))

    def add_records(self, records: Sequence[Exchange | ConnectionEvent]) -> None:
        """Record exchanges and connection events. A successful change may only be the last of them."""
        if not self._has_space:
            self._drop(len(records))
            return
        lines = lines_of(records)
        fits = self._added - self._taken + len(lines) <= self._most
        if len(records) > 1 and (not fits or len(lines) > self._at_once):
            # As many as there is space for, and not too many at once.
            half = len(records) // 2
            self.add_records(records[:half])
            self.add_records(records[half:])
            return
        if not fits:
            self._drop(1)
            return
        self._added += len(lines)
        self._waiting.append(lines)
        if self._thread is None and not self._start():
            return
        if not self._wake.is_set():
            self._wake.set()
        last = records[-1]
        if self._prompt and isinstance(last, Exchange) and last.changes and last.code == OK:
            written = threading.Event()
            self._waiting.append(written)
            self._urgent.set()
            self._wake.set()
            self._prompt = written.wait(_CHANGE_PATIENCE)

    @property
    def _has_space(self) -> bool:
        """Whether lines can be recorded. After the queue was full, it must first become half empty."""
        if self._dropping and self._added - self._taken < self._most // 2:
            self._dropping = False
            logger.warning("%s: recording again, %d lines were lost", self.path, self._overflowed - self._before)
        return not self._closing and not self._dropping

    def _drop(self, number: int) -> None:
        if not self._dropping and not self._closing:
            self._dropping, self._before = True, self._overflowed
            logger.error("%s is written too slowly: lines are lost until the disk is faster", self.path)
        self._overflowed += number

    def _start(self) -> bool:
        """Start the thread with the first exchange, because a process that becomes a daemon would lose it earlier."""
        thread = threading.Thread(target=self._run, name="discos-recorder", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The system has no thread left. The next exchange tries again.
            return False
        self._thread = thread
        return True

    def close(self) -> None:
        """Write what is in the queue, for at most 1 s, and close the file. Later exchanges are not recorded."""
        if self._closing:
            return
        self._closing = True
        if self._thread is None:
            while self._waiting:
                self._write_some()
            self._file.close()
            return
        self._urgent.set()
        self._wake.set()
        self._thread.join(_LAST_PATIENCE)
        if self._thread.is_alive():
            logger.error("%s is written too slowly: the last lines are lost", self.path)

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        written = -_PERIOD
        while True:
            self._wake.clear()
            if self._waiting:
                # Many short writes would take the interpreter lock from the reactor many times.
                if not self._closing and (early := written + _PERIOD - monotonic()) > 0:
                    self._urgent.wait(early)
                self._urgent.clear()
                # What is added meanwhile is gathered again.
                waiting = len(self._waiting)
                while waiting > 0:
                    waiting -= self._write_some()
                written = monotonic()
            elif self._closing:
                self._file.close()
                return
            else:
                self._prompt = True
                self._wake.wait()

    def _write_some(self) -> int:
        """Write the first lines of the queue. Return how many entries of the queue were handled."""
        lines: list[bytes] = []
        written: list[threading.Event] = []
        handled = size = 0
        while self._waiting and size < self._at_once:
            waiting = self._waiting.popleft()
            handled += 1
            if isinstance(waiting, threading.Event):
                written.append(waiting)
            else:
                lines.append(waiting)
                size += len(waiting)
        if lines:
            self._write(b"".join(lines))
        self._taken += size
        for event in written:
            event.set()
        return handled

    def _write(self, lines: bytes) -> None:
        """Write lines, and log the first failure, and the first success after it."""
        try:
            self._file.write(lines)
        except NotWritten as problem:
            self._failed += problem.lost
            if not self._failure:
                self._failed_before = self._failed - problem.lost
                logger.error("cannot record to %s: %s: lines are lost", self.path, problem.reason)
            self._failure = f"cannot record to {self.path}: {problem.reason}"
            return
        if self._failure:
            self._failure = ""
            logger.warning("%s: recording again, %d lines were lost", self.path, self._failed - self._failed_before)
        if self._file.problem and not self._rotation_problem:
            logger.error("%s", self._file.problem)
        self._rotation_problem = self._file.problem
