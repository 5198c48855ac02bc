"""The runner: from the outcome of a case to its verdict, without a server."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from unittest import SkipTest, mock

from discosbackend.testing import Profile
from discosbackend.testing.case_context import AT_REST, CaseContext, InUse, Unsupported
from discosbackend.testing.cases import Case, Cases, Level
from discosbackend.testing.causes import Causes
from discosbackend.testing.runner import Record, Result, Verdict, evaluate, run_cases
from discosbackend.testing.send_guard import Scope
from discosbackend.testing.server_session import CLOCK

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
    """A context whose server did not reply in time."""

    timed_out = True


class RunCasesTests(unittest.TestCase):
    def test_who_never_answers_in_time_is_not_asked_for_hours(self) -> None:
        checks = [SilentContext] * 4 + [CaseContext] + [SilentContext] * 5
        found = run_cases([case(fails)] * 12, lambda: checks.pop(0)(Profile(), NOWHERE))
        verdicts = [(result.verdict.name, result.explanation) for result in found]
        left_out = "skipped after 5 consecutive cases without a reply in time"
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
        left_out = [("SKIPPED", "needs --measure"), ("SKIPPED", "needs --full")]
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
        self.assertEqual(found[-1][1], "the server has not answered since area/fails")
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


def needs(*things: str, then: Callable[[CaseContext], None] = fails) -> Callable[[CaseContext], None]:
    """Return the function of a case that fails while it uses these features, the innermost last."""

    def run(check: CaseContext) -> None:
        if things:
            with check.using(things[0]):
                needs(*things[1:], then=then)(check)
        else:
            then(check)

    return run


def shown(case_id: str, run: Callable[[CaseContext], None], *shows: str, scope: Scope = Scope.READS) -> Case:
    return Case(case_id, "1", "", scope, run, Level.MUST, shows)


class BlockedTests(unittest.TestCase):
    """A failure that the failure of another case explains is not reported again."""

    def tried(self, *cases: Case, **options: Any) -> dict[str, str]:
        """Run the cases and return the verdicts by id, with the blocking case, in the order of the run."""
        found = run_cases(cases, lambda: CaseContext(Profile(), NOWHERE), **options)
        return {result.case.id: f"{result.verdict.value} {result.blocked_by}".rstrip() for result in found}

    def test_what_others_use_is_tried_first(self) -> None:
        cases = [shown("a/1", passes), shown("b/1", passes, "b"), shown("c/1", passes), shown("d/1", passes, "d")]
        self.assertEqual([*self.tried(*cases)], ["b/1", "d/1", "a/1", "c/1"])

    def test_a_cause_is_reported_once(self) -> None:
        cause = shown("status/fields", needs("status"), "status")
        others = [shown(f"start/{number}", needs("start", "status")) for number in range(3)]
        blocked = dict.fromkeys((other.id for other in others), "blocked status/fields")
        self.assertEqual(self.tried(*others, cause), {"status/fields": "fail", **blocked})
        [result] = list(run_cases([cause, others[0]], lambda: CaseContext(Profile(), NOWHERE)))[1:]
        self.assertEqual(result.reasons, ("blocked by status/fields", "that is wrong"))
        self.assertEqual(result.why_not_judged, "blocked by status/fields")

    def test_what_works_is_no_cause(self) -> None:
        found = self.tried(shown("status/fields", passes, "status"), shown("start/1", needs("status")))
        self.assertEqual(found, {"status/fields": "pass", "start/1": "fail"})
        # A case that is non-strict or was not judged is not a cause either.
        for run, verdict in ((deviates, "non-strict"), (is_skipped, "skipped"), (is_unsupported, "unsupported")):
            found = self.tried(shown("status/fields", run, "status"), shown("start/1", needs("status")))
            self.assertEqual(found, {"status/fields": verdict, "start/1": "fail"})

    def test_what_it_used_and_left_is_no_cause(self) -> None:
        def run(check: CaseContext) -> None:
            with check.using("status"):
                pass
            fails(check)

        found = self.tried(shown("status/fields", fails, "status"), shown("start/1", run))
        self.assertEqual(found, {"status/fields": "fail", "start/1": "fail"})

    def test_the_innermost_cause_counts(self) -> None:
        start = shown("start/now", needs("start"), "start")
        timed = shown("start/timed", needs("timed", "start"), "timed")
        status = shown("status/fields", fails, "status")
        other = shown("stop/1", needs("timed", "start", "status"))
        found = self.tried(start, timed, status, other)
        wanted = {"start/now": "fail", "start/timed": "blocked start/now", "status/fields": "fail"}
        self.assertEqual(found, {**wanted, "stop/1": "blocked status/fields"})

    def test_what_is_blocked_blocks_in_the_name_of_its_cause(self) -> None:
        status = shown("status/fields", fails, "status")
        configuration = shown("set-configuration/loads", needs("status"), "set-configuration")
        found = self.tried(configuration, status, shown("get-tpi/1", needs("set-configuration")))
        wanted = {"status/fields": "fail", "set-configuration/loads": "blocked status/fields"}
        self.assertEqual(found, {**wanted, "get-tpi/1": "blocked status/fields"})

    def test_a_known_deviation_is_a_cause(self) -> None:
        profile = Profile()
        profile.deviations = {"status/*": "it keeps TAI", "get-tpi/2": "and that"}
        cases = [shown("status/fields", fails, "status")]
        cases += [shown(f"get-tpi/{number}", needs("status")) for number in (1, 2)]
        found = list(run_cases(cases, lambda: CaseContext(profile, NOWHERE)))
        self.assertEqual([result.verdict.value for result in found], ["known deviation", "blocked", "known deviation"])

    def test_things_are_shown_in_order(self) -> None:
        """A case has tested the features before its failure, and not those after it."""
        for failing, clock in (("clock", "blocked a/both"), ("flag", "fail")):
            with self.subTest(failing):
                both = shown("a/both", needs(failing), "clock", "flag")
                found = self.tried(both, shown("b/clock", needs("clock")), shown("b/flag", needs("flag")))
                self.assertEqual(found, {"a/both": "fail", "b/clock": clock, "b/flag": "blocked a/both"})

    def test_a_clock_that_is_too_coarse_is_a_cause(self) -> None:
        def doubts(check: CaseContext) -> None:
            check.doubtful = (CLOCK,)
            fails(check)

        found = self.tried(shown("status/fields", deviates, CLOCK, "status"), shown("start/1", doubts))
        self.assertEqual(found, {"status/fields": "non-strict", "start/1": "blocked status/fields"})

    def test_every_problem_must_be_explained(self) -> None:
        def and_leaves_a_mess(check: CaseContext) -> None:
            check.finally_(lambda: needs("stop")(check))
            check.finally_(lambda: fails(check) if self.other else None)
            needs("stop")(check)

        for self.other, verdict in ((False, "blocked stop/now"), (True, "fail")):
            found = self.tried(shown("stop/now", fails, "stop"), shown("stop/1", and_leaves_a_mess))
            self.assertEqual(found, {"stop/now": "fail", "stop/1": verdict})

    def test_what_was_not_to_be_tried_is_tried_when_it_may_be_the_cause(self) -> None:
        status = shown("status/fields", fails, "status")
        found = self.tried(shown("start/1", needs("status")), shown("start/2", passes), causes=[status])
        self.assertEqual(
            [*found.items()], [("status/fields", "fail"), ("start/1", "blocked status/fields"), ("start/2", "pass")]
        )
        # It is not run if no case fails, or if the scope does not allow it.
        self.assertEqual(self.tried(shown("start/2", passes), causes=[status]), {"start/2": "pass"})
        far = shown("status/fields", fails, "status", scope=Scope.FULL)
        found = self.tried(shown("start/1", needs("status")), causes=[far], scope=Scope.MEASURE)
        self.assertEqual(found, {"start/1": "fail"})

    def test_two_that_use_each_other(self) -> None:
        found = self.tried(shown("a/1", needs("b"), "a"), shown("b/1", needs("a"), "b"))
        self.assertEqual(found, {"b/1": "fail", "a/1": "blocked b/1"})

    def test_who_left_an_acquisition_running(self) -> None:
        def leaves_it_running(check: CaseContext) -> None:
            check.finally_(lambda: needs("stop")(check))
            fails(check)

        def finds_it_in_use(_: CaseContext) -> None:
            raise InUse("the server is acquiring")

        cases = [
            shown("start/1", finds_it_in_use),
            shown("start/now", leaves_it_running),
            shown("start/2", finds_it_in_use),
        ]
        wanted = {"start/1": "skipped", "start/now": "fail", "start/2": "blocked start/now"}
        self.assertEqual(self.tried(*cases), wanted)

    def test_the_first_to_find_one_that_nobody_started(self) -> None:
        cases = [shown(f"start/{number}", needs(AT_REST)) for number in range(3)]
        wanted = {"start/0": "fail", "start/1": "blocked start/0", "start/2": "blocked start/0"}
        self.assertEqual(self.tried(*cases), wanted)

    def test_what_was_waited_for_in_vain_is_not_waited_for_again(self) -> None:
        class Slow(CaseContext):
            timed_out = property(lambda self: not self.given_up)

        causes = Causes([shown("status/fields", needs("status"), "status")])
        self.assertEqual(causes.given_up, set())
        check = Slow(Profile(), NOWHERE)
        causes.settle(evaluate(shown("status/fields", needs("status"), "status"), check), lambda _: None)
        self.assertEqual(causes.given_up, {"status"})
        check.given_up = causes.given_up
        with self.assertRaisesRegex(
            AssertionError, "^status timed out before, so the case does not wait for it again$"
        ):
            check.ask("status")

    def test_no_two_cases_show_the_same(self) -> None:
        cases = Cases()
        cases.add(shown("a/1", passes, "status"))
        with self.assertRaisesRegex(ValueError, "b/1 shows status, which a/1 already shows"):
            cases.add(shown("b/1", passes, "start", "status"))


class RecordTests(unittest.TestCase):
    def test_counts(self) -> None:
        verdicts = [
            Verdict.PASS,
            Verdict.PASS,
            Verdict.FAIL,
            Verdict.SKIPPED,
            Verdict.UNSUPPORTED,
            Verdict.KNOWN,
            Verdict.BLOCKED,
        ]
        results = tuple(Result(case(passes), verdict) for verdict in verdicts)
        began = datetime(2026, 1, 1, tzinfo=UTC)
        record = Record("server", "profile", Scope.FULL, False, began, 1.0, results)
        self.assertEqual([record.count(verdict) for verdict in Verdict], [2, 1, 1, 0, 1, 1, 1])
        self.assertEqual(record.tried, 4)

    def test_what_a_full_run_must_have_judged(self) -> None:
        results = tuple(
            Result(shown(f"{area}/{verdict.name}", passes), verdict)
            for area in ("start", "stop", "set-configuration", "get-tpi")
            for verdict in Verdict
        )
        for scope in Scope:
            record = Record("server", "profile", scope, False, datetime(2026, 1, 1, tzinfo=UTC), 1.0, results)
            self.assertEqual(len(record.not_judged), 12)
            missing = [result.case.id for result in record.missing]
            names = ("BLOCKED", "UNSUPPORTED", "SKIPPED")
            wanted = [f"{area}/{name}" for area in ("start", "stop", "set-configuration") for name in names]
            self.assertEqual(missing, wanted if scope is Scope.FULL else [])


if __name__ == "__main__":
    unittest.main()
