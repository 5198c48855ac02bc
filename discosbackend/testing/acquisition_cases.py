"""Cases of start and stop: the life of an acquisition, now and at given times, whoever asked for it.

Protocol section 7. When something happened is judged by the timestamps of `status`, so neither a busy host
nor a clock that differs from this one's spoils a verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest import SkipTest

from discosbackend.testing.cases import Cases, Try
from discosbackend.testing.caution import Reach
from discosbackend.testing.check import Check, request_line
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["ACQUISITION_CASES"]

__unittest = True
__tracebackhide__ = True

ACQUISITION_CASES = Cases()


def _case(case_id: str, section: str, requirement: str) -> Callable[[Try], Try]:
    return ACQUISITION_CASES.case(case_id, section, requirement, Reach.FULL)


# What says with which configuration it starts, should the instrument refuse to start.
_CONFIGURED = "valid_configuration"

_ELAPSED = {"start": "starting time already elapsed", "stop": "stop time already elapsed"}

# How a time may be written (protocol section 3.5).
_FORMS: tuple[Callable[[Ticks], str], ...] = (
    str,
    Ticks.unix_text,
    # As a public test client prints it.
    lambda instant: f"{instant}.0000000",
    # Digits beyond 100 ns are dropped.
    lambda instant: f"{instant.unix_text()}99999",
)

_HOUR = 3600 * TICKS_PER_SECOND


# -- now ------------------------------------------------------------------------------------------------


@_case("start/now-and-stop-now", "7.1", "`start` begins an acquisition at once, and `stop` ends it at once.")
def _start_and_stop(check: Check) -> None:
    check.prepare_acquisition()
    for _ in range(2):
        _start(check)
        _stop(check)


@_case("start/while-acquiring", "7.1", "`start` while acquiring is answered with `fail`, `already acquiring`.")
def _start_while_acquiring(check: Check) -> None:
    check.prepare_acquisition()
    _start(check)
    check.fails("already acquiring", "start")
    check.that(check.status().acquiring, "a start that was refused ended the acquisition")


@_case("stop/twice", "7.1", "`stop` that finds nothing to stop is answered with `fail`, `not acquiring`.")
def _stop_twice(check: Check) -> None:
    check.prepare_acquisition()
    _start(check)
    _stop(check)
    _stop_finds_nothing(check)
    check.that(not check.status().acquiring, "acquiring after two stops")


# -- at a given time ------------------------------------------------------------------------------------


@_case("start/timed", "7.2", "`start,T` arms a start, and the acquisition begins at T.")
def _timed_start(check: Check) -> None:
    check.prepare_acquisition()
    _comes_at(check, check.arm("start"), acquiring=True)
    _stop(check)


@_case("stop/timed", "7.2", "`stop,T` arms a stop, and the acquisition ends at T.")
def _timed_stop(check: Check) -> None:
    check.prepare_acquisition()
    _start(check)
    _comes_at(check, check.arm("stop"), acquiring=False)


@_case(
    "start/forms-of-a-time",
    "3.5",
    "An integer counts 100 ns since 1970-01-01T00:00:00 UTC, and a number with a decimal point is Unix seconds "
    "below 10^12 and a count of 100 ns from there on.",
)
def _forms_of_a_time(check: Check) -> None:
    check.prepare_acquisition()
    for write in _FORMS:
        _comes_at(check, check.arm("start", write), acquiring=True)
        _stop(check)


_REFUSES_ELAPSED = (
    "A time that has already elapsed is answered with `fail`: "
    "`starting time already elapsed` or `stop time already elapsed`."
)
_REFUSES_FAR = (
    "A time further ahead than a horizon, by default 7 days, is answered with `fail`: "
    "`cannot start at given time` or `cannot stop at given time`."
)


@_case("start/elapsed-time", "7.3", _REFUSES_ELAPSED)
def _elapsed_start(check: Check) -> None:
    _refuses_time(check, "start", _ELAPSED["start"], _elapsed(check))


@_case("stop/elapsed-time", "7.3", _REFUSES_ELAPSED)
def _elapsed_stop(check: Check) -> None:
    _refuses_time(check, "stop", _ELAPSED["stop"], _elapsed(check))


@_case("start/far-time", "7.3", _REFUSES_FAR)
def _far_start(check: Check) -> None:
    _refuses_time(check, "start", "cannot start at given time", _far(check))


@_case("stop/far-time", "7.3", _REFUSES_FAR)
def _far_stop(check: Check) -> None:
    _refuses_time(check, "stop", "cannot stop at given time", _far(check))


# -- one after another ----------------------------------------------------------------------------------


@_case(
    "start/newest-time-holds",
    "7.2",
    "A newer `start,T` replaces the pending start, whether its time is later or earlier.",
)
def _newest_start(check: Check) -> None:
    check.prepare_acquisition()
    later = _lead(check)
    first = check.arm("start", then=lambda instant, _: [("start", str(instant + later))])
    _comes_at(check, Ticks(first + later), acquiring=True)


@_case(
    "start/newer-time-may-be-earlier",
    "7.2",
    "A newer `start,T` replaces the pending start, whether its time is later or earlier.",
)
def _earlier_start(check: Check) -> None:
    check.prepare_acquisition()
    check.ok("start", check.status().timestamp + _HOUR, told_by=_CONFIGURED)
    _comes_at(check, check.arm("start"), acquiring=True)


@_case("stop/newest-time-holds", "7.2", "A newer `stop,T` replaces the pending stop.")
def _newest_stop(check: Check) -> None:
    check.prepare_acquisition()
    _start(check)
    later = _lead(check)
    first = check.arm("stop", then=lambda instant, _: [("stop", str(instant + later))])
    _comes_at(check, Ticks(first + later), acquiring=False)


@_case("start/refused-time-changes-nothing", "7.3", "A time that is refused leaves what was pending as it was.")
def _refused_start(check: Check) -> None:
    check.prepare_acquisition()
    instant = check.arm("start")
    _refuses_bad_times(check, "start")
    _comes_at(check, instant, acquiring=True)


@_case("stop/refused-time-changes-nothing", "7.3", "A time that is refused leaves what was pending as it was.")
def _refused_stop(check: Check) -> None:
    check.prepare_acquisition()
    _start(check)
    instant = check.arm("stop")
    _refuses_bad_times(check, "stop")
    _comes_at(check, instant, acquiring=False)


@_case(
    "start/before-stop-both-timed", "7.2", "A start and a stop may be pending at once, and may arrive in either order."
)
def _start_before_stop(check: Check) -> None:
    check.prepare_acquisition()
    length = _noticeable(check)
    begins = check.arm("start", then=lambda instant, _: [("stop", str(instant + length))])
    _lasts(check, begins, Ticks(begins + length))


@_case(
    "stop/before-start-both-timed", "7.2", "A start and a stop may be pending at once, and may arrive in either order."
)
def _stop_before_start(check: Check) -> None:
    check.prepare_acquisition()
    length = _noticeable(check)
    begins = check.arm(
        "stop",
        lambda instant: str(instant + length),
        then=lambda instant, _: [("start", str(instant))],
    )
    _lasts(check, begins, Ticks(begins + length))


@_case("start/now-drops-timed-start", "7.1", "`start` begins an acquisition at once and drops a pending start.")
def _start_now_drops_timed(check: Check) -> None:
    check.prepare_acquisition()
    # Ended by a timed stop, because one that is not would clear what is pending.
    instant = check.arm("start", then=lambda instant, half: [("start",), ("stop", str(instant - half))])
    check.wait_for(acquiring=False, since=instant)
    check.stays(acquiring=False, until=instant)


@_case(
    "stop/cancels-timed-start",
    "7.1",
    "`stop` while a start is pending and nothing is acquired cancels that start, and is answered with `ok`.",
)
def _stop_cancels(check: Check) -> None:
    check.prepare_acquisition()
    instant = check.arm("start", then=lambda *_: [("stop",)])
    check.stays(acquiring=False, until=instant)


@_case(
    "stop/now-clears-timed-start", "7.1", "`stop` while acquiring is answered with `ok` and clears both pending times."
)
def _stop_clears_start(check: Check) -> None:
    check.prepare_acquisition()
    _start(check)
    instant = check.arm("start", then=lambda *_: [("stop",)])
    check.wait_for(acquiring=False)
    check.stays(acquiring=False, until=instant)


@_case("stop/now-clears-timed-stop", "7.1", "`stop` that cancels a pending start clears a pending stop as well.")
def _stop_clears_stop(check: Check) -> None:
    check.prepare_acquisition()
    instant = check.arm("stop", then=lambda instant, half: [("start", str(instant + half)), ("stop",), ("start",)])
    check.wait_for(acquiring=True)
    check.stays(acquiring=True, until=instant)


@_case(
    "stop/nothing-to-stop-leaves-timed-stop", "7.1", "`stop` that finds nothing to stop leaves a pending stop in force."
)
def _futile_stop(check: Check) -> None:
    check.prepare_acquisition()
    instant = check.arm("stop")
    _stop_finds_nothing(check)
    check.ok("start", told_by=_CONFIGURED)
    if check.status().timestamp >= instant:
        raise SkipTest(f"the server is too slow for a time {check.profile.lead:g} s ahead: say lead")
    _comes_at(check, instant, acquiring=False)


# -- what comes due and finds nothing to do -------------------------------------------------------------


@_case("start/due-while-acquiring", "7.4", "A start that comes due while acquiring changes nothing.")
def _due_while_acquiring(check: Check) -> None:
    check.prepare_acquisition()
    _start(check)
    check.stays(acquiring=True, until=check.arm("start"))
    _stop(check)
    check.stays(acquiring=False)


@_case("stop/due-while-idle", "7.4", "A stop that comes due while idle changes nothing.")
def _due_while_idle(check: Check) -> None:
    check.prepare_acquisition()
    later = _lead(check)
    instant = check.arm("stop", then=lambda instant, _: [("start", str(instant + later))])
    _comes_at(check, Ticks(instant + later), acquiring=True)
    check.stays(acquiring=True)


@_case(
    "start/with-stop-at-one-time-while-idle",
    "7.4",
    "A start and a stop that come due at the same time while idle both lapse.",
)
def _one_time_while_idle(check: Check) -> None:
    check.prepare_acquisition()
    instant = check.arm("start", then=lambda instant, _: [("stop", str(instant))])
    check.stays(acquiring=False, until=instant)


@_case(
    "start/with-stop-at-one-time",
    "7.4",
    "A start and a stop that come due at the same time while acquiring are carried out stop first.",
)
def _one_time(check: Check) -> None:
    check.prepare_acquisition()
    _start(check)
    instant = check.arm("start", then=lambda instant, _: [("stop", str(instant))])
    # Between the two it may say for a moment that it is not acquiring.
    check.wait_until_after(instant)
    check.wait_for(acquiring=True, since=instant)


# -- who asked for it has gone --------------------------------------------------------------------------


@_case("disconnect/timed-start-comes", "6.4", "A client that disconnects cancels nothing that has begun.")
def _timed_start_comes(check: Check) -> None:
    check.prepare_acquisition()
    instant = check.arm("start")
    check.hang_up()
    _comes_at(check, instant, acquiring=True)


@_case("disconnect/acquisition-goes-on", "6.4", "A client that disconnects cancels nothing that has begun.")
def _acquisition_goes_on(check: Check) -> None:
    check.prepare_acquisition()
    _start(check)
    check.hang_up()
    check.stays(acquiring=True)


@_case("disconnect/half-a-line-is-no-request", "1.9", "Bytes after the last line end are not a request.")
def _half_a_line(check: Check) -> None:
    check.prepare_acquisition()
    wire = check.connect()
    wire.send(request_line("start").rstrip())
    wire.close()
    check.stays(acquiring=False)


# -- what they are made of ------------------------------------------------------------------------------


def _start(check: Check) -> None:
    check.ok("start", told_by=_CONFIGURED)
    check.wait_for(acquiring=True)


def _stop(check: Check) -> None:
    check.ok("stop")
    check.wait_for(acquiring=False)


def _stop_finds_nothing(check: Check) -> None:
    if check.profile.stop_when_idle == "ok":
        check.ok("stop")
    else:
        check.fails("not acquiring", "stop")


def _refuses_time(check: Check, name: str, reason: str, instant: Ticks) -> None:
    check.prepare_acquisition()
    for text in (str(instant), instant.unix_text()):
        check.fails(reason, name, text, told_by=_CONFIGURED)
    check.that(not check.status().acquiring, f"{name} at a time that was refused began an acquisition")


def _refuses_bad_times(check: Check, name: str) -> None:
    check.fails(_ELAPSED[name], name, _elapsed(check))
    for text in ("0", "soon"):
        check.fails(f"wrong timestamp '{text}'", name, text)


def _comes_at(check: Check, instant: Ticks, *, acquiring: bool, until: Ticks | None = None) -> None:
    """The transition must show in status at its time: not before, and soon after."""
    status = check.wait_for(acquiring, since=instant, until=until)
    early = (instant - status.timestamp) / TICKS_PER_SECOND
    check.that(
        early <= check.profile.early_tolerance,
        f"it took place {early:.6f} s before its time {instant.unix_text()}",
    )


def _lasts(check: Check, begins: Ticks, ends: Ticks) -> None:
    """An acquisition must show in status from the one time to the other."""
    _comes_at(check, begins, acquiring=True, until=ends)
    _comes_at(check, ends, acquiring=False)


def _noticeable(check: Check) -> int:
    """Ticks of an acquisition that is seen in status however late that may be."""
    return round((check.profile.late_tolerance + 2 * check.profile.lead) * TICKS_PER_SECOND)


def _lead(check: Check) -> int:
    return round(check.profile.lead * TICKS_PER_SECOND)


def _elapsed(check: Check) -> Ticks:
    return Ticks(check.status().timestamp - 10 * TICKS_PER_SECOND)


def _far(check: Check) -> Ticks:
    return Ticks(check.status().timestamp + round((check.profile.horizon + 86400) * TICKS_PER_SECOND))
