"""Pointing: the simulated position of the telescope, for files without the telescope's metadata.

signal.sky defines how sources drift through the beam; the positions here agree with it. In a merged file the positions
are those of the telescope.
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
from discosbackend.ticks import TICKS_PER_DAY, TICKS_PER_SECOND

__all__ = ["MJD_OF_1970", "Pointing"]

# The north pole of the ecliptic. It is 90 degrees from the Sun on any date (srttools needs a further package near the
# Sun), and its elevation at the Sardinia Radio Telescope is never below 16 degrees.
_RIGHT_ASCENSION = math.radians(270.0)
_DECLINATION = math.radians(66.56)

# The published geocentric coordinates of the telescope in metres.
_SITE = (4865182.7660, 791922.6890, 4035137.1740)

# Seconds. Over this time azimuth and elevation are interpolated linearly, with an error below 0.2 milliarcseconds.
_STRAIGHT = 1.0

MJD_OF_1970 = 40587
_JULIAN_DATE_OF_1970 = 2440587.5

# The columns of the IERS table of the Earth's rotation, which has one line per day: MJD; UT1 - UTC in s, and x and y of
# the pole in arcseconds.
_MJD = slice(7, 12)
_FIELDS = (slice(58, 68), slice(18, 27), slice(37, 46))

# ERFA's number of the ellipsoid. The wavelength in micrometres has no effect without an atmosphere.
_WGS84 = 1
_WAVELENGTH = 1.0


class Pointing:
    """The position of the telescope: tracking a source, or scanning over it in right ascension if the source drifts.

    The first drifting source determines the scan. Its beam crossing takes Source.crossing seconds, and the telescope
    points at it Source.transit seconds after the begin.

    Parameters
    ----------
    receiver
        The receiver, for its beam.
    sky
        The sky at the begin of the acquisition, as Sky.to_dict() returns it.
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
        """Return the columns of DATA TABLE with the position of the telescope. Nothing is downloaded.

        Parameters
        ----------
        ticks
            The instants in 100 ns, int64, shape (rows,).
        begins
            When the acquisition began, in 100 ns.

        Returns
        -------
        dict
            For each column by name: angles in rad, shape (rows,).
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
            # The derotator does not move: the offsets of the feeds are in azimuth and elevation.
            "derot_angle": np.zeros(len(ticks)),
        }

    def _right_ascension(self, ticks: Any, begins: int) -> Any:
        seconds = (ticks - begins) / TICKS_PER_SECOND
        return (_RIGHT_ASCENSION + self._speed * (seconds - self._transit)) % math.tau

    def _horizontal(self, ticks: Any, begins: int) -> tuple[Any, Any, float]:
        """Return azimuth, elevation, and the latitude of the site in rad, interpolated between exact positions."""
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
    """Return azimuth, elevation, and the latitude of the site in rad."""
    days, rest = np.divmod(ticks, TICKS_PER_DAY)
    longitude, latitude, height = erfa.gc2gd(_WGS84, np.array(_SITE))
    ut1_utc, x, y = _rotation(days + MJD_OF_1970, rest / TICKS_PER_DAY)
    still, no_air = (0.0,) * 4, (0.0,) * 3
    with warnings.catch_warnings():
        # A simulated clock may be off by decades. ERFA warns of dates whose leap seconds are not known.
        warnings.simplefilter("ignore", erfa.ErfaWarning)
        azimuth, zenith_distance, *_ = erfa.atco13(
            *(right_ascension, _DECLINATION, *still),
            *(_JULIAN_DATE_OF_1970 + days, rest / TICKS_PER_DAY, ut1_utc),
            *(longitude, latitude, height, x, y, *no_air, _WAVELENGTH),
        )
    return azimuth, math.pi / 2 - zenith_distance, float(latitude)


def _rotation(days: Any, fractions: Any) -> tuple[Any, Any, Any]:
    """Return UT1 - UTC in s, and x and y of the pole in rad, from the IERS table that is installed with astropy.

    They are 0 for dates outside of the table; the error of the position is at most 14 arcseconds.

    Parameters
    ----------
    days
        MJD, integers, shape (n,).
    fractions
        The fractions of the days, shape (n,).
    """
    first, last = int(days.min()), int(days.max())
    table = np.zeros((last - first + 2, len(_FIELDS)))
    with open(IERS_A_FILE, "rb") as file:
        line = file.readline()
        # Each day has one line, and all lines have the same length.
        file.seek(max(first - int(line[_MJD]), 0) * len(line))
        for line in file:
            if (day := int(line[_MJD])) > last + 1:
                break
            # The table has dates without values at its end.
            if day >= first and line[_FIELDS[0]].strip():
                table[day - first] = [float(line[field]) for field in _FIELDS]
    steps = table[1:] - table[:-1]
    # At a leap second UT1 - UTC steps by 1 s; remove the step before interpolating.
    steps[:, 0] -= np.round(steps[:, 0])
    ut1_utc, x, y = (table[days - first] + steps[days - first] * fractions[:, np.newaxis]).T
    return ut1_utc, x * erfa.DAS2R, y * erfa.DAS2R
