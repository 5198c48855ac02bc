"""The findings of a Judge as a record of the conformance kit, from which its reports can be written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from discosbackend.tap.judge import RULES, Judge, Rule
from discosbackend.testing.case_context import CaseContext
from discosbackend.testing.cases import Case, Level
from discosbackend.testing.results import Record, Result, Verdict
from discosbackend.testing.send_guard import Scope

__all__ = ["record_of"]


def record_of(judge: Judge, target: str, began: datetime, seconds: float) -> Record:
    """Return the record: a result for each rule.

    A violation is a `fail`, a note is `non-strict`, and a rule about a side that has sent nothing is `skipped`.

    Parameters
    ----------
    judge
        The judge.
    target
        The name of the server.
    began
        When the tap began, in UTC.
    seconds
        How long it ran, in s.
    """
    return Record(
        server=target,
        profile="",
        scope=Scope.READS,
        strict=False,
        began=began,
        seconds=seconds,
        results=tuple(_results(judge)),
        watched=f"by a tap: {judge.connections} connections, {judge.client_lines} lines of the clients, "
        f"{judge.server_lines} lines of the server",
    )


def _results(judge: Judge) -> Iterator[Result]:
    findings = judge.findings
    for rule in RULES.values():
        case = Case(rule.id, rule.section, rule.requirement, Scope.READS, _not_run, _level(rule))
        found = [finding for finding in findings if finding.rule is rule]
        if found:
            verdict = Verdict.NON_STRICT if rule.is_note else Verdict.FAIL
            conversation = found[0].conversation
            yield Result(case, verdict, tuple(map(str, found)), conversation, conversation)
        elif case.area == "server" and not judge.server_lines:
            yield Result(case, Verdict.SKIPPED, ("the server has sent nothing",))
        elif case.area == "client" and not judge.client_lines:
            yield Result(case, Verdict.SKIPPED, ("no client has sent anything",))
        else:
            yield Result(case, Verdict.PASS)


def _level(rule: Rule) -> Level:
    return Level.SHOULD if rule.is_note else Level.QUIRK if rule.is_habit else Level.MUST


def _not_run(context: CaseContext) -> None:
    raise RuntimeError("a rule of the judge is not a case that can be run")
