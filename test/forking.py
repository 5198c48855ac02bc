"""Programs in processes that are forked from one that has imported the package already.

An interpreter that imports Twisted, numpy and the package takes half a second of processor time. The tests start more
than a hundred programs, which was a third of their processor time. A forked process takes a few hundredths of a second.

start() sends its command to the process `python -m test.forking`, which forks. In the forked process the interpreter
is as it is before it runs a program: nothing has run in it but imports. serving.py says which tests use it; each
program also has tests that start a new interpreter.

run() and popen() are for code that would call subprocess.run() and subprocess.Popen(). They start a new interpreter
where start() cannot do the same.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import itertools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn, cast

__all__ = ["Process", "can_start", "cpu_seconds", "environment", "popen", "run", "start"]

ROOT = Path(__file__).resolve().parent.parent
# The options of the interpreter that a forked process can follow. With -P, sys.path has no element for the program;
# with -u, standard output is not buffered.
_OPTIONS = ("-P", "-u")
# Descriptors of this number and above are those that the forked process has received, until it has moved them.
_ABOVE_ALL = 200
_MOST_DESCRIPTORS = 16
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
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[Any] | None = stdout
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
    # Programs are started by several threads.
    _starting = threading.Lock()
    _sending = threading.Lock()

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
        with cls._starting:
            if cls._only is None:
                cls._only = cls()
            return cls._only

    def send(self, request: dict[str, Any], descriptors: Sequence[int]) -> None:
        message = json.dumps(request).encode() + b"\n"
        with self._sending:
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

    The command must be one of this interpreter, without options for it but -P and -u. The variables that the
    interpreter reads must be those of environment().
    """
    if not hasattr(os, "fork") or command[0] != sys.executable:
        return False
    _, what = _split(command[1:])
    runs = what[0] in ("-c", "-m") or not what[0].startswith("-")
    return runs and _Forker.get().settings == _settings(env)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options for the interpreter that a forked process can follow, and the rest of a command line."""
    options = list(itertools.takewhile(_OPTIONS.__contains__, arguments))
    return options, list(arguments[len(options) :])


def start(
    command: Sequence[str],
    cwd: Path | str,
    env: Mapping[str, str],
    stdout: int | None = None,
    stderr: int = 2,
    pass_fds: Sequence[int] = (),
    start_new_session: bool = False,
    stdin: int = subprocess.DEVNULL,
) -> Process:
    """Start a program in a forked process.

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
    pass_fds
        Descriptors that the program has too, with the same numbers.
    start_new_session
        Whether it leads a session of its own.
    stdin
        Descriptor for its standard input. Default: it is empty.
    """
    options, what = _split(command[1:])
    pipe = None
    with contextlib.ExitStack() as stack:
        if stdout is None:
            reading, stdout = os.pipe()
            stack.callback(os.close, stdout)
            pipe = os.fdopen(reading)
        status, theirs = os.pipe()
        stack.callback(os.close, theirs)
        if stdin == subprocess.DEVNULL:
            stdin = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, stdin)
        ignored = [int(each) for each in signal.valid_signals() if signal.getsignal(each) is signal.SIG_IGN]
        request = {
            "command": what,
            "options": options,
            "cwd": os.path.abspath(cwd),
            "env": dict(env),
            "ignored": ignored,
            "numbers": [0, 1, 2, *pass_fds],
            "session": start_new_session,
        }
        _Forker.get().send(request, [theirs, stdin, stdout, stderr, *pass_fds])
    return Process(command, status, pipe)


def popen(
    command: Sequence[str],
    *,
    cwd: Path | str = ".",
    env: Mapping[str, str],
    stdin: int,
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int,
    bufsize: int = 0,
    pass_fds: Sequence[int] = (),
    start_new_session: bool = False,
) -> Process | subprocess.Popen[bytes]:
    """Start a program as subprocess.Popen() does with these arguments.

    `stdin` is subprocess.DEVNULL or subprocess.PIPE, and `stdout` may be subprocess.PIPE. The pipes are unbuffered.
    """
    assert stdin in (subprocess.DEVNULL, subprocess.PIPE) and bufsize == 0, (stdin, bufsize)
    if not can_start(command, env):
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            bufsize=bufsize,
            pass_fds=pass_fds,
            start_new_session=start_new_session,
        )
    descriptors = [each if isinstance(each, int) else each.fileno() for each in (stdin, stdout, stderr)]
    pipes: dict[str, IO[bytes]] = {}
    with contextlib.ExitStack() as stack:
        for number, name, mode in ((0, "stdin", "wb"), (1, "stdout", "rb")):
            if descriptors[number] == subprocess.PIPE:
                reading, writing = os.pipe()
                ours, descriptors[number] = (writing, reading) if number == 0 else (reading, writing)
                stack.callback(os.close, descriptors[number])
                pipes[name] = open(ours, mode, 0)  # noqa: SIM115  # the caller closes it
        stdin, stdout, stderr = descriptors
        process = start(command, cwd, env, stdout, stderr, pass_fds, start_new_session, stdin)
    process.stdin = pipes.get("stdin")
    process.stdout = pipes.get("stdout")
    return process


def run(
    command: Sequence[str],
    *,
    cwd: Path | str = ".",
    env: Mapping[str, str],
    timeout: float,
    together: bool = False,
    stdout: IO[bytes] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with an empty standard input. It is killed after `timeout` s.

    The result has its standard output and standard error, or both in `stdout` if `together`. The parameter `stdout`
    is a file to which its standard output goes instead.
    """
    with contextlib.ExitStack() as stack:
        # Files, not pipes: nobody reads them while the program runs.
        out, err = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
        process = popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=cast(IO[bytes], out) if stdout is None else stdout,
            stderr=cast(IO[bytes], out if together else err),
        )
        try:
            status = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(command, status, out.read(), err.read())


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
            message, descriptors, _, _ = socket.recv_fds(requests, 2**16, _MOST_DESCRIPTORS)
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
    status, *received = descriptors
    began = os.fork()
    if began:
        for each in received:
            os.close(each)
        _wait(began, status)
    os.close(status)
    request = json.loads(message)
    _move(received, request["numbers"])
    _open_streams(unbuffered="-u" in request["options"])
    _set_signals(request["ignored"])
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # A program that imports this package runs its __init__, which reads the environment.
    for name in [name for name in sys.modules if name == "test" or name.startswith("test.")]:
        del sys.modules[name]
    _run(*request["command"], safe_path="-P" in request["options"])


def _set_signals(ignored: Sequence[int]) -> None:
    """Have the handlers of a new interpreter. The forking process may have those of the package `test`."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in ignored:
        signal.signal(each, signal.SIG_IGN)


def _move(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Give each of the descriptors its number. One of them may have the number of another."""
    above = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, _ABOVE_ALL) for each in descriptors]
    for each in descriptors:
        os.close(each)
    for each, number in zip(above, numbers, strict=True):
        os.dup2(each, number)
        os.close(each)


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


def _open_streams(unbuffered: bool) -> None:
    """Open the standard streams as the interpreter does, for the files that the descriptors are now."""
    for name, mode in (("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb")):
        old = getattr(sys, name)
        # PYTHONUNBUFFERED does the same as -u.
        write_through = old.write_through or unbuffered
        buffering = 0 if mode == "wb" and write_through else -1
        new = io.TextIOWrapper(
            cast(BinaryIO, open(old.fileno(), mode, buffering)),  # noqa: SIM115  # open until the end
            encoding=old.encoding,
            errors=old.errors,
            line_buffering=old.line_buffering and not write_through,
            write_through=write_through,
        )
        setattr(sys, name, new)


def _run(what: str, *arguments: str, safe_path: bool) -> None:
    """Run a program as the interpreter does."""
    if what == "-m":
        name, *arguments_of_module = arguments
        _set_path(os.getcwd(), safe_path)
        sys.argv = ["-m", *arguments_of_module]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return
    module = types.ModuleType("__main__")
    if what == "-c":
        code, *rest = arguments
        _set_path("", safe_path)
        sys.argv = ["-c", *rest]
        compiled = compile(code, "<string>", "exec")
    else:
        _set_path(str(Path(what).resolve().parent), safe_path)
        sys.argv = [what, *arguments]
        module.__file__ = os.path.abspath(what)
        compiled = compile(Path(what).read_bytes(), module.__file__, "exec")
    sys.modules["__main__"] = module
    exec(compiled, vars(module))


def _set_path(first: str, safe: bool) -> None:
    """Have sys.path begin with the folder of the program, unless `safe`."""
    sys.path[:1] = [] if safe else [first]


if __name__ == "__main__":
    main(int(sys.argv[1]))
