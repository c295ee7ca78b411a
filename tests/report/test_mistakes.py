"""The contact sheet of misclassified test images."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from disk import file_size_limit
from frostline.report import mistakes


def choose(logits, labels):
    """Return the images that `mistakes.choose` chooses from `(N, classes)` logits."""
    second, first = np.sort(logits, axis=1)[:, -2:].T
    return mistakes.choose(logits.argmax(1), labels, first - second)


def test_frequent_and_confident_mistakes_come_first():
    logits = np.zeros((8, 3), np.float32)
    predicted = np.array([0, 1, 1, 1, 2, 0, 2, 0])
    labels = np.array([0, 0, 0, 0, 0, 1, 2, 0])
    logits[np.arange(8), predicted] = [9, 1, 3, 2, 5, 5, 9, 9]
    assert choose(logits, labels).tolist() == [2, 3, 1, 4, 5]


def test_choice_is_limited_in_total_and_per_confusion():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(5000, 30)), random.integers(0, 30, 5000)
    assert len(choose(logits, labels)) == 64
    logits[:, 1:] = -9.0
    assert len(choose(logits, np.ones(5000, int))) == 6
    assert len(choose(logits, np.zeros(5000, int))) == 0


def test_tiles_are_read_by_image_id(tmp_path):
    colours = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)
    for shape in ((8, 8), (200, 100)):
        pixels = np.broadcast_to(colours[:, :, None, None], (3, 3, *shape))
        mistakes.write(tmp_path, pixels, np.array([7, 3, 5]))
        found = mistakes.read(tmp_path, {3, 5, 99})
        assert sorted(found) == [3, 5]
        for image, colour in ((3, colours[1]), (5, colours[2])):
            tile = Image.open(io.BytesIO(base64.b64decode(found[image].split(",")[1])))
            assert tile.size == (64, 64)
            assert np.abs(np.asarray(tile)[32, 10].astype(int) - colour).max() < 12


def test_sheet_has_gaps_and_older_sheets_are_read(tmp_path):
    pixels = np.broadcast_to(np.array([20, 90, 160], np.uint8)[:, None, None], (3, 3, 64, 64))
    mistakes.write(tmp_path, pixels, np.arange(3))
    sheet = np.asarray(Image.open(tmp_path / "mistakes.jpg").convert("RGB"))
    assert sheet.shape == (64, 208, 3), "wider than its images"
    assert [*map(int, (sheet > 240).all((0, 2)).nonzero()[0])] == [*range(64, 72), *range(136, 144)]
    older = Image.fromarray(np.concatenate([sheet[:, :64], 255 - sheet[:, :64]], 1))
    older.save(tmp_path / "mistakes.jpg", quality=95, subsampling=0)
    (tmp_path / "mistakes.json").write_text('{"ids": [1, 2], "columns": 8, "tile": 64}')
    first, second = mistakes.read(tmp_path, {1, 2}).values()
    tiles = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one.split(",")[1])))) for one in (first, second)]
    assert np.abs(tiles[0].astype(int) + tiles[1] - 255).max() < 12
    (tmp_path / "mistakes.json").write_text(f'{{"ids": [1, 2], "columns": 8, "tile": 64, "gap": {10**30}}}')
    assert mistakes.read(tmp_path, {1, 2}) == {}


def test_grey_sheet_is_a_quarter_smaller(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), np.uint8).repeat(3, 1)
    sizes = []
    for pixels in (grey, grey ^ np.array([0, 1, 0], np.uint8)[:, None, None]):
        mistakes.write(tmp_path, pixels, np.arange(30))
        sizes.append((tmp_path / "mistakes.jpg").stat().st_size)
        tile = Image.open(io.BytesIO(base64.b64decode(mistakes.read(tmp_path, {0})[0].split(",")[1])))
        assert tile.mode == "RGB" and np.abs(np.asarray(tile)[4::8, 4::8].astype(int).mean(2) - grey[0, 0]).mean() < 12
    assert sizes[0] < 0.75 * sizes[1]


def test_noise_images_fit_on_a_sheet(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (16, 3, 64, 64), np.uint8)
    mistakes.write(tmp_path, noise, np.arange(16))
    assert len(mistakes.read(tmp_path, range(16))) == 16


def test_sheet_that_a_full_disk_would_truncate_is_refused(tmp_path):
    with file_size_limit(100), pytest.raises(OSError, match=f": '{tmp_path / mistakes.MISTAKES}'"):
        mistakes.write(tmp_path, np.zeros((1, 3, 8, 8), np.uint8), np.zeros(1, int))
    assert not [*tmp_path.iterdir()]


def test_no_mistakes_write_no_sheet(tmp_path):
    mistakes.write(tmp_path, np.zeros((0, 3, 8, 8), np.uint8), np.zeros(0, int))
    assert not list(tmp_path.iterdir()) and mistakes.read(tmp_path, {1}) == {}


@pytest.mark.parametrize(
    "index",
    [
        "[" * 10**5,
        "[1, 2]",
        '{"ids": [3], "columns": 8, "tile": 64, "gap": "8"}',
        '{"ids": [[3]], "columns": 8, "tile": 64}',
        '{"ids": [3], "columns": 0, "tile": 64}',
    ],
)
def test_malformed_index_yields_no_images(tmp_path, index):
    mistakes.write(tmp_path, np.zeros((1, 3, 8, 8), np.uint8), np.array([3]))
    (tmp_path / "mistakes.json").write_text(index)
    assert mistakes.read(tmp_path, {3}) == {}
