"""The conformance kit: tests whether a server implements the protocol, and whether its instrument behaves as required.

`BackendConformance` is a mixin for your own unittest.TestCase. A test runner collects nothing from the import alone.
docs/architecture.md lists the modules.
"""

from __future__ import annotations

from discosbackend.testing.conformance import BackendConformance
from discosbackend.testing.profile import Profile

__all__ = ["BackendConformance", "Profile"]
