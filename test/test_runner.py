"""Trial: from the outcome of a case to its verdict, without any server."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from unittest import SkipTest, mock

from discosbackend.testing import Profile
from discosbackend.testing.case_context import CaseContext, Unsupported
from discosbackend.testing.cases import Case, Level
from discosbackend.testing.runner import Record, Result, Verdict, evaluate, run_cases
from discosbackend.testing.send_guard import Scope

NOWHERE = ("127.0.0.1", 1)


def passes(_: CaseContext) -> None:
    pass


def fails(_: CaseContext) -> None:
    raise AssertionError("that is wrong")


def deviates(check: CaseContext) -> None:
    check.ideally(False, "that is unusual")
    check.ideally(False, "and that")
    check.ideally(True, "that is as it should be")


def deviates_and_fails(check: CaseContext) -> None:
    deviates(check)
    fails(check)


def is_skipped(_: CaseContext) -> None:
    raise SkipTest("nobody knows")


def is_unsupported(_: CaseContext) -> None:
    raise Unsupported("no such command")


def case(run: Callable[[CaseContext], None], level: Level = Level.MUST, scope: Scope = Scope.READS) -> Case:
    return Case(f"area/{run.__name__}", "1", "", scope, run, level)


class EvaluateTests(unittest.TestCase):
    def judged(self, *of: Any, strict: bool = False, **deviations: str) -> tuple[str, tuple[str, ...]]:
        profile = Profile()
        profile.deviations = deviations
        result = evaluate(case(*of), CaseContext(profile, NOWHERE), strict=strict)
        return result.verdict.name, result.reasons

    def test_verdicts(self) -> None:
        unusual = ("that is unusual", "and that")
        for run, level, wanted, if_strict, reasons in (
            (passes, Level.MUST, "PASS", "PASS", ()),
            (fails, Level.MUST, "FAIL", "FAIL", ("that is wrong",)),
            (fails, Level.QUIRK, "FAIL", "FAIL", ("that is wrong",)),
            (fails, Level.SHOULD, "NON_STRICT", "FAIL", ("that is wrong",)),
            (deviates, Level.MUST, "NON_STRICT", "FAIL", unusual),
            (deviates_and_fails, Level.MUST, "FAIL", "FAIL", ("that is wrong", *unusual)),
            (is_skipped, Level.MUST, "SKIPPED", "SKIPPED", ("nobody knows",)),
            (is_unsupported, Level.MUST, "UNSUPPORTED", "UNSUPPORTED", ("no such command",)),
        ):
            with self.subTest(run.__name__, level=level):
                self.assertEqual(self.judged(run, level), (wanted, reasons))
                self.assertEqual(self.judged(run, level, strict=True), (if_strict, reasons))

    def test_what_the_profile_knows(self) -> None:
        known = {"area/*": "it always did"}
        for strict in (False, True):
            for run, wanted in (
                (passes, ("PASS", ())),
                (fails, ("KNOWN", ("it always did", "that is wrong"))),
                (deviates, ("KNOWN", ("it always did", "that is unusual", "and that"))),
                (is_skipped, ("SKIPPED", ("nobody knows",))),
            ):
                with self.subTest(run.__name__, strict=strict):
                    self.assertEqual(self.judged(run, strict=strict, **known), wanted)
        self.assertEqual(self.judged(fails, strict=False, **{"other/*": "it always did"})[0], "FAIL")

    def test_a_mistake_in_a_case_is_none_of_the_servers(self) -> None:
        with self.assertRaises(ZeroDivisionError):
            self.judged(lambda _: 1 / 0)

    def test_what_cannot_be_put_back(self) -> None:
        def undo() -> None:
            raise AssertionError("it is stuck")

        def leaves_a_mess(check: CaseContext) -> None:
            check.finally_(undo)

        def fails_and_leaves_a_mess(check: CaseContext) -> None:
            check.finally_(undo)
            fails(check)

        wanted = "the server could not be left as it was found: it is stuck"
        self.assertEqual(self.judged(leaves_a_mess), ("FAIL", (wanted,)))
        self.assertEqual(self.judged(fails_and_leaves_a_mess), ("FAIL", ("that is wrong", wanted)))

    def test_explanation(self) -> None:
        self.assertEqual(
            evaluate(case(deviates), CaseContext(Profile(), NOWHERE)).explanation, "that is unusual; and that"
        )
        self.assertEqual(evaluate(case(passes), CaseContext(Profile(), NOWHERE)).explanation, "")


class SilentContext(CaseContext):
    """One whose server has let it wait."""

    timed_out = True


class RunCasesTests(unittest.TestCase):
    def test_who_never_answers_in_time_is_not_asked_for_hours(self) -> None:
        checks = [SilentContext] * 4 + [CaseContext] + [SilentContext] * 5
        found = run_cases([case(fails)] * 12, lambda: checks.pop(0)(Profile(), NOWHERE))
        verdicts = [(result.verdict.name, result.explanation) for result in found]
        left_out = "left out: in 5 cases one after another a reply did not come in time"
        self.assertEqual(verdicts, [("FAIL", "that is wrong")] * 10 + [("SKIPPED", left_out)] * 2)

    def verdicts(self, *cases: Case, **options: Any) -> list[tuple[str, str]]:
        found = run_cases(cases, lambda: CaseContext(Profile(), NOWHERE), **options)
        return [(result.verdict.name, result.explanation) for result in found]

    def test_one_after_another(self) -> None:
        wanted = [
            ("PASS", ""),
            ("FAIL", "that is wrong"),
            ("NON_STRICT", "that is unusual; and that"),
            ("PASS", ""),
        ]
        self.assertEqual(self.verdicts(case(passes), case(fails), case(deviates), case(passes)), wanted)

    def test_what_goes_too_far_is_left_out(self) -> None:
        run = mock.Mock()
        cases = [Case("area/thing", "1", "", scope, run) for scope in Scope]
        left_out = [("SKIPPED", "left out without --measure"), ("SKIPPED", "left out without --full")]
        for scope, wanted in (
            (Scope.READS, [("PASS", ""), *left_out]),
            (Scope.MEASURE, [("PASS", ""), ("PASS", ""), left_out[1]]),
            (Scope.FULL, [("PASS", "")] * 3),
        ):
            with self.subTest(scope):
                run.reset_mock()
                self.assertEqual(self.verdicts(*cases, scope=scope), wanted)
                self.assertEqual(run.call_count, 1 + scope)

    def test_a_server_that_is_gone(self) -> None:
        answers = mock.Mock(return_value=False)
        found = self.verdicts(case(passes), case(deviates), case(fails), case(passes), case(fails), answers=answers)
        self.assertEqual([name for name, _ in found], ["PASS", "NON_STRICT", "FAIL", "SKIPPED", "SKIPPED"])
        self.assertEqual(found[-1][1], "nobody answers any more since area/fails")
        answers.assert_called_once_with()

    def test_an_interrupt_passes_through(self) -> None:
        undone = mock.Mock()

        def is_interrupted(check: CaseContext) -> None:
            check.finally_(undone)
            raise KeyboardInterrupt

        found = run_cases([case(passes), case(is_interrupted)], lambda: CaseContext(Profile(), NOWHERE))
        self.assertIs(next(found).verdict, Verdict.PASS)
        with self.assertRaises(KeyboardInterrupt):
            next(found)
        undone.assert_called_once_with()


class RecordTests(unittest.TestCase):
    def test_counts(self) -> None:
        verdicts = [
            Verdict.PASS,
            Verdict.PASS,
            Verdict.FAIL,
            Verdict.SKIPPED,
            Verdict.UNSUPPORTED,
            Verdict.KNOWN,
        ]
        results = tuple(Result(case(passes), verdict) for verdict in verdicts)
        began = datetime(2026, 1, 1, tzinfo=UTC)
        record = Record("server", "profile", Scope.FULL, False, began, 1.0, results)
        self.assertEqual([record.count(verdict) for verdict in Verdict], [2, 1, 0, 1, 1, 1])
        self.assertEqual(record.tried, 4)


if __name__ == "__main__":
    unittest.main()
