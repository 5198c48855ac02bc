"""discosbackend.testing: the mixin, its errors for a backend that cannot be served, and wrong arguments."""

from __future__ import annotations

import io
import socket
import sys
import unittest
from collections.abc import Iterable
from typing import Any
from unittest import mock

from discosbackend.commands import COMMANDS, Argument, Command, Field
from discosbackend.testing import BackendConformance, Profile, conformance, process
from discosbackend.testing.case_context import TIMED
from discosbackend.testing.cases import Cases
from discosbackend.testing.command_cases import cases_of
from discosbackend.testing.conformance import CASES
from discosbackend.testing.errors import NotServed
from discosbackend.testing.send_guard import Scope
from discosbackend.testing.server_session import CLOCK, GREETING, PROTOCOL_VERSION, request_line
from discosbackend.testing.wire import LINE_END, UNKNOWN_COMMAND, Wire
from discosbackend.testing.wrong_arguments import _WRONG, is_about_arguments, wrong_numbers, wrong_types

from . import broken_backends, test_simulator_server
from .serving import forked_kit_servers
from .settings import LONG, PATIENCE, long_only
from .verdicts import address_of


def run(case: type[unittest.TestCase], *methods: str) -> unittest.TestResult:
    """Run some tests of a class, with its fixtures, without output."""
    suite = unittest.TestSuite([case(method) for method in methods])
    return unittest.TextTestRunner(stream=io.StringIO()).run(suite)


def probe(**attributes: object) -> type[BackendConformance]:
    """Return a TestCase with all cases and these attributes."""
    return type("Probe", (BackendConformance, unittest.TestCase), attributes)


def methods_of(ids: Iterable[str]) -> list[str]:
    """Return the names of the test methods of the cases with these ids."""
    return [CASES[name].method for name in ids]


class OutcomeTests(unittest.TestCase):
    """The outcome of a test for each verdict."""

    def outcome(self, server: str, case: str, **attributes: object) -> unittest.TestResult:
        result = run(probe(address=address_of(server), **attributes), *methods_of([case]))
        self.assertEqual((result.testsRun, result.errors), (1, []))
        return result

    def test_a_failure_shows_what_was_said(self) -> None:
        [(_, text)] = self.outcome("reply to a ! line", "grammar/replies-are-no-requests").failures
        self.assertIn(r"sent      b'!\r\n'", text)
        self.assertIn(r"received  b'!undefined,invalid,syntax error: no request\r\n'", text)
        self.assertIn(
            "section 5.2 Lines that are not messages: A line that begins with `!` is not a request and gets no reply.",
            text,
        )
        self.assertNotIn("Traceback", text)

    def test_what_is_not_strict(self) -> None:
        case = "get-tp0/reply-is-well-formed"
        [(_, text)] = self.outcome("exponents", case).failures
        self.assertIn("a number in fixed point without exponent, not '1.5e+06'", text)
        result = self.outcome("exponents", case, strict=False)
        self.assertEqual(result.failures, [])
        [(_, reason)] = result.skipped
        self.assertIn("a number in fixed point without exponent", reason)

    def test_what_is_known(self) -> None:
        case = "get-ddcoffset/reply-is-well-formed"
        result = self.outcome("backend fails", case, deviations={"get-ddcoffset/*": "there is no such thing"})
        self.assertEqual(result.failures, [])
        self.assertIn("there is no such thing", result.skipped[0][1])

    def test_nobody_is_there(self) -> None:
        # The port is bound to a socket that does not listen, so that no other process can use it.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = taken.getsockname()
            [(_, text)] = run(probe(address=address), *methods_of(["order/pipelining"])).failures
        self.assertIn(f"no server at 127.0.0.1:{address[1]}", text)


class OnceTests(unittest.TestCase):
    """A problem that concerns many tests of a class is reported by one of them."""

    def outcome(self, case: type[BackendConformance], *ids: str) -> tuple[dict[str, str], dict[str, str]]:
        """Run these cases, or all, and return the failures and the skipped tests: method and text."""
        result = run(case, *methods_of(ids or CASES))
        found = [
            {test.id().rpartition(".")[2]: text for test, text in outcomes}
            for outcomes in (result.failures, result.skipped)
        ]
        self.errors = [text for _, text in result.errors]
        return found[0], found[1]

    def on(self, server: str, **attributes: object) -> type[BackendConformance]:
        """Return a TestCase for one of the servers of defective_servers."""
        return probe(address=address_of(server), valid_configuration="K2", lead=0.1, late_tolerance=0.3, **attributes)

    def test_a_cause(self) -> None:
        failed, skipped = self.outcome(self.on("status a field short"))
        self.assertEqual([*failed], ["test_status_reply_is_well_formed"])
        self.assertIn("carries `timestamp`, `status` and `acquiring`", failed["test_status_reply_is_well_formed"])
        self.assertEqual(self.errors, [])
        self.assertGreater(len(skipped), 70)
        for text in skipped.values():
            self.assertRegex(text, "^blocked by status/reply-is-well-formed; .")

    def test_a_cause_whose_test_is_not_run(self) -> None:
        """Its failure is reported at the end of the class."""
        case = self.on("status a field short")
        failed, skipped = self.outcome(case, "start/timed", "stop/twice", "version/reply-is-well-formed")
        self.assertEqual((failed, len(skipped)), ({}, 2))
        [text] = self.errors
        self.assertIn("tests were skipped because of a failure:", text)
        self.assertIn("status/reply-is-well-formed, docs/protocol.md, section 4.9", text)
        self.assertIn(r"received  b'!status,ok,", text)
        # The next run does not use the results of this one.
        self.assertEqual(self.outcome(case, "version/reply-is-well-formed"), ({}, {}))
        self.assertEqual(self.errors, [])

    def test_a_server_in_use(self) -> None:
        ids = ("set-section/accepts", "start/timed", "stop/twice", "set-configuration/loads", "order/two-clients")
        failed, skipped = self.outcome(self.on("is acquiring"), *ids)
        reason = "the server is acquiring and must not be disturbed"
        [(method, text)] = failed.items()
        self.assertEqual(method, "test_start_timed")
        self.assertIn(f"start/timed could not be judged: {reason}", text)
        wanted = {CASES[name].method: reason for name in ids if name not in ("start/timed", "order/two-clients")}
        self.assertEqual(skipped, wanted)

    def test_what_must_be_complete(self) -> None:
        ids = ("set-configuration/loads", "disconnect/configuration-stays", "start/timed", "stop/twice")
        reason = "no configuration is known: set valid_configuration"
        for complete, wanted in ((False, []), (True, ["test_set_configuration_loads", "test_start_timed"])):
            with self.subTest(complete=complete):
                case = self.on("refuses to start", complete=complete)
                case.valid_configuration = None
                failed, skipped = self.outcome(case, *ids)
                self.assertEqual([*failed], wanted)
                self.assertEqual(len(skipped), 4 - len(wanted))
                self.assertEqual(skipped["test_disconnect_configuration_stays"], reason)

    def test_who_is_told_of_a_server_that_is_gone(self) -> None:
        """After the server process has ended, no other case is run to find a cause."""
        self.enterContext(forked_kit_servers())
        result = run(broken_backends.DyingTests, "test_get_tpi_band", "test_version_reply_is_well_formed")
        self.assertEqual((result.errors, result.skipped), ([], []))
        [(test, text)] = result.failures
        self.assertEqual(test.id().rpartition(".")[2], "test_get_tpi_band")
        self.assertIn("the server's process has ended", text)


class BrokenBackendTests(unittest.TestCase):
    """If a backend cannot be served, the first test reports the whole reason, and the others a short one."""

    def setUp(self) -> None:
        self.enterContext(forked_kit_servers())

    def is_set(self, case: type[BackendConformance]) -> list[str]:
        """Run two tests of a class, both of which must be errors, and return the texts."""
        result = run(case, "test_version_reply_is_well_formed", "test_order_pipelining")
        self.assertEqual(result.failures, [])
        self.assertEqual(len(result.errors), 2)
        return [text for _, text in result.errors]

    def test_raises_in_its_constructor(self) -> None:
        first, second = self.is_set(broken_backends.RaisingTests)
        self.assertIn("RaisingTests: the backend cannot be served", first)
        self.assertIn('raise OSError("no instrument on /dev/ttyS9")', first)
        self.assertIn("looking for the instrument", first)
        why = "no server, for the same reason as before: OSError: no instrument on /dev/ttyS9"
        self.assertEqual(second, f"discosbackend.testing.errors.NotServed: {why}\n")

    def test_is_none(self) -> None:
        first, _ = self.is_set(broken_backends.ReturningNoneTests)
        self.assertIn("ReturningNoneTests.make_backend() returned None", first)

    def test_takes_the_process_down(self) -> None:
        first, second = self.is_set(broken_backends.ExitingTests)
        self.assertIn("goodbye", first)
        self.assertIn("its process ended with status 7", second)

    def test_takes_too_long(self) -> None:
        with mock.patch.object(process, "_GRACE", 0.1):
            first, _ = self.is_set(broken_backends.SlowTests)
        self.assertIn("no server after 0.5 s", first)

    def test_is_not_named(self) -> None:
        for text in self.is_set(broken_backends.SilentTests):
            self.assertIn("SilentTests does not say what to test: define make_backend()", text)
        for text in self.is_set(broken_backends.ForgetfulTests):
            self.assertIn("ForgetfulTests.setUp() did not set self.address", text)

    def test_stands_where_no_other_process_finds_it(self) -> None:
        class LocalTests(BackendConformance, unittest.TestCase):
            def make_backend(self) -> object:
                return object()

        first, _ = self.is_set(LocalTests)
        self.assertIn("LocalTests is defined inside a function", first)

    def test_does_not_end(self) -> None:
        server = process.ServerProcess(broken_backends.StuckTests, timeout=PATIENCE)
        wire = Wire(server.address, timeout=PATIENCE, reply_limit=511)
        self.addCleanup(wire.close)
        self.assertEqual(wire.read().line, b"!version,ok,1.4\r\n")
        with mock.patch.object(process, "_GRACE", 0.1):
            server.stop()
        with self.assertRaises(AssertionError):
            wire.read()

    def test_fails_and_dies(self) -> None:
        result = run(
            broken_backends.FailingTests,
            "test_get_rms_reply_is_well_formed",
            "test_get_tp0_reply_is_well_formed",
            "test_get_tpi_reply_is_well_formed",
        )
        self.assertEqual(result.errors, [])
        (_, failed), (_, died) = result.failures
        # The text contains the log of the server.
        self.assertIn("ZeroDivisionError: division by zero", failed)
        self.assertIn("the server closed the connection where a reply was expected", died)
        self.assertIn("the server's process has ended", died)

    def test_a_server_of_ours_knows_every_command(self) -> None:
        result = run(broken_backends.LackingTests, "test_set_shift_accepts", "test_cal_on_accepts")
        self.assertEqual((result.errors, result.skipped), ([], []))
        [(test, text)] = result.failures
        self.assertEqual(test.id().rpartition(".")[2], "test_set_shift_accepts")
        self.assertIn("invalid command 'set-shift'", text)

    def test_can_do_next_to_nothing(self) -> None:
        case = broken_backends.MinimalTests
        made: list[process.ServerProcess] = []

        def make(*arguments: Any, **options: Any) -> process.ServerProcess:
            made.append(process.ServerProcess(*arguments, **options))
            return made[-1]

        wanted = [name for name in CASES if LONG or not name.startswith("hostile/")]
        with mock.patch.object(conformance, "ServerProcess", make):
            result = run(case, *methods_of(wanted))
        # One server is started for all tests, and stopped at the end of the class.
        self.assertEqual([server.running for server in made], [False])
        self.assertEqual((result.failures, result.errors), ([], []))
        self.assertEqual(result.testsRun, len(wanted))
        # The cases for lines and for wrong arguments do not depend on the commands of the backend.
        self.assertGreater(len(wanted) - len(result.skipped), 40)
        for _, reason in result.skipped:
            self.assertRegex(reason, "is not supported by this backend|: set valid_")


class LiveServerTests(BackendConformance, unittest.TestCase):
    """A class whose setUp starts a server for each test and sets `self.address`."""

    def setUp(self) -> None:
        self.server = process.ServerProcess(test_simulator_server.SimulatorServerTests, timeout=PATIENCE)
        self.address = self.server.address

    def tearDown(self) -> None:
        self.server.stop()

    @long_only
    def test_mine(self) -> None:
        self.assertEqual(self.client.request("get-configuration"), ["unconfigured"])


# Two tests are sufficient to show that each uses a new server.
def _only(case: type[BackendConformance], *wanted: str) -> None:
    for name in dir(case):
        if name.startswith("test_") and name not in wanted:
            setattr(case, name, None)


_only(LiveServerTests, "test_mine", "test_order_two_clients")


class MixinTests(unittest.TestCase):
    """A mistake in the definition of a class cannot skip cases without notice."""

    def test_importing_it_collects_nothing(self) -> None:
        module = type(sys)("of_a_user")
        vars(module)["BackendConformance"] = BackendConformance
        self.assertEqual(unittest.TestLoader().loadTestsFromModule(module).countTestCases(), 0)
        self.assertFalse(BackendConformance.__name__.startswith("Test"))

    def test_a_class_that_is_no_testcase(self) -> None:
        with self.assertRaisesRegex(TypeError, "Mine is not a TestCase, so none of its cases would run"):
            type("Mine", (BackendConformance,), {})

    def test_a_mixin_of_ones_own(self) -> None:
        class Ours(BackendConformance, mixin=True):
            valid_shift = 5

        class OursTests(Ours, unittest.TestCase):
            address = ("127.0.0.1", 1)

        self.assertTrue(OursTests("test_status_reply_is_well_formed").is_set("valid_shift"))

    def test_bases_in_the_wrong_order(self) -> None:
        with self.assertRaisesRegex(TypeError, r"write `class Mine\(BackendConformance, unittest"):
            type("Mine", (unittest.TestCase, BackendConformance), {})

    def test_a_misspelled_attribute(self) -> None:
        for name, meant in (("valid_config", "valid_configuration"), ("reply_time_out", "reply_timeout")):
            with self.subTest(name), self.assertRaisesRegex(TypeError, f"'{name}': did you mean '{meant}'"):
                type("Mine", (BackendConformance, unittest.TestCase), {name: "TP"})
        # Attributes and methods with other names are allowed.
        type(
            "Mine",
            (BackendConformance, unittest.TestCase),
            {"maxDiff": None, "port": 1, "valid_config": print},
        )

    def test_every_case_is_a_method(self) -> None:
        names = unittest.TestLoader().getTestCaseNames(probe())
        self.assertEqual(sorted(names), sorted(case.method for case in CASES.values()))
        self.assertEqual(len(set(names)), len(CASES))

    def test_what_a_row_brings_along(self) -> None:
        """A command that needs arguments has no case for its reply, because valid arguments are not known."""
        receiver = Argument("receiver", "integer")
        for arguments, wanted in (
            ((), ("wrong-number-of-arguments", "reply-is-well-formed")),
            ((receiver,), ("wrong-number-of-arguments", "wrong-type-of-arguments")),
        ):
            with self.subTest(arguments):
                row = Command("get-temperature", arguments, (Field("temperature", "float", "K"),))
                self.assertEqual([case.id for case in cases_of(row)], [f"get-temperature/{what}" for what in wanted])

    def test_every_command_has_cases(self) -> None:
        for row in COMMANDS.values():
            with self.subTest(row.name):
                self.assertIn(f"{row.name}/wrong-number-of-arguments", CASES)
                self.assertGreaterEqual(sum(name.startswith(f"{row.name}/") for name in CASES), 2)
                typed = any(argument.type not in ("text", "path") for argument in row.arguments)
                self.assertEqual(f"{row.name}/wrong-type-of-arguments" in CASES, typed)

    def test_what_cases_use_is_shown_by_one(self) -> None:
        used = [GREETING, PROTOCOL_VERSION, CLOCK, LINE_END, UNKNOWN_COMMAND, *TIMED.values(), *COMMANDS]
        self.assertEqual(sorted(what for case in CASES.values() for what in case.shows), sorted(used))

    def test_no_id_twice(self) -> None:
        cases = Cases()
        cases.case("area/a-thing", "1", "", Scope.FULL)(print)
        with self.assertRaises(ValueError):
            cases.case("area/a/thing", "1", "", Scope.FULL)(print)

    def test_what_is_told(self) -> None:
        class Told(Profile):
            valid_shift = Profile.valid_shift

        told = Told()
        self.assertTrue(told.is_set("valid_shift"))
        self.assertFalse(told.is_set("valid_feeds"))
        told.valid_feeds = (0, 0)
        self.assertTrue(told.is_set("valid_feeds"))


class RequestLineTests(unittest.TestCase):
    """What the cases send."""

    def test_a_path_is_its_bytes(self) -> None:
        own = Command("load", (Argument("file", "path"), Argument("label", "text")))
        for row, name, arguments, line in (
            (None, "set-filename", ("/M\xfc\udcff\u0141,",), b"?set-filename,/M\xc3\xbc\xff\xc5\x81\\,\r\n"),
            (None, "set-configuration", ("M\xfc",), b"?set-configuration,M\xfc\r\n"),
            (None, "load", ("M\xfc",), b"?load,M\xfc\r\n"),
            (own, "load", ("M\xfc", "M\xfc"), b"?load,M\xc3\xbc,M\xfc\r\n"),
        ):
            with self.subTest(line):
                self.assertEqual(request_line(name, *arguments, row=row), line)


class WrongArgumentTests(unittest.TestCase):
    """The wrong arguments that are derived from the table, with the reasons of protocol section 5.5."""

    def test_numbers(self) -> None:
        reasons = {
            "status": {(0, ""), (1, "status needs no arguments"), (2, "status needs no arguments")},
            "set-configuration": {
                (0, "missing argument: configuration"),
                (1, ""),
                (2, "set-configuration needs at most 1 arguments"),
                (3, "set-configuration needs at most 1 arguments"),
            },
            "get-tpi": {(number, "get-tpi needs 0 or 2 arguments") for number in (1, 3, 4)},
            "start": {(0, ""), (1, "")} | {(number, "start needs at most 1 arguments") for number in (2, 3)},
            "set-enable": {(number, "set-enable needs 2 arguments") for number in (0, 1, 3, 4)} | {(2, "")},
            "set-section": {(number, "set-section needs 7 arguments") for number in range(10)}
            - {(7, "set-section needs 7 arguments")}
            | {(7, "")},
        }
        for name, wanted in reasons.items():
            with self.subTest(name):
                found = {(len(texts), reason) for texts, reason in wrong_numbers(COMMANDS[name])}
                self.assertEqual(found, {(number, reason) for number, reason in wanted if reason})

    def test_types(self) -> None:
        for name, wanted in {
            "set-section": (["1.5", "1.5", "1.5", "1", "x", "1.5", "1"], "wrong parameter format"),
            "set-enable": (["*", "1"], "wrong parameter format"),
            "set-integration": (["-1"], "integration time must be an integer number"),
            "cal-on": (["-1"], "interleave samples must be a positive int"),
            "start": (["0"], "wrong timestamp '0'"),
            "stop": (["a,b"], "wrong timestamp 'a?b'"),
            "get-tpi": (["nan", "1.5"], "wrong parameter format"),
        }.items():
            with self.subTest(name):
                self.assertIn(wanted, list(wrong_types(COMMANDS[name])))

    def test_limits_and_choices(self) -> None:
        huge = sys.float_info.max
        for argument, right, wrong in (
            (Argument("a", "float", minimum=-80, maximum=0), "0", ("-81", "1")),
            (Argument("a", "integer", minimum=3), "3", ("2",)),
            (Argument("a", "float", minimum=0.5, maximum=1e300), "1.5", ("-0.5", "1.0000000000000002e+300")),
            (Argument("a", "float", maximum=huge), "1.5", ()),
            (Argument("a", "text", choices=("fast", "slow")), "fast", ("xxxxx",)),
            (Argument("a", "integer", choices=(8, 16)), "8", ("17",)),
            (Argument("a", "float", choices=(2, 0.5)), "2", ("3",)),
        ):
            with self.subTest(argument):
                row = Command("set", (argument, Argument("b", "text")))
                self.assertIn(([right], "set needs 2 arguments"), list(wrong_numbers(row)))
                # Before them are the texts that are wrong for any argument of the type.
                found = [texts[0] for texts, _ in wrong_types(row)]
                self.assertEqual(tuple(found[len(_WRONG[argument.type]) :]), wrong)

    def test_reasons_are_known_again(self) -> None:
        for name, reason, known in [
            ("start", "wrong timestamp '17954194859619467'", True),
            ("start", "starting time already elapsed", False),
            ("set-section", "wrong parameter format", True),
            ("set-section", "backend supports 2 sections", False),
            ("get-rms", "get-rms needs no arguments", True),
        ]:
            with self.subTest(reason):
                self.assertIs(is_about_arguments(COMMANDS[name], reason), known)

    def test_a_wildcard_is_wrong_only_where_the_row_has_none(self) -> None:
        self.assertFalse(any("*" in texts for texts, _ in wrong_types(COMMANDS["set-section"])))
        self.assertTrue(any("*" in texts for texts, _ in wrong_types(COMMANDS["set-shift"])))


class ProcessTests(unittest.TestCase):
    def test_a_server_process_starts_none(self) -> None:
        with mock.patch.object(process, "_in_server", True), self.assertRaises(NotServed):
            process.ServerProcess(test_simulator_server.SimulatorServerTests, timeout=PATIENCE)


if __name__ == "__main__":
    unittest.main()
