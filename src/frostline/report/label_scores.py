"""How multi-label predictions do class by class: precision, recall, F1 and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.core.metrics import MAP
from frostline.report.measures import Array, Said, measure


@dataclass(frozen=True)
class LabelScores:
    """Counts for each class, `(classes,)` each."""

    images: Array
    """Test images that are of the class."""
    said: Array
    """Test images of which it was said."""
    right: Array
    """Those of which both holds."""
    average_precision: Array
    """A fraction in 0..1; nan for a class of which no image is, or all are."""


def of(labels: Array, logits: Array) -> LabelScores:
    """Return the scores of the classes, for labels `(N, classes)` bool and logits of the same shape."""
    said = logits > 0
    columns = (Said(labels[:, [k]], said[:, [k]], scores=logits[:, [k]]) for k in range(labels.shape[1]))
    every = [found.value for one in columns if (found := measure(MAP, one))]
    return LabelScores(labels.sum(0), said.sum(0), (labels & said).sum(0), np.array(every))


def rows(found: LabelScores, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each class, JSON-able; None for what is not defined."""
    f1 = _ratio(2 * found.right, found.images + found.said)
    columns = {
        "class": list(classes),
        "images": found.images.tolist(),
        "precision": _ratio(found.right, found.said),
        "recall": _ratio(found.right, found.images),
        "f1": f1,
        "average_precision": [None if np.isnan(value) else float(value) for value in found.average_precision],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _ratio(parts: Array, wholes: Array) -> list[float | None]:
    return [part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)]
