"""The profiles of the soak test's clients: what they send, how they read, and how they disconnect.

A profile is a function that makes one connection and ends it; a client repeats its profile until the time is up.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from benchmarks.checked_connection import CheckedConnection, Wrong, connect
from benchmarks.reply_check import ELAPSED, Discrepancies, Tally
from benchmarks.tagged_requests import TaggedRequest, device, garbage, lengthy, reading

__all__ = ["PROFILES", "Client", "Soak", "clients"]

# Counts of 100 ns after its instant, within which a timed start must be visible in status.
_LATEST = 10_000_000
_STATUS = TaggedRequest(b"?status\r\n", b"!status,ok,*")
_LATENESS = TaggedRequest(b"?lateness\r\n", b"!lateness,ok,*")
_STOP = TaggedRequest(b"?stop\r\n", b"!stop,ok\r\n")


@dataclass(slots=True)
class Soak:
    """The data that all clients share: the end (of time.monotonic()), the address of the server, and the results."""

    until: float
    interrupts: int = 0
    """The number of signals to end early: after the first the clients finish, the second ends them at once."""
    address: tuple[str, int] = ("", 0)
    tallies: dict[str, Tally] = field(default_factory=dict)
    lateness: list[int] = field(default_factory=list)
    """The lateness of each timed start in ns."""
    early: int = 0
    elapsed: int = 0
    """Timed starts that were refused because their time had passed before they were processed."""

    @property
    def over(self) -> bool:
        """Whether the clients must end."""
        return self.interrupts > 0 or time.monotonic() >= self.until

    def tally(self, profile: str) -> Tally:
        """Return the tally of a profile."""
        return self.tallies.setdefault(profile, Tally())


class Client:
    """A client: its profile, its random numbers, and the tags of its requests, which are unique."""

    def __init__(self, soak: Soak, number: int, profile: str, seed: int) -> None:
        self.soak = soak
        self.tally = soak.tally(profile)
        self.rng = Random(f"{seed} {number}")
        self._behave = PROFILES[profile]
        self._tags = (b"%d-%d" % (number, serial) for serial in itertools.count())

    async def run(self) -> None:
        """Repeat the profile until the time is up."""
        while not self.soak.over:
            try:
                await self._behave(self)
            except Wrong:
                # It has been counted; continue with a new connection.
                pass
            except OSError as problem:
                self.tally.add(Discrepancies(lost=[f"a connection was due: {problem!r}"]))
                await asyncio.sleep(1)

    @asynccontextmanager
    async def connection(self, *, tally: Tally | None = None, narrow: bool = False) -> AsyncIterator[CheckedConnection]:
        """Connect and wait for the greeting."""
        tally = self.tally if tally is None else tally
        with await connect(self.soak.address, tally, narrow=narrow) as connection:
            await connection.greeted()
            yield connection

    def turns(self, most: int) -> Iterator[int]:
        """Count to `most`, or until the time is up."""
        return itertools.takewhile(lambda _: not self.soak.over, range(most))

    def requests(self, least: int, most: int, *kinds: Callable[[Random, bytes], TaggedRequest]) -> list[TaggedRequest]:
        """Return from `least` to `most` requests of these kinds."""
        count = self.rng.randint(least, most)
        return [self.rng.choice(kinds)(self.rng, next(self._tags)) for _ in range(count)]

    async def pause(self, longest: float) -> None:
        """Wait for at most `longest` seconds."""
        await asyncio.sleep(self.rng.uniform(0, longest))


# One in ten is a device command.
_MIX = (*9 * (reading,), device)


async def polite(client: Client) -> None:
    """Send one request at a time, none of which waits for other commands."""
    async with client.connection() as connection:
        for _ in client.turns(500):
            await connection.ask(*client.requests(1, 1, reading))
            await client.pause(0.01)
        await connection.finish()


async def pipelining(client: Client) -> None:
    """Send bursts of requests."""
    async with client.connection() as connection:
        for _ in client.turns(100):
            await connection.ask(*client.requests(50, 200, *_MIX))
            await client.pause(0.05)
        await connection.finish()


async def slow_reading(client: Client) -> None:
    """Send so many requests that the replies do not fit into the buffers, and read 400 bytes at a time."""
    async with client.connection(narrow=True) as connection:
        connection.bite, connection.pause = 400, 0.001
        requests: list[TaggedRequest] = []
        for _ in range(client.rng.randint(20, 40)):
            requests += client.requests(100, 100, *9 * (lengthy,), device)
            # Let other clients run: making all requests at once would add to their latencies.
            await asyncio.sleep(0)
        await connection.ask(*requests)
        await connection.finish()


async def garbling(client: Client) -> None:
    """Send invalid lines between valid requests, in several pieces."""
    async with client.connection() as connection:
        for _ in client.turns(20):
            requests = client.requests(1, 40, garbage, garbage, *_MIX)
            await connection.ask(*requests, pieces=client.rng.choice((1, 1, 5, 50)))
            await client.pause(0.02)
        await connection.finish(*client.requests(0, 5, garbage))


async def hanging_up(client: Client) -> None:
    """Disconnect within a line, often with unread replies."""
    async with client.connection() as connection:
        for _ in client.turns(3):
            await connection.ask(*client.requests(1, 10, *_MIX))
        unread = b"".join(request.line for request in client.requests(0, 50, garbage, *_MIX))
        await connection.hang_up(unread + _half(client), reset=client.rng.random() < 0.5)
    await client.pause(0.05)


async def half_closing(client: Client) -> None:
    """Send all requests and an incomplete line, close the sending half, and read the replies until the end."""
    async with client.connection() as connection:
        requests = client.requests(0, 100, garbage, *_MIX)
        await connection.finish(*requests, unfinished=_half(client), pieces=client.rng.choice((1, 10)))
    await client.pause(0.05)


def _half(client: Client) -> bytes:
    (request,) = client.requests(1, 1, *_MIX)
    return request.line[: client.rng.randrange(len(request.line) - 1)]


async def reconnecting(client: Client) -> None:
    """Connect for one request or for none, or disconnect before reading the greeting."""
    kind = client.rng.randrange(5)
    if kind == 0:
        with await connect(client.soak.address, client.tally):
            return
    async with client.connection() as connection:
        requests = client.requests(0, 1, *_MIX)
        if kind < 3:
            await connection.finish(*requests)
        else:
            await connection.ask(*requests)
            await connection.hang_up(b"", reset=kind == 3)
    await client.pause(0.02)


async def napping(client: Client) -> None:
    """Request commands that wait in a thread or in a coroutine; request `status` on a second connection meanwhile."""
    beside = client.soak.tally("status beside a nap")
    async with client.connection() as connection, client.connection(tally=beside) as other:
        for _ in client.turns(50):
            name, longest = client.rng.choice(((b"nap", 0.2), (b"dawdle", 0.02)))
            length = round(client.rng.uniform(0.001, longest), 4)
            request = TaggedRequest(b"?%b,%.4f\r\n" % (name, length), b"!%b,ok\r\n" % name)
            nap = asyncio.create_task(connection.ask(request, takes=length))
            try:
                while not nap.done():
                    await other.ask(_STATUS)
                    await client.pause(0.005)
            finally:
                await nap
        await connection.finish()
        await other.finish()


async def timing(client: Client) -> None:
    """Request timed starts 20 to 80 ms ahead, wait for them with `status`, request their lateness, then stop."""
    async with client.connection() as connection:
        (status,) = await connection.ask(_STATUS)
        if not _idle(status):
            # A connection with a wrong reply may have left an acquisition.
            await connection.ask(_STOP)
        for _ in client.turns(50):
            await _timed_start(client, connection)
        await connection.finish()


async def _timed_start(client: Client, connection: CheckedConnection) -> None:
    instant = time.time_ns() // 100 + client.rng.randrange(200_000, 800_000)
    (reply,) = await connection.ask(TaggedRequest(b"?start,%d\r\n" % instant, b"!start,*"))
    if reply == ELAPSED:
        client.soak.elapsed += 1
        if time.time_ns() // 100 < instant:
            client.tally.add(Discrepancies(misordered=[f"ok was due to a start at {instant}, {reply!r} came too soon"]))
        return
    while _idle(status := (await connection.ask(_STATUS))[0]):
        if time.time_ns() // 100 > instant + _LATEST:
            client.tally.add(Discrepancies(lost=[f"a start at {instant} was due"]))
            raise Wrong
        await client.pause(0.004)
    (late,) = await connection.ask(_LATENESS)
    late_by = int(late.split(b",")[2])
    client.soak.lateness.append(late_by)
    if late_by < 0 or _moment(status) < instant:
        client.soak.early += 1
    await connection.ask(_STOP)


def _idle(status: bytes) -> bool:
    return status.endswith(b",0\r\n")


def _moment(status: bytes) -> int:
    """Return the timestamp of a status in counts of 100 ns."""
    return int(status.split(b",")[2].replace(b".", b""))


PROFILES: dict[str, Callable[[Client], Awaitable[None]]] = {
    "timed starts": timing,
    "napping": napping,
    "polite": polite,
    "pipelining": pipelining,
    "slow reading": slow_reading,
    "garbage": garbling,
    "hanging up": hanging_up,
    "half-closing": half_closing,
    "reconnecting": reconnecting,
}

# One client each, because their commands wait for one another.
_ONCE = ("timed starts", "napping")
_IN_TURN = (
    "polite",
    "pipelining",
    "garbage",
    "half-closing",
    "slow reading",
    "hanging up",
    "reconnecting",
    "polite",
)


def clients(soak: Soak, count: int, seed: int, first: int = 0) -> list[Client]:
    """Return `count` clients, numbered from `first`, with at least one of each profile if `count` permits."""
    profiles = itertools.islice(itertools.chain(_ONCE, itertools.cycle(_IN_TURN)), count)
    return [Client(soak, number, profile, seed) for number, profile in enumerate(profiles, first)]
