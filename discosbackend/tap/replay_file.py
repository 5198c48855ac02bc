"""Reads a file that can be replayed: a recording or a session file."""

from __future__ import annotations

import sys
from pathlib import Path

from discosbackend.errors import reason_of
from discosbackend.tap.compare import Comparison
from discosbackend.tap.recording_steps import recording_steps
from discosbackend.tap.session_steps import session_steps
from discosbackend.tap.steps import ReplayError, Script

__all__ = ["STANDARD_INPUT", "read_script"]

STANDARD_INPUT = "-"
"""In place of a path: standard input."""

# The first character of each line of a session file that is not empty.
_OF_SESSIONS = (b"#", b"@", b"?")


def read_script(path: str, comparison: Comparison) -> Script:
    """Return the steps of a file.

    Parameters
    ----------
    path
        The path of a recording or a session file, or STANDARD_INPUT.
    comparison
        How replies are compared with recorded ones.

    Raises
    ------
    ReplayError
        If the file cannot be read, or is neither. The text is one sentence, and names the file.
    """
    name = "standard input" if path == STANDARD_INPUT else path
    try:
        lines = _lines(path)
    except OSError as problem:
        raise ReplayError(f"{name} cannot be read: {reason_of(problem)}") from None
    first = next((line for line in lines if line.strip()), b"")
    try:
        if first.startswith(b"{"):
            return recording_steps(lines, comparison)
        if first.startswith(_OF_SESSIONS):
            return session_steps(line.decode("latin-1") for line in lines)
    except ReplayError as problem:
        raise ReplayError(f"{name}: {problem}") from None
    if not first:
        raise ReplayError(f"{name} is empty")
    raise ReplayError(f"{name} is neither a recording nor a session file: it begins with {first[:40]!r}")


def _lines(path: str) -> list[bytes]:
    if path == STANDARD_INPUT:
        return sys.stdin.buffer.readlines()
    # An object that is not a regular file, such as a FIFO, is read as well.
    with Path(path).open("rb") as file:
        return file.readlines()
