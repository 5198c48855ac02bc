"""The files of a recording: a folder with a header and numbered dumps; and the path of its FITS file.

fits.convert writes the FITS file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import mmap
import os
import posixpath
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from discosbackend.simulator.errors import RecordingError
from discosbackend.simulator.instrument.model import Channel, Comb, Receiver, Response, Setup
from discosbackend.simulator.signal.sky import Sky
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = [
    "DIODE",
    "Dump",
    "RecordingReader",
    "RecordingWriter",
    "checked_name",
    "exists",
    "give_name",
    "in_use",
    "is_gone",
    "metadata_path",
    "name_of",
    "output_path",
    "recordings_in",
]

logger = logging.getLogger(__name__)

# Bytes. After reading this many, the mapped pages are released; else a recording of gigabytes would count as memory of
# this process.
_RELEASE_EVERY = 16 * 2**20

# The files of a recording, and the version of their format.
_HEADER, _DUMPS, _NAME = "header.json", "dumps", "name.json"
_FORMAT = 1

DIODE = 1
"""The flag of a dump during which the noise diode was on."""

# Magic, checksum of the rest of the record, number, flags, unused. The values follow as little-endian int32.
_RECORD = struct.Struct("<4sIQII")
_CHECKED_FROM = 8
_MAGIC = b"DUMP"


class Dump(NamedTuple):
    """A complete dump of a recording: its number from 0, its flags, and its offset in the file in bytes."""

    number: int
    flags: int
    place: int


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
        header = {"format": _FORMAT, "begins": int(begins), "setup": asdict(setup), "sky": sky.to_dict()}
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            file = os.open(folder / _DUMPS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            undo.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
            if name is not None:
                give_name(folder, name)
            # The header is written last and atomically. Without it a folder is not a recording, so no other program can
            # take this one for a finished recording before its dumps are locked.
            _write_whole(folder / _HEADER, json.dumps(header, indent=1))
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
        record = bytearray(_RECORD.pack(_MAGIC, 0, number, flags, 0))
        checksum = zlib.crc32(values, zlib.crc32(memoryview(record)[_CHECKED_FROM:]))
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

    def finish(self) -> None:
        """Synchronise the files to disk, and release the lock on the recording."""
        try:
            os.fdatasync(self._file)
            header = os.open(self.folder / _HEADER, os.O_RDONLY)
            try:
                os.fsync(header)
            finally:
                os.close(header)
        finally:
            os.close(self._file)


class RecordingReader:
    """Reads a recording: `with RecordingReader(folder) as recorded: ...` locks it and finds its dumps.

    Parameters
    ----------
    folder
        The folder of the recording.
    hold
        Whether to lock the recording. Without the lock other programs may write, convert and remove it meanwhile.

    Raises
    ------
    RecordingError
        If the folder is no recording, if its header is damaged, or, on entering, if it is being written or converted.

    Attributes
    ----------
    begins : Ticks
        When the acquisition began, on the instrument's clock.
    setup : Setup
        The settings of the acquisition.
    sky : Mapping
        The sky at the begin, as Sky.to_dict() returns it.
    """

    def __init__(self, folder: Path | str, *, hold: bool = True) -> None:
        self.folder = Path(folder)
        self._hold = hold
        try:
            header = json.loads((self.folder / _HEADER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RecordingError(f"{folder} is no recording: it has no {_HEADER}") from None
        except (OSError, ValueError) as problem:
            raise RecordingError(f"{folder}: {_HEADER} cannot be read: {problem}") from None
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise RecordingError(f"{folder}: {_HEADER} is not of format {_FORMAT}")
        try:
            self.begins = Ticks(header["begins"])
            self.setup = _setup_of(header["setup"])
            self.sky: Mapping[str, Any] = header["sky"]
            self._size = _RECORD.size + 4 * self.setup.values
            if not (self.setup.integration > 0 and all(channel.bins > 0 for channel in self.setup.channels)):
                raise ValueError("integration and bins must be above 0")
        except (KeyError, TypeError, ValueError) as problem:
            raise RecordingError(f"{folder}: {_HEADER} is damaged: {problem!r}") from None
        self._file: int | None = None
        self._map: mmap.mmap | None = None
        self._view: memoryview | None = None
        self._kept_from = 0
        self.dumps: list[Dump] = []
        """The complete dumps in order; empty until the recording is entered."""

    @property
    def name(self) -> str | None:
        """The path that set-filename gave, None if there is none."""
        return name_of(self.folder)

    @property
    def empty(self) -> bool:
        """Whether the file of dumps has no bytes, so that removing it loses nothing. Valid once entered."""
        return self._view is None

    def __enter__(self) -> Self:
        try:
            self._file = os.open(self.folder / _DUMPS, os.O_RDONLY)
        except OSError as problem:
            raise RecordingError(f"{self.folder}: {_DUMPS} cannot be read: {problem.strerror}") from None
        try:
            try:
                if self._hold:
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RecordingError(f"{self.folder} is in use: being recorded or converted") from None
            if os.fstat(self._file).st_size > 0:
                self._map = mmap.mmap(self._file, 0, prot=mmap.PROT_READ)
                self._view = memoryview(self._map)
                self.dumps = list(self._find())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._view is not None:
            self._view.release()
            self._view = None
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _find(self) -> Iterator[Dump]:
        """Yield the complete dumps; skip damaged ones and log them."""
        assert self._view is not None
        size = len(self._view)
        for place in range(0, size - self._size + 1, self._size):
            magic, checksum, number, flags, _ = _RECORD.unpack_from(self._view, place)
            self._release(place)
            with self._view[place + _CHECKED_FROM : place + self._size] as checked:
                sound = magic == _MAGIC and zlib.crc32(checked) == checksum
            if sound:
                yield Dump(number, flags, place)
            else:
                logger.warning("%s: the dump at byte %d is damaged and is skipped", self.folder, place)
        if torn := size % self._size:
            logger.warning("%s: the last dump is incomplete, its %d bytes are skipped", self.folder, torn)

    def values(self, place: int) -> memoryview:
        """Return the values of a dump.

        Parameters
        ----------
        place
            The offset of the dump in bytes: Dump.place.

        Returns
        -------
        memoryview
            The values as bytes: little-endian int32. Release it after use.
        """
        assert self._view is not None
        self._release(place)
        return self._view[place + _RECORD.size : place + self._size]

    def _release(self, place: int) -> None:
        """Release the mapped pages before an offset. They can be read again."""
        if place < self._kept_from:
            self._kept_from = 0
        if place - self._kept_from >= _RELEASE_EVERY:
            assert self._map is not None
            end = place // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, self._kept_from, end - self._kept_from)
            self._kept_from = end

    def middle(self, number: int) -> int:
        """Return the middle of a dump in 100 ns: the timestamp of its row, as in the rows of DISCOS."""
        period = self.setup.dump_length
        return self.begins + number * period + period // 2

    def remove(self) -> None:
        """Remove the recording from disk."""
        # The header first: without it the folder is no recording, even if the rest cannot be removed.
        (self.folder / _HEADER).unlink()
        shutil.rmtree(self.folder)


def recordings_in(data: Path | str) -> list[Path]:
    """Return the folders of the recordings in a data folder, oldest first; none if the folder does not exist."""
    try:
        return sorted(folder.parent for folder in Path(data).glob(f"*/{_HEADER}"))
    except OSError:
        return []


def is_gone(folder: Path) -> bool:
    """Return whether the folder is no longer a recording, even if files are left in it."""
    try:
        (folder / _HEADER).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        # Unknown; reading it will report the reason.
        pass
    return False


def in_use(folder: Path) -> bool:
    """Return whether a recording is being written, read or converted."""
    try:
        file = os.open(folder / _DUMPS, os.O_RDONLY)
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
        name = json.loads((folder / _NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise RecordingError(f"{folder}: {_NAME} cannot be read: {problem}") from None
    return str(name)


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
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(part, path)


def _setup_of(values: dict[str, Any]) -> Setup:
    receiver, response = dict(values["receiver"]), dict(values["response"])
    receiver["interference"] = tuple(Comb(**comb) for comb in receiver["interference"])
    receiver["offsets"] = tuple(map(tuple, receiver["offsets"]))
    for key in ("tsys", "mark"):
        receiver[key] = tuple(receiver[key])
    channels = (
        Channel(**{**channel, "polarisations": tuple(channel["polarisations"])}) for channel in values["channels"]
    )
    return Setup(
        **{
            **values,
            "receiver": Receiver(**receiver),
            "response": Response(**response),
            "channels": tuple(channels),
            "tsys": tuple(values["tsys"]),
            "marks": tuple(values["marks"]),
        }
    )


# The name of DISCOS's folder of metadata files. The merged files are written to its parent.
_TEMPORARY = "tmp"


def output_path(name: str | None, folder: Path, root: Path | None = None) -> Path:
    """Return the path of the FITS file of a recording.

    If the path of set-filename is in a folder `tmp` other than /tmp, the file is written to the parent of that folder.
    Else it is written to the path itself, or, if the telescope's metadata file is there, beside it as NAME_merged.

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
        If the path has no file name, or if it cannot be read whether a file is there.
    """
    if not name:
        return folder.absolute().parent / f"{folder.absolute().name}.fits"
    path = metadata_path(name, folder, root)
    # The parent of the host's /tmp is no place for files.
    if path.parent.name == _TEMPORARY and path.parent.parent.name:
        return path.parent.parent / path.name
    return path.with_name(f"{path.stem}_merged{path.suffix}") if exists(path) else path


def checked_name(name: str) -> str:
    """Return the path of set-filename. Raise RecordingError if it has no file name."""
    if "\0" in name or posixpath.basename(name) in ("", ".", ".."):
        raise RecordingError(f"path has no name of a file: {name!a}")
    return name


def metadata_path(name: str, folder: Path, root: Path | None) -> Path:
    """Return the path of the telescope's metadata file; the parameters are those of output_path().

    Raises
    ------
    RecordingError
        If the path has no file name.
    """
    checked_name(name)
    if name.startswith("/"):
        if root is None:
            return Path(name)
        below = root.absolute()
    else:
        below = folder.absolute().parent
    # Normalise it as an absolute path, so that `..` cannot leave the root.
    return below / posixpath.normpath(f"/{name}").lstrip("/")


def exists(path: Path) -> bool:
    """Return whether the path exists. Raise RecordingError if that cannot be determined."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as problem:
        reason = (problem.strerror or type(problem).__name__).lower()
        raise RecordingError(f"metadata file cannot be read: {reason}: {str(path)!a}") from None
    return True
