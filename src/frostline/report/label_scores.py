"""How multi-label predictions do class by class: precision, recall and F1, and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.core.metrics import MAP
from frostline.report.metric_scores import Array, Said, measure


@dataclass(frozen=True)
class LabelScores:
    """Counts for each class, `(classes,)` each."""

    images: Array
    """Test images that are of the class."""
    said: Array
    """Test images of which it was said."""
    right: Array
    """Those of which both holds."""

    @property
    def shares(self) -> dict[str, list[float | None]]:
        """Precision, recall and F1 of each class by their names, fractions in 0..1; None for what is not defined."""
        return {
            "precision": _ratio(self.right, self.said),
            "recall": _ratio(self.right, self.images),
            "f1": _ratio(2 * self.right, self.images + self.said),
        }


def of(labels: Array, said: Array) -> LabelScores:
    """Return the scores of the classes, for true and predicted labels `(N, classes)` bool."""
    return LabelScores(labels.sum(0), said.sum(0), (labels & said).sum(0))


def rows(labels: Array, logits: Array, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each class, JSON-able, for labels `(N, classes)` bool; None for what is not defined."""
    found = of(labels, said := logits > 0)
    ranked = (Said(labels[:, [k]], said[:, [k]], scores=logits[:, [k]]) for k in range(len(classes)))
    precisions = [one.value for each in ranked if (one := measure(MAP, each))]
    columns = {
        "class": list(classes),
        "images": found.images.tolist(),
        **found.shares,
        "average_precision": [None if np.isnan(value) else value for value in precisions],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _ratio(parts: Array, wholes: Array) -> list[float | None]:
    return [part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)]
