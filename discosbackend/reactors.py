"""Chooses and installs the reactor of a server, and checks that it can run, also after a fork.

Twisted has one reactor per process, and it can run only once. server.py runs it; embedding.py uses the event loop of a
running asyncio program instead.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
import time
from typing import Any

__all__ = [
    "REACTORS",
    "check_can_run",
    "install_reactor",
    "installed_reactor",
    "loop_of",
    "own_after_fork",
    "reactor_for",
    "reactor_or_default",
    "reactor_wanted_by",
    "running_loop",
    "runs_on_asyncio",
    "use_steady_clock",
]

logger = logging.getLogger(__name__)

REACTORS = ("default", "asyncio")
"""The reactors that a server can run on: the one that Twisted chooses for the platform, and the asyncio reactor."""

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


def use_steady_clock(reactor: Any) -> None:
    """Let the timers of a reactor use a clock that is never stepped.

    Twisted's timers use the clock of the host. If that is stepped back by an hour, no timer fires for an hour. A
    reactor with a clock of its own is left unchanged.

    Parameters
    ----------
    reactor
        The reactor. Its method seconds() then no longer returns Unix time.
    """
    from twisted.internet.base import ReactorBase
    from twisted.python.runtime import seconds as host_clock

    if not isinstance(reactor, ReactorBase) or reactor.seconds is not host_clock:
        return
    ahead = time.monotonic() - reactor.seconds()
    vars(reactor)["seconds"] = time.monotonic
    for call in reactor.getDelayedCalls():
        vars(call)["seconds"] = time.monotonic
        call.delay(ahead)


# -- the asyncio reactor ------------------------------------------------------------------------------


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of asyncio that runs in this thread, or None."""
    # get_running_loop() raises an exception if there is none, which costs each coroutine a microsecond.
    return asyncio._get_running_loop()  # noqa: SLF001  # asyncio exports it


def loop_of(reactor: Any) -> asyncio.AbstractEventLoop | None:
    """Return the event loop of an asyncio reactor, running or not. None for any other reactor."""
    module = sys.modules.get("twisted.internet.asyncioreactor")
    if module is None or not isinstance(reactor, module.AsyncioSelectorReactor):
        return None
    # Twisted has no public attribute for it.
    loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop  # noqa: SLF001
    return loop


def installed_reactor() -> Any:
    """Return the installed reactor, or None. Unlike an import, this installs none."""
    return getattr(sys.modules.get("twisted.internet"), "reactor", None)


def runs_on_asyncio() -> bool:
    """Return whether asyncio can be used: its loop runs in this thread, or the asyncio reactor is installed."""
    return running_loop() is not None or loop_of(installed_reactor()) is not None


def reactor_wanted_by(backend: object) -> str:
    """Return the reactor that a backend, or a class of backends, needs: its class attribute `reactor`.

    Raise ValueError if the attribute is a text that is not in REACTORS. If it is not a text, for example a reactor that
    the backend stores for itself, the result is `"default"`.
    """
    kind = backend if isinstance(backend, type) else type(backend)
    # A static lookup, because a class may have a property of this name.
    wanted = inspect.getattr_static(kind, "reactor", "default")
    if not isinstance(wanted, str):
        return "default"
    if wanted not in REACTORS:
        raise ValueError(f'{kind.__name__}.reactor must be "default" or "asyncio", not {wanted!r}')
    return wanted


def reactor_for(backend: object, chosen: str | None) -> str:
    """Return the reactor on which a backend is served.

    Parameters
    ----------
    backend
        The backend, or its class.
    chosen
        What the user has chosen, by an option or an argument. None: nothing, so that the class decides.

    Raises
    ------
    ValueError
        If `"default"` is chosen but the class needs `"asyncio"`, or if a name is not in REACTORS.
    """
    if chosen is not None and chosen not in REACTORS:
        raise ValueError(f'reactor must be "default" or "asyncio", not {chosen!r}')
    wanted = reactor_wanted_by(backend)
    if chosen == "default" and wanted == "asyncio":
        kind = backend if isinstance(backend, type) else type(backend)
        raise ValueError(f'{kind.__name__} has reactor = "asyncio", so it needs --reactor asyncio instead of default')
    return chosen or wanted


def install_reactor(name: str) -> None:
    """Install the asyncio reactor if `name` is `"asyncio"`. Call it before the reactor is imported.

    In a running asyncio program, the reactor uses the event loop of that program.

    Raises
    ------
    RuntimeError
        If another reactor is installed already. The text names the module that has imported it, if it can be found.
    """
    if name != "asyncio":
        return
    installed = installed_reactor()
    if installed is None:
        from twisted.internet import asyncioreactor

        asyncioreactor.install()
    elif loop_of(installed) is None:
        raise RuntimeError(
            f"the asyncio reactor cannot be installed: {_importer(installed)} twisted.internet.reactor before, which "
            f"installed {type(installed).__name__}; import it inside the functions that use it, or start the server "
            "with --reactor asyncio, which installs the reactor before it imports your module"
        )


def _importer(reactor: Any) -> str:
    """Return the beginning of a sentence: who has imported the reactor."""
    found = [
        name
        for name, module in list(sys.modules.items())
        if any(value is reactor for value in list(vars(module).values())) and not name.startswith("twisted.internet")
    ]
    # A module of the user comes first: one of Twisted was imported by it.
    found.sort(key=lambda name: name.startswith("twisted."))
    return f"the module {found[0]} has imported" if found else "something has imported"
