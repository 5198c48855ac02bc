"""Picture: computes quick looks of a simulated instrument for the page, with few bins, in less than a millisecond.

They are computed from the same means as the dumps of spectra, with noise by the radiometer equation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy

from discosbackend.monitor.quick_look import MOST_INPUTS, MOST_POINTS, QuickLook
from discosbackend.simulator.instrument.model import Channel, Setup
from discosbackend.simulator.signal.mean import ChannelMean, Moment, channel_means, moment_of
from discosbackend.simulator.signal.passband import Purpose, stream
from discosbackend.simulator.signal.sky import Sky

__all__ = ["Picture"]


class Picture:
    """Computes quick looks. They do not change what is measured: their noise has a stream of its own.

    Parameters
    ----------
    seed
        The seed of the noise.
    """

    def __init__(self, seed: int) -> None:
        self._random = stream(seed, Purpose.QUICK_LOOK)
        self._setup: Setup | None = None
        self._channel_means: list[ChannelMean] = []
        # How many bins of the instrument are in one of the picture.
        self._ratio = 1.0

    def prepare(self, setup: Setup) -> Iterator[None]:
        """Compute the shapes of the bands, which takes some milliseconds. It yields about once a millisecond.

        Until it has finished, and after the settings have changed, look() returns None.

        Parameters
        ----------
        setup
            The settings, with one channel for each input. Inputs with another band than the first are left out.
        """
        first = setup.channels[0]
        bins = min(first.bins, MOST_POINTS)
        ratio = first.bins / bins
        # The DC bin and the spur are one bin wide. Here they share a bin with others.
        response = replace(
            setup.response, dc=1 + (setup.response.dc - 1) / ratio, spur=1 + (setup.response.spur - 1) / ratio
        )
        found: list[ChannelMean] = []
        for channel in setup.channels[:MOST_INPUTS]:
            if _same_band(channel, first):
                fewer = (replace(channel, bins=bins),)
                found += channel_means(replace(setup, channels=fewer, response=response))
                yield
        self._channel_means = found
        self._ratio = ratio
        # The shapes do not depend on the acquisition.
        self._setup = replace(setup, acquisition=0)

    def look(self, setup: Setup, sky: Sky, *, dump: int | None = None) -> QuickLook | None:
        """Return the spectra of one integration time, in counts, against sky frequency; None if it is not prepared.

        Parameters
        ----------
        setup
            The settings that were prepared; the number of the acquisition may differ.
        sky
            The present sky.
        dump
            The number of the current dump, during an acquisition. Default: no acquisition; drifting sources are not in
            the beam.
        """
        if replace(setup, acquisition=0) != self._setup:
            return None
        moment = Moment(sky, None, sky.diode) if dump is None else moment_of(setup, sky, dump)
        full = float(setup.response.full_scale)
        spectra, names = [], []
        for each in self._channel_means:
            noise = self._random.standard_normal(each.channel.bins, dtype=numpy.float32)
            noise *= 1 / math.sqrt(each.samples)
            noise += 1
            noise *= each.auto(0, moment, 1.0)
            noise /= self._ratio
            spectra.append(noise.clip(0.0, full, out=noise))
            names.append(f"feed {each.channel.feed} {each.channel.polarisations[0]}")
        first = setup.channels[0]
        start = setup.receiver.local_oscillator + first.start_frequency
        return QuickLook(start, first.bandwidth, spectra, names)


def _same_band(one: Channel, other: Channel) -> bool:
    return (one.start_frequency, one.bandwidth, one.bins) == (other.start_frequency, other.bandwidth, other.bins)
