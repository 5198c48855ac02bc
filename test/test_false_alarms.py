"""The wolf: that it counts what is reported, and says so. What the servers really get is seen by running it."""

from __future__ import annotations

import contextlib
import io
import subprocess
import unittest
from collections import Counter
from collections.abc import Sequence
from unittest import mock

from benchmarks import false_alarms
from benchmarks.false_alarms import Tally
from benchmarks.servers import NotMeasured, Server

from .serving import forked_companions, run_python
from .settings import LONG

OTHER_VERSION = """
from discosbackend import Backend, DBProtocolHandler, connection, run_server
connection.GREETING = b"!version,ok,0.9"
run_server(0, DBProtocolHandler(Backend()), "127.0.0.1")
"""


class FalseAlarmTests(unittest.TestCase):
    def run_wolf(self, found: dict[str, Tally], *arguments: str) -> tuple[int | str | None, str]:
        """The exit status, or why it ended, and what was printed, when the instruments' runs come to this."""

        def check_on(instrument: str, *_: object) -> Tally:
            if instrument not in found:
                raise NotMeasured(f"{instrument}: no report")
            return found[instrument]

        server = mock.MagicMock()
        with (
            mock.patch.multiple(
                false_alarms, server_of=lambda _: server, check_on=check_on, Companion=mock.MagicMock()
            ),
            contextlib.redirect_stdout(io.StringIO()) as said,
        ):
            try:
                status: int | str | None = false_alarms.main(arguments)
            except SystemExit as problem:
                status = problem.code
        return status, said.getvalue()

    def test_nothing_is_wrong(self) -> None:
        tally = Tally(Counter({"pass": 230, "unsupported": 4, "skipped": 6}), [1.0, 3.0, 2.0])
        status, said = self.run_wolf({"discos": tally}, "--only", "discos")
        self.assertEqual(status, 0)
        self.assertEqual(
            said.split()[-11:], ["discos", "3", "230", "4", "6", "0", "2.0", "3.0", "nothing", "is", "wrong"]
        )

    def test_something_is(self) -> None:
        right = Tally(Counter({"pass": 1}), [1.0])
        wrong = Tally(Counter({"fail": 1}), [1.0], ["skarab, run 1: start/timed: ['late']"])
        status, said = self.run_wolf({"discos": right, "skarab": wrong}, "--only", "discos", "skarab")
        self.assertEqual(status, 1)
        self.assertIn("skarab, run 1: start/timed: ['late']\n1 wrong", said)

    def test_no_report(self) -> None:
        self.assertEqual(self.run_wolf({}, "--only", "discos")[0], "not measured: discos: no report")

    def test_wrong_options(self) -> None:
        for arguments in (("--runs", "0"), ("--only", "nothing")):
            with self.subTest(arguments), contextlib.redirect_stderr(io.StringIO()):
                self.assertEqual(self.run_wolf({}, *arguments)[0], 2)

    @staticmethod
    def run_check(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        """Run a check as the program does, in a forked process."""
        return run_python(*command[1:])

    def test_the_command(self) -> None:
        """A short run of it on a right server, two with --long, and one on a server of another protocol version."""
        self.enterContext(forked_companions())
        self.enterContext(mock.patch.object(false_alarms, "subprocess", mock.Mock(run=self.run_check)))
        runs = 2 if LONG else 1
        options = ("--only", "version", "status")
        with false_alarms.server_of("discos") as server:
            tally = false_alarms.check_on("discos", server, runs, options)
        self.assertEqual((tally.verdicts, len(tally.seconds), tally.wrong), (Counter({"pass": 4 * runs}), runs, []))
        with Server("-c", OTHER_VERSION) as server:
            tally = false_alarms.check_on("discos", server, 1, ("--only", "greeting"))
        first, second = tally.wrong
        self.assertRegex(first, "discos, run 1: greeting/is-the-version: .*must be b'!version,ok,1.4")
        self.assertEqual(second, "discos, run 1: exit status 1")
