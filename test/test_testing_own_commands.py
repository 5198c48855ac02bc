"""Commands that only one backend has: if a profile names them, they are tested like those of the protocol."""

from __future__ import annotations

import io
import json
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from discosbackend import Argument, Field, command
from discosbackend.backend import command_of
from discosbackend.cli import check
from discosbackend.commands import Command
from discosbackend.errors import BackendError
from discosbackend.testing import BackendConformance, Profile
from discosbackend.testing.case_context import CaseContext
from discosbackend.testing.command_cases import own_cases
from discosbackend.testing.conformance import CASES
from discosbackend.testing.process import ServerProcess
from discosbackend.testing.profile import rows_of
from discosbackend.testing.runner import Result, run_cases

from .backend_simulator import BackendSimulator
from .serving import forked_kit_servers
from .settings import PATIENCE
from .test_citations import PAGE, sections

SWEEP = (Argument("power", "float", "dBm"), Argument("tones", "integer", optional=True, minimum=1))


class SweepingBackend(BackendSimulator):
    """A backend with its own commands."""

    swept = 0

    @command("sweep", *SWEEP, reply=[Field("tone", "float", "MHz", repeated=True)], help="Find the tones.")
    def sweep(self, power, tones=2):
        if power > 2:
            raise BackendError("power above 2 dBm")
        self.swept += 1
        return [100.5] * tones

    @command("get-temperature", reply=[Field("temperature", "float", "K")], lane="reads")
    def get_temperature(self):
        return 4.25

    @command("count-sweeps", reply=[Field("sweeps", "integer")], lane="reads")
    def count_sweeps(self):
        return self.swept

    @command("reset")
    def reset(self):
        pass


class SweepingTests(BackendConformance, unittest.TestCase):
    """The conformance tests of a backend with its own commands."""

    valid_configuration = "K2"
    own_commands: Any = (SweepingBackend.sweep, SweepingBackend.get_temperature, Command("reset"))
    valid_arguments = {"sweep": (-10.5, 3)}

    def make_backend(self):
        return SweepingBackend()


# The cases for the commands of the protocol are run on this backend in other modules.
OWN = [case.method for case in own_cases(rows_of(SweepingTests.own_commands).values()).values()]
for _name in dir(SweepingTests):
    if _name.startswith("test_") and _name not in OWN:
        setattr(SweepingTests, _name, None)


class _Served(unittest.TestCase):
    """One server for all tests of a class."""

    address = ("", 0)

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(forked_kit_servers())
        server = ServerProcess(SweepingTests, timeout=PATIENCE)
        cls.addClassCleanup(server.stop)
        cls.address = server.address


class OwnCasesTests(_Served):
    def tried(self, *rows: object, **attributes: object) -> dict[str, Result]:
        """Return the results of the cases for these commands, by id."""
        profile = type("Mine", (Profile,), {"own_commands": rows, "valid_configuration": "K2", **attributes})()
        cases = own_cases(profile.own_rows.values()).values()
        return {result.case.id: result for result in run_cases(cases, lambda: CaseContext(profile, self.address))}

    def verdicts(self, *rows: object, **attributes: object) -> dict[str, str]:
        return {case_id: result.verdict.value for case_id, result in self.tried(*rows, **attributes).items()}

    def test_as_it_should_be(self) -> None:
        found = self.verdicts(
            SweepingBackend.sweep,
            SweepingBackend.get_temperature,
            Command("reset"),
            valid_arguments={"sweep": (-1, 2)},
        )
        self.assertEqual(
            [*found],
            [
                *("sweep/reply-is-well-formed", "get-temperature/reply-is-well-formed", "reset/accepts"),
                *("sweep/wrong-number-of-arguments", "sweep/wrong-type-of-arguments"),
                *("get-temperature/wrong-number-of-arguments", "reset/wrong-number-of-arguments"),
            ],
        )
        self.assertEqual(set(found.values()), {"pass"})

    def test_what_is_not_told_is_not_guessed(self) -> None:
        [sweep, *_] = self.tried(SweepingBackend.sweep).values()
        self.assertEqual(sweep.explanation, "no arguments of sweep are known: set valid_arguments")
        # A command without required arguments is tried, but the backend may refuse it.
        row = Command("sweep", (Argument("power", "float", optional=True),))
        found = self.tried(row, SweepingBackend.get_temperature, leave_out=("get-temperature",))
        refused = "sweep was refused (sweep needs at least 1 argument): set valid_arguments of sweep"
        self.assertEqual(found["sweep/accepts"].explanation, refused)
        reply = found["get-temperature/reply-is-well-formed"]
        self.assertEqual(reply.explanation, "get-temperature is listed in leave_out")

    def test_what_was_told_must_be_accepted(self) -> None:
        [result, *_] = self.tried(SweepingBackend.sweep, valid_arguments={"sweep": (5.0,)}).values()
        self.assertEqual(result.verdict.value, "fail")
        self.assertIn("power above 2 dBm", result.explanation)

    def test_what_is_wrong_is_found(self) -> None:
        tone = (Field("tone", "float", repeated=True),)
        one_float, two = (Field("a", "float"),), (Field("a", "float"), Field("b", "float"))
        higher = Argument("tones", "integer", optional=True, minimum=2)
        accepted = "must be answered with fail"
        lower, fewer = (
            Argument("power", "float", maximum=1),
            Argument("tones", "integer", optional=True, choices=(1, 2)),
        )
        for row, arguments, case_id, why in (
            (Command("sweep", (lower, SWEEP[1]), tone), (-1,), "wrong-type-of-arguments", accepted),
            (Command("sweep", (SWEEP[0], fewer), tone), (-1,), "wrong-type-of-arguments", accepted),
            (Command("sweep", SWEEP[:1], tone), (-1,), "wrong-number-of-arguments", accepted),
            (Command("sweep", (SWEEP[0], higher), tone), (-1,), "wrong-type-of-arguments", accepted),
            (Command("sweep", SWEEP, one_float), (-1,), "reply-is-well-formed", "the reply to sweep must be a,"),
            (Command("get-temperature", reply=two), (), "reply-is-well-formed", "must be a and b,"),
            (Command("get-temperature", reply=(Field("a", "integer"),)), (), "reply-is-well-formed", "not '4.25'"),
            (Command("get-temperature"), (), "accepts", "must be none,"),
            (Command("cool-down"), (), "accepts", "invalid command 'cool-down'"),
            (Command("get-pressure", reply=one_float), None, "reply-is-well-formed", "invalid command 'get-pressure'"),
        ):
            with self.subTest(row.name, why=why):
                found = self.tried(row, valid_arguments={} if arguments is None else {row.name: arguments})
                wrong = [result for result in found.values() if result.verdict.value == "fail"]
                self.assertEqual([result.case.id for result in wrong], [f"{row.name}/{case_id}"])
                self.assertIn(why, wrong[0].explanation)

    def test_what_is_named_as_one(self) -> None:
        self.assertEqual(rows_of([SweepingBackend.reset, Command("x")]), {"reset": Command("reset"), "x": Command("x")})
        self.assertIsNone(command_of(SweepingBackend.status))
        with self.assertRaisesRegex(TypeError, "neither a Command nor a method marked with @command"):
            rows_of([SweepingBackend.status])
        with self.assertRaisesRegex(ValueError, "'status' in own_commands is a command of the protocol"):
            rows_of([Command("status")])
        with self.assertRaisesRegex(ValueError, "'reset' is in own_commands twice"):
            rows_of([Command("reset"), SweepingBackend.reset])


class RequirementTests(unittest.TestCase):
    def test_every_requirement_is_a_sentence_of_its_section(self) -> None:
        found = sections(PAGE.read_text(encoding="utf-8"))
        for case in own_cases(rows_of(SweepingTests.own_commands).values()).values():
            with self.subTest(case.id):
                self.assertIn(case.requirement, found[case.section][1])


class OwnTestMethodsTests(unittest.TestCase):
    def methods(self, case: type[BackendConformance]) -> set[str]:
        names = unittest.TestLoader().getTestCaseNames(case)
        return set(names) - {case.method for case in CASES.values()}

    def test_each_case_is_a_method(self) -> None:
        self.assertEqual(self.methods(SweepingTests), set(OWN))
        self.assertIn("test_get_temperature_reply_is_well_formed", OWN)

    def test_a_class_that_is_derived_has_its_own(self) -> None:
        class FewerTests(SweepingTests):
            own_commands: Any = (Command("reset"),)

        class NoneTests(FewerTests):
            own_commands: Any = ()

        class TheSameTests(SweepingTests):
            pass

        self.assertEqual(self.methods(FewerTests), {"test_reset_accepts", "test_reset_wrong_number_of_arguments"})
        self.assertEqual(self.methods(NoneTests), set())
        self.assertEqual(self.methods(TheSameTests), set(OWN))

    def test_what_is_none(self) -> None:
        with self.assertRaisesRegex(TypeError, "neither a Command nor a method"):
            type("Mine", (BackendConformance, unittest.TestCase), {"own_commands": ("reset",)})


class OwnCommandsInAProfileTests(_Served):
    PROFILE = """\
valid_configuration = "K2"
leave_out = ["reset"]

[own_commands.sweep]
arguments = [
    { name = "power", type = "float" },
    { name = "tones", type = "integer", optional = true, minimum = 1 },
]
reply = [{ name = "tone", type = "float", repeated = true }]

[own_commands.get-temperature]
lane = "reads"
reply = [{ name = "temperature", type = "float" }]

[own_commands.reset]

[valid_arguments]
sweep = [-10.5]
"""

    def run_check(self, *options: str) -> tuple[int, str]:
        """Return the exit status and the standard output of discos-backend-check with this profile."""
        out = io.StringIO()
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(self.PROFILE)
            file.flush()
            with redirect_stdout(out), redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as end:
                check.main([f"127.0.0.1:{self.address[1]}", "--profile", file.name, *options])
        return int(end.exception.code or 0), out.getvalue()

    def verdicts(self, *options: str) -> dict[str, str]:
        with tempfile.NamedTemporaryFile() as report:
            own = ("sweep", "get-temperature", "reset")
            status, out = self.run_check(*options, "--json", report.name, "--only", *own)
            self.assertEqual(status, 0, out)
            results = json.loads(Path(report.name).read_text(encoding="utf-8"))["results"]
        return {result["id"]: result["verdict"] for result in results}

    def test_all_are_tried(self) -> None:
        found = self.verdicts("--full", "--strict")
        self.assertEqual(found.pop("reset/accepts"), "skipped")
        self.assertEqual(len(found), 6)
        self.assertEqual(set(found.values()), {"pass"})

    def test_what_is_not_known_to_only_read_is_not_sent(self) -> None:
        for options in ((), ("--measure",)):
            found = self.verdicts(*options)
            passed = {case_id for case_id, verdict in found.items() if verdict == "pass"}
            self.assertEqual(
                passed, {"get-temperature/reply-is-well-formed", "get-temperature/wrong-number-of-arguments"}
            )
            self.assertEqual({verdict for case_id, verdict in found.items() if case_id not in passed}, {"skipped"})

    def test_they_are_listed(self) -> None:
        _, out = self.run_check("--list")
        ids = [line.split()[0] for line in out.splitlines()]
        self.assertEqual(ids[: len(CASES)], [*CASES])
        self.assertEqual(len(ids), len(CASES) + 7)
        self.assertIn("sweep/wrong-type-of-arguments", ids)


del _Served


if __name__ == "__main__":
    unittest.main()
