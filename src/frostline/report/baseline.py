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
from frostline.report.paired_difference import Difference, Repeat, over, paired
from frostline.report.predictions import Predictions
from frostline.report.statistics import Ints


@dataclass(frozen=True)
class Baseline:
    """The largest class of a test split, or of the test splits of all folds."""

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


def of(repeats: Sequence[Repeat]) -> Baseline | None:
    """Return the baseline of the test split of a cell, of folds of all their splits; None where a run left none."""
    every = repeats if repeats[0].overlap is not None else repeats[:1]
    found = [_images(repeat.folder) for repeat in every]
    names = [name for name, _ in found[0]]
    if any([name for name, _ in one] != names for one in found):
        return None
    images = [sum(count for _, count in of_class) for of_class in zip(*found, strict=True)]
    if not images or not sum(images):
        return None
    label = images.index(max(images))
    untested = tuple(name for name, count in zip(names, images, strict=True) if not count)
    return Baseline(names[label], label, images[label] / sum(images), len(images) - len(untested), untested)


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
    chance is in the images alone.
    """
    every = [found for repeat in repeats if (found := predictions.read(repeat.folder))]
    if not every or not len(every[0].ids):
        return None
    if repeats[0].overlap is not None:  # folds, of which each has test images of its own
        said = [np.concatenate([found.said for found in every])]
        labels, groups = np.concatenate([found.labels for found in every]), _of_folds(every)
    else:
        alike = [found for found in every if np.array_equal(found.ids, every[0].ids)]
        said, labels, groups = [found.said for found in alike], every[0].labels, every[0].groups
    largest = labels == baseline.label
    right = [one == labels for one in said]
    if len(right) == 1 or groups is not None:
        within, how = paired(right[0] if len(right) == 1 else np.mean(right, axis=0), largest, groups)
    else:
        within, how = statistics.bootstrap(np.mean(right, axis=0) - largest), "paired bootstrap"
    scores = (float(np.mean(right)), float(largest.mean()))
    return Difference(scores[0] - scores[1], scores, within, f"{how} {over(labels, groups)}", len(right), True)


def _of_folds(every: Sequence[Predictions]) -> Ints | None:
    """Return the groups of the images of folds, one after the other, none of which is in two folds."""
    if all(found.groups is None for found in every):
        return None
    return np.concatenate([found.ids if found.groups is None else found.groups for found in every])
