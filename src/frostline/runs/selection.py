"""How a network does by the metric that epochs, settings of a solved head and cells are chosen by (`select`)."""

from __future__ import annotations

from torch import Tensor

from frostline.core.metrics import ACCURACY, AUROC, LOSS, Metric
from frostline.report.measures import Said, log_odds, measure
from frostline.training.evaluation import Evaluation


def value(by: Metric, scored: Evaluation, labels: Tensor) -> float:
    """Return what `by` is of the samples that were `scored`, whose labels `(N,)` lie on the CPU."""
    if by in (ACCURACY, LOSS):
        return scored.accuracy if by == ACCURACY else scored.loss
    scores = log_odds(scored.logits.numpy()) if by == AUROC else None
    found = measure(by, Said(labels.numpy(), scored.logits.argmax(1).numpy(), scores=scores))
    assert found is not None
    return found.value


def rank(by: Metric, scored: Evaluation, labels: Tensor) -> tuple[float, float]:
    """Return what is smallest for the best of several: by the metric, of equals by the loss."""
    return -by.sign * value(by, scored, labels), scored.loss
