"""The picture of a confusion matrix: legible for any classes, and nothing of the one before is left in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.report import confusion_plot
from frostline.report.confusion_matrix import Confusions


def names(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def drawn(matrix: np.ndarray, classes: list[str], path: Path) -> np.ndarray:
    confusion_plot.draw(Confusions(tuple(classes), *matrix.nonzero(), matrix[matrix.nonzero()]), path)
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("count", [2, 10, 60])
def test_the_picture_grows_with_the_classes(tmp_path, count):
    height, width, _ = drawn(np.eye(count, dtype=int) * 7, names(count), tmp_path / "confusion.png").shape
    assert height > 15 * count and width > 15 * count
    assert height >= 600


def test_the_picture_of_a_thousand_classes_is_one_that_can_be_opened(tmp_path):
    height, width, _ = drawn(np.eye(1000, dtype=int), names(1000), tmp_path / "confusion.png").shape
    assert 1000 < height < 2500 and 1000 < width < 2500


def test_it_takes_any_class_name_and_a_class_without_images(tmp_path):
    classes = ["$\\frac$", "_hidden", "猫", "x" * 300, ""]
    drawn(np.diag([5, 3, 0, 2, 1]), classes, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 10_000


def test_a_picture_shows_its_own_matrix_alone(tmp_path):
    sure, torn = np.diag([900, 800, 700]), np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    first = drawn(torn, names(3), tmp_path / "first.png")
    other = drawn(sure, names(3), tmp_path / "other.png")
    assert (drawn(torn, names(3), tmp_path / "again.png") == first).all()
    assert (first != other).any()


def test_a_share_of_the_true_class_is_a_colour_of_the_scale(tmp_path):
    picture = drawn(np.diag([900, 800]), names(2), tmp_path / "confusion.png")
    darkest, lightest = (8, 48, 107), (247, 251, 255)  # both ends of ColorBrewer's Blues
    area = [(picture == colour).all(axis=2).mean() for colour in (darkest, lightest)]
    assert min(area) > 0.1


def test_a_picture_is_small_and_a_rare_confusion_in_it_is_another_colour_than_none(tmp_path):
    drawn(np.eye(10, dtype=int) * 30 + np.eye(10, k=1, dtype=int), names(10), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size < 15_000
    rare = np.diag([9999] * 30)
    rare[0, -1] = 1
    picture = drawn(rare, names(30), tmp_path / "rare.png")
    one = drawn(np.diag([10_000] * 30), names(30), tmp_path / "none.png")
    different = (picture != one).any(axis=2)[60:, 300:]  # not in the title
    assert different.sum() > 200
