"""Per-image changes of colour on batches of `(B, 3, S, S)` float32 images in 0..255."""

from __future__ import annotations

import torch
from torch import Tensor


def jitter(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Return `images` with brightness, contrast and saturation each scaled by a factor of the image's own.

    `draws` is `(B, 3)` in [0, 1); factors are uniform in 1 - `strength` (at least 0) to 1 + `strength`, as in
    torchvision's `ColorJitter`, but always in this order.
    """
    lowest = max(0.0, 1 - strength)
    brightness, contrast, saturation = (lowest + (1 + strength - lowest) * draws)[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp_(0, 255)
    images = blend(images, gray(images).mean((2, 3), keepdim=True), contrast)
    return blend(images, gray(images), saturation)


def blend(images: Tensor, toward: Tensor, factors: Tensor) -> Tensor:
    """Return `toward + factors * (images - toward)` within 0..255: 0 gives `toward`, 1 the images, 2 as far beyond.

    `factors` is `(B, 1, 1, 1)`, and `toward` has any shape that broadcasts against the images.
    """
    return torch.lerp(toward.expand_as(images), images, factors).clamp_(0, 255)


def gray(images: Tensor) -> Tensor:
    """Return `(B, 1, S, S)`: luma by ITU-R BT.601, the weights that Pillow and torchvision use."""
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue
