"""The records of requests and connections that the listeners of a DBFactory get.

connection.py makes the records. A listener can write a log, a recording or statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from discosbackend.ticks import Ticks

__all__ = ["ConnectionEvent", "Exchange", "exchange_of"]


class Exchange(NamedTuple):
    """One received line, and its reply."""

    connection: int
    """The number of the connection, from 1. No number is reused."""
    peer: str
    """The client's address, such as `10.0.0.7:4711`. At a Unix socket its user, such as `user discos, pid 4711`."""
    begin: Ticks
    """The time at which the server began to handle the line."""
    request: bytes
    """The line, without its line end and without telnet negotiation."""
    name: str
    """The name of the command. "" if the line has none."""
    reply: bytes | None
    """The reply without CR LF. None if the line gets no reply."""
    code: str
    """`ok`, `fail` or `invalid`; "" if there is no reply."""
    changes: bool
    """Whether the command changes the state of the backend, according to its row in the table of commands.

    True for an unknown command, which has no row. False if `code` is `invalid`, because then nothing was executed.
    """
    seconds: float
    """The time from `begin` to the reply, in s."""


exchange_of: Callable[[tuple[Any, ...]], Exchange] = partial(tuple.__new__, Exchange)
"""Makes an Exchange of a tuple of its values, in half the time that Exchange(...) takes."""


class ConnectionEvent(NamedTuple):
    """The opening or closing of a connection."""

    connection: int
    """The number of the connection, as in Exchange."""
    peer: str
    """The client's address, such as `10.0.0.7:4711`. At a Unix socket its user, such as `user discos, pid 4711`."""
    time: Ticks
    """The time of the event."""
    event: str
    """`open` or `close`."""
