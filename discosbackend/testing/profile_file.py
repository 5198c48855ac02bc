"""Reads profiles from TOML files, whose keys are the attributes of Profile, and lists the profiles of this package.

The attributes are described in profile. This module checks whether the values in a file are valid.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

from discosbackend.commands import COMMANDS
from discosbackend.errors import HandlerException
from discosbackend.grammar import REQUEST, Message
from discosbackend.testing.command_cases import own_cases
from discosbackend.testing.conformance import CASES
from discosbackend.testing.errors import ProfileError
from discosbackend.testing.profile import Profile, rows_of
from discosbackend.testing.profile_commands import own_row
from discosbackend.toml import did_you_mean, read_toml
from discosbackend.values import path_text

__all__ = ["load_profile", "shipped_profiles"]

# A key that is not an attribute: a line about the instrument, which --profiles shows.
_DESCRIPTION = "description"

# The values that mean None in a file, because TOML has no None.
_ANY = {"invalid_configuration": "", "reply_limit": 0}

# The longest reply_timeout, which a socket must accept, and the longest of the other times, in seconds.
_DAY, _YEAR = 86400, 366 * 86400

_SHIPPED = files("discosbackend.testing") / "profiles"


def shipped_profiles() -> Iterator[tuple[str, str]]:
    """Yield the name and the description of every profile in the package, in alphabetical order."""
    for file in sorted(_SHIPPED.iterdir(), key=lambda file: file.name):
        name, dot, kind = file.name.rpartition(".")
        if (dot, kind) == (".", "toml"):
            yield name, tomllib.loads(file.read_text(encoding="utf-8"))[_DESCRIPTION]


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
    profile = Profile()
    for key, value in values.items():
        try:
            checked = _checked(key, value)
        except ValueError as problem:
            raise ProfileError(f"profile {name_or_path}: {problem}") from None
        if key != _DESCRIPTION:
            setattr(profile, key, checked)
    try:
        _check_names(profile, values)
    except ValueError as problem:
        raise ProfileError(f"profile {name_or_path}: {problem}") from None
    return profile


def _checked(key: str, value: Any) -> Any:
    """Return the value of the attribute for a value in a file.

    Raises
    ------
    ValueError
        If the value is not valid. The text says what is allowed.
    """
    if key not in _KINDS:
        raise ValueError(f"{key} is not known{did_you_mean(key, _KINDS)}")
    if key in _ANY and value == _ANY[key] and not isinstance(value, bool):
        return None
    may_be, right = _KINDS[key]
    if not may_be(value):
        raise ValueError(f"{key} must be {right}, not {_shown(value)}")
    if key == "own_commands":
        rows = tuple(own_row(name, table) for name, table in value.items())
        rows_of(rows)
        return rows
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    """Return the text of a value for an error message, at most 63 characters."""
    text = (
        "a table" if isinstance(value, dict) else str(value).lower() if value is True or value is False else repr(value)
    )
    return text if len(text) <= 60 else f"{text[:60]}..."


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
        raise ValueError(f"leave_out must be {_KINDS['leave_out'][1]}, not {_shown(left_out)}")
    for name, arguments in profile.valid_arguments.items():
        if name not in own:
            raise ValueError(f"[valid_arguments]: {name!r} is not in own_commands{did_you_mean(name, own)}")
        texts = own[name].to_wire([str(argument) for argument in arguments])
        if not all(map(_is_text, texts)):
            raise ValueError(f"valid_arguments must be {_KINDS['valid_arguments'][1]}, not {_shown(arguments)}")
        try:
            own[name].parse(texts)
        except HandlerException as problem:
            raise ValueError(f"[valid_arguments]: {problem}") from None


# -- the allowed values -------------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    """Return whether the value can be an argument of a request."""
    return isinstance(value, str) and Message(message_type=REQUEST, name="x", arguments=[value]).check_synthax()


def _is_path(value: Any) -> bool:
    """Return whether the value can be a path in a request."""
    return isinstance(value, str) and _is_text(path_text(value))


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != "" and value.isprintable()


def _is_integer(value: Any, least: float = -math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_seconds(value: Any, most: float = _YEAR) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most


def _are_feeds(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_integer, value))


def _is_section(value: Any) -> bool:
    if not isinstance(value, list) or any(isinstance(item, bool) for item in value):
        return False
    texts = [str(item) for item in value]
    try:
        COMMANDS["set-section"].parse(texts)
    except HandlerException:
        return False
    return all(map(_is_text, texts))


def _are_commands(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_arguments(value: Any) -> bool:
    """Return whether the value is a table with lists of arguments. Whether a request can have them is checked later."""
    return isinstance(value, dict) and all(
        isinstance(arguments, list) and not any(isinstance(item, bool) for item in arguments)
        for arguments in value.values()
    )


def _are_sentences(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_line, value.values()))


_TEXT = (_is_text, "text that a request can carry")
_NUMBER = (_is_integer, "a whole number")
_COUNT = (lambda value: _is_integer(value, 0), "a whole number, 0 or more")
_ABOVE_0 = (lambda value: _is_integer(value, 1), "a whole number above 0")
_SECONDS = (_is_seconds, "a number of seconds, 0 or more, at most a year")

_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    _DESCRIPTION: (_is_line, "one line of text"),
    "valid_configuration": _TEXT,
    "invalid_configuration": (_is_text, 'text that a request can carry, "" if any name is accepted'),
    "valid_integration": (_COUNT[0], "a whole number of milliseconds, 0 or more"),
    "valid_section": (_is_section, 'the seven arguments of set-section, each may be "*"'),
    "valid_feeds": (_are_feeds, "two feeds, such as [0, 1]"),
    "valid_shift": _NUMBER,
    "valid_interleave": _COUNT,
    "valid_filename": (_is_path, "a path that a request can carry"),
    "inputs": _ABOVE_0,
    "leave_out": (_are_commands, 'a list of commands of the protocol or of own_commands, such as ["backend-park"]'),
    "own_commands": (lambda value: isinstance(value, dict), "a table of commands, such as [own_commands.reset]"),
    "valid_arguments": (_are_arguments, "a table of own_commands, each with a list of arguments"),
    "clock_tolerance": _SECONDS,
    "lead": _SECONDS,
    "early_tolerance": _SECONDS,
    "late_tolerance": _SECONDS,
    "horizon": _SECONDS,
    "start_when_acquiring": _TEXT,
    "stop_when_idle": (lambda value: value in ("fail", "ok"), '"fail" or "ok"'),
    "reply_timeout": (
        lambda value: _is_seconds(value, _DAY) and value > 0,
        "a number of seconds above 0, at most a day",
    ),
    "reply_limit": (_ABOVE_0[0], "a number of bytes, 0 for any"),
    "protocol_version": _TEXT,
    "deviations": (_are_sentences, "a table of case ids, each with a sentence"),
}
