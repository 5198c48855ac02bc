"""Servers in processes of their own, for the tests that need the real thing: real sockets, real signals."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

from . import forking
from .forking import environment
from .settings import PATIENCE, REACTOR

__all__ = [
    "ROOT",
    "SCRIPT",
    "Server",
    "ask",
    "bare_environment",
    "connected",
    "environment",
    "fill",
    "forked_companions",
    "forked_kit_servers",
    "program",
    "read_line",
    "refusing",
    "run_python",
    "served",
    "served_by",
]

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "discos-backend-server"


def bare_environment() -> dict[str, str]:
    """The environment of a process that has to find the checkout by itself, as a script of a checkout does."""
    found = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(entry for entry in found if entry and Path(entry).resolve() != ROOT)
    return {**os.environ, "PYTHONPATH": path}


def run_python(
    *arguments: str | Path,
    cwd: Path | str = ROOT,
    env: dict[str, str] | None = None,
    fresh: bool = False,
    together: bool = False,
    stdout: IO[bytes] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run an interpreter to its end, and return its exit status and output.

    Parameters
    ----------
    arguments
        What follows the interpreter on the command line.
    cwd
        Its current folder.
    env
        Its environment. Default: environment().
    fresh
        Whether it must be a new interpreter, as for a test of what is imported. Default: it is a forked process (see
        forking.py) if the command and the environment allow it.
    together
        Whether `stdout` of the result has what it writes to standard error too, in the order in which it is written.
    stdout
        A file to which its standard output goes instead.
    """
    command = [sys.executable, *map(str, arguments)]
    env = environment() if env is None else env
    if not fresh:
        return forking.run(command, cwd=cwd, env=env, timeout=PATIENCE, together=together, stdout=stdout)
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.STDOUT if together else subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@contextmanager
def forked_companions() -> Iterator[None]:
    """Have the servers of the benchmarks be forked processes (see forking.py), if the environment allows it."""
    from benchmarks import servers

    def start(command: Sequence[str], *, env: Mapping[str, str], **options: Any) -> Any:
        return forking.popen(command, env=environment(), **options)

    substitute = SimpleNamespace(**{**vars(subprocess), "Popen": start})
    with mock.patch.object(servers, "subprocess", substitute):
        yield


@contextmanager
def forked_kit_servers() -> Iterator[None]:
    """Have each ServerProcess of the kit be a forked process (see forking.py), if its environment allows it."""
    from discosbackend.testing import process

    substitute = SimpleNamespace(**{**vars(subprocess), "Popen": forking.popen})
    with mock.patch.object(process, "subprocess", substitute):
        yield


class Server:
    """A server process. It starts at once; whatever asks for its address waits until it listens, or is gone.

    It is a forked process (see forking.py) if `fresh` is false and the command and the environment allow it.

    `announced` is its first line of standard output, `address` where it said there that it listens. Where `stdout`
    is given, nothing can be read there, and nothing says when it is ready. Where `stderr` is given, log() is empty.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path | str = ROOT,
        env: dict[str, str] | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
        fresh: bool = False,
    ) -> None:
        # A file, not a pipe: nobody reads it while the server runs, and a full pipe would stop it.
        self._log_file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by end()
        env = environment() if env is None else env
        self.process: subprocess.Popen[str] | forking.Process
        if not fresh and forking.can_start(command, env):
            self.process = forking.start(
                command,
                cwd,
                env,
                None if stdout is None else stdout.fileno(),
                self._log_file.fileno() if stderr is None else stderr.fileno(),
            )
            return
        self.process = subprocess.Popen(  # ended by end()
            command,
            cwd=cwd,
            env=env,
            # Not that of the tests, which may be closed, or a terminal.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=self._log_file if stderr is None else stderr,
            text=True,
        )

    @cached_property
    def announced(self) -> str:
        """Its first line, without the line end; "" when it has ended without any."""
        return self.next_line()

    @property
    def address(self) -> tuple[str, int]:
        """The host and port of the announcement; ("", 0) if it names none."""
        found = re.search(r"(\S+):(\d+), protocol version", self.announced)
        return (found[1].strip("[]"), int(found[2])) if found else ("", 0)

    def next_line(self) -> str:
        """The next line of its standard output, without the line end; "" when it has ended.

        One that stays silent for PATIENCE is killed, and so has ended too.
        """
        assert self.process.stdout is not None
        watchdog = Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            return self.process.stdout.readline().rstrip("\n")
        finally:
            watchdog.cancel()

    def connect(self) -> socket.socket:
        """A connection whose greeting has been read."""
        assert self.address[1], f"it announced {self.announced!r}, and logged: {self.log()}"
        connection = socket.create_connection(self.address, PATIENCE)
        try:
            greeting = read_line(connection)
            assert greeting == b"!version,ok,1.4\r\n", greeting
        except BaseException:
            connection.close()
            raise
        return connection

    def stop(self, *signals: int) -> int:
        """Send the signals, wait for the end, and return the exit status."""
        for signal in signals:
            self.process.send_signal(signal)
        return self.process.wait(PATIENCE)

    def log(self) -> str:
        """What it has written to standard error."""
        # Read without moving the position, which is that of the server too: it would write there.
        size = os.fstat(self._log_file.fileno()).st_size
        return os.pread(self._log_file.fileno(), size, 0).decode(errors="backslashreplace")

    def end(self) -> None:
        """Whatever the test did, leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()
        # With -b this is shown only if the test fails.
        sys.stderr.write(self.log())
        self._log_file.close()


def program(*options: str) -> list[str]:
    """The command that serves from the checkout, on a free port; what is simulated records nothing unless told to."""
    if not {"--data", "--backend"} & set(options):
        options = ("--no-data", *options)
    if "--reactor" not in options and REACTOR != "default":
        options = ("--reactor", REACTOR, *options)
    return [sys.executable, str(SCRIPT), "--port", "0", *options]


@contextmanager
def served(*options: str, cwd: Path | str = ROOT) -> Iterator[Server]:
    """The program, ready, and ended in the end whatever the test did."""
    with _ready(Server(program(*options), cwd)) as server:
        yield server


@contextmanager
def served_by(code: str, cwd: Path | str = ROOT) -> Iterator[Server]:
    """A fresh interpreter that runs `code`, which ends in run_server, on the reactor of the tests."""
    if REACTOR == "asyncio":
        code = f"from twisted.internet import asyncioreactor; asyncioreactor.install()\n{code}"
    with _ready(Server([sys.executable, "-c", code], cwd)) as server:
        yield server


@contextmanager
def _ready(server: Server) -> Iterator[Server]:
    try:
        _ = server.announced
        yield server
    finally:
        server.end()


@contextmanager
def refusing() -> Iterator[int]:
    """A port of 127.0.0.1 at which connections are refused, and which nobody else gets meanwhile.

    A server that is given this port can listen on it nevertheless.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def fill(descriptor: int) -> None:
    """Fill a pipe. Its flags are those of before afterwards."""
    os.set_blocking(descriptor, False)
    try:
        for size in (4096, 1):
            try:
                while True:
                    os.write(descriptor, b"x" * size)
            except BlockingIOError:
                continue
    finally:
        os.set_blocking(descriptor, True)


def read_line(connection: socket.socket) -> bytes:
    """One line with its end, and nothing of what follows; less when the connection ends."""
    line = b""
    while not line.endswith(b"\n"):
        # With TLS, nothing can be looked at in advance.
        size = 1 if isinstance(connection, ssl.SSLSocket) else _length_of_line(connection.recv(4096, socket.MSG_PEEK))
        piece = connection.recv(size)
        if not piece:
            break
        line += piece
    return line


def _length_of_line(data: bytes) -> int:
    """How many bytes of the data belong to its first line; at least 1."""
    return data.find(b"\n") + 1 or len(data) or 1


def ask(connection: socket.socket, *requests: bytes) -> list[bytes]:
    """Send requests in one go and return as many lines."""
    connection.sendall(b"".join(request + b"\r\n" for request in requests))
    return [read_line(connection) for _ in requests]


def connected(port: int, process: Any) -> socket.socket:
    """Return a connection after its greeting. The server does not report when it is ready, so try again if refused."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.is_alive():
        try:
            connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
        except ConnectionRefusedError:
            process.join(0.01)
        else:
            assert read_line(connection) == b"!version,ok,1.4\r\n"
            return connection
    raise AssertionError("the server never listened")
