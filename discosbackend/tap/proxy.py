"""TapFactory: passes each connection of a client on to a server, the target.

conversation.py says which bytes are passed on, and connection_end.py sends them. This module connects the two
connections: what each does when the other one is half-closed, lost or full, and if the target cannot be reached.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from discosbackend.commands import COMMANDS
from discosbackend.errors import NOT_ALLOWED, HandlerException, in_one_line
from discosbackend.exchanges import ConnectionEvent
from discosbackend.framing import Kind, Line
from discosbackend.grammar import Message
from discosbackend.handlers import Handler
from discosbackend.log import address_text
from discosbackend.protocol import DBFactory
from discosbackend.rate_limited_logger import MINUTE
from discosbackend.tap.connection_end import BothReadings, ConnectionEnd
from discosbackend.tap.conversation import Conversation
from discosbackend.ticks import Ticks

if TYPE_CHECKING:
    from discosbackend.access import AccessRules
    from discosbackend.tap.target_watch import TargetWatch

__all__ = ["TapFactory", "TapHandler", "TapProtocol"]

logger = logging.getLogger(__name__)

# How much of a client is kept while the target is not connected, in bytes.
_MOST_EARLY = 2**16
# How many s until the next attempt to connect, with a time to wait for the target.
_RETRY = 0.5
# How many s a refusal waits for the greeting of the target.
_GREETING = 1.0
# How many s a client of another protocol has to read the reply, as in connection.py.
_LINGER = 1.0
# How many s requests and replies wait at most that were passed on, until they are read.
_READ_WITHIN = 0.01


class TapHandler(Handler):
    """The handler of a TapFactory. It executes no request, because the target does.

    Parameters
    ----------
    target
        The name of the target.
    """

    def __init__(self, target: str) -> None:
        self.target = target

    def __str__(self) -> str:
        return f"a tap of {self.target}"

    def handle(self, message: Message) -> Message:
        """Refuse a request."""
        raise HandlerException("a tap executes no requests")


@implementer(IHalfCloseableProtocol)
class _TargetProtocol(Protocol):
    """The connection to the target. It reports everything to the TapProtocol."""

    def __init__(self, tap: TapProtocol) -> None:
        self._tap = tap

    def connectionMade(self) -> None:
        self._tap.target_connected(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._tap.from_target(data)

    def readConnectionLost(self) -> None:
        self._tap.target_ended()

    def writeConnectionLost(self) -> None:
        """Twisted's hook: everything has been sent."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._tap.target_lost(reason)


class _TargetFactory(Factory):
    noisy = False

    def __init__(self, tap: TapProtocol) -> None:
        self._tap = tap

    def buildProtocol(self, addr: IAddress | None) -> _TargetProtocol:
        return _TargetProtocol(self._tap)


@implementer(IHalfCloseableProtocol)
class TapProtocol(Protocol):
    """The connection of a client, with its connection to the target. Made by TapFactory."""

    factory: TapFactory
    _conversation: Conversation

    def __init__(self) -> None:
        self._client = ConnectionEnd()
        self._target = ConnectionEnd()
        self.peer = self.host = "nobody"
        self._number = 0
        # What was received before the target was connected.
        self._early = b""
        self._connecting: Deferred[Any] | None = None
        self._deadline = 0.0
        self._retry_timer: Any = None
        self._greeting_timer: Any = None
        self._linger_timer: Any = None
        self._read_timer: Any = None
        self._abandoned = False
        self._by_server = False

    def __str__(self) -> str:
        return self.peer

    @property
    def busy(self) -> bool:
        """Whether a request waits for its reply."""
        return not self._abandoned and not self._client.lost and self._conversation.waiting > 0

    @property
    def running(self) -> str:
        """The name of the request that the target is answering. "" if there is none."""
        return self._conversation.running

    def describe(self) -> str:
        """Return the client, and what it is waiting for, in one line for the log."""
        text = f"{self.peer}, connection {self._number}"
        if self._target.transport is None:
            return f"{text}, waits for the target"
        count = self._conversation.waiting
        return f"{text}, {count} requests wait for the target" if count else text

    # -- the client -----------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Twisted's hook: register the connection, and connect to the target."""
        transport: Any = self.transport
        address = transport.getPeer()
        execute = self.factory.execute_for(address)
        if execute is None:
            self._client.was_lost()
            transport.abortConnection()
            return
        self.peer = address_text(address)
        self.host = self.peer.rpartition(":")[0] or self.peer
        if isinstance(address, UNIXAddress):
            self._name_unix_peer(transport)
        by_line = execute is not self.factory.execute
        self._number = next(self.factory.numbers)
        self.factory.connections.add(cast(Any, self))
        logger.debug("%s connected", self.peer)
        if self.factory.listeners:
            self.factory.notify(ConnectionEvent(self._number, self.peer, Ticks.now(), "open"))
        self._conversation = Conversation(
            self._number,
            self.peer,
            self._refusal_by_line if by_line else self._refusal,
            listeners=self.factory.listeners,
            notify=self.factory.notify,
            reads=self.factory.reads,
            judge=self.factory.judge,
            by_line=by_line,
        )
        target, client = self._target.reading, self._client.reading
        self._client.begin(transport, BothReadings(target, client) if by_line else target)
        self._deadline = self.factory.reactor.seconds() + self.factory.wait
        self._connect()

    def _name_unix_peer(self, transport: Any) -> None:
        from discosbackend.unix_peer import peer_of

        handle = getattr(transport, "getHandle", None)
        names = None if handle is None else peer_of(handle())
        if names is not None:
            self.host, self.peer = names

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook: pass the client's bytes on."""
        conversation = self._conversation
        if self._target.transport is not None and conversation.keep_request(data):
            self._target.write(data)
            if self._read_timer is None:
                self._read_timer = self.factory.reactor.callLater(_READ_WITHIN, self._read_kept)
            return
        if self._target.transport is not None and conversation.is_plain_request(data):
            # Sent first, so that the target works while the tap reads the same bytes.
            self._target.write(data)
            conversation.from_client(data)
            if conversation.full:
                self._client.reading.pause("waiting")
            return
        was_foreign = conversation.foreign
        to_target, to_client = conversation.from_client(data)
        if self._target.transport is None:
            self._early += to_target
            if len(self._early) > _MOST_EARLY:
                self._client.reading.pause("early")
        else:
            self._target.write(to_target)
        if to_client:
            self._client.write(to_client)
        if conversation.full:
            self._client.reading.pause("waiting")
        if conversation.awaits_greeting and self._greeting_timer is None and self._target.transport is not None:
            self._await_greeting()
        if conversation.foreign and not was_foreign:
            # The target answers the earlier requests.
            self._target.end_sending()
        if conversation.foreign:
            self._end_foreign()

    def _await_greeting(self) -> None:
        self._greeting_timer = self.factory.reactor.callLater(_GREETING, self._greeting_is_overdue)

    def _greeting_is_overdue(self) -> None:
        self._client.write(self._conversation.greeting_is_overdue())
        if self._conversation.foreign:
            self._end_foreign()

    def readConnectionLost(self) -> None:
        """Twisted's hook: the client has closed its sending half."""
        self._client.receiving_ended = True
        self._client.reading.end()
        if self._target.transport is None:
            if not self._early and not self._conversation.waiting:
                # A client that has left. One that has sent requests may wait for the replies.
                self._client.close()
            return
        self._target.end_sending()
        self._close_if_both_ended()

    def writeConnectionLost(self) -> None:
        """Twisted's hook: everything has been sent."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's hook: the connection is closed. Reset that to the target, if it is still open."""
        self._client.was_lost()
        if not self._number:
            return
        for timer in (self._retry_timer, self._greeting_timer, self._linger_timer, self._read_timer):
            if timer is not None and timer.active():
                timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if reason.check(ConnectionDone):
            logger.debug("%s disconnected", self.peer)
        else:
            text = "%s lost: %s"
            self._log(logging.INFO, "connection lost", text, self.peer, reason.getErrorMessage())
        self._end_conversation()
        self._target.reset(self.factory.reactor.callLater)
        if self.factory.listeners:
            self.factory.notify(ConnectionEvent(self._number, self.peer, Ticks.now(), "close"))
        self.factory.connections.discard(cast(Any, self))
        self.factory.on_idle()

    def _end_conversation(self) -> None:
        self._conversation.closed(by_server=self._by_server)

    def _log(self, level: int, kind: str, text: str, *args: object) -> None:
        self.factory.rate_limited_logger.log(level, kind, text, *args, window=MINUTE)

    # -- refusals -------------------------------------------------------------------------------------

    def _refusal(self, read: Line, line: bytes) -> bytes:
        """Return the reply to the first line of HTTP or TLS."""
        text = "%s sent %s, everything from this line on is ignored: %r"
        self._log(logging.WARNING, "HTTP or TLS", text, self.peer, read.language, line[:80].decode("latin-1"))
        return self.factory.failures.invalid(line, read, cast(Any, self))

    def _refusal_by_line(self, read: Line, line: bytes) -> bytes | None:
        """Return the reply to a request that a client may not send; None if it may.

        Only what every server understands in the same way is passed on: a command that reads, with right arguments.
        """
        if read.language:
            return self._refusal(read, line)
        failures = self.factory.failures
        if read.kind is not Kind.REQUEST:
            return failures.invalid(line, read, cast(Any, self))
        row = COMMANDS.get(read.name)
        try:
            if row is None or row.lane != "reads":
                raise HandlerException(NOT_ALLOWED)
            row.parse(read.arguments)
        except HandlerException as problem:
            return failures.refused(read.name, str(problem), cast(Any, self), line, perf_counter())
        return None

    def _end_foreign(self) -> None:
        """Close both connections when the reply to the first line of HTTP or TLS has been sent."""
        if self._conversation.refusing or self._linger_timer is not None:
            return
        self._linger_timer = self.factory.reactor.callLater(_LINGER, self._client.close)
        if self._connecting is not None:
            self._connecting.cancel()
        self._target.close()
        self._client.end_sending()

    # -- the target -----------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._retry_timer = None
        self._connecting = self.factory.target.connect(cast(Any, _TargetFactory(self)))
        self._connecting.addErrback(self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if self._client.lost or self._linger_timer is not None:
            # It was cancelled.
            return
        reactor = self.factory.reactor
        problem = failure.value
        assert problem is not None
        if self.factory.watch is not None:
            self.factory.watch.not_reached(problem)
        if reactor.seconds() < self._deadline:
            text = "%s waits for the target %s: %s"
            self._log(logging.WARNING, "target", text, self.peer, self.factory.handler, in_one_line(problem))
            self._retry_timer = reactor.callLater(_RETRY, self._connect)
            return
        text = "%s is disconnected, because the target cannot be reached: %s"
        self._log(logging.ERROR, "target", text, self.peer, in_one_line(problem))
        self._client.close()

    def target_connected(self, transport: Any) -> None:
        """The target is connected: send what the client has sent meanwhile."""
        self._connecting = None
        if self.factory.watch is not None:
            self.factory.watch.reached()
        if self._client.lost or self._linger_timer is not None:
            transport.abortConnection()
            return
        self._target.begin(transport, self._client.reading)
        early, self._early = self._early, b""
        self._target.write(early)
        self._client.reading.resume("early")
        if self._client.receiving_ended or self._conversation.foreign:
            self._target.end_sending()
        if self._conversation.awaits_greeting and self._greeting_timer is None:
            self._await_greeting()

    def from_target(self, data: bytes) -> None:
        """Pass the target's bytes on."""
        conversation = self._conversation
        if self.factory.finishing is None and conversation.keep_reply(data):
            self._client.write(data)
            return
        if conversation.passes_replies:
            # As in dataReceived().
            self._client.write(data)
            conversation.from_server(data)
        else:
            self._client.write(conversation.from_server(data))
        if not conversation.full:
            self._client.reading.resume("waiting")
        if conversation.foreign:
            self._end_foreign()
        if self.factory.finishing is not None:
            self.factory.on_idle()

    def _read_kept(self) -> None:
        self._read_timer = None
        self._conversation.read_kept()

    def target_ended(self) -> None:
        """Handle the end of the target's data."""
        self._target.receiving_ended = True
        self._target.reading.end()
        self._by_server = not self._client.receiving_ended
        if self._by_server and self.factory.watch is not None:
            self.factory.watch.closed()
        self._client.write(self._conversation.server_ended())
        if self._conversation.foreign:
            self._end_foreign()
        self._client.end_sending()
        self._close_if_both_ended()

    def _close_if_both_ended(self) -> None:
        if self._client.receiving_ended and self._target.receiving_ended:
            self._end_conversation()
            self._target.close()
            self._client.close()

    def target_lost(self, reason: Failure) -> None:
        """The connection to the target is closed: reset that to the client, if it is still open."""
        was_ended = self._target.receiving_ended
        self._target.was_lost()
        if self._client.lost:
            return
        if not was_ended:
            self._by_server = True
            if self.factory.watch is not None:
                self.factory.watch.closed()
        self._client.write(self._conversation.server_ended())
        if self._conversation.foreign:
            self._end_foreign()
            return
        self._end_conversation()
        if reason.check(ConnectionDone):
            self._client.close()
            return
        self._log(logging.INFO, "target lost", "%s: the target is lost: %s", self.peer, reason.getErrorMessage())
        self._client.reset(self.factory.reactor.callLater)

    # -- the shutdown ---------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop passing requests on."""
        self._client.reading.pause("stopping")

    def abandon(self) -> Deferred[Any] | None:
        """Stop waiting for replies."""
        self._abandoned = True
        return None

    def close(self) -> None:
        """Close both connections after everything has been sent."""
        self._client.close()
        self._target.close()

    def abort(self) -> None:
        """Close both connections at once."""
        self._client.abort()
        self._target.abort()


class TapFactory(DBFactory):
    """The factory of the connections of a tap. It has the same `listeners` as any DBFactory.

    Parameters
    ----------
    target
        The endpoint of the server to which connections are passed on.
    name
        The name of the target.
    wait
        How long to wait for a target that cannot be reached, in s. 0: its clients are disconnected at once.
    reactor
        The reactor. Default: Twisted's.
    access
        The addresses that may connect, and those that may only read. Default: everybody may do everything.
    judge
        A function that gets what conversation.py reports of each connection. None: there is none.

    Attributes
    ----------
    watch
        A function that gets whether the target could be connected. None: there is none.
    """

    protocol: Callable[[], Any] = TapProtocol

    def __init__(
        self,
        target: IStreamClientEndpoint,
        name: str,
        *,
        wait: float = 0.0,
        reactor: Any = None,
        access: AccessRules | None = None,
        judge: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(TapHandler(name), reactor=reactor, access=access)
        self.target = target
        self.wait = wait
        self._judge = judge
        self.judge = None if judge is None else self._ask_judge
        self.watch: TargetWatch | None = None

    def _ask_judge(self, event: object) -> None:
        """Call the judge. An exception is logged, because it must not disturb the connection."""
        assert self._judge is not None
        try:
            self._judge(event)
        except Exception:  # whatever it is, the bytes are passed on
            self.rate_limited_logger.log(logging.ERROR, "judge", "the judge failed", exc_info=True)

    def running(self) -> list[str]:
        """Return the names of the requests that the target is answering, at most one for each connection."""
        names = (cast(Any, connection).running for connection in self.connections)
        return [name for name in names if name]

    def finish(self, timeout: float) -> Deferred[None]:
        """Wait until the requests that were passed on have their replies. Later ones are not passed on."""
        for connection in list(self.connections):
            cast(Any, connection).pause()
        return super().finish(timeout)
