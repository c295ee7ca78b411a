"""Average pooling to a given size that has the same gradient in every run, which torch's lacks on CUDA.

torch lists `adaptive_avg_pool2d` among what has no deterministic gradient there, also where nothing is to be pooled
(https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html). Of torchvision's networks
AlexNet and VGG pool so; to a single pixel, as the others do, torch takes a mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn


class AveragePool(nn.Module):
    """`nn.AdaptiveAvgPool2d`: the same output but for rounding, and a gradient that any device has."""

    def __init__(self, size: tuple[int, int]) -> None:
        """Pool to `size`, height and width."""
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        """Return `(B, C, *size)` of `(B, C, H, W)`."""
        return average_pool(maps, self.size)


def average_pool(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `(B, C, *size)` of `(B, C, H, W)`: the mean over the cells of a grid, which overlap where need be."""
    if maps.shape[2:] == size:
        return maps
    with torch.autocast(maps.device.type, enabled=False):  # weights of thirds are no bfloat16
        down, across = (_weights(*lengths, maps.device) for lengths in zip(maps.shape[2:], size, strict=True))
        return (down @ maps.float() @ across.t()).to(maps.dtype)


fx.wrap("average_pool")  # a graph keeps it as one step, since what it does depends on shapes


def _weights(length: int, cells: int, device: torch.device) -> Tensor:
    """Return `(cells, length)` float32: what each place gives to each cell, made where it is needed."""
    cell, place = torch.arange(cells, device=device)[:, None], torch.arange(length, device=device)
    within = (place >= cell * length // cells) & (place < -(-(cell + 1) * length // cells))
    return within / within.sum(1, keepdim=True)


def replace_pools(module: nn.Module) -> None:
    """Let the network pool so wherever it pools to more than a pixel."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                height, width = size if isinstance(size, tuple) else (size, size)
                if height and width and (height, width) != (1, 1):
                    setattr(parent, name, AveragePool((height, width)))
