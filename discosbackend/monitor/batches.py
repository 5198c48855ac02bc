"""Batches: gathers the records of requests and connections, and gives them to what watches a server together.

A listener that gets a hundred records at once needs a fraction of the time for each of them. A record waits 10 ms at
most. A change waits for nothing: its record, and all records before it, are given before its reply is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from discosbackend.exchanges import ConnectionEvent, Exchange
from discosbackend.grammar import OK
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger

__all__ = ["BatchListener", "Batches", "Record"]

logger = logging.getLogger(__name__)

Record = Exchange | ConnectionEvent

# How long a record waits for others, in s, and how many wait. The listeners handle so many in less than 1 ms.
_GATHER = 0.01
_MOST = 200


class BatchListener(Protocol):
    """What gets the records."""

    def add_records(self, records: Sequence[Record]) -> object:
        """Handle some records, in their order. The list may not be changed."""


class Batches:
    """Append it to the `listeners` of a DBFactory, and what gets the records to its own `listeners`.

    Parameters
    ----------
    reactor
        The reactor.

    Attributes
    ----------
    listeners
        What gets the records.
    """

    def __init__(self, reactor: Any) -> None:
        self.listeners: list[BatchListener] = []
        self._reactor = reactor
        self._records: list[Record] = []
        self._timer: Any = None
        self._limited = RateLimitedLogger(logger, reactor.callLater)

    def __call__(self, record: Record) -> None:
        """Keep a record. Called by DBFactory."""
        records = self._records
        records.append(record)
        if len(records) >= _MOST or (isinstance(record, Exchange) and record.changes and record.code == OK):
            self.flush()
        elif self._timer is None:
            self._timer = self._reactor.callLater(_GATHER, self._end_timer)

    def _end_timer(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Give the records that were kept to the listeners. Call it before you read what the listeners have counted."""
        if not self._records:
            return
        records, self._records = self._records, []
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
