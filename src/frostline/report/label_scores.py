"""Scores of multi-label predictions per class: precision, recall, F1 and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from frostline.core.metrics import MAP
from frostline.report.metric_scores import Array, measure


def shares(labels: Array, said: Array) -> dict[str, list[float | None]]:
    """Return precision, recall and F1 of each class by name, for true and predicted labels `(N, classes)` bool.

    They are fractions in 0..1; None where a score is not defined.
    """
    images, named, right = labels.sum(0), said.sum(0), (labels & said).sum(0)
    return {
        "precision": _ratio(right, named),
        "recall": _ratio(right, images),
        "f1": _ratio(2 * right, images + named),
    }


def rows(labels: Array, logits: Array, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a JSON-able row per class, for labels `(N, classes)` bool; None stands for a score that is not defined."""
    said = logits > 0
    ranked = (measure(MAP, labels[:, [k]], said[:, [k]], scores=logits[:, [k]]) for k in range(len(classes)))
    columns = {
        "class": list(classes),
        "images": labels.sum(0).tolist(),
        **shares(labels, said),
        "average_precision": [None if np.isnan(one.value) else one.value for one in ranked if one],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _ratio(parts: Array, wholes: Array) -> list[float | None]:
    return [part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)]
