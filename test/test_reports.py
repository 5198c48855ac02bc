"""The reports of a run: as text, as files for other programs, and as an HTML page."""

from __future__ import annotations

import json
import re
import unittest
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from discosbackend import __version__
from discosbackend.testing.case_context import CaseContext
from discosbackend.testing.cases import Case, Level
from discosbackend.testing.report_files import json_text, junit
from discosbackend.testing.report_html import page
from discosbackend.testing.report_text import conclusion, printable, progress, report
from discosbackend.testing.runner import Record, Result, Verdict
from discosbackend.testing.send_guard import Scope


def _never(check: CaseContext) -> None:
    raise AssertionError(f"a report tries nothing: {check}")


def case(case_id: str, level: Level = Level.MUST, requirement: str = "`stop` while idle: `fail`.") -> Case:
    return Case(case_id, "7.1", requirement, Scope.FULL, _never, level)


SAID = "sent      b'?stop\\r\\n'\nreceived  b'!stop,ok\\r\\n'"

PASSED = Result(case("status/answers"), Verdict.PASS, (), SAID, SAID, 0.25)
FAILED = Result(case("stop/twice"), Verdict.FAIL, ("b'?stop\\r\\n' wants a fail",), SAID, "first\n" + SAID, 1.5)
NON_STRICT = Result(case("stop/now", Level.SHOULD), Verdict.NON_STRICT, ("one", "two"), SAID, SAID)
KNOWN = Result(case("status/far", Level.QUIRK), Verdict.KNOWN, ("As 1.4 does.", "got ok"), SAID, SAID)
UNSUPPORTED = Result(case("get-rms/answers"), Verdict.UNSUPPORTED, ("get-rms is not supported",))
SKIPPED = Result(case("get-tpi/band"), Verdict.SKIPPED, ("needs --measure",))
SKIPPED_TOO = Result(case("get-tpi/whole-band"), Verdict.SKIPPED, ("needs --measure",))

BLOCKED = Result(
    case("stop/timed"),
    Verdict.BLOCKED,
    ("blocked by stop/twice", "it never stops"),
    SAID,
    SAID,
    blocked_by="stop/twice",
)
MISSING = Result(case("stop/now"), Verdict.SKIPPED, ("the server is acquiring",))
BLOCKED_TOO = replace(BLOCKED, case=case("start/timed"), reasons=("blocked by stop/twice", "it never starts"))

RESULTS = (PASSED, FAILED, NON_STRICT, UNSUPPORTED, KNOWN, SKIPPED, SKIPPED_TOO, BLOCKED, BLOCKED_TOO)


def record(*results: Result, ended_early: str = "", server: str = "192.0.2.7:8978") -> Record:
    began = datetime(2026, 5, 4, 12, 30, 11, 250_000, UTC)
    return Record(server, "sardara", Scope.FULL, False, began, 2.0, results, ended_early)


# Text from a server, a profile or a shell that would be harmful in a terminal, in XML or in HTML.
HOSTILE = (
    "<script>alert(1)</script> `<script>` b'<script>' & \"'` \x00\x07\x1b[31m\x9b\x7f\n\r\t\ufffe\ud800 ]]> \xe9 \u202e"
)
HOSTILE_RECORD = replace(
    record(
        *(
            Result(case("area/what", requirement=HOSTILE), verdict, (HOSTILE, HOSTILE), HOSTILE, HOSTILE + "x")
            for verdict in Verdict
        ),
        ended_early=HOSTILE,
        server=HOSTILE,
    ),
    profile=HOSTILE,
)

TEXT = f"""\
Conformance to the DISCOS backend protocol

server      192.0.2.7:8978
profile     sardara
began       2026-05-04 12:30:11 UTC, took 2.0 s
scope       all commands, including start, stop and set-configuration
strict      no: a non-strict result does not count as a failure
checked by  discosbackend {__version__}

ENDED EARLY: interrupted

status             1 pass, 1 known deviation
  known deviation status/far: As 1.4 does.; got ok

stop               1 fail, 1 blocked, 1 non-strict
  non-strict      stop/now: one; two

  FAIL  stop/twice (MUST, 1.50 s)
      b'?stop\\r\\n' wants a fail
      docs/protocol.md, section 7.1 Without a timestamp: `stop` while idle: `fail`.
      because of this, 2 cases could not be judged
      last lines of the conversation:
        sent      b'?stop\\r\\n'
        received  b'!stop,ok\\r\\n'

get-rms            1 unsupported
get-tpi            2 skipped
start              1 blocked

Not judged, and why
  get-rms is not supported (1): get-rms/answers
  needs --measure (2): get-tpi/band, get-tpi/whole-band
  blocked by stop/twice (2): stop/timed, start/timed

Summary
     1  pass             as required
     1  fail             not as required
     2  blocked          could not be judged because of a failure that another case reports
     1  non-strict       works, but differs from the protocol document
     1  known deviation  not as required, but the profile lists it as a known deviation
     1  unsupported      the server has no such command, which is optional
     2  skipped          not tried, for the reason given

Not as required: 1 of 4 cases failed (1 non-strict, 1 known deviation); the run ended early; not
      judged: get-rms (1), get-tpi (2), stop (1), start (1).
"""


class TextTests(unittest.TestCase):
    maxDiff = None

    def test_report(self) -> None:
        self.assertEqual(report(record(*RESULTS, ended_early="interrupted")), TEXT)

    def test_what_is_in_order_is_short(self) -> None:
        text = report(record(PASSED, SKIPPED))
        self.assertIn("\n\nstatus             1 pass\nget-tpi            1 skipped\n\n", text)
        self.assertNotIn("EARLY", text)
        text = report(record(PASSED, replace(FAILED, conversation="")))
        self.assertIn("\n\nstatus             1 pass\n\nstop               1 fail\n\n  FAIL  stop/twice", text)
        self.assertNotIn("conversation", text)
        self.assertNotIn("Not judged", report(record(PASSED)))

    def test_many_ids_are_wrapped_and_stay_whole(self) -> None:
        ids = [f"set-configuration/case-{number}" for number in range(40)]
        skipped = [Result(case(name), Verdict.SKIPPED, ("why",)) for name in ids]
        lines = report(record(*skipped)).splitlines()
        self.assertLessEqual(max(map(len, lines)), 100)
        found = re.findall(r"set-configuration/case-[0-9]+(?=,|$)", "\n".join(lines), re.MULTILINE)
        self.assertEqual(found, ids)

    def test_conclusion(self) -> None:
        for results, ended_early, wanted in (
            ((), "", "Nothing was tried, so nothing is known about the server."),
            ((SKIPPED, UNSUPPORTED), "", "Nothing was tried, so nothing is known about the server."),
            ((PASSED,), "", "As required: of 1 case, none failed."),
            ((PASSED, PASSED, SKIPPED), "", "As required: of 2 cases, none failed; not judged: get-tpi (1)."),
            (
                (PASSED, SKIPPED, SKIPPED_TOO, UNSUPPORTED),
                "",
                "As required: of 1 case, none failed; not judged: get-tpi (2), get-rms (1).",
            ),
            (
                (PASSED, MISSING, SKIPPED),
                "",
                (
                    "No pass: 1 case of start, stop and set-configuration could not be judged "
                    "(the server is acquiring). Of 1 case, none failed; not judged: stop (1), get-tpi (1)."
                ),
            ),
            (
                (KNOWN, *(replace(MISSING, reasons=(f"reason {number}",)) for number in range(3))),
                "",
                (
                    "No pass: 3 cases of start, stop and set-configuration could not be judged. Of 1 case, none failed "
                    "(1 known deviation); not judged: stop (3)."
                ),
            ),
            (
                (FAILED, BLOCKED, BLOCKED_TOO),
                "",
                "Not as required: 1 of 1 case failed; not judged: stop (1), start (1).",
            ),
            ((PASSED, KNOWN), "", "As required: of 2 cases, none failed (1 known deviation)."),
            ((PASSED,), "interrupted", "Not finished: of 1 case before it ended, none failed."),
            ((FAILED, PASSED), "", "Not as required: 1 of 2 cases failed."),
            ((FAILED,), "gone", "Not as required: 1 of 1 case failed; the run ended early."),
        ):
            with self.subTest(wanted):
                self.assertEqual(conclusion(record(*results, ended_early=ended_early)), wanted)

    def test_strict_and_reach_are_told(self) -> None:
        text = report(replace(record(PASSED), strict=True, scope=Scope.READS))
        self.assertIn("strict      yes: a non-strict result counts as a failure\n", text)
        self.assertIn("scope       commands that only read; nothing was changed\n", text)

    def test_progress(self) -> None:
        for number, result, wanted in (
            (7, PASSED, "  7/104  pass            status/answers"),
            (8, FAILED, "  8/104  FAIL            stop/twice: b'?stop\\r\\n' wants a fail"),
            (9, KNOWN, "  9/104  known deviation status/far: As 1.4 does.; got ok"),
            (10, SKIPPED, " 10/104  skipped         get-tpi/band"),
            (11, BLOCKED, " 11/104  blocked         stop/timed: blocked by stop/twice"),
        ):
            with self.subTest(wanted):
                self.assertEqual(progress(number, 104, result), wanted)
        line = progress(1, 1, replace(FAILED, reasons=("x" * 500,)))
        self.assertEqual((len(line), line[-4:]), (100, "x..."))
        self.assertTrue(progress(1, 1, replace(FAILED, reasons=(HOSTILE,))).isprintable())

    def test_nothing_moves_the_cursor(self) -> None:
        text = report(HOSTILE_RECORD)
        self.assertEqual([line for line in text.splitlines() if not line.isprintable()], [])
        self.assertIn("\\x00\\x07\\x1b[31m\\x9b\\x7f\\n\\r\\t\\ufffe\\ud800 ]]> \xe9 \\u202e", text)
        text.encode("utf-8")

    @given(st.text())
    def test_printable(self, text: str) -> None:
        shown = printable(text)
        self.assertTrue(shown.isprintable())
        self.assertEqual(shown == text, text.isprintable())


class JUnitTests(unittest.TestCase):
    def test_suites(self) -> None:
        root = ElementTree.fromstring(junit(record(*RESULTS)))
        keys = ("name", "tests", "failures", "errors", "skipped", "time", "timestamp")
        self.assertEqual(
            [tuple(map(suite.get, keys)) for suite in (root, *root)],
            [
                ("discos-backend-check 192.0.2.7:8978", "10", "1", "1", "5", "2.000", None),
                ("status", "2", "0", "0", "0", "0.250", "2026-05-04T12:30:11"),
                ("stop", "3", "1", "0", "1", "1.500", "2026-05-04T12:30:11"),
                ("get-rms", "1", "0", "0", "1", "0.000", "2026-05-04T12:30:11"),
                ("get-tpi", "2", "0", "0", "2", "0.000", "2026-05-04T12:30:11"),
                ("start", "1", "0", "0", "1", "0.000", "2026-05-04T12:30:11"),
                ("run", "1", "0", "1", "0", "0.000", "2026-05-04T12:30:11"),
            ],
        )
        properties = {each.get("name"): each.get("value") for each in root[0].iterfind("properties/property")}
        self.assertEqual(properties["profile"], "sardara")

    def test_cases(self) -> None:
        root = ElementTree.fromstring(junit(record(*RESULTS)))
        body = (
            "b'?stop\\r\\n' wants a fail\n"
            "docs/protocol.md, section 7.1 Without a timestamp: `stop` while idle: `fail`.\n\n" + SAID
        )
        told = {
            element.get("name"): [(child.tag, child.get("message"), child.text) for child in element]
            for element in root.iter("testcase")
        }
        self.assertEqual(
            told,
            {
                "status/answers": [],
                "status/far": [("system-out", None, "known deviation: As 1.4 does.; got ok")],
                "stop/twice": [("failure", "b'?stop\\r\\n' wants a fail", body)],
                "stop/now": [("system-out", None, "non-strict: one; two")],
                "get-rms/answers": [("skipped", "get-rms is not supported", None)],
                "get-tpi/band": [("skipped", "needs --measure", None)],
                "get-tpi/whole-band": [("skipped", "needs --measure", None)],
                "stop/timed": [("skipped", "blocked by stop/twice; it never stops", None)],
                "start/timed": [("skipped", "blocked by stop/twice; it never starts", None)],
                "run/complete": [("error", conclusion(record(*RESULTS)), None)],
            },
        )
        first = next(root.iter("testcase"))
        self.assertEqual((first.get("classname"), first.get("time")), ("discos-backend-check.status", "0.250"))

    def test_a_run_that_is_not_complete_is_an_error(self) -> None:
        nothing = "Nothing was tried, so nothing is known about the server."
        for run, wanted in (
            (record(PASSED), []),
            (record(PASSED, ended_early="interrupted"), ["ended early: interrupted"]),
            (record(), [nothing]),
            (record(SKIPPED), [nothing]),
            (record(PASSED, MISSING), [conclusion(record(PASSED, MISSING))]),
        ):
            with self.subTest(wanted):
                root = ElementTree.fromstring(junit(run))
                self.assertEqual([error.get("message") for error in root.iter("error")], wanted)
                self.assertEqual(root.get("errors"), str(len(wanted)))

    def test_what_xml_cannot_carry(self) -> None:
        text = junit(HOSTILE_RECORD)
        self.assertTrue(text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites '))
        # A build server reads bytes.
        failure = next(ElementTree.fromstring(text.encode("utf-8")).iter("failure"))
        self.assertEqual(failure.get("message"), printable(f"{HOSTILE}; {HOSTILE}"))


class JSONTests(unittest.TestCase):
    maxDiff = None

    def test_record(self) -> None:
        self.assertEqual(
            json.loads(json_text(record(FAILED, SKIPPED, BLOCKED))),
            {
                "format": 1,
                "server": "192.0.2.7:8978",
                "profile": "sardara",
                "scope": "full",
                "strict": False,
                "began": "2026-05-04T12:30:11.250000Z",
                "seconds": 2.0,
                "ended_early": "",
                "subject": "server",
                "watched": "",
                "conclusion": "Not as required: 1 of 1 case failed; not judged: get-tpi (1), stop (1).",
                "tried": 1,
                "missing": ["stop/timed"],
                "counts": {
                    "pass": 0,
                    "fail": 1,
                    "blocked": 1,
                    "non-strict": 0,
                    "known deviation": 0,
                    "unsupported": 0,
                    "skipped": 1,
                },
                "results": [
                    {
                        "id": "stop/twice",
                        "area": "stop",
                        "title": "stop: twice",
                        "level": "must",
                        "section": "7.1",
                        "section_title": "Without a timestamp",
                        "requirement": "`stop` while idle: `fail`.",
                        "scope": "full",
                        "verdict": "fail",
                        "blocked_by": "",
                        "reasons": ["b'?stop\\r\\n' wants a fail"],
                        "seconds": 1.5,
                        "conversation": SAID,
                        "transcript": "first\n" + SAID,
                    },
                    {
                        "id": "get-tpi/band",
                        "area": "get-tpi",
                        "title": "get-tpi: band",
                        "level": "must",
                        "section": "7.1",
                        "section_title": "Without a timestamp",
                        "requirement": "`stop` while idle: `fail`.",
                        "scope": "full",
                        "verdict": "skipped",
                        "blocked_by": "",
                        "reasons": ["needs --measure"],
                        "seconds": 0.0,
                        "conversation": "",
                        "transcript": "",
                    },
                    {
                        "id": "stop/timed",
                        "area": "stop",
                        "title": "stop: timed",
                        "level": "must",
                        "section": "7.1",
                        "section_title": "Without a timestamp",
                        "requirement": "`stop` while idle: `fail`.",
                        "scope": "full",
                        "verdict": "blocked",
                        "blocked_by": "stop/twice",
                        "reasons": ["blocked by stop/twice", "it never stops"],
                        "seconds": 0.0,
                        "conversation": SAID,
                        "transcript": SAID,
                    },
                ],
            },
        )

    def test_keys_are_documented(self) -> None:
        told = json.loads(json_text(record(FAILED)))
        for key in (*told, *told["results"][0]):
            self.assertIn(f"`{key}`", json_text.__doc__ or "")

    def test_hostile_text_is_carried_as_it_is(self) -> None:
        text = json_text(HOSTILE_RECORD)
        self.assertTrue(text.isascii())
        self.assertTrue(text.startswith('{\n  "format": 1,\n'))
        self.assertEqual(json.loads(text)["results"][0]["conversation"], HOSTILE)


_VOID = {"meta", "br"}


class _Page(HTMLParser):
    """The elements of a page, all of which must be closed in the right order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        if self._open:
            raise AssertionError(f"left open: {self._open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open.pop() != tag:
            raise AssertionError(f"{tag} ends at {self.getpos()}, and is not what was open")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values(self, name: str) -> list[str]:
        """Return the values of an attribute, in order."""
        return [value for _, found in self.elements if (value := found.get(name)) is not None]


class PageTests(unittest.TestCase):
    def test_what_is_told_and_in_which_order(self) -> None:
        text = _Page(page(record(*RESULTS, ended_early="interrupted"))).text
        told = (
            "Conformance of 192.0.2.7:8978 to the DISCOS backend protocol",
            "Not as required: 1 of 4 cases failed",
            "Ended early: interrupted",
            "1 pass 1 fail 2 blocked 1 non-strict 1 known deviation 1 unsupported 2 skipped",
            "server 192.0.2.7:8978 profile sardara began 2026-05-04 12:30:11 UTC",
            "status stop 1 fail get-rms get-tpi start",
            (
                "What failed fail stop: twice stop/twice · MUST · 1.50 s b'?stop\\r\\n' wants a fail "
                "docs/protocol.md, section 7.1 Without a timestamp: stop while idle: fail . "
                "Cases that could not be judged because of this (2): stop/timed , start/timed "
                "Last lines of the conversation: sent b'?stop\\r\\n'"
            ),
            "Transcript first sent",
            "What was not judged, and why get-rms is not supported (1): get-rms/answers",
            "status 1 pass, 1 known deviation pass status: answers status/answers · MUST · 0.25 s",
            "known deviation status: far status/far · deployed clients depend on it",
            "As 1.4 does. got ok Transcript sent",
            "fail stop: twice",
            "Transcript",
            "blocked stop: timed",
            "Blocked by stop/twice it never stops",
            "skipped get-tpi: whole band",
        )
        at = 0
        for each in told:
            with self.subTest(each):
                self.assertIn(each, text[at:])
                at = text.index(each, at) + len(each)

    def test_all_well(self) -> None:
        text = _Page(page(record(PASSED))).text
        for unwanted in ("What failed", "left out", "Ended early"):
            self.assertNotIn(unwanted, text.replace("not tried, for the reason given", ""))

    def test_only_a_pass_looks_like_one(self) -> None:
        for results, early, tone in (
            ((PASSED,), "", "conclusion good"),
            ((PASSED, SKIPPED), "", "conclusion good"),
            ((PASSED, FAILED), "", "conclusion bad"),
            ((PASSED, MISSING), "", "conclusion "),
            ((PASSED,), "interrupted", "conclusion "),
            ((SKIPPED,), "", "conclusion "),
        ):
            with self.subTest(results):
                found = _Page(page(record(*results, ended_early=early)))
                [shown] = [style for style in found.values("class") if style.startswith("conclusion")]
                self.assertEqual(shown, tone)

    def test_links_lead_somewhere(self) -> None:
        found = _Page(page(record(*RESULTS)))
        ids = found.values("id")
        self.assertEqual(len(ids), len(set(ids)))
        links = found.values("href")
        areas = ["#status", "#stop", "#get-rms", "#get-tpi", "#start"]
        self.assertEqual(links, [*areas, "#failed:stop/twice", "#stop/twice", "#stop/twice"])
        self.assertLessEqual({link.removeprefix("#") for link in links}, set(ids))

    def test_it_needs_nothing_else(self) -> None:
        text = page(record(*RESULTS))
        found = _Page(text)
        self.assertEqual({tag for tag, _ in found.elements} & {"script", "link", "img", "iframe"}, set())
        self.assertEqual(found.values("src"), [])
        self.assertNotRegex(text, "https?:|url\\(|@import")
        self.assertTrue(text.startswith('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'))
        self.assertIn("viewport", found.values("name"))

    def test_everything_is_escaped(self) -> None:
        text = page(HOSTILE_RECORD)
        self.assertEqual([line for line in text.splitlines() if not line.isprintable()], [])
        found = _Page(text)
        self.assertEqual([tag for tag, _ in found.elements if tag == "script"], [])
        self.assertIn("<script>alert(1)</script> <script> b'<script>' &", found.text)
        text.encode("utf-8")

    def test_contrast(self) -> None:
        """The contrast between text and background is at least 4.5 to 1, as WCAG AA requires, in both styles."""
        light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", part)) for part in _palettes())
        for colours in (light, dark):
            self.assertEqual(set(colours), set(light))
            pairs = [(name.removesuffix("-ground"), name) for name in colours if name.endswith("-ground")]
            pairs += [(text, ground) for text in ("text", "quiet") for ground in ("ground", "panel")]
            pairs += [("link", "ground")]
            self.assertEqual(len(pairs), len(Verdict) + 5)
            for text, ground in pairs:
                with self.subTest(text, ground=ground):
                    one, other = sorted((_luminance(colours[text]), _luminance(colours[ground])))
                    self.assertGreaterEqual((other + 0.05) / (one + 0.05), 4.5)


def _palettes() -> Iterator[str]:
    yield from re.findall(r":root \{(.*?)\}", page(record(PASSED)), re.DOTALL)


def _luminance(colour: str) -> float:
    """The relative luminance of "#rrggbb", as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


if __name__ == "__main__":
    unittest.main()
