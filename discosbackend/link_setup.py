"""A run of the function on_connect of a Link. link.py starts one for each connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred

from discosbackend.coroutines import deferred_of

__all__ = ["Setup", "calling"]

Question = TypeVar("Question")


class Setup(Generic[Question]):
    """A run of on_connect, and its questions, which are sent before all others."""

    def __init__(self) -> None:
        self.waiting: deque[Question] = deque()
        """The questions that were not sent yet."""
        self._run: Deferred[Any] | None = None

    @property
    def is_calling(self) -> bool:
        """Whether the caller is on_connect, or a function that it calls or awaits."""
        return _running.get() is self

    def run(self, function: Callable[[Any], Any], link: Any) -> Deferred[Any]:
        """Call a function with the link. The Deferred fires or fails when it, or its coroutine, has ended."""
        with calling(self):
            self._run = maybeDeferred(_result_of, function, link)
        return self._run

    def cancel(self) -> None:
        """Cancel the run, if it has not ended."""
        if self._run is not None:
            self._run.cancel()


# A coroutine runs in a copy of the context in which it is started, so it keeps the value.
_running: ContextVar[Setup[Any] | None] = ContextVar("discosbackend_link_setup", default=None)


@contextmanager
def calling(setup: Setup[Any] | None) -> Iterator[None]:
    """Make the calls inside of the `with` block belong to this run of on_connect, or to none."""
    token = _running.set(setup)
    try:
        yield
    finally:
        _running.reset(token)


def _result_of(function: Callable[[Any], Any], link: Any) -> Any:
    result = function(link)
    return deferred_of(result, "on_connect") if hasattr(type(result), "__await__") else result
