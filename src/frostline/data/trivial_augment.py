"""TrivialAugment "wide" (Müller and Hutter 2021, arXiv:2103.10158) on batches: one operation and strength per image.

Operations and strengths are those of torchvision's `TrivialAugmentWide`. There is no loop over images: each of three
kernels applies a family of operations, and leaves images with an operation of another family unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from frostline.core.machine import allow_nondeterminism

MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
TABLES = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *MOVES, *BLENDS, *TABLES)
STRENGTHS = 31

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def trivial_augment(images: Tensor, draws: Tensor) -> Tensor:
    """Return `(B, 3, S, S)` float32, integers 0..255: each image after one operation, all equally likely.

    `images` is `(B, 3, S, S)` float32 in 0..255 and is rounded to integers first. `draws` is `(B, 3)` in [0, 1) and
    chooses operation, strength and sign.
    """
    draws = draws[:, :, None, None, None]
    operation = (draws[:, 0] * len(OPERATIONS)).floor()
    strength = (draws[:, 1] * STRENGTHS).floor() / (STRENGTHS - 1)
    signed = torch.where(draws[:, 2] < 0.5, -strength, strength)
    images = _apply(_move, MOVES, images.round(), operation, signed)
    images = _apply(_blend, BLENDS, images, operation, signed)
    return _apply(_look_up, TABLES, images, operation, strength)


def _apply(kernel: Kernel, family: tuple[str, ...], images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Return the images after `kernel`; `operation` and `strength`, like all parameters below, are `(B, 1, 1, 1)`.

    On a CPU only images with an operation of the family pass through the kernel, and are replaced in place. On a GPU
    selecting them would synchronise with the host, which costs more than passing all images.
    """
    if images.device.type != "cpu":
        return kernel(images, operation, strength)
    first = OPERATIONS.index(family[0])
    rows = ((operation >= first) & (operation < first + len(family))).flatten().nonzero()[:, 0]
    return images.index_copy_(0, rows, kernel(images[rows], operation[rows], strength[rows]))


def _is(operation: Tensor, name: str) -> Tensor:
    return operation == OPERATIONS.index(name)


def _move(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Return the images sheared, shifted or rotated: each pixel from the nearest one of its source, zeros from outside.

    Coordinates are pixels from the middle of the image, x to the right and y down. Shears keep the top left corner.
    """
    shear_x, shear_y, shift_x, shift_y, rotate = (_is(operation, name) * strength for name in MOVES)
    cos, sin = (math.radians(135) * rotate).cos(), (math.radians(135) * rotate).sin()
    side = images.shape[-1]
    place = torch.arange(side, device=images.device) + (1 - side) / 2
    x, y = place[None, :], place[:, None]
    source_x = cos * x - sin * y + 0.99 * shear_x * (y + side / 2) - (32 * shift_x).trunc()
    source_y = cos * y + sin * x + 0.99 * shear_y * (x + side / 2) - (32 * shift_y).trunc()
    grid = torch.cat([source_x, source_y], 1).permute(0, 2, 3, 1) / (side / 2)
    return grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _blend(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Return the images as integers, moved toward or away from black, gray, mean gray or a smoothed version."""
    luma = gray(images).floor()
    toward = torch.where(_is(operation, "sharpness"), _smooth(images), images)
    toward = torch.where(_is(operation, "contrast"), luma.mean((2, 3), keepdim=True), toward)
    toward = torch.where(_is(operation, "color"), luma, toward)
    toward = torch.where(_is(operation, "brightness"), 0.0, toward)
    return blend(images, toward, 1 + 0.99 * strength).floor_()


def _smooth(images: Tensor) -> Tensor:
    """Return the images after a 3x3 filter of ones with 5 in the middle (Pillow's SMOOTH); the border is unchanged."""
    smooth = images.clone()
    lines = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    blocks = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:]
    smooth[..., 1:-1, 1:-1] = blocks.add_(images[..., 1:-1, 1:-1], alpha=4).div_(13).round_()
    return smooth


def _look_up(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Return the images passed through a table of new levels for each of the 256 old ones, per image and channel."""
    index = images.long().flatten(2)[:, :, None]
    old = torch.arange(256.0, device=images.device)
    width = (6 * strength).round().exp2().round()
    table = torch.where(_is(operation, "posterize"), (old / width).floor() * width, old)
    threshold = (510 * (1 - strength)).round() / 2
    table = torch.where(_is(operation, "solarize") & (old >= threshold), 255 - old, table)
    table = torch.where(_is(operation, "autocontrast"), _stretched(old, index), table)
    table = torch.where(_is(operation, "equalize"), _equalized(old, index), table)
    return table.expand(-1, 3, -1, -1).gather(3, index).view_as(images)


def _stretched(old: Tensor, index: Tensor) -> Tensor:
    """Return `(B, 3, 1, 256)`: tables that stretch the levels of each channel to 0..255, if they are not all equal."""
    lowest, highest = index.amin(3, keepdim=True), index.amax(3, keepdim=True)
    stretched = (old - lowest) / ((highest - lowest) / 255)
    return torch.where(highest > lowest, stretched.clamp(0, 255).floor(), old)


def _equalized(old: Tensor, index: Tensor) -> Tensor:
    """Return `(B, 3, 1, 256)`: tables that equalise the histogram of each channel, by Pillow's integer rule."""
    with allow_nondeterminism():  # sums of integers do not depend on the order
        counts = index.new_zeros(*index.shape[:3], 256).scatter_add_(3, index, torch.ones_like(index))
    highest = counts.gather(3, index.amax(3, keepdim=True))
    step = (index.shape[3] - highest) // 255
    below = counts.cumsum(3) - counts
    return torch.where(step > 0, ((below + step // 2) // step.clamp(min=1)).clamp(max=255), old)


def blend(images: Tensor, toward: Tensor, factors: Tensor) -> Tensor:
    """Return `toward + factors * (images - toward)` clipped to 0..255: factor 0 gives `toward`, 1 the images.

    `factors` is `(B, 1, 1, 1)`, and `toward` has any shape that broadcasts against the images.
    """
    return torch.lerp(toward.expand_as(images), images, factors).clamp_(0, 255)


def gray(images: Tensor) -> Tensor:
    """Return `(B, 1, S, S)`: luma by ITU-R BT.601, the weights that Pillow and torchvision use."""
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue
