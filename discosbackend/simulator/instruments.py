"""The instruments as data: their configurations, limits, tasks, and the commands they lack.

Facts from the observatories' public configuration. Nothing here acts: sections checks against these
limits, backend and mistral behave by them. Frequencies, bandwidths and sample rates are in MHz.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

__all__ = ["INSTRUMENTS", "UNCONFIGURED", "Configuration", "Instrument", "Limits", "Task"]

UNCONFIGURED = "unconfigured"
"""What get-configuration answers until a configuration is loaded (protocol section 4)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an instrument accepts; of a pair, both ends are accepted.

    `all_feeds` is the number that, given twice to set-enable, means every feed. `equal_feeds_once`: two
    equal feeds are one feed with its two inputs, else they are measured twice.
    """

    start_frequency: tuple[float, float]
    bins: tuple[int, ...]
    bandwidth: tuple[float, float] = (0.0, 2300.0)
    sample_rate: tuple[float, float] = (0.0, 4600.0)
    integration: tuple[int, int] = (5, 1000)
    shift: tuple[int, int] = (0, 0xFFFF)
    feeds: int = 7
    all_feeds: int | None = None
    equal_feeds_once: bool = False

    @property
    def sections(self) -> int:
        """The most sections that any configuration has: one for each polarisation of each feed."""
        return 2 * self.feeds


@dataclass(frozen=True, slots=True)
class Configuration:
    """A named configuration and what its sections are before set-section.

    `limits` is None where nothing is known of the instrument. Each feed gives two inputs, left and right
    circular; without feeds there is one input and no section, as before a configuration is loaded.
    `attenuation` is in dB, `integration` in ms.
    """

    name: str
    limits: Limits | None
    feeds: tuple[int, ...] = ()
    bandwidth: float = 1500.0
    bins: int = 1024
    attenuation: float = 7.0
    stokes: bool = False
    start_frequency: float = 0.0
    integration: int = 40

    @property
    def inputs(self) -> int:
        """How many inputs it measures."""
        return 2 * len(self.feeds) or 1

    @property
    def sections(self) -> int:
        """How many sections it has: one an input, or with full Stokes one a feed."""
        return len(self.feeds) * (1 if self.stokes else 2)


@dataclass(frozen=True, slots=True)
class Task:
    """What takes MISTRAL a while: its command, the configuration that does the same, its seconds."""

    command: str
    configuration: str
    duration: float


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument: its configurations by name, and what holds before one of them is loaded.

    `lacks` names the protocol's commands that it has not.
    """

    name: str
    unconfigured: Configuration
    configurations: Mapping[str, Configuration] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    tasks: tuple[Task, ...] = ()


def _before_one_is_loaded(limits: Limits | None) -> Configuration:
    return Configuration(UNCONFIGURED, limits, integration=0)


def _with_stokes(configurations: Iterable[Configuration]) -> Mapping[str, Configuration]:
    """By name; a name that ends in `(S)` stands for two, of which the one with the S is full Stokes."""
    found = {}
    for configuration in configurations:
        name, twice, _ = configuration.name.partition("(S)")
        found[name] = replace(configuration, name=name)
        if twice:
            found[f"{name}S"] = replace(configuration, name=f"{name}S", stokes=True)
    return MappingProxyType(found)


_ALL_FEEDS = tuple(range(7))

_SARDARA_LIMITS = Limits(start_frequency=(0.0, 150.0), bins=(1024, 16384))

_SKARAB_LIMITS = Limits(
    start_frequency=(0.0, 1500.0),
    bins=tuple(2**power for power in range(10, 17)),
    all_feeds=7,
    equal_feeds_once=True,
)


def _sardara(name: str, feeds: tuple[int, ...], bandwidth: float, attenuation: float) -> Configuration:
    return Configuration(name, _SARDARA_LIMITS, feeds, bandwidth, 1024, attenuation)


def _skarab(name: str, bandwidth: float, bins: int) -> Configuration:
    start = 0.0 if bandwidth == 1400.0 else 1000.0 - bandwidth / 2
    return Configuration(name, _SKARAB_LIMITS, _ALL_FEEDS, bandwidth, bins, 7.0, start_frequency=start)


_SARDARA = _with_stokes(
    (
        # name, feeds, bandwidth, attenuation
        _sardara("SK00(S)", (0,), 1500.0, 7.0),
        _sardara("SK01(S)", (0, 1), 1500.0, 7.0),
        _sardara("SK03(S)", (0, 3), 1500.0, 7.0),
        _sardara("SK04", (0, 4), 1500.0, 7.0),
        _sardara("SK06(S)", (0, 6), 1500.0, 7.0),
        _sardara("SK77(S)", _ALL_FEEDS, 1500.0, 7.0),
        _sardara("SCC00(S)", (0,), 1500.0, 9.0),
        _sardara("SCH00(S)", (0,), 1500.0, 9.0),
        _sardara("SX00(S)", (0,), 1500.0, 7.0),
        _sardara("SL00(S)", (0,), 1500.0, 10.0),
        _sardara("SP00(S)", (0,), 500.0, 10.0),
    )
)

_SKARAB = _with_stokes(
    (
        # name, bandwidth, bins
        _skarab("SKARAB_1(S)", 1400.0, 2048),
        _skarab("SKARAB_2(S)", 187.5, 32768),
        _skarab("SKARAB_3(S)", 187.5, 65536),
        _skarab("SKARAB_4(S)", 93.75, 32768),
        _skarab("SKARAB_5(S)", 93.75, 65536),
        _skarab("SKARAB_7", 16.0, 65536),
        _skarab("SKARAB_11(S)", 375.0, 1024),
        _skarab("SKARAB_12(S)", 750.0, 8192),
    )
)

_BROUGHT_BY_SKARAB = frozenset({"set-shift", "end-schedule", "backend-park"})

# MISTRAL images the sky with resonators that the sweeps find: it has no sections, feeds or noise diode, and
# no total power an input.
_OF_SPECTROMETERS = frozenset(
    {
        "get-integration",
        "set-integration",
        "get-tpi",
        "get-tp0",
        "get-rms",
        "get-ddcoffset",
        "set-section",
        "set-enable",
        "cal-on",
    }
)

INSTRUMENTS: Mapping[str, Instrument] = MappingProxyType(
    {
        instrument.name: instrument
        for instrument in (
            Instrument("discos", _before_one_is_loaded(None), MappingProxyType({**_SARDARA, **_SKARAB})),
            Instrument(
                "sardara", _before_one_is_loaded(_SARDARA_LIMITS), _SARDARA, lacks=_BROUGHT_BY_SKARAB
            ),
            Instrument("skarab", _before_one_is_loaded(_SKARAB_LIMITS), _SKARAB),
            Instrument(
                "mistral",
                _before_one_is_loaded(None),
                lacks=_OF_SPECTROMETERS | _BROUGHT_BY_SKARAB,
                tasks=(
                    Task("setup", "setup", 60.0),
                    Task("vna-sweep", "vnaSweep", 300.0),
                    Task("target-sweep", "targetSweep", 300.0),
                ),
            ),
        )
    }
)
"""Every instrument that can be simulated, by its name. `discos`, the default, knows the configurations of
both spectrometers and, before one is loaded, no limits of its own."""
