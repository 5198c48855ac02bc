"""`discos-backend-simctl`: controls a simulated instrument from the shell.

This module is the command line. simulator.control.operations has the operations, simulator.control.client the
connection.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from discosbackend._version import __version__
from discosbackend.client.command_line import positive_seconds
from discosbackend.errors import Interrupted, reason_of
from discosbackend.log import printable
from discosbackend.signals import INTERRUPTED, interrupting
from discosbackend.simulator.control.client import SimulatorControl, control_address
from discosbackend.simulator.control.operations import OPERATIONS, Operation, find_operation
from discosbackend.simulator.errors import ControlError
from discosbackend.simulator.faults.kinds import KEYS, KINDS
from discosbackend.standard_output import write_result

__all__ = ["main"]

# After ADDRESS argparse parses no options.
_HELP = ("--help", "-h")

EXAMPLES = """\
examples, for a server that was started with --control 4321:
  %(prog)s 4321                           print the whole state in JSON
  %(prog)s 4321 diode on                  switch the noise diode on
  %(prog)s 4321 tsys 80                   set Tsys of all inputs, in K
  %(prog)s 4321 tsys 95 0 1               set Tsys of the inputs 0 and 1
  %(prog)s 4321 source W3 level=2.5 feeds=0,3
  %(prog)s 4321 line W3 rest=water width=2 peak=5
  %(prog)s 4321 clock jump -2.5           step the clock back by 2.5 s
  %(prog)s 4321 fault receiver too warm   set the text that status reports
  %(prog)s 4321 faults add kind=late seconds=2 rate=0.1
  %(prog)s ./control.sock reset           over a Unix socket

exit status:
  0    success
  1    the operation failed, or no server was reached: one line on standard error says why
  2    invalid command line: nothing was done
  130  interrupted (Ctrl-C, SIGTERM or SIGHUP)
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Execute one operation. For the exit status see EXAMPLES.

    Parameters
    ----------
    arguments
        The command line without the program's name. Default: that of the process.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    words = options.words or ["state"]
    if words[0].startswith("-") and words[0] not in _HELP:
        parser.error(f"{words[0]}: write options before ADDRESS")
    values: dict[str, Any] = {}
    help_text = parser.format_help() if words[0] in _HELP else ""
    try:
        if not help_text:
            control_address(options.address)
            operation, rest = find_operation(words)
            if any(word in _HELP for word in rest):
                help_text = _described(operation)
            else:
                values = operation.read(rest)
    except ControlError as problem:
        parser.exit(2, f"{parser.prog}: {printable(str(problem))}\n")
    try:
        if help_text:
            _say(help_text)
            sys.exit(0)
        with interrupting(), SimulatorControl(options.address, timeout=options.timeout) as control:
            answer = control.ask(operation.name, **values)
        if answer is not None:
            _say(json.dumps(answer, indent=2) + "\n")
    except ControlError as problem:
        parser.exit(1, f"{parser.prog}: {printable(str(problem))}\n")
    except Interrupted as problem:
        parser.exit(INTERRUPTED, f"{parser.prog}: {problem}: the operation may still be executed\n")
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    widest = max(len(operation.words) for operation in OPERATIONS.values())
    listed = "".join(f"  {row.words:{widest}}  {row.help}\n" for row in OPERATIONS.values())
    parser = argparse.ArgumentParser(
        prog="discos-backend-simctl",
        usage="%(prog)s [--timeout SECONDS] ADDRESS [OPERATION [VALUE ...]]",
        description="Control a simulated instrument over its control channel.",
        epilog=f"operations (for their values: ADDRESS OPERATION --help):\n{listed}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        help="the control address that the server announced: a port of this host, or the path of a socket",
    )
    # REMAINDER, so that a negative number is not parsed as an option.
    parser.add_argument("words", metavar="OPERATION", nargs=argparse.REMAINDER, help="the operation (default: state)")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=10.0,
        help="how long to wait for an answer (default: %(default)g)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _described(operation: Operation) -> str:
    """Return the text of --help after an operation."""
    lines = [f"discos-backend-simctl ADDRESS {operation.usage}", "", operation.help]
    if operation.parameters:
        widest = max(len(parameter.name) for parameter in operation.parameters)
        lines.append("")
        lines += [
            f"  {row.name:{widest}}  {row.expected}{row.help and f'. {row.help}'}" for row in operation.parameters
        ]
    if operation.takes_fault:
        keys = [key for key in KEYS if key not in {parameter.name for parameter in operation.parameters}]
        lines += ["", f"Kinds: {', '.join(KINDS)}."]
        lines += ["", f"Keys: {', '.join(keys)}; an error message says which of them a kind takes."]
    if operation.result:
        lines += ["", "It prints the result as JSON."]
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    try:
        write_result(text)
    except OSError as problem:
        raise ControlError(f"cannot write the answer to standard output: {reason_of(problem)}") from problem
