"""Profiles from files: the allowed values, the errors for wrong ones, and the profiles of the package."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import unittest
from contextlib import ExitStack
from pathlib import Path

from discosbackend.client import Connection
from discosbackend.commands import Argument, Command, Field
from discosbackend.grammar import REQUEST, Message
from discosbackend.simulator import INSTRUMENTS
from discosbackend.testing.case_context import CaseContext
from discosbackend.testing.conformance import CASES
from discosbackend.testing.errors import ProfileError
from discosbackend.testing.profile import Profile
from discosbackend.testing.profile_file import load_profile, shipped_profiles
from discosbackend.testing.runner import Verdict, run_cases

from .serving import Server, served
from .settings import LONG

# A program that serves all instruments, on different ports.
SERVER = """
import json
from twisted.internet import reactor
from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import DBFactory
from discosbackend.simulator import INSTRUMENTS, SimulatedBackend

ports = {}
for name in INSTRUMENTS:
    factory = DBFactory(DBProtocolHandler(SimulatedBackend(name, time_scale=0)))
    ports[name] = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
reactor.callWhenRunning(print, json.dumps(ports), flush=True)
reactor.run()
"""

# Every attribute: its text in a file, and its value in the profile.
EVERYTHING = {
    "valid_configuration": ('"SK00"', "SK00"),
    "invalid_configuration": ('"XX"', "XX"),
    "valid_integration": ("40", 40),
    "valid_section": ('[0, 1.5, "*", 0, "CP", 3000.0, 1024]', (0, 1.5, "*", 0, "CP", 3000.0, 1024)),
    "valid_feeds": ("[7, 7]", (7, 7)),
    "valid_shift": ("-1", -1),
    "valid_interleave": ("0", 0),
    "valid_filename": ('"/a/b,c"', "/a/b,c"),
    "inputs": ("14", 14),
    "leave_out": ('["backend-park", "reset"]', ("backend-park", "reset")),
    "own_commands": (
        (
            '{reset = {}, sweep = {lane = "reads", arguments = [{name = "power", type = "float", unit = "dBm", '
            'optional = true}], reply = [{name = "tone", type = "integer", repeated = true}], help = "Sweep."}}'
        ),
        (
            Command("reset"),
            Command(
                "sweep",
                (Argument("power", "float", "dBm", optional=True),),
                (Field("tone", "integer", repeated=True),),
                lane="reads",
                help="Sweep.",
            ),
        ),
    ),
    "valid_arguments": ("{sweep = [-10.5]}", {"sweep": (-10.5,)}),
    "clock_tolerance": ("0", 0),
    "lead": ("0.5", 0.5),
    "early_tolerance": ("0.1", 0.1),
    "late_tolerance": ("2.5", 2.5),
    "horizon": ("60", 60),
    "start_when_acquiring": ('"busy"', "busy"),
    "stop_when_idle": ('"ok"', "ok"),
    "reply_timeout": ("900", 900),
    "reply_limit": ("256", 256),
    "protocol_version": ('"1.2"', "1.2"),
    "deviations": ('{"start/*" = "it never starts"}', {"start/*": "it never starts"}),
}


class _Files(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by addCleanup
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def load(self, text: str) -> Profile:
        """Return the profile from a file with this text."""
        path = self.folder / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return load_profile(str(path))


class KeyTests(_Files):
    def test_every_attribute(self) -> None:
        self.assertEqual(set(EVERYTHING), set(Profile.__annotations__))
        profile = self.load("\n".join(f"{key} = {text}" for key, (text, _) in EVERYTHING.items()))
        self.assertEqual(vars(profile), {key: value for key, (_, value) in EVERYTHING.items()})

    def test_only_what_is_given_is_told(self) -> None:
        profile = self.load('description = "mine"\nvalid_shift = 0\n')
        self.assertEqual(vars(profile), {"valid_shift": 0})
        self.assertTrue(profile.is_set("valid_shift"))
        self.assertFalse(profile.is_set("valid_feeds"))

    def test_names_may_come_before_what_they_name(self) -> None:
        profile = self.load('[deviations]\n"reset/*" = "it takes any number of arguments"\n[own_commands.reset]\n')
        self.assertEqual(profile.own_commands, (Command("reset"),))

    def test_paths_may_have_any_character(self) -> None:
        own = '[own_commands.load]\narguments = [{name = "file", type = "path"}, {name = "x", type = "text"}]\n'
        profile = self.load(f'valid_filename = "/\u0141\u03a9.fits"\n[valid_arguments]\nload = ["\u03a9", "x"]\n{own}')
        self.assertEqual(profile.valid_filename, "/\u0141\u03a9.fits")
        self.assertEqual(profile.valid_arguments, {"load": ("\u03a9", "x")})
        with self.assertRaisesRegex(ProfileError, "valid_arguments must be "):
            self.load(f'[valid_arguments]\nload = ["x", "\u03a9"]\n{own}')

    def test_any(self) -> None:
        profile = self.load('invalid_configuration = ""\nreply_limit = 0\n')
        self.assertEqual(vars(profile), {"invalid_configuration": None, "reply_limit": None})

    def test_wrong_values(self) -> None:
        for text, wanted in [
            ("valid_config = 3", "valid_config is not known: did you mean valid_configuration?"),
            ("zzz = 3", "zzz is not known: known are valid_configuration, "),
            ("[own_commands.reset]\nmethod = 'x'", "own_commands.reset.method is not known"),
            ("told = 3", "told is not known"),
            ("valid_configuration = 3", "valid_configuration must be text that a request can carry, not 3"),
            ('valid_configuration = ""', "must be text that a request can carry"),
            (r'valid_configuration = "a\r\n?start"', "must be text that a request can carry"),
            ('valid_configuration = "\u2126"', "must be text that a request can carry"),
            (r'valid_filename = "a\r\n?start"', "valid_filename must be a path that a request can carry, not "),
            ('valid_filename = ""', "valid_filename must be a path that a request can carry, not "),
            ("valid_filename = 3", "valid_filename must be a path that a request can carry, not 3"),
            (
                "invalid_configuration = false",
                'text that a request can carry, "" if any name is accepted, not false',
            ),
            ("valid_integration = 40.0", "a whole number of milliseconds, 0 or more, not 40.0"),
            ("valid_integration = -1", "a whole number of milliseconds, 0 or more, not -1"),
            ("inputs = true", "inputs must be a whole number above 0, not true"),
            ("inputs = 0", "inputs must be a whole number above 0, not 0"),
            ("valid_section = [1, 2]", 'the seven arguments of set-section, each may be "*", not [1, 2]'),
            ('valid_section = ["x", 1, 1, 1, "CP", 1, 1]', "the seven arguments of set-section"),
            ('valid_section = [true, 1, 1, 1, "CP", 1, 1]', "the seven arguments of set-section"),
            ("valid_feeds = [1]", "two feeds, such as [0, 1], not [1]"),
            ("valid_feeds = 7", "two feeds, such as [0, 1], not 7"),
            ('leave_out = "start"', "a list of commands of the protocol or of own_commands"),
            (
                'leave_out = ["park"]',
                "a list of commands of the protocol or of own_commands, such as [\"backend-park\"], not ['park']",
            ),
            ("own_commands = 3", "own_commands must be a table of commands, such as [own_commands.reset], not 3"),
            ("[own_commands]\nreset = 3", "own_commands.reset must be a table with arguments, reply, "),
            ("[own_commands.start]", "'start' in own_commands is a command of the protocol, which is tested anyway"),
            ('[own_commands."a b"]', "own_commands.'a b': 'a b' is no command name"),
            (
                "[own_commands.reset]\nargument = 3",
                "own_commands.reset.argument is not known: did you mean arguments?",
            ),
            (
                "[own_commands.reset]\narguments = 3",
                "own_commands.reset.arguments must be a list of tables with name, type, unit, optional",
            ),
            ("[own_commands.reset]\nhelp = true", "own_commands.reset.help must be text, not true"),
            (
                '[own_commands.reset]\nlane = "slow"',
                "own_commands.reset: lane 'slow' of reset is none of reads, device",
            ),
            (
                "[own_commands.reset]\narguments = [3]",
                "own_commands.reset.arguments[0] must be a table with name, type",
            ),
            (
                '[own_commands.reset]\narguments = [{name = "x"}]',
                "own_commands.reset.arguments[0].type is needed: text",
            ),
            (
                '[own_commands.reset]\nreply = [{name = "x", type = "number"}]',
                "own_commands.reset.reply[0]: type 'number' of reply field 'x' is none of integer, float",
            ),
            (
                '[own_commands.reset]\narguments = [{name = "x", type = "text", minimum = 1}]',
                "own_commands.reset.arguments[0]: only an integer or a float has a minimum: argument 'x' is a text",
            ),
            (
                '[own_commands.reset]\narguments = [{name = "x", type = "text", minimum = true}]',
                "own_commands.reset.arguments[0].minimum must be a number, not true",
            ),
            (
                '[own_commands.reset]\narguments = [{name = "x", type = "float", maximum = "2"}]',
                "own_commands.reset.arguments[0].maximum must be a number, not '2'",
            ),
            (
                '[own_commands.reset]\narguments = [{name = "x", type = "float", minimum = 2.5, maximum = 2}]',
                "own_commands.reset.arguments[0]: minimum 2.5 of argument 'x' is above its maximum 2",
            ),
            (
                '[own_commands.reset]\narguments = [{name = "x", type = "text", choices = []}]',
                "own_commands.reset.arguments[0].choices must be a list that is not empty, not []",
            ),
            (
                '[own_commands.reset]\narguments = [{name = "x", type = "text", choices = true}]',
                "own_commands.reset.arguments[0].choices must be a list that is not empty, not true",
            ),
            (
                '[own_commands.reset]\narguments = [{name="x", type="text", optional=true}, {name="y", type="text"}]',
                "own_commands.reset: reset has an optional argument before one that is needed",
            ),
            ("valid_arguments = 3", "valid_arguments must be a table of own_commands, each with a list of arguments"),
            ("[valid_arguments]\nreset = [[1]]\n[own_commands.reset]", "reset needs no arguments"),
            ("[valid_arguments]\nstart = []", "[valid_arguments]: 'start' is not in own_commands"),
            (
                "[valid_arguments]\nrest = []\n[own_commands.reset]",
                "[valid_arguments]: 'rest' is not in own_commands: did you mean reset?",
            ),
            (
                '[deviations]\n"reset/acept" = "x"\n[own_commands.reset]',
                "no case is called 'reset/acept' in [deviations]: did you mean reset/accepts?",
            ),
            ("lead = nan", "lead must be a number of seconds from 0 to a year, not nan"),
            ("lead = inf", "a number of seconds"),
            ("late_tolerance = true", "a number of seconds"),
            ("reply_timeout = 0", "a number of seconds above 0, at most a day, not 0"),
            ("reply_limit = -1", "a number of bytes, 0 for any, not -1"),
            ("reply_limit = false", "a number of bytes, 0 for any, not false"),
            ("start_when_acquiring = true", "text that a request can carry, not true"),
            ('stop_when_idle = "never"', '"fail" or "ok", not \'never\''),
            ("deviations = 3", "a table of case ids, each with a sentence, not 3"),
            ('[deviations]\n"start/timed" = 3', "deviations.'start/timed' must be one line of text, not 3"),
            (
                '[deviations]\n"start/timd" = "x"',
                "no case is called 'start/timd' in [deviations]: did you mean start/timed?",
            ),
            ('[deviations]\n"strat/*" = "x"', "no case is called 'strat/*'"),
            ('description = "a\\nb"', "description must be one line of text"),
            ("a = = 3", "mine.toml is no TOML file: Invalid value"),
        ]:
            with self.subTest(text):
                with self.assertRaises(ProfileError) as raised:
                    self.load(text)
                self.assertIn(wanted, str(raised.exception))
                self.assertIn("mine.toml", str(raised.exception))
                self.assertEqual(len(str(raised.exception).splitlines()), 1)

    def test_wrong_files(self) -> None:
        (self.folder / "latin.toml").write_bytes(b"description = '\xe9'")
        for name, wanted in [
            (
                "nonesuch",
                "no profile 'nonesuch': choose one of discos, mistral, original, sardara, skarab, skarab2, totalpower",
            ),
            (str(self.folder / "none.toml"), "none.toml: No such file or directory"),
            (str(self.folder), "Is a directory"),
            (str(self.folder / "latin.toml"), "latin.toml is no TOML file: 'utf-8'"),
        ]:
            with self.subTest(name), self.assertRaises(ProfileError) as raised:
                load_profile(name)
            self.assertIn(wanted, str(raised.exception))


class ShippedTests(unittest.TestCase):
    def test_each_can_be_loaded_and_says_what_it_is_for(self) -> None:
        found = dict(shipped_profiles())
        self.assertEqual([*found], ["discos", "mistral", "original", "sardara", "skarab", "skarab2", "totalpower"])
        self.assertLessEqual(set(INSTRUMENTS), set(found))
        for name, description in found.items():
            with self.subTest(name):
                self.assertIsInstance(load_profile(name), Profile)
                self.assertNotEqual(description, "")

    def addresses(self) -> dict[str, tuple[str, int]]:
        """Return the address of each instrument; with --long, each is served by discos-backend-server."""
        stack = self.enterContext(ExitStack())
        if LONG:
            return {
                name: stack.enter_context(served("--simulate", name, "--time-scale", "0")).address
                for name in INSTRUMENTS
            }
        server = Server([sys.executable, "-c", SERVER])
        stack.callback(server.end)
        return {name: ("127.0.0.1", port) for name, port in json.loads(server.announced).items()}

    def test_each_fits_its_instrument(self) -> None:
        # The benchmarks run the slow cases on each instrument.
        cases = [
            case
            for name, case in CASES.items()
            if not re.match("(start|stop|disconnect|hostile)/(?!wrong|while-acquiring)", name)
        ]
        addresses = self.addresses()
        self.assertEqual([*addresses], [*INSTRUMENTS])
        # Before it, MISTRAL cannot start.
        with Connection(*addresses["mistral"]) as connection:
            setup = Message(message_type=REQUEST, name="setup")
            self.assertEqual(str(connection.exchange(setup)), "!setup,ok")
        for name, address in addresses.items():
            with self.subTest(name):
                profile = load_profile(name)

                def check(profile: Profile = profile, address: tuple[str, int] = address) -> CaseContext:
                    return CaseContext(profile, address)

                results = list(run_cases(cases, check))
                wrong = [
                    (result.case.id, result.explanation)
                    for result in results
                    if result.verdict not in (Verdict.PASS, Verdict.UNSUPPORTED, Verdict.SKIPPED)
                    or "was refused" in result.explanation
                ]
                self.assertEqual(wrong, [])

    def test_known_deviations_of_the_original(self) -> None:
        profile = load_profile("original")
        known = {case_id for case_id in CASES if profile.deviation(case_id)}
        self.assertLessEqual(
            {"start/timed", "stop/far-time", "grammar/syntax-errors", "time/wrong-number-of-arguments"}, known
        )
        # The cases without a known deviation are judged as on any server.
        for case_id in (
            "greeting/is-the-version",
            "errors/unknown-command",
            "order/two-clients",
            "start/now-and-stop-now",
            "start/while-acquiring",
            "stop/twice",
            "status/reply-is-well-formed",
        ):
            self.assertNotIn(case_id, known)


if __name__ == "__main__":
    unittest.main()
