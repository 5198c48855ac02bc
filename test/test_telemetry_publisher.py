"""When telemetry is published and what it says, with a clock of the test and without sockets."""

from __future__ import annotations

import asyncio
import functools
import itertools
import tempfile
import unittest
from collections.abc import Sequence
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.defer import fail as fail_later
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from discosbackend import Backend, BackendError, TelemetryChannel, blocking
from discosbackend.acquisition import Acquisition
from discosbackend.exchanges import Exchange
from discosbackend.handlers import DBProtocolHandler
from discosbackend.monitor.batches import Batches
from discosbackend.monitor.clock_health import Synchronisation
from discosbackend.monitor.state import ServerState
from discosbackend.monitor.telemetry_publisher import ServerSource, TelemetryPublisher
from discosbackend.protocol import DBFactory
from discosbackend.server import Server, tcp_endpoint
from discosbackend.simulator import INSTRUMENTS, SimulatedBackend
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

from .in_memory import Connection, greeted, quiet
from .telemetry_schema import message_in

# When the clocks of the tests begin, in Unix seconds.
BEGIN = 1628683207.0


def setUpModule() -> None:
    quiet()


@functools.lru_cache(maxsize=64)
def content_of(payload: bytes) -> dict[str, Any]:
    """What a message says of the backend. AssertionError if the receiver would not accept it.

    The publisher catches that of an outlet, so that a test has to ask here again, which is quick for a valid message.
    """
    content = message_in(payload)["Mine"]
    assert isinstance(content, dict)
    return content


class Kept:
    """An outlet that keeps the messages; every one is checked."""

    state = "kept"

    def __init__(self) -> None:
        self.problem = ""
        self.payloads: list[bytes] = []
        self.closed = False

    def send(self, payload: bytes) -> None:
        self.payloads.append(payload)
        content_of(payload)

    def close(self) -> None:
        self.closed = True

    @property
    def last(self) -> dict[str, Any]:
        """The content of the last message."""
        return dict(content_of(self.payloads[-1]))


def state_of(factory: DBFactory) -> ServerState:
    """The state of a server that listens nowhere."""
    return ServerState(Server(tcp_endpoint(MemoryReactorClock(), 8978, "127.0.0.1"), factory))


class Bench:
    """A backend that is served in memory, with its telemetry."""

    def __init__(self, backend: Any, clock: Clock, **options: Any) -> None:
        self.clock = clock
        self.handler = DBProtocolHandler(backend, reactor=clock)
        self.factory = DBFactory(self.handler, reactor=clock)
        self.outlet = Kept()
        batches = Batches(clock)
        self.publisher = TelemetryPublisher(
            "Mine",
            ServerSource(state_of(self.factory), self.handler, **options),
            [self.outlet],
            reactor=clock,
            now_ticks=lambda: Ticks.from_unix(clock.seconds()),
            before_message=batches.flush,
        )
        batches.listeners.append(self.publisher)
        batches.listen_to(self.factory)
        self.publisher.start()
        self.connection: Connection = greeted(self.factory)

    def ask(self, request: bytes) -> bytes:
        """Send a request, and let its telemetry be published."""
        reply = self.connection.ask(request + b"\r\n")
        self.run(0.1)
        return reply

    def run(self, seconds: float) -> list[dict[str, Any]]:
        """Let time pass, and return the messages of this time."""
        before = len(self.outlet.payloads)
        end = self.clock.seconds() + seconds
        while self.clock.calls and (due := self.clock.calls[0].getTime()) <= end:
            self.clock.advance(max(due - self.clock.seconds(), 0.0))
        self.clock.advance(max(end - self.clock.seconds(), 0.0))
        return [dict(content_of(payload)) for payload in self.outlet.payloads[before:]]

    @property
    def last(self) -> dict[str, Any]:
        return self.outlet.last


def clock_of_today() -> Clock:
    clock = Clock()
    clock.rightNow = BEGIN
    return clock


class Plain(Backend):
    """A backend without an Acquisition: only its replies say something."""

    def __init__(self) -> None:
        self.text = "ok"
        self.acquiring = False
        self.integration: Any = 40
        self.ahead = 0.0
        self.clock = clock_of_today()
        self.statuses = 0
        self.given: Any = ()

    def status(self) -> Any:
        self.statuses += 1
        return Ticks.from_unix(self.clock.seconds() + self.ahead), self.text, self.acquiring

    def get_integration(self) -> Any:
        return self.integration

    def set_integration(self, integration: int) -> None:
        self.integration = integration

    def telemetry_channels(self) -> Sequence[TelemetryChannel]:
        if isinstance(self.given, BaseException):
            raise self.given
        result: Sequence[TelemetryChannel] = self.given
        return result


class Untold(BackendError):
    """A refusal whose text cannot be made."""

    def __str__(self) -> str:
        raise SystemExit(3)


class PlainTests(unittest.TestCase):
    def setUp(self) -> None:
        self.backend = Plain()
        self.bench = Bench(self.backend, self.backend.clock)
        self.addCleanup(self.bench.publisher.stop)

    def test_once_a_second(self) -> None:
        self.assertEqual(len(self.bench.outlet.payloads), 1)
        messages = self.bench.run(10)
        self.assertEqual(len(messages), 10)
        seconds = [each["timestamp"]["unix_time"] for each in messages]
        for earlier, later in itertools.pairwise(seconds):
            self.assertAlmostEqual(later - earlier, 1, 3)

    def test_at_every_change(self) -> None:
        self.bench.run(0.5)
        before = len(self.bench.outlet.payloads)
        self.bench.ask(b"?set-integration,100")
        self.assertEqual(len(self.bench.outlet.payloads), before + 1)
        self.assertEqual(self.bench.last["integration"], 100)

    def test_a_request_that_changes_nothing_publishes_nothing(self) -> None:
        self.bench.run(0.5)
        for request in (b"?get-integration", b"?status", b"?nonsense", b"?version", b"nonsense", b"?set-integration"):
            self.bench.connection.ask(request + b"\r\n")
        # The unknown command, and the one without its argument, count as changes: both in one message.
        self.assertEqual(len(self.bench.run(0.2)), 1)
        self.bench.connection.ask(b"?status\r\n?version\r\nnonsense\r\n")
        self.assertEqual(len(self.bench.run(0.1)), 0)

    def test_many_changes_are_at_most_twenty_messages_a_second(self) -> None:
        self.bench.run(0.5)
        before = len(self.bench.outlet.payloads)
        for integration in range(1, 101):
            self.bench.connection.ask(f"?set-integration,{integration}\r\n".encode())
            self.bench.clock.advance(0.01)
        self.bench.run(0.1)
        self.assertLess(len(self.bench.outlet.payloads) - before, 24)
        self.assertGreater(len(self.bench.outlet.payloads) - before, 15)
        self.assertEqual(self.bench.last["integration"], 100)

    def test_a_change_after_the_clock_of_the_reactor_was_stepped_back(self) -> None:
        self.bench.ask(b"?set-integration,99")
        self.bench.clock.rightNow -= 3600
        before = len(self.bench.outlet.payloads)
        self.bench.ask(b"?set-integration,100")
        self.assertEqual(len(self.bench.outlet.payloads), before + 1)

    def test_status_is_asked_only_if_no_client_has_asked(self) -> None:
        self.backend.statuses = 0
        self.bench.run(5)
        self.assertEqual(self.backend.statuses, 5)
        self.backend.statuses = 0
        for _ in range(50):
            self.bench.connection.ask(b"?status\r\n")
            self.bench.run(0.1)
        self.assertEqual(self.backend.statuses, 50)

    def test_a_client_that_has_asked_just_before_a_message(self) -> None:
        """Its reply is still in Batches."""
        self.bench.clock.advance(1 - 1 / 128)
        self.backend.statuses = 0
        self.bench.connection.ask(b"?status\r\n")
        before = len(self.bench.outlet.payloads)
        self.bench.clock.advance(1 / 128)
        self.assertEqual((len(self.bench.outlet.payloads), self.backend.statuses), (before + 1, 1))

    def test_a_status_text_that_changes_by_itself(self) -> None:
        # In the message that is due, and in no second one.
        self.backend.text = "board 3 is hot"
        self.assertEqual([each["commandLineError"] for each in self.bench.run(1.5)], [True])
        self.backend.text = "ok"
        self.assertEqual([each["commandLineError"] for each in self.bench.run(1)], [False])

    def test_a_status_text_that_a_client_sees_first(self) -> None:
        self.bench.run(0.5)
        self.backend.text, self.backend.acquiring = "board 3, is hot", True
        before = len(self.bench.outlet.payloads)
        self.bench.ask(b"?status")
        self.assertEqual(len(self.bench.outlet.payloads), before + 1)
        found = self.bench.last
        self.assertEqual((found["commandLineError"], found["sampling"], found["busy"]), (True, True, True))

    def test_the_clock_of_the_backend(self) -> None:
        self.backend.ahead = 2.5
        found = self.bench.run(1)[0]
        self.assertAlmostEqual(found["backendTime"]["unix_time"] - found["timestamp"]["unix_time"], 2.5, 5)

    def test_the_clock_of_the_backend_in_an_older_reply(self) -> None:
        reply = f"!status,ok,{BEGIN - 10 + 2.5},ok,0".encode()
        begin = Ticks(Ticks.now() - 13 * TICKS_PER_SECOND)
        exchange = Exchange(1, "10.0.0.7:4711", begin, b"?status", "status", reply, "ok", False, 3.0)
        self.bench.publisher.add_records([exchange])
        found = self.bench.run(1)[0]
        self.assertAlmostEqual(found["backendTime"]["unix_time"] - found["timestamp"]["unix_time"], 2.5, 0)

    def test_a_backend_that_fails_is_published(self) -> None:
        def refuse() -> Any:
            raise BackendError("no power")

        def fail() -> Any:
            raise ZeroDivisionError

        def leave() -> Any:
            raise SystemExit(3)

        def cancel() -> Any:
            raise asyncio.CancelledError

        def refuse_with_ok() -> Any:
            raise BackendError("ok")

        def refuse_without_text() -> Any:
            raise Untold

        failures = (refuse, fail, leave, cancel, refuse_with_ok, refuse_without_text)
        for failure in (*failures, lambda: 7, lambda: (1.0, "ok", 2), lambda: fail_later(OSError())):
            with self.subTest(failure):
                self.backend.status = failure  # type: ignore[method-assign]
                self.backend.get_integration = failure  # type: ignore[method-assign]
                bench = Bench(self.backend, self.backend.clock)
                self.addCleanup(bench.publisher.stop)
                found = bench.run(1)[-1]
                self.assertTrue(found["commandLineError"])
                # 7 is a valid integration time.
                self.assertIn(found["integration"], (-1, 7))

    def test_a_failure_of_status_is_logged_once_and_passes(self) -> None:
        class Sometimes(Plain):
            fails = True

            def status(self) -> Any:
                if self.fails:
                    raise ZeroDivisionError
                return super().status()

        backend = Sometimes()
        with self.assertLogs("discosbackend.monitor") as logs:
            bench = Bench(backend, backend.clock)
            self.addCleanup(bench.publisher.stop)
            bench.run(30)
        (line,) = logs.output
        self.assertIn("telemetry: status of the backend failed: ZeroDivisionError:", line)
        self.assertTrue(bench.last["commandLineError"])
        backend.fails = False
        bench.run(1)
        self.assertFalse(bench.last["commandLineError"])

    def test_whatever_status_raises_it_is_asked_again(self) -> None:
        class Sometimes(Plain):
            problem: BaseException | None = None

            def status(self) -> Any:
                if self.problem is not None:
                    raise self.problem
                return super().status()

        for problem in (ZeroDivisionError(), SystemExit(3), asyncio.CancelledError(), BackendError("ok"), Untold()):
            with self.subTest(type(problem)):
                backend = Sometimes()
                backend.problem = problem
                bench = Bench(backend, backend.clock)
                self.addCleanup(bench.publisher.stop)
                bench.run(2)
                self.assertTrue(bench.last["commandLineError"])
                backend.problem = None
                bench.run(2)
                self.assertFalse(bench.last["commandLineError"])
                # A change is published at once.
                bench.ask(b"?set-integration,33")
                self.assertEqual(bench.last["integration"], 33)

    def test_a_command_that_is_not_supported_is_no_error(self) -> None:
        class Mute(Backend):
            def start(self, timestamp: Any = None) -> None: ...

        bench = Bench(Mute(), clock_of_today())
        self.addCleanup(bench.publisher.stop)
        self.assertEqual((bench.last["commandLineError"], bench.last["integration"]), (False, -1))

    def test_a_status_that_never_comes_is_asked_once(self) -> None:
        questions: list[Deferred[Any]] = []

        class Slow(Plain):
            def status(self) -> Any:
                questions.append(Deferred())
                return questions[-1]

        backend = Slow()
        bench = Bench(backend, backend.clock)
        self.addCleanup(bench.publisher.stop)
        self.assertEqual(len(bench.run(5)), 5)
        self.assertEqual(len(questions), 1)
        questions[0].callback((BEGIN, "hot", True))
        (found,) = bench.run(0.1)
        self.assertEqual((found["commandLineError"], found["sampling"]), (True, True))
        bench.run(1)
        self.assertEqual(len(questions), 2)

    def test_a_late_reply_is_published_when_it_arrives(self) -> None:
        questions: list[Deferred[Any]] = []

        class Slow(Plain):
            def get_integration(self) -> Any:
                questions.append(Deferred())
                return questions[-1]

        backend = Slow()
        bench = Bench(backend, backend.clock)
        self.addCleanup(bench.publisher.stop)
        bench.run(0.5)
        questions[0].callback(250)
        self.assertEqual([each["integration"] for each in bench.run(0.1)], [250])

    def test_damaged_replies_change_nothing(self) -> None:
        usual = self.bench.run(1)[-1]
        for reply in (b"!status,ok", b"!status,ok,1,2", b"!status,ok,a,ok,1", b"", b"\xff,,,", b"!time,ok,1.5,ok,1"):
            self.bench.publisher._store("status", reply)
            self.bench.publisher._store("get-integration", b"!get-integration,ok,forty")
            (found,) = self.bench.run(0.1)
            self.assertEqual((found["sampling"], found["commandLineError"]), (False, False))
            self.assertEqual(found.keys(), usual.keys())

    def test_the_clock_of_the_host(self) -> None:
        for synchronised, expected in ((True, True), (False, False), (None, True)):
            bench = Bench(
                self.backend, self.backend.clock, ask_clock=lambda found=synchronised: Synchronisation(found, None)
            )
            self.addCleanup(bench.publisher.stop)
            self.assertIs(bench.last["timeSync"], expected)

    def test_state_and_problem(self) -> None:
        self.assertEqual((self.bench.publisher.state, self.bench.publisher.problem), ("kept", ""))
        self.bench.outlet.problem = "nobody is there"
        self.assertEqual(self.bench.publisher.problem, "nobody is there")

    def test_stopping(self) -> None:
        self.bench.connection.ask(b"?set-integration,100\r\n")
        self.bench.publisher.stop()
        self.assertTrue(self.bench.outlet.closed)
        self.bench.connection.ask(b"?set-integration,200\r\n")
        self.assertEqual(self.bench.run(3), [])
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])


class ChannelsTests(unittest.TestCase):
    """The hook telemetry_channels()."""

    def setUp(self) -> None:
        self.backend = Plain()

    def test_channels(self) -> None:
        bench = Bench(self.backend, self.backend.clock)
        self.addCleanup(bench.publisher.stop)
        self.backend.given = [TelemetryChannel(0, "LHCP", bins=16), TelemetryChannel(1, "RHCP")]
        bench.run(1)
        self.assertEqual([(each["id"], each["bins"]) for each in bench.last["channels"]], [(0, 16), (1, -1)])
        self.backend.given = tuple(self.backend.given)
        bench.run(1)
        self.assertEqual(len(bench.last["channels"]), 2)

    def test_a_backend_without_the_hook(self) -> None:
        class Foreign:
            def status(self) -> Any:
                return 1628683207.5, "ok", False

        bench = Bench(Foreign(), clock_of_today())
        self.addCleanup(bench.publisher.stop)
        self.assertEqual(bench.last["channels"], [])
        self.assertEqual(bench.publisher.problem, "")

    def test_a_hook_that_fails_is_logged_once_and_recovers(self) -> None:
        for given, text in (
            (OSError("no\nlink"), "OSError: no link"),
            (SystemExit(3), "SystemExit: 3"),
            (asyncio.CancelledError(), "CancelledError"),
            (None, "must return a list of TelemetryChannel, not None"),
            (7, "must return a list"),
            (itertools.repeat(TelemetryChannel(0, "LHCP")), "must return a list"),
            (["LHCP"], "must return TelemetryChannels, not 'LHCP'"),
            ([{"id": 0}], "must return TelemetryChannels"),
            # It can be iterated without end.
            (Deferred(), "must return a list of TelemetryChannel, not <Deferred"),
        ):
            with self.subTest(text):
                backend = Plain()
                backend.given = given
                with self.assertLogs("discosbackend.monitor") as logs:
                    bench = Bench(backend, backend.clock)
                    self.addCleanup(bench.publisher.stop)
                    bench.run(5)
                self.assertEqual(len(logs.output), 1)
                self.assertIn("telemetry is published without channels", logs.output[0])
                self.assertIn(text, bench.publisher.problem)
                self.assertEqual(bench.last["channels"], [])
                backend.given = ()
                bench.run(1)
                self.assertEqual(bench.publisher.problem, "")


class Timed(Plain):
    """A backend with an Acquisition, whose start can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.acquisition = Acquisition(
            lambda _: None,
            lambda _: None,
            clock=self.clock,
            now_ticks=lambda: Ticks.from_unix(self.clock.seconds()),
        )

    def status(self) -> Any:
        return Ticks.from_unix(self.clock.seconds()), self.text, self.acquisition.acquiring

    def start(self, timestamp: Any = None) -> None:
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Any = None) -> None:
        self.acquisition.stop(timestamp)


class AcquisitionTests(unittest.TestCase):
    def setUp(self) -> None:
        self.backend = Timed()
        self.bench = Bench(self.backend, self.backend.clock)
        self.addCleanup(self.bench.publisher.stop)

    def flags(self) -> str:
        """The flags of the last message that are true."""
        return " ".join(name for name in ("busy", "sampling", "suspended") if self.bench.last[name])

    def test_start_and_stop(self) -> None:
        self.assertEqual(self.flags(), "")
        self.bench.ask(b"?start")
        self.assertEqual(self.flags(), "busy sampling")
        self.bench.ask(b"?stop")
        self.assertEqual(self.flags(), "")

    def test_a_start_that_nobody_has_asked_for(self) -> None:
        """It is published before the next message is due."""
        self.bench.run(0.5)
        self.backend.acquisition.start()
        (found,) = self.bench.run(0.45)
        self.assertTrue(found["sampling"])
        self.assertEqual(len(self.bench.run(0.25)), 1)

    def test_a_timed_start_and_stop_are_published_when_they_happen(self) -> None:
        self.bench.ask(f"?start,{BEGIN + 2.5}".encode())
        self.assertEqual(self.flags(), "suspended")
        self.bench.ask(f"?stop,{BEGIN + 4.5}".encode())
        changes = [each for each in self.bench.run(6) if each["timestamp"]["unix_time"] % 1 > 0.3]
        self.assertEqual([(each["sampling"], each["suspended"]) for each in changes], [(True, False), (False, False)])
        for found, instant in zip(changes, (BEGIN + 2.5, BEGIN + 4.5), strict=True):
            self.assertLess(found["timestamp"]["unix_time"] - instant, 0.15)


class OddBackendTests(unittest.TestCase):
    def test_a_backend_that_raises_for_every_attribute(self) -> None:
        class Remote:
            def status(self) -> Any:
                return 1628683207.5, "ok", False

            def __getattr__(self, name: str) -> Any:
                if name in ("acquisition", "telemetry_channels"):
                    raise ConnectionError("not connected")
                raise AttributeError(name)

        with self.assertLogs("discosbackend.monitor") as logs:
            bench = Bench(Remote(), clock_of_today())
            self.addCleanup(bench.publisher.stop)
            self.assertEqual(len(bench.run(10)), 10)
        (line,) = logs.output
        self.assertIn("telemetry is published without channels", line)

    def test_a_source_that_fails_loses_messages_and_is_logged(self) -> None:
        class Broken(ServerSource):
            @property
            def device_busy(self) -> bool:
                raise ZeroDivisionError

        clock, outlet = clock_of_today(), Kept()
        handler = DBProtocolHandler(Plain(), reactor=clock)
        source = Broken(state_of(DBFactory(handler, reactor=clock)), handler)
        publisher = TelemetryPublisher("Mine", source, [outlet], reactor=clock)
        self.addCleanup(publisher.stop)
        with self.assertLogs("discosbackend.monitor") as logs:
            publisher.start()
            clock.advance(1)
            clock.advance(1)
        self.assertEqual(len(logs.output), 3)
        self.assertIn("a telemetry message is lost", logs.output[0])


class BusyTests(unittest.TestCase):
    def test_a_command_that_waits_for_the_device(self) -> None:
        waiting: list[Deferred[Any]] = []

        class Slow(Plain):
            def set_configuration(self, configuration: str) -> Any:
                waiting.append(Deferred())
                return waiting[-1]

            def convert_data(self) -> Any:
                return self.set_configuration("")

        for request in (b"?set-configuration,K2000", b"?convert-data"):
            backend = Slow()
            bench = Bench(backend, backend.clock)
            self.addCleanup(bench.publisher.stop)
            self.assertFalse(bench.last["busy"])
            bench.connection.ask(request + b"\r\n")
            self.assertTrue(bench.run(1)[-1]["busy"])
            waiting.pop().callback(None)
            self.assertFalse(bench.run(0.1)[-1]["busy"])

    def test_a_blocking_read_does_not_make_it_busy(self) -> None:
        class Blocks(Plain):
            @blocking
            def status(self) -> Any:
                return Ticks(0), "ok", False

        backend = Blocks()
        bench = Bench(backend, backend.clock)
        self.addCleanup(bench.publisher.stop)
        self.addCleanup(bench.handler.stop)
        self.assertFalse(bench.run(1)[-1]["busy"])


class SimulatedTests(unittest.TestCase):
    """Each configuration of each simulated instrument, in each state."""

    def bench(self, instrument: str) -> tuple[Bench, SimulatedBackend]:
        clock = clock_of_today()
        backend = SimulatedBackend(instrument, clock=clock, time_scale=0)
        bench = Bench(backend, clock)
        self.addCleanup(bench.publisher.stop)
        return bench, backend

    def test_every_configuration_in_every_state(self) -> None:
        for name, instrument in INSTRUMENTS.items():
            configurations = [*instrument.configurations, *(task.configuration for task in instrument.tasks)]
            self.assertGreater(len(configurations), 0)
            bench, backend = self.bench(name)
            self.assertEqual(bench.last["channels"], [])
            for configuration in configurations:
                with self.subTest(name, configuration=configuration):
                    self.assertEqual(
                        bench.ask(f"?set-configuration,{configuration}".encode()), b"!set-configuration,ok\r\n"
                    )
                    self.assertEqual(
                        len(bench.last["channels"]), len(backend._setup().channels) * bool(backend.sections)
                    )
                    self.check_states(bench, backend)

    def check_states(self, bench: Bench, backend: SimulatedBackend) -> None:
        def flags() -> tuple[bool, ...]:
            names = ("sampling", "busy", "suspended", "commandLineError")
            last = bench.last
            return tuple(last[each] for each in names)

        tasks = bool(backend.instrument.tasks)
        self.assertEqual(flags(), (False, False, False, tasks))
        begin = bench.clock.seconds() + 1
        self.assertEqual(bench.ask(f"?start,{begin}".encode()), b"!start,ok\r\n")
        self.assertEqual(flags(), (False, False, True, tasks))
        bench.run(1.2)
        self.assertEqual(flags(), (True, True, False, tasks))
        backend.fault = "board 3 is hot"
        bench.run(1)
        self.assertEqual(flags(), (True, True, False, True))
        self.assertEqual(bench.ask(b"?stop"), b"!stop,ok\r\n")
        self.assertEqual(flags(), (False, False, False, True))
        backend.fault = ""
        bench.run(1)
        self.assertEqual(flags(), (False, False, False, tasks))

    def test_the_channels_of_a_configuration(self) -> None:
        bench, backend = self.bench("sardara")
        bench.ask(b"?set-configuration,SK00")
        left, right = bench.last["channels"]
        self.assertEqual((left["id"], left["polarization"], right["id"], right["polarization"]), (0, "LHCP", 1, "RHCP"))
        bench.ask(b"?set-section,0,100,300,*,*,*,16384")
        backend.sky = backend.sky.with_tsys(55.5, [0])
        bench.run(1)
        left, right = bench.last["channels"]
        self.assertEqual(
            left,
            {
                "id": 0,
                "attenuation": 7.0,
                "bandWidth": 300.0,
                "bins": 16384,
                "polarization": "LHCP",
                "sampleRate": 600.0,
                "startFrequency": 100.0,
                "systemTemperature": 55.5,
            },
        )
        self.assertEqual(right["bandWidth"], 1500.0)
        self.assertGreater(right["systemTemperature"], 80)

    def test_full_stokes(self) -> None:
        bench, _ = self.bench("skarab")
        bench.ask(b"?set-configuration,SKARAB_11S")
        self.assertEqual([each["polarization"] for each in bench.last["channels"]], ["FULL STOKES"] * 7)
        bench.ask(b"?set-enable,2,3")
        self.assertEqual([each["id"] for each in bench.last["channels"]], [0, 1])

    def test_trouble_of_the_recording_is_a_data_line_error(self) -> None:
        clock = clock_of_today()
        with tempfile.TemporaryDirectory() as folder:
            backend = SimulatedBackend("sardara", clock=clock, data=folder)
            bench = Bench(backend, clock)
            self.addCleanup(bench.publisher.stop)
            self.addCleanup(backend.server_stopping)
            bench.ask(b"?set-configuration,SK00")
            self.assertFalse(bench.last["dataLineError"])
            recordings = backend.recordings
            assert recordings is not None
            with mock.patch.object(type(recordings), "problem", "disk full"):
                bench.run(1)
                self.assertEqual((bench.last["dataLineError"], bench.last["commandLineError"]), (True, True))
            bench.run(1)
            self.assertEqual((bench.last["dataLineError"], bench.last["commandLineError"]), (False, False))
