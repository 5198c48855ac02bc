"""ClientProcess: the client program that is tested, in a process."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from discosbackend.client.address import VARIABLE

__all__ = ["GRACE", "ClientProcess", "Launch", "RunningClient"]

GRACE = 2.0
"""How long a client may take to end after SIGTERM, in s."""

_SHOWN_OUTPUT = 1000


class RunningClient(Protocol):
    """A client program that runs."""

    def poll(self) -> int | None:
        """Return the exit status, negative if a signal has killed it. None if it is running."""

    def stop(self) -> None:
        """End it."""

    def output(self) -> str:
        """Return the last part of what it has printed."""


Launch = Callable[[str], RunningClient]
"""Starts the client program for a server at this HOST:PORT."""


class ClientProcess:
    """A client program in a process.

    Parameters
    ----------
    command
        The program and its arguments. In these, `{address}`, `{host}` and `{port}` are replaced.
    address
        The HOST:PORT of the server. It is in the environment variable DISCOS_BACKEND, too.
    folder
        The current folder of the program. Default: that of this process.

    Raises
    ------
    OSError
        If the program cannot be started.
    """

    def __init__(self, command: Sequence[str], address: str, *, folder: str | None = None) -> None:
        host, _, port = address.rpartition(":")
        words = {"{address}": address, "{host}": host, "{port}": port}
        replaced = list(command)
        for word, value in words.items():
            replaced = [part.replace(word, value) for part in replaced]
        # A file instead of a pipe: nothing reads it, and a full pipe would block the client.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        try:
            self._process = subprocess.Popen(  # ended by stop()
                replaced,
                cwd=folder,
                env={**os.environ, VARIABLE: address},
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                # The program may be a script that starts others. stop() ends all of them.
                start_new_session=True,
            )
        except BaseException:
            self._output.close()
            raise

    def poll(self) -> int | None:
        """Return the exit status, negative if a signal has killed it. None if it is running."""
        return self._process.poll()

    def stop(self) -> None:
        """End the program, and what it has started."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def _signal(self, number: int) -> None:
        # ProcessLookupError: all of them have ended.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def output(self) -> str:
        """Return the last part of what it has printed."""
        size = os.fstat(self._output.fileno()).st_size
        data = os.pread(self._output.fileno(), _SHOWN_OUTPUT, max(size - _SHOWN_OUTPUT, 0))
        return data.decode(errors="replace")
