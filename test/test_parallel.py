"""What ./run_tests is made of: modules in worker processes, and what is said of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from .parallel import ROOT, Outcomes, Run, modules_of, processes_with, starts_processes
from .serving import run_python
from .settings import PATIENCE, wait_until
from .worker import Outcome

HEAD = "import os, subprocess, sys, tempfile, time, unittest\n"


def state_of(process: int) -> str:
    """The letter that the kernel gives: Z for one that has ended and that nobody has waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


class RunTests(unittest.TestCase):
    """Modules of all kinds, run by workers."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.printed = io.StringIO()

    def run_modules(
        self, limit: float = PATIENCE, seed: int | None = None, workers: int = 2, **modules: str
    ) -> Outcomes:
        for name, code in modules.items():
            (self.folder / f"{name}.py").write_text(HEAD + code, encoding="utf-8")
        run = Run(
            {name: [name] for name in modules},
            workers,
            seed=seed,
            environment={"PYTHONPATH": str(self.folder)},
            durations=self.folder / "durations",
            limit=limit,
            grace=0.3,
        )
        with contextlib.redirect_stdout(self.printed):
            return run.run()

    def test_each_kind_of_outcome(self) -> None:
        outcomes = self.run_modules(
            kinds=(
                "class T(unittest.TestCase):\n"
                "    test_case = 'not that of a subtest'\n"
                "    def test_good(self): pass\n"
                "    def test_fails(self): print('shown'); self.fail('wrong')\n"
                "    def test_raises(self): raise OSError('gone')\n"
                "    def test_subtests(self):\n"
                "        for text in ('\\udcff', 'b'):\n"
                "            with self.subTest(text): self.fail()\n"
                "    @unittest.skip('no time')\n"
                "    def test_skipped(self): pass\n"
                "    @unittest.expectedFailure\n"
                "    def test_succeeds(self): pass\n"
                "    @unittest.expectedFailure\n"
                "    def test_known(self): self.fail()\n"
            )
        )
        self.assertEqual(outcomes.counts, "2 passed, 4 failed, 1 skipped")
        self.assertEqual(
            [name for name, _ in outcomes.failed],
            ["kinds.T.test_raises", "kinds.T.test_fails", *["kinds.T.test_subtests"] * 2, "kinds.T.test_succeeds"],
        )
        report = outcomes.report()
        for text in ("FAILED kinds.T.test_fails", "AssertionError: wrong", "shown", "OSError: gone", "\\udcff"):
            self.assertIn(text, report.replace("\udcff", "\\udcff"))
        self.assertIn("  kinds.T.test_skipped: no time", report)
        self.assertEqual(report.count("shown"), 2)  # the line of code, and what it printed
        self.assertRegex(self.printed.getvalue(), r" 5 FAILED  kinds +7 tests +\d+\.\d s   0 modules left\n")

    def test_fixtures_of_a_module(self) -> None:
        outcomes = self.run_modules(
            good=(
                "done = []\n"
                "def setUpModule():\n"
                "    unittest.addModuleCleanup(done.append, 1)\n"
                "    folder = unittest.enterModuleContext(tempfile.TemporaryDirectory())\n"
                "    open(folder + '/file', 'w').close()\n"
                "class T(unittest.TestCase):\n"
                "    def test_it(self): self.assertEqual(done, [])\n"
            ),
            after="import good\nclass T(unittest.TestCase):\n    def test_it(self): self.assertEqual(good.done, [1])\n",
            broken="def setUpModule(): raise OSError('no luck')\n"
            "class T(unittest.TestCase):\n    def test_it(self): pass\n",
            absent="def setUpModule(): raise unittest.SkipTest('not here')\n"
            "class T(unittest.TestCase):\n    def test_it(self): pass\n",
            nonsense="def\n",
            workers=1,
        )
        self.assertEqual(outcomes.counts, "2 passed, 2 failed, 1 skipped")
        failed = dict(outcomes.failed)
        self.assertIn("no luck", failed["setUpModule (broken)"])
        self.assertIn("SyntaxError", failed["nonsense"])
        self.assertIn("setUpModule (absent): not here", outcomes.report())

    def test_a_worker_that_dies_costs_its_module_only(self) -> None:
        outcomes = self.run_modules(
            first="class T(unittest.TestCase):\n    def test_it(self): os.write(2, b'last words\\n'); os._exit(7)\n",
            second="class T(unittest.TestCase):\n    def test_it(self): pass\n",
            workers=1,
        )
        self.assertEqual(outcomes.counts, "1 passed, 1 failed, 0 skipped")
        ((name, text),) = outcomes.failed
        self.assertEqual(name, "first")
        self.assertIn("its process ended with status 7, or took too long", text)
        self.assertIn("last words", text)

    def test_a_module_that_hangs_shows_where(self) -> None:
        # On a busy machine the worker is still being started at the first of these limits.
        for limit in (1.0, 5.0, PATIENCE):
            outcomes = self.run_modules(
                hangs="class T(unittest.TestCase):\n    def test_it(self): self.stuck_here()\n"
                "    def stuck_here(self):\n        while True: time.sleep(1)\n",
                limit=limit,
            )
            ((name, text),) = outcomes.failed
            self.assertEqual(name, "hangs")
            if "in stuck_here" in text:
                return
        self.fail(text)

    def test_the_output_of_child_processes_is_shown_with_a_failure(self) -> None:
        child = "subprocess.run([sys.executable, '-c', 'print(\"child of %s\")'], check=True)"
        code = f"class T(unittest.TestCase):\n    def test_it(self): {child}; {{}}\n"
        outcomes = self.run_modules(
            good=code.format("pass") % "good", bad=code.format("self.fail()") % "bad", workers=1
        )
        self.assertIn("child of bad", outcomes.report())
        self.assertNotIn("child of good", outcomes.report())

    def test_what_is_left_behind_is_a_failure_and_goes(self) -> None:
        outcomes = self.run_modules(
            leaves=(
                "class T(unittest.TestCase):\n"
                "    def test_it(self):\n"
                "        code = 'import time; time.sleep(1000)  # of mine'\n"
                "        child = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n"
                f"        with open({str(self.folder / 'pid')!r}, 'w') as file: file.write(str(child.pid))\n"
                "        tempfile.mkdtemp(prefix='mine')\n"
            )
        )
        found = dict(outcomes.failed)
        self.assertIn("# of mine", found["process left behind"])
        self.assertTrue(found["temporary file left behind"].startswith("mine"))
        self.assertEqual(outcomes.counts, "1 passed, 2 failed, 0 skipped")
        process = int((self.folder / "pid").read_text("utf-8"))
        wait_until(lambda: state_of(process) in ("gone", "Z"), "the end of a process that was killed")

    def test_a_deep_folder_that_is_left_behind_goes(self) -> None:
        """One deeper than Python's recursion limit, and a folder that may not be written to."""
        outcomes = self.run_modules(
            leaves=(
                "class T(unittest.TestCase):\n"
                "    def test_it(self):\n"
                f"        with open({str(self.folder / 'place')!r}, 'w') as file: file.write(tempfile.gettempdir())\n"
                "        os.makedirs(tempfile.mkdtemp() + '/closed/in', 0o500)\n"
                "        before = os.getcwd()\n"
                "        os.chdir(tempfile.mkdtemp())\n"
                "        for _ in range(1500):\n"
                "            os.mkdir('x')\n"
                "            os.chdir('x')\n"
                "        os.chdir(before)\n"
            )
        )
        self.assertEqual([name for name, _ in outcomes.failed], ["temporary file left behind"] * 2)
        place = Path((self.folder / "place").read_text("utf-8"))
        self.assertTrue(place.name.startswith("discos-test-"), place)
        self.assertFalse(place.exists())

    def test_a_shuffled_run_has_the_same_tests_in_another_order(self) -> None:
        tests = "".join(f"    def test_{number}(self): pass\n" for number in range(30))
        code = f"class A(unittest.TestCase):\n{tests}class B(unittest.TestCase):\n{tests}"
        plain, first, again, other = (list(self.run_modules(many=code, seed=seed).seconds) for seed in (None, 1, 1, 2))
        self.assertEqual(len(plain), 60)
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertEqual(sorted(first), sorted(plain))
        # The tests of a class stay together, so that its fixtures run once.
        self.assertEqual(len([1 for one, two in zip(first, first[1:], strict=False) if one[5] != two[5]]), 1)

    def test_durations_are_kept(self) -> None:
        durations = self.folder / "durations"
        durations.write_text('{"other": 5.0, "odd": "text"}', encoding="utf-8")
        self.run_modules(one="class T(unittest.TestCase):\n    def test_it(self): pass\n")
        kept = json.loads(durations.read_text("utf-8"))
        self.assertEqual((set(kept), kept["other"]), ({"one", "other"}, 5.0))


class OutcomeTests(unittest.TestCase):
    def test_a_test_that_was_skipped_before_it_was_started(self) -> None:
        outcome = Outcome(unittest.runner._WritelnDecorator(io.StringIO()), True, 0)
        outcome.addSkip(self, "no time")
        outcome.stopTest(self)
        self.assertEqual(outcome.seconds, {self.id(): 0.0})


class ModulesTests(unittest.TestCase):
    """Which modules run, and in which order."""

    def setUp(self) -> None:
        self.durations = Path(self.enterContext(tempfile.TemporaryDirectory())) / "durations"

    def test_every_module(self) -> None:
        every = {f"test.{path.stem}" for path in (ROOT / "test").glob("test_*.py")}
        self.assertEqual(set(modules_of([], self.durations)), every)

    def test_the_longest_first(self) -> None:
        known = {"test.test_ticks": 0.5, "test.test_values": 9.0, "test.test_wire": 1.0}
        self.durations.write_text(json.dumps(known), encoding="utf-8")
        names = ["test_ticks", "test_values", "test_wire"]
        self.assertEqual(
            list(modules_of(names, self.durations)), [f"test.test_{x}" for x in ("values", "wire", "ticks")]
        )
        for text in ("", "[]", '{"test.test_ticks": "x"}', "nonsense"):
            with self.subTest(text):
                self.durations.write_text(text, encoding="utf-8")
                self.assertEqual(len(modules_of(names, self.durations)), 3)

    def test_a_guess_by_what_a_module_starts(self) -> None:
        self.assertTrue(starts_processes(ROOT / "test" / "test_parallel.py"))
        self.assertFalse(starts_processes(ROOT / "test" / "test_ticks.py"))

    def test_classes_and_tests(self) -> None:
        one = "test.test_parallel.ModulesTests"
        two = "test_parallel.ModulesTests.test_every_module"
        self.assertEqual(modules_of([one, two], self.durations), {"test.test_parallel": [one, f"test.{two}"]})

    def test_names_that_mean_nothing(self) -> None:
        for name in ("test_nonesuch", "nonesuch", "test_parallel.Nonesuch", "test_parallel.ModulesTests.test_no", ""):
            with self.subTest(name), self.assertRaisesRegex(ValueError, "there is no test"):
                modules_of([name], self.durations)


class CommandTests(unittest.TestCase):
    """The script itself, on a small module."""

    def run_script(self, *options: str, fresh: bool = False) -> subprocess.CompletedProcess[str]:
        return run_python(ROOT / "run_tests", *options, fresh=fresh)

    def test_one_class(self) -> None:
        done = self.run_script("test_parallel.ModulesTests", fresh=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        *_, verdict, counts = done.stdout.splitlines()
        self.assertRegex(verdict, r"^all passed, after \d+ s$")
        self.assertRegex(counts, r"^\d passed, 0 failed, 0 skipped$")

    def test_command_lines_that_mean_nothing(self) -> None:
        for options, wanted in (
            (["nonesuch"], "there is no test module for 'nonesuch'"),
            (["--fast", "--checks"], "not allowed with argument"),
            (["test_ticks", "--tests"], "leave out --tests and --checks"),
            (["--jobs", "0"], "--jobs must be at least 1"),
        ):
            with self.subTest(options):
                done = self.run_script(*options)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(wanted, done.stderr)
                self.assertNotIn("Traceback", done.stderr)

    def test_nothing_runs_on_after_its_tests(self) -> None:
        mine = re.compile(r"[0-9a-f]{32}")
        self.assertRegex(os.environ.get("DISCOS_TEST_RUN", "0" * 32), mine)
        self.assertEqual(processes_with("DISCOS_TEST_RUN", "nonesuch"), [])


if __name__ == "__main__":
    unittest.main()
