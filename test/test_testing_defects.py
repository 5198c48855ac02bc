"""The cases find every defect that was planted in a server, and report no failure on a correct server."""

from __future__ import annotations

import functools
import re
import unittest
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from discosbackend.client import Client
from discosbackend.testing.conformance import CASES
from discosbackend.testing.runner import Result, Verdict
from discosbackend.testing.send_guard import LINES_A_SECOND, Scope, SendGuard

from .defective_servers import DEFECTS, LATE_ONES
from .settings import LONG
from .verdicts import client_of, tried

_NOT_JUDGED = (Verdict.SKIPPED, Verdict.UNSUPPORTED)

# In seconds. Some defects show by a missing reply, others by a transition that does not happen. With short limits they
# are found quickly. A busy host delays replies and requests as well, so if a defect is not found, the case is run again
# with longer limits.
_HASTE: dict[str, Any] = {"reply_timeout": 0.5, "late_tolerance": 0.1}
_CALM: dict[str, Any] = {"reply_timeout": 10.0, "late_tolerance": 1.0, "lead": 2.0}


def _but(pattern: str) -> list[str]:
    """Return the ids of the cases that do not match the pattern; with --long, of all cases."""
    return [name for name in CASES if LONG or not re.match(pattern, name)]


# Cases that wait for a time, that send a megabyte, and whose requests the server itself refuses. Most unusual backends
# do not differ in these.
_TIMED, _FLOOD = "(start|stop)/(?!wrong)", "hostile/client-that-does-not-read"
_WRONG = "(?!start|set-section|status).*/wrong"
_QUICK = _but(f"{_TIMED}|{_FLOOD}")
_QUICKEST = _but(f"{_TIMED}|{_FLOOD}|{_WRONG}")

# For each correct server, the cases that are run and the attributes of the profile.
_RUNS: dict[str, tuple[Sequence[str], dict[str, Any]]] = {
    "healthy": ([*CASES], {}),
    "replies in pieces": (_but(f"(start|stop)/(?!wrong|timed|twice)|{_FLOOD}|{_WRONG}"), {}),
    "greets late": (_QUICKEST, {}),
    "writes exponents": (_QUICKEST, {}),
    "knows few commands": (_QUICK, {}),
    "has words of its own": (_but(f"(start|stop)/(?!wrong|while|twice|elapsed|far)|{_FLOOD}"), {}),
    "forgives stop": (_but("(?!stop|disconnect|backend-park)"), {"stop_when_idle": "ok"}),
    "is acquiring": (_but(f"{_FLOOD}|{_WRONG}"), {}),
}


class _Counting(SendGuard):
    """Counts the lines that are sent, with a clock on which waiting takes no time."""

    def __init__(self, scope: Scope, rate: int | None = None) -> None:
        super().__init__(scope, rate, clock=lambda: self.now, sleep=self._pass)
        self.lines = 0
        self.now = 0.0

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def before(self, data: bytes) -> None:
        super().before(data)
        self.lines += data.count(b"\n")


class _Clients(unittest.TestCase):
    def client(self, server: str) -> Client:
        client = client_of(server)
        self.addCleanup(client.close)
        return client


@functools.cache
def _full_runs() -> dict[str, list[Result]]:
    """Return the results on each correct server. All run at the same time, because they mostly wait."""

    def run(server: str) -> list[Result]:
        cases, attributes = _RUNS[server]
        return [tried_with_enough_lead(case, server, attributes) for case in cases]

    def tried_with_enough_lead(case: str, server: str, attributes: dict[str, Any]) -> Result:
        """Run a case. On a busy machine a lead of 0.1 s may be too short, and the case is run again."""
        result = tried(case, server, **attributes)
        if "set a larger lead" in result.explanation:
            result = tried(case, server, **{**attributes, "lead": 10.0})
        return result

    def run_late(number: int) -> list[Result]:
        # One server would take minutes, so several servers share the cases. A case with many times gets a sufficient
        # lead, instead of finding it by trying.
        guard, results = _Counting(Scope.FULL, LINES_A_SECOND), []
        for case in [*CASES][number::LATE_ONES]:
            lead = {"lead": 0.8} if case == "start/forms-of-a-time" and not LONG else {}
            results.append(tried(case, f"replies late {number}", guard=guard, **lead))
        return results

    with ThreadPoolExecutor(len(_RUNS) + LATE_ONES) as pool:
        found = {server: pool.submit(run, server) for server in _RUNS}
        late = [pool.submit(run_late, number) for number in range(LATE_ONES)]
        results = {server: future.result() for server, future in found.items()}
        results["replies late"] = [result for future in late for result in future.result()]
    return results


class DefectTests(_Clients):
    """Every planted defect is found by the cases that the table names."""

    @staticmethod
    def results(name: str) -> list[Result]:
        """Return the results of the cases that must find a defect, in the order of the table."""
        defect, results = DEFECTS[name], []
        for case in defect.found_by:
            # A busy machine can hide a fault: the case does not look often enough, or the server is later than 0.1 s.
            for limits in (_HASTE, _CALM, _CALM, _CALM, _CALM):
                result = tried(case, name, **limits)
                if result.verdict is defect.verdict and defect.says in result.explanation:
                    break
            results.append(result)
        return results

    def test_each_is_found(self) -> None:
        self.assertGreaterEqual(len(DEFECTS), 65)
        with ThreadPoolExecutor(8) as pool:
            found = dict(zip(DEFECTS, pool.map(self.results, DEFECTS), strict=True))
        for name, defect in DEFECTS.items():
            self.assertNotEqual(defect.found_by, ())
            for case, result in zip(defect.found_by, found[name], strict=True):
                with self.subTest(name, case=case):
                    self.assertIs(result.verdict, defect.verdict, result)
                    self.assertIn(defect.says, result.explanation)

    def test_a_failure_leaves_nothing_running(self) -> None:
        for server in ("start while acquiring accepted", "wrong time taken for now", "stop not cancelling"):
            with self.subTest(server):
                [result] = self.results(server)
                self.assertIs(result.verdict, Verdict.FAIL)
                self.assertEqual(self.client(server).request("status")[2], "0")


class RightServerTests(_Clients):
    """Servers that are correct but unusual: no case fails, and each case that is skipped has a reason."""

    def results(self, server: str, *cases: str, **attributes: Any) -> list[Result]:
        """Run cases, none of which may fail, and return the results; without cases, those of the server's full run."""
        found = [tried(case, server, **attributes) for case in cases] if cases else _full_runs()[server]
        for result in found:
            self.assertIsNot(result.verdict, Verdict.FAIL, result)
        return found

    def reasons(self, server: str, *cases: str, **attributes: Any) -> list[str]:
        """Return the reasons of the cases that were not judged; all others must have passed."""
        found = [result for result in self.results(server, *cases, **attributes) if result.verdict is not Verdict.PASS]
        for result in found:
            self.assertIn(result.verdict, _NOT_JUDGED, result)
        return [result.explanation for result in found]

    def not_strict(self, results: Iterable[Result]) -> set[str]:
        return {result.case.id for result in results if result.verdict is Verdict.NON_STRICT}

    def test_healthy(self) -> None:
        results = self.results("healthy")
        self.assertEqual([result.case.id for result in results], [*CASES])
        self.assertEqual({result.verdict for result in results}, {Verdict.PASS})
        self.assertEqual([result.case.id for result in results if result.timed_out], [])

    def test_replies_in_pieces(self) -> None:
        self.assertEqual(self.reasons("replies in pieces"), [])

    def test_writes_exponents(self) -> None:
        wanted = {f"{name}/reply-is-well-formed" for name in ("get-tpi", "get-tp0", "get-rms")}
        wanted |= {
            "get-tpi/whole-band",
            "get-tpi/band",
            "get-rms/as-many-as-tpi",
            "set-enable/measured-alike",
        }
        self.assertEqual(self.not_strict(self.results("writes exponents")), wanted)

    def test_replies_late(self) -> None:
        results = self.results("replies late")
        self.assertEqual(sorted(result.case.id for result in results), sorted(CASES))
        for result in results:
            self.assertIn(result.verdict, (Verdict.PASS, *_NOT_JUDGED), result)

    def test_greets_late(self) -> None:
        self.assertEqual(self.reasons("greets late"), [])

    def test_knows_few_commands(self) -> None:
        skipped = {f"{name} is not supported by this backend" for name in ("set-shift", "end-schedule", "get-rms")}
        self.assertEqual(set(self.reasons("knows few commands")), skipped)

    def test_what_it_lacks_needs_no_valid_value(self) -> None:
        for name, cases in {
            "set-integration": ("set-integration/sets",),
            "set-configuration": ("set-configuration/loads", "disconnect/configuration-stays"),
        }.items():
            reason = f"{name} is not supported by this backend"
            found = self.results("cannot be configured", *cases, valid_configuration=None)
            self.assertEqual(
                [(result.verdict, result.explanation) for result in found],
                [(Verdict.UNSUPPORTED, reason)] * len(cases),
            )

    def test_has_words_of_its_own(self) -> None:
        found = self.not_strict(self.results("has words of its own"))
        self.assertLessEqual({name for name in CASES if name.endswith("-arguments")}, found)
        self.assertLessEqual({"start/while-acquiring", "start/elapsed-time", "grammar/escaped-comma"}, found)

    def test_refuses_to_start(self) -> None:
        cases = [name for name in CASES if name.startswith("start/") and "wrong" not in name]
        self.assertGreater(len(cases), 5)
        for case in cases:
            with self.subTest(case):
                self.assertEqual(
                    self.reasons("refuses to start", case, valid_configuration=None),
                    ["start was refused (needs a setup): set valid_configuration"],
                )
                self.assertIn(tried(case, "refuses to start").verdict, (Verdict.FAIL, Verdict.NON_STRICT))
        self.results("refuses to start", *_QUICK, valid_configuration=None)

    def test_forgives_stop(self) -> None:
        self.assertEqual(self.reasons("forgives stop"), [])

    def test_forgives_stop_on_a_busy_machine(self) -> None:
        # The second stop arrives when the first one has been carried out, and is answered with `ok` all the same.
        self.assertEqual(self.reasons("forgives stop, pauses", "stop/newest-time-holds", stop_when_idle="ok"), [])

    def test_is_acquiring(self) -> None:
        cases = ("start/timed", "set-configuration/loads", "set-section/accepts", "backend-park/accepts")
        wanted = ["the server is acquiring and must not be disturbed"] * len(cases)
        self.assertEqual(self.reasons("is acquiring", *cases), wanted)
        # The other cases are run, and do not stop the acquisition.
        self.results("is acquiring")
        self.assertEqual(self.client("is acquiring").request("status")[2], "1")

    def test_left_out(self) -> None:
        cases = [name for name in CASES if re.match("(start|stop|disconnect|backend-park)/(?!wrong|conf)", name)]
        skipped = self.reasons("healthy", *cases, leave_out=("start", "stop", "backend-park"))
        self.assertEqual(len(skipped), len(cases))
        self.assertEqual(set(skipped), {f"{name} is listed in leave_out" for name in ("start", "backend-park")})

    def test_not_told(self) -> None:
        for case in ("set-configuration/loads", "disconnect/configuration-stays"):
            self.assertEqual(
                self.reasons("healthy", case, valid_configuration=None),
                ["no configuration is known: set valid_configuration"],
            )
        self.assertEqual(
            self.reasons("healthy", "set-configuration/unknown", invalid_configuration=None),
            ["the instrument accepts any name: invalid_configuration is None"],
        )
        self.assertEqual(
            self.reasons("healthy", "set-filename/long-path", reply_limit=None),
            ["replies may have any length: reply_limit is None"],
        )

    def test_is_left_as_it_was_found(self) -> None:
        client = self.client("healthy")
        client.request("set-configuration", "K14")
        client.request("set-integration", "77")
        client.request("set-filename", "/M\xfc\udcff/file,with a comma")
        quick = [name for name in _QUICK if not re.match(_TIMED, name)]
        self.assertEqual(self.reasons("healthy", *quick, valid_feeds=(0, 1), valid_interleave=5), [])
        self.assertEqual(client.request("get-configuration"), ["K14"])
        self.assertEqual(client.request("get-integration"), ["77"])
        self.assertEqual(client.request("get-filename"), ["/M\xfc\udcff/file,with a comma"])
        self.assertEqual(len(client.request("get-tpi")), 14)
        self.assertEqual(client.request("status")[2], "0")

    def test_feeds_are_left_as_the_configuration_has_them(self) -> None:
        client = self.client("healthy")
        client.request("set-configuration", "K14")
        for case in ("set-enable/accepts", "set-enable/measured-alike"):
            self.assertEqual(self.reasons("healthy", case, valid_configuration=None), [])
        self.assertEqual(len(client.request("get-tpi")), 14)


class ScopeTests(unittest.TestCase):
    """A case sends nothing outside its scope, and few lines if the number of lines is limited."""

    def try_all(self, guard: _Counting) -> _Counting:
        """Run all cases whose scope the guard allows; none may fail."""
        for case in CASES.values():
            if case.scope <= guard.scope:
                with self.subTest(case.id):
                    result = tried(case.id, "healthy", guard=guard)
                    self.assertIn(result.verdict, (Verdict.PASS, *_NOT_JUDGED), result)
        return guard

    def test_reads(self) -> None:
        self.assertGreater(self.try_all(_Counting(Scope.READS)).lines, 100)

    def test_measurements(self) -> None:
        self.assertGreater(self.try_all(_Counting(Scope.MEASURE)).lines, 100)

    def test_five_seconds_will_do(self) -> None:
        """The cases that run by default on a telescope in use send few lines, and take less than 5 s."""
        guard = self.try_all(_Counting(Scope.READS, LINES_A_SECOND))
        advice = (
            "discos-backend-check sends more by default than its page says: send fewer lines in the new case, or raise "
            "the limits here and in test_cli_check, and the seconds in docs/testing-your-backend.md"
        )
        self.assertLessEqual(guard.lines, 50, advice)
        self.assertLessEqual(guard.now, 5, advice)


if __name__ == "__main__":
    unittest.main()
