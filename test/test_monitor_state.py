"""ServerState and Snapshot: what is read of a server, and the document that is made of it."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from discosbackend import Acquisition, Backend, Sensor, Ticks, __version__, blocking, command
from discosbackend.log import LogWriter
from discosbackend.monitor.clock_health import Step
from discosbackend.monitor.snapshot import shortened, status_of
from discosbackend.monitor.state import ServerState, dropped_log_lines
from discosbackend.scheduler import LaneState, Worker
from discosbackend.server import Server, tcp_endpoint
from discosbackend.simulator import SimulatedBackend
from discosbackend.simulator.faults.protocol import FaultyFactory
from discosbackend.watchdog import Blockage, Finding, Place, Watchdog

from .in_memory import quiet
from .monitored import NOW, Monitored, Plain
from .settings import PATIENCE, wait_until


def setUpModule() -> None:
    quiet()


class Busy(Backend):
    """Its commands end when the test says so."""

    def __init__(self) -> None:
        self.running: list[Deferred[None]] = []

    def _later(self) -> Deferred[None]:
        later: Deferred[None] = Deferred()
        self.running.append(later)
        return later

    @command("sweep")
    def sweep(self) -> Any:
        return self._later()

    @command("tune")
    def tune(self) -> Any:
        return self._later()


class Measuring(Plain):
    """A backend with sensors and an Acquisition."""

    temperature = Sensor("adc0.temperature", "degC", "FPGA temperature", warn=70.0)
    door = Sensor("door.open", type=bool)
    name = Sensor("name", type=str)

    def __init__(self, clock: Clock) -> None:
        self.refuse = False
        now = lambda: Ticks.from_unix(NOW + clock.seconds())  # noqa: E731
        self.acquisition = Acquisition(lambda _: None, lambda _: None, clock=clock, now_ticks=now)


class LaneTests(unittest.TestCase):
    def setUp(self) -> None:
        self.backend = Busy()
        self.server = Monitored(self.backend)

    def lane(self, name: str = "device") -> LaneState:
        lanes = self.server.state.lanes
        assert lanes is not None
        (found,) = [lane for lane in lanes if lane.name == name]
        return found

    def test_a_free_lane(self) -> None:
        self.assertEqual(self.lane(), LaneState("device", None, None, False, [], 0))

    def test_who_holds_it_and_who_waits(self) -> None:
        connections = [self.server.connect() for _ in range(3)]
        for connection, request in zip(connections, (b"?sweep\r\n", b"?tune\r\n", b"?sweep\r\n"), strict=True):
            connection.send(request)
            self.server.clock.advance(2)
        self.assertEqual(self.lane(), LaneState("device", "sweep", 6.0, False, [("tune", 4.0), ("sweep", 2.0)], 2))
        self.backend.running[0].callback(None)
        self.server.clock.advance(1)
        self.assertEqual(self.lane(), LaneState("device", "tune", 1.0, False, [("sweep", 3.0)], 1))
        document = self.server.snapshot.document()
        (lane,) = [lane for lane in document["lanes"] if lane["name"] == "device"]
        now = document["time"]
        waiting = [{"command": "sweep", "since": now - 3.0}]
        wanted = {"name": "device", "holder": "tune", "since": now - 1.0, "overdue": False, "waiting": waiting}
        self.assertEqual(lane, wanted)

    def test_only_the_first_that_wait_are_listed(self) -> None:
        connections = [self.server.connect() for _ in range(101)]
        for connection in connections:
            connection.send(b"?sweep\r\n")
        self.assertEqual((len(self.lane().waiting), self.lane().queued), (20, 100))

    def test_without_a_time_limit_it_is_not_known_since_when_one_waits(self) -> None:
        sweep: Any = self.server.handler.commands["sweep"]
        sweep.limit = None
        for _ in range(2):
            self.server.connect().send(b"?sweep\r\n")
        self.assertEqual(self.lane().waiting, [("sweep", None)])
        lanes = self.server.snapshot.document()["lanes"]
        self.assertIn({"command": "sweep", "since": None}, [each for lane in lanes for each in lane["waiting"]])

    def test_an_overdue_thread(self) -> None:
        class Stuck(Plain):
            @blocking
            def start(self, timestamp: Ticks | None = None) -> None: ...

        server = Monitored(Stuck())
        # A thread that does not return: the call is never made.
        with mock.patch.object(Worker, "do"):
            connection = server.connect()
            connection.send(b"?start\r\n")
            server.clock.pump([1] * 59)
            self.assertEqual(server.get("/health")[0], 200)
            server.clock.pump([1] * 16)
        self.assertIn(b"timeout", connection.received())
        wanted = "the thread of start has not returned for 75 s: commands of device are refused\n"
        self.assertEqual(server.get("/health")[::2], (503, wanted))
        (lane,) = [lane for lane in server.snapshot.document()["lanes"] if lane["name"] == "device"]
        self.assertEqual((lane["holder"], lane["overdue"]), ("start", True))

    def test_a_foreign_handler_has_no_lanes(self) -> None:
        self.server.factory._handler = mock.Mock(spec=["handle"])
        self.assertIsNone(self.server.state.lanes)
        document = self.server.snapshot.document()
        self.assertEqual([document[name] for name in ("lanes", "acquisition", "recordings")], [None] * 3)


class WatchdogTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = Monitored()
        self.dog = self.server.service.watchdog = Watchdog(self.server.clock, 0.5, dict)
        place = Place("Mine.start", "mine.py", 7, (lambda: None).__code__)
        self.finding = Finding(0.6, place, "start", None)

    def test_nothing_was_found(self) -> None:
        wanted = {"limit": 0.5, "blocked": 0.0, "findings": 0, "last": None}
        self.assertEqual(self.server.snapshot.document()["watchdog"], wanted)

    def test_what_was_found(self) -> None:
        with self.assertLogs("discosbackend.watchdog", "WARNING"), mock.patch("time.time", lambda: NOW - 12.0):
            for seconds in (2.0, 3.0):
                # The second one is not logged. It counts all the same.
                told = self.dog._report(self.finding)
                self.dog._report_the_end(self.finding, seconds, told=told)
        found = self.server.snapshot.document()["watchdog"]
        self.assertEqual((found["findings"], found["blocked"]), (2, 5.0))
        self.assertEqual((found["last"]["time"], found["last"]["seconds"]), (NOW - 12.0, 3.0))
        self.assertIn("start is in Mine.start() at line 7 of mine.py", found["last"]["text"])
        code, _, body = self.server.get("/health")
        self.assertEqual(code, 503)
        self.assertTrue(body.startswith("the server was blocked for 3.0 s, 12 s ago: "), body)

    def test_the_remedy_is_not_cut_off(self) -> None:
        """It is at the end of the sentence, behind two paths."""
        text = f"start is in {'/a/long/path' * 25}: write @blocking above `def start`"
        with mock.patch.object(self.dog, "_last", Blockage(NOW - 1.0, 3.0, text)):
            self.assertEqual(self.server.snapshot.document()["watchdog"]["last"]["text"], text)
            self.assertTrue(self.server.snapshot.health()[0].endswith(text))
        with mock.patch.object(self.dog, "_last", Blockage(NOW - 1.0, 3.0, "x" * 2000)):
            self.assertEqual(len(self.server.snapshot.document()["watchdog"]["last"]["text"]), 1000)
            self.assertEqual(len(self.server.snapshot.health()[0]), 1000)
        self.server.clock.advance(48)
        self.assertEqual(self.server.get("/health")[0], 200)

    def test_a_process_that_did_not_run(self) -> None:
        with self.assertLogs("discosbackend.watchdog", "WARNING"):
            self.dog._report(Finding(4.0, None, "", None))
        self.assertEqual((self.dog.findings, self.dog.blocked), (1, 4.0))

    def test_no_watchdog(self) -> None:
        self.server.service.watchdog = Watchdog(self.server.clock, 0.0, dict)
        self.assertIsNone(self.server.snapshot.document()["watchdog"])


class AcquisitionTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = Monitored()
        self.clock = self.server.clock
        backend = Measuring(self.clock)
        self.server.handler.backend = backend
        self.acquisition = backend.acquisition

    def found(self) -> dict[str, Any]:
        found = self.server.snapshot.document()["acquisition"]
        assert isinstance(found, dict)
        return found

    def test_it_is_followed(self) -> None:
        idle = {"acquiring": False, "since": None, "pending_start": None, "pending_stop": None, "last_lateness": None}
        self.assertEqual(self.found(), idle)
        self.acquisition.start(NOW + 10)
        self.acquisition.stop(NOW + 20)
        armed = {**idle, "pending_start": NOW + 10, "pending_stop": NOW + 20}
        self.assertEqual(self.found(), armed)
        self.clock.pump([0.25] * 41)
        found = self.found()
        self.assertLess(found.pop("last_lateness"), 0.3)
        del idle["last_lateness"]
        self.assertEqual(found, {**idle, "acquiring": True, "since": NOW + 10, "pending_stop": NOW + 20})
        self.acquisition.stop()
        found = self.found()
        del found["last_lateness"]
        self.assertEqual(found, idle)

    def test_since_an_immediate_start(self) -> None:
        self.clock.advance(5)
        self.acquisition.start()
        self.clock.advance(5)
        self.assertEqual(self.found()["since"], NOW + 5)

    def test_a_backend_without_one(self) -> None:
        self.assertIsNone(Monitored().snapshot.document()["acquisition"])

    def test_a_backend_that_asks_its_hardware_for_attributes(self) -> None:
        class Proxy(Plain):
            def __getattr__(self, name: str) -> Any:
                raise AssertionError(f"asked for {name}")

        server = Monitored()
        server.handler.backend = Proxy()
        self.assertIsNone(server.state.acquisition)


class SensorTests(unittest.TestCase):
    def test_the_sensors(self) -> None:
        backend = Measuring(Clock())
        server = Monitored(backend)
        backend.temperature.set(91.5, time=NOW)
        backend.door.set(True, time=NOW)
        backend.name.set("x" * 300, time=NOW)
        first, second, third = server.snapshot.document()["sensors"]
        wanted = {"description": "FPGA temperature", "unit": "degC", "value": 91.5, "state": "warn", "time": NOW}
        self.assertEqual(first, {"name": "adc0.temperature", **wanted})
        self.assertIs(second["value"], True)
        self.assertEqual(third["value"], "x" * 197 + "...")

    def test_none(self) -> None:
        self.assertEqual(Monitored().snapshot.document()["sensors"], [])


class RecordingTests(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.backend = SimulatedBackend("sardara", data=self.folder / "data")
        self.addCleanup(self.backend.server_stopping)
        self.server = Monitored(self.backend)

    def test_nothing_was_recorded(self) -> None:
        found = self.server.snapshot.document()["recordings"]
        del found["free_bytes"]
        folder = str(self.folder / "data")
        self.assertEqual(found, {"folder": folder, "recording": None, "bytes": 0, "lag": 0.0, "problem": ""})

    def test_free_space(self) -> None:
        # The folder does not exist yet.
        free = wait_until(lambda: self.server.snapshot.document()["recordings"]["free_bytes"], "the free space")
        self.assertGreater(free, 0)

    def free_bytes(self) -> int | None:
        found = self.server.state.recordings
        assert found is not None
        return found.free_bytes

    def test_a_file_system_that_does_not_answer(self) -> None:
        answers = threading.Event()
        with mock.patch("shutil.disk_usage", lambda path: answers.wait() and mock.Mock(free=17)):
            for _ in range(2):
                self.assertIsNone(self.free_bytes())
            answers.set()
            wait_until(lambda: self.free_bytes() == 17, "the answer")

    def test_a_recording(self) -> None:
        self.backend.set_configuration("SK00")
        self.backend.start()
        queue = self.backend.recordings
        assert queue is not None
        wait_until(lambda: queue.recorded.dumps >= 2, "two dumps")
        latest = queue.latest
        assert latest is not None
        found = self.server.snapshot.document()["recordings"]
        self.assertEqual(found["recording"], os.path.basename(latest.folder))
        self.assertGreater(found["bytes"], 0)
        self.backend.stop()
        self.assertTrue(queue.wait(PATIENCE))
        first = queue.recorded
        self.assertEqual(first.size, Path(latest.folder, "dumps").stat().st_size)
        self.assertIsNone(self.server.snapshot.document()["recordings"]["recording"])
        # The counts go on with the next recording.
        self.backend.start()
        self.assertGreaterEqual(queue.recorded.size, first.size)
        wait_until(lambda: queue.recorded.dumps > first.dumps, "another dump")
        self.backend.stop()
        self.assertTrue(queue.wait(PATIENCE))
        self.assertGreater(queue.recorded.size, first.size)
        self.assertEqual(queue.recorded.lost, 0)

    def test_a_recording_in_trouble(self) -> None:
        with mock.patch.object(type(self.backend.recordings), "problem", "recording: no space left on device"):
            self.assertEqual(self.server.get("/health")[::2], (503, "recording: no space left on device\n"))

    def test_an_instrument_that_records_nothing(self) -> None:
        server = Monitored(SimulatedBackend("sardara"))
        self.assertIsNone(server.snapshot.document()["recordings"])


class LogTests(unittest.TestCase):
    def test_dropped_lines(self) -> None:
        before = dropped_log_lines()
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        writer = LogWriter(writing, most=200)
        self.addCleanup(writer.close)
        root = logging.getLogger()
        root.addHandler(writer)
        self.addCleanup(root.removeHandler, writer)
        os.set_blocking(writing, False)
        while True:
            try:
                os.write(writing, b"x" * 4096)
            except BlockingIOError:
                break
        line = logging.LogRecord("x", logging.INFO, "", 0, "y" * 80, (), None)
        for _ in range(10):
            writer.handle(line)
        self.assertEqual(writer.dropped, 8)
        self.assertEqual(dropped_log_lines() - before, 8)
        # When the reader goes on, their number is logged, and stays.
        while len(os.read(reading, 4096)) == 4096:
            pass
        writer.flush()
        writer.handle(line)
        writer.flush()
        self.assertIn(b"8 lines of this log were dropped", os.read(reading, 4096))
        self.assertEqual(writer.dropped, 8)

    def test_lines_that_cannot_be_written(self) -> None:
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        writer = LogWriter(writing)
        self.addCleanup(writer.close)
        os.close(reading)
        line = logging.LogRecord("x", logging.INFO, "", 0, "y", (), None)
        for number in range(1, 4):
            writer.handle(line)
            self.assertEqual(writer.dropped, number)


class PauseTests(unittest.TestCase):
    def test_a_pause_is_a_reason(self) -> None:
        server = Monitored()
        factory = FaultyFactory(server.handler, reactor=server.clock)
        server.snapshot.state = ServerState(Server(tcp_endpoint(MemoryReactorClock(), 8978, "127.0.0.1"), factory))
        self.assertEqual(server.get("/health")[::2], (200, "ok\n"))
        factory.pause()
        paused = (503, "paused by the control channel: no request is answered\n")
        self.assertEqual(server.get("/health")[::2], paused)
        self.assertEqual(server.get("/health?status=1")[::2], paused)
        self.assertEqual(server.snapshot.document()["health"]["state"], "bad")
        factory.resume()
        server.clock.advance(2)
        self.assertEqual(server.get("/health")[::2], (200, "ok\n"))


class StatusTests(unittest.TestCase):
    def test_what_a_reply_says(self) -> None:
        for reply, wanted in (
            (b"!status,ok,1.5,ok,0", ("ok", False)),
            (b"!status,ok,1.5,adc; too hot,1", ("adc; too hot", True)),
            (b"!status,fail,busy", ("status failed: busy", None)),
            (b"!status,ok", ("status failed: ", None)),
            (b"nonsense", ("status failed: the reply is not valid", None)),
            (b"\xff", ("status failed: the reply is not valid", None)),
        ):
            with self.subTest(reply):
                self.assertEqual(status_of(reply, 7.0), (*wanted, 7.0))

    def test_that_of_a_client_is_used(self) -> None:
        server = Monitored()
        self.assertIsNone(server.snapshot.status)
        server.ask(b"?status")
        found = server.snapshot.document()["status"]
        self.assertEqual((found["text"], found["acquiring"]), ("ok", False))

    def test_a_mistake_of_a_client_is_not_the_status(self) -> None:
        server = Monitored()
        server.ask(b"?status")
        for request in (b"?status,1", b"?status,", b"?status,1,2"):
            with self.subTest(request):
                self.assertRegex(server.ask(request), rb"!status,(fail|invalid),")
                self.assertEqual(server.snapshot.document()["status"]["text"], "ok")
                self.assertEqual(server.get("/health?status=1")[0], 200)

    def test_a_question_of_the_monitor_is_no_exchange(self) -> None:
        server = Monitored()
        self.assertIsNone(server.snapshot.refresh_status())
        self.assertEqual(server.snapshot.document()["status"], {"text": "ok", "acquiring": False, "time": NOW})
        self.assertEqual(server.counters.commands, {})

    def test_a_stopping_server_is_not_asked(self) -> None:
        server = Monitored()
        server.factory.stopping = True
        self.assertIsNone(server.snapshot.refresh_status())
        self.assertIsNone(server.snapshot.status)

    def test_a_status_that_raises(self) -> None:
        class Broken(Backend):
            def status(self) -> Any:
                raise ZeroDivisionError

        server = Monitored(Broken())
        with self.assertLogs("discosbackend.protocol", "ERROR") as log:
            server.snapshot.refresh_status()
        self.assertIn("status from the monitor failed", log.output[0])
        self.assertIsNotNone(server.snapshot.status)
        self.assertEqual(
            server.snapshot.document()["status"]["text"], "status failed: Request could not be handled correctly"
        )


class DocumentTests(unittest.TestCase):
    FIELDS = (
        *("version", "time", "server", "health", "status", "clock", "acquisition", "lanes", "watchdog"),
        *("connections", "clients", "commands", "sensors", "recordings", "log", "telemetry", "recorder", "target"),
    )

    def test_the_fields(self) -> None:
        server = Monitored()
        server.clock_health.steps, server.clock_health.last_step = 1, Step(NOW, -0.5)
        server.snapshot.telemetry = lambda: {"state": "connected", "problem": ""}
        connection = server.connect()
        connection.ask(b"?status\r\n")
        document = server.snapshot.document()
        self.assertEqual(tuple(document), self.FIELDS)
        self.assertEqual((document["version"], document["time"]), (1, NOW))
        self.assertEqual(document["clock"]["last_step"], {"time": NOW, "seconds": -0.5})
        self.assertEqual((document["clock"]["synchronised"], document["clock"]["error"]), (True, 1e-5))
        self.assertEqual(document["connections"], {"open": 1, "total": 1})
        self.assertEqual(document["telemetry"], {"state": "connected", "problem": ""})
        about = document["server"]
        self.assertEqual((about["name"], about["backend"], about["package"]), ("Plain", "Plain", __version__))
        self.assertEqual((about["protocol"], about["pid"], about["reactor"]), ("1.4", os.getpid(), "Clock"))
        (client,) = document["clients"]
        self.assertEqual((client["connection"], client["requests"], client["last"]["code"]), (1, 1, "ok"))
        (status,) = document["commands"]
        self.assertEqual((status["name"], status["ok"], len(status["history"])), ("status", 1, 60))

    def test_the_pieces_are_the_same_document(self) -> None:
        backend = Measuring(Clock())
        server = Monitored(backend)
        connections = [server.connect() for _ in range(130)]
        for connection in connections[:25]:
            connection.ask(b"?status\r\n?time\r\n")
        pieces = list(server.snapshot.pieces())
        document = server.snapshot.document()
        self.assertEqual(json.loads("".join(pieces)), document)
        self.assertEqual(len(document["clients"]), 100)
        self.assertEqual([client["requests"] for client in document["clients"]], [2] * 25 + [0] * 75)
        self.assertGreater(len(pieces), 25)

    def test_it_is_described(self) -> None:
        """docs/monitoring.md has every field of the document, and no other one."""
        page = (Path(__file__).parent.parent / "docs" / "monitoring.md").read_text(encoding="utf-8")
        section = page.partition("## The document /status.json")[2].partition("\n## ")[0]
        rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        described = [name.strip(" `") for row in rows for name in row.split(",")]
        self.assertEqual(tuple(described), self.FIELDS)
        document = Monitored().snapshot.document()
        for name in ("server", "clock", "connections", "log"):
            (row,) = [line for line in section.splitlines() if line.startswith(f"| `{name}`")]
            for field in document[name]:
                self.assertIn(f"`{field}`", row)

    def test_behind_a_tap(self) -> None:
        server = Monitored(state=False)
        server.ask(b"?status")
        document = server.snapshot.document()
        for name in ("acquisition", "lanes", "watchdog", "recordings"):
            self.assertIsNone(document[name])
        self.assertEqual(document["sensors"], [])
        self.assertEqual(document["status"]["text"], "ok")
        self.assertEqual(
            document["health"], {"ok": True, "reasons": [], "state": "good", "summary": "The server is all right."}
        )
        # A tap does not ask the instrument anything.
        server.clock.advance(100)
        self.assertIsNone(server.snapshot.refresh_status())
        self.assertEqual(server.counters.commands["status"].requests, 1)

    def test_long_texts(self) -> None:
        self.assertEqual(shortened("x" * 200), "x" * 200)
        self.assertEqual(shortened("x" * 201), "x" * 197 + "...")
        backend = Plain()
        backend.text = "y" * 300
        server = Monitored(backend)
        server.snapshot.refresh_status()
        self.assertEqual(len(server.snapshot.document()["status"]["text"]), 200)


if __name__ == "__main__":
    unittest.main()
