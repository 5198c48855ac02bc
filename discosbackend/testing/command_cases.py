"""Cases of the commands: what each refuses, by its row of the table, and what it answers when all is well.

Protocol sections 3, 4 and 5. A new row brings its cases along; wrong numbers and types of arguments are made
in wrong_arguments. start and stop, which have a state between them, are in acquisition_cases.
"""

from __future__ import annotations

from functools import partial
from unittest import SkipTest

from discosbackend.commands import COMMANDS, Command
from discosbackend.testing.cases import Cases
from discosbackend.testing.check import Check
from discosbackend.testing.wrong_arguments import wrong_numbers, wrong_types

__all__ = ["COMMAND_CASES"]

__unittest = True
__tracebackhide__ = True

COMMAND_CASES = Cases()

# The values of a band as different clients write the whole of it.
_WHOLE_BANDS = (("0", "0"), ("0.0", "0e0"), ("+0", "-0.0"))


def _refuses_wrong_numbers(row: Command, check: Check) -> None:
    check.stop_finally_what_was_not_running()
    for texts, reason in wrong_numbers(row):
        check.fails(reason, row.name, *texts, before_backend=True)


def _refuses_wrong_types(row: Command, check: Check) -> None:
    check.stop_finally_what_was_not_running()
    for texts, reason in wrong_types(row):
        check.fails(reason, row.name, *texts, before_backend=True)


def _answers(row: Command, check: Check) -> None:
    if row.lane == "reads":
        check.ok(row.name)
        return
    check.prepare()
    values = check.ok(row.name, told_by="valid_configuration")
    wanted = check.profile.inputs
    if row.reply[-1].repeated and wanted is not None:
        check.that(len(values) == wanted, f"{row.name} answers {len(values)} values for {wanted} inputs")


for _row in COMMANDS.values():
    COMMAND_CASES.add(
        f"{_row.name}/wrong-number-of-arguments",
        "Any other number of arguments than listed is a `fail`.",
        partial(_refuses_wrong_numbers, _row),
    )
    if any(wrong_types(_row)):
        COMMAND_CASES.add(
            f"{_row.name}/wrong-type-of-arguments",
            "Wrong type of arguments: `fail` with the reason, before the backend is asked.",
            partial(_refuses_wrong_types, _row),
        )
    # A file name can be told only after one was set.
    if _row.reply and _row.name != "get-filename":
        COMMAND_CASES.add(
            f"{_row.name}/reply-is-well-formed",
            f"The reply to `{_row.name}` has: {', '.join(_field.name for _field in _row.reply)}.",
            partial(_answers, _row),
        )


# -- configuration ------------------------------------------------------------------------------------


@COMMAND_CASES.case("set-configuration/loads", "`set-configuration` loads a named configuration.")
def _set_configuration(check: Check) -> None:
    wanted = check.profile.valid_configuration
    if wanted is None:
        raise SkipTest("no configuration is known: say valid_configuration")
    check.be_idle()
    check.keep()
    check.ok("set-configuration", wanted)
    _is_told(check, "get-configuration", wanted)


@COMMAND_CASES.case("set-configuration/unknown", "Refused by the backend: `fail` with its reason.")
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


@COMMAND_CASES.case("set-integration/sets", "`set-integration` sets what `get-integration` tells.")
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


@COMMAND_CASES.case("set-section/accepts", "`set-section`: seven arguments, each may be `*`.")
def _set_section(check: Check) -> None:
    check.prepare()
    check.reload_finally()
    check.ok("set-section", *check.profile.valid_section, told_by="valid_section")


@COMMAND_CASES.case("set-enable/accepts", "`set-enable`: the two feeds used for nodding.")
def _set_enable(check: Check) -> None:
    check.prepare()
    check.reload_finally()
    check.ok("set-enable", *check.profile.valid_feeds, told_by="valid_feeds")


@COMMAND_CASES.case("set-shift/accepts", "`set-shift`: bit shift of the FFT stages.")
def _set_shift(check: Check) -> None:
    check.prepare()
    check.ok("set-shift", check.profile.valid_shift, told_by="valid_shift")


@COMMAND_CASES.case("cal-on/accepts", "`cal-on`: absent or 0 switches it off.")
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


@COMMAND_CASES.case("get-tpi/whole-band", "`0,0` is the whole band: the same as no arguments.")
def _whole_band(check: Check) -> None:
    check.prepare()
    wanted = len(check.ok("get-tpi", told_by="valid_configuration"))
    for band in _WHOLE_BANDS:
        found = len(check.ok("get-tpi", *band, told_by="valid_configuration"))
        check.that(found == wanted, f"{wanted} values without arguments, {found} with {band}")


@COMMAND_CASES.case("get-tpi/band", "`get-tpi`: one float per input of a band, or a `fail` with the reason.")
def _band(check: Check) -> None:
    check.prepare()
    wanted = len(check.ok("get-tpi", told_by="valid_configuration"))
    values = check.ok_or_refused("get-tpi", "100.5", "1.23457e+02")
    if values is not None:
        check.that(len(values) == wanted, f"{wanted} values of the whole band, {len(values)} of a part")


@COMMAND_CASES.case("get-rms/as-many-as-tpi", "`get-tpi` and `get-rms` must answer for the same inputs.")
def _as_many_as_tpi(check: Check) -> None:
    check.prepare()
    found = {name: len(check.ok(name, told_by="valid_configuration")) for name in ("get-tpi", "get-rms")}
    check.that(len(set(found.values())) == 1, f"a value an input each, but there are {found}")


# -- files and the rest -------------------------------------------------------------------------------


@COMMAND_CASES.case("set-filename/sets", "`get-filename`: what set-filename stored.")
def _set_filename(check: Check) -> None:
    check.be_idle()
    check.keep()
    wanted = check.profile.valid_filename
    check.ok("set-filename", wanted, told_by="valid_filename")
    _is_told(check, "get-filename", wanted)


@COMMAND_CASES.case("set-filename/escapes", "What the server writes parses again to the same message.")
def _set_filename_with_escapes(check: Check) -> None:
    check.be_idle()
    check.keep()
    wanted = check.profile.valid_filename + ",a\\b\tc \xe9\\t"
    if check.ok_or_refused("set-filename", wanted) is None:
        raise SkipTest("set-filename does not take such a path")
    _is_told(check, "get-filename", wanted)


@COMMAND_CASES.case("get-filename/reply-is-well-formed", "`get-filename`: a path; `fail` when none was set.")
def _get_filename(check: Check) -> None:
    check.ok_or_refused("get-filename")


@COMMAND_CASES.case("convert-data/answers", "`convert-data`: `ok`, or a `fail` with the reason.")
def _convert_data(check: Check) -> None:
    check.be_idle()
    check.ok_or_refused("convert-data")


@COMMAND_CASES.case("end-schedule/accepts", "`end-schedule`: the schedule is over.")
def _end_schedule(check: Check) -> None:
    check.prepare()
    check.reload_finally()
    check.ok("end-schedule")


@COMMAND_CASES.case("backend-park/accepts", "`backend-park`: park the backend.")
def _backend_park(check: Check) -> None:
    check.prepare()
    check.reload_finally()
    check.ok("backend-park", told_by="valid_configuration")
