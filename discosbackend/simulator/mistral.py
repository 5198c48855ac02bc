"""SimulatedMistral: MISTRAL's tasks, which take minutes, and its way from setup to acquisition.

The tasks and their durations are data in instruments; what is common to all instruments is in backend.
"""

from __future__ import annotations

from typing import Any

from discosbackend.backend import command
from discosbackend.errors import BackendError
from discosbackend.simulator.backend import SimulatedBackend
from discosbackend.simulator.instruments import UNCONFIGURED, Task
from discosbackend.ticks import Ticks

__all__ = ["SimulatedMistral"]

_SETUP = "setup"


class SimulatedMistral(SimulatedBackend, instrument="mistral"):
    """MISTRAL: setup first, then sweeps or acquisitions, one at a time; SimulatedBackend("mistral") is one.

    A task is answered at once and goes on by itself. While it runs, or while acquiring, whatever would begin
    is refused with the status text.
    """

    def __init__(self, instrument: str = "mistral", **settings: Any) -> None:
        super().__init__(instrument, **settings)
        self._tasks = {task.command: task for task in self.instrument.tasks}
        self._forget()

    def _forget(self) -> None:
        """As when it is switched on."""
        self._initialized = False
        self._running: Task | None = None
        self._alarm: Any = None
        self._last_configuration = UNCONFIGURED
        self._filename = None

    @property
    def status_text(self) -> str:
        if self.acquisition.acquiring:
            return "acquisition in progress"
        return self._obstacle() or "ready to run a task"

    def _obstacle(self) -> str:
        """What keeps an acquisition from beginning, "" if nothing does."""
        if self._running is not None:
            return f"{self._running.command} in progress"
        return "" if self._initialized else "system not initialized (setup required)"

    def _check_obstacle(self) -> None:
        if obstacle := self._obstacle():
            raise BackendError(obstacle)

    # -- tasks ----------------------------------------------------------------------------------------

    @command("setup", help="Initialise the system, which takes a minute; everything else comes after it.")
    def setup(self) -> None:
        """Begin the setup. It may be repeated later."""
        self._run(self._tasks[_SETUP])

    @command("vna-sweep", help="Sweep the band to find the resonators; five minutes.")
    def vna_sweep(self) -> None:
        """Begin a sweep over the band. After a setup only."""
        self._run(self._tasks["vna-sweep"])

    @command("target-sweep", help="Sweep around each resonator; five minutes.")
    def target_sweep(self) -> None:
        """Begin a sweep around the resonators. After a setup only."""
        self._run(self._tasks["target-sweep"])

    @command("reset", help="Cancel what is running and return to the state before setup.")
    def reset(self) -> None:
        """Cancel a task, stop an acquisition, drop what is pending; forget setup, configuration and file."""
        self._abandon_acquisition()
        if self._alarm is not None:
            self._alarm.cancel()
        self._forget()

    def _run(self, task: Task) -> None:
        if self.acquisition.acquiring:
            raise BackendError(self.status_text)
        if self._running is not None or task.command != _SETUP:
            self._check_obstacle()
        self._running = task
        self._last_configuration = task.configuration
        self._alarm = self._clock().callLater(task.duration * self._time_scale, self._done, task)

    def _done(self, task: Task) -> None:
        self._running = self._alarm = None
        if task.command == _SETUP:
            self._initialized = True

    # -- configuration and acquisition ----------------------------------------------------------------

    def get_configuration(self) -> str:
        """The task that was begun last, as set-configuration names it."""
        return self._last_configuration

    def set_configuration(self, configuration: str) -> None:
        """`setup`, `vnaSweep` or `targetSweep`: begin that task, as the command of its own does."""
        for task in self.instrument.tasks:
            if task.configuration == configuration:
                self._run(task)
                return
        raise BackendError("invalid configuration")

    def start(self, timestamp: Ticks | None = None) -> None:
        """Refused before a setup and while a task runs, with a time too; judged once more at that time."""
        if not self.acquisition.acquiring:
            self._check_obstacle()
        super().start(timestamp)

    def _begin(self, instant: Ticks) -> None:
        self._check_obstacle()
        super()._begin(instant)
