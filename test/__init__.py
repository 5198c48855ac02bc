"""The tests, and with test_simulator_server the reusable TestCase at work."""

import importlib.util
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


_default_signals_for_children()
_set_hypothesis_profile()
