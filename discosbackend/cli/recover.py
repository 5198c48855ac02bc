"""`discos-backend-recover`: converts recordings to FITS files, or lists them, after a server was killed.

This module is the command line. simulator.fits.convert converts a recording, as for convert-data of a server.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from discosbackend.cli.argument_types import add_version
from discosbackend.errors import reason_of
from discosbackend.log import log_to_stderr, printable
from discosbackend.signals import INTERRUPTED, interrupting
from discosbackend.simulator.errors import RecordingError, lower_reason
from discosbackend.simulator.fits.convert import convert
from discosbackend.simulator.recording.dump_files import in_use, is_gone, recordings_in
from discosbackend.simulator.recording.dump_reader import RecordingReader
from discosbackend.standard_output import escape_output, write_result
from discosbackend.ticks import TICKS_PER_SECOND

__all__ = ["main"]

logger = logging.getLogger(__name__)

_DATA = "discos-data"

EXAMPLES = """\
examples:
  %(prog)s --list                         list the recordings in ./discos-data
  %(prog)s                                convert all of them that are not in use
  %(prog)s /data/simulated --root /data   write /archive/... to /data/archive/...
  %(prog)s discos-data/20261128-105550.123-SK77 --output hi.fits
                                                  convert one recording to this file
  %(prog)s --without-metadata             if the telescope's metadata file cannot be used

The file of a recording is written to the path of set-filename, or, if that is in a folder tmp, to its parent.
The file of a recording without such a path is NAME.fits in the data folder. No file is overwritten. A recording
is removed only after its file is on disk.

exit status:
  0    all recordings that are not in use were converted, or listed, or there were none
  1    a recording was not converted: the reason was printed, and the recording is unchanged
  2    nothing was done: the folder does not exist, or the command line is invalid
  130  interrupted (Ctrl-C, SIGTERM or SIGHUP): the recording that was being converted is unchanged
"""


class _CannotRecover(Exception):
    """The reason why no recording can be converted, in one line."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Convert or list the recordings that the options name. For the exit status see EXAMPLES.

    Parameters
    ----------
    arguments
        The command line without the program's name. Default: that of the process.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    escape_output()
    # For warnings about damaged dumps and about files that exist already.
    log_to_stderr("WARNING", f"{parser.prog}: %(message)s")
    try:
        folders = _recordings(options.folder)
        if options.output is not None:
            _check_output(options.output, folders)
    except _CannotRecover as problem:
        parser.exit(2, f"{parser.prog}: {printable(str(problem))}\n")
    if not folders:
        _say(f"nothing to recover: no recording is in {options.folder}")
        sys.exit(0)
    if options.list:
        sys.exit(0 if all(_say(*_listed(folder)) for folder in folders) else 1)
    try:
        with interrupting():
            sys.exit(max(_recover(folder, options) for folder in folders))
    except KeyboardInterrupt as problem:
        parser.exit(INTERRUPTED, f"{parser.prog}: {str(problem) or 'interrupted'}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="discos-backend-recover",
        description="Convert to FITS files the recordings that a simulated instrument has left on disk.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        type=Path,
        default=Path(_DATA),
        help="the server's data folder, or one recording in it (default: %(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="list the recordings, convert nothing")
    parser.add_argument("--output", metavar="FILE", type=Path, help="the path of the file, if FOLDER is one recording")
    parser.add_argument(
        "--without-metadata",
        action="store_true",
        help="do not merge with the telescope's metadata file: write a self-contained file",
    )
    parser.add_argument("--keep", action="store_true", help="do not remove the recording afterwards")
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=Path,
        help="the folder that stands for / in set-filename's paths (default: /)",
    )
    add_version(parser)
    return parser


def _recordings(folder: Path) -> list[Path]:
    """Return the recordings that FOLDER means: the folder itself, or those in it."""
    try:
        if not folder.is_dir():
            raise _CannotRecover(f"there is no folder {folder}: give the server's data folder as the argument")
        # The real name of the folder, also if it is given as `.`.
        folder = folder.absolute() if folder.name else folder.resolve()
        return recordings_in(folder) if is_gone(folder) else [folder]
    except OSError as problem:
        raise _CannotRecover(f"{folder} cannot be read: {lower_reason(problem)}") from None


def _check_output(output: Path, folders: Sequence[Path]) -> None:
    if len(folders) != 1:
        count = len(folders)
        raise _CannotRecover(f"--output names one file, but there are {count} recordings: choose one of them")
    if os.path.lexists(output):
        raise _CannotRecover(f"--output {output} exists already: nothing is overwritten, choose another name")


def _say(*lines: str) -> bool:
    """Write lines to standard output; the names in them were chosen by clients. Return whether they could be written.

    If they could not, this is logged, and the next recordings are still converted.
    """
    try:
        write_result("".join(f"{printable(line)}\n" for line in lines))
    except OSError as problem:
        logger.warning("cannot write to standard output: %s", reason_of(problem))
        return False
    return True


def _complain(line: str) -> None:
    # If standard error cannot be written either, the next recordings are still converted.
    with suppress(OSError):
        print(printable(line), file=sys.stderr)


def _recover(folder: Path, options: argparse.Namespace) -> int:
    """Convert one recording and print the result; return the exit status."""
    if in_use(folder):
        _say(f"{folder}: in use, skipped")
        return 0
    try:
        done = convert(
            folder,
            options.output,
            root=options.root,
            metadata=not options.without_metadata,
            keep=options.keep,
        )
    except RecordingError as problem:
        if is_gone(folder):
            _say(f"{folder}: recovered by another process")
            return 0
        _complain(f"{folder}: not recovered: {problem}")
        return 1
    except Exception:  # continue with the other recordings
        logger.exception("%s: the conversion failed", folder)
        _complain(f"{folder}: not recovered: the conversion failed: the log above gives the cause")
        return 1
    if done.written is None:
        _say(f"{folder}: {'kept' if options.keep else 'removed'}, it is empty")
    else:
        _say(f"{folder}: {done.dumps} dumps written to {done.written}")
    return 0


def _listed(folder: Path) -> list[str]:
    """Return the lines that --list prints for a recording."""
    try:
        recorded = RecordingReader(folder, hold=False)
        setup, name = recorded.setup, recorded.name
        listing = [
            f"{setup.instrument} {setup.configuration}, began {_begin(recorded)}",
            f"set-filename {name}" if name else "no set-filename",
        ]
        if in_use(folder):
            listing.append("in use: being recorded or converted")
        else:
            with recorded:
                dumps = len(recorded.dumps)
            seconds = dumps * setup.integration / 1000
            listing.append(f"{dumps} whole dumps of {setup.integration} ms, {seconds:g} s")
    except RecordingError as problem:
        listing = [f"cannot be read: {problem}"]
    return [str(folder), *(f"    {each}" for each in listing)]


def _begin(recorded: RecordingReader) -> str:
    seconds, rest = divmod(int(recorded.begins), TICKS_PER_SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest // 10000:03d} UTC"
