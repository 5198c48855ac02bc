"""Goals: where the file of a recording belongs, by the path that set-filename gave.

Nothing is written here; that is convert's business.
"""

from __future__ import annotations

import posixpath
from pathlib import Path

from discosbackend.errors import RecordingError

__all__ = ["checked_name", "exists", "goal_of", "path_of"]

# The folder of DISCOS's metadata files, beside which the merged ones are.
_TEMPORARY = "tmp"


def goal_of(name: str | None, folder: Path, root: Path | None = None) -> Path:
    """Where the file of a recording belongs; `name` is the path that set-filename gave, None or "" for none.

    One folder up for a path in a folder `tmp`, but for /tmp; else the path itself, or, where the telescope's
    metadata file is, beside it as NAME_merged. A relative path is below the data folder, an absolute one
    below `root` where one is given, and no `..` leads out of either. RecordingError for a path without a
    file's name.
    """
    if not name:
        return folder.absolute().parent / f"{folder.absolute().name}.fits"
    path = path_of(name, folder, root)
    # Of the host's own /tmp, one folder up is where nobody wants files.
    if path.parent.name == _TEMPORARY and path.parent.parent.name:
        return path.parent.parent / path.name
    return path.with_name(f"{path.stem}_merged{path.suffix}") if exists(path) else path


def checked_name(name: str) -> str:
    """The path that set-filename gave. RecordingError for one without a file's name."""
    if "\0" in name or posixpath.basename(name) in ("", ".", ".."):
        raise RecordingError(f"path has no name of a file: {name!a}")
    return name


def path_of(name: str, folder: Path, root: Path | None) -> Path:
    """The path that set-filename means. RecordingError for one without a file's name."""
    checked_name(name)
    if name.startswith("/"):
        if root is None:
            return Path(name)
        below = root.absolute()
    else:
        below = folder.absolute().parent
    # Made normal as from the root, above which there is nothing.
    return below / posixpath.normpath(f"/{name}").lstrip("/")


def exists(path: Path) -> bool:
    """Whether anything is there. RecordingError when nobody can tell."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as problem:
        reason = (problem.strerror or type(problem).__name__).lower()
        raise RecordingError(f"metadata file cannot be read: {reason}: {str(path)!a}") from None
    return True
