"""A connection of a soak test's client: it sends tagged requests and checks every reply.

client_profiles decides what is sent and when; reply_check decides whether a reply is correct.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from typing import Self

from benchmarks.reply_check import END, GREETING, Tally, compare, form
from benchmarks.tagged_requests import TaggedRequest

__all__ = ["CheckedConnection", "Wrong", "connect"]

# Seconds without a byte after which a reply counts as lost.
_PATIENCE = 10.0
# Seconds without a byte after an error, after which no further reply is expected.
_SILENCE = 1.0
# Seconds between two pieces, so that they arrive separately.
_BETWEEN_PIECES = 0.001
# SO_LINGER with a time of 0: closing resets the connection.
_RESET = struct.pack("ii", 1, 0)


class Wrong(Exception):
    """A reply was lost, misordered or invented. It has been counted; the connection is of no further use."""


async def connect(address: tuple[str, int], tally: Tally, *, narrow: bool = False) -> CheckedConnection:
    """Connect, without waiting for the greeting. Raise OSError or TimeoutError if that fails within 10 s.

    `narrow`: use small buffers, so that unread replies soon fill them and the server has to wait.
    """
    connection = socket.socket()
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if narrow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # With the segments of 64 KiB of loopback the sender's buffer would be some megabytes.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        async with asyncio.timeout(_PATIENCE):
            await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    tally.connections += 1
    return CheckedConnection(connection, tally)


class CheckedConnection:
    """A connection that checks every reply; a context manager.

    To read slowly, set `bite`, the most bytes that are read at a time, and `pause`, the seconds to wait after each.
    """

    def __init__(self, connection: socket.socket, tally: Tally) -> None:
        self.bite = 65536
        self.pause = 0.0
        self._connection = connection
        self._tally = tally
        self._rest = b""
        self._reset = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    async def greeted(self) -> None:
        """Wait for the greeting. Raise Wrong if anything else is received."""
        await self._exchange(b"", [GREETING])

    async def ask(self, *requests: TaggedRequest, pieces: int = 1, takes: float = 0.0) -> list[bytes]:
        """Send requests and return all replies. Raise Wrong if they are not the expected ones.

        The data is sent in `pieces`; if there is more than one, no latency is measured. `takes` is the duration in
        seconds that the requests ask for; it is subtracted from the latency.
        """
        return await self._exchange(_joined(requests), _due(requests), pieces, takes)

    async def finish(self, *requests: TaggedRequest, unfinished: bytes = b"", pieces: int = 1) -> None:
        """Send the last requests, close the sending half, and wait for all replies and the end; else raise Wrong."""
        await self._exchange(_joined(requests) + unfinished, [*_due(requests), END], pieces)

    async def hang_up(self, unread: bytes, reset: bool) -> None:
        """Send an incomplete line, or lines whose replies are not read, and close or reset the connection."""
        async with asyncio.timeout(_PATIENCE):
            await self._send(unread, 1)
        if reset:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._connection.close()

    async def _exchange(self, data: bytes, due: list[bytes], pieces: int = 1, takes: float = 0.0) -> list[bytes]:
        """Send data, read the expected replies meanwhile, and check them."""
        since, began = time.time(), time.perf_counter()
        first = 0.0
        lines: list[bytes] = []
        # While reading, because the server stops reading if its replies are not read.
        sending = asyncio.create_task(self._send(data, pieces, half_close=END in due))
        while len(lines) < len(due) and await self._read_on(lines, _PATIENCE + takes):
            first = first or time.perf_counter() - began
        last = time.perf_counter() - began
        right = not self._rest and due == [form(line, since, time.time()) for line in lines]
        if len(lines) < len(due):
            sending.cancel()
        # Wait until all pieces are sent: the remaining bytes would become part of the next line.
        await asyncio.wait([sending], timeout=_PATIENCE)
        if not right:
            await self._read_rest(lines)
        if data:
            # Not for the greeting, which has no request.
            self._tally.requests += len(due) - due.count(END)
            self._tally.replies += len(lines) - lines.count(END)
        if not right:
            self._tally.add(compare(due, [form(line, since, time.time()) for line in lines]))
            raise Wrong
        if pieces == 1:
            self._tally.time(first - takes, last - takes)
        return lines

    async def _read_rest(self, lines: list[bytes]) -> None:
        """Read what else arrives, which distinguishes an extra reply from a wrong one."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and await self._read_on(lines, _SILENCE):
            pass
        if self._rest:
            lines.append(self._rest)

    async def _read_on(self, lines: list[bytes], patience: float) -> bool:
        """Read once and add the complete lines. Return False after `patience` seconds without data, or at the end."""
        try:
            async with asyncio.timeout(patience):
                data = await asyncio.get_running_loop().sock_recv(self._connection, self.bite)
        except TimeoutError:
            return False
        except OSError:
            # A reset is not a clean end, although the next read reports one.
            self._reset = True
            return False
        if not data:
            if END not in lines and not self._reset:
                lines.append(END)
            return False
        if self.pause:
            await asyncio.sleep(self.pause)
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines += [line + b"\n" for line in whole]
        return True

    async def _send(self, data: bytes, pieces: int, half_close: bool = False) -> None:
        size = max(len(data) // pieces, 1)
        # The reading side notices a closed connection. OSError, because a shutdown after a reset is ENOTCONN, and
        # sending on a closed socket is EBADF; these are no ConnectionErrors.
        with contextlib.suppress(OSError):
            for start in range(0, len(data), size):
                await asyncio.get_running_loop().sock_sendall(self._connection, data[start : start + size])
                if pieces > 1:
                    await asyncio.sleep(_BETWEEN_PIECES)
            if half_close:
                self._connection.shutdown(socket.SHUT_WR)


def _joined(requests: Sequence[TaggedRequest]) -> bytes:
    return b"".join([request.line for request in requests])


def _due(requests: Sequence[TaggedRequest]) -> list[bytes]:
    return [request.answer for request in requests if request.answer is not None]
