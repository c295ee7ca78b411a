"""What is right without having learned anything: to name the largest class of the test split every time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frostline.core import files
from frostline.core.metrics import ACCURACY, AUROC, BALANCED_ACCURACY, MACRO_F1, MAP, Metric
from frostline.records.layout import PER_CLASS
from frostline.report import predictions, statistics
from frostline.report.paired_difference import Difference, Repeat, over, paired
from frostline.report.predictions import Predictions
from frostline.report.statistics import Ints


@dataclass(frozen=True)
class Baseline:
    """The largest class of a test split, or of the test splits of all folds."""

    name: str
    label: int
    share: float
    """Of the test images, of folds the mean: the accuracy of whoever always names it."""
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
            MAP: 1 / self.tested,  # the mean share of a class
        }
        return found.get(by, math.nan)


def of(repeats: Sequence[Repeat]) -> Baseline | None:
    """Return the baseline of the test split of a cell, of folds of all their splits; None where a run left none."""
    every = repeats if repeats[0].overlap is not None else repeats[:1]
    found = [_images(repeat.folders[0]) for repeat in every]
    names = [name for name, _ in found[0]]
    if any([name for name, _ in one] != names for one in found):
        return None
    counts = np.array([[count for _, count in one] for one in found], np.int64)
    if not names or not counts.sum(1).all():
        return None
    images = counts.sum(0)
    label = int(images.argmax())
    share = float((counts[:, label] / counts.sum(1)).mean())
    untested = tuple(name for name, count in zip(names, images, strict=True) if not count)
    return Baseline(names[label], label, share, len(images) - len(untested), untested)


def _images(folder: str) -> list[tuple[str, int]]:
    """Return how many test images of each class the run in `folder` had; nothing where it did not leave that."""
    try:
        told = files.read_json(Path(folder) / PER_CLASS)
        classes = [(str(row["class"]), int(row["images"])) for row in told if "recall" not in row]  # of multi-label
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return []
    return [] if min((count for _, count in classes), default=0) < 0 else classes


def lead(repeats: Sequence[Repeat], baseline: Baseline) -> Difference | None:
    """Return by how much a cell is before the baseline, image by image; None where predictions are not there.

    Of several seeds each image counts with the share of them that got it right: the baseline has no seeds, so that
    chance is in the images alone. Of folds, each of which has test images of its own, it is the mean.
    """
    runs = [repeat.folders for repeat in repeats]
    parts = runs if repeats[0].overlap is not None else [tuple(itertools.chain(*runs))]
    every = [found for folders in parts if (found := predictions.read_alike(folders))]
    if not every or not all(len(found[0].ids) for found in every):
        return None
    right = [predictions.right_in(found) for found in every]
    largest = [found[0].labels == baseline.label for found in every]
    scores = (float(np.mean([one.mean() for one in right])), float(np.mean([one.mean() for one in largest])))
    gap, groups = scores[0] - scores[1], every[0][0].groups
    if len(every) > 1:
        groups, count = _of_folds([found[0] for found in every]), sum(map(len, right))
        apart = [one - two.astype(np.float64) for one, two in zip(right, largest, strict=True)]
        influence = [(one - one.mean()) * count / len(every) / len(one) for one in apart]
        within, how = statistics.by_influence(gap, np.concatenate(influence), 1 / count, groups), "paired jackknife"
    else:
        within, how = paired(right[0], largest[0], groups)
    images = over(np.concatenate(right), groups)
    return Difference(gap, scores, within, f"{how} {images}", max(map(len, every)), True)


def _of_folds(every: Sequence[Predictions]) -> Ints | None:
    """Return the groups of the images of folds, one after the other, none of which is in two folds."""
    if all(found.groups is None for found in every):
        return None
    return np.concatenate([found.ids if found.groups is None else found.groups for found in every])
