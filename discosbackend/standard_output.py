"""Writes to standard output: the announcements of a server, and the results of other programs.

A server must not stop if the reader of its standard output has stopped. A program whose standard output cannot be
written must not end in a traceback.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import TextIO

from discosbackend.log import printable

__all__ = ["announce", "discard_output", "escape_output", "write_result"]

logger = logging.getLogger(__name__)

_lock = threading.Lock()
# The lines that the thread will write, each with its stream. The thread runs while there are any.
_waiting: deque[tuple[str, TextIO]] = deque()
# After a fork, the thread and its lines belong to the parent process.
os.register_at_fork(after_in_child=_waiting.clear)


def announce(line: str) -> None:
    """Write a line to standard output without waiting.

    If standard output is a full pipe or a stopped terminal, another thread writes the line when the reader continues.
    If the line cannot be written, a warning is logged.

    Parameters
    ----------
    line
        The line, without its end. Characters that are not printable are escaped.
    """
    stream = sys.stdout
    if stream is None:
        # The program was started without standard output.
        return
    with _lock:
        if not _waiting and _can_take(stream, 0):
            _write(printable(line), stream)
            return
        _waiting.append((printable(line), stream))
        if len(_waiting) == 1:
            logger.warning("standard output takes no data: %r is written when its reader continues", line)
            threading.Thread(target=_write_later, name="discos-standard-output", daemon=True).start()


def _can_take(stream: TextIO, seconds: float | None) -> bool:
    """Wait until a stream can be written or has failed. Return False if neither happens in time."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError, ValueError):
        # Not a file: a test has replaced the stream. Or it is closed, and writing fails at once.
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _write(line: str, stream: TextIO) -> None:
    try:
        print(line, file=stream, flush=True)
    except (OSError, ValueError) as problem:
        # The server works without this line.
        logger.warning("cannot write %r to standard output: %r", line, problem)


def _write_later() -> None:
    while True:
        line, stream = _waiting[0]
        _can_take(stream, None)
        with _lock:
            _write(line, stream)
            _waiting.popleft()
            if not _waiting:
                return


def write_result(text: str) -> None:
    """Write a text to standard output and flush it.

    A closed pipe is not an error.

    Parameters
    ----------
    text
        The text, with its line ends.

    Raises
    ------
    OSError
        If the text cannot be written, for example to a full disk. Later calls then write nothing and do not fail.
    """
    try:
        print(text, end="", flush=True)
    except OSError as problem:
        discard_output(sys.stdout)
        if not isinstance(problem, BrokenPipeError):
            raise


def discard_output(stream: TextIO) -> None:
    """Discard what is left in the buffer of a stream that cannot be written, and all that is written to it later.

    Otherwise the buffer would cause a second error when the interpreter exits.
    """
    with suppress(OSError, ValueError):
        descriptor = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


def escape_output() -> None:
    """Make standard output and standard error escape the characters that their encodings lack."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
