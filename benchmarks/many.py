"""Cost of a hundred runs of a head, and of each further run: the command itself, at two sizes in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

import ours
from bench import Bench, shown
from table import Row

_LRS = ("1e-4", "2e-4", "5e-4", "1e-3", "2e-3", "5e-3", "1e-2", "2e-2", "5e-2", "1e-1")
_SEEDS = (10, 30)
_LOOK = 0.2  # seconds between two looks at the memory


@dataclass(frozen=True)
class Typed:
    """The cost of a command."""

    seconds: float
    processor: float
    """Processor seconds of all its processes."""
    memory: int
    """Peak resident memory of the command's own process, in bytes."""
    disk: int
    """Bytes of the sweep's folder and of MLflow's store, a file with two names counted once."""


def many(bench: Bench) -> Iterator[Row]:
    """Measure a grid of ten learning rates and many seeds, at two sizes, and the larger one typed again."""
    quick = bench.scale.rounds == 1
    lrs, seeds = (_LRS[:2], (1, 2)) if quick else (_LRS, _SEEDS)
    few, more = (len(lrs) * count for count in seeds)
    folder = bench.folder()
    folder.mkdir(parents=True)
    # Features and MLflow's store are there in any project but a new one.
    _typed(bench, folder, "first", lrs[:1], 1, "resume=false")
    short = _typed(bench, folder, "few", lrs, seeds[0], "resume=false")
    long = _typed(bench, folder, "more", lrs, seeds[1], "resume=false")
    again = _typed(bench, folder, "more", lrs, seeds[1])
    learned = _typed(bench, folder, "learned", lrs, seeds[0], "resume=false", "save_weights=learned")
    setting = f"freeze=head, {few} runs, {bench.device.type}"
    further = f"freeze=head, from {few} to {more} runs, {bench.device.type}"
    load = f"load average {os.getloadavg()[0]:.1f}"
    note = f"`python train.py -m ...`, one worker; {short.processor:.0f} s of processor time; {load}"
    yield bench.row("many runs of a head", setting, short.seconds, ours=shown(short.seconds), unit=" s", note=note)
    each = (long.seconds - short.seconds) / (more - few)
    note = f"{(long.processor - short.processor) / (more - few):.3f} s of processor time, of two processes; {load}"
    yield bench.row("each further run of a head", further, each, ours=shown(long.seconds), unit=" s", note=note)
    kilobytes = (long.disk - short.disk) / (more - few) / 1e3
    note = "in the sweep's folder, MLflow's database and its artifacts; its weights once"
    yield bench.row("disk of each further run", further, kilobytes, unit=" kB", note=note)
    kilobytes = learned.disk / few / 1e3
    note = f"of {few}, with the frozen weights, which lie there once"
    yield bench.row("disk of each run, save_weights=learned", setting, kilobytes, unit=" kB", note=note)
    grown = (long.memory - short.memory) / (more - few) / 1e3
    note = f"of the process typed at: {short.memory / 1e6:,.0f} MB and {long.memory / 1e6:,.0f} MB"
    yield bench.row("memory of each further run", further, grown, unit=" kB", note=note)
    note = f"{again.processor:.1f} s of processor time; all are finished; {again.memory / 1e6:,.0f} MB"
    yield bench.row("the same command again", f"freeze=head, {more} runs", again.seconds, unit=" s", note=note)


def _typed(bench: Bench, folder: Path, name: str, lrs: tuple[str, ...], seeds: int, *more: str) -> Typed:
    """Run a sweep in `folder` as a command, and return its cost."""
    words = ["freeze=head", f"lr={','.join(lrs)}", f"seed=range({seeds})", "data.limit=200", "epochs=1"]
    words += [f"device={bench.device.type}", f"store.path={folder / 'store'}", f"hydra.sweep.dir={folder / name}"]
    words += [f"tracking.uri={ours.mlflow_uri(folder)}", *more]
    source = os.pathsep.join([str(ours.ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    before, lay, began = _processor(), _size(folder), time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "train.py", "-m", "-q", *words],
        cwd=ours.ROOT,
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        seen: list[int] = []
        looking = threading.Thread(target=_watch, args=(process.pid, seen))
        looking.start()
        said, _ = process.communicate()
    looking.join()
    if process.returncode != 0:
        raise RuntimeError(f"train.py failed: {said[-2000:]}")
    seconds = time.perf_counter() - began
    return Typed(seconds, _processor() - before, max(seen), _size(folder) - lay)


def _processor() -> float:
    """Return the processor seconds of this process's children, and of theirs, that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _watch(pid: int, seen: list[int]) -> None:
    """Sample the resident memory of a process until it exits."""
    with suppress(psutil.Error):
        while True:
            seen.append(psutil.Process(pid).memory_info().rss)
            time.sleep(_LOOK)


def _size(folder: Path) -> int:
    """Return the disk usage of a folder in bytes."""
    status = {(s.st_dev, s.st_ino): s.st_blocks * 512 for path in folder.rglob("*") if (s := path.lstat())}
    return sum(status.values())
