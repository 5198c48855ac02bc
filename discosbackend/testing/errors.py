"""The exceptions of the conformance kit, one sentence each."""

from __future__ import annotations

__all__ = ["NotServed", "ProfileError"]


class NotServed(Exception):
    """The backend that a test case makes cannot be served; the text is what its process said."""


class ProfileError(Exception):
    """A profile of the conformance kit cannot be used; the text says what is wrong, and what would be right."""
