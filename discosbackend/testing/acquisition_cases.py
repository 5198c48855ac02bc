"""Cases of start and stop: the life of an acquisition, now and at given times.

Protocol section 7. When something happened is judged by the timestamps of `status`, so neither a busy host
nor a clock that differs from this one's spoils a verdict.
"""

from __future__ import annotations

from discosbackend.testing.cases import Cases
from discosbackend.testing.check import Check
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["ACQUISITION_CASES"]

__unittest = True
__tracebackhide__ = True

ACQUISITION_CASES = Cases()

# What says with which configuration it starts, should the instrument refuse to start.
_CONFIGURED = "valid_configuration"

_ELAPSED = {"start": "starting time already elapsed", "stop": "stop time already elapsed"}


@ACQUISITION_CASES.case("start/now-and-stop-now", "`start` (now) starts; `stop` (now) while acquiring stops.")
def _start_and_stop(check: Check) -> None:
    check.prepare_acquisition()
    for _ in range(2):
        check.ok("start", told_by=_CONFIGURED)
        check.wait_for(acquiring=True)
        check.ok("stop")
        check.wait_for(acquiring=False)


@ACQUISITION_CASES.case("start/while-acquiring", "`start` while acquiring: `fail`.")
def _start_while_acquiring(check: Check) -> None:
    check.prepare_acquisition()
    check.ok("start", told_by=_CONFIGURED)
    check.wait_for(acquiring=True)
    check.fails("already acquiring", "start")
    check.that(check.status().acquiring, "a start that was refused ended the acquisition")


@ACQUISITION_CASES.case(
    "stop/twice", "`stop` with nothing to stop: `fail`. Clients do that at the end of a scan."
)
def _stop_twice(check: Check) -> None:
    check.prepare_acquisition()
    check.ok("start", told_by=_CONFIGURED)
    check.wait_for(acquiring=True)
    check.ok("stop")
    check.wait_for(acquiring=False)
    if check.profile.stop_when_idle == "ok":
        check.ok("stop")
    else:
        check.fails("not acquiring", "stop")
    check.that(not check.status().acquiring, "acquiring after two stops")


@ACQUISITION_CASES.case("start/timed", "`start,T` arms a start; the transition takes place at T.")
def _timed_start(check: Check) -> None:
    check.prepare_acquisition()
    instant = check.arm("start")
    _comes_at(check, instant, acquiring=True)
    check.ok("stop")
    check.wait_for(acquiring=False)


@ACQUISITION_CASES.case("stop/timed", "`stop,T` arms a stop; with a decimal point T is Unix seconds.")
def _timed_stop(check: Check) -> None:
    check.prepare_acquisition()
    check.ok("start", told_by=_CONFIGURED)
    check.wait_for(acquiring=True)
    instant = check.arm("stop", Ticks.unix_text)
    _comes_at(check, instant, acquiring=False)


@ACQUISITION_CASES.case("stop/cancels-timed-start", "`stop` while a start is pending cancels that: `ok`.")
def _stop_cancels(check: Check) -> None:
    check.prepare_acquisition()
    instant = check.arm("start", then=lambda *_: [("stop",)])
    check.stays_idle_until(instant)


@ACQUISITION_CASES.case("start/newest-time-holds", "`start,T` arms a start; a newer `start,T` replaces it.")
def _newest_start(check: Check) -> None:
    check.prepare_acquisition()
    later = round(check.profile.lead * TICKS_PER_SECOND)
    first = check.arm("start", then=lambda instant, _: [("start", str(instant + later))])
    _comes_at(check, Ticks(first + later), acquiring=True)


@ACQUISITION_CASES.case("start/refused-time-changes-nothing", "`fail`, and what was pending stays as it was.")
def _refused_start(check: Check) -> None:
    check.prepare_acquisition()
    instant = check.arm("start")
    check.fails(_ELAPSED["start"], "start", _elapsed(check))
    check.fails("wrong timestamp '0'", "start", "0")
    check.fails("wrong timestamp 'soon'", "start", "soon")
    _comes_at(check, instant, acquiring=True)


@ACQUISITION_CASES.case("start/now-drops-timed-start", "`start` (now) starts and drops a pending start.")
def _start_now_drops_timed(check: Check) -> None:
    check.prepare_acquisition()
    # Ended by a timed stop, because one that is not would clear what is pending.
    instant = check.arm("start", then=lambda instant, half: [("start",), ("stop", str(instant - half))])
    check.wait_for(acquiring=False, since=instant)
    check.stays_idle_until(instant)


@ACQUISITION_CASES.case("start/elapsed-time", "A time already elapsed: `fail`.")
def _elapsed_start(check: Check) -> None:
    _refuses_time(check, "start", _ELAPSED["start"], _elapsed(check))


@ACQUISITION_CASES.case("stop/elapsed-time", "A time already elapsed: `fail`.")
def _elapsed_stop(check: Check) -> None:
    _refuses_time(check, "stop", _ELAPSED["stop"], _elapsed(check))


@ACQUISITION_CASES.case("start/far-time", "A time further ahead than a horizon, default 7 days: `fail`.")
def _far_start(check: Check) -> None:
    _refuses_time(check, "start", "cannot start at given time", _far(check))


@ACQUISITION_CASES.case("stop/far-time", "A time further ahead than a horizon, default 7 days: `fail`.")
def _far_stop(check: Check) -> None:
    _refuses_time(check, "stop", "cannot stop at given time", _far(check))


def _refuses_time(check: Check, name: str, reason: str, instant: Ticks) -> None:
    check.prepare_acquisition()
    for text in (str(instant), instant.unix_text()):
        check.fails(reason, name, text, told_by=_CONFIGURED)
    check.that(not check.status().acquiring, f"{name} at a time that was refused began an acquisition")


def _comes_at(check: Check, instant: Ticks, *, acquiring: bool) -> None:
    """The transition must show in status at its time: not before, and soon after."""
    status = check.wait_for(acquiring, since=instant)
    early = (instant - status.timestamp) / TICKS_PER_SECOND
    check.that(
        early <= check.profile.early_tolerance,
        f"it took place {early:.6f} s before its time {instant.unix_text()}",
    )


def _elapsed(check: Check) -> Ticks:
    return Ticks(check.status().timestamp - 10 * TICKS_PER_SECOND)


def _far(check: Check) -> Ticks:
    return Ticks(check.status().timestamp + round((check.profile.horizon + 86400) * TICKS_PER_SECOND))
