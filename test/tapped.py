"""A tap in memory, between a client and a server that are in memory too. All of them are on one fake clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from discosbackend.access import AccessRules
from discosbackend.tap.proxy import TapFactory

CLIENT = IPv4Address("TCP", "10.0.0.7", 4711)
SERVER = IPv4Address("TCP", "10.0.0.1", 10000)


@implementer(ITCPTransport)
class Line:
    """The tap's end of a TCP connection. What it writes is in `written` until the peer reads it."""

    def __init__(self, protocol: Any, peer: IPv4Address, room: int = 2**16) -> None:
        self.protocol = protocol
        self.written = b""
        self.room = room
        self.reading = True
        self.half_closed = self.closing = self.closed = self.aborted = False
        self._producer: Any = None
        self._paused = False
        self._peer = peer
        # What has been sent to the tap while it does not read.
        self._unread: list[bytes | None] = []

    # -- the tap's side -------------------------------------------------------------------------------

    def getPeer(self) -> IPv4Address:
        return self._peer

    def getHost(self) -> IPv4Address:
        return SERVER

    def getTcpNoDelay(self) -> bool:
        return True

    def getTcpKeepAlive(self) -> bool:
        return True

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def setTcpKeepAlive(self, enabled: bool) -> None: ...

    def write(self, data: bytes) -> None:
        assert not self.half_closed and not self.closing, f"{data!r} after the end"
        if self.closed:
            return
        self.written += data
        if len(self.written) > self.room and self._producer is not None and not self._paused:
            self._paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self._producer is None and streaming
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        assert self.reading
        self.reading = False

    def resumeProducing(self) -> None:
        assert not self.reading and not self.closing and not self.closed
        self.reading = True
        self._deliver()

    def loseWriteConnection(self) -> None:
        assert self._producer is None, "a producer would keep it from being closed"
        self.half_closed = True

    def loseConnection(self) -> None:
        assert self._producer is None, "a producer would keep it from being closed"
        self.closing = True
        self.reading = False
        self._close_if_read()

    def abortConnection(self) -> None:
        self.aborted = True
        self.written = b""
        self.lose(ConnectionDone())

    # -- the peer's side ------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send bytes to the tap, which gets them when it reads."""
        self._unread.append(data)
        self._deliver()

    def end(self) -> None:
        """Close the sending half of the peer."""
        self._unread.append(None)
        self._deliver()

    def _deliver(self) -> None:
        while self.reading and self._unread and not self.closed:
            item = self._unread.pop(0)
            if item is None:
                self.protocol.readConnectionLost()
            else:
                self.protocol.dataReceived(item)

    def read(self, most: int = 2**30) -> bytes:
        """Read what the tap has written."""
        data, self.written = self.written[:most], self.written[most:]
        if self._paused and len(self.written) <= self.room // 2:
            self._paused = False
            if self._producer is not None:
                self._producer.resumeProducing()
        self._close_if_read()
        return data

    def _close_if_read(self) -> None:
        if self.closing and not self.written and not self.closed:
            self.lose(ConnectionDone())

    def lose(self, reason: Exception) -> None:
        """The connection is lost."""
        if not self.closed:
            self.closed = True
            self.reading = False
            self.protocol.connectionLost(Failure(reason))

    @property
    def ended(self) -> bool:
        """Whether the peer reads the end of the connection."""
        return (self.half_closed or self.closed) and not self.written


class Target:
    """The endpoint of the server. `away`: connections are refused. `slow`: they are made when the test says so."""

    def __init__(self) -> None:
        self.away = False
        self.slow = False
        self.room = 2**16
        self.lines: list[Line] = []
        self.attempts = 0
        self.pending: list[Any] = []
        self.cancelled = 0

    def connect(self, factory: Any) -> Deferred[Any]:
        self.attempts += 1
        if self.away:
            return fail(Failure(ConnectError()))
        if self.slow:
            self.pending.append(factory)
            return Deferred(self._cancel)
        return succeed(self.accept(factory))

    def _cancel(self, _: Deferred[Any]) -> None:
        self.cancelled += 1

    def accept(self, factory: Any) -> Any:
        """Make the connection."""
        protocol = factory.buildProtocol(SERVER)
        self.lines.append(Line(protocol, SERVER, self.room))
        protocol.makeConnection(self.lines[-1])
        return protocol


class Tapped:
    """A tap, a client of it, and the server's end of the connection."""

    def __init__(
        self,
        *,
        access: AccessRules | None = None,
        judge: Any = None,
        wait: float = 0.0,
        target: Target | None = None,
        room: int = 2**16,
        clock: Clock | None = None,
    ) -> None:
        self.clock = Clock() if clock is None else clock
        self.target = Target() if target is None else target
        self.factory = TapFactory(
            self.target,  # type: ignore[arg-type]  # it has what an endpoint needs
            "server:10000",
            wait=wait,
            reactor=self.clock,
            access=access,
            judge=judge,
        )
        self.records: list[Any] = []
        self.factory.listeners.append(self.records.append)
        self.room = room

    def connect(self, address: IPv4Address = CLIENT) -> Line:
        """Connect a client, and return its connection."""
        protocol = self.factory.buildProtocol(address)
        line = Line(protocol, address, self.room)
        protocol.makeConnection(line)
        return line

    @property
    def server(self) -> Line:
        """The connection of the server that was made last."""
        return self.target.lines[-1]
