"""Both clients with a server that does everything wrong: no reply is ever taken for the reply to another request.

One case is left out, because no client can detect it: a repeated reply that begins after the next request of the same
name was sent. The server forgets such a repetition.
"""

from __future__ import annotations

import asyncio
import unittest
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from discosbackend.client import AsyncClient, Client
from discosbackend.commands import Argument, Command, Field
from discosbackend.errors import NoReply, ReplyMalformed

from .settings import LONG
from .virtual_time import END, RESET, Break, Socket, VirtualLoop, World, blocking_on

GREETING = b"!version,ok,1.4\r\n"
NAMES = ("read", "write")
ROWS = [
    Command(name, (Argument("number", "integer"),), (Field("number", "integer"),), changes=name != "read")
    for name in NAMES
]
TIMEOUT = 10.0

_PIECE = bytes(2**20)
_OTHER = {b"read": b"write", b"write": b"read"}

Script = list[tuple[float, bytes | Break]]


def _pieces(reply: bytes) -> Script:
    return [(0.1, reply[at : at + 1]) for at in range(len(reply))]


def _with_another_name(reply: bytes) -> Script:
    name, comma, rest = reply[1:].partition(b",")
    return [(0, b"!" + _OTHER[name] + comma + rest)]


MANNERS: dict[str, Callable[[bytes], Script]] = {
    "right": lambda reply: [(0, reply)],
    "right too": lambda reply: [(0, reply)],
    "late": lambda reply: [(TIMEOUT / 2, reply)],
    "in pieces": _pieces,
    "LF only": lambda reply: [(0, reply.replace(b"\r", b""))],
    "too late": lambda reply: [(TIMEOUT + 1, reply)],
    "never": lambda reply: [],
    "twice": lambda reply: [(0, reply), (0, reply)],
    "twice later": lambda reply: [(0, reply), (1.0, reply)],
    "twice in halves": lambda reply: [(0, reply + reply[:5]), (1.0, reply[5:])],
    "half": lambda reply: [(0, reply[:5])],
    "half and closed": lambda reply: [(0, reply[:5]), (0, END)],
    "half and reset": lambda reply: [(0, reply[:5]), (0, RESET)],
    "closed": lambda reply: [(0.5, END)],
    "reset": lambda reply: [(0.5, RESET)],
    "answered and closed": lambda reply: [(0, reply), (0, END)],
    "wrong name": _with_another_name,
    "garbage": lambda reply: [(0, b"\0\xff" + reply)],
    "LF inside": lambda reply: [(0, reply[:3] + b"\n" + reply[3:])],
    "a request": lambda reply: [(0, b"?" + reply[1:])],
    "300 MiB": lambda reply: [(0, reply[:-2]), *300 * [(0, _PIECE)], (0, reply)],
}
"""How a request is answered."""

RIGHT = ("right", "right too", "late", "in pieces", "LF only")

GREETINGS = ("right", "right", "right", "late", "never", "twice", "garbage", "closed")
PUSHES: dict[str, bytes | Break] = {
    "reply": b"!read,ok,0\r\n",
    "half a reply": b"!write,ok,",
    "garbage": b"hello\r\n",
    "greeting": GREETING,
    "closed": END,
    "reset": RESET,
}
"""What the server sends without a request."""

outcomes: Counter[str] = Counter()
"""What became of all requests, for the figures."""


class Server:
    """It follows its orders for each request."""

    def __init__(self) -> None:
        self.manners: dict[int, str] = {}
        self.greeting = "right"
        self.received: Counter[int] = Counter()
        self.repetitions: list[tuple[Socket, bytes, tuple[float, bytes | Break]]] = []
        self.disturbed: set[Socket] = set()
        """The connections on which something was sent that no request has caused."""

    def greet(self, peer: Socket) -> None:
        if self.greeting in ("twice", "garbage", "closed"):
            self.disturbed.add(peer)
        match self.greeting:
            case "right":
                peer.deliver(0, GREETING)
            case "late":
                peer.deliver(3.0, GREETING)
            case "twice":
                peer.deliver(0, GREETING + GREETING)
            case "garbage":
                peer.deliver(0, b"SSH-2.0\r\n")
            case "closed":
                peer.deliver(0.1, END)

    def serve(self, peer: Socket, line: bytes) -> None:
        name, _, text = line[1:].partition(b",")
        number = int(text)
        self.received[number] += 1
        for repeated in [each for each in self.repetitions if each[0] is peer and each[1] == name]:
            self.repetitions.remove(repeated)
            if repeated[2] in peer.arriving and repeated[2][0] > peer.world.now:
                peer.arriving.remove(repeated[2])
        manner = self.manners[number]
        for delay, piece in MANNERS[manner](b"!%b,ok,%d\r\n" % (name, number)):
            peer.deliver(delay, piece)
        if manner == "twice later":
            self.repetitions.append((peer, name, peer.arriving[-1]))


class RepliesMachine(RuleBasedStateMachine):
    """A client, whose requests carry a number that the reply has to bring back."""

    reconnect: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.world = World(self.server.serve, self.server.greet)
        self.client: Any = None
        self.number = 0

    # What each client does in its own way.

    def connected(self) -> Any:
        raise NotImplementedError

    def ask(self, name: str, number: int, stop_after: float | None) -> Any:
        """Return the result of a request, its exception, or None if it was interrupted."""
        raise NotImplementedError

    # The rules.

    def order(self, manner: str) -> int:
        self.number += 1
        self.server.manners[self.number] = manner
        return self.number

    def judge(self, name: str, number: int, result: Any) -> None:
        kinds = {type(None): "interrupted", NoReply: "no reply", ReplyMalformed: "malformed"}
        kind = kinds.get(type(result), "reply")
        outcomes[kind] += 1
        if kind == "reply":
            assert result == number, f"{name} {number} got the reply {result}"
        assert self.server.received[number] <= (2 if name == "read" and self.reconnect else 1)

    @rule(
        name=st.sampled_from(NAMES),
        manner=st.sampled_from(list(MANNERS)),
        greeting=st.sampled_from(GREETINGS),
        stop_after=st.sampled_from((None, None, None, 0.0, 0.05, 0.7, 6.0)),
    )
    def request(self, name: str, manner: str, greeting: str, stop_after: float | None) -> None:
        self.server.greeting = greeting
        if not self.have_client():
            return
        number = self.order(manner)
        current = self.world.sockets[-1]
        clean = not current.arriving and not current.closed and current not in self.server.disturbed
        result = self.ask(name, number, stop_after)
        self.judge(name, number, result)
        if clean and manner in RIGHT and stop_after is None and self.is_idle():
            assert result == number, result

    @precondition(lambda self: self.reconnect)
    @rule(name=st.sampled_from(NAMES))
    def recovers(self, name: str) -> None:
        """After all that has happened, a right server is understood."""
        self.server.greeting = "right"
        if not self.have_client():
            return
        current = self.world.sockets[-1]
        if current.arriving and not current.closed:
            # What is under way may still arrive in the middle of the next exchange.
            self.pass_time(TIMEOUT + 2)
        if self.is_idle():
            number = self.order("right")
            result = self.ask(name, number, None)
            self.judge(name, number, result)
            assert result == number, result

    @rule(seconds=st.sampled_from((0.01, 0.6, 2.0, 20.0)))
    def pass_time(self, seconds: float) -> None:
        self.world.now += seconds

    @precondition(lambda self: self.world.sockets)
    @rule(what=st.sampled_from(list(PUSHES)))
    def push(self, what: str) -> None:
        """The server sends something that nobody has asked for."""
        peer = self.world.sockets[-1]
        self.server.disturbed.add(peer)
        peer.deliver(0, PUSHES[what])
        if what == "reply":
            # It arrives behind what is under way, so it may begin after the next request.
            self.server.repetitions.append((peer, b"read", peer.arriving[-1]))

    @rule(
        steps=st.lists(
            st.tuples(st.sampled_from(NAMES), st.sampled_from(list(MANNERS)), st.sampled_from((None, None, *PUSHES))),
            min_size=2,
            max_size=8,
        )
    )
    def in_a_row(self, steps: list[tuple[str, str, str | None]]) -> None:
        """A program sends requests without a pause, and the server sometimes sends something between them."""
        self.server.greeting = "never" if len(steps) % 2 else "right"
        if not self.have_client():
            return
        results = self.ask_in_a_row([(name, self.order(manner), push) for name, manner, push in steps])
        for name, number, result in results:
            self.judge(name, number, result)

    def ask_in_a_row(self, steps: list[tuple[str, int, str | None]]) -> list[tuple[str, int, Any]]:
        """Send each request after what the server pushes. Return the results, up to the loss of the client."""
        raise NotImplementedError

    def have_client(self) -> bool:
        """Make a client if there is none. Return whether there is one."""
        if self.client is None:
            try:
                self.client = self.connected()
            except NoReply:
                outcomes["not connected"] += 1
        return self.client is not None

    def is_idle(self) -> bool:
        """Whether the client waits for no reply to a request that was cancelled."""
        return True

    def teardown(self) -> None:
        assert all(each.closed for each in self.world.sockets[:-1]), "a connection was left open"


class BlockingMachine(RepliesMachine):
    def connected(self) -> Client:
        with blocking_on(self.world):
            return Client("server", 1, timeout=TIMEOUT, reconnect=self.reconnect, commands=ROWS)

    def ask(self, name: str, number: int, stop_after: float | None) -> Any:
        self.world.interrupt_at = None if stop_after is None else self.world.now + stop_after
        try:
            with blocking_on(self.world):
                return self.client.call(name, number)
        except NoReply as problem:
            self.client = self.client if self.reconnect else None
            return problem
        except ReplyMalformed as problem:
            return problem
        except KeyboardInterrupt:
            self.client = self.client if self.reconnect else None
            return None
        finally:
            self.world.interrupt_at = None

    def ask_in_a_row(self, steps: list[tuple[str, int, str | None]]) -> list[tuple[str, int, Any]]:
        found = []
        for name, number, push in steps:
            if self.have_client():
                if push is not None:
                    self.push(push)
                found.append((name, number, self.ask(name, number, None)))
        return found


class AsyncMachine(RepliesMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop(self.world)
        self.cancelled = False
        # What asyncio would only log.
        self.complaints: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))

    def connected(self) -> AsyncClient:
        client = AsyncClient("server", 1, timeout=TIMEOUT, reconnect=self.reconnect, commands=ROWS)
        self.cancelled = False
        self.loop.run_until_complete(client.connect())
        return client

    def ask(self, name: str, number: int, stop_after: float | None) -> Any:
        return self.loop.run_until_complete(self.asked(name, number, stop_after))

    async def asked(self, name: str, number: int, stop_after: float | None) -> Any:
        try:
            # Whoever cancels it: a time limit of the task.
            async with asyncio.timeout(stop_after):
                return await self.client.call(name, number)
        except TimeoutError:
            self.cancelled = True
            return None
        except (NoReply, ReplyMalformed) as problem:
            return problem

    def ask_in_a_row(self, steps: list[tuple[str, int, str | None]]) -> list[tuple[str, int, Any]]:
        async def one_after_another() -> list[tuple[str, int, Any]]:
            found = []
            for name, number, push in steps:
                if push is not None:
                    self.push(push)
                found.append((name, number, await self.asked(name, number, None)))
            return found

        return self.loop.run_until_complete(one_after_another())

    @rule(
        requests=st.lists(
            st.tuples(
                st.sampled_from(NAMES),
                st.sampled_from(list(MANNERS)),
                st.sampled_from((None, None, 0.0, 0.05, 0.7, 6.0)),
            ),
            min_size=2,
            max_size=5,
        )
    )
    def tasks(self, requests: list[tuple[str, str, float | None]]) -> None:
        """Several tasks at once."""
        if not self.have_client():
            return
        numbers = [self.order(manner) for _, manner, _ in requests]

        async def together() -> list[Any]:
            return await asyncio.gather(
                *(self.asked(name, number, stop) for (name, _, stop), number in zip(requests, numbers, strict=True))
            )

        results = self.loop.run_until_complete(together())
        for (name, _, _), number, result in zip(requests, numbers, results, strict=True):
            self.judge(name, number, result)

    def have_client(self) -> bool:
        # As a program does that gets NoReply without `reconnect`.
        if self.client is not None and not self.reconnect and self.world.sockets[-1].closed:
            self.client = None
        return super().have_client()

    def is_idle(self) -> bool:
        return self.reconnect or not self.cancelled

    @rule()
    def turn(self) -> None:
        """The event loop reads what has arrived."""
        self.loop.run_until_complete(asyncio.sleep(0.001))

    def teardown(self) -> None:
        if self.client is not None:
            self.loop.run_until_complete(self.client.close())
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        assert self.complaints == []
        super().teardown()


class RepliesTests(unittest.TestCase):
    def run_machine(self, machine: type[RepliesMachine], *, reconnect: bool) -> None:
        kind = type(machine.__name__, (machine,), {"reconnect": reconnect})
        outcomes.clear()
        run_state_machine_as_test(
            kind,
            settings=settings(
                max_examples=1000 if LONG else 12,
                stateful_step_count=30,
                deadline=None,
                # A failure is shown as it was found: making it smaller may take minutes.
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
        # A few examples, drawn at random: most of them have ten times as many.
        self.assertGreater(outcomes["reply"], 5, outcomes)
        self.assertGreater(outcomes["no reply"], 5, outcomes)
        if LONG:
            self.assertGreater(outcomes["interrupted"], 0, outcomes)

    def test_blocking(self) -> None:
        self.run_machine(BlockingMachine, reconnect=False)

    def test_blocking_reconnecting(self) -> None:
        self.run_machine(BlockingMachine, reconnect=True)

    def test_asyncio(self) -> None:
        self.run_machine(AsyncMachine, reconnect=False)

    def test_asyncio_reconnecting(self) -> None:
        self.run_machine(AsyncMachine, reconnect=True)


if __name__ == "__main__":
    unittest.main()
