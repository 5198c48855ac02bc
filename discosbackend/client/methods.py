"""The typed methods of both clients: one for each command, each declared once.

A method in this module returns a Call: the request, and the function that converts its reply to the result. `@method`
makes the method perform this call: that of Client waits for the reply, and that of AsyncClient returns a coroutine. The
table in commands.py defines arguments and replies.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections import namedtuple
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast, overload

from discosbackend.commands import COMMANDS, WILDCARD, Argument, Command, Field
from discosbackend.errors import (
    HandlerException,
    ReplyMalformed,
    RequestFailed,
    RequestInvalid,
    UnsendableError,
)
from discosbackend.grammar import FAIL, OK, REQUEST, Message
from discosbackend.ticks import Ticks
from discosbackend.toml import did_you_mean
from discosbackend.values import TYPES, float_text

if TYPE_CHECKING:
    from astropy.time import Time

__all__ = [
    "REPLY_MARGIN",
    "REPLY_WAIT",
    "AsyncMethods",
    "BlockingMethods",
    "Call",
    "CommandMethods",
    "Instant",
    "Status",
    "matcher",
    "method",
    "poll_wait",
    "reply_values",
    "rows_of",
]

P = ParamSpec("P")
R = TypeVar("R")

Instant: TypeAlias = "Ticks | datetime | Time | float"
"""A time at which to start or stop: Ticks, an astropy Time, a datetime with a time zone, or a number.

A number below 10^12 is Unix seconds. Any other number is a count of 100 ns since 1970 (protocol section 3.5)."""

REPLY_WAIT = 100.0
"""How long to wait for a reply by default, in s. The deployed clients wait as long.

It is 40 s longer than a server's default time limit."""

REPLY_MARGIN = 40.0
"""The difference between a client's wait for a reply and the server's time limit for the command, in s."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Status(NamedTuple):
    """The reply to `status`."""

    timestamp: Ticks
    """The time of the backend's clock."""
    text: str
    """`ok`, or a description of the fault."""
    acquiring: bool
    """Whether an acquisition is running."""


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A request, and the function that returns the result for its reply."""

    request: Message
    result: Callable[[Message], R]
    """It raises RequestFailed, RequestInvalid or ReplyMalformed if there is no result."""


if TYPE_CHECKING:

    class Method(Generic[P, R]):
        """What `@method` makes: a method that returns the result, or a coroutine that returns it."""

        @overload
        def __get__(self, client: None, owner: type[Any]) -> Callable[Concatenate[Any, P], Any]: ...
        @overload
        def __get__(self, client: BlockingMethods, owner: type[Any]) -> Callable[P, R]: ...
        @overload
        def __get__(self, client: AsyncMethods, owner: type[Any]) -> Callable[P, Coroutine[Any, Any, R]]: ...
        def __get__(self, client: Any, owner: type[Any]) -> Any: ...


def method(function: Callable[Concatenate[Any, P], Call[R]]) -> Method[P, R]:
    """Make a method of a client from a function that returns a Call."""

    @functools.wraps(function)
    def ask(self: Any, /, *arguments: Any, **named: Any) -> Any:
        return self._perform(function(self, *arguments, **named))

    # What help() and the documentation show: the type of the result.
    signature = inspect.signature(function)
    result = str(signature.return_annotation).removeprefix("Call[").removesuffix("]")
    ask.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
    ask.__annotations__ = {**function.__annotations__, "return": result}
    return cast("Method[P, R]", ask)


class CommandMethods:
    """One method per command. The names are those of the methods of Backend."""

    timeout: float | None = None
    """How long to wait for each reply, in s. None: the result of reply_wait() for the command."""

    _rows: Mapping[str, Command] = COMMANDS

    def reply_wait(self, name: str) -> float:
        """Return how long to wait for the reply to a command, in s."""
        if self.timeout is not None:
            return self.timeout
        limit = self._rows[name].timeout if name in self._rows else None
        return REPLY_WAIT if limit is None else max(REPLY_WAIT, limit + REPLY_MARGIN)

    def _only_reads(self, name: str) -> bool:
        """Return whether a command is known to change nothing, so that it may be sent twice."""
        return name in self._rows and not self._rows[name].changes

    # -- clock and state --------------------------------------------------------------------------------

    @method
    def status(self) -> Call[Status]:
        """Return the time of the backend's clock, its state as a text, and whether it is acquiring."""
        return _call("status", lambda values: Status(*values))

    @method
    def version(self) -> Call[str]:
        """Return the server's version of the protocol."""
        return _call("version", _the_one)

    @method
    def time(self) -> Call[Ticks]:
        """Return the time of the backend's clock."""
        return _call("time", _the_one)

    @method
    def get_configuration(self) -> Call[str]:
        """Return the name of the current configuration."""
        return _call("get-configuration", _the_one)

    @method
    def get_integration(self) -> Call[int]:
        """Return the integration time in ms."""
        return _call("get-integration", _the_one)

    @method
    def get_filename(self) -> Call[str]:
        """Return the path that set_filename() stored."""
        return _call("get-filename", _the_one)

    # -- configuration ----------------------------------------------------------------------------------

    @method
    def set_configuration(self, configuration: str) -> Call[None]:
        """Load a configuration by name."""
        return _call("set-configuration", _nothing, configuration)

    @method
    def set_integration(self, integration: int) -> Call[None]:
        """Set the integration time in ms."""
        return _call("set-integration", _nothing, integration)

    @method
    def set_section(
        self,
        section: int | str = WILDCARD,
        start_frequency: float | str = WILDCARD,
        bandwidth: float | str = WILDCARD,
        feed: int | str = WILDCARD,
        mode: int | str = WILDCARD,
        sample_rate: float | str = WILDCARD,
        bins: int | str = WILDCARD,
    ) -> Call[None]:
        """Configure a section. An argument that is `"*"` leaves the setting unchanged.

        Parameters
        ----------
        section
            The number of the section, or `"*"` for every section.
        start_frequency
            The lower end of the band, in MHz.
        bandwidth
            The width of the band, in MHz.
        feed
            The number of the feed.
        mode
            The polarisation mode, such as `CP` or `FullStokes`, or one of the numbers 0 to 2: LCP, RCP, full Stokes.
        sample_rate
            The sample rate, in MHz.
        bins
            The number of frequency bins.
        """
        values = (section, start_frequency, bandwidth, feed, mode, sample_rate, bins)
        return _call("set-section", _nothing, *values)

    @method
    def set_enable(self, feed1: int, feed2: int) -> Call[None]:
        """Select the two feeds that are used for nodding."""
        return _call("set-enable", _nothing, feed1, feed2)

    @method
    def set_shift(self, shift: int) -> Call[None]:
        """Set the bit shift of the FFT stages."""
        return _call("set-shift", _nothing, shift)

    @method
    def cal_on(self, interleave: int = 0) -> Call[None]:
        """Toggle the noise diode every `interleave` samples. 0 switches it off."""
        return _call("cal-on", _nothing, interleave)

    # -- measurements -----------------------------------------------------------------------------------

    @method
    def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> Call[list[float]]:
        """Return the total power of each input, in counts.

        Parameters
        ----------
        frequency
            The lower end of the band, in MHz.
        bandwidth
            The width of the band, in MHz. `0, 0` selects the whole band.
        """
        return _call("get-tpi", _all, frequency, bandwidth)

    @method
    def get_tp0(self) -> Call[list[float]]:
        """Return the total power of each input while it is terminated, in counts."""
        return _call("get-tp0", _all)

    @method
    def get_rms(self) -> Call[list[float]]:
        """Return the rms of each input's sampler, in counts."""
        return _call("get-rms", _all)

    @method
    def get_ddcoffset(self) -> Call[float]:
        """Return the offset of the digital down-converter, in MHz."""
        return _call("get-ddcoffset", _the_one)

    # -- acquisition and files --------------------------------------------------------------------------

    @method
    def start(self, timestamp: Instant | None = None) -> Call[None]:
        """Start an acquisition.

        Parameters
        ----------
        timestamp
            When to start. Default: now. The server replies at once, and does not wait for this time.
        """
        return _call("start", _nothing, *_when(timestamp))

    @method
    def stop(self, timestamp: Instant | None = None) -> Call[None]:
        """Stop the acquisition.

        Parameters
        ----------
        timestamp
            When to stop. Default: now. The server replies at once, and does not wait for this time.
        """
        return _call("stop", _nothing, *_when(timestamp))

    @method
    def set_filename(self, path: str | os.PathLike[str]) -> Call[None]:
        """Set the path of the telescope's file. convert_data() merges the metadata in this file with the data."""
        return _call("set-filename", _nothing, path)

    @method
    def convert_data(self) -> Call[None]:
        """Merge the data with the telescope's file. This may take an hour."""
        return _call("convert-data", _nothing)

    @method
    def end_schedule(self) -> Call[None]:
        """Tell the server that the schedule has ended."""
        return _call("end-schedule", _nothing)

    @method
    def park(self) -> Call[None]:
        """Park the backend (`backend-park`)."""
        return _call("backend-park", _nothing)

    # -- any command ------------------------------------------------------------------------------------

    @method
    def request(self, name: str, *arguments: str) -> Call[list[str]]:
        """Send a request with any name.

        Parameters
        ----------
        name
            The name of the command.
        arguments
            Its arguments as texts, without escapes. A path of a command that the client knows is sent as the bytes that
            os.fsencode() returns, every other text as latin-1.

        Returns
        -------
        arguments
            The arguments of the `ok` reply as texts, without escapes: paths as os.fsdecode() returns them, every other
            text as latin-1.
        """
        row = self._rows.get(name)
        return Call(_request(row, name, arguments), functools.partial(_texts_in, row))

    @method
    def call(self, name: str, /, *values: Any, **named: Any) -> Call[Any]:
        """Send a command of the table, or one that was given to the client as `commands`, with checked arguments.

        Parameters
        ----------
        name
            The name of the command.
        values, named
            The values of its arguments, in order or by their names, with underscores instead of hyphens.

        Returns
        -------
        result
            None if the reply has no field, the value of a single field, or the list of a repeated one. If the reply has
            several fields, a named tuple.

        Raises
        ------
        ValueError
            If the client does not know the command, or if a value is not one that the command accepts.
        TypeError
            If an argument is missing, is given twice, does not belong to the command, or has a wrong type.

        Examples
        --------
        >>> from discosbackend import Argument
        >>> from discosbackend.client import Client
        >>> from discosbackend.commands import Command, Field
        >>> sweep = Command("vna-sweep", (Argument("power", "float"),), (Field("resonators", "integer"),))
        >>> with Client("127.0.0.1", 8978, commands=[sweep]) as client:  # doctest: +SKIP
        ...     client.call("vna-sweep", power=-10.0)
        318
        """
        row = self._rows.get(name)
        if row is None:
            near = did_you_mean(name, self._rows)
            raise ValueError(f"the client does not know {name!r}, so it needs commands=[...] with its row{near}")
        texts = _argument_texts(row, values, named)
        return _converted(row, texts, functools.partial(_named, row))


class BlockingMethods(CommandMethods):
    """The methods of a client that waits for each reply."""

    def _perform(self, call: Call[R]) -> R:
        """Send the request, and return the result for its reply."""
        raise NotImplementedError


class AsyncMethods(CommandMethods):
    """The methods of a client whose methods return coroutines."""

    async def _perform(self, call: Call[R]) -> R:
        """Send the request, and return the result for its reply."""
        raise NotImplementedError


def rows_of(commands: Iterable[Command] | type) -> dict[str, Command]:
    """Return the rows of the protocol and those of a client's own commands, by their names on the wire.

    Parameters
    ----------
    commands
        The rows, or a class of a backend, whose declared commands are used.
    """
    if isinstance(commands, type):
        from discosbackend.backend import commands_declared_by

        commands = [row for row, _ in commands_declared_by(commands).values()]
    own = list(commands)
    for row in own:
        if not isinstance(row, Command):
            raise TypeError(f"commands: {row!r} is no Command")
    return {**COMMANDS, **{row.name: row for row in own}}


def reply_values(row: Command, texts: Sequence[str]) -> list[Any]:
    """Convert the arguments of an `ok` reply. Raise ReplyMalformed if they are not those of the command.

    Parameters
    ----------
    row
        The row of the command.
    texts
        The arguments, as from_wire() of the row returns them.
    """
    fields = row.reply_fields(len(texts))
    if len(texts) != len(fields):
        wanted = " and ".join(field.name for field in fields) or "nothing"
        raise ReplyMalformed(f"the reply to {row.name} has the values {list(texts)} instead of {wanted}")
    return [_read(row.name, text, field) for text, field in zip(texts, fields, strict=True)]


def matcher(acquiring: bool | None, text: str | None) -> Callable[[Status], bool]:
    """Return the condition for which wait_until() waits."""
    if acquiring is None and text is None:
        raise ValueError("wait_until() needs acquiring=... or text=...")

    def is_wanted(status: Status) -> bool:
        return acquiring in (None, status.acquiring) and text in (None, status.text)

    return is_wanted


def poll_wait(left: float, most: float) -> float:
    """Return how long wait_until() waits for one reply, in s. The last request gets at least a second."""
    return min(max(left, 1.0), most)


def _call(name: str, result: Callable[[list[Any]], R], *values: Any) -> Call[R]:
    """Return the call of a command of the protocol. The server checks the arguments."""
    row = COMMANDS[name]
    texts = [
        os.fsdecode(value) if argument.type == "path" else _written(value)
        for value, argument in zip(values, row.arguments, strict=False)
    ]
    return _converted(row, texts, result)


def _converted(row: Command, texts: Sequence[str], result: Callable[[list[Any]], R]) -> Call[R]:
    return Call(
        _request(row, row.name, texts),
        lambda reply: result(reply_values(row, _texts_in(row, reply))),
    )


def _request(row: Command | None, name: str, texts: Sequence[str]) -> Message:
    arguments = list(texts) if row is None else row.to_wire(texts)
    return Message(message_type=REQUEST, name=name, arguments=arguments)


def _texts_in(row: Command | None, reply: Message) -> list[str]:
    """Return the arguments of an `ok` reply. Raise RequestFailed or RequestInvalid for any other reply."""
    if reply.code == OK:
        return reply.arguments if row is None else row.from_wire(reply.arguments)
    reason = ",".join(reply.arguments)
    raise RequestFailed(reason) if reply.code == FAIL else RequestInvalid(reason)


def _nothing(values: list[Any]) -> None:
    return None


def _all(values: list[Any]) -> list[Any]:
    return values


def _the_one(values: list[Any]) -> Any:
    (value,) = values
    return value


def _named(row: Command, values: list[Any]) -> Any:
    """Return the values of a reply as the result of call()."""
    if not row.reply:
        return None
    repeated = row.reply[-1].repeated
    if len(row.reply) == 1:
        return values if repeated else values[0]
    single = len(row.reply) - repeated
    found = [*values[:single], values[single:]] if repeated else values
    names = [field.name.replace("-", "_") for field in row.reply]
    kind = namedtuple("".join(map(str.capitalize, row.name.split("-"))), names, rename=True)  # type: ignore[misc]  # noqa: PYI024
    return kind(*found)


def _argument_texts(row: Command, values: Sequence[Any], named: Mapping[str, Any]) -> list[str]:
    """Convert the arguments of call() to texts, and check them by the row."""
    names = [argument.name.replace("-", "_") for argument in row.arguments]
    if len(values) > len(names):
        raise TypeError(f"{row.name} has {len(names)} arguments, but {len(values)} are given")
    given = dict(zip(names, values, strict=False))
    for name, value in named.items():
        if name not in names:
            raise TypeError(f"{row.name} has no argument {name!r}{did_you_mean(name, names)}")
        if name in given:
            raise TypeError(f"{row.name}: the argument {name!r} is given twice")
        given[name] = value
    texts: list[str] = []
    last = max((number for number, name in enumerate(names) if name in given), default=-1)
    for name, argument in zip(names[: last + 1], row.arguments, strict=False):
        if name not in given and argument.default is None:
            raise TypeError(f"{row.name}: the argument {name!r} is missing")
        texts.append(_text(argument, given.get(name, argument.default)))
    try:
        row.parse(row.to_wire(texts))
    except HandlerException as problem:
        kind = TypeError if len(texts) < row.needed else ValueError
        raise kind(f"{row.name}: {problem}") from None
    return texts


def _text(argument: Argument, value: Any) -> str:
    """Convert the value of an argument to its text."""
    if argument.wildcard and isinstance(value, str) and value == WILDCARD:
        return WILDCARD
    if argument.choices:
        from discosbackend.argument_limits import wire_value

        return _written(wire_value(value))
    if argument.type == "path":
        return os.fsdecode(value)
    if argument.type == "timestamp":
        return str(int(_when(value)[0]))
    if argument.type == "boolean":
        if value not in (0, 1):
            raise TypeError(f"not a boolean: {value!r}")
        return str(int(value))
    if isinstance(value, str) != (argument.type == "text") or isinstance(value, bool):
        raise TypeError(f"{argument.name} must be {TYPES[argument.type][1]}, not {value!r}")
    return _written(value)


def _when(instant: Instant | None) -> tuple[Ticks, ...]:
    """Convert a time to the argument of `start` or `stop`; no argument for None."""
    if instant is None:
        return ()
    if isinstance(instant, datetime):
        if instant.tzinfo is None:
            raise ValueError(f"{instant!r} has no time zone: write, for example, datetime.now(timezone.utc)")
        return (Ticks((instant - _EPOCH) // timedelta(microseconds=1) * 10),)
    if isinstance(instant, bool):
        raise TypeError(f"not an instant: {instant!r}")
    return (Ticks.of(instant),)


def _written(value: Any) -> str:
    """Convert an argument to the text that is sent (protocol section 3)."""
    if isinstance(value, str):
        return str.__str__(value)
    if hasattr(value, "__index__"):
        return str(value.__index__())
    try:
        return float_text(value)
    except UnsendableError as problem:
        raise ValueError(str(problem)) from None


def _read(name: str, text: str, field: Field) -> Any:
    """Convert the text of a value in a reply."""
    if field.type == "path":
        # from_wire() has decoded it.
        return text
    read, wanted = TYPES[field.type]
    try:
        return read(text)
    except ValueError:
        raise ReplyMalformed(f"the reply to {name} has the {field.name} {text!r}, not {wanted}") from None
