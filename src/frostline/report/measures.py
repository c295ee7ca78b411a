"""Balanced accuracy, macro F1, AUROC and loss of a split, and how much each of its images moves them.

The influence of an image is the derivative of the measure by the image's weight, times the number of images; its mean
over all is 0. The variance of a measure, and of the difference of two on the same images, is that of the influences
divided by their number (the delete-one jackknife in the limit; for AUROC it is E. DeLong et al. 1988).

Classes of which a split has no image are left out of means over classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from frostline.core.metrics import AUROC, BALANCED_ACCURACY, LOSS, MACRO_F1, Metric

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Said:
    """What a network said of a split."""

    labels: Array
    """`(N,)`: the true classes."""
    classes: Array
    """`(N,)`: the most probable ones."""
    loss: Array | None = None
    """`(N,)`: minus the logarithm of the probability of the true class."""
    scores: Array | None = None
    """`(N, classes)`: probabilities, or what rises with them over all images."""


@dataclass(frozen=True)
class Measured:
    """A measure of a split."""

    value: float
    """nan where the split does not define it."""
    influence: Array
    """`(N,)` float64, in units of the measure."""
    least: float
    """Half of what one image of the rarest class can move the value by, which intervals add: see `by_influence`."""


def log_odds(logits: Array) -> Array:
    """Return `(N, classes)` float64: of each class the logarithm of p / (1 - p), for `(N, classes)` logits.

    It rises with the probability p, but tells apart what is so sure that p is 1 in floating point.
    """
    odds: Array = logits.astype(np.float64)
    first = odds.argmax(1)[:, None]
    every, best = np.logaddexp.reduce(odds, 1, keepdims=True), np.take_along_axis(odds, first, 1)
    np.put_along_axis(odds, first, -np.inf, 1)
    rest = np.logaddexp.reduce(odds, 1, keepdims=True)
    odds -= every + np.log1p(-np.exp(odds - every))
    np.put_along_axis(odds, first, best - rest, 1)
    return odds


def measure(metric: Metric, said: Said) -> Measured | None:
    """Return what `metric` is of a split; None for accuracy, and where what it needs is not there."""
    if metric == BALANCED_ACCURACY:
        return _balanced_accuracy(said.labels, said.classes)
    if metric == MACRO_F1:
        return _macro_f1(said.labels, said.classes)
    if metric == LOSS and said.loss is not None:
        loss = said.loss.astype(np.float64)
        return Measured(float(loss.mean()), loss - loss.mean(), 0.0)
    if metric == AUROC and said.scores is not None:
        return _auroc(said.labels, said.scores)
    return None


def _balanced_accuracy(labels: Array, said: Array) -> Measured:
    """Return the mean over the classes of the share of their images that are right (recall)."""
    counts = np.bincount(labels)
    right = labels == said
    recall = np.bincount(labels, right) / np.maximum(counts, 1)
    seen = counts > 0
    influence = len(labels) / (seen.sum() * counts[labels]) * (right - recall[labels])
    return Measured(float(recall[seen].mean()), influence, _least(counts[seen]))


def _macro_f1(labels: Array, said: Array) -> Measured:
    """Return the mean over the classes of F1: twice those right, over those that are the class and that are said so."""
    length = int(max(labels.max(), said.max())) + 1
    counts = np.bincount(labels, minlength=length)
    both = np.maximum(counts + np.bincount(said, minlength=length), 1)
    f1 = 2 * np.bincount(labels, labels == said, minlength=length) / both
    seen = counts > 0
    of_label, of_said = ((f1 * seen / both)[classes] for classes in (labels, said))
    influence = len(labels) / seen.sum() * (2 * (labels == said) / both[labels] - of_label - of_said)
    return Measured(float(f1[seen].mean()), influence, _least(counts[seen]))


def _auroc(labels: Array, scores: Array) -> Measured:
    """Return the mean over the classes of the chance that an image of the class scores higher than another image."""
    counts = np.bincount(labels, minlength=scores.shape[1])
    known = [k for k, count in enumerate(counts) if 0 < count < len(labels)]
    influence, values = np.zeros(len(labels)), []
    for k in known:
        mine, score = labels == k, scores[:, k].astype(np.float64)
        above, below = _beaten(score[mine], score[~mine]), 1 - _beaten(score[~mine], score[mine])
        values.append(above.mean())
        influence[mine] += (above - above.mean()) * len(labels) / mine.sum()
        influence[~mine] += (below - below.mean()) * len(labels) / (~mine).sum()
    if not known:
        return Measured(float("nan"), influence, 0.0)
    return Measured(float(np.mean(values)), influence / len(known), _least(counts[known]))


def _beaten(scores: Array, others: Array) -> Array:
    """Return for each score the share of `others` that are lower, those that are equal counted as half."""
    ranked = np.sort(others)
    both = [np.searchsorted(ranked, scores, side) for side in ("left", "right")]
    return (both[0] + both[1]) / (2 * len(others))


def _least(counts: Array) -> float:
    return float(1 / (2 * len(counts) * counts.min()))
