"""What both clients add to requests: time limits of one call, waiting for a state, own commands, the address."""

from __future__ import annotations

import asyncio
import inspect
import os
import unittest
from collections.abc import Awaitable, Callable
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from discosbackend import Backend, command
from discosbackend.client import AsyncClient, Client, host_and_port
from discosbackend.client.methods import CommandMethods
from discosbackend.commands import COMMANDS, Argument, Command, Field
from discosbackend.errors import NoReply, ReplyMalformed, RequestFailed, WaitTimeout
from discosbackend.grammar import Message, parse_message
from discosbackend.ticks import Ticks

from .virtual_time import END, Socket, VirtualLoop, World, blocking_on

GREETING = b"!version,ok,1.4\r\n"

SWEEP = Command(
    "vna-sweep",
    (
        Argument("power", "float", "dBm", maximum=0),
        Argument("mode", "text", optional=True, choices=("fast", "slow"), default="slow"),
        Argument("start-at", "timestamp", optional=True),
    ),
    (Field("resonators", "integer"), Field("levels", "float", repeated=True)),
    timeout=200.0,
)


class Mode(Enum):
    FAST = "fast"
    SLOW = "slow"


class Mine(Backend):
    @command("tune")
    def tune(self, mode: Mode, gain: Literal[1, 2] = 1, path: Path | None = None) -> None:
        """Never called."""


class Answered(Client):
    """A client without a connection: every request gets the same reply."""

    def __init__(self, reply: str, commands: Any = (SWEEP,)) -> None:  # there is no server
        from discosbackend.client.methods import rows_of

        self._rows = rows_of(commands)
        self.reply = reply
        self.sent: list[str] = []

    def exchange(self, request: Message) -> Message:
        self.sent.append(str(request))
        return parse_message(f"!{request.name},{self.reply}")


class CallTests(unittest.TestCase):
    def test_what_is_sent(self) -> None:
        for values, named, sent in (
            ((-10,), {}, "?vna-sweep,-10"),
            ((), {"power": -10.5}, "?vna-sweep,-10.5"),
            ((-10.5, "fast"), {}, "?vna-sweep,-10.5,fast"),
            ((), {"mode": Mode.FAST, "power": 0}, "?vna-sweep,0,fast"),
            ((0,), {"start_at": Ticks(17954194859619467)}, "?vna-sweep,0,slow,17954194859619467"),
        ):
            with self.subTest(sent):
                client = Answered("ok,3,1.5,2.5")
                client.call("vna-sweep", *values, **named)
                self.assertEqual(client.sent, [sent])

    def test_what_is_returned(self) -> None:
        result = Answered("ok,3,1.5,2.5").call("vna-sweep", -1)
        self.assertEqual((result, result.resonators, result.levels), ((3, [1.5, 2.5]), 3, [1.5, 2.5]))
        self.assertEqual(type(result).__name__, "VnaSweep")
        for name, reply, result in (
            ("stop", "ok", None),
            ("get-integration", "ok,40", 40),
            ("get-tpi", "ok,1.5", [1.5]),
            ("status", "ok,1.0000000,ok,1", (Ticks(10**7), "ok", True)),
        ):
            self.assertEqual(Answered(reply).call(name), result)
        with self.assertRaisesRegex(ReplyMalformed, "resonators 'many', not an integer"):
            Answered("ok,many,1").call("vna-sweep", -1)
        with self.assertRaisesRegex(RequestFailed, "^no$"):
            Answered("fail,no").call("vna-sweep", -1)

    def test_what_is_refused_before_it_is_sent(self) -> None:
        attempts: list[tuple[type[Exception], str, str, tuple[Any, ...], dict[str, Any]]] = [
            (ValueError, "does not know 'vna-swep'.*: did you mean vna-sweep", "vna-swep", (), {}),
            (ValueError, "vna-sweep: wrong power '1': must be .* not above 0", "vna-sweep", (1,), {}),
            (ValueError, "wrong mode 'odd'", "vna-sweep", (-1, "odd"), {}),
            (TypeError, "needs at least 1 argument", "vna-sweep", (), {}),
            (TypeError, "the argument 'power' is missing", "vna-sweep", (), {"mode": "fast"}),
            (TypeError, "has no argument 'powr': did you mean power", "vna-sweep", (), {"powr": 1}),
            (TypeError, "'power' is given twice", "vna-sweep", (-1,), {"power": -1}),
            (TypeError, "has 3 arguments, but 4", "vna-sweep", (-1, "fast", 1.0, 1), {}),
            (TypeError, "power must be a finite decimal number, not '-1'", "vna-sweep", ("-1",), {}),
            (TypeError, "power must be", "vna-sweep", (True,), {}),
            (ValueError, "get-tpi needs 0 or 2 arguments", "get-tpi", (1.0,), {}),
        ]
        for kind, text, name, values, named in attempts:
            with self.subTest(text):
                client = Answered("ok,3,1.5")
                with self.assertRaisesRegex(kind, text):
                    client.call(name, *values, **named)
                self.assertEqual(client.sent, [])

    def test_the_commands_of_a_class(self) -> None:
        client = Answered("ok", Mine)
        client.call("tune", Mode.SLOW, gain=2, path="/a,b")
        self.assertEqual(client.sent, [r"?tune,slow,2,/a\,b"])
        with self.assertRaisesRegex(TypeError, "'vna-sweep' is no Command"):
            Client(port=1, commands=["vna-sweep"])  # type: ignore[list-item]

    def test_its_time_limit(self) -> None:
        self.assertEqual(Answered("ok").reply_wait("vna-sweep"), 240.0)


class DeclarationTests(unittest.TestCase):
    """The methods of both clients are declared once."""

    def test_both_have_them(self) -> None:
        for row in COMMANDS.values():
            methods = {getattr(kind, row.method) for kind in (CommandMethods, Client, AsyncClient)}
            self.assertEqual(len(methods), 1, row.name)

    def test_what_help_shows(self) -> None:
        for kind in (Client, AsyncClient):
            self.assertIn("(self, frequency: 'float' = 0.0", str(inspect.signature(kind.get_tpi)))
            self.assertEqual(inspect.signature(kind.get_tpi).return_annotation, "list[float]")
            self.assertIn("total power of each input", kind.get_tpi.__doc__ or "")


class BothTests(unittest.TestCase):
    """Each test with both clients, on virtual time."""

    def setUp(self) -> None:
        self.received: list[bytes] = []
        self.replies: Callable[[Socket, bytes], None] = lambda peer, line: None
        self.world = World(self.serve, lambda peer: peer.deliver(0, GREETING))

    def serve(self, peer: Socket, line: bytes) -> None:
        self.received.append(line)
        self.replies(peer, line)

    def both(self, script: Callable[[Any], Awaitable[None]], **options: Any) -> None:
        """Run a script with each client. A method of the blocking client is made awaitable."""
        for kind in (Client, AsyncClient):
            with self.subTest(kind.__name__):
                self.received.clear()
                if kind is Client:
                    with blocking_on(self.world), Client("server", 1, **options) as client:
                        with self.assertRaises(StopIteration):
                            script(Awaiting(client)).__await__().__next__()
                else:
                    with closing(VirtualLoop(self.world)) as loop:
                        loop.run_until_complete(self.with_async_client(script, options))
                self.assertTrue(all(peer.closed for peer in self.world.sockets))

    async def with_async_client(self, script: Callable[[Any], Awaitable[None]], options: dict[str, Any]) -> None:
        async with AsyncClient("server", 1, **options) as client:
            await script(client)

    def test_a_time_limit_of_one_call(self) -> None:
        async def script(client: Any) -> None:
            began = self.world.now
            with self.assertRaisesRegex(NoReply, "no reply to time within 2 s"):
                await client.within(2.0).time()
            self.assertEqual(self.world.now, began + 2.0)
            self.assertIsNone(client.timeout)
            for seconds in (0.0, -1.0, float("nan")):
                with self.assertRaises(ValueError):
                    client.within(seconds)

        self.both(script)

    def test_wait_until(self) -> None:
        def replies(peer: Socket, line: bytes) -> None:
            flag = self.world.now < self.until
            peer.deliver(0, b"!status,ok,%d.0000000,ok,%d\r\n" % (self.world.now, flag))

        async def script(client: Any) -> None:
            self.until = self.world.now + 3.0
            status = await client.wait_until(acquiring=False, timeout=10.0)
            self.assertEqual((status.acquiring, len(self.received)), (False, 16))
            self.until = self.world.now + 100.0
            began = self.world.now
            with self.assertRaisesRegex(WaitTimeout, "not within 5 s: the status is 'ok', acquiring") as caught:
                await client.wait_until(acquiring=False, timeout=5.0, interval=1.0)
            self.assertTrue(caught.exception.status.acquiring)
            self.assertAlmostEqual(self.world.now, began + 5.0)
            await client.wait_until(acquiring=True, text="ok", timeout=1.0)
            with self.assertRaisesRegex(ValueError, "needs acquiring=... or text=..."):
                await client.wait_until(timeout=1.0)

        self.replies = replies
        self.both(script)

    def test_a_lost_connection(self) -> None:
        def replies(peer: Socket, line: bytes) -> None:
            if self.received.count(line) == 1:
                peer.deliver(0, END)
            else:
                peer.deliver(
                    0, b"!%b,ok" % line[1:].partition(b",")[0] + (b",1.4" if b"conf" in line else b"") + b"\r\n"
                )

        async def with_reconnect(client: Any) -> None:
            # It only reads, so it is sent once more.
            self.assertEqual(await client.get_configuration(), "1.4")
            with self.assertRaisesRegex(NoReply, "the server closed the connection"):
                await client.set_integration(40)
            self.assertEqual(self.received, 2 * [b"?get-configuration"] + [b"?set-integration,40"])
            await client.set_integration(40)
            self.assertEqual(str(client.greeting), "!version,ok,1.4")
            # Lost while nobody asks: nothing was sent, so any command is.
            self.world.sockets[-1].deliver(0, END)
            await client.set_integration(40)
            self.assertEqual(self.received.count(b"?set-integration,40"), 3)

        async def without(client: Any) -> None:
            with self.assertRaisesRegex(NoReply, "the server closed the connection"):
                await client.get_configuration()
            with self.assertRaisesRegex(NoReply, "the connection is closed"):
                await client.get_configuration()
            self.assertEqual(self.received, [b"?get-configuration"])

        self.replies = replies
        self.both(with_reconnect, reconnect=True)
        self.both(without)

    def test_a_wrong_line_is_reported_at_once(self) -> None:
        async def script(client: Any) -> None:
            began = self.world.now
            for line, text in (
                (b"!stop,ok", "'!stop,ok' is not a reply to start"),
                (b"hello", "the server sent an invalid line: .*: 'hello'"),
                (70000 * b"x", "the server sent a line of more than 65536 bytes"),
            ):
                self.replies = lambda peer, _, line=line: peer.deliver(0, line + b"\r\n")  # type: ignore[misc]
                with self.assertRaisesRegex(NoReply, text):
                    await client.start()
            self.assertEqual(self.world.now, began)

        self.both(script, reconnect=True)

    def test_closed_is_closed(self) -> None:
        async def script(client: Any) -> None:
            await client.close()
            with self.assertRaisesRegex(NoReply, "the connection is closed"):
                await client.status()
            self.assertEqual(self.received, [])

        self.both(script, reconnect=True)

    def test_a_cancelled_task(self) -> None:
        """Without `reconnect` its late reply is discarded; with it the next request uses a new connection."""

        def replies(peer: Socket, line: bytes) -> None:
            name, _, text = line[1:].partition(b",")
            peer.deliver(5.0 if text == b"1" else 0.0, b"!%b,ok,%b\r\n" % (name, text))

        async def script(reconnect: bool) -> float:
            async with AsyncClient("server", 1, reconnect=reconnect) as client:
                task = asyncio.create_task(client.request("x", "1"))
                waiting = asyncio.create_task(client.request("x", "2"))
                await asyncio.sleep(1.0)
                began = self.world.now
                task.cancel()
                self.assertEqual(await waiting, ["2"])
                with self.assertRaises(asyncio.CancelledError):
                    await task
                return self.world.now - began

        self.replies = replies
        for reconnect, seconds, connections in ((False, 4.0, 1), (True, 0.0, 2)):
            self.world.sockets.clear()
            with self.subTest(reconnect=reconnect), closing(VirtualLoop(self.world)) as loop:
                self.assertAlmostEqual(loop.run_until_complete(script(reconnect)), seconds)
                self.assertEqual(len(self.world.sockets), connections)


class Awaiting:
    """A blocking client whose methods return something to await."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name == "within":
            return lambda seconds: Awaiting(found(seconds))
        if not callable(found):
            return found

        async def awaited(*arguments: Any, **named: Any) -> Any:
            return found(*arguments, **named)

        return awaited


class AddressTests(unittest.TestCase):
    def test_the_environment(self) -> None:
        for text, given, wanted in (
            ("", {}, ("127.0.0.1", 8978)),
            ("backend:10000", {}, ("backend", 10000)),
            ("[::1]:10000", {}, ("::1", 10000)),
            ("backend:10000", {"port": 1}, ("127.0.0.1", 1)),
            ("backend:10000", {"host": "other"}, ("other", 8978)),
            ("nothing", {"host": "other", "port": 1}, ("other", 1)),
        ):
            with self.subTest(text, given=given), mock.patch.dict(os.environ, {"DISCOS_BACKEND": text}):
                client = AsyncClient(**given)
                self.assertEqual((client.host, client.port), wanted)

    def test_a_wrong_one(self) -> None:
        for text in ("backend", "::1:8978", "backend:x"):
            for kind in (Client, AsyncClient):
                with mock.patch.dict(os.environ, {"DISCOS_BACKEND": text}):
                    with self.assertRaisesRegex(ValueError, f"variable DISCOS_BACKEND: '{text}' is not HOST:PORT"):
                        kind()
        self.assertEqual(host_and_port("[::1]:8978"), ("::1", 8978))


if __name__ == "__main__":
    unittest.main()
