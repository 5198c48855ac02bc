"""SensorHistory: the values of the sensors in the last hour, one every ten seconds, for the lines on the page."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discosbackend.monitor.state import SensorState

__all__ = ["LENGTH", "SensorHistory", "STEP"]

STEP = 10.0
"""The time between two values, in s."""

LENGTH = 360
"""The number of values of a sensor: an hour."""

# Further sensors have no history, so that it needs at most 1 MB.
_MOST_SENSORS = 300

Value = float | None


class SensorHistory:
    """Keeps the last hour of the sensors.

    Parameters
    ----------
    reactor
        Timers, or the reactor.
    sensors
        Returns the present sensors.
    """

    def __init__(self, reactor: Any, sensors: Callable[[], Iterable[SensorState]]) -> None:
        self._reactor = reactor
        self._sensors = sensors
        self._values: dict[str, deque[Value]] = {}
        self._timer: Any = None

    def start(self) -> None:
        """Begin to keep values."""
        self._timer = self._reactor.callLater(STEP, self.start)
        self.add()

    def stop(self) -> None:
        """Keep no further values."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def add(self) -> None:
        """Keep the present values."""
        for sensor in self._sensors():
            values = self._values.get(sensor.name)
            if values is None:
                if len(self._values) >= _MOST_SENSORS:
                    continue
                values = self._values[sensor.name] = deque(maxlen=LENGTH)
            values.append(_number(sensor.value))

    def of(self, name: str) -> list[Value]:
        """Return the values of a sensor, the oldest first. None stands for a value that is missing or no number."""
        return list(self._values.get(name, ()))

    def pieces(self) -> Iterator[str]:
        """Return the JSON of all histories in pieces."""
        yield "{"
        for number, name in enumerate(list(self._values)):
            yield f"{', ' if number else ''}{json.dumps(name)}: {json.dumps(self.of(name))}"
        yield "}"


def _number(value: float | bool | str | None) -> Value:
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return None
    # More digits cannot be seen.
    return float(f"{value:.6g}")
