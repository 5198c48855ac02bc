"""SimulatedBackend: the state machine of a simulated spectrometer, driven by the data in instruments.

What is refused and why a value is none of an instrument's is said in sections; what is measured in signal.
MISTRAL, which does other things than a spectrometer, is the subclass in mistral.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

from discosbackend.acquisition import Acquisition, CallsLater
from discosbackend.backend import Backend
from discosbackend.commands import COMMANDS, WILDCARD
from discosbackend.errors import BackendError
from discosbackend.simulator.instruments import INSTRUMENTS, Configuration, Instrument
from discosbackend.simulator.sections import Section, check, check_range, initial, merged
from discosbackend.simulator.signal import Signal
from discosbackend.ticks import Ticks, now_ticks as utc_ticks

__all__ = ["SimulatedBackend"]

logger = logging.getLogger(__name__)

_NO_FILE = "no file: set-filename was not sent"

# Left and right circular: the two inputs of a feed.
_POLARISATIONS = 2


class SimulatedBackend(Backend):
    """An instrument without hardware, by its name: one of INSTRUMENTS. ValueError for any other.

    The same `seed` and the same commands give the same measurements. `clock` needs callLater only
    (default: the reactor, looked up when it is first needed); `now_ticks` gives UTC as an integer count of
    100 ns (default: the host's clock). `time_scale` stretches what takes an instrument time; 0.01 makes a
    minute 0.6 s.

    Before a configuration is loaded there is one input and no section: set-section is judged by the
    instrument's limits and then forgotten. `discos` has no limits until then, and forgets set-enable too.
    """

    _class_of: ClassVar[dict[str, type[SimulatedBackend]]] = {}
    _made_for: ClassVar[str | None] = None

    def __init_subclass__(cls, *, instrument: str | None = None, **others: Any) -> None:
        """`class SimulatedX(SimulatedBackend, instrument="x")`: what SimulatedBackend("x") is made of."""
        super().__init_subclass__(**others)
        if instrument is not None:
            cls._made_for = instrument
            cls._class_of[instrument] = cls

    def __new__(cls, instrument: str = "discos", **_settings: Any) -> Self:
        """The instrument's own class, where it has one: own commands are found on the class of a backend."""
        if cls is SimulatedBackend:
            return cast(Self, super().__new__(cls._class_of.get(instrument, cls)))
        return super().__new__(cls)

    def __init__(
        self,
        instrument: str = "discos",
        *,
        seed: int = 0,
        clock: CallsLater | None = None,
        now_ticks: Callable[[], int] | None = None,
        time_scale: float = 1.0,
    ) -> None:
        if instrument not in INSTRUMENTS:
            raise ValueError(f"unknown instrument {instrument!r}: known are {', '.join(INSTRUMENTS)}")
        if self._made_for != (instrument if instrument in self._class_of else None):
            wanted = self._class_of.get(instrument, SimulatedBackend)
            raise TypeError(f"{type(self).__name__} cannot be {instrument}: derive it from {wanted.__name__}")
        if not 0 <= time_scale < float("inf"):
            raise ValueError(f"time_scale must be a finite number, 0 or more, not {time_scale!r}")
        self.instrument: Instrument = INSTRUMENTS[instrument]
        self.acquisition = Acquisition(self._begin, self._end, clock=clock, now_ticks=now_ticks)
        self._given_clock = clock
        self._now = utc_ticks if now_ticks is None else now_ticks
        self._time_scale = time_scale
        self._filename: str | None = None
        self._interleave = 0
        self._shift = 0
        self._load(self.instrument.unconfigured)
        inputs = (configuration.inputs for configuration in self.instrument.configurations.values())
        self._signal = Signal(seed, max(inputs, default=1))
        for name in self.instrument.lacks:
            self._leave_out(COMMANDS[name].method)

    def __str__(self) -> str:
        return f"simulated {self.instrument.name}"

    def _leave_out(self, method: str) -> None:
        """What the instrument lacks is as Backend has it: not supported. A subclass may bring its own."""
        if getattr(type(self), method) is getattr(SimulatedBackend, method):
            setattr(self, method, getattr(super(), method))

    def _load(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._integration = configuration.integration
        self._feeds = configuration.feeds
        self._sections = {number: initial(configuration, number) for number in range(configuration.sections)}

    def _clock(self) -> CallsLater:
        if self._given_clock is None:
            from twisted.internet import reactor  # pylint: disable=import-outside-toplevel

            self._given_clock = cast(CallsLater, reactor)
        return self._given_clock

    # -- clock and state ------------------------------------------------------------------------------

    @property
    def sections(self) -> Mapping[int, Section]:
        """The sections as they are now, by their number."""
        return MappingProxyType(self._sections)

    @property
    def status_text(self) -> str:
        """What status tells beside the clock: `ok`, or what the instrument is busy with or waits for."""
        return "ok"

    def status(self) -> tuple[Ticks, str, bool]:
        return self.time(), self.status_text, self.acquisition.acquiring

    def time(self) -> Ticks:
        return Ticks(self._now())

    def get_configuration(self) -> str:
        return self._configuration.name

    def get_integration(self) -> int:
        return self._integration

    def get_filename(self) -> str:
        if self._filename is None:
            raise BackendError(_NO_FILE)
        return self._filename

    # -- configuration --------------------------------------------------------------------------------

    def set_configuration(self, configuration: str) -> None:
        """Load a configuration: integration, sections and enabled feeds are as it defines them.

        The file name, the interleave of cal-on and the shift stay. Refused while acquiring.
        """
        if configuration not in self.instrument.configurations:
            raise BackendError("invalid configuration")
        if self.acquisition.acquiring:
            raise BackendError("acquiring: set-configuration must wait for stop")
        self._load(self.instrument.configurations[configuration])

    def set_integration(self, integration: int) -> None:
        limits = self._configuration.limits
        if limits is not None:
            check_range("integration", integration, limits.integration, " ms")
        self._integration = integration

    def set_section(
        self,
        section: int | str,
        start_frequency: float | str,
        bandwidth: float | str,
        feed: int | str,
        mode: str,
        sample_rate: float | str,
        bins: int | str,
    ) -> None:
        """Change a section, or with `*` all of them; if one of them cannot be so, none is changed.

        A sample rate of `*` follows the bandwidth, of which it is the double.
        """
        limits = self._configuration.limits
        if limits is None:
            return
        supported = self._configuration.sections or limits.sections
        if section == WILDCARD:
            numbers = range(supported)
        elif section in range(supported):
            numbers = range(int(section), int(section) + 1)
        else:
            raise BackendError(f"backend supports {supported} sections")
        values = (start_frequency, bandwidth, feed, mode, sample_rate, bins)
        changed = {}
        for number in numbers:
            before = self._sections.get(number) or initial(self._configuration, number)
            changed[number] = merged(before, values)
            check(changed[number], limits)
        if self._sections:
            self._sections.update(changed)

    def set_enable(self, feed1: int, feed2: int) -> None:
        """Choose the feeds that are measured, in this order, whether or not the configuration has them."""
        limits = self._configuration.limits
        if limits is None:
            return
        if limits.all_feeds is not None and feed1 == feed2 == limits.all_feeds:
            self._feeds = tuple(range(limits.feeds))
            return
        for name, feed in (("feed1", feed1), ("feed2", feed2)):
            if feed not in range(limits.feeds):
                raise BackendError(f"{name} out of range")
        self._feeds = (feed1,) if feed1 == feed2 and limits.equal_feeds_once else (feed1, feed2)

    def set_shift(self, shift: int) -> None:
        """Set the bit shift of the FFT stages: a bit a stage, 16 bits. It changes no measurement yet."""
        limits = self._configuration.limits
        if limits is not None:
            check_range("shift", shift, limits.shift)
        self._shift = shift

    def cal_on(self, interleave: int) -> None:
        """Remember after how many samples the noise diode is switched. It changes no measurement yet."""
        self._interleave = interleave

    # -- measurements ---------------------------------------------------------------------------------

    def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> list[float]:
        """Total power of each input, over `bandwidth` MHz of its section or, with 0, over all of it.

        Clients send sky frequencies, and the local oscillator is not the backend's: so where in the
        section the band lies does not matter, and a band wider than the section is all of it.
        """
        return [
            self._signal.total_power(
                number,
                bandwidth=min(abs(bandwidth), whole) if bandwidth else whole,
                attenuation=self._configuration.attenuation,
                integration=self._integration,
            )
            for number, whole in self._inputs()
        ]

    def get_tp0(self) -> list[float]:
        return [self._signal.zero_level() for _ in self._inputs()]

    def get_rms(self) -> list[float]:
        return [self._signal.rms(attenuation=self._configuration.attenuation) for _ in self._inputs()]

    def get_ddcoffset(self) -> float:
        """The start frequency of the first section in MHz; 0 until a configuration is loaded."""
        return self._sections[0].start_frequency if self._sections else 0.0

    def _inputs(self) -> Iterator[tuple[int, float]]:
        """Every input that is measured: its number on the instrument, and the bandwidth of its section."""
        configuration = self._configuration
        if not self._feeds:
            yield 0, configuration.bandwidth
        for feed in self._feeds:
            for polarisation in range(_POLARISATIONS):
                bandwidth = configuration.bandwidth
                if feed in configuration.feeds:
                    position = configuration.feeds.index(feed)
                    number = position if configuration.stokes else _POLARISATIONS * position + polarisation
                    bandwidth = self._sections[number].bandwidth
                yield _POLARISATIONS * feed + polarisation, bandwidth

    # -- acquisition and files ------------------------------------------------------------------------

    def start(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.stop(timestamp)

    def _begin(self, instant: Ticks) -> None:
        logger.info("%s: acquisition begins at %s", self.instrument.name, instant.unix_text())

    def _end(self, instant: Ticks) -> None:
        logger.info("%s: acquisition ends at %s", self.instrument.name, instant.unix_text())

    def _abandon_acquisition(self) -> None:
        """Stop, and drop what is pending; nothing where there is neither."""
        if self.acquisition.acquiring:
            self.acquisition.stop()
        self.acquisition.cancel()

    def set_filename(self, path: str) -> None:
        self._filename = path

    def convert_data(self) -> None:
        """Accepted, also when there is nothing to merge. The simulator does not write data files yet."""
        logger.info("%s: convert-data for %r", self.instrument.name, self._filename)

    def end_schedule(self) -> None:
        """The schedule is over: logged, nothing changes."""
        logger.info("%s: end of the schedule", self.instrument.name)

    def park(self) -> None:
        """Stop an acquisition and drop what is pending; the configuration stays."""
        self._abandon_acquisition()
