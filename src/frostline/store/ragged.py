"""Images of different sizes, concatenated in one flat tensor that may be a file, and gathered on demand."""

from __future__ import annotations

import os
from functools import partial

import torch
from torch import Tensor

from frostline.core import machine
from frostline.store import mapped
from frostline.store.prefetch import Prefetch
from frostline.store.rows import MOVED


class Ragged:
    """Images `(3, H, W)` uint8 of different sizes, stored channels last in a flat tensor."""

    def __init__(self, whole: Tensor, starts: Tensor, shapes: Tensor, *, streamed: bool = False) -> None:
        """Image i has height and width `shapes[i]`, of `(N, 2)`, and starts at element `starts[i]` of `whole`.

        If `streamed`, a mapped tensor is read through its file at each use, and leaves no pages in memory.
        """
        self.whole = whole
        self._starts, self._shapes = starts, shapes
        self._file = mapped.file_of(whole) if streamed else None
        self._coming = Prefetch[list[Tensor]]()
        self.device = whole.device
        self.nbytes = int(3 * shapes.long().prod(1).sum())

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Tensor) -> list[Tensor]:
        """Return the images at `index`."""
        if (found := self._coming.take(index)) is not None:
            return found
        return self._gather(index)

    def prefetch(self, index: Tensor) -> None:
        """Start to read the images at `index` in the background, if they come from a file."""
        if self._file is not None:
            self._coming.begin(index, partial(self._gather, index))

    def streamed(self) -> Ragged:
        """Return the same images in streamed form, which leaves no pages in memory."""
        return Ragged(self.whole, self._starts, self._shapes, streamed=True)

    def to(self, device: torch.device) -> Ragged:
        """Return the images on `device`, copied in parts; `self` if they are there already."""
        if device == self.device:
            return self
        lengths = 3 * self._shapes.long().prod(1)
        starts = lengths.cumsum(0) - lengths
        moved, source = torch.empty(self.nbytes, dtype=torch.uint8, device=device), self.streamed()
        for index in torch.arange(len(self)).split(max(1, MOVED // max(1, int(lengths.max())))):
            dense = torch.cat([image.permute(1, 2, 0).reshape(-1) for image in source[index]])
            first = int(starts[index[0]])
            moved[first : first + len(dense)] = dense.to(device)
        return Ragged(moved, starts, self._shapes)

    def _gather(self, index: Tensor) -> list[Tensor]:
        places = zip(self._starts[index].tolist(), self._shapes[index].tolist(), strict=True)
        return [self._image(start, *shape) for start, shape in places]

    def _image(self, start: int, height: int, width: int) -> Tensor:
        size = 3 * height * width
        mapped.compare(self.whole, start, size)
        if self._file is None:
            flat = self.whole[start : start + size]
        else:
            flat = torch.empty(size, dtype=torch.uint8)
            if os.preadv(self._file, [flat.numpy().data], start) != size:
                raise OSError("a file of the store has become shorter")
        return flat.view(height, width, 3).permute(2, 0, 1)


def moved(images: list[Tensor], device: torch.device) -> list[Tensor]:
    """Return images `(3, H, W)` from the CPU on `device`, with a single copy for all."""
    dense = torch.cat([image.permute(1, 2, 0).reshape(-1) for image in images])
    parts = machine.to_device(dense, device).split([image.numel() for image in images])
    return [
        part.view(image.shape[1], image.shape[2], 3).permute(2, 0, 1) for part, image in zip(parts, images, strict=True)
    ]
