"""What `--backend` takes, and what the program says of what it cannot: one sentence that says what to do."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import tempfile
import textwrap
import unittest
from collections.abc import Iterator
from pathlib import Path

from discosbackend.cli import server
from discosbackend.cli.own_backend import CannotServe, load

from .serving import SCRIPT, Server, ask
from .settings import PATIENCE

MINE = """
    import functools
    from discosbackend import Backend, blocking

    class Mine(Backend):
        def __init__(self, name="Mine"):
            self.name = name

        def get_configuration(self):
            return self.name

    class NeedsArguments(Mine):
        def __init__(self, host, port, *, timeout, retries=3):
            pass

    mine = Mine("instance")

    def make():
        return Mine("made")

    make_other = functools.partial(Mine, "partial")

    class Factory:
        @classmethod
        def make(cls):
            return Mine("classmethod")

    def make_with(host):
        return Mine(host)

    def make_nothing():
        pass

    def make_a_class():
        return Mine

    async def make_later():
        return Mine()

    def make_badly():
        raise OSError("no link")

    class Nothing:
        def measure(self):
            pass

    text = "Mine"
"""


class LoadTests(unittest.TestCase):
    """load(), in this process."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        path, modules = list(sys.path), set(sys.modules)
        self.addCleanup(sys.path.__setitem__, slice(None), path)

        def forget() -> None:
            for name in set(sys.modules) - modules:
                if str(getattr(sys.modules[name], "__file__", "")).startswith(str(self.folder)):
                    del sys.modules[name]

        self.addCleanup(forget)
        self.write("of_ones_own", MINE)

    def write(self, name: str, code: str) -> None:
        (self.folder / f"{name}.py").write_text(textwrap.dedent(code), encoding="utf-8")

    def refused(self, name: str) -> str:
        with self.assertRaises(CannotServe) as caught:
            load(name)
        said = str(caught.exception)
        self.assertEqual(len(said.splitlines()), 1)
        return said

    def test_classes_instances_and_functions_that_make_one(self) -> None:
        for name, wanted in (
            ("Mine", "Mine"),
            ("mine", "instance"),
            ("make", "made"),
            ("make_other", "partial"),
            ("Factory.make", "classmethod"),
        ):
            with self.subTest(name):
                self.assertEqual(load(f"of_ones_own:{name}").get_configuration(), wanted)

    def test_a_class_or_function_with_arguments(self) -> None:
        for name, needed in (("NeedsArguments", "host, port, timeout"), ("make_with", "host")):
            self.assertEqual(
                self.refused(f"of_ones_own:{name}"),
                f"{name} needs arguments ({needed}), but --backend calls it without any: write a "
                f"function without arguments that returns {name}(...), and name that one",
            )

    def test_functions_that_make_no_backend(self) -> None:
        for name, said in (
            ("make_nothing", "make_nothing() returned None instead of a backend: return an instance of your class"),
            ("make_a_class", "make_a_class() returned a class, Mine: return an instance, Mine()"),
            ("make_later", "make_later is `async def`: --backend needs an ordinary function that returns a backend"),
            ("make_badly", "cannot create make_badly: OSError: no link"),
        ):
            with self.subTest(name):
                self.assertEqual(self.refused(f"of_ones_own:{name}"), said)

    def test_what_is_no_backend(self) -> None:
        for name, said in (
            ("Nothing", "has none of the protocol's methods: status, start, set_section and so on"),
            ("text", "has none of the protocol's methods"),
        ):
            with self.subTest(name):
                self.assertIn(said, self.refused(f"of_ones_own:{name}"))

    def test_a_misspelt_name(self) -> None:
        self.assertEqual(
            self.refused("of_ones_own:Mien"),
            f"no 'Mien' in 'of_ones_own', which is {self.folder}/of_ones_own.py: did you mean Mine?",
        )
        self.assertIn("no 'Mine.Inner' in 'of_ones_own'", self.refused("of_ones_own:Mine.Inner"))

    def test_a_module_where_a_class_should_be(self) -> None:
        (self.folder / "package").mkdir()
        (self.folder / "package" / "__init__.py").write_text("", encoding="utf-8")
        self.write("package/inner", MINE)
        self.refused("package:inner")
        __import__("package.inner")
        self.assertEqual(
            self.refused("package:inner"), "'package:inner' is a module: name a class in it, such as package.inner:Mine"
        )

    def test_a_module_that_is_not_there(self) -> None:
        self.assertEqual(
            self.refused("nonesuch_at_all:Mine"),
            "cannot import 'nonesuch_at_all': it is neither installed nor in the current folder, "
            f"{os.path.realpath(self.folder)}",
        )
        self.write("needs", "import nonesuch_at_all")
        self.assertEqual(
            self.refused("needs:Mine"), "cannot import 'needs': ModuleNotFoundError: No module named 'nonesuch_at_all'"
        )

    def test_a_module_that_is_called_as_an_installed_one(self) -> None:
        self.write("calendar", MINE)
        said = self.refused("calendar:Mine")
        self.assertRegex(
            said,
            r"^no 'Mine' in 'calendar', which is .*/calendar.py: an installed module precedes the current folder, "
            r"so give your calendar.py another name$",
        )

    def test_blocking_on_a_coroutine(self) -> None:
        self.write(
            "both",
            """
            from discosbackend import Backend, blocking

            class Mine(Backend):
                @blocking
                async def get_tpi(self):
                    return [1.0]
            """,
        )
        self.assertEqual(
            self.refused("both:Mine"),
            "cannot import 'both': TypeError: Mine.get_tpi is `async def`, which waits without blocking: leave out "
            "@blocking, or write `def` if it calls what blocks",
        )

    def test_the_current_folder_comes_last_and_once(self) -> None:
        for _ in range(3):
            load("of_ones_own:Mine")
        here = os.path.realpath(self.folder)
        self.assertEqual([os.path.realpath(folder) for folder in sys.path].count(here), 1)
        self.assertEqual(os.path.realpath(sys.path[-1]), here)
        self.assertNotIn("", sys.path[-1:])


class ProgramTests(unittest.TestCase):
    """The program's command line."""

    def refused(self, status: int, *options: str) -> str:
        """What the program says, in one line of standard error."""
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), self.assertRaises(SystemExit) as caught:
            server.main(options)
        self.assertEqual(caught.exception.code, status)
        said = errors.getvalue()
        self.assertEqual(len(said.splitlines()), 1, said)
        self.assertTrue(said.startswith("discos-backend-server: "), said)
        return said

    def test_a_profile_with_a_mistake(self) -> None:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), self.assertRaises(SystemExit):
            server.main(["--show", "sardara"])
        with tempfile.TemporaryDirectory() as folder:
            for text, said in (
                (output.getvalue().replace("[limits]", "[limit]"), "limit is not known: did you mean limits?"),
                ("x = [", "is no TOML file"),
                (None, "No such file or directory"),
            ):
                path = Path(folder, "mine.toml")
                path.unlink(missing_ok=True)
                if text is not None:
                    path.write_text(text, encoding="utf-8")
                with self.subTest(said):
                    self.assertIn(said, self.refused(2, "--list", str(path)))

    def test_an_instrument_that_is_not_known(self) -> None:
        for option in ("--list", "--show"):
            self.assertIn("unknown instrument 'sardra'", self.refused(2, option, "sardra"))

    def test_a_wrong_command_line_is_two_lines(self) -> None:
        for options in (["--port", "x"], ["--simulate", "nonesuch"], ["--surplus"], ["--data", "x", "--no-data"]):
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors), self.assertRaises(SystemExit) as caught:
                server.main(options)
            self.assertEqual(caught.exception.code, 2)
            lines = errors.getvalue().splitlines()
            self.assertEqual(len(lines), 2, lines)
            self.assertTrue(lines[0].startswith("usage: discos-backend-server "))

    def refused_by_a_process(self, *options: str) -> str:
        process = Server([sys.executable, str(SCRIPT), "--no-data", *options])
        self.addCleanup(process.end)
        self.assertEqual(process.process.wait(PATIENCE), 1)
        (line,) = process.log().splitlines()
        return line

    def test_a_taken_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.assertEqual(
                self.refused_by_a_process("--port", str(port)),
                f"discos-backend-server: cannot listen on 127.0.0.1:{port}: Address already in use: stop the program "
                "that listens there, perhaps an earlier server, or choose another port with --port; 0 finds a free one",
            )
            self.assertTrue(
                self.refused_by_a_process("--listen", f"tcp:{port}:interface=127.0.0.1").endswith(
                    f"cannot listen on tcp:{port}:interface=127.0.0.1: Address already in use: stop the program "
                    "that listens there, perhaps an earlier server, or choose another"
                )
            )

    def test_other_places(self) -> None:
        for options, said in (
            (
                ("--interface", "192.0.2.1"),
                "cannot listen on 192.0.2.1:8978: Cannot assign requested address: this host does not have this",
            ),
            (
                ("--listen", "unix:/nonexistent/folder/socket"),
                "cannot listen on unix:/nonexistent/folder/socket: No such file or directory: create its folder first",
            ),
        ):
            with self.subTest(options):
                self.assertIn(said, self.refused_by_a_process(*options))


@contextlib.contextmanager
def folder_of_traps() -> Iterator[Path]:
    """A folder with files that are called as modules of Python and of others; each leaves a mark when it is run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for module in TRAPS:
            (folder / f"{module}.py").write_text(
                "import os\n"
                f"os.close(os.open({str(folder / 'trapped')!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND))\n"
                f"os.rename({str(folder / 'trapped')!r}, {str(folder / f'trapped-{module}')!r})\n"
                "raise RuntimeError('trapped')\n",
                encoding="utf-8",
            )
        yield folder


TRAPS = ("astropy", "copy", "calendar", "json", "socket", "numpy", "argparse", "twisted", "logging", "random", "csv")


class FolderOfTrapsTests(unittest.TestCase):
    """Files in the current folder that are called as modules are not run in place of those."""

    def assert_none_was_run(self, folder: Path) -> None:
        self.assertEqual(sorted(path.name for path in folder.glob("trapped*")), [])

    def test_a_server_of_ones_own_backend(self) -> None:
        with folder_of_traps() as folder:
            needs = "import astropy.version, calendar, copy, csv, json, numpy, random\n"
            (folder / "of_ones_own.py").write_text(needs + textwrap.dedent(MINE), encoding="utf-8")
            server = Server([sys.executable, str(SCRIPT), "--port", "0", "--backend", "of_ones_own:Mine"], folder)
            self.addCleanup(server.end)
            with server.connect() as connection:
                self.assertEqual(ask(connection, b"?get-configuration"), [b"!get-configuration,ok,Mine\r\n"])
            self.assertEqual(server.stop(15), 0, server.log())
            self.assert_none_was_run(folder)


if __name__ == "__main__":
    unittest.main()
