"""Handlers: they turn a request into a reply. Handler is the base class, DBProtocolHandler calls a backend.

This module converts the texts of arguments to values, finds the method and the lane of a command, and converts the
result of the method to the arguments of a reply. protocol.py handles bytes and connections. replies.py makes the line
of every reply, also after an unexpected exception.
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
"""The length of the longest reply in bytes, with CR LF.

The deployed clients read a reply into a buffer of 512 bytes without a bounds check."""

# Seconds without a request after which a server counts as idle.
_IDLE = 0.1

# The attributes of a DBProtocolHandler that are not pickled or copied, because each process needs its own.
_OF_A_PROCESS = frozenset(
    ("_scheduler", "_warned_of_commas", "_told_of_asyncio", "_seen", "_asked", "_bound", "commands")
)

# The usual types of results. This test is faster than the test that a type has no __await__.
_VALUES = frozenset((type(None), tuple, list, str, int, float, bool, Ticks))


class Handler:
    """The base class of handlers: handle() returns the reply to a request. Subclass it to answer without a Backend."""

    reply_limit: int | None = REPLY_LIMIT
    """The length of the longest reply in bytes, with CR LF. None: no limit."""

    def handle(self, message: Message) -> Message | Deferred[Message]:
        """Return the reply to a request, or a Deferred that fires with it.

        Parameters
        ----------
        message
            The request.

        Returns
        -------
        reply
            A reply with the name of the request. For any other result the server sends a `fail` with a fixed reason.

        Raises
        ------
        HandlerException
            If the request is refused. The method raises it, or the Deferred fails with it. Its text becomes the reason
            of the `fail` reply. For any other exception the reason is fixed.
        """
        raise NotImplementedError

    def start(self) -> object:
        """Called when the server starts to listen."""

    def stop(self) -> object:
        """Called when the server has stopped listening. The server waits for a Deferred that it returns."""


class AlwaysOkHandler(Handler):
    """Answers every request with `ok` and the arguments of the request. Use it to test a connection."""

    def handle(self, message: Message) -> Message:
        return Message(message_type=REPLY, name=message.name, code=OK, arguments=message.arguments)


class AlwaysFailHandler(Handler):
    """Returns a request instead of a reply, so the server sends a `fail`. Use it to test a client."""

    def handle(self, message: Message) -> Message:
        return Message(message_type=REQUEST, name=message.name, code=OK, arguments=message.arguments)


class AlwaysRaiseHandler(Handler):
    """Raises an unexpected exception for every request, so the server sends a `fail`. Use it to test a client."""

    def handle(self, message: Message) -> Message:
        raise RuntimeError("always raised exception")


class BackendCommand:
    """A row of the table of commands, together with the backend's method that answers it.

    The values of `DBProtocolHandler.commands` are of this class. To call a BackendCommand, pass a list of argument
    texts. It checks the texts and calls the method at once, without waiting for its lane. The attribute `arguments` is
    the function that converts the texts to the method's arguments.
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
        # Whether the command may change what the commands of the lane `reads` return.
        self.changes = row.lane != "reads"
        self.method = method
        self.arguments = arguments
        self.locks = locks
        self.worker = worker
        self.limit = limit

    def __call__(self, argument_texts: list[str]) -> Any:
        return self.method(*self.arguments(argument_texts))

    def renamed(self, name: str) -> BackendCommand:
        """Return the same command with another name."""
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

    Parameters
    ----------
    backend
        An instance of a subclass of Backend. It can also be an instance of any class with methods of the same names, as
        in the original package. The methods of such a class get times as astropy Time, format "discos".
    command_timeout
        The time limit of a command, in s. None: no limit.
    timeouts
        The time limits of single commands, as {wire name: limit in s}. None as a limit: no limit.
    reply_limit
        The length of the longest reply in bytes, with CR LF. At least 128. None: no limit.
    reactor
        The reactor. Default: Twisted's. It is imported only when a command does not answer at once.

    Raises
    ------
    TypeError
        If `backend` is a class instead of an instance, or if one of its declared commands is not valid.
    ValueError
        If a time limit or `reply_limit` is not valid, if `timeouts` names an unknown command, or if two commands of
        the backend have the same name.
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
            raise ValueError(f"reply_limit {reply_limit!r} is too short for a reason: at least 128")
        self.backend = backend
        self.reply_limit = reply_limit
        self._command_timeout = command_timeout
        self._given_reactor = reactor
        self._prepare()
        if unknown := sorted(set(self._timeouts) - set(self.commands)):
            raise ValueError(f"timeouts names no command of this backend: {', '.join(map(repr, unknown))}")

    def _prepare(self) -> None:
        """Create the attributes that belong to this process: the scheduler, with its threads, and the commands."""
        reactor = self._given_reactor
        # The reactor uses the host's clock, which may be stepped, so time limits use time.monotonic. A fake clock is
        # not related to time.monotonic, so it is used itself.
        monotonic = reactor.seconds if isinstance(reactor, task.Clock) else time.monotonic
        self._scheduler = Scheduler(self._reactor, monotonic)
        self._warned_of_commas: set[str] = set()
        self._told_of_asyncio: set[str] = set()
        # The Deferreds that methods have returned. If a method returned one again, its result would already be changed.
        self._seen: WeakSet[Deferred[Any]] = WeakSet()
        self._asked = False
        self.commands: dict[str, Callable[[list[str]], Any]] = self._bind_all()
        self._bound = dict(self.commands)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickling or copying, before the handler serves: its arguments, and `commands`."""
        state = {name: value for name, value in vars(self).items() if name not in _OF_A_PROCESS}
        bound = {id(command): name for name, command in self._bound.items()}
        # A command that was bound here is stored by its name, because the copy binds its own. Others are stored as is.
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
        """Return a command for an entry that a user has put into `commands`: another command, or a callable.

        A callable gets a list of the argument texts, and its reply has any number of values. Raise HandlerException if
        `function` is None, because then there is no such command.
        """
        if function is None:
            raise HandlerException(f"invalid command {quoted(name)}")
        if isinstance(function, BackendCommand):
            return function.renamed(name)
        known = COMMANDS.get(name)
        row = Command(name) if known is None else Command(name, lane=known.lane, timeout=known.timeout)
        return self._place(row, function, lambda argument_texts: [list(argument_texts)])

    def _reader(self, row: Command, method: Callable[..., Any]) -> Callable[[Sequence[str]], list[Any]]:
        """Return a function that converts argument texts to values in the form that the method accepts."""
        if row.together and not _accepts(method, len(row.arguments)):
            return partial(_without_band, row)
        if not isinstance(self.backend, Backend) and any(a.type == "timestamp" for a in row.arguments):
            return lambda argument_texts: [_as_time(value) for value in row.parse(argument_texts)]
        return row.parse

    def _place(
        self, row: Command, method: Callable[..., Any], arguments: Callable[[Sequence[str]], list[Any]]
    ) -> BackendCommand:
        """Return the command with its locks, its thread and its time limit."""
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
        """Return the reply as a Message, or as a Deferred if the backend does not answer at once.

        If the request is refused, raise HandlerException, or return a Deferred that fails with it. Any other exception
        of the backend is passed on unchanged.
        """
        name = message.name
        arguments = self.reply_arguments(name, message.arguments)
        if isinstance(arguments, Deferred):
            return arguments.addCallback(lambda found: _ok(name, found))
        return _ok(name, arguments)

    def reply_arguments(self, name: str, argument_texts: Sequence[str]) -> list[str] | Deferred[list[str]]:
        """Return the arguments of the `ok` reply to a request. It does the same as `handle`, without Message objects.

        The server calls this method instead of `handle`, unless a subclass overrides `handle`. Creating two Messages
        per request would take a sixth of the time of a request.

        Parameters
        ----------
        name
            The name of the command.
        argument_texts
            The arguments of the request, without escapes.

        Returns
        -------
        arguments
            The arguments of the reply, without escapes, or a Deferred that fires with them.

        Raises
        ------
        HandlerException
            As for `handle`.
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
        """Call a command that may have to wait for its lane or for a thread."""
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
        """Call the method at once. An ordinary method may return an awaitable too, so its result is checked."""
        # changed() comes before the call, because the method may raise. Meanwhile no other request is handled.
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
        """Call a blocking method in its thread. If it returns a generator, that is read in the same thread."""
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
                raise TypeError(f"@blocking method of {row.name} returned {result!r}, which is never awaited")
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
        """If a failure means that asyncio is not running, log what to write instead, once per command."""
        if problem is not None and name not in self._told_of_asyncio and (cure := asyncio_cure(problem)):
            self._told_of_asyncio.add(name)
            logger.error("%s failed, and has to be changed: %s", name, cure)

    def _after_change(self, outcome: Any) -> Any:
        self._scheduler.changed()
        return outcome

    def _texts(self, row: Command, result: Any) -> list[str]:
        """Convert the result of a method to the arguments of the `ok` reply."""
        found = texts(result, row.reply, self.reply_limit)
        if "," in "".join(found) and row.name not in self._warned_of_commas:
            self._warned_of_commas.add(row.name)
            logger.warning("a reply to %s contains a comma, sent as \\,: the deployed clients split there", row.name)
        return found

    # -- start and stop of the server -----------------------------------------------------------------

    def start(self) -> None:
        """Call server_started() of the backend. A failure is logged, and the server continues."""
        started = self._hook("server_started").addErrback(self._failed, "server_started")
        started.addErrback(_log_hook, "server_started")
        self._import_astropy_when_idle()

    def stop(self) -> Deferred[Any]:
        """End the acquisition, as the request `stop` does, then call server_stopping() of the backend.

        The returned Deferred fires when both are done. Cancelling it cancels the step that is running, but
        server_stopping() is called in any case. The Deferred never fails.
        """
        ended = maybeDeferred(self.handle, Message(message_type=REQUEST, name="stop"))
        ended.addCallbacks(lambda _: logger.info("acquisition ended"), _log_refused_stop)
        ended.addCallback(lambda _: self._hook("server_stopping"))
        ended.addErrback(self._failed, "server_stopping")
        ended.addErrback(_log_hook, "server_stopping")
        ended.addBoth(lambda _: self._scheduler.end_workers())
        # `ended` itself is not returned: after its cancel() it would still wait for server_stopping().
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
        """Import astropy before the first timed start, if the backend does not derive from Backend and so gets a Time.

        The import takes half a second, and delays the clients of a busy server by 32 ms. So a thread does it, after
        0.1 s without a request. Any pending timed start has already imported astropy.
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
    """Return no arguments, for a method that cannot select a band. Raise HandlerException if there is a band."""
    if any(row.parse(argument_texts)):
        raise HandlerException("band selection is not supported")
    return []


def _as_time(value: Any) -> Any:
    """Convert Ticks to an astropy Time, for a class that does not derive from Backend."""
    return value.time if isinstance(value, Ticks) else value


def _accepts(method: Callable[..., Any], count: int) -> bool:
    """Return whether the signature of a method accepts `count` positional arguments."""
    try:
        inspect.signature(method).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _import_timediscos() -> None:
    try:
        importlib.import_module("discosbackend.timediscos")
    except Exception:  # in a thread, an exception would be lost
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
