"""The ZeroMQ sockets of DISCOS telemetry: one that publishes to the proxy, and one that serves clients without it.

All calls return at once. The sockets are used in the reactor's thread only; names are resolved and connections are made
in a thread of ZeroMQ. It needs pyzmq, the extra `telemetry`.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import zmq
from twisted.internet.interfaces import IReadDescriptor
from zmq.auth import load_certificate
from zmq.utils.monitor import parse_monitor_message
from zope.interface import implementer

from discosbackend.errors import reason_of
from discosbackend.log import address_text
from discosbackend.monitor.telemetry import TOPIC
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger

__all__ = ["IDENTITY", "SERVER_KEY", "Keys", "ProxyConnection", "ProxyHealth", "TelemetryError", "TelemetryServer"]

logger = logging.getLogger(__name__)

IDENTITY = "identity.key_secret"
"""The file with the key pair of the publisher."""

SERVER_KEY = "server.key"
"""The file with the public key of the proxy."""

# A key in Z85.
_KEY = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")

# How many events of a socket are handled in one turn of the reactor.
_AT_ONCE = 20

# How many messages wait for a peer that does not read. Further ones are dropped.
_WAITING = 10

# Milliseconds. ZeroMQ gives up and tries again after these times.
_CONNECT_TIMEOUT = 5_000
_HANDSHAKE_TIMEOUT = 10_000
_RECONNECT = 1_000
_LONGEST_RECONNECT = 10_000
_HEARTBEAT = 5_000
_HEARTBEAT_TIMEOUT = 15_000

# The subscription of a client that asks for the latest message: its own four characters, then the topic.
_SNAPSHOT = re.compile(rb"[0-9A-Za-z]{4}_" + TOPIC.encode())

# Seconds. How long closing a socket waits for the thread of ZeroMQ.
_LAST_PATIENCE = 0.2

# Bytes. No subscription of a client is longer.
_LONGEST_SUBSCRIPTION = 1024


class TelemetryError(Exception):
    """The reason why telemetry cannot start, in one sentence."""


class Keys(NamedTuple):
    """The CURVE keys of a publisher, in Z85."""

    public: bytes
    secret: bytes
    proxy: bytes
    """The public key of the proxy."""

    @classmethod
    def load(cls, folder: Path) -> Keys:
        """Read the keys from the files IDENTITY and SERVER_KEY of a folder. Raise TelemetryError if that fails."""
        public, secret = _certificate(folder / IDENTITY)
        proxy, _ = _certificate(folder / SERVER_KEY)
        if secret is None:
            raise TelemetryError(f"{folder / IDENTITY} has no secret key")
        if zmq.curve_public(secret) != public:
            raise TelemetryError(f"the two keys in {folder / IDENTITY} are not a pair")
        return cls(public, secret, proxy)


def _certificate(path: Path) -> tuple[bytes, bytes | None]:
    """Return the public and the secret key of a file."""
    try:
        # load_certificate() reports a missing file with an OSError of its own, without a reason.
        os.stat(path)
        public, secret = load_certificate(path)
    except OSError as problem:
        raise TelemetryError(f"cannot read the key file {path}: {reason_of(problem)}") from None
    except (ValueError, zmq.ZMQError) as problem:
        raise TelemetryError(f"{path} is not a key file of ZeroMQ: {problem}") from None
    for key in (public, secret):
        if key is not None and not _KEY.fullmatch(key):
            raise TelemetryError(f"{path} is not a key file of ZeroMQ: a key has 40 characters in Z85")
    return public, secret


class ProxyHealth:
    """The state of the connection to the proxy, from the events of the socket's monitor. Each change is logged once.

    Parameters
    ----------
    where
        The address of the proxy, for texts.
    has_keys
        Whether the connection uses keys.
    log
        The function that logs a change: a level and a text.
    """

    def __init__(self, where: str, has_keys: bool, log: Callable[[int, str], object]) -> None:
        self.state = "connecting"
        """`connecting`, `connected`, `away` or `refused`."""
        self.problem = ""
        """Why the proxy gets nothing; "" if there is no problem, or none is known yet."""
        self._where = where
        self._has_keys = has_keys
        self._log = log
        # Whether the current attempt has reached the port of the proxy.
        self._reached = False

    def on_event(self, name: str) -> None:
        """Handle an event of the monitor, such as `CONNECTED`."""
        if name == "CONNECTED":
            self._reached = True
        elif name == "HANDSHAKE_SUCCEEDED":
            self._change("connected", "")
        elif name == "DISCONNECTED" and self.state == "connected":
            self._change("away", self._absence())
        elif name == "DISCONNECTED" or name.startswith("HANDSHAKE_FAILED"):
            self._change("refused", self._refusal())
        elif name in ("CLOSED", "CONNECT_RETRIED"):
            if not self._reached:
                self._change("away", self._absence())
            self._reached = False

    def _refusal(self) -> str:
        if self._has_keys:
            return (
                f"the telemetry proxy at {self._where} refuses the connection: it does not know the key in {IDENTITY}, "
                f"or the key in {SERVER_KEY} is not the proxy's, or it uses no keys"
            )
        return (
            f"the telemetry proxy at {self._where} refuses the connection: it probably accepts only clients with keys"
        )

    def _absence(self) -> str:
        return f"the telemetry proxy at {self._where} cannot be reached"

    def _change(self, state: str, problem: str) -> None:
        if (state, problem) == (self.state, self.problem):
            return
        self.state, self.problem = state, problem
        if problem:
            self._log(logging.WARNING, f"{problem}; everything else continues, and the connection is tried again")
        else:
            self._log(logging.INFO, f"telemetry is published to the proxy at {self._where}")


def _end(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """End the thread of ZeroMQ, and wait for that, but not if it is resolving a name, which may take half a minute."""
    thread = threading.Thread(target=context.term, name="discos-telemetry-end", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # The system has no thread left.
        context.term()
        return
    thread.join(_LAST_PATIENCE)


@implementer(IReadDescriptor)
class _Readable:
    """Lets the reactor call a function when a ZeroMQ socket may have messages.

    The file descriptor of a ZeroMQ socket becomes readable only once for several messages, also if one arrives during a
    send. So the function is called again until it has found no further message.
    """

    def __init__(self, reactor: Any, zmq_socket: zmq.Socket[bytes], receive: Callable[[], object]) -> None:
        self._reactor = reactor
        self._socket = zmq_socket
        self._receive = receive
        self._again: Any = None
        self._descriptor = int(zmq_socket.getsockopt(zmq.FD))

    def start(self) -> None:
        self._reactor.addReader(self)
        self.read_all()

    def stop(self) -> None:
        self._reactor.removeReader(self)
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def read_all(self) -> None:
        """Handle the messages that have arrived: some of them now, the others in later turns of the reactor."""
        if self._again is not None:
            return
        for _ in range(_AT_ONCE):
            if self._socket.closed or not int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            self._receive()
        self._again = self._reactor.callLater(0, self._read_more)

    def _read_more(self) -> None:
        self._again = None
        self.read_all()

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> None:
        self.read_all()

    def logPrefix(self) -> str:
        return "telemetry"

    def connectionLost(self, reason: Any) -> None:
        """Twisted's hook: the reactor stops."""


class ProxyConnection:
    """Publishes messages to a telemetry proxy, and connects again whenever the connection is lost.

    Parameters
    ----------
    host, port
        The address of the proxy.
    keys
        The keys. None: the connection is not encrypted.
    reactor
        The reactor.
    retry
        After how long it connects again if the proxy has refused the connection, in s.
    """

    def __init__(self, host: str, port: int, keys: Keys | None, *, reactor: Any, retry: float = 10.0) -> None:
        self._endpoint = f"tcp://{address_text((host, port))}"
        self._keys = keys
        self._reactor = reactor
        self._retry = retry
        self._retrying: Any = None
        self._limited = RateLimitedLogger(logger, reactor.callLater)
        self._health = ProxyHealth(address_text((host, port)), keys is not None, self._log)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._monitor: zmq.Socket[bytes] | None = None
        self._readable: _Readable | None = None
        self._set_options(":" in host)

    def _set_options(self, ipv6: bool) -> None:
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),
            (zmq.SNDHWM, _WAITING),
            (zmq.IPV6, int(ipv6)),
            (zmq.CONNECT_TIMEOUT, _CONNECT_TIMEOUT),
            (zmq.HANDSHAKE_IVL, _HANDSHAKE_TIMEOUT),
            (zmq.RECONNECT_IVL, min(_RECONNECT, round(self._retry * 1000))),
            (zmq.RECONNECT_IVL_MAX, min(_LONGEST_RECONNECT, round(self._retry * 1000))),
            # A host that has lost its power does not close its connections.
            (zmq.HEARTBEAT_IVL, _HEARTBEAT),
            (zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT),
        ):
            self._socket.setsockopt(option, value)
        if self._keys is not None:
            self._socket.curve_publickey = self._keys.public
            self._socket.curve_secretkey = self._keys.secret
            self._socket.curve_serverkey = self._keys.proxy

    @property
    def state(self) -> str:
        """`connecting`, `connected`, `away`, `refused` or `closed`."""
        return "closed" if self._socket.closed else self._health.state

    @property
    def problem(self) -> str:
        """Why the proxy gets nothing; "" if there is no problem."""
        return self._health.problem

    def open(self) -> None:
        """Begin to connect. Raise TelemetryError if ZeroMQ cannot use the address."""
        self._monitor = self._socket.get_monitor_socket()
        self._readable = _Readable(self._reactor, self._monitor, self._receive_event)
        try:
            self._socket.connect(self._endpoint)
        except zmq.ZMQError as problem:
            self.close()
            raise TelemetryError(f"cannot connect to {self._endpoint}: {problem}") from None
        self._readable.start()

    def send(self, payload: bytes) -> None:
        """Send a message. If the proxy is away or does not read, the message is discarded."""
        self._socket.send_multipart([TOPIC.encode(), payload], zmq.NOBLOCK)
        if self._readable is not None:
            self._readable.read_all()

    def close(self) -> None:
        """Close the connection. Messages that are not sent yet are discarded."""
        if self._socket.closed:
            return
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None
        if self._readable is not None:
            self._readable.stop()
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
        self._socket.close(linger=0)
        _end(self._context)
        self._limited.sum_up()

    def _receive_event(self) -> None:
        assert self._monitor is not None
        event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
        # A later version of ZeroMQ may have events that this version of pyzmq does not know.
        name = (event.name or "") if isinstance(event, zmq.Event) else ""
        self._health.on_event(name)
        # After some refused handshakes, ZeroMQ itself does not try again. It says at once if it does.
        if name == "DISCONNECTED" and self._retrying is None:
            self._retrying = self._reactor.callLater(self._retry, self._connect_again)
        elif name in ("CONNECT_RETRIED", "HANDSHAKE_SUCCEEDED") and self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None

    def _connect_again(self) -> None:
        self._retrying = None
        try:
            self._socket.disconnect(self._endpoint)
        except zmq.ZMQError:
            # ZeroMQ has already forgotten the address.
            logger.debug("telemetry: no connection to end")
        self._socket.connect(self._endpoint)

    def _log(self, level: int, text: str) -> None:
        self._limited.log(level, "telemetry", "%s", text, window=MINUTE)


class TelemetryServer:
    """Serves telemetry without a proxy: clients connect to it as they connect to the proxy.

    A client subscribes to `backends`. To get the latest message at once, it first subscribes to `XXXX_backends`, with
    any four letters and digits; the message is then sent with this topic.

    Parameters
    ----------
    host, port
        The address to listen on; port 0 for a free one.
    empty
        The payload for such a client before the first message is sent.
    reactor
        The reactor.
    """

    problem = ""
    """Always "": after open(), there are no problems."""

    def __init__(self, host: str, port: int, empty: bytes, *, reactor: Any) -> None:
        self._address = (host, port)
        self._latest = empty
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, _WAITING),
            # So that each client is heard, also if another one has the same subscription.
            (zmq.XPUB_VERBOSE, 1),
            (zmq.MAXMSGSIZE, _LONGEST_SUBSCRIPTION),
            (zmq.HANDSHAKE_IVL, _HANDSHAKE_TIMEOUT),
            (zmq.HEARTBEAT_IVL, _HEARTBEAT),
            (zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT),
        ):
            self._socket.setsockopt(option, value)
        self._readable = _Readable(reactor, self._socket, self._receive)

    @property
    def state(self) -> str:
        """`serving`, or `closed`."""
        return "closed" if self._socket.closed else "serving"

    @property
    def address(self) -> tuple[str, int]:
        """The host, and the port that it listens on."""
        return self._address

    def open(self) -> None:
        """Listen. Raise TelemetryError if that is not possible."""
        host, port = self._address
        try:
            # ZeroMQ itself can only listen on numeric addresses.
            ((family, _, _, _, found), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._socket.setsockopt(zmq.IPV6, int(family == socket.AF_INET6))
            self._socket.bind(f"tcp://{address_text(found[:2])}")
        except OSError as problem:  # zmq.ZMQError is none
            self.close()
            raise TelemetryError(f"cannot listen on {address_text((host, port))}: {reason_of(problem)}") from None
        except zmq.ZMQError as problem:
            self.close()
            raise TelemetryError(f"cannot listen on {address_text((host, port))}: {problem}") from None
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        self._address = (host, int(endpoint.rstrip(b"\0").rpartition(b":")[2]))
        logger.info("telemetry is served on %s", address_text(self._address))
        self._readable.start()

    def send(self, payload: bytes) -> None:
        """Send a message to the clients. A client that does not read loses it."""
        self._latest = payload
        self._socket.send_multipart([TOPIC.encode(), payload], zmq.NOBLOCK)
        self._readable.read_all()

    def close(self) -> None:
        """Close the port and the connections of all clients."""
        if not self._socket.closed:
            self._readable.stop()
            self._socket.close(linger=0)
            _end(self._context)

    def _receive(self) -> None:
        """Receive a subscription, and answer it if it asks for a snapshot."""
        frames = self._socket.recv_multipart(zmq.NOBLOCK)
        # The first byte of a subscription is 1, and that of its end 0.
        if len(frames) == 1 and frames[0][:1] == b"\1" and _SNAPSHOT.fullmatch(frames[0][1:]):
            self._socket.send_multipart([frames[0][1:], self._latest], zmq.NOBLOCK)
