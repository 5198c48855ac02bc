"""Levels: the temperatures of a receiver's inputs, drawn once for a seed from what a profile gives as a range."""

from __future__ import annotations

import random
from functools import lru_cache

from discosbackend.simulator.instruments import Receiver

__all__ = ["levels"]

# Inputs with levels of their own; more feeds than any receiver has.
_INPUTS = 64


@lru_cache(maxsize=64)
def levels(receiver: Receiver, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Tsys and the noise diode's temperature in K, by input number; the same for the same receiver and seed."""
    draw = random.Random(f"{seed} {receiver.code}")
    tsys, marks = [], []
    for _ in range(_INPUTS):
        # One after the other: an input keeps its levels whatever becomes of _INPUTS.
        tsys.append(draw.uniform(*receiver.tsys))
        marks.append(draw.uniform(*receiver.mark))
    return tuple(tsys), tuple(marks)
