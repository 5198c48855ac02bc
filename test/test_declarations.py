"""Mistakes that an instrument's author can make, and when the author is told of them: before an observer is."""

from __future__ import annotations

import unittest
from typing import Any

from twisted.internet.task import Clock

from discosbackend import Argument, Backend, DBProtocolHandler, Field, command
from discosbackend.handlers import AlwaysOkHandler
from discosbackend.protocol import DBFactory


class DeclarationTests(unittest.TestCase):
    """What @command, Argument, DBProtocolHandler and DBFactory say of what cannot work."""

    def test_refused_declarations(self) -> None:
        nothing: Any = None
        for problem, declare in (
            ("is no Field", lambda: command("sweep", reply=["power"])),  # type: ignore[list-item]
            ("is no Field", lambda: command("sweep", reply=[("power", "float")])),  # type: ignore[list-item]
            ("is no Argument", lambda: command("sweep", "power")),  # type: ignore[arg-type]
            ("is no Argument", lambda: command("sweep", Field("power", "float"))),  # type: ignore[arg-type]
            ("needs its name", lambda: command(nothing)),
            ("needs its name", lambda: command(len)),  # type: ignore[arg-type]
            ("must be optional=True", lambda: Argument("b", "integer", default=3)),
        ):
            with self.subTest(problem), self.assertRaisesRegex((TypeError, ValueError), problem):
                declare()

    def test_methods_that_cannot_take_their_arguments_are_told_of_at_the_start(self) -> None:
        class Wrong:
            """Parameters that do not fit."""

            def set_section(self, section: Any) -> None:
                """Six too few."""

            def start(self) -> None:
                """No timestamp."""

            def cal_on(self) -> None:
                """No interleave."""

            def set_filename(self, path: str) -> None:
                """Right."""

            def get_tpi(self) -> float:
                """Right: no band."""
                return 1.5

        with self.assertLogs("discosbackend.handlers", "WARNING") as logs:
            DBProtocolHandler(Wrong(), reactor=Clock())
        text = "\n".join(logs.output)
        for method, count in (("set_section", 7), ("start", 1), ("cal_on", 1)):
            self.assertIn(f"{method}() cannot answer", text)
            self.assertIn(f"with {count} arguments", text)
        self.assertEqual(len(logs.output), 3, text)

    def test_right_ones_are_not_told_of(self) -> None:
        for backend in (Backend(), type("Nothing", (), {"get_tpi": lambda self, frequency=0.0, bandwidth=0.0: 1})()):
            with self.assertNoLogs("discosbackend.handlers", "WARNING"):
                DBProtocolHandler(backend, reactor=Clock())

    def test_a_backend_in_place_of_a_handler(self) -> None:
        backend: Any = Backend()
        with self.assertRaisesRegex(TypeError, r"such as DBProtocolHandler\(backend\)"):
            DBFactory(backend)
        DBFactory(AlwaysOkHandler())


if __name__ == "__main__":
    unittest.main()
