"""The judge of the tap: for each rule conversations that break it, and right ones without a finding; its reports."""

from __future__ import annotations

import json
import re
import unittest
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

from discosbackend.framing import Line
from discosbackend.tap.conversation import Conversation
from discosbackend.tap.judge import PATIENCE, RULES, Finding, Judge
from discosbackend.tap.report import record_of
from discosbackend.testing.report_files import json_text, junit
from discosbackend.testing.report_html import page
from discosbackend.testing.report_text import report

from .serving import ROOT
from .test_citations import sections

GREETING = b"!version,ok,1.4\r\n"
STATUS = b"!status,ok,1430922782.9708830,ok,0\r\n"
TIME = b"!time,ok,1430922782.9708830\r\n"

# A step: c: the client sends; s: the server sends; w: this many s pass; e: closed by the client; E: by the server.
Step = tuple[str, bytes | float]
C, S, W = "c", "s", "w"
G: Step = (S, GREETING)


def refuse(read: Line, line: bytes) -> bytes | None:
    return b"!undefined,invalid,x" if read.language else None


class Watched:
    """Conversations that a judge watches. Their clock is fake."""

    def __init__(self) -> None:
        self.reported: list[Finding] = []
        self.judge = Judge(self.reported.append)
        self.now = 0.0
        self.number = 0

    def play(self, *steps: Step) -> None:
        """Play the steps on a new connection."""
        self.number += 1
        peer = f"10.0.0.7:{4710 + self.number}"
        talk = Conversation(self.number, peer, refuse, judge=self.judge, monotonic=lambda: self.now)
        by_server = False
        for step, what in steps:
            if step == C:
                assert isinstance(what, bytes)
                talk.from_client(what)
            elif step == S:
                assert isinstance(what, bytes)
                talk.from_server(what)
            elif step == W:
                assert isinstance(what, float)
                self.now += what
            else:
                by_server = step == "E"
        talk.closed(by_server=by_server)

    @property
    def found(self) -> list[tuple[str, int]]:
        return [(finding.rule.id, finding.count) for finding in self.judge.findings]


def asked(request: bytes, reply: bytes, seconds: float = 0.01) -> tuple[Step, ...]:
    return (C, request), (W, seconds), (S, reply)


# For each rule, conversations with one mistake each, and a part of what is said.
MISTAKES: dict[str, list[tuple[tuple[Step, ...], str]]] = {
    "server/line-end": [
        ((G, *asked(b"?status\r\n", STATUS[:-2] + b"\n")), "ends in LF alone"),
        (((S, GREETING[:-2] + b"\n"), *asked(b"?status\r\n", STATUS)), "b'!version,ok,1.4' ends in LF alone"),
        ((G, *asked(b"?status\r\n", STATUS), (S, b"!x"), ("E", b"")), "the last line b'!x' has no end"),
    ],
    "server/only-replies": [
        ((G, (S, b"welcome\r\n")), "b'welcome': line begins with 'w' where ? is needed"),
        ((G, *asked(b"?start\r\n", b"!start\r\n")), "b'!start': code '' is none of ok fail invalid"),
        ((G, *asked(b"?start\r\n", b"?start\r\n")), "b'?start': a server must send only replies"),
        ((G, *asked(b"?time\r\n", b"!time,ok,\r\n")), "argument 1 is empty"),
    ],
    "server/no-reply-too-many": [
        ((G, *asked(b"?status\r\n", STATUS + STATUS)), "is a reply to no request"),
        ((G, G), "b'!version,ok,1.4' is a reply to no request"),
    ],
    "server/no-reply-missing": [
        ((G, (C, b"?start\r\n"), ("E", b"")), "the server closed the connection without a reply to b'?start'"),
    ],
    "server/order": [
        (
            (G, (C, b"?start\r\n?status\r\n"), (S, STATUS), (S, b"!start,ok\r\n")),
            "came before the reply to an earlier request",
        ),
    ],
    "server/name-of-the-request": [
        ((G, *asked(b"?start\r\n", b"!stop,ok\r\n")), "b'!stop,ok' came as the reply to b'?start'"),
    ],
    "server/reply-length": [
        ((G, *asked(b"?get-filename\r\n", b"!get-filename,ok,/" + b"x" * 492 + b"\r\n")), "has 512 bytes"),
        ((G, *asked(b"?get-filename\r\n", b"!get-filename,ok," + b"x" * 65536 + b"\r\n")), "more than 65536 bytes"),
    ],
    "server/reply-fields": [
        ((G, *asked(b"?status\r\n", b"!status,ok,1430922782.9708830,ok\r\n")), "2 values, where status has 3"),
        ((G, *asked(b"?status\r\n", b"!status,ok,1430922782.97,ok,yes\r\n")), "acquiring 'yes' is not 0 or 1"),
        ((G, *asked(b"?time\r\n", b"!time,ok,14309227829708830\r\n")), "is not in Unix seconds with decimals"),
        ((G, *asked(b"?get-tpi\r\n", b"!get-tpi,ok,1.0,nan\r\n")), "tpi 'nan' is not a finite decimal number"),
        ((G, *asked(b"?get-tpi\r\n", b"!get-tpi,ok\r\n")), "0 values, where get-tpi has 1"),
    ],
    "server/in-time": [
        ((G, *asked(b"?start\r\n", b"!start,ok\r\n", PATIENCE + 1)), "the reply to b'?start' took 101.0 s"),
        ((G, *asked(b"?convert-data\r\n", b"!convert-data,ok\r\n", 3601.0)), "took 3601.0 s"),
        ((G, (C, b"?stop\r\n"), (W, 200.0), ("e", b"")), "b'?stop' had no reply after 200.0 s"),
    ],
    "client/messages": [
        ((G, *asked(b"start\r\n", b"!undefined,invalid,x\r\n")), "b'start': line begins with 's'"),
        ((G, *asked(b"?status,\r\n", b"!status,invalid,x\r\n")), "argument 1 is empty"),
        ((G, (C, b"!status,ok\r\n")), "b'!status,ok': line is no request"),
        ((G, (C, b"GET / HTTP/1.1\r\n")), "an HTTP request"),
        ((G, *asked(b"?" + b"x" * 20000 + b"\r\n", b"!undefined,invalid,x\r\n")), "line longer than 16384 bytes"),
        ((G, *asked(b"?status\r?time\r\n", b"!undefined,invalid,x\r\n")), "byte 0x0D in the name is not allowed"),
    ],
    "client/known-commands": [
        ((G, *asked(b"?STATUS\r\n", b"!STATUS,fail,invalid command 'STATUS'\r\n")), "b'?STATUS' is no command"),
    ],
    "client/number-of-arguments": [
        ((G, *asked(b"?status,1\r\n", b"!status,fail,x\r\n")), "status needs no arguments"),
        ((G, *asked(b"?get-tpi,1\r\n", b"!get-tpi,fail,x\r\n")), "get-tpi needs 0 or 2 arguments"),
        ((G, *asked(b"?set-section,1\r\n", b"!set-section,fail,x\r\n")), "set-section needs 7 arguments"),
        ((G, *asked(b"?set-filename\r\n", b"!set-filename,fail,x\r\n")), "command needs <filename> as argument"),
    ],
    "client/form-of-arguments": [
        ((G, *asked(b"?set-integration,4e1\r\n", b"!set-integration,fail,x\r\n")), "b'?set-integration,4e1'"),
        ((G, *asked(b"?get-tpi,nan,0\r\n", b"!get-tpi,fail,x\r\n")), "wrong parameter format"),
        ((G, *asked(b"?start,now\r\n", b"!start,fail,x\r\n")), "wrong timestamp 'now'"),
        ((G, *asked(b"?start, 1430922782.0\r\n", b"!start,fail,x\r\n")), "wrong timestamp ' 1430922782.0'"),
        ((G, *asked(b"?set-enable,1,2 \r\n", b"!set-enable,ok\r\n")), "b'?set-enable,1,2 '"),
    ],
    "client/one-request-at-a-time": [
        ((G, (C, b"?status\r\n?time\r\n"), (S, STATUS + TIME)), "b'?time' was sent before the reply to an earlier"),
    ],
    "client/waits-for-the-greeting": [
        (((C, b"?status\r\n"), G, (S, STATUS)), "b'?status' was sent before the greeting"),
    ],
    "client/empty-line-and-quit": [
        ((G, *asked(b"\r\n", b"!undefined,invalid,x\r\n")), "b'' was sent"),
        ((G, *asked(b"quit\r\n", b"!undefined,invalid,x\r\n")), "b'quit' was sent"),
    ],
}

RIGHT: dict[str, tuple[Step, ...]] = {
    "nothing": (),
    "greeting": (G,),
    "polling": (G, *asked(b"?status\r\n", STATUS), *asked(b"?time\r\n", TIME), *asked(b"?status\r\n", STATUS)),
    "in pieces": (G, (C, b"?sta"), (C, b"tus\r"), (C, b"\n"), (S, STATUS[:9]), (S, STATUS[9:])),
    "a scan": (
        G,
        *asked(b"?set-configuration,SK00\r\n", b"!set-configuration,ok\r\n", 59.0),
        *asked(b"?set-section,0,0,500,0,0,3000,1024\r\n", b"!set-section,ok\r\n"),
        *asked(b"?set-section,*,1.23457e+06,*,*,*,*,*\r\n", b"!set-section,fail,backend maximum\r\n"),
        *asked(b"?cal-on\r\n", b"!cal-on,ok\r\n"),
        *asked(b"?get-tpi,0,0\r\n", b"!get-tpi,ok,1.5,2\r\n"),
        *asked(b"?start,14309227829708830\r\n", b"!start,ok\r\n"),
        *asked(b"?stop\r\n", b"!stop,ok\r\n"),
        *asked(b"?stop\r\n", b"!stop,fail,not acquiring\r\n"),
        *asked(b"?set-filename,/a b/\\,c\r\n", b"!set-filename,ok\r\n"),
        *asked(b"?get-filename\r\n", b"!get-filename,ok,/a b/\\,c\r\n"),
        *asked(b"?convert-data\r\n", b"!convert-data,ok\r\n", 3000.0),
    ),
    "a greeting delay": ((W, 5.0), (S, GREETING), *asked(b"?status\r\n", STATUS)),
    "the version": (G, *asked(b"?version\r\n", GREETING)),
    "an own command": (G, *asked(b"?sweep\r\n", b"!sweep,ok\r\n"), *asked(b"?sweep,1\r\n", b"!sweep,fail,busy\r\n")),
    "MISTRAL": (G, *asked(b"?setup\r\n", b"!setup,fail,not cold\r\n")),
    "longest reply": (G, *asked(b"?get-filename\r\n", b"!get-filename,ok,/" + b"x" * 491 + b"\r\n")),
    "telnet negotiation": (G, *asked(b"\xff\xfb\x01?status\r\0\n", STATUS)),
    "the client leaves": (G, (C, b"?start\r\n"), ("e", b"")),
    "the client leaves within a line": (G, (C, b"?sta"), (S, b"!x"), ("e", b"")),
    "the server closes": (G, *asked(b"?status\r\n", STATUS), ("E", b"")),
}


class RuleTests(unittest.TestCase):
    def test_every_mistake_is_found_and_nothing_else(self) -> None:
        self.assertEqual(list(MISTAKES), list(RULES))
        for rule, cases in MISTAKES.items():
            for steps, text in cases:
                with self.subTest(rule, steps=steps):
                    watched = Watched()
                    watched.play(*steps)
                    # Replies can only be out of order if there are several requests.
                    with_it = [("client/one-request-at-a-time", 1)] if rule == "server/order" else []
                    self.assertEqual(watched.found, [(rule, 1), *with_it])
                    self.assertIn(text, str(watched.judge.findings[0]))
                    self.assertEqual(watched.judge.violations, 0 if RULES[rule].is_note else 1)

    def test_right_conversations_have_no_finding(self) -> None:
        for name, steps in RIGHT.items():
            with self.subTest(name):
                watched = Watched()
                watched.play(*steps)
                self.assertEqual([str(finding) for finding in watched.reported], [])

    def test_the_page_has_a_line_for_each_rule(self) -> None:
        text = (ROOT / "docs" / "tap.md").read_text(encoding="utf-8")
        notes = {name: bool(note) for name, note in re.findall(r"(?m)^\| `(\w+/[\w-]+)` \| (note: )?", text)}
        self.assertEqual(notes, {rule.id: rule.is_note for rule in RULES.values()})

    def test_each_requirement_is_a_sentence_of_its_section(self) -> None:
        found = sections((ROOT / "docs" / "protocol.md").read_text(encoding="utf-8"))
        for rule in RULES.values():
            with self.subTest(rule.id):
                _, text = found[rule.section]
                self.assertRegex(text, rf"(?:\A|[.] |- ){re.escape(rule.requirement)}(?: |\Z)")


class FindingTests(unittest.TestCase):
    def test_each_finding_is_reported_once_and_counted(self) -> None:
        watched = Watched()
        for _ in range(3):
            watched.play(G, *asked(b"?status,1\r\n", b"!status,fail,x\r\n"))
        watched.play(G, *asked(b"?time,1\r\n", b"!time,fail,x\r\n"))
        rule = "client/number-of-arguments"
        self.assertEqual(watched.found, [(rule, 3), (rule, 1)])
        self.assertEqual(
            [str(finding) for finding in watched.reported],
            [
                "b'?status,1': status needs no arguments (3 times, first on connection 1 of 10.0.0.7:4711)",
                "b'?time,1': time needs no arguments (once on connection 4 of 10.0.0.7:4714)",
            ],
        )
        self.assertEqual(watched.reported[0].conversation, "received  b'!version,ok,1.4'\nsent      b'?status,1'")

    def test_findings_are_limited(self) -> None:
        watched = Watched()
        for number in range(200):
            name = b"nope-%d" % number
            watched.play(G, *asked(b"?%b\r\n" % name, b"!%b,fail,x\r\n" % name))
        self.assertEqual(len(watched.reported), 51)
        self.assertEqual(watched.judge.findings[-1].count, 150)
        self.assertIn("; and others", watched.judge.findings[-1].text)


class ReportTests(unittest.TestCase):
    def record(self, *talks: tuple[Step, ...]) -> Any:
        watched = Watched()
        for steps in talks:
            watched.play(*steps)
        return record_of(watched.judge, "192.0.2.7:10000", datetime(2026, 5, 4, 12, 30, tzinfo=UTC), 60.0)

    def test_the_text(self) -> None:
        text = report(self.record(MISTAKES["server/order"][0][0], MISTAKES["client/messages"][0][0]))
        for part in (
            "server      192.0.2.7:10000\n",
            "watched     by a tap: 2 connections, 3 lines of the clients, 5 lines of the server\n",
            "  FAIL  server/order (MUST, 0.00 s)\n",
            "      b'!status,ok,1430922782.9708830,ok,0' came before the reply to an earlier request (once on",
            "  non-strict      client/one-request-at-a-time: b'?status' was sent before the reply to an earlier",
            "Not as required: 2 of 16 cases failed (1 non-strict).",
        ):
            self.assertIn(part, text)
        self.assertNotIn("scope", text)

    def test_the_files(self) -> None:
        record = self.record(MISTAKES["server/order"][0][0])
        results = {each["id"]: each["verdict"] for each in json.loads(json_text(record))["results"]}
        self.assertEqual(list(results), list(RULES))
        self.assertEqual(
            {name: verdict for name, verdict in results.items() if verdict != "pass"},
            {"server/order": "fail", "client/one-request-at-a-time": "non-strict"},
        )
        self.assertEqual(ElementTree.fromstring(junit(record)).get("failures"), "1")
        self.assertIn("server/order", page(record))

    def test_a_side_that_has_sent_nothing_is_not_judged(self) -> None:
        results = json.loads(json_text(self.record((G,))))["results"]
        verdicts = {each["id"].partition("/")[0]: each["verdict"] for each in results}
        self.assertEqual(verdicts, {"server": "pass", "client": "skipped"})
        self.assertIn("Nothing was tried", report(self.record()))


if __name__ == "__main__":
    unittest.main()
