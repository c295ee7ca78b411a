"""What a network is trained and scored on, and how it does on a split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline import gradient
from frostline.timeline import batches


class Dataset(Protocol):
    """What can be trained on: images seen through views, or features; tensors live on the training device."""

    labels: Tensor
    """`(N,)` int64."""
    ids: Tensor
    """`(N,)` int64: what addresses the randomness of a sample."""
    known: bool
    """Whether inputs are looked up rather than computed, so that those of many batches can be had at once."""

    def expect(self, index: Tensor, epoch: int) -> None:
        """Begin to fetch what `inputs` is asked for soon with the same `index`, where anything has to be fetched."""
        ...

    def inputs(self, index: Tensor, epoch: int) -> Tensor:
        """Return the network's input for the samples at `index` (on the CPU) as they are seen in `epoch`."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """How a network does on a split."""

    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    """Top-1 accuracy, a fraction in 0..1."""
    logits: Tensor
    """`(N, classes)` float32 on the CPU."""


def in_order(data: Dataset, batch_size: int, epoch: int) -> Iterator[Tensor]:
    """Yield the indices of all samples batch by batch, while `data` already fetches those of the next one."""
    indices = [torch.arange(part.start, part.stop) for part in batches(len(data.labels), batch_size)]
    for index, coming in zip_longest(indices, indices[1:]):
        if coming is not None:
            data.expect(coming, epoch)
        yield index


@torch.inference_mode()
def evaluate(module: nn.Module, data: Dataset, *, batch_size: int, autocast: torch.dtype | None) -> Evaluation:
    """Return how `module` does on `data`; the train and eval modes of its parts are as before afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    logits = []
    for index in in_order(data, batch_size, 0):
        inputs = data.inputs(index, 0)
        with gradient.mixed(inputs.device, autocast):
            logits.append(module(inputs).float())
    for child, mode in modes:
        child.training = mode
    every = torch.cat(logits)
    loss = F.cross_entropy(every, data.labels).item()
    right = (every.argmax(1) == data.labels).sum().item()
    return Evaluation(loss, right / len(data.labels), every.cpu())
