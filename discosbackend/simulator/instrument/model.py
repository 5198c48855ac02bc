"""The instruments as records: what they are made of, and what an acquisition is made with.

Which instruments there are is data, in simulator/profiles/*.toml, which profiles reads into these records.
sections checks values against the limits; the backend and tasks follow the rest. Frequencies, bandwidths
and sample rates are in MHz.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from discosbackend.ticks import TICKS_PER_SECOND

__all__ = [
    "UNCONFIGURED",
    "Channel",
    "Comb",
    "Configuration",
    "Instrument",
    "Limits",
    "Phrases",
    "Receiver",
    "Response",
    "Setup",
    "Task",
]

UNCONFIGURED = "unconfigured"
"""What get-configuration answers until a configuration is loaded (protocol section 4.4)."""


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
class Comb:
    """Interference: a narrow peak of `level` K every `spacing` MHz of the sky from `first` to `last`."""

    first: float
    last: float
    spacing: float
    level: float


@dataclass(frozen=True, slots=True)
class Receiver:
    """What stands in front of the backend. `tsys` and `mark` in K: the lowest and the highest of its inputs.

    `code` is its name in DISCOS's files, `local_oscillator` what is added in MHz to a frequency in the
    backend's band to get that on the sky, `beam` the full width at half maximum in arcmin, and `offsets`
    where each feed looks, in arcmin from feed 0. `mark` is the noise diode's temperature.
    """

    code: str = "KKG"
    local_oscillator: float = 0.0
    tsys: tuple[float, float] = (87.0, 116.0)
    mark: tuple[float, float] = (28.0, 77.0)
    beam: float = 1.0
    offsets: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    interference: tuple[Comb, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """How a backend turns power into counts.

    `gain` is counts per K and MHz at 0 dB, `zero` counts without any power, `full_scale` where it saturates,
    `rms` the counts of a sampler at 0 dB. Of the band's shape, `edge` is the level at its edges against the
    peak, `slope` by how much e-folds it falls across the band; `dc` and `spur` are factors on bin 0 and on
    bin N/2, `cross` is Q and U against the root of L times R. `drift` is the rms of the gain, relative, over
    minutes.
    """

    gain: float = 1.0
    zero: float = 0.0
    full_scale: int = 2**31 - 1
    rms: float = 50.0
    edge: float = 0.03
    slope: float = 3.0
    dc: float = 15.0
    spur: float = 1.6
    cross: float = 0.11
    drift: float = 0.002


@dataclass(frozen=True, slots=True)
class Channel:
    """One `Ch<n>` of the data: a section as it is recorded. Frequencies in MHz.

    `polarisations` is ("L",), ("R",), or, for full Stokes, ("L", "R"), which makes L, R, Q and U.
    """

    feed: int
    polarisations: tuple[str, ...]
    start_frequency: float
    bandwidth: float
    bins: int

    @property
    def stokes(self) -> bool:
        """Whether it holds L, R, Q and U one behind the other."""
        return len(self.polarisations) > 1

    @property
    def values(self) -> int:
        """How many values a dump has."""
        return self.bins * (4 if self.stokes else 1)

    @property
    def inputs(self) -> tuple[int, ...]:
        """The numbers of its inputs on the instrument: two a feed, left circular first."""
        return tuple(2 * self.feed + "LR".index(polarisation) for polarisation in self.polarisations)


@dataclass(frozen=True, slots=True)
class Setup:
    """All that an acquisition is made with and that does not change while it lasts.

    `acquisition` counts them from 0 and `seed` is the simulation's: both decide the noise. `integration` is
    in ms, `attenuation` in dB. `tsys` and `marks` are what the profile's ranges have become for this seed, by
    input number, in K.
    """

    instrument: str
    configuration: str
    seed: int
    acquisition: int
    integration: int
    attenuation: float
    receiver: Receiver
    response: Response
    channels: tuple[Channel, ...]
    tsys: tuple[float, ...]
    marks: tuple[float, ...]

    @property
    def dump_length(self) -> int:
        """The integration time in ticks of 100 ns."""
        return self.integration * TICKS_PER_SECOND // 1000

    @property
    def values(self) -> int:
        """How many values a dump has in all."""
        return sum(channel.values for channel in self.channels)


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
    receiver: Receiver = Receiver()
    response: Response = Response()

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
    """What takes an instrument a while: the command that begins it, and its duration in s.

    `configuration` is what set-configuration calls it, "" if that cannot begin it. With `initialises` it may
    be begun at any time and everything else comes after it. `help` is the one-line help of its command.
    """

    command: str
    configuration: str = ""
    duration: float = 0.0
    initialises: bool = False
    help: str = ""


@dataclass(frozen=True, slots=True)
class Phrases:
    """What status says of an instrument that has tasks. `{command}` in `running` stands for the task's."""

    uninitialised: str = "not initialised"
    running: str = "{command} in progress"
    acquiring: str = "acquisition in progress"
    ready: str = "ready"


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument: its configurations by name, and what holds before one of them is loaded.

    `description` is one line about it. `lacks` names the protocol's commands that it has not. `records` is
    False where acquisitions make no data files. `phrases` matter to an instrument that has tasks.
    """

    name: str
    unconfigured: Configuration
    configurations: Mapping[str, Configuration] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    tasks: tuple[Task, ...] = ()
    phrases: Phrases = Phrases()
    description: str = ""
    records: bool = True
