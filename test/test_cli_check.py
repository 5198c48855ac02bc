"""The program discos-backend-check: what it sends, its exit status, its files, signals, and every option."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

from discosbackend import __version__
from discosbackend.cli import check, check_run
from discosbackend.line_socket import connected
from discosbackend.testing import wire
from discosbackend.testing.case_context import CaseContext
from discosbackend.testing.cases import Case
from discosbackend.testing.conformance import CASES
from discosbackend.testing.profile import Profile
from discosbackend.testing.report_files import json_text
from discosbackend.testing.runner import Record
from discosbackend.testing.send_guard import Scope, SendGuard, scope_of

from .programs import Outcome, run_program
from .serving import ROOT, bare_environment, refusing, run_python
from .settings import PATIENCE
from .verdicts import address_of, client_of

SCRIPT = ROOT / "scripts" / "discos-backend-check"


def run(*arguments: str) -> Outcome:
    """Run the program in this process."""
    return run_program(check.main, *arguments)


def local(port: int) -> str:
    """HOST:PORT of a port of this host."""
    return f"127.0.0.1:{port}"


def at(server: str) -> str:
    """HOST:PORT of one of the servers of defective_servers."""
    return local(address_of(server)[1])


class _Paced(SendGuard):
    """On a clock that only its own waiting moves. Notes when each line was about to be sent."""

    def __init__(self, scope: Scope, rate: int | None, **options: Any) -> None:
        self.now = 0.0
        self.sent: list[tuple[float, bytes]] = []
        super().__init__(scope, rate, clock=lambda: self.now, sleep=self._pass, **options)

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def before(self, data: bytes) -> None:
        super().before(data)
        self.sent += [(self.now, line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


class _Folder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by addCleanup
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, name: str, text: str) -> str:
        """The path of a new file with this text."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return str(self.folder / name)


class DefaultRunTests(_Folder):
    """What is sent to a telescope in use."""

    def setUp(self) -> None:
        super().setUp()
        self.guard = _Paced(Scope.READS, None)
        self.made = mock.Mock(side_effect=self.make)
        self.enterContext(mock.patch.object(check_run, "SendGuard", self.made))

    def make(self, scope: Scope, rate: int | None, **options: Any) -> _Paced:
        """What the run is given in place of a SendGuard: one for all its cases."""
        self.made.assert_called_once()
        self.guard = _Paced(scope, rate, **options)
        return self.guard

    def sent(self, *options: str) -> list[tuple[float, bytes]]:
        status, out, _ = run(at("healthy"), *options)
        self.assertEqual(status, 0, out)
        return self.guard.sent

    def test_only_reads(self) -> None:
        lines = [line for _, line in self.sent()]
        self.assertEqual({scope_of(line) for line in lines}, {Scope.READS})
        self.assertIn(b"?status\r\n", lines)

    def test_ends_soon(self) -> None:
        """In five seconds, at ten lines a second."""
        self.assertLessEqual(len(self.sent()), 50, "see also test_five_seconds_will_do of test_testing_defects")

    def test_ten_lines_a_second_at_most(self) -> None:
        times = [moment for moment, _ in self.sent()]
        for moment in times:
            self.assertLessEqual(sum(moment <= other < moment + 1 for other in times), 10)

    def test_measure(self) -> None:
        lines = [line for _, line in self.sent("--measure", "--only", "get-tpi", "get-rms")]
        self.assertIn(b"?get-tpi\r\n", lines)
        self.assertEqual(max(map(scope_of, lines)), Scope.MEASURE)
        self.assertTrue(self.guard.sparing)

    def test_full(self) -> None:
        profile = self.file("mine.toml", 'valid_configuration = "K2"\n')
        lines = [line for _, line in self.sent("--full", "--only", "set-configuration/*", "--profile", profile)]
        self.assertEqual(max(map(scope_of, lines)), Scope.FULL)
        self.assertFalse(self.guard.sparing)


class ExitStatusTests(_Folder):
    def test_all_as_required(self) -> None:
        status, out, err = run(at("healthy"), "--only", "version")
        self.assertEqual(status, 0)
        self.assertIn("As required: of 2 cases, none failed.", out)
        self.assertEqual(len(err.splitlines()), 2)
        self.assertIn("version/reply-is-well-formed", err)

    def test_something_is_not(self) -> None:
        status, out, _ = run(at("time in TAI"), "--only", "time", "version")
        self.assertEqual(status, 1)
        # The difference itself is smaller by the time that the reply took.
        self.assertIn("it looks like TAI, which is 37 s ahead of UTC", out)

    def test_known_deviations(self) -> None:
        profile = self.file("mine.toml", '[deviations]\n"time/*" = "it keeps TAI"\n')
        arguments = (at("time in TAI"), "--only", "time", "--profile", profile)
        status, out, _ = run(*arguments)
        self.assertEqual(status, 0)
        self.assertIn("it keeps TAI", out)
        # They are no failures of the author's, however strict one is with them.
        self.assertEqual(run(*arguments, "--strict")[0], 0)

    def test_non_strict(self) -> None:
        arguments = (at("has words of its own"), "--full", "--only", "stop/wrong-type-of-arguments")
        self.assertEqual(run(*arguments)[0], 0)
        self.assertEqual(run(*arguments, "--strict")[0], 1)

    def test_nothing_was_tried(self) -> None:
        for arguments in (
            (at("healthy"), "--only", "start"),
            (at("knows few commands"), "--full", "--only", "end-schedule/accepts"),
        ):
            with self.subTest(arguments):
                status, out, _ = run(*arguments)
                self.assertEqual(status, 2)
                self.assertIn("Nothing was tried", out)

    def test_no_pass(self) -> None:
        """Nothing is wrong, and not everything could be judged that must be."""
        profile = self.file("mine.toml", 'leave_out = ["start"]\n')
        for server, options, missing, why in (
            (
                "is acquiring",
                ("start/timed", "stop/twice", "set-enable/accepts", "version"),
                2,
                "the server is acquiring and must not be disturbed",
            ),
            ("healthy", ("set-configuration",), 1, "no configuration is known: set valid_configuration"),
            (
                "healthy",
                ("stop/twice", "stop/wrong*", "--profile", profile),
                1,
                "start is listed in leave_out",
            ),
        ):
            with self.subTest(server, options=options):
                json_file, junit_file = str(self.folder / "json"), str(self.folder / "junit")
                reports = ("--json", json_file, "--junit", junit_file)
                status, out, _ = run(at(server), "--full", *reports, "--only", *options)
                self.assertEqual(status, check_run.NO_PASS)
                cases = "1 case" if missing == 1 else f"{missing} cases"
                told = f"No pass: {cases} of start, stop and set-configuration could not be judged ({why}). Of "
                self.assertIn(told, " ".join(out.split()))
                self.assertEqual(len(json.loads(Path(json_file).read_text(encoding="utf-8"))["missing"]), missing)
                [error] = ElementTree.parse(junit_file).iter("error")
                self.assertIn(told, str(error.get("message")))
        # Where something is wrong besides, that counts.
        self.assertEqual(run(at("any configuration accepted"), "--full", "--only", "set-configuration")[0], 1)
        # Without --full nobody expected it.
        status, out, _ = run(at("is acquiring"), "--only", "start", "version")
        self.assertEqual(status, 0)
        self.assertIn("As required: of 2 cases, none failed; not judged: start (", out)

    def test_a_cause_that_was_not_asked_for(self) -> None:
        path = str(self.folder / "json")
        arguments = (at("status a field short"), "--full", "--json", path, "--only", "start/timed", "version")
        status, out, err = run(*arguments)
        self.assertEqual(status, 1)
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {result["id"]: (result["verdict"], result["blocked_by"]) for result in told["results"]}
        self.assertEqual(
            [*found.items()],
            [
                ("version/reply-is-well-formed", ("pass", "")),
                ("status/reply-is-well-formed", ("fail", "")),
                ("start/timed", ("blocked", "status/reply-is-well-formed")),
                ("version/wrong-number-of-arguments", ("pass", "")),
            ],
        )
        self.assertIn("because of this, 1 case could not be judged", out)
        self.assertIn("Not judged, and why\n  blocked by status/reply-is-well-formed (1): start/timed\n", out)
        self.assertIn("3/4  blocked         start/timed: blocked by status/reply-is-well-formed\n", err)

    def test_one_that_answers_wrongly_is_there(self) -> None:
        status, out, _ = run(at("unknown command is undefined"), "--only", "errors", "version", "status")
        self.assertEqual(status, 1)
        self.assertNotIn("nobody answers", out)
        self.assertIn("Not as required: 1 of ", out)

    def test_a_greeting_alone_is_no_answer(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        greeted: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    greeted.append(listening.accept()[0])
                    greeted[-1].sendall(b"!version,ok,1.4\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            address = local(listening.getsockname()[1])
            status, out, _ = run(address, "--timeout", "0.2", "--only", "greeting", "version")
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            listening.close()
            thread.join()
            for connection in greeted:
                connection.close()
        self.assertEqual(status, 1)
        self.assertIn("the server has not answered since greeting/is-the-version", out)

    def test_nobody_is_there(self) -> None:
        with refusing() as port:
            status, out, err = run(local(port))
        self.assertEqual((status, out), (2, ""))
        self.assertRegex(err, rf"^discos-backend-check: no server at 127\.0\.0\.1:{port}: .*refused\n$")

    def test_it_goes_away(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            with listening:
                for _ in range(2):
                    listening.accept()[0].close()

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        where = local(listening.getsockname()[1])
        status, out, _ = run(where, "--timeout", f"{PATIENCE:g}", "--only", "greeting", "version")
        self.assertEqual(status, 1)
        self.assertIn("the server has not answered since greeting/is-the-version", out)

    def test_it_answers_no_more(self) -> None:
        """A failure after which it accepts connections, and says nothing."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            address = local(listening.getsockname()[1])
            arguments = (address, "--timeout", "0.05", "--only", "greeting", "version")
            status, out, _ = run(*arguments)
            known = self.file("mine.toml", '[deviations]\n"greeting/*" = "it is shy"\n')
            known_status, known_out, _ = run(*arguments, "--profile", known)
        self.assertEqual((status, known_status), (1, 1))
        for text in (out, known_out):
            self.assertIn("the server has not answered since greeting/is-the-version", text)

    def test_wrong_usage(self) -> None:
        for arguments, wanted in [
            ((), "no server is given: write HOST:PORT before the options"),
            (("localhost",), "'localhost' is not HOST:PORT, such as 127.0.0.1:8978"),
            (("localhost:99999",), "'localhost:99999' is not HOST:PORT"),
            (("a..b:1",), "a..b:1 is not a valid address"),
            (("localhost:1", "--only", "nonesuch"), "no case matches --only 'nonesuch': --list lists"),
            (("localhost:1", "--only", "start/timd"), "did you mean start/timed?"),
            (("--only", "start", "localhost:1"), "write HOST:PORT before --only"),
            (("localhost:1", "--timeout", "0"), "'0' is not a number of seconds above 0"),
            (("localhost:1", "--timeout", "nan"), "'nan' is not a number of seconds above 0"),
            (("localhost:1", "--profile", "nonesuch"), "no profile 'nonesuch': choose one of discos, "),
            (("localhost:1", "--profile", self.file("a.toml", "x = 1")), "a.toml: x is not known"),
            (("localhost:1", "--full", "--measure"), "not allowed with argument"),
            (("localhost:1", "--list", "--dry-run"), "not allowed with argument"),
            (("localhost:1", "surplus"), "unrecognized arguments: surplus"),
            (("localhost:1", "--html", str(self.folder)), "is not a file, so no report can be written to it"),
            (("localhost:1", "--json", f"{self.folder}/none/x"), "none/x: No such file or directory"),
            (("localhost:1", "--json", f"{self.folder}/x", "--html", f"{self.folder}/./x"), "to the same file"),
        ]:
            with (
                self.subTest(arguments),
                mock.patch.object(socket.socket, "connect", side_effect=AssertionError),
            ):
                status, out, err = run(*arguments)
                self.assertEqual((status, out), (2, ""))
                self.assertIn(wanted, err)
                self.assertNotIn("Traceback", err)


class OptionTests(_Folder):
    """What is told without asking a server, and that each option arrives."""

    def told(self, *arguments: str, status: int = 0) -> str:
        """Standard output of what must neither connect nor complain."""
        with mock.patch.object(socket.socket, "connect", side_effect=AssertionError("connected")):
            found, out, err = run(*arguments)
        self.assertEqual((found, err), (status, ""))
        return out

    def test_list(self) -> None:
        self.assertEqual([line.split()[0] for line in self.told("--list").splitlines()], list(CASES))
        line = self.told("--list", "--only", "start/timed")
        self.assertEqual(line.split(), ["start/timed", "must", "full", "start:", "timed"])

    def test_only(self) -> None:
        for patterns, wanted in [
            (("version",), ["version/wrong-number-of-arguments", "version/reply-is-well-formed"]),
            (("stop/twice", "greeting"), ["greeting/is-the-version", "stop/twice"]),
            (("set-s*/acc*",), ["set-section/accepts", "set-shift/accepts"]),
        ]:
            with self.subTest(patterns):
                lines = self.told("--list", "--only", *patterns).splitlines()
                self.assertEqual([line.split()[0] for line in lines], wanted)

    def test_dry_run(self) -> None:
        only = ("--only", "version", "get-tp0/reply-is-well-formed", "stop/twice")
        for options, tried, left in [
            (
                (),
                2,
                [
                    "get-tp0/reply-is-well-formed: needs --measure",
                    "stop/twice: needs --full",
                ],
            ),
            (("--measure",), 3, ["stop/twice: needs --full"]),
            (("--full",), 4, []),
        ]:
            with self.subTest(options):
                lines = self.told("127.0.0.1:1", "--dry-run", *options, *only).splitlines()
                self.assertEqual(lines[0], f"{tried} of 4 cases would be tried:")
                self.assertEqual([line.strip() for line in lines[tried + 3 :]], left)
        self.told("--dry-run", "--only", "stop/twice", status=2)

    def test_profiles(self) -> None:
        lines = self.told("--profiles").splitlines()
        self.assertEqual(lines[3].split(maxsplit=1)[0], "sardara")
        self.assertIn("SARDARA", lines[3])

    def test_what_a_run_is_told(self) -> None:
        nobody = {
            "address": ("localhost", 1),
            "cases": list(CASES),
            "scope": Scope.READS,
            "strict": False,
            "paths": {},
        }
        nobody |= {"profile": {}}
        for options, wanted in [
            ((), {}),
            (("--measure",), {"scope": Scope.MEASURE}),
            (("--full",), {"scope": Scope.FULL}),
            (("--strict",), {"strict": True}),
            (("--only", "stop/twice"), {"cases": ["stop/twice"]}),
            (("--timeout", "2.5"), {"profile": {"reply_timeout": 2.5}}),
            (
                ("--profile", self.file("a.toml", "inputs = 3\nreply_timeout = 1")),
                {"profile": {"inputs": 3, "reply_timeout": 1}},
            ),
            (
                ("--junit", "a", "--json", "b", "--html", "c"),
                {"paths": {"junit": "a", "json": "b", "html": "c"}},
            ),
        ]:
            with self.subTest(options), mock.patch.object(check, "Run") as made:
                made.return_value.report_to.return_value = 7
                self.assertEqual(run("localhost:1", *options), (7, "", ""))
                address, cases, profile = made.call_args.args
                found = {
                    "address": address,
                    "cases": [case.id for case in cases],
                    "profile": vars(profile),
                    "scope": made.call_args.kwargs["scope"],
                    "strict": made.call_args.kwargs["strict"],
                    "paths": made.return_value.report_to.call_args.args[0],
                }
                assert isinstance(wanted, dict)
                self.assertEqual(found, nobody | wanted)

    def test_options_before_the_address(self) -> None:
        with mock.patch.object(check, "Run") as made:
            made.return_value.report_to.return_value = 0
            run("--full", "--profile", "skarab", "[::1]:8978")
        self.assertEqual(made.call_args.args[0], ("::1", 8978))
        self.assertEqual(made.call_args.kwargs["profile_name"], "skarab")

    def test_help_has_examples(self) -> None:
        out = self.told("--help")
        for text in ("examples:", "--full --html report.html", "exit status:", "sardara"):
            self.assertIn(text, out)

    def test_as_a_program(self) -> None:
        done = run_python(SCRIPT, "--version", cwd=self.folder, env=bare_environment(), fresh=True)
        self.assertEqual(
            (done.returncode, done.stdout), (0, f"discos-backend-check {__version__}, protocol version 1.4\n")
        )


class ReportTests(_Folder):
    def test_files(self) -> None:
        paths = {name: str(self.folder / name) for name in ("junit", "json", "html")}
        # One that is there already is written anew.
        self.file("json", "old")
        options = [text for name, path in paths.items() for text in (f"--{name}", path)]
        self.assertEqual(run(at("healthy"), "--only", "version", "--profile", "discos", *options)[0], 0)
        self.assertEqual(sorted(os.listdir(self.folder)), ["html", "json", "junit"])
        cases = [case.id for case in CASES.values() if case.area == "version"]
        told = json.loads(Path(paths["json"]).read_text(encoding="utf-8"))
        self.assertEqual((told["server"], told["profile"]), (at("healthy"), "discos"))
        self.assertIn(cases[0], str(told))
        self.assertEqual(len(list(ElementTree.parse(paths["junit"]).iter("testcase"))), 2)
        self.assertIn(cases[1], Path(paths["html"]).read_text(encoding="utf-8"))

    def test_an_ipv6_address(self) -> None:
        """Connects to another server instead, because not every host has IPv6."""
        path = self.folder / "json"

        def connect_to_healthy(_: tuple[str, int], timeout: float, error: type[Exception]) -> socket.socket:
            return connected(address_of("healthy"), timeout, error)

        with mock.patch.object(wire, "connected", connect_to_healthy):
            status, out, _ = run("[::1]:8978", "--only", "version", "--json", str(path))
        self.assertEqual(status, 0)
        self.assertIn("[::1]:8978", out)
        self.assertEqual(json.loads(path.read_text(encoding="utf-8"))["server"], "[::1]:8978")

    def test_nothing_is_left_of_a_run_that_did_not_begin(self) -> None:
        old = self.file("report", "old")
        with refusing() as port:
            self.assertEqual(run(local(port), "--html", old)[0], 2)
        self.assertEqual(os.listdir(self.folder), ["report"])
        self.assertEqual(Path(old).read_text(encoding="utf-8"), "old")

    def test_a_file_that_cannot_be_written_after_all(self) -> None:
        with mock.patch.object(os, "replace", side_effect=OSError(28, "No space left on device")):
            status, out, err = run(at("healthy"), "--only", "version", "--json", str(self.folder / "a"))
        self.assertEqual(status, 1)
        self.assertIn("As required", out)
        self.assertIn("/a: No space left on device\n", err)
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_link_stays_one(self) -> None:
        (self.folder / "link").symlink_to("report")
        run(at("healthy"), "--only", "version", "--json", str(self.folder / "link"))
        self.assertTrue((self.folder / "link").is_symlink())
        self.assertTrue((self.folder / "report").is_file())

    def test_nobody_reads_it(self) -> None:
        command = [sys.executable, str(SCRIPT), at("healthy"), "--only", "version"]
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (0, 2), done.stderr)

    def test_progress_on_a_terminal(self) -> None:
        stream = io.StringIO()
        with mock.patch.object(stream, "isatty", return_value=True), redirect_stdout(io.StringIO()):
            with mock.patch.object(sys, "stderr", stream), self.assertRaises(SystemExit):
                check.main([at("healthy"), "--only", "version"])
        first, second, end = stream.getvalue().split("\r")[1:]
        for line in (first, second):
            self.assertRegex(line, r"^[12]/2  .{1,70}\x1b\[K$")
        self.assertEqual(end, "\x1b[K")

    def test_acquiring(self) -> None:
        for option, said in (("--measure", True), ("--full", True), ("--strict", False)):
            with self.subTest(option):
                _, _, err = run(at("is acquiring"), option, "--only", "version/reply-is-well-formed", "get-tpi/band")
                self.assertEqual(f"{at('is acquiring')} is acquiring: cases that would" in err, said)


class SignalTests(_Folder):
    """What was changed is put back, whatever comes and when."""

    def setUp(self) -> None:
        super().setUp()
        self.done: list[str] = []

    def run_case(self, tried: Callable[[CaseContext], None]) -> tuple[int, str, dict[str, object]]:
        """Status, report and JSON of a run in which this case is followed by another."""
        cases = [
            Case("area/first", "1", "First.", Scope.FULL, tried),
            Case("area/second", "1", "Second.", Scope.FULL, lambda _: self.done.append("second")),
        ]
        made = check_run.Run(address_of("healthy"), cases, Profile(), profile_name="x", scope=Scope.FULL, strict=False)
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        out, path = io.StringIO(), self.folder / "json"
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            status = made.report_to({"json": str(path)})
        self.assertEqual(
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)], handlers
        )
        return status, out.getvalue(), json.loads(path.read_text(encoding="utf-8"))

    def put_back(self) -> None:
        """What a case has registered: told by its name."""
        self.done.append("put back")

    def test_during_a_case(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number):
                self.done.clear()

                def tried(checking: CaseContext, number: int = number) -> None:
                    checking.finally_(self.put_back)
                    signal.raise_signal(number)
                    self.done.append("went on")

                status, out, told = self.run_case(tried)
                self.assertEqual((status, self.done), (check_run.INTERRUPTED, ["put back"]))
                wanted = f"interrupted by {signal.Signals(number).name} before the end of area/first"
                self.assertIn(wanted, out)
                self.assertEqual(told["ended_early"], wanted)

    def test_what_was_configured_is_put_back(self) -> None:
        with client_of("healthy") as client:
            client.set_configuration("P2")

            def tried(checking: CaseContext) -> None:
                checking.profile.valid_configuration = "K14"
                checking.prepare()
                self.done += checking.ok("get-configuration")
                signal.raise_signal(signal.SIGINT)

            self.run_case(tried)
            self.assertEqual((self.done, client.get_configuration()), (["K14"], "P2"))

    def test_a_second_one_while_putting_back(self) -> None:
        def again() -> None:
            signal.raise_signal(signal.SIGINT)
            self.put_back()

        def tried(checking: CaseContext) -> None:
            checking.finally_(self.put_back)
            checking.finally_(again)
            signal.raise_signal(signal.SIGINT)

        self.assertEqual(self.run_case(tried)[0], check_run.INTERRUPTED)
        self.assertEqual(self.done, ["put back"] * 2)

    def test_the_first_one_while_putting_back(self) -> None:
        def first() -> None:
            signal.raise_signal(signal.SIGTERM)
            self.put_back()

        def tried(checking: CaseContext) -> None:
            checking.finally_(self.put_back)
            checking.finally_(first)

        status, out, _ = self.run_case(tried)
        self.assertEqual((status, self.done), (check_run.INTERRUPTED, ["put back"] * 2))
        self.assertIn("interrupted by SIGTERM before the end of area/second", out)

    def test_a_later_one_cuts_it_off(self) -> None:
        def hangs() -> None:
            signal.raise_signal(signal.SIGINT)
            self.done.append("went on")

        def tried(checking: CaseContext) -> None:
            checking.finally_(hangs)
            signal.raise_signal(signal.SIGINT)

        with mock.patch.object(check_run, "_GRACE", -1.0):
            self.assertEqual(self.run_case(tried)[0], check_run.INTERRUPTED)
        self.assertEqual(self.done, [])

    def test_after_the_last_case(self) -> None:
        """The reports are written; there is nothing left to interrupt."""

        def write(record: Record) -> str:
            signal.raise_signal(signal.SIGTERM)
            return json_text(record)

        with mock.patch.dict(check_run.REPORTS, json=write):
            status, _, told = self.run_case(lambda _: None)
        self.assertEqual((status, told["ended_early"]), (0, ""))

    def test_one_that_is_ignored_stays_so(self) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        status, _, _ = self.run_case(lambda _: signal.raise_signal(signal.SIGHUP))
        self.assertEqual((status, self.done), (0, ["second"]))


if __name__ == "__main__":
    unittest.main()
