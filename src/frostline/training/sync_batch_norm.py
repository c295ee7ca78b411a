"""Compute a share of a batch as part of the whole: synchronised batch norm, and dropout masks of the whole batch.

All other layers compute each sample independently and need no synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules._functions import SyncBatchNorm
from torch.overrides import TorchFunctionMode

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


@dataclass(frozen=True)
class Share:
    """One process's share of a batch of `size` samples: `start` to `stop` (exclusive)."""

    start: int
    stop: int
    size: int

    @classmethod
    def of(cls, size: int, rank: int, ranks: int) -> Share:
        """Return the share of the process `rank` (from 0) of `ranks`; the whole batch if it has fewer samples."""
        if size < ranks:
            return cls(0, size, size)
        return cls(size * rank // ranks, size * (rank + 1) // ranks, size)

    @property
    def whole(self) -> bool:
        """Whether it is the whole batch."""
        return self.stop - self.start == self.size


class WholeBatch(TorchFunctionMode):
    """In the block, a network computes its share of a batch as it would within the whole batch.

    Batch norm in train mode uses mean and variance of the whole batch, as in torch's SyncBatchNorm; dropout and
    stochastic depth draw the masks of the whole batch. Dropout inside torch's fused attention is not covered.
    """

    def __init__(self, share: Share) -> None:
        """Treat the network's inputs as `share`."""
        super().__init__()
        self._share = share

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or its equivalent for a share of a batch."""
        kwargs = kwargs or {}
        if not self._share.whole:
            if func is F.batch_norm:
                return _batch_norm(*args, **kwargs)
            if func in _DROPOUTS:
                return self._dropout(func, *args, **kwargs)
            if func is Tensor.bernoulli_ and len(args[0]) == self._share.stop - self._share.start:
                return args[0].copy_(self._of_batch(args[0]).bernoulli_(*args[1:], **kwargs)[self._rows])
        return func(*args, **kwargs)

    @property
    def _rows(self) -> slice:
        return slice(self._share.start, self._share.stop)

    def _of_batch(self, share: Tensor) -> Tensor:
        """Return a tensor of ones for the whole batch, with the memory format of `share`."""
        shape = (self._share.size, *share.shape[1:])
        last = share.dim() == 4 and not share.is_contiguous()  # images and their maps
        layout = torch.channels_last if last else torch.contiguous_format
        return torch.empty(shape, dtype=share.dtype, device=share.device, memory_format=layout).fill_(1)

    def _dropout(
        self, func: Callable[..., Tensor], input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return input
        return input * func(self._of_batch(input.detach()), p, True)[self._rows]


class _Sum(torch.autograd.Function):
    """Differentiable sum of a tensor over all processes; the loss of each may depend on it."""

    @staticmethod
    def forward(context: object, tensor: Tensor) -> Tensor:
        found = tensor.clone()
        dist.all_reduce(found)
        return found

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        found = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(found)
        return found


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute `F.batch_norm`, in train mode with the statistics of all processes' inputs `(B, C, ...)`."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if input.is_cuda:
        options = (running_mean, running_var, eps, momentum, dist.group.WORLD, dist.get_world_size())
        found: Tensor = SyncBatchNorm.apply(input, weight, bias, *options)
        return found
    values, over = input.to(torch.promote_types(input.dtype, torch.float32)), [0, *range(2, input.dim())]
    shape = [1, -1] + [1] * (input.dim() - 2)
    sums = torch.cat([values.sum(over), values.new_full((1,), values.numel() / values.shape[1])])
    *_, count = total = _Sum.apply(sums)
    mean = total[:-1] / count
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(over)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
    normal = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normal = normal * weight.view(shape)
    return (normal if bias is None else normal + bias.view(shape)).to(input.dtype)
