"""Reads instruments from TOML profiles: those of the package, in simulator/profiles, and those of the user.

model defines the records and, in their annotations, the keys. Comments in the profiles explain the keys, since users
copy these files. This module checks what depends on several keys, such as a value that is outside the limits of the
instrument.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from discosbackend.schema import path_of, read, wrong
from discosbackend.simulator.errors import InstrumentError
from discosbackend.simulator.instrument.model import (
    MOST_FEEDS,
    UNCONFIGURED,
    Configuration,
    ConfigurationKeys,
    Instrument,
    ProfileKeys,
    Receiver,
    is_word,
)
from discosbackend.toml import did_you_mean, read_toml

__all__ = ["INSTRUMENTS", "instrument_of", "profile_text", "shipped_instruments"]

_SHIPPED = Path(__file__).parents[1] / "profiles"

# The most peaks of a comb; with a mistyped spacing a dump would take minutes.
_MOST_PEAKS = 10_000


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
        profile = read(ProfileKeys, values, "", InstrumentError)
        if "phrases" in values and not profile.tasks:
            raise InstrumentError("phrases are for an instrument that has [[tasks]], which this one has not")
        return _instrument(profile, _included(profile.includes, path.parent, chain))
    except InstrumentError as problem:
        raise InstrumentError(f"instrument {path}: {problem}") from None


def _included(names: tuple[str, ...], folder: Path, chain: tuple[Path, ...]) -> dict[str, Configuration]:
    """Return the configurations of all instruments that a file includes, by name."""
    found: dict[str, Configuration] = {}
    for name in names:
        instrument = _found(name, folder, chain)
        if twice := found.keys() & instrument.configurations.keys():
            raise InstrumentError(f"includes: {min(twice)} is in {name} and in another of {', '.join(names)}")
        for configuration in instrument.configurations.values():
            defined_by = configuration.instrument or instrument.name
            found[configuration.name] = replace(configuration, instrument=defined_by)
    return found


def _instrument(profile: ProfileKeys, included: dict[str, Configuration]) -> Instrument:
    limits = profile.limits
    if limits is not None and limits.all_feeds is not None and limits.all_feeds < limits.feeds:
        raise InstrumentError(wrong("limits.all_feeds", f"limits.feeds, {limits.feeds}, or more", limits.all_feeds))
    if set("{}") & set(profile.phrases.running.replace("{command}", "")):
        right = "text in which {command} alone stands in braces"
        raise InstrumentError(wrong("phrases.running", right, profile.phrases.running))
    for name, receiver in profile.receivers.items():
        _check_interference(receiver, path_of("receivers", name))
    configurations = {**included, **_configurations(profile)}
    _check_tasks(profile, configurations)
    first = next(iter(profile.receivers.values()), Receiver())
    return Instrument(
        name=profile.name,
        unconfigured=Configuration(UNCONFIGURED, limits, integration=0, receiver=first, response=profile.response),
        configurations=MappingProxyType(configurations),
        lacks=frozenset(profile.lacks),
        tasks=profile.tasks,
        phrases=profile.phrases,
        description=profile.description,
        records=profile.records,
    )


def _check_interference(receiver: Receiver, where: str) -> None:
    for number, comb in enumerate(receiver.interference):
        path = f"{where}.interference[{number}]"
        if comb.last < comb.first:
            raise InstrumentError(wrong(f"{path}.last", f"first, {comb.first:.10g} MHz, or more", comb.last))
        if (comb.last - comb.first) / comb.spacing > _MOST_PEAKS:
            right = f"so wide that there are at most {_MOST_PEAKS} peaks"
            raise InstrumentError(wrong(f"{path}.spacing", right, comb.spacing))


def _check_tasks(profile: ProfileKeys, configurations: Mapping[str, Configuration]) -> None:
    commands: set[str] = set()
    names = {UNCONFIGURED, *configurations}
    for number, task in enumerate(profile.tasks):
        for key, name, taken in (("command", task.command, commands), ("configuration", task.configuration, names)):
            if name in taken:
                raise InstrumentError(f"tasks[{number}].{key}: {name} is there already")
            if name:
                taken.add(name)


# -- configurations -----------------------------------------------------------------------------------


def _configurations(profile: ProfileKeys) -> dict[str, Configuration]:
    """Return the configurations that the file itself defines, by name."""
    found: dict[str, Configuration] = {}
    for name, table in profile.configurations.items():
        path = path_of("configurations", name)
        # No slash, because the name is part of the folder names of recordings. Clients split replies at commas.
        if not is_word(name) or "/" in name or name == UNCONFIGURED:
            right = f"a name of ASCII without , ! and / of at most 64 characters, and not {UNCONFIGURED}"
            raise InstrumentError(f"{path} must be {right}")
        keys = read(ConfigurationKeys, table, path, InstrumentError, behind=("defaults", profile.defaults))
        _check_configuration(keys, profile, table, path)
        own = ("feeds", "bandwidth", "bins", "attenuation", "start_frequency", "integration")
        configuration = Configuration(
            name,
            profile.limits,
            receiver=profile.receivers[keys.receiver],
            response=profile.response,
            **{key: getattr(keys, key) for key in own},
        )
        twin = replace(configuration, name=f"{name}S", stokes=True)
        for made in (configuration, twin) if keys.stokes_too else (configuration,):
            if made.name in found:
                raise InstrumentError(f"{path} makes {made.name}, which is there already")
            found[made.name] = made
    return found


def _check_configuration(keys: ConfigurationKeys, profile: ProfileKeys, table: Mapping[str, Any], path: str) -> None:
    """Check a configuration against the receivers and the limits of its file."""

    def require(valid: bool, key: str, right: str) -> None:
        if not valid:
            where, values = (path, table) if key in table else ("defaults", profile.defaults)
            raise InstrumentError(wrong(path_of(where, key), right, values[key]))

    limits, receivers = profile.limits, profile.receivers
    known = ", ".join(receivers) or "none yet"
    require(keys.receiver in receivers, "receiver", f"a name of a [receivers.NAME]: {known}")
    last = min(len(receivers[keys.receiver].offsets), MOST_FEEDS if limits is None else limits.feeds) - 1
    right = f"a list of different feeds from 0 to {last}, as receiver and limits.feeds have them"
    require(0 < len(set(keys.feeds)) == len(keys.feeds) and max(keys.feeds) <= last, "feeds", right)
    if limits is None:
        return
    half = (limits.sample_rate[0] / 2, limits.sample_rate[1] / 2)
    for key, (least, most), what in (
        ("bandwidth", limits.bandwidth, "limits.bandwidth"),
        ("bandwidth", half, "half of limits.sample_rate"),
        ("start_frequency", limits.start_frequency, "limits.start_frequency"),
        ("integration", limits.integration, "limits.integration"),
    ):
        require(least <= getattr(keys, key) <= most, key, f"within {what}, {least:.10g} to {most:.10g}")
    require(keys.bins in limits.bins, "bins", f"one of limits.bins, {' '.join(map(str, limits.bins))}")
