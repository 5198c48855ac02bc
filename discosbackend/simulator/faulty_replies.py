"""What faults make of a reply: its bytes, and how they are to leave.

Pure; whose reply it is, and how it is sent, is faulty's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from discosbackend.simulator.faults import Fault

__all__ = ["FaultyReply", "struck_reply"]


@dataclass(slots=True)
class FaultyReply:
    """A reply that waits to leave: its bytes, from when on it may, and how.

    `swaps`: it waits for the next one and leaves behind it. `drops`: its connection is closed after it.
    """

    data: bytes
    due: float
    swaps: bool
    byte_by_byte: bool
    drops: bool


def struck_reply(line: bytes, faults: Mapping[str, Fault], now: float) -> FaultyReply:
    """What the faults, by their kind, make of a line together. Of drops, the earliest counts."""
    if "long" in faults:
        # A comma, CR and LF are three; one byte at least, because no argument is empty.
        line += b"," + b"x" * max((faults["long"].bytes or 0) - len(line) - 3, 1)
    half = line[: len(line) // 2]
    data = half if "cut" in faults else line + (b"\n" if "lf" in faults else b"\r\n")
    if "duplicate" in faults:
        data *= 2
    if "drop-inside" in faults:
        data = half
    if "drop-before" in faults:
        data = b""
    seconds = (faults["late"].seconds or 0.0) if "late" in faults else 0.0
    drops = any(kind.startswith("drop-") for kind in faults)
    return FaultyReply(data, now + seconds, "swap" in faults and not drops, "bytes" in faults, drops)
