"""The passband of a simulated backend: the response and the sky frequencies of its bins, and the drift of its gain.

All of it is computed once from a seed and used for all dumps. mean applies it to a sky.
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


# The width of the filter's edge at each end, as a fraction of the band.
_ROLL_OFF = 0.05

HOTTEST = 1e9
"""The highest temperature in K, so that the square of a value in counts is a finite float32."""

# The most points at which a shape is computed. It is smooth, and 14 inputs may have 65536 bins each.
_POINTS = 4096

# The ripple is a sum of cosines: their number, and the ranges of their periods per band and of their amplitudes. Its
# total amplitude is about 3 %.
_RIPPLES = 4
_RIPPLE_PERIODS = (1.0, 8.0)
_RIPPLE_LEVEL = (0.005, 0.012)

# Full width at half maximum of each peak of a comb in MHz. A bin of SARDARA (1.46 MHz) then shows most of its level.
_COMB_WIDTH = 1.0

# The gain drift is a sum of sines: the range of their periods in seconds, spaced evenly in the logarithm, and their
# number.
_DRIFT_PERIODS = (10.0, 1000.0)
_DRIFTS = 12

# From here on erf differs from 1 by less than 1e-11.
_ERF_REACH = 5.0

# The smallest width of a line, as a fraction of a bin.
_NARROWEST = 1e-12

_FWHM = 2 * math.sqrt(math.log(2))


class Purpose(IntEnum):
    """The purposes of random numbers. Each has independent streams."""

    NOISE = 0
    DRIFT = 1
    SHAPE = 2
    CROSS = 3
    METER = 4
    QUICK_LOOK = 5


def stream(seed: int, purpose: Purpose, acquisition: int = 0, number: int = 0) -> numpy.random.Generator:
    """Return a random number generator that is independent for each combination of arguments; `seed` is any integer."""
    key = (int(seed < 0), purpose, acquisition, number)
    return numpy.random.Generator(numpy.random.SFC64(numpy.random.SeedSequence(abs(seed), spawn_key=key)))


@lru_cache(maxsize=32)  # 65536 bins take a millisecond; fourteen inputs would block the reactor at each get-tpi
def shape(bins: int, response: Response, seed: int, number: int) -> NDArray[numpy.float64]:
    """Return the response of each bin of an input, without the factors of the DC bin and of the spur.

    The response is an exponential slope with a smooth ripple; at both ends it falls to `response.edge` as a raised
    cosine. A single bin is a total power detector; its response is 1.

    Returns
    -------
    ndarray
        float64, shape (bins,), 1 at the peak, read-only.
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
    # Begin at the higher end, so that a steep slope cannot overflow.
    body = ripple * numpy.exp(-response.slope * (x if response.slope > 0 else x - 1))
    inside = numpy.sin(numpy.minimum(numpy.minimum(x, 1 - x) / _ROLL_OFF, 1.0) * (math.pi / 2)) ** 2
    edge = response.edge * float((body * inside).max())
    body = edge + (body - edge) * inside
    body /= body.max()
    return body if len(x) == bins else numpy.asarray(numpy.interp(_middles(bins), x, body))


def cross_pattern(bins: int, response: Response, seed: int, feed: int) -> tuple[NDArray[numpy.float32], ...]:
    """Return the leakage of a real receiver into Q and U, relative to the square root of L times R.

    Its phase rotates across the band, so that Q and U change their signs a few times, at different bins.

    Returns
    -------
    tuple of ndarray
        Q and U, float32, shape (bins,). The root of the sum of their squares is `response.cross`.
    """
    random = stream(seed, Purpose.CROSS, number=feed)
    turns, phase = random.uniform(1.5, 3.0), random.uniform(0, 2 * math.pi)
    angle = 2 * math.pi * turns * _middles(bins) + phase
    parts = (numpy.cos(angle), numpy.sin(angle))
    return tuple((response.cross * part).astype(numpy.float32) for part in parts)


def _middles(count: int) -> NDArray[numpy.float64]:
    """Return the centres of `count` bins, for a band from 0 to 1."""
    return (numpy.arange(count) + 0.5) / count


class Drift:
    """The gain of an input as a function of time: 1 on average, with a relative rms of `rms` over many minutes.

    It is a sum of sines with periods from 10 s to 1000 s. Because of it the total power is noisier than by the
    radiometer equation; the noise of a single bin is so large that the drift hardly matters.
    """

    def __init__(self, random: numpy.random.Generator, rms: float) -> None:
        low, high = map(math.log, _DRIFT_PERIODS)
        steps = (numpy.arange(_DRIFTS) + random.uniform(0, 1, _DRIFTS)) / _DRIFTS
        self._rates = 2 * math.pi / numpy.exp(low + (high - low) * steps)
        self._phases = random.uniform(0, 2 * math.pi, _DRIFTS)
        self._amplitude = rms * math.sqrt(2 / _DRIFTS)

    def at(self, seconds: float) -> float:
        """Return the gain at this time, 0 or more."""
        if not self._amplitude:
            return 1.0
        return max(0.0, 1.0 + self._amplitude * float(numpy.sin(self._rates * seconds + self._phases).sum()))


class Patch:
    """A contribution in K that is 0 outside of some bins: `kelvin` has the values of the bins `where`."""

    __slots__ = ("kelvin", "where")

    def __init__(self, first: int, kelvin: NDArray[numpy.float32]) -> None:
        self.where = slice(first, first + len(kelvin))
        self.kelvin = kelvin


class Bins:
    """The sky frequencies of the bins of a channel.

    Programs that read the files compute local oscillator + start frequency + b * width as the frequency of bin b. So
    this is the *centre* of the bin, as for an FFT, and these programs find a line at its frequency to half a bin. A
    single bin is a filter: it begins at the start frequency and covers the whole bandwidth.
    """

    def __init__(self, channel: Channel, receiver: Receiver) -> None:
        self.count = channel.bins
        self.width = channel.bandwidth / channel.bins
        first = receiver.local_oscillator + channel.start_frequency
        self._low = first - self.width / 2 if self.count > 1 else first

    def patch(self, peaks: Iterable[tuple[float, float, float]]) -> Patch | None:
        """Return Gaussian peaks as a Patch; None if all of them are outside of the band.

        A bin has the mean of the curve over its width, so that a peak narrower than a bin keeps its integral.

        Parameters
        ----------
        peaks
            For each peak its frequency in MHz, its full width at half maximum in MHz and its height in K.
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
        """Return the lines of a source at the centre of the beam; None if there are none in the band."""
        return self.patch((line.frequency, line.width_mhz, line.peak) for line in source.lines)

    def comb(self, comb: Comb) -> Patch | None:
        """Return the interference of a comb; None if it is outside of the band. Raise ValueError for a spacing of 0."""
        if not comb.spacing > 0:
            raise ValueError(f"the spacing of a comb must be above 0 MHz, not {comb.spacing!r}")
        return self.patch(self._teeth(comb))

    def _teeth(self, comb: Comb) -> Iterator[tuple[float, float, float]]:
        # Only the peaks near the band, as a comb may be long. 1e-6: rounding must not lose the last peak.
        near = (
            self._low - _COMB_WIDTH * _ERF_REACH,
            self._low + self.width * self.count + _COMB_WIDTH * _ERF_REACH,
        )
        begin = max(0, math.ceil((near[0] - comb.first) / comb.spacing))
        end = math.floor((min(near[1], comb.last) - comb.first) / comb.spacing + 1e-6)
        for number in range(begin, end + 1):
            yield comb.first + number * comb.spacing, _COMB_WIDTH, comb.level

    def _peak(self, frequency: float, width: float, height: float) -> tuple[int, NDArray[numpy.float64]]:
        # A smaller width has no visible effect, and its inverse may not be a finite float.
        scale = _FWHM / max(width, _NARROWEST * self.width)
        offset = frequency - self._low
        reach = _ERF_REACH / scale
        first = min(max(math.floor((offset - reach) / self.width), 0), self.count)
        last = min(max(math.ceil((offset + reach) / self.width), first), self.count)
        edges = (numpy.arange(first, last + 1) * self.width - offset) * scale
        # numpy has no erf, so this is a loop in Python. It runs once for each line, over the bins that the line covers.
        areas = numpy.diff(numpy.fromiter(map(math.erf, edges.tolist()), numpy.float64, len(edges)))
        return first, areas * (height * math.sqrt(math.pi) / (2 * scale * self.width))
