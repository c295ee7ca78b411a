"""The selection metric (`select`), by which epochs, settings of a solved head and cells are chosen."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from frostline.core.labels import cross_entropies, predicted, right
from frostline.core.metrics import ACCURACY, AUROC, LOSS, MAP, Metric
from frostline.data.splits import Split
from frostline.report import statistics
from frostline.report.metric_scores import Measured, measure, scores_of
from frostline.training.evaluation import Evaluation

EFFECTIVE = "val/effective_images"
"""Metric of an epoch: the effective number of independent validation images, if images come in groups."""
MARGIN = "val/margin_of_error"
"""Metric of an epoch: half of the 95% interval over validation images of the selection metric; not for accuracy."""


def value(by: Metric, scored: Evaluation, labels: Tensor) -> float:
    """Return the value of the metric `by` for an evaluation; `labels` must be on the CPU."""
    if by in (ACCURACY, LOSS):
        return scored.accuracy if by == ACCURACY else scored.loss
    return _measured(by, scored, labels).value


def _measured(by: Metric, scored: Evaluation, labels: Tensor) -> Measured:
    """Return the value of a metric other than accuracy, with the influence of each image."""
    scores = scores_of(scored.logits.numpy(), labels.numpy()) if by in (AUROC, MAP) else None
    loss = cross_entropies(scored.logits, labels).numpy() if by == LOSS else None
    found = measure(by, labels.numpy(), predicted(scored.logits, labels).numpy(), loss=loss, scores=scores)
    assert found is not None
    return replace(found, value=scored.loss) if by == LOSS else found


def of_epoch(by: Metric, scored: Evaluation, val: Split) -> dict[str, float]:
    """Return the validation metrics of an epoch besides loss and accuracy, by name."""
    worth = {} if val.groups is None else {EFFECTIVE: effective_images(scored, val)}
    if by == ACCURACY:
        return {by.epoch: scored.accuracy, **worth}
    found = _measured(by, scored, val.labels)
    groups = None if val.groups is None else val.groups.numpy()
    within = statistics.by_influence(found.value, found.influence, found.least, groups)
    margin = {MARGIN: within.half} if within and math.isfinite(found.value) else {}
    return {by.epoch: found.value, **worth, **margin}


def effective_images(scored: Evaluation, split: Split) -> float:
    """Return the effective number of independent images in a grouped split, for the interval of its accuracy."""
    assert split.groups is not None
    return statistics.effective_images(right(scored.logits, split.labels).numpy(), split.groups.numpy())


def rank(by: Metric, scored: Evaluation, labels: Tensor) -> tuple[float, float]:
    """Return a sort key that is smallest for the best result: by the metric, then by the loss."""
    return -by.sign * value(by, scored, labels), scored.loss
