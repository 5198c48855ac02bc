"""Counters: a listener that counts requests, failures, latencies, connections and bytes.

Append it to the `listeners` of Batches, or to those of a DBFactory. The reactor calls it, so it only adds integers and
keeps references. Its memory is bounded by the number of commands and of open connections.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from operator import itemgetter

from discosbackend.commands import COMMANDS
from discosbackend.exchanges import ConnectionEvent, Exchange, Reads, last_index
from discosbackend.grammar import OK
from discosbackend.ticks import Ticks

__all__ = ["BOUNDS", "HISTORY", "UNKNOWN", "ClientCounts", "CommandCounts", "Counters"]

BOUNDS = (
    5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 100.0,
)  # fmt: skip
"""The upper bounds of the buckets of latencies, in s. One more bucket has all that took longer."""

HISTORY = 60
"""The length of the history of a command, in s."""

UNKNOWN = "(unknown)"
"""Stands for all names that are no commands, because clients can invent any number of them."""

_STATUS = b"?status"
_LONGEST_NAME = 40

# The counts of the last seconds are in a ring. It is longer than the history, which leaves out the current second.
_RING = HISTORY + 4


class CommandCounts:
    """The counts of one command."""

    __slots__ = ("ok", "fail", "invalid", "other", "seconds", "slowest", "buckets", "second", "_marks")

    def __init__(self) -> None:
        self.ok = 0
        self.fail = 0
        self.invalid = 0
        # Replies with another code, and requests without a reply: a tap may see them.
        self.other = 0
        # The sum of the latencies, and the largest one, in s.
        self.seconds = 0.0
        self.slowest = 0.0
        self.buckets = [0] * (len(BOUNDS) + 1)
        # The second of the monotonic clock that was counted last, and the number of requests before each of the last
        # seconds.
        self.second = 0
        self._marks = [0] * _RING

    @property
    def requests(self) -> int:
        """The number of requests."""
        return self.ok + self.fail + self.invalid + self.other

    def percentile(self, share: float) -> float | None:
        """Return the latency that this share of the requests did not exceed, in s. None if there are no requests.

        It is estimated by linear interpolation in its bucket, and not larger than the largest latency.
        """
        wanted = share * sum(self.buckets)
        below = 0
        for number, count in enumerate(self.buckets[:-1]):
            if count and below + count >= wanted:
                low = BOUNDS[number - 1] if number else 0.0
                return min(low + (BOUNDS[number] - low) * (wanted - below) / count, self.slowest)
            below += count
        return self.slowest if wanted else None

    def add_reads(self, seconds: Sequence[float]) -> None:
        """Count successful requests with these latencies, in s."""
        self.ok += len(seconds)
        self.seconds += sum(seconds)
        slowest = max(seconds)
        self.slowest = max(self.slowest, slowest)
        last = bisect_left(BOUNDS, slowest)
        counted = 0
        if last:
            ordered = sorted(seconds)
            for number in range(bisect_left(BOUNDS, ordered[0]), last):
                within = bisect_right(ordered, BOUNDS[number])
                self.buckets[number] += within - counted
                counted = within
        self.buckets[last] += len(seconds) - counted

    def advance(self, second: int) -> None:
        """Begin this second of the monotonic clock: store the number of requests before it."""
        requests = self.requests
        for passed in range(max(self.second, second - _RING) + 1, second + 1):
            self._marks[passed % _RING] = requests
        self.second = second

    def history(self, second: int) -> list[int]:
        """Return the requests in each of the seconds before this one, the oldest first."""
        if second != self.second:
            self.advance(second)
        marks = [self._marks[each % _RING] for each in range(second - HISTORY, second + 1)]
        return [after - before for before, after in pairwise(marks)]


class ClientCounts:
    """The counts of one open connection."""

    __slots__ = ("peer", "since", "requests", "failures", "bytes_in", "bytes_out", "last")

    def __init__(self, peer: str, since: float) -> None:
        self.peer = peer
        # In Unix seconds.
        self.since = since
        self.requests = 0
        self.failures = 0
        self.bytes_in = 0
        self.bytes_out = 0
        # The name, the code and the time of the last request.
        self.last: tuple[str, str, Ticks] | None = None


class Counters:
    """Counts what the clients of a server do.

    Parameters
    ----------
    names
        The names of the commands. All other names are counted as one, UNKNOWN. Default: the commands of the protocol.
    monotonic
        Returns the time of a monotonic clock, in s.

    Attributes
    ----------
    commands
        The counts by the names of the commands, in the order of their first request.
    open, total
        The number of open connections, and of all since the start.
    status
        The last exchange of `status` without arguments.
    """

    def __init__(self, names: Container[str] = COMMANDS, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._names = names
        self._monotonic = monotonic
        self.commands: dict[str, CommandCounts] = {}
        self.open = 0
        self.total = 0
        self.status: Exchange | None = None
        # The open connections by their numbers. The one that was heard last is the last one.
        self._clients: dict[int, ClientCounts] = {}
        # Counts what belongs to no open connection.
        self._gone = ClientCounts("", 0.0)
        self._latest = 0

    def __call__(self, event: Exchange | ConnectionEvent) -> None:
        """Count an exchange, or the opening or closing of a connection."""
        self.add_records((event,))

    def add_records(self, records: Sequence[Exchange | ConnectionEvent]) -> None:
        """Count exchanges, and connections that open or close, in their order."""
        if isinstance(records, Reads):
            self._add_reads(records)
            return
        second = int(self._monotonic())
        # The client and the command of the exchange before, because the next one is often of the same.
        last_number, client = 0, self._gone
        last_name, counts = "", None
        for event in records:
            if not isinstance(event, Exchange):
                self._connection(event)
                last_number, client = 0, self._gone
                continue
            number, _, begin, request, name, reply, code, _, seconds = event
            if reply is None and not name:
                # Not a request.
                self._clients.get(number, self._gone).bytes_in += len(request) + 2
                continue
            if number != last_number:
                last_number, client = number, self._heard(number)
            client.bytes_in += len(request) + 2
            if reply is not None:
                client.bytes_out += len(reply) + 2
            if counts is None or name != last_name:
                last_name, counts = name, self._counts(name, second)
            counts.seconds += seconds
            if seconds > counts.slowest:  # noqa: PLR1730  # max() is slower
                counts.slowest = seconds
            counts.buckets[bisect_left(BOUNDS, seconds)] += 1
            client.requests += 1
            if code == "ok":
                counts.ok += 1
            else:
                client.failures += 1
                if code == "fail":
                    counts.fail += 1
                elif code == "invalid":
                    counts.invalid += 1
                else:
                    counts.other += 1
                # A peer may send long ones, which must not be kept for each of its connections.
                name, code = name[:_LONGEST_NAME], code[:_LONGEST_NAME]
            client.last = (name, code, begin)
            # With arguments it is a mistake of its client: its reply says nothing about the instrument.
            if request == _STATUS:
                self.status = event

    def _add_reads(self, reads: Reads) -> None:
        """Count reads: with few function calls for all of them, not for each."""
        second = int(self._monotonic())
        names, seconds = reads.names, reads.seconds
        if names.count(names[0]) == len(names):
            self._counts(names[0], second).add_reads(seconds)
        else:
            by_name: defaultdict[str, list[float]] = defaultdict(list)
            for name, each in zip(names, seconds, strict=True):
                by_name[name].append(each)
            for name, some in by_name.items():
                self._counts(name, second).add_reads(some)
        latest = reads.latest
        requests: Mapping[int, int] = {reads.connections[0]: len(names)}
        if len(latest) > 1:
            requests = Counter(reads.connections)
        bytes_in = _bytes_of_each(reads.connections, requests, reads.requests)
        bytes_out = _bytes_of_each(reads.connections, requests, reads.replies)
        for number, index in sorted(latest.items(), key=itemgetter(1)):
            client = self._heard(number)
            client.requests += requests[number]
            client.bytes_in += bytes_in[number]
            client.bytes_out += bytes_out[number]
            client.last = (names[index], OK, reads.begin(index))
        if _STATUS in reads.requests:
            self.status = reads[last_index(reads.requests, _STATUS)]

    def _heard(self, number: int) -> ClientCounts:
        """Return the counts of a connection that has sent a request, and make it the last one."""
        client = self._clients.get(number)
        if client is None:
            return self._gone
        if number != self._latest:
            self._latest = number
            self._clients[number] = self._clients.pop(number)
        return client

    def _counts(self, name: str, second: int) -> CommandCounts:
        """Return the counts of a command in this second, or those of all unknown ones."""
        counts = self.commands.get(name)
        if counts is None:
            if name not in self._names:
                name = UNKNOWN
            counts = self.commands.get(name)
            if counts is None:
                counts = self.commands[name] = CommandCounts()
        if second != counts.second:
            counts.advance(second)
        return counts

    def _connection(self, event: ConnectionEvent) -> None:
        if event.event == "open":
            self.open += 1
            self.total += 1
            self._clients[event.connection] = ClientCounts(event.peer, event.time.unix)
            self._latest = event.connection
        elif (client := self._clients.pop(event.connection, None)) is not None:
            # A connection that was open before this listener was added is not counted.
            self.open -= 1
            self._gone.bytes_in += client.bytes_in
            self._gone.bytes_out += client.bytes_out

    @property
    def bytes_in(self) -> int:
        """The bytes of all requests, with their line ends."""
        return self._gone.bytes_in + sum(client.bytes_in for client in self._clients.values())

    @property
    def bytes_out(self) -> int:
        """The bytes of all replies, with their line ends."""
        return self._gone.bytes_out + sum(client.bytes_out for client in self._clients.values())

    def clients(self, most: int) -> Iterator[tuple[int, ClientCounts]]:
        """Return up to `most` open connections, those that were active last, with their numbers."""
        return islice(((number, self._clients[number]) for number in reversed(self._clients)), most)

    @property
    def second(self) -> int:
        """The current second of the monotonic clock, for CommandCounts.history()."""
        return int(self._monotonic())


def _bytes_of_each(
    connections: Sequence[int], requests: Mapping[int, int], texts: Sequence[bytes]
) -> Mapping[int, int]:
    """Return the bytes of the texts of each connection, with their line ends.

    Parameters
    ----------
    connections
        The connection of each text.
    requests
        The number of texts of each connection.
    texts
        The requests, or the replies, without their line ends.
    """
    if len(requests) == 1:
        return {connections[0]: sum(map(len, texts)) + 2 * len(texts)}
    lengths = set(map(len, texts))
    if len(lengths) == 1:
        # Most clients send the same request.
        length = lengths.pop() + 2
        return {number: count * length for number, count in requests.items()}
    found = dict.fromkeys(requests, 0)
    for number, text in zip(connections, texts, strict=True):
        found[number] += len(text) + 2
    return found
