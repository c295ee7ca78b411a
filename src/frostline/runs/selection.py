"""The selection metric (`select`), by which epochs, settings of a solved head and cells are chosen."""

from __future__ import annotations

from torch import Tensor

from frostline.core.labels import predicted, right
from frostline.core.metrics import ACCURACY, AUROC, LOSS, MAP, Metric
from frostline.data.splits import Split
from frostline.report import statistics
from frostline.report.metric_scores import measure, scores_of
from frostline.training.evaluation import Evaluation

EFFECTIVE = "val/effective_images"
"""Metric of an epoch: the effective number of independent validation images, if images come in groups."""


def value(by: Metric, scored: Evaluation, labels: Tensor) -> float:
    """Return the value of the metric `by` for an evaluation; `labels` must be on the CPU."""
    if by in (ACCURACY, LOSS):
        return scored.accuracy if by == ACCURACY else scored.loss
    scores = scores_of(scored.logits.numpy(), labels.numpy()) if by in (AUROC, MAP) else None
    found = measure(by, labels.numpy(), predicted(scored.logits, labels).numpy(), scores=scores)
    assert found is not None
    return found.value


def of_epoch(by: Metric, scored: Evaluation, val: Split) -> dict[str, float]:
    """Return the validation metrics of an epoch besides loss and accuracy, by name."""
    worth = {} if val.groups is None else {EFFECTIVE: effective_images(scored, val)}
    return {by.epoch: value(by, scored, val.labels), **worth}


def effective_images(scored: Evaluation, split: Split) -> float:
    """Return the effective number of independent images in a grouped split, for the interval of its accuracy."""
    assert split.groups is not None
    return statistics.effective_images(right(scored.logits, split.labels).numpy(), split.groups.numpy())


def rank(by: Metric, scored: Evaluation, labels: Tensor) -> tuple[float, float]:
    """Return a sort key that is smallest for the best result: by the metric, then by the loss."""
    return -by.sign * value(by, scored, labels), scored.loss
