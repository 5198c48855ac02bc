"""Runs cases on a server, one after another, and decides the verdict of each.

The module conformance turns a verdict into the outcome of a test; the modules report_* write reports.
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

# After so many consecutive cases without a reply in time, the other cases are skipped: each would take a minute.
_PATIENCE = 5


def evaluate(case: Case, context: CaseContext, *, strict: bool = False) -> Result:
    """Run one case and return its result.

    Parameters
    ----------
    case
        The case.
    context
        A new context for the server under test.
    strict
        Whether a result that would be non-strict is a failure.
    """
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
    """Return the cases in the order in which they are run.

    Cases that test a feature which other cases use come first, so that a cause is found before its consequences.
    """
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
    """Run the cases one after another, in the order of in_order(), and yield their results.

    The remaining cases are skipped if the server does not answer any more, or if five consecutive cases did not get a
    reply in time. An interrupt is raised after the current case has restored what it changed.

    Parameters
    ----------
    cases
        The cases to run.
    make_context
        Returns a new context for the server under test, for each case.
    causes
        Further cases. One of them is run only if it may explain a failure. Its result is then yielded before the result
        that it explains.
    scope
        A case with a wider scope is skipped. The reason names the option that would allow it.
    strict
        Whether a result that would be non-strict is a failure.
    answers
        Called after a failure. Returns whether the server still answers.

    Examples
    --------
    >>> from discosbackend.testing.conformance import CASES
    >>> from discosbackend.testing.runner import run_cases
    >>> from discosbackend.testing.send_guard import Scope
    >>> [result] = run_cases([CASES["stop/twice"]], lambda: None, scope=Scope.READS)
    >>> result.verdict.value, result.explanation
    ('skipped', 'needs --full')
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
            gone = f"skipped after {_PATIENCE} consecutive cases without a reply in time"
        if result.verdict in (Verdict.FAIL, Verdict.KNOWN) and not answers():
            gone = f"the server has not answered since {case.id}"
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
            yield Result(case, Verdict.SKIPPED, (gone or f"needs --{case.scope.name.lower()}",))
