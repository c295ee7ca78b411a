"""Exponential moving average of a network's weights, updated without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """The exponential moving average of a network's weights; its buffers are the network's latest.

    The numbers are those of `AveragedModel` with torch's moving average, which sends its count to the device at every
    step and copies buffers one by one.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Begin with a copy of `module`; `decay` in 0..1 is the share that an update keeps."""
        super().__init__(module)
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Set the average to `decay` times itself plus `1 - decay` times the weights; the first call copies these."""
        ours, theirs = ([*network.parameters()] for network in (self.module, module))
        if self.n_averaged == 0:
            _copy(ours, theirs)
        else:
            torch._foreach_lerp_(tuple(ours), tuple(theirs), 1 - self._decay)
        _copy(list(self.module.buffers()), list(module.buffers()))
        self.n_averaged += 1


def _copy(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Copy `theirs` into `ours`, all tensors of one dtype at once."""
    for dtype in {tensor.dtype for tensor in ours}:
        mine, new = ([tensor for tensor in several if tensor.dtype is dtype] for several in (ours, theirs))
        torch._foreach_copy_(mine, new)
