"""ConnectionEnd: one of the two connections of a tap: whether it is read, what is sent on it, and how it is closed.

proxy.py connects two of them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import INegotiated, IPushProducer, ITCPTransport
from twisted.internet.tcp import Client as TCPClient
from twisted.internet.tcp import Server as TCPServer
from zope.interface import implementer

__all__ = ["BothReadings", "ConnectionEnd", "Reading"]

# How many s the last bytes have, if the other side was lost.
_LAST_BYTES = 10.0

_TCP = (IPv4Address, IPv6Address)
# close() discards what the system has not sent yet, and resets the connection.
_RESET = struct.pack("ii", 1, 0)


@implementer(IPushProducer)
class Reading:
    """Whether one of the two connections is read: only if there is no reason not to.

    As a producer it is paused for the reason that the connection to which its bytes go is full.
    """

    def __init__(self) -> None:
        self._transport: Any = None
        self._reasons: set[str] = set()

    def begin(self, transport: Any) -> None:
        self._transport = transport
        if self._reasons:
            transport.pauseProducing()

    def end(self) -> None:
        """There is nothing more to read. Resuming would read the end again."""
        self._transport = None

    def pause(self, reason: str) -> None:
        if not self._reasons and self._transport is not None:
            self._transport.pauseProducing()
        self._reasons.add(reason)

    def resume(self, reason: str) -> None:
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons and self._transport is not None:
                self._transport.resumeProducing()

    def pauseProducing(self) -> None:
        self.pause("full")

    def resumeProducing(self) -> None:
        self.resume("full")

    def stopProducing(self) -> None:
        """The other connection is lost, which it reports itself."""


@implementer(IPushProducer)
class BothReadings:
    """The producer for the connection to a client that may be sent refusals.

    If the client does not read, its own requests are not read either, because the refusals would be stored.
    """

    def __init__(self, server: Reading, client: Reading) -> None:
        self._server = server
        self._client = client

    def pauseProducing(self) -> None:
        self._server.pause("full")
        self._client.pause("does not read")

    def resumeProducing(self) -> None:
        self._client.resume("does not read")
        self._server.resume("full")

    def stopProducing(self) -> None:
        """As in Reading."""


class ConnectionEnd:
    """One of the two connections: sending, and closing."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.reading = Reading()
        self._registered = False
        self.sending_ended = False
        self.receiving_ended = False
        self.lost = False
        self._abort_timer: Any = None
        # Whether it is a TCP connection without TLS.
        self._is_tcp = False

    def begin(self, transport: Any, producer: Any) -> None:
        """The connection is made. `producer` makes the bytes that are sent on it."""
        self.transport = transport
        self._is_tcp = isinstance(transport, (TCPServer, TCPClient)) and not INegotiated.providedBy(transport)
        if isinstance(transport.getPeer(), _TCP) and ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
        transport.registerProducer(producer, True)
        self._registered = True
        self.reading.begin(transport)

    def write(self, data: bytes) -> None:
        if not data or self.transport is None or self.sending_ended:
            return
        transport = self.transport
        if not self._is_tcp:
            transport.write(data)
            return
        # At once, because the reactor would send it only in its next turn. `dataBuffer` is all that has not been sent,
        # because doWrite() follows each write().
        if not transport.dataBuffer:
            try:
                sent = transport.socket.send(data)
            except OSError:
                # The socket is full or closed. The reactor tries again, and reports what fails.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)
        transport.doWrite()

    def _unregister(self) -> None:
        # A transport with a producer is not closed.
        if self._registered:
            self._registered = False
            self.transport.unregisterProducer()

    def end_sending(self) -> None:
        """Close the sending half after everything has been sent."""
        if self.transport is None or self.sending_ended:
            return
        self.sending_ended = True
        self._unregister()
        if ITCPTransport.providedBy(self.transport) and not INegotiated.providedBy(self.transport):
            self.transport.loseWriteConnection()
        else:
            # TLS has no half-closed connections.
            self.transport.loseConnection()

    def close(self) -> None:
        """Close the connection after everything has been sent."""
        if self.transport is None or self.lost:
            return
        self.sending_ended = True
        self.reading.end()
        self._unregister()
        self.transport.loseConnection()

    def reset(self, call_later: Callable[..., Any]) -> None:
        """Reset the connection, after what was received for it has been passed on."""
        if self.transport is None or self.lost:
            return
        handle = getattr(self.transport, "getHandle", lambda: None)()
        if isinstance(handle, socket.socket):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._abort_timer = call_later(_LAST_BYTES, self.abort)
        self.close()

    def abort(self) -> None:
        """Reset the connection at once."""
        if self.transport is not None and not self.lost:
            self.transport.abortConnection()

    def was_lost(self) -> None:
        self.lost = self.sending_ended = self.receiving_ended = True
        self.reading.end()
        if self._abort_timer is not None and self._abort_timer.active():
            self._abort_timer.cancel()
