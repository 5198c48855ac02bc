"""The noise of simulated dumps, and the counts that it makes, against theory; seeds are fixed."""

from __future__ import annotations

import math
import unittest
from dataclasses import replace
from typing import Any, cast

import numpy
from hypothesis import given
from hypothesis import strategies as st

from discosbackend.simulator.instrument.model import Comb
from discosbackend.simulator.signal.passband import Drift, Purpose, stream
from discosbackend.simulator.signal.sky import Line, Sky
from discosbackend.simulator.signal.spectra import Spectra

from .in_memory import fewer
from .settings import LONG
from .simulated_dumps import GAIN, TSYS, ChannelMeanMixin, dumps, means, samples_of, seen, setup_of


class RadiometerTests(ChannelMeanMixin):
    """The noise of L and R: its size, its distribution, its independence."""

    def test_noise_of_a_bin(self) -> None:
        # bins, bandwidth, integration, dumps: from all but one sample to sixty thousand
        for bins, bandwidth, integration, count in (
            (65536, 16.0, 5, 6),
            (65536, 16.0, 40, 6),
            (65536, 187.5, 40, 6),
            (1024, 1500.0, 40, 100),
            (1, 2000.0, 40, 4000),
        ):
            with self.subTest(bins=bins, bandwidth=bandwidth, integration=integration):
                # One bin of 2000 MHz would be beyond full scale with a gain for a thousand of them.
                setup = setup_of(
                    bins=bins,
                    bandwidth=bandwidth,
                    integration=integration,
                    gain=GAIN / (100 if bins == 1 else 1),
                )
                samples = samples_of(setup)
                values = dumps(setup, count) / means(setup) - 1
                self.assert_near(0.0, float(values.mean()), (samples * values.size) ** -0.5)
                self.assert_variance(1 / samples, values, 6 / samples)

    def test_distribution_is_the_gamma_distribution(self) -> None:
        for integration, samples in ((5, 1.22), (40, 9.77)):
            with self.subTest(samples=samples):
                setup = setup_of(bins=65536, bandwidth=16.0, integration=integration)
                self.assertAlmostEqual(samples, samples_of(setup), places=2)
                values = (dumps(setup, 8) / means(setup) - 1).reshape(64, -1)
                found = (values**3).mean(axis=1) / (values**2).mean(axis=1) ** 1.5
                self.assert_near(2 / math.sqrt(samples_of(setup)), found.mean(), found.std() / 8)
                self.assertGreaterEqual(values.min(), -1)

    def test_fewer_samples_than_one_are_one(self) -> None:
        setup = setup_of(bins=65536, bandwidth=1.0, integration=5)
        self.assert_variance(1.0, dumps(setup, 1) / means(setup) - 1, 6)

    def test_twice_the_integration_has_less_noise(self) -> None:
        once, twice = ((dumps(setup, 50) / means(setup)).std() for setup in (setup_of(), setup_of(integration=80)))
        self.assert_near(math.sqrt(0.5), twice / once, math.sqrt(0.5 / (50 * 2048)))

    def test_attenuation(self) -> None:
        less, more = (dumps(setup_of(attenuation=decibels, acquisition=decibels), 20).sum() for decibels in (7, 10))
        self.assert_near(10**-0.3, more / less, math.sqrt(4 / (samples_of(setup_of()) * 20 * 2048)))

    def test_polarisations_bins_dumps_and_feeds_are_independent(self) -> None:
        for stokes in (False, True):
            with self.subTest(stokes=stokes):
                setup = setup_of(feeds=(0, 3), stokes=stokes)
                values = dumps(setup, 60, seen(level=50.0, feeds=(0, 3))) - means(setup, seen(level=50.0, feeds=(0, 3)))
                planes = values.shape[1]
                for one in range(planes):
                    self.assert_uncorrelated(values[1:, one], values[:-1, one])
                    self.assert_uncorrelated(values[:, one, 1:], values[:, one, :-1])
                    for other in range(one):
                        # The receiver's own cross correlation makes a hundredth of L and R the same noise,
                        # and is left out: see Theory.cross.
                        self.assert_uncorrelated(values[:, one], values[:, other])


class SameSeedTests(unittest.TestCase):
    """What decides a dump, and what does not."""

    def test_same_seed_same_bytes(self) -> None:
        for stokes in (False, True):
            first, again = (dumps(setup_of(stokes=stokes, drift=0.002), 3) for _ in range(2))
            self.assertEqual(first.tobytes(), again.tobytes())

    def test_another_seed_or_acquisition_is_another_noise(self) -> None:
        first = dumps(setup_of(), 2)
        for setup in (setup_of(seed=2), setup_of(seed=-1), setup_of(seed=2**70), setup_of(acquisition=1)):
            other = dumps(setup, 2)
            self.assertLess((first == other).mean(), 0.01)
        self.assertTrue((means(setup_of()) == means(setup_of(acquisition=1))).all())
        self.assertFalse((means(setup_of()) == means(setup_of(seed=2))).all())

    def test_streams_share_nothing(self) -> None:
        keys = [
            (seed, purpose, acquisition, number)
            for seed in (0, 1, -1, 2**32, 2**32 + 1)
            for purpose in Purpose
            for acquisition in (0, 1)
            for number in (0, 1)
        ]
        self.assertEqual(len(keys), len({stream(*key).integers(2**63) for key in keys}))

    def test_a_channel_does_not_depend_on_the_others(self) -> None:
        alone, together = dumps(setup_of(feeds=(0,), drift=0.1), 3), dumps(setup_of(feeds=(0, 4), drift=0.1), 3)
        self.assertTrue((alone == together[:, :2]).all())

    def test_dumps_are_made_in_order(self) -> None:
        spectra = Spectra(setup_of())
        out = spectra.buffers()
        for wrong in (1, -1):
            with self.assertRaisesRegex(ValueError, f"0 is next, not {wrong}"):
                spectra.fill(wrong, Sky(), out)
        spectra.fill(0, Sky(), out)
        with self.assertRaisesRegex(ValueError, "1 is next, not 0"):
            spectra.fill(0, Sky(), out)

    def test_wrong_setups_and_arrays_are_named(self) -> None:
        spectra = Spectra(setup_of())
        for wrong in (
            numpy.zeros(2047, numpy.int32),
            numpy.zeros(2048, numpy.int64),
            numpy.zeros((2, 1024), numpy.int32),
        ):
            with self.assertRaisesRegex(ValueError, "out must be 2048 int32"):
                spectra.fill(0, Sky(), cast(Any, wrong))
        for setup, reason in (
            (setup_of(full_scale=0), "full_scale must be 1 to 2147483647, not 0"),
            (setup_of(full_scale=2**31), "full_scale"),
            (setup_of(interference=(Comb(22000.0, 23000.0, 0.0, 1.0),)), "spacing of a comb must be above 0"),
            (replace(setup_of(), tsys=(TSYS,)), "input 1 of feed 0 needs a tsys"),
        ):
            with self.assertRaisesRegex(ValueError, reason):
                Spectra(setup)


class CountTests(ChannelMeanMixin):
    """Whole counts, up to full scale."""

    def test_values_are_rounded(self) -> None:
        for level, count in ((3.3, 3), (3.7, 4), (0.4, 0)):
            values = dumps(setup_of(bins=1, bandwidth=2000.0, gain=level / (TSYS * 2000.0), attenuation=0.0), 50)
            self.assertEqual({count}, set(values.ravel()))
        # Rounding is even-handed: a mean of a fraction of a count survives where the noise is wider than
        # that.
        setup = setup_of(
            bins=65536, bandwidth=16.0, gain=3.7 / (TSYS * 16.0 / 65536), attenuation=0.0, slope=0.0, edge=1.0
        )
        values = dumps(setup, 2)
        self.assert_near(means(setup).mean(), values.mean(), math.sqrt((3.7**2 / 9.77 + 1 / 12) / values.size))

    def test_saturation(self) -> None:
        for full_scale in (2**31 - 1, 2**30 + 1, 65535, 1000):
            for stokes in (False, True):
                with self.subTest(full_scale=full_scale, stokes=stokes):
                    # So much in Q and U that they do not fit either, on both sides.
                    setup = setup_of(stokes=stokes, full_scale=full_scale, gain=1e12, cross=0.9, slope=0.0, edge=1.0)
                    values = dumps(setup, 1)[0]
                    self.assertEqual({full_scale}, set(values[:2].ravel()))
                    if stokes:
                        self.assertEqual((-full_scale, full_scale), (values[2:].min(), values[2:].max()))
                    self.assertEqual(full_scale, means(setup).max())

    def test_saturation_on_one_side(self) -> None:
        setup = setup_of(stokes=True, gain=1e12, cross=0.0, slope=0.0, edge=1.0)
        for angle, count in ((0.0, 2**31 - 1), (90.0, 1 - 2**31)):
            values = dumps(setup, 1, seen(level=1e4, linear=1.0, angle=angle))[0]
            self.assertEqual({count}, set(values[2]))

    def test_half_of_the_band_saturated(self) -> None:
        setup = setup_of(full_scale=10_000_000)
        clipped, free = dumps(setup, 1), dumps(setup_of(), 1)
        self.assertTrue((clipped == numpy.minimum(free, 10_000_000)).all())

    def test_zero(self) -> None:
        values = dumps(setup_of(gain=0.0, zero=1_024_000.0, dc=15.0), 5)
        numpy.testing.assert_allclose(values.mean(), 1000.0, rtol=0.001)
        self.assertEqual({0.0}, set(dumps(setup_of(gain=0.0, zero=-1e6), 1).ravel()))
        numpy.testing.assert_allclose(means(setup_of(zero=1e9)) - means(setup_of()), 1e9 / 1024, atol=16)

    @fewer(50)
    @given(
        st.floats(-1e300, 1e300),
        st.floats(-1e300, 1e300),
        st.one_of(st.floats(1e-6, 1e5), st.floats(0, 1e-6, exclude_min=True)),
        st.booleans(),
        st.floats(0, 1),
    )
    def test_any_sky_gives_counts(self, level: float, peak: float, width: float, stokes: bool, linear: float) -> None:
        setup = setup_of(stokes=stokes, bins=64)
        sky = seen(level=level, lines=(Line(22000.0, width, peak),), linear=linear)
        with numpy.errstate(all="raise", under="ignore"):
            values = dumps(setup, 1, sky)[0]
        self.assertGreaterEqual(values[:2].min(), 0)
        self.assertGreaterEqual(values.min(), -(2**31 - 1))


class DriftTests(ChannelMeanMixin):
    """The gain wanders slowly: the sum over the band shows it, a bin hardly."""

    def test_band_sum_is_noisier_than_the_ideal_and_bins_hardly(self) -> None:
        minute = 1500
        for acquisition in range(3 if LONG else 1):
            setup = setup_of(drift=0.002, acquisition=acquisition)
            values = dumps(setup, minute)
            ideal = (1500e6 * 0.04) ** -0.5
            for plane in (0, 1):
                sums = values[:, plane].sum(axis=1)
                self.assertTrue(4 < sums.std() / sums.mean() / ideal < 24, sums.std() / sums.mean() / ideal)
                bins = values[:, plane].std(axis=0) / values[:, plane].mean(axis=0) * math.sqrt(samples_of(setup))
                self.assertTrue(0.99 < numpy.median(bins) < 1.15, numpy.median(bins))
                # Slow: from a dump to the next there is little but noise.
                steps = numpy.diff(sums).std() / sums.mean() / math.sqrt(2)
                self.assertLess(steps, 1.6 * ideal)

    def test_size_and_mean_over_an_hour(self) -> None:
        for number in range(5 if LONG else 2):
            drift = Drift(stream(3, Purpose.DRIFT, number=number), 0.002)
            values = numpy.array([drift.at(seconds) for seconds in range(0, 36000, 3)])
            self.assertAlmostEqual(1.0, values.mean(), delta=1e-4)
            self.assertAlmostEqual(0.002, values.std(), delta=1e-4)
        self.assertEqual(0.0, min(Drift(stream(3, Purpose.DRIFT), 5.0).at(seconds) for seconds in range(100)))

    def test_inputs_and_acquisitions_drift_apart(self) -> None:
        one, other = (dumps(setup_of(drift=0.01, acquisition=number), 1200).sum(axis=2) for number in (0, 1))
        for first, second in ((one[:, 0], one[:, 1]), (one[:, 0], other[:, 0])):
            self.assertLess(numpy.corrcoef(first, second)[0, 1], 0.95)

    def test_sources_and_lines_are_seen_through_the_same_gain(self) -> None:
        # The cross correlation is all from the source, here, and that source has a line.
        setup = setup_of(drift=0.1, stokes=True, integration=1000, bandwidth=1e6, gain=1e3, cross=0.0)
        sky = seen(level=50.0, linear=0.8, angle=15.0, lines=(Line(21235.0 + 5e5, 1e6, 50.0),))
        values = dumps(setup, 30, sky) / means(setup, sky)
        left, right, q, u = (numpy.median(values[:, plane], axis=1) for plane in range(4))
        without = dumps(setup, 30)[:, 0] / means(setup)[0]
        numpy.testing.assert_allclose(left, numpy.median(without, axis=1), rtol=1e-3)
        for cross in (q, u):
            numpy.testing.assert_allclose(cross, numpy.sqrt(left * right), rtol=1e-3)

    def test_stokes_follow_both_gains(self) -> None:
        setup = setup_of(drift=0.1, stokes=True, integration=1000, bandwidth=1e6, gain=1e3)
        values = dumps(setup, 30) / means(setup)
        left, right, q, u = (numpy.median(values[:, plane], axis=1) for plane in range(4))
        self.assertGreater(left.std(), 0.02)
        numpy.testing.assert_allclose(q, numpy.sqrt(left * right), rtol=1e-3)
        numpy.testing.assert_allclose(u, numpy.sqrt(left * right), rtol=1e-3)
