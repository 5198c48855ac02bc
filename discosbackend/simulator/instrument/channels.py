"""Which inputs are measured, which channels are recorded, and the temperatures of a receiver's inputs.

Pure functions over records. What a section may be is in sections.
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
    """One input, with the section it belongs to."""

    feed: int
    polarisation: str
    section: Section

    def channel(self, polarisations: str) -> Channel:
        section = self.section
        return Channel(self.feed, tuple(polarisations), section.start_frequency, section.bandwidth, section.bins)


def inputs(configuration: Configuration, feeds: tuple[int, ...], sections: Mapping[int, Section]) -> Iterator[Channel]:
    """A channel for each input of the enabled feeds, in their order: what get-tpi and the like answer for."""
    for each in _inputs(configuration, feeds, sections):
        yield each.channel(each.polarisation)


def channels(
    configuration: Configuration, feeds: tuple[int, ...], sections: Mapping[int, Section]
) -> Iterator[Channel]:
    """A channel for each section of the enabled feeds; with full Stokes, its two inputs in one.

    The feed of set-section is not looked at: the deployed clients send 0 for every section (their sessions).
    """
    recorded = {"LCP": "L", "RCP": "R", "FullStokes": _POLARISATIONS}
    for each in _inputs(configuration, feeds, sections):
        mode = each.section.mode
        # A configuration with full Stokes has a section a feed: its second input has no channel of its own,
        # unless it is told to record both by themselves.
        if configuration.stokes and mode in recorded and each.polarisation == _POLARISATIONS[1]:
            continue
        yield each.channel(recorded.get(mode, each.polarisation))


def _inputs(configuration: Configuration, feeds: tuple[int, ...], sections: Mapping[int, Section]) -> Iterator[_Input]:
    if not feeds:
        yield _Input(0, _POLARISATIONS[0], initial(configuration, 0))
    for feed in feeds:
        for place, polarisation in enumerate(_POLARISATIONS):
            if feed in configuration.feeds:
                position = configuration.feeds.index(feed)
                number = position if configuration.stokes else len(_POLARISATIONS) * position + place
                yield _Input(feed, polarisation, sections[number])
            else:
                usual = replace(initial(configuration, place), feed=feed)
                yield _Input(feed, polarisation, usual)


# Inputs with levels of their own; more feeds than any receiver has.
_INPUTS = 64


@lru_cache(maxsize=64)
def levels(receiver: Receiver, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Tsys and the noise diode's temperature in K, by input number; the same for the same receiver and seed."""
    draw = random.Random(f"{seed} {receiver.code}")
    tsys, marks = [], []
    for _ in range(_INPUTS):
        # One after the other: an input keeps its levels whatever becomes of _INPUTS.
        tsys.append(draw.uniform(*receiver.tsys))
        marks.append(draw.uniform(*receiver.mark))
    return tuple(tsys), tuple(marks)
