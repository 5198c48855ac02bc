"""ServerProcess: a fresh interpreter in which a TestCase's backend is served, and what runs in it.

Fresh, because a reactor runs once in a process and a test runner may have one of its own. A socket pair ties
the two together: the port, or what went wrong, comes back through it, and when this end is gone, however
it went, the other process ends.
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
import traceback
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from discosbackend.children import python_command, python_environment
from discosbackend.log import log_to_stderr, log_what_python_prints
from discosbackend.testing.errors import NotServed

__all__ = ["ServerProcess", "main"]

__unittest = True
__tracebackhide__ = True

INTERFACE = "127.0.0.1"

# Seconds for a server to go down in good order, once it has been told.
_GRACE = 3.0
# The same for the commands that are running in it.
_STOP_TIMEOUT = 1.0
_SHOWN_OUTPUT = 4000

_BOOT = f"import json, sys; sys.path[:] = json.loads(sys.argv[2]); from {__name__} import main; main()"

_in_server = False  # main() sets it


class ServerProcess:
    """A server of the backend that `case_class` makes; `address` is where it listens. Ended by stop().

    The class is found again by its module and name, so it must stand at the top of a module or the program;
    `file` is that module's, if it may be known under a relative path by now. NotServed, with what the process
    said, when it does not listen within `timeout` seconds.
    """

    def __init__(self, case_class: type, *, timeout: float, file: str | None = None) -> None:
        if _in_server:
            raise NotServed("a server's process imports the tests, it must not run them")
        where = _whereabouts(case_class, file or file_of(case_class))
        # A file, not a pipe: nobody reads it while the tests run, and a full pipe would stop the server.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        self._link, theirs = socket.socketpair()
        where["link"] = theirs.fileno()
        path = [os.path.abspath(folder) for folder in sys.path]
        with theirs:
            self._process = subprocess.Popen(  # ended by stop()
                # -u: what the backend prints is there when it is asked for.
                python_command("-u", "-c", _BOOT, json.dumps(where), json.dumps(path)),
                env=python_environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is for the tests; the server is told by them.
                start_new_session=True,
            )
        atexit.register(self.stop)
        try:
            self.address = (INTERFACE, self._read_port(timeout))
        except NotServed:
            self.stop()
            raise

    def _read_port(self, timeout: float) -> int:
        self._link.settimeout(timeout)
        report = b""
        try:
            while not report.endswith(b"\n"):
                chunk = self._link.recv(65536)
                if not chunk:
                    status = self._process.wait()
                    raise NotServed(f"{self.output()}\nits process ended with status {status}")
                report += chunk
        except TimeoutError:
            raise NotServed(f"{self.output()}\nno server after {timeout:g} s") from None
        message = json.loads(report)
        if "problem" in message:
            raise NotServed(f"{self.output()}\n{message['problem']}")
        return int(message["port"])

    @property
    def running(self) -> bool:
        """Whether it is there still."""
        return self._process.poll() is None

    def ends(self, within: float) -> bool:
        """Whether it ends within so many seconds: its connections go a moment before it does."""
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def written(self) -> int:
        """How many bytes the server has written, to standard output or error."""
        return os.fstat(self._output.fileno()).st_size

    def output(self, since: int = 0) -> str:
        """What the server wrote, the end of it; `since` is what `written` was."""
        begin = max(since, self.written - _SHOWN_OUTPUT)
        # The file's position is the server's too, so it must not be moved.
        return os.pread(self._output.fileno(), _SHOWN_OUTPUT, begin).decode(errors="replace")

    def stop(self) -> None:
        """Have the server go down, and wait for it; kill it if it does not."""
        atexit.unregister(self.stop)
        self._link.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


def file_of(case_class: type) -> str | None:
    """The file that a class is written in, None if it is in none."""
    file = getattr(sys.modules.get(case_class.__module__), "__file__", None)
    return file and os.path.abspath(file)


def _whereabouts(case_class: type, file: str | None) -> dict[str, Any]:
    """How another process finds a class again."""
    qualified, module_name = case_class.__qualname__, case_class.__module__
    if "<locals>" in qualified:
        raise NotServed(
            f"{qualified} is defined inside a function, where the process of its server cannot find it: "
            "define it at the top of its module"
        )
    if module_name == "__main__":
        # Known by another name there, so that its `if __name__ == "__main__":` holds.
        spec = getattr(sys.modules[module_name], "__spec__", None)
        module_name = spec.name if spec is not None else Path(file or "main").stem
        if file is None:
            raise NotServed(f"{qualified} stands in no file, where the process of its server could find it")
    return {"module": module_name, "file": file, "class": qualified}


# -- what runs in the server's process ----------------------------------------------------------------


def main() -> None:
    """Serve what the command line says, until the other end of the link is gone."""
    global _in_server  # noqa: PLW0603  # one process, one server
    _in_server = True
    where = json.loads(sys.argv[1])
    # Nothing that is imported now shall take our command line for its own.
    sys.argv[:] = [where["file"] or where["module"]]
    link = socket.socket(fileno=where["link"])
    # A process that the backend starts shall not keep this one's end from being seen.
    link.set_inheritable(False)
    threading.Thread(target=_end_with, args=(link,), daemon=True).start()
    _log_to_stderr()
    try:
        _serve(_case_class(where)("make_factory").make_factory(), link)
    except BaseException:  # noqa: BLE001  # whatever importing and making may raise
        _report(link, problem=traceback.format_exc())
        sys.exit(1)


def _log_to_stderr() -> None:
    """As the program does: a test that fails shows what the server logged."""
    from twisted.logger import STDLibLogObserver, globalLogBeginner

    log_to_stderr(logging.INFO, "%(levelname)s %(name)s: %(message)s")
    log_what_python_prints()
    globalLogBeginner.beginLoggingTo([STDLibLogObserver()], redirectStandardIO=False)


def _report(link: socket.socket, **message: object) -> None:
    # Perhaps nobody is there any more who wants to know.
    with contextlib.suppress(OSError):
        link.sendall(json.dumps(message).encode() + b"\n")


def _case_class(where: dict[str, Any]) -> Any:
    try:
        module = _module(where["module"], where["file"])
    except SystemExit:
        raise NotServed(
            f'importing {where["file"]} ends the program: write `if __name__ == "__main__":` before what runs the tests'
        ) from None
    return reduce(getattr, where["class"].split("."), module)


def _module(name: str, file: str | None) -> ModuleType:
    """The module of that name if it is the one in that file; else what is in that file, under that name."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as problem:
        # Its own name, or that of a package around it: a runner found it by its file.
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
    from twisted.internet import reactor as reactor_module

    from discosbackend.server import DBService, tcp_endpoint

    reactor: Any = reactor_module
    service = DBService(tcp_endpoint(reactor, 0, INTERFACE), factory, stop_timeout=_STOP_TIMEOUT)
    service.startService()
    problems: list[Any] = []
    service.listening.addCallbacks(
        lambda port: reactor.callWhenRunning(_report, link, port=port.getHost().port), problems.append
    )
    if problems:
        problems[0].raiseException()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


def _end_with(link: socket.socket) -> None:
    """Wait for the end of the link, then for the server's, which holds nothing up if it is stuck."""
    # A link that was cut is as much an end as one that was closed.
    with contextlib.suppress(OSError):
        link.recv(1)
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if reactor is not None:
        reactor.callFromThread(reactor.stop)
        threading.Event().wait(_GRACE)
    os._exit(1)
