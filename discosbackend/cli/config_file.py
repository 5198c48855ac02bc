"""The option --config of a program: a TOML file that has the values of other options.

Everything is derived from the program's own argument parser, so a new option can be used in the file without further
code. A line of the file means what the option means on the command line. The parser itself checks the values, so the
error messages are the same too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from discosbackend.log import printable
from discosbackend.toml import did_you_mean, read_toml

__all__ = ["ConfigError", "errors_name", "parse_with_file"]


class ConfigError(Exception):
    """The reason why a configuration file cannot be used, in one line."""


class _Absent(list[Any]):
    """The value of an option that the command line does not contain, as an action of argparse sees it."""

    def __add__(self, other: Any) -> Any:
        # The action `count` adds 1.
        return other


def parse_with_file(
    parser: argparse.ArgumentParser, arguments: Sequence[str], rivals: Sequence[tuple[str, str]] = ()
) -> argparse.Namespace:
    """Parse a command line, with the file that its option --config names. Exit with status 2 if either is not valid.

    The command line has precedence: an option on the command line replaces that of the file, also if it is repeatable.
    It replaces the options of the file that contradict it, too.

    Parameters
    ----------
    parser
        The parser. It has no required positional arguments.
    arguments
        The command line without the program's name.
    rivals
        Pairs of options that contradict each other, in addition to the mutually exclusive groups of the parser: the
        names in the namespace, such as ("listen", "port").

    Returns
    -------
    options
        The options. `config` is the name of the file, or None.
    """
    given = _given(parser, arguments)
    if "config" not in given:
        return parser.parse_args(arguments)
    name = given["config"]
    try:
        table = read_toml(Path(name), f"--config {name}", ConfigError)
        lines = [(action, _as_arguments(key, value, action)) for key, value, action in _entries(parser, table)]
    except ConfigError as problem:
        _refuse(parser, name, str(problem))
    with _nothing_required(parser), errors_name(parser, name):
        # The whole file is checked, also what the command line replaces.
        parser.parse_args([argument for _, each in lines for argument in each])
    replaced = _replaced(parser, given, rivals)
    kept = [argument for action, each in lines if action.dest not in replaced for argument in each]
    return parser.parse_args([*kept, *arguments])


def _given(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of the options that a command line contains, by their names in the namespace."""
    absent = _Absent()
    # Unlike other defaults, the attributes of a given namespace do not change the text of --help.
    namespace = argparse.Namespace(**{action.dest: absent for action in _actions(parser)})
    with _nothing_required(parser):
        parser.parse_args(arguments, namespace)
    return {name: value for name, value in vars(namespace).items() if value is not absent}


def _entries(parser: argparse.ArgumentParser, table: dict[str, Any]) -> Iterator[tuple[str, Any, argparse.Action]]:
    """Return the keys and values of a file with their options. Raise ConfigError for a key that is not an option."""
    options = {
        name.removeprefix("--"): action
        for action in _actions(parser)
        for name in action.option_strings
        if name.startswith("--")
    }
    for key, value in table.items():
        if key not in options:
            if isinstance(value, dict):
                raise ConfigError(f"[{key}] is a table, and the file has none: write the options without a table")
            raise ConfigError(f"{key!r} is no option{did_you_mean(key, options)}")
        if options[key].dest == "config":
            raise ConfigError("'config' can be given on the command line only: a file cannot name another one")
        yield key, value, options[key]


def _as_arguments(key: str, value: Any, action: argparse.Action) -> list[str]:
    """Return the arguments that a line of the file stands for. Raise ConfigError if the value has a wrong type."""
    option = f"--{key}"
    if isinstance(action, argparse.BooleanOptionalAction):
        other = f"--{key.removeprefix('no-')}" if key.startswith("no-") else f"--no-{key}"
        return [option if _boolean(key, value) else other]
    if action.nargs == 0:
        return [option] if _boolean(key, value) else []
    if action.nargs == argparse.OPTIONAL and isinstance(value, bool):
        return [option] if value else []
    # argparse has no public names for these.
    repeatable = isinstance(action, argparse._AppendAction)  # noqa: SLF001
    if repeatable or action.nargs not in (None, argparse.OPTIONAL):
        if not isinstance(value, list):
            raise ConfigError(f"{key} must be an array, such as {key} = [{_toml(value)}]")
        texts = [_text(f"an element of {key}", element) for element in value]
        if repeatable:
            return [f"{option}={text}" for text in texts]
        return [option, *texts]
    return [f"{option}={_text(key, value)}"]


def _boolean(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, not {_toml(value)}")
    return value


def _text(what: str, value: Any) -> str:
    """Return a value as the command line would contain it."""
    if isinstance(value, str):
        if "\0" in value:
            # No command line can contain it, so no option expects it.
            raise ConfigError(f"{what} contains the character NUL")
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(f"{what} must be a text or a number, not {_toml(value)}")


def _toml(value: Any) -> str:
    """Return a value, or its kind, for an error message."""
    for kind, name in ((bool, str(value).lower()), (list, "an array"), (dict, "a table"), (str, f'"{value}"')):
        if isinstance(value, kind):
            return name
    return str(value)


def _replaced(parser: argparse.ArgumentParser, given: dict[str, Any], rivals: Sequence[tuple[str, str]]) -> set[str]:
    """Return the options that the command line replaces, by their names in the namespace."""
    groups = [{action.dest for action in group._group_actions} for group in parser._mutually_exclusive_groups]  # noqa: SLF001
    groups += [set(pair) for pair in rivals]
    return set(given).union(*(group for group in groups if group & set(given)))


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the options of a parser. argparse has no public function for this."""
    return [action for action in parser._actions if action.option_strings]  # noqa: SLF001


@contextmanager
def _nothing_required(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Make the required options and groups of a parser optional, in the context."""
    found: list[Any] = [*_actions(parser), *parser._mutually_exclusive_groups]  # noqa: SLF001
    found = [each for each in found if each.required]
    for each in found:
        each.required = False
    try:
        yield
    finally:
        for each in found:
            each.required = True


@contextmanager
def errors_name(parser: argparse.ArgumentParser, name: str, arguments: Sequence[str] | None = None) -> Iterator[None]:
    """Inside of the `with` block, make the errors of a parser name the file.

    Parameters
    ----------
    parser
        The parser.
    name
        The name of the file.
    arguments
        The command line, if the errors may also be caused by its options. Then the errors name both, unless the
        command line has no other option than --config.
    """
    if arguments is not None and set(_given(parser, arguments)) - {"config"}:
        name = f"{name}, together with the command line"
    error: Callable[[str], NoReturn] = lambda message: _refuse(parser, name, message)  # noqa: E731
    # An attribute of the instance precedes the method.
    vars(parser)["error"] = error
    try:
        yield
    finally:
        del vars(parser)["error"]


def _refuse(parser: argparse.ArgumentParser, name: str, message: str) -> NoReturn:
    # Without the usage of the options: the mistake is in the file.
    text = message if message.startswith("--config ") else f"--config {name}: {message}"
    parser.exit(2, f"{parser.prog}: {printable(text)}\n")
