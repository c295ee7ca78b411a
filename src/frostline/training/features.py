"""Cached features: the outputs of the frozen stages for a split, computed once and read by every run as a dataset.

Below the frost line the network is a pure function of the view, and the view of (seed, epoch, image) alone. So the
output at the cut is stored under a key of all that it depends on: images, weights, cut, views and precision.

The batch size decides which kernels run, and so the last bits. Therefore the frozen stages always compute batches of
one size, padded if images are few: features have the same bits in whatever batches they are requested, cached or not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core import interrupts, machine
from frostline.data.views import Views
from frostline.store import hashing, mapped
from frostline.store.device_budget import DeviceBudget, Held, prefetch, rows
from frostline.store.prefetch import Prefetch
from frostline.store.store import Store
from frostline.store.writer import NoRoom, Writer
from frostline.training.dataset import Dataset, Outputs, outputs

_BATCH = {"cpu": 32}
_BATCH_ELSEWHERE = 256  # images per forward pass: enough to fill a GPU; a CPU's caches hold less
_FILLED = 4  # batches per request: padding the last one costs little, and the device has room for their features


@dataclass(frozen=True)
class Backbone:
    """The network below the frost line, for inference."""

    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    """Type of its computation and of the cached output."""

    @torch.no_grad()
    def __call__(self, views: Tensor) -> Tensor:
        """Return the features `(B, ...)` of views `(B, 3, S, S)`."""
        return self.module(views.to(self.dtype))


class UncachedFeatures(Dataset):
    """The features of a split without a cache: computed on every request, with the same bits."""

    cached = False

    def __init__(self, views: Views, backbone: Callable[[], Backbone], *, batch_size: int) -> None:
        """Compute features of `views` with the backbone that `backbone()` returns, in batches of `batch_size`."""
        self.labels = views.labels
        self.fetch_size = _FILLED * batch_size
        self._batch_size = batch_size
        self._views = views
        self._backbone = backbone
        self._coming = Prefetch[list[Tensor]]()

    def prefetch(self, index: Tensor, epoch: int) -> None:
        """Prefetch the samples at `index`."""
        batches = padded_batches(index, self._batch_size)
        self._coming.put(index, lambda: batches)
        self._views.prefetch(batches[0], epoch)

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the features `(B, ...)` of the samples at `index` in `epoch`, on their device."""
        batches = self._coming.take(index) or padded_batches(index, self._batch_size)

        def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, device=self.labels.device)

        made = outputs(self._views, self._backbone(), batches, epoch)
        found, channels_last = _collect(made, len(index), allocate)
        self._views.seen -= sum(map(len, batches)) - len(index)  # padding was not requested
        return found.permute(0, 3, 1, 2) if channels_last else found


class Features(Dataset):
    """The cached features of one split: holds those of one epoch, and fetches those of another on request."""

    def __init__(
        self,
        views: Views,
        backbone: Callable[[], Backbone],
        *,
        batch_size: int,
        store: Store,
        device_budget: DeviceBudget,
        identity: Mapping[str, Any],
        about: str,
        outputs: Outputs | None = outputs,
    ) -> None:
        """Read features from `store`; compute them with `backbone` and store them if they are missing.

        `identity` is all that they depend on besides the number of the view; `about` says it to people.
        Features of a view are kept on the device if they fit, and pixels make room for them. If neither store nor
        memory has room, they are computed on every request. Without `outputs`, another process writes the store.
        """
        self.labels = views.labels
        self._views = views
        self._backbone = backbone
        self._store = store
        self._identity = identity
        self._device_budget = device_budget
        self._about = about
        self._outputs = outputs
        self._held: tuple[int, Held | None] | None = None
        """The number of a view and its features; the latter None if there is no room for them."""
        self._channels_last = False
        self._uncached = UncachedFeatures(views, backbone, batch_size=batch_size)
        self._batch_size = batch_size
        self._full = False

    def prefetch(self, index: Tensor, epoch: int) -> None:
        """Prefetch the features of the samples at `index`."""
        if self._held is not None and self._held[0] == self._views.view_of(epoch):
            if self._held[1] is None:
                self._uncached.prefetch(index, epoch)
            else:
                prefetch(self._held[1], index)

    def prepare(self, epoch: int) -> Held | None:
        """Fetch and return the features of all samples in `epoch`; None if there is no room for them."""
        view = self._views.view_of(epoch)
        if self._held is None or self._held[0] != view:
            self._held = None  # free first: two epochs at once may not fit
            self._held = (view, self._fetch(epoch))
        return self._held[1]

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the features `(B, ...)` of the samples at `index` in `epoch`, on their device."""
        held = self.prepare(epoch)
        if held is None:
            return self._uncached.inputs(index, epoch)
        found = rows(held, index, self.labels.device)
        assert isinstance(found, Tensor)
        found = found.float()
        return found.permute(0, 3, 1, 2) if self._channels_last else found

    def _fetch(self, epoch: int) -> Held | None:
        """Return the features of an epoch's view; None if neither the store nor the memory has room for them.

        Every run reads the views in turn, so stored views are not evicted for new ones: each run computes those that
        do not fit.
        """
        family = hashing.of_facts(self._identity)
        key = hashing.of_facts({**self._identity, "view": self._views.view_of(epoch)})
        make = partial(self._compute, epoch)
        if (self._full or self._outputs is None) and not self._store.has("features", key):
            return None
        with interrupts.immediate():
            try:
                entry = self._store.get("features", key, make, about=self._about, family=family)
            except NoRoom:
                self._full = True
                return None
        features = entry.tensors["features"]
        self._channels_last = bool(entry.meta["channels_last"])
        once = self._device_budget.device.type == "cpu"  # a GPU converts batches to float32 for free, in half the bytes
        size = features.numel() * (torch.float32 if once else features.dtype).itemsize
        if size > self._device_budget.free:
            self._views.release()
        if once and size <= self._device_budget.free:
            mapped.compare(features)
            features = features.float()
        return self._device_budget.take(features)

    def _compute(self, epoch: int, writer: Writer) -> dict[str, Any]:
        count = len(self.labels)
        batches = padded_batches(torch.arange(count), self._batch_size)
        allocate = partial(writer.tensor, "features", piecemeal=True)
        made = (self._outputs or outputs)(self._views, self._backbone(), batches, epoch)
        _, channels_last = _collect(made, count, allocate, machine.to_host)
        self._views.seen -= sum(map(len, batches)) - count
        return {"channels_last": channels_last}


class Subset(Dataset):
    """Features of some samples of a larger split."""

    def __init__(self, features: Features, rows: Tensor, labels: Tensor) -> None:
        """Serve the samples at `rows` `(N,)` of `features`, whose labels are `labels` `(N,)`."""
        self.labels = labels
        self._features, self._rows = features, rows
        self._coming = Prefetch[Tensor]()

    def prepare(self, epoch: int) -> None:
        """Fetch the features of the larger split for `epoch`."""
        self._features.prepare(epoch)

    def prefetch(self, index: Tensor, epoch: int) -> None:
        """Prefetch the features of the samples at `index`."""
        found = self._rows[index]
        self._coming.put(index, lambda: found)
        self._features.prefetch(found, epoch)

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the features `(B, ...)` of the samples at `index`, on their device."""
        found = self._coming.take(index)
        return self._features.inputs(self._rows[index] if found is None else found, epoch)


def frozen_batch_size(device: torch.device, most: int) -> int:
    """Return the batch size of the frozen stages on a device, at most `most`."""
    return min(most, _BATCH.get(device.type, _BATCH_ELSEWHERE))


def padded_batches(index: Tensor, size: int) -> list[Tensor]:
    """Return the samples at `index` in batches of `size`, the last one padded with the last sample."""
    return list(torch.cat([index, index[-1:].expand(-len(index) % size)]).split(size))


def _collect(
    made: Iterator[Tensor],
    count: int,
    allocate: Callable[[tuple[int, ...], torch.dtype], Tensor],
    received: Callable[[Iterator[Tensor]], Iterator[Tensor]] = iter,
) -> tuple[Tensor, bool]:
    """Return the first `count` rows of the outputs `made` as one tensor, and whether it is permuted to channels last.

    The cache preserves the memory format: dropout masks and the last bits of later results depend on it.
    `allocate` returns the tensor to write to, given its shape and type; if it raises, only one output was requested.
    """
    first = next(made)
    channels_last = machine.is_channels_last(first)
    shape = first.permute(0, 2, 3, 1).shape if channels_last else first.shape
    found, start = allocate((count, *shape[1:]), first.dtype), 0
    every = received(itertools.chain(iter([first]), made))  # an iterator, which lets go of it, as a list would not
    del first
    for output in every:
        part = (output.permute(0, 2, 3, 1) if channels_last else output)[: count - start]
        found[start : start + len(part)] = part
        start += len(part)
        mapped.release(found)
    return found, channels_last
