"""Spectra: the dumps of an acquisition. The radiometer equation's noise, and whole counts up to full scale.

The mean without noise is in mean; levels without an acquisition are in total_power.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy
from numpy.typing import NDArray

from discosbackend.simulator.instrument.model import Setup
from discosbackend.simulator.signal.mean import ChannelMean, Moment, Values, channel_means, moment_of
from discosbackend.simulator.signal.passband import Drift, Purpose, stream
from discosbackend.simulator.signal.sky import Sky

__all__ = ["Spectra", "expected"]

# From this many samples on a cubed normal deviate serves for the gamma distribution, at half the price.
_LEAST_FOR_CUBE = 9.5

_INT32 = numpy.iinfo(numpy.int32)

_Counts = NDArray[numpy.int32]


class _Scale:
    """Whole counts up to full scale. ValueError for one that no 32-bit count reaches."""

    def __init__(self, full_scale: int) -> None:
        if not 0 < full_scale <= _INT32.max:
            raise ValueError(f"full_scale must be 1 to {_INT32.max}, not {full_scale!r}")
        self._full = full_scale
        # 2^31 - 1 is no float32, and the next one is no int32 any more.
        limit = numpy.float32(full_scale)
        self._limit = float(limit if int(limit) <= full_scale else numpy.nextafter(limit, numpy.float32(0)))

    def store(self, values: Values, out: _Counts, *, signed: bool = False) -> None:
        """Round and clip them, in place, and store them as counts."""
        numpy.rint(values, out=values)
        numpy.clip(values, -self._limit if signed else 0.0, self._limit, out=values)
        numpy.copyto(out, values, casting="unsafe")
        if self._limit < self._full and (values.max() == self._limit or values.min() == -self._limit):
            out[values == self._limit] = self._full
            out[values == -self._limit] = -self._full


class Spectra:
    """The dumps of one acquisition, the same for the same setup and skies on a given version of numpy.

    ValueError for a setup that cannot be: the text says why. Not to be shared between threads.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._scale = _Scale(setup.response.full_scale)
        self._channel_means = channel_means(setup)
        self._streams = [
            stream(setup.seed, Purpose.NOISE, setup.acquisition, number) for number in range(len(setup.channels))
        ]
        self._drifts = {
            each.number: Drift(stream(setup.seed, Purpose.DRIFT, setup.acquisition, each.number), setup.response.drift)
            for channel_mean in self._channel_means
            for each in channel_mean.inputs
        }
        self._next = 0

    def buffers(self) -> _Counts:
        """An array for fill()."""
        return numpy.zeros(self._setup.values, numpy.int32)

    def fill(self, dump: int, sky: Sky, out: _Counts) -> None:
        """Fill `out`, as of buffers(), with a dump: the channels' values, of a Stokes channel L, R, Q and U.

        Counts are whole, L and R 0 to full scale, Q and U either side of 0. Dumps have to be asked for one
        after the other from 0 on, since their noise comes from one stream a channel; ValueError otherwise.
        `sky` is what a dump sees from its beginning to its end, sources that drift where they are in its
        middle. Lets go of the interpreter lock for nearly all of the time.
        """
        if dump != self._next:
            raise ValueError(f"dumps are made one after the other: {self._next} is next, not {dump}")
        if out.dtype != numpy.int32 or out.shape != (self._setup.values,):
            raise ValueError(f"out must be {self._setup.values} int32, not {out.shape} {out.dtype}")
        self._next += 1
        moment = moment_of(self._setup, sky, dump)
        first = 0
        for channel_mean, random in zip(self._channel_means, self._streams, strict=True):
            channel = channel_mean.channel
            self._fill(channel_mean, random, moment, out[first : first + channel.values])
            first += channel.values

    def _fill(self, channel_mean: ChannelMean, random: numpy.random.Generator, moment: Moment, out: _Counts) -> None:
        bins, noise = channel_mean.channel.bins, channel_mean.buffers.noise
        gains = [self._drifts[each.number].at(moment.seconds or 0.0) for each in channel_mean.inputs]
        for which, gain in enumerate(gains):
            mean = channel_mean.auto(which, moment, gain)
            _draw_power(random, channel_mean.samples, noise, channel_mean.buffers.spare)
            numpy.multiply(noise, mean, out=noise)
            self._scale.store(noise, out[which * bins : (which + 1) * bins])
        if channel_mean.channel.stokes:
            root, gain = channel_mean.root(), math.sqrt(gains[0] * gains[1])
            for part in range(2):
                random.standard_normal(dtype=numpy.float32, out=noise)
                values = channel_mean.cross(part, moment, gain, root, noise)
                self._scale.store(values, out[(2 + part) * bins : (3 + part) * bins], signed=True)


def _draw_power(random: numpy.random.Generator, samples: float, out: Values, spare: Values) -> None:
    """The mean of so many squared complex Gaussian samples: 1 on average, with the variance 1 / samples.

    That is a gamma distribution. From some ten samples on, Wilson and Hilferty's cube of a normal deviate has
    its mean, variance and skewness to a part in a thousand, and cannot be negative (9 sigma at ten samples).
    """
    if samples < _LEAST_FOR_CUBE:
        random.standard_gamma(samples, dtype=numpy.float32, out=out)
        numpy.multiply(out, 1 / samples, out=out)
        return
    random.standard_normal(dtype=numpy.float32, out=out)
    numpy.multiply(out, 1 / (3 * math.sqrt(samples)), out=out)
    numpy.add(out, 1 - 1 / (9 * samples), out=out)
    numpy.multiply(out, out, out=spare)
    numpy.multiply(out, spare, out=out)


def expected(setup: Setup, number: int, sky: Sky, dump: int = 0) -> NDArray[numpy.float64]:
    """What channel `number` has in a dump on average: in counts, laid out as by fill().

    Without noise and drift, and not rounded.
    """
    channel = setup.channels[number]
    channel_mean = channel_means(replace(setup, channels=(channel,)))[0]
    moment = moment_of(setup, sky, dump)
    parts = [channel_mean.auto(which, moment, 1.0).copy() for which in range(len(channel_mean.inputs))]
    if channel.stokes:
        root = channel_mean.root()
        for part in range(2):
            channel_mean.buffers.noise.fill(0.0)
            parts.append(channel_mean.cross(part, moment, 1.0, root, channel_mean.buffers.noise).copy())
    full = setup.response.full_scale
    return numpy.clip(numpy.concatenate(parts).astype(numpy.float64), -full, full)
