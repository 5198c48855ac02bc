"""Runs a client program in situations, and decides what it did wrong.

Each situation is one run of the program, with a new instrument on a new port (client_run.py). The judge of the tap
finds invalid requests.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from discosbackend.tap.judge import Finding
from discosbackend.testing.client_instrument import AcceptingBackend
from discosbackend.testing.client_process import Launch
from discosbackend.testing.client_run import ClientRun, Early, Seen, shown
from discosbackend.testing.client_situations import FIRST_GREETING, RECONNECT, SITUATIONS, VALID_REQUESTS, Situation
from discosbackend.testing.results import Result, Verdict

__all__ = ["TIME", "grade"]

TIME = 10.0
"""How long a client may run in a situation, in s."""

_SHOWN_OUTPUT = 200


def grade(
    launch: Launch,
    situations: Iterable[Situation] = SITUATIONS.values(),
    *,
    limit: float = TIME,
    delay: float | None = None,
    strict: bool = False,
    make_backend: Callable[[Any], object] = AcceptingBackend,
) -> Iterator[Result]:
    """Run a client in situations, and yield the result of each.

    The first two situations of SITUATIONS are always run, because the others are compared with them.

    Parameters
    ----------
    launch
        Starts the client.
    situations
        The situations.
    limit
        How long the client may run in each, in s.
    delay
        How long a reply is delayed to see whether the client makes a mistake meanwhile, in s. A slow reply is delayed
        for ten times as long. Default: a fortieth of `limit`, at least 0.15 s.
    strict
        Whether a result that would be non-strict is a failure.
    make_backend
        Makes the backend of each situation: see ClientInstrument. Default: one that accepts every valid request.

    Raises
    ------
    OSError
        If the client cannot be started.
    """
    wanted = list(situations)
    grading = _Grading(launch, limit, delay, strict, make_backend)
    for situation in SITUATIONS.values():
        if situation in wanted or situation.case.id in (FIRST_GREETING, VALID_REQUESTS):
            result = grading.result(situation)
            if situation in wanted:
                yield result


class _Grading:
    """The results so far of one client."""

    def __init__(
        self,
        launch: Launch,
        limit: float,
        delay: float | None,
        strict: bool,
        make_backend: Callable[[Any], object],
    ) -> None:
        self._launch = launch
        self._limit = limit
        self._delay = delay
        self._strict = strict
        self._make_backend = make_backend
        self._no_client = ""
        self._pipelines = False
        # Whether the client has taken the first greeting for a reply, so that every reply is taken for another.
        self._shifted = False
        # The same after a reconnect.
        self._shifted_again = False
        self._valid = Seen()

    def result(self, situation: Situation) -> Result:
        """Run the client in a situation, and return the result."""
        case = situation.case
        if self._no_client:
            return Result(case, Verdict.SKIPPED, (self._no_client,))
        seen = ClientRun(situation, self._limit, self._delay, self._make_backend).run(self._launch)
        verdict, reasons, blocked_by = self._verdict(situation, seen)
        if verdict is Verdict.NON_STRICT and self._strict:
            verdict = Verdict.FAIL
        if verdict is Verdict.FAIL and seen.output.strip():
            reasons = [*reasons, f"the client printed: {seen.output.strip()[-_SHOWN_OUTPUT:]}"]
        return Result(
            case,
            verdict,
            tuple(reasons),
            seen.conversation,
            "\n".join(seen.lines),
            seen.seconds,
            blocked_by=blocked_by,
        )

    def _verdict(self, situation: Situation, seen: Seen) -> tuple[Verdict, list[str], str]:
        """Return the verdict, the reasons, and the id of the case that explains it."""
        if not seen.connections:
            self._no_client = f"the client did not connect: {seen.ended}"
            if last := seen.output.strip().splitlines()[-1:]:
                self._no_client += f"; it printed {last[0]!r}"
            return Verdict.SKIPPED, [self._no_client], ""
        if not seen.requests:
            why = f"the client connected, but sent no request: {seen.ended}"
            if situation.case.id == VALID_REQUESTS:
                self._no_client = why
            return Verdict.SKIPPED, [why], ""
        if situation.case.id == FIRST_GREETING:
            self._shifted = any(early.taken for early in seen.early)
            self._pipelines = seen.pipelines and not self._shifted
        elif situation.case.id == VALID_REQUESTS:
            self._valid = seen
        wrong = self._wrong(situation, seen)
        early = [] if self._pipelines else seen.early
        if early and not wrong and (cause := self._cause(situation, early)):
            return Verdict.BLOCKED, [f"blocked by {cause}", early[0].text], cause
        if early or wrong:
            return Verdict.FAIL, [*(each.text for each in early[:1]), *wrong], ""
        if not seen.occurred:
            return Verdict.SKIPPED, [f"{situation.missing}: {seen.ended}"], ""
        if self._stops(seen) and situation.case.id != VALID_REQUESTS:
            return Verdict.SKIPPED, [f"the client did nothing more in this time: {seen.ended}"], ""
        if self._pipelines and situation.case.id not in (FIRST_GREETING, VALID_REQUESTS):
            why = "the client does not wait for replies, so it cannot be seen what it takes for one"
            return Verdict.SKIPPED, [why], ""
        notes = [
            str(finding) for finding in seen.findings if finding.rule.is_note and self._is_about(situation, finding)
        ]
        if _is_broken_pipe(seen):
            # A script of the shell may end in this way. A component of a control system must not.
            notes.append("the client sent on a closed connection, and was killed by SIGPIPE")
        return (Verdict.NON_STRICT if notes else Verdict.PASS), notes, ""

    def _cause(self, situation: Situation, early: Sequence[Early]) -> str:
        """Return the id of the situation that reports why the client is early here, "" if this one does."""
        if self._shifted:
            return "" if situation.case.id == FIRST_GREETING else FIRST_GREETING
        if situation.case.id == RECONNECT:
            self._shifted_again = any(each.taken for each in early)
        elif self._shifted_again and all(each.connection > 1 for each in early):
            return RECONNECT
        return ""

    def _wrong(self, situation: Situation, seen: Seen) -> list[str]:
        """Return what the client did wrong, other than what it has taken for a reply."""
        known = {finding.rule for finding in self._valid.findings} if seen is not self._valid else set()
        if situation.case.id == FIRST_GREETING:
            # The next situation reports invalid requests.
            known = {finding.rule for finding in seen.findings}
        wrong = [str(finding) for finding in seen.findings if not finding.rule.is_note and finding.rule not in known]
        if seen.after_end:
            wrong.append(
                f"the client sent {shown(seen.after_end[0])} on a connection that the server had ended within a line: "
                "it has taken the incomplete line for the reply"
            )
        if seen.after_close and situation.case.area == "connection" and not self._pipelines and not self._shifted:
            (line, *_) = seen.after_close[0].splitlines()
            wrong.append(
                f"the client waited for a reply, and then sent {shown(line)} on the same connection, although the "
                "server had closed it"
            )
        if seen.status is not None and seen.status < 0 and not _is_broken_pipe(seen):
            wrong.append(f"the client: {seen.ended}")
        if self._hangs(seen):
            wrong.append(f"the client did nothing more, and was still running after {seen.seconds:.1f} s")
        return wrong

    def _hangs(self, seen: Seen) -> bool:
        """Return whether the client has stopped in a situation, but not without it."""
        if seen is self._valid or not self._stops(seen):
            return False
        return self._valid.status is not None or self._valid.requests > seen.requests

    @staticmethod
    def _stops(seen: Seen) -> bool:
        """Return whether the client has done nothing after the situation has occurred, although it was running."""
        return seen.timed_out and seen.occurred and seen.idle and not seen.waits

    @staticmethod
    def _is_about(situation: Situation, finding: Finding) -> bool:
        about_greeting = finding.rule.id == "client/waits-for-the-greeting"
        return (
            about_greeting
            if situation.case.area == "greeting"
            else (situation.case.id == VALID_REQUESTS and not about_greeting)
        )


def _is_broken_pipe(seen: Seen) -> bool:
    return seen.status == -signal.SIGPIPE
