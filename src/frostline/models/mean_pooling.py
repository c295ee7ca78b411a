"""Mean-pool the activations of any stage, maps or tokens, into one vector per image, for embeddings and probes."""

from __future__ import annotations

import torch
from torch import Tensor


def pooled(activations: Tensor) -> Tensor:
    """Return a vector `(B, D)` float32 for each image: the mean of its activations over all positions or tokens.

    Feature maps are square, as images are; this distinguishes `(B, C, H, W)` from `(B, H, W, C)`.
    """
    return activations.float().mean(_places(activations.shape)) if activations.dim() > 2 else activations.float()


def pooling(activations: Tensor) -> str:
    """Return in words how `pooled` reduces these activations."""
    told = {2: "as it is", 3: "mean over tokens"}
    return told.get(activations.dim(), "mean over space")


def _places(shape: torch.Size) -> tuple[int, ...]:
    if len(shape) == 3:
        return (1,)
    return (1, 2) if shape[1] == shape[2] != shape[3] else (2, 3)
