"""The benchmarks' command line: what it measures, prints, and says when something has no figure."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import subprocess
import sys
import unittest
from collections.abc import Callable
from typing import NamedTuple, NoReturn
from unittest import mock

from benchmarks import __main__ as command_line
from benchmarks import table as tables
from benchmarks.presets import FULL, QUICK, Preset
from benchmarks.servers import CLIENT, NotMeasured
from benchmarks.table import Row

from .programs import run_program
from .serving import Server, run_python

ROWS = [
    Row("rate", "9/s", goal="≥ 8", met=True),
    Row("p50", "1 s", goal="≤ 1 s", met=True),
    Row("p99", "2 s", goal="≤ 1 s", met=False),
]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# One measurement, which says who its companion is, and waits for nothing. No signal is ignored, as some are
# where the tests run in the background.
ENDLESS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from benchmarks.__main__ import MEASUREMENTS, main
from benchmarks.servers import Companion
def endless(effort):
    with Companion("-c", "input()") as companion:
        print(companion.pid, flush=True)
        companion.read_line()
MEASUREMENTS.clear()
MEASUREMENTS["endless"] = endless
main([])
"""


class Ended(NamedTuple):
    """What main() left: what it exited with, and what it printed."""

    code: object
    out: str
    err: str


class InProcessTests(unittest.TestCase):
    """main() with measurements that measure nothing, in this process."""

    def setUp(self) -> None:
        self.efforts: list[Preset] = []
        for number in SIGNALS:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.limits = mock.Mock(return_value=(1024, 20_000))
        self.raised = mock.Mock()
        self.pinned = mock.Mock()
        for target, name, fake in (
            (resource, "getrlimit", self.limits),
            (resource, "setrlimit", self.raised),
            (command_line, "pin", self.pinned),
            (command_line, "_conditions", lambda: "Here and now."),
        ):
            patch = mock.patch.object(target, name, fake)
            patch.start()
            self.addCleanup(patch.stop)

    def run_main(self, *arguments: str, **measurements: Callable[[], list[Row]]) -> Ended:
        """Run it with these measurements, in place of the real ones if there are any."""

        def measurement(rows: Callable[[], list[Row]]) -> Callable[[Preset], list[Row]]:
            def measure(preset: Preset) -> list[Row]:
                self.efforts.append(preset)
                return rows()

            return measure

        fakes = {name: measurement(rows) for name, rows in measurements.items()}
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(command_line.MEASUREMENTS, fakes, clear=bool(fakes)),
            mock.patch.object(command_line, "time", mock.Mock(monotonic=lambda: 7.0)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            self.assertRaises(SystemExit) as ended,
        ):
            command_line.main(arguments)
        return Ended(ended.exception.code, out.getvalue(), err.getvalue())


TEXT = """\
Here and now.

  figure  ours  limit  compared  goal   verdict

one
  rate    9/s                    ≥ 8    met
  p50     1 s                    ≤ 1 s  met
  p99     2 s                    ≤ 1 s  missed
"""
MARKDOWN = """\
Here and now.

| what | figure | ours | limit | compared | goal | verdict |
| --- | --- | --- | --- | --- | --- | --- |
| one | rate | 9/s |  |  | ≥ 8 | met |
|  | p50 | 1 s |  |  | ≤ 1 s | met |
|  | p99 | 2 s |  |  | ≤ 1 s | missed |
"""


def lost() -> NoReturn:
    raise NotMeasured("a reply is lost")


def refused() -> NoReturn:
    raise ConnectionRefusedError(111, "Connection refused")


def one() -> list[Row]:
    return ROWS


class OutcomeTests(InProcessTests):
    def test_everything_measured(self) -> None:
        for options, expected in (((), TEXT), (("--markdown",), MARKDOWN)):
            with self.subTest(options=options):
                progress = "1/1 one ... 0.0 s\n2 goals met, 1 missed\n"
                self.assertEqual(self.run_main(*options, one=one), (0, expected, progress))

    def test_how_much_is_measured(self) -> None:
        for options, expected in (((), FULL), (("--quick",), QUICK)):
            with self.subTest(options=options):
                self.efforts.clear()
                self.run_main(*options, one=one, two=one)
                self.assertEqual(self.efforts, [expected, expected])

    def test_only_some(self) -> None:
        ended = self.run_main("--only", "ON", one=one, two=lost)
        self.assertEqual((ended.code, ended.out), (0, TEXT))

    def test_what_cannot_be_measured_is_named_and_the_rest_is_printed(self) -> None:
        ended = self.run_main(zero=refused, one=one, two=lost)
        problems = "not measured: zero: [Errno 111] Connection refused\nnot measured: two: a reply is lost"
        progress = "1/3 zero ... not measured\n2/3 one ... 0.0 s\n3/3 two ... not measured\n"
        self.assertEqual(ended, (problems, TEXT, f"{progress}2 goals met, 1 missed\n"))

    def test_nothing_measured(self) -> None:
        expected = ("not measured: two: a reply is lost", "", "1/1 two ... not measured\n")
        self.assertEqual(self.run_main(two=lost), expected)


class SignalTests(InProcessTests):
    def test_what_was_measured_until_then_is_printed(self) -> None:
        for number in SIGNALS:

            def interrupted(number: int = number) -> list[Row]:
                signal.raise_signal(number)
                return ROWS

            with self.subTest(number.name):
                for each in SIGNALS:
                    signal.signal(each, signal.default_int_handler)
                ended = self.run_main(one=one, two=interrupted, three=one)
                progress = "1/3 one ... 0.0 s\n2/3 two ... interrupted\n2 goals met, 1 missed\n"
                self.assertEqual(ended, (f"interrupted by {number.name} at two", TEXT, progress))
                self.assertEqual(len(self.efforts), 2)
                self.efforts.clear()

    def test_more_of_them_stop_nothing(self) -> None:
        """Neither while servers are stopped, nor while the table is printed."""
        stopped = []

        def interrupted() -> list[Row]:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                for number in SIGNALS:
                    signal.raise_signal(number)
                stopped.append("servers")
            return ROWS

        def printing(table: object) -> str:
            signal.raise_signal(signal.SIGINT)
            return repr(table)

        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler)
        with mock.patch.object(tables, "text", printing):
            ended = self.run_main(one=one, two=interrupted)
            self.assertEqual((ended.code, stopped), ("interrupted by SIGTERM at two", ["servers"]))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.assertEqual(self.run_main(one=one).code, 0)

    def test_what_was_ignored_stays_ignored(self) -> None:
        def hung_up() -> list[Row]:
            signal.raise_signal(signal.SIGHUP)
            return one()

        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        ended = self.run_main(one=hung_up)
        self.assertEqual((ended.code, ended.out), (0, TEXT))


class OpenFilesTests(InProcessTests):
    def test_too_few_for_what_was_chosen(self) -> None:
        patch = mock.patch.object(command_line, "_measured", return_value=({}, ["it was tried"]))
        patch.start()
        self.addCleanup(patch.stop)
        for options, most, needed in (
            ((), 4149, 4150),
            (("--quick",), 1149, 1150),
            (("--only", "idle connections"), 4149, 4150),
            (("--only", "same instant"), 1149, 1150),
            (("--only", "one client", "instant"), 1149, 1150),
            (("--only", "pipelining"), 149, 150),
        ):
            with self.subTest(options=options):
                self.limits.return_value = (100, most)
                problem = f"{needed} open files are needed, and the limit (ulimit -Hn) is {most}"
                self.assertEqual(self.run_main(*options), (f"not measured: {problem}", "", ""))
                self.limits.assert_called_with(resource.RLIMIT_NOFILE)
        self.raised.assert_not_called()

    def test_all_that_can_be_had(self) -> None:
        self.limits.return_value = (100, 150)
        self.assertEqual(self.run_main(one=one).code, 0)
        self.raised.assert_called_once_with(resource.RLIMIT_NOFILE, (150, 150))
        self.pinned.assert_called_once_with(0, CLIENT)


class ProcessTests(unittest.TestCase):
    """The command in a process of its own."""

    def run_benchmarks(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_python("-m", "benchmarks", *arguments, fresh=True)

    def test_list(self) -> None:
        listed = self.run_benchmarks("--list")
        self.assertEqual((listed.returncode, listed.stderr), (0, ""))
        names = listed.stdout.splitlines()
        self.assertIn("one client, one request at a time", names)
        self.assertIn("timed start, idle", names)
        chosen = run_program(command_line.main, "--list", "--only", "PIPELINING", "start, idle").out.splitlines()
        expected = [name for name in names if "pipelining" in name or name.endswith("start, idle")]
        self.assertEqual(chosen, expected)

    def test_only_what_there_is(self) -> None:
        refused_words = run_program(command_line.main, "--only", "nonsense")
        self.assertEqual((refused_words.status, refused_words.out), (2, ""))
        self.assertRegex(refused_words.err, "no measurement has nonsense in its name, see --list\n$")

    def test_wrong_options(self) -> None:
        wrong = run_program(command_line.main, "--fast")
        self.assertEqual(wrong.status, 2)
        self.assertIn("unrecognized arguments: --fast", wrong.err)

    def test_a_signal_leaves_no_server_behind(self) -> None:
        processes = {number: Server([sys.executable, "-c", ENDLESS]) for number in SIGNALS}
        for process in processes.values():
            self.addCleanup(process.end)
        for number, process in processes.items():
            with self.subTest(number.name):
                companion = int(process.announced)
                self.assertEqual(process.stop(number), 1)
                assert process.process.stdout is not None
                self.assertEqual(process.process.stdout.read(), "")
                reason = f"interrupted by {number.name} at endless"
                self.assertEqual(process.log(), f"1/1 endless ... interrupted\n{reason}\n")
                with self.assertRaises(ProcessLookupError):
                    os.kill(companion, 0)


if __name__ == "__main__":
    unittest.main()
