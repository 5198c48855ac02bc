"""Sensors: what an instrument reports about its health, declared once on the class of a backend.

A Sensor in the body of a class is a descriptor. Each instance has a BoundSensor for it, which has the value, its state
and its time. Threads may set and read sensors. There is no timer: a timeout is noticed when a sensor is read.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, overload

from discosbackend.errors import UnsendableError
from discosbackend.grammar import plain as without_commas
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger
from discosbackend.ticks import Ticks
from discosbackend.values import plain_number

__all__ = ["STATES", "BoundSensor", "Reading", "Sensor", "State", "sensors_of", "status_text"]

logger = logging.getLogger(__name__)

State: TypeAlias = Literal["unknown", "nominal", "warn", "error", "failure", "inactive", "unreachable"]

STATES: tuple[State, ...] = get_args(State)
"""The states of a sensor, which are those of KATCP."""

Value: TypeAlias = float | bool | str | None

Limits: TypeAlias = tuple[float | None, float | None]

# The states that status_text() reports, the worst first.
_REPORTED: tuple[State, ...] = ("error", "failure", "unreachable", "warn", "unknown")
# The states that the limits give, and in which there is a value.
_MEASURED = ("nominal", "warn", "error")

_TYPE_OF: dict[object, str] = {float: "float", int: "integer", bool: "boolean", str: "text"}
_NUMBERS = ("float", "integer")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)
# The clients of `status` split at commas and know no escapes.
_UNIT = re.compile(r"[ -+\--\[\]-~]*")
_LONGEST_TEXT = 32

# The attribute in which an instance has its sensors.
_ATTRIBUTE = "__discos_sensors__"
# Held while an instance gets its sensors.
_binding = threading.RLock()


class Reading(NamedTuple):
    """The value of a sensor, with its state and its time, which belong together."""

    value: Value
    """The value. None before the first one, and if the sensor gives no valid value."""
    state: State
    """One of STATES."""
    time: Ticks | None
    """The time of the measurement. None before the first one."""


class Sensor:
    """Declares a sensor on the class of a backend: `temperature = Sensor("adc0.temperature", "degC", warn=70.0)`.

    In each instance of the class, the attribute is a `BoundSensor` of this instance.

    Parameters
    ----------
    name
        The name: a letter, then letters, digits, `_`, `.` and `-`, at most 64 characters.
    unit
        The unit, in printable ASCII without comma and backslash.
    description
        A description for people.
    type
        The type of the values: float, int, bool or str, or "float", "integer", "boolean" or "text".
    warn, error
        Limits: the largest value that is still nominal, and the largest that is not yet an error. Each can also be a
        pair (smallest, largest), where either can be None. None: no limit.
    timeout
        How long after set() the state becomes "unknown", in s, unless it is "inactive". None: no timeout.
    clock
        The clock for the timeout: a function that returns seconds. Default: time.monotonic.

    Raises
    ------
    ValueError
        If the name, the unit, the type, a limit or the timeout is not valid.
    TypeError
        If the name is not a text.

    Examples
    --------
    >>> from discosbackend import Backend, Sensor, status_text
    >>> class MyBackend(Backend):
    ...     temperature = Sensor("adc0.temperature", "degC", "FPGA temperature", warn=70.0, error=85.0)
    >>> backend = MyBackend()
    >>> backend.temperature.set(91.25)
    >>> backend.temperature.reading.state
    'error'
    >>> status_text(backend)
    'adc0.temperature error 91.25 degC'
    """

    def __init__(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        type: type | str = "float",  # noqa: A002  # the word that Argument uses for it too
        warn: float | Limits | None = None,
        error: float | Limits | None = None,
        timeout: float | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a sensor needs its name: Sensor('adc0.temperature'), not {name!r}")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a sensor: a letter, then letters, digits, _, . and -, 64 at most")
        if not _UNIT.fullmatch(unit):
            raise ValueError(f"unit {unit!r} of sensor {name} must be printable ASCII without a comma, such as degC")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout {timeout!r} of sensor {name} must be more than 0 s")
        kind = _TYPE_OF.get(type, type)
        if kind not in _TYPE_OF.values():
            raise ValueError(f"type {type!r} of sensor {name} is none of {', '.join(_TYPE_OF.values())}")
        self.name = name
        self.unit = unit
        self.description = description
        self.type = str(kind)
        self.warn = self._limits("warn", warn)
        self.error = self._limits("error", error)
        self.timeout = timeout
        self.clock = time.monotonic if clock is None else clock
        if _is_outside(self.error[0], self.warn, low=True) or _is_outside(self.error[1], self.warn, low=False):
            raise ValueError(f"error {error!r} of sensor {name} is within its warn {warn!r}")

    def _limits(self, word: str, limits: Any) -> Limits:
        """Return limits as a pair."""
        if limits is None:
            return None, None
        if self.type not in _NUMBERS:
            raise ValueError(f"only an integer or a float has limits, sensor {self.name} is a {self.type}")
        pair = limits if isinstance(limits, tuple) else (None, limits)
        if len(pair) != 2 or not all(each is None or _is_finite(each) for each in pair) or _is_reversed(*pair):
            raise ValueError(f"{word} {limits!r} of sensor {self.name} must be a number or a pair of numbers")
        return pair

    @overload
    def __get__(self, backend: None, owner: object = None) -> Sensor: ...

    @overload
    def __get__(self, backend: object, owner: object = None) -> BoundSensor: ...

    def __get__(self, backend: object, owner: object = None) -> Sensor | BoundSensor:
        return self if backend is None else _bound(backend, self.name)[self.name]

    def __set__(self, backend: object, value: object) -> None:
        if isinstance(value, Sensor):
            _refuse_fields(type(backend))
        attribute = next((name for name, each in _declared(type(backend)).items() if each is self), self.name)
        raise AttributeError(f"{attribute} is a sensor: write .{attribute}.set({value!r})")

    def reading_of(self, value: object, state: State | None, when: object) -> Reading:
        """Return the reading of a value. Raise TypeError or ValueError if set() refuses it."""
        plain = self._plain(value)
        if state is not None and state not in STATES:
            raise ValueError(f"sensor {self.name}: state {state!r} is none of {', '.join(STATES)}")
        if plain is None and state in _MEASURED:
            raise ValueError(f"sensor {self.name}: state {state!r} needs a value, not {value!r}")
        return Reading(plain, state or self._state(value, plain), Ticks.now() if when is None else Ticks.of(when))

    def _state(self, given: object, value: Value) -> State:
        """Return the state of a value by the limits."""
        if value is None:
            return "unknown" if given is None else "failure"
        if not isinstance(value, str):
            for state, (low, high) in (("error", self.error), ("warn", self.warn)):
                if (low is not None and value < low) or (high is not None and value > high):
                    return "error" if state == "error" else "warn"
        return "nominal"

    def _plain(self, value: object) -> Value:
        """Convert a value to the sensor's type; None for None and for a number that is not finite."""
        if value is None:
            return None
        if self.type == "text":
            if isinstance(value, str):
                return str(value)
            raise TypeError(f"sensor {self.name}: {value!r} is no text")
        try:
            number = plain_number(value)
            has_value = math.isfinite(number)
        except OverflowError:
            return None
        except (UnsendableError, TypeError, ValueError) as problem:
            raise TypeError(f"sensor {self.name}: {value!r} is no {self.type}: {problem}") from problem
        if isinstance(number, bool) != (self.type == "boolean"):
            raise TypeError(f"sensor {self.name}: {value!r} is no {self.type}")
        if self.type == "boolean":
            return number
        if not has_value:
            return None
        if self.type == "float":
            return float(number)
        if number != int(number):
            raise TypeError(f"sensor {self.name}: {value!r} is no integer")
        return int(number)


class BoundSensor:
    """A sensor of one instance of a backend, such as `self.temperature`.

    Its attribute `declaration` is the `Sensor` in the class, with the type, the limits and the timeout.
    """

    def __init__(self, declaration: Sensor) -> None:
        self.declaration = declaration
        self._prepare(Reading(None, "unknown", None), 0.0, "unknown")

    def _prepare(self, reading: Reading, age: float, noticed: State) -> None:
        # Reentrant, because a handler of the log may use the sensor.
        self._lock = threading.RLock()
        self._reading = reading
        # The time of the last set(), by the clock of the declaration.
        self._set_at = self.declaration.clock() - age
        # The state that was logged last.
        self._noticed: State = noticed
        self._limited = RateLimitedLogger(logger, self._call_later, self.declaration.clock)
        self._pending: _Pending | None = None

    @property
    def name(self) -> str:
        """The name, such as `adc0.temperature`."""
        return self.declaration.name

    @property
    def unit(self) -> str:
        """The unit, such as `degC`."""
        return self.declaration.unit

    @property
    def description(self) -> str:
        """The description."""
        return self.declaration.description

    def set(self, value: object, *, state: State | None = None, time: object = None) -> None:
        """Store a value. Any thread may call this.

        Parameters
        ----------
        value
            The value. None: there is no value. For a number that is not finite, the state is "failure", and there is no
            value.
        state
            The state. Default: the limits determine it; "unknown" if the value is None.
        time
            The time of the measurement, as Ticks.of() accepts it. Default: now.

        Raises
        ------
        TypeError
            If the value is not of the type of the sensor.
        ValueError
            If there is no such state, or if the state is "nominal", "warn" or "error" and there is no value.
        """
        reading = self.declaration.reading_of(value, state, time)
        with self._lock:
            self._reading = reading
            self._set_at = self.declaration.clock()
            self._notice(reading)

    @property
    def reading(self) -> Reading:
        """The current value, state and time. Any thread may read it."""
        with self._lock:
            reading = self._reading
            if self._is_overdue():
                reading = reading._replace(state="unknown")
            self._notice(reading)
        return reading

    def _is_overdue(self) -> bool:
        timeout = self.declaration.timeout
        if timeout is None or self._reading.state in ("unknown", "inactive"):
            return False
        return self.declaration.clock() - self._set_at >= timeout

    # -- the log --------------------------------------------------------------------------------------

    def _notice(self, reading: Reading) -> None:
        """Log the state if it has changed."""
        if self._pending is not None and self._pending.due <= self.declaration.clock():
            self._pending.run()
        if reading.state == self._noticed:
            return
        before, self._noticed = self._noticed, reading.state
        if reading.state == "unknown" and self._is_overdue():
            detail = f", not set for {self.declaration.timeout:g} s"
        else:
            detail = "" if reading.value is None else f" at {self._value_text(reading.value)}"
        level = logging.INFO if reading.state in ("nominal", "inactive") else logging.WARNING
        text = "sensor %s: %s -> %s%s"
        kind = f"state of {self.name}"
        self._limited.log(level, kind, text, self.name, before, reading.state, detail, window=MINUTE)

    def _call_later(self, delay: float, function: Callable[..., Any], *args: object) -> _Pending:
        """Keep a call until the sensor is used. The reactor's callLater is not for other threads."""
        self._pending = _Pending(self, self.declaration.clock() + delay, lambda: function(*args))
        return self._pending

    def cancel_pending(self) -> None:
        """Discard the delayed call that _call_later() has stored."""
        self._pending = None

    def _value_text(self, value: Value) -> str:
        if isinstance(value, bool):
            text = "1" if value else "0"
        elif isinstance(value, float):
            text = f"{value:.6g}"
        else:
            text = str(value)
        if len(text) > _LONGEST_TEXT:
            text = text[:_LONGEST_TEXT] + "..."
        return without_commas(f"{text} {self.unit}".rstrip())

    def summary(self, reading: Reading) -> str:
        """Return the name and the state of a reading, and its value if the state is nominal, warn or error."""
        value = f" {self._value_text(reading.value)}" if reading.state in _MEASURED else ""
        return f"{self.name} {reading.state}{value}".rstrip()

    # -- pickling and copying -------------------------------------------------------------------------

    def __getstate__(self) -> tuple[Sensor, Reading, float, State]:
        with self._lock:
            return self.declaration, self._reading, self.declaration.clock() - self._set_at, self._noticed

    def __setstate__(self, state: tuple[Sensor, Reading, float, State]) -> None:
        self.declaration, reading, age, noticed = state
        self._prepare(reading, age, noticed)

    def declared_by(self, declaration: Sensor) -> None:
        """Replace the unpickled declaration by this one, that of the class."""
        _, reading, age, noticed = self.__getstate__()
        self.__setstate__((declaration, reading, age, noticed))

    def __repr__(self) -> str:
        return f"<BoundSensor {self.name}: {self.reading}>"


class _Pending:
    """A delayed call, as RateLimitedLogger expects from callLater. It is run when the sensor is used."""

    def __init__(self, sensor: BoundSensor, due: float, function: Callable[[], Any]) -> None:
        self.due = due
        self._sensor = sensor
        self._function = function

    def run(self) -> None:
        self.cancel()
        self._function()

    def cancel(self) -> None:
        self._sensor.cancel_pending()


class _Bound:
    """The sensors of one instance, which a shallow copy of the instance shares until it uses one."""

    def __init__(self, backend: object) -> None:
        # id() of the instance. None: the sensors were pickled, and the instance has not used them since.
        self.owner: int | None = id(backend)
        self.by_name: dict[str, BoundSensor] = {}
        self.view: Mapping[str, BoundSensor] = MappingProxyType(self.by_name)

    def __getstate__(self) -> dict[str, BoundSensor]:
        return self.by_name

    def __setstate__(self, state: dict[str, BoundSensor]) -> None:
        self.owner = None
        self.by_name = state
        self.view = MappingProxyType(state)


def sensors_of(backend: object) -> Mapping[str, BoundSensor]:
    """Return a read-only mapping of the sensors of a backend by their names, in the order of their declaration.

    Raises
    ------
    ValueError
        If two sensors of the class have the same name.
    TypeError
        If the instance has no place for its sensors, because of `__slots__`, or if a sensor is a field of a dataclass.
    """
    return _bound(backend)


def _bound(backend: object, wanted: str = "") -> Mapping[str, BoundSensor]:
    """Return the sensors of an instance, among them the wanted one."""
    bound = _kept(backend)
    if bound is not None and bound.owner == id(backend) and (not wanted or wanted in bound.by_name):
        return bound.view
    with _binding:
        return _bind(backend)


def _bind(backend: object) -> Mapping[str, BoundSensor]:
    """Give an instance its sensors: new ones, those that were pickled with it, or copies of those of its original."""
    declared = _by_name(type(backend))
    if not declared:
        return MappingProxyType({})
    bound = _kept(backend)
    if bound is None:
        bound = _Bound(backend)
    elif bound.owner is None:
        bound.owner = id(backend)
        for name, sensor in bound.by_name.items():
            if name in declared:
                sensor.declared_by(declared[name])
    elif bound.owner != id(backend):
        original, bound = bound, _Bound(backend)
        for name, sensor in original.by_name.items():
            bound.by_name[name] = copy(sensor)
    for name, declaration in declared.items():
        if name not in bound.by_name:
            bound.by_name[name] = BoundSensor(declaration)
    _keep(backend, bound)
    return bound.view


def _kept(backend: object) -> _Bound | None:
    # Not by getattr(), because the instance may be a proxy that asks the hardware for unknown attributes.
    try:
        found: _Bound = object.__getattribute__(backend, _ATTRIBUTE)
    except AttributeError:
        return None
    return found


def _keep(backend: object, bound: _Bound) -> None:
    # Not by setattr(), which a frozen dataclass refuses.
    try:
        object.__setattr__(backend, _ATTRIBUTE, bound)
    except AttributeError:
        kind = type(backend).__name__
        raise TypeError(
            f"{kind} has __slots__: add {_ATTRIBUTE!r} to them, or derive it from Backend, because it has sensors"
        ) from None


def _declared(kind: type) -> dict[str, Sensor]:
    """Return the sensors of a class by their attributes. Those of its bases come first."""
    found: dict[str, Sensor] = {}
    for base in reversed(kind.__mro__):
        for attribute, member in vars(base).items():
            if isinstance(member, Sensor):
                found[attribute] = member
            else:
                found.pop(attribute, None)
    return found


def _by_name(kind: type) -> dict[str, Sensor]:
    """Return the sensors of a class by their names. ValueError or TypeError if they are not valid."""
    _refuse_fields(kind)
    found: dict[str, Sensor] = {}
    attributes: dict[str, str] = {}
    for attribute, sensor in _declared(kind).items():
        if sensor.name in found:
            first = attributes[sensor.name]
            raise ValueError(f"sensor {sensor.name!r} of {kind.__name__} is declared as {first} and as {attribute}")
        found[sensor.name], attributes[sensor.name] = sensor, attribute
    return found


def _refuse_fields(kind: type) -> None:
    """Raise TypeError if a field of a dataclass has a sensor as its default."""
    for each in fields(kind) if is_dataclass(kind) else ():
        if isinstance(each.default, Sensor):
            raise TypeError(
                f"{each.name} of {kind.__name__} is a field of a dataclass: write the sensor without an annotation"
            )


def status_text(backend: object, *, longest: int = 80) -> str:
    """Return a text for `status` that reports the sensors of a backend, the worst first, without commas.

    Parameters
    ----------
    backend
        The backend.
    longest
        The maximum length of the text. If not all sensors fit, it ends with "and N more". The worst one is shown even
        if it alone is too long.

    Returns
    -------
    text
        "ok" if every sensor is nominal or inactive. Else the name and the state of each other sensor, and its value if
        the state is "warn" or "error": `adc0.temperature error 91.25 degC; fan0.speed warn 900 rpm`.
    """
    readings = [(sensor, sensor.reading) for sensor in sensors_of(backend).values()]
    parts = [sensor.summary(reading) for state in _REPORTED for sensor, reading in readings if reading.state == state]
    if not parts:
        return "ok"
    for count in range(len(parts), 1, -1):
        if len(text := _joined(parts, count)) <= longest:
            return text
    return _joined(parts, 1)


def _joined(parts: list[str], count: int) -> str:
    left = len(parts) - count
    return "; ".join(parts[:count]) + (f" and {left} more" if left else "")


def _is_finite(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)


def _is_reversed(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low > high


def _is_outside(limit: float | None, limits: Limits, *, low: bool) -> bool:
    """Return whether a limit for errors is reached before the limit for warnings."""
    inner = limits[0 if low else 1]
    if limit is None or inner is None:
        return False
    return limit > inner if low else limit < inner
