"""The image of a confusion matrix is legible, small and correct for any class names."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.sparse import csr_array

from frostline.report import confusion_plot
from frostline.report.confusion_matrix import Confusions

SVG = "{http://www.w3.org/2000/svg}"


def names(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def draw(matrix: np.ndarray, classes: list[str], path: Path) -> ElementTree.Element:
    confusion_plot.draw(Confusions(tuple(classes), csr_array(matrix)), path)
    return ElementTree.parse(path).getroot()


def texts(image: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in image.iter(f"{SVG}text")]


def cells(image: ElementTree.Element) -> dict[tuple[int, int], str]:
    """Return the colour of each non-empty cell by row and column."""
    _, *paths = image.findall(f"{SVG}g[@shape-rendering]/{SVG}path")
    found = [(path.attrib["fill"], re.findall(r"M(\d+) (\d+)h1v1h-1z", path.attrib["d"])) for path in paths]
    return {(int(row), int(column)): fill for fill, places in found for column, row in places}


def size(image: ElementTree.Element) -> tuple[int, int]:
    return int(image.attrib["width"]), int(image.attrib["height"])


@pytest.mark.parametrize("count", [1, 2, 10, 60])
def test_image_grows_with_the_number_of_classes(tmp_path, count):
    width, height = size(draw(np.eye(count, dtype=int) * 7, names(count), tmp_path / "confusion.svg"))
    assert min(width, height) > max(400, 12 * count)


def test_image_of_many_classes_shows_the_most_confused(tmp_path):
    image = draw(np.eye(1000, dtype=int), names(1000), tmp_path / "confusion.svg")
    assert all(1000 < length < 2500 for length in size(image)) and len(cells(image)) == 100
    assert "the 100 of 1,000 classes that are confused most often" in texts(image)[0]


def test_image_accepts_any_class_names(tmp_path):
    classes = ["<&>", '"quoted"', "猫", "x" * 300, "", "a\0b\nc\udcff"]
    labels = texts(draw(np.diag([5, 3, 0, 2, 1, 4]), classes, tmp_path / "confusion.svg"))
    for name in ("<&>", '"quoted"', "猫", f"{'x' * 22}..", "a\ufffdb\ufffdc\ufffd"):
        assert labels.count(name) == 2


def test_image_has_room_for_wide_letters(tmp_path):
    widths = [size(draw(np.eye(2, dtype=int), [letter * 24, "b"], tmp_path / "confusion.svg"))[0] for letter in "aA猫"]
    narrow, capital, wide = widths
    assert narrow < capital < wide and wide - narrow > 24 * 12 * 0.35


def test_image_shows_the_given_matrix(tmp_path):
    matrix = np.array([[1, 2, 0], [4, 50, 6], [0, 0, 9]])
    image = draw(matrix, names(3), tmp_path / "confusion.svg")
    assert sorted(cells(image)) == [*zip(*(part.tolist() for part in matrix.nonzero()), strict=True)]
    assert sorted(text for text in texts(image) if text.isdigit()) == sorted(["1", "2", "4", "50", "6", "9", "0"])
    assert texts(image)[0] == "top-1 accuracy 83.33% (60 of 72)"


def test_rare_confusion_has_another_colour_than_none(tmp_path):
    matrix = np.diag([9999, 800, 30])
    matrix[0, 1] = 1
    image = draw(matrix, names(3), tmp_path / "confusion.svg")
    darkest, lightest = "#08306b", "#f7fbff"  # both ends of ColorBrewer's Blues
    assert cells(image)[1, 1] == cells(image)[2, 2] == darkest
    assert cells(image)[0, 1] not in (lightest, darkest)
    empty = image.find(f"{SVG}g[@shape-rendering]/{SVG}path")
    assert empty is not None and empty.attrib["fill"] == lightest


def test_image_of_ten_classes_is_below_5_kb(tmp_path):
    draw(np.eye(10, dtype=int) * 30 + np.eye(10, k=1, dtype=int), names(10), tmp_path / "confusion.svg")
    assert (tmp_path / "confusion.svg").stat().st_size < 5_000
