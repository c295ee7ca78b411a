"""Sparse confusion matrix: its cells above zero, at most as many as test images, whatever the number of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from frostline.core import files
from frostline.records.layout import CONFUSION
from frostline.report.statistics import Ints


@dataclass(frozen=True)
class Confusions:
    """A confusion matrix."""

    classes: tuple[str, ...]
    counts: csr_array
    """`(classes, classes)` int64: images by true and by predicted class."""

    @property
    def images(self) -> Ints:
        """`(classes,)`: number of images of each class."""
        return self.counts.sum(1)

    @property
    def right(self) -> Ints:
        """`(classes,)`: number of images of each class that were predicted right."""
        return self.counts.diagonal()

    def most_confused(self, most: int) -> list[tuple[int, int, int]]:
        """Return up to `most` confusions `(true class, predicted class, images)`, most frequent first."""
        cells = self.counts.tocoo()
        wrong = np.flatnonzero(cells.row != cells.col)
        first = wrong[np.argsort(-cells.data[wrong], kind="stable")[:most]]
        return [*zip(*(part[first].tolist() for part in (cells.row, cells.col, cells.data)), strict=True)]

    def foremost(self, most: int) -> list[int]:
        """Return up to `most` classes to show, in ascending order: those of the most frequent confusions.

        If there are fewer of these, the classes with the most images fill up the rest.
        """
        pairs = self.most_confused(self.counts.nnz)
        by_images = np.argsort(-self.images, kind="stable").tolist()
        classes = dict.fromkeys([one for true, said, _ in pairs for one in (true, said)] + by_images)
        return sorted(list(classes)[:most])

    def among(self, chosen: Sequence[int]) -> tuple[Ints, Ints, Ints]:
        """Return rows, columns and counts of the cells between `chosen` classes, renumbered in the order given."""
        part = self.counts[chosen][:, chosen].tocoo()
        return part.row, part.col, part.data


def count(classes: Sequence[str], labels: Ints, said: Ints) -> Confusions:
    """Return the confusion matrix of `(N,)` true classes `labels` and predicted classes `said`."""
    return _summed(classes, labels, said, np.ones(len(labels), np.int64))


def total(several: Sequence[Confusions]) -> Confusions:
    """Return the sum of the matrices of several runs on the same classes."""
    return Confusions(several[0].classes, sum(one.counts for one in several))


def _summed(classes: Sequence[str], rows: Ints, columns: Ints, counts: Ints) -> Confusions:
    cells = csr_array((counts, (rows, columns)), shape=(len(classes), len(classes)))
    cells.sum_duplicates()  # SciPy 1.13 keeps those of an array
    return Confusions(tuple(classes), cells)


def write(folder: Path, found: Confusions) -> None:
    """Write `confusion_matrix.json`: class names, and `rows`, `columns` and `counts` of the cells that are not zero."""
    cells = found.counts.tocoo()
    numbers = {"rows": cells.row.tolist(), "columns": cells.col.tolist(), "counts": cells.data.tolist()}
    parts = {"classes": list(found.classes), **numbers}
    lines = (f"{json.dumps(name)}: {json.dumps(values, ensure_ascii=False)}" for name, values in parts.items())
    files.write(folder / CONFUSION, "{" + ",\n ".join(lines) + "}\n")


def read(folder: Path) -> Confusions | None:
    """Return the matrix of the run in `folder`; None where there is none, or no valid one."""
    try:
        match files.read_json(folder / CONFUSION):
            case {"classes": [str(), *_] as classes, "rows": list(), "columns": list(), "counts": list()} as told:
                rows, columns, counts = (np.array(told[name], np.int64) for name in ("rows", "columns", "counts"))
                return _summed([*map(str, classes)], rows, columns, counts) if (counts > 0).all() else None
    except (OSError, ValueError, TypeError, OverflowError):
        pass
    return None
