"""TOML files that people write: reading one, and the question that follows a word which is not known.

Which keys a file may have, and what their values may be, is said where the file is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

__all__ = ["did_you_mean", "read_toml"]


class Readable(Protocol):
    """A path, or a file inside a package."""

    def read_bytes(self) -> bytes:
        """All of it."""


def read_toml(path: Readable | Path, what: str, error: type[Exception]) -> dict[str, Any]:
    """The table at the top of a file, with a byte order mark or without.

    `error`, which begins with `what`, for one that cannot be read or is no TOML.
    """
    import tomllib

    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        raise error(f"{what}: {problem.strerror or problem}") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{what} is no TOML file: {problem}") from None


def did_you_mean(word: str, known: Iterable[str], *, listed: bool = False) -> str:
    """The end of a complaint about a word that is not known: a question, where one that is known is near.

    Where none is: nothing, or, with `listed`, all that are known.
    """
    # Loaded when somebody has mistyped, which is seldom.
    from difflib import get_close_matches

    known = list(known)
    near = get_close_matches(word, known, n=1)
    if near:
        return f": did you mean {near[0]}?"
    return f": known are {', '.join(known)}" if listed and known else ""
