"""The exceptions of the simulator, one sentence each."""

from __future__ import annotations

__all__ = ["ControlError", "FaultScriptError", "InstrumentError", "RecordingError", "SkyError"]


class SkyError(ValueError):
    """What a simulated telescope shall look at cannot be; the text says what is wrong, and what would be right."""


class RecordingError(Exception):
    """A recording of the simulator cannot be read, or not be made into a file; the text says why."""


class InstrumentError(ValueError):
    """An instrument cannot be simulated as its profile says; the text says what is wrong, and what would be right."""


class FaultScriptError(ValueError):
    """A fault cannot be armed as it was described; the text says what is wrong, and what would be right."""


class ControlError(Exception):
    """A simulator cannot be controlled as asked; the text says what is wrong, and what would be right."""
