"""Client: a blocking client with one method per command.

connection makes sure that a reply belongs to its request; commands says what the commands mean.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from discosbackend.client.connection import REPLY_WAIT, Connection
from discosbackend.commands import COMMANDS, WILDCARD, Field
from discosbackend.errors import (
    ReplyMalformed,
    RequestFailed,
    RequestInvalid,
    UnsendableError,
)
from discosbackend.grammar import FAIL, OK, REQUEST, Message
from discosbackend.ticks import Ticks
from discosbackend.values import TYPES, float_text

if TYPE_CHECKING:
    from astropy.time import Time

__all__ = ["REPLY_MARGIN", "Client", "Instant", "Status"]

Instant: TypeAlias = "Ticks | datetime | Time | float"
"""When to start or stop: Ticks, an astropy Time, an aware datetime, or a number as protocol section 3.5 reads
it (Unix seconds below 10^12)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

REPLY_MARGIN = 40.0
"""By how many seconds a client waits for a reply longer than a server may take for it: 100 s for the usual 60."""


class Status(NamedTuple):
    """What `status` told: the backend's clock, `ok` or what is wrong, and whether it is acquiring."""

    timestamp: Ticks
    text: str
    acquiring: bool


class Client(Connection):
    """A connection to a backend server, as a context manager.

        with Client("127.0.0.1", 8978) as client:
            client.set_configuration("SK00")
            client.start(client.status().timestamp + 10**7)

    One method a command, named as a Backend's; request() for any other. Each waits for its reply and raises
    RequestFailed or RequestInvalid, with the server's reason, for one that is not `ok`, ReplyMalformed for an
    `ok` without the values that belong there, and NoReply when none comes: the connection is closed then,
    lest a late reply be taken for the next one's. ValueError or TypeError for what cannot be sent.

    `timeout` and the other settings are a Connection's. Without a `timeout` a reply is waited for 100 s, or as long
    as the server's own limit where a command has one: that to `convert-data` for an hour.
    """

    def reply_wait(self, name: str) -> float:
        """How many seconds the reply to this command is waited for: `timeout`, or as long as a server may take."""
        if self.timeout is not None:
            return self.timeout
        limit = COMMANDS[name].timeout if name in COMMANDS else None
        return REPLY_WAIT if limit is None else max(REPLY_WAIT, limit + REPLY_MARGIN)

    # -- clock and state --------------------------------------------------------------------------------

    def status(self) -> Status:
        """The backend's clock, its state in words, and whether it is acquiring."""
        return Status(*self._ask("status"))

    def version(self) -> str:
        """The version of the protocol that the server speaks."""
        version: str = self._one("version")
        return version

    def time(self) -> Ticks:
        """The backend's clock."""
        time: Ticks = self._one("time")
        return time

    def get_configuration(self) -> str:
        """The name of the configuration in force."""
        configuration: str = self._one("get-configuration")
        return configuration

    def get_integration(self) -> int:
        """The integration time in ms."""
        integration: int = self._one("get-integration")
        return integration

    def get_filename(self) -> str:
        """The path that set_filename() stored."""
        filename: str = self._one("get-filename")
        return filename

    # -- configuration ----------------------------------------------------------------------------------

    def set_configuration(self, configuration: str) -> None:
        """Load a configuration by name."""
        self._ask("set-configuration", configuration)

    def set_integration(self, integration: int) -> None:
        """Set the integration time in ms."""
        self._ask("set-integration", integration)

    def set_section(
        self,
        section: int | str = WILDCARD,
        start_frequency: float | str = WILDCARD,
        bandwidth: float | str = WILDCARD,
        feed: int | str = WILDCARD,
        mode: int | str = WILDCARD,
        sample_rate: float | str = WILDCARD,
        bins: int | str = WILDCARD,
    ) -> None:
        """Configure a section, or every section; frequencies in MHz. What is `"*"` stays as it is."""
        self._ask("set-section", section, start_frequency, bandwidth, feed, mode, sample_rate, bins)

    def set_enable(self, feed1: int, feed2: int) -> None:
        """Choose the two feeds used for nodding."""
        self._ask("set-enable", feed1, feed2)

    def set_shift(self, shift: int) -> None:
        """Set the bit shift of the FFT stages."""
        self._ask("set-shift", shift)

    def cal_on(self, interleave: int = 0) -> None:
        """Switch the noise diode every so many samples; 0 switches it off."""
        self._ask("cal-on", interleave)

    # -- measurements -----------------------------------------------------------------------------------

    def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> list[float]:
        """Total power of each input, over a band in MHz; `0, 0` is the whole one."""
        return self._ask("get-tpi", frequency, bandwidth)

    def get_tp0(self) -> list[float]:
        """Total power of each input when it is terminated."""
        return self._ask("get-tp0")

    def get_rms(self) -> list[float]:
        """The rms of each input's sampler."""
        return self._ask("get-rms")

    def get_ddcoffset(self) -> float:
        """The offset of the digital down-converter in MHz."""
        ddcoffset: float = self._one("get-ddcoffset")
        return ddcoffset

    # -- acquisition and files --------------------------------------------------------------------------

    def start(self, timestamp: Instant | None = None) -> None:
        """Start acquiring now, or have it start at this time; answered at once either way."""
        self._ask("start", *_when(timestamp))

    def stop(self, timestamp: Instant | None = None) -> None:
        """Stop acquiring now, or have it stop at this time; answered at once either way."""
        self._ask("stop", *_when(timestamp))

    def set_filename(self, path: str | os.PathLike[str]) -> None:
        """Name the telescope's file whose metadata is merged with the data."""
        self._ask("set-filename", path)

    def convert_data(self) -> None:
        """Have the data merged with the telescope's file; waits as long as a server may take for it, an hour."""
        self._ask("convert-data")

    def end_schedule(self) -> None:
        """Tell that the schedule is over."""
        self._ask("end-schedule")

    def park(self) -> None:
        """Park the backend (`backend-park`)."""
        self._ask("backend-park")

    # -- any command ------------------------------------------------------------------------------------

    def request(self, name: str, *arguments: str) -> list[str]:
        """Send a request of any name and return the arguments of its `ok` reply, as texts.

        Paths of the protocol's own commands are sent as os.fsencode gives them, and returned as os.fsdecode does.
        Any other text is sent and returned as latin-1.
        """
        row = COMMANDS.get(name)
        texts = list(arguments) if row is None else row.to_wire(arguments)
        reply = self.exchange(Message(message_type=REQUEST, name=name, arguments=texts))
        reason = ",".join(reply.arguments)
        if reply.code == OK:
            return reply.arguments if row is None else row.from_wire(reply.arguments)
        raise RequestFailed(reason) if reply.code == FAIL else RequestInvalid(reason)

    def _ask(self, name: str, *values: Any) -> list[Any]:
        """Send a request of the table, values as its row wants them, and read what its row promises."""
        row = COMMANDS[name]
        texts = self.request(
            name,
            *(
                os.fsdecode(value) if argument.type == "path" else _written(value)
                for value, argument in zip(values, row.arguments, strict=False)
            ),
        )
        fields = list(row.reply)
        if fields and fields[-1].repeated:
            fields += fields[-1:] * (len(texts) - len(fields))
        if len(texts) != len(fields):
            wanted = " and ".join(field.name for field in fields) or "nothing"
            raise ReplyMalformed(f"{name} was answered with {texts}, where {wanted} is due")
        return [_read(name, text, field) for text, field in zip(texts, fields, strict=True)]

    def _one(self, name: str) -> Any:
        """The one value that its row promises."""
        (value,) = self._ask(name)
        return value


def _when(instant: Instant | None) -> tuple[Ticks, ...]:
    """The argument that says when, none for now."""
    if instant is None:
        return ()
    if isinstance(instant, datetime):
        if instant.tzinfo is None:
            raise ValueError(f"{instant!r} has no time zone: say datetime.now(timezone.utc), for one")
        return (Ticks((instant - _EPOCH) // timedelta(microseconds=1) * 10),)
    if isinstance(instant, bool):
        raise TypeError(f"not an instant: {instant!r}")
    return (Ticks.of(instant),)


def _written(value: Any) -> str:
    """A value as it stands in a request (protocol section 3)."""
    if isinstance(value, str):
        return str.__str__(value)
    if hasattr(value, "__index__"):
        return str(value.__index__())
    try:
        return float_text(value)
    except UnsendableError as problem:
        raise ValueError(str(problem)) from None


def _read(name: str, text: str, field: Field) -> Any:
    """A value of a reply."""
    if field.type == "path":
        # request() has decoded it.
        return text
    read, wanted = TYPES[field.type]
    try:
        return read(text)
    except ValueError:
        raise ReplyMalformed(f"{name} was answered with the {field.name} {text!r}, not {wanted}") from None
