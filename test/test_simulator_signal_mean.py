"""What a simulated backend counts on average: the band, the diode, sources, lines, Stokes."""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType

import numpy
from hypothesis import given
from hypothesis import strategies as st

from discosbackend.simulator.instrument.model import Channel, Comb, Receiver, Setup
from discosbackend.simulator.signal.passband import Bins
from discosbackend.simulator.signal.sky import REST_FREQUENCIES, Line, Sky, Source
from discosbackend.simulator.signal.spectra import Spectra

from .simulated_dumps import MARK, SIGMAS, TSYS, ChannelMeanMixin, dumps, means, samples_of, seen, setup_of

SPEED_OF_LIGHT = 299792.458


class DiodeTests(ChannelMeanMixin):
    """DISCOS's Tsys = (tpi - zero) * Tmark / (tpi_cal - tpi)."""

    def test_diode_gives_back_tsys(self) -> None:
        for zero in (0.0, 1000.0, 1e6):
            with self.subTest(zero=zero):
                setup = setup_of(zero=zero, seed=5)
                values = dumps(setup, 100, Sky(interleave=10)).sum(axis=2)
                on, off = ((values[numpy.arange(100) // 10 % 2 == odd]).mean(axis=0) for odd in (0, 1))
                for with_mark, without in zip(on, off, strict=True):
                    # Tsys errs by about Tsys * (Tsys + mark) / mark * sqrt(2) times the error of a sum.
                    error = math.sqrt(2 * 2 / (1500e6 * 0.04 * 50)) * TSYS * (TSYS + MARK) / MARK
                    self.assert_near(TSYS, (without - zero) * MARK / (with_mark - without), error)

    def test_diode_and_temperatures_of_the_sky(self) -> None:
        setup = setup_of()
        plain = means(setup)
        for sky, factors in (
            (Sky(diode=True), (1.5, 1.5)),
            (Sky(diode=True).with_mark(20.0, [1]), (1.5, 1.2)),
            (Sky().with_tsys(30.0, [0]), (0.3, 1.0)),
            (Sky(diode=True, tsys=MappingProxyType({0: 30})), (0.8, 1.5)),
        ):
            with self.subTest(sky=sky):
                numpy.testing.assert_allclose(means(setup, sky).sum(axis=1) / plain.sum(axis=1), factors, rtol=1e-6)


class ShapeTests(ChannelMeanMixin):
    """The band: its level, edges, slope, DC bin and spur."""

    def test_levels_of_sardara(self) -> None:
        # Published are a median of 0.9 to 1.6e7 and a sum of 2.5e10, which is a mean of 2.4e7. A band of so
        # mild a slope cannot have both: here the sum is 2.1e10 at 100 K.
        setup = setup_of(feeds=tuple(range(7)), dc=15.0, spur=1.6)
        values = dumps(setup, 1)[0]
        for plane in values:
            self.assertTrue(0.9e7 < numpy.median(plane) < 1.6e7, numpy.median(plane))
            self.assertTrue(1.9e10 < plane.sum() < 2.5e10, plane.sum())
            for edge in (plane[1], plane[-1]):
                self.assertTrue(0.01 < edge / plane.max() < 0.05, edge / plane.max())

    def test_shape_does_not_depend_on_how_many_bins_there_are(self) -> None:
        coarse, fine = means(setup_of()), means(setup_of(bins=65536))
        numpy.testing.assert_allclose(fine.reshape((2, 1024, 64)).sum(axis=2), coarse, rtol=0.01)

    def test_dc_bin_and_spur_have_their_factors(self) -> None:
        plain, marked = setup_of(), setup_of(dc=15.0, spur=1.6)
        ratios = dumps(marked, 50).mean(axis=0) / means(plain)
        error = (samples_of(plain) * 50) ** -0.5
        for plane in ratios:
            self.assert_near(15.0, plane[0], 15 * error)
            self.assert_near(1.6, plane[512], 1.6 * error)
            for beside in (1, 511, 513, 1023):
                self.assert_near(1.0, plane[beside], error)

    def test_inputs_have_shapes_of_their_own(self) -> None:
        left, right = means(setup_of())
        ratio = (left / right)[100:-100]
        self.assertTrue(0.01 < ratio.std() < 0.05, ratio.std())

    def test_slope_and_edge(self) -> None:
        for slope, edge in (
            (0.0, 0.02),
            (2.0, 0.05),
            (-2.0, 0.05),
            (50.0, 0.0),
            (0.0, 1.0),
            (2000.0, 0.01),
            (-2000.0, 0.01),
        ):
            with self.subTest(slope=slope, edge=edge):
                left, _ = means(setup_of(slope=slope, edge=edge))
                self.assertTrue(numpy.isfinite(left).all())
                fall = math.log(left[200] / left[-201]) if abs(slope) < 100 else slope * 0.61
                self.assertAlmostEqual(slope * 0.61, fall, delta=0.2)
                if 0 < edge < 1:
                    self.assertAlmostEqual(edge, min(left[0], left[-1]) / left.max(), delta=0.1 * edge)

    def test_a_single_bin_has_no_shape(self) -> None:
        setup = setup_of(bins=1, gain=1000.0, zero=500.0, slope=3.0, dc=15.0, spur=1.6)
        numpy.testing.assert_allclose(means(setup), 1000.0 * TSYS * 1500.0 * 10**-0.7 + 500.0, rtol=1e-6)

    def test_few_bins_and_no_bandwidth(self) -> None:
        for bins in (2, 3, 4):
            self.assertTrue((dumps(setup_of(bins=bins, gain=1e3, dc=15.0, spur=1.6), 1) > 0).all())
        self.assertTrue(
            (dumps(setup_of(bandwidth=0.0, zero=2048.0), 3, seen(lines=(Line(22235.0, 1.0, 1.0),))) >= 0).all()
        )


class SourceTests(ChannelMeanMixin):
    """Continuum and the beam."""

    def test_a_drifting_source_is_seen_by_both_polarisations_of_its_feed(self) -> None:
        setup = setup_of(feeds=(0, 2), bandwidth=100.0, bins=16)
        sky = seen(level=300.0, feeds=(2,), transit=4.0, crossing=1.5)
        level = (dumps(setup, 200, sky) / means(setup)).mean(axis=2)
        seconds = (numpy.arange(200) + 0.5) * 0.04
        wanted = 3 * numpy.exp(-4 * math.log(2) * ((seconds - 4.0) / 1.5) ** 2)
        error = 4 * (100e6 / 16 * 0.04 * 16) ** -0.5
        for plane in (0, 1):
            self.assertLess(abs(level[:, plane] - 1).max(), SIGMAS * error)
        for plane in (2, 3):
            self.assertLess(abs(level[:, plane] - 1 - wanted).max(), SIGMAS * error)
        self.assertGreater(numpy.corrcoef(level[:, 2], level[:, 3])[0, 1], 0.99)

    def test_the_sky_may_be_replaced_between_dumps(self) -> None:
        spectra, out = Spectra(setup_of()), numpy.zeros(2048, numpy.int32)
        levels = []
        for dump, level in enumerate((0.0, 100.0, 0.0, 300.0)):
            spectra.fill(dump, seen(level=level, lines=(Line(22235.0, 1.0, 1e-6),)), out)
            levels.append(out.sum() / means(setup_of()).sum())
        numpy.testing.assert_allclose(levels, (1, 2, 1, 4), rtol=0.01)

    def test_lines_drift_with_their_source(self) -> None:
        sky = seen(lines=(Line(22235.0, 300.0, 100.0),), transit=0.02, crossing=0.08)
        for dump, beam in ((0, 1.0), (1, 0.5), (2, 1 / 16)):
            found = (means(setup_of(), sky, dump) / means(setup_of()))[:, 683]
            numpy.testing.assert_allclose(found, 1 + beam, rtol=3e-3)

    def test_several_sources_add_up(self) -> None:
        sky = seen(level=20.0, feeds=(0, 1)).with_source("b", Source(level=30.0)).with_source("c", Source(feeds=(5,)))
        numpy.testing.assert_allclose(means(setup_of(), sky), 1.5 * means(setup_of()), rtol=1e-6)


class LineTests(ChannelMeanMixin):
    """A line is where a reader of the file looks for it, and of its width and integral."""

    def test_lines_at_their_frequencies(self) -> None:
        # local oscillator, bandwidth, bins
        for name, local_oscillator, bandwidth, bins in (
            ("water", 21235.0, 1500.0, 16384),
            ("methanol", 5900.0, 1400.0, 65536),
            ("HI", 1350.0, 100.0, 8192),
        ):
            with self.subTest(line=name):
                setup = setup_of(local_oscillator=local_oscillator, bandwidth=bandwidth, bins=bins)
                self._find(Line(REST_FREQUENCIES[name], 50.0, 200.0, velocity=120.0), setup)

    def _find(self, line: Line, setup: Setup) -> None:
        values = dumps(setup, 40, seen(lines=(line,))) / means(setup)
        kelvin = TSYS * values.mean(axis=(0, 1)) - TSYS
        # A reader: local oscillator, start of the section, offset of the bin.
        channel = setup.channels[0]
        bin_width = channel.bandwidth / channel.bins
        frequencies = setup.receiver.local_oscillator + numpy.arange(channel.bins) * bin_width
        high = kelvin > 20
        centre = line.rest * (1 - 120.0 / SPEED_OF_LIGHT)
        self.assertAlmostEqual(centre, numpy.average(frequencies[high], weights=kelvin[high]), delta=0.1 * bin_width)
        self.assertAlmostEqual(200.0, kelvin.max(), delta=10)
        width = line.rest * 50.0 / SPEED_OF_LIGHT
        self.assertAlmostEqual(width, (kelvin > 100).sum() * bin_width, delta=3 * bin_width)
        around = kelvin[abs(frequencies - centre) < 3 * width]
        noise = 2 * TSYS * (samples_of(setup) * 80) ** -0.5 * math.sqrt(len(around)) * bin_width
        integral = 200.0 * width * math.sqrt(math.pi / (4 * math.log(2)))
        self.assert_near(integral, around.sum() * bin_width, noise)

    def test_a_line_narrower_than_a_bin_keeps_its_integral(self) -> None:
        setup = setup_of()
        width = 1500.0 / 1024
        line = Line(21235.0 + 300 * width, 0.01, 1e6)
        kelvin = TSYS * means(setup, seen(lines=(line,)))[0] / means(setup)[0] - TSYS
        self.assertEqual(300, kelvin.argmax())
        self.assertAlmostEqual(1e6 * line.width_mhz * 1.0645 / width, kelvin[300], delta=1)
        self.assertLess(abs(numpy.delete(kelvin, 300)).max(), 1e-3)

    @given(
        st.floats(700.0, 800.0),
        st.floats(1e-4, 30.0),
        st.sampled_from((256, 1024, 16384)),
    )
    def test_integral_and_middle_of_any_line(self, offset: float, width: float, bins: int) -> None:
        each = 1500.0 / bins
        patch = Bins(Channel(0, ("L",), 0.0, 1500.0, bins), Receiver(local_oscillator=21235.0)).patch(
            [(21235.0 + offset, width, 10.0)]
        )
        assert patch is not None
        kelvin = patch.kelvin.astype(float)
        self.assertAlmostEqual(1.0, kelvin.sum() * each / (10.0 * width * 1.0644670), places=5)
        middle = (numpy.arange(patch.where.start, patch.where.stop) * each * kelvin).sum() / kelvin.sum()
        self.assertLess(abs(middle - offset), 0.51 * each)
        self.assertLess(abs(patch.where.start + kelvin.argmax() - offset / each), 0.51)

    def test_lines_outside_change_nothing(self) -> None:
        setup = setup_of(start=100.0)
        for frequency in (21235.0, 21335.0 - 1, 21335.0 + 1501.0, 1420.0):
            sky = seen(lines=(Line(frequency, 1.0, 1e3),))
            self.assertTrue((means(setup, sky) == means(setup)).all(), frequency)
        half = means(setup, seen(lines=(Line(21335.0 + 1500.0, 30.0, 1e3),)))
        self.assertGreater(half[0, -1], 2 * means(setup)[0, -1])

    def test_absorption_cannot_go_below_nothing(self) -> None:
        for stokes in (False, True):
            sky = seen(level=20.0, lines=(Line(22000.0, 300.0, -60.0), Line(22300.0, 300.0, -1e4)), linear=0.5)
            values = dumps(setup_of(stokes=stokes), 2, sky)
            self.assertEqual(0, values[:, :2].min())
            self.assertLess(abs(values).max(), 1e8)
        for angle in (0.0, 45.0, 90.0, 135.0):
            sky = seen(lines=(Line(22000.0, 300.0, -1e4),), linear=1.0, angle=angle)
            self.assertLess(abs(dumps(setup_of(stokes=True), 1, sky)).max(), 1e8)
        self.assertTrue((dumps(setup_of(stokes=True), 1, seen(level=-500.0)) == 0).all())

    def test_a_line_fills_a_single_bin_by_its_share(self) -> None:
        setup = setup_of(bins=1, gain=1.0)
        line = Line(21235.0 + 1400.0, 100.0, 500.0)
        more = means(setup, seen(lines=(line,)))[0] - means(setup)[0]
        share = 500.0 * line.width_mhz * 1.0645 / 1500.0
        self.assertAlmostEqual(share / TSYS, float(more[0] / means(setup)[0][0]), places=4)

    def test_channels_have_frequencies_of_their_own(self) -> None:
        setup = setup_of()
        left, right = setup.channels
        setup = replace(setup, channels=(left, replace(right, start_frequency=500.0)))
        spectra, sky = Spectra(setup), seen(lines=(Line(22235.0, 1.0, 1e6),))
        spectra.fill(0, sky, out := spectra.buffers())
        self.assertEqual([683, 341], list(numpy.argmax(out.reshape((2, 1024)) / means(setup), axis=1)))

    def test_a_comb_that_begins_below_the_band(self) -> None:
        setup = setup_of(local_oscillator=6300.0, interference=(Comb(1000.0, 1e9, 100.0, 1e4),))
        ratio = means(setup)[0] / means(setup_of())[0]
        peaks = [b for b in range(1, 1023) if ratio[b - 1] < ratio[b] >= ratio[b + 1] and ratio[b] > 10]
        numpy.testing.assert_allclose(numpy.array(peaks) * 1500 / 1024, numpy.arange(100, 1500, 100), atol=0.74)
        self.assertGreater(ratio[0], 10)

    def test_comb(self) -> None:
        comb = Comb(6300.0, 7300.0, 62.5, 40.0)
        setup = setup_of(local_oscillator=5900.0, bins=16384, interference=(comb,))
        kelvin = TSYS * means(setup)[1] / means(setup_of(local_oscillator=5900.0, bins=16384))[1] - TSYS
        width = 1500.0 / 16384
        peaks = [
            5900.0 + b * width for b in range(1, 16383) if kelvin[b - 1] < kelvin[b] >= kelvin[b + 1] and kelvin[b] > 10
        ]
        numpy.testing.assert_allclose(peaks, 6300.0 + 62.5 * numpy.arange(17), atol=0.51 * width)
        self.assertAlmostEqual(40.0, kelvin.max(), delta=0.5)
        self.assertAlmostEqual(17 * 40 * 1.0645, kelvin.sum() * width, delta=0.5)


class StokesTests(ChannelMeanMixin):
    """Q and U: the receiver's cross correlation, polarised sources, noise."""

    def test_layout_level_and_sign_changes(self) -> None:
        setup = setup_of(feeds=(0, 1, 2, 3), stokes=True)
        self.assertEqual(4 * 4 * 1024, setup.values)
        values = dumps(setup, 30).mean(axis=0).reshape((4, 4, 1024))
        single = means(setup_of(feeds=(0, 1, 2, 3))).reshape((4, 2, 1024))
        for feed in range(4):
            left, right, q, u = values[feed]
            for auto, same in zip((left, right), single[feed], strict=True):
                self.assertLess(abs(auto / same - 1).max(), 6 * (samples_of(setup) * 30) ** -0.5)
            root = numpy.sqrt(left * right)
            self.assertAlmostEqual(0.11, numpy.sqrt((q**2 + u**2).mean() / (root**2).mean()), delta=0.005)
            for cross in (q, u):
                self.assertAlmostEqual(0.11, abs(cross / root).max(), delta=0.005)
                changes = (numpy.diff(numpy.sign(numpy.convolve(cross / root, numpy.ones(9), "valid"))) != 0).sum()
                self.assertIn(changes, range(3, 8))
        patterns = values[:, 2] / numpy.sqrt(values[:, 0] * values[:, 1])
        self.assertGreater(abs(patterns[0] - patterns[1]).max(), 0.05)

    def test_noise(self) -> None:
        setup = setup_of(stokes=True)
        wanted = means(setup)
        values = dumps(setup, 100)
        root = numpy.sqrt(wanted[0] * wanted[1])
        for plane in (2, 3):
            deviates = (values[:, plane] - wanted[plane]) / root * math.sqrt(2 * samples_of(setup))
            self.assert_near(0.0, float(deviates.mean()), deviates.size**-0.5)
            self.assert_variance(1.0, deviates)

    def test_linear_polarisation(self) -> None:
        line = Line(22235.0, 200.0, 80.0)
        setup = setup_of(stokes=True, cross=0.0)
        plain = means(setup)
        unit = numpy.sqrt(plain[0] * plain[1]) / TSYS
        for angle, q, u in (
            (0.0, 1.0, 0.0),
            (45.0, 0.0, 1.0),
            (90.0, -1.0, 0.0),
            (15.0, math.sqrt(0.75), 0.5),
        ):
            with self.subTest(angle=angle):
                found = means(setup, seen(level=10.0, lines=(line,), linear=0.4, angle=angle))
                for plane, part in ((2, q), (3, u)):
                    kelvin = found[plane] / unit
                    self.assertAlmostEqual(0.4 * 10 * part, kelvin[100], places=4)
                    self.assertAlmostEqual(0.4 * 90 * part, kelvin[683], delta=0.2)

    def test_linear_polarisation_follows_beam_and_feed(self) -> None:
        setup = setup_of(stokes=True, cross=0.0)
        plain = means(setup)
        unit = math.sqrt(plain[0, 100] * plain[1, 100]) / TSYS
        drifting = seen(level=10.0, linear=0.4, angle=15.0, transit=0.02, crossing=0.08)
        for dump, beam in ((0, 1.0), (1, 0.5)):
            kelvin = means(setup, drifting, dump)[2:, 100] / unit
            numpy.testing.assert_allclose(kelvin, [4 * math.sqrt(0.75) * beam, 2 * beam], atol=1e-2)
        elsewhere = means(setup, seen(level=10.0, linear=1.0, feeds=(3,)))
        self.assertTrue((elsewhere[2:] == 0).all())
