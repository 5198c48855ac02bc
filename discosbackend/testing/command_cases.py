"""Cases of the commands: what each refuses, by its row of the table, and what it answers when all is well.

Protocol sections 4, 5 and 9.5. A new row brings its cases along; wrong numbers and types of arguments are made
in wrong_arguments. start and stop, which have a state between them, are in acquisition_cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from unittest import SkipTest

from discosbackend.commands import COMMANDS, WILDCARD, Command
from discosbackend.testing.cases import Case, Cases
from discosbackend.testing.caution import Reach, reach_of_command
from discosbackend.testing.check import RESTORABLE, Check, request_line
from discosbackend.testing.wrong_arguments import wrong_numbers, wrong_types
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["COMMAND_CASES", "cases_of"]

__unittest = True
__tracebackhide__ = True

COMMAND_CASES = Cases()

# Ticks by which status and time may differ, should an instrument ask its hardware for one of them.
_AGREEMENT = TICKS_PER_SECOND // 10

# The values of a band as different clients write the whole of it.
_WHOLE_BANDS = (("0", "0"), ("0.0", "0e0"), ("+0", "-0.0"))


def _refuses(row: Command, requests: Iterable[tuple[list[str], str]], check: Check) -> None:
    """Each of these is refused, with its reason; what a wrong server carries out all the same is put back."""
    if row.lane != "reads":
        check.stop_finally_what_was_not_running()
    if row.name in RESTORABLE.values():
        check.keep()
    for texts, reason in islice(requests, 1 if check.sparing else None):
        try:
            check.fails(reason, row.name, *texts, before_backend=True)
        except AssertionError:
            if row.name in ("set-section", "set-enable"):
                check.reload_finally()
            elif row.name == "cal-on":
                check.finally_(lambda: check.ask("cal-on") and None)
            raise


def _refuses_wrong_numbers(row: Command, check: Check) -> None:
    _refuses(row, wrong_numbers(row), check)


def _refuses_wrong_types(row: Command, check: Check) -> None:
    _refuses(row, wrong_types(row), check)


def _answers(row: Command, check: Check) -> None:
    if row.lane == "reads":
        check.ok(row.name)
        return
    check.prepare()
    values = check.ok(row.name, told_by="valid_configuration")
    wanted = check.inputs()
    if row.reply[-1].repeated and wanted is not None:
        check.that(len(values) == wanted, f"{row.name} answers {len(values)} values for {wanted} inputs")


def _reply_in_words(row: Command) -> str:
    *names, last = [f"`{field.name}`" for field in row.reply]
    listed = f"{', '.join(names)} and {last}" if names else last
    return f"The `ok` reply to `{row.name}` carries {listed}{', one for each input' * row.reply[-1].repeated}."


def cases_of(row: Command) -> Iterator[Case]:
    """The cases that a row of the table brings along."""
    yield Case(
        f"{row.name}/wrong-number-of-arguments",
        "4.2",
        "A request with any other number of arguments than its command takes is answered with `fail`.",
        reach_of_command(row) if row.lane == "reads" else Reach.FULL,
        partial(_refuses_wrong_numbers, row),
    )
    if any(wrong_types(row)):
        yield Case(
            f"{row.name}/wrong-type-of-arguments",
            "4.2",
            "An argument of the wrong type is answered with `fail` and the reason, before the backend is asked.",
            Reach.FULL,
            partial(_refuses_wrong_types, row),
        )
    # The command is sent without arguments. get-filename has a reply only after set-filename.
    if row.reply and not row.needed and row.name != "get-filename":
        yield Case(
            f"{row.name}/reply-is-well-formed",
            "4.9",
            _reply_in_words(row),
            reach_of_command(row),
            partial(_answers, row),
        )


for _row in COMMANDS.values():
    for _case in cases_of(_row):
        COMMAND_CASES.add(_case)


@COMMAND_CASES.case(
    "time/goes-on-with-status",
    "4.3",
    "`time` and the timestamp of `status` come from the same clock, which is the backend's.",
    Reach.READS,
)
def _one_clock(check: Check) -> None:
    before, between, after = (Ticks.parse(check.ok(name)[0]) for name in ("time", "status", "time"))
    check.that(before <= after, f"time goes back by {(before - after) / TICKS_PER_SECOND:.7f} s")
    check.that(
        before - _AGREEMENT <= between <= after + _AGREEMENT,
        f"status told {between.unix_text()} between {before.unix_text()} and {after.unix_text()} of time",
    )


# -- configuration ------------------------------------------------------------------------------------


@COMMAND_CASES.case(
    "set-configuration/loads",
    "4.4",
    "`set-configuration` loads a named configuration, which `get-configuration` then reports.",
    Reach.FULL,
)
def _set_configuration(check: Check) -> None:
    _is_told(check, "get-configuration", _load(check))


@COMMAND_CASES.case(
    "disconnect/configuration-stays", "6.4", "The state of the backend outlives connections.", Reach.FULL
)
def _configuration_stays(check: Check) -> None:
    wanted = _load(check)
    check.hang_up()
    _is_told(check, "get-configuration", wanted)


def _load(check: Check) -> str:
    """Load the configuration that is known, and return its name."""
    wanted = check.profile.valid_configuration
    if wanted is None:
        raise SkipTest("no configuration is known: say valid_configuration")
    check.be_idle()
    check.keep()
    check.ok("set-configuration", wanted)
    return wanted


@COMMAND_CASES.case(
    "set-configuration/unknown",
    "5.3",
    "A request that the backend refuses is answered with `fail` and the backend's reason.",
    Reach.FULL,
)
def _set_unknown_configuration(check: Check) -> None:
    unknown = check.profile.invalid_configuration
    if unknown is None:
        raise SkipTest("the instrument takes any name, as invalid_configuration says")
    check.be_idle()
    check.keep()
    before = check.quietly("get-configuration")
    check.fails("", "set-configuration", unknown)
    after = check.quietly("get-configuration")
    check.that(after == before, f"the configuration was {before}, and after a refusal it is {after}")


@COMMAND_CASES.case(
    "set-integration/sets",
    "4.4",
    "`set-integration` sets the integration time in ms, which `get-integration` then reports.",
    Reach.FULL,
)
def _set_integration(check: Check) -> None:
    check.prepare()
    wanted = check.profile.valid_integration
    if wanted is None:
        known = check.quietly("get-integration") or ["0"]
        if known == ["0"]:
            raise SkipTest("no integration time is known: say valid_integration")
        wanted = int(known[0])
    check.keep()
    check.ok("set-integration", wanted, told_by="valid_integration")
    _is_told(check, "get-integration", str(wanted))


@COMMAND_CASES.case(
    "set-section/accepts",
    "4.4",
    "`set-section` takes seven arguments, in this order: section, start frequency, bandwidth, feed, mode, sample "
    "rate and bins.",
    Reach.FULL,
)
def _set_section(check: Check) -> None:
    check.prepare()
    check.reload_finally()
    check.ok("set-section", *check.profile.valid_section, told_by="valid_section")


@COMMAND_CASES.case(
    "set-section/wildcards", "3.8", "`*`, where a command accepts it, leaves this value as it is.", Reach.FULL
)
def _set_nothing(check: Check) -> None:
    check.prepare()
    check.reload_finally()
    row = COMMANDS["set-section"]
    check.ok(row.name, *[WILDCARD] * len(row.arguments), told_by="valid_section")


@COMMAND_CASES.case(
    "set-enable/accepts", "4.4", "`set-enable` selects the two feeds that are used for nodding.", Reach.FULL
)
def _set_enable(check: Check) -> None:
    check.prepare()
    check.reload_finally()
    check.ok("set-enable", *check.profile.valid_feeds, told_by="valid_feeds")


@COMMAND_CASES.case("set-shift/accepts", "4.4", "`set-shift` sets the bit shift of the FFT stages.", Reach.FULL)
def _set_shift(check: Check) -> None:
    check.prepare()
    check.ok("set-shift", check.profile.valid_shift, told_by="valid_shift")


@COMMAND_CASES.case(
    "cal-on/accepts",
    "4.4",
    "`cal-on` switches the noise diode every given number of samples, or switches it off if that number is 0 or "
    "absent.",
    Reach.FULL,
)
def _cal_on(check: Check) -> None:
    check.prepare()
    check.finally_(lambda: check.ask("cal-on") and None)
    for arguments in ((check.profile.valid_interleave,), (0,), ()):
        check.ok("cal-on", *arguments, told_by="valid_interleave")


def _is_told(check: Check, name: str, wanted: str) -> None:
    """What was set must be what is told, if the backend tells it."""
    told = check.quietly(name)
    check.that(told in (None, [wanted]), f"{wanted!r} was set, and {name} tells {told}")


# -- measurements -------------------------------------------------------------------------------------


@COMMAND_CASES.case(
    "get-tpi/whole-band",
    "4.5",
    "`get-tpi,0,0` measures the whole band, as `get-tpi` without arguments does.",
    Reach.MEASURE,
)
def _whole_band(check: Check) -> None:
    check.prepare()
    wanted = len(check.ok("get-tpi", told_by="valid_configuration"))
    for band in _WHOLE_BANDS:
        found = len(check.ok("get-tpi", *band, told_by="valid_configuration"))
        check.that(found == wanted, f"{wanted} values without arguments, {found} with {band}")


@COMMAND_CASES.case(
    "get-tpi/band",
    "4.5",
    "`get-tpi` with a frequency and a bandwidth is answered with one value for each input, or with a `fail` that "
    "gives the reason.",
    Reach.MEASURE,
)
def _band(check: Check) -> None:
    check.prepare()
    wanted = len(check.ok("get-tpi", told_by="valid_configuration"))
    values = check.ok_or_refused("get-tpi", "100.5", "1.23457e+02")
    if values is not None:
        check.that(len(values) == wanted, f"{wanted} values of the whole band, {len(values)} of a part")


@COMMAND_CASES.case(
    "get-rms/as-many-as-tpi", "9.5", "`get-tpi` and `get-rms` must answer for the same inputs.", Reach.MEASURE
)
def _as_many_as_tpi(check: Check) -> None:
    check.prepare()
    _as_many(check)


def _as_many(check: Check) -> None:
    found = {name: len(check.ok(name, told_by="valid_configuration")) for name in ("get-tpi", "get-rms")}
    check.that(len(set(found.values())) == 1, f"a value an input each, but there are {found}")


@COMMAND_CASES.case(
    "set-enable/measured-alike",
    "9.5",
    "After `set-enable`, `get-tpi` and `get-rms` must answer for the enabled feeds.",
    Reach.FULL,
)
def _measured_alike(check: Check) -> None:
    check.prepare()
    check.reload_finally()
    check.ok("set-enable", *check.profile.valid_feeds, told_by="valid_feeds")
    _as_many(check)


# -- files and the rest -------------------------------------------------------------------------------


@COMMAND_CASES.case(
    "set-filename/sets",
    "4.6",
    "`set-filename` stores the path of the telescope's file, which `get-filename` then reports.",
    Reach.FULL,
)
def _set_filename(check: Check) -> None:
    check.be_idle()
    check.keep()
    wanted = check.profile.valid_filename
    check.ok("set-filename", wanted, told_by="valid_filename")
    _is_told(check, "get-filename", wanted)


@COMMAND_CASES.case(
    "set-filename/escapes", "2.5", "Every line that the server sends parses again to the same message.", Reach.FULL
)
def _set_filename_with_escapes(check: Check) -> None:
    check.be_idle()
    check.keep()
    wanted = check.profile.valid_filename + ",a\\b\tc \xe9\\t"
    if check.ok_or_refused("set-filename", wanted) is None:
        raise SkipTest("set-filename does not take such a path")
    _is_told(check, "get-filename", wanted)


@COMMAND_CASES.case(
    "set-filename/long-path", "5.8", "An `ok` reply that would be too long becomes a `fail` that says so.", Reach.FULL
)
def _set_long_filename(check: Check) -> None:
    if (limit := check.profile.reply_limit) is None:
        raise SkipTest("replies may have any length, as reply_limit says")
    check.be_idle()
    check.keep()
    # The last path goes over the wire as one reply of the greatest length, the first one not any more.
    longest = limit - len(request_line("get-filename")) - len(",ok,")
    for length in (longest + 1, longest):
        path = check.profile.valid_filename.ljust(length, "x")
        if check.ok_or_refused("set-filename", path) is None:
            raise SkipTest(f"set-filename does not take a path of {length} characters")
        told = check.ok_or_refused("get-filename")
        wanted = [path] if length == longest else None
        check.that(told == wanted, f"of a path of {length} characters get-filename tells {told}")


@COMMAND_CASES.case(
    "get-filename/reply-is-well-formed",
    "4.6",
    "`get-filename` is answered with the path that was stored, or with a `fail` if none was.",
    Reach.READS,
)
def _get_filename(check: Check) -> None:
    check.ok_or_refused("get-filename")


@COMMAND_CASES.case(
    "convert-data/answers",
    "4.6",
    "`convert-data` is answered with `ok`, or with a `fail` that gives the reason.",
    Reach.FULL,
)
def _convert_data(check: Check) -> None:
    check.be_idle()
    check.ok_or_refused("convert-data")


@COMMAND_CASES.case("end-schedule/accepts", "4.7", "`end-schedule` says that the schedule is over.", Reach.FULL)
def _end_schedule(check: Check) -> None:
    check.prepare()
    check.reload_finally()
    check.ok("end-schedule")


@COMMAND_CASES.case("backend-park/accepts", "4.7", "`backend-park` parks the backend.", Reach.FULL)
def _backend_park(check: Check) -> None:
    check.prepare()
    check.reload_finally()
    check.ok("backend-park", told_by="valid_configuration")
