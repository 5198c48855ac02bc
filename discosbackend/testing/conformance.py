"""BackendConformance: every case of the kit as a test method, for a TestCase of one's own.

    class MyBackendTests(BackendConformance, unittest.TestCase):
        valid_configuration = "TP"

        def make_backend(self):
            return MyBackend()

What the cases are is said in line_cases, command_cases, acquisition_cases and hostile_cases; what they may
have to be told of an instrument in profile. Here they become methods, and meet a server.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from discosbackend.client.blocking import Client
from discosbackend.testing.acquisition_cases import ACQUISITION_CASES
from discosbackend.testing.case_context import AT_REST, CaseContext
from discosbackend.testing.cases import Case
from discosbackend.testing.causes import Causes
from discosbackend.testing.citations import citation
from discosbackend.testing.command_cases import COMMAND_CASES, own_cases
from discosbackend.testing.errors import NotServed
from discosbackend.testing.hostile_cases import HOSTILE_CASES
from discosbackend.testing.line_cases import LINE_CASES
from discosbackend.testing.process import ServerProcess, file_of
from discosbackend.testing.profile import Profile, rows_of
from discosbackend.testing.results import ESSENTIAL, Result, Verdict
from discosbackend.testing.runner import evaluate

if TYPE_CHECKING:
    from discosbackend.commands import Command
    from discosbackend.protocol import DBFactory

    _TestCase = unittest.TestCase
else:
    # A mixin, so that importing it collects nothing.
    _TestCase = object

__all__ = ["CASES", "BackendConformance"]

__unittest = True
__tracebackhide__ = True

# Seconds in which a process is gone that was seen to be going.
_DYING = 1.0

CASES: dict[str, Case] = {**LINE_CASES, **COMMAND_CASES, **ACQUISITION_CASES, **HOSTILE_CASES}
"""Every case by its id."""


@dataclass
class _Findings:
    """What the tests of one class have found on its server so far.

    `failures` is what is told of a failure, by case, and `missed` the case that has reported why some could not be
    judged, by the reason.
    """

    causes: Causes
    failures: dict[str, str] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)


class BackendConformance(Profile, _TestCase):
    """A mixin for a TestCase: tests a backend over a socket, case by case.

    Define `make_backend()`, and the backend is served in a process of its own, one for all tests of the
    class.
    Or say where a server is that is running already, whatever it is written in: `address` as a class
    attribute, or `self.address` in a `setUp` of your own. The attributes of Profile tell what is valid for
    the instrument; cases that would have to guess are skipped and say which attribute they miss.

    A test that fails because of something that another test reports is skipped, and says which one. Commands that
    only this backend has are tested too, where own_commands names them.

    Each case leaves the server as it found it, as far as the protocol allows: what it started is stopped,
    configuration, integration and file name are set back. Tests of your own stand beside them and talk
    through `self.client`.
    """

    address: tuple[str, int] | None = None
    """Host and port of the server under test; None: one is started for make_backend()."""

    start_timeout: float = 30.0
    """Seconds that the server may take to listen, making the backend included."""

    strict: bool = True
    """Whether what works, but not as the document says, is a failure; else that test is skipped."""

    complete: bool = False
    """Whether a case of start, stop or set-configuration that cannot be judged is a failure, whatever the reason.

    Else it is one only where somebody else uses the server; any other such test is skipped. Each reason fails one
    test, and the others with this reason are skipped.
    """

    _server: ClassVar[ServerProcess | None] = None
    _not_served: ClassVar[str] = ""
    _file: ClassVar[str | None] = None
    _own_cases: ClassVar[dict[str, Case]] = {}
    _findings: ClassVar[_Findings | None] = None

    def __init_subclass__(cls, *, mixin: bool = False, **others: Any) -> None:
        """TypeError for a class whose cases no runner would find; `mixin=True` if it is one itself.

        And for an attribute that is nearly one of Profile's: misspelled, it would leave cases out in silence.
        """
        super().__init_subclass__(**others)
        for name, value in vars(cls).items():
            if not callable(value) and not hasattr(BackendConformance, name):
                if meant := get_close_matches(name, Profile.__annotations__, cutoff=0.75):
                    raise TypeError(f"{cls.__name__} has an attribute {name!r}: is {meant[0]!r} meant?")
        cls._server, cls._not_served, cls._findings = None, "", None
        cls._define_own_cases(rows_of(cls.own_commands).values())
        # Now, because a runner may change to another folder before the tests run.
        cls._file = file_of(cls)
        bases = f"class {cls.__name__}(BackendConformance, unittest.TestCase)"
        if not issubclass(cls, unittest.TestCase):
            if not mixin:
                raise TypeError(
                    f"{cls.__name__} is no TestCase, so none of its cases would run: write `{bases}`, or "
                    "with `mixin=True` if it is the base of others"
                )
        elif cls.__mro__.index(unittest.TestCase) < cls.__mro__.index(BackendConformance):
            raise TypeError(f"{cls.__name__} has its bases in the wrong order: write `{bases}`")

    @classmethod
    def _define_own_cases(cls, rows: Iterable[Command]) -> None:
        """A test method for each case of commands that only this backend has; none for those of a base class."""
        inherited = cls._own_cases
        cls._own_cases = dict(own_cases(rows))
        for case in inherited.values():
            setattr(cls, case.method, None)
        for case in cls._own_cases.values():
            setattr(cls, case.method, _method(case))

    def make_backend(self) -> Any:
        """The backend to test, of any class. Called in the server's process, where setUp is not."""
        raise NotServed(
            f"{type(self).__name__} does not say what to test: define make_backend(), or set address to "
            "where a server is running"
        )

    def make_factory(self) -> DBFactory:
        """The server around the backend; redefine it to test with settings of your own."""
        from discosbackend.handlers import DBProtocolHandler, Handler
        from discosbackend.protocol import DBFactory as Factory

        backend = self.make_backend()
        if backend is None:
            raise NotServed(f"{type(self).__name__}.make_backend() returned None: a `return` is missing")
        return Factory(backend if isinstance(backend, Handler) else DBProtocolHandler(backend))

    def setUp(self) -> None:
        """See that a server is there. One of your own instead may set `self.address` and do no more."""
        super().setUp()
        if self.address is None:
            kind = type(self)
            if (kind.make_backend, kind.make_factory) == (
                BackendConformance.make_backend,
                BackendConformance.make_factory,
            ):
                # It says what is missing, here rather than in a process of its own.
                self.make_backend()
            self.address = self._served_at()

    @cached_property
    def client(self) -> Client:
        """A connection to the server, made when it is first used and closed after the test."""
        host, port = self._known_address()
        client = Client(host, port, timeout=self.reply_timeout)
        self.addCleanup(client.close)
        return client

    def run_case(self, case: Case) -> None:
        """Try one case, and tell what was said when it fails."""
        findings = self._findings_so_far()
        if found := findings.causes.tried_early(case.id):
            # What has blocked others is reported as it was then.
            [result] = found
        else:
            result = findings.causes.settle(self._attempt(case), self._attempt_cause)
        if result.verdict is Verdict.PASS:
            return
        if result.verdict is Verdict.FAIL:
            raise self.failureException(findings.failures[case.id])
        if self._is_missed(result):
            reported_by = findings.missed.setdefault(result.explanation, case.id)
            if reported_by == case.id:
                raise self.failureException(f"{case.id} could not be judged: {result.explanation}")
        self.skipTest(result.explanation)

    def _is_missed(self, result: Result) -> bool:
        """Whether a case that was not judged must not be passed over in silence."""
        if result.case.area not in ESSENTIAL or result.verdict not in (Verdict.SKIPPED, Verdict.UNSUPPORTED):
            return False
        return self.complete or any(AT_REST in used for used in result.used)

    def _attempt_cause(self, case: Case) -> Result | None:
        """Try a case that may have caused a failure; None when the server is not there any more."""
        if self._server is not None and not self._server.running:
            return None
        return self._attempt(case)

    def _attempt(self, case: Case) -> Result:
        findings, address, server = self._findings_so_far(), self._known_address(), self._server
        own_server = server is not None and server.address == address
        written = server.written if server is not None else 0
        context = CaseContext(self, address, own_server=own_server)
        context.given_up = findings.causes.given_up
        result = evaluate(case, context, strict=self.strict)
        if result.verdict is Verdict.FAIL:
            broken = f"{case.id}, {citation(case.section)}: {case.requirement}"
            parts = [result.explanation, broken, result.conversation]
            if server is not None and own_server:
                if context.cut_off and server.ends(within=_DYING):
                    parts.append("the server's process has ended")
                if output := server.output(written):
                    parts.append(f"the server wrote:\n{output}")
            findings.failures[case.id] = "\n\n".join(part for part in parts if part)
        return result

    @classmethod
    def _findings_so_far(cls) -> _Findings:
        if cls._findings is None:
            cls._findings = _Findings(Causes((*CASES.values(), *cls._own_cases.values())))
            cls.addClassCleanup(cls._end_of_class)
        return cls._findings

    @classmethod
    def _end_of_class(cls) -> None:
        """Report what has blocked tests and has no test of its own in this run."""
        findings, cls._findings = cls._findings, None
        if findings is not None:
            early = findings.causes.tried_early()
            failed = [findings.failures[result.case.id] for result in early if result.verdict is Verdict.FAIL]
            if failed:
                raise AssertionError("\n\n".join(["tests were skipped because of a failure:", *failed]))

    def _known_address(self) -> tuple[str, int]:
        if self.address is None:
            raise NotServed(f"{type(self).__name__}.setUp() did not set self.address: call super().setUp()?")
        return self.address

    @classmethod
    def _served_at(cls) -> tuple[str, int]:
        """Where this class's server listens; it is started with the first test."""
        if cls._server is not None and not cls._server.running:
            # Whoever brought it down has failed; the others have a right to one.
            cls._stop_server()
        if cls._server is None:
            if cls._not_served:
                raise NotServed(f"no server, as before: {cls._not_served}")
            try:
                cls._server = ServerProcess(cls, timeout=cls.start_timeout, file=cls._file)
            except NotServed as problem:
                # Once is enough to wait for it, and to read the whole story.
                cls._not_served = str(problem).strip().splitlines()[-1]
                raise NotServed(f"{cls.__name__}: the backend cannot be served:\n{problem}") from None
            cls.addClassCleanup(cls._stop_server)
        return cls._server.address

    @classmethod
    def _stop_server(cls) -> None:
        server, cls._server = cls._server, None
        if server is not None:
            server.stop()


def _method(case: Case) -> Callable[[BackendConformance], None]:
    def test(self: BackendConformance) -> None:
        self.run_case(case)

    test.__name__ = case.method
    test.__qualname__ = f"{BackendConformance.__qualname__}.{case.method}"
    test.__doc__ = f"{case.id}: {case.requirement}"
    return test


for _case in CASES.values():
    setattr(BackendConformance, _case.method, _method(_case))
