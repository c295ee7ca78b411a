"""A gallery of images as the network sees them: some of each class, and those that findings show side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from frostline.core.input_spec import InputSpec
from frostline.core.labels import class_counts, label_text, of_class
from frostline.data import loading
from frostline.data.findings import Place
from frostline.data.views import Views
from frostline.runs.data_facts import AT_ONCE, Opened
from frostline.runs.run_data import augment_policy

CLASSES = 24
"""Classes shown at most, so that the page stays readable and does not grow with the data."""
TRAIN = 3
"""Training images shown per class."""
OTHERS = 2
"""Validation images, and test images, shown per class."""
EPOCHS = 3
"""Epochs whose random views are shown."""
_SIDE = 96  # pixels of a thumbnail's side


@dataclass(frozen=True)
class GalleryImage:
    """An image as the network sees it."""

    name: str
    split: str
    label: str
    views: tuple[NDArray[np.uint8], ...]
    """`(S, S, 3)` each: the view without augmentation, of a training image as it is stored; then, with augmentation,
    those of epochs 1, 2, ..."""


@dataclass(frozen=True)
class Gallery:
    """Images to look at."""

    classes: dict[str, tuple[GalleryImage, ...]]
    """Images of some classes, from the largest class to the smallest: from train, val and test."""
    findings: tuple[tuple[tuple[GalleryImage, ...], ...], ...]
    """For each finding, the groups of images to show side by side."""


def gallery(opened: Opened) -> Gallery:
    """Return images of some classes, evenly spaced in the order of the source, and images of the findings."""
    sources = loading.source_of_each(opened.setup.config.data, opened.setup.store)
    name_of = {split: source.name for split, source in sources.items()}
    return Gallery(
        classes=_sheet(opened, name_of),
        findings=tuple(
            tuple(group for places in finding.shown if (group := _side_by_side(opened, places, name_of)))
            for finding in opened.setup.data.findings
        ),
    )


def _sheet(opened: Opened, name_of: dict[str, Callable[[int], str]]) -> dict[str, tuple[GalleryImage, ...]]:
    """Return images of classes that are evenly spaced from the largest to the smallest."""
    data = opened.setup.data
    by_size = class_counts(data.train.labels, len(data.classes)).argsort(descending=True, stable=True)
    chosen = _spread(by_size, CLASSES).tolist()
    found: dict[str, list[GalleryImage]] = {data.classes[label]: [] for label in chosen}
    for name, split in data.splits.items():
        most = TRAIN if name == "train" else OTHERS
        for label in chosen:
            rows = _spread(of_class(split.labels, label).nonzero()[:, 0], most)
            found[data.classes[label]] += _shown(opened, name, rows, name_of[name], random=True)
    return {label: tuple(each) for label, each in found.items()}


def _spread(values: Tensor, most: int) -> Tensor:
    """Return at most `most` of `values` `(N,)`, evenly spaced from the first to the last."""
    return values[torch.linspace(0, max(0, len(values) - 1), min(most, len(values))).round().long()]


def _side_by_side(
    opened: Opened, places: Sequence[Place], name_of: dict[str, Callable[[int], str]]
) -> tuple[GalleryImage, ...]:
    """Return the images at `places`; empty if one of them is not used by the run."""
    found: list[GalleryImage] = []
    for split, number in places:
        row = (opened.setup.data.splits[split].ids == number).nonzero()[:, 0]
        found += _shown(opened, split, row, name_of[split])
    return tuple(found) if len(found) == len(places) else ()


def _shown(
    opened: Opened, name: str, rows: Tensor, name_of: Callable[[int], str], *, random: bool = False
) -> list[GalleryImage]:
    """Return the images of a split at `rows`; with `random`, also their augmented training views if there are any."""
    setup = opened.setup
    split, classes, spec = setup.data.splits[name], setup.data.classes, setup.model.input
    seen = [_thumbnails(spec, opened.plain[name], rows, 1)]
    if random and name == "train" and augment_policy(setup.config).random:
        seen += [_thumbnails(spec, setup.views.train, rows, epoch) for epoch in range(1, EPOCHS + 1)]
    return [
        GalleryImage(name_of(int(split.ids[row])), name, label_text(split.labels[row], classes), views)
        for row, views in zip(rows.tolist(), zip(*seen, strict=True), strict=True)
    ]


def _thumbnails(spec: InputSpec, views: Views, rows: Tensor, epoch: int) -> list[NDArray[np.uint8]]:
    """Return the network's inputs at `rows`, converted back to images `(S, S, 3)`."""
    found: list[NDArray[np.uint8]] = []
    for part in rows.split(AT_ONCE) if len(rows) else ():
        inputs = views.inputs(part, epoch)
        mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
        levels = inputs.mul(std).add(mean).mul(255).round().clamp(0, 255).byte()
        if levels.shape[-1] > _SIDE:
            levels = F.interpolate(levels, size=(_SIDE, _SIDE), mode="bilinear", antialias=True)
        found += [image.permute(1, 2, 0).contiguous().numpy() for image in levels]
    return found
