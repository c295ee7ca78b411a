"""Adaptive average pooling with a deterministic gradient, which torch's lacks on CUDA.

On CUDA, `adaptive_avg_pool2d` has no deterministic gradient, even if input and output have the same size
(https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html). Of torchvision's networks,
AlexNet and VGG use it; for pooling to one pixel, as in the others, torch computes a mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn


class AveragePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` with a deterministic gradient on every device; outputs are the same up to rounding."""

    def __init__(self, size: tuple[int, int]) -> None:
        """Pool to `size`, height and width."""
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        """Return `(B, C, *size)` for `(B, C, H, W)`."""
        return average_pool(maps, self.size)


def average_pool(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `(B, C, *size)` for `(B, C, H, W)`: means over grid cells, which overlap if the sizes do not divide."""
    if maps.shape[2:] == size:
        return maps
    if maps.is_meta:  # which autocast refuses
        return maps.new_empty(*maps.shape[:2], *size)
    with torch.autocast(maps.device.type, enabled=False):  # bfloat16 cannot hold weights such as 1/3
        down, across = (_weights(*lengths, maps.device) for lengths in zip(maps.shape[2:], size, strict=True))
        return (down @ maps.float() @ across.t()).to(maps.dtype)


fx.wrap("average_pool")  # one node in traced graphs, since its operations depend on shapes


def _weights(length: int, cells: int, device: torch.device) -> Tensor:
    """Return `(cells, length)` float32 on `device`: the weight of each position in the mean of each cell."""
    cell, place = torch.arange(cells, device=device)[:, None], torch.arange(length, device=device)
    within = (place >= cell * length // cells) & (place < -(-(cell + 1) * length // cells))
    return within / within.sum(1, keepdim=True)


def replace_pools(module: nn.Module) -> None:
    """Replace every adaptive average pooling to more than one pixel by `AveragePool`, in place."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                height, width = size if isinstance(size, tuple) else (size, size)
                if height and width and (height, width) != (1, 1):
                    setattr(parent, name, AveragePool((height, width)))
