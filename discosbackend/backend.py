"""Backend: the class that an instrument's author subclasses, and the marks its methods can carry.

One method a command (protocol section 4.8), to be overridden where the instrument can do it. Nothing here
knows of sockets, threads or Twisted: `blocking` and `command` only mark a method, handlers acts on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, overload

from discosbackend.commands import COMMANDS, Argument, Command, Field
from discosbackend.errors import BackendError, NotSupportedError
from discosbackend.ticks import Ticks

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
    "commands_of",
    "declared_commands",
]


class ArrayLike(Protocol):
    """A numpy array or scalar, or an astropy Time: what has a shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of its dimensions."""


Value: TypeAlias = "str | bytes | bool | int | float | ArrayLike"

Result: TypeAlias = "Value | Iterable[Value] | Awaitable[Any] | None"
"""What a method may return: nothing, one value, an iterable of values (tuple, list, generator, numpy array),
or a coroutine or Deferred of one of these. Protocol section 5.6 says what each becomes in the reply."""

MethodT = TypeVar("MethodT", bound="Callable[..., Any]")


def _parameters_may_be_left_out(method: Callable[..., Result]) -> Callable[..., Result]:
    """Let type checkers accept a method in a subclass that declares fewer parameters."""
    return method


class Backend:
    """The instrument, as the control system sees it: one method a command.

    Override what your instrument can do; what you leave out is answered `not supported by this backend`.
    Arguments arrive checked and converted: integers as int, frequencies as float in MHz, times as `Ticks`
    (integer 100 ns since 1970, with `.unix` and `.time`). Refuse a request with `BackendError("reason")`; any
    other exception is answered with a fixed text and its traceback goes to the log.

    A method may be an ordinary one, `async def`, one that returns a Deferred, or, when it blocks on
    hardware, an ordinary one marked `@blocking`. Ordinary ones must return within milliseconds: while they
    run, nobody else is answered.
    """

    greeting_delay: float = 0.0
    """After how many seconds of silence a client is greeted; 0 is at once. Clients that do not read the greeting when
    they reconnect, SARDARA's and SKARAB's, want 5 (protocol section 9.2)."""

    # -- clock and state: lane `reads`, never kept waiting by another client --------------------------

    def status(self) -> Result:
        """The clock, `"ok"` or a description of what is wrong, and whether the backend is acquiring.

        Return `(timestamp, text, acquiring)`, the timestamp as time() does.
        """
        raise NotSupportedError

    def time(self) -> Result:
        """The backend's clock: `Ticks`, Unix seconds as a float, or an astropy Time."""
        raise NotSupportedError

    def get_configuration(self) -> Result:
        """The name of the configuration in force, `"unconfigured"` until one is set."""
        raise NotSupportedError

    def get_integration(self) -> Result:
        """The integration time in ms: 0 until configured, then the configuration's own until one is set."""
        raise NotSupportedError

    def get_filename(self) -> Result:
        """The path that set_filename() stored; refuse when there is none."""
        raise NotSupportedError

    # -- configuration: lane `device`, one at a time over all clients ---------------------------------

    def set_configuration(self, configuration: str) -> Result:
        """Load a configuration by name; refuse an unknown one with `invalid configuration`."""
        raise NotSupportedError

    def set_integration(self, integration: int) -> Result:
        """Set the integration time of one dump, in ms, 0 or more."""
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
        """Configure a section, counted from 0: frequencies and sample rate in MHz, bins as a number.

        Each may be the text `"*"`, which leaves it as it is; section `"*"` means every section. `mode` is a
        text: `CP`, `FullStokes`, or 0, 1, 2 for LCP, RCP, full Stokes from the deployed clients.
        """
        raise NotSupportedError

    def set_enable(self, feed1: int, feed2: int) -> Result:
        """Choose the two feeds used for nodding; `7, 7` is all feeds on SKARAB."""
        raise NotSupportedError

    def set_shift(self, shift: int) -> Result:
        """Set the bit shift of the FFT stages."""
        raise NotSupportedError

    def cal_on(self, interleave: int) -> Result:
        """Switch the noise diode every `interleave` samples; 0 switches it off."""
        raise NotSupportedError

    # -- measurements: lane `device` ------------------------------------------------------------------

    @_parameters_may_be_left_out
    def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> Result:
        """Total power, one value per input, between frequency and frequency + bandwidth in MHz.

        `0, 0` is the whole band. A backend that cannot select a band declares no parameters: then `0, 0`
        reaches it as a call without arguments, and any other band is refused on its behalf.
        """
        raise NotSupportedError

    def get_tp0(self) -> Result:
        """Total power with terminated input, the zero level, one value per input."""
        raise NotSupportedError

    def get_rms(self) -> Result:
        """The rms of each input's sampler, one value per input."""
        raise NotSupportedError

    def get_ddcoffset(self) -> Result:
        """The offset of the digital down-converter in MHz."""
        raise NotSupportedError

    # -- acquisition and files ------------------------------------------------------------------------

    def start(self, timestamp: Ticks | None = None) -> Result:
        """Start acquiring now, or at `timestamp`. `acquisition.Acquisition` does this for you."""
        raise NotSupportedError

    def stop(self, timestamp: Ticks | None = None) -> Result:
        """Stop acquiring now, or at `timestamp`. `acquisition.Acquisition` does this for you."""
        raise NotSupportedError

    def set_filename(self, path: str) -> Result:
        """Name the telescope's file whose metadata is merged with the data; it is still being written."""
        raise NotSupportedError

    def convert_data(self) -> Result:
        """The telescope's file is complete: merge it with the data. Lane `files`; minutes are normal."""
        raise NotSupportedError

    def end_schedule(self) -> Result:
        """The schedule is over."""
        raise NotSupportedError

    def park(self) -> Result:
        """Park the backend (wire name `backend-park`)."""
        raise NotSupportedError

    # -- commands that depend on the instance ---------------------------------------------------------

    def own_commands(self) -> Iterable[Callable[..., Any]]:
        """Functions marked with `@command`, beside the marked methods; asked for once, when the handler is made."""
        return ()

    # -- the server's life ----------------------------------------------------------------------------

    def server_started(self) -> Awaitable[object] | None:
        """Called once when the server listens; may be a coroutine or return a Deferred."""

    def server_stopping(self) -> Awaitable[object] | None:
        """Called once when the server goes down, the acquisition ended; may be a coroutine or Deferred."""


@dataclass(frozen=True, slots=True)
class Blocking:
    """The mark of a method that blocks: `lock` names what it must not share with another such method."""

    lock: str = ""


@overload
def blocking(method: MethodT, /) -> MethodT:
    """`@blocking`"""


@overload
def blocking(*, lock: str) -> Callable[[MethodT], MethodT]:
    """`@blocking(lock="link")`"""


def blocking(method: Any = None, /, *, lock: str = "") -> Any:
    """Mark a method that blocks on hardware: it runs in one of the handler's own threads.

    Blocking `device` commands share one thread, so they still run one at a time. A blocking read has a
    thread of its own; calls that arrive while it is running share its result. `@blocking(lock="link")`
    lets methods with the same lock run only one at a time whatever their lanes, as two methods
    on one serial link must. TypeError for a coroutine function, which waits without blocking.
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
    """Make a method answer a command of the backend's own, on the same footing as the built-in rows.

        @command("vna-sweep", Argument("power", "float", "dBm", optional=True), help="Find the tones.")
        def vna_sweep(self, power=-10.0): ...

    `reply` lists the fields of the `ok` reply, `lane` is "reads", "device" or "files" (protocol section 6.1),
    `timeout` its time limit in seconds. An optional argument that is left out is not passed. `changes` is whether
    the command changes something, so that the log says who gave it; what is not a read does, unless it is False.
    ValueError for a name that the grammar or the protocol's own table rules out, TypeError for what is no
    name, Argument or Field.
    """
    if not isinstance(name, str):
        raise TypeError(f"a command needs its name: @command('vna-sweep'), not {name!r}")
    if name in COMMANDS:
        row = COMMANDS[name]
        raise ValueError(f"{name!r} is the protocol's own command: define a method {row.method}() instead")
    row = Command(name, tuple(arguments), tuple(reply), lane, timeout, help, changes=changes)

    def mark(function: MethodT) -> MethodT:
        _marked(function).__discos_command__ = row
        return function

    return mark


def blocking_of(method: object) -> Blocking | None:
    """The `@blocking` mark of a method, None where it has none."""
    mark = getattr(method, "__discos_blocking__", None)
    return mark if isinstance(mark, Blocking) else None


def declared_commands(backend: object) -> dict[str, tuple[Command, str]]:
    """The commands that a backend's class declares: wire name -> (row, method name).

    A subclass that overrides a declared method keeps the declaration. ValueError when two methods
    declare the same name.
    """
    found: dict[str, tuple[Command, str]] = {}
    seen: set[str] = set()
    for cls in type(backend).__mro__:
        for attribute, member in vars(cls).items():
            # Statically: an attribute may be a proxy that asks the hardware for whatever it has not.
            row = inspect.getattr_static(_marked(member), "__discos_command__", None)
            if not isinstance(row, Command) or attribute in seen:
                continue
            seen.add(attribute)
            if row.name in found:
                raise ValueError(f"{row.name!r} is declared by {found[row.name][1]}() and by {attribute}()")
            found[row.name] = (row, attribute)
    return found


def commands_of(backend: object) -> dict[str, tuple[Command, Callable[..., Any]]]:
    """All own commands of a backend: wire name -> (row, what answers it).

    Those that its class declares, and those that its own_commands() returns. TypeError for a function there
    without `@command`, ValueError when two declare the same name.
    """
    found = {name: (row, getattr(backend, method)) for name, (row, method) in declared_commands(backend).items()}
    # On the class: an instance may be a proxy that asks the hardware for whatever attribute it has not.
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
    """What carries a method's marks: of a static or class method the function inside, which callers get."""
    return method.__func__ if isinstance(method, (staticmethod, classmethod)) else method
