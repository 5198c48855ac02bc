"""Client: a blocking client with one method per command.

connection.py checks that a reply belongs to its request. The table in commands.py defines arguments and replies.
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
"""A time at which to start or stop: Ticks, an astropy Time, a datetime with a time zone, or a number.

A number below 10^12 is Unix seconds. Any other number is a count of 100 ns since 1970 (protocol section 3.5)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

REPLY_MARGIN = 40.0
"""The difference between a client's wait for a reply and the server's time limit for the command, in s."""


class Status(NamedTuple):
    """The reply to `status`."""

    timestamp: Ticks
    """The time of the backend's clock."""
    text: str
    """`ok`, or a description of the fault."""
    acquiring: bool
    """Whether an acquisition is running."""


class Client(Connection):
    """A connection to a backend server, with one method per command. Use it as a context manager.

    The methods have the same names as those of Backend. request() sends any other command. Each method waits for its
    reply and returns the values in it. If the request does not succeed, it raises one of the exceptions below. After
    NoReply the connection is closed, so that a late reply cannot be taken for the reply to the next request.

    Parameters
    ----------
    host
        The host of the server.
    port
        The TCP port of the server.
    timeout
        How long to wait for each reply, in s. Default: 100 s, and 3640 s for `convert-data`, which takes longer.
    greeting_wait
        How long to wait for the greeting, in s. A server may greet later, or never.
    longest_reply
        The length of the longest accepted line, in bytes, with CR, without LF.

    Raises
    ------
    RequestFailed
        If the reply is `fail`. Its text is the server's reason.
    RequestInvalid
        If the reply is `invalid`. Its text is the server's reason.
    ReplyMalformed
        If the reply is `ok`, but its values are not those of the command.
    NoReply
        If the server cannot be reached, the reply does not arrive in time, or a line is not the expected reply.
    ValueError
        If an argument cannot be sent. Also if `timeout` is not above 0, if `greeting_wait` is negative, or if one of
        these is longer than a day.
    TypeError
        If an argument has a wrong type.

    Examples
    --------
    Start one second later, by the clock of the backend::

        with Client("127.0.0.1", 8978) as client:
            client.set_configuration("SK00")
            client.start(client.status().timestamp + 10**7)
    """

    def reply_wait(self, name: str) -> float:
        """Return how long to wait for the reply to a command, in s."""
        if self.timeout is not None:
            return self.timeout
        limit = COMMANDS[name].timeout if name in COMMANDS else None
        return REPLY_WAIT if limit is None else max(REPLY_WAIT, limit + REPLY_MARGIN)

    # -- clock and state --------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return the time of the backend's clock, its state as a text, and whether it is acquiring."""
        return Status(*self._ask("status"))

    def version(self) -> str:
        """Return the server's version of the protocol."""
        version: str = self._one("version")
        return version

    def time(self) -> Ticks:
        """Return the time of the backend's clock."""
        time: Ticks = self._one("time")
        return time

    def get_configuration(self) -> str:
        """Return the name of the current configuration."""
        configuration: str = self._one("get-configuration")
        return configuration

    def get_integration(self) -> int:
        """Return the integration time in ms."""
        integration: int = self._one("get-integration")
        return integration

    def get_filename(self) -> str:
        """Return the path that set_filename() stored."""
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
        self._ask("set-section", section, start_frequency, bandwidth, feed, mode, sample_rate, bins)

    def set_enable(self, feed1: int, feed2: int) -> None:
        """Select the two feeds that are used for nodding."""
        self._ask("set-enable", feed1, feed2)

    def set_shift(self, shift: int) -> None:
        """Set the bit shift of the FFT stages."""
        self._ask("set-shift", shift)

    def cal_on(self, interleave: int = 0) -> None:
        """Toggle the noise diode every `interleave` samples. 0 switches it off."""
        self._ask("cal-on", interleave)

    # -- measurements -----------------------------------------------------------------------------------

    def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> list[float]:
        """Return the total power of each input, in counts.

        Parameters
        ----------
        frequency
            The lower end of the band, in MHz.
        bandwidth
            The width of the band, in MHz. `0, 0` selects the whole band.
        """
        return self._ask("get-tpi", frequency, bandwidth)

    def get_tp0(self) -> list[float]:
        """Return the total power of each input while it is terminated, in counts."""
        return self._ask("get-tp0")

    def get_rms(self) -> list[float]:
        """Return the rms of each input's sampler, in counts."""
        return self._ask("get-rms")

    def get_ddcoffset(self) -> float:
        """Return the offset of the digital down-converter, in MHz."""
        ddcoffset: float = self._one("get-ddcoffset")
        return ddcoffset

    # -- acquisition and files --------------------------------------------------------------------------

    def start(self, timestamp: Instant | None = None) -> None:
        """Start an acquisition.

        Parameters
        ----------
        timestamp
            When to start. Default: now. The server replies at once, and does not wait for this time.
        """
        self._ask("start", *_when(timestamp))

    def stop(self, timestamp: Instant | None = None) -> None:
        """Stop the acquisition.

        Parameters
        ----------
        timestamp
            When to stop. Default: now. The server replies at once, and does not wait for this time.
        """
        self._ask("stop", *_when(timestamp))

    def set_filename(self, path: str | os.PathLike[str]) -> None:
        """Set the path of the telescope's file. convert_data() merges the metadata in this file with the data."""
        self._ask("set-filename", path)

    def convert_data(self) -> None:
        """Merge the data with the telescope's file. This may take an hour."""
        self._ask("convert-data")

    def end_schedule(self) -> None:
        """Tell the server that the schedule has ended."""
        self._ask("end-schedule")

    def park(self) -> None:
        """Park the backend (`backend-park`)."""
        self._ask("backend-park")

    # -- any command ------------------------------------------------------------------------------------

    def request(self, name: str, *arguments: str) -> list[str]:
        """Send a request with any name.

        Parameters
        ----------
        name
            The name of the command.
        arguments
            Its arguments as texts, without escapes. A path of a command of the protocol is sent as the bytes that
            os.fsencode() returns, every other text as latin-1.

        Returns
        -------
        arguments
            The arguments of the `ok` reply as texts, without escapes. Bytes are decoded in the same way.
        """
        row = COMMANDS.get(name)
        texts = list(arguments) if row is None else row.to_wire(arguments)
        reply = self.exchange(Message(message_type=REQUEST, name=name, arguments=texts))
        reason = ",".join(reply.arguments)
        if reply.code == OK:
            return reply.arguments if row is None else row.from_wire(reply.arguments)
        raise RequestFailed(reason) if reply.code == FAIL else RequestInvalid(reason)

    def _ask(self, name: str, *values: Any) -> list[Any]:
        """Send a request, and convert the reply by the command's row in the table of commands."""
        row = COMMANDS[name]
        texts = self.request(
            name,
            *(
                os.fsdecode(value) if argument.type == "path" else _written(value)
                for value, argument in zip(values, row.arguments, strict=False)
            ),
        )
        fields = row.reply_fields(len(texts))
        if len(texts) != len(fields):
            wanted = " and ".join(field.name for field in fields) or "nothing"
            raise ReplyMalformed(f"the reply to {name} has the values {texts} instead of {wanted}")
        return [_read(name, text, field) for text, field in zip(texts, fields, strict=True)]

    def _one(self, name: str) -> Any:
        """Send a request whose reply has one value, and return it."""
        (value,) = self._ask(name)
        return value


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
        # request() has decoded it.
        return text
    read, wanted = TYPES[field.type]
    try:
        return read(text)
    except ValueError:
        raise ReplyMalformed(f"the reply to {name} has the {field.name} {text!r}, not {wanted}") from None
