"""What the cases have come to: a verdict for each, and the record of a whole run.

Who gives a verdict is said in trial, and how a record is reported in report_*.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from discosbackend.testing.cases import Case
from discosbackend.testing.send_guard import Scope

__all__ = ["ESSENTIAL", "NOT_JUDGED", "Record", "Result", "Verdict"]


class Verdict(Enum):
    """What a case has come to."""

    PASS = "pass"
    FAIL = "fail"
    BLOCKED = "blocked"
    """It failed, but because of something that another case has reported."""
    NON_STRICT = "non-strict"
    """It works, but not as the document says."""
    KNOWN = "known deviation"
    """Otherwise than required, and the profile says that this server does so."""
    UNSUPPORTED = "unsupported"
    """The server has no such command, which is optional."""
    SKIPPED = "skipped"


NOT_JUDGED = (Verdict.BLOCKED, Verdict.UNSUPPORTED, Verdict.SKIPPED)
"""What says nothing of whether the server does what the case requires."""

ESSENTIAL = ("start", "stop", "set-configuration")
"""The areas without which no server can observe: a full run that has not judged all of their cases is no pass."""


@dataclass(frozen=True, slots=True)
class Result:
    """One case, its verdict, the reasons (none for a pass), what was said, and how many seconds it took.

    `conversation` is what was said last, a line each way, and `transcript` nearly all of it. `blocked_by` is the
    id of the case that has reported the cause, "" if it is not blocked.

    For each problem, `used` is what was in use when it came up, the innermost first (see wire.FailedIn).
    `left_acquiring`: an acquisition could not be ended afterwards. `timed_out`: a reply did not come in time.
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
        """The explanation; of what is blocked only by what, which many results may share."""
        return f"blocked by {self.blocked_by}" if self.blocked_by else self.explanation


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
        return len(self.results) - len(self.not_judged)

    @property
    def not_judged(self) -> list[Result]:
        """The results of the cases that were not judged, whatever the reason."""
        return [result for result in self.results if result.verdict in NOT_JUDGED]

    @property
    def missing(self) -> list[Result]:
        """Those of them without which a full run is no pass; none in a run that was not to do everything."""
        if self.scope < Scope.FULL:
            return []
        return [result for result in self.not_judged if result.case.area in ESSENTIAL]
