"""The exceptions of the simulator. Each message is one sentence for the user."""

from __future__ import annotations

from discosbackend.errors import reason_of

__all__ = ["ControlError", "FaultScriptError", "InstrumentError", "MetadataError", "RecordingError", "SkyError"]
__all__ += ["lower_reason"]


class SkyError(ValueError):
    """A sky or one of its values is invalid. The message says what is wrong and what is accepted."""


class RecordingError(Exception):
    """A recording cannot be read or cannot be converted to a FITS file. The message says why."""


class InstrumentError(ValueError):
    """The profile of an instrument is invalid. The message says what is wrong and what is accepted."""


class FaultScriptError(ValueError):
    """The description of a fault is invalid. The message says what is wrong and what is accepted."""


class ControlError(Exception):
    """A control operation failed or is invalid. The message says what is wrong and what is accepted."""


class MetadataError(Exception):
    """A metadata file cannot be used. The message follows the words "metadata file", such as "has no DATA TABLE"."""


def lower_reason(problem: OSError) -> str:
    """Return the reason of an OSError in small letters, as the replies of instruments are written."""
    return reason_of(problem).lower()
