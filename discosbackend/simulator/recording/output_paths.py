"""The paths of set-filename: where the telescope's metadata file is, and where the FITS file of a recording is written.

dump_files has the files of a recording; fits.convert reads the metadata file and writes the FITS file.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path

from discosbackend.simulator.errors import RecordingError, lower_reason
from discosbackend.simulator.recording.dump_files import FILE_NAMES, HEADER, is_recording

__all__ = [
    "PART",
    "check_output",
    "checked_name",
    "exists",
    "is_in_temporary_folder",
    "metadata_path",
    "output_path",
    "telescope_file",
]

PART = ".discos-part"
"""The end of the name of the temporary file of a conversion, which begins with a dot. The file may be overwritten."""

# The name of DISCOS's folder of metadata files. The merged files are written to its parent.
_TEMPORARY = "tmp"


def output_path(name: str | None, folder: Path, root: Path | None = None) -> Path:
    """Return the path of the FITS file of a recording.

    If the path of set-filename is in a folder `tmp` other than /tmp, the file is written to the parent of that folder.
    Otherwise, if the telescope's metadata file exists at the path, the file is written beside it as NAME_merged. If
    there is no metadata file, the file is written to the path itself.

    Parameters
    ----------
    name
        The path that set-filename gave, None or "" if there is none. A relative path is below the data folder, an
        absolute one below `root`. `..` is resolved first and cannot leave these folders.
    folder
        The folder of the recording.
    root
        The folder that stands for `/`. Default: an absolute path is used as it is.

    Raises
    ------
    RecordingError
        If the path has no file name, or the name of a recording's own file; if it leaves the data folder or `root`
        through a symbolic link; or if it cannot be determined whether a file exists there.
    """
    if not name:
        return folder.absolute().parent / f"{folder.absolute().name}.fits"
    path = metadata_path(name, folder, root)
    if is_in_temporary_folder(path):
        path = path.parent.parent / path.name
    elif exists(path):
        path = path.with_name(f"{path.stem}_merged{path.suffix}")
    # Only the folder is checked. A link at the path itself is not followed: an existing file is not overwritten.
    _check_below(_below(name, folder, root), path.parent)
    return path


def is_in_temporary_folder(path: Path) -> bool:
    """Return whether a path of set-filename is in DISCOS's folder of metadata files."""
    # /tmp is excluded: its parent is the root of the file system, where no FITS file belongs.
    return path.parent.name == _TEMPORARY and bool(path.parent.parent.name)


def check_output(output: Path) -> None:
    """Check that this absolute path is not in the folder of a recording, and not named as a file of a recording.

    Symbolic links in its folder are resolved. A link at the path itself is not, because it is not followed in writing.

    Raises
    ------
    RecordingError
        If the path is in the folder of a recording, or has the name of a file of a recording.
    """
    checked_name(str(output))
    folder = _real(output.parent)
    if any(map(is_recording, (folder, *folder.parents))):
        raise RecordingError(f"path is in the folder of a recording: {str(output)!a}")


def checked_name(name: str) -> str:
    """Return the path.

    Raise RecordingError if it has no file name, or that of a recording's own file or of a conversion's temporary file.
    """
    last = posixpath.basename(name)
    folders = posixpath.dirname(name).split("/")
    if "\0" in name or last in ("", ".", ".."):
        raise RecordingError(f"path has no name of a file: {name!a}")
    # A folder of the header's name would make the one above it look like a recording.
    if last in FILE_NAMES or HEADER in folders:
        raise RecordingError(f"path has the name of a file of a recording: {name!a}")
    if last.startswith(".") and last.endswith(PART):
        raise RecordingError(f"path has the name of a temporary file of a conversion: {name!a}")
    return name


def metadata_path(name: str, folder: Path, root: Path | None) -> Path:
    """Return the path of the telescope's metadata file; the parameters are those of output_path().

    Raises
    ------
    RecordingError
        If the path has no file name, or the name of a recording's own file.
    """
    checked_name(name)
    below = _below(name, folder, root)
    # Normalise it as an absolute path, so that `..` cannot leave the root.
    return Path(name) if below is None else below / posixpath.normpath(f"/{name}").lstrip("/")


def telescope_file(name: str, folder: Path, root: Path | None) -> Path | None:
    """Return the path of the telescope's metadata file, or None if no file is there.

    Parameters and exceptions are those of output_path().
    """
    path = metadata_path(name, folder, root)
    if not exists(path):
        return None
    _check_below(_below(name, folder, root), path)
    return path


def _below(name: str, folder: Path, root: Path | None) -> Path | None:
    """Return the folder that a path of set-filename cannot leave, None if there is none."""
    if name.startswith("/"):
        return None if root is None else root.absolute()
    return folder.absolute().parent


def _check_below(below: Path | None, path: Path) -> None:
    """Raise RecordingError if the path leaves the folder `below` through a symbolic link."""
    if below is not None and not _real(path).is_relative_to(_real(below)):
        raise RecordingError(f"path leaves {str(below)!a} by a symbolic link: {str(path)!a}")


def _real(path: Path) -> Path:
    """Return the path without symbolic links. Raise RecordingError if that cannot be determined."""
    try:
        return Path(os.path.realpath(path))
    except OSError as problem:
        # A link was removed or replaced after it was found.
        raise RecordingError(f"path cannot be resolved: {lower_reason(problem)}: {str(path)!a}") from None


def exists(path: Path) -> bool:
    """Return whether the path exists. Raise RecordingError if that cannot be determined."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as problem:
        raise RecordingError(f"metadata file cannot be read: {lower_reason(problem)}: {str(path)!a}") from None
    return True
