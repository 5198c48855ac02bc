"""The reusable TestCase at work: each test talks to a server over a socket.

To test a backend of your own, say how it is made, and what your instrument accepts:

    class MyBackendTests(BackendConformance, unittest.TestCase):
        valid_configuration = "TP"

        def make_backend(self):
            return MyBackend()

To test a server that is running, or that you launch yourself, in whatever language it is written, redefine
setUp and tearDown to launch your own; all that the cases need is where it listens:

    def setUp(self):
        self.server = subprocess.Popen(["./my-server", "--port", "8978"])
        ...  # wait until it listens
        self.address = ("127.0.0.1", 8978)

    def tearDown(self):
        self.server.terminate()
        self.server.wait()

The attributes that tell what is valid are those of discosbackend.testing.Profile. Tests of your own, as the
one in SimulatorServerTests, have `self.client`.

The simulated instruments differ in their profiles. By default one of them is tried here; test_profile_file tries the
quicker cases on all of them.
"""

from __future__ import annotations

import unittest

from discosbackend.errors import RequestFailed
from discosbackend.simulator import SimulatedBackend
from discosbackend.testing import BackendConformance
from discosbackend.testing.hostile_cases import HOSTILE_CASES

from .backend_simulator import BackendSimulator
from .serving import forked_kit_servers
from .settings import long_only


class SimulatorServerTests(BackendConformance, unittest.TestCase):
    """The backend that is there to be mimicked."""

    valid_configuration = "K2"
    valid_integration = 100
    valid_section = (0, 100.0, 500.0, 0, "CP", 1000.0, 1024)
    valid_feeds = (0, 6)
    valid_shift = 3
    valid_interleave = 100
    inputs = 2
    lead = 0.05

    def make_backend(self):
        return BackendSimulator()

    def test_a_section_that_is_not_there_is_refused(self):
        self.client.request("set-configuration", "K2")
        with self.assertRaisesRegex(RequestFailed, "backend supports 2 sections"):
            self.client.request("set-section", "2", "*", "*", "*", "*", "*", "*")


class SimulatedDiscosTests(BackendConformance, unittest.TestCase):
    """The simulated instrument of the program, with a configuration of SARDARA's."""

    valid_configuration = "SK00"
    valid_integration = 10
    valid_section = (0, 50.0, 1500.0, 0, "CP", 3000.0, 16384)
    valid_feeds = (0, 6)
    valid_shift = 3
    valid_interleave = 100
    inputs = 2
    lead = 0.05

    @classmethod
    def setUpClass(cls):
        cls.enterClassContext(forked_kit_servers())

    def make_backend(self):
        return SimulatedBackend()


# The same server is behind it.
for _case in HOSTILE_CASES.values():
    setattr(SimulatedDiscosTests, _case.method, long_only(getattr(BackendConformance, _case.method)))


@long_only
class SimulatedSkarabTests(BackendConformance, unittest.TestCase):
    """SKARAB, with the numbers that its deployed client sends."""

    valid_configuration = "SKARAB_1"
    valid_integration = 40
    valid_section = ("0", "0.0", "1400.0", "0", "2", "2800.0", "2048")
    valid_feeds = (7, 7)
    inputs = 14
    lead = 0.05

    def make_backend(self):
        return SimulatedBackend("skarab")


@long_only
class SimulatedSkarab2Tests(BackendConformance, unittest.TestCase):
    """SKARAB of two inputs, with the sample rate that its client started with in another configuration."""

    valid_configuration = "SKARAB_2S"
    valid_integration = 40
    valid_section = ("0", "906.25", "187.5", "0", "2", "2800.0", "32768")
    valid_feeds = (0, 0)
    inputs = 2
    lead = 0.05

    def make_backend(self):
        return SimulatedBackend("skarab2")


@long_only
class SimulatedTotalPowerTests(BackendConformance, unittest.TestCase):
    """A detector with one value an input and a dump."""

    valid_configuration = "TP00"
    valid_integration = 1
    valid_section = (1, 0.0, 2000.0, 0, "RCP", 4000.0, 1)
    valid_feeds = (0, 6)
    inputs = 2
    lead = 0.05

    def make_backend(self):
        return SimulatedBackend("totalpower")


@long_only
class SimulatedMistralTests(BackendConformance, unittest.TestCase):
    """MISTRAL, on which the minute of its setup passes at once."""

    valid_configuration = "setup"
    start_when_acquiring = "acquisition in progress"
    lead = 0.05

    def make_backend(self):
        return SimulatedBackend("mistral", time_scale=0)


if __name__ == "__main__":
    unittest.main()
