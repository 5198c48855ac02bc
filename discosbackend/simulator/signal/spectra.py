"""Spectra: computes the dumps of an acquisition, with noise by the radiometer equation, as integer counts.

mean computes the mean without noise; total_power computes levels without an acquisition.
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

# From this number of samples on, the cube of a normal deviate approximates the gamma distribution at half the cost.
_LEAST_FOR_CUBE = 9.5

_INT32 = numpy.iinfo(numpy.int32)

_Counts = NDArray[numpy.int32]


class _Scale:
    """Converts values to integer counts, limited to full scale. ValueError if full scale exceeds 32 bits."""

    def __init__(self, full_scale: int) -> None:
        if not 0 < full_scale <= _INT32.max:
            raise ValueError(f"full_scale must be 1 to {_INT32.max}, not {full_scale!r}")
        self._full = full_scale
        # The largest float32 up to full scale: 2^31 - 1 has no float32, and the nearest float32 is no int32.
        limit = numpy.float32(full_scale)
        self._limit = float(limit if int(limit) <= full_scale else numpy.nextafter(limit, numpy.float32(0)))

    def store(self, values: Values, out: _Counts, *, signed: bool = False) -> None:
        """Round and clip `values` in place, and store them in `out` as counts."""
        numpy.rint(values, out=values)
        numpy.clip(values, -self._limit if signed else 0.0, self._limit, out=values)
        numpy.copyto(out, values, casting="unsafe")
        if self._limit < self._full and (values.max() == self._limit or values.min() == -self._limit):
            out[values == self._limit] = self._full
            out[values == -self._limit] = -self._full


class Spectra:
    """Computes the dumps of one acquisition.

    With the same setup, skies and version of numpy the dumps are identical. Do not share it between threads.

    Parameters
    ----------
    setup
        The settings of the acquisition.

    Raises
    ------
    ValueError
        If the setup is invalid; the message says why.
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
        """Return an array for fill(): int32, shape (setup.values,)."""
        return numpy.zeros(self._setup.values, numpy.int32)

    def fill(self, dump: int, sky: Sky, out: _Counts) -> None:
        """Compute a dump. The interpreter lock is released for nearly all of the time.

        Parameters
        ----------
        dump
            The number of the dump. Dumps must be computed in order from 0, because the noise of a channel is one stream
            of random numbers.
        sky
            The sky during the whole dump. Sources that drift are where they are in the middle of the dump.
        out
            The array of buffers(). It receives the values of one channel after the other; a full Stokes channel has L,
            R, Q and U. L and R are counts from 0 to full scale; Q and U may be negative.

        Raises
        ------
        ValueError
            If the dump is not the next one, or if `out` has another shape or type.
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
    """Fill `out` with means of `samples` squared complex Gaussian samples: mean 1, variance 1 / samples.

    These means have a gamma distribution. From about ten samples on, the cube of a normal deviate (Wilson and Hilferty)
    has the same mean, variance and skewness to 0.1 %; to be negative it would have to deviate by 9 sigma.
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
    """Return the mean of a dump, without noise and gain drift, not rounded.

    Parameters
    ----------
    setup
        The settings of the acquisition.
    number
        The number of the channel.
    sky
        The sky during the dump.
    dump
        The number of the dump.

    Returns
    -------
    ndarray
        Counts, float64, shape (channel.values,), in the order of fill().
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
