"""Reads profiles from TOML files, and lists the profiles of this package.

The keys are the attributes of Profile, whose annotations say what is allowed. This module checks the names of cases and
commands.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

from discosbackend.commands import Command
from discosbackend.errors import HandlerException
from discosbackend.schema import OneLine, expected, keys, path_of, read_values, wrong
from discosbackend.testing.command_cases import own_cases
from discosbackend.testing.conformance import CASES
from discosbackend.testing.errors import ProfileError
from discosbackend.testing.profile import Profile, is_text
from discosbackend.toml import did_you_mean, read_toml

__all__ = ["load_profile", "own_row", "shipped_profiles"]

# The values that mean None in a file, because TOML has no None.
_ANY = {"invalid_configuration": "", "reply_limit": 0}

_SHIPPED = files("discosbackend.testing") / "profiles"


class _Keys(Profile):
    """The keys of a file."""

    description: OneLine = ""
    """A line about the instrument, which --profiles shows."""


def shipped_profiles() -> Iterator[tuple[str, str]]:
    """Yield the name and the description of every profile in the package, in alphabetical order."""
    for file in sorted(_SHIPPED.iterdir(), key=lambda file: file.name):
        name, dot, kind = file.name.rpartition(".")
        if (dot, kind) == (".", "toml"):
            yield name, tomllib.loads(file.read_text(encoding="utf-8"))["description"]


def load_profile(name_or_path: str) -> Profile:
    """Load a profile of this package by its name, or a profile from a file.

    Parameters
    ----------
    name_or_path
        The name of a profile of this package, or the path of a TOML file.

    Returns
    -------
    Profile
        A profile with the values of the file. All other attributes have their defaults.

    Raises
    ------
    ProfileError
        If there is no such profile, or if a value in the file is not valid. The text says what is allowed.

    Examples
    --------
    >>> from discosbackend.testing.profile_file import load_profile
    >>> load_profile("sardara").valid_configuration
    'SK00'
    """
    names = [name for name, _ in shipped_profiles()]
    source = _SHIPPED / f"{name_or_path}.toml" if name_or_path in names else Path(name_or_path)
    if not source.is_file() and name_or_path.isidentifier():
        raise ProfileError(
            f"no profile {name_or_path!r}: choose one of {', '.join(names)}, or give the path of a TOML file"
        )
    values = read_toml(source, f"profile {name_or_path}", ProfileError)
    try:
        return _profile(values)
    except ValueError as problem:
        raise ProfileError(f"profile {name_or_path}: {problem}") from None


def _profile(values: dict[str, Any]) -> Profile:
    """Return the profile with the values of a file. Raise ValueError, with what is allowed, for an invalid one."""
    profile = Profile()
    given = {**values}
    for key, nothing in _ANY.items():
        if given.get(key) == nothing and given[key] is not False:
            given[key] = None
    own = given.pop("own_commands", None)
    vars(profile).update(read_values(_Keys, given, "", ValueError))
    vars(profile).pop("description", None)
    if own is not None:
        if not isinstance(own, Mapping):
            raise ValueError(wrong("own_commands", _expected("own_commands"), own))
        profile.own_commands = tuple(own_row(name, table) for name, table in own.items())
    _check_names(profile, values)
    return profile


def own_row(name: str, table: Any) -> Command:
    """Return the row of the command that a table `[own_commands.NAME]` describes.

    Parameters
    ----------
    name
        The name of the command.
    table
        The table, whose keys are attributes of Command, Argument and Field.

    Raises
    ------
    ValueError
        If the table is not valid. The text says what is allowed.

    Examples
    --------
    >>> from discosbackend.testing.profile_file import own_row
    >>> own_row("sweep", {"arguments": [{"name": "power", "type": "float", "unit": "dBm"}]}).needed
    1
    """
    where = path_of("own_commands", name)
    values = read_values(Command, table, where, ValueError)
    try:
        return Command(name, **values)
    except ValueError as problem:
        raise ValueError(f"{where}: {problem}") from None


def _expected(key: str) -> str:
    return expected(keys(Profile)[key])


def _check_names(profile: Profile, values: dict[str, Any]) -> None:
    """Check the names of cases and commands. This needs the whole profile, because own_commands adds such names.

    Raises
    ------
    ValueError
        If there is no such case or command, or if valid_arguments has wrong arguments.
    """
    own = profile.own_rows
    cases = [*CASES, *own_cases(own.values())]
    for pattern in profile.deviations:
        if not any(fnmatchcase(case_id, pattern) for case_id in cases):
            raise ValueError(f"no case is called {pattern!r} in [deviations]{did_you_mean(pattern, cases)}")
    left_out = values.get("leave_out", [])
    if not set(left_out) <= set(profile.commands):
        raise ValueError(wrong("leave_out", _expected("leave_out"), left_out))
    for name, arguments in profile.valid_arguments.items():
        if name not in own:
            raise ValueError(f"[valid_arguments]: {name!r} is not in own_commands{did_you_mean(name, own)}")
        texts = own[name].to_wire([str(argument) for argument in arguments])
        if not all(map(is_text, texts)):
            raise ValueError(wrong("valid_arguments", _expected("valid_arguments"), list(arguments)))
        try:
            own[name].parse(texts)
        except HandlerException as problem:
            raise ValueError(f"[valid_arguments]: {problem}") from None
