"""What several command lines have in common: a type of arguments, for argparse, and the option --version."""

from __future__ import annotations

import argparse
import math

from discosbackend._version import __protocol_version__, __version__

__all__ = ["add_version", "not_negative"]


def not_negative(text: str, what: str) -> float:
    """Convert an argument to a finite number, 0 or more. Raise ArgumentTypeError if it is not `what`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add the option --version, which prints the versions of the package and of the protocol."""
    parser.add_argument(
        "--version",
        action="version",
        version=f"%(prog)s {__version__}, protocol version {__protocol_version__}",
    )
