"""Intervals of a cell's scores hold the truth."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from frostline.core.metrics import AUROC, BALANCED_ACCURACY, LOSS, MACRO_F1, Metric
from frostline.data.source import Source
from frostline.data.splitting import divide
from frostline.records.result import TEST, VAL, VAL_MARGIN, Result
from frostline.report import statistics
from frostline.report.cell_intervals import validation_interval
from frostline.report.cells import Cell, cells
from frostline.report.statistics import Interval
from frostline.runs import selection
from frostline.training.evaluation import evaluate_logits
from small import data_config

if TYPE_CHECKING:
    from frostline.data.splits import Split

IMAGES, FOLDS, MEAN = 400, 10, 0.8


def cross_validated(validation: list[int], values: list[float], **choices: Any) -> Cell:
    """Return a cell of one run per fold with these numbers of validation images and accuracies."""
    (found,) = cells(
        Result(fold, "", "", None, "FINISHED", None, choices | {"data.fold": fold}, scores, images)
        for fold, (count, value) in enumerate(zip(validation, values, strict=True))
        for images in [{"train": 300, "val": count, "test": 40}]
        for scores in [{VAL: value, TEST: value, MACRO_F1.val: value}]
    )
    return found


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_validation_intervals_over_folds_cover_although_folds_share_images(noise: float) -> None:
    """Which images are hard is common to the networks of all folds, which differ by `noise` in every image."""
    source = Source(torch.zeros(IMAGES).long(), ("a",), lambda _: Image.new("RGB", (1, 1)), str)
    how = {"source": "folder", "val_fraction": 0.1, "folds": FOLDS, "split_seed": 0}
    parts = [divide({"train": source}, data_config(**how, fold=fold))["val"].ids.numpy() for fold in range(FOLDS)]
    random, limit = np.random.default_rng(0), stats.norm.ppf(MEAN) * np.hypot(1, noise)
    covered, alone = [], []
    for _ in range(300):
        hard = random.normal(size=IMAGES)
        values = [float((hard[ids] + noise * random.normal(size=len(ids)) < limit).mean()) for ids in parts]
        within = validation_interval(cross_validated([*map(len, parts)], values))
        assert within is not None
        covered.append(MEAN in within)
        alone.append(MEAN in statistics.t_interval(values, statistics.rounding_deviation(len(parts[0])), 40 / 360))
    assert 0.93 <= np.mean(covered) <= 0.99 and np.mean(alone) < 0.8


@pytest.mark.parametrize("choices", [{"lr": 0.1}, {}], ids=["trained", "solved"])
def test_interval_of_validation_accuracy_is_over_folds_and_images(choices: dict[str, Any]) -> None:
    values = [0.7 + fold / 100 for fold in range(FOLDS)]
    within, mean = validation_interval(cross_validated([36] * FOLDS, values, **choices)), float(np.mean(values))
    over_folds, over_images = statistics.t_interval(values), statistics.wilson(36 * mean, 36)
    expected = statistics.added(mean, over_folds, over_images)
    assert within is not None and (within.low, within.high) == pytest.approx((expected.low, expected.high))


def labels_and_logits(images: int, seeds: int, random: np.random.Generator) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return labels of three classes, the last of a tenth of the images, and the logits of networks of some seeds."""
    labels, networks = random.choice(3, images, p=[0.55, 0.35, 0.1]), []
    hard = random.normal(size=(images, 3))
    for _ in range(seeds):
        logits = hard + 0.3 * random.normal(size=hard.shape) + 0.15 * random.normal(size=3)
        logits[np.arange(images), labels] += 1.6 + 0.15 * random.normal()
        networks.append(torch.tensor(logits, dtype=torch.float32))
    return torch.tensor(labels), networks


@pytest.mark.parametrize("by", [BALANCED_ACCURACY, AUROC, LOSS], ids=lambda by: by.name)
def test_validation_intervals_of_other_metrics_cover_seeds_and_images(by: Metric) -> None:
    random = np.random.default_rng(0)
    labels, networks = labels_and_logits(20_000, 30, random)
    truth = np.mean([selection.value(by, evaluate_logits(logits, labels), labels) for logits in networks])
    covered, alone = [], []
    for _ in range(120):
        labels, networks = labels_and_logits(150, 3, random)
        split = cast("Split", SimpleNamespace(labels=labels, groups=None))
        epochs = [selection.of_epoch(by, evaluate_logits(logits, labels), split) for logits in networks]
        values = [epoch[by.epoch] for epoch in epochs]
        runs = [
            Result(seed, "", "", None, "FINISHED", None, {"seed": seed, "lr": 0.1, "select": by.epoch}, scores)
            for seed, epoch in enumerate(epochs)
            for scores in [{by.val: epoch[by.epoch], by.test: 0.5, VAL_MARGIN: epoch[selection.MARGIN]}]
        ]
        within = validation_interval(cells(runs)[0])
        assert within is not None
        covered.append(truth in within)
        alone.append(truth in statistics.t_interval(values))
    assert 0.93 <= np.mean(covered) <= 1 and np.mean(alone) < 0.92


def test_interval_of_other_metrics_is_over_folds_and_images() -> None:
    values = [0.7 + fold / 100 for fold in range(FOLDS)]
    cell = cross_validated([36] * FOLDS, values, select="val/macro_f1")
    assert validation_interval(cell) is None
    margins = {VAL_MARGIN: 0.15}
    runs = [replace(run, metrics=run.metrics | margins) for run in cell.results]
    within = validation_interval(cells(runs)[0])
    over_folds = statistics.t_interval(values, statistics.rounding_deviation(36))
    expected = statistics.added(fmean(values), over_folds, Interval(fmean(values) - 0.15, fmean(values) + 0.15))
    assert within is not None and (within.low, within.high) == pytest.approx((expected.low, expected.high))


def test_unknown_validation_scores_have_no_interval() -> None:
    (lost,) = cells([Result(0, "", "", None, "FAILED", None, {}, {}, {"val": 36})])
    assert validation_interval(lost) is None
    assert validation_interval(cross_validated([36, 36], [0.7, float("nan")])) is None
