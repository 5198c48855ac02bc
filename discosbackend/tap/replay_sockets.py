"""Sockets: the TCP connections of a replay."""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress
from typing import Self

from discosbackend.line_socket import connected
from discosbackend.tap.replay import LostConnection
from discosbackend.ticks import Ticks

__all__ = ["Sockets"]

# How many s connecting may take, and a write if the server does not read.
_PATIENCE = 10.0
_CHUNK = 65536


class Sockets:
    """TCP connections to one server. It is a Wire, and a context manager that closes all of them.

    Parameters
    ----------
    address
        The host and the port of the server.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._sockets: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        # Connections that were lost while something was sent.
        self._lost: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in [*self._sockets]:
            self.close(connection)
        self._selector.close()

    def clock(self) -> float:
        """Return the time of a monotonic clock, in s."""
        return time.monotonic()

    def now(self) -> Ticks:
        """Return the time of the host's clock."""
        return Ticks.now()

    def connect(self, connection: int) -> None:
        """Connect. Raise LostConnection if that is not possible."""
        opened = connected(self._address, _PATIENCE, LostConnection)
        opened.settimeout(_PATIENCE)
        self._sockets[connection] = opened
        self._selector.register(opened, selectors.EVENT_READ, connection)

    def send(self, connection: int, data: bytes) -> None:
        """Send bytes. If that fails, receive() reports that the connection is lost."""
        try:
            self._sockets[connection].sendall(data)
        except OSError:
            self._lost.append(connection)

    def receive(self, seconds: float) -> list[tuple[int, bytes]]:
        """Wait until data arrive, for at most `seconds` s, and return them with the number of their connection."""
        received: list[tuple[int, bytes]] = []
        for key, _ in self._selector.select(0 if self._lost else seconds):
            # What arrived before the connection was lost is returned first.
            data = b""
            with suppress(OSError):
                data = key.fileobj.recv(_CHUNK)  # type: ignore[union-attr]
            received.append((key.data, data))
        received += [(connection, b"") for connection in self._lost]
        self._lost.clear()
        return received

    def close(self, connection: int) -> None:
        """Close a connection."""
        closed = self._sockets.pop(connection, None)
        if closed is not None:
            self._selector.unregister(closed)
            closed.close()
