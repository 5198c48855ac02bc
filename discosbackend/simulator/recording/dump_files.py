"""The files of a recording: a folder with a header and numbered dumps.

output_paths has the path of its FITS file, and fits.convert writes that file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from discosbackend.errors import reason_of
from discosbackend.schema import keys, path_of, read
from discosbackend.simulator.errors import RecordingError
from discosbackend.simulator.instrument.model import Setup
from discosbackend.simulator.signal.sky import Sky, Source
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = [
    "DIODE",
    "FILE_NAMES",
    "HEADER",
    "Dump",
    "RecordingReader",
    "RecordingWriter",
    "give_name",
    "in_use",
    "is_gone",
    "is_recording",
    "name_of",
    "open_regular",
    "recordings_in",
]

logger = logging.getLogger(__name__)

# Bytes. After reading this many, the mapped pages are released; else a recording of gigabytes would count as memory of
# this process.
_RELEASE_EVERY = 16 * 2**20

HEADER = "header.json"
"""The file without which a folder is no recording."""

# The other files of a recording, and the version of their format.
_DUMPS, _NAME = "dumps", "name.json"
_FORMAT = 1

FILE_NAMES = (HEADER, _DUMPS, _NAME)
"""The names of the files of a recording."""

DIODE = 1
"""The flag of a dump during which the noise diode was on."""

# Characters. Those of a recording have some thousands.
_LARGEST_JSON = 2**20

# The largest values of a header: the last instant of year 9999, and numbers far above those of all instruments.
_LATEST = 253_402_300_799 * TICKS_PER_SECOND
_MOST_FEEDS = 1000
_MOST_BINS = 2**28
_LONGEST_INTEGRATION = 10**9

# Magic, checksum of the rest of the record, number, flags, unused. The values follow as little-endian int32.
_RECORD = struct.Struct("<4sIQII")
_CHECKED_FROM = 8
_MAGIC = b"DUMP"


@dataclass(frozen=True, slots=True)
class _Sky:
    """The keys that Sky.to_dict() returns."""

    sources: Mapping[str, Source]
    diode: bool
    interleave: int
    tsys: Mapping[str, float]
    mark: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Header:
    """The keys of the header."""

    format: int
    begins: int
    setup: Setup
    sky: _Sky


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
            undo.callback(_remove_quietly, folder)
            file = os.open(folder / _DUMPS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
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

    @property
    def size(self) -> int:
        """The size of the dumps that are on disk, in bytes."""
        return self._end

    @property
    def in_place(self) -> bool:
        """Whether the recording is still in its folder: neither removed nor moved. Valid until finish()."""
        try:
            found = os.stat(self.folder / _DUMPS)
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
            header = _read_json(self.folder / HEADER)
        except FileNotFoundError:
            raise RecordingError(f"{folder} is no recording: it has no {HEADER}") from None
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise RecordingError(f"{folder}: {HEADER} is not of format {_FORMAT}")
        try:
            # Without the ranges, which are those of instrument profiles: a program may have made another instrument.
            found = read(_Header, header, "", ValueError, ranges=False)
            self.begins = Ticks(found.begins)
            if not 0 <= self.begins <= _LATEST:
                raise ValueError("begins is out of range")
            self.setup = found.setup
            _check_setup(self.setup)
            self.sky: Mapping[str, Any] = header["sky"]
            for name, source in self.sky["sources"].items():
                if missing := keys(Source).keys() - source.keys():
                    raise ValueError(f"{path_of('sky.sources', name)} has no {min(missing)}")
            self._size = _RECORD.size + 4 * self.setup.values
        except ValueError as problem:
            raise RecordingError(f"{folder}: {HEADER} is damaged: {problem}") from None
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
            self._file = open_regular(self.folder / _DUMPS, os.O_RDONLY)
        except OSError as problem:
            raise RecordingError(f"{self.folder}: {_DUMPS} cannot be read: {reason_of(problem)}") from None
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
        """Remove the recording from disk. Raise OSError (ENOTEMPTY) if its folder has other files, which are kept."""
        _remove(self.folder)


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
    return all(os.path.lexists(folder / name) for name in (HEADER, _DUMPS))


def in_use(folder: Path) -> bool:
    """Return whether a recording is being written, read or converted."""
    try:
        file = open_regular(folder / _DUMPS, os.O_RDONLY)
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
        name = _read_json(folder / _NAME)
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


def _read_json(path: Path) -> Any:
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


def _remove(folder: Path) -> None:
    """Remove the files of a recording, and its folder. Files that another program has put there are kept."""
    # The header first: without it the folder is no recording, even if the rest cannot be removed.
    os.unlink(folder / HEADER)
    for name in (_DUMPS, _NAME, _part_of(HEADER), _part_of(_NAME)):
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


def _check_setup(setup: Setup) -> None:
    """Check that a setup from a header can be one. ValueError if not."""
    if not 0 < setup.integration < _LONGEST_INTEGRATION:
        raise ValueError("setup.integration is out of range")
    if not setup.channels:
        raise ValueError("setup.channels is empty")
    for number, channel in enumerate(setup.channels):
        name = f"setup.channels[{number}]"
        if not 0 < channel.bins <= _MOST_BINS or not 0 <= channel.feed < _MOST_FEEDS:
            raise ValueError(f"bins or feed of {name} is out of range")
        if channel.polarisations not in (("L",), ("R",), ("L", "R")):
            raise ValueError(f"{name}.polarisations are none")
        if max(channel.inputs) >= min(len(setup.tsys), len(setup.marks)):
            raise ValueError(f"setup.tsys or setup.marks has no value for {name}")
