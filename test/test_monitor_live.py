"""What is sent to the open pages, how little waits for a slow one, and the page as the server fills it."""

from __future__ import annotations

import asyncio
import json
import re
import unittest
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from discosbackend import Acquisition, Backend, QuickLook, Sensor, Ticks
from discosbackend.exchanges import Exchange, Reads
from discosbackend.monitor import live as live_module
from discosbackend.monitor.live import MOST_READERS, Live, _Log
from discosbackend.monitor.page import page_pieces, page_resources
from discosbackend.monitor.page_template import PageTemplate
from discosbackend.monitor.sensor_history import LENGTH, STEP

from .in_memory import quiet
from .monitored import Monitored, WebTransport
from .test_monitor_page_template import STATIC

TICK = live_module._TICK


def setUpModule() -> None:
    quiet()


class Instrument(Backend):
    """A backend with a configuration, an acquisition, a sensor, and a picture that the test gives."""

    temperature = Sensor("adc0.temperature", "degC", "the FPGA", warn=70.0)

    def __init__(self) -> None:
        self.acquisition = Acquisition(begin=lambda _: None, end=lambda _: None)
        self.looks = 0
        self.picture: Any = None
        self.text = "ok"

    def status(self):
        return Ticks.now(), self.text, self.acquisition.acquiring

    def set_configuration(self, configuration):
        pass

    def set_filename(self, path):
        pass

    def start(self, timestamp=None):
        self.acquisition.start(timestamp)

    def quick_look(self):
        self.looks += 1
        return self.picture() if callable(self.picture) else self.picture


class Reader:
    """An open page."""

    def __init__(self, channel: Any, transport: WebTransport) -> None:
        self.channel = channel
        self.transport = transport
        self.read = 0

    def new(self) -> list[tuple[str, Any]]:
        """The events since the last call: their names and data."""
        data = self.transport.value().partition(b"\r\n\r\n")[2]
        body, rest = b"", data
        while rest:  # in chunks
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        text = body[self.read :].decode("ascii")
        self.read = len(body)
        found = []
        for block in text.split("\n\n")[:-1]:
            if block != "retry: 2000":
                name, _, value = block.partition("\ndata: ")
                found.append((name.removeprefix("event: "), json.loads(value)))
        return found

    def named(self, name: str) -> list[Any]:
        """The data of the new events of this name."""
        return [data for each, data in self.new() if each == name]

    def close(self) -> None:
        self.channel.connectionLost(Failure(ConnectionDone()))


class Watched(Monitored):
    """A server with its page."""

    backend: Any

    def __init__(self, backend: Any = None, state: bool = True) -> None:
        super().__init__(Instrument() if backend is None else backend, state)
        self.live = Live(self.snapshot, self.clock, self.state.quick_look if state else None)
        self.factory.listeners.append(self.live)
        self.resources.update(page_resources(self.snapshot, self.live, self.clock))

    def open(self) -> Reader:
        reader = Reader(*self.browse(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        self.clock.advance(0)
        return reader

    def wait(self, seconds: float) -> None:
        """Let time pass, in steps of the timer of the page."""
        for _ in range(round(seconds / TICK)):
            self.clock.advance(TICK)


def exchange(number: int, name: str = "start", code: str = "ok", changes: bool = True) -> Exchange:
    request, reply = f"?{name},{number}".encode(), f"!{name},{code}".encode()
    return Exchange(1, "10.0.0.7:4711", Ticks(10**16 + number), request, name, reply, code, changes, 0.001)


class LogTests(unittest.TestCase):
    """The exchanges that are kept for the pages, of any sequence in which they come."""

    @given(st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans())))
    def test_the_last_ones(self, steps: list[tuple[int, bool, bool]]) -> None:
        log, every, unsent, number = _Log(7, 3), [], 0, 0
        for count, together, taken in steps:
            values = [v for each in range(count) for v in (number + each, "p", 0.0, b"?x", "x", b"!x,ok", 0.0)]
            number += count
            reads = Reads.of(values) if values else ()
            log.extend(reads if together else list(reads))
            every += list(reads)
            unsent += count
            self.assertEqual(log.last(), every[-7:])
            self.assertEqual(log.last(2), every[-2:])
            self.assertEqual(log.last(0), [])
            self.assertLessEqual(sum(map(len, log._pieces)), 2 * 7)
            if taken:
                newest = min(unsent, 3)
                self.assertEqual(log.take(), (every[len(every) - newest :], unsent - newest))
                unsent = 0


class EventTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = Watched()

    def test_the_response_and_the_first_events(self) -> None:
        self.server.ask(b"?set-configuration,SK00")
        self.server.ask(b"?status")
        reader = self.server.open()
        head = reader.transport.value().partition(b"\r\n\r\n")[0]
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertIn(b"Content-Type: text/event-stream", head)
        self.assertIn(b"Content-Security-Policy: default-src 'none'", head)
        events = reader.new()
        self.assertEqual(events[0][0], "history")
        kept = events[0][1]["exchanges"]
        self.assertEqual([each["name"] for each in kept], ["set-configuration", "status"])
        self.assertEqual(kept[0]["q"], "?set-configuration,SK00")
        self.assertEqual(kept[0]["a"], "!set-configuration,ok")
        self.assertEqual((kept[0]["code"], kept[0]["changes"], kept[1]["changes"]), ("ok", True, False))
        self.assertEqual(set(kept[0]), {"t", "c", "peer", "q", "a", "s", "name", "code", "changes", "at"})
        status = dict(events)["status"]
        self.assertEqual(status["version"], 1)
        self.assertEqual(status["status"]["text"], "ok")

    def test_an_exchange_is_sent_within_a_tick(self) -> None:
        reader = self.server.open()
        reader.new()
        self.server.ask(b"?set-configuration,SK00")
        self.server.wait(TICK)
        (found,) = reader.named("exchange")
        self.assertEqual(found["q"], "?set-configuration,SK00")

    def test_the_time_in_a_request(self) -> None:
        """That of a timed start or stop, in Unix seconds, in both forms of the protocol."""
        reader = self.server.open()
        reader.new()
        for request, at in (
            (b"?start", None),
            (b"?start,17960000955000000", 1796000095.5),
            (b"?stop,1796000095.1290000", 1796000095.129),
            (b"?stop,soon", None),
            (b"?stop,", None),
            (b"?set-filename,17960000955000000", None),
            (b"?convert-timestamp,17960000955000000", None),
        ):
            with self.subTest(request):
                self.server.ask(request)
                self.server.wait(TICK)
                (found,) = reader.named("exchange")
                self.assertEqual(found["at"], at)

    def test_bytes_of_a_peer_cannot_make_an_event(self) -> None:
        reader = self.server.open()
        reader.new()
        lines = (
            b"?<script>alert(1)</script>", b"?a\xff\xfe\x00", b"?a,\rdata: x\r\revent: status", b"?" + b"x" * 5000,
        )  # fmt: skip
        for line in lines:
            self.server.ask(line)
        self.server.wait(TICK)
        found = reader.named("exchange")
        self.assertEqual(found[0]["q"], "?<script>alert(1)</script>")
        self.assertEqual(found[1]["q"], "?a\xff\xfe\x00")
        self.assertEqual(found[2]["q"], "?a,\rdata: x\r\revent: status")
        self.assertLessEqual(len(found[3]["q"]), 200)

    def test_the_status_once_a_second(self) -> None:
        reader = self.server.open()
        self.server.wait(0.5)
        self.assertGreaterEqual(len(reader.named("status")), 1)
        for _ in range(3):
            self.server.wait(1)
            self.assertEqual(len(reader.named("status")), 1)

    def test_an_answer_to_the_question_of_the_page_is_sent_at_once(self) -> None:
        class Slow(Instrument):
            answer: Deferred[tuple[Ticks, str, bool]] = Deferred()

            def status(self):
                return self.answer

        server = Watched(Slow())
        reader = server.open()
        server.wait(0.5)
        self.assertEqual([status["status"] for status in reader.named("status")], [None])
        server.backend.answer.callback((Ticks.now(), "warming up", False))
        server.clock.advance(0)
        (status,) = reader.named("status")
        self.assertEqual(status["status"]["text"], "warming up")

    def test_the_acquisition_begins(self) -> None:
        reader = self.server.open()
        self.server.wait(2 * TICK)
        reader.new()
        self.server.ask(b"?start")
        self.server.wait(TICK)
        (status,) = reader.named("status")
        self.assertTrue(status["acquisition"]["acquiring"])

    def test_nobody_looks(self) -> None:
        before = len(self.server.clock.getDelayedCalls())
        for _ in range(3):
            self.server.ask(b"?set-configuration,SK00")
        self.assertEqual(len(self.server.clock.getDelayedCalls()), before)
        reader = self.server.open()
        self.server.wait(2)
        reader.close()
        self.assertEqual(len(self.server.clock.getDelayedCalls()), before)
        self.assertEqual(self.server.live.open, 0)

    def test_nothing_is_sent_twice_or_lost_while_the_history_is_made(self) -> None:
        """Exchanges between the request of a page and its first events, with other pages open and without."""
        for others in (0, 1):
            with self.subTest(others):
                server = Watched()
                pages = [server.open() for _ in range(others)]
                server.live(exchange(1))
                channel, transport = server.browse(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                reader = Reader(channel, transport)
                self.assertEqual(reader.new(), [])
                server.live(exchange(2))
                # The history takes so long that the timer is first.
                server.live._send_exchanges()
                server.wait(2 * TICK)
                server.live(exchange(3))
                server.wait(TICK)
                for page in [*pages, reader]:
                    events = page.new()
                    self.assertEqual(events[0][0], "history")
                    kept = dict(events)["history"]["exchanges"]
                    sent = [data for name, data in events if name == "exchange"]
                    self.assertEqual([each["q"] for each in [*kept, *sent]], ["?start,1", "?start,2", "?start,3"])
                self.assertEqual(server.live.open, others + 1)

    def test_a_head_request_opens_nothing(self) -> None:
        code, headers, body = self.server.get("/events", "HEAD")
        self.assertEqual((code, body), (200, ""))
        self.assertIn("Content-Type: text/event-stream", headers)
        self.assertEqual(self.server.live.open, 0)

    def test_behind_a_tap(self) -> None:
        server = Watched(state=False)
        reader = server.open()
        server.wait(2)
        status = reader.named("status")[-1]
        self.assertIsNone(status["acquisition"])
        self.assertIsNone(status["lanes"])

    def test_the_end_of_the_server(self) -> None:
        self.server.live.start()
        reader = self.server.open()
        self.server.live.stop()
        self.assertTrue(reader.transport.disconnecting)
        reader.close()
        self.assertEqual(self.server.clock.getDelayedCalls(), [])

    def test_a_failure_to_make_an_event_is_logged(self) -> None:
        reader = self.server.open()
        self.server.wait(2 * TICK)
        reader.new()
        with self.assertLogs(live_module.logger, "ERROR") as log:
            self.server.snapshot.telemetry = lambda: 1 / 0  # type: ignore[assignment]
            self.server.wait(3)
        self.assertIn("an event for the page cannot be made", log.output[0])
        self.server.snapshot.telemetry = None
        self.server.wait(1.1)
        self.assertEqual(len(reader.named("status")), 1)


class BoundTests(unittest.TestCase):
    """However many exchanges, pages and slow pages there are, the memory is bounded."""

    def setUp(self) -> None:
        self.server = Watched()

    def test_what_is_kept_for_a_new_page(self) -> None:
        for number in range(2000):
            self.server.live(exchange(number))
            self.server.live(exchange(number, "status", changes=False))
            self.server.live(exchange(number, "get-tpi", "fail", changes=False))
        reader = self.server.open()
        (history,) = reader.named("history")
        names = [each["name"] for each in history["exchanges"]]
        self.assertEqual({name: names.count(name) for name in names}, {"start": 300, "get-tpi": 100, "status": 100})
        self.assertEqual(history["exchanges"][299]["q"], "?start,1999")
        self.server.wait(2 * TICK)
        self.assertEqual(reader.named("exchange"), [])

    def test_refused_requests_do_not_displace_a_change(self) -> None:
        reader = self.server.open()
        reader.new()
        self.server.live(exchange(1, "stop"))
        for number in range(400):
            self.server.live(exchange(number + 2, "get-tpi", "fail", changes=False))
            self.server.live(exchange(number + 2, "set-section", "fail"))
        self.server.wait(TICK)
        self.assertIn("?stop,1", [data["q"] for data in reader.named("exchange")])
        (history,) = self.server.open().named("history")
        self.assertIn("?stop,1", [each["q"] for each in history["exchanges"]])
        self.assertLessEqual(len(history["exchanges"]), 500)
        # On the page without JavaScript too. The list is in the order of time.
        shown = self.server.live.last_exchanges()
        self.assertEqual(shown[-1]["q"], "?stop,1")
        self.assertEqual(len(shown), 51)
        times = [each["t"] for each in shown]
        self.assertEqual(times, sorted(times, reverse=True))

    def test_a_flood(self) -> None:
        reader = self.server.open()
        reader.new()
        for number in range(1000):
            self.server.live(exchange(number))
            self.server.live(exchange(number, "status", changes=False))
            self.server.live(exchange(number, "stop", "fail"))
        self.server.wait(TICK)
        events = reader.new()
        shown = [data["q"] for name, data in events if name == "exchange"]
        self.assertEqual(len(shown), 110)
        self.assertEqual((shown[0], shown[74]), ("?start,925", "?start,999"))
        self.assertEqual((shown[99], shown[109]), ("?stop,999", "?status,999"))
        self.assertEqual(dict(events)["missed"], {"total": 2890})
        self.server.wait(TICK)
        self.assertNotIn("missed", dict(reader.new()))

    def test_more_pages_than_are_allowed(self) -> None:
        readers = [self.server.open() for _ in range(MOST_READERS)]
        code, headers, body = self.server.get("/events")
        self.assertEqual(code, 503)
        self.assertIn("Retry-After: 10", headers)
        self.assertIn("32 pages are open already", body)
        readers[0].close()
        self.assertEqual(self.server.open().new()[0][0], "history")
        self.assertEqual(self.server.live.open, MOST_READERS)

    def test_a_slow_page(self) -> None:
        slow, quick = self.server.open(), self.server.open()
        slow.new(), quick.new()
        slow.channel.pauseProducing()
        size = len(slow.transport.value())
        for number in range(300):
            self.server.live(exchange(number))
            self.server.wait(TICK)
        self.assertEqual(len(slow.transport.value()), size)
        self.assertEqual(len(quick.named("exchange")), 300)
        (reader,) = [each for each in self.server.live._readers if not each._is_free]
        self.assertEqual((len(reader._batches), len(reader._newest)), (20, 1))
        slow.channel.resumeProducing()
        events = slow.new()
        self.assertEqual(events[0][1]["q"], "?start,280")
        self.assertEqual(dict(events)["missed"], {"total": 280})
        self.assertEqual([name for name, _ in events].count("status"), 1)
        self.server.wait(1)
        self.assertEqual(len(slow.named("status")), 1)

    def test_a_page_that_is_stuck_is_closed(self) -> None:
        stuck, other = self.server.open(), self.server.open()
        stuck.channel.pauseProducing()
        self.server.wait(59)
        self.assertFalse(stuck.transport.aborted)
        self.server.wait(2)
        self.assertTrue(stuck.transport.aborted)
        self.assertFalse(other.transport.aborted)
        stuck.close()
        self.assertEqual(self.server.live.open, 1)

    def test_a_page_that_closes_before_its_history(self) -> None:
        channel, transport = self.server.browse(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        size = len(transport.value())
        Reader(channel, transport).close()
        self.server.wait(1)
        self.assertEqual(len(transport.value()), size)
        self.assertEqual(self.server.live.open, 0)

    def test_an_open_page_has_no_deadline(self) -> None:
        reader = self.server.open()
        self.server.wait(100)
        self.assertFalse(reader.transport.aborted)


class QuickLookTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = Watched()
        self.backend = self.server.backend
        self.backend.picture = QuickLook(100, 500, [[1.0, 2.0]], ["L"])

    def test_only_while_somebody_looks_and_once_a_second(self) -> None:
        self.server.wait(3)
        self.assertEqual(self.backend.looks, 0)
        one, other = self.server.open(), self.server.open()
        self.server.wait(0.5)
        before = self.backend.looks
        self.assertLessEqual(before, 2)
        one.new()
        self.server.wait(5)
        self.assertEqual(self.backend.looks, before + 5)
        looks = one.named("quick_look")
        self.assertEqual(len(looks), 5)
        self.assertEqual(looks[0], {"start_mhz": 100.0, "width_mhz": 500.0, "names": ["L"], "spectra": [[1.0, 2.0]]})
        one.close(), other.close()
        self.server.wait(3)
        self.assertEqual(self.backend.looks, before + 5)

    def test_several_pages_share_one_look(self) -> None:
        for _ in range(5):
            self.server.open()
        before = self.backend.looks
        self.server.wait(1)
        self.assertLessEqual(self.backend.looks, before + 2)

    def test_nothing_to_show(self) -> None:
        self.backend.picture = None
        reader = self.server.open()
        self.server.wait(2)
        self.assertEqual(reader.named("quick_look"), [])

    def test_a_failure_is_logged_once_a_minute(self) -> None:
        self.backend.picture = lambda: 1 / 0
        with self.assertLogs(live_module.logger, "ERROR") as log:
            reader = self.server.open()
            self.server.wait(30)
        self.assertEqual(len(log.records), 1)
        self.assertIn("quick_look() failed", log.output[0])
        self.assertIn("ZeroDivisionError", log.output[0])
        self.backend.picture = QuickLook(0, 1, [[1]])
        reader.new()
        self.server.wait(2)
        self.assertEqual(len(reader.named("quick_look")), 2)

    def test_a_failure_that_is_no_exception(self) -> None:
        before = len(self.server.clock.getDelayedCalls())
        for problem in (SystemExit(3), asyncio.CancelledError(), GeneratorExit()):
            with self.subTest(type(problem)):

                def fail(problem: BaseException = problem) -> None:
                    raise problem

                self.backend.picture = fail
                with self.assertLogs(live_module.logger, "ERROR") as log:
                    reader = self.server.open()
                    self.server.wait(3)
                    reader.close()
                    self.server.live._limited.sum_up()
                self.assertIn("quick_look() failed", log.output[0])
                self.assertGreaterEqual(len(reader.named("status")), 3)
                self.assertEqual(len(self.server.clock.getDelayedCalls()), before)
                self.server.wait(70)

    def test_another_result(self) -> None:
        self.backend.picture = "x" * 1000
        with self.assertLogs(live_module.logger, "ERROR") as log:
            self.server.open()
            self.server.wait(5)
        (record,) = log.records
        self.assertRegex(record.getMessage(), r"must return a QuickLook or None, not 'x{79}\Z")

    def test_values_that_are_no_numbers(self) -> None:
        self.backend.picture = QuickLook(0, 1, [["a"]])
        with self.assertLogs(live_module.logger, "ERROR") as log:
            reader = self.server.open()
            self.server.wait(5)
        self.assertEqual(len(log.records), 1)
        self.assertGreaterEqual(len(reader.named("status")), 5)

    def test_a_coroutine(self) -> None:
        answers: list[Deferred[QuickLook]] = []

        async def picture() -> QuickLook:
            answers.append(Deferred())
            return await answers[-1]

        self.backend.picture = picture
        reader = self.server.open()
        self.server.wait(5)
        self.assertEqual(len(answers), 1)
        answers[0].callback(QuickLook(0, 1, [[7]]))
        self.server.wait(1)
        self.assertEqual(reader.named("quick_look")[0]["spectra"], [[7]])
        self.assertEqual(len(answers), 2)
        with self.assertLogs(live_module.logger, "ERROR"):
            answers[1].errback(ZeroDivisionError())
        self.server.wait(1)
        self.assertEqual(len(answers), 3)

    def test_which_backends_have_it(self) -> None:
        class Foreign:
            def __getattr__(self, name: str) -> Any:
                return lambda *_: 5

        class Plain(Backend):
            pass

        class Own:
            def quick_look(self) -> int:
                return 5

        for backend, found in ((Foreign(), None), (Plain(), None), (Own(), 5)):
            with self.subTest(backend):
                method = Monitored(backend).state.quick_look
                self.assertEqual(method and method(), found)


class SensorHistoryTests(unittest.TestCase):
    def test_the_last_hour(self) -> None:
        server = Watched()
        server.live.start()
        sensor = server.backend.temperature
        for number in range(LENGTH + 40):
            sensor.set(None if number == LENGTH else float(number))
            server.clock.advance(STEP)
        values = server.live.sensor_history.of("adc0.temperature")
        self.assertEqual(len(values), LENGTH)
        self.assertEqual((values[0], values[-1]), (40.0, LENGTH + 39.0))
        self.assertIsNone(values[LENGTH - 40])
        (history,) = server.open().named("history")
        self.assertEqual(history["sensors"], {"adc0.temperature": values})
        self.assertEqual(server.live.sensor_history.of("nonesuch"), [])

    def test_very_many_sensors(self) -> None:
        sensors = {f"s{number}": Sensor(f"s{number}", type=int) for number in range(310)}
        server = Watched(type("Many", (Instrument,), sensors)())
        server.live.start()
        (history,) = server.open().named("history")
        self.assertEqual(len(history["sensors"]), 300)

    def test_values_that_are_no_numbers(self) -> None:
        class Several(Backend):
            a = Sensor("a", type=bool)
            b = Sensor("b", type=str)
            c = Sensor("c")

        server = Watched(Several())
        server.backend.a.set(True)
        server.backend.b.set("text")
        server.backend.c.set(1.23456789)
        server.live.start()
        history = server.live.sensor_history
        self.assertEqual([history.of(name) for name in "abc"], [[1.0], [None], [1.23457]])


class PageTests(unittest.TestCase):
    """The page without JavaScript, and its files."""

    def setUp(self) -> None:
        self.server = Watched()

    def test_the_state_of_the_moment(self) -> None:
        self.server.backend.temperature.set(71.25)
        self.server.live.start()
        self.server.ask(b"?set-configuration,<script>alert(1)</script>")
        self.server.ask(b"?start")
        code, headers, body = self.server.get("/")
        self.assertEqual(code, 200)
        self.assertIn("Content-Type: text/html; charset=utf-8", headers)
        self.assertIn("script-src 'self'", headers)
        for text in (
            '<span class="mark" data-is="status.text" data-state="ok"></span><span data-text="status.text">ok</span>',
            '<p class="big" data-show="acquisition.acquiring"><span class="mark running"></span>acquiring</p>',
            '<p class="big" data-show="!acquisition.acquiring" hidden>',
            '<code data-text="q">?set-configuration,&lt;script&gt;alert(1)&lt;/script&gt;</code>',
            '<td data-text="name">adc0.temperature</td><td class="number"><b data-text="value|value">71.25</b></td>',
            'data-state="warn"',
        ):
            self.assertIn(text, body)
        self.assertEqual(len(re.findall("<script", body)), 1)
        # The last change is the first.
        self.assertLess(body.index(">?start<"), body.index(">?set-configuration,"))

    def test_a_text_that_utf8_cannot_have(self) -> None:
        class Labelled(Instrument):
            label = Sensor("label", type=str)

        backend = Labelled()
        backend.label.set("caf\udcff</script>\x1b[31m")
        server = Watched(backend)
        for _ in range(2):
            code, _, body = server.get("/")
            self.assertEqual(code, 200)
            self.assertIn("caf\\udcff&lt;/script&gt;", body)
            server.clock.advance(1)

    def test_nothing_has_changed_yet(self) -> None:
        begin = datetime.fromtimestamp(self.server.state.about.begin, UTC)
        text = f'started at <span data-text="server.begin|clock">{begin:%Y-%m-%d %H:%M:%S}</span>'
        shown = '<p class="quiet" data-show="!filter">No client has changed anything since the server'
        body = self.server.get("/")[2]
        self.assertIn(f"{shown} {text}.</p>", body)
        self.assertIn('<div data-show="!exchanges">', body)
        self.server.ask(b"?set-configuration,SK00")
        self.server.wait(2)
        self.assertIn('<div data-show="!exchanges" hidden>', self.server.get("/")[2])

    def test_a_timed_stop_is_shown_in_words(self) -> None:
        self.server.ask(b"?start")
        self.server.ask(b"?stop,17960000955000000")
        body = self.server.get("/")[2]
        self.assertIn('data-show="at">at <span data-text="at|moment">2026-11-30 00:54:55.500</span>', body)
        self.assertIn('<code data-text="q">?start</code> <span class="quiet" data-show="at" hidden>', body)

    def test_the_sentence_about_the_server_and_its_instrument(self) -> None:
        mark = '<span class="mark" data-is="health.state" data-state="{}"></span><span data-text="health.summary">{}<'
        for text, problem, state, sentence in (
            ("ok", "", "good", "The server is all right."),
            ("ADC 3", "", "attention", "The server answers; the instrument does not report ok."),
            ("ok", "no", "bad", "The instrument reports ok, but the server has a problem:"),
            ("ADC 3", "no", "bad", "The server has a problem:"),
        ):
            with self.subTest(sentence):
                server = Watched()
                server.backend.text = text
                reasons = [problem] if problem else []
                with patch.object(server.snapshot, "health", lambda found=reasons: found):
                    body = server.get("/")[2]
                self.assertIn(mark.format(state, sentence), body)
        tap = Watched(state=False).get("/")[2]
        unknown = "The server answers; the status of the instrument is not known yet."
        self.assertIn(mark.format("unknown", unknown), tap)

    def test_each_client_keeps_its_place(self) -> None:
        for requests, connection in enumerate([self.server.connect() for _ in range(3)], 1):
            for _ in range(requests):
                connection.ask(b"?status\r\n")
        document = self.server.snapshot.document()
        self.assertEqual([client["requests"] for client in document["clients"]], [3, 2, 1])
        body = self.server.get("/")[2].partition('data-each="clients"')[2]
        self.assertEqual(re.findall(r'data-text="requests\|integer">(\d)<', body), ["1", "2", "3"])

    def test_behind_a_tap_there_are_no_empty_panels(self) -> None:
        body = Watched(state=False).get("/")[2]
        for panel in ("lanes", "watchdog", "recordings", "sensors"):
            self.assertRegex(body, f'<section [^>]*aria-labelledby="h-{panel}"[^>]* hidden>')
        self.assertRegex(body, r'<section class="tile" aria-labelledby="h-acquisition">')

    def test_the_files(self) -> None:
        for name, content_type in (
            ("page.css", "text/css; charset=utf-8"),
            ("page.js", "text/javascript; charset=utf-8"),
            ("icon.svg", "image/svg+xml"),
        ):
            code, headers, body = self.server.get(f"/static/{name}")
            self.assertEqual((code, body), (200, STATIC.joinpath(name).read_text(encoding="utf-8")))
            self.assertIn(f"Content-Type: {content_type}\r\n", f"{headers}\r\n")
            self.assertEqual(self.server.get(f"/static/{name}", "HEAD")[::2], (200, ""))

    def test_what_is_refused(self) -> None:
        for path in (
            "/static",
            "/static/",
            "/static/page.html",
            "/static/../page.py",
            "/static/%2e%2e/page.py",
            "/page",
        ):
            self.assertEqual(self.server.get(path)[0], 404)
        for path in ("/", "/events", "/static/page.js"):
            self.assertEqual(self.server.get(path, "POST")[0], 405)
            self.assertEqual(self.server.get(path, host="evil.example")[0], 421)
        self.assertEqual(self.server.live.open, 0)

    def test_the_pieces_of_a_full_page_are_short(self) -> None:
        server = self.server
        connections = [server.connect() for _ in range(120)]
        for connection in connections:
            connection.ask(b"?status\r\n")
        template = PageTemplate(STATIC.joinpath("page.html").read_text(encoding="utf-8"))
        pieces = list(page_pieces(template, server.snapshot, server.live))
        self.assertGreater(len(pieces), 1000)
        # The longest are constant parts of the file.
        self.assertLess(max(map(len, pieces)), len(STATIC.joinpath("page.html").read_bytes()))


if __name__ == "__main__":
    unittest.main()
