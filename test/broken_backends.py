"""TestCases whose backends cannot be served, or break. test_testing runs them one by one.

In a module of their own, because the process of a server must find them and the discovery of tests must not.
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
    """Says neither what to test nor where it is."""


class ForgetfulTests(BackendConformance, unittest.TestCase):
    """Its setUp neither sets an address nor calls the one that would."""

    def setUp(self) -> None:
        pass


class StuckTests(BackendConformance, unittest.TestCase):
    """Its server does not end when it is told to."""

    def make_backend(self) -> object:
        class Stuck:
            def server_stopping(self) -> None:
                threading.Event().wait()

        return Stuck()


class FailingTests(BackendConformance, unittest.TestCase):
    """Has a mistake, and one that takes the process along."""

    def make_backend(self) -> object:
        class Failing(BackendSimulator):
            def get_rms(self):
                return 1 / 0

            def get_tp0(self):
                os._exit(3)

        return Failing()


class DyingTests(BackendConformance, unittest.TestCase):
    """Takes its process along when it measures."""

    def make_backend(self) -> object:
        class Dying(BackendSimulator):
            def get_tpi(self, frequency=0.0, bandwidth=0.0):
                os._exit(3)

        return Dying()


class LackingTests(BackendConformance, unittest.TestCase):
    """Has a factory of its own, around a handler that lost a command."""

    def make_factory(self) -> DBFactory:
        handler = DBProtocolHandler(BackendSimulator())
        del handler.commands["set-shift"]
        return DBFactory(handler)


class MinimalTests(BackendConformance, unittest.TestCase):
    """The least that is a backend: its clock, and whether it is acquiring, which it never is."""

    def make_backend(self) -> object:
        class Minimal(Backend):
            def status(self):
                return Ticks.now(), "ok", False

        return Minimal()
