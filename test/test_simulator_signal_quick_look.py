"""The picture that a simulated instrument gives of its present configuration and sky."""

from __future__ import annotations

import inspect
import sys
import unittest
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from discosbackend import QuickLook
from discosbackend.simulator import SimulatedBackend
from discosbackend.simulator.signal import total_power
from discosbackend.simulator.signal.sky import Line, Sky, Source
from discosbackend.simulator.signal.spectra import expected

HYDROGEN = 1420.40575


class PictureTests(unittest.TestCase):
    def setUp(self) -> None:
        self.assertIn(total_power.__name__, sys.modules)
        self.clock = Clock()

    def backend(self, instrument: str = "sardara", **settings: Any) -> SimulatedBackend:
        return SimulatedBackend(instrument, clock=self.clock, now_ticks=lambda: 10**16, **settings)

    def look(self, backend: SimulatedBackend) -> QuickLook:
        found: Any = backend.quick_look()
        if inspect.iscoroutine(found):
            results: list[QuickLook] = []
            Deferred.fromCoroutine(found).addCallback(results.append)
            while self.clock.getDelayedCalls():
                self.clock.advance(0)
            (found,) = results
        self.assertIsInstance(found, QuickLook)
        return found

    def test_nothing_until_a_configuration_is_loaded(self) -> None:
        self.assertIsNone(self.backend().quick_look())

    def test_nothing_until_numpy_is_imported(self) -> None:
        backend = self.backend()
        backend.set_configuration("SK00")
        self.look(backend)
        with mock.patch.dict(sys.modules):
            del sys.modules[total_power.__name__]
            self.assertIsNone(backend.quick_look())

    def test_the_inputs_and_the_band_on_the_sky(self) -> None:
        backend = self.backend()
        backend.set_configuration("SK77")
        look = self.look(backend)
        self.assertEqual(look.names[:3], ("feed 0 L", "feed 0 R", "feed 1 L"))
        self.assertEqual([len(spectrum) for spectrum in look.spectra], [1000] * 14)
        configuration = backend.instrument.configurations["SK77"]
        self.assertEqual(look.start_mhz, configuration.receiver.local_oscillator + configuration.start_frequency)
        self.assertEqual(look.width_mhz, configuration.bandwidth)

    def test_another_band_is_left_out(self) -> None:
        backend = self.backend()
        backend.set_configuration("SK00")
        backend.set_section(1, "*", 300.0, "*", "*", "*", "*")
        self.assertEqual(self.look(backend).names, ("feed 0 L",))

    def test_it_is_the_mean_of_the_dumps_with_their_noise(self) -> None:
        sky = Sky(sources={"galaxy": Source(level=50.0, lines=(Line(rest=22235.08, width=200.0, peak=300.0),))})
        backend = self.backend(sky=sky)
        for configuration in ("SK00", "SK77"):
            with self.subTest(configuration):
                backend.set_configuration(configuration)
                backend.set_section("*", "*", "*", "*", "*", "*", 16384)
                setup = backend._setup(measured=True)
                mean = expected(replace(setup, integration=1000), 0, sky)
                groups = [mean[n * 16384 // 1000 : (n + 1) * 16384 // 1000].mean() for n in range(1, 999)]
                spectrum = self.look(backend).spectra[0][1:-1]
                ratio = spectrum / groups
                samples = setup.channels[0].bandwidth * 1e6 / 1000 * setup.integration * 1e-3
                self.assertAlmostEqual(float(numpy.median(ratio)), 1.0, delta=0.01)
                of_two = spectrum / self.look(backend).spectra[0][1:-1]
                self.assertAlmostEqual(float(of_two.std()) * (samples / 2) ** 0.5, 1.0, delta=0.15)

    def test_a_line_comes_up(self) -> None:
        backend = self.backend()
        backend.set_configuration("SL00")
        before = self.look(backend)
        backend.sky = Sky(sources={"galaxy": Source(lines=(Line(rest=HYDROGEN, width=200.0, peak=500.0),))})
        after = self.look(backend)
        change = after.spectra[0] / before.spectra[0]
        place = (HYDROGEN - after.start_mhz) / after.width_mhz * len(change)
        self.assertLess(abs(int(change.argmax()) - place), 5)
        self.assertGreater(change.max(), 2)

    def test_measurements_do_not_change(self) -> None:
        looked, other = self.backend(seed=3), self.backend(seed=3)
        levels = []
        for backend in (looked, other):
            backend.set_configuration("SK00")
            if backend is looked:
                self.look(backend)
            levels.append([backend.get_tpi(), backend.get_tp0(), backend.get_rms()])
        self.assertEqual(*levels)

    def test_each_look_has_its_own_noise(self) -> None:
        backend = self.backend()
        backend.set_configuration("SK00")
        one, other = self.look(backend), self.look(backend)
        self.assertFalse(numpy.array_equal(one.spectra[0], other.spectra[0]))

    def test_settings_that_change_while_it_is_prepared(self) -> None:
        backend = self.backend()
        backend.set_configuration("SK77")
        found: Any = backend.quick_look()
        results: list[QuickLook | None] = []
        Deferred.fromCoroutine(found).addCallback(results.append)
        self.assertEqual(results, [])
        backend.set_configuration("SK00")
        while self.clock.getDelayedCalls():
            self.clock.advance(0)
        self.assertEqual(results, [None])
        self.assertEqual(len(self.look(backend).spectra), 2)

    def test_every_configuration_of_every_instrument(self) -> None:
        for instrument in ("sardara", "skarab", "skarab2", "totalpower"):
            backend = self.backend(instrument)
            for configuration in backend.instrument.configurations:
                with self.subTest(instrument, configuration=configuration):
                    backend.set_configuration(configuration)
                    for spectrum in self.look(backend).spectra:
                        self.assertTrue(numpy.isfinite(spectrum).all())
                        self.assertGreater(spectrum.max(), 0)


if __name__ == "__main__":
    unittest.main()
