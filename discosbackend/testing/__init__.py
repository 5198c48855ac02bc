"""The conformance kit: whether a server speaks the protocol, and an instrument does what it should.

`BackendConformance` is a mixin for a unittest.TestCase of one's own; importing it collects nothing.

conformance has the mixin, profile what it has to be told of an instrument, cases what a case is,
line_cases, command_cases (with wrong_arguments) and acquisition_cases the cases themselves, check what they
ask and judge with, wire the connection, process the one in which a backend is served.
"""

from __future__ import annotations

from discosbackend.testing.conformance import BackendConformance
from discosbackend.testing.profile import Profile

__all__ = ["BackendConformance", "Profile"]
