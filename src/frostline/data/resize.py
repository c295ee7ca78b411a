"""What a network is shown of a picture: its centre or a box of it, resized as torchvision resizes, in whole levels.

On a CPU torch does it picture by picture. A GPU is spared that loop: a resize is linear and separable, so that with one
pair of matrices per picture, `rows @ picture @ columns.T`, every picture of a batch has a box of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Pictures = Tensor | Sequence[Tensor]
"""A batch `(B, 3, H, W)` uint8, or pictures `(3, H, W)` uint8 of any sizes."""

Fill = tuple[int, int, int]
"""Levels of red, green and blue that are shown where there is no picture."""

_BLACK = (0, 0, 0)
_LONG = 16  # views that fit into the longer side of a picture that is resized whole; beyond, only its centre is


class Input(Protocol):
    """The picture that a network expects, as `build.InputSpec` says it."""

    @property
    def size(self) -> int:
        """Side of the square that it sees, in pixels."""

    @property
    def resize(self) -> int:
        """What the shorter side of a picture becomes before, in pixels."""

    @property
    def interpolation(self) -> str:
        """`bilinear` or `bicubic`."""

    @property
    def crop(self) -> str:
        """`squash` where the longer side becomes as long as the shorter one, `border` where it alone is given."""

    @property
    def mean(self) -> Sequence[float]:
        """Of red, green and blue in 0..1: what the network takes for nothing, and a border has."""


@dataclass(frozen=True)
class CenterCrop:
    """What is seen of a picture where nothing is random: `Resize` and `CenterCrop` as in torchvision and in timm."""

    size: int
    """Side in pixels of the square that is seen."""
    resize: int
    """What the shorter side becomes before, in pixels; the longer one keeps the aspect ratio."""
    interpolation: str
    """`bilinear` or `bicubic`, both antialiased."""
    squash: bool = False
    """Whether the longer side becomes `resize` too."""
    border: Fill | None = None
    """Where it is the longer side that becomes `resize`: what is shown beside the picture."""

    @classmethod
    def of(cls, spec: Input) -> CenterCrop:
        """Return what the network of that input sees."""
        red, green, blue = (round(255 * level) for level in spec.mean)
        border = (red, green, blue) if spec.crop == "border" else None
        return cls(spec.size, spec.resize, spec.interpolation, spec.crop == "squash", border)

    @property
    def fill(self) -> Fill:
        """What is shown where there is no picture."""
        return self.border or _BLACK

    @property
    def resized(self) -> str:
        """What a picture becomes before its centre is cut out, in words, in pixels."""
        if self.border is not None:
            return f"a longer side of {self.resize}, within a border"
        return f"both sides squashed to {self.resize}" if self.squash else f"a shorter side of {self.resize}"


def center_crop(pictures: Pictures, how: CenterCrop) -> Tensor:
    """Return `(B, 3, S, S)` uint8: the centre of each picture, to a level what torchvision shows of a Pillow image."""
    if not isinstance(pictures, Tensor):
        return torch.cat([center_crop(picture[None], how) for picture in pictures])
    height, width = pictures.shape[2:]
    resized = _resized(height, width, how)
    if _as_pillow(pictures.device) and max(resized) <= _LONG * how.size:
        whole = _interpolate(pictures, resized, how.interpolation)
        top, left = (_start(length - how.size) for length in resized)
        return _cut(whole, top, left, (how.size, how.size), how.fill)
    sizes = _sizes(pictures)
    boxes = center_boxes(sizes, how) * sizes.repeat(1, 2)
    return _by_matrices(pictures, boxes, sizes, how.size, how.interpolation, fill=how.fill, bleed=True).byte()


def _resized(height: int, width: int, how: CenterCrop) -> tuple[int, int]:
    """Return the height and width that a picture becomes before its centre is cut out."""
    if how.border is not None:  # as timm's ResizeKeepRatio rounds
        ratio = max(height, width) / how.resize
        return max(round(height / ratio), 1), max(round(width / ratio), 1)
    shorter = min(height, width)
    height, width = (shorter, shorter) if how.squash else (height, width)
    return height * how.resize // shorter, width * how.resize // shorter


def _start(surplus: int) -> int:
    """Return where the centre begins, as torchvision and timm round halves: of what is too small outside of it."""
    return round(surplus / 2) if surplus >= 0 else -(-surplus // 2)


def _cut(pictures: Tensor, top: int, left: int, size: tuple[int, int], fill: Fill) -> Tensor:
    """Return `(B, 3, *size)` from a place on that may lie outside, with `fill` where there is no picture."""
    rows, columns = size
    inside = pictures[:, :, max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + columns, 0)]
    if inside.shape[2:] == size:
        return inside
    cut = pictures.new_empty(len(pictures), 3, rows, columns)
    cut[:] = pictures.new_tensor(fill)[:, None, None]
    cut[:, :, max(-top, 0) :, max(-left, 0) :][:, :, : inside.shape[2], : inside.shape[3]] = inside
    return cut


def resized_crop(
    pictures: Pictures,
    boxes: Tensor,
    size: int,
    flip: Tensor | None = None,
    *,
    interpolation: str,
    fill: Fill = _BLACK,
) -> Tensor:
    """Return `(B, 3, size, size)` float32 in levels 0..255: the box of each picture, as torchvision's `resized_crop`.

    `boxes` is `(B, 4)` float32: x0, y0, x1, y1 as fractions of the picture, rounded to its pixels here; where a box
    reaches outside the picture, `fill` is shown. `flip` is `(B,)` bool and mirrors left and right.
    """
    if _as_pillow(boxes.device):  # one by one: no bit depends on the other pictures of the batch
        mirrored = [False] * len(boxes) if flip is None else flip.tolist()
        cut = zip(pictures, boxes.tolist(), mirrored, strict=True)
        return torch.stack([_resized_crop(*one, size, interpolation, fill) for one in cut]).float()
    batch = pictures if isinstance(pictures, Tensor) else _padded(pictures)
    sizes = _sizes(pictures)
    return _by_matrices(batch, (boxes * sizes.repeat(1, 2)).round(), sizes, size, interpolation, flip, fill=fill)


def center_boxes(sizes: Tensor, how: CenterCrop) -> Tensor:
    """Return `(B, 4)` float32 boxes, x0, y0, x1, y1 as fractions of the picture: what `how` leaves of each.

    `sizes` is `(B, 2)`, width and height in pixels. A square picture with `resize == size` is seen whole.
    """
    shorter, longer = sizes.amin(1, keepdim=True), sizes.amax(1, keepdim=True)
    if how.border is None:
        resized = (shorter.expand_as(sizes) if how.squash else sizes) * how.resize // shorter
    else:
        resized = (sizes.double() / (longer.double() / how.resize)).round().clamp(min=1).int()
    start = (resized - how.size) / 2
    start = torch.where(start < 0, start.trunc(), start.round())
    return torch.cat([start, start + how.size], 1) / resized.repeat(1, 2)


def _sizes(pictures: Pictures) -> Tensor:
    """Return `(B, 2)` int32, width and height of each picture, or `(1, 2)` of those of one size, where they lie."""
    each = pictures[:1] if isinstance(pictures, Tensor) else pictures
    sizes = torch.tensor([(picture.shape[2], picture.shape[1]) for picture in each], dtype=torch.int32)
    return sizes.to(each[0].device, non_blocking=True)  # so few bytes are sent without a wait


def _as_pillow(device: torch.device) -> bool:
    """Return whether torch resizes whole numbers there, to the same ones as Pillow; elsewhere matrices do it."""
    return device.type == "cpu"


def _interpolate(pictures: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Return `(B, 3, *size)` uint8, resized by torch as Pillow does, which is fastest where channels come last."""
    dense = pictures.contiguous(memory_format=torch.channels_last)
    return F.interpolate(dense, size=size, mode=interpolation, antialias=True)


def _resized_crop(
    picture: Tensor, box: Sequence[float], mirrored: bool, size: int, interpolation: str, fill: Fill
) -> Tensor:
    """Return `(3, size, size)` uint8 of one picture on the CPU."""
    height, width = picture.shape[1:]
    left, top, right, bottom = (round(edge * length) for edge, length in zip(box, (width, height) * 2, strict=True))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    part = _cut(picture[None], top, left, (bottom - top, right - left), fill)
    view = _interpolate(part, (size, size), interpolation)[0]
    return view.flip(2) if mirrored else view


def _padded(pictures: Sequence[Tensor]) -> Tensor:
    """Return `(B, 3, H, W)` uint8: the pictures in the corner of zeros, which have no weight."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (1, 2))
    padded = torch.zeros(len(pictures), 3, height, width, dtype=torch.uint8, device=pictures[0].device)
    for place, picture in zip(padded, pictures, strict=True):
        place[:, : picture.shape[1], : picture.shape[2]] = picture
    return padded


class _Filter(NamedTuple):
    """What a pixel gives to a place, by their distance."""

    weigh: Callable[[Tensor], Tensor]
    """Weights of distances in steps, which may be overwritten."""
    radius: int
    """Distance from which on it gives nothing."""


def _triangle(distance: Tensor) -> Tensor:
    return distance.neg_().add_(1).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Cubic convolution with a = -1/2 (Keys 1981, doi:10.1109/TASSP.1981.1163711), as in Pillow."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


_FILTERS = {"bilinear": _Filter(_triangle, 1), "bicubic": _Filter(_cubic, 2)}


def _by_matrices(
    pictures: Tensor,
    boxes: Tensor,
    sizes: Tensor,
    size: int,
    interpolation: str,
    flip: Tensor | None = None,
    *,
    fill: Fill = _BLACK,
    bleed: bool = False,
) -> Tensor:
    """Return `(B, 3, size, size)` float32 in whole levels: the boxes `(B or 1, 4)`, in pixels, of a batch of pictures.

    `sizes` is `(B or 1, 2)`: width and height of what is a picture in `(B, 3, H, W)`, from the top left corner. With
    `bleed` the filter also sees what lies beside the box, as when the whole picture is resized and then cropped.
    """
    left, top, right, bottom = boxes.unbind(1)
    across, down = sizes.unbind(1)
    height, width = pictures.shape[2:]
    rows = _weights(top, bottom, down, height, size, _FILTERS[interpolation], bleed)
    columns = _weights(left, right, across, width, size, _FILTERS[interpolation], bleed)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    shown = _product(rows, pictures, columns)
    return shown if fill == _BLACK else _filled(shown, rows, columns, fill)


def _filled(shown: Tensor, rows: Tensor, columns: Tensor, fill: Fill) -> Tensor:
    """Return `shown`, `(B, 3, S, S)`, overwritten, with `fill` as far as its weights leave it without a picture."""
    bare = 1 - rows.sum(2)[:, :, None] * columns.sum(2)[:, None, :]
    for channel, level in zip(shown.unbind(1), fill, strict=True):
        channel += level * bare
    return shown.round_().clamp_(0, 255)


def _weights(
    start: Tensor, end: Tensor, lengths: Tensor, longest: int, size: int, filter_: _Filter, bleed: bool
) -> Tensor:
    """Return `(B, size, longest)` float32: what each pixel of an axis gives to `size` places from start to end.

    The filter reaches `radius` steps between two places to either side, a step being at least one pixel. A pixel counts
    by how much of it lies in the box. The sum of the weights is taken over `margin` more pixels at both ends of the
    picture, which are zeros and then left out: exact for boxes that are no longer than the picture.
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
    return shown / torch.where(total.abs() < 1e-12, 1e-12, total)  # a place far outside the picture sees nothing at all


def _covered(pixel: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return `(B, 1, P)`: the part, 0 to 1, of each pixel (given by its centre) that lies between start and end."""
    low = torch.maximum(pixel - 0.5, start[:, None])
    high = torch.minimum(pixel + 0.5, end[:, None])
    return (high - low).clamp_(0, 1)[:, None]


def _product(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Return `rows @ images @ columns.T` for `(B or 1, S, H)`, `(B, 3, H, W)` and `(B or 1, S, W)`.

    Both products are rounded to levels, as in torch and in Pillow, which resize along lines first and then across.
    """
    batch, channels, height, width = images.shape
    size = columns.shape[1]
    lines = images.float().reshape(batch, channels * height, width)
    lines = lines @ columns[0].T if len(columns) == 1 else torch.bmm(lines, columns.mT)
    pictures = lines.round_().clamp_(0, 255).view(batch, channels, height, size)
    return ((rows[0] if len(rows) == 1 else rows[:, None]) @ pictures).round_().clamp_(0, 255)
