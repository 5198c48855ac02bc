"""Backend: the base class of an instrument, and the decorators for its methods.

Each command of the protocol has one method (protocol section 4.8). A subclass overrides the methods that its
instrument supports. This module uses no sockets, no threads and no Twisted: `blocking` and `command` only mark a
method, and handlers.py reads the marks.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, overload

from discosbackend.commands import COMMANDS, Argument, Command, Field
from discosbackend.errors import BackendError, NotSupportedError
from discosbackend.ticks import Ticks

if TYPE_CHECKING:
    from discosbackend.background import BackgroundTask
    from discosbackend.monitor.quick_look import QuickLook
    from discosbackend.monitor.telemetry import TelemetryChannel
    from discosbackend.sensors import BoundSensor

__all__ = [
    "Argument",
    "Backend",
    "BackendError",
    "Blocking",
    "Field",
    "Result",
    "Ticks",
    "blocking",
    "blocking_of",
    "command",
    "command_of",
    "commands_declared_by",
    "commands_of",
    "declared_commands",
]


class ArrayLike(Protocol):
    """An object with a shape: a numpy array or scalar, or an astropy Time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each dimension."""


Value: TypeAlias = "str | bytes | bool | int | float | os.PathLike[str] | ArrayLike"

Result: TypeAlias = "Value | Iterable[Value] | Awaitable[Any] | None"
"""What a method may return: None, one value, an iterable of values (tuple, list, generator, numpy array), or a
coroutine or Deferred with one of these as its result. Protocol section 5.6 defines how each is sent."""

MethodT = TypeVar("MethodT", bound="Callable[..., Any]")


class _Sensors:
    """The attribute `sensors`. It has no __set__, so that a subclass may use the name for something else."""

    if TYPE_CHECKING:  # every module of a server counts in its memory

        @overload
        def __get__(self, backend: None, owner: object = None) -> _Sensors: ...

        @overload
        def __get__(self, backend: object, owner: object = None) -> Mapping[str, BoundSensor]: ...

    def __get__(self, backend: object, owner: object = None) -> _Sensors | Mapping[str, BoundSensor]:
        if backend is None:
            return self
        from discosbackend.sensors import sensors_of

        return sensors_of(backend)


def _parameters_may_be_left_out(method: Callable[..., Result]) -> Callable[..., Result]:
    """Make type checkers accept a subclass's method that declares fewer parameters."""
    return method


class Backend:
    """The base class of an instrument: one method for each command of the protocol.

    Override the methods that your instrument supports. A command whose method is not overridden is answered with
    `fail`, `not supported by this backend`.

    The handler checks and converts the arguments before it calls a method: integers arrive as int, frequencies as
    float in MHz, times as `Ticks` (an int that counts 100 ns since 1970, with the properties `unix` and `time`).

    A method can be an ordinary method, an `async def` method, or a method that returns a Deferred. If it blocks on
    hardware, it must be an ordinary method with the decorator `@blocking`. Every other method must return within a
    few milliseconds, because the server answers no other client while the method runs.

    To refuse a request, a method raises BackendError. The text of the exception becomes the reason of the `fail`
    reply. For any other exception the reply has a fixed reason, and the traceback is logged.

    Examples
    --------
    >>> from discosbackend import Backend, BackendError, DBProtocolHandler
    >>> from discosbackend.grammar import parse_message
    >>> class MyBackend(Backend):
    ...     configuration = "unconfigured"
    ...
    ...     def get_configuration(self):
    ...         return self.configuration
    ...
    ...     def set_configuration(self, configuration):
    ...         if configuration != "TP":
    ...             raise BackendError("invalid configuration")
    ...         self.configuration = configuration

    `discosbackend.run_server(8978, DBProtocolHandler(MyBackend()))` serves it. Without a server:

    >>> handler = DBProtocolHandler(MyBackend())
    >>> print(handler.handle(parse_message("?set-configuration,TP")))
    !set-configuration,ok
    >>> print(handler.handle(parse_message("?get-configuration")))
    !get-configuration,ok,TP
    >>> handler.handle(parse_message("?set-configuration,K2000"))
    Traceback (most recent call last):
    ...
    discosbackend.errors.BackendError: invalid configuration
    """

    greeting_delay: float = 0.0
    """How long a client must be silent before the server sends the greeting, in s. 0: the server sends it at once.

    The clients of SARDARA and SKARAB do not read the greeting when they reconnect. For them use 5 (protocol section
    9.2)."""

    reactor: Any = "default"
    """The reactor on which the backend is served. `"default"`: the one that Twisted chooses. `"asyncio"`: the asyncio
    reactor, on which the methods can await what asyncio provides."""

    sensors = _Sensors()
    """The sensors of this backend by their names: a read-only mapping of `BoundSensor`."""

    # -- clock and state: lane `reads`, which does not wait for other commands ------------------------

    def status(self) -> Result:
        """Return the time of the clock, the state, and whether the backend is acquiring.

        Returns
        -------
        timestamp
            The time of the backend's clock, in a form that time() can return.
        text
            `"ok"`, or a description of the fault.
        acquiring
            Whether an acquisition is running, as a bool.
        """
        raise NotSupportedError

    def time(self) -> Result:
        """Return the time of the backend's clock: `Ticks`, Unix seconds as a float, or an astropy Time."""
        raise NotSupportedError

    def get_configuration(self) -> Result:
        """Return the name of the current configuration, `"unconfigured"` until one is set."""
        raise NotSupportedError

    def get_integration(self) -> Result:
        """Return the integration time in ms.

        Before a configuration is loaded, it is 0. Loading a configuration sets it to the default of that configuration.
        set_integration() changes it.
        """
        raise NotSupportedError

    def get_filename(self) -> Result:
        """Return the path that set_filename() stored. Raise BackendError if there is none."""
        raise NotSupportedError

    # -- configuration: lane `device`, which runs one command at a time -------------------------------

    def set_configuration(self, configuration: str) -> Result:
        """Load the configuration of this name.

        Raise `BackendError("invalid configuration")` if the name is unknown.
        """
        raise NotSupportedError

    def set_integration(self, integration: int) -> Result:
        """Set the integration time of one dump, in ms. The handler refuses a negative value."""
        raise NotSupportedError

    def set_section(
        self,
        section: int | str,
        start_frequency: float | str,
        bandwidth: float | str,
        feed: int | str,
        mode: str,
        sample_rate: float | str,
        bins: int | str,
    ) -> Result:
        """Configure a section.

        Every argument can be the text `"*"`. As the section it means every section. As any other argument it
        leaves the setting unchanged.

        Parameters
        ----------
        section
            The number of the section, from 0.
        start_frequency
            The lower end of the band, in MHz.
        bandwidth
            The width of the band, in MHz.
        feed
            The number of the feed.
        mode
            The polarisation mode as a text, such as `CP` or `FullStokes`. The deployed clients send `0`, `1` or
            `2`, which mean LCP, RCP and full Stokes.
        sample_rate
            The sample rate, in MHz.
        bins
            The number of frequency bins.
        """
        raise NotSupportedError

    def set_enable(self, feed1: int, feed2: int) -> Result:
        """Select the two feeds that are used for nodding. On SKARAB, `7, 7` selects all feeds."""
        raise NotSupportedError

    def set_shift(self, shift: int) -> Result:
        """Set the bit shift of the FFT stages."""
        raise NotSupportedError

    def cal_on(self, interleave: int) -> Result:
        """Toggle the noise diode every `interleave` samples. 0 switches it off."""
        raise NotSupportedError

    # -- measurements: lane `device` ------------------------------------------------------------------

    @_parameters_may_be_left_out
    def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> Result:
        """Return the total power of each input in counts, one value per input.

        A backend that cannot select a band declares this method without parameters. For `0, 0` the handler then calls
        the method without arguments. It refuses any other band.

        Parameters
        ----------
        frequency
            The lower end of the band, in MHz.
        bandwidth
            The width of the band, in MHz. `0, 0` selects the whole band.
        """
        raise NotSupportedError

    def get_tp0(self) -> Result:
        """Return the zero level: the total power of each terminated input in counts, one value per input."""
        raise NotSupportedError

    def get_rms(self) -> Result:
        """Return the rms of the samples of each input in counts, one value per input."""
        raise NotSupportedError

    def get_ddcoffset(self) -> Result:
        """Return the offset of the digital down-converter, in MHz."""
        raise NotSupportedError

    # -- acquisition and files ------------------------------------------------------------------------

    def start(self, timestamp: Ticks | None = None) -> Result:
        """Start an acquisition now, or at `timestamp`. The class `Acquisition` implements this."""
        raise NotSupportedError

    def stop(self, timestamp: Ticks | None = None) -> Result:
        """Stop the acquisition now, or at `timestamp`. The class `Acquisition` implements this."""
        raise NotSupportedError

    def set_filename(self, path: str) -> Result:
        """Store the path of the telescope's file, whose metadata will be merged with the data.

        The path is as os.fsdecode() returns it (protocol section 3.7). The telescope is still writing the file.
        convert_data() is called when the file is complete.
        """
        raise NotSupportedError

    def convert_data(self) -> Result:
        """Merge the telescope's file, which is now complete, with the data.

        The lane of this command is `files`, so it can take minutes without delaying other commands.
        """
        raise NotSupportedError

    def end_schedule(self) -> Result:
        """Do what is necessary at the end of a schedule."""
        raise NotSupportedError

    def park(self) -> Result:
        """Park the backend (wire name `backend-park`)."""
        raise NotSupportedError

    # -- commands that depend on the instance ---------------------------------------------------------

    def own_commands(self) -> Iterable[Callable[..., Any]]:
        """Return more functions with the decorator `@command`, for commands that depend on the instance.

        The handler calls this once, when it is created.
        """
        return ()

    # -- the page of --http ---------------------------------------------------------------------------

    def quick_look(self) -> Awaitable[QuickLook | None] | QuickLook | None:
        """Return the present spectra, which the page of `--http` draws. None: there is nothing to show now.

        The server calls this at most once a second, in the reactor's thread, and only while a page is open.
        The method must return within a millisecond and must not access the device: return what was read last. It can be
        `async def`, or return a Deferred; it is then not called again before it has finished. An exception is logged
        once a minute.
        """

    # -- background tasks -----------------------------------------------------------------------------

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str = "") -> BackgroundTask:
        """Run a coroutine in the background, until it ends or the server stops.

        Call this in server_started() or later. If the coroutine fails, the failure is logged, and the server continues.
        When the server stops, all tasks are cancelled after server_stopping().

        Parameters
        ----------
        coroutine
            The coroutine, such as `self.poll()`.
        name
            The name of the task in the log. Default: that of the coroutine function.

        Returns
        -------
        task
            The task, with `name`, `state`, `problem` and `cancel()`.
        """
        from discosbackend.background import BackgroundTasks

        tasks: BackgroundTasks = vars(self).setdefault("_background_tasks", BackgroundTasks())
        return tasks.spawn(coroutine, name)

    @property
    def background_tasks(self) -> tuple[BackgroundTask, ...]:
        """The background tasks that have failed (the last 20 at most), and those that run."""
        tasks = vars(self).get("_background_tasks")
        return () if tasks is None else tuple(tasks.shown)

    # -- start and stop of the server -----------------------------------------------------------------

    def server_started(self) -> Awaitable[object] | None:
        """Called once, when the server listens. An exception is logged, and the server continues.

        The method can be `async def`, or return a Deferred. While it waits, clients can already send commands.
        """

    def server_stopping(self) -> Awaitable[object] | None:
        """Called once, when the server stops, after the end of the acquisition. An exception is logged.

        The method can be `async def`, or return a Deferred, for which the server waits.
        """

    # -- monitoring -----------------------------------------------------------------------------------

    def telemetry_channels(self) -> Sequence[TelemetryChannel]:
        """Return the channels of the backend for DISCOS telemetry. Default: none.

        It is called in the reactor's thread once a second, and at changes up to 20 times a second, if the server has
        the option `--telemetry` or `--telemetry-bind`. It must return at once: return what the backend knows, without
        asking the device. An exception is logged once, and the messages are then sent without channels.
        """
        return ()


@dataclass(frozen=True, slots=True)
class Blocking:
    """The mark that `@blocking` sets. Methods with the same `lock` run one at a time."""

    lock: str = ""


@overload
def blocking(method: MethodT, /) -> MethodT:
    """`@blocking`"""


@overload
def blocking(*, lock: str) -> Callable[[MethodT], MethodT]:
    """`@blocking(lock="link")`"""


def blocking(method: Any = None, /, *, lock: str = "") -> Any:
    """Run a method in a thread, because it blocks on hardware.

    All blocking commands of the lane `device` share one thread, so they still run one at a time. The same applies to
    the lane `files`. In the lane `reads`, each blocking command has its own thread. If the same request of this lane
    arrives again while its method runs, the method is not called again, and both requests get the same result.

    Parameters
    ----------
    method
        The method, if the decorator is written without parentheses.
    lock
        The name of a lock. Methods with the same lock run one at a time, in any lane. Use it for methods that share
        one device, such as a serial link. Default: no lock.

    Returns
    -------
    method
        The same method, marked. With parentheses, the result is a decorator.

    Raises
    ------
    TypeError
        If the method is a coroutine function, which does not block, or if it is not callable. Also if the lock is given
        without its keyword, as in `@blocking("link")`.

    Examples
    --------
    >>> import time
    >>> from discosbackend import Backend, blocking
    >>> class MyBackend(Backend):
    ...     @blocking
    ...     def set_configuration(self, configuration):
    ...         time.sleep(20)
    ...
    ...     @blocking(lock="link")
    ...     def get_rms(self):
    ...         return 30.5, 31.25

    The decorator only marks the method. A direct call runs in the thread of the caller:

    >>> MyBackend().get_rms()
    (30.5, 31.25)
    """

    def mark(function: Any) -> Any:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is `async def`, which waits without blocking: leave out @blocking, "
                "or write `def` if it calls what blocks"
            )
        if not callable(function):
            raise TypeError(f"@blocking is for ordinary methods, which {function!r} is not")
        _marked(function).__discos_blocking__ = Blocking(lock)
        return function

    if isinstance(method, str):
        raise TypeError(f"name the lock: @blocking(lock={method!r})")
    return mark if method is None else mark(method)


def command(
    name: str,
    *arguments: Argument,
    reply: Iterable[Field] = (),
    lane: str = "device",
    timeout: float | None = None,
    help: str = "",  # noqa: A002  # the word that argparse uses for it too
    changes: bool | None = None,
) -> Callable[[MethodT], MethodT]:
    """Declare a command that is not in the protocol. The decorated method answers it.

    The handler treats it like a command of the protocol: it checks the arguments and applies the lane and the time
    limit.

    Parameters
    ----------
    name
        The name in requests: a letter, then letters, digits and hyphens, at most 64 characters.
    *arguments
        The arguments of the request, in order. If the request omits an optional argument that has no default, the
        method is called without it. Default: what the annotations and the defaults of the method's parameters describe.
        If no parameter is annotated, the command has no arguments.
    reply
        The fields of the `ok` reply, in order. Default: none.
    lane
        "reads", "device" or "files" (protocol section 6.1).
    timeout
        The time limit in s. Default: the limit of the handler.
    changes
        Whether the command changes the state of the backend. The log names the client that sent such a command.
        Default: True, unless the lane is "reads".
    help
        One sentence for the users of the command.

    Returns
    -------
    decorator
        It returns the same method, marked.

    Raises
    ------
    ValueError
        If the name is not valid or is a command of the protocol, if the lane is unknown, if the time limit is not more
        than 0, if a required argument follows an optional one, or if a field other than the last is repeated.
    TypeError
        If `name` is not a text, if an argument is not an `Argument`, if a reply field is not a `Field`, or if `changes`
        is not a bool. Also if the method is annotated, and one of its parameters cannot be an argument.

    Examples
    --------
    >>> from discosbackend import Argument, Backend, DBProtocolHandler, Field, command
    >>> from discosbackend.grammar import parse_message
    >>> class MyBackend(Backend):
    ...     @command(
    ...         "vna-sweep",
    ...         Argument("power", "float", "dBm", optional=True),
    ...         reply=[Field("tones", "integer")],
    ...         help="Find the tones.",
    ...     )
    ...     def vna_sweep(self, power=-10.0):
    ...         return 512 if power > -20 else 0
    >>> handler = DBProtocolHandler(MyBackend())
    >>> print(handler.handle(parse_message("?vna-sweep")))
    !vna-sweep,ok,512
    >>> print(handler.handle(parse_message("?vna-sweep,-30")))
    !vna-sweep,ok,0

    The same argument by annotation:

    >>> class Annotated(Backend):
    ...     @command("vna-sweep", reply=[Field("tones", "integer")], help="Find the tones.")
    ...     def vna_sweep(self, power: float = -10.0):
    ...         return 512 if power > -20 else 0
    >>> print(DBProtocolHandler(Annotated()).handle(parse_message("?vna-sweep,-30")))
    !vna-sweep,ok,0
    """
    if not isinstance(name, str):
        raise TypeError(f"a command needs its name: @command('vna-sweep'), not {name!r}")
    if name in COMMANDS:
        row = COMMANDS[name]
        raise ValueError(f"{name!r} is the protocol's own command: define a method {row.method}() instead")
    row = Command(name, tuple(arguments), tuple(reply), lane, timeout, help, changes=changes)

    def mark(function: MethodT) -> MethodT:
        declared = row
        if not arguments and set(getattr(_marked(function), "__annotations__", ())) - {"return"}:
            from discosbackend.annotations import arguments_of

            frame = inspect.currentframe()
            read = arguments_of(function, None if frame is None else frame.f_back)
            declared = replace(row, arguments=read)
        _marked(function).__discos_command__ = declared
        return function

    return mark


def blocking_of(method: object) -> Blocking | None:
    """Return the `@blocking` mark of a method, or None."""
    mark = getattr(method, "__discos_blocking__", None)
    return mark if isinstance(mark, Blocking) else None


def command_of(method: object) -> Command | None:
    """Return the `@command` declaration of a method, or None."""
    method = _marked(method)
    if type(method) is FunctionType:
        # As the static lookup below, which takes twenty times as long.
        row = vars(method).get("__discos_command__")
    else:
        row = inspect.getattr_static(method, "__discos_command__", None)
    return row if isinstance(row, Command) else None


def declared_commands(backend: object) -> dict[str, tuple[Command, str]]:
    """Return the commands that the class of a backend declares, as {wire name: (row, method name)}.

    A method of a subclass that overrides a declared method answers the same command. Raise ValueError if two methods
    declare the same name.
    """
    return commands_declared_by(type(backend))


def commands_declared_by(owner: type) -> dict[str, tuple[Command, str]]:
    """Return the commands that a class declares, as declared_commands() does for its instances."""
    found: dict[str, tuple[Command, str]] = {}
    seen: set[str] = set()
    # The last class is object, which declares nothing.
    for cls in owner.__mro__[:-1]:
        for attribute, member in vars(cls).items():
            # A static lookup: an attribute may be a proxy that asks the hardware for unknown attributes.
            row = command_of(member)
            if row is None or attribute in seen:
                continue
            seen.add(attribute)
            if row.name in found:
                raise ValueError(f"{row.name!r} is declared by {found[row.name][1]}() and by {attribute}()")
            found[row.name] = (row, attribute)
    return found


def commands_of(backend: object) -> dict[str, tuple[Command, Callable[..., Any]]]:
    """Return all commands that a backend adds to the protocol, as {wire name: (row, function)}.

    These are the commands that its class declares and those that its own_commands() returns. Raise TypeError if
    own_commands() returns a function without `@command`, and ValueError if two functions declare the same name.
    """
    found = {name: (row, getattr(backend, method)) for name, (row, method) in declared_commands(backend).items()}
    # Look at the class, because the instance may be a proxy that asks the hardware for unknown attributes.
    if callable(getattr(type(backend), "own_commands", None)):
        for function in backend.own_commands():  # type: ignore[attr-defined]
            row = inspect.getattr_static(function, "__discos_command__", None)
            if not isinstance(row, Command):
                raise TypeError(f"own_commands() returned {function!r}, which has no @command")
            if row.name in found:
                raise ValueError(f"{row.name!r} is declared twice, by own_commands() the second time")
            found[row.name] = (row, function)
    return found


def _marked(method: Any) -> Any:
    """Return the object that has the marks: the function inside a static or class method, else the method."""
    return method.__func__ if isinstance(method, (staticmethod, classmethod)) else method
