"""Images of more than 8 bits are scaled to 8 bits between the black and white levels of `data.range`."""

from __future__ import annotations

import numpy as np
import pytest

from frostline.data.bit_depth import FULL, PERCENTILES, Levels, of_range, of_set, summary


def test_full_range_maps_16_bits_and_refuses_other_types():
    values = np.arange(65536, dtype=np.uint16)
    assert (FULL(values) == np.rint(values / 257)).all()
    for other in (np.float32([0.5]), np.int32([70_000]), np.int32([-1])):
        with pytest.raises(ValueError, match=r"data\.range"):
            FULL(other)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_range_is_linear_inside_and_clipped_outside(kind: type):
    values = np.array([0, 100, 150, 200, 900]).astype(kind)
    assert Levels(100, 200)(values).tolist() == [0, 0, 128, 255, 255]
    assert of_range([100, 200], "set") == Levels(100, 200)


def test_narrow_range_far_from_zero_keeps_all_levels():
    values = (10**9 + np.arange(256)).astype(np.int32)
    assert Levels(0, 100, of_image=True)(values).tolist() == list(range(256))


def test_percentiles_ignore_hot_pixels():
    values = np.random.default_rng(0).integers(0, 1000, 10_000).astype(np.uint16)
    values[:10] = 65535
    levels = of_range("percentile", "image")
    low, high = np.percentile(values, PERCENTILES["percentile"])
    expected = np.rint((np.clip(values, low, high) - low) / (high - low) * 255)
    assert np.abs(levels(values) - expected).max() <= 1 and len(np.unique(levels(values))) == 256
    assert len(np.unique(of_range("minmax", "image")(values))) < 10


def test_few_bright_pixels_on_black_stay_visible():
    values = np.zeros(10_000, dtype=np.uint16)
    values[:3] = (100, 200, 300)
    assert of_range("percentile", "image")(values)[:4].tolist() == [85, 170, 255, 0]


def test_nan_is_black_and_infinity_is_white():
    values = np.float32([[np.nan, 1.0], [3.0, np.inf]])
    assert of_range("minmax", "image")(values).tolist() == [[0, 0], [255, 255]]
    with pytest.raises(ValueError, match="no finite number"):
        of_range("minmax", "image")(np.float32([np.nan]))
    assert of_range("minmax", "image")(np.full((2, 2), 7, dtype=np.uint16)).tolist() == [[0, 0], [0, 0]]


def test_set_range_covers_all_its_images():
    drawn = np.random.default_rng(0)
    images = [drawn.normal(drawn.uniform(100, 300), 50, (40, 40)).astype(np.float32) for _ in range(30)]
    summaries = [summary(one) for one in images]
    together = np.stack(images)
    assert of_range("minmax", "set") is None
    assert of_set(summaries, "minmax") == Levels(float(together.min()), float(together.max()))
    found = of_set(summaries, "percentile")
    low, high = np.percentile(together, PERCENTILES["percentile"])
    spread = high - low
    assert abs(found.low - low) < 0.02 * spread and abs(found.high - high) < 0.02 * spread
    assert of_set([], "minmax") == FULL
