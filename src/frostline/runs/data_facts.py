"""What is known of data before a sweep: how much of what there is, what is odd, and pictures as a network sees them."""

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
from frostline.data.splits import Data, Split
from frostline.data.views import Views
from frostline.report.terminal import Screen
from frostline.runs import split_views
from frostline.runs.initial_weights import Fetch, no_runs
from frostline.runs.run_data import augment_policy
from frostline.runs.setup import Setup, assemble
from frostline.store.device_budget import DeviceBudget
from frostline.training import dataset

MEASURED = 256
"""Views over which what the network gets is measured: the standard error of their means is then some hundredths."""
AT_ONCE = 16
"""Views that are made at once: bounds the memory."""

Five = tuple[float, float, float, float, float]
"""Minimum, lower quartile, median, upper quartile and maximum."""


@dataclass(frozen=True)
class Sizes:
    """How large the originals of all splits are, upright, in pixels."""

    width: Five
    height: Five
    shorter: Five
    aspect: Five
    """Width by height."""
    enlarged: int
    """Pictures that are smaller than what they become."""


@dataclass(frozen=True)
class Given:
    """What the network gets."""

    size: int
    """Side in pixels of the square that it sees."""
    resize: int
    """What a side of a picture becomes before its centre is cut out, in pixels."""
    resized: str
    """That in words: which side it is."""
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of red, green and blue in 0..1: the network gets `(value - mean) / std`."""
    training: tuple[str, ...]
    """How training views differ from that, a few words each; empty where they do not."""
    views: int
    """Number of the training views that were measured: those that a run sees first."""
    measured_mean: tuple[float, ...]
    measured_std: tuple[float, ...]
    """Of red, green and blue, over all values of these as the network gets them."""


@dataclass(frozen=True)
class DataFacts:
    """What is to be said of data."""

    name: str
    root: str
    """Where it lies, as it was typed; empty for what is embedded."""
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Pictures of each class, by split."""
    images: dict[str, int]
    """Pictures, by split."""
    groups: dict[str, int]
    """Groups that they are of (patients, plates), by split; nothing where no two are of one."""
    largest: tuple[str, float]
    """The class with most training pictures, and its share of them, 0 to 1."""
    of_none: int | None
    """Training pictures that are of no class; None where each is of one."""
    sizes: Sizes
    converted: dict[str, int]
    """Pictures that were converted, by `decode_image.CONVERSIONS`."""
    broken: tuple[tuple[str, str], ...]
    """Pictures that are left out since they cannot be read, and why."""
    hidden: int
    """Files that are left out since their names begin with a dot."""
    suffixes: dict[str, int]
    """Files that are left out since they are not called like pictures, by suffix."""
    findings: tuple[Finding, ...]
    given: Given
    fingerprint: str


@dataclass(frozen=True)
class Opened:
    """The data of a run, and how its network sees it."""

    setup: Setup
    plain: dict[str, Views]
    """Every split without randomness."""
    training: Views
    """The training images as they are learnt from."""

    @property
    def config(self) -> Config:
        """What was composed."""
        return self.setup.config

    @property
    def data(self) -> Data:
        """The splits."""
        return self.setup.data

    @property
    def spec(self) -> InputSpec:
        """What the network expects."""
        return self.setup.model.input


def open_data(config: Config, screen: Screen, fetch: Fetch = no_runs) -> Opened:
    """Return the data of a run of `config`, decoded through its store; raises the `UserError` that the run would meet.

    Views are made on the CPU: a few of each split are asked for.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = assemble(config, Path(folder), meta=True, screen=screen, fetch=fetch)
    cpu = torch.device("cpu")
    setup = replace(made, device=cpu, room=DeviceBudget(cpu, memory.budget(cpu, config.store.memory_gb)))
    plain = {name: split_views.centred(setup, name, split) for name, split in setup.data.splits.items()}
    return Opened(setup, plain, setup.images.train)


def facts(opened: Opened) -> DataFacts:
    """Return what is to be said of the data."""
    config, data = opened.config, opened.data
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
        largest=(data.classes[counts["train"].index(most)], most / len(data.train)),
        of_none=int((~data.train.labels.any(1)).sum()) if data.multi_label else None,
        sizes=_sizes(torch.cat([split.sizes for split in data.splits.values()]), opened.spec),
        converted={name: data.counts[name] for name in CONVERSIONS if name in data.counts},
        broken=data.broken,
        hidden=data.counts.get("hidden", 0),
        suffixes=dict(data.suffixes),
        findings=data.findings,
        given=_given(opened),
        fingerprint=data.fingerprint,
    )


def _groups(splits: dict[str, Split]) -> dict[str, int]:
    if all(split.groups is None for split in splits.values()):
        return {}
    return {name: len(split if split.groups is None else split.groups.unique()) for name, split in splits.items()}


def _sizes(sizes: Tensor, spec: InputSpec) -> Sizes:
    """Return how large pictures are whose widths and heights are `(N, 2)`."""
    width, height = sizes.numpy().astype(np.float64).T
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    return Sizes(
        width=_five(width),
        height=_five(height),
        shorter=_five(shorter),
        aspect=_five(width / height),
        enlarged=int(np.count_nonzero((longer if spec.crop == "border" else shorter) < spec.resize)),
    )


def _five(values: NDArray[np.float64]) -> Five:
    low, lower, middle, upper, high = np.percentile(values, (0, 25, 50, 75, 100)).tolist()
    return low, lower, middle, upper, high


def _given(opened: Opened) -> Given:
    config, spec = opened.config, opened.spec
    order = dataset.sampled(opened.data.train.labels, config.train.sampling, config.seed, 1)[:MEASURED]
    mean, std = _measure(opened.training, order)
    return Given(
        size=spec.size,
        resize=spec.resize,
        resized=CenterCrop.of(spec).resized,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        training=_training(config, opened.data.cut_from),
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


def _training(config: Config, cut_from: str) -> tuple[str, ...]:
    """Return how training views differ from the one without randomness."""
    policy = augment_policy(config)
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
        "blended within a batch (mixup, CutMix), which is not shown": config.train.mixup > 0 or config.train.cutmix > 0,
    }
    return tuple(words for words, holds in said.items() if holds)
