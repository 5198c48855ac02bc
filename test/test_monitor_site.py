"""MonitorSite: what the web server answers, and what it does not let a client do."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import unittest
from collections.abc import Callable, Iterator
from errno import ENOSPC
from pathlib import Path
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from discosbackend import Backend, Ticks
from discosbackend.monitor import site
from discosbackend.monitor.recorder import Recorder
from discosbackend.monitor.site import HEADERS, MOST_CONNECTIONS, host_names, is_allowed
from discosbackend.monitor.slices import SlicedText

from .in_memory import quiet
from .monitored import Monitored, Plain, response


def setUpModule() -> None:
    quiet()


class Slow(Backend):
    """A backend whose status is answered when the test says so."""

    def __init__(self) -> None:
        self.answers: list[Deferred[tuple[Ticks, str, bool]]] = []

    def status(self):
        answer: Deferred[tuple[Ticks, str, bool]] = Deferred()
        self.answers.append(answer)
        return answer


class HostTests(unittest.TestCase):
    def test_which_hosts_are_allowed(self) -> None:
        names = frozenset(("localhost", "backend", "backend.example"))
        for host in (
            "127.0.0.1", "127.0.0.1:8080", "10.1.2.3:80", "[::1]", "[::1]:8080", "[2001:db8::1]", "localhost",
            "localhost:8080", "LocalHost:1", "backend", "backend.example:8080", "Backend.Example.:8080", "backend:",
        ):  # fmt: skip
            with self.subTest(host):
                self.assertTrue(is_allowed(host, names))
        for host in (
            "", ":", ":8080", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
            "[evil.example]", "[127.0.0.1]", "::1", "127.0.0.1:port", "127.0.0.1:80:80", "backend@evil.example",
            "evil.example/localhost", "[::1", "::1]", "[::1]evil.example", "127.1", "0x7f.1", "2130706433",
            "localhost:\xb2", "localhost ", "backend..example",
        ):  # fmt: skip
            with self.subTest(host):
                self.assertFalse(is_allowed(host, names))

    def test_the_names_of_this_host(self) -> None:
        found = host_names(["Backend.Example.ORG."])
        self.assertLessEqual({"localhost", "backend.example.org"}, found)
        self.assertNotIn("", found)

    def test_a_request_for_another_host(self) -> None:
        server = Monitored()
        with self.assertLogs(site.logger, "WARNING") as log:
            for path in ("/health", "/status.json", "/nonesuch"):
                code, _, body = server.get(path, host="evil.example")
                self.assertEqual(code, 421)
                self.assertNotIn("ok", body)
        self.assertIn("'evil.example'", log.records[0].getMessage())
        self.assertEqual(server.get("/health", host="backend.example:8080")[0], 200)

    def test_the_path_of_the_whole_server(self) -> None:
        """Twisted itself answers `OPTIONS *` without looking at the host."""
        server = Monitored()
        self.assertEqual(server.get("*", method="OPTIONS")[0], 405)
        self.assertEqual(server.get("*")[0], 404)
        self.assertEqual(server.get("*", host="evil.example")[0], 421)

    def test_no_host_and_several(self) -> None:
        server = Monitored()
        for request, wanted in (
            (b"GET /health HTTP/1.1\r\n\r\n", 400),
            (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
            (b"GET /health HTTP/1.0\r\nHost: evil.example\r\n\r\n", 421),
            # As HAProxy checks the health of a server.
            (b"GET /health HTTP/1.0\r\n\r\n", 200),
        ):
            with self.subTest(request):
                _, transport = server.browse(request)
                self.assertEqual(response(transport.value())[0], wanted)
                self.assertTrue(transport.disconnecting)


class RefusalTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = Monitored()

    def test_other_methods(self) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "X" * 100):
            for path in ("/health", "/status.json", "/nonesuch"):
                with self.subTest(method, path=path):
                    code, headers, _ = self.server.get(path, method)
                    self.assertEqual(code, 405)
                    self.assertIn("Allow: GET, HEAD", headers)

    def test_a_body_is_not_received(self) -> None:
        for method, wanted in (("POST", 405), ("GET", 413)):
            for more in ("Content-Length: 1000000000\r\n", "Transfer-Encoding: chunked\r\n"):
                with self.subTest(method, more=more):
                    code, _, _ = self.server.get("/health", method, more=more)
                    self.assertEqual(code, wanted)
        channel, transport = self.server.browse(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n")
        self.assertEqual(response(transport.value())[0], 405)
        length = len(transport.value())
        channel.dataReceived(b"a=b" * 1000)
        self.assertEqual(len(transport.value()), length)

    def test_tricks_with_paths(self) -> None:
        for path in (
            "/../health", "/../../etc/passwd", "/%2e%2e/health", "/health/", "//health", "/./health", "/health%00",
            "/%68ealth", "/health/../status.json", "http://localhost/health", "http://evil.example/health", "health",
            "/health;a", "/static/..%2fhealth", "/\\..\\health", "/HEALTH", "/.", "/health#x",
        ):  # fmt: skip
            with self.subTest(path):
                code, _, body = self.server.get(path)
                self.assertEqual(code, 404, body)
                self.assertTrue(body.startswith("there is no such page; there are /"), body)

    def test_a_path_that_is_not_ascii(self) -> None:
        self.assertEqual(self.server.get("/\xff\xfe")[0], 400)

    def test_long_requests(self) -> None:
        self.assertEqual(self.server.get("/" + "x" * 300)[0], 414)
        self.assertEqual(self.server.get("/health?" + "&".join("abc"))[0], 200)
        self.assertEqual(self.server.get("/health?" + "a&" * 200)[0], 414)
        for more in ("X: " + "y" * 9000 + "\r\n", "X: y\r\n" * 60, "X:y\r\n" * 5000):
            self.assertEqual(self.server.get("/health", more=more)[0], 400)
        channel, transport = self.server.browse()
        for _ in range(100):
            channel.dataReceived(b"x" * 1000)
        self.assertTrue(transport.disconnecting)

    def test_the_headers_of_every_response(self) -> None:
        for path, method, host in (
            ("/health", "GET", "localhost"),
            ("/status.json", "HEAD", "localhost"),
            ("/nonesuch", "GET", "localhost"),
            ("/health", "POST", "localhost"),
            ("/health", "GET", "evil.example"),
        ):
            code, headers, _ = self.server.get(path, method, host)
            for name, value in HEADERS.items():
                self.assertIn(f"{name.decode()}: {value.decode()}", headers.split("\r\n"), (path, code))
            self.assertIn("Connection: close", headers)
            self.assertNotIn("Twisted", headers)
        policy = HEADERS[b"Content-Security-Policy"].decode()
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)

    def test_head_has_no_body(self) -> None:
        for path in ("/health", "/status.json"):
            code, headers, body = self.server.get(path, "HEAD")
            self.assertEqual((code, body), (200, ""))
            self.assertRegex(headers, r"Content-Length: [1-9]")


class BoundTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = Monitored()

    def test_a_slow_sender(self) -> None:
        channel, transport = self.server.browse()
        for letter in b"GET /health HTTP/1.1\r\nHost: localhost\r\n"[:19]:
            channel.dataReceived(bytes((letter,)))
            self.server.clock.advance(1)
            self.assertFalse(transport.aborted)
        self.server.clock.advance(1)
        self.assertTrue(transport.aborted)

    def test_a_slow_reader(self) -> None:
        channel, transport = self.server.browse(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # It does not read: the transport asks to pause, and the connection stays open although the response is written.
        channel.pauseProducing()
        self.server.clock.advance(19)
        self.assertFalse(transport.aborted)
        self.server.clock.advance(1)
        self.assertTrue(transport.aborted)

    def test_a_response_without_end_can_stay(self) -> None:
        channel, transport = self.server.browse()
        channel.without_deadline()
        self.server.clock.advance(1000)
        self.assertFalse(transport.aborted)

    def test_a_connection_that_ends_leaves_nothing(self) -> None:
        channel, transport = self.server.browse(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertTrue(transport.disconnecting)
        channel.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.server.clock.getDelayedCalls(), [])

    def test_the_number_of_connections(self) -> None:
        opened = [self.server.browse()[0] for _ in range(MOST_CONNECTIONS)]
        with self.assertLogs(site.logger, "WARNING") as log:
            for _ in range(1000):
                self.assertIsNone(self.server.site.buildProtocol(None))
        self.assertEqual(len(log.records), 1)
        opened[0].connectionLost(Failure(ConnectionDone()))
        self.server.browse()
        self.assertIsNone(self.server.site.buildProtocol(None))

    def test_requests_are_not_queued(self) -> None:
        request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        _, transport = self.server.browse(request * 100)
        self.assertEqual(transport.value().count(b"HTTP/1.1"), 1)
        self.assertTrue(transport.disconnecting)

    def test_the_end_of_the_server(self) -> None:
        _, transport = self.server.browse()
        self.server.site.doStart()
        self.server.site.doStop()
        self.assertTrue(transport.aborted)


class HealthTests(unittest.TestCase):
    def test_healthy(self) -> None:
        self.assertEqual(Monitored().get("/health")[::2], (200, "ok\n"))

    def test_the_status_counts_only_if_it_is_asked_for(self) -> None:
        backend = Plain()
        backend.text = "adc too hot"
        server = Monitored(backend)
        self.assertEqual(server.get("/health")[0], 200)
        self.assertEqual(server.get("/health?status=0")[0], 200)
        self.assertEqual(server.get("/health?status=1")[::2], (503, "status: adc too hot\n"))
        backend.text = "ok"
        # The answer is not older than 1 s.
        self.assertEqual(server.get("/health?status=1")[0], 503)
        server.clock.advance(1)
        self.assertEqual(server.get("/health?status=1")[::2], (200, "ok\n"))

    def test_a_flight_recorder_that_fails(self) -> None:
        server = Monitored()
        with tempfile.TemporaryDirectory() as folder:
            recorder = Recorder(Path(folder, "exchanges.jsonl"))
            recorder._start = lambda: False  # type: ignore[method-assign]  # this test writes
            server.factory.listeners.append(recorder)
            server.snapshot.recorder = recorder.to_dict
            self.assertEqual(server.get("/health")[::2], (200, "ok\n"))
            with mock.patch.object(os, "write", side_effect=OSError(ENOSPC, os.strerror(ENOSPC))):
                server.ask(b"?version")
                recorder._write_some()
            wanted = f"cannot record to {recorder.path}: No space left on device"
            self.assertEqual(server.get("/health")[::2], (503, f"{wanted}\n"))
            self.assertEqual(server.snapshot.document()["health"]["reasons"], [wanted])
            server.ask(b"?version")
            recorder._write_some()
            self.assertEqual(server.get("/health")[::2], (200, "ok\n"))
            recorder.close()

    def test_a_target_that_cannot_be_reached(self) -> None:
        server = Monitored(state=False)
        problem = "the target 10.0.0.1:10000 cannot be reached: ConnectError: no route"
        part = {"name": "10.0.0.1:10000", "reachable": False, "problem": problem, "since": 1e9}
        server.snapshot.target = lambda: part
        self.assertEqual(server.get("/health")[::2], (503, f"{problem}\n"))
        document = json.loads(server.get("/status.json")[2])
        self.assertEqual((document["target"], document["health"]["reasons"]), (part, [problem]))

    def test_a_status_that_fails(self) -> None:
        server = Monitored(Backend())
        wanted = "status: status failed: not supported by this backend\n"
        self.assertEqual(server.get("/health?status=1")[::2], (503, wanted))

    def test_a_status_that_comes_later(self) -> None:
        backend = Slow()
        server = Monitored(backend)
        request = b"GET /health?status=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        transports = [server.browse(request)[1] for _ in range(3)]
        server.clock.advance(2)
        self.assertEqual([transport.value() for transport in transports], [b""] * 3)
        # One question for all of them.
        (answer,) = backend.answers
        answer.callback((Ticks.now(), "ok", False))
        for transport in transports:
            self.assertEqual(response(transport.value())[::2], (200, "ok\n"))

    def test_a_status_that_never_comes(self) -> None:
        server = Monitored(Slow())
        _, transport = server.browse(b"GET /health?status=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.clock.advance(3)
        self.assertEqual(response(transport.value())[::2], (503, "status: no answer\n"))

    def test_a_client_that_leaves_meanwhile(self) -> None:
        backend = Slow()
        server = Monitored(backend)
        for path in (b"/health?status=1", b"/status.json"):
            channel, transport = server.browse(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            channel.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(transport.value(), b"")
            self.assertEqual(server.snapshot._waiting, [])
        backend.answers[0].callback((Ticks.now(), "ok", False))
        server.clock.advance(10)
        self.assertEqual(server.clock.getDelayedCalls(), [])


class DocumentTests(unittest.TestCase):
    def test_the_document(self) -> None:
        server = Monitored()
        server.ask(b"?status")
        code, headers, body = server.get("/status.json")
        self.assertEqual(code, 200)
        self.assertIn("Content-Type: application/json", headers)
        self.assertEqual(json.loads(body)["commands"][0]["name"], "status")

    def test_a_slow_status_does_not_delay_it_for_long(self) -> None:
        server = Monitored(Slow())
        _, transport = server.browse(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.clock.advance(0.4)
        self.assertEqual(transport.value(), b"")
        server.clock.advance(0.1)
        server.clock.pump([0] * 10)
        self.assertIsNone(json.loads(response(transport.value())[2])["status"])

    def test_a_defect_of_the_monitor_is_a_500(self) -> None:
        server = Monitored()
        server.snapshot.telemetry = lambda: 1 / 0  # type: ignore[assignment]
        with mock.patch("twisted.web.server.Request._log") as log:
            code, _, body = server.get("/status.json")
        self.assertEqual(code, 500)
        self.assertNotIn("ZeroDivisionError", body)
        self.assertIs(log.failure.call_args.kwargs["failure"].type, ZeroDivisionError)


class OddTextTests(unittest.TestCase):
    """Texts that UTF-8 cannot have, such as a path whose bytes are not UTF-8."""

    def test_reasons(self) -> None:
        server = Monitored()
        with mock.patch.object(server.snapshot, "health", return_value=["cannot write /data/\udcff"]):
            code, _, body = server.get("/health")
        self.assertEqual((code, body), (503, "cannot write /data/\\udcff\n"))


class SlicedTextTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = Monitored()
        self.clock = self.server.clock
        self.made = 0

    def pieces(self):
        self.made += 1
        yield from ("a", "b", f"{self.made}")

    def test_it_is_shared_for_a_while(self) -> None:
        text = SlicedText(self.clock, self.pieces, lasts=1.0)
        found: list[bytes] = []
        for _ in range(3):
            text.get().addCallback(found.append)
        self.clock.pump([0] * 5)
        text.get().addCallback(found.append)
        self.assertEqual(found, [b"ab1"] * 4)
        self.clock.advance(1.0)
        text.get().addCallback(found.append)
        self.clock.pump([0] * 5)
        text.forget()
        text.get().addCallback(found.append)
        self.clock.pump([0] * 5)
        self.assertEqual(found[4:], [b"ab2", b"ab3"])

    def test_the_reactor_has_turns_in_between(self) -> None:
        seconds = iter(range(1000))
        turns: list[Callable[[], None]] = []
        with (
            mock.patch.object(self.clock, "callLater", lambda delay, function: turns.append(function)),
            mock.patch("discosbackend.monitor.slices.perf_counter", lambda: next(seconds)),
        ):
            found: list[bytes] = []
            SlicedText(self.clock, self.pieces).get().addCallback(found.append)
            for _ in range(4):
                self.assertEqual(found, [])
                turns.pop()()
        self.assertEqual((found, turns), ([b"ab1"], []))

    def test_whatever_goes_wrong_those_who_wait_are_told_and_the_next_text_is_made(self) -> None:
        for problem in (ZeroDivisionError(), SystemExit(3), asyncio.CancelledError()):
            with self.subTest(type(problem)):
                outcomes: list[BaseException | str] = [problem, "good"]

                def pieces(outcomes: list[BaseException | str] = outcomes) -> Iterator[str]:
                    outcome = outcomes.pop(0)
                    if isinstance(outcome, BaseException):
                        raise outcome
                    yield outcome

                text = SlicedText(self.clock, pieces)
                for wanted in (problem, b"good"):
                    found: list[object] = []
                    text.get().addBoth(found.append)
                    self.clock.advance(0)
                    (outcome,) = found
                    self.assertEqual(outcome.value if isinstance(outcome, Failure) else outcome, wanted)

    def test_what_utf8_cannot_have(self) -> None:
        found: list[bytes] = []
        SlicedText(self.clock, lambda: iter(["caf\xe9 \udcff"])).get().addCallback(found.append)
        self.clock.advance(0)
        self.assertEqual(found, [b"caf\xc3\xa9 \\udcff"])

    def test_who_no_longer_waits(self) -> None:
        text = SlicedText(self.clock, self.pieces)
        found: list[object] = []
        text.get().addErrback(lambda _: found.append("cancelled")).cancel()
        self.assertEqual(text._waiting, [])
        text.get().addCallback(found.append)
        self.clock.pump([0] * 5)
        self.assertEqual(found, ["cancelled", b"ab1"])


if __name__ == "__main__":
    unittest.main()
