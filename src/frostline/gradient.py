"""Loss and gradient of one batch: by autograd, or in closed form where all that learns is one linear layer.

The step of a head on features is so small that launching its operations is what takes the time: the closed form needs
a third of them, and no graph.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

_SMALL = 2_000_000  # products of a matrix multiplication that one core makes in some 50 microseconds


@dataclass(frozen=True)
class Targets:
    """What the outputs for a batch should be."""

    labels: Tensor
    """`(B,)` int64."""
    partners: Tensor
    """`(B,)` int64: labels of what the inputs were mixed with."""
    share: float
    """Of the loss that belongs to `labels`, in 0..1; the rest belongs to `partners`."""
    smoothing: float
    """Of the labels, in 0..1."""


def by_autograd(
    network: nn.Module, inputs: Tensor, targets: Targets, autocast: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Return loss and logits `(B, classes)` of a batch, and add its gradient to those of the network's parameters."""
    with mixed(inputs.device, autocast):
        logits = network(inputs)
    loss = _loss(logits.float(), targets)
    loss.backward()
    return loss.detach(), logits.detach()


@torch.no_grad()
def of_linear(layer: nn.Linear, inputs: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return what `by_autograd` does, with the gradient of softmax regression in closed form as the layer's own.

    Of the mean cross-entropy it is `(softmax(logits) - targets) / B` to the logits (C. Bishop, Pattern Recognition and
    Machine Learning, eq. 4.109). Inputs are not mixed.
    """
    logits = F.linear(inputs, layer.weight, layer.bias)
    wanted = _wanted(logits.shape[1], targets.smoothing, logits.device)[targets.labels]
    error = logits.softmax(1).sub_(wanted).div_(len(inputs))
    layer.weight.grad = error.t() @ inputs
    if layer.bias is not None:
        layer.bias.grad = error.sum(0)
    return _loss(logits, targets), logits


@contextmanager
def threads_for(linear: nn.Linear | None, samples: int) -> Iterator[None]:
    """Make the step of a small `linear` layer on one core: to wake the others takes longer, and they have other work.

    Those of any other network, None here, are made on all.
    """
    threads = torch.get_num_threads()
    small = linear is not None and samples * linear.weight.numel() < _SMALL
    torch.set_num_threads(1 if small else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def lone_linear(network: nn.Module) -> nn.Linear | None:
    """Return the layer of a network that is one linear layer, all of which learns; None for any other network."""
    layer = network
    if isinstance(network, fx.GraphModule):
        steps = [node for node in network.graph.nodes if node.op not in ("placeholder", "output")]
        if len(steps) != 1 or steps[0].op != "call_module":
            return None
        layer = network.get_submodule(str(steps[0].target))
    if type(layer) is not nn.Linear or not all(parameter.requires_grad for parameter in layer.parameters()):
        return None
    return layer


def mixed(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return the context of mixed precision in `dtype`; None stands for float32 throughout."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _loss(logits: Tensor, targets: Targets) -> Tensor:
    """Return the mean cross-entropy."""
    loss = F.cross_entropy(logits, targets.labels, label_smoothing=targets.smoothing)
    if targets.share == 1.0:
        return loss
    other = F.cross_entropy(logits, targets.partners, label_smoothing=targets.smoothing)
    return targets.share * loss + (1 - targets.share) * other


@functools.lru_cache(1)
def _wanted(classes: int, smoothing: float, device: torch.device) -> Tensor:
    """Return `(classes, classes)`: row i is the smoothed distribution that is wanted of class i."""
    return torch.eye(classes, device=device) * (1 - smoothing) + smoothing / classes
