"""Random augmentation in batches: crops, mirroring, colour jitter, TrivialAugment.

Nothing here waits for the device. Every draw depends only on (seed, purpose, epoch, image).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.core.randomness import derive_seed, uniform
from frostline.data.resize import CenterCrop, center_boxes
from frostline.data.trivial_augment import blend, gray, trivial_augment

_SURPLUS = 1.25  # see `stored_side`; its effect is measured in benchmarks/fidelity.py
_TRIES = 10  # boxes that torchvision's RandomResizedCrop tries before it falls back to a centre crop


@dataclass(frozen=True)
class Policy:
    """The augmentation of training views: the checked fields of `AugmentConfig`."""

    crop: str
    scale: tuple[float, float]
    ratio: tuple[float, float]
    padding: float
    flip: bool
    """Whether both `augment.flip` and `data.flip` are set."""
    color: float
    trivial: bool

    @property
    def random(self) -> bool:
        """Whether any augmentation is on; if not, training images get the centre view."""
        return self.crop != "none" or self.flip or self.color > 0 or self.trivial


@dataclass(frozen=True)
class Crop:
    """The crops of a batch of images."""

    boxes: Tensor
    """`(B, 4)` float32: x0, y0, x1, y1 as fractions of the image."""
    flip: Tensor | None
    """`(B,)` bool: which images are mirrored; None for none."""


def stored_side(policy: Policy, how: CenterCrop) -> int:
    """Return the shorter side in pixels to which stored images may be reduced for the crops of `policy`.

    The median crop of a square image then has, per side, `_SURPLUS` times the pixels of the network's input. After
    reduction to this side by Pillow's Lanczos filter, crops keep 95% or more of the detail of crops of the original
    (root mean square of the Laplacian: the rows of benchmarks/fidelity.py in benchmarks/RESULTS.md).
    """
    return math.ceil(_SURPLUS * how.size / median_extent(policy, how))


def surplus(policy: Policy, how: CenterCrop, side: int) -> float:
    """Return the pixels per side of the median crop of a square of `side` pixels, relative to the network's input."""
    return side * median_extent(policy, how) / how.size


def median_extent(policy: Policy, how: CenterCrop) -> float:
    """Return the side of the median crop, as a fraction of the image's shorter side."""
    return _median_extent(policy.scale, policy.ratio) if policy.crop == "random_resized" else how.size / how.resize


@functools.cache
def _median_extent(scale: tuple[float, float], ratio: tuple[float, float]) -> float:
    """Return the square root of the median area of random boxes in a square, as a fraction of its side.

    Boxes that do not fit are drawn again, so the median area is below the middle of `scale`.
    """
    ids = torch.arange(1001)
    squares = torch.full((len(ids), 2), 4096)
    boxes = random_boxes(squares, _draws(0, "median", 0, ids, 2 * _TRIES + 2), scale=scale, ratio=ratio)
    return float((boxes[:, 2:] - boxes[:, :2]).prod(1).median().sqrt())


def random_crop(sizes: Tensor, ids: Tensor, *, policy: Policy, how: CenterCrop, seed: int, epoch: int) -> Crop:
    """Return random crops of images of `sizes` `(B, 2)`, width and height, under a `policy` that crops at random.

    `ids` is `(B,)` int64. The crop of an image depends on `seed`, `epoch` and its id, not on the rest of the batch.
    """
    if policy.crop == "random_resized":
        draws = _draws(seed, "crop", epoch, ids, 2 * _TRIES + 2)
        boxes = random_boxes(sizes, draws, scale=policy.scale, ratio=policy.ratio)
    else:
        draws = _draws(seed, "crop", epoch, ids, 2)
        boxes = shift_boxes(center_boxes(sizes, how), draws, padding=policy.padding, sizes=sizes)
    return Crop(boxes, mirrored(ids, policy=policy, seed=seed, epoch=epoch))


def mirrored(ids: Tensor, *, policy: Policy, seed: int, epoch: int) -> Tensor | None:
    """Return `(B,)` bool: which images are mirrored; None if `policy` mirrors none."""
    return _draws(seed, "flip", epoch, ids, 1)[:, 0] < 0.5 if policy.flip else None


def recolor(views: Tensor, ids: Tensor, *, policy: Policy, seed: int, epoch: int) -> Tensor:
    """Return `views`, `(B, 3, S, S)` float32 in 0..255, after the colour jitter and TrivialAugment of `policy`."""
    if policy.color:
        views = jitter(views, _draws(seed, "color", epoch, ids, 3), policy.color)
    if policy.trivial:
        views = trivial_augment(views, _draws(seed, "trivial", epoch, ids, 3))
    return views


def _draws(seed: int, purpose: str, epoch: int, ids: Tensor, count: int) -> Tensor:
    return uniform(derive_seed(seed, "augment", purpose, epoch), ids, count)


def random_boxes(sizes: Tensor, draws: Tensor, *, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Return `(B, 4)` float32 boxes of the Inception crop (arXiv:1409.4842), with the same distribution as torchvision.

    `draws` is `(B, 22)` in [0, 1). Areas are uniform in `scale`, aspect ratios log-uniform in `ratio`, sides are
    integers in pixels of the original. torchvision draws up to ten boxes until one fits. Here all ten are drawn at
    once and the first that fits is taken; if none fits, the largest centred box with an allowed aspect ratio.
    """
    whole = sizes.float()
    area = _between(*scale, draws[:, :_TRIES]) * whole.prod(1, keepdim=True)
    aspect = _between(math.log(ratio[0]), math.log(ratio[1]), draws[:, _TRIES : 2 * _TRIES]).exp()
    tried = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 2).round()
    fits = ((tried >= 1) & (tried <= whole[:, None])).all(2)
    found = fits.any(1, keepdim=True)
    first = fits.byte().argmax(1)[:, None, None]
    widest = torch.stack([whole[:, 1] * ratio[1], whole[:, 0] / ratio[0]], 1).round()
    extent = torch.where(found, torch.take_along_dim(tried, first, 1)[:, 0], torch.minimum(whole, widest))
    start = torch.where(found, draws[:, -2:] * (whole - extent + 1), (whole - extent) / 2).floor()
    return torch.cat([start, start + extent], 1) / whole.repeat(1, 2)


def shift_boxes(boxes: Tensor, draws: Tensor, *, padding: float, sizes: Tensor) -> Tensor:
    """Return `(B, 4)` boxes shifted by whole pixels, uniformly up to `padding` of the image in each direction.

    `draws` is `(B, 2)` in [0, 1), `sizes` `(B, 2)`, width and height in pixels. Boxes may reach outside the image.
    """
    furthest = (padding * sizes).round()
    shift = ((draws * (2 * furthest + 1)).floor() - furthest) / sizes
    return boxes + shift.repeat(1, 2)


def _between(low: float, high: float, draws: Tensor) -> Tensor:
    return low + (high - low) * draws


def jitter(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Return `images` with brightness, contrast and saturation scaled, by random factors for each image.

    `draws` is `(B, 3)` in [0, 1); factors are uniform in 1 - `strength` (at least 0) to 1 + `strength`, as in
    torchvision's `ColorJitter`, but applied in this fixed order.
    """
    lowest = max(0.0, 1 - strength)
    brightness, contrast, saturation = _between(lowest, 1 + strength, draws)[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp_(0, 255)
    images = blend(images, gray(images).mean((2, 3), keepdim=True), contrast)
    return blend(images, gray(images), saturation)
