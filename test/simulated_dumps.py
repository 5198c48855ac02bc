"""Dumps of a simulated backend for comparisons with theory: setups, skies, limits of five sigma."""

from __future__ import annotations

import math
import unittest
from typing import Any

import numpy

from discosbackend.simulator.instrument.model import Channel, Comb, Receiver, Response, Setup
from discosbackend.simulator.signal.sky import Sky, Source
from discosbackend.simulator.signal.spectra import Spectra, expected

__all__ = [
    "GAIN",
    "MARK",
    "SIGMAS",
    "TSYS",
    "ChannelMeanMixin",
    "dumps",
    "means",
    "samples_of",
    "seen",
    "setup_of",
]

SIGMAS = 5

TSYS, MARK = 100.0, 50.0

# Counts per K and MHz that make SARDARA's sum over its band.
GAIN = 2.05e6


def setup_of(
    *,
    feeds: tuple[int, ...] = (0,),
    stokes: bool = False,
    bandwidth: float = 1500.0,
    bins: int = 1024,
    start: float = 0.0,
    integration: int = 40,
    attenuation: float = 7.0,
    seed: int = 1,
    acquisition: int = 0,
    local_oscillator: float = 21235.0,
    interference: tuple[Comb, ...] = (),
    **response: Any,
) -> Setup:
    """SARDARA in K band, by default without gain drift, DC bin and spur."""
    polarisations: list[tuple[str, ...]] = [("L", "R")] if stokes else [("L",), ("R",)]
    inputs = 2 * (max(feeds) + 1)
    return Setup(
        instrument="sardara",
        configuration="SK00",
        seed=seed,
        acquisition=acquisition,
        integration=integration,
        attenuation=attenuation,
        receiver=Receiver(local_oscillator=local_oscillator, interference=interference),
        response=Response(**{"gain": GAIN, "drift": 0.0, "dc": 1.0, "spur": 1.0, **response}),
        channels=tuple(Channel(feed, each, start, bandwidth, bins) for feed in feeds for each in polarisations),
        tsys=(TSYS,) * inputs,
        marks=(MARK,) * inputs,
    )


def dumps(setup: Setup, count: int, sky: Sky = Sky()) -> Any:
    """So many dumps, each cut into planes of `bins`: an array of floats (dump, plane, bin)."""
    spectra, out = Spectra(setup), []
    for dump in range(count):
        room = spectra.buffers()
        spectra.fill(dump, sky, room)
        out.append(room)
    return numpy.array(out, float).reshape((count, -1, setup.channels[0].bins))


def means(setup: Setup, sky: Sky = Sky(), dump: int = 0) -> Any:
    """What is to be expected, as dumps()."""
    found = [expected(setup, number, sky, dump) for number in range(len(setup.channels))]
    return numpy.concatenate(found).reshape((-1, setup.channels[0].bins))


def samples_of(setup: Setup) -> float:
    """The samples that a bin of a dump is the mean of."""
    return setup.channels[0].bandwidth * 1e6 / setup.channels[0].bins * setup.integration * 1e-3


def seen(**source: Any) -> Sky:
    """A sky with one source."""
    return Sky().with_source("it", Source(**source))


class ChannelMeanMixin(unittest.TestCase):
    """Comparisons within confidence limits."""

    def assert_near(self, wanted: float, found: float, sigma: float) -> None:
        self.assertLess(abs(found - wanted), SIGMAS * sigma, f"{found} is not {wanted} +- {sigma}")

    def assert_uncorrelated(self, one: Any, other: Any) -> None:
        self.assert_near(0.0, float(numpy.corrcoef(one.ravel(), other.ravel())[0, 1]), one.size**-0.5)

    def assert_variance(self, wanted: float, values: Any, excess: float = 0.0) -> None:
        """Of values around 0, with so much kurtosis above that of a normal distribution."""
        self.assert_near(wanted, float(numpy.mean(values**2)), wanted * math.sqrt((2 + excess) / values.size))
