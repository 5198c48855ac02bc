"""The reactor by default, whether it can run, and its separation from the reactor of the parent process after a fork.

Twisted has one reactor per process, and it can run only once. server.py runs it.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

__all__ = ["check_can_run", "own_after_fork", "reactor_or_default"]

logger = logging.getLogger(__name__)

# The attributes in which a reactor that uses epoll, poll or select keeps its poller, its descriptors and its waker.
_WAITED_ON = ("_poller", "_selectables", "_reads", "_writes", "_internalReaders", "waker")

# The process ID of this process, while it shares a reactor with its parent process.
_shares_reactor: set[int] = set()


def _note_a_fork() -> None:
    _shares_reactor.clear()
    if "twisted.internet.reactor" in sys.modules:
        _shares_reactor.add(os.getpid())


os.register_at_fork(after_in_child=_note_a_fork)


def reactor_or_default(given: Any = None) -> Any:
    """Return the given reactor, or else Twisted's, which is imported only now: the import installs it."""
    if given is not None:
        return given
    from twisted.internet import reactor

    return reactor


def check_can_run(reactor: Any) -> None:
    """Raise RuntimeError if the reactor is running or has run. Call it before the port is opened."""
    state = "is running" if reactor.running else "has run"
    # Twisted has no public attribute for this, and would raise its exception only after the port is bound.
    if reactor.running or getattr(reactor, "_startedBefore", False):
        raise RuntimeError(
            f"Twisted's reactor {state} in this process already, and it runs only once: start each server in a process "
            "of its own, such as multiprocessing.get_context('spawn').Process(target=run_server, ...), "
            "or call discosbackend.server.listen() for each of several servers on one reactor"
        )


def own_after_fork(reactor: Any) -> None:
    """After a fork, replace the poller and the waker of a reactor that the parent process created.

    Two processes that share them receive each other's wake-ups. Then results of threads arrive late, and a call of
    reactor.stop() may have no effect. Delayed calls, readers and writers are kept.

    For some kinds of reactor this is not possible. Such a reactor is left unchanged, and a warning is logged. It works
    as long as neither the parent process nor another child runs its reactor.
    """
    if not _shares_reactor:
        return
    _shares_reactor.clear()
    shared = {name: value for name, value in vars(reactor).items() if name in _WAITED_ON}
    if not shared.keys() >= {"_reads", "_writes", "waker"}:
        logger.warning(
            "%s was made before this process was forked, and shares its file descriptors with the parent process: if "
            "several processes run it, start them with multiprocessing.get_context('spawn')",
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
    # This closes them in this process only.
    shared["waker"].connectionLost(None)
    if hasattr(shared.get("_poller"), "close"):
        shared["_poller"].close()
