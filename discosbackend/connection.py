"""Connections: DBProtocol sends exactly one reply to each request, in order.

It decides when a line is handled, and when the connection ends. framing.py says what a line is, the handler executes a
request, replies.py makes the replies to errors, and output.py sends them. DBFactory in protocol.py makes the
connections.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, INegotiated, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from discosbackend.errors import STOPPING, HandlerException, loss_of
from discosbackend.exchanges import ConnectionEvent, exchange_of
from discosbackend.framing import LONGEST_LINE, Kind, LineSplitter, LongLine, read_known, read_line, without_telnet
from discosbackend.grammar import INVALID, OK
from discosbackend.log import address_text, shown_arguments
from discosbackend.output import Output
from discosbackend.rate_limited_logger import MINUTE
from discosbackend.replies import GREETING, reason_in
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

if TYPE_CHECKING:
    from discosbackend.protocol import DBFactory

__all__ = ["DBProtocol", "Greeting", "State"]

# One name for what is logged of connections and of their factory.
logger = logging.getLogger("discosbackend.protocol")

# How many lines of a client without a backlog are answered at once, even while other clients have a backlog. This
# lowered the p99 latency of such a client, beside 50 pipelining clients, from 48 ms to 2.5 ms.
_AT_ONCE = 4
# How many s an HTTP or TLS client has to read the reply before its connection is closed.
_LINGER = 1.0
# How many s the LF after a CR may take to arrive.
_CR_PATIENCE = 5.0
# Reading stops when more than this many bytes have arrived since the last time that no line waited. It goes on when
# every line has been handled.
_BACKLOG = 16384
# A deadline that never comes.
_NEVER = float("inf")


# The transports of Unix sockets provide ITCPTransport too, so the type of the address decides.
_TCP = (IPv4Address, IPv6Address)


class State(IntEnum):
    """How far the connection is closed. The state never goes back. It often skips LINGERING and ALL_SENT."""

    OPEN = 0
    LINGERING = 1
    """Our sending half is being closed. The client may still read."""
    ALL_SENT = 2
    """Our sending half is closed."""
    CLOSING = 3
    """The transport closes when it has sent all data."""
    LOST = 4
    """There is no connection any more. Received requests that change something are executed, without a reply."""


class Greeting(Enum):
    """Whether the greeting is still to be sent."""

    DELAYED = 1
    """It is sent when the client has sent nothing for the greeting delay."""
    DUE = 2
    """The delay is over, but lines that had arrived before are handled first."""
    DONE = 3
    """It has been sent, or is not needed, because the client has sent a request."""


# A module's names are looked up faster than the members of an Enum.
_GREETED = Greeting.DONE
_OPEN = State.OPEN
_REQUEST = Kind.REQUEST


class _Pending(NamedTuple):
    """A request for which the handler has returned a Deferred that has not fired."""

    name: str
    line: bytes
    began: float
    source: Deferred[Any]


@implementer(IHalfCloseableProtocol)
class DBProtocol(LineReceiver):
    """One connection of the DISCOS backend protocol (protocol section 1).

    It is a LineReceiver: a subclass can override lineReceived(), sendLine() and lineLengthExceeded(). To use it, set
    it as `protocol` in a subclass of DBFactory. A line may also end in LF or CR NUL, and raw mode does not exist.
    """

    factory: DBFactory
    delimiter = b"\r\n"
    MAX_LENGTH = LONGEST_LINE
    output_class: type[Output] = Output
    """The class of `output`, through which all replies are sent."""
    # The function that executes requests: all of them, or only those that this client may send.
    _execute: Callable[[str, Sequence[str]], bytes | Deferred[bytes]]

    def __init__(self) -> None:
        self._splitter = LineSplitter(self.MAX_LENGTH)
        # The lines that have been received, but not handled yet. An idle connection has no deque, which saves memory.
        self._lines: deque[bytes] | tuple[()] = ()
        # The bytes that have arrived since the last time that no line waited.
        self._backlog = 0
        self._pending: _Pending | None = None
        # Attributes of the class take longer to read.
        self.paused = False
        self.delimiter = self.delimiter
        self.output = self.output_class(self)
        self._state = State.OPEN
        # The client has closed its sending half. It gets every reply (protocol section 1.9).
        self._half_closed = False
        # The client speaks another language or may not connect, or stopProducing() was called. What it sends is
        # discarded, whatever else happens to the connection.
        self._discarding = False
        self._greeting = Greeting.DONE
        # No line is handled while `paused` (set by users of this class) or while the output is not `ready` (set by the
        # transport). No bytes are read while `paused` or while the backlog is too long: then _reading is False.
        self._reading = True
        self._peer = self.host = "nobody"
        self._number = 0
        # Timers: of the greeting, of a CR at the end of what was received, and of a client that may still read.
        self._greeting_timer: Any = None
        self._cr_timer: Any = None
        self._linger_timer: Any = None
        self._cr_logged = False
        self.queued = False

    @property
    def busy(self) -> bool:
        """Whether a received request has no reply yet."""
        return self._pending is not None or bool(self._lines) or self.output.busy

    @property
    def has_work(self) -> bool:
        """Whether there is a line that can be handled now."""
        if self.paused or self.output.in_turn or not self.output.ready:
            return False
        return bool(self._lines) and self._pending is None

    def __str__(self) -> str:
        return self.peer

    @property
    def peer(self) -> str:
        """The client's address, or the user at a Unix socket, as a text. It is for the log and the listeners."""
        return self._peer

    # -- calls of the transport -----------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Twisted's hook: register the connection, and send the greeting, now or after the greeting delay.

        A client that may not connect is disconnected. It is not registered, and gets nothing.
        """
        transport = self._transport()
        address = transport.getPeer()
        execute = self.factory.execute_for(address)
        if execute is None:
            self._discarding = True
            self._advance(State.LOST)
            transport.abortConnection()
            return
        self._execute = execute
        self._peer = address_text(address)
        self.host = self._peer.rpartition(":")[0] or self._peer
        if isinstance(address, UNIXAddress):
            self._name_unix_peer(transport)
        self._number = next(self.factory.numbers)
        is_tcp = ITCPTransport.providedBy(transport)
        if is_tcp and isinstance(address, _TCP):
            # Clients may send nothing for hours. Keepalive detects those whose network connection was lost.
            transport.setTcpKeepAlive(True)
            transport.setTcpNoDelay(True)
        self.output.begin(transport)
        self.factory.connections.add(self)
        logger.debug("%s connected", self.peer)
        if self.factory.listeners:
            self.factory.notify(ConnectionEvent(self._number, self._peer, Ticks.now(), "open"))
        if self.factory.greeting_delay > 0:
            self._delay_greeting()
        else:
            self.sendLine(GREETING)

    def _name_unix_peer(self, transport: Any) -> None:
        """Name the client of a Unix socket after its user."""
        from discosbackend.unix_peer import peer_of

        handle = getattr(transport, "getHandle", None)
        names = None if handle is None else peer_of(handle())
        if names is not None:
            self.host, self._peer = names

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook: split the data into lines. Handle a few lines at once, or else queue the connection."""
        splitter = self._splitter
        if self._discarding:
            return
        lines = splitter.feed(data)
        if splitter.rest or splitter.bare_cr or self._cr_timer is not None:
            self._watch_cr()
        if not lines:
            return
        if self._lines:
            self._lines.extend(lines)
        else:
            self._lines = deque(lines)
            if len(lines) <= _AT_ONCE:
                self.work()
                if not self._lines:
                    return
        self._backlog += len(data)
        self._update_read_pause()
        self.factory.round_robin.enqueue(self)

    def readConnectionLost(self) -> None:
        """Twisted's hook: the client has closed its sending half."""
        self._half_closed = True
        self._end_cr()
        self._close_if_idle()

    def writeConnectionLost(self) -> None:
        """Twisted's hook: our sending half is closed, so all data have been sent."""
        self._advance(State.ALL_SENT)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's hook: the connection is closed."""
        if not self._number:
            # It was refused.
            return
        self._advance(State.LOST)
        self.paused = False
        self.output.lost()
        self._forget_reads()
        self._cancel_greeting()
        self._end_cr()
        if self._linger_timer is not None and self._linger_timer.active():
            self._linger_timer.cancel()
        if reason.check(ConnectionDone):
            logger.debug("%s disconnected", self.peer)
        else:
            self.factory.rate_limited_logger.log(
                logging.INFO,
                "connection lost",
                "%s lost: %s",
                self.peer,
                loss_of(cast("BaseException", reason.value)),
                window=MINUTE,
            )
        if self.factory.listeners:
            self.factory.notify(ConnectionEvent(self._number, self._peer, Ticks.now(), "close"))
        self.factory.round_robin.enqueue(self)
        self._close_if_idle()

    def _forget_reads(self) -> None:
        """Forget the requests that change nothing, because nobody is left to read their replies.

        A client that sends faster than its requests are executed, gives up, and connects again would otherwise occupy
        the server with them for a long time.
        """
        if self._lines:
            reads = self.factory.reads
            # An irregular line stays: it may say that what follows is not to be executed.
            self._lines = deque(
                line
                for line in self._lines
                if line[:1] != b"?" or type(line) is not bytes or read_line(line).name not in reads
            )

    def _forget_lines(self) -> None:
        self._lines, self._backlog = (), 0

    def _advance(self, state: State) -> None:
        self._state = max(self._state, state)

    # -- pausing --------------------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Handle no more lines, and read no more bytes, until resumeProducing()."""
        self.paused = True
        self._update_read_pause()

    def resumeProducing(self) -> None:
        """Handle the lines that were received meanwhile, and continue to read."""
        self.paused = False
        self._update_read_pause()
        self.factory.round_robin.enqueue(self)

    def stopProducing(self) -> None:
        """Close the connection. The received lines, and all later bytes, are discarded."""
        self.paused = self._discarding = True
        self._forget_lines()
        self.close()

    def output_changed(self) -> None:
        """Continue, because the Output is ready for replies again, or has sent what it had delayed."""
        self._update_read_pause()
        self.factory.round_robin.enqueue(self)
        self._close_if_idle()

    def _update_read_pause(self) -> None:
        """Pause reading when the backlog is too long, and resume it when the backlog is empty.

        Reading goes on while the output is not ready, until the backlog is too long: a TLS transport pauses its
        producer before the handshake, and the handshake needs the client's data.
        """
        reading = self._backlog <= _BACKLOG and not self.paused
        if reading == self._reading or self._half_closed or self._state >= State.CLOSING:
            return
        self._reading = reading
        if reading:
            self._transport().resumeProducing()
        else:
            self._transport().pauseProducing()

    def setRawMode(self) -> None:
        """Raise RuntimeError: every byte of this protocol is part of a line."""
        raise RuntimeError("raw mode does not exist: every byte of the DISCOS backend protocol is part of a line")

    def setLineMode(self, extra: bytes = b"") -> None:
        """Do nothing but receive `extra`, because there is only this mode."""
        if extra:
            self.dataReceived(extra)

    def clearLineBuffer(self) -> bytes:
        """Remove the incomplete line, and return it."""
        rest, self._splitter = self._splitter.rest, LineSplitter(self.MAX_LENGTH)
        self._stop_cr_timer()
        return rest

    # -- a CR that ends no line -----------------------------------------------------------------------

    def _watch_cr(self) -> None:
        """Detect a client that ends its lines with CR only, and so gets no replies (protocol section 1.3)."""
        self._stop_cr_timer()
        if self._cr_logged:
            return
        if self._splitter.bare_cr:
            self._log_cr()
        elif self._splitter.rest.endswith(b"\r"):
            # The LF may arrive in the next packet.
            self._cr_timer = self.factory.reactor.callLater(_CR_PATIENCE, self._log_cr)

    def _stop_cr_timer(self) -> None:
        if self._cr_timer is not None:
            self._cr_timer.cancel()
            self._cr_timer = None

    def _end_cr(self) -> None:
        """Log a CR that no LF can follow any more."""
        if self._cr_timer is not None:
            self._cr_timer.cancel()
            self._log_cr()

    def _log_cr(self) -> None:
        self._cr_timer = None
        self._cr_logged = True
        text = "%s sends CR without LF, which does not end a line: it gets no reply until it sends LF"
        self.factory.rate_limited_logger.log(logging.WARNING, "CR without LF", text, self.peer)

    # -- from a line to its reply ---------------------------------------------------------------------

    def work(self, deadline: float | None = None) -> None:
        """Handle the lines that have been received, and send their replies in one write.

        Stop earlier if the reply to a line is not available at once, or if the client does not read its replies.

        Parameters
        ----------
        deadline
            When to stop, as a time of perf_counter(). None: handle the lines that have just arrived, and stop if others
            arrive meanwhile, because a backend's method runs the reactor. The replies would wait for those lines.
        """
        output = self.output
        if not output.begin_turn():
            # A backend's method runs the reactor. The turn that called it goes on afterwards.
            return
        try:
            while self._lines and self._pending is None and output.ready and not self.paused:
                line = self._lines.popleft()
                if line[:1] == b"?" and self._greeting is _GREETED and type(line) is bytes:
                    self.lineReceived(line)
                else:
                    self._handle_irregular_line(line)
                # Lines that have just arrived are not part of the backlog yet.
                if self._backlog if deadline is None else perf_counter() >= deadline:
                    break
        except BaseException:  # noqa: BLE001  # an overridden lineReceived() may raise anything
            self._abort_after_exception()
        finally:
            output.end_turn()
        if not self._lines:
            self._lines, self._backlog = (), 0
            if not self._reading:
                self._update_read_pause()
            if self._greeting is not _GREETED and self._greeting is Greeting.DUE:
                self._greet()
            if self._half_closed or self._discarding or self._state is not _OPEN or self.factory.finishing is not None:
                self._close_if_idle()

    def _abort_after_exception(self) -> None:
        """Abort the connection because a request may have no reply.

        The client would take every later reply for the reply to the request before.
        """
        text = "%s: a line could not be handled, the connection is aborted"
        self.factory.rate_limited_logger.log(logging.ERROR, "line not handled", text, self.peer, exc_info=True)
        self.abort()

    def _handle_irregular_line(self, line: bytes) -> None:
        """Handle a line that is not an ordinary request, and any line that arrives before the greeting is sent.

        lineReceived() and lineLengthExceeded() call read_line() again, because a subclass may pass on another line.
        """
        negotiation, line = line, without_telnet(line)
        if not line and negotiation and not isinstance(line, LongLine):
            return
        read = read_line(line)
        if read.kind is Kind.NOT_A_REQUEST:
            self.factory.rate_limited_logger.log(
                logging.INFO,
                "not a request",
                "%s sent a line with '!', which gets no reply: %r",
                self,
                line[:80].decode("latin-1"),
            )
            if self.factory.listeners:
                self._notify("", line, None, "", perf_counter(), changes=False)
            return
        self._cancel_greeting()
        if isinstance(line, LongLine):
            self.lineLengthExceeded(line)
        else:
            self.lineReceived(line)
        if read.language:
            self._refuse_rest(read.language, line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a line that is longer than MAX_LENGTH. The connection stays open.

        Parameters
        ----------
        line
            The first MAX_LENGTH bytes of the line, a LongLine.
        """
        read = read_line(line)
        self._answer_error(read.name, line, self.factory.failures.invalid(line, read, self), perf_counter())

    def lineReceived(self, line: bytes) -> None:
        """Handle one line, and send its reply now or later.

        Parameters
        ----------
        line
            The line, without its end and without telnet negotiation. It does not begin with `!`.
        """
        began = perf_counter()
        factory = self.factory
        # A subclass may pass a line of another type.
        read = read_known(line) if type(line) is bytes else read_line(line)
        name = read.name
        if read.kind is not _REQUEST:
            self._answer_error(name, line, factory.failures.invalid(line, read, self), began)
            return
        try:
            if factory.stopping:
                raise HandlerException(STOPPING)
            result = self._execute(name, read.arguments)
        except BaseException as problem:  # noqa: BLE001  # each request gets a reply, after any exception
            self._answer_error(name, line, factory.failures.failed(name, problem, self, line, began), began)
            return
        # The first test is the faster one, because isinstance() is slow for a class with the metaclass ABCMeta.
        if type(result) is bytes or not isinstance(result, Deferred):
            if name in factory.reads and result.startswith(read.success):
                # Nearly all requests are successful reads, which are not logged.
                self.sendLine(result)
                if factory.listeners:
                    # Python 3.11 calls an attribute that is not a method faster if it is loaded first.
                    keep = factory.keep_read
                    keep((self._number, self._peer, began, line, name, result, perf_counter() - began))
            else:
                self._answer(name, line, result, began)
        else:
            self._pending = _Pending(name, line, began, result)
            result.addBoth(self._on_result, self._pending)

    def sendLine(self, line: bytes) -> None:
        """Send one line.

        Parameters
        ----------
        line
            The line, without its line end, which is added.
        """
        self.output.send(line)

    def _on_result(self, outcome: bytes | Failure, pending: _Pending) -> None:
        """Send the reply when the handler's Deferred has fired."""
        if self._pending is not pending:
            # abandon() has answered the request already.
            return
        self._pending = None
        try:
            if isinstance(outcome, Failure):
                reply = self.factory.failures.failed(pending.name, outcome, self, pending.line, pending.began)
                self._answer_error(pending.name, pending.line, reply, pending.began)
            else:
                self._answer(pending.name, pending.line, outcome, pending.began)
        except BaseException:  # noqa: BLE001  # an overridden sendLine() may raise anything
            self._abort_after_exception()
        if not self.output.in_turn:
            self.factory.round_robin.enqueue(self)
            self._close_if_idle()

    def _answer(self, name: str, line: bytes, reply: bytes, began: float) -> None:
        """Send the reply of the handler, and log it."""
        self.sendLine(reply)
        factory = self.factory
        if name in factory.reads and reply.startswith(b",ok", len(name) + 1):
            # A read that was not answered at once.
            if factory.listeners:
                factory.keep_read((self._number, self._peer, began, line, name, reply, perf_counter() - began))
            return
        self._log(name, line, reply, began)
        if factory.listeners:
            self._notify_reply(name, line, reply, began)

    def _log(self, name: str, line: bytes, reply: bytes, began: float) -> None:
        """Log a refusal, or a change of the backend's state."""
        if reply.startswith(b",fail,", len(name) + 1):
            self.factory.failures.log_refusal(name, reason_in(reply), self, line, began)
        elif reply.startswith(b",ok", len(name) + 1) and logger.isEnabledFor(logging.INFO):
            seconds = perf_counter() - began
            logger.info("%s from %s%s -> ok in %.3f s", name, self._peer, shown_arguments(line), seconds)

    def _answer_error(self, name: str, line: bytes, reply: bytes, began: float) -> None:
        """Send the reply to a request that was refused, failed or is invalid. _answer() sends the handler's replies."""
        self.sendLine(reply)
        if self.factory.listeners:
            self._notify_reply(name, line, reply, began)

    def _notify_reply(self, name: str, line: bytes, reply: bytes | None, began: float) -> None:
        """Call the listeners with an Exchange, whose code is read from the reply."""
        if reply is None:
            code = ""
        elif reply.startswith(b",ok", len(name) + 1):
            code = OK
        else:
            code = reply.split(b",", 2)[1].decode("latin-1")
        self._notify(name, line, reply, code, began, changes=name not in self.factory.reads and code != INVALID)

    def _notify(self, name: str, line: bytes, reply: bytes | None, code: str, began: float, *, changes: bool) -> None:
        """Call the listeners with an Exchange."""
        seconds = perf_counter() - began
        begin = Ticks(time_ns() // 100 - int(seconds * TICKS_PER_SECOND))
        self.factory.notify(exchange_of((self._number, self._peer, begin, line, name, reply, code, changes, seconds)))

    # -- the greeting and the end ---------------------------------------------------------------------

    def _delay_greeting(self) -> None:
        self._greeting = Greeting.DELAYED
        self._greeting_timer = self.factory.reactor.callLater(self.factory.greeting_delay, self._greet)

    def _greet(self) -> None:
        if self.paused:
            # Whether the client has sent a request is only known after the pause, when its bytes are read again.
            self._delay_greeting()
        elif self.busy:
            # The lines in the queue arrived earlier. The first one that gets a reply cancels the greeting. If none gets
            # a reply, work() calls this method again.
            self._greeting = Greeting.DUE
        else:
            self._greeting = Greeting.DONE
            self.sendLine(GREETING)
            self._close_if_idle()

    def _cancel_greeting(self) -> None:
        if self._greeting is Greeting.DELAYED and self._greeting_timer.active():
            self._greeting_timer.cancel()
        self._greeting = Greeting.DONE

    def _close_if_idle(self) -> None:
        """If every request has its reply, close a half-closed connection, or remove a lost one from the factory."""
        if self.busy:
            return
        if self._state is State.LOST:
            self.factory.connections.discard(self)
        elif self._half_closed and self._greeting is Greeting.DONE:
            self.close()
        elif self._discarding and self._state is State.OPEN:
            self._close_sending()
        self.factory.on_idle()

    def _refuse_rest(self, language: str, line: bytes) -> None:
        """Ignore everything after the first line of an HTTP request or of a TLS handshake.

        A web page may choose the content of a request, and a web server the session ticket in a handshake.

        Further data are read and discarded. Unread data would make the system reset the connection, and the client
        would lose the reply.
        """
        text = "%s sent %s, everything after this line is ignored: %r"
        shown = line[:80].decode("latin-1")
        self.factory.rate_limited_logger.log(logging.WARNING, "HTTP or TLS", text, self.peer, language, shown)
        self._discarding = True
        self._lines = ()
        self._stop_cr_timer()

    def _close_sending(self) -> None:
        """Close our sending half after the replies, then the connection when the client closes, or after _LINGER."""
        transport = self._transport()
        if ITCPTransport.providedBy(transport) and not INegotiated.providedBy(transport):
            self._advance(State.LINGERING)
            self._linger_timer = self.factory.reactor.callLater(_LINGER, self._end_linger)
            self.output.prepare_close()
            transport.loseWriteConnection()
        else:
            # TLS has no half-closed connections.
            self._linger_timer = self.factory.reactor.callLater(_LINGER, self.abort)
            self.close()

    def _end_linger(self) -> None:
        if self._state is State.ALL_SENT:
            self.close()
        else:
            self.abort()

    def close(self) -> None:
        """Close the connection after all data have been sent."""
        self._cancel_greeting()
        self.output.prepare_close()
        if self._state < State.CLOSING:
            self._advance(State.CLOSING)
            self._transport().loseConnection()

    def abort(self) -> None:
        """Close the connection at once. Unsent data are discarded."""
        if self._state is not State.LOST:
            self._transport().abortConnection()

    def abandon(self) -> Deferred[Any] | None:
        """Answer every request that has no reply yet with `fail` and the reason `server is stopping`.

        Returns
        -------
        source
            The Deferred of the request that was being executed, for the caller to cancel; None if there was none.
        """
        pending, self._pending = self._pending, None
        self.paused = False
        try:
            if pending is not None:
                reply = self.factory.failures.refused(pending.name, STOPPING, self, pending.line, pending.began)
                self._answer_error(pending.name, pending.line, reply, pending.began)
            self.output.flush()
            self.output.ready = True
            self.work(_NEVER)
            self.output.flush()
        except BaseException:  # noqa: BLE001  # an overridden sendLine() may raise anything
            self._abort_after_exception()
        return None if pending is None else pending.source

    def discard(self) -> Deferred[Any] | None:
        """Discard every request that has no reply yet. It gets no reply.

        Returns
        -------
        source
            As for abandon().
        """
        pending, self._pending = self._pending, None
        self._forget_lines()
        return None if pending is None else pending.source

    def describe(self) -> str:
        """Return the client, and what it is waiting for, in one line for the log."""
        text = f"{self._peer}, connection {self._number}"
        if self._pending is not None:
            text += f", has waited {perf_counter() - self._pending.began:.1f} s for the reply to {self._pending.name}"
        if count := len(self._lines):
            text += f", {count} more lines wait"
        if not self.output.ready:
            text += ", does not read its replies"
        return text if self._state is State.OPEN else f"{text}, {self._state.name.lower()}"

    def _transport(self) -> Any:
        return self.transport
