"""Facts about data before a sweep: counts per class and split, image sizes, findings, and the network's views."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.core import memory
from frostline.core.config import EMBEDDED, Config
from frostline.core.input_spec import InputSpec
from frostline.core.labels import class_counts
from frostline.data.decode_image import CONVERSIONS
from frostline.data.findings import Finding
from frostline.data.resize import CenterCrop
from frostline.data.splits import Split
from frostline.data.views import Views
from frostline.report.terminal import Screen
from frostline.runs.initial_weights import Fetch, no_runs
from frostline.runs.run_data import augment_policy
from frostline.runs.setup import Setup, assemble
from frostline.store.device_budget import DeviceBudget
from frostline.training import dataset

MEASURED = 256
"""Views over which mean and std are measured: the standard error of the mean is then a few hundredths."""
AT_ONCE = 16
"""Views per batch: bounds the memory."""

FiveNumbers = tuple[float, float, float, float, float]
"""Minimum, lower quartile, median, upper quartile and maximum."""


@dataclass(frozen=True)
class ImageSizes:
    """Sizes in pixels of the original images of all splits, after EXIF rotation."""

    width: FiveNumbers
    height: FiveNumbers
    shorter: FiveNumbers
    aspect: FiveNumbers
    """Width divided by height."""
    enlarged: int
    """Number of images that are enlarged for the network."""


@dataclass(frozen=True)
class NetworkInput:
    """The inputs of the network."""

    size: int
    """Side of the square input in pixels."""
    resize: int
    """Length in pixels to which a side of an image is resized before the centre crop."""
    resized: str
    """The same in words: which side it is."""
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """For red, green and blue in 0..1: the network's input is `(value - mean) / std`."""
    training: tuple[str, ...]
    """Differences of training views, a few words each; empty without augmentation."""
    views: int
    """Number of training views that were measured: the first ones of a run."""
    measured_mean: tuple[float, ...]
    measured_std: tuple[float, ...]
    """For red, green and blue, over all values of the measured inputs."""


@dataclass(frozen=True)
class DataFacts:
    """Facts about the data of a run."""

    name: str
    root: str
    """Its location as the user typed it; empty for embedded data."""
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Number of images of each class, by split."""
    images: dict[str, int]
    """Number of images, by split."""
    groups: dict[str, int]
    """Number of groups (patients, plates), by split; empty without groups."""
    fold: tuple[int, int] | None
    """Index of the fold that is the test split, and number of folds; None without folds."""
    largest: tuple[str, float]
    """The class with the most training images, and its share of them, 0 to 1."""
    without_class: int | None
    """Number of training images without a class; None unless multi-label."""
    sizes: ImageSizes
    converted: dict[str, int]
    """Number of converted images, by `decode_image.CONVERSIONS`."""
    broken: tuple[tuple[str, str], ...]
    """Images that were left out as unreadable, with the reason."""
    hidden: int
    """Number of files left out because their names begin with a dot."""
    suffixes: dict[str, int]
    """Number of files left out because their suffix is not of an image, by suffix."""
    findings: tuple[Finding, ...]
    input: NetworkInput
    fingerprint: str


def open_data(config: Config, screen: Screen, fetch: Fetch = no_runs) -> Setup:
    """Return the setup of a run of `config`, with its data decoded; raises the `UserError` that the run would raise.

    Views are made on the CPU, since only a few of each split are needed.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = assemble(config, Path(folder), meta=True, screen=screen, fetch=fetch)
    cpu = torch.device("cpu")
    return replace(made, device=cpu, device_budget=DeviceBudget(cpu, memory.budget(cpu, config.store.memory_gb)))


def facts(setup: Setup) -> DataFacts:
    """Return the facts about the data of a run."""
    config, data = setup.config, setup.data
    count = len(data.classes)
    counts = {name: tuple(class_counts(split.labels, count).tolist()) for name, split in data.splits.items()}
    most = max(counts["train"])
    return DataFacts(
        name=config.data.name,
        root="" if config.data.source in EMBEDDED else config.data.root,
        classes=data.classes,
        counts=counts,
        images={name: len(split) for name, split in data.splits.items()},
        groups=_groups(data.splits),
        fold=None if config.data.folds is None else (config.data.fold, config.data.folds),
        largest=(data.classes[counts["train"].index(most)], most / len(data.train)),
        without_class=int((~data.train.labels.any(1)).sum()) if data.multi_label else None,
        sizes=_sizes(torch.cat([split.sizes for split in data.splits.values()]), setup.model.input),
        converted={name: data.counts[name] for name in CONVERSIONS if name in data.counts},
        broken=data.broken,
        hidden=data.counts.get("hidden", 0),
        suffixes=dict(data.suffixes),
        findings=data.findings,
        input=_network_input(setup),
        fingerprint=data.fingerprint,
    )


def _groups(splits: dict[str, Split]) -> dict[str, int]:
    if all(split.groups is None for split in splits.values()):
        return {}
    return {name: len(split if split.groups is None else split.groups.unique()) for name, split in splits.items()}


def _sizes(sizes: Tensor, spec: InputSpec) -> ImageSizes:
    """Return the distribution of image sizes, given widths and heights `(N, 2)`."""
    width, height = sizes.numpy().astype(np.float64).T
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    return ImageSizes(
        width=_five_numbers(width),
        height=_five_numbers(height),
        shorter=_five_numbers(shorter),
        aspect=_five_numbers(width / height),
        enlarged=int(np.count_nonzero((longer if spec.crop == "border" else shorter) < spec.resize)),
    )


def _five_numbers(values: NDArray[np.float64]) -> FiveNumbers:
    low, lower, middle, upper, high = np.percentile(values, (0, 25, 50, 75, 100)).tolist()
    return low, lower, middle, upper, high


def _network_input(setup: Setup) -> NetworkInput:
    config, spec = setup.config, setup.model.input
    order = dataset.sampled(setup.data.train.labels, config.train.sampling, config.seed, 1)[:MEASURED]
    mean, std = _measure(setup.views.train, order)
    return NetworkInput(
        size=spec.size,
        resize=spec.resize,
        resized=CenterCrop.of(spec).resized,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        training=_training(setup),
        views=len(order),
        measured_mean=mean,
        measured_std=std,
    )


def _measure(views: Views, rows: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of all values in the views of epoch 1 at `rows`."""
    total, squares, count = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    for part in rows.split(AT_ONCE):
        values = views.inputs(part, 1).double().transpose(0, 1).flatten(1)
        total += values.sum(1)
        squares += values.square().sum(1)
        count += values.shape[1]
    mean = total / count
    return tuple(mean.tolist()), tuple((squares / count - mean.square()).clamp(min=0).sqrt().tolist())


def _training(setup: Setup) -> tuple[str, ...]:
    """Return in words how training views differ from those without augmentation."""
    policy, cut_from = augment_policy(setup.config), setup.data.cut_from
    low, high = policy.scale
    crops = {
        "none": "",
        "random_resized": f"random boxes of {low:.0%} to {high:.0%} of the area, cut from {cut_from}",
        "pad": f"the centre moved by up to {policy.padding:.1%} of the side, cut from {cut_from}",
    }
    said = {
        crops[policy.crop]: policy.crop != "none",
        "half of them mirrored": policy.flip,
        f"brightness, contrast and saturation changed by up to {policy.color:.0%}": policy.color > 0,
        "one operation of TrivialAugment each": policy.trivial,
        "blended within a batch (mixup, CutMix), which is not shown": setup.recipe.mixes,
    }
    return tuple(words for words, holds in said.items() if holds)
