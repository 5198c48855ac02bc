"""Scheduler: decides when a command runs and how long its client waits for it (protocol section 6).

A command that need not wait is run directly. Any other becomes a Job, which acquires its locks (for its lane, a named
lock, a thread), each in order of arrival, then runs, then releases them. Each client that waits for the result has a
time limit. Everything runs in the reactor's thread, except the blocking methods. handlers.py determines the locks of a
command.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeAlias, cast
from weakref import WeakSet

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from discosbackend.coroutines import GivenUp, deferred_of
from discosbackend.errors import HandlerException, UnsendableError
from discosbackend.rate_limited_logger import RateLimitedLogger
from discosbackend.ticks import Ticks

__all__ = ["Scheduler", "LaneState", "ReactorLike", "Lock", "Worker"]

logger = logging.getLogger(__name__)

WorkItem: TypeAlias = "tuple[Callable[[], Any], Callable[[Any], None]]"

# The usual types of results, none of which can be awaited.
_VALUES = frozenset((type(None), tuple, list, str, int, float, bool, Ticks))

# How many of the jobs that wait for a lock LaneState lists.
_MOST_LISTED = 20

# Time limits use a monotonic clock, but the reactor's timers use the host's clock, which may be stepped.
_LONGEST_SLEEP = 1.0


class ReactorLike(Protocol):
    """The methods of a reactor that the scheduler uses."""

    def callLater(self, delay: float, function: Callable[..., Any], /, *args: Any) -> Any:
        """Call `function` after `delay` seconds."""

    def callFromThread(self, function: Callable[..., Any], /, *args: Any) -> None:
        """Call `function` in the reactor's thread."""


class Lock:
    """A first-in, first-out lock for a lane, a thread, or a `@blocking(lock=...)`. One job holds it at a time."""

    __slots__ = ("holder", "queue")

    def __init__(self) -> None:
        self.holder: Job | None = None
        self.queue: deque[Job] = deque()


class LaneState(NamedTuple):
    """A lock as a monitor sees it: which command holds it, and which wait for it."""

    name: str
    """The name of the lane; `thread NAME` or `lock NAME` for the lock of a thread or of `@blocking(lock=...)`."""
    holder: str | None
    """The command that holds it. None: it is free."""
    seconds: float | None
    """For how long the command has run, or has waited for its other locks, in s. None if this is not known."""
    overdue: bool
    """Whether the thread of the command has run for longer than its limit."""
    waiting: list[tuple[str, float | None]]
    """The first commands that wait, each with the time that it has waited, in s."""
    queued: int
    """How many commands wait."""


class Worker:
    """A daemon thread that makes one call at a time. It is started by the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[WorkItem | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, call: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Call `call` in the thread, then `done` with its result or a Failure, in the same thread."""
        if self._thread is None or not self._thread.is_alive():
            # The first call, or the first one after a fork: a thread of the parent process is not in the child.
            self._calls = SimpleQueue()
            # A daemon, because a call that never returns must not prevent the server from exiting.
            thread = threading.Thread(target=_work, args=(self._calls,), name=f"discos-{self._name}", daemon=True)
            thread.start()
            self._thread = thread
        self._calls.put((call, done))

    def end(self) -> None:
        """Let the thread end after the calls that are already queued."""
        if self._thread is not None:
            self._calls.put(None)
            # A new queue, because the old thread reads the old one until it has ended.
            self._calls = SimpleQueue()
            self._thread = None


def _work(calls: SimpleQueue[WorkItem | None]) -> None:
    while (item := calls.get()) is not None:
        call, done = item
        try:
            outcome = call()
        except BaseException:  # noqa: BLE001  # the client needs its answer
            outcome = Failure()
        try:
            done(outcome)
        except BaseException:  # the thread must remain, for the calls that follow
            logger.exception("a thread could not give its result to the reactor: its client gets a time limit's reply")


class Runnable(Protocol):
    """What the scheduler uses of a command. handlers.BackendCommand has it."""

    name: str
    affects_reads: bool
    """Whether the command may change what reads return: later reads must not share an older result."""
    method: Callable[..., Any]
    write: Callable[[Any], bytes]
    """Makes the reply from the result of the method."""
    locks: list[Lock]
    """The locks to acquire, in this order."""
    worker: Worker | None
    """The thread in which the method is called. None: the reactor's thread."""
    limit: float | None
    """The time limit in s. None: no limit."""


class Job:
    """One execution of a command, from its arrival to its end.

    - It waits for a lock, or it has just got one and is in Scheduler._ready: `begun` is None.
    - It runs: `begun` is set; run() sets it only after the call of the method. `source` is the Deferred that it waits
      for. It is None if the job runs in a thread, and while its method is being called.
    - Its thread has run for longer than its limit: `overdue`. Jobs that need its locks are refused. If all its clients
      have timed out, `waiters` is empty.
    - It is over: `done`. Its locks are released. A later result is only logged.

    _advance() and _begin() lead from the first state to the second one, _mark_overdue() to the third, _end() to the
    last one. A command that run() calls at once is in the second state when its method has returned a Deferred, by
    _adopt(). When the last waiter has timed out or was cancelled, _expire() ends the job, unless it runs in a thread:
    _cancel() removes it from its queue, or cancels its Deferred.
    """

    __slots__ = ("command", "values", "share", "held", "waiters", "begun", "source", "overdue", "done")

    def __init__(self, command: Runnable, values: Sequence[Any] = (), share: Hashable = None) -> None:
        self.command = command
        self.values = values
        self.share = share
        # How many of the command's locks it holds.
        self.held = 0
        self.waiters: list[Waiter] = []
        self.begun: float | None = None
        self.source: Deferred[Any] | None = None
        # Whether its thread has run for longer than the limit. The waiters have their own deadlines.
        self.overdue = False
        self.done = False

    def left(self, now: float) -> float:
        """Return how long its thread may still run, in s."""
        limit = self.command.limit
        return float("inf") if limit is None else limit - self.ran(now)

    def ran(self, now: float) -> float:
        """Return how long the job has been running, in s. 0 if it has not begun."""
        return 0.0 if self.begun is None else now - self.begun

    def age(self, now: float) -> float | None:
        """Return how long the job has been running, or waiting if it has not begun, in s. None if this is not known."""
        if self.begun is not None:
            return now - self.begun
        # A waiter without a time limit does not know when it began to wait.
        waiter = self.waiters[0] if self.waiters else None
        return None if waiter is None or waiter.deadline is None else now - waiter.deadline + (waiter.limit or 0.0)

    def blocker(self) -> Job | None:
        """Return the job that this one waits for, or None if it holds all its locks."""
        locks = self.command.locks
        return locks[self.held].holder if self.held < len(locks) else None


class Waiter:
    """One client that waits for the result of a job, with its time limit."""

    __slots__ = ("job", "deferred", "limit", "deadline")

    def __init__(self, job: Job, limit: float | None, now: float, give_up: Callable[[Waiter], None]) -> None:
        self.job = job
        self.deferred: Deferred[Any] = Deferred(lambda _: give_up(self))
        self.limit = limit
        self.deadline = None if limit is None else now + limit


def _call_in_thread(command: Runnable, values: Sequence[Any]) -> bytes:
    """Call a blocking method, and make the reply. If the method returns a generator, it is read in the same thread."""
    result = command.method(*values)
    if hasattr(type(result), "__await__"):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"@blocking method of {command.name} returned {result!r}, which is never awaited")
    return command.write(result)


class Scheduler:
    """The locks, the threads and the time limits of one handler.

    `reactor` is a function that returns the reactor. It is called only when the reactor is needed. Methods that return
    at once never need it. `monotonic` is a function that returns the time of a monotonic clock, in s.
    """

    def __init__(self, reactor: Callable[[], ReactorLike], monotonic: Callable[[], float]) -> None:
        self._reactor = reactor
        self._monotonic = monotonic
        self._locks: dict[str, Lock] = {}
        self._workers: dict[str, Worker] = {}
        # The waiters that have a time limit.
        self._waiters: dict[Waiter, None] = {}
        # The jobs that run in a thread and have a limit that they have not reached yet.
        self._in_threads: dict[Job, None] = {}
        # The blocking reads that wait or run, by name and texts. An equal request joins such a job.
        self._shared: dict[Hashable, Job] = {}
        # The Deferreds that methods have returned. If a method returned one again, its result would already be changed.
        self._seen: WeakSet[Deferred[Any]] = WeakSet()
        # The jobs that have just got a lock that they waited for.
        self._ready: deque[Job] = deque()
        self.used = False
        """Whether a command was run since this was set to False."""
        self._pumping = False
        # For log messages that clients can cause, by requests that reach their time limit.
        self._limited = RateLimitedLogger(logger, self._call_later, monotonic)
        self._alarm: Any = None
        self._alarm_at = 0.0

    def _call_later(self, delay: float, function: Callable[..., Any], *args: Any) -> Any:
        return self._reactor().callLater(delay, function, *args)

    def lock(self, name: str) -> Lock:
        """Return the lock of this name. It is created at the first call."""
        return self._locks.setdefault(name, Lock())

    @property
    def lanes(self) -> list[LaneState]:
        """Who holds and who waits for each lock, for monitors."""
        now = self._monotonic()
        found = []
        for name, lock in self._locks.items():
            holder = lock.holder
            waiting = [(job.command.name, job.age(now)) for job in islice(lock.queue, _MOST_LISTED)]
            if holder is None:
                found.append(LaneState(name, None, None, False, waiting, len(lock.queue)))
            else:
                state = LaneState(name, holder.command.name, holder.age(now), holder.overdue, waiting, len(lock.queue))
                found.append(state)
        return found

    def worker(self, name: str) -> Worker:
        """Return the worker of this name. It is created at the first call."""
        return self._workers.setdefault(name, Worker(name))

    def end_workers(self) -> None:
        """Let every thread end after the calls that are already queued."""
        for worker in self._workers.values():
            worker.end()

    def run(self, command: Runnable, values: Sequence[Any], texts: Sequence[str] = ()) -> bytes | Deferred[bytes]:
        """Execute a command: at once if nothing has to be waited for, otherwise in its turn.

        Parameters
        ----------
        command
            The command.
        values
            The arguments of its method.
        texts
            The texts of the arguments. Blocking reads with the same name and the same texts share one call.

        Returns
        -------
        reply
            The reply, or a Deferred that fires with it. The Deferred fails with the exception of the method, or with
            HandlerException at the time limit, or if a lock is held by a thread that is overdue.

        Raises
        ------
        Exception
            The exception of the method, if the method is called at once and raises it itself.
        """
        self.used = True
        locks = command.locks
        if not locks and command.worker is None:
            # A read that has to wait for nothing.
            result = command.method(*values) if values else command.method()
            # An ordinary method may return an awaitable too. The first test is the faster one.
            if type(result) in _VALUES or not hasattr(type(result), "__await__"):
                return command.write(result)
            return self._adopt(Job(command), self._reply_later(command, result))
        if command.worker is not None:
            return self._submit(command, values, None if command.affects_reads else (command.name, *texts))
        for lock in locks:
            if lock.holder is not None:
                return self._submit(command, values)
        # The method may request other commands of its lane. They wait until it has ended.
        job = Job(command)
        job.held = len(locks)
        for lock in locks:
            lock.holder = job
        try:
            reply = self._call(command, values)
        except BaseException:
            self._leave(job)
            raise
        if type(reply) is not bytes:
            return self._adopt(job, cast("Deferred[bytes]", reply))
        self._leave(job)
        return reply

    def _call(self, command: Runnable, values: Sequence[Any]) -> bytes | Deferred[bytes]:
        """Call the method of a command in the reactor's thread."""
        if command.affects_reads and self._shared:
            # Before the call, because the method may raise.
            self._shared.clear()
        result = command.method(*values)
        if type(result) in _VALUES or not hasattr(type(result), "__await__"):
            return command.write(result)
        return self._reply_later(command, result)

    def _reply_later(self, command: Runnable, result: Any) -> Deferred[bytes]:
        """Return a Deferred of the reply, because the method has returned an awaitable."""
        if isinstance(result, Deferred):
            if result in self._seen:
                raise UnsendableError("a Deferred that it had returned before: return a new one each time")
            self._seen.add(result)
        later = deferred_of(result, command.name)
        if command.affects_reads:
            later.addBoth(self._changed)
        return later.addCallback(command.write)

    def _changed(self, outcome: Any) -> Any:
        """Let no later read join an earlier one, because a command that may affect reads has ended."""
        self._shared.clear()
        return outcome

    def _submit(self, command: Runnable, values: Sequence[Any], share: Hashable = None) -> Deferred[bytes]:
        """Queue a job that has to wait for a lock or for a thread, or join the job of an equal read."""
        job = self._shared.get(share) if share is not None else None
        if job is not None and not job.overdue:
            return self._add_waiter(job).deferred
        job = Job(command, values, share)
        if share is not None:
            self._shared[share] = job
        waiter = self._add_waiter(job)
        # Do not leave this to _pump(), which may be running: a request from a callback must enter the queue at once.
        self._advance(job)
        self._pump()
        return waiter.deferred

    def _adopt(self, job: Job, source: Deferred[bytes]) -> Deferred[bytes]:
        """Continue a job that holds its locks: its method has returned `source`."""
        job.begun = self._monotonic()
        job.source = source
        waiter = self._add_waiter(job)
        source.addBoth(self._end, job)
        return waiter.deferred

    def _add_waiter(self, job: Job) -> Waiter:
        limit = job.command.limit
        waiter = Waiter(job, limit, self._monotonic(), self._give_up)
        job.waiters.append(waiter)
        if limit is not None:
            self._waiters[waiter] = None
            self._arm(limit)
        return waiter

    # -- from arrival to end --------------------------------------------------------------------------

    def _pump(self) -> None:
        """Advance every job that is ready. It is a loop, because recursion would be too deep for a long queue."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._ready:
                job = self._ready.popleft()
                if not job.done:
                    self._advance(job)
        finally:
            self._pumping = False

    def _advance(self, job: Job) -> None:
        """Acquire the next locks of a job, and begin it when it has all; queue it at the first that is held."""
        locks = job.command.locks
        while job.held < len(locks):
            lock = locks[job.held]
            if lock.holder is None:
                lock.holder = job
                job.held += 1
            elif lock.holder.overdue:
                self._end(Failure(self._busy(lock.holder)), job)
                return
            else:
                lock.queue.append(job)
                return
        self._begin(job)

    def _begin(self, job: Job) -> None:
        job.begun = self._monotonic()
        try:
            command = job.command
            if command.worker is not None:
                reactor = self._reactor()
                command.worker.do(
                    partial(_call_in_thread, command, job.values),
                    lambda outcome: reactor.callFromThread(self._end, outcome, job),
                )
                if command.limit is not None:
                    self._in_threads[job] = None
                    self._arm(command.limit)
                return
            outcome: Any = self._call(command, job.values)
        except BaseException:  # noqa: BLE001  # the client needs its answer
            outcome = Failure()
        if isinstance(outcome, Deferred):
            job.source = outcome
            outcome.addBoth(self._end, job)
        else:
            self._end(outcome, job)

    def _end(self, outcome: Any, job: Job) -> None:
        """End a job: release its locks, give the outcome to its waiters, and start the next job."""
        if job.done:
            self._log_late(outcome, job)
            return
        late = not job.waiters
        if job.command.affects_reads:
            self._shared.clear()
        self._release(job)
        while job.waiters:
            # One by one, because a callback may cancel another waiter.
            waiter = job.waiters.pop(0)
            self._waiters.pop(waiter, None)
            waiter.deferred.callback(outcome)
        self._pump()
        if late:
            self._log_late(outcome, job)

    def _release(self, job: Job) -> None:
        job.done = True
        if self._in_threads:
            self._in_threads.pop(job, None)
        if job.share is not None and self._shared.get(job.share) is job:
            del self._shared[job.share]
        for lock in job.command.locks[: job.held]:
            lock.holder = lock.queue.popleft() if lock.queue else None
            if lock.holder is not None:
                lock.holder.held += 1
                self._ready.append(lock.holder)
        job.held = 0

    def _leave(self, job: Job) -> None:
        """Release the locks of a job whose method has returned at once, and start what has waited for them."""
        for lock in job.command.locks:
            if lock.queue:
                self._release(job)
                self._pump()
                return
            lock.holder = None

    def _log_late(self, outcome: Any, job: Job) -> None:
        name = job.command.name
        if not isinstance(outcome, Failure):
            self._limited.log(logging.WARNING, "late result", "late result of %s dropped: %.200r", name, outcome)
        elif not outcome.check(CancelledError, GivenUp):
            text = "late failure of %s dropped: %.200r"
            self._limited.log(logging.WARNING, "late failure", text, name, outcome.value)

    # -- time limits ----------------------------------------------------------------------------------

    def _arm(self, delay: float) -> None:
        delay = min(max(delay, 0.0), _LONGEST_SLEEP)
        at = self._monotonic() + delay
        if self._alarm is not None:
            if self._alarm_at <= at:
                return
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._reactor().callLater(delay, self._check_limits)

    def _check_limits(self) -> None:
        self._alarm = None
        now = self._monotonic()
        for job in [job for job in self._in_threads if job.left(now) <= 0]:
            self._mark_overdue(job)
        due = [waiter for waiter in self._waiters if waiter.deadline is not None and waiter.deadline <= now]
        for waiter in due:
            if waiter in self._waiters:
                self._expire(waiter, HandlerException(self._timed_out(waiter, now)))
        left = [waiter.deadline - now for waiter in self._waiters if waiter.deadline is not None]
        left += [job.left(now) for job in self._in_threads]
        if left:
            self._arm(min(left))
        self._pump()

    @staticmethod
    def _timed_out(waiter: Waiter, now: float) -> str:
        job, limit = waiter.job, waiter.limit or 0.0
        if job.begun is None:
            blocker = job.blocker()
            return f"timeout: waited {limit:g} s for {'its turn' if blocker is None else blocker.command.name}"
        if job.ran(now) >= limit:
            return f"timeout: {job.command.name} took longer than {limit:g} s"
        return f"timeout: {job.command.name} waited {limit - job.ran(now):.1f} s and ran {job.ran(now):.1f} s"

    def _give_up(self, waiter: Waiter) -> None:
        """Answer a waiter whose Deferred was cancelled, because the server is stopping or simulates a restart."""
        self._expire(waiter, HandlerException(f"cancelled: {waiter.job.command.name} was given up"))
        self._pump()

    def _expire(self, waiter: Waiter, reason: HandlerException) -> None:
        """Answer a waiter with `reason`. After the last waiter the job is cancelled, unless it runs in a thread."""
        job = waiter.job
        self._waiters.pop(waiter, None)
        job.waiters.remove(waiter)
        in_thread = job.begun is not None and job.command.worker is not None
        if not job.done and not job.waiters and not in_thread:
            job.done = True
            self._cancel(job)
            self._release(job)
        waiter.deferred.errback(reason)

    def _mark_overdue(self, job: Job) -> None:
        """Refuse the jobs that need a lock of this job until its thread returns, because it cannot be cancelled.

        This applies only if the thread itself has run longer than its limit (protocol section 6.3). The time that a
        waiter has waited does not count, because the job may have begun later.
        """
        del self._in_threads[job]
        job.overdue = True
        logger.error(
            "%s is overdue: its thread has not returned after %.0f s; until it does, commands of its lane are refused",
            job.command.name,
            job.ran(self._monotonic()),
        )
        for lock in job.command.locks:
            waiting, lock.queue = lock.queue, deque()
            for other in waiting:
                self._end(Failure(self._busy(job)), other)

    def _busy(self, job: Job) -> HandlerException:
        return HandlerException(f"busy with {job.command.name} since {job.ran(self._monotonic()):.0f} s")

    def _cancel(self, job: Job) -> None:
        """Remove the job from the queue of a lock, or cancel the Deferred that it waits for."""
        if job.source is None:
            locks = job.command.locks
            if job.held < len(locks) and job in locks[job.held].queue:
                locks[job.held].queue.remove(job)
            return
        try:
            job.source.cancel()
        except BaseException:  # noqa: BLE001  # a canceller may raise anything
            self._limited.log(logging.ERROR, "cancelling", "cancelling %s failed", job.command.name, exc_info=True)
