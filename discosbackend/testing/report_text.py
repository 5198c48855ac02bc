"""The report as text: a line for each case during the run, and the whole report after it.

The texts that all reports use are here too, such as those for verdicts, the scope and the conclusion. report_files
writes the reports for other programs, report_html the page for a browser.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator

from discosbackend._version import __version__
from discosbackend.log import printable
from discosbackend.testing.cases import Level
from discosbackend.testing.citations import citation
from discosbackend.testing.results import ESSENTIAL, Record, Result, Verdict
from discosbackend.testing.send_guard import Scope

__all__ = [
    "LEVELS",
    "MEANINGS",
    "areas",
    "blocked_by",
    "conclusion",
    "counts",
    "facts",
    "left_out",
    "printable",
    "progress",
    "report",
    "requirement",
]

MEANINGS = {
    Verdict.PASS: "as required",
    Verdict.FAIL: "not as required",
    Verdict.BLOCKED: "could not be judged because of a failure that another case reports",
    Verdict.NON_STRICT: "works, but differs from the protocol document",
    Verdict.KNOWN: "not as required, but the profile lists it as a known deviation",
    Verdict.UNSUPPORTED: "the server has no such command, which is optional",
    Verdict.SKIPPED: "not tried, for the reason given",
}
"""The meaning of each verdict, in the order of the summary."""

LEVELS = {
    Level.MUST: "MUST",
    Level.SHOULD: "SHOULD",
    Level.QUIRK: "deployed clients depend on it",
}
"""The text for each level of a requirement."""

_SCOPES = {
    Scope.READS: "commands that only read; nothing was changed",
    Scope.MEASURE: "reads and measurements",
    Scope.FULL: "all commands, including start, stop and set-configuration",
}

_STRICT = "yes: a non-strict result counts as a failure"
_NOT_STRICT = "no: a non-strict result does not count as a failure"

_WIDTH = 100
_INDENT = " " * 6

# If there are more reasons, the conclusion does not list them.
_FEW_REASONS = 2


def areas(record: Record) -> dict[str, list[Result]]:
    """Return the results by area, in the order in which the areas occur first."""
    found: dict[str, list[Result]] = {}
    for result in record.results:
        found.setdefault(result.case.area, []).append(result)
    return found


def left_out(record: Record) -> dict[str, list[Result]]:
    """Return the results that were not judged, by reason."""
    found: dict[str, list[Result]] = {}
    for result in record.not_judged:
        found.setdefault(result.why_not_judged, []).append(result)
    return found


def blocked_by(record: Record, result: Result) -> list[Result]:
    """Return the results that are blocked by this one."""
    return [other for other in record.results if other.blocked_by == result.case.id]


def counts(results: Iterable[Result]) -> str:
    """Return how many results have each verdict, such as "3 pass, 1 fail"."""
    verdicts = [result.verdict for result in results]
    return ", ".join(f"{verdicts.count(verdict)} {verdict.value}" for verdict in Verdict if verdict in verdicts)


def requirement(result: Result) -> str:
    """Return the requirement of a case, with the section of the protocol that contains it."""
    return f"{citation(result.case.section)}: {result.case.requirement}"


def facts(record: Record) -> dict[str, str]:
    """Return the facts at the top of a report, by their names: what was checked, when, and how."""
    began = f"{record.began:%Y-%m-%d %H:%M:%S} UTC, took {record.seconds:.1f} s"
    if record.watched:
        return {
            "server": record.server,
            "watched": record.watched,
            "began": began,
            "checked by": f"discosbackend {__version__}",
        }
    strict = _STRICT if record.strict else _NOT_STRICT
    if record.subject != "server":
        return {
            record.subject: record.server,
            **({"instrument": record.profile} if record.profile else {}),
            "began": began,
            "strict": strict,
            "checked by": f"discosbackend {__version__}",
        }
    return {
        "server": record.server,
        "profile": record.profile,
        "began": began,
        "scope": _SCOPES[record.scope],
        "strict": strict,
        "checked by": f"discosbackend {__version__}",
    }


def conclusion(record: Record) -> str:
    """Return the verdict on the server as one sentence."""
    if not record.tried:
        return f"Nothing was tried, so nothing is known about the {record.subject}."
    tried = _cases(record.tried)
    if failed := record.count(Verdict.FAIL):
        text = f"Not as required: {failed} of {tried} failed"
    elif record.ended_early:
        text = f"Not finished: of {tried} before it ended, none failed"
    elif record.missing:
        essential = " and ".join([", ".join(ESSENTIAL[:-1]), ESSENTIAL[-1]])
        reasons = dict.fromkeys(result.why_not_judged for result in record.missing)
        why = f" ({'; '.join(reasons)})" if len(reasons) <= _FEW_REASONS else ""
        missing = f"{_cases(len(record.missing))} of {essential} could not be judged{why}"
        text = f"No pass: {missing}. Of {tried}, none failed"
    else:
        text = f"As required: of {tried}, none failed"
    but = [
        f"{number} {verdict.value}"
        for verdict in (Verdict.NON_STRICT, Verdict.KNOWN)
        if (number := record.count(verdict))
    ]
    if but:
        text += f" ({', '.join(but)})"
    if failed and record.ended_early:
        text += "; the run ended early"
    if record.not_judged:
        text += f"; not judged: {_by_area(record.not_judged)}"
    return f"{text}."


def _cases(number: int) -> str:
    return "1 case" if number == 1 else f"{number} cases"


def _by_area(results: Iterable[Result]) -> str:
    """Return how many results each area has, such as "start (3), get-rms (1)", in the order of their occurrence."""
    numbers = Counter(result.case.area for result in results)
    return ", ".join(f"{area} ({number})" for area, number in numbers.items())


def progress(number: int, total: int, result: Result) -> str:
    """Return the line for a case that has just been tried, the `number`th of `total` cases."""
    line = f"{number:{len(str(total))}}/{total}  {_label(result)} {result.case.id}"
    if result.verdict in (Verdict.PASS, Verdict.SKIPPED, Verdict.UNSUPPORTED):
        return line
    line += f": {printable(result.why_not_judged)}"
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def report(record: Record) -> str:
    """Return the whole report: the facts, the areas with their failures, the cases that were not judged, a summary.

    Parameters
    ----------
    record
        The record of a run.
    """
    blocks = [
        _head(record),
        *_sections(record),
        _left_out(record),
        _summary(record),
        _wrapped(conclusion(record), ""),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _label(result: Result) -> str:
    word = result.verdict.value
    return f"{word.upper() if result.verdict is Verdict.FAIL else word:15}"


def _head(record: Record) -> str:
    lines = ["Conformance to the DISCOS backend protocol", ""]
    lines += [f"{name:11} {printable(text)}" for name, text in facts(record).items()]
    if record.ended_early:
        lines += ["", f"ENDED EARLY: {printable(record.ended_early)}"]
    return "\n".join(lines)


def _sections(record: Record) -> Iterator[str]:
    """Yield a block for each area with failures or deviations, and a block for the other areas between them.

    Cases that were not judged are only counted here. They have a separate block, ordered by reason.
    """
    quiet: list[str] = []
    for area, results in areas(record).items():
        line = f"{area:18} {counts(results)}"
        details = [_note(result) for result in results if result.verdict in (Verdict.NON_STRICT, Verdict.KNOWN)]
        details += [_failure(record, result) for result in results if result.verdict is Verdict.FAIL]
        if details and quiet:
            yield "\n".join(quiet)
            quiet = []
        if details:
            yield "\n".join([line, *details])
        else:
            quiet.append(line)
    if quiet:
        yield "\n".join(quiet)


def _note(result: Result) -> str:
    return f"  {_label(result)} {result.case.id}: {printable(result.explanation)}"


def _failure(record: Record, result: Result) -> str:
    lines = [
        "",
        f"  FAIL  {result.case.id} ({LEVELS[result.case.level]}, {result.seconds:.2f} s)",
        *(_INDENT + printable(reason) for reason in result.reasons),
        _wrapped(requirement(result), _INDENT),
    ]
    if blocked := blocked_by(record, result):
        lines.append(f"{_INDENT}because of this, {_cases(len(blocked))} could not be judged")
    if result.conversation:
        lines += [f"{_INDENT}last lines of the conversation:"]
        lines += [f"{_INDENT}  {printable(said)}" for said in result.conversation.splitlines()]
    return "\n".join(lines)


def _left_out(record: Record) -> str:
    groups = left_out(record)
    if not groups:
        return ""
    lines = ["Not judged, and why"]
    for reason, results in groups.items():
        ids = ", ".join(result.case.id for result in results)
        lines.append(_wrapped(f"{reason} ({len(results)}): {ids}", "  "))
    return "\n".join(lines)


def _wrapped(text: str, indent: str) -> str:
    """Return the text in lines of up to 100 characters. Ids are not broken."""
    return textwrap.fill(
        printable(text),
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=_INDENT,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _summary(record: Record) -> str:
    lines = ["Summary"]
    lines += [f"  {record.count(verdict):4}  {verdict.value:15}  {meaning}" for verdict, meaning in MEANINGS.items()]
    return "\n".join(lines)
