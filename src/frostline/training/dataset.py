"""Datasets of images or features, with batching, shuffling, balanced sampling and prefetching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Protocol

import torch
from torch import Tensor

from frostline.core import machine
from frostline.core.labels import multi_label, of_class, strata_of
from frostline.core.randomness import generator


def batches(count: int, size: int, *, drop_last: bool = False) -> list[slice]:
    """Return the slices that cut `count` samples into batches of `size`, the last one smaller unless it is dropped.

    A last batch of one sample joins the one before it, since batch norm cannot learn from a single value.
    """
    edges = [*range(0, count, size), count]
    rest = count - edges[-2]
    if len(edges) > 2 and drop_last and rest < size:
        edges.pop()
    elif len(edges) > 2 and rest == 1 < size:
        edges.pop(-2)
    return [slice(a, b) for a, b in pairwise(edges)]


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """Return the indices of `count` samples in the random order of an epoch."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))


def sampled(labels: Tensor, sampling: str, seed: int, epoch: int) -> Tensor:
    """Return the indices of an epoch's samples in order, as many as there are `labels` (on the CPU).

    `shuffled`: each sample once. `balanced`: every class equally often, up to one sample; samples of a class are drawn
    without repetition until all were drawn, then in a new order. A sample drawn twice has the same view both times. A
    multi-label sample counts for each of its classes; samples without a class form a class of their own.
    """
    if sampling == "shuffled":
        return shuffled(len(labels), seed, epoch)
    draw = generator(seed, "order", epoch)
    strata = strata_of(labels)
    count = strata.shape[1] if multi_label(strata) else int(strata.max()) + 1
    members = [of_class(strata, label).nonzero()[:, 0] for label in range(count)]
    classes = [own for own in members if len(own)]
    share, more = divmod(len(labels), len(classes))
    luckier = set(torch.randperm(len(classes), generator=draw)[:more].tolist())
    chosen = []
    for number, own in enumerate(classes):
        count = share + (number in luckier)
        for done in range(0, count, len(own)):
            chosen.append(own[torch.randperm(len(own), generator=draw)][: count - done])
    return torch.cat(chosen)[torch.randperm(len(labels), generator=draw)]


class Dataset(Protocol):
    """A dataset for training: images seen through views, or features; tensors are on the training device."""

    labels: Tensor
    """`(N,)` int64, or multi-label `(N, classes)` bool."""
    cached: bool = True
    """Whether inputs are looked up, not computed, so that many batches can be fetched at once."""
    fetch_size: int = 1
    """Number of samples to request at once, or slightly less, if inputs are computed."""

    def prefetch(self, index: Tensor, epoch: int) -> None:
        """Prefetch the samples of a coming call of `inputs` with the same `index`; by default nothing is fetched."""
        return

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the network's inputs `(B, ...)` for the samples at `index` (on the CPU) in `epoch`."""
        ...


class InMemory(Dataset):
    """Inputs in device memory, the same in every epoch."""

    def __init__(self, tensor: Tensor, labels: Tensor) -> None:
        """Serve the rows of `tensor` `(N, ...)`."""
        self.tensor, self.labels = tensor, labels

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the inputs `(B, ...)` of the samples at `index`."""
        return machine.select_rows(self.tensor, index)


def prefetched(data: Dataset, indices: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
    """Yield `indices` one by one, and have `data` prefetch the samples of the next one."""
    for index, coming in zip_longest(indices, indices[1:]):
        if coming is not None:
            data.prefetch(coming, epoch)
        yield index


def ordered(data: Dataset, batch_size: int) -> list[Tensor]:
    """Return the indices of all samples in order, batch by batch."""
    return [torch.arange(part.start, part.stop) for part in batches(len(data.labels), batch_size)]


Outputs = Callable[[Dataset, Callable[[Tensor], Tensor], Sequence[Tensor], int], Iterator[Tensor]]
"""Yields the outputs of a function for each batch of a dataset in an epoch: `(data, compute, batches, epoch)`."""


def outputs(
    data: Dataset, compute: Callable[[Tensor], Tensor], batches: Sequence[Tensor], epoch: int
) -> Iterator[Tensor]:
    """Yield the output of `compute` for each of the `batches` in order, while the next one is prefetched."""
    for index in prefetched(data, batches, epoch):
        yield compute(data.inputs(index, epoch))
