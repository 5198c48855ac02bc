"""Comparison: compares a reply with the recorded one, by the table of commands.

Most values must be equal. Times and measured values only need the same form, that of their type (protocol section 3).
Other numbers with a decimal point may differ by a rounding error.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from discosbackend.commands import COMMANDS, Command, Field
from discosbackend.errors import GrammarException
from discosbackend.grammar import FAIL, OK, Message, parse_message
from discosbackend.testing.server_session import READABLE, WRITTEN

__all__ = ["Comparison"]

# Two texts of the same number differ by less than this fraction, also if one program computes with 32 bits.
_ROUNDING = 1e-6

_DIGITS = re.compile("[0-9]+")


@dataclass(frozen=True, slots=True)
class Comparison:
    """How replies are compared.

    Examples
    --------
    >>> from discosbackend.tap.compare import Comparison
    >>> Comparison().difference("!get-integration,ok,40", "!get-integration,ok,20")
    'integration: 40 is recorded, 20 was received'
    >>> Comparison().difference("!get-tp0,ok,1.5,1.5", "!get-tp0,ok,1.7,1.4")
    ''
    """

    commands: Mapping[str, Command] = dataclasses.field(default_factory=lambda: COMMANDS)
    """The rows of all commands, by their name. Without a row, all values must be equal."""
    tolerance: float | None = None
    """By which fraction of the recorded value a measured value may differ. None: only its form is compared."""
    reasons: bool = False
    """Whether the reason of a `fail` or `invalid` must be the same, except for the digits in it."""

    def difference(self, recorded: str, received: str, *, form_only: bool = False) -> str:
        """Return how a received reply differs from the recorded one, "" if it does not.

        Parameters
        ----------
        recorded, received
            The replies without their line ends.
        form_only
            Whether only the form is compared: all values may differ, and `ok` may be `fail` or the reverse.
        """
        if recorded == received:
            return ""
        try:
            before = parse_message(recorded)
        except GrammarException:
            return "the recorded reply is not valid, and another one was received"
        try:
            now = parse_message(received)
        except GrammarException as problem:
            return f"the reply is not valid: {problem}"
        if not now.is_reply() or now.name != before.name:
            return "the reply has another name"
        if now.code != before.code and not (form_only and {now.code, before.code} == {OK, FAIL}):
            return f"{before.code} is recorded, {now.code} was received"
        if now.code != OK:
            return self._other_reason(before, now)
        return self._other_values(before, now, form_only)

    def _other_reason(self, before: Message, now: Message) -> str:
        if not now.arguments and before.arguments:
            return "the reason is missing"
        if self.reasons and before.code == now.code and _without_digits(before) != _without_digits(now):
            return "the reason is another one"
        return ""

    def _other_values(self, before: Message, now: Message, form_only: bool) -> str:
        row = self.commands.get(now.name)
        # None for a value that the row does not have.
        fields: list[Field | None] = [*row.reply_fields(len(now.arguments))] if row is not None else []
        if before.code != OK or (form_only and fields and fields[-1] is not None and fields[-1].repeated):
            # The number of inputs depends on the configuration.
            recorded: list[str | None] = [None] * len(now.arguments)
        elif len(before.arguments) != len(now.arguments):
            return f"{_values(len(before.arguments))} recorded, {_values(len(now.arguments))} received"
        else:
            recorded = [*before.arguments]
        fields += [None] * (len(now.arguments) - len(fields))
        found = (
            self._other_value(number, fields[number], recorded[number], text, form_only)
            for number, text in enumerate(now.arguments)
        )
        return "; ".join(filter(None, found))

    def _other_value(self, number: int, field: Field | None, before: str | None, now: str, form_only: bool) -> str:
        if before == now or (field is None and (form_only or before is None)):
            return ""
        label = f"value {number + 1}" if field is None or field.repeated else field.name
        other = f"{label}: {before} is recorded, {now} was received"
        if field is None:
            return other
        pattern, words = WRITTEN[field.type]
        if pattern.fullmatch(now) is None:
            readable = READABLE.get(field.type, pattern)
            # What the recorded server wrote in another form, this one may write in that form, too.
            if before is None or pattern.fullmatch(before) is not None or readable.fullmatch(now) is None:
                return f"{label} must be {words}, not {now!r}"
        if form_only or before is None or field.type == "timestamp":
            return ""
        if field.type == "float":
            return "" if self._is_near(field, before, now) else other
        return other

    def _is_near(self, field: Field, before: str, now: str) -> bool:
        if field.measured and self.tolerance is None:
            return True
        fraction = self.tolerance if field.measured else _ROUNDING
        try:
            return math.isclose(float(now), float(before), rel_tol=0, abs_tol=abs(float(before)) * (fraction or 0))
        except ValueError:
            # The recorded value is not a number.
            return False


def _values(count: int) -> str:
    return f"{count} value{' is' if count == 1 else 's are'}"


def _without_digits(message: Message) -> list[str]:
    return [_DIGITS.sub("0", text) for text in message.arguments]
