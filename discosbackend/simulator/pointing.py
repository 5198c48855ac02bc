"""Pointing: where the telescope looks while nothing but a simulated sky is in front of it.

The receiver does not know: what the beam lets through is decided by sky. Here are the positions that agree
with that, for files that are whole by themselves; a merged file has the telescope's own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy import units
from astropy.coordinates import ICRS, AltAz, EarthLocation
from astropy.time import Time
from astropy.utils import iers

from discosbackend.simulator.instruments import Receiver
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
    site = EarthLocation.from_geocentric(*_SITE, unit=units.m)
    # A simulated clock may be off by decades, for which nobody has the Earth's rotation: arcseconds, and no
    # reason for a file that cannot be written, nor for asking the network.
    with (
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("auto_max_age", None),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        instants = Time(_JULIAN_DATE_OF_1970 + days, rest / _DAY, format="jd", scale="utc")
        place = ICRS(right_ascension * units.rad, np.full(len(ticks), _DECLINATION) * units.rad)
        seen = place.transform_to(AltAz(obstime=instants, location=site))
        return seen.az.rad, seen.alt.rad, float(site.lat.rad)
