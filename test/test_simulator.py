"""The simulated instruments: configurations and limits row by row, measurements, start and stop."""

from __future__ import annotations

import logging
import math
import unittest
from dataclasses import asdict, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from discosbackend.backend import Backend
from discosbackend.commands import COMMANDS
from discosbackend.errors import BackendError, HandlerException, NotSupportedError
from discosbackend.grammar import parse_message
from discosbackend.handlers import REPLY_LIMIT, DBProtocolHandler
from discosbackend.simulator import INSTRUMENTS, SimulatedBackend, instrument_of
from discosbackend.simulator.instrument.model import Instrument
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

from .serving import run_python

NOON = 17_000_000_000_000_000

SPECTROMETERS = ("discos", "sardara", "skarab", "skarab2")

ALL = (0, 1, 2, 3, 4, 5, 6)

# name, whether there is one with S too, feeds, bandwidth, bins, attenuation
SARDARA = (
    ("SK00", True, (0,), 1500, 1024, 7),
    ("SK01", True, (0, 1), 1500, 1024, 7),
    ("SK03", True, (0, 3), 1500, 1024, 7),
    ("SK04", False, (0, 4), 1500, 1024, 7),
    ("SK06", True, (0, 6), 1500, 1024, 7),
    ("SK77", True, ALL, 1500, 1024, 7),
    ("SC00", True, (0,), 1500, 1024, 9),
    ("SCC00", True, (0,), 1500, 1024, 9),
    ("SCH00", True, (0,), 1500, 1024, 9),
    ("SX00", True, (0,), 1500, 1024, 7),
    ("SL00", True, (0,), 1500, 1024, 10),
    ("SP00", True, (0,), 500, 1024, 10),
)
SKARAB = (
    ("SKARAB_1", True, ALL, 1400, 2048, 7),
    ("SKARAB_2", True, ALL, 187.5, 32768, 7),
    ("SKARAB_3", True, ALL, 187.5, 65536, 7),
    ("SKARAB_4", True, ALL, 93.75, 32768, 7),
    ("SKARAB_5", True, ALL, 93.75, 65536, 7),
    ("SKARAB_7", False, ALL, 16, 65536, 7),
    ("SKARAB_11", True, ALL, 375, 1024, 7),
    ("SKARAB_12", True, ALL, 750, 8192, 7),
)
# The first five of SKARAB, with one feed.
SKARAB2 = tuple((name, twice, (0,), *row) for name, twice, _, *row in SKARAB[:5])
SKARAB_START = {1400: 0, 187.5: 906.25, 93.75: 953.125, 16: 992, 375: 812.5, 750: 625}

UNCHANGED = ("*",) * 6


def simulated(instrument: str | Instrument = "discos", configuration: str = "", **settings: Any) -> Any:
    """An instrument on a clock of its own, `backend.fake`, that starts at NOON."""
    clock = Clock()
    backend: Any = SimulatedBackend(
        instrument,
        clock=clock,
        now_ticks=lambda: NOON + round(clock.seconds() * TICKS_PER_SECOND),
        **settings,
    )
    backend.fake = clock
    if configuration:
        backend.set_configuration(configuration)
    return backend


def answer(backend: Backend, line: str) -> str:
    """The reply line of a server with this backend."""
    request = parse_message(line)
    try:
        return str(DBProtocolHandler(backend).handle(request))
    except HandlerException as refusal:
        return f"!{request.name},fail,{refusal}"


class RefusalMixin(unittest.TestCase):
    """Every reason is one that any deployed client can read."""

    def refusal(self, call: Any, *arguments: Any) -> str:
        """The reason why a call is refused."""
        with self.assertRaises(BackendError) as caught:
            call(*arguments)
        reason = str(caught.exception)
        self.assertTrue(reason.isascii() and reason[0].islower(), reason)
        self.assertNotRegex(reason, "[,!]")
        return reason


class InstrumentTests(unittest.TestCase):
    """What the name of an instrument leads to."""

    def test_every_name_is_a_backend(self):
        self.assertEqual(["discos", "mistral", "sardara", "skarab", "skarab2", "totalpower"], list(INSTRUMENTS))
        for name in INSTRUMENTS:
            with self.subTest(name):
                backend = SimulatedBackend(name)
                self.assertIsInstance(backend, SimulatedBackend)
                self.assertIsInstance(backend, Backend)
                self.assertEqual(name, backend.instrument.name)
                self.assertIs(SimulatedBackend, type(backend))
        self.assertEqual("discos", SimulatedBackend().instrument.name)
        self.assertEqual("mistral", SimulatedBackend(instrument="mistral").instrument.name)
        for name in ("sardara", "mistral"):
            with self.subTest(name, given="as an Instrument"):
                mine = replace(instrument_of(name), name="mine")
                backend = SimulatedBackend(mine)
                self.assertIs(mine, backend.instrument)
                self.assertEqual("simulated mine", str(backend))

    def test_unknown_instrument(self):
        with self.assertRaises(ValueError) as caught:
            SimulatedBackend("vlbi")
        self.assertEqual(
            "unknown instrument 'vlbi': known are discos, mistral, sardara, skarab, skarab2, totalpower, "
            "or name a TOML file",
            str(caught.exception),
        )

    def test_settings(self):
        for scale in (-1.0, math.nan, math.inf):
            with self.subTest(scale), self.assertRaises(ValueError):
                SimulatedBackend("mistral", time_scale=scale)

    def test_a_subclass_stays_what_it_is(self):
        class Mine(SimulatedBackend):
            """With a command that SARDARA lacks."""

            shifted = 0

            def set_shift(self, shift: int) -> None:
                self.shifted = shift

        backend = Mine("sardara")
        self.assertIs(Mine, type(backend))
        backend.set_shift(3)
        self.assertEqual(3, backend.shifted)
        self.assertRaises(NotSupportedError, backend.end_schedule)
        # With any instrument: also with one that has tasks.
        backend = Mine("mistral")
        self.assertIs(Mine, type(backend))
        self.assertEqual("!set-shift,ok", answer(backend, "?set-shift,2"))
        self.assertTrue(answer(backend, "?vna-sweep").startswith("!vna-sweep,fail,system not initialized"))

    def test_a_subclass_with_a_clock_of_its_own(self):
        class Mine(SimulatedBackend):
            """It shows what the clock of its crate shows."""

            def time(self) -> Ticks:
                return Ticks(16286832071234567)

        backend = Mine("sardara")
        self.assertEqual("!time,ok,1628683207.1234567", answer(backend, "?time"))
        self.assertEqual("!status,ok,1628683207.1234567,ok,0", answer(backend, "?status"))

    def test_a_subclass_says_what_it_is(self):
        class Mine(SimulatedBackend, instrument="sardara"):
            """As a server needs it, which calls it without arguments."""

        self.assertEqual("sardara", Mine().instrument.name)
        self.assertEqual("skarab", Mine("skarab").instrument.name)
        self.assertEqual("discos", SimulatedBackend().instrument.name)

    def test_which_commands_there_are(self):
        brought_by_skarab = {"set-shift", "end-schedule", "backend-park"}
        spectrometer = {
            "get-integration", "set-integration", "get-tpi", "get-tp0", "get-rms", "get-ddcoffset",
            "set-section", "set-enable", "cal-on",
        }  # fmt: skip
        lacking = {
            "discos": set(),
            "sardara": brought_by_skarab,
            "skarab": set(),
            "skarab2": set(),
            "totalpower": brought_by_skarab | {"get-rms", "get-ddcoffset"},
            "mistral": brought_by_skarab | spectrometer,
        }
        arguments = {
            "set-configuration": "SK77",
            "set-integration": "20",
            "set-section": "0,*,*,*,*,*,*",
            "set-filename": "/a/b.fits",
            "set-enable": "0,0",
            "set-shift": "1",
        }
        for name in INSTRUMENTS:
            for command in COMMANDS:
                with self.subTest(name, command=command):
                    line = ",".join(filter(None, ("?" + command, arguments.get(command))))
                    reply = answer(simulated(name), line)
                    refused = reply.endswith("not supported by this backend")
                    self.assertEqual(command in lacking[name], refused, reply)

    def test_importing_loads_no_reactor_and_nothing_large(self):
        code = (
            "import sys, discosbackend.simulator as s; s.SimulatedBackend('mistral').status();"
            "print([m for m in ('twisted.internet.reactor', 'astropy', 'numpy') if m in sys.modules])"
        )
        done = run_python("-c", code, fresh=True)
        self.assertEqual((done.returncode, done.stdout), (0, "[]\n"), done.stderr)


class ConfigurationTests(RefusalMixin, unittest.TestCase):
    """Every row of the table of configurations, and what loading one does."""

    def test_rows(self):
        for instrument, rows in (("sardara", SARDARA), ("skarab", SKARAB), ("skarab2", SKARAB2)):
            names = {name + suffix for name, twice, *_ in rows for suffix in ("", "S")[: 1 + twice]}
            self.assertEqual(names, set(INSTRUMENTS[instrument].configurations))
            for name, twice, *row in rows:
                for suffix in ("", "S")[: 1 + twice]:
                    # discos has SKARAB's fourteen inputs under these names.
                    for which in (instrument, *(["discos"] if instrument != "skarab2" else [])):
                        with self.subTest(which, configuration=name + suffix):
                            self.check_row(which, name + suffix, *row)

    def check_row(self, instrument, name, feeds, bandwidth, bins, attenuation):
        stokes = name.endswith("S")
        backend = simulated(instrument, name)
        self.assertEqual(name, backend.get_configuration())
        self.assertEqual(40, backend.get_integration())
        self.assertEqual(attenuation, INSTRUMENTS[instrument].configurations[name].attenuation)
        inputs = 2 * len(feeds)
        self.assertEqual(inputs, INSTRUMENTS[instrument].configurations[name].inputs)
        for measure in (backend.get_tpi, backend.get_tp0, backend.get_rms):
            self.assertEqual(inputs, len(measure()))
        start = SKARAB_START[bandwidth] if name.startswith("SKARAB") else 0
        self.assertEqual(start, backend.get_ddcoffset())
        self.assertEqual(inputs // 2 if stokes else inputs, len(backend.sections))
        for number, section in backend.sections.items():
            expected = {
                "start_frequency": start,
                "bandwidth": bandwidth,
                "feed": feeds[number] if stokes else feeds[number // 2],
                "mode": "FullStokes" if stokes else ("LCP", "RCP")[number % 2],
                "sample_rate": 2 * bandwidth,
                "bins": bins,
            }
            self.assertEqual(expected, asdict(section))
        # What it is loaded with is within its own limits.
        backend.set_section("*", *UNCHANGED)

    def test_before_one_is_loaded(self):
        for name in SPECTROMETERS:
            with self.subTest(name):
                backend = simulated(name)
                self.assertEqual("unconfigured", backend.get_configuration())
                self.assertEqual(0, backend.get_integration())
                self.assertEqual(0.0, backend.get_ddcoffset())
                # Public test suites expect two values.
                for line in ("?get-tpi", "?get-tpi,0,0", "?get-tp0", "?get-rms"):
                    self.assertRegex(answer(backend, line), r"^![a-z0-9-]+,ok,[0-9.]+,[0-9.]+$")
                backend.start()
                self.assertTrue(backend.status()[2])

    def test_unknown(self):
        for instrument, name in (
            ("discos", "SK04S"),
            ("discos", "SKARAB_7S"),
            ("discos", "sk77"),
            ("discos", "unconfigured"),
            ("sardara", "SKARAB_1"),
            ("skarab", "SK77"),
            ("skarab2", "SKARAB_7"),
            ("sardara", "setup"),
        ):
            with self.subTest(instrument, configuration=name):
                backend = simulated(instrument)
                self.assertEqual("invalid configuration", self.refusal(backend.set_configuration, name))
                self.assertEqual("unconfigured", backend.get_configuration())

    def test_loading_resets_what_it_defines(self):
        backend = simulated(configuration="SK77")
        backend.set_integration(20)
        backend.set_section("*", 10.0, 420.0, 3, "2", 840.0, 16384)
        backend.set_enable(0, 3)
        backend.set_filename("/a/b.fits")
        backend.set_configuration("SK77")
        self.assertEqual(simulated(configuration="SK77").sections, backend.sections)
        self.assertEqual(40, backend.get_integration())
        self.assertEqual(14, len(backend.get_tpi()))
        self.assertEqual("/a/b.fits", backend.get_filename())

    def test_refused_while_acquiring(self):
        backend = simulated(configuration="SK77")
        backend.start()
        self.assertEqual(
            "acquiring: set-configuration must wait for stop", self.refusal(backend.set_configuration, "SK00")
        )
        self.assertEqual("SK77", backend.get_configuration())
        backend.stop()
        backend.set_configuration("SK00")
        self.assertEqual("SK00", backend.get_configuration())


class LimitTests(RefusalMixin, unittest.TestCase):
    """Values on both edges, and just beyond."""

    def test_integration(self):
        for instrument, configuration in (("discos", "SK77"), ("discos", "SKARAB_1"), ("sardara", "")):
            backend = simulated(instrument, configuration)
            for accepted in (5, 1000):
                backend.set_integration(accepted)
                self.assertEqual(accepted, backend.get_integration())
            for refused in (0, 4, 1001, 9_999_999_999_999_999_999):
                with self.subTest(instrument, integration=refused):
                    self.assertEqual(
                        f"integration {refused:.10g} out of range: 5 to 1000 ms",
                        self.refusal(backend.set_integration, refused),
                    )
                    self.assertEqual(1000, backend.get_integration())

    def test_shift(self):
        backend = simulated("skarab", "SKARAB_1")
        for accepted in (0, 21845, 65535):
            backend.set_shift(accepted)
        for refused in (-1, 65536):
            self.assertEqual(f"shift {refused} out of range: 0 to 65535", self.refusal(backend.set_shift, refused))

    def test_section_edges(self):
        sardara, skarab = "SK77", "SKARAB_1"
        # section, start frequency, bandwidth, feed, mode, sample rate, bins
        for configuration, *arguments in (
            (sardara, 0, 0.0, 1500.0, 0, "0", 3000.0, 1024),
            (sardara, 13, 150.0, 2300.0, 6, "CP", 4600.0, 16384),
            (sardara, 13, 0.0, 0.0, 6, "FullStokes", 0.0, 16384),
            (sardara, 2, "*", 420.0, "*", "2", 840.0, "*"),
            # As six significant digits leave it.
            (sardara, 0, "*", 1234.57, "*", "1", 2469.13, "*"),
            ("SP00", 0, 0.0, 420.0, 0, "0", 3000.0, 1024),
            ("SK77S", 6, *UNCHANGED),
            ("SK00", 1, *UNCHANGED),
            ("SK00S", 0, *UNCHANGED),
            (skarab, 0, 0.0, 1400.0, 0, "LCP", 2800.0, 2048),
            (skarab, 13, 1500.0, 2300.0, 6, "RCP", 4600.0, 65536),
            *((skarab, 0, *("*",) * 5, 2**power) for power in range(10, 17)),
        ):
            with self.subTest(configuration, arguments=arguments):
                for instrument in ("discos", "skarab" if configuration.startswith("SKARAB") else "sardara"):
                    simulated(instrument, configuration).set_section(*arguments)

    def test_section_refusals(self):
        sardara, skarab = "SK77", "SKARAB_1"
        big = 9_999_999_999_999_999_999
        modes = "CP FullStokes LCP RCP 0 1 2"
        for configuration, reason, *arguments in (
            (sardara, "backend supports 14 sections", 14, *UNCHANGED),
            (sardara, "backend supports 14 sections", -1, *UNCHANGED),
            (sardara, "backend supports 14 sections", big, *UNCHANGED),
            (sardara, "backend supports 14 sections", -big, *UNCHANGED),
            ("SK77S", "backend supports 7 sections", 7, *UNCHANGED),
            ("SK00", "backend supports 2 sections", 2, *UNCHANGED),
            ("SK00S", "backend supports 1 sections", 1, *UNCHANGED),
            (skarab, "backend supports 14 sections", 14, *UNCHANGED),
            (sardara, "backend maximum bandwidth is 2300", 0, "*", 2300.5, "*", "*", "*", "*"),
            (sardara, "backend maximum bandwidth is 2300", 0, "*", 1e308, "*", "*", "*", "*"),
            (skarab, "backend maximum bandwidth is 2300", 0, "*", 2301.0, "*", "*", 4602.0, "*"),
            (sardara, "bandwidth -1 out of range: 0 to 2300 MHz", 0, "*", -1.0, "*", "*", "*", "*"),
            (sardara, "start-frequency -0.5 out of range: 0 to 150 MHz", 0, -0.5, *("*",) * 5),
            (sardara, "start-frequency 150.5 out of range: 0 to 150 MHz", 0, 150.5, *("*",) * 5),
            (skarab, "start-frequency 1500.5 out of range: 0 to 1500 MHz", 0, 1500.5, *("*",) * 5),
            (sardara, "feed 7 out of range: 0 to 6", 0, "*", "*", 7, "*", "*", "*"),
            (sardara, "feed -1 out of range: 0 to 6", 0, "*", "*", -1, "*", "*", "*"),
            (skarab, "feed 7 out of range: 0 to 6", 0, "*", "*", 7, "*", "*", "*"),
            (sardara, f"mode '3' unknown: must be one of {modes}", 0, "*", "*", "*", "3", "*", "*"),
            (sardara, f"mode 'cp' unknown: must be one of {modes}", 0, "*", "*", "*", "cp", "*", "*"),
            (sardara, f"mode '?A?' unknown: must be one of {modes}", 0, "*", "*", "*", "!A,", "*", "*"),
            (sardara, "sample-rate 4601 out of range: 0 to 4600 MHz", 0, "*", "*", "*", "*", 4601.0, "*"),
            (sardara, "sample-rate -1 out of range: 0 to 4600 MHz", 0, "*", "*", "*", "*", -1.0, "*"),
            (sardara, "sample-rate 4601 out of range: 0 to 4600 MHz", 0, "*", 420.0, "*", "*", 4601.0, "*"),
            *(
                (sardara, f"bins {bins} must be one of 1024 16384", 0, *("*",) * 5, bins)
                for bins in (1023, 1025, 2048, 16385, 0, -1024)
            ),
            *(
                (
                    skarab, f"bins {bins} must be one of 1024 2048 4096 8192 16384 32768 65536",
                    0, *("*",) * 5, bins,
                )
                for bins in (512, 1025, 131072)
            ),
        ):  # fmt: skip
            with self.subTest(configuration, arguments=arguments):
                for instrument in ("discos", "skarab" if configuration.startswith("SKARAB") else "sardara"):
                    backend = simulated(instrument, configuration)
                    before = dict(backend.sections)
                    self.assertEqual(reason, self.refusal(backend.set_section, *arguments))
                    self.assertEqual(before, backend.sections)

    def test_before_a_configuration_is_loaded(self):
        # discos has the grammar's limits only, and nothing to keep the values in.
        big = 9_999_999_999_999_999_999
        backend = simulated()
        backend.set_section(-big, -1e308, 1e308, big, "default", 10.0, 10)
        backend.set_section("*", *UNCHANGED)
        backend.set_enable(big, -big)
        backend.set_shift(-big)
        backend.set_integration(big)
        self.assertEqual({}, backend.sections)
        self.assertEqual(big, backend.get_integration())
        for measure in (backend.get_tpi, backend.get_tp0, backend.get_rms):
            self.assertEqual(2, len(measure()))
        # The others know what they are from the beginning.
        for section in (0, 13, "*"):
            with self.subTest(section):
                sardara = simulated("sardara")
                sardara.set_section(section, 0.0, 420.0, 6, "0", 840.0, 16384)
                self.assertEqual(
                    "bins 2048 must be one of 1024 16384",
                    self.refusal(sardara.set_section, section, *("*",) * 5, 2048),
                )
                self.assertEqual({}, sardara.sections)
        for instrument, sections in (("skarab", 14), ("skarab2", 2)):
            self.assertEqual(
                f"backend supports {sections} sections",
                self.refusal(simulated(instrument).set_section, sections, *UNCHANGED),
            )


VALUES = {
    "start_frequency": st.sampled_from((0.0, 75.5, 150.0, -1.0, 150.1)),
    "bandwidth": st.sampled_from((0.0, 420.0, 500.0, 2300.0, 2300.1, -1.0)),
    "feed": st.integers(-1, 7),
    "mode": st.sampled_from(("CP", "FullStokes", "LCP", "RCP", "0", "1", "2", "3", "")),
    "sample_rate": st.sampled_from((0.0, 840.0, 1000.0, 3000.0, 4600.0, 4600.1)),
    "bins": st.sampled_from((1024, 2048, 16384)),
}
DIGITS = {"0": "LCP", "1": "RCP", "2": "FullStokes"}


def possible(section: dict[str, Any]) -> bool:
    """Whether SARDARA can have such a section."""
    return (
        0 <= section["start_frequency"] <= 150
        and 0 <= section["bandwidth"] <= 2300
        and 0 <= section["feed"] <= 6
        and section["mode"] in ("CP", "FullStokes", "LCP", "RCP")
        and 0 <= section["sample_rate"] <= 4600
        and section["bins"] in (1024, 16384)
    )


class SectionTests(unittest.TestCase):
    """How set-section merges."""

    @given(
        st.lists(
            st.tuples(
                st.one_of(st.just("*"), st.integers(-1, 4)),
                st.fixed_dictionaries({name: st.just("*") | value for name, value in VALUES.items()}),
            ),
            max_size=8,
        )
    )
    def test_against_a_model(self, requests):
        backend = simulated("sardara", "SK01")
        model = {number: asdict(section) for number, section in backend.sections.items()}
        for number, values in requests:
            given_values = {name: value for name, value in values.items() if value != "*"}
            if "mode" in given_values:
                given_values["mode"] = DIGITS.get(given_values["mode"], given_values["mode"])
            if "bandwidth" in given_values:
                given_values.setdefault("sample_rate", 2 * given_values["bandwidth"])
            chosen = list(model) if number == "*" else [number]
            wanted = {each: model.get(each, {}) | given_values for each in chosen}
            try:
                backend.set_section(number, *(values[name] for name in VALUES))
            except BackendError:
                accepted = False
            else:
                accepted = True
                self.assertLessEqual(set(wanted), set(model))
            self.assertEqual(set(wanted) <= set(model) and all(map(possible, wanted.values())), accepted)
            if accepted:
                for each in wanted.values():
                    each["sample_rate"] = 2 * each["bandwidth"]
                model.update(wanted)
            self.assertEqual(model, {each: asdict(section) for each, section in backend.sections.items()})

    def test_every_section_or_none(self):
        backend = simulated("sardara", "SK77")
        backend.set_section(13, "*", 420.0, "*", "*", 840.0, "*")
        before = dict(backend.sections)
        # It suits all of them, but there is none of number 14.
        for refused in (("*", 100.0, "*", 1, "CP", 4601.0, 16384), (14, 100.0, "*", 1, "CP", 3000.0, 16384)):
            with self.assertRaises(BackendError):
                backend.set_section(*refused)
            self.assertEqual(before, backend.sections)
        backend.set_section("*", 100.0, "*", "*", "*", "*", 16384)
        self.assertEqual({(100.0, 16384)}, {(s.start_frequency, s.bins) for s in backend.sections.values()})
        self.assertEqual([1500.0] * 13 + [420.0], [s.bandwidth for s in backend.sections.values()])

    def test_a_sample_rate_of_asterisk_follows_the_bandwidth(self):
        backend = simulated("sardara", "SK00")
        backend.set_section(0, "*", 500.0, "*", "*", "*", "*")
        self.assertEqual([1000.0, 3000.0], [s.sample_rate for s in backend.sections.values()])

    def test_a_sample_rate_that_is_not_twice_the_bandwidth_is_taken_as_that(self):
        # The deployed clients carry the sample rate that they started with. "Keep everything" and "only the bandwidth":
        for instrument, configuration, line, rate in (
            ("discos", "SP00", "?set-section,0,0,500,0,0,3000,1024", 1000.0),
            ("sardara", "SP00", "?set-section,0,0,420,0,0,3000,1024", 840.0),
            ("sardara", "SP00S", "?set-section,*,0,420,0,2,3000,1024", 840.0),
            ("skarab", "SKARAB_2", "?set-section,0,906.25,187.5,0,0,2800,32768", 375.0),
            ("skarab2", "SKARAB_5", "?set-section,1,953.125,93.75,0,1,2800,65536", 187.5),
            ("totalpower", "TP00", "?set-section,0,0,1000,0,0,4000,1", 2000.0),
            # The bandwidth as it is, and a rate that is too low.
            ("sardara", "SK00", "?set-section,0,*,*,*,*,840,*", 3000.0),
            ("sardara", "SK00", "?set-section,0,*,*,*,*,0,*", 3000.0),
            ("sardara", "SK00", "?set-section,0,*,1234.57,*,*,2469.13,*", 2469.14),
        ):
            with self.subTest(instrument, line=line):
                backend = simulated(instrument, configuration)
                self.assertEqual("!set-section,ok", answer(backend, line))
                changed = backend.sections[1 if line.startswith("?set-section,1") else 0]
                self.assertEqual(rate, changed.sample_rate)

    def test_a_sample_rate_of_which_twice_the_bandwidth_is_out_of_range(self):
        known = INSTRUMENTS["sardara"]
        assert known.unconfigured.limits is not None
        slow = replace(
            known.configurations["SP00"], limits=replace(known.unconfigured.limits, sample_rate=(0.0, 1000.0))
        )
        backend = simulated(replace(known, configurations={"SP00": slow}), "SP00")
        reply = answer(backend, "?set-section,0,*,600,*,*,900,*")
        self.assertEqual("!set-section,fail,sample-rate 1200 out of range: 0 to 1000 MHz", reply)
        self.assertEqual(500.0, backend.sections[0].bandwidth)

    def test_another_sample_rate_is_logged_once_a_configuration(self):
        backend = simulated("sardara", "SP00")

        def logged(line: str) -> list[str]:
            with self.assertLogs("discosbackend.simulator", "INFO") as logs:
                logging.getLogger("discosbackend.simulator").info("end")
                answer(backend, line)
            return [record.getMessage() for record in logs.records][1:]

        self.assertEqual([], logged("?set-section,0,0,500,0,0,1000,1024"))
        self.assertEqual([], logged("?set-section,0,0,420,0,0,*,1024"))
        self.assertEqual([], logged("?set-section,0,0,420,0,0,3000,1000"))  # refused
        said = "sardara: set-section with sample rate 3000 MHz: twice the bandwidth, 840 MHz, is taken instead"
        self.assertEqual([said], logged("?set-section,*,0,420,0,0,3000,1024"))
        self.assertEqual([], logged("?set-section,0,0,500,0,0,3000,1024"))
        backend.set_configuration("SP00")
        self.assertEqual([said], logged("?set-section,0,0,420,0,0,3000,1024"))
        backend.power_cycle()
        self.assertEqual([said], logged("?set-section,0,0,420,0,0,3000,1024"))
        self.assertEqual([], logged("?set-section,0,0,420,0,0,3000,1024"))

    def test_ddcoffset_is_the_first_start_frequency(self):
        backend = simulated("skarab", "SKARAB_11")
        self.assertEqual(812.5, backend.get_ddcoffset())
        backend.set_section("*", 100.0, *("*",) * 5)
        self.assertEqual(100.0, backend.get_ddcoffset())


class EnableTests(RefusalMixin, unittest.TestCase):
    """How many inputs are measured after set-enable."""

    def test_inputs(self):
        for instrument, configuration, feeds, inputs in (
            ("sardara", "SK77", (0, 3), 4),
            ("sardara", "SK77", (2, 2), 4),
            ("sardara", "SK00", (0, 6), 4),
            ("sardara", "SK77S", (6, 0), 4),
            ("sardara", "", (0, 3), 4),
            ("discos", "SK77", (2, 2), 4),
            ("skarab", "SKARAB_1", (2, 2), 2),
            ("skarab", "SKARAB_1", (0, 6), 4),
            ("skarab", "SKARAB_1", (7, 7), 14),
            ("skarab", "SKARAB_12S", (7, 7), 14),
            ("skarab", "", (7, 7), 14),
            ("discos", "SKARAB_1", (7, 7), 14),
            ("discos", "SKARAB_1", (6, 6), 2),
            ("discos", "", (7, 7), 2),
            ("skarab2", "SKARAB_1", (0, 0), 2),
            ("skarab2", "SKARAB_1S", (7, 7), 2),
            ("skarab2", "", (7, 7), 2),
        ):
            with self.subTest(instrument, configuration=configuration, feeds=feeds):
                backend = simulated(instrument, configuration)
                backend.set_enable(*feeds)
                for measure in (backend.get_tpi, backend.get_tp0, backend.get_rms):
                    self.assertEqual(inputs, len(measure()))

    def test_refusals_change_nothing(self):
        for configuration, feeds, which in (
            ("SK77", (7, 7), "feed1"),
            ("SK77", (-1, 0), "feed1"),
            ("SK77", (0, 7), "feed2"),
            ("SK77", (0, 9_999_999_999_999_999_999), "feed2"),
            ("SKARAB_1", (7, 0), "feed1"),
            ("SKARAB_1", (0, 7), "feed2"),
            ("SKARAB_1", (8, 8), "feed1"),
            ("SKARAB_1", (0, -1), "feed2"),
        ):
            with self.subTest(configuration, feeds=feeds):
                backend = simulated("discos", configuration)
                backend.set_enable(0, 3)
                self.assertEqual(f"{which} out of range", self.refusal(backend.set_enable, *feeds))
                self.assertEqual(4, len(backend.get_tpi()))
        backend = simulated("skarab2", "SKARAB_1")
        for feeds, which in (((1, 1), "feed1"), ((0, 1), "feed2"), ((0, 7), "feed2")):
            self.assertEqual(f"{which} out of range", self.refusal(backend.set_enable, *feeds))

    def test_power_is_that_of_the_enabled_feeds(self):
        backend = simulated("skarab", "SKARAB_1")
        backend.set_section(12, "*", 14.0, "*", "*", 28.0, "*")
        backend.set_enable(0, 6)
        left0, right0, left6, right6 = range(4)
        found = backend.get_tpi()
        self.assertLess(found[left6], 0.02 * found[right6])
        self.assertTrue(0.5 < found[left0] / found[right0] < 2)


class MeasurementTests(unittest.TestCase):
    """What the inputs give: seeded, positive, finite, and short enough for a reply."""

    def test_the_same_seed_gives_the_same_values(self):
        def session(seed):
            backend = simulated("discos", "SK77", seed=seed)
            values = [backend.get_tpi(0.0, 0.0), backend.get_tpi(), backend.get_tp0(), backend.get_rms()]
            backend.set_enable(0, 3)
            return [*values, backend.get_tpi(22030.5, 100.0)]

        self.assertEqual(session(1), session(1))
        self.assertNotEqual(session(1), session(2))
        first, second, *_ = session(1)
        self.assertTrue(all(a != b for a, b in zip(first, second, strict=True)))

    def test_values_are_levels(self):
        backend = simulated("sardara", "SK77", seed=3)
        for value in backend.get_tpi():
            self.assertTrue(1.5e10 < value < 3.5e10, value)
        for value in backend.get_tp0():
            self.assertTrue(900 < value < 1100, value)
        for value in backend.get_rms():
            self.assertTrue(1 < value < 100, value)

    def test_each_input_has_a_level_of_its_own(self):
        backend = simulated("sardara", "SK77", seed=3)
        first, second = backend.get_tpi(), backend.get_tpi()
        for before, after in zip(first, second, strict=True):
            self.assertAlmostEqual(1.0, after / before, delta=0.001)
        for left, right in zip(first[::2], first[1::2], strict=True):
            self.assertNotAlmostEqual(1.0, left / right, delta=0.002)
        # An input keeps its level when fewer are measured.
        backend.set_enable(0, 3)
        for before, after in zip([*first[:2], *first[6:8]], backend.get_tpi(), strict=True):
            self.assertAlmostEqual(1.0, after / before, delta=0.001)

    def test_band(self):
        backend = simulated("sardara", "SK77")
        whole = backend.get_tpi(0.0, 0.0)
        for band in (15.0, -15.0):
            for part, all_of_it in zip(backend.get_tpi(22030.5, band), whole, strict=True):
                self.assertAlmostEqual(0.01, part / all_of_it, delta=0.002)
        for wide in (1500.0, 1e6, 1e308):
            for part, all_of_it in zip(backend.get_tpi(0.0, wide), whole, strict=True):
                self.assertAlmostEqual(1.0, part / all_of_it, delta=0.01)

    def test_positive_and_finite_whatever_the_section(self):
        backend = simulated("skarab", "SKARAB_1")
        backend.set_section("*", "*", 0.0, "*", "*", 0.0, "*")
        for integration in (5, 1000):
            backend.set_integration(integration)
            for measure in (backend.get_tpi, backend.get_tp0, backend.get_rms):
                self.assertTrue(all(0 < value < math.inf for value in measure()))
        self.assertTrue(all(0 < value < math.inf for value in backend.get_tpi(1e308, 1e-308)))
        self.assertTrue(all(0 < value < math.inf for value in simulated().get_tpi()))

    def test_fourteen_values_fit_into_a_reply(self):
        for seed in range(5):
            backend = simulated("skarab", "SKARAB_1", seed=seed)
            for line in ("?get-tpi,0,0", "?get-tpi,22030.5,100", "?get-tp0", "?get-rms"):
                reply = answer(backend, line)
                self.assertRegex(reply, r"^![a-z0-9-]+,ok(,\d+\.\d+){14}$")
                self.assertLessEqual(len(reply) + 2, REPLY_LIMIT)


class AcquisitionTests(RefusalMixin, unittest.TestCase):
    """Start and stop, the clock, the files, the end of the day."""

    def test_now(self):
        backend = simulated(configuration="SK00")
        self.assertEqual((Ticks(NOON), "ok", False), backend.status())
        self.assertEqual("not acquiring", self.refusal(backend.stop))
        backend.start()
        backend.fake.advance(1.5)
        self.assertEqual((Ticks(NOON + 15_000_000), "ok", True), backend.status())
        self.assertEqual(Ticks(NOON + 15_000_000), backend.time())
        self.assertEqual("already acquiring", self.refusal(backend.start))
        backend.stop()
        self.assertFalse(backend.status()[2])

    def test_timed(self):
        backend = simulated(configuration="SK00")
        backend.start(Ticks(NOON + 2 * TICKS_PER_SECOND))
        backend.stop(Ticks(NOON + 4 * TICKS_PER_SECOND))
        seen = []
        for _ in range(5):
            seen.append(backend.status()[2])
            backend.fake.advance(0.5)
            backend.fake.advance(0.5)
        self.assertEqual([False, False, True, True, False], seen)

    def test_files(self):
        for name in INSTRUMENTS:
            with self.subTest(name):
                backend = simulated(name)
                self.assertEqual("no file: set-filename was not sent", self.refusal(backend.get_filename))
                self.assertIsNone(backend.convert_data())
                backend.set_filename("/a/tmp/b.fits")
                self.assertEqual("/a/tmp/b.fits", backend.get_filename())
                self.assertIsNone(backend.convert_data())

    def test_park_ends_what_is_begun_or_pending(self):
        backend = simulated("skarab", "SKARAB_1")
        backend.cal_on(10)
        backend.start()
        backend.end_schedule()
        self.assertTrue(backend.status()[2])
        backend.park()
        self.assertFalse(backend.status()[2])
        backend.start(Ticks(NOON + TICKS_PER_SECOND))
        backend.park()
        self.assertIsNone(backend.acquisition.pending_start)
        backend.park()
        self.assertEqual("SKARAB_1", backend.get_configuration())


if __name__ == "__main__":
    unittest.main()
