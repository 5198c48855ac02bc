"""QuickLook: the spectra of a backend that the page draws. They are thinned before they are sent to browsers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["MOST_INPUTS", "MOST_POINTS", "QuickLook", "encoded"]

MOST_POINTS = 1000
"""The most points of an input that are sent to a browser."""

MOST_INPUTS = 64
"""The most inputs that are sent to a browser."""

# The length of a name on the page.
_LONGEST_NAME = 40

# Decimals of the largest number of a spectrum, in scientific notation: more cannot be seen, and each costs time.
_DIGITS = 5

# How many numbers are written into one piece.
_PIECE = 250

# So many values of a list are added at once.
_VALUES_AT_ONCE = 2000

# A spectrum with more values than this is a mistake, which would block the server.
_MOST_BINS = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class QuickLook:
    """The present spectra of a backend, for the page. The method `quick_look()` of a backend returns it.

    Parameters
    ----------
    start_mhz
        The frequency of the lower edge of the band in MHz.
    width_mhz
        The width of the band in MHz, more than 0.
    spectra
        One array or list of numbers for each input, at most 64. They may have any length, and any unit. A number that
        is not finite is left out of the picture. The page gets at most 1,000 points of each: means of neighbours.
    names
        The names of the inputs, as the page shows them. Default: `input 0`, `input 1` and so on.

    Raises
    ------
    ValueError
        If the band, a spectrum or the names are not valid.

    Examples
    --------
    >>> from discosbackend import QuickLook
    >>> look = QuickLook(100.0, 500.0, [[3.0, 4.0, 5.0], [2.0, 2.5, 2.0]], ["L", "R"])
    >>> look.names
    ('L', 'R')
    """

    start_mhz: float
    width_mhz: float
    spectra: Sequence[Any]
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.start_mhz):
            raise ValueError(f"start_mhz must be a finite number in MHz, not {self.start_mhz!r}")
        if not 0 < self.width_mhz < math.inf:
            raise ValueError(f"width_mhz must be more than 0 MHz, not {self.width_mhz!r}")
        spectra = tuple(self.spectra)
        if len(spectra) > MOST_INPUTS:
            raise ValueError(f"at most {MOST_INPUTS} spectra can be shown, not {len(spectra)}")
        for number, spectrum in enumerate(spectra):
            shape = getattr(spectrum, "shape", None)
            if shape is not None and len(shape) != 1:
                raise ValueError(f"spectrum {number} must have one dimension, not the shape {shape}")
            if not 1 <= len(spectrum) <= _MOST_BINS:
                raise ValueError(f"spectrum {number} must have 1 to {_MOST_BINS} values, not {len(spectrum)}")
        names = tuple(map(str, self.names)) or tuple(f"input {number}" for number in range(len(spectra)))
        if len(names) != len(spectra):
            raise ValueError(f"{len(spectra)} spectra need as many names, not {len(names)}")
        object.__setattr__(self, "spectra", spectra)
        object.__setattr__(self, "names", tuple(name[:_LONGEST_NAME] for name in names))


def encoded(look: QuickLook) -> Iterator[str]:
    """Return the JSON of a quick look, as the page reads it, in pieces of much less than a millisecond each."""
    head = {"start_mhz": float(look.start_mhz), "width_mhz": float(look.width_mhz), "names": list(look.names)}
    yield json.dumps(head)[:-1] + ', "spectra": ['
    for number, spectrum in enumerate(look.spectra):
        points: list[float] = []
        for some in thinned_in_pieces(spectrum):
            points += some
            yield ""
        yield ", [" if number else "["
        shown = rounded(points)
        yield ""
        for first in range(0, len(shown), _PIECE):
            yield (", " if first else "") + json.dumps(shown[first : first + _PIECE])[1:-1]
        yield "]"
    yield "]}"


def thinned(spectrum: Any) -> list[float]:
    """Return at most MOST_POINTS numbers: means of groups of neighbours, of nearly the same size."""
    return [point for some in thinned_in_pieces(spectrum) for point in some]


def thinned_in_pieces(spectrum: Any) -> Iterator[list[float]]:
    """Yield the numbers of thinned(): all at once for an array, in pieces for a long list, whose means take longer."""
    count = len(spectrum)
    if hasattr(spectrum, "dtype"):
        # Not at the top, because the import takes long. A backend that returns arrays has done it.
        import numpy

        values = numpy.asarray(spectrum)
        if count > MOST_POINTS:
            first = numpy.arange(MOST_POINTS) * count // MOST_POINTS
            values = numpy.add.reduceat(values, first, dtype=numpy.float64) / numpy.diff(first, append=count)
        yield values.tolist()
        return
    if count <= MOST_POINTS:
        yield [float(value) for value in spectrum]
        return
    at_once = max(1, _VALUES_AT_ONCE * MOST_POINTS // count)
    for begin in range(0, MOST_POINTS, at_once):
        end = min(begin + at_once, MOST_POINTS)
        edges = [number * count // MOST_POINTS for number in range(begin, end + 1)]
        yield [float(sum(spectrum[low:high])) / (high - low) for low, high in pairwise(edges)]


def rounded(points: list[float]) -> list[float | None]:
    """Return numbers with as many digits as can be seen, and None for those that are not finite, as JSON has none."""
    peak = max((abs(value) for value in points if math.isfinite(value)), default=0.0)
    decimals = _DIGITS - math.floor(math.log10(peak)) if peak else 0
    # Without decimals they become integers, which are written faster.
    places = decimals if decimals > 0 else None
    return [round(value, places) if math.isfinite(value) else None for value in points]
