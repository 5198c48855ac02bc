"""One defect is reported once: one case fails, and cases that fail for the same reason are blocked by it."""

from __future__ import annotations

import functools
import unittest
from concurrent.futures import ThreadPoolExecutor

from discosbackend.testing.case_context import CaseContext
from discosbackend.testing.cases import Case
from discosbackend.testing.conformance import CASES
from discosbackend.testing.runner import Result, Verdict, run_cases

from .defective_servers import DEFECTS, Served
from .settings import LONG
from .verdicts import BackendSimulatorProfile, address_of

# Servers of defective_servers, and all cases that must fail on each of them.
REPORTED = {
    "status an hour off": {"status/reply-is-well-formed"},
    "clock an hour off": {"status/reply-is-well-formed"},
    "status in milliseconds": {"status/reply-is-well-formed"},
    "status a field short": {"status/reply-is-well-formed"},
    "five fields broken by a comma": {"status/reply-is-well-formed"},
    "status fails": {"status/reply-is-well-formed"},
    # The clock is too coarse to judge transitions, so no case may fail.
    "status in whole seconds": set(),
    "acquiring flag in words": {"status/reply-is-well-formed"},
    "set-configuration fails": {"set-configuration/loads"},
    "start fails": {"start/now-and-stop-now"},
    "never acquires": {"start/now-and-stop-now"},
    "stop refused": {"start/now-and-stop-now"},
    "given times refused": {"start/timed", "stop/timed"},
    "get-tpi fails": {"get-tpi/reply-is-well-formed"},
    "another version": {"greeting/is-the-version"},
    "greeting lost": {"greeting/is-the-version"},
    "greeting without code": {"greeting/is-the-version"},
    "LF instead of CR LF": {"framing/replies-end-in-cr-lf"},
    "unknown command is undefined": {"errors/unknown-command"},
    "unknown command is ignored": {"errors/unknown-command"},
    "two replies to a failure": {"errors/unknown-command"},
}

# How many cases must at least pass, because the defect does not concern them.
STILL_JUDGED = {"status an hour off": 85, "clock an hour off": 100, "set-configuration fails": 55, "get-tpi fails": 65}

# The cases for acquisitions take long, and pass on these servers, so they are not run there.
AS_IT_SHOULD_ACQUIRE = {"get-tpi fails", "another version", "greeting lost"}

AT_A_TIME = 4

# Tried without --long: a defect of each kind of cause, and one that has none.
ALWAYS = (
    "status an hour off",
    "status in whole seconds",
    "set-configuration fails",
    "never acquires",
    "start fails",
    "get-tpi fails",
    "greeting lost",
    "two replies to a failure",
)
TRIED = tuple(REPORTED) if LONG else ALWAYS


class CausesTests(unittest.TestCase):
    results: dict[str, list[Result]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        """Run the cases on several servers at the same time, because they mostly wait."""
        address_of("healthy")  # starts all servers, before the threads need them
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            cls.results = dict(zip(TRIED, threads.map(cls.all_of, TRIED), strict=True))

    @staticmethod
    def cases_for(server: str) -> list[Case]:
        """Return all cases that are not hostile; for some servers without the cases for start and stop."""
        left_out = {"hostile"} | ({"start", "stop", "disconnect"} if server in AS_IT_SHOULD_ACQUIRE else set())
        return [case for case in CASES.values() if case.shows or case.area not in left_out]

    @classmethod
    def all_of(cls, server: str) -> list[Result]:
        """Return the results of the cases on a server."""
        profile = type("OfServer", (BackendSimulatorProfile,), {"reply_timeout": 2.0})()
        return list(run_cases(cls.cases_for(server), lambda: CaseContext(profile, address_of(server))))

    def ids(self, server: str, verdict: Verdict) -> set[str]:
        return {result.case.id for result in self.results[server] if result.verdict is verdict}

    def test_one_defect_is_reported_once(self) -> None:
        for server in TRIED:
            with self.subTest(server):
                self.assertEqual(self.ids(server, Verdict.FAIL), REPORTED[server])

    def test_what_is_blocked_says_by_what(self) -> None:
        for server in TRIED:
            causes = REPORTED[server]
            blocked = [result for result in self.results[server] if result.verdict is Verdict.BLOCKED]
            self.assertEqual(bool(blocked), server != "greeting lost", server)
            for result in blocked:
                with self.subTest(server, case=result.case.id):
                    self.assertIn(result.blocked_by, causes or {"status/reply-is-well-formed"})
                    self.assertEqual(result.reasons[0], f"blocked by {result.blocked_by}")
                    self.assertGreater(len(result.reasons), 1)

    def test_a_cause_comes_before_what_it_blocks(self) -> None:
        for server in TRIED:
            order = [result.case.id for result in self.results[server]]
            self.assertEqual(sorted(order), sorted(case.id for case in self.cases_for(server)))
            for result in self.results[server]:
                if result.blocked_by:
                    self.assertLess(order.index(result.blocked_by), order.index(result.case.id))

    def test_the_rest_is_judged(self) -> None:
        for server in set(TRIED) & set(STILL_JUDGED):
            with self.subTest(server):
                self.assertGreaterEqual(len(self.ids(server, Verdict.PASS)), STILL_JUDGED[server])


class EveryDefectTests(unittest.TestCase):
    def test_nothing_is_blocked_by_what_has_not_failed(self) -> None:
        """Each case that finds a planted defect fails, or is blocked by another one that does."""
        for name, defect in [*DEFECTS.items()][:: 1 if LONG else 5]:
            with self.subTest(name):
                # On a busy machine, a case cannot judge a time that is wrong by less than its own delay.
                for _ in range(5):
                    missed = self.missed(name, defect)
                    if not missed:
                        break
                self.assertEqual(missed, [])

    def missed(self, name: str, defect: Served) -> list[str]:
        """The cases that neither find the defect of a server nor are blocked by one that does."""
        profile = type("OfServer", (BackendSimulatorProfile,), {"reply_timeout": 0.5, "late_tolerance": 0.1})()
        cases = [CASES[case_id] for case_id in defect.found_by]
        found = run_cases(
            cases,
            functools.partial(CaseContext, profile, address_of(name)),
            causes=CASES.values(),
        )
        results = {result.case.id: result for result in found}
        reported = {case_id for case_id, result in results.items() if result.verdict is defect.verdict}
        return [each for each in defect.found_by if (results[each].blocked_by or each) not in reported]


if __name__ == "__main__":
    unittest.main()
