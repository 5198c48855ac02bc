"""Tests of forking: a forked program is as one in a new interpreter."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
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
        for command in (("-c", SEEN, "a", "-b"), (str(script), "a"), ("script.py",), ("-m", "module", "a")):
            with self.subTest(command[0][-9:]):
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

    def test_processor_time(self) -> None:
        before = forking.cpu_seconds()
        self.output("-c", "import time\nwhile time.process_time() < 0.1: pass")
        self.assertGreater(forking.cpu_seconds(), before + 0.1)

    def test_commands_that_need_a_new_interpreter(self) -> None:
        own = environment()
        for command, env in (
            ((sys.executable, "-P", "-c", ""), own),
            ((sys.executable, "-m", "test.worker"), own),
            (("sh", "-c", "exit"), own),
            ((sys.executable, "-c", ""), {**own, "PYTHONPATH": "/elsewhere"}),
            ((sys.executable, "-c", ""), {**own, "PYTHONHASHSEED": "1"}),
        ):
            with self.subTest(command):
                self.assertFalse(forking.can_start(command, env))
