"""Backends of the user's own, by MODULE:NAME on a command line: finding them, and saying in a line why not."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

from discosbackend.commands import COMMANDS

__all__ = ["CannotServe", "find", "in_one_line", "load"]


class CannotServe(Exception):
    """Why a command line cannot be served, in one line."""


def load(name: str) -> Any:
    """The backend that --backend means: an instance, made here if NAME is a class."""
    found = find("--backend", name)
    if inspect.isclass(found):
        try:
            found = found()
        except BaseException as problem:
            raise CannotServe(f"cannot make a {name.partition(':')[2]}: {in_one_line(problem)}") from problem
    try:
        methods = [getattr(found, row.method, None) for row in COMMANDS.values()]
    except Exception as problem:
        raise CannotServe(f"{name!r} cannot be served: {in_one_line(problem)}") from problem
    if not any(map(callable, methods)):
        raise CannotServe(f"{name!r} has none of the protocol's methods: status, start, set_section and so on")
    return found


def find(option: str, name: str) -> Any:
    """What MODULE:NAME means; the current folder is searched too. CannotServe, with the option, where nothing is."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or module_name.endswith(".py"):
        raise CannotServe(f"{option} {name!r} is not MODULE:NAME, such as mybackend:MyBackend (without .py)")
    # As `python -m` does: a backend lies where its author works.
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except BaseException as problem:
        raise CannotServe(f"cannot import {module_name!r}: {in_one_line(problem)}") from problem
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as problem:
            raise CannotServe(f"no {attribute!r} in {module_name!r}: {in_one_line(problem)}") from problem
    return found


def in_one_line(problem: BaseException) -> str:
    """An exception's class and text, whatever that is, without line breaks."""
    try:
        return " ".join(f"{type(problem).__name__}: {problem}".split())
    except Exception:  # noqa: BLE001  # whatever a foreign __str__ raises
        return type(problem).__name__
