"""A short complete backend to mimic: every command of the protocol, on an instrument made of numbers.

Replace what the methods do by what your instrument does, and leave out what it cannot do: that is answered
`not supported by this backend`. test_simulator_server tests this one over a socket, and can test yours.

`python -m test.backend_simulator` serves it on port 8978.
"""

from __future__ import annotations

from discosbackend import Acquisition, Backend, BackendError, DBProtocolHandler, Ticks, run_server

# What a configuration is: how many inputs it has, its bandwidth in MHz, its integration time in ms.
CONFIGURATIONS = {"K2": (2, 1500.0, 40), "K14": (14, 1500.0, 40), "P2": (2, 500.0, 100)}
FEEDS = 7
MAX_BANDWIDTH = 2300.0
MODES = ("CP", "FullStokes", "0", "1", "2")


class BackendSimulator(Backend):
    """A spectrometer whose noise is constant and whose files are never written."""

    def __init__(self):
        self.configuration = "unconfigured"
        self.inputs, self.bandwidth, self.integration = 1, 0.0, 0
        self.sections = {}
        self.enabled = None
        self.interleave = 0
        self.shift = 0
        self.filename = None
        self.acquisition = Acquisition(self.begin, self.end)

    # -- clock and state: answered at once, whatever else is going on

    def status(self):
        return Ticks.now(), "ok", self.acquisition.acquiring

    def time(self):
        return Ticks.now()

    def get_configuration(self):
        return self.configuration

    def get_integration(self):
        return self.integration

    def get_filename(self):
        if self.filename is None:
            raise BackendError("no file name was set")
        return self.filename

    # -- configuration: refuse with BackendError what your instrument cannot do

    def set_configuration(self, configuration):
        if configuration not in CONFIGURATIONS:
            raise BackendError("invalid configuration")
        if self.acquisition.acquiring:
            raise BackendError("acquiring: stop before set-configuration")
        self.inputs, self.bandwidth, self.integration = CONFIGURATIONS[configuration]
        self.configuration = configuration
        section = {"start": 0.0, "bandwidth": self.bandwidth, "feed": 0, "mode": "CP"}
        section.update({"rate": 2 * self.bandwidth, "bins": 1024})
        self.sections = {number: dict(section) for number in range(self.inputs)}
        self.enabled = None

    def set_integration(self, integration):
        self.integration = integration

    def set_section(self, section, start_frequency, bandwidth, feed, mode, sample_rate, bins):
        if section != "*" and section not in self.sections:
            raise BackendError(f"backend supports {len(self.sections)} sections")
        if bandwidth != "*" and not 0 < bandwidth <= MAX_BANDWIDTH:
            raise BackendError(f"backend maximum bandwidth is {MAX_BANDWIDTH:g}")
        if mode not in (*MODES, "*"):
            raise BackendError(f"mode must be one of {' '.join(MODES)}")
        values = {"start": start_frequency, "bandwidth": bandwidth, "feed": feed, "mode": mode}
        values.update({"rate": sample_rate, "bins": bins})
        changes = {name: value for name, value in values.items() if value != "*"}
        for number in self.sections if section == "*" else [section]:
            self.sections[number].update(changes)

    def set_enable(self, feed1, feed2):
        for name, feed in (("feed1", feed1), ("feed2", feed2)):
            if feed not in range(FEEDS):
                raise BackendError(f"{name} out of range")
        self.enabled = feed1, feed2

    def set_shift(self, shift):
        self.shift = shift

    def cal_on(self, interleave):
        self.interleave = interleave

    # -- measurements: one value an input, two inputs for each enabled feed

    def get_tpi(self, frequency=0.0, bandwidth=0.0):
        return self.measure(1000.0 * (bandwidth or self.bandwidth or 1.0))

    def get_tp0(self):
        return self.measure(10.0)

    def get_rms(self):
        return self.measure(20.5)

    def get_ddcoffset(self):
        return self.sections[0]["start"] if self.sections else 0.0

    def measure(self, level):
        return [level] * (self.inputs if self.enabled is None else 4)

    # -- acquisition and files

    def start(self, timestamp=None):
        self.acquisition.start(timestamp)

    def stop(self, timestamp=None):
        self.acquisition.stop(timestamp)

    def begin(self, ticks):
        print("the first dump begins at", ticks.unix_text())

    def end(self, ticks):
        print("the last dump ended at", ticks.unix_text())

    def set_filename(self, path):
        self.filename = path

    def convert_data(self):
        print("the data are merged with", self.get_filename())

    def end_schedule(self):
        print("the schedule is over")

    def park(self):
        if self.acquisition.acquiring:
            self.stop()


if __name__ == "__main__":
    run_server(8978, DBProtocolHandler(BackendSimulator()))
