"""LineSocket: a connected socket for lines of limited length, which any thread may close.

The client, the client of the simulator's control channel, and the conformance kit use it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from discosbackend.errors import reason_of
from discosbackend.log import address_text

__all__ = ["LineSocket", "checked_wait", "connected"]

# The longest timeout of a socket, in s.
_DAY = 86400
# How many bytes of a line that is too long an error message shows.
_SHOWN = 40


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


def connected(address: tuple[str, int], timeout: float, error: type[Exception]) -> socket.socket:
    """Connect to a server. Raise the exception `error`, with the reason, if that fails or takes longer than `timeout`.

    Parameters
    ----------
    address
        Host and port of the server.
    timeout
        How long to wait for the connection, in s.
    error
        The class of the exception.
    """
    try:
        connection = socket.create_connection(address, timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as problem:
        raise error(f"no server at {address_text(address)}: {reason_of(problem)}") from problem
    except (OverflowError, UnicodeError) as problem:
        # A port above 65535, or a name that is not valid in DNS.
        raise error(f"{address_text(address)} is not a valid address: {problem}") from problem
    return connection


class LineSocket:
    """A connection that several threads can use, one at a time, to send a line and read lines.

    Parameters
    ----------
    connection
        The connected socket. The LineSocket closes it.
    peer
        The name of the peer in error messages.
    error
        The class of the exception that is raised if the connection is closed or a received line is too long.
    longest
        The length of the longest accepted line, in bytes, without LF.

    Attributes
    ----------
    received
        The received bytes that have not been read as a line yet.
    closed
        Whether close() has been called.
    ended
        Whether the peer has closed the connection.
    """

    def __init__(self, connection: socket.socket, peer: str, error: type[Exception], *, longest: int) -> None:
        self._socket = connection
        self._peer = peer
        self._error = error
        self._longest = longest
        self.received = bytearray()
        self._turn = threading.Lock()
        # Protects `closed` and `_in_use`. Reentrant, because a signal handler may call close() in this thread.
        self._guard = threading.RLock()
        self._in_use = False
        self.closed = self.ended = False

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

    def read_line(self, deadline: float) -> bytes:
        """Return the next line without its LF. Raise TimeoutError at the deadline, a time of time.monotonic()."""
        searched = 0
        while (end := self.received.find(b"\n", searched)) < 0:
            searched = len(self.received)
            self._check_length(searched)
            self.receive(deadline)
        self._check_length(end)
        line = bytes(self.received[:end])
        del self.received[: end + 1]
        return line

    def receive(self, deadline: float) -> None:
        """Wait for data until the deadline, and add them to `received`.

        Data that have arrived are received even after the deadline, because this host may have been too busy before.

        Raises
        ------
        TimeoutError
            If no data have arrived.
        error
            If the peer has closed the connection.
        """
        self._socket.settimeout(max(deadline - time.monotonic(), 0.0))
        try:
            chunk = self._socket.recv(65536)
        except BlockingIOError:
            raise TimeoutError from None
        self.ended = not chunk
        if self.ended:
            raise self._error(f"{self._peer} closed the connection")
        self.received += chunk

    def _check_length(self, length: int) -> None:
        if length > self._longest:
            begins = bytes(self.received[:_SHOWN])
            raise self._error(f"{self._peer} sent a line of more than {self._longest} bytes: {begins!r}...")
