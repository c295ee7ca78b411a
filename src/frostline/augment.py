"""Views: what the network is shown of an image. Random ones for training, the plain centre view for everything else.

A view is a box of the image, resized once, perhaps mirrored and recoloured, and normalised; all in batches on the
device that holds the pixels, without waiting for it. Every draw is addressed by (seed, purpose, epoch, image).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.randomness import address, uniform
from frostline.recolor import jitter
from frostline.resample import crop_resize
from frostline.trivial import trivial_augment

_TRIES = 10  # as many boxes as torchvision's RandomResizedCrop tries before it falls back to the middle


@dataclass(frozen=True)
class Policy:
    """How training views differ from the centre view: the fields of `AugmentConfig`, as checked there."""

    crop: str
    scale: tuple[float, float]
    ratio: tuple[float, float]
    padding: float
    flip: bool
    """Wished for, and the data's classes bear it."""
    color: float
    trivial: bool

    @property
    def random(self) -> bool:
        """Whether views differ at all; if not, training images are seen as all others are."""
        return self.crop != "none" or self.flip or self.color > 0 or self.trivial


def eval_views(
    pixels: Tensor,
    sizes: Tensor,
    *,
    size: int,
    resize: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Tensor:
    """Return `(B, 3, size, size)` float32, normalised: the centre view of `(B, 3, H, W)` uint8 pixels.

    `sizes` is `(B, 2)`, width and height of the original pictures. Where the pixels are the originals, this is what
    `Resize(resize)`, `CenterCrop(size)` and `Normalize(mean, std)` of torchvision give in floating point.
    """
    views = crop_resize(pixels, center_boxes(sizes, size=size, resize=resize), size, bleed=True)
    return normalise(views, mean, std)


def train_views(
    pixels: Tensor,
    sizes: Tensor,
    ids: Tensor,
    *,
    policy: Policy,
    size: int,
    resize: int,
    seed: int,
    epoch: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Tensor:
    """Return `(B, 3, size, size)` float32, normalised: random views of `(B, 3, H, W)` uint8 pixels under `policy`.

    `ids` is `(B,)` int64. The view of an image depends on `seed`, `epoch` and its id, not on the rest of the batch.
    """

    def draws(purpose: str, count: int) -> Tensor:
        return uniform(address(seed, "augment", purpose, epoch), ids, count)

    boxes = center_boxes(sizes, size=size, resize=resize)
    if policy.crop == "random_resized":
        boxes = random_boxes(sizes, draws("crop", 2 * _TRIES + 2), scale=policy.scale, ratio=policy.ratio)
    elif policy.crop == "pad":
        height, width = pixels.shape[-2:]
        boxes = shift_boxes(boxes, draws("crop", 2), padding=policy.padding, height=height, width=width)
    flip = draws("flip", 1)[:, 0] < 0.5 if policy.flip else None
    views = crop_resize(pixels, boxes, size, flip, bleed=policy.crop == "none")
    if policy.color:
        views = jitter(views, draws("color", 3), policy.color)
    if policy.trivial:
        views = trivial_augment(views, draws("trivial", 3))
    return normalise(views, mean, std)


def center_boxes(sizes: Tensor, *, size: int, resize: int) -> Tensor:
    """Return `(B, 4)` float32 boxes: what `Resize(resize)` and `CenterCrop(size)` of torchvision leave of each image.

    Boxes are x0, y0, x1, y1 as fractions of the image. `sizes` is `(B, 2)`, width and height in pixels. The shorter
    side becomes `resize`, the longer one keeps the aspect ratio; a square image with `resize == size` is seen whole.
    """
    shorter = sizes.amin(1, keepdim=True)
    resized = sizes * resize // shorter
    start = ((resized - size) / 2).round()
    return torch.cat([start, start + size], 1) / resized.repeat(1, 2)


def random_boxes(sizes: Tensor, draws: Tensor, *, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Return `(B, 4)` float32 boxes of the Inception crop (arXiv:1409.4842), distributed as torchvision draws them.

    `draws` is `(B, 22)` in [0, 1). Areas are uniform in `scale`, aspect ratios log-uniform in `ratio`, in whole pixels
    of the original picture. torchvision draws up to ten boxes until one fits; here all ten are drawn at once and the
    first that fits is taken, or where none does the largest in the middle that has an allowed aspect ratio.
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


def shift_boxes(boxes: Tensor, draws: Tensor, *, padding: float, height: int, width: int) -> Tensor:
    """Return `(B, 4)` boxes moved by whole pixels, uniformly up to `padding` of the image in each direction.

    `draws` is `(B, 2)` in [0, 1), `height` and `width` are those of the stored image. Boxes may then reach outside it.
    """
    shift = [_whole_shift(draws[:, 0], padding, width), _whole_shift(draws[:, 1], padding, height)]
    return boxes + torch.stack(shift * 2, 1)


def _whole_shift(draws: Tensor, padding: float, length: int) -> Tensor:
    furthest = round(padding * length)
    return ((draws * (2 * furthest + 1)).floor() - furthest) / length


def _between(low: float, high: float, draws: Tensor) -> Tensor:
    return low + (high - low) * draws


def normalise(views: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Return `views`, 0..255, normalised in place. Plain numbers per channel: a tensor of them would be a host sync."""
    for channel, center, spread in zip(views.unbind(1), mean, std, strict=True):
        channel.div_(255 * spread).sub_(center / spread)
    return views
