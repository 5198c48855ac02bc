"""The records of requests and connections that the listeners of a DBFactory get.

connection.py makes the records. A listener can write a log, a recording or statistics. An Exchange for each request
takes much of the time of a read, so Batches gets Reads instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import perf_counter, time_ns
from typing import Any, NamedTuple, overload

from discosbackend.grammar import OK
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["READ_VALUES", "ConnectionEvent", "Exchange", "ReadValues", "Reads", "exchange_of", "last_index"]


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


ReadValues = tuple[int, str, float, bytes, str, bytes, float]
"""The values of a successful read, in the order of an Exchange: connection, peer, begin, request, name, reply, seconds.

`begin` is a time of perf_counter(). `code` and `changes` are left out, because they are `ok` and False.
"""

READ_VALUES = 7
"""The number of ReadValues."""


class Reads(Sequence[Exchange]):
    """Successful reads, in their order. Most exchanges are successful reads.

    Their values are stored in columns, so that a listener can handle many of them with a few function calls. An
    Exchange is only made when it is taken from the sequence.

    Parameters
    ----------
    columns
        The columns of ReadValues. They have the same length, which is not 0.
    origin
        The UTC time at which perf_counter() was 0, in ticks.
    """

    __slots__ = (
        "connections",
        "peers",
        "begun",
        "requests",
        "names",
        "replies",
        "seconds",
        "origin",
        "_columns",
        "_latest",
    )

    def __init__(self, columns: Sequence[Sequence[Any]], origin: int) -> None:
        self._columns = columns
        self.connections: Sequence[int]
        self.peers: Sequence[str]
        self.begun: Sequence[float]
        self.requests: Sequence[bytes]
        self.names: Sequence[str]
        self.replies: Sequence[bytes]
        self.seconds: Sequence[float]
        self.connections, self.peers, self.begun, self.requests, self.names, self.replies, self.seconds = columns
        self.origin = origin
        self._latest: dict[int, int] = {}

    @classmethod
    def of(cls, values: list[Any]) -> Reads:
        """Return reads. The clock is read now.

        Parameters
        ----------
        values
            The ReadValues of one or more reads, one after the other in one list. It takes less memory than a tuple for
            each read.
        """
        origin = time_ns() // 100 - int(perf_counter() * TICKS_PER_SECOND)
        return cls([values[place::READ_VALUES] for place in range(READ_VALUES)], origin)

    def __len__(self) -> int:
        return len(self.seconds)

    @overload
    def __getitem__(self, index: int) -> Exchange: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Exchange]: ...

    def __getitem__(self, index: int | slice) -> Exchange | Sequence[Exchange]:
        found = [column[index] for column in self._columns]
        if isinstance(index, slice):
            return Reads(found, self.origin) if found[0] else ()
        connection, peer, _, request, name, reply, seconds = found
        return exchange_of((connection, peer, self.begin(index), request, name, reply, OK, False, seconds))

    def __iter__(self) -> Iterator[Exchange]:
        return map(self.__getitem__, range(len(self)))

    @property
    def latest(self) -> Mapping[int, int]:
        """The index of the last read of each connection, by the number of the connection."""
        if not self._latest:
            number = self.connections[0]
            if self.connections.count(number) == len(self):
                self._latest = {number: len(self) - 1}
            else:
                self._latest = dict(zip(self.connections, range(len(self)), strict=True))
        return self._latest

    def last_of(self, name: str) -> Exchange | None:
        """Return the last read of a command; None if there is none."""
        if self.names.count(self.names[0]) == len(self):
            return self[-1] if self.names[0] == name else None
        return self[last_index(self.names, name)] if name in self.names else None

    def begin(self, index: int) -> Ticks:
        """Return the time at which the server began to handle this request."""
        return Ticks(self.origin + int(self.begun[index] * TICKS_PER_SECOND))


def last_index(values: Sequence[Any], wanted: object) -> int:
    """Return the index of the last value that is equal to the wanted one. Raise ValueError if there is none."""
    return len(values) - 1 - values[::-1].index(wanted)


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
