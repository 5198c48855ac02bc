"""The channels of a simulated instrument in DISCOS telemetry. It is imported only if telemetry is published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from discosbackend.monitor.telemetry import TelemetryChannel
from discosbackend.simulator.instrument.channels import channels
from discosbackend.simulator.instrument.model import Channel, Configuration
from discosbackend.simulator.instrument.sections import Section

__all__ = ["telemetry_channels"]

_POLARIZATIONS: dict[str, Literal["LHCP", "RHCP"]] = {"L": "LHCP", "R": "RHCP"}


def telemetry_channels(
    configuration: Configuration,
    feeds: tuple[int, ...],
    sections: Mapping[int, Section],
    tsys: Mapping[int, float],
) -> list[TelemetryChannel]:
    """Return a channel for each recorded channel, in their order.

    Parameters
    ----------
    configuration
        The loaded configuration. Before one is loaded, it has no section; the result is then empty.
    feeds
        The enabled feeds.
    sections
        The sections by number.
    tsys
        The current system temperatures in K, by input number. Full Stokes uses the mean of its two inputs.
    """
    if not configuration.sections:
        return []
    return [
        TelemetryChannel(
            number,
            _polarization(channel),
            start_frequency=channel.start_frequency,
            bandwidth=channel.bandwidth,
            bins=channel.bins,
            # Each section of a simulated instrument has this sample rate.
            sample_rate=2 * channel.bandwidth,
            attenuation=configuration.attenuation,
            system_temperature=sum(tsys[each] for each in channel.inputs) / len(channel.inputs),
        )
        for number, channel in enumerate(channels(configuration, feeds, sections))
    ]


def _polarization(channel: Channel) -> Literal["LHCP", "RHCP", "FULL STOKES"]:
    return "FULL STOKES" if channel.stokes else _POLARIZATIONS[channel.polarisations[0]]
