"""What more than one of the command lines takes, as argparse wants it. What is one's own stands there."""

from __future__ import annotations

import argparse

__all__ = ["positive_seconds"]

# What a socket can wait for, in seconds.
_DAY = 86400


def positive_seconds(text: str) -> float:
    """A number of seconds above 0, at most a day. ArgumentTypeError for anything else."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _DAY:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0, at most a day")
    return seconds
