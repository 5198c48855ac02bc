"""Cases for start and stop, immediate and timed, and for acquisitions after the client has disconnected.

They test protocol section 7. The timestamps of `status` decide when something happened, so a busy host or a different
clock on this host does not change a verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest import SkipTest

from discosbackend.testing.case_context import TIMED, CaseContext, request_line
from discosbackend.testing.cases import CaseFunction, Cases
from discosbackend.testing.send_guard import Scope
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["ACQUISITION_CASES"]

__unittest = True
__tracebackhide__ = True

ACQUISITION_CASES = Cases()


def _case(
    case_id: str, section: str, requirement: str, *, shows: tuple[str, ...] = ()
) -> Callable[[CaseFunction], CaseFunction]:
    """Do the same as Cases.case; the case begins with CaseContext.prepare_acquisition()."""

    def register(run: CaseFunction) -> CaseFunction:
        def prepared(context: CaseContext) -> None:
            context.prepare_acquisition()
            run(context)

        return ACQUISITION_CASES.case(case_id, section, requirement, Scope.FULL, shows=shows)(prepared)

    return register


# The attribute of Profile that names a configuration with which the instrument can start.
_CONFIGURED = "valid_configuration"

_ELAPSED = {"start": "starting time already elapsed", "stop": "stop time already elapsed"}

# The forms of a time in a request (protocol section 3.5).
_FORMS: tuple[Callable[[Ticks], str], ...] = (
    str,
    Ticks.unix_text,
    # A public test client sends this form.
    lambda instant: f"{instant}.0000000",
    # Digits below 100 ns are ignored.
    lambda instant: f"{instant.unix_text()}99999",
)

_HOUR = 3600 * TICKS_PER_SECOND


# -- immediate ------------------------------------------------------------------------------------------


@_case(
    "start/now-and-stop-now",
    "7.1",
    "`start` begins an acquisition at once, and `stop` ends it at once.",
    shows=("start", "stop"),
)
def _start_and_stop(context: CaseContext) -> None:
    for _ in range(2):
        _start(context)
        _stop(context)


@_case("start/while-acquiring", "7.1", "`start` while acquiring is answered with `fail`, `already acquiring`.")
def _start_while_acquiring(context: CaseContext) -> None:
    _start(context)
    context.fails(context.profile.start_when_acquiring, "start")
    context.that(context.status().acquiring, "a start that was refused ended the acquisition")


@_case("stop/twice", "7.1", "`stop` that finds nothing to stop is answered with `fail`, `not acquiring`.")
def _stop_twice(context: CaseContext) -> None:
    _start(context)
    _stop(context)
    _stop_finds_nothing(context)
    context.that(not context.status().acquiring, "acquiring after two stops")


# -- at a given time ------------------------------------------------------------------------------------


@_case("start/timed", "7.2", "`start,T` arms a start, and the acquisition begins at T.", shows=(TIMED["start"],))
def _timed_start(context: CaseContext) -> None:
    _comes_at(context, context.arm("start"), acquiring=True)
    _stop(context)


@_case("stop/timed", "7.2", "`stop,T` arms a stop, and the acquisition ends at T.", shows=(TIMED["stop"],))
def _timed_stop(context: CaseContext) -> None:
    _start(context)
    _comes_at(context, context.arm("stop"), acquiring=False)


@_case(
    "start/forms-of-a-time",
    "3.5",
    "An integer is a count of 100 ns since 1970-01-01T00:00:00 UTC. A number with a decimal point is Unix seconds if "
    "it is below 10^12, and a count of 100 ns otherwise.",
)
def _forms_of_a_time(context: CaseContext) -> None:
    for write in _FORMS:
        _comes_at(context, context.arm("start", write), acquiring=True)
        _stop(context)


_REFUSES_ELAPSED = (
    "A time that has already elapsed is answered with `fail`: "
    "`starting time already elapsed` or `stop time already elapsed`."
)
_REFUSES_FAR = (
    "A time further ahead than a horizon, by default 7 days, is answered with `fail`: "
    "`cannot start at given time` or `cannot stop at given time`."
)


@_case("start/elapsed-time", "7.3", _REFUSES_ELAPSED)
def _elapsed_start(context: CaseContext) -> None:
    _refuses_time(context, "start", _ELAPSED["start"], _elapsed(context))


@_case("stop/elapsed-time", "7.3", _REFUSES_ELAPSED)
def _elapsed_stop(context: CaseContext) -> None:
    _refuses_time(context, "stop", _ELAPSED["stop"], _elapsed(context))


@_case("start/far-time", "7.3", _REFUSES_FAR)
def _far_start(context: CaseContext) -> None:
    _refuses_time(context, "start", "cannot start at given time", _far(context))


@_case("stop/far-time", "7.3", _REFUSES_FAR)
def _far_stop(context: CaseContext) -> None:
    _refuses_time(context, "stop", "cannot stop at given time", _far(context))


# -- several starts and stops ---------------------------------------------------------------------------


@_case(
    "start/newest-time-holds",
    "7.2",
    "A newer `start,T` replaces the pending start, whether its time is later or earlier.",
)
def _newest_start(context: CaseContext) -> None:
    later = _lead(context)
    first = context.arm("start", then=lambda instant, _: [("start", str(instant + later))])
    _comes_at(context, Ticks(first + later), acquiring=True)


@_case(
    "start/newer-time-may-be-earlier",
    "7.2",
    "A newer `start,T` replaces the pending start, whether its time is later or earlier.",
)
def _earlier_start(context: CaseContext) -> None:
    with context.using(TIMED["start"]):
        context.ok("start", context.status().timestamp + _HOUR, profile_attribute=_CONFIGURED)
    _comes_at(context, context.arm("start"), acquiring=True)


@_case("stop/newest-time-holds", "7.2", "A newer `stop,T` replaces the pending stop.")
def _newest_stop(context: CaseContext) -> None:
    _start(context)
    later = _lead(context)
    first = context.arm("stop", then=lambda instant, _: [("stop", str(instant + later))])
    _comes_at(context, Ticks(first + later), acquiring=False)


@_case(
    "start/refused-time-changes-nothing",
    "7.3",
    "A time that is refused changes neither the pending start nor the pending stop.",
)
def _refused_start(context: CaseContext) -> None:
    instant = context.arm("start")
    _refuses_bad_times(context, "start")
    _comes_at(context, instant, acquiring=True)


@_case(
    "stop/refused-time-changes-nothing",
    "7.3",
    "A time that is refused changes neither the pending start nor the pending stop.",
)
def _refused_stop(context: CaseContext) -> None:
    _start(context)
    instant = context.arm("stop")
    _refuses_bad_times(context, "stop")
    _comes_at(context, instant, acquiring=False)


@_case(
    "start/before-stop-both-timed", "7.2", "A start and a stop may be pending at once, and may arrive in either order."
)
def _start_before_stop(context: CaseContext) -> None:
    length = _noticeable(context)
    begins = context.arm("start", then=lambda instant, _: [("stop", str(instant + length))])
    _lasts(context, begins, Ticks(begins + length))


@_case(
    "stop/before-start-both-timed", "7.2", "A start and a stop may be pending at once, and may arrive in either order."
)
def _stop_before_start(context: CaseContext) -> None:
    length = _noticeable(context)
    begins = context.arm(
        "stop",
        lambda instant: str(instant + length),
        then=lambda instant, _: [("start", str(instant))],
    )
    _lasts(context, begins, Ticks(begins + length))


@_case("start/now-drops-timed-start", "7.1", "`start` begins an acquisition at once and drops a pending start.")
def _start_now_drops_timed(context: CaseContext) -> None:
    # A timed stop ends the acquisition, because an immediate one would also clear a pending start.
    instant = context.arm("start", then=lambda instant, half: [("start",), ("stop", str(instant - half))])
    context.wait_for(acquiring=False, since=instant)
    context.stays(acquiring=False, until=instant)


@_case(
    "stop/cancels-timed-start",
    "7.1",
    "`stop` while a start is pending and nothing is acquired cancels that start, and is answered with `ok`.",
)
def _stop_cancels(context: CaseContext) -> None:
    instant = context.arm("start", then=lambda *_: [("stop",)])
    context.stays(acquiring=False, until=instant)


@_case(
    "stop/now-clears-timed-start", "7.1", "`stop` while acquiring is answered with `ok` and clears both pending times."
)
def _stop_clears_start(context: CaseContext) -> None:
    _start(context)
    instant = context.arm("start", then=lambda *_: [("stop",)])
    context.wait_for(acquiring=False)
    context.stays(acquiring=False, until=instant)


@_case("stop/now-clears-timed-stop", "7.1", "`stop` that cancels a pending start clears a pending stop as well.")
def _stop_clears_stop(context: CaseContext) -> None:
    instant = context.arm("stop", then=lambda instant, half: [("start", str(instant + half)), ("stop",), ("start",)])
    context.wait_for(acquiring=True)
    context.stays(acquiring=True, until=instant)


@_case(
    "stop/nothing-to-stop-leaves-timed-stop", "7.1", "`stop` that finds nothing to stop leaves a pending stop in force."
)
def _futile_stop(context: CaseContext) -> None:
    instant = context.arm("stop")
    _stop_finds_nothing(context)
    context.ok("start", profile_attribute=_CONFIGURED)
    if context.status().timestamp >= instant:
        raise SkipTest(f"the server is too slow for a time {context.profile.lead:g} s ahead: set a larger lead")
    _comes_at(context, instant, acquiring=False)


# -- a time comes due when there is nothing to do -------------------------------------------------------


@_case("start/due-while-acquiring", "7.4", "A start that comes due while acquiring changes nothing.")
def _due_while_acquiring(context: CaseContext) -> None:
    _start(context)
    context.stays(acquiring=True, until=context.arm("start"))
    _stop(context)
    context.stays(acquiring=False)


@_case("stop/due-while-idle", "7.4", "A stop that comes due while idle changes nothing.")
def _due_while_idle(context: CaseContext) -> None:
    later = _lead(context)
    instant = context.arm("stop", then=lambda instant, _: [("start", str(instant + later))])
    _comes_at(context, Ticks(instant + later), acquiring=True)
    context.stays(acquiring=True)


@_case(
    "start/with-stop-at-one-time-while-idle",
    "7.4",
    "If a start and a stop come due at the same time while idle, both lapse.",
)
def _one_time_while_idle(context: CaseContext) -> None:
    instant = context.arm("start", then=lambda instant, _: [("stop", str(instant))])
    context.stays(acquiring=False, until=instant)


@_case(
    "start/with-stop-at-one-time",
    "7.4",
    "If a start and a stop come due at the same time while acquiring, the stop is carried out first, then the start.",
)
def _one_time(context: CaseContext) -> None:
    _start(context)
    instant = context.arm("start", then=lambda instant, _: [("stop", str(instant))])
    # Between the stop and the start, status may report for a moment that the server is not acquiring.
    context.wait_until_after(instant)
    context.wait_for(acquiring=True, since=instant)


# -- after the client has disconnected ------------------------------------------------------------------

_NOT_CANCELLED = (
    "When a client disconnects, its running commands, pending starts and stops, and the acquisition are not cancelled."
)


@_case("disconnect/timed-start-comes", "6.4", _NOT_CANCELLED)
def _timed_start_comes(context: CaseContext) -> None:
    instant = context.arm("start")
    context.hang_up()
    _comes_at(context, instant, acquiring=True)


@_case("disconnect/acquisition-goes-on", "6.4", _NOT_CANCELLED)
def _acquisition_goes_on(context: CaseContext) -> None:
    _start(context)
    context.hang_up()
    context.stays(acquiring=True)


@_case("disconnect/half-a-line-is-no-request", "1.9", "Bytes after the last line end are not a request.")
def _half_a_line(context: CaseContext) -> None:
    wire = context.connect()
    wire.send(request_line("start").rstrip())
    wire.close()
    context.stays(acquiring=False)


# -- steps of the cases ---------------------------------------------------------------------------------


def _start(context: CaseContext) -> None:
    with context.using("start"):
        context.ok("start", profile_attribute=_CONFIGURED)
        context.wait_for(acquiring=True)


def _stop(context: CaseContext) -> None:
    with context.using("stop"):
        context.ok("stop")
        context.wait_for(acquiring=False)


def _stop_finds_nothing(context: CaseContext) -> None:
    if context.profile.stop_when_idle == "ok":
        context.ok("stop")
    else:
        context.fails("not acquiring", "stop")


def _refuses_time(context: CaseContext, name: str, reason: str, instant: Ticks) -> None:
    for text in (str(instant), instant.unix_text()):
        context.fails(reason, name, text, profile_attribute=_CONFIGURED)
    context.that(not context.status().acquiring, f"{name} at a time that was refused began an acquisition")


def _refuses_bad_times(context: CaseContext, name: str) -> None:
    context.fails(_ELAPSED[name], name, _elapsed(context))
    for text in ("0", "soon"):
        context.fails(f"wrong timestamp '{text}'", name, text)


def _comes_at(context: CaseContext, instant: Ticks, *, acquiring: bool, until: Ticks | None = None) -> None:
    """Check that status reports the transition at its time: not before it, and soon after it."""
    name = "start" if acquiring else "stop"
    with context.using(TIMED[name]), context.using(name):
        status = context.wait_for(acquiring, since=instant, until=until)
        early = (instant - status.timestamp) / TICKS_PER_SECOND
        context.that(
            early <= context.profile.early_tolerance,
            f"it happened {early:.6f} s before its time {instant.unix_text()}",
        )


def _lasts(context: CaseContext, begins: Ticks, ends: Ticks) -> None:
    """Check that status reports an acquisition from `begins` to `ends`."""
    _comes_at(context, begins, acquiring=True, until=ends)
    _comes_at(context, ends, acquiring=False)


def _noticeable(context: CaseContext) -> int:
    """Return a length of an acquisition in ticks: status reports it, even with the delay that the profile allows."""
    return round((context.profile.late_tolerance + 2 * context.profile.lead) * TICKS_PER_SECOND)


def _lead(context: CaseContext) -> int:
    return round(context.profile.lead * TICKS_PER_SECOND)


def _elapsed(context: CaseContext) -> Ticks:
    return Ticks(context.status().timestamp - 10 * TICKS_PER_SECOND)


def _far(context: CaseContext) -> Ticks:
    return Ticks(context.status().timestamp + round((context.profile.horizon + 86400) * TICKS_PER_SECOND))
