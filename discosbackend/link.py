"""Link: a connection to a device that answers questions. It reconnects by itself.

At most one question is outstanding. An answer that arrives too late is not taken for the answer to the next question.
link_endpoints.py reads the addresses, and link_framing.py splits the received bytes into messages.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python import threadable
from twisted.python.failure import Failure

from discosbackend.coroutines import AnyTaskDeferred, GivenUp
from discosbackend.errors import HandlerException, LinkDown, LinkTimeout
from discosbackend.link_connection import Connection, Connector, Events
from discosbackend.link_endpoints import address_from
from discosbackend.link_framing import Framing, MessageSplitter, MessageTooLong, framing_of
from discosbackend.link_health import LinkHealth, reason_of_failure
from discosbackend.link_setup import Setup, calling
from discosbackend.reactors import reactor_or_default

__all__ = ["Link", "LinkDown", "LinkTimeout", "links_of"]

# All times are in seconds. The pauses between attempts to connect double from the first one to `max_pause`. Each is
# shortened at random by up to half, so that many servers do not reconnect at the same instant.
_FIRST_PAUSE = 0.2
# A connection that has lasted this long counts as working, unless a question was not answered.
_STABLE = 1.0
# By default, a serial line counts as quiet after this time.
_QUIET = 0.25
# How long a question takes to fail if `_refusing`.
_REFUSAL = 0.01
# How often a thread that waits for an answer checks that the reactor is still running.
_THREAD_CHECK = 1.0


class _Question:
    """A question, and the Deferred of its answer."""

    __slots__ = ("deferred", "ended", "is_noted", "sent", "setup", "text")

    def __init__(self, text: bytes, setup: Setup[_Question] | None, give_up: Callable[[_Question], None]) -> None:
        self.text = text
        self.setup = setup
        """The run of on_connect that asks it. None: it is asked by somebody else."""
        self.sent = 0.0
        """When it was sent."""
        self.deferred: Deferred[bytes] = AnyTaskDeferred(lambda _: give_up(self))
        self.ended: Deferred[None] = Deferred()
        """Fires when the link has no more to do for this question. That of a cancelled one may be later."""
        self.is_noted = False
        """Whether the log reports it if it is not sent."""

    def end(self, outcome: bytes | Exception) -> None:
        """Fire the Deferreds. That of the answer is not fired if it was cancelled."""
        if not self.deferred.called:
            # Its callbacks may ask again.
            with calling(self.setup):
                if isinstance(outcome, Exception):
                    self.deferred.errback(outcome)
                else:
                    self.deferred.callback(outcome)
        if not self.ended.called:
            self.ended.callback(None)


class Link:
    """A connection to a device that answers each question with one message. It reconnects by itself.

    Make it in `__init__` of the backend, and assign it to an attribute. It connects when the server has started, or at
    the first question. Questions are sent one at a time, in order. When the server stops, the questions that were asked
    until then are still sent, within the stop timeout. Then the link is closed.

    While the link connects for the first time, or reconnects after the connection was lost, questions wait. The first
    one waits for up to `timeout`. The question that was sent when the connection was lost fails.

    An outage begins when an attempt to connect fails, or when the next connection is lost too, within 1 s and before an
    answer. Then all waiting questions fail. During the outage, each new question fails after 10 ms and does not start
    an attempt to connect: the link tries again after pauses that grow from 0.2 s to `max_pause`.

    Parameters
    ----------
    address
        `tcp://host:port`, `unix:///path`, or `serial:///path?baudrate=115200`, also with `bytesize`, `parity`,
        `stopbits`, `xonxoff` and `rtscts`. Serial links need pyserial: `pip install 'discosbackend[serial]'`. It can
        also be an endpoint of Twisted, or a `discosbackend.testing.LinkSimulator`.
    timeout
        How long the device may take to answer, in s. Also how long the first waiting question waits for a connection.
    terminator
        The bytes that end each question and each answer. They are not a part of the answer. Default: a line feed. With
        `length` or `framing`, it only ends the questions, and the default is `b""`.
    prompt
        If given, an answer ends with this prompt instead, and can have several lines.
    length
        If given, each answer has this number of bytes.
    framing
        If given, a function that finds the answer in the received bytes. It returns the answer and the bytes after
        it, or None if the answer is not complete. It is called each time bytes arrive, so it gets the same bytes more
        than once and must not keep a state.
    max_answer
        The maximum length of a message in bytes, with its terminator or prompt.
    unsolicited
        A function that is called with every message. It returns whether the message is unsolicited, such as an alarm.
        A message for which it returns false is the answer to the outstanding question, or is discarded if there is
        none.
    quiet
        After connecting, a link discards what it receives until nothing has arrived for this time, in s. A serial link
        also does this after a question that was not answered in time. Default: 0.25 for a serial link, else 0.
    max_pause
        The longest pause between two attempts to connect, in s.
    on_connect
        A function or coroutine function that is called with the link each time it is connected, for example to send
        the settings that the device has lost. Other questions wait until it has ended. If it raises an exception, the
        connection is closed, and the link connects again later, as if the connection was lost.
    reactor
        The reactor. Default: that of the server.

    Raises
    ------
    ValueError
        If the address or another argument is not valid.
    TypeError
        If an argument has a wrong type.
    ImportError
        If the link is serial, and pyserial is not installed.

    Examples
    --------
    >>> from discosbackend import Backend, blocking
    >>> from discosbackend.link import Link
    >>> class MyBackend(Backend):
    ...     def __init__(self):
    ...         self.link = Link("tcp://192.168.1.20:7147", timeout=2.0)
    ...
    ...     async def get_tpi(self):
    ...         answer = await self.link.ask(b"pow?")
    ...         return [float(text) for text in answer.split()]
    ...
    ...     @blocking
    ...     def get_rms(self):
    ...         return float(self.link.ask_blocking(b"rms?"))
    >>> MyBackend().link.name
    '192.168.1.20:7147'
    """

    def __init__(
        self,
        address: str | IStreamClientEndpoint,
        *,
        timeout: float = 2.0,
        terminator: bytes | None = None,
        prompt: bytes | None = None,
        length: int | None = None,
        framing: Framing | None = None,
        max_answer: int = 2**16,
        unsolicited: Callable[[bytes], object] | None = None,
        quiet: float | None = None,
        max_pause: float = 30.0,
        on_connect: Callable[[Link], Any] | None = None,
        reactor: Any = None,
    ) -> None:
        # For pickle and copy: the copy is a new, unconnected Link with the same arguments.
        self._arguments = {name: value for name, value in locals().items() if name != "self"}
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        if quiet is not None and not 0 <= quiet < math.inf:
            raise ValueError(f"quiet must be a number of seconds, 0 or more, not {quiet!r}")
        if not 0 < max_pause < math.inf:
            raise ValueError(f"max_pause must be a number of seconds above 0, not {max_pause!r}")
        if on_connect is not None and not callable(on_connect):
            raise TypeError(f"on_connect must be a function that takes the link, not {on_connect!r:.80}")
        if not max_answer >= 1:
            raise ValueError(f"max_answer must be a number of bytes above 0, not {max_answer!r}")
        self._address = address_from(address) if isinstance(address, str) else None
        self._endpoint = address
        self._serial = self._address is not None and self._address.is_serial
        self._name = _name_of(address) if self._address is None else self._address.name
        self._timeout = timeout
        self._is_text = length is None and framing is None
        self._terminator, found = framing_of(terminator, prompt, length, framing)
        self._splitter = MessageSplitter(found, max_answer)
        self._max_answer = max_answer
        self._unsolicited = unsolicited
        self._quiet = (_QUIET if self._serial else 0.0) if quiet is None else quiet
        self._max_pause = max_pause
        self._on_connect = on_connect
        self._given_reactor = reactor
        self._reactor: Any = reactor
        self._thread = 0
        self._health = LinkHealth(self._name, self._call_later, self._now)
        self._closed = False
        self._service: Connector | None = None
        self._shutdown: Any = None
        # The questions that were not sent yet, and the one that was.
        self._waiting: deque[_Question] = deque()
        self._asked: _Question | None = None
        # Limits the time of the question that was sent, or else of the first one that waits.
        self._timer: Any = None
        self._connection: Connection | None = None
        # The run of on_connect. None: it has ended, or there is none.
        self._setup: Setup[_Question] | None = None
        # Timer: when it fires, the connection counts as working. None: it works, or there is none.
        self._stable: Any = None
        # Timer: when it fires, discarding ends. None: nothing is discarded.
        self._discarding: Any = None
        self._reading = False
        # Whether the message that is being received began before the question was sent.
        self._is_stale = False
        # Whether questions fail unsent (after _REFUSAL): the link is closed, an attempt to connect failed, or the
        # connection was lost again before it worked.
        self._refusing = False
        # The call that lets the waiting questions fail.
        self._refusal: Any = None
        # Lost connections and failed attempts since the link last worked.
        self._failures = 0

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # as a new one

    def __repr__(self) -> str:
        return f"<Link to {self._name}>"

    @property
    def name(self) -> str:
        """The device's name in messages: host:port, the path, or the text of the endpoint."""
        return self._name

    @property
    def problem(self) -> str:
        """What is wrong with the link, in one sentence without a comma, or "" if nothing is.

        `status` can return it: `return Ticks.now(), self.link.problem or "ok", self.acquiring`.
        """
        if self._closed:
            return self._health.closed()
        is_ready = self._connection is not None and self._setup is None
        return "" if self._service is None else self._health.problem(connected=is_ready)

    # -- questions ------------------------------------------------------------------------------------

    def ask(self, question: bytes) -> Deferred[bytes]:
        """Send a question, and return its answer. Questions are sent one at a time, in order.

        If the link is not connected, the question waits or fails: see the description of the class. If the Deferred is
        cancelled, an unsent question is dropped; if it was sent, its answer is discarded.

        Parameters
        ----------
        question
            The question, without the terminator.

        Returns
        -------
        answer
            A Deferred, which can be awaited, also more than once. Its result is the answer, without the terminator or
            prompt. It fails with LinkDown or LinkTimeout if there is no answer. Both are refusals: the client gets a
            `fail` with the text of the exception. If the function `framing` fails, it fails with the exception of that
            function.

        Raises
        ------
        TypeError
            If the question is not bytes.
        ValueError
            If the question contains the terminator, because the device would read two questions.
        RuntimeError
            If it is called in a thread of a `@blocking` method.
        """
        self._check(question)
        if not isinstance(self._reactor, Clock) and threadable.ioThread is not None and not threadable.isInIOThread():
            raise RuntimeError("ask() belongs to the reactor's thread: use ask_blocking() in a @blocking method")
        if not self._closed:
            self.start()
        setup = self._setup if self._setup is not None and self._setup.is_calling else None
        asked = _Question(question, setup, self._give_up)
        if setup is not None:
            setup.waiting.append(asked)
            self._pump()
            return asked.deferred
        self._waiting.append(asked)
        if self._refusing:
            # Not at once: a coroutine that asks again and again would block the reactor.
            self._fail_soon(_REFUSAL)
        else:
            self._pump()
        return asked.deferred

    def ask_blocking(self, question: bytes) -> bytes:
        """Send a question from a `@blocking` method, and wait for its answer.

        Parameters
        ----------
        question
            The question, without the terminator.

        Returns
        -------
        answer
            The answer, without the terminator or prompt.

        Raises
        ------
        LinkDown, LinkTimeout
            If there is no answer.
        TypeError, ValueError
            As for ask().
        RuntimeError
            If it is called in the reactor's thread, or if the reactor is not running.
        """
        self._check(question)
        reactor = self._find_reactor()
        if get_ident() == self._thread if isinstance(reactor, Clock) else threadable.isInIOThread():
            raise RuntimeError(
                "ask_blocking() in the reactor's thread would block the server: write `await link.ask(...)` in an "
                "`async def` method, or mark the method @blocking"
            )
        if not getattr(reactor, "running", True):
            raise RuntimeError("ask_blocking() needs a server: the reactor is not running")
        box: SimpleQueue[Any] = SimpleQueue()
        reactor.callFromThread(lambda: maybeDeferred(self.ask, question).addBoth(box.put))
        while True:
            try:
                outcome = box.get(timeout=_THREAD_CHECK)
            except Empty:
                if not getattr(reactor, "running", True):
                    raise LinkDown(self._health.closed()) from None
            else:
                if isinstance(outcome, Failure):
                    outcome.raiseException()
                return cast(bytes, outcome)

    def _check(self, question: bytes) -> None:
        if not isinstance(question, bytes):
            raise TypeError(f"a question is bytes, such as b'ver?', not {question!r:.80}")
        if self._terminator and self._terminator in question:
            raise ValueError(f"a question does not contain the terminator {self._terminator!r}, which the link appends")

    @property
    def _queue(self) -> deque[_Question]:
        """The questions of which the first one is sent next."""
        return self._waiting if self._setup is None else self._setup.waiting

    def _pump(self) -> None:
        """Send the first waiting question if that is possible, and start the timer of the first question."""
        if self._asked is not None or not self._queue or self._reading or (self._refusing and self._setup is None):
            return
        if self._connection is None or self._discarding is not None:
            if self._timer is None:
                # Discarding takes `quiet` at least.
                extra = 0.0 if self._discarding is None else self._quiet
                self._timer = self._call_later(self._timeout + extra, self._time_is_up)
            return
        self._stop_timer()
        if self._is_text and not self._splitter.pending.strip():
            # Blanks and line ends behind a prompt or a terminator are not the beginning of a message.
            self._splitter.clear()
        self._is_stale = bool(self._splitter.pending)
        self._asked = asked = self._queue.popleft()
        asked.sent = self._now()
        self._timer = self._call_later(self._timeout, self._time_is_up)
        self._connection.write(asked.text + self._terminator)

    def _give_up(self, asked: _Question) -> None:
        """A Deferred is cancelled. The answer to a question that was sent is still waited for, and discarded."""
        queues = [self._waiting] if self._setup is None else [self._waiting, self._setup.waiting]
        for queue in queues:
            if asked in queue:
                if self._asked is None and queue is self._queue and asked is queue[0]:
                    self._stop_timer()
                queue.remove(asked)
                self._fail_unsent(asked, CancelledError())
                self._pump()

    def _fail_unsent(self, asked: _Question, problem: Exception) -> None:
        if asked.is_noted:
            text = "link to %s was stopped before it sent %.80r"
            self._health.log(logging.WARNING, "unsent", text, self._name, asked.text)
        asked.end(problem)

    def _time_is_up(self) -> None:
        self._timer = None
        asked, self._asked = self._asked, None
        late = LinkTimeout(f"link to {self._name} gave no answer within {self._timeout:g} s")
        if asked is None:
            # It was not sent, because there is no connection, or because the line is not quiet.
            asked = self._queue.popleft()
            problem: Exception = late
            if self._connection is None:
                problem = LinkDown(self.problem)
            else:
                self._health.no_answer(self._now() - self._timeout, self._timeout, "the line is not quiet")
            self._fail_unsent(asked, problem)
        else:
            self._health.no_answer(asked.sent, self._timeout, asked.text)
            self._resynchronize("it does not answer")
            asked.end(late)
        self._pump()

    def _fail_soon(self, delay: float) -> None:
        if self._refusal is None:
            self._refusal = self._call_later(delay, self._fail_waiting)

    def _fail_waiting(self) -> None:
        _cancel(self._refusal)
        self._refusal = None
        if self._refusing:
            if self._setup is None:
                # Otherwise it limits a question of on_connect.
                self._stop_timer()
            waiting, self._waiting = self._waiting, deque()
            for asked in waiting:
                self._fail_unsent(asked, LinkDown(self.problem))

    def finish(self) -> Deferred[Any]:
        """Wait for the questions that were asked before this call. The server calls this before it closes the link.

        Returns
        -------
        finished
            A Deferred that fires when each of these questions has its answer or has failed. The log reports those that
            were not sent.
        """
        asked = [*self._waiting] if self._setup is None else [*self._setup.waiting, *self._waiting]
        for question in asked:
            question.is_noted = True
        ends = [question.ended for question in asked]
        return DeferredList(ends if self._asked is None else [self._asked.ended, *ends], consumeErrors=True)

    # -- connections ----------------------------------------------------------------------------------

    def start(self, reactor: Any = None) -> None:
        """Connect, if the link is not started yet. The server calls this, so a backend does not need to.

        Parameters
        ----------
        reactor
            The reactor to use if the link was made without one. Default: Twisted's.
        """
        if self._service is not None:
            return
        if self._given_reactor is None and reactor is not None:
            self._reactor = reactor
        reactor = self._find_reactor()
        self._thread = get_ident()
        self._closed = self._refusing = False
        self._failures = 0
        self._health.begin()
        endpoint = self._endpoint if self._address is None else self._address.endpoint(reactor)
        events = Events(self._made, self._received, self._lost, self._attempt_failed, self._pause)
        self._service = Connector(endpoint, events, reactor)
        if hasattr(reactor, "addSystemEventTrigger"):
            # For a link that is not an attribute of the backend: the server does not find and close it.
            self._shutdown = reactor.addSystemEventTrigger("during", "shutdown", self._shut_down)
        self._service.startService()

    def close(self) -> Deferred[None]:
        """Close the connection. Questions that have no answer fail, and the log reports those that were not sent.

        The server calls this when it stops.

        Returns
        -------
        closed
            A Deferred that fires when the connection is closed.
        """
        self._closed = self._refusing = True
        for waiting in self._waiting:
            waiting.is_noted = True
        service, self._service = self._service, None
        trigger, self._shutdown = self._shutdown, None
        if trigger is not None:
            self._reactor.removeSystemEventTrigger(trigger)
        self._stop_timer()
        asked, self._asked = self._asked, None
        if self._connection is not None:
            self._abort("it is closed")
        closed: Deferred[None] = succeed(None) if service is None else service.stopService()
        if asked is not None:
            asked.end(LinkDown(self.problem))
        self._fail_waiting()
        self._health.end()
        return closed

    def _shut_down(self) -> Deferred[None]:
        # Twisted has removed the trigger.
        self._shutdown = None
        return self.close()

    def _made(self, connection: Connection) -> None:
        if self._closed:
            connection.abort()
            return
        self._connection = connection
        self._health.connected()
        self._stop_timer()
        self._splitter.clear()
        if self._quiet:
            self._discard()
        if self._on_connect is None:
            self._ready()
        else:
            setup: Setup[_Question] = Setup()
            self._setup = setup
            ended = setup.run(self._on_connect, self)
            ended.addCallbacks(self._set_up, self._set_up_failed, callbackArgs=(setup,), errbackArgs=(setup,))

    def _ready(self) -> None:
        """The questions that wait can be sent."""
        self._refusing = False
        self._stable = self._call_later(_STABLE, self._lasted)
        self._pump()

    def _set_up(self, _: object, setup: Setup[_Question]) -> None:
        if setup is self._setup:
            self._setup = None
            # An ordinary function ends before its questions are sent.
            self._waiting.extendleft(reversed(setup.waiting))
            self._ready()

    def _set_up_failed(self, failure: Failure, setup: Setup[_Question]) -> None:
        is_lost = setup is not self._setup
        if is_lost and failure.check(CancelledError, GivenUp, LinkDown, LinkTimeout):
            # The connection was lost, which was logged.
            return
        if failure.check(HandlerException):
            text = "link to %s: on_connect failed: %s"
            self._health.log(logging.WARNING, "on_connect", text, self._name, failure.value)
        else:
            trace = (failure.type, failure.value, failure.getTracebackObject())
            text = "link to %s: on_connect failed"
            self._health.log(logging.ERROR, "on_connect", text, self._name, exc_info=trace)
        if not is_lost:
            self._stop_timer()
            asked, self._asked = self._asked, None
            self._abort(f"on_connect failed: {reason_of_failure(failure)}")
            if asked is not None:
                asked.end(LinkDown(self._health.down()))
            self._pump()

    def _lasted(self) -> None:
        if not self._health.is_silent:
            self._works()

    def _works(self) -> None:
        """The device has answered, or the connection has lasted: the next pause is a short one again."""
        if self._stable is not None:
            _cancel(self._stable)
            self._stable = None
            self._failures = 0
            self._health.works()

    def _lost(self, connection: Connection, reason: Failure) -> None:
        if connection is not self._connection:
            # The link has closed it.
            return
        self._disconnected()
        self._health.lost(reason)
        asked, self._asked = self._asked, None
        if asked is not None:
            self._stop_timer()
            asked.end(LinkDown(self._health.down()))
        self._pump()

    def _disconnected(self) -> None:
        self._connection = None
        self._splitter.clear()
        _cancel(self._discarding)
        self._discarding = None
        _cancel(self._stable)
        self._stable = None
        setup, self._setup = self._setup, None
        if setup is not None:
            self._stop_timer()
            setup.cancel()
            for asked in setup.waiting:
                asked.end(LinkDown(self._health.down()))

    def _abort(self, reason: str) -> None:
        connection = cast(Connection, self._connection)
        self._disconnected()
        self._health.disconnected(reason)
        connection.abort()

    def _resynchronize(self, reason: str) -> None:
        """Make sure that no later question gets an answer to a question that was already sent."""
        connection = self._connection
        if connection is not None and self._serial and not connection.full:
            self._discard()
        elif connection is not None:
            # A full serial port is closed too: reopening it discards the unsent questions.
            self._abort(reason)

    def _discard(self) -> None:
        self._splitter.clear()
        if self._discarding is None:
            self._discarding = self._call_later(self._quiet, self._is_quiet)
        else:
            self._discarding.reset(self._quiet)

    def _is_quiet(self) -> None:
        self._discarding = None
        self._pump()

    def _attempt_failed(self, failure: Failure) -> None:
        if not self._closed:
            self._health.unreachable(failure)
            self._refuse()

    def _pause(self, _: int) -> float:
        """Return how long to wait before the next attempt. The ClientService calls this."""
        self._failures += 1
        if self._failures > 1:
            self._refuse()
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._failures - 1, 60), self._max_pause)
        return pause * random.uniform(0.5, 1.0)

    def _refuse(self) -> None:
        """Let questions fail until the link is connected again."""
        self._refusing = True
        self._health.refuses()
        # Later: callbacks of questions must not call the ClientService while it is calling the link.
        self._fail_soon(0)

    # -- answers --------------------------------------------------------------------------------------

    def _received(self, connection: Connection, data: bytes) -> None:
        if connection is not self._connection:
            return
        if self._discarding is not None:
            self._discarding.reset(self._quiet)
            return
        outcome: bytes | Exception | None = None
        self._reading = True
        try:
            for message in self._splitter.split(data):
                if self._is_answer(message, outcome is not None):
                    outcome = message
                if connection is not self._connection:
                    # A callback has closed the link.
                    break
        except MessageTooLong:
            outcome = self._spoilt(LinkDown(f"link to {self._name} sent more than {self._max_answer} bytes"), outcome)
        except Exception as problem:  # noqa: BLE001  # the author's function may raise anything
            outcome = self._spoilt(problem, outcome)
        finally:
            self._reading = False
        asked = self._asked
        if outcome is not None and asked is not None:
            self._asked = None
            self._stop_timer()
            if isinstance(outcome, bytes):
                self._works()
                self._health.answered(asked.text, outcome, self._now() - asked.sent)
            asked.end(outcome)
        self._pump()

    def _is_answer(self, message: bytes, answered: bool) -> bool:
        """Return whether a message answers the outstanding question. `answered`: it has its answer already."""
        stale, self._is_stale = self._is_stale, False
        if self._unsolicited is not None:
            try:
                if self._unsolicited(message):
                    return False
            except Exception:  # noqa: BLE001  # the author's function may raise anything
                self._health.log(logging.ERROR, "unsolicited", "unsolicited() of %r failed", self, exc_info=True)
                return False
        if self._asked is None or answered or stale:
            text = "link to %s sent %.80r, which answers no question"
            self._health.log(logging.INFO, "no question", text, self._name, message)
            return False
        return True

    def _spoilt(self, problem: Exception, outcome: bytes | Exception | None) -> bytes | Exception | None:
        """Discard what was received. Return the outcome of the question."""
        if self._asked is None or outcome is not None:
            self._health.log(
                logging.WARNING, "spoilt", "link to %s: what it sent was discarded: %s", self._name, problem
            )
        self._resynchronize("what it sent was discarded")
        return problem if outcome is None else outcome

    # -- the reactor ----------------------------------------------------------------------------------

    def _find_reactor(self) -> Any:
        if self._reactor is None:
            self._reactor = reactor_or_default()
        return self._reactor

    def _call_later(self, delay: float, function: Callable[..., Any], *args: Any) -> Any:
        return self._find_reactor().callLater(delay, function, *args)

    def _now(self) -> float:
        # The reactor uses the host's clock, which may be stepped.
        return self._reactor.seconds() if isinstance(self._reactor, Clock) else time.monotonic()

    def _stop_timer(self) -> None:
        _cancel(self._timer)
        self._timer = None


def _name_of(endpoint: object) -> str:
    """Return the text of an endpoint, or the name of its class if it has none."""
    kind = type(endpoint)
    return kind.__name__ if kind.__str__ is object.__str__ else str(endpoint)


def _cancel(call: Any) -> None:
    """Cancel a delayed call, if there is one."""
    if call is not None and call.active():
        call.cancel()


def links_of(backend: object) -> list[Link]:
    """Return the links that are attributes of a backend, also those in a list, tuple or dict."""
    found: dict[int, Link] = {}
    for value in getattr(backend, "__dict__", {}).values():
        values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        found.update({id(each): each for each in values if isinstance(each, Link)})
    return list(found.values())
