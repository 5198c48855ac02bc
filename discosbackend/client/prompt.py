"""Reads the lines of the shell from a terminal: by prompt_toolkit if it is installed, else by readline.

Both complete with the tab key, and keep the lines in a history file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from discosbackend.client.shell import Completion
from discosbackend.errors import reason_of

__all__ = ["history_file", "line_reader"]

_LONGEST_HISTORY = 10000

Complete = Callable[[str], list[Completion]]


def history_file() -> Path:
    """Return the path of the history file: discosbackend/history in XDG_STATE_HOME, or in ~/.local/state."""
    folder = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(folder, "discosbackend", "history")


def line_reader(prompt: str, complete: Complete, history: Path) -> Callable[[], str]:
    """Return a function that reads a line. It raises EOFError at Ctrl-D, and KeyboardInterrupt at Ctrl-C.

    Parameters
    ----------
    prompt
        The text before the line.
    complete
        Returns the completions for a line up to the cursor.
    history
        The history file. If it cannot be written, a line on standard error says why, and the history is not kept.
    """
    kept = _writable(history)
    try:
        import prompt_toolkit  # noqa: F401
    except ImportError:
        return _by_readline(prompt, complete, kept)
    return _by_prompt_toolkit(prompt, complete, kept)


def _writable(history: Path) -> Path | None:
    try:
        history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only its owner may read it: it may have paths and addresses.
        os.close(os.open(history, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as problem:
        print(f"the history is not kept: {history}: {reason_of(problem)}", file=sys.stderr)
        return None
    return history


def _by_prompt_toolkit(prompt: str, complete: Complete, history: Path | None) -> Callable[[], str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit import completion as toolkit
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    class Completer(toolkit.Completer):
        def get_completions(self, document: Document, event: Any) -> Iterator[toolkit.Completion]:
            for word, replaces, meaning in complete(document.text_before_cursor):
                yield toolkit.Completion(word, -replaces, display_meta=meaning)

    kept: History = InMemoryHistory() if history is None else FileHistory(history)
    session: PromptSession[str] = PromptSession(
        prompt, history=kept, completer=Completer(), complete_while_typing=False
    )
    return session.prompt


def _by_readline(prompt: str, complete: Complete, history: Path | None) -> Callable[[], str]:
    import readline

    def completer(_: str, number: int) -> str | None:
        before = readline.get_line_buffer()[: readline.get_endidx()]
        found = complete(before)
        return found[number].word + " " if number < len(found) else None

    readline.set_completer(completer)
    readline.set_completer_delims(" \t")
    readline.parse_and_bind("tab: complete")
    if history is not None:
        readline.read_history_file(history)
        readline.set_history_length(_LONGEST_HISTORY)

    def read() -> str:
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            # The next prompt, or that of the user's shell, begins in a line of its own.
            print()
            raise
        if history is not None and line:
            readline.append_history_file(1, history)
        return line

    return read
