"""The reactor of a process: that it can still run, and, after a fork, that it is not the parent's as well.

Twisted has one reactor a process, which runs once. What runs in it is server's business.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

__all__ = ["check_can_run", "own_after_fork"]

logger = logging.getLogger(__name__)

# Where a reactor on epoll, poll or select keeps what it waits on.
_WAITED_ON = ("_poller", "_selectables", "_reads", "_writes", "_internalReaders", "waker")

# The process that was forked from one in which there was a reactor, as long as it shares that one's.
_shares_reactor: set[int] = set()


def _note_a_fork() -> None:
    _shares_reactor.clear()
    if "twisted.internet.reactor" in sys.modules:
        _shares_reactor.add(os.getpid())


os.register_at_fork(after_in_child=_note_a_fork)


def check_can_run(reactor: Any) -> None:
    """RuntimeError for a reactor that runs or has run, before anything is made that needs it."""
    state = "is running" if reactor.running else "has run"
    # Twisted does not tell it in public, and raises the like only once the port is bound.
    if reactor.running or getattr(reactor, "_startedBefore", False):
        raise RuntimeError(
            f"Twisted's reactor {state} in this process already, and it runs only once: start each server in a process "
            "of its own, such as multiprocessing.get_context('spawn').Process(target=run_server, ...), "
            "or call discosbackend.server.listen() for each of several servers on one reactor"
        )


def own_after_fork(reactor: Any) -> None:
    """Give a reactor that was made before this process was forked a poller and a waker of its own.

    Two processes that share them get one another's wake-ups: results of threads are seen late, ends not at all.
    What was to be called later, or was waited for, stays. A reactor of a kind for which this cannot be done stays as
    it is, with a warning: it does no harm where the parent and its other children do not use theirs.
    """
    if not _shares_reactor:
        return
    _shares_reactor.clear()
    shared = {name: value for name, value in vars(reactor).items() if name in _WAITED_ON}
    if not shared.keys() >= {"_reads", "_writes", "waker"}:
        logger.warning(
            "%s was made before this process was forked, and shares with its parent what it waits on: where several "
            "processes use it, start them with multiprocessing.get_context('spawn')",
            type(reactor).__name__,
        )
        return
    own = {name: value for name, value in vars(type(reactor)()).items() if name in _WAITED_ON}
    readers, writers = reactor.getReaders(), reactor.getWriters()
    vars(reactor).update(own)
    for reader in readers:
        if reader not in shared["_internalReaders"]:
            reactor.addReader(reader)
    for writer in writers:
        reactor.addWriter(writer)
    # Closed in this process only.
    shared["waker"].connectionLost(None)
    if hasattr(shared.get("_poller"), "close"):
        shared["_poller"].close()
