"""The options of the programs that serve clients: who may connect.

Each part of a program has a function that adds its options, and one that makes what they ask for. A module that an
option needs is imported only if the option is given.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from discosbackend.access import AccessRules

__all__ = ["access_of", "add_access_options"]


def add_access_options(parser: argparse.ArgumentParser) -> None:
    """Add --allow and --read-only. access_of() makes the rules."""
    group = parser.add_argument_group(
        "access",
        "NET is an address, such as 192.168.200.5 or 2001:db8::7, or a network, such as\n192.168.200.0/24. The longest "
        "prefix decides, so that a host can be an exception to\nits network.",
    )
    group.add_argument(
        "--allow",
        metavar="NET",
        action="append",
        type=_network,
        help="let only the clients of NET connect, and those of --read-only; can be repeated (default: everybody)",
    )
    group.add_argument(
        "--read-only",
        metavar="NET",
        action="append",
        type=_network,
        help="refuse the clients of NET every command that uses the device or files; can be repeated. Without --allow, "
        "all other clients may do everything",
    )


def access_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> AccessRules | None:
    """Return the rules of --allow and --read-only; None if there are none. Exit if they contradict each other."""
    if not options.allow and not options.read_only:
        return None
    from discosbackend.access import AccessRules

    try:
        return AccessRules(options.allow or (), options.read_only or ())
    except ValueError as problem:
        parser.error(f"--allow and --read-only: {problem}")


def _network(text: str) -> str:
    from discosbackend.access import network_of

    try:
        network_of(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    return text
