"""Load generators. Each checks that every request got a complete and correct reply.

Inside a measured loop replies are only counted, by their line ends. Their content is checked afterwards, so that the
client takes only a small part of the measured time.
"""

from __future__ import annotations

import gc
import re
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

from benchmarks.servers import NotMeasured
from benchmarks.table import quantile

__all__ = ["STATUS", "Address", "Load", "Request", "alone", "ask", "batches", "check", "connect", "connected"]
__all__ += ["demand", "receive", "together", "undisturbed"]

Address = tuple[str, int]

# Seconds without any reply after which a reply counts as lost.
_PATIENCE = 15.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and a pattern for its reply; both are complete lines without line ends."""

    line: bytes
    reply: re.Pattern[bytes]

    def times(self, count: int) -> bytes:
        """Return the bytes of `count` such requests."""
        return (self.line + b"\r\n") * count


STATUS = Request(b"?status", re.compile(rb"!status,ok,[0-9]{10}\.[0-9]{7},ok,[01]"))


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a load generator: requests per second, and the latency of each batch of replies in seconds."""

    rate: float
    latencies: Sequence[float]

    @property
    def p50(self) -> float:
        """The median of the latencies."""
        return quantile(self.latencies, 0.5)

    @property
    def p99(self) -> float:
        """The latency that one in a hundred exceeds."""
        return quantile(self.latencies, 0.99)


def check(replies: bytes, request: Request, count: int) -> None:
    """Raise NotMeasured unless these are `count` complete replies to that request."""
    *lines, torn = replies.split(b"\r\n")
    for line in lines:
        if not request.reply.fullmatch(line):
            raise NotMeasured(f"{request.line!r} was answered {line[:80]!r}")
    if torn:
        raise NotMeasured(f"a reply to {request.line!r} is torn: {torn[:80]!r}")
    if len(lines) != count:
        raise NotMeasured(f"{count} times {request.line!r} got {len(lines)} replies")


@contextmanager
def connected(address: Address, count: int) -> Iterator[list[socket.socket]]:
    """Make `count` connections, one after the other, and wait for their greetings."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(address)) for _ in range(count)]


def connect(address: Address) -> socket.socket:
    """Connect and wait for the greeting."""
    connection = socket.create_connection(address, _PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        receive(connection, 1)
    except BaseException:
        connection.close()
        raise
    return connection


def receive(connection: socket.socket, count: int) -> bytes:
    """Read at least `count` lines. Raise NotMeasured if they do not arrive."""
    data, missing = b"", count
    while missing > 0:
        try:
            chunk = connection.recv(65536)
        except OSError as problem:
            raise NotMeasured(f"{missing} of {count} replies are lost: {problem}") from None
        if not chunk:
            raise NotMeasured(f"{missing} of {count} replies are lost: the connection was closed")
        missing -= chunk.count(b"\n")
        data = data + chunk if data else chunk
    return data


def ask(connection: socket.socket, line: str) -> str:
    """Send one request and return its reply, both without line ends."""
    connection.sendall(line.encode() + b"\r\n")
    return receive(connection, 1).decode().removesuffix("\r\n")


def demand(connection: socket.socket, line: str) -> None:
    """Send one request, without its line end. Raise NotMeasured unless its reply is `ok`."""
    reply = ask(connection, line)
    if not reply.startswith(f"!{line[1:].partition(',')[0]},ok"):
        raise NotMeasured(f"{line} was answered {reply}")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Disable the garbage collector of this process within the context."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alone(connection: socket.socket, request: Request, rounds: int, depth: int = 1) -> Load:
    """Send `depth` requests at once, wait for all replies, and repeat that for `rounds` rounds, with one client."""
    batch = request.times(depth)
    moments, replies = [], []
    with undisturbed():
        moments.append(perf_counter())
        for _ in range(rounds):
            connection.sendall(batch)
            replies.append(receive(connection, depth))
            moments.append(perf_counter())
    check(b"".join(replies), request, rounds * depth)
    latencies = [after - before for before, after in pairwise(moments)]
    return Load(rounds * depth / (moments[-1] - moments[0]), latencies)


class _Client:
    """One of many clients: how many replies it waits for, and since when."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.missing = 0
        self.sent_at = 0.0
        self.replies: list[bytes] = []


def batches(
    connections: Sequence[socket.socket], batch: bytes, depth: int, total: int
) -> Iterator[tuple[float, bytes]]:
    """Run many clients; each sends its next batch of `depth` lines when it has all replies to the previous one.

    Yield the latency of each batch in seconds and its unchecked replies; end after `total` batches. Raise NotMeasured
    if no reply arrives.
    """
    clients = {connection.fileno(): _Client(connection) for connection in connections}
    poll = select.poll()
    unsent = total
    for number, client in clients.items():
        poll.register(number, select.POLLIN)
        if unsent:
            unsent -= 1
            client.sent_at, client.missing = perf_counter(), depth
            client.connection.sendall(batch)
    answered = 0
    while answered < total:
        ready = poll.poll(_PATIENCE * 1000)
        if not ready:
            raise NotMeasured(f"{total - answered} of {total} batches are not answered")
        for number, _ in ready:
            client = clients[number]
            # This does not block, because the socket is ready.
            chunk = client.connection.recv(65536)
            if not chunk:
                raise NotMeasured(f"a connection was closed, with {client.missing} replies missing")
            client.missing -= chunk.count(b"\n")
            client.replies.append(chunk)
            if client.missing <= 0:
                now = perf_counter()
                answered += 1
                yield now - client.sent_at, b"".join(client.replies)
                client.replies.clear()
                if unsent:
                    unsent -= 1
                    client.sent_at, client.missing = perf_counter(), depth
                    client.connection.sendall(batch)


def together(connections: Sequence[socket.socket], request: Request, rounds: int, depth: int = 1) -> Load:
    """Run many clients as in batches(), with `rounds` batches each on average."""
    total = rounds * len(connections)
    latencies, replies = [], []
    with undisturbed():
        began = perf_counter()
        for latency, data in batches(connections, request.times(depth), depth, total):
            latencies.append(latency)
            replies.append(data)
        took = perf_counter() - began
    check(b"".join(replies), request, total * depth)
    return Load(total * depth / took, latencies)
