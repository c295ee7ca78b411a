"""A split as a network sees it: uint8 pixels on the device, turned into views batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from frostline.data import Split
from frostline.mapped import Rows

View = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Turns pixels `(B, 3, H, W)` uint8, sizes `(B, 2)`, ids `(B,)` and a view's number into `(B, 3, S, S)` float32."""

Held = Tensor | Rows
"""Rows of something, all of them on a device or to be gathered when they are asked for."""


def resident(tensor: Held, device: torch.device, budget: int) -> Held:
    """Return `tensor` on `device` if it has at most `budget` bytes, else its rows where they are, perhaps in a file."""
    if tensor.nbytes <= budget:
        return tensor.to(device)
    held = tensor if isinstance(tensor, Rows) else Rows(tensor, torch.arange(len(tensor)))
    return held.streamed()


def rows(tensor: Held, index: Tensor, device: torch.device) -> Tensor:
    """Return the rows of `tensor` at `index` (on the CPU) on `device`, wherever the tensor lies."""
    if isinstance(tensor, Tensor):
        return tensor.index_select(0, index.to(device, non_blocking=True))  # half the time of tensor[index]
    if tensor.device == device:
        return tensor[index]
    return tensor[index].pin_memory().to(device, non_blocking=True)


def expect(tensor: Held, index: Tensor) -> None:
    """Let the rows of `tensor` at `index` be read meanwhile, if that takes time: they are asked for soon."""
    if isinstance(tensor, Rows):
        tensor.expect(index)


class Views:
    """Owns a split's tensors on the device and counts the images that it hands out."""

    def __init__(
        self,
        split: Split,
        view: View,
        device: torch.device,
        memory_format: torch.memory_format,
        *,
        view_of: Callable[[int], int],
        identity: Mapping[str, Any],
        budget: int,
    ) -> None:
        """Move the split to `device`, its pixels only where they fit into `budget` bytes; `view` works there.

        `view_of(epoch)` numbers the views: in epochs with equal numbers every image is seen alike. `identity` says in
        JSON-able facts what a view depends on beside the images, its number and the network's input.
        """
        self._pixels = resident(split.pixels, device, budget)
        self._sizes = split.sizes.to(device)
        self._view = view
        self._memory_format = memory_format
        self.view_of = view_of
        self.identity = {"images": split.digest, **identity}
        self.labels = split.labels.to(device)
        self.ids = split.ids.to(device)
        self.seen = 0
        """Number of images handed out so far."""

    def expect(self, index: Tensor, epoch: int) -> None:
        """Begin to fetch the samples at `index`, which are asked for soon."""
        expect(self._pixels, index)

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the views `(B, 3, S, S)` float32 of the samples at `index` in `epoch`."""
        self.seen += len(index)
        row = index.to(self.ids.device, non_blocking=True)
        pixels = rows(self._pixels, index, self.ids.device)
        views = self._view(pixels, self._sizes[row], self.ids[row], self.view_of(epoch))
        return views.contiguous(memory_format=self._memory_format)
