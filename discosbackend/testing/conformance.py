"""BackendConformance: a mixin with a test method for each case of the kit.

    class MyBackendTests(BackendConformance, unittest.TestCase):
        valid_configuration = "TP"

        def make_backend(self):
            return MyBackend()

The cases are in line_cases, command_cases, acquisition_cases and hostile_cases. The attributes that describe an
instrument are in profile. This module turns the cases into test methods, and starts the server that they test.
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

# How long to wait for the end of a server process that has closed a connection, in seconds.
_DYING = 1.0

CASES: dict[str, Case] = {**LINE_CASES, **COMMAND_CASES, **ACQUISITION_CASES, **HOSTILE_CASES}
"""All cases by their id, except those for commands that only one backend has."""


@dataclass
class _Findings:
    """What the tests of one class have found on its server so far.

    `failures` has the text of each failure, by the id of its case. `missed` has the reasons why cases could not be
    judged, each with the id of the case that has reported it.
    """

    causes: Causes
    failures: dict[str, str] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)


class BackendConformance(Profile, _TestCase):
    """A mixin for a TestCase that tests a backend over a socket, with one test method for each case.

    Define `make_backend()` to test a backend that is written with this library. The backend is served in a separate
    process, which is started once for all tests of the class. To test a server that is already running, written in
    any language, set `address` instead: as a class attribute, or as `self.address` in your own `setUp`.

    The attributes of Profile describe the instrument. A case that needs an attribute without a value is skipped, and
    the reason names the attribute. If `own_commands` names commands that only this backend has, they are tested too.

    If several tests fail because of the same defect, one of them fails, and the others are skipped with a reason that
    names it.

    Each case restores the state of the server as far as the protocol allows: it stops what it started, and sets the
    configuration, the integration time and the file name back. You can add your own test methods, which use
    `self.client`.

    Parameters
    ----------
    mixin
        A class argument, not an attribute. Set it to True for a class that is itself a mixin, and not a TestCase.

    Raises
    ------
    TypeError
        When a subclass is defined: if test runners would not find its cases, because it does not derive from TestCase
        or has its bases in the wrong order; if the name of an attribute is probably a misspelling; or if own_commands
        contains anything but commands.
    ValueError
        When a subclass is defined: if own_commands contains a command of the protocol, or a command twice.
    NotServed
        When a test is run: if the backend cannot be served.

    Examples
    --------
    This class tests a server that is already running. Here a single test is run; usually a test runner runs all.

    >>> import unittest
    >>> from discosbackend.testing import BackendConformance
    >>> class MyServerTests(BackendConformance, unittest.TestCase):
    ...     address = ("127.0.0.1", 8978)
    ...     valid_configuration = "SK00"
    ...     inputs = 2
    >>> result = MyServerTests("test_status_reply_is_well_formed").run()
    >>> result.wasSuccessful()
    True
    """

    address: tuple[str, int] | None = None
    """Host and port of the server under test; None to start a server with make_backend()."""

    start_timeout: float = 30.0
    """How long the server may take until it listens, in s. This includes the call of make_backend()."""

    strict: bool = True
    """Whether a non-strict result is a failure: the server works, but differs from the protocol document. If False,
    the test is skipped."""

    complete: bool = False
    """Whether it is a failure if a case of start, stop or set-configuration cannot be judged, for whatever reason.

    If False, such a test is skipped, except if the reason is that the server is acquiring. Of all tests that would fail
    for the same reason, only the first one fails. The others are skipped.
    """

    _server: ClassVar[ServerProcess | None] = None
    _not_served: ClassVar[str] = ""
    _file: ClassVar[str | None] = None
    _own_cases: ClassVar[dict[str, Case]] = {}
    _findings: ClassVar[_Findings | None] = None

    def __init_subclass__(cls, *, mixin: bool = False, **others: Any) -> None:
        """Check the definition of a subclass: its bases, and the names of its attributes.

        A test runner would not find the cases of a class with wrong bases. Cases would be skipped without notice if an
        attribute of Profile was misspelled.
        """
        super().__init_subclass__(**others)
        for name, value in vars(cls).items():
            if not callable(value) and not hasattr(BackendConformance, name):
                if meant := get_close_matches(name, Profile.__annotations__, cutoff=0.75):
                    raise TypeError(f"{cls.__name__} has an attribute {name!r}: did you mean {meant[0]!r}?")
        cls._server, cls._not_served, cls._findings = None, "", None
        cls._define_own_cases(rows_of(cls.own_commands).values())
        # A test runner may change to another folder before the tests run, and this path may be relative.
        cls._file = file_of(cls)
        bases = f"class {cls.__name__}(BackendConformance, unittest.TestCase)"
        if not issubclass(cls, unittest.TestCase):
            if not mixin:
                raise TypeError(
                    f"{cls.__name__} is not a TestCase, so none of its cases would run: write `{bases}`, or "
                    "with `mixin=True` if it is the base of others"
                )
        elif cls.__mro__.index(unittest.TestCase) < cls.__mro__.index(BackendConformance):
            raise TypeError(f"{cls.__name__} has its bases in the wrong order: write `{bases}`")

    @classmethod
    def _define_own_cases(cls, rows: Iterable[Command]) -> None:
        """Add a test method for each case of own_commands, and remove those of a base class."""
        inherited = cls._own_cases
        cls._own_cases = dict(own_cases(rows))
        for case in inherited.values():
            setattr(cls, case.method, None)
        for case in cls._own_cases.values():
            setattr(cls, case.method, _method(case))

    def make_backend(self) -> Any:
        """Return the backend to test, an object of any class. To be defined by you.

        It is called once, in the process of the server, where setUp() is not called.

        Raises
        ------
        NotServed
            If it is not defined.
        """
        raise NotServed(
            f"{type(self).__name__} does not say what to test: define make_backend(), or set address to "
            "where a server is running"
        )

    def make_factory(self) -> DBFactory:
        """Return the factory that serves the backend. Override it to test with other settings of the server.

        It is called once, in the process of the server.

        Raises
        ------
        NotServed
            If make_backend() returns None.
        """
        from discosbackend.handlers import DBProtocolHandler, Handler
        from discosbackend.protocol import DBFactory as Factory

        backend = self.make_backend()
        if backend is None:
            raise NotServed(f"{type(self).__name__}.make_backend() returned None: a `return` is missing")
        return Factory(backend if isinstance(backend, Handler) else DBProtocolHandler(backend))

    def setUp(self) -> None:
        """Start the server if there is none. Your own setUp may set `self.address` and need not call this one."""
        super().setUp()
        if self.address is None:
            kind = type(self)
            if (kind.make_backend, kind.make_factory) == (
                BackendConformance.make_backend,
                BackendConformance.make_factory,
            ):
                # Raises NotServed immediately, instead of in a process that has to be started first.
                self.make_backend()
            self.address = self._served_at()

    @cached_property
    def client(self) -> Client:
        """A Client that is connected to the server. It is created on first use and closed after the test."""
        host, port = self._known_address()
        client = Client(host, port, timeout=self.reply_timeout)
        self.addCleanup(client.close)
        return client

    def run_case(self, case: Case) -> None:
        """Run one case, and turn its verdict into the outcome of this test.

        Parameters
        ----------
        case
            The case.

        Raises
        ------
        AssertionError
            If the case fails. The text contains the reasons, the requirement and the last lines of the conversation.
        unittest.SkipTest
            If the case cannot be judged.
        """
        findings = self._findings_so_far()
        if found := findings.causes.tried_early(case.id):
            # The case has been run already, because it might have caused another failure.
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
        """Return whether this case was not judged, and this counts as a failure."""
        if result.case.area not in ESSENTIAL or result.verdict not in (Verdict.SKIPPED, Verdict.UNSUPPORTED):
            return False
        return self.complete or any(AT_REST in used for used in result.used)

    def _attempt_cause(self, case: Case) -> Result | None:
        """Run a case that may have caused a failure; None if the server process has ended."""
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
        """Report the failures of cases that have blocked tests, but whose own tests are not part of this run."""
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
        """Return the address of the server of this class. The first call starts it."""
        if cls._server is not None and not cls._server.running:
            # The test during which the server process ended has failed. The other tests need a new server.
            cls._stop_server()
        if cls._server is None:
            if cls._not_served:
                raise NotServed(f"no server, for the same reason as before: {cls._not_served}")
            try:
                cls._server = ServerProcess(cls, timeout=cls.start_timeout, file=cls._file)
            except NotServed as problem:
                # The next tests do not wait again, and report only the last line.
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
