"""Compares the noise of a bin, and of the sum over the band, with the radiometer equation.

    python examples/telescope_noise.py noise.png

starts a simulated SARDARA, observes an empty sky with six integration times, reads the files and plots their noise
against the integration time. It needs matplotlib.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from telescope import BLUE, GREY, ORANGE, Observation, Telescope, Values, panels

INTEGRATIONS = (5, 10, 20, 40, 80, 160)  # ms


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise for several integration times, relative to the level."""

    seconds: Values
    """The integration times in s."""
    measured: Values
    """The measured noise for each integration time, divided by the level."""
    bandwidth: float
    """The bandwidth in MHz."""

    @property
    def expected(self) -> Values:
        """The noise by the radiometer equation: 1 / sqrt(bandwidth * time)."""
        return np.asarray(1 / np.sqrt(self.bandwidth * 1e6 * self.seconds))

    @property
    def slope(self) -> float:
        """The exponent of the integration time: -0.5 if dumps are independent."""
        return float(np.polyfit(np.log(self.seconds), np.log(self.measured), 1)[0])


def observe(
    integrations: Iterable[int] = INTEGRATIONS, dumps: int = 10, seconds: float = 5.12
) -> dict[str, Observation]:
    """Observe `dumps` dumps with each integration time in ms. Then observe for `seconds` with 5 ms.

    Return {name of the file: its data}. The name is the integration time, and `long` for the last file.
    """
    with Telescope("sardara") as telescope:
        telescope.backend.set_configuration("SK00")
        for integration in integrations:
            telescope.backend.set_integration(integration)
            telescope.observe(str(integration), dumps * integration / 1000)
        telescope.backend.set_integration(5)
        telescope.observe("long", seconds)
        return telescope.files()


def of_a_bin(files: Sequence[Observation]) -> Noise:
    """Return the noise of single bins, from the differences of consecutive dumps."""
    measured = []
    for each in files:
        # Omit the outer bins: their power is so low that the zero level is a part of it.
        bins = each.counts[:, :, len(each.frequencies) // 20 : -len(each.frequencies) // 20]
        steps = np.diff(bins, axis=1) / bins.mean(axis=1, keepdims=True)
        # The variance of a difference of two dumps is twice that of a dump.
        measured.append(np.sqrt(np.mean(steps**2) / 2))
    return Noise(np.array([each.integration for each in files]), np.array(measured), files[0].width)


def of_the_sum(long: Observation) -> Noise:
    """Return the noise of the sum over the band.

    It is computed from the differences of consecutive means, each over 1, 2, 4 ... dumps.
    """
    power = long.counts.sum(axis=2)
    counts = np.array([2**n for n in range(20) if 2**n <= power.shape[1] // 8])
    measured = []
    for count in counts:
        whole = power[:, : power.shape[1] // count * count]
        means = whole.reshape(len(power), -1, count).mean(axis=2) / whole.mean(axis=1, keepdims=True)
        measured.append(np.sqrt(np.mean(np.diff(means, axis=1) ** 2) / 2))
    # The bins contribute by their level, so the effective bandwidth is below the full bandwidth.
    level = long.counts.mean(axis=1)
    bandwidth = long.width * float(np.mean(level.sum(axis=1) ** 2 / (level**2).sum(axis=1)))
    return Noise(counts * long.integration, np.array(measured), bandwidth)


def plot(single: Noise, band: Noise, path: str) -> None:
    """Plot both kinds of noise with the radiometer equation."""
    figure, (axes,) = panels(1)
    for noise, marker, colour, name in (
        (single, "o", BLUE, f"a bin of {single.bandwidth:.2f} MHz: a file for each integration time"),
        (band, "s", ORANGE, "the sum over the band: dumps of 5 ms put together"),
    ):
        axes.loglog(noise.seconds * 1000, noise.measured, marker, color=colour, markersize=7, label=name)
        times = np.geomspace(0.004, 0.8, 2)
        expected = 1 / np.sqrt(noise.bandwidth * 1e6 * times)
        line = axes.loglog(times * 1000, expected, "--", color=GREY, linewidth=1)
    line[0].set_label("radiometer equation: 1 / sqrt(bandwidth x time)")
    axes.annotate(
        "here the gain drifts", (1000 * band.seconds[-1], band.measured[-1]), (-12, 14),
        textcoords="offset points", ha="right", color=GREY,
    )  # fmt: skip
    ticks = [5, 10, 20, 40, 80, 160, 320, 640]
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.set(title="Noise against integration time", xlabel="integration time (ms)", ylabel="noise / level")
    axes.set_ylim(2.5e-5, 0.1)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(path)


def main(path: str) -> None:
    """Observe, reduce, print and plot."""
    files = observe()
    single, band = of_a_bin([files[str(each)] for each in INTEGRATIONS]), of_the_sum(files["long"])
    for seconds, measured, expected in zip(single.seconds, single.measured, single.expected, strict=True):
        print(f"{1000 * seconds:4.0f} ms: {measured:.5f} of the level, radiometer equation {expected:.5f}")
    print(f"slope: {single.slope:.3f}")
    for seconds, ratio in zip(band.seconds, band.measured / band.expected, strict=True):
        print(f"sum over the band, {1000 * seconds:4.0f} ms: {ratio:.2f} times the radiometer equation")
    plot(single, band, path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "noise.png")
