"""LineSocket: a connected socket from which lines are read, within bounds, and which any thread may close.

Who is at the other end, and what the lines say, is the business of those who use it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["LineSocket", "checked_wait"]

# What a socket can wait for, in seconds.
_DAY = 86400


def checked_wait(seconds: float, what: str = "timeout", *, least: str = "above 0") -> float:
    """A number of seconds that a socket can wait, `above 0` or `0 or more`. ValueError for any other."""
    if not 0 <= seconds <= _DAY or (seconds == 0 and least == "above 0"):
        raise ValueError(f"{what} must be a number of seconds {least}, at most {_DAY} (a day), not {seconds!r}")
    return seconds


class LineSocket:
    """A connection on which threads take turns, each sending a line and reading lines.

    `peer` is what the other end is called, `error` what is raised where it ends the connection, or sends a line of
    more than `longest` bytes.
    """

    def __init__(self, connection: socket.socket, peer: str, error: type[Exception], *, longest: int) -> None:
        self._socket = connection
        self._peer = peer
        self._error = error
        self._longest = longest
        self._received = bytearray()
        self._turn = threading.Lock()
        # For what close() may do meanwhile; it may interrupt this very thread, in the handler of a signal.
        self._guard = threading.RLock()
        self._in_use = False
        self.closed = False

    def close(self) -> None:
        """Close it. Whoever waits in another thread for a line wakes up."""
        with self._guard:
            if not self.closed:
                self.closed = True
                # It may be gone already. The one who waits closes it: its number must not become that of another
                # connection while a thread still reads from it.
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            if not self._in_use:
                self._socket.close()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have it for oneself."""
        with self._turn:
            with self._guard:
                if self.closed:
                    raise self._error("the connection is closed")
                self._in_use = True
            try:
                yield
            finally:
                with self._guard:
                    self._in_use = False
                    if self.closed:
                        self._socket.close()

    def send(self, line: bytes, seconds: float) -> None:
        """Send a line with its end. TimeoutError when it is not taken within so many seconds."""
        self._socket.settimeout(seconds)
        self._socket.sendall(line)

    def has_line(self) -> bool:
        """Whether a whole line has arrived, without waiting for one."""
        self._socket.settimeout(0)
        # Mostly nothing has.
        with suppress(BlockingIOError):
            self._receive()
        return b"\n" in self._received

    def read_line(self, deadline: float) -> bytes:
        """The next line without its LF. TimeoutError when it is not there by then, on the monotonic clock."""
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            self._check_length(searched)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            self._receive()
        self._check_length(end)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _receive(self) -> None:
        chunk = self._socket.recv(65536)
        if not chunk:
            raise self._error(f"{self._peer} closed the connection")
        self._received += chunk

    def _check_length(self, length: int) -> None:
        if length > self._longest:
            raise self._error(f"{self._peer} sent a line of more than {self._longest} bytes")
