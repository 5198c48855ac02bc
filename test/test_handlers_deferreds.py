"""Deferreds that a backend should not return, and what becomes of the request all the same."""

from __future__ import annotations

import unittest
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from discosbackend import Backend, BackendError
from discosbackend.errors import UnsendableError
from discosbackend.grammar import parse_message
from discosbackend.handlers import DBProtocolHandler


class DeferredReuseTests(unittest.TestCase):
    """A backend that returns the same Deferred for two requests."""

    def test_the_second_request_is_not_answered_with_what_became_of_the_first(self) -> None:
        for outcome in ("value", "failure"):
            ready: Deferred[Any] = Deferred()

            class Eager(Backend):
                """Has one Deferred for all."""

                def set_filename(self, path: str, ready: Any = ready) -> Any:
                    return ready

            handler = DBProtocolHandler(Eager(), reactor=Clock())
            request = parse_message("?set-filename,/a")
            first = handler.handle(request)
            assert isinstance(first, Deferred)
            if outcome == "value":
                ready.callback(None)
            else:
                ready.errback(BackendError("no disk"))
                first.addErrback(lambda _: None)
            with self.subTest(outcome), self.assertRaisesRegex(UnsendableError, "returned before"):
                handler.handle(request)


if __name__ == "__main__":
    unittest.main()
