"""Sections: what set-section changes, how `*` merges, and which values an instrument refuses.

Pure functions over the records of model. A refusal is a BackendError that names the limit; the first
word is the value's own, because the deployed clients show a reason up to the first blank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from discosbackend.commands import WILDCARD
from discosbackend.errors import BackendError
from discosbackend.grammar import quoted
from discosbackend.simulator.instrument.model import Configuration, Limits

__all__ = ["MODES", "Section", "check", "check_range", "initial", "merged"]

MODES = {
    "CP": "CP",
    "FullStokes": "FullStokes",
    "LCP": "LCP",
    "RCP": "RCP",
    "0": "LCP",
    "1": "RCP",
    "2": "FullStokes",
}
"""Every mode that is accepted, and what it is called afterwards: the deployed clients send the digits."""

# Two numbers of six significant digits, as the clients print them, differ by so much from an exact ratio.
_PRINTED = 1e-5


@dataclass(frozen=True, slots=True)
class Section:
    """One section, its values in the order of set-section's arguments; frequencies in MHz."""

    start_frequency: float
    bandwidth: float
    feed: int
    mode: str
    sample_rate: float
    bins: int


_NAMES = tuple(field.name for field in fields(Section))


def initial(configuration: Configuration, number: int) -> Section:
    """A section as the configuration leaves it, counted from 0."""
    feed, polarisation = (number, 0) if configuration.stokes else divmod(number, 2)
    return Section(
        start_frequency=configuration.start_frequency,
        bandwidth=configuration.bandwidth,
        feed=configuration.feeds[feed] if feed < len(configuration.feeds) else 0,
        mode="FullStokes" if configuration.stokes else ("LCP", "RCP")[polarisation],
        sample_rate=2 * configuration.bandwidth,
        bins=configuration.bins,
    )


def merged(section: Section, values: tuple[float | str, ...]) -> Section:
    """The section with six values of set-section in place of its own, except where they are `*`.

    A sample rate of `*` stays what it is by its nature, twice the bandwidth.
    """
    changes: dict[str, Any] = {name: value for name, value in zip(_NAMES, values, strict=True) if value != WILDCARD}
    if "mode" in changes:
        changes["mode"] = MODES.get(changes["mode"], changes["mode"])
    if "bandwidth" in changes:
        changes.setdefault("sample_rate", 2 * changes["bandwidth"])
    return replace(section, **changes)


def check(section: Section, limits: Limits) -> None:
    """BackendError, naming the value and the limit, when the instrument cannot have such a section."""
    if section.bandwidth > limits.bandwidth[1]:
        raise BackendError(f"backend maximum bandwidth is {limits.bandwidth[1]:g}")
    check_range("bandwidth", section.bandwidth, limits.bandwidth, " MHz")
    check_range("start-frequency", section.start_frequency, limits.start_frequency, " MHz")
    check_range("feed", section.feed, (0, limits.feeds - 1))
    if section.mode not in MODES:
        raise BackendError(f"mode {quoted(section.mode)} unknown: must be one of {' '.join(MODES)}")
    check_range("sample-rate", section.sample_rate, limits.sample_rate, " MHz")
    if not math.isclose(section.sample_rate, 2 * section.bandwidth, rel_tol=_PRINTED):
        raise BackendError(
            f"sample-rate {section.sample_rate:.10g} must be twice the bandwidth: {2 * section.bandwidth:.10g} MHz"
        )
    if section.bins not in limits.bins:
        possible = " ".join(str(bins) for bins in limits.bins)
        raise BackendError(f"bins {section.bins} must be one of {possible}")


def check_range(what: str, value: float, limits: tuple[float, float], unit: str = "") -> None:
    """BackendError when a value lies outside of its limits, which are allowed themselves."""
    low, high = limits
    if not low <= value <= high:
        raise BackendError(f"{what} {value:.10g} out of range: {low:g} to {high:g}{unit}")
