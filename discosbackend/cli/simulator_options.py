"""The options of `discos-backend-server` for a simulated instrument.

This module does not import the simulator. simulated uses the options; server has the other options.
"""

from __future__ import annotations

import argparse

from discosbackend.cli.argument_types import not_negative

__all__ = ["DATA", "add_options", "misplaced"]

DATA = "discos-data"
"""The default folder of recordings, in the current folder."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that are valid with --simulate only. Their defaults are None, so that misplaced() works."""
    group = parser.add_argument_group("the simulated instrument")
    group.add_argument(
        "--data",
        metavar="FOLDER",
        help=f"the folder of recordings, which convert-data converts to files (default: {DATA})",
    )
    group.add_argument("--no-data", action="store_true", default=None, help="record nothing")
    group.add_argument(
        "--root", metavar="FOLDER", help="the folder that stands for / in the paths of set-filename (default: /)"
    )
    group.add_argument("--sky", metavar="FILE", help="the sky: a TOML file of sources (default: an empty sky)")
    group.add_argument(
        "--seed",
        type=int,
        help="the seed of the noise, and of faults if their script has none (default: 0)",
    )
    group.add_argument(
        "--time-scale",
        metavar="FACTOR",
        type=_factor,
        help="the factor on the duration of MISTRAL's tasks (default: 1; with 0.01 a minute takes 0.6 s)",
    )
    group.add_argument(
        "--control",
        metavar="ADDRESS",
        help="the address for discos-backend-simctl: a port of 127.0.0.1, 0 for a free one, or the path of a Unix "
        "socket (default: no control)",
    )
    group.add_argument("--faults", metavar="FILE", help="inject faults, for testing clients: a TOML script")


def misplaced(options: argparse.Namespace) -> str:
    """Return the first given option that is valid with --simulate only, "" if there is none."""
    for name in ("data", "no_data", "root", "sky", "seed", "time_scale", "control", "faults"):
        if getattr(options, name) is not None:
            return "--" + name.replace("_", "-")
    return ""


def _factor(text: str) -> float:
    return not_negative(text, "a factor: 0 or more, such as 0.01")
