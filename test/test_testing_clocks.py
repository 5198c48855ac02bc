"""The likely cause of a wrong clock, found from one reported time."""

from __future__ import annotations

import unittest
from datetime import UTC, datetime, timedelta, timezone

from discosbackend.testing import Profile
from discosbackend.testing.server_session import ServerSession
from discosbackend.testing.wrong_clocks import likely_cause
from discosbackend.ticks import Ticks

# 2026-11-23 22:26:25 UTC in three forms.
NOW = Ticks(17954727853000000)
SECONDS = 1795472785.3
AT = datetime.fromtimestamp(SECONDS, UTC)


def since(year: int, month: int, day: int) -> float:
    """Seconds since the beginning of a day, without leap seconds."""
    return (AT - datetime(year, month, day, tzinfo=UTC)).total_seconds()


class LikelyCauseTests(unittest.TestCase):
    def test_known_causes(self) -> None:
        for value, wanted in (
            (SECONDS + 37, "TAI, which is 37 s ahead of UTC"),
            (SECONDS + 37.4, "TAI, which is 37 s ahead of UTC"),
            (SECONDS + 18, "GPS time, which is 18 s ahead of UTC"),
            (SECONDS + 69.184, "TT, which is 69.2 s ahead of UTC"),
            (SECONDS + 3600, "local time, UTC+1, instead of UTC"),
            (SECONDS + 7197.5, "local time, UTC+2, instead of UTC"),
            (SECONDS - 5 * 3600, "local time, UTC-5, instead of UTC"),
            (SECONDS - 3.5 * 3600, "local time, UTC-3:30, instead of UTC"),
            (SECONDS + 5.5 * 3600, "local time, UTC+5:30, instead of UTC"),
            (SECONDS + 14 * 3600, "local time, UTC+14, instead of UTC"),
            (SECONDS * 1e3, "milliseconds instead of seconds"),
            (SECONDS * 1e6, "microseconds instead of seconds"),
            (SECONDS * 1e7, "a count of 100 ns instead of seconds"),
            (SECONDS * 1e9, "nanoseconds instead of seconds"),
            (SECONDS * 1e3 / 1e7, "milliseconds instead of seconds, which were taken for a count of 100 ns"),
            (SECONDS * 1e6 / 1e7, "microseconds instead of seconds, which were taken for a count of 100 ns"),
            (SECONDS * 1e9 / 1e7, "nanoseconds instead of seconds, which were taken for a count of 100 ns"),
            (since(1858, 11, 17) / 86400, "a modified Julian date (MJD) instead of seconds"),
            (since(1858, 11, 17) / 86400 + 2400000.5, "a Julian date instead of seconds"),
            (SECONDS / 86400, "days instead of seconds"),
            (since(1858, 11, 17), "seconds since 1858-11-17 (MJD 0) instead of 1970"),
            (since(1900, 1, 1), "seconds since 1900 (as NTP counts) instead of 1970"),
            (since(1904, 1, 1), "seconds since 1904 (as LabVIEW counts) instead of 1970"),
            (since(1950, 1, 1), "seconds since 1950 instead of 1970"),
            (since(1958, 1, 1), "seconds since 1958 instead of 1970"),
            (since(1980, 1, 6) + 18, "seconds since 1980-01-06 (as GPS counts) instead of 1970"),
            (since(2000, 1, 1), "seconds since 2000 instead of 1970"),
            (since(2000, 1, 1) - 43200, "seconds since 2000 instead of 1970"),
            (
                since(1582, 10, 15) * 1e7,
                "a count of 100 ns since 1582-10-15 (as ACS counts) instead of seconds since 1970",
            ),
            (0, "seconds since a program or machine was started instead of 1970"),
            (987654.321, "seconds since a program or machine was started instead of 1970"),
        ):
            for text in dict.fromkeys((f"{value:.7f}", f"{value:.0f}")):
                with self.subTest(wanted, text=text):
                    self.assertEqual(likely_cause(text, NOW), wanted)

    def test_a_zone_of_this_host(self) -> None:
        """A server that uses its local time as if it were UTC."""
        local = AT.astimezone(timezone(timedelta(hours=2))).replace(tzinfo=UTC)
        self.assertEqual(likely_cause(f"{local.timestamp():.7f}", NOW), "local time, UTC+2, instead of UTC")

    def test_what_looks_like_nothing(self) -> None:
        for text in (
            *(f"{SECONDS + off:.7f}" for off in (6, 25, 100, 900, -86400 * 3, 15 * 3600, 86400 * 365)),
            *("soon", "", "nan", "-1", "1e9", "2026-11-23T22:26:25", 40 * "9"),
        ):
            with self.subTest(text):
                self.assertEqual(likely_cause(text, NOW), "")


class WrongClockTests(unittest.TestCase):
    def test_how_far_it_is_off_and_what_it_looks_like(self) -> None:
        asking = ServerSession(Profile(), ("127.0.0.1", 1))
        now = Ticks.now().unix
        self.assertEqual(asking.wrong_clock(f"{now + 1:.7f}"), "")
        # A time without a decimal point is in seconds, too.
        self.assertEqual(asking.wrong_clock(f"{now:.0f}"), "")
        limit = r"\(clock_tolerance: 5 s\)"
        for value, off, looks in (
            (now + 7200, r"\+7200\.0 s", ": it looks like local time, UTC\\+2, instead of UTC"),
            (now + 37, r"\+37\.0 s", ": it looks like TAI, which is 37 s ahead of UTC"),
            (now - 100, r"-100\.0 s", ""),
            (now / 86400, r"-\d+\.\d s", ": it looks like days instead of seconds"),
        ):
            with self.subTest(off):
                wanted = rf"\Atimestamp {value:.7f} differs from this host's clock by {off} {limit}{looks}\Z"
                self.assertRegex(asking.wrong_clock(f"{value:.7f}"), wanted)


if __name__ == "__main__":
    unittest.main()
