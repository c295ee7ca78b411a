"""Loss and gradient of one batch: by autograd, or in closed form where all that learns is one linear layer.

The step of a head on features is so small that launching its operations is what takes the time: the closed form needs
half of them, and no graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from frostline.core.labels import multi_label
from frostline.core.machine import mixed
from frostline.training.criterion import CROSS_ENTROPY, Criterion, Targets, wanted

_FEW = 2_000  # classes whose table of targets takes 16 MB; for more it is no longer to launch that takes the time
_SMALL = 2_000_000  # products of a matrix multiplication that one core makes in some 50 microseconds


def by_autograd(
    network: nn.Module,
    inputs: Tensor,
    targets: Targets,
    autocast: torch.dtype | None,
    criterion: Criterion = CROSS_ENTROPY,
) -> tuple[Tensor, Tensor]:
    """Return loss and logits `(B, classes)` of a batch, and add its gradient to those of the network's parameters."""
    with mixed(inputs.device, autocast):
        logits = network(inputs)
    loss = criterion(logits.float(), targets)
    loss.backward()
    return loss.detach(), logits.detach()


@dataclass(frozen=True)
class Head:
    """A linear layer, all of which learns, behind layers that have nothing to learn or to keep, such as a dropout."""

    before: tuple[nn.Module, ...]
    linear: nn.Linear


@torch.no_grad()
def of_head(head: Head, inputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the logits `(B, classes)` of a batch, and set the gradient of its mean cross-entropy as the layer's own.

    The targets are the labels, smoothed by `smoothing` in 0..1.
    """
    for layer in head.before:
        inputs = layer(inputs)
    linear = head.linear
    logits = products(linear.weight, linear.bias, inputs)
    targets = wanted(labels, smoothing, linear.out_features).t()
    error = of_logits(logits, targets, several=multi_label(labels))
    linear.weight.grad = error @ inputs
    if linear.bias is not None:
        linear.bias.grad = error.sum(1)
    return logits.t()


def products(weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    """Return the logits `(classes, B)` of a layer `(classes, D)` for inputs `(B, D)`; of several, `(G, ...)` of each.

    With samples last, what is done class by class is done for many numbers at once, of however few classes; and layers
    below each other are one layer.
    """
    columns = inputs.transpose(-1, -2)
    if bias is None:
        return weight @ columns
    return (torch.addmm if weight.dim() == 2 else torch.baddbmm)(bias[..., None], weight, columns)


def of_logits(logits: Tensor, targets: Tensor, *, several: bool) -> Tensor:
    """Return the gradient of the mean cross-entropy to logits `(..., classes, B)`, `targets` being what is wanted.

    It is `(softmax(logits) - targets) / B` (C. Bishop, Pattern Recognition and Machine Learning, eq. 4.109); where
    samples may be of `several` classes, the mean is over classes, too, and sigmoids are in its place.
    """
    classes, samples = logits.shape[-2:]
    if several:
        return _sigmoid(logits).sub_(targets).div_(samples * classes)
    return logits.softmax(-2).sub_(targets).div_(samples)


def _sigmoid(logits: Tensor) -> Tensor:
    """Return the sigmoid of logits `(..., classes, B)`, those of each batch as they are alone.

    A CPU computes vectors of numbers, and rounds those that are left at the end of a tensor otherwise.
    """
    if logits.dim() == 2 or logits.device.type != "cpu":
        return logits.sigmoid()
    return torch.stack([one.sigmoid() for one in logits.flatten(0, -3)]).view_as(logits)


def losses(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the cross-entropy `(S, B)` of every sample of several batches `(S, B, classes)` of one size."""
    if multi_label(labels):
        targets = wanted(labels, smoothing, logits.shape[2])
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(2)
    chances = logits.transpose(1, 2).contiguous().log_softmax(1)  # of few classes that is done in a tenth of the time
    loss = -chances.gather(1, labels[:, None])[:, 0]
    return loss * (1 - smoothing) - chances.mean(1) * smoothing if smoothing else loss


def is_small(head: Head, samples: int) -> bool:
    """Return whether one core makes a step on so many samples in less time than it takes to wake the others."""
    return samples * head.linear.weight.numel() < _SMALL


@contextmanager
def threads_for(head: Head, samples: int) -> Iterator[None]:
    """Make the step of a small head on one core: to wake the others takes longer, and they have other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if is_small(head, samples) else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def head_of(network: nn.Module) -> Head | None:
    """Return what a network consists of if it is such a head, of not too many classes; None for any other network."""
    head = linear_of(network)
    return head if head is not None and head.linear.out_features <= _FEW else None


def linear_of(network: nn.Module) -> Head | None:
    """Return what a network consists of if it is a head, of any number of classes; None for any other network."""
    layers = [layer for layer in _chain(network) if type(layer) is not nn.Identity]  # as timm's Swin ends with
    *before, last = layers or [network]
    if type(last) is not nn.Linear:
        return None
    if not all(parameter.requires_grad for parameter in last.parameters()):
        return None
    state = [tensor for layer in before for tensor in (*layer.parameters(), *layer.buffers())]
    return None if state else Head(tuple(before), last)


def _chain(network: nn.Module) -> list[nn.Module]:
    """Return the layers that a network puts its input through one after the other; itself where it does more."""
    if type(network) is nn.Sequential:
        return [layer for child in network for layer in _chain(child)]
    if not isinstance(network, fx.GraphModule):
        return [network]
    before, *nodes, output = network.graph.nodes
    chain = []
    for node in nodes:
        if node.op != "call_module" or node.args != (before,):
            return [network]
        chain += _chain(network.get_submodule(str(node.target)))
        before = node
    return chain if output.args == (before,) else [network]
