"""What the environment asks of the tests: how long to wait for a condition, and whether to run the long ones."""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
import time
import unittest
from collections.abc import Callable
from typing import TypeVar

__all__ = [
    "HAS_TLS",
    "LONG",
    "PATIENCE",
    "REACTOR",
    "long_only",
    "needs_prometheus",
    "needs_aiokatcp",
    "needs_ipv6",
    "needs_pyserial",
    "needs_pyzmq",
    "needs_tls",
    "wait_for_imports",
    "wait_until",
]

T = TypeVar("T")

PATIENCE = 120.0 * float(os.environ.get("DISCOS_TEST_PATIENCE", "1"))
"""Seconds after which a test gives up waiting. A healthy wait ends long before, also on a busy machine.

DISCOS_TEST_PATIENCE multiplies it.
"""

LONG = os.environ.get("DISCOS_TEST_LONG", "") not in ("", "0")
"""Whether every repetition is wanted (`./run_tests --long`) or a few of each kind are enough."""

REACTOR = os.environ.get("DISCOS_TEST_REACTOR", "default")
"""The reactor on which the servers of the tests run, `default` or `asyncio`."""

HAS_TLS = importlib.util.find_spec("OpenSSL") is not None
"""Whether pyOpenSSL is installed, which `ssl:` endpoints need."""


def _has_ipv6() -> bool:
    """Whether a socket of this host can have the address ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = unittest.skipUnless(_has_ipv6(), "this host has no IPv6")
"""Decorator of a test that listens on ::1."""

needs_tls = unittest.skipUnless(HAS_TLS, "needs pyOpenSSL: pip install 'discosbackend[tls]'")
"""Decorator of a test that serves with TLS."""

needs_pyserial = unittest.skipUnless(
    importlib.util.find_spec("serial"), "needs pyserial: pip install 'discosbackend[serial]'"
)
"""Decorator of a test that opens a serial port."""

needs_prometheus = unittest.skipUnless(
    importlib.util.find_spec("prometheus_client"), "needs prometheus-client: pip install 'discosbackend[metrics]'"
)
"""Decorator of a test that uses prometheus-client, which /metrics needs."""
needs_aiokatcp = unittest.skipUnless(importlib.util.find_spec("aiokatcp"), "needs aiokatcp: pip install aiokatcp")
"""Decorator of a test of the example that drives a KATCP board."""
needs_pyzmq = unittest.skipUnless(
    importlib.util.find_spec("zmq"), "needs pyzmq: pip install 'discosbackend[telemetry]'"
)
"""Decorator of a test that opens a socket of ZeroMQ."""

long_only = unittest.skipUnless(LONG, "takes long: ./run_tests --long")
"""Decorator of a test that adds only repetitions to what a shorter one shows."""


def wait_until(condition: Callable[[], T], what: str = "") -> T:
    """Wait until `condition()` is true, and return what it returned; AssertionError after PATIENCE."""
    end = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {PATIENCE:g} s for {what or condition}")
        pause.wait(0.01)
    return found


def wait_for_imports() -> None:
    """Wait for the threads in which an earlier test has begun to import numpy or astropy.

    At their end, imports put the hook of the warnings back that they found, whatever a test has set meanwhile.
    """
    for thread in threading.enumerate():
        if thread.name in ("discos-astropy", "discos-numpy"):
            thread.join(PATIENCE)
