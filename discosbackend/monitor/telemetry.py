"""The messages of DISCOS telemetry: the topic `backends`, as JSON. Pure functions on records, without I/O.

A message is an object with one key, the name of the backend, and the state as its value. It never contains null or NaN,
because the deployed client stops at them: an unknown number is -1. telemetry_publisher collects the state;
telemetry_socket sends the messages.
"""

from __future__ import annotations

import json
import math
import operator
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, SupportsFloat, SupportsIndex

from discosbackend.ticks import TICKS_PER_DAY, TICKS_PER_SECOND, Ticks

__all__ = [
    "TOPIC",
    "UNKNOWN",
    "BackendState",
    "TelemetryChannel",
    "default_name",
    "encode",
    "message",
    "timestamp",
]

TOPIC = "backends"

UNKNOWN = -1
"""The value in a message for an unknown number."""

POLARIZATIONS = ("LHCP", "RHCP", "FULL STOKES")

# The epoch of omg_time, 1582-10-15, in ticks since 1970.
_OMG_EPOCH = -122_192_928_000_000_000

# The modified Julian date of 1970-01-01.
_MJD_1970 = 40587

# The last 100 ns of the year 9999, the last year that ISO 8601 can write with four digits.
_LATEST = 2_932_897 * TICKS_PER_DAY - 1

# The fields of TelemetryChannel by their names in a message.
_CHANNEL_FIELDS = {
    "id": "id",
    "attenuation": "attenuation",
    "bandWidth": "bandwidth",
    "bins": "bins",
    "polarization": "polarization",
    "sampleRate": "sample_rate",
    "startFrequency": "start_frequency",
    "systemTemperature": "system_temperature",
}

_REAL = ("attenuation", "bandwidth", "sample_rate", "start_frequency", "system_temperature")


@dataclass(frozen=True, slots=True)
class TelemetryChannel:
    """One channel of a backend, for DISCOS telemetry: the method `telemetry_channels()` of a backend returns them.

    A number may also be one of numpy. An unknown number is None or NaN; it is stored as -1.

    Parameters
    ----------
    id
        The number of the channel, 0 or more.
    polarization
        `"LHCP"`, `"RHCP"` or `"FULL STOKES"`.
    start_frequency
        The lowest frequency in the band of the backend, in MHz.
    bandwidth
        In MHz.
    bins
        The number of bins, at least 1.
    sample_rate
        In MHz. Default: unknown.
    attenuation
        In dB. Default: unknown.
    system_temperature
        In K. Default: unknown.

    Raises
    ------
    TypeError
        If a value has another type.
    ValueError
        If the polarization is another text, or `id` or `bins` is too small.

    Examples
    --------
    >>> from discosbackend import TelemetryChannel
    >>> TelemetryChannel(0, "LHCP", start_frequency=0, bandwidth=1500, bins=1024).system_temperature
    -1
    """

    id: int
    polarization: Literal["LHCP", "RHCP", "FULL STOKES"]
    start_frequency: float | None = None
    bandwidth: float | None = None
    bins: int | None = None
    sample_rate: float | None = None
    attenuation: float | None = None
    system_temperature: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("id", 0), ("bins", 1)):
            value = _whole(f"{name} of a telemetry channel", getattr(self, name))
            if value < least and (value != UNKNOWN or name == "id"):
                raise ValueError(f"{name} of a telemetry channel must be at least {least}, not {value}")
            object.__setattr__(self, name, value)
        for name in _REAL:
            object.__setattr__(self, name, _number(f"{name} of a telemetry channel", getattr(self, name)))
        if self.polarization not in POLARIZATIONS:
            known = ", ".join(POLARIZATIONS)
            raise ValueError(f"polarization of a telemetry channel must be one of {known}, not {self.polarization!r}")


def _whole(what: str, value: SupportsIndex | None) -> int:
    if value is None:
        return UNKNOWN
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, not {value!r}") from None


def _number(what: str, value: SupportsFloat | None) -> float:
    """Return a number that JSON can contain; -1 if it is unknown. TypeError for something else, such as a text."""
    if value is None:
        return UNKNOWN
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} must be a number, not {value!r}")
    number = float(value)
    return number if math.isfinite(number) else UNKNOWN


@dataclass(frozen=True, slots=True)
class BackendState:
    """The state of a backend, as a message reports it.

    Parameters
    ----------
    time
        When the message is made.
    backend_time
        The clock of the backend at this time.
    acquiring
        Whether the backend is acquiring.
    start_pending
        Whether it is going to start at a given time.
    device_busy
        Whether a command of the lanes `device` or `files` runs.
    status_text
        The text of `status`. None: there was no reply yet.
    recording_problem
        Why data are not recorded; "" if there is no problem.
    clock_synchronised
        Whether the clock of the host is synchronised. None: unknown.
    integration
        The integration time in ms. None: unknown.
    channels
        The channels of the backend.
    """

    time: Ticks
    backend_time: Ticks
    acquiring: bool = False
    start_pending: bool = False
    device_busy: bool = False
    status_text: str | None = None
    recording_problem: str = ""
    clock_synchronised: bool | None = None
    integration: float | None = None
    channels: Sequence[TelemetryChannel] = ()


def message(name: str, state: BackendState) -> dict[str, Any]:
    """Return the message about a backend as JSON values.

    Parameters
    ----------
    name
        The name of the backend: letters, digits and _.
    state
        Its state.
    """
    return {
        name: {
            "backendTime": timestamp(state.backend_time),
            "busy": state.acquiring or state.device_busy,
            "channels": [_channel(channel) for channel in state.channels],
            "commandLineError": state.status_text not in (None, "ok"),
            "dataLineError": bool(state.recording_problem),
            "integration": _number("the integration time", state.integration),
            "sampling": state.acquiring,
            # As TotalPower uses it: an acquisition is prepared, and samples nothing yet.
            "suspended": state.start_pending and not state.acquiring,
            # A host that cannot be asked is not reported as wrong.
            "timeSync": state.clock_synchronised is not False,
            "timestamp": timestamp(state.time),
        }
    }


def _channel(channel: TelemetryChannel) -> dict[str, Any]:
    return {key: getattr(channel, attribute) for key, attribute in _CHANNEL_FIELDS.items()}


def timestamp(time: Ticks) -> dict[str, Any]:
    """Return a time in the four forms of a message.

    `omg_time` is exact. `iso8601` has whole milliseconds; the rest is dropped. A time that these forms cannot write is
    replaced by the nearest one that they can: 1582-10-15, or the end of the year 9999.
    """
    ticks = min(max(int(time), _OMG_EPOCH), _LATEST)
    # Integers, because a float would round the last millisecond up.
    moment = datetime(1970, 1, 1) + timedelta(milliseconds=ticks * 1000 // TICKS_PER_SECOND)  # noqa: DTZ001
    return {
        "iso8601": moment.isoformat(timespec="milliseconds") + "Z",
        "mjd": ticks / TICKS_PER_DAY + _MJD_1970,
        "omg_time": ticks - _OMG_EPOCH,
        "unix_time": ticks / TICKS_PER_SECOND,
    }


def encode(content: Mapping[str, Any], compression: str = "none") -> bytes:
    """Return the payload of a message.

    Parameters
    ----------
    content
        The message, as message() returns it.
    compression
        `none`: JSON in UTF-8. `zlib`: the same, compressed with zlib's default level.
    """
    payload = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    return zlib.compress(payload) if compression == "zlib" else payload


def default_name(what: str) -> str:
    """Return the name in the messages for the name of an instrument or of a class: `sardara` becomes `Sardara`."""
    # The name that DISCOS itself uses.
    if what == "totalpower":
        return "TotalPower"
    name = re.sub(r"[^A-Za-z0-9_]+", "_", what).strip("_") or "Backend"
    return name[0].upper() + name[1:]
