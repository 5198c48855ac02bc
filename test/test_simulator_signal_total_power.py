"""The levels that a simulated backend tells when asked, against its own dumps and against theory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy

from discosbackend.simulator.instrument.model import Setup
from discosbackend.simulator.signal.sky import Line, Sky
from discosbackend.simulator.signal.total_power import Meter

from .simulated_dumps import MARK, TSYS, ChannelMeanMixin, dumps, means, samples_of, seen, setup_of


def readings(setup: Setup, count: int, sky: Sky = Sky(), bandwidth: float | None = None, **more: Any) -> Any:
    """So many total powers of each input: (reading, input)."""
    meter = Meter(7)
    return numpy.array([meter.total_power(setup, sky, bandwidth, **more) for _ in range(count)])


class TotalPowerTests(ChannelMeanMixin):
    """get-tpi is the sum over the band of a dump that is not made."""

    def test_agrees_with_the_spectra(self) -> None:
        sky = replace(seen(level=20.0, lines=(Line(22235.0, 500.0, 100.0),), feeds=(0, 3)), diode=True)
        for shape in (
            {"feeds": (0, 3), "dc": 15.0, "spur": 1.6, "zero": 1e7},
            {"feeds": (0, 3), "stokes": True, "cross": 0.5},
            {"bins": 1, "gain": 1000.0, "zero": 1e6, "bandwidth": 2000.0},
            {"bins": 65536, "bandwidth": 16.0, "start": 990.0},
            {"full_scale": 12_000_000},
        ):
            with self.subTest(**shape):
                setup = setup_of(**shape)
                # Of L, R, Q, U only the first two are powers.
                powers = [0, 1, 4, 5] if "stokes" in shape else slice(None)
                made = dumps(setup, 20, sky)[:, powers]
                found = readings(setup, 200, sky)
                self.assertEqual(made.shape[1], found.shape[1])
                for number, plane in enumerate(means(setup, sky)[powers]):
                    ideal = math.sqrt((plane**2).sum() / samples_of(setup))
                    self.assert_near(plane.sum(), found[:, number].mean(), ideal / math.sqrt(200))
                    # Clipping takes a little of the noise, and leaves a few bins beside the limit a little
                    # lower.
                    slack = 2e-4 * plane.sum() if "full_scale" in shape else 0.0
                    self.assert_near(plane.sum(), made[:, number].sum(axis=1).mean(), ideal / math.sqrt(20) + slack)
                    if "full_scale" not in shape and "zero" not in shape:
                        self.assert_near(1.0, found[:, number].std() / ideal, 400**-0.5)

    def test_diode_gives_back_tsys(self) -> None:
        setup, meter = setup_of(zero=1e8), Meter(1)
        without = numpy.mean([meter.total_power(setup, Sky()) for _ in range(100)], axis=0)
        marked = numpy.mean([meter.total_power(setup, Sky(diode=True)) for _ in range(100)], axis=0)
        error = math.sqrt(2 * 2 / (1500e6 * 0.04 * 100)) * TSYS * (TSYS + MARK) / MARK
        for tpi, tpi_cal, zero in zip(without, marked, (1e8, 1e8), strict=True):
            self.assert_near(TSYS, (tpi - zero) * MARK / (tpi_cal - tpi), error)

    def test_part_of_the_band(self) -> None:
        setup = setup_of(zero=1000.0)
        whole = readings(setup, 100)
        noise = whole.std(axis=0) / whole.mean(axis=0)
        for bandwidth, part in ((1500.0, 1.0), (1e308, 1.0), (150.0, 0.1), (1.5, 0.001)):
            found = readings(setup, 100, bandwidth=bandwidth)
            numpy.testing.assert_allclose((found.mean(axis=0) - 1000) / whole.mean(axis=0), part, rtol=3e-3)
            for ratio in found.std(axis=0) / found.mean(axis=0) / noise:
                self.assert_near(1.0, ratio * math.sqrt(part), 0.1)

    def test_readings_wander(self) -> None:
        values = readings(setup_of(drift=0.01), 600)
        for each in values.T:
            self.assertTrue(0.003 < each.std() / each.mean() < 0.02, each.std() / each.mean())
            self.assertLess(numpy.diff(each).std(), 0.1 * each.std())
        self.assertLess(numpy.corrcoef(values.T)[0, 1], 0.95)

    def test_another_setup_is_another_level(self) -> None:
        meter = Meter(1)
        for setup in (setup_of(), setup_of(attenuation=10.0), setup_of(bins=16384), setup_of()):
            wanted = means(setup).sum(axis=1)
            numpy.testing.assert_allclose(meter.total_power(setup, Sky()), wanted, rtol=2e-3)

    def test_what_is_in_the_beam(self) -> None:
        setup = setup_of(bandwidth=1e5, gain=1e4)
        drifting = seen(level=100.0, transit=0.02, crossing=0.08)
        for sky, dump, level in (
            (drifting, None, 1.0),
            (drifting, 0, 2.0),
            (drifting, 1, 1.5),
            (replace(drifting, diode=True), None, 1.5),
            (Sky(interleave=2), 1, 1.5),
            (Sky(interleave=2), 2, 1.0),
            (Sky(interleave=2, diode=True), 2, 1.0),
            (Sky(interleave=2, diode=False), None, 1.0),
        ):
            with self.subTest(sky=sky, dump=dump):
                plain = readings(setup, 1)
                numpy.testing.assert_allclose(readings(setup, 1, sky, dump=dump) / plain, level, rtol=1e-3)

    def test_saturation(self) -> None:
        for full_scale in (1000, 2**31 - 1):
            found = readings(setup_of(gain=1e15, full_scale=full_scale), 20)
            self.assertEqual(float(f"{1024 * full_scale:.8g}"), found.max())
            self.assertGreater(found.min(), 1023 * full_scale)

    def test_nothing_is_measured_without_harm(self) -> None:
        for setup in (setup_of(bandwidth=0.0, zero=1000.0), setup_of(bins=1, zero=1000.0, integration=0)):
            for bandwidth in (None, 0.0, 1e-308, 1e308):
                values = readings(setup, 5, bandwidth=bandwidth)
                self.assertTrue((numpy.isfinite(values) & (values > 0)).all())
        self.assertEqual([0.0, 0.0], Meter(1).total_power(setup_of(gain=0.0), Sky()))


class OtherLevelTests(ChannelMeanMixin):
    """get-tp0, get-rms, and what holds for all of them."""

    def test_zero_level_and_rms(self) -> None:
        for attenuation in (0.0, 7.0):
            setup, meter = setup_of(zero=1000.0, rms=50.0, attenuation=attenuation), Meter(2)
            for measure, level in ((meter.zero_level, 1000.0), (meter.rms, 50.0 * 10 ** (-attenuation / 20))):
                values = numpy.array([measure(setup) for _ in range(200)])
                self.assertEqual((200, 2), values.shape)
                self.assert_near(1.0, values.mean() / level, 0.01 / math.sqrt(400))
                self.assert_near(0.01, values.std() / level, 0.01 / math.sqrt(800))

    def test_same_seed_same_values(self) -> None:
        def session(seed: int) -> list[list[float]]:
            meter, setup = Meter(seed), setup_of(feeds=(0, 1), drift=0.01, zero=1000.0)
            return [
                meter.total_power(setup, Sky()),
                meter.zero_level(setup),
                meter.rms(setup),
                meter.total_power(replace(setup, acquisition=4), Sky()),
                meter.total_power(setup_of(), Sky(), 100.0),
            ]

        self.assertEqual(session(1), session(1))
        for one, other in zip(session(1), session(2), strict=True):
            self.assertFalse(set(one) & set(other))
        self.assertNotEqual(*(Meter(seed).total_power(setup_of(), Sky()) for seed in (1, 2)))
        first, *_, again, _ = session(1)
        self.assertFalse(set(first) & set(again))

    def test_fourteen_values_are_short(self) -> None:
        meter, setup = Meter(1), setup_of(feeds=tuple(range(7)), zero=1000.0)
        for values in (meter.total_power(setup, Sky()), meter.zero_level(setup), meter.rms(setup)):
            self.assertEqual(14, len(values))
            for value in values:
                self.assertEqual(value, float(f"{value:.8g}"))
