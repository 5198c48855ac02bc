"""SimulatedBackend: the commands and the state of a simulated instrument, as its profile describes it.

instrument.sections checks the values of sections, instrument.tasks runs tasks such as MISTRAL's. The package signal
computes measurements; the package recording records dumps and converts them to files.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from discosbackend.acquisition import Acquisition, CallsLater, precise_wait
from discosbackend.backend import Backend, blocking
from discosbackend.commands import COMMANDS, WILDCARD
from discosbackend.errors import BackendError
from discosbackend.reactors import reactor_or_default
from discosbackend.simulator.clock import AcquisitionTiming, SimulatedClock, ticks_of_fake
from discosbackend.simulator.instrument.channels import channels, inputs, levels
from discosbackend.simulator.instrument.model import Channel, Configuration, Instrument, Setup
from discosbackend.simulator.instrument.profiles import instrument_of
from discosbackend.simulator.instrument.sections import (
    Section,
    check_range,
    checked,
    initial,
    is_twice_the_bandwidth,
    merged,
)
from discosbackend.simulator.instrument.tasks import TaskRunner
from discosbackend.simulator.recording.queue import RecordingQueue
from discosbackend.simulator.signal.sky import Sky, checked_sky, load_sky
from discosbackend.ticks import Ticks

if TYPE_CHECKING:
    from discosbackend.monitor.quick_look import QuickLook
    from discosbackend.monitor.telemetry import TelemetryChannel
    from discosbackend.simulator.signal.quick_look import Picture
    from discosbackend.simulator.signal.total_power import Meter

__all__ = ["SimulatedBackend"]

logger = logging.getLogger(__name__)

_NO_FILE = "no file: set-filename was not sent"

# ms, for an acquisition that begins while the integration time is 0.
_INTEGRATION = 40


class SimulatedBackend(Backend):
    """A simulated instrument.

    Its methods are the commands of the protocol, documented in Backend. Each task of the instrument has a command of
    its own; all of them call run_task().

    Parameters
    ----------
    instrument
        A name of INSTRUMENTS, the path of a TOML profile, or an Instrument. Default: `discos`, or the instrument of
        the class: `class Mine(SimulatedBackend, instrument="sardara")`.
    seed
        The seed of the noise. The same seed and the same commands give the same measurements.
    data
        The folder in which acquisitions are recorded. Default: nothing is recorded, and convert-data does nothing.
    root
        The folder that stands for `/` in the paths of set-filename. Default: absolute paths are used as they are.
    sky
        The initial sky, or the path of a TOML file that describes it. Default: an empty sky.
    clock
        An object with `callLater`. Default: the reactor, imported when it is first needed.
    now_ticks
        Returns the true UTC as an integer in 100 ns. Default: the clock of the host, or the time of `clock` if that
        is Twisted's `task.Clock`.
    time_scale
        The factor on the duration of tasks: with 0.01 a task of one minute takes 0.6 s.

    Raises
    ------
    InstrumentError
        If there is no such instrument, or if its profile is invalid. It is a ValueError.
    SkyError
        If the sky is invalid, or if the instrument cannot see it. It is a ValueError.
    ValueError
        If `time_scale` is negative or not finite.

    Notes
    -----
    Before a configuration is loaded, the instrument has two inputs and no section. set-section then checks its values
    by the limits of the instrument and stores nothing. `discos` has no limits before that: it accepts every value of
    set-section and set-enable, and stores none.

    Examples
    --------
    >>> from discosbackend.simulator import SimulatedBackend
    >>> backend = SimulatedBackend("sardara", seed=1)
    >>> backend.set_configuration("SK00")
    >>> backend.get_integration()
    40
    >>> backend.set_section(0, "*", 300.0, "*", "*", "*", "*")
    >>> backend.sections[0].bandwidth
    300.0
    >>> len(backend.get_tpi()) == len(backend.get_tp0())
    True
    """

    _usual: ClassVar[str | Path | Instrument] = "discos"
    _made_as: tuple[type[SimulatedBackend], tuple[Any, ...], dict[str, Any]]

    def __init_subclass__(cls, *, instrument: str | Path | Instrument | None = None, **others: Any) -> None:
        """Set the default instrument of the class."""
        super().__init_subclass__(**others)
        if instrument is not None:
            cls._usual = instrument

    def __new__(cls, *instrument: Any, **settings: Any) -> Self:
        """Keep the arguments, for __reduce__."""
        made = super().__new__(cls)
        made._made_as = (cls, instrument, settings)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle or copy a backend that does not serve yet: create it again with the same arguments."""
        return _make_again, self._made_as

    @classmethod
    def _meant(cls, instrument: str | Path | Instrument | None) -> Instrument:
        asked = cls._usual if instrument is None else instrument
        return asked if isinstance(asked, Instrument) else instrument_of(asked)

    def __init__(
        self,
        instrument: str | Path | Instrument | None = None,
        *,
        seed: int = 0,
        data: Path | str | None = None,
        root: Path | str | None = None,
        sky: Sky | Path | str | None = None,
        clock: CallsLater | None = None,
        now_ticks: Callable[[], int] | None = None,
        time_scale: float = 1.0,
    ) -> None:
        self.instrument = self._meant(instrument)
        if not 0 <= time_scale < float("inf"):
            raise ValueError(f"time_scale must be a finite number, 0 or more, not {time_scale!r}")
        now_ticks = ticks_of_fake(clock) if now_ticks is None else now_ticks
        self.clock = SimulatedClock(now_ticks)
        self._on_host = now_ticks is None
        self.acquisition = Acquisition(
            self._begin,
            self._end,
            clock=clock,
            now_ticks=self.clock.now,
            # precise_wait() would wait forever for a fake clock.
            final_wait=precise_wait if now_ticks is None else None,
        )
        self.fault = ""
        """The fault text that status reports instead of `ok`; "" if there is no fault."""
        self._given_clock = clock
        self._time_scale = time_scale
        self._seed = seed
        if not isinstance(sky, Sky):
            sky = Sky() if sky is None else load_sky(sky)
        self._first_sky = self._sky = checked_sky(sky, self.instrument)
        self._recordings: RecordingQueue | None = None
        if data is not None and self.instrument.records:
            self._recordings = RecordingQueue(Path(data), None if root is None else Path(root))
        self._meter: Meter | None = None
        self._picture: Picture | None = None
        self._acquisitions = 0
        self._load(self.instrument.unconfigured)
        self._timing = AcquisitionTiming(self.clock)
        self._tasks = TaskRunner(self.instrument, self._call_later, lambda: self.fault)
        self._switch_on()
        for name in self.instrument.lacks:
            self._leave_out(COMMANDS[name].method)

    def __str__(self) -> str:
        return f"simulated {self.instrument.name}"

    def _leave_out(self, method: str) -> None:
        """Restore Backend's method, which is answered `not supported`, unless a subclass has its own."""
        if next(kind for kind in type(self).__mro__ if method in vars(kind)) is SimulatedBackend:
            setattr(self, method, getattr(super(), method))

    def _switch_on(self) -> None:
        """Reset what a power failure resets, except the configuration."""
        self._filename: str | None = None
        self._shift = 0
        self._tasks.reset()

    def _load(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._integration = configuration.integration
        self._feeds = configuration.feeds
        self._sections = {number: initial(configuration, number) for number in range(configuration.sections)}
        # Whether the log has, for this configuration, that a sample rate is not twice the bandwidth.
        self._rate_logged = False

    def _call_later(self, duration: float, function: Callable[[], None]) -> Any:
        """Call `function` after `duration` seconds, scaled by `time_scale`."""
        return reactor_or_default(self._given_clock).callLater(duration * self._time_scale, function)

    # -- clock and state ------------------------------------------------------------------------------

    @property
    def sections(self) -> Mapping[int, Section]:
        """The current sections by number; read-only."""
        return MappingProxyType(self._sections)

    @property
    def sky(self) -> Sky:
        """The current sky. Assign a new Sky to change it; the next dumps and measurements see it.

        Raises
        ------
        SkyError
            If the instrument cannot see the assigned sky: a feed, an input or a frequency that it does not have.
        """
        return self._sky

    @sky.setter
    def sky(self, sky: Sky) -> None:
        self._sky = checked_sky(sky, self.instrument)
        if self._recordings is not None and self.acquisition.acquiring:
            self._recordings.change_sky(sky)

    @property
    def recordings(self) -> RecordingQueue | None:
        """The recordings. None if nothing is recorded."""
        return self._recordings

    @property
    def status_text(self) -> str:
        """The text that status reports: a fault, the state of a task, or `ok`."""
        return self._status_text(self.acquisition.acquiring)

    def _status_text(self, acquiring: bool) -> str:
        if self.fault:
            return self.fault
        if self._recordings is not None and self._recordings.problem:
            return self._recordings.problem
        return (self.instrument.tasks and self._tasks.status(acquiring)) or "ok"

    def status(self) -> tuple[Ticks, str, bool]:
        acquiring = self.acquisition.acquiring
        return self.time(), self._status_text(acquiring), acquiring

    def time(self) -> Ticks:
        return self.clock.now()

    def power_cycle(self) -> None:
        """Switch the instrument off and on. A running acquisition ends, and its recording is kept.

        The sky is kept, except the interleave of cal-on, which is a setting of the instrument.
        """
        self._abandon_acquisition()
        self._load(self.instrument.unconfigured)
        self._switch_on()
        self.sky = replace(self.sky, interleave=self._first_sky.interleave)
        if self._recordings is not None:
            self._recordings.forget_next_name()
            self._recordings.give_up_conversion()

    def start_over(self) -> None:
        """Restore the initial state: power_cycle(), then no fault, the true time and the initial sky.

        The same commands then give the same measurements again. Recordings are kept, and so is the error of the clock
        that armed faults cause.
        """
        self.power_cycle()
        self._acquisitions = 0
        self._meter = None
        self.fault = ""
        self.clock.set_drift(0.0)
        self.clock.set_offset(0.0)
        self.sky = self._first_sky

    def state(self) -> dict[str, Any]:
        """Return the whole state as JSON values.

        Returns
        -------
        dict
            Times are Unix seconds, temperatures are in K. Other values have the units of the commands.
        """
        pending = {"start": self.acquisition.pending_start, "stop": self.acquisition.pending_stop}
        return {
            "instrument": self.instrument.name,
            "time": self.time().unix,
            "status": self.status_text,
            "fault": self.fault,
            "acquiring": self.acquisition.acquiring,
            "acquisitions": self._acquisitions,
            "pending": {name: None if at is None else at.unix for name, at in pending.items()},
            "clock": {"offset": self.clock.offset, "drift": self.clock.drift},
            "configuration": self.get_configuration(),
            "integration": self._integration,
            "feeds": list(self._feeds),
            "inputs": [self._input_to_dict(each) for each in inputs(self._configuration, self._feeds, self._sections)],
            "sections": {str(number): asdict(section) for number, section in self._sections.items()},
            "shift": self._shift,
            "filename": self._filename,
            "seed": self._seed,
            "sky": self._sky.to_dict(),
            "files": None if self._recordings is None else self._recordings.to_dict(),
        }

    def _input_to_dict(self, channel: Channel) -> dict[str, Any]:
        """Return an input with its current temperatures in K."""
        tsys, marks = levels(self._configuration.receiver, self._seed)
        (number,) = channel.inputs
        return {
            "input": number,
            "feed": channel.feed,
            "polarisation": channel.polarisations[0],
            "tsys": self._sky.tsys.get(number, tsys[number]),
            "mark": self._sky.mark.get(number, marks[number]),
        }

    def get_configuration(self) -> str:
        """Return the name of the loaded configuration. If a task was started later, return the name of the task."""
        return self._tasks.configuration or self._configuration.name

    def get_integration(self) -> int:
        return self._integration

    def get_filename(self) -> str:
        if self._filename is None:
            raise BackendError(_NO_FILE)
        return self._filename

    # -- tasks ----------------------------------------------------------------------------------------

    def own_commands(self) -> Iterable[Callable[..., Any]]:
        """Return one command for each task of the instrument, and `reset`."""
        return self._tasks.commands(self.run_task, self.power_cycle)

    def run_task(self, name: str) -> None:
        """Start the task of this command.

        Raises
        ------
        BackendError
            If the instrument is busy, acquiring or faulty; its text is the text of status.
        """
        self._tasks.begin(name, self.acquisition.acquiring)

    # -- configuration --------------------------------------------------------------------------------

    def set_configuration(self, configuration: str) -> None:
        """Load a configuration, which sets the integration time, the sections and the enabled feeds.

        The file name, the interleave of cal-on and the shift keep their values. set-configuration fails during an
        acquisition. Other settings may be changed then; they apply from the next acquisition on. If the name is that
        of a task, the task is started instead.
        """
        task = self._tasks.named(configuration)
        if task is not None:
            self.run_task(task.command)
            return
        if configuration not in self.instrument.configurations:
            raise BackendError("invalid configuration")
        self._tasks.check_ready()
        if self.acquisition.acquiring:
            raise BackendError("acquiring: set-configuration must wait for stop")
        self._load(self.instrument.configurations[configuration])
        self._tasks.configuration = ""
        # Import numpy now, so that the next measurement does not wait for the import. It waits if the system has no
        # thread left.
        with suppress(RuntimeError):
            threading.Thread(target=_load_spectra, name="discos-numpy", daemon=True).start()

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
        """Change a section, or all sections with `*`.

        The sample rate is always twice the bandwidth; another one within its limits is accepted, but not stored.
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
        given, changed = {}, {}
        for number in numbers:
            before = self._sections.get(number) or initial(self._configuration, number)
            given[number] = merged(before, values)
            changed[number] = checked(given[number], limits)
        if self._sections:
            self._sections.update(changed)
        replaced = next((number for number in numbers if not is_twice_the_bandwidth(given[number])), None)
        if replaced is not None and not self._rate_logged:
            self._rate_logged = True
            logger.info(
                "%s: set-section with sample rate %.10g MHz: twice the bandwidth, %.10g MHz, is taken instead",
                self.instrument.name,
                given[replaced].sample_rate,
                changed[replaced].sample_rate,
            )

    def set_enable(self, feed1: int, feed2: int) -> None:
        """Select the feeds to measure, in this order. The configuration need not contain them."""
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
        """Set the bit shift of the FFT stages: 16 bits, one for each stage. It has no effect on measurements."""
        limits = self._configuration.limits
        if limits is not None:
            check_range("shift", shift, limits.shift)
        self._shift = shift

    def cal_on(self, interleave: int) -> None:
        """Switch the noise diode on for `interleave` dumps, then off for as many, and so on.

        With 0, the receiver decides whether the diode is on (the attribute `diode` of Sky).
        """
        self.sky = replace(self.sky, interleave=interleave)

    # -- measurements ---------------------------------------------------------------------------------

    def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> list[float]:
        """Return the total power of each input in counts, over a part of its section.

        `bandwidth` is the width of this part in MHz. If it is 0 or more than the width of the section, the result is
        the power of the whole section. `frequency` has no effect: clients send sky frequencies, and a backend does not
        know the local oscillator.
        """
        dump = self._timing.dump if self.acquisition.acquiring else None
        return self._metered.total_power(self._setup(measured=True), self.sky, abs(bandwidth) or None, dump=dump)

    def get_tp0(self) -> list[float]:
        return self._metered.zero_level(self._setup(measured=True))

    def get_rms(self) -> list[float]:
        return self._metered.rms(self._setup(measured=True))

    def get_ddcoffset(self) -> float:
        """Return the start frequency of the first section in MHz; 0 until a configuration is loaded."""
        return self._sections[0].start_frequency if self._sections else 0.0

    @property
    def _metered(self) -> Meter:
        if self._meter is None:
            from discosbackend.simulator.signal.total_power import Meter  # imports numpy

            self._meter = Meter(self._seed)
        return self._meter

    def quick_look(self) -> QuickLook | Awaitable[QuickLook | None] | None:
        """Return a picture of the present configuration and sky, against sky frequency; None until there is one.

        It is computed for the page, with few bins, and is no dump of an acquisition. It shows the inputs that have the
        band of the first one.
        """
        # Importing numpy would block the server. set_configuration() imports it in a thread.
        if not self._sections or "discosbackend.simulator.signal.total_power" not in sys.modules:
            return None
        if self._picture is None:
            from discosbackend.simulator.signal.quick_look import Picture

            self._picture = Picture(self._seed)
        return self._look(self._picture) or self._prepared_look(self._picture)

    def _look(self, picture: Picture) -> QuickLook | None:
        dump = self._timing.dump if self.acquisition.acquiring else None
        return picture.look(self._setup(measured=True), self.sky, dump=dump)

    async def _prepared_look(self, picture: Picture) -> QuickLook | None:
        """Prepare the picture in steps, so that the server is not blocked. None if the settings change meanwhile."""
        from twisted.internet.task import deferLater

        for _ in picture.prepare(self._setup(measured=True)):
            await deferLater(reactor_or_default(self._given_clock), 0)
        return self._look(picture)

    def _setup(self, *, measured: bool = False) -> Setup:
        """Return the settings for an acquisition that begins now.

        Its channels are those that are recorded, or, if `measured`, one for each input.
        """
        configuration = self._configuration
        tsys, marks = levels(configuration.receiver, self._seed)
        return Setup(
            instrument=configuration.instrument or self.instrument.name,
            configuration=configuration.name,
            seed=self._seed,
            acquisition=self._acquisitions,
            integration=self._integration or _INTEGRATION,
            attenuation=configuration.attenuation,
            receiver=configuration.receiver,
            response=configuration.response,
            channels=tuple((inputs if measured else channels)(configuration, self._feeds, self._sections)),
            tsys=tsys,
            marks=marks,
        )

    def telemetry_channels(self) -> list[TelemetryChannel]:
        """Return a channel for each channel that is recorded. Before a configuration is loaded, there is none."""
        from discosbackend.simulator.instrument.telemetry_channels import telemetry_channels

        tsys, _ = levels(self._configuration.receiver, self._seed)
        return telemetry_channels(
            self._configuration, self._feeds, self._sections, {**dict(enumerate(tsys)), **self._sky.tsys}
        )

    # -- acquisition and files ------------------------------------------------------------------------

    def start(self, timestamp: Ticks | None = None) -> None:
        """Start acquiring.

        An instrument with tasks refuses it while a task runs or while it has a fault; with a time, this is checked
        again at that time.
        """
        # With a time, the next acquisition can be armed during one.
        self._tasks.check_ready(acquiring=self.acquisition.acquiring and timestamp is None)
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.stop(timestamp)

    def _begin(self, instant: Ticks) -> None:
        self._tasks.check_ready()
        setup = self._setup()
        instant, since = self._timing.begin(instant, setup.dump_length)
        if self._recordings is not None:
            self._recordings.begin(setup, instant, self.clock.steady, since, self.sky, may_lag=not self._on_host)
        self._acquisitions += 1
        logger.info("%s: acquisition begins at %s", self.instrument.name, instant.unix_text())

    def _end(self, instant: Ticks) -> None:
        since = self._timing.end(instant)
        if self._recordings is not None:
            self._recordings.end(since)
        logger.info("%s: acquisition ends at %s", self.instrument.name, instant.unix_text())

    def _abandon_acquisition(self) -> None:
        """End a running acquisition and cancel pending times; do nothing if there is neither."""
        if self.acquisition.acquiring:
            self.acquisition.stop()
        self.acquisition.cancel()

    def set_filename(self, path: str) -> None:
        """Set the path of the file of the newest recording. If there is none, it applies to the next recording."""
        if self._recordings is not None:
            self._recordings.name(path)
        self._filename = path

    @blocking
    def convert_data(self) -> None:
        """Convert the recordings to files. It succeeds without doing anything if there is no recording."""
        if self._recordings is not None:
            self._recordings.convert()
        else:
            logger.info("%s: nothing is recorded, nothing to convert", self.instrument.name)

    def end_schedule(self) -> None:
        """Log the end of the schedule; the state does not change."""
        logger.info("%s: end of the schedule", self.instrument.name)

    def park(self) -> None:
        """End a running acquisition and cancel pending times; the configuration is kept."""
        self._abandon_acquisition()

    def wait_for_dumps(self, seconds: float | None = None) -> bool:
        """Wait until all dumps of finished acquisitions are on disk.

        Call it before reading a recording directly. convert-data waits by itself.

        Parameters
        ----------
        seconds
            The longest wait in seconds. Default: no limit.

        Returns
        -------
        bool
            Whether all dumps are on disk.
        """
        return self._recordings is None or self._recordings.wait(seconds)

    def server_stopping(self) -> None:
        if self._recordings is not None:
            self._recordings.close()


def _make_again(
    kind: type[SimulatedBackend], instrument: tuple[Any, ...], settings: dict[str, Any]
) -> SimulatedBackend:
    return kind(*instrument, **settings)


def _load_spectra() -> None:
    """Import numpy, which takes half a second, in a thread of its own."""
    try:
        importlib.import_module("discosbackend.simulator.signal.total_power")
    except Exception:  # an exception in a thread would reach no caller
        logger.exception("numpy cannot be imported: nothing can be measured")
