"""A gallery of images as the network sees them: some of each class, and those that findings show side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from frostline.data.splits import Split
from frostline.data.views import Views
from frostline.runs import split_views
from frostline.runs.data_facts import AT_ONCE
from frostline.runs.run_data import augment_policy
from frostline.runs.setup import Setup

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


@dataclass(frozen=True)
class _ShownSplit:
    """The images of a split to choose from."""

    name: str
    images: Split
    plain: Views
    """Without augmentation."""
    name_of: Callable[[int], str]
    """Returns the name of an image by its id."""


def gallery(setup: Setup) -> Gallery:
    """Return images of some classes, evenly spaced in the order of the source, and images of the findings."""
    sources = loading.source_of_each(setup.config.data, setup.store)
    splits = {
        name: _ShownSplit(name, split, split_views.centred(setup, name, split), sources[name].name)
        for name, split in setup.data.splits.items()
    }
    return Gallery(
        classes=_sheet(setup, splits),
        findings=tuple(
            tuple(group for places in finding.shown if (group := _side_by_side(setup, splits, places)))
            for finding in setup.data.findings
        ),
    )


def _sheet(setup: Setup, splits: Mapping[str, _ShownSplit]) -> dict[str, tuple[GalleryImage, ...]]:
    """Return images of classes that are evenly spaced from the largest to the smallest."""
    data = setup.data
    by_size = class_counts(data.train.labels, len(data.classes)).argsort(descending=True, stable=True)
    chosen = _spread(by_size, CLASSES).tolist()
    found: dict[str, list[GalleryImage]] = {data.classes[label]: [] for label in chosen}
    for split in splits.values():
        most = TRAIN if split.name == "train" else OTHERS
        for label in chosen:
            rows = _spread(of_class(split.images.labels, label).nonzero()[:, 0], most)
            found[data.classes[label]] += _shown(setup, split, rows, random=True)
    return {label: tuple(each) for label, each in found.items()}


def _spread(values: Tensor, most: int) -> Tensor:
    """Return at most `most` of `values` `(N,)`, evenly spaced from the first to the last."""
    return values[torch.linspace(0, max(0, len(values) - 1), min(most, len(values))).round().long()]


def _side_by_side(setup: Setup, splits: Mapping[str, _ShownSplit], places: Sequence[Place]) -> tuple[GalleryImage, ...]:
    """Return the images at `places`; empty if one of them is not used by the run."""
    found: list[GalleryImage] = []
    for name, number in places:
        split = splits[name]
        found += _shown(setup, split, (split.images.ids == number).nonzero()[:, 0])
    return tuple(found) if len(found) == len(places) else ()


def _shown(setup: Setup, split: _ShownSplit, rows: Tensor, *, random: bool = False) -> list[GalleryImage]:
    """Return the images of a split at `rows`; with `random`, also their augmented training views if there are any."""
    images, classes, spec = split.images, setup.data.classes, setup.model.input
    seen = [_thumbnails(spec, split.plain, rows, 1)]
    if random and split.name == "train" and augment_policy(setup.config).random:
        seen += [_thumbnails(spec, setup.views.train, rows, epoch) for epoch in range(1, EPOCHS + 1)]
    return [
        GalleryImage(split.name_of(int(images.ids[row])), split.name, label_text(images.labels[row], classes), views)
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
