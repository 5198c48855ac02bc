"""The conformance kit: whether a server speaks the protocol, and an instrument does what it should.

`BackendConformance` is a mixin for a unittest.TestCase of one's own; importing it collects nothing.

conformance has the mixin, profile what it has to be told of an instrument (profile_file from a file), cases
what a case is, line_cases, command_cases (with wrong_arguments), acquisition_cases and hostile_cases the cases
themselves, asking and check what they ask and judge with, caution what may be sent, wire the connection,
process the one in which a backend is served, trial verdicts, report_* what is told of a run.
"""

from __future__ import annotations

from discosbackend.testing.conformance import BackendConformance
from discosbackend.testing.profile import Profile

__all__ = ["BackendConformance", "Profile"]
