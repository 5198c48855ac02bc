"""`discos-backend-check`: try the conformance cases on a server that is running, and report.

The command line is here, and what is told without asking a server; a run of the cases is in check_run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NoReturn

from discosbackend._version import __protocol_version__, __version__
from discosbackend.cli.argument_types import positive_seconds
from discosbackend.cli.check_run import REPORTS, CannotCheck, Run, say
from discosbackend.client.command_line import host_and_port
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

EXAMPLES = """\
examples:
  %(prog)s 192.0.2.7:8978                 while the telescope is in use: only reads, ten a second at most
  %(prog)s 192.0.2.7:8978 --profile sardara --measure
                                                    the measurements too, if nothing is acquired
  %(prog)s 127.0.0.1:8978 --profile skarab --full --html report.html
                                                    everything: it starts, stops, configures and parks
  %(prog)s 127.0.0.1:8978 --full --only start stop 'set-*/accepts'
  %(prog)s --list                         what there is to be tried; asks no server

exit status:
  0    all as required (with --strict: strictly so)
  1    something is not, or the server went away, or a report could not be written
  2    nothing was tried: nobody is there, no case was left, or the command line was wrong
  3    no pass: with --full nothing failed, but not every case of start, stop and
       set-configuration could be judged; the report says which, and why
  130  interrupted: what was changed was put back, and what had been tried is reported
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Try the cases that the options name, and report. Exit status: see EXAMPLES."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
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
            raise CannotCheck("which server? Say HOST:PORT before the options, such as 127.0.0.1:8978")
        run = Run(
            options.address,
            cases,
            profile,
            profile_name=options.profile or _NO_PROFILE,
            scope=options.scope,
            strict=options.strict,
            causes=known,
        )
        paths = {name: path for name in REPORTS if (path := getattr(options, name)) is not None}
        sys.exit(run.report_to(paths))
    except (CannotCheck, ProfileError) as problem:
        parser.exit(2, f"{parser.prog}: {problem}\n")


# -- the command line ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="discos-backend-check",
        description="Check a running server against the DISCOS backend protocol, and report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("address", metavar="HOST:PORT", nargs="?", type=host_and_port, help="where the server listens")
    what = parser.add_argument_group("what is tried")
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
        help="measurements too, while nothing is acquired: get-tpi, get-tp0, get-rms",
    )
    scope.add_argument(
        "--full",
        action="store_const",
        const=Scope.FULL,
        dest="scope",
        help="everything, as fast as it goes: start, stop, configure, park; what was changed is put back",
    )
    what.add_argument(
        "--profile",
        metavar="NAME|FILE",
        help=f"what is valid for the instrument: {shipped}, or a TOML file",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--strict", action="store_true", help="what works, but not as the document says, is wrong too")
    how.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        help=f"how long to wait for a reply (default: the profile's, or {Profile.reply_timeout:g})",
    )
    for name, kind in REPORTS.items():
        how.add_argument(f"--{name}", metavar="FILE", help=kind.help)
    listing = parser.add_argument_group("instead").add_mutually_exclusive_group()
    listing.add_argument("--list", action="store_true", help="list the cases")
    listing.add_argument("--profiles", action="store_true", help="list the profiles that come with this")
    listing.add_argument(
        "--dry-run", action="store_true", help="say what would be tried and what not, and send nothing"
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"%(prog)s {__version__}, protocol version {__protocol_version__}",
    )
    return parser


def _chosen(patterns: Sequence[str] | None, known: Sequence[Case]) -> list[Case]:
    """Those of the known cases that any of the patterns means, all if there is none."""
    if patterns is None:
        return list(known)
    words = dict.fromkeys([*(case.id for case in known), *(case.area for case in known)])
    for pattern in patterns:
        if not any(_means(pattern, case) for case in known):
            hint = did_you_mean(pattern, words) or ": --list tells what there is"
            if ":" in pattern:
                hint = ": say HOST:PORT before --only"
            raise CannotCheck(f"no case is meant by --only {pattern!r}{hint}")
    return [case for case in known if any(_means(pattern, case) for pattern in patterns)]


def _means(pattern: str, case: Case) -> bool:
    return pattern == case.area or fnmatchcase(case.id, pattern)


def _list(cases: Sequence[Case]) -> str:
    widest = max(len(case.id) for case in cases)
    return "".join(
        f"{case.id:{widest}}  {case.level.value:6}  {case.scope.name.lower():7}  {case.title}\n" for case in cases
    )


def _plan(cases: Sequence[Case], scope: Scope) -> tuple[str, int]:
    """What would be tried, and the exit status."""
    tried = [case for case in cases if case.scope <= scope]
    left = run_cases([case for case in cases if case.scope > scope], _no_context, scope=scope)
    lines = [f"{len(tried)} of {len(cases)} cases would be tried:", *(f"  {case.id}" for case in tried)]
    if left_lines := [f"  {result.case.id}: {result.explanation}" for result in left]:
        lines += ["", f"{len(left_lines)} would not:", *left_lines]
    return "\n".join(lines) + "\n", 0 if tried else 2


def _no_context() -> NoReturn:
    raise RuntimeError("a case was tried that should be left out")
