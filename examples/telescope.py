"""Observes with a simulated backend as DISCOS does, and reads its files.

This module is used by the programs telescope_*.py.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from discosbackend.client import Client, host_and_port
from discosbackend.errors import RequestFailed
from discosbackend.simulator.control.client import SimulatorControl

__all__ = ["BLUE", "GREY", "ORANGE", "Observation", "Telescope", "gaussian", "panels", "read"]

SERVER = Path(__file__).resolve().parent.parent / "scripts" / "discos-backend-server"

# Ticks are 100 ns.
SECOND = 10**7

# Colours of the plots: left circular, right circular, and expected values.
BLUE, ORANGE, GREY = "#1f6091", "#d07020", "0.35"

Values = NDArray[np.float64]


class Telescope:
    """A simulated instrument in a process of its own. Its files are in a temporary folder. It is a context manager.

    The attribute `backend` is a client of the protocol, in the role of DISCOS. The attribute `control` changes what the
    protocol does not change: the noise diode and the sky. The same seed and commands give the same data.

    Parameters
    ----------
    instrument
        The name of a simulated instrument, or the path of a profile.
    sky
        The text of a TOML file of sources.
    seed
        The seed of the noise.
    """

    def __init__(self, instrument: str, *, sky: str = "", seed: int = 1) -> None:
        # close() removes it.
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        (self.folder / "sky.toml").write_text(sky, encoding="utf-8")
        socket = self.folder / "control.sock"
        self._server = subprocess.Popen(
            [
                *(sys.executable, str(SERVER), "--port", "0", "--log-level", "warning"),
                *("--simulate", instrument, "--seed", str(seed), "--sky", str(self.folder / "sky.toml")),
                *("--data", str(self.folder / "data"), "--root", str(self.folder)),
                *("--control", str(socket)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.backend = Client(*host_and_port(self._announced()), timeout=60.0)
            self.control = SimulatorControl(str(socket))
        except BaseException:
            self.close()
            raise

    def _announced(self) -> str:
        """Return the address from the line "... is served on 127.0.0.1:37813, protocol version 1.4"."""
        assert self._server.stdout is not None
        for line in self._server.stdout:
            if " is served on " in line:
                return line.partition(" is served on ")[2].partition(",")[0]
        raise RuntimeError("the server did not start: it has said why")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server, and remove the folder with the files."""
        for connection in (getattr(self, "backend", None), getattr(self, "control", None)):
            if connection is not None:
                connection.close()
        self._server.terminate()
        self._server.wait()
        if self._server.stdout is not None:
            self._server.stdout.close()
        self._folder.cleanup()

    def observe(self, name: str, seconds: float) -> None:
        """Acquire whole dumps for `seconds`, wait until the acquisition has ended, and send the name of the file."""
        lead = SECOND // 10
        while not self._acquire(seconds, lead):
            if lead > 60 * SECOND:
                raise RuntimeError(f"this machine is too busy to acquire {seconds} s of data")
            lead *= 2
        # The path of the telescope's metadata file. There is no such file, so the backend writes a self-contained one.
        self.backend.set_filename(f"/archive/tmp/{name}.fits")

    def _acquire(self, seconds: float, lead: int) -> bool:
        """Acquire, beginning in `lead` ticks. Return False if a busy machine was too late for this start."""
        recordings = self.folder / "data"
        before = len(list(recordings.glob("*")))
        # A timed start and a timed stop. The stop is half a dump after the end of the last dump, so that the number of
        # dumps does not depend on small delays. On a busy host the stop may be so late that there is one dump more.
        begin = self.backend.time() + lead
        end = begin + round(seconds * SECOND) + self.backend.get_integration() * SECOND // 2000
        try:
            # The stop first, so that a started acquisition always has an end. A new stop replaces a pending one.
            self.backend.stop(end)
            self.backend.start(begin)
        except RequestFailed as refusal:
            if "elapsed" not in str(refusal):
                raise
            return False
        while (status := self.backend.status()).acquiring or status.timestamp < end:
            time.sleep(0.05)
        return len(list(recordings.glob("*"))) > before

    def files(self) -> dict[str, Observation]:
        """Convert all recordings to files, and read the files. Return {name of the file: its data}."""
        self.backend.convert_data()
        # The backend writes them to the parent of tmp/, below --root.
        return {path.stem: read(path) for path in (self.folder / "archive").glob("*.fits")}


@dataclass(frozen=True, slots=True)
class Observation:
    """The data of a file as arrays. All sections must have one input and the same number of bins."""

    seconds: Values
    """The times of the dumps in s since the first; shape (dumps,)."""
    offsets: Values
    """The offsets of the telescope from the source along right ascension, in arcmin on the sky; shape (dumps,)."""
    diode: NDArray[np.bool_]
    """Whether the noise diode was on; shape (dumps,)."""
    integration: float
    """The integration time in s."""
    frequencies: Values
    """The sky frequencies in MHz; shape (bins,)."""
    marks: Values
    """The temperatures of the noise diode in K; shape (sections,)."""
    tsys: Values
    """The system temperatures in K; shape (sections,)."""
    counts: Values
    """The spectra in counts; shape (sections, dumps, bins)."""

    @property
    def width(self) -> float:
        """The width of a bin in MHz."""
        return float(self.frequencies[1] - self.frequencies[0])


def read(path: Path) -> Observation:
    """Read a file of the backend with astropy."""
    with fits.open(path) as file:
        primary, sections, inputs = file[0].header, file["SECTION TABLE"], file["RF INPUTS"].data
        data, temperatures = file["DATA TABLE"].data, file["ANTENNA TEMP TABLE"].data
        first = sections.data[0]
        ascension = data["raj2000"] - primary["RightAscension"]
        return Observation(
            seconds=(data["time"] - data["time"][0]) * 86400,
            offsets=np.degrees(ascension * np.cos(data["decj2000"])) * 60,
            diode=data["flag_cal"] != 0,
            integration=sections.header["Integration"] / 1000,
            # The frequency of bin b is local oscillator + start frequency + b * width of a bin.
            frequencies=inputs["localOscillator"][0]
            + first["frequency"]
            + np.arange(first["bins"]) * first["bandWidth"] / first["bins"],
            marks=np.array(inputs["calibrationMark"], dtype=float),
            tsys=np.array([temperatures[f"Ch{number}"][0] for number in sections.data["id"]]),
            counts=np.array([data[f"Ch{number}"] for number in sections.data["id"]], dtype=float),
        )


def gaussian(x: Values, y: Values) -> tuple[float, float, float]:
    """Fit a Gaussian by least squares. Return its height, centre and full width at half maximum, as for y and x."""
    # The initial values: the highest point, and the width of the points above half of it.
    height, centre = float(y.max()), float(x[np.argmax(y)])
    width = float(np.count_nonzero(y > height / 2) * np.abs(np.diff(x)).mean())
    for _ in range(20):
        off = (x - centre) / width
        shape = np.exp(-4 * np.log(2) * off**2)
        slope = 8 * np.log(2) * height * shape * off / width
        columns = np.column_stack([shape, slope, slope * off])
        found = np.linalg.lstsq(columns, y - height * shape, rcond=None)[0]
        height, centre, width = height + found[0], centre + found[1], abs(width + found[2])
    return float(height), float(centre), float(width)


def panels(*heights: float) -> tuple[Any, Any]:
    """Return a matplotlib figure, 900 pixels wide, and its axes, one below the other, with these relative heights."""
    # Imported here, because the tests do not plot and do not require matplotlib.
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 12, "axes.titlesize": 12, "axes.titlelocation": "left"})
    pyplot.rcParams["savefig.dpi"] = 110
    figure, axes = pyplot.subplots(
        len(heights), figsize=(8.2, 6.2), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for each in axes[:, 0]:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="0.92")
    return figure, axes[:, 0]
