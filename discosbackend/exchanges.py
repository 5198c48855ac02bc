"""Exchanges: the records of what passes on connections, as DBFactory.listeners are given them.

Who makes them is protocol's business; the log, a recording or counters listen.
"""

from __future__ import annotations

from typing import NamedTuple

from discosbackend.ticks import Ticks

__all__ = ["ConnectionEvent", "Exchange"]


class Exchange(NamedTuple):
    """One line that was read, and what became of it."""

    connection: int
    """The number of the connection, from 1 on; none is used twice."""
    peer: str
    """Who is at the other end: `10.0.0.7:4711`."""
    begin: Ticks
    """When the line was read."""
    request: bytes
    """The line, without its end and telnet's negotiation."""
    name: str
    """The command, "" where the line names none."""
    reply: bytes | None
    """The reply without its CR LF; None for a line that gets none."""
    code: str
    """`ok`, `fail` or `invalid`; "" where there is no reply."""
    changes: bool
    """Whether the command changes something, by the table of commands."""
    seconds: float
    """From reading the line to its reply."""


class ConnectionEvent(NamedTuple):
    """A connection that opens or closes."""

    connection: int
    peer: str
    time: Ticks
    event: str
    """`open` or `close`."""
