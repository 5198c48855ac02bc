"""The messages of DISCOS telemetry: their times, their numbers, their form."""

from __future__ import annotations

import copy
import json
import math
import unittest
import zlib
from datetime import UTC, datetime
from typing import Any

import numpy
from hypothesis import given
from hypothesis import strategies as some

from discosbackend.monitor.telemetry import (
    BackendState,
    TelemetryChannel,
    default_name,
    encode,
    message,
    timestamp,
)
from discosbackend.ticks import Ticks

from .telemetry_schema import TIMESTAMP, message_in, problems_of

NOW = Ticks(16286832071239999)


def said(**values: Any) -> dict[str, Any]:
    """The message about a backend in this state, checked."""
    content = message("Mine", BackendState(NOW, NOW, **values))
    return dict(message_in(encode(content))["Mine"])


class TimestampTests(unittest.TestCase):
    def test_all_forms_of_an_instant(self) -> None:
        self.assertEqual(
            timestamp(NOW),
            {
                # Truncated: the fraction is .1239999.
                "iso8601": "2021-08-11T12:00:07.123Z",
                "mjd": 1628683207.1239999 / 86400 + 40587,
                "omg_time": 16286832071239999 + 122192928000000000,
                "unix_time": 1628683207.1239999,
            },
        )

    def test_the_epochs(self) -> None:
        self.assertEqual(
            timestamp(Ticks(0)),
            {"iso8601": "1970-01-01T00:00:00.000Z", "mjd": 40587.0, "omg_time": 122192928000000000, "unix_time": 0.0},
        )
        self.assertEqual(timestamp(Ticks(-122192928000000000))["omg_time"], 0)
        self.assertEqual(timestamp(Ticks(-122192928000000000))["iso8601"], "1582-10-15T00:00:00.000Z")

    def test_the_last_millisecond_is_not_rounded_up(self) -> None:
        for ticks, text in (
            (9_999_999, "1970-01-01T00:00:00.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (16286832079999999, "2021-08-11T12:00:07.999Z"),
        ):
            self.assertEqual(timestamp(Ticks(ticks))["iso8601"], text)

    def test_times_that_cannot_be_written(self) -> None:
        self.assertEqual(timestamp(Ticks(-(10**19)))["iso8601"], "1582-10-15T00:00:00.000Z")
        self.assertEqual(timestamp(Ticks(10**19))["iso8601"], "9999-12-31T23:59:59.999Z")

    @given(some.integers(-(10**19), 10**19))
    def test_any_time_is_valid(self, ticks: int) -> None:
        self.assertEqual(problems_of(json.loads(json.dumps(timestamp(Ticks(ticks)))), TIMESTAMP), [])

    @given(some.integers(0, 4 * 10**16))
    def test_the_forms_agree(self, ticks: int) -> None:
        found = timestamp(Ticks(ticks))
        self.assertEqual(found["omg_time"] - 122192928000000000, ticks)
        read = datetime.strptime(found["iso8601"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        self.assertEqual(round(read.timestamp() * 1000), ticks // 10_000)
        self.assertAlmostEqual(found["unix_time"], ticks / 10**7, 5)
        self.assertAlmostEqual((found["mjd"] - 40587) * 86400, ticks / 10**7, 3)


class MessageTests(unittest.TestCase):
    def test_a_state_of_which_nothing_is_known(self) -> None:
        found = said()
        self.assertEqual(found.pop("timestamp")["omg_time"], NOW + 122192928000000000)
        self.assertEqual(found.pop("backendTime")["omg_time"], NOW + 122192928000000000)
        self.assertEqual(
            found,
            {
                "busy": False,
                "channels": [],
                "commandLineError": False,
                "dataLineError": False,
                "integration": -1,
                "sampling": False,
                "suspended": False,
                "timeSync": True,
            },
        )

    def test_what_each_part_of_the_state_sets(self) -> None:
        usual = said()
        for state, expected in (
            ({"acquiring": True}, {"sampling": True, "busy": True}),
            ({"device_busy": True}, {"busy": True}),
            ({"start_pending": True}, {"suspended": True}),
            # A next acquisition can be requested during one.
            ({"start_pending": True, "acquiring": True}, {"sampling": True, "busy": True}),
            ({"status_text": "ok"}, {}),
            ({"status_text": ""}, {"commandLineError": True}),
            ({"status_text": "board 3 is hot"}, {"commandLineError": True}),
            ({"recording_problem": "disk full"}, {"dataLineError": True}),
            ({"clock_synchronised": True}, {}),
            ({"clock_synchronised": False}, {"timeSync": False}),
            ({"integration": 40}, {"integration": 40}),
            ({"integration": math.nan}, {}),
            ({"integration": math.inf}, {}),
        ):
            with self.subTest(state):
                self.assertEqual(said(**state), {**usual, **expected})

    def test_a_channel(self) -> None:
        channel = TelemetryChannel(
            3,
            "FULL STOKES",
            start_frequency=100,
            bandwidth=1500,
            bins=1024,
            sample_rate=3000,
            attenuation=7,
            system_temperature=90.5,
        )
        self.assertEqual(
            said(channels=[channel])["channels"],
            [
                {
                    "id": 3,
                    "attenuation": 7,
                    "bandWidth": 1500,
                    "bins": 1024,
                    "polarization": "FULL STOKES",
                    "sampleRate": 3000,
                    "startFrequency": 100,
                    "systemTemperature": 90.5,
                }
            ],
        )

    def test_unknown_numbers_of_a_channel(self) -> None:
        names = ("attenuation", "bandwidth", "sample_rate", "start_frequency", "system_temperature")
        for unknown in (None, math.nan, math.inf, -math.inf, numpy.float32("nan")):
            (found,) = said(channels=[TelemetryChannel(0, "LHCP", **dict.fromkeys(names, unknown))])["channels"]
            self.assertEqual([value for value in found.values() if value == -1], [-1] * 6)

    def test_numbers_of_numpy(self) -> None:
        values: dict[str, Any] = {
            "id": numpy.int64(1),
            "bins": numpy.int32(1024),
            "bandwidth": numpy.float32(0.5),
            "attenuation": numpy.int8(7),
        }
        channel = TelemetryChannel(polarization="RHCP", **values)
        (found,) = said(channels=[channel])["channels"]
        self.assertEqual((found["id"], found["bins"], found["bandWidth"], found["attenuation"]), (1, 1024, 0.5, 7))

    def test_wrong_channels(self) -> None:
        for error, text, arguments, values in (
            (ValueError, "one of LHCP, RHCP, FULL STOKES, not 'LCP'", (0, "LCP"), {}),
            (ValueError, "id of a telemetry channel must be at least 0, not -1", (-1, "LHCP"), {}),
            (ValueError, "id of a telemetry channel must be at least 0, not -1", (None, "LHCP"), {}),
            (ValueError, "bins of a telemetry channel must be at least 1, not 0", (0, "LHCP"), {"bins": 0}),
            (TypeError, "bins of a telemetry channel must be an integer, not 1.5", (0, "LHCP"), {"bins": 1.5}),
            (TypeError, "id of a telemetry channel must be an integer, not 'a'", ("a", "LHCP"), {}),
            (TypeError, "bandwidth of a telemetry channel must be a number, not '7'", (0, "LHCP"), {"bandwidth": "7"}),
            (TypeError, "bandwidth of a telemetry channel must be a number", (0, "LHCP"), {"bandwidth": [7]}),
        ):
            with self.subTest(text), self.assertRaisesRegex(error, text):
                TelemetryChannel(*arguments, **values)

    def test_compression(self) -> None:
        content = message("Mine", BackendState(NOW, NOW))
        packed = encode(content, "zlib")
        self.assertEqual(zlib.decompress(packed), encode(content))
        self.assertEqual(packed, zlib.compress(encode(content)))

    def test_default_names(self) -> None:
        for what, name in (
            ("sardara", "Sardara"),
            ("skarab", "Skarab"),
            ("skarab2", "Skarab2"),
            ("mistral", "Mistral"),
            ("totalpower", "TotalPower"),
            ("discos", "Discos"),
            ("MyBackend", "MyBackend"),
            ("my own-one", "My_own_one"),
            ("è", "Backend"),
            ("", "Backend"),
        ):
            self.assertEqual(default_name(what), name)


class SchemaTests(unittest.TestCase):
    """That the check of messages finds something."""

    def test_each_kind_of_wrong_message(self) -> None:
        good = message("Mine", BackendState(NOW, NOW, channels=[TelemetryChannel(0, "LHCP")]))
        self.assertEqual(problems_of(good), [])
        for text, path, value in (
            ("lacks busy", ("busy",), ...),
            ("unknown property more", ("more",), 1),
            ("is None, not of type number", ("integration",), None),
            ("is True, not of type number", ("integration",), True),
            ("is 1, not of type boolean", ("busy",), 1),
            ("is 1.5, not of type integer", ("timestamp", "omg_time"), 1.5),
            ("does not match", ("timestamp", "iso8601"), "2021-08-11T12:00:07Z"),
            ("lacks mjd", ("timestamp", "mjd"), ...),
            ("none of", ("channels", 0, "polarization"), "LCP"),
            ("less than 0", ("channels", 0, "id"), -1),
            ("not of type array", ("channels",), {}),
        ):
            with self.subTest(path, value=value):
                wrong = copy.deepcopy(good)
                parent: Any = wrong["Mine"]
                for step in path[:-1]:
                    parent = parent[step]
                if value is ...:
                    del parent[path[-1]]
                else:
                    parent[path[-1]] = value
                (found,) = problems_of(wrong)
                self.assertIn(text, found)
        for wrong in ({}, {"One": good["Mine"], "Two": good["Mine"]}, {"Not a name": good["Mine"]}):
            self.assertNotEqual(problems_of(wrong), [])
        for payload in (b"[]", b'{"Mine": NaN}', b"{}", b"\xff"):
            with self.assertRaises((AssertionError, UnicodeDecodeError)):
                message_in(payload)
