"""Centre crops and resized random crops, equal to torchvision's up to rounding, as integer pixel values.

On a CPU torch resizes image by image; a GPU resizes whole batches (`resize_by_matrices`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.core.input_spec import InputSpec
from frostline.data.resize_by_matrices import BLACK, Fill, by_matrices, padded

Images = Tensor | Sequence[Tensor]
"""A batch `(B, 3, H, W)` uint8, or images `(3, H, W)` uint8 of different sizes."""
_LONG = 16  # longest resized side, in views, for which the whole image is resized; beyond, only its centre is


@dataclass(frozen=True)
class CenterCrop:
    """The view of an image without augmentation: `Resize` and `CenterCrop` as in torchvision and in timm."""

    size: int
    """Side in pixels of the square view."""
    resize: int
    """Length in pixels to which the shorter side is resized first; the longer one keeps the aspect ratio."""
    interpolation: str
    """`bilinear` or `bicubic`, both antialiased."""
    squash: bool = False
    """Whether the longer side is resized to `resize`, too."""
    border: Fill | None = None
    """If set, the longer side is resized to `resize`, and this colour fills the rest of the square."""

    @classmethod
    def of(cls, spec: InputSpec) -> CenterCrop:
        """Return the centre crop for a network with this input spec."""
        red, green, blue = (round(255 * level) for level in spec.mean)
        border = (red, green, blue) if spec.crop == "border" else None
        return cls(spec.size, spec.resize, spec.interpolation, spec.crop == "squash", border)

    @property
    def fill(self) -> Fill:
        """Colour outside the image."""
        return self.border or BLACK

    @property
    def resized(self) -> str:
        """The resizing before the centre crop, in words, in pixels."""
        if self.border is not None:
            return f"a longer side of {self.resize}, within a border"
        return f"both sides squashed to {self.resize}" if self.squash else f"a shorter side of {self.resize}"


def center_crop(images: Images, how: CenterCrop) -> Tensor:
    """Return the centre crops `(B, 3, S, S)` uint8, within one level of torchvision's of a Pillow image."""
    if not isinstance(images, Tensor):
        return torch.cat([center_crop(image[None], how) for image in images])
    height, width = images.shape[2:]
    resized = _resized(height, width, how)
    if _as_pillow(images.device) and max(resized) <= _LONG * how.size:
        whole = _interpolate(images, resized, how.interpolation)
        top, left = (_start(length - how.size) for length in resized)
        return _cut(whole, top, left, (how.size, how.size), how.fill)
    sizes = _sizes(images)
    boxes = center_boxes(sizes, how) * sizes.repeat(1, 2)
    return by_matrices(images, boxes, sizes, how.size, how.interpolation, fill=how.fill, bleed=True).byte()


def _resized(height: int, width: int, how: CenterCrop) -> tuple[int, int]:
    """Return the height and width of an image after resizing, before the centre crop."""
    if how.border is not None:  # rounded as in timm's ResizeKeepRatio
        ratio = max(height, width) / how.resize
        return max(round(height / ratio), 1), max(round(width / ratio), 1)
    shorter = min(height, width)
    height, width = (shorter, shorter) if how.squash else (height, width)
    return height * how.resize // shorter, width * how.resize // shorter


def _start(surplus: int) -> int:
    """Return where the centre crop begins, rounded as in torchvision and timm; negative if the image is too small."""
    return round(surplus / 2) if surplus >= 0 else -(-surplus // 2)


def _cut(images: Tensor, top: int, left: int, size: tuple[int, int], fill: Fill) -> Tensor:
    """Return the crop `(B, 3, *size)` at a position that may be outside the image, with `fill` there."""
    rows, columns = size
    inside = images[:, :, max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + columns, 0)]
    if inside.shape[2:] == size:
        return inside
    cut = images.new_empty(len(images), 3, rows, columns)
    cut[:] = images.new_tensor(fill)[:, None, None]
    cut[:, :, max(-top, 0) :, max(-left, 0) :][:, :, : inside.shape[2], : inside.shape[3]] = inside
    return cut


def resized_crop(
    images: Images, boxes: Tensor, size: int, flip: Tensor | None = None, *, interpolation: str, fill: Fill = BLACK
) -> Tensor:
    """Return `(B, 3, size, size)` float32, integers 0..255: the box of each image, as torchvision's `resized_crop`.

    `boxes` is `(B, 4)` float32: x0, y0, x1, y1 as fractions of the image, rounded here to its pixels. Parts of a box
    outside the image get `fill`. `flip` is `(B,)` bool and mirrors left and right.
    """
    if _as_pillow(boxes.device):  # one by one: no bit depends on the other images of the batch
        mirrored = [False] * len(boxes) if flip is None else flip.tolist()
        cut = zip(images, boxes.tolist(), mirrored, strict=True)
        return torch.stack([_resized_crop(*one, size, interpolation, fill) for one in cut]).float()
    batch = images if isinstance(images, Tensor) else padded(images)
    sizes = _sizes(images)
    return by_matrices(batch, (boxes * sizes.repeat(1, 2)).round(), sizes, size, interpolation, flip, fill=fill)


def center_boxes(sizes: Tensor, how: CenterCrop) -> Tensor:
    """Return the centre crops of images as `(B, 4)` float32 boxes, x0, y0, x1, y1 as fractions of the image.

    `sizes` is `(B, 2)`, width and height in pixels. The box of a square image with `resize == size` is all of it.
    """
    shorter, longer = sizes.amin(1, keepdim=True), sizes.amax(1, keepdim=True)
    if how.border is None:
        resized = (shorter.expand_as(sizes) if how.squash else sizes) * how.resize // shorter
    else:
        resized = (sizes.double() / (longer.double() / how.resize)).round().clamp(min=1).int()
    start = (resized - how.size) / 2
    start = torch.where(start < 0, start.trunc(), start.round())
    return torch.cat([start, start + how.size], 1) / resized.repeat(1, 2)


def _sizes(images: Images) -> Tensor:
    """Return width and height of each image, `(B, 2)` int32, or `(1, 2)` for a batch of one size, on their device."""
    each = images[:1] if isinstance(images, Tensor) else images
    sizes = torch.tensor([(image.shape[2], image.shape[1]) for image in each], dtype=torch.int32)
    return sizes.to(each[0].device, non_blocking=True)  # so few bytes are copied without a wait


def _as_pillow(device: torch.device) -> bool:
    """Return whether torch resizes uint8 like Pillow on `device`; elsewhere `by_matrices` resizes."""
    return device.type == "cpu"


def _interpolate(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Return `(B, 3, *size)` uint8, resized by torch like Pillow; channels last is the fastest format for it."""
    dense = images.contiguous(memory_format=torch.channels_last)
    return F.interpolate(dense, size=size, mode=interpolation, antialias=True)


def _resized_crop(
    image: Tensor, box: Sequence[float], mirrored: bool, size: int, interpolation: str, fill: Fill
) -> Tensor:
    """Return the resized crop `(3, size, size)` uint8 of an image on the CPU."""
    height, width = image.shape[1:]
    left, top, right, bottom = (round(edge * length) for edge, length in zip(box, (width, height) * 2, strict=True))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    part = _cut(image[None], top, left, (bottom - top, right - left), fill)
    view = _interpolate(part, (size, size), interpolation)[0]
    return view.flip(2) if mirrored else view
