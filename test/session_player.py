"""The session files of test/sessions, the instruments that they are for, and replaying on a server in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from discosbackend.connection import DBProtocol
from discosbackend.handlers import DBProtocolHandler
from discosbackend.monitor.recorder import Recorder
from discosbackend.protocol import DBFactory
from discosbackend.simulator import SimulatedBackend
from discosbackend.tap.conversation import Conversation
from discosbackend.tap.replay import Difference, Replay, Totals
from discosbackend.tap.steps import Script
from discosbackend.ticks import Ticks

from .clients import FakeReactor
from .in_memory import measured_by
from .tapped import Line, Tapped

SESSIONS = Path(__file__).parent / "sessions"
INSTRUMENTS = {
    "mistral": ("mistral",),
    "sardara": ("discos", "sardara"),
    "sardara-p-band": ("discos", "sardara"),
    "skarab": ("discos", "skarab"),
    "skarab2": ("skarab2",),
    "timed": ("discos",),
    "unconfigured": ("discos", "sardara", "skarab", "skarab2"),
}
"""The simulated instruments on which each session is played, by the name of its file."""

_BEGAN = 1795464000.0


class MemoryWire:
    """Connections to a DBFactory in memory, on a task.Clock, which waiting moves on."""

    def __init__(self, factory: DBFactory, clock: Any) -> None:
        self._factory = factory
        self._clock = clock
        self._connections: dict[int, tuple[DBProtocol, StringTransport]] = {}

    def clock(self) -> float:
        return float(self._clock.seconds())

    def now(self) -> Ticks:
        return Ticks(round(self.clock() * 10**7))

    def connect(self, connection: int) -> None:
        protocol, transport = self._factory.buildProtocol(None), StringTransport()
        assert protocol is not None
        self._connections[connection] = protocol, transport
        protocol.makeConnection(transport)

    def send(self, connection: int, data: bytes) -> None:
        self._connections[connection][0].dataReceived(data)

    def receive(self, seconds: float) -> list[tuple[int, bytes]]:
        end = self.clock() + seconds
        self._clock.advance(0)
        while not (received := self._received()) and (left := end - self.clock()) > 0:
            self._clock.advance(min(0.01, left))
        return received

    def _received(self) -> list[tuple[int, bytes]]:
        received = []
        for number, (_, transport) in self._connections.items():
            if transport.value():
                received.append((number, transport.value()))
                transport.clear()
            elif transport.disconnecting:
                received.append((number, b""))
        return received

    def close(self, connection: int) -> None:
        protocol, _ = self._connections.pop(connection, (None, None))
        if protocol is not None:
            protocol.connectionLost(Failure(ConnectionDone()))


class TappedWire(MemoryWire):
    """Connections to a DBFactory through a tap, which is in memory too."""

    def __init__(self, factory: DBFactory, clock: Any) -> None:
        super().__init__(factory, clock)
        self.tapped = Tapped(clock=clock)
        # The tap's ends of the connections that are open, and the connections whose end the server has sent.
        self._clients: dict[int, Line] = {}
        self._servers: dict[int, Line] = {}
        self._ended: set[int] = set()

    def connect(self, connection: int) -> None:
        self._clients[connection] = self.tapped.connect(IPv4Address("TCP", "10.0.0.7", 40000 + connection))
        self._servers[connection] = self.tapped.server
        super().connect(connection)

    def send(self, connection: int, data: bytes) -> None:
        self._clients[connection].send(data)

    def close(self, connection: int) -> None:
        client = self._clients.pop(connection, None)
        if client is not None:
            client.lose(ConnectionDone())
            self._pass_everything()

    def _received(self) -> list[tuple[int, bytes]]:
        self._pass_everything()
        read = [(number, client.read(), client.ended) for number, client in self._clients.items()]
        return [(number, data) for number, data, ended in read if data or ended]

    def _pass_everything(self) -> None:
        while self._pass():
            self._clock.advance(0)

    def _pass(self) -> bool:
        """Bring to the server what the tap has sent, and to the tap what the server has. Return whether it is any."""
        passed = False
        for number, line in list(self._servers.items()):
            if data := line.read():
                super().send(number, data)
                passed = True
            if line.closed:
                del self._servers[number]
                super().close(number)
        for number, data in super()._received():
            if data:
                self._servers[number].send(data)
                passed = True
            elif number not in self._ended:
                self._ended.add(number)
                self._servers[number].end()
                passed = True
        return passed


class Instrument:
    """A simulated instrument in memory, on which scripts are replayed. Its time begins in 2026.

    Parameters
    ----------
    name
        The name of the instrument.
    backend
        Another backend in its place.
    handler, protocol
        Classes with a defect.
    """

    def __init__(
        self,
        name: str = "discos",
        *,
        backend: object = None,
        handler: Callable[..., DBProtocolHandler] = DBProtocolHandler,
        protocol: Callable[[], DBProtocol] = DBProtocol,
    ) -> None:
        self.clock = FakeReactor()
        self.clock.advance(_BEGAN)
        self.differences: list[Difference] = []
        if backend is None:
            backend = SimulatedBackend(name, clock=self.clock, now_ticks=self._now)
        self.factory = DBFactory(handler(backend, reactor=self.clock), reactor=self.clock)
        self.factory.protocol = protocol
        self.wire = MemoryWire(self.factory, self.clock)

    def _now(self) -> Ticks:
        return self.wire.now()

    def play(self, script: Script, *, through_tap: bool = False, **options: Any) -> Totals:
        """Play a script on this instrument. Every reply has to come at once, in the time of the clock."""
        wire = TappedWire(self.factory, self.clock) if through_tap else self.wire
        return self._play(wire, script, **options)

    def record(self, script: Script, path: Path, *, through_tap: bool = False) -> None:
        """Play a script, and record it: in the server, or in a tap."""
        if through_tap:
            tapped = TappedWire(self.factory, self.clock)
            wire: MemoryWire = tapped
            factory: DBFactory = tapped.tapped.factory
            recorder = Recorder(path, server=str(factory.handler))
        else:
            wire, factory, recorder = self.wire, self.factory, Recorder(path)
        factory.listeners.append(recorder)
        try:
            self._play(wire, script)
        finally:
            recorder.close()
        assert not recorder.lost

    def _play(self, wire: MemoryWire, script: Script, **options: Any) -> Totals:
        with self.running():
            return Replay(wire, **{"timeout": 0, **options}, report=self.differences.append).play(script.steps)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the server, and have its listeners see the time of the clock."""
        self.factory.doStart()
        try:
            conversation = partial(Conversation, monotonic=self.clock.seconds)
            with (
                mock.patch.object(Ticks, "now", self.wire.now),
                mock.patch("discosbackend.tap.proxy.Conversation", conversation),
                mock.patch("discosbackend.connection.time_ns", lambda: self.wire.now() * 100),
                mock.patch("discosbackend.protocol.time_ns", lambda: self.wire.now() * 100),
                measured_by(self.clock.seconds),
            ):
                yield
        finally:
            self.factory.doStop()


def session_lines(name: str) -> list[str]:
    """Return the lines of a session file."""
    return (SESSIONS / f"{name}.txt").read_text(encoding="latin-1").splitlines()
