"""Metrics equal those of torchmetrics."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from frostline.core.metrics import AUROC, BALANCED_ACCURACY, MACRO_F1, MAP, Metric
from frostline.report.calibration import calibration
from frostline.report.metric_scores import log_odds, measure

COUNT, CLASSES = 200, 5


@pytest.fixture
def torchmetrics() -> Any:
    """Return the functions of torchmetrics, imported only when these tests run."""
    return importlib.import_module("torchmetrics.functional.classification")


def assert_equal(predictions: dict[str, Any], references: dict[Metric, Callable], *inputs: Tensor, **how: Any) -> None:
    """Assert that each metric of `predictions` is what torchmetrics computes."""
    for metric, reference in references.items():
        found = measure(metric, **predictions)
        assert found is not None and found.value == pytest.approx(float(reference(*inputs, **how))), metric.name


def test_single_label_metrics_equal_torchmetrics(torchmetrics: Any) -> None:
    random = np.random.default_rng(0)
    labels = random.choice(CLASSES, COUNT, p=(0.6, 0.2, 0.1, 0.05, 0.05))
    logits = random.normal(size=(COUNT, CLASSES))
    logits[np.arange(COUNT), labels] += 1
    references = {
        BALANCED_ACCURACY: torchmetrics.multiclass_recall,
        MACRO_F1: torchmetrics.multiclass_f1_score,
        AUROC: torchmetrics.multiclass_auroc,
        MAP: torchmetrics.multiclass_average_precision,
    }
    predictions = {"labels": labels, "said": logits.argmax(1), "scores": log_odds(logits)}
    inputs = torch.tensor(logits), torch.tensor(labels)
    assert_equal(predictions, references, *inputs, num_classes=CLASSES, average="macro")


def test_multi_label_metrics_equal_torchmetrics(torchmetrics: Any) -> None:
    random = np.random.default_rng(0)
    labels = random.random((COUNT, CLASSES)) < (0.05, 0.2, 0.4, 0.6, 0.9)
    logits = random.normal(size=labels.shape) + labels
    references = {
        MACRO_F1: torchmetrics.multilabel_f1_score,
        AUROC: torchmetrics.multilabel_auroc,
        MAP: torchmetrics.multilabel_average_precision,
    }
    predictions, inputs = (
        {"labels": labels, "said": logits > 0, "scores": logits},
        (torch.tensor(logits), torch.tensor(labels).int()),
    )
    assert_equal(predictions, references, *inputs, num_labels=CLASSES, average="macro")


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_calibration_error_equals_torchmetrics(torchmetrics: Any, classes: int) -> None:
    random = np.random.default_rng(0)
    chances = torch.tensor(2 * random.normal(size=(COUNT, classes))).softmax(1)
    labels = torch.tensor(random.integers(0, classes, COUNT))
    expected = torchmetrics.multiclass_calibration_error(chances, labels, num_classes=classes, n_bins=15, norm="l1")
    confidence, said = (part.numpy() for part in chances.max(1))
    assert calibration(confidence, said == labels.numpy()).ece == pytest.approx(float(expected), abs=1e-6)
