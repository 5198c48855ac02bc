"""Case: one thing that a server must do, with an id, the protocol's sentence for it, and how it is tried.

The cases themselves are in line_cases, command_cases and acquisition_cases; who runs them, and how the
outcome is reported, is not known to any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from discosbackend.testing.check import Check

__all__ = ["Case", "Cases", "Try"]

Try: TypeAlias = Callable[[Check], None]
"""How a case is tried."""


@dataclass(frozen=True, slots=True)
class Case:
    """`id` is `area/what`, the area a command's name where it is one; `requirement` the sentence it breaks.

    `run` raises AssertionError when the server does otherwise, unittest.SkipTest when that cannot be tried.
    """

    id: str
    requirement: str
    run: Try

    @property
    def method(self) -> str:
        """The name of the test method: `set-section/wrong-...` is `test_set_section_wrong_...`."""
        return "test_" + self.id.replace("/", "_").replace("-", "_")


class Cases(dict[str, Case]):
    """Cases by their id, in the order in which they were written."""

    def add(self, case_id: str, requirement: str, run: Try) -> None:
        """Add one. ValueError for an id that is taken, or that would be the same method as another's."""
        case = Case(case_id, requirement, run)
        if any(case.method == other.method for other in self.values()):
            raise ValueError(f"there is a case {case_id!r} already")
        self[case_id] = case

    def case(self, case_id: str, requirement: str) -> Callable[[Try], Try]:
        """A decorator: the function is how the case is tried."""

        def register(run: Try) -> Try:
            self.add(case_id, requirement, run)
            return run

        return register
