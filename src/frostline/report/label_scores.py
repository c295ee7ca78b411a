"""Scores per class: precision, accuracy or recall, and F1; for several labels also AP and counts against all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from frostline.core.metrics import MAP
from frostline.report.confusion_matrix import Confusions
from frostline.report.metric_scores import Array, measure


def shares(labels: Array, said: Array) -> dict[str, list[float | None]]:
    """Return precision, recall and F1 of each class by name, for true and predicted labels `(N, classes)` bool.

    They are fractions in 0..1; None where a score is not defined.
    """
    return _shares(labels.sum(0), said.sum(0), (labels & said).sum(0))


def _shares(images: Array, named: Array, right: Array, recall: str = "recall") -> dict[str, list[float | None]]:
    return {
        "precision": _ratio(right, named),
        recall: _ratio(right, images),
        "f1": _ratio(2 * right, images + named),
    }


def rows_of_one(matrix: Confusions) -> list[dict[str, Any]]:
    """Return a JSON-able row per class of images with one class each; None stands for a score that is not defined."""
    named = matrix.counts.sum(0)
    return _as_rows(
        {
            "class": matrix.classes,
            "images": matrix.images.tolist(),
            **_shares(matrix.images, named, matrix.right, recall="accuracy"),
        }
    )


def rows(labels: Array, logits: Array, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a JSON-able row per class, for labels `(N, classes)` bool; None stands for a score that is not defined."""
    said = logits > 0
    ranked = (measure(MAP, labels[:, [k]], said[:, [k]], scores=logits[:, [k]]) for k in range(len(classes)))
    return _as_rows(
        {
            "class": classes,
            "images": labels.sum(0).tolist(),
            "true_positives": (labels & said).sum(0).tolist(),
            "false_positives": (~labels & said).sum(0).tolist(),
            "false_negatives": (labels & ~said).sum(0).tolist(),
            "true_negatives": (~labels & ~said).sum(0).tolist(),
            **shares(labels, said),
            "average_precision": [None if np.isnan(one.value) else one.value for one in ranked if one],
        }
    )


def _as_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _ratio(parts: Array, wholes: Array) -> list[float | None]:
    return [part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)]
