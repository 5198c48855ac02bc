"""Passband: how a simulated backend's bins respond, where they lie on the sky, and how its gain drifts.

Everything here is made once, from a seed, and serves all dumps. What is seen through it is in mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import lru_cache

import numpy
from numpy.typing import NDArray

from discosbackend.simulator.instrument.model import Channel, Comb, Receiver, Response
from discosbackend.simulator.signal.sky import Source

__all__ = ["HOTTEST", "Bins", "Drift", "Patch", "Purpose", "cross_pattern", "shape", "stream"]


# How far the filters' edges reach into the band, as a part of it.
_ROLL_OFF = 0.05

HOTTEST = 1e9
"""Nothing is hotter, in K: squares of counts must stay within a float32."""

# On how many points at most a shape is worked out. It is smooth, and there may be 65536 bins of 14 inputs.
_POINTS = 4096

# The ripple: this many cosines, of at most so many periods across the band, together about 3 % high.
_RIPPLES = 4
_RIPPLE_PERIODS = (1.0, 8.0)
_RIPPLE_LEVEL = (0.005, 0.012)

# Full width at half maximum of each peak of a comb, in MHz: SARDARA's bins of 1.46 MHz show most of the
# level.
_COMB_WIDTH = 1.0

# The periods of the gain in seconds, evenly spaced in their logarithm, and how many of them.
_DRIFT_PERIODS = (10.0, 1000.0)
_DRIFTS = 12

# Where erf is 1 to a part in 10^11.
_ERF_REACH = 5.0

# As a part of a bin.
_NARROWEST = 1e-12

_FWHM = 2 * math.sqrt(math.log(2))


class Purpose(IntEnum):
    """What random numbers are for: those of different purpose share nothing."""

    NOISE = 0
    DRIFT = 1
    SHAPE = 2
    CROSS = 3
    METER = 4


def stream(seed: int, purpose: Purpose, acquisition: int = 0, number: int = 0) -> numpy.random.Generator:
    """Random numbers that no other combination of arguments shares; any integer is a seed."""
    key = (int(seed < 0), purpose, acquisition, number)
    return numpy.random.Generator(numpy.random.SFC64(numpy.random.SeedSequence(abs(seed), spawn_key=key)))


@lru_cache(maxsize=32)  # a millisecond for 65536 bins: fourteen inputs would hold up the reactor at every get-tpi
def shape(bins: int, response: Response, seed: int, number: int) -> NDArray[numpy.float64]:
    """The response of each bin of input `number`, 1 at the peak, without the factors of DC bin and spur.

    An exponential slope with a smooth ripple, a raised cosine down to `response.edge` at either end. A single
    bin is a total power detector, whose gain is all that there is to say: 1. Read-only.
    """
    found = numpy.ones(1) if bins == 1 else _shape_of_band(bins, response, seed, number)
    found.setflags(write=False)
    return found


def _shape_of_band(bins: int, response: Response, seed: int, number: int) -> NDArray[numpy.float64]:
    x = _middles(min(bins, _POINTS))
    random = stream(seed, Purpose.SHAPE, number=number)
    ripple = numpy.ones(len(x))
    for _ in range(_RIPPLES):
        periods, phase = random.uniform(*_RIPPLE_PERIODS), random.uniform(0, 2 * math.pi)
        ripple += random.uniform(*_RIPPLE_LEVEL) * numpy.cos(2 * math.pi * periods * x + phase)
    # From whichever end is the higher: a steep slope must not overflow.
    body = ripple * numpy.exp(-response.slope * (x if response.slope > 0 else x - 1))
    inside = numpy.sin(numpy.minimum(numpy.minimum(x, 1 - x) / _ROLL_OFF, 1.0) * (math.pi / 2)) ** 2
    edge = response.edge * float((body * inside).max())
    body = edge + (body - edge) * inside
    body /= body.max()
    return body if len(x) == bins else numpy.asarray(numpy.interp(_middles(bins), x, body))


def cross_pattern(bins: int, response: Response, seed: int, feed: int) -> tuple[NDArray[numpy.float32], ...]:
    """Q and U against the root of L times R, of a receiver that is not perfect.

    Its phase turns across the band. Their common size is `response.cross`; Q and U change sign a few times,
    not at the same bins.
    """
    random = stream(seed, Purpose.CROSS, number=feed)
    turns, phase = random.uniform(1.5, 3.0), random.uniform(0, 2 * math.pi)
    angle = 2 * math.pi * turns * _middles(bins) + phase
    parts = (numpy.cos(angle), numpy.sin(angle))
    return tuple((response.cross * part).astype(numpy.float32) for part in parts)


def _middles(count: int) -> NDArray[numpy.float64]:
    """The middles of so many bins, the band being 0 to 1."""
    return (numpy.arange(count) + 0.5) / count


class Drift:
    """The gain of an input, 1 in the long run: a function of time, `rms` its relative size over many minutes.

    A sum of sines between 10 s and 1000 s. It is what makes the sum over a band worse than the radiometer
    equation allows, and bins hardly so.
    """

    def __init__(self, random: numpy.random.Generator, rms: float) -> None:
        low, high = map(math.log, _DRIFT_PERIODS)
        steps = (numpy.arange(_DRIFTS) + random.uniform(0, 1, _DRIFTS)) / _DRIFTS
        self._rates = 2 * math.pi / numpy.exp(low + (high - low) * steps)
        self._phases = random.uniform(0, 2 * math.pi, _DRIFTS)
        self._amplitude = rms * math.sqrt(2 / _DRIFTS)

    def at(self, seconds: float) -> float:
        """The factor, 0 or more."""
        if not self._amplitude:
            return 1.0
        return max(0.0, 1.0 + self._amplitude * float(numpy.sin(self._rates * seconds + self._phases).sum()))


class Patch:
    """Kelvin by bin, where it is not zero: of the bins `where`, the `kelvin`."""

    __slots__ = ("kelvin", "where")

    def __init__(self, first: int, kelvin: NDArray[numpy.float32]) -> None:
        self.where = slice(first, first + len(kelvin))
        self.kelvin = kelvin


class Bins:
    """Where the bins of a channel lie on the sky.

    Readers of the files take local oscillator + start frequency + b * width for bin b. So that is the
    *middle* of a bin, as it is for the points of an FFT, and what is found lies where it was put, to half a
    bin. A single bin is a filter, which reaches from the start frequency over the whole bandwidth.
    """

    def __init__(self, channel: Channel, receiver: Receiver) -> None:
        self.count = channel.bins
        self.width = channel.bandwidth / channel.bins
        first = receiver.local_oscillator + channel.start_frequency
        self._low = first - self.width / 2 if self.count > 1 else first

    def patch(self, peaks: Iterable[tuple[float, float, float]]) -> Patch | None:
        """Gaussian peaks, each (frequency in MHz, full width at half maximum in MHz, height in K).

        Each bin has the mean of the curve over its width: a peak narrower than a bin keeps its integral. None
        if all of them are outside.
        """
        parts = [self._peak(*peak) for peak in peaks] if self.width else []
        parts = [(first, kelvin) for first, kelvin in parts if len(kelvin)]
        if not parts:
            return None
        low = min(first for first, _ in parts)
        whole = numpy.zeros(max(first + len(kelvin) for first, kelvin in parts) - low)
        for first, kelvin in parts:
            whole[first - low : first - low + len(kelvin)] += kelvin
        return Patch(low, numpy.clip(whole, -HOTTEST, HOTTEST).astype(numpy.float32))

    def lines(self, source: Source) -> Patch | None:
        """The lines of a source in mid-beam."""
        return self.patch((line.frequency, line.width_mhz, line.peak) for line in source.lines)

    def comb(self, comb: Comb) -> Patch | None:
        """Interference. ValueError for peaks without a distance."""
        if not comb.spacing > 0:
            raise ValueError(f"the spacing of a comb must be above 0 MHz, not {comb.spacing!r}")
        return self.patch(self._teeth(comb))

    def _teeth(self, comb: Comb) -> Iterator[tuple[float, float, float]]:
        # Only those near the band: a comb may be as long as it likes. A last peak may miss by rounding.
        near = (
            self._low - _COMB_WIDTH * _ERF_REACH,
            self._low + self.width * self.count + _COMB_WIDTH * _ERF_REACH,
        )
        begin = max(0, math.ceil((near[0] - comb.first) / comb.spacing))
        end = math.floor((min(near[1], comb.last) - comb.first) / comb.spacing + 1e-6)
        for number in range(begin, end + 1):
            yield comb.first + number * comb.spacing, _COMB_WIDTH, comb.level

    def _peak(self, frequency: float, width: float, height: float) -> tuple[int, NDArray[numpy.float64]]:
        # Narrower than that there is nothing of it, and no float for its inverse.
        scale = _FWHM / max(width, _NARROWEST * self.width)
        offset = frequency - self._low
        reach = _ERF_REACH / scale
        first = min(max(math.floor((offset - reach) / self.width), 0), self.count)
        last = min(max(math.ceil((offset + reach) / self.width), first), self.count)
        edges = (numpy.arange(first, last + 1) * self.width - offset) * scale
        # numpy has no erf. This is the one loop in Python: once for a line, over the bins that it covers.
        areas = numpy.diff(numpy.fromiter(map(math.erf, edges.tolist()), numpy.float64, len(edges)))
        return first, areas * (height * math.sqrt(math.pi) / (2 * scale * self.width))
