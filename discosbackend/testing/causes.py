"""Causes: finds the failure that explains other failures, so that one defect is reported once.

A case that fails while it uses a feature (ServerSession.using) is `blocked` if the case that tests this feature has
failed too. The modules runner and conformance run the cases.
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
"""Runs a case that may be a cause. It returns None if the case cannot be run."""

_BROKEN = (Verdict.FAIL, Verdict.BLOCKED, Verdict.KNOWN)


class Causes:
    """The results on one server so far.

    Parameters
    ----------
    cases
        The cases that may be the cause of another case's failure.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self.given_up: set[str] = set()
        """The features whose own case has timed out. No other case waits for them again."""
        self._shown_by = {what: case for case in cases for what in case.shows}
        self._found: dict[str, Result] = {}
        self._being_tried: set[str] = set()
        self._tried_early: dict[str, Result] = {}
        # The id of the case that left an acquisition running, or was the first to find one that no case had started.
        self._not_at_rest = ""

    def settle(self, result: Result, attempt: Attempt) -> Result:
        """Return the result, changed to `blocked` if the failure of another case explains it.

        Parameters
        ----------
        result
            The result of a case that has been run.
        attempt
            Runs a case that may explain the failure and has not been run yet. tried_early() returns its result.
        """
        causes: list[str] = []
        if result.verdict is not Verdict.KNOWN:
            self._being_tried.add(result.case.id)
            causes = [self._cause_of(result.case, used, attempt) for used in result.used]
            self._being_tried.discard(result.case.id)
        # One problem that is not explained is a failure of this case.
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
        """Return and forget the results of cases that were run in search of a cause.

        Parameters
        ----------
        case_id
            The id of one case, "" for all cases.
        """
        ids = [case_id] if case_id else list(self._tried_early)
        return [self._tried_early.pop(each) for each in ids if each in self._tried_early]

    def _cause_of(self, case: Case, used: tuple[str, ...], attempt: Attempt) -> str:
        """Return the id of the case that reports the cause of a failure, "" if there is none."""
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
    """Return whether a case that tests the feature `what` failed before or during the test of this feature."""
    if what == CLOCK and result.verdict is Verdict.NON_STRICT:
        # A clock without decimals is too coarse to judge the time of a start or stop.
        return True
    shows = result.case.shows
    failed_in = [shows.index(each) for used in result.used for each in used if each in shows]
    return result.verdict in _BROKEN and shows.index(what) >= min(failed_in, default=0)
