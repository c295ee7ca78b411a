"""Sweeps that receive signals, in one process or all, or whose folder is moved while they run."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from lab import LIMIT, Lab, Reference, Tally


def _send(number: signal.Signals, *, whom: str, times: int = 1) -> Callable[[Lab, int], None]:
    """Return a function that sends a signal to the `parent`, to a `worker`, or to the whole `group` of a sweep."""

    def strike(_: Lab, pid: int) -> None:
        for _ in range(times):
            if whom == "group":
                os.killpg(pid, number)
            else:
                os.kill(pid if whom == "parent" else _worker(pid), number)
            time.sleep(0.1)

    return strike


def _move(lab: Lab, _: int) -> None:
    (lab.root / "sweep").rename(lab.root / "moved")


STRIKES: dict[str, tuple[Callable[[Lab, int], None], set[int]]] = {
    "SIGKILL to the parent": (_send(signal.SIGKILL, whom="parent"), {-9}),
    "SIGKILL to a worker": (_send(signal.SIGKILL, whom="worker"), {0}),
    "SIGTERM to a worker": (_send(signal.SIGTERM, whom="worker"), {0}),
    "SIGINT to a worker": (_send(signal.SIGINT, whom="worker"), {0}),
    "SIGSTOP to a worker": (_send(signal.SIGSTOP, whom="worker"), {0}),
    "SIGTERM to the parent": (_send(signal.SIGTERM, whom="parent"), {143, -15}),
    "SIGTERM to all": (_send(signal.SIGTERM, whom="group"), {143, -15}),
    "SIGHUP to all": (_send(signal.SIGHUP, whom="group"), {129, -1}),
    "Ctrl-C": (_send(signal.SIGINT, whom="group"), {130}),
    "Ctrl-C twice": (_send(signal.SIGINT, whom="group", times=2), {130}),
    "Ctrl-C three times": (_send(signal.SIGINT, whom="group", times=3), {130}),
    "its folder moved": (_move, {1}),
}
"""Faults by name: a function, and the exit statuses allowed after it, beside 0 if the sweep was already finished."""

MOMENTS = ("owner.json", "sweep.json", "0/config.yaml", "1/metrics.jsonl", "2/result.json", "3/plan.json")
"""Files of a sweep; the fault happens after one of them appears."""


def signals(root: Path, numbers: Iterable[int], reference: Reference) -> Tally:
    """Apply each fault in turn to sweeps with workers, at random times; then run the same command again."""
    tally = Tally("signals to one process or all of them; folders moved while a sweep runs")
    for number in numbers:
        draw, (what, (strike, statuses)) = random.Random(f"signal {number}"), [*STRIKES.items()][number % len(STRIKES)]
        (place := root / f"signal-{number}").mkdir()
        shutil.copy(reference.database, place / "mlflow.db")
        lab = Lab(place)
        workers = f"hydra.launcher.workers={1 + number % 2}"
        pid = lab.start(lab.arguments("sweep", workers, "hydra.launcher.job_timeout=5"))
        at = _arrive(lab, pid, draw)
        with contextlib.suppress(OSError, psutil.Error, IndexError):  # already finished
            strike(lab, pid)
        problem = _end(lab, pid, statuses) or _again(lab, reference)
        tally.add(problem and f"{number}, {what}, {at}: {problem}")
        if problem is None:
            shutil.rmtree(place)
    return tally


def _arrive(lab: Lab, pid: int, draw: random.Random) -> str:
    """Wait for a random one of `MOMENTS`, and return which."""
    moment = draw.choice(MOMENTS)
    deadline = time.monotonic() + LIMIT
    while not (lab.root / "sweep" / moment).exists() and time.monotonic() < deadline:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return "at its end"
        time.sleep(0.005)
    time.sleep(draw.choice((0, 0, 0.1, 0.5)))
    return f"after {moment}"


def _worker(pid: int) -> int:
    children = psutil.Process(pid).children(recursive=True)
    return next(child.pid for child in children if "frostline.sweeps.worker" in " ".join(child.cmdline()))


def _end(lab: Lab, pid: int, statuses: set[int]) -> str | None:
    """Return what is wrong with the sweep's end: its exit status, its output, or processes that still run."""
    status = lab.wait(pid, LIMIT)
    if status not in statuses | {0}:
        return f"exit status {status}"
    if "Traceback" in lab.log():
        return "a traceback"
    deadline = time.monotonic() + 10
    while (left := _left_behind(pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return f"processes {left} were left behind" if left else None


def _left_behind(pid: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def _again(lab: Lab, reference: Reference) -> str | None:
    status = lab.run("again", "hydra/launcher=basic")
    return lab.problem("again", reference.expected) if status == 0 else f"again: exit status {status}"
