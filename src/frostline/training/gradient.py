"""Loss and gradient of one batch: by autograd, or in closed form if only one linear layer learns.

A step of a head on features is so small that launching its operations dominates its time: the closed form needs half
of them, and no autograd graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from frostline.core import machine
from frostline.core.labels import multi_label
from frostline.training.criterion import CROSS_ENTROPY, Criterion, Targets, target_probabilities

_FEW = 2_000  # classes whose table of targets takes 16 MB; with more, launching no longer dominates the time
_SMALL = 2_000_000  # products of a matrix multiplication that one core computes in some 50 microseconds


def by_autograd(
    network: nn.Module,
    inputs: Tensor,
    targets: Targets,
    autocast: torch.dtype | None,
    criterion: Criterion = CROSS_ENTROPY,
) -> tuple[Tensor, Tensor]:
    """Return loss and logits `(B, classes)` of a batch, and add its gradient to the parameters' gradients."""
    with machine.autocast(inputs.device, autocast):
        logits = network(inputs)
    loss = criterion(logits.float(), targets)
    loss.backward()
    return loss.detach(), logits.detach()


@dataclass(frozen=True)
class Head:
    """A linear layer that learns, after layers without parameters or buffers, such as a dropout."""

    before: tuple[nn.Module, ...]
    linear: nn.Linear


@torch.no_grad()
def of_head(head: Head, inputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the logits `(B, classes)` of a batch, and set the layer's gradient to that of the mean cross-entropy.

    Labels are smoothed by `smoothing` in 0..1.
    """
    for layer in head.before:
        inputs = layer(inputs)
    linear = head.linear
    logits = products(linear.weight, linear.bias, inputs)
    targets = target_probabilities(labels, smoothing, linear.out_features).t()
    error = of_logits(logits, targets, several=multi_label(labels))
    linear.weight.grad = error @ inputs
    if linear.bias is not None:
        linear.bias.grad = error.sum(1)
    return logits.t()


def products(weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    """Return the logits `(classes, B)` of a layer `(classes, D)` for inputs `(B, D)`; all may be batched, `(G, ...)`.

    With samples last, operations over classes are vectorised even for few classes, and stacked layers act as one layer.
    """
    columns = inputs.transpose(-1, -2)
    if bias is None:
        return weight @ columns
    return (torch.addmm if weight.dim() == 2 else torch.baddbmm)(bias[..., None], weight, columns)


def of_logits(logits: Tensor, targets: Tensor, *, several: bool) -> Tensor:
    """Return the gradient of the mean cross-entropy with respect to logits `(..., classes, B)`, for `targets` alike.

    It is `(softmax(logits) - targets) / B` (C. Bishop, Pattern Recognition and Machine Learning, eq. 4.109). With
    `several` (multi-label), sigmoid replaces softmax and the mean is over classes, too.
    """
    classes, samples = logits.shape[-2:]
    if several:
        return _sigmoid(logits).sub_(targets).div_(samples * classes)
    return logits.softmax(-2).sub_(targets).div_(samples)


def _sigmoid(logits: Tensor) -> Tensor:
    """Return the sigmoid of logits `(..., classes, B)`, with the bits of each batch computed alone.

    CPU kernels process vectors, and round the remaining numbers at the end of a tensor differently.
    """
    if logits.dim() == 2 or logits.device.type != "cpu":
        return logits.sigmoid()
    return torch.stack([one.sigmoid() for one in logits.flatten(0, -3)]).view_as(logits)


def losses(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the cross-entropy `(S, B)` of each sample in a stack of batches `(S, B, classes)`."""
    if multi_label(labels):
        targets = target_probabilities(labels, smoothing, logits.shape[2])
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(2)
    chances = logits.transpose(1, 2).contiguous().log_softmax(1)  # with few classes, this takes a tenth of the time
    loss = -chances.gather(1, labels[:, None])[:, 0]
    return loss * (1 - smoothing) - chances.mean(1) * smoothing if smoothing else loss


def is_small(head: Head, samples: int) -> bool:
    """Return whether one core computes a step on `samples` faster than it takes to wake the others."""
    return samples * head.linear.weight.numel() < _SMALL


@contextmanager
def threads_for(head: Head, samples: int) -> Iterator[None]:
    """Use one core in the block if the head is small: waking the others takes longer, and they have other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if is_small(head, samples) else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def head_of(network: nn.Module) -> Head | None:
    """Return the network as a head if it is one with at most `_FEW` classes; None for any other network."""
    head = linear_of(network)
    return head if head is not None and head.linear.out_features <= _FEW else None


def linear_of(network: nn.Module) -> Head | None:
    """Return the network as a head if it is one, with any number of classes; None for any other network."""
    layers = [layer for layer in _chain(network) if type(layer) is not nn.Identity]  # timm's Swin ends with one
    *before, last = layers or [network]
    if type(last) is not nn.Linear:
        return None
    if not all(parameter.requires_grad for parameter in last.parameters()):
        return None
    state = [tensor for layer in before for tensor in (*layer.parameters(), *layer.buffers())]
    return None if state else Head(tuple(before), last)


def _chain(network: nn.Module) -> list[nn.Module]:
    """Return the layers of a sequential network; the network itself if it is not sequential."""
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
