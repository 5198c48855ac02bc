"""Reads instruments from TOML profiles: those of the package, in simulator/profiles, and those of the user.

model defines the records. Comments in the profiles explain the keys, since users copy these files. This module checks
the contents of a file; profile_tables reads and checks single values.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from discosbackend.commands import COMMANDS
from discosbackend.grammar import name_pattern
from discosbackend.simulator.errors import InstrumentError
from discosbackend.simulator.instrument.model import (
    UNCONFIGURED,
    Comb,
    Configuration,
    Instrument,
    Limits,
    Phrases,
    Receiver,
    Response,
    Task,
)
from discosbackend.simulator.instrument.profile_tables import Table, as_number, as_whole, is_word
from discosbackend.toml import did_you_mean, read_toml

__all__ = ["INSTRUMENTS", "RESET", "instrument_of", "profile_text", "shipped_instruments"]

RESET = "reset"
"""The command that cancels a task; every instrument with tasks has it."""

_SHIPPED = Path(__file__).parents[1] / "profiles"

_YEAR = 366 * 86400

# Limits of integers. Larger numbers are mistakes; so many bins or feeds would exceed the memory.
_INTEGER, _MOST_BINS, _MOST_FEEDS = 10**9, 2**24, 1000

# Limits of other quantities: MHz, K, counts, factors, and arcmin (half the sky).
_MOST_MHZ, _MOST_K, _MOST_COUNTS, _MOST_FACTOR, _HALF_THE_SKY = 1e7, 1e6, 1e12, 1e6, 180 * 60

# Values are recorded as signed 32-bit integers.
_FULL_SCALE = 2**31 - 1

# Characters. MISTRAL's client reads the greeting and the reply to status together into a buffer of 256 bytes.
_LONGEST_PHRASE = 120

# The most peaks of a comb; with a mistyped spacing a dump would take minutes.
_MOST_PEAKS = 10_000

_TOP = (
    "name", "description", "includes", "lacks", "records", "limits", "response", "receivers", "defaults",
    "configurations", "tasks", "phrases",
)  # fmt: skip
_LIMITS = (
    "integration", "start_frequency", "bandwidth", "sample_rate", "bins", "shift", "feeds", "all_feeds",
    "equal_feeds_once",
)  # fmt: skip
_RESPONSE = ("gain", "zero", "full_scale", "rms", "edge", "slope", "dc", "spur", "cross", "drift")
_RECEIVER = ("code", "local_oscillator", "tsys", "mark", "beam", "offsets", "interference")
_COMB = ("first", "last", "spacing", "level")
_DEFAULTS = ("receiver", "feeds", "start_frequency", "bandwidth", "bins", "attenuation", "integration")
_TASK = ("command", "configuration", "duration", "initialises", "help")
_PHRASES = ("uninitialised", "running", "acquiring", "ready")


class _Shipped(Mapping[str, Instrument]):
    """The instruments of the package; a file is read at the first access."""

    def __getitem__(self, name: str) -> Instrument:
        if name not in _names():
            raise KeyError(name)
        return _shipped(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_names())

    def __len__(self) -> int:
        return len(_names())


INSTRUMENTS: Mapping[str, Instrument] = _Shipped()
"""The instruments of the package by name, in alphabetical order. `discos`, the default, has the configurations of both
spectrometers, and no limits before a configuration is loaded."""


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in _SHIPPED.glob("*.toml")))


@cache
def _shipped(name: str) -> Instrument:
    return _read(_SHIPPED / f"{name}.toml", ())


def shipped_instruments() -> Iterator[tuple[str, str]]:
    """Yield the name and the description of each instrument of the package, in alphabetical order."""
    for name, instrument in INSTRUMENTS.items():
        yield name, instrument.description


def profile_text(name: str) -> str:
    """Return the text of the TOML profile of an instrument of the package, to be copied.

    Parameters
    ----------
    name
        A name of INSTRUMENTS.

    Raises
    ------
    InstrumentError
        If there is no instrument of this name.
    """
    if name not in INSTRUMENTS:
        raise InstrumentError(f"unknown instrument {name!r}{did_you_mean(name, INSTRUMENTS, listed=True)}")
    return (_SHIPPED / f"{name}.toml").read_text(encoding="utf-8")


def instrument_of(name_or_path: str | Path) -> Instrument:
    """Return an instrument by its name or from a TOML file.

    Parameters
    ----------
    name_or_path
        A name of INSTRUMENTS, or the path of a profile.

    Raises
    ------
    InstrumentError
        If there is no such instrument or file, or if the profile is invalid; the message says what is accepted.
    """
    return _found(str(name_or_path), Path(), ())


def _found(name: str, folder: Path, included_by: tuple[Path, ...]) -> Instrument:
    """Return the instrument of that name, or of that file in the folder."""
    if name in INSTRUMENTS:
        return INSTRUMENTS[name]
    path = folder / name
    if not name or (os.sep not in name and not path.suffix and not os.path.exists(path)):
        known = ", ".join(INSTRUMENTS)
        raise InstrumentError(f"unknown instrument {name!r}: known are {known}, or name a TOML file")
    return _read(path, included_by)


def _read(path: Path, included_by: tuple[Path, ...]) -> Instrument:
    """Read an instrument from a file that is included by the files of `included_by`. Errors begin with the file."""
    values = read_toml(path, f"instrument {path}", InstrumentError)
    chain = (*included_by, path.resolve())
    if chain[-1] in included_by:
        raise InstrumentError(f"instrument {path}: it includes itself, by {included_by[-1].name}")
    try:
        table = Table(values, "", _TOP)
        return _instrument(table, _included(table, path.parent, chain))
    except InstrumentError as problem:
        raise InstrumentError(f"instrument {path}: {problem}") from None


def _included(table: Table, folder: Path, chain: tuple[Path, ...]) -> dict[str, Configuration]:
    """Return the configurations of all instruments that a file includes, by name."""
    found: dict[str, Configuration] = {}
    names = table.each("includes", "a list of instruments, by name or file", _text, ())
    for name in names:
        instrument = _found(name, folder, chain)
        if twice := found.keys() & instrument.configurations.keys():
            raise InstrumentError(f"includes: {min(twice)} is in {name} and in another of {', '.join(names)}")
        for configuration in instrument.configurations.values():
            defined_by = configuration.instrument or instrument.name
            found[configuration.name] = replace(configuration, instrument=defined_by)
    return found


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _instrument(table: Table, included: dict[str, Configuration]) -> Instrument:
    name = table.word("name")
    limits = _limits(table.table("limits", _LIMITS)) if "limits" in table else None
    response = _response(table.table("response", _RESPONSE))
    receivers = {key: _receiver(each) for key, each in table.named("receivers", _RECEIVER)}
    configurations = {**included, **_configurations(table, limits, response, receivers)}
    tasks = _tasks(table, configurations)
    if "phrases" in table and not tasks:
        raise InstrumentError("phrases are for an instrument that has [[tasks]], which this one has not")
    first = next(iter(receivers.values()), Receiver())
    return Instrument(
        name=name,
        unconfigured=Configuration(UNCONFIGURED, limits, integration=0, receiver=first, response=response),
        configurations=MappingProxyType(configurations),
        lacks=frozenset(table.each("lacks", f"a list of commands: {', '.join(_LACKABLE)}", _lackable, ())),
        tasks=tasks,
        phrases=_phrases(table.table("phrases", _PHRASES)),
        description=table.line("description"),
        records=table.flag("records", True),
    )


# Not `version`, which the server answers, and not `status`, which the server needs itself.
_LACKABLE = tuple(name for name in COMMANDS if name not in ("version", "status"))


def _lackable(value: Any) -> str | None:
    return value if isinstance(value, str) and value in _LACKABLE else None


def _limits(table: Table) -> Limits:
    usual = Limits(start_frequency=(0.0, 0.0), bins=())
    feeds = table.whole("feeds", usual.feeds, least=1, most=_MOST_FEEDS)
    return Limits(
        start_frequency=table.numbers("start_frequency", least=0.0, most=_MOST_MHZ, unit="MHz"),
        bins=table.each("bins", f"a list of whole numbers from 1 to {_MOST_BINS}", _bins),
        bandwidth=table.numbers("bandwidth", usual.bandwidth, least=0.0, most=_MOST_MHZ, unit="MHz"),
        sample_rate=table.numbers("sample_rate", usual.sample_rate, least=0.0, most=_MOST_MHZ, unit="MHz"),
        integration=table.wholes("integration", usual.integration, least=1, most=_INTEGER, unit="ms"),
        shift=table.wholes("shift", usual.shift, least=-_INTEGER, most=_INTEGER),
        feeds=feeds,
        all_feeds=table.whole("all_feeds", least=feeds, most=_INTEGER) if "all_feeds" in table else None,
        equal_feeds_once=table.flag("equal_feeds_once", False),
    )


def _bins(value: Any) -> int | None:
    return as_whole(value, 1, _MOST_BINS)


def _response(table: Table) -> Response:
    usual = Response()
    return Response(
        gain=table.number("gain", usual.gain, above=0.0, most=_MOST_COUNTS, unit="counts per K and MHz"),
        zero=table.number("zero", usual.zero, least=0, most=_FULL_SCALE, unit="counts"),
        full_scale=table.whole("full_scale", usual.full_scale, least=1, most=_FULL_SCALE, unit="counts"),
        rms=table.number("rms", usual.rms, above=0.0, most=_FULL_SCALE, unit="counts"),
        edge=table.number("edge", usual.edge, least=1e-6, most=1),
        slope=table.number("slope", usual.slope, least=-50, most=50),
        dc=table.number("dc", usual.dc, least=0, most=_MOST_FACTOR),
        spur=table.number("spur", usual.spur, least=0, most=_MOST_FACTOR),
        cross=table.number("cross", usual.cross, least=0, most=1),
        drift=table.number("drift", usual.drift, least=0, most=1),
    )


def _receiver(table: Table) -> Receiver:
    offsets = table.each("offsets", "a list of [x, y] in arcmin, [0, 0] first: one for each feed", _offset)
    if not offsets or offsets[0] != (0.0, 0.0):
        raise table.wrong("offsets", "a list of [x, y] in arcmin, [0, 0] first: one for each feed")
    return Receiver(
        code=table.word("code"),
        local_oscillator=table.number("local_oscillator", least=0, most=_MOST_MHZ, unit="MHz"),
        tsys=table.numbers("tsys", above=0.0, most=_MOST_K, unit="K"),
        mark=table.numbers("mark", above=0.0, most=_MOST_K, unit="K"),
        beam=table.number("beam", above=0.0, most=_HALF_THE_SKY, unit="arcmin"),
        offsets=offsets,
        interference=tuple(_comb(each) for each in table.listed("interference", _COMB)),
    )


def _offset(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    x, y = (as_number(each, None, -_HALF_THE_SKY, _HALF_THE_SKY) for each in value)
    return None if x is None or y is None else (x, y)


def _comb(table: Table) -> Comb:
    first = table.number("first", above=0.0, most=_MOST_MHZ, unit="MHz")
    last = table.number("last", least=first, most=_MOST_MHZ, unit="MHz")
    spacing = table.number("spacing", above=0.0, most=_MOST_MHZ, unit="MHz")
    if (last - first) / spacing > _MOST_PEAKS:
        raise table.wrong("spacing", f"so wide that there are at most {_MOST_PEAKS} peaks")
    return Comb(first, last, spacing, table.number("level", least=0, most=_MOST_K, unit="K"))


# -- configurations -----------------------------------------------------------------------------------


def _configurations(
    table: Table, limits: Limits | None, response: Response, receivers: Mapping[str, Receiver]
) -> dict[str, Configuration]:
    """Return the configurations that the file itself defines, by name."""
    found: dict[str, Configuration] = {}
    defaults = table.table("defaults", _DEFAULTS)
    for name, each in table.named("configurations", (*_DEFAULTS, "stokes_too"), defaults):
        _check_name(name, each.path)
        configuration = _configuration(name, each, limits, response, receivers)
        twin = replace(configuration, name=f"{name}S", stokes=True)
        for made in (configuration, twin) if each.flag("stokes_too", False) else (configuration,):
            if made.name in found:
                raise InstrumentError(f"{each.path} makes {made.name}, which is there already")
            found[made.name] = made
    return found


def _configuration(
    name: str,
    table: Table,
    limits: Limits | None,
    response: Response,
    receivers: Mapping[str, Receiver],
) -> Configuration:
    known = ", ".join(receivers) or "none yet"
    right = f"a name of a [receivers.NAME]: {known}"
    receiver = table.read("receiver", right, lambda key: receivers.get(key) if isinstance(key, str) else None)
    bandwidth = table.number("bandwidth", above=0.0, most=_MOST_MHZ, unit="MHz")
    start = table.number("start_frequency", 0.0, least=0, most=_MOST_MHZ, unit="MHz")
    bins = table.whole("bins", least=1, most=_MOST_BINS)
    integration = table.whole("integration", least=1, most=_INTEGER, unit="ms")
    if limits is not None:
        _check_within(table, "bandwidth", bandwidth, limits.bandwidth, "limits.bandwidth")
        low, high = limits.sample_rate
        _check_within(table, "bandwidth", bandwidth, (low / 2, high / 2), "half of limits.sample_rate")
        _check_within(table, "start_frequency", start, limits.start_frequency, "limits.start_frequency")
        _check_within(table, "integration", integration, limits.integration, "limits.integration")
        if bins not in limits.bins:
            raise table.wrong("bins", f"one of limits.bins, {' '.join(map(str, limits.bins))}")
    return Configuration(
        name=name,
        limits=limits,
        feeds=_feeds(table, limits, receiver),
        bandwidth=bandwidth,
        bins=bins,
        attenuation=table.number("attenuation", least=0, most=200, unit="dB"),
        start_frequency=start,
        integration=integration,
        receiver=receiver,
        response=response,
    )


def _check_name(name: str, where: str) -> None:
    """Check that the name can be an argument, and that clients which split replies at commas can read it."""
    # No slash, because the name is part of the folder names of recordings.
    if not is_word(name) or "/" in name or name == UNCONFIGURED:
        right = f"a name of ASCII without , ! and / of at most 64 characters, and not {UNCONFIGURED}"
        raise InstrumentError(f"{where} must be {right}")


def _check_within(table: Table, key: str, value: float, limits: tuple[float, float], what: str) -> None:
    low, high = limits
    if not low <= value <= high:
        raise table.wrong(key, f"within {what}, {low:.10g} to {high:.10g}")


def _feeds(table: Table, limits: Limits | None, receiver: Receiver) -> tuple[int, ...]:
    there = min(len(receiver.offsets), limits.feeds if limits is not None else _MOST_FEEDS)
    right = f"a list of different feeds from 0 to {there - 1}, as receiver and limits.feeds have them"
    feeds = table.each("feeds", right, lambda value: as_whole(value, 0, there - 1))
    if not feeds or len(set(feeds)) < len(feeds):
        raise table.wrong("feeds", right)
    return feeds


# -- tasks --------------------------------------------------------------------------------------------


def _tasks(table: Table, configurations: Mapping[str, Configuration]) -> tuple[Task, ...]:
    found: list[Task] = []
    for each in table.listed("tasks", _TASK):
        task = Task(
            command=each.read("command", _LEGAL, _command),
            configuration=each.word("configuration", ""),
            duration=each.number("duration", least=0, most=_YEAR, unit="s"),
            initialises=each.flag("initialises", False),
            help=each.line("help", ""),
        )
        if task.command in (other.command for other in found):
            raise InstrumentError(f"{each.where('command')}: {task.command} is there already")
        taken = [UNCONFIGURED, *configurations, *(other.configuration for other in found)]
        if task.configuration and task.configuration in taken:
            raise InstrumentError(f"{each.where('configuration')}: {task.configuration} is there already")
        found.append(task)
    return tuple(found)


_LEGAL = f"a name of letters, digits and hyphens, letter first, none of the protocol's own and not {RESET}"


def _command(value: Any) -> str | None:
    if not isinstance(value, str) or value in COMMANDS or value == RESET:
        return None
    return value if name_pattern.fullmatch(value) else None


def _phrases(table: Table) -> Phrases:
    usual = Phrases()
    running = table.word("running", usual.running, _LONGEST_PHRASE)
    if set("{}") & set(running.replace("{command}", "")):
        raise table.wrong("running", "text in which {command} alone stands in braces")
    return Phrases(
        uninitialised=table.word("uninitialised", usual.uninitialised, _LONGEST_PHRASE),
        running=running,
        acquiring=table.word("acquiring", usual.acquiring, _LONGEST_PHRASE),
        ready=table.word("ready", usual.ready, _LONGEST_PHRASE),
    )
