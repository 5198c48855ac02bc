"""Backends of the user's own, by MODULE:NAME on a command line: finding them, and saying in a line why not."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from types import ModuleType
from typing import Any

from discosbackend.commands import COMMANDS
from discosbackend.toml import did_you_mean

__all__ = ["CannotServe", "find", "in_one_line", "load"]


class CannotServe(Exception):
    """Why a command line cannot be served, in one line."""


def load(name: str) -> Any:
    """The backend that --backend means: an instance, made here if NAME is a class or a function."""
    found = find("--backend", name)
    if inspect.isclass(found) or inspect.isroutine(found) or isinstance(found, functools.partial):
        found = _made(found, name.partition(":")[2])
    elif inspect.ismodule(found):
        raise CannotServe(f"{name!r} is a module: name a class in it, such as {found.__name__}:{_class_in(found)}")
    try:
        methods = [getattr(found, row.method, None) for row in COMMANDS.values()]
    except Exception as problem:
        raise CannotServe(f"{name!r} cannot be served: {in_one_line(problem)}") from problem
    if not any(map(callable, methods)):
        raise CannotServe(f"{name!r} has none of the protocol's methods: status, start, set_section and so on")
    return found


def _made(maker: Any, name: str) -> Any:
    """What a class or a function makes when it is called without arguments."""
    if inspect.iscoroutinefunction(maker):
        raise CannotServe(f"{name} is `async def`: --backend needs an ordinary function that returns a backend")
    if needed := _needed_arguments(maker):
        raise CannotServe(
            f"{name} needs arguments ({', '.join(needed)}), and --backend gives it none: make a function without any "
            f"that returns {name}(...), and name that"
        )
    try:
        made = maker()
    except BaseException as problem:
        raise CannotServe(f"cannot make a {name}: {in_one_line(problem)}") from problem
    if made is None:
        raise CannotServe(f"{name}() returned None, which is no backend: return an instance of your class")
    if inspect.isclass(made):
        raise CannotServe(f"{name}() returned a class, {made.__name__}: return an instance, {made.__name__}()")
    return made


def _needed_arguments(maker: Any) -> list[str]:
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return []  # what is not written in Python need not have a signature
    return [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]


def _class_in(module: ModuleType) -> str:
    classes = [
        name
        for name, member in vars(module).items()
        if inspect.isclass(member) and member.__module__ == module.__name__
    ]
    return classes[0] if classes else "MyBackend"


def find(option: str, name: str) -> Any:
    """What MODULE:NAME means; the current folder is searched too. CannotServe, with the option, where nothing is."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or module_name.endswith(".py"):
        raise CannotServe(f"{option} {name!r} is not MODULE:NAME, such as mybackend:MyBackend (without .py)")
    # A backend lies where its author works. Last, so that no file there is run in place of an installed module.
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name == module_name.partition(".")[0]:
            why = f"it is neither installed nor in the current folder, {here}"
        else:
            why = in_one_line(problem)
        raise CannotServe(f"cannot import {module_name!r}: {why}") from problem
    except BaseException as problem:
        raise CannotServe(f"cannot import {module_name!r}: {in_one_line(problem)}") from problem
    module = found
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CannotServe(f"no {attribute!r} in {module_name!r}{_why_not(module, found, part, here)}") from None
        except Exception as problem:
            raise CannotServe(f"no {attribute!r} in {module_name!r}: {in_one_line(problem)}") from problem
    return found


def _why_not(module: ModuleType, where: Any, name: str, here: str) -> str:
    """What to say of a name that is not there: which file was looked at, and what may have been meant."""
    file = getattr(module, "__file__", None)
    which = "" if file is None else f", which is {file}"
    mine = os.path.join(here, *module.__name__.split("."))
    for path in (f"{mine}.py", os.path.join(mine, "__init__.py")):
        if os.path.exists(path) and not (file is not None and os.path.samefile(path, file)):
            return (
                f"{which}: what is installed goes before the current folder, so give your "
                f"{os.path.relpath(path, here)} another name"
            )
    known = [each for each in vars(where) if not each.startswith("_")] if hasattr(where, "__dict__") else []
    return which + did_you_mean(name, known)


def in_one_line(problem: BaseException) -> str:
    """An exception's class and text, whatever that is, without line breaks."""
    try:
        return " ".join(f"{type(problem).__name__}: {problem}".split())
    except Exception:  # noqa: BLE001  # whatever a foreign __str__ raises
        return type(problem).__name__
