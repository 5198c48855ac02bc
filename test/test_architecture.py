"""Who may import whom, as docs/architecture.md draws it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import unittest
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from .serving import ROOT
from .settings import PATIENCE

PACKAGE = ROOT / "discosbackend"

# Top to bottom only: a room may import from the lines above its own.
LAYERS = (
    {"errors"},
    {"grammar", "ticks", "framing", "toml"},
    {"values"},
    {"commands"},
    {"backend", "acquisition"},
    {"lanes"},
    {"handlers"},
    {"complaints"},
    {"replies", "turns"},
    {"protocol"},
    {"server"},
    {"cli"},
)
ABOVE = {room: set[str]().union(*LAYERS[:number]) for number, layer in enumerate(LAYERS) for room in layer}
ALLOWED = ABOVE | {
    "": set(),
    "timediscos": {"ticks"},
    "connection": {"errors", "grammar"},
    "client": {"errors", "grammar", "ticks", "values", "commands", "connection", "toml"},
    "simulator": ABOVE["lanes"],
    "testing": ABOVE["cli"] | {"client"},
    "cli": ABOVE["cli"] | {"simulator", "client", "testing"},
}
# Inside a function, when a Time is asked for.
ON_DEMAND = {("ticks", "timediscos"), ("handlers", "timediscos")}

# The same inside the simulator.
SIMULATOR_LAYERS = (
    {"instruments", "sky", "clock", "profile_tables", "fault_kinds"},
    {"sections", "levels", "profile_file", "passband", "faults"},
    {"theory", "recording", "pointing", "channels", "goals", "course"},
    {"spectra", "meter", "recorder"},
    {"dumping", "merging", "converter"},
    {"files", "convert", "visibility"},
    {"backend"},
    {"tasks"},
    {"door", "faulty_calls", "faulty_replies", "operations"},
    {"faulty", "controls", "remote"},
    {"control"},
)
# Inside a function, for the class of an instrument that has tasks.
SIMULATOR_ON_DEMAND = {("backend", "tasks")}
# Rooms of the simulator that are about connections; the others know of none.
OF_CONNECTIONS = {"door", "faulty", "faulty_calls"}
NUMPY = {"passband", "theory", "spectra", "meter", "pointing", "recorder", "merging"}
ASTROPY = {"recorder", "merging"}


def imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Every imported name, in full, and whether it is imported inside of a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from ((f"{child.module}.{alias.name}", inside) for alias in child.names)
        yield from imports(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))


def only_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a path or a module name inside the package, "" for the package itself."""
    return parts[0].removesuffix(".py").replace("__init__", "") if parts else ""


class ImportTests(unittest.TestCase):
    found: list[tuple[Path, str, str, bool]]
    relative: list[Path]

    @classmethod
    def setUpClass(cls) -> None:
        """Read the package once: every import, and the files with relative ones."""
        cls.found, cls.relative = [], []
        for path in sorted(PACKAGE.rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)):
                cls.relative.append(path)
            tree.body = [node for node in tree.body if not only_for_types(node)]
            room = room_of(path.relative_to(PACKAGE).parts)
            cls.found += [(path, room, name, inside) for name, inside in imports(tree)]

    def setUp(self) -> None:
        self.assertGreater(len(self.found), 100)

    def test_every_room_has_its_place(self) -> None:
        self.assertEqual({room for _, room, _, _ in self.found} - set(ALLOWED), set())
        page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        for room in sorted(filter(None, ALLOWED)):
            self.assertRegex(page, rf"`{room}(\.py|/)`", room)

    def test_imports_go_upwards_only(self) -> None:
        for path, room, name, inside in self.found:
            where, *rest = name.split(".")
            wanted = room_of(tuple(rest))
            if where != "discosbackend" or wanted.startswith("_") or wanted == room:
                continue
            with self.subTest(str(path.relative_to(ROOT)), name=name):
                allowed = ABOVE["cli"] if room == "simulator" and path.stem in OF_CONNECTIONS else ALLOWED[room]
                self.assertTrue(wanted in allowed or (inside and (room, wanted) in ON_DEMAND))

    def test_imports_inside_the_simulator_go_upwards_only(self) -> None:
        layers = {room: number for number, layer in enumerate(SIMULATOR_LAYERS) for room in layer}
        found = {path.stem for path, room, _, _ in self.found if room == "simulator"} - {"__init__"}
        self.assertEqual(found, set(layers))
        page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        for room in sorted(layers):
            self.assertRegex(page, rf"\b{room}\b", room)
        for path, room, name, inside in self.found:
            _, simulator, wanted, *_ = [*name.split("."), "", "", ""]
            if (room, simulator) != ("simulator", "simulator") or path.stem in ("__init__", wanted):
                continue
            with self.subTest(path.stem, name=name):
                upwards = layers[wanted] < layers[path.stem]
                self.assertTrue(upwards or (inside and (path.stem, wanted) in SIMULATOR_ON_DEMAND))

    def test_imports_are_absolute(self) -> None:
        self.assertEqual(self.relative, [])

    def test_the_reactor_is_imported_inside_functions_only(self) -> None:
        for path, _, name, inside in self.found:
            if name == "twisted.internet.reactor":
                self.assertTrue(inside, path)

    def test_who_imports_numpy_and_astropy(self) -> None:
        for library, of_simulator in (("numpy", NUMPY), ("astropy", ASTROPY)):
            rooms = {path.stem for path, _, name, _ in self.found if name.split(".")[0] == library}
            self.assertEqual(rooms, {"timediscos"} | of_simulator, library)

    def test_what_the_reader_of_imports_finds(self) -> None:
        code = "import a.b\nfrom c import d\nclass E:\n  def f(self):\n    if self:\n      from g import h\n"
        tree = ast.parse(code)
        self.assertEqual(list(imports(tree)), [("a.b", False), ("c.d", False), ("g.h", True)])


class LoadingTests(unittest.TestCase):
    """What an import loads, in a fresh interpreter."""

    def check(self, code: str, *unwanted: str) -> None:
        told = f"{code}; import sys; print(*sys.modules)"
        command = [sys.executable, "-c", told]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True)
        loaded = set(done.stdout.split())
        self.assertIn("discosbackend", loaded)
        self.assertEqual(loaded & set(unwanted), set())

    def test_the_package_loads_next_to_nothing(self) -> None:
        code = "import discosbackend; dir(discosbackend)"
        self.check(code, "twisted", "astropy", "numpy", "discosbackend.ticks")

    def test_what_a_backend_needs_loads_no_astropy(self) -> None:
        names = "Acquisition, Argument, Backend, BackendError, Ticks, blocking, command"
        self.check(f"from discosbackend import {names}", "twisted", "astropy", "numpy")

    def test_the_client_loads_no_twisted(self) -> None:
        self.check("import discosbackend.client", "twisted", "astropy", "numpy")

    def test_the_program_loads_neither_the_reactor_nor_astropy(self) -> None:
        self.check("import discosbackend.cli.server", "twisted.internet.reactor", "astropy", "numpy")


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


class RequirementsTests(unittest.TestCase):
    """requirements.txt declares every distribution that the package imports, and nothing else."""

    def test_what_is_imported_is_declared(self) -> None:
        known = {*sys.stdlib_module_names, PACKAGE.name}
        trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
        found = {".".join(name.split(".")[:2]) for tree in trees for name, _ in imports(tree)}
        modules = {name for name in found if name.split(".")[0] not in known}
        lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        declared = {normalized(line.partition(">=")[0]) for line in lines}
        of_packages = packages_distributions()
        self.assertEqual(declared, {distribution_with(module, of_packages) for module in modules})

    def test_each_line_is_a_lowest_version_that_can_be_installed_exactly(self) -> None:
        """CI makes `==` of `>=` and runs the tests with these versions."""
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
            self.assertRegex(line, r"\A[A-Za-z][A-Za-z.-]*>=[0-9]+(\.[0-9]+)+\Z")


if __name__ == "__main__":
    unittest.main()
