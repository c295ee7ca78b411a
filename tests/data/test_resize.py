"""Resizing: views agree with the weights' own torchvision and timm transforms of a Pillow image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor
from torchvision.models import get_model_weights, list_models
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from frostline.core.input_spec import CROPS, InputSpec
from frostline.data import resize_by_matrices
from frostline.data.resize import CenterCrop, center_boxes, center_crop, resized_crop
from frostline.models import lookup

CENTERS = {
    CenterCrop.of(lookup.input_of(name, weights=key, image_size=None)): (name, key)
    for name in list_models(module=torchvision.models)
    for key, entry in get_model_weights(name).__members__.items()
    if entry.meta["categories"]
}
"""Every centre crop of torchvision's weights, with weights that use it."""
INTERPOLATIONS = st.sampled_from(["bilinear", "bicubic"])
LEVEL = 1.0  # the difference in 8 bits that rounding allows


def image(height: int, width: int, batch: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=random)


def photos() -> dict[str, Image.Image]:
    """Return photographs of several shapes."""
    china, flower = (Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
    return {
        "as taken": china,
        "tall": flower.crop((200, 0, 330, 427)),
        "wide": china.crop((0, 100, 640, 220)),
        "small": flower.resize((50, 33)),
        "square": china.crop((100, 50, 400, 350)),
        "large": flower.resize((1500, 1000), Image.Resampling.LANCZOS),
    }


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key"), CENTERS.values(), ids=map(str, CENTERS))
def test_center_crop_agrees_with_torchvision_transforms(name: str, key: str) -> None:
    spec = lookup.input_of(name, weights=key, image_size=None)
    transforms = get_model_weights(name)[key].transforms()
    if name in ("googlenet", "inception_v3"):  # they convert the normalisation inside, which ours do not
        transforms.mean, transforms.std = [0.5] * 3, [0.5] * 3
    std = torch.tensor(transforms.std).view(3, 1, 1)
    for kind, photo in photos().items():
        ours = spec.normalise(center_crop(tensor(photo)[None], CenterCrop.of(spec)).float())[0]
        apart = (ours - transforms(photo)).abs() * std * 255
        assert (apart < LEVEL + 0.01).float().mean() >= 0.999, kind
        assert apart.mean() < 0.1, kind


TAGS = (
    *("convnext_base.fb_in22k_ft_in1k_384", "vit_base_patch16_clip_384.openai_ft_in12k_in1k", "dm_nfnet_f0.dm_in1k"),
    *("vit_small_patch16_lingbot.robbyant", "vit_tiny_patch16_224.augreg_in21k"),
    "deepseek_vit_412m_enc.deepseek_v4_flash_vision_exp",
)
"""Models of timm that squash, in part or fully, by both filters, resize the shorter side, or add a border."""


@pytest.mark.parametrize("name", TAGS)
def test_center_crop_agrees_with_timm_transforms(name: str) -> None:
    spec = lookup.input_of(name, library="timm", weights="DEFAULT", image_size=None)
    transforms = create_transform(**resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict()))
    std = torch.tensor(spec.std).view(3, 1, 1)
    for kind, photo in photos().items():
        ours = spec.normalise(center_crop(tensor(photo)[None], CenterCrop.of(spec)).float())[0]
        apart = (ours - transforms(photo)).abs() * std * 255
        # For the squashed tall photo, torch's own resize differs from Pillow's by as much.
        assert (apart < LEVEL + 0.01).float().mean() >= 0.998, kind
        assert apart.mean() < (0.2 if kind == "tall" else 0.1), kind


def test_any_shape_and_memory_format_can_be_cropped() -> None:
    for shape, border in itertools.product(((1, 1), (1, 2000), (3000, 2), (33, 40)), (None, (1, 2, 3))):
        how = CenterCrop(size=32, resize=40, interpolation="bicubic", border=border)
        pixels = image(*shape)
        seen = center_crop(pixels, how)
        assert seen.shape == (1, 3, 32, 32)
        assert torch.equal(center_crop(pixels.contiguous(memory_format=torch.channels_last), how), seen)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), INTERPOLATIONS, st.sampled_from(CROPS))
def test_resize_by_matrices_agrees_with_torch(height: int, width: int, interpolation: str, crop: str) -> None:
    how = CenterCrop.of(InputSpec(24, 28, (0.1, 0.5, 1), (1, 1, 1), interpolation, crop))
    pixels, sizes = image(height, width), torch.tensor([[width, height]])
    boxes = center_boxes(sizes, how) * sizes.repeat(1, 2)
    ours = resize_by_matrices.by_matrices(pixels, boxes, sizes, 24, interpolation, fill=how.fill, bleed=True)
    apart = (ours - center_crop(pixels, how).float()).abs()
    assert apart.max() <= 2 and (apart > LEVEL).float().mean() < 0.01


@st.composite
def crops(draw: st.DrawFn) -> tuple[int, int, list[int], int, str]:
    """Return height and width of an image, a box in whole pixels inside it, the new size and the filter.

    Sides have two pixels or more, as torch's own assertion fails for one (UpSampleKernelAVXAntialias.h:269).
    """
    height, width = draw(st.integers(2, 70)), draw(st.integers(2, 70))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return height, width, [left, top, right, bottom], draw(st.integers(2, 80)), draw(INTERPOLATIONS)


def fractions(boxes: list[list[int]], height: int, width: int) -> Tensor:
    return torch.tensor(boxes) / torch.tensor([width, height, width, height])


@settings(max_examples=150, deadline=None)
@given(crops())
def test_resized_crop_agrees_with_torchvision(crop: tuple[int, int, list[int], int, str]) -> None:
    height, width, box, size, interpolation = crop
    left, top, right, bottom = box
    pixels = image(height, width)
    ours = resized_crop(pixels, fractions([box], height, width), size, interpolation=interpolation)
    how = {"interpolation": InterpolationMode(interpolation), "antialias": True}
    theirs = tv.resized_crop(pixels, top, left, bottom - top, right - left, [size, size], **how)
    assert ours.dtype == torch.float32 and torch.equal(ours, theirs.float())
    by_matrices = resize_by_matrices.by_matrices(
        pixels, torch.tensor([box]).float(), torch.tensor([[width, height]]), size, interpolation
    )
    apart = (by_matrices - theirs.float()).abs()
    assert apart.max() <= 2 and (apart > LEVEL).sum() <= max(1, 0.01 * apart.numel())  # one pixel of a small image


@settings(max_examples=60, deadline=None)
@given(x=st.integers(-40, 40), y=st.integers(-40, 40), size=st.sampled_from([8, 20, 32, 50]))
def test_area_outside_the_image_is_filled(x: int, y: int, size: int) -> None:
    pixels, fill = image(32, 32), (26, 0, 255)
    ours = resized_crop(pixels, fractions([[x, y, x + 32, y + 32]], 32, 32), size, interpolation="bilinear", fill=fill)
    padded = tv.pad(pixels, [40] * 4, fill=[*fill])
    theirs = tv.resized_crop(padded, y + 40, x + 40, 32, 32, [size, size], antialias=True)
    assert torch.equal(ours, theirs.float())
    box = torch.tensor([[x, y, x + 32, y + 32]]).float()
    by_matrices = resize_by_matrices.by_matrices(pixels, box, torch.tensor([[32, 32]]), size, "bilinear", fill=fill)
    assert (by_matrices - ours).abs().max() <= 2


def test_images_have_their_own_size_box_and_flip() -> None:
    images = [image(20, 30)[0], image(70, 40)[0], image(33, 90)[0]]
    boxes = torch.tensor([[0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9], [0.5, 0.5, 1, 1]])
    flip = torch.tensor([False, True, False])
    together = resized_crop(images, boxes, 16, flip, interpolation="bicubic")
    for place, (one, box) in enumerate(zip(images, boxes, strict=True)):
        alone = resized_crop([one], box[None], 16, interpolation="bicubic")[0]
        assert torch.equal(together[place], alone.flip(-1) if flip[place] else alone)
    padded, sizes = resize_by_matrices.padded(images), torch.tensor([[p.shape[2], p.shape[1]] for p in images])
    in_pixels = (boxes * sizes.repeat(1, 2)).round()
    by_matrices = resize_by_matrices.by_matrices(padded, in_pixels, sizes, 16, "bicubic", flip)
    assert ((by_matrices - together).abs() > LEVEL).float().mean() < 0.01


def test_image_at_its_own_size_is_unchanged() -> None:
    pixels = image(24, 24)
    assert torch.equal(center_crop(pixels, CenterCrop(24, 24, "bicubic")), pixels)
    assert torch.equal(resized_crop(pixels, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 24, interpolation="bilinear"), pixels)
