"""`discos-backend-replay`: sends recorded requests to a server again, and compares the replies.

This module is the command line. The package tap has the reading, the replay, the comparison and the texts.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

from discosbackend.cli.argument_types import add_config, add_version, not_negative, parse
from discosbackend.client.address import VARIABLE, address_in_environment, host_and_port
from discosbackend.client.command_line import positive_seconds
from discosbackend.errors import Interrupted, reason_of
from discosbackend.log import printable
from discosbackend.signals import INTERRUPTED, interrupting
from discosbackend.standard_output import escape_output, write_result
from discosbackend.tap.compare import Comparison
from discosbackend.tap.replay import REPLY_WAIT, Difference, LostConnection, Replay, Totals
from discosbackend.tap.replay_file import read_script
from discosbackend.tap.replay_report import difference_text, has_colours, summary
from discosbackend.tap.replay_sockets import Sockets
from discosbackend.tap.steps import ReplayError, Request, Script, name_of, select
from discosbackend.testing.errors import ProfileError
from discosbackend.testing.profile import Profile
from discosbackend.testing.profile_file import load_profile, shipped_profiles
from discosbackend.testing.send_guard import LINES_A_SECOND, Scope, SendGuard
from discosbackend.toml import did_you_mean

__all__ = ["NOTHING_COMPARED", "main"]

NOTHING_COMPARED = 3
"""The exit status if there was no difference, but no reply could be compared either."""

EXAMPLES = """\
examples:
  %(prog)s exchanges.jsonl 192.0.2.7:8978           while the telescope is in use: only reads, at most ten a second
  %(prog)s exchanges.jsonl 127.0.0.1:8978 --full    all requests: they start, stop, configure and park
  %(prog)s exchanges.jsonl 127.0.0.1:8978 --full --no-wait --profile sardara
  cat exchanges.jsonl.1 exchanges.jsonl | %(prog)s - 127.0.0.1:8978
  %(prog)s test/sessions/sardara.txt 127.0.0.1:8978 --full

exit status:
  0    no reply differs
  1    a reply differs or is missing, or the result could not be written
  2    nothing was sent: no server was reached, the file cannot be replayed, or the command line is invalid
  3    no reply could be compared
  130  interrupted: the differences so far were printed
"""


class _CannotReplay(Exception):
    """The reason why nothing can be replayed, in one line."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Replay the file that the options name, and print the differences. For the exit status see EXAMPLES.

    Parameters
    ----------
    arguments
        The command line without the program's name. Default: that of the process.
    """
    parser = _parser()
    options = parse(parser, arguments)
    escape_output()
    try:
        if options.file is None:
            raise _CannotReplay("no file is given: write FILE and HOST:PORT, such as exchanges.jsonl 127.0.0.1:8978")
        address = options.address or address_in_environment()
        if address is None:
            raise _CannotReplay(f"no server is given: write HOST:PORT after the file, or set {VARIABLE}")
        profile = load_profile(options.profile) if options.profile else Profile()
        comparison = Comparison(profile.commands, options.tolerance, options.reasons)
        script = read_script(options.file, comparison)
        only = _only(options.only, script)
        for note in script.notes:
            print(f"{parser.prog}: {printable(options.file)}: {note}", file=sys.stderr)
        sys.exit(_replay(address, script, profile, only, options))
    except (_CannotReplay, ReplayError, ProfileError, LostConnection, ValueError) as problem:
        parser.exit(2, f"{parser.prog}: {printable(str(problem))}\n")
    except OSError as problem:
        parser.exit(1, f"{parser.prog}: cannot write to standard output: {reason_of(problem)}\n")
    except Interrupted as problem:
        parser.exit(INTERRUPTED, f"{parser.prog}: {problem}\n")


def _replay(
    address: tuple[str, int], script: Script, profile: Profile, only: Sequence[str], options: argparse.Namespace
) -> int:
    """Replay the steps, print the result, and return the exit status."""
    steps, left_out = select(script.steps, profile.commands, full=options.full, only=only)
    totals = Totals()
    # What the server would be connected for otherwise is nothing.
    if any(isinstance(step, Request) for step in steps):
        colours = has_colours(sys.stdout)

        def report(difference: Difference) -> None:
            write_result(difference_text(difference, colours=colours) + "\n")

        guard = SendGuard(Scope.FULL, None if options.full else LINES_A_SECOND, commands=profile.commands)
        with interrupting(), Sockets(address) as sockets:
            totals = Replay(
                sockets,
                timeout=options.timeout,
                speed=options.speed,
                report=report,
                before_sending=guard.before,
            ).play(steps)
    write_result(summary(totals, left_out))
    if totals.differences:
        return 1
    return 0 if totals.compared else NOTHING_COMPARED


def _only(names: Sequence[str] | None, script: Script) -> Sequence[str]:
    """Return the names of --only. Raise _CannotReplay if the file has no request with one of them."""
    known = Counter(name_of(step.text) for step in script.steps if isinstance(step, Request))
    for name in names or ():
        if not known[name] or not name:
            raise _CannotReplay(f"no request of the file has the name of --only {name!r}{did_you_mean(name, known)}")
    return names or ()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="discos-backend-replay",
        description="Send recorded requests to a server again, and compare the replies with the recorded ones.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="a recording of --record, or a session file; - for standard input",
    )
    parser.add_argument(
        "address",
        metavar="HOST:PORT",
        nargs="?",
        type=host_and_port,
        help=f"where the server listens (default: the environment variable {VARIABLE})",
    )
    what = parser.add_argument_group("what is sent")
    what.add_argument(
        "--full",
        action="store_true",
        help="all requests, without a rate limit: they may start, stop, configure and park",
    )
    what.add_argument(
        "--only", metavar="NAME", action="append", help="only the requests of this command; can be repeated"
    )
    pauses = what.add_mutually_exclusive_group()
    pauses.add_argument(
        "--speed",
        metavar="NUMBER",
        type=_speed,
        default=1.0,
        help="how many times faster than it was recorded (default: 1)",
    )
    pauses.add_argument(
        "--no-wait", action="store_const", const=math.inf, dest="speed", help="without the recorded pauses"
    )
    how = parser.add_argument_group("how replies are compared")
    how.add_argument(
        "--tolerance",
        metavar="FRACTION",
        type=_fraction,
        help="compare measured values too: they may differ by this fraction of the recorded value, such as 0.1 "
        "(default: only their number and form are compared)",
    )
    how.add_argument(
        "--reasons", action="store_true", help="compare the reasons of fail and invalid too, except for digits"
    )
    shipped = ", ".join(name for name, _ in shipped_profiles())
    how.add_argument(
        "--profile",
        metavar="NAME|FILE",
        help=f"the conformance profile that describes commands of the backend's own: {shipped}, or a TOML file",
    )
    how.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        help=f"how long to wait for each reply (default: {REPLY_WAIT:g}, and in addition the time that the reply took "
        "in the recording, or the time limit of convert-data)",
    )
    add_config(parser)
    add_version(parser)
    return parser


def _speed(text: str) -> float:
    what = "a number above 0"
    number = not_negative(text, what)
    if not number:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def _fraction(text: str) -> float:
    return not_negative(text, "a number, 0 or more")
