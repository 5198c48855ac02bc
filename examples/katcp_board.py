"""A backend that drives a KATCP board with aiokatcp (`pip install aiokatcp`), and has the board's sensors as its own.

    python examples/katcp_board.py [port [board.example:7147]]
    cd examples && discos-backend-server --backend katcp_board:KatcpBackend

While the board is away, requests fail, and aiokatcp reconnects. Without an address, fake_katcp_board.py is used.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiokatcp

from discosbackend import Acquisition, Backend, BackendError, DBProtocolHandler, Sensor, Ticks, run_server, status_text


class KatcpBackend(Backend):
    """Passes requests on to the board. `status` reports the worst of its sensors."""

    reactor = "asyncio"
    # The names are those of the board's sensors. The limits are set in the board.
    temperature = Sensor("fpga.temperature", "degC", "Temperature of the FPGA")
    locked = Sensor("pll.locked", description="Whether the sampling clock is locked", type=bool)

    def __init__(self, address: str = "") -> None:
        self.address = address
        self.client: aiokatcp.Client | None = None
        self.watcher = BoardWatcher(self)
        self.problem = ""
        self.acquisition = Acquisition(
            begin=lambda _: self.spawn(self.capture("capture-start")),  # must not wait: `status` shows a refusal
            end=lambda _: self.spawn(self.capture("capture-stop")),
        )

    async def server_started(self) -> None:
        if not self.address:
            from fake_katcp_board import start_fake_board

            self.address = await start_fake_board()
        host, port = self.address.rsplit(":", 1)
        self.client = aiokatcp.Client(host, int(port))
        self.client.add_sensor_watcher(self.watcher)

    async def server_stopping(self) -> None:
        if self.client is not None:
            self.client.close()
            await self.client.wait_closed()

    @property
    def away(self) -> str:
        return "" if self.watcher.synced.is_set() else f"board {self.address} is not connected"

    async def ask(self, request: str, *arguments: str) -> list[bytes]:
        try:
            async with asyncio.timeout(5.0):
                # Clients can be faster than the first connection. In an outage, do not wait for the next one.
                if self.client is None or self.client.last_exc is None:
                    await self.watcher.synced.wait()
                assert self.client is not None
                return (await self.client.request(request, *arguments))[0]
        except (aiokatcp.FailReply, aiokatcp.InvalidReply) as refusal:
            raise BackendError(str(refusal)) from None
        except (ConnectionError, TimeoutError):
            raise BackendError(self.away or f"board {self.address} does not answer") from None

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), self.away or self.problem or status_text(self), self.acquisition.acquiring

    async def set_configuration(self, configuration: str) -> None:
        await self.ask("mode", configuration)

    async def get_tpi(self) -> list[float]:
        return [float(level) for level in await self.ask("power")]

    def start(self, timestamp: Ticks | None = None) -> None:
        if self.away:
            raise BackendError(self.away)
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.stop(timestamp)

    async def capture(self, request: str) -> None:
        try:
            await self.ask(request)
            self.problem = ""
        except BackendError as refusal:
            self.problem = f"{request}: {refusal}"


class BoardWatcher(aiokatcp.AbstractSensorWatcher):
    """Copies readings of the board to the sensors of the same names. The states have the same names, too."""

    def __init__(self, backend: Backend) -> None:
        self.sensors = backend.sensors
        self.synced = asyncio.Event()

    def filter(self, name: str, *_: object) -> bool:
        return name in self.sensors

    def sensor_updated(self, name: str, value: bytes, status: Any, timestamp: float) -> None:
        kind = bool if self.sensors[name].declaration.type == "boolean" else float
        self.sensors[name].set(aiokatcp.decode(kind, value), state=status.name.lower(), time=timestamp)

    def state_updated(self, state: aiokatcp.SyncState) -> None:
        if state is aiokatcp.SyncState.SYNCED:
            self.synced.set()
        elif state is aiokatcp.SyncState.DISCONNECTED:
            self.synced.clear()
            for sensor in self.sensors.values():
                sensor.set(None, state="unreachable")


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8978
    run_server(port, DBProtocolHandler(KatcpBackend(*sys.argv[2:3])), "127.0.0.1")
