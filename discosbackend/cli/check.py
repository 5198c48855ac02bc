"""`discos-backend-check`: runs the conformance cases on a running server, or checks a client, and reports the results.

This module has the command line, and what needs no server, such as --list. check_run.py runs the cases, check_client.py
a client.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NoReturn

from discosbackend.cli.argument_types import REPORTS, add_report_options, add_version
from discosbackend.cli.check_run import CannotCheck, Run, say
from discosbackend.client.address import host_and_port
from discosbackend.client.command_line import positive_seconds
from discosbackend.standard_output import escape_output
from discosbackend.testing.cases import Case
from discosbackend.testing.command_cases import own_cases
from discosbackend.testing.conformance import CASES
from discosbackend.testing.errors import ProfileError
from discosbackend.testing.profile import Profile
from discosbackend.testing.profile_file import load_profile, shipped_profiles
from discosbackend.testing.runner import run_cases
from discosbackend.testing.send_guard import Scope
from discosbackend.toml import did_you_mean

__all__ = ["main"]

_NO_PROFILE = "none: nothing is known of the instrument"

_CLIENT = "--client"
# The options that mean nothing with --client, by their names in the parsed command line.
_OF_SERVERS = {
    "address": "HOST:PORT",
    "scope": "--measure or --full",
    "timeout": "--timeout",
    "profiles": "--profiles",
    "dry_run": "--dry-run",
}
# How many s a client may run in a situation.
_TIME = 10.0

EXAMPLES = """\
examples:
  %(prog)s 192.0.2.7:8978                 while the telescope is in use: only reads, at most ten a second
  %(prog)s 192.0.2.7:8978 --profile sardara --measure
                                                    measurements too, unless an acquisition is running
  %(prog)s 127.0.0.1:8978 --profile skarab --full --html report.html
                                                    all cases: they start, stop, configure and park
  %(prog)s 127.0.0.1:8978 --full --only start stop 'set-*/accepts'
  %(prog)s --list                         list the cases, without a server
  %(prog)s --client -- ./my_client --server {address}
                                                    check a client program instead, on a simulated instrument
  %(prog)s --client --profile skarab -- ./my_client --server {address}
                                                    the same on a simulated SKARAB

exit status:
  0    no case failed (with --strict: none is non-strict either)
  1    a case failed, or the server stopped answering, or a report could not be written
  2    no case was tried: no server was reached, no case was left, or the command line is invalid;
       with --client: the program did not start, did not connect or sent nothing
  3    no pass: with --full no case failed, but not all cases of start, stop and
       set-configuration could be evaluated; the report says which ones, and why
  130  interrupted: the previous state was restored, and the cases that were tried are reported
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the cases that the options name, and report the results. For the exit status see EXAMPLES.

    Parameters
    ----------
    arguments
        The command line without the program's name. Default: that of the process.
    """
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    command: list[str] | None = None
    if _CLIENT in given and "--" in given:
        end = given.index("--")
        given, command = given[:end], given[end + 1 :]
    options = parser.parse_args(given)
    escape_output()
    try:
        if options.client:
            sys.exit(_check_client(parser, options, command))
        if options.time is not None:
            parser.error("--time is for --client")
        profile = load_profile(options.profile) if options.profile else Profile()
        known = [*CASES.values(), *own_cases(profile.own_rows.values()).values()]
        cases = _chosen(options.only, known)
        if options.timeout is not None:
            profile.reply_timeout = options.timeout
        if options.profiles:
            say("".join(f"{name:12} {what}\n" for name, what in shipped_profiles()), sys.stdout)
            sys.exit(0)
        if options.list:
            say(_list(cases), sys.stdout)
            sys.exit(0)
        if options.dry_run:
            text, status = _plan(cases, options.scope)
            say(text, sys.stdout)
            sys.exit(status)
        if options.address is None:
            raise CannotCheck("no server is given: write HOST:PORT before the options, such as 127.0.0.1:8978")
        run = Run(
            options.address,
            cases,
            profile,
            profile_name=options.profile or _NO_PROFILE,
            scope=options.scope,
            strict=options.strict,
            causes=known,
        )
        sys.exit(run.report_to(_paths(options)))
    except (CannotCheck, ProfileError) as problem:
        parser.exit(2, f"{parser.prog}: {problem}\n")


def _check_client(parser: argparse.ArgumentParser, options: argparse.Namespace, command: Sequence[str] | None) -> int:
    """Check a client program. Return the exit status."""
    from discosbackend.cli.check_client import SITUATIONS, ClientCheck

    for name, option in _OF_SERVERS.items():
        if getattr(options, name) != parser.get_default(name):
            parser.error(f"{option} is for servers, not for --client")
    cases = _chosen(options.only, [situation.case for situation in SITUATIONS.values()])
    if options.list:
        widest = max(len(case.id) for case in cases)
        say("".join(f"{case.id:{widest}}  {case.requirement}\n" for case in cases), sys.stdout)
        return 0
    if not command:
        raise CannotCheck("no client is given: write -- and its command line after the options")
    run = ClientCheck(
        command,
        [SITUATIONS[case.id] for case in cases],
        limit=_TIME if options.time is None else options.time,
        strict=options.strict,
        instrument=options.profile or "",
    )
    return run.report_to(_paths(options))


def _paths(options: argparse.Namespace) -> dict[str, str]:
    return {name: path for name in REPORTS if (path := getattr(options, name)) is not None}


# -- the command line ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="discos-backend-check",
        description="Check a running server against the DISCOS backend protocol, and report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("address", metavar="HOST:PORT", nargs="?", type=host_and_port, help="where the server listens")
    what = parser.add_argument_group("which cases")
    what.add_argument(
        "--only",
        metavar="PATTERN",
        nargs="+",
        action="extend",
        help="only these cases: an id (start/timed), an area (start), or a pattern ('*/wrong-*')",
    )
    shipped = ", ".join(name for name, _ in shipped_profiles())
    scope = what.add_mutually_exclusive_group()
    scope.set_defaults(scope=Scope.READS)
    scope.add_argument(
        "--measure",
        action="store_const",
        const=Scope.MEASURE,
        dest="scope",
        help="measurements too, unless an acquisition is running: get-tpi, get-tp0, get-rms",
    )
    scope.add_argument(
        "--full",
        action="store_const",
        const=Scope.FULL,
        dest="scope",
        help="all cases, without a rate limit: start, stop, configure, park; the previous state is restored",
    )
    what.add_argument(
        "--profile",
        metavar="NAME|FILE",
        help=f"the values that are valid for the instrument: {shipped}, or a TOML file. With --client, the simulated "
        "instrument: a name or a file as for `discos-backend-server --simulate` (default: one that accepts every valid "
        "request)",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--strict", action="store_true", help="behaviour that works, but differs from the document, is a failure too"
    )
    how.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        help=f"how long to wait for a reply (default: that of the conformance profile, or {Profile.reply_timeout:g})",
    )
    add_report_options(how)
    client = parser.add_argument_group("clients")
    client.add_argument(
        _CLIENT,
        action="store_true",
        help="check a client program, whose command line follows after --: {address}, {host} and {port} in it are "
        "replaced by those of a simulated instrument; DISCOS_BACKEND is set to the address, too",
    )
    client.add_argument(
        "--time",
        metavar="SECONDS",
        type=positive_seconds,
        help=f"how long the client may run in each situation (default: {_TIME:g}); the delays grow with it",
    )
    listing = parser.add_argument_group("instead").add_mutually_exclusive_group()
    listing.add_argument("--list", action="store_true", help="list the cases")
    listing.add_argument("--profiles", action="store_true", help="list the conformance profiles of this package")
    listing.add_argument(
        "--dry-run", action="store_true", help="list the cases that would be tried and those that would not"
    )
    add_version(parser)
    return parser


def _chosen(patterns: Sequence[str] | None, known: Sequence[Case]) -> list[Case]:
    """Return the known cases that match any of the patterns; all cases if there are no patterns."""
    if patterns is None:
        return list(known)
    words = dict.fromkeys([*(case.id for case in known), *(case.area for case in known)])
    for pattern in patterns:
        if not any(_means(pattern, case) for case in known):
            hint = did_you_mean(pattern, words) or ": --list lists the cases"
            if ":" in pattern:
                hint = ": write HOST:PORT before --only"
            raise CannotCheck(f"no case matches --only {pattern!r}{hint}")
    return [case for case in known if any(_means(pattern, case) for pattern in patterns)]


def _means(pattern: str, case: Case) -> bool:
    return pattern == case.area or fnmatchcase(case.id, pattern)


def _list(cases: Sequence[Case]) -> str:
    widest = max(len(case.id) for case in cases)
    return "".join(
        f"{case.id:{widest}}  {case.level.value:6}  {case.scope.name.lower():7}  {case.title}\n" for case in cases
    )


def _plan(cases: Sequence[Case], scope: Scope) -> tuple[str, int]:
    """Return the text of --dry-run, and the exit status."""
    tried = [case for case in cases if case.scope <= scope]
    left = run_cases([case for case in cases if case.scope > scope], _no_context, scope=scope)
    lines = [f"{len(tried)} of {len(cases)} cases would be tried:", *(f"  {case.id}" for case in tried)]
    if left_lines := [f"  {result.case.id}: {result.explanation}" for result in left]:
        lines += ["", f"{len(left_lines)} would not:", *left_lines]
    return "\n".join(lines) + "\n", 0 if tried else 2


def _no_context() -> NoReturn:
    raise RuntimeError("a case was tried that should be left out")
