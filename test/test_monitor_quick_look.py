"""QuickLook: what is refused, and what a browser gets of it."""

from __future__ import annotations

import itertools
import json
import math
import unittest
from typing import Any

import numpy

import discosbackend
from discosbackend import QuickLook
from discosbackend.monitor.quick_look import MOST_INPUTS, MOST_POINTS, encoded, rounded, thinned


class QuickLookTests(unittest.TestCase):
    def test_it_is_public(self) -> None:
        self.assertIs(discosbackend.QuickLook, QuickLook)

    def test_names_by_default(self) -> None:
        self.assertEqual(QuickLook(0, 1, [[1], [2]]).names, ("input 0", "input 1"))

    def test_a_long_name_is_shortened(self) -> None:
        self.assertEqual(QuickLook(0, 1, [[1]], ["x" * 100]).names, ("x" * 40,))

    def test_what_is_refused(self) -> None:
        for arguments, why in (
            ((math.nan, 1, [[1]]), "start_mhz must be a finite number"),
            ((math.inf, 1, [[1]]), "start_mhz must be a finite number"),
            ((0, 0, [[1]]), "width_mhz must be more than 0"),
            ((0, -1, [[1]]), "width_mhz must be more than 0"),
            ((0, math.nan, [[1]]), "width_mhz must be more than 0"),
            ((0, math.inf, [[1]]), "width_mhz must be more than 0"),
            ((0, 1, [[1]] * (MOST_INPUTS + 1)), "at most 64 spectra"),
            ((0, 1, [[1], []]), "spectrum 1 must have 1 to 1048576 values, not 0"),
            ((0, 1, [numpy.zeros(2**20 + 1)]), "not 1048577"),
            ((0, 1, [numpy.zeros((2, 3))]), "spectrum 0 must have one dimension, not the shape"),
            ((0, 1, [[1], [2]], ["L"]), "2 spectra need as many names, not 1"),
        ):
            with self.subTest(why), self.assertRaisesRegex(ValueError, why):
                QuickLook(*arguments)


class EncodingTests(unittest.TestCase):
    def document(self, *arguments: object) -> dict[str, object]:
        return json.loads("".join(encoded(QuickLook(*arguments))))  # type: ignore[arg-type]

    def test_the_document(self) -> None:
        found = self.document(100, 500.0, [[1, 2.5], numpy.array([3, 4], numpy.int32)], ["L", "</script>"])
        expected = {"start_mhz": 100.0, "width_mhz": 500.0, "names": ["L", "</script>"], "spectra": [[1, 2.5], [3, 4]]}
        self.assertEqual(found, expected)

    def test_nothing(self) -> None:
        self.assertEqual(self.document(0, 1, [])["spectra"], [])

    def test_what_is_not_finite_is_null(self) -> None:
        values = [1.0, math.nan, math.inf, -math.inf]
        self.assertEqual(self.document(0, 1, [values, numpy.array(values)])["spectra"], [[1.0, None, None, None]] * 2)

    def test_the_means_of_neighbours(self) -> None:
        for count in (1, 2, 999, 1000, 1001, 1999, 2000, 16384, 65536):
            values = numpy.arange(count, dtype=numpy.float32)
            with self.subTest(count):
                of_array, of_list = thinned(values), thinned(values.tolist())
                self.assertEqual(len(of_array), min(count, MOST_POINTS))
                self.assertEqual(of_array, of_list)
                # Of a ramp, the mean of a group is the middle of its ends; the groups have nearly the same size.
                edges = [n * count // len(of_array) for n in range(len(of_array) + 1)]
                self.assertEqual(of_list, [(low + high - 1) / 2 for low, high in itertools.pairwise(edges)])

    def test_integers_do_not_overflow(self) -> None:
        self.assertEqual(thinned(numpy.full(65536, 2**31 - 1, numpy.int32)), [2.0**31 - 1] * MOST_POINTS)

    def test_a_long_list_is_added_in_pieces(self) -> None:
        """A piece holds the reactor, so no piece may read more values than can be added in much less than 1 ms."""

        class Counted(list[float]):
            read = 0

            def __getitem__(self, index: Any) -> Any:
                found = super().__getitem__(index)
                self.read += len(found)
                return found

        for count in (1001, 16384, 65536, 2**20):
            with self.subTest(count):
                spectrum, most, before = Counted([1.5] * count), 0, 0
                for _ in encoded(QuickLook(0, 1, [spectrum])):
                    most, before = max(most, spectrum.read - before), spectrum.read
                self.assertEqual(spectrum.read, count)
                self.assertLessEqual(most, 2100)

    def test_the_digits(self) -> None:
        for points, found in (
            ([123456.789, 1.0], [123457, 1]),
            ([1.23456789, -0.5], [1.23457, -0.5]),
            ([1.23456789e-9], [1.23457e-9]),
            ([1.5e300], [round(1.5e300)]),
            ([0.0, math.nan], [0, None]),
        ):
            self.assertEqual(rounded(points), found)

    def test_each_piece_is_short(self) -> None:
        pieces = list(encoded(QuickLook(0, 1, [numpy.random.default_rng(1).random(65536)] * 14)))
        self.assertLess(max(map(len, pieces)), 4000)
        self.assertLess(sum(map(len, pieces)), 200_000)


if __name__ == "__main__":
    unittest.main()
