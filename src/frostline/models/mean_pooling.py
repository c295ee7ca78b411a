"""Activations of any stage, maps or tokens, become a vector for each image: embeddings, and what linear probes read."""

from __future__ import annotations

import torch
from torch import Tensor


def pooled(activations: Tensor) -> Tensor:
    """Return a vector `(B, D)` float32 for each image: the mean of its activations over all places or tokens.

    Maps `(B, C, H, W)` are square, as images are; so those are told apart that lie as `(B, H, W, C)`.
    """
    return activations.float().mean(_places(activations.shape)) if activations.dim() > 2 else activations.float()


def pooling(activations: Tensor) -> str:
    """Return in words what `pooled` does to activations."""
    told = {2: "as it is", 3: "mean over tokens"}
    return told.get(activations.dim(), "mean over space")


def _places(shape: torch.Size) -> tuple[int, ...]:
    if len(shape) == 3:
        return (1,)
    return (1, 2) if shape[1] == shape[2] != shape[3] else (2, 3)
