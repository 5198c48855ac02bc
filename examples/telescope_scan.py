"""Scans over a source, and removes the receiver's power and interference from the data.

    python examples/telescope_scan.py scan.png

starts a simulated SARDARA in C band, observes for eight seconds, reads the file and plots it. It needs matplotlib.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from telescope import BLUE, GREY, ORANGE, Observation, Telescope, Values, gaussian, panels

# The simulated source. The beam is that of the receiver in the profile.
LEVEL = 4.0  # K
BEAM = 2.8  # arcmin

SKY = """
[sources."3C 147"]
level = {level}
transit = {transit}
crossing = {crossing}
"""


@dataclass(frozen=True, slots=True)
class Scan:
    """The result for each input: the light curve above its baseline, and a Gaussian fitted to it."""

    offsets: Values
    """The offsets of the telescope from the source in arcmin; shape (dumps,)."""
    kelvin: Values
    """The light curves in K; shape (inputs, dumps)."""
    heights: Values
    """The heights of the Gaussians in K; shape (inputs,)."""
    centres: Values
    """The centres of the Gaussians in arcmin; shape (inputs,)."""
    widths: Values
    """The full widths at half maximum of the Gaussians in arcmin; shape (inputs,)."""


def observe(seconds: float = 8.0) -> Observation:
    """Observe one scan of eight beam widths, with the source in its middle."""
    sky = SKY.format(level=LEVEL, transit=seconds / 2, crossing=seconds / 8)
    with Telescope("sardara", sky=sky) as telescope:
        telescope.backend.set_configuration("SCC00")
        telescope.observe("scan", seconds)
        return telescope.files()["scan"]


def reduce(scan: Observation) -> Scan:
    """Compute T = Tsys (P / P0 - 1), with P0 beside the source, the Tsys of the file, and the median over the band."""
    beside = np.abs(scan.offsets) > 1.5 * BEAM
    base = scan.counts[:, beside].mean(axis=1)
    ratio = scan.counts / base[:, np.newaxis, :] - 1
    # In a bin with interference the source is a smaller part of the power. The median ignores these few bins.
    kelvin = scan.tsys[:, np.newaxis] * np.median(ratio, axis=2)
    for each in kelvin:
        # Remove the drift of the gain.
        each -= np.polyval(np.polyfit(scan.offsets[beside], each[beside], 1), scan.offsets)
    fits = [gaussian(scan.offsets, each) for each in kelvin]
    return Scan(scan.offsets, kelvin, *map(np.array, zip(*fits, strict=True)))


def plot(scan: Observation, found: Scan, path: str) -> None:
    """Plot the light curve with the simulated source, and the difference between them."""
    figure, (light, rest) = panels(2, 1)
    shape = LEVEL * np.exp(-4 * np.log(2) * (scan.offsets / BEAM) ** 2)
    for name, kelvin, colour in zip(("left", "right"), found.kelvin, (BLUE, ORANGE), strict=True):
        light.plot(scan.offsets, kelvin, ".", color=colour, markersize=5, label=name)
        rest.plot(scan.offsets, 1000 * (kelvin - shape), ".", color=colour, markersize=4)
    put_in = f"put in: {LEVEL:g} K, beam of {BEAM:g}'"
    light.plot(scan.offsets, shape, color=GREY, linestyle="--", linewidth=1, label=put_in)
    heights, widths = (" and ".join(f"{each:.2f}" for each in fit) for fit in (found.heights, found.widths))
    light.set(title=f"Scan over the source: {heights} K, {widths} arcmin wide")
    light.set_ylabel("antenna temperature (K)")
    light.legend(frameon=False)
    rest.set(
        title="What was measured less what was put in: noise, and the drift of the gain",
        xlabel="distance from the source along right ascension (arcmin)",
        ylabel="mK",
    )
    figure.savefig(path)


def main(path: str) -> None:
    """Observe, reduce, print and plot."""
    scan = observe()
    found = reduce(scan)
    fits = zip(("left", "right"), found.heights, found.centres, found.widths, strict=True)
    for name, height, centre, width in fits:
        print(f"{name}: {height:.3f} K, {60 * centre:+.1f} arcsec from its place, {width:.2f} arcmin wide")
    plot(scan, found, path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "scan.png")
