"""A backend with sensors: a thread polls two boards every second, and status reports the worst sensor.

    python examples/sensors.py [port]
    cd examples && discos-backend-server --backend sensors:SensorsBackend

The command `set-fan` reads its arguments from the annotations of its method. A slow fan makes its board hot.
"""

from __future__ import annotations

import sys
import threading
from typing import Annotated, Literal

from discosbackend import (
    Argument,
    Backend,
    DBProtocolHandler,
    Sensor,
    Ticks,
    blocking,
    command,
    run_server,
    status_text,
)


class FakeRack:
    """In place of the hardware: two boards with a fan each, and a clock that is locked to a reference."""

    def __init__(self) -> None:
        self.fans = {"adc": 4000, "fpga": 4000}
        self.locked = True
        self.answers = True

    def temperature(self, board: str) -> float:
        if not self.answers:
            raise ConnectionError("the rack does not answer")
        return 30.0 + 80_000 / self.fans[board]


class SensorsBackend(Backend):
    """A spectrometer whose state is that of its sensors."""

    adc = Sensor("adc.temperature", "degC", "Temperature of the sampler", warn=60.0, error=80.0, timeout=5.0)
    fpga = Sensor("fpga.temperature", "degC", "Temperature of the FPGA", warn=70.0, error=85.0, timeout=5.0)
    clock = Sensor("clock.locked", description="Whether the clock is locked to the maser", type=bool, timeout=5.0)

    def __init__(self, period: float = 1.0) -> None:
        self.period = period
        self.rack = FakeRack()
        self.stopping = threading.Event()

    def server_started(self) -> None:
        threading.Thread(target=self.poll_until_stopped, name="poll", daemon=True).start()

    def server_stopping(self) -> None:
        self.stopping.set()

    def poll_until_stopped(self) -> None:
        while not self.stopping.wait(self.period):
            self.poll()

    def poll(self) -> None:
        """Read the rack once. Any thread may set a sensor."""
        try:
            self.adc.set(self.rack.temperature("adc"))
            self.fpga.set(self.rack.temperature("fpga"))
            self.clock.set(self.rack.locked, state=None if self.rack.locked else "error")
        except ConnectionError:
            for sensor in self.sensors.values():
                sensor.set(None, state="unreachable")

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), status_text(self), False

    def time(self) -> Ticks:
        return Ticks.now()

    @command("set-fan", help="Set the speed of a fan.")
    @blocking
    def set_fan(
        self,
        speed: Annotated[int, Argument(unit="rpm", minimum=1000, maximum=8000)],
        board: Literal["adc", "fpga"] = "adc",
    ) -> None:
        self.rack.fans[board] = speed
        self.poll()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8978
    run_server(port, DBProtocolHandler(SensorsBackend()), "127.0.0.1")
