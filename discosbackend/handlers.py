"""Handlers: they turn a request into a reply. Handler is the base class, DBProtocolHandler calls a backend.

A BackendCommand is made once for each command. It has the command's method, the functions that read the arguments and
write the reply, the lane and the time limit. A request only looks it up and gives it to the scheduler. connection.py
handles bytes. replies.py makes the line of every reply, also after an unexpected exception.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults, maybeDeferred, succeed
from twisted.python.failure import Failure

from discosbackend._version import __protocol_version__
from discosbackend.advice import asyncio_methods, misspelt_methods, not_a_method, signature_problems
from discosbackend.backend import Backend, blocking_of, commands_of, declared_commands
from discosbackend.commands import COMMANDS, Command
from discosbackend.coroutines import GivenUp, asyncio_cure, deferred_of
from discosbackend.errors import NOT_ALLOWED, HandlerException, NotSupportedError
from discosbackend.grammar import OK, REPLY, REQUEST, Message, parse_message, quoted
from discosbackend.reactors import installed_reactor, loop_of, reactor_or_default, running_loop, runs_on_asyncio
from discosbackend.replies import REPLY_LIMIT, Limits, ReplyWriter, limit_of, message_line
from discosbackend.scheduler import LaneState, Lock, ReactorLike, Scheduler, Worker
from discosbackend.ticks import Ticks

if TYPE_CHECKING:
    from discosbackend.link import Link

__all__ = [
    "REPLY_LIMIT",
    "AlwaysFailHandler",
    "AlwaysOkHandler",
    "AlwaysRaiseHandler",
    "DBProtocolHandler",
    "Handler",
    "HandlerException",
    "execute_of",
    "execute_reads_of",
]

logger = logging.getLogger(__name__)

# Seconds without a request after which a server counts as idle.
_IDLE = 0.1

# The attributes of a DBProtocolHandler that are not pickled or copied, because each process needs its own.
_OF_A_PROCESS = frozenset(("_scheduler", "_foreign", "_bound", "_starting", "commands"))


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

    def execute(self, name: str, arguments: Sequence[str]) -> bytes | Deferred[bytes]:
        """Return the line of the reply to a request, without CR LF, by calling handle() with a Message.

        Override handle() instead: the server does not call an overridden execute().

        Parameters
        ----------
        name
            The name of the command.
        arguments
            The arguments of the request, without escapes.

        Returns
        -------
        line
            The line, or a Deferred that fires with it.

        Raises
        ------
        HandlerException
            As for `handle`.
        UnsendableError
            If the result of handle() is not a valid reply to this request.
        """
        result = self.handle(Message(message_type=REQUEST, name=name, arguments=arguments))
        if not isinstance(result, Message) and hasattr(type(result), "__await__"):
            return deferred_of(result, name).addCallback(lambda reply: message_line(name, reply, limit_of(self)))
        return message_line(name, result, limit_of(self))

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


def execute_of(handler: Handler) -> Callable[[str, Sequence[str]], bytes | Deferred[bytes]]:
    """Return the function by which the server executes requests with a handler.

    Parameters
    ----------
    handler
        Any object with a method `handle`. It may have been written for the original package.

    Returns
    -------
    execute
        DBProtocolHandler.execute, if that does what `handle` does; otherwise Handler.execute, which calls `handle`.
    """
    handle: Any = handler.handle
    if getattr(handle, "__func__", None) is DBProtocolHandler.handle and handle.__self__ is handler:
        return MethodType(DBProtocolHandler.execute, handler)
    return MethodType(Handler.execute, handler)


def execute_reads_of(handler: Handler) -> Callable[[str, Sequence[str]], bytes | Deferred[bytes]]:
    """Return the function by which the server executes the requests of a client that may only read.

    It refuses every command outside the lane `reads`, without calling the handler. An unknown name gets the same reply
    as from other clients. If the handler has a `handle` of its own, unknown names are refused too, because it may
    execute them.

    Parameters
    ----------
    handler
        As for execute_of().
    """
    execute = execute_of(handler)
    answers_itself = getattr(execute, "__func__", None) is not DBProtocolHandler.execute

    def may_read(name: str) -> bool:
        command = getattr(handler, "commands", {}).get(name)
        if isinstance(command, BackendCommand):
            return not command.affects_reads
        if name in COMMANDS:
            return COMMANDS[name].lane == "reads"
        return command is None and not answers_itself

    def execute_reads(name: str, arguments: Sequence[str]) -> bytes | Deferred[bytes]:
        if not may_read(name):
            raise HandlerException(NOT_ALLOWED)
        return execute(name, arguments)

    return execute_reads


class BackendCommand:
    """A row of the table of commands, together with the backend's method that answers it.

    The values of `DBProtocolHandler.commands` are of this class. To call a BackendCommand, pass a list of argument
    texts. It checks the texts and calls the method at once, without waiting for its lane.
    """

    __slots__ = ("row", "name", "affects_reads", "method", "read", "reads_nothing", "write", "locks", "worker", "limit")

    def __init__(
        self,
        row: Command,
        method: Callable[..., Any],
        read: Callable[[Sequence[str]], list[Any]],
        write: Callable[[Any], bytes],
        *,
        locks: list[Lock],
        worker: Worker | None,
        limit: float | None,
    ) -> None:
        self.row = row
        self.name = row.name
        # Whether the command may change what the commands of the lane `reads` return.
        self.affects_reads = row.lane != "reads"
        self.method = method
        # The function that converts the texts of the arguments to the method's arguments.
        self.read = read
        # Whether `read` returns no values for a request without arguments, so that it need not be called.
        self.reads_nothing = read == row.parse and not row.arguments
        # The function that makes the reply from the method's result.
        self.write = write
        self.locks = locks
        self.worker = worker
        self.limit = limit

    def __call__(self, argument_texts: list[str]) -> Any:
        return self.method(*self.read(argument_texts))

    def renamed(self, name: str, limits: Limits) -> BackendCommand:
        """Return the same command with another name. `limits` has the reply limit."""
        row = replace(self.row, name=name)
        write = ReplyWriter(row, limits).write
        return BackendCommand(
            row, self.method, self.read, write, locks=self.locks, worker=self.worker, limit=self.limit
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
        If `backend` is a class instead of an instance, or if one of its declared commands or sensors is not valid.
    ValueError
        If a time limit or `reply_limit` is not valid, if `timeouts` names an unknown command, or if two commands or two
        sensors of the backend have the same name.
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
        # A backend with sensors has imported this module. It raises an exception if they are not valid.
        if sensors := sys.modules.get("discosbackend.sensors"):
            sensors.sensors_of(self.backend)
        reactor = self._given_reactor
        # The reactor uses the host's clock, which may be stepped, so time limits use time.monotonic. A fake clock is
        # not related to time.monotonic, so it is used itself.
        monotonic = reactor.seconds if isinstance(reactor, task.Clock) else time.monotonic
        self._scheduler = Scheduler(self._reactor, monotonic)
        # The entries of `commands` that users have added, with what was made of them.
        self._foreign: dict[str, tuple[object, BackendCommand]] = {}
        self.commands: dict[str, Callable[[list[str]], Any]] = self._bind_all()
        self._bound = dict(self.commands)
        # The Deferred of server_started(), while it waits for something.
        self._starting: Deferred[Any] | None = None

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
        known_function, command = self._foreign.get(name, (None, None))
        if isinstance(function, BackendCommand):
            if command is None or known_function is not function or command.method is not function.method:
                command = function.renamed(name, self)
                self._foreign[name] = function, command
        elif command is None or known_function is not function:
            known = COMMANDS.get(name)
            row = Command(name) if known is None else Command(name, lane=known.lane, timeout=known.timeout)
            command = self._place(row, function, lambda argument_texts: [list(argument_texts)])
            self._foreign[name] = function, command
        return command

    def _reader(self, row: Command, method: Callable[..., Any]) -> Callable[[Sequence[str]], list[Any]]:
        """Return a function that converts argument texts to values in the form that the method accepts."""
        if row.together and not _accepts(method, len(row.arguments)):
            return partial(_without_band, row)
        as_times = [a.type == "timestamp" and not a.as_ticks for a in row.arguments]
        if not isinstance(self.backend, Backend) and any(as_times):
            return lambda argument_texts: [
                _as_time(value) if as_time else value
                for value, as_time in zip(row.parse(argument_texts), as_times, strict=False)
            ]
        return row.parse

    def _place(
        self, row: Command, method: Callable[..., Any], read: Callable[[Sequence[str]], list[Any]]
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
        write = ReplyWriter(row, self).write
        return BackendCommand(row, method, read, write, locks=locks, worker=worker, limit=limit)

    @property
    def lanes(self) -> list[LaneState]:
        """For each lane, thread and named lock: the command that holds it, and the commands that wait for it."""
        return self._scheduler.lanes

    # -- handling -------------------------------------------------------------------------------------

    def execute(self, name: str, arguments: Sequence[str]) -> bytes | Deferred[bytes]:
        """Do the same as Handler.execute, without a Message: look up the command, and give it to the scheduler.

        If handle() was overridden or replaced, the server does not call this method.
        """
        command = self.commands.get(name)
        if type(command) is not BackendCommand or command.name != name:
            command = self._bind_foreign(name, command)
        values = () if not arguments and command.reads_nothing else command.read(arguments)
        return self._scheduler.run(command, values, arguments)

    def handle(self, message: Message) -> Message | Deferred[Message]:
        """Return the reply as a Message, or as a Deferred if the backend does not answer at once.

        If the request is refused, raise HandlerException, or return a Deferred that fails with it. Any other exception
        of the backend is passed on unchanged.
        """
        line = DBProtocolHandler.execute(self, message.name, message.arguments)
        return line.addCallback(_parsed) if isinstance(line, Deferred) else _parsed(line)

    # -- start and stop of the server -----------------------------------------------------------------

    def start(self) -> None:
        """Connect the links of the backend, then call its server_started().

        A failure is logged, and the server continues. On an asyncio reactor that does not run yet, all of this is done
        when the reactor runs.
        """
        loop = None if running_loop() is not None else loop_of(self._reactor_if_imported())
        if loop is None:
            self._start()
        else:
            # It is called before any request: the first turn of the loop can accept a connection, but reads nothing.
            loop.call_soon(self._start)

    def _start(self) -> None:
        for link in self._links():
            link.start(self._reactor())
        if not runs_on_asyncio():
            names = [attribute for _, attribute in declared_commands(self.backend).values()]
            for problem in asyncio_methods(self.backend, names):
                logger.warning("%s", problem)
        self._starting = starting = self._hook("server_started")
        starting.addBoth(self._on_started)
        self._import_astropy_when_idle()

    def stop(self) -> Deferred[Any]:
        """End the acquisition, as the request `stop` does, call server_stopping() of the backend, and close its links.

        After server_stopping(), the links still send the questions that were asked until then. Then the background
        tasks of the backend are cancelled. The returned Deferred fires when all of this is done. Cancelling it cancels
        the step that is running, but server_stopping() is called in any case. The Deferred never fails.
        """
        given_up = False
        ended = maybeDeferred(self.handle, Message(message_type=REQUEST, name="stop"))
        ended.addCallbacks(lambda _: logger.info("acquisition ended"), _log_refused_stop)
        ended.addCallback(lambda _: self._hook("server_stopping"))
        ended.addErrback(_log_hook, "server_stopping")
        # Before the tasks are cancelled: `end` of an Acquisition can have started one that stops the device.
        ended.addCallback(lambda _: None if given_up else self._finish_questions())
        ended.addErrback(lambda failure: failure.trap(CancelledError))
        ended.addCallback(lambda _: self._cancel_background_tasks())
        # Before the threads end: a thread may wait for an answer of a device.
        ended.addBoth(lambda _: gatherResults([link.close() for link in self._links()]))
        ended.addBoth(lambda _: self._scheduler.end_workers())
        # `ended` itself is not returned: after its cancel() it would still wait for server_stopping().
        done: Deferred[Any] = Deferred(lambda _: give_up())

        def finish(_: Any) -> None:
            if not done.called:
                done.callback(None)

        def give_up() -> None:
            nonlocal given_up
            given_up = True
            ended.cancel()
            # A task of asyncio ends later.
            finish(None)

        ended.addBoth(finish)
        return done

    def _finish_questions(self) -> Deferred[Any]:
        """Wait until the links have the answers to the questions that were asked until now."""
        links = self._links()
        # A task of asyncio that was just started has asked nothing yet.
        is_turn_needed = links and running_loop() is not None
        turn = task.deferLater(cast(Any, self._reactor()), 0) if is_turn_needed else succeed(None)
        return turn.addCallback(lambda _: DeferredList([link.finish() for link in links], consumeErrors=True))

    def _links(self) -> list[Link]:
        """Return the links of the backend. They are connected while the server runs."""
        # A backend that has a link has imported the module. Other servers do not need it.
        if "discosbackend.link" not in sys.modules:
            return []
        from discosbackend.link import links_of

        return links_of(self.backend)

    def _hook(self, name: str) -> Deferred[Any]:
        hook = getattr(self.backend, name, None)
        if not callable(hook):
            return maybeDeferred(lambda: None)
        return maybeDeferred(lambda: self._result_of(hook, name))

    def _on_started(self, outcome: Any) -> None:
        cancelled, self._starting = self._starting is None, None
        if isinstance(outcome, Failure) and not (cancelled and outcome.check(CancelledError, GivenUp)):
            _log_hook(outcome, "server_started")

    @staticmethod
    def _result_of(hook: Callable[[], Any], name: str) -> Any:
        result = hook()
        return deferred_of(result, name) if hasattr(type(result), "__await__") else result

    def _cancel_background_tasks(self) -> Deferred[Any]:
        """Cancel what the backend has started with spawn(), and wait for its end. server_started() is cancelled too."""
        ends: list[Deferred[Any]] = []
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            ends.append(starting)
        tasks = getattr(self.backend, "__dict__", {}).get("_background_tasks")
        if tasks is not None:
            ends.append(tasks.cancel_all())
        return DeferredList(ends, consumeErrors=True)

    def _reactor_if_imported(self) -> Any:
        """Return the reactor, or None if it was neither given nor imported."""
        return self._given_reactor or installed_reactor()

    def _reactor(self) -> ReactorLike:
        if self._given_reactor is None:
            self._given_reactor = reactor_or_default()
        return cast(ReactorLike, self._given_reactor)

    def _import_astropy_when_idle(self) -> None:
        """Import astropy before the first timed start, if the backend does not derive from Backend and so gets a Time.

        The import takes half a second, and delays the clients of a busy server by 32 ms. So a thread does it, after
        0.1 s without a request. Any pending timed start has already imported astropy.
        """
        if isinstance(self.backend, Backend) or "astropy.time" in sys.modules:
            return
        if self._reactor_if_imported() is None:
            return
        self._scheduler.used = False
        self._reactor().callLater(_IDLE, self._import_astropy_if_idle)

    def _import_astropy_if_idle(self) -> None:
        if self._scheduler.used:
            self._import_astropy_when_idle()
        elif "astropy.time" not in sys.modules:
            threading.Thread(target=_import_timediscos, name="discos-astropy", daemon=True).start()


def _parsed(line: bytes) -> Message:
    return parse_message(line.decode("latin-1"))


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
    if cure := asyncio_cure(failure.value):
        logger.error("%s failed, and has to be changed: %s", name, cure)


def _exc_info(failure: Any) -> Any:
    return (failure.type, failure.value, failure.getTracebackObject())
