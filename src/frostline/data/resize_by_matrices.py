"""Crop and resize a batch of images on a GPU by matrix products: a resize is linear and separable.

With a pair of matrices per image, `rows @ image @ columns.T`, every image of a batch can have its own box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Fill = tuple[int, int, int]
"""Levels of red, green and blue outside the image."""

BLACK = (0, 0, 0)


def padded(images: Sequence[Tensor]) -> Tensor:
    """Return `(B, 3, H, W)` uint8: images padded with zeros at the right and bottom, which get no weight."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    batch = torch.zeros(len(images), 3, height, width, dtype=torch.uint8, device=images[0].device)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


class _Filter(NamedTuple):
    """An interpolation kernel."""

    weigh: Callable[[Tensor], Tensor]
    """Returns the weights at distances in steps; it may overwrite them."""
    radius: int
    """Distance from which on the weight is zero."""


def _triangle(distance: Tensor) -> Tensor:
    return distance.neg_().add_(1).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Cubic convolution with a = -1/2 (Keys 1981, doi:10.1109/TASSP.1981.1163711), as in Pillow."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


FILTERS = {"bilinear": _Filter(_triangle, 1), "bicubic": _Filter(_cubic, 2)}
"""Interpolation kernels by name."""


def by_matrices(
    images: Tensor,
    boxes: Tensor,
    sizes: Tensor,
    size: int,
    interpolation: str,
    flip: Tensor | None = None,
    *,
    fill: Fill = BLACK,
    bleed: bool = False,
) -> Tensor:
    """Return the boxes `(B or 1, 4)`, in pixels, of a batch resized to `(B, 3, size, size)` float32, integers 0..255.

    `sizes` is `(B or 1, 2)`: width and height of each image within `(B, 3, H, W)`, from the top left corner. With
    `bleed` the filter also reads pixels beside the box, as if the whole image were resized and then cropped.
    """
    left, top, right, bottom = boxes.unbind(1)
    across, down = sizes.unbind(1)
    height, width = images.shape[2:]
    rows = _weights(top, bottom, down, height, size, FILTERS[interpolation], bleed)
    columns = _weights(left, right, across, width, size, FILTERS[interpolation], bleed)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    shown = _product(rows, images, columns)
    return shown if fill == BLACK else _filled(shown, rows, columns, fill)


def _filled(shown: Tensor, rows: Tensor, columns: Tensor, fill: Fill) -> Tensor:
    """Return `shown`, `(B, 3, S, S)`, overwritten, with `fill` added where the image's weights sum to less than 1."""
    bare = 1 - rows.sum(2)[:, :, None] * columns.sum(2)[:, None, :]
    for channel, level in zip(shown.unbind(1), fill, strict=True):
        channel += level * bare
    return shown.round_().clamp_(0, 255)


def _weights(
    start: Tensor, end: Tensor, lengths: Tensor, longest: int, size: int, filter_: _Filter, bleed: bool
) -> Tensor:
    """Return `(B, size, longest)` float32: the weight of each pixel of an axis in `size` outputs from start to end.

    The filter reaches `radius` steps to either side, where a step is the distance of two outputs, at least one pixel. A
    pixel counts by the part of it inside the box. Weights are normalised over `margin` more pixels at both ends of the
    image, which are zeros and then left out: exact for boxes that are not longer than the image.
    """
    margin = math.ceil(2 * filter_.radius * max(longest / size, 1.0)) - 1
    pixel = torch.arange(-margin, longest + margin, device=start.device) + 0.5
    step = ((end - start) / size)[:, None]
    place = start[:, None] + step * (torch.arange(size, device=start.device) + 0.5)
    weights = filter_.weigh((pixel - place[:, :, None]).abs_().div_(step.clamp(min=1)[:, :, None]))
    inside = _covered(pixel, torch.zeros_like(start), lengths)
    weights *= inside if bleed else _covered(pixel, start, end)
    total = weights.sum(2, keepdim=True)
    within = ((place > 0) & (place < lengths[:, None]))[:, :, None] if bleed else inside
    shown = weights.mul_(within)[:, :, margin : margin + longest]
    return shown / torch.where(total.abs() < 1e-12, 1e-12, total)  # outputs far outside the image have no weights


def _covered(pixel: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return `(B, 1, P)`: the fraction of each pixel, given by its centre, between start and end."""
    low = torch.maximum(pixel - 0.5, start[:, None])
    high = torch.minimum(pixel + 0.5, end[:, None])
    return (high - low).clamp_(0, 1)[:, None]


def _product(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Return `rows @ images @ columns.T` for `(B or 1, S, H)`, `(B, 3, H, W)` and `(B or 1, S, W)`.

    Both products are rounded to integers, as in torch and Pillow, which resize horizontally first, then vertically.
    """
    batch, channels, height, width = images.shape
    size = columns.shape[1]
    lines = images.float().reshape(batch, channels * height, width)
    lines = lines @ columns[0].T if len(columns) == 1 else torch.bmm(lines, columns.mT)
    narrow = lines.round_().clamp_(0, 255).view(batch, channels, height, size)
    return ((rows[0] if len(rows) == 1 else rows[:, None]) @ narrow).round_().clamp_(0, 255)
