"""Which module may import which: the list in docs/architecture.md, held against every import statement."""

from __future__ import annotations

import ast
import errno
import functools
import importlib.util
import os
import re
import sys
import tempfile
import textwrap
import tomllib
import unittest
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import NamedTuple

import discosbackend
from discosbackend.errors import reason_of

from .serving import ROOT, run_python

# The one that is tested, which may be installed.
PACKAGE = Path(discosbackend.__file__).parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

# Inside a function, when a Time is asked for: the only import that goes down.
ON_DEMAND = ("ticks", "timediscos")
NUMPY = {
    "passband",
    "mean",
    "spectra",
    "total_power",
    "quick_look",
    "pointing",
    "layout",
    "metadata",
    "recording_lines",
}
ASTROPY = {"layout", "metadata"}

# What a server imports only if its backend uses it.
OF_FEW = {f"discosbackend.{name}" for name in ("sensors", "annotations", "argument_limits")}
# What a server imports only if an option asks for it, under systemd, or at SIGUSR1.
WHEN_NEEDED = {
    f"discosbackend.{name}"
    for name in (
        *("access", "client_certificates", "json_log", "monitor", "unix_peer"),
        *("systemd", "state_report", "cli.config_file", "cli.unit"),
    )
}

# What Twisted needs about 1 MiB of memory for, and a server imports only for --listen or in a Twisted application.
OF_TWISTED = {"twisted.internet.endpoints", "twisted.application.service", "twisted.plugin"}

# What a server imports only for --http.
OF_MONITORS = ("discosbackend.monitor", "twisted.web", "prometheus_client", "ctypes.util", "zmq")


@dataclass
class Layers:
    """What the list says: packages with their modules from top to bottom, and what else may be imported."""

    level: dict[str, int] = field(default_factory=dict)
    """Of each module, by its name below discosbackend."""
    package: dict[str, str] = field(default_factory=dict)
    """Of each module the package of the list in which it stands, "" for discosbackend itself."""
    others: dict[str, set[str]] = field(default_factory=dict)
    """Which modules and packages a package, or a module, may import besides."""

    @classmethod
    def read(cls, text: str) -> Layers:
        """The list. ValueError for a module that stands there twice."""
        layers, package = cls(), ""
        for number, line in enumerate(text.splitlines()):
            head, colon, names = line.partition(":")
            if line.startswith(" "):
                for name in filter(None, line.strip().split(", ")):
                    full = f"{package}.{name}".strip(".")
                    if full in layers.level:
                        raise ValueError(f"{full} is listed twice")
                    layers.level[full], layers.package[full] = number, package
            elif line:
                package = "" if head == "discosbackend" else head
                layers.others[package] = set(names.strip().split(", ")) if colon else set()
        return layers

    def may_import(self, module: str, wanted: str) -> bool:
        """Whether one module may import another."""
        if self.package[module] == self.package[wanted]:
            return self.level[wanted] < self.level[module]
        allowed = self.others[self.package[module]] | self.others.get(module, set())
        return wanted in allowed or (self.package[wanted] or "discosbackend") in allowed


def below(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes directly below, but no expression, which has no statement inside."""
    return (child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))


def imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Every imported name, in full, and whether it is imported inside of a function."""
    for child in below(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from ((f"{child.module}.{alias.name}", inside) for alias in child.names)
        yield from imports(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))


def name_of(path: Path) -> str:
    """The name of a module below discosbackend; `__init__` and `client.__init__` are those of packages."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def files() -> dict[str, Path]:
    return {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path: Path) -> tuple[tuple[str, bool], ...]:
    return tuple(imports(tree_of(path)))


class ImportTests(unittest.TestCase):
    def setUp(self) -> None:
        self.files = files()
        # A package below the simulator, and monitor, has an __init__ with nothing but a docstring.
        empty = {
            name for name, path in self.files.items() if name.endswith("__init__") and len(tree_of(path).body) == 1
        }
        self.listed = set(self.files) - empty - {"__init__"}
        (block,) = re.findall(r"```text layers\n(.*?)```", PAGE, re.DOTALL)
        self.layers = Layers.read(block)
        self.found = [(name, *each) for name, path in self.files.items() for each in imports_of(path)]
        self.assertGreater(len(self.found), 400)

    def module_of(self, name: str) -> str | None:
        """The module of the package from which a name comes; None for somebody else's."""
        parts = name.split(".")
        if parts[0] != "discosbackend":
            return None
        for count in (len(parts), len(parts) - 1):
            short = ".".join(parts[1:count])
            for module in (short, f"{short}.__init__".strip(".")):
                if module in self.files:
                    return module
        raise AssertionError(f"{name} is nowhere")

    def edges(self) -> Iterator[tuple[str, str, bool]]:
        for module, name, inside in self.found:
            wanted = self.module_of(name)
            if wanted is not None:
                yield module, wanted, inside

    def test_every_module_is_listed(self) -> None:
        self.assertEqual(set(self.layers.level), self.listed)

    def test_every_module_has_its_question(self) -> None:
        tables = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
        for module in sorted(self.listed):
            package, _, leaf = module.rpartition(".")
            if leaf not in ("__init__", "__main__") and not package.startswith("cli"):
                self.assertIn(f"`{leaf}.py`", tables, module)

    def test_imports_are_from_the_lines_above(self) -> None:
        for module, wanted, inside in self.edges():
            if module in self.listed and not (inside and (module, wanted) == ON_DEMAND):
                with self.subTest(module, wanted=wanted):
                    self.assertIn(wanted, self.layers.level)
                    self.assertTrue(self.layers.may_import(module, wanted))

    def test_there_is_no_cycle(self) -> None:
        graph: dict[str, set[str]] = {}
        for module, wanted, _ in self.edges():
            if (module, wanted) != ON_DEMAND:
                graph.setdefault(module, set()).add(wanted)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as problem:
            self.fail(f"an import cycle: {' <- '.join(problem.args[1])}")

    def test_no_module_imports_the_init_of_its_own_package(self) -> None:
        for module, wanted, _ in self.edges():
            package, _, leaf = wanted.rpartition(".")
            if leaf == "__init__" or wanted == "__init__":
                with self.subTest(module, wanted=wanted):
                    self.assertFalse(f"{module}.".startswith(f"{package}.") or not package)

    def test_imports_are_absolute(self) -> None:
        for path in self.files.values():
            nodes: list[ast.AST] = [tree_of(path)]
            while nodes:
                node = nodes.pop()
                nodes += below(node)
                self.assertFalse(isinstance(node, ast.ImportFrom) and node.level, path)

    def test_the_reactor_is_imported_inside_functions_only(self) -> None:
        for module, name, inside in self.found:
            if name == "twisted.internet.reactor":
                self.assertTrue(inside, module)

    def test_who_imports_numpy_and_astropy(self) -> None:
        for library, others in (("numpy", NUMPY), ("astropy", ASTROPY)):
            modules = {module.rpartition(".")[2] for module, name, _ in self.found if name.split(".")[0] == library}
            self.assertEqual(modules, {"timediscos"} | others, library)


class ReaderTests(unittest.TestCase):
    """That the checks above would find something."""

    def test_what_the_reader_of_imports_finds(self) -> None:
        code = (
            "import a.b\nfrom c import d\nclass E:\n  def f(self):\n    if self:\n      from g import h\n"
            "if TYPE_CHECKING:\n  import i\n"
        )
        self.assertEqual(list(imports(ast.parse(code))), [("a.b", False), ("c.d", False), ("g.h", True)])

    def test_what_the_list_allows(self) -> None:
        layers = Layers.read(
            textwrap.dedent(
                """\
                discosbackend
                    a, b
                    c

                p: a
                    d
                    q.e
                    __init__

                p.d: c

                r: discosbackend, p
                    f
                """
            )
        )
        for module, wanted, allowed in (
            ("c", "a", True),
            ("a", "c", False),
            ("a", "b", False),
            ("c", "p.d", False),
            ("p.q.e", "p.d", True),
            ("p.d", "p.q.e", False),
            ("p.__init__", "p.q.e", True),
            ("p.q.e", "p.__init__", False),
            ("p.d", "a", True),
            ("p.d", "b", False),
            ("p.d", "c", True),
            ("p.q.e", "c", False),
            ("p.d", "r.f", False),
            ("r.f", "p.q.e", True),
            ("r.f", "c", True),
        ):
            with self.subTest(module, wanted=wanted):
                self.assertEqual(layers.may_import(module, wanted), allowed)
        with self.assertRaisesRegex(ValueError, "p.a is listed twice"):
            Layers.read("p\n    a\n    b, a\n")


# Runs each of the programs in a fork of this one, which has loaded what all of them load.
LOADING = """
import atexit, os, sys
sys.path.insert(0, {root!r})
{common}
for program in {programs!r}:
    if os.fork() == 0:
        atexit.register(lambda: print("loaded", *sys.modules, flush=True))
        exec(program)
        break
    if os.wait()[1]:
        sys.exit("failed: " + program)
"""


def loaded(*programs: str, common: str = "", folder: str | Path = ROOT) -> list[set[str]]:
    """Return the modules that are loaded at the end of each program, which may end by itself.

    Each runs for itself, in a fork of one new interpreter. `common` is the beginning of all of them, which is run once.
    """
    code = LOADING.format(root=str(ROOT), common=common, programs=programs)
    done = run_python("-c", code, cwd=folder, fresh=True)
    found = [set(line.split()) for line in done.stdout.splitlines() if line.startswith("loaded ")]
    if done.returncode or len(found) != len(programs) or not all("discosbackend" in each for each in found):
        raise AssertionError(f"status {done.returncode}: {done.stdout}{done.stderr}")
    return found


class LoadedByServers(NamedTuple):
    """The modules that are loaded by the server program."""

    imported: set[str]
    """When it is imported."""
    of_a_user: set[str]
    """With a user's backend."""
    simulated: set[str]
    """With a simulated instrument."""
    monitored: set[str]
    """With a user's backend and a monitor."""


@functools.cache
def loaded_by_servers() -> LoadedByServers:
    """Run everything of the server program but the reactor."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "mine.py").write_text(
            "from discosbackend import Argument, Backend, command\n\n\nclass Mine(Backend):\n"
            "    @command('a', Argument('n', 'integer'))\n    def a(self, n: int) -> None: ...\n"
            "    @command('b')\n    def b(self) -> None: ...\n"
        )
        return LoadedByServers(
            *loaded(
                "pass",
                "server.main(['--backend', 'mine:Mine'])",
                "server.main(['--no-data'])",
                "server.main(['--backend', 'mine:Mine', '--http', '0'])",
                common="from discosbackend.cli import server; server.run_until_stopped = lambda *_, **__: None",
                folder=folder,
            )
        )


class LoadingTests(unittest.TestCase):
    """What an import loads, in a new interpreter."""

    def check(self, code: str, *unwanted: str) -> None:
        (found,) = loaded(code)
        self.assertEqual(found & set(unwanted), set())

    def test_the_package_loads_next_to_nothing(self) -> None:
        code = "import discosbackend; dir(discosbackend)"
        self.check(code, "twisted", "astropy", "numpy", "discosbackend.ticks")

    def test_what_a_backend_needs_loads_no_astropy(self) -> None:
        names = "Acquisition, Argument, Backend, BackendError, Ticks, blocking, command"
        self.check(f"from discosbackend import {names}", "twisted", "astropy", "numpy", *OF_FEW)

    def test_the_client_loads_no_twisted(self) -> None:
        codes = ("import discosbackend.client", "from discosbackend.client import Client, NoReply, host_and_port")
        for code, found in zip(codes, loaded(*codes), strict=True):
            with self.subTest(code):
                self.assertEqual(found & {"twisted", "astropy", "numpy", "asyncio"}, set())

    def test_the_asyncio_client_loads_no_twisted(self) -> None:
        self.check("from discosbackend.client import AsyncClient", "twisted", "astropy", "numpy")

    def test_one_request_from_the_shell_loads_no_shell(self) -> None:
        unwanted = ("prompt_toolkit", "shtab", "readline", "asyncio", "discosbackend.client.shell")
        self.check("import discosbackend.client.command_line", "twisted", *unwanted)

    def test_the_check_of_a_server_loads_nothing_for_clients(self) -> None:
        self.check("import discosbackend.cli.check", "twisted", "discosbackend.testing.client_grading")

    def test_the_program_loads_neither_the_reactor_nor_astropy(self) -> None:
        self.assertEqual(loaded_by_servers().imported & {"twisted.internet.reactor", "astropy", "numpy"}, set())

    def test_a_server_of_a_users_backend_loads_nothing_of_the_simulator(self) -> None:
        for found, wanted in ((loaded_by_servers().of_a_user, False), (loaded_by_servers().simulated, True)):
            with self.subTest(simulated=wanted):
                self.assertIn("discosbackend.server", found)
                self.assertEqual("mine" in found, not wanted)
                simulator = {name for name in found if name.startswith("discosbackend.simulator")}
                self.assertEqual("discosbackend.simulator.backend" in simulator, wanted)
                self.assertEqual(bool(simulator), wanted, simulator)
                self.assertEqual(found & (OF_FEW | WHEN_NEEDED | OF_TWISTED), set())
                # Their memory counts. Coverage needs the last three itself.
                unneeded = {"discosbackend.client", "discosbackend.simulator.recording.dump_reader"}
                unneeded |= set() if "coverage" in found else {"decimal", "sysconfig", "numbers"}
                self.assertEqual(found & unneeded, set())
                self.assertEqual({name for name in found if name.startswith(OF_MONITORS)}, set())

    def test_a_server_with_a_monitor_loads_no_more_than_it_needs(self) -> None:
        found = loaded_by_servers().monitored
        self.assertIn("discosbackend.monitor.site", found)
        unneeded = ("discosbackend.simulator", "discosbackend.sensors", "astropy", "numpy")
        self.assertEqual({name for name in found if name.startswith(unneeded)}, set())

    def test_a_tap_loads_no_more_than_it_needs(self) -> None:
        cases: tuple[tuple[list[str], tuple[str, ...]], ...] = (
            ([], ()),
            (["--judge"], ("testing",)),
            (["--http", "0"], ("monitor",)),
        )
        found = loaded(
            *(f"tap.main({['127.0.0.1:0', '127.0.0.1:1', *options]})" for options, _ in cases),
            common="from discosbackend.cli import tap; tap.run_until_stopped = lambda *_, **__: None",
        )
        for (options, wanted), modules in zip(cases, found, strict=True):
            with self.subTest(options):
                parts = ("tap", "testing", "monitor", "simulator")
                used = {part for part in parts if any(name.startswith(f"discosbackend.{part}.") for name in modules)}
                self.assertEqual(used, {"tap", *wanted})
                self.assertEqual(modules & {"astropy", "numpy"}, set())


def normalized(distribution_name: str) -> str:
    """The name of a distribution in the one form that can be compared."""
    return re.sub("[-_.]+", "-", distribution_name).lower()


def distribution_with(module: str, of_packages: Mapping[str, list[str]]) -> str:
    """The installed distribution that has a module. Several may share a namespace, as those of zope do."""
    package, _, rest = module.partition(".")
    found = set(of_packages[package])
    if len(found) > 1:
        folder = f"{package}/{rest.partition('.')[0]}/"
        found = {each for each in found if any(str(file).startswith(folder) for file in distribution(each).files or ())}
    (name,) = found
    return normalized(name)


def extras() -> set[str]:
    """The distributions that the extras of pyproject.toml install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for extra in project["optional-dependencies"].values() for line in extra]
    return {normalized(line.partition(">=")[0].partition("[")[0]) for line in lines}


class RequirementsTests(unittest.TestCase):
    """requirements.txt declares every distribution that the package imports, and nothing else but for the extras."""

    def test_what_is_imported_is_declared(self) -> None:
        known = {*sys.stdlib_module_names, PACKAGE.name}
        found = {".".join(name.split(".")[:2]) for path in files().values() for name, _ in imports_of(path)}
        roots = {name.split(".")[0] for name in found} - known
        installed = {root for root in roots if importlib.util.find_spec(root) is not None}
        of_packages = packages_distributions()
        imported = {distribution_with(name, of_packages) for name in found if name.split(".")[0] in installed}
        lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        declared = {normalized(line.partition(">=")[0]) for line in lines}
        self.assertEqual(declared - imported, set())
        self.assertEqual(imported - declared - extras(), set())

    def test_each_line_is_a_lowest_version_that_can_be_installed_exactly(self) -> None:
        """CI makes `==` of `>=` and runs the tests with these versions."""
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
            self.assertRegex(line, r"\A[A-Za-z][A-Za-z.-]*>=[0-9]+(\.[0-9]+)+\Z")


class OneWayTests(unittest.TestCase):
    """What is decided in one place."""

    def test_the_reason_of_an_oserror(self) -> None:
        for problem, reason in (
            (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/x"), "No such file or directory"),
            (OSError("no number"), "no number"),
            (TimeoutError(), "TimeoutError"),
        ):
            self.assertEqual(reason_of(problem), reason)
        found = {
            path.relative_to(PACKAGE).as_posix()
            for path in PACKAGE.rglob("*.py")
            if "problem.strerror" in path.read_text(encoding="utf-8")
        }
        self.assertEqual(found, {"errors.py"})


if __name__ == "__main__":
    unittest.main()
