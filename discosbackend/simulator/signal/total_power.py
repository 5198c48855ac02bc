"""Meter: computes the levels of each input for get-tpi, get-tp0 and get-rms.

They are computed from the same means as the dumps of spectra, without computing a dump.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy

from discosbackend.simulator.instrument.model import Setup
from discosbackend.simulator.signal.mean import ChannelMean, Moment, Values, channel_means, moment_of
from discosbackend.simulator.signal.passband import Drift, Purpose, stream
from discosbackend.simulator.signal.sky import Sky

__all__ = ["Meter"]

# Relative noise of the zero level and of the rms of a sampler.
_LEVEL_NOISE = 0.01

# Seconds of gain drift from one total power reading to the next.
_READING = 0.1


class Meter:
    """Computes the levels of get-tpi, get-tp0 and get-rms.

    Each method returns one level for each input, in counts, in the order of the channels. The same seed and the same
    calls give the same levels. Levels have eight significant digits, so that fourteen of them fit into a reply.

    Parameters
    ----------
    seed
        The seed of the noise and of the gain drift.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = stream(seed, Purpose.METER)
        self._readings = 0
        self._setup: Setup | None = None
        self._channel_means: tuple[ChannelMean, ...] = ()
        self._drifts: dict[int, Drift] = {}

    def total_power(
        self, setup: Setup, sky: Sky, bandwidth: float | None = None, *, dump: int | None = None
    ) -> list[float]:
        """Return the total power of each input: the sum over its bins.

        Parameters
        ----------
        setup
            The settings, with one channel for each input.
        sky
            The current sky.
        bandwidth
            In MHz. The result is this fraction of the power of the whole band. Default: the whole band.
        dump
            The number of the current dump, during an acquisition. It determines the interleave of cal-on and the
            position of drifting sources. Default: no acquisition; the diode is as the receiver switches it, and
            drifting sources are not in the beam.
        """
        self._prepare(setup)
        moment = Moment(sky, None, sky.diode) if dump is None else moment_of(setup, sky, dump)
        seconds = self._readings * _READING
        self._readings += 1
        found = []
        for channel_mean in self._channel_means:
            whole = channel_mean.channel.bandwidth
            part = 1.0 if bandwidth is None or bandwidth >= whole else bandwidth / whole
            for which, each in enumerate(channel_mean.inputs):
                values = channel_mean.auto(which, moment, self._drifts[each.number].at(seconds))
                found.append(_rounded(self._total_power(setup, values, channel_mean.samples, part)))
        return found

    def zero_level(self, setup: Setup) -> list[float]:
        """Return the level of each input when it is terminated."""
        return [_rounded(setup.response.zero * self._level()) for _ in _inputs(setup)]

    def rms(self, setup: Setup) -> list[float]:
        """Return the rms of the sampler of each input."""
        level = setup.response.rms * 10 ** (-setup.attenuation / 20)
        return [_rounded(level * self._level()) for _ in _inputs(setup)]

    def _total_power(self, setup: Setup, values: Values, samples: float, part: float) -> float:
        """Return the total power over `part` of the band, from the means of the bins, each of `samples` samples."""
        zero, full = setup.response.zero, float(setup.response.full_scale)
        numpy.minimum(values, full, out=values)
        total = float(values.sum(dtype=numpy.float64))
        # The bins contribute by their level, so the sum is noisier than that over a flat band of this bandwidth.
        samples = samples * total**2 / float(numpy.dot(values, values)) if total else 1.0
        power = max(0.0, total - zero) * part * self._power(max(1.0, samples * part))
        return min(power + zero, full * len(values))

    def _prepare(self, setup: Setup) -> None:
        # Computing the shapes takes milliseconds; they are kept, because they do not depend on the acquisition.
        setup = replace(setup, acquisition=0)
        if setup != self._setup:
            self._channel_means = channel_means(setup)
            numbers = {number for channel in setup.channels for number in channel.inputs}
            self._drifts = {
                number: Drift(stream(self._seed, Purpose.METER, number=1 + number), setup.response.drift)
                for number in numbers
            }
            self._setup = setup

    def _level(self) -> float:
        return self._power(1 / _LEVEL_NOISE**2)

    def _power(self, samples: float) -> float:
        return float(self._random.standard_gamma(samples)) / samples


def _inputs(setup: Setup) -> Iterator[int]:
    for channel in setup.channels:
        yield from channel.inputs


def _rounded(value: float) -> float:
    return float(f"{value:.8g}")
