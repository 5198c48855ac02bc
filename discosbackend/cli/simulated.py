"""The options of `discos-backend-server` that are about simulated instruments, and what is served then.

What such an instrument does is the simulator's business; the other options, and serving itself, are in server.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from discosbackend.backend import declared_commands
from discosbackend.commands import COMMANDS
from discosbackend.errors import ControlError, FaultScriptError, InstrumentError, SkyError
from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import DBFactory
from discosbackend.simulator import INSTRUMENTS, SimulatedBackend
from discosbackend.simulator.profile_file import instrument_of, profile_text, shipped_instruments
from discosbackend.simulator.sky import load_sky

if TYPE_CHECKING:
    from discosbackend.simulator.control import ControlChannel
    from discosbackend.simulator.faults import Faults
    from discosbackend.simulator.faulty import FaultyFactory

__all__ = ["CannotSimulate", "Simulation", "add_options", "listing", "misplaced", "simulation", "unknown"]

DATA = "discos-data"
"""Where acquisitions are recorded unless told otherwise, below the current folder."""


class CannotSimulate(Exception):
    """Why this simulation cannot be, in one line."""


class Simulation(NamedTuple):
    """What is served: the backend, its faults if there can be any, and where it is controlled, if anywhere."""

    backend: SimulatedBackend
    faults: Faults | None
    address: str | None

    def factory(self, handler: DBProtocolHandler, greeting_delay: float) -> DBFactory:
        """What makes its connections: bare of faults, where there can never be any."""
        if self.faults is None:
            return DBFactory(handler, greeting_delay=greeting_delay)
        from discosbackend.simulator.faulty import FaultyFactory  # pylint: disable=import-outside-toplevel

        return FaultyFactory(
            handler,
            self.faults,
            clock=self.backend.clock,
            reset=self.backend.power_cycle,
            greeting_delay=greeting_delay,
        )

    def control(self, factory: DBFactory) -> ControlChannel | None:
        """The channel on which it is controlled, open; None where none was asked for. CannotSimulate."""
        if self.address is None:
            return None
        from discosbackend.simulator.control import ControlChannel  # pylint: disable=import-outside-toplevel
        from discosbackend.simulator.controls import Controls  # pylint: disable=import-outside-toplevel

        faulty = cast("FaultyFactory", factory)
        controls = Controls(
            self.backend,
            faults=faulty.faults,
            pause=faulty.pause,
            resume=faulty.resume,
            extra_state=lambda: {"connections": sorted(map(str, faulty.connections))},
        )
        try:
            channel = ControlChannel(controls, self.address)
            channel.open()
        except ControlError as problem:
            raise CannotSimulate(str(problem)) from None
        return channel


def add_options(parser: argparse.ArgumentParser) -> None:
    """Everything that makes sense with --simulate only. Defaults are None, so that `misplaced` can tell."""
    group = parser.add_argument_group("the simulated instrument")
    group.add_argument(
        "--data",
        metavar="FOLDER",
        help=f"where acquisitions are recorded until convert-data makes files of them (default: {DATA})",
    )
    group.add_argument("--no-data", action="store_true", default=None, help="record nothing")
    group.add_argument(
        "--root", metavar="FOLDER", help="take the absolute paths of set-filename below this folder (default: /)"
    )
    group.add_argument("--sky", metavar="FILE", help="what there is to be seen: a TOML file of sources")
    group.add_argument("--seed", type=int, help="what noise and faults are drawn from (default: 0)")
    group.add_argument(
        "--time-scale",
        metavar="FACTOR",
        type=_factor,
        help="how long MISTRAL's tasks take, against the real ones (default: 1; 0.01 makes a minute 0.6 s)",
    )
    group.add_argument(
        "--control",
        metavar="ADDRESS",
        help="have it controlled by discos-backend-simctl: a port of 127.0.0.1, 0 for a free one, or the path of a "
        "Unix socket (default: no control)",
    )
    group.add_argument("--faults", metavar="FILE", help="what goes wrong on purpose: a TOML script")


def misplaced(options: argparse.Namespace) -> str:
    """The first option that says something about a simulated instrument, "" if there is none."""
    for name in ("data", "no_data", "root", "sky", "seed", "time_scale", "control", "faults"):
        if getattr(options, name) is not None:
            return "--" + name.replace("_", "-")
    return ""


def unknown(name: str) -> str:
    """What is wrong with the argument of --simulate, where it is neither an instrument nor a file; else ""."""
    if name in INSTRUMENTS or Path(name).exists():
        return ""
    return f"--simulate: no instrument is called {name!r}: {', '.join(INSTRUMENTS)}, or the path of a TOML file"


def listing(name: str | None) -> str:
    """The instruments with their configurations; or, for a shipped one, the profile to copy and edit."""
    if name is not None:
        return profile_text(name)
    lines = []
    for each, description in shipped_instruments():
        lines.append(f"{each}: {description}")
        instrument = instrument_of(each)
        for configuration in instrument.configurations.values():
            kind = "full Stokes, " if configuration.stokes else ""
            feeds = f"feed{'s' * (len(configuration.feeds) > 1)} {' '.join(map(str, configuration.feeds))}"
            bins = f"{configuration.bins} bins" if configuration.bins > 1 else "total power"
            lines.append(
                f"    {configuration.name:<14}{kind}{configuration.inputs} inputs, {feeds}, "
                f"{configuration.bandwidth:g} MHz, {bins}, {configuration.attenuation:g} dB"
            )
        for task in instrument.tasks:
            lines.append(f"    {task.command:<14}{task.duration:g} s")
    return "\n".join(lines) + "\n"


def simulation(options: argparse.Namespace) -> Simulation:
    """What the options ask for. CannotSimulate when it cannot be."""
    data = None if options.no_data else Path(options.data or DATA)
    seed = options.seed or 0
    try:
        backend = SimulatedBackend(
            instrument_of(options.simulate),
            seed=seed,
            data=None if data is None else data.absolute(),
            root=None if options.root is None else Path(options.root).absolute(),
            sky=None if options.sky is None else load_sky(options.sky),
            time_scale=1.0 if options.time_scale is None else options.time_scale,
        )
        faults = _faults(options, seed, backend)
    except (InstrumentError, SkyError, FaultScriptError) as problem:
        raise CannotSimulate(str(problem)) from None
    return Simulation(backend, faults, options.control)


def _faults(options: argparse.Namespace, seed: int, backend: SimulatedBackend) -> Faults | None:
    """The faults that are armed at first; None where there can never be any, so that nothing is in the way."""
    if options.faults is None and options.control is None:
        return None
    from discosbackend.simulator.faults import Faults, load_faults  # pylint: disable=import-outside-toplevel

    commands = [*COMMANDS, *declared_commands(backend)]
    return Faults(seed, commands=commands) if options.faults is None else load_faults(options.faults, commands)


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 <= factor < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no factor: 0 or more, such as 0.01")
    return factor
