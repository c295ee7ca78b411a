"""Scores of multi-label predictions per class: precision, recall, F1 and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.core.metrics import MAP
from frostline.report.metric_scores import Array, measure


@dataclass(frozen=True)
class LabelScores:
    """Counts per class, each `(classes,)`."""

    images: Array
    """Test images of the class."""
    said: Array
    """Test images for which the class was predicted."""
    right: Array
    """Test images of the class for which it was predicted."""

    @property
    def shares(self) -> dict[str, list[float | None]]:
        """Precision, recall and F1 of each class by name, fractions in 0..1; None where they are not defined."""
        return {
            "precision": _ratio(self.right, self.said),
            "recall": _ratio(self.right, self.images),
            "f1": _ratio(2 * self.right, self.images + self.said),
        }


def of(labels: Array, said: Array) -> LabelScores:
    """Return the scores of the classes, for true and predicted labels `(N, classes)` bool."""
    return LabelScores(labels.sum(0), said.sum(0), (labels & said).sum(0))


def rows(labels: Array, logits: Array, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a JSON-able row per class, for labels `(N, classes)` bool; None stands for a score that is not defined."""
    found = of(labels, said := logits > 0)
    ranked = (measure(MAP, labels[:, [k]], said[:, [k]], scores=logits[:, [k]]) for k in range(len(classes)))
    precisions = [one.value for one in ranked if one]
    columns = {
        "class": list(classes),
        "images": found.images.tolist(),
        **found.shares,
        "average_precision": [None if np.isnan(value) else value for value in precisions],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _ratio(parts: Array, wholes: Array) -> list[float | None]:
    return [part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)]
