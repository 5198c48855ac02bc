"""Channels: which inputs are measured, and which channels are recorded, of the sections and the enabled feeds.

Pure functions over records. What a section may be is said in sections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from discosbackend.simulator.instruments import Channel, Configuration
from discosbackend.simulator.sections import Section, initial

__all__ = ["channels", "inputs"]

# Left and right circular: the two inputs of a feed.
_POLARISATIONS = "LR"


class _Input(NamedTuple):
    """One input, with the section it belongs to and its number; None for a feed that the configuration has not."""

    feed: int
    polarisation: str
    number: int | None
    section: Section

    def channel(self, polarisations: str) -> Channel:
        section = self.section
        return Channel(self.feed, tuple(polarisations), section.start_frequency, section.bandwidth, section.bins)


def inputs(
    configuration: Configuration, feeds: tuple[int, ...], sections: Mapping[int, Section]
) -> Iterator[Channel]:
    """A channel for each input of the enabled feeds, in their order: what get-tpi and the like answer for."""
    for each in _inputs(configuration, feeds, sections):
        yield each.channel(each.polarisation)


def channels(
    configuration: Configuration, feeds: tuple[int, ...], sections: Mapping[int, Section]
) -> Iterator[Channel]:
    """A channel for each section of the enabled feeds; with full Stokes, its two inputs in one.

    The feed of set-section is not looked at: the deployed clients send 0 for every section (their sessions).
    """
    seen = set()
    for each in _inputs(configuration, feeds, sections):
        full = each.section.mode == "FullStokes"
        own = {"LCP": "L", "RCP": "R"}.get(each.section.mode, each.polarisation)
        # The second input of a section that holds both adds no channel, but equal feeds are recorded twice.
        second = each.polarisation == _POLARISATIONS[1] and (each.feed, each.number) in seen
        seen.add((each.feed, each.number))
        if not (full and second):
            yield each.channel(_POLARISATIONS if full else own)


def _inputs(
    configuration: Configuration, feeds: tuple[int, ...], sections: Mapping[int, Section]
) -> Iterator[_Input]:
    if not feeds:
        yield _Input(0, _POLARISATIONS[0], None, initial(configuration, 0))
    for feed in feeds:
        for place, polarisation in enumerate(_POLARISATIONS):
            if feed in configuration.feeds:
                position = configuration.feeds.index(feed)
                number = position if configuration.stokes else len(_POLARISATIONS) * position + place
                yield _Input(feed, polarisation, number, sections[number])
            else:
                usual = replace(initial(configuration, place), feed=feed)
                yield _Input(feed, polarisation, None, usual)
