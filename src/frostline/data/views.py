"""Batches of network inputs: the images of a split, cropped, augmented and normalised on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frostline.core import machine
from frostline.data.augment import Crop
from frostline.data.decode_on_demand import Undecoded
from frostline.data.resize import CenterCrop, Images, center_crop, resized_crop
from frostline.data.splits import Split
from frostline.store import ragged
from frostline.store.device_budget import DeviceBudget, Held, prefetch, rows, streamed
from frostline.store.prefetch import Prefetch


@dataclass(frozen=True)
class View:
    """How views are made from images; the last argument of each function is the number of the view."""

    center: CenterCrop
    crop: Callable[[Tensor, Tensor, int], Crop] | None
    """Returns the crops of images of sizes `(B, 2)` and ids `(B,)`; None for the centre crop."""
    finish: Callable[[Tensor, Tensor, int], Tensor]
    """Turns `(B, 3, S, S)` float32 of integer values 0..255, with ids `(B,)`, into the network's input."""


class Views:
    """Makes the views of a split on the device, and counts them."""

    cached = False
    fetch_size = 1

    def __init__(
        self,
        split: Split,
        view: View,
        device_budget: DeviceBudget,
        memory_format: torch.memory_format,
        *,
        view_of: Callable[[int], int],
        identity: Mapping[str, Any],
    ) -> None:
        """Move the split to the device of `device_budget`, its pixels at first use; views are made there.

        `view_of(epoch)` returns the number of the view: epochs with equal numbers have equal views. `identity` has, as
        JSON-able facts, everything that a view depends on beside the images, its number and the network's input.
        """
        self._pixels = split.pixels
        self._centred = split.centred
        self._held: Held | None = None
        self._prefetched = Prefetch[list[Tensor]]()
        self._device_budget = device_budget
        self._sizes, self.ids = split.sizes, split.ids
        self._view = view
        self._memory_format = memory_format
        self.view_of = view_of
        self.identity = {"images": split.digest, "aside": self._on_cpu, **identity}
        self.labels = split.labels.to(device_budget.device)
        self._device_sizes, self._device_ids = split.sizes.to(device_budget.device), split.ids.to(device_budget.device)
        self.seen = 0
        """Number of views returned so far."""

    def prefetch(self, index: Tensor, epoch: int) -> None:
        """Start to fetch the samples at `index` in the background, for a later `inputs`."""
        if isinstance(self._pixels, Undecoded):
            self._prefetched.put(index, self._start_decoding(self._pixels, index, self.view_of(epoch)))
        else:
            prefetch(self._device_pixels(), index)

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the views `(B, 3, S, S)` float32 of the samples at `index` in `epoch`."""
        self.seen += len(index)
        number, row = self.view_of(epoch), index.to(self._device_budget.device, non_blocking=True)
        shown = self._cropped(index, row, number)
        views = self._view.finish(shown.float(), self._device_ids[row], number)
        return views.contiguous(memory_format=self._memory_format)

    def images(self, index: Tensor) -> Tensor:
        """Return the images at `index`, `(B, 3, H, W)` uint8 on the CPU: as stored, or centre crops if sizes differ."""
        if isinstance(self._pixels, Undecoded):
            return torch.stack(self._pixels.begin(index, self._center)())
        found = streamed(self._pixels)[index]  # a mapping would load neighbouring pages, too
        return found if isinstance(found, Tensor) else center_crop(found, self._view.center)

    def release(self) -> None:
        """Free the device memory of the pixels; they are moved there again at the next use."""
        self._held = None

    def _cropped(self, index: Tensor, row: Tensor, number: int) -> Tensor:
        """Return the samples at `index` (on the device: `row`) as `(B, 3, S, S)` of integer values, on the device."""
        images: Images
        if isinstance(self._pixels, Undecoded):
            coming = self._prefetched.take(index) or self._start_decoding(self._pixels, index, number)()
            if self._on_cpu:
                return machine.to_device(torch.stack(coming), self._device_budget.device)
            images = ragged.moved(coming, self._device_budget.device)
        else:
            images = rows(self._device_pixels(), index, self._device_budget.device)
        crop = self._view.crop and self._view.crop(self._device_sizes[row], self._device_ids[row], number)
        return self._crop(images, crop)

    @property
    def _on_cpu(self) -> bool:
        """Whether views are made on the CPU: always for exact crops, which are decoded in every epoch and never stored.

        A GPU makes all other views by its own kernels, which round a few pixels differently.
        """
        exact = isinstance(self._pixels, Undecoded) and self._pixels.exact
        return exact or self._centred or self._device_budget.device.type == "cpu"

    def _start_decoding(self, pixels: Undecoded, index: Tensor, number: int) -> Callable[[], list[Tensor]]:
        if not self._on_cpu:
            return pixels.begin(index, lambda place, image: image)
        if self._view.crop is None:
            return pixels.begin(index, self._center)
        crop = self._view.crop(self._sizes[index], self.ids[index], number)

        def cut(place: int, image: Tensor) -> Tensor:
            flip = None if crop.flip is None else crop.flip[place : place + 1]
            return self._crop([image], Crop(crop.boxes[place : place + 1], flip))[0]

        return pixels.begin(index, cut)

    def _center(self, place: int, image: Tensor) -> Tensor:
        return center_crop(image[None], self._view.center)[0]

    def _crop(self, images: Images, crop: Crop | None) -> Tensor:
        """Return the views of images, `(B, 3, S, S)` of integer values; without `crop` the centre views."""
        if crop is not None:
            how = self._view.center
            return resized_crop(images, crop.boxes, how.size, crop.flip, interpolation=how.interpolation, fill=how.fill)
        if self._centred:
            assert isinstance(images, Tensor)
            return images
        return center_crop(images, self._view.center)

    def _device_pixels(self) -> Held:
        assert not isinstance(self._pixels, Undecoded)
        if self._held is None:
            self._held = self._device_budget.take(self._pixels)
        return self._held
