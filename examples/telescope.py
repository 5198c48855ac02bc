"""A telescope on the desk: a simulated backend, observed with as DISCOS does, and the reading of its files.

What the programs telescope_*.py share; it runs nothing by itself. What they compute is said there.
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

# Of the plots: left circular, right circular, and what was to be expected.
BLUE, ORANGE, GREY = "#1f6091", "#d07020", "0.35"

Values = NDArray[np.float64]


class Telescope:
    """A simulated instrument in a process of its own, its files in a temporary folder; a context manager.

    `backend` is what DISCOS is connected to, `control` switches what is no business of a backend: the noise
    diode and the sky. `sky` is the text of a TOML file. The same seed and commands give the same data.
    """

    def __init__(self, instrument: str, *, sky: str = "", seed: int = 1) -> None:
        # ended by close()
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
        """Where it is served, once it is: "... is served on 127.0.0.1:37813, protocol version 1.4"."""
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
        """End the server, and remove the folder with the files."""
        for connection in (getattr(self, "backend", None), getattr(self, "control", None)):
            if connection is not None:
                connection.close()
        self._server.terminate()
        self._server.wait()
        if self._server.stdout is not None:
            self._server.stdout.close()
        self._folder.cleanup()

    def observe(self, name: str, seconds: float) -> None:
        """Acquire for so long, in whole dumps, and give the recording its name; returns when it is over."""
        # Both at a given time, so that the number of dumps does not depend on how busy the host is. The last
        # one is over half a dump before the end.
        duration = round(seconds * SECOND) + self.backend.get_integration() * SECOND // 2000
        lead = SECOND // 10
        while True:
            begin = self.backend.time() + lead
            end = begin + duration
            try:
                # The newer stop replaces an older one; with the stop pending, a start is never without its end.
                self.backend.stop(end)
                self.backend.start(begin)
                break
            except RequestFailed as refusal:
                if "elapsed" not in str(refusal) or lead > 60 * SECOND:
                    raise
                lead *= 2
        while (status := self.backend.status()).acquiring or status.timestamp < end:
            time.sleep(0.05)
        # The telescope's metadata file. There is none here, so the backend's will be whole by itself.
        self.backend.set_filename(f"/archive/tmp/{name}.fits")

    def files(self) -> dict[str, Observation]:
        """Have files made of everything that was observed, and read them, by their names."""
        self.backend.convert_data()
        # One folder up from tmp/, below --root.
        return {path.stem: read(path) for path in (self.folder / "archive").glob("*.fits")}


@dataclass(frozen=True, slots=True)
class Observation:
    """What a file has of an acquisition, in arrays; for sections of one input and of the same bins each."""

    seconds: Values
    """Middles of the dumps since the middle of the first."""
    offsets: Values
    """How far from the source the telescope looked, along right ascension, in arcmin on the sky; by dump."""
    diode: NDArray[np.bool_]
    """Whether the noise diode was on, by dump."""
    integration: float
    """Seconds a dump."""
    frequencies: Values
    """MHz on the sky, by bin."""
    marks: Values
    """K of the noise diode, by section."""
    tsys: Values
    """K of the system, by section."""
    counts: Values
    """By section, dump and bin."""

    @property
    def width(self) -> float:
        """MHz a bin."""
        return float(self.frequencies[1] - self.frequencies[0])


def read(path: Path) -> Observation:
    """Read a file that a backend has handed on, with astropy."""
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
            # Bin b is at local oscillator + start of the section + b * width of a bin.
            frequencies=inputs["localOscillator"][0]
            + first["frequency"]
            + np.arange(first["bins"]) * first["bandWidth"] / first["bins"],
            marks=np.array(inputs["calibrationMark"], dtype=float),
            tsys=np.array([temperatures[f"Ch{number}"][0] for number in sections.data["id"]]),
            counts=np.array([data[f"Ch{number}"] for number in sections.data["id"]], dtype=float),
        )


def gaussian(x: Values, y: Values) -> tuple[float, float, float]:
    """Height, centre and full width at half maximum of the Gaussian with the least squares."""
    # To begin with: the highest point, and as wide as what is above half of it.
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
    """A figure of matplotlib, 900 pixels wide when saved, and its axes: one below the other, so high each."""
    # Here and not at the top: the tests do everything but plotting, and do not require it.
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
