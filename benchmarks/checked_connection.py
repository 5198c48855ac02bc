"""One connection of a soaking client: it sends tagged requests, and every reply is checked.

client_profiles decides when to send what, reply_check what is a right reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from benchmarks.reply_check import END, GREETING, Tally, compare, form
from benchmarks.tagged_requests import TaggedRequest

__all__ = ["CheckedConnection", "Wrong", "connect"]

# Seconds without a byte after which a reply counts as lost.
_PATIENCE = 10.0
# Seconds of silence after which, something being wrong already, nothing more will come.
_SILENCE = 1.0
# Seconds that make a piece arrive by itself.
_BETWEEN_PIECES = 0.001
# Linger for no time: closing resets the connection.
_RESET = struct.pack("ii", 1, 0)


class Wrong(Exception):
    """A reply was lost, misordered or invented. It is counted, and what else comes here proves nothing."""


async def connect(address: tuple[str, int], tally: Tally, *, narrow: bool = False) -> CheckedConnection:
    """A connection, not greeted yet. OSError or TimeoutError when there is none within 10 s.

    `narrow`: what the client has not read soon fills all buffers on the way, so that the server has to wait.
    """
    connection = socket.socket()
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if narrow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # With the segments of 64 KiB that loopback has, the sender's buffer would be one of megabytes.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        async with asyncio.timeout(_PATIENCE):
            await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    tally.connections += 1
    return CheckedConnection(connection, tally)


class CheckedConnection:
    """A connection whose every reply is checked, as a context manager that closes it.

    At most `bite` bytes are read at a time, and `pause` seconds waited after each: set them to be slow.
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

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    async def greeted(self) -> None:
        """Wait for the greeting. Wrong when something else comes."""
        await self._exchange(b"", [GREETING])

    async def ask(self, *requests: TaggedRequest, pieces: int = 1, takes: float = 0.0) -> list[bytes]:
        """Send questions in so many pieces and return all replies; Wrong if they are not due.

        `takes` is how many seconds the server is asked to take: they do not count as latency. What is sent in
        pieces takes its time itself, and no latency is taken from it.
        """
        return await self._exchange(_joined(requests), _due(requests), pieces, takes)

    async def finish(self, *requests: TaggedRequest, unfinished: bytes = b"", pieces: int = 1) -> None:
        """Send the last questions, close the sending half, wait for all replies and the end; else Wrong."""
        await self._exchange(_joined(requests) + unfinished, [*_due(requests), END], pieces)

    async def hang_up(self, unread: bytes, reset: bool) -> None:
        """Send half a line, or lines whose replies nobody reads, and close or reset the connection."""
        async with asyncio.timeout(_PATIENCE):
            await self._send(unread, 1)
        if reset:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._connection.close()

    async def _exchange(self, data: bytes, due: list[bytes], pieces: int = 1, takes: float = 0.0) -> list[bytes]:
        """Send, beside that read what is due, and judge it."""
        since, began = time.time(), time.perf_counter()
        first = 0.0
        lines: list[bytes] = []
        # Beside reading, because a server whose replies are not read reads no more either.
        sending = asyncio.create_task(self._send(data, pieces, half_close=END in due))
        while len(lines) < len(due) and await self._read_on(lines, _PATIENCE + takes):
            first = first or time.perf_counter() - began
        last = time.perf_counter() - began
        right = not self._rest and due == [form(line, since, time.time()) for line in lines]
        if len(lines) < len(due):
            sending.cancel()
        # The last pieces may be under way still: half a line would become part of the next one.
        await asyncio.wait([sending], timeout=_PATIENCE)
        if not right:
            await self._read_rest(lines)
        if data:
            # The greeting is nobody's request.
            self._tally.requests += len(due) - due.count(END)
            self._tally.replies += len(lines) - lines.count(END)
        if not right:
            self._tally.add(compare(due, [form(line, since, time.time()) for line in lines]))
            raise Wrong
        if pieces == 1:
            self._tally.time(first - takes, last - takes)
        return lines

    async def _read_rest(self, lines: list[bytes]) -> None:
        """See what else comes: that tells a reply too much from one that came in another's place."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and await self._read_on(lines, _SILENCE):
            pass
        if self._rest:
            lines.append(self._rest)

    async def _read_on(self, lines: list[bytes], patience: float) -> bool:
        """Read once, and add the whole lines. False after so many seconds of silence, or at the end."""
        try:
            async with asyncio.timeout(patience):
                data = await asyncio.get_running_loop().sock_recv(self._connection, self.bite)
        except TimeoutError:
            return False
        except OSError:
            # A reset is no orderly end, although the next read says that it is one.
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
        # Whoever reads sees that a connection is gone. To close half of one that was reset is ENOTCONN, to
        # go on when the client was cut off is EBADF: those are no ConnectionErrors.
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
