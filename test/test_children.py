"""Processes of Python that this package starts run nothing of the folder in which they are started."""

from __future__ import annotations

import ast
import contextlib
import os
import subprocess
import sys
import tempfile
import textwrap
import unittest
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import discosbackend
from discosbackend import children
from discosbackend.children import python_command, python_environment
from discosbackend.simulator.recording.conversion import Converter
from discosbackend.testing.process import ServerProcess

from .recordings import record
from .serving import ROOT, SCRIPT, Server, ask
from .settings import LONG, PATIENCE
from .test_own_backend import TRAPS, folder_of_traps

PACKAGE = Path(discosbackend.__file__).parent

# With each of them the current folder is searched, first or somewhere.
PATHS = ("", ":", f":{ROOT}", f"{ROOT}:", f"{ROOT}::{ROOT / 'nonesuch'}")


# Those of TRAPS that take long to import.
LARGE = {"astropy", "numpy", "twisted"}


@contextlib.contextmanager
def here(folder: Path) -> Iterator[None]:
    """In a folder, as somebody who works there."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class ConverterTests(unittest.TestCase):
    """Conversions, beside which astropy, numpy and much of the standard library are imported."""

    def test_a_conversion(self) -> None:
        for path in PATHS[1::3]:
            with self.subTest(path), folder_of_traps() as folder, mock.patch.dict(os.environ, PYTHONPATH=path):
                goal = folder / "done.fits"
                recording = record(folder / "data", name=str(goal))
                with here(folder):
                    refused = Converter(None).run({recording: str(goal)})
                self.assertEqual((refused, goal.exists()), ({}, True))
                self.assertEqual([each.name for each in folder.glob("trapped*")], [])

    def test_of_a_server(self) -> None:
        with folder_of_traps() as folder:
            server = Server([sys.executable, str(SCRIPT), "--port", "0", "--root", str(folder)], folder)
            self.addCleanup(server.end)
            with server.connect() as connection:
                replies = ask(
                    connection,
                    b"?set-configuration,SK00",
                    b"?start",
                    b"?stop",
                    b"?set-filename,/done.fits",
                    b"?convert-data",
                )
                self.assertEqual([reply.split(b",")[1].strip() for reply in replies], [b"ok"] * 5, server.log())
            self.assertEqual(server.stop(15), 0)
            self.assertEqual([each.name for each in folder.glob("trapped*")], [])
            self.assertNotIn("trapped", server.log())


class Served(unittest.TestCase):
    """What a ServerProcess serves."""

    def make_factory(self) -> object:
        from discosbackend import Backend, DBProtocolHandler
        from discosbackend.protocol import DBFactory

        return DBFactory(DBProtocolHandler(Backend()))


class ServerProcessTests(unittest.TestCase):
    """The server of a test case, whose path of modules is that of the tests and begins with the current folder only
    where theirs does."""

    def test_where_the_tests_do_not_search_the_folder(self) -> None:
        for path in PATHS if LONG else PATHS[-1:]:
            with self.subTest(path), folder_of_traps() as folder, mock.patch.dict(os.environ, PYTHONPATH=path):
                with here(folder), mock.patch.object(sys, "path", [each for each in sys.path if each]):
                    server = ServerProcess(Served, timeout=PATIENCE)
                server.stop()
                self.assertEqual([each.name for each in folder.glob("trapped*")], [])


class CommandTests(unittest.TestCase):
    """What every such process is started with."""

    def run_in(self, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            python_command("-c", textwrap.dedent(code)),
            cwd=folder,
            env=python_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def test_nothing_of_the_folder_is_found(self) -> None:
        for path in (*PATHS, None):
            environment = {} if path is None else {"PYTHONPATH": path}
            with self.subTest(path), folder_of_traps() as folder, mock.patch.dict(os.environ, environment):
                # The large ones are only searched for; test_a_conversion imports all of them.
                done = self.run_in(
                    folder,
                    f"""
                    import importlib.util
                    print(*(importlib.util.find_spec(name).origin for name in {LARGE}))
                    import {", ".join(set(TRAPS) - LARGE)}, discosbackend
                    print(discosbackend.__file__)
                    """,
                )
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                origins, own = done.stdout.splitlines()
                self.assertEqual(len(origins.split()), len(LARGE))
                self.assertNotIn(str(folder), origins)
                self.assertEqual(own, str(PACKAGE / "__init__.py"))

    def test_a_path_that_somebody_has_set_is_searched_still(self) -> None:
        with tempfile.TemporaryDirectory() as name, mock.patch.dict(os.environ, PYTHONPATH=f":{name}:"):
            Path(name, "on_the_path.py").write_text("", encoding="utf-8")
            with folder_of_traps() as folder:
                self.assertEqual(self.run_in(folder, "import on_the_path").returncode, 0)

    def test_an_installed_package_does_not_come_before_the_standard_library(self) -> None:
        for path, wanted in (("", None), (":/a::/b:", "/a:/b")):
            with self.subTest(path), mock.patch.dict(os.environ, PYTHONPATH=path):
                with mock.patch.object(children, "_PACKAGE", min(children._site_folders())):
                    self.assertEqual(python_environment().get("PYTHONPATH"), wanted)
                if PACKAGE.parent == ROOT:
                    self.assertEqual(python_environment()["PYTHONPATH"].split(":")[0], str(ROOT))

    def test_nobody_starts_python_otherwise(self) -> None:
        naming = set()
        for path in PACKAGE.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            # Parse only what has the word at all.
            if "executable" in text:
                tree = ast.parse(text)
                if "executable" in {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}:
                    naming.add(path.name)
        # unit.py only writes its path into a unit.
        self.assertEqual(naming, {"children.py", "unit.py"})


if __name__ == "__main__":
    unittest.main()
