"""A fake KATCP board for katcp_board.py, and for its test: a server of the library aiokatcp."""

# There is no `from __future__ import annotations` here: aiokatcp decodes arguments by the types in the annotations.

import aiokatcp

Status = aiokatcp.Sensor.Status


def status_of_temperature(degrees: float) -> Status:
    return Status.ERROR if degrees > 85 else Status.WARN if degrees > 70 else Status.NOMINAL


class FakeBoard(aiokatcp.DeviceServer):
    """Has two modes, two inputs and two sensors. `requests` has what it was asked to do."""

    VERSION = "fake-board-1.0"
    BUILD_STATE = "fake-board-1.0.0"

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.requests: list[str] = []
        self.temperature = aiokatcp.Sensor(
            float,
            "fpga.temperature",
            "Temperature of the FPGA",
            "degC",
            default=41.5,
            initial_status=Status.NOMINAL,
            status_func=status_of_temperature,
        )
        self.locked = aiokatcp.Sensor(bool, "pll.locked", default=True, initial_status=Status.NOMINAL)
        self.fan = aiokatcp.Sensor(int, "fan.speed", units="rpm", default=4000, initial_status=Status.NOMINAL)
        for sensor in (self.temperature, self.locked, self.fan):
            self.sensors.add(sensor)

    async def request_mode(self, ctx: aiokatcp.RequestContext, mode: str) -> None:
        """Load a mode, WIDE or ZOOM."""
        if mode not in ("WIDE", "ZOOM"):
            raise aiokatcp.FailReply("invalid configuration")
        self.requests.append(f"mode {mode}")

    async def request_power(self, ctx: aiokatcp.RequestContext) -> tuple[float, float]:
        """Return the power of each input."""
        return 812.5, 799.25

    async def request_capture_start(self, ctx: aiokatcp.RequestContext) -> None:
        """Start to record. A mode must have been loaded."""
        if not self.requests:
            raise aiokatcp.FailReply("no mode is loaded")
        self.requests.append("capture-start")

    async def request_capture_stop(self, ctx: aiokatcp.RequestContext) -> None:
        """Stop to record."""
        self.requests.append("capture-stop")


async def start_fake_board() -> str:
    """Start a board that runs as long as the process. Return its address."""
    board = FakeBoard("127.0.0.1", 0)
    await board.start()
    return f"127.0.0.1:{board.sockets[0].getsockname()[1]}"
