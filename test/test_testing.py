"""discosbackend.testing: that it can be reused as the README says, and that it finds what is wrong."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import unittest
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

from discosbackend.client import Client
from discosbackend.commands import COMMANDS
from discosbackend.errors import NotServed
from discosbackend.testing import BackendConformance, Profile, conformance, process
from discosbackend.testing.cases import Cases
from discosbackend.testing.conformance import CASES
from discosbackend.testing.wire import Wire
from discosbackend.testing.wrong_arguments import is_about_arguments, wrong_numbers, wrong_types
from . import broken_backends, test_simulator_server
from .defective_servers import DEFECTS

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0

# Of a backend's module in a folder of its own, as the README has it.
MY_TESTS = """
import unittest

from discosbackend import Acquisition, Backend, Ticks
from discosbackend.testing import BackendConformance


class MyBackend(Backend):
    def __init__(self):
        self.acquisition = Acquisition(print, print)

    def status(self):
        return Ticks.now(), "ok", self.acquisition.acquiring

    def start(self, timestamp=None):
        self.acquisition.start(timestamp)

    def stop(self, timestamp=None):
        self.acquisition.stop(timestamp)


class MyBackendTests(BackendConformance, unittest.TestCase):
    def make_backend(self):
        return MyBackend()

    def test_of_my_own(self):
        self.assertEqual(len(self.client.request("status")), 3)
"""

# Enough to see that a runner finds and runs them; a case that is skipped among them.
SOME = (
    "test_version_reply_is_well_formed",
    "test_status_reply_is_well_formed",
    "test_get_tpi_band",
    "test_of_my_own",
)


def run(case: type[unittest.TestCase], *methods: str) -> unittest.TestResult:
    """Run some tests of a class, with its fixtures, in silence."""
    suite = unittest.TestSuite([case(method) for method in methods])
    return unittest.TextTestRunner(stream=io.StringIO()).run(suite)


def probe(**attributes: object) -> type[BackendConformance]:
    """A TestCase of all cases, with these attributes."""
    return type("Probe", (BackendConformance, unittest.TestCase), attributes)


@functools.cache
def ports() -> dict[str, int]:
    """Where the servers of defective_servers are, which all live in one process, until the tests end."""
    program = subprocess.Popen(  # pylint: disable=consider-using-with  # communicate() waits for its end
        [sys.executable, "-m", "test.defective_servers"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # It is full of what these servers have to complain of.
        stderr=subprocess.DEVNULL,
        text=True,
    )
    # No module fixture: those would be run for the tests within the tests too.
    atexit.register(program.communicate, timeout=PATIENCE)
    assert program.stdout is not None
    return json.loads(program.stdout.readline())


class _Servers(unittest.TestCase):
    """Has the servers of defective_servers at hand."""

    def probe(self, server: str, **attributes: object) -> type[BackendConformance]:
        """All cases for one of the servers."""
        told = {"valid_configuration": "K2", "valid_integration": 100, "inputs": 2, "lead": 0.1}
        return probe(address=("127.0.0.1", ports()[server]), **{**told, **attributes})

    def client(self, server: str) -> Client:
        """A client of one of the servers."""
        client = Client(port=ports()[server])
        self.addCleanup(client.close)
        return client


def methods_of(ids: Iterable[str]) -> list[str]:
    """The test methods of the cases with these ids."""
    return [CASES[name].method for name in ids]


class DefectTests(_Servers):
    """Every planted defect is found by the cases that the table names, and nothing where there is none."""

    def test_each_is_found(self) -> None:
        self.assertGreater(len(DEFECTS), 40)
        for name, defect in DEFECTS.items():
            with self.subTest(name):
                # Of some the mark is that nothing comes, of others that nothing happens.
                case = self.probe(name, reply_timeout=0.3, late_tolerance=0.1, valid_shift=1)
                result = run(case, *methods_of(defect.found_by))
                self.assertEqual(result.errors, [])
                found = {test.id().rpartition(".")[2] for test, _ in result.failures}
                self.assertEqual(found, set(methods_of(defect.found_by)))
                for _, text in result.failures:
                    self.assertIn(defect.says, text)

    def test_none_is_found_where_none_is(self) -> None:
        ids = {name for defect in DEFECTS.values() for name in defect.found_by}
        result = run(self.probe("healthy"), *methods_of(ids))
        self.assertEqual((result.failures, result.errors, result.skipped), ([], [], []))

    def test_a_failure_shows_what_was_said(self) -> None:
        case = self.probe("reply to a ! line")
        [(_, text)] = run(case, *methods_of(["grammar/replies-are-no-requests"])).failures
        self.assertIn(r"sent      b'!\r\n'", text)
        self.assertIn(r"received  b'!undefined,invalid,syntax error: no request\r\n'", text)
        self.assertIn("Any line that begins with `!` gets nothing.", text)
        self.assertNotIn("Traceback", text)

    def test_a_failure_leaves_nothing_running(self) -> None:
        for server in ("start while acquiring accepted", "wrong time taken for now", "stop not cancelling"):
            with self.subTest(server):
                failures = run(self.probe(server), *methods_of(DEFECTS[server].found_by)).failures
                self.assertEqual(len(failures), 1)
                self.assertEqual(self.client(server).request("status")[2], "0")

    def test_nobody_is_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = taken.getsockname()
        [(_, text)] = run(probe(address=address), *methods_of(["order/pipelining"])).failures
        self.assertIn(f"no server at 127.0.0.1:{address[1]}", text)


class RightServerTests(_Servers):
    """Servers that are right in their own way: nothing is reported, and what cannot be tried says why."""

    def check(self, server: str, *ids: str, **attributes: object) -> list[str]:
        """Run cases, none of which may fail; the reasons of those that were skipped."""
        result = run(self.probe(server, **attributes), *methods_of(ids))
        self.assertEqual((result.failures, result.errors), ([], []))
        return [reason for _, reason in result.skipped]

    def test_greets_late(self) -> None:
        ids = ("greeting/is-the-version", "order/pipelining", "version/reply-is-well-formed")
        self.assertEqual(self.check("greets late", *ids), [])

    def test_knows_few_commands(self) -> None:
        ids = ("set-shift/wrong-type-of-arguments", "end-schedule/accepts", "get-rms/reply-is-well-formed")
        names = ("set-shift", "end-schedule", "get-rms")
        wanted = [f"{name} is not supported by this backend" for name in names]
        self.assertEqual(self.check("knows few commands", *ids), wanted)

    def test_has_words_of_its_own(self) -> None:
        ids = [name for name in CASES if name.endswith("-arguments")]
        ids += ["start/while-acquiring", "start/elapsed-time", "stop/far-time", "grammar/escaped-comma"]
        self.assertEqual(self.check("has words of its own", *ids, exact_reasons=False), [])

    def test_refuses_to_start(self) -> None:
        ids = [name for name in CASES if name.startswith("start/") and "wrong" not in name]
        self.assertGreater(len(ids), 5)
        for case in ids:
            with self.subTest(case):
                self.assertEqual(
                    self.check("refuses to start", case, valid_configuration=None),
                    ["start was refused (needs a setup): say valid_configuration"],
                )
                told = run(self.probe("refuses to start"), *methods_of([case]))
                self.assertEqual(len(told.failures), 1)

    def test_forgives_stop(self) -> None:
        self.assertEqual(self.check("forgives stop", "stop/twice", stop_when_idle="ok"), [])

    def test_is_acquiring(self) -> None:
        ids = ("start/timed", "set-configuration/loads", "set-section/accepts", "backend-park/accepts")
        wanted = ["the server is acquiring, and that must not be disturbed"] * len(ids)
        self.assertEqual(self.check("is acquiring", *ids), wanted)
        # What needs no rest goes on, and stops nothing.
        self.check("is acquiring", "start/wrong-type-of-arguments", "stop/wrong-number-of-arguments")
        self.assertEqual(self.client("is acquiring").request("status")[2], "1")

    def test_left_out(self) -> None:
        ids = [name for name in CASES if name.partition("/")[0] in ("start", "stop", "backend-park")]
        ids = [name for name in ids if "wrong" not in name]
        skipped = self.check("healthy", *ids, leave_out=("start", "stop", "backend-park"))
        self.assertEqual(len(skipped), len(ids))
        self.assertEqual(
            set(skipped), {f"{name} is left out, as leave_out says" for name in ("start", "backend-park")}
        )

    def test_not_told(self) -> None:
        self.assertEqual(
            self.check("healthy", "set-configuration/loads", valid_configuration=None),
            ["no configuration is known: say valid_configuration"],
        )
        self.assertEqual(
            self.check("healthy", "set-configuration/unknown", invalid_configuration=None),
            ["the instrument takes any name, as invalid_configuration says"],
        )

    def test_is_left_as_it_was_found(self) -> None:
        client = self.client("healthy")
        client.request("set-configuration", "K14")
        client.request("set-integration", "77")
        client.request("set-filename", "/a/file,with a comma")
        quick = [name for name in CASES if not re.match("(start|stop)/(?!wrong)", name)]
        self.assertEqual(self.check("healthy", *quick, valid_feeds=(0, 1), valid_interleave=5), [])
        self.assertEqual(client.request("get-configuration"), ["K14"])
        self.assertEqual(client.request("get-integration"), ["77"])
        self.assertEqual(client.request("get-filename"), ["/a/file,with a comma"])
        self.assertEqual(len(client.request("get-tpi")), 14)
        self.assertEqual(client.request("status")[2], "0")

    def test_feeds_are_left_as_the_configuration_has_them(self) -> None:
        client = self.client("healthy")
        client.request("set-configuration", "K14")
        self.assertEqual(self.check("healthy", "set-enable/accepts", valid_configuration=None), [])
        self.assertEqual(len(client.request("get-tpi")), 14)


class ReuseTests(unittest.TestCase):
    """In a folder of its own, in an interpreter of its own, under each runner."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # pylint: disable=consider-using-with
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def python(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of an interpreter in the folder."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout

    def test_foreign_backend(self) -> None:
        shutil.copy(ROOT / "test" / "foreign_backend.py", self.folder)
        self.write(
            "test_foreign.py",
            """
            import unittest
            from discosbackend.testing import BackendConformance
            from foreign_backend import ForeignBackend

            class ForeignTests(BackendConformance, unittest.TestCase):
                valid_configuration = "XB4"
                valid_integration = 10
                inputs = 2
                lead = 0.05

                def make_backend(self):
                    return ForeignBackend()
            """,
        )
        status, output = self.python("-m", "unittest", "-v", "test_foreign")
        self.assertEqual(status, 0, output)
        self.assertIn(f"Ran {len(CASES)} tests", output)
        skipped = re.findall(r"skipped '(\S+) is not supported by this backend'", output)
        # Everything that it has not, get-rms twice; and nothing else is skipped.
        lacks = {"set-section", "cal-on", "set-enable", "end-schedule", "backend-park", "set-shift"}
        lacks |= {"get-rms", "get-ddcoffset", "get-filename"}
        self.assertEqual(set(skipped), lacks)
        self.assertIn(f"OK (skipped={len(skipped)})", output)

    def test_under_unittest(self) -> None:
        self.write("test_mine.py", MY_TESTS)
        names = [f"test_mine.MyBackendTests.{name}" for name in SOME]
        status, output = self.python("-m", "unittest", *names)
        self.assertEqual(status, 0, output)
        self.assertRegex(output, r"Ran 4 tests in .*\n\nOK \(skipped=1\)")

    def test_under_trial(self) -> None:
        # It runs in a folder of its own making, and knows no class fixtures.
        self.write("test_mine.py", MY_TESTS)
        # On a TestCase of its own, whose failures are an exception of its own.
        self.write(
            "test_its_own.py",
            """
            from twisted.trial import unittest
            import test_mine

            class ItsOwnTests(test_mine.BackendConformance, unittest.TestCase):
                protocol_version = "1.2"

                def make_backend(self):
                    return test_mine.MyBackend()
            """,
        )
        names = [f"test_mine.MyBackendTests.{name}" for name in SOME]
        its_own = "test_its_own.ItsOwnTests.test_greeting_is_the_version"
        status, output = self.python("-m", "twisted.trial", *names, its_own)
        self.assertEqual(status, 1, output)
        self.assertIn("FAILED (skips=1, failures=1, successes=3)", output)

    def test_under_trial_by_a_file(self) -> None:
        """Which no import would find, and whose path is relative to a folder that trial leaves."""
        (self.folder / "deep").mkdir()
        self.write("mine.py", MY_TESTS)
        self.write(
            "deep/test_mine.py",
            """
            import mine

            class DeepTests(mine.MyBackendTests):
                pass

            # One test will do here.
            for name in dir(mine.BackendConformance):
                if name.startswith("test_"):
                    delattr(mine.BackendConformance, name)
            """,
        )
        status, output = self.python("-m", "twisted.trial", "deep/test_mine.py")
        self.assertEqual(status, 0, output)
        self.assertIn("PASSED (successes=1)", output)

    @unittest.skipUnless(importlib.util.find_spec("pytest"), "pytest is not installed")
    def test_under_pytest(self) -> None:
        self.write("test_mine.py", MY_TESTS)
        names = [f"test_mine.py::MyBackendTests::{name}" for name in SOME]
        for mode in ("prepend", "importlib"):
            with self.subTest(mode):
                status, output = self.python("-m", "pytest", f"--import-mode={mode}", *names)
                self.assertEqual(status, 0, output)
                self.assertIn("3 passed, 1 skipped", output)

    def test_as_a_program(self) -> None:
        # What the program was called with is none of the server's business.
        self.write(
            "test_mine.py",
            "import sys\n"
            + MY_TESTS.replace("return MyBackend()", "assert not sys.argv[1:]\n        return MyBackend()")
            + '\n\nif __name__ == "__main__":\n    unittest.main()\n',
        )
        names = [f"MyBackendTests.{name}" for name in SOME]
        status, output = self.python("test_mine.py", *names)
        self.assertEqual(status, 0, output)
        self.assertRegex(output, r"Ran 4 tests in .*\n\nOK \(skipped=1\)")

    def test_in_a_package_as_a_program(self) -> None:
        (self.folder / "pack").mkdir()
        self.write("pack/__init__.py", "")
        self.write("pack/mine.py", "NAME = 'of a relative import'\n")
        self.write(
            "pack/test_mine.py",
            MY_TESTS + '\nfrom .mine import NAME\n\nif __name__ == "__main__":\n    unittest.main()\n',
        )
        status, output = self.python("-m", "pack.test_mine", "MyBackendTests.test_of_my_own")
        self.assertEqual(status, 0, output)

    def test_a_program_that_does_not_ask_whether_it_is_one(self) -> None:
        self.write("test_mine.py", MY_TESTS + "\n\nunittest.main()\n")
        status, output = self.python("test_mine.py", "MyBackendTests.test_of_my_own")
        self.assertEqual(status, 1, output)
        self.assertIn('write `if __name__ == "__main__":` before what runs the tests', output)

    def test_the_server_ends_with_the_tests(self) -> None:
        """Also when they are killed, which leaves no time to end anything."""
        self.write("test_mine.py", MY_TESTS)
        self.write(
            "leave.py",
            """
            import os, signal, sys
            from discosbackend.testing.process import ServerProcess
            from test_mine import MyBackendTests

            server = ServerProcess(MyBackendTests, timeout=30)
            print(server.address[1], flush=True)
            sys.stdin.readline()
            os.kill(os.getpid(), signal.SIGKILL)
            """,
        )
        with subprocess.Popen(
            [sys.executable, "leave.py"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdin is not None and program.stdout is not None
            port = int(program.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
                self.assertEqual(connection.recv(100), b"!version,ok,1.4\r\n")
                program.communicate("go\n", timeout=PATIENCE)
                self.assertEqual(program.returncode, -signal.SIGKILL)
                self.assertEqual(connection.recv(100), b"")


class BrokenBackendTests(unittest.TestCase):
    """A backend that cannot be served makes an error that says why, soon, and once."""

    def told(self, case: type[BackendConformance]) -> list[str]:
        """What two tests of a class are told, both of which must be errors."""
        result = run(case, "test_version_reply_is_well_formed", "test_order_pipelining")
        self.assertEqual(result.failures, [])
        self.assertEqual(len(result.errors), 2)
        return [text for _, text in result.errors]

    def test_raises_in_its_constructor(self) -> None:
        first, second = self.told(broken_backends.RaisingTests)
        self.assertIn("RaisingTests: the backend cannot be served", first)
        self.assertIn('raise OSError("no instrument on /dev/ttyS9")', first)
        self.assertIn("looking for the instrument", first)
        why = "no server, as before: OSError: no instrument on /dev/ttyS9"
        self.assertEqual(second, f"discosbackend.errors.NotServed: {why}\n")

    def test_is_none(self) -> None:
        first, _ = self.told(broken_backends.ReturningNoneTests)
        self.assertIn("ReturningNoneTests.make_backend() returned None", first)

    def test_takes_the_process_down(self) -> None:
        first, second = self.told(broken_backends.ExitingTests)
        self.assertIn("goodbye", first)
        self.assertIn("its process ended with status 7", second)

    def test_takes_too_long(self) -> None:
        with mock.patch.object(process, "_GRACE", 0.1):
            first, _ = self.told(broken_backends.SlowTests)
        self.assertIn("no server after 0.5 s", first)

    def test_is_not_named(self) -> None:
        for text in self.told(broken_backends.SilentTests):
            self.assertIn("SilentTests does not say what to test: define make_backend()", text)
        for text in self.told(broken_backends.ForgetfulTests):
            self.assertIn("ForgetfulTests.setUp() did not set self.address", text)

    def test_stands_where_no_other_process_finds_it(self) -> None:
        class LocalTests(BackendConformance, unittest.TestCase):
            def make_backend(self) -> object:
                return object()

        first, _ = self.told(LocalTests)
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
        # What the server logged, which is what its author looks for.
        self.assertIn("ZeroDivisionError: division by zero", failed)
        self.assertIn("the server closed the connection where a reply is wanted", died)
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

        def make(*arguments: object, **options: object) -> process.ServerProcess:
            made.append(process.ServerProcess(*arguments, **options))
            return made[-1]

        with mock.patch.object(conformance, "ServerProcess", make):
            result = run(case, *methods_of(CASES))
        # One server for all of them, ended with the class.
        self.assertEqual([server.running for server in made], [False])
        self.assertEqual((result.failures, result.errors), ([], []))
        self.assertEqual(result.testsRun, len(CASES))
        # The lines and the arguments are judged whatever it can do.
        self.assertGreater(len(CASES) - len(result.skipped), 40)
        for _, reason in result.skipped:
            self.assertRegex(reason, "is not supported by this backend|: say valid_")


class LiveServerTests(BackendConformance, unittest.TestCase):
    """A server that this class launches by itself, once for each test; the cases do not care how."""

    def setUp(self) -> None:
        self.server = process.ServerProcess(test_simulator_server.SimulatorServerTests, timeout=PATIENCE)
        self.address = self.server.address

    def tearDown(self) -> None:
        self.server.stop()

    def test_mine(self) -> None:
        self.assertEqual(self.client.request("get-configuration"), ["unconfigured"])


# Two of them are enough to see that each has met a server of its own.
def _only(case: type[BackendConformance], *wanted: str) -> None:
    for name in dir(case):
        if name.startswith("test_") and name not in wanted:
            setattr(case, name, None)


_only(LiveServerTests, "test_mine", "test_order_two_clients")


class MixinTests(unittest.TestCase):
    """That no case can be left out by mistake."""

    def test_importing_it_collects_nothing(self) -> None:
        module = type(sys)("of_a_user")
        vars(module)["BackendConformance"] = BackendConformance
        self.assertEqual(unittest.TestLoader().loadTestsFromModule(module).countTestCases(), 0)
        self.assertFalse(BackendConformance.__name__.startswith("Test"))

    def test_a_class_that_is_no_testcase(self) -> None:
        with self.assertRaisesRegex(TypeError, "Mine is no TestCase, so none of its cases would run"):
            type("Mine", (BackendConformance,), {})

    def test_a_mixin_of_ones_own(self) -> None:
        class Ours(BackendConformance, mixin=True):
            valid_shift = 5

        class OursTests(Ours, unittest.TestCase):
            address = ("127.0.0.1", 1)

        self.assertTrue(OursTests("test_status_reply_is_well_formed").told("valid_shift"))

    def test_bases_in_the_wrong_order(self) -> None:
        with self.assertRaisesRegex(TypeError, r"write `class Mine\(BackendConformance, unittest"):
            type("Mine", (unittest.TestCase, BackendConformance), {})

    def test_a_misspelled_attribute(self) -> None:
        for name, meant in (("valid_config", "valid_configuration"), ("reply_time_out", "reply_timeout")):
            with self.subTest(name), self.assertRaisesRegex(TypeError, f"'{name}': is '{meant}' meant"):
                type("Mine", (BackendConformance, unittest.TestCase), {name: "TP"})
        # A test's own attributes, and methods, are its own.
        type("Mine", (BackendConformance, unittest.TestCase), {"maxDiff": None, "port": 1, "valid_config": print})

    def test_every_case_is_a_method(self) -> None:
        names = unittest.TestLoader().getTestCaseNames(probe())
        self.assertEqual(sorted(names), sorted(case.method for case in CASES.values()))
        self.assertEqual(len(set(names)), len(CASES))

    def test_every_command_has_cases(self) -> None:
        for row in COMMANDS.values():
            with self.subTest(row.name):
                self.assertIn(f"{row.name}/wrong-number-of-arguments", CASES)
                self.assertGreaterEqual(sum(name.startswith(f"{row.name}/") for name in CASES), 2)
                typed = any(argument.type != "text" for argument in row.arguments)
                self.assertEqual(f"{row.name}/wrong-type-of-arguments" in CASES, typed)

    def test_no_id_twice(self) -> None:
        cases = Cases()
        cases.add("area/a-thing", "", print)
        with self.assertRaises(ValueError):
            cases.add("area/a/thing", "", print)

    def test_what_is_told(self) -> None:
        class Told(Profile):
            valid_shift = Profile.valid_shift

        told = Told()
        self.assertTrue(told.told("valid_shift"))
        self.assertFalse(told.told("valid_feeds"))
        told.valid_feeds = (0, 0)
        self.assertTrue(told.told("valid_feeds"))


class WrongArgumentTests(unittest.TestCase):
    """What is derived from the table: the reasons that public test suites know (protocol section 5)."""

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
