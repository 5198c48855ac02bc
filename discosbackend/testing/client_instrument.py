"""The simulated instrument for tests of clients, without sockets. By default it accepts every valid request.

It answers as a server of this package does, and records nothing. client_run.py decides when the replies are sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from discosbackend.acquisition import Acquisition
from discosbackend.backend import Backend, command
from discosbackend.errors import BackendError
from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import DBFactory
from discosbackend.ticks import Ticks

__all__ = ["AcceptingBackend", "ClientInstrument", "InstrumentConnection"]

_TOTAL_POWER = (1021.5, 998.25)


class AcceptingBackend(Backend):
    """An instrument with two inputs that accepts every valid value. It has the commands of MISTRAL too.

    Parameters
    ----------
    clock
        Its `callLater` calls timed starts and stops.
    """

    def __init__(self, clock: Any) -> None:
        self._configuration = "unconfigured"
        self._integration = 0
        self._filename = ""
        self._acquisition = Acquisition(self._changed, self._changed, clock=clock)

    def _changed(self, instant: Ticks) -> None:
        """Do nothing: no data are recorded."""

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), "ok", self._acquisition.acquiring

    def time(self) -> Ticks:
        return Ticks.now()

    def get_configuration(self) -> str:
        return self._configuration

    def set_configuration(self, configuration: str) -> None:
        self._configuration, self._integration = configuration, 40

    def get_integration(self) -> int:
        return self._integration

    def set_integration(self, integration: int) -> None:
        self._integration = integration

    def get_filename(self) -> str:
        if not self._filename:
            raise BackendError("no file name was set")
        return self._filename

    def set_filename(self, path: str) -> None:
        self._filename = path

    def set_section(self, *values: object) -> None: ...

    def set_enable(self, feed1: int, feed2: int) -> None: ...

    def set_shift(self, shift: int) -> None: ...

    def cal_on(self, interleave: int) -> None: ...

    def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> tuple[float, ...]:
        return _TOTAL_POWER

    def get_tp0(self) -> tuple[float, ...]:
        return 11.5, 10.25

    def get_rms(self) -> tuple[float, ...]:
        return _TOTAL_POWER

    def get_ddcoffset(self) -> float:
        return 0.0

    def start(self, timestamp: Ticks | None = None) -> None:
        self._acquisition.start(timestamp)

    def stop(self, timestamp: Ticks | None = None) -> None:
        self._acquisition.stop(timestamp)

    def convert_data(self) -> None: ...

    def end_schedule(self) -> None: ...

    def park(self) -> None: ...

    @command("setup")
    def setup(self) -> None: ...

    @command("vna-sweep")
    def vna_sweep(self) -> None: ...

    @command("target-sweep")
    def target_sweep(self) -> None: ...

    @command("reset")
    def reset(self) -> None: ...


class ClientInstrument:
    """A server in memory. Its time passes with advance().

    Parameters
    ----------
    make_backend
        Makes the backend, with the clock that it has to use. The backend must answer at once: it has no threads.
    """

    def __init__(self, make_backend: Callable[[Any], object] = AcceptingBackend) -> None:
        self._clock = Clock()
        handler = DBProtocolHandler(make_backend(self._clock), reactor=self._clock)
        self._factory = DBFactory(handler, reactor=self._clock)

    def advance(self, seconds: float) -> None:
        """Let time pass, in s."""
        self._clock.advance(seconds)

    def connect(self, peer: tuple[str, int]) -> InstrumentConnection:
        """Return a new connection of a client with this host and port."""
        return InstrumentConnection(self._factory, self._clock, peer)


class InstrumentConnection:
    """A connection to a ClientInstrument.

    Attributes
    ----------
    greeting
        The greeting.
    """

    def __init__(self, factory: DBFactory, clock: Clock, peer: tuple[str, int]) -> None:
        self._clock = clock
        address = IPv4Address("TCP", *peer)
        self._transport = StringTransport(peerAddress=address)
        self._protocol = cast("Any", factory.buildProtocol(address))
        self._protocol.makeConnection(self._transport)
        self.greeting = self._sent()

    def receive(self, data: bytes) -> list[bytes]:
        """Give it what the client has sent. Return the replies, one for each line that gets one."""
        self._protocol.dataReceived(data)
        replies = b""
        # The lines of a large chunk are handled in several turns.
        while True:
            self._clock.advance(0)
            if not (more := self._sent()):
                return replies.splitlines(keepends=True)
            replies += more

    @property
    def ended(self) -> bool:
        """Whether the server ends the connection: the client speaks HTTP or TLS (protocol section 1.10)."""
        return self._transport.disconnecting

    def close(self) -> None:
        """Note that the client has disconnected."""
        self._protocol.connectionLost(Failure(ConnectionDone()))

    def _sent(self) -> bytes:
        sent: bytes = self._transport.value()
        self._transport.clear()
        return sent
