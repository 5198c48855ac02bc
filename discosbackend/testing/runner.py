"""Runs cases on a server, one after another, and gives each a verdict.

conformance makes a test's outcome of a verdict, report_* a page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from unittest import SkipTest

from discosbackend.testing.case_context import AT_REST, CaseContext, InUse, Unsupported
from discosbackend.testing.cases import Case, Level
from discosbackend.testing.causes import Causes
from discosbackend.testing.results import Record, Result, Verdict
from discosbackend.testing.send_guard import Scope
from discosbackend.testing.wire import used_in

__all__ = ["Record", "Result", "Verdict", "in_order", "evaluate", "run_cases"]

# Cases in a row that may wait for a reply in vain before the rest is left out: each takes a minute then.
_PATIENCE = 5


def evaluate(case: Case, context: CaseContext, *, strict: bool = False) -> Result:
    """Try a case. `strict`: what is only recommended, or works all the same, is a failure too."""
    began = time.perf_counter()
    reasons: tuple[str, ...] = ()
    used: tuple[tuple[str, ...], ...] = ()
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
        if isinstance(problem, InUse):
            used = ((AT_REST,),)
    except AssertionError as problem:
        verdict = Verdict.NON_STRICT if case.level is Level.SHOULD else Verdict.FAIL
        reasons = (str(problem), *context.deviations)
        used = ((*context.doubtful, *used_in(problem)),)
    if context.aftermath:
        verdict, reasons = Verdict.FAIL, (*reasons, *context.aftermath)
        used += tuple((*context.doubtful, *used_then) for used_then in context.used_after)
    if verdict is Verdict.NON_STRICT and strict:
        verdict = Verdict.FAIL
    if verdict in (Verdict.FAIL, Verdict.NON_STRICT) and (known := context.profile.deviation(case.id)):
        verdict, reasons = Verdict.KNOWN, (known, *reasons)
    return Result(
        case,
        verdict,
        reasons,
        context.conversation,
        context.transcript,
        time.perf_counter() - began,
        used=used,
        left_acquiring=context.left_acquiring,
        timed_out=context.timed_out,
    )


def in_order(cases: Iterable[Case]) -> list[Case]:
    """The cases as they are tried: first those that show what others use, so that a cause is found first."""
    return sorted(cases, key=lambda case: not case.shows)


def run_cases(
    cases: Iterable[Case],
    make_context: Callable[[], CaseContext],
    *,
    causes: Iterable[Case] = (),
    scope: Scope = Scope.FULL,
    strict: bool = False,
    answers: Callable[[], bool] = lambda: True,
) -> Iterator[Result]:
    """Try the cases in turn, as in_order() has them; one that goes further than `scope` is skipped, and says what
    would allow it.

    `causes` are further cases, tried only where one of them may explain a failure; then they have a result too,
    before what they explain. `answers` is asked after a failure: when the server is gone, nothing more is tried, nor
    when replies fail to come in time over and over. An interrupt passes through once the case at hand has put back
    what it changed.
    """
    gone, silent = "", 0
    ordered = in_order(cases)
    found = Causes({case.id: case for case in (*ordered, *causes)}.values())

    def attempt(case: Case) -> Result | None:
        nonlocal gone, silent
        if gone or case.scope > scope:
            return None
        context = make_context()
        context.given_up = found.given_up
        result = evaluate(case, context, strict=strict)
        silent = silent + 1 if result.timed_out else 0
        if silent == _PATIENCE:
            gone = f"left out: in {_PATIENCE} cases one after another a reply did not come in time"
        if result.verdict in (Verdict.FAIL, Verdict.KNOWN) and not answers():
            gone = f"nobody answers any more since {case.id}"
        return result

    tried: set[str] = set()
    for case in ordered:
        if case.id in tried:
            continue
        if (result := attempt(case)) is not None:
            result = found.settle(result, attempt)
            for early in found.tried_early():
                tried.add(early.case.id)
                yield early
            yield result
        else:
            yield Result(case, Verdict.SKIPPED, (gone or f"left out without --{case.scope.name.lower()}",))
