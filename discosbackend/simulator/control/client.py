"""SimulatorControl: control a simulated instrument from another program, one method per operation.

Sockets only, without Twisted. The address of the channel is parsed here, for both ends. The operations and
their values are in operations.
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
    """A connection to the control of a simulated instrument, as a context manager.

        with SimulatorControl(4321) as control:
            control.diode(True)

    `address` is what the server was started with or announced: a port of this host, HOST:PORT, or the path of
    a Unix socket, with a slash. `timeout` is in seconds, for the connection and for each answer. Every method
    raises ControlError, with the server's sentence, for what is refused, and for a server that cannot be
    reached or does not answer; the connection is closed then. A value that is left out stays as it is.
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
            reason = problem.strerror or str(problem)
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
        """Close the connection; what was changed stays so."""
        self._lines.close()

    # -- state ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that there is to know, of instrument, clock, sky, pending times, recordings and faults."""
        found: dict[str, Any] = self.ask("state")
        return found

    def reset(self) -> None:
        """As when the instrument is switched on; a pause ends, armed faults stay."""
        self.ask("reset")

    def pause(self) -> None:
        """Freeze the protocol: nothing that clients send is looked at, and no reply leaves."""
        self.ask("pause")

    def resume(self) -> None:
        """End the pause: all that came meanwhile is answered, in order."""
        self.ask("resume")

    def fault(self, text: str) -> None:
        """Have `status` report this text instead of `ok`."""
        self.ask("fault", text=text)

    def fault_clear(self) -> None:
        """Have `status` report no fault."""
        self.ask("fault-clear")

    # -- receiver and sky -------------------------------------------------------------------------------

    def diode(self, on: bool) -> None:
        """Switch the noise diode, as the receiver does."""
        self.ask("diode", on=on)

    def tsys(self, kelvin: float, inputs: int | Iterable[int] | None = None) -> None:
        """Change the system temperature in K, of all inputs or of these: 2 * feed, + 1 for right circular."""
        self.ask("tsys", kelvin=kelvin, inputs=inputs)

    def mark(self, kelvin: float, inputs: int | Iterable[int] | None = None) -> None:
        """Change the noise diode's temperature in K, at all inputs or at these."""
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
        """Put a source into the sky, or change what is given of one that is there.

        `level` is its continuum in K of antenna temperature in mid-beam, `feeds` those in whose beams it is.
        With `transit` and `crossing`, in s, it drifts: it is in mid-beam so long after an acquisition began,
        and takes so long from half power to half power. `linear` is the fraction that is linearly polarised,
        0 to 1, at `angle` degrees.
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
        """Add a spectral line to a source, which is put in where it is missing.

        `rest` in MHz, or "HI", "methanol", "water"; `width` in km/s at half its height; `peak` in K;
        `velocity` in km/s, positive is away from us.
        """
        self.ask("line", name=name, rest=rest, width=width, peak=peak, velocity=velocity)

    def remove(self, name: str) -> None:
        """Take a source, with its lines, out of the sky."""
        self.ask("remove", name=name)

    def clear_sky(self) -> None:
        """Take every source out of the sky."""
        self.ask("clear-sky")

    # -- clock ------------------------------------------------------------------------------------------

    def clock_jump(self, seconds: float) -> None:
        """Step the instrument's clock by so many s, backwards with a negative number."""
        self.ask("clock-jump", seconds=seconds)

    def clock_drift(self, ppm: float) -> None:
        """Have the clock run fast by so many parts in a million."""
        self.ask("clock-drift", ppm=ppm)

    def clock_offset(self, seconds: float) -> None:
        """Have the clock ahead of the true time by so many s from now on."""
        self.ask("clock-offset", seconds=seconds)

    # -- faults of the protocol -------------------------------------------------------------------------

    def faults_add(self, kind: str, **keys: Any) -> int:
        """Arm a fault with the keys of a script: `faults_add("late", seconds=2, rate=0.1)`; its number."""
        number: int = self.ask("faults-add", kind=kind, **keys)
        return number

    def faults_list(self) -> list[dict[str, Any]]:
        """The faults that are armed, each with its number, its keys, and how often it matched and struck."""
        found: list[dict[str, Any]] = self.ask("faults-list")
        return found

    def faults_remove(self, number: int) -> None:
        """Disarm a fault."""
        self.ask("faults-remove", number=number)

    def faults_clear(self, seed: int | None = None) -> None:
        """Disarm every fault; `seed` is for what is armed from now on."""
        self.ask("faults-clear", seed=seed)

    # -- the wire ---------------------------------------------------------------------------------------

    def ask(self, operation: str, **values: Any) -> Any:
        """Have an operation of the table carried out, by its name; None values are left out. What it answers
        with.

        A value that the table refuses is not sent.
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
                # Who closes without being asked may have said why.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self._lines.send(line, self.timeout)
                return self._read_answer(deadline)
            except BaseException as problem:
                closed_meanwhile = self._lines.closed
                # After an interrupt too: the answer that was on its way would be taken for the next one's.
                self.close()
                if isinstance(problem, TimeoutError):
                    raise ControlError(f"no answer from {self.address} within {self.timeout:g} s") from None
                if closed_meanwhile and isinstance(problem, (OSError, ControlError)):
                    raise ControlError(f"the connection to {self.address} was closed before the answer came") from None
                if isinstance(problem, OSError):
                    reason = problem.strerror or str(problem)
                    raise ControlError(f"connection to {self.address} lost: {reason}") from problem
                raise

    def _read_answer(self, deadline: float) -> dict[str, Any]:
        line = self._lines.read_line(deadline)
        try:
            answer = json.loads(line.decode())
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not answer.keys() & {"ok", "error"}:
            other = "speaks the DISCOS protocol" if line[:1] == b"!" else "is no control"
            raise ControlError(f"{self.address} {other}: give the address of the server's --control")
        return answer


def control_address(address: str | int) -> str | tuple[str, int]:
    """Where a server is controlled: a path, or a loopback address and a port.

    ControlError, with what would be right, for what is neither, and for what other machines could reach.
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
