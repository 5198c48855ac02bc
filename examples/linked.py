"""A backend on a Link: a power meter with a console on a TCP port or a serial line, one line for each question.

    python examples/linked.py [port [serial:///dev/ttyUSB0?baudrate=115200]]
    cd examples && discos-backend-server --backend linked:LinkedBackend

The link connects by itself, also after an outage. While it is down, requests that need the device are answered with
`fail`, and `status` says since when. Without an address, the simulated device at the end of this file is used.
"""

# get_tpi takes no arguments here: a backend need not support the selection of a band.

from __future__ import annotations

import sys
from typing import Any

from discosbackend import Acquisition, Backend, BackendError, DBProtocolHandler, Ticks, blocking, run_server
from discosbackend.link import Link
from discosbackend.testing import LinkSimulator


class LinkedBackend(Backend):
    """The device answers a question with values, and a setting with `ok` or `error <reason>`."""

    def __init__(self, address: Any = None) -> None:
        self.alarm = ""
        self.link = Link(
            simulated_power_meter() if address is None else address,
            timeout=2.0,
            terminator=b"\r\n",
            unsolicited=self.is_alarm,
        )
        self.acquisition = Acquisition(self.begin, self.end)

    def is_alarm(self, line: bytes) -> bool:
        """Keep the text of an alarm, such as `!overheated`, which the device sends without a question."""
        if line.startswith(b"!"):
            self.alarm = line[1:].decode("latin-1")
            return True
        return False

    async def ask(self, question: str) -> str:
        answer = (await self.link.ask(question.encode("ascii"))).decode("latin-1")
        if answer.startswith("error "):
            raise BackendError(answer.removeprefix("error "))
        return answer

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), self.link.problem or self.alarm or "ok", self.acquisition.acquiring

    def time(self) -> Ticks:
        return Ticks.now()

    async def get_configuration(self) -> str:
        return await self.ask("mode?")

    async def set_configuration(self, configuration: str) -> None:
        # Only this text reaches the device, whatever the client has sent.
        if configuration not in ("NARROW", "WIDE"):
            raise BackendError("invalid configuration")
        await self.ask(f"mode {configuration}")
        self.alarm = ""

    async def get_tpi(self) -> list[float]:
        return [float(text) for text in (await self.ask("power?")).split()]

    @blocking
    def get_rms(self) -> list[float]:
        """In a thread, as a method that also calls a driver would be written."""
        return [float(text) ** 0.5 for text in self.link.ask_blocking(b"power?").split()]

    def start(self, timestamp: Ticks | None = None) -> None:
        if self.link.problem:
            raise BackendError(self.link.problem)
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.stop(timestamp)

    def begin(self, _: Ticks) -> None:
        # It must not wait. The answer is not needed: if the gate stays closed, `status` says why.
        self.link.ask(b"gate 1").addErrback(lambda failure: None)

    def end(self, _: Ticks) -> None:
        self.link.ask(b"gate 0").addErrback(lambda failure: None)


def simulated_power_meter() -> LinkSimulator:
    """Return a simulated device, for this example and its test."""
    settings = {"mode": "unconfigured", "gate": "0"}

    def answer(question: bytes) -> bytes | list[bytes]:
        word, _, value = question.decode("ascii").partition(" ")
        if word == "power?":
            return b"812.5 799.25"
        if word == "mode?":
            return settings["mode"].encode("ascii")
        if word in settings:
            settings[word] = value
            return b"ok"
        return b"error unknown command"

    return LinkSimulator(answer, terminator=b"\r\n")


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8978
    device = sys.argv[2] if len(sys.argv) > 2 else None
    run_server(port, DBProtocolHandler(LinkedBackend(device)), "127.0.0.1")
