"""SimulatedBackend: the state machine of a simulated instrument, driven by the data in a profile.

Which values are refused is decided in instrument.sections, tasks such as MISTRAL's are in instrument.tasks; what is
measured is in signal, what is recorded and converted in recording.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from discosbackend.acquisition import Acquisition, CallsLater, precise_wait
from discosbackend.backend import Backend, blocking
from discosbackend.commands import COMMANDS, WILDCARD
from discosbackend.errors import BackendError
from discosbackend.simulator.clock import AcquisitionTiming, SimulatedClock, ticks_of_fake
from discosbackend.simulator.instrument.channels import channels, inputs, levels
from discosbackend.simulator.instrument.model import Channel, Configuration, Instrument, Setup
from discosbackend.simulator.instrument.profiles import instrument_of
from discosbackend.simulator.instrument.sections import Section, check, check_range, initial, merged
from discosbackend.simulator.instrument.tasks import TaskRunner
from discosbackend.simulator.recording.queue import RecordingQueue
from discosbackend.simulator.signal.sky import Sky, checked_sky, load_sky
from discosbackend.ticks import Ticks

if TYPE_CHECKING:
    from discosbackend.simulator.signal.total_power import Meter

__all__ = ["SimulatedBackend"]

logger = logging.getLogger(__name__)

_NO_FILE = "no file: set-filename was not sent"

# ms; what an acquisition is made with when it begins before a configuration has brought one.
_INTEGRATION = 40


class SimulatedBackend(Backend):
    """An instrument without hardware: a name of INSTRUMENTS, the path of a TOML file, or an Instrument.

    InstrumentError, which is a ValueError, for a name or a file that is none. Without any it is `discos`, or what
    the class says: `class Mine(SimulatedBackend, instrument="sardara")`. Each task of an instrument has a command of
    its own; all of them call run_task().

    The same `seed` and the same commands give the same measurements. `data` is the folder in which acquisitions
    are recorded; without one they are not, and convert-data finds nothing to do. Absolute paths of set-filename
    are taken below `root`. `sky`, or a file of it, is what there is to be seen at first; SkyError, which is a
    ValueError, for what cannot be seen. `clock` needs callLater only (default: the reactor, looked up when it is
    first needed); `now_ticks` gives the true UTC as an integer count of 100 ns (default: the host's clock, or that
    of a task.Clock). `time_scale` stretches what takes an instrument time; 0.01 makes a minute 0.6 s.

    Before a configuration is loaded there is one input and no section: set-section is judged by the
    instrument's limits and then forgotten. `discos` has no limits until then, and forgets set-enable too.
    """

    _usual: ClassVar[str | Path | Instrument] = "discos"
    _made_as: tuple[type[SimulatedBackend], tuple[Any, ...], dict[str, Any]]

    def __init_subclass__(cls, *, instrument: str | Path | Instrument | None = None, **others: Any) -> None:
        """`instrument` is what it simulates unless it is told otherwise."""
        super().__init_subclass__(**others)
        if instrument is not None:
            cls._usual = instrument

    def __new__(cls, *instrument: Any, **settings: Any) -> Self:
        """Keep the arguments, for __reduce__."""
        made = super().__new__(cls)
        made._made_as = (cls, instrument, settings)  # its own
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """To be pickled or copied before it serves: it is made again with the same arguments."""
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
            # A fake clock does not move while it is waited for.
            final_wait=precise_wait if now_ticks is None else None,
        )
        self.fault = ""
        """What status reports instead of `ok`, "" for nothing."""
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
        self._acquisitions = 0
        self._load(self.instrument.unconfigured)
        self._timing = AcquisitionTiming(self.clock)
        self._tasks = TaskRunner(self.instrument, self._call_later)
        self._switch_on()
        for name in self.instrument.lacks:
            self._leave_out(COMMANDS[name].method)

    def __str__(self) -> str:
        return f"simulated {self.instrument.name}"

    def _leave_out(self, method: str) -> None:
        """What the instrument lacks is as Backend has it: not supported. A subclass may bring its own."""
        if next(kind for kind in type(self).__mro__ if method in vars(kind)) is SimulatedBackend:
            setattr(self, method, getattr(super(), method))

    def _switch_on(self) -> None:
        """Besides the configuration: what the instrument forgets when its power fails."""
        self._filename: str | None = None
        self._shift = 0
        self._tasks.reset()

    def _load(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._integration = configuration.integration
        self._feeds = configuration.feeds
        self._sections = {number: initial(configuration, number) for number in range(configuration.sections)}

    def _call_later(self, duration: float, function: Callable[[], None]) -> Any:
        """Call back when something that takes the real instrument `duration` seconds is over."""
        if self._given_clock is None:
            from twisted.internet import reactor

            self._given_clock = cast(CallsLater, reactor)
        return self._given_clock.callLater(duration * self._time_scale, function)

    # -- clock and state ------------------------------------------------------------------------------

    @property
    def sections(self) -> Mapping[int, Section]:
        """The sections as they are now, by their number."""
        return MappingProxyType(self._sections)

    @property
    def sky(self) -> Sky:
        """What there is to be seen; replaced as a whole, and seen by dumps and measurements from then on.

        SkyError for what the instrument could never see.
        """
        return self._sky

    @sky.setter
    def sky(self, sky: Sky) -> None:
        self._sky = checked_sky(sky, self.instrument)
        if self._recordings is not None and self.acquisition.acquiring:
            self._recordings.change_sky(sky)

    @property
    def status_text(self) -> str:
        """What status tells beside the clock: `ok`, or what is wrong, or what the instrument is busy with."""
        problem = self.fault or (self._recordings.problem if self._recordings is not None else "")
        return problem or self._tasks.status(self.acquisition.acquiring) or "ok"

    def status(self) -> tuple[Ticks, str, bool]:
        return self.time(), self.status_text, self.acquisition.acquiring

    def time(self) -> Ticks:
        return self.clock.now()

    def power_cycle(self) -> None:
        """The instrument as when it is switched on: an acquisition ends, and its recording stays.

        Of the sky only cal-on's interleave changes, which is the instrument's own.
        """
        self._abandon_acquisition()
        self._load(self.instrument.unconfigured)
        self._switch_on()
        self.sky = replace(self.sky, interleave=self._first_sky.interleave)
        if self._recordings is not None:
            self._recordings.forget_next_name()
            self._recordings.give_up_conversion()

    def start_over(self) -> None:
        """Everything as when it was made: after a power cycle, no fault, the clock right, the first sky.

        The same commands give the same measurements again. What has been recorded stays.
        """
        self.power_cycle()
        self._acquisitions = 0
        self._meter = None
        self.fault = ""
        self.clock.set_drift(0.0)
        self.clock.set_offset(0.0)
        self.sky = self._first_sky

    def state(self) -> dict[str, Any]:
        """All that there is to know about it, in JSON's terms.

        Times are Unix seconds, temperatures K, the rest is as in the commands.
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
        """An input, and the temperatures that hold there now."""
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
        """The configuration that was loaded last, or the task that was begun after it."""
        return self._tasks.configuration or self._configuration.name

    def get_integration(self) -> int:
        return self._integration

    def get_filename(self) -> str:
        if self._filename is None:
            raise BackendError(_NO_FILE)
        return self._filename

    # -- tasks ----------------------------------------------------------------------------------------

    def own_commands(self) -> Iterable[Callable[..., Any]]:
        """One command for each task of the instrument, and `reset`."""
        return self._tasks.commands(self.run_task, self.power_cycle)

    def run_task(self, name: str) -> None:
        """Begin the task of this command. BackendError, with the text of status, while that cannot be."""
        self._tasks.begin(name, self.acquisition.acquiring)

    # -- configuration --------------------------------------------------------------------------------

    def set_configuration(self, configuration: str) -> None:
        """Load a configuration: integration, sections and enabled feeds are as it defines them.

        The file name, the interleave of cal-on and the shift stay. Refused while acquiring. Other settings may
        change then, and hold from the next acquisition on. The name of a task begins that task instead.
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
        # Who measures next must not wait for numpy.
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
        """Switch the noise diode every so many dumps, beginning with on; with 0, leave it as the receiver has it."""
        self.sky = replace(self.sky, interleave=interleave)

    # -- measurements ---------------------------------------------------------------------------------

    def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> list[float]:
        """Total power of each input, over `bandwidth` MHz of its section or, with 0, over all of it.

        Clients send sky frequencies, and the local oscillator is not the backend's: so where in the
        section the band lies does not matter, and a band wider than the section is all of it.
        """
        dump = self._timing.dump if self.acquisition.acquiring else None
        return self._metered.total_power(self._setup(measured=True), self.sky, abs(bandwidth) or None, dump=dump)

    def get_tp0(self) -> list[float]:
        return self._metered.zero_level(self._setup(measured=True))

    def get_rms(self) -> list[float]:
        return self._metered.rms(self._setup(measured=True))

    def get_ddcoffset(self) -> float:
        """The start frequency of the first section in MHz; 0 until a configuration is loaded."""
        return self._sections[0].start_frequency if self._sections else 0.0

    @property
    def _metered(self) -> Meter:
        if self._meter is None:
            from discosbackend.simulator.signal.total_power import Meter  # numpy

            self._meter = Meter(self._seed)
        return self._meter

    def _setup(self, *, measured: bool = False) -> Setup:
        """What an acquisition that begins now is made with; `measured`: with a channel for each input instead."""
        configuration = self._configuration
        tsys, marks = levels(configuration.receiver, self._seed)
        return Setup(
            instrument=self.instrument.name,
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

    # -- acquisition and files ------------------------------------------------------------------------

    def start(self, timestamp: Ticks | None = None) -> None:
        """Refused while a task is in the way; with a time too, and again at that time."""
        if not self.acquisition.acquiring:
            self._tasks.check_ready()
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
        """Stop, and drop what is pending; nothing where there is neither."""
        if self.acquisition.acquiring:
            self.acquisition.stop()
        self.acquisition.cancel()

    def set_filename(self, path: str) -> None:
        """Name the telescope's file: that of the newest recording, or, where there is none, of the next."""
        if self._recordings is not None:
            self._recordings.name(path)
        self._filename = path

    @blocking
    def convert_data(self) -> None:
        """Make files of what was recorded, which takes a while; accepted also when there is nothing to do."""
        if self._recordings is not None:
            self._recordings.convert()
        else:
            logger.info("%s: nothing is recorded, nothing to convert", self.instrument.name)

    def end_schedule(self) -> None:
        """The schedule is over: logged, nothing changes."""
        logger.info("%s: end of the schedule", self.instrument.name)

    def park(self) -> None:
        """Stop an acquisition and drop what is pending; the configuration stays."""
        self._abandon_acquisition()

    def wait_for_dumps(self, seconds: float | None = None) -> bool:
        """Wait until the dumps of acquisitions that are over are recorded; whether they are, after so many seconds.

        Without this a program that reads recordings by itself could be too soon; convert-data waits by itself.
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
    """Import numpy, for half a second of which nobody waits here."""
    try:
        importlib.import_module("discosbackend.simulator.signal.total_power")
    except Exception:  # a thread has nobody to raise to
        logger.exception("numpy cannot be imported: nothing can be measured")
