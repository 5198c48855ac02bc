"""The operations that control a simulated instrument: one method per operation.

The methods of SimulatorControl (client), the JSON requests (server), the command lines of `discos-backend-simctl`
(cli/simctl), and the table in docs/control.md are derived from them. executor executes the operations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, cast

from discosbackend.simulator.control.operation import Operation, StatusText, shown_value
from discosbackend.simulator.errors import ControlError
from discosbackend.toml import did_you_mean

__all__ = ["LONGEST_LINE", "OPERATIONS", "Operation", "Operations", "find_operation", "requested"]

LONGEST_LINE = 65536
"""The longest line of the channel in bytes, without its line end."""

MethodT = TypeVar("MethodT", bound=Callable[..., Any])

_OPERATIONS: dict[str, Operation] = {}

OPERATIONS: Mapping[str, Operation] = MappingProxyType(_OPERATIONS)
"""All operations, by the name in the key `do` of a request."""


def operation(words: str, *, changes: bool = True, text_key: str = "") -> Callable[[MethodT], MethodT]:
    """Make a method an operation: a call passes its arguments to ask(). For the parameters see Operation."""

    def decorate(method: MethodT) -> MethodT:
        row = Operation(method, words, changes=changes, text_key=text_key)
        _OPERATIONS[row.name] = row
        signature = inspect.signature(method)
        names = [parameter.name for parameter in row.parameters]

        @wraps(method)
        def call(self: Operations, *given: Any, **named: Any) -> Any:
            # Raises TypeError for arguments that do not fit the signature.
            signature.bind(self, *given, **named)
            answer = self.ask(row.name, **dict(zip(names, given, strict=False)), **named)
            return answer if row.result else None

        return cast(MethodT, call)

    return decorate


class Operations:
    """The operations that SimulatorControl inherits.

    They are only declared here: a call passes its arguments to ask(), which SimulatorControl implements. To add an
    operation, add a method here and one with the same name to OperationExecutor, and run `python docs/generate.py`.
    """

    def ask(self, operation: str, /, **values: Any) -> Any:
        """Execute the operation with this name and return its result."""
        raise NotImplementedError

    @operation("state", changes=False)
    def state(self) -> dict[str, Any]:
        """Return the whole state: instrument, clock, sky, pending start and stop, recordings and faults.

        Returns
        -------
        dict
            Times are Unix seconds, temperatures are K.
        """
        raise NotImplementedError

    # -- receiver and sky -------------------------------------------------------------------------------

    @operation("diode")
    def diode(self, on: bool) -> None:
        """Switch the noise diode of the receiver on or off."""

    @operation("tsys")
    def tsys(self, kelvin: Annotated[float, "K"], inputs: int | Iterable[int] | None = None) -> None:
        """Set the system temperature of these inputs, or of all.

        Parameters
        ----------
        kelvin
            Above 0.
        inputs
            2 * feed for left circular polarisation, 2 * feed + 1 for right circular. Default: all.
        """

    @operation("mark")
    def mark(self, kelvin: Annotated[float, "K"], inputs: int | Iterable[int] | None = None) -> None:
        """Set the temperature of the noise diode at these inputs, or at all.

        Parameters
        ----------
        kelvin
            Above 0.
        inputs
            2 * feed for left circular polarisation, 2 * feed + 1 for right circular. Default: all.
        """

    @operation("source")
    def source(
        self,
        name: str,
        level: Annotated[float, "K"] | None = None,
        feeds: int | Iterable[int] | None = None,
        transit: Annotated[float, "s"] | None = None,
        crossing: Annotated[float, "s"] | None = None,
        linear: Annotated[float, "0..1"] | None = None,
        angle: Annotated[float, "degrees"] | None = None,
    ) -> None:
        """Add a source to the sky, or change the given values of an existing source.

        A source with `transit` and `crossing` drifts through the beam; a source without them stays at its centre.

        Parameters
        ----------
        name
            A name of your choice, such as W3.
        level
            The continuum as antenna temperature at the centre of the beam.
        feeds
            The feeds that see the source.
        transit
            The time from the begin of an acquisition until the source is at the centre of the beam.
        crossing
            The time that the source takes from half power to half power.
        linear
            The fraction of linear polarisation.
        angle
            The angle of the polarisation.
        """

    @operation("line")
    def line(
        self,
        name: str,
        rest: Annotated[float | str, "MHz"],
        width: Annotated[float, "km/s"],
        peak: Annotated[float, "K"],
        velocity: Annotated[float, "km/s"] | None = None,
    ) -> None:
        """Add a spectral line to a source; the source is added if there is none.

        Parameters
        ----------
        name
            The name of the source.
        rest
            The rest frequency, or the name of a line, such as "HI".
        width
            The full width at half maximum.
        peak
            The peak as antenna temperature at the centre of the beam.
        velocity
            Positive: receding.
        """

    @operation("remove")
    def remove(self, name: str) -> None:
        """Remove a source and its lines from the sky."""

    @operation("clear-sky")
    def clear_sky(self) -> None:
        """Remove all sources from the sky."""

    # -- clock ------------------------------------------------------------------------------------------

    @operation("clock jump")
    def clock_jump(self, seconds: Annotated[float, "s"]) -> None:
        """Step the instrument's clock; negative: backwards."""

    @operation("clock drift")
    def clock_drift(self, ppm: Annotated[float, "parts per million"]) -> None:
        """Set the drift of the clock; positive: it runs fast."""

    @operation("clock offset")
    def clock_offset(self, seconds: Annotated[float, "s"]) -> None:
        """Set how far the clock is ahead of the true time; negative: it is behind."""

    # -- server -----------------------------------------------------------------------------------------

    @operation("fault")
    def fault(self, text: StatusText) -> None:
        """Make `status` report this text instead of `ok`."""

    @operation("fault clear", text_key="text")
    def fault_clear(self) -> None:
        """Clear the text set by `fault`."""

    @operation("pause")
    def pause(self) -> None:
        """Pause the server: it processes no request and sends no reply."""

    @operation("resume")
    def resume(self) -> None:
        """End the pause: the requests received meanwhile are answered in order."""

    @operation("reset")
    def reset(self) -> None:
        """Reset instrument, sky, clock and fault text, and end a pause; armed faults remain."""

    # -- faults of the protocol -------------------------------------------------------------------------

    @operation("faults add")
    def faults_add(self, kind: str, **keys: Any) -> int:
        """Arm a fault of the protocol and return its number.

        For example `faults_add("late", seconds=2, rate=0.1)`.

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
        raise NotImplementedError

    @operation("faults list", changes=False)
    def faults_list(self) -> list[dict[str, Any]]:
        """Return the armed faults: their numbers, their keys, and how often each matched and was applied."""
        raise NotImplementedError

    @operation("faults remove")
    def faults_remove(self, number: int) -> None:
        """Disarm a fault.

        Parameters
        ----------
        number
            The number that faults_add() returned.
        """

    @operation("faults clear")
    def faults_clear(self, seed: int | None = None) -> None:
        """Disarm all faults.

        Parameters
        ----------
        seed
            The seed of faults that are armed later.
        """


def find_operation(words: Sequence[str]) -> tuple[Operation, Sequence[str]]:
    """Return the operation that a command line names and the words after the name. Raise ControlError for others."""
    by_words = {row.words: row for row in OPERATIONS.values()}
    for count in (2, 1):
        found = by_words.get(" ".join(words[:count]))
        if found is not None and len(words) >= count:
            return found, words[count:]
    first = words[0]
    group = [other.partition(" ")[2] for other in by_words if other.startswith(f"{first} ")]
    if group:
        wrong = f", not {shown_value(words[1])}" if len(words) > 1 else ""
        raise ControlError(f"{first} needs one of {', '.join(group)}{wrong}")
    # The name of a request is accepted too: clock-jump.
    return _named(first), words[1:]


def requested(request: Mapping[str, Any]) -> tuple[Operation, dict[str, Any]]:
    """Return the operation of a request and its converted values. Raise ControlError for an invalid request."""
    values = dict(request)
    if "do" not in values:
        raise ControlError('do is missing: a request is such as {"do": "diode", "on": true}')
    row = _named(values.pop("do"))
    return row, row.checked(values)


def _named(name: Any) -> Operation:
    if isinstance(name, str) and name in OPERATIONS:
        return OPERATIONS[name]
    near = did_you_mean(str(name), OPERATIONS) or f": there are {', '.join(OPERATIONS)}"
    raise ControlError(f"no operation is called {shown_value(name)}{near}")
