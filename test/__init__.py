"""The tests, and with test_simulator_server the reusable TestCase at work.

With DISCOS_TEST_REACTOR=asyncio in the environment, the processes of the tests serve on the asyncio reactor.
"""

import importlib.util
import os
import signal


def _default_signals_for_children() -> None:
    """Give every process that a test starts the default signals, whatever this one inherited.

    A suite in the background, under nohup or in a CI system inherits ignored signals, and so would its children.
    A handler is not inherited; one that does nothing ignores the signal as well.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def _set_hypothesis_profile() -> None:
    """Have every property tried with the same examples in each run, however slow the machine, and keep no database.

    A test's own `settings(max_examples=...)` is added to this. Programs among the tests run without Hypothesis too.
    """
    if importlib.util.find_spec("hypothesis") is None:
        return
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
_set_hypothesis_profile()
