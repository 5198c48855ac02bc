"""Case: one requirement on a server, with its id, its sentence in the protocol, and the function that tests it.

The cases themselves are in line_cases, command_cases, acquisition_cases and hostile_cases. The module runner runs
them. A case does not depend on how its result is reported.
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
"""The function that tests a case. It raises AssertionError if the server does not meet the requirement."""


class Level(Enum):
    """How strong a requirement is."""

    MUST = "must"
    """The protocol requires it."""
    SHOULD = "should"
    """The protocol recommends it. A server that behaves differently works; its verdict is non-strict."""
    QUIRK = "quirk"
    """No document of DISCOS requires it, but a deployed client depends on it. It is treated like MUST."""


@dataclass(frozen=True, slots=True)
class Case:
    """One requirement and the function that tests it.

    Parameters
    ----------
    id
        `area/name`. The area is the name of a command, or a part of the protocol.
    section
        The number of the section of docs/protocol.md that contains the requirement, such as "7.1".
    requirement
        The sentence that is tested, word for word as in the section.
    scope
        The limit of what the case may send to the server.
    run
        Tests the case. It gets a CaseContext. It raises AssertionError if the server does not meet the requirement,
        and unittest.SkipTest if this cannot be tested.
    level
        How strong the requirement is.
    shows
        The features that this case tests and other cases use, in the order in which it tests them: names of commands,
        or constants such as server_session.CLOCK. If this case fails, failures of other cases that use such a feature
        are reported as blocked by this case. See ServerSession.using.

    Raises
    ------
    ValueError
        If the protocol has no such section.

    Examples
    --------
    >>> from discosbackend.testing.cases import Case
    >>> from discosbackend.testing.send_guard import Scope
    >>> case = Case(
    ...     "time/reply-is-well-formed",
    ...     "4.9",
    ...     "The `ok` reply to `time` carries `timestamp`.",
    ...     Scope.READS,
    ...     lambda context: context.ok("time"),
    ... )
    >>> case.area, case.method
    ('time', 'test_time_reply_is_well_formed')
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
        """The subject of the case: the name of a command, or a part of the protocol."""
        return self.id.partition("/")[0]

    @property
    def title(self) -> str:
        """The id as a title for people, such as "start: while acquiring"."""
        area, _, what = self.id.partition("/")
        return f"{area}: {what.replace('-', ' ')}"

    @property
    def method(self) -> str:
        """The name of the test method: `set-section/accepts` becomes `test_set_section_accepts`."""
        return "test_" + self.id.replace("/", "_").replace("-", "_")


class Cases(dict[str, Case]):
    """Cases by their id, in the order in which they were added."""

    def add(self, case: Case) -> None:
        """Add a case.

        Raises
        ------
        ValueError
            If another case has the same test method, or already shows the same feature.
        """
        for other in self.values():
            if case.method == other.method:
                raise ValueError(f"there is a case {case.id!r} already")
            if both := set(case.shows) & set(other.shows):
                raise ValueError(f"{case.id} shows {both.pop()}, which {other.id} already shows")
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
        """Return a decorator that adds a case which the decorated function tests.

        The parameters are those of Case.

        Raises
        ------
        ValueError
            When the decorator is applied, for the reasons of add() and Case.

        Examples
        --------
        >>> from discosbackend.testing.cases import Cases
        >>> from discosbackend.testing.send_guard import Scope
        >>> cases = Cases()
        >>> @cases.case("stop/twice", "7.1", "`stop` that finds nothing to stop is answered with `fail`.", Scope.FULL)
        ... def stop_twice(context):
        ...     context.fails("not acquiring", "stop")
        >>> [*cases]
        ['stop/twice']
        """

        def register(run: CaseFunction) -> CaseFunction:
            self.add(Case(case_id, section, requirement, scope, run, level, shows))
            return run

        return register
