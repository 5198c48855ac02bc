"""The command line of the client: `python -m discosbackend.client HOST:PORT COMMAND [ARGUMENT...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from discosbackend.client.address import host_and_port
from discosbackend.client.blocking import Client
from discosbackend.client.methods import REPLY_MARGIN, REPLY_WAIT
from discosbackend.commands import COMMANDS, CONVERSION_TIMEOUT
from discosbackend.errors import (
    GrammarException,
    Interrupted,
    NoReply,
    reason_of,
)
from discosbackend.grammar import OK, REQUEST, SEPARATOR, Message, named_in, parse_message
from discosbackend.line_socket import checked_wait
from discosbackend.log import printable
from discosbackend.signals import INTERRUPTED, interrupting
from discosbackend.standard_output import escape_output, write_result
from discosbackend.toml import did_you_mean
from discosbackend.values import path_text

__all__ = ["main", "positive_seconds"]

_CANNOT_WRITE = "{}: cannot write the reply to {} to standard output: {}\n"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Print the reply to one request.

    The exit status is 0 if the reply is `ok`, 1 if it is not or does not arrive, 2 for an invalid command line, 130
    after a signal.

    Parameters
    ----------
    arguments
        The command line without the program's name. Default: that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m discosbackend.client",
        description="Send one request to a DISCOS backend server and print the reply.",
        epilog=(
            "examples:\n  %(prog)s 127.0.0.1:8978 status\n  %(prog)s 127.0.0.1:8978 set-enable 0 3\n"
            "  %(prog)s 127.0.0.1:8978 '?get-tpi,0,0'"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("address", metavar="HOST:PORT", type=host_and_port, help="where the server listens")
    parser.add_argument("name", help="the command, or a complete request such as '?get-tpi,0,0'")
    parser.add_argument("arguments", nargs="*", help="the arguments, without escapes, which are added")
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        metavar="SECONDS",
        help=f"how long to wait for the reply (default: {REPLY_WAIT:g}; "
        f"{CONVERSION_TIMEOUT + REPLY_MARGIN:g} for convert-data)",
    )
    options = parser.parse_args(arguments)
    try:
        request = _request(options.name, options.arguments)
    except GrammarException as problem:
        parser.error(f"{options.name!r} is not a request: {problem}")
    if not request.check_synthax():
        near = "" if options.name in COMMANDS else did_you_mean(options.name, COMMANDS)
        parser.error(
            "not a valid request: a name has letters, digits and hyphens, and no argument is empty or has a line "
            f"break, NUL, ESC or a character outside latin-1{near}"
        )
    escape_output()
    host, port = options.address
    goes_on = ""
    try:
        with interrupting(), Client(host, port, timeout=options.timeout) as client:
            if (wait := client.reply_wait(request.name)) > REPLY_WAIT and options.timeout is None:
                print(f"waiting for the reply to {request.name}, for up to {wait:g} s", file=sys.stderr, flush=True)
            goes_on = f": the server continues to execute {request.name}"
            reply = client.exchange(request)
    except NoReply as problem:
        print(printable(str(problem)), file=sys.stderr)
        sys.exit(1)
    except Interrupted as problem:
        print(f"{problem}{goes_on}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    if reply.code == OK and request.name in COMMANDS:
        reply.arguments = COMMANDS[request.name].from_wire(reply.arguments)
    # The server may send control characters such as 0x9B, which would control the terminal.
    try:
        write_result(f"{printable(str(reply))}\n")
    except OSError as problem:
        parser.exit(1, _CANNOT_WRITE.format(parser.prog, request.name, reason_of(problem)))
    sys.exit(0 if reply.code == OK else 1)


def _request(name: str, arguments: Sequence[str]) -> Message:
    """The request that the words of a command line mean. GrammarException for a whole line that is no request."""
    if not arguments and (name.startswith(REQUEST) or SEPARATOR in name):
        line = REQUEST + name.removeprefix(REQUEST)
        row = COMMANDS.get(named_in(line))
        if row is not None and any(argument.type == "path" for argument in row.arguments):
            line = path_text(line)
        return parse_message(line)
    row = COMMANDS.get(name)
    texts = list(arguments) if row is None else row.to_wire(arguments)
    return Message(message_type=REQUEST, name=name, arguments=texts)


def positive_seconds(text: str) -> float:
    """Convert an argument to a number of seconds above 0, at most a day. Raise ArgumentTypeError if it is not."""
    try:
        return checked_wait(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most a day") from None
