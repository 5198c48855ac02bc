"""Visibility: whether an instrument could ever see what a sky has, so that a wrong unit does not pass in silence.

What it looks like is passband's and theory's business.
"""

from __future__ import annotations

from collections.abc import Iterable

from discosbackend.errors import SkyError
from discosbackend.simulator.instruments import Configuration, Instrument
from discosbackend.simulator.sky import Sky

__all__ = ["checked_sky"]


def checked_sky(sky: Sky, instrument: Instrument) -> Sky:
    """The sky. SkyError, with what can be seen, for a feed, an input or a frequency that no configuration has."""
    configurations = instrument.configurations.values()
    if configurations:
        feeds = 1 + max(max(each.feeds, default=0) for each in configurations)
        feeds = max(feeds, *(each.limits.feeds for each in configurations if each.limits is not None), feeds)
        for name, source in sky.sources.items():
            if wrong := [feed for feed in source.feeds if feed >= feeds]:
                raise SkyError(f"source {name!r} is in feed {wrong[0]}, and {instrument.name} has 0 to {feeds - 1}")
            for line in source.lines:
                _check_frequency(name, line.frequency, instrument, configurations)
        for number in (*sky.tsys, *sky.mark):
            if number >= 2 * feeds:
                raise SkyError(f"no input {number}: {instrument.name} has 0 to {2 * feeds - 1}, two a feed")
    return sky


def _check_frequency(
    name: str, frequency: float, instrument: Instrument, configurations: Iterable[Configuration]
) -> None:
    bands = sorted({_band(each) for each in configurations})
    if not any(low <= frequency <= high for low, high in bands):
        seen = ", ".join(f"{low:g} to {high:g}" for low, high in bands)
        raise SkyError(
            f"source {name!r} has a line at {frequency:.10g} MHz, which {instrument.name} cannot see: {seen} MHz"
        )


def _band(configuration: Configuration) -> tuple[float, float]:
    """MHz on the sky that a section of this configuration can reach, whatever set-section is told."""
    first, limits = configuration.receiver.local_oscillator, configuration.limits
    last = configuration.start_frequency + configuration.bandwidth
    if limits is not None:
        last = max(last, limits.start_frequency[1] + limits.bandwidth[1])
    return first, first + last
