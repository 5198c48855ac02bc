"""DBFactory: makes the connections of a server, and ends them. The class of the connections is DBProtocol.

The factory calls the listeners (DBFactory.listeners). server.py listens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from time import time_ns
from typing import TYPE_CHECKING, Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from discosbackend.commands import COMMANDS
from discosbackend.connection import DBProtocol
from discosbackend.descriptors import DescriptorWatch
from discosbackend.exchanges import ConnectionEvent, Exchange, ReadValues, exchange_of
from discosbackend.grammar import OK
from discosbackend.handlers import BackendCommand, Handler, execute_of, execute_reads_of
from discosbackend.log import address_text
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger
from discosbackend.reactors import reactor_or_default
from discosbackend.replies import GREETING, UNEXPECTED, Failures
from discosbackend.round_robin import RoundRobin
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

if TYPE_CHECKING:
    from discosbackend.access import AccessRules

__all__ = ["GREETING", "UNEXPECTED", "ConnectionEvent", "DBFactory", "DBProtocol", "Exchange"]

logger = logging.getLogger(__name__)

Execute = Callable[[str, Sequence[str]], "bytes | Deferred[bytes]"]


def _reads_of(handler: object) -> frozenset[str]:
    """Return the names of the commands that change nothing, by the protocol's table and by the handler's commands."""
    reads = {row.name: not row.changes for row in COMMANDS.values()}
    for name, command in getattr(handler, "commands", {}).items():
        if isinstance(command, BackendCommand):
            reads[name] = not command.row.changes
    return frozenset(name for name, is_read in reads.items() if is_read)


class DBFactory(Factory):
    """The factory of the connections of a server. All connections share one handler.

    The attribute `listeners` is a list of functions, initially empty. Each function is called with an Exchange after
    every line, and with a ConnectionEvent when a connection opens or closes. Commands that change the state of the
    backend are also logged, at level `info`.

    Parameters
    ----------
    handler
        The handler of the requests, such as `DBProtocolHandler(backend)`.
    greeting_delay
        How long a client must be silent before the server sends the greeting, in s. 0: the server sends it at once.
        Protocol section 9.2 lists the clients that need a delay.
    reactor
        The reactor. Default: Twisted's.
    access
        The addresses that may connect, and those that may only read. Default: everybody may do everything.

    Raises
    ------
    TypeError
        If `handler` has no method `handle`.
    ValueError
        If `greeting_delay` is negative or not a number.
    """

    protocol: Callable[[], DBProtocol] = DBProtocol  # type: ignore[assignment]  # Twisted declares no type
    noisy = False

    def __init__(
        self,
        handler: Handler,
        *,
        greeting_delay: float = 0.0,
        reactor: Any = None,
        access: AccessRules | None = None,
    ) -> None:
        if not callable(getattr(handler, "handle", None)):
            raise TypeError(f"a handler is needed, such as DBProtocolHandler(backend), not {handler!r}")
        if not greeting_delay >= 0:
            raise ValueError(f"greeting_delay must be 0 s or more, not {greeting_delay!r}")
        self._handler = handler
        self.greeting_delay = greeting_delay
        self.listeners: list[Callable[[Any], object]] = []
        # Called for each successful read if there are listeners. Batches replaces it, because notify_read() is slow.
        self.keep_read: Callable[[ReadValues], object] = self.notify_read
        self.numbers = count(1)
        # The names of the commands that change nothing. They are not logged. "" stands for a line without a name.
        self.reads = _reads_of(handler) | {""}
        self.connections: set[DBProtocol] = set()
        self.stopping = False
        self.stopped: Deferred[Any] = maybeDeferred(lambda: None)
        self.rate_limited_logger = RateLimitedLogger(logger, self._call_later)
        self._descriptors = DescriptorWatch(self.rate_limited_logger)
        self.round_robin = RoundRobin(self._call_later)
        self._access = access
        self.execute: Execute = execute_of(handler)
        self._execute_reads: Execute | None = None if access is None else execute_reads_of(handler)
        self.failures = Failures(handler, self.rate_limited_logger)
        self._reactor = reactor
        # The Deferred of finish(), until it fires.
        self.finishing: Deferred[None] | None = None

    @property
    def handler(self) -> Handler:
        """The handler. It cannot be changed: another handler needs another factory."""
        return self._handler

    @property
    def reactor(self) -> Any:
        """The given reactor, or else Twisted's."""
        if self._reactor is None:
            self._reactor = reactor_or_default()
        return self._reactor

    def _call_later(self, delay: float, function: Callable[..., Any], *args: Any) -> Any:
        return self.reactor.callLater(delay, function, *args)

    def startFactory(self) -> None:
        """Twisted's hook: the first port listens. Start the handler."""
        self.stopping = False
        self._descriptors.begin()
        self.handler.start()

    def stopFactory(self) -> None:
        """Twisted's hook: the last port is closed. Stop the handler; `stopped` fires when it has stopped."""
        self._descriptors.end()
        self.rate_limited_logger.sum_up()
        self.stopped = maybeDeferred(self.handler.stop)

    def buildProtocol(self, addr: IAddress | None) -> DBProtocol:  # type: ignore[override]
        """Twisted's hook: make the protocol of a new connection."""
        protocol = self.protocol()
        protocol.factory = self
        return protocol

    def execute_for(self, address: IAddress) -> Execute | None:
        """Return the function that executes the requests of a new client. None: the client may not connect.

        A client of a Unix socket has no address. The permissions of the socket decide who may connect, and every client
        may do everything.

        Parameters
        ----------
        address
            The address of the client.
        """
        if self._access is None or isinstance(address, UNIXAddress):
            return self.execute
        access = self._access.access_of(str(getattr(address, "host", "")))
        if access.may_command:
            return self.execute
        if access.may_read:
            return self._execute_reads
        text = "refused a connection from %s, which is not allowed to connect"
        self.rate_limited_logger.log(logging.WARNING, "connections refused", text, address_text(address), window=MINUTE)
        return None

    def notify(self, exchange: Exchange | ConnectionEvent) -> None:
        """Call the listeners. An exception of a listener is logged, and the other listeners are still called.

        Parameters
        ----------
        exchange
            The record for the listeners.
        """
        for listener in tuple(self.listeners):
            try:
                listener(exchange)
            except BaseException:  # a listener may raise anything
                self.rate_limited_logger.log(
                    logging.ERROR, "listener", "a listener failed: %r", listener, exc_info=True
                )

    def notify_read(self, values: ReadValues) -> None:
        """Call the listeners with the Exchange of a successful read, which has just been answered."""
        connection, peer, _, line, name, reply, seconds = values
        begin = Ticks(time_ns() // 100 - int(seconds * TICKS_PER_SECOND))
        self.notify(exchange_of((connection, peer, begin, line, name, reply, OK, False, seconds)))

    # -- the end --------------------------------------------------------------------------------------

    def finish(self, timeout: float) -> Deferred[None]:
        """Wait until the running requests have finished. Requests that have not begun are answered with `fail`.

        Parameters
        ----------
        timeout
            How long to wait, in s. Then the requests that are still running are answered with `fail` and cancelled.

        Returns
        -------
        finished
            A Deferred that fires when every request has its reply.
        """
        self.stopping = True
        finished: Deferred[None] = Deferred()
        self.finishing = finished
        give_up = self.reactor.callLater(timeout, self._abandon)
        finished.addCallback(lambda _: give_up.cancel() if give_up.active() else None)
        self.on_idle()
        return finished

    def on_idle(self) -> None:
        """Fire the Deferred of finish() if no connection is busy. Connections call this when they become idle."""
        if self.finishing is not None and not any(connection.busy for connection in self.connections):
            finished, self.finishing = self.finishing, None
            finished.callback(None)

    def _abandon(self) -> None:
        for source in [connection.abandon() for connection in list(self.connections)]:
            if source is not None:
                try:
                    source.cancel()
                except BaseException:  # a canceller may raise anything
                    self.rate_limited_logger.log(
                        logging.ERROR, "cancelling", "cancelling a command failed", exc_info=True
                    )
        self.on_idle()

    def close(self) -> None:
        """Close every connection after all its data have been sent."""
        for connection in list(self.connections):
            connection.close()

    def abort(self) -> None:
        """Close every connection at once. Unsent data are discarded."""
        for connection in list(self.connections):
            connection.abort()
