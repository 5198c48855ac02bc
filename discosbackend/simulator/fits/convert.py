"""Converts recordings to FITS files, atomically, in a process of its own.

    python -m discosbackend.simulator.fits.convert [--root DIR] [FOLDER...]

prints one line of JSON for each recording. Without FOLDER it reads requests from standard input, until this is closed.
A request is a line with a JSON list. The list has a pair for each recording: its folder, and its name or null.

layout and metadata define the contents of the file. They import astropy, so they are imported only when needed.
recording.dump_files defines a recording, recording.conversion starts this program for a server.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import logging
import os
import select
import signal
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO, TypeAlias

from discosbackend.log import log_to_stderr
from discosbackend.signals import ENDING, handling
from discosbackend.simulator.errors import RecordingError, lower_reason
from discosbackend.simulator.recording.dump_files import open_regular
from discosbackend.simulator.recording.dump_reader import RecordingReader
from discosbackend.simulator.recording.output_paths import (
    PART,
    check_output,
    is_in_temporary_folder,
    metadata_path,
    output_path,
    telescope_file,
)

if TYPE_CHECKING:
    from discosbackend.simulator.fits.layout import Layout

__all__ = ["Converted", "convert", "main"]

logger = logging.getLogger(__name__)

# The folder and the name of each recording that is to be converted.
_Request: TypeAlias = "Sequence[tuple[Path | str, str | None]]"

# The longest file name in bytes on common file systems.
_LONGEST_NAME = 255

# The errors of a file system without hard links, and of one that cannot reserve space.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_CANNOT_RESERVE = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
# The errors of a file system that cannot synchronise a folder, or if we may not read the folder.
_NOT_SYNCHRONISED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Converted:
    """The result of a conversion: the folder of the recording, the file, its number of dumps, and warnings.

    `written` is None if the recording had no dumps.
    """

    folder: Path
    written: Path | None
    dumps: int
    warnings: tuple[str, ...] = ()


def convert(
    folder: Path | str,
    output: Path | None = None,
    *,
    root: Path | None = None,
    metadata: bool = True,
    keep: bool = False,
    name: str | None = None,
) -> Converted:
    """Convert a recording to a FITS file, then remove the recording.

    If the conversion fails, the recording is not changed and no file is left.

    Parameters
    ----------
    folder
        The folder of the recording.
    output
        The path of the file. Default: output_path(). An existing file is not overwritten: then the file is NAME_2,
        NAME_3 and so on.
    root
        The folder that stands for `/` in the name. Default: an absolute name is used as it is.
    metadata
        Whether to merge with the telescope's metadata file, if it exists.
    keep
        Whether to keep the recording.
    name
        The path that set-filename gave. Default: the path stored in the recording.

    Returns
    -------
    Converted
        The file and the warnings.

    Raises
    ------
    RecordingError
        If the recording or the metadata file cannot be read, or if the file cannot be written.
    """
    with RecordingReader(folder) as recorded:
        if not recorded.dumps:
            return _without_dumps(recorded, keep)
        # Do not read the name if it is not needed, because reading it may fail.
        if name is None and (metadata or output is None):
            name = recorded.name
        path = telescope_file(name, recorded.folder, root) if name and metadata else None
        layout, ours = _laid_out(recorded, path)
        if output is None:
            # If this program has written the file at the path, it is no metadata file. _put() numbers the new file.
            if path is not None and ours and not is_in_temporary_folder(path):
                output = path
            else:
                output = output_path(name, recorded.folder, root)
        check_output(output.absolute())
        complaints = [*_missing(recorded), *layout.warnings]
        try:
            written = _put(layout, recorded, output.absolute())
        except OSError as problem:
            raise RecordingError(_refusal(problem, output)) from problem
        if written.name != output.name:
            complaints.append(f"{output} exists already: {written.name} was written instead")
        if name and metadata and path is None:
            complaints += _no_metadata(metadata_path(name, recorded.folder, root))
        if not keep:
            complaints += _remove(recorded)
        for complaint in complaints:
            logger.warning("%s: %s", recorded.folder, complaint)
        return Converted(recorded.folder, written, len(recorded.dumps), tuple(complaints))


def _laid_out(recorded: RecordingReader, path: Path | None) -> tuple[Layout, bool]:
    """Return the layout of the FITS file, and whether this program has written the file at the path.

    If so, or if the path is None, the layout is self-contained. Otherwise the file at the path is merged.
    """
    # Both import astropy.
    from discosbackend.simulator.fits import layout as fits_layout
    from discosbackend.simulator.fits import metadata

    if path is None:
        return fits_layout.whole(recorded), False
    layout = metadata.merged(recorded, path)
    return (fits_layout.whole(recorded), True) if layout is None else (layout, False)


def _without_dumps(recorded: RecordingReader, keep: bool) -> Converted:
    """Remove a recording that ended within its first dump: programs cannot read a file without rows.

    A recording whose dumps are all damaged is kept for inspection.
    """
    if not recorded.empty:
        raise RecordingError(f"no whole dump is left: {str(recorded.folder)!a}")
    complaint = "nothing was recorded: there is no whole dump"
    logger.warning("%s: %s", recorded.folder, complaint)
    return Converted(recorded.folder, None, 0, (complaint, *([] if keep else _remove(recorded))))


def _missing(recorded: RecordingReader) -> list[str]:
    """Return a warning if dumps are missing."""
    missing = recorded.dumps[-1].number + 1 - len(recorded.dumps)
    return [f"{missing} dumps are missing of {recorded.dumps[-1].number + 1}"] if missing else []


def _no_metadata(path: Path) -> list[str]:
    """Return a warning if DISCOS should have written a metadata file to this path. There is no file at the path."""
    if not is_in_temporary_folder(path):
        return []
    return [f"the telescope's metadata file is not there: a self-contained file is written: {path}"]


def _remove(recorded: RecordingReader) -> list[str]:
    try:
        recorded.remove()
    except OSError as problem:
        if problem.errno == errno.ENOTEMPTY:
            return [f"the recording is removed, but not its folder, which has other files: {recorded.folder}"]
        return [f"recording cannot be removed: {lower_reason(problem)}: {problem.filename}"]
    return []


# -- the file -----------------------------------------------------------------------------------------


def _put(layout: Layout, recorded: RecordingReader, output: Path) -> Path:
    """Write a temporary file beside `output` and link it to its name, without overwriting; return the final path."""
    from discosbackend.simulator.fits import layout as fits_layout

    _make_folder(output.parent)
    candidates = _candidates(output)
    for candidate in candidates:
        if os.path.lexists(candidate):
            continue
        part = _part_of(candidate)
        with _reserved(part) as file:
            if file is None:
                continue
            _reserve_space(file, layout.size)
            fits_layout.write(layout, recorded, file)
            os.fsync(file)
            while not _place(part, candidate):
                candidate = next(candidates)
        try:
            _synchronise(candidate.parent)
        except OSError:
            candidate.unlink()
            raise
        return candidate
    raise AssertionError("names never end")


def _make_folder(folder: Path) -> None:
    """Create a folder with its parents. A loop, because Python's own functions recurse, and a path may be deep."""
    missing = [folder]
    while not os.path.lexists(missing[-1]):
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        try:
            each.mkdir(exist_ok=True)
        except FileExistsError as problem:
            # mkdir() raises this if a file is there.
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), problem.filename) from None


def _part_of(output: Path) -> Path:
    """Return the path of the temporary file: beside `output`, with a name that is not too long."""
    name = f".{output.name}{PART}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{zlib.crc32(os.fsencode(output.name)):08x}{PART}"
    return output.with_name(name)


def _candidates(output: Path) -> Iterator[Path]:
    yield output
    number = 2
    while True:
        yield output.with_name(f"{output.stem}_{number}{output.suffix}")
        number += 1


@contextmanager
def _reserved(part: Path) -> Iterator[int | None]:
    """Create and lock the temporary file, and remove it at the end; None if another process has locked it.

    A file that a killed conversion has left is used again, unless it is a link to a finished file.
    """
    while True:
        file = open_regular(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            if not _is_at(part, file):
                # Another process has removed the file before we locked it.
                continue
            try:
                if os.fstat(file).st_nlink > 1:
                    # A conversion was killed between link and unlink. Do not overwrite the finished file.
                    continue
                os.ftruncate(file, 0)
                yield file
                return
            finally:
                part.unlink(missing_ok=True)
        finally:
            os.close(file)


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def _reserve_space(file: int, size: int) -> None:
    """Reserve disk space, so that a full disk is reported now and not after minutes of writing."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as problem:
        if problem.errno not in _CANNOT_RESERVE:
            raise


def _place(part: Path, output: Path) -> bool:
    """Give the finished file its name; return False if the name exists."""
    try:
        os.link(part, output)
    except FileExistsError:
        return False
    except OSError as problem:
        if problem.errno not in _NO_LINKS:
            raise
        # Between the check and the rename, the lock on the temporary file excludes other conversions.
        if os.path.lexists(output):
            return False
        os.rename(part, output)
    return True


def _synchronise(folder: Path) -> None:
    """Synchronise the folder to disk, if possible, before the recording is removed."""
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as problem:
        if problem.errno not in _NOT_SYNCHRONISED:
            raise


def _refusal(problem: OSError, output: Path) -> str:
    """Return why a file could not be written, as a text for status and for a reply."""
    if problem.errno == errno.ENOSPC:
        return f"disk full: {str(output)!a}"
    return f"file cannot be written: {lower_reason(problem)}: {str(problem.filename or output)!a}"


# -- the program --------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Convert the given recordings, or those of the requests on standard input.

    The exit status is 0 if all recordings were converted, and 1 otherwise. After a signal that ends programs, it is 128
    plus the number of the signal.
    """
    parser = argparse.ArgumentParser(prog="python -m discosbackend.simulator.fits.convert", description=__doc__)
    parser.add_argument("folders", metavar="FOLDER", type=Path, nargs="*", help="a recording")
    parser.add_argument("--root", metavar="DIR", type=Path, help="the folder for absolute paths (default: /)")
    options = parser.parse_args(arguments)
    log_to_stderr("WARNING", "%(message)s")
    output = sys.stdout
    # What a library prints must not come between the reports.
    # The server and this process both receive the signal of Ctrl-C or of a closed terminal.
    with handling(_leave), redirect_stdout(sys.stderr):
        own: list[_Request] = [[(folder, None) for folder in options.folders]]
        requests = own if options.folders else _requests()
        done = [_report(Path(folder), options.root, name, output) for each in requests for folder, name in each]
        sys.exit(max(done, default=0))


def _requests() -> Iterator[_Request]:
    """Yield the requests of a server until it closes the pipe. If that happens during a conversion, exit."""
    # The server sends this signal to end a conversion. It is handled even if the server ignores SIGTERM itself.
    signal.signal(signal.SIGTERM, _leave)
    thread = threading.Thread(target=_leave_with_server, args=(sys.stdin.fileno(),), daemon=True)
    # The thread inherits this mask. So the system gives signals to the main thread, and interrupts what it waits for.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return map(json.loads, sys.stdin)


def _leave_with_server(descriptor: int) -> None:
    """Wait until the pipe is closed at its other end, then have the main thread exit."""
    poll = select.poll()
    # No event is requested, so only the end of the pipe is reported.
    poll.register(descriptor, 0)
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(number: int, _: object) -> NoReturn:
    """Exit by an exception, so that the temporary file is removed."""
    sys.exit(128 + number)


def _report(folder: Path, root: Path | None, name: str | None, output: TextIO) -> int:
    """Convert one recording and print the result; return the exit status."""
    report: dict[str, object] = {"recording": str(folder)}
    try:
        done = convert(folder, root=root, name=name)
    except RecordingError as problem:
        report["refused"] = str(problem)
    except Exception:  # continue with the other recordings
        logger.exception("%s: the conversion failed", folder)
        report["refused"] = f"conversion failed: the log gives the cause: {str(folder)!a}"
    else:
        written = None if done.written is None else str(done.written)
        report.update(written=written, dumps=done.dumps, warnings=done.warnings)
    # When the server has the report, it reads the log lines that were written before it.
    for handler in logging.getLogger().handlers:
        handler.flush()
    print(json.dumps(report), file=output, flush=True)
    return 1 if "refused" in report else 0


if __name__ == "__main__":
    main()
