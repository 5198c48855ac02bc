"""Runs cases on a server, one after another, and gives each a verdict.

conformance makes a test's outcome of a verdict, report_* a page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from unittest import SkipTest

from discosbackend.testing.case_context import CaseContext, Unsupported
from discosbackend.testing.cases import Case, Level
from discosbackend.testing.send_guard import Scope

__all__ = ["Record", "Result", "Verdict", "evaluate", "run_cases"]

# Cases in a row that may wait for a reply in vain before the rest is left out: each takes a minute then.
_PATIENCE = 5


class Verdict(Enum):
    """What a case has come to."""

    PASS = "pass"
    FAIL = "fail"
    NON_STRICT = "non-strict"
    """It works, but not as the document says."""
    KNOWN = "known deviation"
    """Otherwise than required, and the profile says that this server does so."""
    UNSUPPORTED = "unsupported"
    """The server has no such command, which is optional."""
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """One case, its verdict, the reasons (none for a pass), what was said, and how many seconds it took.

    `conversation` is what was said last, a line each way, and `transcript` nearly all of it.
    """

    case: Case
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    conversation: str = ""
    transcript: str = ""
    seconds: float = 0.0

    @property
    def explanation(self) -> str:
        """The reasons in one text."""
        return "; ".join(self.reasons)


@dataclass(frozen=True, slots=True)
class Record:
    """A whole run, as a report tells of it.

    `server` and `profile` are their names, `began` is in UTC, `ended_early` says why it did, "" if it did not.
    """

    server: str
    profile: str
    scope: Scope
    strict: bool
    began: datetime
    seconds: float
    results: tuple[Result, ...]
    ended_early: str = ""

    def count(self, verdict: Verdict) -> int:
        """How many cases have come to this."""
        return sum(result.verdict is verdict for result in self.results)

    @property
    def tried(self) -> int:
        """How many cases were tried and judged."""
        return len(self.results) - self.count(Verdict.SKIPPED) - self.count(Verdict.UNSUPPORTED)


def evaluate(case: Case, context: CaseContext, *, strict: bool = False) -> Result:
    """Try a case. `strict`: what is only recommended, or works all the same, is a failure too."""
    began = time.perf_counter()
    reasons: tuple[str, ...] = ()
    try:
        with context:
            case.run(context)
        verdict, reasons = Verdict.PASS, tuple(context.deviations)
        if reasons:
            verdict = Verdict.NON_STRICT
    except Unsupported as problem:
        verdict, reasons = Verdict.UNSUPPORTED, (str(problem),)
    except SkipTest as problem:
        verdict, reasons = Verdict.SKIPPED, (str(problem),)
    except AssertionError as problem:
        verdict = Verdict.NON_STRICT if case.level is Level.SHOULD else Verdict.FAIL
        reasons = (str(problem), *context.deviations)
    if context.aftermath:
        verdict, reasons = Verdict.FAIL, (*reasons, *context.aftermath)
    if verdict is Verdict.NON_STRICT and strict:
        verdict = Verdict.FAIL
    if verdict in (Verdict.FAIL, Verdict.NON_STRICT) and (known := context.profile.deviation(case.id)):
        verdict, reasons = Verdict.KNOWN, (known, *reasons)
    took = time.perf_counter() - began
    return Result(case, verdict, reasons, context.conversation, context.transcript, took)


def run_cases(
    cases: Iterable[Case],
    make_context: Callable[[], CaseContext],
    *,
    scope: Scope = Scope.FULL,
    strict: bool = False,
    answers: Callable[[], bool] = lambda: True,
) -> Iterator[Result]:
    """Try the cases in turn; one that goes further than `scope` is skipped, and says what would allow it.

    `answers` is asked after a failure: when the server is gone, nothing more is tried, nor when replies fail to
    come in time over and over. An interrupt passes through once the case at hand has put back what it changed.
    """
    gone, silent = "", 0
    for case in cases:
        if gone:
            yield Result(case, Verdict.SKIPPED, (gone,))
        elif case.scope > scope:
            yield Result(case, Verdict.SKIPPED, (f"left out without --{case.scope.name.lower()}",))
        else:
            context = make_context()
            result = evaluate(case, context, strict=strict)
            silent = silent + 1 if context.timed_out else 0
            if silent == _PATIENCE:
                gone = f"left out: in {_PATIENCE} cases one after another a reply did not come in time"
            if result.verdict in (Verdict.FAIL, Verdict.KNOWN) and not answers():
                gone = f"nobody answers any more since {case.id}"
            yield result
