"""Evaluate a network on a split: loss, accuracy and logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.core import machine
from frostline.core.labels import cross_entropy_sum, right
from frostline.training.dataset import Dataset, Outputs, ordered, outputs

_AT_ONCE = 2**22  # logits per loss computation: 16 MB
NO_EPOCH = 0  # views for evaluation are the same in every epoch


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a network on a split."""

    loss: float
    """Mean cross-entropy in nats; multi-label, the binary cross-entropy, averaged over classes, too."""
    accuracy: float
    """Top-1 accuracy, a fraction in 0..1; multi-label, the fraction of samples with every class right."""
    logits: Tensor
    """`(N, classes)` float32 on the CPU."""


@dataclass(frozen=True)
class EvaluatedPart:
    """The part of a network that is evaluated on a split: all of it on images, or the layers that read features."""

    network: nn.Module
    data: Dataset
    autocast: torch.dtype | None
    """Mixed-precision type, None for float32 throughout."""
    outputs: Outputs = outputs
    """Computes the outputs of `network` on `data`; see `evaluate`."""

    def evaluate(self, batch_size: int) -> Evaluation:
        """Return the evaluation of the network in its current state."""
        return evaluate(self.network, self.data, batch_size=batch_size, autocast=self.autocast, outputs=self.outputs)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for a block; restore the modes of all layers afterwards."""
    training = [layer for layer in module.modules() if layer.training]
    module.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.training = True


@torch.inference_mode()
def evaluate(
    module: nn.Module, data: Dataset, *, batch_size: int, autocast: torch.dtype | None, outputs: Outputs = outputs
) -> Evaluation:
    """Evaluate `module` on `data` in eval mode; restore the modes of its layers afterwards.

    `outputs` computes those of all batches: it may distribute whole batches among processes that have the network.
    """
    every, done = torch.empty(0), 0
    with evaluating(module):
        for logits in outputs(data, logits_function(module, autocast), ordered(data, batch_size), NO_EPOCH):
            every = every if done else logits.new_empty(len(data.labels), logits.shape[1])
            every[done : done + len(logits)] = logits  # in place: with many classes memory does not hold it twice
            done += len(logits)
    return evaluate_logits(every, data.labels)


def logits_function(module: nn.Module, autocast: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """Return a function from inputs to float32 logits `(B, classes)`."""

    def compute(inputs: Tensor) -> Tensor:
        with machine.autocast(inputs.device, autocast):
            logits: Tensor = module(inputs)
        return logits.float()

    return compute


def evaluate_logits(every: Tensor, labels: Tensor) -> Evaluation:
    """Return the evaluation of logits `every` `(N, classes)` float32 for samples with `labels`."""
    rows = max(1, _AT_ONCE // every.shape[1])
    losses = every.new_empty(len(every.split(rows)))  # preallocated, to avoid fragments between blocks of 16 MB
    for loss, part, those in zip(losses, every.split(rows), labels.split(rows), strict=True):
        loss.copy_(cross_entropy_sum(part, those))
    total, hits = torch.stack([losses.double().sum(), right(every, labels).sum().double()]).tolist()
    return Evaluation(total / len(labels), hits / len(labels), every.cpu())
