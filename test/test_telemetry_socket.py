"""The sockets of telemetry, against a proxy and a client of the test, over TCP."""

from __future__ import annotations

import logging
import socket
import tempfile
import threading
import unittest
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.task import Clock

from discosbackend.monitor.telemetry import BackendState, encode, message
from discosbackend.ticks import Ticks

from .serving import refusing
from .settings import PATIENCE, needs_ipv6, needs_pyzmq, wait_until

try:
    import zmq

    from discosbackend.monitor.telemetry_socket import (
        Keys,
        ProxyConnection,
        ProxyHealth,
        TelemetryError,
        TelemetryServer,
        _Readable,
    )

    from .telemetry_peers import Client, FakeProxy, Turning, make_keys
except ImportError:
    # Each test that needs them is skipped.
    pass

PAYLOAD = encode(message("Mine", BackendState(Ticks(0), Ticks(0))))


def accepted(listener: socket.socket) -> bool:
    """Whether there was a connection to accept; it is closed."""
    try:
        peer, _ = listener.accept()
    except BlockingIOError:
        return False
    peer.close()
    return True


def folder_of(test: unittest.TestCase) -> Path:
    return Path(test.enterContext(tempfile.TemporaryDirectory()))


@needs_pyzmq
class HealthTests(unittest.TestCase):
    """The state from the events of the monitor, in the orders in which ZeroMQ gives them."""

    REFUSED = ("CONNECT_DELAYED", "CONNECTED", "HANDSHAKE_FAILED_NO_DETAIL", "DISCONNECTED", "CONNECT_RETRIED")
    ABSENT = ("CONNECT_DELAYED", "CLOSED", "CONNECT_RETRIED")
    UNKNOWN_HOST = ("CONNECT_RETRIED",)
    GOOD = ("CONNECT_DELAYED", "CONNECTED", "HANDSHAKE_SUCCEEDED")
    DIED = ("DISCONNECTED", "CONNECT_RETRIED")

    def setUp(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.health = ProxyHealth("proxy:16001", True, lambda *line: self.lines.append(line))

    def feed(self, *events: tuple[str, ...]) -> None:
        for each in events:
            for name in each:
                self.health.on_event(name)

    def test_states(self) -> None:
        self.assertEqual((self.health.state, self.health.problem), ("connecting", ""))
        for events, state, text in (
            (self.ABSENT, "away", "the telemetry proxy at proxy:16001 cannot be reached"),
            (self.UNKNOWN_HOST, "away", "cannot be reached"),
            (self.REFUSED, "refused", "refuses the connection: it does not know the key in identity.key_secret"),
            (self.GOOD, "connected", ""),
            (self.DIED, "away", "cannot be reached"),
            (self.GOOD, "connected", ""),
        ):
            self.feed(events)
            self.assertEqual(self.health.state, state)
            self.assertIn(text, self.health.problem)
            self.assertEqual(bool(text), bool(self.health.problem))
        self.assertEqual(
            [level for level, _ in self.lines], [logging.WARNING] * 2 + [logging.INFO, logging.WARNING, 20]
        )

    def test_each_state_is_logged_once(self) -> None:
        self.feed(*[self.ABSENT] * 50, *[self.REFUSED] * 50, *[self.GOOD], *[self.DIED], *[self.ABSENT] * 50)
        self.assertEqual(len(self.lines), 4)

    def test_a_listener_that_does_not_speak_the_protocol(self) -> None:
        self.feed(("CONNECT_DELAYED", "CONNECTED", "DISCONNECTED"))
        self.assertEqual(self.health.state, "refused")

    def test_other_events(self) -> None:
        self.feed(("CONNECTED", "", "LISTENING", "CONNECT_DELAYED"))
        self.assertEqual((self.health.state, self.lines), ("connecting", []))

    def test_without_keys(self) -> None:
        health = ProxyHealth("proxy:16001", False, lambda *_: None)
        for name in self.REFUSED:
            health.on_event(name)
        self.assertIn("probably accepts only clients with keys", health.problem)


@needs_pyzmq
class KeysTests(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = folder_of(self)

    def test_keys(self) -> None:
        make_keys(self.folder)
        keys = Keys.load(self.folder)
        self.assertEqual([len(key) for key in keys], [40, 40, 40])
        self.assertEqual(len(set(keys)), 3)

    def test_wrong_keys(self) -> None:
        with self.assertRaisesRegex(TelemetryError, "identity.key_secret: No such file or directory"):
            Keys.load(self.folder)
        make_keys(self.folder)
        identity, server = self.folder / "identity.key_secret", self.folder / "server.key"
        good = identity.read_text(), server.read_text()
        other = "x" * 40
        public = good[0].split('public-key = "')[1][:40]
        for path, content, text in (
            (identity, "", "is not a key file of ZeroMQ"),
            (identity, "\0\xff", "is not a key file of ZeroMQ"),
            (identity, (self.folder / "identity.key").read_text(), "has no secret key"),
            (identity, good[0].replace(public, other), "are not a pair"),
            (identity, good[0].replace(public, "short"), "a key has 40 characters"),
            (server, "curve\n    public-key = 7\n", "is not a key file|a key has 40 characters"),
            (server, good[1].replace('"', "\n"), "is not a key file|a key has 40 characters"),
        ):
            with self.subTest(text):
                path.write_text(content, encoding="latin-1")
                with self.assertRaisesRegex(TelemetryError, text):
                    Keys.load(self.folder)
                identity.write_text(good[0])
                server.write_text(good[1])
        server.unlink()
        with self.assertRaisesRegex(TelemetryError, "server.key: No such file"):
            Keys.load(self.folder)
        server.mkdir()
        with self.assertRaisesRegex(TelemetryError, "server.key"):
            Keys.load(self.folder)


@needs_pyzmq
class ProxyTests(unittest.TestCase):
    """A publisher and its proxy."""

    def setUp(self) -> None:
        self.reactor = Turning()
        self.folder = folder_of(self)
        make_keys(self.folder)
        self.keys = Keys.load(self.folder)

    def proxy(self, *arguments: Any, **options: Any) -> FakeProxy:
        proxy = FakeProxy(*arguments, **options)
        self.addCleanup(proxy.close)
        return proxy

    def connection(self, port: int, keys: Any = None, host: str = "127.0.0.1") -> ProxyConnection:
        connection = ProxyConnection(host, port, keys, reactor=self.reactor, retry=0.1)
        self.addCleanup(connection.close)
        connection.open()
        return connection

    def wait_for_state(self, connection: ProxyConnection, state: str, *proxies: FakeProxy) -> None:
        def arrived() -> bool:
            for proxy in proxies:
                proxy.turn()
            return connection.state == state

        self.reactor.until(arrived, f"the state {state}, it is {connection.state}")

    def receives(self, connection: ProxyConnection, proxy: FakeProxy) -> None:
        """Publish until a message arrives, because the first ones are sent before the proxy has subscribed."""

        def publish() -> int:
            connection.send(PAYLOAD)
            return proxy.turn()

        self.reactor.until(publish, "a message")
        self.assertEqual(set(map(tuple, proxy.messages)), {(b"backends", PAYLOAD)})
        self.assertEqual(proxy.contents()[0].keys(), {"Mine"})

    def test_with_keys_and_without(self) -> None:
        for mine, theirs in ((None, None), (self.keys, self.folder)):
            with self.assertLogs("discosbackend.monitor", "INFO") as logs:
                proxy = self.proxy(theirs)
                connection = ProxyConnection("127.0.0.1", proxy.port, mine, reactor=self.reactor, retry=0.1)
                self.addCleanup(connection.close)
                # After open(), a fast thread of ZeroMQ may have connected already.
                self.assertEqual((connection.state, connection.problem), ("connecting", ""))
                connection.open()
                self.receives(connection, proxy)
                self.assertEqual((connection.state, connection.problem), ("connected", ""))
            (line,) = logs.output
            self.assertIn(f"telemetry is published to the proxy at 127.0.0.1:{proxy.port}", line)

    @needs_ipv6
    def test_ipv6(self) -> None:
        proxy = self.proxy(self.folder, host="[::1]")
        with self.assertLogs("discosbackend.monitor", "INFO") as logs:
            self.receives(self.connection(proxy.port, self.keys, "::1"), proxy)
        self.assertIn(f"to the proxy at [::1]:{proxy.port}", logs.output[0])

    def test_a_proxy_that_is_absent_and_comes(self) -> None:
        with refusing() as port:
            with self.assertLogs("discosbackend.monitor") as logs:
                connection = self.connection(port, self.keys)
                for _ in range(100):
                    connection.send(PAYLOAD)
                self.wait_for_state(connection, "away")
                for _ in range(100):
                    self.reactor.turn()
            (line,) = logs.output
            self.assertIn(f"the telemetry proxy at 127.0.0.1:{port} cannot be reached", line)
            self.assertIn(connection.problem, line)
        proxy = self.proxy(self.folder, port=port)
        self.receives(connection, proxy)
        self.assertEqual(connection.state, "connected")

    def test_a_host_that_is_unknown(self) -> None:
        with self.assertLogs("discosbackend.monitor"):
            connection = self.connection(16001, None, "nosuch.invalid")
            self.wait_for_state(connection, "away")

    def test_a_proxy_that_dies_and_is_restarted(self) -> None:
        first = FakeProxy(self.folder)
        connection = self.connection(first.port, self.keys)
        self.receives(connection, first)
        port = first.port
        with self.assertLogs("discosbackend.monitor") as logs:
            first.close()
            self.wait_for_state(connection, "away")
            connection.send(PAYLOAD)
        self.assertEqual(len(logs.output), 1)
        second = self.proxy(self.folder, port=port)
        self.receives(connection, second)
        self.assertEqual((connection.state, connection.problem), ("connected", ""))

    def refused(self, keys: Any, proxy: FakeProxy, text: str) -> ProxyConnection:
        with self.assertLogs("discosbackend.monitor") as logs:
            connection = self.connection(proxy.port, keys)
            self.wait_for_state(connection, "refused", proxy)
            for _ in range(100):
                connection.send(PAYLOAD)
                self.reactor.turn()
                proxy.turn()
        (line,) = logs.output
        self.assertIn(text, line)
        self.assertIn(text, connection.problem)
        self.assertEqual(proxy.messages, [])
        return connection

    def test_a_proxy_that_wants_keys(self) -> None:
        self.refused(None, self.proxy(self.folder), "probably accepts only clients with keys")

    def test_keys_of_another_proxy(self) -> None:
        wrong = self.keys._replace(proxy=self.keys.public)
        self.refused(wrong, self.proxy(self.folder), "the key in server.key is not the proxy's")

    def test_keys_that_the_proxy_does_not_know(self) -> None:
        self.refused(self.keys, self.proxy(self.folder, refuses=True), "does not know the key in identity.key_secret")

    def test_keys_for_a_proxy_without(self) -> None:
        self.refused(self.keys, self.proxy(), "or it uses no keys")

    def test_a_proxy_that_refuses_the_keys_and_accepts_them_later(self) -> None:
        # ZeroMQ itself connects never again after such a refusal.
        strict = FakeProxy(self.folder, refuses=True)
        connection = self.refused(self.keys, strict, "does not know the key")
        port = strict.port
        strict._refuses = False
        self.receives(connection, strict)
        self.assertEqual((connection.state, connection.problem), ("connected", ""))
        strict.close()
        self.receives(connection, self.proxy(self.folder, port=port))

    def test_a_listener_that_is_no_proxy(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, self.assertLogs("discosbackend.monitor") as logs:
            connection = self.connection(listener.getsockname()[1], self.keys)
            peer, _ = listener.accept()
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            peer.close()
            self.wait_for_state(connection, "refused")
            # ZeroMQ itself would not connect again.
            listener.settimeout(0)
            self.reactor.until(lambda: accepted(listener), "another connection")
        self.assertEqual(len(logs.output), 1)

    def test_closing(self) -> None:
        proxy = self.proxy(self.folder, refuses=True)
        connection = self.refused(self.keys, proxy, "does not know")
        connection.close()
        connection.close()
        self.assertEqual(connection.state, "closed")
        self.assertEqual(self.reactor.readers, set())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_closing_while_a_name_is_resolved(self) -> None:
        """The thread of ZeroMQ cannot end before that, which may take half a minute."""
        connection = self.connection(1)
        resolved, ended = threading.Event(), threading.Event()
        term = zmq.Context.term

        def slow(context: Any) -> None:
            resolved.wait(PATIENCE)
            term(context)
            ended.set()

        with mock.patch.object(zmq.Context, "term", slow):
            connection.close()
            self.assertFalse(ended.is_set())
            resolved.set()
            wait_until(ended.is_set)


@needs_pyzmq
class ReadableTests(unittest.TestCase):
    """Reading a descriptor that is readable once for many messages."""

    def test_many_messages_leave_turns_for_others(self) -> None:
        clock, pending = Clock(), mock.Mock(closed=False)
        left = [50]
        pending.getsockopt.side_effect = lambda option: int(left[0] > 0) if option == zmq.EVENTS else 7

        def receive() -> None:
            left[0] -= 1

        readable = _Readable(clock, pending, receive)
        self.assertEqual(readable.fileno(), 7)
        readable.doRead()
        self.assertEqual(left, [30])
        readable.doRead()
        self.assertEqual(left, [30])
        (call,) = clock.getDelayedCalls()
        self.assertEqual(call.getTime(), 0)
        clock.advance(0)
        self.assertEqual(left, [0])
        self.assertEqual(clock.getDelayedCalls(), [])


@needs_pyzmq
class ServerTests(unittest.TestCase):
    """Telemetry without a proxy."""

    def setUp(self) -> None:
        self.reactor = Turning()
        self.server = TelemetryServer("127.0.0.1", 0, b"{}", reactor=self.reactor)
        self.addCleanup(self.server.close)
        self.server.open()
        self.port = self.server.address[1]

    def client(self, *arguments: Any, **options: Any) -> Client:
        client = Client(self.port, *arguments, **options)
        self.addCleanup(client.close)
        return client

    def until_snapshot(self, client: Client) -> None:
        self.reactor.until(lambda: client.turn() is not None and client.snapshot is not None, "the snapshot")

    def until_message(self, client: Client) -> None:
        def publish() -> bool:
            self.server.send(PAYLOAD)
            return client.turn()

        self.reactor.until(publish, "a message")

    def test_a_client_before_the_first_message(self) -> None:
        client = self.client()
        self.until_snapshot(client)
        self.assertEqual(client.snapshot, {})
        self.until_message(client)
        self.assertEqual(self.server.state, "serving")

    def test_a_client_gets_the_latest_message_at_once(self) -> None:
        self.server.send(PAYLOAD)
        client = self.client()
        self.until_snapshot(client)
        self.assertEqual(client.snapshot, {"Mine": client.snapshot and client.snapshot["Mine"]})
        self.until_message(client)

    def test_a_subscription_that_arrives_during_a_send(self) -> None:
        # A send takes the signal of the descriptor, so the reactor is not told of the subscription.
        client = self.client()

        def publish() -> bool:
            self.server.send(PAYLOAD)
            client.turn()
            return client.snapshot is not None

        wait_until(publish, "the snapshot")

    def test_many_clients_with_the_same_identity(self) -> None:
        self.server.send(PAYLOAD)
        clients = [self.client() for _ in range(5)]
        for client in clients:
            self.until_snapshot(client)
        # The later ones ask for the topic while the earlier ones have left it: each gets its answer.
        for client in [self.client() for _ in range(3)]:
            self.until_snapshot(client)
            self.until_message(client)

    def test_compressed(self) -> None:
        client = self.client(read=zlib.decompress)
        self.server.send(zlib.compress(PAYLOAD))
        self.until_snapshot(client)
        self.server.send(zlib.compress(PAYLOAD))
        self.reactor.until(lambda: self.server.send(zlib.compress(PAYLOAD)) or client.turn(), "a message")

    def test_topics_that_ask_for_no_snapshot(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        other = context.socket(zmq.SUB)
        self.addCleanup(context.term)
        self.addCleanup(other.close, linger=0)
        other.connect(f"tcp://127.0.0.1:{self.port}")
        for topic in (
            b"abcd_antenna",
            b"abc_backends",
            b"abcde_backends",
            b"ab-d_backends",
            b"abcd_backends2",
            b"\xff",
        ):
            other.subscribe(topic)
        client = self.client(b"Zz09")
        self.until_snapshot(client)
        # The answer to the last request is here, so all others have been read.
        self.until_message(client)
        self.assertFalse(other.poll(0))

    def test_a_client_that_is_garbage(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
            client = self.client()
            self.until_snapshot(client)
            self.until_message(client)

    def test_ports_that_cannot_be_used(self) -> None:
        for host, port, text in (
            ("127.0.0.1", self.port, f"cannot listen on 127.0.0.1:{self.port}: Address already in use"),
            ("nosuch.invalid", 0, "cannot listen on nosuch.invalid:0: "),
            ("192.0.2.1", 0, "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        ):
            server = TelemetryServer(host, port, b"{}", reactor=self.reactor)
            with self.assertRaisesRegex(TelemetryError, text):
                server.open()
            self.assertEqual(server.state, "closed")

    def assert_served_on(self, host: str, shown: str) -> None:
        server = TelemetryServer(host, 0, b"{}", reactor=self.reactor)
        self.addCleanup(server.close)
        with self.assertLogs("discosbackend.monitor", "INFO") as logs:
            server.open()
        self.assertIn(f"telemetry is served on {shown}:{server.address[1]}", logs.output[0])

    def test_a_name(self) -> None:
        self.assert_served_on("localhost", "localhost")

    @needs_ipv6
    def test_ipv6(self) -> None:
        self.assert_served_on("::1", "[::1]")

    def test_closing(self) -> None:
        self.server.close()
        self.server.close()
        self.assertEqual(self.server.state, "closed")
        self.assertEqual(self.reactor.readers, set())
        self.assertEqual(self.reactor.getDelayedCalls(), [])
