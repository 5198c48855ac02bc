"""The program discos-backend-simctl: what it prints, its exit status, and its page's worked example."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import unittest
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM
from typing import Any

from discosbackend import __version__
from discosbackend.cli import server as server_program
from discosbackend.cli import simctl
from discosbackend.simulator.control.client import SimulatorControl
from discosbackend.simulator.control.operations import OPERATIONS

from .programs import Outcome, run_program
from .serving import ROOT, Server, ask, bare_environment, read_line, refusing, run_python, served
from .settings import PATIENCE
from .test_simulator_control import controlled
from .test_simulator_control_client import answering, until_closed

SCRIPT = ROOT / "scripts" / "discos-backend-simctl"
PAGE = ROOT / "docs" / "control.md"


def run(*arguments: str) -> Outcome:
    """Run the program in this process."""
    return run_program(simctl.main, *arguments)


class RunTests(unittest.TestCase):
    """On an instrument that is there."""

    address: str
    control: SimulatorControl

    @classmethod
    def setUpClass(cls) -> None:
        with ExitStack() as stack:
            _, cls.address = stack.enter_context(controlled())
            cls.control = stack.enter_context(SimulatorControl(cls.address, timeout=PATIENCE))
            cls.addClassCleanup(stack.pop_all().close)

    def setUp(self) -> None:
        self.control.reset()
        self.control.faults_clear()

    def asked(self, line: str) -> Outcome:
        """Run the program with this operation."""
        return run("--timeout", f"{PATIENCE:g}", self.address, *line.split())

    def done(self, line: str) -> str:
        """What it prints for a command line that is carried out."""
        status, out, err = self.asked(line)
        self.assertEqual((status, err), (0, ""))
        return out

    def test_operations(self) -> None:
        for line, path, wanted in (
            ("diode on", "sky diode", True),
            ("tsys 80 3", "sky tsys", {"3": 80.0}),
            ("mark 5 inputs=0,1", "sky mark", {"0": 5.0, "1": 5.0}),
            ("source W3 level=2", "sky sources W3 level", 2.0),
            ("clock jump -1e3", "clock offset", -1000.0),
            ("clock drift -3", "clock drift", -3.0),
            ("fault receiver too warm", "status", "receiver too warm"),
            ("fault clear", "status", "ok"),
        ):
            with self.subTest(line):
                self.assertEqual(self.done(line), "")
                found: Any = self.control.state()
                for key in path.split():
                    found = found[key]
                self.assertEqual(found, wanted)

    def test_state(self) -> None:
        for line in ("", "state"):
            printed = self.done(line)
            self.assertEqual(json.loads(printed)["instrument"], "skarab")
            self.assertIn('\n  "instrument": "skarab",\n', printed)
            self.assertTrue(printed.endswith("\n}\n"))

    def test_faults(self) -> None:
        self.assertEqual(self.done("faults add kind=late seconds=2 rate=0.1"), "1\n")
        self.assertEqual(json.loads(self.done("faults list"))[0]["seconds"], 2)
        self.assertEqual(self.done("faults remove 1"), "")
        self.assertEqual(self.done("faults list"), "[]\n")

    def test_refused(self) -> None:
        for line, told in (
            ("tsys 80 14", "input 14 is none of this instrument: it has 0 to 13"),
            ("remove W4", "no source is called 'W4': there is none"),
            ("pause", "pause is not possible: this server was not made to have it"),
        ):
            with self.subTest(line):
                self.assertEqual(self.asked(line), (1, "", f"discos-backend-simctl: {told}\n"))

    def test_the_script_of_a_checkout(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            done = run_python(SCRIPT, self.address, "diode", "on", cwd=folder, env=bare_environment(), fresh=True)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
        self.assertEqual(run_python(SCRIPT, self.address, "clock", "jump", "1e12").returncode, 1)

    def test_who_reads_no_further(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            done = run_python(SCRIPT, self.address, "state", stdout=pipe)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_an_answer_that_cannot_be_written_is_no_success(self) -> None:
        with open("/dev/full", "wb") as full:
            done = run_python(SCRIPT, self.address, "state", stdout=full)
        told = "discos-backend-simctl: cannot write the answer to standard output: No space left on device\n"
        self.assertEqual((done.returncode, done.stderr), (1, told))

    def test_help_that_cannot_be_written(self) -> None:
        for words in (["5", "--help"], ["5", "diode", "--help"]):
            with self.subTest(words):
                with open("/dev/full", "wb") as full:
                    done = run_python(SCRIPT, *words, stdout=full)
                told = "discos-backend-simctl: cannot write the answer to standard output: No space left on device\n"
                self.assertEqual((done.returncode, done.stderr), (1, told))

    def test_without_a_standard_output(self) -> None:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, str(SCRIPT), self.address, "state"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


class CommandLineTests(unittest.TestCase):
    def test_nobody_there(self) -> None:
        with refusing() as port:
            status, out, err = run(str(port), "diode", "on")
        self.assertEqual((status, out, len(err.splitlines())), (1, "", 1))
        self.assertIn(f"nothing is controlled at 127.0.0.1:{port}: Connection refused: was the server", err)

    def test_nothing_that_a_terminal_obeys(self) -> None:
        for answer in (b'{"error": "a\\u009b2J\\u001b[2J\\nb"}\n', b'{"error": "a\xc2\x9b2J"}\n', b"\xc2\x9b2J\n"):

            def script(peer: socket.socket, answer: bytes = answer) -> None:
                peer.recv(65536)
                peer.sendall(answer)

            with self.subTest(answer), answering(script) as port:
                status, out, err = run(str(port), "diode", "on")
                self.assertEqual((status, out), (1, ""))
                self.assertRegex(err, r"^discos-backend-simctl: .*\n\Z")
                self.assertTrue(err[:-1].isprintable(), err)

    def test_no_answer(self) -> None:
        with answering(until_closed) as port:
            status, out, err = run("--timeout", "0.05", str(port), "diode", "on")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("within 0.05 s", err)

    def test_wrong_command_lines(self) -> None:
        for line, told in (
            ("5 diod on", "no operation is called 'diod': did you mean diode?"),
            ("5 diode", "diode needs on: on or off"),
            ("5 tsys nan", "kelvin must be a finite number in K, not nan"),
            ("5 faults add kind=lat seconds=2 rate=1", "did you mean late?"),
            ("0.0.0.0:5 state", "is not this host's own"),
            ("example.org:5 state", "is not this host's own"),
            ("diode on", "'diode' is no address of a control: say a port such as 4321, or the path of"),
            ("5 --timeout 3 state", "--timeout: write options before ADDRESS"),
            ("--timeout 0 5 state", "'0' is not a number of seconds above 0"),
            ("--timeout nan 5 state", "'nan' is not a number of seconds above 0"),
            ("", "the following arguments are required: ADDRESS"),
        ):
            with self.subTest(line):
                status, out, err = run(*line.split())
                self.assertEqual((status, out), (2, ""))
                self.assertIn(told, err.splitlines()[-1])
                self.assertTrue(err.splitlines()[-1].startswith("discos-backend-simctl: "))

    def test_help(self) -> None:
        for arguments in (["--help"], ["5", "--help"], ["5", "-h"]):
            status, out, err = run(*arguments)
            self.assertEqual((status, err), (0, ""))
            for row in OPERATIONS.values():
                self.assertRegex(out, rf"(?m)^  {row.words} +{re.escape(row.help)}$")

    def test_help_of_an_operation(self) -> None:
        for row in OPERATIONS.values():
            with self.subTest(row.name):
                status, out, err = run("5", *row.words.split(), "--help")
                self.assertEqual((status, err), (0, ""))
                self.assertTrue(out.startswith(f"discos-backend-simctl ADDRESS {row.usage}\n\n{row.help}\n"))
                for parameter in row.parameters:
                    self.assertRegex(out, rf"(?m)^  {parameter.name} +{re.escape(parameter.expected)}")

    def test_the_examples_are_understood(self) -> None:
        page = PAGE.read_text(encoding="utf-8")
        lines = re.findall(r"(?m)^discos-backend-simctl (\S.*)$", page)
        lines += [line.partition("  ")[0] for line in re.findall(r"%\(prog\)s (\S.*)", simctl.EXAMPLES)]
        self.assertGreater(len(lines), 10)
        for line in lines:
            with self.subTest(line):
                # Understood, and then nobody is there.
                _, *words = line.split()
                self.assertEqual(run("/nonesuch/control.sock", *words)[0], 1)

    def test_version(self) -> None:
        self.assertEqual(run("--version"), (0, f"discos-backend-simctl {__version__}\n", ""))


class ServedTests(unittest.TestCase):
    """The server program with --control, and the protocol beside it."""

    def control_of(self, server: Server) -> str:
        self.assertNotEqual(server.announced, "", server.log())
        line = server.next_line()
        found = re.fullmatch(r"discosbackend: controlled at (127\.0\.0\.1:\d+)", line)
        assert found is not None, line + server.log()
        return found[1]

    def test_the_worked_example(self) -> None:
        page = PAGE.read_text(encoding="utf-8")
        (code,) = re.findall(r"```python file=measure_tsys\.py\n(.*?)```", page, re.DOTALL)
        with (
            tempfile.TemporaryDirectory() as folder,
            served("--simulate", "skarab", "--control", "0", "--no-data") as server,
        ):
            Path(folder, "measure_tsys.py").write_text(code, encoding="utf-8")
            where = (f"127.0.0.1:{server.address[1]}", self.control_of(server))
            done = run_python("measure_tsys.py", *where, cwd=folder)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            measured = re.findall(r"^input (\d+): (\S+) K$", done.stdout, re.MULTILINE)
            self.assertEqual([int(number) for number, _ in measured], list(range(14)))
            for _, kelvin in measured:
                # The gain drifts by 0.2 % in minutes; between the measurements there are hardly seconds.
                self.assertAlmostEqual(float(kelvin), 80.0, delta=2.0)

    def test_a_pause_and_a_fault(self) -> None:
        with served("--simulate", "sardara", "--control", "0", "--no-data") as server:
            address = self.control_of(server)
            with server.connect() as connection, SimulatorControl(address, timeout=PATIENCE) as control:
                control.fault("receiver warm")
                self.assertRegex(ask(connection, b"?status")[0], rb"^!status,ok,[\d.]+,receiver warm,0\r\n$")
                control.pause()
                connection.sendall(b"?time\r\n?get-configuration\r\n")
                connection.settimeout(0.2)
                with self.assertRaises(TimeoutError):
                    connection.recv(1)
                self.assertTrue(control.state()["paused"])
                connection.settimeout(PATIENCE)
                control.resume()
                replies = ask(connection, b"?get-integration")
                replies += [read_line(connection), read_line(connection)]
                names = [reply.split(b",")[0] for reply in replies]
                self.assertEqual(names, [b"!time", b"!get-configuration", b"!get-integration"])
            self.assertEqual(server.stop(SIGTERM), 0, server.log())

    def test_an_address_that_others_could_reach(self) -> None:
        for address, told in (("0.0.0.0:0", "is not this host's own"), ("control", "is no address of")):
            with self.subTest(address):
                found = run_program(server_program.main, "--port", "0", "--no-data", "--control", address)
                self.assertEqual((found.status, found.out), (1, ""))
                self.assertIn(told, found.err.splitlines()[-1])


if __name__ == "__main__":
    unittest.main()
