"""The program discos-backend-replay: its command line, what it prints, and its exit status."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import unittest
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from discosbackend import __version__
from discosbackend.cli import replay
from discosbackend.client.address import VARIABLE
from discosbackend.errors import Interrupted
from discosbackend.tap.replay import Difference, Replay, Totals
from discosbackend.tap.replay_report import difference_text, has_colours, summary
from discosbackend.tap.steps import LeftOut, Open
from discosbackend.testing.send_guard import SendGuard

from .programs import Outcome, run_program
from .serving import ROOT, refusing, served

SCRIPT = ROOT / "scripts" / "discos-backend-replay"
HEADER = '{"discos-recording": 1, "server": "x", "begin": "1000.0000000"}\n'


def exchange(time: float, request: str, reply: str, connection: int = 1) -> str:
    fields = {"t": f"{time:.7f}", "c": connection, "peer": "p", "q": request, "a": reply, "s": 0.001}
    return json.dumps(fields) + "\n"


VERSION = exchange(1, "?version", "!version,ok,1.4")
OTHER_VERSION = exchange(2, "?version", "!version,ok,1.5")
START = exchange(3, "?start", "!start,fail,no configuration")


class ReplayTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.dict(os.environ))
        os.environ.pop(VARIABLE, None)

    def file(self, *lines: str, name: str = "exchanges.jsonl") -> str:
        path = self.folder / name
        path.write_text("".join(lines), encoding="latin-1")
        return str(path)

    def run_replay(self, *arguments: str) -> Outcome:
        return run_program(replay.main, *arguments)


class CommandLineTests(ReplayTestCase):
    """What needs no server: nothing is sent, and the exit status is 2."""

    def test_refusals(self) -> None:
        good = self.file(HEADER, VERSION)
        for arguments, problem in (
            ([], "no file is given: write FILE and HOST:PORT, such as exchanges.jsonl 127.0.0.1:8978"),
            ([good], "no server is given: write HOST:PORT after the file, or set DISCOS_BACKEND"),
            ([good, "nowhere"], "argument HOST:PORT: 'nowhere' is not HOST:PORT, such as 127.0.0.1:8978"),
            (["/nonesuch", "h:1"], "/nonesuch cannot be read: No such file or directory"),
            ([good, "h:1", "--speed", "0"], "argument --speed: '0' is not a number above 0"),
            ([good, "h:1", "--speed", "fast"], "argument --speed: 'fast' is not a number above 0"),
            ([good, "h:1", "--tolerance", "-1"], "argument --tolerance: '-1' is not a number, 0 or more"),
            (
                [good, "h:1", "--timeout", "0"],
                "argument --timeout: '0' is not a number of seconds above 0, at most a day",
            ),
            ([good, "h:1", "--speed", "2", "--no-wait"], "argument --no-wait: not allowed with argument --speed"),
            (
                [good, "h:1", "--only", "versoin"],
                "no request of the file has the name of --only 'versoin': did you mean version?",
            ),
            ([good, "h:1", "--profile", "nonesuch"], "no profile 'nonesuch': choose one of"),
        ):
            with self.subTest(arguments):
                outcome = self.run_replay(*arguments)
                self.assertEqual((outcome.status, outcome.out), (2, ""))
                self.assertIn(problem, outcome.err)
        os.environ[VARIABLE] = "nowhere"
        self.assertIn("the environment variable DISCOS_BACKEND: 'nowhere' is not", self.run_replay(good).err)

    def test_no_server(self) -> None:
        with refusing() as port:
            outcome = self.run_replay(self.file(HEADER, VERSION), f"127.0.0.1:{port}")
        problem = f"discos-backend-replay: no server at 127.0.0.1:{port}: Connection refused\n"
        self.assertEqual(outcome, (2, "", problem))

    def test_nothing_to_send(self) -> None:
        """Then the server is not even connected."""
        with refusing() as port:
            outcome = self.run_replay(self.file(HEADER, START), f"127.0.0.1:{port}")
        self.assertEqual((outcome.status, outcome.err), (3, ""))
        self.assertEqual(
            outcome.out,
            "0 replies compared, 0 differences\nleft out, because it may change something (--full sends it): 1 start\n",
        )

    def test_help_and_version(self) -> None:
        self.assertIn("exit status:\n  0    no reply differs\n", self.run_replay("--help").out)
        self.assertIn(__version__, self.run_replay("--version").out)

    def test_the_script(self) -> None:
        found = subprocess.run([sys.executable, SCRIPT, "--version"], capture_output=True, text=True, check=True)
        self.assertTrue(found.stdout.startswith(f"discos-backend-replay {__version__}"))


class RunTests(ReplayTestCase):
    """On a server."""

    address: str

    @classmethod
    def setUpClass(cls) -> None:
        with ExitStack() as stack:
            host, port = stack.enter_context(served("--simulate", "discos")).address
            cls.address = f"{host}:{port}"
            cls.addClassCleanup(stack.pop_all().close)

    def test_no_difference(self) -> None:
        outcome = self.run_replay(self.file(HEADER, VERSION), self.address)
        self.assertEqual(outcome, (0, "1 reply compared, 0 differences\n", ""))

    def test_differences(self) -> None:
        outcome = self.run_replay(self.file(HEADER, VERSION, OTHER_VERSION, START), self.address, "--no-wait")
        self.assertEqual((outcome.status, outcome.err), (1, ""))
        self.assertEqual(
            outcome.out,
            "line 3: ?version\n"
            "  recorded  !version,ok,1.5\n"
            "  received  !version,ok,1.4\n"
            "  version: 1.5 is recorded, 1.4 was received\n"
            "\n"
            "2 replies compared, 1 difference\n"
            "left out, because it may change something (--full sends it): 1 start\n",
        )

    def test_full(self) -> None:
        file = self.file(HEADER, exchange(1, "?set-integration,-1", "!set-integration,ok"))
        self.assertEqual(self.run_replay(file, self.address).status, 3)
        outcome = self.run_replay(file, self.address, "--full")
        self.assertEqual(outcome.status, 1)
        self.assertIn("  ok is recorded, fail was received\n", outcome.out)

    def test_only(self) -> None:
        lines = (VERSION, OTHER_VERSION, exchange(2, "?time", "!time,ok,1.0000000"))
        outcome = self.run_replay(self.file(HEADER, *lines), self.address, "--only", "time", "--no-wait")
        self.assertEqual((outcome.status, outcome.err), (0, ""))
        self.assertEqual(outcome.out, "1 reply compared, 0 differences\nleft out by --only: 2 version\n")
        outcome = self.run_replay(self.file(HEADER, *lines), self.address, "--only=time", "--only=version", "--no-wait")
        self.assertEqual(outcome.status, 1)

    def test_the_address_in_the_environment(self) -> None:
        os.environ[VARIABLE] = self.address
        self.assertEqual(self.run_replay(self.file(HEADER, VERSION)).status, 0)

    def test_standard_input(self) -> None:
        stdin = mock.Mock(buffer=io.BytesIO((HEADER + VERSION + VERSION[:10]).encode()))
        with mock.patch.object(sys, "stdin", stdin):
            outcome = self.run_replay("-", self.address)
        note = "discos-backend-replay: -: line 3, the last one, is incomplete and was ignored\n"
        self.assertEqual(outcome, (0, "1 reply compared, 0 differences\n", note))

    def test_a_configuration_file(self) -> None:
        config = self.file('only = ["version"]\nspeed = 1000\nfull = true\n', name="replay.toml")
        outcome = self.run_replay(self.file(HEADER, VERSION, START), self.address, "--config", config)
        self.assertEqual(outcome, (0, "1 reply compared, 0 differences\nleft out by --only: 1 start\n", ""))

    def test_speed(self) -> None:
        file = self.file(HEADER, VERSION, exchange(1.3, "?version", "!version,ok,1.4"))
        with mock.patch("discosbackend.cli.replay.Replay", wraps=Replay) as made:
            for options, speed in (([], 1.0), (["--speed", "2.5"], 2.5), (["--no-wait"], math.inf)):
                began = time.monotonic()
                self.assertEqual(self.run_replay(file, self.address, *options).status, 0)
                self.assertGreaterEqual(time.monotonic() - began, 0.29 / speed)
                self.assertEqual(made.call_args.kwargs["speed"], speed)

    def test_how_replies_are_compared(self) -> None:
        tpi = exchange(1, "?get-tpi", "!get-tpi,ok,1.0,1.0")
        fail = exchange(1, "?set-integration,-1", "!set-integration,fail,too short")
        for line, option in ((tpi, ["--tolerance", "0.5"]), (fail, ["--reasons"])):
            file = self.file(HEADER, line)
            self.assertEqual(self.run_replay(file, self.address, "--full").status, 0)
            self.assertEqual(self.run_replay(file, self.address, "--full", *option).status, 1)

    def test_own_commands(self) -> None:
        """Only a profile says that a command of the backend's own is a read."""
        profile = self.file('[own_commands.look]\nlane = "reads"\n', name="own.toml")
        file = self.file(HEADER, exchange(1, "?look", "!look,fail,invalid command 'look'"))
        self.assertEqual(self.run_replay(file, self.address).status, 3)
        self.assertEqual(self.run_replay(file, self.address, "--profile", profile).status, 0)

    def test_ten_lines_a_second(self) -> None:
        """Unless --full."""
        rates = []

        class Guard(SendGuard):
            def before(self, data: bytes) -> None:
                rates.append(self._rate)

        with mock.patch.object(replay, "SendGuard", Guard):
            self.run_replay(self.file(HEADER, VERSION), self.address)
            self.run_replay(self.file(HEADER, VERSION), self.address, "--full")
        self.assertEqual(rates, [10, None])

    def test_no_reply_in_time(self) -> None:
        with mock.patch("discosbackend.tap.replay_sockets.Sockets.send"):
            outcome = self.run_replay(self.file(HEADER, VERSION), self.address, "--timeout", "0.1")
        self.assertEqual(outcome.status, 1)
        self.assertIn("  no reply within 0.1 s\n", outcome.out)

    def test_interrupted(self) -> None:
        with mock.patch("discosbackend.tap.replay_sockets.Sockets.send", side_effect=Interrupted("interrupted")):
            outcome = self.run_replay(self.file(HEADER, VERSION), self.address)
        self.assertEqual(outcome, (130, "", "discos-backend-replay: interrupted\n"))

    def test_a_full_disk(self) -> None:
        with mock.patch.object(replay, "write_result", side_effect=OSError(28, "No space left on device")):
            outcome = self.run_replay(self.file(HEADER, VERSION), self.address)
        problem = "discos-backend-replay: cannot write to standard output: No space left on device\n"
        self.assertEqual(outcome, (1, "", problem))

    def test_several_connections_at_once(self) -> None:
        lines = [exchange(1, "?version", "!version,ok,1.4", number) for number in range(1, 30)]
        outcome = self.run_replay(self.file(HEADER, *lines), self.address, "--full")
        self.assertEqual(outcome, (0, "29 replies compared, 0 differences\n", ""))


class ReportTests(unittest.TestCase):
    def test_colours_only_on_a_terminal(self) -> None:
        terminal, file = mock.Mock(), mock.Mock()
        terminal.isatty.return_value, file.isatty.return_value = True, False
        with mock.patch.dict(os.environ, {"TERM": "xterm"}, clear=True):
            self.assertEqual((has_colours(terminal), has_colours(file)), (True, False))
            os.environ["NO_COLOR"] = "1"
            self.assertFalse(has_colours(terminal))
        with mock.patch.dict(os.environ, {"TERM": "dumb"}, clear=True):
            self.assertFalse(has_colours(terminal))

    def test_a_difference(self) -> None:
        """What a server sends cannot control the terminal."""
        found = Difference(Open("line 3", 2, 0.0), "?a\x9b", "recorded", "!a,ok,1", "!a,ok,\x1b[2J", "it differs")
        self.assertEqual(
            difference_text(found),
            "line 3: ?a\\x9b\n  recorded  !a,ok,1\n  received  !a,ok,\\x1b[2J\n  it differs\n",
        )
        self.assertEqual(
            difference_text(found, colours=True),
            "\x1b[1mline 3: ?a\\x9b\x1b[0m\n  recorded  \x1b[32m!a,ok,1\x1b[0m\n"
            "  received  \x1b[31m!a,ok,\\x1b[2J\x1b[0m\n  it differs\n",
        )
        found = Difference(Open("line 3", 2, 0.0), "", "", "", None, "the server closed the connection")
        self.assertEqual(difference_text(found), "line 3: connection 2\n  the server closed the connection\n")

    def test_summary(self) -> None:
        left_out = LeftOut(Counter(start=2, **{"cal-on": 1}), Counter(time=1))
        self.assertEqual(
            summary(Totals(compared=5, form_only=2, differences=1, sent=9, unanswered=3), left_out),
            "5 replies compared, 1 difference\n"
            "3 further requests without a reply, because their connections were lost\n"
            "left out, because it may change something (--full sends it): 1 cal-on, 2 start\n"
            "2 of the replies compared by their form only, because requests before them were left out\n"
            "left out by --only: 1 time\n",
        )


if __name__ == "__main__":
    unittest.main()
