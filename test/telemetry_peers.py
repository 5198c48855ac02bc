"""The other ends of telemetry: a proxy, and a client that behaves as the deployed one; and a reactor for them."""

from __future__ import annotations

import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
import zmq.auth
from twisted.internet.task import Clock

from .settings import wait_until
from .telemetry_schema import message_in

__all__ = ["Client", "FakeProxy", "Turning", "make_keys"]


class Turning(Clock):
    """A reactor that the test turns: it reads descriptors as Twisted's does, and its clock is the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.triggers: list[Callable[[], object]] = []

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def turn(self) -> None:
        """Read what can be read, and let 10 ms pass."""
        readable, _, _ = select.select(list(self.readers), [], [], 0)
        for reader in readable:
            if reader in self.readers:
                reader.doRead()
        self.advance(0.01)

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Turn until the condition is true."""

        def look() -> object:
            self.turn()
            return condition()

        wait_until(look, what)


def make_keys(folder: Path) -> None:
    """Make the key files of a publisher and of its proxy, whose secret key is in `proxy`."""
    zmq.auth.create_certificates(folder, "identity")
    (folder / "proxy").mkdir()
    zmq.auth.create_certificates(folder / "proxy", "server")
    (folder / "proxy" / "server.key").rename(folder / "server.key")


class FakeProxy:
    """A proxy: a SUB socket that is bound, and a CURVE server if there are keys.

    With `refuses`, it knows nobody's key.
    """

    def __init__(
        self, keys: Path | None = None, *, port: int = 0, refuses: bool = False, host: str = "127.0.0.1"
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._door: zmq.Socket[bytes] | None = None
        self._refuses = refuses
        self._host = host
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IPV6, 1)
        if keys is not None:
            # The protocol by which ZeroMQ asks who may connect, RFC 27.
            self._door = self._context.socket(zmq.REP)
            self._door.bind("inproc://zeromq.zap.01")
            _, secret = zmq.auth.load_certificate(keys / "proxy" / "server.key_secret")
            assert secret is not None
            self._socket.curve_secretkey = secret
            self._socket.curve_server = True
        self._socket.subscribe(b"")
        wait_until(lambda: self._binds(port), "the port of the proxy")
        self.messages: list[list[bytes]] = []

    def _binds(self, port: int) -> bool:
        try:
            self._socket.bind(f"tcp://{self._host}:{port or '*'}")
        except zmq.ZMQError as problem:
            if problem.errno != zmq.EADDRINUSE:
                raise
            return False
        return True

    @property
    def port(self) -> int:
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        return int(endpoint.rstrip(b"\0").rpartition(b":")[2])

    def turn(self) -> int:
        """Handle what has arrived, and return how many messages there are."""
        while self._door is not None and self._door.poll(0):
            version, number, *_ = self._door.recv_multipart()
            code = [b"400", b"unknown key"] if self._refuses else [b"200", b"OK"]
            self._door.send_multipart([version, number, *code, b"", b""])
        while self._socket.poll(0):
            frames = self._socket.recv_multipart()
            assert len(frames) == 2, frames
            assert frames[0] == b"backends", frames
            self.messages.append(frames)
        return len(self.messages)

    def contents(self) -> list[dict[str, Any]]:
        """The messages that arrived since the last call, checked."""
        found, self.messages = [message_in(payload) for _, payload in self.messages], []
        return found

    def close(self) -> None:
        for each in (self._socket, self._door):
            if each is not None:
                each.close(linger=0)
        self._context.term()


class Client:
    """A client as the deployed one is: a snapshot first, then every topic that begins with `backends`.

    AssertionError for whatever would end the thread in which the deployed client receives.
    """

    def __init__(self, port: int, identity: bytes = b"a1B2", *, read: Callable[[bytes], bytes] = bytes) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self._snapshot = identity + b"_backends"
        self._read = read
        self._socket.subscribe(self._snapshot)
        self.snapshot: dict[str, Any] | None = None
        self.messages: list[dict[str, Any]] = []

    def turn(self) -> bool:
        """Handle what has arrived, and return whether there was a message since the snapshot."""
        while self._socket.poll(0):
            frames = self._socket.recv_multipart()
            assert len(frames) == 2, frames
            topic, payload = frames[0], self._read(frames[1])
            if topic == self._snapshot:
                self.snapshot = {} if payload == b"{}" else message_in(payload)
                self._socket.unsubscribe(self._snapshot)
                self._socket.subscribe(b"backends")
            else:
                assert topic == b"backends", topic
                self.messages.append(message_in(payload))
        return bool(self.messages)

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()
