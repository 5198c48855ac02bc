"""The option --print-unit of `discos-backend-server`: the systemd unit that starts the server in the same way."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from discosbackend.cli.own_backend import CannotServe

__all__ = ["KINDS", "Unit", "created_files", "this_unit", "quoted"]

KINDS = ("service", "template")
"""The values of --print-unit: the unit of this command line, or a template for several instruments."""

# A word of these characters needs no quotes.
_PLAIN = re.compile(r"[\w@%+=:,./~$^-]+", re.ASCII)
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "%": "%%"})

# The folders in which systemd creates a folder for the server, by the settings that do this.
_ROOTS = {"StateDirectory": "/var/lib", "RuntimeDirectory": "/run", "LogsDirectory": "/var/log"}
# The name of such a folder, without characters that have a meaning for systemd.
_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)*", re.ASCII)

_TEXT = """\
# {save}
[Unit]
Description=DISCOS backend{instance}
Wants=network-online.target
After=network-online.target time-sync.target

[Service]
Type=notify
ExecStart={command}
WorkingDirectory={folder}
{environment}{user}
{folders}Restart=on-failure
RestartSec=5
# The exit status for an invalid command line, which stays invalid.
RestartPreventExitStatus=2
# The server is restarted if it is blocked for this time. It has to be longer than the slowest method that is not
# @blocking.
WatchdogSec={watchdog}
# Longer than the slowest shutdown with this --stop-timeout.
TimeoutStopSec={stop}
# Only the server gets the signal. It ends its own child processes.
KillMode=mixed
NoNewPrivileges=yes
# The server cannot write to /usr, /boot and /etc.
ProtectSystem=full
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""

_SAVE = {
    "service": "Save this file as /etc/systemd/system/discos-backend.service, and run\n"
    "# systemctl daemon-reload && systemctl enable --now discos-backend",
    "template": "Save this file as /etc/systemd/system/discos-backend@.service. The instance NAME reads its options\n"
    "# from /etc/discos/NAME.toml: systemctl daemon-reload && systemctl enable --now discos-backend@NAME",
}

_NO_USER = """\
# root needs no User=, but the server should not run as root. Create a user, and remove the # of one of these lines.
# With DynamicUser, the server can write only to StateDirectory=, CacheDirectory=, LogsDirectory= and /tmp.
#User=discos
#DynamicUser=yes"""


@dataclass(frozen=True)
class Unit:
    """The contents of a unit."""

    command: Sequence[str]
    """The program and its arguments. The program is an absolute path."""
    folder: str
    """The working folder, an absolute path."""
    user: str
    """The name of the user that the server runs as. "": it is still to be chosen."""
    watchdog: float
    """For how long the reactor may be blocked, in s."""
    stop: float
    """How long the process may take to end after a signal, in s."""
    python_path: str = ""
    """The value of PYTHONPATH. "": it is not set."""
    kind: str = "service"
    """One of KINDS."""
    files: Sequence[str] = ()
    """The absolute paths of the files and sockets that the options name, and that the server creates."""

    def __str__(self) -> str:
        """The text of the unit. Raise CannotServe if the working folder cannot be written in a unit."""
        program, *arguments = self.command
        # systemd expands no variables in the path of the program.
        words = [quoted(program, variables=False), *map(quoted, arguments)]
        if self.kind == "template":
            words.append("--config=/etc/discos/%i.toml")
        path = quoted(f"PYTHONPATH={self.python_path}", variables=False)
        return _TEXT.format(
            save=_SAVE[self.kind],
            instance=", %i" if self.kind == "template" else "",
            command=" ".join(words),
            folder=_folder(self.folder),
            environment=f"Environment={path}\n" if self.python_path else "",
            user=f"User={self.user}" if self.user else _NO_USER,
            folders=_folders_of(self.files),
            watchdog=math.ceil(self.watchdog),
            stop=math.ceil(self.stop),
        )


def quoted(word: str, *, variables: bool = True) -> str:
    """Quote a word as in systemd.syntax(7) and systemd.service(5), so that it is passed to the program unchanged.

    Parameters
    ----------
    word
        The word.
    variables
        Whether systemd expands `$NAME` at this place.
    """
    text = word.translate(_ESCAPES)
    # Other characters that are not printable, and bytes that are not UTF-8, byte by byte.
    text = "".join(
        each if each.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(each)) for each in text
    )
    if variables:
        text = text.replace("$", "$$")
    return text if _PLAIN.fullmatch(word) else f'"{text}"'


def _folders_of(files: Sequence[str]) -> str:
    """Return the settings that create the folders of these files, and comments for those that systemd cannot create."""
    lines: list[str] = []
    # A path with a line end would add a line to the unit.
    for file in filter(str.isprintable, files):
        folder = os.path.dirname(file)
        for setting, root in _ROOTS.items():
            inside = os.path.relpath(folder, root)
            if inside == ".":
                better = f"{root}/discos-backend/{os.path.basename(file)}"
                line = f"# Only root can create files in {root}. Write {better}, and add {setting}=discos-backend."
            elif not inside.startswith("..") and _NAME.fullmatch(inside):
                line = f"# systemd creates {folder}, and the user of the server can write to it.\n{setting}={inside}"
            else:
                continue
            break
        else:
            line = f"# The folder {folder} has to exist, and the user of the server needs to be able to write to it."
        if line not in lines:
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def _folder(folder: str) -> str:
    """Return a folder as WorkingDirectory= contains it: this setting has no quotes and no escapes."""
    if folder != folder.strip() or folder.endswith("\\") or not folder.isprintable():
        raise CannotServe(f"systemd cannot have the working folder {folder!r}: give it another name")
    return folder.replace("%", "%%")


def this_unit(arguments: Sequence[str], kind: str, *, watchdog: float, stop: float, files: Sequence[str] = ()) -> Unit:
    """Return the unit that starts this process in the same way.

    Parameters
    ----------
    arguments
        The command line without the program's name. The option --print-unit is left out.
    kind, watchdog, stop
        As in Unit.
    files
        The paths of the files and sockets that the server creates, relative to the current folder.

    Raises
    ------
    CannotServe
        If this process was not started from a file.
    """
    script = os.path.abspath(sys.argv[0])
    if not os.path.isfile(script):
        raise CannotServe(f"this process was not started from a file, so no unit can start it: {sys.argv[0]!r}")
    # A script beside the interpreter is one that pip has installed for it. The first line of any other may name another
    # interpreter, and systemd has another PATH.
    interpreter = [] if os.path.dirname(script) == os.path.dirname(sys.executable) else [sys.executable]
    path = os.environ.get("PYTHONPATH", "")
    return Unit(
        [*interpreter, script, *_without_print_unit(arguments)],
        os.getcwd(),
        _user(),
        watchdog,
        stop,
        os.pathsep.join(map(os.path.abspath, path.split(os.pathsep))) if path else "",
        kind,
        [os.path.abspath(file) for file in files],
    )


def created_files(options: argparse.Namespace) -> list[str]:
    """Return the paths of the files and sockets that a server with these options creates."""
    found = [] if options.record is None else [options.record]
    socket = re.match(r"unix:(?:address=)?((?:\\.|[^:\\])+)", options.listen or "")
    if socket is not None:
        found.append(re.sub(r"\\(.)", r"\1", socket[1]))
    # The address of a control channel is a path if it contains a slash.
    if "/" in (options.control or ""):
        found.append(options.control)
    return found


def _user() -> str:
    import pwd

    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name if number else ""
    except KeyError:
        return str(number)


def _without_print_unit(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without --print-unit and its value. argparse also accepts the beginning of its name."""
    kept: list[str] = []
    value_may_follow = False
    for text in arguments:
        name, equals, _ = text.partition("=")
        is_option = len(name) > 2 and "--print-unit".startswith(name)
        if not is_option and not (value_may_follow and text in KINDS):
            kept.append(text)
        value_may_follow = is_option and not equals
    return kept
