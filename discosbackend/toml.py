"""Reading of TOML files, and the suggestion `did you mean ...?` for an unknown word.

The modules that use a file check its keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from discosbackend.errors import reason_of

__all__ = ["did_you_mean", "read_toml"]


class Readable(Protocol):
    """A path, or a file in a package."""

    def read_bytes(self) -> bytes:
        """Return the content of the file."""


def read_toml(path: Readable | Path, what: str, error: type[Exception]) -> dict[str, Any]:
    """Read a TOML file. It may begin with a byte order mark.

    Parameters
    ----------
    path
        The file.
    what
        The beginning of the text of the exception, such as "instrument profile mine.toml".
    error
        The class of the exception.

    Raises
    ------
    error
        If the file cannot be read or is not a TOML file.
    """
    import tomllib

    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        raise error(f"{what}: {reason_of(problem)}") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{what} is no TOML file: {problem}") from None


def did_you_mean(word: str, known: Iterable[str], *, listed: bool = False) -> str:
    """Return the end of an error message about an unknown word.

    If a known word is similar, the result is `: did you mean ...?`. Otherwise it is "", or, with `listed`, the list of
    the known words.
    """
    # Imported here, because it is only needed after a typing error.
    from difflib import get_close_matches

    known = list(known)
    near = get_close_matches(word, known, n=1)
    if near:
        return f": did you mean {near[0]}?"
    return f": known are {', '.join(known)}" if listed and known else ""
