"""Predictions of a run on the test images, read from its folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from frostline.core.metrics import ACCURACY, METRICS, Metric
from frostline.records.layout import PREDICTIONS
from frostline.records.result import ECE
from frostline.report.calibration import calibration
from frostline.report.metric_scores import RANKED, Array, Measured, measure, scores_of
from frostline.report.statistics import Floats, Ints


@dataclass(frozen=True)
class Predictions:
    """The predictions of a run on the test images."""

    predicted: Array
    """`(N,)` int: the predicted classes; or multi-label `(N, classes)` bool."""
    confidence: Floats
    """The probabilities of the predictions, of the same shape, float32."""
    loss: Floats
    """`(N,)`: the cross-entropy in nats, float32."""
    logits: Floats | None
    """`(N, classes)` float32; None where there were too many to keep."""
    labels: Array
    """The true classes, in the same form as `predicted`."""
    ids: Ints
    """`(N,)`: the index of each image in the split's source."""
    groups: Ints | None
    """`(N,)`: the id of the first image of each image's group (a patient, a plate); None if no two share a group."""

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.labels.ndim == 2

    @property
    def right(self) -> Array:
        """`(N,)` bool: whether the prediction is right, for multi-label images in all classes."""
        found = self.predicted == self.labels
        return found.all(1) if self.multi_label else found

    def measured(self, metric: Metric) -> Measured | None:
        """Return the value of `metric` and its influences, as `metric_scores.measure` does."""
        scores = None
        if self.logits is not None and metric in RANKED:  # slower than the other metrics
            scores = scores_of(self.logits, self.labels)
        return measure(metric, self.labels, self.predicted, loss=self.loss, scores=scores)

    def decisions(self) -> tuple[Floats, Array]:
        """Return the probability of each decision, one per image (multi-label: per class), and whether it is right."""
        return self.confidence.ravel(), (self.predicted == self.labels).ravel()

    def metrics(self) -> dict[str, float]:
        """Return all metrics that these predictions define, but for accuracy, by their names on the test split."""
        found = {one.test: measured.value for one in METRICS.values() if (measured := self.measured(one))}
        found[ECE] = calibration(*self.decisions()).ece
        return {name: value for name, value in found.items() if math.isfinite(value)}


def read(folder: str) -> Predictions | None:
    """Return the predictions of the run in `folder`; None where they cannot be read."""
    try:
        found = load_file(Path(folder) / PREDICTIONS)
        ids = found["ids"].astype(np.int64)  # the file may have a narrower type
        labels, groups = found["labels"], found["groups"].astype(np.int64) if "groups" in found else None
        if labels.ndim == 2:
            return _of_several(found["logits"], labels, ids, groups)
        if "logits" in found:
            return _of_one(found["logits"], labels, ids, groups)
        predicted, chances = found["top_classes"][:, 0], found["top_log_probabilities"][:, 0]
        return Predictions(predicted, np.exp(chances), -found["label_log_probabilities"], None, labels, ids, groups)
    except (OSError, SafetensorError, KeyError, IndexError):
        return None


def read_alike(folders: Iterable[str]) -> list[Predictions]:
    """Return the readable predictions of the runs in `folders`, as far as they are of the same images as the first."""
    every = [found for folder in folders if (found := read(folder))]
    return [found for found in every if np.array_equal(found.ids, every[0].ids)]


def right_in(found: Sequence[Predictions]) -> Array:
    """Return `(N,)` whether a run got each image right, bool; for several runs the share of them, float64."""
    return found[0].right if len(found) == 1 else np.mean([one.right for one in found], axis=0)


def influences(found: Sequence[Predictions], by: Metric) -> tuple[Array, float] | None:
    """Return the influence `(runs, N)` of each image on each run, and the least error; None where they are unknown."""
    if by == ACCURACY:
        right = np.array([one.right for one in found], np.float64)
        return right - right.mean(1, keepdims=True), 1 / right.shape[1]
    known = [measured for one in found if len(one.ids) and (measured := one.measured(by))]
    return (np.array([one.influence for one in known]), known[0].least) if len(known) == len(found) else None


def _of_one(logits: Floats, labels: Array, ids: Ints, groups: Ints | None) -> Predictions:
    """Return the predictions that follow from the logits of images with one class each."""
    predicted, rows = logits.argmax(1), np.arange(len(logits))
    with np.errstate(invalid="ignore", over="ignore"):  # logits of a run that diverged
        below = logits.astype(np.float64) - logits[rows, predicted][:, None]  # at most 0: no exponential overflows
        total = np.log(np.exp(below).sum(1))
        confidence, loss = np.exp(-total).astype(np.float32), (total - below[rows, labels]).astype(np.float32)
    return Predictions(predicted, confidence, loss, logits, labels, ids, groups)


def _of_several(logits: Floats, labels: Array, ids: Ints, groups: Ints | None) -> Predictions:
    """Return the predictions that follow from the logits of multi-label images."""
    every = np.logaddexp(0, np.where(labels, -logits, logits))  # binary cross-entropy per class
    confidence = 1 / (1 + np.exp(-np.abs(logits)))
    return Predictions(logits > 0, confidence, every.mean(1), logits, labels, ids, groups)
