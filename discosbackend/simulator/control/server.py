"""The control channel of a simulated instrument: a line of JSON each way, on a loopback port or a Unix socket.

executor carries out what is requested, by the table in operations; client is the other end.
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

from discosbackend.log import address_text
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger
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
class ControlProtocol(LineReceiver):  # there is no raw data
    """One client of the channel: a line, an answer, in order.

    The first line that is no JSON object is the last one that is looked at: so a web page that makes a
    browser post to the port, which no firewall keeps it from, commands nothing.
    """

    # A stream's, which has more than ITransport.
    transport: Any
    delimiter = b"\n"
    MAX_LENGTH = LONGEST_LINE

    def __init__(
        self,
        executor: OperationExecutor,
        reactor: Any,
        connections: set[ControlProtocol],
        limited: RateLimitedLogger | None = None,
    ) -> None:
        self._executor = executor
        self._reactor = reactor
        self._connections = connections
        # Of all connections together: a web page makes one after the other.
        self._limited = limited or RateLimitedLogger(logger, reactor.callLater)
        self._peer = "nobody"
        self._over = False
        self._timer: Any = None

    def connectionMade(self) -> None:
        self._connections.add(self)
        self._peer = address_text(self.transport.getPeer())
        # While a client does not read, its next lines are not looked at.
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
        except Exception:  # noqa: BLE001  # one answer, whatever it is
            self._limited.log(logging.ERROR, "control failed", "control: %.200r failed", line, exc_info=True)
            answer = {"error": "not carried out, for a reason that is not yours: the server's log has it"}
        else:
            if OPERATIONS[request["do"]].changes:
                logger.info("%s -> ok in %.3f s", self._who_asked(request), perf_counter() - began)
        self._answer(answer)

    def _who_asked(self, request: dict[str, Any]) -> str:
        """The operation, who wants it, and its values, for the log."""
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
            logger.exception("control: an answer that JSON cannot carry: %.200r", answer)
            problem = "carried out, but the answer cannot be told: the server's log has it"
            text = json.dumps({"error": problem})
        self.transport.write(text.encode("ascii") + b"\n")

    def _refuse(self, sentence: str) -> None:
        """The last answer. What came with the line is forgotten.

        What still comes is read and dropped: if it were left unread, a reset could overtake the answer.
        """
        self._limited.log(logging.WARNING, "control closed", "control: connection closed: %s", sentence)
        self._over = True
        self._rest()
        self._answer({"error": sentence})
        self.transport.loseWriteConnection()
        self._timer = self._reactor.callLater(_LINGER, self.transport.abortConnection)

    def readConnectionLost(self) -> None:
        """The client has sent all that it has to send; it gets every answer."""
        if not self._over and self._rest():
            self._refuse("a line without its end: nothing was done for it")
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The last answer is on its way."""

    def _rest(self) -> bytes:
        """What has been received and not been looked at; it is forgotten."""
        return cast(bytes, self.clearLineBuffer())  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._connections.discard(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def _parsed(line: bytes) -> dict[str, Any]:
    """The JSON object of a line. ValueError, with a sentence, for anything else."""
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
    """What Python reads as JSON though it is none, or says two things."""


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
    """Where OperationExecutor can be reached from other programs of this host: a loopback port, or a Unix socket.

    `address` is a port of 127.0.0.1 (0 for a free one), or a path with a slash; ControlError for anything
    that other hosts could reach. A Unix socket is for its owner alone, and one that a dead server has left is
    replaced.
    """

    def __init__(self, executor: OperationExecutor, address: str | int, *, reactor: Any = None) -> None:
        self._where = control_address(address)
        if reactor is None:
            from twisted.internet import reactor as default

            reactor = default
        self._reactor = reactor
        self._factory = _ControlFactory(executor, reactor)
        self._port: IListeningPort | None = None

    @property
    def address(self) -> str:
        """Where it is, as SimulatorControl takes it; with the port that was picked, once it is open."""
        if self._port is None or isinstance(self._where, str):
            return address_text(self._where)
        host = cast(Any, self._port.getHost())
        return address_text((host.host, host.port))

    def announcement(self) -> str:
        """One line that says where, for standard output."""
        return f"discosbackend: controlled at {self.address}"

    def open(self) -> None:
        """Listen. ControlError when that is not possible."""
        try:
            if isinstance(self._where, str):
                _remove_stale_socket(Path(self._where))
                # Twisted sets the mode before it listens: no moment at which others could connect.
                self._port = self._reactor.listenUNIX(self._where, self._factory, mode=0o600)
            else:
                host, number = self._where
                self._port = self._reactor.listenTCP(number, self._factory, interface=host)
        except CannotListenError as problem:
            reason = getattr(problem.socketError, "strerror", None) or problem.socketError
            raise ControlError(f"control cannot listen on {self.address}: {reason}") from problem
        logger.info("controlled at %s", self.address)

    def close(self) -> Deferred[None]:
        """Stop listening and close the connections; nothing when it is not open."""
        port, self._port = self._port, None
        for connection in list(self._factory.connections):
            connection.transport.loseConnection()
        if port is None:
            return succeed(None)
        if isinstance(self._where, str) and not getattr(self._reactor, "running", True):
            # A reactor that has never run, because the server could not listen, would leave the file there.
            Path(self._where).unlink(missing_ok=True)
            return succeed(None)
        if isinstance(self._where, str):
            try:
                # Twisted removes the file, and closes nothing where somebody was faster.
                Path(self._where).touch()
            except OSError as problem:
                logger.warning("control: %s cannot be removed: %s", self._where, problem)
                return succeed(None)
        return cast("Deferred[None]", maybeDeferred(port.stopListening))


def _remove_stale_socket(path: Path) -> None:
    """Remove the socket of a server that is no more. ControlError when anything else is there."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        # Nothing is there, or listening will say what is wrong with the path.
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"control cannot listen on {path}: something that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.setblocking(False)
        try:
            knock.connect(str(path))
        except ConnectionRefusedError:
            logger.info("control: %s was left by a server that is gone, and is replaced", path)
            path.unlink()
            return
        except BlockingIOError:
            # Alive, but too busy to accept: a Unix socket says so at once.
            pass
        except OSError as problem:
            raise ControlError(f"control cannot listen on {path}: {problem.strerror}") from problem
    raise ControlError(f"control cannot listen on {path}: another server is controlled there")
