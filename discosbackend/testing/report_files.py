"""Report for other programs: JUnit XML for a build server, JSON for whatever else.

Both are texts, to be written as UTF-8. What a person reads is in report_text and report_html.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from xml.etree import ElementTree

from discosbackend.testing.citations import SECTIONS
from discosbackend.testing.report_text import areas, conclusion, facts, printable, requirement
from discosbackend.testing.results import NOT_JUDGED, Record, Result, Verdict

__all__ = ["FORMAT", "json_text", "junit"]

FORMAT = 1
"""Of json_text: goes up when a key changes its meaning or goes away, not when one is added."""

_SUITE = "discos-backend-check"


def junit(record: Record) -> str:
    """JUnit XML, as Jenkins and GitLab read it: a test suite an area, a test case a case.

    `fail` is a failure; `skipped`, `unsupported` and `blocked` are skipped, the last one with the id of the case that
    blocks it; `non-strict` and `known deviation` pass and say what they are in `system-out`. A run that tried nothing,
    ended early or is no pass has one more test case, `run/complete`, with an error, lest a build server takes it for
    a good one. Times are in seconds.
    """
    root = ElementTree.Element("testsuites")
    for area, results in areas(record).items():
        suite = _suite(root, record, area)
        for result in results:
            _add_case(suite, result)
        _count(suite, [result.seconds for result in results])
    if incomplete := _incomplete(record):
        suite = _suite(root, record, "run")
        case = ElementTree.SubElement(suite, "testcase", classname=f"{_SUITE}.run", name="run/complete", time="0")
        ElementTree.SubElement(case, "error", message=printable(incomplete))
        _count(suite, [])
    root.set("name", f"{_SUITE} {printable(record.server)}")
    _count(root, [record.seconds])
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _suite(root: ElementTree.Element, record: Record, area: str) -> ElementTree.Element:
    suite = ElementTree.SubElement(root, "testsuite", name=area, timestamp=f"{record.began:%Y-%m-%dT%H:%M:%S}")
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in facts(record).items():
        ElementTree.SubElement(properties, "property", name=name, value=printable(value))
    return suite


def _add_case(suite: ElementTree.Element, result: Result) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"{_SUITE}.{result.case.area}",
        name=result.case.id,
        time=f"{result.seconds:.3f}",
    )
    message = printable(result.explanation)
    if result.verdict is Verdict.FAIL:
        content = [*result.reasons, requirement(result), "", *result.conversation.splitlines()]
        failure = ElementTree.SubElement(case, "failure", message=message, type=result.case.level.value)
        failure.text = "\n".join(map(printable, content))
    elif result.verdict in NOT_JUDGED:
        ElementTree.SubElement(case, "skipped", message=message)
    elif result.verdict is not Verdict.PASS:
        ElementTree.SubElement(case, "system-out").text = f"{result.verdict.value}: {message}"


def _count(element: ElementTree.Element, seconds: Sequence[float]) -> None:
    for attribute, path in (
        ("tests", ".//testcase"),
        ("failures", ".//failure"),
        ("errors", ".//error"),
        ("skipped", ".//skipped"),
    ):
        element.set(attribute, str(len(element.findall(path))))
    element.set("time", f"{sum(seconds):.3f}")


def _incomplete(record: Record) -> str:
    if record.ended_early:
        return f"ended early: {record.ended_early}"
    return "" if record.tried and not record.missing else conclusion(record)


def json_text(record: Record) -> str:
    """The whole record as JSON, indented, with these keys:

    - `format`: 1
    - `server`, `profile`: their names
    - `scope`: how far the run went, "reads", "measure" or "full"
    - `strict`: whether what works, but not as the document says, was a failure
    - `began`: when, in UTC, as 2026-05-04T12:30:11.250000Z; `seconds`: how long it took
    - `ended_early`: why it did, "" if it did not
    - `conclusion`: the verdict on the server, a sentence for people
    - `tried`: how many cases were tried and judged
    - `missing`: ids of cases of start, stop and set-configuration that a full run could not judge: it is no pass then
    - `counts`: how many cases have each verdict, a key for every verdict
    - `results`: in the order in which they were tried, objects with `id`, `area`, `title`, `level` ("must",
      "should", "quirk"), `section` and `section_title` in docs/protocol.md, `requirement` (the sentence that
      is there), `scope`, `verdict`, `blocked_by` (the id of the case that has reported the cause, "" if it is not
      blocked), `reasons` (a list, empty for a pass), `seconds`, `conversation` (what was said last) and `transcript`
      (nearly all of it), both with a line for each way
    """
    content = {
        "format": FORMAT,
        "server": record.server,
        "profile": record.profile,
        "scope": record.scope.name.lower(),
        "strict": record.strict,
        "began": f"{record.began:%Y-%m-%dT%H:%M:%S.%fZ}",
        "seconds": record.seconds,
        "ended_early": record.ended_early,
        "conclusion": conclusion(record),
        "tried": record.tried,
        "missing": [result.case.id for result in record.missing],
        "counts": {verdict.value: record.count(verdict) for verdict in Verdict},
        "results": [_result(result) for result in record.results],
    }
    return json.dumps(content, indent=2) + "\n"


def _result(result: Result) -> dict[str, object]:
    case = result.case
    return {
        "id": case.id,
        "area": case.area,
        "title": case.title,
        "level": case.level.value,
        "section": case.section,
        "section_title": SECTIONS[case.section],
        "requirement": case.requirement,
        "scope": case.scope.name.lower(),
        "verdict": result.verdict.value,
        "blocked_by": result.blocked_by,
        "reasons": list(result.reasons),
        "seconds": result.seconds,
        "conversation": result.conversation,
        "transcript": result.transcript,
    }
