"""Sizes of the measurements, their targets, and their folders."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

import images
import limit
import ours
from images import CIFAR, PHOTO, Kind
from table import Row, Target, figures

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Scale:
    """The sizes of all measurements."""

    sweeps: tuple[tuple[str, Kind], ...]
    """Network and images of each head sweep."""
    counts: tuple[int, int, int]
    """Its number of images: train, val, test."""
    runs: int
    epochs: int
    augmented: str
    """Network of the head sweep with random augmentation."""
    few: tuple[int, int, int]
    """Number of images if more than a head is trained."""
    extracted: tuple[str, ...]
    """Networks whose features are extracted."""
    full: str
    full_batch: int
    full_epochs: int
    part: str
    """Network of `last_stage` and of the 2x2 sweep."""
    part_epochs: int
    forward_batch: int
    decoded: int
    watched: int
    """Number of images of the run whose memory is measured."""
    side: int = 224
    batches: int = 4
    """Batches of an opponent's training that are timed at once."""
    rounds: int = 3
    """Number of repetitions of that, and of short measurements."""
    matrix: int = 2048


CPU = Scale(
    sweeps=(("resnet18", PHOTO), ("resnet18", CIFAR), ("resnet50", PHOTO)),
    counts=(2000, 250, 250),
    runs=16,
    epochs=10,
    augmented="resnet18",
    few=(256, 32, 32),
    extracted=("resnet18", "resnet50", "vit_b_16"),
    full="resnet50",
    full_batch=32,
    full_epochs=8,
    part="resnet18",
    part_epochs=5,
    forward_batch=32,
    decoded=10_000,
    watched=5_000,
)
CUDA = replace(
    CPU,
    sweeps=(("resnet18", CIFAR), ("resnet50", PHOTO), ("vit_b_16", PHOTO)),
    counts=(8000, 1000, 1000),
    augmented="resnet50",
    few=(8000, 1000, 1000),
    full_batch=256,
    part="resnet50",
    part_epochs=3,
    forward_batch=256,
    batches=20,
    matrix=8192,
)
QUICK = Scale(
    sweeps=(("shufflenet_v2_x0_5", CIFAR),),
    counts=(40, 10, 10),
    runs=2,
    epochs=2,
    augmented="shufflenet_v2_x0_5",
    few=(40, 10, 10),
    extracted=("shufflenet_v2_x0_5",),
    full="shufflenet_v2_x0_5",
    full_batch=20,
    full_epochs=1,
    part="shufflenet_v2_x0_5",
    part_epochs=1,
    forward_batch=8,
    decoded=100,
    watched=200,
    side=32,
    batches=1,
    rounds=1,
    matrix=128,
)
TARGETS: dict[str, dict[str, Target]] = {
    "head sweep against tutorial": {"cpu": Target("≥", 200, "x"), "cuda": Target("≥", 300, "x")},
    "head sweep against fair": {"cpu": Target("≥", 100, "x"), "cuda": Target("≥", 100, "x")},
    "head sweep, random augmentation, against fair": {"cpu": Target("≥", 12, "x"), "cuda": Target("≥", 12, "x")},
    "head sweep against one pass of the backbone": {"cpu": Target("≤", 1.3, "x"), "cuda": Target("≤", 3, "x")},
    "images through the backbone, warm": {"cpu": Target("≤", 0), "cuda": Target("≤", 0)},
    "a warm run": {"cuda": Target("≤", 0.3, " s")},
    "a warm run beyond its steps": {"cpu": Target("≤", 0.3, " s"), "cuda": Target("≤", 0.3, " s")},
    "extraction resnet50 against tutorial": {"cpu": Target("≥", 3, "x")},
    "extraction resnet50": {"cuda": Target("≥", 15_000, " images/s")},
    "full fine-tuning against limit": {"cpu": Target("≥", 0.95), "cuda": Target("≥", 0.97)},
    "the steps of all heads against those of one": {"cuda": Target("≤", 2, "x")},
    "full fine-tuning": {"cuda": Target("≥", 3_500, " images/s")},
    "last_stage, its cut cached, against uncached": {"cpu": Target("≥", 2, "x"), "cuda": Target("≥", 2, "x")},
    "last_stage from an empty store against uncached": {"cpu": Target("≥", 2, "x"), "cuda": Target("≥", 2, "x")},
    "2x2 sweep against its full runs": {"cpu": Target("≤", 1.1, "x"), "cuda": Target("≤", 1.1, "x")},
    "detail of a view": {"cpu": Target("≥", 0.99)},
    "detail of the median random crop": {"cpu": Target("≥", 0.95)},
    "decoding against plain decoding": {"cpu": Target("≥", 0.9)},
    "memory beyond a small run": {"cpu": Target("≤", 1)},
    "numbers that a small store changes": {"cpu": Target("≤", 0), "cuda": Target("≤", 0)},
    "peak of a store against its budget": {"cpu": Target("≤", 1), "cuda": Target("≤", 1)},
    "a checkpoint, per 100 MB": {"cpu": Target("≤", 0.1, " s"), "cuda": Target("≤", 0.1, " s")},
    "one worker against hydra/launcher=basic": {"cpu": Target("≤", 1, "x"), "cuda": Target("≤", 1, "x")},
    "overhead per trial": {"cpu": Target("≤", 0.05, " s"), "cuda": Target("≤", 0.05, " s")},
    "growth of the overhead per trial": {"cpu": Target("≤", 2, "x"), "cuda": Target("≤", 2, "x")},
    "each further run of a head": {"cpu": Target("≤", 0.2, " s")},
    "memory of each further run": {"cpu": Target("≤", 50, " kB")},
    "the same command again": {"cpu": Target("≤", 5, " s")},
    "grids found": {"cpu": Target("≥", 8), "cuda": Target("≥", 8)},
    "journals, checkpoints and hashes": {"cpu": Target("≤", 0.02), "cuda": Target("≤", 0.02)},
}
"""Targets of numbers, by kind of device."""


class Bench:
    """Owns the folders of a session of measurements."""

    def __init__(self, device: torch.device, scale: Scale, *, work: Path, kept: Path, mlflow: bool) -> None:
        self.device, self.scale = device, scale
        self.side = scale.side
        self.precision = torch.bfloat16
        self.mlflow = mlflow and importlib.util.find_spec("mlflow") is not None
        self._work, self._kept = work, kept
        self._numbers = itertools.count()
        self._warmed = False

    def folder(self) -> Path:
        """Return the path of a new folder."""
        return self._work / f"{next(self._numbers)}"

    def data(self, kind: Kind, counts: Sequence[int]) -> Path:
        return images.make(self._kept, kind, dict(zip(_SPLITS, counts, strict=True)))

    def chosen(self, network: str, root: Path, store: Path | None = None, /, **more: Any) -> dict[str, Any]:
        """Return the choices of a run of ours; without `store` the run gets an empty store."""
        return {
            **{"model": network, "model.weights": str(limit.weights_file(network, self.side, self._kept))},
            **{"model.image_size": self.side, "data": "image_folder"},
            "data.root": str(root),
            **{"device": self.device.type, "precision": "bf16", "lr": 1e-3, "epochs": self.scale.epochs},
            "store.path": str(store or self.folder()),
            **more,
        }

    def heads(self, base: dict[str, Any], *, times: int = 1) -> list[dict[str, Any]]:
        """Return the runs of a head sweep, which differ in the learning rate, or `times` as many."""
        return [{**base, "freeze_mode": "head", "lr": 1e-4 * 1.2**i} for i in range(times * self.scale.runs)]

    def row(
        self, measure: str, setting: str, number: float, *, ours: str = "", theirs: str = "", unit: str = "", note: str
    ) -> Row:
        target = TARGETS.get(measure, {}).get(self.device.type)
        return Row(f"{measure} ({setting})", ours, theirs, number, unit, target, note)

    def sweep(self, runs: Sequence[dict[str, Any]]) -> ours.Sweep:
        """Run a sweep of ours; MLflow's store exists already, as in any project but a new one."""
        if self.mlflow and not self._warmed:
            self._warmed = True
            small = self.chosen(QUICK.full, self.data(CIFAR, QUICK.counts), epochs=1, **{"model.image_size": 32})
            ours.sweep([{**small, "freeze_mode": "head"}], self.folder(), mlflow=True)
        return ours.sweep(runs, self.folder(), mlflow=self.mlflow)


def shown(value: float) -> str:
    """Return a time as text."""
    return f"{figures(value)} s" if value < 600 else f"{value / 3600:.2f} h"


def defaults(*, benchmark: bool = False) -> None:
    """Restore torch's defaults, since our side asks for determinism."""
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.benchmark = benchmark


def median_seconds(bench: Bench, work: Callable[[], object]) -> float:
    """Return the seconds of one `work()`: the median over the rounds."""
    times = bench.scale.batches
    return median(limit.seconds(work, bench.device, times=times) for _ in range(bench.scale.rounds))
