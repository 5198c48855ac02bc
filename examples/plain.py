"""A complete backend with ordinary methods: a spectrometer with one section, without hardware.

python examples/plain.py [port]
cd examples && discos-backend-server --backend plain:PlainBackend
"""

from __future__ import annotations

import sys

from discosbackend import Acquisition, Backend, BackendError, DBProtocolHandler, Ticks, run_server

# The bandwidth in MHz and the number of bins of each configuration.
CONFIGURATIONS = {"WIDE": (500.0, 1024), "ZOOM": (16.0, 4096)}


class PlainBackend(Backend):
    """A spectrometer with two inputs and constant measurements."""

    def __init__(self) -> None:
        self.configuration = "unconfigured"
        self.integration = 0
        self.bandwidth = 500.0
        self.bins = 1024
        self.filename = ""
        self.acquisition = Acquisition(self.begin, self.end)

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), "ok", self.acquisition.acquiring

    def time(self) -> Ticks:
        return Ticks.now()

    def get_configuration(self) -> str:
        return self.configuration

    def set_configuration(self, configuration: str) -> None:
        if configuration not in CONFIGURATIONS:
            raise BackendError("invalid configuration")
        if self.acquisition.acquiring:
            raise BackendError("acquiring: set-configuration must wait for stop")
        self.configuration = configuration
        self.integration = 40
        self.bandwidth, self.bins = CONFIGURATIONS[configuration]

    def get_integration(self) -> int:
        return self.integration

    def set_integration(self, integration: int) -> None:
        if not 5 <= integration <= 1000:
            raise BackendError(f"integration {integration} out of range: 5 to 1000 ms")
        self.integration = integration

    def set_section(
        self,
        section: int | str,
        start_frequency: float | str,
        bandwidth: float | str,
        feed: int | str,
        mode: str,
        sample_rate: float | str,
        bins: int | str,
    ) -> None:
        # "*" keeps a value. The values that this instrument cannot change are ignored.
        if section not in (0, "*"):
            raise BackendError("backend supports 1 sections")
        if bandwidth != "*":
            if not 0 < float(bandwidth) <= 500:
                raise BackendError("backend maximum bandwidth is 500")
            self.bandwidth = float(bandwidth)
        if bins != "*":
            self.bins = int(bins)

    def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> list[float]:
        share = min(bandwidth / self.bandwidth, 1.0) if bandwidth else 1.0
        return [1.1e6 * share, 1.2e6 * share]

    def get_tp0(self) -> list[float]:
        return [1050.0, 990.0]

    def set_filename(self, path: str) -> None:
        self.filename = path

    def get_filename(self) -> str:
        if not self.filename:
            raise BackendError("no file: set-filename was not sent")
        return self.filename

    def start(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Ticks | None = None) -> None:
        self.acquisition.stop(timestamp)

    def begin(self, instant: Ticks) -> None:
        if self.configuration == "unconfigured":
            raise BackendError("unconfigured: send set-configuration first")
        print("acquiring from", instant.unix_text())

    def end(self, instant: Ticks) -> None:
        print("acquiring until", instant.unix_text())


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8978
    run_server(port, DBProtocolHandler(PlainBackend()), "127.0.0.1")
