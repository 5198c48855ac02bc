"""Simulated instruments: a Backend without hardware, described by a TOML profile.

`SimulatedBackend("sardara")` simulates an instrument of the package; INSTRUMENTS lists them.
`SimulatedBackend("mine.toml")` simulates an instrument of the user. docs/architecture.md lists the modules.
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
