"""Reads the commands that only one backend has from a profile file: each table `[own_commands.NAME]` becomes a row.

The other keys of a profile file are read in profile_file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from discosbackend.commands import Argument, Command, Field
from discosbackend.toml import did_you_mean

__all__ = ["own_row"]

# The keys of each kind of table, and the types of their values.
_ARGUMENT = {
    "name": str,
    "type": str,
    "unit": str,
    "optional": bool,
    "wildcard": bool,
    "minimum": float,
    "maximum": float,
    "choices": object,
    "complaint": str,
}
_FIELD = {"name": str, "type": str, "unit": str, "repeated": bool, "unescaped": bool}
_COMMAND = {"arguments": list, "reply": list, "lane": str, "together": bool, "missing": str, "help": str}

_WORDS = {str: "text", bool: "true or false", float: "a number", list: "a list of tables", object: "a list"}


def own_row(name: str, table: Any) -> Command:
    """Return the row of the command that a table `[own_commands.NAME]` describes.

    Parameters
    ----------
    name
        The name of the command.
    table
        The value of the table, as tomllib returns it.

    Raises
    ------
    ValueError
        If the table is not valid. The text says what is allowed.

    Examples
    --------
    >>> from discosbackend.testing.profile_commands import own_row
    >>> own_row("sweep", {"arguments": [{"name": "power", "type": "float", "unit": "dBm"}]}).needed
    1
    """
    where = f"[own_commands.{name}]"
    values = _checked(table, _COMMAND, where)
    arguments = [_part(Argument, part, _ARGUMENT, f"arguments of {where}") for part in values.pop("arguments", [])]
    reply = [_part(Field, part, _FIELD, f"reply of {where}") for part in values.pop("reply", [])]
    try:
        return Command(name, tuple(arguments), tuple(reply), **values)
    except ValueError as problem:
        raise ValueError(f"{where}: {problem}") from None


def _part(kind: Any, table: Any, keys: Mapping[str, type], where: str) -> Any:
    """Return the Argument or the Field that a table describes."""
    values = _checked(table, keys, where)
    for key in ("name", "type"):
        if key not in values:
            raise ValueError(f"{where}: each needs a {key}")
    try:
        return kind(**values)
    except ValueError as problem:
        raise ValueError(f"{where}: {problem}") from None


def _checked(table: Any, keys: Mapping[str, type], where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ValueError(f"{where} must be a table with {', '.join(keys)}, not {table!r}")
    for key, value in table.items():
        if key not in keys:
            raise ValueError(f"{where}: {key} is not known{did_you_mean(key, keys, listed=True)}")
        # In Python, True is an int, and no int is a float.
        allowed = (int, float) if keys[key] is float else keys[key]
        if not isinstance(value, allowed) or (isinstance(value, bool) and keys[key] is not bool):
            raise ValueError(f"{where}: {key} must be {_WORDS[keys[key]]}, not {value!r}")
    return dict(table)
