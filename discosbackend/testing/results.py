"""The results of cases: a verdict for each case, and the record of a whole run.

The module runner decides the verdicts. The modules report_* write a record as a report.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from discosbackend.testing.cases import Case
from discosbackend.testing.send_guard import Scope

__all__ = ["ESSENTIAL", "NOT_JUDGED", "Record", "Result", "Verdict"]


class Verdict(Enum):
    """The outcome of a case."""

    PASS = "pass"
    FAIL = "fail"
    BLOCKED = "blocked"
    """It failed because of a failure that another case reports."""
    NON_STRICT = "non-strict"
    """The server works, but differs from the protocol document."""
    KNOWN = "known deviation"
    """It failed, and the profile lists this as a known deviation of the server."""
    UNSUPPORTED = "unsupported"
    """The server does not have the command, which is optional."""
    SKIPPED = "skipped"


NOT_JUDGED = (Verdict.BLOCKED, Verdict.UNSUPPORTED, Verdict.SKIPPED)
"""The verdicts that do not say whether the server meets the requirement."""

ESSENTIAL = ("start", "stop", "set-configuration")
"""The areas that every observation needs. A full run passes only if all of their cases were judged."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one case.

    Parameters
    ----------
    case
        The case.
    verdict
        Its outcome.
    reasons
        Why the verdict is not a pass; empty for a pass.
    conversation
        The last lines that were sent and received.
    transcript
        The lines that were sent and received; only very long conversations are shortened.
    seconds
        How long the case took, in s.
    blocked_by
        The id of the case that reports the cause, "" if the verdict is not BLOCKED.
    used
        For each problem, the features that were in use when it occurred, the innermost first. See wire.FailedIn.
    left_acquiring
        Whether the case could not stop an acquisition at its end.
    timed_out
        Whether a reply was not received in time.
    """

    case: Case
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    conversation: str = ""
    transcript: str = ""
    seconds: float = 0.0
    blocked_by: str = ""
    used: tuple[tuple[str, ...], ...] = ()
    left_acquiring: bool = False
    timed_out: bool = False

    @property
    def explanation(self) -> str:
        """The reasons in one text."""
        return "; ".join(self.reasons)

    @property
    def why_not_judged(self) -> str:
        """The explanation. For a blocked case it names only the blocking case, so that reports can group such cases."""
        return f"blocked by {self.blocked_by}" if self.blocked_by else self.explanation


@dataclass(frozen=True, slots=True)
class Record:
    """A whole run, from which a report is written.

    Parameters
    ----------
    server, profile
        Their names.
    scope
        The scope of the run: cases with a wider scope were skipped.
    strict
        Whether a non-strict result counts as a failure.
    began
        When the run began, in UTC.
    seconds
        How long it took, in s.
    results
        One result for each case, in the order in which they were tried.
    ended_early
        Why the run ended early, "" if it did not.
    subject
        What was tested: "server" or "client". `server` is its name.
    watched
        If no cases were run, but the connections of others were watched: a text that says so. "" otherwise.
    """

    server: str
    profile: str
    scope: Scope
    strict: bool
    began: datetime
    seconds: float
    results: tuple[Result, ...]
    ended_early: str = ""
    watched: str = ""
    subject: str = "server"

    def count(self, verdict: Verdict) -> int:
        """Return how many cases have this verdict."""
        return sum(result.verdict is verdict for result in self.results)

    @property
    def tried(self) -> int:
        """How many cases were tried and judged."""
        return len(self.results) - len(self.not_judged)

    @property
    def not_judged(self) -> list[Result]:
        """The results of the cases that were not judged, for whatever reason."""
        return [result for result in self.results if result.verdict in NOT_JUDGED]

    @property
    def missing(self) -> list[Result]:
        """The results in not_judged that prevent a full run from passing; empty if the scope is not FULL."""
        if self.scope < Scope.FULL:
            return []
        return [result for result in self.not_judged if result.case.area in ESSENTIAL]
