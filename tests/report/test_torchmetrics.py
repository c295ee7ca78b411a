"""Measures are those of torchmetrics, in which people know them, as well as of scikit-learn."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

from frostline.core.metrics import AUROC, BALANCED_ACCURACY, MACRO_F1, MAP, Metric
from frostline.report.metric_scores import Said, log_odds, measure

COUNT, CLASSES = 200, 5


@pytest.fixture
def theirs() -> Any:
    """Return torchmetrics' functions, which only who runs this loads."""
    return importlib.import_module("torchmetrics.functional.classification")


def value(metric: Metric, said: Said) -> float:
    found = measure(metric, said)
    assert found is not None
    return found.value


def test_of_one_class_an_image(theirs: Any) -> None:
    random = np.random.default_rng(0)
    labels = random.choice(CLASSES, COUNT, p=(0.6, 0.2, 0.1, 0.05, 0.05))
    logits = random.normal(size=(COUNT, CLASSES))
    logits[np.arange(COUNT), labels] += 1
    guessed, target, how = torch.tensor(logits), torch.tensor(labels), {"num_classes": CLASSES, "average": "macro"}
    said = Said(labels, logits.argmax(1), scores=log_odds(logits))
    assert value(BALANCED_ACCURACY, said) == pytest.approx(float(theirs.multiclass_recall(guessed, target, **how)))
    assert value(MACRO_F1, said) == pytest.approx(float(theirs.multiclass_f1_score(guessed, target, **how)))
    assert value(AUROC, said) == pytest.approx(float(theirs.multiclass_auroc(guessed, target, **how)))
    assert value(MAP, said) == pytest.approx(float(theirs.multiclass_average_precision(guessed, target, **how)))


def test_of_several_classes_an_image(theirs: Any) -> None:
    random = np.random.default_rng(0)
    labels = random.random((COUNT, CLASSES)) < (0.05, 0.2, 0.4, 0.6, 0.9)
    logits = random.normal(size=labels.shape) + labels
    guessed, target = torch.tensor(logits), torch.tensor(labels).int()
    how = {"num_labels": CLASSES, "average": "macro"}
    said = Said(labels, logits > 0, scores=logits)
    assert value(MACRO_F1, said) == pytest.approx(float(theirs.multilabel_f1_score(guessed, target, **how)))
    assert value(AUROC, said) == pytest.approx(float(theirs.multilabel_auroc(guessed, target, **how)))
    assert value(MAP, said) == pytest.approx(float(theirs.multilabel_average_precision(guessed, target, **how)))
