"""How a network does by the metric that epochs, settings of a solved head and cells are chosen by (`select`)."""

from __future__ import annotations

from torch import Tensor

from frostline.core.labels import predicted, right
from frostline.core.metrics import ACCURACY, AUROC, LOSS, MAP, Metric
from frostline.data.splits import Split
from frostline.report.metric_scores import Said, measure, scores_of
from frostline.training.evaluation import Evaluation

EFFECTIVE = "val/effective_images"
"""Of an epoch: how many independent images those of validation are worth, where they come in groups."""


def value(by: Metric, scored: Evaluation, labels: Tensor) -> float:
    """Return what `by` is of the samples that were `scored`, whose labels lie on the CPU."""
    if by in (ACCURACY, LOSS):
        return scored.accuracy if by == ACCURACY else scored.loss
    scores = scores_of(scored.logits.numpy(), labels.numpy()) if by in (AUROC, MAP) else None
    found = measure(by, Said(labels.numpy(), predicted(scored.logits, labels).numpy(), scores=scores))
    assert found is not None
    return found.value


def of_epoch(by: Metric, scored: Evaluation, val: Split) -> dict[str, float]:
    """Return what an epoch's line has of the validation split beside loss and accuracy, by name."""
    worth = {} if val.groups is None else {EFFECTIVE: effective_images(scored, val)}
    return {by.epoch: value(by, scored, val.labels), **worth}


def effective_images(scored: Evaluation, split: Split) -> float:
    """Return how many independent images a split in groups is worth for an interval of the accuracy that was scored."""
    from frostline.report import statistics  # brings SciPy, for groups alone

    assert split.groups is not None
    return statistics.effective_images(right(scored.logits, split.labels).numpy(), split.groups.numpy())


def rank(by: Metric, scored: Evaluation, labels: Tensor) -> tuple[float, float]:
    """Return what is smallest for the best of several: by the metric, of equals by the loss."""
    return -by.sign * value(by, scored, labels), scored.loss
