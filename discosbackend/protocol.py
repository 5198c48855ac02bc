"""Connections: DBProtocol sends exactly one reply to each request, in order, and DBFactory makes the connections.

This is the only module that sends replies, so it also calls the listeners (DBFactory.listeners). replies.py makes the
bytes of a reply, handlers.py executes the request, and server.py listens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from time import perf_counter
from typing import Any, NamedTuple, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    INegotiated,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from discosbackend.commands import COMMANDS
from discosbackend.descriptors import DescriptorWatch
from discosbackend.errors import GrammarException, HandlerException
from discosbackend.exchanges import ConnectionEvent, Exchange
from discosbackend.framing import LONGEST_LINE, LineSplitter, LongLine, is_http, is_tls, without_telnet
from discosbackend.grammar import INVALID, REQUEST, Message, named_in, parse_request
from discosbackend.handlers import REPLY_LIMIT, BackendCommand, DBProtocolHandler, Handler
from discosbackend.log import address_text, shown_arguments
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger
from discosbackend.replies import GREETING, UNEXPECTED, Replies
from discosbackend.round_robin import RoundRobin
from discosbackend.scheduler import deferred_of
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["GREETING", "UNEXPECTED", "ConnectionEvent", "DBFactory", "DBProtocol", "Exchange"]

logger = logging.getLogger(__name__)

STOPPING = "server is stopping"

# How many lines of a client without a backlog are answered at once, even while other clients have a backlog. This
# lowered the p99 latency of such a client, beside 50 pipelining clients, from 48 ms to 2.5 ms.
_AT_ONCE = 4
# How many s an HTTP or TLS client has to read the reply before its connection is closed.
_LINGER = 1.0
# How many s the LF after a CR may take to arrive.
_CR_PATIENCE = 5.0
# Reading stops while a client has more than this many bytes of unanswered requests.
_BACKLOG = 16384


# The transports of Unix sockets provide ITCPTransport too, so the type of the address decides.
_TCP = (IPv4Address, IPv6Address)


class _Pending(NamedTuple):
    """A request for which the handler has returned a Deferred that has not fired."""

    name: str
    line: bytes
    began: float
    source: Deferred[Any]


@implementer(IHalfCloseableProtocol, IPushProducer)
class DBProtocol(Protocol):
    """One connection of the DISCOS backend protocol (protocol section 1).

    A subclass can override lineReceived() and sendLine(). To use it, override `protocol` in a subclass of DBFactory.
    """

    factory: DBFactory

    def __init__(self) -> None:
        self._splitter = LineSplitter()
        # The lines from _at on have been received, but not handled yet.
        self._lines: list[bytes] | tuple[()] = ()
        self._at = 0
        self._backlog = 0
        self._pending: _Pending | None = None
        self._out: list[bytes] | None = None
        self._greeting: Any = None
        self._produces = False
        self._output_full = False
        self._reading = True
        self._half_closed = False
        self._peer = self.host = "nobody"
        self._number = 0
        # The timer that runs while the last received byte is a CR, and whether a CR without LF has been logged.
        self._cr_timer: Any = None
        self._cr_told = False
        # After an HTTP request or a TLS handshake: further input is ignored, and the connection is closed.
        self._refusing = False
        self._linger: Any = None
        self._all_sent = False
        self._closing = False
        self._lost = False
        self.queued = False

    @property
    def busy(self) -> bool:
        """Whether a received request has no reply yet."""
        return self._pending is not None or self._at < len(self._lines)

    def __str__(self) -> str:
        return self.peer

    @property
    def peer(self) -> str:
        """The client's address as a text, for the log and the listeners."""
        return self._peer

    # -- calls of the transport -----------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Twisted's hook: register the connection, and send the greeting, now or after the greeting delay."""
        transport = self._transport()
        self._peer = address_text(transport.getPeer())
        self.host = self._peer.rpartition(":")[0] or self._peer
        self._number = next(self.factory.numbers)
        is_tcp = ITCPTransport.providedBy(transport)
        if is_tcp and isinstance(transport.getPeer(), _TCP):
            # Clients may send nothing for hours. Keepalive detects those whose network connection was lost.
            transport.setTcpKeepAlive(True)
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        self._produces = True
        self.factory.connections.add(self)
        logger.debug("%s connected", self.peer)
        if self.factory.listeners:
            self.factory.notify(ConnectionEvent(self._number, self._peer, Ticks.now(), "open"))
        if self.factory.greeting_delay > 0:
            self._greeting = self.factory.reactor.callLater(self.factory.greeting_delay, self._greet)
        else:
            self.sendLine(GREETING)

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook: split the data into lines. Answer a few lines at once, and more than that in turn."""
        splitter = self._splitter
        if self._refusing:
            return
        lines = splitter.feed(data)
        if splitter.rest or splitter.bare_cr or self._cr_timer is not None:
            self._watch_cr()
        if not lines:
            return
        if self._lines:
            self._lines.extend(lines)
        else:
            self._lines = lines
            if len(lines) <= _AT_ONCE:
                self.work(len(lines))
                if not self._lines:
                    return
        self._backlog += len(data)
        self._update_read_pause()
        self.factory.round_robin.enqueue(self)

    def readConnectionLost(self) -> None:
        """Twisted's hook: the client has closed its sending half. It still gets every reply (protocol section 1.9)."""
        self._half_closed = True
        self._end_cr()
        self._close_if_idle()

    def writeConnectionLost(self) -> None:
        """Twisted's hook: our sending half is closed, so all data have been sent."""
        self._all_sent = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's hook: the connection is closed. Received requests are executed, and their replies are discarded."""
        self._lost = True
        self._output_full = False
        self._cancel_greeting()
        self._end_cr()
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        if reason.check(ConnectionDone):
            logger.debug("%s disconnected", self.peer)
        else:
            self.factory.rate_limited_logger.log(
                logging.INFO,
                "connection lost",
                "%s lost: %s",
                self.peer,
                reason.getErrorMessage(),
                window=MINUTE,
            )
        if self.factory.listeners:
            self.factory.notify(ConnectionEvent(self._number, self._peer, Ticks.now(), "close"))
        self.factory.round_robin.enqueue(self)
        self._close_if_idle()

    def pauseProducing(self) -> None:
        """Twisted's hook: the transport's buffer is full. No more requests are handled until it is empty.

        Reading goes on until the backlog is full, because a TLS transport pauses its producer before the handshake, and
        the handshake needs the client's data.
        """
        self._output_full = True
        self._update_read_pause()

    def resumeProducing(self) -> None:
        """Twisted's hook: the transport's buffer is empty again."""
        self._output_full = False
        self._update_read_pause()
        self.factory.round_robin.enqueue(self)

    def stopProducing(self) -> None:
        """Twisted's hook: the transport is about to close; connectionLost() follows."""
        self._output_full = False

    # -- a CR that ends no line -----------------------------------------------------------------------

    def _watch_cr(self) -> None:
        """Detect a client that ends its lines with CR only, and so gets no replies (protocol section 1.3)."""
        if self._cr_timer is not None:
            self._cr_timer.cancel()
            self._cr_timer = None
        if self._cr_told:
            return
        if self._splitter.bare_cr:
            self._tell_of_cr()
        elif self._splitter.rest.endswith(b"\r"):
            # The LF may arrive in the next packet.
            self._cr_timer = self.factory.reactor.callLater(_CR_PATIENCE, self._tell_of_cr)

    def _end_cr(self) -> None:
        """Log a CR that no LF can follow any more."""
        if self._cr_timer is not None:
            self._cr_timer.cancel()
            self._tell_of_cr()

    def _tell_of_cr(self) -> None:
        self._cr_timer = None
        self._cr_told = True
        text = "%s sends CR without LF, which does not end a line: it gets no reply until it sends LF"
        self.factory.rate_limited_logger.log(logging.WARNING, "CR without LF", text, self.peer)

    # -- from a line to its reply ---------------------------------------------------------------------

    def work(self, quantum: int, deadline: float = float("inf")) -> None:
        """Handle up to `quantum` lines, and send their replies in one write.

        Stop earlier if the reply to a line is not available at once, if the client does not read its replies, or at
        the deadline, which is a time of perf_counter().
        """
        out = self._out = []
        try:
            end = min(self._at + quantum, len(self._lines))
            while self._at < end and self._pending is None and not self._output_full:
                line = self._lines[self._at]
                self._at += 1
                if line[:1] == b"?" and self._greeting is None and not isinstance(line, LongLine):
                    self.lineReceived(line)
                else:
                    self._handle_irregular_line(line)
                if perf_counter() >= deadline:
                    break
        except BaseException:  # an overridden lineReceived() may raise anything
            # The line may have no reply. The client would then take every later reply for the reply to the request
            # before.
            self.factory.rate_limited_logger.log(
                logging.ERROR,
                "line not handled",
                "%s: a line could not be handled, the connection is aborted",
                self.peer,
                exc_info=True,
            )
            self.abort()
        finally:
            self._out = None
            if out and not self._lost:
                # One write for all replies is 15 to 20 % faster than one write per reply.
                self._transport().write(b"".join(out))
        if self._at >= len(self._lines):
            self._lines, self._at, self._backlog = (), 0, 0
            if not self._reading:
                self._update_read_pause()
            if self._greeting is not None and not self._greeting.active():
                self._greet()
            if self._half_closed or self._refusing or self._lost or self.factory.finishing is not None:
                self._close_if_idle()

    def _handle_irregular_line(self, line: bytes) -> None:
        """Handle a line that is not an ordinary request, and any line that arrives before the greeting is sent."""
        if line[:1] == b"\xff":
            negotiation, line = line, without_telnet(line)
            if not line and negotiation and not isinstance(line, LongLine):
                return
        if line[:1] == b"!":
            self.factory.rate_limited_logger.log(
                logging.INFO, "not a request", "%s sent a line with '!', which gets no reply: %r", self, line[:80]
            )
            if self.factory.listeners:
                self._notify("", line, None, perf_counter())
        elif isinstance(line, LongLine):
            self._cancel_greeting()
            problem = f"line longer than {LONGEST_LINE} bytes"
            text = line.decode("latin-1")
            self._finish(named_in(text), line, self.factory.replies.invalid(text, problem, self), perf_counter())
        else:
            self._cancel_greeting()
            self.lineReceived(line)
        if line[:1].isalpha() and is_http(line):
            self._refuse_rest("an HTTP request", line)
        elif is_tls(line):
            self._refuse_rest("a TLS handshake", line)

    def lineReceived(self, line: bytes) -> None:
        """Handle one line, and send its reply now or later.

        Parameters
        ----------
        line
            The line, without its end and without telnet negotiation. It does not begin with `!`.
        """
        began = perf_counter()
        factory = self.factory
        text = line.decode("latin-1")
        try:
            name, arguments = parse_request(text)
        except GrammarException as problem:
            self._finish(named_in(text), line, factory.replies.invalid(text, str(problem), self), began)
            return
        try:
            if factory.stopping:
                raise HandlerException(STOPPING)
            result = factory.ask(name, arguments)
        except BaseException as problem:  # noqa: BLE001  # each request gets a reply, after any exception
            self._finish(name, line, factory.replies.answer(name, problem, self, line, began), began)
            return
        if not isinstance(result, (list, Message)) and hasattr(type(result), "__await__"):
            self._wait_for(result, name, line, began)
        else:
            self._finish(name, line, factory.replies.answer(name, result, self, line, began), began)

    def sendLine(self, line: bytes) -> None:
        """Send one line. In work(), all lines are collected and sent in one write.

        Parameters
        ----------
        line
            The line, without CR LF, which is added here.
        """
        if self._out is not None:
            self._out.append(line + b"\r\n")
        elif not self._lost:
            self._transport().write(line + b"\r\n")

    def _wait_for(self, result: Any, name: str, line: bytes, began: float) -> None:
        source = deferred_of(result)
        self._pending = _Pending(name, line, began, source)
        source.addBoth(self._on_result, self._pending)

    def _on_result(self, outcome: Any, pending: _Pending) -> None:
        """Send the reply when the handler's Deferred has fired."""
        if self._pending is not pending:
            # abandon() has answered the request already.
            return
        self._pending = None
        reply = self.factory.replies.answer(pending.name, outcome, self, pending.line, pending.began)
        self._finish(pending.name, pending.line, reply, pending.began)
        if self._out is None:
            self.factory.round_robin.enqueue(self)
            self._close_if_idle()

    def _finish(self, name: str, line: bytes, reply: bytes, began: float) -> None:
        """Send the reply to a request. Every code path that ends a request calls this."""
        self.sendLine(reply)
        factory = self.factory
        if name not in factory.reads and reply.startswith(b",ok", len(name) + 1) and logger.isEnabledFor(logging.INFO):
            seconds = perf_counter() - began
            logger.info("%s from %s%s -> ok in %.3f s", name, self._peer, shown_arguments(line), seconds)
        if factory.listeners:
            self._notify(name, line, reply, began)

    def _notify(self, name: str, line: bytes, reply: bytes | None, began: float) -> None:
        """Call the listeners with an Exchange."""
        seconds = perf_counter() - began
        begin = Ticks(Ticks.now() - round(seconds * TICKS_PER_SECOND))
        code = "" if reply is None else reply.split(b",", 2)[1].decode("latin-1")
        changes = name not in self.factory.reads and code != INVALID
        self.factory.notify(Exchange(self._number, self._peer, begin, line, name, reply, code, changes, seconds))

    # -- the greeting, bounds, the end ----------------------------------------------------------------

    def _greet(self) -> None:
        if self.busy:
            # The lines in the queue arrived earlier. The first one that gets a reply cancels the greeting. If none gets
            # a reply, work() calls this method again.
            return
        self._greeting = None
        self.sendLine(GREETING)
        self._close_if_idle()

    def _cancel_greeting(self) -> None:
        if self._greeting is not None:
            if self._greeting.active():
                self._greeting.cancel()
            self._greeting = None

    def _update_read_pause(self) -> None:
        """Pause reading while the client has a backlog of unanswered requests, and resume it afterwards."""
        reading = self._wants_more
        if reading == self._reading or self._half_closed or self._closing or self._lost:
            return
        self._reading = reading
        if reading:
            self._transport().resumeProducing()
        else:
            self._transport().pauseProducing()

    @property
    def _wants_more(self) -> bool:
        """Whether the backlog is small enough to read more."""
        return self._backlog <= _BACKLOG

    @property
    def has_work(self) -> bool:
        """Whether there is a line that can be handled now."""
        return self._at < len(self._lines) and self._pending is None and not self._output_full

    def _close_if_idle(self) -> None:
        """If every request has its reply, close a half-closed connection, or remove a lost one from the factory."""
        if self.busy:
            return
        if self._lost:
            self.factory.connections.discard(self)
        elif self._half_closed and self._greeting is None:
            self.close()
        elif self._refusing and self._linger is None and not self._closing:
            self._close_sending()
        self.factory.on_idle()

    def _refuse_rest(self, what: str, line: bytes) -> None:
        """Ignore everything after the first line of an HTTP request or of a TLS handshake.

        A web page may choose the content of a request, and a web server the session ticket in a handshake.

        Further data are read and discarded. Unread data would make the system reset the connection, and the client
        would lose the reply.
        """
        text = "%s sent %s, everything after this line is ignored: %r"
        shown = line[:80].decode("latin-1")
        self.factory.rate_limited_logger.log(logging.WARNING, "HTTP or TLS", text, self.peer, what, shown)
        self._refusing = True
        self._at = len(self._lines)
        if self._cr_timer is not None:
            self._cr_timer.cancel()
            self._cr_timer = None

    def _close_sending(self) -> None:
        """Close our sending half after the replies, then the connection when the client closes, or after _LINGER."""
        transport = self._transport()
        self._linger = self.factory.reactor.callLater(_LINGER, self._end_linger)
        if ITCPTransport.providedBy(transport) and not INegotiated.providedBy(transport):
            self._unregister()
            transport.loseWriteConnection()
        else:
            # TLS has no half-closed connections.
            self.close()

    def _end_linger(self) -> None:
        if self._all_sent:
            self.close()
        else:
            self.abort()

    def close(self) -> None:
        """Close the connection after all data have been sent."""
        self._cancel_greeting()
        if not self._lost and not self._closing:
            self._closing = True
            self._unregister()
            self._transport().loseConnection()

    def _unregister(self) -> None:
        """Unregister the producer, because a transport with a producer waits for it to finish before it closes."""
        if self._produces:
            self._produces = False
            self._transport().unregisterProducer()

    def abort(self) -> None:
        """Close the connection at once. Unsent data are discarded."""
        if not self._lost:
            self._transport().abortConnection()

    def abandon(self) -> Deferred[Any] | None:
        """Answer every request that has no reply yet with `fail` and the reason `server is stopping`.

        Returns
        -------
        source
            The Deferred of the request that was being executed, for the caller to cancel; None if there was none.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            reply = self.factory.replies.refused(pending.name, STOPPING, self, pending.line, pending.began)
            self._finish(pending.name, pending.line, reply, pending.began)
        self._output_full = False
        self.work(len(self._lines))
        return None if pending is None else pending.source

    def _transport(self) -> Any:
        return self.transport


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

    Raises
    ------
    TypeError
        If `handler` has no method `handle`.
    ValueError
        If `greeting_delay` is negative or not a number.
    """

    protocol: Callable[[], DBProtocol] = DBProtocol  # type: ignore[assignment]  # Twisted declares no type
    noisy = False

    def __init__(self, handler: Handler, *, greeting_delay: float = 0.0, reactor: Any = None) -> None:
        if not callable(getattr(handler, "handle", None)):
            raise TypeError(f"a handler is needed, such as DBProtocolHandler(backend), not {handler!r}")
        if not greeting_delay >= 0:
            raise ValueError(f"greeting_delay must be 0 s or more, not {greeting_delay!r}")
        self._handler = handler
        self.greeting_delay = greeting_delay
        self.listeners: list[Callable[[Any], object]] = []
        self.numbers = count(1)
        # The names of the commands that change nothing. They are not logged. "" stands for a line without a name.
        self.reads = _reads_of(handler) | {""}
        self.connections: set[DBProtocol] = set()
        self.stopping = False
        self.stopped: Deferred[Any] = maybeDeferred(lambda: None)
        self.rate_limited_logger = RateLimitedLogger(logger, self._call_later)
        self._descriptors = DescriptorWatch(self.rate_limited_logger)
        self.round_robin = RoundRobin(self._call_later)
        # reply_arguments() is faster than handle(), but can replace it only if no subclass has overridden handle().
        direct = getattr(handler.handle, "__func__", None) is DBProtocolHandler.handle
        self.ask: Callable[[str, Sequence[str]], Any] = self._ask_with_message
        if direct:
            self.ask = cast(Any, handler.handle).__self__.reply_arguments
        # A handler written for the original package may not derive from Handler, and then has no reply_limit.
        self.replies = Replies(getattr(handler, "reply_limit", REPLY_LIMIT), self.rate_limited_logger, of_texts=direct)
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
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor

    def _ask_with_message(self, name: str, arguments: Sequence[str]) -> Any:
        return self.handler.handle(Message(message_type=REQUEST, name=name, arguments=arguments))

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
