"""Servers in processes of their own, for the tests that need the real thing: real sockets, real signals."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .settings import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "discos-backend-server"


class Server:
    """A running server process; `address` is where it said it listens."""

    def __init__(self, command: Sequence[str], cwd: Path | str = ROOT, env: dict[str, str] | None = None) -> None:
        # A file, not a pipe: nobody reads it while the server runs, and a full pipe would stop it.
        self.log_file = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by end()
        self.process = subprocess.Popen(  # ended by end()
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=self.log_file,
            text=True,
        )
        # Blocks until the server is ready, or gone.
        self.announced = self.next_line().rstrip("\n")
        found = re.search(r"(\S+):(\d+), protocol version", self.announced)
        self.address = (found[1].strip("[]"), int(found[2])) if found else ("", 0)

    def next_line(self) -> str:
        """The next line that it prints on standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def connect(self) -> socket.socket:
        """A connection whose greeting has been read."""
        connection = socket.create_connection(self.address, PATIENCE)
        greeting = read_line(connection)
        assert greeting == b"!version,ok,1.4\r\n", greeting
        return connection

    def stop(self, *signals: int) -> int:
        """Send the signals, wait for the end, and return the exit status."""
        for signal in signals:
            self.process.send_signal(signal)
        return self.process.wait(PATIENCE)

    def log(self) -> str:
        """What it has written to standard error."""
        self.log_file.seek(0)
        return self.log_file.read()

    def end(self) -> None:
        """Whatever the test did, leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()
        # With -b this is shown only if the test fails.
        sys.stderr.write(self.log())
        self.log_file.close()


@contextmanager
def served(*options: str, cwd: Path | str = ROOT) -> Iterator[Server]:
    """The program, from the checkout, on a free port; a simulated instrument records nothing unless told to."""
    if not {"--data", "--backend"} & set(options):
        options = ("--no-data", *options)
    server = Server([sys.executable, str(SCRIPT), "--port", "0", *options], cwd)
    try:
        yield server
    finally:
        server.end()


@contextmanager
def served_by(code: str, cwd: Path | str = ROOT) -> Iterator[Server]:
    """A fresh interpreter that runs `code`, which ends in run_server."""
    server = Server([sys.executable, "-c", code], cwd)
    try:
        yield server
    finally:
        server.end()


def read_line(connection: socket.socket) -> bytes:
    """One line with its end, byte by byte as a deployed client does; less when the connection ends."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line


def ask(connection: socket.socket, *requests: bytes) -> list[bytes]:
    """Send requests in one go and return as many lines."""
    connection.sendall(b"".join(request + b"\r\n" for request in requests))
    return [read_line(connection) for _ in requests]
