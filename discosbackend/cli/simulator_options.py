"""The options of `discos-backend-server` that are about a simulated instrument. They load nothing of the simulator.

What is done with them is in simulated; the other options are in server.
"""

from __future__ import annotations

import argparse
import math

__all__ = ["DATA", "add_options", "misplaced"]

DATA = "discos-data"
"""Where acquisitions are recorded unless told otherwise, below the current folder."""


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
    group.add_argument(
        "--seed",
        type=int,
        help="what noise is drawn from, and faults whose script has no seed of its own (default: 0)",
    )
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


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 <= factor < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no factor: 0 or more, such as 0.01")
    return factor
