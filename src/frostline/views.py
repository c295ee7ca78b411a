"""A split as a network sees it: uint8 pixels on the device, turned into views batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from frostline.data import Split
from frostline.room import Held, Room, expect, rows

View = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Turns pixels `(B, 3, H, W)` uint8, sizes `(B, 2)`, ids `(B,)` and a view's number into `(B, 3, S, S)` float32."""


class Views:
    """Owns a split's tensors on the device and counts the images that it hands out."""

    known = False

    def __init__(
        self,
        split: Split,
        view: View,
        room: Room,
        memory_format: torch.memory_format,
        *,
        view_of: Callable[[int], int],
        identity: Mapping[str, Any],
    ) -> None:
        """Move the split to the device of `room`, its pixels when they are asked for; `view` works there.

        `view_of(epoch)` numbers the views: in epochs with equal numbers every image is seen alike. `identity` says in
        JSON-able facts what a view depends on beside the images, its number and the network's input.
        """
        self._pixels = split.pixels
        self._held: Held | None = None
        self._room = room
        self._sizes = split.sizes.to(room.device)
        self._view = view
        self._memory_format = memory_format
        self.view_of = view_of
        self.identity = {"images": split.digest, **identity}
        self.labels = split.labels.to(room.device)
        self.ids = split.ids.to(room.device)
        self.seen = 0
        """Number of images handed out so far."""

    def expect(self, index: Tensor, epoch: int) -> None:
        """Begin to fetch the samples at `index`, which are asked for soon."""
        expect(self._there(), index)

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the views `(B, 3, S, S)` float32 of the samples at `index` in `epoch`."""
        self.seen += len(index)
        row = index.to(self.ids.device, non_blocking=True)
        pixels = rows(self._there(), index, self.ids.device)
        views = self._view(pixels, self._sizes[row], self.ids[row], self.view_of(epoch))
        return views.contiguous(memory_format=self._memory_format)

    def release(self) -> None:
        """Leave the room to others; pixels that are asked for again are fetched again."""
        self._held = None

    def _there(self) -> Held:
        if self._held is None:
            self._held = self._room.take(self._pixels)
        return self._held
