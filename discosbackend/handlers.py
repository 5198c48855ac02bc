"""Handlers: from a request to its reply. Handler is what the line protocol calls, DBProtocolHandler the
one that calls a backend.

Here an argument's text becomes a value, a command finds its method and its lane, and what the method
returned becomes a reply. Bytes, connections and the texts of unexpected failures are protocol's business.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast
from weakref import WeakSet

from twisted.internet import task
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from discosbackend._version import __protocol_version__
from discosbackend.advice import asyncio_cure, misspelt_methods, not_a_method, signature_problems
from discosbackend.backend import Backend, blocking_of, commands_of, declared_commands
from discosbackend.commands import COMMANDS, Command
from discosbackend.errors import HandlerException, NotSupportedError, UnsendableError
from discosbackend.grammar import OK, REPLY, REQUEST, Message, quoted
from discosbackend.scheduler import Lock, ReactorLike, Scheduler, Worker, deferred_of
from discosbackend.ticks import Ticks
from discosbackend.values import texts

__all__ = [
    "REPLY_LIMIT",
    "AlwaysFailHandler",
    "AlwaysOkHandler",
    "AlwaysRaiseHandler",
    "DBProtocolHandler",
    "Handler",
    "HandlerException",
]

logger = logging.getLogger(__name__)

REPLY_LIMIT = 511
"""Bytes of the longest reply, CR LF included: the deployed clients read into 512 without a bounds check."""

# Seconds without a request after which a server counts as idle.
_IDLE = 0.1

# Attributes of a DBProtocolHandler that another process, or a copy, needs one of its own of.
_OF_A_PROCESS = frozenset(
    ("_scheduler", "_warned_of_commas", "_told_of_asyncio", "_seen", "_asked", "_bound", "commands")
)

# What a method returns is mostly of these types: quicker to see than that a type has no __await__.
_VALUES = frozenset((type(None), tuple, list, str, int, float, bool, Ticks))


class Handler:
    """What a server needs: a reply for each request. Subclass it to answer without a Backend."""

    reply_limit: int | None = REPLY_LIMIT
    """Bytes of the longest reply, CR LF included; None for no limit."""

    def handle(self, message: Message) -> Message | Deferred[Message]:
        """The reply to a request, or a Deferred of it.

        The request has been parsed already. HandlerException, raised or as the Deferred's failure, is
        answered with `fail` and its text; anything else that is no reply of the request's name with a fixed one.
        """
        raise NotImplementedError

    def start(self) -> object:
        """Called when the server begins to listen."""

    def stop(self) -> object:
        """Called when the server has stopped listening; may return a Deferred that the server waits for."""


class AlwaysOkHandler(Handler):
    """Answers every request with `ok` and its own arguments. For trying out a connection."""

    def handle(self, message: Message) -> Message:
        return Message(message_type=REPLY, name=message.name, code=OK, arguments=message.arguments)


class AlwaysFailHandler(Handler):
    """Answers with a request, which is no correct reply, so that the server has to step in."""

    def handle(self, message: Message) -> Message:
        return Message(message_type=REQUEST, name=message.name, code=OK, arguments=message.arguments)


class AlwaysRaiseHandler(Handler):
    """Raises something unexpected for every request, so that the server has to step in."""

    def handle(self, message: Message) -> Message:
        raise RuntimeError("always raised exception")


class BackendCommand:
    """A row of the table and the backend's method that answers it.

    Calling it with a list of argument texts checks them and calls the method, whatever its lane; this is what
    `DBProtocolHandler.commands` holds. `arguments` makes of the texts what the method is called with.
    """

    __slots__ = ("row", "name", "changes", "method", "arguments", "locks", "worker", "limit")

    def __init__(
        self,
        row: Command,
        method: Callable[..., Any],
        arguments: Callable[[Sequence[str]], list[Any]],
        *,
        locks: list[Lock],
        worker: Worker | None,
        limit: float | None,
    ) -> None:
        self.row = row
        self.name = row.name
        # Whether what reads tell may be different afterwards.
        self.changes = row.lane != "reads"
        self.method = method
        self.arguments = arguments
        self.locks = locks
        self.worker = worker
        self.limit = limit

    def __call__(self, argument_texts: list[str]) -> Any:
        return self.method(*self.arguments(argument_texts))

    def renamed(self, name: str) -> BackendCommand:
        """The same command under another name."""
        return BackendCommand(
            replace(self.row, name=name),
            self.method,
            self.arguments,
            locks=self.locks,
            worker=self.worker,
            limit=self.limit,
        )


class DBProtocolHandler(Handler):
    """Answers requests by calling the methods of a backend (protocol sections 4 to 6).

    `backend` is an instance of a Backend subclass, or of any class with methods of the same names, as
    written for the original package; such a one gets times as astropy Time, format "discos".
    `command_timeout` is the time limit of a command in seconds, None for none; `timeouts` maps wire names to
    limits of their own. `reply_limit` is the length of the longest reply in bytes, None for no limit.
    `reactor` is asked for only when a command does not answer at once. TypeError or ValueError for a
    backend or a setting with which no server could work.
    """

    def __init__(
        self,
        backend: Any,
        *,
        command_timeout: float | None = 60.0,
        timeouts: Mapping[str, float | None] | None = None,
        reply_limit: int | None = REPLY_LIMIT,
        reactor: Any = None,
    ) -> None:
        if inspect.isclass(backend) or inspect.isroutine(backend):
            raise TypeError(f"a backend is an instance: {backend.__name__}() instead of {backend.__name__}")
        self._timeouts = dict(timeouts or {})
        for whose, limit in [("command_timeout", command_timeout), *self._timeouts.items()]:
            if limit is not None and not limit > 0:
                raise ValueError(f"time limit {limit!r} of {whose} must be more than 0 s, or None for none")
        if reply_limit is not None and reply_limit < 128:
            raise ValueError(f"reply_limit {reply_limit!r} leaves no room for a reason: at least 128")
        self.backend = backend
        self.reply_limit = reply_limit
        self._command_timeout = command_timeout
        self._given_reactor = reactor
        self._prepare()
        if unknown := sorted(set(self._timeouts) - set(self.commands)):
            raise ValueError(f"timeouts names no command of this backend: {', '.join(map(repr, unknown))}")

    def _prepare(self) -> None:
        """Make what belongs to this process: commands, and the lanes and threads in which they run."""
        reactor = self._given_reactor
        # Twisted's timers follow the host's clock, which may be stepped; a fake clock is its own measure.
        monotonic = reactor.seconds if isinstance(reactor, task.Clock) else time.monotonic
        self._scheduler = Scheduler(self._reactor, monotonic)
        self._warned_of_commas: set[str] = set()
        self._told_of_asyncio: set[str] = set()
        # A Deferred gives its result once: to a second request it would give what became of the first.
        self._seen: WeakSet[Deferred[Any]] = WeakSet()
        self._asked = False
        self.commands: dict[str, Callable[[list[str]], Any]] = self._bind_all()
        self._bound = dict(self.commands)

    def __getstate__(self) -> dict[str, Any]:
        """What it was made with, to be pickled or copied before it serves; `commands` as its user has left them."""
        state = {name: value for name, value in vars(self).items() if name not in _OF_A_PROCESS}
        bound = {id(command): name for name, command in self._bound.items()}
        # Of a command that was bound here, under whatever name, the name by which the other one has bound it.
        state["commands"] = {
            name: (bound.get(id(function)), None if id(function) in bound else function)
            for name, function in self.commands.items()
        }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        commands = state.pop("commands")
        vars(self).update(state)
        self._prepare()
        self.commands = {
            name: function if own_name is None else self._bound[own_name]
            for name, (own_name, function) in commands.items()
        }

    # -- which method answers which command -----------------------------------------------------------

    def _bind_all(self) -> dict[str, Callable[[list[str]], Any]]:
        bound: dict[str, Callable[[list[str]], Any]] = {}
        for row in COMMANDS.values():
            bound[row.name] = self._bind(row, getattr(self.backend, row.method, None))
        bound["version"] = self._bind(COMMANDS["version"], lambda: __protocol_version__)
        own = commands_of(self.backend).values()
        for row, method in own:
            bound[row.name] = self._bind(row, method)
        names = [attribute for _, attribute in declared_commands(self.backend).values()]
        names += [getattr(method, "__name__", "") for _, method in own]
        for problem in misspelt_methods(self.backend, names):
            logger.warning("%s", problem)
        return bound

    def _bind(self, row: Command, method: Any) -> BackendCommand:
        if not callable(method):
            if method is not None:
                logger.warning("%s", not_a_method(row))
            method = _not_supported
        for problem in signature_problems(row, method):
            logger.warning("%s", problem)
        return self._place(row, method, self._reader(row, method))

    def _bind_foreign(self, name: str, function: Callable[[list[str]], Any] | None) -> BackendCommand:
        """What a user put into `commands`: another command, or a callable.

        A callable gets the texts, and no row says what it answers. HandlerException for None: nobody put any there.
        """
        if function is None:
            raise HandlerException(f"invalid command {quoted(name)}")
        if isinstance(function, BackendCommand):
            return function.renamed(name)
        known = COMMANDS.get(name)
        row = Command(name) if known is None else Command(name, lane=known.lane, timeout=known.timeout)
        return self._place(row, function, lambda argument_texts: [list(argument_texts)])

    def _reader(self, row: Command, method: Callable[..., Any]) -> Callable[[Sequence[str]], list[Any]]:
        """What makes a method's arguments of their texts, in the shape that this method can take."""
        if row.together and not _accepts(method, len(row.arguments)):
            return partial(_without_band, row)
        if not isinstance(self.backend, Backend) and any(a.type == "timestamp" for a in row.arguments):
            return lambda argument_texts: [_as_time(value) for value in row.parse(argument_texts)]
        return row.parse

    def _place(
        self, row: Command, method: Callable[..., Any], arguments: Callable[[Sequence[str]], list[Any]]
    ) -> BackendCommand:
        """Give a method its lane, its thread and its time limit."""
        mark = blocking_of(method)
        locks = [] if row.lane == "reads" else [self._scheduler.lock(row.lane)]
        worker = None
        if mark is not None:
            # Blocking commands of a lane share one thread; a blocking read has its own.
            thread = f"reads {row.name}" if row.lane == "reads" else row.lane
            worker = self._scheduler.worker(thread)
            if row.lane == "reads":
                locks.append(self._scheduler.lock(f"thread {thread}"))
            if mark.lock:
                locks.append(self._scheduler.lock(f"lock {mark.lock}"))
        limit = self._timeouts.get(row.name, row.timeout or self._command_timeout)
        return BackendCommand(row, method, arguments, locks=locks, worker=worker, limit=limit)

    # -- handling -------------------------------------------------------------------------------------

    def handle(self, message: Message) -> Message | Deferred[Message]:
        """The reply, as a Message where the backend answered at once, else as a Deferred of one.

        HandlerException, raised or as the Deferred's failure, for everything that is refused. What else a
        backend raises passes through as it is.
        """
        name = message.name
        arguments = self.reply_arguments(name, message.arguments)
        if isinstance(arguments, Deferred):
            return arguments.addCallback(lambda found: _ok(name, found))
        return _ok(name, arguments)

    def reply_arguments(self, name: str, argument_texts: Sequence[str]) -> list[str] | Deferred[list[str]]:
        """What `handle` does, without a Message on the way: the arguments of the `ok` reply to a request.

        This is how the server asks, as long as no subclass has a `handle` of its own: two Messages a request
        were a sixth of its time.
        """
        self._asked = True
        command = self.commands.get(name)
        if not isinstance(command, BackendCommand) or command.name != name:
            command = self._bind_foreign(name, command)
        arguments = command.arguments(argument_texts)
        if command.locks:
            return self._in_lane(command, arguments, (name, *argument_texts))
        try:
            result = command.method(*arguments)
        except RuntimeError as problem:
            self._name_cure(name, problem)
            raise
        if type(result) in _VALUES or not hasattr(type(result), "__await__"):
            return self._texts(command.row, result)
        return self._scheduler.adopt(name, [], self._texts_later(command, result), command.limit)

    def _in_lane(self, command: BackendCommand, arguments: list[Any], key: Hashable) -> list[str] | Deferred[list[str]]:
        """A command that may have to wait for others: for its lane, or for a thread."""
        if command.worker is not None:
            return self._in_thread(command, arguments, key)
        if any(lock.holder is not None for lock in command.locks):
            return self._scheduler.submit(
                command.name, partial(self._call, command, arguments), command.locks, limit=command.limit
            )
        reply = self._call(command, arguments)
        if isinstance(reply, Deferred):
            return self._scheduler.adopt(command.name, command.locks, reply, command.limit)
        return reply

    def _call(self, command: BackendCommand, arguments: list[Any]) -> list[str] | Deferred[list[str]]:
        """Call the method here and now. Whatever style it is written in, a plain method may return any."""
        # Before the call, which may raise: nobody can ask anything until it has returned.
        self._scheduler.changed()
        try:
            result = command.method(*arguments)
        except RuntimeError as problem:
            self._name_cure(command.name, problem)
            raise
        if type(result) in _VALUES or not hasattr(type(result), "__await__"):
            return self._texts(command.row, result)
        return self._texts_later(command, result)

    def _texts_later(self, command: BackendCommand, result: Any) -> Deferred[list[str]]:
        if isinstance(result, Deferred):
            if result in self._seen:
                raise UnsendableError("a Deferred that it had returned before: return a new one each time")
            self._seen.add(result)
        reply = deferred_of(result)
        reply.addErrback(self._failed, command.name)
        if command.changes:
            reply.addBoth(self._after_change)
        return reply.addCallback(lambda value: self._texts(command.row, value))

    def _in_thread(self, command: BackendCommand, arguments: list[Any], key: Hashable) -> Deferred[list[str]]:
        """Have a blocking method called in its thread, where a generator that it returns is read too."""
        row = command.row

        def call() -> list[str]:
            try:
                result = command.method(*arguments)
            except RuntimeError as problem:
                self._name_cure(row.name, problem)
                raise
            if hasattr(type(result), "__await__"):
                if inspect.iscoroutine(result):
                    result.close()
                raise TypeError(f"@blocking method of {row.name} returned {result!r}, for which nobody waits")
            return self._texts(row, result)

        return self._scheduler.submit(
            row.name,
            call,
            command.locks,
            limit=command.limit,
            worker=command.worker,
            share=None if command.changes else key,
            changes=command.changes,
        )

    def _failed(self, failure: Failure, name: str) -> Failure:
        self._name_cure(name, failure.value)
        return failure

    def _name_cure(self, name: str, problem: BaseException | None) -> None:
        """Say, once a command, what can be done about a failure whose own text says nothing to most people."""
        if problem is not None and name not in self._told_of_asyncio and (cure := asyncio_cure(problem)):
            self._told_of_asyncio.add(name)
            logger.error("%s failed for a reason that can be mended: %s", name, cure)

    def _after_change(self, outcome: Any) -> Any:
        self._scheduler.changed()
        return outcome

    def _texts(self, row: Command, result: Any) -> list[str]:
        """The arguments of the `ok` reply for what a method returned."""
        found = texts(result, row.reply, self.reply_limit)
        if "," in "".join(found) and row.name not in self._warned_of_commas:
            self._warned_of_commas.add(row.name)
            logger.warning("%s answers with a comma, sent as \\,: the deployed clients split there", row.name)
        return found

    # -- the server's life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Tell the backend that the server listens; what goes wrong there is logged, the server stays up."""
        started = self._hook("server_started").addErrback(self._failed, "server_started")
        started.addErrback(_log_hook, "server_started")
        self._import_astropy_when_idle()

    def stop(self) -> Deferred[Any]:
        """End the acquisition, as `?stop` would, then tell the backend; the Deferred fires when both are done.

        Cancelling it gives up whichever hangs: the backend is told all the same, and the Deferred fires.
        """
        ended = maybeDeferred(self.handle, Message(message_type=REQUEST, name="stop"))
        ended.addCallbacks(lambda _: logger.info("acquisition ended"), _log_refused_stop)
        ended.addCallback(lambda _: self._hook("server_stopping"))
        ended.addErrback(self._failed, "server_stopping")
        ended.addErrback(_log_hook, "server_stopping")
        ended.addBoth(lambda _: self._scheduler.end_workers())
        # One cancel() of `ended` itself would only move it on to the next thing that may hang.
        done: Deferred[Any] = Deferred(lambda _: ended.cancel())
        ended.addBoth(lambda _: None if done.called else done.callback(None))
        return done

    def _hook(self, name: str) -> Deferred[Any]:
        hook = getattr(self.backend, name, None)
        if not callable(hook):
            return maybeDeferred(lambda: None)
        return maybeDeferred(hook)

    def _reactor(self) -> ReactorLike:
        if self._given_reactor is None:
            from twisted.internet import reactor

            self._given_reactor = reactor
        return cast(ReactorLike, self._given_reactor)

    def _import_astropy_when_idle(self) -> None:
        """Have astropy ready for the first `start,T` of a plain class, which gets a Time.

        The import takes half a second, and beside a busy server costs other clients 32 ms: so in a thread,
        once nobody has asked anything for a moment. No start can be pending by then that did not import it.
        """
        if isinstance(self.backend, Backend) or "astropy.time" in sys.modules:
            return
        if self._given_reactor is None and "twisted.internet.reactor" not in sys.modules:
            return
        self._asked = False
        self._reactor().callLater(_IDLE, self._import_astropy_if_idle)

    def _import_astropy_if_idle(self) -> None:
        if self._asked:
            self._import_astropy_when_idle()
        elif "astropy.time" not in sys.modules:
            threading.Thread(target=_import_timediscos, name="discos-astropy", daemon=True).start()


def _ok(name: str, arguments: list[str]) -> Message:
    return Message(message_type=REPLY, name=name, code=OK, arguments=arguments)


def _not_supported(*_: Any) -> None:
    raise NotSupportedError


def _without_band(row: Command, argument_texts: Sequence[str]) -> list[Any]:
    """For a method that cannot select a band: the whole band is a call without arguments."""
    if any(row.parse(argument_texts)):
        raise HandlerException("band selection is not supported")
    return []


def _as_time(value: Any) -> Any:
    """What a class that knows nothing of Ticks gets for a timestamp."""
    return value.time if isinstance(value, Ticks) else value


def _accepts(method: Callable[..., Any], count: int) -> bool:
    """Whether a method can be called with so many positional arguments, by its signature."""
    try:
        inspect.signature(method).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _import_timediscos() -> None:
    try:
        importlib.import_module("discosbackend.timediscos")
    except Exception:  # a thread has nobody to raise to
        logger.exception("astropy cannot be imported: timed start and stop will fail")


def _log_refused_stop(failure: Any) -> None:
    if failure.check(HandlerException):
        logger.info("acquisition not ended by the server: %s", failure.value)
    else:
        logger.error("ending the acquisition failed", exc_info=_exc_info(failure))


def _log_hook(failure: Any, name: str) -> None:
    logger.error("%s of the backend failed", name, exc_info=_exc_info(failure))


def _exc_info(failure: Any) -> Any:
    return (failure.type, failure.value, failure.getTracebackObject())
