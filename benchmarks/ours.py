"""Our side of every measurement: the program itself, driven in this process or by its command line."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import frostline
from frostline.core import project
from frostline.core.config import Config
from frostline.core.config_keys import choices, semantic
from frostline.data.decode_image import tensor_of
from frostline.data.open_image import open_image
from frostline.data.resize import CenterCrop, center_crop
from frostline.records import provenance
from frostline.records.recording import Record, recording
from frostline.records.result import Result
from frostline.records.sweep_facts import Tracker
from frostline.report.terminal import Screen
from frostline.runs import frost_line, run_data, setup
from frostline.runs.run import execute
from frostline.runs.run_context import RunContext
from frostline.sweeps.lockstep_groups import shared_by
from frostline.tracking import session
from frostline.tracking.pending_sweeps import RecordPlace

ROOT = project.project_root()
_METRICS = "metrics.json"
Choices = Mapping[str, Any]
"""Overrides by key or group, e.g. `{"model": "resnet18", "lr": 1e-3, "data.root": "..."}`."""


def config(chosen: Choices) -> Config:
    """Return the config of the `chosen` overrides."""
    return frostline.compose(*(f"{key}={said(value)}" for key, value in chosen.items()))


def said(value: Any) -> str:
    """Return a value as text for the command line."""
    return f"'{value}'" if isinstance(value, str | Path) else "null" if value is None else str(value)


@dataclass(frozen=True)
class Run:
    """One run of a sweep."""

    seconds: float
    """Seconds from its config to its record."""
    metrics: dict[str, float]


@dataclass(frozen=True)
class Sweep:
    """The time and the runs of a sweep."""

    seconds: float
    runs: tuple[Run, ...]

    @property
    def backbone_images(self) -> int:
        """Number of images that passed through any part of the backbone."""
        return round(sum(run.metrics["cost/backbone_images"] for run in self.runs))


def sweep(runs: Sequence[Choices], folder: Path, *, mlflow: bool) -> Sweep:
    """Run runs one after the other in this process, with all files that they write, and time everything.

    With `mlflow` another process sends the record to MLflow, a store beside `folder`, and is waited for; else there
    are only the journals.
    """
    folder.mkdir(parents=True)
    done = []
    began = time.perf_counter()
    with _tracked(folder) if mlflow else nullcontext() as tracker:
        parsed = [config(chosen) for chosen in runs]
        for number in range(len(parsed)):
            started = time.perf_counter()
            metrics = _run(parsed[number:], folder / str(number), tracker, number)
            done.append(Run(time.perf_counter() - started, metrics))
    return Sweep(time.perf_counter() - began, tuple(done))


def _run(waiting: Sequence[Config], folder: Path, tracker: Tracker | None, number: int) -> dict[str, float]:
    """Run the first of the given runs and return its metrics."""
    folder.mkdir()
    screen, (parsed, *others) = silent(), waiting

    def siblings() -> list[Config]:
        return [other for other in others if shared_by(other) == shared_by(parsed) is not None]

    name, jobs = f"{parsed.freeze_mode.name} lr={parsed.lr}", number + len(waiting)
    with screen.run(name, job=number, jobs=jobs, epochs=parsed.epochs), _record(parsed, folder, tracker) as record:
        return execute(parsed, RunContext(name, folder, screen, siblings=siblings), record)[0]


def silent() -> Screen:
    """Return a screen that draws everything, into the void."""
    return Screen(Console(file=io.StringIO(), markup=False, highlight=False, emoji=False))


def _record(parsed: Config, folder: Path, tracker: Tracker | None) -> AbstractContextManager[Record]:
    """Open the record of a run as a job of the command line does."""
    provenance.write(folder, provenance.software([]))
    if tracker is None:
        return nullcontext(Record(folder))  # the journal alone
    params = {**semantic(parsed), **choices(parsed)}
    return recording(folder, name=folder.name, tags={}, params=params)


@contextmanager
def _tracked(folder: Path) -> Iterator[Tracker]:
    """Record a sweep as the program does: in the command's process, while another one trains."""
    tracker = _started().submit(_open, folder).result()
    yield tracker
    _started().submit(_close, tracker).result()


@functools.cache
def _started() -> ProcessPoolExecutor:
    """Return the process that stands for the command's own process."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _open(folder: Path) -> Tracker:
    place = RecordPlace(mlflow_uri(folder.parent), "benchmarks")
    return session.open_sweep(place, folder=folder, name=folder.name, tags={})


def _close(tracker: Tracker) -> None:
    folder = Path(tracker.folder)
    results = [Result(0, folder.name, str(folder), None, "FINISHED", None, {}, {})]
    session.close_sweep(tracker, status="FINISHED", description="", results=results)


def mlflow_uri(folder: Path) -> str:
    """Return the tracking URI of the store in `folder`."""
    return f"sqlite:///{folder / 'mlflow.db'}"


def command(runs: Sequence[Choices], folder: Path) -> tuple[float, list[dict[str, float]]]:
    """Return the seconds of the sweep as a command in a process of its own, and the metrics of its runs.

    The time includes the start of Python, Hydra, MLflow, the launcher and the report.
    """
    lrs = ",".join(repr(chosen["lr"]) for chosen in runs)
    typed = {**runs[0], "freeze": runs[0]["freeze_mode"], "lr": lrs, "tracking.uri": mlflow_uri(folder.parent)}
    del typed["freeze_mode"]
    words = [f"{key}={'null' if value is None else value}" for key, value in typed.items()]
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "train.py", "-m", *words, "resume=false", f"hydra.sweep.dir={folder}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"train.py failed: {done.stdout[-500:]} {done.stderr[-2000:]}")
    return seconds, [json.loads(file.read_text())["metrics"] for file in folder.glob("*/result.json")]


def extraction_rate(chosen: Choices, folder: Path) -> float:
    """Return the images per second at which features of the training split are computed and put into the store.

    The pixels are decoded and the backbone is warm: those of the validation split come first and do not count.
    """
    folder.mkdir(parents=True)
    assembled = setup.assemble(config(chosen), folder, meta=False, screen=silent())
    line, views = frost_line.draw(assembled, 0), assembled.views
    line.dataset(views.val).inputs(torch.arange(1), 0)
    views.train.inputs(torch.arange(1), 1)
    train = line.dataset(views.train)
    _wait(assembled.device)
    began = time.perf_counter()
    train.inputs(torch.arange(1), 1)
    _wait(assembled.device)
    return len(train.labels) / (time.perf_counter() - began)


def decode_rate(chosen: Choices) -> float:
    """Return the images per second at which all splits are checked, decoded and put into the store."""
    began = time.perf_counter()
    images = sum(counts(chosen).values())
    return images / (time.perf_counter() - began)


def counts(chosen: Choices) -> dict[str, int]:
    """Return the images of each split, decoded and checked."""
    parsed = config(chosen)
    store = run_data.store_of(parsed, silent().say)
    data = run_data.load_data(parsed, setup.input_of(parsed, parsed.model.weights), store, silent())
    return {"train": len(data.train), "val": len(data.val), "test": len(data.test)}


def decoded(file: str) -> Tensor:
    """Return an image as the program decodes it, `(3, H, W)` uint8."""
    with open_image(Path(file)) as image:
        return tensor_of(image)[0]


def seen(image: Tensor, side: int) -> Tensor:
    """Return the stored pixels of an image for a network with an input of `side` pixels."""
    how = CenterCrop(size=side, resize=side * 256 // 224, interpolation="bilinear")
    return center_crop(image[None], how).contiguous()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(chosen: Choices, folder: Path) -> int:
    """Return the peak memory in bytes of one run in a process of its own, see `watched`."""
    return watched(chosen, folder).memory


@dataclass(frozen=True)
class Watched:
    """The metrics of one run, and its peak memory."""

    memory: int
    """Peak in bytes, including the processes that it starts."""
    disk: int
    """Peak size of its store in bytes."""
    metrics: dict[str, float]


def watched(chosen: Choices, folder: Path) -> Watched:
    """Run one run in a process of its own, and sample its memory.

    Samples PSS a hundred times a second, since the last moments of a run need the most: shared memory counts once, and
    mapped files count.
    """
    import psutil

    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    child = psutil.Popen(
        [sys.executable, __file__, json.dumps({**chosen}), str(folder)], env={**os.environ, "PYTHONPATH": source}
    )
    memory, disk, store = 0, 0, Path(chosen["store.path"])
    while child.poll() is None:
        memory = max(memory, sum(map(_pss, [child, *_children(child)])))
        disk = max(disk, _size(store))
        time.sleep(0.01)
    if child.returncode != 0:
        raise RuntimeError("the run that was watched failed")
    return Watched(memory, disk, json.loads((folder / _METRICS).read_text()))


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder, which come and go."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(f"{place}/{name}").st_size  # noqa: PTH116
    return total


def _children(process: Any) -> list[Any]:
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _pss(process: Any) -> int:
    import psutil

    try:
        return process.memory_full_info().pss
    except psutil.Error:  # just ended
        return 0


if __name__ == "__main__":
    place = Path(sys.argv[2])
    place.mkdir(parents=True)
    (place / _METRICS).write_text(json.dumps(_run([config(json.loads(sys.argv[1]))], place / "0", None, 0)))
