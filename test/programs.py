"""Run a program of the package in this process, for its output and exit status: a new process takes much longer.

What a program changes in its process is put back: the current folder, the modules and the search path for them, the
log, the handlers of signals. Instead of Twisted's reactor it gets one in memory, so that it serves nothing.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from unittest import mock

from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock

from discosbackend import ticks

from .settings import wait_for_imports

__all__ = ["InMemory", "Listening", "Outcome", "Runs", "as_from_a_shell", "process_as_before", "run_program"]


class Outcome(NamedTuple):
    """The exit status, the standard output and the standard error of a program."""

    status: int
    out: str
    err: str


class Runs(BaseException):
    """A program has called the reactor's run()."""


class InMemory(MemoryReactorClock):
    """A reactor in memory. run() does what a reactor does first, and then leaves the program with Runs."""

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Keep the arguments in tcpServers, and return a port with the address that was asked for."""
        listening = super().listenTCP(port, factory, backlog, interface)
        listening._hostAddress = IPv4Address("TCP", interface, port or 49152)
        return listening

    def run(self, installSignalHandlers: bool = True) -> NoReturn:  # noqa: N803  # as Twisted calls it
        """Call what was to be called when it runs, and in its first turn."""
        self.running = self.hasRun = True
        for function, arguments, options in self.whenRunningHooks:
            function(*arguments, **options)
        self.advance(0)
        raise Runs


class Listening(InMemory):
    """The same, but it listens with the installed reactor, for command lines with which listening must fail."""

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
        """Close what listens."""
        for port in self._ports:
            self._installed.removeReader(port)
            port.socket.close()


def run_program(
    main: Callable[[Sequence[str]], NoReturn],
    *arguments: str,
    cwd: Path | str | None = None,
    reactor: InMemory | None = None,
) -> Outcome:
    """Run a program that ends by itself, in an empty folder unless `cwd` is given. AssertionError if it would serve."""
    out, err = StringIO(), StringIO()
    with (
        process_as_before(reactor or InMemory(), cwd),
        redirect_stdout(out),
        redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        # Older Twisted leaves the socket open with which it could not listen.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            main(as_from_a_shell(arguments))
        except Runs:
            raise AssertionError(f"it serves with {arguments}") from None
        except SystemExit as end:
            # A text is for standard error, as the interpreter would print it.
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            told = f"{end.code}\n" if isinstance(end.code, str) else ""
            return Outcome(status, out.getvalue(), err.getvalue() + told)
    raise AssertionError("main() returned")


def as_from_a_shell(arguments: Sequence[str]) -> list[str]:
    """New strings with the same text: argparse ignores an argument that is the same object as its default."""
    return [os.fsdecode(os.fsencode(argument)) for argument in arguments]


@contextmanager
def process_as_before(reactor: InMemory, cwd: Path | str | None = None) -> Iterator[None]:
    """Install this reactor, change to an empty folder unless `cwd` is given, and put back what a program changes.

    Modules that were imported from that folder are forgotten. Imports that an earlier test has begun are waited for.
    """
    import twisted.internet.reactor

    wait_for_imports()
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
            (warnings, "showwarning", warnings.showwarning),
            (threading, "excepthook", threading.excepthook),
            (sys, "unraisablehook", sys.unraisablehook),
        ):
            stack.enter_context(mock.patch.object(target, name, substitute))
        stack.enter_context(mock.patch.object(twisted.internet, "reactor", reactor))
        # Twisted's log can be set up only once in a process.
        stack.enter_context(mock.patch("twisted.logger.globalLogBeginner"))
        if isinstance(reactor, Listening):
            stack.callback(reactor.close)
        stack.callback(_forget, modules, folder)
        yield


def _forget(modules: set[str], folder: Path) -> None:
    """Forget the modules that were imported from a folder, but for these."""
    for name in set(sys.modules) - modules:
        found = getattr(sys.modules[name], "__file__", None)
        if found is not None and Path(found).resolve().parent == folder:
            del sys.modules[name]
