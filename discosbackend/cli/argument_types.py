"""The options that several programs have, such as --config and --version, and a type of arguments."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from discosbackend._version import __protocol_version__, __version__

__all__ = ["REPORTS", "add_config", "add_report_options", "add_version", "errors_name_file", "not_negative", "parse"]


REPORTS = {
    "junit": "write a report for a build server, in JUnit's XML format",
    "json": "write a report for another program, with all details",
    "html": "write a report to read and pass on, as one web page",
}
"""The help of the options for reports that are written to files, by their names."""


def add_report_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of REPORTS."""
    for name, text in REPORTS.items():
        group.add_argument(f"--{name}", metavar="FILE", help=text)


def not_negative(text: str, what: str) -> float:
    """Convert an argument to a finite number, 0 or more. Raise ArgumentTypeError if it is not `what`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add the option --version, which prints the versions of the package and of the protocol."""
    parser.add_argument(
        "--version",
        action="version",
        version=f"%(prog)s {__version__}, protocol version {__protocol_version__}",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option --config. parse() reads the file."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a TOML file with the values of other options, by their names without the dashes; options on the command "
        "line have precedence",
    )


@contextmanager
def errors_name_file(
    parser: argparse.ArgumentParser, options: argparse.Namespace, arguments: Sequence[str] | None
) -> Iterator[None]:
    """Inside of the `with` block, make the errors of a parser name the file of --config, if there is one.

    Parameters
    ----------
    parser, arguments
        As for parse().
    options
        The result of parse().
    """
    if options.config is None:
        yield
        return
    from discosbackend.cli.config_file import errors_name

    with errors_name(parser, options.config, sys.argv[1:] if arguments is None else arguments):
        yield


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None, rivals: Sequence[tuple[str, str]] = ()
) -> argparse.Namespace:
    """Parse a command line, and the file of its option --config if it has this option.

    Parameters
    ----------
    parser
        The parser, with the option of add_config().
    arguments
        The command line without the program's name. Default: that of the process.
    rivals
        Pairs of options that contradict each other, as in config_file.parse_with_file().
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # argparse accepts the beginning of an option's name, too.
    names = [text.partition("=")[0] for text in arguments]
    if not any(len(name) > 2 and "--config".startswith(name) for name in names):
        return parser.parse_args(arguments)
    from discosbackend.cli.config_file import parse_with_file

    return parse_with_file(parser, arguments, rivals)
