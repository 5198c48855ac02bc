"""Programs in processes that are forked from one that has imported the package already.

An interpreter that imports Twisted, numpy and the package takes half a second of processor time. The tests start more
than a hundred programs, which was a third of their processor time. A forked process takes a few hundredths of a second.

start() sends its command to the process `python -m test.forking`, which forks. In the forked process the interpreter
is as it is before it runs a program: nothing has run in it but imports. serving.py says which tests use it; each
program also has tests that start a new interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn, cast

__all__ = ["Process", "can_start", "cpu_seconds", "environment", "start"]

ROOT = Path(__file__).resolve().parent.parent
# What most programs import. None of these modules may install a reactor or start a thread.
_PRELOADED = (
    "discosbackend.cli.check",
    "discosbackend.cli.monitor_options",
    "discosbackend.cli.server",
    "discosbackend.cli.simctl",
    "discosbackend.cli.simulated",
    "discosbackend.cli.tap",
    "discosbackend.simulator.backend",
    "discosbackend.simulator.recording.conversion",
    "discosbackend.testing",
    "twisted.internet.asyncioreactor",
    "twisted.internet.default",
    "twisted.web.server",
)


def environment() -> dict[str, str]:
    """The environment of a process that finds the checkout from any folder, and whatever else these tests find."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


class Process:
    """A forked process, with the part of subprocess.Popen's interface that the tests use.

    `status` is a pipe. The parent of the process writes the process's number there, and how it ended.
    """

    def __init__(self, command: Sequence[str], status: int, stdout: IO[str] | None) -> None:
        self.args = command
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = os.fdopen(status)
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        """Return the exit status, or None if the process is running. For a signal it is the negative number."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit status. Raise subprocess.TimeoutExpired after `timeout` s."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._end()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            # It may end at this moment.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _end(self) -> None:
        ended = json.loads(self._status.readline())
        self._status.close()
        self.returncode = ended["status"]
        _Forker.used += ended["seconds"]


class _Forker:
    """The process that forks. It ends with the process that has started it."""

    used = 0.0
    _only: _Forker | None = None

    def __init__(self) -> None:
        env = environment()
        self.settings = _settings(env)
        # With this, importing the package `test` would install a reactor.
        env.pop("DISCOS_TEST_REACTOR", None)
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "test.forking", str(theirs.fileno())],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._end)

    @classmethod
    def get(cls) -> _Forker:
        """The only one, which is started if there is none."""
        if cls._only is None:
            cls._only = cls()
        return cls._only

    def send(self, request: dict[str, Any], descriptors: Sequence[int]) -> None:
        message = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(self._requests, [message], descriptors)
        self._requests.sendall(message[sent:])

    def _end(self) -> None:
        self._requests.close()
        self._process.wait()


def _settings(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that an interpreter reads when it starts."""
    return {key: value for key, value in env.items() if key.startswith(("PYTHON", "LC_", "LANG"))}


def cpu_seconds() -> float:
    """Return the processor time of the forked processes that have ended, in s."""
    return _Forker.used


def can_start(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether start() does what a new interpreter would do.

    The command must be one of this interpreter, without options for it, and not a module of the tests, because this
    package has been imported. The variables that the interpreter reads must be those of environment().
    """
    runs = command[0] == sys.executable and (command[1] in ("-c", "-m") or not command[1].startswith("-"))
    runs = runs and not (command[1] == "-m" and command[2].startswith("test."))
    return hasattr(os, "fork") and runs and _Forker.get().settings == _settings(env)


def start(
    command: Sequence[str], cwd: Path | str, env: Mapping[str, str], stdout: int | None = None, stderr: int = 2
) -> Process:
    """Start a program in a forked process. Its standard input is empty.

    Parameters
    ----------
    command
        The interpreter; a script, or `-c` and code, or `-m` and a module; and its arguments.
    cwd
        The current folder of the program.
    env
        The environment of the program.
    stdout, stderr
        Descriptors for its standard output and error. Default: a pipe, which is `stdout` of the Process.
    """
    pipe = None
    with contextlib.ExitStack() as stack:
        if stdout is None:
            reading, stdout = os.pipe()
            stack.callback(os.close, stdout)
            pipe = os.fdopen(reading)
        status, theirs = os.pipe()
        stack.callback(os.close, theirs)
        empty = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, empty)
        ignored = [int(each) for each in signal.valid_signals() if signal.getsignal(each) is signal.SIG_IGN]
        request = {"command": list(command[1:]), "cwd": str(cwd), "env": dict(env), "ignored": ignored}
        _Forker.get().send(request, [empty, stdout, stderr, theirs])
    return Process(command, status, pipe)


def main(descriptor: int) -> None:
    """Fork for each request, until there are no more. This returns in each forked process, after its program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _PRELOADED:
        importlib.import_module(name)
    assert "twisted.internet.reactor" not in sys.modules
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=descriptor) as requests:
        while True:
            message, descriptors, _, _ = socket.recv_fds(requests, 2**16, 4)
            if not message:
                return
            while not message.endswith(b"\n"):
                message += requests.recv(2**16)
            if os.fork() == 0:
                break
            for each in descriptors:
                os.close(each)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    began = os.fork()
    if began:
        _wait(began, descriptors[3])
    request = json.loads(message)
    for number, each in enumerate(descriptors[:3]):
        os.dup2(each, number)
    for each in descriptors:
        os.close(each)
    _open_streams()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in request["ignored"]:
        signal.signal(each, signal.SIG_IGN)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    _run(*request["command"])


def _wait(process: int, status: int) -> NoReturn:
    """Write the number of a process, and how it ended; then end."""
    # Nobody else may hold the ends of its pipes.
    for each in range(3):
        os.close(each)
    os.write(status, b"%d\n" % process)
    _, code, usage = os.wait4(process, 0)
    ended = {"status": os.waitstatus_to_exitcode(code), "seconds": usage.ru_utime + usage.ru_stime}
    os.write(status, json.dumps(ended).encode() + b"\n")
    os._exit(0)


def _open_streams() -> None:
    """Open the standard streams as the interpreter does, for the files that the descriptors are now."""
    for name, mode in (("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb")):
        old = getattr(sys, name)
        buffering = -1 if isinstance(old.buffer, io.BufferedIOBase) else 0
        new = io.TextIOWrapper(
            cast(BinaryIO, open(old.fileno(), mode, buffering)),  # noqa: SIM115  # open until the end
            encoding=old.encoding,
            errors=old.errors,
            line_buffering=old.line_buffering,
            write_through=old.write_through,
        )
        setattr(sys, name, new)


def _run(what: str, *arguments: str) -> None:
    """Run a program as the interpreter does."""
    if what == "-m":
        name, *arguments_of_module = arguments
        sys.path[0] = os.getcwd()
        sys.argv = ["-m", *arguments_of_module]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return
    module = types.ModuleType("__main__")
    if what == "-c":
        code, *rest = arguments
        sys.path[0] = ""
        sys.argv = ["-c", *rest]
        compiled = compile(code, "<string>", "exec")
    else:
        sys.path[0] = str(Path(what).resolve().parent)
        sys.argv = [what, *arguments]
        module.__file__ = os.path.abspath(what)
        compiled = compile(Path(what).read_bytes(), module.__file__, "exec")
    sys.modules["__main__"] = module
    exec(compiled, vars(module))


if __name__ == "__main__":
    main(int(sys.argv[1]))
