"""discosbackend.testing in a user's own folder, under each test runner."""

from __future__ import annotations

import importlib.util
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
from pathlib import Path

from discosbackend.testing.conformance import CASES

from .serving import ROOT, run_python
from .settings import LONG, PATIENCE, long_only

# A test module with its backend, similar to the one in the README.
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

# These are sufficient to show that a test runner finds and runs the cases. One of them is skipped.
SOME = (
    "test_version_reply_is_well_formed",
    "test_status_reply_is_well_formed",
    "test_get_tpi_band",
    "test_of_my_own",
)


class ReuseTests(unittest.TestCase):
    """Each test runs a test runner in a process of its own, in a temporary folder.

    The test runner is in a forked process (see forking.py), and starts the server of the tests in a new interpreter.
    test_as_a_program starts both in new interpreters, as a user does.
    """

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def python(self, *arguments: str, fresh: bool = False) -> tuple[int, str]:
        """Run an interpreter in the folder and return its exit status and output."""
        done = run_python(*arguments, cwd=self.folder, fresh=fresh, together=True)
        return done.returncode, done.stdout

    def test_foreign_backend(self) -> None:
        shutil.copy(ROOT / "test" / "foreign_backend.py", self.folder)
        # The cases that do not depend on the backend are run on many backends in other tests.
        alone = re.compile("hostile|framing|grammar|.*/wrong-number")
        left_out = [] if LONG else [case.method for case in CASES.values() if alone.match(case.id)]
        self.write(
            "test_foreign.py",
            f"""
            import unittest
            from astropy.time import Time
            from discosbackend import Ticks
            from discosbackend.testing import BackendConformance
            from foreign_backend import ForeignBackend

            class ForeignTests(BackendConformance, unittest.TestCase):
                valid_configuration = "XB4"
                valid_integration = 10
                inputs = 2
                lead = 0.05
                deviations = {{
                    "start/with-stop-at-one-time*": "it has a timer for each",
                    "stop/nothing-to-stop-leaves-timed-stop": "start drops a timed stop too",
                }}
                {"".join(f"{name} = " for name in left_out)}None

                def make_backend(self):
                    # The first use of astropy takes a while. It must not delay a timed start.
                    assert (Ticks.now().time - Time.now()).sec < 1
                    return ForeignBackend()
            """,
        )
        status, output = self.python("-m", "unittest", "-v", "test_foreign")
        self.assertEqual(status, 0, output)
        self.assertIn(f"Ran {len(CASES) - len(left_out)} tests", output)
        skipped = re.findall(r"skipped ['\"](.*)", output)
        lacking = re.findall(r"skipped '(\S+) is not supported by this backend'", output)
        known = [reason for reason in skipped if re.match("it has a timer for each|start drops", reason)]
        # Only the commands that it does not have are skipped, get-rms twice, and the known deviations.
        lacks = {"set-section", "cal-on", "set-enable", "end-schedule", "backend-park", "set-shift"}
        lacks |= {"get-rms", "get-ddcoffset", "get-filename"}
        self.assertEqual(set(lacking), lacks)
        busy = re.findall(r"skipped 't(?:his host is too busy|he server is too slow) ", output)
        self.assertEqual(len(skipped), len(lacking) + len(known) + len(busy), output)
        self.assertIn(f"OK (skipped={len(skipped)})", output)

    def test_under_unittest(self) -> None:
        self.write("test_mine.py", MY_TESTS)
        names = [f"test_mine.MyBackendTests.{name}" for name in SOME]
        status, output = self.python("-m", "unittest", *names)
        self.assertEqual(status, 0, output)
        self.assertRegex(output, r"Ran 4 tests in .*\n\nOK \(skipped=1\)")

    @long_only
    def test_under_trial(self) -> None:
        # Trial runs tests in a folder that it creates, and does not support class fixtures.
        self.write("test_mine.py", MY_TESTS)
        # Trial's own TestCase has another exception for failures.
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
        """Trial loads a file that cannot be imported by its name, and changes to another folder."""
        (self.folder / "deep").mkdir()
        self.write("mine.py", MY_TESTS)
        self.write(
            "deep/test_mine.py",
            """
            import mine

            class DeepTests(mine.MyBackendTests):
                pass

            # One test is sufficient.
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
        # The server process must not see the arguments of the test program.
        self.write(
            "test_mine.py",
            "import sys\n"
            + MY_TESTS.replace("return MyBackend()", "assert not sys.argv[1:]\n        return MyBackend()")
            + '\n\nif __name__ == "__main__":\n    unittest.main()\n',
        )
        names = [f"MyBackendTests.{name}" for name in SOME]
        status, output = self.python("test_mine.py", *names, fresh=True)
        self.assertEqual(status, 0, output)
        self.assertRegex(output, r"Ran 4 tests in .*\n\nOK \(skipped=1\)")

    @long_only
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
        self.assertIn('write `if __name__ == "__main__":` before the code that runs the tests', output)

    def test_the_server_ends_with_the_tests(self) -> None:
        """The server ends even if the process of the tests is killed."""
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


if __name__ == "__main__":
    unittest.main()
