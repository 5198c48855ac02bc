"""The connections of a Link: ClientService makes them one after the other. link.py uses them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from twisted.application.internet import ClientService
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IPushProducer, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["Connection", "Connector", "Events"]


@dataclass(frozen=True, slots=True)
class Events:
    """The functions of a link that its connections call."""

    made: Callable[[Connection], None]
    received: Callable[[Connection, bytes], None]
    lost: Callable[[Connection, Failure], None]
    attempt_failed: Callable[[Failure], None]
    pause: Callable[[int], float]
    """Returns how long to wait before the next attempt, in s."""


@implementer(IPushProducer)
class Connection(Protocol):
    """One connection of a link."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.full = False
        """Whether the transport's write buffer is full."""

    def connectionMade(self) -> None:
        transport = cast(Any, self.transport)
        if ITCPTransport.providedBy(transport) and isinstance(transport.getPeer(), (IPv4Address, IPv6Address)):
            transport.setTcpNoDelay(True)
            # Without it, the link to a device that was switched off would look connected until the next question.
            transport.setTcpKeepAlive(True)
        transport.registerProducer(self, True)
        self._events.made(self)

    def dataReceived(self, data: bytes) -> None:
        self._events.received(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._events.lost(self, reason)

    def write(self, data: bytes) -> None:
        """Send bytes to the device."""
        cast(Any, self.transport).write(data)

    def abort(self) -> None:
        """Close the connection, without waiting until everything was sent."""
        cast(Any, self.transport).abortConnection()

    def pauseProducing(self) -> None:
        """Twisted's hook: the buffer of the transport is full."""
        self.full = True

    def resumeProducing(self) -> None:
        """Twisted's hook: the buffer of the transport is empty again."""
        self.full = False

    def stopProducing(self) -> None:
        """Twisted's hook: the connection is lost. connectionLost handles this."""


class _Connections(Factory):
    noisy = False

    def __init__(self, events: Events) -> None:
        self._events = events

    def buildProtocol(self, addr: Any) -> Connection:
        return Connection(self._events)


@implementer(IStreamClientEndpoint)
class _Attempts:
    """An endpoint that reports failed attempts to the link."""

    def __init__(self, endpoint: Any, failed: Callable[[Failure], None]) -> None:
        self._endpoint = endpoint
        self._failed = failed

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803  # the interface's name
        """Connect once."""
        attempt: Deferred[IProtocol] = maybeDeferred(self._endpoint.connect, protocolFactory)
        return attempt.addErrback(self._report)

    def _report(self, failure: Failure) -> Failure:
        self._failed(failure)
        return failure


@implementer(ILogObserver)
class _NoLog:
    def __call__(self, event: LogEvent) -> None:
        """Log nothing."""


class Connector(ClientService):
    """A ClientService that makes the connections of a link.

    Unlike ClientService, it does not log each attempt. The link logs when it is down and when it is up again.

    Parameters
    ----------
    endpoint
        The endpoint of the device.
    events
        The functions of the link.
    reactor
        The reactor.
    """

    _log = Logger(observer=_NoLog())

    def __init__(self, endpoint: Any, events: Events, reactor: Any) -> None:
        super().__init__(_Attempts(endpoint, events.attempt_failed), _Connections(events), events.pause, reactor)
