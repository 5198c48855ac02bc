"""What an instrument could never see is refused, so that a wrong unit does not pass in silence."""

from __future__ import annotations

import unittest

from discosbackend.simulator import INSTRUMENTS, Line, SimulatedBackend, Sky, Source
from discosbackend.simulator.errors import SkyError
from discosbackend.simulator.signal.sky import checked_sky


def lines(*frequencies: float) -> Sky:
    """A source with lines there."""
    return Sky().with_source("a", Source(lines=tuple(Line(each, 1.0, 1.0) for each in frequencies)))


class VisibilityTests(unittest.TestCase):
    def assert_seen(self, name: str, sky: Sky) -> None:
        self.assertIs(checked_sky(sky, INSTRUMENTS[name]), sky)

    def refusal(self, name: str, sky: Sky) -> str:
        with self.assertRaises(SkyError) as caught:
            checked_sky(sky, INSTRUMENTS[name])
        return str(caught.exception)

    def test_what_can_be_seen(self) -> None:
        for name in INSTRUMENTS:
            self.assert_seen(name, Sky())
        for name in ("discos", "sardara"):
            self.assert_seen(name, lines(1420.4058, 6668.5192, 22235.08))
        self.assert_seen("skarab", lines(22235.08))
        self.assert_seen("totalpower", lines(22235.08))
        self.assert_seen("discos", Sky().with_source("a", Source(feeds=(0, 6))).with_tsys(5, range(14)))
        # set-enable may choose what the configuration has not.
        self.assert_seen("sardara", Sky().with_source("a", Source(feeds=(4,))))

    def test_wrong_units(self) -> None:
        for frequency in (1.4204, 22.235, 9e6):
            told = self.refusal("sardara", lines(frequency))
            wanted = f"source 'a' has a line at {frequency:.10g} MHz, which sardara cannot see: "
            self.assertTrue(told.startswith(wanted), told)
        self.assertEqual(
            self.refusal("skarab", lines(22235.08, 1420.4)),
            "source 'a' has a line at 1420.4 MHz, which skarab cannot see: 21235 to 25035 MHz",
        )

    def test_a_velocity_moves_it_out(self) -> None:
        fast = Sky().with_source("a", Source(lines=(Line(22235.08, 1.0, 1.0, velocity=20_000.0),)))
        self.assertIn("has a line at 20751.", self.refusal("skarab", fast))

    def test_feeds_and_inputs_that_there_are_not(self) -> None:
        self.assertEqual(
            self.refusal("discos", Sky().with_source("a", Source(feeds=(0, 7)))),
            "source 'a' is in feed 7, and discos has 0 to 6",
        )
        for sky in (Sky().with_tsys(5, (14,)), Sky().with_mark(5, (3, 14))):
            self.assertEqual(self.refusal("discos", sky), "no input 14: discos has 0 to 13, two a feed")

    def test_an_instrument_without_configurations_takes_any(self) -> None:
        self.assert_seen("mistral", lines(1e6))

    def test_a_backend_looks_at_what_it_is_given(self) -> None:
        backend = SimulatedBackend("skarab")
        before = backend.sky
        with self.assertRaises(SkyError):
            backend.sky = lines(1420.4)
        self.assertIs(backend.sky, before)
        with self.assertRaises(ValueError):
            SimulatedBackend("skarab", sky=lines(1420.4))


if __name__ == "__main__":
    unittest.main()
