"""The programs of the package, run in this process: what a command line prints, and its exit status.

Everything that a program changes of its process is put back: the current folder, the modules and where they are looked
for, the log, the handlers of signals. A process of its own shows nothing more, and takes a hundred times as long.
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from unittest import mock

from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock

from discosbackend import ticks

__all__ = ["Ended", "InMemory", "Listening", "Runs", "as_from_a_shell", "process_as_before", "run_program"]


class Ended(NamedTuple):
    """What is left of a program: its exit status, its standard output and its standard error."""

    status: int
    out: str
    err: str


class Runs(BaseException):
    """The reactor would run now."""


class InMemory(MemoryReactorClock):
    """The reactor of a program: what it does before it serves is done, then run() leaves the program."""

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Note what would listen. A real port has the address that it was told to have."""
        listening = super().listenTCP(port, factory, backlog, interface)
        listening._hostAddress = IPv4Address("TCP", interface, port or 49152)
        return listening

    def run(self) -> NoReturn:
        """What waits for it, in its first turn too."""
        self.running = self.hasRun = True
        for function, arguments, options in self.whenRunningHooks:
            function(*arguments, **options)
        self.advance(0)
        raise Runs


class Listening(InMemory):
    """One that listens as the installed reactor does, for command lines with which that cannot be done."""

    def __init__(self) -> None:
        from twisted.internet import reactor

        super().__init__()
        self._installed: Any = reactor
        self._ports: list[Any] = []
        self.listened: list[object] = []
        """The ports and paths at which it has listened."""

    def listenTCP(self, *arguments: Any, **options: Any) -> Any:
        return self._kept("listenTCP", *arguments, **options)

    def listenUNIX(self, *arguments: Any, **options: Any) -> Any:
        return self._kept("listenUNIX", *arguments, **options)

    def _kept(self, how: str, where: object, *arguments: Any, **options: Any) -> Any:
        self._ports.append(getattr(self._installed, how)(where, *arguments, **options))
        self.listened.append(where)
        return self._ports[-1]

    def close(self) -> None:
        """Listen no more."""
        for port in self._ports:
            self._installed.removeReader(port)
            port.socket.close()


def run_program(
    main: Callable[[Sequence[str]], NoReturn],
    *arguments: str,
    cwd: Path | str | None = None,
    reactor: InMemory | None = None,
) -> Ended:
    """Run a program that ends by itself, in an empty folder if none is given. AssertionError if it would serve."""
    out, err = StringIO(), StringIO()
    with process_as_before(reactor or InMemory(), cwd), redirect_stdout(out), redirect_stderr(err):
        try:
            main(as_from_a_shell(arguments))
        except Runs:
            raise AssertionError(f"it serves with {arguments}") from None
        except SystemExit as end:
            # A text is for standard error, as the interpreter would print it.
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            told = f"{end.code}\n" if isinstance(end.code, str) else ""
            return Ended(status, out.getvalue(), err.getvalue() + told)
    raise AssertionError("main() returned")


def as_from_a_shell(arguments: Sequence[str]) -> list[str]:
    """The same arguments in strings of their own: argparse takes the very object of a default for no argument."""
    return [argument.encode().decode() for argument in arguments]


@contextmanager
def process_as_before(reactor: InMemory, cwd: Path | str | None = None) -> Iterator[None]:
    """Have this reactor and this current folder, an empty one if none is given, and put back what a program changes.

    Modules of the user's are in that folder, and nowhere else.
    """
    import twisted.internet.reactor

    root = logging.getLogger()
    modules = set(sys.modules)
    importlib.invalidate_caches()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if cwd is None else cwd).resolve()
        stack.enter_context(chdir(folder))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            stack.callback(signal.signal, number, signal.getsignal(number))
        for logger in (root, logging.getLogger("twisted")):
            stack.callback(logger.setLevel, logger.level)
        for target, name, substitute in (
            (root, "handlers", []),
            (sys, "path", [entry for entry in sys.path if entry]),
            (ticks, "astropy_may_download", ticks.astropy_may_download),
        ):
            stack.enter_context(mock.patch.object(target, name, substitute))
        stack.enter_context(mock.patch.object(twisted.internet, "reactor", reactor))
        # The log of Twisted can be set up once in a process.
        stack.enter_context(mock.patch("twisted.logger.globalLogBeginner"))
        if isinstance(reactor, Listening):
            stack.callback(reactor.close)
        stack.callback(_forget, modules, folder)
        yield


def _forget(modules: set[str], folder: Path) -> None:
    """Forget the modules that came from a folder since there were only these."""
    for name in set(sys.modules) - modules:
        found = getattr(sys.modules[name], "__file__", None)
        if found is not None and Path(found).resolve().parent == folder:
            del sys.modules[name]
