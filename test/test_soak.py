"""Tests of the soak: what it takes for wrong, how it ends, and that a short one finds nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import signal
import tempfile
import unittest
from collections.abc import Sequence
from typing import Any, Self
from unittest import mock

from benchmarks import soak
from benchmarks.client_profiles import PROFILES, Client, Soak, clients
from benchmarks.reply_check import Tally
from benchmarks.servers import Server
from benchmarks.soak import Health, Report, complaints

from .serving import run_python
from .settings import LONG


class ReportTests(unittest.TestCase):
    """What is wrong with a run."""

    def report(self, seconds: float = 600) -> Report:
        run = Soak(0, tallies={"polite": Tally(requests=5, replies=5)}, lateness=[1000])
        return Report(run, Health(10, 10, [9000, 11500], [40_000_000] * 400), seconds)

    def test_nothing(self) -> None:
        report = self.report()
        self.assertEqual(report.wrong(), [])
        self.assertIn(("growth of memory", "none"), list(report.figures()))

    def test_everything(self) -> None:
        report = self.report()
        report.soak.tallies["garbage"] = Tally(lost=1, misordered=2, invented=3)
        report.soak.early = 4
        report.health.after = 12
        report.health.objects[1] = 11501
        report.health.memory[300:] = [42_000_000] * 100
        report.health.log = ["CRITICAL: a failure"]
        self.assertEqual(
            report.wrong(),
            [
                "1 lost",
                "2 misordered",
                "3 invented",
                "4 timed starts early",
                "2 descriptors left open",
                "2501 objects kept",
                "2000000 bytes of memory grown",
                "1 log lines above WARNING",
            ],
        )

    def test_growth(self) -> None:
        for grown, wanted in ((0, 0), (-2_000_000, 0), (1_048_576, 0), (1_048_577, 1_048_577)):
            with self.subTest(grown=grown):
                memory = [10_000_000] * 100 + [40_000_000] * 200 + [40_000_000 + grown] * 100
                self.assertEqual(Health(10, memory=memory).growth(300), wanted)

    def test_objects_kept(self) -> None:
        for objects, wanted in (([], 0), ([9000], 0), ([9000, 8000], 0), ([9000, 11500], 0), ([9000, 11501], 2501)):
            with self.subTest(objects=objects):
                self.assertEqual(Health(10, objects=objects).kept(), wanted)

    def test_a_short_run_may_settle(self) -> None:
        allowed = 4 * 1024 * 1024
        report = self.report(seconds=299)
        report.health.memory[300:] = [40_000_000 + allowed] * 100
        self.assertEqual(report.wrong(), [])
        report.health.memory[300:] = [40_000_001 + allowed] * 100
        self.assertEqual(report.wrong(), ["4194305 bytes of memory grown"])

    def test_a_server_that_died(self) -> None:
        report = self.report()
        report.health.memory[-1] = 0
        self.assertEqual(report.wrong(), ["1 server died"])

    def test_nothing_was_asked(self) -> None:
        report = self.report()
        report.soak.tallies["polite"] = Tally(connections=3)
        self.assertEqual(report.wrong(), ["nothing was measured"])

    def test_the_tables(self) -> None:
        report = self.report()
        report.soak.tallies["garbage"] = Tally(7, 1200, 1197, 3, 2, 1, 0.0125, 1.5)
        report.soak.lateness = [*range(1000, 101_000, 1000)]
        report.soak.early, report.soak.elapsed = 1, 2
        report.health.memory = [10 * 1024] * 20 + [1024 * 1024] * 200 + [3072 * 1024] * 180
        report.health.lag, report.health.after, report.health.log = 0.0042, 11, ["CRITICAL: a failure"]
        self.assertEqual(
            list(report.profiles()),
            [
                ("profile", "connections", "requests", "replies", "lost", "misordered", "invented")
                + ("first reply, worst ms", "last reply, worst ms"),
                ("polite", "0", "5", "5", "0", "0", "0", "0.0", "0.0"),
                ("garbage", "7", "1,200", "1,197", "3", "2", "1", "12.5", "1500.0"),
                ("all", "7", "1,205", "1,202", "3", "2", "1", "", ""),
            ],
        )
        self.assertEqual(
            list(report.figures()),
            [
                ("figure", "value"),
                ("seconds", "600.0"),
                ("requests a second", "2"),
                ("worst lag of the clients themselves", "4.2 ms"),
                ("timed starts", "100"),
                ("timed starts that came too late to be armed", "2"),
                ("timed starts early", "1"),
                ("lateness p50 / p99 / worst", "50 / 99 / 100 µs"),
                # Thirty seconds of ten minutes: the twentieth of 400.
                ("memory after warming up", "1,024 KiB"),
                ("memory at the end", "3,072 KiB"),
                ("growth of memory", "2,048 KiB"),
                ("objects after warming up, at the end", "9,000, 11,500"),
                ("descriptors before, after", "10, 11"),
                ("server log lines above WARNING", "1"),
            ],
        )

    def test_the_examples(self) -> None:
        report = self.report()
        report.soak.tallies = {name: Tally(examples=[f"lost: {n}" for n in range(6)]) for name in ("a", "b")}
        report.health.log = [str(number) for number in range(11)]
        found = [f"{name}: lost: {n}" for name, count in (("a", 6), ("b", 4)) for n in range(count)]
        self.assertEqual(report.examples(), found + [f"log: {n}" for n in range(10)])


class ComplaintTests(unittest.TestCase):
    """Which lines of the server's log are held against it."""

    def test_which(self) -> None:
        lines = [
            "DEBUG discosbackend.acquisition: told 5 us late",
            "INFO discosbackend.server: ERROR is in a client's line",
            "WARNING discosbackend.protocol: a client reads nothing",
            "",
            "ERROR discosbackend.handlers: failed",
            "CRITICAL twisted: Unhandled error in Deferred:",
            "WARNING asyncio: no failure, but",
            "Traceback (most recent call last):",
            '  File "x.py", line 1, in <module>',
            "ZeroDivisionError: division by zero",
            "INFORMATION is no level",
            " INFO is no beginning",
            "\\xff",
        ]
        with tempfile.TemporaryFile() as log:
            log.write("\n".join(lines).encode().replace(rb"\xff", b"\xff"))
            found = complaints(log)
        self.assertEqual(found, [*lines[4:6], *lines[7:12], "\ufffd"])

    def test_none(self) -> None:
        with tempfile.TemporaryFile() as log:
            self.assertEqual(complaints(log), [])


class Watched:
    """A server as the soak sees it: what it has logged, and its memory and descriptors as time goes by."""

    def __init__(
        self,
        log: bytes = b"",
        grown: int = 0,
        left: int = 0,
        kept: int = 0,
        dies: bool = False,
        dies_late: bool = False,
    ) -> None:
        self.address = ("127.0.0.1", 0)
        self.ended = False
        self.arguments: dict[str, Any] = {}
        self._log, self._grown, self._left, self._dies, self._dies_late = log, grown, left, dies, dies_late
        self._looks = 0
        self._counts = 0
        self.objects = iter((9000, 9000 + kept))

    def __call__(self, *_: str, stderr: int, **arguments: Any) -> Watched:
        os.write(stderr, self._log)
        self.arguments = arguments
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True

    @property
    def memory(self) -> int:
        self._looks += 1
        if (self._dies and self._looks > 10) or (self._dies_late and self._counts > 1):
            return 0
        return 40_000_000 + (self._grown if self._looks > 401 else 0)

    @property
    def descriptors(self) -> int:
        self._counts += 1
        if self._counts > 1 and self._dies:
            raise PermissionError("only root sees those of a process that has ended")
        # The first look is before the clients, the next ones find the last client leaving.
        return 10 + (0, 2, 1)[self._counts - 1] if self._counts < 4 else 10 + self._left


class Asking:
    """Some turns of the loop as a client, until time is up, a request in each; signals in the tenth."""

    def __init__(self, shared: Soak, turns: int, signals: Sequence[int]) -> None:
        self._soak, self._turns, self._signals = shared, turns, signals

    async def run(self) -> None:
        """Ask."""
        tally = self._soak.tally("polite")
        tally.connections += 1
        for turn in range(self._turns):
            if turn == 10:
                for number in self._signals:
                    signal.raise_signal(number)
            if self._soak.over:
                break
            tally.requests += 1
            tally.replies += 1
            await asyncio.sleep(0)


class EndTests(unittest.TestCase):
    """How the program ends, in this process: its last line, its exit status."""

    def setUp(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.signal(number, self.unhandled))

    def unhandled(self, number: int, _: object) -> None:
        self.fail(f"signal {number} would end it where it stands")

    def run_soak(self, *arguments: str) -> tuple[int | str | None, str]:
        """The exit status, or the reason that goes to standard error instead; and what was printed."""
        with contextlib.redirect_stdout(io.StringIO()) as said:
            try:
                status: int | str | None = soak.main(["--seed", "1", *arguments])
            except SystemExit as problem:
                status = problem.code
        return status, said.getvalue()

    def watched(self, server: Watched, signals: Sequence[int] = (), turns: int = 400) -> tuple[int | str | None, str]:
        """A soak of such a server by one client."""

        def asking(shared: Soak, *_: int) -> list[Asking]:
            return [Asking(shared, turns, signals)]

        # Looked at in every turn of the loop, and judged as a long run is.
        with mock.patch.multiple(
            soak,
            clients=asking,
            Server=server,
            _objects=lambda _: next(server.objects),
            _INTERVAL=0.0,
            _LEAVING=0.01,
            _SETTLED=0.0,
        ):
            status, said = self.run_soak()
        self.assertTrue(server.ended)
        # Ctrl-C is for the clients.
        self.assertEqual(server.arguments, {"start_new_session": True})
        return status, said

    def test_what_is_wrong(self) -> None:
        for server, status, last in (
            (Watched(), 0, "nothing is wrong"),
            (Watched(log=b"INFO a: b\nWARNING c: d\n"), 0, "nothing is wrong"),
            (Watched(log=b"INFO a: b\nERROR c: d\n"), 1, "wrong: 1 log lines above WARNING"),
            (Watched(grown=1_048_576), 0, "nothing is wrong"),
            (Watched(grown=1_048_577), 1, "wrong: 1048577 bytes of memory grown"),
            (Watched(kept=500), 0, "nothing is wrong"),
            (Watched(kept=2501), 1, "wrong: 2501 objects kept"),
            (Watched(left=1), 1, "wrong: 1 descriptors left open"),
            (Watched(dies=True), 1, "wrong: 1 server died"),
            (Watched(dies_late=True), 1, "wrong: 1 server died"),
        ):
            with self.subTest(last):
                found, said = self.watched(server)
                self.assertEqual((found, said.splitlines()[-1]), (status, last))
                # Both tables, whatever is wrong.
                self.assertRegex(said, r"(?m)^polite +[12] +\d+ ")
                self.assertRegex(said, r"(?m)^descriptors before, after +10, ")

    def test_a_server_that_died_is_asked_no_more(self) -> None:
        self.assertRegex(self.watched(Watched(dies=True))[1], r"(?m)^polite +1 +1[0-9] ")

    def test_nothing_was_measured(self) -> None:
        status, said = self.watched(Watched(), turns=0)
        self.assertEqual((status, said.splitlines()[-1]), (1, "wrong: nothing was measured"))

    def test_a_signal_ends_it_early(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number):
                status, said = self.watched(Watched(), [number])
                self.assertEqual((status, said.splitlines()[-1]), (0, "nothing is wrong"))
                self.assertRegex(said, r"(?m)^polite +2 +10 ")

    def test_the_second_signal_cuts_it_off(self) -> None:
        for signals in ([signal.SIGINT] * 2, [signal.SIGHUP, signal.SIGTERM], [signal.SIGINT] * 5):
            with self.subTest(signals):
                # A client that would go on for ever, were it only asked to end.
                with mock.patch.object(Soak, "over", False):
                    status, said = self.watched(Watched(), signals, 10**6)
                self.assertEqual((status, said), ("interrupted", "30 clients for 10 minutes, --seed 1\n"))

    def test_what_is_ignored_stays_ignored(self) -> None:
        # As under nohup.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        status, said = self.watched(Watched(), [signal.SIGHUP])
        self.assertEqual(status, 0)
        self.assertRegex(said, r"(?m)^polite +2 +800 ")

    def test_what_cannot_be_measured(self) -> None:
        for program, reason in (
            ("1 / 0", "not measured: the server does not start: ZeroDivisionError: division by zero"),
            ("print('hello')", "not measured: the server does not start"),
        ):
            with self.subTest(program), mock.patch.object(soak, "_SERVER", program):
                self.assertEqual(self.run_soak("--minutes", "0.01")[0], reason)
        no_server = mock.Mock(side_effect=FileNotFoundError(2, "No such file", "python"))
        with mock.patch.object(soak, "Server", no_server):
            self.assertEqual(self.run_soak()[0], "not measured: [Errno 2] No such file: 'python'")

    def test_a_server_that_dies(self) -> None:
        # At the hundredth request for the time, or so.
        dying = """
import os, runpy
from discosbackend import Ticks
now, left = Ticks.now, iter(range(100))
Ticks.now = lambda: os._exit(1) if next(left, None) is None else now()
runpy.run_module("benchmarks.instrument", run_name="__main__", alter_sys=True)
"""
        with mock.patch.object(soak, "_SERVER", dying):
            status, said = self.run_soak("--minutes", "0.2")
        self.assertEqual(status, 1)
        self.assertRegex(said, r"(?m)^all +[0-9,]+ +[0-9,]+ ")
        self.assertRegex(said, r"(?m)^memory at the end +0 KiB$")
        self.assertRegex(said, r"(?m)^wrong: .*\b1 server died$")

    def interrupted(self, signals: Sequence[int]) -> tuple[int | str | None, int]:
        """A real soak in the midst of which these signals come: how it ends, and its server's process."""
        processes: list[int] = []

        def served(*arguments: str, **options: Any) -> Server:
            server = Server(*arguments, **options)
            processes.append(server.pid)
            return server

        def asking(shared: Soak, count: int, seed: int, first: int) -> list[Client | Asking]:
            return [*clients(shared, count, seed, first), Asking(shared, 1000, signals)]

        # It would log exceptions of tasks that nobody took.
        with mock.patch.multiple(soak, clients=asking, Server=served), self.assertNoLogs("asyncio"):
            status, _ = self.run_soak()
        return status, processes[0]

    def test_no_server_is_left_behind(self) -> None:
        for signals, wanted in (([signal.SIGINT], 0), ([signal.SIGINT] * 2, "interrupted")):
            with self.subTest(wanted):
                status, process = self.interrupted(signals)
                self.assertEqual(status, wanted)
                self.assertRaises(ProcessLookupError, os.kill, process, 0)


class SoakTests(unittest.TestCase):
    """The program."""

    def test_bad_command_lines(self) -> None:
        for arguments in (["--minutes", "0"], ["--minutes", "nan"], ["--clients", "3"]):
            with self.subTest(arguments), contextlib.redirect_stderr(io.StringIO()) as said:
                with self.assertRaises(SystemExit):
                    soak.main(arguments)
                self.assertIn(arguments[0], said.getvalue())

    def test_a_short_one(self) -> None:
        # What it prints without options is looked at above, too.
        for options in ((), ("--markdown",)) if LONG else (("--markdown",),):
            with self.subTest(options):
                # On a busy machine the first of these may be over before a start has come due.
                for minutes in ("0.03", "0.2", "1"):
                    rows = self.rows_of("--minutes", minutes, "--seed", "1", *options)
                    self.assertEqual(rows[-1], ["nothing is wrong"])
                    # The profile and the figure have the same name.
                    figures = {row[0]: row[1] for row in rows if len(row) == 2}
                    if int(figures["timed starts"]) > 0:
                        break
                counts = {row[0]: row[1:4] for row in rows if len(row) > 2}
                for profile in (*PROFILES, "status beside a nap", "all"):
                    with self.subTest(profile):
                        connections, requests, replies = [int(n.replace(",", "")) for n in counts[profile]]
                        self.assertGreater(connections, 0)
                        self.assertGreater(requests, 0)
                        self.assertEqual(replies, requests)
                self.assertGreater(int(figures["timed starts"]), 0)

    def rows_of(self, *options: str) -> list[list[str]]:
        """The cells of each line that a soak prints."""
        result = run_python("-m", "benchmarks.soak", *options)
        self.assertEqual((result.returncode, result.stderr), (0, ""), result.stdout)
        return [re.split(r"  +| ?\| ?", line.strip("| ")) for line in result.stdout.splitlines()]


if __name__ == "__main__":
    unittest.main()
