"""The version of the package, and the version of the protocol that it implements."""

from __future__ import annotations

__all__ = ["__protocol_version__", "__version__"]

__version__ = "2.0.0"
__protocol_version__ = "1.4"
