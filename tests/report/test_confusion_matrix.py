"""The confusion matrix without its zeros says what the whole one does, and stays small with many classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as whole

from frostline.records import layout
from frostline.report import confusion_matrix
from frostline.report.confusion_matrix import Confusions


def drawn(seed: int, classes: int = 7, images: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, classes - 1, images), random.integers(0, classes, images)  # the last has no image


def found(seed: int) -> Confusions:
    return confusion_matrix.count([f"class {i}" for i in range(7)], *drawn(seed))


def dense(matrix: Confusions) -> np.ndarray:
    every = np.zeros((7, 7), int)
    every[matrix.rows, matrix.columns] = matrix.counts
    return every


def test_it_counts_what_scikit_learn_counts():
    one, two = (whole(*drawn(seed), labels=range(7)) for seed in (0, 1))
    assert (dense(found(0)) == one).all()
    assert (found(0).images == one.sum(1)).all() and (found(0).right == one.diagonal()).all()
    assert (dense(confusion_matrix.total([found(0), found(1)])) == one + two).all()
    chosen = [1, 4, 6]
    rows, columns, counts = found(0).among(chosen)
    part = np.zeros((3, 3), int)
    part[rows, columns] = counts
    assert (part == one[np.ix_(chosen, chosen)]).all()


def test_it_is_read_as_it_was_written(tmp_path):
    confusion_matrix.write(tmp_path, found(0))
    again = confusion_matrix.read(tmp_path)
    assert again is not None and again.classes == found(0).classes and (dense(again) == dense(found(0))).all()


@pytest.mark.parametrize(
    "changes",
    [
        *({"rows": [0]}, {"rows": [9], "columns": [0], "counts": [1]}, {"counts": "many"}, {"classes": []}),
        *({"rows": [[0]], "columns": [[0]], "counts": [[1]]}, {"rows": [2**70], "columns": [0], "counts": [1]}),
    ],
)
def test_what_was_not_written_here_is_no_matrix(tmp_path, changes):
    confusion_matrix.write(tmp_path, found(0))
    path = tmp_path / layout.CONFUSION
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert confusion_matrix.read(tmp_path) is None


def test_most_confused_pairs_leave_out_what_is_right():
    labels = np.repeat([0, 0, 1, 1, 1, 2], [50, 2, 5, 40, 1, 9])
    said = np.repeat([0, 1, 0, 1, 2, 2], [50, 2, 5, 40, 1, 9])
    matrix = confusion_matrix.count("abc", labels, said)
    assert matrix.most_confused(2) == [(1, 0, 5), (0, 1, 2)]
    assert matrix.foremost(2) == [0, 1] and matrix.foremost(9) == [0, 1, 2]
    assert confusion_matrix.count("ab", np.array([0, 1]), np.array([0, 1])).most_confused(5) == []


def test_the_most_confused_classes_are_shown_wherever_they_stand():
    labels = np.r_[np.arange(1000), [700, 700, 3]]
    said = np.r_[np.arange(1000), [900, 900, 4]]
    matrix = confusion_matrix.count([str(i) for i in range(1000)], labels, said)
    assert matrix.foremost(2) == [700, 900]
    assert {3, 4, 700, 900} < set(matrix.foremost(100)) and len(matrix.foremost(100)) == 100
