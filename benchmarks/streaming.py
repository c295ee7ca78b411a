"""Cost of a run whose images do not fit into the store: ImageNet-1k on a small machine, at a scale of 1:100.

`python benchmarks/streaming.py` prints the program's plan for the full data set, without its images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

import ours
from bench import Bench
from frostline.data.augment import Policy, stored_side
from frostline.data.pixel_form import PixelForm, Sizes
from frostline.data.resize import CenterCrop
from images import PHOTO
from table import Row, figures

_SPLITS = (80, 5, 15)
"""Percentage of the images."""
_STORE = 0.05
"""Budget of the store as a part of all views: 20 GB beside the 193 GB of ImageNet-1k are a little more."""
_RUNS: Mapping[str, Mapping[str, object]] = {
    "head": {"freeze_mode": "head"},
    "head, random crops": {"freeze_mode": "head", "augment": "standard"},
    "full": {"freeze_mode": "full"},
    "full, random crops": {"freeze_mode": "full", "augment": "standard"},
}
_SAME = ("test/loss", "best/val_accuracy", "best/epoch")


def streaming(bench: Bench) -> Iterator[Row]:
    """Measure runs with a store for a twentieth of the pixels, against the same runs with a store for all."""
    counts = [bench.scale.watched * part // 100 for part in _SPLITS]
    root, count, side = bench.data(PHOTO, counts), sum(counts), bench.side
    budget = _STORE * 3 * side**2 * count
    for name, keys in _RUNS.items():
        base = {"model.image_size": side, "epochs": 2, "store.memory_gb": budget / 1e9, **keys}
        small = {"store.path": str(bench.folder()), "store.budget_gb": budget / 1e9}
        large = {"store.path": str(bench.folder()), "store.budget_gb": 1000}
        one, two = (
            ours.watched({**bench.chosen("shufflenet_v2_x0_5", root), **base, **store}, bench.folder())
            for store in (small, large)
        )
        changed = sum(one.metrics[key] != two.metrics[key] for key in _SAME)
        yield bench.row(
            *("numbers that a small store changes", name, float(changed)),
            note=f"of {', '.join(_SAME)}, bit for bit, after 2 epochs of {counts[0]:,} {PHOTO}",
        )
        yield bench.row(
            *("peak of a store against its budget", name, one.disk / budget),
            ours=f"{one.disk / 1e6:,.1f} MB",
            theirs=f"store.budget_gb {budget / 1e6:,.1f} MB",
            note=f"sampled a hundred times a second; without a bound it grows to {two.disk / 1e6:,.0f} MB",
        )
        rates = [found.metrics["cost/images_per_second"] for found in (one, two)]
        yield bench.row(
            *("epochs that stream against those of kept images", name, rates[0] / rates[1]),
            ours=f"{figures(rates[0])} images/s",
            theirs=f"{figures(rates[1])} images/s",
            unit="x",
            note=f"with their checks and with what both compute once; in {one.memory / 1e6:,.0f} MB of memory against "
            f"{two.memory / 1e6:,.0f} MB",
        )


@dataclass(frozen=True)
class Plan:
    """Disk space of a set of images."""

    images: int
    files: float
    """Bytes per original file."""
    views: int
    """Bytes of all deterministic views."""
    crops: int
    """Bytes of the stored pixels for random crops, of all images."""
    features: int
    """Bytes of a vector of 2,048 numbers per image."""


def plan(count: int, size: tuple[int, int], file: float, center: CenterCrop) -> Plan:
    """Return the disk space of `count` images of one size, files of `file` bytes, for an input of `center` pixels."""
    crop = Policy("random_resized", (0.08, 1.0), (3 / 4, 4 / 3), 0.0, flip=True, color=0.0, trivial=False)
    one = Sizes(torch.zeros(1, dtype=torch.int64), torch.tensor([size]))
    views, crops = PixelForm("view", view=center), PixelForm("stored", side=stored_side(crop, center))
    return Plan(count, file, count * one.bytes_of(views), count * one.bytes_of(crops), count * 2048 * 4)


if __name__ == "__main__":
    told = plan(1_281_167 + 50_000, (500, 375), 110e3, CenterCrop(224, 256, "bilinear"))
    print(f"{told.images:,} images of 500x375, {told.images * told.files / 1e9:,.0f} GB as they are")
    print(f"views of 224 pixels: {told.views / 1e9:,.0f} GB; for random crops: {told.crops / 1e9:,.0f} GB")
    print(f"features of 2,048 numbers: {told.features / 1e9:,.1f} GB")
