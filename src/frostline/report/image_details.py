"""Details of the best cells on the test split: classes, confusions with example images, calibration, robustness.

Counts are summed over all seeds of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from frostline.core import files
from frostline.core.metrics import BALANCED_ACCURACY, MACRO_F1, MAP, Metric
from frostline.records.layout import PER_CLASS, SHIFT
from frostline.records.result import value_text
from frostline.report import confusion_matrix, label_scores, mistakes, predictions
from frostline.report.calibration import calibration
from frostline.report.cells import FOLD, REPEATS, SUBSET, Cell
from frostline.report.confusion_matrix import Confusions
from frostline.report.metric_scores import Array
from frostline.report.page_assets import ends, shortened
from frostline.report.predictions import Predictions
from frostline.report.statistics import Ints, effective_images, wilson

_DRAWN_CLASSES = 100  # of a confusion matrix; with more, its cells are smaller than a pixel of a phone
_PAIRS, _EXAMPLES = 8, 4  # confusions that are shown, and images of each
_DISAGREEMENTS = 24
_ONE_OF = {FOLD: "in fold", "seed": "with seed", SUBSET: "with subset seed"}


def of_cell(cell: Cell) -> dict[str, Any]:
    """Return the details of a cell's test images as plain values for JSON, as far as its runs recorded them."""
    folders = [Path(result.folder) for result in cell.finished]
    found: dict[str, Any] = {}
    repeats = len(folders) / max(1, len({result.choices.get(FOLD) for result in cell.finished}))
    every = {run.folder: predictions.read(run.folder) for run in cell.finished}
    of_runs = [value for value in every.values() if value]
    matrices = [matrix for folder in folders if (matrix := confusion_matrix.read(folder))]
    if matrices:
        whole = confusion_matrix.total([one for one in matrices if one.classes == matrices[0].classes])
        found |= _classes(whole, of_runs, repeats) | {"pairs": _pairs(folders, whole)}
    if of_runs:
        if of_runs[0].multi_label:
            found |= _several_classes(folders[0], of_runs, repeats)
        found["calibration"] = _calibration(of_runs)
        repeated = [[one for run in runs if (one := every[run.folder])] for runs in cell.repeats(cell.by.test)]
        found["over_classes"] = {
            metric.words: shortened(_mean(metric, [runs for runs in repeated if runs]))
            for metric in ((MAP, MACRO_F1) if of_runs[0].multi_label else (BALANCED_ACCURACY, MACRO_F1))
        }
    shifts = [value for folder in folders if (value := files.json_or_none(folder / SHIFT))]
    if shifts:
        names = [name for name in shifts[0] if all(name in shift for shift in shifts)]
        found["shift"] = {name: [*map(shortened, np.mean([shift[name] for shift in shifts], axis=0))] for name in names}
    return found


def _mean(metric: Metric, repeated: Sequence[Sequence[Predictions]]) -> float:
    """Return the mean of a metric over seeds, or over folds, each the mean over its seeds; nan where unknown."""
    values = [[found.value for one in runs if (found := one.measured(metric))] for runs in repeated]
    return fmean(map(fmean, values)) if values and all(values) else math.nan


def disagreements(first: Cell, second: Cell) -> dict[str, Any] | None:
    """Return the test images that two cells classify differently, in a repeat that both have; None if unknown.

    `of` names that repeat if there are several, e.g. `in fold 0`, `with seed 1`.
    """
    runs = [*first.finished, *second.finished]
    several = [name for name in _ONE_OF if len({repr(run.choices.get(name)) for run in runs}) > 1]
    for one in first.finished:
        for two in second.finished:
            if all(one.choices.get(name) == two.choices.get(name) for name in REPEATS):
                found = _disagreements(Path(one.folder), Path(two.folder))
                of = [f"{_ONE_OF[name]} {value_text(one.choices.get(name))}" for name in several]
                return found and {**found, "of": of}
    return None


def _disagreements(one: Path, two: Path) -> dict[str, Any] | None:
    first, second = predictions.read(str(one)), predictions.read(str(two))
    if first is None or second is None or not np.array_equal(first.ids, second.ids):
        return None
    differ = first.predicted != second.predicted
    rows = np.flatnonzero(differ.any(1) if first.multi_label else differ)
    right = [found.right[rows] for found in (first, second)]
    wanted = set(first.ids[rows].tolist())
    shown = mistakes.read(one, wanted) | mistakes.read(two, wanted)
    with_image = [int(row) for row in rows if int(first.ids[row]) in shown][:_DISAGREEMENTS]
    classes = (first.labels, first.predicted, second.predicted)
    tiles = [[shown[int(first.ids[row])], *(_numbers(one[row]) for one in classes)] for row in with_image]
    counts = {
        "images": len(first.ids),
        "differ": len(rows),
        "first": int(right[0].sum()),
        "second": int(right[1].sum()),
    }
    return {**counts, "tiles": tiles}


def _several_classes(folder: Path, of_runs: Sequence[Predictions], repeats: float) -> dict[str, Any]:
    """Return the scores of each class of multi-label images: recall as accuracy, precision and F1."""
    per_class = files.json_or_none(folder / PER_CLASS)
    if not isinstance(per_class, list):
        return {}
    labels, predicted = _pooled(of_runs)
    shares = {name: [*map(shortened, values)] for name, values in label_scores.shares(labels, predicted).items()}
    images = labels.sum(0)
    return {
        "classes": [str(row["class"]) for row in per_class],
        "accuracy": shares["recall"],
        "within": _all_within((labels & predicted).sum(0), images, of_runs, repeats),
        "images": images.tolist(),
        "precision": shares["precision"],
        "f1": shares["f1"],
        "pairs": [],
    }


def _pooled(of_runs: Sequence[Predictions]) -> tuple[Array, Array]:
    return np.concatenate([one.labels for one in of_runs]), np.concatenate([one.predicted for one in of_runs])


def _numbers(label: Any) -> int | list[int]:
    """Return the class number of an image, or a list of the numbers of its classes if multi-label."""
    return np.flatnonzero(label).tolist() if np.ndim(label) else int(label)


def _classes(matrix: Confusions, of_runs: Sequence[Predictions], repeats: float) -> dict[str, Any]:
    """Return the accuracy of each class, and the confusion matrix of the classes `shown`, which number its cells.

    Each image was counted `repeats` times, once per seed; the intervals count it once.
    """
    images = matrix.images
    accuracy = [shortened(right / total) if total else None for right, total in zip(matrix.right, images, strict=True)]
    within = _all_within(matrix.right, images, of_runs, repeats)
    shown = matrix.foremost(_DRAWN_CLASSES)
    cells = [part.tolist() for part in matrix.among(shown)]
    facts = {"classes": list(matrix.classes), "accuracy": accuracy, "within": within, "images": images.tolist()}
    return {**facts, "shown": shown, "confusion": cells}


def _all_within(
    right: Iterable[int], images: Iterable[int], of_runs: Sequence[Predictions], repeats: float
) -> list[list[float | None]]:
    """Return the ends of the 95% interval of each class's accuracy; each image was counted `repeats` times."""
    if any(one.groups is not None for one in of_runs):
        labels, predicted = _pooled(of_runs)
        groups = np.concatenate([one.ids if one.groups is None else one.groups for one in of_runs])
        kinds = range(len([*images]))
        return [_within_groups(predicted, labels, kind, groups, repeats) for kind in kinds]
    return [_within(round(hits / repeats), round(count / repeats)) for hits, count in zip(right, images, strict=True)]


def _within_groups(predicted: Array, labels: Array, kind: int, groups: Ints, repeats: float) -> list[float | None]:
    """Return the ends of the interval of class `kind`, with images in groups; None for fewer than two groups."""
    mine = labels[:, kind] if labels.ndim == 2 else labels == kind
    right = (predicted[:, kind] if labels.ndim == 2 else predicted == kind)[mine]
    if not len(right):
        return _within(0, 0)
    worth = effective_images(right, groups[mine], repeats)
    return _within(float(right.mean()) * worth, worth)


def _within(right: float, total: float) -> list[float | None]:
    return ends(wilson(right, total) if total else None)


def _pairs(folders: Sequence[Path], matrix: Confusions) -> list[list[Any]]:
    """Return `[true, predicted, count, images]` of the most frequent confusions; each example once, of any seed."""
    pairs = matrix.most_confused(_PAIRS)
    examples: dict[tuple[int, int], dict[int, str]] = {(i, j): {} for i, j, _ in pairs}
    for folder in folders:
        missing = [pair for pair, shown in examples.items() if len(shown) < _EXAMPLES]
        found = predictions.read(str(folder)) if missing else None
        if found is None:
            continue
        images = {(i, j): found.ids[(found.labels == i) & (found.predicted == j)].tolist() for i, j in missing}
        shown = mistakes.read(folder, {image for several in images.values() for image in several})
        for pair, several in images.items():
            examples[pair] |= {image: shown[image] for image in several if image in shown}
    return [[i, j, count, list(examples[i, j].values())[:_EXAMPLES]] for i, j, count in pairs]


def _calibration(of_runs: Sequence[Predictions]) -> dict[str, Any]:
    confidence, right = (np.concatenate(parts) for parts in zip(*(one.decisions() for one in of_runs), strict=True))
    found = calibration(confidence, right)
    bins = zip(found.counts, found.confidence, found.accuracy, strict=True)
    filled = [[count, shortened(confidence), shortened(right)] for count, confidence, right in bins if count]
    return {"ece": shortened(found.ece), "bins": filled}
