"""A backend whose methods block: an attenuator and two counters on a serial link, on which an exchange takes 0.1 s.

    python examples/blocking_serial.py [port]
    cd examples && discos-backend-server --backend blocking_serial:SerialBackend

`@blocking(lock="link")` runs a method in a thread of the server, and only one of them at a time, because a link carries
one exchange at a time. Replace FakeLink by your own class with a method exchange().
"""

# get_tpi takes no arguments here: a backend need not support the selection of a band.

from __future__ import annotations

import sys
import threading

from discosbackend import Acquisition, Backend, BackendError, DBProtocolHandler, Ticks, blocking, run_server


class FakeLink:
    """A serial line to a device. exchange() blocks until the device has answered."""

    def __init__(self, latency: float = 0.1) -> None:
        self.latency = latency
        self.gate = False
        self._attenuation = "0"

    def exchange(self, text: str) -> str:
        """Send one line and return the answer, which takes `latency` seconds."""
        threading.Event().wait(self.latency)
        word, _, value = text.partition(" ")
        if word == "ATT":
            self._attenuation = value
        return {"ATT?": self._attenuation, "CNT?": "2048 2051", "TEMP?": "31.5"}.get(word, "OK")

    def set_gate(self, level: bool) -> None:
        """Set a control line of the port, which takes no time."""
        self.gate = level


class SerialBackend(Backend):
    """Two counters behind an attenuator; they count while the gate line is set."""

    def __init__(self, link: FakeLink | None = None) -> None:
        self.link = FakeLink() if link is None else link
        self.configuration = "unconfigured"
        self.acquisition = Acquisition(self.begin, self.end)

    # Ordinary methods run in the reactor's thread. They use data in memory, and the gate, which takes no time.

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), "ok", self.acquisition.acquiring

    def time(self) -> Ticks:
        return Ticks.now()

    def get_configuration(self) -> str:
        return self.configuration

    def start(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.stop(timestamp)

    def begin(self, _: Ticks) -> None:
        self.link.set_gate(True)

    def end(self, _: Ticks) -> None:
        self.link.set_gate(False)

    # Blocking methods run in other threads. They share only `configuration` with the methods above; assigning it is
    # atomic.

    @blocking(lock="link")
    def set_configuration(self, configuration: str) -> None:
        if not configuration.isdecimal() or int(configuration) > 31:
            raise BackendError("invalid configuration")
        if self.link.exchange(f"ATT {int(configuration)}") != "OK":
            raise BackendError("attenuator does not answer")
        self.configuration = configuration

    @blocking(lock="link")
    def get_tpi(self) -> list[float]:
        return [float(text) for text in self.link.exchange("CNT?").split()]

    @blocking(lock="link")
    def get_rms(self) -> list[float]:
        return [float(text) ** 0.5 for text in self.link.exchange("CNT?").split()]


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8978
    run_server(port, DBProtocolHandler(SerialBackend()), "127.0.0.1")
