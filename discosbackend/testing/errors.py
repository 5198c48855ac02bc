"""The exceptions of the conformance kit."""

from __future__ import annotations

__all__ = ["NotServed", "ProfileError"]


class NotServed(Exception):
    """The backend of a test case cannot be served. The exception's text is the output of the server process."""


class ProfileError(Exception):
    """A profile of the conformance kit is not valid. The exception's text says what is wrong and what is allowed."""
