"""Metadata files as the telescope writes them, made by hand: all tables, rows of its own, no spectra.

Made with astropy's own tables and not with the simulator's, so that a mistake there is not made here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from discosbackend.simulator.instrument.model import Setup

__all__ = ["ROW", "azimuth_at", "declination_at", "metadata_tables", "parallactic_at", "write_metadata"]

ROW = 0.04 / 86400
"""Days from row to row."""


def azimuth_at(seconds: Any) -> Any:
    """Azimuth in rad, 0 to 2 pi, so many seconds after the begin: it passes north after one second."""
    return (0.01 * (seconds - 1.0)) % math.tau


def parallactic_at(seconds: Any) -> Any:
    """Parallactic angle in rad, -pi to pi; it steps back after 0.51 seconds."""
    return (0.02 * (seconds - 0.51)) % math.tau - math.pi


def declination_at(seconds: Any) -> Any:
    """Declination in rad so many seconds after the begin."""
    return 1.1 + 0.001 * seconds


def metadata_tables(
    setup: Setup, begins: float, seconds: float, *, row: float = ROW, late: float = 0.0
) -> fits.HDUList:
    """The tables of an acquisition that began at MJD `begins`, for so long; rows begin `late` s later."""
    return fits.open(BytesIO(_file(setup, begins, seconds, row, late)), memmap=False)


def write_metadata(path: Path, setup: Setup, begins: float, seconds: float, **others: Any) -> None:
    """Write such a file, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_file(setup, begins, seconds, others.pop("row", ROW), others.pop("late", 0.0), **others))


@lru_cache(maxsize=32)
def _file(setup: Setup, begins: float, seconds: float, row: float, late: float) -> bytes:
    """A file with these tables. astropy takes its time to make them, and most tests need the same."""
    count = int(seconds / 86400 / row)
    instants = begins + late / 86400 + row * (np.arange(count) + 0.5)
    data = _data((instants - begins) * 86400, instants)
    file = BytesIO()
    fits.HDUList([_primary(setup), *_backend(setup), data, *_rest(setup, instants)]).writeto(file)
    return file.getvalue()


def _primary(setup: Setup) -> fits.PrimaryHDU:
    primary = fits.PrimaryHDU()
    primary.header["SOURCE"] = "made up"
    primary.header["ANTENNA"] = "SRT"
    primary.header["HIERARCH Receiver Code"] = setup.receiver.code
    primary.header["HIERARCH Backend Name"] = "SARDARA"
    primary.header["HIERARCH RightAscension"] = (math.radians(270.0), "of the source")
    primary.header["HIERARCH Declination"] = 1.1
    primary.header["VLSR"] = 0.0
    primary.header["HIERARCH SubScanID"] = 3
    primary.header["COMMENT"] = "the observer's own words"
    return primary


def _backend(setup: Setup) -> Sequence[fits.BinTableHDU]:
    channels = setup.channels
    inputs = [(number, channel, hand) for number, channel in enumerate(channels) for hand in channel.polarisations]
    marks = [setup.marks[2 * channel.feed + "LR".index(hand)] for _, channel, hand in inputs]
    sections = _table(
        "SECTION TABLE",
        ("id", "J", "", range(len(channels))),
        ("type", "8A", "", [_kind(channel) for channel in channels]),
        ("sampleRate", "D", "MHz", [2 * channel.bandwidth for channel in channels]),
        ("bins", "J", "", [channel.bins for channel in channels]),
        ("frequency", "D", "MHz", [channel.start_frequency for channel in channels]),
        ("bandWidth", "D", "MHz", [channel.bandwidth for channel in channels]),
    )
    sections.header["HIERARCH Integration"] = setup.integration
    oscillator = setup.receiver.local_oscillator
    rf_inputs = _table(
        "RF INPUTS",
        ("feed", "J", "", [channel.feed for _, channel, _ in inputs]),
        ("ifChain", "J", "", ["LR".index(hand) for _, _, hand in inputs]),
        ("polarization", "8A", "", [f"{hand}CP" for _, _, hand in inputs]),
        ("frequency", "D", "MHz", [oscillator + channel.start_frequency for _, channel, _ in inputs]),
        ("bandWidth", "D", "MHz", [channel.bandwidth for _, channel, _ in inputs]),
        ("localOscillator", "D", "MHz", [oscillator] * len(inputs)),
        ("attenuation", "D", "db", [setup.attenuation] * len(inputs)),
        ("calibrationMark", "D", "K", marks),
        ("section", "J", "", [number for number, _, _ in inputs]),
    )
    offsets = setup.receiver.offsets
    feeds = _table(
        "FEED TABLE",
        ("id", "J", "", range(len(offsets))),
        ("xOffset", "D", "rad", [math.radians(x / 60) for x, _ in offsets]),
        ("yOffset", "D", "rad", [math.radians(y / 60) for _, y in offsets]),
        ("relativePower", "D", "", [1.0] * len(offsets)),
    )
    return sections, rf_inputs, feeds


def _data(seconds: Any, instants: Any) -> fits.BinTableHDU:
    count = len(instants)
    data = _table(
        "DATA TABLE",
        ("time", "D", "MJD", instants),
        ("raj2000", "D", "rad", math.radians(270.0) + 0.002 * seconds),
        ("decj2000", "D", "rad", declination_at(seconds)),
        ("az", "D", "rad", azimuth_at(seconds)),
        ("el", "D", "rad", 0.5 + 0.001 * seconds),
        # Around 0, and across pi after half a second.
        ("par_angle", "D", "rad", parallactic_at(seconds)),
        ("derot_angle", "D", "rad", np.zeros(count)),
        ("flag_cal", "I", "", np.zeros(count)),
        ("flag_track", "L", "", np.ones(count, dtype=bool)),
        ("weather", "3D", "", np.column_stack([50 + seconds, 15 - seconds, 940 + 0 * seconds])),
        ("pass", "K", "", np.arange(count)),
        ("label", "4A", "", [f"r{number % 100:02d}" for number in range(count)]),
    )
    data.header["HIERARCH Observed By"] = ("hand", "a card of the telescope's own")
    return data


def _rest(setup: Setup, instants: Any) -> Sequence[fits.BinTableHDU]:
    temperatures = []
    for number, channel in enumerate(setup.channels):
        kelvin = [setup.tsys[each] for each in channel.inputs]
        rows = np.array([kelvin if channel.stokes else kelvin[0]] * len(instants))
        temperatures.append((f"Ch{number}", "2D" if channel.stokes else "D", "K", rows))
    servo = _table("SERVO TABLE", ("time", "D", "", instants), ("SRP_TZ", "D", "mm", np.zeros(len(instants))))
    return (_table("ANTENNA TEMP TABLE", *temperatures), servo)


def _kind(channel: Any) -> str:
    return "stokes" if channel.stokes else "spectra" if channel.bins > 1 else "simple"


def _table(name: str, *columns: tuple[str, str, str, Any]) -> fits.BinTableHDU:
    make: Callable[..., Any] = fits.Column
    return fits.BinTableHDU.from_columns(
        [make(title, form, unit or None, array=np.asarray(values)) for title, form, unit, values in columns],
        name=name,
    )
