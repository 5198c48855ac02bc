"""SimulatorControl: control a simulated instrument from another program, with one method per operation.

It uses blocking sockets, not Twisted. The address of the control channel is parsed here for the client and the
server. The operations and their values are in operations.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterable
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

from discosbackend.errors import reason_of
from discosbackend.line_socket import LineSocket, checked_wait
from discosbackend.log import address_text
from discosbackend.simulator.control.operations import OPERATIONS
from discosbackend.simulator.errors import ControlError

__all__ = ["SimulatorControl", "address_text", "control_address"]

_LOOPBACK = "127.0.0.1"

# Bytes of the longest answer; the state of an instrument has some thousands.
_LONGEST_ANSWER = 2**24

_RIGHT = "a port such as 4321, or the path of a Unix socket such as ./control.sock"


class SimulatorControl:
    """A connection to the control channel of a simulated instrument; a context manager.

    Several threads may share it. If an optional argument is omitted, its setting is not changed.

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

    # -- state ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the whole state: instrument, clock, sky, pending times, recordings and faults.

        Returns
        -------
        dict
            Times are Unix seconds, temperatures are K. docs/control.md lists the keys.
        """
        found: dict[str, Any] = self.ask("state")
        return found

    def reset(self) -> None:
        """Restore the initial state of the instrument and end a pause. Armed faults remain."""
        self.ask("reset")

    def pause(self) -> None:
        """Pause the server: it processes no request and sends no reply."""
        self.ask("pause")

    def resume(self) -> None:
        """End the pause: the requests received meanwhile are answered in order."""
        self.ask("resume")

    def fault(self, text: str) -> None:
        """Make `status` report this text instead of `ok`."""
        self.ask("fault", text=text)

    def fault_clear(self) -> None:
        """Make `status` report no fault."""
        self.ask("fault-clear")

    # -- receiver and sky -------------------------------------------------------------------------------

    def diode(self, on: bool) -> None:
        """Switch the noise diode of the receiver on or off."""
        self.ask("diode", on=on)

    def tsys(self, kelvin: float, inputs: int | Iterable[int] | None = None) -> None:
        """Set the system temperature.

        Parameters
        ----------
        kelvin
            In K, above 0.
        inputs
            The numbers of the inputs: 2 * feed for left circular, 2 * feed + 1 for right circular. Default: all.
        """
        self.ask("tsys", kelvin=kelvin, inputs=inputs)

    def mark(self, kelvin: float, inputs: int | Iterable[int] | None = None) -> None:
        """Set the temperature of the noise diode; the parameters are those of tsys()."""
        self.ask("mark", kelvin=kelvin, inputs=inputs)

    def source(
        self,
        name: str,
        level: float | None = None,
        feeds: int | Iterable[int] | None = None,
        transit: float | None = None,
        crossing: float | None = None,
        linear: float | None = None,
        angle: float | None = None,
    ) -> None:
        """Add a source to the sky, or change the given values of an existing source.

        Parameters
        ----------
        name
            A name of your choice.
        level
            The continuum in K of antenna temperature at the centre of the beam.
        feeds
            The feeds that see the source.
        transit
            Seconds from the begin of an acquisition until the source is at the centre of the beam. A source with
            `transit` and `crossing` drifts through the beam; a source without them stays at its centre.
        crossing
            Seconds that the source takes from half power to half power.
        linear
            The fraction of linear polarisation, 0 to 1.
        angle
            The angle of the polarisation in degrees.
        """
        self.ask(
            "source",
            name=name,
            level=level,
            feeds=feeds,
            transit=transit,
            crossing=crossing,
            linear=linear,
            angle=angle,
        )

    def line(self, name: str, rest: float | str, width: float, peak: float, velocity: float | None = None) -> None:
        """Add a spectral line to a source. A source of this name is added if there is none.

        Parameters
        ----------
        name
            The name of the source.
        rest
            The rest frequency in MHz, or "HI", "methanol" or "water".
        width
            The full width at half maximum in km/s.
        peak
            The peak in K of antenna temperature at the centre of the beam.
        velocity
            The velocity in km/s; positive: receding.
        """
        self.ask("line", name=name, rest=rest, width=width, peak=peak, velocity=velocity)

    def remove(self, name: str) -> None:
        """Remove a source and its lines from the sky."""
        self.ask("remove", name=name)

    def clear_sky(self) -> None:
        """Remove all sources from the sky."""
        self.ask("clear-sky")

    # -- clock ------------------------------------------------------------------------------------------

    def clock_jump(self, seconds: float) -> None:
        """Step the instrument's clock by this many seconds; negative: backwards."""
        self.ask("clock-jump", seconds=seconds)

    def clock_drift(self, ppm: float) -> None:
        """Set the drift of the clock in parts per million; positive: it runs fast."""
        self.ask("clock-drift", ppm=ppm)

    def clock_offset(self, seconds: float) -> None:
        """Set how many seconds the clock is ahead of the true time; negative: it is behind."""
        self.ask("clock-offset", seconds=seconds)

    # -- faults of the protocol -------------------------------------------------------------------------

    def faults_add(self, kind: str, **keys: Any) -> int:
        """Arm a fault, for example `faults_add("late", seconds=2, rate=0.1)`.

        Parameters
        ----------
        kind
            The kind of fault.
        **keys
            The other keys of the fault as in a script; docs/faults.md lists them.

        Returns
        -------
        int
            The number of the fault, for faults_remove().
        """
        number: int = self.ask("faults-add", kind=kind, **keys)
        return number

    def faults_list(self) -> list[dict[str, Any]]:
        """Return the armed faults: their numbers, their keys, and how often each has matched and was applied."""
        found: list[dict[str, Any]] = self.ask("faults-list")
        return found

    def faults_remove(self, number: int) -> None:
        """Disarm a fault."""
        self.ask("faults-remove", number=number)

    def faults_clear(self, seed: int | None = None) -> None:
        """Disarm all faults; with `seed`, faults that are armed later use this seed."""
        self.ask("faults-clear", seed=seed)

    # -- the wire ---------------------------------------------------------------------------------------

    def ask(self, operation: str, **values: Any) -> Any:
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
