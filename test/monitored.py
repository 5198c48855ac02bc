"""A server in memory with its monitor, for the tests of monitor. Its reactor and its clocks are fake."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport

from discosbackend import Backend, Ticks
from discosbackend.handlers import DBProtocolHandler
from discosbackend.monitor.clock_health import ClockHealth, Synchronisation
from discosbackend.monitor.counters import Counters
from discosbackend.monitor.site import MonitorSite, resources_of
from discosbackend.monitor.snapshot import Snapshot
from discosbackend.monitor.state import ServerState
from discosbackend.protocol import DBFactory
from discosbackend.server import Server, tcp_endpoint

from .in_memory import Connection, greeted

NOW = 1.8e9
NAMES = frozenset(("localhost", "backend.example"))


class Plain(Backend):
    """A backend with the smallest number of methods; `text` is what status reports."""

    text = "ok"

    def status(self):
        return Ticks.now(), self.text, False


class WebTransport(StringTransport):
    """A connection of the web server. It remembers whether it was aborted."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


class Monitored:
    """A server of a backend in memory, and the monitor that watches it."""

    def __init__(self, backend: Any = None, state: bool = True) -> None:
        self.clock = Clock()
        self.backend = Plain() if backend is None else backend
        self.handler = DBProtocolHandler(self.backend, reactor=self.clock)
        self.factory = DBFactory(self.handler, reactor=self.clock)
        self.service = Server(tcp_endpoint(MemoryReactorClock(), 8978, "127.0.0.1"), self.factory)
        self.counters = Counters(self.handler.commands, monotonic=self.clock.seconds)
        self.factory.listeners.append(self.counters)
        self.state = ServerState(self.service)
        self.synchronisation = Synchronisation(True, 1e-5)
        self.clock_health = ClockHealth(self.clock, ask=lambda: self.synchronisation)
        self.snapshot = Snapshot(
            self.counters,
            self.clock_health,
            lambda: self.state.about,
            self.state if state else None,
            now=lambda: NOW + self.clock.seconds(),
        )
        self.resources = resources_of(self.snapshot, self.clock)
        self.site = MonitorSite(self.resources, NAMES, self.clock)

    def connect(self) -> Connection:
        """A client of the server, whose greeting has been read."""
        return greeted(self.factory)

    def ask(self, request: bytes) -> bytes:
        """Send a request on a connection of its own, and return the reply."""
        connection = self.connect()
        reply = connection.ask(request + b"\r\n")
        connection.lose()
        return reply

    def browse(self, data: bytes = b"") -> tuple[Any, WebTransport]:
        """A connection to the web server on which these bytes arrive: its protocol and its transport."""
        channel = self.site.buildProtocol(IPv4Address("TCP", "10.0.0.7", 4711))
        transport = WebTransport(peerAddress=IPv4Address("TCP", "10.0.0.7", 4711))
        channel.makeConnection(transport)
        if data:
            channel.dataReceived(data)
        return channel, transport

    def get(self, path: str, method: str = "GET", host: str = "127.0.0.1:8080", more: str = "") -> tuple[int, str, str]:
        """The status, the headers and the body of the response to a request."""
        request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"
        _, transport = self.browse(request.encode("latin-1"))
        for _ in range(10_000):
            if transport.disconnecting or not self.clock.getDelayedCalls():
                break
            self.clock.advance(0)
        return response(transport.value())


def response(data: bytes) -> tuple[int, str, str]:
    """The status, the headers and the body of a response."""
    head, _, body = data.decode("utf-8").partition("\r\n\r\n")
    first, _, headers = head.partition("\r\n")
    return int(first.split()[1]), headers, body
