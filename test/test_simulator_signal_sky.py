"""What a simulated telescope looks at: sources and lines, from calls and from files, and what cannot be."""

from __future__ import annotations

import json
import math
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from typing import Any

from discosbackend.schema import read
from discosbackend.simulator.errors import SkyError
from discosbackend.simulator.signal.sky import Line, Sky, Source, load_sky


def source_of(values: Any) -> Source:
    return read(Source, values, "", SkyError)


class LineTests(unittest.TestCase):
    def test_velocity_is_away_from_us(self) -> None:
        line = Line(rest=1420.4058, width=10, peak=1, velocity=100)
        self.assertAlmostEqual(line.frequency, 1420.4058 * (1 - 100 / 299792.458))
        self.assertLess(line.frequency, 1420.4058)
        self.assertAlmostEqual(line.width_mhz, 0.0473796, places=7)

    def test_refusals(self) -> None:
        right: dict[str, Any] = {"rest": 1420.4, "width": 1.0, "peak": 2.0, "velocity": 0.0}
        for key, value, told in (
            ("rest", 0, "rest must be a number of MHz from 1 to 10000000, or one of HI, methanol, water, not 0"),
            (
                "rest",
                math.nan,
                "rest must be a number of MHz from 1 to 10000000, or one of HI, methanol, water, not nan",
            ),
            ("width", -1, "width must be a number of km/s above 0, not -1"),
            ("peak", "2", "peak must be a number of K, not '2'"),
            ("peak", True, "peak must be a number of K, not true"),
            ("velocity", math.inf, "velocity must be a number of km/s, slower than light, not inf"),
            ("velocity", -299792.458, "velocity must be a number of km/s, slower than light, not -299792.458"),
        ):
            with self.subTest(key, value=value), self.assertRaises(SkyError) as caught:
                Line(**{**right, key: value})
            self.assertEqual(str(caught.exception), told)


class SourceTests(unittest.TestCase):
    def test_the_beam(self) -> None:
        staying, drifting = Source(level=1), Source(level=1, transit=10, crossing=4)
        self.assertEqual([staying.beam(t) for t in (-100, 0, 100)], [1.0] * 3)
        for seconds, wanted in ((10, 1.0), (8, 0.5), (12, 0.5), (6, 0.0625), (0, 0.0)):
            self.assertAlmostEqual(drifting.beam(seconds), wanted, places=7)

    def test_a_beam_of_any_width(self) -> None:
        for crossing in (5e-324, 1e-200, 1e308):
            self.assertEqual(Source(transit=1.0, crossing=crossing).beam(1.0), 1.0)
            self.assertIn(Source(transit=1e308, crossing=crossing).beam(0.0), (0.0, 1 / 16))
        self.assertEqual(Source(transit=1.0, crossing=1e-200).beam(2.0), 0.0)

    def test_refusals(self) -> None:
        for values, told in (
            ({"transit": 3}, "transit and crossing go together"),
            ({"crossing": 3}, "transit and crossing go together"),
            ({"transit": 3, "crossing": 0}, "crossing must be a number of s above 0, not 0"),
            ({"linear": 1.1}, "linear must be a number from 0 to 1, not 1.1"),
            ({"feeds": ()}, "feeds must be numbers of feeds such as 0 3"),
            ({"feeds": (-1,)}, "feeds[0] must be a whole number, 0 or more, not -1"),
            ({"feeds": (True,)}, "feeds[0] must be a whole number, 0 or more, not true"),
        ):
            with self.subTest(values), self.assertRaises(SkyError) as caught:
                Source(**values)
            self.assertTrue(str(caught.exception).startswith(told), caught.exception)

    def test_from_tables(self) -> None:
        told = {"level": 2, "feeds": [0, 3], "lines": [{"rest": "water", "width": 1.5, "peak": 8, "velocity": -9}]}
        wanted = Source(level=2, feeds=(0, 3), lines=(Line(22235.08, 1.5, 8, -9),))
        self.assertEqual(source_of(told), wanted)
        # And back, by what a Sky tells of it.
        again = Sky().with_source("w3oh", wanted).to_dict()["sources"]["w3oh"]
        self.assertEqual(source_of(json.loads(json.dumps(again))), wanted)

    def test_wrong_tables(self) -> None:
        for told, reason in (
            ({"levle": 2}, "levle is not known: did you mean level?"),
            ({"flux": 2}, "flux is not known: known are level, lines, feeds"),
            ({"lines": 3}, "lines must be a list of tables"),
            ({"lines": [3]}, "lines[0] must be a table with rest, width, peak, velocity, not 3"),
            (
                {"lines": [{"rest": "ammonia"}]},
                "lines[0].rest must be a number of MHz from 1 to 10000000, or one of HI, methanol, water, not 'a",
            ),
            ({"lines": [{"rest": 1.0, "width": 2}]}, "lines[0].peak is needed: a number of K"),
            ({"lines": [{"rest": 1.0, "widht": 2}]}, "lines[0].widht is not known: did you mean width?"),
            ({"feeds": 3}, "feeds must be numbers"),
        ):
            with self.subTest(told), self.assertRaises(SkyError) as caught:
                source_of(told)
            self.assertTrue(str(caught.exception).startswith(reason), caught.exception)


class SkyTests(unittest.TestCase):
    def test_sources_come_and_go_in_new_skies(self) -> None:
        first = Sky()
        second = first.with_source("a", Source(level=1)).with_source("b", Source(level=2))
        third = second.with_source("a", Source(level=3)).without_source("b")
        self.assertEqual(dict(first.sources), {})
        self.assertEqual([source.level for source in second.sources.values()], [1, 2])
        self.assertEqual({name: source.level for name, source in third.sources.items()}, {"a": 3})
        with self.assertRaisesRegex(SkyError, "no source is called 'c': there is a, b"):
            second.without_source("c")
        with self.assertRaisesRegex(SkyError, "there is none"):
            first.without_source("c")

    def test_there_is_an_end_to_it(self) -> None:
        sky = Sky()
        for number in range(100):
            sky = sky.with_source(str(number), Source(lines=(Line(1, 2, 3),) * 10))
        sky = sky.with_source("99", Source(lines=(Line(1, 2, 3),) * 10))
        for name, lines in (("100", 0), ("0", 11)):
            with self.assertRaisesRegex(SkyError, "a sky has at most 100 sources with 1000 lines in all"):
                sky.with_source(name, Source(lines=(Line(1, 2, 3),) * lines))

    def test_temperatures_by_input(self) -> None:
        sky = Sky().with_tsys(50, (0, 1)).with_tsys(60, (1,)).with_mark(9, (3,))
        self.assertEqual((dict(sky.tsys), dict(sky.mark)), ({0: 50.0, 1: 60.0}, {3: 9.0}))
        for call in (sky.with_tsys, sky.with_mark):
            with self.assertRaisesRegex(SkyError, "must be a number of K above 0, not -1"):
                call(-1, (0,))

    def test_the_diode(self) -> None:
        for sky, wanted in (
            (Sky(), "------"),
            (Sky(diode=True), "++++++"),
            (Sky(interleave=1), "+-+-+-"),
            (Sky(interleave=2), "++--++"),
            (Sky(diode=True, interleave=2), "++--++"),
        ):
            self.assertEqual("".join("-+"[sky.diode_at(dump)] for dump in range(6)), wanted)

    def test_told_is_json(self) -> None:
        sky = replace(Sky().with_source("a", Source(level=1, lines=(Line(1, 2, 3),))).with_tsys(5, (2,)), diode=True)
        told = json.loads(json.dumps(sky.to_dict()))
        self.assertEqual((told["tsys"], told["diode"]), ({"2": 5.0}, True))
        self.assertEqual(told["sources"]["a"]["lines"][0]["peak"], 3)


class FileTests(unittest.TestCase):
    def load(self, text: str) -> Sky:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sky.toml"
            path.write_text(text, encoding="utf-8")
            return load_sky(path)

    def test_a_file(self) -> None:
        sky = self.load(
            """
            diode = true
            [sources.W3OH]
            level = 3.5
            transit = 10
            crossing = 4.0
            [[sources.W3OH.lines]]
            rest = "water"
            width = 1.0
            peak = 40
            [sources.background]
            level = 2.7
            feeds = [0, 1, 2, 3, 4, 5, 6]
            """
        )
        self.assertTrue(sky.diode)
        self.assertEqual(list(sky.sources), ["W3OH", "background"])
        self.assertEqual(sky.sources["W3OH"], Source(3.5, (Line(22235.08, 1.0, 40),), transit=10, crossing=4.0))
        self.assertEqual(sky.sources["background"].feeds, tuple(range(7)))
        self.assertEqual(self.load(""), Sky())

    def test_wrong_files(self) -> None:
        for text, told in (
            ("level = 3", "sky.toml: level is not known: known are sources, diode"),
            ("diode = 1", "sky.toml: diode must be true or false, not 1"),
            ("[sources]\na = 3", "sky.toml: sources.a must be a table with level, lines, "),
            ("[sources.a]\nlevel = -inf", "sky.toml: sources.a.level must be a number of K, not -inf"),
            ("[sources.a", "is no TOML file"),
        ):
            with self.subTest(text), self.assertRaises(SkyError) as caught:
                self.load(text)
            self.assertIn(told, str(caught.exception))
        with self.assertRaisesRegex(SkyError, "nowhere.toml: No such file"):
            load_sky("nowhere.toml")


if __name__ == "__main__":
    unittest.main()
