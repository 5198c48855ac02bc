"""How this package starts another Python: one that runs nothing of the folder in which it happens to be started.

`python -m` and `python -c`, and an empty element of PYTHONPATH, have the current folder searched first: a file there
that is called astropy.py, copy.py or calendar.py would be run in place of the module of that name.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

__all__ = ["python_command", "python_environment"]

# The folder in which this package is found.
_PACKAGE = str(Path(__file__).resolve().parent.parent)


def python_command(*arguments: str) -> list[str]:
    """The command line of this Python with these arguments, without the current folder on the path of its modules."""
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """The environment of such a process, in which it finds this very package."""
    path = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    # Where it is installed it is found anyway, and what is installed with it must not precede the standard library.
    if _PACKAGE not in _site_folders():
        path.insert(0, _PACKAGE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    if not path:
        # Empty, it would be the current folder.
        del environment["PYTHONPATH"]
    return environment


def _site_folders() -> set[str]:
    return {os.path.realpath(folder) for folder in (*site.getsitepackages(), site.getusersitepackages())}
