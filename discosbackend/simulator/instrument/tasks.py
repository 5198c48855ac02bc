"""TaskedBackend: an instrument with tasks, which take minutes, such as MISTRAL: setup first, then the rest.

Which tasks, how long they take and what status says meanwhile is data of a profile; from it class_of makes
the class that has the commands. What is common to all instruments is in backend.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from discosbackend.backend import command
from discosbackend.commands import Command
from discosbackend.errors import BackendError
from discosbackend.simulator.backend import SimulatedBackend
from discosbackend.simulator.instrument.model import Instrument, Task
from discosbackend.simulator.instrument.profiles import RESET
from discosbackend.ticks import Ticks

__all__ = ["TaskedBackend", "class_of"]


class TaskedBackend(SimulatedBackend):
    """An instrument that has tasks; SimulatedBackend("mistral") is one. Each task has a command of its own.

    The method of a task's command is `begin_` and its name. A task is answered at once and goes on by itself.
    While it runs, or while acquiring, whatever would begin is refused with what status says then. Where there
    is a task that initialises, everything else comes after it.
    """

    tasks: ClassVar[tuple[Task, ...]] = ()
    """Those whose commands the class has; class_of makes a class that has an instrument's."""

    _initialised = False
    _running: Task | None = None
    _alarm: Any = None
    _task_named = ""

    def _switch_on(self) -> None:
        super()._switch_on()
        if self._alarm is not None:
            self._alarm.cancel()
        self._initialised = not any(task.initialises for task in self.instrument.tasks)
        self._running = self._alarm = None
        self._task_named = ""

    @property
    def status_text(self) -> str:
        """A fault if there is one, else the phrase for what it is doing or waiting for."""
        text = super().status_text
        if text != "ok":
            return text
        if self.acquisition.acquiring:
            return self.instrument.phrases.acquiring
        return self._obstacle() or self.instrument.phrases.ready

    def _obstacle(self) -> str:
        """What keeps an acquisition from beginning, "" if nothing does."""
        if self._running is not None:
            return self.instrument.phrases.running.replace("{command}", self._running.command)
        return "" if self._initialised else self.instrument.phrases.uninitialised

    def _check_obstacle(self) -> None:
        if obstacle := self._obstacle():
            raise BackendError(obstacle)

    # -- tasks ----------------------------------------------------------------------------------------

    @command(RESET, help="Cancel what is running and return to the state before any task.")
    def reset(self) -> None:
        """Cancel a task, stop an acquisition, drop what is pending; forget what was set up and loaded."""
        self.power_cycle()

    def run(self, task: Task) -> None:
        """Begin a task. BackendError, with what status says, while that cannot be."""
        if self.acquisition.acquiring:
            raise BackendError(self.instrument.phrases.acquiring)
        if self._running is not None or not task.initialises:
            self._check_obstacle()
        self._running = task
        self._task_named = task.configuration or self._task_named
        self._alarm = self._clock().callLater(task.duration * self._time_scale, self._done)

    def _done(self) -> None:
        self._running = self._alarm = None
        # Whatever does not initialise could only begin after that.
        self._initialised = True

    # -- configuration and acquisition ----------------------------------------------------------------

    def get_configuration(self) -> str:
        """The task that was begun last, as set-configuration names it, or what was loaded after it."""
        return self._task_named or super().get_configuration()

    def set_configuration(self, configuration: str) -> None:
        """Begin the task that goes by this name, as its own command does, or load a configuration."""
        for task in self.instrument.tasks:
            # A task without such a name has "", which no request can carry.
            if task.configuration == configuration:
                self.run(task)
                return
        if configuration in self.instrument.configurations:
            self._check_obstacle()
        super().set_configuration(configuration)
        self._task_named = ""

    def start(self, timestamp: Ticks | None = None) -> None:
        """Refused before it is initialised and while a task runs; with a time too, and again at that time."""
        if not self.acquisition.acquiring:
            self._check_obstacle()
        super().start(timestamp)

    def _begin(self, instant: Ticks) -> None:
        self._check_obstacle()
        super()._begin(instant)


def class_of(base: type[SimulatedBackend], instrument: Instrument) -> type[SimulatedBackend]:
    """The class that an instrument is made of where `base` was asked for: one with its tasks' commands.

    TypeError for a class that cannot be this instrument.
    """
    name = instrument.name
    if not instrument.tasks:
        if issubclass(base, TaskedBackend):
            raise TypeError(f"{base.__name__} has tasks and {name} none: derive it from SimulatedBackend")
        return base
    if base is SimulatedBackend:
        base = TaskedBackend
    if not issubclass(base, TaskedBackend):
        raise TypeError(f"{base.__name__} has no tasks but {name} some: derive it from TaskedBackend")
    if base.tasks == instrument.tasks:
        return base
    return _with_commands(base, instrument.tasks)  # type: ignore[arg-type]  # a class does have a hash


@cache
def _with_commands(base: type[TaskedBackend], tasks: tuple[Task, ...]) -> type[TaskedBackend]:
    """`base` with a method `begin_vna_sweep` for a task vna-sweep, and so on.

    They are on a class behind it, so that its own methods of these names override them.
    """
    methods: dict[str, Callable[[TaskedBackend], None]] = {}
    for task in tasks:
        # The prefix keeps it apart from all else that a backend has: a task may be called `clock`, or `park`.
        name = f"begin_{Command(task.command).method}"
        methods[name] = _method(name, task)
    names: dict[str, Any] = {"__doc__": TaskedBackend.__doc__, "tasks": tasks, **methods}
    commands = type(TaskedBackend.__name__, (TaskedBackend,), names)
    if base is TaskedBackend:
        return commands
    return type(base.__name__, (base, commands), {"__doc__": base.__doc__, "__module__": base.__module__})


def _method(name: str, task: Task) -> Callable[[TaskedBackend], None]:
    def begin(self: TaskedBackend) -> None:
        self.run(task)

    begin.__name__ = name
    begin.__doc__ = task.help or f"Begin {task.command}."
    return command(task.command, help=task.help)(begin)
