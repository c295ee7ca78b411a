"""What the frozen stages make of a split, computed once and read by every run that asks: just another dataset.

Below the frost line the network is a pure function of the view, and the view of (seed, epoch, image) alone. So the
output at the cut is kept in the store under what it depends on: images, weights, cut, views and precision.

Kernels are chosen by the size of a batch, and with them the last bits. So the frozen stages always see batches of one
size, filled up where images are few: then it makes no difference to a bit in which batches features are asked for, and
whether they are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core import interrupts, machine
from frostline.data.views import Views
from frostline.store import hashing, mapped
from frostline.store.device_budget import DeviceBudget, expect, rows
from frostline.store.prefetch import Prefetch
from frostline.store.rows import Rows
from frostline.store.store import Store
from frostline.store.writer import NoRoom, Writer
from frostline.training.dataset import Outputs, outputs

_BATCH = {"cpu": 32}
_BATCH_ELSEWHERE = 256  # images per forward pass: what fills a GPU; a CPU's caches hold less
_FILLED = 4  # such batches of which the last may be filled up to little loss, and whose features a device has room for


@dataclass(frozen=True)
class Backbone:
    """The network below the frost line, for inference alone."""

    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    """In which it computes and its output is kept."""

    @torch.no_grad()
    def __call__(self, views: Tensor) -> Tensor:
        """Return the features `(B, ...)` of views `(B, 3, S, S)`."""
        return self.module(views.to(self.dtype))


class Passing:
    """The features of a split where none are kept: computed whenever they are asked for, they are the same."""

    known = False

    def __init__(self, views: Views, backbone: Callable[[], Backbone]) -> None:
        """Put views through what `backbone` returns."""
        self.labels = views.labels
        self.at_once = _FILLED * batch_size(self.labels.device)
        self._views = views
        self._backbone = backbone
        self._coming = Prefetch[list[Tensor]]()

    def expect(self, index: Tensor, epoch: int) -> None:
        """Begin to fetch the samples at `index`, which are asked for soon."""
        batches = filled(index, self.labels.device)
        self._coming.put(index, lambda: batches)
        self._views.expect(batches[0], epoch)

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the features `(B, ...)` of the samples at `index` as they are seen in `epoch`, on their device."""
        batches = self._coming.take(index) or filled(index, self.labels.device)

        def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, device=self.labels.device)

        made = outputs(self._views, self._backbone(), batches, epoch)
        found, channels_last = _collect(made, len(index), allocate)
        self._views.seen -= sum(map(len, batches)) - len(index)  # what fills the last batch up was not asked for
        return found.permute(0, 3, 1, 2) if channels_last else found


class Features:
    """Owns the features of one split for one epoch at a time, and fetches those of another when they are asked for."""

    known = True
    at_once = 1

    def __init__(
        self,
        views: Views,
        backbone: Callable[[], Backbone],
        *,
        store: Store,
        room: DeviceBudget,
        identity: Mapping[str, Any],
        about: str,
        outputs: Outputs | None = outputs,
    ) -> None:
        """Take features from `store`, where `backbone` puts them if they are missing.

        `identity` says what they depend on beside the number of the view, `about` says it to people.
        Those of a view lie on the device if there is room, and the pixels make it for them. Where there is none at all,
        they are computed whenever they are asked for. Without `outputs` another process puts them into the store.
        """
        self.labels = views.labels
        self._views = views
        self._backbone = backbone
        self._store = store
        self._identity = identity
        self._room = room
        self._about = about
        self._outputs = outputs
        self._held: tuple[int, Tensor | Rows | None] | None = None
        """The number of a view and its features, None where there is no room for them."""
        self._channels_last = False
        self._passing = Passing(views, backbone)
        self._full = False

    def expect(self, index: Tensor, epoch: int) -> None:
        """Begin to fetch the features of the samples at `index`, which are asked for soon."""
        if self._held is not None and self._held[0] == self._views.view_of(epoch):
            if self._held[1] is None:
                self._passing.expect(index, epoch)
            else:
                expect(self._held[1], index)

    def prepare(self, epoch: int) -> Tensor | Rows | None:
        """Return the features of all samples as they are seen in `epoch`; None where there is no room for them."""
        view = self._views.view_of(epoch)
        if self._held is None or self._held[0] != view:
            self._held = None  # before the next ones: two epochs at once may not fit
            self._held = (view, self._fetch(epoch))
        return self._held[1]

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the features `(B, ...)` of the samples at `index` as they are seen in `epoch`, on their device."""
        held = self.prepare(epoch)
        if held is None:
            return self._passing.inputs(index, epoch)
        found = rows(held, index, self.labels.device).float()
        return found.permute(0, 3, 1, 2) if self._channels_last else found

    def _fetch(self, epoch: int) -> Tensor | Rows | None:
        """Return the features of a view; None where neither the store nor the memory has room for them.

        Those of other views are asked for in turn by every run: they stay, and what does not fit beside them is
        computed by each.
        """
        family = hashing.of_facts(self._identity)
        key = hashing.of_facts({**self._identity, "view": self._views.view_of(epoch)})

        def make(writer: Writer) -> dict[str, Any]:
            return self._compute(writer, epoch)

        if (self._full or self._outputs is None) and not self._store.has("features", key):
            return None
        with interrupts.welcome():
            try:
                entry = self._store.get("features", key, make, about=self._about, family=family)
            except NoRoom:
                self._full = True
                return None
        features = entry.tensors["features"]
        self._channels_last = bool(entry.meta["channels_last"])
        once = self._room.device.type == "cpu"  # to make float32 of each batch costs a GPU nothing, and half the memory
        size = features.numel() * (torch.float32 if once else features.dtype).itemsize
        if size > self._room.free:
            self._views.release()
        if once and size <= self._room.free:
            mapped.compare(features)
            features = features.float()
        return self._room.take(features)

    def _compute(self, writer: Writer, epoch: int) -> dict[str, Any]:
        count = len(self.labels)
        batches = filled(torch.arange(count), self.labels.device)
        allocate = partial(writer.tensor, "features", piecemeal=True)
        made = (self._outputs or outputs)(self._views, self._backbone(), batches, epoch)
        _, channels_last = _collect(machine.fetched(made), count, allocate)
        self._views.seen -= sum(map(len, batches)) - count
        return {"channels_last": channels_last}


class Part:
    """Some samples of the features of a larger split."""

    known = True
    at_once = 1

    def __init__(self, features: Features, rows: Tensor, labels: Tensor) -> None:
        """Take the samples at `rows` `(N,)` of `features`, which have `labels` `(N,)`."""
        self.labels = labels
        self._features, self._rows = features, rows
        self._coming = Prefetch[Tensor]()

    def prepare(self, epoch: int) -> None:
        """Have those of the larger split fetched as they are seen in `epoch`."""
        self._features.prepare(epoch)

    def expect(self, index: Tensor, epoch: int) -> None:
        """Begin to fetch the features of the samples at `index`, which are asked for soon."""
        found = self._rows[index]
        self._coming.put(index, lambda: found)
        self._features.expect(found, epoch)

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the features `(B, ...)` of the samples at `index`, on their device."""
        found = self._coming.take(index)
        return self._features.inputs(self._rows[index] if found is None else found, epoch)


def batch_size(device: torch.device) -> int:
    """Return how many images pass through frozen stages at once."""
    return _BATCH.get(device.type, _BATCH_ELSEWHERE)


def filled(index: Tensor, device: torch.device) -> list[Tensor]:
    """Return the samples at `index` in batches of the one size, the last filled up with the last sample."""
    size = batch_size(device)
    return list(torch.cat([index, index[-1:].expand(-len(index) % size)]).split(size))


def _collect(
    outputs: Iterator[Tensor], count: int, allocate: Callable[[tuple[int, ...], torch.dtype], Tensor]
) -> tuple[Tensor, bool]:
    """Return the first `count` rows of `outputs` as one tensor, and whether they lie there with channels last.

    `allocate` returns the tensor that they are written into, given its shape and their type.
    """
    found: Tensor | None = None
    start, channels_last = 0, False
    for output in outputs:
        if found is None:
            channels_last = _are_channels_last(output)
        rows = (output.permute(0, 2, 3, 1) if channels_last else output)[: count - start]
        if found is None:
            found = allocate((count, *rows.shape[1:]), rows.dtype)
        found[start : start + len(rows)] = rows
        start += len(rows)
        mapped.release(found)
    assert found is not None
    return found, channels_last


def _are_channels_last(features: Tensor) -> bool:
    """Return whether `(B, C, H, W)` features lie in memory as `(B, H, W, C)`.

    They are kept as they lie: a dropout's mask and the last bits of what follows depend on it.
    """
    last = torch.channels_last
    return features.dim() == 4 and not features.is_contiguous() and features.is_contiguous(memory_format=last)
