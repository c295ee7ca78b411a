"""Augmented views: they follow the policy and depend only on seed, epoch and image."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from frostline.core.config import AugmentConfig
from frostline.core.input_spec import InputSpec
from frostline.core.randomness import uniform
from frostline.data.augment import Policy, jitter, random_boxes, stored_side
from frostline.data.resize import CenterCrop, center_boxes, center_crop, resized_crop
from frostline.runs.split_views import random_view

CONF = Path(__file__).parents[2] / "conf" / "augment"
NONE = Policy(crop="none", scale=(1, 1), ratio=(1, 1), padding=0, flip=False, color=0, trivial=False)
CROP = replace(NONE, crop="random_resized", scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
ALL = replace(CROP, flip=True, color=0.4, trivial=True)
POLICIES = {
    "none": NONE,
    "flip": replace(NONE, flip=True),
    "random_resized": CROP,
    "pad": replace(NONE, crop="pad", padding=0.125),
    "color": replace(NONE, color=0.4),
    "trivial": replace(NONE, trivial=True),
    "all": ALL,
}


def photos(batch: int, height: int = 32, width: int = 32) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=random)


def sizes_of(pixels: Tensor) -> Tensor:
    return torch.tensor([[pixels.shape[3], pixels.shape[2]]], dtype=torch.int32).repeat(len(pixels), 1)


def views(
    policy: Policy, pixels: Tensor, ids: Tensor, *, size: int = 40, resize: int = 40, seed: int = 0, epoch: int = 1
) -> Tensor:
    """Return training views in levels 0..255."""
    spec = InputSpec(size, resize, (0, 0, 0), (1 / 255,) * 3, "bilinear")
    view = random_view(spec, policy, seed)
    crop = view.crop and view.crop(sizes_of(pixels).to(pixels.device), ids, epoch)
    if crop is None:
        shown = center_crop(pixels, view.center).float()
    else:
        how = {"interpolation": spec.interpolation}
        shown = resized_crop(pixels, crop.boxes, size, crop.flip, **how)
    return view.finish(shown, ids, epoch)


def test_center_box_covers_a_square_image() -> None:
    how = CenterCrop(size=64, resize=64, interpolation="bilinear")
    assert center_boxes(torch.tensor([[8, 8], [300, 300]]), how).tolist() == [[0, 0, 1, 1]] * 2


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_augmentation_alone_makes_views_random(policy: Policy) -> None:
    assert policy.random == (policy != NONE)


def test_training_view_without_policy_is_the_center_crop() -> None:
    pixels = photos(3)
    seen = views(NONE, pixels, torch.arange(3), size=28, resize=40)
    assert torch.equal(seen, center_crop(pixels, CenterCrop(28, 40, "bilinear")).float())


@pytest.mark.parametrize("policy", [CROP, replace(CROP, scale=(0.3, 0.5))])
def test_stored_side_exceeds_the_median_crop(policy: Policy) -> None:
    how = CenterCrop(size=224, resize=256, interpolation="bilinear")
    side = stored_side(policy, how)
    boxes = random_boxes(
        torch.tensor([[side, side]]).repeat(4000, 1),
        uniform(1, torch.arange(4000), 22),
        scale=policy.scale,
        ratio=policy.ratio,
    )
    areas = ((boxes[:, 2:] - boxes[:, :2]) * side).prod(1)
    assert areas.median().sqrt() / 224 == pytest.approx(1.25, rel=0.02)
    assert stored_side(POLICIES["pad"], how) == 1.25 * 256


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_view_does_not_depend_on_its_batch(policy: Policy) -> None:
    pixels, ids = photos(12), torch.arange(100, 112)
    together = views(policy, pixels, ids)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(views(policy, pixels[order], ids[order]), together[order], atol=0.01)
    alone = torch.cat([views(policy, pixels[i : i + 1], ids[i : i + 1]) for i in range(12)])
    assert torch.allclose(alone, together, atol=0.01)


@pytest.mark.parametrize(
    "policy", [p for p in POLICIES.values() if p != NONE], ids=[n for n in POLICIES if n != "none"]
)
def test_view_depends_on_seed_epoch_and_image(policy: Policy) -> None:
    pixels, ids = photos(1).expand(12, -1, -1, -1), torch.arange(12)
    first = views(policy, pixels, ids)
    assert torch.equal(views(policy, pixels, ids), first)
    assert not torch.equal(views(policy, pixels, ids, epoch=2), first)
    assert not torch.equal(views(policy, pixels, ids, seed=1), first)
    assert not torch.equal(views(policy, pixels, ids + 12), first)
    assert len(first.flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_views_do_not_synchronise_with_the_device(policy: Policy) -> None:
    pixels = photos(4).to("meta")  # a meta tensor has no values to read
    seen = views(policy, pixels, torch.arange(4, device="meta"))
    assert seen.device.type == "meta"
    assert (seen.shape, seen.dtype) == ((4, 3, 40, 40), torch.float32)


@settings(deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1))
def test_random_boxes_are_whole_pixels_in_the_image(width: int, height: int, seed: int) -> None:
    sizes = torch.tensor([[width, height]]).repeat(20, 1)
    boxes = random_boxes(sizes, uniform(seed, torch.arange(20), 22), scale=CROP.scale, ratio=CROP.ratio)
    corners = boxes * sizes.repeat(1, 2)
    assert (corners - corners.round()).abs().max() < 2e-3
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= 1).all()
    assert (corners[:, 2:] - corners[:, :2] > 0.5).all()


@pytest.mark.parametrize(("width", "height"), [(500, 375), (120, 300), (32, 32), (900, 100)])
def test_random_boxes_follow_torchvisions_distribution(width: int, height: int) -> None:
    sizes = torch.tensor([[width, height]]).repeat(3000, 1)
    boxes = random_boxes(sizes, uniform(1, torch.arange(3000), 22), scale=CROP.scale, ratio=CROP.ratio)
    left, top, right, bottom = (boxes * sizes.repeat(1, 2)).round().T
    ours = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(8, scale=CROP.scale, ratio=CROP.ratio), torch.empty(3, height, width)
    theirs = [crop.make_params([image]) for _ in range(3000)]
    for side, values in ours.items():
        distance = ks_2samp(values.numpy(), [params[side] for params in theirs]).statistic
        assert distance < 0.07, side  # two samples of 3,000: by chance, once in 1.2 million times


def test_half_of_the_images_are_flipped() -> None:
    pixels = photos(1).expand(1000, -1, -1, -1)
    seen = views(POLICIES["flip"], pixels, torch.arange(1000), size=32, resize=32)
    plain = pixels[0].float()
    mirrored = (seen - plain.flip(-1)).flatten(1).abs().amax(1) < 0.01
    straight = (seen - plain).flatten(1).abs().amax(1) < 0.01
    assert (mirrored ^ straight).all()
    assert 420 < mirrored.sum() < 580  # 5 standard deviations


def test_padding_shifts_by_whole_pixels_and_fills_zeros() -> None:
    pixels = photos(1)
    seen = views(POLICIES["pad"], pixels.expand(1000, -1, -1, -1), torch.arange(1000), size=32, resize=32)
    padded = torch.nn.functional.pad(pixels[0].float(), [4] * 4)
    shifts = {(x, y): padded[:, y : y + 32, x : x + 32] for x in range(9) for y in range(9)}
    found = [[k for k, shifted in shifts.items() if torch.allclose(one, shifted, atol=0.01)] for one in seen[:60]]
    assert all(len(matches) == 1 for matches in found)
    corners = (seen[:, :, :, 0] == 0).all(2).all(1).float().mean()
    assert abs(corners - 4 / 9) < 0.08  # 4 of 9 horizontal shifts show padding in the left column


def test_color_scales_brightness_then_contrast_then_saturation() -> None:
    images, draws = photos(4).float(), torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    ours = jitter(images, draws, 0.4)
    for image, seen, (brightness, contrast, saturation) in zip(images, ours, (0.6 + 0.8 * draws).tolist(), strict=True):
        expected = tv.adjust_contrast(tv.adjust_brightness(image / 255, brightness), contrast)
        assert torch.allclose(seen, tv.adjust_saturation(expected, saturation) * 255, atol=0.05)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_augment_options_are_complete_and_usable(path: Path) -> None:
    assert path.read_text().startswith("# ")
    option = yaml.safe_load(path.read_text())
    assert list(option) == [field.name for field in fields(AugmentConfig)]
    assert option.pop("name") == path.stem
    assert set(option) == set(inspect.signature(Policy).parameters)
    seen = views(Policy(**option), photos(4), torch.arange(4))
    assert seen.isfinite().all()
