"""Meter: the levels of each input that an instrument reports on request: total power, zero level, rms.

They follow from the same means as the dumps that spectra makes, but no dump is made for them.
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

# Relative noise of the zero level and of a sampler's rms.
_LEVEL_NOISE = 0.01

# Seconds that are taken to pass from one total power reading to the next: their gain wanders, but slowly.
_READING = 0.1


class Meter:
    """The levels that get-tpi, get-tp0 and get-rms tell: of each input, in the order of the channels'.

    The same seed and calls give the same values. They have eight significant digits, so that fourteen of them
    fit into a reply. They are those of a dump, summed over the band, but no dump is made.
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
        """Counts of each input: the sum over its bins, or as much of it as `bandwidth` MHz are of the band.

        `dump` is the one that is being made, where something is being acquired: cal-on's interleave and
        sources that drift count from its beginning. Without it the diode is as the receiver has it, and those
        sources are not in the beam.
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
        """Counts of each input when it is terminated."""
        return [_rounded(setup.response.zero * self._level()) for _ in _inputs(setup)]

    def rms(self, setup: Setup) -> list[float]:
        """The rms, in counts, of each input's sampler."""
        level = setup.response.rms * 10 ** (-setup.attenuation / 20)
        return [_rounded(level * self._level()) for _ in _inputs(setup)]

    def _total_power(self, setup: Setup, values: Values, samples: float, part: float) -> float:
        """From the means of an input's bins, of so many samples each; `part` of the band is wanted."""
        zero, full = setup.response.zero, float(setup.response.full_scale)
        numpy.minimum(values, full, out=values)
        total = float(values.sum(dtype=numpy.float64))
        # Bins count by their level: the sum is noisier than the radiometer equation has it for a flat band.
        samples = samples * total**2 / float(numpy.dot(values, values)) if total else 1.0
        power = max(0.0, total - zero) * part * self._power(max(1.0, samples * part))
        return min(power + zero, full * len(values))

    def _prepare(self, setup: Setup) -> None:
        # Working out shapes takes milliseconds. They do not depend on the acquisition.
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
