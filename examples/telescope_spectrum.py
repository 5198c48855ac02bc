"""Observes the hydrogen line of a galaxy on and off source, and calibrates it with the noise diode.

    python examples/telescope_spectrum.py spectrum.png

starts a simulated SARDARA, observes for ten seconds, reads the two files and plots them. It needs matplotlib.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from telescope import BLUE, GREY, ORANGE, Observation, Telescope, Values, gaussian, panels

# The simulated line.
REST = 1420.4058  # MHz
VELOCITY, WIDTH, PEAK = -300.0, 200.0, 3.0  # km/s, km/s, K
SKY = f"""
[sources.galaxy]
lines = [{{rest = "HI", velocity = {VELOCITY}, width = {WIDTH}, peak = {PEAK}}}]
"""

LIGHT = 299792.458  # km/s
REACH = 1000.0  # km/s on either side of the line that are used


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The result: the mean spectrum of both inputs, and a Gaussian fitted to the line."""

    frequencies: Values
    """The sky frequencies in MHz; shape (bins,)."""
    velocities: Values
    """The velocities in km/s; shape (bins,)."""
    kelvin: Values
    """The spectrum in K; shape (bins,)."""
    noise: float
    """The rms of a bin beside the line in K."""
    tsys: Values
    """The system temperatures from the noise diode in K; shape (inputs,)."""
    peak: float
    """The height of the Gaussian in K."""
    velocity: float
    """The centre of the Gaussian in km/s."""
    width: float
    """The full width at half maximum of the Gaussian in km/s."""


def observe(seconds: float = 4.0) -> dict[str, Observation]:
    """Observe `on` source, and `off` source with the noise diode on in every other dump."""
    with Telescope("sardara", sky=SKY) as telescope:
        backend = telescope.backend
        backend.set_configuration("SL00")
        # 500 MHz in 16384 bins, 6.4 km/s each.
        backend.set_section(bandwidth=500.0, bins=16384)
        backend.set_integration(40)
        telescope.observe("on", seconds)
        # The telescope moves off the source, and interleaves the diode.
        telescope.control.remove("galaxy")
        backend.cal_on(1)
        telescope.observe("off", seconds)
        return telescope.files()


def reduce(on: Observation, off: Observation) -> Spectrum:
    """Compute T = Tsys (on - off) / off, with Tsys from the diode, and fit the line."""
    place = np.arange(len(on.frequencies)) / len(on.frequencies)
    # Omit the edges of the band, the DC bin, and the middle bin, which has the spur.
    sound = (place > 0.1) & (place < 0.95) & (place != 0.5)
    lit = off.counts[:, off.diode].mean(axis=1)
    dark = off.counts[:, ~off.diode].mean(axis=1)
    tsys = off.marks * np.median(dark[:, sound] / (lit - dark)[:, sound], axis=1)
    # The shape of the band is the same with and without the diode, so use all dumps for it.
    ratio = on.counts.mean(axis=1) / off.counts.mean(axis=1)
    # Outside of the line the ratio is 1. Normalising removes a drift of the gain between the observations.
    ratio /= np.median(ratio[:, sound], axis=1, keepdims=True)
    kelvin = (tsys[:, np.newaxis] * (ratio - 1)).mean(axis=0)
    velocities = LIGHT * (1 - on.frequencies / REST)
    near = np.abs(velocities - VELOCITY) < REACH
    beside = near & (np.abs(velocities - VELOCITY) > 300)
    return Spectrum(
        on.frequencies, velocities, kelvin, float(kelvin[beside].std()), tsys,
        *gaussian(velocities[near], kelvin[near]),
    )  # fmt: skip


def plot(on: Observation, found: Spectrum, path: str) -> None:
    """Plot the counts of the backend, and the calibrated line."""
    figure, (raw, line) = panels(1, 1.25)
    counts = on.counts.mean(axis=1)
    for name, each, colour in zip(("left", "right"), counts, (BLUE, ORANGE), strict=True):
        raw.semilogy(on.frequencies, each, color=colour, linewidth=1, label=name)
    raw.set(title="On source: what the backend counts", xlabel="frequency (MHz)", ylabel="counts")
    raw.legend(frameon=False, loc="upper right")
    for text, frequency in (("spur", 1250.0), ("line", REST * (1 - VELOCITY / LIGHT))):
        place = frequency, 1.8 * np.interp(frequency, on.frequencies, counts[1])
        raw.text(*place, text, ha="center", color=GREY)
    plot_line(line, found)
    figure.savefig(path)


def plot_line(line: Any, found: Spectrum) -> None:
    """Plot the measured line and the simulated one."""
    near = np.abs(found.velocities - VELOCITY) < REACH
    velocities = found.velocities[near]
    shape = PEAK * np.exp(-4 * np.log(2) * ((velocities - VELOCITY) / WIDTH) ** 2)
    put_in = f"put in: {PEAK:g} K at {VELOCITY:g} km/s, {WIDTH:g} km/s wide"
    line.step(velocities, found.kelvin[near], color=BLUE, linewidth=1, where="mid", label="both inputs")
    line.plot(velocities, shape, "--", color=GREY, label=put_in)
    line.set(
        title=f"Tsys (on - off) / off: {told(found)}",
        xlabel="velocity (km/s)",
        ylabel="antenna temperature (K)",
        ylim=(-0.5, 1.55 * PEAK),
    )
    line.legend(frameon=False, loc="upper right")


def told(found: Spectrum) -> str:
    """Format the result for the line."""
    return f"{found.peak:.2f} K at {found.velocity:.1f} km/s, {found.width:.0f} km/s wide"


def main(path: str) -> None:
    """Observe, reduce, print and plot."""
    files = observe()
    found = reduce(files["on"], files["off"])
    left, right = found.tsys
    print(f"Tsys: {left:.1f} K left, {right:.1f} K right; noise: {1000 * found.noise:.0f} mK a bin")
    print(f"line: {told(found)}")
    plot(files["on"], found, path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "spectrum.png")
