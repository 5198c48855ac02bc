"""Sky: what a simulated telescope looks at, and how its receiver is switched. Data, without numpy.

The receiver's own properties belong to a profile (instrument.model); mean says what all this looks like in
counts. A Sky is never changed but replaced as a whole, so that a dump sees one state or the other.
`checked_sky` refuses what an instrument could never see, so that a wrong unit is noticed.
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
"""MHz of the lines that single dishes look at most, for people who do not know them by heart."""


# What a dump can show in its time.
_SOURCES, _LINES = 100, 1000


@dataclass(frozen=True, slots=True)
class Line:
    """A spectral line, Gaussian: at rest at `rest` MHz, `width` km/s wide at half its height, `peak` K high.

    A positive `velocity` in km/s is away from us and lowers the frequency (radio convention).
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
        """MHz at which it is seen."""
        return self.rest * (1 - self.velocity / SPEED_OF_LIGHT)

    @property
    def width_mhz(self) -> float:
        """Full width at half maximum in MHz."""
        return self.rest * self.width / SPEED_OF_LIGHT


@dataclass(frozen=True, slots=True)
class Source:
    """Something in the sky: `level` K of continuum and any lines, as antenna temperature in mid-beam.

    `feeds` are those whose beam it is in. With `transit` and `crossing` it drifts across the beam: in the
    middle `transit` seconds after an acquisition began, and `crossing` seconds from half power to half power;
    without it stays in mid-beam. `linear` is the fraction that is linearly polarised, at `angle` degrees.
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
        """What the beam lets through, 0 to 1, so many seconds after an acquisition began."""
        if self.transit is None or self.crossing is None:
            return 1.0
        widths = (seconds - self.transit) / self.crossing
        # A product, since a power that is no float any more is an OverflowError.
        return math.exp(-4 * math.log(2) * widths * widths)


@dataclass(frozen=True, slots=True)
class Sky:
    """Everything in front of the backend that may change while it acquires.

    `sources` by a name of the user's choice. `diode` is the noise diode as the receiver switches it;
    `interleave` is cal-on's: with N above 0 it is on for N dumps, off for N, beginning with on. `tsys` and
    `mark` in K replace those of the profile: by input number (2 * feed, + 1 for right circular).
    """

    sources: Mapping[str, Source] = field(default_factory=lambda: MappingProxyType({}))
    diode: bool = False
    interleave: int = 0
    tsys: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    mark: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))

    def diode_at(self, dump: int) -> bool:
        """Whether the noise diode is on during the dump of that number, counted from 0."""
        return dump // self.interleave % 2 == 0 if self.interleave else self.diode

    def with_source(self, name: str, source: Source) -> Sky:
        """The sky with a source more, or another one of that name. SkyError beyond 100 sources or 1000 lines."""
        sources = {**self.sources, name: source}
        if len(sources) > _SOURCES or sum(len(each.lines) for each in sources.values()) > _LINES:
            raise SkyError(f"a sky has at most {_SOURCES} sources with {_LINES} lines in all")
        return replace(self, sources=MappingProxyType(sources))

    def without_source(self, name: str) -> Sky:
        """The sky without it. SkyError where there is none of that name."""
        if name not in self.sources:
            there = ", ".join(self.sources) or "none"
            raise SkyError(f"no source is called {name!r}: there is {there}")
        return replace(self, sources=MappingProxyType({n: source for n, source in self.sources.items() if n != name}))

    def with_tsys(self, kelvin: float, inputs: Iterable[int]) -> Sky:
        """The sky with another system temperature at these inputs."""
        _check_number("tsys", kelvin, above=0.0, unit=" K")
        return replace(self, tsys=MappingProxyType({**self.tsys, **dict.fromkeys(inputs, float(kelvin))}))

    def with_mark(self, kelvin: float, inputs: Iterable[int]) -> Sky:
        """The sky with another temperature of the noise diode at these inputs."""
        _check_number("mark", kelvin, above=0.0, unit=" K")
        return replace(self, mark=MappingProxyType({**self.mark, **dict.fromkeys(inputs, float(kelvin))}))

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's terms."""
        return {
            "sources": {name: asdict(source) for name, source in self.sources.items()},
            "diode": self.diode,
            "interleave": self.interleave,
            "tsys": {str(number): kelvin for number, kelvin in self.tsys.items()},
            "mark": {str(number): kelvin for number, kelvin in self.mark.items()},
        }


_Record = TypeVar("_Record", Line, Source)


def source_of(values: Mapping[str, Any]) -> Source:
    """A source from TOML's or JSON's terms: Source's attributes, `lines` a list of tables of Line's.

    A line's `rest` may be a name of REST_FREQUENCIES. SkyError for anything that is none, with what would be.
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
    """The sky that a TOML file describes: a table a source, `[sources.NAME]`, and `diode = true`.

    SkyError, with what is wrong and what would be right, for a file that cannot be used.
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
