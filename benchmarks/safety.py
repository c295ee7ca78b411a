"""Cost of robustness in a sweep without faults: checkpoints, workers, records."""

from __future__ import annotations

import functools
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import limit
import ours
from bench import Bench, median_seconds, shown
from frostline.records import journal, provenance
from frostline.store import hashing
from frostline.training.checkpoint_timing import CheckpointWriter
from images import CIFAR, PHOTO
from table import Row

_MOVING = 4  # tensors per parameter of a full run with Adam: itself, two moments, and the best so far
_STEPS = 4


def checkpoints(bench: Bench) -> Iterator[Row]:
    """Measure the delay of training by a checkpoint that is written in the background."""
    scale, side = bench.scale, bench.side
    network, batch = (scale.full, scale.full_batch)
    state = limit.network(network, side, bench.device).state_dict()
    tensors = {f"{part}/{name}": tensor.clone() for part in range(_MOVING) for name, tensor in state.items()}
    hundreds = sum(tensor.nbytes for tensor in tensors.values()) / 100e6
    step = limit.training_step(network, batch, side, bench.device, bench.precision)
    (folder := bench.folder()).mkdir()
    plain, copied, saved = [], [], []
    steps = max(_STEPS, round(2 / median_seconds(bench, step)))
    for _ in range(scale.rounds):
        plain.append(_timed(lambda: [step() for _ in range(steps)], bench))
        with CheckpointWriter(folder, size=0, every=None, say=print) as keeper:

            def save_and_go_on(keeper: CheckpointWriter = keeper) -> None:
                copied.append(_timed(lambda: keeper.save(tensors, {}), bench))
                for _ in range(steps):
                    step()
                keeper.wait()

            saved.append(_timed(save_and_go_on, bench))
    raw = median(_timed(lambda: _write(folder / "raw", round(100e6 * hundreds)), bench) for _ in range(scale.rounds))
    late = median(saved) - median(plain)
    yield bench.row(
        *("a checkpoint, per 100 MB", f"{network}, Adam, {hundreds * 100:,.0f} MB", late / hundreds),
        ours=shown(late),
        theirs=shown(raw),
        unit=" s",
        note=f"what {steps} steps of training take longer when a checkpoint is written, read back and hashed beside "
        f"them. Training waits {shown(median(copied))} of it for the copy; the rest is what a CPU that trains on all "
        "cores lacks meanwhile. Theirs: to write and fsync as many bytes, while nothing else goes on. "
        f"Median of {scale.rounds} rounds",
    )


def _timed(work: Callable[[], object], bench: Bench) -> float:
    limit.wait(bench.device)
    began = time.perf_counter()
    work()
    limit.wait(bench.device)
    return time.perf_counter() - began


def _write(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.write(os.urandom(1 << 20) * (size >> 20))
        file.flush()
        os.fsync(file.fileno())


def launcher(bench: Bench) -> Iterator[Row]:
    """Measure a warm head sweep as a command with one worker of ours, against Hydra's own launcher."""
    if not bench.mlflow or importlib.util.find_spec("hydra") is None:
        return
    scale = bench.scale
    base = bench.chosen(scale.part, bench.data(CIFAR, scale.few))
    ours.command(bench.heads(base)[:1], bench.folder())
    seconds: dict[str, list[float]] = {"frostline": [], "basic": []}
    for name in [*seconds] * scale.rounds:
        runs = bench.heads({**base, "hydra/launcher": name})
        seconds[name].append(ours.command(runs, bench.folder())[0])
    mine, theirs = (median(each) for each in seconds.values())
    yield bench.row(
        *("one worker against hydra/launcher=basic", f"{scale.part}, {scale.runs} warm head runs", mine / theirs),
        ours=shown(mine),
        theirs=shown(theirs),
        unit="x",
        note=f"the whole command, {scale.epochs} epochs of {scale.few[0]:,} images; median of {scale.rounds} rounds",
    )


def share(bench: Bench) -> Iterator[Row]:
    """Measure the share of an undisturbed sweep's time that goes into checkpoints, records and provenance."""
    scale = bench.scale
    base = bench.chosen(scale.part, bench.data(PHOTO, scale.few), epochs=scale.part_epochs)
    runs = [{**base, "freeze_mode": mode, "lr": 1e-3} for mode in ("head", "full")]
    watch = Stopwatch()
    with watch.over(
        *((journal, "append_epoch"), (journal, "append"), (journal, "rewrite_epochs"), (provenance, "write")),
        *((CheckpointWriter, "save"), (CheckpointWriter, "__exit__"), (hashing, "of_tensors")),
    ):
        whole = bench.sweep(runs).seconds
    yield bench.row(
        *("journals, checkpoints and hashes", f"{scale.part}, {scale.few[0]:,} images", watch.seconds / whole),
        ours=shown(watch.seconds),
        theirs=shown(whole),
        unit="",
        note=f"share of a cold sweep of a head run and a full run of {scale.part_epochs} epochs: the time in the calls "
        "that write them",
    )


class Stopwatch:
    """Adds up the time spent in functions; nested calls count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    def over(self, *places: tuple[Any, str]) -> AbstractContextManager[object]:
        """Time the functions of these owners and names within the block."""
        with ExitStack() as stack:
            for owner, name in places:
                stack.enter_context(patch.object(owner, name, self._timed(getattr(owner, name))))
            return stack.pop_all()

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return function(*arguments, **options)
            self._inside, began = True, time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self._inside = False
                self.seconds += time.perf_counter() - began

        return call
