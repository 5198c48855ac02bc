"""Batches: gathers the records of requests and connections, and gives them to what watches a server together.

A listener that gets a hundred records at once needs a fraction of the time for each of them. A record waits 50 ms at
most. A change waits for nothing: its record, and all records before it, are given before its reply is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from discosbackend.exchanges import READ_VALUES, ConnectionEvent, Exchange, Reads, ReadValues
from discosbackend.grammar import OK
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger

__all__ = ["BatchListener", "Batches", "Record", "Watched"]

logger = logging.getLogger(__name__)

Record = Exchange | ConnectionEvent

# How long a record waits for others, in s. It is long if there are few reads, because a timer that expires costs a
# server that waits for its clients about as much as a request.
_SHORTEST, _LONGEST = 0.003, 0.05
# How many reads are wanted in this time. They are given at once, which takes 0.2 to 0.5 ms.
_WANTED = 450
# How many records are given at once, and how many reads, which take less time each. If more reads were kept, the
# reactor serves its sockets and timers after each part.
_MOST = 200
_MOST_READS = 500
# Fewer reads than this between two other records are given as Exchanges, in one list with these records.
_FEW = 20


class BatchListener(Protocol):
    """What gets the records."""

    def add_records(self, records: Sequence[Record]) -> object:
        """Handle some records, in their order: Reads, or a list, which may not be changed."""


class Watched(Protocol):
    """What Batches uses of a DBFactory."""

    listeners: list[Callable[[Any], object]]
    keep_read: Callable[[ReadValues], object]

    def notify_read(self, values: ReadValues) -> None:
        """Call the listeners with an Exchange."""


class Batches:
    """Gets the records of a DBFactory, and gives them to its own `listeners`.

    Call listen_to(), or append it to the `listeners` of the factory, which takes more time for each read.

    Parameters
    ----------
    timers
        Timers, or the reactor.

    Attributes
    ----------
    listeners
        What gets the records.
    """

    def __init__(self, timers: Any) -> None:
        self.timers = timers
        self.listeners: list[BatchListener] = []
        self._watched: Watched | None = None
        # What is kept. The reads are later than the other records. Their values are in one list, see Reads.of().
        self._records: list[Record] = []
        self._reads: list[Any] = []
        self._timer: Any = None
        # How long the next records wait, in s.
        self._gather = _SHORTEST
        self._limited = RateLimitedLogger(logger, timers.callLater)

    def listen_to(self, watched: Watched) -> None:
        """Listen to a factory. If it has no other listener, a read only costs a call of list.extend().

        A listener that is added to the factory later gets the successful reads from the next batch on.
        """
        self._watched = watched
        watched.listeners.append(self)
        watched.keep_read = self._keep_first_read

    def _keep_first_read(self, values: ReadValues) -> None:
        """Keep a read, and have the next ones added to the same list."""
        assert self._watched is not None
        if self._watched.listeners == [self]:
            self._reads.extend(values)
            self._watched.keep_read = self._reads.extend
            self._start_timer()
        else:
            self._watched.notify_read(values)

    def __call__(self, record: Record) -> None:
        """Keep a record. Called by DBFactory."""
        self._join_reads()
        if self._reads:
            self.flush()
        records = self._records
        records.append(record)
        if len(records) >= _MOST or (isinstance(record, Exchange) and record.changes and record.code == OK):
            self.flush()
        else:
            self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.timers.callLater(self._gather, self._end_timer)

    def _end_timer(self) -> None:
        """Give the records, and choose how long the next ones wait."""
        # Only twice as long, because very many may follow a few.
        found = len(self._records) + len(self._reads) // READ_VALUES
        wanted = self._gather * min(_WANTED / (found + 1), 2)
        self._gather = min(max(wanted, _SHORTEST), _LONGEST)
        self._give_in_parts()

    def _give_in_parts(self) -> None:
        """Give the records. If many reads were kept, the reactor serves its sockets and timers after each part."""
        self._timer = None
        most = _MOST_READS * READ_VALUES
        if len(self._reads) <= most:
            self.flush()
            return
        self._give_records()
        reads = self._reads[:most]
        # The factory adds to this list.
        del self._reads[:most]
        self._give(Reads.of(reads))
        self._timer = self.timers.callLater(0, self._give_in_parts)

    def flush(self) -> None:
        """Give the records that were kept to the listeners. Call it before you read what the listeners have counted."""
        if self._records:
            self._join_reads()
            self._give_records()
        if self._reads:
            reads, step = self._take_reads(), _MOST_READS * READ_VALUES
            for begin in range(0, len(reads), step):
                self._give(Reads.of(reads[begin : begin + step]))

    def _give_records(self) -> None:
        if self._records:
            records, self._records = self._records, []
            self._give(records)

    def _join_reads(self) -> None:
        """Make Exchanges of the reads if they are few, and keep them with the other records."""
        if 0 < len(self._reads) <= _FEW * READ_VALUES:
            self._records.extend(Reads.of(self._take_reads()))

    def _take_reads(self) -> list[Any]:
        """Return the values of the reads that were kept, and keep none."""
        reads, self._reads = self._reads, []
        if self._watched is not None:
            self._watched.keep_read = self._keep_first_read
        return reads

    def _give(self, records: Sequence[Record]) -> None:
        for listener in tuple(self.listeners):
            try:
                listener.add_records(records)
            except BaseException:  # noqa: BLE001  # what watches the server must not disturb it
                text = "a listener failed: %r"
                self._limited.log(logging.ERROR, "listener", text, listener, exc_info=True, window=MINUTE)

    def close(self) -> None:
        """Give the listeners the last records."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()
        self._limited.sum_up()
