"""TapSource: what DISCOS telemetry says about the target of a tap.

A tap sends no requests of its own, so everything comes from the requests of clients and their replies. What no client
has set or asked for is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from discosbackend.commands import COMMANDS, WILDCARD
from discosbackend.errors import HandlerException, NotSupportedError
from discosbackend.exchanges import ConnectionEvent, Exchange
from discosbackend.framing import read_line
from discosbackend.grammar import OK
from discosbackend.monitor.telemetry import TelemetryChannel
from discosbackend.monitor.telemetry_publisher import BUSY_LANES, values_of
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["TapSource"]

# The polarisations of the modes of set-section. The deployed clients send the digits. CP has no single polarisation.
_POLARIZATIONS: dict[str, Literal["LHCP", "RHCP", "FULL STOKES"]] = {
    "LCP": "LHCP",
    "RCP": "RHCP",
    "FullStokes": "FULL STOKES",
    "0": "LHCP",
    "1": "RHCP",
    "2": "FULL STOKES",
}


# More sections are ignored.
_MOST_SECTIONS = 1000


@dataclass(frozen=True, slots=True)
class _Section:
    """What clients have set of a section. None: unknown."""

    start_frequency: float | None = None
    bandwidth: float | None = None
    mode: str | None = None
    sample_rate: float | None = None
    bins: int | None = None


class TapSource:
    """The TelemetrySource of a tap. Append `on_exchange` to the listeners of the tap, before that of the publisher.

    Parameters
    ----------
    running
        Returns the names of the requests that the target is answering.
    problem
        Returns why the target cannot be reached; "" if it can. forget() is to be called when it cannot.
    now_ticks
        Returns the UTC clock of the host.
    """

    def __init__(
        self,
        running: Callable[[], Iterable[str]],
        problem: Callable[[], str],
        *,
        now_ticks: Callable[[], Ticks] = Ticks.now,
    ) -> None:
        self._running = running
        self._problem = problem
        self._now = now_ticks
        # By command: what an accepted request has changed. The values are None if they are not those of the protocol.
        self._changes: dict[str, Callable[[list[Any] | None], None]] = {
            "start": self._note_start,
            "stop": self._note_stop,
            "set-integration": self._note_integration,
            "set-configuration": self._note_configuration,
            "set-section": self._note_section,
        }
        self.forget()

    def forget(self) -> None:
        """Forget everything: the target has ended, and its state is another one when it is back."""
        # The last reply to `status`, and how far its time was ahead of the clock of the host, in ticks.
        self._status: bytes | None = None
        self._status_failed = False
        self._clock_offset = 0
        self._integration: int | None = None
        self._acquiring: bool | None = None
        self._pending_start: Ticks | None = None
        self._pending_stop: Ticks | None = None
        self._sections: dict[int, _Section] = {}

    # -- what has passed ------------------------------------------------------------------------------

    def on_exchange(self, exchange: Exchange | ConnectionEvent) -> None:
        """Note an exchange."""
        if type(exchange) is not Exchange or exchange.reply is None:
            return
        name = exchange.name
        if name == "status":
            self._note_status(exchange, exchange.reply)
        elif name == "get-integration":
            self._integration = next(iter(values_of(name, exchange.reply) or ()), None)
        elif exchange.code == OK and name in self._changes:
            try:
                values = COMMANDS[name].parse(read_line(exchange.request).arguments)
            except HandlerException:
                # The target accepts what the protocol does not have.
                values = None
            self._pass_time()
            self._changes[name](values)

    def _note_status(self, exchange: Exchange, reply: bytes) -> None:
        values = values_of("status", reply)
        self._status_failed = values is None
        if values is None:
            return
        time, _, acquiring = values
        self._status = reply
        self._clock_offset = time - exchange.begin - round(exchange.seconds * TICKS_PER_SECOND)
        self._pass_time()
        self._acquiring = acquiring

    def _note_start(self, values: list[Any] | None) -> None:
        if not values:
            self._acquiring, self._pending_start = (True if values is not None else None), None
        else:
            self._pending_start = values[0]

    def _note_stop(self, values: list[Any] | None) -> None:
        if not values:
            self._acquiring = False if values is not None else None
            self._pending_start = self._pending_stop = None
        else:
            self._pending_stop = values[0]

    def _note_integration(self, values: list[Any] | None) -> None:
        self._integration = values[0] if values else None

    def _note_configuration(self, _: list[Any] | None) -> None:
        # The name says neither the integration time nor the sections.
        self._integration = None
        self._sections.clear()

    def _note_section(self, values: list[Any] | None) -> None:
        if values is None:
            self._sections.clear()
            return
        number, start_frequency, bandwidth, _, mode, sample_rate, bins = values
        given = {
            "start_frequency": start_frequency,
            "bandwidth": bandwidth,
            "mode": mode,
            "sample_rate": sample_rate,
            "bins": bins,
        }
        changes = {name: value for name, value in given.items() if value != WILDCARD}
        for each in list(self._sections) if number == WILDCARD else [number]:
            if each not in self._sections and len(self._sections) >= _MOST_SECTIONS:
                continue
            self._sections[each] = replace(self._sections.get(each, _Section()), **changes)

    def _pass_time(self) -> None:
        """Carry out the timed start and stop whose time has come."""
        now = self._now()
        due = [
            (time, acquiring)
            for time, acquiring in ((self._pending_start, True), (self._pending_stop, False))
            if time is not None and time <= now
        ]
        for _, acquiring in sorted(due):
            self._acquiring = acquiring
            if acquiring:
                self._pending_start = None
            else:
                self._pending_stop = None

    # -- what telemetry reads -------------------------------------------------------------------------

    @property
    def acquiring(self) -> bool:
        self._pass_time()
        return self._acquiring is True

    @property
    def pending_start(self) -> float | None:
        self._pass_time()
        return None if self._pending_start is None else self._pending_start.unix

    @property
    def device_busy(self) -> bool:
        return any(name in COMMANDS and COMMANDS[name].lane in BUSY_LANES for name in self._running())

    @property
    def recording_problem(self) -> str:
        return ""

    @property
    def clock_synchronised(self) -> bool | None:
        # The target may be on another host.
        return None

    def channels(self) -> Sequence[TelemetryChannel]:
        return [
            TelemetryChannel(
                number,
                _POLARIZATIONS[section.mode],
                start_frequency=section.start_frequency,
                bandwidth=section.bandwidth,
                bins=section.bins,
                sample_rate=section.sample_rate,
            )
            for number, section in sorted(self._sections.items())
            if section.mode in _POLARIZATIONS and number >= 0 and (section.bins is None or section.bins > 0)
        ]

    def ask(self, name: str) -> bytes:
        """Return the last reply, with the time of now. Raise HandlerException if it was none, or if it is not known."""
        if problem := self._problem():
            raise HandlerException(problem)
        if name == "get-integration":
            if self._integration is None:
                raise NotSupportedError
            return b"!get-integration,ok,%d" % self._integration
        if self._status_failed:
            raise HandlerException("the last status is a failure")
        if self._status is None:
            raise NotSupportedError
        time = Ticks(self._now() + self._clock_offset).unix_text()
        return b"!status,ok,%s,%s" % (time.encode(), self._status.split(b",", 3)[3])
