"""Pointing: where the telescope points while there is only a simulated sky.

The receiver does not know: sky decides what the beam lets through. Here are the positions that agree
with that, for self-contained files; a merged file has the telescope's own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import erfa
import numpy as np
from astropy_iers_data import IERS_A_FILE

from discosbackend.simulator.instrument.model import Receiver
from discosbackend.ticks import TICKS_PER_SECOND

__all__ = ["Pointing"]

# The ecliptic's north pole: ninety degrees from the Sun on any date (readers need a further package near it),
# and from the Sardinia Radio Telescope never below 16 degrees of elevation.
_RIGHT_ASCENSION = math.radians(270.0)
_DECLINATION = math.radians(66.56)

# The telescope's public geocentric coordinates, in metres.
_SITE = (4865182.7660, 791922.6890, 4035137.1740)

# Seconds between which azimuth and elevation are as good as straight lines: to 0.2 milliarcseconds.
_STRAIGHT = 1.0

_DAY = 86400 * TICKS_PER_SECOND
_JULIAN_DATE_OF_1970 = 2440587.5
_MJD_OF_1970 = 40587

# Columns of a line of IERS's table of the Earth's rotation, a line a day: MJD; UT1 - UTC in s, x and y of the pole in
# arcseconds.
_MJD = slice(7, 12)
_FIELDS = (slice(58, 68), slice(18, 27), slice(37, 46))

# What ERFA calls the ellipsoid. The wavelength in micrometres matters only with an atmosphere.
_WGS84 = 1
_WAVELENGTH = 1.0


class Pointing:
    """The telescope on a source at a fixed place, or scanning over it in right ascension if it drifts.

    The scan's speed makes the source cross the beam in the time that Source.crossing says; the telescope is
    on it at Source.transit. The first source that drifts decides.
    """

    right_ascension = _RIGHT_ASCENSION
    declination = _DECLINATION

    def __init__(self, receiver: Receiver, sky: Mapping[str, Any]) -> None:
        sources = sky["sources"].values()
        self._transit, self._speed = 0.0, 0.0
        for source in sources:
            if source["transit"] is not None:
                self._transit = source["transit"]
                # Right ascension is wider than the arc on the sky by 1 / cos(declination).
                beam = math.radians(receiver.beam / 60) / math.cos(_DECLINATION)
                self._speed = beam / source["crossing"]
                break

    @property
    def scans(self) -> bool:
        """Whether the telescope moves across the source."""
        return self._speed != 0

    def at(self, ticks: Any, begins: int) -> dict[str, Any]:
        """The columns of DATA TABLE that say where the telescope looks at these instants, in rad.

        `ticks` is an array, and `begins` when the acquisition began, both in 100 ns. Nothing is downloaded.
        """
        right_ascension = self._right_ascension(ticks, begins)
        azimuth, elevation, latitude = self._horizontal(ticks, begins)
        east = -np.sin(azimuth) * math.cos(latitude)
        north = math.sin(latitude) * np.cos(elevation)
        north -= math.cos(latitude) * np.sin(elevation) * np.cos(azimuth)
        return {
            "raj2000": right_ascension,
            "decj2000": np.full(len(ticks), _DECLINATION),
            "az": azimuth,
            "el": elevation,
            "par_angle": np.arctan2(east, north),
            # The derotator stands still: the feeds' offsets are in azimuth and elevation.
            "derot_angle": np.zeros(len(ticks)),
        }

    def _right_ascension(self, ticks: Any, begins: int) -> Any:
        seconds = (ticks - begins) / TICKS_PER_SECOND
        return (_RIGHT_ASCENSION + self._speed * (seconds - self._transit)) % math.tau

    def _horizontal(self, ticks: Any, begins: int) -> tuple[Any, Any, float]:
        """Azimuth, elevation, and the site's latitude, in rad; exact at so many instants as it takes."""
        knots, span = ticks, int(ticks[-1] - ticks[0])
        if (count := 2 + int(span / TICKS_PER_SECOND / _STRAIGHT)) < len(ticks):
            knots = ticks[0] + np.linspace(0, span, count).astype(np.int64)
        azimuth, elevation, latitude = _horizontal(self._right_ascension(knots, begins), knots)
        if knots is not ticks:
            since, at = ticks - ticks[0], knots - ticks[0]
            azimuth = np.interp(since, at, np.unwrap(azimuth)) % math.tau
            elevation = np.interp(since, at, elevation)
        return azimuth, elevation, latitude


def _horizontal(right_ascension: Any, ticks: Any) -> tuple[Any, Any, float]:
    """Azimuth and elevation, and the site's latitude, in rad."""
    days, rest = np.divmod(ticks, _DAY)
    longitude, latitude, height = erfa.gc2gd(_WGS84, np.array(_SITE))
    ut1_utc, x, y = _rotation(days + _MJD_OF_1970, rest / _DAY)
    still, no_air = (0.0,) * 4, (0.0,) * 3
    with warnings.catch_warnings():
        # A simulated clock may be off by decades, when leap seconds are anybody's guess.
        warnings.simplefilter("ignore", erfa.ErfaWarning)
        azimuth, zenith_distance, *_ = erfa.atco13(
            *(right_ascension, _DECLINATION, *still),
            *(_JULIAN_DATE_OF_1970 + days, rest / _DAY, ut1_utc),
            *(longitude, latitude, height, x, y, *no_air, _WAVELENGTH),
        )
    return azimuth, math.pi / 2 - zenith_distance, float(latitude)


def _rotation(days: Any, fractions: Any) -> tuple[Any, Any, Any]:
    """UT1 - UTC in s, and the pole's x and y in rad, on these days of MJD, from the table that astropy brings.

    0 where the table ends, in years for which nobody knows them: that makes at most 14 arcseconds.
    """
    first, last = int(days.min()), int(days.max())
    table = np.zeros((last - first + 2, len(_FIELDS)))
    with open(IERS_A_FILE, "rb") as file:
        for line in file:
            # The dates go on where the values end.
            if first <= (day := int(line[_MJD])) <= last + 1 and line[_FIELDS[0]].strip():
                table[day - first] = [float(line[field]) for field in _FIELDS]
    steps = table[1:] - table[:-1]
    # Over a leap second UT1 goes on, and UTC is set back.
    steps[:, 0] -= np.round(steps[:, 0])
    ut1_utc, x, y = (table[days - first] + steps[days - first] * fractions[:, np.newaxis]).T
    return ut1_utc, x * erfa.DAS2R, y * erfa.DAS2R
