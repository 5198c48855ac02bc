"""The command line and the environment for starting another Python interpreter safely.

With `python -m` and `python -c`, and if PYTHONPATH has an empty element, Python searches the current folder first. A
file there with a name such as astropy.py or copy.py would be executed instead of the module of that name.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

__all__ = ["python_command", "python_environment"]

# The folder that contains this package.
_PACKAGE = str(Path(__file__).resolve().parent.parent)


def python_command(*arguments: str) -> list[str]:
    """Return the command line of this interpreter with these arguments, without the current folder in sys.path."""
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """Return the environment for python_command(): the new process imports this copy of the package."""
    path = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    # An installed package is found without it. In PYTHONPATH, the folder of the installed packages would precede the
    # standard library.
    if _PACKAGE not in _site_folders():
        path.insert(0, _PACKAGE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    if not path:
        # An empty PYTHONPATH would mean the current folder.
        del environment["PYTHONPATH"]
    return environment


def _site_folders() -> set[str]:
    return {os.path.realpath(folder) for folder in (*site.getsitepackages(), site.getusersitepackages())}
