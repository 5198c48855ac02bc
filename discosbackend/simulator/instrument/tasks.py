"""TaskRunner: runs the long tasks of an instrument, such as MISTRAL's setup, which take minutes.

The profile defines the tasks, their durations and the texts of status. The backend asks its TaskRunner before an
acquisition begins or a configuration is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from discosbackend.backend import command
from discosbackend.errors import BackendError
from discosbackend.simulator.instrument.model import RESET, Instrument, Task
from discosbackend.values import without_escapes

__all__ = ["TaskRunner"]


class TaskRunner:
    """The state of the tasks: whether the instrument is initialised, and which task runs.

    A task is accepted at once and runs in the background. While it runs, during an acquisition, or while the instrument
    has a fault, another task fails with the text that status reports. If the instrument has a task that initialises,
    everything else fails before such a task has finished. Without tasks nothing fails.

    Parameters
    ----------
    instrument
        The instrument with its tasks.
    call_later
        As a reactor's callLater. It is called with the real duration of a task in s.
    fault
        Returns the text of the instrument's fault, "" if it has none.
    """

    def __init__(
        self,
        instrument: Instrument,
        call_later: Callable[[float, Callable[[], None]], Any],
        fault: Callable[[], str],
    ) -> None:
        self._phrases = instrument.phrases
        self._tasks = {task.command: task for task in instrument.tasks}
        self._call_later = call_later
        self._fault = fault
        self._alarm: Any = None
        self.reset()

    def reset(self) -> None:
        """Cancel a running task and return to the state before any task."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        self._running: Task | None = None
        self._initialised = not any(task.initialises for task in self._tasks.values())
        self.configuration = ""
        """The configuration name of the latest task; "" if no task was started since a configuration was loaded."""

    def status(self, acquiring: bool) -> str:
        """Return the text of status of an instrument that has tasks."""
        return self._obstacle(acquiring=acquiring) or self._phrases.ready

    def check_ready(self, *, acquiring: bool = False, initialises: bool = False) -> None:
        """Check that an acquisition or a task can begin now.

        Parameters
        ----------
        acquiring
            Whether a running acquisition is an obstacle.
        initialises
            Whether it is a task that initialises.

        Raises
        ------
        BackendError
            If it cannot begin. Its text is that of status.
        """
        if obstacle := self._obstacle(acquiring=acquiring, initialises=initialises):
            raise BackendError(obstacle)

    def _obstacle(self, *, acquiring: bool = False, initialises: bool = False) -> str:
        if not self._tasks:
            return ""
        if fault := self._fault():
            # As the reply to status has it.
            return without_escapes(fault)
        if acquiring:
            return self._phrases.acquiring
        if self._running is not None:
            return self._phrases.running.replace("{command}", self._running.command)
        return "" if self._initialised or initialises else self._phrases.uninitialised

    def named(self, configuration: str) -> Task | None:
        """Return the task with this configuration name, None if there is none."""
        # A task without a name has "", which cannot be an argument of set-configuration.
        return next((task for task in self._tasks.values() if task.configuration == configuration), None)

    def begin(self, name: str, acquiring: bool) -> None:
        """Start the task of this command. Raise BackendError, with the text of status, if that is not possible now."""
        task = self._tasks[name]
        self.check_ready(acquiring=acquiring, initialises=task.initialises)
        self._running = task
        self.configuration = task.configuration or self.configuration
        self._alarm = self._call_later(task.duration, self._done)

    def _done(self) -> None:
        self._running = self._alarm = None
        # A task that does not initialise can only start on an initialised instrument.
        self._initialised = True

    def commands(self, begin: Callable[[str], None], reset: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """Yield functions marked with `@command`: one for each task, which calls `begin` with its name, and `reset`."""
        for task in self._tasks.values():
            yield _command(task.command, task.help, partial(begin, task.command))
        if self._tasks:
            yield _command(RESET, "Cancel what is running and return to the state before any task.", reset)


def _command(name: str, text: str, call: Callable[[], None]) -> Callable[[], None]:
    # A new function, because @command cannot mark a bound method.
    @command(name, help=text)
    def answer() -> None:
        call()

    return answer
