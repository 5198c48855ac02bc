"""Detects methods of a backend that cannot work, and describes what to write instead.

The functions only return texts. handlers.py logs them when it gets a backend, or after a method has failed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any

from discosbackend.backend import Backend
from discosbackend.commands import COMMANDS, Command
from discosbackend.coroutines import NOT_RUNNING

__all__ = ["asyncio_methods", "misspelt_methods", "not_a_method", "signature_problems"]

_HOOKS = {
    "server_started": "when the server listens",
    "server_stopping": "when the server shuts down",
    "quick_look": "while a page of --http is open",
    "telemetry_channels": "for each message of DISCOS telemetry",
}

# A name with at least this many letters is compared by its similarity; a shorter one may differ by one typing error.
_LONG = 8
# The minimum similarity of two long names, by difflib.
_ALIKE = 0.8

# The names of asyncio that need its running event loop. Others, such as CancelledError, do not.
_NEED_LOOP = frozenset(
    (
        "sleep",
        "wait",
        "wait_for",
        "timeout",
        "timeout_at",
        "gather",
        "shield",
        "as_completed",
        "create_task",
        "ensure_future",
        "TaskGroup",
        "to_thread",
        "get_running_loop",
        "open_connection",
        "open_unix_connection",
        "start_server",
        "start_unix_server",
        "create_subprocess_exec",
        "create_subprocess_shell",
    )
)


# -- methods that no command calls --------------------------------------------------------------------


def misspelt_methods(backend: object, own: Sequence[str] = ()) -> list[str]:
    """Return a sentence for each method whose name is probably a misspelling of a method that the server calls.

    Parameters
    ----------
    backend
        The backend.
    own
        The names of the methods that answer the backend's own commands.
    """
    known = {row.method for row in COMMANDS.values()} | _HOOKS.keys() | set(own)
    strangers = [name for name in _methods(type(backend)) if name not in known]
    if not strangers:
        return []
    missing = {name: meaning for name, meaning in _meanings() if not _has(backend, name)}
    found = []
    for name in strangers:
        if meant := _meant(name, missing):
            kind = type(backend).__name__
            found.append(f"no command calls {name}() of {kind}: did you mean {meant}(), {missing[meant]}?")
    return found


def _meanings() -> Iterator[tuple[str, str]]:
    for row in COMMANDS.values():
        if row.name != "version":
            yield row.method, f"which answers {row.name}"
    for name, when in _HOOKS.items():
        yield name, f"which is called {when}"


def _methods(kind: type) -> list[str]:
    """Return the names of the public methods that are not defined in this package, in the order of their definition."""
    found: dict[str, None] = {}
    for base in kind.__mro__:
        for name, member in vars(base).items():
            function = getattr(member, "__func__", member)
            if not name.startswith("_") and inspect.isfunction(function) and not _is_ours(function):
                found[name] = None
    return list(found)


def _is_ours(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).partition(".")[0] == __package__


def _has(backend: object, name: str) -> bool:
    """Return whether a backend overrides this method. Static lookup, because a `__getattr__` may return anything."""
    missing = object()
    member = inspect.getattr_static(backend, name, missing)
    return member is not missing and member is not vars(Backend).get(name)


def _meant(name: str, missing: dict[str, str]) -> str:
    """Return the missing method of which a name is probably a misspelling, "" if there is none."""
    plain = _plain(name)
    by_plain = {_plain(method): method for method in missing}
    # Compare with the names of the commands too. Only the method park() differs from its command, `backend-park`.
    by_plain.update({_plain(row.name): row.method for row in COMMANDS.values() if row.method in missing})
    if plain in by_plain:
        return by_plain[plain]
    from difflib import SequenceMatcher

    best, likeness = "", 0.0
    for other, method in by_plain.items():
        if {plain[:3], other[:3]} == {"get", "set"}:
            # get_x is not a misspelt set_x.
            continue
        if len(other) < _LONG:
            alike = 1.0 if _is_one_slip(plain, other) else 0.0
        elif len(plain) >= _LONG - 1 and other.startswith(plain):
            alike = 1.0
        else:
            alike = SequenceMatcher(None, plain, other).ratio()
        if alike >= _ALIKE and alike > likeness:
            best, likeness = method, alike
    return best


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _is_one_slip(one: str, other: str) -> bool:
    """Return whether two words differ by one missing, additional or different letter, or by two swapped letters."""
    if abs(len(one) - len(other)) > 1:
        return False
    begin = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    one, other = one[begin:], other[begin:]
    return one[1:] == other[1:] or one[1:] == other or one == other[1:] or (one[1::-1] + one[2:] == other)


# -- methods that cannot take their arguments ---------------------------------------------------------


def signature_problems(row: Command, method: Callable[..., Any]) -> list[str]:
    """Return a sentence for each way in which a command would fail because of the signature of its method.

    Parameters
    ----------
    row
        The command.
    method
        The method that answers it.

    Returns
    -------
    problems
        The sentences, which also say what to write instead. Empty if the method can be called.
    """
    if _is_ours(method):
        return []
    name = row.method if row.name in COMMANDS else getattr(method, "__name__", row.method)
    instead = f"write `{_definition(row, method, name)}`"
    if inspect.isasyncgenfunction(method):
        return [f"{name}() is an async generator, which cannot be sent as a reply: return all values at once"]
    if _lacks_self(row, method):
        return [f"{name}() has no self, so that it cannot answer {row.name}: {instead}"]
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return []  # a function that is not written in Python may have no signature
    fewest = sum(not argument.optional or argument.default is not None for argument in row.arguments)
    found = []
    for count in sorted({fewest, len(row.arguments)}):
        try:
            signature.bind(*[None] * count)
        except TypeError as problem:
            if not (row.together and count):
                found.append(f"{name}() cannot answer {row.name} with {count} arguments: {problem}: {instead}")
    return found


def not_a_method(row: Command) -> str:
    """Return a sentence about an attribute that has the name of a command's method, but cannot be called."""
    instead = _definition(row, None, row.method)
    return f"{row.method} of the backend is not a method, so {row.name} is not supported: write `{instead}`"


def _parameters(row: Command) -> list[tuple[str, str]]:
    """Return the names of a method's parameters, each with the source text of its default, "" if it has none."""
    standard = vars(Backend).get(row.method)
    if row.name in COMMANDS and standard is not None:
        parameters = list(inspect.signature(standard).parameters.values())[1:]
        return [(each.name, "" if each.default is each.empty else repr(each.default)) for each in parameters]
    return [
        (each.name.replace("-", "_"), "None" if each.optional and each.default is None else "")
        for each in row.arguments
    ]


def _definition(row: Command, method: Callable[..., Any] | None, name: str) -> str:
    parts = [f"{parameter}={default}" if default else parameter for parameter, default in _parameters(row)]
    if _of_an_object(method):
        parts.insert(0, "self")
    return f"{'async ' * inspect.iscoroutinefunction(method)}def {name}({', '.join(parts)})"


def _of_an_object(method: Callable[..., Any] | None) -> bool:
    """Return whether the first parameter is self. It is not for a static method or a function in an attribute."""
    return method is None or inspect.ismethod(method)


def _lacks_self(row: Command, method: Callable[..., Any]) -> bool:
    if not inspect.ismethod(method) or not inspect.isfunction(method.__func__):
        return False
    parameters = list(inspect.signature(method.__func__).parameters.values())
    if not parameters:
        return True
    first = parameters[0]
    return first.kind is first.POSITIONAL_OR_KEYWORD and first.name in {name for name, _ in _parameters(row)}


# -- asyncio ------------------------------------------------------------------------------------------


def asyncio_methods(backend: object, own: Sequence[str] = ()) -> list[str]:
    """Return a sentence for each method that the server calls and that uses asyncio. Call it if asyncio does not run.

    The method itself is searched, and the coroutines of the same class that it names. Other functions are not searched.

    Parameters
    ----------
    backend
        The backend.
    own
        The names of the methods that answer the backend's own commands.
    """
    kind = type(backend)
    called = {row.method for row in COMMANDS.values()} | _HOOKS.keys() | set(own)
    return [
        f"{name}() of {kind.__name__} uses asyncio, but {NOT_RUNNING}"
        for name in _methods(kind)
        if name in called and _uses_asyncio(kind, name, set())
    ]


def _uses_asyncio(kind: type, method: str, seen: set[str]) -> bool:
    member = inspect.getattr_static(kind, method, None)
    function = inspect.unwrap(getattr(member, "__func__", member))
    if method in seen or not inspect.iscoroutinefunction(function):
        return False
    seen.add(method)
    names = set(_names_in(function.__code__))
    if any(_uses_asyncio(kind, name, seen) for name in names):
        return True
    for name in names:
        used = function.__globals__.get(name)
        if inspect.ismodule(used) and used.__name__ == "asyncio" and names & _NEED_LOOP:
            return True
        if str(getattr(used, "__module__", "")).startswith("asyncio.") and getattr(used, "__name__", "") in _NEED_LOOP:
            return True
    return False


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
