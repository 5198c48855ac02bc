"""Scheduler: which command may use the device now, which one waits, and for how long (protocol section 6).

A Job is one execution of a command. It first takes the locks it needs (its lane, a lock, a thread), each
in order of arrival, then runs, then releases them. Whoever waits for its outcome has a time limit.
All of this happens in the reactor's thread; only the call of a blocking method happens in another one.
Which command needs which lock is decided in handlers.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from discosbackend.errors import HandlerException
from discosbackend.rate_limited_logger import RateLimitedLogger

__all__ = ["Scheduler", "ReactorLike", "Lock", "Worker", "deferred_of"]

logger = logging.getLogger(__name__)

WorkItem: TypeAlias = "tuple[Callable[[], Any], Callable[[Any], None]]"

# Time limits are judged on a monotonic clock, but a reactor's timers follow the host's, which may be stepped.
_LONGEST_SLEEP = 1.0


def deferred_of(result: Any) -> Deferred[Any]:
    """A Deferred of what a method or a handler returned that has to be waited for: one, or any awaitable."""
    if isinstance(result, Deferred):
        return result
    return Deferred.fromCoroutine(result if inspect.iscoroutine(result) else _wait_for(result))


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class ReactorLike(Protocol):
    """What is asked of a reactor here."""

    def callLater(self, delay: float, function: Callable[..., Any], /, *args: Any) -> Any:
        """Call back after `delay` seconds."""

    def callFromThread(self, function: Callable[..., Any], /, *args: Any) -> None:
        """Have something called in the reactor's thread."""


class Lock:
    """One thing that one command at a time may use: a lane, a lock, a thread. First come, first served."""

    __slots__ = ("holder", "queue")

    def __init__(self) -> None:
        self.holder: Job | None = None
        self.queue: deque[Job] = deque()


class Worker:
    """A daemon thread of the handler's own, started when it is first needed; one call at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[WorkItem | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, call: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Call `call` in the thread, then, there too, `done` with its result or a Failure."""
        if self._thread is None:
            # A daemon, because a call that never returns must not keep a server from exiting.
            thread = threading.Thread(target=_work, args=(self._calls,), name=f"discos-{self._name}", daemon=True)
            thread.start()
            self._thread = thread
        self._calls.put((call, done))

    def end(self) -> None:
        """Let the thread end once it has done what it was given."""
        if self._thread is not None:
            self._calls.put(None)
            # A thread that never returns keeps the old queue to itself.
            self._calls = SimpleQueue()
            self._thread = None


def _work(calls: SimpleQueue[WorkItem | None]) -> None:
    while (item := calls.get()) is not None:
        call, done = item
        try:
            outcome = call()
        except BaseException:  # noqa: BLE001  # the client needs its answer
            outcome = Failure()
        done(outcome)


class Job:
    """One execution of a command, from its arrival to its end."""

    __slots__ = (
        "name",
        "call",
        "locks",
        "held",
        "worker",
        "share",
        "changes",
        "limit",
        "waiters",
        "begun",
        "source",
        "overdue",
        "done",
    )

    def __init__(
        self,
        name: str,
        call: Callable[[], Any],
        locks: list[Lock],
        worker: Worker | None = None,
        share: Hashable = None,
        changes: bool = False,
        limit: float | None = None,
    ) -> None:
        self.name = name
        self.call = call
        self.locks = locks
        self.held = 0
        self.worker = worker
        self.share = share
        self.changes = changes
        # How long its thread may run before it is overdue; those who wait have deadlines of their own.
        self.limit = limit
        self.waiters: list[Waiter] = []
        self.begun: float | None = None
        self.source: Deferred[Any] | None = None
        self.overdue = False
        self.done = False

    def ran(self, now: float) -> float:
        """For how many seconds it has been running; 0 while it waits."""
        return 0.0 if self.begun is None else now - self.begun

    def blocker(self) -> Job | None:
        """Whose end this run waits for, None when it has all its tokens."""
        return self.locks[self.held].holder if self.held < len(self.locks) else None


class Waiter:
    """Somebody who waits for a run's outcome, and until when."""

    __slots__ = ("job", "deferred", "limit", "deadline")

    def __init__(self, job: Job, limit: float | None, now: float, give_up: Callable[[Waiter], None]) -> None:
        self.job = job
        self.deferred: Deferred[Any] = Deferred(lambda _: give_up(self))
        self.limit = limit
        self.deadline = None if limit is None else now + limit


class Scheduler:
    """The tokens of one handler, its threads, and the time limits of those who wait.

    `reactor` is called when one is first needed, so that a backend of ordinary methods needs none.
    `monotonic` gives seconds.
    """

    def __init__(self, reactor: Callable[[], ReactorLike], monotonic: Callable[[], float]) -> None:
        self._reactor = reactor
        self._monotonic = monotonic
        self._locks: dict[str, Lock] = {}
        self._workers: dict[str, Worker] = {}
        self._waiters: dict[Waiter, None] = {}
        # The runs that are in a thread and have a limit that they have not reached yet.
        self._in_threads: dict[Job, None] = {}
        self._shared: dict[Hashable, Job] = {}
        self._ready: deque[Job] = deque()
        self._pumping = False
        # What clients can cause, with requests that reach their limit.
        self._limited = RateLimitedLogger(logger, self._call_later, monotonic)
        self._alarm: Any = None
        self._alarm_at = 0.0

    def _call_later(self, delay: float, function: Callable[..., Any], *args: Any) -> Any:
        return self._reactor().callLater(delay, function, *args)

    def lock(self, name: str) -> Lock:
        """The token of this name, the same one each time."""
        return self._locks.setdefault(name, Lock())

    def worker(self, name: str) -> Worker:
        """The thread of this name, the same one each time."""
        return self._workers.setdefault(name, Worker(name))

    def end_workers(self) -> None:
        """Let every thread end once its call has returned."""
        for worker in self._workers.values():
            worker.end()

    def changed(self) -> None:
        """A command has ended that may have changed what reads tell: a later read joins no earlier one."""
        if self._shared:
            self._shared.clear()

    def submit(
        self,
        name: str,
        call: Callable[[], Any],
        locks: list[Lock],
        *,
        limit: float | None,
        worker: Worker | None = None,
        share: Hashable = None,
        changes: bool = False,
    ) -> Deferred[Any]:
        """Run `call` once its tokens are free, in `worker` if there is one; a Deferred of its outcome.

        A call may return a Deferred. With `share`, a run of the same key that is not over yet is joined;
        `changes` says that its end is also one for `changed`. The Deferred fails with HandlerException after
        `limit` seconds, or when the device is stuck.
        """
        job = self._shared.get(share) if share is not None else None
        if job is not None and not job.overdue:
            return self._wait_for(job, limit).deferred
        job = Job(name, call, locks, worker, share, changes, limit)
        if share is not None:
            self._shared[share] = job
        waiter = self._wait_for(job, limit)
        # Not in the pump's turn: what is asked for out of an answer takes its place in the queue at once.
        self._advance(job)
        self._pump()
        return waiter.deferred

    def adopt(self, name: str, locks: list[Lock], source: Deferred[Any], limit: float | None) -> Deferred[Any]:
        """What submit() does, for a run that has begun already, its tokens being free at that moment."""
        job = Job(name, lambda: source, locks)
        for lock in locks:
            lock.holder = job
        job.held = len(locks)
        job.begun = self._monotonic()
        job.source = source
        waiter = self._wait_for(job, limit)
        source.addBoth(self._end, job)
        return waiter.deferred

    def _wait_for(self, job: Job, limit: float | None) -> Waiter:
        waiter = Waiter(job, limit, self._monotonic(), self._give_up)
        job.waiters.append(waiter)
        if limit is not None:
            self._waiters[waiter] = None
            self._arm(limit)
        return waiter

    # -- from arrival to end --------------------------------------------------------------------------

    def _pump(self) -> None:
        """Move every run on that can move. A loop, because a thousand may become ready in a row."""
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
        while job.held < len(job.locks):
            lock = job.locks[job.held]
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
            if job.worker is not None:
                reactor = self._reactor()
                job.worker.do(job.call, lambda outcome: reactor.callFromThread(self._end, outcome, job))
                if job.limit is not None:
                    self._in_threads[job] = None
                    self._arm(job.limit)
                return
            outcome = job.call()
        except BaseException:  # noqa: BLE001  # the client needs its answer
            outcome = Failure()
        if isinstance(outcome, Deferred):
            job.source = outcome
            outcome.addBoth(self._end, job)
        else:
            self._end(outcome, job)

    def _end(self, outcome: Any, job: Job) -> None:
        """The run is over: free what it held, tell those who wait, let the next one begin."""
        if job.done:
            self._log_late(outcome, job)
            return
        late = not job.waiters
        if job.changes:
            self.changed()
        self._release(job)
        while job.waiters:
            # One by one, because who is told may make another one give up.
            waiter = job.waiters.pop(0)
            self._waiters.pop(waiter, None)
            waiter.deferred.callback(outcome)
        self._pump()
        if late:
            self._log_late(outcome, job)

    def _release(self, job: Job) -> None:
        job.done = True
        self._in_threads.pop(job, None)
        if job.share is not None and self._shared.get(job.share) is job:
            del self._shared[job.share]
        for lock in job.locks[: job.held]:
            lock.holder = lock.queue.popleft() if lock.queue else None
            if lock.holder is not None:
                lock.holder.held += 1
                self._ready.append(lock.holder)
        job.held = 0

    def _log_late(self, outcome: Any, job: Job) -> None:
        if isinstance(outcome, Failure):
            if not outcome.check(CancelledError):
                self._limited.log(
                    logging.WARNING, "late failure", "late failure of %s dropped: %.200r", job.name, outcome.value
                )
        else:
            self._limited.log(logging.WARNING, "late result", "late result of %s dropped: %.200r", job.name, outcome)

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
        for job in [job for job in self._in_threads if job.limit is not None and job.ran(now) >= job.limit]:
            self._mark_overdue(job)
        due = [waiter for waiter in self._waiters if waiter.deadline is not None and waiter.deadline <= now]
        for waiter in due:
            if waiter in self._waiters:
                self._expire(waiter, HandlerException(self._timed_out(waiter, now)))
        left = [waiter.deadline - now for waiter in self._waiters if waiter.deadline is not None]
        left += [job.limit - job.ran(now) for job in self._in_threads if job.limit is not None]
        if left:
            self._arm(min(left))
        self._pump()

    @staticmethod
    def _timed_out(waiter: Waiter, now: float) -> str:
        job, limit = waiter.job, waiter.limit or 0.0
        if job.begun is None:
            blocker = job.blocker()
            return f"timeout: waited {limit:g} s for {'its turn' if blocker is None else blocker.name}"
        if job.ran(now) >= limit:
            return f"timeout: {job.name} took longer than {limit:g} s"
        return f"timeout: {job.name} waited {limit - job.ran(now):.1f} s and ran {job.ran(now):.1f} s"

    def _give_up(self, waiter: Waiter) -> None:
        """Whoever waited cancels its Deferred: the server is stopping."""
        self._expire(waiter, HandlerException(f"cancelled: {waiter.job.name} was given up"))
        self._pump()

    def _expire(self, waiter: Waiter, reason: HandlerException) -> None:
        """One who waited gets no result any more. The last one to go takes the run along, unless it is in a thread."""
        job = waiter.job
        self._waiters.pop(waiter, None)
        job.waiters.remove(waiter)
        in_thread = job.begun is not None and job.worker is not None
        if not job.done and not job.waiters and not in_thread:
            job.done = True
            self._cancel(job)
            self._release(job)
        waiter.deferred.errback(reason)

    def _mark_overdue(self, job: Job) -> None:
        """A thread cannot be cancelled: until it returns, whoever needs what it holds is refused.

        Only one that has itself run longer than its limit (protocol section 6.3): that somebody has waited for it says
        nothing about the thread.
        """
        del self._in_threads[job]
        job.overdue = True
        logger.error(
            "%s is overdue: its thread has not returned after %.0f s; until it does, its lane is refused",
            job.name,
            job.ran(self._monotonic()),
        )
        for lock in job.locks:
            waiting, lock.queue = lock.queue, deque()
            for other in waiting:
                self._end(Failure(self._busy(job)), other)

    def _busy(self, job: Job) -> HandlerException:
        return HandlerException(f"busy with {job.name} since {job.ran(self._monotonic()):.0f} s")

    def _cancel(self, job: Job) -> None:
        """End a run as far as that is possible: take it out of a queue, or cancel what it waits for."""
        if job.source is None:
            if job.held < len(job.locks) and job in job.locks[job.held].queue:
                job.locks[job.held].queue.remove(job)
            return
        try:
            job.source.cancel()
        except BaseException:  # noqa: BLE001  # whatever a canceller raises
            self._limited.log(logging.ERROR, "cancelling", "cancelling %s failed", job.name, exc_info=True)
