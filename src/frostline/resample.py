"""Cutting one box out of each image of a batch and resizing it, as two batched matrix products.

A resize is linear and separable: `rows @ image @ columns.T`. With one pair of matrices per image every image has a box
of its own, without a loop over images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def crop_resize(pixels: Tensor, boxes: Tensor, size: int, flip: Tensor | None = None, *, bleed: bool = False) -> Tensor:
    """Return `(B, 3, size, size)` float32 in 0..255: the box of each image, resized by antialiased bilinear weights.

    `pixels` is `(B, 3, H, W)` uint8. `boxes` is `(B, 4)` float32: x0, y0, x1, y1 as fractions of the image; where a box
    reaches outside the image, zeros are shown. `flip` is `(B,)` bool and mirrors left and right. The weights are those
    of torchvision's `resized_crop`; with `bleed` those of resizing the whole image and cropping afterwards, where the
    filter also sees what lies beside the box.
    """
    if boxes.device.type == "cpu" and bool((boxes == boxes[:1]).all()):
        boxes = boxes[:1]  # one pair of matrices serves all; on other devices the comparison would be a host sync
    left, top, right, bottom = boxes.unbind(1)
    height, width = pixels.shape[-2:]
    rows = _weights(top * height, bottom * height, height, size, bleed)
    columns = _weights(left * width, right * width, width, size, bleed)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    return _product(rows, pixels.float(), columns)


def _weights(start: Tensor, end: Tensor, length: int, size: int, bleed: bool) -> Tensor:
    """Return `(B, size, length)` float32: what each pixel of one axis gives to each of `size` places from start to end.

    The filter is a triangle that reaches one step between two places to either side, at least one pixel. A pixel counts
    by how much of it lies in the box. The sum of the weights is taken over `margin` more pixels at both ends of the
    image, which are zeros and then left out: exact for boxes that are no longer than the image.
    """
    device = start.device
    margin = math.ceil(2 * max(length / size, 1.0)) - 1
    pixel = torch.arange(-margin, length + margin, device=device) + 0.5
    step = ((end - start) / size)[:, None]
    place = start[:, None] + step * (torch.arange(size, device=device) + 0.5)
    weights = (pixel - place[:, :, None]).abs_().div_(-step.clamp(min=1)[:, :, None]).add_(1).clamp_(min=0)
    weights *= (
        _covered(pixel, torch.zeros_like(start), torch.full_like(end, length)) if bleed else _covered(pixel, start, end)
    )
    total = weights.sum(2, keepdim=True).clamp_(min=1e-12)  # a place far outside the image sees nothing at all
    return weights[:, :, margin : margin + length] / total


def _covered(pixel: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return `(B, 1, P)`: the part, 0 to 1, of each pixel (given by its centre) that lies between start and end."""
    low = torch.maximum(pixel - 0.5, start[:, None])
    high = torch.minimum(pixel + 0.5, end[:, None])
    return (high - low).clamp_(0, 1)[:, None]


def _product(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Return `rows @ images @ columns.T` for `(B or 1, S, H)`, `(B, 3, H, W)` and `(B or 1, S, W)`."""
    batch, channels, height, width = images.shape
    size = columns.shape[1]
    lines = images.view(batch, channels * height, width)
    lines = lines @ columns[0].T if len(columns) == 1 else torch.bmm(lines, columns.mT)
    pictures = lines.view(batch, channels, height, size)
    return (rows[0] if len(rows) == 1 else rows[:, None]) @ pictures
