"""SendGuard: limits which lines may be sent to a server, and their rate.

It makes the kit safe for an instrument that is being used. Every line is checked before it is sent, whatever scope
its case declares.
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
"""How many lines per second may be sent to a server that is being used. The telescope's displays send as many."""

# The limit applies to each second at the server. The network may delay one line more than the next, by up to 0.1 s.
_SECOND = 1.1

# A line with more bytes is a long line.
_LONG = 1000


class Scope(IntEnum):
    """The limit of what a case may send. Each scope includes the previous ones."""

    READS = 0
    """Commands of the lane `reads`, and short lines that are not messages. They do not change anything."""
    MEASURE = 1
    """Also measurements, which use the device but do not change its state."""
    FULL = 2
    """Everything: start, stop, configure and park, and hostile lines."""


def scope_of_command(row: Command) -> Scope:
    """Return the scope of a command, with any arguments: a wrong server may carry it out even if they are wrong.

    A command that only one backend has may change the state even if it returns values, so its scope is FULL unless
    it is in the lane `reads`.

    Examples
    --------
    >>> from discosbackend.commands import COMMANDS
    >>> from discosbackend.testing.send_guard import scope_of_command
    >>> scope_of_command(COMMANDS["status"]).name, scope_of_command(COMMANDS["get-tpi"]).name
    ('READS', 'MEASURE')
    """
    if row.lane == "reads":
        return Scope.READS
    return Scope.MEASURE if row.reply and row.name in COMMANDS else Scope.FULL


def scope_of(line: bytes, commands: Mapping[str, Command] = COMMANDS) -> Scope:
    """Return the scope of a line. For a line that is not a valid message, the command that it names decides.

    Examples
    --------
    >>> from discosbackend.testing.send_guard import scope_of
    >>> scope_of(b"?start,,\\r\\n").name, scope_of(b"nonsense\\r\\n").name
    ('FULL', 'READS')
    """
    if len(line) > _LONG:
        return Scope.FULL
    row = commands.get(named_in(without_telnet(line).decode("latin-1").rstrip("\r\n\0")))
    return Scope.READS if row is None else scope_of_command(row)


class SendGuard:
    """Limits the scope and the rate of the lines that are sent, over all connections.

    Parameters
    ----------
    scope
        Lines with a wider scope are refused.
    rate
        How many lines may be sent in any second; None for no limit.
    commands
        All commands that the server may have, including its own ones, by their name on the wire. Any other name has
        the scope READS.
    clock, sleep
        Replace time.monotonic and time.sleep, in s.
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
        # The times at which the lines of the last second were sent.
        self._sent: deque[float] = deque()

    @property
    def sparing(self) -> bool:
        """Whether the number of lines is limited."""
        return self._rate is not None

    def before(self, data: bytes) -> None:
        """Wait until these bytes may be sent.

        Raises
        ------
        RuntimeError
            If they must not be sent. This is a defect of the case.
        """
        # The last line may be incomplete, so a line end is added to check it as well.
        for line in LineSplitter().feed(data + b"\n"):
            if scope_of(line, self._commands) > self.scope:
                raise RuntimeError(f"{line[:80]!r} must not be sent with the scope {self.scope.name}")
        if self._rate is not None:
            # Only complete lines count: an incomplete line counts together with the bytes that complete it.
            self._wait(len(LineSplitter().feed(data)), self._rate)

    def _wait(self, lines: int, rate: int) -> None:
        """Wait until this number of lines may be sent together, with at most `rate` lines in any second."""
        if lines > rate:
            raise RuntimeError(f"{lines} lines must not be sent at once: {rate} a second are allowed")
        while True:
            now = self._clock()
            while self._sent and self._sent[0] + _SECOND <= now:
                self._sent.popleft()
            if len(self._sent) + lines <= rate:
                break
            self._sleep(self._sent[len(self._sent) + lines - rate - 1] + _SECOND - now)
        self._sent.extend([now] * lines)
