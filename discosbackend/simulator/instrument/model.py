"""Records that describe an instrument, and the settings of an acquisition.

The module profiles reads the instruments from simulator/profiles/*.toml into these records. ProfileKeys has the keys of
such a file, and the other records those of its tables; their annotations say what is allowed. sections checks values
against the limits; the backend and tasks use the other records. Frequencies, bandwidths and sample rates are in MHz.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from discosbackend.commands import COMMANDS
from discosbackend.grammar import name_pattern
from discosbackend.schema import NEEDED, YEAR, Allowed, Range, one_line
from discosbackend.ticks import TICKS_PER_SECOND

__all__ = [
    "MOST_FEEDS",
    "RESET",
    "UNCONFIGURED",
    "Channel",
    "Comb",
    "Configuration",
    "ConfigurationKeys",
    "Instrument",
    "Limits",
    "Phrases",
    "ProfileKeys",
    "Receiver",
    "Response",
    "Setup",
    "Task",
    "is_word",
]

UNCONFIGURED = "unconfigured"
"""The reply to get-configuration until a configuration is loaded (protocol section 4.4)."""

RESET = "reset"
"""The command that cancels a task; every instrument with tasks has it."""

# The largest integer of a profile. A larger number is a mistake.
_INTEGER = 10**9

MOST_FEEDS = 1000
"""The most feeds of an instrument."""

# Values are recorded as signed 32-bit integers.
_FULL_SCALE = 2**31 - 1

# Not `version`, which the server answers, and not `status`, which the server needs itself.
_LACKABLE = tuple(name for name in COMMANDS if name not in ("version", "status"))

# Texts that are sent to clients or written to a file's header: printable ASCII without comma and `!`.
_PLAIN = re.compile(r"[ \"-+\--~]+")


def is_word(text: str, longest: int = 64) -> bool:
    """Return whether the text is printable ASCII without a comma or `!`, and without blanks at its ends."""
    return len(text) <= longest and text.strip() == text and _PLAIN.fullmatch(text) is not None


def _one_word(longest: int) -> Allowed:
    return Allowed(
        valid=lambda text: is_word(text, longest),
        expected=f"one line of ASCII without , and ! of at most {longest} characters",
    )


# -- the types of keys --------------------------------------------------------------------------------

Megahertz = Annotated[float, Allowed("MHz", least=0, most=1e7)]
Width = Annotated[float, Allowed("MHz", above=0, most=1e7)]
Kelvin = Annotated[float, Allowed("K", above=0, most=1e6)]
Milliseconds = Annotated[int, Allowed("ms", least=1, most=_INTEGER)]
Integer = Annotated[int, Allowed(least=-_INTEGER, most=_INTEGER)]
# More bins or feeds would exceed the memory.
Bins = Annotated[int, Allowed(least=1, most=2**24)]
Feeds = Annotated[int, Allowed(least=1, most=MOST_FEEDS)]
# Half the sky.
Arcmin = Annotated[float, Allowed("arcmin", least=-180 * 60, most=180 * 60)]
Factor = Annotated[float, Allowed(least=0, most=1e6)]
Fraction = Annotated[float, Allowed(least=0, most=1)]

Offsets = Annotated[
    tuple[tuple[Arcmin, Arcmin], ...],
    Allowed(
        valid=lambda offsets: offsets[:1] == ((0.0, 0.0),),
        expected="a list of [x, y] in arcmin, [0, 0] first: one for each feed",
    ),
]
OneWord = Annotated[str, _one_word(64)]
# MISTRAL's client reads the greeting and the reply to status together into a buffer of 256 bytes.
Phrase = Annotated[str, _one_word(120)]
ShortLine = Annotated[str, one_line(200)]
TaskCommand = Annotated[
    str,
    Allowed(
        valid=lambda name: name_pattern.fullmatch(name) and name not in {*COMMANDS, RESET},
        expected=f"a name of letters, digits and hyphens, letter first, none of the protocol's own and not {RESET}",
    ),
]
Lackable = Annotated[
    tuple[str, ...],
    Allowed(valid=lambda names: {*names} <= {*_LACKABLE}, expected=f"a list of commands: {', '.join(_LACKABLE)}"),
]
Includes = Annotated[tuple[str, ...], Allowed(valid=all, expected="a list of instruments, by name or file")]


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

    start_frequency: Range[Megahertz]
    bins: tuple[Bins, ...]
    bandwidth: Range[Megahertz] = (0.0, 2300.0)
    sample_rate: Range[Megahertz] = (0.0, 4600.0)
    integration: Range[Milliseconds] = (5, 1000)
    shift: Range[Integer] = (0, 0xFFFF)
    feeds: Feeds = 7
    all_feeds: Integer | None = None
    equal_feeds_once: bool = False

    @property
    def sections(self) -> int:
        """The largest number of sections of a configuration: one for each polarisation of each feed."""
        return 2 * self.feeds


@dataclass(frozen=True, slots=True)
class Comb:
    """Interference: narrow peaks of `level` K, every `spacing` MHz from sky frequency `first` to `last` in MHz."""

    first: Width
    last: Width
    spacing: Width
    level: Annotated[float, Allowed("K", least=0, most=1e6)]


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

    code: Annotated[OneWord, NEEDED] = "KKG"
    local_oscillator: Annotated[Megahertz, NEEDED] = 0.0
    tsys: Annotated[Range[Kelvin], NEEDED] = (87.0, 116.0)
    mark: Annotated[Range[Kelvin], NEEDED] = (28.0, 77.0)
    beam: Annotated[float, NEEDED, Allowed("arcmin", above=0, most=180 * 60)] = 1.0
    offsets: Annotated[Offsets, NEEDED] = ((0.0, 0.0),)
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

    gain: Annotated[float, Allowed("counts per K and MHz", above=0, most=1e12)] = 1.0
    zero: Annotated[float, Allowed("counts", least=0, most=_FULL_SCALE)] = 0.0
    full_scale: Annotated[int, Allowed("counts", least=1, most=_FULL_SCALE)] = _FULL_SCALE
    rms: Annotated[float, Allowed("counts", above=0, most=_FULL_SCALE)] = 50.0
    edge: Annotated[float, Allowed(least=1e-6, most=1)] = 0.03
    slope: Annotated[float, Allowed(least=-50, most=50)] = 3.0
    dc: Factor = 15.0
    spur: Factor = 1.6
    cross: Fraction = 0.11
    drift: Fraction = 0.002


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
    `acquisition` is the number of the acquisition, from 0. Together with `seed`, the seed of the simulation, it
    determines the noise.
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

    command: TaskCommand
    configuration: OneWord = ""
    duration: Annotated[float, NEEDED, Allowed("seconds", least=0, most=YEAR)] = 0.0
    initialises: bool = False
    help: ShortLine = ""


@dataclass(frozen=True, slots=True)
class Phrases:
    """The texts of status for an instrument with tasks. `{command}` in `running` is replaced by the task's command."""

    uninitialised: Phrase = "not initialised"
    running: Phrase = "{command} in progress"
    acquiring: Phrase = "acquisition in progress"
    ready: Phrase = "ready"


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


# -- the keys of a file that differ from the records --------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConfigurationKeys:
    """The keys of a table `[configurations.NAME]`, and of `[defaults]`, which has values for all configurations."""

    receiver: Annotated[str, Allowed(expected="a name of a [receivers.NAME]")]
    feeds: tuple[Annotated[int, Allowed(least=0)], ...]
    bandwidth: Width
    bins: Bins
    attenuation: Annotated[float, Allowed("dB", least=0, most=200)]
    integration: Milliseconds
    start_frequency: Megahertz = 0.0
    stokes_too: bool = False


@dataclass(frozen=True, slots=True)
class ProfileKeys:
    """The keys of a file."""

    name: OneWord
    description: ShortLine
    includes: Includes = ()
    lacks: Lackable = ()
    records: bool = True
    limits: Limits | None = None
    response: Response = field(default_factory=Response)
    receivers: Mapping[str, Receiver] = field(default_factory=dict)
    # Read with each configuration, as ConfigurationKeys.
    defaults: Any = field(default_factory=dict)
    configurations: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    phrases: Phrases = field(default_factory=Phrases)
