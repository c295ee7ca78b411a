"""What the frozen stages make of a split, computed once and read by every run that asks: just another dataset.

Below the frost line the network is a pure function of the view, and the view of (seed, epoch, image) alone. So the
output at the cut is kept in the store under what it depends on: images, weights, cut, views and precision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frostline import interrupts, mapped
from frostline.evaluation import in_order
from frostline.mapped import Rows
from frostline.room import Room, expect, rows
from frostline.store import Store, Writer
from frostline.views import Views

_BATCH = {"cpu": 32}
_BATCH_ELSEWHERE = 256  # images per forward pass: what fills a GPU; a CPU's caches hold less


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
        self._views = views
        self._backbone = backbone

    def expect(self, index: Tensor, epoch: int) -> None:
        """Begin to fetch the samples at `index`, which are asked for soon."""
        self._views.expect(index, epoch)

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the features `(B, ...)` of the samples at `index` as they are seen in `epoch`, on their device."""
        return self._backbone()(self._views.inputs(index, epoch)).float()


class Features:
    """Owns the features of one split for one epoch at a time, and fetches those of another when they are asked for."""

    known = True

    def __init__(
        self,
        views: Views,
        backbone: Callable[[], Backbone],
        *,
        store: Store,
        room: Room,
        identity: Mapping[str, Any],
        about: str,
    ) -> None:
        """Take features from `store`, where `backbone` puts them if they are missing.

        `identity` says what they depend on beside the number of the view, `about` says it to people.
        Those of a view lie on the device if there is room, and the pixels make it for them.
        """
        self.labels = views.labels
        self._views = views
        self._backbone = backbone
        self._store = store
        self._identity = identity
        self._room = room
        self._about = about
        self._held: tuple[int, Tensor | Rows] | None = None
        self._channels_last = False

    def expect(self, index: Tensor, epoch: int) -> None:
        """Begin to fetch the features of the samples at `index`, which are asked for soon."""
        if self._held is not None and self._held[0] == self._views.view_of(epoch):
            expect(self._held[1], index)

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the features `(B, ...)` of the samples at `index` as they are seen in `epoch`, on their device."""
        view = self._views.view_of(epoch)
        if self._held is None or self._held[0] != view:
            self._held = None  # before the next ones: two epochs at once may not fit
            self._held = (view, self._fetch(epoch))
        found = rows(self._held[1], index, self.labels.device).float()
        return found.permute(0, 3, 1, 2) if self._channels_last else found

    def _fetch(self, epoch: int) -> Tensor | Rows:
        text = json.dumps({**self._identity, "view": self._views.view_of(epoch)}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        with interrupts.welcome():
            entry = self._store.get("features", key, lambda writer: self._compute(writer, epoch), about=self._about)
        features = entry.tensors["features"]
        self._channels_last = bool(entry.meta["channels_last"])
        size = features.numel() * torch.float32.itemsize
        if size > self._room.free:
            self._views.release()
        if size <= self._room.free:
            features = features.float()  # once, and not at every step
        return self._room.take(features)

    def _compute(self, writer: Writer, epoch: int) -> dict[str, Any]:
        backbone = self._backbone()
        count = len(self.labels)
        features: Tensor | None = None
        channels_last = False
        for index in in_order(self._views, _BATCH.get(backbone.device.type, _BATCH_ELSEWHERE), epoch):
            output = backbone(self._views.inputs(index, epoch))
            if features is None:
                channels_last = _are_channels_last(output)
            output = output.permute(0, 2, 3, 1) if channels_last else output
            if features is None:
                features = writer.tensor("features", (count, *output.shape[1:]), output.dtype)
            features[index[0] : index[-1] + 1] = output.cpu()
            mapped.release(features)
        return {"channels_last": channels_last}


def _are_channels_last(features: Tensor) -> bool:
    """Return whether `(B, C, H, W)` features lie in memory as `(B, H, W, C)`.

    They are kept as they lie: a dropout's mask and the last bits of what follows depend on it.
    """
    last = torch.channels_last
    return features.dim() == 4 and not features.is_contiguous() and features.is_contiguous(memory_format=last)
