"""Sections: their initial values, the changes of set-section, and the check against the limits of the instrument.

These are pure functions on the records of model. An invalid value raises BackendError with the limit. The first word of
its text is the name of the value, because the deployed clients show a reason up to the first blank only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from discosbackend.commands import WILDCARD
from discosbackend.errors import BackendError
from discosbackend.grammar import quoted
from discosbackend.simulator.instrument.model import Configuration, Limits

__all__ = ["MODES", "Section", "check_range", "checked", "initial", "is_twice_the_bandwidth", "merged"]

MODES = {
    "CP": "CP",
    "FullStokes": "FullStokes",
    "LCP": "LCP",
    "RCP": "RCP",
    "0": "LCP",
    "1": "RCP",
    "2": "FullStokes",
}
"""The accepted modes and the names that they are stored under. The deployed clients send the digits."""

# The relative error of the ratio of two numbers that clients print with six significant digits.
_PRINTED = 1e-5


@dataclass(frozen=True, slots=True)
class Section:
    """A section: its values in the order of the arguments of set-section. Frequencies are in MHz."""

    start_frequency: float
    bandwidth: float
    feed: int
    mode: str
    sample_rate: float
    bins: int


_NAMES = tuple(field.name for field in fields(Section))


def initial(configuration: Configuration, number: int) -> Section:
    """Return the initial section number `number`, counted from 0, of a configuration."""
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
    """Return the section with the six values of set-section; a value of `*` is not changed.

    If the bandwidth is given and the sample rate is `*`, the sample rate becomes twice the bandwidth.
    """
    changes: dict[str, Any] = {name: value for name, value in zip(_NAMES, values, strict=True) if value != WILDCARD}
    if "mode" in changes:
        changes["mode"] = MODES.get(changes["mode"], changes["mode"])
    if "bandwidth" in changes:
        changes.setdefault("sample_rate", 2 * changes["bandwidth"])
    return replace(section, **changes)


def is_twice_the_bandwidth(section: Section) -> bool:
    """Return whether the sample rate is twice the bandwidth, to the precision with which clients send them."""
    return math.isclose(section.sample_rate, 2 * section.bandwidth, rel_tol=_PRINTED)


def checked(section: Section, limits: Limits) -> Section:
    """Return the section as it applies: its sample rate is twice the bandwidth.

    The deployed clients always send the sample rate that they started with (protocol section 9.4), so another sample
    rate within the limits is accepted and replaced.

    Raises
    ------
    BackendError
        If a value is invalid; its text has the value and the limit.
    """
    if section.bandwidth > limits.bandwidth[1]:
        raise BackendError(f"backend maximum bandwidth is {limits.bandwidth[1]:g}")
    check_range("bandwidth", section.bandwidth, limits.bandwidth, " MHz")
    check_range("start-frequency", section.start_frequency, limits.start_frequency, " MHz")
    check_range("feed", section.feed, (0, limits.feeds - 1))
    if section.mode not in MODES:
        raise BackendError(f"mode {quoted(section.mode)} unknown: must be one of {' '.join(MODES)}")
    for sample_rate in (section.sample_rate, 2 * section.bandwidth):
        check_range("sample-rate", sample_rate, limits.sample_rate, " MHz")
    if section.bins not in limits.bins:
        possible = " ".join(str(bins) for bins in limits.bins)
        raise BackendError(f"bins {section.bins} must be one of {possible}")
    return replace(section, sample_rate=2 * section.bandwidth)


def check_range(what: str, value: float, limits: tuple[float, float], unit: str = "") -> None:
    """Raise BackendError if a value is outside of its limits; the limits themselves are valid."""
    low, high = limits
    if not low <= value <= high:
        raise BackendError(f"{what} {value:.10g} out of range: {low:g} to {high:g}{unit}")
