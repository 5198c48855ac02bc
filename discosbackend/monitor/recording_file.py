"""RecordingFile: the file of a flight recorder. Its repair after a crash, its header, and its rotation.

The first line of each run of a server is a header:

    {"discos-recording": 1, "server": "<name>", "begin": "<Unix seconds>"}

The number is the version of this format, and `begin` the time at which the run began, as a text with 7 decimals.
recording_lines.py makes the other lines.

A file that exists is continued. So it can have several headers: after a header with another `begin`, the numbers of
connections begin again at 1. A file that was begun by the rotation repeats the header of its run.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from contextlib import suppress
from json.encoder import encode_basestring_ascii as quoted

from discosbackend.errors import reason_of
from discosbackend.ticks import Ticks

__all__ = ["HEADER", "VERSION", "NotWritten", "RecordingError", "RecordingFile"]

HEADER = "discos-recording"
"""The key of a header. Its value is VERSION."""

VERSION = 1
"""The version of the format."""

_HEADER_START = f'{{"{HEADER}": '.encode("ascii")
# A header is shorter than this, and so is nearly every other line.
_BLOCK = 65536

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY


class RecordingError(Exception):
    """A file cannot be used for a recording. The text is one sentence."""


class NotWritten(Exception):
    """Lines could not be written. The attributes are the reason, and the number of lines."""

    def __init__(self, problem: OSError, lost: int) -> None:
        super().__init__(reason_of(problem))
        self.reason = reason_of(problem)
        self.lost = lost


class RecordingFile:
    """A file to which lines are appended. One thread at a time may use it.

    Parameters
    ----------
    path
        The path. A symbolic link is followed: the file to which it points is rotated.
    limit
        The size, in bytes, at which a new file is begun. The old one replaces `<path>.1`.
    server
        The name of the server, for the header.

    Raises
    ------
    RecordingError
        If the file is not a regular file or not a recording, cannot be opened, or is used by another process.
    """

    def __init__(self, path: str | os.PathLike[str], *, limit: int, server: str) -> None:
        self.path = os.path.realpath(path)
        self.limit = limit
        self.problem = ""
        """The reason why the file cannot be rotated, "" if it can."""
        self.removed = 0
        """The length of the incomplete line that was removed from the end of the file, in bytes."""
        self._header = (
            f'{_HEADER_START.decode()}{VERSION}, "server": {quoted(server)}, "begin": "{Ticks.now().unix_text()}"}}\n'
        ).encode("ascii")
        self._header_due = True
        # The size to which the file has to be truncated before the next write. None: its end is whole.
        self._whole: int | None = None
        self._descriptor = self._opened()
        # It says which file it is. Each system call gives up the interpreter lock, and the thread has to get it back.
        self._opened_file = os.fstat(self._descriptor)
        if not os.access(os.path.dirname(self.path), os.W_OK):
            self.close()
            raise RecordingError(f"{self.path} could not be rotated: its folder cannot be written")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # -- opening --------------------------------------------------------------------------------------

    def _opened(self) -> int:
        """Open the file, or create it, and repair its end. Return the descriptor."""
        descriptor = -1
        try:
            # Before it is opened: opening a FIFO may block, and opening a device may do something.
            with suppress(FileNotFoundError):
                self._check_kind(os.stat(self.path).st_mode)
            descriptor = os.open(self.path, _FLAGS | os.O_NONBLOCK, 0o666)
            self._check_kind(os.fstat(descriptor).st_mode)
            self._lock(descriptor)
            self._repair(descriptor)
        except (OSError, RecordingError) as problem:
            if descriptor >= 0:
                os.close(descriptor)
            folder = os.path.dirname(self.path)
            if isinstance(problem, FileNotFoundError) and not os.path.exists(folder):
                raise RecordingError(
                    f"cannot record to {self.path}: the folder {folder} does not exist: create it"
                ) from problem
            if isinstance(problem, OSError):
                raise RecordingError(f"cannot record to {self.path}: {reason_of(problem)}") from problem
            raise
        return descriptor

    def _check_kind(self, mode: int) -> None:
        for is_kind, words in _KINDS:
            if is_kind(mode):
                raise RecordingError(f"{self.path} is {words}: a recording needs a regular file")

    def _lock(self, descriptor: int) -> None:
        try:
            # Not flock(): a child process of the server would keep that lock after the server has been killed.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            if problem.errno in (errno.EACCES, errno.EAGAIN):
                raise RecordingError(f"{self.path} is used by another process") from problem
            # The file system has no locks.

    def _repair(self, descriptor: int) -> None:
        """Check that the file is a recording, and remove an incomplete last line, which a crash has left."""
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, _BLOCK, 0)
        first, end, _ = head.partition(b"\n")
        if not end and size < _BLOCK and _HEADER_START.startswith(first.rstrip(b"\0")[: len(_HEADER_START)]):
            # Empty, or an incomplete header. After a loss of power, a file may end with NUL.
            os.ftruncate(descriptor, 0)
            self.removed = size
            return
        self._check_header(first)
        kept, tail = size, b""
        while not (found := tail.rpartition(b"\n"))[1] and kept:
            start = max(kept - _BLOCK, 0)
            tail = os.pread(descriptor, kept - start, start) + tail
            kept = start
        last = found[2]
        if last and _is_object(last):
            # Only its end is missing.
            os.write(descriptor, b"\n")
        elif last:
            os.ftruncate(descriptor, size - len(last))
            self.removed = len(last)

    def _check_header(self, line: bytes) -> None:
        header = _object(line)
        if header is None or HEADER not in header:
            raise RecordingError(f"{self.path} is not a recording: give the path of another file, which need not exist")
        if header[HEADER] != VERSION:
            raise RecordingError(f"{self.path} is a recording of another version: give the path of another file")

    # -- writing --------------------------------------------------------------------------------------

    def write(self, lines: bytes) -> None:
        """Append lines, after the header if it is missing. Rotate the file first if it would become too large.

        If the file was moved or removed, a new one is begun.

        Parameters
        ----------
        lines
            Whole lines, with their ends.

        Raises
        ------
        NotWritten
            If some of the lines could not be written. The file ends with a whole line.
        """
        try:
            size = self._current_size()
        except OSError as problem:
            raise NotWritten(problem, lines.count(b"\n")) from problem
        if size and size + len(lines) + len(self._header) * self._header_due > self.limit:
            size = self._rotate(size)
        data = self._header + lines if self._header_due else lines
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as problem:
            whole = data.rfind(b"\n", 0, written) + 1
            self._whole = size + whole
            with suppress(OSError):
                # If this fails, it is done before the next write.
                self._truncate()
            self._header_due = self._header_due and not whole
            lost = min(data.count(b"\n", whole), lines.count(b"\n"))
            raise NotWritten(problem, lost) from problem
        self._header_due = False

    def _current_size(self) -> int:
        """Return the size of the file. If it was moved or removed, begin a new one; if it was emptied, add a header."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            found = None
        if self._descriptor < 0 or found is None or not os.path.samestat(self._opened_file, found):
            self.close()
            try:
                self._descriptor = self._opened()
            except RecordingError as problem:
                # Only the reason of an OSError: the Recorder adds the path.
                cause = problem.__cause__
                raise OSError(reason_of(cause) if isinstance(cause, OSError) else str(problem)) from problem
            self._opened_file = found = os.fstat(self._descriptor)
            self._header_due = True
            self._whole = None
        size = found.st_size
        if self._whole is not None:
            self._truncate()
            size = os.fstat(self._descriptor).st_size
        if not size:
            self._header_due = True
        return size

    def _truncate(self) -> None:
        """Remove the part of a line that was written before a failure."""
        if self._whole is not None and os.fstat(self._descriptor).st_size > self._whole:
            os.ftruncate(self._descriptor, self._whole)
        self._whole = None

    def _rotate(self, size: int) -> int:
        """Rename the file to `<path>.1`, begin a new one, and return its size.

        If that is not possible, the file grows beyond its limit: that is better than losing lines.
        """
        begun = f"{self.path}.new"
        descriptor = -1
        try:
            with suppress(FileNotFoundError):
                # A crash has left it.
                os.unlink(begun)
            descriptor = os.open(begun, _FLAGS | os.O_EXCL, 0o666)
            self._lock(descriptor)
            os.replace(self.path, f"{self.path}.1")
            os.replace(begun, self.path)
        except OSError as problem:
            if descriptor >= 0:
                os.close(descriptor)
            self.problem = f"{self.path} cannot be rotated and grows: {reason_of(problem)}"
            return size
        self.close()
        self._descriptor = descriptor
        self._opened_file = os.fstat(descriptor)
        self._header_due = True
        self.problem = ""
        return 0


def _object(text: bytes) -> dict[str, object] | None:
    """Return the JSON object that a line consists of; None if it is not one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_object(text: bytes) -> bool:
    return _object(text) is not None
