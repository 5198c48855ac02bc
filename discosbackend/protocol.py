"""The line protocol on a connection: exactly one reply to each request, in order, within bounds.

The only module that sends replies, so also the one that can report each exchange (DBFactory.listeners). The bytes of
a reply are made in replies, the handler knows what a request means, server where to listen.
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
from discosbackend.framing import LONGEST_LINE, LineSplitter, LongLine, is_http, without_telnet
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

# A client without a backlog gets so many lines answered at once, even while others have one: it took the
# p99 of a polite client beside 50 pipelining ones from 48 ms to 2.5 ms.
_AT_ONCE = 4
# Seconds for a browser to read why nothing that it sent is looked at.
_LINGER = 1.0
# Seconds for the LF that belongs to a CR to arrive.
_CR_PATIENCE = 5.0
# Bytes of requests that wait for their turn, from which on no more are read.
_BACKLOG = 16384


# The transports of local sockets claim to be TCP's too.
_TCP = (IPv4Address, IPv6Address)


class _Pending(NamedTuple):
    """A request whose reply the handler still owes."""

    name: str
    line: bytes
    began: float
    source: Deferred[Any]


@implementer(IHalfCloseableProtocol, IPushProducer)
class DBProtocol(Protocol):
    """One connection of the DISCOS backend protocol (protocol section 1).

    `lineReceived` and `sendLine` are the places to override.
    """

    factory: DBFactory

    def __init__(self) -> None:
        self._splitter = LineSplitter()
        # Lines that were read and not yet looked at are those from _at on.
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
        # While the last byte was a CR, and whether the log has been told of such.
        self._cr_timer: Any = None
        self._cr_told = False
        # Behind a line of HTTP: nothing more is looked at, our half is closed, the rest soon after.
        self._refusing = False
        self._linger: Any = None
        self._all_sent = False
        self._closing = False
        self._lost = False
        self.queued = False

    @property
    def busy(self) -> bool:
        """Whether a request that was read has no reply yet."""
        return self._pending is not None or self._at < len(self._lines)

    def __str__(self) -> str:
        return self.peer

    @property
    def peer(self) -> str:
        """Who is at the other end, for the log and the listeners."""
        return self._peer

    # -- the transport's side -------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Greet, now or later, and ask the transport to say when its buffer is full."""
        transport = self._transport()
        self._peer = address_text(transport.getPeer())
        self.host = self._peer.rpartition(":")[0] or self._peer
        self._number = next(self.factory.numbers)
        is_tcp = ITCPTransport.providedBy(transport)  # zope's own
        if is_tcp and isinstance(transport.getPeer(), _TCP):
            # Clients are silent for hours, and a telescope's network loses some of them.
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
        """Cut what was read into lines; answer them at once if they are few, else when it is their turn."""
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
        """The client has sent its last; it still gets every reply (protocol section 1.9)."""
        self._half_closed = True
        self._end_cr()
        self._close_if_idle()

    def writeConnectionLost(self) -> None:
        """Our half is closed: what was written has been sent."""
        self._all_sent = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone: that cancels nothing, what it asked for is carried out without replies."""
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
        """The client does not read its replies: make no more of them.

        Requests are read until they pile up: TLS says that it is full before its handshake, and has to read what the
        client sends before it can write.
        """
        self._output_full = True
        self._update_read_pause()

    def resumeProducing(self) -> None:
        """The client has read on."""
        self._output_full = False
        self._update_read_pause()
        self.factory.round_robin.enqueue(self)

    def stopProducing(self) -> None:
        """The transport is going away; connectionLost follows."""
        self._output_full = False

    # -- a CR that ends no line -----------------------------------------------------------------------

    def _watch_cr(self) -> None:
        """Notice a client that ends its lines in CR alone and is never answered (protocol section 1.3)."""
        if self._cr_timer is not None:
            self._cr_timer.cancel()
            self._cr_timer = None
        if self._cr_told:
            return
        if self._splitter.bare_cr:
            self._tell_of_cr()
        elif self._splitter.rest.endswith(b"\r"):
            # The LF may come in a packet of its own.
            self._cr_timer = self.factory.reactor.callLater(_CR_PATIENCE, self._tell_of_cr)

    def _end_cr(self) -> None:
        """Nothing can follow the CR any more."""
        if self._cr_timer is not None:
            self._cr_timer.cancel()
            self._tell_of_cr()

    def _tell_of_cr(self) -> None:
        self._cr_timer = None
        self._cr_told = True
        text = "%s sends CR without LF, which ends no line: it is not answered until it sends LF"
        self.factory.rate_limited_logger.log(logging.WARNING, "CR without LF", text, self.peer)

    # -- from a line to its reply ---------------------------------------------------------------------

    def work(self, quantum: int, deadline: float = float("inf")) -> None:
        """Answer up to `quantum` lines, until one has to be waited for, the client stops reading, or time is up."""
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
        except BaseException:  # an overridden lineReceived
            # Nobody knows whether that line got its reply, and one too few shifts all that follow.
            self.factory.rate_limited_logger.log(
                logging.ERROR,
                "line not handled",
                "%s: a line could not be handled, the connection is cut",
                self.peer,
                exc_info=True,
            )
            self.abort()
        finally:
            self._out = None
            if out and not self._lost:
                # One write for all of them gains 15 to 20 %.
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
        """Whatever a client may send, and a request that comes before the greeting."""
        if line[:1] == b"\xff":
            negotiation, line = line, without_telnet(line)
            if not line and negotiation and not isinstance(line, LongLine):
                return
        if line[:1] == b"!":
            self.factory.rate_limited_logger.log(
                logging.INFO, "not a request", "%s sent no request: %r", self, line[:80]
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
            self._refuse_rest(line)

    def lineReceived(self, line: bytes) -> None:
        """Answer one line, which has its end and telnet's negotiation removed and is no reply."""
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
        except BaseException as problem:  # noqa: BLE001  # one reply, whatever it is
            self._finish(name, line, factory.replies.answer(name, problem, self, line, began), began)
            return
        if not isinstance(result, (list, Message)) and hasattr(type(result), "__await__"):
            self._wait_for(result, name, line, began)
        else:
            self._finish(name, line, factory.replies.answer(name, result, self, line, began), began)

    def sendLine(self, line: bytes) -> None:
        """Send one line; its CR LF is added here, and the replies of a turn are joined into one write."""
        if self._out is not None:
            self._out.append(line + b"\r\n")
        elif not self._lost:
            self._transport().write(line + b"\r\n")

    def _wait_for(self, result: Any, name: str, line: bytes, began: float) -> None:
        source = deferred_of(result)
        self._pending = _Pending(name, line, began, source)
        source.addBoth(self._on_result, self._pending)

    def _on_result(self, outcome: Any, pending: _Pending) -> None:
        """The handler's Deferred has fired; if the request was given up meanwhile, too late."""
        if self._pending is not pending:
            return
        self._pending = None
        reply = self.factory.replies.answer(pending.name, outcome, self, pending.line, pending.began)
        self._finish(pending.name, pending.line, reply, pending.began)
        if self._out is None:
            self.factory.round_robin.enqueue(self)
            self._close_if_idle()

    def _finish(self, name: str, line: bytes, reply: bytes, began: float) -> None:
        """Send the one reply to a request: every way out of a request ends here."""
        self.sendLine(reply)
        factory = self.factory
        if name not in factory.reads and reply.startswith(b",ok", len(name) + 1) and logger.isEnabledFor(logging.INFO):
            seconds = perf_counter() - began
            logger.info("%s from %s%s -> ok in %.3f s", name, self._peer, shown_arguments(line), seconds)
        if factory.listeners:
            self._notify(name, line, reply, began)

    def _notify(self, name: str, line: bytes, reply: bytes | None, began: float) -> None:
        """Tell the listeners, of which there are some."""
        seconds = perf_counter() - began
        begin = Ticks(Ticks.now() - round(seconds * TICKS_PER_SECOND))
        code = "" if reply is None else reply.split(b",", 2)[1].decode("latin-1")
        changes = name not in self.factory.reads and code != INVALID
        self.factory.notify(Exchange(self._number, self._peer, begin, line, name, reply, code, changes, seconds))

    # -- the greeting, bounds, the end ----------------------------------------------------------------

    def _greet(self) -> None:
        if self.busy:
            # Lines that wait for their turn arrived first: one that gets a reply cancels this, else work() is back.
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
        """Read no more while what was read piles up, because a request takes its time or replies are not read."""
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
        """Whether requests are to be read."""
        return self._backlog <= _BACKLOG

    @property
    def has_work(self) -> bool:
        """Whether there is a line that could be looked at now."""
        return self._at < len(self._lines) and self._pending is None and not self._output_full

    def _close_if_idle(self) -> None:
        """Once every request has its reply: close what was half closed, forget what is gone."""
        if self.busy:
            return
        if self._lost:
            self.factory.connections.discard(self)
        elif self._half_closed and self._greeting is None:
            self.close()
        elif self._refusing and self._linger is None and not self._closing:
            self._close_sending()
        self.factory.on_idle()

    def _refuse_rest(self, line: bytes) -> None:
        """Look at nothing that a browser sends behind a line of HTTP: a web page may have written it.

        What still comes is read and dropped: left unread it would cause a reset, which destroys the reply.
        """
        text = "%s speaks HTTP, nothing behind this line is looked at: %r"
        self.factory.rate_limited_logger.log(logging.WARNING, "HTTP", text, self.peer, line[:80].decode("latin-1"))
        self._refusing = True
        self._at = len(self._lines)
        if self._cr_timer is not None:
            self._cr_timer.cancel()
            self._cr_timer = None

    def _close_sending(self) -> None:
        """Close our half once the replies have been sent, and the rest when the peer does, or in a second."""
        transport = self._transport()
        self._linger = self.factory.reactor.callLater(_LINGER, self._end_linger)
        if ITCPTransport.providedBy(transport) and not INegotiated.providedBy(transport):  # zope's own
            self._unregister()
            transport.loseWriteConnection()
        else:
            # TLS knows no half-closed connection.
            self.close()

    def _end_linger(self) -> None:
        if self._all_sent:
            self.close()
        else:
            self.abort()

    def close(self) -> None:
        """Close once what was written has been sent."""
        self._cancel_greeting()
        if not self._lost and not self._closing:
            self._closing = True
            self._unregister()
            self._transport().loseConnection()

    def _unregister(self) -> None:
        """Produce no more: with a producer registered the transport would wait for it to end before it closes."""
        if self._produces:
            self._produces = False
            self._transport().unregisterProducer()

    def abort(self) -> None:
        """Close at once: the client does not read what was written."""
        if not self._lost:
            self._transport().abortConnection()

    def abandon(self) -> Deferred[Any] | None:
        """Answer what has no reply yet with a `fail` that says that the server is stopping.

        Returns what was waited for, if anything was, to be cancelled once everybody has an answer.
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
    """The names of the commands that change nothing; of a handler that has no table, by the protocol's own."""
    reads = {row.name: not row.changes for row in COMMANDS.values()}
    for name, command in getattr(handler, "commands", {}).items():
        if isinstance(command, BackendCommand):
            reads[name] = not command.row.changes
    return frozenset(name for name, is_read in reads.items() if is_read)


class DBFactory(Factory):
    """Makes a DBProtocol for each connection, all on one handler.

    `greeting_delay` is after how many seconds a silent client is greeted; 0 is at once (protocol section
    9.2 says for whom). Whether the handler has a `handle` of its own is looked at here, once. `listeners`
    are called with an Exchange after every line, and with a ConnectionEvent when a connection opens or closes;
    nobody there costs nothing. Who changed what is logged at `info`. `reactor` is where turns and delays are
    waited for.
    """

    protocol: Callable[[], DBProtocol] = DBProtocol  # type: ignore[assignment]  # Twisted leaves it open
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
        # Names of commands that change nothing, which are not logged; "" is that of a line that names none.
        self.reads = _reads_of(handler) | {""}
        self.connections: set[DBProtocol] = set()
        self.stopping = False
        self.stopped: Deferred[Any] = maybeDeferred(lambda: None)
        self.rate_limited_logger = RateLimitedLogger(logger, self._call_later)
        self._descriptors = DescriptorWatch(self.rate_limited_logger)
        self.round_robin = RoundRobin(self._call_later)
        # No Messages where `handle` is DBProtocolHandler's own: not in a subclass that has another.
        direct = getattr(handler.handle, "__func__", None) is DBProtocolHandler.handle
        self.ask: Callable[[str, Sequence[str]], Any] = self._ask_with_message
        if direct:
            self.ask = cast(Any, handler.handle).__self__.reply_arguments
        # A handler written for the original package need not derive from ours.
        self.replies = Replies(getattr(handler, "reply_limit", REPLY_LIMIT), self.rate_limited_logger, of_texts=direct)
        self._reactor = reactor
        # What finish() has promised, until it is kept.
        self.finishing: Deferred[None] | None = None

    @property
    def handler(self) -> Handler:
        """Who answers; another handler needs another factory."""
        return self._handler

    @property
    def reactor(self) -> Any:
        """The reactor that was given, or the one of this process."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor

    def _ask_with_message(self, name: str, arguments: Sequence[str]) -> Any:
        return self.handler.handle(Message(message_type=REQUEST, name=name, arguments=arguments))

    def _call_later(self, delay: float, function: Callable[..., Any], *args: Any) -> Any:
        return self.reactor.callLater(delay, function, *args)

    def startFactory(self) -> None:
        """Twisted's hook: the first port listens."""
        self.stopping = False
        self._descriptors.begin()
        self.handler.start()

    def stopFactory(self) -> None:
        """Twisted's hook: the last port is closed. `stopped` fires when the handler is done with it."""
        self._descriptors.end()
        self.rate_limited_logger.sum_up()
        self.stopped = maybeDeferred(self.handler.stop)

    def buildProtocol(self, addr: IAddress | None) -> DBProtocol:  # type: ignore[override]
        """Twisted's hook: a connection was made."""
        protocol = self.protocol()
        protocol.factory = self
        return protocol

    def notify(self, exchange: Exchange | ConnectionEvent) -> None:
        """Tell the listeners; one that raises is logged and keeps nobody from anything."""
        for listener in tuple(self.listeners):
            try:
                listener(exchange)
            except BaseException:  # whatever a listener raises
                self.rate_limited_logger.log(
                    logging.ERROR, "listener", "a listener failed: %r", listener, exc_info=True
                )

    # -- the end --------------------------------------------------------------------------------------

    def finish(self, timeout: float) -> Deferred[None]:
        """Let the requests that are being carried out finish; the Deferred fires when every one has its reply.

        What has not begun gets its `fail` at once, what is not done after `timeout` seconds then.
        """
        self.stopping = True
        finished: Deferred[None] = Deferred()
        self.finishing = finished
        give_up = self.reactor.callLater(timeout, self._abandon)
        finished.addCallback(lambda _: give_up.cancel() if give_up.active() else None)
        self.on_idle()
        return finished

    def on_idle(self) -> None:
        """A connection has nothing left to do."""
        if self.finishing is not None and not any(connection.busy for connection in self.connections):
            finished, self.finishing = self.finishing, None
            finished.callback(None)

    def _abandon(self) -> None:
        for source in [connection.abandon() for connection in list(self.connections)]:
            if source is not None:
                try:
                    source.cancel()
                except BaseException:  # whatever a canceller raises
                    self.rate_limited_logger.log(
                        logging.ERROR, "cancelling", "cancelling a command failed", exc_info=True
                    )
        self.on_idle()

    def close(self) -> None:
        """Close every connection once what was written has been sent."""
        for connection in list(self.connections):
            connection.close()

    def abort(self) -> None:
        """Close every connection at once."""
        for connection in list(self.connections):
            connection.abort()
