"""The shell of the client: what each line does, and the screens of a user in a pseudo-terminal."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shlex
import socketserver
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

from discosbackend._version import __version__
from discosbackend.client import Client
from discosbackend.client import command_line as program
from discosbackend.client import shell as shell_module
from discosbackend.client.layout import as_json, date_of, laid_out, painted
from discosbackend.client.shell import Leave, Shell
from discosbackend.client.words import SHELL_WORDS
from discosbackend.commands import COMMANDS
from discosbackend.errors import NoReply
from discosbackend.grammar import Message, parse_message
from discosbackend.ticks import Ticks

from .programs import run_program
from .serving import ROOT, bare_environment
from .settings import PATIENCE, wait_until
from .terminal import Terminal

HAS_TOOLKIT = importlib.util.find_spec("prompt_toolkit") is not None
HAS_SHTAB = importlib.util.find_spec("shtab") is not None

REPLIES = {
    "time": "ok,1795466385.7947171",
    "status": "ok,1795466385.7947171,ok,0",
    "get-tpi": "ok,412.5,398.25",
    "get-filename": "ok,/a\\,b",
    "set-configuration": "fail,invalid configuration",
}


class Handler(socketserver.StreamRequestHandler):
    """A connection. `get-rms` is never answered, a command without an entry in REPLIES with `ok`."""

    server: Server

    def handle(self) -> None:
        self.server.connections += 1
        self.wfile.write(b"!version,ok,1.4\r\n")
        while line := self.rfile.readline():
            request = parse_message(line.decode().rstrip("\r\n"))
            self.server.received.append(str(request))
            if request.name != "get-rms":
                self.wfile.write(f"!{request.name},{REPLIES.get(request.name, 'ok')}\r\n".encode())


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.connections = 0
        self.received: list[str] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class ServedTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = Server()
        self.server.thread.start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.thread.join)
        self.addCleanup(self.server.shutdown)


class Answering(Client):
    """A client without a connection."""

    def __init__(self) -> None:  # there is no server
        self.sent: list[str] = []

    def exchange(self, request: Message) -> Message:
        if len(self.sent) > 20:
            raise KeyboardInterrupt
        self.sent.append(str(request))
        return parse_message(f"!{request.name},{REPLIES.get(request.name, 'ok')}")


class ShellTests(unittest.TestCase):
    def setUp(self) -> None:
        self.said: list[str] = []
        self.slept: list[float] = []
        self.client = Answering()
        self.shell = Shell(self.client, self.said.append, sleep=self.slept.append)

    def execute(self, line: str) -> str:
        self.said.clear()
        self.client.sent.clear()
        self.worked = self.shell.execute(line)
        return "\n".join(self.said)

    def test_a_reply_by_its_fields(self) -> None:
        for line, sent, said in (
            (
                "status",
                ["?status"],
                "timestamp  2026-11-23 20:39:45.7947171 UTC\nstatus     ok\nacquiring  no",
            ),
            ("get-tpi 0 0", ["?get-tpi,0,0"], "tpi  412.5  398.25 counts"),
            ("?get-tpi,0,0", ["?get-tpi,0,0"], "tpi  412.5  398.25 counts"),
            ("get-filename", ["?get-filename"], "path  /a,b"),
            ("stop", ["?stop"], "ok"),
            ("set-filename 'a b'", ["?set-filename,a b"], "ok"),
            ("set-configuration XX", ["?set-configuration,XX"], "fail: invalid configuration"),
            ("start 1795466385.5", ["?start,1795466385.5"], "ok"),
            ("start +5s", ["?time", "?start,17954663907947171"], "start at 2026-11-23 20:39:50.7947171 UTC\nok"),
            ("start +1.5ms", ["?time", "?start,17954663857962171"], "start at 2026-11-23 20:39:45.7962171 UTC\nok"),
            ("stop 2026-11-23T20:39:45.5Z", ["?stop,17954663855000000"], "ok"),
            ("stop 2026-11-23T21:39:45+01:00", ["?stop,17954663850000000"], "ok"),
            ("", [], ""),
            ("# status", [], ""),
        ):
            with self.subTest(line):
                self.assertEqual((self.execute(line), self.client.sent), (said, sent))
                self.assertEqual(self.worked, not said.startswith("fail"))

    def test_what_is_refused(self) -> None:
        for line, said in (
            ("start '2026-11-23 25:00'", "error: '2026-11-23 25:00' is not a time: write +5s"),
            ("set-filename 'a", "error: no closing quotation: quotes must be closed"),
            ("repeat", "error: repeat needs a previous request"),
            ("repeat x", "error: repeat needs"),
            ("watch start", "error: watch needs a command that changes nothing: status, "),
            ("watch", "error: watch needs a command that changes nothing"),
            ("watch status soon", "error: 'soon' is not a number of seconds"),
            ("watch status 0", "error: '0' is not a number of seconds"),
            ("help strat", "error: no help for 'strat': did you mean start?"),
            ("?set-filename,", "error: '?set-filename,' is not a request: argument 1 is empty"),
        ):
            with self.subTest(line):
                self.assertIn(said, self.execute(line))
                self.assertEqual((self.worked, self.client.sent), (False, []))

    def test_a_word_that_looks_misspelt_is_sent_with_a_note(self) -> None:
        said = self.execute("strat")
        self.assertEqual((said, self.client.sent), (
            "note: strat is no command of the protocol: did you mean start?\nok", ["?strat"]))  # fmt: skip

    def test_watch_and_repeat(self) -> None:
        with self.assertRaises(KeyboardInterrupt):
            self.execute("watch status 0.5")
        self.assertEqual((len(self.client.sent), set(self.client.sent), set(self.slept)), (21, {"?status"}, {0.5}))
        line = "timestamp  2026-11-23 20:39:45.7947171 UTC  status     ok  acquiring  no"
        self.assertEqual(set(self.said), {line})
        self.slept.clear()
        with self.assertRaises(KeyboardInterrupt):
            self.execute("watch get-tpi 0 0")
        self.assertEqual((set(self.client.sent), set(self.slept)), ({"?get-tpi,0,0"}, {1.0}))
        self.execute("set-shift 1")
        self.execute("repeat 3")
        self.assertEqual(self.client.sent, 3 * ["?set-shift,1"])
        self.execute("repeat")
        self.assertEqual(self.client.sent, ["?set-shift,1"])

    def test_help(self) -> None:
        for line in ("?", "help"):
            for name in (*COMMANDS, "watch COMMAND", "repeat [TIMES]", "+5s"):
                self.assertIn(name, self.execute(line))
        for line in ("help start", "? start", "start ?"):
            self.assertEqual(
                self.execute(line),
                "start [timestamp]\n  Start acquiring now, or at the given time.\n  timestamp: +5s (also ms, min, h) "
                "after the backend's clock, a date such as 2026-11-30T12:00:05Z, or Unix seconds, may be left out",
            )
        self.assertIn("\nreply:\n  tpi: float, counts, one per input", self.execute("help get-tpi"))
        self.assertIn("  bandwidth: a finite decimal number in MHz, or *", self.execute("help set-section"))
        for line in ("quit", "exit"):
            self.assertRaises(Leave, self.execute, line)

    def test_completion(self) -> None:
        for before, words in (
            ("sta", ["status", "start"]),
            ("watch sta", ["status"]),
            ("help sta", ["status", "start"]),
            ("start ", ["+5s"]),
            ("start +5s ", []),
            ("set-section ", ["*"]),
            ("set-section * * * * * * * ", []),
            ("rep", ["repeat"]),
            ("unknown ", []),
        ):
            with self.subTest(before):
                self.assertEqual([found.word for found in self.shell.completions(before)], words)
        self.assertEqual(len(self.shell.completions("")), len(COMMANDS) + 5)
        self.assertEqual(self.shell.completions("stat")[0].replaces, 4)

    def test_nothing_that_a_terminal_obeys(self) -> None:
        for reply in ("!status,fail,a\x9b2J", "!get-configuration,ok,a\x9b2J", "!own,ok,a\x9b2J", "!time,ok,\x9b"):
            message = parse_message(reply)
            shown = laid_out(message, COMMANDS.get(message.name))
            self.assertIn("\\x9b", shown, reply)
            self.assertTrue(shown.replace("\n", "").isprintable(), reply)
            self.assertTrue(as_json(message, COMMANDS.get(message.name)).isprintable())
        with mock.patch.object(self.client, "exchange", side_effect=NoReply("odd: a\x9b2J")):
            self.assertEqual(self.execute("status"), "error: odd: a\\x9b2J")

    def test_json(self) -> None:
        for line, wanted in (
            (
                "!status,ok,1795466385.7947171,ok,0",
                {"values": {"timestamp": "2026-11-23T20:39:45.7947171Z", "status": "ok", "acquiring": False}},
            ),
            ("!get-tpi,ok,1.5,2", {"values": {"tpi": [1.5, 2.0]}}),
            ("!own,ok,1.5", {"values": ["1.5"]}),
            ("!stop,ok", {"values": {}}),
            ("!stop,fail,no", {"reason": "no"}),
            ("!time,ok,x", {"values": ["x"], "problem": mock.ANY}),
        ):
            message = parse_message(line)
            head = {"command": message.name, "code": message.code}
            self.assertEqual(json.loads(as_json(message, COMMANDS.get(message.name))), {**head, **wanted})
        self.assertEqual(date_of(Ticks(10**19)), "1000000000000.0000000")
        self.assertEqual(painted("fail", "red"), "\x1b[1;31mfail\x1b[0m")


class ProgramTests(ServedTests):
    def run_it(self, *arguments: str, lines: str = "") -> tuple[int, str, str]:
        with mock.patch("sys.stdin", io.StringIO(lines)):
            return run_program(program.main, *arguments)

    def test_lines_of_standard_input(self) -> None:
        lines = "status\nset-configuration XX\nwatch start\nget-tpi\n"
        for arguments in (["-"], []):
            status, out, err = self.run_it(self.server.address, *arguments, "--json", lines=lines)
            self.assertEqual([json.loads(line)["code"] for line in out.splitlines()], ["ok", "fail", "ok"])
            self.assertEqual(status, 1)
            self.assertIn("error: watch needs a command that changes nothing", err)
        self.assertEqual(self.run_it(self.server.address, "-", lines="stop\nquit\nstart\n"), (0, "ok\n", ""))

    def test_the_address_of_the_environment(self) -> None:
        with mock.patch.dict(os.environ, {"DISCOS_BACKEND": self.server.address}):
            self.assertEqual(self.run_it("get-tpi", "0", "0"), (0, "!get-tpi,ok,412.5,398.25\n", ""))
            self.assertEqual(self.run_it("?stop")[:2], (0, "!stop,ok\n"))
            self.assertEqual(self.run_it("-", lines="stop\n")[:2], (0, "ok\n"))
            self.assertIn("'127.0.0.1' is not HOST:PORT", self.run_it("127.0.0.1", "status")[2])
        with mock.patch.dict(os.environ, {"DISCOS_BACKEND": "::1:1"}):
            self.assertIn("DISCOS_BACKEND: '::1:1' is not HOST:PORT; write an IPv6", self.run_it("status")[2])

    def test_one_request(self) -> None:
        self.assertEqual(self.run_it(self.server.address, "start", "+5s"), (0, "!start,ok\n", ""))
        self.assertEqual(self.server.received, ["?time", "?start,17954663907947171"])
        status, out, _ = self.run_it("--json", self.server.address, "set-configuration", "XX")
        self.assertEqual((status, json.loads(out)["reason"]), (1, "invalid configuration"))

    @unittest.skipUnless(HAS_SHTAB, "needs shtab: pip install 'discosbackend[shell]'")
    def test_completion_files(self) -> None:
        for shell in ("bash", "zsh"):
            status, out, err = self.run_it("--print-completion", shell)
            self.assertEqual((status, err), (0, ""))
            for word in ("discos-backend-client", "set-configuration", "--timeout"):
                self.assertIn(word, out)
        # bash reads it, and completes a command with it.
        script = f"{self.run_it('--print-completion', 'bash')[1]}\ncomplete -p discos-backend-client"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        # The file is for the installed program, by whatever name it was printed.
        self.assertEqual(
            run_program(lambda argv: program.main(argv, "a b"), "--print-completion", "bash").out,
            script.rpartition("\ncomplete -p")[0],
        )
        with mock.patch.dict("sys.modules", {"shtab": None}):
            status, _, err = self.run_it("--print-completion", "bash")
        self.assertEqual(status, 2)
        self.assertIn("needs shtab: pip install 'discosbackend[shell]'", err)

    @unittest.skipUnless(HAS_SHTAB, "needs shtab: pip install 'discosbackend[shell]'")
    def test_completion_in_bash(self) -> None:
        """Of command lines as bash splits them: at each colon that is not quoted."""
        address = ["127.0.0.1", ":", "8978"]
        cases: tuple[tuple[str, list[str], list[str]], ...] = (
            ("", [*address, "set-conf"], ["set-configuration"]),
            ("", [*address, "get-t"], ["get-tpi", "get-tp0"]),
            ("", ["'[::1]:8978'", "stat"], ["status"]),
            ("", ["--timeout", "5", *address, "stat"], ["status"]),
            ("", ["--json", "[", "::", "1]", ":", "8978", "stat"], ["status"]),
            ("127.0.0.1:8978", ["set-conf"], ["set-configuration"]),
            ("127.0.0.1:8978", ["--timeout", "5", "stat"], ["status"]),
            ("127.0.0.1:8978", [*address, "stat"], ["status"]),
            ("127.0.0.1:8978", ["--js"], ["--json"]),
            ("", ["set-conf"], []),
            ("", ["--js"], ["--json"]),
        )
        script = self.run_it("--print-completion", "bash")[1]
        for variable, words, _ in cases:
            array = shlex.join(["discos-backend-client", *words])
            script += f"\nDISCOS_BACKEND={variable}; COMP_WORDS=({array}); COMP_CWORD={len(words)}\n"
            # compopt is only possible during a completion.
            script += 'COMPREPLY=(); _discos_backend_client discos-backend-client 2>/dev/null; echo "${COMPREPLY[*]}"\n'
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                ["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=folder
            )
        self.assertEqual(done.stderr, "")
        self.assertEqual([line.split() for line in done.stdout.splitlines()], [wanted for *_, wanted in cases])

    def test_words_of_the_shell(self) -> None:
        """They are not sent by mistake. As complete requests they are."""
        self.assertEqual(set(SHELL_WORDS), {*shell_module._OWN, "exit"})
        for word in (*SHELL_WORDS, "?"):
            with self.subTest(word):
                status, out, err = self.run_it(self.server.address, word, "status")
                self.assertEqual((status, out, self.server.received), (2, "", []))
                self.assertIn(f"error: {word} is a word of the shell, and not sent: start the shell", err)
        self.assertEqual(self.run_it(self.server.address, "?help"), (0, "!help,ok\n", ""))

    def test_help_is_not_a_reply(self) -> None:
        """With --json, standard output has lines of JSON only."""
        lines = "help\nhelp start\nhelp watch\nstop\n"
        status, out, err = self.run_it("--json", self.server.address, "-", lines=lines)
        self.assertEqual(status, 0)
        self.assertEqual([json.loads(line)["command"] for line in out.splitlines()], ["stop"])
        self.assertIn("start [timestamp]\n", err)
        self.assertIn("start [timestamp]\n", self.run_it(self.server.address, "-", lines=lines)[1])


class PageTests(ServedTests):
    """What docs/clients.md shows is what the program does."""

    PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")

    def test_the_lines_for_a_shell(self) -> None:
        """Each line succeeds, except that the server of this test refuses every configuration."""
        (block,) = re.findall(r"```sh\n(discos-backend-client [^`]*set-configuration.*?)```", self.PAGE, re.DOTALL)
        seen = []
        with mock.patch.dict(os.environ):
            for line in block.replace("127.0.0.1:8978", self.server.address).splitlines():
                words = shlex.split(line.replace("[::1]:8978", self.server.address))
                if words[0] == "export":
                    name, _, value = words[1].partition("=")
                    os.environ[name] = value
                    continue
                if "<" in words:
                    words = words[: words.index("<")]
                with mock.patch("sys.stdin", io.StringIO("status\nstop\n")):
                    status, out, _ = run_program(program.main, *words[1:])
                self.assertEqual(status, int("set-configuration" in words), line)
                seen.append(out)
        self.assertEqual(len(seen), 5)
        self.assertIn(seen[2], self.PAGE, "the JSON")

    def test_the_session(self) -> None:
        (block,) = re.findall(r"```text\n(127.0.0.1:8978> .*?)```", self.PAGE, re.DOTALL)
        said: list[str] = []
        shell = Shell(Answering(), said.append)
        for line in re.findall(r"^127.0.0.1:8978> (.*)$", block, re.MULTILINE):
            said.append(f"127.0.0.1:8978> {line}")
            shell.execute(line)
        self.assertEqual("\n".join(said), block.strip())


class ScriptTests(unittest.TestCase):
    def test_from_a_checkout_without_installing(self) -> None:
        command = [sys.executable, str(ROOT / "scripts" / "discos-backend-client"), "--version"]
        done = subprocess.run(
            command, env=bare_environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        self.assertEqual((done.returncode, done.stdout), (0, f"discos-backend-client {__version__}\n"))


RUN = "from discosbackend.client.command_line import main; main()"
WITHOUT = "sys.modules['prompt_toolkit'] = None; "

DIALOGUE = """\
connected to {at}; ? shows the commands
{at}> status
timestamp  2026-11-23 20:39:45.7947171 UTC
status     ok
acquiring  no
{at}> set-configuration XX
fail: invalid configuration
{at}> get-rms
{interrupt}
interrupted: the server continues to execute get-rms
{at}> get-tpi
tpi  412.5  398.25 counts
{at}> start +5s
start at 2026-11-23 20:39:50.7947171 UTC
ok
{at}>"""


class TerminalTests(ServedTests):
    """In a pseudo-terminal. A new interpreter, because the terminal belongs to a process."""

    def open(self, code: str, *arguments: str, **variables: str) -> Terminal:
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory()))
        terminal = Terminal(code, self.server.address, *arguments, home=self.home, **variables)
        self.addCleanup(terminal.close)
        return terminal

    def dialogue(self, code: str, interrupt: str, **variables: str) -> Terminal:
        terminal = self.open(code, **variables)
        prompt = f"{self.server.address}>"

        def wait_for_prompt(number: int) -> None:
            terminal.wait_for(lambda screen: screen.count(prompt) == number and screen.endswith(prompt))

        for number, line in enumerate(("status", "set-configuration XX", "get-rms", "get-tpi", "start +5s"), 1):
            wait_for_prompt(number)
            terminal.type(f"{line}\r")
            if line == "get-rms":
                wait_until(lambda: "?get-rms" in self.server.received, "get-rms")
                terminal.type("\x03")
        wait_for_prompt(6)
        self.assertEqual(terminal.screen, DIALOGUE.format(at=self.server.address, interrupt=interrupt))
        # The reply that never came belongs to the first connection.
        self.assertEqual(self.server.connections, 2)
        terminal.type("\x04")
        self.assertEqual(terminal.end(), 0)
        history = self.home / "discosbackend" / "history"
        self.assertEqual(history.stat().st_mode & 0o777, 0o600)
        for line in ("status", "start +5s"):
            self.assertIn(line, history.read_text())
        return terminal

    @unittest.skipUnless(HAS_TOOLKIT, "needs prompt_toolkit: pip install 'discosbackend[shell]'")
    def test_with_prompt_toolkit(self) -> None:
        terminal = self.dialogue(RUN, "^C")
        self.assertIn(b"\x1b[1;31mfail\x1b[0m: invalid configuration", terminal.raw)

    def test_with_readline(self) -> None:
        terminal = self.dialogue(WITHOUT + RUN, "^C", NO_COLOR="1")
        self.assertNotIn(b"\x1b[1;31m", terminal.raw)

    def test_completion(self) -> None:
        for code in ([RUN] if HAS_TOOLKIT else []) + [WITHOUT + RUN]:
            with self.subTest(code):
                terminal = self.open(code)
                terminal.wait_for(f"{self.server.address}>")
                terminal.type("get-conf\t")
                terminal.wait_for(lambda screen: "get-configuration" in screen)
                terminal.type("\r")
                terminal.wait_for(lambda screen: screen.count(">") == 2)
                self.assertEqual(self.server.received.pop(), "?get-configuration")
                terminal.type("watch status 0.01\r")
                terminal.wait_for(lambda screen: screen.count("acquiring  no") > 2)
                terminal.type("\x03")
                terminal.wait_for(f"{self.server.address}>")
                terminal.type("quit\r")
                self.assertEqual(terminal.end(), 0)


if __name__ == "__main__":
    unittest.main()
