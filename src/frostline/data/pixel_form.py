"""The form in which images are kept: centre views, or whole images, perhaps reduced; and the room that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from frostline.data.bit_depth import FULL, Levels
from frostline.data.resize import CenterCrop


@dataclass(frozen=True)
class PixelForm:
    """The form in which images are kept."""

    kind: str
    """`view`: the centre view; `original`: whole images, all of one size; `stored`: whole images of any sizes, perhaps
    reduced; `nothing`: no pixels, only facts about each image."""
    view: CenterCrop | None = None
    side: int | None = None
    """`stored`: shorter side in pixels to which larger images are reduced; None for no reduction."""
    levels: Levels = FULL
    """Mapping of values of more than 8 bits."""

    @property
    def about(self) -> str:
        """Its description for people."""
        if self.view is not None:
            view = self.view
            return f"views of {view.size} pixels from {view.resized}, {view.interpolation}"
        if self.kind == "stored" and self.side is not None:
            return f"shorter side {self.side} pixels"
        return "checked" if self.kind == "nothing" else "whole"


@dataclass(frozen=True)
class Sizes:
    """Sizes of images from their headers."""

    ids: Tensor
    """`(N,)` int64, ascending."""
    sizes: Tensor
    """`(N, 2)`: width and height in pixels, 0 for broken images."""

    @property
    def alike(self) -> bool:
        """Whether all readable images have the same size."""
        known = self.sizes[self.sizes[:, 0] > 0]
        return bool((known == known[:1]).all())

    @property
    def longest_shorter_side(self) -> int:
        """Of the shorter sides of all images, the longest, in pixels."""
        return int(self.sizes.amin(1).max())

    def bytes_of(self, form: PixelForm, ids: Tensor | None = None) -> int:
        """Return the bytes that the pixels of all images, or of the images `ids`, take in a form."""
        sizes = self.sizes if ids is None else self.sizes[torch.searchsorted(self.ids, ids)]
        if form.view is not None:
            return 3 * form.view.size**2 * len(sizes)
        if form.kind == "original":  # broken images have a row, too
            return 3 * len(sizes) * int(self.sizes.long().prod(1).max())
        each = reduced([(width, height) for width, height in sizes.tolist()], form.side)
        return 3 * sum(width * height for width, height in each)


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
