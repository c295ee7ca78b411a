"""The sparse confusion matrix agrees with scikit-learn's and stays small with many classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as dense_matrix

from frostline.records import layout
from frostline.report import confusion_matrix
from frostline.report.confusion_matrix import Confusions


def labels_and_predictions(seed: int, classes: int = 7, images: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, classes - 1, images), random.integers(0, classes, images)  # the last has no image


def matrix_of(seed: int) -> Confusions:
    return confusion_matrix.count([f"class {i}" for i in range(7)], *labels_and_predictions(seed))


def dense(matrix: Confusions) -> np.ndarray:
    every: np.ndarray = matrix.counts.toarray()
    return every


def test_counts_equal_those_of_scikit_learn():
    one, two = (dense_matrix(*labels_and_predictions(seed), labels=range(7)) for seed in (0, 1))
    assert (dense(matrix_of(0)) == one).all()
    assert (matrix_of(0).images == one.sum(1)).all() and (matrix_of(0).right == one.diagonal()).all()
    assert (dense(confusion_matrix.total([matrix_of(0), matrix_of(1)])) == one + two).all()
    chosen = [1, 4, 6]
    rows, columns, counts = matrix_of(0).among(chosen)
    part = np.zeros((3, 3), int)
    part[rows, columns] = counts
    assert (part == one[np.ix_(chosen, chosen)]).all()


def test_written_matrix_is_read_back(tmp_path):
    confusion_matrix.write(tmp_path, matrix_of(0))
    again = confusion_matrix.read(tmp_path)
    assert again is not None and again.classes == matrix_of(0).classes and (dense(again) == dense(matrix_of(0))).all()


@pytest.mark.parametrize(
    "changes",
    [
        *({"rows": [0]}, {"rows": [9], "columns": [0], "counts": [1]}, {"counts": "many"}, {"classes": []}),
        *({"rows": [[0]], "columns": [[0]], "counts": [[1]]}, {"rows": [2**70], "columns": [0], "counts": [1]}),
        *({"rows": [0], "columns": [0], "counts": [count]} for count in (0, -1)),
    ],
)
def test_malformed_file_has_no_matrix(tmp_path, changes):
    confusion_matrix.write(tmp_path, matrix_of(0))
    path = tmp_path / layout.CONFUSION
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert confusion_matrix.read(tmp_path) is None


def test_most_confused_pairs_exclude_the_diagonal():
    labels = np.repeat([0, 0, 1, 1, 1, 2], [50, 2, 5, 40, 1, 9])
    predicted = np.repeat([0, 1, 0, 1, 2, 2], [50, 2, 5, 40, 1, 9])
    matrix = confusion_matrix.count("abc", labels, predicted)
    assert matrix.most_confused(2) == [(1, 0, 5), (0, 1, 2)]
    assert matrix.foremost(2) == [0, 1] and matrix.foremost(9) == [0, 1, 2]
    right = np.repeat([0, 1, 2], [3, 9, 5])
    assert confusion_matrix.count("abc", right, right).foremost(2) == [1, 2]  # without confusions the largest
    assert confusion_matrix.count("ab", np.array([0, 1]), np.array([0, 1])).most_confused(5) == []


def test_most_confused_classes_are_among_those_shown():
    labels = np.r_[np.arange(1000), [700, 700, 3]]
    predicted = np.r_[np.arange(1000), [900, 900, 4]]
    matrix = confusion_matrix.count([str(i) for i in range(1000)], labels, predicted)
    assert matrix.foremost(2) == [700, 900]
    assert {3, 4, 700, 900} < set(matrix.foremost(100)) and len(matrix.foremost(100)) == 100
