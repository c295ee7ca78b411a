"""The inputs of a head's linear layer for a split, the same in every pass: the dataset of the head solvers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from frostline.core import machine
from frostline.training.dataset import Dataset, ordered, outputs, prefetched
from frostline.training.evaluation import evaluating
from frostline.training.gradient import Head

ROWS = 1024  # samples whose features are computed or read at once


class HeadInputs(Dataset):
    """A dataset of the inputs of a head's linear layer, computed at most once."""

    def __init__(self, data: Dataset, head: Head) -> None:
        """Serve `data` after the layers before the linear layer, in eval mode.

        If features of `data` are not cached, they are computed here, once, and kept in memory: `(N, D)` float32.
        """
        self.labels = data.labels
        self._data, self._head = data, head
        self._kept = None if data.cached else torch.cat([*outputs(data, self._passed, ordered(data, ROWS), 1)])

    def prefetch(self, index: Tensor, epoch: int) -> None:
        """Prefetch the samples at `index`."""
        if self._kept is None:
            self._data.prefetch(index, epoch)

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the inputs `(B, D)` float32 of the samples at `index`."""
        if self._kept is None:
            return self._passed(self._data.inputs(index, epoch))
        return machine.select_rows(self._kept, index)

    def _passed(self, inputs: Tensor) -> Tensor:
        """Return inputs of the head `(B, ...)` after the layers before the linear one."""
        for layer in self._head.before:
            with evaluating(layer):
                inputs = layer(inputs)
        return inputs


def chunks(data: Dataset, rows: int = ROWS) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield features `(B, D)` and labels `(B, ...)` of a split in order, about `rows` samples at once."""
    for index in prefetched(data, ordered(data, rows), 1):
        yield data.inputs(index, 1), machine.select_rows(data.labels, index)
