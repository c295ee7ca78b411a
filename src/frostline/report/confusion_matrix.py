"""Sparse confusion matrix: its cells above zero, at most as many as test images, whatever the number of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frostline.core import files
from frostline.records.layout import CONFUSION
from frostline.report.statistics import Ints

_PARTS = ("rows", "columns", "counts")


@dataclass(frozen=True)
class Confusions:
    """The cells of a confusion matrix that are not zero, each once, by true and then by predicted class."""

    classes: tuple[str, ...]
    rows: Ints
    """`(K,)` true classes."""
    columns: Ints
    """`(K,)` predicted classes."""
    counts: Ints
    """`(K,)` images, all positive."""

    @property
    def images(self) -> Ints:
        """`(classes,)`: number of images of each class."""
        return self._summed(np.full(len(self.rows), True))

    @property
    def right(self) -> Ints:
        """`(classes,)`: number of images of each class that were predicted right."""
        return self._summed(self.rows == self.columns)

    def _summed(self, which: np.ndarray) -> Ints:
        sums = np.bincount(self.rows[which], weights=self.counts[which], minlength=len(self.classes))
        return sums.astype(np.int64)

    def most_confused(self, most: int) -> list[tuple[int, int, int]]:
        """Return up to `most` confusions `(true class, predicted class, images)`, most frequent first."""
        wrong = np.flatnonzero(self.rows != self.columns)
        cells = wrong[np.argsort(-self.counts[wrong], kind="stable")[:most]]
        return [(int(self.rows[cell]), int(self.columns[cell]), int(self.counts[cell])) for cell in cells]

    def foremost(self, most: int) -> list[int]:
        """Return up to `most` classes to show, in ascending order: those of the most frequent confusions.

        If there are fewer of these, the classes with the most images fill up the rest.
        """
        pairs = self.most_confused(len(self.counts))
        by_images = np.argsort(-self.images, kind="stable").tolist()
        classes = dict.fromkeys([one for true, said, _ in pairs for one in (true, said)] + by_images)
        return sorted(list(classes)[:most])

    def among(self, chosen: Sequence[int]) -> tuple[Ints, Ints, Ints]:
        """Return rows, columns and counts of the cells between `chosen` classes, renumbered in the order given."""
        place = np.full(len(self.classes), -1)
        place[list(chosen)] = np.arange(len(chosen))
        rows, columns = place[self.rows], place[self.columns]
        inside = (rows >= 0) & (columns >= 0)
        return rows[inside], columns[inside], self.counts[inside]


def count(classes: Sequence[str], labels: Ints, said: Ints) -> Confusions:
    """Return the confusion matrix of `(N,)` true classes `labels` and predicted classes `said`."""
    pairs, counts = np.unique(labels.astype(np.int64) * len(classes) + said, return_counts=True)
    return Confusions(tuple(classes), pairs // len(classes), pairs % len(classes), counts)


def total(several: Sequence[Confusions]) -> Confusions:
    """Return the sum of the matrices of several runs on the same classes."""
    pairs = np.concatenate([one.rows * len(one.classes) + one.columns for one in several])
    cells, which = np.unique(pairs, return_inverse=True)
    sums = np.bincount(which, weights=np.concatenate([one.counts for one in several]), minlength=len(cells))
    classes = several[0].classes
    return Confusions(classes, cells // len(classes), cells % len(classes), sums.astype(np.int64))


def write(folder: Path, found: Confusions) -> None:
    """Write `confusion_matrix.json`: class names, and `rows`, `columns` and `counts` of the cells that are not zero."""
    parts = {"classes": list(found.classes), **{name: getattr(found, name).tolist() for name in _PARTS}}
    lines = (f"{json.dumps(name)}: {json.dumps(values, ensure_ascii=False)}" for name, values in parts.items())
    files.write(folder / CONFUSION, "{" + ",\n ".join(lines) + "}\n")


def read(folder: Path) -> Confusions | None:
    """Return the matrix of the run in `folder`; None where there is none, or no valid one."""
    try:
        match files.read_json(folder / CONFUSION):
            case {"classes": [str(), *_] as classes, "rows": list(), "columns": list(), "counts": list()} as told:
                rows, columns, counts = (np.array(told[name], np.int64) for name in _PARTS)
            case _:
                return None
    except (OSError, ValueError, TypeError, OverflowError):
        return None
    cells = np.concatenate([rows, columns]) if rows.shape == columns.shape == counts.shape else np.array([-1])
    if rows.ndim != 1 or (cells < 0).any() or (cells >= len(classes)).any() or (counts < 1).any():
        return None
    return Confusions(tuple(map(str, classes)), rows, columns, counts)
