"""ServerProcess: a new interpreter that serves the backend of a TestCase, and the code that runs in it.

A separate process is necessary, because a reactor can run only once in a process, and the test runner may use one.
The two processes are connected by a socket pair. The server process sends its port, or an error text, through it. It
exits when the other end is closed, for whatever reason.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from discosbackend.children import python_command, python_environment
from discosbackend.line_socket import LineSocket
from discosbackend.log import log_to_stderr, log_what_python_prints
from discosbackend.testing.errors import NotServed

__all__ = ["ServerProcess", "main"]

__unittest = True
__tracebackhide__ = True

INTERFACE = "127.0.0.1"

# How long a server may take to shut down cleanly, in seconds.
_GRACE = 3.0
# How long the server waits for running commands during the shutdown, in seconds.
_STOP_TIMEOUT = 1.0
_SHOWN_OUTPUT = 4000
# The longest report of the server process, in bytes. It may be a traceback.
_LONGEST_REPORT = 2**24

_BOOT = f"import json, sys; sys.path[:] = json.loads(sys.argv[2]); from {__name__} import main; main()"

_in_server = False  # main() sets it


class ServerProcess:
    """A process that serves the backend of a TestCase, until stop() is called. `address` is its host and port.

    Parameters
    ----------
    case_class
        A subclass of BackendConformance. The process imports it by its module and name, so it must be defined at the
        top level of a module or of the program.
    timeout
        How long the process may take until it listens, in s.
    file
        The absolute path of the module. Default: the path that the module has now.

    Raises
    ------
    NotServed
        If the process does not listen in time. The text is the output of the process.
    """

    def __init__(self, case_class: type, *, timeout: float, file: str | None = None) -> None:
        if _in_server:
            raise NotServed("the server process imports the tests, and must not run them")
        where = _whereabouts(case_class, file or file_of(case_class))
        # A file instead of a pipe: nothing reads it while the tests run, and a full pipe would block the server.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        self._link, theirs = socket.socketpair()
        where["link"] = theirs.fileno()
        path = [os.path.abspath(folder) for folder in sys.path]
        with theirs:
            self._process = subprocess.Popen(  # ended by stop()
                # -u: the backend's output is complete when output() reads it.
                python_command("-u", "-c", _BOOT, json.dumps(where), json.dumps(path)),
                env=python_environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[theirs.fileno()],
                # Ctrl-C must stop only the tests, which then stop the server.
                start_new_session=True,
            )
        atexit.register(self.stop)
        try:
            self.address = (INTERFACE, self._read_port(timeout))
        except NotServed:
            self.stop()
            raise

    def _read_port(self, timeout: float) -> int:
        lines = LineSocket(self._link, "the process", EOFError, longest=_LONGEST_REPORT)
        try:
            message = json.loads(lines.read_line(time.monotonic() + timeout))
        except EOFError:
            raise NotServed(f"{self.output()}\nits process ended with status {self._process.wait()}") from None
        except TimeoutError:
            raise NotServed(f"{self.output()}\nno server after {timeout:g} s") from None
        if "problem" in message:
            raise NotServed(f"{self.output()}\n{message['problem']}")
        return int(message["port"])

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def ends(self, within: float) -> bool:
        """Return whether the process ends within this number of seconds.

        Its connections are closed shortly before the process ends.
        """
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def written(self) -> int:
        """How many bytes the server has written to standard output and standard error."""
        return os.fstat(self._output.fileno()).st_size

    def output(self, since: int = 0) -> str:
        """Return the last part of what the server has written since `written` had the value `since`."""
        begin = max(since, self.written - _SHOWN_OUTPUT)
        # pread does not move the position of the file, which the server's writes use as well.
        return os.pread(self._output.fileno(), _SHOWN_OUTPUT, begin).decode(errors="replace")

    def stop(self) -> None:
        """Shut the server down and wait for it. If it takes longer than 3 s, kill it."""
        atexit.unregister(self.stop)
        self._link.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


def file_of(case_class: type) -> str | None:
    """Return the absolute path of the file that defines a class, None if there is no file."""
    file = getattr(sys.modules.get(case_class.__module__), "__file__", None)
    return file and os.path.abspath(file)


def _whereabouts(case_class: type, file: str | None) -> dict[str, Any]:
    """Return the module, file and name with which another process can import a class."""
    qualified, module_name = case_class.__qualname__, case_class.__module__
    if "<locals>" in qualified:
        raise NotServed(
            f"{qualified} is defined inside a function, so the server process cannot import it: "
            "define it at the top of its module"
        )
    if module_name == "__main__":
        # The other process imports it under another name, so that its `if __name__ == "__main__":` is false.
        spec = getattr(sys.modules[module_name], "__spec__", None)
        module_name = spec.name if spec is not None else Path(file or "main").stem
        if file is None:
            raise NotServed(f"{qualified} is not defined in a file, so the server process cannot import it")
    return {"module": module_name, "file": file, "class": qualified}


# -- what runs in the server's process ----------------------------------------------------------------


def main() -> None:
    """Serve the backend that the command line names, until the other end of the socket pair is closed."""
    global _in_server  # noqa: PLW0603  # one process, one server
    _in_server = True
    where = json.loads(sys.argv[1])
    # Hide our arguments from the modules that are imported now.
    sys.argv[:] = [where["file"] or where["module"]]
    link = socket.socket(fileno=where["link"])
    # If a process that the backend starts inherited this socket, the tests would not notice the end of this process.
    link.set_inheritable(False)
    threading.Thread(target=_end_with, args=(link,), daemon=True).start()
    _log_to_stderr()
    try:
        _serve(_case_class(where)("make_factory").make_factory(), link)
    except BaseException:  # noqa: BLE001  # the user's code may raise anything
        _report(link, problem=traceback.format_exc())
        sys.exit(1)


def _log_to_stderr() -> None:
    """Log to standard error, as discos-backend-server does. A test that fails shows this log."""
    from twisted.logger import STDLibLogObserver, globalLogBeginner

    log_to_stderr(logging.INFO, "%(levelname)s %(name)s: %(message)s")
    log_what_python_prints()
    globalLogBeginner.beginLoggingTo([STDLibLogObserver()], redirectStandardIO=False)


def _report(link: socket.socket, **message: object) -> None:
    # The tests may have ended already.
    with contextlib.suppress(OSError):
        link.sendall(json.dumps(message).encode() + b"\n")


def _case_class(where: dict[str, Any]) -> Any:
    try:
        module = _module(where["module"], where["file"])
    except SystemExit:
        raise NotServed(
            f'importing {where["file"]} exits: write `if __name__ == "__main__":` before the code that runs the tests'
        ) from None
    return reduce(getattr, where["class"].split("."), module)


def _module(name: str, file: str | None) -> ModuleType:
    """Import a module by its name. If this finds another file or nothing, load the file under this name."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as problem:
        # The name of the module or of a package that contains it: a test runner has loaded it by its path.
        if file is None or not f"{name}.".startswith(f"{problem.name}."):
            raise
    else:
        if file is None or os.path.samefile(getattr(module, "__file__", None) or os.devnull, file):
            return module
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _serve(factory: Any, link: socket.socket) -> None:
    from discosbackend.reactors import install_reactor, reactor_wanted_by

    # Before the import of the reactor, which installs one.
    install_reactor(reactor_wanted_by(getattr(factory.handler, "backend", None)))
    from twisted.internet import reactor as reactor_module

    from discosbackend.server import Server, tcp_endpoint

    reactor: Any = reactor_module
    server = Server(tcp_endpoint(reactor, 0, INTERFACE), factory, stop_timeout=_STOP_TIMEOUT)
    server.start()
    problems: list[Any] = []
    server.listening.addCallbacks(
        lambda port: reactor.callWhenRunning(_report, link, port=port.getHost().port), problems.append
    )
    if problems:
        problems[0].raiseException()
    reactor.addSystemEventTrigger("before", "shutdown", server.stop)
    reactor.run()


def _end_with(link: socket.socket) -> None:
    """Wait until the other end of the socket pair is closed, then shut down. Exit after 3 s in any case."""
    # OSError: the connection was reset.
    with contextlib.suppress(OSError):
        link.recv(1)
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if reactor is not None:
        reactor.callFromThread(reactor.stop)
        threading.Event().wait(_GRACE)
    os._exit(1)
