"""The files of a recording: a folder with a header and numbered dumps, and the path of the FITS file made of it.

How a FITS file is written is in fits.convert.
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

# After so many bytes read, those before are let go: else a recording of gigabytes counts as memory of ours.
_RELEASE_EVERY = 16 * 2**20

# What a folder needs to count as a recording, and the version of all this.
_HEADER, _DUMPS, _NAME = "header.json", "dumps", "name.json"
_FORMAT = 1

DIODE = 1
"""The flag of a dump during which the noise diode was on."""

# magic, checksum of what follows, number, flags, unused; the values are little-endian int32.
_RECORD = struct.Struct("<4sIQII")
_CHECKED_FROM = 8
_MAGIC = b"DUMP"


class Dump(NamedTuple):
    """One whole dump of a recording: its number from 0, its flags, and at which byte it begins."""

    number: int
    flags: int
    place: int


class RecordingWriter:
    """A recording that is being written: made by `begin`, one `write` a dump, `finish` at the end.

    OSError, with the file that it is about, for whatever the disk refuses.
    """

    def __init__(self, folder: Path, file: int) -> None:
        self.folder = folder
        self._file = file
        self._end = 0

    @classmethod
    def begin(cls, data: Path, setup: Setup, begins: Ticks, sky: Sky, name: str | None = None) -> Self:
        """A new recording in the data folder, which is made where it is missing; `name` as for give_name()."""
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
            # The header appears whole or not at all: without it a folder is no recording. It comes last, so that
            # nobody takes this one, which has no dumps yet, for one that is over.
            _write_whole(folder / _HEADER, json.dumps(header, indent=1))
            undo.pop_all()
        return cls(folder, file)

    def write(self, number: int, flags: int, values: memoryview) -> None:
        """Append a dump; after an OSError the recording ends with the dump before, and may be written on."""
        record = bytearray(_RECORD.pack(_MAGIC, 0, number, flags, 0))
        checksum = zlib.crc32(values, zlib.crc32(memoryview(record)[_CHECKED_FROM:]))
        struct.pack_into("<I", record, 4, checksum)
        wanted = len(record) + len(values)
        try:
            # At a place of its own: what a dump has left that did not fit is written over, come what may.
            written = os.pwritev(self._file, [record, values], self._end)
            while written < wanted:
                left = values[written - len(record) :] if written >= len(record) else record[written:]
                written += os.pwrite(self._file, left, self._end + written)
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += wanted

    def finish(self) -> None:
        """Have all of it reach the disk, and let others have the recording."""
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
    """A recording that is read: `with Recorded(folder) as recorded: ...` holds it against others meanwhile.

    RecordingError, with what is wrong, for a folder that is none, or is being written or converted. Who only
    looks does not `hold` it: others may write, convert and remove it meanwhile.
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
        """The whole dumps, in order; empty until the recording has been entered."""

    @property
    def name(self) -> str | None:
        """The path that set-filename gave it, None while there is none."""
        return name_of(self.folder)

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it, so that nothing is lost with it; once entered."""
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
        """The whole dumps; anything else is left out, and said."""
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
                logger.warning("%s: the dump at byte %d is damaged, it is left out", self.folder, place)
        if torn := size % self._size:
            logger.warning("%s: the last dump was cut off, its %d bytes are left out", self.folder, torn)

    def values(self, place: int) -> memoryview:
        """The values of the whole dump that begins at that byte, little-endian int32; to be released after use."""
        assert self._view is not None
        self._release(place)
        return self._view[place + _RECORD.size : place + self._size]

    def _release(self, place: int) -> None:
        """Have the pages before a place not count as ours; they can be read again all the same."""
        if place < self._kept_from:
            self._kept_from = 0
        if place - self._kept_from >= _RELEASE_EVERY:
            assert self._map is not None
            end = place // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, self._kept_from, end - self._kept_from)
            self._kept_from = end

    def middle(self, number: int) -> int:
        """Ticks of the middle of a dump: a dump is stamped there, as DISCOS stamps its own rows."""
        period = self.setup.dump_length
        return self.begins + number * period + period // 2

    def remove(self) -> None:
        """The recording is no longer needed."""
        # Without its header it is no recording any more, whatever else cannot be removed.
        (self.folder / _HEADER).unlink()
        shutil.rmtree(self.folder)


def recordings_in(data: Path | str) -> list[Path]:
    """The folders of the recordings in a data folder, oldest first; none where there is no such folder."""
    try:
        return sorted(folder.parent for folder in Path(data).glob(f"*/{_HEADER}"))
    except OSError:
        return []


def is_gone(folder: Path) -> bool:
    """Whether there is no recording in that folder any more, whatever else may be left of it."""
    try:
        (folder / _HEADER).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        # Nobody can tell: who reads it will say why not.
        pass
    return False


def in_use(folder: Path) -> bool:
    """Whether a recording is being recorded, read or converted at this moment."""
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
    """Note the path that the telescope wants a recording merged with; another one replaces it."""
    _write_whole(folder / _NAME, json.dumps(name))


def name_of(folder: Path) -> str | None:
    """The path that was noted for a recording, None where there is none."""
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
    """Write a small file so that a reader, or a kill, finds it whole or not at all.

    Not synchronised: this happens in the reactor's thread, and behind gigabytes of dumps that would take seconds.
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


# The folder of DISCOS's metadata files, beside which the merged ones are.
_TEMPORARY = "tmp"


def output_path(name: str | None, folder: Path, root: Path | None = None) -> Path:
    """Where the file of a recording belongs; `name` is the path that set-filename gave, None or "" for none.

    One folder up for a path in a folder `tmp`, but for /tmp; else the path itself, or, where the telescope's
    metadata file is, beside it as NAME_merged. A relative path is below the data folder, an absolute one
    below `root` where one is given, and no `..` leads out of either. RecordingError for a path without a
    file's name.
    """
    if not name:
        return folder.absolute().parent / f"{folder.absolute().name}.fits"
    path = metadata_path(name, folder, root)
    # Of the host's own /tmp, one folder up is where nobody wants files.
    if path.parent.name == _TEMPORARY and path.parent.parent.name:
        return path.parent.parent / path.name
    return path.with_name(f"{path.stem}_merged{path.suffix}") if exists(path) else path


def checked_name(name: str) -> str:
    """The path that set-filename gave. RecordingError for one without a file's name."""
    if "\0" in name or posixpath.basename(name) in ("", ".", ".."):
        raise RecordingError(f"path has no name of a file: {name!a}")
    return name


def metadata_path(name: str, folder: Path, root: Path | None) -> Path:
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
