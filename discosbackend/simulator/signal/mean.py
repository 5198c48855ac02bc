"""Computes the mean counts of each bin of a simulated backend, without noise.

The mean of a bin, in counts, is

    drift * gain * shape * (Tsys + diode + sources + interference) * bin width * 10^(-att/10) + zero / bins

in K, MHz and dB. The shape includes the factors of the DC bin and of the spur. passband has the frequencies and the
response of the bins, sky the sources, instrument.model the constants of an instrument, and spectra adds the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from discosbackend.simulator.instrument.model import Channel, Setup
from discosbackend.simulator.signal.passband import HOTTEST, Bins, Patch, cross_pattern, shape
from discosbackend.simulator.signal.sky import Sky, Source

__all__ = ["Moment", "Buffers", "ChannelMean", "Values", "moment_of", "channel_means"]

Values = NDArray[numpy.float32]
"""Arrays of the computation. float32 is precise enough for a dump, and float64 would take twice as long."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The sky and the diode during a dump.

    `seconds` is the time since the begin of the acquisition; None if there is no acquisition, in which case drifting
    sources are not in the beam.
    """

    sky: Sky
    seconds: float | None
    diode: bool

    def beam(self, source: Source) -> float:
        """Return the relative power of the beam at a source, 0 to 1."""
        if self.seconds is None:
            return 1.0 if source.transit is None else 0.0
        return source.beam(self.seconds)


def moment_of(setup: Setup, sky: Sky, dump: int) -> Moment:
    """Return the moment in the middle of dump number `dump`."""
    return Moment(sky, (dump + 0.5) * setup.integration * 1e-3, sky.diode_at(dump))


class Buffers:
    """Buffers for the computation of one channel, which stay in the cache of the processor."""

    __slots__ = ("autos", "noise", "spare")

    def __init__(self, bins: int) -> None:
        self.autos: tuple[Values, ...] = (numpy.empty(bins, numpy.float32), numpy.empty(bins, numpy.float32))
        self.noise: Values = numpy.empty(bins, numpy.float32)
        self.spare: Values = numpy.empty(bins, numpy.float32)

    def cut(self, bins: int) -> Buffers:
        """Return views of the same buffers for fewer bins."""
        part = Buffers(0)
        part.autos = tuple(each[:bins] for each in self.autos)
        part.noise, part.spare = self.noise[:bins], self.spare[:bins]
        return part


class _View:
    """The sources of a sky and the interference, in K, in the bins of channels with the same frequencies."""

    def __init__(self, setup: Setup, channel: Channel) -> None:
        self._bins = Bins(channel, setup.receiver)
        combs = (self._bins.comb(comb) for comb in setup.receiver.interference)
        self._interference = [(1.0, comb) for comb in combs if comb is not None]
        self._sources: Mapping[str, Source] | None = None
        self._seen: list[tuple[Source, Patch | None]] = []

    def total(self, feed: int, kelvin: float, moment: Moment, out: Values, spare: Values) -> float | Values:
        """Return `kelvin` plus all that a feed sees: a number if it is the same in all bins, else the filled `out`."""
        patches = list(self._interference)
        for source, lines in self._look(moment.sky):
            if feed in source.feeds and (beam := moment.beam(source)):
                kelvin += beam * source.level
                if lines is not None:
                    patches.append((beam, lines))
        return _summed(kelvin, patches, out, spare)

    def polarised(self, feed: int, part: int, moment: Moment, out: Values, spare: Values) -> float | Values:
        """Return Q (`part` 0) or U (`part` 1) of the sources, in the same form as total()."""
        kelvin, patches = 0.0, []
        for source, lines in self._look(moment.sky):
            if feed in source.feeds and source.linear:
                angle = 2 * math.radians(source.angle)
                weight = moment.beam(source) * source.linear * (math.sin(angle) if part else math.cos(angle))
                kelvin += weight * source.level
                if lines is not None:
                    patches.append((weight, lines))
        return _summed(kelvin, patches, out, spare)

    def _look(self, sky: Sky) -> list[tuple[Source, Patch | None]]:
        # Computing the profiles of lines is slow. A sky is immutable, and a sky that differs in Tsys or diode only has
        # the identical mapping of sources.
        if sky.sources is not self._sources:
            self._seen = [(source, self._bins.lines(source)) for source in sky.sources.values()]
            self._sources = sky.sources
        return self._seen


def _summed(kelvin: float, patches: list[tuple[float, Patch]], out: Values, spare: Values) -> float | Values:
    kelvin = min(max(kelvin, -HOTTEST), HOTTEST)
    if not patches:
        return kelvin
    out.fill(kelvin)
    for weight, patch in patches:
        part = out[patch.where]
        part += numpy.multiply(patch.kelvin, weight, out=spare[: len(part)])
    return out


class _Input:
    """One polarisation of a feed: its temperatures, and the counts per K of each bin."""

    def __init__(self, setup: Setup, channel: Channel, number: int) -> None:
        if not 0 <= number < min(len(setup.tsys), len(setup.marks)):
            raise ValueError(f"input {number} of feed {channel.feed} needs a tsys and a mark: give the setup one")
        self.number = number
        self._tsys = setup.tsys[number]
        self._mark = setup.marks[number]
        response = setup.response
        counts = response.gain * channel.bandwidth / channel.bins * 10 ** (-setup.attenuation / 10)
        bins = counts * shape(channel.bins, response, setup.seed, number)
        if channel.bins > 1:
            bins[0] *= response.dc
            bins[channel.bins // 2] *= response.spur
        self.counts: Values = bins.astype(numpy.float32)

    def kelvin(self, moment: Moment) -> float:
        """Return the temperature of the receiver in K, including the noise diode if it is on."""
        kelvin = moment.sky.tsys.get(self.number, self._tsys)
        return kelvin + moment.sky.mark.get(self.number, self._mark) if moment.diode else kelvin


class ChannelMean:
    """Computes the means of one channel. `samples` is the number of samples of a dump, which determines the noise."""

    def __init__(self, setup: Setup, channel: Channel, view: _View, buffers: Buffers) -> None:
        self.channel = channel
        self.buffers = buffers.cut(channel.bins)
        self.samples = max(1.0, channel.bandwidth * 1e6 / channel.bins * setup.integration * 1e-3)
        self.inputs = tuple(_Input(setup, channel, number) for number in channel.inputs)
        self._view = view
        self._zero = setup.response.zero / channel.bins
        if channel.stokes:
            self._pattern = cross_pattern(channel.bins, setup.response, setup.seed, channel.feed)
            left, right = (each.counts for each in self.inputs)
            self._root: Values = numpy.sqrt(left) * numpy.sqrt(right)

    def auto(self, which: int, moment: Moment, gain: float) -> Values:
        """Return the mean of input `which` of the channel (L or R), in a buffer that the next dump overwrites."""
        out, each = self.buffers.autos[which], self.inputs[which]
        kelvin = self._view.total(self.channel.feed, each.kelvin(moment), moment, out, self.buffers.spare)
        if isinstance(kelvin, numpy.ndarray):
            # An absorption line may be deeper than the total.
            numpy.clip(kelvin, 0.0, HOTTEST, out=out)
            numpy.multiply(out, each.counts, out=out)
            numpy.multiply(out, gain, out=out)
        else:
            numpy.multiply(each.counts, max(kelvin, 0.0) * gain, out=out)
        if self._zero:
            numpy.add(out, self._zero, out=out)
        return out

    def root(self) -> Values:
        """Return the square root of L times R; it overwrites the mean of L."""
        left, right = self.buffers.autos
        numpy.multiply(left, right, out=left)
        return numpy.sqrt(left, out=left)

    def cross(self, part: int, moment: Moment, gain: float, root: Values, deviates: Values) -> Values:
        """Compute Q (`part` 0) or U (`part` 1) with noise; it overwrites `deviates`, the normal deviates.

        If E_L and E_R are independent complex Gaussians, the real and the imaginary part of E_L E_R* are independent
        and have the variance L R / 2. The mean of N samples has a variance N times smaller. The correlation of E_L and
        E_R would change it by (Q^2 - U^2) / (L R), about a percent; this is neglected.
        """
        numpy.multiply(deviates, 1 / math.sqrt(2 * self.samples), out=deviates)
        numpy.add(deviates, self._pattern[part], out=deviates)
        numpy.multiply(deviates, root, out=deviates)
        # The buffer of R is free, since `root` has been computed.
        free = self.buffers.autos[1]
        kelvin = self._view.polarised(self.channel.feed, part, moment, free, self.buffers.spare)
        if isinstance(kelvin, numpy.ndarray) or kelvin:
            numpy.multiply(self._root, kelvin, out=free)
            numpy.multiply(free, gain, out=free)
            # The polarised power cannot exceed the total, which an absorption line may reduce to 0.
            numpy.minimum(free, root, out=free)
            numpy.maximum(free, numpy.negative(root, out=self.buffers.spare), out=free)
            numpy.add(deviates, free, out=deviates)
        return deviates


def channel_means(setup: Setup) -> tuple[ChannelMean, ...]:
    """Make a ChannelMean for each channel. They share buffers: use only one of them at a time."""
    buffers = Buffers(max((channel.bins for channel in setup.channels), default=0))
    views: dict[tuple[float, float, int], _View] = {}
    found = []
    for channel in setup.channels:
        frequencies = channel.start_frequency, channel.bandwidth, channel.bins
        if frequencies not in views:
            views[frequencies] = _View(setup, channel)
        found.append(ChannelMean(setup, channel, views[frequencies], buffers))
    return tuple(found)
