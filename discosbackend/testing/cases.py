"""Case: one thing that a server must do, with an id, the protocol's sentence for it, and how it is tried.

The cases themselves are in line_cases, command_cases, acquisition_cases and hostile_cases. They are run by
runner; none of them knows how the outcome is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from discosbackend.testing.case_context import CaseContext
from discosbackend.testing.citations import SECTIONS
from discosbackend.testing.send_guard import Scope

__all__ = ["Case", "Cases", "Level", "CaseFunction"]

CaseFunction: TypeAlias = Callable[[CaseContext], None]
"""How a case is tried."""


class Level(Enum):
    """How much a requirement weighs."""

    MUST = "must"
    """The protocol demands it."""
    SHOULD = "should"
    """The protocol recommends it: a server that does otherwise works, and is called non-strict."""
    QUIRK = "quirk"
    """No document demands it, but a deployed client depends on it: as good as demanded."""


@dataclass(frozen=True, slots=True)
class Case:
    """`id` is `area/what`, the area a command's name where it is one; `requirement` is the sentence it breaks.

    `section` is the section of docs/protocol.md that has this sentence, word for word, as "7.1"; `scope` is how far
    the case goes. `run` raises AssertionError when the server does otherwise, unittest.SkipTest when that cannot be
    tried. `shows` names what other cases use, and this one shows to work, in this order: where it fails, it is the
    cause of their failures (see Check.using). ValueError for a section that the protocol does not have.
    """

    id: str
    section: str
    requirement: str
    scope: Scope
    run: CaseFunction
    level: Level = Level.MUST
    shows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.section not in SECTIONS:
            raise ValueError(f"{self.id}: docs/protocol.md has no section {self.section!r}")

    @property
    def area(self) -> str:
        """What the case is about: a command, or a part of the protocol."""
        return self.id.partition("/")[0]

    @property
    def title(self) -> str:
        """The case in words."""
        area, _, what = self.id.partition("/")
        return f"{area}: {what.replace('-', ' ')}"

    @property
    def method(self) -> str:
        """The name of the test method: `set-section/wrong-...` is `test_set_section_wrong_...`."""
        return "test_" + self.id.replace("/", "_").replace("-", "_")


class Cases(dict[str, Case]):
    """Cases by their id, in the order in which they were written."""

    def add(self, case: Case) -> None:
        """Add one. ValueError for an id that is taken, or would be the same method as another's, and for what

        another one shows already.
        """
        for other in self.values():
            if case.method == other.method:
                raise ValueError(f"there is a case {case.id!r} already")
            if both := set(case.shows) & set(other.shows):
                raise ValueError(f"{case.id} shows {both.pop()}, as {other.id} does")
        self[case.id] = case

    def case(
        self,
        case_id: str,
        section: str,
        requirement: str,
        scope: Scope,
        level: Level = Level.MUST,
        *,
        shows: tuple[str, ...] = (),
    ) -> Callable[[CaseFunction], CaseFunction]:
        """A decorator: the function is how the case is tried."""

        def register(run: CaseFunction) -> CaseFunction:
            self.add(Case(case_id, section, requirement, scope, run, level, shows))
            return run

        return register
