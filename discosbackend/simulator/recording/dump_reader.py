"""RecordingReader: reads a recording, also one that a killed server has left.

A server does not read its recordings, so it does not import this module.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from discosbackend.errors import reason_of
from discosbackend.schema import keys, path_of, read
from discosbackend.simulator.errors import RecordingError
from discosbackend.simulator.instrument.model import Setup
from discosbackend.simulator.recording.dump_files import (
    CHECKED_FROM,
    DUMPS,
    FORMAT,
    HEADER,
    MAGIC,
    RECORD,
    name_of,
    open_regular,
    read_json,
    remove_recording,
)
from discosbackend.simulator.signal.sky import Source
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["Dump", "RecordingReader"]

logger = logging.getLogger(__name__)

# Bytes. After reading this many, the mapped pages are released; else a recording of gigabytes would count as memory of
# this process.
_RELEASE_EVERY = 16 * 2**20

# The largest values of a header: the last instant of year 9999, and numbers far above those of all instruments.
_LATEST = 253_402_300_799 * TICKS_PER_SECOND
_MOST_FEEDS = 1000
_MOST_BINS = 2**28
_LONGEST_INTEGRATION = 10**9


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
            header = read_json(self.folder / HEADER)
        except FileNotFoundError:
            raise RecordingError(f"{folder} is no recording: it has no {HEADER}") from None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise RecordingError(f"{folder}: {HEADER} is not of format {FORMAT}")
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
            self._size = RECORD.size + 4 * self.setup.values
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
            self._file = open_regular(self.folder / DUMPS, os.O_RDONLY)
        except OSError as problem:
            raise RecordingError(f"{self.folder}: {DUMPS} cannot be read: {reason_of(problem)}") from None
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
            magic, checksum, number, flags, _ = RECORD.unpack_from(self._view, place)
            self._release(place)
            with self._view[place + CHECKED_FROM : place + self._size] as checked:
                sound = magic == MAGIC and zlib.crc32(checked) == checksum
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
        return self._view[place + RECORD.size : place + self._size]

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
        remove_recording(self.folder)


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
