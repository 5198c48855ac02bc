"""The metrics of /metrics, read by prometheus-client's own parser."""

from __future__ import annotations

import json
import re
import sys
import unittest
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from discosbackend import Backend, command
from discosbackend.monitor.clock_health import Synchronisation
from discosbackend.monitor.counters import BOUNDS
from discosbackend.monitor.metrics import METRICS, PREFIX, pieces
from discosbackend.simulator import SimulatedBackend
from discosbackend.watchdog import Watchdog

from .in_memory import quiet
from .monitored import NOW, Monitored
from .serving import ROOT
from .settings import needs_prometheus
from .test_monitor_state import Measuring

DEPLOY = ROOT / "examples" / "deploy"


def setUpModule() -> None:
    quiet()


def scraped(server: Monitored) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The samples of /metrics by the names of their lines, each by its labels. The text is checked by the parser."""
    from prometheus_client.parser import text_string_to_metric_families

    code, headers, body = server.get("/metrics")
    assert code == 200, body
    assert "Content-Type: text/plain; version=" in headers, headers
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), sample
            found[sample.name][labels] = sample.value
    return found


@needs_prometheus
class FormatTests(unittest.TestCase):
    def test_every_metric_is_there_once(self) -> None:
        _, _, body = Monitored().get("/metrics")
        for metric in METRICS:
            with self.subTest(metric.name):
                self.assertRegex(metric.full_name, r"\A[a-z_]+\Z")
                self.assertEqual(metric.name.endswith("_total"), metric.kind == "counter")
                self.assertEqual(body.count(f"# HELP {metric.full_name} {metric.help}\n"), 1)
                self.assertEqual(body.count(f"# TYPE {metric.full_name} {metric.kind}\n"), 1)

    def test_requests_by_command_and_code(self) -> None:
        server = Monitored()
        for request in (b"?status", b"?status", b"?nonesuch", b"?start", b"nothing"):
            server.ask(request)
        found = scraped(server)[f"{PREFIX}requests_total"]
        # Also the metrics that are made in several pieces have their comments once.
        self.assertEqual(server.get("/metrics")[2].count("# TYPE"), len(METRICS))
        counted = {(dict(labels)["command"], dict(labels)["code"]): value for labels, value in found.items() if value}
        wanted = {("status", "ok"): 2, ("(unknown)", "fail"): 1, ("(unknown)", "invalid"): 1, ("start", "fail"): 1}
        self.assertEqual(counted, wanted)

    def test_the_histogram(self) -> None:
        server = Monitored()
        for request in (b"?status",) * 3 + (b"?time",):
            server.ask(request)
        counts = server.counters.commands["status"]
        counts.buckets = [0] * (len(BOUNDS) + 1)
        counts.buckets[4], counts.buckets[5], counts.buckets[-1] = 1, 1, 1
        counts.seconds = 250.5
        found = scraped(server)
        buckets = {
            dict(labels)["le"]: value
            for labels, value in found[f"{PREFIX}request_seconds_bucket"].items()
            if dict(labels)["command"] == "status"
        }
        self.assertEqual(len(buckets), len(BOUNDS) + 1)
        self.assertEqual([buckets[bound] for bound in ("0.0005", "0.001", "0.002", "100.0", "+Inf")], [0, 1, 2, 2, 3])
        self.assertEqual(found[f"{PREFIX}request_seconds_count"][("command", "status"),], 3)
        self.assertEqual(found[f"{PREFIX}request_seconds_sum"][("command", "status"),], 250.5)
        self.assertEqual(len(found[f"{PREFIX}request_seconds_count"]), 2)

    def test_a_client_that_invents_names(self) -> None:
        server = Monitored()
        connection = server.connect()
        before = len(server.get("/metrics")[2])
        connection.ask(b"".join(b"?x%d\r\n" % number for number in range(2000)))
        server.clock.advance(1)
        after = server.get("/metrics")[2]
        self.assertIn('command="(unknown)"} 2000.0', after)
        self.assertNotIn("x1999", after)
        self.assertLess(len(after) - before, 4000)

    def test_texts_with_quotes(self) -> None:
        class Odd(Backend):
            def __str__(self) -> str:
                return 'an "odd" \\ name'

        found = scraped(Monitored(Odd()))
        (labels,) = found[f"{PREFIX}info"]
        self.assertEqual(dict(labels)["name"], 'an "odd" \\ name')

    def test_texts_that_utf8_cannot_have(self) -> None:
        class Odd(Backend):
            def __str__(self) -> str:
                return "caf\udcff"

        (labels,) = scraped(Monitored(Odd()))[f"{PREFIX}info"]
        self.assertEqual(dict(labels)["name"], "caf\\udcff")

    def test_a_piece_is_short(self) -> None:
        """A piece is made in one go, while the protocol waits."""
        backend = SimulatedBackend("sardara")
        server = Monitored(backend)
        connection = server.connect()
        for name in list(server.handler.commands):
            connection.ask(f"?{name}\r\n".encode())
        self.assertGreater(len(server.counters.commands), 10)
        lines = [piece.count("\n") for piece in pieces(server.snapshot)]
        self.assertLess(max(lines), 30)
        self.assertGreater(len(lines), len(METRICS) + 10)


@needs_prometheus
class ValueTests(unittest.TestCase):
    def value(self, server: Monitored, name: str, **labels: str) -> float | None:
        return scraped(server).get(PREFIX + name, {}).get(tuple(labels.items()))

    def test_a_server(self) -> None:
        server = Monitored()
        server.connect()
        server.ask(b"?status")
        found = scraped(server)
        for name, wanted in {
            "healthy": 1, "status_ok": 1, "open_connections": 1, "connections_total": 2, "received_bytes_total": 9,
            "overdue_threads": 0, "clock_synchronised": 1, "clock_error_seconds": 1e-5, "clock_steps_total": 0,
        }.items():  # fmt: skip
            with self.subTest(name):
                self.assertEqual(found[PREFIX + name][()], wanted)
        # What this server does not have has no sample, instead of a wrong one.
        for name in ("acquiring", "blocked_seconds_total", "recorded_bytes_total", "sensor_value", "free_disk_bytes"):
            self.assertNotIn(PREFIX + name, found)

    def test_what_is_not_known_of_the_clock(self) -> None:
        server = Monitored()
        server.synchronisation = Synchronisation(None, None)
        found = scraped(server)
        self.assertNotIn(f"{PREFIX}clock_synchronised", found)
        self.assertNotIn(f"{PREFIX}clock_error_seconds", found)
        server.clock.advance(1)
        server.synchronisation = Synchronisation(False, None)
        self.assertEqual(self.value(server, "clock_synchronised"), 0)

    def test_lanes(self) -> None:
        class Busy(Backend):
            @command("sweep")
            def sweep(self) -> Any:
                return Deferred()

        server = Monitored(Busy())
        for _ in range(3):
            server.connect().send(b"?sweep\r\n")
        server.clock.advance(4)
        found = scraped(server)
        self.assertEqual(found[f"{PREFIX}lane_waiting"][("lane", "device"),], 2)
        self.assertEqual(found[f"{PREFIX}lane_held_seconds"][("lane", "device"),], 4)
        self.assertEqual(found[f"{PREFIX}lane_held_seconds"][("lane", "files"),], 0)

    def test_an_overdue_thread_counts_once(self) -> None:
        server = Monitored()
        job = mock.Mock(overdue=True, age=lambda now: 75.0)
        job.command.name = "start"
        for name in ("device", "lock bus"):
            server.handler._scheduler.lock(name).holder = job
        found = scraped(server)
        self.assertEqual(found[f"{PREFIX}overdue_threads"][()], 1)
        self.assertEqual(found[f"{PREFIX}healthy"][()], 0)

    def test_the_watchdog(self) -> None:
        server = Monitored()
        dog = server.service.watchdog = Watchdog(server.clock, 0.5, dict)
        dog._findings, dog._blocked = 3, 2.5
        found = scraped(server)
        self.assertEqual(found[f"{PREFIX}blocked_seconds_total"][()], 2.5)
        self.assertEqual(found[f"{PREFIX}blocked_total"][()], 3)

    def test_acquisition_and_sensors(self) -> None:
        clock = Clock()
        backend = Measuring(clock)
        server = Monitored(backend)
        backend.acquisition.start(NOW + 1)
        clock.pump([0.5] * 3)
        backend.acquisition.stop(NOW + 100)
        backend.temperature.set(91.5)
        backend.door.set(False)
        backend.name.set("a text")
        found = scraped(server)
        self.assertEqual(found[f"{PREFIX}acquiring"][()], 1)
        self.assertEqual(found[f"{PREFIX}pending_stop_time_seconds"][()], NOW + 100)
        self.assertNotIn(f"{PREFIX}pending_start_time_seconds", found)
        self.assertGreaterEqual(found[f"{PREFIX}last_lateness_seconds"][()], 0)
        values = {dict(labels)["sensor"]: value for labels, value in found[f"{PREFIX}sensor_value"].items()}
        self.assertEqual(values, {"adc0.temperature": 91.5, "door.open": 0})
        states = {(dict(labels)["sensor"], dict(labels)["state"]) for labels in found[f"{PREFIX}sensor_state"]}
        self.assertIn(("adc0.temperature", "warn"), states)
        self.assertEqual(len(states), 3)

    def test_lost_lines_of_the_flight_recorder(self) -> None:
        server = Monitored()
        self.assertNotIn(f"{PREFIX}lost_exchanges_total", scraped(server))
        server.snapshot.recorder = lambda: {"file": "/x", "problem": "", "lost": 7}
        server.clock.advance(2)
        self.assertEqual(scraped(server)[f"{PREFIX}lost_exchanges_total"], {(): 7})

    def test_the_target_of_a_tap(self) -> None:
        server = Monitored()
        self.assertNotIn(f"{PREFIX}target_reachable", scraped(server))
        for reachable, wanted in ((None, None), (True, {(): 1}), (False, {(): 0})):
            server = Monitored(state=False)
            part = {"name": "x", "reachable": reachable, "problem": "", "since": None}
            server.snapshot.target = lambda part=part: part
            self.assertEqual(scraped(server).get(f"{PREFIX}target_reachable"), wanted)

    def test_behind_a_tap(self) -> None:
        server = Monitored(state=False)
        server.ask(b"?status")
        found = scraped(server)
        self.assertEqual(found[f"{PREFIX}requests_total"][("code", "ok"), ("command", "status")], 1)
        self.assertNotIn(f"{PREFIX}lane_waiting", found)


class MissingTests(unittest.TestCase):
    def test_without_the_package(self) -> None:
        with mock.patch.dict(sys.modules, {"prometheus_client.exposition": None}):
            server = Monitored()
        code, _, body = server.get("/metrics")
        wanted = "metrics need the package prometheus-client: pip install 'discosbackend[metrics]'\n"
        self.assertEqual((code, body), (501, wanted))
        self.assertEqual(server.get("/health")[0], 200)


class DeployTests(unittest.TestCase):
    """The dashboard and the alert rules in examples/deploy use metrics that exist, with labels that they have."""

    def setUp(self) -> None:
        self.known: dict[str, set[str]] = {}
        for metric in METRICS:
            for suffix in ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",):
                labels = {*metric.labels, "job", "instance", *(["le"] if suffix == "_bucket" else [])}
                self.known[metric.full_name + suffix] = labels

    def check(self, expressions: list[str]) -> set[str]:
        """Check the names and the labels in expressions, and return the names."""
        used: set[str] = set()
        for expression in expressions:
            names = set(re.findall(rf"\b{PREFIX}\w+", expression))
            self.assertTrue(names or expression.startswith("up{"), expression)
            self.assertLessEqual(names, set(self.known), expression)
            allowed = set.union({"job", "instance"}, *(self.known[name] for name in names))
            grouped = [each.strip() for found in re.findall(r"by \(([^)]*)\)", expression) for each in found.split(",")]
            selected = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
            self.assertLessEqual({*grouped, *selected}, allowed, expression)
            used |= names
        return used

    def test_the_dashboard(self) -> None:
        dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
        panels = dashboard["panels"]
        used = self.check([target["expr"] for panel in panels for target in panel["targets"]])
        self.assertGreater(len(used), 12)
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        for panel in panels:
            self.assertTrue(panel["title"])
            for target in panel["targets"]:
                names = re.findall(rf"\b{PREFIX}\w+", target["expr"])
                shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                self.assertLessEqual(shown, set.union(*(self.known[name] for name in names)), panel["title"])
        variable = dashboard["templating"]["list"][1]
        self.check([variable["query"].removeprefix("label_values(").partition(",")[0]])

    def test_the_alert_rules(self) -> None:
        text = (DEPLOY / "prometheus-alerts.yml").read_text(encoding="utf-8")
        alerts = re.findall(r"(?m)^      - alert: (\w+)$", text)
        expressions = re.findall(r"(?m)^        expr: (.+)$", text)
        self.assertEqual((len(expressions), text.count("expr:")), (len(alerts),) * 2)
        self.assertEqual(len(set(alerts)), len(alerts))
        self.assertEqual(len(re.findall(r"(?m)^          summary: .+$", text)), len(alerts))
        self.assertGreater(len(self.check(expressions)), 8)
        rules = dict(zip(alerts, expressions, strict=True))
        # The value stays until the next timed start, and the alert must not.
        lateness = f"{PREFIX}last_lateness_seconds"
        self.assertEqual(rules["BackendScanLate"], f"{lateness} > 0.1 unless {lateness} offset 10m == {lateness}")
        # MISTRAL never reports ok.
        self.assertIn(f'unless on (job, instance) {PREFIX}info{{name=~"(?i).*mistral.*"}}', rules["BackendStatusNotOk"])


if __name__ == "__main__":
    unittest.main()
