"""The layout of a file that is merged with the telescope's metadata file.

The metadata file is copied byte by byte except DATA TABLE, whose rows are interpolated to the times of the dumps. The
module layout writes the rows, and makes the layout of a file without metadata; structure parses the metadata file.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from discosbackend.simulator.errors import MetadataError, RecordingError, lower_reason
from discosbackend.simulator.fits.layout import (
    Layout,
    channel_columns,
    channel_kind,
    diodes,
    is_marked,
    mark,
    mjd,
    times,
)
from discosbackend.simulator.fits.structure import (
    BLOCK,
    MOST_COLUMNS,
    Card,
    Column,
    Hdu,
    Header,
    columns_of,
    read_structure,
    shown,
)
from discosbackend.simulator.recording.dump_files import open_regular
from discosbackend.simulator.recording.dump_reader import Dump, RecordingReader

__all__ = ["merged"]

# The keywords with the number of a column: all that begin with T and end with a number, and those of the standard for
# coordinates. These may have a second number, and a letter at the end. In TC, TP, TCD and TPC, the second number
# is that of another column.
_NUMBERED = re.compile(
    r"(T[A-Z]+|[1-9]{1,2}(?:C[A-Z]{2,3}|PC|CD|P?[VS])|LONP|LATP|EQUI|RADE|RFRQ|RWAV|SPEC|SOBS|SSRC|VSYS|VSOU|ZSOU|VANG"
    r"|OBSG[XYZ]|WCS[NTX]|WCAX|MJDOB|MJDA|DOBS|DAVG)([1-9][0-9]{0,2})(?:_([0-9]+))?([A-Z]?)"
)
_MATRICES = {"TC", "TP", "TCD", "TPC"}

# The keywords of a column that describe the format or the range of its values. They are not copied from the metadata
# file for a column that this program writes in a format of its own.
_OF_VALUES = {"TFORM", "TUNIT", "TSCAL", "TZERO", "TNULL", "TDISP", "TDIM", "TLMIN", "TLMAX", "TDMIN", "TDMAX"}

# Bytes. The file is held in memory. Files of DISCOS are about a thousand times smaller.
_LARGEST = 2**30
# Bytes of a row of DATA TABLE without the spectra. Rows of DISCOS have about a hundred.
_WIDEST = 2**16

_SPECTRA = re.compile(r"ch[0-9]+", re.IGNORECASE)

# The period of an angle, by its unit; DISCOS writes radians. Below: the angles that are in rad if the unit is missing.
_PERIODS = {
    **dict.fromkeys(("rad", "radian", "radians"), math.tau),
    **dict.fromkeys(("deg", "degree", "degrees"), 360.0),
    **dict.fromkeys(("h", "hr", "hour", "hours", "hourangle"), 24.0),
    **dict.fromkeys(("arcmin", "arcminute", "arcminutes"), 360.0 * 60),
    **dict.fromkeys(("arcsec", "arcsecond", "arcseconds"), 360.0 * 3600),
    "mas": 360.0 * 3600e3,
}
_ANGLES = {"raj2000", "decj2000", "az", "el", "par_angle", "derot_angle"}
_FLAGS = {"flag_cal", "flag_track"}

# The units of time that can be MJD.
_DAYS = {"", "d", "day", "days", "mjd"}
# Days. A time that is further from the recording is no MJD. The clock of a simulation may be off by decades.
_CENTURY = 36525.0

# The numpy types of the format letters. Texts and bits are copied as bytes.
_TYPES = {
    **dict.fromkeys("XBA", "u1"),
    "L": "i1",
    "I": ">i2",
    "J": ">i4",
    "K": ">i8",
    "E": ">f4",
    "D": ">f8",
    "C": ">c8",
    "M": ">c16",
}
_INTEGERS = set("BIJK")
_REALS = set("ED")

# How many warnings of astropy are passed on; the others are counted.
_MOST_WARNINGS = 5


def merged(recorded: RecordingReader, path: Path) -> Layout | None:
    """Return the layout of a recording merged with the telescope's metadata file.

    Parameters
    ----------
    recorded
        The recording, entered.
    path
        The metadata file. It is only read.

    Returns
    -------
    Layout or None
        None if the file is no metadata file, but a file that this program has written for an earlier recording.

    Raises
    ------
    RecordingError
        If the file cannot be read or is damaged, or if its sections differ from those of the recording.
    """
    try:
        # Parse the bytes that were read, as the file may have been replaced meanwhile.
        return _merged(recorded, _read(path))
    except OSError as problem:
        raise RecordingError(f"metadata file cannot be read: {lower_reason(problem)}: {str(path)!a}") from None
    except MetadataError as problem:
        raise RecordingError(f"metadata file {problem}: {str(path)!a}") from None


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise MetadataError("is not a regular file")
    # The file may be replaced at any time: what is opened is looked at again, and its size is that of the open file.
    with open(open_regular(path, os.O_RDONLY), "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > _LARGEST:
            raise MetadataError(f"has {size // 2**20} MB and may have {_LARGEST // 2**20}")
        raw = file.read(size)
    if not raw.startswith(b"SIMPLE  =                    T"):
        raise MetadataError("is no FITS file or is compressed")
    return raw


def _merged(recorded: RecordingReader, raw: bytes) -> Layout | None:
    hdus = read_structure(raw)
    sections, data = _table(hdus, "SECTION TABLE"), _table(hdus, "DATA TABLE")
    if is_marked(data.header):
        return None
    if any("ZIMAGE" in hdu.header for hdu in hdus):
        raise MetadataError("has compressed images")
    complaints = _check_sections(recorded, raw, sections)
    rows = _Rows(recorded, raw, data)
    complaints += rows.complaints
    header = _header(data.header, rows, recorded, complaints)
    complaints += _astropy_complaints(raw, hdus)
    return Layout(
        before=raw[: data.begin],
        header=header,
        shape=(len(recorded.dumps), rows.width + 4 * recorded.setup.values),
        heads=rows,
        after=raw[data.end :],
        warnings=[f"metadata file: {complaint}" for complaint in complaints],
    )


def _table(hdus: Sequence[Hdu], name: str) -> Hdu:
    found = [hdu for hdu in hdus if hdu.name == name and hdu.is_table]
    if not found:
        raise MetadataError(f"has no {name}")
    if len(found) > 1:
        raise MetadataError(f"has more than one {name}")
    return found[0]


def _astropy_complaints(raw: bytes, ours: Sequence[Hdu]) -> list[str]:
    """Return what astropy finds wrong with the file: its warnings, and where the file departs from the standard.

    The structure of the file must have been checked. Only then does its size limit the memory that astropy allocates.

    Raises
    ------
    MetadataError
        If astropy cannot read the file. It could not read the merged file either.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with fits.open(io.BytesIO(raw), mode="readonly", memmap=False, lazy_load_hdus=False) as hdus:
                for our, hdu in zip_longest(ours, hdus):
                    # Astropy only warns of a header that it cannot use.
                    if (
                        our is None
                        or our.is_table != isinstance(hdu, fits.BinTableHDU)
                        or not hasattr(type(hdu), "data")
                    ):
                        raise MetadataError(f"has a table that astropy cannot read: {shown(str(our and our.name))}")
                    if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
                        # The columns are parsed when they are first used.
                        len(hdu.data)
                found = _departures(hdus)
        except MetadataError:
            raise
        except Exception as problem:  # astropy raises almost any of them for damaged files
            # Some of its messages are only a keyword or empty.
            reason = shown(_line(str(problem)), 160) or "it gives no reason"
            raise MetadataError(f"cannot be read by astropy: {reason}") from problem
    complaints = list(dict.fromkeys([*(_line(str(each.message)) for each in caught), *found]))
    if (more := len(complaints) - _MOST_WARNINGS) > 0:
        complaints[_MOST_WARNINGS:] = [f"{more} more warnings of astropy"]
    return complaints


def _departures(hdus: fits.HDUList) -> list[str]:
    """Return where a file departs from the FITS standard, as one text."""
    try:
        hdus.verify("exception")
    except fits.VerifyError as problem:
        return [_line(str(problem))]
    return []


def _line(text: str) -> str:
    """Return a text as one line of printable ASCII, without the first and the last words of astropy's reports."""
    text = " ".join("".join(letter if " " <= letter <= "~" else " " for letter in text).split())
    text = text.removesuffix("Note: astropy.io.fits uses zero-based indexing.").removeprefix(
        "Verification reported errors:"
    )
    return text.strip()[:200]


def _stored(raw: bytes, hdu: Hdu, column: Column) -> Any:
    """Return the values of a column as they are in the file, of shape (rows,) or (rows, values)."""
    kind = np.dtype(_TYPES[column.letter])
    count = column.width // kind.itemsize
    shape = (hdu.header.integer("NAXIS2"), count)
    strides = (hdu.header.integer("NAXIS1"), kind.itemsize)
    values = np.ndarray(shape, kind, raw, hdu.data + column.offset, strides)
    return values[:, 0] if column.repeat == 1 else values


def _scale(header: Header, column: Column) -> tuple[float, float]:
    """Return the factor and the offset from the stored values of a column to physical ones."""
    scale = header.number(f"TSCAL{column.number}", 1.0)
    if scale == 0:
        raise MetadataError(f"is damaged: TSCAL{column.number} of {header.name} is 0")
    return scale, header.number(f"TZERO{column.number}", 0.0)


def _check_sections(recorded: RecordingReader, raw: bytes, table: Hdu) -> list[str]:
    """Compare SECTION TABLE with what was recorded; return the differences that are only worth a warning."""
    channels = recorded.setup.channels
    if (count := table.header.integer("NAXIS2")) != len(channels):
        raise MetadataError(f"has {count} sections and the recording {len(channels)}")
    ours = {number: (f"{channel.bins} bins", channel_kind(channel)) for number, channel in enumerate(channels)}
    numbers, bins = (_section_numbers(raw, table, name) for name in ("id", "bins"))
    for number, count, kind in zip(numbers, bins, _section_texts(raw, table, "type"), strict=True):
        wanted_ones = ours.pop(number, ("none", "none"))
        for theirs, wanted in zip((f"{count} bins", kind), wanted_ones, strict=True):
            if theirs != wanted:
                raise MetadataError(f"has {theirs} in section {number} and the recording {wanted}")
    if "Integration" not in table.header:
        return ["SECTION TABLE has no Integration"]
    if (integration := table.header.number("Integration", 0)) != recorded.setup.integration:
        return [f"Integration is {integration:g} ms, the recording's {recorded.setup.integration} ms"]
    return []


def _section_column(table: Hdu, name: str, letters: set[str]) -> Column:
    found = next((column for column in columns_of(table) if column.name.lower() == name), None)
    if found is None or found.letter not in letters:
        raise MetadataError(f"has no {name} in SECTION TABLE")
    return found


def _section_numbers(raw: bytes, table: Hdu, name: str) -> list[int]:
    column = _section_column(table, name, _INTEGERS)
    if column.repeat != 1 or _scale(table.header, column) != (1.0, 0.0):
        raise MetadataError(f"has no {name} in SECTION TABLE")
    return [int(value) for value in _stored(raw, table, column)]


def _section_texts(raw: bytes, table: Hdu, name: str) -> list[str]:
    texts = _stored(raw, table, _section_column(table, name, {"A"}))
    return [shown(bytes(text).partition(b"\0")[0].decode("latin-1").strip().lower()) for text in texts]


@dataclass(frozen=True, slots=True)
class _Field:
    """A column of the telescope in the merged file.

    Parameters
    ----------
    column
        The column in the metadata file.
    form, unit
        The format and the unit, if they are not the telescope's.
    period
        The period of an angle in its unit.
    scale
        The factor and the offset from stored to physical values.
    """

    column: Column
    form: str | None
    unit: str | None
    period: float | None
    scale: tuple[float, float]

    @property
    def key(self) -> str:
        """The name of the column in lower case, by which this module recognises it."""
        return self.column.name.lower()

    @property
    def dtype(self) -> Any:
        """The type in the merged file."""
        if self.form is not None:
            return np.dtype(_TYPES[self.form])
        kind = np.dtype(_TYPES[self.column.letter])
        return kind if self.column.repeat == 1 else np.dtype((kind, (self.column.width // kind.itemsize,)))


def _field(header: Header, column: Column) -> _Field:
    """Return how a column is written. If this program changes its values, the format can represent the new values."""
    key, letter = column.name.lower(), column.letter
    form = unit = period = None
    scale = _scale(header, column) if letter in _INTEGERS | _REALS else (1.0, 0.0)
    theirs = header.text(f"TUNIT{column.number}", "").strip()
    if key == "time":
        form, unit = "D", "d"
    elif key in _FLAGS:
        if column.repeat != 1 or letter not in _INTEGERS | _REALS | {"L", "X"}:
            raise MetadataError(f"has no flags in {key} of DATA TABLE")
        if letter != "L" and (letter not in _INTEGERS or scale != (1.0, 0.0)):
            form = "I"
    elif letter in _REALS:
        period = _PERIODS.get(theirs.lower())
        if key in _ANGLES and period is None:
            if theirs:
                raise MetadataError(f"has {key} of DATA TABLE in {shown(theirs)}: this is no unit of angles")
            period = math.tau
    return _Field(column, form, unit, period, scale)


class _Rows:
    """The columns of DATA TABLE except the spectra. `fields` describes them; a call returns the rows for some dumps.

    Floating-point columns are interpolated between the rows of the telescope, angles over the shorter way. Integer and
    logical columns and texts are those of the nearest row. Dumps before the first row or after the
    last one get the values of that row. If they are more than one row away, flag_track is false.
    """

    def __init__(self, recorded: RecordingReader, raw: bytes, table: Hdu) -> None:
        self._recorded = recorded
        self.complaints: list[str] = []
        columns = columns_of(table)
        if table.header.integer("PCOUNT", 0) or any(column.letter in "PQ" for column in columns):
            raise MetadataError("has columns of variable length in DATA TABLE")
        if table.header.integer("NAXIS2") == 0:
            raise MetadataError("has no rows in DATA TABLE")
        kept = [column for column in columns if not _SPECTRA.fullmatch(column.name)]
        self.fields = [_field(table.header, column) for column in kept]
        # Column names in FITS may be empty or occur twice; field names in numpy may not.
        self._dtype = np.dtype([(f"f{number}", field.dtype) for number, field in enumerate(self.fields)])
        self.width = self._dtype.itemsize
        count = len(self.fields) + len(recorded.setup.channels)
        if count > MOST_COLUMNS:
            raise MetadataError(f"gives DATA TABLE {count} columns with the spectra and {MOST_COLUMNS} are allowed")
        if self.width > _WIDEST:
            raise MetadataError(f"has rows of {self.width} bytes in DATA TABLE and may have {_WIDEST}")
        instants = self._instants(raw, table)
        order = np.argsort(instants, kind="stable")[: np.count_nonzero(np.isfinite(instants))]
        self._times = instants[order]
        self._stored = [_stored(raw, table, column)[order] for column in kept]
        self._spacing = _spacing(self._times, recorded.setup.integration)
        outside = np.count_nonzero(self._outside(mjd(times(recorded, recorded.dumps))))
        if outside:
            self.complaints.append(f"{outside} of {len(recorded.dumps)} dumps are outside of its times")

    def _instants(self, raw: bytes, table: Hdu) -> Any:
        """Return the times of the telescope's rows as MJD, NaN for those without one."""
        found = [field for field in self.fields if field.key == "time"]
        if not found or found[0].column.letter not in _INTEGERS | _REALS or found[0].column.repeat != 1:
            raise MetadataError("has no time in DATA TABLE")
        if len(found) > 1:
            raise MetadataError("has more than one time in DATA TABLE")
        column, (scale, zero) = found[0].column, found[0].scale
        _check_time_scale(table.header, column)
        stored = _stored(raw, table, column)
        with np.errstate(over="ignore", invalid="ignore"):
            instants = stored.astype(np.float64) * scale + zero
            if column.letter in _INTEGERS and f"TNULL{column.number}" in table.header:
                instants[stored == table.header.integer(f"TNULL{column.number}", least=-(2**63))] = np.nan
            known = np.isfinite(instants)
            near = known & (np.abs(instants - mjd(self._recorded.begins)) < _CENTURY)
        if not known.any():
            raise MetadataError("has no rows in DATA TABLE")
        if not near.any():
            raise MetadataError(f"has times in DATA TABLE that are no MJD: the first is {instants[known][0]:g}")
        # The difference between two neighbouring values that the column can represent.
        step = np.spacing(np.abs(stored[near]).max()) if column.letter in _REALS else 1
        if (seconds := float(step) * abs(scale) * 86400) > self._recorded.setup.integration / 1e3:
            raise MetadataError(f"has times in DATA TABLE in steps of {seconds:g} s")
        if missing := len(near) - np.count_nonzero(near):
            self.complaints.append(f"{missing} rows of DATA TABLE have no time and are left out")
        instants[~near] = np.nan
        return instants

    def _outside(self, instants: Any) -> Any:
        """Return which instants are more than one row before the first row or after the last one."""
        return (instants < self._times[0] - self._spacing) | (instants > self._times[-1] + self._spacing)

    def __call__(self, dumps: Sequence[Dump]) -> Any:
        instants = mjd(times(self._recorded, dumps))
        nearest = np.searchsorted((self._times[1:] + self._times[:-1]) / 2, instants)
        rows = np.zeros(len(dumps), dtype=self._dtype)
        # The numbers of a damaged row may be as large as a double can be.
        with np.errstate(over="ignore", invalid="ignore"):
            for name, field, stored in zip(self._dtype.names or (), self.fields, self._stored, strict=True):
                if field.key == "time":
                    rows[name] = instants
                elif field.key in _FLAGS:
                    rows[name] = self._flags(field, stored[nearest], instants, dumps)
                elif field.column.letter in _REALS:
                    rows[name] = self._between(instants, stored, field)
                else:
                    rows[name] = stored[nearest]
        return rows

    def _flags(self, field: _Field, stored: Any, instants: Any, dumps: Sequence[Dump]) -> Any:
        """Return flag_cal or flag_track for dumps, computed from the telescope's flags."""
        if field.form is not None:
            physical = stored * field.scale[0] + field.scale[1]
            stored = (np.isfinite(physical) & (physical != 0)).astype(np.int16)
        # Logical columns of FITS contain the letters T and F.
        true, false = (ord("T"), ord("F")) if field.column.letter == "L" else (1, 0)
        if field.key == "flag_track":
            return np.where(self._outside(instants), stored.dtype.type(false), stored)
        # The spectra contain the simulated diode, even if the telescope has not switched it.
        return np.where(diodes(dumps), stored.dtype.type(true), stored)

    def _between(self, instants: Any, stored: Any, field: _Field) -> Any:
        """Interpolate a column of shape (rows, ...) linearly, each element over the rows where it is finite."""
        flat = stored.reshape(len(stored), math.prod(stored.shape[1:])).astype(np.float64)
        found = np.empty((len(instants), flat.shape[1]))
        for number, values in enumerate(flat.T):
            sound = np.isfinite(values)
            if not sound.any():
                found[:, number] = values[0]
            elif field.period is None:
                found[:, number] = np.interp(instants, self._times[sound], values[sound])
            else:
                # The period is that of the physical values.
                scale, zero = field.scale
                known = values[sound] * scale + zero
                between = np.interp(instants, self._times[sound], np.unwrap(known, period=field.period))
                found[:, number] = (_wrapped(between, known, field.period) - zero) / scale
        return found.reshape(len(instants), *stored.shape[1:])


def _check_time_scale(header: Header, column: Column) -> None:
    """Check that the header does not specify times other than MJD in UTC."""
    unit = header.text(f"TUNIT{column.number}", "").strip() or header.text("TIMEUNIT", "").strip()
    if unit.lower() not in _DAYS:
        raise MetadataError(f"has times in DATA TABLE in {shown(unit)}: they must be MJD in days")
    if (scale := header.text("TIMESYS", "UTC").strip().upper()) not in {"UTC", ""}:
        raise MetadataError(f"has times in DATA TABLE in {shown(scale)}: they must be UTC")
    for keyword in ("MJDREF", "MJDREFI", "MJDREFF", "JDREF", "JDREFI", "JDREFF"):
        if header.number(keyword, 0.0) != 0:
            raise MetadataError(f"has times in DATA TABLE since {keyword}: they must be MJD")


def _wrapped(values: Any, known: Any, period: float) -> Any:
    """Wrap angles to the range that the telescope uses: from 0, around 0, or not wrapped."""
    if known.min() >= 0 and known.max() <= period:
        return values % period
    if abs(known).max() <= period / 2:
        return (values + period / 2) % period - period / 2
    return values


def _spacing(instants: Any, integration: float) -> float:
    """Return the time from one row to the next in days."""
    if len(instants) > 1:
        return float(np.median(np.diff(instants)))
    return integration / 86400e3


def _header(old: Header, rows: _Rows, recorded: RecordingReader, complaints: list[str]) -> bytes:
    """Return the header of the new table: the telescope's header, with other columns."""
    spectra = channel_columns(recorded.setup.channels)
    count = len(rows.fields) + len(spectra)
    sizes = {
        "NAXIS1": rows.width + 4 * recorded.setup.values,
        "NAXIS2": len(recorded.dumps),
        "TFIELDS": count,
    }
    before = old.integer("TFIELDS")
    images: list[bytes] = []
    columns: list[bytes] = []
    renumbered = {field.column.number: (number, field) for number, field in enumerate(rows.fields, 1)}
    seen: set[str] = set()
    for card in old.cards:
        if card.keyword in {"CHECKSUM", "DATASUM", "THEAP"}:
            continue
        found = _NUMBERED.fullmatch(card.keyword)
        if card.keyword in sizes or (found and not card.image.startswith(b"HIERARCH")):
            # If a keyword has several cards, readers use the first one.
            if card.keyword in seen:
                continue
            seen.add(card.keyword)
        if card.keyword in sizes:
            images.append(_card(card.keyword, sizes[card.keyword]))
        elif found is None or card.image.startswith(b"HIERARCH"):
            images.append(card.image)
        elif int(found[2]) <= before:
            columns += _column_cards(card, found, renumbered)
        elif int(found[2]) <= count:
            complaints.append(f"{card.keyword} of DATA TABLE belongs to no column and is left out")
        else:
            images.append(card.image)
    for number, column in enumerate(spectra, len(rows.fields) + 1):
        columns += [
            _card(f"{key}{number}", text) for key, text in zip(("TTYPE", "TFORM", "TUNIT"), column, strict=True)
        ]
    place = 1 + next(number for number, image in enumerate(images) if image.startswith(b"TFIELDS "))
    images[place:place] = columns
    added = fits.Header()
    mark(added, recorded)
    images.append(added.tostring(endcard=False, padding=False).encode("ascii"))
    whole = b"".join(images) + b"END".ljust(80)
    return whole + b" " * (-len(whole) % BLOCK)


def _column_cards(card: Card, found: re.Match[str], renumbered: dict[int, tuple[int, _Field]]) -> list[bytes]:
    """Return new cards for a card of the telescope with a column number: none if this column is left out."""
    key, tail = found[1], found[3]
    number, field = renumbered.get(int(found[2]), (0, None))
    if field is None:
        return []
    if field.form is not None and key in _OF_VALUES:
        if key != "TFORM":
            return []
        unit = [_card(f"TUNIT{number}", field.unit)] if field.unit else []
        return [_card(f"TFORM{number}", field.form), *unit]
    if tail is not None and key in _MATRICES:
        # The second number in the keyword is that of another column.
        other, _ = renumbered.get(int(tail), (0, None))
        if not other:
            return []
        tail = str(other)
    keyword = f"{key}{number}{'' if tail is None else f'_{tail}'}{found[4]}"
    return [keyword.ljust(8).encode("ascii") + card.image[8:]]


def _card(keyword: str, value: str | int) -> bytes:
    return str(fits.Card(keyword, value).image).encode("ascii")
