"""A box of an image, cut out and resized by matrix products, is what torchvision's crop and resize give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional as tv

from frostline import resample
from frostline.resample import crop_resize

SIZES = st.sampled_from([1, 20, 33, 224])
LEVEL = 0.05  # of 255: what float32 may differ by


def picture(height: int, width: int, batch: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=random)


def fractions(boxes: list[list[int]], height: int, width: int) -> Tensor:
    return torch.tensor(boxes) / torch.tensor([width, height, width, height])


@st.composite
def crops(draw: st.DrawFn) -> tuple[int, int, list[int], int]:
    """Height and width of an image, a box in whole pixels inside it, and the size it becomes."""
    height, width = draw(st.integers(2, 70)), draw(st.integers(2, 70))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return height, width, [left, top, right, bottom], draw(st.integers(1, 80))


@settings(max_examples=150, deadline=None)
@given(crops())
def test_it_is_torchvisions_antialiased_resized_crop(crop: tuple[int, int, list[int], int]) -> None:
    height, width, box, size = crop
    left, top, right, bottom = box
    pixels = picture(height, width)
    ours = crop_resize(pixels, fractions([box], height, width), size)
    theirs = tv.resized_crop(pixels.float(), top, left, bottom - top, right - left, [size, size], antialias=True)
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < LEVEL


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-0.5, 1.4)] * 2, *[st.floats(0.01, 1.2)] * 2), min_size=1, max_size=4), SIZES)
def test_a_product_without_zeros_is_the_whole_product(places, size):
    pixels = picture(70, 90, len(places))
    boxes = torch.tensor([[x, y, x + width, y + height] for x, y, width, height in places])
    for flip in (None, torch.arange(len(places)) % 2 == 0):
        with pytest.MonkeyPatch.context() as patch:
            banded = crop_resize(pixels, boxes, size, flip)
            patch.setattr(resample, "_banded", resample._batched)
            assert (crop_resize(pixels, boxes, size, flip) - banded).abs().max() < LEVEL


def test_with_bleed_it_is_resize_then_crop() -> None:
    pixels = picture(48, 48)
    for resized, size in ((36, 24), (96, 72)):
        edge = (resized - size) / 2 / resized
        ours = crop_resize(pixels, torch.tensor([[edge, edge, 1 - edge, 1 - edge]]), size, bleed=True)
        theirs = tv.center_crop(tv.resize(pixels.float(), [resized], antialias=True), [size])
        assert (ours - theirs).abs().max() < LEVEL


@settings(max_examples=60, deadline=None)
@given(x=st.integers(-40, 40), y=st.integers(-40, 40), size=st.sampled_from([8, 20, 32, 50]))
def test_outside_of_the_image_there_are_zeros(x: int, y: int, size: int) -> None:
    pixels = picture(32, 32)
    ours = crop_resize(pixels, fractions([[x, y, x + 32, y + 32]], 32, 32), size)
    theirs = tv.resized_crop(pad(pixels.float(), [40] * 4), y + 40, x + 40, 32, 32, [size, size], antialias=True)
    assert (ours - theirs).abs().max() < LEVEL


def test_each_image_has_its_own_box_and_mirror() -> None:
    pixels = picture(20, 30, batch=3)
    boxes = fractions([[0, 0, 30, 20], [3, 2, 17, 19], [10, 10, 20, 20]], 20, 30)
    flip = torch.tensor([False, True, False])
    together = crop_resize(pixels, boxes, 16, flip)
    alone = torch.cat([crop_resize(pixels[i : i + 1], boxes[i : i + 1], 16) for i in range(3)])
    assert torch.allclose(together[0], alone[0], atol=LEVEL)
    assert torch.allclose(together[1], alone[1].flip(-1), atol=LEVEL)
    assert torch.allclose(together[2], alone[2], atol=LEVEL)


def test_one_box_for_all_gives_what_each_alone_gives() -> None:
    pixels = picture(20, 30, batch=3)
    boxes = fractions([[3, 2, 17, 19]] * 3, 20, 30)
    flip = torch.tensor([True, False, True])
    for mirror in (None, flip):
        together = crop_resize(pixels, boxes, 16, mirror)
        for i in range(3):
            alone = crop_resize(pixels[i : i + 1], boxes[:1], 16, None if mirror is None else mirror[i : i + 1])
            assert torch.allclose(together[i], alone[0], atol=LEVEL)


def test_an_image_at_its_own_size_passes_unchanged() -> None:
    pixels = picture(24, 24)
    assert torch.equal(crop_resize(pixels, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 24), pixels.float())
