"""SimulatorControl: control a simulated instrument from another program.

It uses blocking sockets, not Twisted. Its methods are the operations, which operations declares. The address of the
control channel is parsed here for the client and the server.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

from discosbackend.errors import reason_of
from discosbackend.line_socket import LineSocket, checked_wait
from discosbackend.log import address_text
from discosbackend.simulator.control.operations import OPERATIONS, Operations
from discosbackend.simulator.errors import ControlError

__all__ = ["SimulatorControl", "address_text", "control_address"]

_LOOPBACK = "127.0.0.1"

# Bytes of the longest answer; the state of an instrument has some thousands.
_LONGEST_ANSWER = 2**24

_RIGHT = "a port such as 4321, or the path of a Unix socket such as ./control.sock"


class SimulatorControl(Operations):
    """A connection to the control channel of a simulated instrument; a context manager.

    It has one method per operation. Several threads may share the connection.

    Parameters
    ----------
    address
        The address that the server announced: a port of this host, HOST:PORT, or the path of a Unix socket, which
        contains a slash.
    timeout
        Seconds to wait for the connection and for each answer.

    Raises
    ------
    ControlError
        From every method: if the server refuses the operation, with its reason; if a value is invalid; or if the
        server cannot be reached or does not answer, in which case the connection is closed.

    Examples
    --------
    For a server that was started with `discos-backend-server --control 4321`:

    >>> from discosbackend.simulator.control.client import SimulatorControl
    >>> with SimulatorControl(4321) as control:
    ...     control.diode(True)
    ...     control.tsys(80, inputs=[0, 1])
    ...     control.source("W3", level=2.5, feeds=0)
    ...     sky = control.state()["sky"]
    >>> sky["diode"]
    True
    >>> sky["tsys"]
    {'0': 80.0, '1': 80.0}
    >>> sky["sources"]["W3"]["level"]
    2.5
    """

    def __init__(self, address: str | int, *, timeout: float = 10.0) -> None:
        where = control_address(address)
        self.address = address_text(where)
        self.timeout = checked_wait(timeout)
        family = socket.AF_UNIX
        if not isinstance(where, str):
            family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        self._lines = LineSocket(connection, self.address, ControlError, longest=_LONGEST_ANSWER)
        try:
            connection.settimeout(timeout)
            connection.connect(where)
        except OSError as problem:
            self.close()
            reason = reason_of(problem)
            raise ControlError(
                f"nothing is controlled at {self.address}: {reason}: was the server started with --control?"
            ) from problem
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. All changes remain."""
        self._lines.close()

    def ask(self, operation: str, /, **values: Any) -> Any:
        """Execute an operation and return its result.

        The values are checked before they are sent.

        Parameters
        ----------
        operation
            A key of OPERATIONS, such as "clock-jump".
        **values
            The values of the operation by name. None stands for a value that is not given.

        Returns
        -------
        Any
            The result as JSON values; None if the operation has no result.
        """
        row = OPERATIONS[operation]
        given = row.checked({key: value for key, value in values.items() if value is not None})
        try:
            line = json.dumps({"do": operation, **given}, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as problem:
            raise ControlError(f"{row.words} cannot be sent: {problem}") from None
        answer = self._exchange(line)
        if "error" in answer:
            raise ControlError(str(answer["error"]))
        return answer["ok"]

    def _exchange(self, line: bytes) -> dict[str, Any]:
        with self._lines.turn():
            try:
                deadline = time.monotonic() + self.timeout
                # If the server has closed the connection, it may have sent the reason before.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self._lines.send(line, self.timeout)
                return self._read_answer(deadline)
            except BaseException as problem:
                closed_meanwhile = self._lines.closed
                # Close after an interrupt too. Otherwise the late answer would be taken for the next one.
                self.close()
                if isinstance(problem, TimeoutError):
                    raise ControlError(f"no answer from {self.address} within {self.timeout:g} s") from None
                if closed_meanwhile and isinstance(problem, (OSError, ControlError)):
                    raise ControlError(f"the connection to {self.address} was closed before the answer came") from None
                if isinstance(problem, OSError):
                    reason = reason_of(problem)
                    raise ControlError(f"connection to {self.address} lost: {reason}") from problem
                raise

    def _read_answer(self, deadline: float) -> dict[str, Any]:
        line = self._lines.read_line(deadline)
        try:
            answer = json.loads(line.decode())
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not answer.keys() & {"ok", "error"}:
            other = "speaks the DISCOS protocol" if line[:1] == b"!" else "is no control"
            raise ControlError(f"{self.address} {other}: give the address of the server's --control")
        return answer


def control_address(address: str | int) -> str | tuple[str, int]:
    """Parse the address of a control channel.

    Parameters
    ----------
    address
        A port of this host, HOST:PORT with a loopback address, or the path of a Unix socket, which contains a slash.

    Returns
    -------
    str or tuple[str, int]
        The path, or a loopback address and a port.

    Raises
    ------
    ControlError
        If it is none of these. Other hosts must not reach the channel, because it has no password.
    """
    text = str(address)
    if "/" in text:
        if text.endswith("/") or "\0" in text:
            raise ControlError(f"{text!r} is no path of a socket: say {_RIGHT}")
        return text
    host, colon, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not is_port or (colon and not host):
        raise ControlError(f"{text[:60]!r} is no address of a control: say {_RIGHT}")
    if host in ("", "localhost"):
        host = _LOOPBACK
    try:
        loopback = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        loopback = None
    if loopback is None or not loopback.is_loopback:
        raise ControlError(
            f"{text[:60]!r} is not this host's own: control has no password and is on {_LOOPBACK} only: say {_RIGHT}"
        )
    return str(loopback), int(port)
