"""SendGuard: what may be sent to an instrument that somebody is observing with, and how fast.

Whatever a case says that it touches, every line is checked here before it is sent.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import IntEnum

from discosbackend.commands import COMMANDS, Command
from discosbackend.framing import LineSplitter, without_telnet
from discosbackend.grammar import named_in

__all__ = ["LINES_A_SECOND", "SendGuard", "Scope", "scope_of", "scope_of_command"]

LINES_A_SECOND = 10
"""What a server in use is asked at most: its screens ask as often."""

# A second, and what a network may take from it by delivering one line late and another soon.
_SECOND = 1.1

# Bytes of a line from which on it is a long one.
_LONG = 1000


class Scope(IntEnum):
    """How far a case goes: each includes those before it."""

    READS = 0
    """Commands of the lane `reads`, and short lines that are no messages: nothing is touched."""
    MEASURE = 1
    """Measurements, which touch the device and leave it as it is."""
    FULL = 2
    """Everything: it starts, stops, configures and parks, and sends what is hostile."""


def scope_of_command(row: Command) -> Scope:
    """How far a command goes, whatever its arguments: a wrong server may carry it out all the same.

    Of a backend's own it is not known that one that replies with values only measures.
    """
    if row.lane == "reads":
        return Scope.READS
    return Scope.MEASURE if row.reply and row.name in COMMANDS else Scope.FULL


def scope_of(line: bytes, commands: Mapping[str, Command] = COMMANDS) -> Scope:
    """How far a line goes: one that does not parse as far as the command that is to be read in it."""
    if len(line) > _LONG:
        return Scope.FULL
    row = commands.get(named_in(without_telnet(line).decode("latin-1").rstrip("\r\n\0")))
    return Scope.READS if row is None else scope_of_command(row)


class SendGuard:
    """A limit of reach, and of the lines in any second, over all connections; None is no limit.

    `sparing` tells cases to try one of each kind, where they have a table. `commands` are all that the server may
    have, those of its own included: what is not among them touches nothing.
    """

    def __init__(
        self,
        scope: Scope = Scope.FULL,
        rate: int | None = None,
        *,
        commands: Mapping[str, Command] = COMMANDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.scope = scope
        self._commands = commands
        self._clock = clock
        self._sleep = sleep
        self._rate = rate
        # When the lines of the last second were sent.
        self._sent: deque[float] = deque()

    @property
    def sparing(self) -> bool:
        """Whether the number of lines is limited."""
        return self._rate is not None

    def before(self, data: bytes) -> None:
        """Wait until this may be sent. RuntimeError for what may not: a case is wrong then."""
        # As a server takes it: to the last line, which may have no end yet, one is added.
        for line in LineSplitter().feed(data + b"\n"):
            if scope_of(line, self._commands) > self.scope:
                raise RuntimeError(f"{line[:80]!r} must not be sent, as far as {self.scope.name} reaches")
        if self._rate is not None:
            # The piece that ends a line counts, whatever of the line came before.
            self._wait(len(LineSplitter().feed(data)), self._rate)

    def _wait(self, lines: int, rate: int) -> None:
        """Until so many lines may be sent at once: no second may have more than `rate`."""
        if lines > rate:
            raise RuntimeError(f"{lines} lines must not be sent at once where {rate} a second are allowed")
        while True:
            now = self._clock()
            while self._sent and self._sent[0] + _SECOND <= now:
                self._sent.popleft()
            if len(self._sent) + lines <= rate:
                break
            self._sleep(self._sent[len(self._sent) + lines - rate - 1] + _SECOND - now)
        self._sent.extend([now] * lines)
