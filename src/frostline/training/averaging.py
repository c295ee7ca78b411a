"""Exponential moving average of a network's weights, updated without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


@torch.no_grad()
def update(average: AveragedModel, module: nn.Module, decay: float) -> None:
    """Set the average to `decay` times itself plus `1 - decay` times the weights; the first call copies the weights.

    Buffers are copied. The numbers are those of `AveragedModel.update_parameters` with torch's moving average, which
    sends its count to the device at every step and copies buffers one by one.
    """
    ours, theirs = ([*network.parameters()] for network in (average.module, module))
    if average.n_averaged == 0:
        _copy(ours, theirs)
    else:
        torch._foreach_lerp_(tuple(ours), tuple(theirs), 1 - decay)
    _copy(list(average.module.buffers()), list(module.buffers()))
    average.n_averaged += 1


def _copy(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Copy `theirs` into `ours`, all tensors of one dtype at once."""
    for dtype in {tensor.dtype for tensor in ours}:
        mine, new = ([tensor for tensor in several if tensor.dtype is dtype] for several in (ours, theirs))
        torch._foreach_copy_(mine, new)
