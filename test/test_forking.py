"""Tests of forking: a forked program is as one in a new interpreter."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from . import forking
from .forking import environment
from .settings import PATIENCE

SEEN = """
import json, os, signal, sys
from pathlib import Path
streams = [
    (each.fileno(), each.encoding, each.errors, each.line_buffering, each.write_through, str(type(each.buffer)))
    for each in (sys.stdin, sys.stdout, sys.stderr)
]
print(json.dumps({
    "argv": sys.argv,
    "path": sys.path,
    "name": __name__,
    "file": globals().get("__file__"),
    "main": vars(sys.modules["__main__"]) is globals(),
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "signals": {int(each): repr(signal.getsignal(each)).split(" at ")[0] for each in signal.valid_signals()},
    "streams": streams,
    "input": sys.stdin.read(),
    "descriptors": [int(each.name) for each in Path("/proc/self/fd").iterdir() if each.exists()],
    "reactor": "twisted.internet.reactor" in sys.modules,
    "tests": sorted(name for name in sys.modules if name.startswith("test.")),
    "leads a session": os.getsid(0) == os.getpid(),
}))
"""


class ForkingTests(unittest.TestCase):
    """Tests of start()."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()

    def start(self, *command: str, stderr: int = 2) -> forking.Process:
        command = (sys.executable, *command)
        self.assertTrue(forking.can_start(command, environment()))
        process = forking.start(command, self.folder, environment(), stderr=stderr)
        assert process.stdout is not None
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait, PATIENCE)
        self.addCleanup(process.kill)
        return process

    def output(self, *command: str) -> str:
        process = self.start(*command)
        assert process.stdout is not None
        text = process.stdout.read()
        self.assertEqual(process.wait(PATIENCE), 0)
        return text

    def test_the_same_as_a_new_interpreter(self) -> None:
        script = self.folder / "script.py"
        (self.folder / "module.py").write_text(SEEN, encoding="utf-8")
        script.write_text(SEEN, encoding="utf-8")
        self.enterContext(mock.patch.dict("os.environ", {"SOMETHING": "\udcff é"}))
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        for command in (
            ("-c", SEEN, "a", "-b"),
            (str(script), "a"),
            ("script.py",),
            ("-m", "module", "a"),
            ("-P", "-c", SEEN, "-P", "-u"),
            ("-u", "script.py"),
            ("-P", "-u", "-c", SEEN),
        ):
            with self.subTest([each[-9:] for each in command]):
                done = subprocess.run(
                    [sys.executable, *command],
                    cwd=self.folder,
                    env=environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    timeout=PATIENCE,
                    check=True,
                )
                self.maxDiff = None
                self.assertEqual(json.loads(self.output(*command)), json.loads(done.stdout))

    def test_descriptors_that_are_passed_on_and_a_session(self) -> None:
        # The first descriptors that the forked process receives have numbers that it has to give to others.
        pipes = [os.pipe() for _ in range(4)]
        for each in itertools.chain(*pipes):
            self.addCleanup(os.close, each)
        passed = [theirs for _, theirs in pipes]
        code = f"import os\nfor each in {passed}: os.write(each, b'%d' % each)\n{SEEN}"
        with tempfile.TemporaryFile() as written:
            process = forking.popen(
                [sys.executable, "-c", code],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                pass_fds=passed,
                start_new_session=True,
            )
            self.assertIsInstance(process, forking.Process)
            self.assertEqual(process.wait(PATIENCE), 0)
            written.seek(0)
            seen = json.loads(written.read())
        self.assertEqual([os.read(ours, 100) for ours, _ in pipes], [b"%d" % each for each in passed])
        self.assertLessEqual({0, 1, 2, *passed}, set(seen["descriptors"]))
        self.assertTrue(seen["leads a session"])

    def test_pipes(self) -> None:
        code = "import sys; print('ready', flush=True); print(sys.stdin.read()[::-1], end='')"
        for command in (("-c", code), ("-I", "-c", code)):
            with self.subTest(command[0]):
                process = forking.popen(
                    [sys.executable, *command],
                    env=environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=2,
                )
                assert process.stdin is not None and process.stdout is not None
                with process.stdout:
                    self.assertEqual(process.stdout.readline(), b"ready\n")
                    process.stdin.write(b"told")
                    process.stdin.close()
                    self.assertEqual(process.stdout.read(), b"dlot")
                self.assertEqual(process.wait(PATIENCE), 0)

    def test_threads_may_start_programs(self) -> None:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda number: self.output("-c", f"print({number})"), range(8)))
        self.assertEqual(found, [f"{number}\n" for number in range(8)])

    def test_a_program_may_import_the_tests(self) -> None:
        """What their __init__ does is done for the environment of the program."""
        code = "import sys, test.serving; print('twisted.internet.reactor' in sys.modules)"
        for reactor, wanted in (("", "False\n"), ("asyncio", "True\n")):
            with self.subTest(reactor), mock.patch.dict("os.environ", DISCOS_TEST_REACTOR=reactor):
                self.assertEqual(self.output("-c", code), wanted)

    def test_hypothesis_has_the_profile_of_the_tests_and_is_not_imported_before(self) -> None:
        code = "import sys, test; print('hypothesis' in sys.modules); from hypothesis import settings as s; "
        code += "print(s().derandomize, s().deadline, s().database)"
        self.assertEqual(self.output("-c", code), "False\nTrue None None\n")

    def test_run(self) -> None:
        code = "import sys; print('out'); sys.stdout.flush(); print('error', file=sys.stderr); sys.exit(3)"
        for command, together, wanted in (
            (("-c", code), False, (3, "out\n", "error\n")),
            (("-c", code), True, (3, "out\nerror\n", "")),
            (("-I", "-c", code), True, (3, "out\nerror\n", "")),
        ):
            with self.subTest(command[0], together=together):
                done = forking.run([sys.executable, *command], env=environment(), timeout=PATIENCE, together=together)
                self.assertEqual((done.returncode, done.stdout, done.stderr), wanted)

    def test_a_run_that_takes_too_long(self) -> None:
        command = [sys.executable, "-c", "import signal; signal.pause()"]
        real, started = forking.start, []

        def start(*arguments: Any, **options: Any) -> forking.Process:
            started.append(real(*arguments, **options))
            return started[-1]

        with mock.patch.object(forking, "start", start), self.assertRaises(subprocess.TimeoutExpired):
            forking.run(command, env=environment(), timeout=0.1)
        (process,) = started
        self.assertEqual(process.poll(), -signal.SIGKILL)

    def test_exit_statuses(self) -> None:
        for code, status, told in (
            ("", 0, ""),
            ("import sys; sys.exit(3)", 3, ""),
            ("import sys; sys.exit('why')", 1, "why\n"),
            ("raise ValueError('why')", 1, "ValueError: why\n"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
            ("import atexit, sys; atexit.register(sys.stderr.write, 'at the end')", 0, "at the end"),
        ):
            with self.subTest(code), tempfile.TemporaryFile() as written:
                process = self.start("-c", code, stderr=written.fileno())
                self.assertEqual(process.wait(PATIENCE), status)
                self.assertEqual(process.poll(), status)
                process.terminate()
                written.seek(0)
                self.assertTrue(written.read().decode().endswith(told))

    def test_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number):
                process = self.start("-c", "print('ready', flush=True); import signal; signal.pause()", stderr=1)
                assert process.stdout is not None
                self.assertEqual(process.stdout.readline(), "ready\n")
                self.assertIsNone(process.poll())
                with self.assertRaises(subprocess.TimeoutExpired):
                    process.wait(0)
                process.send_signal(number)
                self.assertEqual(process.wait(PATIENCE), -number)

    def test_a_signal_that_was_ignored_when_the_forking_process_began(self) -> None:
        """The tests may be in random order, and some of them ignore signals for a while."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            forker = forking._Forker()
        finally:
            signal.signal(signal.SIGHUP, before)
        self.addCleanup(forker._end)
        with mock.patch.object(forking._Forker, "_only", forker):
            process = self.start("-c", "import signal; print(signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)")
            assert process.stdout is not None
            self.assertEqual(process.stdout.readline(), "True\n")
            self.assertEqual(process.wait(PATIENCE), 0)

    def test_processor_time(self) -> None:
        before = forking.cpu_seconds()
        self.output("-c", "import time\nwhile time.process_time() < 0.1: pass")
        self.assertGreater(forking.cpu_seconds(), before + 0.1)

    def test_commands_that_need_a_new_interpreter(self) -> None:
        own = environment()
        for command, env in (
            ((sys.executable, "-I", "-c", ""), own),
            ((sys.executable, "-P", "-W", "error", "-c", ""), own),
            (("sh", "-c", "exit"), own),
            ((sys.executable, "-c", ""), {**own, "PYTHONPATH": "/elsewhere"}),
            ((sys.executable, "-c", ""), {**own, "PYTHONHASHSEED": "1"}),
        ):
            with self.subTest(command):
                self.assertFalse(forking.can_start(command, env))
