"""LineSocket: a connected socket for lines of limited length, which any thread may close.

The client, and the client of the simulator's control channel, use it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["LineSocket", "checked_wait"]

# The longest timeout of a socket, in s.
_DAY = 86400


def checked_wait(seconds: float, what: str = "timeout", *, least: str = "above 0") -> float:
    """Return `seconds` if a socket can have this timeout. Raise ValueError otherwise.

    Parameters
    ----------
    seconds
        The timeout, in s. At most 86400, which is a day.
    what
        The name of the argument, for the error message.
    least
        The smallest allowed value: `"above 0"` or `"0 or more"`.
    """
    if not 0 <= seconds <= _DAY or (seconds == 0 and least == "above 0"):
        raise ValueError(f"{what} must be a number of seconds {least}, at most {_DAY} (a day), not {seconds!r}")
    return seconds


class LineSocket:
    """A connection that several threads can use, one at a time, to send a line and read lines.

    Parameters
    ----------
    connection
        The connected socket. The LineSocket closes it.
    peer
        What error messages call the peer.
    error
        The class of the exception that is raised if the connection is closed or a received line is too long.
    longest
        The length of the longest accepted line, in bytes, without LF.
    """

    def __init__(self, connection: socket.socket, peer: str, error: type[Exception], *, longest: int) -> None:
        self._socket = connection
        self._peer = peer
        self._error = error
        self._longest = longest
        self._received = bytearray()
        self._turn = threading.Lock()
        # Protects `closed` and `_in_use`. Reentrant, because a signal handler may call close() in this thread.
        self._guard = threading.RLock()
        self._in_use = False
        self.closed = False

    def close(self) -> None:
        """Close the connection. A thread that waits for a line stops waiting."""
        with self._guard:
            if not self.closed:
                self.closed = True
                # The connection may be lost already. A socket in use is closed by the thread that uses it: otherwise
                # its file descriptor could be reused for another connection while that thread still reads from it.
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            if not self._in_use:
                self._socket.close()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Use the connection exclusively in the context. Raise the exception `error` if the connection is closed."""
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
        """Send a line, which includes its line end. Raise TimeoutError if that takes longer than `seconds`."""
        self._socket.settimeout(seconds)
        self._socket.sendall(line)

    def has_line(self) -> bool:
        """Return whether a complete line has arrived. Do not wait."""
        self._socket.settimeout(0)
        with suppress(BlockingIOError):
            self._receive()
        return b"\n" in self._received

    def read_line(self, deadline: float) -> bytes:
        """Return the next line without its LF. Raise TimeoutError at the deadline, a time of time.monotonic()."""
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
