"""A worker process, which runs one task after the other for the process that started it.

It communicates through one pipe, exits at once when the other end closes, and sends signs of life as long as its main
thread makes progress. It imports no heavy library before a task needs it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, NoReturn

from frostline.core import background, garbage, interrupts, notices, streams
from frostline.core.errors import UserError

PULSE = 1.0
"""Seconds between two looks at whether the main thread has moved."""
STOP = signal.SIGUSR1
"""The signal that stops a worker's task. Not SIGINT, which the terminal sends to workers, too, on Ctrl-C."""


@dataclass(frozen=True)
class Answer:
    """The outcome of a task."""

    value: Any = None
    error: BaseException | None = None
    last: bool = False
    """Whether the worker exits now, because its GPU is unusable or it was told to stop."""


class _Pipe:
    """Owner of the pipe to the process that started this one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.tasks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.idle = False

    def send(self, message: Answer | None) -> None:
        """Send an answer, or None for a sign of life."""
        with self._lock:
            self._connection.send_bytes(_pickled(message))

    def listen(self) -> None:
        """Queue messages; exit the process when the other end closes, whatever the main thread is doing."""
        try:
            while True:
                message = self._connection.recv_bytes()
                self.tasks.put(message or None)
        except (EOFError, OSError):
            os._exit(1)

    def pulse(self) -> None:
        """Send a sign of life whenever the main thread has moved since the last look, or is idle."""
        main, before = threading.main_thread().ident, None
        while True:
            time.sleep(PULSE)
            if (here := _position(sys._current_frames().get(main or 0))) != before or self.idle:
                before = here
                with contextlib.suppress(OSError):
                    self.send(None)


def _position(frame: FrameType | None) -> tuple[tuple[str, int], ...]:
    """Return the position of a thread: file and line of every call on its stack; empty for a thread that is gone."""
    calls = traceback.walk_stack(frame) if frame is not None else ()
    return tuple((call.f_code.co_filename, line) for call, line in calls)


def main(preload: str) -> None:
    """Import the module `preload`, if any, then run tasks from the pipe whose file descriptor is the first argument."""
    streams.prepare()
    descriptor = int(sys.argv.pop(1))
    os.set_inheritable(descriptor, False)
    line = _Pipe(Connection(descriptor))
    signal.signal(signal.SIGINT, lambda *_: None)  # the parent process gets it, too, and decides
    interrupts.install(STOP, once=True)
    for target in (line.listen, line.pulse):
        background.start(target, name=target.__name__, died=_give_up)
    with contextlib.suppress(KeyboardInterrupt):
        if preload:
            _load(preload)
        line.idle = True
        while (message := line.tasks.get()) is not None:
            line.idle = False
            line.send(answer := _answer_to(message))
            if answer.last:
                break
            line.idle = True
    _leave()


def _load(module: str) -> None:
    """Import a module, or say why not: a task that needs it fails, too, but torch can only be imported once."""
    try:
        garbage.spared(partial(importlib.import_module, module))
    except Exception as error:
        notices.tell(f"A worker cannot import {module} ({type(error).__name__}: {error})")


def _give_up(error: Exception) -> NoReturn:
    """Exit the process after a fault in one of its threads, which it needs to stop and to show that it is alive."""
    notices.tell(f"A worker exits because of an internal error ({type(error).__name__}: {error})")
    os._exit(1)


def _leave() -> NoReturn:
    """Exit the process without unloading torch, which would take a second."""
    logging.shutdown()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def _answer_to(message: bytes) -> Answer:
    try:
        function, *arguments = pickle.loads(message)
        value = function(*arguments)
        return Answer(value, last=_gpu_is_lost())
    except KeyboardInterrupt as interrupt:
        return Answer(error=interrupt, last=True)
    except SystemExit as error:
        return Answer(error=RuntimeError(f"sys.exit({error.code!r})"))
    except Exception as error:
        if not isinstance(error, UserError):  # a pickled exception has notes, but no traceback
            error.add_note("".join(["In the worker: ", *traceback.format_exception(error)]))
        return Answer(error=error, last=_gpu_is_lost())


def _gpu_is_lost() -> bool:
    """Return whether this process's CUDA context is broken: after an illegal access every later call fails too."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _pickled(message: Answer | None) -> bytes:
    """Return the pickled message; a value that cannot be pickled is replaced by an error with its text."""
    import cloudpickle

    try:
        return cloudpickle.dumps(message)
    except Exception as error:
        assert message is not None
        text = f"{error} ({message.error or message.value!r:.200})"
        return pickle.dumps(Answer(error=RuntimeError(text), last=message.last))
