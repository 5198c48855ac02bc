"""Tests of --print-unit: the systemd unit of a command line, its quoting, and the examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from discosbackend.cli import server
from discosbackend.cli.own_backend import CannotServe
from discosbackend.cli.unit import KINDS, Unit, quoted, this_unit
from discosbackend.server import longest_exit

from .programs import Outcome, run_program
from .serving import ROOT, SCRIPT
from .settings import PATIENCE

DEPLOY = ROOT / "examples" / "deploy"
PROGRAM = "/opt/discos-backend/.venv/bin/discos-backend-server"

# The units of examples/deploy, by their names.
EXAMPLES = {
    "discos-backend.service": Unit(
        [PROGRAM, "--backend", "mybackend:MyBackend", "--interface", "192.168.200.5"],
        "/opt/discos-backend",
        "discos",
        60.0,
        19.0,
    ),
    "discos-backend@.service": Unit([PROGRAM], "/opt/discos-backend", "discos", 60.0, 19.0, kind="template"),
}


def escaped(code: str) -> bytes:
    """What the characters behind a backslash stand for."""
    if code[0] == "x":
        return bytes.fromhex(code[1:])
    return {"n": b"\n", "t": b"\t", "r": b"\r", "\\": b"\\", '"': b'"'}[code]


def words_of(text: str) -> list[str]:
    """Split a command line as systemd.syntax(7) and systemd.service(5) say. ValueError if that changes a word."""
    words: list[bytearray] = []
    quote, inside, at = "", False, 0
    while at < len(text):
        character = text[at]
        at += 1
        if not quote and character in " \t\n\r":
            inside = False
            continue
        if not inside:
            if text[at - 1 :].partition(" ")[0] in (";", "\\;"):
                raise ValueError("another command")
            inside = True
            words.append(bytearray())
        if character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote = character
        elif character == "\\":
            length = 3 if text[at] == "x" else 1
            words[-1] += escaped(text[at : at + length])
            at += length
        elif character == "%":
            if text[at] != "%":
                raise ValueError(f"the specifier %{text[at]}")
            at += 1
            words[-1] += b"%"
        else:
            words[-1] += os.fsencode(character)
    if quote:
        raise ValueError("a quote that is not closed")
    for word in words[1:]:
        if re.search(rb"(?<!\$)(\$\$)*\$(?!\$)", word):
            raise ValueError("a variable")
    return [os.fsdecode(bytes(word)) for word in words[:1]] + [
        os.fsdecode(bytes(word)).replace("$$", "$") for word in words[1:]
    ]


def setting(unit: str, name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)
    return str(value)


def unit_with(*arguments: str, folder: str = "/opt/discos", user: str = "discos", python_path: str = "") -> str:
    return str(Unit([PROGRAM, *arguments], folder, user, 60.0, 19.0, python_path))


class QuotingTests(unittest.TestCase):
    def test_words(self) -> None:
        for word, wanted in (
            ("--port=8978", "--port=8978"),
            ("a b", '"a b"'),
            ("", '""'),
            ("50%", "50%%"),
            ("$HOME", "$$HOME"),
            ('say "no"', '"say \\"no\\""'),
            ("it's", '"it\'s"'),
            ("a\\b", '"a\\\\b"'),
            (";", '";"'),
            ("two\nlines\t", '"two\\nlines\\t"'),
            ("\x1b\udcff", '"\\x1b\\xff"'),
            ("è", '"è"'),
        ):
            with self.subTest(word):
                self.assertEqual(quoted(word), wanted)

    def test_the_path_of_the_program_has_no_variables(self) -> None:
        self.assertEqual(quoted("/opt/$x %i", variables=False), '"/opt/$x %%i"')

    def test_the_reader_of_these_tests(self) -> None:
        self.assertEqual(words_of("/p 'a b' \"c\"d $$e"), ["/p", "a b", "cd", "$e"])
        for text in ("/p ; b", "/p %i", "/p $x", "/p ${x}", '/p "a', "/p $$$x"):
            with self.subTest(text), self.assertRaises(ValueError):
                words_of(text)

    # No argument of a program has a NUL. Surrogates other than these stand for no bytes.
    @given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
    def test_every_command_line_arrives_as_it_is(self, arguments: Sequence[str]) -> None:
        unit = unit_with(*arguments)
        self.assertEqual(words_of(setting(unit, "ExecStart")), [PROGRAM, *arguments])
        self.assertEqual(len(unit.splitlines()), len(unit.split("\n")) - 1)


class TextTests(unittest.TestCase):
    def test_the_folder(self) -> None:
        self.assertEqual(setting(unit_with(folder="/my data/100%"), "WorkingDirectory"), "/my data/100%%")
        for folder in ("/a ", "/a\\", "/a\nb", "/\udcff"):
            with self.subTest(folder), self.assertRaisesRegex(CannotServe, "systemd cannot have the working folder"):
                unit_with(folder=folder)

    def test_the_search_path_of_python(self) -> None:
        self.assertNotIn("Environment", unit_with())
        path = setting(unit_with(python_path="/a $b:/c%"), "Environment")
        self.assertEqual(path, '"PYTHONPATH=/a $b:/c%%"')

    def test_root_has_to_choose_a_user(self) -> None:
        self.assertEqual(setting(unit_with(), "User"), "discos")
        unit = unit_with(user="")
        self.assertNotRegex(unit, "(?m)^(User|DynamicUser)=")
        self.assertRegex(unit, "(?m)^#DynamicUser=yes$")

    def test_times_are_whole_seconds(self) -> None:
        unit = str(Unit([PROGRAM], "/", "discos", 60.2, longest_exit(0.5)))
        self.assertEqual((setting(unit, "WatchdogSec"), setting(unit, "TimeoutStopSec")), ("61", "10"))

    def test_a_template(self) -> None:
        unit = str(Unit([PROGRAM, "--data=100%i"], "/", "discos", 60.0, 19.0, kind="template"))
        self.assertEqual(setting(unit, "ExecStart"), f"{PROGRAM} --data=100%%i --config=/etc/discos/%i.toml")

    def test_folders(self) -> None:
        def of(*files: str) -> list[str]:
            unit = str(Unit([PROGRAM], "/opt/x", "discos", 60.0, 19.0, files=files))
            return unit.partition("User=discos\n")[2].partition("Restart=")[0].splitlines()

        self.assertEqual(of(), [])
        self.assertEqual(
            of("/var/lib/discos-backend/exchanges.jsonl"),
            [
                "# systemd creates /var/lib/discos-backend, and the user of the server can write to it.",
                "StateDirectory=discos-backend",
            ],
        )
        self.assertEqual(of("/run/a/b/x.sock", "/run/a/b/y.sock")[1:], ["RuntimeDirectory=a/b"])
        (line,) = of("/run/x.sock")
        better = "Write /run/discos-backend/x.sock, and add RuntimeDirectory=discos-backend."
        self.assertEqual(line, f"# Only root can create files in /run. {better}")
        (line,) = of("/srv/x/y")
        wanted = "# The folder /srv/x has to exist, and the user of the server needs to be able to write to it."
        self.assertEqual(line, wanted)
        # Nothing of a name can become a setting.
        self.assertEqual(of("/srv/x\nUser=root/y"), [])
        for line in of("/var/lib/a %i b/y", "/run/$x/y"):
            self.assertTrue(line.startswith("# The folder "), line)

    def test_the_examples_are_what_is_printed(self) -> None:
        self.assertEqual({path.name for path in DEPLOY.glob("*.service")}, set(EXAMPLES))
        for name, unit in EXAMPLES.items():
            with self.subTest(name):
                self.assertEqual((DEPLOY / name).read_text(encoding="utf-8"), str(unit))

    @unittest.skipUnless(shutil.which("systemd-analyze"), "needs systemd-analyze, of the package systemd")
    def test_systemd_understands_them(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for kind, name, instance in (
                ("service", "discos-backend.service", "discos-backend.service"),
                ("template", "discos-backend@.service", "discos-backend@sardara.service"),
            ):
                arguments = [sys.executable, "--data", 'a "b" %i $c', "é;\n", ";"]
                unit = str(Unit(arguments, folder, "", 60.0, 19.0, folder, kind))
                Path(folder, name).write_text(unit, encoding="utf-8")
                command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"{folder}/{instance}"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
                with self.subTest(kind):
                    # Messages about other units of this host may follow.
                    self.assertNotIn(folder, done.stderr)
                    self.assertNotIn("discos", done.stderr)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    # A mistake would be found.
                    Path(folder, name).write_text(unit.replace("WatchdogSec", "WatchdogSeconds"), encoding="utf-8")
                    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
                    self.assertIn("WatchdogSeconds", done.stderr)


class ProcessTests(unittest.TestCase):
    """The unit of this process."""

    def unit(self, *arguments: str, kind: str = "service") -> Unit:
        return this_unit(arguments, kind, watchdog=60.0, stop=19.0)

    def test_the_program(self) -> None:
        beside = str(Path(sys.executable).with_name("discos-backend-server"))
        for started, wanted in (
            (os.path.relpath(SCRIPT), [sys.executable, str(SCRIPT)]),
            (beside, [beside]),
        ):
            with self.subTest(started), mock.patch.object(sys, "argv", [started]):
                with mock.patch("os.path.isfile", return_value=True):
                    self.assertEqual(self.unit("--port", "1").command, [*wanted, "--port", "1"])
        with mock.patch.object(sys, "argv", ["-c"]), self.assertRaisesRegex(CannotServe, "not started from a file"):
            self.unit()

    def test_the_option_itself_is_left_out(self) -> None:
        for arguments, wanted in (
            (["--print-unit", "--port", "1"], ["--port", "1"]),
            (["--port", "1", "--print-unit", "template"], ["--port", "1"]),
            (["--print-unit=service", "--data", "template"], ["--data", "template"]),
            (["--pri", "service", "service"], ["service"]),
            (["--simulate", "service"], ["--simulate", "service"]),
        ):
            with self.subTest(arguments), mock.patch.object(sys, "argv", [str(SCRIPT)]):
                self.assertEqual(self.unit(*arguments).command[2:], wanted)

    def test_the_environment(self) -> None:
        with mock.patch.object(sys, "argv", [str(SCRIPT)]), mock.patch.dict(os.environ, PYTHONPATH="/a:b:"):
            unit = self.unit()
        here = os.getcwd()
        self.assertEqual((unit.folder, unit.python_path), (here, f"/a:{here}/b:{here}"))

    def test_the_user(self) -> None:
        with mock.patch.object(sys, "argv", [str(SCRIPT)]):
            for number, wanted in ((0, ""), (1, "daemon"), (54321, "54321")):
                with self.subTest(number), mock.patch("os.geteuid", return_value=number):
                    self.assertEqual(self.unit().user, wanted)


class ProgramTests(unittest.TestCase):
    """The option of the program."""

    def run_program(self, *options: str) -> Outcome:
        with mock.patch.object(sys, "argv", [str(SCRIPT)]):
            return run_program(server.main, *options)

    def test_the_unit_of_a_command_line(self) -> None:
        options = ["--backend", "mine:Mine", "--stop-timeout", "20", "--command-timeout", "100"]
        found = self.run_program(*options, "--print-unit")
        self.assertEqual((found.status, found.err), (0, ""))
        self.assertEqual(words_of(setting(found.out, "ExecStart")), [sys.executable, str(SCRIPT), *options])
        self.assertEqual(setting(found.out, "WatchdogSec"), "100")
        self.assertEqual(setting(found.out, "TimeoutStopSec"), "87")
        self.assertEqual(setting(found.out, "Type"), "notify")

    def test_the_files_of_the_options(self) -> None:
        options = ["--record", "x.jsonl", "--listen", "unix:/run/d\\:e/s:mode=660", "--control", "/run/c/control"]
        with mock.patch("discosbackend.cli.unit.Unit", side_effect=Unit) as made:
            found = self.run_program(*options, "--print-unit")
        self.assertEqual((found.status, found.err), (0, ""))
        recording, *sockets = made.call_args.args[-1]
        self.assertEqual((os.path.isabs(recording), os.path.basename(recording)), (True, "x.jsonl"))
        self.assertEqual(sockets, ["/run/d:e/s", "/run/c/control"])
        self.assertIn("\nRuntimeDirectory=c\n", found.out)
        with mock.patch("discosbackend.cli.unit.Unit", side_effect=Unit) as made:
            self.run_program("--control", "4321", "--print-unit")
        self.assertEqual(made.call_args.args[-1], [])

    def test_a_template(self) -> None:
        found = self.run_program("--print-unit", "template")
        self.assertIn("--config=/etc/discos/%i.toml\n", found.out)
        self.assertEqual(KINDS, ("service", "template"))

    def test_what_is_refused(self) -> None:
        for status, text, *options in (
            (2, "not allowed with argument --list", "--list", "--print-unit"),
            (2, "invalid choice: 'socket'", "--print-unit", "socket"),
            (2, "leave out --config", "--print-unit", "template", "--config", str(DEPLOY / "sardara.toml")),
            (2, "'x' is not a port", "--print-unit", "--port", "x"),
            (2, "leave it out with --backend", "--print-unit", "--backend", "a:b", "--sky", "x"),
        ):
            with self.subTest(options):
                found = self.run_program(*map(str, options))
                self.assertEqual((found.status, found.out), (status, ""))
                self.assertIn(str(text), found.err)


if __name__ == "__main__":
    unittest.main()
