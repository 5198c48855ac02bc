"""Report as text: a line while a run goes on, and afterwards all that a person has to know of it.

The words that every report shares are here too: verdicts, scope, conclusion. Files for other programs are in
report_files, the page for a browser is in report_html.
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
    Verdict.BLOCKED: "could not be judged, because of a failure that is reported elsewhere",
    Verdict.NON_STRICT: "works, but not as the document says",
    Verdict.KNOWN: "not as required, and the profile says so of this server",
    Verdict.UNSUPPORTED: "the server has no such command, which is optional",
    Verdict.SKIPPED: "left out, for the reason given",
}
"""What each verdict says, in the order of a summary."""

LEVELS = {
    Level.MUST: "MUST",
    Level.SHOULD: "SHOULD",
    Level.QUIRK: "deployed clients depend on it",
}
"""How much a requirement weighs, in words."""

_SCOPES = {
    Scope.READS: "reads only, nothing was touched",
    Scope.MEASURE: "reads and measurements",
    Scope.FULL: "everything, start and stop and configuration included",
}

_STRICT = "yes: what works, but not as the document says, has failed"
_NOT_STRICT = "no: what works, but not as the document says, has not failed"

_WIDTH = 100
_INDENT = " " * 6

# More of them are only in the list of what was left out.
_FEW_REASONS = 2


def areas(record: Record) -> dict[str, list[Result]]:
    """The results by area, in order of first appearance."""
    found: dict[str, list[Result]] = {}
    for result in record.results:
        found.setdefault(result.case.area, []).append(result)
    return found


def left_out(record: Record) -> dict[str, list[Result]]:
    """What was not judged, by reason."""
    found: dict[str, list[Result]] = {}
    for result in record.not_judged:
        found.setdefault(result.why_not_judged, []).append(result)
    return found


def blocked_by(record: Record, result: Result) -> list[Result]:
    """The results that are blocked by this one."""
    return [other for other in record.results if other.blocked_by == result.case.id]


def counts(results: Iterable[Result]) -> str:
    """How many of each verdict, as "3 pass, 1 fail"."""
    verdicts = [result.verdict for result in results]
    return ", ".join(f"{verdicts.count(verdict)} {verdict.value}" for verdict in Verdict if verdict in verdicts)


def requirement(result: Result) -> str:
    """What a case requires, and where the protocol says so."""
    return f"{citation(result.case.section)}: {result.case.requirement}"


def facts(record: Record) -> dict[str, str]:
    """The head of a report: what was checked, when, and how."""
    return {
        "server": record.server,
        "profile": record.profile,
        "began": f"{record.began:%Y-%m-%d %H:%M:%S} UTC, took {record.seconds:.1f} s",
        "scope": _SCOPES[record.scope],
        "strict": _STRICT if record.strict else _NOT_STRICT,
        "checked by": f"discosbackend {__version__}",
    }


def conclusion(record: Record) -> str:
    """The verdict on the server, in one sentence."""
    if not record.tried:
        return "Nothing was tried: this says nothing of the server."
    tried = _cases(record.tried)
    if failed := record.count(Verdict.FAIL):
        text = f"Not as required: {failed} of {tried} failed"
    elif record.ended_early:
        text = f"Not finished: of {tried} until then, none failed"
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
    """As "start (3), get-rms (1)", in order of first appearance."""
    numbers = Counter(result.case.area for result in results)
    return ", ".join(f"{area} ({number})" for area, number in numbers.items())


def progress(number: int, total: int, result: Result) -> str:
    """One line on the case that was just tried, as the `number`th of `total`."""
    line = f"{number:{len(str(total))}}/{total}  {_label(result)} {result.case.id}"
    if result.verdict in (Verdict.PASS, Verdict.SKIPPED, Verdict.UNSUPPORTED):
        return line
    line += f": {printable(result.why_not_judged)}"
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def report(record: Record) -> str:
    """The whole report: a head, the areas with what is not as required, what was left out, the sum of it."""
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
    """A block for each area with something to tell, and one for those between that are in order.

    What was left out is only counted here: it has its own block, by reason.
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
        lines += [f"{_INDENT}what was said last:"]
        lines += [f"{_INDENT}  {printable(said)}" for said in result.conversation.splitlines()]
    return "\n".join(lines)


def _left_out(record: Record) -> str:
    groups = left_out(record)
    if not groups:
        return ""
    lines = ["Left out, and why"]
    for reason, results in groups.items():
        ids = ", ".join(result.case.id for result in results)
        lines.append(_wrapped(f"{reason} ({len(results)}): {ids}", "  "))
    return "\n".join(lines)


def _wrapped(text: str, indent: str) -> str:
    """In lines that a terminal shows whole, without a break inside of an id."""
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
