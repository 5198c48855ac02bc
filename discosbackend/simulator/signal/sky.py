"""Sky: the sources that a simulated telescope sees, and the state of the noise diode. Records, without numpy.

The properties of the receiver are part of a profile (instrument.model); mean converts a sky to counts. A Sky is
immutable: to change it, replace it, so that each dump sees one state. checked_sky() refuses a sky that the instrument
cannot see, for example because of a wrong unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from discosbackend.schema import Allowed, check, checked, read
from discosbackend.simulator.errors import SkyError
from discosbackend.simulator.instrument.model import Configuration, Instrument
from discosbackend.toml import read_toml

__all__ = ["REST_FREQUENCIES", "Line", "Sky", "Source", "checked_sky", "load_sky"]

SPEED_OF_LIGHT = 299792.458
"""km/s, exact by the definition of the metre."""

REST_FREQUENCIES: Mapping[str, float] = MappingProxyType({"HI": 1420.4058, "methanol": 6668.5192, "water": 22235.08})
"""Rest frequencies of common spectral lines in MHz, by name."""


# The most sources and lines that a dump can show within its integration time.
_SOURCES, _LINES = 100, 1000

Feed = Annotated[int, Allowed(least=0)]
Kelvin = Annotated[float, Allowed("K")]
Temperature = Annotated[float, Allowed("K", above=0)]
Velocity = Annotated[
    float,
    Allowed(valid=lambda velocity: abs(velocity) < SPEED_OF_LIGHT, expected="a number of km/s, slower than light"),
]


@dataclass(frozen=True, slots=True)
class Line:
    """A Gaussian spectral line.

    Parameters
    ----------
    rest
        The rest frequency in MHz, or a name of REST_FREQUENCIES.
    width
        The full width at half maximum in km/s.
    peak
        The peak in K of antenna temperature at the centre of the beam; negative: absorption.
    velocity
        The velocity in km/s (radio convention); positive: receding, which lowers the frequency.

    Raises
    ------
    SkyError
        If a value is invalid.
    """

    rest: Annotated[float, Allowed("MHz", least=1, most=1e7, names=REST_FREQUENCIES)]
    width: Annotated[float, Allowed("km/s", above=0)]
    peak: Kelvin
    velocity: Velocity = 0.0

    def __post_init__(self) -> None:
        check(self, SkyError)

    @property
    def frequency(self) -> float:
        """The observed frequency in MHz."""
        return self.rest * (1 - self.velocity / SPEED_OF_LIGHT)

    @property
    def width_mhz(self) -> float:
        """The full width at half maximum in MHz."""
        return self.rest * self.width / SPEED_OF_LIGHT


@dataclass(frozen=True, slots=True)
class Source:
    """A source of the sky: a continuum with spectral lines.

    With `transit` and `crossing` it drifts through the beam during an acquisition; without them it stays at the centre.

    Parameters
    ----------
    level
        The continuum in K of antenna temperature at the centre of the beam.
    lines
        The spectral lines.
    feeds
        The numbers of the feeds that see the source.
    transit
        Seconds from the begin of an acquisition until the source is at the centre of the beam.
    crossing
        Seconds that the source takes from half power to half power.
    linear
        The fraction of linear polarisation, 0 to 1.
    angle
        The angle of the polarisation in degrees. Q is proportional to the cosine of twice the angle, U to the sine.

    Raises
    ------
    SkyError
        If a value is invalid.
    """

    level: Kelvin = 0.0
    lines: tuple[Line, ...] = ()
    feeds: Annotated[tuple[Feed, ...], Allowed(valid=bool, expected="numbers of feeds such as 0 3")] = (0,)
    transit: Annotated[float, Allowed("s")] | None = None
    crossing: Annotated[float, Allowed("s", above=0)] | None = None
    linear: Annotated[float, Allowed(least=0, most=1)] = 0.0
    angle: Annotated[float, Allowed("degrees")] = 0.0

    def __post_init__(self) -> None:
        check(self, SkyError)
        if (self.transit is None) != (self.crossing is None):
            raise SkyError("transit and crossing go together: a source drifts with both, or stays with neither")

    def beam(self, seconds: float) -> float:
        """Return the relative power of the beam at the source, 0 to 1, `seconds` after the begin of an acquisition."""
        if self.transit is None or self.crossing is None:
            return 1.0
        widths = (seconds - self.transit) / self.crossing
        # Not `widths ** 2`, which raises OverflowError where the product is infinite.
        return math.exp(-4 * math.log(2) * widths * widths)


@dataclass(frozen=True, slots=True)
class Sky:
    """The sources, the noise diode and the temperatures: what may change during an acquisition.

    Parameters
    ----------
    sources
        The sources by a name of your choice.
    diode
        Whether the receiver has switched the noise diode on.
    interleave
        The argument of cal-on: if N is above 0, the diode is on for N dumps, then off for N dumps, and so on, and
        `diode` has no effect.
    tsys
        System temperatures in K by input number (2 * feed, + 1 for right circular). They replace those of the profile.
    mark
        Temperatures of the noise diode in K by input number. They replace those of the profile.
    """

    sources: Mapping[str, Source] = field(default_factory=lambda: MappingProxyType({}))
    diode: bool = False
    interleave: int = 0
    tsys: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    mark: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))

    def diode_at(self, dump: int) -> bool:
        """Return whether the noise diode is on during dump number `dump`, counted from 0."""
        return dump // self.interleave % 2 == 0 if self.interleave else self.diode

    def with_source(self, name: str, source: Source) -> Sky:
        """Return a sky in which a source is added or replaced. Raise SkyError above 100 sources or 1000 lines."""
        sources = {**self.sources, name: source}
        if len(sources) > _SOURCES or sum(len(each.lines) for each in sources.values()) > _LINES:
            raise SkyError(f"a sky has at most {_SOURCES} sources with {_LINES} lines in all")
        return replace(self, sources=MappingProxyType(sources))

    def without_source(self, name: str) -> Sky:
        """Return a sky without this source. Raise SkyError if there is no source of this name."""
        if name not in self.sources:
            there = ", ".join(self.sources) or "none"
            raise SkyError(f"no source is called {name!r}: there is {there}")
        return replace(self, sources=MappingProxyType({n: source for n, source in self.sources.items() if n != name}))

    def with_tsys(self, kelvin: float, inputs: Iterable[int]) -> Sky:
        """Return a sky with this system temperature in K at these inputs. Raise SkyError unless it is above 0."""
        kelvin = checked(Temperature, kelvin, "tsys", SkyError)
        return replace(self, tsys=MappingProxyType({**self.tsys, **dict.fromkeys(inputs, kelvin)}))

    def with_mark(self, kelvin: float, inputs: Iterable[int]) -> Sky:
        """Return a sky with this noise diode temperature in K at these inputs. Raise SkyError unless it is above 0."""
        kelvin = checked(Temperature, kelvin, "mark", SkyError)
        return replace(self, mark=MappingProxyType({**self.mark, **dict.fromkeys(inputs, kelvin)}))

    def to_dict(self) -> dict[str, Any]:
        """Return the sky as JSON values."""
        return {
            "sources": {name: asdict(source) for name, source in self.sources.items()},
            "diode": self.diode,
            "interleave": self.interleave,
            "tsys": {str(number): kelvin for number, kelvin in self.tsys.items()},
            "mark": {str(number): kelvin for number, kelvin in self.mark.items()},
        }


@dataclass(frozen=True, slots=True)
class _SkyFile:
    """The keys of a sky in TOML."""

    sources: Mapping[str, Source] = field(default_factory=dict)
    diode: bool = False


def load_sky(path: Path | str) -> Sky:
    """Read a sky from a TOML file.

    Parameters
    ----------
    path
        A file with one table `[sources.NAME]` per source, and optionally `diode = true`.

    Raises
    ------
    SkyError
        If the file cannot be read, or if a key or a value is invalid; the message says what is accepted.
    """
    values = read_toml(Path(path), f"sky {path}", SkyError)
    try:
        file = read(_SkyFile, values, "", SkyError)
        sky = Sky(diode=file.diode)
        for name, source in file.sources.items():
            sky = sky.with_source(name, source)
    except SkyError as problem:
        raise SkyError(f"sky {path}: {problem}") from None
    return sky


def checked_sky(sky: Sky, instrument: Instrument) -> Sky:
    """Return the sky, if the instrument can see it.

    Raises
    ------
    SkyError
        If no configuration of the instrument has one of the feeds, inputs or frequencies.
    """
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
    """Return the lowest and highest sky frequency in MHz that set-section allows for this configuration."""
    first, limits = configuration.receiver.local_oscillator, configuration.limits
    last = configuration.start_frequency + configuration.bandwidth
    if limits is not None:
        last = max(last, limits.start_frequency[1] + limits.bandwidth[1])
    return first, first + last
