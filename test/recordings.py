"""Recordings made by hand for the tests of their files: small, and every value known."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from discosbackend.simulator.instrument.model import Channel, Receiver, Response, Setup
from discosbackend.simulator.recording.dump_files import DIODE, RecordingReader, RecordingWriter, give_name
from discosbackend.simulator.signal.sky import Sky
from discosbackend.ticks import Ticks

__all__ = ["BEGINS", "CHANNELS", "STOKES", "TOTAL_POWER", "in_child", "in_children"]
__all__ += ["opened", "record", "setup_with", "values_of"]

BEGINS = Ticks(17952891501234567)
"""2026-11-21T19:25:50.1234567, as no float has it."""

CHANNELS = (Channel(0, ("L",), 50.0, 1500.0, 16), Channel(0, ("R",), 50.0, 1500.0, 16))
STOKES = (Channel(0, ("L", "R"), 0.0, 1500.0, 8), Channel(3, ("L", "R"), 0.0, 1500.0, 8))
TOTAL_POWER = tuple(Channel(feed, (hand,), 0.0, 2000.0, 1) for feed in range(3) for hand in "LR")

_RECEIVER = Receiver(
    code="KKG",
    local_oscillator=21235.0,
    beam=0.85,
    offsets=((0.0, 0.0), (2.31, 0.0), (1.155, 2.0), (-1.155, 2.0)),
)


def setup_with(channels: Sequence[Channel] = CHANNELS, **others: Any) -> Setup:
    """A setup of these channels; of an input of number n, Tsys is 100 + n K and the mark 50 + n K."""
    values: dict[str, Any] = {
        "instrument": "sardara",
        "configuration": "SK00",
        "seed": 7,
        "acquisition": 3,
        "integration": 40,
        "attenuation": 7.0,
        "receiver": _RECEIVER,
        "response": Response(),
        "tsys": tuple(100.0 + number for number in range(64)),
        "marks": tuple(50.0 + number for number in range(64)),
    }
    return Setup(channels=tuple(channels), **{**values, **others})


def values_of(setup: Setup, number: int) -> Any:
    """What record() puts into a dump: every value another one, of four bytes that differ, some negative."""
    return (np.arange(setup.values, dtype=np.int64) * 0x01020304 + number - 0x40000000).astype("<i4")


def record(
    data: Path,
    setup: Setup | None = None,
    dumps: int = 5,
    *,
    sky: Sky = Sky(),
    name: Path | str | None = None,
    begins: Ticks = BEGINS,
    without: Sequence[int] = (),
) -> Path:
    """Record so many dumps, but for some; the diode is on in those that the sky says. The recording."""
    setup = setup or setup_with()
    recording = RecordingWriter.begin(data, setup, begins, sky)
    for number in range(dumps):
        if number not in without:
            values = values_of(setup, number)
            recording.write(number, DIODE * sky.diode_at(number), memoryview(values).cast("B"))
    recording.finish()
    if name is not None:
        give_name(recording.folder, str(name))
    return recording.folder


def opened(folder: Path) -> list[int]:
    """The numbers of the whole dumps in a recording."""
    with RecordingReader(folder) as recorded:
        return [dump.number for dump in recorded.dumps]


def in_child(work: Callable[[], object]) -> int:
    """Do that in a process of its own, with all that is loaded here; its exit status, or minus the signal."""
    return in_children([work])[0]


def in_children(works: Sequence[Callable[[], object]]) -> list[int]:
    """The same for some at once."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in list(map(_fork, works))]


def _fork(work: Callable[[], object]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            work()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:  # noqa: BLE001  # nothing may come back to the tests
            traceback.print_exc()
        finally:
            os._exit(status)
    return child
