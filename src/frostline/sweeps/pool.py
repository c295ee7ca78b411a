"""The pool of worker processes of a sweep: a worker that dies or hangs costs one task and is replaced."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

from frostline.core import background, interrupts, notices
from frostline.core.interrupts import Terminated
from frostline.sweeps.worker import STOP, Answer

GRACE = 25.0
"""Seconds that a worker has after SIGTERM to write its checkpoint: 5 less than Kubernetes and Slurm give us."""
_PARTING = 10.0  # seconds that an idle worker has to exit
_TICK = 1.0
_CALL = -1  # key of the task of `call`; others are numbered from 0
_START = "import sys; sys.path[:] = {path!r}; from frostline.sweeps.worker import main; main({preload!r})"

Task = tuple[Any, ...]
"""A function and its arguments."""
Jobs = Mapping[int, int | None]
"""Numbers of jobs, in their order, each with the number of its stack: one worker gets all jobs of a stack."""


class WorkerDied(RuntimeError):
    """The worker process of a task died; the message says why."""


class NotStarted(WorkerDied):
    """A task was not started; the message says why."""


class _Worker:
    """Owner of one process, started at once, with the variables of `place` (its GPUs) in its environment."""

    def __init__(self, name: str, place: Mapping[str, str], preload: str, *, prefixed: bool) -> None:
        self.place = place
        self.silent = 0.0
        self.stack: int | None = None
        self.connection, theirs = Pipe()
        path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START.format(path=path, preload=preload), str(theirs.fileno()), *sys.argv],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **place},
            stdin=subprocess.DEVNULL if prefixed else None,
            stdout=subprocess.PIPE if prefixed else None,
            stderr=subprocess.STDOUT if prefixed else None,
        )
        theirs.close()
        if prefixed:
            background.start(lambda: _relay(name, self.process), name=f"output of {name}", died=_relay_died)
        self.key: int | None = None

    def give(self, key: int, task: Task) -> None:
        """Send a task; a worker that has died already is noticed when its answer is awaited."""
        import cloudpickle

        self.key, self.silent = key, 0.0
        with contextlib.suppress(OSError):
            self.connection.send_bytes(cloudpickle.dumps(task))

    def answer(self) -> Answer | None:
        """Return the worker's next answer, None for a sign of life."""
        self.silent = 0.0
        try:
            message = self.connection.recv_bytes()
        except (EOFError, OSError):
            return Answer(error=WorkerDied(self._how_it_ended()), last=True)
        try:
            said: Answer | None = pickle.loads(message)
        except Exception as error:
            return Answer(error=RuntimeError(f"an answer that cannot be read: {error}"))
        if said is None or not said.last:
            return said
        if isinstance(said.error, KeyboardInterrupt):
            time.sleep(_TICK)  # a signal to the whole process group then reaches this process, too
            return Answer(error=WorkerDied(f"its worker was told to end ({interrupts.name(said.error)})"), last=True)
        return Answer(error=WorkerDied("its GPU can no longer be used; see the log of the run"), last=True)

    def _how_it_ended(self) -> str:
        try:
            status = self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.end()
            return "its worker hung up"
        return f"its worker {interrupts.how_ended(status)}"

    def end(self, grace: float = 0) -> None:
        """Wait until the process ends, and kill it after `grace` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        self.process.kill()
        self.process.wait()
        self.connection.close()


class Pool:
    """Owner of the workers: one for each of the `places`, which are their environment variables."""

    def __init__(self, places: Sequence[Mapping[str, str]], *, limit: float | None, preload: str = "") -> None:
        """Start the workers, which import the module `preload`, if any, before their first task.

        A worker without a sign of life for `limit` seconds is killed.
        """
        self._limit, self._preload, self._prefixed = limit, preload, len(places) > 1
        self._workers = [self._hire(number, place) for number, place in enumerate(places)]

    def _hire(self, number: int, place: Mapping[str, str]) -> _Worker:
        return _Worker(f"worker {number}", place, self._preload, prefixed=self._prefixed)

    def __len__(self) -> int:
        """Return the number of workers."""
        return len(self._workers)

    def call(self, function: Callable[[], object], meanwhile: Callable[[], object]) -> Any:
        """Return the value of a call in the first worker, or raise its error; retry once if its worker dies.

        `meanwhile` is called here after the worker has begun.
        """
        self._workers[0].give(_CALL, (function,))
        meanwhile()
        retried = False
        while True:
            for key, answer in self._answers():
                if key != _CALL:
                    continue
                if answer.error is None:
                    return answer.value
                if not answer.last or retried:
                    raise answer.error
                retried = True
                self._workers[0].give(_CALL, (function,))

    def run(
        self,
        waiting: deque[int],
        task: Callable[[int], Task],
        *,
        stacks: Jobs,
        retries: int,
        say: Callable[[str], object],
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the answer of each task as it ends; a task whose worker dies is retried up to `retries` times.

        Tasks of one stack go to one worker. The caller may add to `waiting`, or remove tasks from it, meanwhile.
        """
        deaths = Counter[int]()
        ahead: dict[int, Task] = {}
        while waiting or any(worker.key is not None for worker in self._workers):
            for worker in self._workers:
                if worker.key is None and (key := self._next_for(worker, waiting, stacks)) is not None:
                    waiting.remove(key)
                    worker.stack = stacks.get(key)
                    worker.give(key, ahead.pop(key) if key in ahead else task(key))
            if waiting and waiting[0] not in ahead:  # prepare the next task while the workers are busy
                ahead = {waiting[0]: task(waiting[0])}
            for done, answer in self._answers():
                if done is None:
                    continue
                if answer.last and deaths[done] < retries:
                    deaths[done] += 1
                    say(f"job {done}: {answer.error}; it is restarted")
                    waiting.appendleft(done)
                else:
                    yield done, answer

    def _next_for(self, worker: _Worker, waiting: Iterable[int], stacks: Jobs) -> int | None:
        """Return the first waiting task of the worker's stack, else of a stack that no other worker has begun."""
        taken = {other.stack for other in self._workers if other is not worker} - {None}
        free = [key for key in waiting if stacks.get(key) not in taken]
        mine = (key for key in free if worker.stack is not None and stacks.get(key) == worker.stack)
        return next(mine, next(iter(free), None))

    def _answers(self) -> Iterator[tuple[int | None, Answer]]:
        """Yield the answers that arrive within a tick, perhaps none, each with the key of its task; None for no task.

        Workers that are silent for too long are killed, and workers that are gone are replaced.
        """
        before = time.monotonic()
        by_connection: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
        ready = wait(list(by_connection), timeout=_TICK)
        # Count at most two ticks: while this process was suspended, its workers were, too.
        passed = min(time.monotonic() - before, 2 * _TICK)
        for number, (connection, worker) in enumerate(by_connection.items()):
            answer = worker.answer() if connection in ready else None
            if connection not in ready and worker.key is not None:
                worker.silent += passed
                if self._limit is not None and worker.silent > self._limit:
                    worker.end()
                    reason = f"no sign of life for {self._limit:g} s, so its worker was killed"
                    answer = Answer(error=WorkerDied(reason), last=True)
            if answer is None:
                continue
            key, worker.key = worker.key, None
            if answer.last:
                worker.end(_PARTING)
                self._workers[number] = self._hire(number, worker.place)
            yield key, answer

    def interrupt(self, interrupt: KeyboardInterrupt) -> None:
        """Let the workers stop their tasks with a checkpoint; kill them on a second interrupt, or after `GRACE`."""
        terminated = isinstance(interrupt, Terminated)
        deadline = time.monotonic() + GRACE if terminated else float("inf")
        try:
            for worker in self._workers:
                worker.process.send_signal(signal.SIGTERM if terminated else STOP)
            while any(worker.process.poll() is None for worker in self._workers) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            for worker in self._workers:
                worker.process.kill()  # kill all before waiting, since an interrupt may end the wait
            for worker in self._workers:
                worker.end()

    def close(self, *, now: bool = False) -> None:
        """End the workers, gracefully or `now`, and wait until they are gone."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.send_bytes(b"")
        for worker in self._workers:
            worker.end(0 if now else _PARTING)
        self._workers = []


def _relay(name: str, process: subprocess.Popen[bytes]) -> None:
    """Print a worker's output with its name in front of every line."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            with contextlib.suppress(OSError, ValueError):  # a closed terminal, or one without these characters
                sys.stdout.write(f"[{name}] {line.decode(errors='replace').rstrip()}\n")
                sys.stdout.flush()


def _relay_died(error: Exception) -> None:
    notices.tell(f"The output of a worker is no longer shown ({type(error).__name__}: {error})")
