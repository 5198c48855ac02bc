"""Clients on virtual time: sockets in memory, whose server follows a script, and an event loop that never waits.

The same sockets serve a blocking client, whose recv() lets the time pass, and an event loop, whose selector does.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

from discosbackend import line_socket
from discosbackend.client import blocking, connection

__all__ = ["END", "RESET", "Break", "Socket", "VirtualLoop", "World", "blocking_on"]


# What arrives on a socket besides bytes.
class Break:
    """An end of the connection."""


END = Break()
RESET = Break()


class World:
    """The time, and the server. `serve(socket, line)` is called for each line that a client sends."""

    def __init__(self, serve: Callable[[Socket, bytes], None], greet: Callable[[Socket], None]) -> None:
        self.now = 1000.0
        self.interrupt_at: float | None = None
        """When a blocking client gets KeyboardInterrupt, as Ctrl-C raises it."""
        self.sockets: list[Socket] = []
        self.serve = serve
        self.greet = greet

    def connect(self, *_: Any) -> Socket:
        """Return the client's end of a new connection."""
        new = Socket(self)
        self.sockets.append(new)
        self.greet(new)
        return new

    def wait(self, until: float) -> None:
        """Let the time pass for a blocking client."""
        if self.interrupt_at is not None and self.now <= self.interrupt_at < until:
            self.now, self.interrupt_at = self.interrupt_at, None
            raise KeyboardInterrupt
        self.now = max(self.now, until)


class Socket:
    """A client's socket."""

    family = socket.AF_UNIX
    type = socket.SOCK_STREAM
    _last: ClassVar[int] = 10**6

    def __init__(self, world: World) -> None:
        Socket._last += 1
        self._number = Socket._last
        self.world = world
        self.closed = self.broken = False
        self.arriving: list[tuple[float, bytes | Break]] = []
        """What the server has sent: when it arrives, in order, and what."""
        self._sent = b""
        self._timeout: float | None = None

    # What the script of a server calls.

    def deliver(self, delay: float, *pieces: bytes | Break) -> None:
        """Have these pieces arrive after this time, but not before what was sent earlier."""
        due = max([self.world.now + delay, *(when for when, _ in self.arriving[-1:])])
        self.arriving += [(due, piece) for piece in pieces]

    # What the clients call.

    def fileno(self) -> int:
        return -1 if self.closed else self._number

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def setblocking(self, flag: bool) -> None:
        self._timeout = None if flag else 0.0

    def setsockopt(self, *_: Any) -> None: ...

    def getsockname(self) -> Any:
        raise OSError

    getpeername = getsockname

    def gettimeout(self) -> float | None:
        return self._timeout

    def recv(self, size: int) -> bytes:
        assert not self.closed, "read after close"
        if not self.readable():
            if self._timeout == 0:
                raise BlockingIOError
            assert self._timeout is not None, "it would wait forever"
            end = self.world.now + self._timeout
            due = self.due()
            self.world.wait(end if due is None else min(due, end))
            if not self.readable():
                raise TimeoutError
        when, piece = self.arriving[0]
        if piece is END:
            return b""
        if piece is RESET:
            self.broken = True
            raise ConnectionResetError(104, "Connection reset by peer")
        assert isinstance(piece, bytes)
        self.arriving[0] = (when, piece[size:])
        if len(piece) <= size:
            del self.arriving[0]
        return piece[:size]

    def send(self, data: bytes) -> int:
        assert not self.closed, "sent after close"
        if self.broken or any(when <= self.world.now and piece is RESET for when, piece in self.arriving):
            raise BrokenPipeError(32, "Broken pipe")
        *lines, self._sent = (self._sent + data).split(b"\r\n")
        for line in lines:
            if not any(isinstance(piece, Break) and when <= self.world.now for when, piece in self.arriving):
                self.world.serve(self, line)
        return len(data)

    sendall = send

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None:
        self.closed = True

    def due(self) -> float | None:
        """When the next piece arrives."""
        return None if self.closed or not self.arriving else self.arriving[0][0]

    def readable(self) -> bool:
        due = self.due()
        return due is not None and due <= self.world.now


@contextmanager
def blocking_on(world: World) -> Iterator[None]:
    """Have the blocking clients use this world instead of sockets and the time."""
    clock = SimpleNamespace(monotonic=lambda: world.now, sleep=lambda seconds: world.wait(world.now + seconds))
    with ExitStack() as stack:
        for module in (line_socket, connection, blocking):
            stack.enter_context(mock.patch.object(module, "time", clock))
        stack.enter_context(mock.patch.object(connection, "connected", world.connect))
        yield


class _Selector(selectors.BaseSelector):
    """A selector of sockets in memory. Instead of waiting, it lets the time pass."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if descriptor in self._keys:
            raise KeyError(descriptor)
        self._keys[descriptor] = selectors.SelectorKey(fileobj, descriptor, events, data)
        return self._keys[descriptor]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self.unregister(fileobj)
        return self.register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        world = self._world
        if not self._ready() and timeout != 0:
            due = [when for each in self._read() if (when := each.due()) is not None]
            due += [] if timeout is None else [world.now + timeout]
            assert due, "the event loop would wait forever"
            world.now = max(world.now, min(due))
        return [(self._keys[each.fileno()], selectors.EVENT_READ) for each in self._ready()]

    def _read(self) -> list[Socket]:
        return [each for each in self._world.sockets if each.fileno() in self._keys]

    def _ready(self) -> list[Socket]:
        return [each for each in self._read() if each.readable()]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def close(self) -> None:
        self._keys.clear()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is that of a world, and whose connections are made there."""

    def __init__(self, world: World) -> None:
        super().__init__(_Selector(world))
        self._world = world

    def time(self) -> float:
        return self._world.now

    async def create_connection(self, factory: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        connected = self.create_future()
        protocol = factory()
        transport = self._make_socket_transport(self._world.connect(), protocol, connected)  # type: ignore[attr-defined]
        await connected
        return transport, protocol
