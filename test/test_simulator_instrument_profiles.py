"""The simulated instruments' files: what those which are shipped say, and what is said of a wrong one.

What the configurations of the spectrometers are, row by row, is tested in test_simulator.
"""

from __future__ import annotations

import math
import re
import tempfile
import tomllib
import unittest
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from discosbackend.grammar import parse_message
from discosbackend.simulator import (
    INSTRUMENTS,
    Instrument,
    SimulatedBackend,
    instrument_of,
    profile_text,
    shipped_instruments,
)
from discosbackend.simulator.errors import InstrumentError
from discosbackend.simulator.instrument.model import Configuration, Phrases, Receiver, Response, Task

from .serving import ROOT

# A spectrometer of which every key is said.
EVERYTHING = """
name = "mine"
description = "all that can be said"
includes = ["totalpower"]
lacks = ["get-rms"]
records = false

[limits]
integration = [2, 900]
start_frequency = [1.0, 100.0]
bandwidth = [10.0, 600.0]
sample_rate = [20, 1200]
bins = [256, 512]
shift = [-1, 3]
feeds = 3
all_feeds = 9
equal_feeds_once = true

[response]
gain = 2.5
zero = 3.0
full_scale = 65535
rms = 4.0
edge = 0.5
slope = -1.0
dc = 2.0
spur = 1.25
cross = 0.2
drift = 0.01

[receivers.Q]
code = "QQB"
local_oscillator = 40000.0
tsys = [50.0, 60.0]
mark = [5.0, 6.0]
beam = 0.5
offsets = [[0.0, 0.0], [1.0, 0.0]]
interference = [{first = 40100.0, last = 40200.0, spacing = 10.0, level = 7.0}]

[defaults]
receiver = "Q"
feeds = [1]
start_frequency = 2.0
bandwidth = 500
bins = 512
attenuation = 8.0
integration = 20

[configurations]
Q1 = {stokes_too = true}
"Q 2" = {feeds = [1, 0], bandwidth = 20.5, bins = 256, attenuation = 0, integration = 9, start_frequency = 1}

[[tasks]]
command = "tune"
configuration = "tuning"
duration = 5
initialises = true
help = "Tune, and wait."

[phrases]
uninitialised = "out of tune"
running = "busy with {command}"
acquiring = "listening"
ready = "at your service"
"""


class _Files(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by addCleanup
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "mine.toml"

    def read(self, text: str) -> Instrument:
        """The instrument of a file with this text."""
        self.path.write_text(text, encoding="utf-8")
        return instrument_of(str(self.path))

    def complaint(self, text: str) -> str:
        """What is said of a file with this text; the file is named in it."""
        with self.assertRaises(InstrumentError) as raised:
            self.read(text)
        said = str(raised.exception)
        self.assertTrue(said.startswith(f"instrument {self.path}"), said)
        self.assertEqual(1, len(said.splitlines()))
        return said.removeprefix(f"instrument {self.path}").removeprefix(": ")


class ShippedTests(_Files):
    """The files that come with the package."""

    def test_names_and_descriptions(self) -> None:
        found = dict(shipped_instruments())
        self.assertEqual(["discos", "mistral", "sardara", "skarab", "skarab2", "totalpower"], [*found])
        self.assertEqual([*found], [*INSTRUMENTS])
        self.assertEqual(len(found), len(INSTRUMENTS))
        for name, description in found.items():
            with self.subTest(name):
                self.assertEqual(name, INSTRUMENTS[name].name)
                self.assertRegex(description, "^[!-~ ]{20,100}$")
        self.assertNotIn("nothing", INSTRUMENTS)
        self.assertIs(INSTRUMENTS["sardara"], instrument_of("sardara"))

    def test_a_copy_is_equal(self) -> None:
        for name in INSTRUMENTS:
            with self.subTest(name):
                self.assertEqual(INSTRUMENTS[name], self.read(profile_text(name)))
                self.assertEqual(name, SimulatedBackend(self.path).instrument.name)

    def test_a_copy_can_be_edited(self) -> None:
        text = profile_text("sardara").replace("SK04 = ", "MINE = ").replace("gain = 1.9e6", "gain = 7")
        mine = self.read(text)
        self.assertEqual((0, 4), mine.configurations["MINE"].feeds)
        self.assertNotIn("SK04", mine.configurations)
        self.assertEqual(7.0, mine.configurations["SK00"].response.gain)

    def test_they_are_packaged(self) -> None:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        patterns = settings["tool"]["setuptools"]["package-data"]["discosbackend.simulator"]
        for name in INSTRUMENTS:
            self.assertTrue(any(fnmatch(f"profiles/{name}.toml", pattern) for pattern in patterns))

    def test_discos_has_all_of_the_spectrometers(self) -> None:
        # Each is that of its instrument, whose name the files have.
        both = {
            name: replace(configuration, instrument=instrument)
            for instrument in ("sardara", "skarab")
            for name, configuration in INSTRUMENTS[instrument].configurations.items()
        }
        self.assertEqual(both, dict(INSTRUMENTS["discos"].configurations))
        self.assertIsNone(INSTRUMENTS["discos"].unconfigured.limits)
        for name in ("sardara", "skarab", "skarab2", "totalpower"):
            self.assertIs(
                INSTRUMENTS[name].unconfigured.limits,
                next(iter(INSTRUMENTS[name].configurations.values())).limits,
            )

    def test_receivers(self) -> None:
        # name, code, local oscillator, tsys, mark, feeds
        rows = {
            "SK00 SK77S SKARAB_1 SKARAB_12S TP77": ("KKG", 21235.0, (87.0, 116.0), (28.0, 77.0), 7),
            "SC00 SC00S SCC00 SCH00S TP00": ("CCB", 5900.0, (30.0, 38.0), (3.1, 3.9), 1),
            "SX00": ("XXG", 7500.0, None, None, 1),
            "SL00": ("LLP", 1000.0, None, None, 1),
            "SP00": ("PPP", 100.0, None, None, 1),
        }
        everything = {
            **INSTRUMENTS["discos"].configurations,
            **INSTRUMENTS["totalpower"].configurations,
        }
        for names, (code, oscillator, tsys, mark, feeds) in rows.items():
            for name in names.split():
                with self.subTest(name):
                    receiver = everything[name].receiver
                    self.assertEqual((code, oscillator), (receiver.code, receiver.local_oscillator))
                    self.assertEqual(tsys or receiver.tsys, receiver.tsys)
                    self.assertEqual(mark or receiver.mark, receiver.mark)
                    self.assertEqual(feeds, len(receiver.offsets))

    def test_the_usual_lines_are_in_the_band(self) -> None:
        for name, line in (
            ("SK77", 22235.08), ("SCC00", 6668.5192), ("SL00", 1420.4058), ("TP77", 22235.08),
            *((name, 22235.08) for name in INSTRUMENTS["skarab"].configurations),
        ):  # fmt: skip
            with self.subTest(name):
                configuration = {
                    **INSTRUMENTS["discos"].configurations,
                    **INSTRUMENTS["totalpower"].configurations,
                }[name]
                where = line - configuration.receiver.local_oscillator - configuration.start_frequency
                self.assertTrue(0 < where < configuration.bandwidth)
                if name.startswith("SKARAB") and configuration.bandwidth < 1400:
                    self.assertAlmostEqual(0.5, where / configuration.bandwidth, delta=0.01)

    def test_the_seven_feeds_are_a_hexagon(self) -> None:
        for name in ("SK77", "SKARAB_1"):
            middle, *around = INSTRUMENTS["discos"].configurations[name].receiver.offsets
            self.assertEqual((0.0, 0.0), middle)
            # What readers of the files need: x above 0 and y exactly 0.
            self.assertTrue(around[0][0] > 0 and around[0][1] == 0.0)
            for number, (x, y) in enumerate(around):
                self.assertAlmostEqual(around[0][0], math.hypot(x, y), delta=0.001)
                self.assertAlmostEqual(60.0 * number, math.degrees(math.atan2(y, x)) % 360, delta=0.01)

    def test_skarab_of_two_inputs(self) -> None:
        large, small = INSTRUMENTS["skarab"], INSTRUMENTS["skarab2"]
        self.assertEqual(large.lacks, small.lacks)
        self.assertEqual(10, len(small.configurations))
        limits = large.unconfigured.limits
        assert limits is not None
        for name, configuration in small.configurations.items():
            with self.subTest(name):
                self.assertEqual(1 if name.endswith("S") else 2, configuration.sections)
                # Apart from its single feed it is SKARAB.
                wanted = large.configurations[name]
                receiver = replace(wanted.receiver, offsets=((0.0, 0.0),))
                self.assertEqual(
                    replace(wanted, feeds=(0,), limits=replace(limits, feeds=1), receiver=receiver), configuration
                )

    def test_interference(self) -> None:
        (comb,) = INSTRUMENTS["sardara"].configurations["SCC00"].receiver.interference
        self.assertEqual((6300.0, 7300.0, 62.5), (comb.first, comb.last, comb.spacing))
        self.assertEqual((), INSTRUMENTS["sardara"].configurations["SK00"].receiver.interference)

    def test_total_power(self) -> None:
        instrument = INSTRUMENTS["totalpower"]
        self.assertEqual({"TP77": 14, "TP00": 2}, {n: c.inputs for n, c in instrument.configurations.items()})
        for name, configuration in instrument.configurations.items():
            with self.subTest(name):
                self.assertEqual((1, 40), (configuration.bins, configuration.integration))
                limits = configuration.limits
                assert limits is not None
                self.assertEqual(((1, 1000), (1,)), (limits.integration, limits.bins))
                kelvin = sum(configuration.receiver.tsys) / 2
                level = kelvin * configuration.bandwidth * 10 ** (-configuration.attenuation / 10)
                self.assertTrue(1e5 < level * configuration.response.gain < 2e6)

    def test_only_mistral_has_tasks_and_no_files(self) -> None:
        for name, instrument in INSTRUMENTS.items():
            self.assertEqual(name == "mistral", bool(instrument.tasks))
            self.assertEqual(name != "mistral", instrument.records)
        self.assertEqual(
            [("setup", "setup", 60.0, True), ("vna-sweep", "vnaSweep", 300.0, False),
             ("target-sweep", "targetSweep", 300.0, False)],
            [(t.command, t.configuration, t.duration, t.initialises) for t in INSTRUMENTS["mistral"].tasks],
        )  # fmt: skip

    def test_profile_text_of_none(self) -> None:
        for name, wanted in (("sardra", "did you mean sardara?"), ("zzz", "known are discos, mistral")):
            with self.assertRaisesRegex(InstrumentError, re.escape(wanted)):
                profile_text(name)


class KeyTests(_Files):
    """What each key becomes."""

    def test_everything(self) -> None:
        mine = self.read(EVERYTHING)
        self.assertEqual(("mine", "all that can be said", False), (mine.name, mine.description, mine.records))
        self.assertEqual({"get-rms"}, mine.lacks)
        limits = mine.unconfigured.limits
        assert limits is not None
        self.assertEqual(
            ((1.0, 100.0), (256, 512), (10.0, 600.0), (20.0, 1200.0), (2, 900), (-1, 3), 3, 9, True),
            tuple(getattr(limits, name) for name in limits.__dataclass_fields__),
        )
        response = mine.unconfigured.response
        self.assertEqual(Response(2.5, 3.0, 65535, 4.0, 0.5, -1.0, 2.0, 1.25, 0.2, 0.01), response)
        self.assertEqual({"TP77", "TP00", "Q1", "Q1S", "Q 2"}, set(mine.configurations))
        first = mine.configurations["Q1"]
        self.assertEqual(
            Configuration("Q1", limits, (1,), 500.0, 512, 8.0, False, 2.0, 20, first.receiver, response),
            first,
        )
        self.assertTrue(mine.configurations["Q1S"].stokes)
        second = mine.configurations["Q 2"]
        self.assertEqual(
            Configuration("Q 2", limits, (1, 0), 20.5, 256, 0.0, False, 1.0, 9, first.receiver, response),
            second,
        )
        receiver = first.receiver
        self.assertEqual(("QQB", 40000.0), (receiver.code, receiver.local_oscillator))
        self.assertEqual(((50.0, 60.0), (5.0, 6.0)), (receiver.tsys, receiver.mark))
        self.assertEqual((0.5, ((0.0, 0.0), (1.0, 0.0))), (receiver.beam, receiver.offsets))
        (comb,) = receiver.interference
        self.assertEqual((40100.0, 40200.0, 10.0, 7.0), (comb.first, comb.last, comb.spacing, comb.level))
        self.assertIs(receiver, mine.unconfigured.receiver)
        self.assertEqual((Task("tune", "tuning", 5.0, True, "Tune, and wait."),), mine.tasks)
        phrases = Phrases("out of tune", "busy with {command}", "listening", "at your service")
        self.assertEqual(phrases, mine.phrases)
        # What is included stays what it is.
        included = replace(INSTRUMENTS["totalpower"].configurations["TP77"], instrument="totalpower")
        self.assertEqual(included, mine.configurations["TP77"])

    def test_next_to_nothing(self) -> None:
        mine = self.read('name = "mine"\ndescription = "nothing"')
        self.assertEqual({}, dict(mine.configurations))
        self.assertEqual((Receiver(), Response()), (mine.unconfigured.receiver, mine.unconfigured.response))
        self.assertEqual((None, frozenset(), (), Phrases(), True), (
            mine.unconfigured.limits, mine.lacks, mine.tasks, mine.phrases, mine.records,
        ))  # fmt: skip
        self.assertEqual("ok", SimulatedBackend(mine).status_text)

    def test_without_limits_everything_goes(self) -> None:
        text = EVERYTHING.replace("feeds = [1, 0]", "feeds = [0]").replace("bins = 256,", "bins = 3,")
        start, end = text.index("[limits]"), text.index("[response]")
        mine = self.read(text[:start] + text[end:])
        self.assertEqual((None, 3), (mine.configurations["Q 2"].limits, mine.configurations["Q 2"].bins))

    def test_includes(self) -> None:
        (self.folder / "other.toml").write_text(EVERYTHING, encoding="utf-8")
        text = 'name = "mine"\ndescription = "two"\nincludes = ["other.toml", "mistral"]\n'
        mine = self.read(text)
        self.assertEqual({"TP77", "TP00", "Q1", "Q1S", "Q 2"}, set(mine.configurations))
        # Configurations only.
        self.assertEqual(((), frozenset()), (mine.tasks, mine.lacks))
        # Its own go before.
        own = EVERYTHING.replace('"totalpower"', '"sardara", "other.toml"').replace("Q1 =", "SK00 =")
        mine = self.read(own)
        self.assertEqual((1,), mine.configurations["SK00"].feeds)
        self.assertTrue(mine.configurations["SK00S"].stokes)
        self.assertEqual("KKG", mine.configurations["SK01"].receiver.code)


REQUEST_OF = "?set-configuration,{}"

# Every line of EVERYTHING that gives a value, and what might be given instead.
KEYS = re.findall(r"\n[a-z_]+ = .*\n", re.sub("\n", "\n\n", EVERYTHING))
VALUES = (
    "0", "1", "-1", "1000000000000000000000", "1e308", "1e-308", "-0.0", "nan", "inf", "true", "[]", "{}",
    "''", "'x'", "'a b'", "[0]", "[0, 0]", "[1, 2]", "[2, 1]", "[nan, 1]", "[[0, 0]]",
    "[[0, 0], [1e308, nan]]", "['x']", "[{}]", "{x = {}}", "1979-05-27", "'{command}'", "'{'",
)  # fmt: skip


class WrongTests(_Files):
    """What is said of a file that cannot be meant."""

    def test_wrong_values(self) -> None:
        # what stands in EVERYTHING, what stands there instead, what is said
        for there, instead, wanted in (
            ('name = "mine"', "", "name is needed: one line of ASCII without , and ! of at most 64 characte"),
            ('name = "mine"', 'name = "m,n"', "name must be one line of ASCII without , and !"),
            ('name = "mine"', 'name = ""', "name must be one line of ASCII"),
            ('name = "mine"', "name = 3", "at most 64 characters, not 3"),
            ('description = "all that can be said"', "", "description is needed: one line of text"),
            ('description = "all', 'description = "\\nall', "description must be one line of text"),
            ('name = "mine"', 'name = "mine"\nnmae = 3', "nmae is not known: did you mean name?"),
            ('name = "mine"', 'name = "mine"\nzzzz = 3', "zzzz is not known: known are name, description"),
            ("records = false", 'records = "no"', "records must be true or false, not 'no'"),
            ("records = false", "records = 0", "records must be true or false, not 0"),
            ('["get-rms"]', '["get-rmss"]', "lacks must be a list of commands: get-configuration"),
            ('["get-rms"]', '["version"]', "lacks must be a list of commands: "),
            ('["get-rms"]', '"get-rms"', "lacks must be a list of commands: "),
            ('includes = ["totalpower"]', "includes = 3", "includes must be a list of instruments, by name"),
            # limits
            ("integration = [2, 900]", "integraton = [2, 900]", "limits.integraton is not known: did you me"),
            ("integration = [2, 900]", "integration = [0, 900]", "limits.integration[0] must be a whole n"),
            ("integration = [2, 900]", "integration = [2, 1]", "whole numbers of ms from 1 to 1000000000,"),
            ("integration = [2, 900]", "integration = [2.0, 9]", "limits.integration[0] must be a whole n"),
            ("integration = [2, 900]", "integration = [2]", "limits.integration must be a pair"),
            ("integration = [2, 900]", "integration = [2, 3, 900]", "limits.integration must be a pair"),
            ("integration = [2, 900]", "integration = [true, 900]", "limits.integration[0] must be a who"),
            ("bandwidth = [10.0, 600.0]", "bandwidth = [-1, 600]",
             "limits.bandwidth[0] must be a number of MHz from 0 to 10000000, not -1"),
            ("bandwidth = [10.0, 600.0]", "bandwidth = [0, nan]", "limits.bandwidth[1] must be a number"),
            ("bandwidth = [10.0, 600.0]", "bandwidth = [0, inf]", "limits.bandwidth[1] must be a number"),
            ("bins = [256, 512]", "", "limits.bins is needed: a list of whole numbers from 1 to"),
            ("bins = [256, 512]", "bins = [0]", "limits.bins[0] must be a whole number from 1 to 16777216"),
            ("bins = [256, 512]", "bins = 256", "limits.bins must be a list of whole numbers from 1 to"),
            ("bins = [256, 512]", "bins = [256.0]", "limits.bins[0] must be a whole number from 1 to 16777216"),
            ("feeds = 3", "feeds = 0", "limits.feeds must be a whole number from 1 to 1000, not 0"),
            ("all_feeds = 9", "all_feeds = 2", "limits.all_feeds must be limits.feeds, 3, or more"),
            # response
            ("gain = 2.5", "gain = 0", "response.gain must be a number of counts per K and MHz above 0, at"),
            ("gain = 2.5", "gian = 2", "response.gian is not known: did you mean gain?"),
            ("full_scale = 65535", "full_scale = 2147483648", "response.full_scale must be a whole number o"),
            ("edge = 0.5", "edge = 1.5", "response.edge must be a number from 1e-06 to 1, not 1.5"),
            ("drift = 0.01", "drift = true", "response.drift must be a number from 0 to 1, not true"),
            ("cross = 0.2", "cross = '0.2'", "response.cross must be a number from 0 to 1, not '0.2'"),
            # receivers
            ("[receivers.Q]", "[receivers]", "receivers.code must be a table with code, local_osc"),
            ('code = "QQB"', 'cod = "QQB"', "receivers.Q.cod is not known: did you mean code?"),
            ("tsys = [50.0, 60.0]", "tsys = [60, 50]",
             "receivers.Q.tsys must be a pair [lowest, highest] of numbers of K above 0, at most 1000000,"),
            ("mark = [5.0, 6.0]", "mark = [0, 6]", "receivers.Q.mark[0] must be a number of K above 0, at most 10"),
            ("beam = 0.5", "", "receivers.Q.beam is needed: a number of arcmin above 0, at most 10800"),
            ("duration = 5", "", "tasks[0].duration is needed: a number of seconds from 0 to a year"),
            ("beam = 0.5", "beam = 0", "receivers.Q.beam must be a number of arcmin above 0, at most 10800,"),
            ("offsets = [[0.0, 0.0], [1.0, 0.0]]", "offsets = []", "receivers.Q.offsets must be a list of ["),
            ("offsets = [[0.0, 0.0], [1.0", "offsets = [[0.5, 0.0], [1.0", "receivers.Q.offsets must be a l"),
            ("offsets = [[0.0, 0.0], [1.0", "offsets = [[0.0, 0.0, 0.0], [1.0", "receivers.Q.offsets[0] must"),
            ("interference = [{", "interference = [3, {", "receivers.Q.interference[0] must be a table with"),
            ("last = 40200.0", "last = 40000.0", "receivers.Q.interference[0].last must be first, 40100 MHz"),
            ("spacing = 10.0", "spacing = 0.001", "interference[0].spacing must be so wide that there are a"),
            ("interference = [", "interference = 3 #",
             "receivers.Q.interference must be a list of tables with first, last, spacing, level, not 3"),
            # defaults and configurations
            ('receiver = "Q"', 'receiver = "K"', "defaults.receiver must be a name of a [receivers.NAME]: Q"),
            ('receiver = "Q"', "", "configurations.Q1.receiver is needed, there or in [defaults]: a name of"),
            ("bandwidth = 500", "bandwith = 500", "defaults.bandwith is not known: did you mean bandwidth?"),
            ("bandwidth = 500", "bandwidth = -1", "defaults.bandwidth must be a number of MHz above 0, at m"),
            ("bandwidth = 500", "bandwidth = 601", "defaults.bandwidth must be within limits.bandwidth, 10"),
            ("sample_rate = [20, 1200]", "sample_rate = [20, 900]",
             "defaults.bandwidth must be within half of limits.sample_rate, 10 to 450, not 500"),
            ("bins = 512", "bins = 513", "defaults.bins must be one of limits.bins, 256 512, not 513"),
            ("feeds = [1]", "feeds = [2]", "defaults.feeds must be a list of different feeds from 0 to 1, a"),
            ("feeds = [1]", "feeds = []", "defaults.feeds must be a list of different feeds"),
            ("feeds = 3", "feeds = 1", "defaults.feeds must be a list of different feeds from 0 to 0"),
            ("attenuation = 8.0", "attenuation = -8.0", "defaults.attenuation must be a number of dB from 0"),
            ("integration = 20", "integration = 1", "defaults.integration must be within limits.integration"),
            ("start_frequency = 2.0", "start_frequency = 101", "defaults.start_frequency must be within lim"),
            ("{stokes_too = true}", "3", "configurations.Q1 must be a table with receiver, feed"),
            ("{stokes_too = true}", "{stokes_to = true}", "configurations.Q1.stokes_to is not known: did yo"),
            ("{stokes_too = true}", "{stokes_too = 1}", "configurations.Q1.stokes_too must be true or false"),
            ("{stokes_too = true}", "{feeds = [1, 1]}", "configurations.Q1.feeds must be a list of differen"),
            ("{stokes_too = true}", "{bandwidth = 2400.0}", "configurations.Q1.bandwidth must be within lim"),
            ('"Q 2" =', "Q1S =", "configurations.Q1S makes Q1S, which is there already"),
            ('"Q 2" =', '"Q,2" =', "configurations.'Q,2' must be a name of ASCII without , ! and /"),
            ('"Q 2" =', '"../Q" =', "configurations.'../Q' must be a name of ASCII without , ! and /"),
            ('"Q 2" =', '"" =', "configurations.'' must be a name"),
            ('"Q 2" =', "unconfigured =", "configurations.unconfigured must be a name of ASCII without , ! "),
            # tasks
            ("[[tasks]]", "[tasks]", "help: write [[tasks]] above each, not a table"),
            ('command = "tune"', "", "tasks[0].command is needed: a name of letters, digits and hyphens"),
            ('command = "tune"', 'command = "start"', "tasks[0].command must be a name of letters, digits a"),
            ('command = "tune"', 'command = "reset"', "none of the protocol's own and not reset, not 'reset"),
            ('command = "tune"', 'command = "tune up"', "tasks[0].command must be a name of letters"),
            ('command = "tune"', 'command = "tüne"', "tasks[0].command must be a name of letters"),
            ('command = "tune"', f'command = "{"t" * 65}"', "tasks[0].command must be a name of letters"),
            ('command = "tune"', "command = 3", "tasks[0].command must be a name of letters"),
            ("duration = 5", "duration = -1", "tasks[0].duration must be a number of seconds from 0 to a year, "),
            ("duration = 5", "duration = nan", "tasks[0].duration must be a number of seconds from 0 to a year, "),
            ("initialises = true", "initializes = true", "tasks[0].initializes is not known: did you mean i"),
            ('"tuning"', '"Q1"', "tasks[0].configuration: Q1 is there already"),
            ('"tuning"', '"TP77"', "tasks[0].configuration: TP77 is there already"),
            ('"tuning"', '"unconfigured"', "tasks[0].configuration: unconfigured is there already"),
            ("[phrases]", "[[tasks]]\ncommand='tune'\nduration=1\n[phrases]", "tasks[1].command: tune is th"),
            ("[phrases]", "[[tasks]]\ncommand='x'\nconfiguration='tuning'\nduration=1\n[phrases]",
             "tasks[1].configuration: tuning is there already"),
            ('"listening"', '"listening!"', "phrases.acquiring must be one line of ASCII without , and !"),
            ('"listening"', '"listening, of course"', "phrases.acquiring must be one line of ASCII without"),
            ('"listening"', f'"{"l" * 121}"', "phrases.acquiring must be one line of ASCII without , and !"),
            ('"busy with {command}"', '"busy with {task}"', "phrases.running must be text in which {command"),
            ("ready =", "redy =", "phrases.redy is not known: did you mean ready?"),
        ):  # fmt: skip
            with self.subTest(there, instead=instead):
                at = EVERYTHING.find("\n" + there) + 1 or EVERYTHING.index(there)
                text = EVERYTHING[:at] + instead + EVERYTHING[at + len(there) :]
                self.assertIn(wanted, self.complaint(text))

    def test_phrases_without_tasks(self) -> None:
        text = EVERYTHING[: EVERYTHING.index("[[tasks]]")] + EVERYTHING[EVERYTHING.index("[phrases]") :]
        self.assertIn("phrases are for an instrument that has [[tasks]]", self.complaint(text))

    def test_wrong_files(self) -> None:
        (self.folder / "latin.toml").write_bytes(b"name = '\xe9'")
        for name, wanted in (
            ("vlbi", "unknown instrument 'vlbi': known are discos, mistral, sardara, skarab, skarab2, totalpower, or"),
            ("", "unknown instrument ''"),
            ("v" * 5000, "unknown instrument 'vv"),
            ("\0", "unknown instrument '\\x00'"),
            (str(self.folder / "none"), "none: No such file or directory"),
            (str(self.folder / "none.toml"), "none.toml: No such file or directory"),
            ("none.toml", "instrument none.toml: No such file or directory"),
            (str(self.folder), "Is a directory"),
            (str(self.folder / "latin.toml"), "latin.toml is no TOML file: 'utf-8'"),
        ):
            with self.subTest(name), self.assertRaises(InstrumentError) as raised:
                instrument_of(name)
            self.assertIn(wanted, str(raised.exception))
            self.assertIsInstance(raised.exception, ValueError)
        self.assertIn(" is no TOML file: Invalid value", self.complaint("a = = 3"))
        self.assertIn(" is no TOML file: ", self.complaint(f"a = {'[' * 5000}"))

    def test_wrong_includes(self) -> None:
        own = 'name = "mine"\ndescription = "all"\n'
        for includes, wanted in (
            ('["mine.toml"]', f"instrument {self.path}: it includes itself, by mine.toml"),
            ('["none.toml"]', "none.toml: No such file or directory"),
            ('["sardra"]', "unknown instrument 'sardra': known are discos, mistral"),
            ('["sardara", "discos"]', "includes: SC00 is in discos and in another of sardara, discos"),
            ('["sardara", "sardara"]', "includes: SC00 is in sardara and in another of sardara, sardara"),
            ('[""]', "includes must be a list of instruments"),
        ):
            with self.subTest(includes):
                self.assertIn(wanted, self.complaint(f"{own}includes = {includes}"))
        # In a circle, and a mistake in what is included: that file is named too.
        (self.folder / "other.toml").write_text(f'{own}includes = ["mine.toml"]', encoding="utf-8")
        self.assertIn("it includes itself, by other.toml", self.complaint(f'{own}includes = ["other.toml"]'))
        (self.folder / "other.toml").write_text(f"{own}records = 3", encoding="utf-8")
        self.assertIn("other.toml: records must be", self.complaint(f'{own}includes = ["other.toml"]'))

    @given(st.sampled_from(KEYS), st.sampled_from(VALUES))
    def test_whatever_a_value_is(self, line: str, value: str) -> None:
        """Either it is complained of, or it makes an instrument of which everything can be loaded."""
        self.assertIn(line, EVERYTHING)
        try:
            mine = self.read(EVERYTHING.replace(line, f"\n{line.split(maxsplit=1)[0]} = {value}\n"))
        except InstrumentError as problem:
            self.assertEqual(1, len(str(problem).splitlines()))
            return
        clock = Clock()
        backend: Any = SimulatedBackend(mine, clock=clock, time_scale=0)
        backend.run_task(mine.tasks[0].command)
        clock.advance(0)
        for name in mine.configurations:
            backend.set_configuration(name)
            backend.set_section("*", *("*",) * 6)
            backend.set_integration(backend.get_integration())

    @given(st.text(st.characters(max_codepoint=0x17F), max_size=70))
    def test_every_name_of_a_configuration_that_is_taken_can_be_asked_for(self, name: str) -> None:
        quoted = "".join(f"\\U{ord(character):08x}" for character in name)
        try:
            mine = self.read(EVERYTHING.replace('"Q 2"', f'"{quoted}"'))
        except InstrumentError as problem:
            self.assertIn("must be a name of ASCII", str(problem))
            return
        self.assertIn(name, mine.configurations)
        self.assertEqual([name], parse_message(REQUEST_OF.format(name.replace("\\", "\\\\"))).arguments)


if __name__ == "__main__":
    unittest.main()
