"""The tests, and with test_simulator_server the reusable TestCase at work."""

import signal


def _default_signals_for_children() -> None:
    """Give every process that a test starts the default signals, whatever this one inherited.

    A suite in the background, under nohup or in a CI system inherits ignored signals, and so would its children.
    A handler is not inherited; one that does nothing ignores the signal as well.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


_default_signals_for_children()
