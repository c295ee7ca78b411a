"""What a run said of the test images, read again from its folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from frostline.core.metrics import Metric
from frostline.records.layout import PREDICTIONS
from frostline.report.metric_scores import RANKED, Array, Measured, Said, measure, scores_of
from frostline.report.statistics import Floats, Ints


@dataclass(frozen=True)
class Predictions:
    """What a run said of the test images."""

    said: Array
    """`(N,)` int: the predicted classes; or multi-label `(N, classes)` bool."""
    confidence: Floats
    """Of the same shape: the probabilities of what is said, float32."""
    loss: Floats
    """`(N,)`: the cross-entropy in nats, float32."""
    logits: Floats | None
    """`(N, classes)` float32; None where they were too many to be kept."""
    labels: Array
    """The true classes, in the form of the predicted ones."""
    ids: Ints
    """`(N,)`: which image of the split's source each row is."""
    groups: Ints | None
    """`(N,)`: of each image the id of the first one of its group (a patient, a plate); None where no two are."""

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return self.labels.ndim == 2

    @property
    def right(self) -> Array:
        """`(N,)` bool: of which images all is right that is said."""
        found = self.said == self.labels
        return found.all(1) if self.multi_label else found

    def measured(self, metric: Metric) -> Measured | None:
        """Return what `metric` is of them, as `metric_scores.measure` does."""
        scores = None
        if self.logits is not None and metric in RANKED:  # they take longer than what needs none
            scores = scores_of(self.logits, self.labels)
        return measure(metric, Said(self.labels, self.said, self.loss, scores))


def read(folder: str) -> Predictions | None:
    """Return what the run in `folder` predicted, None where that cannot be read."""
    try:
        found = load_file(Path(folder) / PREDICTIONS)
        ids = found["ids"].astype(np.int64)  # in the file they may be narrower
        labels, groups = found["labels"], found["groups"].astype(np.int64) if "groups" in found else None
        if labels.ndim == 2:
            return _of_several(found["logits"], labels, ids, groups)
        if "logits" in found:
            return _of_one(found["logits"], labels, ids, groups)
        said, chances = found["top_classes"][:, 0], found["top_log_probabilities"][:, 0]
        return Predictions(said, np.exp(chances), -found["label_log_probabilities"], None, labels, ids, groups)
    except (OSError, SafetensorError, KeyError, IndexError):
        return None


def read_alike(folders: Iterable[str]) -> list[Predictions]:
    """Return what those of the runs in `folders` predicted that can be read, of the same images as the first one."""
    every = [found for folder in folders if (found := read(folder))]
    return [found for found in every if np.array_equal(found.ids, every[0].ids)]


def right_in(found: Sequence[Predictions]) -> Array:
    """Return `(N,)` which images a run got right, bool; of several runs the share of them, float64."""
    return found[0].right if len(found) == 1 else np.mean([one.right for one in found], axis=0)


def _of_one(logits: Floats, labels: Array, ids: Ints, groups: Ints | None) -> Predictions:
    """Return the predictions of images of one class each, all of which follows from the logits, too."""
    said, rows = logits.argmax(1), np.arange(len(logits))
    with np.errstate(invalid="ignore", over="ignore"):  # of a run that diverged
        below = logits.astype(np.float64) - logits[rows, said][:, None]  # no exponential of them is too large
        total = np.log(np.exp(below).sum(1))
        confidence, loss = np.exp(-total).astype(np.float32), (total - below[rows, labels]).astype(np.float32)
    return Predictions(said, confidence, loss, logits, labels, ids, groups)


def _of_several(logits: Floats, labels: Array, ids: Ints, groups: Ints | None) -> Predictions:
    """Return the predictions of multi-label images, all of which follows from the logits."""
    every = np.logaddexp(0, np.where(labels, -logits, logits))  # minus the log-probability of what holds
    confidence = 1 / (1 + np.exp(-np.abs(logits)))
    return Predictions(logits > 0, confidence, every.mean(1), logits, labels, ids, groups)
