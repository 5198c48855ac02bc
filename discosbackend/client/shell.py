"""Shell: executes lines such as `start +5s`, `watch status 0.5` and `help start`, and completes them.

It reads no terminal: prompt.py does. command_line.py has the program.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from discosbackend.argument_limits import wire_value
from discosbackend.client.blocking import Client
from discosbackend.client.layout import Paint, as_json, date_of, in_one_line, laid_out, plain
from discosbackend.client.words import TIME_FORMS, is_relative, request_of, usage_of
from discosbackend.commands import COMMANDS, WILDCARD, Argument, Command
from discosbackend.errors import ClientError, GrammarException
from discosbackend.grammar import OK, Message, name_pattern
from discosbackend.log import printable
from discosbackend.ticks import Ticks
from discosbackend.toml import did_you_mean
from discosbackend.values import TYPES

__all__ = ["Completion", "Leave", "Shell"]

_OWN = {
    "help": "help [COMMAND], or ?: the commands, or how one is written.",
    "watch": "watch COMMAND [ARGUMENT ...] [SECONDS]: send a command that changes nothing again and again, until "
    "Ctrl-C.",
    "repeat": "repeat [TIMES]: send the previous request again.",
    "quit": "quit, exit or Ctrl-D: leave the shell.",
}
_WATCH_INTERVAL = 1.0
_LONGEST_INTERVAL = 86400.0


class Leave(Exception):
    """The user leaves the shell."""


class Completion(NamedTuple):
    """A word that completes a line."""

    word: str
    replaces: int
    """How many characters before the cursor the word replaces."""
    help: str


class Shell:
    """Executes the lines that a user writes.

    Parameters
    ----------
    client
        The client. It should reconnect.
    say
        Writes a text and a line end for the user.
    paint
        How a colour is shown.
    json
        Whether replies are written as JSON.
    sleep
        Waits for a number of seconds.
    complain
        Writes a problem. Default: `say`.
    """

    def __init__(
        self,
        client: Client,
        say: Callable[[str], None],
        *,
        paint: Paint = plain,
        json: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        complain: Callable[[str], None] | None = None,
    ) -> None:
        self._client = client
        self._say = say
        self._say_problem = complain or say
        self._paint = paint
        self._json = json
        self._sleep = sleep
        self._previous: Message | None = None
        self.asked = ""
        """The name of the command that waits for its reply, "" if there is none."""

    def execute(self, line: str) -> bool:
        """Execute one line. Return whether it succeeded. A problem is written for the user.

        Raises
        ------
        Leave
            For `quit` and `exit`.
        """
        self.asked = ""
        try:
            return self._execute(line.strip())
        except (GrammarException, ClientError) as problem:
            self._complain(str(problem))
            return False

    def completions(self, before: str) -> list[Completion]:
        """Return how a line can go on.

        Parameters
        ----------
        before
            The line up to the cursor.
        """
        words = before.split()
        begun = "" if not words or before[-1:].isspace() else words.pop()
        if not words:
            known = {**{name: row.help for name, row in COMMANDS.items()}, **_OWN, "exit": _OWN["quit"]}
        elif words[0] in ("help", "?", "watch") and len(words) == 1:
            known = {name: row.help for name, row in COMMANDS.items() if words[0] != "watch" or not row.changes}
        else:
            known = self._values(words)
        found = [(word, text) for word, text in known.items() if word.startswith(begun)]
        return [Completion(word, len(begun), text.replace("`", "")) for word, text in found]

    def _values(self, words: Sequence[str]) -> dict[str, str]:
        """Return the values that the next argument can have, where these are known."""
        row = COMMANDS.get(words[0])
        if row is None or len(words) > len(row.arguments):
            return {}
        argument = row.arguments[len(words) - 1]
        found = {str(wire_value(choice)): argument.name for choice in argument.choices}
        if argument.type == "boolean":
            found = {"0": argument.name, "1": argument.name}
        if argument.type == "timestamp":
            found = {"+5s": f"{argument.name}: 5 s after the backend's clock"}
        if argument.wildcard:
            found[WILDCARD] = f"{argument.name}: leave it as it is"
        return found

    def _execute(self, line: str) -> bool:
        if not line or line.startswith("#"):
            return True
        if line[:1] == "?" and line[1:2].isalpha():
            words = [line]
        else:
            try:
                words = shlex.split(line)
            except ValueError as problem:
                raise GrammarException(f"{str(problem).lower()}: quotes must be closed") from None
        if words[0] in ("?", "help") or words[-1] == "?":
            return self._help([word for word in words if word not in ("?", "help")])
        if words[0] in ("quit", "exit"):
            raise Leave
        if words[0] == "watch":
            return self._watch(words[1:])
        if words[0] == "repeat":
            return self._repeat(words[1:])
        self._previous = self._request(words)
        return self._show(self._exchange(self._previous))

    def _request(self, words: Sequence[str]) -> Message:
        known = [*COMMANDS, *_OWN]
        is_name = name_pattern.fullmatch(words[0]) is not None
        if is_name and words[0] not in known and (near := did_you_mean(words[0], known)):
            # It is sent all the same: it may be a command of the backend's own.
            self._complain(f"{words[0]} is no command of the protocol{near}", "note")
        request = request_of(words, self._now)
        if is_relative(words) and not self._json:
            self._say(self._paint(f"{request.name} at {date_of(Ticks(request.arguments[0]))}", "dim"))
        return request

    def _now(self) -> Ticks:
        self.asked = "time"
        return self._client.time()

    def _exchange(self, request: Message) -> Message:
        self.asked = request.name
        reply = self._client.exchange(request)
        self.asked = ""
        return reply

    def _show(self, reply: Message) -> bool:
        row = COMMANDS.get(reply.name)
        self._say(as_json(reply, row) if self._json else laid_out(reply, row, self._paint))
        return reply.code == OK

    def _watch(self, words: list[str]) -> bool:
        row = COMMANDS.get(words[0]) if words else None
        if row is None or row.changes:
            reads = ", ".join(name for name, each in COMMANDS.items() if not each.changes)
            raise GrammarException(f"watch needs a command that changes nothing: {reads}")
        interval = _WATCH_INTERVAL
        counts = {row.needed, len(row.arguments)}
        if len(words) > 1 and len(words) - 2 in counts:
            interval = _seconds(words.pop())
        request = request_of(words, self._now)
        # Until Ctrl-C, which raises KeyboardInterrupt.
        while True:
            reply = self._exchange(request)
            if self._json:
                self._say(as_json(reply, row))
            else:
                self._say(in_one_line(reply, row, self._paint))
            self._sleep(interval)

    def _repeat(self, words: list[str]) -> bool:
        if self._previous is None:
            raise GrammarException("repeat needs a previous request")
        times = words[0] if words else "1"
        if not (times.isascii() and times.isdigit() and int(times)) or len(words) > 1:
            raise GrammarException(f"repeat needs a number of times, not {' '.join(words)!r}")
        worked = True
        for _ in range(int(times)):
            worked &= self._show(self._exchange(self._previous))
        return worked

    def _help(self, words: list[str]) -> bool:
        # With --json, standard output has replies only.
        say = self._say_problem if self._json else self._say
        if not words:
            widest = max(len(name) for name in COMMANDS)
            lines = [f"{name:{widest}}  {row.help}" for name, row in COMMANDS.items()]
            lines += ["", *_OWN.values(), f"A time is {TIME_FORMS}.", "Any other word is sent as a command."]
            say("\n".join(lines).replace("`", ""))
            return True
        name = words[0]
        if name in COMMANDS:
            say(_described(COMMANDS[name]))
        elif name in _OWN:
            say(_OWN[name])
        else:
            raise GrammarException(f"no help for {name!r}{did_you_mean(name, [*COMMANDS, *_OWN])}")
        return True

    def _complain(self, problem: str, what: str = "error") -> None:
        self._say_problem(f"{self._paint(what, 'red' if what == 'error' else 'dim')}: {printable(problem)}")


def _described(row: Command) -> str:
    """Return the help of a command."""
    lines = [usage_of(row), f"  {row.help}"]
    lines += [f"  {argument.name}: {_expected(argument)}" for argument in row.arguments]
    if row.reply:
        lines.append("reply:")
        lines += [
            f"  {field.name}: {field.type}{f', {field.unit}' if field.unit else ''}{', one per input' * field.repeated}"
            for field in row.reply
        ]
    return "\n".join(lines).replace("`", "")


def _expected(argument: Argument) -> str:
    wanted = TIME_FORMS if argument.type == "timestamp" else TYPES[argument.type][1]
    parts = [" or ".join(str(wire_value(choice)) for choice in argument.choices) or wanted]
    if argument.unit and argument.type != "timestamp":
        parts[0] += f" in {argument.unit}"
    if limits := argument.limits_text():
        parts.append(limits)
    if argument.wildcard:
        parts.append("or *")
    if argument.optional:
        parts.append("may be left out")
    return ", ".join(parts)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _LONGEST_INTERVAL:
        raise GrammarException(f"{text!r} is not a number of seconds above 0, at most a day")
    return seconds
