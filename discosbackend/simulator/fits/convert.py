"""Converts a recording into a FITS file, in a process of its own; no reader ever sees half a file.

    python -m discosbackend.simulator.fits.convert [--root DIR] [--gently] [FOLDER...]

prints a line of JSON for each recording. Without a FOLDER it reads them from standard input: a list of them, each
with its name or null, in JSON. The contents of the file are in layout and metadata, which load astropy and are
imported when needed; what a recording is, in recording.dump_files.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import logging
import os
import signal
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from discosbackend.log import log_to_stderr
from discosbackend.signals import heard, kept
from discosbackend.simulator.errors import RecordingError
from discosbackend.simulator.recording.dump_files import RecordingReader, exists, metadata_path, output_path

if TYPE_CHECKING:
    from discosbackend.simulator.fits.layout import Layout

__all__ = ["Converted", "convert", "output_path", "main"]

logger = logging.getLogger(__name__)

# Bytes of a file's name on the filesystems that there are.
_LONGEST_NAME = 255

# What a filesystem answers that does not know links, or that cannot set room aside.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_CANNOT_RESERVE = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
# The same of synchronising a folder, which takes the right to list it as well.
_NOT_SYNCHRONISED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a recording: its folder, the file, how many dumps that has, what the user should know.

    `written` is None for one that was nothing but begun, and is removed.
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
    """Make the file of a recording, and remove the recording unless it is to be kept.

    At `output`, or where output_path() says; what is there already is never overwritten, then it is NAME_2 and so
    on. `name` is the telescope's path, unless it is the one that was noted. Without `metadata` its file is not
    looked for. RecordingError, with the reason, when it cannot be: then the recording is as it was, and there is
    no file.
    """
    with RecordingReader(folder) as recorded:
        if not recorded.dumps:
            return _without_dumps(recorded, keep)
        # One that cannot be read does not matter to who has a goal of his own.
        if name is None and (metadata or output is None):
            name = recorded.name
        path = metadata_path(name, recorded.folder, root) if name else None
        layout, ours = _laid_out(recorded, path if metadata else None)
        if output is None:
            # One of our own at the path is none of the telescope's, and just takes the name.
            output = path if ours and path is not None else output_path(name, recorded.folder, root)
        complaints = [*_missing(recorded), *layout.warnings]
        try:
            written = _put(layout, recorded, output.absolute())
        except OSError as problem:
            raise RecordingError(_refusal(problem, output)) from problem
        if written.name != output.name:
            complaints.append(f"{output} exists already: {written.name} was written instead")
        if not keep:
            complaints += _remove(recorded)
        for complaint in complaints:
            logger.warning("%s: %s", recorded.folder, complaint)
        return Converted(recorded.folder, written, len(recorded.dumps), tuple(complaints))


def _laid_out(recorded: RecordingReader, path: Path | None) -> tuple[Layout, bool]:
    """The file's layout, with the telescope's metadata file if there is one at the path; or a file of our own there."""
    # Both load astropy.
    from discosbackend.simulator.fits import layout as fits_layout
    from discosbackend.simulator.fits import metadata

    if path is None or not exists(path):
        return fits_layout.whole(recorded), False
    layout = metadata.merged(recorded, path)
    return (fits_layout.whole(recorded), True) if layout is None else (layout, False)


def _without_dumps(recorded: RecordingReader, keep: bool) -> Converted:
    """A recording that ended within its first dump is removed: no reader takes a file without rows.

    One whose dumps are all damaged stays, for someone to look at.
    """
    if not recorded.empty:
        raise RecordingError(f"no whole dump is left: {str(recorded.folder)!a}")
    complaint = "nothing was recorded: there is no whole dump"
    logger.warning("%s: %s", recorded.folder, complaint)
    return Converted(recorded.folder, None, 0, (complaint, *([] if keep else _remove(recorded))))


def _missing(recorded: RecordingReader) -> list[str]:
    """What lacks between the first dump and the last, if anything."""
    missing = recorded.dumps[-1].number + 1 - len(recorded.dumps)
    return [f"{missing} dumps are missing of {recorded.dumps[-1].number + 1}"] if missing else []


def _remove(recorded: RecordingReader) -> list[str]:
    try:
        recorded.remove()
    except OSError as problem:
        return [f"recording cannot be removed: {_reason(problem)}: {problem.filename}"]
    return []


# -- the file -----------------------------------------------------------------------------------------


def _put(layout: Layout, recorded: RecordingReader, output: Path) -> Path:
    """Write the file beside its goal and put it there whole, overwriting nothing; where it is then."""
    from discosbackend.simulator.fits import layout as fits_layout

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as problem:
        # What Python calls it when a folder of the path is a file.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), problem.filename) from None
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


def _part_of(output: Path) -> Path:
    """Where a file is written until it is whole: beside its goal, by a name that is no longer than a name may be."""
    name = f".{output.name}.part"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{zlib.crc32(os.fsencode(output.name)):08x}.part"
    return output.with_name(name)


def _candidates(output: Path) -> Iterator[Path]:
    yield output
    number = 2
    while True:
        yield output.with_name(f"{output.stem}_{number}{output.suffix}")
        number += 1


@contextmanager
def _reserved(part: Path) -> Iterator[int | None]:
    """The empty file of that name, for nobody else; None if somebody else has it. It is removed in the end.

    What a killed conversion has left there is used again, unless it is another name of a finished file.
    """
    while True:
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            if not _is_at(part, file):
                # Its owner has removed it while we waited for the lock.
                continue
            try:
                if os.fstat(file).st_nlink > 1:
                    # Killed between link and unlink: the finished file must not be written to.
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
    """Have a disk that is too small say so before minutes of writing."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as problem:
        if problem.errno not in _CANNOT_RESERVE:
            raise


def _place(part: Path, output: Path) -> bool:
    """Give the finished file its name; False if the name is taken."""
    try:
        os.link(part, output)
    except FileExistsError:
        return False
    except OSError as problem:
        if problem.errno not in _NO_LINKS:
            raise
        # Other conversions are kept away by the lock on the part.
        if os.path.lexists(output):
            return False
        os.rename(part, output)
    return True


def _synchronise(folder: Path) -> None:
    """Have the name reach the disk too, before the recording goes; as far as that can be."""
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
    """Why a file could not be written, for status and for a reply."""
    if problem.errno == errno.ENOSPC:
        return f"disk full: {str(output)!a}"
    return f"file cannot be written: {_reason(problem)}: {str(problem.filename or output)!a}"


def _reason(problem: OSError) -> str:
    return (problem.strerror or type(problem).__name__).lower()


# -- the program --------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Convert the recordings that are named.

    Exit status 0 when all were, 1 otherwise; 128 and its number after a signal that ends programs.
    """
    parser = argparse.ArgumentParser(prog="python -m discosbackend.simulator.fits.convert", description=__doc__)
    parser.add_argument("folders", metavar="FOLDER", type=Path, nargs="*", help="a recording")
    parser.add_argument("--root", metavar="DIR", type=Path, help="where absolute paths begin (default: /)")
    parser.add_argument("--gently", action="store_true", help="leave the processor to others")
    options = parser.parse_args(arguments)
    log_to_stderr("WARNING", "%(message)s")
    if options.gently:
        os.nice(10)
    with kept():
        # A Ctrl-C, and a terminal that is closed, are for a server and its conversion alike.
        for number in heard():
            signal.signal(number, _leave)
        # A server may have more of them than a command line can carry.
        wanted = [(folder, None) for folder in options.folders] or json.load(sys.stdin)
        sys.exit(max((_report(Path(folder), options.root, name) for folder, name in wanted), default=0))


def _leave(number: int, _: object) -> NoReturn:
    """As an exception, so that the part of a file that is there is removed."""
    sys.exit(128 + number)


def _report(folder: Path, root: Path | None, name: str | None) -> int:
    """Convert one recording, and say what became of it; the exit status."""
    report: dict[str, object] = {"recording": str(folder)}
    try:
        done = convert(folder, root=root, name=name)
    except RecordingError as problem:
        report["refused"] = str(problem)
    except Exception as problem:  # the others are converted still
        logger.exception("%s: the conversion failed", folder)
        report["refused"] = f"conversion failed: {type(problem).__name__}: {str(folder)!a}"
    else:
        written = None if done.written is None else str(done.written)
        report.update(written=written, dumps=done.dumps, warnings=done.warnings)
    print(json.dumps(report), flush=True)
    return 1 if "refused" in report else 0


if __name__ == "__main__":
    main()
