"""Runs the servers of defective_servers in a separate process, and cases on them."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
from typing import Any

from discosbackend.client import Client
from discosbackend.testing import Profile
from discosbackend.testing.case_context import CaseContext
from discosbackend.testing.conformance import CASES
from discosbackend.testing.runner import Result, evaluate
from discosbackend.testing.send_guard import SendGuard

from . import forking
from .serving import ROOT, environment
from .settings import PATIENCE


@functools.cache
def _ports() -> dict[str, int]:
    """Start the servers, which run until the tests end, and return their ports."""
    reading, writing = os.pipe()
    ending, ours = os.pipe()
    # The servers log many errors.
    with open(reading) as told, open(writing, "wb") as theirs, open(os.devnull, "wb") as nowhere:
        program = forking.popen(
            [sys.executable, "-m", "test.defective_servers", str(ending)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=nowhere,
            pass_fds=[ending],
        )
        os.close(ending)
        theirs.close()

        def end() -> None:
            os.close(ours)
            program.wait(PATIENCE)

        # A module fixture would also be run for the tests that the tests run.
        atexit.register(end)
        return json.loads(told.readline())


def address_of(server: str) -> tuple[str, int]:
    """Return the address of one of the servers."""
    return "127.0.0.1", _ports()[server]


def client_of(server: str) -> Client:
    """Return a client of one of the servers."""
    return Client(port=_ports()[server])


class BackendSimulatorProfile(Profile):
    """The values that most of the servers accept. The arguments of set-section are wrong in any other order."""

    valid_configuration = "K2"
    valid_integration = 100
    valid_section = (0, 0.0, 1500.0, 6, "CP", 3000.0, 1024)
    valid_shift = 1
    inputs = 2
    lead = 0.1


def tried(case: str, server: str, *, guard: SendGuard | None = None, **attributes: Any) -> Result:
    """Run one case on one of the servers, with these attributes of the profile."""
    profile = type("OfServer", (BackendSimulatorProfile,), attributes)()
    return evaluate(CASES[case], CaseContext(profile, address_of(server), guard=guard))
