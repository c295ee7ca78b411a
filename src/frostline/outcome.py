"""The files that a run leaves in its folder, beside its log: plan, journal, best weights, and how the test went."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline import confusion, pictures, weights
from frostline.data import Split

BEST = "best.safetensors"


def write(
    folder: Path, logits: Tensor, test: Split, classes: Sequence[str], pictures_at: Callable[[Tensor], Tensor]
) -> None:
    """Write the predictions for the test split, per-class accuracy, the confusion matrix, and pictures of mistakes.

    `logits` is `(N, classes)` float32 in the order of `test`; `pictures_at` returns `(B, 3, H, W)` uint8 of some rows.
    """
    counts = torch.bincount(test.labels * len(classes) + logits.argmax(1), minlength=len(classes) ** 2)
    matrix = counts.reshape(len(classes), len(classes))
    images = matrix.sum(1)
    accuracy = matrix.diag() / images.clamp(min=1)
    said = {"logits": logits, "labels": test.labels, "ids": test.ids}
    weights.save(folder / "test_predictions.safetensors", said, {})
    rows = zip(classes, images.tolist(), accuracy.tolist(), strict=True)
    per_class = [{"class": name, "images": count, "accuracy": score if count else None} for name, count, score in rows]
    write_json(folder / "per_class.json", per_class)
    write_json(folder / "confusion_matrix.json", {"classes": list(classes), "counts": matrix.tolist()})
    confusion.draw(matrix.numpy(), classes, folder / "confusion_matrix.png")
    wrong = torch.from_numpy(pictures.choose(logits.numpy(), test.labels.numpy()))
    if len(wrong):
        pictures.write(folder, pictures_at(wrong).numpy(), test.ids[wrong].numpy())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
