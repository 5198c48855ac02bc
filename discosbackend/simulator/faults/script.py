"""Faults on purpose: when each applies, and scripts of them in TOML.

kinds lists the kinds of fault. What happens to a reply or a connection is in protocol, to a call in calls;
both ask Faults about each of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any, Protocol

from discosbackend.simulator.errors import FaultScriptError
from discosbackend.simulator.faults.kinds import KINDS, RULES, Kind, is_integer, rule_of, shown
from discosbackend.toml import did_you_mean, read_toml

__all__ = [
    "Armed",
    "Fault",
    "Faults",
    "FaultTarget",
    "fault_from_texts",
    "fault_of",
    "load_faults",
]

logger = logging.getLogger(__name__)

# Strikes of one fault that are logged: enough to find the one that counts, not enough to fill a disk.
_LOGGED = 1000

# What a reply to a line without a command's name goes by (protocol section 5.2).
_NO_NAME = "undefined"

_TRIGGERS = ("rate", "at", "nth")
_OF_EVERY_KIND = ("kind", "command", *_TRIGGERS, "count")
_DEFAULTS: dict[str, Any] = {"bytes": 600, "text": "failed on purpose"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is to go wrong, and when. FaultScriptError for what cannot be meant.

    Exactly one of `rate` (the probability for each match), `at` (seconds after it was armed; a script is
    armed when the server listens) and `nth` (the match with that number). `command`: only replies to, or
    calls of, this one. `count`: at most so many times; unless given, without end for a rate, else once. The
    others mean what docs/faults.md says of the kind: `seconds`, `bytes` CR LF included, `text`, `ppm`.
    """

    kind: str
    command: str | None = None
    rate: float | None = None
    at: float | None = None
    nth: int | None = None
    count: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    text: str | None = None
    ppm: float | None = None

    def __post_init__(self) -> None:
        kind = KINDS.get(self.kind) if isinstance(self.kind, str) else None
        if kind is None:
            near = did_you_mean(str(self.kind), KINDS, listed=True)
            raise FaultScriptError(f"kind {shown(self.kind)} is not known{near}")
        for key, value in self.table.items():
            if key not in (*_OF_EVERY_KIND, *kind.required, *kind.optional):
                those = ", ".join(name for name, other in KINDS.items() if key in other.required + other.optional)
                raise FaultScriptError(f"{key} does nothing for {self.kind}: it is for {those}")
            may_be, right = rule_of(key, self.kind)
            if not may_be(value):
                raise FaultScriptError(f"{key} must be {right}, not {shown(value)}")
        for key in kind.required:
            if getattr(self, key) is None:
                raise FaultScriptError(f"{self.kind} needs {key}: {rule_of(key, self.kind)[1]}")
        self._check_trigger(kind)
        for key in kind.optional:
            if getattr(self, key) is None:
                object.__setattr__(self, key, _DEFAULTS[key])

    def _check_trigger(self, kind: Kind) -> None:
        given = [key for key in _TRIGGERS if getattr(self, key) is not None]
        if len(given) != 1:
            raise FaultScriptError(
                f"{self.kind} needs one of rate, at and nth, not {' and '.join(given) or 'none of them'}"
            )
        if self.count is not None and (kind.lasts or self.by_the_clock):
            raise FaultScriptError(f"count does nothing for this {self.kind}: it strikes once, leave it out")

    @property
    def by_the_clock(self) -> bool:
        """Whether it waits for no reply and no call, but strikes when its time has come."""
        return KINDS[self.kind].applies_to == "moment" and self.at is not None and self.command is None

    @property
    def times(self) -> float:
        """How often it can strike: infinity for a rate without a count."""
        if self.count is not None:
            return self.count
        return float("inf") if self.rate is not None and not KINDS[self.kind].lasts else 1

    @property
    def table(self) -> dict[str, Any]:
        """What it says of itself, as in a script: the keys that have a value."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Armed:
    """How far an armed fault has come: its number, what it is, how often it has matched, and struck."""

    number: int
    fault: Fault
    matched: int
    applied: int


class FaultTarget(Protocol):
    """Who carries out what concerns no single reply: a factory."""

    def apply(self, fault: Fault) -> None:
        """Its time has come."""

    def undo(self, fault: Fault) -> None:
        """One that lasts, and has struck, was removed."""


class _Slot:
    """An armed fault with its own dice."""

    __slots__ = ("number", "fault", "rng", "matched", "applied", "since", "timer")

    def __init__(self, number: int, fault: Fault, seed: int) -> None:
        self.number = number
        self.fault = fault
        # Of its own, so that which other faults are armed changes nothing. A text seeds alike everywhere.
        self.rng = Random(f"{seed}/{number}")
        self.matched = 0
        self.applied = 0
        self.since = 0.0
        self.timer: Any = None

    @property
    def live(self) -> bool:
        return self.applied < self.fault.times

    def applies(self, name: str, now: float) -> bool:
        """Whether this match is one of those that it was armed for."""
        fault = self.fault
        if not self.live or fault.command not in (None, name):
            return False
        self.matched += 1
        if fault.rate is not None:
            applies = self.rng.random() < fault.rate
        elif fault.nth is not None:
            applies = self.matched >= fault.nth
        else:
            applies = now >= self.since + (fault.at or 0.0)
        self.applied += applies
        return applies

    def log(self, what: str, name: str) -> None:
        """Say which match it was that was struck, for whoever wants that failure again."""
        subject = {"reply": "the reply to", "call": "the call of"}[what]
        if self.applied <= _LOGGED:
            text = "fault %d, %s, strikes match %d: %s %s"
            logger.info(text, self.number, self.fault.kind, self.matched, subject, name)
        if self.applied == _LOGGED:
            logger.info("fault %d has struck %d times: what follows is not logged", self.number, _LOGGED)


class Faults:
    """The faults that are armed. Each has a number, from 1 on, and draws from `seed` and that number.

    So the same seed, the same faults in the same order and the same requests give the same failures.
    `commands` are the names that a fault may name, None is any; FaultScriptError for one that names another.
    `on_replies` and `on_calls` say, cheaply, whether anything could strike one.
    """

    def __init__(self, seed: int = 0, faults: Iterable[Fault] = (), *, commands: Iterable[str] | None = None) -> None:
        self.seed = seed
        self.on_replies = False
        self.on_calls = False
        self._commands = None if commands is None else frozenset(commands) | {_NO_NAME}
        self._slots: dict[int, _Slot] = {}
        self._last = 0
        self._clock: Any = None
        self._over = False
        self._target: FaultTarget | None = None
        # Blocking commands are called in threads, several at a time.
        self._lock = threading.Lock()
        for fault in faults:
            self.add(fault)

    # -- arming ---------------------------------------------------------------------------------------

    def add(self, fault: Fault) -> int:
        """Arm a fault, from now on; its number. FaultScriptError if it names a command that there is not."""
        name, known = fault.command, self._commands
        if name is not None and known is not None and name not in known:
            near = did_you_mean(name, known, listed=True)
            raise FaultScriptError(f"command {name!r} is none of this instrument's{near}")
        with self._lock:
            self._last += 1
            slot = self._slots[self._last] = _Slot(self._last, fault, self.seed)
            self._update_flags()
        if self._clock is not None:
            self._start(slot)
        return slot.number

    def remove(self, number: int) -> None:
        """Disarm a fault; a clock that it has put off, or made drift, goes right again.

        KeyError if there is none of this number.
        """
        with self._lock:
            slot = self._slots.pop(number)
            self._update_flags()
        self._stop(slot)
        if slot.applied and KINDS[slot.fault.kind].lasts and self._target is not None:
            self._target.undo(slot.fault)

    def clear(self, seed: int | None = None) -> None:
        """Disarm all of them, and begin again with number 1: what is armed next fails as it did at first.

        `seed` is the new one, if there is to be a new one.
        """
        for number in list(self._slots):
            self.remove(number)
        self._last = 0
        if seed is not None:
            self.seed = seed

    def reapply(self) -> None:
        """Strike once more with what lasts and has struck: a reset has set the clock right."""
        for slot in self._slots.values():
            if slot.applied and KINDS[slot.fault.kind].lasts and self._target is not None:
                self._target.apply(slot.fault)

    @property
    def armed(self) -> list[Armed]:
        """Every fault that was armed and not removed, also those that have struck for the last time."""
        return [Armed(slot.number, slot.fault, slot.matched, slot.applied) for slot in self._slots.values()]

    # -- striking -------------------------------------------------------------------------------------

    def begin(self, clock: Any, target: FaultTarget) -> None:
        """The server listens: moments count from now. `clock` is a reactor, `target` strikes by the clock."""
        self._clock, self._target = clock, target
        with self._lock:
            self._over = False
            self._update_flags()
        for slot in self._slots.values():
            self._start(slot)

    def end(self) -> None:
        """The server goes down: nothing strikes any more, until the next begin()."""
        self._clock = None
        with self._lock:
            self._over = True
            self._update_flags()
        for slot in self._slots.values():
            self._stop(slot)

    def on_reply(self, name: str) -> list[Fault]:
        """A reply to this command is about to leave: what strikes it, or strikes with it."""
        return self._applying("reply", name)

    def on_call(self, name: str) -> list[Fault]:
        """This command is about to be carried out: what strikes it. For any thread."""
        return self._applying("call", name)

    def _applying(self, what: str, name: str) -> list[Fault]:
        clock = self._clock
        now = 0.0 if clock is None else clock.seconds()
        with self._lock:
            if self._over:
                return []
            slots = [slot for slot in self._slots.values() if _drawn_on(slot.fault) == what]
            applied = [slot for slot in slots if slot.applies(name, now)]
            if applied:
                self._update_flags()
            for slot in applied:
                slot.log(what, name)
        return [slot.fault for slot in applied]

    def _update_flags(self) -> None:
        """See what could still strike."""
        targets = {_drawn_on(slot.fault) for slot in self._slots.values() if slot.live and not self._over}
        self.on_replies, self.on_calls = "reply" in targets, "call" in targets

    def _start(self, slot: _Slot) -> None:
        slot.since = self._clock.seconds()
        if slot.fault.by_the_clock and slot.live:
            self._stop(slot)
            slot.timer = self._clock.callLater(slot.fault.at, self._on_moment, slot)

    @staticmethod
    def _stop(slot: _Slot) -> None:
        timer, slot.timer = slot.timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _on_moment(self, slot: _Slot) -> None:
        slot.applied += 1
        if self._target is not None:
            self._target.apply(slot.fault)


def _drawn_on(fault: Fault) -> str:
    """On what it is drawn: a "call", a "reply", or "" for what strikes by the clock."""
    if fault.by_the_clock:
        return ""
    return "call" if KINDS[fault.kind].applies_to == "call" else "reply"


# -- reading them -------------------------------------------------------------------------------------


def fault_of(table: Mapping[str, Any]) -> Fault:
    """The fault that a table of a script describes. FaultScriptError, with what would be right, if none."""
    for key in table:
        if key not in RULES:
            raise FaultScriptError(f"{key} is not known{did_you_mean(key, RULES, listed=True)}")
    if "kind" not in table:
        raise FaultScriptError(f"kind is missing: one of {', '.join(KINDS)}")
    return Fault(**table)


def fault_from_texts(texts: Mapping[str, str]) -> Fault:
    """The same for values that are texts, as on a command line: `{"kind": "late", "seconds": "2", ...}`."""
    return fault_of({key: _read(key, text) for key, text in texts.items()})


def load_faults(path: str | Path, commands: Iterable[str] | None = None, *, seed: int = 0) -> Faults:
    """The faults that a script arms, with its seed, or `seed` if it has none.

    `commands` are those that they may name, None is any. A script that arms none is told of in the log.

    FaultScriptError, with what is wrong and what would be right, for a file that is no such script.
    """
    seed, tables = _script(path, seed)
    if not tables:
        logger.warning("faults %s: there is no [[fault]] in it, so nothing will go wrong", path)
    faults = Faults(seed, commands=commands)
    for number, table in enumerate(tables, 1):
        try:
            faults.add(fault_of(table))
        except FaultScriptError as problem:
            raise FaultScriptError(f"faults {path}: fault {number}: {problem}") from None
    return faults


def _script(path: str | Path, seed: int) -> tuple[int, list[dict[str, Any]]]:
    """The seed and the tables of a script."""
    script = read_toml(Path(path), f"faults {path}", FaultScriptError)
    known = ("seed", "fault")
    for key in script:
        if key not in known:
            raise FaultScriptError(f"faults {path}: {key} is not known{did_you_mean(key, known, listed=True)}")
    seed, tables = script.get("seed", seed), script.get("fault", [])
    if not is_integer(seed):
        raise FaultScriptError(f"faults {path}: seed must be a whole number, not {shown(seed)}")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise FaultScriptError(f"faults {path}: write each fault under [[fault]], not as {shown(tables)}")
    return seed, tables


def _read(key: str, text: str) -> Any:
    """The value that a text has for a key; the text itself where it is none, for the complaint."""
    if key in ("kind", "command", "text"):
        return text
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
