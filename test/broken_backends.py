"""TestCases whose backends cannot be served or have a defect. test_testing runs them one by one.

They are in a separate module, because the server process must be able to import them, and test discovery must not find
them.
"""

from __future__ import annotations

import os
import threading
import unittest

from discosbackend import Backend, DBProtocolHandler, Ticks
from discosbackend.protocol import DBFactory
from discosbackend.testing import BackendConformance

from .backend_simulator import BackendSimulator


class RaisingTests(BackendConformance, unittest.TestCase):
    def make_backend(self) -> object:
        print("looking for the instrument")
        raise OSError("no instrument on /dev/ttyS9")


class ReturningNoneTests(BackendConformance, unittest.TestCase):
    def make_backend(self) -> None:
        BackendSimulator()


class ExitingTests(BackendConformance, unittest.TestCase):
    def make_backend(self) -> object:
        print("goodbye", flush=True)
        os._exit(7)


class SlowTests(BackendConformance, unittest.TestCase):
    start_timeout = 0.5

    def make_backend(self) -> object:
        return threading.Event().wait()


class SilentTests(BackendConformance, unittest.TestCase):
    """Defines neither make_backend() nor an address."""


class ForgetfulTests(BackendConformance, unittest.TestCase):
    """Its setUp neither sets an address nor calls super().setUp()."""

    def setUp(self) -> None:
        pass


class StuckTests(BackendConformance, unittest.TestCase):
    """Its server does not end when it should."""

    def make_backend(self) -> object:
        class Stuck:
            def server_stopping(self) -> None:
                threading.Event().wait()

        return Stuck()


class FailingTests(BackendConformance, unittest.TestCase):
    """One of its commands raises an exception, and another one ends the process."""

    def make_backend(self) -> object:
        class Failing(BackendSimulator):
            def get_rms(self):
                return 1 / 0

            def get_tp0(self):
                os._exit(3)

        return Failing()


class DyingTests(BackendConformance, unittest.TestCase):
    """Its process ends when a measurement is requested."""

    def make_backend(self) -> object:
        class Dying(BackendSimulator):
            def get_tpi(self, frequency=0.0, bandwidth=0.0):
                os._exit(3)

        return Dying()


class LackingTests(BackendConformance, unittest.TestCase):
    """Its make_factory() returns a handler without one of the commands."""

    def make_factory(self) -> DBFactory:
        handler = DBProtocolHandler(BackendSimulator())
        del handler.commands["set-shift"]
        return DBFactory(handler)


class MinimalTests(BackendConformance, unittest.TestCase):
    """A minimal backend: it only has status, and is never acquiring."""

    def make_backend(self) -> object:
        class Minimal(Backend):
            def status(self):
                return Ticks.now(), "ok", False

        return Minimal()
