"""The simulated instruments: a Backend for every one of them, without hardware.

`SimulatedBackend("sardara")` is all that a user needs; INSTRUMENTS has those that come with the package, and
`SimulatedBackend("mine.toml")` is one of a user's own. docs/architecture.md lists the modules.
"""

from __future__ import annotations

from discosbackend.simulator.backend import SimulatedBackend
from discosbackend.simulator.instrument.model import Configuration, Instrument, Limits
from discosbackend.simulator.instrument.profiles import INSTRUMENTS, instrument_of, profile_text, shipped_instruments
from discosbackend.simulator.instrument.sections import Section
from discosbackend.simulator.signal.sky import Line, Sky, Source, load_sky

__all__ = [
    "INSTRUMENTS",
    "Configuration",
    "Instrument",
    "Limits",
    "Line",
    "Section",
    "SimulatedBackend",
    "Sky",
    "Source",
    "instrument_of",
    "load_sky",
    "profile_text",
    "shipped_instruments",
]
