"""A split as a network sees it: uint8 pixels on the device, turned into views batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from frostline.data import Split

View = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Turns pixels `(B, 3, H, W)` uint8, sizes `(B, 2)`, ids `(B,)` and the epoch into `(B, 3, S, S)` float32."""


class Views:
    """Owns a split's tensors on the device and counts the images that it hands out."""

    def __init__(self, split: Split, view: View, device: torch.device, memory_format: torch.memory_format) -> None:
        """Move the split to `device`; `view` makes the network's input there."""
        self._split = replace(
            split, pixels=split.pixels.to(device), sizes=split.sizes.to(device), ids=split.ids.to(device)
        )
        self._view = view
        self._memory_format = memory_format
        self.labels = split.labels.to(device)
        self.ids = self._split.ids
        self.seen = 0
        """Number of images handed out so far."""

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the views `(B, 3, S, S)` float32 of the samples at `index` in `epoch`."""
        self.seen += len(index)
        split = self._split
        views = self._view(split.pixels[index], split.sizes[index], split.ids[index], epoch)
        return views.contiguous(memory_format=self._memory_format)
