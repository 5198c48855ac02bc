"""The examples: each runs as a script and under the program, and does what its comments say."""

from __future__ import annotations

import asyncio
import importlib.util
import queue
import sys
import threading
import types
import unittest
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from signal import SIGTERM
from typing import Any, NamedTuple
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import DBFactory
from discosbackend.testing import HangUp
from discosbackend.ticks import Ticks

from .in_memory import Connection, greeted, quiet
from .program_in_memory import served_in_memory
from .serving import ROOT, SCRIPT, Server, ask
from .settings import PATIENCE, needs_aiokatcp

EXAMPLES = ROOT / "examples"

# These need neither sockets nor threads: the program can serve them in memory.
WITHOUT_REACTOR = ("own_commands", "plain")

# These need a library that is not installed everywhere.
WITH_AIOKATCP = ("katcp_board",)

NOW = rb"\d{10}\.\d{7}"

# What each is asked on a connection, and what the answer must match without its CR LF.
SESSIONS: dict[str, tuple[str, list[tuple[bytes, bytes]]]] = {
    "plain": (
        "PlainBackend",
        [
            (b"?status", rb"!status,ok," + NOW + rb",ok,0"),
            (b"?start", rb"!start,fail,unconfigured: send set-configuration first"),
            (b"?set-configuration,NONE", rb"!set-configuration,fail,invalid configuration"),
            (b"?set-configuration,ZOOM", rb"!set-configuration,ok"),
            (b"?get-integration", rb"!get-integration,ok,40"),
            (b"?set-integration,4", rb"!set-integration,fail,integration 4 out of range: 5 to 1000 ms"),
            (b"?get-tpi,0,0", rb"!get-tpi,ok,1100000\.0,1200000\.0"),
            (b"?get-tpi,22030.5,4", rb"!get-tpi,ok,275000\.0,300000\.0"),
            (b"?set-section,0,*,3000,*,*,*,*", rb"!set-section,fail,backend maximum bandwidth is 500"),
            (b"?set-section,1,*,*,*,*,*,*", rb"!set-section,fail,backend supports 1 sections"),
            (b"?set-section,*,*,8,*,*,*,2048", rb"!set-section,ok"),
            (b"?get-tpi,0,4", rb"!get-tpi,ok,550000\.0,600000\.0"),
            (b"?get-filename", rb"!get-filename,fail,no file: set-filename was not sent"),
            (b"?set-filename,/data/a.fits", rb"!set-filename,ok"),
            (b"?get-filename", rb"!get-filename,ok,/data/a\.fits"),
            (b"?start,99999999999999999", rb"!start,fail,cannot start at given time"),
            (b"?start", rb"!start,ok"),
            (b"?status", rb"!status,ok," + NOW + rb",ok,1"),
            (b"?set-configuration,WIDE", rb"!set-configuration,fail,acquiring: .*"),
            (b"?stop", rb"!stop,ok"),
            (b"?stop", rb"!stop,fail,not acquiring"),
            (b"?convert-data", rb"!convert-data,fail,not supported by this backend"),
        ],
    ),
    "coroutine": (
        "CoroutineBackend",
        [
            (b"?status", rb"!status,ok," + NOW + rb",ok,0"),
            (b"?get-configuration", rb"!get-configuration,ok,unconfigured"),
            (b"?set-configuration,NONE", rb"!set-configuration,fail,invalid configuration"),
            (b"?set-configuration,BROAD", rb"!set-configuration,ok"),
            (b"?get-configuration", rb"!get-configuration,ok,BROAD"),
            (b"?get-tpi,0,0", rb"!get-tpi,ok,812\.5,799\.25"),
            (b"?get-tpi,1,2", rb"!get-tpi,fail,band selection is not supported"),
            (b"?start,17954184000000000", rb"!start,fail,cannot start at given time"),
            (b"?stop", rb"!stop,fail,not acquiring"),
            (b"?start", rb"!start,ok"),
            (b"?status", rb"!status,ok," + NOW + rb",ok,1"),
            (b"?stop", rb"!stop,ok"),
        ],
    ),
    "blocking_serial": (
        "SerialBackend",
        [
            (b"?get-configuration", rb"!get-configuration,ok,unconfigured"),
            (b"?set-configuration,32", rb"!set-configuration,fail,invalid configuration"),
            (b"?set-configuration,12", rb"!set-configuration,ok"),
            (b"?get-configuration", rb"!get-configuration,ok,12"),
            (b"?get-tpi,0,0", rb"!get-tpi,ok,2048\.0,2051\.0"),
            (b"?start", rb"!start,ok"),
            (b"?status", rb"!status,ok," + NOW + rb",ok,1"),
            (b"?stop", rb"!stop,ok"),
        ],
    ),
    "katcp_board": (
        "KatcpBackend",
        [
            (b"?set-configuration,NONE", rb"!set-configuration,fail,invalid configuration"),
            (b"?status", rb"!status,ok," + NOW + rb",ok,0"),
            (b"?set-configuration,WIDE", rb"!set-configuration,ok"),
            (b"?get-tpi,0,0", rb"!get-tpi,ok,812\.5,799\.25"),
            (b"?start", rb"!start,ok"),
            (b"?status", rb"!status,ok," + NOW + rb",ok,1"),
            (b"?stop", rb"!stop,ok"),
        ],
    ),
    "linked": (
        "LinkedBackend",
        [
            (b"?get-configuration", rb"!get-configuration,ok,unconfigured"),
            (b"?set-configuration,32", rb"!set-configuration,fail,invalid configuration"),
            (b"?set-configuration,WIDE", rb"!set-configuration,ok"),
            (b"?get-configuration", rb"!get-configuration,ok,WIDE"),
            (b"?get-tpi,0,0", rb"!get-tpi,ok,812\.5,799\.25"),
            (b"?get-rms", rb"!get-rms,ok,28\.50\d+,28\.27\d+"),
            (b"?start", rb"!start,ok"),
            (b"?status", rb"!status,ok," + NOW + rb",ok,1"),
            (b"?stop", rb"!stop,ok"),
        ],
    ),
    "on_asyncio": (
        "AsyncioBackend",
        [
            (b"?status", rb"!status,ok," + NOW + rb",ok,0"),
            (b"?get-tpi", rb"!get-tpi,ok,812\.5,799\.25"),
            (b"?set-integration,40", rb"!set-integration,ok"),
            (b"?get-tpi", rb"!get-tpi,ok,812\.5,799\.25"),
            (b"?start", rb"!start,fail,not supported by this backend"),
        ],
    ),
    "own_commands": (
        "OwnCommandsBackend",
        [
            (b"?set-attenuation,*,3", rb"!set-attenuation,ok"),
            (b"?set-attenuation,1,4.5", rb"!set-attenuation,ok"),
            (b"?get-attenuation", rb"!get-attenuation,ok,3\.0,4\.5,3\.0,3\.0"),
            (b"?set-attenuation,4,1", rb"!set-attenuation,fail,backend has 4 inputs"),
            (b"?set-attenuation,-1,1", rb"!set-attenuation,fail,wrong input '-1': .*"),
            (b"?set-attenuation,0,32", rb"!set-attenuation,fail,attenuation out of range: 0 to 31\.5 dB"),
            (b"?set-attenuation,0", rb"!set-attenuation,fail,set-attenuation needs 2 arguments"),
            (b"?tone-sweep,0", rb"!tone-sweep,fail,step must be more than 0 MHz"),
            (b"?start", rb"!start,fail,not supported by this backend"),
        ],
    ),
    "sensors": (
        "SensorsBackend",
        [
            (b"?set-fan,4000", rb"!set-fan,ok"),
            (b"?status", rb"!status,ok," + NOW + rb",ok,0"),
            (b"?set-fan,1250,fpga", rb"!set-fan,ok"),
            (b"?set-fan,2000", rb"!set-fan,ok"),
            (
                b"?status",
                rb"!status,ok," + NOW + rb",fpga\.temperature error 94 degC; adc\.temperature warn 70 degC,0",
            ),
            (
                b"?set-fan,900",
                rb"!set-fan,fail,wrong speed '900': must be an integer not below 1000 and not above 8000",
            ),
            (b"?set-fan,4000,dac", rb"!set-fan,fail,wrong board 'dac': must be adc or fpga"),
            (b"?set-fan", rb"!set-fan,fail,set-fan needs at least 1 argument"),
        ],
    ),
}


def setUpModule() -> None:
    quiet()


def load(name: str) -> types.ModuleType:
    """An example as a module of its own, which its __main__ part does not see."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Played(NamedTuple):
    """What came of a server that was started, asked and stopped."""

    announced: str
    replies: list[bytes]
    status: int
    log: str


def play(command: list[str], requests: list[bytes]) -> Played:
    server = Server([sys.executable, *command], EXAMPLES)
    try:
        replies: list[bytes] = []
        if server.address[1]:
            with server.connect() as connection:
                for request in requests:
                    replies += ask(connection, request)
        return Played(server.announced, replies, server.stop(SIGTERM), server.log())
    finally:
        server.end()


class EveryExampleTests(unittest.TestCase):
    def test_every_example_is_tested(self) -> None:
        # The telescope's are no servers: see test_examples_pictures. The fake board is a part of katcp_board.
        servers = {path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith(("telescope", "fake_"))}
        self.assertEqual(servers, set(SESSIONS))

    def test_as_a_script_and_under_the_program(self) -> None:
        self.check_in_processes(*(name for name in SESSIONS if name not in WITH_AIOKATCP))

    @needs_aiokatcp
    def test_with_aiokatcp_as_a_script_and_under_the_program(self) -> None:
        self.check_in_processes(*WITH_AIOKATCP)

    def check_in_processes(self, *names: str) -> None:
        plays: dict[tuple[str, str], Future[Played]] = {}
        # All of them at the same time: it is Python's start that takes long.
        with ThreadPoolExecutor(2 * len(names)) as pool:
            for name in names:
                backend, session = SESSIONS[name]
                requests = [request for request, _ in session]
                plays[name, "script"] = pool.submit(play, [f"{name}.py", "0"], requests)
                if name not in WITHOUT_REACTOR:
                    program = [str(SCRIPT), "--port", "0", "--backend", f"{name}:{backend}"]
                    plays[name, "program"] = pool.submit(play, program, requests)
        for (name, how), future in plays.items():
            backend, session = SESSIONS[name]
            with self.subTest(name, how=how):
                played = future.result()
                self.assertRegex(played.announced, rf"{backend} is served on 127\.0\.0\.1:\d+", played.log)
                self.check_replies(played.replies, session)
                self.assertEqual(played.status, 0)
                self.assertNotIn("Traceback", played.log)

    def test_under_the_program_in_memory(self) -> None:
        for name in WITHOUT_REACTOR:
            backend, session = SESSIONS[name]
            with self.subTest(name), self.assertNoLogs("discosbackend", "ERROR"):
                with served_in_memory("--backend", f"{name}:{backend}", cwd=EXAMPLES) as program:
                    self.assertIn(f"{backend} is served on 127.0.0.1:8978", program.announced[0])
                    self.check_replies(program.ask(*(request for request, _ in session)), session)

    def check_replies(self, replies: list[bytes], session: list[tuple[bytes, bytes]]) -> None:
        for reply, (request, wanted) in zip(replies, session, strict=True):
            self.assertRegex(reply, rb"\A" + wanted + rb"\r\n\Z", request)


class CoroutineBackendTests(unittest.TestCase):
    """The instrument at the other end is the test."""

    def setUp(self) -> None:
        self.wire = StringTransport()
        self.clock = Clock()
        self.backend = load("coroutine").CoroutineBackend(endpoint=self)
        handler = DBProtocolHandler(self.backend, reactor=self.clock, command_timeout=60.0)
        self.factory = DBFactory(handler, reactor=self.clock)
        self.connection = greeted(self.factory)

    def start_server(self) -> None:
        self.factory.doStart()

    def stop_server(self) -> None:
        self.factory.doStop()

    def connect(self, factory: Factory) -> Deferred[Any]:
        """What a client endpoint does."""
        protocol = factory.buildProtocol(None)
        assert protocol is not None
        protocol.makeConnection(self.wire)
        return succeed(protocol)

    def asked(self) -> bytes:
        """What the instrument has been sent since the last call."""
        lines: bytes = self.wire.value()
        self.wire.clear()
        return lines

    def answer(self, line: bytes) -> bytes:
        """The instrument answers; what the client of setUp gets then."""
        self.backend.instrument.dataReceived(line + b"\r\n")
        return self.connection.received()

    def test_others_are_answered_while_one_waits(self) -> None:
        self.start_server()
        other = greeted(self.factory)
        self.assertEqual(self.connection.ask(b"?get-tpi\r\n"), b"")
        self.assertEqual(self.asked(), b"power?\r\n")
        self.assertRegex(other.ask(b"?time\r\n"), rb"!time,ok," + NOW)
        self.assertEqual(other.ask(b"?set-configuration,BROAD\r\n"), b"")
        self.assertEqual(self.asked(), b"", "a device command waits for the one before")
        self.assertEqual(self.answer(b"1.5 2.5"), b"!get-tpi,ok,1.5,2.5\r\n")
        self.assertEqual(self.asked(), b"mode BROAD\r\n")

    def test_an_answer_that_comes_after_the_time_limit_is_not_taken_for_the_next_one(self) -> None:
        self.start_server()
        self.connection.ask(b"?get-tpi\r\n")
        self.clock.pump([1.0] * 60)
        self.assertEqual(self.connection.received(), b"!get-tpi,fail,timeout: get-tpi took longer than 60 s\r\n")
        self.connection.ask(b"?get-configuration\r\n")
        self.assertEqual(self.answer(b"1.5 2.5"), b"")
        self.assertEqual(self.answer(b"BROAD"), b"!get-configuration,ok,BROAD\r\n")

    def test_a_timed_start_is_handed_to_the_instrument(self) -> None:
        self.start_server()
        self.connection.ask(b"?start,1430922782.9708830\r\n")
        self.assertEqual(self.asked(), b"run 14309227829708830\r\n")
        self.assertEqual(self.answer(b"done"), b"!start,ok\r\n")

    def test_an_instrument_that_goes_away(self) -> None:
        for reason in (ConnectionDone(), ConnectionLost()):
            with self.subTest(reason):
                self.start_server()
                self.connection.ask(b"?get-tpi\r\n")
                self.backend.instrument.connectionLost(Failure(reason))
                lost = b"!get-tpi,fail,instrument not connected\r\n"
                self.assertEqual(self.connection.received(), lost)
                self.assertEqual(self.connection.ask(b"?get-tpi\r\n"), lost)
                self.assertRegex(self.connection.ask(b"?status\r\n"), rb",instrument not connected,0\r\n")
                self.stop_server()

    def test_an_instrument_that_is_not_there(self) -> None:
        reply = self.connection.ask(b"?get-configuration\r\n")
        self.assertEqual(reply, b"!get-configuration,fail,instrument not connected\r\n")


class ThreadedClock(Clock):
    """A Clock that takes calls from other threads; the test makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.from_threads: queue.Queue[Callable[[], Any]] = queue.Queue()

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.from_threads.put(lambda: function(*arguments))

    def pass_on(self) -> None:
        """Wait for a thread to call, and make its call."""
        self.from_threads.get(timeout=PATIENCE)()


class SerialBackendTests(unittest.TestCase):
    def test_one_exchange_at_a_time_and_others_are_answered_meanwhile(self) -> None:
        module = load("blocking_serial")
        release, asked = threading.Event(), []

        class Link(module.FakeLink):  # type: ignore[name-defined, misc]
            def exchange(self, text: str) -> str:
                asked.append(text)
                release.wait(PATIENCE)
                return str(super().exchange(text))

        clock = ThreadedClock()
        backend = module.SerialBackend(Link(latency=0.0))
        factory = DBFactory(DBProtocolHandler(backend, reactor=clock), reactor=clock)
        first, second, third = greeted(factory), greeted(factory), greeted(factory)
        self.assertEqual(first.ask(b"?get-tpi,0,0\r\n"), b"")
        self.assertEqual(second.ask(b"?get-rms\r\n"), b"")
        self.assertRegex(third.ask(b"?status\r\n"), rb"!status,ok," + NOW + rb",ok,0\r\n")
        self.assertLessEqual(len(asked), 1)
        release.set()
        clock.pass_on()
        self.assertEqual(first.received(), b"!get-tpi,ok,2048.0,2051.0\r\n")
        clock.pass_on()
        self.assertRegex(second.received(), rb"!get-rms,ok,45\.2\d+,45\.2\d+\r\n")
        self.assertEqual(asked, ["CNT?", "CNT?"])

    def test_the_gate(self) -> None:
        module = load("blocking_serial")
        link = module.FakeLink(latency=0.0)
        connection = greeted(DBProtocolHandler(module.SerialBackend(link), reactor=Clock()))
        connection.ask(b"?start\r\n")
        self.assertTrue(link.gate)
        connection.ask(b"?stop\r\n")
        self.assertFalse(link.gate)


@needs_aiokatcp
class KatcpBackendTests(unittest.IsolatedAsyncioTestCase):
    """The backend and the board are in this process: what the clients get, and what the board was asked."""

    async def asyncSetUp(self) -> None:
        class Board(load("fake_katcp_board").FakeBoard):  # type: ignore[misc]
            def __init__(self, *address: Any) -> None:
                super().__init__(*address)
                self.answers = asyncio.Event()
                self.answers.set()

            async def request_mode(self, ctx, mode):
                """Answer when the test lets it."""
                await self.answers.wait()
                await super().request_mode(ctx, mode.decode())

        self.board_class = Board
        self.board = await self.started_board(0)
        self.port = self.board.sockets[0].getsockname()[1]
        self.module = load("katcp_board")
        self.backend = self.module.KatcpBackend(f"127.0.0.1:{self.port}")
        self.clock = Clock()
        factory = DBFactory(DBProtocolHandler(self.backend, reactor=self.clock), reactor=self.clock)
        factory.doStart()
        self.addAsyncCleanup(self.stop, factory)
        # Its requests are sent before server_started() has run.
        self.connection = greeted(factory)

    async def started_board(self, port: int) -> Any:
        board = self.board_class("127.0.0.1", port)
        await board.start()
        self.addAsyncCleanup(board.stop)
        return board

    async def stop(self, factory: DBFactory) -> None:
        factory.doStop()
        await self.backend.client.wait_closed()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  # any condition
                await asyncio.sleep(0.001)

    async def ask(self, request: bytes) -> bytes:
        received = self.connection.ask(request + b"\r\n")

        def has_ended() -> bool:
            nonlocal received
            self.clock.advance(0)
            received += self.connection.received()
            return received.endswith(b"\r\n")

        await self.until(has_ended)
        return received

    def status(self) -> str:
        return self.connection.ask(b"?status\r\n").split(b",")[3].decode()

    async def test_both_sides_of_an_acquisition(self) -> None:
        for request in (b"set-configuration,ZOOM", b"start", b"stop"):
            reply = await self.ask(b"?" + request)
            self.assertEqual(reply, b"!%s,ok\r\n" % request.partition(b",")[0])
        await self.until(lambda: len(self.board.requests) == 3)
        self.assertEqual(self.board.requests, ["mode ZOOM", "capture-start", "capture-stop"])
        self.assertEqual(self.status(), "ok")

    async def test_the_board_refuses(self) -> None:
        # Blanks and backslashes are escaped on the wire of KATCP.
        for configuration in (b"NONE", b"WIDE ZOOM", b"WIDE\\\\_"):
            reply = await self.ask(b"?set-configuration," + configuration)
            self.assertEqual(reply, b"!set-configuration,fail,invalid configuration\r\n")
        self.assertEqual(await self.ask(b"?start"), b"!start,ok\r\n")
        await self.until(lambda: self.status() == "capture-start: no mode is loaded")
        self.assertEqual(self.board.requests, [])
        for request in (b"?stop", b"?set-configuration,WIDE", b"?start"):
            await self.ask(request)
        await self.until(lambda: self.status() == "ok")

    async def test_the_sensors_of_the_board(self) -> None:
        # The library would log the exception of a reading that is not wanted, such as that of fan.speed.
        self.enterContext(self.assertNoLogs("aiokatcp", "WARNING"))
        await self.ask(b"?get-tpi")
        self.assertEqual(self.status(), "ok")
        self.assertEqual(self.backend.temperature.reading.value, 41.5)
        self.assertIs(self.backend.locked.reading.value, True)
        for degrees, state in ((75.0, "warn 75"), (91.0, "error 91")):
            self.board.temperature.set_value(degrees)
            await self.until(lambda: self.status() == f"fpga.temperature {state} degC")
        took = Ticks.of(self.board.temperature.timestamp)
        self.assertAlmostEqual(self.backend.temperature.reading.time, took, delta=20)
        self.board.temperature.set_value(40.0)
        self.board.locked.set_value(False, type(self.board.locked).Status.ERROR)
        await self.until(lambda: self.status() == "pll.locked error 0")

    async def test_an_outage(self) -> None:
        await self.ask(b"?set-configuration,WIDE")
        away = f"board 127.0.0.1:{self.port} is not connected"
        await self.board.stop()
        await self.until(lambda: self.status() == away)
        self.assertEqual(self.backend.temperature.reading.state, "unreachable")
        for request in (b"get-tpi", b"start", b"start,%d" % (Ticks.now() + 10**9)):
            reply = await self.ask(b"?" + request)
            self.assertEqual(reply, b"!%s,fail,%s\r\n" % (request.partition(b",")[0], away.encode()))
        board = await self.started_board(self.port)
        await self.until(lambda: self.status() == "ok")
        self.assertEqual(await self.ask(b"?set-configuration,ZOOM"), b"!set-configuration,ok\r\n")
        self.assertEqual(board.requests, ["mode ZOOM"])

    async def test_a_late_reply_is_not_taken_for_the_next_one(self) -> None:
        await self.ask(b"?get-tpi")
        self.board.answers.clear()
        soon = mock.Mock(wraps=asyncio, timeout=lambda _: asyncio.timeout(0.01))
        with mock.patch.object(self.module, "asyncio", soon):
            reply = await self.ask(b"?set-configuration,WIDE")
        self.assertEqual(reply, b"!set-configuration,fail,board 127.0.0.1:%d does not answer\r\n" % self.port)
        self.board.answers.set()
        self.assertEqual(await self.ask(b"?get-tpi"), b"!get-tpi,ok,812.5,799.25\r\n")
        self.assertEqual(self.board.requests, ["mode WIDE"])


class LinkedBackendTests(unittest.TestCase):
    def setUp(self) -> None:
        module = load("linked")
        self.clock = Clock()
        self.device = module.simulated_power_meter()
        self.device._reactor = self.clock
        backend = module.LinkedBackend(self.device)
        self.factory = DBFactory(DBProtocolHandler(backend, reactor=self.clock), reactor=self.clock)
        self.factory.doStart()
        self.connection = greeted(self.factory)

    def test_an_alarm(self) -> None:
        self.device.say(b"!overheated")
        self.clock.advance(0)
        self.assertRegex(self.connection.ask(b"?status\r\n"), rb",overheated,0\r\n")
        self.assertEqual(self.connection.ask(b"?set-configuration,WIDE\r\n"), b"!set-configuration,ok\r\n")
        self.assertRegex(self.connection.ask(b"?status\r\n"), rb",ok,0\r\n")

    def test_the_reason_of_the_device(self) -> None:
        self.device.next(b"error not locked")
        reply = self.connection.ask(b"?set-configuration,WIDE\r\n")
        self.assertEqual(reply, b"!set-configuration,fail,not locked\r\n")

    def test_an_outage(self) -> None:
        self.device.refusing = True
        self.device.hang_up()
        self.clock.pump([0.1] * 120)
        down = b"link to simulated device is down since 12 s"
        for request in (b"start", b"start,99999999999.0", b"get-tpi"):
            self.connection.ask(b"?%s\r\n" % request)
            self.clock.advance(0.02)
            self.assertEqual(self.connection.received(), b"!%s,fail,%s\r\n" % (request.partition(b",")[0], down))
        self.assertRegex(self.connection.ask(b"?status\r\n"), rb"," + down + rb",0\r\n")
        self.device.refusing = False
        self.clock.pump([0.1] * 400)
        self.assertEqual(self.connection.ask(b"?get-tpi\r\n"), b"!get-tpi,ok,812.5,799.25\r\n")

    def test_the_gate(self) -> None:
        for request in (b"start", b"stop"):
            self.assertEqual(self.connection.ask(b"?%s\r\n" % request), b"!%s,ok\r\n" % request)
        self.assertEqual(self.device.questions, [b"mode?", b"gate 1", b"gate 0"])

    def test_a_short_outage_does_not_prevent_a_start(self) -> None:
        self.device.hang_up()
        self.clock.advance(0.01)
        self.assertEqual(self.connection.ask(b"?start\r\n"), b"")
        self.clock.pump([0.1] * 5)
        self.assertEqual(self.connection.received(), b"!start,ok\r\n")

    def test_a_gate_that_stays_closed(self) -> None:
        for behavior, reason in (
            (b"error no trigger", b"gate: no trigger"),
            (b"what", b"gate: what"),
            (HangUp(), b"gate: link to simulated device is down since 0 s"),
        ):
            with self.subTest(behavior):
                self.device.next(b"NARROW", behavior)
                reply = self.connection.ask(b"?start\r\n")
                self.clock.pump([0.1] * 5)
                self.assertEqual(reply + self.connection.received(), b"!start,fail,%s\r\n" % reason)
                self.assertRegex(self.connection.ask(b"?status\r\n"), rb",ok,0\r\n\Z")
                self.assertEqual(self.device.questions[-1], b"gate 0")

    def test_a_gate_that_does_not_close(self) -> None:
        self.connection.ask(b"?start\r\n")
        self.device.next(b"error stuck")
        self.assertEqual(self.connection.ask(b"?stop\r\n"), b"!stop,ok\r\n")
        self.assertRegex(self.connection.ask(b"?status\r\n"), rb",gate: stuck,0\r\n\Z")

    def test_values_that_are_none(self) -> None:
        for answer in (b"812.5", b"1 2 3", b"1 x", b""):
            self.device.next(answer)
            self.assertEqual(self.connection.ask(b"?get-tpi\r\n"), b"!get-tpi,fail,wrong powers: %s\r\n" % answer)


class OwnCommandsBackendTests(unittest.TestCase):
    def setUp(self) -> None:
        self.module = load("own_commands")
        self.wait: Deferred[None] = Deferred()
        self.module.seconds = lambda duration: self.wait  # type: ignore[attr-defined]
        self.clock = Clock()
        handler = DBProtocolHandler(self.module.OwnCommandsBackend(), reactor=self.clock)
        self.factory = DBFactory(handler, reactor=self.clock)

    def status(self) -> bytes:
        return greeted(self.factory).ask(b"?status\r\n").split(b",")[3]

    def test_a_sweep_has_its_default_its_lane_and_its_reply(self) -> None:
        sweeping, other = greeted(self.factory), greeted(self.factory)
        self.assertEqual(sweeping.ask(b"?tone-sweep\r\n"), b"")
        self.assertEqual(self.status(), b"sweep in progress")
        self.assertEqual(other.ask(b"?get-attenuation\r\n"), b"!get-attenuation,ok,0.0,0.0,0.0,0.0\r\n")
        self.assertEqual(other.ask(b"?set-attenuation,0,1\r\n"), b"")
        self.wait.callback(None)
        self.assertEqual(sweeping.received(), b"!tone-sweep,ok,3,3.0,11.0,40.0\r\n")
        self.assertEqual(other.received(), b"!set-attenuation,ok\r\n")
        self.assertEqual(self.status(), b"ok")

    def test_a_sweep_has_its_time_limit_and_ends_there(self) -> None:
        sweeping: Connection = greeted(self.factory)
        sweeping.ask(b"?tone-sweep,0.5\r\n")
        self.clock.pump([1.0] * 299)
        self.assertEqual(sweeping.received(), b"")
        self.clock.advance(1.0)
        reply = sweeping.received()
        self.assertEqual(reply, b"!tone-sweep,fail,timeout: tone-sweep took longer than 300 s\r\n")
        self.assertEqual(self.status(), b"ok")


class SensorsBackendTests(unittest.TestCase):
    def setUp(self) -> None:
        self.backend = load("sensors").SensorsBackend(period=0.01)
        self.connection = greeted(DBProtocolHandler(self.backend, reactor=Clock()))

    def status(self) -> str:
        return self.connection.ask(b"?status\r\n").split(b",")[3].decode()

    def test_before_the_first_poll(self) -> None:
        self.assertEqual(self.status(), "adc.temperature unknown; fpga.temperature unknown; clock.locked unknown")

    def test_the_clock_and_a_rack_that_does_not_answer(self) -> None:
        self.backend.rack.locked = False
        self.backend.poll()
        self.assertEqual(self.status(), "clock.locked error 0")
        self.backend.rack.answers = False
        self.backend.poll()
        self.assertEqual(self.status(), "adc.temperature unreachable; fpga.temperature unreachable and 1 more")
        self.backend.rack.answers = self.backend.rack.locked = True
        self.backend.poll()
        self.assertEqual(self.status(), "ok")

    def test_the_thread_polls_until_the_server_stops(self) -> None:
        polled = threading.Event()
        self.backend.poll = polled.set
        self.backend.server_started()
        (thread,) = [each for each in threading.enumerate() if each.name == "poll"]
        self.assertTrue(polled.wait(PATIENCE))
        self.backend.server_stopping()
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive())


if __name__ == "__main__":
    unittest.main()
