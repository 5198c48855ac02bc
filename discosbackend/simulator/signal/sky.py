"""Sky: the sources that a simulated telescope sees, and the state of the noise diode. Records, without numpy.

The properties of the receiver are part of a profile (instrument.model); mean converts a sky to counts. A Sky is
immutable: to change it, replace it, so that each dump sees one state. checked_sky() refuses a sky that the instrument
cannot see, for example because of a wrong unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from discosbackend.simulator.errors import SkyError
from discosbackend.simulator.instrument.model import Configuration, Instrument
from discosbackend.toml import did_you_mean, read_toml

__all__ = ["REST_FREQUENCIES", "Line", "Sky", "Source", "checked_sky", "load_sky", "source_of"]

SPEED_OF_LIGHT = 299792.458
"""km/s, exact by the definition of the metre."""

REST_FREQUENCIES: Mapping[str, float] = MappingProxyType({"HI": 1420.4058, "methanol": 6668.5192, "water": 22235.08})
"""Rest frequencies of common spectral lines in MHz, by name."""


# The most sources and lines that a dump can show within its integration time.
_SOURCES, _LINES = 100, 1000


@dataclass(frozen=True, slots=True)
class Line:
    """A Gaussian spectral line.

    Parameters
    ----------
    rest
        The rest frequency in MHz.
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

    rest: float
    width: float
    peak: float
    velocity: float = 0.0

    def __post_init__(self) -> None:
        _check_number("rest", self.rest, least=1.0, most=1e7, unit=" MHz")
        _check_number("width", self.width, above=0.0, unit=" km/s")
        _check_number("peak", self.peak, unit=" K")
        _check_number("velocity", self.velocity, unit=" km/s")
        if abs(self.velocity) >= SPEED_OF_LIGHT:
            raise SkyError(f"velocity {self.velocity:g} km/s is not below that of light")

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

    level: float = 0.0
    lines: tuple[Line, ...] = ()
    feeds: tuple[int, ...] = (0,)
    transit: float | None = None
    crossing: float | None = None
    linear: float = 0.0
    angle: float = 0.0

    def __post_init__(self) -> None:
        _check_number("level", self.level, unit=" K")
        _check_number("angle", self.angle, unit=" degrees")
        _check_number("linear", self.linear, least=0.0, most=1.0)
        if (self.transit is None) != (self.crossing is None):
            raise SkyError("transit and crossing go together: a source drifts with both, or stays with neither")
        if self.transit is not None:
            _check_number("transit", self.transit, unit=" s")
            _check_number("crossing", self.crossing, above=0.0, unit=" s")
        feeds = self.feeds if isinstance(self.feeds, tuple) else ()
        if not feeds or not all(_is_feed(feed) for feed in feeds):
            raise SkyError(f"feeds must be numbers of feeds such as 0 3, not {self.feeds!r}")

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
        _check_number("tsys", kelvin, above=0.0, unit=" K")
        return replace(self, tsys=MappingProxyType({**self.tsys, **dict.fromkeys(inputs, float(kelvin))}))

    def with_mark(self, kelvin: float, inputs: Iterable[int]) -> Sky:
        """Return a sky with this temperature of the noise diode in K at these inputs; SkyError unless it is above 0."""
        _check_number("mark", kelvin, above=0.0, unit=" K")
        return replace(self, mark=MappingProxyType({**self.mark, **dict.fromkeys(inputs, float(kelvin))}))

    def to_dict(self) -> dict[str, Any]:
        """Return the sky as JSON values."""
        return {
            "sources": {name: asdict(source) for name, source in self.sources.items()},
            "diode": self.diode,
            "interleave": self.interleave,
            "tsys": {str(number): kelvin for number, kelvin in self.tsys.items()},
            "mark": {str(number): kelvin for number, kelvin in self.mark.items()},
        }


_Record = TypeVar("_Record", Line, Source)


def source_of(values: Mapping[str, Any]) -> Source:
    """Make a Source from TOML or JSON values.

    Parameters
    ----------
    values
        The attributes of Source; `lines` is a list of tables with the attributes of Line. The `rest` of a line may be a
        name of REST_FREQUENCIES.

    Raises
    ------
    SkyError
        If a key or a value is invalid; the message says what is accepted.
    """
    values = dict(values)
    lines = values.pop("lines", [])
    if not isinstance(lines, (list, tuple)):
        raise SkyError(f"lines must be a list of tables with rest width and peak, not {lines!r}")
    if "feeds" in values and isinstance(values["feeds"], list):
        values["feeds"] = tuple(values["feeds"])
    return _made(Source, {**values, "lines": tuple(map(_line_of, lines))})


def _line_of(values: Any) -> Line:
    if not isinstance(values, Mapping):
        raise SkyError(f"a line is a table with rest width and peak, not {values!r}")
    values = dict(values)
    rest = values.get("rest")
    if isinstance(rest, str):
        if rest not in REST_FREQUENCIES:
            known = ", ".join(REST_FREQUENCIES)
            raise SkyError(f"rest {rest!r} is not known: give MHz, or one of {known}")
        values["rest"] = REST_FREQUENCIES[rest]
    return _made(Line, values)


def _made(kind: type[_Record], values: Mapping[str, Any]) -> _Record:
    known = [each.name for each in fields(kind)]
    for key in values:
        if key not in known:
            near = did_you_mean(key, known) or f": a {kind.__name__.lower()} has {', '.join(known)}"
            raise SkyError(f"{key} is not known{near}")
    try:
        return kind(**values)
    except TypeError as problem:
        missing = [each.name for each in fields(kind) if each.default is MISSING and each.name not in values]
        raise SkyError(f"a {kind.__name__.lower()} needs {', '.join(missing) or problem}") from None


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
    sky = Sky()
    for key, value in values.items():
        if key == "diode" and isinstance(value, bool):
            sky = replace(sky, diode=value)
        elif key == "sources" and isinstance(value, dict):
            for name, source in value.items():
                if not isinstance(source, dict):
                    raise SkyError(f"sky {path}: {name} must be a table [sources.{name}], not {source!r}")
                try:
                    sky = sky.with_source(name, source_of(source))
                except SkyError as problem:
                    raise SkyError(f"sky {path}: [sources.{name}]: {problem}") from None
        else:
            raise SkyError(f"sky {path}: {key} must be [sources.NAME] or diode = true or false")
    return sky


def _is_feed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float = -math.inf,
    most: float = math.inf,
    unit: str = "",
) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and math.isfinite(value) and least <= value <= most and (above is None or value > above):
        return
    wanted = f" above {above:g}" if above is not None else ""
    if math.isfinite(least):
        wanted = f" from {least:g} to {most:g}"
    raise SkyError(f"{name} must be a number{unit and ' of' + unit}{wanted}, not {value!r}")


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
