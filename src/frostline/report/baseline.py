"""What is right without having learned anything: to name the largest class of the test split every time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frostline.core import files
from frostline.core.metrics import ACCURACY, AUROC, BALANCED_ACCURACY, MACRO_F1, Metric
from frostline.records.layout import PER_CLASS
from frostline.report import predictions, statistics
from frostline.report.paired_difference import Difference, Trial


@dataclass(frozen=True)
class Baseline:
    """The largest class of a test split."""

    name: str
    label: int
    share: float
    """Of the test images: the accuracy of whoever always names it."""
    tested: int
    """Classes of which the test split has an image."""
    untested: tuple[str, ...]
    """Classes of which the test split has no image."""

    def value(self, by: Metric) -> float:
        """Return what whoever always names it comes to; nan for a loss, which the share of a class does not tell."""
        found = {
            ACCURACY: self.share,
            BALANCED_ACCURACY: 1 / self.tested,
            MACRO_F1: 2 * self.share / (1 + self.share) / self.tested,
            AUROC: 0.5,
        }
        return found.get(by, math.nan)


def of(folder: str) -> Baseline | None:
    """Return the baseline of the test split of the run in `folder`; None where its run did not leave it."""
    try:
        told = files.read_json(Path(folder) / PER_CLASS)
        classes = [(str(row["class"]), int(row["images"])) for row in told if "recall" not in row]  # of multi-label
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    images = [count for _, count in classes]
    if not images or min(images) < 0 or not sum(images):
        return None
    label = images.index(max(images))
    untested = tuple(name for name, count in classes if not count)
    tested = len(images) - len(untested)
    return Baseline(classes[label][0], label, images[label] / sum(images), tested, untested)


def lead(trials: Sequence[Trial], baseline: Baseline) -> Difference | None:
    """Return by how much a cell is before the baseline, image by image; None where predictions are not there.

    Of several seeds each image counts with the share of them that got it right: the baseline has no seeds, so that
    chance is in the images alone.
    """
    every = [found for trial in trials if (found := predictions.read(trial.folder))]
    if not every or not len(every[0].ids):
        return None
    if trials[0].overlap is not None:  # folds, of which each has test images of its own
        said = [np.concatenate([found.said for found in every])]
        labels = np.concatenate([found.labels for found in every])
    else:
        alike = [found for found in every if np.array_equal(found.ids, every[0].ids)]
        said, labels = [found.said for found in alike], every[0].labels
    largest = labels == baseline.label
    right = [one == labels for one in said]
    if len(right) == 1:
        within = statistics.paired_bootstrap(right[0], largest)
    else:
        within = statistics.bootstrap(np.mean(right, axis=0) - largest)
    scores = (float(np.mean(right)), float(largest.mean()))
    how = f"paired bootstrap over {len(largest):,} test images"
    return Difference(scores[0] - scores[1], scores, within, how, len(right), True)
