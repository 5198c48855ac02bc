"""The layout of the FITS file of a recording, and the writing of its rows.

This module makes the layout of a self-contained file; the module metadata makes the layout of a file that is merged
with the telescope's metadata. convert decides where the file is written. The tables are those that the reduction
package srttools reads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits

from discosbackend._version import __version__
from discosbackend.simulator.fits.pointing import MJD_OF_1970, Pointing
from discosbackend.simulator.fits.structure import BLOCK
from discosbackend.simulator.instrument.model import Channel
from discosbackend.simulator.recording.dump_files import DIODE
from discosbackend.simulator.recording.dump_reader import Dump, RecordingReader
from discosbackend.ticks import TICKS_PER_DAY, TICKS_PER_SECOND

__all__ = [
    "Layout",
    "channel_columns",
    "channel_kind",
    "diodes",
    "is_marked",
    "mark",
    "mjd",
    "times",
    "whole",
    "write",
]

# Bytes of rows that are written at a time, and the number of rows for which the columns other than spectra are computed
# at a time. They limit the memory of a conversion.
_BUFFER = 4 * 2**20
_STRETCH = 4096

# The keyword that marks a file written by this program.
_RECORDING = "Acquisition Recording"

# Plausible values at the telescope: relative humidity in %, temperature in °C, pressure in hPa.
_WEATHER = (50.0, 15.0, 940.0)

# The numpy types of FITS's format letters.
_LETTERS = {"D": ">f8", "I": ">i2", "J": ">i4"}


class _Column(NamedTuple):
    """A column of a table: its name, its FITS format such as 3D, and its unit."""

    name: str
    form: str
    unit: str = ""

    @property
    def field(self) -> tuple[str, str]:
        """The column as a field of a numpy record."""
        count, letter = self.form[:-1], self.form[-1]
        return self.name, f"S{count}" if letter == "A" else f"{count}{_LETTERS[letter]}"


_SECTION_TABLE = (
    _Column("id", "J"),
    _Column("type", "8A"),
    _Column("sampleRate", "D", "MHz"),
    _Column("bins", "J"),
    _Column("frequency", "D", "MHz"),
    _Column("bandWidth", "D", "MHz"),
    _Column("flux", "D", "Jy"),
)

_RF_INPUTS = (
    _Column("feed", "J"),
    _Column("ifChain", "J"),
    _Column("polarization", "8A"),
    _Column("frequency", "D", "MHz"),
    _Column("bandWidth", "D", "MHz"),
    _Column("localOscillator", "D", "MHz"),
    _Column("attenuation", "D", "db"),
    _Column("calibrationMark", "D", "K"),
    _Column("section", "J"),
)

_FEED_TABLE = (
    _Column("id", "J"),
    _Column("xOffset", "D", "rad"),
    _Column("yOffset", "D", "rad"),
    _Column("relativePower", "D"),
)

# The columns of DATA TABLE before the spectra. Their size is a multiple of four bytes, so that the spectra are aligned.
_DATA_TABLE = (
    _Column("time", "D", "d"),
    _Column("raj2000", "D", "rad"),
    _Column("decj2000", "D", "rad"),
    _Column("az", "D", "rad"),
    _Column("el", "D", "rad"),
    _Column("par_angle", "D", "rad"),
    _Column("derot_angle", "D", "rad"),
    _Column("flag_cal", "I"),
    _Column("flag_track", "I"),
    _Column("weather", "3D"),
)

_SERVO_TABLE = (
    _Column("time", "D", "d"),
    _Column("x", "D", "mm"),
    _Column("y", "D", "mm"),
    _Column("z", "D", "mm"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A file without its spectra.

    Parameters
    ----------
    before
        The bytes before DATA TABLE.
    header
        The header of DATA TABLE, with the blanks up to its end.
    shape
        The number of rows of DATA TABLE, and the bytes of a row.
    heads
        Returns the columns before the spectra for some consecutive dumps: a numpy record array of shape (dumps,), with
        the bytes of the file.
    after
        The bytes after DATA TABLE.
    warnings
        Warnings for the user.
    """

    before: bytes
    header: bytes
    shape: tuple[int, int]
    heads: Callable[[Sequence[Dump]], Any]
    after: bytes
    warnings: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        rows = math.prod(self.shape)
        return len(self.before) + len(self.header) + rows + -rows % BLOCK + len(self.after)


# -- for both kinds of file ---------------------------------------------------------------------------


def mjd(ticks: Any) -> Any:
    """Convert instants to Modified Julian Dates.

    A double has a resolution of 0.4 us, and of 0.7 us from the year 2038 on.

    Parameters
    ----------
    ticks
        An integer or an array of integers, in 100 ns.
    """
    days, rest = divmod(ticks, TICKS_PER_DAY)
    return (days + MJD_OF_1970) + rest / TICKS_PER_DAY


def times(recorded: RecordingReader, dumps: Sequence[Dump]) -> Any:
    """Return the middles of dumps in 100 ns: int64, shape (dumps,)."""
    return np.array([recorded.middle(dump.number) for dump in dumps], dtype=np.int64)


def diodes(dumps: Sequence[Dump]) -> Any:
    """Return whether the noise diode was on: bool, shape (dumps,)."""
    return np.array([dump.flags & DIODE for dump in dumps], dtype=bool)


def channel_kind(channel: Channel) -> str:
    """Return the type of a channel in SECTION TABLE."""
    if channel.stokes:
        return "stokes"
    return "spectra" if channel.bins > 1 else "simple"


def channel_columns(channels: Sequence[Channel]) -> list[tuple[str, str, str]]:
    """Return the name, format and unit of the columns of spectra, in the order of a dump."""
    return [
        (f"Ch{number}", f"{channel.values if channel.values > 1 else ''}J", "count")
        for number, channel in enumerate(channels)
    ]


def mark(header: fits.Header, recorded: RecordingReader) -> None:
    """Add cards to a header that say that the data are simulated, when they begin, and how to repeat the simulation."""
    setup = recorded.setup
    header["HIERARCH Acquisition Begin"] = (_iso(recorded.begins, 7), "UTC")
    header["HIERARCH Acquisition Integration"] = (setup.integration, "ms a dump")
    header[f"HIERARCH {_RECORDING}"] = _text(recorded.folder.name)
    header.add_history(f"simulated by discosbackend {__version__}: these are no measurements")
    header.add_history(
        f"instrument {_text(setup.instrument)}, configuration {_text(setup.configuration)}, "
        f"seed {setup.seed}, acquisition {setup.acquisition}"
    )


def is_marked(header: Container[str]) -> bool:
    """Return whether mark() has marked a header with these keywords."""
    return _RECORDING in header


def write(layout: Layout, recorded: RecordingReader, file: int) -> None:
    """Write a file.

    Parameters
    ----------
    layout
        The file without its spectra.
    recorded
        The recording, entered.
    file
        The descriptor of an empty file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    _write_all(file, layout.before)
    _write_all(file, layout.header)
    rows = 0
    for block in _blocks(layout, recorded):
        _write_all(file, memoryview(block))
        rows += len(block)
    _write_all(file, bytes(-rows % BLOCK))
    _write_all(file, layout.after)


def _blocks(layout: Layout, recorded: RecordingReader) -> Iterator[Any]:
    """Yield the rows, some megabytes at a time, always in the same buffer."""
    values = recorded.setup.values
    width = layout.shape[1] - 4 * values
    row = np.dtype([("head", f"V{width}"), ("values", ">i4", (values,))])
    most = max(1, min(_STRETCH, _BUFFER // row.itemsize))
    # The telescope's rows may be long.
    many = max(most, min(_STRETCH, _BUFFER // width))
    buffer = np.zeros(most, dtype=row)
    for first in range(0, len(recorded.dumps), many):
        stretch = recorded.dumps[first : first + many]
        heads = layout.heads(stretch).view(row["head"])
        for start in range(0, len(stretch), most):
            block = buffer[: len(stretch) - start]
            block["head"] = heads[start : start + most]
            for target, dump in zip(block["values"], stretch[start:], strict=False):
                with recorded.values(dump.place) as source:
                    target[:] = np.frombuffer(source, dtype="<i4")
            yield block.view(np.uint8)


def _write_all(file: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


# -- the self-contained file --------------------------------------------------------------------------


def whole(recorded: RecordingReader) -> Layout:
    """Return the layout of a self-contained file, with tables computed from the settings and the sky.

    Parameters
    ----------
    recorded
        The recording, entered. It must have dumps.
    """
    channels = recorded.setup.channels
    warnings = []
    if len({channel.bins for channel in channels}) > 1:
        warnings.append("sections differ in their bins: srttools reads only files in which they are equal")
    pointing = Pointing(recorded.setup.receiver, recorded.sky)
    feeds = _feeds(recorded, warnings)
    integration = {"Integration": recorded.setup.integration}
    before = (
        _blocked(_primary(recorded, pointing).tostring().encode("ascii")),
        _table("SECTION TABLE", _SECTION_TABLE, _sections(channels), integration),
        _table("RF INPUTS", _RF_INPUTS, _inputs(recorded)),
        _table("FEED TABLE", _FEED_TABLE, feeds),
    )
    columns = [*_DATA_TABLE, *map(_Column._make, channel_columns(channels))]
    size = np.dtype([column.field for column in columns]).itemsize
    data = _table_header("DATA TABLE", columns, size, len(recorded.dumps))
    mark(data, recorded)
    begin = mjd(recorded.middle(recorded.dumps[0].number))
    end = mjd(recorded.middle(recorded.dumps[-1].number))
    after = (
        _table("ANTENNA TEMP TABLE", *_temperatures(recorded)),
        _table("SERVO TABLE", _SERVO_TABLE, [(begin, 0.0, 0.0, 0.0), (end, 0.0, 0.0, 0.0)]),
    )
    header, shape = data.tostring().encode("ascii"), (len(recorded.dumps), size)
    return Layout(b"".join(before), header, shape, _Heads(recorded, pointing), b"".join(after), warnings)


def _primary(recorded: RecordingReader, pointing: Pointing) -> fits.Header:
    setup = recorded.setup
    header = fits.PrimaryHDU().header
    header["DATE-OBS"] = (_iso(recorded.begins, 3), "UTC")
    header["ANTENNA"] = "SRT"
    header["SOURCE"] = _text(next(iter(recorded.sky["sources"]), "simulated sky"))
    header["HIERARCH Receiver Code"] = _text(setup.receiver.code)
    # Programs recognise a total power detector by this name, and then take the frequencies from RF INPUTS.
    detector = all(channel.bins == 1 for channel in setup.channels)
    header["HIERARCH Backend Name"] = "TP" if detector else _text(setup.instrument.upper())
    header["HIERARCH RightAscension"] = (pointing.right_ascension, "rad, J2000")
    header["HIERARCH Declination"] = (pointing.declination, "rad, J2000")
    for axis in ("RightAscension", "Declination", "Azimuth", "Elevation"):
        header[f"HIERARCH {axis} Offset"] = (0.0, "rad")
    header["VLSR"] = (0.0, "km/s")
    header["HIERARCH ScheduleName"] = "simulated"
    header["HIERARCH SubScanID"] = 1
    header["HIERARCH SubScanType"] = "RA" if pointing.scans else "TRACKING"
    mark(header, recorded)
    return header


def _sections(channels: Sequence[Channel]) -> list[tuple[Any, ...]]:
    return [
        (
            number,
            channel_kind(channel),
            2 * channel.bandwidth,
            channel.bins,
            channel.start_frequency,
            channel.bandwidth,
            0.0,
        )
        for number, channel in enumerate(channels)
    ]


def _inputs(recorded: RecordingReader) -> list[tuple[Any, ...]]:
    setup = recorded.setup
    oscillator = setup.receiver.local_oscillator
    return [
        (
            channel.feed,
            "LR".index(polarisation),
            f"{polarisation}CP",
            # The sky frequency. The frequency in SECTION TABLE is below it by the local oscillator, which programs add.
            oscillator + channel.start_frequency,
            channel.bandwidth,
            oscillator,
            setup.attenuation,
            _kelvin(recorded, "mark", setup.marks, number),
            section,
        )
        for section, channel in enumerate(setup.channels)
        for polarisation, number in zip(channel.polarisations, channel.inputs, strict=True)
    ]


def _kelvin(recorded: RecordingReader, name: str, profile: Sequence[float], number: int) -> float:
    """Return `tsys` or `mark` of an input in K: that of the sky at the begin, or else that of the profile."""
    values: Mapping[str, float] = recorded.sky[name]
    return float(values.get(str(number), profile[number]))


def _feeds(recorded: RecordingReader, warnings: list[str]) -> list[tuple[Any, ...]]:
    """Return the rows of FEED TABLE. Programs use row n for feed n, so there is a row for every feed number."""
    receiver = recorded.setup.receiver
    offsets = list(receiver.offsets)
    count = 1 + max(channel.feed for channel in recorded.setup.channels)
    if (missing := count - len(offsets)) > 0:
        warnings.append(f"receiver {receiver.code} has {len(offsets)} offsets: {missing} are made up")
        offsets += [(2 * receiver.beam * number, 0.0) for number in range(len(offsets), count)]
    if len(offsets) > 2 and not any(x > 0 and y == 0 for x, y in offsets[1:]):
        warnings.append("srttools needs a feed with x offset above 0 and y offset exactly 0: there is none")
    if receiver.code.upper() == "CCB" and count > 1:
        warnings.append("srttools takes receiver CCB for one of a single feed")
    return [(number, *np.radians([x / 60, y / 60]), 1.0) for number, (x, y) in enumerate(offsets)]


def _temperatures(recorded: RecordingReader) -> tuple[list[_Column], list[tuple[Any, ...]]]:
    """Return the columns and rows of ANTENNA TEMP TABLE: Tsys at the begin and at the end, as programs interpolate."""
    columns, row = [], []
    for section, channel in enumerate(recorded.setup.channels):
        kelvins = [_kelvin(recorded, "tsys", recorded.setup.tsys, number) for number in channel.inputs]
        columns.append(_Column(f"Ch{section}", "2D" if channel.stokes else "D", "K"))
        row.append(kelvins if channel.stokes else kelvins[0])
    return columns, [tuple(row), tuple(row)]


class _Heads:
    """Computes the columns before the spectra, with the simulated position of the telescope."""

    def __init__(self, recorded: RecordingReader, pointing: Pointing) -> None:
        self._recorded = recorded
        self._pointing = pointing
        self._dtype = np.dtype([column.field for column in _DATA_TABLE])

    def __call__(self, dumps: Sequence[Dump]) -> Any:
        ticks = times(self._recorded, dumps)
        rows = np.zeros(len(dumps), dtype=self._dtype)
        rows["time"] = mjd(ticks)
        for name, values in self._pointing.at(ticks, self._recorded.begins).items():
            rows[name] = values
        rows["flag_cal"] = diodes(dumps)
        rows["flag_track"] = 1
        rows["weather"] = _WEATHER
        return rows


# -- FITS ---------------------------------------------------------------------------------------------


def _table_header(name: str, columns: Sequence[_Column], size: int, rows: int) -> fits.Header:
    header = fits.Header()
    header["XTENSION"] = ("BINTABLE", "binary table extension")
    header["BITPIX"] = 8
    header["NAXIS"] = 2
    header["NAXIS1"] = (size, "bytes a row")
    header["NAXIS2"] = (rows, "rows")
    header["PCOUNT"] = 0
    header["GCOUNT"] = 1
    header["TFIELDS"] = len(columns)
    for number, column in enumerate(columns, 1):
        header[f"TTYPE{number}"] = column.name
        header[f"TFORM{number}"] = column.form
        if column.unit:
            header[f"TUNIT{number}"] = column.unit
    header["EXTNAME"] = name
    return header


def _table(
    name: str,
    columns: Sequence[_Column],
    rows: Sequence[tuple[Any, ...]],
    cards: Mapping[str, Any] | None = None,
) -> bytes:
    data = np.array(rows, dtype=[column.field for column in columns])
    header = _table_header(name, columns, data.itemsize, len(data))
    for key, value in (cards or {}).items():
        header[f"HIERARCH {key}"] = value
    return _blocked(header.tostring().encode("ascii")) + _blocked(data.tobytes())


def _blocked(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _text(value: str) -> str:
    """Convert a text to one that fits into a header: at most 40 characters of printable ASCII."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in value)[:40]


def _iso(ticks: int, digits: int) -> str:
    """Format an instant as a FITS date, truncated to `digits` decimals of a second."""
    seconds, rest = divmod(ticks, TICKS_PER_SECOND)
    fraction = f"{rest:07d}"[:digits]
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction}"
