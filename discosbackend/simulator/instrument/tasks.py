"""TaskRunner: the tasks of an instrument, which take minutes, such as MISTRAL's: setup first, then the rest.

Which tasks there are, how long they take and what status says meanwhile is data of a profile. The backend has one
TaskRunner and asks it before an acquisition begins or a configuration is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from discosbackend.backend import command
from discosbackend.errors import BackendError
from discosbackend.simulator.instrument.model import Instrument, Task
from discosbackend.simulator.instrument.profiles import RESET

__all__ = ["TaskRunner"]


class TaskRunner:
    """Whether the instrument is initialised, and which task runs; without tasks nothing is ever in the way.

    A task is accepted at once and then runs by itself. While it runs, or while acquiring, whatever would begin is
    refused with the text that status reports then. Where there is a task that initialises, everything else comes
    after it. `call_later` is a reactor's callLater; it is given the real duration of the task.
    """

    def __init__(self, instrument: Instrument, call_later: Callable[[float, Callable[[], None]], Any]) -> None:
        self._phrases = instrument.phrases
        self._tasks = {task.command: task for task in instrument.tasks}
        self._call_later = call_later
        self._alarm: Any = None
        self.reset()

    def reset(self) -> None:
        """As when the instrument is switched on: a running task is cancelled, nothing is initialised."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        self._running: Task | None = None
        self._initialised = not any(task.initialises for task in self._tasks.values())
        self.configuration = ""
        """What set-configuration calls the task that was begun last, "" if nothing since a configuration was loaded."""

    def status(self, acquiring: bool) -> str:
        """What the instrument is doing or waiting for; "" for one without tasks."""
        if not self._tasks:
            return ""
        return self._phrases.acquiring if acquiring else self._obstacle() or self._phrases.ready

    def check_ready(self) -> None:
        """BackendError, with the text of status, while an acquisition cannot begin."""
        if obstacle := self._obstacle():
            raise BackendError(obstacle)

    def _obstacle(self) -> str:
        if self._running is not None:
            return self._phrases.running.replace("{command}", self._running.command)
        return "" if self._initialised else self._phrases.uninitialised

    def named(self, configuration: str) -> Task | None:
        """The task that set-configuration calls so."""
        # A task without such a name has "", which no request can carry.
        return next((task for task in self._tasks.values() if task.configuration == configuration), None)

    def begin(self, name: str, acquiring: bool) -> None:
        """Begin the task of this command. BackendError, with the text of status, while that cannot be."""
        task = self._tasks[name]
        if acquiring:
            raise BackendError(self._phrases.acquiring)
        if self._running is not None or not task.initialises:
            self.check_ready()
        self._running = task
        self.configuration = task.configuration or self.configuration
        self._alarm = self._call_later(task.duration, self._done)

    def _done(self) -> None:
        self._running = self._alarm = None
        # Whatever does not initialise could only begin after that.
        self._initialised = True

    def commands(self, begin: Callable[[str], None], reset: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """Functions with `@command`: one per task, which calls `begin` with the name of its command, and `reset`."""
        for task in self._tasks.values():
            yield _command(task.command, task.help, partial(begin, task.command))
        if self._tasks:
            yield _command(RESET, "Cancel what is running and return to the state before any task.", reset)


def _command(name: str, text: str, call: Callable[[], None]) -> Callable[[], None]:
    # A function of its own: a bound method takes no mark.
    @command(name, help=text)
    def answer() -> None:
        call()

    return answer
