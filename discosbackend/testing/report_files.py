"""Reports for other programs: JUnit XML for build servers, and JSON.

The functions return text, which has to be written as UTF-8. The reports for people are in report_text and report_html.
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
"""The version of json_text's format. It changes if a key is removed or changes its meaning, not if one is added."""

_SUITE = "discos-backend-check"


def junit(record: Record) -> str:
    """Return the record as JUnit XML, which Jenkins and GitLab can read.

    Each area is a test suite and each case is a test case. `fail` is a failure. `skipped`, `unsupported` and `blocked`
    are skipped; the message of a blocked case contains the id of the case that blocks it. `non-strict` and `known
    deviation` pass, and `system-out` contains the verdict and the reasons. Times are in seconds.

    If nothing was tried, the run ended early or it is not a pass, there is an additional test case `run/complete`
    with an error, so that a build server does not count the run as a success.

    Parameters
    ----------
    record
        The record of a run.
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
    """Return the whole record as indented JSON.

    The object has these keys:

    - `format`: 1
    - `server`, `profile`: their names
    - `scope`: the scope of the run, "reads", "measure" or "full"
    - `strict`: whether a non-strict result counted as a failure
    - `began`: the time in UTC, such as 2026-05-04T12:30:11.250000Z
    - `seconds`: how long the run took, in s
    - `ended_early`: why the run ended early, "" if it did not
    - `subject`: what was tested, "server" or "client". Of a client, `server` is the command line, `profile`
      the simulated instrument ("" for the one that accepts everything), and `scope` means nothing
    - `watched`: if the connections of others were watched, a text that says so, "" otherwise. Then `profile`, `scope`
      and `strict` mean nothing
    - `conclusion`: the verdict on the server or client, as a sentence for people
    - `tried`: how many cases were tried and judged
    - `missing`: the ids of the cases of start, stop and set-configuration that a full run could not judge; unless it is
      empty, the run is not a pass
    - `counts`: how many cases have each verdict, with a key for every verdict
    - `results`: a list of objects, in the order in which the cases were tried

    Each result has these keys:

    - `id`, `area`, `title`, `scope`: of the case
    - `level`: "must", "should" or "quirk"
    - `section`, `section_title`: the section in docs/protocol.md
    - `requirement`: the sentence of this section that is tested
    - `verdict`: the verdict
    - `blocked_by`: the id of the case that reports the cause, "" if the case is not blocked
    - `reasons`: a list of texts, empty for a pass
    - `seconds`: how long the case took, in s
    - `conversation`: the last lines that were sent and received
    - `transcript`: the same with more lines; only very long conversations are shortened

    Parameters
    ----------
    record
        The record of a run.
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
        "subject": record.subject,
        "watched": record.watched,
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
