"""The layout of a file that is merged with the telescope's metadata file.

The metadata file is copied byte by byte except DATA TABLE, whose rows are interpolated to the times of the dumps. The
module layout writes the rows, and makes the layout of a file without metadata.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from discosbackend.simulator.errors import RecordingError
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
from discosbackend.simulator.recording.dump_files import Dump, RecordingReader

__all__ = ["merged"]

# The keywords with the number of a column: those of the FITS standard, including those of coordinates.
_NUMBERED = re.compile(
    r"(TTYPE|TFORM|TUNIT|TNULL|TSCAL|TZERO|TDISP|TDIM|TBCOL|TLMIN|TLMAX|TDMIN|TDMAX"
    r"|TCTYP|TCUNI|TCRPX|TCRVL|TCDLT|TRPOS)([0-9]+)"
)
# Bytes. The file is held in memory. Files of DISCOS are about a thousand times smaller.
_LARGEST = 2**30

_SPECTRA = re.compile(r"ch[0-9]+", re.IGNORECASE)

# The period of an angle by unit; and the columns that DISCOS writes in rad, in case the unit is missing.
_AROUND = {"rad": math.tau, "deg": 360.0}
_ANGLES = {"raj2000", "decj2000", "az", "el", "par_angle", "derot_angle"}


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
        None if the file has been written by this program, with the spectra of another recording of that name.

    Raises
    ------
    RecordingError
        If the file cannot be read, or if its sections differ from those of the recording.
    """
    try:
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            raw = _read(path)
            # Parse the bytes that were read, as the file may have been replaced meanwhile.
            with fits.open(io.BytesIO(raw), mode="readonly", memmap=False, lazy_load_hdus=False) as hdus:
                layout = _merged(recorded, path, raw, hdus)
    except OSError as problem:
        reason = problem.strerror or "it is no FITS file"
        raise RecordingError(f"metadata file cannot be read: {reason.lower()}: {str(path)!a}") from None
    except (KeyError, ValueError, TypeError, IndexError, fits.VerifyError) as problem:
        kind = type(problem).__name__
        raise RecordingError(f"metadata file is damaged: {kind}: {str(path)!a}") from problem
    if layout is not None:
        layout.warnings.extend(dict.fromkeys(f"metadata file: {each.message}" for each in complaints))
    return layout


def _read(path: Path) -> bytes:
    if not path.is_file():
        # Reading a pipe or a device may never end.
        raise RecordingError(f"metadata file is not a regular file: {str(path)!a}")
    if (size := path.stat().st_size) > _LARGEST:
        limit = _LARGEST // 2**20
        raise RecordingError(f"metadata file has {size // 2**20} MB and may have {limit}: {str(path)!a}")
    raw = path.read_bytes()
    if not raw.startswith(b"SIMPLE  ="):
        raise RecordingError(f"metadata file is no FITS file or is compressed: {str(path)!a}")
    return raw


def _merged(recorded: RecordingReader, path: Path, raw: bytes, hdus: fits.HDUList) -> Layout | None:
    for name in ("SECTION TABLE", "DATA TABLE"):
        if name not in hdus or not isinstance(hdus[name], fits.BinTableHDU):
            raise RecordingError(f"metadata file has no {name}: {str(path)!a}")
    if is_marked(hdus["DATA TABLE"].header):
        return None
    info = hdus["DATA TABLE"].fileinfo()
    last = hdus[-1].fileinfo()
    # The file is still being written if its header describes more data than it has.
    if last["datLoc"] + last["datSpan"] > len(raw):
        raise RecordingError(f"metadata file is cut off: {str(path)!a}")
    complaints: list[str] = []
    _check_sections(recorded, path, hdus["SECTION TABLE"], complaints)
    rows = _Rows(recorded, path, hdus["DATA TABLE"], raw)
    header = rows.header
    mark(header, recorded)
    return Layout(
        before=raw[: info["hdrLoc"]],
        data=header,
        heads=rows,
        after=raw[info["datLoc"] + info["datSpan"] :],
        warnings=[*complaints, *rows.complaints],
    )


def _check_sections(recorded: RecordingReader, path: Path, table: fits.BinTableHDU, complaints: list[str]) -> None:
    """Compare SECTION TABLE with what was recorded."""
    channels = recorded.setup.channels
    if len(table.data) != len(channels):
        raise RecordingError(
            f"metadata file has {len(table.data)} sections and the recording {len(channels)}: {str(path)!a}"
        )
    ours = {number: (f"{channel.bins} bins", channel_kind(channel)) for number, channel in enumerate(channels)}
    for row in table.data:
        number, described = int(row["id"]), (f"{int(row['bins'])} bins", str(row["type"]).strip().lower())
        for theirs, wanted in zip(described, ours.get(number, ("none", "none")), strict=True):
            if theirs != wanted:
                both = f"{theirs} in section {number} and the recording {wanted}"
                raise RecordingError(f"metadata file has {both}: {str(path)!a}")
    integration = table.header.get("Integration")
    if integration != recorded.setup.integration:
        complaints.append(
            f"metadata file: Integration is {integration} ms, the recording's {recorded.setup.integration} ms"
        )


class _Rows:
    """The columns of DATA TABLE except the spectra: the attribute `header`, and, if called, the rows for some dumps.

    Floating-point columns are interpolated between the rows of the telescope, angles over the shorter way. Integer and
    logical columns and texts are those of the nearest row. Before the first row and after the last one the values of
    that row are used; more than one row away, the flag of tracking is false.
    """

    def __init__(self, recorded: RecordingReader, path: Path, table: fits.BinTableHDU, raw: bytes) -> None:
        self._recorded = recorded
        self.complaints: list[str] = []
        if table.header["PCOUNT"]:
            raise RecordingError(f"metadata file has columns of variable length in DATA TABLE: {str(path)!a}")
        columns = table.columns
        # The values as stored in the file. The scale and the null value of a column are copied with the header.
        dtype, place = columns.dtype.newbyteorder(">"), table.fileinfo()["datLoc"]
        stored = np.frombuffer(raw, dtype, count=table.header["NAXIS2"], offset=place)
        kept = [number for number, name in enumerate(columns.names) if not _SPECTRA.fullmatch(name)]
        names = [columns.names[number] for number in kept]
        instants = next((name for name in names if name.lower() == "time"), None)
        if instants is None or stored.dtype[instants].kind != "f":
            raise RecordingError(f"metadata file has no time in DATA TABLE: {str(path)!a}")
        stored = stored[np.isfinite(stored[instants])]
        if stored.size == 0:
            raise RecordingError(f"metadata file has no rows in DATA TABLE: {str(path)!a}")
        order = np.argsort(stored[instants], kind="stable")
        self._stored = stored[order]
        self._times = self._stored[instants].astype(np.float64)
        self._instants = instants
        self._dtype = np.dtype([(name, stored.dtype[name]) for name in names])
        self._spacing = _spacing(self._times, recorded.setup.integration)
        self._around = {name: _around(name, columns[name].unit) for name in names}
        self.header = _header(table.header, kept, self._dtype.itemsize, recorded)
        self._compare(recorded)

    def _compare(self, recorded: RecordingReader) -> None:
        """Add a warning if there is no metadata at the times of some dumps."""
        outside = np.count_nonzero(self._outside(mjd(times(recorded, recorded.dumps))))
        if outside:
            self.complaints.append(f"metadata file: {outside} of {len(recorded.dumps)} dumps are outside of its times")

    def _outside(self, instants: Any) -> Any:
        """Return which instants are more than one row before the first row or after the last one."""
        return (instants < self._times[0] - self._spacing) | (instants > self._times[-1] + self._spacing)

    def __call__(self, dumps: Sequence[Dump]) -> Any:
        instants = mjd(times(self._recorded, dumps))
        nearest = np.searchsorted((self._times[1:] + self._times[:-1]) / 2, instants)
        rows = np.zeros(len(dumps), dtype=self._dtype)
        for name in self._dtype.names or ():
            stored = self._stored[name]
            if name == self._instants:
                rows[name] = instants
            elif self._dtype[name].base.kind == "f":
                rows[name] = self._between(instants, stored, self._around[name])
            else:
                rows[name] = stored[nearest]
                if name.lower() == "flag_track":
                    rows[name][self._outside(instants)] = _logical(stored.dtype, False)
                elif name.lower() == "flag_cal":
                    # The spectra contain the simulated diode, even if the telescope has not switched it.
                    rows[name][diodes(dumps)] = _logical(stored.dtype, True)
        return rows

    def _between(self, instants: Any, stored: Any, around: float | None) -> Any:
        """Interpolate a column of shape (rows, ...) linearly, each element over the rows where it is finite."""
        flat = stored.reshape(len(stored), -1).astype(np.float64)
        found = np.empty((len(instants), flat.shape[1]))
        for number, values in enumerate(flat.T):
            sound = np.isfinite(values)
            if not sound.any():
                found[:, number] = values[0]
                continue
            known = values[sound]
            unwrapped = np.unwrap(known, period=around) if around else known
            between = np.interp(instants, self._times[sound], unwrapped)
            found[:, number] = _wrapped(between, known, around) if around else between
        return found.reshape(len(instants), *stored.shape[1:])


def _wrapped(values: Any, known: Any, around: float) -> Any:
    """Wrap angles to the range that the telescope uses: from 0, around 0, or not wrapped."""
    if known.min() >= 0 and known.max() <= around:
        return values % around
    if abs(known).max() <= around / 2:
        return (values + around / 2) % around - around / 2
    return values


def _around(name: str, unit: str | None) -> float | None:
    """Return the period of a column of angles in its unit, None for other columns."""
    if unit is None:
        return math.tau if name.lower() in _ANGLES else None
    return _AROUND.get(unit.strip().lower())


def _spacing(instants: Any, integration: float) -> float:
    """Return the time from one row to the next in days."""
    if len(instants) > 1:
        return float(np.median(np.diff(instants)))
    return integration / 86400e3


def _logical(dtype: Any, value: bool) -> int:
    """Convert a flag to the value in the file: logical columns of FITS contain the letters T and F."""
    if dtype == np.int8 or dtype.kind == "b":
        return ord("T" if value else "F")
    return int(value)


def _header(old: fits.Header, kept: Sequence[int], size: int, recorded: RecordingReader) -> fits.Header:
    """Return the header of the new table: the telescope's header, with other columns."""
    header = old.copy()
    for key in ("CHECKSUM", "DATASUM", "THEAP"):
        header.remove(key, ignore_missing=True, remove_all=True)
    for key in {card.keyword for card in old.cards if _NUMBERED.fullmatch(card.keyword)}:
        header.remove(key, remove_all=True)
    spectra = channel_columns(recorded.setup.channels)
    header["NAXIS1"] = size + 4 * recorded.setup.values
    header["NAXIS2"] = len(recorded.dumps)
    header["TFIELDS"] = len(kept) + len(spectra)
    renumbered = {column + 1: number for number, column in enumerate(kept, 1)}
    cards = [
        (f"{found[1]}{renumbered[int(found[2])]}", card.value, card.comment)
        for card in old.cards
        if (found := _NUMBERED.fullmatch(card.keyword)) and int(found[2]) in renumbered
    ]
    for number, column in enumerate(spectra, len(kept) + 1):
        cards += [(f"{key}{number}", value, "") for key, value in zip(("TTYPE", "TFORM", "TUNIT"), column, strict=True)]
    place = header.index("TFIELDS") + 1
    for card in reversed(cards):
        header.insert(place, card)
    return header
