"""OperationExecutor: what each operation does to a simulated instrument.

The table of operations, and what their values may be, is in operations; how requests arrive is in server.
Nothing here knows of connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

from discosbackend.errors import BackendError
from discosbackend.simulator.clock import SimulatedClock
from discosbackend.simulator.control.operations import requested
from discosbackend.simulator.errors import ControlError
from discosbackend.simulator.faults.script import Armed, Faults, fault_of
from discosbackend.simulator.instrument.model import Instrument
from discosbackend.simulator.signal.sky import Sky, Source, source_of

__all__ = ["ControllableInstrument", "OperationExecutor", "PausableServer"]


class ControllableInstrument(Protocol):
    """What OperationExecutor need of a simulated instrument; SimulatedBackend has it."""

    sky: Sky
    fault: str

    @property
    def clock(self) -> SimulatedClock:
        """Its clock."""

    @property
    def instrument(self) -> Instrument:
        """Which instrument it is."""

    def start_over(self) -> None:
        """All of it as when it was made."""

    def state(self) -> dict[str, Any]:
        """All of it, in JSON's terms."""


class PausableServer(Protocol):
    """What OperationExecutor need of a server; FaultyFactory has it."""

    @property
    def paused(self) -> bool:
        """Whether it is frozen; a restart thaws it too."""

    def pause(self) -> None:
        """Freeze it."""

    def resume(self) -> None:
        """Thaw it."""


class OperationExecutor:
    """What can be done to a simulated instrument from outside: one method an operation of the table.

    `faults` are those that `server` draws from, which is what is paused; what is None is refused. `extra_state`
    adds to the state. To be called where the instrument lives, in the reactor's thread. Every method raises
    ControlError, with what is wrong and what would be right, for what cannot be done.
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
        """Do what a request asks for, such as {"do": "tsys", "kelvin": 80}; the answer, in JSON's terms."""
        operation, values = requested(request)
        return getattr(self, operation.method)(**values)

    # -- state ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The instrument's state, whether the protocol is paused, and the faults with their seed."""
        faults = self._given_faults
        armed = None if faults is None else {"seed": faults.seed, "armed": list(map(_armed_to_dict, faults.armed))}
        extra = {} if self._extra_state is None else self._extra_state()
        paused = self._given_server is not None and self._given_server.paused
        return {**self._backend.state(), "paused": paused, "faults": armed, **extra}

    def reset(self) -> None:
        """As when it was made, and no longer paused. Armed faults are the tester's, and what they do stays."""
        with _refusals():
            self._backend.start_over()
        if self._given_faults is not None:
            self._given_faults.reapply()
        if self._given_server is not None:
            self._given_server.resume()

    def pause(self) -> None:
        """Freeze the protocol; nothing when it is frozen already."""
        self._server.pause()

    def resume(self) -> None:
        """Thaw it; nothing when it is not frozen."""
        self._server.resume()

    @property
    def _server(self) -> PausableServer:
        if self._given_server is None:
            raise ControlError("pause is not possible: this server was not made to have it")
        return self._given_server

    def fault(self, text: str) -> None:
        """Have status report this."""
        self._backend.fault = text

    def fault_clear(self) -> None:
        """Have status report no fault."""
        self._backend.fault = ""

    # -- receiver and sky -------------------------------------------------------------------------------

    def diode(self, on: bool) -> None:
        """Switch the noise diode. What cal-on has set to be interleaved stays so."""
        self._backend.sky = replace(self._backend.sky, diode=on)

    def tsys(self, kelvin: float, inputs: Iterable[int] | None = None) -> None:
        """Change the system temperature of these inputs, or of all."""
        with _refusals():
            self._backend.sky = self._backend.sky.with_tsys(kelvin, self._inputs(inputs))

    def mark(self, kelvin: float, inputs: Iterable[int] | None = None) -> None:
        """Change the noise diode's temperature at these inputs, or at all."""
        with _refusals():
            self._backend.sky = self._backend.sky.with_mark(kelvin, self._inputs(inputs))

    def _inputs(self, inputs: Iterable[int] | None) -> Iterable[int]:
        instrument = self._backend.instrument
        # Feeds that set-enable accepts count, whether or not a configuration has them.
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
        """Put a source in, or change what is given of one that is there."""
        if "feeds" in values:
            values["feeds"] = tuple(values["feeds"])
        with _refusals():
            source = replace(self._backend.sky.sources.get(name, Source()), **values)
            self._backend.sky = self._backend.sky.with_source(name, source)

    def line(self, name: str, **values: Any) -> None:
        """Add a line to a source; one that is missing is put in."""
        before = self._backend.sky.sources.get(name, Source())
        with _refusals():
            (line,) = source_of({"lines": [values]}).lines
            source = replace(before, lines=(*before.lines, line))
            self._backend.sky = self._backend.sky.with_source(name, source)

    def remove(self, name: str) -> None:
        """Take a source out of the sky."""
        with _refusals():
            self._backend.sky = self._backend.sky.without_source(name)

    def clear_sky(self) -> None:
        """Take every source out of the sky; diode, Tsys and marks stay."""
        self._backend.sky = replace(self._backend.sky, sources=MappingProxyType({}))

    # -- clock ------------------------------------------------------------------------------------------

    def clock_jump(self, seconds: float) -> None:
        """Step the clock."""
        with _refusals():
            self._backend.clock.jump(seconds)

    def clock_drift(self, ppm: float) -> None:
        """Have the clock run fast."""
        with _refusals():
            self._backend.clock.set_drift(ppm)

    def clock_offset(self, seconds: float) -> None:
        """Have the clock ahead of the true time."""
        with _refusals():
            self._backend.clock.set_offset(seconds)

    # -- faults of the protocol -------------------------------------------------------------------------

    def faults_add(self, **keys: Any) -> int:
        """Arm a fault; its number."""
        with _refusals():
            return self._faults.add(fault_of(keys))

    def faults_list(self) -> list[dict[str, Any]]:
        """What is armed."""
        return list(map(_armed_to_dict, self._faults.armed))

    def faults_remove(self, number: int) -> None:
        """Disarm a fault."""
        there = [armed.number for armed in self._faults.armed]
        if number not in there:
            known = ", ".join(map(str, there)) or "none"
            raise ControlError(f"no fault has the number {number}: there is {known}")
        self._faults.remove(number)

    def faults_clear(self, seed: int | None = None) -> None:
        """Disarm all of them."""
        self._faults.clear(seed)

    @property
    def _faults(self) -> Faults:
        if self._given_faults is None:
            raise ControlError("faults are not possible: this server was not made to have any")
        return self._given_faults


@contextmanager
def _refusals() -> Iterator[None]:
    """What the sky, the clock, the faults or the instrument refuse, in their own words."""
    try:
        yield
    except (BackendError, ValueError) as problem:
        raise ControlError(str(problem)) from None


def _armed_to_dict(armed: Armed) -> dict[str, Any]:
    return {"number": armed.number, **armed.fault.table, "matched": armed.matched, "applied": armed.applied}
