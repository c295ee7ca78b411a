"""How a network does by the metric that epochs, settings of a solved head and cells are chosen by (`select`)."""

from __future__ import annotations

from torch import Tensor

from frostline.core.labels import predicted
from frostline.core.metrics import ACCURACY, AUROC, LOSS, MAP, Metric
from frostline.report.metric_scores import Said, measure, scores_of
from frostline.training.evaluation import Evaluation


def value(by: Metric, scored: Evaluation, labels: Tensor) -> float:
    """Return what `by` is of the samples that were `scored`, whose labels lie on the CPU."""
    if by in (ACCURACY, LOSS):
        return scored.accuracy if by == ACCURACY else scored.loss
    scores = scores_of(scored.logits.numpy(), labels.numpy()) if by in (AUROC, MAP) else None
    found = measure(by, Said(labels.numpy(), predicted(scored.logits, labels).numpy(), scores=scores))
    assert found is not None
    return found.value


def rank(by: Metric, scored: Evaluation, labels: Tensor) -> tuple[float, float]:
    """Return what is smallest for the best of several: by the metric, of equals by the loss."""
    return -by.sign * value(by, scored, labels), scored.loss
