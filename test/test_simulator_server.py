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
"""

from __future__ import annotations

import re
import unittest

from discosbackend.errors import RequestFailed
from discosbackend.simulator import SimulatedBackend
from discosbackend.testing import BackendConformance
from discosbackend.testing.cases import Case

from .backend_simulator import BackendSimulator
from .settings import LONG

# What a server does with lines and connections, whatever instrument is behind it.
OF_THE_SERVER = re.compile("(hostile|framing|grammar)/")
# What becomes of start and stop after the first answer, which Acquisition decides for all simulated instruments.
OF_ACQUISITION = re.compile("(start|stop)/(?!wrong|now-and|timed|twice|while|elapsed|far)")


class OfManyTests(BackendConformance, mixin=True):
    """For servers of the same kind: without --long a case is tried on as many of them as can differ in it."""

    left_to_others: tuple[re.Pattern[str], ...] = (OF_THE_SERVER, OF_ACQUISITION)
    late_tolerance = 0.5

    def run_case(self, case: Case) -> None:
        if not LONG and any(pattern.match(case.id) for pattern in self.left_to_others):
            self.skipTest("tried on an instrument of the same kind; on this one with ./run_tests --long")
        super().run_case(case)


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


class SimulatedDiscosTests(OfManyTests, unittest.TestCase):
    """The simulated instrument of the program, with a configuration of SARDARA's."""

    left_to_others = (OF_THE_SERVER,)

    valid_configuration = "SK00"
    valid_integration = 10
    valid_section = (0, 50.0, 1500.0, 0, "CP", 3000.0, 16384)
    valid_feeds = (0, 6)
    valid_shift = 3
    valid_interleave = 100
    inputs = 2
    lead = 0.05

    def make_backend(self):
        return SimulatedBackend()


class SimulatedSkarabTests(OfManyTests, unittest.TestCase):
    """SKARAB, with the numbers that its deployed client sends."""

    valid_configuration = "SKARAB_1"
    valid_integration = 40
    valid_section = ("0", "0.0", "1400.0", "0", "2", "2800.0", "2048")
    valid_feeds = (7, 7)
    inputs = 14
    lead = 0.05

    def make_backend(self):
        return SimulatedBackend("skarab")


class SimulatedTotalPowerTests(OfManyTests, unittest.TestCase):
    """A detector with one value an input and a dump."""

    valid_configuration = "TP00"
    valid_integration = 1
    valid_section = (1, 0.0, 2000.0, 0, "RCP", 4000.0, 1)
    valid_feeds = (0, 6)
    inputs = 2
    lead = 0.05

    def make_backend(self):
        return SimulatedBackend("totalpower")


class SimulatedMistralTests(OfManyTests, unittest.TestCase):
    """MISTRAL, on which the minute of its setup passes at once."""

    valid_configuration = "setup"
    lead = 0.05

    def make_backend(self):
        return SimulatedBackend("mistral", time_scale=0)


if __name__ == "__main__":
    unittest.main()
