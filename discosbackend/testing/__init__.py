"""The conformance kit: whether a server speaks the protocol, and an instrument does what it should.

`BackendConformance` is a mixin for a unittest.TestCase of one's own; importing it collects nothing.
docs/architecture.md lists the modules.
"""

from __future__ import annotations

from discosbackend.testing.conformance import BackendConformance
from discosbackend.testing.profile import Profile

__all__ = ["BackendConformance", "Profile"]
