"""The documents say what is so: their code runs, their links lead somewhere, their tables are the program's.

A block of code is marked `python run` when it is to be run, `text output` when it is what the block before it
prints, `text session` when the simulated instrument is to answer so, and `python file=NAME` when a test below
makes a file of it.
"""

from __future__ import annotations

import contextlib
import doctest
import functools
import importlib.util
import inspect
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import types
import unittest
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable
from enum import Enum
from itertools import pairwise
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple, cast
from unittest import mock

from twisted.application.service import MultiService
from twisted.internet.defer import fail
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock

import discosbackend
from discosbackend.annotations import arguments_of
from discosbackend.client import Client
from discosbackend.commands import COMMANDS, Argument
from discosbackend.errors import NoReply
from discosbackend.grammar import Message, parse_message
from discosbackend.handlers import AlwaysOkHandler, DBProtocolHandler
from discosbackend.protocol import DBFactory
from discosbackend.service import DBService
from discosbackend.testing.profile import Profile

from .in_memory import Connection, quiet
from .serving import ROOT, Server, ask, bare_environment, run_python, served
from .settings import PATIENCE, wait_until

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, ROOT / "SECURITY.md", *PAGES]

_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?:(?!\1).)+?\1", re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]: *(\S+)$", re.MULTILINE)


def setUpModule() -> None:
    quiet()


class Block(NamedTuple):
    """A block of code: its document, the words behind the fence, and the code."""

    document: Path
    words: list[str]
    code: str

    @property
    def name(self) -> str:
        return f"{self.document.name}: {self.code.strip().splitlines()[0]}"


def blocks(document: Path) -> list[Block]:
    found = _FENCE.findall(document.read_text(encoding="utf-8"))
    return [Block(document, words.split(), textwrap.dedent(code)) for _, words, code in found]


@functools.cache
def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


@functools.cache
def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(document)):
        slug = plain = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while slug in found:
            number += 1
            slug = f"{plain}-{number}"
        found.add(slug)
    return found


def file_in_the_docs(name: str) -> str:
    """The code of the block that is marked `python file=NAME`."""
    found = [block.code for page in PAGES for block in blocks(page) if f"file={name}" in block.words]
    assert len(found) == 1, f"{name} stands {len(found)} times in the docs"
    return found[0]


def file_in_the_readme(name: str) -> str:
    """The code of the block behind "Write `NAME`:"."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"Write `{re.escape(name)}`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert found, f"README does not say: write {name}"
    return found[1]


def temporary_folder(case: unittest.TestCase) -> Path:
    """A folder that goes away with the test."""
    folder = tempfile.mkdtemp()
    case.addCleanup(shutil.rmtree, folder)
    return Path(folder)


def run(command: list[str], folder: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program of Python in a folder, with the checkout as what is installed unless there is another environment.

    It is a forked process (see forking.py) if the environment allows it.
    """
    interpreter, *arguments = command
    assert interpreter == sys.executable, command
    return run_python(*arguments, cwd=folder, env=env)


def on_any_port(code: str, text: str) -> str:
    """The code with a free port in the place of 8978, where `text` says it."""
    assert code.count(text) == 1, f"{text} stands {code.count(text)} times in {code}"
    return code.replace(text, text.replace("8978", "0"))


def options_of(parser: ArgumentParser) -> dict[str, object]:
    """The long options of a parser, with their defaults."""
    return {
        name: action.default for action in parser._actions for name in action.option_strings if name.startswith("--")
    }


class GeneratedPartsTests(unittest.TestCase):
    generate: types.ModuleType

    @classmethod
    def setUpClass(cls) -> None:
        spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
        assert spec is not None and spec.loader is not None
        cls.generate = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(cls.generate)

    def setUp(self) -> None:
        self.root = temporary_folder(self)
        for name in self.generate.PARTS:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)

    def run_it(self, *arguments: str) -> tuple[int, str]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = self.generate.main(arguments, self.root)
        return status, said.getvalue()

    def test_up_to_date(self) -> None:
        self.assertEqual({str(path) for path in self.generate.out_of_date()}, set())

    def test_limits_and_choices_are_shown(self) -> None:
        mode = Enum("mode", {"FAST": "fast", "SLOW": "slow"})
        for argument, line in (
            (Argument("a", "float", minimum=-80, maximum=0.5), "float, not below -80, not above 0.5"),
            (Argument("a", "integer", choices=(8, 16)), "integer, `8` or `16`"),
            (
                Argument("a", "text", optional=True, choices=mode, default=mode["SLOW"]),
                "text, `fast` or `slow`, may be left out, which means slow",
            ),
        ):
            with self.subTest(line):
                self.assertIn(f"1, `a`: {line}. A wrong value: `fail`, `wrong a", self.generate._argument(1, argument))

    def test_from_a_checkout_without_installing(self) -> None:
        command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
        done = run(command, self.root, bare_environment())
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_a_file_that_is_out_of_date(self) -> None:
        for name in self.generate.PARTS:
            with self.subTest(name):
                path = self.root / name
                right = path.read_text(encoding="utf-8")
                stale = re.sub(r"(generated by docs/generate.py(?: -->)?\n)", r"\1\nstale\n", right)
                path.write_text(stale, encoding="utf-8")
                status, said = self.run_it("--check")
                self.assertEqual(status, 1)
                self.assertIn(str(path), said)
                self.assertEqual(path.read_text(encoding="utf-8"), stale)
                self.assertEqual(self.run_it()[0], 0)
                self.assertEqual(self.run_it("--check"), (0, ""))

    def test_only_what_stands_between_the_markers_is_written(self) -> None:
        path = self.root / "README.md"
        begin, end = self.generate.BEGIN.format("commands"), self.generate.END.format("commands")
        path.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
        self.assertEqual(self.run_it()[0], 0)
        written = path.read_text(encoding="utf-8")
        self.assertTrue(written.startswith(f"before\n{begin}\n"))
        self.assertTrue(written.endswith(f"{end}\nafter\n"))
        self.assertNotIn("old", written)

    def test_markers_that_are_missing(self) -> None:
        (self.root / "README.md").write_text("nothing\n", encoding="utf-8")
        with self.assertRaisesRegex(ValueError, "README.md"):
            self.run_it("--check")

    def test_an_option_that_is_none(self) -> None:
        self.assertEqual(self.run_it("--chekc")[0], 2)

    def test_every_command_has_its_heading(self) -> None:
        page = ROOT / "docs" / "protocol.md"
        headings = re.findall(r"^#### (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        self.assertEqual(headings, list(COMMANDS))
        table = re.findall(r"^\| \[`([^`]+)`\]", README.read_text(encoding="utf-8"), re.MULTILINE)
        self.assertEqual(table, list(COMMANDS))

    def test_what_a_section_says(self) -> None:
        # From protocol sections 4 and 5, written out by hand.
        wanted = {
            "status": [
                "?status\n",
                "!status,ok,<timestamp>,<status>,<acquiring>\n",
                "The `ok` reply to `status` carries `timestamp`, `status` and `acquiring`.",
                "With 1 or more arguments: `fail`, `status needs no arguments`.",
                "Lane: reads. Time limit: the default. Method: `status()`. Since: 1.0.",
            ],
            "version": ["Method: none, the server answers it."],
            "set-configuration": ["With 0 arguments: `fail`, `missing argument: configuration`; with"],
            "set-integration": ["integer (ms), not below 0", "`integration time must be an integer number`"],
            "get-tpi": [
                "?get-tpi[,<frequency>,<bandwidth>]\n",
                "!get-tpi,ok,<tpi>[,...]\n",
                "1 argument, or more than 2: `fail`, `get-tpi needs 0 or 2 arguments`",
            ],
            "start": ["?start[,<timestamp>]\n", "With more than 1 argument: `fail`, `start needs at most 1 arguments`"],
            "stop": ["A wrong value: `fail`, `wrong timestamp '<text>'`."],
            "set-section": [
                "?set-section,<section>,<start-frequency>,<bandwidth>,<feed>,<mode>,<sample-rate>,<bins>\n",
                "2, `start-frequency`: float (MHz), or `*`. A wrong value: `fail`, `wrong parameter format`.",
                "With any number of arguments but 7: `fail`, `set-section needs 7 arguments`",
                "Lane: device.",
            ],
            "cal-on": ["may be left out, which means 0", "`interleave samples must be a positive int`"],
            "set-filename": ["With 0 arguments: `fail`, `command needs <filename> as argument`"],
            "convert-data": ["Lane: files. Time limit: 3600 s.", "Since: 1.2."],
            "set-enable": ["With any number of arguments but 2: `fail`, `set-enable needs 2 arguments`", "Since: 1.3."],
            "backend-park": ["Method: `park()`."],
            "set-shift": ["With 0 arguments, or more than 1: `fail`, `set-shift needs 1 argument`"],
            "get-filename": ["Lane: reads."],
        }
        page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
        reference = page.partition(self.generate.BEGIN.format("commands"))[2].partition("<!-- /commands -->")[0]
        sections = dict(part.split("\n", 1) for part in reference.split("\n#### ")[1:])
        for name, texts in wanted.items():
            for text in texts:
                with self.subTest(name, text=text):
                    self.assertIn(text, sections[name])


class CodeTests(unittest.TestCase):
    def test_every_block_of_python_compiles(self) -> None:
        every = [block for document in DOCUMENTS for block in blocks(document)]
        found = [block for block in every if block.words[:1] == ["python"]]
        self.assertGreater(len(found), 15)
        for block in found:
            with self.subTest(block.name):
                compile(block.code, str(block.document), "exec")

    def test_what_is_marked_to_run_runs_and_prints_what_follows(self) -> None:
        marked = 0
        for document in DOCUMENTS:
            found = blocks(document)
            for number, block in enumerate(found, 1):
                if block.words != ["python", "run"]:
                    continue
                marked += 1
                with self.subTest(block.name):
                    following = found[number : number + 1]
                    wanted = "".join(next.code for next in following if next.words == ["text", "output"])
                    code = compile(block.code, block.name, "exec")
                    printed = io.StringIO()
                    with contextlib.redirect_stdout(printed):
                        exec(code, {"__name__": "docs"})  # it is what is tested
                    self.assertEqual(printed.getvalue(), wanted)
        self.assertGreater(marked, 5)

    def test_sessions_are_answered_as_they_are_written(self) -> None:
        from discosbackend.simulator import SimulatedBackend

        found = [block for page in PAGES for block in blocks(page) if block.words == ["text", "session"]]
        self.assertTrue(found)
        for block in found:
            with self.subTest(block.name):
                clock = Clock()
                connection = Connection(
                    DBFactory(DBProtocolHandler(SimulatedBackend(clock=clock), reactor=clock), reactor=clock)
                )
                played = [f"< {connection.received().decode().rstrip()}"]
                for line in block.code.splitlines():
                    if line.startswith("> "):
                        reply = connection.ask(line[2:].encode() + b"\r\n")
                        played += [line, f"< {reply.decode().rstrip()}"]
                self.assertEqual(played, block.code.splitlines())


class DocstringTests(unittest.TestCase):
    """The section Examples of a docstring runs, and prints what it says."""

    def run_examples(self, documented: Callable[..., object], replaced: tuple[str, str] | None = None) -> None:
        """Run the examples of a class or function, with one text in them replaced by another, such as a port."""
        _, heading, examples = (inspect.getdoc(documented) or "").partition("\nExamples\n--------\n")
        self.assertTrue(heading, f"{documented.__name__} has no section Examples")
        if replaced is not None:
            old, new = replaced
            self.assertIn(old, examples)
            examples = examples.replace(old, new)
        test = doctest.DocTestParser().get_doctest(examples, {}, documented.__name__, None, None)
        self.assertTrue([example for example in test.examples if example.want], "no example prints anything")
        report = io.StringIO()
        failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=report.write)
        self.assertEqual(failed, 0, report.getvalue())

    def test_what_a_backend_is_written_with(self) -> None:
        for name in ("Acquisition", "Backend", "Sensor", "Ticks", "blocking", "command"):
            with self.subTest(name):
                self.run_examples(getattr(discosbackend, name))
        self.run_examples(arguments_of)

    def test_messages(self) -> None:
        for documented in (Message, parse_message):
            with self.subTest(documented.__name__):
                self.run_examples(documented)

    def test_the_time_format(self) -> None:
        from discosbackend.timediscos import TimeDiscos

        self.run_examples(TimeDiscos)

    def test_a_simulated_backend(self) -> None:
        from discosbackend.simulator import SimulatedBackend

        self.run_examples(SimulatedBackend)

    def test_what_needs_a_server(self) -> None:
        from discosbackend.simulator.control.client import SimulatorControl
        from discosbackend.testing import BackendConformance

        with served("--control", "0") as server:
            found = re.fullmatch(r"discosbackend: controlled at (127\.0\.0\.1:\d+)", server.next_line())
            assert found is not None
            self.run_examples(SimulatorControl, ("SimulatorControl(4321)", f"SimulatorControl({found[1]!r})"))
            self.run_examples(BackendConformance, ("8978", str(server.address[1])))

    def test_the_conformance_kit(self) -> None:
        from discosbackend.testing import (
            cases,
            citations,
            command_cases,
            profile,
            profile_file,
            runner,
            send_guard,
            server_session,
            wrong_arguments,
            wrong_clocks,
        )

        for documented in (
            *(cases.Case, cases.Cases.case, citations.citation, command_cases.own_cases),
            *(profile.Profile, profile.rows_of, profile_file.own_row, profile_file.load_profile),
            *(runner.run_cases, send_guard.scope_of, send_guard.scope_of_command, server_session.request_line),
            *(wrong_arguments.wrong_numbers, wrong_clocks.likely_cause),
        ):
            with self.subTest(documented.__name__):
                self.run_examples(documented)


class LinkTests(unittest.TestCase):
    def test_every_link_leads_somewhere(self) -> None:
        followed = 0
        for document in DOCUMENTS:
            for target in _LINK.findall(_CODE.sub(lambda code: code[0].strip("`"), prose(document))):
                link = target[0] or target[1]
                if re.match(r"[a-z]+:", link):
                    continue
                with self.subTest(document.name, link=link):
                    followed += 1
                    name, _, anchor = link.partition("#")
                    path = (document.parent / name).resolve() if name else document
                    if path.is_relative_to(ROOT / "discosbackend"):
                        # The package may be installed elsewhere.
                        path = Path(discosbackend.__file__).parent / path.relative_to(ROOT / "discosbackend")
                    else:
                        self.assertTrue(path.is_relative_to(ROOT), f"{path} is outside of the project")
                    self.assertTrue(path.exists(), f"{path} does not exist")
                    if anchor:
                        self.assertIn(anchor, anchors(path))
        self.assertGreater(followed, 40)

    def test_the_readme_leads_to_every_page(self) -> None:
        linked = {target.partition("#")[0] for target, _ in _LINK.findall(prose(README))}
        self.assertLessEqual({f"docs/{page.name}" for page in PAGES}, linked)

    def test_nothing_points_out_of_the_project(self) -> None:
        for document in DOCUMENTS:
            with self.subTest(document.name):
                self.assertNotRegex(document.read_text(encoding="utf-8"), r"shared/|/tmp/|/home/")


class OptionsTests(unittest.TestCase):
    def setUp(self) -> None:
        from discosbackend.cli.server import _parser

        self.parser = _parser()
        self.page = ROOT / "docs" / "operating.md"
        self.text = self.page.read_text(encoding="utf-8")

    def test_the_options_are_those_of_the_program(self) -> None:
        table = re.findall(r"^\| `(--[a-z-]+)[^`]*` \|", self.text, re.MULTILINE)
        options = set(options_of(self.parser))
        self.assertEqual(sorted(set(table)), sorted(options))
        self.assertEqual(set(re.findall(r"(?<!\S|-)`?(--[a-z][a-z-]*)", self.text)), options)

    def test_the_defaults_are_those_of_the_program(self) -> None:
        defaults = options_of(self.parser)
        checked = 0
        for name, told in re.findall(r"^\| `(--[a-z-]+)[^`]*` \| ([^|]*?) *\|", self.text, re.MULTILINE):
            default = defaults[name]
            if default in (None, SUPPRESS):
                continue
            with self.subTest(name):
                checked += 1
                wanted = f"{default:g}" if isinstance(default, float) else str(default)
                self.assertEqual(told.strip("` "), wanted)
        self.assertGreater(checked, 4)

    def test_the_command_lines_are_understood(self) -> None:
        code = "\n".join(block.code for document in DOCUMENTS for block in blocks(document))
        lines = re.findall(r"(?:^|/)discos-backend-server((?: +[^#&\n]*)?)", code, re.MULTILINE)
        self.assertGreater(len(lines), 3)
        for line in lines:
            with self.subTest(line):
                try:
                    self.parser.parse_args(shlex.split(line))
                except SystemExit:
                    self.fail("the program does not take these options")


class CompatibilityTests(unittest.TestCase):
    ROWS = (
        "unit of timestamps in replies",
        "unit of timestamps in requests",
        "the factor between seconds and timestamps",
        "greeting and `version` without a code",
        "code for an unknown command",
        "name in an `invalid` reply",
        "escapes",
        "comma among the special characters",
        "tabs in arguments",
        "arguments of `get-tpi`",
        "`stop` while a start is pending",
        "parameter of `cal-on`",
        "line end",
    )
    """The contradictions of protocol section 8, in its order."""

    NAMES = {
        "discosbackend": "__version__ __protocol_version__",
        "discosbackend.grammar": "REQUEST REPLY SEPARATOR OK FAIL INVALID request_ reply_ type_ name_ code_ "
        "arguments_ linefeed_ GrammarException Message parse_message",
        "discosbackend.handlers": "HandlerException Handler AlwaysOkHandler AlwaysFailHandler "
        "AlwaysRaiseHandler DBProtocolHandler",
        "discosbackend.protocol": "DBProtocol DBFactory",
        "discosbackend.server": "run_server",
        "discosbackend.timediscos": "CENTINANOSECONDS TimeDiscos parse_unix_time get_acs_now unix_to_acs_time",
    }
    """What users of the original package import."""

    def setUp(self) -> None:
        self.text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")

    def test_every_contradiction_is_named_decided_and_explained(self) -> None:
        _, _, rest = self.text.partition("\n## Where document and practice disagree\n")
        lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
        self.assertEqual(tuple(row[0] for row in rows), self.ROWS)
        for question, *_, here, why in rows:
            with self.subTest(question):
                self.assertTrue(here and why)

    def test_the_names_that_stay_are_named_and_there(self) -> None:
        told = dict(re.findall(r"^\| `(discosbackend[.a-z]*)` \| (.*) \|$", self.text, re.MULTILINE))
        self.assertEqual(set(told), set(self.NAMES))
        for module_name, names in self.NAMES.items():
            module = importlib.import_module(module_name)
            for name in names.split():
                with self.subTest(module_name, name=name):
                    self.assertIn(f"`{name}`", told[module_name])
                    both = name.endswith("_") and not name.startswith("_")
                    for attribute in (f"{name}re", f"{name}pattern") if both else (name,):
                        self.assertTrue(hasattr(module, attribute), attribute)


class InAFolderTests(unittest.TestCase):
    """What a newcomer does: write the files of the documents into a folder, and run them there."""

    test_case: Server
    """The README's test case, running. It takes ten seconds, most of which it waits: the other tests pass meanwhile."""

    @classmethod
    def setUpClass(cls) -> None:
        folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        for name in ("mybackend.py", "test_mybackend.py"):
            (folder / name).write_text(file_in_the_readme(name), encoding="utf-8")
        cls.test_case = Server([sys.executable, "-m", "unittest", "test_mybackend"], folder)
        cls.addClassCleanup(cls.test_case.end)

    def setUp(self) -> None:
        self.folder = temporary_folder(self)

    def write(self, name: str, code: str) -> None:
        (self.folder / name).write_text(code, encoding="utf-8")

    def serve(self, *command: str) -> Server:
        server = Server([sys.executable, *command], self.folder)
        self.addCleanup(server.end)
        return server

    def check_my_backend(self, server: Server) -> None:
        with server.connect() as connection:
            replies = ask(
                connection,
                b"?status",
                b"?set-configuration,X",
                b"?set-configuration,TP",
                b"?get-tpi,0,0",
                b"?start",
                b"?status",
                b"?stop",
                b"?cal-on,5",
            )
        now = rb"!status,ok,\d{10}\.\d{7},ok,"
        wanted = [
            now + rb"0",
            rb"!set-configuration,fail,invalid configuration",
            rb"!set-configuration,ok",
            rb"!get-tpi,ok,412\.5,398\.25",
            rb"!start,ok",
            now + rb"1",
            rb"!stop,ok",
            rb"!cal-on,fail,not supported by this backend",
        ]
        for reply, pattern in zip(replies, wanted, strict=True):
            self.assertRegex(reply, rb"\A" + pattern + rb"\r\n\Z")
        self.assertEqual(server.stop(SIGTERM), 0, server.log())

    def test_readme_backend_with_run_server(self) -> None:
        self.write("mybackend.py", on_any_port(file_in_the_readme("mybackend.py"), "run_server(8978, "))
        server = self.serve("mybackend.py")
        self.assertRegex(server.announced, r"MyBackend is served on 0\.0\.0\.0:\d+, protocol version 1\.4")
        self.check_my_backend(server)

    def test_readme_backend_with_the_program_and_the_client(self) -> None:
        self.write("mybackend.py", file_in_the_readme("mybackend.py"))
        with served("--backend", "mybackend:MyBackend", cwd=self.folder) as server:
            where = f"127.0.0.1:{server.address[1]}"
            text = README.read_text(encoding="utf-8")
            line, reply = re.findall(r"-m (discosbackend\.client 127.*)\n```\n\n```text\n(.*)\n", text)[0]
            done = run([sys.executable, "-m", *line.replace("127.0.0.1:8978", where).split()], self.folder)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertRegex(done.stdout, re.sub(r"\d{10}\\?\.\d{7}", r"\\d{10}\\.\\d{7}", reply) + "\n")
            self.check_my_backend(server)

    def test_the_first_example_of_the_client_with_the_server_of_the_readme(self) -> None:
        first = next(block for block in blocks(ROOT / "docs" / "clients.md") if block.words[:1] == ["python"])
        with served(cwd=self.folder) as server:
            code = first.code.replace('"127.0.0.1", 8978', f'"127.0.0.1", {server.address[1]}')
            done = run([sys.executable, "-c", code], self.folder)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertRegex(done.stdout, r"\A\[\d+\.\d+(, \d+\.\d+)+\]\n\Z")

    def test_client_whose_server_hangs_up_before_the_greeting(self) -> None:
        for ends in ({"side_effect": ConnectionResetError("reset by peer")}, {"return_value": b""}):
            with self.subTest(ends), mock.patch("socket.create_connection") as connect:
                connect.return_value.recv.configure_mock(**ends)
                with self.assertRaises(NoReply):
                    Client("127.0.0.1", 8978)
                connect.return_value.close.assert_called_once_with()

    def test_readme_test_case(self) -> None:
        self.assertIn("-m unittest -v test_mybackend\n", README.read_text(encoding="utf-8"))
        self.assertEqual(self.test_case.stop(), 0, self.test_case.log())
        self.assertRegex(self.test_case.log(), r"Ran [1-9]\d* tests? in")

    def test_application(self) -> None:
        self.write("mybackend.py", file_in_the_readme("mybackend.py"))
        self.write("backend.tac", on_any_port(file_in_the_docs("backend.tac"), '"tcp:8978:'))
        twistd = "from twisted.scripts.twistd import run; run()"
        server = self.serve("-c", twistd, "--nodaemon", "--pidfile=", "--python=backend.tac")
        line = server.announced
        while not (found := re.search(r"DBFactory starting on (\d+)", line)):
            self.assertIsNone(server.process.poll(), server.log())
            line = server.next_line()
        where = ("127.0.0.1", int(found[1]))

        def answered() -> bool:
            # It greets after 5 s; who asks at once gets the reply only. A busy machine may be later than that.
            with socket.create_connection(where, PATIENCE) as connection:
                return ask(connection, b"?get-tpi") == [b"!get-tpi,ok,412.5,398.25\r\n"]

        wait_until(answered)
        # In the end twistd signals itself.
        self.assertIn(server.stop(SIGTERM), (0, -SIGTERM))
        self.assertRegex(server.log(), r"listening on 127\.0\.0\.1:\d+\n(?s:.*)stopped\n\Z")

    def test_application_whose_port_is_taken(self) -> None:
        taken = types.SimpleNamespace(listen=lambda _: fail(CannotListenError("127.0.0.1", 8978, "taken")))
        application = MultiService()
        service = DBService(cast(Any, taken), DBFactory(AlwaysOkHandler(), reactor=Clock()))
        service.setServiceParent(application)
        with self.assertLogs("discosbackend.service", "CRITICAL") as logged:
            application.startService()
        self.assertIn("cannot listen: ", logged.output[0])
        self.assertIn("taken", logged.output[0])
        problems: list[Any] = []
        service.listening.addErrback(problems.append)
        self.assertTrue(problems[0].check(CannotListenError))

    def test_serve_in_an_asyncio_program(self) -> None:
        """In a process of its own, whose reactor it starts."""
        self.write("serve_in_asyncio.py", file_in_the_docs("serve_in_asyncio.py"))
        done = run([sys.executable, "serve_in_asyncio.py"], self.folder)
        page = blocks(ROOT / "docs" / "serving.md")
        (printed,) = [after.code for block, after in pairwise(page) if "file=serve_in_asyncio.py" in block.words]
        self.assertEqual((done.stdout, done.stderr), (printed, ""))

    def test_asyncio(self) -> None:
        self.write("asyncio_backend.py", file_in_the_docs("asyncio_backend.py"))
        with served("--backend", "asyncio_backend:AsyncioBackend", cwd=self.folder) as server:
            with server.connect() as connection:
                self.assertEqual(ask(connection, b"?get-tp0"), [b"!get-tp0,ok,1050.0\r\n"])
            self.assertEqual(server.stop(SIGTERM), 0, server.log())


class PowerMeterTests(unittest.TestCase):
    """The files of a backend on a Link: the backend, its tests, and the simulated device as a program."""

    def load(self, name: str, reactor: Any) -> types.ModuleType:
        """Make a module of a file in the docs, with this reactor instead of Twisted's."""
        module = types.ModuleType(name)
        self.enterContext(mock.patch.dict(sys.modules, {name: module}))
        with mock.patch("twisted.internet.reactor", reactor, create=True):
            exec(compile(file_in_the_docs(f"{name}.py"), f"{name}.py", "exec"), vars(module))
        return module

    def test_its_tests(self) -> None:
        self.load("power_meter", Clock())
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromModule(self.load("test_power_meter", Clock())).run(result)
        self.assertEqual((result.testsRun, result.errors + result.failures), (4, []))

    def test_from_the_environment(self) -> None:
        module = self.load("power_meter", Clock())
        with mock.patch.dict(os.environ, POWER_METER="tcp://127.0.0.1:7147"):
            self.assertEqual(module.from_environment().link.name, "127.0.0.1:7147")

    def test_the_device_as_a_program(self) -> None:
        reactor = mock.Mock()
        device = self.load("fake_power_meter", reactor).device
        reactor.listenTCP.assert_called_once_with(7147, device, interface="127.0.0.1")
        reactor.run.assert_called_once_with()
        self.assertEqual([device.behavior(question) for question in (b"pow?", b"temp?")], [[b"3.5 4.5"], [b"41.5"]])


class TestingPageTests(unittest.TestCase):
    """docs/testing-your-backend.md names every attribute that a test case may override."""

    def test_every_attribute(self) -> None:
        page = (ROOT / "docs" / "testing-your-backend.md").read_text(encoding="utf-8")
        names = [*Profile.__annotations__, "address", "start_timeout"]
        self.assertGreater(len(names), 10)
        for name in names:
            self.assertIn(f"`{name}`", page)


if __name__ == "__main__":
    unittest.main()
