"""LinkSimulator: stands for a device at the end of a Link, in tests and in examples without hardware.

A script says what the device does: it answers, waits, is silent, sends a part of an answer, or hangs up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from twisted.internet import error
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from discosbackend.link_framing import Framing, MessageSplitter, by_terminator

__all__ = ["Behavior", "HangUp", "LinkSimulator", "Part", "Wait"]

_LONGEST_QUESTION = 2**20
# At least this number of the latest questions is kept.
_MOST_QUESTIONS = 1000


@dataclass(frozen=True, slots=True)
class Wait:
    """The device does nothing for this time, in s."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Part:
    """The device sends these bytes, without a terminator."""

    data: bytes


@dataclass(frozen=True, slots=True)
class HangUp:
    """The device closes the connection."""


Action: TypeAlias = "bytes | Wait | Part | HangUp"

Behavior: TypeAlias = "Action | Iterable[Action] | None"
"""What a simulated device does after a question.

Bytes are an answer, which is sent with the terminator. A list of actions is done in order. None: the device is silent.
"""


@implementer(IStreamClientEndpoint)
class LinkSimulator(Factory):
    """A simulated device, to which a `Link` connects in memory: `Link(LinkSimulator({b"ver?": b"1.2"}))`.

    It is also a factory of Twisted, so it can listen on a port: `reactor.listenTCP(0, simulator)`.

    Parameters
    ----------
    answers
        What the device does after each question: a mapping from the question, or a function that is called with it. The
        question has no terminator. The value in the mapping, or the result of the function, is

        - bytes: an answer, which is sent with the terminator;
        - `Part(b"...")`: bytes that are sent without the terminator, such as half an answer;
        - `Wait(seconds)`: the device does nothing for this time;
        - `HangUp()`: the device closes the connection;
        - a list of these, which are done in order, such as `[Wait(0.5), b"31.5"]`;
        - None, or a question that is not in the mapping: the device is silent.
    terminator
        The bytes that end each answer and, without `framing`, each question.
    framing
        A function that finds a question in the received bytes, for questions that do not end with the terminator. It
        has the same form as that of a Link.
    greeting
        What the device does when a client connects.
    reactor
        The reactor. Default: Twisted's.

    Attributes
    ----------
    questions
        The questions that the device has received, in order, at least the latest 1000.
    refusing
        Whether the device refuses connections. It can be set.

    Examples
    --------
    >>> from twisted.internet.task import Clock
    >>> from discosbackend.link import Link
    >>> from discosbackend.testing import HangUp, LinkSimulator, Part, Wait
    >>> clock = Clock()
    >>> device = LinkSimulator({b"ver?": b"1.2", b"temp?": [Wait(0.5), b"31.5"]}, reactor=clock)
    >>> link = Link(device, reactor=clock)
    >>> link.ask(b"temp?").addCallback(print) and None
    >>> clock.pump([0.25, 0.25, 0.25, 0.25])
    b'31.5'

    The next question gets half an answer, and the connection is lost:

    >>> device.next([Part(b"1."), HangUp()])
    >>> link.ask(b"ver?").addErrback(lambda failure: print(failure.value)) and None
    >>> clock.pump([0.25, 0.25])
    link to simulated device is down since 0 s
    """

    noisy = False

    def __init__(
        self,
        answers: Mapping[bytes, Behavior] | Callable[[bytes], Behavior],
        *,
        terminator: bytes = b"\n",
        framing: Framing | None = None,
        greeting: Behavior = None,
        reactor: Any = None,
    ) -> None:
        self.questions: list[bytes] = []
        self.refusing = False
        self._answers = answers
        self._terminator = terminator
        self._framing = by_terminator(terminator) if framing is None else framing
        self._greeting = greeting
        self._reactor = reactor
        self._script: deque[Behavior] = deque()
        self._devices: list[_Device] = []

    def __str__(self) -> str:
        return "simulated device"

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickling or copying: a copy has no connections."""
        return {**vars(self), "_devices": []}

    def next(self, *behaviors: Behavior) -> None:
        """Say what the device does after the next question, after the one that follows it, and so on.

        Parameters
        ----------
        *behaviors
            One for each question. After them, `answers` applies again.
        """
        self._script.extend(behaviors)

    def say(self, *actions: Action) -> None:
        """Do something without a question: `say(b"#overheated")` sends a line.

        Parameters
        ----------
        *actions
            What the device does, on every connection.
        """
        for device in list(self._devices):
            device.perform(list(actions))

    def hang_up(self) -> None:
        """Close all connections."""
        for device in list(self._devices):
            device.hang_up()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._devices)

    def buildProtocol(self, addr: Any) -> _Device | None:
        """Twisted's hook: make the device's end of a connection. None: the connection is closed at once."""
        return None if self.refusing else _Device(self)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803  # the interface's name
        """Connect in memory. A Link calls this.

        Parameters
        ----------
        protocolFactory
            The factory of the client's end.
        """
        if self.refusing:
            return fail(error.ConnectionRefusedError())
        protocol = protocolFactory.buildProtocol(cast(Any, None))
        if protocol is None:
            return fail(ConnectionAborted())
        device = _Device(self)
        here, there = _End(self.call_later, protocol), _End(self.call_later, device)
        here.peer, there.peer = there, here
        cast(Any, device).makeConnection(there)
        protocol.makeConnection(here)
        return succeed(protocol)

    def call_later(self, delay: float, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function after a delay in s, with the reactor of the simulator."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor.callLater(delay, function, *args)

    def behavior(self, question: bytes) -> list[Action]:
        """Note a question, and return what the device does then."""
        self.questions.append(question)
        if len(self.questions) > 2 * _MOST_QUESTIONS:
            del self.questions[:_MOST_QUESTIONS]
        if self._script:
            return _actions(self._script.popleft())
        return _actions(self._answers(question) if callable(self._answers) else self._answers.get(question))

    def opened(self, device: _Device) -> MessageSplitter:
        """Note a new connection, greet, and return the splitter of its questions."""
        self._devices.append(device)
        device.perform(_actions(self._greeting))
        return MessageSplitter(self._framing, _LONGEST_QUESTION)

    def closed(self, device: _Device) -> None:
        """Note the end of a connection."""
        self._devices.remove(device)

    @property
    def terminator(self) -> bytes:
        """The bytes that end each answer and, without `framing`, each question."""
        return self._terminator


def _actions(behavior: Behavior) -> list[Action]:
    if behavior is None:
        return []
    return [behavior] if isinstance(behavior, (bytes, Wait, Part, HangUp)) else list(behavior)


class _Device(Protocol):
    """The device's end of a connection. It performs one action after the other."""

    def __init__(self, simulator: LinkSimulator) -> None:
        self._simulator = simulator
        self._todo: deque[Action] = deque()
        self._waiting: Any = None
        self._open = False

    def connectionMade(self) -> None:
        self._open = True
        self._questions = self._simulator.opened(self)

    def dataReceived(self, data: bytes) -> None:
        for question in self._questions.split(data):
            self.perform(self._simulator.behavior(question))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._open = False
        self._todo.clear()
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._simulator.closed(self)

    def perform(self, actions: Iterable[Action]) -> None:
        """Queue these actions after the others."""
        self._todo.extend(actions)
        if self._waiting is None:
            self._go_on()

    def _go_on(self) -> None:
        self._waiting = None
        while self._todo and self._open:
            action = self._todo.popleft()
            if isinstance(action, Wait):
                self._waiting = self._simulator.call_later(action.seconds, self._go_on)
                return
            if isinstance(action, HangUp):
                self.hang_up()
            else:
                data = action.data if isinstance(action, Part) else action + self._simulator.terminator
                cast(Any, self.transport).write(data)

    def hang_up(self) -> None:
        """Drop the pending actions, and close the connection after the written data is sent."""
        self._todo.clear()
        cast(Any, self.transport).loseConnection()


@implementer(ITransport)
class _End:
    """One end of a connection in memory. What is written arrives in the next reactor iteration."""

    peer: _End
    disconnecting = False

    def __init__(self, call_later: Callable[..., Any], protocol: Any) -> None:
        self._call_later = call_later
        self._protocol = protocol
        self.arriving = b""
        self._scheduled = False
        # Why the connection is lost, if it is.
        self.reason: Exception | None = None
        self._lost = False

    def write(self, data: bytes) -> None:
        """Send bytes to the other end."""
        if not self._lost and not self.disconnecting:
            self.peer.arriving += data
            self.peer.schedule()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send bytes to the other end."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close the connection. The other end gets what was written before."""
        self._close(ConnectionDone())

    def abortConnection(self) -> None:
        """Close the connection. Nothing more is received."""
        self.arriving = b""
        self._close(ConnectionAborted())

    def _close(self, reason: Exception) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            for end, problem in ((self, reason), (self.peer, ConnectionDone())):
                end.reason = end.reason or problem
                end.schedule()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Nothing: the buffer is never full."""

    def unregisterProducer(self) -> None:
        """Nothing: see registerProducer."""

    def getPeer(self) -> Any:
        """Return None: the other end has no address."""

    def getHost(self) -> Any:
        """Return None: this end has no address."""

    def schedule(self) -> None:
        """Deliver what has arrived, in the next reactor iteration."""
        if not self._scheduled and not self._lost:
            self._scheduled = True
            self._call_later(0, self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        data, self.arriving = self.arriving, b""
        if data and not self.disconnecting:
            self._protocol.dataReceived(data)
        if self.reason is not None and not self._lost:
            self._lost = True
            self._protocol.connectionLost(Failure(self.reason))
