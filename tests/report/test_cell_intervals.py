"""Intervals of a cell's scores hold the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from frostline.core.metrics import MACRO_F1
from frostline.data.source import Source
from frostline.data.splitting import divide
from frostline.records.result import TEST, VAL, Result
from frostline.report import statistics
from frostline.report.cell_intervals import validation_interval
from frostline.report.cells import Cell, cells
from small import data_config

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
        alone.append(MEAN in statistics.t_interval(values, statistics.step(len(parts[0])), 40 / 360))
    assert 0.93 <= np.mean(covered) <= 0.99 and np.mean(alone) < 0.8


@pytest.mark.parametrize("choices", [{"lr": 0.1}, {}], ids=["trained", "solved"])
def test_interval_of_validation_accuracy_is_over_folds_and_images(choices: dict[str, Any]) -> None:
    values = [0.7 + fold / 100 for fold in range(FOLDS)]
    within, mean = validation_interval(cross_validated([36] * FOLDS, values, **choices)), float(np.mean(values))
    over_folds, over_images = statistics.t_interval(values), statistics.wilson(36 * mean, 36)
    expected = statistics.added(mean, over_folds, over_images)
    assert within is not None and (within.low, within.high) == pytest.approx((expected.low, expected.high))


def test_other_metrics_have_intervals_over_folds_alone() -> None:
    """Validation predictions are not kept, so that nothing is known of other images."""
    values = [0.7 + fold / 100 for fold in range(FOLDS)]
    within = validation_interval(cross_validated([36] * FOLDS, values, select="val/macro_f1"))
    expected = statistics.t_interval(values, statistics.step(36), 40 / 336)
    assert within is not None and (within.low, within.high) == pytest.approx((expected.low, expected.high))


def test_unknown_validation_scores_have_no_interval() -> None:
    (lost,) = cells([Result(0, "", "", None, "FAILED", None, {}, {}, {"val": 36})])
    assert validation_interval(lost) is None
    assert validation_interval(cross_validated([36, 36], [0.7, float("nan")])) is None
