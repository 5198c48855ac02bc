"""Finds a backend of the user's own by its MODULE:NAME on a command line. Every error is one line."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from discosbackend.commands import COMMANDS
from discosbackend.errors import in_one_line
from discosbackend.toml import did_you_mean

__all__ = ["CannotServe", "find", "load"]


class CannotServe(Exception):
    """The reason why a command line cannot be served, in one line."""


def load(name: str, prepare: Callable[[Any], None] = lambda kind: None) -> Any:
    """Return the backend that the argument of --backend names.

    Parameters
    ----------
    name
        MODULE:NAME. NAME is an instance, or a class or function, which is called without arguments.
    prepare
        A function that is called with the class, if NAME is one, before the backend is made.

    Raises
    ------
    CannotServe
        If there is no such backend, or it cannot be made.
    """
    found = find("--backend", name)
    if inspect.isclass(found):
        prepare(found)
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
    """Call a class or function without arguments, and return the backend that it makes."""
    if inspect.iscoroutinefunction(maker):
        raise CannotServe(f"{name} is `async def`: --backend needs an ordinary function that returns a backend")
    if needed := _needed_arguments(maker):
        raise CannotServe(
            f"{name} needs arguments ({', '.join(needed)}), but --backend calls it without any: write a function "
            f"without arguments that returns {name}(...), and name that one"
        )
    try:
        made = maker()
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise CannotServe(f"cannot create {name}: {in_one_line(problem)}") from problem
    if made is None:
        raise CannotServe(f"{name}() returned None instead of a backend: return an instance of your class")
    if inspect.isclass(made):
        raise CannotServe(f"{name}() returned a class, {made.__name__}: return an instance, {made.__name__}()")
    return made


def _needed_arguments(maker: Any) -> list[str]:
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return []  # a function that is not written in Python may have no signature
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
    """Return the object that MODULE:NAME names. The current folder is searched too.

    Parameters
    ----------
    option
        The option, for error messages.
    name
        MODULE:NAME.

    Raises
    ------
    CannotServe
        If the module cannot be imported or has no such name.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or module_name.endswith(".py"):
        raise CannotServe(f"{option} {name!r} is not MODULE:NAME, such as mybackend:MyBackend (without .py)")
    # The current folder comes last, so that a file there cannot replace an installed module.
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
    except KeyboardInterrupt:
        raise
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
    """Return the end of the error message for a name that does not exist: the file, and a similar name."""
    file = getattr(module, "__file__", None)
    which = "" if file is None else f", which is {file}"
    mine = os.path.join(here, *module.__name__.split("."))
    for path in (f"{mine}.py", os.path.join(mine, "__init__.py")):
        if os.path.exists(path) and not (file is not None and os.path.samefile(path, file)):
            return (
                f"{which}: an installed module precedes the current folder, so give your "
                f"{os.path.relpath(path, here)} another name"
            )
    known = [each for each in vars(where) if not each.startswith("_")] if hasattr(where, "__dict__") else []
    return which + did_you_mean(name, known)
