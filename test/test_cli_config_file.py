"""Tests of --config: every option of a program from a file, its errors, and the precedence of the command line."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from discosbackend.cli import server
from discosbackend.cli.argument_types import add_config, add_version, parse

from .program_in_memory import served_in_memory
from .programs import run_program
from .serving import ROOT

# Values to try for an option, as TOML and as the command line has them: each option takes one of them.
CANDIDATES = (
    ('"127.0.0.1"', "127.0.0.1"),
    ("7", "7"),
    ("700", "700"),
    ("0.5", "0.5"),
    ('"127.0.0.1:7"', "127.0.0.1:7"),
    ('"10.0.0.0/8"', "10.0.0.0/8"),
)


class Outcome(Exception):
    """A program has exited."""

    def __init__(self, status: object, out: str, err: str) -> None:
        super().__init__(f"status {status}: {out}{err}")
        self.status, self.out, self.err = status, out, err


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str], **settings: Any) -> dict[str, Any]:
    """What a command line means. Outcome if the parser exits."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            options = vars(parse(parser, arguments, **settings))
    except SystemExit as end:
        raise Outcome(end.code, out.getvalue(), err.getvalue()) from None
    return {name: value for name, value in options.items() if name != "config"}


class WithFile(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "server.toml"

    def from_file(self, parser: argparse.ArgumentParser, text: str, *arguments: str, **settings: Any) -> dict[str, Any]:
        self.path.write_text(text, encoding="utf-8")
        return parsed(parser, ["--config", str(self.path), *arguments], **settings)

    def refused(self, parser: argparse.ArgumentParser, text: str, *arguments: str) -> str:
        with self.assertRaises(Outcome) as caught:
            self.from_file(parser, text, *arguments)
        self.assertEqual((caught.exception.status, caught.exception.out), (2, ""))
        return caught.exception.err


def other_parser(*, required: bool = False) -> argparse.ArgumentParser:
    """The parser of a program with the kinds of options that the server does not have."""
    parser = argparse.ArgumentParser(prog="other")
    parser.add_argument("--allow", action="append", help="repeatable (default: %(default)s)")
    parser.add_argument("--only", nargs="+", action="extend")
    parser.add_argument("--pair", nargs=2)
    parser.add_argument("--colour", action=argparse.BooleanOptionalAction)
    parser.add_argument("-v", "--verbose", action="count", default=0)
    parser.add_argument("--list", nargs="?", const="all")
    parser.add_argument("--upstream", required=required)
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--seconds", type=float, default=1.0)
    group.add_argument("--for-ever", action="store_true")
    add_config(parser)
    add_version(parser)
    return parser


class EveryOptionTests(WithFile):
    """Goes through the options of the parser, so that an option that is added is tested too."""

    def forms(self, parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, list[str]]:
        """A line of the file, and the arguments that mean the same."""
        name = next(name for name in action.option_strings if name.startswith("--"))
        key = name.removeprefix("--")
        if action.nargs == 0:
            return f"{key} = true", [name]
        if isinstance(action.nargs, int):
            values = list(map(str, range(action.nargs)))
            return f"{key} = {values}", [name, *values]
        candidates: Sequence[tuple[str, str]] = CANDIDATES
        if action.choices is not None:
            candidates = tuple((f'"{choice}"', str(choice)) for choice in action.choices)
        for value, text in candidates:
            try:
                before = parsed(parser, [])
                after = parsed(parser, [f"{name}={text}"])
            except Outcome:
                continue
            if before != after:
                if isinstance(action, argparse._AppendAction):
                    return f"{key} = [{value}, {value}]", [f"{name}={text}"] * 2
                return f"{key} = {value}", [f"{name}={text}"]
        raise AssertionError(f"{name} takes none of the candidates of this test: add a valid value")

    def check(self, parser: argparse.ArgumentParser) -> None:
        tried = 0
        for action in parser._actions:
            if action.dest == "config":
                continue
            with self.subTest(action.dest):
                tried += 1
                line, arguments = self.forms(parser, action)
                try:
                    wanted: object = parsed(parser, arguments)
                except Outcome as outcome:
                    # --help and --version.
                    with self.assertRaises(Outcome) as caught:
                        self.from_file(parser, line)
                    self.assertEqual(str(caught.exception), str(outcome))
                else:
                    self.assertNotEqual(wanted, parsed(parser, []))
                    self.assertEqual(self.from_file(parser, line), wanted)
        self.assertGreater(tried, 4)

    def test_of_the_server(self) -> None:
        self.check(server._parser())

    def test_of_another_program(self) -> None:
        self.check(other_parser())


class KindsTests(WithFile):
    """Kinds of options that the server does not have, or not yet."""

    def test_values(self) -> None:
        for text, name, wanted in (
            ('allow = ["10.0.0.0/8", "::1"]', "allow", ["10.0.0.0/8", "::1"]),
            ("allow = []", "allow", None),
            ('only = ["-a", 1]', "only", ["-a", "1"]),
            ("pair = [1, 2.5]", "pair", ["1", "2.5"]),
            ("colour = true", "colour", True),
            ("colour = false", "colour", False),
            ("no-colour = true", "colour", False),
            ("no-colour = false", "colour", True),
            ("verbose = true", "verbose", 1),
            ("list = true", "list", "all"),
            ("list = false", "list", None),
            ('list = "one"', "list", "one"),
            ("seconds = 1e-7", "seconds", 1e-7),
            ("seconds = -3", "seconds", -3.0),
            ("for-ever = false", "for_ever", False),
            ('upstream = "--allow"', "upstream", "--allow"),
            ('upstream = ""', "upstream", ""),
            ('"upstream" = "è"', "upstream", "è"),
            ("\ufeffupstream = 5", "upstream", "5"),
        ):
            with self.subTest(text):
                self.assertEqual(self.from_file(other_parser(), text)[name], wanted)

    def test_the_command_line_has_precedence(self) -> None:
        for text, arguments, wanted in (
            ('allow = ["a", "b"]', ["--allow", "c"], {"allow": ["c"]}),
            ('only = ["a"]', ["--only", "c", "d"], {"only": ["c", "d"]}),
            ("seconds = 5", ["--seconds=1.0"], {"seconds": 1.0}),
            ("seconds = 5", ["--for-ever"], {"for_ever": True, "seconds": 1.0}),
            ("for-ever = true", ["--seconds", "7"], {"for_ever": False, "seconds": 7.0}),
            ("colour = true", ["--no-colour"], {"colour": False}),
            ("verbose = true", ["-vv"], {"verbose": 2}),
            ('list = "one"', ["--li"], {"list": "all"}),
            ('upstream = "a"', ["--list"], {"upstream": "a"}),
        ):
            with self.subTest(text, arguments=arguments):
                found = self.from_file(other_parser(), text, *arguments)
                self.assertEqual({name: found[name] for name in wanted}, wanted)

    def test_what_contradicts_the_command_line_is_replaced(self) -> None:
        found = self.from_file(other_parser(), 'upstream = "a"\nlist = "b"', "--allow", "c", rivals=[("allow", "list")])
        self.assertEqual((found["upstream"], found["list"], found["allow"]), ("a", None, ["c"]))

    def test_required_options_may_be_in_either_place(self) -> None:
        found = self.from_file(other_parser(required=True), 'upstream = "a"', "--for-ever")
        self.assertEqual((found["upstream"], found["for_ever"]), ("a", True))
        self.assertIn("required: --upstream", self.refused(other_parser(required=True), "seconds = 1"))
        self.assertIn("--seconds --for-ever is required", self.refused(other_parser(required=True), 'upstream = "a"'))

    def test_help_is_the_same(self) -> None:
        parser = other_parser()
        self.path.write_text("", encoding="utf-8")
        texts = []
        for arguments in (["--help"], ["--config", str(self.path), "--help"], ["--help", "--conf", str(self.path)]):
            with self.assertRaises(Outcome) as caught:
                parsed(parser, arguments)
            texts.append(caught.exception.out)
        self.assertIn("repeatable (default: None)", texts[0])
        self.assertEqual(texts, texts[:1] * 3)

    def test_the_parser_is_unchanged(self) -> None:
        parser = other_parser(required=True)
        self.from_file(parser, 'upstream = "a"', "--for-ever")
        with self.assertRaises(Outcome) as caught:
            parsed(parser, [])
        self.assertIn("required", caught.exception.err)
        self.assertIn("usage: other", caught.exception.err)


class ErrorTests(WithFile):
    def test_one_line_names_the_file_and_the_mistake(self) -> None:
        for text, wanted in (
            ("prt = 1", "'prt' is no option: did you mean port?"),
            ("command_timeout = 1", "'command_timeout' is no option: did you mean command-timeout?"),
            ('"--port" = 1', "'--port' is no option: did you mean port?"),
            ("nonesuch = 1", "'nonesuch' is no option"),
            ("[server]\nport = 1", "[server] is a table, and the file has none: write the options without a table"),
            ('config = "other.toml"', "'config' can be given on the command line only: a file cannot name another one"),
            # As on the command line:
            ('port = "http"', "argument --port: 'http' is not a port from 0 to 65535"),
            ("port = 1.5", "argument --port: '1.5' is not a port from 0 to 65535"),
            ("seed = 1.5", "argument --seed: invalid int value: '1.5'"),
            ("command-timeout = nan", "argument --command-timeout: 'nan' is not a number of seconds, 0 or more"),
            ('log-level = "loud"', "argument --log-level: invalid choice: 'loud'"),
            ('simulate = "discos"\nbackend = "a:b"', "argument --backend: not allowed with argument --simulate"),
            # Wrong types:
            ("port = true", "port must be a text or a number, not true"),
            ("port = [1]", "port must be a text or a number, not an array"),
            # No command line can contain NUL, and the functions of the system refuse it in a path.
            (r'data = "a\u0000b"', "data contains the character NUL"),
            (r'allow = ["\u0000"]', "an element of allow contains the character NUL"),
            ("port = {a = 1}", "port must be a text or a number, not a table"),
            ("data = 2026-11-28", "data must be a text or a number, not 2026-11-28"),
            ('no-data = "yes"', 'no-data must be true or false, not "yes"'),
            ("no-data = 1", "no-data must be true or false, not 1"),
            # Not TOML:
            ("port = ", "is no TOML file: Invalid value"),
            ("port = 1\nport = 2", "is no TOML file: Cannot overwrite a value"),
            ('data = "\x1b"', "is no TOML file: Illegal character '\\x1b'"),
        ):
            with self.subTest(text):
                error = self.refused(server._parser(), text)
                self.assertEqual(len(error.splitlines()), 1, error)
                self.assertTrue(error.startswith(f"discos-backend-server: --config {self.path}"), error)
                self.assertIn(wanted, error)

    def test_repeatable_options_are_arrays(self) -> None:
        for text, wanted in (
            ('allow = "10.0.0.0/8"', 'allow must be an array, such as allow = ["10.0.0.0/8"]'),
            ("allow = [true]", "an element of allow must be a text or a number, not true"),
            ("allow = [[1]]", "an element of allow must be a text or a number, not an array"),
        ):
            with self.subTest(text):
                self.assertIn(wanted, self.refused(other_parser(), text))

    def test_a_value_that_the_command_line_replaces_is_checked_too(self) -> None:
        error = self.refused(server._parser(), "port = 70000", "--port", "1")
        self.assertIn("argument --port: '70000' is not a port", error)

    def test_a_mistake_on_the_command_line(self) -> None:
        error = self.refused(server._parser(), "port = 1", "--port", "x")
        self.assertIn("usage: ", error)
        self.assertIn("error: argument --port: 'x' is not a port", error)
        self.assertNotIn("--config", error)

    def test_a_file_that_cannot_be_read(self) -> None:
        for path, wanted in ((self.folder / "nonesuch", "No such file"), (self.folder, "Is a directory")):
            with self.subTest(path), self.assertRaises(Outcome) as caught:
                parsed(server._parser(), [f"--config={path}"])
            self.assertEqual(caught.exception.status, 2)
            self.assertIn(f"--config {path}: {wanted}", caught.exception.err)


class ProgramTests(WithFile):
    """The option of the server program."""

    def test_it_serves_with_the_options_of_the_file(self) -> None:
        self.path.write_text('simulate = "skarab"\nport = 9001\ninterface = "0.0.0.0"\nno-data = true\n')
        for arguments, port, name in (
            ([], 9001, "skarab"),
            (["--port", "9002", "--simulate", "mistral"], 9002, "mistral"),
        ):
            with served_in_memory("--config", "server.toml", *arguments, cwd=self.folder) as program:
                self.assertEqual((program.port, program.interface), (port, "0.0.0.0"))
                self.assertIn(f"simulated {name} is served", program.announced[0])

    def test_an_option_of_the_command_line_replaces_what_contradicts_it(self) -> None:
        self.path.write_text('simulate = "skarab"\nport = 9001\ninterface = "0.0.0.0"\nno-data = true\n')
        with served_in_memory("--listen", "tcp:9003:interface=127.0.0.2", "--config", str(self.path)) as program:
            self.assertEqual((program.port, program.interface), (9003, "127.0.0.2"))
        with served_in_memory("--data", "records", "--config", str(self.path)) as program:
            self.assertEqual(program.port, 9001)

    def test_a_relative_path_is_relative_to_the_current_folder(self) -> None:
        (self.folder / "etc").mkdir()
        (self.folder / "etc" / "server.toml").write_text('list = "mine.toml"\n', encoding="utf-8")
        shown = run_program(server.main, "--show", "totalpower").out
        (self.folder / "mine.toml").write_text(shown, encoding="utf-8")
        found = run_program(server.main, "--config", "etc/server.toml", cwd=self.folder)
        self.assertEqual((found.status, found.err), (0, ""))
        self.assertTrue(found.out.startswith("totalpower: "), found.out)

    def test_contradictions_within_the_file(self) -> None:
        self.path.write_text('listen = "tcp:1"\nport = 2\n', encoding="utf-8")
        found = run_program(server.main, "--config", str(self.path))
        self.assertEqual(found.status, 2)
        mistake = "--listen includes the port and the interface: leave out --port and --interface"
        self.assertEqual(found.err, f"discos-backend-server: --config {self.path}: {mistake}\n")
        found = run_program(server.main, "--config", str(self.path), "--log-level", "debug")
        both = f"--config {self.path}, together with the command line"
        self.assertEqual((found.status, found.err), (2, f"discos-backend-server: {both}: {mistake}\n"))

    def test_an_instrument_of_the_file_that_does_not_exist(self) -> None:
        self.path.write_text('simulate = "sadrara"\n', encoding="utf-8")
        found = run_program(server.main, "--config", str(self.path))
        self.assertEqual(found.status, 2)
        start = f"discos-backend-server: --config {self.path}: --simulate: no instrument is called 'sadrara'"
        self.assertTrue(found.err.splitlines()[-1].startswith(start), found.err)

    def test_the_module_is_imported_only_for_a_file(self) -> None:
        with mock.patch.dict(sys.modules):
            sys.modules.pop("discosbackend.cli.config_file", None)
            for arguments in (["--control", "0"], ["--command-timeout", "5"], []):
                parsed(server._parser(), arguments)
                self.assertNotIn("discosbackend.cli.config_file", sys.modules)
            self.from_file(server._parser(), "port = 1")
            self.assertIn("discosbackend.cli.config_file", sys.modules)

    def test_the_example(self) -> None:
        example = ROOT / "examples" / "deploy" / "sardara.toml"
        found = parsed(server._parser(), ["--config", str(example)])
        self.assertEqual((found["backend"], found["port"]), ("mybackend:MyBackend", 10000))


if __name__ == "__main__":
    unittest.main()
