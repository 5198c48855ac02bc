"""Records that describe an instrument, and the settings of an acquisition.

The module profiles reads the instruments from simulator/profiles/*.toml into these records. sections checks values
against the limits; the backend and tasks use the other records. Frequencies, bandwidths and sample rates are in MHz.
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
"""The reply to get-configuration until a configuration is loaded (protocol section 4.4)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The values that an instrument accepts. A pair is the lowest and the highest value.

    Parameters
    ----------
    start_frequency
        In MHz.
    bins
        The accepted numbers of bins.
    bandwidth
        In MHz.
    sample_rate
        In MHz.
    integration
        In ms.
    shift
        The argument of set-shift.
    feeds
        The number of feeds.
    all_feeds
        If this number is given for both feeds of set-enable, all feeds are enabled. Default: there is no such number.
    equal_feeds_once
        Whether two equal feeds of set-enable are measured once. Default: they are measured twice.
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
        """The largest number of sections of a configuration: one for each polarisation of each feed."""
        return 2 * self.feeds


@dataclass(frozen=True, slots=True)
class Comb:
    """Interference: narrow peaks of `level` K, every `spacing` MHz from sky frequency `first` to `last` in MHz."""

    first: float
    last: float
    spacing: float
    level: float


@dataclass(frozen=True, slots=True)
class Receiver:
    """The receiver in front of the backend.

    Parameters
    ----------
    code
        Its name in the files of DISCOS.
    local_oscillator
        In MHz: a sky frequency minus this is a frequency in the band of the backend.
    tsys
        The lowest and the highest system temperature of its inputs in K.
    mark
        The lowest and the highest temperature of the noise diode at its inputs in K.
    beam
        The full width at half maximum in arcmin.
    offsets
        The offset of each feed from feed 0, (x, y) in arcmin.
    interference
        The interference that it receives.
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
    """How a backend converts power to counts.

    Parameters
    ----------
    gain
        Counts per K and MHz at an attenuation of 0 dB.
    zero
        Counts without any power.
    full_scale
        The largest number of counts.
    rms
        The rms of a sampler in counts at 0 dB.
    edge
        The response at the edges of the band, relative to the peak.
    slope
        How many e-folds the response falls across the band.
    dc
        The factor on bin 0.
    spur
        The factor on bin N/2 of N.
    cross
        Q and U relative to the square root of L times R.
    drift
        The relative rms of the gain over minutes.
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
    """One channel of the data, the column `Ch<n>` of the file: a section as it is recorded.

    `start_frequency` and `bandwidth` are in MHz. `polarisations` is ("L",), ("R",), or, for full Stokes, ("L", "R"),
    which is recorded as L, R, Q and U.
    """

    feed: int
    polarisations: tuple[str, ...]
    start_frequency: float
    bandwidth: float
    bins: int

    @property
    def stokes(self) -> bool:
        """Whether the values are L, R, Q and U, one after the other."""
        return len(self.polarisations) > 1

    @property
    def values(self) -> int:
        """The number of values in a dump of this channel."""
        return self.bins * (4 if self.stokes else 1)

    @property
    def inputs(self) -> tuple[int, ...]:
        """The numbers of its inputs: 2 * feed for left circular, 2 * feed + 1 for right circular."""
        return tuple(2 * self.feed + "LR".index(polarisation) for polarisation in self.polarisations)


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings of an acquisition, which do not change while it runs.

    `instrument` is the name of the instrument that defines the configuration.
    `acquisition` is its number from 0. It determines the noise together with `seed`, the seed of the simulation.
    `integration` is in ms, `attenuation` in dB. `tsys` and `marks` are the temperatures in K by input number, drawn
    from the ranges of the receiver.
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
        """The integration time in 100 ns."""
        return self.integration * TICKS_PER_SECOND // 1000

    @property
    def values(self) -> int:
        """The number of values in a dump, of all channels."""
        return sum(channel.values for channel in self.channels)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A named configuration, with the initial values of its sections.

    Each feed has two inputs, left and right circular. Without feeds there are the two inputs of feed 0 and no section,
    which is the state before a configuration is loaded: public test suites expect two values then.

    Parameters
    ----------
    name
        The argument of set-configuration.
    limits
        The limits of the instrument. None: values are not checked.
    feeds
        The numbers of its feeds.
    bandwidth
        In MHz.
    bins
        The number of bins of a section.
    attenuation
        In dB.
    stokes
        Whether it records full Stokes: L, R, Q and U of each feed.
    start_frequency
        In MHz.
    integration
        In ms.
    receiver
        The receiver.
    response
        The response of the backend.
    instrument
        The name of the instrument that it was included from; "" if the instrument itself defines it.
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
    instrument: str = ""

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return 2 * max(1, len(self.feeds))

    @property
    def sections(self) -> int:
        """The number of sections: one for each input, or with full Stokes one for each feed."""
        return len(self.feeds) * (1 if self.stokes else 2)


@dataclass(frozen=True, slots=True)
class Task:
    """A long-running task of an instrument.

    Parameters
    ----------
    command
        The command that starts it.
    configuration
        The argument of set-configuration that starts it too; "" if there is none.
    duration
        In s.
    initialises
        Whether it initialises the instrument. Such a task may be started at any time, and everything else must wait
        until one has finished.
    help
        The one-line help of the command.
    """

    command: str
    configuration: str = ""
    duration: float = 0.0
    initialises: bool = False
    help: str = ""


@dataclass(frozen=True, slots=True)
class Phrases:
    """The texts of status for an instrument with tasks. `{command}` in `running` is replaced by the task's command."""

    uninitialised: str = "not initialised"
    running: str = "{command} in progress"
    acquiring: str = "acquisition in progress"
    ready: str = "ready"


@dataclass(frozen=True, slots=True)
class Instrument:
    """An instrument.

    Parameters
    ----------
    name
        Its name.
    unconfigured
        The state before a configuration is loaded.
    configurations
        Its configurations by name.
    lacks
        The commands of the protocol that it does not support.
    tasks
        Its long-running tasks.
    phrases
        The texts of status, if it has tasks.
    description
        One line about it.
    records
        Whether acquisitions are recorded.
    """

    name: str
    unconfigured: Configuration
    configurations: Mapping[str, Configuration] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    tasks: tuple[Task, ...] = ()
    phrases: Phrases = Phrases()
    description: str = ""
    records: bool = True
