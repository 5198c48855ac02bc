"""Connections that are refused, and restarts in mid-session: on a port in memory, and with real sockets."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from discosbackend.handlers import AlwaysOkHandler
from discosbackend.protocol import DBFactory
from discosbackend.server import Server
from discosbackend.simulator.faults.listener import PausableListener
from discosbackend.simulator.faults.protocol import FaultyFactory
from discosbackend.simulator.faults.script import Fault, Faults

from .in_memory import GREETING, Later, greeted, odd, ok, quiet
from .serving import read_line, served_by
from .settings import PATIENCE, wait_until

A, B = b"!a,ok,1\r\n", b"!b,ok,2\r\n"


def setUpModule() -> None:
    quiet()


@implementer(IListeningPort)
class Port:
    """A port in memory; `taken` is for how many tries somebody else has its address."""

    def __init__(self, factory: DBFactory, number: int = 0, taken: int = 0, local: bool = False) -> None:
        self.factory, self.clock, self.taken = factory, factory.reactor, taken
        # That of a local socket counts itself before it knows whether it listens.
        self.local = local
        self.port: int | None = number
        self.listens = False
        self.startListening()

    def startListening(self) -> None:
        if self.listens or (self.taken and self.port == 4711):
            self.taken -= 1
            if self.local:
                self.factory.doStart()
            raise CannotListenError("127.0.0.1", self.port, OSError(errno.EADDRINUSE, "in use"))
        self.factory.doStart()
        self.listens = True

    def stopListening(self) -> Deferred[None] | None:
        if not self.listens:
            return None
        closed: Deferred[None] = Deferred()
        self.clock.callLater(0, self._close, closed)
        return closed

    def _close(self, closed: Deferred[None]) -> None:
        assert self.listens, "closed twice"
        self.listens = False
        self.factory.doStop()
        closed.callback(None)

    def getHost(self) -> Any:
        return mock.Mock(host="127.0.0.1", port=4711)


class Endpoint:
    """Listens on such a port."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.ports: list[Port] = []

    def listen(self, factory: FaultyFactory) -> Deferred[Any]:
        self.ports.append(Port(factory, **self.settings))
        return succeed(self.ports[-1])


class PausableListenerTests(unittest.TestCase):
    def setUp(self) -> None:
        self.resets = 0

    def serve(self, *faults: Fault, **settings: Any) -> tuple[FaultyFactory, Server, Port]:
        endpoint = Endpoint(**settings)
        factory = FaultyFactory(AlwaysOkHandler(), Faults(0, faults), reactor=Clock(), reset=self.reset)
        server = Server(factory.pausable_endpoint(endpoint), factory)  # type: ignore[arg-type]
        server.start()
        return factory, server, endpoint.ports[0]

    def reset(self) -> None:
        self.resets += 1

    def stop(self, server: Server) -> None:
        """The server goes down, and everything with it."""
        handler = server.factory.handler
        with mock.patch.object(handler, "stop", wraps=handler.stop) as stop:
            done: list[Any] = []
            server.stop().addBoth(done.append)
            server.factory.reactor.pump([0.1] * 100)
            self.assertEqual(done, [None])
            stop.assert_called_once_with()

    def test_is_a_port(self) -> None:
        factory, server, port = self.serve()
        assert factory.pausable_listener is not None
        verifyObject(IListeningPort, factory.pausable_listener)
        self.assertEqual(cast(Any, factory.pausable_listener.getHost()).port, 4711)
        self.stop(server)
        self.assertFalse(port.listens)
        with self.assertRaises(CannotListenError):
            PausableListener(Port(factory), factory, factory.reactor).startListening()

    def test_refuse_on_the_very_same_port(self) -> None:
        factory, server, port = self.serve(Fault(kind="refuse", seconds=5, at=10))
        connection = greeted(factory)
        factory.reactor.advance(10)
        factory.reactor.advance(0)
        assert factory.pausable_listener is not None
        self.assertFalse(port.listens or factory.pausable_listener.is_open)
        self.assertEqual(connection.ask(b"?a,1\n"), A)
        factory.reactor.advance(4.9)
        self.assertFalse(port.listens)
        factory.reactor.advance(0.2)
        self.assertTrue(port.listens and factory.pausable_listener.is_open)
        self.assertEqual(port.port, 4711)
        self.assertEqual(self.resets, 0)
        self.stop(server)

    def test_the_handler_goes_on(self) -> None:
        factory, server, port = self.serve()
        handler = factory.handler
        with mock.patch.object(handler, "stop") as stop, mock.patch.object(handler, "start") as start:
            for _ in range(3):
                assert factory.pausable_listener is not None
                factory.pausable_listener.pause(1)
                factory.reactor.pump([0.5] * 4)
            self.assertTrue(port.listens)
            start.assert_not_called()
            stop.assert_not_called()
        self.stop(server)

    def test_shutting_it_again_is_at_least_as_long(self) -> None:
        factory, server, port = self.serve()
        assert factory.pausable_listener is not None
        factory.pausable_listener.pause(3)
        factory.reactor.pump([0.0, 2.0])
        factory.pausable_listener.pause(0.1)
        factory.reactor.advance(0.5)
        self.assertFalse(port.listens)
        factory.pausable_listener.pause(3)
        factory.pausable_listener.pause(0.1)
        factory.reactor.pump([0.5] * 5)
        self.assertFalse(port.listens)
        factory.reactor.pump([0.5] * 2)
        self.assertTrue(port.listens)
        self.stop(server)

    def test_an_address_that_is_taken_meanwhile(self) -> None:
        for local in (False, True):
            with self.subTest(local=local):
                factory, server, port = self.serve(taken=3, local=local)
                assert factory.pausable_listener is not None
                factory.pausable_listener.pause(1)
                factory.reactor.pump([0.0, 1.0, 0.1])
                self.assertFalse(port.listens)
                factory.reactor.pump([0.2] * 4)
                self.assertTrue(port.listens)
                self.stop(server)

    def test_the_system_refuses_to_listen_meanwhile(self) -> None:
        factory, server, port = self.serve()
        assert factory.pausable_listener is not None
        factory.pausable_listener.pause(1)
        # Not all that it refuses is a CannotListenError of Twisted's.
        refused = OSError(errno.EADDRINUSE, "in use")
        with mock.patch.object(port, "startListening", side_effect=refused):
            factory.reactor.pump([0.0, 1.0])
        self.assertFalse(factory.pausable_listener.is_open)
        factory.reactor.advance(0.2)
        self.assertTrue(factory.pausable_listener.is_open and port.listens)
        self.stop(server)

    def test_a_socket_of_another_process_stays_open(self) -> None:
        factory, server, port = self.serve()
        port.port = None
        assert factory.pausable_listener is not None
        with self.assertLogs("discosbackend.simulator.faults.listener", "ERROR"):
            factory.pausable_listener.pause(1)
        factory.reactor.pump([0.0, 2.0])
        self.assertTrue(port.listens)
        self.stop(server)

    def test_it_is_stopped_when_it_is_closed(self) -> None:
        factory, _, port = self.serve()
        assert factory.pausable_listener is not None
        factory.pausable_listener.pause(9)
        stopped = factory.pausable_listener.stopListening()
        self.assertFalse(stopped.called)
        self.assertIs(factory.pausable_listener.stopListening(), stopped)
        factory.reactor.advance(0)
        self.assertTrue(stopped.called)
        self.assertFalse(port.listens)

    def test_the_service_stops_at_any_moment_of_it(self) -> None:
        for steps in ([], [0.0], [0.0, 1.0], [0.0, 5.0, 0.0]):
            for action in ("refuse", "restart"):
                with self.subTest(action, steps=steps):
                    factory, server, port = self.serve()
                    greeted(factory)
                    assert factory.pausable_listener is not None
                    {"refuse": factory.pausable_listener.pause, "restart": factory.restart}[action](4)
                    factory.reactor.pump(steps)
                    for connection in list(factory.connections):
                        connection.connectionLost()
                    self.stop(server)
                    self.assertFalse(port.listens)
                    factory.pausable_listener.pause(1)
                    factory.reactor.pump([1.0] * 3)
                    self.assertFalse(port.listens)

    def test_restart(self) -> None:
        handler = odd(ok)
        factory, server, port = self.serve(Fault(kind="restart", seconds=5, command="b", nth=1))
        factory.handler.handle = handler.handle  # type: ignore[method-assign]
        first, second = greeted(factory), greeted(factory)
        self.assertEqual(first.ask(b"?a,1\n"), A)
        closed: list[bool] = []
        for connection in (first, second):
            # Nobody who sees its connection end can be accepted at once.
            connection.transport.loseConnection = lambda: closed.append(not port.listens)  # type: ignore[method-assign]
        first.send(b"?a,1\n?b,2\n?c,3\n")
        self.assertEqual((first.received(), closed), (A, []))
        factory.reactor.advance(0)
        self.assertEqual(closed, [True, True])
        self.assertEqual((first.received(), second.received()), (b"", b""))
        self.assertEqual(self.resets, 1)
        second.lose()
        factory.reactor.advance(5)
        self.assertTrue(port.listens)
        # The first one has not even noticed that it was closed.
        self.assertTrue(first.transport.disconnected)
        first.lose()
        self.assertEqual(greeted(factory).ask(b"?b,2\n"), B)
        self.stop(server)

    def test_restart_gives_up_what_is_being_carried_out(self) -> None:
        later = Later()
        factory = FaultyFactory(odd(later), reactor=Clock())
        connection = greeted(factory)
        connection.send(b"?odd\n" + b"?a,1\n" * 9)
        connection.clock.advance(0)
        pending = later.waiting[0][1]
        factory.restart(1)
        connection.clock.advance(5)
        self.assertTrue(pending.called)
        self.assertEqual(connection.received(), b"")
        connection.lose()
        self.assertEqual(factory.connections, set())

    def test_restart_when_something_cannot_be_given_up(self) -> None:
        def cannot(_: object) -> None:
            raise RuntimeError("stuck")

        factory = FaultyFactory(odd(lambda _: Deferred(cannot)), reactor=Clock())
        connection = greeted(factory)
        connection.send(b"?odd\n")
        with self.assertLogs("discosbackend.simulator.faults.protocol", "ERROR") as logs:
            factory.restart(1)
        self.assertIn("stuck", logs.output[-1])
        connection.lose()
        self.assertEqual(factory.connections, set())

    def test_restart_ends_a_pause(self) -> None:
        factory = FaultyFactory(AlwaysOkHandler(), reactor=Clock())
        connection = greeted(factory)
        factory.pause()
        connection.send(b"?a,1\n")
        factory.restart(1)
        self.assertFalse(factory.paused)
        self.assertEqual(greeted(factory).ask(b"?a,1\n"), A)
        self.assertEqual(connection.ask(b""), b"")

    def test_a_reset_that_fails_is_logged(self) -> None:
        def reset() -> None:
            raise RuntimeError("stuck")

        factory = FaultyFactory(AlwaysOkHandler(), reset=reset, reactor=Clock())
        with self.assertLogs("discosbackend.simulator.faults.protocol", "ERROR") as logs:
            factory.restart(1)
        self.assertIn("stuck", logs.output[-1])

    def test_refuse_without_a_door_is_logged(self) -> None:
        faults = Faults(0, [Fault(kind="refuse", seconds=1, at=0)])
        factory = FaultyFactory(AlwaysOkHandler(), faults, reactor=Clock())
        factory.doStart()
        with self.assertLogs("discosbackend.simulator.faults.protocol", "WARNING"):
            factory.reactor.advance(0)


_SERVER = """
from twisted.internet import reactor
from twisted.internet.endpoints import UNIXServerEndpoint
from discosbackend.handlers import AlwaysOkHandler
from discosbackend.server import Server, run_until_stopped, tcp_endpoint
from discosbackend.simulator.faults.script import Fault, Faults
from discosbackend.simulator.faults.protocol import FaultyFactory
faults = Faults(0, [
    Fault(kind="refuse", seconds={seconds}, command="refuse", nth=1),
    Fault(kind="restart", seconds={seconds}, command="restart", nth=1),
])
factory = FaultyFactory(AlwaysOkHandler(), faults)
endpoint = {endpoint}
run_until_stopped(Server(factory.pausable_endpoint(endpoint), factory), reactor)
"""
# Long enough for a client on a busy host to try meanwhile.
_SHUT = PATIENCE / 120
_TCP = 'tcp_endpoint(reactor, 0, "127.0.0.1")'


class RealListenerTests(unittest.TestCase):
    """With real sockets, in a server process."""

    def refused_then_greeted(self, connect: Callable[[], socket.socket], refusal: type[OSError]) -> None:
        """New connections are refused, and then accepted again at the same address."""
        refused = False

        def greeting() -> bytes:
            """What is read from a new connection, once one was refused; else nothing."""
            nonlocal refused
            try:
                with connect() as connection:
                    line = read_line(connection)
            except refusal:
                refused = True
            except ConnectionError:
                # Accepted by the system in the moment in which the port was closed.
                pass
            else:
                return line if refused else b""
            return b""

        self.assertEqual(wait_until(greeting, "a connection after one that was refused"), GREETING)

    def test_tcp(self) -> None:
        with served_by(_SERVER.format(seconds=_SHUT, endpoint=_TCP)) as server:
            with server.connect() as connection:
                connection.sendall(b"?refuse\n")
                self.assertEqual(read_line(connection), b"!refuse,ok\r\n")
                self.refused_then_greeted(
                    lambda: socket.create_connection(server.address, PATIENCE), ConnectionRefusedError
                )
                connection.sendall(b"?a,1\n?restart\n")
                self.assertEqual(read_line(connection), A)
                self.assertEqual(connection.recv(1), b"")
                self.refused_then_greeted(
                    lambda: socket.create_connection(server.address, PATIENCE), ConnectionRefusedError
                )
            self.assertEqual(server.stop(signal.SIGTERM), 0)
            self.assertEqual(server.log(), "")

    def test_it_stops_while_the_door_is_shut(self) -> None:
        with served_by(_SERVER.format(seconds=600, endpoint=_TCP)) as server:
            with server.connect() as connection:
                connection.sendall(b"?restart\n")
                self.assertEqual(connection.recv(1), b"")
            self.assertEqual(server.stop(signal.SIGTERM), 0)
            self.assertEqual(server.log(), "")

    def test_a_local_socket(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "s")

            def connect() -> socket.socket:
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(PATIENCE)
                try:
                    connection.connect(path)
                except OSError:
                    connection.close()
                    raise
                return connection

            code = _SERVER.format(seconds=_SHUT, endpoint=f"UNIXServerEndpoint(reactor, {path!r}, mode=0o600)")
            with served_by(code) as server:
                with connect() as connection:
                    self.assertEqual(read_line(connection), GREETING)
                    connection.sendall(b"?refuse\n")
                    self.assertEqual(read_line(connection), b"!refuse,ok\r\n")
                    self.refused_then_greeted(connect, FileNotFoundError)
                    self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
                self.assertEqual(server.stop(signal.SIGTERM), 0)
            self.assertFalse(os.path.exists(path))


if __name__ == "__main__":
    unittest.main()
