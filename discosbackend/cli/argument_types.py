"""Types of arguments, for argparse, that several command lines use."""

from __future__ import annotations

import argparse

__all__ = ["positive_seconds"]

# The longest timeout of a socket, in s.
_DAY = 86400


def positive_seconds(text: str) -> float:
    """Convert an argument to a number of seconds above 0, at most a day. Raise ArgumentTypeError if it is not."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _DAY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most a day")
    return seconds
