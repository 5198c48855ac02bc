"""Processes on loopback: servers and their companions, started, measured from outside, stopped.

What they do is their modules' affair. Also here: which processor each of them is pinned to.
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
from types import TracebackType
from typing import IO, Self

__all__ = ["CLIENT", "LOAD", "ROOT", "SERVER", "Companion", "NotMeasured", "Server", "asyncio_server"]
__all__ += ["our_server", "pin", "twisted_server", "unchecked_server", "unpin"]

ROOT = Path(__file__).resolve().parent.parent

_ADDRESS = re.compile(r"(127\.0\.0\.1):([0-9]+)")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Seconds within which a process must have said what it was asked.
_PATIENCE = 30.0


class NotMeasured(Exception):
    """Why a figure could not be measured, in a line: a server that does not start, a reply that is lost."""


# The processors that may be used: none where a process cannot be pinned.
_ALLOWED = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


def _places() -> tuple[int | None, int | None, int | None]:
    """Processors for the server, for its clients, and for clients that are only there as a load."""
    if len(_ALLOWED) < 2:
        return None, None, None
    return _ALLOWED[0], _ALLOWED[1], _ALLOWED[min(2, len(_ALLOWED) - 1)]


SERVER, CLIENT, LOAD = _places()


def pin(pid: int, processor: int | None) -> None:
    """Keep a process (0: this one) on one processor; None: leave it where it is."""
    if processor is not None:
        os.sched_setaffinity(pid, {processor})


def unpin(pid: int) -> None:
    """Let a process, and the threads that it will make, use every processor."""
    if _ALLOWED:
        os.sched_setaffinity(pid, _ALLOWED)


@contextmanager
def _signals_put_off() -> Iterator[None]:
    """Let signals that would end this process wait: one that is just made or ended would be left behind.

    Their handlers are replaced, not the signals blocked: that, the new process would inherit.
    """
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
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
    """`python` with these arguments, as a process of its own that is told and tells by lines.

    As a context manager; it is ended at the latest when that is left. What it writes to standard error goes
    to a file of which failures quote the end, unless `stderr` says where to. `cpu` pins it to one processor,
    `start_new_session` keeps the terminal's Ctrl-C from it. `started` is perf_counter() just before the
    process was made.
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
        # Modules are compiled once, as they are where packages are installed.
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
                    # What is read ahead into a buffer would be invisible to read_line()'s poll.
                    bufsize=0,
                    start_new_session=start_new_session,
                )
                undo.callback(self.stop)
            pin(self.pid, cpu)
            self._prepare()
            undo.pop_all()

    def _prepare(self) -> None:
        """Wait for what the process says before it can be used."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def write_line(self, line: str) -> None:
        """Write one line to its standard input; NotMeasured when it is gone."""
        try:
            self._pipe(self._process.stdin).write(f"{line}\n".encode())
        except OSError:
            raise NotMeasured(f"{self.command} is gone{self._last_words()}") from None

    def read_line(self) -> str:
        """The next line that it prints; NotMeasured when there is none within 30 s."""
        output = self._pipe(self._process.stdout)
        poll = select.poll()
        poll.register(output, select.POLLIN)
        line = output.readline() if poll.poll(_PATIENCE * 1000) else b""
        if not line:
            raise NotMeasured(f"{self.command} said nothing{self._last_words()}")
        return line.decode()

    def stop(self) -> None:
        """End the process, at the latest after five seconds."""
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
        """NotMeasured when the process is gone, or is so within that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise NotMeasured(f"{self.command} is gone{self._last_words()}")

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def log_size(self) -> int:
        """Bytes that it has written to standard error, if `stderr` was left alone."""
        return os.fstat(self._log.fileno()).st_size

    def _last_words(self) -> str:
        """The last line of its log, for the end of a sentence."""
        end = os.pread(self._log.fileno(), 2000, max(0, self.log_size - 2000)).split(b"\n")
        words = [line.decode(errors="replace") for line in end if line.strip()]
        return f": {words[-1]}" if words else ""

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


class Server(Companion):
    """A companion that prints 127.0.0.1:PORT once it serves, its `address`; NotMeasured when it does not."""

    def _prepare(self) -> None:
        announced = self.read_line()
        found = _ADDRESS.search(announced)
        if found is None:
            raise NotMeasured(f"{self.command} does not serve: it said {announced!r}")
        self.address = (found[1], int(found[2]))

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        return int(self._read("statm").split()[1]) * _PAGE

    @property
    def peak_memory(self) -> int:
        """The most resident memory that it ever had, in bytes."""
        return int(self._read("status").partition("VmHWM:")[2].split()[0]) * 1024

    @property
    def processor_time(self) -> float:
        """Seconds that all threads of the process have used a processor."""
        tasks = Path(f"/proc/{self.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    @property
    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def _read(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/{name}").read_text(encoding="ascii")


def our_server() -> Server:
    """The server under test, on the server's processor."""
    return Server("-m", "benchmarks.instrument", cpu=SERVER)


def twisted_server() -> Server:
    """The limit: bare Twisted, on the same processor as ours."""
    return Server("benchmarks/bare_twisted.py", cpu=SERVER)


def unchecked_server() -> Server:
    """Bare Twisted that asks our backend, on the same processor as ours."""
    return Server("-m", "benchmarks.bare_backend", cpu=SERVER)


def asyncio_server() -> Server:
    """Bare asyncio, on the same processor as ours."""
    return Server("benchmarks/bare_asyncio.py", cpu=SERVER)
