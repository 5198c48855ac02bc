"""The simulated instruments: a Backend for every one of them, without hardware.

`SimulatedBackend("sardara")` is all that a user needs; INSTRUMENTS lists the names. What the instruments
are is data in instruments, what they do is in backend (MISTRAL's tasks: mistral), which sections they can
have in sections, what they measure in signal.
"""

from __future__ import annotations

from discosbackend.simulator.backend import SimulatedBackend
from discosbackend.simulator.instruments import INSTRUMENTS, Configuration, Instrument, Limits
from discosbackend.simulator.mistral import SimulatedMistral
from discosbackend.simulator.sections import Section

__all__ = [
    "INSTRUMENTS",
    "Configuration",
    "Instrument",
    "Limits",
    "Section",
    "SimulatedBackend",
    "SimulatedMistral",
]
