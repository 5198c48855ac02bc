"""Which fault strikes when, drawn from a seed; scripts in TOML, and what is said of wrong ones."""

from __future__ import annotations

import re
import tempfile
import unittest
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from discosbackend.commands import COMMANDS
from discosbackend.schema import keys
from discosbackend.simulator.errors import FaultScriptError
from discosbackend.simulator.faults.kinds import KEYS, KINDS, Kind, keys_of
from discosbackend.simulator.faults.script import (
    Fault,
    Faults,
    check_fields,
    fault_from_texts,
    fault_of,
    load_faults,
)

from .serving import ROOT


class Hand:
    """Remembers what it was told to carry out."""

    def __init__(self) -> None:
        self.to_dict: list[tuple[str, str]] = []

    def apply(self, fault: Fault) -> None:
        self.to_dict.append(("apply", fault.kind))

    def undo(self, fault: Fault) -> None:
        self.to_dict.append(("undo", fault.kind))


def begun(*faults: Fault, seed: int = 0) -> tuple[Faults, Clock, Hand]:
    """Faults of a server that has just begun to listen."""
    armed, clock, hand = Faults(seed, faults), Clock(), Hand()
    clock.advance(1000)
    armed.begin(clock, hand)
    return armed, clock, hand


def replies(faults: Faults, names: Sequence[str]) -> list[list[str]]:
    """The kinds that strike each of these replies."""
    return [[fault.kind for fault in faults.on_reply(name)] for name in names]


def needed(kind: str) -> dict[str, Any]:
    """Values for the keys that a kind cannot do without."""
    return {key: value for key, value in {"seconds": 2.0, "ppm": 50.0}.items() if key in keys(KINDS[kind])}


class FaultTests(unittest.TestCase):
    def test_every_kind_with_what_it_needs(self) -> None:
        for kind, declared in KINDS.items():
            for trigger in ({"rate": 0.5}, {"at": 3}, {"nth": 2}):
                table = {"kind": kind, **needed(kind), **trigger}
                with self.subTest(**table):
                    fault = fault_of(table)
                    defaults = {key: getattr(declared, key) for key in ("bytes", "text") if key in keys(declared)}
                    self.assertEqual(fault.table, {**table, **defaults})
                    # What `faults list` tells can be armed again.
                    self.assertEqual(fault_of(fault.table), fault)

    def test_defaults(self) -> None:
        self.assertEqual(Fault(kind="long", nth=1).bytes, 600)
        self.assertEqual(Fault(kind="fail", nth=1).text, "failed on purpose")
        self.assertIsNone(Fault(kind="cut", nth=1).bytes)

    def test_how_often(self) -> None:
        for table, times in [
            ({"kind": "cut", "rate": 0.1}, float("inf")),
            ({"kind": "cut", "rate": 0.1, "count": 4}, 4),
            ({"kind": "cut", "at": 1}, 1),
            ({"kind": "cut", "nth": 1, "count": 2}, 2),
            ({"kind": "clock-off", "rate": 0.1, "seconds": 1}, 1),
            ({"kind": "clock-step", "rate": 0.1, "seconds": 1}, float("inf")),
        ]:
            with self.subTest(**table):
                self.assertEqual(fault_of(table).times, times)

    def test_by_the_clock(self) -> None:
        for table, wanted in [
            ({"kind": "refuse", "seconds": 1, "at": 1}, True),
            ({"kind": "refuse", "seconds": 1, "at": 1, "command": "status"}, False),
            ({"kind": "refuse", "seconds": 1, "nth": 1}, False),
            ({"kind": "clock-drift", "ppm": 1, "at": 0}, True),
            ({"kind": "late", "seconds": 1, "at": 1}, False),
            ({"kind": "hang", "at": 1}, False),
        ]:
            with self.subTest(**table):
                self.assertEqual(fault_of(table).by_the_clock, wanted)

    def test_what_cannot_be_meant(self) -> None:
        cases: list[tuple[dict[str, Any], str]] = [
            ({}, "kind is needed: one of late, bytes"),
            ({"kind": "lat", "nth": 1}, "kind 'lat' is not known: did you mean late?"),
            ({"kind": 7, "nth": 1}, "kind 7 is not known: known are late, "),
            ({"kind": ["late"], "nth": 1}, "kind ['late'] is not known"),
            ({"kind": "late", "second": 1, "nth": 1}, "second is not known: did you mean seconds?"),
            ({"kind": "late", "nth": 1}, "seconds is needed: a number of seconds above 0, at most a year"),
            ({"kind": "clock-step", "nth": 1}, "seconds is needed: a number of seconds, not 0"),
            ({"kind": "clock-drift", "nth": 1}, "ppm is needed: a number of millionths"),
            ({"kind": "late", "seconds": 0, "nth": 1}, "seconds must be a number of seconds above 0, at"),
            ({"kind": "late", "seconds": -1, "nth": 1}, "not -1"),
            ({"kind": "late", "seconds": float("nan"), "nth": 1}, "not nan"),
            ({"kind": "late", "seconds": 4e7, "nth": 1}, "at most a year"),
            ({"kind": "late", "seconds": "2", "nth": 1}, "not '2'"),
            ({"kind": "clock-off", "seconds": 0, "nth": 1}, "seconds must be a number of seconds, not 0"),
            ({"kind": "clock-drift", "ppm": 600_000, "nth": 1}, "ppm must be"),
            ({"kind": "cut", "seconds": 1, "nth": 1}, "seconds does nothing for cut: it is for late,"),
            ({"kind": "cut", "text": "no", "nth": 1}, "text does nothing for cut: it is for fail"),
            ({"kind": "long", "bytes": 511, "nth": 1}, "bytes must be a whole number of bytes from 512"),
            ({"kind": "long", "bytes": 600.0, "nth": 1}, "not 600.0"),
            ({"kind": "fail", "text": "a\nb", "nth": 1}, "text must be one line of text, not 'a\\nb'"),
            ({"kind": "fail", "text": "x" * 99 + "\n", "nth": 1}, "not '" + "x" * 59 + "..."),
            ({"kind": "cut"}, "cut needs one of rate, at and nth, not none of them"),
            ({"kind": "cut", "rate": 0.1, "nth": 1}, "cut needs one of rate, at and nth, not rate and nth"),
            ({"kind": "cut", "rate": 0.0}, "rate must be a number above 0, at most 1, not 0.0"),
            ({"kind": "cut", "rate": 1.5}, "not 1.5"),
            ({"kind": "cut", "rate": True}, "not true"),
            ({"kind": "cut", "rate": {}}, "not a table"),
            ({"kind": "cut", "at": -1}, "at must be a number of seconds from 0 to a year, not -1"),
            ({"kind": "cut", "nth": 0}, "nth must be a whole number above 0, not 0"),
            ({"kind": "cut", "nth": 1, "count": 0}, "count must be a whole number above 0, not 0"),
            ({"kind": "restart", "seconds": 1, "at": 1, "count": 2}, "count does nothing for this restart"),
            ({"kind": "clock-off", "seconds": 1, "nth": 1, "count": 2}, "count does nothing for this clock"),
            ({"kind": "cut", "nth": 1, "command": "?stop"}, "command must be the name of a command, such"),
            ({"kind": "cut", "nth": 1, "command": ""}, "not ''"),
        ]
        for table, wanted in cases:
            with self.subTest(wanted), self.assertRaisesRegex(FaultScriptError, re.escape(wanted)):
                fault_of(table)

    def test_from_the_words_of_a_command_line(self) -> None:
        self.assertEqual(
            fault_from_texts({"kind": "late", "seconds": "2", "rate": "0.1", "command": "x", "count": "3"}),
            Fault(kind="late", seconds=2, rate=0.1, command="x", count=3),
        )
        self.assertEqual(fault_from_texts({"kind": "fail", "text": "7", "nth": "1"}).text, "7")
        for texts, wanted in [
            ({"kind": "late", "seconds": "soon", "nth": "1"}, "not 'soon'"),
            ({"kind": "late", "seconds": "nan", "nth": "1"}, "not nan"),
            ({"kind": "cut", "nth": "1.5"}, "nth must be a whole number above 0, not 1.5"),
            ({"kind": "cut", "nth": ""}, "not ''"),
        ]:
            with self.subTest(**texts), self.assertRaisesRegex(FaultScriptError, re.escape(wanted)):
                fault_from_texts(texts)

    def test_is_a_value(self) -> None:
        fault = Fault(kind="cut", nth=1)
        self.assertEqual(fault, Fault(kind="cut", nth=1))
        with self.assertRaises(FrozenInstanceError):
            fault.kind = "lf"  # type: ignore[misc]  # which is what is tested


class KeysTests(unittest.TestCase):
    """Kinds whose keys could not be given are refused when the module is imported."""

    def test_kinds_that_share_a_key_agree_on_its_type(self) -> None:
        for name, kind in KINDS.items():
            for key, hint in keys(kind, ranges=False).items():
                with self.subTest(name, key=key):
                    self.assertEqual(KEYS[key], hint)

    def test_kinds_that_do_not_agree(self) -> None:
        class Whole(Kind):
            seconds: int

        with self.assertRaisesRegex(TypeError, "seconds is <class 'float'> for late, but <class 'int'> for whole"):
            keys_of({"late": KINDS["late"], "whole": Whole})

    def test_a_type_that_no_command_line_can_give(self) -> None:
        class Listed(Kind):
            times: tuple[float, ...]

        with self.assertRaisesRegex(TypeError, "times of the kind listed must be a bool, int, float or str"):
            keys_of({"listed": Listed})

    def test_the_types_that_a_command_line_can_give(self) -> None:
        class Switched(Kind):
            whole: bool | None = None

        self.assertEqual(keys_of({"switched": Switched})["whole"], bool | None)

    def test_a_key_without_a_field(self) -> None:
        check_fields(KEYS)
        with self.assertRaisesRegex(TypeError, "script.Fault needs a field for the key colour"):
            check_fields({**KEYS, "colour": str})


class TriggerTests(unittest.TestCase):
    def test_the_nth_match_of_a_command(self) -> None:
        faults, _, _ = begun(Fault(kind="cut", command="time", nth=2))
        self.assertEqual(replies(faults, ["time", "status", "time", "time"]), [[], [], ["cut"], []])

    def test_from_the_nth_on_as_often_as_it_may(self) -> None:
        faults, _, _ = begun(Fault(kind="cut", nth=2, count=2))
        self.assertEqual(replies(faults, ["time"] * 4), [[], ["cut"], ["cut"], []])

    def test_the_first_match_from_a_moment_on(self) -> None:
        faults, clock, _ = begun(Fault(kind="cut", command="time", at=12.5))
        self.assertEqual(replies(faults, ["time"]), [[]])
        clock.advance(12.4)
        self.assertEqual(replies(faults, ["time"]), [[]])
        clock.advance(0.2)
        self.assertEqual(replies(faults, ["status", "time", "time"]), [[], ["cut"], []])

    def test_a_rate_is_about_that_rate(self) -> None:
        faults, _, _ = begun(Fault(kind="cut", rate=0.25), seed=3)
        applied = sum(map(bool, replies(faults, ["time"] * 4000)))
        # Six standard deviations.
        self.assertAlmostEqual(applied, 1000, delta=6 * (4000 * 0.25 * 0.75) ** 0.5)

    def test_a_rate_of_one_is_always_and_a_count_ends_it(self) -> None:
        faults, _, _ = begun(Fault(kind="cut", rate=1, count=2))
        self.assertEqual(replies(faults, ["time"] * 3), [["cut"], ["cut"], []])

    def test_calls_and_replies_are_apart(self) -> None:
        faults, _, _ = begun(Fault(kind="fail", nth=1), Fault(kind="cut", nth=1))
        self.assertEqual([fault.kind for fault in faults.on_call("time")], ["fail"])
        self.assertEqual(replies(faults, ["time"]), [["cut"]])

    def test_moments_strike_by_the_clock(self) -> None:
        later, sooner = Fault(kind="restart", seconds=1, at=2), Fault(kind="refuse", seconds=1, at=1)
        faults, clock, hand = begun(later, sooner)
        self.assertFalse(faults.on_replies)
        clock.advance(0.9)
        self.assertEqual(hand.to_dict, [])
        clock.advance(0.2)
        self.assertEqual(hand.to_dict, [("apply", "refuse")])
        clock.advance(50)
        self.assertEqual(hand.to_dict, [("apply", "refuse"), ("apply", "restart")])
        self.assertEqual([armed.applied for armed in faults.armed], [1, 1])

    def test_moments_with_a_command_strike_with_its_reply(self) -> None:
        faults, clock, hand = begun(Fault(kind="refuse", seconds=1, at=1, command="stop"))
        clock.advance(2)
        self.assertEqual(hand.to_dict, [])
        self.assertEqual(replies(faults, ["time", "stop", "stop"]), [[], ["refuse"], []])

    def test_a_moment_counts_from_when_it_was_armed(self) -> None:
        faults, clock, hand = begun()
        clock.advance(100)
        faults.add(Fault(kind="refuse", seconds=1, at=1))
        faults.add(Fault(kind="cut", at=1))
        self.assertEqual(replies(faults, ["time"]), [[]])
        clock.advance(1)
        self.assertEqual(hand.to_dict, [("apply", "refuse")])
        self.assertEqual(replies(faults, ["time"]), [["cut"]])

    def test_after_the_end_nothing_strikes_until_the_next_begin(self) -> None:
        faults, clock, hand = begun(
            Fault(kind="refuse", seconds=1, at=1), Fault(kind="cut", rate=1), Fault(kind="hang", rate=1)
        )
        faults.end()
        self.assertFalse(faults.on_replies or faults.on_calls)
        # Neither what a thread had begun to draw before, nor what is armed now, changes that.
        self.assertEqual(faults.on_call("status"), [])
        faults.add(Fault(kind="late", seconds=1, nth=1))
        self.assertFalse(faults.on_replies or faults.on_calls)
        self.assertEqual(clock.getDelayedCalls(), [])
        clock.advance(10)
        faults.begin(clock, hand)
        self.assertTrue(faults.on_replies and faults.on_calls)
        clock.advance(0.9)
        self.assertEqual(hand.to_dict, [])
        clock.advance(0.2)
        self.assertEqual(hand.to_dict, [("apply", "refuse")])


class ArmedTests(unittest.TestCase):
    def test_what_is_armed_and_how_far_it_has_come(self) -> None:
        faults, _, _ = begun()
        first, second = Fault(kind="cut", command="time", nth=2), Fault(kind="hang", rate=1, count=1)
        self.assertEqual([faults.add(first), faults.add(second)], [1, 2])
        replies(faults, ["time", "status", "time", "time"])
        faults.on_call("stop")
        told = [(armed.number, armed.fault, armed.matched, armed.applied) for armed in faults.armed]
        self.assertEqual(told, [(1, first, 2, 1), (2, second, 1, 1)])

    def test_the_flags_say_whether_anything_can_strike(self) -> None:
        faults, _, _ = begun()
        self.assertEqual((faults.on_replies, faults.on_calls), (False, False))
        number = faults.add(Fault(kind="hang", rate=0.5))
        self.assertEqual((faults.on_replies, faults.on_calls), (False, True))
        faults.add(Fault(kind="clock-step", seconds=1, nth=1))
        self.assertEqual((faults.on_replies, faults.on_calls), (True, True))
        faults.remove(number)
        self.assertEqual((faults.on_replies, faults.on_calls), (True, False))
        faults.on_reply("time")
        # Struck for the last time: it costs nothing more.
        self.assertEqual((faults.on_replies, faults.on_calls), (False, False))

    def test_removing(self) -> None:
        faults, clock, hand = begun(Fault(kind="refuse", seconds=1, at=1), Fault(kind="cut", rate=1))
        faults.remove(1)
        self.assertEqual([armed.number for armed in faults.armed], [2])
        clock.advance(5)
        self.assertEqual(hand.to_dict, [])
        self.assertEqual(faults.add(Fault(kind="lf", rate=1)), 3)
        with self.assertRaises(KeyError):
            faults.remove(1)

    def test_what_lasts_is_undone_if_it_has_struck(self) -> None:
        faults, clock, hand = begun(
            Fault(kind="clock-off", seconds=-3, at=0),
            Fault(kind="clock-drift", ppm=10, at=5),
            Fault(kind="clock-step", seconds=1, at=0),
        )
        clock.advance(1)
        faults.clear()
        self.assertEqual(sorted(hand.to_dict), [("apply", "clock-off"), ("apply", "clock-step"), ("undo", "clock-off")])
        self.assertEqual(faults.armed, [])

    def test_two_equal_faults_are_told_apart(self) -> None:
        fault = Fault(kind="clock-off", seconds=1, nth=1)
        first, second = (armed.fault for armed in Faults(0, [fault, fault]).armed)
        self.assertEqual(first, second)
        self.assertIsNot(first, second)

    def test_commands_that_there_are_not(self) -> None:
        faults = Faults(commands=COMMANDS)
        with self.assertRaisesRegex(FaultScriptError, "'staus' is none of this instrument's.* status"):
            faults.add(Fault(kind="cut", command="staus", rate=1))
        self.assertEqual(faults.armed, [])
        self.assertEqual(faults.add(Fault(kind="cut", command="status", rate=1)), 1)


class SeedTests(unittest.TestCase):
    names = [name for name in COMMANDS for _ in range(8)]

    def drawn(self, seed: int, *faults: Fault) -> list[list[str]]:
        return replies(begun(*faults, seed=seed)[0], self.names)

    def test_the_same_seed_and_requests_fail_the_same(self) -> None:
        faults = (Fault(kind="cut", rate=0.3), Fault(kind="lf", rate=0.3))
        first = self.drawn(7, *faults)
        self.assertEqual(self.drawn(7, *faults), first)
        self.assertNotEqual(self.drawn(8, *faults), first)

    def test_two_faults_of_one_seed_draw_apart(self) -> None:
        drawn = self.drawn(7, Fault(kind="cut", rate=0.3), Fault(kind="lf", rate=0.3))
        cut, lf = (["cut" in kinds for kinds in drawn], ["lf" in kinds for kinds in drawn])
        self.assertNotEqual(cut, lf)

    def test_the_draws_are_the_same_on_every_machine(self) -> None:
        drawn = self.drawn(7, Fault(kind="cut", rate=0.3))
        self.assertEqual([at for at, kinds in enumerate(drawn[:16]) if kinds], self.noted)

    # As first drawn: a change here loses every failure that anybody has noted down.
    noted = [0, 1, 13, 14]

    @given(
        st.integers(),
        st.lists(st.sampled_from(["time", "status", "stop"]), max_size=30),
        st.lists(st.sampled_from([{"kind": "lf", "nth": 2}, {"kind": "swap", "rate": 0.9}]), max_size=3),
    )
    def test_other_faults_change_no_draw(self, seed: int, names: list[str], others: list[dict[str, Any]]) -> None:
        mine = Fault(kind="cut", command="time", rate=0.5)
        alone = begun(mine, seed=seed)[0]
        among = begun(mine, *map(fault_of, others), seed=seed)[0]
        for name in names:
            cut = ["cut"] if mine in alone.on_reply(name) else []
            self.assertEqual([fault.kind for fault in among.on_reply(name) if fault == mine], cut)

    def test_after_clear_everything_begins_again(self) -> None:
        faults, _, _ = begun(seed=7)
        drawn = []
        for seed in (None, None, 8, 7):
            faults.clear(seed)
            self.assertEqual(faults.add(Fault(kind="cut", rate=0.3)), 1)
            drawn.append(replies(faults, self.names))
        self.assertEqual([each == drawn[0] for each in drawn], [True, True, False, True])


class ScriptTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by the next line
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "faults.toml"

    def load(self, text: str, commands: Sequence[str] | None = None) -> Faults:
        self.path.write_bytes(text.encode("latin-1"))
        return load_faults(self.path, commands)

    def test_a_script(self) -> None:
        late = '[[fault]]\nkind = "late"\nseconds = 2.0\nrate = 0.1\n'
        faults = self.load(f'seed = 7\n{late}[[fault]]\nkind = "lf"\nnth = 3\n')
        self.assertEqual(faults.seed, 7)
        wanted = [(1, Fault(kind="late", seconds=2.0, rate=0.1)), (2, Fault(kind="lf", nth=3))]
        self.assertEqual([(armed.number, armed.fault) for armed in faults.armed], wanted)

    def test_a_script_as_windows_writes_it(self) -> None:
        # With a byte order mark, which tomllib takes for a part of the first key, and CR LF.
        self.assertEqual(self.load("\xef\xbb\xbfseed = 7\r\n").seed, 7)

    def test_an_empty_script_arms_nothing(self) -> None:
        faults = self.load("")
        self.assertEqual((faults.seed, faults.armed), (0, []))

    def test_what_is_no_script(self) -> None:
        cut = '[[fault]]\nkind = "cut"\nnth = 1\n'
        for text, wanted in [
            ("seed = ", "is no TOML file: "),
            ("# \xe9", "is no TOML file: "),
            ("sed = 1", ": sed is not known: did you mean seed?"),
            ("seed = 1.5", ": seed must be a whole number, not 1.5"),
            ("seed = true", ": seed must be a whole number, not true"),
            (
                '[fault]\nkind = "cut"\nnth = 1',
                ": fault must be a list of tables: write [[fault]] above each, not a table",
            ),
            ("fault = [1]", ": fault[0] must be a table, not 1"),
            (cut + "[[fault]]\nkind = 'cut'\nnt = 1", ": fault 2: nt is not known: did you mean nth?"),
            (cut + "[[fault]]\nkind = 'cut'\nnth = 'x'", ": fault 2: nth must be a whole number above 0"),
            (cut + "command = 'tim'", ": fault 1: command 'tim' is none of this instrument's"),
        ]:
            with self.subTest(text), self.assertRaises(FaultScriptError) as raised:
                self.load(text, ["time"])
            self.assertTrue(str(raised.exception).startswith(f"faults {self.path}"))
            self.assertIn(wanted, str(raised.exception))

    def test_a_script_that_is_not_there(self) -> None:
        with self.assertRaisesRegex(FaultScriptError, f"faults {self.path}: No such file"):
            load_faults(self.path)
        with self.assertRaisesRegex(FaultScriptError, "Is a directory"):
            load_faults(self.path.parent)


class PageTests(unittest.TestCase):
    """docs/faults.md: its scripts can be loaded, its table has every kind with its keys."""

    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")

    def test_the_scripts_can_be_loaded(self) -> None:
        scripts = re.findall(r"^```toml\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)
        self.assertTrue(scripts)
        with tempfile.TemporaryDirectory() as folder:
            for number, script in enumerate(scripts):
                path = Path(folder) / f"{number}.toml"
                path.write_text(script, encoding="utf-8")
                self.assertTrue(load_faults(path, COMMANDS).armed, script)

    def test_the_words_for_simctl_make_faults(self) -> None:
        lines = re.findall(r"^discos-backend-simctl .* faults add (.*)$", self.text, re.MULTILINE)
        self.assertTrue(lines)
        for line in lines:
            with self.subTest(line):
                fault_from_texts(dict(word.split("=", 1) for word in line.split()))

    def test_the_table_has_every_kind_with_its_keys(self) -> None:
        rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]*)\|", self.text, re.MULTILINE)
        kinds = {kind: set(re.findall(r"`([a-z]+)", own)) for kind, own in rows if kind in KINDS}
        self.assertEqual(kinds, {name: keys(kind).keys() - keys(Kind).keys() for name, kind in KINDS.items()})

    def test_the_table_of_the_other_keys(self) -> None:
        rows = set(re.findall(r"^\| `([a-z]+)` \|", self.text, re.MULTILINE))
        self.assertLessEqual({"command", "rate", "at", "nth", "count"}, rows)


if __name__ == "__main__":
    unittest.main()
