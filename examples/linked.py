"""A backend on a Link: a power meter with a console on a TCP port or a serial line, one line for each question.

    python examples/linked.py [port [serial:///dev/ttyUSB0?baudrate=115200]]
    cd examples && discos-backend-server --backend linked:LinkedBackend

The link connects by itself, also after an outage. While it is down, requests that need the device are answered with
`fail`, and `status` says since when. Without an address, the simulated device at the end of this file is used.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.python.failure import Failure

from discosbackend import Acquisition, Backend, BackendError, DBProtocolHandler, Ticks, blocking, run_server
from discosbackend.link import Link
from discosbackend.testing import LinkSimulator


class LinkedBackend(Backend):
    """The device answers a question with values, and an order with `ok` or `error <reason>`."""

    def __init__(self, address: Any = None) -> None:
        self.alarm = self.gate_problem = ""
        device = simulated_power_meter() if address is None else address
        self.link = Link(device, timeout=2.0, terminator=b"\r\n", unsolicited=self.is_alarm)
        self.acquisition = Acquisition(self.begin, self.end)

    def is_alarm(self, line: bytes) -> bool:
        """Keep the text of an alarm, such as `!overheated`, which the device sends without a question."""
        if line.startswith(b"!"):
            self.alarm = line[1:].decode("latin-1")
        return line.startswith(b"!")

    async def ask(self, question: str) -> str:
        answer = (await self.link.ask(question.encode("ascii"))).decode("latin-1")
        if answer.startswith("error "):
            raise BackendError(answer.removeprefix("error "))
        return answer

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), self.link.problem or self.gate_problem or self.alarm or "ok", self.acquisition.acquiring

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
        return powers_of(await self.ask("power?"))

    @blocking
    def get_rms(self) -> list[float]:
        """In a thread, as a method that also calls a driver would be written."""
        return [power**0.5 for power in powers_of(self.link.ask_blocking(b"power?").decode("latin-1"))]

    async def start(self, timestamp: Ticks | None = None) -> None:
        await self.ask("mode?")  # a start at a later time is refused too if the device does not answer
        self.acquisition.start(timestamp)
        if timestamp is None:
            await self.ordered
            if problem := self.gate_problem:
                self.acquisition.stop()
                raise BackendError(problem)

    def stop(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.stop(timestamp)

    def begin(self, _: Ticks) -> None:
        # It must not wait for the answer: `start` and `status` report it.
        self.ordered = self.link.ask(b"gate 1").addBoth(self.gate_answers)

    def end(self, _: Ticks) -> None:
        self.link.ask(b"gate 0").addBoth(self.gate_answers)

    def gate_answers(self, outcome: bytes | Failure) -> None:
        text = outcome.getErrorMessage() if isinstance(outcome, Failure) else outcome.decode("latin-1")
        self.gate_problem = "" if text == "ok" else f"gate: {text.removeprefix('error ')}"


def powers_of(answer: str) -> list[float]:
    try:
        first, second = map(float, answer.split())
        return [first, second]
    except ValueError:
        raise BackendError(f"wrong powers: {answer}") from None


def simulated_power_meter() -> LinkSimulator:
    """Return a simulated device, for this example and its test."""
    settings = {"mode": "unconfigured", "gate": "0"}

    def answer(question: bytes) -> bytes | list[bytes]:
        word, _, value = question.decode("ascii").partition(" ")
        if word == "power?":
            return b"812.5 799.25"
        if word in settings:
            settings[word] = value
            return b"ok"
        return settings["mode"].encode("ascii") if word == "mode?" else b"error unknown command"

    return LinkSimulator(answer, terminator=b"\r\n")


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8978
    device = sys.argv[2] if len(sys.argv) > 2 else None
    run_server(port, DBProtocolHandler(LinkedBackend(device)), "127.0.0.1")
