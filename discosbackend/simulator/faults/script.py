"""Faults: decides when each armed fault applies, and reads scripts of faults in TOML.

kinds defines the kinds of fault. protocol applies faults to replies and connections, calls applies them to commands;
both ask a Faults object which faults apply.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

from discosbackend.grammar import NO_NAME
from discosbackend.schema import from_text, keys, read, read_values, shown
from discosbackend.simulator.errors import FaultScriptError
from discosbackend.simulator.faults.kinds import KEYS, KINDS, Kind
from discosbackend.toml import did_you_mean, read_toml

__all__ = [
    "Armed",
    "Fault",
    "Faults",
    "FaultTarget",
    "check_fields",
    "fault_from_texts",
    "fault_of",
    "load_faults",
]

logger = logging.getLogger(__name__)

# How often the application of one fault is logged: enough to find the relevant one, too few to fill a disk.
_LOGGED = 1000

_TRIGGERS = ("rate", "at", "nth")


@dataclass(frozen=True, slots=True)
class _Script:
    """The keys of a script."""

    seed: int | None = None
    fault: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault and when it applies. Give exactly one of `rate`, `at` and `nth`.

    A match is a reply, or, for the kinds that apply to a call, a call of a command. Each key of a kind is a field here.

    Parameters
    ----------
    kind
        A key of KINDS.
    command
        Only replies to this command, or calls of it, are matches. Default: every command.
    rate
        The probability that the fault applies, drawn separately for each match.
    at
        The fault applies to the first match after this time. The time is counted from the moment when the fault is
        armed; the faults of a script are armed when the server begins to listen.
    nth
        The fault applies to the match with this number, counted over all connections.
    count
        How often the fault applies at most. Default: without limit with `rate`, else once.
    seconds
        The duration, delay or clock offset of the kinds that have one.
    bytes
        The length of a reply of the kind `long`, including CR LF.
    text
        The reason of the kind `fail`.
    ppm
        The drift of the kind `clock-drift` in parts per million; positive: the clock runs fast.

    Raises
    ------
    FaultScriptError
        If a value is invalid, missing, or has no effect for this kind.
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
        for key in self.table:
            if key not in keys(kind):
                those = ", ".join(name for name, other in KINDS.items() if key in keys(other))
                raise FaultScriptError(f"{key} does nothing for {self.kind}: it is for {those}")
        values = read_values(kind, self.table, "", FaultScriptError)
        self._check_trigger(kind)
        for key in keys(kind):
            object.__setattr__(self, key, values.get(key, getattr(kind, key, None)))

    def _check_trigger(self, kind: type[Kind]) -> None:
        given = [key for key in _TRIGGERS if getattr(self, key) is not None]
        if len(given) != 1:
            raise FaultScriptError(
                f"{self.kind} needs one of rate, at and nth, not {' and '.join(given) or 'none of them'}"
            )
        if self.count is not None and (kind.lasts or self.by_the_clock):
            raise FaultScriptError(f"count does nothing for this {self.kind}: it applies once, leave it out")

    @property
    def by_the_clock(self) -> bool:
        """Whether the fault applies at its time `at`, without a reply or a call."""
        return KINDS[self.kind].applies_to == "moment" and self.at is not None and self.command is None

    @property
    def times(self) -> float:
        """How often the fault can apply: infinity for a rate without a count."""
        if self.count is not None:
            return self.count
        return float("inf") if self.rate is not None and not KINDS[self.kind].lasts else 1

    @property
    def table(self) -> dict[str, Any]:
        """The keys that have a value, as in a script."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in values.items() if value is not None}


def check_fields(names: Iterable[str]) -> None:
    """Raise TypeError if Fault has no field for one of these keys of kinds."""
    missing = set(names) - {field.name for field in fields(Fault)}
    if missing:
        raise TypeError(f"script.Fault needs a field for the key {', '.join(sorted(missing))}")


check_fields(KEYS)


@dataclass(frozen=True, slots=True)
class Armed:
    """The state of an armed fault: its number, and how often it has matched and was applied."""

    number: int
    fault: Fault
    matched: int
    applied: int


class FaultTarget(Protocol):
    """The interface of the object that applies the faults that apply at a moment; FaultyFactory implements it."""

    def apply(self, fault: Fault) -> None:
        """Apply the fault now."""

    def undo(self, fault: Fault) -> None:
        """Undo a lasting fault that was applied and is removed. It is the same object as for apply()."""


class _Slot:
    """An armed fault with its own random number generator."""

    __slots__ = ("number", "fault", "rng", "matched", "applied", "since", "timer")

    def __init__(self, number: int, fault: Fault, seed: int) -> None:
        self.number = number
        self.fault = fault
        # Its own generator, so that it does not depend on the other faults. Random(str) is the same on every platform.
        self.rng = Random(f"{seed}/{number}")
        self.matched = 0
        self.applied = 0
        self.since = 0.0
        self.timer: Any = None

    @property
    def live(self) -> bool:
        return self.applied < self.fault.times

    def applies(self, name: str, now: float) -> bool:
        """Count a match if this is one, and return whether the fault applies to it."""
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
        """Log the number of the match, with which the failure can be repeated."""
        subject = {"reply": "the reply to", "call": "the call of"}[what]
        if self.applied <= _LOGGED:
            text = "fault %d, %s, applies to match %d: %s %s"
            logger.info(text, self.number, self.fault.kind, self.matched, subject, name)
        if self.applied == _LOGGED:
            logger.info("fault %d was applied %d times: further applications are not logged", self.number, _LOGGED)


class Faults:
    """The armed faults.

    Each has a number, from 1, and random numbers that depend on the seed and its number. So the same seed, the same
    faults in the same order and the same requests give the same failures. The attributes `on_replies` and `on_calls`
    say whether any fault could still apply to a reply or to a call.

    Parameters
    ----------
    seed
        The seed of the random numbers.
    faults
        Faults to arm.
    commands
        The commands that a fault may name. Default: any.

    Raises
    ------
    FaultScriptError
        If a fault names another command.
    """

    def __init__(self, seed: int = 0, faults: Iterable[Fault] = (), *, commands: Iterable[str] | None = None) -> None:
        self.seed = seed
        self.on_replies = False
        self.on_calls = False
        self._commands = None if commands is None else frozenset(commands) | {NO_NAME}
        self._slots: dict[int, _Slot] = {}
        self._last = 0
        self._clock: Any = None
        self._over = False
        self._target: FaultTarget | None = None
        # Blocking commands are called in several threads at a time.
        self._lock = threading.Lock()
        for fault in faults:
            self.add(fault)

    # -- arming ---------------------------------------------------------------------------------------

    def add(self, fault: Fault) -> int:
        """Arm a fault and return its number. Raise FaultScriptError if it names an unknown command."""
        name, known = fault.command, self._commands
        if name is not None and known is not None and name not in known:
            near = did_you_mean(name, known, listed=True)
            raise FaultScriptError(f"command {name!r} is none of this instrument's{near}")
        with self._lock:
            self._last += 1
            # A copy, so that FaultTarget.undo() can tell it from an equal fault.
            slot = self._slots[self._last] = _Slot(self._last, replace(fault), self.seed)
            self._update_flags()
        if self._clock is not None:
            self._start(slot)
        return slot.number

    def remove(self, number: int) -> None:
        """Disarm a fault, and undo it if it is a lasting one. Raise KeyError if there is no fault of this number."""
        with self._lock:
            slot = self._slots.pop(number)
            self._update_flags()
        self._stop(slot)
        if slot.applied and KINDS[slot.fault.kind].lasts and self._target is not None:
            self._target.undo(slot.fault)

    def clear(self, seed: int | None = None) -> None:
        """Disarm all faults. Numbers begin with 1 again, so that arming the same faults gives the same failures.

        Parameters
        ----------
        seed
            The new seed. Default: the seed is not changed.
        """
        for number in list(self._slots):
            self.remove(number)
        self._last = 0
        if seed is not None:
            self.seed = seed

    @property
    def armed(self) -> list[Armed]:
        """All armed faults, also those that will not apply any more."""
        return [Armed(slot.number, slot.fault, slot.matched, slot.applied) for slot in self._slots.values()]

    # -- applying -------------------------------------------------------------------------------------

    def begin(self, clock: Any, target: FaultTarget) -> None:
        """Begin when the server listens: times count from now.

        Parameters
        ----------
        clock
            A reactor.
        target
            Applies the faults that apply at a moment.
        """
        self._clock, self._target = clock, target
        with self._lock:
            self._over = False
            self._update_flags()
        for slot in self._slots.values():
            self._start(slot)

    def end(self) -> None:
        """End when the server shuts down: no fault applies until the next begin()."""
        self._clock = None
        with self._lock:
            self._over = True
            self._update_flags()
        for slot in self._slots.values():
            self._stop(slot)

    def on_reply(self, name: str) -> list[Fault]:
        """Return the faults that apply to the next reply to this command, including those that apply at a moment."""
        return self._applying("reply", name)

    def on_call(self, name: str) -> list[Fault]:
        """Return the faults that apply to the next call of this command. Thread-safe."""
        return self._applying("call", name)

    def _applying(self, what: str, name: str) -> list[Fault]:
        clock = self._clock
        now = 0.0 if clock is None else clock.seconds()
        with self._lock:
            if self._over:
                return []
            slots = [slot for slot in self._slots.values() if _matched_with(slot.fault) == what]
            applied = [slot for slot in slots if slot.applies(name, now)]
            if applied:
                self._update_flags()
            for slot in applied:
                slot.log(what, name)
        return [slot.fault for slot in applied]

    def _update_flags(self) -> None:
        """Update `on_replies` and `on_calls`."""
        targets = {_matched_with(slot.fault) for slot in self._slots.values() if slot.live and not self._over}
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


def _matched_with(fault: Fault) -> str:
    """Return what a fault is matched with: "call", "reply", or "" if it applies at its time."""
    if fault.by_the_clock:
        return ""
    return "call" if KINDS[fault.kind].applies_to == "call" else "reply"


# -- reading them -------------------------------------------------------------------------------------


def fault_of(table: Mapping[str, Any]) -> Fault:
    """Make a Fault from a table of a script. Raise FaultScriptError, with what is accepted, for an invalid one."""
    for key in table:
        if key not in KEYS:
            raise FaultScriptError(f"{key} is not known{did_you_mean(key, KEYS, listed=True)}")
    if "kind" not in table:
        raise FaultScriptError(f"kind is needed: one of {', '.join(KINDS)}")
    return Fault(**table)


def fault_from_texts(texts: Mapping[str, str]) -> Fault:
    """Make a Fault from texts, as on a command line: `{"kind": "late", "seconds": "2", ...}`; like fault_of()."""
    return fault_of({key: from_text(KEYS.get(key, str), text) for key, text in texts.items()})


def load_faults(path: str | Path, commands: Iterable[str] | None = None, *, seed: int = 0) -> Faults:
    """Read a script of faults. A script without faults is logged.

    Parameters
    ----------
    path
        The TOML file.
    commands
        The commands that a fault may name. Default: any.
    seed
        The seed if the script has none.

    Returns
    -------
    Faults
        The armed faults.

    Raises
    ------
    FaultScriptError
        If the file cannot be read, or if a key or a value is invalid; the message says what is accepted.
    """
    values = read_toml(Path(path), f"faults {path}", FaultScriptError)
    try:
        script = read(_Script, values, "", FaultScriptError)
    except FaultScriptError as problem:
        raise FaultScriptError(f"faults {path}: {problem}") from None
    if not script.fault:
        logger.warning("faults %s: it has no [[fault]], so no fault is armed", path)
    faults = Faults(seed if script.seed is None else script.seed, commands=commands)
    for number, table in enumerate(script.fault, 1):
        try:
            faults.add(fault_of(table))
        except FaultScriptError as problem:
            raise FaultScriptError(f"faults {path}: fault {number}: {problem}") from None
    return faults
