"""docs/testing-your-backend.md: every command line in it works, and every profile in it can be loaded."""

from __future__ import annotations

import importlib.util
import io
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from discosbackend.cli import check
from discosbackend.testing.profile_file import load_profile

from .serving import ROOT, SCRIPT, Server, run_python, served
from .settings import LONG, long_only

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "testing-your-backend.md").read_text(encoding="utf-8")

_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# The address of a server in a command line.
_ADDRESS = re.compile(r"(?:127\.0\.0\.1|192\.0\.2\.7|\[::1\]):(\d+)")

# test_docs runs this one.
AS_IN_THE_README = "python -m unittest -v test_mybackend"


def blocks(text: str, language: str) -> list[tuple[str, str]]:
    """Return the blocks of code in a language: the name of the file, "" if it is not a file, and the code."""
    found = [(words.split(), textwrap.dedent(code)) for _, words, code in _FENCE.findall(text)]
    return [
        ("".join(word.removeprefix("file=") for word in words[1:] if word.startswith("file=")), code)
        for words, code in found
        if words[:1] == [language]
    ]


def lines(text: str) -> list[str]:
    """Return the command lines in the shell blocks."""
    return [line for _, code in blocks(text, "sh") for line in code.splitlines()]


# What leaves out the cases for which the backend makes no difference. They are run on other backends in other tests,
# and on this one in test_docs.
FEWER_CASES = """
for case in CASES.values():
    if re.match("hostile|framing|grammar|.*/wrong-number", case.id):
        # Trial would call a method that is None.
        delattr(BackendConformance, case.method)
"""


class CommandLinesTests(unittest.TestCase):
    """Run in a folder with the files of the page and the README, with a simulated instrument as the server at 8978.

    Without --long the tests of the README leave out some cases.
    """

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by addCleanup
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for name in ("mybackend.py", "test_mybackend.py"):
            found = re.search(rf"Write `{re.escape(name)}`:\n\n```python\n(.*?)```", README, re.DOTALL)
            assert found is not None
            self.write(name, found[1])
        if not LONG:
            tests = self.folder / "test_mybackend.py"
            imports = "import re\nfrom discosbackend.testing.conformance import CASES\n"
            self.write(tests.name, f"{imports}{tests.read_text(encoding='utf-8')}{FEWER_CASES}")
        for language in ("python", "toml"):
            for name, code in blocks(PAGE, language):
                if name:
                    self.write(name, code)
        self.server = self.enterContext(served(cwd=self.folder))
        self.ports = {8978: self.server.address[1]}

    def write(self, name: str, code: str) -> None:
        (self.folder / name).write_text(code, encoding="utf-8")

    def words(self, line: str) -> list[str]:
        """Return the words of a command line, changed to use this Python, this checkout and the servers of the test."""
        line = _ADDRESS.sub(lambda found: f"127.0.0.1:{self.ports[int(found[1])]}", line)
        program, *words = shlex.split(line)
        # The lines of the README use the environment that the README creates.
        program = program.removeprefix(".venv/bin/")
        if program == "python":
            return [sys.executable, *words]
        self.assertRegex(program, "^discos-backend-", line)
        return [sys.executable, str(SCRIPT.with_name(program)), *words]

    def start(self, line: str) -> None:
        """Run a line that ends in `&`. It starts a server, which the lines after it use."""
        words = self.words(line.removesuffix("&"))
        at = words.index("--port") + 1
        port, words[at] = int(words[at]), "0"
        server = Server(words, self.folder)
        self.addCleanup(server.end)
        self.ports[port] = server.address[1]

    def run_all(self, found: list[str]) -> str:
        """Run the lines, each of which must succeed, and return their output."""
        said = ""
        with ThreadPoolExecutor() as threads:
            running = []
            for line in found:
                if line.endswith("&"):
                    self.start(line)
                elif "-m pytest" not in line or importlib.util.find_spec("pytest") is not None:
                    # Tests start their own servers, so they run in parallel. The other lines run one after another.
                    running.append((line, threads.submit(self.run_one, self.words(line))))
                    if "-m discosbackend.client" in line or "discos-backend-" in line:
                        running[-1][1].result()
            for line, future in running:
                done = future.result()
                with self.subTest(line):
                    self.assertEqual(done.returncode, 0, done.stdout)
                said += done.stdout
        return said

    def run_one(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        self.assertEqual(words[0], sys.executable)
        return run_python(*words[1:], cwd=self.folder, together=True)

    def test_of_the_page(self) -> None:
        found = lines(PAGE)
        self.assertGreaterEqual(len(found), 7)
        self.assertIn(AS_IN_THE_README, found)
        said = self.run_all([line for line in found if LONG or line != AS_IN_THE_README])
        self.assertIn("python -m twisted.trial test_mybackend", found)
        self.assertRegex(said, r"PASSED \(skips=\d+, successes=\d+\)")
        # The cases for own commands were run by unittest and by discos-backend-check.
        self.assertRegex(said, r"test_sweep_wrong_type_of_arguments .*\n.* ok\n")
        self.assertIn("As required: of 3 cases, none failed.", said)

    @long_only
    def test_of_the_readme(self) -> None:
        section = README.partition("\n## Test your own backend\n")[2].partition("\n## ")[0]
        found = lines(section)
        self.assertEqual(len(found), 2)
        self.run_all(found)

    def test_of_the_help(self) -> None:
        found = re.findall(r"^  %\(prog\)s( .*?)(?:  .*)?$", check.EXAMPLES, re.MULTILINE)
        self.assertGreaterEqual(len(found), 5)
        for line in found:
            with (
                self.subTest(line),
                mock.patch.object(check, "Run") as made,
                mock.patch("discosbackend.cli.check_client.ClientCheck", made),
                redirect_stdout(io.StringIO()),
            ):
                made.return_value.report_to.return_value = 0
                with redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit) as end:
                    check.main(shlex.split(line))
                self.assertEqual((end.exception.code, said.getvalue()), (0, ""))


class ProfilesTests(unittest.TestCase):
    def test_of_the_page(self) -> None:
        found = blocks(PAGE, "toml")
        self.assertEqual([name for name, _ in found], ["bench.toml", "sweeper.toml"])
        for name, code in found:
            with self.subTest(name), tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(code)
                file.flush()
                profile = load_profile(file.name)
                self.assertNotEqual(vars(profile), {})


if __name__ == "__main__":
    unittest.main()
