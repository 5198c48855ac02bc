"""The conformance kit: tests whether a server implements the protocol, and whether its instrument behaves as required.

It also has LinkSimulator, which stands for a device when you test a backend without its hardware.

`BackendConformance` is a mixin for your own unittest.TestCase. A test runner collects no tests from a module that only
imports it. docs/architecture.md lists the modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discosbackend.testing.conformance import BackendConformance
from discosbackend.testing.profile import Profile

if TYPE_CHECKING:
    from discosbackend.testing.link_simulator import HangUp, LinkSimulator, Part, Wait

__all__ = ["BackendConformance", "HangUp", "LinkSimulator", "Part", "Profile", "Wait"]


def __getattr__(name: str) -> object:
    """Import the simulator when one of its names is first used, because the rest of the kit does not need Twisted."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from discosbackend.testing import link_simulator

    return getattr(link_simulator, name)
