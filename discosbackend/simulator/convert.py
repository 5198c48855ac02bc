"""Convert: from a recording to a file at its goal, of which no reader sees half; in a process of its own.

    python -m discosbackend.simulator.convert [--root DIR] [--gently] FOLDER...

prints a line of JSON for each recording. What is in the file is said in recorder and merging, which load
astropy and are loaded when needed; what a recording is, in recording.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import logging
import os
import posixpath
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from discosbackend.errors import RecordingError
from discosbackend.simulator.recording import Recorded

if TYPE_CHECKING:
    from discosbackend.simulator.recorder import Layout

__all__ = ["Converted", "convert", "goal_of", "main"]

logger = logging.getLogger(__name__)

# The folder of DISCOS's metadata files, beside which the merged ones are.
_TEMPORARY = "tmp"

# What a filesystem answers that does not know links, or cannot set room aside.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_NO_ROOM_KEPT = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a recording: its folder, the file, how many dumps that has, what the user should know.

    `written` is None for one that was nothing but begun, and is removed.
    """

    folder: Path
    written: Path | None
    dumps: int
    warnings: tuple[str, ...] = ()


def goal_of(name: str | None, folder: Path, root: Path | None = None) -> Path:
    """Where the file of a recording belongs; `name` is the path that set-filename gave, None or "" for none.

    One folder up for a path in a folder `tmp`, but for /tmp; else the path itself, or, where the telescope's
    metadata file is, beside it as NAME_merged. A relative path is below the data folder, an absolute one
    below `root` where one is given. RecordingError for a path without a file's name.
    """
    if not name:
        return folder.absolute().parent / f"{folder.absolute().name}.fits"
    path = _path_of(name, folder, root)
    # Of the host's own /tmp, one folder up is where nobody wants files.
    if path.parent.name == _TEMPORARY and path.parent.parent.name:
        return path.parent.parent / path.name
    return path.with_name(f"{path.stem}_merged{path.suffix}") if _exists(path) else path


def _path_of(name: str, folder: Path, root: Path | None) -> Path:
    """The path that set-filename means."""
    if "\0" in name or posixpath.basename(name) in ("", ".", ".."):
        raise RecordingError(f"path has no name of a file: {name!a}")
    if not name.startswith("/"):
        return folder.absolute().parent / name
    # Made normal first, so that no .. leads out of the root.
    return Path(name) if root is None else root.absolute() / posixpath.normpath(name).lstrip("/")


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as problem:
        raise RecordingError(f"metadata file cannot be read: {_reason(problem)}: {str(path)!a}") from None
    return True


def convert(
    folder: Path | str,
    goal: Path | None = None,
    *,
    root: Path | None = None,
    metadata: bool = True,
    keep: bool = False,
) -> Converted:
    """Make the file of a recording, and remove the recording unless it is to be kept.

    At `goal`, or where goal_of() says; what is there already is never overwritten, then it is NAME_2 and so
    on. Without `metadata` the telescope's file is not looked for. RecordingError, with the reason, when it
    cannot be: then the recording is as it was, and there is no file.
    """
    with Recorded(folder) as recorded:
        if not recorded.dumps:
            return _without_dumps(recorded, keep)
        # One that cannot be read does not matter to who has a goal of his own.
        name = recorded.name if metadata or goal is None else None
        if goal is None:
            goal = goal_of(name, recorded.folder, root)
        layout = _laid_out(recorded, _path_of(name, recorded.folder, root) if name and metadata else None)
        complaints = [*_missing(recorded), *layout.warnings]
        try:
            written = _put(layout, recorded, goal.absolute())
        except OSError as problem:
            raise RecordingError(_refusal(problem, goal)) from problem
        if written.name != goal.name:
            complaints.append(f"{goal} exists already: {written.name} was written instead")
        if not keep:
            complaints += _remove(recorded)
        for complaint in complaints:
            logger.warning("%s: %s", recorded.folder, complaint)
        return Converted(recorded.folder, written, len(recorded.dumps), tuple(complaints))


def _laid_out(recorded: Recorded, path: Path | None) -> Layout:
    """The file's layout, with the telescope's metadata file if there is one at the path."""
    # Both load astropy.
    from discosbackend.simulator import merging, recorder

    if path is None or not _exists(path):
        return recorder.whole(recorded)
    layout = merging.merged(recorded, path)
    if layout is None:
        layout = recorder.whole(recorded)
        layout.warnings.append(f"{path} is no metadata file but was simulated before")
    return layout


def _without_dumps(recorded: Recorded, keep: bool) -> Converted:
    """A recording that ended within its first dump is removed: no reader takes a file without rows.

    One whose dumps are all damaged stays, for someone to look at.
    """
    if not recorded.empty:
        raise RecordingError(f"no whole dump is left: {str(recorded.folder)!a}")
    complaint = "nothing was recorded: there is no whole dump"
    logger.warning("%s: %s", recorded.folder, complaint)
    return Converted(recorded.folder, None, 0, (complaint, *([] if keep else _remove(recorded))))


def _missing(recorded: Recorded) -> list[str]:
    """What lacks between the first dump and the last, if anything."""
    missing = recorded.dumps[-1].number + 1 - len(recorded.dumps)
    return [f"{missing} dumps are missing of {recorded.dumps[-1].number + 1}"] if missing else []


def _remove(recorded: Recorded) -> list[str]:
    try:
        recorded.remove()
    except OSError as problem:
        return [f"recording cannot be removed: {_reason(problem)}: {problem.filename}"]
    return []


# -- the file -----------------------------------------------------------------------------------------


def _put(layout: Layout, recorded: Recorded, goal: Path) -> Path:
    """Write the file beside its goal and put it there whole, overwriting nothing; where it is then."""
    from discosbackend.simulator import recorder

    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as problem:
        # What Python calls it when a folder of the path is a file.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), problem.filename) from None
    candidates = _candidates(goal)
    for candidate in candidates:
        if os.path.lexists(candidate):
            continue
        part = candidate.with_name(f".{candidate.name}.part")
        with _reserved(part) as file:
            if file is None:
                continue
            _keep_room(file, layout.size)
            recorder.write(layout, recorded, file)
            os.fsync(file)
            while not _place(part, candidate):
                candidate = next(candidates)
        _synchronise(candidate.parent)
        return candidate
    raise AssertionError("names never end")


def _candidates(goal: Path) -> Iterator[Path]:
    yield goal
    number = 2
    while True:
        yield goal.with_name(f"{goal.stem}_{number}{goal.suffix}")
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


def _keep_room(file: int, size: int) -> None:
    """Have a disk that is too small say so before minutes of writing."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as problem:
        if problem.errno not in _NO_ROOM_KEPT:
            raise


def _place(part: Path, goal: Path) -> bool:
    """Give the finished file its name; False if the name is taken."""
    try:
        os.link(part, goal)
    except FileExistsError:
        return False
    except OSError as problem:
        if problem.errno not in _NO_LINKS:
            raise
        # Other conversions are kept away by the lock on the part.
        if os.path.lexists(goal):
            return False
        os.rename(part, goal)
    return True


def _synchronise(folder: Path) -> None:
    """Have the name reach the disk too, before the recording goes."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _refusal(problem: OSError, goal: Path) -> str:
    """Why a file could not be written, for status and for a reply."""
    if problem.errno == errno.ENOSPC:
        return f"disk full: {str(goal)!a}"
    return f"file cannot be written: {_reason(problem)}: {str(problem.filename or goal)!a}"


def _reason(problem: OSError) -> str:
    return (problem.strerror or type(problem).__name__).lower()


# -- the program --------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Convert the recordings that are named. Exit status 0 when all were, 1 otherwise, 143 after SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m discosbackend.simulator.convert", description=__doc__)
    parser.add_argument("folders", metavar="FOLDER", type=Path, nargs="+", help="a recording")
    parser.add_argument("--root", metavar="DIR", type=Path, help="where absolute paths begin (default: /)")
    parser.add_argument("--gently", action="store_true", help="leave the processor to others")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="WARNING", stream=sys.stderr, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _leave)
    if options.gently:
        os.nice(10)
    sys.exit(max(_report(folder, options.root) for folder in options.folders))


def _leave(number: int, _: object) -> NoReturn:
    """As an exception, so that the part of a file that is there is removed."""
    sys.exit(128 + number)


def _report(folder: Path, root: Path | None) -> int:
    """Convert one recording, and say what became of it; the exit status."""
    told: dict[str, object] = {"recording": str(folder)}
    try:
        done = convert(folder, root=root)
    except RecordingError as problem:
        told["refused"] = str(problem)
    except Exception as problem:  # pylint: disable=broad-exception-caught  # the others are converted still
        logger.exception("%s: the conversion failed", folder)
        told["refused"] = f"conversion failed: {type(problem).__name__}: {str(folder)!a}"
    else:
        written = None if done.written is None else str(done.written)
        told.update(written=written, dumps=done.dumps, warnings=done.warnings)
    print(json.dumps(told), flush=True)
    return 1 if "refused" in told else 0


if __name__ == "__main__":
    main()
