"""Cases for the commands: the arguments that each must refuse, and its reply to a valid request.

They test protocol sections 4, 5 and 9.5. Some cases are derived from the rows of the table of commands, so a new row
has them automatically; wrong_arguments generates their arguments. start and stop are tested in acquisition_cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from unittest import SkipTest

from discosbackend.commands import COMMANDS, WILDCARD, Command
from discosbackend.testing.case_context import RESTORABLE, CaseContext, request_line
from discosbackend.testing.cases import Case, Cases
from discosbackend.testing.send_guard import Scope, scope_of_command
from discosbackend.testing.server_session import CLOCK, instant_of
from discosbackend.testing.wrong_arguments import wrong_numbers, wrong_types
from discosbackend.ticks import TICKS_PER_SECOND
from discosbackend.values import parse_path, path_text

__all__ = ["COMMAND_CASES", "cases_of", "own_cases"]

__unittest = True
__tracebackhide__ = True

COMMAND_CASES = Cases()

# By how many ticks status and time may differ, because an instrument may read one of them from its hardware.
_AGREEMENT = TICKS_PER_SECOND // 10

# The arguments with which different clients request the whole band.
_WHOLE_BANDS = (("0", "0"), ("0.0", "0e0"), ("+0", "-0.0"))


def _refuses(row: Command, requests: Iterable[tuple[list[str], str]], context: CaseContext) -> None:
    """Check that each request is refused with its reason. If a wrong server carries one out, restore its state."""
    if row.lane != "reads":
        context.stop_finally_what_was_not_running()
    if row.name in RESTORABLE.values():
        context.keep()
    for texts, reason in islice(requests, 1 if context.sparing else None):
        try:
            context.fails(reason, row.name, *texts, before_backend=True)
        except AssertionError:
            if row.name in ("set-section", "set-enable"):
                context.reload_finally()
            elif row.name == "cal-on":
                context.finally_(lambda: context.ask("cal-on") and None)
            raise


def _refuses_wrong_numbers(row: Command, context: CaseContext) -> None:
    _refuses(row, wrong_numbers(row), context)


def _refuses_wrong_types(row: Command, context: CaseContext) -> None:
    _refuses(row, wrong_types(row), context)


def _answers(row: Command, context: CaseContext) -> None:
    if row.lane == "reads":
        context.ok(row.name)
        return
    context.prepare()
    values = context.ok(row.name, profile_attribute="valid_configuration")
    wanted = context.inputs()
    if row.reply[-1].repeated and wanted is not None:
        context.that(len(values) == wanted, f"{row.name} returned {len(values)} values for {wanted} inputs")


def _reply_in_words(row: Command) -> str:
    *names, last = [f"`{field.name}`" for field in row.reply]
    listed = f"{', '.join(names)} and {last}" if names else last
    return f"The `ok` reply to `{row.name}` carries {listed}{', one for each input' * row.reply[-1].repeated}."


def _cases_of_arguments(row: Command) -> Iterator[Case]:
    """Yield the cases for the number and the types of a command's arguments."""
    yield Case(
        f"{row.name}/wrong-number-of-arguments",
        "4.2",
        "A request with the wrong number of arguments is answered with `fail`.",
        scope_of_command(row) if row.lane == "reads" else Scope.FULL,
        partial(_refuses_wrong_numbers, row),
    )
    if any(wrong_types(row)):
        yield Case(
            f"{row.name}/wrong-type-of-arguments",
            "4.2",
            "An argument of the wrong type is answered with `fail` and the reason; the backend is not called.",
            Scope.FULL,
            partial(_refuses_wrong_types, row),
        )


def cases_of(row: Command) -> Iterator[Case]:
    """Yield the cases that are derived from a row of the table of commands."""
    yield from _cases_of_arguments(row)
    # The command is sent without arguments. get-filename has a reply only after set-filename.
    if row.reply and not row.needed and row.name != "get-filename":
        yield Case(
            f"{row.name}/reply-is-well-formed",
            "4.9",
            _reply_in_words(row),
            scope_of_command(row),
            partial(_answers, row),
            shows=(CLOCK, row.name) if row.name == "status" else (row.name,),
        )


for _row in COMMANDS.values():
    for _case in cases_of(_row):
        COMMAND_CASES.add(_case)


# -- commands that only one backend has ---------------------------------------------------------------


def own_cases(rows: Iterable[Command]) -> Cases:
    """Return the cases for commands that only one backend has.

    Parameters
    ----------
    rows
        The rows of the commands.

    Examples
    --------
    >>> from discosbackend.commands import Command
    >>> from discosbackend.testing.command_cases import own_cases
    >>> [*own_cases([Command("reset")])]
    ['reset/wrong-number-of-arguments', 'reset/accepts']
    """
    cases = Cases()
    for row in rows:
        for case in _cases_of_arguments(row):
            cases.add(case)
        cases.add(
            Case(
                f"{row.name}/{'reply-is-well-formed' if row.reply else 'accepts'}",
                "4.1",
                "The reply to a backend's own command is `ok` with the reply fields that the command declares, or a "
                "`fail` that gives the reason.",
                scope_of_command(row),
                partial(_answers_own, row),
                shows=(row.name,),
            )
        )
    return cases


def _answers_own(row: Command, context: CaseContext) -> None:
    context.skip_what_is_left_out(row.name)
    known = context.profile.valid_arguments.get(row.name)
    if known is None and row.needed:
        raise SkipTest(f"no arguments of {row.name} are known: set valid_arguments")
    if row.lane != "reads":
        context.prepare()
        context.keep()
    context.ok(
        row.name, *(known or ()), profile_attribute="" if known is not None else f"valid_arguments of {row.name}"
    )


@COMMAND_CASES.case(
    "time/goes-on-with-status",
    "4.3",
    "`time` and the timestamp of `status` come from the same clock, which is the backend's.",
    Scope.READS,
)
def _one_clock(context: CaseContext) -> None:
    before = instant_of(context.ok("time")[0])
    between = context.status().timestamp
    after = instant_of(context.ok("time")[0])
    context.that(before <= after, f"time goes back by {(before - after) / TICKS_PER_SECOND:.7f} s")
    context.that(
        before - _AGREEMENT <= between <= after + _AGREEMENT,
        f"status reported {between.unix_text()} between {before.unix_text()} and {after.unix_text()} of time",
    )


# -- configuration ------------------------------------------------------------------------------------


@COMMAND_CASES.case(
    "set-configuration/loads",
    "4.4",
    "`set-configuration` loads a named configuration, which `get-configuration` then reports.",
    Scope.FULL,
    shows=("set-configuration",),
)
def _set_configuration(context: CaseContext) -> None:
    _is_reported(context, "get-configuration", _load(context))


@COMMAND_CASES.case(
    "disconnect/configuration-stays", "6.4", "The state of the backend outlives connections.", Scope.FULL
)
def _configuration_stays(context: CaseContext) -> None:
    wanted = _load(context)
    context.hang_up()
    _is_reported(context, "get-configuration", wanted)


def _load(context: CaseContext) -> str:
    """Load the valid configuration of the profile, and return its name."""
    wanted = context.profile.valid_configuration
    unknown = context.profile.invalid_configuration
    if wanted is None and unknown is None:
        raise SkipTest("no configuration is known: set valid_configuration")
    context.be_idle()
    context.keep()
    if wanted is None:
        context.skip_unsupported("set-configuration", unknown)
        raise SkipTest("no configuration is known: set valid_configuration")
    context.ok("set-configuration", wanted)
    return wanted


@COMMAND_CASES.case(
    "set-configuration/unknown",
    "5.3",
    "A request that the backend refuses is answered with `fail` and the backend's reason.",
    Scope.FULL,
)
def _set_unknown_configuration(context: CaseContext) -> None:
    unknown = context.profile.invalid_configuration
    if unknown is None:
        raise SkipTest("the instrument accepts any name: invalid_configuration is None")
    context.be_idle()
    context.keep()
    before = context.quietly("get-configuration")
    context.fails("", "set-configuration", unknown)
    after = context.quietly("get-configuration")
    context.that(after == before, f"the configuration was {before}, and after a refusal it is {after}")


@COMMAND_CASES.case(
    "set-integration/sets",
    "4.4",
    "`set-integration` sets the integration time in ms, which `get-integration` then reports.",
    Scope.FULL,
    shows=("set-integration",),
)
def _set_integration(context: CaseContext) -> None:
    context.prepare()
    wanted = context.profile.valid_integration
    if wanted is None:
        known = context.quietly("get-integration")
        if known is None:
            # keep() cannot restore it.
            context.reload_finally()
        # 0 is what get-integration reports while no configuration is loaded.
        wanted = int((known or ["0"])[0])
    context.keep()
    context.ok("set-integration", wanted, profile_attribute="valid_integration")
    _is_reported(context, "get-integration", str(wanted))


@COMMAND_CASES.case(
    "set-section/accepts",
    "4.4",
    "`set-section` takes seven arguments, in this order: section, start frequency, bandwidth, feed, mode, sample "
    "rate and bins.",
    Scope.FULL,
    shows=("set-section",),
)
def _set_section(context: CaseContext) -> None:
    context.prepare()
    context.reload_finally()
    context.ok("set-section", *context.profile.valid_section, profile_attribute="valid_section")


@COMMAND_CASES.case(
    "set-section/wildcards",
    "3.8",
    "Where an argument may be `*`, this value leaves the setting unchanged.",
    Scope.FULL,
)
def _set_nothing(context: CaseContext) -> None:
    context.prepare()
    context.reload_finally()
    row = COMMANDS["set-section"]
    context.ok(row.name, *[WILDCARD] * len(row.arguments), profile_attribute="valid_section")


@COMMAND_CASES.case(
    "set-enable/accepts",
    "4.4",
    "`set-enable` selects the two feeds that are used for nodding.",
    Scope.FULL,
    shows=("set-enable",),
)
def _set_enable(context: CaseContext) -> None:
    context.prepare()
    context.reload_finally()
    context.ok("set-enable", *context.profile.valid_feeds, profile_attribute="valid_feeds")


@COMMAND_CASES.case(
    "set-shift/accepts", "4.4", "`set-shift` sets the bit shift of the FFT stages.", Scope.FULL, shows=("set-shift",)
)
def _set_shift(context: CaseContext) -> None:
    context.prepare()
    context.ok("set-shift", context.profile.valid_shift, profile_attribute="valid_shift")


@COMMAND_CASES.case(
    "cal-on/accepts",
    "4.4",
    "`cal-on,N` toggles the noise diode every N samples; `cal-on,0` and `cal-on` switch it off.",
    Scope.FULL,
    shows=("cal-on",),
)
def _cal_on(context: CaseContext) -> None:
    context.prepare()
    context.finally_(lambda: context.ask("cal-on") and None)
    for arguments in ((context.profile.valid_interleave,), (0,), ()):
        context.ok("cal-on", *arguments, profile_attribute="valid_interleave")


def _is_reported(context: CaseContext, name: str, wanted: str) -> None:
    """Check that the command reports the value that was set, if the backend has this command."""
    found = context.quietly(name)
    context.that(found in (None, [wanted]), f"{wanted!r} was set, but {name} reports {found}")


# -- measurements -------------------------------------------------------------------------------------


@COMMAND_CASES.case(
    "get-tpi/whole-band",
    "4.5",
    "`get-tpi,0,0` measures the whole band, as `get-tpi` without arguments does.",
    Scope.MEASURE,
)
def _whole_band(context: CaseContext) -> None:
    context.prepare()
    wanted = len(context.ok("get-tpi", profile_attribute="valid_configuration"))
    for band in _WHOLE_BANDS:
        found = len(context.ok("get-tpi", *band, profile_attribute="valid_configuration"))
        context.that(found == wanted, f"{wanted} values without arguments, {found} with {band}")


@COMMAND_CASES.case(
    "get-tpi/band",
    "4.5",
    "`get-tpi` with a frequency and a bandwidth is answered with one value for each input, or with a `fail` that "
    "gives the reason.",
    Scope.MEASURE,
)
def _band(context: CaseContext) -> None:
    context.prepare()
    wanted = len(context.ok("get-tpi", profile_attribute="valid_configuration"))
    values = context.ok_or_refused("get-tpi", "100.5", "1.23457e+02")
    if values is not None:
        context.that(len(values) == wanted, f"{wanted} values of the whole band, {len(values)} of a part")


@COMMAND_CASES.case(
    "get-rms/as-many-as-tpi", "9.5", "`get-tpi` and `get-rms` must answer for the same inputs.", Scope.MEASURE
)
def _as_many_as_tpi(context: CaseContext) -> None:
    context.prepare()
    _as_many(context)


def _as_many(context: CaseContext) -> None:
    found = {name: len(context.ok(name, profile_attribute="valid_configuration")) for name in ("get-tpi", "get-rms")}
    context.that(len(set(found.values())) == 1, f"there must be one value for each input, but there are {found}")


@COMMAND_CASES.case(
    "set-enable/measured-alike",
    "9.5",
    "After `set-enable`, `get-tpi` and `get-rms` must answer for the enabled feeds.",
    Scope.FULL,
)
def _measured_alike(context: CaseContext) -> None:
    context.prepare()
    context.reload_finally()
    context.ok("set-enable", *context.profile.valid_feeds, profile_attribute="valid_feeds")
    _as_many(context)


# -- files and the rest -------------------------------------------------------------------------------


@COMMAND_CASES.case(
    "set-filename/sets",
    "4.6",
    "`set-filename` stores the path of the telescope's file, which `get-filename` then reports.",
    Scope.FULL,
    shows=("set-filename",),
)
def _set_filename(context: CaseContext) -> None:
    context.be_idle()
    context.keep()
    wanted = context.profile.valid_filename
    context.ok("set-filename", wanted, profile_attribute="valid_filename")
    _is_reported(context, "get-filename", wanted)


@COMMAND_CASES.case(
    "set-filename/escapes",
    "2.5",
    "In every argument that the server sends, each backslash, tab and comma is escaped.",
    Scope.FULL,
)
def _set_filename_with_escapes(context: CaseContext) -> None:
    context.be_idle()
    context.keep()
    # A character of two bytes, and the byte 0xE9, which is no UTF-8.
    wanted = context.profile.valid_filename + ",a\\b\tc \xe9\udce9\\t"
    if context.ok_or_refused("set-filename", wanted) is None:
        raise SkipTest("the backend refuses such a path")
    _is_reported(context, "get-filename", wanted)


@COMMAND_CASES.case(
    "set-filename/long-path", "5.8", "An `ok` reply that would be too long becomes a `fail` that says so.", Scope.FULL
)
def _set_long_filename(context: CaseContext) -> None:
    if (limit := context.profile.reply_limit) is None:
        raise SkipTest("replies may have any length: reply_limit is None")
    context.be_idle()
    context.keep()
    # The reply with the second path has exactly the greatest length, and the reply with the first one is too long.
    longest = limit - len(request_line("get-filename")) - len(",ok,")
    for length in (longest + 1, longest):
        path = parse_path(path_text(context.profile.valid_filename).ljust(length, "x"))
        if context.ok_or_refused("set-filename", path) is None:
            raise SkipTest(f"the backend refuses a path of {length} bytes")
        found = context.ok_or_refused("get-filename")
        wanted = [path] if length == longest else None
        context.that(found == wanted, f"after a path of {length} bytes was set, get-filename reports {found}")


@COMMAND_CASES.case(
    "get-filename/reply-is-well-formed",
    "4.6",
    "`get-filename` is answered with the path that was stored, or with a `fail` if none was.",
    Scope.READS,
    shows=("get-filename",),
)
def _get_filename(context: CaseContext) -> None:
    context.ok_or_refused("get-filename")


@COMMAND_CASES.case(
    "convert-data/answers",
    "4.6",
    "`convert-data` is answered with `ok`, or with a `fail` that gives the reason.",
    Scope.FULL,
    shows=("convert-data",),
)
def _convert_data(context: CaseContext) -> None:
    context.be_idle()
    context.ok_or_refused("convert-data")


@COMMAND_CASES.case(
    "end-schedule/accepts", "4.7", "`end-schedule` says that the schedule is over.", Scope.FULL, shows=("end-schedule",)
)
def _end_schedule(context: CaseContext) -> None:
    context.prepare()
    context.reload_finally()
    context.ok("end-schedule")


@COMMAND_CASES.case(
    "backend-park/accepts", "4.7", "`backend-park` parks the backend.", Scope.FULL, shows=("backend-park",)
)
def _backend_park(context: CaseContext) -> None:
    context.prepare()
    context.reload_finally()
    context.ok("backend-park", profile_attribute="valid_configuration")
