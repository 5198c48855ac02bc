"""Run tests in situations that a machine may be in: in the background, on a busy machine, without IPv6, and so on.

    python -m test.situations                       every situation, with the modules that start processes
    python -m test.situations --only busy no-ipv6   some of them
    python -m test.situations --only busy --all     every test module

Each situation runs `./run_tests --fast` of this checkout, or of a copy. A situation that this machine
cannot be put into is skipped with the reason. The exit status is 1 if the tests failed in one of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .parallel import ROOT, processes_with, starts_processes
from .settings import PATIENCE

BUSY_LOOPS = 8
COPIES = 3
NOBODY = 65534


class CannotBe(Exception):
    """This machine cannot be put into the situation; the text says why."""


class Trial:
    """How the tests are run; a situation changes it.

    `prefix` are programs that start the command line, `environment` variables of the tests (None removes one), `root`
    the checkout that is used, `copies` how many run side by side.
    """

    def __init__(self, names: Sequence[str], stack: ExitStack) -> None:
        self.names = list(names)
        self.options: list[str] = []
        self.prefix: list[str] = []
        self.environment: dict[str, str | None] = {}
        self.root = ROOT
        self.copies = 1
        self.stack = stack

    def start(self) -> subprocess.Popen[str]:
        """Start the tests; their output comes through a pipe."""
        environment = {key: value for key, value in os.environ.items() if key not in self.environment}
        environment |= {key: value for key, value in self.environment.items() if value is not None}
        return subprocess.Popen(
            [*self.prefix, sys.executable, str(self.root / "run_tests"), "--fast", *self.names, *self.options],
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def folder(self) -> Path:
        """A temporary folder that everybody may use."""
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="discos-situation-")))
        folder.chmod(0o777)
        return folder

    def copy(self, folder: Path) -> None:
        """Use a copy of the checkout below that folder."""
        kept = shutil.ignore_patterns(".git", ".venv*", "htmlcov", "__pycache__", ".mypy_cache", ".ruff_cache", "build")
        self.root = Path(shutil.copytree(ROOT, folder / "copy", ignore=kept, symlinks=True))


def background(trial: Trial) -> None:
    """Signals are ignored, as in a background job of a script."""
    trial.prefix = _shell("trap '' INT HUP QUIT")


def nohup(trial: Trial) -> None:
    """Under nohup and setsid, with standard input closed."""
    trial.prefix = [_program("setsid"), "--wait", _program("nohup"), *_shell("exec <&-")]


def busy(trial: Trial) -> None:
    """Beside eight busy loops."""
    for _ in range(BUSY_LOOPS):
        loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        trial.stack.callback(loop.wait)
        trial.stack.callback(loop.kill)


def ordinary_user(trial: Trial) -> None:
    """As a user who is not root, without a home."""
    if os.geteuid() != 0:
        return
    who = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    trial.prefix = [_program("setpriv"), *who]
    # What setpriv executes still has root's capabilities; only its child has not.
    asked = [*trial.prefix, "sh", "-c", '"$0" -c pass; exit', sys.executable]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        raise CannotBe(f"other users may not run {sys.executable}")
    trial.copy(trial.folder())
    for path in (trial.root, *trial.root.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    trial.environment["HOME"] = "/nonexistent"


def odd_path(trial: Trial) -> None:
    """From a path with blanks and a letter that is not ASCII."""
    folder = trial.folder() / "a path with ñ"
    folder.mkdir()
    trial.copy(folder)


def no_home(trial: Trial) -> None:
    """Without HOME."""
    trial.environment["HOME"] = None


def unwritable_home(trial: Trial) -> None:
    """With a HOME in which nothing can be written, root included."""
    trial.environment["HOME"] = "/proc"


def c_locale(trial: Trial) -> None:
    """In the C locale."""
    trial.environment["LC_ALL"] = "C"


def far_time_zone(trial: Trial) -> None:
    """In a time zone twelve hours from UTC."""
    trial.environment["TZ"] = "Pacific/Auckland"


def strict_umask(trial: Trial) -> None:
    """With a umask that lets nobody else read."""
    trial.prefix = _shell("umask 077")


def no_network(trial: Trial) -> None:
    """Without a network but loopback."""
    _own_network(trial, "ip link set lo up")


def no_ipv6(trial: Trial) -> None:
    """Without IPv6."""
    _own_network(trial, "ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")


def _own_network(trial: Trial, preparation: str) -> None:
    trial.prefix = [_program("unshare"), "--net", "--map-root-user", *_shell(preparation)]
    tried = subprocess.run([*trial.prefix, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise CannotBe(tried.stderr.strip() or "no network of its own can be made")


def no_bytecode(trial: Trial) -> None:
    """Where Python writes no bytecode, and finds none."""
    trial.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    trial.copy(trial.folder())


def random_order(trial: Trial) -> None:
    """In random order."""
    trial.options.append("--random")


def three_copies(trial: Trial) -> None:
    """Three copies side by side."""
    trial.copies = COPIES


SITUATIONS: dict[str, Callable[[Trial], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        background,
        nohup,
        busy,
        ordinary_user,
        odd_path,
        no_home,
        unwritable_home,
        c_locale,
        far_time_zone,
        strict_umask,
        no_network,
        no_ipv6,
        no_bytecode,
        random_order,
        three_copies,
    )
}


def _shell(preparation: str) -> list[str]:
    """What runs a command line after a preparation in the same process."""
    return ["sh", "-euc", f'{preparation}; exec "$@"', "sh"]


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CannotBe(f"there is no program {name}")
    return found


def tried(name: str, names: Sequence[str]) -> bool | None:
    """Run the tests in that situation; whether they passed, None where it cannot be."""
    with ExitStack() as stack:
        trial = Trial(names, stack)
        begun = time.monotonic()
        try:
            SITUATIONS[name](trial)
        except CannotBe as reason:
            print(f"{name}: skipped, {reason}", flush=True)
            return None
        running = [trial.start() for _ in range(trial.copies)]
        outputs = [process.communicate()[0] for process in running]
    passed = all(process.returncode == 0 for process in running)
    for output in outputs:
        print(output if not passed else output.strip().rpartition("\n")[2])
    print(f"{name}: {'passed' if passed else 'FAILED'}, after {time.monotonic() - begun:.0f} s", flush=True)
    return passed


@contextmanager
def _interrupted(names: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Tests whose temporary files lie in that folder."""
    with ExitStack() as stack:
        trial = Trial(names, stack)
        trial.environment["TMPDIR"] = str(folder)
        process = trial.start()
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def interruption(names: Sequence[str]) -> bool:
    """Ctrl-C and SIGTERM in the middle of the tests leave no process and no temporary file behind."""
    good = True
    for number in (signal.SIGINT, signal.SIGTERM):
        with tempfile.TemporaryDirectory(prefix="discos-situation-") as place, _interrupted(names, Path(place)) as run:
            assert run.stdout is not None
            run.stdout.readline()  # the first module is done, others are at work
            run.send_signal(number)
            run.communicate(timeout=PATIENCE)
            left = list(Path(place).iterdir())
            processes = processes_with("TMPDIR", place)
            fine = not left and not processes and run.returncode != 0
            good = good and fine
            print(
                f"interrupted by {number.name}: {'passed' if fine else f'FAILED, left: {left} {processes}'}", flush=True
            )
    return good


def main() -> int:
    """Try what the command line names; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SITUATIONS, "interruption"], metavar="SITUATION")
    parser.add_argument("--all", action="store_true", help="every test module, not only those that start processes")
    parser.add_argument("--list", action="store_true", help="say which situations there are")
    parser.add_argument("names", nargs="*", metavar="NAME", help="modules, classes or tests to run instead")
    options = parser.parse_args()
    if options.list:
        for name, function in SITUATIONS.items():
            print(f"{name:16} {function.__doc__}")
        print(f"{'interruption':16} {interruption.__doc__}")
        return 0
    every = sorted((ROOT / "test").glob("test_*.py"))
    names = options.names or [path.stem for path in every if options.all or starts_processes(path)]
    results: dict[str, bool | None] = {}
    for name in options.only or [*SITUATIONS, "interruption"]:
        results[name] = interruption(names) if name == "interruption" else tried(name, names)
    failed = [name for name, passed in results.items() if passed is False]
    skipped = [name for name, passed in results.items() if passed is None]
    print(f"FAILED in: {', '.join(failed)}" if failed else "passed in every situation")
    print(f"{len(results) - len(failed) - len(skipped)} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
