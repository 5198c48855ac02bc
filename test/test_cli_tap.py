"""The program discos-backend-tap: its options, its monitors, and real connections through it."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import sys
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGTERM
from urllib.error import HTTPError
from urllib.request import urlopen

from discosbackend import __version__
from discosbackend.cli import check, replay, tap

from . import session_player
from .programs import Listening, Outcome, run_program
from .serving import ROOT, Server, ask, read_line, refusing, served
from .settings import LONG, PATIENCE, needs_pyzmq, wait_until

# The test that needs it is skipped without pyzmq.
with suppress(ImportError):
    from .telemetry_peers import Client

SCRIPT = ROOT / "scripts" / "discos-backend-tap"


def run(*arguments: str, reactor: Listening | None = None) -> Outcome:
    return run_program(tap.main, *arguments, reactor=reactor)


@contextmanager
def tapping(target: str, *options: str, fresh: bool = False) -> Iterator[Server]:
    """The program in a process of its own, ready."""
    server = Server([sys.executable, str(SCRIPT), "127.0.0.1:0", target, *options], fresh=fresh)
    try:
        _ = server.announced
        yield server
    finally:
        server.end()


def address_of_web(through: Server) -> str:
    """The address of the web server, from the log."""
    found = re.search(r"monitoring on (http://127\.0\.0\.1:\d+/)", through.log())
    assert found is not None, through.log()
    return found[1]


def text_of(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


class OptionTests(unittest.TestCase):
    def test_wrong_command_lines(self) -> None:
        both = "127.0.0.1:0", "127.0.0.1:1"
        for arguments, text in (
            ((), "write LISTEN and TARGET before the options, such as 127.0.0.1:8979 127.0.0.1:8978"),
            (("127.0.0.1:0",), "write LISTEN and TARGET before the options"),
            ((*both, "--wait", "soon"), "'soon' is not a number of seconds, 0 or more"),
            ((*both, "--http-host", "name"), "--http-host is for the web server: add --http"),
            ((*both, "--telemetry-name", "Mine"), "--telemetry-name has no effect without --telemetry or"),
            ((*both, "--telemetry", "proxy"), "which a tap does not know: add --telemetry-name"),
            ((*both, "--telemetry-bind", "0"), "which a tap does not know: add --telemetry-name"),
            ((*both, "--html", "report.html"), "--html is a report of --judge: add --judge"),
            ((*both, "--record-size", "1"), "--record-size needs --record"),
            ((*both, "--allow", "here"), "'here' is neither an address nor a network"),
            (("unix:s", both[1], "--read-only", "::1"), "have no effect on unix:s: the permissions of the socket"),
        ):
            with self.subTest(arguments):
                found = run(*arguments)
                self.assertEqual((found.status, found.out), (2, ""))
                self.assertIn(text, found.err.splitlines()[-1])

    def test_addresses_that_cannot_be_used(self) -> None:
        for listen, target, text in (
            ("here", "127.0.0.1:1", "LISTEN 'here': "),
            ("tcp:x", "127.0.0.1:1", "LISTEN 'tcp:x': write it such as tcp:8978:interface=192.168.200.5"),
            ("127.0.0.1:0", "there", "TARGET 'there': "),
            ("127.0.0.1:0", "tcp:x", "TARGET 'tcp:x' is not an endpoint of a client, such as tcp:192.168.200.7:10000"),
        ):
            with self.subTest(listen=listen, target=target):
                found = run(listen, target)
                self.assertEqual((found.status, found.out), (1, ""))
                # Old versions of Twisted leave sockets open, of which Python warns.
                self.assertTrue(found.err.splitlines()[-1].startswith(f"discos-backend-tap: {text}"), found.err)

    def test_a_port_that_is_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            place = f"127.0.0.1:{taken.getsockname()[1]}"
            found = run(place, "127.0.0.1:1", "--http", "0", reactor=Listening())
            self.assertEqual(found.status, 1)
            wanted = f"discos-backend-tap: cannot listen on {place}: Address already in use"
            self.assertEqual(found.err.splitlines()[-1], wanted)

    def test_options_from_a_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "tap.toml")
            path.write_text('wait = "soon"\n', encoding="utf-8")
            found = run("127.0.0.1:0", "127.0.0.1:1", "--config", str(path))
            self.assertEqual(found.status, 2)
            self.assertIn(f"--config {path}: argument --wait: 'soon' is not", found.err)

    def test_help_and_version(self) -> None:
        self.assertEqual(run("--version").out, f"discos-backend-tap {__version__}, protocol version 1.4\n")
        text = run("--help").out
        for name in (
            "--record",
            "--http",
            "--telemetry",
            "--telemetry-bind",
            "--allow",
            "--read-only",
            "--log-format",
            "--config",
            "--wait",
            "examples:",
        ):
            self.assertIn(name, text)


class ProcessTests(unittest.TestCase):
    """Real connections, through the program, to a simulated instrument."""

    def test_monitors_sessions_and_access(self) -> None:
        with served("--simulate", "discos") as server, tempfile.TemporaryDirectory() as folder:
            record = Path(folder, "exchanges.jsonl")
            target = text_of(server.address)
            options = ["--http", "0", "--record", str(record), "--read-only", "127.0.0.2", "--log-format", "json"]
            with tapping(target, *options) as through:
                self.assertEqual(
                    through.announced,
                    f"discosbackend: a tap of {target} is served on {text_of(through.address)}, protocol version 1.4",
                )
                for name in ("unconfigured", "sardara"):
                    path = str(session_player.SESSIONS / f"{name}.txt")
                    played = run_program(replay.main, path, text_of(through.address), "--full")
                    self.assertEqual((played.status, played.err), (0, ""), played.out)
                with socket.create_connection(through.address, PATIENCE, ("127.0.0.2", 0)) as reader:
                    self.assertEqual(read_line(reader), b"!version,ok,1.4\r\n")
                    replies = ask(reader, b"?version", b"?start", b"?get-configuration")
                    self.assertEqual(
                        replies[:2], [b"!version,ok,1.4\r\n", b"!start,fail,not allowed from this address\r\n"]
                    )
                    self.assertTrue(replies[2].startswith(b"!get-configuration,ok,"), replies)
                    web = address_of_web(through)
                    with urlopen(f"{web}status.json", timeout=PATIENCE) as reply:
                        document = json.load(reply)
                    with urlopen(web, timeout=PATIENCE) as reply:
                        page = reply.read().decode()
                    with urlopen(f"{web}health?status=1", timeout=PATIENCE) as reply:
                        self.assertEqual(reply.read(), b"ok\n")
                    if importlib.util.find_spec("prometheus_client") is not None:
                        with urlopen(f"{web}metrics", timeout=PATIENCE) as reply:
                            self.assertIn(b"discos_", reply.read())
                self.assertEqual(document["server"]["name"], f"a tap of {target}")
                self.assertEqual(document["server"]["address"], text_of(through.address))
                self.assertEqual((document["lanes"], document["acquisition"], document["watchdog"]), (None, None, None))
                self.assertEqual(document["status"]["text"], "ok")
                found = document["target"]
                self.assertEqual((found["name"], found["reachable"], found["problem"]), (target, True, ""))
                counted = {each["name"]: each["fail"] for each in document["commands"]}
                # The other one is a second start of the session.
                self.assertEqual(counted["start"], 2)
                self.assertIn(f"a tap of {target}", page)
                for panel in ("lanes", "watchdog", "recordings", "sensors"):
                    self.assertIn(f'data-show="{panel}" hidden', page)
                self.assertEqual(through.stop(SIGTERM), 0)
                for line in through.log().splitlines():
                    self.assertIn("message", json.loads(line))
            header, *recorded = map(json.loads, record.read_text(encoding="ascii").splitlines())
            self.assertEqual(header["server"], f"a tap of {target}")
            self.assertEqual(recorded[-1]["event"], "close")
            self.assertIn(
                ("?start", "!start,fail,not allowed from this address"),
                [(each["q"], each["a"]) for each in recorded if "q" in each],
            )

    def test_the_judge(self) -> None:
        with served("--simulate", "discos") as server, tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder, f"report.{name}") for name in ("html", "junit", "json")}
            options = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
            target = text_of(server.address)
            for requests, status in (((), 0), ((b"?status,1", b"?status,1", b"?nonesuch"), 1)):
                with self.subTest(requests), tapping(target, "--judge", *options) as through:
                    if requests:
                        with through.connect() as client:
                            for request in requests:
                                ask(client, request)
                    else:
                        # What deployed clients do is no violation.
                        session = str(session_player.SESSIONS / "sardara.txt")
                        self.assertEqual(
                            run_program(replay.main, session, text_of(through.address), "--full").status, 0
                        )
                    self.assertEqual(through.stop(SIGTERM), status)
                    assert through.process.stdout is not None
                    text = through.process.stdout.read()
                    self.assertIn("16 cases", text)
                    results = json.loads(paths["json"].read_text(encoding="utf-8"))["results"]
                    failed = {each["id"]: each["reasons"] for each in results if each["verdict"] == "fail"}
                    if not status:
                        self.assertEqual(failed, {})
                        notes = [each["id"] for each in results if each["verdict"] == "non-strict"]
                        self.assertEqual(notes, ["client/empty-line-and-quit"])
                        self.assertIn("As required: of 16 cases, none failed", text)
                        continue
                    self.assertEqual(list(failed), ["client/known-commands", "client/number-of-arguments"])
                    self.assertRegex(
                        failed["client/number-of-arguments"][0],
                        r"\Ab'\?status,1': status needs no arguments \(2 times, first on connection 1 of 127\.0\.0\.1:",
                    )
                    self.assertEqual(through.log().count("client/number-of-arguments: "), 1)
                    self.assertIn("</html>", paths["html"].read_text(encoding="utf-8"))
                    self.assertIn("<failure ", paths["junit"].read_text(encoding="utf-8"))

    def test_the_cases_of_the_kit_have_the_same_verdicts(self) -> None:
        # All cases with --long; a part of them is what a tap could change.
        part = [] if LONG else ["--only", "clients", "disconnect", "framing", "greeting", "order", "errors"]
        with served("--simulate", "discos") as server, tempfile.TemporaryDirectory() as folder:
            target = text_of(server.address)
            with tapping(target) as through:
                verdicts = []
                for place in (target, text_of(through.address)):
                    path = Path(folder, "report.json")
                    found = run_program(check.main, place, "--full", "--profile", "discos", "--json", str(path), *part)
                    self.assertEqual(found.status, 0, found.out)
                    results = json.loads(path.read_text(encoding="utf-8"))["results"]
                    verdicts.append({each["id"]: each["verdict"] for each in results})
        self.assertEqual(verdicts[0], verdicts[1])
        self.assertGreater(len(verdicts[0]), 10)

    @needs_pyzmq
    def test_telemetry(self) -> None:
        options = ["--telemetry-bind", "0", "--telemetry-name", "Mine", "--http", "0"]
        with served("--simulate", "discos") as server, tapping(text_of(server.address), *options) as through:
            found = re.search(r"telemetry is served on \S+:(\d+)", through.log())
            assert found is not None, through.log()
            subscriber = Client(int(found[1]))
            self.addCleanup(subscriber.close)
            wait_until(subscriber.turn, "a message")
            with through.connect() as client:
                ask(client, b"?set-configuration,K2", b"?set-integration,20", b"?start")

            def sees() -> bool:
                subscriber.turn()
                last = subscriber.messages[-1]["Mine"]
                return bool(last["sampling"] and last["integration"] == 20)

            wait_until(sees, "an acquisition")
            with urlopen(f"{address_of_web(through)}status.json", timeout=PATIENCE) as reply:
                self.assertEqual(json.load(reply)["telemetry"], {"state": "serving", "problem": ""})
            self.assertEqual(through.stop(SIGTERM), 0)
            self.assertNotIn("Traceback", through.log())

    def test_reports_that_cannot_be_written(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            found = run("127.0.0.1:0", "127.0.0.1:1", "--judge", "--html", folder)
            self.assertEqual(found.status, 1)
            self.assertIn("is not a file, so no report can be written to it", found.err)
            same = str(Path(folder, "report"))
            found = run("127.0.0.1:0", "127.0.0.1:1", "--judge", "--html", same, "--json", same)
            self.assertEqual(
                found.err.splitlines()[-1], "discos-backend-tap: two reports cannot be written to the same file"
            )

    def test_a_target_that_is_away_and_the_end_of_one(self) -> None:
        with refusing() as port, tapping(f"127.0.0.1:{port}", "--http", "0") as through:
            problem = f"the target 127.0.0.1:{port} cannot be reached: ConnectionRefusedError: "
            wait_until(lambda: problem in through.log(), "the first attempt")
            with socket.create_connection(through.address, PATIENCE) as client:
                self.assertEqual(client.recv(100), b"")
            web = address_of_web(through)
            with self.assertRaises(HTTPError) as caught:
                urlopen(f"{web}health", timeout=PATIENCE)
            with caught.exception as refused:
                self.assertEqual(refused.code, 503)
                self.assertIn(problem, refused.read().decode())
            with urlopen(f"{web}status.json", timeout=PATIENCE) as reply:
                target = json.load(reply)["target"]
            self.assertEqual((target["name"], target["reachable"]), (f"127.0.0.1:{port}", False))
            with urlopen(web, timeout=PATIENCE) as reply:
                page = reply.read().decode()
            self.assertNotIn('data-show="target" hidden', page)
            self.assertIn(f'<span data-text="target.problem">{problem}', page)
            # Nobody has asked for the status.
            self.assertIn('<p class="big" data-show="!status"><span class="mark"></span>not known yet', page)
            self.assertIn('<div data-show="status" hidden>', page)
            self.assertIn("the target cannot be reached: ", through.log())
        with served("--simulate", "discos") as server, tapping(text_of(server.address), fresh=True) as through:
            with through.connect() as client, through.connect() as other:
                other.sendall(b"?version\r\n")
                other.shutdown(socket.SHUT_WR)
                self.assertEqual(read_line(other), b"!version,ok,1.4\r\n")
                self.assertEqual(other.recv(100), b"")
                self.assertEqual(server.stop(SIGTERM), 0)
                self.assertEqual(client.recv(100), b"")
            self.assertEqual(through.stop(SIGTERM), 0)
            self.assertNotIn("Traceback", through.log())


if __name__ == "__main__":
    unittest.main()
