"""One worker of ./run_tests: runs the test modules that it is sent, one after another, by unittest.

It reads one JSON object a line from standard input, `{"names": [...], "seed": null}`, and writes one JSON object a
line, the outcome of these tests, to the file descriptor that its command line names. Whatever the tests and their
child processes write goes to its standard output and error.
"""

from __future__ import annotations

import faulthandler
import gc
import io
import json
import os
import random
import resource
import sys
import time
import traceback
import unittest
from collections.abc import Iterable, Iterator
from typing import Any

from . import forking

__all__ = ["main", "shuffled"]


class Outcome(unittest.TextTestResult):
    """What happened to each test, as JSON can carry it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds: dict[str, float] = {}
        self._begun = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        self._begun = time.monotonic()
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        # Some versions of Python do not start a test that is skipped.
        self.seconds[test.id()] = time.monotonic() - self._begun if self._begun else 0.0
        self._begun = 0.0
        # What a failed test has printed is in its text already.
        self._mirrorOutput = False
        super().stopTest(test)

    def to_dict(self) -> dict[str, Any]:
        """The outcome: seconds a test, failures with their output, skipped tests with their reasons."""
        failed = [(_id_of(test), _text_of(test, text)) for test, text in (*self.errors, *self.failures)]
        failed += [(_id_of(test), "it was expected to fail, and did not\n") for test in self.unexpectedSuccesses]
        return {
            "seconds": self.seconds,
            "failed": failed,
            "skipped": [(_id_of(test), reason) for test, reason in self.skipped],
        }


def _id_of(test: unittest.TestCase) -> str:
    """The dotted name of a test, or of a class or module whose set-up failed; a subtest has that of its test."""
    return test.test_case.id() if _is_subtest(test) else test.id()  # type: ignore[attr-defined]


def _text_of(test: unittest.TestCase, text: str) -> str:
    """What a test says, behind the parameters of a subtest."""
    return f"{test.id()}\n{text}" if _is_subtest(test) else text


def _is_subtest(test: unittest.TestCase) -> bool:
    """Whether unittest made it for subTest(). A test class may also have an attribute `test_case`."""
    return type(test).__module__ == "unittest.case" and hasattr(test, "test_case")


def main(descriptor: int) -> None:
    """Serve until standard input ends."""
    faulthandler.enable()
    with os.fdopen(descriptor, "w", encoding="utf-8") as answers:
        for line in sys.stdin:
            request = json.loads(line)
            used = _cpu_seconds()
            outcome = _run(request["names"], request["seed"])
            print(json.dumps({**outcome, "cpu": _cpu_seconds() - used}), file=answers, flush=True)


def _run(names: list[str], seed: int | None) -> dict[str, Any]:
    try:
        suite: unittest.TestSuite = unittest.defaultTestLoader.loadTestsFromNames(names)
    except Exception:  # noqa: BLE001  # whatever the module raises when it is imported
        return {"seconds": {}, "failed": [(names[0], traceback.format_exc())], "skipped": []}
    if seed is not None:
        suite = shuffled(suite, random.Random(seed))
    # What has been imported stays. The collections during the tests, a tenth of their time, need not look at it.
    gc.collect()
    gc.freeze()
    runner = unittest.TextTestRunner(
        stream=io.StringIO(),
        buffer=True,
        resultclass=Outcome,
        warnings=None if sys.warnoptions else "default",
    )
    result = runner.run(suite)
    assert isinstance(result, Outcome)
    return result.to_dict()


def shuffled(suite: unittest.TestSuite, draw: random.Random) -> unittest.TestSuite:
    """The same tests: classes in random order, and the tests of each class in random order."""
    classes: dict[type, list[unittest.TestCase]] = {}
    for test in _tests_in(suite):
        classes.setdefault(type(test), []).append(test)
    order = list(classes.values())
    draw.shuffle(order)
    for tests in order:
        draw.shuffle(tests)
    return unittest.TestSuite(test for tests in order for test in tests)


def _tests_in(suite: Iterable[Any]) -> Iterator[unittest.TestCase]:
    for each in suite:
        if isinstance(each, unittest.TestCase):
            yield each
        else:
            yield from _tests_in(each)


def _cpu_seconds() -> float:
    """Processor time of this process, and of its children and the forked programs that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both) + forking.cpu_seconds()


if __name__ == "__main__":
    main(int(sys.argv[1]))
