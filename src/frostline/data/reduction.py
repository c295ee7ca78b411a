"""Reduce images to the size that random crops need, for the store or at each decoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def reduce(image: Tensor, side: int | None) -> Tensor:
    """Return an image `(3, H, W)` uint8 reduced to a shorter side of at most `side` pixels, by Pillow's Lanczos filter.

    An image that is not larger is returned unchanged, as is any image if `side` is None.
    """
    ((width, height),) = reduced([(image.shape[2], image.shape[1])], side)
    if height == image.shape[1]:
        return image
    small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def reduced(sizes: Sequence[tuple[int, int]], side: int | None) -> list[tuple[int, int]]:
    """Return widths and heights after the reduction to a shorter side of at most `side` pixels; (0, 0) stays."""
    if side is None:
        return [*sizes]
    found = []
    for width, height in sizes:
        part = min(1.0, side / max(1, min(width, height)))
        found.append((max(round(width * part), min(width, 1)), max(round(height * part), min(height, 1))))
    return found
