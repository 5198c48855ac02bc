"""The manners of the soaking clients: what each of them asks, how it reads, how it leaves.

A manner is one connection from its beginning to its end; a client repeats its own until time is up.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from benchmarks.conversation import Conversation, Wrong, connect
from benchmarks.questions import Question, device, garbage, lengthy, reading
from benchmarks.verdict import ELAPSED, Tally, Verdict

__all__ = ["MANNERS", "Client", "Soak", "clients"]

# Counts of 100 ns after which a start that came due must be seen.
_LATEST = 10_000_000
_STATUS = Question(b"?status\r\n", b"!status,ok,*")
_LATENESS = Question(b"?lateness\r\n", b"!lateness,ok,*")
_STOP = Question(b"?stop\r\n", b"!stop,ok\r\n")


@dataclass(slots=True)
class Soak:
    """What all clients share: when to end (time.monotonic()), where the server is, and what was found."""

    until: float
    interrupts: int = 0
    """Signals to end before that: the first lets the clients finish, the second does not."""
    address: tuple[str, int] = ("", 0)
    tallies: dict[str, Tally] = field(default_factory=dict)
    lateness: list[int] = field(default_factory=list)
    """By how many ns each timed start was late."""
    early: int = 0
    elapsed: int = 0
    """Timed starts that were refused because their time had elapsed before their turn came."""

    @property
    def over(self) -> bool:
        """Whether it is time to end."""
        return self.interrupts > 0 or time.monotonic() >= self.until

    def tally(self, manner: str) -> Tally:
        """What was counted for a manner."""
        return self.tallies.setdefault(manner, Tally())


class Client:
    """One client: its manner, its dice, and the tags of its questions, which nobody else uses."""

    def __init__(self, soak: Soak, number: int, manner: str, seed: int) -> None:
        self.soak = soak
        self.tally = soak.tally(manner)
        self.rng = Random(f"{seed} {number}")
        self._behave = MANNERS[manner]
        self._tags = (b"%d-%d" % (number, serial) for serial in itertools.count())

    async def run(self) -> None:
        """Behave in this manner until time is up."""
        while not self.soak.over:
            try:
                await self._behave(self)
            except Wrong:
                # That is counted; a new connection starts afresh.
                pass
            except OSError as problem:
                self.tally.add(Verdict(lost=[f"a connection was due: {problem!r}"]))
                await asyncio.sleep(1)

    @asynccontextmanager
    async def connection(self, *, tally: Tally | None = None, narrow: bool = False) -> AsyncIterator[Conversation]:
        """A connection that has been greeted."""
        tally = self.tally if tally is None else tally
        with await connect(self.soak.address, tally, narrow=narrow) as conversation:
            await conversation.greeted()
            yield conversation

    def turns(self, most: int) -> Iterator[int]:
        """Count to `most`, or until time is up."""
        return itertools.takewhile(lambda _: not self.soak.over, range(most))

    def questions(self, least: int, most: int, *kinds: Callable[[Random, bytes], Question]) -> list[Question]:
        """From `least` to `most` questions of these kinds."""
        count = self.rng.randint(least, most)
        return [self.rng.choice(kinds)(self.rng, next(self._tags)) for _ in range(count)]

    async def pause(self, longest: float) -> None:
        """Do nothing for up to so many seconds."""
        await asyncio.sleep(self.rng.uniform(0, longest))


# One in ten waits for the device.
_MIX = (*9 * (reading,), device)


async def polite(me: Client) -> None:
    """One request at a time, of those that wait for nobody."""
    async with me.connection() as conversation:
        for _ in me.turns(500):
            await conversation.ask(*me.questions(1, 1, reading))
            await me.pause(0.01)
        await conversation.finish()


async def pipelining(me: Client) -> None:
    """Bursts of requests."""
    async with me.connection() as conversation:
        for _ in me.turns(100):
            await conversation.ask(*me.questions(50, 200, *_MIX))
            await me.pause(0.05)
        await conversation.finish()


async def slow_reading(me: Client) -> None:
    """More requests than all buffers hold replies, which are read in bites of 400 bytes."""
    async with me.connection(narrow=True) as conversation:
        conversation.bite, conversation.pause = 400, 0.001
        questions: list[Question] = []
        for _ in range(me.rng.randint(20, 40)):
            questions += me.questions(100, 100, *9 * (lengthy,), device)
            # So much at once would show as the latency of the other clients.
            await asyncio.sleep(0)
        await conversation.ask(*questions)
        await conversation.finish()


async def garbling(me: Client) -> None:
    """Garbage between good requests, torn to pieces."""
    async with me.connection() as conversation:
        for _ in me.turns(20):
            questions = me.questions(1, 40, garbage, garbage, *_MIX)
            await conversation.ask(*questions, pieces=me.rng.choice((1, 1, 5, 50)))
            await me.pause(0.02)
        await conversation.finish(*me.questions(0, 5, garbage))


async def hanging_up(me: Client) -> None:
    """Gone in mid-line, often with replies unread."""
    async with me.connection() as conversation:
        for _ in me.turns(3):
            await conversation.ask(*me.questions(1, 10, *_MIX))
        unread = b"".join(question.line for question in me.questions(0, 50, garbage, *_MIX))
        await conversation.hang_up(unread + _half(me), reset=me.rng.random() < 0.5)
    await me.pause(0.05)


async def half_closing(me: Client) -> None:
    """Everything at once, half a line behind it, the sending half closed, then the replies until the end."""
    async with me.connection() as conversation:
        questions = me.questions(0, 100, garbage, *_MIX)
        await conversation.finish(*questions, unfinished=_half(me), pieces=me.rng.choice((1, 10)))
    await me.pause(0.05)


def _half(me: Client) -> bytes:
    (question,) = me.questions(1, 1, *_MIX)
    return question.line[: me.rng.randrange(len(question.line) - 1)]


async def reconnecting(me: Client) -> None:
    """A connection for one request, or for none, or closed before the greeting is read."""
    kind = me.rng.randrange(5)
    if kind == 0:
        with await connect(me.soak.address, me.tally):
            return
    async with me.connection() as conversation:
        questions = me.questions(0, 1, *_MIX)
        if kind < 3:
            await conversation.finish(*questions)
        else:
            await conversation.ask(*questions)
            await conversation.hang_up(b"", reset=kind == 3)
    await me.pause(0.02)


async def napping(me: Client) -> None:
    """Naps in a thread and dawdles in a coroutine; another connection asks for `status` meanwhile."""
    beside = me.soak.tally("status beside a nap")
    async with me.connection() as conversation, me.connection(tally=beside) as other:
        for _ in me.turns(50):
            name, longest = me.rng.choice(((b"nap", 0.2), (b"dawdle", 0.02)))
            length = round(me.rng.uniform(0.001, longest), 4)
            question = Question(b"?%b,%.4f\r\n" % (name, length), b"!%b,ok\r\n" % name)
            nap = asyncio.create_task(conversation.ask(question, takes=length))
            try:
                while not nap.done():
                    await other.ask(_STATUS)
                    await me.pause(0.005)
            finally:
                await nap
        await conversation.finish()
        await other.finish()


async def timing(me: Client) -> None:
    """Starts for 20 to 80 ms ahead, watched by `status`; how late each was; a stop."""
    async with me.connection() as conversation:
        (status,) = await conversation.ask(_STATUS)
        if not _idle(status):
            # Left over from a connection on which something was wrong.
            await conversation.ask(_STOP)
        for _ in me.turns(50):
            await _timed_start(me, conversation)
        await conversation.finish()


async def _timed_start(me: Client, conversation: Conversation) -> None:
    instant = time.time_ns() // 100 + me.rng.randrange(200_000, 800_000)
    (reply,) = await conversation.ask(Question(b"?start,%d\r\n" % instant, b"!start,*"))
    if reply == ELAPSED:
        me.soak.elapsed += 1
        if time.time_ns() // 100 < instant:
            me.tally.add(Verdict(misordered=[f"ok was due to a start at {instant}, {reply!r} came too soon"]))
        return
    while _idle(status := (await conversation.ask(_STATUS))[0]):
        if time.time_ns() // 100 > instant + _LATEST:
            me.tally.add(Verdict(lost=[f"a start at {instant} was due"]))
            raise Wrong
        await me.pause(0.004)
    (late,) = await conversation.ask(_LATENESS)
    late_by = int(late.split(b",")[2])
    me.soak.lateness.append(late_by)
    if late_by < 0 or _moment(status) < instant:
        me.soak.early += 1
    await conversation.ask(_STOP)


def _idle(status: bytes) -> bool:
    return status.endswith(b",0\r\n")


def _moment(status: bytes) -> int:
    """When a status was told, in counts of 100 ns."""
    return int(status.split(b",")[2].replace(b".", b""))


MANNERS: dict[str, Callable[[Client], Awaitable[None]]] = {
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

# One each, because device commands and naps wait for one another.
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
    """So many clients, numbered from `first`, at least one of each manner if there are as many as that."""
    manners = itertools.islice(itertools.chain(_ONCE, itertools.cycle(_IN_TURN)), count)
    return [Client(soak, number, manner, seed) for number, manner in enumerate(manners, first)]
