"""The control channel of a simulated instrument: one line of JSON for each request and for each answer.

It listens on a loopback port or a Unix socket. executor executes the requests; client is the client.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
from pathlib import Path
from time import perf_counter
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IHalfCloseableProtocol, IListeningPort
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from discosbackend.errors import reason_of
from discosbackend.log import address_text
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger
from discosbackend.reactors import reactor_or_default
from discosbackend.simulator.control.client import control_address
from discosbackend.simulator.control.executor import OperationExecutor
from discosbackend.simulator.control.operations import LONGEST_LINE, OPERATIONS
from discosbackend.simulator.errors import ControlError

__all__ = ["ControlChannel", "ControlProtocol", "OperationExecutor"]

logger = logging.getLogger(__name__)

# Characters of what a client sent that the log shows.
_LONGEST_SHOWN = 200
# Seconds for a client to read why its connection is closed.
_LINGER = 1.0

_NOT_A_REQUEST = 'no request: each line is a JSON object such as {"do": "state"}'


@implementer(IHalfCloseableProtocol)
class ControlProtocol(LineReceiver):  # rawDataReceived() is abstract, but never called
    """The connection of one client: one answer to each line, in order.

    A line that is not a JSON object closes the connection; nothing after it is processed. So a web page cannot control
    the simulator with an HTTP request of the browser to this port, which no firewall would stop.
    """

    # Any, because a stream transport has methods that ITransport lacks.
    transport: Any
    delimiter = b"\n"
    MAX_LENGTH = LONGEST_LINE

    def __init__(
        self,
        executor: OperationExecutor,
        reactor: Any,
        connections: set[ControlProtocol],
        limited: RateLimitedLogger,
    ) -> None:
        self._executor = executor
        self._reactor = reactor
        self._connections = connections
        # One limit for all connections, because a web page can open one after the other.
        self._limited = limited
        self._peer = "nobody"
        self._over = False
        self._timer: Any = None

    def connectionMade(self) -> None:
        self._connections.add(self)
        self._peer = address_text(self.transport.getPeer())
        # While a client does not read its answers, its further lines are not processed.
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        if not self._over:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def lineReceived(self, line: bytes) -> None:
        try:
            request = _parsed(line)
        except ValueError as problem:
            self._refuse(str(problem))
            return
        began = perf_counter()
        try:
            answer = {"ok": self._executor.execute(request)}
        except ControlError as problem:
            self._log_refusal(request, str(problem))
            answer = {"error": str(problem)}
        except Exception:  # noqa: BLE001  # each request gets an answer, after any exception
            self._limited.log(logging.ERROR, "control failed", "control: %.200r failed", line, exc_info=True)
            answer = {"error": "not carried out, for a reason that is not yours: the server's log has it"}
        else:
            if OPERATIONS[request["do"]].changes:
                logger.info("%s -> ok in %.3f s", self._who_asked(request), perf_counter() - began)
        self._answer(answer)

    def _who_asked(self, request: dict[str, Any]) -> str:
        """Return the operation, the client and the values of a request, for the log."""
        operation = OPERATIONS.get(str(request.get("do")))
        values = {key: value for key, value in request.items() if operation is None or key != "do"}
        words = "" if operation is None else f" {operation.words}"
        shown = f": {values!r}" if values else ""
        return f"control{words} from {self._peer}{shown[:_LONGEST_SHOWN]}"

    def _log_refusal(self, request: dict[str, Any], reason: str) -> None:
        """As for the protocol: five a minute a peer and operation."""
        operation = OPERATIONS.get(str(request.get("do")))
        what = "control" if operation is None else f"control {operation.words}"
        host = self._peer.rpartition(":")[0] or self._peer
        if self._limited.admit(logging.INFO, (what, "refused for", host), MINUTE):
            logger.info("%s -> refused %r", self._who_asked(request), reason[:_LONGEST_SHOWN])

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(f"a line is longer than {LONGEST_LINE} bytes")

    def _answer(self, answer: dict[str, Any]) -> None:
        try:
            text = json.dumps(answer, allow_nan=False)
        except (TypeError, ValueError):
            text = "control: the answer cannot be encoded as JSON: %.200r"
            self._limited.log(logging.ERROR, "control answer", text, answer, exc_info=True)
            problem = "carried out, but the answer cannot be told: the server's log has it"
            text = json.dumps({"error": problem})
        self.transport.write(text.encode("ascii") + b"\n")

    def _refuse(self, sentence: str) -> None:
        """Send a last answer and close the connection; discard the rest of the received data.

        Data that arrives until then is read and discarded: closing with unread data would send a TCP reset, which can
        destroy the answer before the client reads it.
        """
        self._limited.log(logging.WARNING, "control closed", "control: %s is disconnected: %s", self._peer, sentence)
        self._over = True
        self._rest()
        self._answer({"error": sentence})
        self.transport.loseWriteConnection()
        self._timer = self._reactor.callLater(_LINGER, self.transport.abortConnection)

    def readConnectionLost(self) -> None:
        """Close after the client has closed its side; all answers have been written."""
        if not self._over and self._rest():
            self._refuse("a line without its end: nothing was done for it")
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: the last answer has been sent."""

    def _rest(self) -> bytes:
        """Return the received data that has not been processed, and discard it."""
        return cast(bytes, self.clearLineBuffer())  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._connections.discard(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def _parsed(line: bytes) -> dict[str, Any]:
    """Parse the JSON object of a line. Raise ValueError, with the text for the client, for anything else."""
    try:
        request = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_once)
    except _NotJson as problem:
        raise ValueError(f"{_NOT_A_REQUEST}, {problem}") from None
    except (ValueError, RecursionError):
        raise ValueError(_NOT_A_REQUEST) from None
    if not isinstance(request, dict):
        raise ValueError(_NOT_A_REQUEST)
    return request


class _NotJson(Exception):
    """Text that Python's parser accepts although it is no JSON, or in which a key occurs twice."""


def _refuse_constant(name: str) -> Any:
    raise _NotJson(f"and {name} is no number there")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotJson("with each key once")
    return found


class _ControlFactory(Factory):
    noisy = False

    def __init__(self, executor: OperationExecutor, reactor: Any) -> None:
        self._executor = executor
        self._reactor = reactor
        self.connections: set[ControlProtocol] = set()
        self._limited = RateLimitedLogger(logger, reactor.callLater)

    def buildProtocol(self, addr: Any) -> ControlProtocol:
        return ControlProtocol(self._executor, self._reactor, self.connections, self._limited)


class ControlChannel:
    """Serves an OperationExecutor to other programs on this host.

    Parameters
    ----------
    executor
        Executes the requests.
    address
        A port of 127.0.0.1 (0: a free port), or the path of a Unix socket, which contains a slash. Only the owner can
        connect to the Unix socket. A socket that a killed server has left is replaced.
    reactor
        Default: the global reactor.

    Raises
    ------
    ControlError
        If the address is invalid, or if other hosts could reach it.
    """

    def __init__(self, executor: OperationExecutor, address: str | int, *, reactor: Any = None) -> None:
        self._where = control_address(address)
        self._reactor = reactor_or_default(reactor)
        self._factory = _ControlFactory(executor, self._reactor)
        self._port: IListeningPort | None = None

    @property
    def address(self) -> str:
        """The address for SimulatorControl. Once the channel is open, a port of 0 is replaced by the actual port."""
        if self._port is None or isinstance(self._where, str):
            return address_text(self._where)
        host = cast(Any, self._port.getHost())
        return address_text((host.host, host.port))

    def announcement(self) -> str:
        """Return a line for standard output that announces the address."""
        return f"discosbackend: controlled at {self.address}"

    def open(self) -> None:
        """Listen. Raise ControlError if that is not possible."""
        try:
            if isinstance(self._where, str):
                _remove_stale_socket(Path(self._where))
                # Twisted sets the mode before it listens, so that nobody else can connect in between.
                self._port = self._reactor.listenUNIX(self._where, self._factory, mode=0o600)
            else:
                host, number = self._where
                self._port = self._reactor.listenTCP(number, self._factory, interface=host)
        except CannotListenError as problem:
            reason = getattr(problem.socketError, "strerror", None) or problem.socketError
            raise ControlError(f"control cannot listen on {self.address}: {reason}") from problem
        logger.info("controlled at %s", self.address)

    def close(self) -> Deferred[None]:
        """Stop listening and close the connections; do nothing if the channel is not open."""
        port, self._port = self._port, None
        for connection in list(self._factory.connections):
            connection.transport.loseConnection()
        if port is None:
            return succeed(None)
        if isinstance(self._where, str) and not getattr(self._reactor, "running", True):
            # If the server could not listen, the reactor has never run and Twisted would not remove the file.
            Path(self._where).unlink(missing_ok=True)
            return succeed(None)
        if isinstance(self._where, str):
            try:
                # Twisted removes the file. If the file is missing already, Twisted does not close the port.
                Path(self._where).touch()
            except OSError as problem:
                logger.warning("control: %s cannot be removed: %s", self._where, problem)
                return succeed(None)
        return cast("Deferred[None]", maybeDeferred(port.stopListening))


def _remove_stale_socket(path: Path) -> None:
    """Remove the socket of a server that was killed. Raise ControlError if anything else is at the path."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        # The path does not exist, or listening will report what is wrong with it.
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"control cannot listen on {path}: something that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.setblocking(False)
        try:
            knock.connect(str(path))
        except ConnectionRefusedError:
            logger.info("control: %s was left by a server that no longer runs, replacing it", path)
            path.unlink()
            return
        except BlockingIOError:
            # A running server whose queue of connections is full.
            pass
        except OSError as problem:
            raise ControlError(f"control cannot listen on {path}: {reason_of(problem)}") from problem
    raise ControlError(f"control cannot listen on {path}: another server is controlled there")
