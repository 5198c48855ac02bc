"""The files of a recording: a folder with a header and numbered dumps. RecordingWriter writes them.

dump_reader reads them. output_paths has the path of its FITS file, and fits.convert writes that file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import struct
import zlib
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from discosbackend.errors import reason_of
from discosbackend.simulator.errors import RecordingError
from discosbackend.simulator.instrument.model import Setup
from discosbackend.simulator.signal.sky import Sky
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = [
    "CHECKED_FROM",
    "DIODE",
    "DUMPS",
    "FILE_NAMES",
    "FORMAT",
    "HEADER",
    "MAGIC",
    "RECORD",
    "RecordingWriter",
    "give_name",
    "in_use",
    "is_gone",
    "is_recording",
    "name_of",
    "open_regular",
    "read_json",
    "recordings_in",
    "remove_recording",
]

HEADER = "header.json"
"""The file without which a folder is no recording."""

DUMPS = "dumps"
"""The file of the dumps."""

_NAME = "name.json"

FORMAT = 1
"""The version of the format of the files."""

FILE_NAMES = (HEADER, DUMPS, _NAME)
"""The names of the files of a recording."""

DIODE = 1
"""The flag of a dump during which the noise diode was on."""

# Characters. Those of a recording have some thousands.
_LARGEST_JSON = 2**20

RECORD = struct.Struct("<4sIQII")
"""What precedes the values of a dump: magic, checksum of the rest, number, flags, unused. The values are little-endian
int32."""

CHECKED_FROM = 8
"""Where the part of a dump begins that the checksum covers."""

MAGIC = b"DUMP"
"""The first bytes of every dump."""


class RecordingWriter:
    """Writes a recording: create it with `begin`, call `write` for each dump, then `finish`.

    Raises
    ------
    OSError
        From every method, if the file system reports an error; it names the file.
    """

    def __init__(self, folder: Path, file: int) -> None:
        self.folder = folder
        self._file = file
        self._end = 0

    @classmethod
    def begin(cls, data: Path, setup: Setup, begins: Ticks, sky: Sky, name: str | None = None) -> Self:
        """Create a recording.

        Parameters
        ----------
        data
            The data folder. It is created if it does not exist.
        setup
            The settings of the acquisition.
        begins
            When the acquisition began, on the instrument's clock.
        sky
            The sky at the begin.
        name
            The path that set-filename gave, if any.
        """
        data.mkdir(parents=True, exist_ok=True)
        folder = _new_folder(data, begins, setup.configuration)
        header = {"format": FORMAT, "begins": int(begins), "setup": asdict(setup), "sky": sky.to_dict()}
        with ExitStack() as undo:
            undo.callback(_remove_quietly, folder)
            file = os.open(folder / DUMPS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            undo.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
            if name is not None:
                give_name(folder, name)
            # The header is written last and atomically. Without it a folder is not a recording, so no other program can
            # take this one for a finished recording before its dumps are locked.
            _write_whole(folder / HEADER, json.dumps(header, indent=1))
            undo.pop_all()
        return cls(folder, file)

    def write(self, number: int, flags: int, values: memoryview) -> None:
        """Append a dump. After an OSError the recording ends with the previous dump, and further dumps may be written.

        Parameters
        ----------
        number
            The number of the dump.
        flags
            DIODE or 0.
        values
            The values as bytes: little-endian int32, in the order of Spectra.fill().
        """
        record = bytearray(RECORD.pack(MAGIC, 0, number, flags, 0))
        checksum = zlib.crc32(values, zlib.crc32(memoryview(record)[CHECKED_FROM:]))
        struct.pack_into("<I", record, 4, checksum)
        wanted = len(record) + len(values)
        try:
            # Write at an explicit offset, which overwrites the remains of a dump that did not fit on the disk, even if
            # the truncation below has failed.
            written = os.pwritev(self._file, [record, values], self._end)
            while written < wanted:
                left = values[written - len(record) :] if written >= len(record) else record[written:]
                written += os.pwrite(self._file, left, self._end + written)
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += wanted

    @property
    def size(self) -> int:
        """The size of the dumps that are on disk, in bytes."""
        return self._end

    @property
    def in_place(self) -> bool:
        """Whether the recording is still in its folder: neither removed nor moved. Valid until finish()."""
        try:
            found = os.stat(self.folder / DUMPS)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            # Unknown.
            return True
        return os.path.samestat(found, os.fstat(self._file)) and not is_gone(self.folder)

    def discard(self) -> None:
        """Remove the recording, instead of finish()."""
        _remove_quietly(self.folder)
        os.close(self._file)

    def finish(self) -> None:
        """Synchronise the files to disk, and release the lock on the recording."""
        try:
            os.fdatasync(self._file)
            with open(open_regular(self.folder / HEADER, os.O_RDONLY), "rb") as header:
                os.fsync(header)
        finally:
            os.close(self._file)


def recordings_in(data: Path | str) -> list[Path]:
    """Return the folders of the recordings in a data folder, oldest first; none if the folder does not exist.

    Raises
    ------
    OSError
        The folder cannot be listed. An empty list would say that nothing is left in it.
    """
    try:
        folders = sorted(Path(data).iterdir())
    except FileNotFoundError:
        return []
    return [folder for folder in folders if os.path.lexists(folder / HEADER)]


def is_gone(folder: Path) -> bool:
    """Return whether the folder is no longer a recording, even if files are left in it."""
    try:
        (folder / HEADER).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        # Unknown; reading it will report the reason.
        pass
    return False


def is_recording(folder: Path) -> bool:
    """Return whether the folder is a recording, which a conversion may remove."""
    return all(os.path.lexists(folder / name) for name in (HEADER, DUMPS))


def in_use(folder: Path) -> bool:
    """Return whether a recording is being written, read or converted."""
    try:
        file = open_regular(folder / DUMPS, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def give_name(folder: Path, name: str) -> None:
    """Store the path of set-filename in a recording; it replaces a previous one."""
    _write_whole(folder / _NAME, json.dumps(name))


def name_of(folder: Path) -> str | None:
    """Return the path stored in a recording, None if there is none. Raise RecordingError if it cannot be read."""
    try:
        name = read_json(folder / _NAME)
    except FileNotFoundError:
        return None
    try:
        os.fsencode(name)
    except (TypeError, ValueError):
        raise RecordingError(f"{folder}: {_NAME} is damaged: it has no path") from None
    return str(name)


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file, and return its descriptor.

    Anything else is not opened, and OSError is raised: opening a FIFO might block for ever, and opening a device may
    have an effect.
    """
    # If the file does not exist, os.open() creates it or raises FileNotFoundError.
    with suppress(FileNotFoundError):
        _check_regular(path, os.stat(path, follow_symlinks=not flags & os.O_NOFOLLOW))
    # It may have been replaced meanwhile.
    file = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        _check_regular(path, os.fstat(file))
    except OSError:
        os.close(file)
        raise
    return file


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_json(path: Path) -> Any:
    """Return the contents of a small file. FileNotFoundError if there is none, RecordingError if it cannot be read."""
    try:
        with open(open_regular(path, os.O_RDONLY), encoding="utf-8") as file:
            return json.loads(file.read(_LARGEST_JSON))
    except FileNotFoundError:
        raise
    except OSError as problem:
        reason = reason_of(problem)
        raise RecordingError(f"{path.parent}: {path.name} cannot be read: {reason}") from None
    except (ValueError, RecursionError):
        raise RecordingError(f"{path.parent}: {path.name} cannot be read: it is no JSON") from None


def remove_recording(folder: Path) -> None:
    """Remove the files of a recording, and its folder. Files that another program has put there are kept."""
    # The header first: without it the folder is no recording, even if the rest cannot be removed.
    os.unlink(folder / HEADER)
    for name in (DUMPS, _NAME, _part_of(HEADER), _part_of(_NAME)):
        (folder / name).unlink(missing_ok=True)
    os.rmdir(folder)


def _remove_quietly(folder: Path) -> None:
    """Remove a recording that could not be created, or that has no dumps yet."""
    for name in (*FILE_NAMES, *map(_part_of, FILE_NAMES)):
        with suppress(OSError):
            os.unlink(folder / name)
    with suppress(OSError):
        os.rmdir(folder)


def _part_of(name: str) -> str:
    return f".{name}.part"


def _new_folder(data: Path, begins: Ticks, configuration: str) -> Path:
    instant = datetime.fromtimestamp(begins // TICKS_PER_SECOND, UTC)
    milliseconds = begins % TICKS_PER_SECOND * 1000 // TICKS_PER_SECOND
    stem = f"{instant:%Y%m%d-%H%M%S}.{milliseconds:03d}-{configuration}"
    for number in range(10_000):
        folder = data / (f"{stem}-{number}" if number else stem)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(errno.EEXIST, "too many recordings of the same instant", str(data / stem))


def _write_whole(path: Path, text: str) -> None:
    """Write a small file atomically: it is complete or does not exist, also after a kill.

    It is not synchronised to disk: that would block the reactor for seconds while gigabytes of dumps are written.
    """
    part = path.with_name(_part_of(path.name))
    with open(open_regular(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(part, path)
