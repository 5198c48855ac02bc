"""Causes: which failure explains another, so that one defect is reported once.

A case that fails while it uses something (Check.using) is `blocked` when the case that shows this to work has
failed too. Who tries the cases is said in trial and in conformance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

from discosbackend.testing.case_context import AT_REST
from discosbackend.testing.cases import Case
from discosbackend.testing.results import Result, Verdict
from discosbackend.testing.server_session import CLOCK

__all__ = ["Attempt", "Causes"]

Attempt: TypeAlias = Callable[[Case], Result | None]
"""Tries a case that may be a cause; None where that cannot be done."""

_BROKEN = (Verdict.FAIL, Verdict.BLOCKED, Verdict.KNOWN)


class Causes:
    """What was found on one server so far. `cases` are those that may be the cause of another's failure."""

    def __init__(self, cases: Iterable[Case]) -> None:
        self.given_up: set[str] = set()
        """What need not be waited for again: its case has waited in vain."""
        self._shown_by = {what: case for case in cases for what in case.shows}
        self._found: dict[str, Result] = {}
        self._being_tried: set[str] = set()
        self._tried_early: dict[str, Result] = {}
        # The case that left an acquisition running, or was the first to find one that nobody had started.
        self._not_at_rest = ""

    def settle(self, result: Result, attempt: Attempt) -> Result:
        """The result, or, where another case's failure explains it, `blocked` by that case.

        A case that may explain it and has not been tried is tried now: see tried_early().
        """
        causes: list[str] = []
        if result.verdict is not Verdict.KNOWN:
            self._being_tried.add(result.case.id)
            causes = [self._cause_of(result.case, used, attempt) for used in result.used]
            self._being_tried.discard(result.case.id)
        # Every problem must have been explained: what is left is a failure of its own.
        if causes and all(causes):
            result = replace(
                result,
                verdict=Verdict.BLOCKED,
                reasons=(f"blocked by {causes[0]}", *result.reasons),
                blocked_by=causes[0],
            )
        self._found[result.case.id] = result
        if result.left_acquiring or (result.verdict is Verdict.FAIL and any(AT_REST in used for used in result.used)):
            self._not_at_rest = result.blocked_by or result.case.id
        if result.timed_out:
            self.given_up.update(what for what in result.case.shows if _is_broken(result, what))
        return result

    def tried_early(self, case_id: str = "") -> list[Result]:
        """Results of cases that were tried in search of a cause, each told once: of that case, "" for all."""
        ids = [case_id] if case_id else list(self._tried_early)
        return [self._tried_early.pop(each) for each in ids if each in self._tried_early]

    def _cause_of(self, case: Case, used: tuple[str, ...], attempt: Attempt) -> str:
        """The id of the case that reports the cause of a failure, "" if it is a failure of its own."""
        for what in used:
            if what == AT_REST:
                return "" if self._not_at_rest == case.id else self._not_at_rest
            if (shown_by := self._shown_by.get(what)) is None:
                continue
            if shown_by.id == case.id:
                return ""
            found = self._found.get(shown_by.id) or self._try(shown_by, attempt)
            if found is not None and _is_broken(found, what):
                return found.blocked_by or found.case.id
        return ""

    def _try(self, case: Case, attempt: Attempt) -> Result | None:
        if case.id in self._being_tried:
            return None
        result = attempt(case)
        if result is None:
            return None
        result = self._tried_early[case.id] = self.settle(result, attempt)
        return result


def _is_broken(result: Result, what: str) -> bool:
    """Whether a case that shows `what` has failed before it has shown it."""
    if what == CLOCK and result.verdict is Verdict.NON_STRICT:
        # A clock without its decimals is too coarse to judge anything else by.
        return True
    shows = result.case.shows
    failed_in = [shows.index(each) for used in result.used for each in used if each in shows]
    return result.verdict in _BROKEN and shows.index(what) >= min(failed_in, default=0)
