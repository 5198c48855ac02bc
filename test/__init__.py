"""The tests, and with test_simulator_server the reusable TestCase at work.

With DISCOS_TEST_REACTOR=asyncio in the environment, the processes of the tests serve on the asyncio reactor.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def _default_signals_for_children() -> None:
    """Give every process that a test starts the default signals, whatever this one inherited.

    A suite in the background, under nohup or in a CI system inherits ignored signals, and so would its children.
    A handler is not inherited; one that does nothing ignores the signal as well.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


class _HypothesisFinder(importlib.abc.MetaPathFinder):
    """Loads the profile of the tests as soon as one of them imports Hypothesis.

    Hypothesis takes half a second to import, and most processes that import this package do not need it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find Hypothesis, and nothing else."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if fullname == "hypothesis" else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_set(module: ModuleType) -> None:
                execute(module)
                _set_hypothesis_profile()

            spec.loader.exec_module = execute_and_set  # type: ignore[method-assign]
        return spec


def _set_hypothesis_profile() -> None:
    """Have every property tried with the same examples in each run, however slow the machine, and keep no database.

    A test's own `settings(max_examples=...)` is added to this.
    """
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "tests", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("tests")


def _install_reactor() -> None:
    """Install the reactor that the environment names. The process in which the kit serves a backend does this too."""
    if os.environ.get("DISCOS_TEST_REACTOR") == "asyncio":
        from twisted.internet import asyncioreactor

        asyncioreactor.install()


_default_signals_for_children()
_install_reactor()
if "hypothesis" in sys.modules:
    _set_hypothesis_profile()
else:
    sys.meta_path.insert(0, _HypothesisFinder())
