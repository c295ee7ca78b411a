"""Cutting one box out of each image of a batch and resizing it, as two matrix products.

A resize is linear and separable: `rows @ image @ columns.T`. With one pair of matrices per image every image has a box
of its own, on a GPU without a loop over images. A CPU, which feels every multiplication, is spared those with zero:
a few neighbouring places see only a few pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_BAND = 32  # places
_TOGETHER = 16  # images that a CPU resizes at once: few enough for its caches


def crop_resize(pixels: Tensor, boxes: Tensor, size: int, flip: Tensor | None = None, *, bleed: bool = False) -> Tensor:
    """Return `(B, 3, size, size)` float32 in 0..255: the box of each image, resized by antialiased bilinear weights.

    `pixels` is `(B, 3, H, W)` uint8. `boxes` is `(B, 4)` float32: x0, y0, x1, y1 as fractions of the image; where a box
    reaches outside the image, zeros are shown. `flip` is `(B,)` bool and mirrors left and right. The weights are those
    of torchvision's `resized_crop`; with `bleed` those of resizing the whole image and cropping afterwards, where the
    filter also sees what lies beside the box.
    """
    on_cpu = boxes.device.type == "cpu"
    if on_cpu and bool((boxes == boxes[:1]).all()):
        boxes = boxes[:1]  # one pair of matrices serves all; on other devices the comparison would be a host sync
    left, top, right, bottom = boxes.unbind(1)
    height, width = pixels.shape[-2:]
    rows = _weights(top * height, bottom * height, height, size, bleed)
    columns = _weights(left * width, right * width, width, size, bleed)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    return (_banded if on_cpu and min(height, width) > 2 * _BAND else _batched)(rows, pixels, columns)


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


def _batched(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Return `rows @ images @ columns.T` for `(B or 1, S, H)`, `(B, 3, H, W)` and `(B or 1, S, W)`."""
    batch, channels, height, width = images.shape
    size = columns.shape[1]
    lines = images.float().view(batch, channels * height, width)
    lines = lines @ columns[0].T if len(columns) == 1 else torch.bmm(lines, columns.mT)
    pictures = lines.view(batch, channels, height, size)
    return (rows[0] if len(rows) == 1 else rows[:, None]) @ pictures


def _banded(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Return what `_batched` returns."""
    batch, channels = images.shape[:2]
    size = columns.shape[1]
    views = torch.empty(batch, channels, size, size)
    step = _TOGETHER if len(columns) == 1 else 1
    each = [slice(i, i + step) for i in range(0, batch, step)]
    horizontal, vertical = (bands * (len(each) // len(bands)) for bands in (_bands(columns), _bands(rows)))
    for these, across, down in zip(each, horizontal, vertical, strict=True):
        seen = images[these, :, down.seen, across.seen].to(torch.float32, memory_format=torch.contiguous_format)
        lines = seen.flatten(0, 2)
        lines = torch.cat([lines[:, part] @ weights.T for part, weights in across.parts], 1)
        lines = lines.view(*seen.shape[:3], size)
        views[these] = torch.cat([weights @ lines[:, :, part] for part, weights in down.parts], 2)
    return views


class _Bands(NamedTuple):
    """One matrix of weights `(S, L)` without its zeros."""

    seen: slice
    """The pixels that any place sees."""
    parts: list[tuple[slice, Tensor]]
    """For each band of places the pixels of `seen` that it sees, and the weights `(S', L')` of those."""


def _bands(weights: Tensor) -> list[_Bands]:
    """Return the bands of each of the matrices `(B, S, L)`."""
    bands = weights.split(_BAND, 1)
    some = torch.stack([(band != 0).any(1) for band in bands], 1)  # (B, bands, L)
    first = some.byte().argmax(2)
    after = (weights.shape[2] - some.flip(2).byte().argmax(2)) * some.any(2)  # 0 to 0 where nothing is seen
    found = []
    for i, (starts, ends) in enumerate(zip(first.tolist(), after.tolist(), strict=True)):
        begin = min(starts)
        spans = zip(starts, ends, bands, strict=True)
        parts = [(slice(start - begin, end - begin), band[i, :, start:end]) for start, end, band in spans]
        found.append(_Bands(slice(begin, max(ends)), parts))
    return found
