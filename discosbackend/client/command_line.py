"""The command line of the client: `python -m discosbackend.client HOST:PORT COMMAND [ARGUMENT...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from discosbackend.client.blocking import REPLY_MARGIN, Client
from discosbackend.client.connection import REPLY_WAIT
from discosbackend.commands import COMMANDS, CONVERSION_TIMEOUT
from discosbackend.errors import (
    GrammarException,
    Interrupted,
    NoReply,
)
from discosbackend.grammar import OK, REQUEST, SEPARATOR, Message, named_in, parse_message
from discosbackend.line_socket import checked_wait
from discosbackend.log import printable
from discosbackend.signals import INTERRUPTED, interrupting
from discosbackend.toml import did_you_mean
from discosbackend.values import path_text

__all__ = ["host_and_port", "main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Print the reply to one request.

    Exit status 0 if it is `ok`, 1 if not or if none comes, 2 for an invalid command line, 130 after a signal.
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
    parser.add_argument("name", help="the command, or a whole request as it stands on the wire")
    parser.add_argument("arguments", nargs="*", help="its arguments, as they are: escapes are added")
    parser.add_argument(
        "--timeout",
        type=_timeout,
        metavar="SECONDS",
        help=f"how long to wait for the reply (default: {REPLY_WAIT:g}, or as long as a server may take: "
        f"{CONVERSION_TIMEOUT + REPLY_MARGIN:g} for convert-data)",
    )
    options = parser.parse_args(arguments)
    try:
        request = _request(options.name, options.arguments)
    except GrammarException as problem:
        parser.error(f"{options.name!r} is no request: {problem}")
    if not request.check_synthax():
        near = did_you_mean(options.name, COMMANDS)
        parser.error(f"no message can carry that: a name has letters, digits and hyphens, no argument is empty{near}")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    host, port = options.address
    goes_on = ""
    try:
        with interrupting(), Client(host, port, timeout=options.timeout) as client:
            if (wait := client.reply_wait(request.name)) > REPLY_WAIT and options.timeout is None:
                print(f"waiting for the reply to {request.name}, for up to {wait:g} s", file=sys.stderr, flush=True)
            goes_on = f": the server goes on with {request.name}"
            reply = client.exchange(request)
    except NoReply as problem:
        print(printable(str(problem)), file=sys.stderr)
        sys.exit(1)
    except Interrupted as problem:
        print(f"{problem}{goes_on}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    if reply.code == OK and request.name in COMMANDS:
        reply.arguments = COMMANDS[request.name].from_wire(reply.arguments)
    # The text is the server's, and a terminal obeys control characters such as 0x9B.
    print(printable(str(reply)))
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


def host_and_port(text: str) -> tuple[str, int]:
    """Where a server listens, from a command line. ArgumentTypeError for what is not HOST:PORT."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    if not name or not (bracketed or ":" not in host) or not (port.isascii() and port.isdigit() and int(port) < 65536):
        such_as = ", such as 127.0.0.1:8978"
        if text.count(":") > 1:
            such_as = "; an IPv6 address stands in brackets: [::1]:8978"
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT{such_as}")
    return name, int(port)


def _timeout(text: str) -> float:
    try:
        return checked_wait(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0, at most a day") from None
