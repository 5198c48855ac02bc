"""Processes: starts servers and other processes, measures them from outside, and stops them.

It also decides to which processor each process is pinned.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Self

from discosbackend.signals import ENDING

__all__ = ["CLIENT", "LOAD", "ROOT", "SERVER", "Companion", "NotMeasured", "Server", "asyncio_server"]
__all__ += ["our_server", "our_server_on_asyncio", "pin", "twisted_server", "unchecked_server", "unpin"]

ROOT = Path(__file__).resolve().parent.parent

_ADDRESS = re.compile(r"(127\.0\.0\.1):([0-9]+)")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Seconds within which a process must print the expected line.
_PATIENCE = 30.0


class NotMeasured(Exception):
    """A figure could not be measured, for example because a server does not start. The message is one line."""


# The processors that may be used; empty if processes cannot be pinned.
_ALLOWED = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


def _places() -> tuple[int | None, int | None, int | None]:
    """Return the processors for the server, for measuring clients, and for clients that only generate load."""
    if len(_ALLOWED) < 2:
        return None, None, None
    return _ALLOWED[0], _ALLOWED[1], _ALLOWED[min(2, len(_ALLOWED) - 1)]


SERVER, CLIENT, LOAD = _places()


def pin(pid: int, processor: int | None) -> None:
    """Pin a process (0: this one) to a processor; with None do nothing."""
    if processor is not None:
        os.sched_setaffinity(pid, {processor})


def unpin(pid: int) -> None:
    """Let a process and its future threads use all processors."""
    if _ALLOWED:
        os.sched_setaffinity(pid, _ALLOWED)


@contextmanager
def _signals_put_off() -> Iterator[None]:
    """Defer signals that end this process: a child that is being started or stopped would be left running.

    The handlers are replaced; a new process would inherit a mask of blocked signals.
    """
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in ENDING}
    replaced = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in replaced:
            signal.signal(number, lambda which, _: came.append(which))
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
        for which in came:
            signal.raise_signal(which)


class Companion:
    """A process `python ARGUMENTS` that communicates in lines; a context manager, which stops the process.

    The attribute `started` is perf_counter() just before the process was started.

    Parameters
    ----------
    arguments
        The arguments of python.
    cpu
        The processor to which it is pinned. Default: it is not pinned.
    stderr
        A file descriptor for its standard error. Default: a temporary file, whose last line error messages quote.
    start_new_session
        Whether to start it in a new session, in which Ctrl-C does not reach it.
    """

    def __init__(
        self,
        *arguments: str,
        cpu: int | None = None,
        stderr: int | None = None,
        start_new_session: bool = False,
    ) -> None:
        self.command = f"python {' '.join(arguments)}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # stop() closes it
        # Let python write its compiled modules, as for an installed package.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with ExitStack() as undo:
            with _signals_put_off():
                self.started = time.perf_counter()
                self._process = subprocess.Popen(  # stop() ends it
                    [sys.executable, *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._log if stderr is None else stderr,
                    # Unbuffered, because the poll in read_line() does not see data in a buffer.
                    bufsize=0,
                    start_new_session=start_new_session,
                )
                undo.callback(self.stop)
            pin(self.pid, cpu)
            self._prepare()
            undo.pop_all()

    def _prepare(self) -> None:
        """Wait until the process is ready."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def write_line(self, line: str) -> None:
        """Write one line to its standard input. Raise NotMeasured if the process has exited."""
        try:
            self._pipe(self._process.stdin).write(f"{line}\n".encode())
        except OSError:
            raise NotMeasured(f"{self.command} is gone{self._last_words()}") from None

    def read_line(self) -> str:
        """Return the next line that it prints. Raise NotMeasured if there is none within 30 s."""
        output = self._pipe(self._process.stdout)
        poll = select.poll()
        poll.register(output, select.POLLIN)
        line = output.readline() if poll.poll(_PATIENCE * 1000) else b""
        if not line:
            raise NotMeasured(f"{self.command} said nothing{self._last_words()}")
        return line.decode()

    def stop(self) -> None:
        """Terminate the process; kill it after five seconds."""
        with _signals_put_off():
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                self._pipe(pipe).close()
            self._log.close()

    def outlive(self, seconds: float) -> None:
        """Raise NotMeasured if the process has exited or exits within this time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise NotMeasured(f"{self.command} is gone{self._last_words()}")

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def log_size(self) -> int:
        """The bytes that it has written to standard error, if `stderr` was not given."""
        return os.fstat(self._log.fileno()).st_size

    def _last_words(self) -> str:
        """Return the last line of its log, for the end of an error message."""
        end = os.pread(self._log.fileno(), 2000, max(0, self.log_size - 2000)).split(b"\n")
        words = [line.decode(errors="replace") for line in end if line.strip()]
        return f": {words[-1]}" if words else ""

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


class Server(Companion):
    """A Companion that prints 127.0.0.1:PORT when it serves, which becomes `address`; else NotMeasured is raised."""

    def _prepare(self) -> None:
        announced = self.read_line()
        found = _ADDRESS.search(announced)
        if found is None:
            raise NotMeasured(f"{self.command} does not serve: it said {announced!r}")
        self.address = (found[1], int(found[2]))

    @property
    def memory(self) -> int:
        """The resident memory in bytes."""
        return int(self._read("statm").split()[1]) * _PAGE

    @property
    def peak_memory(self) -> int:
        """The peak of the resident memory in bytes."""
        return int(self._read("status").partition("VmHWM:")[2].split()[0]) * 1024

    @property
    def processor_time(self) -> float:
        """The processor time of all threads of the process in seconds."""
        tasks = Path(f"/proc/{self.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    @property
    def descriptors(self) -> int:
        """The number of open file descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def _read(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/{name}").read_text(encoding="ascii")


def our_server() -> Server:
    """Start the server under test, on the server's processor."""
    return Server("-m", "benchmarks.instrument", cpu=SERVER)


def our_server_on_asyncio() -> Server:
    """Start the server under test on the asyncio reactor, on the server's processor."""
    return Server("-m", "benchmarks.instrument", "asyncio", cpu=SERVER)


def twisted_server() -> Server:
    """Start the reference server, bare Twisted, on the same processor."""
    return Server("benchmarks/bare_twisted.py", cpu=SERVER)


def unchecked_server() -> Server:
    """Start bare Twisted with the backend under test, on the same processor."""
    return Server("-m", "benchmarks.bare_backend", cpu=SERVER)


def asyncio_server() -> Server:
    """Start bare asyncio, on the same processor."""
    return Server("benchmarks/bare_asyncio.py", cpu=SERVER)
