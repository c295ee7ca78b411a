"""Accuracy on each group of test images (a patient, a site): of one run, and of the best cells side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from frostline.core import files
from frostline.core.metrics import GROUP_IMAGES
from frostline.records.layout import PER_GROUP
from frostline.records.result import TEST
from frostline.report.cells import FOLD, Cell
from frostline.report.page_assets import ends, shortened
from frostline.report.statistics import Bools, Ints, wilson

_SHOWN = 20  # groups in a table


def rows(right: Bools, groups: Ints, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return a JSON-able row per group in `names`, the worst first.

    `right` and `groups` are `(N,)`: whether each test image was classified right, and the number of its group.
    """
    numbers, group, images = np.unique(groups, return_inverse=True, return_counts=True)
    accuracy = np.bincount(group, right) / images
    return [
        {"group": names[number], "images": int(images[i]), "accuracy": float(accuracy[i])}
        for i in np.argsort(accuracy, kind="stable").tolist()
        if (number := int(numbers[i])) in names
    ]


def of_cells(cells: Sequence[Cell]) -> dict[str, Any] | None:
    """Return the accuracies of cells on the groups that are worst for the first one, as plain values for JSON.

    Accuracies are means over seeds. None if fewer than two groups are recorded, which need `GROUP_IMAGES` images each.
    """
    every = [_of_cell(cell) for cell in cells]
    cell, first = next((pair for pair in zip(cells, every, strict=True) if pair[1]), (None, {}))
    if cell is None or len(first) < 2:
        return None
    names = sorted(first, key=lambda name: first[name][1])[:_SHOWN]
    tested = {run.choices.get(FOLD): run.images.get("test", 0) for run in cell.finished}
    return {
        "names": names,
        "images": [first[name][0] for name in names],
        "count": len(first),
        "least": GROUP_IMAGES,
        "others": sum(tested.values()) - sum(images for images, _ in first.values()),
        "scores": [[_score(*one[name]) if name in one else None for name in names] for one in every],
        "worst": [[name := min(one, key=lambda key: one[key][1]), one[name][1]] if one else None for one in every],
    }


def _of_cell(cell: Cell) -> dict[str, tuple[int, float]]:
    """Return the number of images and the mean accuracy over seeds of each group, which lies in one fold, by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for run in (run for runs in cell.repeats(TEST) for run in runs):
        for name, images, accuracy in _read(Path(run.folder)):
            found.setdefault(name, []).append((images, accuracy))
    return {name: (seeds[0][0], fmean(accuracy for _, accuracy in seeds)) for name, seeds in found.items()}


def _read(folder: Path) -> Iterable[tuple[str, int, float]]:
    """Yield name, number of images and accuracy of each group that the run in `folder` recorded."""
    told = files.json_or_none(folder / PER_GROUP)
    for row in told if isinstance(told, list) else []:
        match row:
            case {"group": str(name), "images": int(images), "accuracy": float(accuracy)} if (
                images > 0 and 0 <= accuracy <= 1
            ):
                yield name, images, accuracy


def _score(images: int, accuracy: float) -> list[float | None]:
    """Return an accuracy and the ends of its 95% interval over further images of the group."""
    return [shortened(accuracy), *ends(wilson(accuracy * images, images))]
