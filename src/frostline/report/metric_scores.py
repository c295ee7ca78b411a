"""Balanced accuracy, macro F1, mAP, AUROC and loss of a split, and the influence of each image on them.

The influence of an image is the derivative of the metric by the image's weight, times the number of images; the mean
influence is 0. The variance of a metric, or of the difference of two on the same images, is the variance of the
influences divided by their number (the delete-one jackknife in the limit; for AUROC it is E. DeLong et al. 1988).

Means over classes leave out the classes without an image in the split. Labels and classes are as in `core.labels`:
`(N,)` numbers, or multi-label `(N, classes)` bool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from frostline.core.metrics import AUROC, BALANCED_ACCURACY, LOSS, MACRO_F1, MAP, Metric

Array = npt.NDArray[Any]

RANKED = (AUROC, MAP)
"""Metrics that rank the images of each class by score, and so need scores."""


@dataclass(frozen=True)
class Measured:
    """The value of a metric on a split, with the influence of each image."""

    value: float
    """nan where the metric is not defined on the split."""
    influence: Array
    """`(N,)` float64, in units of the metric."""
    least: float
    """Half of the most by which one image of the rarest class can move the value; see `statistics.by_influence`."""


def log_odds(logits: Array) -> Array:
    """Return the log-odds log(p / (1 - p)) of each class, `(N, classes)` float64, for `(N, classes)` logits.

    They rise with the probability p, but still differ where p rounds to 1 in floating point.
    """
    odds: Array = logits.astype(np.float64)
    first = odds.argmax(1)[:, None]
    every, best = np.logaddexp.reduce(odds, 1, keepdims=True), np.take_along_axis(odds, first, 1)
    np.put_along_axis(odds, first, -np.inf, 1)
    rest = np.logaddexp.reduce(odds, 1, keepdims=True)
    odds -= every + np.log1p(-np.exp(odds - every))
    np.put_along_axis(odds, first, best - rest, 1)
    return odds


def scores_of(logits: Array, labels: Array) -> Array:
    """Return the scores that rank the images of a class: log-odds, or the logits if multi-label."""
    return logits if labels.ndim == 2 else log_odds(logits)


def measure(
    metric: Metric, labels: Array, said: Array, *, loss: Array | None = None, scores: Array | None = None
) -> Measured | None:
    """Return the value of `metric` on a split.

    None for accuracy, for balanced accuracy of multi-label images, and where the loss or scores needed are missing.

    `labels` are the true and `said` the predicted classes, `loss` `(N,)` the cross-entropy in nats, `scores`
    `(N, classes)` the probabilities or a monotone function of them.
    """
    several = labels.ndim == 2
    if metric == BALANCED_ACCURACY:
        return None if several else _balanced_accuracy(labels, said)
    if metric == MACRO_F1:
        return (_macro_f1_of_several if several else _macro_f1)(labels, said)
    if metric == LOSS and loss is not None:
        nats = loss.astype(np.float64)
        return Measured(float(nats.mean()), nats - nats.mean(), 0.0)
    if metric in RANKED and scores is not None:
        return _over_classes(_auroc if metric == AUROC else _average_precision, labels, scores)
    return None


def _balanced_accuracy(labels: Array, said: Array) -> Measured:
    """Return the mean over classes of recall."""
    counts = np.bincount(labels)
    right = labels == said
    recall = np.bincount(labels, right) / np.maximum(counts, 1)
    seen = counts > 0
    influence = len(labels) / (seen.sum() * counts[labels]) * (right - recall[labels])
    return Measured(float(recall[seen].mean()), influence, _least(counts[seen]))


def _macro_f1(labels: Array, said: Array) -> Measured:
    """Return the mean over classes of F1: twice the true positives, over images of the class plus predictions of it."""
    length = int(max(labels.max(), said.max())) + 1
    counts = np.bincount(labels, minlength=length)
    both = np.maximum(counts + np.bincount(said, minlength=length), 1)
    f1 = 2 * np.bincount(labels, labels == said, minlength=length) / both
    seen = counts > 0
    of_label, of_said = ((f1 * seen / both)[classes] for classes in (labels, said))
    influence = len(labels) / seen.sum() * (2 * (labels == said) / both[labels] - of_label - of_said)
    return Measured(float(f1[seen].mean()), influence, _least(counts[seen]))


def _macro_f1_of_several(labels: Array, said: Array) -> Measured:
    """Return macro F1 of multi-label images: the mean over columns of F1."""
    counts = labels.sum(0)
    both = np.maximum(counts + said.sum(0), 1)
    f1, seen = 2 * (labels & said).sum(0) / both, counts > 0
    if not seen.any():  # no image has a class
        return Measured(float("nan"), np.zeros(len(labels)), 0.0)
    moved = (2 * (labels & said) - f1 * (labels.astype(np.int8) + said)) / both
    influence = len(labels) / seen.sum() * moved[:, seen].sum(1)
    return Measured(float(f1[seen].mean()), influence, _least(counts[seen]))


def _over_classes(of_class: Callable[[Array, Array], tuple[float, Array]], labels: Array, scores: Array) -> Measured:
    """Return the mean over classes of a ranking metric, given as a function of membership and scores, both `(N,)`."""
    several, classes = labels.ndim == 2, scores.shape[1]
    counts = labels.sum(0) if several else np.bincount(labels, minlength=classes)
    known = np.flatnonzero((counts > 0) & (counts < len(labels)))
    influence, values = np.zeros(len(labels)), []
    for k in known:
        value, moved = of_class(labels[:, k] if several else labels == k, scores[:, k].astype(np.float64))
        values.append(value)
        influence += moved
    if not values:
        return Measured(float("nan"), influence, 0.0)
    rarer = np.minimum(counts, len(labels) - counts)[known]  # the rarer of positives and negatives
    return Measured(float(np.mean(values)), influence / len(known), _least(rarer))


def _auroc(mine: Array, score: Array) -> tuple[float, Array]:
    """Return the probability that an image of the class scores higher than another image, and the influences."""
    above, below = _beaten(score[mine], score[~mine]), 1 - _beaten(score[~mine], score[mine])
    influence = np.empty(len(mine))
    influence[mine] = (above - above.mean()) * len(mine) / mine.sum()
    influence[~mine] = (below - below.mean()) * len(mine) / (~mine).sum()
    return float(above.mean()), influence


def _average_precision(mine: Array, score: Array) -> tuple[float, Array]:
    """Return the mean precision at the scores of the class's images (average precision), and the influences.

    As in scikit-learn. Of n images of the class, let P be the precision and M the number of all images at or above a
    score. An image contributes (its P - AP) / n if it is of the class, and (y - P) / (n M) at the threshold of each
    image of the class that does not score higher, with y = 1 if it is of the class itself, else 0.
    """
    _, level = np.unique(-score, return_inverse=True)  # 0 is the highest
    everyone = np.bincount(level).cumsum()
    of_class = np.bincount(level[mine], minlength=len(everyone))
    precision = of_class.cumsum() / everyone
    n = mine.sum()
    value = float(of_class @ precision / n)
    gained, lost = (of_class * part / everyone for part in (1 - precision, precision))
    below = [part[::-1].cumsum()[::-1] for part in (gained, lost)]  # at its own level and at lower ones
    influence = np.where(mine, precision[level] - value + below[0][level], -below[1][level])
    return value, influence * len(mine) / n


def _beaten(scores: Array, others: Array) -> Array:
    """Return for each score the share of `others` that are lower; equal ones count half."""
    ranked = np.sort(others)
    both = [np.searchsorted(ranked, scores, side) for side in ("left", "right")]
    return (both[0] + both[1]) / (2 * len(others))


def _least(counts: Array) -> float:
    return float(1 / (2 * len(counts) * counts.min()))
