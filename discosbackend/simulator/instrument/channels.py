"""The inputs that are measured, the channels that are recorded, and the temperatures of the inputs.

These are pure functions on records. The module sections checks sections.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from discosbackend.simulator.instrument.model import Channel, Configuration, Receiver
from discosbackend.simulator.instrument.sections import Section, initial

__all__ = ["channels", "inputs", "levels"]

# Left and right circular: the two inputs of a feed.
_POLARISATIONS = "LR"


class _Input(NamedTuple):
    """An input and its section."""

    feed: int
    polarisation: str
    section: Section

    def channel(self, polarisations: str) -> Channel:
        section = self.section
        return Channel(self.feed, tuple(polarisations), section.start_frequency, section.bandwidth, section.bins)


def inputs(configuration: Configuration, feeds: tuple[int, ...], sections: Mapping[int, Section]) -> Iterator[Channel]:
    """Yield a channel for each input of the enabled feeds, in their order, for get-tpi, get-tp0 and get-rms.

    Parameters
    ----------
    configuration
        The loaded configuration.
    feeds
        The enabled feeds.
    sections
        The sections by number.
    """
    for each in _inputs(configuration, feeds, sections):
        yield each.channel(each.polarisation)


def channels(
    configuration: Configuration, feeds: tuple[int, ...], sections: Mapping[int, Section]
) -> Iterator[Channel]:
    """Yield a channel for each section of the enabled feeds, as recorded; the parameters are those of inputs().

    A full Stokes channel has two inputs. The argument `feed` of set-section has no effect: the deployed clients send 0
    for every section, as their recorded sessions show.
    """
    recorded = {"LCP": "L", "RCP": "R", "FullStokes": _POLARISATIONS}
    for each in _inputs(configuration, feeds, sections):
        mode = each.section.mode
        # A full Stokes configuration has one section per feed. The second input has a channel of its own only in mode
        # CP, in which both inputs are recorded separately.
        if configuration.stokes and mode in recorded and each.polarisation == _POLARISATIONS[1]:
            continue
        yield each.channel(recorded.get(mode, each.polarisation))


def _inputs(configuration: Configuration, feeds: tuple[int, ...], sections: Mapping[int, Section]) -> Iterator[_Input]:
    for feed in feeds or (0,):
        for place, polarisation in enumerate(_POLARISATIONS):
            if feed in configuration.feeds:
                position = configuration.feeds.index(feed)
                number = position if configuration.stokes else len(_POLARISATIONS) * position + place
                yield _Input(feed, polarisation, sections[number])
            else:
                usual = replace(initial(configuration, place), feed=feed)
                yield _Input(feed, polarisation, usual)


# The number of inputs for which levels are drawn, more than any receiver has.
_INPUTS = 64


@lru_cache(maxsize=64)
def levels(receiver: Receiver, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return Tsys and the temperature of the noise diode in K, by input number, for a receiver and a seed."""
    draw = random.Random(f"{seed} {receiver.code}")
    tsys, marks = [], []
    for _ in range(_INPUTS):
        # Draw both for each input in turn, so that a change of _INPUTS does not change the levels of an input.
        tsys.append(draw.uniform(*receiver.tsys))
        marks.append(draw.uniform(*receiver.mark))
    return tuple(tsys), tuple(marks)
