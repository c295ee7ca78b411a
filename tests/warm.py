"""Run commands in processes forked from one that has already imported everything.

Starting Python and importing torch and MLflow takes ten times as long as what most tests check. A forked process has
its own environment, folder, standard streams and process id, as have the workers of a sweep that it starts; it runs
the command line from its first line to the end of the interpreter. Without pidfd (Linux has it), processes are started
as usual.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib
import json
import os
import resource
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NoReturn

from filelock import FileLock

import preload

SERVER = "FROSTLINE_TESTS_WARM"
"""Name of the environment variable with the address of the process that forks."""
_FREE = 100  # the first descriptor that no command gets


class Popen:
    """A process that runs a command line of Python, with the interface of `subprocess.Popen`."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        pass_fds: Sequence[int] = (),
        text: bool = False,
        errors: str | None = None,
    ) -> None:
        """Start the process; streams that are not given are inherited."""
        self.args = arguments
        self.returncode: int | None = None
        self._lock = threading.Lock()
        closing: list[int] = []
        self.stdin = None
        streams, reader = _streams(stdin, stdout, stderr, closing)
        self.stdout: IO[Any] | None = (
            None if reader is None else os.fdopen(reader, "r" if text or errors else "rb", errors=errors)
        )
        request = {
            "arguments": [*map(str, arguments[1:])],
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd or Path.cwd()),
            "numbers": [0, 1, 2, *pass_fds],
            "group": os.getpgrp(),
            "largest": resource.getrlimit(resource.RLIMIT_FSIZE),
        }
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(_address())
        message = json.dumps(request).encode()
        socket.send_fds(self._line, [len(message).to_bytes(8, "big")], [*streams, *pass_fds])
        self._line.sendall(message)
        self.pid = int.from_bytes(_read(self._line, 8), "big")
        for descriptor in closing:
            os.close(descriptor)

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status; raises `TimeoutExpired`."""
        with self._lock:
            if self.returncode is None:
                with selectors.DefaultSelector() as selector:
                    selector.register(self._line, selectors.EVENT_READ)
                    if not selector.select(timeout):
                        raise subprocess.TimeoutExpired(self.args, timeout or 0)
                self.returncode = int.from_bytes(_read(self._line, 8), "big", signed=True)
                self._line.close()
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Popen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.stdout is not None:
            self.stdout.close()
        self.wait()


def run(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: str = "",
    stdout: int | None = None,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """Return the result of a command line of Python, with its output unless `stdout` is given; killed at `timeout`."""
    if not _address():
        pipes: dict[str, Any] = {"input": stdin, "stdout": stdout or subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.run(arguments, env=env, cwd=cwd, timeout=timeout, text=True, check=False, **pipes)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        said.write(stdin.encode())
        said.seek(0)
        process = Popen(arguments, env=env, cwd=cwd, stdin=said, stdout=stdout or out, stderr=err)
        try:
            process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        out.seek(0), err.seek(0)
        return subprocess.CompletedProcess(arguments, process.wait(), out.read().decode(), err.read().decode())


def _address() -> str | None:
    """Return the address of the process that forks, started by the first call of a test run.

    None outside test runs and without pidfd.
    """
    if SERVER in os.environ or "FROSTLINE_TESTS" not in os.environ or not hasattr(os, "pidfd_open"):
        return os.environ.get(SERVER)
    shared = Path(os.environ["FROSTLINE_TESTS"])
    with FileLock(shared / "warm.lock"):
        if not (written := shared / "warm.address").exists():
            address = f"{tempfile.mkdtemp(prefix='warm')}/socket"
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
            command = [sys.executable, "-P", __file__, address, os.environ["FROSTLINE_TESTS_PROCESS"]]
            ready, theirs = os.pipe()
            own_group = {"file_actions": [(os.POSIX_SPAWN_DUP2, theirs, 1)], "setpgroup": 0}  # the caller may be killed
            os.posix_spawn(sys.executable, command, environment, **own_group)
            os.close(theirs)
            assert os.read(ready, 5) == b"ready", "the process that forks did not start"
            os.close(ready)
            written.write_text(address)
        os.environ[SERVER] = written.read_text()
    return os.environ[SERVER]


def _streams(stdin: Any, stdout: Any, stderr: Any, closing: list[int]) -> tuple[list[int], int | None]:
    """Return the descriptors of a process's streams, and the one to read its output; extend `closing`."""
    given, reader = [], None
    for number, stream in enumerate((stdin, stdout, stderr)):
        if stream is None:
            given.append(number)
        elif stream == subprocess.DEVNULL:
            given.append(os.open(os.devnull, os.O_RDWR))
            closing.append(given[-1])
        elif stream == subprocess.STDOUT:
            given.append(given[1])
        elif stream == subprocess.PIPE:
            assert number == 1, "only stdout may be a pipe"
            ours, theirs = os.pipe()
            given.append(theirs)
            closing.append(theirs)
            reader = ours
        else:
            given.append(stream if isinstance(stream, int) else stream.fileno())
    return given, reader


def _read(line: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        if not (more := line.recv(count - len(received))):
            raise EOFError("the process that forks has ended")
        received += more
    return received


def _serve() -> dict[str, Any]:
    """Fork for each request until the test run ends; return the request in the forked process."""
    address, runs = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        over = os.pidfd_open(int(runs))
        selector.register(over, selectors.EVENT_READ)
        os.write(1, b"ready")
        asking: dict[int, tuple[int, socket.socket]] = {}
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    line, _ = listener.accept()
                    size, descriptors, *_ = socket.recv_fds(line, 8, 64)
                    request: dict[str, Any] = json.loads(_read(line, int.from_bytes(size, "big")))
                    if not (pid := os.fork()):
                        request["descriptors"] = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, _FREE) for one in descriptors]
                        for one in (*descriptors, *asking):
                            os.close(one)
                        for held in (line, *(theirs for _, theirs in asking.values())):
                            held.close()
                        return request
                    for one in descriptors:
                        os.close(one)
                    line.sendall(pid.to_bytes(8, "big"))
                    asking[child := os.pidfd_open(pid)] = (pid, line)
                    selector.register(child, selectors.EVENT_READ)
                elif key.fd == over:
                    shutil.rmtree(Path(address).parent)
                    os._exit(0)
                else:
                    pid, line = asking.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(OSError):  # the caller may have ended
                        line.sendall(status.to_bytes(8, "big", signed=True))
                    line.close()


def _run_command(request: dict[str, Any]) -> None:
    """Run the requested command line in this process, as if it had been started for it."""
    for number, descriptor in zip(request["numbers"], request["descriptors"], strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    renew_threads()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"], **{SERVER: sys.argv[1]})
    resource.setrlimit(resource.RLIMIT_FSIZE, request["largest"])
    with contextlib.suppress(OSError):  # the group's leader may have ended
        os.setpgid(0, request["group"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        whole = name == "stdout" and not os.isatty(descriptor)
        stream = open(descriptor, "w", buffering=-1 if whole else 1, encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    sys.path[:0] = filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))
    sys.modules["frostline.sweeps.pool"].subprocess = forking_subprocess()
    if sys.modules["frostline.core.project"].own_configs([]):  # the plugin searches for them at import
        importlib.reload(sys.modules["hydra_plugins.frostline_sweeper"])
    _skip_mode_lookup()
    arguments = [one for one in request["arguments"] if one != "-P"]
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def _skip_mode_lookup() -> None:
    """Skip the config that Hydra composes only to read `hydra.mode`, if -m gives the mode: saves 0.1 s per command."""
    from hydra._internal.hydra import Hydra
    from hydra.types import RunMode

    looked_up = Hydra.get_mode

    def get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        multirun = "-m" in sys.argv[1:] and not any("hydra.mode" in one for one in overrides)
        return RunMode.MULTIRUN if multirun else looked_up(hydra, config_name, overrides)

    Hydra.get_mode = get_mode


def _exit_process(status: int) -> NoReturn:
    """Exit as the interpreter does, except for unloading modules, which takes half a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def renew_threads() -> None:
    """Let torch create new threads, as it must after a fork, before several of our threads need them at once."""
    import torch

    torch.set_num_threads(torch.get_num_threads())


def forking_subprocess() -> Any:
    """Return a replacement for the module `subprocess` whose processes are forked, for code that starts workers."""
    return SimpleNamespace(**{**vars(subprocess), "Popen": Popen}) if _address() else subprocess


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    preload.load()
    request = _serve()
    try:
        _run_command(request)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _exit_process(end.code or 0)
        raise
    _exit_process(0)
