"""OperationExecutor: executes the control operations on a simulated instrument.

The operations and their values are defined in operations; server receives the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

from discosbackend.errors import BackendError
from discosbackend.schema import read
from discosbackend.simulator.clock import SimulatedClock
from discosbackend.simulator.control.operations import requested
from discosbackend.simulator.errors import ControlError, SkyError
from discosbackend.simulator.faults.script import Armed, Faults, fault_of
from discosbackend.simulator.instrument.model import Instrument
from discosbackend.simulator.signal.sky import Line, Sky, Source

__all__ = ["ControllableInstrument", "OperationExecutor", "PausableServer"]


class ControllableInstrument(Protocol):
    """The interface of a simulated instrument that OperationExecutor uses; SimulatedBackend implements it."""

    sky: Sky
    fault: str

    @property
    def clock(self) -> SimulatedClock:
        """Its clock."""

    @property
    def instrument(self) -> Instrument:
        """Its description."""

    def start_over(self) -> None:
        """Restore the initial state."""

    def state(self) -> dict[str, Any]:
        """Return the whole state as JSON values."""


class PausableServer(Protocol):
    """The interface of a server that OperationExecutor uses; FaultyFactory implements it."""

    @property
    def paused(self) -> bool:
        """Whether it is paused. A restart ends a pause."""

    def pause(self) -> None:
        """Process no requests and send no replies until resume()."""

    def resume(self) -> None:
        """End the pause."""


class OperationExecutor:
    """Executes control operations: one method for each operation of the table.

    Call it in the reactor's thread.

    Parameters
    ----------
    backend
        The simulated instrument.
    faults
        The faults that `server` applies. Default: the operations on faults are refused.
    server
        The server that `pause` pauses. Default: `pause` and `resume` are refused.
    extra_state
        Returns further entries for the state.

    Raises
    ------
    ControlError
        From every method, if the operation is not possible: the message says what is wrong and what is accepted.
    """

    def __init__(
        self,
        backend: ControllableInstrument,
        *,
        faults: Faults | None = None,
        server: PausableServer | None = None,
        extra_state: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._backend = backend
        self._given_faults = faults
        self._given_server = server
        self._extra_state = extra_state

    def execute(self, request: Mapping[str, Any]) -> Any:
        """Execute a request such as {"do": "tsys", "kelvin": 80} and return its result as JSON values."""
        operation, values = requested(request)
        return getattr(self, operation.method)(**values)

    # -- state ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the state of the instrument, whether the server is paused, and the faults with their seed."""
        faults = self._given_faults
        armed = None if faults is None else {"seed": faults.seed, "armed": list(map(_armed_to_dict, faults.armed))}
        extra = {} if self._extra_state is None else self._extra_state()
        paused = self._given_server is not None and self._given_server.paused
        return {**self._backend.state(), "paused": paused, "faults": armed, **extra}

    def reset(self) -> None:
        """Reset instrument, sky, clock and fault text, and end a pause.

        Armed faults remain, and so does the error of the clock that they cause.
        """
        with _refusals():
            self._backend.start_over()
        if self._given_server is not None:
            self._given_server.resume()

    def pause(self) -> None:
        """Pause the server; do nothing if it is paused."""
        self._server.pause()

    def resume(self) -> None:
        """End the pause; do nothing if there is none."""
        self._server.resume()

    @property
    def _server(self) -> PausableServer:
        if self._given_server is None:
            raise ControlError("pause is not possible: this server was not made to have it")
        return self._given_server

    def fault(self, text: str) -> None:
        """Make status report this text."""
        self._backend.fault = text

    def fault_clear(self) -> None:
        """Clear the text set by fault()."""
        self._backend.fault = ""

    # -- receiver and sky -------------------------------------------------------------------------------

    def diode(self, on: bool) -> None:
        """Switch the noise diode. The interleave of cal-on is not changed."""
        self._backend.sky = replace(self._backend.sky, diode=on)

    def tsys(self, kelvin: float, inputs: Iterable[int] | None = None) -> None:
        """Set the system temperature of these inputs, or of all."""
        with _refusals():
            self._backend.sky = self._backend.sky.with_tsys(kelvin, self._inputs(inputs))

    def mark(self, kelvin: float, inputs: Iterable[int] | None = None) -> None:
        """Set the temperature of the noise diode at these inputs, or at all."""
        with _refusals():
            self._backend.sky = self._backend.sky.with_mark(kelvin, self._inputs(inputs))

    def _inputs(self, inputs: Iterable[int] | None) -> Iterable[int]:
        instrument = self._backend.instrument
        # Include all feeds that set-enable accepts, also those that no configuration has.
        feeds = [1]
        for configuration in (instrument.unconfigured, *instrument.configurations.values()):
            feeds.append(configuration.limits.feeds if configuration.limits is not None else 0)
            feeds += [feed + 1 for feed in configuration.feeds]
        there = range(2 * max(feeds))
        if inputs is None:
            return there
        chosen = list(inputs)
        for number in chosen:
            if number not in there:
                raise ControlError(f"input {number} is none of this instrument: it has 0 to {there[-1]}")
        return chosen

    def source(self, name: str, **values: Any) -> None:
        """Add a source, or change the given values of an existing one."""
        with _refusals():
            source = replace(self._backend.sky.sources.get(name, Source()), **values)
            self._backend.sky = self._backend.sky.with_source(name, source)

    def line(self, name: str, **values: Any) -> None:
        """Add a line to a source; add the source if there is none of this name."""
        before = self._backend.sky.sources.get(name, Source())
        with _refusals():
            line = read(Line, values, "", SkyError)
            source = replace(before, lines=(*before.lines, line))
            self._backend.sky = self._backend.sky.with_source(name, source)

    def remove(self, name: str) -> None:
        """Remove a source from the sky."""
        with _refusals():
            self._backend.sky = self._backend.sky.without_source(name)

    def clear_sky(self) -> None:
        """Remove all sources from the sky; the diode, Tsys and the marks are not changed."""
        self._backend.sky = replace(self._backend.sky, sources=MappingProxyType({}))

    # -- clock ------------------------------------------------------------------------------------------

    def clock_jump(self, seconds: float) -> None:
        """Step the clock."""
        with _refusals():
            self._backend.clock.jump(seconds)

    def clock_drift(self, ppm: float) -> None:
        """Set the drift of the clock."""
        with _refusals():
            self._backend.clock.set_drift(ppm)

    def clock_offset(self, seconds: float) -> None:
        """Set how far the clock is ahead of the true time."""
        with _refusals():
            self._backend.clock.set_offset(seconds)

    # -- faults of the protocol -------------------------------------------------------------------------

    def faults_add(self, **keys: Any) -> int:
        """Arm a fault and return its number."""
        with _refusals():
            return self._faults.add(fault_of(keys))

    def faults_list(self) -> list[dict[str, Any]]:
        """Return the armed faults."""
        return list(map(_armed_to_dict, self._faults.armed))

    def faults_remove(self, number: int) -> None:
        """Disarm a fault."""
        there = [armed.number for armed in self._faults.armed]
        if number not in there:
            known = ", ".join(map(str, there)) or "none"
            raise ControlError(f"no fault has the number {number}: there is {known}")
        self._faults.remove(number)

    def faults_clear(self, seed: int | None = None) -> None:
        """Disarm all faults."""
        self._faults.clear(seed)

    @property
    def _faults(self) -> Faults:
        if self._given_faults is None:
            raise ControlError("faults are not possible: this server was not made to have any")
        return self._given_faults


@contextmanager
def _refusals() -> Iterator[None]:
    """Convert an error of the sky, the clock, the faults or the instrument to a ControlError with the same text."""
    try:
        yield
    except (BackendError, ValueError) as problem:
        raise ControlError(str(problem)) from None


def _armed_to_dict(armed: Armed) -> dict[str, Any]:
    return {"number": armed.number, **armed.fault.table, "matched": armed.matched, "applied": armed.applied}
