"""Mean-pool the activations of any stage, maps or tokens, into one vector per image, for embeddings and probes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frostline.models.stages import Structure


def pooled_axes(shape: torch.Size, module: nn.Module, structure: Structure) -> tuple[int, ...]:
    """Return the axes of the positions or tokens in activations `(B, ...)` of a network; none in vectors `(B, D)`.

    Feature maps are square, as images are, so the shape tells `(B, C, H, W)` from `(B, H, W, C)`. For as many channels
    as rows (Swin at 384 pixels) the network does: one that convolves only in its stem has channels last.
    """
    if len(shape) != 4:
        return tuple(range(1, len(shape) - 1))
    first = shape[2] == shape[3] and (shape[1] != shape[2] or _convolves(module, structure))
    return (2, 3) if first else (1, 2)


def _convolves(module: nn.Module, structure: Structure) -> bool:
    """Return whether a network has a convolution above its stem."""
    layers = (path for path, part in module.named_modules() if isinstance(part, nn.Conv2d))
    return any(structure.stage_of(path) != structure.stages[0] for path in layers)


def pooled(activations: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return a vector `(B, D)` float32 for each image: the mean of its activations over `axes`."""
    return activations.float().mean(axes) if axes else activations.float()


def in_words(axes: tuple[int, ...]) -> str:
    """Return how `pooled` reduces activations."""
    return ("as it is", "mean over tokens", "mean over space")[len(axes)]
