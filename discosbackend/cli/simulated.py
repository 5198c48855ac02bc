"""Makes what `discos-backend-server` serves for a simulated instrument: the backend, its faults and its control.

It is imported only in that case: a server of a user's own backend loads nothing of the simulator. simulator_options has
the options; server runs the server.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from discosbackend.backend import commands_of
from discosbackend.cli.own_backend import CannotServe, find
from discosbackend.cli.simulator_options import DATA
from discosbackend.commands import COMMANDS
from discosbackend.errors import in_one_line
from discosbackend.handlers import DBProtocolHandler
from discosbackend.log import printable
from discosbackend.protocol import DBFactory
from discosbackend.simulator.backend import SimulatedBackend
from discosbackend.simulator.errors import ControlError, FaultScriptError, InstrumentError, SkyError
from discosbackend.simulator.instrument.model import Instrument
from discosbackend.simulator.instrument.profiles import INSTRUMENTS, instrument_of, profile_text

if TYPE_CHECKING:
    from discosbackend.access import AccessRules
    from discosbackend.simulator.control.server import ControlChannel
    from discosbackend.simulator.faults.protocol import FaultyFactory
    from discosbackend.simulator.faults.script import Faults

__all__ = ["Simulation", "listing", "simulation", "unknown"]


class Simulation(NamedTuple):
    """A simulated instrument to serve: the backend, its faults, if any, and the control address, if any."""

    backend: SimulatedBackend
    faults: Faults | None
    address: str | None

    def factory(
        self, handler: DBProtocolHandler, greeting_delay: float, access: AccessRules | None = None
    ) -> DBFactory:
        """Return the factory of its connections: a plain DBFactory if faults are not enabled."""
        if self.faults is None:
            return DBFactory(handler, greeting_delay=greeting_delay, access=access)
        from discosbackend.simulator.faults.protocol import FaultyFactory

        return FaultyFactory(
            handler,
            self.faults,
            clock=self.backend.clock,
            reset=self.backend.power_cycle,
            greeting_delay=greeting_delay,
            access=access,
        )

    def control(self, factory: DBFactory) -> ControlChannel | None:
        """Open its control channel and return it; None if there is no control address. Raise CannotServe on failure."""
        if self.address is None:
            return None
        from discosbackend.simulator.control.executor import OperationExecutor
        from discosbackend.simulator.control.server import ControlChannel

        faulty = cast("FaultyFactory", factory)
        executor = OperationExecutor(
            self.backend,
            faults=faulty.faults,
            server=faulty,
            extra_state=lambda: {"connections": sorted(map(str, faulty.connections))},
        )
        try:
            channel = ControlChannel(executor, self.address)
            channel.open()
        except ControlError as problem:
            raise CannotServe(str(problem)) from None
        return channel


def unknown(name: str) -> str:
    """Return the error if the argument of --simulate is neither an instrument nor a file nor a class; else ""."""
    # os.path.exists(), because Path.exists() raises OSError if the name is too long.
    if name in INSTRUMENTS or os.path.exists(name) or _is_class(name):
        return ""
    known = ", ".join(INSTRUMENTS)
    return f"--simulate: no instrument is called {name!r}: {known}, or the path of a TOML file, or MODULE:CLASS"


def _is_class(name: str) -> bool:
    """Return whether the name is MODULE:CLASS."""
    return ":" in name and not os.path.exists(name)


def listing(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """Return what --list or --show prints. Exit with an error if there is no such instrument."""
    try:
        if options.show is not None:
            return profile_text(options.show)
        instruments = [instrument_of(options.list)] if options.list else INSTRUMENTS.values()
        return "".join(map(_listed, instruments))
    except InstrumentError as problem:
        # The mistake is in the file or in a name, so the usage of the options would not help.
        parser.exit(2, f"{parser.prog}: {printable(str(problem))}\n")


def _listed(instrument: Instrument) -> str:
    lines = [f"{instrument.name}: {instrument.description}"]
    for configuration in instrument.configurations.values():
        low = configuration.receiver.local_oscillator + configuration.start_frequency
        kind = f"{configuration.bins} bins" if configuration.bins > 1 else "total power"
        feeds = f"feed{'s' * (len(configuration.feeds) > 1)} {' '.join(map(str, configuration.feeds))}"
        lines.append(
            f"    {configuration.name:<12} {configuration.receiver.code}, "
            f"{low:g} to {low + configuration.bandwidth:g} MHz, {feeds}, {configuration.inputs} inputs, {kind}"
            f"{' of full Stokes' * configuration.stokes}, "
            f"{configuration.integration} ms, {configuration.attenuation:g} dB"
        )
    lines += [f"    {task.command:<12} {task.duration:g} s" for task in instrument.tasks]
    return "\n".join(lines) + "\n"


def simulation(options: argparse.Namespace) -> Simulation:
    """Make the simulation that the options describe. Raise CannotServe if that is not possible."""
    seed = options.seed or 0
    try:
        backend = _backend(options, seed)
        faults = _faults(options, seed, backend)
    except (InstrumentError, SkyError, FaultScriptError) as problem:
        raise CannotServe(str(problem)) from None
    return Simulation(backend, faults, options.control)


def _backend(options: argparse.Namespace, seed: int) -> SimulatedBackend:
    data = None if options.no_data else Path(options.data or DATA)
    settings: dict[str, Any] = {
        "seed": seed,
        "data": None if data is None else data.absolute(),
        "root": None if options.root is None else Path(options.root).absolute(),
        "sky": options.sky,
        "time_scale": 1.0 if options.time_scale is None else options.time_scale,
    }
    name = options.simulate
    if not _is_class(name):
        return SimulatedBackend(name, **settings)
    kind = find("--simulate", name)
    if not (isinstance(kind, type) and issubclass(kind, SimulatedBackend)):
        raise CannotServe(f"--simulate {name!r} is not derived from SimulatedBackend: use --backend for other classes")
    try:
        return kind(**settings)
    except (InstrumentError, SkyError):
        raise
    except Exception as problem:
        raise CannotServe(f"cannot create {kind.__name__}: {in_one_line(problem)}") from problem


def _faults(options: argparse.Namespace, seed: int, backend: SimulatedBackend) -> Faults | None:
    """Return the initial faults; None if neither --faults nor --control is given, so that faults cost nothing."""
    if options.faults is None and options.control is None:
        return None
    from discosbackend.simulator.faults.script import Faults, load_faults

    commands = [*COMMANDS, *commands_of(backend)]
    if options.faults is None:
        return Faults(seed, commands=commands)
    return load_faults(options.faults, commands, seed=seed)
